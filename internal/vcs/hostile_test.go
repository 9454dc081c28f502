package vcs_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyarch/anyarch/internal/vcs"
)

func find(t *testing.T, dir string) *vcs.Repository {
	t.Helper()
	r, err := vcs.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dirty(t *testing.T, dir string) bool {
	t.Helper()
	is, err := find(t, dir).Dirty(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// skeleton is the least that is a repository, made without git.
func skeleton(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		".git/HEAD": "ref: refs/heads/main\n", ".git/config": "[core]\n\trepositoryformatversion = 0\n",
		".git/objects/info/packs": "", ".git/refs/heads/.keep": "",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The hostile configuration is one that real git acts on, which is shown first.
func TestNothingOfARepositoryIsRun(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the marker is made by a shell script")
	}
	r := newRepo(t)
	history(r)
	marker := filepath.Join(t.TempDir(), "ran")
	script := filepath.Join(r.dir, "evil.sh")
	r.write("evil.sh", "#!/bin/sh\ntouch '"+marker+"'\n")
	r.chmod("evil.sh", 0o755)
	included := filepath.Join(r.dir, "more.cfg")
	r.write("more.cfg", "[core]\n\tfsmonitor = "+script+"\n")
	r.write(".gitattributes", "*.txt filter=evil diff=evil\n")
	for _, kv := range [][2]string{
		{"core.fsmonitor", script}, {"core.hooksPath", r.dir}, {"core.sshCommand", script}, {"include.path", included},
		{"filter.evil.clean", script}, {"filter.evil.smudge", script}, {"filter.evil.process", script},
		{"diff.evil.textconv", script}, {"core.pager", script}, {"core.editor", script}, {"credential.helper", "!" + script},
		{"remote.origin.url", "ext::" + script}, {"remote.origin.uploadpack", script}, {"gpg.program", script}, {"alias.describe", "!" + script},
	} {
		r.git("config", kv[0], kv[1])
	}
	for _, hook := range []string{"post-index-change", "reference-transaction", "fsmonitor-watchman"} {
		if err := os.WriteFile(filepath.Join(r.dir, ".git", "hooks", hook), []byte("#!/bin/sh\ntouch '"+marker+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.write("log.txt", "AFTER")
	os.Remove(marker)

	revision, err := find(t, r.dir).Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Fatal("reading the revision ran a program of the repository")
	}
	if !revision.Dirty || revision.Remote != "" {
		t.Errorf("got dirty %v, remote %q", revision.Dirty, revision.Remote)
	}
	if _, _ = r.try("status"); !exists(marker) {
		t.Error("git itself didn't run the program either: this test proves nothing")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestWithoutRepository(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"nothing":        {"main.go": "package main"},
		"empty .git":     {".git/x": ""},
		"module zip":     {"mod@v1.0.0/main.go": "package main"},
		".git too short": {".git/HEAD": "ref: refs/heads/main\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := vcs.Find(dir); !errors.Is(err, vcs.ErrNoRepository) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("directory that isn't there", func(t *testing.T) {
		t.Parallel()
		if _, err := vcs.Find(filepath.Join(t.TempDir(), "a", "b")); !errors.Is(err, vcs.ErrNoRepository) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("0", 40)
	for name, test := range map[string]struct {
		files map[string]string
		want  string // in the error
		fix   string // of the Unsupported that it has to be
		none  bool   // it has to be ErrNoCommit
	}{
		"unborn":             {want: "main: the branch has no commit yet", none: true},
		"reftable":           {files: map[string]string{".git/config": "[core]\nrepositoryformatversion=1\n[extensions]\nrefStorage = reftable\n"}, want: "refs are kept as reftable", fix: "git refs migrate --ref-format=files"},
		"new version":        {files: map[string]string{".git/config": "[core]\nrepositoryformatversion=2\n"}, want: "repository format version 2 isn't supported"},
		"new extension":      {files: map[string]string{".git/config": "[core]\nrepositoryformatversion=1\n[extensions]\nmagic = true\n"}, want: "repository extension magic isn't supported"},
		"new hash":           {files: map[string]string{".git/config": "[core]\nrepositoryformatversion=1\n[extensions]\nobjectFormat = sha3\n"}, want: "object format sha3 isn't supported"},
		"damaged config":     {files: map[string]string{".git/config": "[core\n"}, want: "config: line 1: not a Git configuration file"},
		"damaged HEAD":       {files: map[string]string{".git/HEAD": "hello\n"}, want: "HEAD doesn't hold a commit"},
		"HEAD leads out":     {files: map[string]string{".git/HEAD": "ref: refs/../../secret\n"}, want: "isn't the name of a ref"},
		"HEAD to a file":     {files: map[string]string{".git/HEAD": "ref: config\n"}, want: "isn't the name of a ref"},
		"refs in a circle":   {files: map[string]string{".git/refs/heads/main": "ref: refs/heads/x\n", ".git/refs/heads/x": "ref: refs/heads/main\n"}, want: "refs point to one another"},
		"no object":          {files: map[string]string{".git/refs/heads/main": zeros + "\n"}, want: "object " + zeros + ": the clone doesn't have it"},
		"damaged object":     {files: map[string]string{".git/refs/heads/main": zeros + "\n", ".git/objects/00/" + zeros[2:]: "junk"}, want: "damaged"},
		"damaged pack index": {files: map[string]string{".git/refs/heads/main": zeros + "\n", ".git/objects/pack/pack-1.idx": "junk"}, want: "the index is too short"},
		"damaged packed":     {files: map[string]string{".git/packed-refs": "junk\n"}, want: "packed-refs: line 1 isn't a ref"},
		"gitfile to nowhere": {files: map[string]string{"sub/.git": "gitdir: ../nowhere\n"}, want: "which isn't a repository"},
		"gitfile of junk":    {files: map[string]string{"sub/.git": "hello\n"}, want: "not a .git file"},
		"borrows in a circle": {files: map[string]string{
			".git/refs/heads/main": zeros + "\n", ".git/objects/info/alternates": "../objects\n../../.git/objects\n",
		}, want: "the clone doesn't have it"},
		"borrows deep": {files: map[string]string{
			".git/refs/heads/main": zeros + "\n", ".git/objects/info/alternates": "../o1\n",
			".git/o1/info/alternates": "../o2\n", ".git/o2/info/alternates": "../o3\n", ".git/o3/info/alternates": "../o4\n",
			".git/o4/info/alternates": "../o5\n", ".git/o5/info/alternates": "../o6\n", ".git/o6/x": "",
		}, want: "more than 5 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := skeleton(t, test.files)
			if test.files["sub/.git"] != "" {
				dir = filepath.Join(dir, "sub")
			}
			r, err := vcs.Find(dir)
			if err == nil {
				_, err = r.Head(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if errors.Is(err, vcs.ErrNoCommit) != test.none {
				t.Errorf("got %v", err)
			}
			if unsupported, ok := errors.AsType[*vcs.Unsupported](err); test.fix != "" && (!ok || unsupported.Fix != test.fix) {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestSplitIndexIsNamed(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	history(r)
	r.git("update-index", "--split-index")
	_, err := find(t, r.dir).Dirty(t.Context())
	unsupported, ok := errors.AsType[*vcs.Unsupported](err)
	if !ok || unsupported.Fix != "git update-index --no-split-index" {
		t.Fatalf("got %v", err)
	}
	r.git(strings.Fields(unsupported.Fix)[1:]...)
	if dirty(t, r.dir) {
		t.Error("dirty after the fix")
	}
}

func TestReftableIsNamed(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	if _, err := r.try("init", "-q", "--ref-format=reftable", "other"); err != nil {
		t.Skip("this git has no reftable")
	}
	_, err := vcs.Find(filepath.Join(r.dir, "other"))
	if _, ok := errors.AsType[*vcs.Unsupported](err); !ok || !strings.Contains(err.Error(), "reftable") {
		t.Errorf("got %v", err)
	}
}

// A change that git overlooks within one second.
func TestTimeSetBack(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("the change time isn't known here")
	}
	r := newRepo(t)
	history(r)
	r.settle()
	name := filepath.Join(r.dir, "log.txt")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	r.write("log.txt", "AFTER")
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if !dirty(t, r.dir) {
		t.Error("clean")
	}
}

// Contents count, not sizes: a checkout with other line ends is the same.
func TestConvertedFileOfAnotherSizeIsClean(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.write(".gitattributes", "[attr]txt text\n*.txt txt\nsub/** -text\n*.bin binary\n")
	r.write("t.txt", "a\nb\n")
	r.write("sub/t.txt", "a\nb\n")
	r.write("x.bin", "a\nb\n")
	r.commit("a")
	r.write("t.txt", "a\r\nb\r\n")
	if name, err := find(t, r.dir).Changed(t.Context()); name != "" || err != nil {
		t.Errorf("changed: %q, %v", name, err)
	}
	r.write("sub/t.txt", "a\r\nb\r\n")
	if name, err := find(t, r.dir).Changed(t.Context()); name != "sub/t.txt" || err != nil {
		t.Errorf("changed: %q, %v", name, err)
	}
}

// A file of Git LFS is compared with the pointer in the repository.
func TestLFS(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	content := strings.Repeat("large", 1000)
	r.write("x.bin", fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", sha256.Sum256([]byte(content)), len(content)))
	r.commit("a")
	r.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	r.commit("b")
	r.write("x.bin", content)
	if dirty(t, r.dir) {
		t.Error("the file that the pointer names counts as changed")
	}
	r.write("x.bin", strings.ToUpper(content))
	if !dirty(t, r.dir) {
		t.Error("another file counts as the one of the pointer")
	}
}

func TestSpecialFiles(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /dev/zero and mkfifo")
	}
	mkfifo, err := exec.LookPath("mkfifo")
	if err != nil {
		t.Skip("no mkfifo")
	}
	for _, name := range []string{"HEAD", "config", "packed-refs", "refs/heads/main", "commondir", "objects/info/alternates", "index"} {
		for _, kind := range []string{"pipe", "device"} {
			t.Run(name+" is a "+kind, func(t *testing.T) {
				t.Parallel()
				r := newRepo(t)
				r.commit("a")
				r.git("pack-refs", "--all")
				path := filepath.Join(r.dir, ".git", name)
				os.Remove(path)
				if kind == "pipe" {
					if err := exec.Command(mkfifo, path).Run(); err != nil {
						t.Skip(err)
					}
				} else if err := os.Symlink("/dev/zero", path); err != nil {
					t.Fatal(err)
				}
				found, err := vcs.Find(r.dir)
				if err == nil {
					_, err = found.Head(t.Context())
				}
				if err == nil || !strings.Contains(err.Error(), "not a regular file") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// GIT_* variables lead git elsewhere; here they must not.
func TestEnvironmentIsIgnored(t *testing.T) {
	r, other := newRepo(t), newRepo(t)
	r.commit("a")
	other.commit("b")
	t.Setenv("GIT_DIR", filepath.Join(other.dir, ".git"))
	t.Setenv("GIT_INDEX_FILE", filepath.Join(other.dir, ".git", "index"))
	t.Setenv("GIT_WORK_TREE", other.dir)
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "remote.origin.url")
	t.Setenv("GIT_CONFIG_VALUE_0", "https://example.com/evil")
	t.Setenv("GIT_CEILING_DIRECTORIES", r.dir)
	t.Chdir(filepath.Join(r.dir, "dir"))
	revision, err := find(t, ".").Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if revision.Hash != r.git("rev-parse", "HEAD") || revision.Dirty || revision.Remote != "" {
		t.Errorf("got %+v", revision)
	}
}

func TestTagsNewestFirst(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("a")
	for _, tag := range []string{"v1.9.0", "v1.10.0", "1.10.1", "v1.10.1-rc.1", "latest", "api/v3.0.0", "v2", "v1.10", "v1.10.0+b", "v01.2.3", "v3.0"} {
		r.git("tag", tag)
	}
	tags, err := find(t, r.dir).Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"1.10.1", "v1.10.1-rc.1", "v1.10.0", "v1.10.0+b", "v1.9.0", "api/v3.0.0", "latest", "v01.2.3", "v1.10", "v2", "v3.0"}
	if !slices.Equal(tags, want) {
		t.Errorf("got %q, want %q", tags, want)
	}
}

func TestDescribeMatch(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("a")
	r.git("tag", "v1.0.0")
	r.commit("b")
	r.git("tag", "nightly")
	r.commit("c")
	versions := func(tag string) bool { return strings.HasPrefix(tag, "v") }
	d, err := find(t, r.dir).Describe(t.Context(), versions)
	if want := r.git("describe", "--tags", "--match=v*", "--abbrev=7"); err != nil || d.String() != want || d.Tag != "v1.0.0" || d.Distance != 2 {
		t.Errorf("got %v, %v, want %s", d, err, want)
	}
	if _, err := find(t, r.dir).Describe(t.Context(), func(string) bool { return false }); !errors.Is(err, vcs.ErrNoTag) {
		t.Errorf("got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	history(r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := find(t, r.dir).Head(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := find(t, r.dir).Dirty(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	history(r)
	r.git("gc", "-q")
	found := find(t, r.dir)
	want, err := found.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if got, err := found.Head(t.Context()); err != nil || got != want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	group.Wait()
}

// Nothing in a repository may be changed by being read: two builds may share it.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	history(r)
	r.write("log.txt", "after")
	before := r.git("-c", "core.fsmonitor=false", "ls-files", "--debug")
	if _, err := find(t, r.dir).Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := r.git("ls-files", "--debug"); after != before {
		t.Error("the index was written")
	}
}

func BenchmarkLargeRepository(b *testing.B) {
	if _, err := exec.LookPath("git"); err != nil {
		b.Skip("git isn't installed")
	}
	dir := b.TempDir()
	for i := range 20000 {
		name := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d/f%d.go", i%40, i/40%25, i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, fmt.Appendf(nil, "package f%d\n", i), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=a", "-c", "user.email=b", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "commit", "-q", "-m", "x"},
		{"gc", "-q"}, {"update-index", "-q", "--refresh"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	b.Run("Commit", func(b *testing.B) {
		for b.Loop() {
			r, err := vcs.Find(dir)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Dirty", func(b *testing.B) {
		r, err := vcs.Find(dir)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if name, err := r.Changed(b.Context()); err != nil || name != "" {
				b.Fatal(name, err)
			}
		}
	})
}
