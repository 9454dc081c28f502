package filetree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func dir(perm fs.FileMode) Attr { return Attr{Mode: fs.ModeDir | perm} }
func text(text string) Attr     { return Attr{Mode: 0o644, Content: Bytes(text).Content()} }
func link(target string) Attr   { return Attr{Mode: fs.ModeSymlink | 0o777, Link: target} }
func must(t *testing.T, e error) {
	t.Helper()
	if e != nil {
		t.Fatal(e)
	}
}

// usrmerged is a small root as Debian has it.
func usrmerged(t *testing.T) *Tree {
	t.Helper()
	tree := New()
	for _, d := range []string{"/usr", "/usr/bin", "/etc", "/tmp"} {
		must(t, tree.Mkdir(d, dir(0o755)))
	}
	must(t, tree.Symlink("usr/bin", "/bin", Attr{}))
	must(t, tree.WriteFile("/usr/bin/sh", Bytes("sh").Content(), Attr{Mode: 0o755}))
	must(t, tree.WriteFile("/etc/passwd", Bytes("root").Content(), Attr{Mode: 0o644}))
	return tree
}

func list(changes []Change) string {
	var out []string
	for _, c := range changes {
		mark := "+"
		if c.Removed {
			mark = "-"
		}
		if c.LinkTo != "" {
			mark = "="
		}
		out = append(out, mark+c.Path)
	}
	return strings.Join(out, " ")
}

func TestDiff(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*Tree) error
		want   string
	}{
		{"nothing", func(*Tree) error { return nil }, ""},
		{"new file through a link", func(x *Tree) error { return x.WriteFile("/bin/app", Bytes("x").Content(), Attr{Mode: 0o755}) }, "+/usr/bin/app"},
		{"same content again is no new file", func(x *Tree) error { return x.Update("/etc/passwd", true, func(*Attr) {}) }, ""},
		{"removed", func(x *Tree) error { return x.RemoveAll("/etc/passwd") }, "-/etc/passwd"},
		{"removed through a link", func(x *Tree) error { return x.RemoveAll("/bin/sh") }, "-/usr/bin/sh"},
		{"link itself removed", func(x *Tree) error { return x.RemoveAll("/bin") }, "-/bin"},
		{"directory by file", func(x *Tree) error {
			return errors.Join(x.RemoveAll("/etc"), x.Put("/etc", text("x")))
		}, "+/etc"},
		{"file by directory", func(x *Tree) error {
			return errors.Join(x.RemoveAll("/etc/passwd"), x.Mkdir("/etc/passwd", dir(0o755)), x.Put("/etc/passwd/x", text("x")))
		}, "+/etc/passwd +/etc/passwd/x"},
		{"directory by link", func(x *Tree) error {
			return errors.Join(x.RemoveAll("/tmp"), x.Put("/tmp", link("etc")))
		}, "+/tmp"},
		{"mode", func(x *Tree) error { return x.Update("/bin/sh", true, func(a *Attr) { a.Mode |= fs.ModeSetuid }) }, "+/usr/bin/sh"},
		{"hard link to a base file brings both names", func(x *Tree) error { return x.Link("/etc/passwd", "/etc/other") }, "+/etc/other =/etc/passwd"},
		{"rename", func(x *Tree) error { return x.Rename("/etc/passwd", "/tmp/p") }, "-/etc/passwd +/tmp/p"},
		{"away and back", func(x *Tree) error {
			return errors.Join(x.Rename("/etc/passwd", "/tmp/p"), x.Rename("/tmp/p", "/etc/passwd"))
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			old := usrmerged(t)
			now := old.Fork()
			must(t, test.change(now))
			if got := list(Diff(old, now)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestForksAreIndependent(t *testing.T) {
	t.Parallel()
	a := usrmerged(t)
	b := a.Fork()
	must(t, a.WriteFile("/etc/a", nil, Attr{Mode: 0o644}))
	must(t, b.RemoveAll("/etc"))
	if _, err := a.Stat("/etc/passwd"); err != nil {
		t.Error("removing in a fork removed in the original")
	}
	if _, err := b.Stat("/etc/a"); err == nil {
		t.Error("a fork sees what the original made later")
	}
	c := a.Fork()
	must(t, a.Update("/bin/sh", true, func(x *Attr) { x.UID = 7 }))
	if s, _ := c.Stat("/bin/sh"); s.UID != 0 {
		t.Error("a change of attributes went through to a fork")
	}
}

func TestLookups(t *testing.T) {
	t.Parallel()
	tree := usrmerged(t)
	must(t, tree.Symlink("/loop2", "/loop1", Attr{}))
	must(t, tree.Symlink("/loop1", "/loop2", Attr{}))
	must(t, tree.Symlink("../../../../etc", "/tmp/up", Attr{}))
	must(t, tree.Symlink("/nowhere/x", "/tmp/dangling", Attr{}))
	for _, test := range []struct {
		path, canonical string
		err             error
	}{
		{"/bin/sh", "/usr/bin/sh", nil}, {"bin/../etc/passwd", "/usr/etc/passwd", fs.ErrNotExist}, {"/../../etc/passwd", "/etc/passwd", nil},
		{"/tmp/up/passwd", "/etc/passwd", nil}, {"/loop1", "", syscall.ELOOP}, {"/etc/passwd/x", "", syscall.ENOTDIR},
		{"/tmp/dangling", "", fs.ErrNotExist}, {"/", "/", nil}, {"", "/", nil}, {"/etc/new", "/etc/new", nil},
	} {
		got, err := tree.Resolve(test.path, true)
		if !errors.Is(err, test.err) || test.err == nil && got != test.canonical {
			t.Errorf("%q: got %q, %v; want %q, %v", test.path, got, err, test.canonical, test.err)
		}
	}
}

func TestHardLinksShareEverything(t *testing.T) {
	t.Parallel()
	tree := usrmerged(t)
	must(t, tree.Link("/etc/passwd", "/tmp/p"))
	must(t, tree.Update("/tmp/p", true, func(a *Attr) { a.Mode = 0o600 }))
	must(t, tree.WriteFile("/etc/passwd", Bytes("new").Content(), Attr{}))
	a, _ := tree.Stat("/etc/passwd")
	b, err := tree.ReadFile("/tmp/p")
	if a.Mode != 0o600 || string(b) != "new" || err != nil {
		t.Errorf("%v %q %v", a.Mode, b, err)
	}
	must(t, tree.Remove("/etc/passwd"))
	if b, _ := tree.ReadFile("/tmp/p"); string(b) != "new" {
		t.Error("the other name went with the first")
	}
}

func TestLazy(t *testing.T) {
	t.Parallel()
	loads := 0
	lazy := func() *Tree {
		loads = 0
		return NewLazy(map[string]Known{
			"/": {Attr: dir(0o755), Complete: true}, "/etc": {Attr: dir(0o755)}, "/tmp": {Attr: dir(0o777), Complete: true},
			"/root": {Attr: dir(0o700), Complete: true, Unread: []string{".profile"}},
			"/bin":  {Attr: dir(0o755)},
		}, func() (*Tree, error) { loads++; return usrmerged(t), nil })
	}
	for _, test := range []struct {
		name  string
		do    func(*Tree) error
		loads int
		has   string // after the base was read
		gone  string
	}{
		{"new things where everything is known", func(x *Tree) error {
			return errors.Join(x.MkdirAll("/src/app", dir(0o755)), x.WriteFile("/src/app/go.mod", nil, Attr{Mode: 0o644}), x.MkdirAll("/root/.config", dir(0o755)))
		}, 0, "/src/app/go.mod", ""},
		{"a name of the base", func(x *Tree) error { _, err := x.ReadFile("/etc/passwd"); return err }, 1, "/etc/passwd", ""},
		{"a name that is known to be there", func(x *Tree) error { _, err := x.Stat("/root/.profile"); return ignore(err) }, 1, "/root", ""},
		{"listing what isn't known", func(x *Tree) error { _, err := x.ReadDir("/etc"); return err }, 1, "/etc/passwd", ""},
		{"listing what is", func(x *Tree) error { _, err := x.ReadDir("/tmp"); return err }, 0, "/tmp", ""},
		{"a directory that is a link in the base", func(x *Tree) error {
			return x.WriteFile("/bin/app", Bytes("x").Content(), Attr{Mode: 0o755})
		}, 1, "/usr/bin/app", ""},
		{"removed before it was read", func(x *Tree) error { return x.RemoveAll("/tmp") }, 0, "/etc", "/tmp"},
		{"removed and made again", func(x *Tree) error {
			return errors.Join(x.RemoveAll("/etc"), x.Mkdir("/etc", dir(0o755)))
		}, 0, "/etc", "/etc/passwd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := lazy().Fork()
			must(t, test.do(x))
			if loads != test.loads {
				t.Errorf("the base was read %d times, want %d", loads, test.loads)
			}
			must(t, x.Force())
			if _, err := x.Stat(test.has); err != nil {
				t.Error(err)
			}
			if _, err := x.Stat(test.gone); test.gone != "" && err == nil {
				t.Errorf("%s came back", test.gone)
			}
			if a, _ := x.Lstat("/bin"); !a.IsSymlink() {
				t.Error("what was only assumed of /bin replaced what the base has")
			}
		})
	}
	failing := NewLazy(map[string]Known{"/": {Attr: dir(0o755)}}, func() (*Tree, error) { return nil, errors.New("registry is away") })
	if _, err := failing.Stat("/etc"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a base that can't be read is %v", err)
	}
}

func ignore(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// FuzzOperations holds a tree and its diff against each other: applying the diff
// to the old tree gives the new one.
func FuzzOperations(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"))
	names := []string{"/a", "/a/b", "/a/b/c", "/bin/x", "/usr/bin/sh", "/etc", "/etc/passwd", "/tmp/l", "/bin"}
	f.Fuzz(func(t *testing.T, ops []byte) {
		old := usrmerged(t)
		now := old.Fork()
		for i := 0; i+2 < len(ops); i += 3 {
			a, b := names[int(ops[i+1])%len(names)], names[int(ops[i+2])%len(names)]
			switch ops[i] % 7 {
			case 0:
				_ = now.WriteFile(a, Bytes(fmt.Sprint(i)).Content(), Attr{Mode: 0o644})
			case 1:
				_ = now.MkdirAll(a, dir(0o755))
			case 2:
				_ = now.RemoveAll(a)
			case 3:
				_ = now.Rename(a, b)
			case 4:
				_ = now.Symlink(b, a, Attr{})
			case 5:
				_ = now.Link(a, b)
			case 6:
				_ = now.Update(a, false, func(x *Attr) { x.UID++ })
			}
		}
		rebuilt := old.Fork()
		for _, c := range Diff(old, now) {
			if c.Path == "/" {
				continue
			}
			old, err := rebuilt.Lstat(c.Path)
			if c.Removed || err == nil && (old.Mode&fs.ModeType != c.Mode&fs.ModeType) {
				must(t, rebuilt.RemoveAll(c.Path))
			}
			if c.Removed {
				continue
			}
			must(t, rebuilt.Put(c.Path, c.Attr))
		}
		if a, b := dump(t, rebuilt), dump(t, now); a != b {
			t.Errorf("the diff doesn't give the tree\n%s\n--\n%s", a, b)
		}
	})
}

func dump(t *testing.T, x *Tree) string {
	var out strings.Builder
	must(t, x.Walk("/", func(name string, a Attr) error {
		fmt.Fprintf(&out, "%s %v %d %s %d\n", name, a.Mode, a.UID, a.Link, a.Size())
		return nil
	}))
	return out.String()
}
