package vcs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Modes of index and tree entries.
const (
	modeTree       = 0o040000
	modeFile       = 0o100644
	modeExecutable = 0o100755
	modeSymlink    = 0o120000
	modeGitlink    = 0o160000 // a submodule
	modeType       = 0o170000
)

// indexEntry is a tracked file as it was when git last looked.
type indexEntry struct {
	name         string // with slashes; a directory of a sparse index ends with one
	id           objectID
	mode         uint32
	size         uint32 // modulo 2^32
	mtime, ctime stamp
	unmerged     bool
	assumed      bool // assume-unchanged
	skipped      bool // skip-worktree: not in the working tree
	intended     bool // intent-to-add: not in the index proper
}

// stamp is a time as the index has it.
type stamp struct{ sec, nsec uint32 }

// before reports whether s is earlier; where one of them knows no parts of a
// second, neither counts.
func (s stamp) before(t stamp) bool {
	if s.sec != t.sec || s.nsec == 0 || t.nsec == 0 {
		return s.sec < t.sec
	}
	return s.nsec < t.nsec
}

// same compares likewise.
func (s stamp) same(t stamp) bool {
	return s.sec == t.sec && (s.nsec == t.nsec || s.nsec == 0 || t.nsec == 0)
}

// index is .git/index.
type index struct {
	entries []indexEntry
	tree    objectID // of all entries, if git has noted it; else empty
}

// errUnread marks what an index has and this package can't read.
type errUnread struct{ what, fix string }

func (e *errUnread) Error() string { return e.what }

var errIndex = errors.New("not a Git index")

// parseIndex reads an index of version 2, 3 or 4 (gitformat-index).
func parseIndex(format hashFormat, data []byte) (*index, error) {
	if len(data) < 12+format.size || string(data[:4]) != "DIRC" {
		return nil, errIndex
	}
	body, sum := data[:len(data)-format.size], data[len(data)-format.size:]
	if !allZero(sum) { // index.skipHash leaves it out
		h := format.hash()
		h.Write(body)
		if !bytes.Equal(h.Sum(nil), sum) {
			return nil, fmt.Errorf("%w: its checksum is wrong", errIndex)
		}
	}
	version, count := binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:])
	if version < 2 || version > 4 {
		return nil, &errUnread{what: fmt.Sprintf("version %d of the index isn't supported", version), fix: "git update-index --index-version 4"}
	}
	least := 40 + format.size + 2 + 1 // bytes of the shortest entry
	if int64(count)*int64(least) > int64(len(body)) {
		return nil, fmt.Errorf("%w: it is cut off", errIndex)
	}
	x := &index{entries: make([]indexEntry, 0, count)} // bounded by the file's size, as just checked
	rest := body[12:]
	previous, names := "", 0
	for range count {
		e, left, err := parseEntry(format, version, rest, previous)
		if err != nil {
			return nil, err
		}
		previous, rest = e.name, left
		if names += len(e.name); len(e.name) > maxPath || names > 16*len(data) {
			return nil, fmt.Errorf("%w: its names are too long", errIndex)
		}
		x.entries = append(x.entries, e)
	}
	for len(rest) > 0 {
		if len(rest) < 8 || int64(binary.BigEndian.Uint32(rest[4:])) > int64(len(rest)-8) {
			return nil, fmt.Errorf("%w: it is cut off", errIndex)
		}
		name, size := string(rest[:4]), int(binary.BigEndian.Uint32(rest[4:]))
		content := rest[8 : 8+size]
		rest = rest[8+size:]
		switch {
		case name == "TREE":
			x.tree = cachedTree(format, content, len(x.entries))
		case name == "sdir": // entries may be directories, which parseEntry takes
		case name == "link":
			return nil, &errUnread{what: "a split index isn't supported", fix: "git update-index --no-split-index"}
		case name[0] < 'A' || name[0] > 'Z': // only extensions in capitals may be passed over
			return nil, &errUnread{what: fmt.Sprintf("the index has an extension %q, which isn't supported", name), fix: "rm .git/index && git reset"}
		}
	}
	return x, x.check() // after the extensions: a split index has entries without names
}

// check refuses names that lead elsewhere, and any order but the one that
// comparisons rely on.
func (x *index) check() error {
	for i, e := range x.entries {
		if !validName(e.name, e.mode) {
			return fmt.Errorf("%w: %q isn't a file of the working tree", errIndex, e.name)
		}
		if i > 0 && e.name < x.entries[i-1].name {
			return fmt.Errorf("%w: it isn't sorted", errIndex)
		}
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// parseEntry reads one entry; previous is the name of the one before it.
func parseEntry(format hashFormat, version uint32, data []byte, previous string) (indexEntry, []byte, error) {
	cut := fmt.Errorf("%w: an entry is cut off", errIndex)
	fixed := 40 + format.size + 2
	if len(data) < fixed+2 {
		return indexEntry{}, nil, cut
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(data[4*i:]) }
	e := indexEntry{
		ctime: stamp{word(0), word(1)}, mtime: stamp{word(2), word(3)},
		mode: word(6), size: word(9),
		id: objectID(data[40 : 40+format.size]),
	}
	flags := binary.BigEndian.Uint16(data[fixed-2:])
	e.assumed = flags&0x8000 != 0
	e.unmerged = flags&0x3000 != 0
	if flags&0x4000 != 0 {
		if version < 3 {
			return indexEntry{}, nil, fmt.Errorf("%w: an entry has flags of a later version", errIndex)
		}
		more := binary.BigEndian.Uint16(data[fixed:])
		e.skipped = more&0x4000 != 0
		e.intended = more&0x2000 != 0
		fixed += 2
	}
	rest := data[fixed:]
	if version == 4 { // the name is what is taken off the previous one, and what is put on
		drop, n := offsetVarint(rest)
		if n == 0 || drop > uint64(len(previous)) {
			return indexEntry{}, nil, cut
		}
		rest = rest[n:]
		end := bytes.IndexByte(rest, 0)
		if end < 0 || end > maxPath {
			return indexEntry{}, nil, cut
		}
		e.name = previous[:len(previous)-int(drop)] + string(rest[:end])
		rest = rest[end+1:]
	} else {
		end := bytes.IndexByte(rest, 0)
		if end < 0 {
			return indexEntry{}, nil, cut
		}
		e.name = string(rest[:end])
		padded := (fixed+end)/8*8 + 8 // one to eight NULs
		if padded > len(data) {
			return indexEntry{}, nil, cut
		}
		rest = data[padded:]
	}
	return e, rest, nil
}

// maxPath bounds a name; those of an index of version 4 could otherwise grow
// with every entry.
const maxPath = 16 << 10

// offsetVarint reads the variable width integer of gitformat-pack; n is 0 if
// there is none.
func offsetVarint(data []byte) (value uint64, n int) {
	for i, c := range data {
		if i > 0 {
			value++
		}
		if value > 1<<40 {
			return 0, 0
		}
		value = value<<7 | uint64(c&0x7f)
		if c&0x80 == 0 {
			return value, i + 1
		}
	}
	return 0, 0
}

// validName keeps entries inside of the working tree, and out of .git.
func validName(name string, mode uint32) bool {
	if mode&modeType == modeTree {
		name = strings.TrimSuffix(name, "/")
	}
	if name == "" || len(name) > maxPath || !filepath.IsLocal(filepath.FromSlash(name)) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.EqualFold(part, ".git") {
			return false
		}
	}
	return true
}

// cachedTree reads from the cache tree what all entries together are as a tree
// object. It is there after a commit or a checkout, and gone with the first
// change.
func cachedTree(format hashFormat, content []byte, entries int) objectID {
	path, rest, _ := bytes.Cut(content, []byte{0})
	line, rest, found := bytes.Cut(rest, []byte("\n"))
	count, _, _ := bytes.Cut(line, []byte(" "))
	n, err := strconv.Atoi(string(count))
	if len(path) > 0 || !found || err != nil || n != entries || len(rest) < format.size {
		return ""
	}
	return objectID(rest[:format.size])
}
