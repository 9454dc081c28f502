// Package filetree is a persistent copy-on-write tree of files: the root file
// system of a build stage.
//
// The tree in memory is the truth about owners, modes, extended attributes,
// links, devices and the case of names, so they are exact on every host and for
// every user. Content stays where it is (a context, a layer, a blob) and is
// opened when somebody reads it. Symbolic links are resolved by the tree, inside
// the tree, so that nothing can lead out of it. A fork costs a pointer.
//
// Paths are slash-separated. They are looked up from the root, with or without a
// leading slash; ".." at the root stays there, as in a container.
package filetree

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Content is what a regular file holds. It is immutable: every Open gives the
// same Size bytes. Contents are compared by identity, so one value should be
// used for one content.
type Content interface {
	Size() int64
	Open() (io.ReadCloser, error)
}

// Bytes is content in memory, for small files.
type Bytes []byte

type memory struct{ b []byte }

// Content makes content of b, which must not be changed afterwards.
func (b Bytes) Content() Content { return &memory{b} }

// Key identifies the content across runs.
func (m *memory) Key() string {
	sum := sha256.Sum256(m.b)
	return hex.EncodeToString(sum[:])
}

func (m *memory) Size() int64 { return int64(len(m.b)) }
func (m *memory) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m.b)), nil
}

// Attr is what a tree knows about a file beside its content.
type Attr struct {
	// Mode has the type bits of io/fs (ModeDir, ModeSymlink, ModeDevice,
	// ModeCharDevice, ModeNamedPipe), setuid, setgid, sticky and permissions.
	Mode     fs.FileMode
	UID, GID int
	ModTime  time.Time
	Xattrs   map[string]string // never changed in place
	Link     string            // where a symbolic link leads, as it is
	DevMajor int64             // of a device
	DevMinor int64
	Content  Content // of a regular file; nil if it is empty
	// Made says, of a file that is to be made, that a process makes it: in a directory
	// with the setgid bit it gets the directory's group, and a directory the bit too.
	// No file of a tree has it.
	Made       bool
	hardlink   *identity
	incomplete bool // of a directory of a lazy tree: the base may have more in it
	assumed    bool // of a directory of a lazy tree: the base says what it is like
}

// identity is shared by the names of one file: hard links.
type identity struct{ _ byte }

// Size is the number of bytes of a regular file, else 0.
func (a *Attr) Size() int64 {
	if a.Content == nil {
		return 0
	}
	return a.Content.Size()
}

// IsDir reports whether it is a directory.
func (a *Attr) IsDir() bool { return a.Mode.IsDir() }

// IsSymlink reports whether it is a symbolic link.
func (a *Attr) IsSymlink() bool { return a.Mode&fs.ModeSymlink != 0 }

// IsRegular reports whether it is a regular file.
func (a *Attr) IsRegular() bool { return a.Mode.IsRegular() }

// SameFile reports whether a and b are names of one file: hard links.
func (a *Attr) SameFile(b *Attr) bool { return a.hardlink != nil && a.hardlink == b.hardlink }

// Open opens the content of a regular file.
func (a *Attr) Open() (io.ReadCloser, error) {
	if !a.IsRegular() {
		return nil, syscall.EISDIR
	}
	if a.Content == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return a.Content.Open()
}

// node is a file in the tree. It may be changed in place by the tree whose token
// it carries; every other tree copies it first.
type node struct {
	Attr
	children map[string]*node // of a directory
	unread   []string         // names in the base that aren't in children, of a directory that is otherwise complete
	token    *token
}

type token struct{ _ byte }

// Tree is a root file system. Its methods may be called concurrently. The zero
// value is not usable: see New.
type Tree struct {
	mu    sync.Mutex
	root  *node
	token *token
	lower *lower

	frozen []string // canonical paths that are read-only
}

// lower is the base of a lazy tree, which is read when something is looked for
// that the skeleton doesn't have.
type lower struct {
	load    func() (*Tree, error)
	removed map[string]bool // canonical paths that were taken away before the base was read
}

// New makes an empty tree: a root directory of mode 0755.
func New() *Tree {
	t := &Tree{token: new(token)}
	t.root = &node{Attr: Attr{Mode: fs.ModeDir | 0o755}, children: map[string]*node{}, token: t.token}
	return t
}

// Known is a directory that a base which is not read yet is known to have.
type Known struct {
	Attr
	// Complete says that the base has nothing in it but what else is known and
	// Unread.
	Complete bool
	// Unread are names that the base has in a complete directory: looking for one
	// of them reads the base.
	Unread []string
}

// NewLazy makes a tree over a base that is not read yet. dirs are the directories
// that the base is known to have, the root among them as "/". A name that is looked
// for in one of them and isn't there doesn't exist if the directory is Complete;
// else load is called, once, and gives the tree of the base. An error of load is
// the error of that lookup.
func NewLazy(dirs map[string]Known, load func() (*Tree, error)) *Tree {
	t := New()
	t.root.incomplete = true
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		known := dirs[name]
		parent := t.root
		for _, element := range elements(name) {
			child := parent.children[element]
			if child == nil {
				child = &node{Attr: Attr{Mode: fs.ModeDir | 0o755, incomplete: true, assumed: true}, children: map[string]*node{}, token: t.token}
				parent.children[element] = child
			}
			parent = child
		}
		parent.Attr = known.Attr
		parent.Mode |= fs.ModeDir
		parent.assumed = true
		parent.incomplete = !known.Complete
		parent.unread = known.Unread
	}
	t.lower = &lower{load: load, removed: map[string]bool{}}
	return t
}

// Fork gives an independent tree with the same files. It costs a pointer: what
// either changes from then on is copied first.
func (t *Tree) Fork() *Tree {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token = new(token)
	f := &Tree{root: t.root, token: new(token)}
	if t.lower != nil {
		f.lower = &lower{load: t.lower.load, removed: maps.Clone(t.lower.removed)}
	}
	return f
}

// WithLoader gives a fork of a lazy tree whose base is read by load instead; of
// a tree that isn't lazy any more, or never was, a plain fork.
func (t *Tree) WithLoader(load func() (*Tree, error)) *Tree {
	f := t.Fork()
	if f.lower != nil {
		f.lower.load = load
	}
	return f
}

// Lazy reports whether the tree has a base that isn't read yet.
func (t *Tree) Lazy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lower != nil
}

// Force reads the base of a lazy tree.
func (t *Tree) Force() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.force()
}

func (t *Tree) force() error {
	if t.lower == nil {
		return nil
	}
	base, err := t.lower.load()
	if err != nil {
		return &loadError{err}
	}
	merged := base.Fork()
	for name := range t.lower.removed {
		// What isn't in the base needs no removal.
		_ = merged.removeAll(name)
	}
	upper := t.root
	t.root, t.token, t.lower = merged.root, merged.token, nil
	t.root = t.own(t.root)
	t.overlay(t.root, upper)
	return nil
}

// loadError keeps a failure to read a base apart from the errors of lookups: a
// caller that treats "does not exist" as an answer must not see this as one.
type loadError struct{ err error }

func (e *loadError) Error() string { return e.err.Error() }
func (e *loadError) Unwrap() error { return e.err }

// overlay puts what upper has over what lower has. Directories that were only
// assumed keep the attributes of the base.
func (t *Tree) overlay(lower, upper *node) {
	for name, child := range upper.children {
		under := lower.children[name]
		if child.IsDir() && under != nil && under.IsSymlink() && child.assumed {
			// The base has a link where a directory was assumed: what was put
			// there goes where the link leads.
			if target, err := t.walk("/"+name, true); err == nil && target.node != nil && target.node.IsDir() {
				owned := t.ownPath(target.path)
				t.overlay(owned, child)
				continue
			}
		}
		if child.IsDir() && under != nil && under.IsDir() {
			owned := t.own(under)
			lower.children[name] = owned
			if !child.assumed {
				children := owned.children
				owned.Attr = child.Attr
				owned.children = children
			}
			t.overlay(owned, child)
			continue
		}
		if child.IsDir() {
			fresh := &node{Attr: child.Attr, children: map[string]*node{}, token: t.token}
			fresh.incomplete, fresh.assumed = false, false
			lower.children[name] = fresh
			t.overlay(fresh, child)
			continue
		}
		lower.children[name] = child
	}
}

// own gives n as a node that this tree may change.
func (t *Tree) own(n *node) *node {
	if n.token == t.token {
		return n
	}
	c := *n
	c.token = t.token
	if n.children != nil {
		c.children = maps.Clone(n.children)
	}
	return &c
}

// ownPath gives the node at a canonical path, with all above it, as nodes that
// this tree may change. The path must exist.
func (t *Tree) ownPath(name string) *node {
	t.root = t.own(t.root)
	n := t.root
	for _, element := range elements(name) {
		child := t.own(n.children[element])
		n.children[element] = child
		n = child
	}
	return n
}

func elements(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// place is the end of a lookup: a canonical path, without symbolic links but for
// its last element, and the node there, which is nil if there is none.
type place struct {
	path string
	node *node
}

const maxLinks = 40 // as Linux (path_resolution(7))

// walk looks a path up. A missing last element is no error; a missing parent is
// fs.ErrNotExist, a parent that isn't a directory ENOTDIR, a loop ELOOP.
func (t *Tree) walk(name string, follow bool) (place, error) {
	// As the kernel does, "name/" and "name/." mean the directory that a link leads to.
	if strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") {
		follow = true
	}
	return t.walkFrom(name, follow)
}

func split(name string) []string {
	var list []string
	for e := range strings.SplitSeq(name, "/") {
		if e != "" && e != "." {
			list = append(list, e)
		}
	}
	return list
}

func (t *Tree) walkFrom(name string, follow bool) (place, error) {
	type step struct {
		name string
		node *node
	}
	stack := []step{{"", t.root}}
	todo := split(name)
	links := 0
	for len(todo) > 0 {
		element := todo[0]
		todo = todo[1:]
		here := stack[len(stack)-1].node
		if element == ".." {
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		if here == nil {
			return place{}, fs.ErrNotExist
		}
		if !here.IsDir() {
			return place{}, syscall.ENOTDIR
		}
		child := here.children[element]
		if child == nil && t.lower != nil && (here.incomplete || slices.Contains(here.unread, element)) && !t.lower.removed[joined(stack[1:], func(s step) string { return s.name })+"/"+element] {
			if err := t.force(); err != nil {
				return place{}, err
			}
			return t.walkFrom(name, follow)
		}
		if child != nil && child.IsSymlink() && (len(todo) > 0 || follow) {
			if links++; links > maxLinks {
				return place{}, syscall.ELOOP
			}
			if child.Link == "" {
				return place{}, fs.ErrNotExist
			}
			todo = append(split(child.Link), todo...)
			if strings.HasPrefix(child.Link, "/") {
				stack = stack[:1]
			}
			continue
		}
		stack = append(stack, step{element, child})
	}
	return place{joined(stack[1:], func(s step) string { return s.name }), stack[len(stack)-1].node}, nil
}

func joined[T any](list []T, name func(T) string) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteByte('/')
		b.WriteString(name(e))
	}
	return b.String()
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var p *fs.PathError
	var l *loadError
	if errors.As(err, &p) || errors.As(err, &l) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
