package database

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/archive"
)

// extract puts the files of the archive into the tree. Symbolic links come last: no
// file of the package goes through one of them.
func (u *unpacking) extract(ctx context.Context) error {
	var err error
	if u.users, err = accounts(u.d.tree, "/etc/passwd"); err != nil {
		return err
	}
	if u.groups, err = accounts(u.d.tree, "/etc/group"); err != nil {
		return err
	}
	var links []*archive.Entry
	err = u.a.Walk(ctx, func(e *archive.Entry, content io.Reader) error {
		if e.Mode&fs.ModeSymlink != 0 {
			links = append(links, e)
			return nil
		}
		return u.entry(e, content)
	})
	if err != nil {
		return err
	}
	for _, e := range links {
		if err := u.entry(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// entry puts one file into the tree, by the rules of dpkg:
//
//	there is        | a directory      | a symbolic link | something else
//	nothing         | it is made       | it is made      | it is made
//	a file or link  | it is replaced,  | it is replaced  | it is replaced
//	                | unless the link  |                 |
//	                | is to a directory|                 |
//	a directory     | it stays         | it stays        | it is replaced
//
// So a link that stands for a directory, such as /bin, stays, and a directory is
// never replaced by a link.
func (u *unpacking) entry(e *archive.Entry, content io.Reader) error {
	d := u.d
	if c := u.conffiles[e.Path]; c != nil && c.remove {
		return fmt.Errorf("conffile '%s' marked for removal on upgrade, shipped in package", e.Path)
	}
	if v, ok := d.diversions.to[e.Path]; ok {
		return fmt.Errorf("trying to overwrite '%s', which is the diverted version of '%s'", e.Path, v.from)
	}
	u.unlist(e.Path) // of a path that is in the archive twice, the last counts
	f := u.list(e.Path)
	use := d.use(e.Path, u.p.Name)
	d.activateFile(use, u.p)
	there, exists, err := d.exists(use)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	stays, err := u.stays(e, use, there, exists)
	if err != nil {
		return err
	}
	if !stays {
		skip, err := u.conflicts(e, there, exists)
		if err != nil {
			return err
		}
		if skip {
			// It belongs to the other package, and isn't in the list.
			u.unlist(e.Path)
			if c := u.conffiles[e.Path]; c != nil {
				c.obsolete = true
			}
			return nil
		}
	}
	if d.filtered(e) {
		f.kept = true
		return nil
	}
	if stays {
		return nil
	}
	if err := u.place(e, f, use, content); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// stays reports whether there is a directory already that is what the entry wants.
func (u *unpacking) stays(e *archive.Entry, use string, there filetree.Attr, exists bool) (bool, error) {
	switch {
	case e.Mode.IsDir():
		a, err := u.d.tree.Stat(use)
		if isMissing(err) || isLoop(err) {
			return false, nil
		}
		return err == nil && a.IsDir(), err
	case e.Mode&fs.ModeSymlink == 0 || !exists:
		return false, nil
	case there.IsDir():
		return true, nil
	case !there.IsSymlink():
		return false, nil
	}
	// A link to the directory that it leads to already.
	now, ok := u.directory(use)
	if !ok {
		return false, nil
	}
	target := e.Symlink
	if !strings.HasPrefix(target, "/") {
		target = path.Dir(use) + "/" + target
	}
	wanted, ok := u.directory(target)
	return ok && wanted == now, nil
}

// directory gives the canonical path of a directory, false if it is none.
func (u *unpacking) directory(name string) (string, bool) {
	a, err := u.d.tree.Stat(name)
	if err != nil || !a.IsDir() {
		return "", false
	}
	at, err := u.d.tree.Resolve(name, true)
	return at, err == nil
}

// conflicts looks for other packages that have the path. It reports whether theirs
// stays because they replace this package; that neither replaces the other is an
// error.
func (u *unpacking) conflicts(e *archive.Entry, there filetree.Attr, exists bool) (bool, error) {
	d := u.d
	keep := false
	for _, other := range d.owners[e.Path] {
		if other.Name == u.p.Name {
			continue
		}
		if v, ok := d.diversions.from[e.Path]; ok && (v.by == other.Name || v.by == u.p.Name) {
			continue
		}
		// A directory that isn't there is one of the other package too.
		if !exists && e.Mode.IsDir() {
			continue
		}
		if u.said[other] == 0 && (other.State == ConfigFiles || u.takesObsolete(e, other, there, exists)) {
			continue
		}
		if u.said[other] == 0 {
			if err := u.judge(e, other, there, exists); err != nil {
				return false, err
			}
		}
		keep = keep || u.said[other] == replacedBy
	}
	return keep, nil
}

// takesObsolete reports whether the file is a configuration file that the other
// package doesn't have any more.
func (u *unpacking) takesObsolete(e *archive.Entry, other *Package, there filetree.Attr, exists bool) bool {
	c := other.conffile(e.Path)
	return u.isConffile(e.Path) && exists && there.IsRegular() && c != nil && c.Obsolete
}

// judge finds out which of two packages replaces the other.
func (u *unpacking) judge(e *archive.Entry, other *Package, there filetree.Attr, exists bool) error {
	mine, err := doesReplace(u.new, other)
	if err != nil {
		return err
	}
	if mine {
		u.d.log("Replacing files in old package %s (%s) ...", other.FileName(), other.Version)
		u.said[other] = replaces
		return nil
	}
	theirs, err := doesReplace(other, u.new)
	if err != nil {
		return err
	}
	if theirs {
		u.d.log("Replaced by files in installed package %s (%s) ...", other.FileName(), other.Version)
		u.said[other] = replacedBy
		return nil
	}
	if u.d.overwrite {
		return nil
	}
	if exists && there.IsDir() {
		return fmt.Errorf("trying to overwrite directory '%s' in package %s %s with nondirectory", e.Path, other.FileName(), other.Version)
	}
	return fmt.Errorf("trying to overwrite '%s', which is also in package %s %s", e.Path, other.FileName(), other.Version)
}

// doesReplace reports whether a package says that it Replaces another one.
func doesReplace(p, other *Package) (bool, error) {
	list, err := p.relation("Replaces")
	if err != nil {
		return false, err
	}
	for _, alternatives := range list {
		for _, r := range alternatives {
			if r.Name == other.Name && r.Satisfied(other.Version) {
				return true, nil
			}
		}
	}
	return false, nil
}

// place makes the file.
func (u *unpacking) place(e *archive.Entry, f *newFile, use string, content io.Reader) error {
	t := u.d.tree
	for _, ending := range []string{endingNew, endingTmp} {
		if err := t.RemoveAll(use + ending); err != nil {
			return err
		}
	}
	conf := u.isConffile(e.Path)
	at := use
	if conf {
		if !e.Mode.IsRegular() {
			return errors.New("it is a configuration file, but no regular file")
		}
		at += endingNew
	} else if there, exists, err := u.d.exists(use); err != nil {
		return err
	} else if exists && (there.IsDir() || e.Mode.IsDir() || e.HardLink != "") {
		if err := t.RemoveAll(use); err != nil {
			return err
		}
	}
	if e.HardLink != "" {
		if err := u.link(e, f, at); err != nil {
			return err
		}
	} else {
		attr, err := u.attributes(e)
		if err != nil {
			return err
		}
		if e.Mode.IsRegular() && e.Size > 0 {
			if attr.Content, err = u.content(e, f, content); err != nil {
				return err
			}
		} else if e.Mode.IsRegular() {
			f.hash = hex.EncodeToString(md5.New().Sum(nil))
		}
		if err := t.Put(at, attr); err != nil {
			return err
		}
	}
	f.placed = true
	return nil
}

// link makes another name of a file of the package. dpkg sets the owner and mode of
// the archive again, by the last name.
func (u *unpacking) link(e *archive.Entry, f *newFile, at string) error {
	from := u.d.use(e.HardLink, u.p.Name)
	if u.isConffile(e.HardLink) {
		from += endingNew
	}
	if target := u.listed[e.HardLink]; target != nil {
		f.hash = target.hash
	}
	if err := u.d.tree.Link(from, at); err != nil {
		return err
	}
	attr, err := u.attributes(e)
	if err != nil {
		return err
	}
	now, err := u.d.tree.Lstat(at)
	if err != nil || now.Mode == attr.Mode && now.UID == attr.UID && now.GID == attr.GID && now.ModTime.Equal(attr.ModTime) {
		return err // nothing to change, which for hard links takes a look at the whole tree
	}
	return u.d.tree.Update(at, false, func(a *filetree.Attr) {
		a.Mode, a.UID, a.GID, a.ModTime = a.Mode&fs.ModeType|attr.Mode&^fs.ModeType, attr.UID, attr.GID, attr.ModTime
	})
}

// attributes are those of the archive, with the numbers that the names of the owner
// have in the tree, and what dpkg-statoverride says.
func (u *unpacking) attributes(e *archive.Entry) (filetree.Attr, error) {
	a := filetree.Attr{Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Link: e.Symlink, DevMajor: e.Major, DevMinor: e.Minor}
	if n, ok := u.users[e.User]; ok {
		a.UID = n
	}
	if n, ok := u.groups[e.Group]; ok {
		a.GID = n
	}
	if o, ok := u.d.overrides[e.Path]; ok {
		a.UID, a.GID, a.Mode = o.uid, o.gid, bits(e.Mode, o.mode)
	}
	if e.Mode&fs.ModeSymlink != 0 {
		a.Mode = fs.ModeSymlink | fs.ModePerm
	}
	return a, nil
}

// content keeps what a file has in it. The sum is only needed where the package
// brings no md5sums.
func (u *unpacking) content(e *archive.Entry, f *newFile, r io.Reader) (filetree.Content, error) {
	var sum hash.Hash
	if _, ok := u.a.File("md5sums"); !ok {
		sum = md5.New()
		r = io.TeeReader(r, sum)
	}
	c, err := u.d.keep(r, e.Size)
	if err != nil {
		return nil, err
	}
	if sum != nil {
		f.hash = hex.EncodeToString(sum.Sum(nil))
	}
	return c, nil
}

// isLoop reports whether symbolic links lead nowhere.
func isLoop(err error) bool { return errors.Is(err, syscall.ELOOP) }
