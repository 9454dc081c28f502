package opcache

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/store"
)

func layout(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// describe says everything that can be seen of a tree, one line per file; hard links
// name the first of them.
func describe(t *testing.T, tree *filetree.Tree) string {
	t.Helper()
	var b strings.Builder
	type first struct {
		path string
		attr filetree.Attr
	}
	var linked []first
	check(t, tree.Walk("/", func(name string, a filetree.Attr) error {
		_, err := fmt.Fprintf(&b, "%s %v %d:%d %d %q %d,%d %v", name, a.Mode, a.UID, a.GID, a.ModTime.UnixNano(), a.Link, a.DevMajor, a.DevMinor, a.Xattrs)
		if a.IsRegular() {
			data, rerr := tree.ReadFile(name)
			if rerr != nil {
				return rerr
			}
			fmt.Fprintf(&b, " %q", data)
			at := slices.IndexFunc(linked, func(f first) bool { return f.attr.SameFile(&a) })
			if at >= 0 {
				fmt.Fprintf(&b, " = %s", linked[at].path)
			} else {
				linked = append(linked, first{name, a})
			}
		}
		b.WriteByte('\n')
		return err
	}))
	return b.String()
}

func base(t *testing.T) *filetree.Tree {
	t.Helper()
	tree := filetree.New()
	for _, dir := range []string{"/bin", "/etc", "/etc/deep", "/tmp"} {
		check(t, tree.Mkdir(dir, filetree.Attr{Mode: 0o755, ModTime: time.Unix(1, 0)}))
	}
	for _, file := range []string{"/bin/sh", "/etc/passwd", "/etc/deep/er"} {
		check(t, tree.Put(file, filetree.Attr{Mode: 0o644, ModTime: time.Unix(2, 0), Content: filetree.Bytes("base of " + file).Content()}))
	}
	check(t, tree.Symlink("sh", "/bin/link", filetree.Attr{}))
	return tree
}

// change does something at random, as instructions do.
func change(t *testing.T, r *rand.Rand, tree *filetree.Tree, n int) {
	t.Helper()
	names := []string{"/bin", "/bin/sh", "/bin/link", "/etc", "/etc/passwd", "/etc/deep", "/etc/deep/er", "/tmp", "/new", "/new/a", "/new/b", "/tmp/x"}
	at := time.Unix(int64(1000+n), int64(n))
	name := names[r.IntN(len(names))]
	a := filetree.Attr{Mode: []fs.FileMode{0o644, 0o4755, 0o1777}[r.IntN(3)], UID: r.IntN(3), GID: r.IntN(3), ModTime: at}
	switch r.IntN(10) {
	case 0:
		_ = tree.RemoveAll(name)
	case 1:
		_ = tree.MkdirAll(name, a)
	case 2:
		_ = tree.Symlink("/etc/passwd", name, a)
	case 3:
		_ = tree.Link(names[r.IntN(len(names))], path.Join("/tmp", fmt.Sprint("link", n)))
	case 4:
		_ = tree.Rename(name, names[r.IntN(len(names))])
	case 5:
		_ = tree.Update(name, false, func(x *filetree.Attr) { x.UID, x.Xattrs = 7, map[string]string{"user.a": "b\xff"} })
	case 6:
		_ = tree.Chtimes(name, true, at)
	case 7:
		a.Mode, a.DevMajor, a.DevMinor = fs.ModeDevice|fs.ModeCharDevice|0o600, 1, 3
		_ = tree.Put(name, a)
	default:
		_ = tree.WriteFile(name, filetree.Bytes(fmt.Sprint("content ", n)).Content(), a)
	}
}

// Whatever an instruction does, it is restored exactly: on a plain tree and on one
// whose base isn't read yet, and the record survives being written down.
func TestRestore(t *testing.T) {
	t.Parallel()
	st := layout(t)
	inexact := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 0))
		before := base(t)
		if seed%2 == 1 {
			lower := base(t)
			before = filetree.NewLazy(map[string]filetree.Known{
				"/":    {Attr: filetree.Attr{Mode: fs.ModeDir | 0o755}, Complete: seed%4 == 1},
				"/tmp": {Attr: filetree.Attr{Mode: fs.ModeDir | 0o755}, Complete: true},
				"/etc": {Attr: filetree.Attr{Mode: fs.ModeDir | 0o755}},
			}, func() (*filetree.Tree, error) { return lower, nil })
		}
		for n := range r.IntN(4) {
			change(t, r, before, n)
		}
		after := before.Fork()
		for n := range 1 + r.IntN(8) {
			change(t, r, after, 100+n)
		}
		delta, exact, err := filetree.DeltaOf(before, after)
		check(t, err)
		if !exact {
			inexact++
			continue
		}
		rec, err := Save(st, delta)
		check(t, err)
		data, err := rec.Encode()
		check(t, err)
		if rec = Decode(data); rec == nil || !rec.Usable(st) {
			t.Fatalf("seed %d: the record can't be read", seed)
		}
		restored := before.Fork()
		if err := rec.Restore(st, restored); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if restored.Lazy() != after.Lazy() {
			t.Errorf("seed %d: lazy %v, was %v", seed, restored.Lazy(), after.Lazy())
		}
		if got, want := describe(t, restored), describe(t, after); got != want {
			t.Fatalf("seed %d:\n%s\nis restored as\n%s", seed, want, got)
		}
	}
	if inexact > 100 {
		t.Errorf("%d of 400 couldn't be kept", inexact)
	}
}

// Content that was damaged on disk is noticed, and removed.
func TestDamage(t *testing.T) {
	t.Parallel()
	st := layout(t)
	before := base(t)
	after := before.Fork()
	check(t, after.WriteFile("/new", filetree.Bytes("content").Content(), filetree.Attr{Mode: 0o644}))
	delta, _, err := filetree.DeltaOf(before, after)
	check(t, err)
	rec, err := Save(st, delta)
	check(t, err)
	name, err := st.Path(rec.Blob)
	check(t, err)
	check(t, os.WriteFile(name, []byte("CONTENT"), 0o644))
	if err := rec.Restore(st, before.Fork()); err == nil {
		t.Error("damaged content was restored")
	}
	if rec.Usable(st) {
		t.Error("damaged content is still there")
	}
	if err := rec.Restore(st, before.Fork()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its content: %v", err)
	}
	if Decode([]byte("nonsense")) != nil {
		t.Error("nonsense is a record")
	}
	// A record for another tree doesn't fit.
	if err := (&Record{Files: []file{{Path: "/not/there/x", Mode: 0o644}}}).Restore(st, before.Fork()); err == nil {
		t.Error("it fits a tree that it isn't of")
	}
	if err := (&Record{Files: []file{{Path: "/../x", Mode: 0o644}}}).Restore(st, before.Fork()); err == nil {
		t.Error("a path out of the tree is taken")
	}
}
