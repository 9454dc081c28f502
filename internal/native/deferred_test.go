package native_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/native"
	"github.com/anyarch/anyarch/internal/platform"
)

// What a Go builder deferred is there for who reads its base: of a pinned stage and of
// one that isn't, in a later step and in the same one.
func TestDeferredIsReplayed(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unpinned": "FROM golang:1.25.4-alpine AS builder\nRUN adduser -D -u 1234 tester\nFROM scratch\nCOPY --from=builder /etc/passwd /etc/passwd\n",
		"pinned":   "FROM --platform=$BUILDPLATFORM golang:1.25.4-alpine AS builder\nRUN adduser -D -u 1234 tester\nWORKDIR /src\nFROM scratch\nCOPY --from=builder /etc/passwd /etc/passwd\n",
		"same":     "FROM golang:1.25.4-alpine AS builder\nRUN adduser -D -u 1234 tester && cp /etc/passwd /tmp/passwd\nFROM scratch\nCOPY --from=builder /tmp/passwd /etc/passwd\n",
		"both":     "FROM --platform=$BUILDPLATFORM golang:1.25.4-alpine AS builder\nRUN adduser -D -u 1233 first\nRUN adduser -D -u 1234 tester && cp /etc/passwd /tmp/passwd\nFROM scratch\nCOPY --from=builder /tmp/passwd /etc/passwd\n",
		"later":    "FROM --platform=$BUILDPLATFORM golang:1.25.4-alpine AS builder\nRUN cat /etc/passwd > /tmp/before\nRUN adduser -D -u 1234 tester\nFROM scratch\nCOPY --from=builder /etc/passwd /etc/passwd\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			content := tarOf(t, map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/ash\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:::::::\n", "bin/busybox": "", "etc/alpine-release": "3.22.2\n"})
			w.options = func(o *native.Options) {
				layer := image.Layer{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}, DiffID: digest.FromBytes(content)}
				resolve := o.Image
				o.Image = func(ctx context.Context, ref string, p platform.Platform) (base.Image, error) {
					img, err := resolve(ctx, ref, p)
					img.Layers = []image.Layer{layer}
					return img, err
				}
				o.OpenLayer = func(context.Context, base.Image, int) (io.ReadCloser, error) {
					return io.NopCloser(bytes.NewReader(content)), nil
				}
			}
			results, err := w.run(text, amd64, arm64)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				f, err := w.store.Blob(r.Layers[len(r.Layers)-1].Descriptor.Digest)
				if err != nil {
					t.Fatal(err)
				}
				z, err := gzip.NewReader(f)
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(z)
				_ = f.Close()
				if err != nil || !strings.Contains(string(data), "tester:x:1234:") {
					t.Errorf("the account isn't in the image, %v: %q", err, data)
				}
			}
		})
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
