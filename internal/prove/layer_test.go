package prove_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// The entries of each archive come after a wrong program at /opt/app and before
// the right one at /app, so that each case shows whether the tree is kept in
// order: wrong says that the wrong program is still in the image.
func TestOddArchives(t *testing.T) {
	t.Parallel()
	amd64, arm64 := compile(t, small, "linux/amd64"), compile(t, small, "linux/arm64")
	long := strings.Repeat("long/", 900)
	tests := []struct {
		name    string
		entries []entry
		refused bool // the layer has entries that runtimes refuse
		right   bool // the wrong program isn't in the image any more
	}{
		{name: "nothing"},
		{name: "the root itself", entries: []entry{dir("./"), dir("/")}},
		{name: "absolute name", entries: []entry{exe("/opt/app", amd64)}, right: true},
		{name: "dot name", entries: []entry{exe("././opt/./app", amd64)}, right: true},
		{name: "two dots that stay inside", entries: []entry{exe("opt/x/../app", amd64)}, right: true},
		{name: "two dots that lead outside", entries: []entry{exe("../opt/app", amd64)}, refused: true},
		{name: "two dots that lead outside from the root", entries: []entry{exe("/../opt/app", amd64)}, refused: true},
		{name: "long name", entries: []entry{file(long+"x", "")}, refused: true},
		{name: "name as long as may be", entries: []entry{file(long[:4090]+"x", "")}},
		{name: "link to the outside", entries: []entry{link("out", "../../../etc/passwd"), link("abs", "/etc/passwd")}},
		{name: "write through a link", entries: []entry{link("l", "opt"), exe("l/app", amd64)}, right: true},
		{name: "write through a link to the outside", entries: []entry{link("l", "../../../opt"), exe("l/app", amd64)}, right: true},
		{name: "write through an absolute link", entries: []entry{link("l", "/opt"), exe("l/app", amd64)}, right: true},
		{name: "write through links in a circle", entries: []entry{link("a", "b"), link("b", "a"), exe("a/app", amd64)}, refused: true},
		{name: "link to itself", entries: []entry{link("dash", "dash")}},
		{name: "empty link", entries: []entry{link("e", "")}, refused: true},
		{name: "write through a file", entries: []entry{file("f", ""), exe("f/app", amd64)}, refused: true},
		{name: "a file becomes a directory", entries: []entry{file("f", ""), dir("f"), exe("f/app", amd64)}},
		{name: "a directory becomes a file", entries: []entry{file("opt", "")}, right: true},
		{name: "a directory becomes a link", entries: []entry{link("opt", "srv")}, right: true},
		{name: "hard link before its file", entries: []entry{hard("opt/app", "late"), exe("late", amd64)}, right: true},
		{name: "hard link to the outside", entries: []entry{hard("h", "../../etc/passwd")}, refused: true},
		{name: "hard link to an absolute name", entries: []entry{exe("good", amd64), hard("opt/app", "/good")}, right: true},
		{name: "hard link to itself", entries: []entry{hard("h", "h")}},
		{name: "hard links in a circle", entries: []entry{hard("h", "i"), hard("i", "h")}},
		{name: "hard link to a directory", entries: []entry{dir("d"), hard("h", "d")}, refused: true},
		{name: "hard link to nothing", entries: []entry{hard("h", "nothing")}},
		{name: "hard link to a link", entries: []entry{link("l", "opt/app"), hard("h", "l")}},
		{name: "devices", entries: []entry{{name: "dev/null", kind: tar.TypeChar}, {name: "dev/sda", kind: tar.TypeBlock}, {name: "fifo", kind: tar.TypeFifo}}},
		{name: "setuid", entries: []entry{{name: "su", data: amd64, mode: 0o4755}}},
		{name: "unknown type", entries: []entry{{name: "odd", kind: 'Z'}}, refused: true},
		{name: "whiteout in its own layer", entries: []entry{file("opt/.wh.app", "")}},
		{name: "opaque in its own layer", entries: []entry{file("opt/.wh..wh..opq", "")}},
		{name: "opaque root", entries: []entry{file(".wh..wh..opq", "")}},
		{name: "whiteout of nothing", entries: []entry{file(".wh.", "")}, refused: true},
		{name: "whiteout of two dots", entries: []entry{file("opt/.wh...", "")}, refused: true},
		{name: "aufs", entries: []entry{dir(".wh..wh.plnk"), file(".wh..wh.aufs", "")}},
		{name: "names that aren't UTF-8", entries: []entry{file("\xff\xfe", ""), link("l", "\xff")}},
		{name: "names that are case twins", entries: []entry{exe("OPT/APP", amd64), file("Etc/x", ""), file("etc/X", "")}},
		{name: "an archive in an archive", entries: []entry{file("inner.tar", string(tarOf(t, exe("opt/app", amd64))))}},
		{name: "programs without bytes", entries: []entry{exe("a", []byte("\x7fELF")), exe("b", []byte("MZ")), exe("c", []byte("\x7fELF\x02\x01\x01\x00\x00"))}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			// Headers that the writer of archive/tar declines are written with
			// another name and then changed.
			archive := tarOf(t, append(append([]entry{exe("opt/app", arm64)}, test.entries...), exe("app", amd64))...)
			r := f.verify(f.index(f.manifest(shape{platform: "linux/amd64", entrypoint: []string{"/app"}, layers: []layer{f.raw(archive)}})), prove.Options{})
			var want []string
			if !test.right {
				want = append(want, "PA202 error linux/amd64")
			}
			if test.refused {
				want = append(want, "PA219 error linux/amd64")
			}
			expect(t, r, want...)
			if b := r.Platforms[0].EntrypointBinary; b == nil || b.Architecture != "amd64" {
				t.Errorf("entrypoint: %+v", b)
			}
		})
	}
}

func TestUnreadableArchives(t *testing.T) {
	t.Parallel()
	zeros := make([]byte, 80<<20)
	archive := tarOf(t, file("zeros", string(zeros)))
	sparse := pax(t, map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9223372036854775807"}, "1\n0\n0\n"+strings.Repeat("\x00", 506))
	tests := []struct {
		name   string
		blob   []byte
		limits prove.Limits
		sound  bool
	}{
		{name: "gzip bomb", blob: gzipped(t, archive)},
		{name: "gzip bomb that is allowed", blob: gzipped(t, archive), limits: prove.Limits{Ratio: 10_000}, sound: true},
		{name: "zstd bomb", blob: zstded(t, archive)},
		{name: "too large", blob: gzipped(t, tarOf(t, file("r", random(1<<20)))), limits: prove.Limits{Uncompressed: 1 << 19}},
		{name: "zstd window", blob: window(t, 1<<29)},
		{name: "not gzip", blob: []byte("\x1f\x8bnot gzip at all")},
		{name: "not zstd", blob: []byte("\x28\xb5\x2f\xfdnot zstd at all")},
		{name: "not tar", blob: gzipped(t, []byte(strings.Repeat("hello ", 1000)))},
		{name: "cut archive", blob: gzipped(t, tarOf(t, file("r", random(1<<16)))[:40_000])},
		{name: "no end of archive", blob: gzipped(t, bytes.TrimRight(tarOf(t, file("r", strings.Repeat("x", 512))), "\x00")), sound: true},
		{name: "empty", blob: gzipped(t, nil), sound: true},
		{name: "nothing at all", blob: nil, sound: true},
		{name: "damaged checksum", blob: gzipped(t, bytes.Replace(tarOf(t, file("r", "x")), []byte("ustar"), []byte("usta!"), 1))},
		{name: "negative size", blob: gzipped(t, pax(t, map[string]string{"size": "-5"}, "x"))},
		{name: "size that lies", blob: gzipped(t, pax(t, map[string]string{"size": "9223372036854775807"}, "x"))},
		{name: "NUL in a name", blob: gzipped(t, pax(t, map[string]string{"path": "a\x00b"}, "x"))},
		{name: "sparse file of 8 EiB", blob: gzipped(t, sparse), sound: true},
		{name: "sparse program of 8 EiB", blob: gzipped(t, pax(t, map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9223372036854775807"},
			"1\n0\n16\n"+strings.Repeat("\x00", 505)+"\x7fELF\x02\x01\x01\x00AAAAAAAA")), limits: prove.Limits{Uncompressed: 1 << 20}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			l := layer{f.blob(ocispec.MediaTypeImageLayerGzip, test.blob), digest.FromString("x")}
			r := f.verify(f.index(f.manifest(shape{platform: "linux/amd64", layers: []layer{l}})), prove.Options{Limits: test.limits})
			want := "PA219 error linux/amd64"
			if test.sound {
				want = "PA216 error linux/amd64" // the diff ID isn't theirs
			}
			expect(t, r, want)
		})
	}
}

func random(n int) string {
	source := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	return string(b)
}

// pax writes an archive of one file with extended headers as they are.
func pax(t testing.TB, records map[string]string, content string) []byte {
	t.Helper()
	var body strings.Builder
	for k, v := range records {
		line := fmt.Sprintf(" %s=%s\n", k, v)
		n := len(line) + 1
		for len(fmt.Sprint(n))+len(line) != n {
			n++
		}
		fmt.Fprintf(&body, "%d%s", n, line)
	}
	var b bytes.Buffer
	part := func(name string, kind byte, content string) {
		one := tarOf(t, entry{name: name, data: []byte(content), mode: 0o755})
		one = one[:512+(len(content)+511)/512*512]
		one[156] = kind
		sum := 0
		copy(one[148:156], "        ")
		for _, c := range one[:512] {
			sum += int(c)
		}
		copy(one[148:156], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(one)
	}
	part("pax", tar.TypeXHeader, body.String())
	part("file", tar.TypeReg, content)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// window is a zstd frame that asks for a large window.
func window(t testing.TB, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(size))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil { // else the frame is known to be small
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, dir("usr/bin"), link("bin", "usr/bin"), file("bin/.wh.x", ""), hard("h", "usr/bin/a"), exe("usr/bin/a", []byte("#!/bin/sh\n"))))
	f.Add(tarOf(f, exe("app", makeELF(2, 62, "/lib/ld.so", nil))))
	f.Add(pax(f, map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}, "1\n0\n5\n"))
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, 1)
	_, _ = w.Write(tarOf(f, file("a", "b")))
	_ = w.Close()
	f.Add(z.Bytes())
	f.Add(zstded(f, tarOf(f, file("a", "b"))))
	f.Fuzz(func(t *testing.T, blob []byte) {
		src := inMemory{}
		l := src.add(ocispec.MediaTypeImageLayer, blob)
		config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","config":{"Entrypoint":["app"]},"rootfs":{"diff_ids":[%q]}}`, l.Digest)
		manifest, err := json.Marshal(ocispec.Manifest{Config: src.add(ocispec.MediaTypeImageConfig, []byte(config)), Layers: []descriptor{l}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := prove.Verify(context.Background(), src, src.add(ocispec.MediaTypeImageManifest, manifest), prove.Options{Limits: prove.Limits{Uncompressed: 4 << 20}, TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Findings) == 0 && r.Platforms[0].EntrypointBinary == nil {
			t.Error("nothing was proved, and nothing is said about it")
		}
	})
}

// inMemory is a source without a disk behind it.
type inMemory map[digest.Digest][]byte

func (m inMemory) add(mediaType string, data []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	m[d.Digest] = data
	return d
}

func (m inMemory) Fetch(_ context.Context, d descriptor) (io.ReadCloser, error) {
	data, ok := m[d.Digest]
	if !ok {
		return nil, store.ErrNotFound
	}
	return image.Verified(io.NopCloser(bytes.NewReader(data)), d), nil
}

func (m inMemory) Resolve(context.Context, string) (descriptor, error) {
	return descriptor{}, store.ErrNotFound
}
func (m inMemory) Tags(context.Context) ([]string, error)                         { return nil, nil }
func (m inMemory) Referrers(context.Context, digest.Digest) ([]descriptor, error) { return nil, nil }
