package buildkit

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// engine reports an address of the BuildKit inside a Docker engine.
func (e Endpoint) engine() bool { return strings.HasPrefix(e.Address, "docker://") }

// dockerHost is a Docker engine, which gives its BuildKit through two upgraded HTTP
// connections (moby/moby, API "POST /grpc" and "POST /session").
type dockerHost struct {
	network, address string
	tls              *tls.Config
}

// dockerEngine reads docker://[ADDRESS]: nothing for the engine of this machine, else
// /PATH of its socket or HOST:PORT, with the files ca.pem, cert.pem and key.pem of
// DOCKER_CERT_PATH where DOCKER_TLS_VERIFY is set, as the docker command has it.
func dockerEngine(address string) (*dockerHost, error) {
	where := strings.TrimPrefix(address, "docker://")
	if where == "" {
		where = os.Getenv("DOCKER_HOST")
	}
	switch {
	case where == "":
		where = "/var/run/docker.sock"
	case strings.HasPrefix(where, "unix://"):
		where = strings.TrimPrefix(where, "unix://")
	case strings.HasPrefix(where, "tcp://"):
		where = strings.TrimPrefix(where, "tcp://")
	case strings.Contains(where, "://"):
		return nil, fmt.Errorf("an engine is reached through a socket or tcp://, not %s", where)
	}
	if strings.HasPrefix(where, "/") {
		return &dockerHost{network: "unix", address: where}, nil
	}
	d := &dockerHost{network: "tcp", address: where}
	if os.Getenv("DOCKER_TLS_VERIFY") == "" {
		return d, nil
	}
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		return nil, errors.New("DOCKER_TLS_VERIFY is set, DOCKER_CERT_PATH isn't")
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate", filepath.Join(dir, "ca.pem"))
	}
	host, _, err := net.SplitHostPort(where)
	if err != nil {
		return nil, err
	}
	d.tls = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: host}
	return d, nil
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
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the engine answers %s to an upgrade of %s: its BuildKit can't be reached", resp.Status, path)
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
