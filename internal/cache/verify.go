package cache

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
	"github.com/anyarch/anyarch/internal/store"
)

// Verified is what a check of the whole cache found.
type Verified struct {
	Items   int
	Bytes   int64
	Damaged []string // what was removed, below the cache's directory
	Unknown int      // items that nothing says the content of; they are checked when they are used
}

// Verify reads everything and removes what isn't what its name, or its head, says.
func (c *Cache) Verify(ctx context.Context) (Verified, error) {
	var (
		done Verified
		mu   sync.Mutex
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, it := range c.items() {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			good, known := c.check(it)
			mu.Lock()
			defer mu.Unlock()
			done.Items++
			switch {
			case !known:
				done.Unknown++
			case good:
				done.Bytes += it.size
			default:
				if rel, err := filepath.Rel(c.dir, it.path); err == nil {
					done.Damaged = append(done.Damaged, filepath.ToSlash(rel))
				}
				return c.drop(it)
			}
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(done.Damaged)
	return done, err
}

// check reports whether an item is what it should be; known is false if nobody can tell.
func (c *Cache) check(it item) (good, known bool) {
	base := filepath.Base(it.path)
	switch {
	case it.stray:
		return false, false
	case it.part == blobsDir:
		return hasDigest(it.path, digest.Digest(filepath.Base(filepath.Dir(it.path))+":"+base)), true
	case it.part == memoDir:
		data, err := os.ReadFile(it.path)
		return err != nil || store.Intact(data), true
	case it.part == layersDir:
		algorithm, encoded, _ := strings.Cut(strings.TrimSuffix(base, ".tar"), "-")
		return hasDigest(it.path, digest.Digest(algorithm+":"+encoded)), true
	case it.part == packagesDir && filepath.Base(filepath.Dir(it.path)) == "index":
		if strings.HasSuffix(base, ".json") {
			return true, true // it says what the other is
		}
		var known struct{ SHA256 string }
		data, err := os.ReadFile(it.path + ".json")
		if err != nil || json.Unmarshal(data, &known) != nil {
			return true, false
		}
		return hasDigest(it.path, digest.Digest("sha256:"+known.SHA256)), true
	case it.part == packagesDir && len(base) == 64:
		return hasDigest(it.path, digest.Digest("sha256:"+base)), true
	case it.part == programsDir:
		return c.checkPrograms(it)
	}
	// Package managers check what they take from the cache, and so do worktrees.
	return true, false
}

func (c *Cache) checkPrograms(it item) (good, known bool) {
	lock := flock.New(it.lock)
	if held, err := lock.TryLock(); err != nil || !held {
		return true, false // a run is writing to it
	}
	defer lock.Close()
	entries, err := os.ReadDir(it.path)
	if err != nil {
		return true, false
	}
	good = true
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		intact, stamped := buildid.Intact(filepath.Join(it.path, e.Name()))
		known = known || stamped
		good = good && intact
	}
	return good, known
}

func hasDigest(path string, want digest.Digest) bool {
	if want.Validate() != nil {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return os.IsNotExist(err) // pruned meanwhile
	}
	defer f.Close()
	verifier := want.Verifier()
	_, err = io.Copy(verifier, f)
	return err == nil && verifier.Verified()
}

// drop removes an item whoever uses it: nothing good comes of it.
func (c *Cache) drop(it item) error {
	var trash []string
	err := c.gate.alone(func() error {
		if it.lock == "" {
			if err := os.Remove(it.path); err != nil && !os.IsNotExist(err) {
				return ignoreBusy(err)
			}
			return nil
		}
		_, err := c.remove(it, 1, &trash)
		return err
	})
	for _, dir := range trash {
		removeTree(dir)
	}
	if err != nil {
		return store.DiskError(it.path, "remove", err)
	}
	return nil
}
