package imagestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// cached makes an image of one layer in a layout, whose content is text.
func cached(t *testing.T, st *store.Store, text string) image.Image {
	t.Helper()
	l, err := layer.Write(context.Background(), st, []layer.Entry{{Name: "file", Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}}, layer.Options{})
	check(t, err)
	img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: "amd64"}, Config: ocispec.Image{}, Layers: []image.Layer{l}})
	check(t, err)
	return img
}

func open(t *testing.T, fetch imagestore.Fetcher) (*imagestore.Store, *store.Store) {
	t.Helper()
	dir := t.TempDir()
	blobs, err := store.Create(filepath.Join(dir, "blobs"))
	check(t, err)
	images, err := imagestore.Open(filepath.Join(dir, "images"), fetch)
	check(t, err)
	return images, blobs
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, s *imagestore.Store) []string {
	t.Helper()
	list, err := s.List()
	check(t, err)
	var all []string
	for _, img := range list {
		all = append(all, strings.Join(img.Names, " "))
	}
	return all
}

func TestNames(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, blobs := open(t, nil)
	src := image.Layout{Store: blobs}
	a, b := cached(t, blobs, "a"), cached(t, blobs, "b")
	_, err := s.Add(ctx, []string{"docker.io/library/x:1", "docker.io/library/x:latest"}, src, a.Manifest, "")
	check(t, err)
	_, err = s.Add(ctx, []string{"docker.io/library/x:latest"}, src, b.Manifest, "")
	check(t, err)
	if got, want := names(t, s), []string{"docker.io/library/x:latest", "docker.io/library/x:1"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	for _, text := range []string{"x", "x:latest", "docker.io/x", "index.docker.io/library/x", b.Manifest.Digest.String(), b.Manifest.Digest.Encoded()[:12], "x@" + b.Manifest.Digest.String(), b.Config.Digest.String(), b.Config.Digest.Encoded()[:20]} {
		if img, err := s.Find(text); err != nil || img.Descriptor.Digest != b.Manifest.Digest {
			t.Errorf("%s: %v %v", text, img.Descriptor.Digest, err)
		}
	}
	for _, text := range []string{"y", "x:2", "sha256:" + strings.Repeat("0", 64), "zzz", "ffffffffffff"} {
		if _, err := s.Find(text); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// An image stays without a name, and goes with what only it needs.
	_, err = s.Add(ctx, []string{"docker.io/library/x:1"}, src, b.Manifest, "")
	check(t, err)
	if got := names(t, s); len(got) != 2 || got[0] != "docker.io/library/x:latest docker.io/library/x:1" && got[1] != "docker.io/library/x:latest docker.io/library/x:1" {
		t.Errorf("%q", got)
	}
	if _, err := s.Remove(ctx, b.Manifest.Digest.String(), false); err == nil {
		t.Error("an image with two names went by its digest")
	}
	r, err := s.Remove(ctx, b.Manifest.Digest.String(), true)
	if err != nil || len(r.Untagged) != 2 || r.Deleted != b.Manifest.Digest {
		t.Errorf("%+v %v", r, err)
	}
	held, err := store.Open(s.Dir())
	check(t, err)
	if held.Has(b.Layers[0].Descriptor.Digest) || !held.Has(a.Layers[0].Descriptor.Digest) {
		t.Error("the wrong blobs went")
	}
	if !blobs.Has(b.Layers[0].Descriptor.Digest) {
		t.Error("a blob of the cache went")
	}
}

// TestTogether adds and removes side by side, as builds of a CI machine do: what was
// added and not removed is whole.
func TestTogether(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, blobs := open(t, nil)
	src := image.Layout{Store: blobs}
	var images []image.Image
	for i := range 12 {
		images = append(images, cached(t, blobs, fmt.Sprint("content ", i)))
	}
	var wg sync.WaitGroup
	for i, img := range images {
		wg.Go(func() {
			mine, err := imagestore.Open(s.Dir(), nil) // as another process has it
			if err == nil {
				_, err = mine.Add(ctx, []string{fmt.Sprintf("example.com/x:%d", i)}, src, img.Manifest, "")
			}
			if err == nil && i%2 == 0 {
				_, err = mine.Remove(ctx, fmt.Sprintf("example.com/x:%d", i), false)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := 1; i < len(images); i += 2 {
		img, err := s.Find(fmt.Sprintf("example.com/x:%d", i))
		check(t, err)
		check(t, s.Save(ctx, io.Discard, []imagestore.Saved{{Image: img}}, platform.Local()))
	}
	if got := names(t, s); len(got) != len(images)/2 {
		t.Errorf("%q", got)
	}
}

// TestFetched: what a pushed image lacks here comes from where it was pushed to, and
// stays.
func TestFetched(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	asked := 0
	var far *store.Store
	s, near := open(t, func(_ context.Context, repository string, d ocispec.Descriptor) (io.ReadCloser, error) {
		asked++
		if repository != "example.com/far" {
			t.Errorf("asked %s", repository)
		}
		return far.Blob(d.Digest)
	})
	img := cached(t, near, "far away")
	var err error
	far, err = store.Create(t.TempDir())
	check(t, err)
	check(t, far.Link(img.Layers[0].Descriptor.Digest, near))
	check(t, near.Delete(img.Layers[0].Descriptor.Digest))
	if _, err := s.Add(ctx, []string{"example.com/x:1"}, image.Layout{Store: near}, img.Manifest, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an image without its layer was added: %v", err)
	}
	_, err = s.Add(ctx, []string{"example.com/x:1"}, image.Layout{Store: near}, img.Manifest, "example.com/far")
	check(t, err)
	found, err := s.Find("example.com/x:1")
	check(t, err)
	for range 2 {
		check(t, s.Save(ctx, io.Discard, []imagestore.Saved{{Image: found, Names: found.Names}}, platform.Local()))
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestSaveLoad(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, blobs := open(t, nil)
	img := cached(t, blobs, "saved")
	index, err := image.WriteIndex(blobs, []image.Image{img, cached(t, blobs, "other")}, nil, image.OCI)
	check(t, err)
	_, err = s.Add(ctx, []string{"docker.io/library/a:1"}, image.Layout{Store: blobs}, index, "")
	check(t, err)
	found, err := s.Find("a:1")
	check(t, err)
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		check(t, s.Save(ctx, b, []imagestore.Saved{{Image: found, Names: found.Names}}, platform.Local()))
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("saved twice, it isn't the same")
	}
	other, _ := open(t, nil)
	loaded, err := other.Load(ctx, bytes.NewReader(first.Bytes()), "test")
	check(t, err)
	if len(loaded) != 1 || loaded[0].Descriptor.Digest != index.Digest || !slices.Equal(loaded[0].Names, []string{"docker.io/library/a:1"}) {
		t.Errorf("%+v", loaded)
	}
	// Cut anywhere, an archive is refused, and nothing of it has a name.
	third, _ := open(t, nil)
	for _, n := range []int{0, 100, 512, 2000, first.Len() / 2} {
		_, err := third.Load(ctx, bytes.NewReader(first.Bytes()[:n]), "test")
		var e *refusal.Error
		if !errors.As(err, &e) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if got := names(t, third); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(third.Dir()), "load-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFamiliar(t *testing.T) {
	t.Parallel()
	for canonical, want := range map[string]string{
		"docker.io/library/alpine:3": "alpine:3", "docker.io/team/app": "team/app", "ghcr.io/a/b:1": "ghcr.io/a/b:1", "docker.io/library/a/b:1": "library/a/b:1",
	} {
		if got := imagestore.Familiar(canonical); got != want {
			t.Errorf("%s is %s, not %s", canonical, got, want)
		}
		ref, err := imagestore.Canonical(want)
		if err != nil || ref.Repository != strings.TrimSuffix(strings.TrimSuffix(canonical, ":1"), ":3") {
			t.Errorf("%s is %s again: %v", want, ref, err)
		}
	}
}
