package buildcontext

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/refusal"
)

func dirWith(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, o Options) *Context {
	t.Helper()
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func names(t *testing.T, x *filetree.Tree) string {
	t.Helper()
	var list []string
	if err := x.Walk("/", func(name string, a filetree.Attr) error {
		if !a.IsDir() {
			list = append(list, strings.TrimPrefix(name, "/"))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestFilter(t *testing.T) {
	t.Parallel()
	dir := dirWith(t, "a.go=1", "b.md=2", "sub/c.go=3", "sub/d.md=4", "sub/deep/e.md=5", "node_modules/x/y.js=6", ".git/HEAD=7", "keep.md=8")
	c := open(t, Options{Where: dir})
	for _, test := range []struct {
		name, ignore string
		f            Filter
		want         string
	}{
		{"all", "", Filter{}, ".git/HEAD a.go b.md keep.md node_modules/x/y.js sub/c.go sub/d.md sub/deep/e.md"},
		{"ignored directory", ".git\nnode_modules", Filter{}, "a.go b.md keep.md sub/c.go sub/d.md sub/deep/e.md"},
		{"only at the top", "*.md\n.git\nnode_modules", Filter{}, "a.go sub/c.go sub/d.md sub/deep/e.md"},
		{"everywhere, with an exception", "**/*.md\n!keep.md\n.git\nnode_modules", Filter{}, "a.go keep.md sub/c.go"},
		{"everything but one below", "*\n!sub/deep/e.md", Filter{}, "sub/deep/e.md"},
		{"comment and spaces", "# x\n  .git  \n/node_modules/", Filter{}, "a.go b.md keep.md sub/c.go sub/d.md sub/deep/e.md"},
		{"asked for", "", Filter{Follow: []string{"a.go", "sub/deep"}}, "a.go sub/deep/e.md"},
		{"asked for by pattern", "", Filter{Follow: []string{"*.go", "sub/*.go"}}, "a.go sub/c.go"},
		{"asked for the whole", ".git", Filter{Follow: []string{"/"}}, "a.go b.md keep.md node_modules/x/y.js sub/c.go sub/d.md sub/deep/e.md"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := test.f
			var err error
			if f.Exclude, err = Patterns([]byte(test.ignore)); err != nil {
				t.Fatal(err)
			}
			x, err := c.Tree(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(t, x); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestIgnoreFileOfTheDockerfileComesFirst(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Where: dirWith(t, ".dockerignore=general", "docker/Dockerfile.dockerignore=special")})
	for name, want := range map[string]string{"docker/Dockerfile": "special", "Dockerfile": "general", "": "general"} {
		got, err := c.Ignore(name)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

// TestNothingOutside: links of a context are copied as links; what they lead to
// outside is never read.
func TestNothingOutside(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(dirWith(t, "secret=canary"), "secret")
	dir := dirWith(t, "a=1")
	for name, target := range map[string]string{"abs": secret, "up": "../../../../etc/passwd", "dir": filepath.Dir(secret)} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Skip("no symbolic links here")
		}
	}
	c := open(t, Options{Where: dir})
	x, err := c.Tree(t.Context(), Filter{Follow: []string{"abs", "up", "dir/secret", "a"}})
	if err != nil && !strings.Contains(err.Error(), "escapes") {
		t.Fatal(err)
	}
	if err == nil {
		if a, err := x.Lstat("/abs"); err != nil || !a.IsSymlink() {
			t.Errorf("%+v %v", a, err)
		}
		if _, err := x.ReadFile("/abs"); err == nil {
			t.Error("a file outside was read")
		}
	}
	// A file that becomes a link while it is built.
	x, err = c.Tree(t.Context(), Filter{Follow: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	var r *refusal.Error
	if b, err := x.ReadFile("/a"); !errors.As(err, &r) || r.Code != "PA124" {
		t.Errorf("%q %v", b, err)
	}
}

func TestSwapRace(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(dirWith(t, "secret=canary"), "secret")
	dir := dirWith(t, "a=harmless")
	at := filepath.Join(dir, "a")
	x, err := open(t, Options{Where: dir}).Tree(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = os.Rename(at, at+".kept")
			_ = os.Symlink(secret, at)
			_ = os.Remove(at)
			_ = os.Rename(at+".kept", at)
		}
	}()
	for range 10_000 {
		if b, _ := x.ReadFile("/a"); bytes.Contains(b, []byte("canary")) {
			t.Fatal("a file outside was read")
		}
		if ctx.Err() != nil {
			break
		}
	}
	stop()
	<-done
}

func TestChangedWhileBuilt(t *testing.T) {
	t.Parallel()
	dir := dirWith(t, "a=1")
	x, err := open(t, Options{Where: dir}).Tree(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	var r *refusal.Error
	if _, err := x.ReadFile("/a"); !errors.As(err, &r) || r.Code != "PA124" {
		t.Error(err)
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "Dockerfile", Mode: 0o644, Size: 4, Typeflag: tar.TypeReg}, {Name: "../../up", Mode: 0o644, Size: 4, Typeflag: tar.TypeReg}} {
		_ = w.WriteHeader(&h)
		_, _ = io.WriteString(w, "FROM")
	}
	_ = w.Close()
	base := t.TempDir()
	c := open(t, Options{Where: "-", Stdin: &b, Scratch: filepath.Join(base, "a", "b")})
	_, data, err := c.Dockerfile("", base)
	if err != nil || string(data) != "FROM" {
		t.Errorf("%q %v", data, err)
	}
	x, err := c.Tree(t.Context(), Filter{})
	if err != nil || names(t, x) != "Dockerfile up" {
		t.Errorf("%s %v", names(t, x), err)
	}
	c = open(t, Options{Where: "-", Stdin: strings.NewReader("FROM scratch\n"), Scratch: filepath.Join(base, "c")})
	if _, data, err := c.Dockerfile("", base); err != nil || string(data) != "FROM scratch\n" {
		t.Errorf("%q %v", data, err)
	}
}

func TestGit(t *testing.T) {
	t.Parallel()
	dir := dirWith(t, "app/Dockerfile=FROM scratch", "other=1")
	bare := filepath.Join(t.TempDir(), "x.git")
	repo, err := git.PlainInit(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	w, err := repo.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddGlob("."); err != nil {
		t.Fatal(err)
	}
	commit, err := w.Commit("x", &git.CommitOptions{Author: &object.Signature{Name: "n", Email: "e", When: time.Unix(1, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.CreateTag("v1", commit, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := git.PlainClone(bare, true, &git.CloneOptions{URL: dir}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"", "#v1", "#v1:app", "#" + commit.String() + ":app"} {
		c, err := Open(t.Context(), Options{Where: "file://" + bare + ref, Scratch: filepath.Join(t.TempDir(), "clone")})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		x, err := c.Tree(t.Context(), Filter{})
		want := "app/Dockerfile other"
		if strings.HasSuffix(ref, ":app") {
			want = "Dockerfile"
		}
		if err != nil || names(t, x) != want {
			t.Errorf("%s: %s %v", ref, names(t, x), err)
		}
	}
	if _, err := Open(t.Context(), Options{Where: "file://" + bare + "#nope", Scratch: filepath.Join(t.TempDir(), "clone")}); err == nil {
		t.Error("a reference that isn't there was found")
	}
}
