package cache

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// DefaultLimit is what the cache may take if its user says nothing, in bytes.
const DefaultLimit = 10 << 30

// ParseSize reads a size such as 500MB, 10GiB or 0, which means no bound. Anything
// else is a [refusal.Error] with code PA502.
func ParseSize(text string) (int64, error) {
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.ToLower(strings.TrimSpace(text[len(number):]))
	factor, known := map[string]float64{
		"": 1, "b": 1, "k": 1 << 10, "kb": 1e3, "kib": 1 << 10, "m": 1 << 20, "mb": 1e6, "mib": 1 << 20,
		"g": 1 << 30, "gb": 1e9, "gib": 1 << 30, "t": 1 << 40, "tb": 1e12, "tib": 1 << 40,
	}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || n < 0 || n*factor >= 1<<62 {
		return 0, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--cache-size " + text, Summary: "not a size", Fix: []string{"--cache-size 10GiB", "--cache-size 0   # no bound"}}
	}
	return int64(n * factor), nil
}

// Bounds say what a pruning removes, the longest unused first.
type Bounds struct {
	Limit  int64     // until this many bytes are left; 0 is no bound
	Before time.Time // everything that was last used before; zero for nothing
	DryRun bool      // remove nothing
}

// Pruned is what a pruning did.
type Pruned struct {
	Items  int
	Freed  int64 // bytes
	Left   int64 // bytes
	InUse  int64 // bytes of what would have gone, but runs hold
	Leases int   // other runs that hold a lease
}

// batch is how much is removed while the gate is held.
const batch = 128

// Prune removes the longest unused until the bounds are kept. What other runs may be
// using stays, however old it is; what this one has used may go.
func (c *Cache) Prune(ctx context.Context, b Bounds) (Pruned, error) {
	var done Pruned
	items := c.items()
	for _, it := range items {
		done.Left += it.size
	}
	slices.SortStableFunc(items, func(x, y item) int {
		if x.stray != y.stray {
			return cmp.Compare(btoi(y.stray), btoi(x.stray))
		}
		return x.used.Compare(y.used)
	})
	wanted := func(it item) bool {
		return it.stray || b.Limit > 0 && done.Left > b.Limit || it.used.Before(b.Before)
	}
	var trash []string
	defer func() {
		for _, dir := range trash {
			removeTree(dir)
		}
	}()
	for at := 0; at < len(items); {
		if err := ctx.Err(); err != nil {
			return done, context.Cause(ctx)
		}
		if !wanted(items[at]) {
			break // nor is any after it
		}
		err := c.gate.alone(func() error {
			oldest, living, err := c.oldest()
			if err != nil {
				return err
			}
			done.Leases = living
			for n := 0; n < batch && at < len(items) && wanted(items[at]); n++ {
				it := items[at]
				at++
				if living > 0 && !it.used.Before(oldest.Add(-margin)) {
					if !it.stray {
						done.InUse += it.size
					}
					continue
				}
				gone := true
				if !b.DryRun {
					if gone, err = c.remove(it, living, &trash); err != nil {
						return store.DiskError(it.path, "remove", err)
					}
				}
				if gone {
					done.Items++
					done.Freed += it.size
					done.Left -= it.size
				} else {
					done.InUse += it.size
				}
			}
			return nil
		})
		if err != nil {
			return done, err
		}
	}
	if !b.DryRun {
		// What a pruner that was killed had put there.
		if left, err := filepath.Glob(c.path(trashDir, "*")); err == nil {
			trash = append(trash, left...)
		}
	}
	return done, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// remove takes an item away, unless it was used since it was looked at. living is
// how many processes hold leases. The gate is held alone.
func (c *Cache) remove(it item, living int, trash *[]string) (bool, error) {
	if it.lock == "" {
		info, err := os.Lstat(it.path)
		if err != nil {
			return true, nil //nolint:nilerr // somebody else was first
		}
		if !info.ModTime().Equal(it.used) {
			return false, nil
		}
		if err := os.Remove(it.path); err != nil && !os.IsNotExist(err) {
			return false, ignoreBusy(err)
		}
		return true, nil
	}
	lock := flock.New(it.lock)
	held, err := lock.TryLock()
	if err != nil || !held {
		return false, ignoreBusy(err)
	}
	defer lock.Close()
	for _, path := range append([]string{it.path}, it.with...) {
		if info, err := os.Lstat(path); err == nil && info.ModTime().After(it.used) {
			return false, nil
		}
	}
	if err := os.MkdirAll(c.path(trashDir), 0o755); err != nil {
		return false, err
	}
	// What tells about the others goes first: without it they are worth nothing.
	for _, path := range append(slices.Clone(it.with), it.path) {
		to := c.path(trashDir, fmt.Sprintf("%d-%d-%s", os.Getpid(), time.Now().UnixNano(), filepath.Base(path)))
		switch err := os.Rename(path, to); {
		case err == nil:
			*trash = append(*trash, to)
		case !os.IsNotExist(err):
			return false, ignoreBusy(err)
		}
	}
	if living == 0 {
		// Nobody waits for the lock, and nobody can begin to while the gate is shut.
		_ = os.Remove(it.lock)
		_ = os.Remove(filepath.Dir(it.lock)) // if it was the last
	}
	return true, nil
}

// ignoreBusy forgets that Windows doesn't remove what is open.
func ignoreBusy(err error) error {
	if isBusy(err) {
		return nil
	}
	return err
}

// removeTree removes a directory, also one with directories that aren't writable.
func removeTree(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
