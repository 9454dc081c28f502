package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layers gives layers by digest.
type layers map[digest.Digest][]byte

func (l layers) add(data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	l[d.Digest] = data
	return d
}

func (l layers) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l[d.Digest])), nil
}
func (l layers) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, os.ErrNotExist
}
func (l layers) Tags(context.Context) ([]string, error) { return nil, nil }
func (l layers) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := h.PAXRecords["content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"content": content}}
}

func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }

func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
}

// No name and no link may reach a file outside the root, for writing, linking
// or removing; and what is odd but legal must work.
func TestUnpackStaysInside(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("images run on Linux only")
	}
	t.Parallel()
	for name, c := range map[string]struct {
		layers [][]tar.Header
		want   map[string]string // content of files below root; "" means absent
		fails  bool
	}{
		"dots":                      {layers: [][]tar.Header{{file("../../victim", "evil")}}, want: map[string]string{"victim": "evil"}},
		"absolute":                  {layers: [][]tar.Header{{file("/victim", "evil")}}, want: map[string]string{"victim": "evil"}},
		"through a link":            {layers: [][]tar.Header{{link("out", ".."), file("out/victim", "evil")}}, want: map[string]string{"victim": "evil"}},
		"through an absolute link":  {layers: [][]tar.Header{{link("out", "OUTSIDE"), file("out/victim", "evil")}}},
		"through two links":         {layers: [][]tar.Header{{link("a", "b/.."), link("b", "../.."), file("a/victim", "evil")}}},
		"over a link":               {layers: [][]tar.Header{{link("victim", "OUTSIDE/victim"), file("victim", "evil")}}, want: map[string]string{"victim": "evil"}},
		"directory over a link":     {layers: [][]tar.Header{{link("d", "OUTSIDE")}, {dir("d"), file("d/victim", "evil")}}, want: map[string]string{"d/victim": "evil"}},
		"hard link outside":         {layers: [][]tar.Header{{hard("stolen", "OUTSIDE/victim")}}, fails: true},
		"hard link through a link":  {layers: [][]tar.Header{{link("out", "OUTSIDE"), hard("stolen", "out/victim")}}, fails: true},
		"whiteout outside":          {layers: [][]tar.Header{{link("out", "OUTSIDE")}, {file("out/.wh.victim", "")}}},
		"whiteout of dots":          {layers: [][]tar.Header{{file("a/x", "1")}, {file("a/.wh...", "")}}},
		"opaque outside":            {layers: [][]tar.Header{{link("out", "OUTSIDE")}, {file("out/.wh..wh..opq", "")}}},
		"link loop":                 {layers: [][]tar.Header{{link("a", "b"), link("b", "a"), file("a/x", "1")}}, fails: true},
		"usrmerge":                  {layers: [][]tar.Header{{dir("usr/bin"), link("bin", "usr/bin")}, {file("bin/sh", "shell")}}, want: map[string]string{"usr/bin/sh": "shell"}},
		"absolute link inside":      {layers: [][]tar.Header{{dir("run"), link("var/run", "/run")}, {file("var/run/pid", "1")}}, want: map[string]string{"run/pid": "1"}},
		"whiteout":                  {layers: [][]tar.Header{{file("a/x", "1"), file("a/y", "2")}, {file("a/.wh.x", "")}}, want: map[string]string{"a/x": "", "a/y": "2"}},
		"opaque":                    {layers: [][]tar.Header{{file("a/x", "1")}, {file("a/.wh..wh..opq", ""), file("a/z", "3")}}, want: map[string]string{"a/x": "", "a/z": "3"}},
		"file replaces a directory": {layers: [][]tar.Header{{file("a/x", "1")}, {file("a", "now a file")}}, want: map[string]string{"a": "now a file"}},
		"hard link":                 {layers: [][]tar.Header{{file("a", "1"), hard("b", "a"), hard("c", "/a")}}, want: map[string]string{"b": "1", "c": "1"}},
		"device":                    {layers: [][]tar.Header{{tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock}, file("x", "1")}}, want: map[string]string{"x": "1", "dev/sda": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
			for _, d := range []string{root, outside} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, victim := range []string{filepath.Join(top, "victim"), filepath.Join(outside, "victim")} {
				if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			src := layers{}
			var err error
			for _, entries := range c.layers {
				for i := range entries {
					entries[i].Linkname = replaceOutside(entries[i].Linkname, outside)
				}
				if err = unpack(context.Background(), src, src.add(tarOf(t, entries...)), root); err != nil {
					break
				}
			}
			if (err != nil) != c.fails {
				t.Errorf("error is %v", err)
			}
			for _, victim := range []string{filepath.Join(top, "victim"), filepath.Join(outside, "victim")} {
				if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
					t.Errorf("%s is %q, %v", victim, data, err)
				}
			}
			for name, want := range c.want {
				data, err := os.ReadFile(filepath.Join(root, name))
				if want == "" && err == nil || want != "" && string(data) != want {
					t.Errorf("%s is %q, %v; want %q", name, data, err, want)
				}
			}
			if stolen, err := os.ReadFile(filepath.Join(root, "stolen")); err == nil && string(stolen) == "precious" {
				t.Error("a file of the host is in the root")
			}
		})
	}
}

func replaceOutside(name, outside string) string {
	if rest, found := bytes.CutPrefix([]byte(name), []byte("OUTSIDE")); found {
		return outside + string(rest)
	}
	return name
}

func TestUnpackCompressed(t *testing.T) {
	t.Parallel()
	plain := tarOf(t, file("x", "1"))
	var gz, zs bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(plain); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		root := t.TempDir()
		src := layers{}
		if err := unpack(context.Background(), src, src.add(data), root); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "x")); err != nil || string(got) != "1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	src := layers{}
	if err := unpack(context.Background(), src, src.add(gz.Bytes()[:len(gz.Bytes())/2]), t.TempDir()); err == nil {
		t.Error("half a layer unpacks")
	}
}

func TestLookUp(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("images run on Linux only")
	}
	t.Parallel()
	root := t.TempDir()
	src := layers{}
	if err := unpack(context.Background(), src, src.add(tarOf(t, dir("usr/bin"), link("bin", "usr/bin"), file("usr/bin/app", "x"), tar.Header{Name: "data", Mode: 0o644})), root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"app": "/bin/app", "/bin/app": "/bin/app", "/usr/bin/app": "/usr/bin/app", "nope": "", "/data": "", "/bin": ""} {
		got, err := lookUp(root, name, []string{"PATH=/sbin:/bin"})
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
}

// FuzzUnpack lets any bytes be a layer; whatever happens stays in the root.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, file("a/b", "x"), link("l", "../.."), file("l/x", "y"), hard("h", "a/b")))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if runtime.GOOS == "windows" {
			t.Skip("layers of Linux aren't unpacked on Windows")
		}
		top := t.TempDir()
		root := filepath.Join(top, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		src := layers{}
		_ = unpack(context.Background(), src, src.add(data), root)
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the root is %v, %v", entries, err)
		}
		removeAll(root)
	})
}
