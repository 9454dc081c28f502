// Package buildid reads and writes the build IDs that the go command stamps programs
// with: the hashes of the link's inputs, of the main package's inputs and content, and
// of the program's content (cmd/go/internal/work/buildid.go).
package buildid

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
)

var pattern = regexp.MustCompile(`^[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}$`)

// Read gives the build ID of a program, "" if it has none or one that somebody
// else has chosen.
func Read(f io.ReaderAt) string {
	if id := stamped(f); pattern.MatchString(id) {
		return id
	}
	return ""
}

func stamped(f io.ReaderAt) string {
	if e, err := elf.NewFile(f); err == nil {
		if note := e.Section(".note.go.buildid"); note != nil && note.Size < 4096 {
			if data, err := note.Data(); err == nil && len(data) > 16 && bytes.HasPrefix(data[12:], []byte("Go\x00\x00")) {
				size := int(e.ByteOrder.Uint32(data[4:]))
				if size <= len(data)-16 {
					return string(data[16 : 16+size])
				}
			}
		}
		return ""
	}
	// PE and Mach-O have it at the beginning of their text.
	head := make([]byte, 32<<10)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	const mark = "\xff Go build ID: \""
	i := bytes.Index(head, []byte(mark))
	if i < 0 {
		return ""
	}
	rest := head[i+len(mark):]
	if end := bytes.IndexByte(rest, '"'); end > 0 {
		return string(rest[:end])
	}
	return ""
}

// machO begins a program of Apple's systems (mach-o/loader.h, MH_MAGIC_64).
var machO = []byte("\xcf\xfa\xed\xfe")

// Intact reports whether a program is what the hash in its build ID says. known is
// false, and intact true, for what can't be told: a file without such an ID, and
// programs of Apple's systems, whose signature isn't part of the hash.
func Intact(path string) (intact, known bool) {
	f, err := os.Open(path)
	if err != nil {
		return true, false
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil || bytes.Equal(head, machO) {
		return true, false
	}
	id := Read(f)
	if id == "" {
		return true, false
	}
	want := id[strings.LastIndex(id, "/")+1:]
	for _, r := range []io.Reader{withoutHostID(f), f} { // as Go 1.24 and later, and earlier ones, hash it
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return false, true
		}
		sum, _, err := hash(r, []byte(id))
		if err != nil {
			return false, true
		}
		if want == Text(sum) {
			return true, true
		}
	}
	return false, true
}

// Text is a hash as it stands in build IDs: 120 bits of it (cmd/internal/buildid,
// HashToString).
func Text(sum [sha256.Size]byte) string { return base64.RawURLEncoding.EncodeToString(sum[:15]) }

// Stamp puts the hash of its content into a file that the compiler or the linker has
// just written with the ID id, whose last part stands in for that hash, as the go
// command does after each of them (cmd/go/internal/work, updateBuildID). It gives the
// ID that the file has from now on. Archives and ELF programs can be stamped; a file
// without the ID is an error.
func Stamp(path, id string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, places, err := hash(withoutHostID(f), []byte(id))
	if err != nil {
		return "", err
	}
	if len(places) == 0 {
		return "", errors.New(path + " doesn't have the build ID " + id)
	}
	stamped := id[:strings.LastIndex(id, "/")+1] + Text(sum)
	if len(stamped) != len(id) {
		return "", errors.New(id + " isn't a build ID")
	}
	for _, at := range places {
		if _, err := f.WriteAt([]byte(stamped), at); err != nil {
			return "", err
		}
	}
	return stamped, f.Close()
}

// Has reports whether an archive is what the hash in its build ID says, and has that ID.
func Has(path, id string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	sum, places, err := hash(f, []byte(id))
	return err == nil && len(places) > 0 && strings.HasSuffix(id, "/"+Text(sum))
}

// blank reads as zeros between two offsets.
type blank struct {
	r              io.Reader
	at, start, end int64
}

func (b *blank) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	from, to := max(b.start-b.at, 0), min(b.end-b.at, int64(n))
	if from < to {
		clear(p[from:to])
	}
	b.at += int64(n)
	return n, err
}

// withoutHostID leaves out what ELF calls the build ID of a program, which the
// linker makes of Go's.
func withoutHostID(f *os.File) io.Reader {
	e, err := elf.NewFile(f)
	if err != nil {
		return f
	}
	note := e.Section(".note.gnu.build-id")
	if note == nil {
		return f
	}
	return &blank{r: f, start: int64(note.Offset) + 16, end: int64(note.Offset + note.Size)}
}

// hash is that of a file with every occurrence of its ID as zeros, as it was when
// the go command had yet to know the ID, and where those are (cmd/internal/buildid,
// FindAndHash).
func hash(r io.Reader, id []byte) (sum [sha256.Size]byte, places []int64, err error) {
	h := sha256.New()
	in := bufio.NewReaderSize(r, 256<<10)
	zeros := make([]byte, len(id))
	var at int64
	pass := func(n int) {
		at += int64(n)
		_, _ = in.Discard(n) // they were peeked at
	}
	for {
		window, err := in.Peek(in.Size())
		if i := bytes.Index(window, id); i >= 0 {
			places = append(places, at+int64(i))
			h.Write(window[:i])
			h.Write(zeros)
			pass(i + len(id))
			continue
		}
		if err != nil {
			h.Write(window)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			copy(sum[:], h.Sum(nil))
			return sum, places, err
		}
		// The last bytes may be the beginning of an ID.
		n := len(window) - len(id) + 1
		h.Write(window[:n])
		pass(n)
	}
}
