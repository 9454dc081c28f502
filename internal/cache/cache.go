// Package cache is the directory of everything that can be made again: blobs,
// results, programs, unpacked bases, packages, directories that processes ran in.
//
// Any number of processes use it at once while others prune it. Whoever works
// with it holds a lease for as long as it runs. What a holder has used, or made,
// carries a time that isn't before the lease, and a pruner removes only what was
// last used before the oldest lease began. So that nothing is removed between a
// pruner's look at its time and its removal, a pruner removes under a lock, the
// gate, that is held while something old is marked as used. A file that
// [Cache.Use] has found is there until the lease ends.
//
// Programs and directories of processes have locks of their own, beside them,
// which are held while they are in use.
package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/anyarch/anyarch/internal/store"
)

// The parts of the directory.
const (
	blobsDir    = "blobs"    // an OCI layout: layers, configs, bases, files of results
	memoDir     = "memo"     // small results by key
	programsDir = "go"       // compiled programs, one directory per sources and flags
	workDir     = "work"     // directories that the toolchain runs in
	layersDir   = "layers"   // unpacked layers of bases
	packagesDir = "packages" // packages of distributions, and their indexes
	leasesDir   = "leases"
	trashDir    = "trash" // what is on its way out
	gateFile    = "gate"
	usageFile   = "usage"
)

// Cache is the directory, with a lease. Its methods may be called concurrently.
type Cache struct {
	dir     string
	blobs   *store.Store
	started time.Time
	lease   *flock.Flock
	gate    gate
	written atomic.Bool
}

// Open opens the directory, making it if it isn't there, and takes a lease. The
// caller has to close it.
func Open(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := os.MkdirAll(c.path(leasesDir), 0o755); err != nil {
		return nil, store.DiskError(dir, "create", err)
	}
	c.gate.lock = flock.New(c.path(gateFile))
	// Under the gate no pruner sees the lease before it is locked.
	err := c.gate.shared(func() error {
		f, err := os.CreateTemp(c.path(leasesDir), "run-")
		if err != nil {
			return err
		}
		defer f.Close()
		c.started = time.Now()
		if err := os.Chtimes(f.Name(), c.started, c.started); err != nil {
			return err
		}
		c.lease = flock.New(f.Name())
		_, err = c.lease.TryLock()
		return err
	})
	if err != nil {
		return nil, store.DiskError(dir, "lock", err)
	}
	if c.blobs, err = store.Create(c.path(blobsDir)); err != nil {
		c.end()
		return nil, err
	}
	c.blobs.SyncLater()
	c.blobs.Shared(c.Use, func() { c.written.Store(true) })
	return c, nil
}

// Close waits until what was written is durable and ends the lease. What was used may
// be removed from then on.
func (c *Cache) Close() error {
	return errors.Join(c.blobs.Wait(), c.end())
}

func (c *Cache) end() error {
	err := os.Remove(c.lease.Path())
	return errors.Join(err, c.lease.Close(), c.gate.lock.Close())
}

func (c *Cache) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

// Dir is the directory.
func (c *Cache) Dir() string { return c.dir }

// Blobs is the store of blobs. What it has been found to have, it has until the
// lease ends.
func (c *Cache) Blobs() *store.Store { return c.blobs }

// Memo remembers small results.
func (c *Cache) Memo() *store.Memo { return store.NewMemo(c.path(memoDir)) }

// Programs is where compiled programs are kept; see gobuild.
func (c *Cache) Programs() string { return c.path(programsDir) }

// Work is where directories for processes are kept; see worktree.
func (c *Cache) Work() string { return c.path(workDir) }

// Layers is where layers of bases are unpacked; see rootfs.
func (c *Cache) Layers() string { return c.path(layersDir) }

// Packages is where packages of distributions are kept; see download.
func (c *Cache) Packages() string { return c.path(packagesDir) }

// Use says what a file of the cache is like and keeps it until the lease ends.
// fs.ErrNotExist if it isn't there.
func (c *Cache) Use(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil || !info.ModTime().Before(c.started) {
		return info, err
	}
	err = c.gate.shared(func() error {
		if info, err = os.Stat(path); err != nil {
			return err
		}
		now := time.Now()
		// Whoever may not change its time may not remove it either.
		_ = os.Chtimes(path, now, now)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// gate is the lock between those who mark something as used and those who remove.
type gate struct {
	mu   sync.Mutex
	lock *flock.Flock
}

func (g *gate) shared(do func() error) error { return g.with((*flock.Flock).RLock, do) }
func (g *gate) alone(do func() error) error  { return g.with((*flock.Flock).Lock, do) }

func (g *gate) with(take func(*flock.Flock) error, do func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := take(g.lock); err != nil {
		return err
	}
	err := do()
	return errors.Join(err, g.lock.Unlock())
}

// margin is how much older than a lease something must be that is removed beside
// it, since file systems keep time coarsely and machines that share a directory
// disagree a little.
const margin = 5 * time.Second

// oldest is when the oldest lease of others began, and how many they are. Leases of
// dead processes are removed. The gate is held alone.
func (c *Cache) oldest() (time.Time, int, error) {
	entries, err := os.ReadDir(c.path(leasesDir))
	if err != nil {
		return time.Time{}, 0, err
	}
	first, living := time.Now(), 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it ended meanwhile
		}
		path := c.path(leasesDir, e.Name())
		if path == c.lease.Path() {
			continue
		}
		lock := flock.New(path, flock.SetFlag(os.O_RDWR))
		if held, err := lock.TryLock(); err == nil && held {
			_ = lock.Close()
			_ = os.Remove(path)
			continue
		}
		_ = lock.Close()
		living++
		if info.ModTime().Before(first) {
			first = info.ModTime()
		}
	}
	return first, living, nil
}
