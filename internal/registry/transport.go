package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/anyarch/anyarch/internal/trace"
)

// reach is how far away an address is. A registry may send its client to
// addresses that are as near as its own or farther, else it could make this
// machine talk to what only this machine can reach.
type reach int32

const (
	public    reach = iota
	private         // RFC 1918, RFC 4193, RFC 6598 and everything else that isn't routed
	loopback        // this machine
	linkLocal       // RFC 3927, where clouds keep their metadata services
	reaches
)

func reachOf(ip netip.Addr) reach {
	ip = ip.Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case ip.IsLoopback(), ip.IsUnspecified():
		return loopback
	case ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast(), ip.IsInterfaceLocalMulticast(), ip == awsMetadata:
		return linkLocal
	case ip.IsPrivate(), ip.IsMulticast():
		return private
	}
	for _, p := range unrouted {
		if p.Contains(ip) {
			return private
		}
	}
	return public
}

var (
	nat64       = netip.MustParsePrefix("64:ff9b::/96")
	awsMetadata = netip.MustParseAddr("fd00:ec2::254")
	unrouted    = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fec0::/10"),
	}
)

// mayReach reports whether a registry at a distance of from may send its client
// to an address at a distance of to.
func mayReach(from, to reach) bool {
	switch to {
	case public:
		return true
	case private:
		return from != public
	}
	return from == to
}

// isLoopbackName reports whether a host name means this machine without asking
// a resolver.
func isLoopbackName(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// guardError says that a connection was not made.
type guardError struct{ address string }

func (e *guardError) Error() string {
	return e.address + " isn't an address that this registry may send its clients to"
}

// transports are the connections of a client. Connections to registries that
// the user has named and connections to where those registries lead are kept
// apart, because a connection that one may use the other may not.
type transports struct {
	base http.RoundTripper

	named    func() http.RoundTripper
	insecure func() http.RoundTripper
	led      [reaches]func() http.RoundTripper // by the reach of the registry that led there

	reached sync.Map // host:port → reach of the last connection to a named host
	proxies sync.Map // host:port of proxies in use
}

func newTransports(base http.RoundTripper) *transports {
	t := &transports{base: base}
	t.named = sync.OnceValue(func() http.RoundTripper { return t.new(nil, t.dialNamed) })
	t.insecure = sync.OnceValue(func() http.RoundTripper { return t.new(insecureTLS(), t.dialNamed) })
	for from := range reaches {
		t.led[from] = sync.OnceValue(func() http.RoundTripper {
			return t.new(nil, func(ctx context.Context, network, addr string) (net.Conn, error) {
				return t.dialLed(ctx, network, addr, from)
			})
		})
	}
	return t
}

func (t *transports) new(config *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) http.RoundTripper {
	if t.base != nil {
		return t.base
	}
	return &http.Transport{
		Proxy:                  t.proxy,
		DialContext:            dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    15 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // blobs are compressed, and hashed as they are
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

func (t *transports) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		}
		t.proxies.Store(net.JoinHostPort(u.Hostname(), port), true)
	}
	return u, err
}

func dialer() *net.Dialer {
	return &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
}

func (t *transports) dialNamed(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := dialer().DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		// A name that has once been public stays so: it may have been made to
		// resolve to something nearer in the meantime.
		got := reachOf(ap.Addr())
		if old, ok := t.reached.Load(addr); !ok || old.(reach) != public {
			t.reached.Store(addr, got)
		}
	}
	return conn, nil
}

func (t *transports) dialLed(ctx context.Context, network, addr string, from reach) (net.Conn, error) {
	d := dialer()
	if _, ok := t.proxies.Load(addr); !ok {
		// The address is checked when it is dialled, after resolving: no name,
		// spelling or change of mind of a resolver gets past that.
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !mayReach(from, reachOf(ap.Addr())) {
				return &guardError{address}
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, addr)
}

// of gives what carries a request of h to u, and refuses what can be refused
// before dialling.
func (t *transports) of(h *host, u *url.URL) (http.RoundTripper, error) {
	if h.owns(u) {
		if h.insecure {
			return t.insecure(), nil
		}
		return t.named(), nil
	}
	from := t.reachOf(h, u.Scheme)
	// Behind a proxy the name is all there is to check.
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !mayReach(from, reachOf(ip)) {
		return nil, &guardError{u.Host}
	}
	return t.led[from](), nil
}

func (t *transports) reachOf(h *host, scheme string) reach {
	if ip, err := netip.ParseAddr(hostname(h.addr)); err == nil {
		return reachOf(ip)
	}
	for _, port := range []string{"443", "80"} {
		addr := h.addr
		if hostname(addr) == addr {
			addr = net.JoinHostPort(addr, port)
		}
		if r, ok := t.reached.Load(addr); ok {
			return r.(reach)
		}
	}
	return public
}

// errIdle is the cause when a peer stayed silent for too long.
var errIdle = errors.New("no byte came or went for too long")

// watchdog ends an exchange in which nothing moves. It is armed while the peer
// has to act and rests while this side does.
type watchdog struct {
	idle time.Duration

	mu       sync.Mutex // guards timer against an upload that ends late
	timer    *time.Timer
	answered bool
}

func watch(idle time.Duration, cancel context.CancelCauseFunc) *watchdog {
	return &watchdog{idle: idle, timer: time.AfterFunc(idle, func() { cancel(errIdle) })}
}

func (w *watchdog) arm()  { w.timer.Reset(w.idle) }
func (w *watchdog) rest() { w.timer.Stop() }

// sending is called around every read of an upload; wait is 0 while this side
// reads from its disk. The transport may read on after the peer has answered.
func (w *watchdog) sending(wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.answered:
	case wait == 0:
		w.timer.Stop()
	default:
		w.timer.Reset(wait)
	}
}

func (w *watchdog) answer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = true
	w.timer.Stop()
}

// send makes one HTTP exchange under a watchdog. The body of the response must
// be closed; reading it is watched too. Errors are a *failure, or ctx's own.
func (h *host) send(ctx context.Context, q *request, u *url.URL, authorization string) (*http.Response, error) {
	carrier, err := h.client.transport.of(h, u)
	if err != nil {
		return nil, &failure{host: u.Host, err: err}
	}
	watched, cancel := context.WithCancelCause(ctx)
	dog := watch(h.client.idle, cancel)
	req := (&http.Request{
		Method: q.method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: q.header.Clone(),
	}).WithContext(watched)
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", h.client.agent)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if q.body != nil {
		body, err := q.body()
		if err != nil {
			dog.rest()
			cancel(nil)
			return nil, err
		}
		req.ContentLength = q.length
		req.Body = &watchedUpload{ReadCloser: body, dog: dog, left: q.length}
		if q.length == 0 {
			body.Close()
			req.Body = http.NoBody
		}
	}
	// Not the query: it may hold what lets its bearer in.
	end := trace.Start(ctx, trace.Request, q.method+" "+u.Path)
	resp, err := carrier.RoundTrip(req)
	dog.answer()
	if err != nil {
		end("host", u.Host, "error", "no answer")
	} else {
		end("host", u.Host, "status", strconv.Itoa(resp.StatusCode))
	}
	if err != nil {
		if context.Cause(watched) == errIdle {
			err = fmt.Errorf("%w (%v)", errIdle, h.client.idle)
		}
		cancel(nil)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, networkFailure(u.Host, err)
	}
	if h.owns(u) {
		h.answered.Store(true)
	}
	if resp.Request == nil { // a transport of a test
		resp.Request = req
	}
	resp.Body = &watchedDownload{ReadCloser: resp.Body, dog: dog, ctx: watched, cancel: cancel, host: u.Host}
	return resp, nil
}

// networkFailure describes an exchange that had no answer.
func networkFailure(host string, err error) *failure {
	f := &failure{host: host, err: err}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		f.dial = true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		f.dial = true
	}
	return f
}

// commitPerByte is added to the patience with a registry after an upload: it
// may have to hash the blob or copy it elsewhere before it answers.
const commitPerByte = time.Second / (8 << 20)

type watchedUpload struct {
	io.ReadCloser
	dog        *watchdog
	left, sent int64
}

func (b *watchedUpload) Read(p []byte) (int, error) {
	b.dog.sending(0)
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.sent += int64(n)
	wait := b.dog.idle
	if b.left <= 0 {
		wait += time.Duration(b.sent) * commitPerByte
	}
	b.dog.sending(wait)
	return n, err
}

type watchedDownload struct {
	io.ReadCloser
	dog    *watchdog
	ctx    context.Context
	cancel context.CancelCauseFunc
	host   string
}

func (b *watchedDownload) Read(p []byte) (int, error) {
	b.dog.arm()
	n, err := b.ReadCloser.Read(p)
	b.dog.rest()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errIdle {
		err = fmt.Errorf("%w (%v)", errIdle, b.dog.idle)
	}
	return n, err
}

func (b *watchedDownload) Close() error {
	b.dog.rest()
	b.cancel(nil)
	return b.ReadCloser.Close()
}
