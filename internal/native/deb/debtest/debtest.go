// Package debtest makes and fetches .deb files for tests.
package debtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Time is the time of all files that it packs.
var Time = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// Deb is what a .deb is made of.
type Deb struct {
	Control string            // the file control
	Info    map[string]string // other files of control.tar, in any order
	Files   []tar.Header      // of data.tar
	Content map[string]string // of the regular files, by name
}

// File is a header of a regular file of mode 0644; see Deb.Content.
func File(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}
}

// Dir is a header of a directory of mode 0755.
func Dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

// Symlink is a header of a symbolic link.
func Symlink(target, name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

// Link is a header of a hard link.
func Link(target, name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}
}

// Simple is a package of regular files with the directories that they need. The
// names are absolute.
func Simple(control string, files map[string]string, info map[string]string) Deb {
	d := Deb{Control: control, Info: info, Content: map[string]string{}}
	seen := map[string]bool{}
	var add func(dir string)
	add = func(dir string) {
		if seen[dir] {
			return
		}
		seen[dir] = true
		if dir != "/" {
			add(path.Dir(dir))
		}
		d.Files = append(d.Files, Dir("."+strings.TrimSuffix(dir, "/")+"/"))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		add(path.Dir(name))
		d.Files = append(d.Files, File("."+name))
		d.Content["."+name] = files[name]
	}
	return d
}

// Build packs it with gzip.
func (d Deb) Build(t testing.TB) []byte {
	t.Helper()
	return Ar(t, "debian-binary", []byte("2.0\n"), "control.tar.gz", Gzip(t, d.ControlTar(t)), "data.tar.gz", Gzip(t, d.DataTar(t)))
}

// ControlTar is control.tar without compression.
func (d Deb) ControlTar(t testing.TB) []byte {
	t.Helper()
	files := []tar.Header{Dir("./")}
	content := map[string]string{}
	add := func(name, text string, mode int64) {
		files = append(files, tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: mode})
		content["./"+name] = text
	}
	for _, name := range slices.Sorted(maps.Keys(d.Info)) {
		mode := int64(0o644)
		if strings.HasPrefix(d.Info[name], "#!") {
			mode = 0o755
		}
		add(name, d.Info[name], mode)
	}
	if d.Control != "" {
		add("control", d.Control, 0o644)
	}
	return Tar(t, files, content)
}

// DataTar is data.tar without compression.
func (d Deb) DataTar(t testing.TB) []byte {
	t.Helper()
	return Tar(t, d.Files, d.Content)
}

// Tar packs files in the GNU format, as dpkg-deb does.
func Tar(t testing.TB, files []tar.Header, content map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatGNU
		}
		if h.ModTime.IsZero() {
			h.ModTime = Time
		}
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = content[h.Name]
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Ar packs members: a name, its content, and so on.
func Ar(t testing.TB, members ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		name, content := members[i].(string), members[i+1].([]byte)
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, Time.Unix(), 0, 0, "100644", len(content))
		b.Write(content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// Gzip compresses.
func Gzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	return compressed(t, &out, gzip.NewWriter(&out), b)
}

// XZ compresses.
func XZ(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	return compressed(t, &out, w, b)
}

// Zstd compresses.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	return compressed(t, &out, w, b)
}

func compressed(t testing.TB, out *bytes.Buffer, w io.WriteCloser, b []byte) []byte {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// NeedDpkg skips the test where dpkg can't be asked.
func NeedDpkg(t testing.TB) {
	t.Helper()
	for _, program := range []string{"dpkg", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " isn't on this host")
		}
	}
	if testing.Short() {
		t.Skip("dpkg isn't asked in a short test")
	}
}

// Download fetches packages of the host's archives, which may be named with a version,
// and gives their files by their names. Where that isn't possible, for
// want of apt or of a network, the test is skipped.
func Download(t testing.TB, names ...string) map[string]string {
	t.Helper()
	NeedDpkg(t)
	dir := t.TempDir()
	args := []string{"download", "-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "APT::Sandbox::User=root"}
	cmd := exec.Command("apt-get", append(args, names...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("apt-get download: %v: %s", err, out)
	}
	found := map[string]string{}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		name, _, _ := strings.Cut(f.Name(), "_")
		found[name] = filepath.Join(dir, f.Name())
	}
	for _, name := range names {
		name, _, _ = strings.Cut(name, "=")
		if found[name] == "" {
			t.Skipf("apt-get download gave no %s", name)
		}
	}
	return found
}
