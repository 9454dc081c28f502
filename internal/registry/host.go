package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const maxRedirects = 5

// host is one registry as this process has come to know it.
type host struct {
	client    *Client
	name      string // as users say it: docker.io
	addr      string // as it is dialled: index.docker.io, localhost:5000
	insecure  bool   // registries.conf says so: any certificate, or none
	plainOnly bool   // the user says that it speaks plain HTTP
	mayPlain  bool

	answered atomic.Bool // it has answered a request of this process

	contact  atomic.Pointer[contact]
	contacts flight[*contact]
	tokens   sync.Map // scopes → *token
	grants   flight[*token]
	visits   sync.Map // host and scope → *token, on hosts that it leads to

	// What the host has shown that it doesn't do.
	noWhole, noChunks, noReferrers atomic.Bool

	chunks chunkSize
}

// contact is what the first exchange with a host found out.
type contact struct {
	scheme    string // http or https
	challenge *transport.Challenge
}

// url is a URL of the registry's API; path is what follows /v2/.
func (c *contact) url(h *host, path string) (*url.URL, error) {
	return url.Parse(c.scheme + "://" + h.addr + "/v2/" + path)
}

// owns reports whether a URL is on the registry itself, so that it may have
// the registry's authorization.
func (h *host) owns(u *url.URL) bool {
	return canonicalHost(u.Host, u.Scheme) == canonicalHost(h.addr, u.Scheme)
}

func canonicalHost(host, scheme string) string {
	host = strings.ToLower(host)
	switch {
	case scheme == "https":
		return strings.TrimSuffix(host, ":443")
	case scheme == "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// request is one purpose of talking to a host. It can be sent any number of
// times.
type request struct {
	step   string // for messages, such as `look for blob sha256:…`
	method string
	path   string   // after /v2/, with the query; or
	url    *url.URL // where the host has said
	scopes string   // of the token, separated by spaces
	header http.Header
	body   func() (io.ReadCloser, error) // nil without body; called for every sending
	length int64
	tries  int // at most; 0 means maxTries
}

// do sends a request until it is answered: with something that isn't a
// temporary failure, or for the last time. The answer may have any other
// status; its body must be closed. Errors are refusals, or ctx's own.
func (h *host) do(ctx context.Context, q *request) (*http.Response, error) {
	patience := retry{host: h, step: q.step, limit: q.tries}
	for {
		resp, err := h.attempt(ctx, q)
		if err == nil {
			return resp, nil
		}
		if err := patience.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

// attempt sends a request once, authenticated: a token that has expired is
// replaced, and the request sent again. Temporary failures, by status or by the
// network, are a *failure; any other answer is returned.
func (h *host) attempt(ctx context.Context, q *request) (*http.Response, error) {
	c, err := h.reach(ctx)
	if err != nil {
		return nil, err
	}
	target := q.url
	if target == nil {
		target, err = c.url(h, q.path)
		if err != nil {
			return nil, err
		}
	}
	for again := false; ; again = true {
		tok, fresh, err := h.authorize(ctx, q.scopes)
		if err != nil {
			return nil, err
		}
		resp, err := h.follow(ctx, q, target, tok.header)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized && h.owns(resp.Request.URL) && !again {
			if h.challenged(resp, q.scopes, tok, fresh) {
				discard(resp)
				continue
			}
		}
		if temporary(resp.StatusCode) {
			return nil, h.failed(resp)
		}
		return resp, nil
	}
}

// follow sends a request and goes where it is redirected to. Only the registry
// itself sees the authorization; nothing leads from https to http, to other
// schemes, or farther than maxRedirects.
func (h *host) follow(ctx context.Context, q *request, u *url.URL, authorization string) (*http.Response, error) {
	for hops := 0; ; hops++ {
		if err := h.client.gate(u.Host).pass(ctx, h.client.clock); err != nil {
			return nil, err
		}
		header := authorization
		if !h.owns(u) {
			header = ""
		}
		resp, err := h.send(ctx, q, u, header)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized && !h.owns(u) && q.body == nil {
			if header := h.visit(ctx, resp); header != "" {
				discard(resp)
				if resp, err = h.send(ctx, q, u, header); err != nil {
					return nil, err
				}
			}
		}
		if !redirects(resp.StatusCode, q.method) {
			return resp, nil
		}
		place := resp.Header.Get("Location")
		discard(resp)
		if hops == maxRedirects {
			return nil, &failure{host: h.addr, err: &policyError{"it redirects more than 5 times"}}
		}
		next, err := h.locate(u, place)
		if err != nil {
			return nil, &failure{host: h.addr, err: err}
		}
		u = next
	}
}

func redirects(status int, method string) bool {
	switch status {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		return method == http.MethodGet || method == http.MethodHead
	}
	return false
}

// locate resolves a Location that a registry has given, within the rules.
func (h *host) locate(base *url.URL, place string) (*url.URL, error) {
	if place == "" {
		return nil, &policyError{"it answers without the Location that it should give"}
	}
	u, err := base.Parse(place)
	if err != nil || u.Host == "" {
		return nil, &policyError{"the Location that it gives isn't a URL"}
	}
	if u.Scheme == "http" && base.Scheme == "https" && strings.EqualFold(u.Host, h.addr) {
		// A registry behind something that ends TLS often doesn't know that it
		// has it. It is the same host, so TLS is what it is spoken to with.
		u.Scheme = "https"
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, &policyError{"it leads to a URL that is neither https nor http"}
	case u.Scheme == "http" && base.Scheme == "https":
		return nil, &policyError{"it leads from https to plain http, at " + u.Host}
	}
	u.User = nil
	return u, nil
}

// policyError says why something that a registry wants isn't done.
type policyError struct{ reason string }

func (e *policyError) Error() string { return e.reason }

// discard makes a connection usable again, if that is cheap.
func discard(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
}
