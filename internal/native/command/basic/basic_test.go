package basic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/text"
	"github.com/anyarch/anyarch/internal/platform"
)

func stage(t testing.TB) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	put := func(name, text string, perm fs.FileMode) {
		if err := x.MkdirAll(name[:max(1, strings.LastIndex(name, "/"))], filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := x.Put(name, filetree.Attr{Mode: perm, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	put("/etc/passwd", "root:x:0:0:root:/root:/bin/ash\nweb:x:33:34:web:/:/bin/false\n", 0o644)
	put("/etc/group", "root:x:0:root\nweb:x:34:\nnogroup:x:65533:\n", 0o644)
	put("/etc/shadow", "root:*::0:::::\n", 0o640)
	put("/w/a", "one\ntwo\nthree\n", 0o644)
	put("/w/d/x", "x\n", 0o644)
	put("/w/run.sh", "#!/bin/sh\n", 0o644)
	if err := x.Symlink("a", "/w/l", filetree.Attr{}); err != nil {
		t.Fatal(err)
	}
	if err := x.Symlink("d", "/w/ld", filetree.Attr{}); err != nil {
		t.Fatal(err)
	}
	return x
}

// call runs one command line in /w; words are separated by one space, _ is a space
// in a word.
func call(t testing.TB, x *filetree.Tree, dialect command.Dialect, stdin, line string) (string, int, error) {
	t.Helper()
	set := command.Set{}
	for _, c := range slices.Concat(text.CommandsIn(t.TempDir()), Commands()) {
		set[c.Name] = c
	}
	var out bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/w", Env: map[string]string{"PATH": "/bin:/w"}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &out,
		Umask: 0o022, Platform: platform.Platform{OS: "linux", Architecture: "arm64"}, Dialect: dialect, Now: time.Unix(86400*20000, 0)}
	for w := range strings.SplitSeq(line, " ") {
		p.Args = append(p.Args, strings.ReplaceAll(w, "_", " "))
	}
	p.Run = func(ctx context.Context, q *command.Proc) (int, error) {
		if q.Args[0] == "echo" {
			_, _ = fmt.Fprintln(q.Stdout, strings.Join(q.Args[1:], " "))
			return 0, nil
		}
		return set[q.Args[0]].Run(ctx, q)
	}
	c := set[p.Args[0]]
	if c == nil {
		t.Fatalf("no command %s", p.Args[0])
	}
	exit, err := c.Run(t.Context(), p)
	return out.String(), exit, err
}

func TestOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ line, stdin, want string }{
		{"cat a", "", "one\ntwo\nthree\n"}, {"head -n 1 a", "", "one\n"}, {"head -1 a", "", "one\n"}, {"tail -n 1 a", "", "three\n"}, {"tail -2 a", "", "two\nthree\n"}, {"tail -n +2 a", "", "two\nthree\n"},
		{"wc -l a", "", "3 a\n"}, {"sort -r", "a\nc\nb\n", "c\nb\na\n"}, {"sort -V", "v1.10\nv1.9\n", "v1.9\nv1.10\n"}, {"sort -u", "b\na\nb\n", "a\nb\n"},
		{"cut -d / -f2", "linux/arm64\n", "arm64\n"}, {"cut -d= -f2-", "a=b=c\n", "b=c\n"}, {"cut -c1-3", "abcdef\n", "abc\n"},
		{"tr -d \n", "a\nb\n", "ab"}, {"tr a-z A-Z", "abC1", "ABC1"}, {"tr -d [:space:]", " a b\n", "ab"}, {"tr -s a", "aab", "ab"},
		{"grep t a", "", "two\nthree\n"}, {"grep -c e$ a", "", "2\n"}, {"grep -Eo [0-9]+\\.[0-9]+", "go1.25 x", "1.25\n"}, {"grep -vn t a", "", "1:one\n"},
		{"sed s/o/0/g a", "", "0ne\ntw0\nthree\n"}, {"sed -n 2p a", "", "two\n"}, {"sed -e 1d -e s/t\\(.\\)/\\1t/ a", "", "wto\nhtree\n"}, {"sed -E s|(t+)|<\\1>| a", "", "one\n<t>wo\n<t>hree\n"},
		{"sed /two/,$d a", "", "one\n"}, {"sed s/a/&&/", "a", "aa"},
		{"basename /x/y.go .go", "", "y\n"}, {"dirname /x/y", "", "/x\n"}, {"uname -m", "", "aarch64\n"}, {"dpkg --print-architecture", "", "arm64\n"},
		{"readlink l", "", "a\n"}, {"readlink -f ld/x", "", "/w/d/x\n"}, {"ls", "", "a\nd\nl\nld\nrun.sh\n"}, {"ls d a", "", "a\n\nd:\nx\n"},
		{"xargs -n1 echo -", "a b", "- a\n- b\n"}, {"env A=1 env", "", "A=1\nPATH=/bin:/w\n"}, {"date -u +%Y-%m-%dT%H:%M:%SZ", "", "2024-10-04T00:00:00Z\n"},
		{"date +%s", "", "1728000000\n"}, {"seq 3", "", "1\n2\n3\n"}, {"id -u web", "", "33\n"}, {"whoami", "", "root\n"},
		{"sha256sum d/x", "", "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac  d/x\n"},
		{"mktemp -u /tmp/x.XXX", "", "/tmp/x.000\n"},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			got, exit, err := call(t, stage(t), command.Busybox, test.stdin, test.line)
			if got != test.want || exit != 0 || err != nil {
				t.Errorf("got %q, %d, %v; want %q", got, exit, err, test.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ lines, path, want string }{
		{"mkdir -p p/q", "/w/p/q", "drwxr-xr-x 0:0"}, {"mkdir -m 700 p", "/w/p", "drwx------ 0:0"}, {"mkdir a", "", "1"}, {"mkdir p/q", "", "1"},
		{"chmod +x run.sh", "/w/run.sh", "-rwxr-xr-x 0:0"}, {"chmod 4755 run.sh", "/w/run.sh", "urwxr-xr-x 0:0"}, {"chmod -x run.sh", "/w/run.sh", "-rw-r--r-- 0:0"},
		{"chmod -R g+w d", "/w/d/x", "-rw-rw-r-- 0:0"}, {"chmod u=rwX,go= d", "/w/d", "drwx------ 0:0"}, {"chmod +x l", "/w/a", "-rwxr-xr-x 0:0"},
		{"chown web:web a", "/w/a", "-rw-r--r-- 33:34"}, {"chown web: a", "/w/a", "-rw-r--r-- 33:34"}, {"chown -R 5:6 d", "/w/d/x", "-rw-r--r-- 5:6"}, {"chown nobody a", "", "1"},
		{"chmod 4755 a;chown 5 a", "/w/a", "-rwxr-xr-x 5:0"}, {"chgrp web a", "/w/a", "-rw-r--r-- 0:34"}, {"chown -h web l", "/w/l", "Lrwxrwxrwx 33:0"},
		{"cp a b", "/w/b", "-rw-r--r-- 0:0"}, {"cp a d", "/w/d/a", "-rw-r--r-- 0:0"}, {"cp d e", "", "1"}, {"cp -r d e", "/w/e/x", "-rw-r--r-- 0:0"}, {"cp -r d e;cp -r d e", "/w/e/d/x", "-rw-r--r-- 0:0"},
		{"cp -a l m", "/w/m", "Lrwxrwxrwx 0:0"}, {"cp l m", "/w/m", "-rw-r--r-- 0:0"}, {"cp -r d d/e", "", "1"}, {"cp -r d/. e", "/w/e/x", "-rw-r--r-- 0:0"}, {"cp none x", "", "1"},
		{"mv a b", "/w/b", "-rw-r--r-- 0:0"}, {"mv a d/", "/w/d/a", "-rw-r--r-- 0:0"}, {"mv d ld2", "/w/ld2/x", "-rw-r--r-- 0:0"}, {"rm a", "/w/a", "absent"}, {"rm d", "", "1"}, {"rm -rf d none", "/w/d", "absent"},
		{"rm -r ld", "/w/d/x", "-rw-r--r-- 0:0"}, {"rm -rf /", "", "1"}, {"rm none", "", "1"}, {"rmdir d", "", "1"}, {"ln -s a z", "/w/z", "Lrwxrwxrwx 0:0"}, {"ln -s a l", "", "1"}, {"ln -sf d l", "/w/l", "Lrwxrwxrwx 0:0"},
		{"ln -snf a ld", "/w/ld", "Lrwxrwxrwx 0:0"}, {"touch n", "/w/n", "-rw-r--r-- 0:0"}, {"install -D -m 755 a /opt/x/y", "/opt/x/y", "-rwxr-xr-x 0:0"}, {"install -d -o web q", "/w/q", "drwxr-xr-x 33:0"},
		{"adduser -D -g  u", "/home/u", "dgrwxr-xr-x 1000:1000"}, {"adduser -S -D -H s", "/home/s", "absent"}, {"adduser -D root", "", "1"},
		{"addgroup -S g;adduser -S -G g s", "/home/s", "dgrwxr-xr-x 100:100"}, {"useradd -m -u 1234 v", "/home/v", "drwxr-xr-x 1234:1234"}, {"useradd root", "", "9"},
		{"sed -i s/one/1/ a", "/w/a", "-rw-r--r-- 0:0"},
	} {
		t.Run(test.lines, func(t *testing.T) {
			t.Parallel()
			x := stage(t)
			got := ""
			for line := range strings.SplitSeq(test.lines, ";") {
				out, exit, err := call(t, x, command.Busybox, "", line)
				if err != nil {
					t.Fatal(err)
				}
				if exit != 0 {
					got = fmt.Sprint(exit)
					if out == "" {
						t.Error("it failed without a word")
					}
				}
			}
			if test.path != "" && got == "" {
				a, err := x.Lstat(test.path)
				if got = fmt.Sprintf("%v %d:%d", a.Mode, a.UID, a.GID); errors.Is(err, fs.ErrNotExist) {
					got = "absent"
				}
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestAccounts is what busybox 1.37 and shadow write into the account files.
func TestAccounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		line    string
		dialect command.Dialect
		want    string // the new last lines of passwd, group and shadow
	}{
		{"adduser -D -g  u", command.Busybox, "u:x:1000:1000::/home/u:/bin/ash|u:x:1000:|u:!:20000:0:99999:7:::"},
		{"adduser -D u", command.Busybox, "u:x:1000:1000:Linux User,,,:/home/u:/bin/ash|u:x:1000:|u:!:20000:0:99999:7:::"},
		{"adduser -S -D -H -u 500 u", command.Busybox, "u:x:500:65533:Linux User,,,:/home/u:/bin/false|nogroup:x:65533:u|u:!:20000:0:99999:7:::"},
		{"adduser --disabled-password --gecos  --home /x --shell /sbin/nologin --no-create-home --uid 10001 u", command.Busybox, "u:x:10001:10001::/x:/sbin/nologin|u:x:10001:|u:!:20000:0:99999:7:::"},
		{"useradd -r -s /bin/false u", command.GNU, "u:x:999:999::/home/u:/bin/false|u:x:999:|u:!:20000::::::"},
		{"useradd u", command.GNU, "u:x:1000:1000::/home/u:/bin/sh|u:x:1000:|u:!:20000:0:99999:7:::"},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			x := stage(t)
			if out, exit, err := call(t, x, test.dialect, "", test.line); exit != 0 || err != nil {
				t.Fatal(out, exit, err)
			}
			var last []string
			for _, name := range []string{"/etc/passwd", "/etc/group", "/etc/shadow"} {
				b, _ := x.ReadFile(name)
				lines := strings.Split(strings.TrimSpace(string(b)), "\n")
				last = append(last, lines[len(lines)-1])
			}
			if got := strings.Join(last, "|"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestUnknownOptions: an option that a command doesn't know is refused, before it
// runs and when it runs.
func TestUnknownOptions(t *testing.T) {
	t.Parallel()
	for _, c := range Commands() {
		option := "--no-such-option"
		words := []*string{&option}
		if c.Name == "env" || c.Name == "xargs" || c.Name == "tr" {
			continue // what follows is another command, or a set
		}
		if c.Check == nil || c.Check(words) == nil {
			t.Errorf("%s: accepted before it runs", c.Name)
		}
		_, _, err := call(t, stage(t), command.GNU, "", c.Name+" "+option)
		var u *command.Unsupported
		if !errors.As(err, &u) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func TestUserMayNot(t *testing.T) {
	t.Parallel()
	x := stage(t)
	for _, line := range []string{"rm a", "touch new", "mkdir new", "chmod 777 a", "cp a b", "mv a b"} {
		set := command.Set{}
		for _, c := range slices.Concat(text.CommandsIn(t.TempDir()), Commands()) {
			set[c.Name] = c
		}
		args := strings.Fields(line)
		var out bytes.Buffer
		exit, err := set[args[0]].Run(t.Context(), &command.Proc{Tree: x, Dir: "/w", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, UID: 33, GID: 34, Umask: 0o022})
		if exit == 0 || err != nil || !strings.Contains(out.String(), "Permission denied") {
			t.Errorf("%s: %d %v %s", line, exit, err, out.String())
		}
	}
}

func FuzzSets(f *testing.F) {
	f.Add("a-z[:digit:]\\n")
	f.Fuzz(func(_ *testing.T, set string) { _, _ = trSet(set) })
}
