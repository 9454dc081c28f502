package fileop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
)

// tree makes a tree of lines: PATH/ for a directory, PATH -> TARGET for a link,
// PATH=TEXT for a file.
func tree(t testing.TB, lines ...string) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	for _, l := range lines {
		var err error
		switch {
		case strings.Contains(l, " -> "):
			name, target, _ := strings.Cut(l, " -> ")
			err = x.Symlink(target, name, filetree.Attr{})
		case strings.HasSuffix(l, "/"):
			err = x.MkdirAll(l, filetree.Attr{Mode: fs.ModeDir | 0o755})
		default:
			name, text, _ := strings.Cut(l, "=")
			if i := strings.LastIndex(name, "/"); i > 0 {
				err = x.MkdirAll(name[:i], filetree.Attr{Mode: fs.ModeDir | 0o755})
			}
			if err == nil {
				err = x.Put(name, filetree.Attr{Mode: 0o640, UID: 7, GID: 8, Content: filetree.Bytes(text).Content()})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func show(t testing.TB, x *filetree.Tree) string {
	var out []string
	err := x.Walk("/", func(name string, a filetree.Attr) error {
		switch {
		case name == "/":
		case a.IsDir():
			out = append(out, name+"/")
		case a.IsSymlink():
			out = append(out, name+" -> "+a.Link)
		default:
			b, err := x.ReadFile(name)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s=%s", name, b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// copyOf is COPY SOURCE DEST as BuildKit's compiler writes it.
func copyOf(source, dest string) dockerfile.FileAction {
	return dockerfile.FileAction{Kind: dockerfile.ActionCopy, Input: 0, Secondary: 1, Output: 0, Path: source, Dest: dest, Mode: -1, Timestamp: -1,
		FollowSymlink: true, DirCopyContents: true, CreateDestPath: true, AllowWildcard: true, AllowEmpty: false}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	source := []string{"/a=1", "/b.go=2", "/c.go=3", "/d/x=4", "/d/e/y=5", "/d/e/z.md=6", "/l -> d/x", "/ld -> d"}
	for _, test := range []struct {
		name   string
		dest   []string
		action func() dockerfile.FileAction
		want   string // the whole destination, or "error: …"
	}{
		{"file to a new name", nil, func() dockerfile.FileAction { return copyOf("/a", "/x") }, "/x=1"},
		{"file into a directory by its slash", nil, func() dockerfile.FileAction { return copyOf("/a", "/x/") }, "/x/ /x/a=1"},
		{"file into a directory that is there", []string{"/x/"}, func() dockerfile.FileAction { return copyOf("/a", "/x") }, "/x/ /x/a=1"},
		{"file over a file", []string{"/x=old"}, func() dockerfile.FileAction { return copyOf("/a", "/x") }, "/x=1"},
		{"parents are made", nil, func() dockerfile.FileAction { return copyOf("/a", "/p/q/x") }, "/p/ /p/q/ /p/q/x=1"},
		{"contents of a directory", nil, func() dockerfile.FileAction { return copyOf("/d", "/x") }, "/x/ /x/e/ /x/e/y=5 /x/e/z.md=6 /x/x=4"},
		{"directory is merged", []string{"/x/old=o", "/x/x=p"}, func() dockerfile.FileAction { return copyOf("/d", "/x/") }, "/x/ /x/e/ /x/e/y=5 /x/e/z.md=6 /x/old=o /x/x=4"},
		{"wildcard", nil, func() dockerfile.FileAction { return copyOf("/*.go", "/x/") }, "/x/ /x/b.go=2 /x/c.go=3"},
		{"wildcard that matches nothing", nil, func() dockerfile.FileAction { return copyOf("/*.c", "/x/") }, `error: "/*.c" not found`},
		{"wildcard that may match nothing", nil, func() dockerfile.FileAction { a := copyOf("/*.c", "/x/"); a.AllowEmpty = true; return a }, ""},
		{"missing source", nil, func() dockerfile.FileAction { return copyOf("/nope", "/x") }, `error: "/nope": not found`},
		{"usrmerge: into the directory that a link leads to", []string{"/usr/bin/", "/bin -> usr/bin"}, func() dockerfile.FileAction { return copyOf("/a", "/bin/app") }, "/bin -> usr/bin /usr/ /usr/bin/ /usr/bin/app=1"},
		{"a link at the destination is followed inside the root", []string{"/etc/", "/x -> ../../../etc"}, func() dockerfile.FileAction { return copyOf("/a", "/x/") }, "/etc/ /etc/a=1 /x -> ../../../etc"},
		{"link as source is followed", nil, func() dockerfile.FileAction { return copyOf("/l", "/x") }, "/x=4"},
		{"link to a directory as source", nil, func() dockerfile.FileAction { return copyOf("/ld", "/x") }, "/x/ /x/e/ /x/e/y=5 /x/e/z.md=6 /x/x=4"},
		{"links inside stay links", nil, func() dockerfile.FileAction { return copyOf("/", "/x/") }, "/x/ /x/a=1 /x/b.go=2 /x/c.go=3 /x/d/ /x/d/e/ /x/d/e/y=5 /x/d/e/z.md=6 /x/d/x=4 /x/l -> d/x /x/ld -> d"},
		{"exclude", nil, func() dockerfile.FileAction { a := copyOf("/d", "/x"); a.Exclude = []string{"**/*.md"}; return a }, "/x/ /x/e/ /x/e/y=5 /x/x=4"},
		{"include makes only the directories it needs", nil, func() dockerfile.FileAction { a := copyOf("/", "/x/"); a.Include = []string{"d/e/y"}; return a }, "/x/ /x/d/ /x/d/e/ /x/d/e/y=5"},
		{"directory over a file", []string{"/x/e=file"}, func() dockerfile.FileAction { return copyOf("/d", "/x") }, "error: cannot copy a directory over /x/e"},
		{"directory over a file, replacing", []string{"/x/e=file"}, func() dockerfile.FileAction { a := copyOf("/d", "/x"); a.AlwaysReplace = true; return a }, "/x/ /x/e/ /x/e/y=5 /x/e/z.md=6 /x/x=4"},
		{"no archive is copied", nil, func() dockerfile.FileAction { a := copyOf("/a", "/x"); a.AttemptUnpack = true; return a }, "/x=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dest := tree(t, test.dest...)
			before := show(t, dest)
			out, err := Run(t.Context(), []dockerfile.FileAction{test.action()}, []*filetree.Tree{dest, tree(t, source...)}, Options{Scratch: t.TempDir()})
			got := ""
			if err != nil {
				got = "error: " + err.Error()
			} else {
				got = show(t, out[0])
			}
			if got != test.want && !(strings.HasPrefix(test.want, "error") && strings.HasPrefix(got, test.want)) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if show(t, dest) != before {
				t.Error("the input was changed")
			}
		})
	}
}

func TestOwnersAndModes(t *testing.T) {
	t.Parallel()
	dest := tree(t, "/etc/passwd=root:x:0:0::/:/x\nweb:x:33:34::/:/x\n", "/etc/group=web:x:34:\nops:x:99:\n")
	for _, test := range []struct {
		name   string
		change func(*dockerfile.FileAction)
		want   string
	}{
		{"kept", func(*dockerfile.FileAction) {}, "-rw-r----- 7:8"},
		{"ids", func(a *dockerfile.FileAction) {
			a.Owner = &dockerfile.Owner{User: &dockerfile.Principal{ID: 5, Input: -1}, Group: &dockerfile.Principal{ID: 6, Input: -1}}
		}, "-rw-r----- 5:6"},
		{"user by name brings its group", func(a *dockerfile.FileAction) {
			a.Owner = &dockerfile.Owner{User: &dockerfile.Principal{Name: "web", Input: 0}}
		}, "-rw-r----- 33:34"},
		{"user and group by name", func(a *dockerfile.FileAction) {
			a.Owner = &dockerfile.Owner{User: &dockerfile.Principal{Name: "web", Input: 0}, Group: &dockerfile.Principal{Name: "ops", Input: 0}}
		}, "-rw-r----- 33:99"},
		{"unknown name", func(a *dockerfile.FileAction) {
			a.Owner = &dockerfile.Owner{User: &dockerfile.Principal{Name: "nonroto", Input: 0}}
		}, "unable to find user nonroto: no matching entries in passwd file"},
		{"octal mode", func(a *dockerfile.FileAction) { a.Mode = 0o4755 }, "urwxr-xr-x 7:8"},
		{"symbolic mode", func(a *dockerfile.FileAction) { a.ModeStr = "u+x,go=r" }, "-rwxr--r-- 7:8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := copyOf("/f", "/f")
			test.change(&a)
			out, err := Run(t.Context(), []dockerfile.FileAction{a}, []*filetree.Tree{dest, tree(t, "/f=x")}, Options{Scratch: t.TempDir()})
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				s, _ := out[0].Stat("/f")
				got = fmt.Sprintf("%v %d:%d", s.Mode, s.UID, s.GID)
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestInputs is FROM scratch with several COPY lines: -1 is an empty file system,
// and numbers past the inputs are results of earlier actions.
func TestInputs(t *testing.T) {
	t.Parallel()
	first, second := copyOf("/a", "/one"), copyOf("/b.go", "/two")
	first.Input, first.Secondary, first.Output = -1, 0, -1
	second.Input, second.Secondary, second.Output = 1, 0, 0
	out, err := Run(t.Context(), []dockerfile.FileAction{first, second}, []*filetree.Tree{tree(t, "/a=1", "/b.go=2", "/leak=x")}, Options{Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got := show(t, out[0]); got != "/one=1 /two=2" {
		t.Error(got)
	}
}

func archive(t testing.TB, headers ...tar.Header) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = w.Write([]byte("x"))
		}
	}
	_, _ = w.Close(), z.Close()
	return b.Bytes()
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	data := archive(t,
		tar.Header{Typeflag: tar.TypeReg, Name: "../../etc/evil", Mode: 0o644},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "/etc"},
		tar.Header{Typeflag: tar.TypeReg, Name: "sub/.wh.file", Mode: 0o644},
		tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o700},
	)
	source := filetree.New()
	if err := source.Put("/x.tgz", filetree.Attr{Mode: 0o644, Content: filetree.Bytes(data).Content()}); err != nil {
		t.Fatal(err)
	}
	a := copyOf("/x.tgz", "/opt/")
	a.AttemptUnpack = true
	out, err := Run(t.Context(), []dockerfile.FileAction{a}, []*filetree.Tree{tree(t, "/etc/"), source}, Options{Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	want := "/etc/ /opt/ /opt/d/ /opt/etc/ /opt/etc/evil=x /opt/out -> /etc /opt/sub/ /opt/sub/.wh.file=x"
	if got := show(t, out[0]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644}))
	f.Add([]byte("BZh"))
	f.Fuzz(func(t *testing.T, data []byte) {
		source := filetree.New()
		_ = source.Put("/x", filetree.Attr{Mode: 0o644, Content: filetree.Bytes(data).Content()})
		a := copyOf("/x", "/opt/")
		a.AttemptUnpack = true
		_, _ = Run(t.Context(), []dockerfile.FileAction{a}, []*filetree.Tree{filetree.New(), source}, Options{Scratch: t.TempDir()})
	})
}
