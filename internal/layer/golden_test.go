package layer

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// goldenEntries is content of several kinds, the same on every machine: noise,
// text, zeros and something between, over several blocks of both encoders.
func goldenEntries() []Entry {
	noise := make([]byte, 1<<20+12345)
	random := rand.NewChaCha8([32]byte([]byte("anyarch layer golden bytes, v1!!")))
	if _, err := random.Read(noise); err != nil {
		panic(err)
	}
	var text, table bytes.Buffer
	for i := 0; text.Len() < 3<<20; i++ {
		fmt.Fprintf(&text, "%d: func (p *planner) step%d(name string) error { return nil } // %x\n", i, i%97, uint32(i)*2654435761)
	}
	for i := range 1 << 17 { // like the tables of a program: offsets that grow slowly
		_ = binary.Write(&table, binary.LittleEndian, uint64(0x400000+i*24+int(noise[i]%8)))
	}
	entries := []Entry{
		bytesEntry("usr/lib/noise", noise),
		bytesEntry("usr/lib/text", text.Bytes()),
		bytesEntry("usr/lib/table", table.Bytes()),
		bytesEntry("usr/lib/zeros", make([]byte, 5<<20)),
		bytesEntry("empty", nil),
		{Name: "lib", Type: Symlink, Link: "usr/lib"},
		{Name: "usr/lib/same", Type: Hardlink, Link: "usr/lib/text"},
		{Name: "größe/" + strings.Repeat("long", 60), Xattrs: map[string]string{"user.b": "2", "user.a": "1"}},
	}
	return entries
}

// These digests are what users have pinned: a change of klauspost/compress, of
// archive/tar or of this package that changes one of them changes every image
// that is rebuilt. If that is wanted, raise Compat with them.
//
// One run shows one architecture. That the encoders agree between them is seen
// by running elsewhere: `go test -tags noasm` uses their Go code in place of
// assembly, and GOARCH=386 runs on an amd64 machine.
func TestGoldenDigests(t *testing.T) {
	t.Parallel()
	const diffID = "sha256:7c5b0ea8b906d7c005e125be6ffd67c4a45554b757429492d5a5fc64f150b5a4"
	tests := map[Compression]string{
		Gzip: "sha256:0fe2b2928c58334aef0b8aa7c2723b58df9d449f983731bf2e4ec83c76d49fe0",
		Zstd: "sha256:3095ab421ed061a3a6cbd4e27d02f135cd75bfccdcfa1a17c1ae95e5fc276ee6",
	}
	for compression, want := range tests {
		t.Run(string(compression), func(t *testing.T) {
			t.Parallel()
			st := newStore(t)
			l, err := Write(t.Context(), st, goldenEntries(), Options{Compression: compression})
			if err != nil {
				t.Fatal(err)
			}
			if l.DiffID != diffID {
				t.Errorf("diff ID %s, want %s", l.DiffID, diffID)
			}
			if l.Descriptor.Digest.String() != want {
				t.Errorf("digest %s (%d bytes), want %s", l.Descriptor.Digest, l.Descriptor.Size, want)
			}
			readBack(t, st, l)
		})
	}
	if Compat != 1 {
		t.Error("Compat has changed: so must the digests above")
	}
}

// The bytes may not depend on how a file is handed over in pieces.
func TestPiecesDontMatter(t *testing.T) {
	t.Parallel()
	for _, compression := range []Compression{Gzip, Zstd} {
		t.Run(string(compression), func(t *testing.T) {
			t.Parallel()
			st := newStore(t)
			whole, err := Write(t.Context(), st, goldenEntries(), Options{Compression: compression})
			if err != nil {
				t.Fatal(err)
			}
			entries := goldenEntries()
			for i, e := range entries {
				if e.Open == nil {
					continue
				}
				entries[i].Open = func() (io.ReadCloser, error) {
					r, err := e.Open()
					return io.NopCloser(&ragged{r: iotest.DataErrReader(r)}), err
				}
			}
			pieces, err := Write(t.Context(), st, entries, Options{Compression: compression})
			if err != nil || !reflect.DeepEqual(pieces, whole) {
				t.Errorf("in pieces %+v, %v; whole %+v", pieces, err, whole)
			}
		})
	}
}

// ragged reads in pieces of changing size.
type ragged struct {
	r io.Reader
	n int
}

func (r *ragged) Read(p []byte) (int, error) {
	r.n = (r.n*31 + 7) % 70001
	return r.r.Read(p[:min(len(p), 1+r.n)])
}

func TestGzipHeader(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	l, err := Write(t.Context(), st, []Entry{file("a", "b")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := st.Blob(l.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 10)
	if _, err := io.ReadFull(f, got); err != nil {
		t.Fatal(err)
	}
	// RFC 1952: magic, deflate, no flags, no time, no extra flags, OS unknown.
	if want := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}; !bytes.Equal(got, want) {
		t.Errorf("header % x, want % x", got, want)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	l, err := Write(t.Context(), st, []Entry{
		file("app/app.exe", "MZ"), {Name: "same.exe", Type: Hardlink, Link: "app/app.exe"},
		{Name: "link", Type: Symlink, Link: "app"}, {Name: "old", Type: Whiteout},
	}, Options{Windows: true})
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		name, link, attributes string
		secured                bool
	}
	var got []seen
	for _, m := range readBack(t, st, l) {
		sd := m.PAXRecords["MSWINDOWS.rawsd"]
		got = append(got, seen{m.Name, m.Linkname, m.PAXRecords["MSWINDOWS.fileattr"], sd != ""})
		if sd != "" {
			checkDescriptor(t, m.Header, sd)
		}
	}
	want := []seen{
		{"Hives/", "", "16", false},
		{"Files/", "", "16", false},
		{"Files/.wh.old", "", "32", true},
		{"Files/app/", "", "16", true},
		{"Files/app/app.exe", "", "32", true},
		{"Files/link", "app", "", false},
		{"Files/same.exe", "Files/app/app.exe", "", false},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// checkDescriptor reads a security descriptor by MS-DTYP 2.4.6: it must be well
// formed, and let users read and run but not write a file.
func checkDescriptor(t *testing.T, h tar.Header, text string) {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) < 20 || b[0] != 1 {
		t.Fatalf("%s: %x, %v", h.Name, b, err)
	}
	le := binary.LittleEndian
	if control := le.Uint16(b[2:]); control != 0x8004 {
		t.Errorf("%s: control %#x", h.Name, control)
	}
	acl := b[le.Uint32(b[16:]):]
	if int(le.Uint16(acl[2:])) != len(acl) {
		t.Fatalf("%s: list of %d bytes says %d", h.Name, len(acl), le.Uint16(acl[2:]))
	}
	n := int(le.Uint16(acl[4:]))
	acl = acl[8:]
	for range n {
		size, mask := le.Uint16(acl[2:]), le.Uint32(acl[4:])
		who := acl[8:size]
		isUsers := bytes.Equal(who, newSID(5, 32, 545))
		if h.Typeflag == tar.TypeReg && isUsers && mask != 0x1200a9 {
			t.Errorf("%s: users have %#x", h.Name, mask)
		}
		acl = acl[size:]
	}
	if len(acl) != 0 {
		t.Errorf("%s: %d bytes after the list", h.Name, len(acl))
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, compression := range []Compression{Gzip, Zstd} {
		b.Run(string(compression), func(b *testing.B) {
			entries := goldenEntries()
			var size int64
			for _, e := range entries {
				size += e.Size
			}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				headers, err := plan(entries, Options{})
				if err != nil {
					b.Fatal(err)
				}
				w, err := Options{Compression: compression}.encoder(io.Discard, nil)
				if err != nil {
					b.Fatal(err)
				}
				if err := writeTar(b.Context(), w, headers); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
