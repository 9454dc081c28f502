package worktree

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
)

// Commit brings into the tree what a process changed in the directory since the
// tree was checked out: new files belong to uid and gid. What ignore says is left
// out, with everything below it. An unchanged file costs one lstat.
func (w *Worktree) Commit(ctx context.Context, t *filetree.Tree, uid, gid int, now time.Time, ignore func(name string) bool) error {
	seen := map[string]bool{}
	err := filepath.WalkDir(w.o.Dir, func(file string, d fs.DirEntry, err error) error {
		name := w.name(file)
		if err != nil {
			if os.IsPermission(err) && d != nil && d.IsDir() {
				return fmt.Errorf("%s was made unreadable: %w", name, err)
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if name == "/" {
			return nil
		}
		if ignore != nil && ignore(name) || w.o.Skip != nil && w.o.Skip(name) {
			seen[name] = true
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen[name] = true
		known, ok := w.disk[name]
		stamp := stampOf(info)
		if ok && (known.Stamp == stamp || d.IsDir() && known.Mode == stamp.Mode) {
			return nil
		}
		return w.bring(t, name, info, known, ok, filetree.Attr{UID: uid, GID: gid, ModTime: now, Made: true})
	})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	for name := range w.disk {
		if seen[name] || under(name, seen, ignore) {
			continue
		}
		delete(w.disk, name)
		if err := t.RemoveAll(name); err != nil {
			return err
		}
	}
	w.last = t.Fork()
	return nil
}

// under reports whether a file lies in something that was ignored.
func under(name string, seen map[string]bool, ignore func(string) bool) bool {
	if ignore == nil {
		return false
	}
	for dir := filepath.ToSlash(filepath.Dir(name)); dir != "/" && dir != "."; dir = filepath.ToSlash(filepath.Dir(dir)) {
		if ignore(dir) {
			return true
		}
	}
	return false
}

// bring puts one changed file into the tree.
func (w *Worktree) bring(t *filetree.Tree, name string, info fs.FileInfo, known entry, had bool, fresh filetree.Attr) error {
	mode := info.Mode()
	switch {
	case mode.IsDir():
		if had {
			return w.changed(t, name, mode)
		}
		if a, err := t.Lstat(name); err == nil {
			if a.IsDir() {
				return nil // it was there without being written, as a parent
			}
			if err := t.RemoveAll(name); err != nil {
				return err
			}
		} else if name == "/tmp" {
			if empty, err := w.empty(name); err != nil || empty {
				return err // made for the process
			}
		}
		if strings.Count(name, "/") == 1 {
			if empty, err := w.empty(name); err != nil || empty && scaffold[name] {
				return err
			}
		}
		fresh.Mode = mode.Perm()
		if err := t.Mkdir(name, fresh); err != nil {
			return err
		}
		return w.note(name, "", "")
	case mode&fs.ModeSymlink != 0:
		link, err := w.root.Readlink(rel(name))
		if err != nil {
			return err
		}
		if had && known.Link == link {
			return w.note(name, link, "")
		}
		if err := t.RemoveAll(name); err != nil {
			return err
		}
		if err := t.Symlink(filepath.ToSlash(link), name, fresh); err != nil {
			return err
		}
		return w.note(name, link, "")
	case mode.IsRegular():
		content, err := w.copyOut(name, info)
		if err != nil {
			return err
		}
		if had && known.Inode == stampOf(info).Inode && known.Mode.IsRegular() {
			// Written in place: it is the same file, with its owner.
			err = t.Update(name, false, func(a *filetree.Attr) {
				a.Content, a.ModTime = content, fresh.ModTime
				if known.Mode != mode {
					a.Mode = mode
				}
			})
		} else {
			if a, lerr := t.Lstat(name); lerr == nil && a.IsDir() {
				if err := t.RemoveAll(name); err != nil {
					return err
				}
			}
			fresh.Mode, fresh.Content = mode.Perm(), content
			err = t.Put(name, fresh)
		}
		if err != nil {
			return err
		}
		return w.note(name, "", key(content))
	}
	return nil // sockets and pipes end with the process
}

// scaffold are directories that a sandbox makes for its mounts.
var scaffold = map[string]bool{"/proc": true, "/dev": true, "/sys": true, "/tmp": true, "/etc": true, "/root": true, "/usr": true, "/go": true, "/lib": true}

func (w *Worktree) changed(t *filetree.Tree, name string, mode fs.FileMode) error {
	if err := t.Update(name, false, func(a *filetree.Attr) { a.Mode = mode }); err != nil {
		return err
	}
	return w.note(name, "", "")
}

func (w *Worktree) empty(name string) (bool, error) {
	list, err := os.ReadDir(filepath.Join(w.o.Dir, rel(name)))
	return len(list) == 0, err
}

// copyOut keeps the content of a file that a process wrote: the directory will
// change, the content must not.
func (w *Worktree) copyOut(name string, info fs.FileInfo) (filetree.Content, error) {
	if info.Size() == 0 {
		return nil, nil
	}
	in, err := w.root.Open(rel(name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	if info.Size() <= 64<<10 {
		b, err := io.ReadAll(in)
		return filetree.Bytes(b).Content(), err
	}
	out, err := os.CreateTemp(w.o.Scratch, "file-*")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return filetree.FileContent(out.Name(), n), nil
}
