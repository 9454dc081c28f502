package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/debtest"
)

const hello = "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: A <a@b>\nDescription: d\n"

// open opens a .deb in memory.
func open(b []byte) (*Package, error) { return Open(bytes.NewReader(b), int64(len(b))) }

// list gives a line for each file of a package.
func list(p *Package) ([]string, error) {
	var lines []string
	err := p.Walk(context.Background(), func(e *Entry, content io.Reader) error {
		sum := sha256.New()
		n, err := io.Copy(sum, content)
		if err != nil {
			return err
		}
		if n != e.Size {
			return fmt.Errorf("%s has %d bytes, not %d", e.Path, n, e.Size)
		}
		line := fmt.Sprintf("%s %v %d:%d %s:%s %d", e.Path, e.Mode, e.UID, e.GID, e.User, e.Group, e.ModTime.Unix())
		if e.Mode.IsRegular() && e.HardLink == "" {
			line += fmt.Sprintf(" %x", sum.Sum(nil)[:4])
		}
		line += strings.TrimRight(" "+e.Symlink+e.HardLink, " ")
		lines = append(lines, line)
		return nil
	})
	return lines, err
}

func TestOpen(t *testing.T) {
	t.Parallel()
	d := debtest.Deb{
		Control: hello,
		Info:    map[string]string{"postinst": "#!/bin/sh\n", "conffiles": "/etc/hello\n", "conf.bak": "x", "list": "x"},
		Files: []tar.Header{
			debtest.Dir("./"), debtest.Dir("./usr/"), {Typeflag: tar.TypeDir, Name: "./usr/bin/", Mode: 0o2755, Uid: 3, Gid: 4, Uname: "u", Gname: "g"},
			{Typeflag: tar.TypeReg, Name: "./usr/bin/hello", Mode: 0o4755}, debtest.Link("./usr/bin/hello", "./usr/bin/hi"),
			debtest.Symlink("../bin/hello", "./usr/bin/salut"), {Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3, Mode: 0o666},
			{Typeflag: tar.TypeFifo, Name: "./fifo", Mode: 0o600}, {Typeflag: tar.TypeBlock, Name: "/block", Devmajor: 7, Mode: 0o1600},
			debtest.File("usr//" + strings.Repeat("long", 60)),
		},
		Content: map[string]string{"./usr/bin/hello": "hello"},
	}
	control, data := d.ControlTar(t), d.DataTar(t)
	for _, c := range []struct {
		name string
		deb  []byte
	}{
		{"gz", d.Build(t)},
		{"none", debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar", control, "data.tar", data)},
		{"xz", debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar.xz", debtest.XZ(t, control), "data.tar.xz", debtest.XZ(t, data))},
		{"zst", debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar.zst", debtest.Zstd(t, control), "data.tar.zst", debtest.Zstd(t, data))},
		{"more members", debtest.Ar(t, "debian-binary/", []byte("2.1\nmore\n"), "_before", []byte("x"), "control.tar.gz/", debtest.Gzip(t, control), "_gpg", []byte("abc"), "data.tar", data, "later", []byte("x"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := open(c.deb)
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != "hello" || p.Version.String() != "1:2.0-1" || p.Architecture != "amd64" || p.Control.Get("Maintainer") != "A <a@b>" {
				t.Errorf("it is %s %s %s: %s", p.Name, p.Version, p.Architecture, p.Control)
			}
			var info []string
			for _, f := range p.Info {
				info = append(info, fmt.Sprintf("%s %v %q", f.Name, f.Mode, f.Data))
			}
			if got := strings.Join(info, ", "); got != `conffiles -rw-r--r-- "/etc/hello\n", postinst -rwxr-xr-x "#!/bin/sh\n"` {
				t.Errorf("info: %s", got)
			}
			got, err := list(p)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{
				"/ drwxr-xr-x 0:0 : 1714979289",
				"/usr drwxr-xr-x 0:0 : 1714979289",
				"/usr/bin dgrwxr-xr-x 3:4 u:g 1714979289",
				"/usr/bin/hello urwxr-xr-x 0:0 : 1714979289 2cf24dba",
				"/usr/bin/hi -rw-r--r-- 0:0 : 1714979289 /usr/bin/hello",
				"/usr/bin/salut Lrwxrwxrwx 0:0 : 1714979289 ../bin/hello",
				"/null Dcrw-rw-rw- 0:0 : 1714979289",
				"/fifo prw------- 0:0 : 1714979289",
				"/block Dtrw------- 0:0 : 1714979289",
				"/usr/" + strings.Repeat("long", 60) + " -rw-r--r-- 0:0 : 1714979289 e3b0c442",
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("files:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	d := debtest.Deb{Control: hello}
	format := []byte("2.0\n")
	control, data := debtest.Gzip(t, d.ControlTar(t)), debtest.Gzip(t, d.DataTar(t))
	whole := d.Build(t)
	controlOf := func(files []tar.Header, content map[string]string) []byte {
		return debtest.Ar(t, "debian-binary", format, "control.tar", debtest.Tar(t, files, content), "data.tar.gz", data)
	}
	text := func(s string) []byte { return debtest.Deb{Control: s}.Build(t) }
	damaged := bytes.Clone(control)
	damaged[len(damaged)-5] ^= 1
	for _, c := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"empty", nil, "it isn't a .deb: it isn't an ar archive"},
		{"no ar", []byte("<html>not found</html>"), "it isn't a .deb: it isn't an ar archive"},
		{"no members", []byte("!<arch>\n"), "the first member isn't debian-binary"},
		{"cut in a header", whole[:40], "the ar archive ends in a header: unexpected EOF"},
		{"cut in a member", whole[:len(whole)-20], `the member "data.tar.gz" of the ar archive has the size`},
		{"no magic", append(bytes.Clone(whole[:72]), bytes.Repeat([]byte("x"), 70)...), "the ar archive has no header at 72"},
		{"negative size", bytes.Replace(whole, []byte("4         `"), []byte("-4        `"), 1), `the member "debian-binary" of the ar archive has the size "-4        "`},
		{"giant member", bytes.Replace(whole, []byte("4         `"), []byte("9999999999`"), 1), `the member "debian-binary" of the ar archive has the size "9999999999"`},
		{"many members", debtest.Ar(t, func() (m []any) {
			for range maxMember + 1 {
				m = append(m, "_x", []byte{})
			}
			return m
		}()...), "the ar archive has more than 100 members"},
		{"other order", debtest.Ar(t, "control.tar.gz", control, "debian-binary", format, "data.tar.gz", data), "the first member isn't debian-binary"},
		{"format 3", debtest.Ar(t, "debian-binary", []byte("3.0\n"), "control.tar.gz", control, "data.tar.gz", data), "the format is of version 3.0; only 2.0 is known"},
		{"format without line", debtest.Ar(t, "debian-binary", []byte("2.0"), "control.tar.gz", control, "data.tar.gz", data), `debian-binary says "2.0", which is no version of the format`},
		{"format of text", debtest.Ar(t, "debian-binary", []byte("two\n"), "control.tar.gz", control, "data.tar.gz", data), `debian-binary says "two\n", which is no version of the format`},
		{"long format", debtest.Ar(t, "debian-binary", make([]byte, 2000), "control.tar.gz", control, "data.tar.gz", data), "debian-binary is too long"},
		{"no control", debtest.Ar(t, "debian-binary", format), "there is no member control.tar"},
		{"no data", debtest.Ar(t, "debian-binary", format, "control.tar.gz", control), "there is no member data.tar"},
		{"two controls", debtest.Ar(t, "debian-binary", format, "control.tar.gz", control, "control.tar", control), "there are two members control.tar"},
		{"data first", debtest.Ar(t, "debian-binary", format, "data.tar.gz", data, "control.tar.gz", control), `the member "data.tar.gz" is before control.tar`},
		{"another between", debtest.Ar(t, "debian-binary", format, "control.tar.gz", control, "x", format, "data.tar.gz", data), `the member "x" is before data.tar`},
		{"unknown compression", debtest.Ar(t, "debian-binary", format, "control.tar.gz", control, "data.tar.lzma", data), `the compression of "data.tar.lzma" isn't known`},
		{"bzip2 control", debtest.Ar(t, "debian-binary", format, "control.tar.bz2", control, "data.tar.gz", data), `control.tar.bz2: the compression of "control.tar.bz2" isn't known`},
		{"damaged control", debtest.Ar(t, "debian-binary", format, "control.tar.gz", damaged, "data.tar.gz", data), "control.tar.gz: gzip: invalid checksum"},
		{"empty control archive", controlOf(nil, nil), "control.tar: there is no file control"},
		{"control link", controlOf([]tar.Header{debtest.Symlink("/etc/passwd", "./control")}, nil), `control.tar: "./control" is no regular file`},
		{"control directory", controlOf([]tar.Header{debtest.Dir("./dir/")}, nil), `control.tar: "./dir/" is no regular file`},
		{"control in a directory", controlOf([]tar.Header{debtest.File("./dir/control")}, nil), `control.tar: "./dir/control" is no regular file`},
		{"long name", controlOf([]tar.Header{debtest.File(strings.Repeat("a", 51))}, nil), "is too long"},
		{"strange name", controlOf([]tar.Header{debtest.File("./post inst")}, nil), `control.tar: "./post inst" isn't the name of a control file`},
		{"twice control", controlOf([]tar.Header{debtest.File("./control"), debtest.File("control")}, map[string]string{"./control": hello, "control": hello}), "control.tar: there are two files control"},
		{"twice postinst", controlOf([]tar.Header{debtest.File("./postinst"), debtest.File("postinst")}, nil), "control.tar: there are two files postinst"},
		{"empty control file", text(" "), "control.tar.gz: control: line 1: the line continues a field, but there is none before it"},
		{"only lines", text("\n\n"), "control.tar.gz: control: it is empty"},
		{"two paragraphs", text(hello + "\nA: b\n"), "control.tar.gz: control: there is more than one paragraph"},
		{"no package", text("Version: 1\nArchitecture: all\n"), `control.tar.gz: control: the Package "" is no name`},
		{"path as package", text("Package: ../x\nVersion: 1\nArchitecture: all\n"), `control.tar.gz: control: the Package "../x" is no name`},
		{"no version", text("Package: x\nArchitecture: all\n"), `control.tar.gz: control: x: version "": it is empty`},
		{"path as architecture", text("Package: x\nVersion: 1\nArchitecture: ../all\n"), `control.tar.gz: control: the Architecture "../all" of x is none`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := open(c.deb); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestOpenLimits(t *testing.T) {
	t.Parallel()
	many := make([]tar.Header, maxControlFile+1)
	for i := range many {
		many[i] = debtest.File(fmt.Sprintf("f%d", i))
	}
	bomb := debtest.Tar(t, []tar.Header{debtest.File("control")}, map[string]string{"control": hello + strings.Repeat("\n", maxControl)})
	for name, c := range map[string]struct {
		tar  []byte
		want string
	}{
		"many files": {debtest.Tar(t, many, nil), "it has more than 1000 files"},
		"bomb":       {bomb, errSize.Error()},
	} {
		deb := debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar.gz", debtest.Gzip(t, c.tar), "data.tar", []byte{})
		if _, err := open(deb); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
}

func TestWalkErrors(t *testing.T) {
	t.Parallel()
	one := func(h tar.Header) []byte { return debtest.Tar(t, []tar.Header{h}, nil) }
	good := one(debtest.File("./a"))
	damaged := debtest.Gzip(t, good)
	damaged[len(damaged)-5] ^= 1
	for _, c := range []struct {
		name, member string
		data         []byte
		want         string
	}{
		{"climbs out", "data.tar", one(debtest.File("./../etc/passwd")), `data.tar: the name "./../etc/passwd" leads out of the package`},
		{"climbs inside", "data.tar", one(debtest.File("./usr/../etc/passwd")), `data.tar: the name "./usr/../etc/passwd" leads out of the package`},
		{"link climbs out", "data.tar", one(debtest.Link("../../etc/shadow", "./a")), `data.tar: the name "../../etc/shadow" leads out of the package`},
		{"newline", "data.tar", one(debtest.File("./a\nb")), `data.tar: "./a\nb" isn't the name of a file`},
		{"long", "data.tar", one(debtest.File(strings.Repeat("a/", 3000) + "a")), `isn't the name of a file`},
		{"no name", "data.tar", one(debtest.File("")), `data.tar: "" isn't the name of a file`},
		{"root file", "data.tar", one(debtest.File(".")), `data.tar: the root isn't a directory`},
		{"empty symbolic link", "data.tar", one(debtest.Symlink("", "./a")), `data.tar: the symbolic link "./a" leads to ""`},
		{"type", "data.tar", one(tar.Header{Typeflag: tar.TypeCont, Name: "./a"}), `data.tar: "./a" is of the type '7', which packages can't have`},
		{"pax", "data.tar", one(tar.Header{Typeflag: tar.TypeReg, Name: "./a", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}, Format: tar.FormatPAX}), `data.tar: "./a" has a PAX header, which packages can't have`},
		{"cut", "data.tar", good[:700], "data.tar: unexpected EOF"},
		{"no tar", "data.tar", bytes.Repeat([]byte("x"), 1024), "data.tar: archive/tar: invalid tar header"},
		{"damaged at the end", "data.tar.gz", damaged, "data.tar.gz: gzip: invalid checksum"},
		{"no gzip", "data.tar.gz", good, "data.tar.gz: gzip: invalid header"},
		{"no xz", "data.tar.xz", good, "data.tar.xz: xz: the data is damaged"},
		{"no zstd", "data.tar.zst", good, "data.tar.zst: invalid input: magic number mismatch"},
		{"no bzip2", "data.tar.bz2", good, "data.tar.bz2: bzip2 data invalid: bad magic value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := open(debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar", debtest.Deb{Control: hello}.ControlTar(t), c.member, c.data))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := list(p); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestWalkStops(t *testing.T) {
	t.Parallel()
	p, err := open(debtest.Simple(hello, map[string]string{"/a": "1", "/b": "2"}, nil).Build(t))
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	seen := 0
	if err := p.Walk(context.Background(), func(*Entry, io.Reader) error { seen++; return stop }); !errors.Is(err, stop) || seen != 1 {
		t.Errorf("%v after %d files", err, seen)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Walk(ctx, func(*Entry, io.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("walk of a cancelled context: %v", err)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	if got := permissions(0o7751); got != fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky|0o751 {
		t.Errorf("%v", got)
	}
}

// TestBuiltByDpkg reads what the dpkg-deb of the host packs with each of its
// compressions.
func TestBuiltByDpkg(t *testing.T) {
	t.Parallel()
	debtest.NeedDpkg(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"DEBIAN/control": hello, "DEBIAN/md5sums": "x", "usr/bin/hello": strings.Repeat("hello", 100_000), "etc/" + strings.Repeat("l", 200): "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("hello", filepath.Join(dir, "usr/bin/salut")); err != nil {
		t.Fatal(err)
	}
	for _, compression := range []string{"none", "gzip", "xz", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "hello.deb")
			if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Z"+compression, "-b", dir, file).CombinedOutput(); err != nil {
				t.Skipf("dpkg-deb: %v: %s", err, out)
			}
			compareWithDpkg(t, file)
		})
	}
}

// TestRealPackages reads packages of the archive as dpkg-deb does.
func TestRealPackages(t *testing.T) {
	t.Parallel()
	for _, file := range debtest.Download(t, "hello", "base-files", "libc6", "tzdata") {
		compareWithDpkg(t, file)
	}
}

// compareWithDpkg compares the files of a package with those that dpkg-deb unpacks.
func compareWithDpkg(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := exec.Command("dpkg-deb", "--fsys-tarfile", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	again := *p
	again.data, again.part = bytes.NewReader(plain), member{"data.tar", 0, int64(len(plain))}
	want, err := list(&again)
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(p)
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s has %d files that aren't the same as the %d of dpkg-deb", file, len(got), len(want))
	}
	fields, err := exec.Command("dpkg-deb", "-f", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	if p.Control.String() != string(fields) {
		t.Errorf("control:\n%s\nwant:\n%s", p.Control, fields)
	}
}

func FuzzOpen(f *testing.F) {
	simple := debtest.Simple(hello, map[string]string{"/usr/bin/hello": "hello"}, map[string]string{"postinst": "#!/bin/sh\n"})
	f.Add(simple.Build(f))
	f.Add(debtest.Ar(f, "debian-binary", []byte("2.0\n"), "control.tar", simple.ControlTar(f), "data.tar", simple.DataTar(f)))
	f.Add(debtest.Ar(f, "debian-binary", []byte("2.0\n"), "control.tar.xz", debtest.XZ(f, simple.ControlTar(f)), "data.tar.zst", debtest.Zstd(f, simple.DataTar(f))))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := open(b)
		if err != nil {
			return
		}
		_ = p.Walk(context.Background(), func(e *Entry, content io.Reader) error {
			if !strings.HasPrefix(e.Path, "/") || strings.Contains(e.Path+"/", "/../") {
				t.Fatalf("path %q", e.Path)
			}
			_, err := io.Copy(io.Discard, content)
			return err
		})
	})
}
