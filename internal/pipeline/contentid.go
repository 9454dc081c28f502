package pipeline

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"regexp"

	"github.com/opencontainers/go-digest"
)

// goBuildID is a build ID as the go command stamps it: the hashes of the link's
// inputs, of the main package's inputs and content, and of the program's
// content. (cmd/go/internal/work/buildid.go)
var goBuildID = regexp.MustCompile(`^[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}/[A-Za-z0-9_-]{20}$`)

// contentID identifies what is in a program. The go command has hashed the
// whole of it and written the hash into it, so that reading its head is enough;
// the file's times say nothing, since the go command renews them when it finds
// a program up to date. A program without such an ID is hashed.
func contentID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if id := stampedID(f); goBuildID.MatchString(id) {
		return "go " + id, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	d, err := digest.FromReader(f)
	return d.String(), err
}

// stampedID is the build ID in a program, or "".
func stampedID(f *os.File) string {
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
