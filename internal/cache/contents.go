package cache

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// item is what is removed as a whole.
type item struct {
	part  string
	path  string // a file, or the directory of a locked item
	lock  string // file whose lock keeps others out of it; empty for files
	with  []string
	size  int64
	used  time.Time
	stray bool // a temporary file: nobody will look for it
}

// Part is what one part of the cache takes.
type Part struct {
	Name  string // of its directory
	What  string // for people
	Items int
	Bytes int64
	Used  time.Time // last; zero if there is nothing
}

// parts in the order in which they are shown.
var parts = []Part{
	{Name: blobsDir, What: "layers, configs, bases, files of Dockerfile steps"},
	{Name: memoDir, What: "what made them"},
	{Name: programsDir, What: "compiled programs"},
	{Name: workDir, What: "directories of Dockerfile stages"},
	{Name: layersDir, What: "unpacked layers of bases"},
	{Name: packagesDir, What: "packages of distributions"},
}

// Contents says what there is, and how many other runs hold a lease.
func (c *Cache) Contents() (list []Part, leases int, err error) {
	items := c.items()
	list = append([]Part{}, parts...)
	for _, it := range items {
		for i := range list {
			if list[i].Name != it.part {
				continue
			}
			list[i].Items++
			list[i].Bytes += it.size
			if it.used.After(list[i].Used) {
				list[i].Used = it.used
			}
		}
	}
	err = c.gate.alone(func() error {
		_, leases, err = c.oldest()
		return err
	})
	return list, leases, err
}

// items lists everything. What vanishes meanwhile isn't there.
func (c *Cache) items() []item {
	var list []item
	c.files(blobsDir, filepath.Join(blobsDir, "blobs"), &list)
	for _, part := range []string{memoDir, layersDir, packagesDir} {
		c.files(part, part, &list)
	}
	for _, part := range []string{programsDir, workDir} {
		c.locked(part, &list)
	}
	return list
}

func (c *Cache) files(part, below string, list *[]item) {
	_ = filepath.WalkDir(c.path(below), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // vanished, or not ours to read
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		name := entry.Name()
		*list = append(*list, item{part: part, path: path, size: info.Size(), used: info.ModTime(),
			stray: strings.HasPrefix(name, ".layer-") || strings.HasPrefix(name, "new-")})
		return nil
	})
}

// locked lists directories two levels down that have a lock beside them, with what
// belongs to them.
func (c *Cache) locked(part string, list *[]item) {
	locks, err := filepath.Glob(c.path(part, "*", "*.lock"))
	if err != nil {
		return
	}
	for _, lock := range locks {
		if it := c.lockedAt(part, lock); !it.used.IsZero() {
			it.weigh()
			*list = append(*list, it)
		}
	}
}

// lockedAt is the directory beside a lock, not weighed yet; its time is zero if there is
// none.
func (c *Cache) lockedAt(part, lock string) item {
	dir := strings.TrimSuffix(lock, ".lock")
	it := item{part: part, path: dir, lock: lock, with: []string{dir + ".state", dir + ".cache"}}
	for _, path := range append([]string{dir}, it.with...) {
		if info, err := os.Lstat(path); err == nil && info.ModTime().After(it.used) {
			it.used = info.ModTime()
		}
	}
	return it
}

func (it *item) weigh() {
	it.size = 0
	for _, path := range append([]string{it.path}, it.with...) {
		it.size += sizeOf(path)
	}
}

func sizeOf(path string) int64 {
	var size int64
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // vanished
		}
		if info, err := entry.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size
}
