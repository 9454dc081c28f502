package serve_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/serve"
)

func TestListen(t *testing.T) {
	t.Parallel()
	s, err := serve.New(serve.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := s.Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct{ addr, code, fix string }{
		"in use":        {taken.Addr().String(), "PA605", "--addr 127.0.0.1:0"},
		"all addresses": {":0", "PA502", "--allow-remote"},
		"IPv4":          {"0.0.0.0:0", "PA502", "--allow-remote"},
		"IPv6":          {"[::]:0", "PA502", "--allow-remote"},
		"another one":   {"192.0.2.1:0", "PA502", "--allow-remote"},
		"no port":       {"127.0.0.1", "PA502", "--addr " + serve.DefaultAddr},
		"a bad port":    {"127.0.0.1:http-x", "PA502", "--addr " + serve.DefaultAddr},
	} {
		l, err := s.Listen(t.Context(), test.addr)
		if err == nil {
			l.Close()
		}
		e, ok := errors.AsType[*refusal.Error](err)
		if !ok || e.Code != test.code || !slices.Contains(e.Fix, test.fix) {
			t.Errorf("%s: %+v", name, err)
		}
	}
	remote, err := serve.New(serve.Options{Root: t.TempDir(), AllowRemote: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := remote.Listen(t.Context(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestServe runs a registry as the command does: it keeps web pages out, says
// what happens, and ends with its context although a client hangs.
func TestServe(t *testing.T) {
	t.Parallel()
	var (
		mu   sync.Mutex
		said []string
	)
	s, err := serve.New(serve.Options{Root: t.TempDir(), Log: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, e.Image+" "+e.Message)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l, err := s.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	c := client{t, "http://" + l.Addr().String(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}

	for host, want := range map[string]int{
		l.Addr().String(): 200, "localhost:5000": 200, "kind-registry:5000": 200, "host.docker.internal": 200,
		"registry.localhost": 200, "[::1]:5000": 200, "attacker.example": 403, "127.0.0.1.attacker.example:5000": 403,
	} {
		req, err := http.NewRequest("GET", c.base+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", host, resp.StatusCode)
		}
	}
	a := c.want(403, "POST", "/v2/app/blobs/uploads/", nil, "Origin", "http://attacker.example")
	if a.code() != "DENIED" {
		t.Errorf("%s", a.body)
	}
	d := c.image("app", "v1", "1")

	hanging, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	up := c.want(202, "POST", "/v2/app/blobs/uploads/", nil)
	if _, err := hanging.Write([]byte("PATCH " + up.header.Get("Location") + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nxx")); err != nil {
		t.Fatal(err)
	}
	for c.want(204, "GET", up.header.Get("Location"), nil).header.Get("Range") != "0-1" { // till they have arrived
		time.Sleep(time.Millisecond)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it doesn't end")
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "app pushed v1 " + d.Digest.String(); !slices.Contains(said, want) {
		t.Errorf("%q was never said: %s", want, strings.Join(said, "; "))
	}
}

// TestIdleClients stops reading and writing; the registry gives them up.
func TestIdleClients(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{IdleTimeout: 50 * time.Millisecond})
	up := c.want(202, "POST", "/v2/app/blobs/uploads/", nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PATCH " + up.header.Get("Location") + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // the read below would fail
	answer := make([]byte, 12)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 400" {
		t.Errorf("%q %v", answer, err)
	}
	// The connection of a slow answer works on after it.
	c.image("app", "v1", "1")
	for range 3 {
		c.want(200, "GET", "/v2/app/tags/list", nil)
		time.Sleep(60 * time.Millisecond)
	}
}
