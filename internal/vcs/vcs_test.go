package vcs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/vcs"
)

// repo is a repository that the real git makes, and is the oracle of.
type repo struct {
	t    *testing.T
	dir  string
	home string
	now  time.Time
}

// newRepo makes one with git init and the given flags.
func newRepo(t *testing.T, flags ...string) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git isn't installed; it is what these tests compare with")
	}
	r := &repo{t: t, dir: filepath.Join(t.TempDir(), "repo"), home: t.TempDir(), now: time.Unix(1700000000, 0)}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git(append([]string{"init", "-q", "-b", "main"}, flags...)...)
	return r
}

// at is the same git in another directory.
func (r *repo) at(dir string) *repo {
	other := *r
	other.dir = dir
	return &other
}

func (r *repo) try(args ...string) (string, error) {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	date := fmt.Sprintf("%d +0200", r.now.Unix())
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "TMPDIR=" + r.home,
		"GIT_AUTHOR_NAME=A > U Thor", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@example.com",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date, "GIT_ALLOW_PROTOCOL=file",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always",
		"SYSTEMROOT=" + os.Getenv("SYSTEMROOT"),
	}
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
		}
	}
	return strings.TrimSpace(string(out)), err
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *repo) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// commit changes a file and commits, an hour after the commit before.
func (r *repo) commit(message string) {
	r.t.Helper()
	r.now = r.now.Add(time.Hour)
	r.write("log.txt", message)
	r.write("dir/"+message+"/file.txt", strings.Repeat(message+"\n", 50))
	r.git("add", "-A")
	r.git("commit", "-q", "-m", message)
}

// settle makes all files older than the index, so that their metadata is believed.
func (r *repo) settle() {
	r.t.Helper()
	old := time.Now().Add(-time.Hour)
	for name := range strings.SplitSeq(r.git("ls-files"), "\n") {
		if err := os.Chtimes(filepath.Join(r.dir, name), old, old); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.t.Fatal(err)
		}
	}
	r.git("update-index", "-q", "--refresh")
}

// history makes commits with tags of both kinds and merges.
func history(r *repo) {
	r.commit("one")
	r.git("tag", "v0.1.0")
	r.commit("two")
	r.git("tag", "-a", "-m", "x", "v0.2.0")
	r.git("checkout", "-q", "-b", "side")
	r.commit("side1")
	r.commit("side2")
	r.git("tag", "-a", "-m", "x", "v0.3.0-rc.1")
	r.commit("side3")
	r.git("checkout", "-q", "main")
	r.commit("main1")
	r.now = r.now.Add(time.Hour)
	r.git("merge", "-q", "--no-edit", "-s", "ours", "side")
	r.commit("after")
}

// needs skips where the installed git is too old for a flag.
func (r *repo) needs(args ...string) {
	r.t.Helper()
	if _, err := r.try(args...); err != nil {
		r.t.Skipf("this git can't: %v", err)
	}
}

// repositories are as git makes them. Each is compared with what git says.
var repositories = map[string]struct {
	init []string
	make func(r *repo) *repo // gives where to look; nil is the same place
}{
	"loose":         {make: func(r *repo) *repo { history(r); return nil }},
	"packed":        {make: func(r *repo) *repo { history(r); r.git("gc", "-q", "--aggressive", "--prune=now"); return nil }},
	"sha256":        {init: []string{"--object-format=sha256"}, make: func(r *repo) *repo { history(r); return nil }},
	"sha256 packed": {init: []string{"--object-format=sha256"}, make: func(r *repo) *repo { history(r); r.git("gc", "-q"); return nil }},
	"several packs": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("repack", "-d", "-q")
		history(r)
		r.git("repack", "-d", "-q")
		r.commit("z")
		return nil
	}},
	"multi-pack index": {make: func(r *repo) *repo {
		history(r)
		r.git("repack", "-d", "-q")
		r.git("multi-pack-index", "write")
		return nil
	}},
	"commit graph": {make: func(r *repo) *repo {
		history(r)
		r.git("gc", "-q")
		r.git("commit-graph", "write", "--reachable")
		return nil
	}},
	"index version 1": {make: func(r *repo) *repo {
		history(r)
		r.git("-c", "pack.indexVersion=1", "repack", "-a", "-d", "-q", "-f")
		return nil
	}},
	"ref deltas": {make: func(r *repo) *repo {
		history(r)
		r.git("-c", "repack.useDeltaBaseOffset=false", "repack", "-a", "-d", "-q", "-f")
		return nil
	}},
	"packed refs":      {make: func(r *repo) *repo { history(r); r.git("pack-refs", "--all"); r.commit("later"); return nil }},
	"packed branch":    {make: func(r *repo) *repo { history(r); r.git("pack-refs", "--all", "--prune"); return nil }},
	"tag on HEAD":      {make: func(r *repo) *repo { history(r); r.git("tag", "v1.0.0"); return nil }},
	"two tags on HEAD": {make: func(r *repo) *repo { history(r); r.git("tag", "a"); r.git("tag", "-a", "-m", "x", "b"); return nil }},
	"annotated by time": {make: func(r *repo) *repo {
		history(r)
		r.git("tag", "-am", "x", "b")
		r.now = r.now.Add(time.Hour)
		r.git("tag", "-am", "x", "a")
		r.git("tag", "-am", "x", "c")
		return nil
	}},
	"tag on a tag": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("tag", "-am", "x", "t1")
		r.git("tag", "-am", "x", "t2", "t1")
		r.commit("b")
		return nil
	}},
	"tag on a tree": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("tag", "t", "HEAD^{tree}")
		r.git("tag", "-am", "x", "u", "HEAD:log.txt")
		return nil
	}},
	"tag replaced":    {make: func(r *repo) *repo { history(r); r.git("pack-refs", "--all"); r.git("tag", "-f", "v0.2.0"); return nil }},
	"tags in folders": {make: func(r *repo) *repo { history(r); r.git("tag", "api/v2.0.0"); return nil }},
	"no tags":         {make: func(r *repo) *repo { r.commit("a"); return nil }},
	"tag unreachable": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("checkout", "-q", "-b", "x")
		r.commit("b")
		r.git("tag", "t")
		r.git("checkout", "-q", "main")
		return nil
	}},
	"detached":          {make: func(r *repo) *repo { history(r); r.git("checkout", "-q", "--detach", "HEAD~1"); return nil }},
	"branch with slash": {make: func(r *repo) *repo { history(r); r.git("checkout", "-q", "-b", "feature/a.b"); return nil }},
	"many tags": {make: func(r *repo) *repo {
		for i := range 14 {
			r.commit(fmt.Sprint("c", i))
			r.git("tag", fmt.Sprint("t", i))
		}
		r.commit("end")
		return nil
	}},
	"worktree": {make: func(r *repo) *repo {
		history(r)
		dir := filepath.Join(filepath.Dir(r.dir), "linked")
		r.git("worktree", "add", "-q", "-b", "elsewhere", dir, "HEAD~1")
		return r.at(dir)
	}},
	"worktree of a bare clone": {make: func(r *repo) *repo {
		history(r)
		bare, dir := filepath.Join(filepath.Dir(r.dir), "bare"), filepath.Join(filepath.Dir(r.dir), "linked")
		r.git("clone", "-q", "--bare", r.dir, bare)
		r.at(bare).git("worktree", "add", "-q", dir, "main")
		return r.at(dir)
	}},
	"subdirectory": {make: func(r *repo) *repo { history(r); return r.at(filepath.Join(r.dir, "dir", "two")) }},
	"submodule": {make: func(r *repo) *repo {
		history(r)
		super := newRepo(r.t)
		super.commit("super")
		super.git("submodule", "add", "-q", r.dir, "sub")
		super.commit("added")
		return super.at(filepath.Join(super.dir, "sub"))
	}},
	"submodule unfetched": {make: func(r *repo) *repo { withSubmodule(r); return cloneOf(r, "") }},
	"shallow":             {make: func(r *repo) *repo { history(r); return cloneOf(r, "--depth=2") }},
	"shallow without tag": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("tag", "t")
		r.commit("b")
		r.commit("c")
		return cloneOf(r, "--depth=1")
	}},
	"borrowed objects": {make: func(r *repo) *repo { history(r); return cloneOf(r, "--shared") }},
	"sparse": {make: func(r *repo) *repo {
		history(r)
		r.needs("sparse-checkout", "set", "dir/two")
		return nil
	}},
	"sparse index": {make: func(r *repo) *repo {
		history(r)
		r.needs("sparse-checkout", "set", "--cone", "--sparse-index", "dir/two")
		return nil
	}},
	"index 4": {make: func(r *repo) *repo { history(r); r.git("update-index", "--index-version", "4"); return nil }},
	"index 3": {make: func(r *repo) *repo {
		history(r)
		r.git("update-index", "--skip-worktree", "log.txt")
		r.write("log.txt", "changed")
		return nil
	}},
	"untracked": {make: func(r *repo) *repo { history(r); r.write("new.txt", "x"); return nil }},
	"modified":  {make: func(r *repo) *repo { history(r); r.settle(); r.write("log.txt", "longer than before"); return nil }},
	"modified to the same size": {make: func(r *repo) *repo {
		history(r)
		r.write("log.txt", "AFTER")
		return nil
	}},
	"touched": {make: func(r *repo) *repo { history(r); r.settle(); r.write("log.txt", "after"); return nil }},
	"staged":  {make: func(r *repo) *repo { history(r); r.write("log.txt", "x"); r.git("add", "log.txt"); return nil }},
	"staged and undone": {make: func(r *repo) *repo {
		history(r)
		r.write("log.txt", "x")
		r.git("add", "log.txt")
		r.write("log.txt", "after")
		return nil
	}},
	"staged new":         {make: func(r *repo) *repo { history(r); r.write("new.txt", "x"); r.git("add", "new.txt"); return nil }},
	"staged last":        {make: func(r *repo) *repo { history(r); r.write("zzz", "x"); r.git("add", "zzz"); return nil }},
	"staged directory":   {make: func(r *repo) *repo { history(r); r.write("dir/aaa/x", "x"); r.git("add", "dir"); return nil }},
	"intent to add":      {make: func(r *repo) *repo { history(r); r.write("new.txt", "x"); r.git("add", "-N", "new.txt"); return nil }},
	"deleted":            {make: func(r *repo) *repo { history(r); os.Remove(filepath.Join(r.dir, "log.txt")); return nil }},
	"directory deleted":  {make: func(r *repo) *repo { history(r); os.RemoveAll(filepath.Join(r.dir, "dir")); return nil }},
	"removed from index": {make: func(r *repo) *repo { history(r); r.git("rm", "-q", "--cached", "log.txt"); return nil }},
	"renamed":            {make: func(r *repo) *repo { history(r); r.git("mv", "log.txt", "dir/log.txt"); return nil }},
	"file to directory": {make: func(r *repo) *repo {
		history(r)
		os.Remove(filepath.Join(r.dir, "log.txt"))
		r.write("log.txt/x", "x")
		return nil
	}},
	"no index": {make: func(r *repo) *repo { history(r); os.Remove(filepath.Join(r.dir, ".git", "index")); return nil }},
	"assumed unchanged": {make: func(r *repo) *repo {
		history(r)
		r.git("update-index", "--assume-unchanged", "log.txt")
		r.write("log.txt", "changed")
		return nil
	}},
	"cache tree gone": {make: func(r *repo) *repo {
		history(r)
		r.write("a", "x")
		r.git("add", "a")
		r.git("rm", "-q", "-f", "a")
		return nil
	}},
	"conflict": {make: func(r *repo) *repo {
		r.commit("a")
		r.git("checkout", "-q", "-b", "x")
		r.commit("b")
		r.git("checkout", "-q", "main")
		r.commit("c")
		_, _ = r.try("merge", "x")
		return nil
	}},
	"mode": {make: func(r *repo) *repo {
		history(r)
		r.chmod("log.txt", 0o755)
		return nil
	}},
	"mode not kept": {make: func(r *repo) *repo {
		history(r)
		r.git("config", "core.fileMode", "false")
		r.chmod("log.txt", 0o755)
		return nil
	}},
	"executable": {make: func(r *repo) *repo {
		r.write("run.sh", "#!/bin/sh\n")
		r.chmod("run.sh", 0o755)
		r.commit("a")
		return nil
	}},
	"symlink": {make: func(r *repo) *repo { r.link("log.txt", "link"); r.commit("a"); return nil }},
	"symlink changed": {make: func(r *repo) *repo {
		r.link("log.txt", "link")
		r.commit("a")
		os.Remove(filepath.Join(r.dir, "link"))
		r.link("dir", "link")
		return nil
	}},
	"symlink to file": {make: func(r *repo) *repo {
		r.link("log.txt", "link")
		r.commit("a")
		os.Remove(filepath.Join(r.dir, "link"))
		r.write("link", "log.txt")
		return nil
	}},
	"symlink as text": {make: func(r *repo) *repo {
		r.link("log.txt", "link")
		r.commit("a")
		r.git("config", "core.symlinks", "false")
		os.Remove(filepath.Join(r.dir, "link"))
		r.write("link", "log.txt")
		return nil
	}},
	"directory a link": {make: func(r *repo) *repo {
		r.commit("a")
		os.Rename(filepath.Join(r.dir, "dir"), filepath.Join(r.dir, "moved"))
		r.link("moved", "dir")
		return nil
	}},
	"submodule clean":    {make: func(r *repo) *repo { withSubmodule(r); return nil }},
	"submodule moved":    {make: func(r *repo) *repo { withSubmodule(r).commit("more"); return nil }},
	"submodule modified": {make: func(r *repo) *repo { withSubmodule(r).write("log.txt", "changed"); return nil }},
	"submodule removed":  {make: func(r *repo) *repo { withSubmodule(r); os.RemoveAll(filepath.Join(r.dir, "sub")); return nil }},
	"crlf as committed":  {make: func(r *repo) *repo { r.write("t.txt", "a\r\nb\r\n"); r.commit("a"); return nil }},
	"crlf automatic": {make: func(r *repo) *repo {
		r.write("t.txt", "a\nb\n")
		r.commit("a")
		r.git("config", "core.autocrlf", "true")
		r.recheckout("t.txt")
		return nil
	}},
	"crlf by attribute": {make: func(r *repo) *repo {
		r.write(".gitattributes", "*.txt text eol=crlf\n")
		r.write("t.txt", "a\nb\n")
		r.commit("a")
		r.recheckout("t.txt")
		return nil
	}},
	"crlf touched": {make: func(r *repo) *repo {
		r.write(".gitattributes", "*.txt text eol=crlf\n")
		r.write("t.txt", "a\nb\n")
		r.commit("a")
		r.recheckout("t.txt")
		r.settle()
		r.write("t.txt", "a\r\nb\r\n")
		return nil
	}},
	"crlf modified": {make: func(r *repo) *repo {
		r.write(".gitattributes", "*.txt text eol=crlf\n")
		r.write("t.txt", "a\nb\n")
		r.commit("a")
		r.recheckout("t.txt")
		r.write("t.txt", "a\r\nc\r\n")
		return nil
	}},
	"crlf unwanted": {make: func(r *repo) *repo {
		r.write("t.txt", "a\nb\n")
		r.commit("a")
		r.write("t.txt", "a\r\nb\r\n")
		return nil
	}},
	"ident": {make: func(r *repo) *repo {
		r.write(".gitattributes", "*.txt ident\n")
		r.write("t.txt", "$Id$\n")
		r.commit("a")
		r.recheckout("t.txt")
		r.settle()
		r.write("t.txt", "$Id: "+strings.Repeat("0", 40)+" $\n")
		return nil
	}},
}

func cloneOf(r *repo, flag string) *repo {
	dir := filepath.Join(filepath.Dir(r.dir), "clone")
	args := []string{"clone", "-q"}
	if flag != "" {
		args = append(args, flag)
	}
	r.git(append(args, "file://"+filepath.ToSlash(r.dir), dir)...)
	return r.at(dir)
}

func withSubmodule(r *repo) *repo {
	inner := newRepo(r.t)
	inner.commit("inner")
	r.commit("outer")
	r.git("submodule", "add", "-q", inner.dir, "sub")
	r.commit("added")
	return r.at(filepath.Join(r.dir, "sub"))
}

func (r *repo) chmod(name string, mode os.FileMode) {
	r.t.Helper()
	if runtime.GOOS == "windows" {
		r.t.Skip("Windows has no executable bit")
	}
	if err := os.Chmod(filepath.Join(r.dir, name), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) link(target, name string) {
	r.t.Helper()
	if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
		r.t.Skipf("no symbolic links here: %v", err)
	}
}

func (r *repo) recheckout(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
	r.git("checkout", "-q", "--", name)
}

func TestSameAsGit(t *testing.T) {
	t.Parallel()
	for name, test := range repositories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, test.init...)
			if other := test.make(r); other != nil {
				r = other
			}
			found, err := vcs.Find(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			// Ours comes first: git describe --dirty refreshes the index.
			got, err := found.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			changed, err := found.Changed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.Dirty != (changed != "") {
				t.Errorf("dirty is %v, changed is %q", got.Dirty, changed)
			}
			equal := func(what, got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("%s is %q, git says %q (changed: %q)", what, got, want, changed)
				}
			}
			equal("commit", got.Hash, r.git("rev-parse", "HEAD"))
			equal("short commit", got.Short(), r.git("rev-parse", "HEAD")[:7])
			branch, _ := r.try("symbolic-ref", "--short", "-q", "HEAD")
			equal("branch", got.Branch, branch)
			equal("time", fmt.Sprint(got.Time.Unix()), r.git("show", "-s", "--format=%ct", "HEAD"))
			equal("author time", fmt.Sprint(got.AuthorTime.Unix()), r.git("show", "-s", "--format=%at", "HEAD"))
			tags := strings.Fields(r.git("tag", "--points-at", "HEAD"))
			if (got.Tag == "") != (len(tags) == 0) || got.Tag != "" && !strings.Contains(" "+strings.Join(tags, " ")+" ", " "+got.Tag+" ") {
				t.Errorf("tag is %q, git has %q", got.Tag, tags)
			}
			dirty := r.git("describe", "--always", "--exclude=*", "--dirty")
			equal("dirty", fmt.Sprint(got.Dirty), fmt.Sprint(strings.HasSuffix(dirty, "-dirty")))
			described, _ := r.try("describe", "--tags", "--abbrev=7")
			equal("description", got.Describe, described)
			root := r.git("rev-parse", "--show-toplevel")
			if want, _ := filepath.EvalSymlinks(filepath.FromSlash(root)); want != "" {
				root, _ = filepath.EvalSymlinks(got.Root)
				equal("root", root, want)
			}
		})
	}
}
