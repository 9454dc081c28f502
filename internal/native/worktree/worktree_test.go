package worktree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
)

func start(t *testing.T) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	for _, err := range []error{
		x.MkdirAll("/src/pkg", filetree.Attr{Mode: 0o555, UID: 9}),
		x.Put("/src/main.go", filetree.Attr{Mode: 0o444, UID: 9, Content: filetree.Bytes("main").Content(), ModTime: time.Unix(1000, 0)}),
		x.Put("/src/tool", filetree.Attr{Mode: 0o4755&^0o4000 | fs.ModeSetuid, UID: 9, Content: filetree.Bytes("tool").Content()}),
		x.Symlink("../../../etc", "/src/link", filetree.Attr{}),
		x.Mkdir("/out", filetree.Attr{Mode: 0o755}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func list(changes []filetree.Change) string {
	var out []string
	for _, c := range changes {
		if c.Removed {
			out = append(out, "-"+c.Path)
			continue
		}
		out = append(out, fmt.Sprintf("+%s %v %d", c.Path, c.Mode, c.UID))
	}
	return strings.Join(out, "; ")
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("modes and links of a Unix file system")
	}
	for _, test := range []struct {
		name    string
		process func(dir string) error
		want    string
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"reads only", func(dir string) error { _, err := os.ReadFile(dir + "/src/main.go"); return err }, ""},
		{"new file", func(dir string) error { return os.WriteFile(dir+"/out/app", []byte("app"), 0o755) }, "+/out/app -rwxr-xr-x 5"},
		{"new directory", func(dir string) error { return os.MkdirAll(dir+"/out/a/b", 0o755) }, "+/out/a drwxr-xr-x 5; +/out/a/b drwxr-xr-x 5"},
		{"written in place keeps its owner", func(dir string) error { return os.WriteFile(dir+"/src/main.go", []byte("other"), 0) }, "+/src/main.go -r--r--r-- 9"},
		{"replaced belongs to the user", func(dir string) error {
			if err := os.WriteFile(dir+"/src/x", []byte("new"), 0o644); err != nil {
				return err
			}
			return os.Rename(dir+"/src/x", dir+"/src/main.go")
		}, "+/src/main.go -rw-r--r-- 5"},
		{"removed", func(dir string) error { return os.RemoveAll(dir + "/src/pkg") }, "-/src/pkg"},
		{"all removed", func(dir string) error { return os.RemoveAll(dir + "/src") }, "-/src"},
		{"chmod", func(dir string) error { return os.Chmod(dir+"/out", 0o700) }, "+/out drwx------ 0"},
		{"link replaced by a file", func(dir string) error {
			_ = os.Remove(dir + "/src/link")
			return os.WriteFile(dir+"/src/link", []byte("x"), 0o644)
		}, "+/src/link -rw-r--r-- 5"},
		{"new link", func(dir string) error { return os.Symlink("/etc/passwd", dir+"/out/l") }, "+/out/l Lrwxrwxrwx 5"},
		{"ignored", func(dir string) error { return os.MkdirAll(dir+"/go/pkg/mod/x", 0o755) }, "+/go drwxr-xr-x 5; +/go/pkg drwxr-xr-x 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			w, err := Open(t.Context(), Options{Dir: filepath.Join(base, "w"), Scratch: base})
			if err != nil {
				t.Fatal(err)
			}
			old := start(t)
			x := old.Fork()
			if err := w.Checkout(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			if err := test.process(filepath.Join(base, "w")); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), x, 5, 5, time.Unix(5, 0), func(name string) bool { return strings.HasPrefix(name, "/go/pkg/mod") }); err != nil {
				t.Fatal(err)
			}
			if got := list(filetree.Diff(old, x)); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			// The tree goes on to be what the directory is.
			before := x.Fork()
			if err := w.Checkout(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), x, 5, 5, time.Unix(6, 0), func(name string) bool { return strings.HasPrefix(name, "/go/pkg/mod") }); err != nil {
				t.Fatal(err)
			}
			if got := list(filetree.Diff(before, x)); got != "" {
				t.Errorf("a second commit changed %s", got)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestUsedAgain: what the next run finds unchanged isn't written again, and what
// somebody changed in between is.
func TestUsedAgain(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "w")
	x := start(t)
	checkout := func() os.FileInfo {
		w, err := Open(t.Context(), Options{Dir: dir, Scratch: base})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Checkout(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(filepath.Join(dir, "src", "main.go"))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := checkout()
	if second := checkout(); !os.SameFile(first, second) {
		t.Error("an unchanged file was written again")
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "tool"), []byte("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "planted.go"), []byte("package main"), 0o644); err != nil {
		t.Fatal(err)
	}
	checkout()
	if b, _ := os.ReadFile(filepath.Join(dir, "src", "tool")); string(b) != "tool" {
		t.Errorf("a changed file stayed: %s", b)
	}
	if _, err := os.Lstat(filepath.Join(dir, "src", "planted.go")); err == nil {
		t.Error("a planted file stayed")
	}
}

// TestPlantedLink: a link that a process left doesn't lead the next checkout out.
func TestPlantedLink(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := Open(t.Context(), Options{Dir: filepath.Join(base, "w"), Scratch: base})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	x := start(t)
	if err := w.Checkout(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(base, "w", "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(base, "w", "out")); err != nil {
		t.Skip("no symbolic links here")
	}
	next := x.Fork()
	if err := next.Put("/out/app", filetree.Attr{Mode: 0o755, Content: filetree.Bytes("x").Content()}); err != nil {
		t.Fatal(err)
	}
	_ = w.Checkout(t.Context(), next) // may fail, may not follow
	if list, _ := os.ReadDir(outside); len(list) > 0 {
		t.Errorf("%s was written outside", list[0].Name())
	}
}

func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{"/etc/passwd": "../etc/passwd", "../../../x": "../x", "b": "b", "/": "..", "../src/a": "a"} {
		if got := inside("/src/l", link); got != want {
			t.Errorf("%s: got %s, want %s", link, got, want)
		}
	}
}
