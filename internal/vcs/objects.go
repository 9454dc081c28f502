package vcs

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // the name of an object, not a proof of who wrote it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// objectID names an object: the bytes of its hash.
type objectID string

func (id objectID) String() string { return hex.EncodeToString([]byte(id)) }

// hashFormat is how a repository names its objects (extensions.objectFormat).
type hashFormat struct {
	size int // of an ID, bytes
	hash func() hash.Hash
}

func formatNamed(name string) (hashFormat, bool) {
	switch strings.ToLower(name) {
	case "", "sha1":
		return hashFormat{size: sha1.Size, hash: sha1.New}, true
	case "sha256":
		return hashFormat{size: sha256.Size, hash: sha256.New}, true
	}
	return hashFormat{}, false
}

// parse reads an ID in hexadecimal.
func (f hashFormat) parse(text string) (objectID, bool) {
	if len(text) != 2*f.size {
		return "", false
	}
	id, err := hex.DecodeString(text)
	return objectID(id), err == nil
}

// sum names an object by its type and contents.
func (f hashFormat) sum(kind string, data []byte) objectID {
	h := f.hash()
	fmt.Fprintf(h, "%s %d\x00", kind, len(data))
	h.Write(data)
	return objectID(h.Sum(nil))
}

// errMissing is an object that the clone doesn't have.
var errMissing = errors.New("the clone doesn't have it")

// Bounds of the object directories that a repository may borrow from.
const (
	maxAlternateDepth = 5 // as in git
	maxObjectDirs     = 64
	maxPacks          = 4096
)

// objects reads objects for one call of a [Repository] method. It isn't safe
// for concurrent use, and holds packs open until it is closed.
type objects struct {
	format  hashFormat
	dir     string
	dirs    []string // dir and its alternates, once they are read
	packs   []*pack
	listed  bool
	shallow map[objectID]bool // commits whose parents the clone doesn't have
	cache   deltaCache
}

func (r *Repository) objects() *objects {
	return &objects{format: r.format, dir: filepath.Join(r.common, "objects")}
}

func (o *objects) close() {
	for _, p := range o.packs {
		p.close()
	}
	o.packs = nil
}

// read gives an object of any type. What it reads is checked against its name.
func (o *objects) read(id objectID) (kind string, data []byte, err error) {
	kind, data, err = o.find(id)
	if err != nil {
		return "", nil, fmt.Errorf("object %s: %w", id, err)
	}
	if o.format.sum(kind, data) != id {
		return "", nil, fmt.Errorf("object %s is damaged: its contents have another name", id)
	}
	return kind, data, nil
}

func (o *objects) find(id objectID) (kind string, data []byte, err error) {
	if o.dirs == nil {
		if err := o.listDirs(o.dir, 0); err != nil {
			return "", nil, err
		}
	}
	for again := range 2 {
		for _, dir := range o.dirs {
			kind, data, err := o.loose(dir, id)
			if !isAbsent(err) {
				return kind, data, err
			}
		}
		if !o.listed || again == 1 { // packs may have been made while we looked
			if err := o.listPacks(); err != nil {
				return "", nil, err
			}
		}
		for i, p := range o.packs {
			offset, found, err := p.find(id)
			if err != nil {
				return "", nil, err
			}
			if found {
				if i > 0 { // neighbours in history are neighbours in packs
					copy(o.packs[1:i+1], o.packs[:i])
					o.packs[0] = p
				}
				return p.read(offset, &o.cache)
			}
		}
	}
	return "", nil, errMissing
}

// listDirs finds the object directories: dir and those it borrows from.
func (o *objects) listDirs(dir string, depth int) error {
	if slices.Contains(o.dirs, dir) {
		return nil
	}
	if len(o.dirs) >= maxObjectDirs {
		return fmt.Errorf("%s borrows objects from more than %d directories", o.dir, maxObjectDirs)
	}
	o.dirs = append(o.dirs, dir)
	place := filepath.Join(dir, "info", "alternates")
	text, err := readSmall(place, maxSmallFile)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if depth >= maxAlternateDepth {
			return fmt.Errorf("%s: object directories borrow from one another more than %d deep", place, maxAlternateDepth)
		}
		if line[0] == '"' {
			return &Unsupported{Place: place, What: "a quoted path isn't supported"}
		}
		path, err := plainPath(dir, line)
		if err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() { // git, too, goes on without it
			continue
		}
		if err := o.listDirs(path, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// listPacks opens no pack yet; newest come first, as they hold what is asked for.
func (o *objects) listPacks() error {
	o.close()
	o.listed = true
	type candidate struct {
		path string
		time int64
	}
	var candidates []candidate
	for _, dir := range o.dirs {
		entries, err := os.ReadDir(filepath.Join(dir, "pack"))
		if isAbsent(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, entry := range entries {
			name, isIndex := strings.CutSuffix(entry.Name(), ".idx")
			if !isIndex || !strings.HasPrefix(name, "pack-") {
				continue
			}
			info, err := entry.Info()
			if err != nil {
				continue
			}
			candidates = append(candidates, candidate{filepath.Join(dir, "pack", name), info.ModTime().UnixNano()})
		}
	}
	if len(candidates) > maxPacks {
		return &Unsupported{Place: o.dir, What: fmt.Sprintf("the repository has %d packs; %d are supported", len(candidates), maxPacks), Fix: "git gc"}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int {
		switch {
		case a.time > b.time:
			return -1
		case a.time < b.time:
			return 1
		}
		return strings.Compare(a.path, b.path)
	})
	for _, c := range candidates {
		o.packs = append(o.packs, &pack{path: c.path, format: o.format})
	}
	return nil
}

// loose reads an object that is a file of its own.
func (o *objects) loose(dir string, id objectID) (kind string, data []byte, err error) {
	name := id.String()
	f, _, err := openRegular(filepath.Join(dir, name[:2], name[2:]))
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	kind, data, err = readLoose(f)
	if err != nil {
		return "", nil, fmt.Errorf("damaged: %w", err)
	}
	return kind, data, nil
}

// readLoose reads "type size\0contents", compressed.
func readLoose(compressed io.Reader) (kind string, data []byte, err error) {
	inflated, err := zlib.NewReader(compressed)
	if err != nil {
		return "", nil, err
	}
	in := bufio.NewReader(inflated)
	var header []byte
	for len(header) < 64 {
		c, err := in.ReadByte()
		if err != nil {
			return "", nil, err
		}
		if c == 0 {
			break
		}
		header = append(header, c)
	}
	kind, length, _ := strings.Cut(string(header), " ")
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil || size < 0 {
		return "", nil, errors.New("no size")
	}
	data, err = readSized(in, size)
	return kind, data, err
}

// readSized reads exactly size bytes up to the end. Memory grows with what is
// there, not with what is promised.
func readSized(in io.Reader, size int64) ([]byte, error) {
	if size > maxObject {
		return nil, fmt.Errorf("larger than %d bytes", int64(maxObject))
	}
	var b bytes.Buffer
	b.Grow(int(min(size+bytes.MinRead, 64<<10)))
	n, err := b.ReadFrom(io.LimitReader(in, size+1))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, errors.New("its size isn't the one that it states")
	}
	return b.Bytes(), nil
}

// commit is what is read of a commit object.
type commit struct {
	tree             objectID
	parents          []objectID
	time, authorTime int64 // Unix seconds
}

// commit reads a commit. A parent that a shallow clone left out isn't one.
func (o *objects) commit(id objectID) (commit, error) {
	kind, data, err := o.read(id)
	if err != nil {
		return commit{}, err
	}
	if kind != "commit" {
		return commit{}, fmt.Errorf("object %s is a %s, not a commit", id, kind)
	}
	c, err := parseCommit(o.format, data)
	if err != nil {
		return commit{}, fmt.Errorf("commit %s: %w", id, err)
	}
	if len(c.parents) > 0 {
		if err := o.readShallow(); err != nil {
			return commit{}, err
		}
		if o.shallow[id] {
			c.parents = nil
		}
	}
	return c, nil
}

// readShallow reads the list of commits at which a shallow clone ends.
func (o *objects) readShallow() error {
	if o.shallow != nil {
		return nil
	}
	o.shallow = map[objectID]bool{}
	place := filepath.Join(filepath.Dir(o.dir), "shallow")
	text, err := readSmall(place, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		id, ok := o.format.parse(strings.TrimSpace(line))
		if !ok {
			return fmt.Errorf("%s: %q isn't a commit", place, strings.TrimSpace(line))
		}
		o.shallow[id] = true
	}
	return nil
}

// headers walks the lines before the empty one of a commit or tag.
func headers(data []byte, each func(key, value string) bool) {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		if len(line) == 0 {
			return
		}
		data = rest
		if line[0] == ' ' { // goes on with the value before, as signatures do
			continue
		}
		key, value, _ := strings.Cut(string(line), " ")
		if !each(key, value) {
			return
		}
	}
}

func parseCommit(format hashFormat, data []byte) (commit, error) {
	var (
		c   commit
		bad error
	)
	headers(data, func(key, value string) bool {
		switch key {
		case "tree", "parent":
			id, ok := format.parse(value)
			if !ok {
				bad = fmt.Errorf("its %s isn't an object", key)
				return false
			}
			if key == "tree" {
				c.tree = id
			} else {
				c.parents = append(c.parents, id)
			}
		case "author":
			c.authorTime = parseTime(value)
		case "committer":
			c.time = parseTime(value)
			return false // what follows is of no use here
		}
		return true
	})
	if bad == nil && c.tree == "" {
		bad = errors.New("it has no tree")
	}
	return c, bad
}

// parseTime reads the time of "Name <address> seconds zone". As for git, a time
// that isn't one is 1970; so is one outside the years that RFC 3339 can write.
func parseTime(signature string) int64 {
	_, rest, _ := cutLast(signature, "> ")
	seconds, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	t, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || t < 0 || t > 253402300799 {
		return 0
	}
	return t
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// maxTagDepth is how many tags may be on tags.
const maxTagDepth = 16

// peel follows annotated tags to the commit; "" if it is something else.
func (o *objects) peel(id objectID) (objectID, error) {
	for range maxTagDepth {
		kind, data, err := o.read(id)
		if err != nil {
			return "", err
		}
		switch kind {
		case "commit":
			return id, nil
		case "tag":
			target, _, err := parseTag(o.format, data)
			if err != nil {
				return "", fmt.Errorf("tag %s: %w", id, err)
			}
			id = target
		default:
			return "", nil
		}
	}
	return "", fmt.Errorf("object %s: tags on tags more than %d deep", id, maxTagDepth)
}

// parseTag reads what a tag object is on, and when it was made.
func parseTag(format hashFormat, data []byte) (target objectID, time int64, err error) {
	headers(data, func(key, value string) bool {
		switch key {
		case "object":
			target, _ = format.parse(value)
		case "tagger":
			time = parseTime(value)
		}
		return key != "tagger"
	})
	if target == "" {
		return "", 0, errors.New("it is on nothing")
	}
	return target, time, nil
}
