// Package registry speaks to OCI registries over networks that fail.
//
// It is a wire client for distribution-spec v1.1.1. A [Client] holds what is
// true of this process: connections, credentials, mirrors, what hosts have
// shown they can do. A [Repository] is one name on one registry. Every exchange
// is bounded: a silent peer is given up after [Options.IdleTimeout], a cut
// transfer goes on where it stopped, a registry that asks for patience gets it,
// and nothing is believed before its digest has been checked. What can't be done
// is a refusal.Error that says whose credentials were used, and never shows one.
//
// The layers, from below: send (one HTTP exchange under a watchdog), follow
// (redirects), attempt (authentication), do (retries), and on top of those the
// operations. Uploads and downloads stand on attempt, because after a failure
// they first have to ask how far they got.
package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/refusal"
)

// DefaultIdleTimeout is how long a peer may stay silent within an exchange.
const DefaultIdleTimeout = 30 * time.Second

// Options say how registries are spoken to. The zero value is useful: the
// environment and files of this process, without registries.conf.
type Options struct {
	// ConfigDir is the directory of docker's config.json; empty means
	// $DOCKER_CONFIG or ~/.docker.
	ConfigDir string
	// Getenv looks up the environment; nil means os.Getenv.
	Getenv func(string) string
	// PlainHTTP lists hosts, as host or host:port, that are spoken to without
	// TLS. Loopback hosts may always be, if they don't answer with TLS.
	PlainHTTP []string
	// Insecure lets every host have any certificate, or speak without TLS, as
	// docker manifest --insecure does.
	Insecure bool
	// TrustRealm lists hosts of token servers that may be given the credentials
	// of a registry although they aren't of the registry's own domain.
	TrustRealm []string
	// RegistriesConf lists files in the form of containers-registries.conf(5)
	// version 2, and directories of such files; later ones override earlier
	// ones by prefix. See [DefaultRegistriesConf].
	RegistriesConf []string
	UserAgent      string
	// IdleTimeout bounds the silence of a peer; 0 means [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// Base replaces the network, for tests. The guard against private
	// addresses, which works on connections, is then off.
	Base http.RoundTripper
	// Sleep replaces waiting, for tests: the client takes every wait that it
	// returns from as having lasted in full.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client speaks to any number of registries. It may be used concurrently.
type Client struct {
	agent     string
	idle      time.Duration
	clock     *clock
	keychain  *keychain
	routes    *routes
	insecure  bool            // all hosts are
	plain     map[string]bool // hosts that are spoken to without TLS
	trusted   map[string]bool // token servers, by host name
	transport *transports

	hosts     sync.Map // hostKey → *host
	endpoints sync.Map // endpointKey → *endpoint
	gates     sync.Map // host:port → *gate
	damaged   sync.Map // host and digest → struct{}: gave other bytes than asked for
}

// New prepares a client. It reads configuration files, but doesn't use the
// network. A registries.conf that can't be read is a refusal with code PA503.
func New(o Options) (*Client, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = "anyarch"
	}
	routes, err := loadRoutes(o.RegistriesConf)
	if err != nil {
		return nil, err
	}
	c := &Client{
		agent: o.UserAgent, idle: o.IdleTimeout,
		clock:     &clock{wait: o.Sleep},
		keychain:  newKeychain(o.Getenv, o.ConfigDir),
		routes:    routes,
		insecure:  o.Insecure,
		plain:     map[string]bool{},
		trusted:   map[string]bool{},
		transport: newTransports(o.Base),
	}
	for _, host := range o.PlainHTTP {
		c.plain[strings.ToLower(host)] = true
	}
	for _, host := range o.TrustRealm {
		c.trusted[strings.ToLower(host)] = true
	}
	return c, nil
}

// Repository gives the repository of a name, such as alpine or
// ghcr.io/owner/app, without contacting its registry. It reads through the
// mirrors of registries.conf; see [Repository.Direct]. A name that registries.conf
// blocks is a refusal with code PA407, a malformed one has PA503.
func (c *Client) Repository(name string) (*Repository, error) {
	name, err := ParseRepository(name)
	if err != nil {
		return nil, err
	}
	route, err := c.routes.find(name)
	if err != nil {
		return nil, err
	}
	r := &Repository{name: name, push: c.endpoint(route.location), client: c}
	for _, m := range route.mirrors {
		r.pull = append(r.pull, mirror{c.endpoint(m.location), m.use})
	}
	r.pull = append(r.pull, mirror{endpoint: r.push})
	return r, nil
}

type endpointKey struct {
	host string
	path string
	// insecure tells apart two spellings of one host in registries.conf.
	insecure bool
}

// endpoint gives the one endpoint of a location, which remembers for the life
// of the client what is there.
func (c *Client) endpoint(l location) *endpoint {
	address, path, _ := strings.Cut(l.name, "/")
	key := endpointKey{address, path, l.insecure}
	if e, ok := c.endpoints.Load(key); ok {
		return e.(*endpoint)
	}
	e := &endpoint{host: c.host(address, l.insecure), path: path, name: l.name}
	e.pullScope = "repository:" + path + ":pull"
	e.pushScope = "repository:" + path + ":pull,push"
	actual, _ := c.endpoints.LoadOrStore(key, e)
	return actual.(*endpoint)
}

func (c *Client) host(name string, insecure bool) *host {
	insecure = insecure || c.insecure
	key := endpointKey{host: name, insecure: insecure}
	if h, ok := c.hosts.Load(key); ok {
		return h.(*host)
	}
	h := &host{client: c, name: name, addr: name, insecure: insecure}
	if name == dockerHub {
		h.addr = dockerHubAddr
	}
	h.plainOnly = c.plain[name] || c.plain[hostname(name)]
	h.mayPlain = h.plainOnly || insecure || isLoopbackName(hostname(name))
	actual, _ := c.hosts.LoadOrStore(key, h)
	return actual.(*host)
}

// forget drops what is known of a host, after its credentials have changed.
func (c *Client) forget(name string) {
	c.keychain.forget()
	for _, insecure := range []bool{false, true} {
		if h, ok := c.hosts.Load(endpointKey{host: name, insecure: insecure}); ok {
			h.(*host).tokens.Clear()
		}
	}
}

func (c *Client) gate(host string) *gate {
	if g, ok := c.gates.Load(host); ok {
		return g.(*gate)
	}
	g, _ := c.gates.LoadOrStore(host, &gate{})
	return g.(*gate)
}

// blockedError says that registries.conf forbids a name.
func blockedError(name, file, prefix string) error {
	return &refusal.Error{
		Code: "PA407", Place: name, Summary: "registries.conf blocks this repository",
		Seen: []string{fmt.Sprintf("%s: [[registry]] prefix = %q has blocked = true", file, prefix)},
		Fix:  []string{"name another repository, or remove the line `blocked = true` from " + file},
	}
}

// insecureTLS is for hosts that registries.conf declares insecure: certificates
// of their own making are what the setting is for.
func insecureTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}
