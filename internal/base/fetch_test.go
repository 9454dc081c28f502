package base

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/store"
)

// One run asks for a tag once, the next run once again, and neither asks twice
// for what has a digest.
func TestRequests(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	index := r.tag(t, "1", r.images(t, "linux/amd64", "linux/arm64"))
	st := newStore(t)
	run := func(ref string) {
		t.Helper()
		resolver := New(Options{Store: st, Open: r.open})
		for range 2 { // two images on one base
			b, err := resolver.Resolve(t.Context(), ref, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.For(t.Context(), wanted("linux/amd64", "linux/arm64")); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(repository + ":1")
	if got := r.resolved; !reflect.DeepEqual(got, []string{"1"}) {
		t.Errorf("resolved %q", got)
	}
	if len(r.fetched) != 5 { // index, two manifests, two configs
		t.Errorf("fetched %v", r.fetched)
	}
	run(repository + ":1")
	run(repository + "@" + index.Digest.String())
	run(repository + ":1@" + index.Digest.String())
	if got := r.resolved; !reflect.DeepEqual(got, []string{"1", "1"}) {
		t.Errorf("resolved %q", got)
	}
	for d, n := range r.fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", d, n)
		}
	}
	r.tag(t, "latest", index)
	run(repository) // without a tag
	if got := r.resolved[2:]; !reflect.DeepEqual(got, []string{"latest"}) {
		t.Errorf("resolved %q", got)
	}
}

// All platforms are of one digest, though the tag moves meanwhile.
func TestResolvedOncePerRun(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	before := r.tag(t, "1", r.images(t, "linux/amd64"))
	resolver := r.resolver(t)
	first := resolve(t, resolver, repository+":1")
	r.tag(t, "1", r.images(t, "linux/arm64"))
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			again, err := resolver.Resolve(t.Context(), repository+":1", "elsewhere:1")
			if err != nil || again.Digest != before.Digest || again.place != "elsewhere:1" {
				t.Errorf("%+v, %v", again, err)
			}
		})
	}
	wait.Wait()
	if first.Digest != before.Digest || len(r.resolved) != 1 {
		t.Errorf("%s, resolved %q", first.Digest, r.resolved)
	}
}

// A failure isn't kept: a registry may come back.
func TestFailureIsNotRemembered(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	resolver := r.resolver(t)
	_, err := resolver.Resolve(t.Context(), repository+":1", "anyarch.yaml:3")
	if list := refused(t, err, "PA403"); !strings.Contains(seenOf(list[0]), repository+":1") || !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	r.tag(t, "1", r.images(t, "linux/amd64"))
	resolve(t, resolver, repository+":1")

	away := errors.New("registry away")
	resolver = New(Options{Store: newStore(t), Open: func(context.Context, string) (image.Source, string, string, error) { return nil, "", "", away }})
	if _, err := resolver.Resolve(t.Context(), "other", ""); !errors.Is(err, away) || !strings.Contains(err.Error(), "other") {
		t.Error(err)
	}
}

// An index outlives its children where a clean-up takes untagged manifests.
func TestManifestIsGone(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	amd64 := r.image(t, "linux/amd64")
	r.tag(t, "1", r.index(t, amd64, r.image(t, "linux/arm64")))
	if err := r.Store.Delete(amd64.Digest); err != nil {
		t.Fatal(err)
	}
	_, err := resolve(t, r.resolver(t), repository+":1").For(t.Context(), wanted("linux/amd64", "linux/arm64"))
	if list := refused(t, err, "PA403 linux/amd64"); !strings.Contains(seenOf(list[0]), amd64.Digest.String()) {
		t.Error(seenOf(list[0]))
	}
}

// A manifest that the disk has damaged is had again.
func TestDamagedCache(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	index := r.tag(t, "1", r.images(t, "linux/amd64"))
	st := newStore(t)
	path, err := st.Path(index.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Store: st, Open: r.open}).Resolve(t.Context(), repository+"@"+index.Digest.String(), "")
	if err != nil || b.Digest != index.Digest {
		t.Error(b, err)
	}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.tag(t, "1", r.images(t, "linux/amd64"))
	r.block = make(chan struct{})
	var (
		mu     sync.Mutex
		states []progress.State
	)
	resolver := New(Options{Store: newStore(t), Open: r.open, Progress: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, e.State)
	}})
	b := resolve(t, resolver, repository+":1")
	images, err := b.For(t.Context(), wanted("linux/amd64"))
	if err != nil {
		t.Fatal(err)
	}
	l := images[0].Layers[0]
	if resolver.store.Has(l.Descriptor.Digest) {
		t.Error("a layer was fetched before it was asked for")
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			if err := b.Fetch(t.Context(), l); err != nil {
				t.Error(err)
			}
		})
		wait.Go(func() {
			f, err := resolver.Open(t.Context(), l)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if data, err := io.ReadAll(f); err != nil || string(data) != "files for linux/amd64" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	for resolver.busy() == 0 { // until one of the goroutines fetches
		runtime.Gosched()
	}
	if err := b.Fetch(impatient, l); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for another's fetch: %v", err)
	}
	close(r.block)
	wait.Wait()
	if n := r.fetched[l.Descriptor.Digest]; n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if !reflect.DeepEqual(states, []progress.State{progress.Started, progress.Done}) {
		t.Errorf("events %q", states)
	}
	if resolver.busy() != 0 {
		t.Error("somebody still has the turn")
	}
}

func (r *Resolver) busy() int {
	r.turns.mu.Lock()
	defer r.turns.mu.Unlock()
	return len(r.turns.busy)
}

// A layer whose bytes are others isn't kept.
func TestFetchVerifies(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.tag(t, "1", r.images(t, "linux/amd64"))
	resolver := r.resolver(t)
	b := resolve(t, resolver, repository+":1")
	images, err := b.For(t.Context(), wanted("linux/amd64"))
	if err != nil {
		t.Fatal(err)
	}
	l := images[0].Layers[0]
	path, err := r.Store.Path(l.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("other for linux/amd64"), 0o644); err != nil {
		t.Fatal(err)
	}
	refusedCode(t, b.Fetch(t.Context(), l), "PA408")
	if resolver.store.Has(l.Descriptor.Digest) {
		t.Error("a damaged layer was kept")
	}
}

func refusedCode(t *testing.T, err error, code string) {
	t.Helper()
	if list := refusals(err); len(list) != 1 || list[0] != code {
		t.Errorf("%v: %v, want %s", err, list, code)
	}
}

// Open also serves layers that are in the store and of no base.
func TestOpenOwnLayer(t *testing.T) {
	t.Parallel()
	resolver := newRegistry(t).resolver(t)
	d, err := resolver.store.Write([]byte("own"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := resolver.Open(t.Context(), image.Layer{Descriptor: ocispec.Descriptor{Digest: d}})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := resolver.Open(t.Context(), image.Layer{Descriptor: ocispec.Descriptor{Digest: digest.FromString("?")}}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestLongFetchReports(t *testing.T) {
	t.Parallel()
	var said []int64
	m := &meter{Reader: bytes.NewReader(make([]byte, 5<<20/2)), ctx: t.Context(), advanced: func(n int64) { said = append(said, n) }}
	if n, err := io.Copy(struct{ io.Writer }{io.Discard}, m); err != nil || n != 5<<20/2 {
		t.Fatal(n, err)
	}
	if !reflect.DeepEqual(said, []int64{1 << 20, 2 << 20}) {
		t.Error(said)
	}
}

func TestLayouts(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	one := r.tag(t, "1", r.images(t, "linux/amd64"))
	r.tag(t, "2", r.images(t, "linux/amd64", "linux/arm64"))
	dir := r.Store.Dir()
	resolver := New(Options{Store: newStore(t)})
	for ref, want := range map[string]int{dir + ":1": 1, dir + ":2": 2, dir + "@" + one.Digest.String(): 1} {
		b, err := resolver.Resolve(t.Context(), "oci:"+ref, "")
		if err != nil {
			t.Fatal(err)
		}
		all, err := b.All(t.Context())
		if err != nil || len(all) != want {
			t.Errorf("%s: %v, %v", ref, all, err)
		}
		images, err := b.For(t.Context(), wanted("linux/amd64"))
		if err != nil || images[0].Ref != "" || images[0].Layers[0].From != "" {
			t.Fatalf("%+v, %v", images, err)
		}
		if f, err := resolver.Open(t.Context(), images[0].Layers[0]); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
	}
	_, err := resolver.Resolve(t.Context(), "oci:"+dir, "")
	refusedCode(t, err, "PA503") // which of the two
	_, err = resolver.Resolve(t.Context(), "oci:"+dir+":3", "")
	refusedCode(t, err, "PA403")
	_, err = resolver.Resolve(t.Context(), "oci:"+filepath.Join(dir, "nowhere"), "")
	refusedCode(t, err, "PA604")
}

func TestSplitLayout(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x").String()
	for text, want := range map[string][2]string{
		"dir": {"dir", ""}, "dir:1.2": {"dir", "1.2"}, "./a/b:c": {"./a/b", "c"}, "a:b/c": {"a:b/c", ""},
		"dir@" + d: {"dir", d}, "a@b": {"a@b", ""}, "a@b:tag": {"a@b", "tag"}, "": {"", ""},
	} {
		if dir, identifier := splitLayout(text); [2]string{dir, identifier} != want {
			t.Errorf("%q: %q, %q; want %q", text, dir, identifier, want)
		}
	}
	if runtime.GOOS == "windows" {
		if dir, identifier := splitLayout(`C:\dir:1`); dir != `C:\dir` || identifier != "1" {
			t.Errorf("%q, %q", dir, identifier)
		}
	}
}

// Layers that may not be pushed keep where clients get them.
func TestForeignLayers(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	foreign := ocispec.Descriptor{MediaType: image.DockerForeignLayer, Digest: digest.FromString("windows"), Size: 9, URLs: []string{"https://example.com/windows"}}
	config := r.write(t, image.DockerConfig, ocispec.Image{Platform: oci("windows/amd64:10.0.1"), RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{foreign.Digest}}})
	manifest := r.write(t, image.DockerManifest, ocispec.Manifest{MediaType: image.DockerManifest, Config: config, Layers: []ocispec.Descriptor{foreign}})
	r.tag(t, "1", manifest)
	images, err := resolve(t, r.resolver(t), repository+":1").For(t.Context(), wanted("windows/amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if img := images[0]; !reflect.DeepEqual(img.Layers[0].Descriptor, foreign) || img.Platform.OSVersion != "10.0.1" || img.Manifest.MediaType != image.DockerManifest {
		t.Errorf("%+v", img)
	}
}

// Both compressions of static lie beside each other.
func TestStaticIsFetched(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	for _, c := range []layer.Compression{layer.Gzip, layer.Zstd} {
		resolver := New(Options{Store: st, Compression: c})
		images, err := resolve(t, resolver, Static).For(t.Context(), wanted("linux/riscv64"))
		if err != nil {
			t.Fatal(err)
		}
		l := images[0].Layers[0]
		if l.Descriptor.MediaType != c.MediaType() || l.DiffID != staticDiffID {
			t.Errorf("%+v", l)
		}
		if err := st.Delete(l.Descriptor.Digest); err != nil {
			t.Fatal(err)
		}
		f, err := resolver.Open(t.Context(), l) // made again
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}
