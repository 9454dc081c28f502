package basic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// owner reads USER, USER:GROUP, :GROUP and USER: in the stage's own accounts; -1
// leaves as it is.
func owner(p *command.Proc, spec string) (uid, gid int, err error) {
	uid, gid = -1, -1
	name, group, hasGroup := strings.Cut(spec, ":")
	if !hasGroup {
		if n, g, found := strings.Cut(spec, "."); found {
			name, group, hasGroup = n, g, true // the old spelling
		}
	}
	login := -1
	if name != "" {
		var found bool
		if uid, login, _, _, found, err = command.LookupUser(p.Tree, name); err != nil {
			return -1, -1, err
		}
		if !found {
			if uid, err = strconv.Atoi(name); err != nil || uid < 0 {
				return -1, -1, message("unknown user " + name)
			}
		}
	}
	switch {
	case group != "":
		var found bool
		if gid, found, err = command.LookupGroup(p.Tree, group); err != nil {
			return -1, -1, err
		}
		if !found {
			if gid, err = strconv.Atoi(group); err != nil || gid < 0 {
				return -1, -1, message("unknown group " + group)
			}
		}
	case hasGroup && name != "":
		gid = login
	}
	return uid, gid, nil
}

// destinations splits the arguments of cp and mv: what is moved, where to, and
// whether that is a directory to move into.
func destinations(p *command.Proc, opt *command.Parsed) (sources []string, dest string, into bool, err error) {
	sources = opt.Args
	if opt.Has["t"] {
		return sources, opt.Values["t"], true, nil
	}
	if len(sources) < 2 {
		return nil, "", false, message("missing file operand")
	}
	dest = sources[len(sources)-1]
	sources = sources[:len(sources)-1]
	if into, err = isDir(p, p.Path(dest)); err != nil {
		return nil, "", false, err
	}
	if opt.Has["T"] {
		into = false
	} else if len(sources) > 1 && !into {
		return nil, "", false, message(fmt.Sprintf("target '%s' is not a directory", dest))
	}
	return sources, dest, into, nil
}

func cp(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if opt.Has["i"] {
		return 0, &command.Unsupported{Command: "cp", What: "option -i"}
	}
	sources, dest, into, err := destinations(p, opt)
	if err != nil {
		if m := message(""); errors.As(err, &m) {
			return p.Errorf("%s", m)
		}
		return 0, err
	}
	c := copying{p: p, update: opt.Has["u"], recursive: opt.Has["r"] || opt.Has["a"], keep: opt.Has["p"] || opt.Has["a"], noClobber: opt.Has["n"],
		links: opt.Has["P"] || opt.Has["d"] || opt.Has["a"] || opt.Has["r"] && !opt.Has["L"] && !opt.Has["H"], force: opt.Has["f"]}
	if p.Dialect == command.Busybox {
		c.hardlinks = c.recursive && c.links // it has no extended attributes
	} else {
		c.hardlinks, c.xattrs = opt.Has["a"] || opt.Has["d"], opt.Has["a"]
	}
	exit := 0
	for _, name := range sources {
		target := p.Path(dest)
		if into {
			target = path.Join(target, path.Base(path.Clean(p.Path(name))))
			if base := path.Base(name); base == "." || base == ".." {
				target = p.Path(dest)
			}
		}
		from := p.Path(name)
		a, err := p.Tree.Lstat(from)
		if err == nil && a.IsSymlink() && !(c.links && (opt.Has["P"] || opt.Has["d"] || opt.Has["a"] || opt.Has["r"])) {
			a, err = p.Tree.Stat(from)
			if err == nil {
				from, err = p.Tree.Resolve(from, true)
			}
		}
		switch {
		case err != nil:
		case a.IsDir() && !c.recursive:
			_, _ = fmt.Fprintf(p.Stderr, "cp: omitting directory '%s'\n", name)
			exit = 1
			continue
		case a.IsDir():
			canonical, rerr := p.Tree.Resolve(target, true)
			at, _ := p.Tree.Resolve(from, true)
			if rerr == nil && (canonical == at || strings.HasPrefix(canonical, strings.TrimSuffix(at, "/")+"/")) {
				_, _ = fmt.Fprintf(p.Stderr, "cp: cannot copy a directory, '%s', into itself, '%s'\n", name, target)
				exit = 1
				continue
			}
		}
		if b, serr := p.Tree.Stat(target); err == nil && serr == nil && !a.IsDir() {
			if at, _ := p.Tree.Resolve(target, true); at == path.Clean(from) || a.SameFile(&b) {
				_, _ = fmt.Fprintf(p.Stderr, "cp: '%s' and '%s' are the same file\n", name, target)
				exit = 1
				continue
			}
		}
		if err == nil {
			if opt.Has["v"] {
				to, root := dest, from
				if into {
					to = path.Join(dest, path.Base(path.Clean(name)))
				}
				c.said = func(at string) {
					below := strings.TrimPrefix(at, root)
					_, _ = fmt.Fprintf(p.Stdout, "'%s%s' -> '%s%s'\n", name, below, to, below)
				}
			}
			err = c.one(from, target, a)
		}
		if err != nil {
			if err := report(p, "can't copy", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// copying is one call of cp.
type copying struct {
	p                                 *command.Proc
	recursive, keep, links, noClobber bool
	force                             bool
	said                              func(from string) // says what is copied; nil if nobody asked
	update                            bool              // a newer file is left alone
	xattrs                            bool              // extended attributes are copied
	hardlinks                         bool              // names of one file become names of one file
	copied                            []copied
}

type copied struct {
	attr filetree.Attr
	at   string
}

func (c *copying) one(from, target string, a filetree.Attr) error {
	p := c.p
	existing, err := p.Tree.Stat(target)
	exists := err == nil
	if fatal(err) {
		return err
	}
	if exists && c.noClobber && !a.IsDir() {
		return nil
	}
	if exists && c.update && !a.IsDir() {
		if a.ModTime.Equal(existing.ModTime) && a.ModTime.Equal(p.Now) && a.Content != existing.Content {
			return &command.Unsupported{Command: "cp", What: "option -u of two files that the build made"}
		}
		if !a.ModTime.After(existing.ModTime) && !a.ModTime.Equal(p.Now) {
			return nil
		}
	}
	later := a.IsDir() && p.Dialect == command.Busybox
	if c.said != nil && !later {
		c.said(from)
	}
	attr := a
	if !c.xattrs {
		attr.Xattrs = nil
	}
	if !c.keep {
		attr.UID, attr.GID, attr.ModTime, attr.Made = p.UID, p.GID, p.Now, true
		attr.Mode = a.Mode &^ p.Umask
		if p.Dialect != command.Busybox {
			attr.Mode &^= fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		}
	} else if p.UID != 0 {
		attr.UID, attr.GID = p.UID, p.GID
	}
	switch {
	case a.IsDir():
		if exists && !existing.IsDir() {
			return &fs.PathError{Op: "cp", Path: target, Err: syscall.ENOTDIR}
		}
		if !exists {
			if err := mayWrite(p, path.Dir(target)); err != nil {
				return err
			}
			if err := p.Tree.Mkdir(target, attr); err != nil {
				return err
			}
		} else if c.keep {
			if err := p.Tree.Update(target, true, func(d *filetree.Attr) { d.Mode, d.UID, d.GID = attr.Mode, attr.UID, attr.GID }); err != nil {
				return err
			}
		}
		children, err := p.Tree.ReadDir(from)
		if err != nil {
			return err
		}
		for _, child := range children {
			at, ca := path.Join(from, child.Name), child.Attr
			if ca.IsSymlink() && !c.links {
				if ca, err = p.Tree.Stat(at); err != nil {
					return err
				}
			}
			if err := c.one(at, path.Join(target, child.Name), ca); err != nil {
				return err
			}
		}
		if c.said != nil && later {
			c.said(from)
		}
		if !exists && p.Dialect == command.Busybox { // which sets the mode of the source afterwards
			return p.Tree.Update(target, false, func(d *filetree.Attr) { d.Mode = attr.Mode })
		}
		return nil
	case a.IsSymlink():
		if err := mayWrite(p, path.Dir(target)); err != nil {
			return err
		}
		if old, err := p.Tree.Lstat(target); err == nil && !old.IsDir() {
			if err := p.Tree.Remove(target); err != nil {
				return err
			}
		}
		return p.Tree.Symlink(a.Link, target, attr)
	}
	if exists && existing.IsDir() {
		return &fs.PathError{Op: "cp", Path: target, Err: syscall.EISDIR}
	}
	if c.hardlinks {
		for _, other := range c.copied {
			if other.attr.SameFile(&a) {
				if _, err := p.Tree.Lstat(target); err == nil {
					if err := p.Tree.Remove(target); err != nil {
						return err
					}
				}
				return p.Tree.Link(other.at, target)
			}
		}
	}
	if a.IsRegular() {
		if err := p.MayRead(from, &a); err != nil {
			return err
		}
	}
	if l, err := p.Tree.Lstat(target); p.Dialect == command.Busybox && err == nil && !l.IsDir() {
		// busybox makes a new file; other names of the old one keep what they have.
		if err := mayWrite(p, path.Dir(target)); err != nil {
			return err
		}
		if err := p.Tree.Remove(target); err != nil {
			return err
		}
		exists = false
	}
	if exists && a.IsRegular() {
		if err := p.MayWrite(target, &existing); err != nil {
			return err
		}
		// Written into what is there: it keeps its owner and mode.
		if err := p.Tree.WriteFile(target, a.Content, filetree.Attr{Mode: attr.Mode, UID: attr.UID, GID: attr.GID, ModTime: attr.ModTime}); err != nil {
			return err
		}
		if c.keep {
			return p.Tree.Update(target, true, func(d *filetree.Attr) {
				d.Mode, d.UID, d.GID, d.ModTime, d.Xattrs = attr.Mode, attr.UID, attr.GID, attr.ModTime, attr.Xattrs
			})
		}
		return nil
	}
	if err := mayWrite(p, path.Dir(target)); err != nil {
		return err
	}
	if err := p.Tree.Put(target, attr); err != nil {
		return err
	}
	if a.SameFile(&a) {
		c.copied = append(c.copied, copied{a, target})
	}
	return nil
}

func mv(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	sources, dest, into, err := destinations(p, opt)
	if err != nil {
		if m := message(""); errors.As(err, &m) {
			return p.Errorf("%s", m)
		}
		return 0, err
	}
	exit := 0
	for _, name := range sources {
		target := p.Path(dest)
		if into {
			target = path.Join(target, path.Base(path.Clean(p.Path(name))))
		}
		err := mayWrite(p, path.Dir(target))
		if err == nil {
			err = mayWrite(p, path.Dir(strings.TrimRight(p.Path(name), "/")))
		}
		if err == nil && opt.Has["n"] {
			if _, serr := p.Tree.Lstat(target); serr == nil {
				continue
			}
		}
		if err == nil {
			err = p.Tree.Rename(p.Path(name), target)
		}
		if err == nil && opt.Has["v"] {
			to, verb := dest, "renamed "
			if into {
				to = path.Join(dest, path.Base(name))
			}
			if p.Dialect == command.Busybox {
				verb = ""
			}
			_, _ = fmt.Fprintf(p.Stdout, "%s'%s' -> '%s'\n", verb, name, to)
		}
		if err != nil {
			if err := report(p, "can't rename", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}
