package prove_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
)

// plain is a sound image without programs for a platform.
func plain(f fixture, p string) descriptor {
	return f.manifest(shape{platform: p, layers: []layer{f.layer(file("etc/platform", p))}})
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	attestation := func(f fixture) descriptor {
		d := f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: f.json(ocispec.MediaTypeImageConfig, struct{}{}),
		})
		d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest.FromString("x").String()}
		return d
	}
	tests := []struct {
		name    string
		index   func(f fixture) descriptor
		depth   prove.Depth
		require []string
		want    []string
	}{
		{name: "attestations aren't platforms", require: []string{"linux/amd64"}, index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64"), attestation(f))
		}},
		{name: "an attestation is gone", index: func(f fixture) descriptor {
			a := attestation(f)
			_ = f.Delete(a.Digest)
			return f.index(plain(f, "linux/amd64"), a)
		}, want: []string{"PA206 warning"}},
		{name: "another artifact isn't a platform", require: []string{"linux/amd64"}, index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64"), f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Config: ocispec.DescriptorEmptyJSON,
			}))
		}},
		{name: "required platforms", depth: prove.DepthIndex, require: []string{"linux/amd64", "linux/arm64", "linux/arm/v6"}, index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64"), plain(f, "linux/arm/v7"))
		}, want: []string{"PA204 error linux/arm64", "PA204 error linux/arm/v6"}},
		{name: "a lower variant will do", depth: prove.DepthIndex, require: []string{"linux/amd64/v3", "linux/arm/v7"}, index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64"), plain(f, "linux/arm/v6"))
		}},
		{name: "a higher variant won't", depth: prove.DepthIndex, require: []string{"linux/amd64"}, index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64/v2"))
		}, want: []string{"PA204 error linux/amd64"}},
		{name: "a single manifest", depth: prove.DepthIndex, require: []string{"linux/arm64"}, index: func(f fixture) descriptor {
			d := plain(f, "linux/arm64")
			d.Platform = nil
			return d
		}},
		{name: "entries without platform", depth: prove.DepthIndex, require: []string{"linux/arm64"}, index: func(f fixture) descriptor {
			d := plain(f, "linux/arm64")
			d.Platform = nil
			return f.index(d)
		}},
		{name: "a child is gone", index: func(f fixture) descriptor {
			d := plain(f, "linux/arm64")
			_ = f.Delete(d.Digest)
			return f.index(plain(f, "linux/amd64"), d)
		}, want: []string{"PA206 error linux/arm64"}},
		{name: "a config is gone", depth: prove.DepthConfig, index: func(f fixture) descriptor {
			return f.index(without(f, plain(f, "linux/arm64"), func(m ocispec.Manifest) descriptor { return m.Config }))
		}, want: []string{"PA206 error linux/arm64"}},
		{name: "a layer is gone", index: func(f fixture) descriptor {
			return f.index(without(f, plain(f, "linux/arm64"), func(m ocispec.Manifest) descriptor { return m.Layers[0] }))
		}, want: []string{"PA206 error linux/arm64"}},
		{name: "a platform twice", index: func(f fixture) descriptor {
			other := f.manifest(shape{platform: "linux/amd64", layers: []layer{f.layer(file("a", "b"))}})
			return f.index(plain(f, "linux/amd64"), other)
		}, want: []string{"PA215 error linux/amd64"}},
		{name: "an entry twice", index: func(f fixture) descriptor {
			return f.index(plain(f, "linux/amd64"), plain(f, "linux/amd64"))
		}, want: []string{"PA215 warning linux/amd64"}},
		{name: "Podman's entries per compression", index: func(f fixture) descriptor {
			other := f.manifest(shape{platform: "linux/amd64", layers: []layer{f.layer(file("a", "b"))}})
			other.Annotations = map[string]string{"io.github.containers.compression.zstd": "true"}
			return f.index(plain(f, "linux/amd64"), other)
		}},
		{name: "versions of Windows", depth: prove.DepthIndex, index: func(f fixture) descriptor {
			return f.index(plain(f, "windows/amd64:10.0.17763"), plain(f, "windows/amd64:10.0.20348"))
		}},
		{name: "one image under two platforms", depth: prove.DepthIndex, index: func(f fixture) descriptor {
			d, e := plain(f, "linux/amd64"), plain(f, "linux/amd64")
			e.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
			return f.index(d, e)
		}, want: []string{"PA207 warning linux/arm64"}},
		{name: "config of another variant", depth: prove.DepthConfig, index: func(f fixture) descriptor {
			d := f.manifest(shape{platform: "linux/arm/v6", config: "linux/arm/v7"})
			e := f.manifest(shape{platform: "linux/amd64"})
			return f.index(d, e)
		}, want: []string{"PA203 error linux/arm/v6"}},
		{name: "nested", index: func(f fixture) descriptor {
			return f.index(f.index(f.index(plain(f, "linux/amd64"))))
		}},
		{name: "nested too deeply", index: func(f fixture) descriptor {
			return f.index(f.index(f.index(f.index(f.index(plain(f, "linux/amd64"))))))
		}, want: []string{"PA218 error"}},
		{name: "one nested index twice", index: func(f fixture) descriptor {
			i := f.index(plain(f, "linux/amd64"))
			return f.index(i, i)
		}, want: []string{"PA218 error"}},
		{name: "too many entries", depth: prove.DepthIndex, index: func(f fixture) descriptor {
			var list []descriptor
			for i := range 11_000 {
				list = append(list, descriptor{MediaType: "text/plain", Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
			}
			return f.index(list...)
		}, want: []string{"PA218 error"}},
		{name: "impossible digests", index: func(f fixture) descriptor {
			d := plain(f, "linux/amd64")
			list := []descriptor{d, d, d}
			list[0].Digest = "sha256:../../../../etc/passwd"
			list[1].Digest = digest.Digest("sha256:" + strings.ToUpper(d.Digest.Encoded()))
			list[2].Size = -1
			return f.index(list...)
		}, want: []string{"PA216 error linux/amd64", "PA216 error linux/amd64", "PA216 error linux/amd64"}},
		{name: "another size", index: func(f fixture) descriptor {
			d := plain(f, "linux/amd64")
			d.Size++
			return f.index(d)
		}, want: []string{"PA216 error linux/amd64"}},
		{name: "a size of zero", index: func(f fixture) descriptor {
			d := plain(f, "linux/amd64")
			d.Size = 0
			return f.index(d)
		}, want: []string{"PA216 error linux/amd64"}},
		{name: "other embedded data", index: func(f fixture) descriptor {
			d := plain(f, "linux/amd64")
			d.Data = []byte("{}")
			return f.index(d)
		}, want: []string{"PA216 error linux/amd64"}},
		{name: "an index that says it is a manifest", index: func(f fixture) descriptor {
			d := f.index()
			d.MediaType = ocispec.MediaTypeImageManifest
			d.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
			return f.index(d)
		}, want: []string{"PA216 error linux/amd64"}},
		{name: "manifest and index at once", index: func(f fixture) descriptor {
			d := f.json(ocispec.MediaTypeImageManifest, map[string]any{"config": ocispec.DescriptorEmptyJSON, "manifests": []int{}, "layers": []int{}})
			return f.index(d)
		}, want: []string{"PA216 error"}},
		{name: "first schema", index: func(f fixture) descriptor {
			d := f.blob(image.DockerManifest, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:00"}]}`))
			return f.index(d)
		}, want: []string{"PA219 error"}},
		{name: "a key twice", index: func(f fixture) descriptor {
			return f.blob(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"annotations":{"a":"b"},"manifests":[]}`))
		}, want: []string{"PA219 error"}},
		{name: "deep JSON", index: func(f fixture) descriptor {
			return f.blob(ocispec.MediaTypeImageIndex, []byte(`{"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`))
		}, want: []string{"PA219 error"}},
		{name: "not JSON", index: func(f fixture) descriptor {
			return f.index(f.blob(ocispec.MediaTypeImageManifest, []byte("hello")))
		}, want: []string{"PA219 error"}},
		{name: "too many layers", index: func(f fixture) descriptor {
			var list []layer
			for range 2000 {
				list = append(list, layer{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x"), Size: 1}, digest.FromString("y")})
			}
			return f.index(f.manifest(shape{platform: "linux/amd64", layers: list}))
		}, want: []string{"PA219 error linux/amd64"}},
		{name: "an odd config", index: func(f fixture) descriptor {
			cfg := f.blob(ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64","created":17,"history":[{}],"config":{"ArgsEscaped":1,"Volumes":[],"Env":["A","=","B=\u0000"]},"rootfs":{"diff_ids":[]}}`))
			d := f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: cfg, Layers: []descriptor{}})
			return f.index(d)
		}},
		{name: "nothing that is an image", index: func(f fixture) descriptor {
			return f.blob("text/plain", []byte("hello"))
		}, want: []string{"PA219 error"}},
		{name: "an artifact", index: func(f fixture) descriptor {
			return f.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, ArtifactType: "a/b", Config: ocispec.DescriptorEmptyJSON})
		}, want: []string{"PA219 error"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			o := prove.Options{Depth: test.depth}
			for _, p := range test.require {
				o.Require = append(o.Require, parse(t, p))
			}
			expect(t, f.verify(test.index(f), o), test.want...)
		})
	}
}

// without removes a blob of a manifest.
func without(f fixture, d descriptor, which func(ocispec.Manifest) descriptor) descriptor {
	data, err := f.ReadBlob(d.Digest)
	if err != nil {
		f.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		f.Fatal(err)
	}
	if err := f.Delete(which(m).Digest); err != nil {
		f.Fatal(err)
	}
	return d
}

func TestOwnLayersMakeSharingAnError(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.layer(exe("app", compile(t, small, "linux/amd64")))
	index := f.index(
		f.manifest(shape{platform: "linux/amd64", entrypoint: []string{"/app"}, layers: []layer{l}}),
		f.manifest(shape{platform: "linux/arm64", entrypoint: []string{"/app"}, layers: []layer{l}}))
	r := f.verify(index, prove.Options{Own: func(d digest.Digest) bool { return d == l.Digest }})
	expect(t, r, "PA201 error linux/arm64", "PA207 error linux/arm64")
	err := r.Err(prove.Warning)
	if e := refusal.All(err); len(e) != 2 || e[0].Kind != refusal.Findings || e[0].Code != "PA201" {
		t.Errorf("%+v", e)
	}
	if r.Err(prove.Never) != nil {
		t.Error("never fails")
	}
}

func TestDamagedLayer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"damaged on disk", "cut on disk", "damaged before it was published", "other bytes behind the archive"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			archive := tarOf(t, exe("app", compile(t, small, "linux/amd64")))
			l := f.raw(archive)
			want := "PA216 error linux/amd64"
			switch name {
			case "damaged on disk":
				f.corrupt(l.Digest, l.Size/2)
			case "cut on disk":
				data := gzipped(t, archive)
				l.Descriptor = f.blob(l.MediaType, data[:len(data)/2])
				l.Size = int64(len(data))
			case "damaged before it was published":
				data := gzipped(t, archive)
				data[len(data)/2] ^= 1
				l.Descriptor = f.blob(l.MediaType, data)
				want = "PA219 error linux/amd64"
			case "other bytes behind the archive":
				l.Descriptor = f.blob(l.MediaType, append(gzipped(t, archive), "garbage"...))
				want = "PA219 error linux/amd64"
			}
			r := f.verify(f.index(f.manifest(shape{platform: "linux/amd64", entrypoint: []string{"/app"}, layers: []layer{l}})), prove.Options{})
			expect(t, r, want, "PA217 warning linux/amd64")
		})
	}
}

// memory is a cache.
type memory struct {
	sync.Mutex
	data map[string][]byte
	hits int
}

func (m *memory) Get(key string) ([]byte, bool) {
	m.Lock()
	defer m.Unlock()
	data, ok := m.data[key]
	if ok {
		m.hits++
	}
	return data, ok
}

func (m *memory) Put(key string, data []byte) {
	m.Lock()
	defer m.Unlock()
	m.data[key] = data
}

// counting counts how often a blob is read to its end.
type counting struct {
	image.Source
	mu   sync.Mutex
	ends map[digest.Digest]int
	fail error
}

func (c *counting) Fetch(ctx context.Context, d descriptor) (io.ReadCloser, error) {
	if c.fail != nil && !image.IsIndex(d.MediaType) {
		return nil, c.fail
	}
	r, err := c.Source.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	r.Close()
	if err != nil {
		return nil, err
	}
	return &countingReader{Reader: bytes.NewReader(data), c: c, d: d.Digest}, nil
}

type countingReader struct {
	*bytes.Reader
	c *counting
	d digest.Digest
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 && r.Len() == 0 {
		r.c.mu.Lock()
		r.c.ends[r.d]++
		r.c.mu.Unlock()
	}
	return n, err
}

func (r *countingReader) Close() error { return nil }

func TestLayersAreReadOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	shared := f.layer(file("etc/shared", "x"), link("bin", "usr/bin"), exe("usr/bin/x", compile(t, small, "linux/386")))
	index := f.index(
		f.manifest(shape{platform: "linux/amd64", layers: []layer{shared, f.layer(file("a", "b"))}}),
		f.manifest(shape{platform: "linux/386", layers: []layer{shared}}),
		f.manifest(shape{platform: "linux/arm64", layers: []layer{shared, shared}}))
	want := []string{"PA202 error linux/arm64", "PA202 warning linux/amd64"}
	src := &counting{Source: image.Layout{Store: f.Store}, ends: map[digest.Digest]int{}}
	cache := &memory{data: map[string][]byte{}}
	for round, ends := range []int{1, 1} { // the second round adds none
		r, err := prove.Verify(context.Background(), src, index, prove.Options{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, want...)
		if src.ends[shared.Digest] != ends {
			t.Errorf("round %d: read %d times", round, src.ends[shared.Digest])
		}
		if r.Platforms[0].Layers[0].Cached != (round == 1) {
			t.Errorf("round %d: cached is %v", round, r.Platforms[0].Layers[0].Cached)
		}
	}
	// A cached layer that is gone is still missed, and rubbish isn't believed.
	for key := range cache.data {
		cache.data[key] = []byte("rubbish")
	}
	r, err := prove.Verify(context.Background(), src, index, prove.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, want...)
	if err := f.Delete(shared.Digest); err != nil {
		t.Fatal(err)
	}
	r, err = prove.Verify(context.Background(), src, index, prove.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	if got := rules(r); len(got) != 4 || got[0] != "PA206 error linux/amd64" {
		t.Errorf("%q", got)
	}
}

func TestSourceFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	index := f.index(plain(f, "linux/amd64"))
	layout := image.Layout{Store: f.Store}
	away := &refusal.Error{Code: "PA404", Kind: refusal.Unavailable, Summary: "the registry is away"}
	if r, err := prove.Verify(context.Background(), &counting{Source: layout, fail: away, ends: map[digest.Digest]int{}}, index, prove.Options{}); r != nil || !errors.Is(err, away) {
		t.Errorf("report %v, error %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := prove.Verify(ctx, layout, index, prove.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	gone := descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("gone")}
	if r, err := prove.Verify(context.Background(), layout, gone, prove.Options{}); err != nil || r.Err(prove.Error) == nil {
		t.Errorf("absent: %v, %v", r, err)
	}
	big := f.index(f.manifest(shape{platform: "linux/amd64", layers: []layer{f.layer(exe("app", bytes.Repeat([]byte("\x7fELF\x02\x01\x01\x00\x00\x00"), 1<<20)))}}))
	if r, err := prove.Verify(context.Background(), layout, big, prove.Options{TempDir: t.TempDir() + "/absent"}); err == nil {
		t.Errorf("no directory for temporary files, and a report: %s", describe(r))
	}
	for _, o := range []prove.Options{{Depth: "deep"}, {Allow: []string{"/"}}} {
		_, err := prove.Verify(context.Background(), layout, index, o)
		if e := refusal.All(err); len(e) != 1 || e[0].Code != "PA502" || e[0].Kind != refusal.Usage {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := prove.ParseFailOn("sometimes"); err == nil {
		t.Error("ParseFailOn")
	}
}
