package filetree

import (
	"io/fs"
	"maps"
	"path"
	"strings"
	"syscall"
	"time"
)

// Put makes name a file with these attributes, in place of what is there; a
// symbolic link at name is replaced, not followed. The parent must exist. Where a
// directory is put over a directory, what is in it stays; a file over a directory,
// or the other way round, is EISDIR or ENOTDIR: remove it first.
func (t *Tree) Put(name string, a Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.hardlink = nil
	return pathError("create", name, t.put(name, a))
}

func (t *Tree) put(name string, a Attr) error {
	p, err := t.walk(strings.TrimRight(name, "/"), false)
	if err == nil {
		err = t.mayChange(p.path)
	}
	if err != nil {
		return err
	}
	a.incomplete, a.assumed = false, false
	if p.node != nil || p.path == "" {
		a.Made = false // it is there
	}
	if p.path == "" {
		if !a.IsDir() {
			return syscall.EISDIR
		}
		t.root = t.own(t.root)
		a.incomplete = t.root.incomplete
		a.assumed = false
		t.root.Attr = a
		return nil
	}
	if p.node != nil {
		switch {
		case p.node.IsDir() && !a.IsDir():
			return syscall.EISDIR
		case !p.node.IsDir() && a.IsDir():
			return syscall.ENOTDIR
		case a.IsDir():
			n := t.ownPath(p.path)
			a.incomplete = n.incomplete
			n.Attr = a
			return nil
		}
	}
	parent := t.ownPath(path.Dir(p.path))
	if a.Made && p.node == nil && parent.Mode&fs.ModeSetgid != 0 { // inode_init_owner(9)
		if a.GID = parent.GID; a.IsDir() {
			a.Mode |= fs.ModeSetgid
		}
	}
	a.Made = false
	fresh := &node{Attr: a, token: t.token}
	if a.IsDir() {
		fresh.children = map[string]*node{}
	}
	parent.children[path.Base(p.path)] = fresh
	return nil
}

// Freeze makes files and what is below them read-only, as mounts are: changing them is
// EROFS. The paths are canonical. It replaces the list of an earlier call; a fork has
// none.
func (t *Tree) Freeze(paths ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frozen = paths
}

// mayChange says whether a canonical path isn't read-only.
func (t *Tree) mayChange(name string) error {
	for _, f := range t.frozen {
		if name == f || strings.HasPrefix(name, f+"/") {
			return syscall.EROFS
		}
	}
	return nil
}

// mayRemove says whether a path may be taken away with what is below it.
func (t *Tree) mayRemove(name string) error {
	for _, f := range t.frozen {
		if name == f || strings.HasPrefix(f, name+"/") {
			return syscall.EBUSY
		}
	}
	return t.mayChange(name)
}

// capability is the extended attribute that the kernel takes away when a file is
// written to, whoever writes (capabilities(7)).
const capability = "security.capability"

// withoutCapability gives extended attributes without it.
func withoutCapability(xattrs map[string]string) map[string]string {
	if _, has := xattrs[capability]; !has {
		return xattrs
	}
	xattrs = maps.Clone(xattrs)
	delete(xattrs, capability)
	return xattrs
}

// WriteFile makes name a regular file with this content, following symbolic
// links. A file that is there keeps its mode, owner and extended attributes (but for
// capabilities) and its other names; a new one gets those of a.
func (t *Tree) WriteFile(name string, c Content, a Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, true)
	if err != nil {
		return pathError("open", name, err)
	}
	if p.node == nil {
		a.Mode &^= fs.ModeType
		a.Content, a.hardlink = c, nil
		return pathError("open", name, t.put(p.path, a))
	}
	if p.node.IsDir() {
		return pathError("open", name, syscall.EISDIR)
	}
	if !p.node.IsRegular() {
		return pathError("open", name, syscall.EINVAL)
	}
	if err := t.mayChange(p.path); err != nil {
		return pathError("open", name, err)
	}
	t.updateLinked(p, func(n *Attr) {
		n.Content = c
		n.ModTime = a.ModTime
		n.Xattrs = withoutCapability(n.Xattrs)
	})
	return nil
}

// Update changes the attributes of a file, of all its names if it has several.
// The type can't be changed.
func (t *Tree) Update(name string, follow bool, change func(*Attr)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, follow)
	if err == nil && p.node == nil {
		err = fs.ErrNotExist
	}
	if err == nil {
		err = t.mayChange(p.path)
	}
	if err != nil {
		return pathError("change", name, err)
	}
	t.updateLinked(p, change)
	return nil
}

func (t *Tree) updateLinked(p place, change func(*Attr)) {
	update := func(name string) {
		n := t.ownPath(name)
		kind := n.Mode & fs.ModeType
		link := n.hardlink
		incomplete, before := n.incomplete, n.Attr
		change(&n.Attr)
		n.Mode = n.Mode&^fs.ModeType | kind
		n.hardlink, n.incomplete = link, incomplete
		if n.assumed && !sameAttr(&before, &n.Attr) {
			n.assumed = false
		}
	}
	if p.node.hardlink == nil {
		update(p.path)
		return
	}
	id := p.node.hardlink
	var names []string
	_ = walkNode("/", t.root, func(name string, a Attr) error {
		if a.hardlink == id {
			names = append(names, name)
		}
		return nil
	})
	for _, name := range names {
		update(name)
	}
}

// Mkdir makes a directory. EEXIST if name exists.
func (t *Tree) Mkdir(name string, a Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(strings.TrimRight(name, "/"), false)
	if err == nil && (p.node != nil || p.path == "") {
		err = syscall.EEXIST
	}
	if err == nil {
		a.Mode = a.Mode&^fs.ModeType | fs.ModeDir
		a.hardlink = nil
		err = t.put(p.path, a)
	}
	return pathError("mkdir", name, err)
}

// MkdirAll makes a directory and the parents it lacks, all with these attributes.
// What exists is left as it is; symbolic links to directories are followed, and
// one that leads nowhere is EEXIST.
func (t *Tree) MkdirAll(name string, a Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.Mode = a.Mode&^fs.ModeType | fs.ModeDir
	a.hardlink = nil
	at := "/"
	for _, element := range split(name) {
		at = path.Join("/", at) + "/" + element
		if element == ".." {
			at = path.Clean(at)
			continue
		}
		p, err := t.walk(at, true)
		if err != nil {
			return pathError("mkdir", name, err)
		}
		if p.node == nil {
			if l, err := t.walk(at, false); err == nil && l.node != nil {
				return pathError("mkdir", name, syscall.EEXIST)
			}
			if err := t.put(p.path, a); err != nil {
				return pathError("mkdir", name, err)
			}
		} else if !p.node.IsDir() {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		if at = p.path; at == "" {
			at = "/"
		}
	}
	return nil
}

// Symlink makes a symbolic link. EEXIST if name exists.
func (t *Tree) Symlink(target, name string, a Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(name, false)
	if err == nil && p.node != nil {
		err = syscall.EEXIST
	}
	if err == nil {
		a.Mode, a.Link, a.Content, a.hardlink = fs.ModeSymlink|0o777, target, nil, nil
		err = t.put(p.path, a)
	}
	return pathError("symlink", name, err)
}

// Link makes name another name of the file old; a symbolic link at old is not
// followed. EEXIST if name exists, EPERM if old is a directory.
func (t *Tree) Link(old, name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	from, err := t.walk(old, false)
	if err == nil && from.node == nil {
		err = fs.ErrNotExist
	}
	if err == nil && from.node.IsDir() {
		err = syscall.EPERM
	}
	if err != nil {
		return pathError("link", old, err)
	}
	to, err := t.walk(name, false)
	if err == nil && to.node != nil {
		err = syscall.EEXIST
	}
	if err == nil {
		if err = t.mayChange(to.path); err == nil {
			err = t.mayChange(from.path)
		}
	}
	if err != nil {
		return pathError("link", name, err)
	}
	n := t.ownPath(from.path)
	if n.hardlink == nil {
		n.hardlink = new(identity)
	}
	second := &node{Attr: n.Attr, token: t.token}
	t.ownPath(path.Dir(to.path)).children[path.Base(to.path)] = second
	return nil
}

// Remove takes away a file or an empty directory. A symbolic link is not followed.
func (t *Tree) Remove(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(strings.TrimRight(name, "/"), false)
	if err == nil && p.node != nil && p.node.IsDir() && p.node.partial() && t.lower != nil {
		if err = t.force(); err == nil {
			p, err = t.walk(strings.TrimRight(name, "/"), false)
		}
	}
	switch {
	case err != nil:
	case p.path == "":
		err = syscall.EBUSY
	case p.node == nil:
		err = fs.ErrNotExist
	case len(p.node.children) > 0:
		err = syscall.ENOTEMPTY
	default:
		err = t.mayRemove(p.path)
	}
	if err != nil {
		return pathError("remove", name, err)
	}
	t.unlink(p.path)
	return nil
}

// RemoveAll takes away a file and everything in it. That name doesn't exist is
// not an error. A symbolic link is not followed.
func (t *Tree) RemoveAll(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return pathError("remove", name, t.removeAll(name))
}

func (t *Tree) removeAll(name string) error {
	p, err := t.walk(strings.TrimRight(name, "/"), false)
	if err == fs.ErrNotExist || err == nil && p.node == nil {
		return nil
	}
	if err != nil {
		return err
	}
	if p.path == "" {
		return syscall.EBUSY
	}
	if err := t.mayRemove(p.path); err != nil {
		return err
	}
	t.unlink(p.path)
	return nil
}

func (t *Tree) unlink(name string) {
	parent := t.ownPath(path.Dir(name))
	delete(parent.children, path.Base(name))
	if t.lower != nil {
		t.lower.removed[name] = true
	}
}

// Rename moves old to name, in place of a file or an empty directory there.
// Symbolic links are not followed. EINVAL if name is inside old.
func (t *Tree) Rename(old, name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	from, err := t.walk(strings.TrimRight(old, "/"), false)
	if err == nil && from.node != nil && from.node.IsDir() && t.lower != nil && incompleteBelow(from.node) {
		if err = t.force(); err == nil {
			from, err = t.walk(strings.TrimRight(old, "/"), false)
		}
	}
	switch {
	case err != nil:
	case from.path == "":
		err = syscall.EBUSY
	case from.node == nil:
		err = fs.ErrNotExist
	}
	if err != nil {
		return pathError("rename", old, err)
	}
	to, err := t.walk(strings.TrimRight(name, "/"), false)
	switch {
	case err != nil:
	case to.path == from.path:
		return nil
	case to.path == "" || strings.HasPrefix(to.path, from.path+"/"):
		err = syscall.EINVAL
	case to.node == nil:
	case to.node.IsDir() && !from.node.IsDir():
		err = syscall.EISDIR
	case !to.node.IsDir() && from.node.IsDir():
		err = syscall.ENOTDIR
	case len(to.node.children) > 0:
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return pathError("rename", name, err)
	}
	if err := t.mayRemove(from.path); err != nil {
		return pathError("rename", old, err)
	}
	if err := t.mayChange(to.path); err != nil {
		return pathError("rename", name, err)
	}
	moved := from.node
	t.unlink(from.path)
	t.ownPath(path.Dir(to.path)).children[path.Base(to.path)] = moved
	return nil
}

// Attach puts what from has at the path sub, with everything in it, at name, in
// place of what is there; the parent must exist. Nothing is copied: both trees
// share it until one of them changes it. It is how mounts are made, and undone.
func (t *Tree) Attach(name string, from *Tree, sub string) error {
	from.mu.Lock()
	p, err := from.walk(sub, true)
	if err == nil && p.node != nil && from.lower != nil && p.node.IsDir() && incompleteBelow(p.node) {
		if err = from.force(); err == nil {
			p, err = from.walk(sub, true)
		}
	}
	if err == nil && p.node == nil {
		err = fs.ErrNotExist
	}
	from.token = new(token)
	from.mu.Unlock()
	if err != nil {
		return pathError("attach", sub, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	to, err := t.walk(strings.TrimRight(name, "/"), false)
	if err != nil {
		return pathError("attach", name, err)
	}
	if to.path == "" {
		return pathError("attach", name, syscall.EBUSY)
	}
	t.ownPath(path.Dir(to.path)).children[path.Base(to.path)] = p.node
	return nil
}

// Detach forgets what is at name, as if it had never been there: in a lazy tree
// the base may still have it.
func (t *Tree) Detach(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.walk(strings.TrimRight(name, "/"), false)
	if err != nil || p.node == nil || p.path == "" {
		return pathError("detach", name, err)
	}
	delete(t.ownPath(path.Dir(p.path)).children, path.Base(p.path))
	return nil
}

// Chtimes sets the time of last change.
func (t *Tree) Chtimes(name string, follow bool, at time.Time) error {
	return t.Update(name, follow, func(a *Attr) { a.ModTime = at })
}

// Overlay puts everything that upper has over t, as a layer is put over others:
// what is of another type replaces what is there, a directory over a directory
// keeps what is in it. Symbolic links of t are replaced, not followed. The root
// directory's own attributes stay.
func (t *Tree) Overlay(upper *Tree) error {
	return upper.Walk("/", func(name string, a Attr) error {
		if name == "/" {
			return nil
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		p, err := t.walk(path.Dir(name), false)
		if err == nil && (p.node == nil || !p.node.IsDir()) {
			err = fs.ErrNotExist
		}
		if err != nil {
			return pathError("overlay", name, err)
		}
		parent := t.ownPath(p.path)
		old := parent.children[path.Base(name)]
		if old != nil && old.IsDir() && a.IsDir() {
			n := t.ownPath(strings.TrimSuffix(p.path, "/") + "/" + path.Base(name))
			incomplete := n.incomplete
			n.Attr = a
			n.incomplete, n.assumed = incomplete, false
			return nil
		}
		a.incomplete, a.assumed = false, false
		fresh := &node{Attr: a, token: t.token}
		if a.IsDir() {
			fresh.children = map[string]*node{}
		}
		parent.children[path.Base(name)] = fresh
		return nil
	})
}
