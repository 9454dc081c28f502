package buildkit

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
)

// engine reports an address of the BuildKit inside a Docker engine.
func (e Endpoint) engine() bool { return strings.HasPrefix(e.Address, "docker://") }

// dockerHost is a Docker engine, which gives its BuildKit through two upgraded HTTP
// connections (moby/moby, API "POST /grpc" and "POST /session").
type dockerHost struct {
	network, address string
	tls              *tls.Config
}

// dockerEngine reads docker://[ADDRESS][?context=NAME]: /PATH of the engine's socket or
// HOST:PORT; nothing is the engine that the docker command would speak to, by DOCKER_HOST,
// DOCKER_CONTEXT and the context in use, in this order. TLS has the files ca.pem, cert.pem
// and key.pem: those of the context, or of DOCKER_CERT_PATH where DOCKER_TLS_VERIFY is set.
func dockerEngine(address string, getenv func(string) string) (*dockerHost, error) {
	where, query, _ := strings.Cut(strings.TrimPrefix(address, "docker://"), "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	certificates := ""
	if getenv("DOCKER_TLS_VERIFY") != "" {
		certificates = getenv("DOCKER_CERT_PATH")
		if certificates == "" {
			certificates = dockerDir(getenv)
		}
	}
	name := values.Get("context")
	if where == "" && name == "" {
		where = getenv("DOCKER_HOST")
	}
	if where == "" {
		if where, certificates, err = dockerContext(name, certificates, getenv); err != nil {
			return nil, err
		}
	}
	switch {
	case where == "":
		where = "/var/run/docker.sock"
	case strings.HasPrefix(where, "unix://"):
		where = strings.TrimPrefix(where, "unix://")
	case strings.HasPrefix(where, "tcp://"):
		where = strings.TrimPrefix(where, "tcp://")
	case strings.Contains(where, "://"):
		fix := []string{"--builder docker-container://buildkitd"}
		if strings.HasPrefix(where, "ssh://") {
			fix = append(fix, "--builder "+where)
		}
		return nil, &refusal.Error{Code: "PA141", Kind: refusal.Usage, Place: address, Summary: "the BuildKit inside an engine is reached through a socket or tcp://, not through " + where, Fix: fix}
	}
	if strings.HasPrefix(where, "/") {
		return &dockerHost{network: "unix", address: where}, nil
	}
	d := &dockerHost{network: "tcp", address: where}
	if certificates == "" {
		return d, nil
	}
	ca, err := os.ReadFile(filepath.Join(certificates, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(certificates, "cert.pem"), filepath.Join(certificates, "key.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate", filepath.Join(certificates, "ca.pem"))
	}
	host, _, err := net.SplitHostPort(where)
	if err != nil {
		return nil, err
	}
	d.tls = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: host}
	return d, nil
}

// dockerContext gives the engine's address of one of docker's contexts, and where its
// certificates are; empty for the default one. Without a name it is the one in use
// (docker/cli, cli/context/store).
func dockerContext(name, certificates string, getenv func(string) string) (where, tls string, err error) {
	dir := dockerDir(getenv)
	if name == "" {
		name = getenv("DOCKER_CONTEXT")
	}
	if name == "" {
		var config struct{ CurrentContext string }
		if data, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil {
			if err := json.Unmarshal(data, &config); err != nil {
				return "", "", fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
			}
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return "", certificates, nil
	}
	id := digest.FromString(name).Encoded()
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	data, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil {
		return "", "", &refusal.Error{Code: "PA141", Kind: refusal.Usage, Place: "docker context " + name, Summary: "docker has no such context", Seen: []string{err.Error()}, Fix: []string{"docker context ls"}, Err: err}
	}
	certificates = filepath.Join(dir, "contexts", "tls", id, "docker")
	if _, err := os.Stat(filepath.Join(certificates, "ca.pem")); err != nil {
		certificates = ""
	}
	return meta.Endpoints["docker"].Host, certificates, nil
}

// control dials BuildKit's API.
func (d *dockerHost) control(ctx context.Context, _ string) (net.Conn, error) {
	return d.upgrade(ctx, "/grpc", "h2c", nil)
}

// session dials the way back, through which the daemon asks for files and secrets.
func (d *dockerHost) session(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
	return d.upgrade(ctx, "/session", proto, meta)
}

func (d *dockerHost) upgrade(ctx context.Context, path, proto string, meta map[string][]string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, d.network, d.address)
	if err != nil {
		return nil, err
	}
	if d.tls != nil {
		conn = tls.Client(conn, d.tls)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	upgraded, err := handshake(conn, path, proto, meta)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return upgraded, nil
}

func handshake(conn net.Conn, path, proto string, meta map[string][]string) (net.Conn, error) {
	req, err := http.NewRequest(http.MethodPost, "http://docker"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	for name, values := range meta {
		for _, v := range values {
			req.Header.Add(name, v)
		}
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
		_ = resp.Body.Close()
		first, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
		return nil, fmt.Errorf("the engine answers %s to an upgrade of %s, so its BuildKit can't be reached: %s", resp.Status, path, first)
	}
	if r.Buffered() > 0 {
		return &bufferedConn{conn, r}, nil
	}
	return conn, nil
}

// bufferedConn is a connection of which some bytes have been read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
