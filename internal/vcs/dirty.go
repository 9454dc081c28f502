package vcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// maxSubmoduleDepth is how deep submodules in submodules are followed.
const maxSubmoduleDepth = 16

// Dirty reports whether tracked files differ from HEAD, in the index or in the
// working tree, as git describe --dirty means it: files that git doesn't track
// don't count. Its cost is one look at the metadata of every tracked file;
// only those that seem changed are read.
func (r *Repository) Dirty(ctx context.Context) (bool, error) {
	name, err := r.Changed(ctx)
	return name != "", err
}

// Changed names a tracked file that differs from HEAD, with slashes and seen
// from the root, so that "dirty" can be explained; it is empty if there is
// none. For the same changes it is always the same file.
//
// What can't be known without running a program counts as changed: a file that
// git has not seen since it was written, whose attributes name a filter other
// than Git LFS and whose bytes aren't those in the repository.
func (r *Repository) Changed(ctx context.Context) (string, error) {
	db := r.objects()
	defer db.close()
	_, head, err := r.head(db)
	if err != nil {
		return "", err
	}
	x, written, err := r.readIndex()
	if err != nil {
		return "", err
	}
	for _, e := range x.entries {
		if e.unmerged || e.intended {
			return e.name, nil
		}
	}
	if x.tree != head.tree {
		name, err := treeDiffers(ctx, db, head.tree, x.entries)
		if err != nil || name != "" {
			return name, err
		}
	}
	return r.worktreeDiffers(ctx, x, written)
}

// readIndex reads the index, and when it was written. None at all is an empty one.
func (r *Repository) readIndex() (*index, stamp, error) {
	place := filepath.Join(r.gitDir, "index")
	info, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return &index{}, stamp{}, nil
	}
	if err != nil {
		return nil, stamp{}, err
	}
	data, err := readSmall(place, maxIndex)
	if err != nil {
		return nil, stamp{}, err
	}
	x, err := parseIndex(r.format, data)
	if unread, ok := errors.AsType[*errUnread](err); ok {
		return nil, stamp{}, &Unsupported{Place: place, What: unread.what, Fix: unread.fix}
	}
	if err != nil {
		return nil, stamp{}, fmt.Errorf("%s: %w", place, err)
	}
	return x, stampOf(info), nil
}

func stampOf(info fs.FileInfo) stamp {
	t := info.ModTime()
	return stamp{uint32(t.Unix()), uint32(t.Nanosecond())}
}

// worktreeDiffers compares the working tree with the index.
func (r *Repository) worktreeDiffers(ctx context.Context, x *index, written stamp) (string, error) {
	const piece = 512 // files; neighbours share their directories
	pieces := slices.Collect(slices.Chunk(x.entries, piece))
	changed := make([]string, len(pieces))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i, entries := range pieces {
		group.Go(func() error {
			w := r.worktree(written)
			for _, e := range entries {
				if err := ctx.Err(); err != nil {
					return err
				}
				differs, err := w.differs(ctx, e)
				if err != nil {
					return fmt.Errorf("compare %s with the index: %w", e.name, err)
				}
				if differs {
					changed[i] = e.name
					return nil
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	for _, name := range changed {
		if name != "" {
			return name, nil
		}
	}
	return "", nil
}

// worktree compares files one after the other.
type worktree struct {
	*Repository
	written    stamp // when the index was
	attributes attributes
	dir        string // the last directory that was looked at
	dirThere   bool   // it is one, and so are its parents

	sparse   bool // files may be left out of the working tree
	modes    bool // the file system keeps the executable bit
	symlinks bool // the file system has symbolic links
	ctimes   bool // the change time is kept
}

func (r *Repository) worktree(written stamp) *worktree {
	unix := runtime.GOOS != "windows"
	return &worktree{
		Repository: r, written: written, attributes: attributes{repository: r},
		sparse:   r.config.isTrue("core.sparsecheckout", false),
		modes:    r.config.isTrue("core.filemode", true) && unix,
		symlinks: r.config.isTrue("core.symlinks", unix),
		ctimes:   r.config.isTrue("core.trustctime", true),
	}
}

// there reports whether a directory is in the working tree: not gone, and not
// a symbolic link that leads elsewhere.
func (w *worktree) there(dir string) (bool, error) {
	if dir == "." || dir == w.dir && w.dirThere {
		return true, nil
	}
	if dir == w.dir {
		return false, nil
	}
	ok, err := w.there(path.Dir(dir))
	if err != nil {
		return false, err
	}
	if ok {
		info, err := os.Lstat(w.file(dir))
		if err != nil && !isAbsent(err) {
			return false, err
		}
		ok = err == nil && info.IsDir()
	}
	w.dir, w.dirThere = dir, ok
	return ok, nil
}

func (w *worktree) file(name string) string { return filepath.Join(w.root, filepath.FromSlash(name)) }

// differs compares one entry of the index with its file.
func (w *worktree) differs(ctx context.Context, e indexEntry) (bool, error) {
	if e.assumed || e.skipped && !w.sparse || e.mode&modeType == modeTree {
		return false, nil
	}
	there, err := w.there(path.Dir(e.name))
	if err != nil {
		return false, err
	}
	var info fs.FileInfo
	if there {
		info, err = os.Lstat(w.file(e.name))
		if isAbsent(err) {
			there = false
		} else if err != nil {
			return false, err
		}
	}
	if !there {
		return !e.skipped, nil // a sparse checkout leaves files out on purpose
	}
	switch canonical(e.mode) {
	case modeGitlink:
		return w.submoduleDiffers(ctx, e, info)
	case modeSymlink:
		return w.linkDiffers(e, info)
	case modeFile, modeExecutable:
		return w.fileDiffers(e, info)
	}
	return false, fmt.Errorf("mode %o isn't one of git", e.mode)
}

// submoduleDiffers compares the commit that is checked out in a submodule, and
// whether files there are changed. A submodule that isn't checked out is as it
// should be.
func (w *worktree) submoduleDiffers(ctx context.Context, e indexEntry, info fs.FileInfo) (bool, error) {
	if !info.IsDir() {
		return true, nil
	}
	sub, err := openAt(w.file(e.name))
	if errors.Is(err, ErrNoRepository) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if sub.depth = w.depth + 1; sub.depth > maxSubmoduleDepth {
		return false, fmt.Errorf("submodules more than %d deep", maxSubmoduleDepth)
	}
	c, err := sub.Commit(ctx)
	if errors.Is(err, ErrNoCommit) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.Hash != e.id.String() {
		return true, nil
	}
	return sub.Dirty(ctx)
}

// linkDiffers compares the target of a symbolic link. Where links can't be
// made (core.symlinks), the file holds the target as text.
func (w *worktree) linkDiffers(e indexEntry, info fs.FileInfo) (bool, error) {
	var target []byte
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(w.file(e.name))
		if err != nil {
			return false, err
		}
		target = []byte(filepath.ToSlash(link))
	case info.Mode().IsRegular() && !w.symlinks:
		text, err := readSmall(w.file(e.name), maxSmallFile)
		if err != nil {
			return false, err
		}
		target = text
	default:
		return true, nil
	}
	return w.format.sum("blob", target) != e.id, nil
}

// fileDiffers compares a regular file: by its metadata, and by its contents if
// that leaves a doubt.
func (w *worktree) fileDiffers(e indexEntry, info fs.FileInfo) (bool, error) {
	if !info.Mode().IsRegular() {
		return true, nil
	}
	if w.modes && (canonical(e.mode) == modeExecutable) != (info.Mode()&0o100 != 0) {
		return true, nil
	}
	mtime := stampOf(info)
	same := uint32(info.Size()) == e.size && mtime.same(e.mtime)
	if ctime, known := changeTime(info); known && w.ctimes {
		same = same && ctime.same(e.ctime)
	}
	// A file that was written after the index, or at the same moment, may have
	// changed without a sign (git's "racy" entries).
	if same && mtime.before(w.written) {
		return false, nil
	}
	return w.contentDiffers(e, info)
}

// contentDiffers compares the bytes of a file with the object in the index, as
// git would store them.
func (w *worktree) contentDiffers(e indexEntry, info fs.FileInfo) (bool, error) {
	how, err := w.attributes.of(e.name)
	if err != nil {
		return false, err
	}
	name := w.file(e.name)
	if how.plain() {
		if e.size != 0 && e.size != uint32(info.Size()) { // git writes 0 where it doesn't want to be believed
			return true, nil
		}
		id, err := w.hashFile(name, info.Size())
		return id != e.id, err
	}
	if how.filter == "lfs" {
		id, err := w.hashLFS(name, info.Size())
		if err != nil || id == e.id {
			return false, err
		}
	}
	if info.Size() > maxObject { // nobody's text
		id, err := w.hashFile(name, info.Size())
		return id != e.id, err
	}
	data, err := readSmall(name, maxObject)
	if err != nil {
		return false, err
	}
	for _, stored := range how.stored(data) {
		if w.format.sum("blob", stored) == e.id {
			return false, nil
		}
	}
	return true, nil
}

// hashFile names the blob that a file is.
func (r *Repository) hashFile(name string, size int64) (objectID, error) {
	f, _, err := openRegular(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := r.format.hash()
	fmt.Fprintf(h, "blob %d\x00", size)
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return objectID(h.Sum(nil)), nil
}
