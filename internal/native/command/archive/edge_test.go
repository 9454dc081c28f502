//go:build unix

package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

const accounts = "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"

// small is a tree with one directory, one file outside it, and archives.
func small(t testing.TB, archives map[string][]byte) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	err := errors.Join(x.MkdirAll("/w", filetree.Attr{Mode: 0o755}), x.MkdirAll("/w/out", filetree.Attr{Mode: 0o777}), x.MkdirAll("/etc", filetree.Attr{Mode: 0o755}),
		x.WriteFile("/etc/passwd", filetree.Bytes(accounts).Content(), filetree.Attr{Mode: 0o644}))
	for name, data := range archives {
		err = errors.Join(err, x.WriteFile("/w/"+name, filetree.Bytes(data).Content(), filetree.Attr{Mode: 0o644}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestCompressions(t *testing.T) {
	t.Parallel()
	plain := pack(t, folder("d/", 0o755), file("d/f", "content"))
	archives := map[string][]byte{"a.tar": plain}
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	archives["a.tar.xz"] = b.Bytes()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	archives["a.tar.zst"] = z.EncodeAll(plain, nil)
	if program, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.CommandContext(t.Context(), program, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		if archives["a.tar.bz2"], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"tar xf a.tar.xz", "tar xJf a.tar.xz", "tar xf a.tar.bz2", "tar xjf a.tar.bz2", "tar --zstd -xf a.tar.zst", "tar xf a.tar.zst", "tar xaf a.tar.xz"} {
		for _, scratch := range []string{"", t.TempDir()} {
			x := small(t, archives)
			if name := line[strings.LastIndexByte(line, ' ')+1:]; archives[name] == nil {
				continue
			}
			_, said, exit, err := call(t, x, command.GNU, scratch, "", line+" -C out", 0)
			if exit != 0 || err != nil {
				t.Errorf("%s: %d %v %s", line, exit, err, said)
				continue
			}
			if b, err := x.ReadFile("/w/out/d/f"); string(b) != "content" || err != nil {
				t.Errorf("%s: %q %v", line, b, err)
			}
		}
	}
	for _, line := range []string{"tar xzf a.tar.xz", "tar xJf a.tar", "tar xJf a.tar.zst"} {
		if _, _, exit, err := call(t, small(t, archives), command.GNU, "", "", line, 0); exit != 2 || err != nil {
			t.Errorf("%s: %d %v", line, exit, err)
		}
	}
}

// TestRefused: what can't be done is refused before anything runs.
func TestRefused(t *testing.T) {
	t.Parallel()
	check := map[string]func([]*string) *command.Unsupported{}
	for _, c := range Commands() {
		check[c.Name] = c.Check
	}
	for _, test := range []struct {
		line    string // ? is a word that isn't known yet
		refused bool
	}{
		{"tar xzf a.tgz -C /usr/local", false}, {"tar -xzf ? -C ? --strip-components=1", false}, {"tar xf ? --transform=s/a/b/", true}, {"tar ? -P", true}, {"tar cJf x.tar.xz d", true}, {"tar cjf x d", true}, {"tar rf x d", true}, {"tar uf x d", true}, {"tar -xPf x", true}, {"tar xf a b -C d c", true},
		{"tar --use-compress-program=pigz -xf x", true}, {"tar c --mtime=yesterday d", true}, {"tar c --sort=inode d", true}, {"tar c --format=pax d", true}, {"tar xf host:file", true}, {"tar -xvvf x", true}, {"tar", false}, {"tar ?", false}, {"tar xf x --xattrs", true}, {"tar xf x --overwrite", true}, {"tar cf x --mtime ? d", false},
		{"gzip -9 f", false}, {"gzip -l f", true}, {"gzip -r d", true}, {"gunzip -v f", true}, {"zcat ?", false}, {"gzip --rsyncable f", true}, {"unzip -q a.zip", false}, {"unzip -x a", true}, {"unzip -qq -o ? -d ?", false}, {"unzip -t a", true}, {"unzip -u a", true},
	} {
		var args []*string
		words := strings.Split(test.line, " ")
		for _, w := range words[1:] {
			if args = append(args, &w); w == "?" {
				args[len(args)-1] = nil
			}
		}
		if u := check[words[0]](args); (u != nil) != test.refused {
			t.Errorf("%s: %v", test.line, u)
		}
	}
}

// TestUser: what another user than root extracts belongs to them, with their umask.
func TestUser(t *testing.T) {
	t.Parallel()
	archives := map[string][]byte{"a.tar": pack(t, folder("ro/", 0o555), entry{"ro/run", '0', 0o4777, "x", 0, "root"})}
	x := small(t, archives)
	if _, said, exit, err := call(t, x, command.GNU, "", "", "tar xf a.tar -C out", 33); exit != 0 || err != nil {
		t.Fatal(exit, err, said)
	}
	d, err := x.Stat("/w/out/ro")
	if err != nil || d.Mode.Perm() != 0o555 || d.UID != 33 {
		t.Errorf("directory: %v %d %v", d.Mode, d.UID, err)
	}
	if a, err := x.Stat("/w/out/ro/run"); err != nil || a.Mode != 0o755 || a.UID != 33 {
		t.Errorf("file: %v %d %v", a.Mode, a.UID, err)
	}
	for _, line := range []string{"tar xf a.tar", "tar cf x.tar out", "gzip a.tar", "unzip a.zip plain"} {
		archives["a.zip"] = zipArchive(t)
		x := small(t, archives)
		if _, said, exit, err := call(t, x, command.GNU, "", "", line, 33); exit == 0 || err != nil || !strings.Contains(said, "Permission denied") {
			t.Errorf("%s: %d %v %s", line, exit, err, said)
		}
	}
}

// TestBrokenSource: that the tree's own content can't be read is no answer of tar.
func TestBrokenSource(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"tar xf a", "tar cf x a", "gzip a", "gunzip -c a", "unzip a"} {
		x := small(t, nil)
		if err := x.WriteFile("/w/a", broken{}, filetree.Attr{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, said, exit, err := call(t, x, command.GNU, "", "", line, 0); err == nil {
			t.Errorf("%s: exit code %d, %s", line, exit, said)
		}
	}
}

type broken struct{}

func (broken) Size() int64 { return 2000 }
func (broken) Open() (io.ReadCloser, error) {
	return io.NopCloser(iotest.ErrReader(&fs.PathError{Op: "read", Path: "/host/file", Err: errors.New("input/output error")})), nil
}

// TestRoundTrip: what tar and gzip pack, they unpack.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, dialect := range []command.Dialect{command.GNU, command.Busybox} {
		x := small(t, nil)
		big := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		if err := errors.Join(x.Mkdir("/w/d", filetree.Attr{Mode: 0o700, UID: 33}), x.WriteFile("/w/d/big", filetree.Bytes(big).Content(), filetree.Attr{Mode: 0o640, UID: 33, GID: 34}),
			x.Symlink("big", "/w/d/l", filetree.Attr{}), x.Link("/w/d/big", "/w/d/same")); err != nil {
			t.Fatal(err)
		}
		scratch := t.TempDir()
		for _, line := range []string{"tar czf a.tgz d", "gunzip a.tgz", "gzip a.tar", "tar xzf a.tar.gz -C out"} {
			if _, said, exit, err := call(t, x, dialect, scratch, "", line, 0); exit != 0 || err != nil {
				t.Fatal(line, exit, err, said)
			}
		}
		a, err := x.Stat("/w/out/d/big")
		if err != nil || a.Mode != 0o640 || a.UID != 33 || a.GID != 34 {
			t.Errorf("%v %d:%d %v", a.Mode, a.UID, a.GID, err)
		}
		b, err := x.ReadFile("/w/out/d/same")
		if err != nil || !bytes.Equal(b, big) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if c, err := x.Stat("/w/out/d/same"); err != nil || !a.SameFile(&c) {
			t.Error("the hard link is none any more")
		}
	}
}

// FuzzTar: whatever is in an archive, nothing outside of the directory changes.
func FuzzTar(f *testing.F) {
	for _, data := range fixtures(f) {
		if len(data) < 20000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, dialect := range []command.Dialect{command.GNU, command.Busybox} {
			for _, line := range []string{"tar xf a -C out", "tar tvf a", "tar xf a -C out --strip-components=1", "unzip -o a -d out", "gunzip -c a"} {
				x := small(t, map[string][]byte{"a": data})
				_, _, _, _ = call(t, x, dialect, "", "", line, 0)
				var rest strings.Builder
				err := x.Walk("/", func(name string, a filetree.Attr) error {
					if name == "/w/out" {
						return fs.SkipDir
					}
					rest.WriteString(name + " " + a.Mode.String() + "\n")
					return nil
				})
				if want := "/ drwxr-xr-x\n/etc drwxr-xr-x\n/etc/passwd -rw-r--r--\n/w drwxr-xr-x\n/w/a -rw-r--r--\n"; err != nil || rest.String() != want {
					t.Errorf("%s: %v\n%s", line, err, rest.String())
				}
				if b, _ := x.ReadFile("/etc/passwd"); string(b) != accounts {
					t.Errorf("%s changed /etc/passwd: %q", line, b)
				}
			}
		}
	})
}
