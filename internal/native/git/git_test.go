package git

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// load makes a tree of a directory.
func load(t *testing.T, dir string) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	if err := x.Mkdir("/src", filetree.Attr{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		a := filetree.Attr{Mode: info.Mode()}
		if info.Mode().IsRegular() && info.Size() > 0 {
			a.Content = filetree.FileContent(name, info.Size())
		}
		return x.Put("/src/"+filepath.ToSlash(rel), a)
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func ours(t *testing.T, x *filetree.Tree, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/src", Env: map[string]string{"HOME": "/root"}, Args: append([]string{"git"}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &bytes.Buffer{}, Umask: 0o022, Now: time.Unix(0, 0)}
	exit, err := Command(Options{Scratch: t.TempDir()}).Run(t.Context(), p)
	if err != nil {
		return err.Error(), -1
	}
	return out.String(), exit
}

// TestLikeGit compares with git itself where that is installed.
func TestLikeGit(t *testing.T) {
	t.Parallel()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git isn't installed")
	}
	dir := t.TempDir()
	git := func(args ...string) (string, int) {
		cmd := exec.Command(real, args...)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=A B", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@d",
			"GIT_AUTHOR_DATE=2024-01-02T03:04:05+0100", "GIT_COMMITTER_DATE=2024-01-02T03:04:05Z", "PATH=/usr/bin:/bin", "TZ=UTC"}
		out, _ := cmd.Output()
		return string(out), cmd.ProcessState.ExitCode()
	}
	must := func(args ...string) {
		t.Helper()
		if out, exit := git(args...); exit != 0 {
			t.Fatalf("git %v: %d %s", args, exit, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must("init", "-q", "-b", "main")
	queries := [][]string{
		{"rev-parse", "HEAD"}, {"rev-parse", "--short", "HEAD"}, {"rev-parse", "--short=10", "HEAD"}, {"rev-parse", "--abbrev-ref", "HEAD"}, {"rev-parse", "nope"},
		{"describe", "--tags"}, {"describe", "--tags", "--always"}, {"describe", "--always", "--dirty"}, {"describe", "--tags", "--always", "--dirty", "--abbrev=12"}, {"describe", "--tags", "--abbrev=0"},
		{"describe", "--long", "--tags"}, {"describe"}, {"describe", "--exact-match", "--tags"}, {"describe", "--tags", "--match", "v*"},
		{"log", "-1", "--format=%H %h %ct %aI %an <%ae> %s"}, {"log", "-n", "1", "--pretty=format:%ad", "--date=short"}, {"show", "-s", "--format=%ct", "HEAD"},
		{"-c", "log.showsignature=false", "log", "-1", "--format=%H:%ct"}, {"rev-list", "--count", "HEAD"}, {"branch", "--show-current"}, {"tag"}, {"tag", "--points-at", "HEAD"},
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"no tag", func() { write("a", "1"); must("add", "."); must("commit", "-qm", "first\n\nbody") }},
		{"a tag", func() { must("tag", "v1.0") }},
		{"above a tag", func() {
			write("b", "2")
			must("add", ".")
			must("commit", "-qm", "second")
			write("b", "3")
			must("commit", "-qam", "third")
		}},
		{"changed", func() { write("a", "changed") }},
		{"an annotated tag", func() { must("commit", "-qam", "fourth"); must("tag", "-a", "v1.1", "-m", "x"); must("tag", "other") }},
		{"merged", func() {
			must("checkout", "-q", "-b", "side", "HEAD~2")
			write("c", "4")
			must("add", ".")
			must("commit", "-qm", "side")
			must("tag", "s1")
			must("checkout", "-q", "main")
			must("merge", "-q", "--no-ff", "-m", "merge", "side")
		}},
		{"packed", func() { must("gc", "-q") }},
		{"no branch", func() { must("checkout", "-q", "HEAD~1") }},
		{"a file is gone", func() { _ = os.Remove(filepath.Join(dir, "a")) }},
	} {
		step.do()
		x := load(t, dir)
		for _, q := range queries {
			want, wantExit := git(q...)
			got, exit := ours(t, x, q...)
			if wantExit != 0 {
				want = ""
				if exit != 0 {
					got = ""
				}
			}
			if strings.TrimRight(got, "\n") != strings.TrimRight(want, "\n") || (exit == 0) != (wantExit == 0) {
				t.Errorf("%s: git %s: got %q (%d), want %q (%d)", step.name, strings.Join(q, " "), got, exit, want, wantExit)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"clone https://example.com/x", "status --porcelain", "push", "-c core.fsmonitor=/x rev-parse HEAD", "describe --contains"} {
		var words []*string
		for _, w := range strings.Fields(line) {
			words = append(words, &w)
		}
		if check(words) == nil {
			t.Errorf("git %s is accepted", line)
		}
	}
	if out, exit := ours(t, filetree.New(), "rev-parse", "HEAD"); exit != 128 || out != "" {
		t.Errorf("%q %d", out, exit)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	x := filetree.New()
	if err := x.MkdirAll("/root", filetree.Attr{Mode: 0o700}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"config", "--global", "--add", "safe.directory", "/src"}, {"config", "--global", "url.https://t@example.com/.insteadOf", "https://example.com/"},
		{"config", "--global", "--add", "safe.directory", "*"}, {"config", "--global", "user.name", "a"}, {"config", "--global", "user.name", "b"},
	} {
		if out, exit := ours(t, x, args...); exit != 0 {
			t.Fatal(args, out)
		}
	}
	got, _ := x.ReadFile("/root/.gitconfig")
	want := "[safe]\n\tdirectory = /src\n\tdirectory = *\n[url \"https://t@example.com/\"]\n\tinsteadOf = https://example.com/\n[user]\n\tname = b\n"
	if string(got) != want {
		t.Errorf("got %s", got)
	}
}
