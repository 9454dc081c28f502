//go:build unix

package archive

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

var (
	old    = time.Unix(1500000000, 0) // of the files that the tests begin with
	packed = time.Unix(1600000000, 0) // of the members of archives
	now    = time.Unix(1900000000, 0)
)

// entry is a member of an archive of the tests.
type entry struct {
	name string
	kind byte
	mode int64
	text string // the content, or where a link leads
	uid  int
	user string
}

func file(name, text string) entry { return entry{name, tar.TypeReg, 0o644, text, 0, "root"} }
func link(name, to string) entry   { return entry{name, tar.TypeSymlink, 0o777, to, 0, "root"} }
func hard(name, to string) entry   { return entry{name, tar.TypeLink, 0o644, to, 0, "root"} }
func folder(name string, mode int64) entry {
	return entry{name, tar.TypeDir, mode, "", 0, "root"}
}

func pack(t testing.TB, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, ModTime: packed, Uid: e.uid, Gid: e.uid, Uname: e.user, Gname: e.user, Format: tar.FormatGNU}
		switch e.kind {
		case tar.TypeReg:
			h.Size = int64(len(e.text))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = e.text
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, e.text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fixtures are the archives that every test has, in /w.
func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	plain := []entry{folder("top/", 0o750), file("top/a", "aaa\n"), {"top/run", tar.TypeReg, 0o4755, "#!\n", 1, "daemon"}, file("top/sub/deep/b", strings.Repeat("b", 3000)), link("top/l", "a"), hard("top/h", "top/a"), {"top/fifo", tar.TypeFifo, 0o600, "", 0, "root"}, {"top/mine", tar.TypeReg, 0o600, "x", 4242, "nosuchuser"}}
	return map[string][]byte{
		"plain.tar": pack(t, plain...),
		"dot.tar":   pack(t, folder("./", 0o711), file("./x", "x"), folder("./d/", 0o700), file("./d/y", "y")),
		"evil.tar": pack(t, file("/abs", "1"), file("a/../b", "2"), file("../up", "3"), file("../../up2/c", "4"), file("ok", "5"), hard("h", "/abs"), hard("h2", "../up"),
			link("s", "/etc"), file("s/x", "6"), link("s2", "../.."), file("..", "7")),
		"over.tar":  pack(t, file("f", "new"), folder("d/", 0o711), file("d/x", "x"), folder("l/", 0o755), file("l/x", "x"), file("lf", "x"), file("e", "x"), link("s2", "f"), hard("h", "f"), file("via/y", "y")),
		"clash.tar": pack(t, file("f", "new"), file("fd", "x"), file("after", "x")),
		"links.tar": pack(t, link("ab", "/nowhere"), hard("hl", "ab"), link("in", "f"), hard("none", "absent"), link("up", "../x")),
		"files.tar": pack(t, file("f", "new"), file("e", "x"), file("s2", "x"), folder("df/", 0o755), file("n", "n")),
		"odd.tar":   pack(t, file("a b", "x"), file("tab\tx", "x"), file("h\xc3\xa9", "x"), file(strings.Repeat("long/", 40)+"f", "x")),
		"bad.tar":   []byte(strings.Repeat("no archive at all\n", 100)),
		"short.tar": pack(t, file("big", strings.Repeat("x", 5000)))[:2000],
		"empty.tar": make([]byte, 10240),
	}
}

// world makes a directory of the host that the tests begin with.
func world(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/w", 0o755))
	w := filepath.Join(dir, "w")
	for name, data := range fixtures(t) {
		must(os.WriteFile(filepath.Join(w, name), data, 0o644))
		if name == "plain.tar" {
			var b bytes.Buffer
			z := newGzipWriter(&b, 6)
			_, err := z.Write(data)
			must(errors.Join(err, z.Close(), os.WriteFile(filepath.Join(w, "plain.tar.gz"), b.Bytes(), 0o644)))
			must(os.WriteFile(filepath.Join(w, "junk.tgz"), append(slices.Clone(b.Bytes()), "garbage"...), 0o644))
			must(os.WriteFile(filepath.Join(w, "zeros.tgz"), append(slices.Clone(b.Bytes()), make([]byte, 300)...), 0o644))
			must(os.WriteFile(filepath.Join(w, "cut.tgz"), b.Bytes()[:150], 0o644))
		}
	}
	zipped := zipArchive(t)
	must(os.WriteFile(w+"/a.zip", zipped, 0o644))
	must(os.WriteFile(w+"/cut.zip", zipped[:len(zipped)/2], 0o644))
	must(os.WriteFile(w+"/wrong.zip", bytes.Replace(zipped, []byte("hello"), []byte("hellx"), 1), 0o644))
	var member bytes.Buffer
	z := newGzipWriter(&member, 9)
	_, err := io.WriteString(z, "packed\n")
	must(errors.Join(err, z.Close()))
	for name, data := range map[string][]byte{"p.gz": member.Bytes(), "two.gz": slices.Concat(member.Bytes(), member.Bytes()), "junk.gz": append(slices.Clone(member.Bytes()), "junk"...), "p.tgz": member.Bytes(), "p.foo": member.Bytes(), "cut.gz": member.Bytes()[:15], "bad.gz": append(slices.Clone(member.Bytes()[:12]), make([]byte, 30)...), "fd.gz": member.Bytes(), "f.gz": member.Bytes()} {
		must(os.WriteFile(filepath.Join(w, name), data, 0o640))
	}
	must(os.MkdirAll(w+"/src/d/sub", 0o755))
	must(os.MkdirAll(w+"/src/empty", 0o700))
	for name, text := range map[string]string{"src/one": "1\n", "src/d/two": "22\n", "src/d/sub/three": "333\n", "src/.hidden": "h", "src/x.log": "l", "f": "old\n", "h": "old", "df": "file", "list": "src/one\nsrc/d/\n", "patterns": "*.log\nsub\n"} {
		must(os.WriteFile(filepath.Join(w, name), []byte(text), 0o640))
	}
	must(os.Symlink("one", w+"/src/link"))
	must(os.Link(w+"/src/one", w+"/src/zz"))
	must(os.Symlink("real", w+"/l"))
	must(os.Symlink("real", w+"/via"))
	must(os.Symlink("real/t", w+"/lf"))
	must(os.Symlink("src", w+"/ls"))
	must(os.WriteFile(w+"/s2", []byte("s2"), 0o644))
	for _, d := range []string{"real", "fd", "e", "d", "out"} {
		must(os.Mkdir(filepath.Join(w, d), 0o700))
	}
	must(os.WriteFile(w+"/fd/z", nil, 0o644))
	must(filepath.WalkDir(w, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(name, old, old)
	}))
	return dir
}

// imported reads a directory of the host into a tree, with the host's accounts.
func imported(t testing.TB, dir string) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sys := info.Sys().(*syscall.Stat_t)
		at := strings.TrimPrefix(name, dir)
		a := filetree.Attr{Mode: info.Mode(), UID: int(sys.Uid), GID: int(sys.Gid), ModTime: info.ModTime()}
		if !d.IsDir() && sys.Nlink > 1 {
			if first, ok := inodes[sys.Ino]; ok {
				return x.Link(first, at)
			}
			inodes[sys.Ino] = at
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			if a.Link, err = os.Readlink(name); err != nil {
				return err
			}
		case d.Type().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			a.Content = filetree.Bytes(data).Content()
		}
		return x.Put(at, a)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.MkdirAll("/etc", filetree.Attr{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Put(name, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(data).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// dump describes everything in /w, with the times of directories if these count.
func dump(t testing.TB, x *filetree.Tree, times bool) string {
	t.Helper()
	var out strings.Builder
	var linked []filetree.Attr
	err := x.Walk("/w", func(name string, a filetree.Attr) error {
		text := ""
		if a.IsRegular() {
			b, err := x.ReadFile(name)
			if err != nil {
				return err
			}
			text = fmt.Sprintf("%.20q", b)
			if strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, "gz") {
				text = ""
			}
		}
		at := a.ModTime.UTC().Format(time.DateTime)
		if a.ModTime.After(packed) || a.IsDir() && (a.ModTime.Equal(old) || !times) {
			at = "now" // directories of the tree don't get the time of what is done in them
		}
		if a.IsSymlink() {
			a.Mode = fs.ModeSymlink | 0o777
		}
		id := slices.IndexFunc(linked, func(b filetree.Attr) bool { return b.SameFile(&a) })
		if id < 0 && a.SameFile(&a) {
			id = len(linked)
			linked = append(linked, a)
		}
		fmt.Fprintf(&out, "%s %v %d:%d %s %s %d %s\n", name, a.Mode, a.UID, a.GID, at, a.Link, id, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// call runs one command line in /w of a tree; _ in a word is a space.
func call(t testing.TB, x *filetree.Tree, dialect command.Dialect, scratch, stdin, line string, uid int) (stdout, stderr string, exit int, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/w", Env: map[string]string{}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Umask: 0o022, Dialect: dialect, Now: now, UID: uid, GID: uid}
	for w := range strings.SplitSeq(line, " ") {
		p.Args = append(p.Args, strings.ReplaceAll(w, "_", " "))
	}
	for _, c := range CommandsIn(scratch) {
		if c.Name == p.Args[0] {
			exit, err = c.Run(t.Context(), p)
			return out.String(), errs.String(), exit, err
		}
	}
	t.Fatalf("no command %s", p.Args[0])
	return "", "", 0, nil
}

// against runs command lines on a tree and, with the same files, on the host, and
// compares what they print, end with and leave.
func against(t *testing.T, dialect command.Dialect, ordered bool, lines []string, program func(args []string) *exec.Cmd) {
	if os.Getuid() != 0 {
		t.Skip("files of the tests belong to several users")
	}
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			dir := world(t)
			x := imported(t, dir)
			line, from, _ := strings.Cut(line, " < ")
			stdin := ""
			if from != "" {
				b, err := os.ReadFile(filepath.Join(dir, "w", from))
				if err != nil {
					t.Fatal(err)
				}
				stdin = string(b)
			}
			got, said, exit, err := call(t, x, dialect, t.TempDir(), stdin, line, 0)
			if u := (*command.Unsupported)(nil); errors.As(err, &u) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			args := strings.Split(line, " ")
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "_", " ")
			}
			cmd := program(args)
			if filepath.Base(cmd.Path) == args[0] {
				cmd.Args[0] = args[0] // what it calls itself in messages
			}
			var out, errs bytes.Buffer
			cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Stdin = filepath.Join(dir, "w"), &out, &errs, strings.NewReader(stdin)
			cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
			err = cmd.Run()
			if strings.Contains(errs.String(), "unrecognized option") || strings.Contains(errs.String(), "invalid option") {
				t.Skip("this busybox is without it")
			}
			if code := cmd.ProcessState.ExitCode(); exit != code {
				t.Errorf("exit code %d, the host's is %d (%v)\n%s--\n%s", exit, code, err, said, errs.String())
			}
			if a, b := readable(t, got, ordered), readable(t, out.String(), ordered); a != b {
				t.Errorf("got\n%s--\nthe host has\n%s", a, b)
			}
			if a, b := said, errs.String(); a != b {
				t.Logf("messages:\n%s--\nthe host's:\n%s", a, b)
			}
			if a, b := dump(t, x, ordered), dump(t, imported(t, dir), ordered); a != b {
				t.Errorf("what is left differs:\n%s", diff(a, b))
			}
			for _, name := range []string{"out.tar", "out.tgz", "out/o.tar"} {
				a, errA := x.ReadFile("/w/" + name)
				b, errB := os.ReadFile(filepath.Join(dir, "w", name))
				if (errA == nil) != (errB == nil) {
					t.Errorf("%s: %v, on the host %v", name, errA, errB)
				} else if a, b := readable(t, string(a), ordered), readable(t, string(b), ordered); a != b {
					t.Errorf("%s:\n%s", name, diff(a, b))
				}
			}
		})
	}
}

// readable describes the members of an archive; other text is as it is. Without
// order, which of two hard links comes first doesn't count either.
func readable(t testing.TB, text string, ordered bool) string {
	t.Helper()
	if !ordered {
		list := strings.SplitAfter(readable(t, text, true), "\n")
		for i, l := range list {
			for _, name := range []string{"src/one ", "src/zz ", "src/link "} {
				if strings.HasPrefix(l, name) {
					list[i] = name + "\n"
				}
			}
		}
		slices.Sort(list)
		return strings.Join(list, "")
	}
	if strings.HasPrefix(text, "\x1f\x8b") {
		z, err := newGunzip(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			return "broken gzip " + err.Error()
		}
		text = fmt.Sprintf("gzip %q %v\n", z.header.Name, z.header.ModTime.Unix() > 0) + readable(t, string(b), true)
		return text
	}
	if len(text) < 512 || text[257:262] != "ustar" {
		return text
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%q %d bytes\n", text[257:265], len(text))
	r := tar.NewReader(strings.NewReader(text))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			return out.String() + err.Error()
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err.Error()
		}
		fmt.Fprintf(&out, "%s %c %o %d:%d %s:%s %d %s %q\n", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.Size, h.Linkname, b)
	}
}

// diff is what only one of two texts has.
func diff(a, b string) string {
	var out strings.Builder
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range left {
		if !slices.Contains(right, l) {
			fmt.Fprintln(&out, "got  "+l)
		}
	}
	for _, l := range right {
		if !slices.Contains(left, l) {
			fmt.Fprintln(&out, "host "+l)
		}
	}
	if out.Len() == 0 {
		return "the order of\n" + a + "--\n" + b
	}
	return out.String()
}

var reading = []string{
	"tar tf plain.tar", "tar tvf plain.tar", "tar -tf plain.tar top/sub", "tar tf plain.tar top/sub/", "tar tf plain.tar nope", "tar tf plain.tar top/a nope", "tar tf plain.tar top/*", "tar tf plain.tar top top/a",
	"tar tf plain.tar --exclude=a", "tar tf plain.tar --exclude=sub", "tar tf plain.tar --exclude=top/sub", "tar tf plain.tar --exclude=*f*", "tar tf plain.tar --exclude=./top", "tar tf plain.tar --exclude sub/deep", "tar tf plain.tar -X patterns", "tar tf plain.tar -T list", "tar tf plain.tar --wildcards */r*",
	"tar tf odd.tar", "tar tvf odd.tar", "tar tf evil.tar", "tar tvf evil.tar", "tar tvf plain.tar --numeric-owner", "tar tf plain.tar.gz", "tar tzf plain.tar.gz", "tar tf - < plain.tar", "tar t < plain.tar", "tar tf - < plain.tar.gz", "tar tz < plain.tar.gz", "tar tzf plain.tar", "tar tjf plain.tar",
	"tar tf bad.tar", "tar tf short.tar", "tar tf empty.tar", "tar tf junk.tgz", "tar tf zeros.tgz", "tar tf cut.tgz", "tar tf nofile", "tar tf d", "tar xf plain.tar -C nodir", "tar xf plain.tar -C f",
	"tar xf plain.tar", "tar xvf plain.tar", "tar -x -f plain.tar -C out", "tar -C out -xzf plain.tar.gz", "tar xfC plain.tar out", "tar xzfC plain.tar.gz out", "tar --extract --file=plain.tar --directory=out", "tar -xf plain.tar -C out --strip-components=1", "tar -xvf plain.tar -C out --strip-components=1", "tar -xf plain.tar -C out --strip-components=2", "tar -xf plain.tar -C out --strip-components 1 top/run", "tar xf plain.tar -C out --strip=1",
	"tar xpf plain.tar -C out", "tar xof plain.tar -C out", "tar xf plain.tar -C out --no-same-owner", "tar xf plain.tar -C out --no-same-permissions", "tar xmf plain.tar -C out", "tar xf plain.tar -C out --numeric-owner", "tar xOf plain.tar top/a", "tar xf plain.tar -O top/h top/l top/a top/run", "tar xf plain.tar -C out top/sub top/nope", "tar xf plain.tar -C out --exclude=sub",
	"tar xf dot.tar -C out", "tar xf dot.tar -C out ./x", "tar xf dot.tar -C out ./d", "tar xf dot.tar -C out --strip-components=1", "tar xf dot.tar -C out x", "tar xf evil.tar -C out", "tar xvf evil.tar -C out", "tar xf over.tar", "tar xf clash.tar", "tar xf files.tar", "tar xf links.tar", "tar xf odd.tar -C out", "tar xf bad.tar -C out", "tar xf empty.tar -C out", "tar xf junk.tgz -C out", "tar xf zeros.tgz -C out", "tar xf cut.tgz -C out",
	"tar xkf files.tar", "tar xf files.tar --skip-old-files", "tar xf over.tar --keep-directory-symlink", "tar x -C out < plain.tar", "tar -C out -C sub -xf ../plain.tar", "tar xf plain.tar -C real -C ../out", "tar", "tar xc", "tar -f plain.tar", "tar xf", "tar --nope", "tar xf plain.tar --exclude", "tar xjf plain.tar.gz",
}

var writing = []string{
	"tar cf out.tar src", "tar -cf out.tar src/", "tar cf out.tar ./src", "tar cf out.tar -C src .", "tar -C src -cf out.tar .", "tar -czf out.tgz src", "tar czf out.tgz -C src one d", "tar cf - src", "tar c src", "tar cvf out.tar src", "tar cvf - src/d", "tar cf out.tar src/one src/zz", "tar cf out.tar src/zz src/one", "tar cf out.tar src/link", "tar chf out.tar src/link", "tar chf out.tar src",
	"tar cf out.tar nope", "tar cf out.tar src/one nope", "tar cf out.tar", "tar cf out.tar src src", "tar cf out.tar -C src one -C d two", "tar cf out.tar --exclude=sub src", "tar cf out.tar --exclude=src/d/sub src", "tar cf out.tar --exclude=*.log src", "tar cf out.tar --exclude=./d -C src .", "tar cf out.tar -X patterns src", "tar cf out.tar --exclude=src src", "tar cf out.tar --no-recursion src", "tar cf out.tar -T list", "tar cf out/o.tar out", "tar cf out/o.tar -C out .", "tar cf out/o.tar out/o.tar f",
	"tar cf out.tar ls/", "tar cf out.tar ls", "tar cf out.tar ls/d", "tar cf out.tar ../w/f", "tar cf out.tar src/../f", "tar caf out.tgz src/d", "tar caf out.tar src/d", "tar cf nodir/x.tar f", "tar cf out.tar -C nodir f", "tar cf out.tar --owner=0 --group=0 src/d", "tar cf out.tar --owner=daemon src/d", "tar cf out.tar --owner=7 --group=7 src/d", "tar cf out.tar --owner=foo:99 src/d", "tar cf out.tar --owner=nosuch --numeric-owner src/d", "tar cf out.tar --numeric-owner src/d", "tar cf out.tar --mtime=2020-01-02 src/d", "tar cf out.tar --mtime=@5 src/d",
	"tar cf out.tar --format=ustar src/d", "tar cf out.tar --format=gnu src/d", "tar --sort=name -cf out.tar src", "tar cf out.tar plain.tar", "tar cf out.tar d e f h",
}

func TestTarAgainstGNU(t *testing.T) {
	t.Parallel()
	program := known(t, "GNU tar", "tar", "--version")
	against(t, command.GNU, true, slices.Concat(reading, writing), func(args []string) *exec.Cmd {
		if slices.Contains(writing, strings.Join(args, " ")) && len(args) > 2 {
			args = slices.Concat([]string{"tar", "--sort=name"}, args[1:])
			if !strings.HasPrefix(args[2], "-") {
				args[2] = "-" + args[2] // as it isn't the first any more
			}
		}
		return exec.CommandContext(t.Context(), program, args[1:]...) //nolint:gosec // tests
	})
}

func TestTarAgainstBusybox(t *testing.T) {
	t.Parallel()
	program := known(t, "BusyBox v1.35", "busybox")
	lines := slices.DeleteFunc(slices.Concat(reading, writing), func(line string) bool {
		// Debian's doesn't recognise compression, which Alpine's does; and what is
		// left of a broken archive isn't worth comparing.
		return strings.Contains(line, "short.tar") || strings.Contains(line, "gz") && !strings.Contains(line, "z ") && !strings.Contains(line, "zf") || strings.Contains(line, "junk") || strings.Contains(line, "zeros") || strings.Contains(line, "cut")
	})
	against(t, command.Busybox, false, lines, func(args []string) *exec.Cmd {
		return exec.CommandContext(t.Context(), program, args...) //nolint:gosec // tests
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

// zipArchive has what zip puts into an archive on Unix and elsewhere.
func zipArchive(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range []struct {
		name string
		mode fs.FileMode
		text string
		how  uint16
	}{
		{"top/", fs.ModeDir | 0o750, "", zip.Store}, {"top/run", 0o755, strings.Repeat("#!/bin/sh\n", 50), zip.Deflate}, {"top/private", 0o600, "hello", zip.Store}, {"other/deep/x.txt", 0o644, "x", zip.Store}, {"plain", 0, "no mode", zip.Deflate},
		{"empty", 0o644, "", zip.Store}, {"link", fs.ModeSymlink | 0o777, "top/run", zip.Store}, {"out", fs.ModeSymlink | 0o777, "/etc/passwd", zip.Store},
	} {
		h := &zip.FileHeader{Name: e.name, Method: e.how, Modified: packed}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		out, err := w.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(out, e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var zipping = []string{
	"gzip f", "gzip f h", "gzip -k f", "gzip -9 f", "gzip -n f", "gzip --best -k f", "gzip -c f", "gzip -cn f", "gzip -c f h", "gzip -c - < f", "gzip < f", "gzip lf", "gzip via", "gzip d", "gzip nofile", "gzip nofile h", "gzip p.gz", "gzip -f f", "gzip f.gz", "gzip s2", "gzip -q d",
	"gzip -d p.gz", "gunzip p.gz", "gunzip p", "gunzip -k p.gz", "gunzip p.tgz", "gunzip p.foo", "gunzip -c p.foo", "gunzip -c p.gz two.gz", "gunzip two.gz", "gunzip junk.gz", "gunzip -c junk.gz", "gunzip cut.gz", "gunzip -c cut.gz", "gunzip f", "gunzip -f f.gz", "gunzip f.gz", "gunzip nofile", "gunzip fd.gz", "gunzip -c f", "gunzip -cf f", "gunzip d",
	"gunzip < p.gz", "gunzip < f", "gunzip - < two.gz", "gzip -dc < p.gz", "gzip -t p.gz", "gzip -t f", "gzip -t cut.gz", "gzip -tk p.gz", "zcat p.gz", "zcat p", "zcat p.gz p.tgz", "zcat f", "zcat -f f", "zcat < p.gz", "zcat - < p.gz", "zcat nofile", "zcat plain.tar.gz",
}

var unzipping = []string{
	"unzip a.zip -d out", "unzip -q a.zip -d out", "unzip -d out a", "unzip -qq -o a.zip", "unzip a.zip", "unzip -o a.zip top/run plain -d out", "unzip -q a.zip top/* -d out", "unzip -q a.zip nope -d out", "unzip -q a.zip top/run nope -d out", "unzip -q a.zip *.txt -d out", "unzip -q a.zip -d new", "unzip -q a.zip -d new/deep", "unzip -q a.zip -d f",
	"unzip -l a.zip", "unzip -l a.zip top/*", "unzip -l a.zip empty", "unzip -p a.zip plain", "unzip -p a.zip top/private nope", "unzip -j -q a.zip -d out", "unzip -jo a.zip -d out", "unzip nofile.zip", "unzip nofile", "unzip -q cut.zip", "unzip -q bad.tar", "unzip -p wrong.zip top/private",
}

func TestGzipAgainstGNU(t *testing.T) {
	t.Parallel()
	known(t, "Gailly", "gzip", "--version")
	against(t, command.GNU, true, zipping, func(args []string) *exec.Cmd {
		return exec.CommandContext(t.Context(), args[0], args[1:]...) //nolint:gosec // tests
	})
}

func TestUnzipAgainstInfoZIP(t *testing.T) {
	t.Parallel()
	known(t, "UnZip 6.00", "unzip", "-v")
	against(t, command.GNU, true, unzipping, func(args []string) *exec.Cmd {
		return exec.CommandContext(t.Context(), args[0], args[1:]...) //nolint:gosec // tests
	})
}

func TestZipsAgainstBusybox(t *testing.T) {
	t.Parallel()
	program := known(t, "BusyBox v1.35", "busybox")
	lines := slices.DeleteFunc(slices.Concat(zipping, unzipping), func(line string) bool {
		// What is left of something broken isn't worth comparing.
		return strings.Contains(line, "cut") || strings.Contains(line, "bad") || line == "gzip d" || line == "gzip via" || line == "gunzip f.gz" || line == "gunzip d" || line == "gzip -q d"
	})
	against(t, command.Busybox, false, lines, func(args []string) *exec.Cmd {
		return exec.CommandContext(t.Context(), program, args...) //nolint:gosec // tests
	})
}
