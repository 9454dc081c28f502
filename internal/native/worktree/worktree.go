// Package worktree mirrors a file tree in a directory of the host, so that a real
// process can run in it, and brings back what the process changed.
//
// The tree stays the truth: owners, setuid bits, extended attributes and devices
// are never written to disk, and a file that the process left alone keeps what the
// tree says about it.
package worktree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/anyarch/anyarch/internal/filetree"
)

// Options say where a tree is mirrored.
type Options struct {
	Dir     string                 // of the mirror; the same from run to run for the same stage
	Skip    func(name string) bool // canonical paths that aren't written; may be nil
	Scratch string                 // host directory that keeps the content of what was brought back
	// RewriteLinks makes every symbolic link relative and keeps it inside, for
	// processes for which the directory isn't the root of everything.
	RewriteLinks bool
}

// Worktree is a mirror. One at a time has its directory; its methods must not be
// called concurrently.
type Worktree struct {
	o    Options
	root *os.Root
	lock *flock.Flock
	last *filetree.Tree   // what the directory holds; nil if that isn't known
	disk map[string]entry // what was written, by canonical path
}

// entry is a file as it was written, to see whether somebody changed it.
type entry struct {
	Stamp
	Link string `json:"l,omitempty"`
	Key  string `json:"k,omitempty"` // of its content, across runs
}

// Stamp is what tells a changed file.
type Stamp struct {
	Mode   fs.FileMode `json:"m"`
	Size   int64       `json:"s,omitempty"`
	Time   int64       `json:"t,omitempty"` // nanoseconds
	Inode  uint64      `json:"i,omitempty"`
	Change int64       `json:"c,omitempty"` // nanoseconds, where there is such a time
}

func (o Options) state() string { return o.Dir + ".state" }

// Open takes a directory. What an earlier run left in it is used again as far as
// it is known to be what it was; if another process has the directory it waits
// until ctx ends.
func Open(ctx context.Context, o Options) (*Worktree, error) {
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(o.Dir + ".lock")
	if ok, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil || !ok {
		return nil, fmt.Errorf("take %s: %w", o.Dir, errors.Join(err, context.Cause(ctx)))
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	w := &Worktree{o: o, lock: lock, disk: map[string]entry{}}
	if data, err := os.ReadFile(o.state()); err == nil {
		if json.Unmarshal(data, &w.disk) != nil {
			w.disk = map[string]entry{}
		}
	}
	// Until it is written again nobody may rely on it.
	_ = os.Remove(o.state())
	var err error
	if w.root, err = os.OpenRoot(o.Dir); err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	return w, nil
}

// Close gives the directory free and notes what it holds for the next run.
func (w *Worktree) Close() error {
	var errs []error
	if w.last != nil {
		data, err := json.Marshal(w.disk)
		if err == nil {
			err = os.WriteFile(w.o.state(), data, 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, w.root.Close(), w.lock.Unlock())...)
}

func rel(name string) string {
	if name = strings.TrimPrefix(name, "/"); name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}

// Checkout makes the directory what the tree is: only what differs is written.
func (w *Worktree) Checkout(ctx context.Context, t *filetree.Tree) error {
	now := t.Fork()
	changes := filetree.Diff(w.last, now)
	if w.last == nil {
		if err := w.clear(changes); err != nil {
			return err
		}
	}
	w.last = nil // until all of it is there
	folded := map[string]string{}
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if c.Path == "/" || w.o.Skip != nil && w.o.Skip(c.Path) {
			continue
		}
		if c.Removed {
			if err := w.remove(c.Path); err != nil {
				return err
			}
			continue
		}
		if caseInsensitive {
			key := strings.ToLower(c.Path)
			if other, taken := folded[key]; taken {
				return fmt.Errorf("%s and %s differ only in case, which this machine's file system can't keep apart", other, c.Path)
			}
			folded[key] = c.Path
		}
		if err := w.write(c); err != nil {
			return fmt.Errorf("write %s: %w", c.Path, err)
		}
	}
	for _, dir := range []string{"tmp"} {
		if err := w.root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	w.last = now
	return nil
}

// clear removes from the directory what the state doesn't know or the tree hasn't.
func (w *Worktree) clear(changes []filetree.Change) error {
	wanted, parents := map[string]filetree.Change{}, map[string]bool{}
	for _, c := range changes {
		wanted[c.Path] = c
		for dir := path.Dir(c.Path); dir != "/" && !parents[dir]; dir = path.Dir(dir) {
			parents[dir] = true
		}
	}
	var remove []string
	err := filepath.WalkDir(w.o.Dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			// A directory that can't be read is made readable and taken away.
			_ = os.Chmod(file, 0o700)
			remove = append(remove, file)
			return fs.SkipDir
		}
		name := w.name(file)
		if name == "/" {
			return nil
		}
		known, ok := w.disk[name]
		c, want := wanted[name]
		info, ierr := d.Info()
		if d.IsDir() {
			if want && !c.IsDir() || !want && !parents[name] {
				remove = append(remove, file)
				return fs.SkipDir
			}
			return nil
		}
		if !ok || !want || ierr != nil || stampOf(info) != known.Stamp {
			remove = append(remove, file)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, file := range remove {
		name := w.name(file)
		delete(w.disk, name)
		if err := w.removeDisk(name); err != nil {
			return err
		}
	}
	for name := range w.disk {
		if _, err := w.root.Lstat(rel(name)); err != nil {
			delete(w.disk, name)
		}
	}
	return nil
}

func (w *Worktree) name(file string) string {
	r, err := filepath.Rel(w.o.Dir, file)
	if err != nil || r == "." {
		return "/"
	}
	return "/" + filepath.ToSlash(r)
}

func (w *Worktree) remove(name string) error {
	if known, ok := w.disk[name]; ok && !known.Mode.IsDir() {
		delete(w.disk, name)
		return w.removeDisk(name)
	} else if !ok {
		if _, err := w.root.Lstat(rel(name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	for known := range w.disk {
		if known == name || strings.HasPrefix(known, name+"/") {
			delete(w.disk, known)
		}
	}
	return w.removeDisk(name)
}

// removeDisk takes a file away, also out of directories that aren't writable.
func (w *Worktree) removeDisk(name string) error {
	if err := w.root.RemoveAll(rel(name)); err == nil {
		return nil
	}
	_ = filepath.WalkDir(filepath.Join(w.o.Dir, rel(name)), func(file string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(file, 0o700)
		}
		return nil
	})
	return w.root.RemoveAll(rel(name))
}

// key identifies a content across runs; empty if it can't be told.
func key(c filetree.Content) string {
	if k, ok := c.(interface{ Key() string }); ok {
		return k.Key()
	}
	return ""
}

// write puts one file of the tree on disk, unless it is there already.
func (w *Worktree) write(c filetree.Change) error {
	name := rel(c.Path)
	if parent, ok := w.disk[path.Dir(c.Path)]; !ok || !parent.Mode.IsDir() {
		if err := w.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
	}
	known, ok := w.disk[c.Path]
	perm := c.Mode.Perm()
	switch {
	case c.IsDir():
		perm |= 0o700
		info, err := w.root.Lstat(name)
		if err == nil && !info.IsDir() {
			if err := w.remove(c.Path); err != nil {
				return err
			}
			err = fs.ErrNotExist
		}
		if err != nil {
			if err := w.root.Mkdir(name, perm); err != nil {
				return err
			}
		}
		if err := w.root.Chmod(name, perm|c.Mode&fs.ModeSticky); err != nil {
			return err
		}
	case c.IsSymlink():
		link := c.Link
		if w.o.RewriteLinks {
			link = inside(c.Path, link)
		}
		if ok && known.Link == link && known.Mode&fs.ModeSymlink != 0 {
			return nil
		}
		if err := w.remove(c.Path); err != nil {
			return err
		}
		if err := w.root.Symlink(filepath.FromSlash(link), name); err != nil {
			return err
		}
		return w.note(c.Path, link, "")
	case c.IsRegular():
		perm |= 0o600
		k := key(c.Content)
		if ok && known.Mode.IsRegular() && known.Size == c.Size() && (c.Size() == 0 || k != "" && k == known.Key) && known.Mode.Perm() == perm {
			return nil
		}
		if err := w.remove(c.Path); err != nil {
			return err
		}
		if err := w.copyIn(c, name, perm); err != nil {
			return err
		}
		return w.note(c.Path, "", k)
	default:
		return nil // devices and pipes stay in the tree
	}
	return w.note(c.Path, "", "")
}

func (w *Worktree) copyIn(c filetree.Change, name string, perm fs.FileMode) error {
	in, err := c.Open()
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = w.root.Chmod(name, perm)
	}
	if err == nil && !c.ModTime.IsZero() {
		err = w.root.Chtimes(name, c.ModTime, c.ModTime)
	}
	return err
}

// note remembers how a file was left on disk.
func (w *Worktree) note(name, link, key string) error {
	info, err := w.root.Lstat(rel(name))
	if err != nil {
		return err
	}
	w.disk[name] = entry{Stamp: stampOf(info), Link: link, Key: key}
	return nil
}

// inside makes the target of a link relative, and keeps it below the root.
func inside(name, link string) string {
	target := path.Join(path.Dir(name), link)
	if path.IsAbs(link) {
		target = path.Clean(link)
	}
	target = path.Clean("/" + target)
	r, err := filepath.Rel(filepath.FromSlash(path.Dir(name)), filepath.FromSlash(target))
	if err != nil {
		return "."
	}
	return filepath.ToSlash(r)
}
