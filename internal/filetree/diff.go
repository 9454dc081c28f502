package filetree

import (
	"io/fs"
	"maps"
	"slices"
)

// Change is one difference between two trees.
type Change struct {
	Path    string // canonical
	Removed bool   // it was there and isn't
	Attr           // as it is now; zero if it was removed
	// LinkTo is the path of an earlier change that is another name of this file:
	// a hard link. It is empty for the first.
	LinkTo string
}

// Diff lists what makes old into now, in order of paths and parents first: what
// is new, what differs in attributes or content, and what is gone. Where a file
// has become a directory, or the other way round, the removal isn't listed: an
// entry of another type replaces the old one (image-spec v1.1.1, layer.md). old
// may be nil for an empty tree, whose root is not compared.
//
// Files that both trees share are not looked at, so a diff costs what has changed.
func Diff(old, now *Tree) []Change {
	now.mu.Lock()
	after := now.root
	now.token = new(token)
	now.mu.Unlock()
	var before *node
	if old != nil && old != now {
		old.mu.Lock()
		before = old.root
		old.token = new(token)
		old.mu.Unlock()
	} else if old == now {
		before = after
	}
	d := differ{names: map[*identity]string{}}
	if before == after {
		return nil
	}
	if before != nil && !sameAttr(&before.Attr, &after.Attr) {
		d.changes = append(d.changes, Change{Path: "/", Attr: after.Attr})
	}
	d.dir("/", before, after)
	return d.changes
}

type differ struct {
	changes []Change
	names   map[*identity]string
}

func (d *differ) dir(name string, before, after *node) {
	var had map[string]*node
	if before != nil && before.IsDir() {
		had = before.children
	}
	all := make(map[string]bool, len(after.children)+len(had))
	for n := range after.children {
		all[n] = true
	}
	for n := range had {
		all[n] = true
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		was, is := had[n], after.children[n]
		at := join(name, n)
		switch {
		case was == is:
		case is == nil:
			d.changes = append(d.changes, Change{Path: at, Removed: true})
		default:
			if was == nil || was.Mode&fs.ModeType != is.Mode&fs.ModeType || !sameAttr(&was.Attr, &is.Attr) {
				if !(is.assumed && was == nil) {
					c := Change{Path: at, Attr: is.Attr}
					if is.hardlink != nil {
						if first, ok := d.names[is.hardlink]; ok {
							c.LinkTo = first
						} else {
							d.names[is.hardlink] = at
						}
					}
					d.changes = append(d.changes, c)
				}
			}
			if is.IsDir() {
				d.dir(at, was, is)
			}
		}
	}
}

func sameAttr(a, b *Attr) bool {
	// A changed time alone is no difference in a directory: its owner changed
	// nothing about it but what is in it, and that is listed for itself.
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Link == b.Link &&
		a.DevMajor == b.DevMajor && a.DevMinor == b.DevMinor && a.hardlink == b.hardlink &&
		maps.Equal(a.Xattrs, b.Xattrs) && sameContent(a, b) &&
		(a.IsDir() || a.ModTime.Equal(b.ModTime))
}

func sameContent(a, b *Attr) bool {
	return a.Content == b.Content || a.Size() == 0 && b.Size() == 0
}
