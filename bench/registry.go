package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// registry is what tools push to: a child process, and a proxy in front of it
// that counts.
type registry struct {
	addr   string // of the proxy, host:port
	pid    int    // of the child
	counts counts
	close  func() // ends both and waits for them
	base   string // reference of the pushed base image, empty before it is
}

// counts is what clients have sent. Concurrent requests may count at once.
type counts struct{ blobs, all, requests atomic.Int64 }

func (c *counts) reset() {
	c.blobs.Store(0)
	c.all.Store(0)
	c.requests.Store(0)
}

func (c *counts) get() (blobs, all, requests int64) {
	return c.blobs.Load(), c.all.Load(), c.requests.Load()
}

// startRegistry starts a registry with empty storage on a free port of
// loopback.
func startRegistry(ctx context.Context, b *bench) (*registry, error) {
	behind, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(b.dir, "registry")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	args := []string{b.anyarch, "serve", data, "--addr", behind, "--progress", "none"}
	if b.config.registry == "docker" {
		program, err := exec.LookPath("docker-registry")
		if err != nil {
			return nil, fmt.Errorf("-registry docker: %w", err)
		}
		conf := filepath.Join(b.dir, "registry.yml")
		text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", data, behind)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			return nil, err
		}
		args = []string{program, "serve", conf}
	}
	ctx, cancel := context.WithCancel(ctx)
	child := command(ctx, b.dir, b.env(filepath.Join(b.dir, "state", "registry"), "OTEL_TRACES_EXPORTER=none"), args...)
	var messages bytes.Buffer
	child.Stderr = &messages
	if err := child.Start(); err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	stop := func() { cancel(); <-ended }
	if err := waitReady(ctx, behind, ended); err != nil {
		stop()
		return nil, fmt.Errorf("the registry doesn't answer: %w\n%s", err, strings.TrimSpace(messages.String()))
	}
	r := &registry{pid: child.Process.Pid}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, err
	}
	r.addr = l.Addr().String()
	server := &http.Server{Handler: counting(&r.counts, &url.URL{Scheme: "http", Host: behind}), ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() { _ = server.Serve(l); close(served) }() // ends by Close
	r.close = func() {
		_ = server.Close()
		<-served
		stop()
	}
	return r, nil
}

// freeAddress finds a port that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// waitReady asks until a registry answers. If the process ends first, what it
// ended with goes back into ended.
func waitReady(ctx context.Context, addr string, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-ended:
			ended <- err
			return errors.Join(errors.New("it has ended"), err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// counting passes requests on and counts their bodies. The host is kept, so
// that the registry's own links lead through here again.
func counting(c *counts, to *url.URL) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0), // clients see the status, and may go whenever they like
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests.Add(1)
		if r.ContentLength != 0 {
			r.Body = &countingBody{r.Body, c, strings.Contains(r.URL.Path, "/blobs/")}
		}
		proxy.ServeHTTP(w, r)
	})
}

type countingBody struct {
	io.ReadCloser
	counts *counts
	blob   bool
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.counts.all.Add(int64(n))
	if b.blob {
		b.counts.blobs.Add(int64(n))
	}
	return n, err
}

// OCI media types (image-spec v1.1.1, media-types.md).
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

func describe(mediaType string, data []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digestOf(data), Size: len(data)}
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// pushBase pushes a small base image, as the built-in one of anyarch is, for
// tools that need one. It answers with its reference.
func (r *registry) pushBase(ctx context.Context, platforms []string) (string, error) {
	if r.base != "" {
		return r.base, nil
	}
	var err error
	r.base, err = r.pushImage(ctx, platforms, map[string]any{"User": "65532"})
	return r.base, err
}

// pushGoBuilder pushes what a Dockerfile starts FROM to compile with a Go version.
// There is no Go in it: anyarch reads nothing but its config.
func (r *registry) pushGoBuilder(ctx context.Context, platforms []string, version string) (string, error) {
	return r.pushImage(ctx, platforms, map[string]any{
		"WorkingDir": "/go",
		"Env": []string{"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"GOLANG_VERSION=" + version, "GOTOOLCHAIN=local", "GOPATH=/go"},
	})
}

// pushImage pushes a small image with one layer and a configuration, for several
// platforms. It answers with its reference.
func (r *registry) pushImage(ctx context.Context, platforms []string, settings map[string]any) (string, error) {
	plain, err := baseLayer()
	if err != nil {
		return "", err
	}
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	if _, err := z.Write(plain); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	if err := r.pushBlob(ctx, layer.Bytes()); err != nil {
		return "", err
	}
	var list []descriptor
	pushed := map[string]bool{}
	for _, p := range platforms {
		if pushed[p] {
			continue
		}
		pushed[p] = true
		on := map[string]string{}
		for i, part := range strings.SplitN(p, "/", 3) {
			on[[]string{"os", "architecture", "variant"}[i]] = part
		}
		config := map[string]any{"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(plain)}}, "config": settings}
		for key, value := range on {
			config[key] = value
		}
		configJSON, err := json.Marshal(config)
		if err != nil {
			return "", err
		}
		if err := r.pushBlob(ctx, configJSON); err != nil {
			return "", err
		}
		manifest, err := r.pushManifest(ctx, typeManifest, map[string]any{
			"schemaVersion": 2, "mediaType": typeManifest, "config": describe(typeConfig, configJSON),
			"layers": []descriptor{describe(typeLayer, layer.Bytes())},
		})
		if err != nil {
			return "", err
		}
		manifest.Platform = on
		list = append(list, manifest)
	}
	index, err := r.pushManifest(ctx, typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": list})
	if err != nil {
		return "", err
	}
	return r.addr + "/base@" + index.Digest, nil
}

// baseLayer is a tar with a user and a place for temporary files.
func baseLayer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	passwd := "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
	for _, h := range []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(passwd))},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, passwd); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

func (r *registry) pushBlob(ctx context.Context, data []byte) error {
	location, err := r.send(ctx, http.MethodPost, "http://"+r.addr+"/v2/base/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", digestOf(data))
	location.RawQuery = query.Encode()
	_, err = r.send(ctx, http.MethodPut, location.String(), "application/octet-stream", data, http.StatusCreated)
	return err
}

func (r *registry) pushManifest(ctx context.Context, mediaType string, content any) (descriptor, error) {
	data, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	d := describe(mediaType, data)
	_, err = r.send(ctx, http.MethodPut, "http://"+r.addr+"/v2/base/manifests/"+d.Digest, mediaType, data, http.StatusCreated)
	return d, err
}

// send makes one request and returns the Location of the answer, if it has one.
func (r *registry) send(ctx context.Context, method, to, contentType string, data []byte, want int) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s %s", method, to, resp.Status, text)
	}
	location, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return nil, nil
	}
	return location, err
}
