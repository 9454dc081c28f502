package serve

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// DefaultAddr is where a registry listens unless told otherwise.
const DefaultAddr = "127.0.0.1:5000"

// grace is how long requests may go on after the registry was told to end.
const grace = 1500 * time.Millisecond

// Listen opens a TCP address, host:port; empty means [DefaultAddr], and port 0
// any free one. An address that other machines reach is a [refusal.Error] with
// code PA502 unless Options.AllowRemote is set, one that is in use has PA605.
func (s *Server) Listen(ctx context.Context, addr string) (net.Listener, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &refusal.Error{
			Code: "PA502", Kind: refusal.Usage, Place: "--addr " + addr, Summary: "not a host and a port",
			Seen: []string{err.Error()}, Fix: []string{"--addr " + DefaultAddr}, Err: err,
		}
	}
	if !s.options.AllowRemote {
		if err := onlyLoopback(ctx, addr, host); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", addr)
	if err == nil {
		return l, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	const inUseOnWindows = syscall.Errno(10048) // WSAEADDRINUSE
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, inUseOnWindows) {
		return nil, &refusal.Error{
			Code: "PA605", Place: addr, Summary: "the address is in use", Fix: []string{"--addr 127.0.0.1:0"}, Err: err,
		}
	}
	return nil, &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--addr " + addr, Summary: "can't listen there",
		Seen: []string{err.Error()}, Fix: []string{"--addr " + DefaultAddr}, Err: err,
	}
}

// onlyLoopback refuses a host that isn't, or doesn't only mean, this machine.
func onlyLoopback(ctx context.Context, addr, host string) error {
	seen := "the host is empty, which means every address of this machine"
	if host != "" {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return &refusal.Error{
				Code: "PA502", Kind: refusal.Usage, Place: "--addr " + addr, Summary: "no such host",
				Seen: []string{err.Error()}, Fix: []string{"--addr " + DefaultAddr}, Err: err,
			}
		}
		seen = ""
		for _, a := range addresses {
			if !a.Unmap().IsLoopback() {
				seen = a.String() + " isn't a loopback address"
			}
		}
	}
	if seen == "" {
		return nil
	}
	return &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--addr " + addr,
		Summary: "other machines would reach this registry, which lets everybody push",
		Seen:    []string{seen}, Fix: []string{"--addr " + DefaultAddr, "--allow-remote"},
	}
}

// Serve answers requests that come in on l until ctx ends or l fails, and
// closes l and the server. Requests that are under way when ctx ends have a
// moment left. The end of ctx is no error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.guard(l.Addr()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(logWriter{s.log}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	defer s.Close()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(limit) != nil {
			server.Close() //nolint:errcheck // what is left is cut
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-ended
		return nil
	}
	server.Close() //nolint:errcheck // the listener failed already
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// Run is Listen and Serve, and logs where it listens.
func (s *Server) Run(ctx context.Context, addr string) error {
	l, err := s.Listen(ctx, addr)
	if err != nil {
		return err
	}
	s.log.Note("", "", progress.Serve, fmt.Sprintf("serving %s on http://%s", s.root, l.Addr()))
	return s.Serve(ctx, l)
}

// guard keeps web pages out. A browser on this machine reaches loopback
// addresses on behalf of any page: directly, which Origin and Sec-Fetch-Site
// betray, or after the page's host name was made to resolve to one (DNS
// rebinding), which Host betrays.
func (s *Server) guard(addr net.Addr) http.Handler {
	deny := func(why string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.fail(w, r, &problem{status: http.StatusForbidden, code: codeDenied, message: why})
		})
	}
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(deny("web pages may not use this registry"))
	inner := origin.Handler(s)
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return inner
	}
	foreign := deny("this registry listens on a loopback address, and the Host of the request is another")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if localHost(r.Host) {
			inner.ServeHTTP(w, r)
		} else {
			foreign.ServeHTTP(w, r)
		}
	})
}

// localHost reports whether a Host header is one that no public name server
// can answer for: an address, a name without dots, or a name that means this
// machine.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	switch {
	case !strings.Contains(host, "."), net.ParseIP(host) != nil:
		return true
	case host == "host.docker.internal", host == "host.containers.internal":
		return true // what containers call the machine that they are on
	}
	return strings.HasSuffix(host, ".localhost")
}

// logWriter hands what net/http has to say to the log.
type logWriter struct{ log progress.Sink }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("", "", strings.TrimSpace(string(p)))
	return len(p), nil
}
