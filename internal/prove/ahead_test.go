package prove_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/prove"
)

// TestAhead looks into layers while they arrive: the findings are those of a layer that
// is read afterwards, and what isn't kept, or is no layer, is read then.
func TestAhead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	noise := make([]byte, 3<<20) // more than waits to be looked into
	_, err := rand.Read(noise)
	if err != nil {
		t.Fatal(err)
	}
	wrong := f.layer(file("noise", string(noise)), exe("usr/bin/x", compile(t, small, "linux/386")))
	kept, dropped := f.layer(file("a", "kept")), f.layer(file("a", "dropped"))
	index := f.index(f.manifest(shape{platform: "linux/amd64", layers: []layer{wrong, kept, dropped}}))
	cache := &memory{data: map[string][]byte{}}
	arrive := func(l layer, keep bool) {
		a := prove.NewAhead(cache, t.TempDir())
		r, err := f.Blob(l.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		// Pieces of odd sizes, as a network gives them.
		if _, err := io.CopyBuffer(a, struct{ io.Reader }{r}, make([]byte, 1000003)); err != nil {
			t.Fatal(err)
		}
		if keep {
			a.Close(l.Digest)
		} else {
			a.Close("")
		}
	}
	arrive(wrong, true)
	arrive(kept, true)
	arrive(dropped, false)
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "history": bytes.Repeat([]byte("x"), 5<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for _, rubbish := range [][]byte{config, noise, {0x1f, 0x8b, 8}, nil} {
		a := prove.NewAhead(cache, "")
		if n, err := a.Write(rubbish); n != len(rubbish) || err != nil {
			t.Errorf("%d bytes of %d, %v", n, len(rubbish), err)
		}
		a.Close(digest.FromBytes(rubbish))
	}
	src := &counting{Source: image.Layout{Store: f.Store}, ends: map[digest.Digest]int{}}
	r, err := prove.Verify(t.Context(), src, index, prove.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, "PA202 warning linux/amd64")
	for l, ends := range map[digest.Digest]int{wrong.Digest: 0, kept.Digest: 0, dropped.Digest: 1} {
		if src.ends[l] != ends {
			t.Errorf("%s was read %d times afterwards, not %d", l, src.ends[l], ends)
		}
	}
}
