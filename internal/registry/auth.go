package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/anyarch/anyarch/internal/refusal"
)

// token is an authorization for one set of scopes.
type token struct {
	header  string // of Authorization; empty for anonymous access without tokens
	expires time.Time
	// asked are the scopes that the registry wants besides those that it was
	// asked for.
	asked string
}

// reach makes sure that the host is there, and knows how it is spoken to. The
// first call asks /v2/ (distribution-spec v1.1.1, "Determining Support").
func (h *host) reach(ctx context.Context) (*contact, error) {
	if c := h.contact.Load(); c != nil {
		return c, nil
	}
	return h.contacts.do(ctx, "", func() (*contact, error) {
		if c := h.contact.Load(); c != nil {
			return c, nil
		}
		patience := retry{host: h, step: "ask for /v2/"}
		for {
			c, err := h.ping(ctx)
			if err == nil {
				h.contact.Store(c)
				return c, nil
			}
			if err := patience.again(ctx, err); err != nil {
				return nil, err
			}
		}
	})
}

func (h *host) ping(ctx context.Context) (*contact, error) {
	var options []name.Option
	if h.mayPlain {
		options = append(options, name.Insecure)
	}
	reg, err := name.NewRegistry(h.addr, options...)
	if err != nil {
		return nil, err
	}
	probe := &carrier{host: h, ping: true}
	challenge, err := transport.Ping(ctx, reg, probe)
	if err == nil {
		return &contact{scheme: scheme(challenge.Insecure), challenge: challenge}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	terr, ok := errors.AsType[*transport.Error](err)
	if ok && !temporary(terr.StatusCode) && terr.Request != nil && (terr.Request.URL.Scheme == "https" || probe.leavesPlain()) {
		// Not everything that serves images answers /v2/; what it does want is
		// seen when it is asked for something.
		return &contact{scheme: terr.Request.URL.Scheme, challenge: &transport.Challenge{}}, nil
	}
	return nil, probe.failure(err)
}

func scheme(insecure bool) string {
	if insecure {
		return "http"
	}
	return "https"
}

// authorize gives the authorization for scopes. fresh says that it was made for
// this call, so that being refused isn't a matter of its age. The usual case
// takes no lock.
func (h *host) authorize(ctx context.Context, scopes string) (tok *token, fresh bool, err error) {
	var asked string
	if t, ok := h.tokens.Load(scopes); ok {
		tok := t.(*token)
		if tok.expires.IsZero() || h.client.clock.now().Before(tok.expires) {
			return tok, false, nil
		}
		asked = tok.asked
	}
	tok, err = h.grants.do(ctx, scopes, func() (*token, error) {
		if t, ok := h.tokens.Load(scopes); ok {
			tok := t.(*token)
			asked = tok.asked
			if tok.expires.IsZero() || h.client.clock.now().Before(tok.expires) {
				return tok, nil
			}
		}
		fresh = true
		tok, err := h.grant(ctx, scopes, asked)
		if err == nil {
			h.tokens.Store(scopes, tok)
		}
		return tok, err
	})
	return tok, fresh, err
}

// challenged looks at a 401 and reports whether asking again, with another
// token, can help.
func (h *host) challenged(resp *http.Response, scopes string, used *token, fresh bool) bool {
	challenge := readChallenge(resp)
	if challenge == nil {
		return false
	}
	old := h.contact.Load()
	challenge.Insecure = old.scheme == "http"
	known := strings.EqualFold(old.challenge.Scheme, challenge.Scheme) &&
		old.challenge.Parameters["realm"] == challenge.Parameters["realm"] &&
		old.challenge.Parameters["service"] == challenge.Parameters["service"]
	if !known && challenge.Scheme != "" {
		h.contact.CompareAndSwap(old, &contact{scheme: old.scheme, challenge: challenge})
	}
	asked := used.asked
	for _, scope := range strings.Fields(challenge.Parameters["scope"]) {
		if !slices.Contains(strings.Fields(scopes+" "+asked), scope) {
			asked = strings.TrimSpace(asked + " " + scope)
		}
	}
	if known && asked == used.asked && (fresh || used.expires.IsZero()) {
		return false
	}
	// One caller replaces the token that all of them have used.
	h.tokens.CompareAndSwap(scopes, used, &token{expires: time.Unix(1, 0), asked: asked})
	return true
}

// readChallenge gives the challenge of a 401, nil if there is none. The parser
// is ggcr's, which wants it to be the answer to a ping.
func readChallenge(resp *http.Response) *transport.Challenge {
	reg, err := name.NewRegistry("registry.invalid")
	if err != nil {
		return nil
	}
	header := resp.Header
	challenge, err := transport.Ping(context.Background(), reg, roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusUnauthorized, Header: header, Body: http.NoBody, Request: req}, nil
	}))
	if err != nil {
		return nil
	}
	return challenge
}

// visit gets an anonymous token for a host that the registry led to and that
// has answered 401, as some registries lead to others. It is empty if there is
// none to be had.
func (h *host) visit(ctx context.Context, resp *http.Response) string {
	challenge := readChallenge(resp)
	if challenge == nil || !strings.EqualFold(challenge.Scheme, "bearer") {
		return ""
	}
	u := resp.Request.URL
	scope := challenge.Parameters["scope"]
	key := u.Host + " " + scope
	if t, ok := h.visits.Load(key); ok && h.client.clock.now().Before(t.(*token).expires) {
		return t.(*token).header
	}
	c := &contact{scheme: u.Scheme, challenge: challenge}
	tok, err := h.exchange(ctx, c, credential{}, strings.Fields(scope))
	if err != nil {
		return ""
	}
	h.visits.Store(key, tok)
	return tok.header
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// grant gets an authorization as the host's challenge demands: none, Basic, or
// a token from its token server.
func (h *host) grant(ctx context.Context, scopes, asked string) (*token, error) {
	c := h.contact.Load()
	kind := strings.ToLower(c.challenge.Scheme)
	if kind == "" {
		return &token{asked: asked}, nil
	}
	cred := h.client.keychain.find(ctx, h.name, scopePath(scopes))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if cred.auth.RegistryToken != "" {
		return &token{header: "Bearer " + cred.auth.RegistryToken, asked: asked}, nil
	}
	switch kind {
	case "basic":
		if cred.anonymous() {
			return &token{asked: asked}, nil
		}
		return &token{header: "Basic " + basicSecret(cred.auth.Username, cred.auth.Password), asked: asked}, nil
	case "bearer":
	default:
		return nil, &refusal.Error{
			Code: "PA401", Kind: refusal.Auth, Place: h.name, Summary: h.name + " wants a kind of login that isn't supported",
			Seen: []string{"it asks for " + clean(c.challenge.Scheme) + "; Basic and Bearer are known"},
		}
	}
	patience := retry{host: h, step: "get a token for " + scopes}
	for {
		tok, err := h.exchange(ctx, c, cred, strings.Fields(asked+" "+scopes))
		if err == nil {
			tok.asked = asked
			return tok, nil
		}
		if err := patience.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

// scopePath is the repository in scopes, for credentials of parts of a host.
func scopePath(scopes string) string {
	rest, ok := strings.CutPrefix(scopes, "repository:")
	if !ok {
		return ""
	}
	path, _, _ := strings.Cut(rest, ":")
	return path
}

// exchange asks the token server once (distribution's token specification).
func (h *host) exchange(ctx context.Context, c *contact, cred credential, scopes []string) (*token, error) {
	realm, err := url.Parse(c.challenge.Parameters["realm"])
	if err != nil || realm.Host == "" || (realm.Scheme != "https" && realm.Scheme != "http") {
		return nil, &failure{host: h.addr, err: &policyError{"it names no token server that is an https URL"}}
	}
	if realm.Scheme == "http" && c.scheme == "https" {
		return nil, &failure{host: h.addr, err: &policyError{"its token server, at " + realm.Host + ", speaks plain http"}}
	}
	withheld := !cred.anonymous() && !h.trusts(realm)
	auth := authn.Anonymous
	if !cred.anonymous() && !withheld {
		auth = authn.FromConfig(cred.auth)
	}
	// ggcr checks the address of the realm by its spelling, unless it is the
	// registry's own. Ours is checked when it is dialled, so it may be told so.
	reg, err := name.NewRegistry(realm.Host, name.Insecure)
	if err != nil {
		return nil, &failure{host: h.addr, err: &policyError{"it names no token server that is an https URL"}}
	}
	challenge := *c.challenge
	challenge.Insecure = c.scheme == "http"
	wire := &carrier{host: h}
	got, err := transport.Exchange(ctx, reg, auth, wire, scopes, &challenge)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		terr, ok := errors.AsType[*transport.Error](err)
		if ok && (terr.StatusCode == http.StatusUnauthorized || terr.StatusCode == http.StatusForbidden || terr.StatusCode == http.StatusBadRequest && auth != authn.Anonymous) {
			f := &failure{host: realm.Host, status: http.StatusUnauthorized}
			if len(terr.Errors) > 0 {
				f.code, f.message = string(terr.Errors[0].Code), terr.Errors[0].Message
			}
			return nil, h.unauthorized(f, cred, "get a token for "+strings.Join(scopes, " "), withheld, realm.Host)
		}
		if ok && !temporary(terr.StatusCode) {
			return nil, &failure{host: h.addr, err: &policyError{fmt.Sprintf("its token server, at %s, answers %d %s", realm.Host, terr.StatusCode, http.StatusText(terr.StatusCode))}}
		}
		return nil, wire.failure(err)
	}
	value := got.Token
	if got.AccessToken != "" {
		value = got.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, &failure{host: realm.Host, err: &policyError{"its answer has no token that can be used"}}
	}
	// The time of expiry is counted on this clock from the time of arrival, so
	// that the clocks needn't agree. 60 s is the specification's default.
	lifetime := time.Duration(max(got.ExpiresIn, 60)) * time.Second
	return &token{header: "Bearer " + value, expires: h.client.clock.now().Add(lifetime - lifetime/10)}, nil
}

// trusts reports whether a token server may see the registry's credentials: it
// is the registry, of the registry's domain, or known to belong to it.
func (h *host) trusts(realm *url.URL) bool {
	own, other := strings.ToLower(hostname(h.addr)), strings.ToLower(realm.Hostname())
	if h.client.trusted[other] || h.client.trusted[strings.ToLower(realm.Host)] {
		return true
	}
	return sameSite(own, other)
}

// siblings are registries whose token server is of another domain.
var siblings = map[string]string{"scw.cloud": "api.scaleway.com", "dhi.io": "auth.docker.io"}

func sameSite(own, other string) bool {
	if own == other || isLoopbackName(own) && isLoopbackName(other) {
		return true
	}
	for suffix, sibling := range siblings {
		if other == sibling && (own == suffix || strings.HasSuffix(own, "."+suffix)) {
			return true
		}
	}
	if numeric(own) || numeric(other) {
		return false
	}
	a, b := strings.Split(own, "."), strings.Split(other, ".")
	shared := 0
	for shared < len(a) && shared < len(b) && a[len(a)-1-shared] == b[len(b)-1-shared] {
		shared++
	}
	if shared < 2 {
		return false
	}
	// Strangers share co.uk and the like.
	return shared > 2 || len(a[len(a)-1]) > 2 || !slices.Contains(registries, a[len(a)-2])
}

// registries are second levels under which countries let anybody register.
var registries = []string{"ac", "co", "com", "edu", "go", "gob", "gov", "gv", "ne", "net", "nom", "or", "org"}

// numeric reports whether a host is an address in any spelling, which no domain
// is shared with.
func numeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return strings.ContainsRune(host, ':') || last == "" || (last[0] >= '0' && last[0] <= '9')
}

// carrier carries ggcr's requests for authentication under this package's rules
// and remembers why they failed, which ggcr's errors don't tell.
type carrier struct {
	host *host
	ping bool

	mu     sync.Mutex
	failed map[string]*failure // by scheme
}

func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.roundTrip(req)
	f, _ := err.(*failure)
	if err == nil && temporary(resp.StatusCode) {
		f = c.host.failed(resp)
		err = f
	}
	if f != nil {
		c.remember(req.URL, f)
	}
	if err != nil {
		return nil, err
	}
	resp.Body = &carried{Reader: io.LimitReader(resp.Body, maxErrorBody), Closer: resp.Body, carrier: c, from: req.URL}
	return resp, nil
}

func (c *carrier) remember(u *url.URL, f *failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = map[string]*failure{}
	}
	c.failed[u.Scheme] = f
}

// carried is the body of an answer, bounded. That it breaks is remembered.
type carried struct {
	io.Reader
	io.Closer
	carrier *carrier
	from    *url.URL
}

func (b *carried) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.carrier.remember(b.from, networkFailure(b.from.Host, err))
	}
	return n, err
}

func (c *carrier) roundTrip(req *http.Request) (*http.Response, error) {
	h := c.host
	hops := 0
	for r := req.Response; r != nil && r.Request != nil; r = r.Request.Response {
		hops++
		if r.Request.URL.Scheme == "https" && req.URL.Scheme == "http" {
			return nil, &failure{host: h.addr, err: &policyError{"it leads from https to plain http, at " + req.URL.Host}}
		}
	}
	if hops > maxRedirects {
		return nil, &failure{host: h.addr, err: &policyError{"it redirects more than 5 times"}}
	}
	if c.ping {
		switch {
		case req.URL.Scheme == "http" && !h.mayPlain:
			return nil, &failure{host: h.addr, err: errPlain}
		case req.URL.Scheme == "https" && h.plainOnly:
			return nil, &failure{host: h.addr, err: errPlainOnly}
		}
	}
	if err := h.client.gate(req.URL.Host).pass(req.Context(), h.client.clock); err != nil {
		return nil, err
	}
	q := &request{method: req.Method, header: req.Header, length: req.ContentLength}
	if req.Body != nil && req.Body != http.NoBody {
		q.body = func() (io.ReadCloser, error) { return req.Body, nil }
	}
	return h.send(req.Context(), q, req.URL, req.Header.Get("Authorization"))
}

var (
	errPlain     = errors.New("plain HTTP isn't spoken to this host")
	errPlainOnly = errors.New("TLS isn't spoken to this host")
)

// leavesPlain reports whether plain HTTP is what is left to try: a host whose
// TLS only has the wrong certificate isn't spoken to without.
func (c *carrier) leavesPlain() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	secure := c.failed["https"]
	return secure == nil || secure.err == errPlainOnly || speaksPlain(secure.err)
}

// failure gives the reason for an error of ggcr's.
func (c *carrier) failure(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	secure, plain := c.failed["https"], c.failed["http"]
	switch {
	case secure != nil && speaksPlain(secure.err) && plain != nil && plain.err != errPlain:
		return plain
	case secure != nil && secure.err != errPlainOnly:
		return secure
	case plain != nil && plain.err != errPlain:
		return plain
	}
	if terr, ok := errors.AsType[*transport.Error](err); ok {
		f := &failure{host: c.host.addr, status: terr.StatusCode}
		if len(terr.Errors) > 0 {
			f.code, f.message = string(terr.Errors[0].Code), terr.Errors[0].Message
		}
		return f
	}
	// ggcr's own words may hold what the token server has answered.
	return &failure{host: c.host.addr, err: &policyError{fmt.Sprintf("its answers about authentication make no sense (%T)", err)}}
}
