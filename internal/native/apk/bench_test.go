package apk_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk/apktest"
)

// BenchmarkAddCurl installs curl and eleven packages that it needs, of the sizes that
// they have in Alpine 3.22 (8 MB), from an index of 25,000 packages, everything being
// downloaded.
func BenchmarkAddCurl(b *testing.B) {
	s := newSystem(b)
	random := rand.NewChaCha8([32]byte{1})
	sizes := []struct {
		name string
		kB   int
	}{{"c-ares", 140}, {"libunistring", 1700}, {"libidn2", 200}, {"nghttp2-libs", 180}, {"libpsl", 90}, {"brotli-libs", 950}, {"zstd-libs", 720}, {"zlib", 110}, {"nghttp3", 150}, {"ngtcp2", 260}, {"libcurl", 750}, {"curl", 260}}
	var list []apktest.Package
	for i, p := range sizes {
		// Half of a library is code that doesn't compress, half does.
		data := make([]byte, p.kB*1000)
		_, _ = random.Read(data[:len(data)/2])
		q := apktest.Package{Name: p.name, Version: "2.0-r0", Arch: "aarch64", Provides: []string{"so:lib" + p.name + ".so.1=1"},
			Files: append(apktest.Dirs("usr/lib"), apktest.File{Name: "usr/lib/lib" + p.name + ".so.1", Mode: 0o755, Data: "\x7fELF" + string(data)})}
		if i > 0 {
			q.Depends = []string{"so:lib" + sizes[i-1].name + ".so.1"}
		}
		list = append(list, q)
	}
	dir := filepath.Join(s.mirror, "large")
	if err := apktest.WriteRepository(dir, s.key, list...); err != nil {
		b.Fatal(err)
	}
	var stanzas strings.Builder
	for _, p := range list {
		built, err := p.Build(s.key)
		if err != nil {
			b.Fatal(err)
		}
		stanzas.WriteString(built.Index + "\n")
	}
	for i := range 25_000 {
		fmt.Fprintf(&stanzas, "C:Q1%027d=\nP:package%d\nV:1.%d-r0\nA:aarch64\nS:1000\nI:4000\nT:a package\nU:https://example.com/\nL:MIT\no:package\nm:nobody <nobody@example.com>\nt:1750000000\nc:%040x\nD:so:libc.musl-aarch64.so.1 so:libz.so.1\np:so:libpackage%d.so.1=1.0 cmd:package%d=1.0-r0\n\n", i, i, i%7, i, i, i)
	}
	index, err := apktest.Index(s.key, stanzas.String())
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "aarch64", "APKINDEX.tar.gz"), index, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := s.tree.Put("/etc/apk/repositories", filetree.Attr{Mode: 0o644, Content: filetree.Bytes(s.server.URL + "/large\n").Content()}); err != nil {
		b.Fatal(err)
	}
	begin := s.tree
	s.tree = begin.Fork()
	s.must("apk add --no-cache curl")
	for b.Loop() {
		s.tree = begin.Fork()
		s.must("apk add --no-cache curl")
	}
}
