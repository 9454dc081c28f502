package filetree

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Difference is one difference between two trees, in all that a tree knows. It can
// be kept and applied in another run of the program.
type Difference struct {
	Path    string // canonical
	Removed bool
	Attr           // as it is now; zero if it was removed
	LinkTo  string // path of an earlier difference that is another name of this file

	// What a lazy tree knows about a directory: see [Known].
	Incomplete, Assumed bool
	Unread              []string
}

// Delta is what makes one tree into another: see [Tree.Apply].
type Delta struct {
	Files []Difference
	// Forced says that the base of a lazy tree was read on the way.
	Forced bool
	// Gone are canonical paths of a base that is not read yet that were taken away.
	Gone []string
}

// DeltaOf gives what makes before into after, which must have come from it. Unlike
// [Diff] it leaves nothing out. ok is false where it can't be said: a file has names
// that are hard links, some of which have changed and some not.
func DeltaOf(before, after *Tree) (d Delta, ok bool, err error) {
	if before.Lazy() && !after.Lazy() {
		// Whoever made after has read the base: the same one.
		d.Forced = true
		before = before.Fork()
		if err := before.Force(); err != nil {
			return d, false, err
		}
	}
	freeze := func(t *Tree) (*node, map[string]bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.token = new(token)
		if t.lower == nil {
			return t.root, nil
		}
		return t.root, maps.Clone(t.lower.removed)
	}
	was, _ := freeze(before)
	is, removed := freeze(after)
	d.Gone = slices.Sorted(maps.Keys(removed))
	w := deltaWalk{names: map[*identity]string{}, count: map[*identity]int{}}
	w.node("/", was, is)
	d.Files = w.list
	if len(w.count) > 0 {
		all := map[*identity]int{}
		_ = walkNode("/", is, func(_ string, a Attr) error {
			if a.hardlink != nil {
				all[a.hardlink]++
			}
			return nil
		})
		for id, n := range w.count {
			if all[id] != n {
				return d, false, nil
			}
		}
	}
	return d, true, nil
}

type deltaWalk struct {
	list  []Difference
	names map[*identity]string
	count map[*identity]int
}

func (w *deltaWalk) node(at string, was, is *node) {
	if was == is {
		return
	}
	if was == nil || !sameAttr(&was.Attr, &is.Attr) || !was.ModTime.Equal(is.ModTime) || was.incomplete != is.incomplete || was.assumed != is.assumed || !slices.Equal(was.unread, is.unread) {
		d := Difference{Path: at, Attr: is.Attr, Incomplete: is.incomplete, Assumed: is.assumed, Unread: is.unread}
		d.hardlink = nil
		if id := is.hardlink; id != nil {
			w.count[id]++
			if first, ok := w.names[id]; ok {
				d.LinkTo = first
			} else {
				w.names[id] = at
			}
		}
		w.list = append(w.list, d)
	}
	var had map[string]*node
	if was != nil && was.IsDir() && is.IsDir() {
		had = was.children
	}
	all := maps.Clone(is.children)
	if all == nil {
		all = map[string]*node{}
	}
	for name := range had {
		if all[name] == nil {
			all[name] = nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] == nil {
			w.list = append(w.list, Difference{Path: join(at, name), Removed: true})
			continue
		}
		w.node(join(at, name), had[name], all[name])
	}
}

// Apply makes the tree what a delta says. It must be what the delta was made from;
// a path that doesn't fit is an error, and the tree then of no use.
func (t *Tree) Apply(d Delta) error {
	if d.Forced {
		if err := t.Force(); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(d.Gone) > 0 && t.lower == nil {
		return fmt.Errorf("apply: the base was read")
	}
	for _, name := range d.Gone {
		t.lower.removed[name] = true
	}
	for _, f := range d.Files {
		if f.Path != "/" && (!strings.HasPrefix(f.Path, "/") || path.Clean(f.Path) != f.Path) {
			return pathError("apply", f.Path, fs.ErrInvalid)
		}
		if err := t.applyOne(f); err != nil {
			return pathError("apply", f.Path, err)
		}
	}
	return nil
}

func (t *Tree) applyOne(f Difference) error {
	var n *node
	if f.Path == "/" {
		t.root = t.own(t.root)
		n = t.root
		if !f.IsDir() {
			return fs.ErrInvalid
		}
	} else {
		parent := t.root
		for _, element := range elements(path.Dir(f.Path)) {
			if parent = parent.children[element]; parent == nil {
				return fs.ErrNotExist
			}
		}
		if !parent.IsDir() {
			return fs.ErrInvalid
		}
		parent = t.ownPath(path.Dir(f.Path))
		name := path.Base(f.Path)
		if f.Removed {
			delete(parent.children, name)
			return nil
		}
		if n = parent.children[name]; n != nil && n.IsDir() && f.IsDir() {
			n = t.own(n)
		} else {
			n = &node{token: t.token}
			if f.IsDir() {
				n.children = map[string]*node{}
			}
		}
		parent.children[name] = n
	}
	n.Attr = f.Attr
	n.hardlink, n.incomplete, n.assumed, n.unread = nil, f.Incomplete, f.Assumed, f.Unread
	if f.LinkTo == "" {
		return nil
	}
	first := t.root
	for _, element := range elements(f.LinkTo) {
		if first = first.children[element]; first == nil {
			return fs.ErrNotExist
		}
	}
	first = t.ownPath(f.LinkTo)
	if first.hardlink == nil {
		first.hardlink = new(identity)
	}
	n.hardlink = first.hardlink
	return nil
}
