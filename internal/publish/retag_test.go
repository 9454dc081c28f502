package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/store"
)

// shared is a repository of several writers in which one request is served at a
// time, in an order that the test decides.
type shared struct {
	mu      sync.Mutex // guards what follows
	tags    map[string]string
	pending []chan struct{} // requests that wait to be served
	writer  []int           // whose they are
	deletes bool            // the registry removes tags
}

// turn waits until the test lets this request be served.
func (s *shared) turn(writer int) {
	c := make(chan struct{})
	s.mu.Lock()
	s.pending, s.writer = append(s.pending, c), append(s.writer, writer)
	s.mu.Unlock()
	<-c
}

// choice picks the next of several writers; those with a request are sorted.
type choice func(writers []int) int

// serve lets requests be served until nobody has one. It runs in a bubble of
// synctest.
func (s *shared) serve(choose choice) {
	for {
		synctest.Wait()
		s.mu.Lock()
		if len(s.pending) == 0 {
			s.mu.Unlock()
			return
		}
		writers := slices.Clone(s.writer)
		slices.Sort(writers)
		i := slices.Index(s.writer, choose(slices.Compact(writers)))
		c := s.pending[i]
		s.pending, s.writer = slices.Delete(s.pending, i, i+1), slices.Delete(s.writer, i, i+1)
		s.mu.Unlock()
		close(c)
	}
}

// view is the repository as one writer uses it.
type view struct {
	*shared
	writer int
}

func (v view) Name() string { return "example.com/app" }

func (v view) Manifest(_ context.Context, tag string) (ocispec.Descriptor, []byte, error) {
	v.turn(v.writer)
	v.mu.Lock()
	defer v.mu.Unlock()
	content, ok := v.tags[tag]
	if !ok {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%s: %w", tag, store.ErrNotFound)
	}
	return describe(content), []byte(content), nil
}

func (v view) Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	d, _, err := v.Manifest(ctx, tag)
	return d, err
}

func (v view) PutManifest(_ context.Context, tag string, _ ocispec.Descriptor, data []byte) (bool, error) {
	v.turn(v.writer)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tags[tag] = string(data)
	return true, nil
}

func (v view) PushManifest(ctx context.Context, tag string, d ocispec.Descriptor, data []byte) error {
	_, err := v.PutManifest(ctx, tag, d, data)
	return err
}

func (v view) DeleteTag(_ context.Context, tag string) error {
	v.turn(v.writer)
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.deletes {
		return errors.New("405")
	}
	if _, ok := v.tags[tag]; !ok {
		return fmt.Errorf("%s: %w", tag, store.ErrNotFound)
	}
	delete(v.tags, tag)
	return nil
}

func (view) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, errors.New("not used")
}
func (v view) Tags(context.Context) ([]string, error) {
	v.turn(v.writer)
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.tags)), nil
}
func (view) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}
func (view) Exists(context.Context, ocispec.Descriptor) (bool, error) { return true, nil }
func (view) Mount(context.Context, ocispec.Descriptor, string) (bool, error) {
	return false, nil
}
func (view) PushBlob(context.Context, ocispec.Descriptor, func() (io.ReadCloser, error), func(int64)) error {
	return nil
}

func describe(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(content), Size: int64(len(content))}
}

// merge adds a writer's platform to what the tag names. The content of an index is
// the list of its platforms.
func (v view) merge(ctx context.Context, platform string) error {
	was, old, err := v.Manifest(ctx, "1.0")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	content := strings.TrimPrefix(string(old)+" "+platform, " ")
	return publish.MoveAll(ctx, progress.Discard, &publish.Retag{
		Repo: v, Target: describe(content), Data: []byte(content), Expect: map[string]digest.Digest{"1.0": was.Digest},
		Moves: []publish.Move{{Tag: "1.0", Old: was.Digest, New: describe(content).Digest}},
	})
}

// race runs a number of merges, with requests in the order that choose gives, and
// checks that a merge that succeeded hasn't lost its platform; where tags can't be
// removed, that another one says that it may have.
func race(t *testing.T, writers int, deletes bool, choose choice) (succeeded int) {
	t.Helper()
	s := &shared{tags: map[string]string{"1.0": "old"}, deletes: deletes}
	errs := make([]error, writers)
	synctest.Test(t, func(t *testing.T) {
		for w := range writers {
			go func() { errs[w] = view{s, w}.merge(t.Context(), fmt.Sprint("platform-", w)) }()
		}
		s.serve(choose)
	})
	now := strings.Fields(s.tags["1.0"])
	replaced := ""
	for w, err := range errs {
		var changed *publish.Changed
		switch {
		case err == nil:
			succeeded++
		case !errors.As(err, &changed):
			t.Errorf("writer %d: %v", w, err)
		case changed.Replaced:
			replaced += " " + changed.Other.Digest.String()
		}
	}
	for w, err := range errs {
		if err == nil && !slices.Contains(now, fmt.Sprint("platform-", w)) && (deletes || replaced == "") {
			t.Errorf("platform-%d was merged and lost: the tag has %q", w, now)
		}
	}
	if tags := slices.Sorted(maps.Keys(s.tags)); deletes && len(tags) != 1 {
		t.Errorf("tags are left: %q", tags)
	}
	if !slices.Contains(now, "old") {
		t.Errorf("what was there is lost: %q", now)
	}
	return succeeded
}

// TestEveryOrder goes through all orders in which the requests of two merges can
// reach a registry.
func TestEveryOrder(t *testing.T) {
	t.Parallel()
	for _, deletes := range []bool{true, false} {
		t.Run(fmt.Sprintf("deletes=%v", deletes), func(t *testing.T) {
			t.Parallel()
			orders, none := 0, 0
			// Each run follows a prefix of choices and then takes the first writer;
			// the next prefix is the last one that had another choice.
			var prefix []int
			for {
				var taken, options []int
				n := race(t, 2, deletes, func(writers []int) int {
					pick := 0
					if len(taken) < len(prefix) {
						pick = prefix[len(taken)]
					}
					taken, options = append(taken, pick), append(options, len(writers))
					return writers[pick]
				})
				orders++
				if n == 0 {
					none++
				}
				last := len(taken) - 1
				for last >= 0 && taken[last]+1 >= options[last] {
					last--
				}
				if last < 0 || t.Failed() {
					break
				}
				prefix = append(slices.Clone(taken[:last]), taken[last]+1)
			}
			t.Logf("%d orders; in %d of them neither merge succeeded", orders, none)
		})
	}
}

// TestManyWriters tries orders of four merges at random.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		race(t, 4, seed%2 == 0, func(writers []int) int { return writers[random.IntN(len(writers))] })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
