package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// file is an entry with content.
func file(name, content string) Entry {
	return bytesEntry(name, []byte(content))
}

func bytesEntry(name string, content []byte) Entry {
	return Entry{
		Name: name, Mode: 0o644, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// member is one file as it is read back.
type member struct {
	tar.Header
	content string
}

// readBack decompresses a layer, checks its descriptor and reads its tar.
func readBack(t *testing.T, st *store.Store, l image.Layer) []member {
	t.Helper()
	f, err := st.Blob(l.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, err := st.Size(l.Descriptor.Digest); err != nil || size != l.Descriptor.Size {
		t.Fatalf("size %d, %v; descriptor says %d", size, err, l.Descriptor.Size)
	}
	var r io.Reader
	switch l.Descriptor.MediaType {
	case Gzip.MediaType():
		r, err = gzip.NewReader(f)
	case Zstd.MediaType():
		r, err = zstd.NewReader(f)
	default:
		t.Fatalf("media type %s", l.Descriptor.MediaType)
	}
	if err != nil {
		t.Fatal(err)
	}
	digester := digest.Canonical.Digester()
	r = io.TeeReader(r, digester.Hash())
	var members []member
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, member{*h, string(content)})
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if digester.Digest() != l.DiffID {
		t.Errorf("diff ID is %s, uncompressed bytes are %s", l.DiffID, digester.Digest())
	}
	return members
}

func names(members []member) []string {
	var list []string
	for _, m := range members {
		list = append(list, m.Name)
	}
	return list
}

func TestParseCompression(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Compression{"": Gzip, "gzip": Gzip, "zstd": Zstd} {
		if got, err := ParseCompression(name); err != nil || got != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"GZIP", "xz", "estargz", " gzip"} {
		_, err := ParseCompression(name)
		e, ok := errors.AsType[*refusal.Error](err)
		if !ok || e.Code != "PA502" || e.Kind != refusal.Usage {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := Write(t.Context(), newStore(t), nil, Options{Compression: "xz"}); err == nil {
		t.Error("written with xz")
	}
}

func TestReadingBack(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("d/", n/2-2) + "file" }
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	element := strings.Repeat("e", 255)
	tests := map[string]struct {
		entry  Entry
		want   tar.Header // of the last member; Size and Format are compared too
		format tar.Format
	}{
		"plain":             {file("app", "x"), tar.Header{Typeflag: tar.TypeReg, Name: "app", Mode: 0o644, Size: 1}, tar.FormatUSTAR},
		"setuid and sticky": {Entry{Name: "su", Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky}, tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o7755}, tar.FormatUSTAR},
		"owner":             {Entry{Name: "a", UID: 65532, GID: 65533}, tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 65532, Gid: 65533}, tar.FormatUSTAR},
		"huge owner":        {Entry{Name: "a", UID: 1<<31 - 1}, tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 1<<31 - 1}, tar.FormatPAX},
		"time":              {Entry{Name: "a", ModTime: noon.Add(time.Millisecond)}, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: noon}, tar.FormatUSTAR},
		"directory":         {Entry{Name: "tmp", Type: Dir, Mode: 0o777 | fs.ModeSticky}, tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, tar.FormatUSTAR},
		"symbolic link":     {Entry{Name: "l", Type: Symlink, Link: "../out/there"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../out/there", Mode: 0o777}, tar.FormatUSTAR},
		"long link":         {Entry{Name: "l", Type: Symlink, Link: long(300)}, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: long(300), Mode: 0o777}, tar.FormatPAX},
		"name over 100":     {Entry{Name: long(150)}, tar.Header{Typeflag: tar.TypeReg, Name: long(150)}, tar.FormatUSTAR},
		"name over 256":     {Entry{Name: long(400)}, tar.Header{Typeflag: tar.TypeReg, Name: long(400)}, tar.FormatPAX},
		"longest element":   {Entry{Name: element}, tar.Header{Typeflag: tar.TypeReg, Name: element}, tar.FormatPAX},
		"not ASCII":         {Entry{Name: "日本/größe"}, tar.Header{Typeflag: tar.TypeReg, Name: "日本/größe"}, tar.FormatPAX},
		"not UTF-8":         {Entry{Name: "gr\xf6\xdfe"}, tar.Header{Typeflag: tar.TypeReg, Name: "gr\xf6\xdfe"}, tar.FormatPAX},
		"backslash":         {Entry{Name: `a\b`}, tar.Header{Typeflag: tar.TypeReg, Name: `a\b`}, tar.FormatUSTAR},
		"cleaned":           {Entry{Name: "./a//b/./c/"}, tar.Header{Typeflag: tar.TypeReg, Name: "a/b/c"}, tar.FormatUSTAR},
		"capability": {Entry{Name: "ping", Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00", "user.a": "b"}},
			tar.Header{Typeflag: tar.TypeReg, Name: "ping", PAXRecords: map[string]string{
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00", "SCHILY.xattr.user.a": "b",
			}}, tar.FormatPAX},
		"whiteout": {Entry{Name: "etc/old", Type: Whiteout}, tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.old"}, tar.FormatUSTAR},
		"opaque":   {Entry{Name: "etc", Type: Opaque}, tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh..wh..opq"}, tar.FormatUSTAR},
	}
	for name, test := range tests {
		for _, compression := range []Compression{Gzip, Zstd} {
			t.Run(name+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				st := newStore(t)
				l, err := Write(t.Context(), st, []Entry{test.entry}, Options{Compression: compression})
				if err != nil {
					t.Fatal(err)
				}
				members := readBack(t, st, l)
				got := members[len(members)-1].Header
				wantTime := test.want.ModTime
				if wantTime.IsZero() {
					wantTime = time.Unix(0, 0)
				}
				if !got.ModTime.Equal(wantTime) {
					t.Errorf("time %v, want %v", got.ModTime, wantTime)
				}
				if got.Format != test.format {
					t.Errorf("format %v, want %v", got.Format, test.format)
				}
				if want := test.want.PAXRecords; want != nil && !reflect.DeepEqual(got.PAXRecords, want) {
					t.Errorf("records %q, want %q", got.PAXRecords, want)
				}
				if got.Uname+got.Gname != "" || !got.AccessTime.IsZero() || !got.ChangeTime.IsZero() || got.Devmajor != 0 {
					t.Errorf("header says too much: %+v", got)
				}
				short := func(h tar.Header) string {
					return fmt.Sprintf("%c %q -> %q %o %d:%d %d", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size)
				}
				if short(got) != short(test.want) {
					t.Errorf("got  %s\nwant %s", short(got), short(test.want))
				}
			})
		}
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	entries := []Entry{
		file("b/x", "1"), file("a/b/c", "2"), {Name: "a.b", Type: Dir, Mode: 0o700},
		{Name: "a/b/-", Type: Regular}, {Name: "a/b/gone", Type: Whiteout}, {Name: "a/b", Type: Opaque},
		{Name: "top", Type: Whiteout}, {Name: "0link", Type: Hardlink, Link: "./b/x"}, {Name: "b", Type: Dir, Mode: 0o711},
	}
	want := []string{
		".wh.top", "a/", "a.b/", "a/b/", "a/b/.wh..wh..opq", "a/b/.wh.gone", "a/b/-", "a/b/c", "b/", "b/x", "0link",
	}
	st := newStore(t)
	first, err := Write(t.Context(), st, entries, Options{})
	if err != nil {
		t.Fatal(err)
	}
	members := readBack(t, st, first)
	if got := names(members); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for range 5 {
		rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		again, err := Write(t.Context(), st, entries, Options{})
		if err != nil || !reflect.DeepEqual(again, first) {
			t.Fatalf("another order of entries gave %+v, %v; want %+v", again, err, first)
		}
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	at := time.Unix(1_700_000_000, 0)
	l, err := Write(t.Context(), st, []Entry{file("tmp/deep/file", "x")}, Options{
		ModTime: at,
		Parent: func(name string) (Entry, bool) {
			return Entry{Type: Dir, Mode: 0o777 | fs.ModeSticky, UID: 7}, name == "tmp"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	members := readBack(t, st, l)
	if got := names(members); !reflect.DeepEqual(got, []string{"tmp/", "tmp/deep/", "tmp/deep/file"}) {
		t.Fatal(got)
	}
	for i, want := range []int64{0o1777, 0o755, 0o644} {
		if members[i].Mode != want || !members[i].ModTime.Equal(at) {
			t.Errorf("%s: mode %o at %v", members[i].Name, members[i].Mode, members[i].ModTime)
		}
	}
	if members[0].Uid != 7 {
		t.Errorf("owner %d", members[0].Uid)
	}
}

// A hard link whose header has other attributes than its file changes the file
// when it is extracted, and one that comes first can't be extracted at all.
func TestHardLinks(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	target := file("z/busybox", "program")
	target.Mode, target.UID = 0o755|fs.ModeSetuid, 5
	l, err := Write(t.Context(), st, []Entry{
		{Name: "bin/ls", Type: Hardlink, Link: "z/busybox", Mode: 0o1, UID: 99}, target,
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	members := readBack(t, st, l)
	last := members[len(members)-1]
	if last.Name != "bin/ls" || last.Typeflag != tar.TypeLink || last.Linkname != "z/busybox" || last.Mode != 0o4755 || last.Uid != 5 || last.Size != 0 {
		t.Errorf("%+v", last)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		entries []Entry
		windows bool
		want    []string // a part of each refusal
	}{
		"up":                   {[]Entry{file("a/../b", "")}, false, []string{"element .."}},
		"absolute":             {[]Entry{file("/etc/passwd", "")}, false, []string{"begins with a slash"}},
		"NUL":                  {[]Entry{file("a\x00b", "")}, false, []string{"NUL"}},
		"empty":                {[]Entry{file("", "")}, false, []string{"root"}},
		"root":                 {[]Entry{{Name: "./", Type: Dir}}, false, []string{"root"}},
		"whiteout by name":     {[]Entry{file("etc/.wh.passwd", "")}, false, []string{".wh."}},
		"whiteout of parent":   {[]Entry{file(".wh.etc/passwd", "")}, false, []string{".wh."}},
		"element too long":     {[]Entry{file("a/"+strings.Repeat("x", 256), "")}, false, []string{"255"}},
		"duplicate":            {[]Entry{file("a/b", ""), file("a//b", "")}, false, []string{"same name"}},
		"duplicate directory":  {[]Entry{{Name: "a", Type: Dir}, {Name: "a", Type: Dir}}, false, []string{"same name"}},
		"removed twice":        {[]Entry{{Name: "a", Type: Whiteout}, {Name: "a", Type: Whiteout}}, false, []string{"twice"}},
		"below a file":         {[]Entry{file("a", ""), file("a/b", "")}, false, []string{"isn't a directory"}},
		"below a link":         {[]Entry{{Name: "a", Type: Symlink, Link: "/etc"}, file("a/b/c", "")}, false, []string{"isn't a directory"}},
		"symlink to nothing":   {[]Entry{{Name: "a", Type: Symlink}}, false, []string{"can't lead"}},
		"hard link to nothing": {[]Entry{{Name: "a", Type: Hardlink, Link: "b"}}, false, []string{"hard link"}},
		"hard link to a dir":   {[]Entry{{Name: "a", Type: Hardlink, Link: "b"}, {Name: "b", Type: Dir}}, false, []string{"hard link"}},
		"hard link to itself":  {[]Entry{{Name: "a", Type: Hardlink, Link: "a"}}, false, []string{"hard link"}},
		"xattr":                {[]Entry{{Name: "a", Xattrs: map[string]string{"user.a=b": ""}}}, false, []string{"extended attribute"}},
		"all at once":          {[]Entry{file("..", ""), file("ok", ""), file("/x", "")}, false, []string{"element ..", "slash"}},
		"backslash":            {[]Entry{file(`..\..\x`, "")}, true, []string{"Windows"}},
		"drive":                {[]Entry{file("C:/x", "")}, true, []string{"Windows"}},
		"trailing dot":         {[]Entry{file("x./y", "")}, true, []string{"Windows"}},
		"case":                 {[]Entry{file("App.exe", ""), file("app.EXE", "")}, true, []string{"same name"}},
		"opaque":               {[]Entry{{Name: "a", Type: Opaque}}, true, []string{"Windows"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Write(t.Context(), newStore(t), test.entries, Options{Windows: test.windows})
			list := refusal.All(err)
			if len(list) != len(test.want) {
				t.Fatalf("%d refusals: %v", len(list), err)
			}
			for i, want := range test.want {
				if list[i].Code != "PA505" || list[i].Kind != refusal.Usage || !strings.Contains(list[i].Summary, want) {
					t.Errorf("%s %v: %v, want %q", list[i].Code, list[i].Kind, list[i], want)
				}
			}
		})
	}
}

// ingested counts what an unfinished layer left behind.
func ingested(t *testing.T, st *store.Store) int {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(st.Dir(), "*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	temporary, err := os.ReadDir(filepath.Join(st.Dir(), "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	return len(blobs) + len(temporary)
}

func TestFilesThatFail(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk fell out")
	open := func(reader func() io.Reader) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(reader()), nil }
	}
	text := func(s string) func() (io.ReadCloser, error) {
		return open(func() io.Reader { return strings.NewReader(s) })
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	tests := map[string]struct {
		ctx   context.Context
		entry Entry
		want  func(error) bool
	}{
		"shrank": {t.Context(), Entry{Name: "log", Size: 9, Open: text("short")}, isChanged},
		"grew":   {t.Context(), Entry{Name: "log", Size: 3, Open: text("longer")}, isChanged},
		"grows":  {t.Context(), Entry{Name: "log", Size: 3, Open: open(func() io.Reader { return iotest.OneByteReader(rand.NewChaCha8([32]byte{})) })}, isChanged},
		"empty":  {t.Context(), Entry{Name: "log", Size: 0, Open: text("x")}, isChanged},
		"fails":  {t.Context(), Entry{Name: "log", Size: 3, Open: open(func() io.Reader { return iotest.ErrReader(broken) })}, func(err error) bool { return errors.Is(err, broken) }},
		"absent": {t.Context(), Entry{Name: "log", Size: 3, Open: func() (io.ReadCloser, error) { return nil, fs.ErrNotExist }},
			func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"without content": {t.Context(), Entry{Name: "log", Size: 3}, func(err error) bool { return err != nil }},
		"cancelled":       {cancelled, file("log", "x"), func(err error) bool { return errors.Is(err, broken) }},
	}
	for name, test := range tests {
		for _, compression := range []Compression{Gzip, Zstd} {
			t.Run(name+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				st := newStore(t)
				_, err := Write(test.ctx, st, []Entry{test.entry}, Options{Compression: compression})
				if !test.want(err) {
					t.Errorf("error is %v", err)
				}
				if n := ingested(t, st); n != 0 {
					t.Errorf("%d files were left behind", n)
				}
			})
		}
	}
}

func isChanged(err error) bool {
	e, ok := errors.AsType[*refusal.Error](err)
	return ok && e.Code == "PA124" && e.Place == "/log"
}

// The header of a file over 8 GiB, the most that ustar can say, without
// writing the file.
func TestSizeOver8GiB(t *testing.T) {
	t.Parallel()
	open := func() (io.ReadCloser, error) { return nil, errors.New("not read") }
	for size, format := range map[int64]tar.Format{8<<30 - 1: tar.FormatUSTAR, 8 << 30: tar.FormatPAX, 1 << 42: tar.FormatPAX} {
		records, err := plan([]Entry{{Name: "big", Size: size, Open: open}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&records[0].header); err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(&b).Next()
		if err != nil || h.Size != size || h.Format != format {
			t.Errorf("%d: read back %d, %v, %v", size, h.Size, h.Format, err)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"a/b", "./a//b/", "../a", "a/..", "/", "", "a\x00", `C:\x`, "a/.wh.b", strings.Repeat("x/", 200), "x.", "größe"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, windows := range []bool{false, true} {
			records, err := plan([]Entry{{Name: name}}, Options{Windows: windows})
			if err != nil {
				if len(refusal.All(err)) == 0 {
					t.Fatalf("%q: %v isn't a refusal", name, err)
				}
				continue
			}
			last := records[len(records)-1].header
			written := last.Name
			if windows {
				written = strings.TrimPrefix(written, "Files/")
			}
			if again, err := Clean(written); err != nil || again != written {
				t.Fatalf("%q is written as %q, which cleans to %q, %v", name, written, again, err)
			}
			if !fs.ValidPath(written) && !strings.ContainsFunc(written, func(r rune) bool { return r == '\uFFFD' }) {
				t.Fatalf("%q is written as %q", name, written)
			}
			var b bytes.Buffer
			tw := tar.NewWriter(&b)
			if err := tw.WriteHeader(&last); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if err := tw.Close(); err != nil {
				t.Fatal(err)
			}
			if h, err := tar.NewReader(&b).Next(); err != nil || h.Name != last.Name {
				t.Fatalf("%q: written as %q, read as %+v, %v", name, last.Name, h, err)
			}
		}
	})
}

// zeros is a file of n zeros that lies nowhere.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.n))
	clear(p[:n])
	z.n -= int64(n)
	return n, nil
}

// Not parallel, so that it counts only its own memory.
func TestMemoryDoesNotGrowWithFiles(t *testing.T) {
	allocated := func(size int64, compression Compression) uint64 {
		st := newStore(t)
		entry := Entry{Name: "big", Size: size, Open: func() (io.ReadCloser, error) { return io.NopCloser(&zeros{size}), nil }}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Write(t.Context(), st, []Entry{entry}, Options{Compression: compression}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for _, compression := range []Compression{Gzip, Zstd} {
		small, large := allocated(4<<20, compression), allocated(48<<20, compression)
		if large > small+4<<20 {
			t.Errorf("%s: %d bytes for a file of 4 MiB, %d for one of 48 MiB", compression, small, large)
		}
	}
}
