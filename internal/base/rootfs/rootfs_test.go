package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/filetree"
)

// layerOf makes a layer of headers; the content of files is their Linkname.
func layerOf(t testing.TB, headers ...tar.Header) Layer {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname = h.Linkname, ""
			h.Size = int64(len(text))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain.Bytes())
	_ = z.Close()
	return Layer{DiffID: digest.FromBytes(plain.Bytes()), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}}
}

func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: text}
}
func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name + "/"} }
func sym(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func hard(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

func show(t testing.TB, x *filetree.Tree) string {
	var out []string
	err := x.Walk("/", func(name string, a filetree.Attr) error {
		switch {
		case name == "/":
		case a.IsDir():
			out = append(out, name+"/")
		case a.IsSymlink():
			out = append(out, name+" -> "+a.Link)
		case a.IsRegular():
			b, err := x.ReadFile(name)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s=%s", name, b))
		default:
			out = append(out, fmt.Sprintf("%s %v %d:%d", name, a.Mode, a.DevMajor, a.DevMinor))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestIndex(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		layers []Layer
		want   string // or "error: …"
	}{
		{"nothing", nil, ""},
		{"whiteout", []Layer{layerOf(t, dir("a"), file("a/x", "1"), file("a/y", "2")), layerOf(t, file("a/.wh.x", ""))}, "/a/ /a/y=2"},
		{"whiteout is about the layers below, in any order", []Layer{layerOf(t, file("x", "1")), layerOf(t, file("x", "2"), file(".wh.x", ""))}, "/x=2"},
		{"opaque", []Layer{layerOf(t, dir("a"), file("a/x", "1")), layerOf(t, file("a/new", "2"), file("a/.wh..wh..opq", ""))}, "/a/ /a/new=2"},
		{"whiteout of nothing", []Layer{layerOf(t, file("no/.wh.x", ""))}, ""},
		{"directory by file", []Layer{layerOf(t, dir("a"), file("a/x", "1")), layerOf(t, file("a", "2"))}, "/a=2"},
		{"file by directory", []Layer{layerOf(t, file("a", "1")), layerOf(t, dir("a"), file("a/x", "2"))}, "/a/ /a/x=2"},
		{"directory by link", []Layer{layerOf(t, dir("a"), dir("b"), file("a/x", "1")), layerOf(t, sym("a", "b"))}, "/a -> b /b/"},
		{"through a linked directory", []Layer{layerOf(t, dir("usr"), dir("usr/bin"), sym("bin", "usr/bin")), layerOf(t, file("bin/sh", "1"))}, "/bin -> usr/bin /usr/ /usr/bin/ /usr/bin/sh=1"},
		{"hard link into a lower layer", []Layer{layerOf(t, file("a", "1")), layerOf(t, hard("b", "a"))}, "/a=1 /b=1"},
		{"names stay inside", []Layer{layerOf(t, file("../../etc/x", "1"), sym("out", "../../.."), file("out/y", "2"))}, "/etc/ /etc/x=1 /out -> ../../.. /y=2"},
		{"missing parents", []Layer{layerOf(t, file("a/b/c", "1"))}, "/a/ /a/b/ /a/b/c=1"},
		{"twice", []Layer{layerOf(t, file("a", "1"), file("a", "2"))}, "/a=2"},
		{"device", []Layer{layerOf(t, tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3})}, "/null Dcrwxr-xr-x 1:3"},
		{"hard link to nothing", []Layer{layerOf(t, hard("b", "a"))}, "error: layer 1: /b is a hard link to a, which isn't there"},
		{"below a file", []Layer{layerOf(t, file("a", "1"), file("a/b", "2"))}, "error: layer 1: the layer has /a/b, but what it lies in is no directory"},
		{"not what it says", []Layer{{DiffID: digest.FromString("other"), Open: layerOf(t, file("a", "1")).Open}}, "error: layer 1: the layer isn't what its diff ID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cache := t.TempDir()
			for range 2 { // the second time from the cache
				x, err := Index(t.Context(), test.layers, Options{Dir: cache})
				got := ""
				if err != nil {
					got = "error: " + err.Error()
				} else {
					got = show(t, x)
				}
				if got != test.want && !(strings.HasPrefix(test.want, "error") && strings.HasPrefix(got, test.want)) {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
			}
		})
	}
}

// A damaged layer is unpacked again, for all who meet it at once.
func TestDamagedAtOnce(t *testing.T) {
	t.Parallel()
	l := layerOf(t, file("a", "first"), file("b", "second"))
	for range 30 {
		o := Options{Dir: t.TempDir()}
		want, err := Index(t.Context(), []Layer{l}, o)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(o.file(l))
		if err != nil {
			t.Fatal(err)
		}
		data[148] ^= 1 // the checksum of the first header
		if err := os.WriteFile(o.file(l), data, 0o644); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				got, err := Index(t.Context(), []Layer{l}, o)
				if err != nil {
					t.Error(err)
				} else if show(t, got) != show(t, want) {
					t.Error("it is another tree")
				}
			})
		}
		wg.Wait()
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	x, err := Index(t.Context(), []Layer{layerOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "ping", Linkname: "x", Mode: 0o4711, Uid: 3, Gid: 4,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "cap"}})}, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := x.Stat("/ping")
	if a.Mode != fs.ModeSetuid|0o711 || a.UID != 3 || a.GID != 4 || a.Xattrs["security.capability"] != "cap" {
		t.Errorf("%+v", a)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("x"))
	r, _ := layerOf(f, file("a", "1"), hard("b", "a"), sym("c", "/")).Open(context.Background())
	data, _ := io.ReadAll(r)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Index(t.Context(), []Layer{{DiffID: digest.FromBytes(data), Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}}}, Options{Dir: t.TempDir()})
	})
}
