package serve_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/anyarch/anyarch/internal/serve"
)

// BenchmarkGet measures what one machine, client and server together, gets out
// of the registry over loopback connections.
func BenchmarkGet(b *testing.B) {
	c := start(b, serve.Options{})
	d := c.image("app", "v1", "1")
	blob := c.pushBlob("app", bytes.Repeat([]byte("x"), 2<<20))
	for name, path := range map[string]string{
		"tag":    "/v2/app/manifests/v1",
		"digest": "/v2/app/manifests/" + d.Digest.String(),
		"blob":   "/v2/app/blobs/" + blob.Digest.String(),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(50)
			transport := &http.Transport{MaxIdleConnsPerHost: 100}
			defer transport.CloseIdleConnections()
			web := &http.Client{Transport: transport}
			if name == "blob" {
				b.SetBytes(blob.Size)
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := web.Get(c.base + path)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
						b.Error(resp.Status, err)
					}
					resp.Body.Close()
				}
			})
		})
	}
}

// BenchmarkPush measures pushes of small images, one after the other, with all
// that it takes to make them durable.
func BenchmarkPush(b *testing.B) {
	c := start(b, serve.Options{})
	c.image("app", "v0", "0")
	b.ResetTimer()
	for b.Loop() {
		c.push("app", "v0", manifest(descriptor("layer 0")))
		c.push("app", "v0", index())
	}
}
