package base

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/store"
)

func TestContradictions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		config, index string
		want          string // the platform of the image; empty for PA203
		ask           string
	}{
		"architecture":           {"linux/amd64", "linux/arm64", "", "linux/arm64"},
		"OS":                     {"darwin/arm64", "linux/arm64", "", "linux/arm64"},
		"variant":                {"linux/arm/v7", "linux/arm/v6", "", "linux/arm/v6"},
		"hidden level":           {"linux/amd64/v3", "linux/amd64", "", "linux/amd64"},
		"Windows":                {"windows/amd64:10.0.1", "windows/amd64:10.0.2", "", "windows/amd64"},
		"config has no variant":  {"linux/arm", "linux/arm/v6", "linux/arm/v6", "linux/arm/v6"},
		"config has none at all": {"/", "linux/arm64", "linux/arm64", "linux/arm64"},
		"index has no variant":   {"linux/arm/v6", "linux/arm", "linux/arm/v6", "linux/arm/v7"},
		"other spelling":         {"linux/arm64/v8", "linux/arm64", "linux/arm64", "linux/arm64"},
		"Windows, index unsaid":  {"windows/amd64:10.0.1", "windows/amd64", "windows/amd64:10.0.1", "windows/amd64"},
		"Windows, config unsaid": {"windows/amd64", "windows/amd64:10.0.2", "windows/amd64:10.0.2", "windows/amd64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			manifest, p := r.image(t, test.config), oci(test.index)
			manifest.Platform = &p
			r.tag(t, "1", r.index(t, manifest, r.image(t, "linux/s390x")))
			images, err := resolve(t, r.resolver(t), repository+":1").For(t.Context(), wanted("linux/s390x", test.ask))
			if test.want == "" {
				refused(t, err, "PA203 "+test.ask)
				return
			}
			if err != nil || platformsOf(images)[1] != test.want {
				t.Errorf("%q, %v", platformsOf(images), err)
			}
		})
	}
}

func TestUnusable(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	layerOf := func(d ocispec.Descriptor, diffIDs ...digest.Digest) ocispec.Descriptor {
		config := r.write(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: oci("linux/amd64"), RootFS: ocispec.RootFS{DiffIDs: diffIDs}})
		return r.write(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config, Layers: []ocispec.Descriptor{d}})
	}
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("x"), Size: 1}
	deep := r.images(t, "linux/amd64")
	for range maxDepth {
		deep = r.index(t, deep)
	}
	var wide []ocispec.Descriptor
	for i := range maxIndexes {
		wide = append(wide, r.index(t, r.image(t, fmt.Sprintf("linux/amd64/v%d", i))))
	}
	nonsense := func(data string) ocispec.Descriptor {
		d, err := r.Store.Write([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(data))}
	}
	bad := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: "sha256:../../../etc/passwd", Size: 1}
	huge := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("huge"), Size: 1 << 40}
	swapped := r.image(t, "linux/amd64")
	swapped.MediaType = ocispec.MediaTypeImageIndex
	tests := map[string]struct {
		root ocispec.Descriptor
		want string
	}{
		"not JSON":            {nonsense("<html>"), "isn't readable"},
		"both":                {nonsense(`{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`), "at once"},
		"neither":             {nonsense(`{}`), "media type"},
		"schema 1":            {nonsense(`{"schemaVersion":1,"name":"x","fsLayers":[]}`), "schema 1"},
		"mislabelled":         {nonsense(`{"mediaType":"application/vnd.oci.image.index.v1+json","config":{}}`), "media type"},
		"empty index":         {r.index(t), "no image"},
		"only attestations":   {r.images(t, "unknown/unknown"), "no image"},
		"too deep":            {deep, "deep"},
		"too wide":            {r.index(t, wide...), "indexes"},
		"bad digest":          {r.index(t, bad), "isn't a digest"},
		"huge index":          {r.index(t, huge), "bytes"},
		"manifest as index":   {r.index(t, swapped), "isn't the index"},
		"artifact":            {r.write(t, "", ocispec.Manifest{Config: ocispec.DescriptorEmptyJSON}), "config has the media type"},
		"no platform":         {r.image(t, "/"), "which platform"},
		"layers and diff IDs": {layerOf(blob), "1 layers, its config 0"},
		"diff ID":             {layerOf(blob, "sha256:1"), "diff ID"},
		"not files":           {layerOf(ocispec.Descriptor{MediaType: "text/plain", Digest: blob.Digest}, blob.Digest), "text/plain"},
		"negative size":       {layerOf(ocispec.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: -1}, blob.Digest), "-1 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.resolver(t).Resolve(t.Context(), repository+"@"+test.root.Digest.String(), "")
			list := refused(t, err, "PA109")
			if text := seenOf(list[0]); !strings.Contains(text, test.want) {
				t.Errorf("lacks %q:\n%s", test.want, text)
			}
		})
	}
}

// A digest can't be inside of what it is of, unless a hash is broken: the check
// is called directly.
func TestCycle(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	index := r.images(t, "linux/amd64")
	w := walk{content: &content{resolver: r.resolver(t), src: r}}
	data := fmt.Appendf(nil, `{"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, index.MediaType, index.Digest)
	err := w.index(t.Context(), data, []digest.Digest{index.Digest})
	if bad, ok := errors.AsType[unusable](err); !ok || !strings.Contains(bad.why, "itself") {
		t.Error(err)
	}
}

// Manifests and configs are foreign bytes: they may be refused, no more.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:x","size":-1}]}`,
		`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"D","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"D"}]}`,
		`{"os":"linux","architecture":"arm","rootfs":{"diff_ids":["D"]},"history":[{"empty_layer":true},{}]}`,
		`{"layers":null}`, `[]`, ``, `{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":null}`,
	} {
		f.Add(seed, `{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["`+digest.FromString("x").String()+`"]}}`)
		f.Add(seed, seed)
	}
	st, err := store.Create(f.TempDir()) // nothing is ever written: a disk's sync is slow
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, root, below string) {
		d := digest.FromString(below)
		data := []byte(strings.ReplaceAll(root, `"D"`, `"`+d.String()+`"`))
		expected := func(err error) bool {
			_, a := errors.AsType[unusable](err)
			_, b := errors.AsType[contradiction](err)
			return a || b || errors.Is(err, store.ErrNotFound)
		}
		kind, err := kindOf(data)
		if err != nil {
			if !expected(err) {
				t.Fatal(err)
			}
			return
		}
		c := &content{resolver: New(Options{Store: st}), src: image.Layout{Store: st}, indexed: image.IsIndex(kind)}
		if c.indexed {
			w := walk{content: c}
			if err := w.index(t.Context(), data, []digest.Digest{d}); err != nil && !expected(err) {
				t.Fatal(err)
			}
			for _, ch := range w.children {
				if ch.platform.IsZero() || ch.platform.IsAttestation() {
					t.Fatalf("%+v", ch)
				}
			}
			return
		}
		manifest, err := parseManifest(d, data)
		if err != nil {
			if !expected(err) {
				t.Fatal(err)
			}
			return
		}
		p := oci("linux/amd64")
		for _, ch := range []child{{}, {platform: linuxAMD64, descriptor: ocispec.Descriptor{Platform: &p}}} {
			img, err := c.combine(ch, manifest, []byte(below))
			if err != nil {
				if !expected(err) {
					t.Fatal(err)
				}
				continue
			}
			if len(img.Layers) != len(img.Config.RootFS.DiffIDs) || img.Platform.IsZero() || !ch.platform.IsZero() && !linuxAMD64.Runs(img.Platform) {
				t.Fatalf("%+v", img)
			}
		}
	})
}

var _ image.Source = (*registry)(nil)
