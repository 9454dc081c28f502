package database

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
)

// Endings of the names of conffiles that aren't in use (dpkg(1)).
const (
	endingNew  = ".dpkg-new"  // unpacked, not configured yet
	endingOld  = ".dpkg-old"  // replaced by that of the package
	endingDist = ".dpkg-dist" // of the package, but not taken
	endingTmp  = ".dpkg-tmp"
)

// PromptError is a configuration file about which dpkg would ask, where nothing says
// what to do: see ConffilePolicy.
type PromptError struct {
	Package string
	Path    string
	New     bool // it is new in the package, and there was a file of that name
	Deleted bool // it isn't there any more
}

func (e *PromptError) Error() string {
	what := "which was changed here and by the package"
	switch {
	case e.New:
		what = "which is here but not from the package"
	case e.Deleted:
		what = "which was deleted here and changed by the package"
	}
	return fmt.Sprintf("dpkg would ask about the configuration file %s of %s, %s; --force-confold keeps it, --force-confnew takes that of the package", e.Path, e.Package, what)
}

// listedConffile is a line of a file conffiles.
type listedConffile struct {
	path   string
	remove bool
}

// listedConffiles reads the file conffiles of a package (deb-conffiles(5)).
func listedConffiles(data []byte) ([]listedConffile, error) {
	text := string(data)
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, errors.New("conffiles: the last line has no end")
	}
	var list []listedConffile
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n\v\f")
		if line == "" {
			continue
		}
		f := listedConffile{path: line}
		if line[0] != '/' {
			flag, rest, _ := strings.Cut(line, " ")
			if flag != "remove-on-upgrade" || !strings.HasPrefix(rest, "/") {
				return nil, fmt.Errorf("conffiles: %q is no absolute path", line)
			}
			f = listedConffile{rest, true}
		}
		if f.path = clean(f.path); f.path == "/" || seen[f.path] {
			return nil, fmt.Errorf("conffiles: %q is there twice, or is the root", line)
		}
		seen[f.path] = true
		list = append(list, f)
	}
	return list, nil
}

// maxLinks is how many symbolic links dpkg follows to a conffile.
const maxLinks = 25

// dereference follows the symbolic links that a conffile may be; false if it can't be
// one.
func (d *Database) dereference(name string) (string, bool) {
	for range maxLinks {
		a, err := d.tree.Lstat(name)
		switch {
		case err != nil || a.IsRegular():
			return name, true
		case !a.IsSymlink():
			return name, false
		case strings.HasPrefix(a.Link, "/"):
			name = a.Link
		default:
			name = path.Dir(name) + "/" + a.Link
		}
	}
	return name, false
}

// hash gives the MD5 sum of a file, "nonexistent" if there is none.
func (d *Database) hash(name string) (string, error) {
	a, err := d.tree.Stat(name)
	if isMissing(err) {
		return nonexistent, nil
	}
	if err != nil {
		return "", err
	}
	if !a.IsRegular() {
		return noHash, nil
	}
	return hashOf(&a)
}

func hashOf(a *filetree.Attr) (string, error) {
	r, err := a.Open()
	if err != nil {
		return "", err
	}
	sum := md5.New()
	_, err = io.Copy(sum, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

// configureConffile puts the new version of a configuration file in place, or not:
// one that nobody has changed is replaced, one that was changed stays as long as the
// package has nothing new, and where both have changed, dpkg asks (Debian Policy
// 10.7.3, dpkg(1) --force-conf*).
func (d *Database) configureConffile(p *Package, f *Conffile) error {
	use := d.use(f.Path, p.Name)
	at, ok := d.dereference(use)
	if !ok {
		d.log("warning: the conffile %s of %s isn't a plain file", use, p.Name)
		f.Hash = noHash
		return nil
	}
	fresh, err := d.tree.Lstat(at + endingNew)
	if isMissing(err) {
		return nil // it has been taken care of
	}
	if err != nil {
		return err
	}
	now, err := d.hash(at)
	if err != nil {
		return err
	}
	dist, err := hashOf(&fresh)
	if err != nil {
		return fmt.Errorf("%s: %w", at+endingNew, err)
	}
	if old, err := d.tree.Stat(at); err == nil {
		if err := d.tree.Update(at+endingNew, false, func(a *filetree.Attr) {
			a.Mode, a.UID, a.GID = old.Mode, old.UID, old.GID
		}); err != nil {
			return err
		}
	}
	what, err := d.decide(p, f, now, dist)
	if err != nil {
		return err
	}
	if err := d.place(p, use, at, what); err != nil {
		return err
	}
	f.Hash = dist
	return nil
}

// choice is what happens to a configuration file.
type choice struct {
	install bool
	backup  bool // the one that isn't taken is kept
	deleted bool // there is none here
	silent  bool
}

// decide chooses by the sums of the file that is there, of the one that the package
// had and of the one that it has.
func (d *Database) decide(p *Package, f *Conffile, now, dist string) (choice, error) {
	absent := now == nonexistent
	first := f.Hash == newConffile
	switch {
	case now == dist:
		return choice{}, nil
	case absent && d.force.Missing, absent && first:
		return choice{install: true, silent: true}, nil
	}
	edited := first || f.Hash != now
	updated := first || f.Hash != dist
	if !edited {
		return choice{install: updated}, nil
	}
	if !updated && !d.force.Ask {
		return choice{}, nil
	}
	c := choice{backup: true, deleted: absent && !first}
	switch {
	case d.force.Default, d.force.Old && !d.force.New:
	case d.force.New:
		c.install = true
	default:
		return c, &PromptError{p.Name, f.Path, first, c.deleted}
	}
	return c, nil
}

// place does what was chosen. Names are those of the file as the package has it and
// as it really is.
func (d *Database) place(p *Package, use, at string, c choice) error {
	remove := func(ending string) error { return d.tree.RemoveAll(at + ending) }
	switch {
	case !c.install && !c.backup:
		return remove(endingNew)
	case !c.install:
		if err := remove(endingOld); err != nil {
			return err
		}
		d.log("Configuration file '%s' is kept; that of the package is %s", use, at+endingDist)
		d.activatePath(use, p)
		if err := remove(endingDist); err != nil {
			return err
		}
		return d.tree.Rename(at+endingNew, at+endingDist)
	case c.backup:
		for _, ending := range []string{endingDist, endingOld} {
			if err := remove(ending); err != nil {
				return err
			}
		}
		if !c.deleted {
			if err := d.tree.Link(at, at+endingOld); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if !c.silent {
		d.log("Installing new version of config file %s ...", use)
	}
	d.activatePath(use, p)
	// The name is taken away first: a rename over the other name of a hard link
	// would do nothing.
	if err := d.tree.RemoveAll(at); err != nil {
		return err
	}
	return d.tree.Rename(at+endingNew, at)
}

// removeOnUpgrade takes a configuration file away that a package doesn't want any
// more; one that was changed becomes .dpkg-old.
func (d *Database) removeOnUpgrade(p *Package, name, hash string) error {
	use := d.use(name, p.Name)
	at, ok := d.dereference(use)
	if !ok {
		return nil
	}
	for _, owner := range d.owners[name] {
		if owner != p {
			return nil
		}
	}
	if err := d.tree.RemoveAll(at + endingDist); err != nil {
		return err
	}
	now, err := d.hash(at)
	if err != nil || now == nonexistent {
		return err
	}
	if now == hash {
		d.log("Removing obsolete conffile %s ...", at)
		return d.tree.RemoveAll(at)
	}
	d.log("Obsolete conffile '%s' has been modified by you.", at)
	d.log("Saving as %s ...", at+endingOld)
	if err := d.tree.RemoveAll(at + endingOld); err != nil {
		return err
	}
	return d.tree.Rename(at, at+endingOld)
}

// conffile finds one of a package by its path; nil if it has none.
func (p *Package) conffile(name string) *Conffile {
	if i := slices.IndexFunc(p.Conffiles, func(f Conffile) bool { return f.Path == name }); i >= 0 {
		return &p.Conffiles[i]
	}
	return nil
}
