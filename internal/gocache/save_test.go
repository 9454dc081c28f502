package gocache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// keep makes entries in a session of its own, as a run with an empty build cache does,
// and saves them.
func keep(t *testing.T, o Options, texts ...string) error {
	t.Helper()
	s := session(t, o)
	for _, text := range texts {
		e, body := made(text)
		if _, err := s.put(e, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	return s.Save(t.Context())
}

// found counts which of the entries a run with an empty build cache finds.
func found(t *testing.T, repo Repository, texts ...string) (n int) {
	t.Helper()
	s := session(t, Options{Repository: repo, ReadOnly: true})
	s.begin()
	for _, text := range texts {
		e, _ := made(text)
		if _, _, ok := s.get(t.Context(), e.action); ok {
			n++
		}
	}
	return n
}

// noDelete is a registry that removes no tags, as most don't.
type noDelete struct{ Repository }

func (noDelete) DeleteTag(context.Context, string) error {
	return &refusal.Error{Code: "PA404", Summary: "unsupported"}
}

// The last index used to win: what another run had added between a run's look and its
// write was lost. Where tags can't be removed, one marker is there for all, and of two
// runs at least one sees the other (publish.MoveAll).
func TestWritersAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		guard   func(Repository) Repository
		writers int
	}{
		"tags can be removed": {func(r Repository) Repository { return r }, 4},
		"tags stay":           {func(r Repository) Repository { return noDelete{r} }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := tt.guard(registryFor(t))
			var all []string
			for round := range 3 {
				var wg sync.WaitGroup
				for writer := range tt.writers {
					text := fmt.Sprintf("round %d writer %d", round, writer)
					all = append(all, text)
					wg.Go(func() {
						if err := keep(t, Options{Repository: repo}, text); err != nil {
							t.Errorf("%s: %v", text, err)
						}
					})
				}
				wg.Wait()
			}
			if n := found(t, repo, all...); n != len(all) {
				t.Errorf("%d of %d results are there", n, len(all))
			}
		})
	}
}

// meddler lets somebody else write at one point of a save.
type meddler struct {
	Repository
	before func(tag string) bool
	once   sync.Once
	write  func()
}

func (m *meddler) PushManifest(ctx context.Context, tag string, d ocispec.Descriptor, data []byte) error {
	if m.before(tag) {
		m.once.Do(m.write)
	}
	return m.Repository.PushManifest(ctx, tag, d, data)
}

// At every point at which another run can write, both results are there in the end.
func TestWriterBetween(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(tag string) bool{
		"before the marker": func(tag string) bool { return tag != "main" },
		"before the tag":    func(tag string) bool { return tag == "main" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := noDelete{registryFor(t)}
			m := &meddler{Repository: repo, before: before, write: func() {
				if err := keep(t, Options{Repository: repo}, "theirs"); err != nil {
					t.Error(err)
				}
			}}
			if err := keep(t, Options{Repository: m}, "ours"); err != nil {
				t.Error(err)
			}
			if n := found(t, repo, "ours", "theirs"); n != 2 {
				t.Errorf("%d results of 2 are there", n)
			}
		})
	}
}

// Read-only runs send nothing at all.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	if err := keep(t, Options{Repository: unwritable{repo, t}, ReadOnly: true}, "a", "b"); err != nil {
		t.Error(err)
	}
	if n := found(t, unwritable{repo, t}, "a", "b"); n != 1 {
		t.Errorf("%d results are there", n)
	}
}

type unwritable struct {
	Repository
	t *testing.T
}

func (u unwritable) PushBlob(context.Context, ocispec.Descriptor, func() (io.ReadCloser, error), func(int64)) error {
	u.t.Error("a blob was sent")
	return nil
}

func (u unwritable) PushManifest(context.Context, string, ocispec.Descriptor, []byte) error {
	u.t.Error("a manifest was sent")
	return nil
}

func (u unwritable) DeleteTag(context.Context, string) error {
	u.t.Error("a tag was deleted")
	return nil
}

// random is content that can't be compressed.
func random(name string, size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(digest.FromString(fmt.Sprint(name, i)).Encoded())
	}
	return b.String()[:size]
}

// A cache never has more than its bound after a run, and what runs use stays: what was
// unused for longest goes.
func TestNeverBeyondItsBound(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	const limit = 400_000
	steady := random("steady", 60_000)
	dir := t.TempDir()
	for run := range 20 {
		err := keep(t, Options{Repository: repo, Dir: dir, Limit: limit}, steady, random(fmt.Sprint("run ", run), 50_000+run*1000))
		if err != nil {
			t.Fatal(err)
		}
		there, err := load(t.Context(), repo, "main")
		if err != nil {
			t.Fatal(err)
		}
		_, data, err := repo.Manifest(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		var size int64
		for _, l := range m.Layers {
			size += l.Size
		}
		if size > limit || len(there.packs) == 0 {
			t.Fatalf("after run %d it has %d bytes in %d packs", run, size, len(there.packs))
		}
		// The clock of packs has seconds: make the past older.
		for _, p := range there.packs {
			p.Used = p.Used.Add(-time.Minute)
		}
		if err := move(t.Context(), repo, "main", there.was, there.packs); err != nil {
			t.Fatal(err)
		}
	}
	if n := found(t, repo, steady); n != 1 {
		t.Error("what every run uses has gone")
	}
	if n := found(t, repo, random("run 1", 51_000)); n != 0 {
		t.Error("what nobody uses is still there")
	}
	if err := keep(t, Options{Repository: repo, Limit: 10_000}, random("large", 50_000)); err != nil {
		t.Error(err)
	}
	if there, err := load(t.Context(), repo, "main"); err != nil || len(there.packs) != 0 {
		t.Errorf("%d packs are within 10 kB, %v", len(there.packs), err)
	}
}

// What a run uses without adding anything is noted, but not each time.
func TestUseIsNoted(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	there, err := load(t.Context(), repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * renewal).UTC().Truncate(time.Second)
	there.packs[0].Used = old
	if err := move(t.Context(), repo, "main", there.was, there.packs); err != nil {
		t.Fatal(err)
	}
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	noted, err := load(t.Context(), repo, "main")
	if err != nil || !noted.packs[0].Used.After(old) {
		t.Errorf("used at %v, %v", noted.packs[0].Used, err)
	}
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	if again, err := load(t.Context(), repo, "main"); err != nil || again.was != noted.was {
		t.Errorf("it was written for nothing: %v", err)
	}
}

// Small packs of others are put together too: what a run doesn't have it fetches.
func TestCompactionKeepsAll(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	var all []string
	for run := range 2*few + 3 {
		text := fmt.Sprint("content ", run)
		all = append(all, text)
		if err := keep(t, Options{Repository: repo}, text); err != nil { // each with an empty build cache
			t.Fatal(err)
		}
	}
	there, err := load(t.Context(), repo, "main")
	if err != nil || len(there.packs) > few {
		t.Errorf("%d packs, %v", len(there.packs), err)
	}
	if n := found(t, repo, all...); n != len(all) {
		t.Errorf("%d of %d results are there", n, len(all))
	}
}

// lossy is a registry that has lost, or damaged, what it was given.
type lossy struct {
	Repository
	fetch func(d ocispec.Descriptor) ([]byte, error) // nil, nil: as it is
}

func (l lossy) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	switch data, err := l.fetch(d); {
	case err != nil:
		return nil, err
	case data != nil:
		return io.NopCloser(strings.NewReader(string(data))), nil
	}
	return l.Repository.Fetch(ctx, d)
}

// notFound is what a registry says of a blob that isn't there.
type notFound struct{}

func (notFound) Error() string        { return "404" }
func (notFound) Is(target error) bool { return target == store.ErrNotFound }

// A writer mends what is damaged: a lost pack isn't named any more, an index that can't
// be read is replaced, and the run's own results are there afterwards.
func TestMends(t *testing.T) {
	t.Parallel()
	for name, fetch := range map[string]func(d ocispec.Descriptor) ([]byte, error){
		"a lost pack":  func(d ocispec.Descriptor) ([]byte, error) { return nil, only(d, packType, notFound{}) },
		"a lost index": func(d ocispec.Descriptor) ([]byte, error) { return nil, only(d, indexType, notFound{}) },
		"another index": func(d ocispec.Descriptor) ([]byte, error) {
			if d.MediaType == indexType {
				return []byte("no zstd"), nil
			}
			return nil, nil
		},
		"another pack": func(d ocispec.Descriptor) ([]byte, error) {
			if d.MediaType == packType {
				return []byte("no zstd"), nil
			}
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := registryFor(t)
			if err := keep(t, Options{Repository: repo}, "a", "b"); err != nil {
				t.Fatal(err)
			}
			before, err := load(t.Context(), repo, "main")
			if err != nil {
				t.Fatal(err)
			}
			said := 0
			s := session(t, Options{Repository: lossy{repo, fetch}, Warn: func(string) { said++ }})
			s.begin()
			e, text := made("a")
			if _, _, ok := s.get(t.Context(), e.action); ok {
				t.Error("it was taken")
			}
			if _, err := s.put(e, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			if err := s.Save(t.Context()); err != nil {
				t.Fatal(err)
			}
			if said != 1 {
				t.Errorf("%d warnings", said)
			}
			after, err := load(t.Context(), repo, "main")
			if err != nil || len(after.packs) != 1 || after.packs[0].Digest == before.packs[0].Digest {
				t.Errorf("it is as it was: %v", err)
			}
			if found(t, repo, "a") != 1 {
				t.Error("the result that was made anew isn't there")
			}
		})
	}
}

func only(d ocispec.Descriptor, mediaType string, err error) error {
	if d.MediaType == mediaType {
		return err
	}
	return nil
}

// A registry that is away, or stops in the middle, is no damage: nothing is forgotten.
func TestAwayIsNoDamage(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	before, err := load(t.Context(), repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	for name, fetch := range map[string]func(context.Context) (io.ReadCloser, error){
		"unavailable": func(context.Context) (io.ReadCloser, error) {
			return nil, &refusal.Error{Code: "PA401", Kind: refusal.Unavailable, Summary: http.StatusText(http.StatusBadGateway)}
		},
		"silent":            func(ctx context.Context) (io.ReadCloser, error) { <-ctx.Done(); return nil, ctx.Err() },
		"silent in between": func(ctx context.Context) (io.ReadCloser, error) { return io.NopCloser(silent{ctx}), nil },
	} {
		said := 0
		s := session(t, Options{Repository: away{repo, fetch}, Warn: func(string) { said++ }})
		s.stall = 50 * time.Millisecond
		s.begin()
		e, text := made("a")
		if _, _, ok := s.get(t.Context(), e.action); ok {
			t.Errorf("%s: it was taken", name)
		}
		if _, err := s.put(e, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := load(t.Context(), repo, "main"); err != nil || after.was != before.was {
			t.Errorf("%s: it was written: %v", name, err)
		}
		if said != 1 {
			t.Errorf("%s: %d warnings", name, said)
		}
	}
}

type away struct {
	Repository
	pack func(context.Context) (io.ReadCloser, error)
}

func (a away) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if d.MediaType == packType {
		return a.pack(ctx)
	}
	return a.Repository.Fetch(ctx, d)
}

type silent struct{ ctx context.Context }

func (s silent) Read([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }

// A run takes no more from the registry than its bound says.
func TestTakesNoMoreThanItsBound(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	for _, name := range []string{"a", "b", "c"} {
		if err := keep(t, Options{Repository: repo}, random(name, 50_000)); err != nil {
			t.Fatal(err)
		}
	}
	said := 0
	s := session(t, Options{Repository: repo, ReadOnly: true, Limit: 70_000, Warn: func(string) { said++ }})
	s.Fill(t.Context())
	if n := s.Stats(); n.Fetched == 0 || n.Fetched > 70_000 || said != 1 {
		t.Errorf("%d bytes were fetched, %d warnings", n.Fetched, said)
	}
}

// What is there but no build cache stays.
func TestNoCacheIsLeftAlone(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	if err := keep(t, Options{Repository: repo}, "a"); err != nil {
		t.Fatal(err)
	}
	there, err := load(t.Context(), repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	m := manifest(nil, there.packs)
	m.ArtifactType, m.Layers = "application/vnd.example", m.Layers[1:]
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := repo.PushManifest(t.Context(), "main", d, data); err != nil {
		t.Fatal(err)
	}
	if err := keep(t, Options{Repository: repo, Warn: func(string) {}}, "b"); err == nil || errors.Is(err, errDamaged) {
		t.Errorf("it was written over: %v", err)
	}
	if _, _, err := Prune(t.Context(), repo, "main", 0); err == nil {
		t.Error("it was pruned")
	}
	if now, _, err := repo.Manifest(t.Context(), "main"); err != nil || now.Digest != d.Digest {
		t.Errorf("it is another one now: %v", err)
	}
}

// A check finds what is damaged, and the rest is there afterwards.
func TestVerify(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	for _, text := range []string{"a", "b", "c"} {
		if err := keep(t, Options{Repository: repo}, text); err != nil {
			t.Fatal(err)
		}
	}
	v, err := Verify(t.Context(), repo, "main")
	if err != nil || v.Packs != 3 || v.Entries != 3 || len(v.Damaged) > 0 {
		t.Errorf("%+v %v", v, err)
	}
	there, err := load(t.Context(), repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Fetch(t.Context(), there.packs[1].descriptor())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole { // any flipped byte
		flipped := []byte(strings.Clone(string(whole)))
		flipped[i] ^= 1
		if err := verifyPack(t.Context(), lossy{repo, func(ocispec.Descriptor) ([]byte, error) { return flipped, nil }}, there.packs[1]); err == nil {
			t.Errorf("byte %d is another one, and nobody notices", i)
		}
	}
	lost := lossy{repo, func(d ocispec.Descriptor) ([]byte, error) {
		if d.Digest == there.packs[1].Digest {
			return nil, notFound{}
		}
		return nil, nil
	}}
	if v, err := Verify(t.Context(), lost, "main"); err != nil || v.Packs != 2 || len(v.Damaged) != 1 {
		t.Errorf("%+v %v", v, err)
	}
	if found(t, repo, "a", "b", "c") != 2 {
		t.Error("what was good isn't there any more")
	}
	if v, err := Verify(t.Context(), repo, "main"); err != nil || len(v.Damaged) > 0 {
		t.Errorf("%+v %v", v, err)
	}
	gone := away{repo, func(context.Context) (io.ReadCloser, error) {
		return nil, &refusal.Error{Code: "PA401", Kind: refusal.Unavailable, Summary: "away"}
	}}
	if _, err := Verify(t.Context(), gone, "main"); err == nil {
		t.Error("a registry that is away is good")
	}
	if v, err := Verify(t.Context(), repo, "other"); err != nil || v.Packs != 0 {
		t.Errorf("%+v %v", v, err)
	}
}

// What other projects have built on this machine a moment ago isn't uploaded with what a
// Dockerfile's build has made.
func TestCollectsItsOwn(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	dir := disk{t.TempDir()}
	put := func(text string, at time.Time) {
		e, body := made(text)
		if _, err := dir.put(e, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir.path(e.action, "a"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	put("somebody else's", time.Now().Add(-10*time.Minute))
	s := session(t, Options{Repository: repo, Dir: dir.dir})
	put("made by this run", time.Now().Add(time.Second))
	s.Collect()
	if err := s.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found(t, repo, "made by this run") != 1 || found(t, repo, "somebody else's") != 0 {
		t.Error("it isn't its own that it shares")
	}
}
