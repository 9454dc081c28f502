package prove

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// kind is what one entry of a layer is.
type kind byte

const (
	kindDir      kind = 'd'
	kindFile     kind = 'f'
	kindSymlink  kind = 'l'
	kindHardlink kind = 'h' // to a file in a layer below; others share the node of their file
	kindWhiteout kind = 'w' // hides what layers below have of this name
	kindOther    kind = 'x' // device, FIFO
)

// node is one entry of a layer, directories with what is in them. The names in
// JSON are short because base layers are cached and have tens of thousands.
// Nodes aren't changed once a layer is scanned.
type node struct {
	Kind     kind             `json:"k"`
	Mode     uint32           `json:"m,omitempty"` // permission bits
	UID      int              `json:"u,omitempty"`
	GID      int              `json:"g,omitempty"`
	Size     int64            `json:"s,omitempty"`
	Link     string           `json:"l,omitempty"` // target of a symbolic link, or of a hard link to a layer below
	Hides    bool             `json:"o,omitempty"` // an opaque directory, or one that replaces another
	Script   string           `json:"h,omitempty"` // the first line of an executable that begins with #!
	Text     string           `json:"t,omitempty"` // of the few files of loader settings
	Binary   *Binary          `json:"b,omitempty"`
	Children map[string]*node `json:"c,omitempty"`
}

// tree is the file tree of an image, seen through its layers without merging
// them, so that it can be asked before all layers are read. Where an answer
// would need a layer that isn't read it is unknown.
type tree struct {
	layers []treeLayer // top first
	fold   bool        // names are found in any case, as on Windows
}

type treeLayer struct {
	root   *node // nil if the layer isn't read
	digest digest.Digest
}

// state is what a lookup found out.
type state int

const (
	absent state = iota
	found
	unknown
)

// place is what the layers have at one path, top first: a single part unless
// it is a directory. A part without a node stands for a layer that isn't read.
type place []part

type part struct {
	*node
	layer int
}

func (t *tree) root() place {
	var p place
	for i, l := range t.layers {
		p = append(p, part{l.root, i})
		if l.root != nil && l.root.Hides {
			break
		}
	}
	return p
}

// below is the tree as it was before layer i was put on.
func (t *tree) below(i int) *tree { return &tree{t.layers[i+1:], t.fold} }

// child looks for a name in a directory.
func (t *tree) child(dir place, name string) (place, state) {
	var out place
parts:
	for _, p := range dir {
		if p.node == nil {
			if len(out) == 0 {
				return nil, unknown
			}
			out = append(out, p)
			continue
		}
		c := p.node.child(name, t.fold)
		switch {
		case c == nil:
			continue
		case c.Kind == kindWhiteout:
			break parts
		case c.Kind == kindDir:
			out = append(out, part{c, p.layer})
			if c.Hides {
				break parts
			}
		case len(out) > 0: // a directory above replaces what isn't one
			break parts
		case c.Kind == kindHardlink:
			hit, st := t.below(p.layer).resolve(c.Link)
			if st != found {
				return nil, st
			}
			return place{part{hit.node(), p.layer}}, found
		default:
			return place{part{c, p.layer}}, found
		}
	}
	if len(out) == 0 {
		return nil, absent
	}
	return out, found
}

func (n *node) child(name string, fold bool) *node {
	if c := n.Children[name]; c != nil || !fold {
		return c
	}
	best := ""
	for other := range n.Children {
		if strings.EqualFold(other, name) && (best == "" || other < best) {
			best = other
		}
	}
	return n.Children[best]
}

// hit is something that was found.
type hit struct {
	place
	path string // from the root, symbolic links resolved
}

func (h hit) node() *node { return h.place[0].node }

// isDir reports whether the hit is a directory, or the root of a layer that
// isn't read.
func (h hit) isDir() bool { return h.place[0].node == nil || h.place[0].Kind == kindDir }

// maxLinks is how many symbolic links are followed in one lookup, as Linux does.
const maxLinks = 40

// resolve follows a path from the root, and the symbolic links on it, never
// out of the root: as the kernel does inside a container.
func (t *tree) resolve(name string) (hit, state) {
	if len(t.layers) == 0 {
		return hit{}, absent
	}
	pending := split(name)
	at := []hit{{t.root(), "/"}}
	for links := 0; len(pending) > 0; {
		element := pending[0]
		pending = pending[1:]
		if element == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		dir := at[len(at)-1]
		if !dir.isDir() {
			return hit{}, absent
		}
		c, st := t.child(dir.place, element)
		if st != found {
			return hit{}, st
		}
		if c[0].Kind != kindSymlink {
			at = append(at, hit{c, path.Join(dir.path, element)})
			continue
		}
		if links++; links > maxLinks {
			return hit{}, absent
		}
		target := c[0].Link
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		pending = append(split(target), pending...)
	}
	return at[len(at)-1], found
}

// split gives the elements of a path, without empty ones and dots.
func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(e string) bool { return e == "" || e == "." })
}

// walk calls visit for everything but directories that the finished tree has
// under dir, in lexical order of the paths. What can't be known is left out.
func (t *tree) walk(dir hit, visit func(hit)) {
	names := map[string]bool{}
	for _, p := range dir.place {
		if p.node == nil {
			continue
		}
		for name := range p.Children {
			names[name] = true
		}
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		c, st := t.child(dir.place, name)
		if st != found {
			continue
		}
		h := hit{c, path.Join(dir.path, name)}
		if h.isDir() {
			t.walk(h, visit)
			continue
		}
		visit(h)
	}
}
