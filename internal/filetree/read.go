package filetree

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"syscall"
)

// Stat gives the attributes of a file, of what a symbolic link leads to.
func (t *Tree) Stat(name string) (Attr, error) { return t.stat("stat", name, true) }

// Lstat gives the attributes of a file, of a symbolic link itself.
func (t *Tree) Lstat(name string) (Attr, error) { return t.stat("lstat", name, false) }

func (t *Tree) stat(op, name string, follow bool) (Attr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, follow)
	if err == nil && p.node == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Attr{}, pathError(op, name, err)
	}
	return p.node.Attr, nil
}

// Resolve gives the canonical path that name leads to, with a leading slash and
// without symbolic links ("/" for the root). The last element needn't exist; if
// follow is false it may be a symbolic link.
func (t *Tree) Resolve(name string, follow bool) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, follow)
	if err != nil {
		return "", pathError("resolve", name, err)
	}
	if p.path == "" {
		return "/", nil
	}
	return p.path, nil
}

// Readlink gives where a symbolic link leads; EINVAL if it is none.
func (t *Tree) Readlink(name string) (string, error) {
	a, err := t.Lstat(name)
	if err != nil {
		return "", err
	}
	if !a.IsSymlink() {
		return "", pathError("readlink", name, syscall.EINVAL)
	}
	return a.Link, nil
}

// Child is a file in a directory.
type Child struct {
	Name string
	Attr
}

// ReadDir lists a directory, sorted by name.
func (t *Tree) ReadDir(name string) ([]Child, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, true)
	if err == nil && p.node != nil && p.node.partial() && t.lower != nil {
		if err = t.force(); err == nil {
			p, err = t.walk(name, true)
		}
	}
	switch {
	case err != nil:
	case p.node == nil:
		err = fs.ErrNotExist
	case !p.node.IsDir():
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	list := make([]Child, 0, len(p.node.children))
	for _, n := range slices.Sorted(maps.Keys(p.node.children)) {
		list = append(list, Child{n, p.node.children[n].Attr})
	}
	return list, nil
}

// Open opens a regular file for reading, following symbolic links.
func (t *Tree) Open(name string) (io.ReadCloser, error) {
	a, err := t.Stat(name)
	if err != nil {
		return nil, err
	}
	r, err := a.Open()
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return r, nil
}

// maxRead bounds what ReadFile takes into memory.
const maxRead = 64 << 20

// ReadFile gives the content of a small file; EFBIG if it is over 64 MiB.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	a, err := t.Stat(name)
	if err != nil {
		return nil, err
	}
	if a.Size() > maxRead {
		return nil, pathError("read", name, syscall.EFBIG)
	}
	r, err := a.Open()
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	return b, nil
}

// Walk calls do for name and everything below it, parents first and in order of
// names, with canonical paths ("/" for the root). Symbolic links are not followed
// below name. If do returns fs.SkipDir for a directory, what is in it is left out;
// fs.SkipAll ends the walk. What the tree becomes during the walk isn't seen: the
// walk is over the tree as it was.
func (t *Tree) Walk(name string, do func(name string, a Attr) error) error {
	t.mu.Lock()
	p, err := t.walk(name, false)
	if err == nil && t.lower != nil && p.node != nil && p.node.IsDir() && incompleteBelow(p.node) {
		if err = t.force(); err == nil {
			p, err = t.walk(name, false)
		}
	}
	if err == nil && p.node == nil {
		err = fs.ErrNotExist
	}
	if err == nil {
		// From here on this tree copies what it changes, so the walk sees none of it.
		t.token = new(token)
	}
	t.mu.Unlock()
	if err != nil {
		return pathError("walk", name, err)
	}
	root := p.path
	if root == "" {
		root = "/"
	}
	err = walkNode(root, p.node, do)
	if err == fs.SkipAll || err == fs.SkipDir {
		return nil
	}
	return err
}

// partial reports whether the base may have more in a directory.
func (n *node) partial() bool { return n.incomplete || len(n.unread) > 0 }

func incompleteBelow(n *node) bool {
	if n.partial() {
		return true
	}
	for _, c := range n.children {
		if c.IsDir() && incompleteBelow(c) {
			return true
		}
	}
	return false
}

func walkNode(name string, n *node, do func(string, Attr) error) error {
	if err := do(name, n.Attr); err != nil {
		if err == fs.SkipDir && n.IsDir() {
			return nil
		}
		return err
	}
	for _, c := range slices.Sorted(maps.Keys(n.children)) {
		if err := walkNode(join(name, c), n.children[c], do); err != nil {
			if err == fs.SkipDir {
				continue
			}
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "/" || dir == "" {
		return "/" + name
	}
	return dir + "/" + name
}
