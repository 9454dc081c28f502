package extra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/platform"
)

var files = map[string]string{
	"a": "one\ntwo\nthree\n", "b": "one\ntwo\nfour\n", "same": "one\ntwo\nthree\n", "s1": "a\nb\nd\ne\n", "s2": "b\nc\nd\nf\n", "unsorted": "b\na\nc\n", "n": "x\ny", "empty": "", "line": "one\n", "words": "the quick  brown\tfox jumps over\nthe lazy dog\n\nend",
	"pages": "body\n\\:\\:\\:\nhead\n\\:\\:\nbody 1\n\nbody 2\n\\:\nfoot\n\\:\\:\\:\n\\:\\:\nagain\n", "bin": string([]byte{0, 1, 2, 127, 128, 200, 255, 10, 13, 9, 'A', 'z', ' ', '~', 0, 0, 0}), "zeros": strings.Repeat("\x00", 100), "b64": "aGVsbG8gd29ybGQ=\n", "hex": "68656c6c6f0a\n 77 6f\n", "long": strings.Repeat("0123456789", 25) + "\n",
}

func stage(t testing.TB) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	err := x.MkdirAll("/w/dir", filetree.Attr{Mode: 0o755})
	for name, text := range files {
		err = errors.Join(err, x.WriteFile("/w/"+name, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// words splits a command line at spaces; _ is a space, @ an empty word, and what
// comes after " < " the file for standard input.
func words(line string) (list []string, stdin string) {
	line, from, _ := strings.Cut(line, " < ")
	for w := range strings.SplitSeq(line, " ") {
		w = strings.ReplaceAll(w, "_", " ")
		if w == "@" {
			w = ""
		}
		list = append(list, w)
	}
	return list, files[from]
}

func call(t testing.TB, dialect command.Dialect, line string) (stdout, stderr string, exit int, err error) {
	t.Helper()
	set := command.Set{}
	for _, c := range Commands() {
		set[c.Name] = c
	}
	set["echo"] = &command.Command{Name: "echo", Run: func(_ context.Context, p *command.Proc) (int, error) {
		_, err := fmt.Fprintln(p.Stdout, strings.Join(p.Args[1:], " "))
		return 0, err
	}}
	set["false"] = &command.Command{Name: "false", Run: func(context.Context, *command.Proc) (int, error) { return 1, nil }}
	set["sleep"] = &command.Command{Name: "sleep", Run: func(ctx context.Context, _ *command.Proc) (int, error) {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(10 * time.Second):
			return 0, nil
		}
	}}
	var out, errs bytes.Buffer
	p := &command.Proc{Tree: stage(t), Dir: "/w", Env: map[string]string{}, Stdout: &out, Stderr: &errs, Umask: 0o022, Dialect: dialect, Platform: platform.Platform{OS: "linux", Architecture: "amd64"}}
	args, stdin := words(line)
	p.Args, p.Stdin = args, strings.NewReader(stdin)
	p.Run = func(ctx context.Context, q *command.Proc) (int, error) {
		c := set[q.Args[0]]
		if c == nil {
			return 127, nil
		}
		return c.Run(ctx, q)
	}
	exit, err = set[p.Args[0]].Run(t.Context(), p)
	return out.String(), errs.String(), exit, err
}

// lines are held against the tools of the host.
var lines = []string{
	"expr 1 + 2", "expr 2 * 3 + 1", "expr 1 + 2 * 3", "expr ( 1 + 2 ) * 3", "expr 7 / 2", "expr -7 / 2", "expr -7 % 3", "expr 7 - 10", "expr 1 / 0", "expr 1 % 0", "expr a + 1", "expr 1 +", "expr", "expr ( 1", "expr )", "expr 1 2", "expr 1 + 1 )", "expr 0", "expr @", "expr 00", "expr -0", "expr 0 + 0", "expr abc",
	"expr 1 < 2", "expr 10 < 9", "expr 10 < 9a", "expr a < b", "expr a = a", "expr a == a", "expr a != b", "expr 1 = 01", "expr b >= a", "expr 2 >= 10", "expr 1 > 2", "expr 1 <= 1", "expr 1 < 2 < 3", "expr 1 | 2", "expr 0 | 2", "expr @ | x", "expr @ | @", "expr 0 | 0", "expr 1 & 2", "expr 0 & 2", "expr x & @", "expr 1 | 1 / 0", "expr 0 & 1 / 0", "expr 00 | 5",
	"expr abc : abc", "expr abc : a", "expr abc : b", "expr abc : .*b", "expr abc : a\\(.\\)c", "expr abc : x\\(.\\)c", "expr abc : \\(x\\)", "expr 1.2.3 : \\([0-9]*\\).*", "expr v1.25.3 : v\\([0-9]*\\.[0-9]*\\)", "expr a/b/c : .*/\\(.*\\)", "expr aaa : a*", "expr @ : .*", "expr abc : [a-z]*", "expr a*c : a*c", "expr a : \\(a\\)*\\(b\\)*", "expr ab : a\\{1\\}b", "expr aab : a\\+", "expr foo : foo\\|bar", "expr bar : \\(foo\\|bar\\)",
	"expr length abcd", "expr length @", "expr length 12 + 3", "expr substr abcdef 2 3", "expr substr abc 0 1", "expr substr abc 2 100", "expr substr abc x 1", "expr substr abc 4 1", "expr index abcdef dc", "expr index abc x", "expr match abc a.", "expr match abc a\\(.\\)", "expr length", "expr index a", "expr 1 + length abc", "expr 99999999999 * 99999999", "expr 5 - -3", "expr + length", "expr -- 1 + 1", "expr 3 + 4 : 4",
	"comm s1 s2", "comm -1 s1 s2", "comm -12 s1 s2", "comm -23 s1 s2", "comm -13 s1 s2", "comm -3 s1 s2", "comm -123 s1 s2", "comm -2 s1 s2", "comm a a", "comm unsorted s1", "comm s1 unsorted", "comm unsorted unsorted", "comm - s2 < s1", "comm s1 - < s2", "comm s1 nofile", "comm empty s1", "comm s1 empty", "comm n n", "comm a n", "comm --output-delimiter=: s1 s2", "comm --nocheck-order unsorted s1", "comm s1",
	"cmp a b", "cmp a same", "cmp -s a b", "cmp -s a same", "cmp a nofile", "cmp -s a nofile", "cmp a n", "cmp a line", "cmp line a", "cmp empty a", "cmp a empty", "cmp a < same", "cmp - a < a", "cmp a - < b", "cmp n words", "cmp dir a", "cmp a dir", "cmp --silent a b",
	"diff -q a b", "diff -q a same", "diff -q a nofile", "diff --brief a b", "diff -q - a < a", "diff -q a - < b", "diff -q nofile a", "diff -q empty empty",
	"nl a", "nl words", "nl -ba words", "nl -b a -w 3 -s : words", "nl -bn a", "nl -v 5 -i 10 a", "nl -n ln a", "nl -n rz -w 4 a", "nl -n rn a", "nl n", "nl empty", "nl a b", "nl pages", "nl -ba pages", "nl -w1 long", "nl < a", "nl - < a", "nl nofile", "nl --body-numbering=a words", "nl -s @ a",
	"tac a", "tac n", "tac a b", "tac empty", "tac < a", "tac words", "tac nofile a", "tac n a",
	"paste a b", "paste a line", "paste line a", "paste -d: a b", "paste -d ,; a b same", "paste -s a", "paste -sd, a", "paste -s a b", "paste -s -d + a", "paste -d \\n a b", "paste - - < a", "paste -d, - - - < a", "paste n n", "paste a", "paste empty a", "paste -s empty a", "paste a nofile", "paste -d \\0 a b", "paste a empty b", "paste -s n n", "paste -sd\\0 a",
	"fold -w 10 words", "fold -w10 long", "fold long", "fold -s -w 12 words", "fold -sw 5 words", "fold -b -w 10 words", "fold -w 1 n", "fold -10 long", "fold -w 3 a b", "fold -w 5 < words", "fold -s -w 3 words", "fold -w 8 bin", "fold nofile", "fold -w 0 a",
	"rev a", "rev n", "rev a b", "rev < words", "rev empty",
	"od a", "od -c bin", "od -An -tx1 bin", "od -An -t x1 -v zeros", "od -tx1 zeros", "od -An -tu1 bin", "od -An -td1 bin", "od -An -to1 bin", "od -An -tx2 bin", "od -An -tx4 bin", "od -An -tx8 bin", "od -An -td2 bin", "od -An -td4 bin", "od -An -td8 bin", "od -An -tu2 bin", "od -An -tu4 bin", "od -An -tu8 bin", "od -An -to4 bin", "od -An -to8 bin", "od -An -ta bin", "od -An -tc bin", "od -A d -tx1 bin", "od -A x -tx1 bin", "od -Ao -tx1 bin", "od -b bin", "od -d bin", "od -x bin", "od -o bin", "od -An -tx1 -N 4 bin", "od -An -N2 -i bin",
	"od -j 3 -tx1 bin", "od -j3 -N3 -An -tx1 bin", "od -w4 -An -tx1 bin", "od -An -tx1 a b", "od -An -tx1 empty", "od empty", "od -N0 a", "od -tx1 -v -w8 bin", "od -An -tx1 < a", "od -An -tx1 nofile a", "od -An -tx bin", "od -An -txC bin", "od -An -td bin", "od -j 1000 a", "od -An -w1 -c n", "od -An -N 100k -tx1 a", "od -j 0x2 -An -tx1 a", "od -j 010 -An -tx1 a",
	"xxd -p a", "xxd -p long", "xxd -p -c 4 a", "xxd -p -l 5 a", "xxd -r -p hex", "xxd -p < n", "xxd -p empty", "xxd -rp hex", "xxd -p -c 256 long", "xxd -p nofile",
	"base64 a", "base64 long", "base64 -w 0 long", "base64 -w 10 long", "base64 -d b64", "base64 -d < b64", "base64 < bin", "base64 empty", "base64 -w0 empty", "base64 nofile", "base64 -d empty", "base64 -w 76 zeros", "base64 -w 4 n",
	"timeout 5 echo hi", "timeout 5s false", "timeout -s KILL 1m echo a b", "timeout -k 5 10 echo x", "timeout 0 echo x", "timeout x echo", "timeout 1", "nice echo hi", "nice -n 5 echo hi", "nice -n5 false", "nice -5 echo x", "nohup echo hi", "nohup false",
}

// bounded is an output of a command that may go mad.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len() > 1<<20 {
		return 0, fs.ErrClosed
	}
	return b.Buffer.Write(p)
}

// ReadFrom hides that of the buffer, which has no bound.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// against holds the commands against those of the host.
func against(t *testing.T, dialect command.Dialect, program func(args []string) (*exec.Cmd, bool)) {
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			got, said, exit, err := call(t, dialect, line)
			if u := (*command.Unsupported)(nil); errors.As(err, &u) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			args, stdin := words(line)
			cmd, ok := program(args)
			if !ok {
				t.Skip("not on this host")
			}
			var out, errs bounded
			cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Stdin = dir, &out, &errs, strings.NewReader(stdin)
			cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
			_ = cmd.Run()
			if line == "nice" && strings.TrimSpace(out.String()) != "0" {
				t.Skipf("the test itself runs with niceness %s", strings.TrimSpace(out.String()))
			}
			if code := cmd.ProcessState.ExitCode(); exit != code {
				t.Errorf("exit code %d, the host's is %d\n%s--\n%s", exit, code, said, errs.String())
			}
			if got != out.String() {
				t.Errorf("got\n%s--\nthe host has\n%s", got, out.String())
			}
			if said != errs.String() {
				t.Logf("messages:\n%s--\nthe host's:\n%s", said, errs.String())
			}
		})
	}
}

func TestAgainstGNU(t *testing.T) {
	known(t, "GNU coreutils", "od", "--version")
	known(t, "GNU diffutils", "cmp", "--version")
	against(t, command.GNU, func(args []string) (*exec.Cmd, bool) {
		if _, err := exec.LookPath(args[0]); err != nil {
			return nil, false
		}
		return exec.CommandContext(t.Context(), args[0], args[1:]...), true //nolint:gosec // tests
	})
}

func TestAgainstBusybox(t *testing.T) {
	program := known(t, "BusyBox v1.35", "busybox")
	list, err := exec.CommandContext(t.Context(), program, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	against(t, command.Busybox, func(args []string) (*exec.Cmd, bool) {
		if !bytes.Contains(list, []byte("\n"+args[0]+"\n")) {
			return nil, false
		}
		return exec.CommandContext(t.Context(), program, args...), true //nolint:gosec // tests
	})
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

func TestRefused(t *testing.T) {
	t.Parallel()
	check := map[string]func([]*string) *command.Unsupported{}
	for _, c := range Commands() {
		check[c.Name] = c.Check
	}
	for _, test := range []struct {
		line    string // ? is a word that isn't known yet
		dialect command.Dialect
		early   bool
	}{
		{"diff a b", command.GNU, true}, {"diff -u a b", command.GNU, true}, {"diff -rq a b", command.GNU, true}, {"cmp -l a b", command.GNU, true}, {"comm --total s1 s2", command.GNU, true}, {"nl -d x a", command.GNU, true}, {"tac -r a", command.GNU, true}, {"xxd a", command.GNU, false}, {"xxd -i a", command.GNU, true},
		{"od -t f4 a", command.GNU, false}, {"od -tx1z a", command.GNU, false}, {"od -c -x a", command.GNU, false}, {"od -S 3 a", command.GNU, true}, {"base64 -d a", command.GNU, false}, {"base64 -i a", command.GNU, true}, {"xxd -r -p a", command.GNU, false}, {"expr a : \\(b\\)\\1", command.GNU, false}, {"expr --version", command.GNU, false},
		{"rev bin", command.GNU, false}, {"diff -q dir a", command.GNU, false}, {"nl -b pBRE a", command.GNU, false}, {"timeout 0.01 sleep", command.GNU, false}, {"comm --output-delimiter=: s1 s2", command.Busybox, false}, {"paste -d @ a b", command.Busybox, false}, {"yes --help", command.GNU, false},
	} {
		args, _ := words(test.line)
		pointers := make([]*string, len(args)-1)
		for i := range pointers {
			pointers[i] = &args[i+1]
		}
		if c := check[args[0]]; (c != nil && c(pointers) != nil) != test.early {
			t.Errorf("%s: before it runs it isn't %v", test.line, test.early)
		}
		_, said, exit, err := call(t, test.dialect, test.line)
		if u := (*command.Unsupported)(nil); !errors.As(err, &u) {
			t.Errorf("%s: %d %v %s", test.line, exit, err, said)
		}
	}
	unknown := []*string{nil}
	for name, c := range check {
		if c != nil && c(unknown) != nil {
			t.Errorf("%s: a word that isn't known yet is refused", name)
		}
	}
}

type closed struct{ left int }

func (c *closed) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left < 0 {
		return 0, fs.ErrClosed
	}
	return len(b), nil
}

// TestNobodyReads: a command of which nobody reads the output ends.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	for _, c := range Commands() {
		if c.Name == "timeout" || c.Name == "nice" || c.Name == "nohup" {
			continue
		}
		p := &command.Proc{Tree: stage(t), Dir: "/w", Args: []string{c.Name}, Stdin: strings.NewReader(strings.Repeat("text\n", 100_000)), Stdout: &closed{100}, Stderr: &closed{1 << 20}, Dialect: command.GNU}
		if c.Name == "xxd" {
			p.Args = append(p.Args, "-p")
		}
		if c.Name == "diff" {
			p.Args = append(p.Args, "-q")
		}
		if _, err := c.Run(t.Context(), p); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := yes(ctx, &command.Proc{Args: []string{"yes"}, Stdout: &closed{1 << 62}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestLocale(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"expr", "length", "é"}, {"expr", "é", ":", "."}, {"expr", "é", "<", "z"}} {
		p := &command.Proc{Args: args, Env: map[string]string{"LANG": "C.UTF-8"}, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Dialect: command.GNU}
		var u *command.Unsupported
		if _, err := expr(t.Context(), p); !errors.As(err, &u) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func FuzzExpr(f *testing.F) {
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "expr "); ok {
			f.Add(rest)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, dialect := range []command.Dialect{command.GNU, command.Busybox} {
			p := &command.Proc{Args: append([]string{"expr"}, strings.Split(text, " ")...), Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Dialect: dialect}
			_, _ = expr(t.Context(), p)
		}
	})
}
