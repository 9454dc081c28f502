package cache

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/anyarch/anyarch/internal/store"
)

// often is how often a run that wrote something looks at the whole cache. In between it
// counts what it has added itself.
const often = 10 * time.Minute

// usage is what the cache takes, as runs hand it on to each other.
type usage struct {
	Looked time.Time        `json:"looked"` // when it was last counted in full
	Total  int64            `json:"total"`  // then, and what runs have added since, in bytes
	Sizes  map[string]int64 `json:"sizes"`  // of locked directories, as they are counted in it
}

// Trim keeps the cache below limit bytes, 0 for no bound, where this run has put
// something into it. The run mustn't use the cache any more.
func (c *Cache) Trim(ctx context.Context, limit int64) error {
	if limit <= 0 {
		return nil
	}
	if err := c.blobs.Wait(); err != nil {
		return err
	}
	if !c.written.Load() {
		return nil
	}
	enough := false
	err := c.gate.alone(func() error {
		u, ok := c.usage()
		if !ok || time.Since(u.Looked).Abs() >= often {
			return nil
		}
		c.addTo(&u)
		enough = u.Total <= limit
		return c.saveUsage(u)
	})
	if err != nil || enough {
		return err
	}
	done, err := c.Prune(ctx, Bounds{Limit: limit})
	if err != nil {
		return err
	}
	now := usage{Looked: time.Now(), Total: done.Left, Sizes: map[string]int64{}}
	var locked []item
	for _, part := range []string{programsDir, workDir} {
		c.locked(part, &locked)
	}
	for _, it := range locked {
		now.Sizes[it.path] = it.size
	}
	return c.gate.alone(func() error { return c.saveUsage(now) })
}

// addTo counts what has come since this run began. What it has only used is counted
// again: at worst somebody looks at all of it too early.
func (c *Cache) addTo(u *usage) {
	_ = filepath.WalkDir(c.path(blobsDir, "blobs"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // vanished
		}
		if info, err := entry.Info(); err == nil && !info.ModTime().Before(c.started.Add(-margin)) {
			u.Total += info.Size()
		}
		return nil
	})
	for _, part := range []string{programsDir, workDir} {
		locks, err := filepath.Glob(c.path(part, "*", "*.lock"))
		if err != nil {
			continue
		}
		for _, lock := range locks {
			it := c.lockedAt(part, lock)
			if it.used.Before(c.started.Add(-margin)) {
				continue
			}
			it.weigh()
			u.Total += it.size - u.Sizes[it.path]
			if u.Sizes == nil {
				u.Sizes = map[string]int64{}
			}
			u.Sizes[it.path] = it.size
		}
	}
}

func (c *Cache) usage() (u usage, ok bool) {
	data, err := os.ReadFile(c.path(usageFile))
	return u, err == nil && json.Unmarshal(data, &u) == nil
}

func (c *Cache) saveUsage(u usage) error {
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(usageFile), data, 0o644); err != nil {
		return store.DiskError(c.path(usageFile), "write", err)
	}
	return nil
}
