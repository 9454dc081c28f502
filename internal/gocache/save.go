package gocache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
)

// few is how many small packs may be there before they are put together.
const few = 8

// renewal is how old the use that a pack was noted for may be before it is noted again,
// so that runs which add nothing don't write for that alone.
const renewal = 12 * time.Hour

// Save writes to the registry what this run has used and it hasn't, and keeps it within
// its bound: packs that no run has used for longest go. Nothing is written if nothing
// is new, or if the cache is read-only. What other runs write at the same time stays.
func (s *Session) Save(ctx context.Context) error {
	if s.o.ReadOnly {
		return nil
	}
	s.mu.Lock()
	used, seen := slices.Clone(s.used), map[ID]bool{}
	s.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	for _, e := range used {
		seen[e.action] = true
	}
	s.begin()
	select {
	case <-s.loaded:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var own []*pack                      // made by this run, on the first attempt
	replaced := map[digest.Digest]bool{} // by them
	first := true
	return update(ctx, s.o.Repository, s.o.Tag, func(packs []*pack) ([]*pack, bool, error) {
		now := time.Now().UTC().Truncate(time.Second)
		before := len(packs)
		packs = slices.DeleteFunc(packs, s.isBad)
		write := len(packs) < before
		for _, p := range packs {
			if slices.ContainsFunc(p.entries, func(e entry) bool { return seen[e.action] }) {
				write = write || now.Sub(p.Used) > renewal
				p.Used = now
			}
		}
		if first {
			first = false
			var err error
			if own, err = s.push(ctx, missing(packs, used), now); err != nil {
				return nil, false, err
			}
			if len(own) > 0 {
				small, last := s.small(packs)
				merged, err := s.push(ctx, entriesOf(small), last)
				if err != nil {
					return nil, false, err
				}
				for _, p := range small {
					replaced[p.Digest] = true
				}
				own = append(merged, own...)
			}
		}
		packs = slices.DeleteFunc(packs, func(p *pack) bool {
			return replaced[p.Digest] || slices.ContainsFunc(own, func(o *pack) bool { return o.Digest == p.Digest })
		})
		kept := bounded(needed(append(packs, own...)), s.o.Limit)
		return kept, write || len(own) > 0 || len(kept) < len(packs), nil
	})
}

// isBad reports whether this run has found a pack to be another one than the index says,
// or not to be there.
func (s *Session) isBad(p *pack) bool {
	return slices.ContainsFunc(s.packs, func(r *remotePack) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.Digest == p.Digest && r.bad
	})
}

// missing are those entries that no pack has, and that one may have.
func missing(packs []*pack, entries []entry) []entry {
	there := map[ID]bool{}
	for _, p := range packs {
		for _, e := range p.entries {
			there[e.action] = true
		}
	}
	var list []entry
	for _, e := range entries {
		if !there[e.action] && e.size <= maxEntry {
			list = append(list, e)
		}
	}
	return list
}

// small gives packs that are to be put together, since there are too many of their
// size, and when one of them was used last. What is in them is on the disk.
func (s *Session) small(packs []*pack) (list []*pack, last time.Time) {
	var small []*remotePack
	for _, r := range s.packs {
		if r.Size < packSize/16 && slices.ContainsFunc(packs, func(p *pack) bool { return p.Digest == r.Digest }) {
			small = append(small, r)
		}
	}
	if len(small) < few {
		return nil, last
	}
	for _, r := range small {
		s.fetch(r)
		r.wait()
		if slices.ContainsFunc(r.entries, func(e entry) bool {
			got, _, ok := s.disk.get(e.action)
			return !ok || got != e
		}) {
			continue // it stays as it is
		}
		if list = append(list, r.pack); r.Used.After(last) {
			last = r.Used
		}
	}
	return list, last
}

func entriesOf(packs []*pack) []entry {
	var list []entry
	for _, p := range packs {
		list = append(list, p.entries...)
	}
	return list
}

// needed leaves out packs all of whose entries others have: two runs may have put the
// same together.
func needed(packs []*pack) []*pack {
	holders := map[ID]int{}
	for _, p := range packs {
		for _, e := range p.entries {
			holders[e.action]++
		}
	}
	return slices.DeleteFunc(slices.Clone(packs), func(p *pack) bool {
		if slices.ContainsFunc(p.entries, func(e entry) bool { return holders[e.action] < 2 }) {
			return false
		}
		for _, e := range p.entries {
			holders[e.action]--
		}
		return true
	})
}

// bounded leaves out what was unused for longest, until the rest fits, its index
// included, and can be read again.
func bounded(packs []*pack, limit int64) []*pack {
	packs = slices.Clone(packs)
	var total, index int64
	for _, p := range packs {
		total, index = total+p.Size+p.indexed(), index+p.indexed()
	}
	byUse := slices.Clone(packs)
	slices.SortStableFunc(byUse, func(x, y *pack) int { return cmp.Compare(x.Used.Unix(), y.Used.Unix()) })
	for _, p := range byUse {
		if (limit <= 0 || total <= limit) && index <= maxIndex/2 && len(packs) <= maxPacks {
			break
		}
		total, index = total-p.Size-p.indexed(), index-p.indexed()
		packs = slices.DeleteFunc(packs, func(q *pack) bool { return q == p })
	}
	return packs
}

// maxPacks is how many packs fit into a manifest that every registry takes: 4 MiB
// (distribution-spec v1.1.1, "Pushing Manifests"), and some 200 bytes for each.
const maxPacks = 15_000

// push packs entries, which were used at a time, and uploads the packs.
func (s *Session) push(ctx context.Context, entries []entry, used time.Time) ([]*pack, error) {
	var groups [][]entry
	var size int64 = packSize
	for _, e := range entries {
		if size >= packSize {
			groups, size = append(groups, nil), 0
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], e)
		size += e.size
	}
	made := make([]*pack, len(groups))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, group := range groups {
		g.Go(func() error {
			file, err := os.CreateTemp(s.o.Scratch, "anyarch-pack-")
			if err != nil {
				return err
			}
			defer os.Remove(file.Name())
			p, err := writePack(gctx, s.disk, group, file)
			if cerr := file.Close(); err == nil {
				err = cerr
			}
			if err != nil || p.Count == 0 {
				return err
			}
			err = s.o.Repository.PushBlob(gctx, p.descriptor(), func() (io.ReadCloser, error) { return os.Open(file.Name()) }, nil)
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.stats.Pushed += p.Size
			s.mu.Unlock()
			p.Used, made[i] = used, p
			return nil
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(made, func(p *pack) bool { return p == nil }), err
}

const (
	// attempts is how often a writer tries to be alone.
	attempts     = 12
	firstBackoff = 100 * time.Millisecond // doubled each time, with jitter
	maxBackoff   = 4 * time.Second
)

// update replaces the packs that a tag names by those that change gives; it writes
// nothing if that says false. The tag is guarded (publish.MoveAll): whoever overlaps
// with another writer reads again what is there and changes that, so that nothing which
// one of them adds is lost. change is called for each attempt. Of a damaged cache nothing
// is left.
func update(ctx context.Context, repo Repository, tag string, change func(packs []*pack) ([]*pack, bool, error)) error {
	var lost []*pack // what another writer had put there before it was replaced
	for attempt, pause := 1, firstBackoff; ; attempt, pause = attempt+1, min(2*pause, maxBackoff) {
		now, err := load(ctx, repo, tag)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		damaged := err != nil
		for _, p := range lost {
			if !slices.ContainsFunc(now.packs, func(q *pack) bool { return q.Digest == p.Digest }) {
				now.packs = append(now.packs, p)
			}
		}
		packs, write, err := change(now.packs)
		if err != nil || !write && !damaged && len(lost) == 0 {
			return err
		}
		err = move(ctx, repo, tag, now.was, packs)
		var changed *publish.Changed
		if err == nil || !errors.As(err, &changed) || attempt == attempts {
			return err
		}
		if changed.Replaced {
			other, err := load(ctx, repo, changed.Other.Digest.String())
			if err != nil {
				return err
			}
			lost = append(lost, other.packs...)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// move uploads the index and moves the tag, if it still names what it did.
func move(ctx context.Context, repo Repository, tag string, was digest.Digest, packs []*pack) error {
	index, err := encodeIndex(packs)
	if err != nil {
		return err
	}
	m := manifest(index, packs)
	for _, blob := range []struct {
		d    ocispec.Descriptor
		data []byte
	}{{m.Config, ocispec.DescriptorEmptyJSON.Data}, {m.Layers[0], index}} {
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.data)), nil }
		if err := repo.PushBlob(ctx, blob.d, open, nil); err != nil {
			return err
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return publish.MoveAll(ctx, progress.Discard, &publish.Retag{
		Repo: repo, Target: d, Data: data,
		Moves:  []publish.Move{{Tag: tag, Old: was, New: d.Digest}},
		Expect: map[string]digest.Digest{tag: was},
	})
}

// Prune keeps a cache within a bound; 0 empties it. It gives how many bytes of packs
// the tag names less, and how many are left. The registry removes them when it collects
// garbage.
func Prune(ctx context.Context, repo Repository, tag string, limit int64) (freed, left int64, err error) {
	err = update(ctx, repo, tag, func(packs []*pack) ([]*pack, bool, error) {
		freed, left = 0, 0
		for _, p := range packs {
			freed += p.Size
		}
		var kept []*pack
		if limit > 0 {
			kept = bounded(packs, limit)
		}
		for _, p := range kept {
			left += p.Size
		}
		freed -= left
		return kept, freed > 0, nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("the tag isn't moved: %w", err)
	}
	return freed, left, nil
}
