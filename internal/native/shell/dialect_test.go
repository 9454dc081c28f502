package shell_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/shell"
)

// refused has, for what can't be had, the dialects that refuse it.
var refused = []struct{ name, script, in string }{
	{"process substitution", `cat <(echo a)`, "dash ash bash"},
	{"coprocess", `coproc cat`, "dash ash bash"},
	{"background", `cat & echo a`, "dash ash bash"},
	{"file descriptor 3", `exec 3> f`, "dash ash bash"},
	{"array", `a=(1 2)`, "dash ash"},
	{"[[", `[[ a = a ]]`, "dash"},
	{"[[ -O", `[[ -O /tmp ]]`, "dash ash bash"},
	{"[[ -ef", `[[ /tmp -ef /tmp ]]`, "dash ash bash"},
	{"slice", `x=abc; echo ${x:1:1}`, "dash"},
	{"replace", `x=abc; echo ${x/b/c}`, "dash"},
	{"case of letters", `x=abc; echo ${x^^}`, "dash ash"},
	{"dollar quote", `echo $'a\n'`, "dash"},
	{"function word", `function f { echo; }`, "dash"},
	{"((", `((x=1)) || :`, "dash ash"},
	{"here string", `cat <<< a`, "dash ash"},
	{"&>", `echo a &> f`, "dash"},
	{"|&", `echo a |& cat`, "dash ash"},
	{"select", `select x in a; do :; done`, "dash ash bash"},
	{"for ((", `for ((i=0;i<3;i++)); do :; done`, "dash ash"},
	{"declare", `declare x=1`, "dash ash"},
	{"+=", `x+=1`, "dash ash"},
	{"pipefail", `set -o pipefail`, "dash"},
	{"ulimit", `ulimit -n 10`, "dash ash bash"},
	{"kill", `kill -9 1`, "dash ash bash"},
	{"trap of USR1", `trap : USR1`, "dash ash bash"},
	{"trap in a subshell", `(trap : EXIT)`, "dash ash bash"},
	{"exit in a trap", `trap 'exit 3' EXIT`, "dash ash bash"},
	{"RANDOM", `echo $RANDOM`, "dash ash bash"},
	{"SECONDS", `echo $SECONDS`, "ash bash"},
	{"PIPESTATUS", `echo ${PIPESTATUS[0]}`, "dash ash bash"},
	{"symbolic umask", `umask u=rwx`, "dash ash bash"},
	{"urandom", `cat < /dev/urandom`, "dash ash bash"},
	{"IFS", `IFS=:; echo a`, "dash ash bash"},
	{"read -n", `read -n 1 x`, "dash ash bash"},
	{"division by a variable", `x=0; echo $((1 / x))`, "dash ash bash"},
	{"set -v", `set -v`, "dash ash bash"},
	{"nested backquotes", "echo `echo a\\`echo b\\``", "dash ash bash"},
	{"Windows line ends", "echo a\r\necho b\r\n", "dash ash bash"},
	{"a function named cd", `cd() { :; }; cd`, "dash ash bash"},
	{"function with a subshell in a condition", `set -e; f() { (false; echo a); }; f || echo b`, "dash ash bash"},
	{"local at the top", `local x=1`, "dash ash bash"},
	{"octal", `echo $((08 + 1))`, "dash ash bash"},
	{"read-only", `readonly r=1; r=2; echo a`, "dash ash bash"},
	{"alias", `alias x=y`, "dash ash"},
	{"extglob", `echo @(a|b)`, "dash ash bash"},
	{"unknown command", `frobnicate a`, "dash ash bash"},
	{"unknown command in sh -c", `sh -c 'frobnicate a'`, "dash ash bash"},
	{"unknown command in eval", `eval 'frobnicate a'`, "dash ash bash"},
	{"unknown command of xargs", `cat f | xargs -n 1 frobnicate a`, "dash ash bash"},
	{"unknown command of find", `find . -type f -exec frobnicate {} \;`, "dash ash bash"},
	{"unknown command of env", `env -i A=b frobnicate`, "dash ash bash"},
	{"unknown command in bin", `/usr/bin/frobnicate`, "dash ash bash"},
	{"option of sh", `sh -l -c 'echo a'`, "dash ash bash"},
	{"fine", `set -eux; if [ -f x ]; then echo a > f 2>&1; fi; /bin/cat f; sh -c 'cat f'; f() { :; }; f; $X a; ./build.sh; umask 022`, ""},
	{"guarded command", `if command -v frobnicate; then frobnicate; fi`, ""},
}

func lookup(name string) (*command.Command, bool) {
	if c, ok := commands()[name]; ok {
		return c, true
	}
	switch name {
	case "xargs", "find":
		return &command.Command{Name: name}, true
	}
	return nil, strings.Contains(name, "/")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range refused {
		for _, d := range all {
			t.Run(c.name+"/"+string(d), func(t *testing.T) {
				t.Parallel()
				problems := shell.Check(shell.Script{Text: c.script, Dialect: d}, lookup)
				want := strings.Contains(" "+c.in+" ", " "+string(d)+" ")
				if want != (len(problems) > 0) {
					t.Errorf("%s: refused: %v, want %v", c.script, problems, want)
				}
				for _, p := range problems {
					if p.Line < 1 || p.Unsupported == nil || p.Unsupported.What == "" {
						t.Errorf("problem without a place or a text: %+v", p)
					}
				}
			})
		}
	}
}

func TestCheckPlaces(t *testing.T) {
	t.Parallel()
	problems := shell.Check(shell.Script{Text: "echo a\n  foo b\necho c && bar\n", Dialect: shell.Dash}, lookup)
	if len(problems) != 2 || problems[0].Line != 2 || problems[0].Col != 3 || problems[0].Word != "foo" || problems[1].Line != 3 || problems[1].Col != 11 {
		t.Errorf("got %+v", problems)
	}
}

// What is only known when the script runs is refused then, and can't be caught.
func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for _, script := range []string{
		`x=kill; $x 1 || echo on`, `x='echo $RANDOM'; eval "$x" || :`, `x=IFS; eval "$x=:"; echo a`,
		`x=/dev/urandom; cat < $x || :`, `x=-v; set $x || :`, `cat $(ulimit -n) || :`,
		`f() { f; }; f || :`, `echo '. ./self' > self; . ./self || :`, `echo 'sh ./self' > self; sh ./self || :`,
	} {
		w := newWorld(t)
		_, err := shell.Run(t.Context(), shell.Script{Text: script, Dialect: shell.Bash}, w.o)
		var u *command.Unsupported
		if !errors.As(err, &u) {
			t.Errorf("%s: %v, want a refusal", script, err)
		}
	}
}

func TestDialects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script    string
		dash, ash, bash string
	}{
		{"braces", `echo {a,b} x{1..3}`, "{a,b} x{1..3}\n", "{a,b} x{1..3}\n", "a b x1 x2 x3\n"},
		{"echo and escapes", `echo 'a\tb'; echo -n x; echo -e 'a\tb'`, "a\tb\nx-e a\tb\n", "a\\tb\nxa\tb\n", "a\\tb\nxa\tb\n"},
		{"UID", `echo "[$UID]"`, "[]\n", "[]\n", "[0]\n"},
		{"local keeps", `x=1; f() { local x; echo "${x-unset}"; }; f`, "1\n", "1\n", "unset\n"},
		{"errexit in a substitution", `set -e; x=$(false; echo hi) || :; echo "$x"; y=$(false; echo ho); echo "$y"`, "hi\n", "hi\n", "hi\nho\n"},
		{"not found", `nosuch 2>&1`, "sh: 1: nosuch: not found\n", "sh: nosuch: not found\n", "sh: line 1: nosuch: command not found\n"},
		{"HOSTNAME", `echo "$HOSTNAME"`, "\n", "buildkitsandbox\n", "buildkitsandbox\n"},
	} {
		for d, want := range map[shell.Dialect]string{shell.Dash: c.dash, shell.Ash: c.ash, shell.Bash: c.bash} {
			w := newWorld(t)
			if out, _ := w.run(t, d, c.script); out != want {
				t.Errorf("%s in %s: got %q, want %q (%s)", c.name, d, out, want, w.errs.String())
			}
		}
	}
}

// Nothing of the host can be seen from a tree that has nothing.
func TestHost(t *testing.T) {
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("s3cr3t"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ANYARCH_SECRET", "s3cr3t")
	t.Setenv("TMPDIR", t.TempDir())
	if err := os.WriteFile(os.TempDir()+"/sh-interp-0", []byte("s3cr3t"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		for _, script := range []string{
			`[ -e /etc/hostname ]`, `. /etc/profile`, `cat < /etc/passwd`, `command -v ls`, `type ls`, `hash ls`, `set -- /etc/*; [ "$1" != '/etc/*' ]`,
			`cd /proc`, `cd /etc`, `[ -O /etc ]`, `[ /etc -ef /etc ]`, `cat < ` + secret, `. ` + secret, `test -r /etc/passwd`, `[ -n "$ANYARCH_SECRET" ]`,
			`cat < ` + os.TempDir() + `/sh-interp-0`, `[ ~root != '~root' ]`, `[ -n "$HOME" ]`, `ls`, `/bin/ls`, `[ "$$" = ` + "x" + ` ]`,
			`PATH=/etc; . passwd`, `x=$(< /etc/passwd); [ -n "$x" ]`, `echo x > /etc/passwd`, `echo x > ` + os.TempDir() + `/sh-interp-1`,
		} {
			var out strings.Builder
			o := shell.Options{Tree: filetree.New(), Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Stdout: &out, Stderr: &out}
			o.Commands = command.Set{"cat": commands()["cat"]}
			exit, err := shell.Run(t.Context(), shell.Script{Text: script, Dialect: d}, o)
			var u *command.Unsupported
			if (err != nil && !errors.As(err, &u)) || err == nil && exit == 0 || strings.Contains(out.String(), "s3cr3t") || strings.Contains(out.String(), "root:x") {
				t.Errorf("%s: %s: exit %d, %v, %q", d, script, exit, err, out.String())
			}
		}
	}
	if _, err := os.Stat(os.TempDir() + "/sh-interp-1"); err == nil {
		t.Error("a file was written on the host")
	}
}

// A lazy base is read only by who looks at it, and its failure ends the script.
func TestLazy(t *testing.T) {
	t.Parallel()
	failure := errors.New("no network")
	lazy := func() *filetree.Tree {
		return filetree.NewLazy(map[string]filetree.Known{"/": {Attr: dir(0o755)}, "/tmp": {Attr: dir(0o777), Complete: true}},
			func() (*filetree.Tree, error) { return nil, failure })
	}
	w := newWorld(t)
	w.o.Tree, w.o.Dir = lazy(), "/tmp"
	w.run(t, shell.Dash, `echo a > f; cat f; [ ! -e g ]; command -v cat; for x in *; do echo $x; done`)
	for _, script := range []string{`[ -e /usr/x ] || :`, `cat < /usr/x || :`, `echo /usr/* || :`, `nosuch || :`, `. /usr/x || :`, `cd /usr/x || :`, `echo ~app || :`, `x=$(cat < /usr/x) || :`} {
		w.o.Tree = lazy()
		if _, err := shell.Run(t.Context(), shell.Script{Text: script, Dialect: shell.Bash}, w.o); !errors.Is(err, failure) {
			t.Errorf("%s: %v, want the failure of the base", script, err)
		}
	}
}

func TestUserAndLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.tree.Symlink("/tmp/a/b", "/link", filetree.Attr{}); err != nil {
		t.Fatal(err)
	}
	put(t, w.tree, "/tmp/a/x", "x\n", 0o644)
	put(t, w.tree, "/tmp/a/b/y", "y\n", 0o600)
	for _, d := range all {
		if out, _ := w.run(t, d, `cd /link; pwd; pwd -P; cat < ../x; echo *; cd ..; pwd; cd -P /link; pwd`); out != "/link\n/tmp/a/b\nx\ny\n/\n/tmp/a/b\n" {
			t.Errorf("%s: %q %s", d, out, w.errs.String())
		}
	}
	w.o.UID, w.o.GID = 1000, 1000
	if _, exit := w.run(t, shell.Dash, `cat < /tmp/a/b/y`); exit == 0 {
		t.Error("read a file of somebody else")
	}
	if _, exit := w.run(t, shell.Dash, `echo a > /etc/new`); exit == 0 {
		t.Error("wrote into a directory of somebody else")
	}
}

func TestModesAndLargeFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.UID, w.o.GID = 0, 5
	w.run(t, shell.Dash, `umask 027; echo a > f; printf '#!/bin/sh -e\necho "script $1"; false; echo no\n' > s; i=0; while [ $i -lt 2000 ]; do printf '%01000d' $i; i=$((i+1)); done > big; cat big big > big2; echo end >> big2`)
	a, err := w.tree.Stat("/work/f")
	if err != nil || a.Mode != 0o640 || a.GID != 5 || !a.ModTime.Equal(w.o.Now) {
		t.Errorf("%v %v %v", a.Mode, a.GID, err)
	}
	b, err := w.tree.ReadFile("/work/big2")
	if err != nil || len(b) != 4000004 || !strings.HasSuffix(string(b), "1999end\n") {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := w.tree.Update("/work/s", true, func(a *filetree.Attr) { a.Mode = 0o755 }); err != nil {
		t.Fatal(err)
	}
	if out, exit := w.run(t, shell.Dash, `./s x`); out != "script x\n" || exit != 1 {
		t.Errorf("%q %d %s", out, exit, w.errs.String())
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := shell.Run(ctx, shell.Script{Text: `while :; do :; done`, Dialect: shell.Dash}, w.o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The real shells say the same, where there are any.
func TestDifferential(t *testing.T) {
	t.Parallel()
	extra := []string{
		`echo 'a\nb\0101\c' x`, `echo -n a -n`, `echo '\e[0m\x41'`, `printf '%s\n' a b; printf 'x%d%s\n' 1`, `printf '\101\n'`, `printf '%b\n' 'a\0101'`,
		`x='a  b'; echo $x "$x"`, `set -- ; echo "$#"`, `echo "${x:=1}" $x`, `x=; echo ${x:+a}b`, `echo a{b,c}d`, `cd /nope 2>/dev/null; echo $?`,
		`f() { return 5; }; f || echo $?`, `set -e; f() { false; echo in; }; f || echo no; echo end`, `[ a == a ] 2>/dev/null; echo $?`,
		`set -e; x=$(false); echo no`, `set -e; echo $(false); echo yes`, `IFS=, read a b c <<E
1,,3
E
echo "$a|$b|$c"`, `printf ' a  b c \n' | { read x y; echo "[$x][$y]"; }`, `printf 'a:b:\n' | { IFS=: read x y; echo "[$x][$y]"; }`,
		`printf 'a\\ b c\n' | { read x y; echo "[$x][$y]"; }`, `printf 'a\\b\n' | { read -r x; echo "[$x]"; }`, `false | true; echo $?`, `true | false; echo $?`,
		`case x in [a-z]) echo l;; esac`, `x=a.b; case $x in *.b) echo y;; esac`, `echo "a\$b\"c"`, `unset x; echo "${x-d}"`, `(exit 3); echo $?`,
		`while false; do :; done; echo $?`, `if false; then :; fi; echo $?`, `x=1 y=$x; echo $y`, `echo "$(printf 'a\n\n')"b`, `export A=1; (A=2); echo $A`,
		`trap 'echo t' EXIT; (exit 2); echo $?`, `printf '%5.1f|%c|%o|%X\n' 3.14159 xyz 8 255`, `printf '%d\n' 0x1f 010 "'a"`, `command -v nosuch; echo $?`,
		`set -u; (echo $nope) 2>/dev/null; echo after`, `shift 2>/dev/null; echo $?`, `echo $((0x10)) $((010)) $((5 > 3 ? 1 : 2))`, `test; echo $?; test -n; echo $?; test "" -o a; echo $?`,
		`set -- a b; while [ $# -gt 0 ]; do echo $1; shift; done`, `f() { echo "$@"; }; f "a b" c`, `echo "$*"`, `! true; echo $?`, `set -e; ! true; echo on`, `set -e; if ! (false; true); then echo a; fi`,
		`: > /nope/x; echo on`, `umask 077; umask`, `x=$(exit 4); echo $?`, `break 2>/dev/null; echo $?`, `readonly r=1; r=2; echo $?`, `shift 2>/dev/null || echo $?`,
	}
	scripts := extra
	for _, c := range agree {
		if !strings.Contains(c.script, "/tmp") && !strings.Contains(c.script, "/work") && !strings.Contains(c.script, "$$") && !strings.Contains(c.script, "~") && !strings.Contains(c.script, "cat") && c.name != "SIGPIPE" && c.name != "$0" && c.name != "umask" && c.name != "noclobber" {
			scripts = append(scripts, c.script)
		}
	}
	for d, name := range map[shell.Dialect][]string{shell.Dash: {"dash"}, shell.Bash: {"bash"}, shell.Ash: {"busybox", "ash"}} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			real, err := exec.LookPath(name[0])
			if err != nil {
				t.Skip("there is no " + name[0] + " here")
			}
			for _, script := range scripts {
				if problems := shell.Check(shell.Script{Text: script, Dialect: d}, nil); len(problems) > 0 {
					continue
				}
				cmd := exec.CommandContext(t.Context(), real, append(name[1:], "-c", "umask 022; "+script)...)
				cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=/usr/bin:/bin", "HOME=/root"}
				want, _ := cmd.Output()
				w := newWorld(t)
				// What isn't the same in all versions of a shell is refused, not guessed.
				var unsupported *command.Unsupported
				if _, err := shell.Run(t.Context(), shell.Script{Text: script, Dialect: d, Name: "sh"}, w.o); errors.As(err, &unsupported) {
					continue
				}
				w = newWorld(t)
				out, exit := w.run(t, d, "umask 022; "+script)
				// What a shell ends with over an unset variable is its own affair.
				same := exit == cmd.ProcessState.ExitCode() || strings.Contains(script, "set -u") && exit != 0
				if out != string(want) || !same {
					t.Errorf("%s\n%s gives %q, exit %d\nhere it is  %q, exit %d %s", script, real, want, cmd.ProcessState.ExitCode(), out, exit, w.errs.String())
				}
			}
		})
	}
}

func FuzzScript(f *testing.F) {
	for _, c := range agree {
		f.Add(c.script, uint8(0))
	}
	for _, c := range refused {
		f.Add(c.script, uint8(2))
	}
	f.Fuzz(func(t *testing.T, text string, dialect uint8) {
		s := shell.Script{Text: text, Dialect: all[int(dialect)%len(all)]}
		shell.Check(s, lookup)
		w := newWorld(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := shell.Run(ctx, s, w.o); err != nil && strings.Contains(err.Error(), "interpreter failed") {
			t.Error(err)
		}
	})
}
