package search

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// files are the tree of the tests: name and mode, then the content, or where a link
// leads. A name that ends in a slash is a directory.
var files = []struct {
	name string
	mode fs.FileMode
	text string
}{
	{"a/", 0o755, ""}, {"a/one.go", 0o644, "package a\n"}, {"a/two.txt", 0o600, strings.Repeat("x", 1500)}, {"a/empty", 0o644, ""}, {"a/.hidden", 0o644, "h"},
	{"a/sub/", 0o700, ""}, {"a/sub/deep/", 0o755, ""}, {"a/sub/deep/x.go", 0o755, "x"}, {"a/none/", 0o755, ""}, {"b/", 0o755, ""}, {"b/run", 0o4755, "#!"}, {"b/One.GO", 0o644, "g"},
	{"b/name with space", 0o644, "s"}, {"l", fs.ModeSymlink, "a"}, {"broken", fs.ModeSymlink, "nowhere"}, {"a/up", fs.ModeSymlink, "../b/run"},
}

var (
	now = time.Unix(1700000000, 0)
	old = time.Unix(1600000000, 0)
)

func stage(t testing.TB) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(x.MkdirAll("/w", filetree.Attr{Mode: 0o755}))
	must(x.MkdirAll("/etc", filetree.Attr{Mode: 0o755}))
	must(x.WriteFile("/etc/passwd", filetree.Bytes("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n").Content(), filetree.Attr{Mode: 0o644}))
	must(x.WriteFile("/etc/group", filetree.Bytes("root:x:0:\nwww:x:34:\n").Content(), filetree.Attr{Mode: 0o644}))
	for _, f := range files {
		at := "/w/" + strings.TrimSuffix(f.name, "/")
		a := filetree.Attr{Mode: f.mode.Perm(), ModTime: old}
		if f.mode&0o4000 != 0 {
			a.Mode |= fs.ModeSetuid
		}
		switch {
		case f.mode&fs.ModeSymlink != 0:
			must(x.Symlink(f.text, at, a))
		case strings.HasSuffix(f.name, "/"):
			must(x.Mkdir(at, a))
		default:
			must(x.WriteFile(at, filetree.Bytes(f.text).Content(), a))
		}
	}
	return x
}

// onHost makes the same files in a directory of the host.
func onHost(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		at := filepath.Join(dir, f.name)
		var err error
		switch {
		case f.mode&fs.ModeSymlink != 0:
			err = os.Symlink(f.text, at)
		case strings.HasSuffix(f.name, "/"):
			err = os.Mkdir(at, f.mode)
		default:
			if err = os.WriteFile(at, []byte(f.text), 0o600); err == nil {
				mode := f.mode.Perm()
				if f.mode&0o4000 != 0 {
					mode |= fs.ModeSetuid
				}
				err = os.Chmod(at, mode)
			}
		}
		if err == nil && f.mode&fs.ModeSymlink == 0 {
			err = os.Chtimes(at, old, old)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// call runs find in /w; a word may be in single quotes.
func call(t testing.TB, x *filetree.Tree, dialect command.Dialect, args ...string) (string, int, error) {
	t.Helper()
	var out bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/w", Args: append([]string{"find"}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Umask: 0o022, Dialect: dialect, Now: now}
	p.Run = func(_ context.Context, q *command.Proc) (int, error) {
		switch q.Args[0] {
		case "echo":
			_, _ = fmt.Fprintln(q.Stdout, strings.Join(q.Args[1:], " "))
		case "rm":
			for _, name := range q.Args[1:] {
				if err := q.Tree.RemoveAll(q.Path(name)); err != nil {
					return 1, err
				}
			}
		case "false":
			return 1, nil
		default:
			t.Errorf("it ran %v", q.Args)
		}
		return 0, nil
	}
	exit, err := Commands()[0].Run(t.Context(), p)
	return out.String(), exit, err
}

func words(line string) []string {
	var list []string
	for w := range strings.SplitSeq(line, " ") {
		list = append(list, strings.ReplaceAll(w, "_", " "))
	}
	return list
}

// lines are what find is called with in the tests that hold it against the host's.
var lines = []string{
	"", ".", "a", "a/", "a//", "./a/", "a b", "none", "l", "l/", "-H l", "-L l", "-L .", "broken", "-L broken", ". -type f", ". -type d", ". -type l", "-L . -type l", ". -name *.go", ". -iname *.go", ". -name a", "a/ -name a",
	". -path ./a/*", ". -path */sub/*", ". -ipath *ONE*", ". -wholename ./b/run", ". -maxdepth 1", ". -mindepth 2", ". -maxdepth 2 -mindepth 2", ". -maxdepth 0", ". -empty", ". -type f -empty", ". -type d -empty",
	". -type f -size +1c", ". -type f -size -2c", ". -type f -size 1c", ". -type f -size +1", ". -type f -size -1", ". -type f -size 3", ". -type f -size +1k", ". -type f -size 2k", ". -type l -size -2c", ". -type f -size 5w",
	". -perm 644", ". -perm -4000", ". -perm -u+x -type f", ". -perm /111 -type f", ". -perm /u=x,g=w -type f", ". -perm -u=rwx", ". -perm u=rw,go=r", ". -perm /000 -type f", ". -perm -000 -type f",
	". ! -type d", ". -not -type d", ". ! ! -type d", ". -type f -o -type l", ". -type f -a -name *.go", ". ( -name *.go -o -name *.txt ) -print", ". -name sub -prune -o -print", ". -name sub -prune -o -type f -print", ". -path ./a/sub -prune -o -name *.go -print",
	". -name sub -prune", ". -depth", "a -depth -name sub -prune", ". -type f -print -print", ". -name one.go -print0", ". -true", ". -false", ". -false -o -name b", ". -name a , -name b", ". -quit", "a -name one.go -print -quit",
	"a -type f -exec echo {} ;", "a -type f -exec echo x{}y{} ;", ". -name *.go -exec echo ; -print", ". -name *.go -exec false ; -o -name b -print", ". -name *.go ! -exec false ; -print", ". -type d -name sub -exec rm -r {} ;", ". -type d -name sub -exec rm -r {} +", ". -name sub -prune -exec rm -r {} ;",
	"a -name sub -exec echo {} +", ". -exec false {} +", "a -type f -delete", "a -delete", "a/sub -delete -print", ". -name a -delete", "a/none -delete -o -print", ". -type f -name *.go -delete -print", "none -delete",
	". -newer a", ". -user 0 -maxdepth 0", ". -executable -type f", ". -executable -type l", ". -regextype posix-extended -regex .*/(one|x)\\.go", ". -regextype posix-extended -iregex .*one.*",
	"a/one.go -printf %f_%h_%p_%P_%m_%s_%y_%d_%H\\n", "a/sub -type f -printf %h/%f:%P\\t%U\\0", ". -type l -printf %l\\n", "a -maxdepth 0 -printf %P|%h|%f\\n", "a/ -maxdepth 0 -printf %P|%h|%f\\n", "/ -maxdepth 0 -printf %P|%h|%f\\n", "/ -maxdepth 0 -name /",
	". -type f,l", ". -uid 0 -maxdepth 0", ". -uid +0", ". -name", ". (", ". )", ". -a", ". ( )", ". -name x y", ". -o -name x", ". -name x -o", ". !", ". -type x", ". -maxdepth x", ". -maxdepth -1", ". -size x", ". -perm 9", ". -exec echo {}", ". -exec ;", "-type f", "-maxdepth 0", "-- a",
	". -follow -type l", ". -nouser", ". -readable -type l", ". -name [ab]", ". -name .*", ". -name ?", ". -name *_*", ". -user nobody-at-all", ". -group nobody-at-all", ". -newer nothing", "a l b -maxdepth 0", ". -depth -maxdepth 1", "-delete -prune",
}

// against holds find against a program of the host, which sorts what it prints in
// its own way.
func against(t *testing.T, dialect command.Dialect, program ...string) {
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			var args []string
			if line != "" {
				args = words(line)
			}
			x := stage(t)
			got, exit, err := call(t, x, dialect, args...)
			var u *command.Unsupported
			if errors.As(err, &u) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			dir := onHost(t)
			cmd := exec.CommandContext(t.Context(), program[0], slices.Concat(program[1:], args)...)
			if len(program) == 1 {
				cmd.Args[0] = "find" // what it calls itself
			}
			cmd.Dir, cmd.Env = dir, []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			code := cmd.ProcessState.ExitCode()
			if bytes.Contains(out, []byte("unrecognized: ")) {
				t.Skip("this busybox is without it")
			}
			if exit != code {
				t.Errorf("exit code %d, the host's is %d (%v)\n%s--\n%s", exit, code, err, got, out)
			}
			if strings.Contains(got, "find: ") && strings.Contains(string(out), "find: ") && code == 1 && !strings.Contains(line, "delete") && !strings.Contains(line, "none") {
				return // what is wrong is said in other words
			}
			if a, b := sorted(got), sorted(string(out)); a != b {
				t.Errorf("got\n%s--\nthe host has\n%s", a, b)
			}
			if a, b := names(t, x), hostNames(t, dir); a != b {
				t.Errorf("what is left:\n%s--\non the host\n%s", a, b)
			}
		})
	}
}

func sorted(text string) string {
	list := strings.SplitAfter(text, "\n")
	slices.Sort(list)
	return strings.Join(list, "")
}

func names(t *testing.T, x *filetree.Tree) string {
	var list []string
	if err := x.Walk("/w", func(name string, _ filetree.Attr) error { list = append(list, name[2:]); return nil }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, "\n")
}

func hostNames(t *testing.T, dir string) string {
	var list []string
	if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		list = append(list, strings.TrimPrefix(name, dir))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, "\n")
}

func TestAgainstGNU(t *testing.T) {
	t.Parallel()
	program := known(t, "GNU findutils", "find", "--version")
	if os.Getuid() != 0 {
		t.Skip("the files of the test belong to root")
	}
	against(t, command.GNU, program)
}

func TestAgainstBusybox(t *testing.T) {
	t.Parallel()
	program := known(t, "BusyBox v1.35", "busybox")
	if os.Getuid() != 0 {
		t.Skip("the files of the test belong to root")
	}
	against(t, command.Busybox, program, "find")
}

// known skips the test unless a program of the host is of a version that this was
// held against: others do some things otherwise, which isn't a mistake here.
func known(t *testing.T, version string, program ...string) string {
	t.Helper()
	at, err := exec.LookPath(program[0])
	if err != nil {
		t.Skip(err)
	}
	out, _ := exec.CommandContext(t.Context(), at, program[1:]...).CombinedOutput() //nolint:gosec // tests
	if !bytes.Contains(out, []byte(version)) {
		t.Skipf("%s isn't %s", program[0], version)
	}
	return at
}

func TestOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ line, want string }{
		{". -maxdepth 1", ".\n./a\n./b\n./broken\n./l\n"},
		{"b -user root -type f", "b/One.GO\nb/name with space\nb/run\n"},
		{"b -group 0 -name run", "b/run\n"},
		{"/etc -newer a -type f", ""},
		{"b -type f -exec echo {} +", "b/One.GO b/name with space b/run\n"},
		{"b -depth", "b/One.GO\nb/name with space\nb/run\nb\n"},
	} {
		got, exit, err := call(t, stage(t), command.GNU, words(test.line)...)
		if got != test.want || exit != 0 || err != nil {
			t.Errorf("find %s: got %q, %d, %v; want %q", test.line, got, exit, err, test.want)
		}
	}
}

// TestRefused: what can't be done exactly is refused, before it runs where the
// script says it.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		line  string
		early bool
	}{
		{". -mtime +3", true}, {". -xdev", true}, {". -newermt 2020-01-01", true}, {". -ls", true}, {". -ok rm {} ;", true}, {". -printf %T@", true}, {". -regex .*", false}, {". -execdir x {} ;", true},
		{". ( -name a -o -ctime 1 )", true}, {". -exec a {} b {} +", true}, {". -size 1k", false}, {". -perm +111", false}, {"-L loop", false}, {"new -newer new", false}, {". -inum 3", true},
	} {
		args := words(test.line)
		pointers := make([]*string, len(args))
		for i := range args {
			pointers[i] = &args[i]
		}
		if u := Commands()[0].Check(pointers); (u != nil) != test.early {
			t.Errorf("find %s: before it runs it is %v", test.line, u)
		}
		if test.early {
			continue
		}
		x := stage(t)
		if err := errors.Join(x.Symlink(".", "/w/loop", filetree.Attr{}), x.WriteFile("/w/new", nil, filetree.Attr{ModTime: now})); err != nil {
			t.Fatal(err)
		}
		_, _, err := call(t, x, command.GNU, args...)
		var u *command.Unsupported
		if !errors.As(err, &u) {
			t.Errorf("find %s: %v", test.line, err)
		}
	}
}

// TestUnknownWords: a word that isn't known yet hides only what it may be.
func TestUnknownWords(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		args    []*string
		refused bool
	}{
		{[]*string{nil}, false}, {[]*string{nil, text("-mtime"), text("1")}, true}, {[]*string{text("."), text("-name"), nil, text("-mtime"), text("1")}, true},
		{[]*string{text("."), text("-exec"), text("rm"), nil, text(";"), text("-ls")}, true}, {[]*string{text("."), text("-type"), text("f"), nil, text("-ls")}, false},
		{[]*string{text("."), text("("), text("-name"), nil, text(")"), text("-fprint"), text("x")}, true}, {[]*string{text("."), text("-exec"), text("rm"), nil}, false},
	} {
		if u := Commands()[0].Check(test.args); (u != nil) != test.refused {
			t.Errorf("%v: %v", test.args, u)
		}
	}
}

func TestUserMayNot(t *testing.T) {
	t.Parallel()
	x := stage(t)
	var out bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/w", Args: []string{"find", "a", "-name", "*.go"}, Stdout: &out, Stderr: &out, UID: 33, GID: 34, Dialect: command.Busybox}
	exit, err := Commands()[0].Run(t.Context(), p)
	if exit != 1 || err != nil || out.String() != "a/one.go\nfind: a/sub: Permission denied\n" {
		t.Errorf("%d %v %s", exit, err, out.String())
	}
	p.Args = []string{"find", "a/one.go", "-delete"}
	if _, err := Commands()[0].Run(t.Context(), p); err != nil {
		t.Error(err)
	}
	if _, err := x.Stat("/w/a/one.go"); err != nil {
		t.Error("it removed what it may not")
	}
}

// TestStops: find stops when nobody reads what it prints.
func TestStops(t *testing.T) {
	t.Parallel()
	p := &command.Proc{Tree: stage(t), Dir: "/w", Args: []string{"find"}, Stdout: closed{}, Stderr: closed{}}
	if _, err := Commands()[0].Run(t.Context(), p); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Commands()[0].Run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, fs.ErrClosed }

func FuzzExpression(f *testing.F) {
	for _, line := range lines {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, dialect := range []command.Dialect{command.GNU, command.Busybox} {
			_, _, _ = call(t, stage(t), dialect, strings.Split(strings.NewReplacer("-exec", "-name", "-delete", "-name").Replace(line), " ")...)
		}
		var args []*string
		for w := range strings.SplitSeq(line, " ") {
			if args = append(args, &w); w == "?" {
				args[len(args)-1] = nil
			}
		}
		_ = check(args)
	})
}
