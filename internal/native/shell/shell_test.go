package shell_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/shell"
)

// world is a tree with a few files, and a set of commands that need no more.
type world struct {
	tree *filetree.Tree
	o    shell.Options
	out  strings.Builder
	errs strings.Builder
}

func dir(perm fs.FileMode) filetree.Attr { return filetree.Attr{Mode: fs.ModeDir | perm} }

func put(t testing.TB, tree *filetree.Tree, name, text string, perm fs.FileMode) {
	t.Helper()
	if err := tree.MkdirAll(name[:strings.LastIndex(name, "/")], dir(0o755)); err != nil {
		t.Fatal(err)
	}
	if err := tree.WriteFile(name, filetree.Bytes(text).Content(), filetree.Attr{Mode: perm}); err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{tree: filetree.New()}
	for _, d := range []string{"/tmp", "/work", "/etc", "/usr/bin"} {
		if err := w.tree.MkdirAll(d, dir(0o755)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, w.tree, "/etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n", 0o644)
	w.o = shell.Options{Tree: w.tree, Dir: "/work", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root"},
		Stdout: &w.out, Stderr: &w.errs, Now: time.Unix(1700000000, 0), Scratch: t.TempDir(), Commands: commands()}
	return w
}

// commands are the least that scripts need.
func commands() command.Set {
	set := command.Set{}
	add := func(name string, run command.Func) {
		set[name] = &command.Command{Name: name, Run: run}
	}
	add("cat", func(_ context.Context, p *command.Proc) (int, error) {
		buf := make([]byte, 4096)
		if len(p.Args) > 1 {
			for _, a := range p.Args[1:] {
				b, err := p.Tree.ReadFile(p.Path(a))
				if err != nil {
					return p.Errorf("%s: no such file", a)
				}
				if _, err := p.Stdout.Write(b); err != nil {
					return 1, nil
				}
			}
			return 0, nil
		}
		for {
			n, err := p.Stdin.Read(buf)
			if _, werr := p.Stdout.Write(buf[:n]); werr != nil {
				return 1, nil
			}
			if err != nil {
				return 0, nil
			}
		}
	})
	add("env", func(ctx context.Context, p *command.Proc) (int, error) {
		q := *p
		q.Args = p.Args[1:]
		return p.Run(ctx, &q)
	})
	for name, d := range map[string]shell.Dialect{"sh": shell.Dash, "dash": shell.Dash, "ash": shell.Ash, "bash": shell.Bash} {
		set[name] = shell.Command(name, d)
	}
	return set
}

func (w *world) run(t testing.TB, d shell.Dialect, text string, options ...string) (string, int) {
	t.Helper()
	w.out.Reset()
	w.errs.Reset()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	exit, err := shell.Run(ctx, shell.Script{Text: text, Dialect: d, Name: "sh", Options: options}, w.o)
	if err != nil {
		t.Fatalf("%s: %q: %v", d, text, err)
	}
	return w.out.String(), exit
}

var all = []shell.Dialect{shell.Dash, shell.Ash, shell.Bash}

// agree are scripts that every dialect runs with the same result.
var agree = []struct {
	name, script, want string
	exit               int
}{
	{"echo", `echo a  b "c  d"`, "a b c  d\n", 0},
	{"exit", `echo a; exit 3; echo b`, "a\n", 3},
	{"errexit", `set -e; echo a; false; echo b`, "a\n", 1},
	{"errexit in a condition", `set -e; if false; then :; fi; false || true; echo b`, "b\n", 0},
	{"errexit and a subshell in a condition", `set -e; ( false; echo hi ) || echo no`, "hi\n", 0},
	{"errexit and a negated pipe", `set -e; ! echo a | false; echo b`, "b\n", 0},
	{"errexit and a negated list", `set -e; ! { false; true; }; echo b`, "b\n", 0},
	{"errexit and a pipe in a condition", `set -e; if { false; echo x; } | cat; then echo y; fi`, "x\ny\n", 0},
	{"the last of a pipe is a subshell", `n=0; echo x | while read l; do n=1; done; echo $n`, "0\n", 0},
	{"exit in a pipe", `echo x | exit 4; echo $?`, "4\n", 0},
	{"cd in a pipe", `echo x | cd /tmp; pwd`, "/work\n", 0},
	{"for", `for i in 1 2 3; do printf '%s,' $i; done`, "1,2,3,", 0},
	{"while", `i=0; while [ $i -lt 3 ]; do i=$((i+1)); echo $i; done`, "1\n2\n3\n", 0},
	{"case", `case abc in a*) echo yes;; *) echo no;; esac`, "yes\n", 0},
	{"function", `f() { echo "f $1"; return 3; }; f x; echo $?`, "f x\n3\n", 0},
	{"local", `x=1; f() { local x=2; echo $x; }; f; echo $x`, "2\n1\n", 0},
	{"expansion", `x=file.tar.gz; echo ${x%.*} ${x%%.*} ${x#*.} ${y:-d} ${#x}`, "file.tar file tar.gz d 11\n", 0},
	{"arithmetic", `echo $((1 + 2 * 3)) $((7 / 2)) $((7 % 3)) $((1 << 3))`, "7 3 1 8\n", 0},
	{"subshell", `x=1; (x=2; echo $x); echo $x`, "2\n1\n", 0},
	{"redirection", `echo a > f; echo b >> f; cat f; cat < f`, "a\nb\na\nb\n", 0},
	{"two that append", `{ echo a; echo b >&2; } >> log 2>> log; cat log`, "a\nb\n", 0},
	{"block to file", `{ echo a; echo b; } > f; cat f`, "a\nb\n", 0},
	{"here document", "x=1\ncat <<E\na $x $(echo y)\nE\ncat <<'E'\na $x\nE\n", "a 1 y\na $x\n", 0},
	{"here document with tabs", "cat <<-E\n\ta\n\t\tb\n\tE\n", "a\nb\n", 0},
	{"/dev/null", `echo a > /dev/null; cat < /dev/null; echo b 2> /dev/null`, "b\n", 0},
	{"/dev/stdout", `echo a > /dev/stdout`, "a\n", 0},
	{"noclobber", `set -C; echo a > f; echo b > f || echo kept; echo c >| f; cat f`, "kept\nc\n", 0},
	{"noclobber in a subshell", `echo a > f; (set -C; echo b > f) 2>/dev/null; echo c > f; cat f`, "c\n", 0},
	{"cd and links", `echo x > /tmp/f; cd /tmp; pwd; cd - ; pwd`, "/tmp\n/work\n/work\n", 0},
	{"read", `printf 'a b c\nd:e\n' | { read x y; echo "$x,$y"; IFS=: read x y; echo "$x,$y"; }`, "a,b c\nd,e\n", 0},
	{"read with empty fields", `echo 'root::0' | { IFS=: read a b c; echo "$a,$b,$c"; }`, "root,,0\n", 0},
	{"read without a line end", `printf abc | { read x || echo "end $x"; }`, "end abc\n", 0},
	{"printf", `printf '%s-%d-%x\n' a 10 255 b 0x10 8; printf '%5s|%-5s|%05d|%.2s\n' a b 42 xyz`, "a-10-ff\nb-16-8\n    a|b    |00042|xy\n", 0},
	{"printf %b", `printf '%b' 'a\tb\n'; printf '%%\n'`, "a\tb\n%\n", 0},
	{"set -u", `set -u; echo a; echo $nope; echo b`, "a\n", -1},
	{"set --", `set -- a "b c"; echo $#; for i; do echo "$i"; done; shift; echo $1`, "2\na\nb c\nb c\n", 0},
	{"umask", `umask; umask 077; umask; (umask 0; umask); umask`, "0022\n0077\n0000\n0077\n", 0},
	{"eval", `x='echo $y'; y=1; eval "$x"`, "1\n", 0},
	{"eval and a pipe", `eval 'n=0; echo x | read n; echo $n'`, "0\n", 0},
	{"trap", `trap 'echo bye' EXIT; echo a; exit 3`, "a\nbye\n", 3},
	{"trap of 0", `trap 'echo bye' 0 INT TERM; echo a`, "a\nbye\n", 0},
	{"source", `echo 'x=1; echo in $x' > lib.sh; . ./lib.sh; echo $x`, "in 1\n1\n", 0},
	{"glob", `echo 1 > a.x; echo 2 > b.x; echo *.x *.y; echo /work/*.x`, "a.x b.x *.y\n/work/a.x /work/b.x\n", 0},
	{"tilde", `echo ~ ~app ~nobodyatall`, "/root /home/app ~nobodyatall\n", 0},
	{"sh -c", `sh -c 'echo $0 $1 $#' a b; echo $?`, "a b 1\n0\n", 0},
	{"sh -e", `sh -ec 'false; echo x'; echo $?`, "1\n", 0},
	{"sh script", `echo 'echo "$0 $1"; exit 4' > s.sh; sh s.sh x; echo $?; sh ./s.sh y`, "s.sh x\n4\n./s.sh y\n", 4},
	{"bash -euo pipefail -c", `bash -euo pipefail -c 'false | true; echo x'; echo $?`, "1\n", 0},
	{"sh from a pipe", `echo 'echo hi $1' | sh -s a`, "hi a\n", 0},
	{"sh -c reads no input", `printf 'a\nb\n' | while read x; do sh -c "echo $x"; done`, "a\nb\n", 0},
	{"env sh", `X=1 env sh -c 'echo $X'`, "1\n", 0},
	{"prefix assignment", `X=1 sh -c 'echo $X'; echo "[$X]"`, "1\n[]\n", 0},
	{"export", `export X=1; Y=2; sh -c 'echo "$X,$Y"'`, "1,\n", 0},
	{"not found", `nosuchcommand; echo $?`, "127\n", 0},
	{"not found by path", `./nosuch; echo $?; /bin/nosuch; echo $?`, "127\n127\n", 0},
	{"not executable", `echo x > f; ./f; echo $?; /work; echo $?`, "126\n126\n", 0},
	{"command -v", `command -v cat; command -v cd; command -v nosuch; f() { :; }; command -v f; command -v if`, "/usr/bin/cat\ncd\nf\nif\n", 0},
	{"command", `command echo a; command cat /etc/nosuch; echo $?`, "a\n1\n", 0},
	{"exec", `exec cat /dev/nosuch; echo no`, "", 1},
	{"exec and redirections", `exec > f; echo a; exec > /dev/stderr; cat f`, "", 0},
	{"$$", `echo $$ "$$"`, "7 7\n", 0},
	{"$0", `echo $0`, "sh\n", 0},
	{"test", `[ -d /tmp ] && [ -f /etc/passwd ] && [ ! -e /nope ] && [ -O /tmp ] && [ -G /tmp ] && test /tmp -ef /tmp/../tmp && echo yes`, "yes\n", 0},
	{"test by numbers", `[ 1 -lt 2 -a 2 -gt 1 ] && [ ! 1 -eq 2 ] && [ "(" = "(" ] && [ -n = ] && echo yes`, "yes\n", 0},
	{"test fails", `[ a -eq 1 ]; echo $?; [ a`, "2\n", 2},
	{"negation", `! false; echo $?; ! true; echo $?`, "0\n1\n", 0},
	{"wait", `wait; echo $?`, "0\n", 0},
	{"getopts", `set -- -a -b x y; while getopts ab: o; do echo "$o $OPTARG"; done; shift $((OPTIND-1)); echo $1`, "a \nb x\ny\n", 0},
	{"long pipe", `echo a | cat | cat | cat`, "a\n", 0},
	{"SIGPIPE", `while :; do echo y; done | { read x; echo $x; }`, "y\n", 0},
	{"backquotes", "echo `echo a``echo b`", "ab\n", 0},
	{"no such file", `cat < /nope; echo $?; echo x > /nope/x; echo $?`, "", -2},
	{"unset empty", `unset ""; echo $?`, "", -2},
}

func TestAgree(t *testing.T) {
	t.Parallel()
	for _, c := range agree {
		for _, d := range all {
			t.Run(c.name+"/"+string(d), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				out, exit := w.run(t, d, c.script)
				if c.exit == -2 {
					return // only that it ends
				}
				if out != c.want || c.exit >= 0 && exit != c.exit || c.exit == -1 && exit == 0 {
					t.Errorf("%s\ngot  %q, exit %d\nwant %q, exit %d\nstderr %s", c.script, out, exit, c.want, c.exit, w.errs.String())
				}
			})
		}
	}
}
