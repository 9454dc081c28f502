package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/anyarch/anyarch/internal/filetree"
)

// copyAction is COPY and ADD of files.
func (r *runner) copyAction() error {
	a := r.action
	source, dest := cleanPath(a.Path), cleanPath(a.Dest)
	if !a.CreateDestPath {
		if _, err := r.dst.Resolve(path.Join("/", a.Dest), true); err != nil {
			return fmt.Errorf("failed to stat %s: %w", a.Dest, err)
		}
	}
	names := []string{source}
	if a.AllowWildcard {
		var err error
		if names, err = wildcards(r.src, source, a.FollowSymlink); err != nil {
			return err
		}
		if len(names) == 0 {
			if a.AllowEmpty {
				return nil
			}
			return fmt.Errorf("%q not found", source)
		}
	}
	c := copier{runner: r}
	var err error
	if a.ModeStr != "" {
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return fmt.Errorf("--chmod=%s: %w", a.ModeStr, err)
		}
		c.symbolic = &set
	}
	if len(a.Include) > 0 {
		if c.include, err = patternmatcher.New(a.Include); err != nil {
			return err
		}
	}
	if len(a.Exclude) > 0 {
		if c.exclude, err = patternmatcher.New(a.Exclude); err != nil {
			return err
		}
	}
	for _, name := range names {
		if a.AttemptUnpack {
			done, err := r.unpack(name, dest)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := c.copy(name, dest); err != nil {
			return err
		}
	}
	for _, required := range a.Required {
		if !c.copied[path.Join("/", required)] {
			return fmt.Errorf("%q not found", required)
		}
	}
	return nil
}

// copier copies one source after the other.
type copier struct {
	*runner
	symbolic         *mode.Set
	include, exclude *patternmatcher.PatternMatcher
	parents          []parent
	links            []link // files with several names that were copied
	copied           map[string]bool
}

// parent is a directory that is made as soon as something in it is copied.
type parent struct {
	source string
	attr   filetree.Attr
	target string
	made   bool
}

type link struct {
	attr   filetree.Attr
	target string
}

// copy copies a source to a destination: into it if it is a directory.
func (c *copier) copy(source, dest string) error {
	perm := fs.FileMode(0o755)
	if c.action.Mode >= 0 && c.action.ModeStr == "" {
		perm = bits(c.action.Mode)
	}
	ensure := dest
	if dir, file := path.Split(dest); file != "" && file != "." {
		ensure = dir
	}
	if err := c.makeAll(ensure, perm); err != nil {
		return err
	}
	target, err := c.dst.Resolve(path.Clean(dest), true)
	if err != nil {
		return err
	}
	follow := c.action.FollowSymlink
	from := strings.TrimRight(source, "/")
	if from == "" {
		from = "/"
	}
	from, err = c.src.Resolve(from, follow)
	if err != nil {
		return notFound(err, source)
	}
	a, err := c.src.Lstat(from)
	if err != nil {
		return notFound(err, source)
	}
	existing, err := c.dst.Stat(target)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	contents := c.action.DirCopyContents
	if !contents && a.IsDir() && exists || !a.IsDir() && exists && existing.IsDir() {
		target = path.Join(target, path.Base(strings.TrimRight(source, "/")))
	}
	dir := path.Dir(target)
	if contents && a.IsDir() && !exists {
		dir = target
	}
	if err := c.makeAll(dir, perm); err != nil {
		return err
	}
	return c.one(from, "", target, a, patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
}

// notFound words the commonest mistake as BuildKit does.
func notFound(err error, source string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q: not found", source)
	}
	return err
}

// one copies a file, or a directory with what is in it. rel is its path below the
// source, which patterns are about.
func (c *copier) one(source, rel, target string, a filetree.Attr, parentInclude, parentExclude patternmatcher.MatchInfo) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	include, excluded := true, false
	var includeInfo, excludeInfo patternmatcher.MatchInfo
	var err error
	if rel != "" && c.include != nil {
		if include, includeInfo, err = c.include.MatchesUsingParentResults(rel, parentInclude); err != nil {
			return err
		}
	}
	if rel != "" && c.exclude != nil {
		if excluded, excludeInfo, err = c.exclude.MatchesUsingParentResults(rel, parentExclude); err != nil {
			return err
		}
		include = include && !excluded
	}
	if !include && !a.IsDir() {
		return nil
	}
	existing, existErr := c.dst.Lstat(target)
	exists := existErr == nil
	if include {
		if exists && c.action.AlwaysReplace && !(a.IsDir() && existing.IsDir()) {
			if err := c.dst.RemoveAll(target); err != nil {
				return err
			}
			exists = false
		}
		if err := c.makeParents(); err != nil {
			return err
		}
		if c.copied == nil {
			c.copied = map[string]bool{}
		}
		c.copied[source] = true
	}
	if a.IsDir() {
		return c.dir(source, rel, target, a, include, excluded, includeInfo, excludeInfo)
	}
	if exists && existing.IsDir() {
		return fmt.Errorf("cannot copy %s over the directory %s", source, target)
	}
	if exists {
		if err := c.dst.Remove(target); err != nil {
			return err
		}
	}
	for _, l := range c.links {
		if l.attr.SameFile(&a) {
			return c.dst.Link(l.target, target)
		}
	}
	if err := c.dst.Put(target, c.copiedAttr(a)); err != nil {
		return err
	}
	if a.SameFile(&a) {
		c.links = append(c.links, link{a, target})
	}
	return nil
}

// copiedAttr are the attributes that a copy has.
func (c *copier) copiedAttr(a filetree.Attr) filetree.Attr {
	if c.owner != nil {
		a.UID, a.GID = c.owner.uid, c.owner.gid
	}
	if !a.IsSymlink() {
		kind := a.Mode & fs.ModeType
		switch {
		case c.symbolic != nil:
			a.Mode = c.symbolic.Apply(a.Mode)&^fs.ModeType | kind
		case c.action.Mode >= 0:
			a.Mode = bits(c.action.Mode) | kind
		}
	}
	a.ModTime = c.time(a.ModTime)
	return a
}

func (c *copier) dir(source, rel, target string, a filetree.Attr, include, excluded bool, includeInfo, excludeInfo patternmatcher.MatchInfo) error {
	p := parent{source: source, attr: a, target: target}
	if include {
		if err := c.makeDir(target, a); err != nil {
			return err
		}
		p.made = true
	}
	c.parents = append(c.parents, p)
	defer func() { c.parents = c.parents[:len(c.parents)-1] }()
	if excluded && (c.exclude == nil || !c.exclude.Exclusions()) {
		return nil
	}
	children, err := c.src.ReadDir(source)
	if err != nil {
		return err
	}
	for _, child := range children {
		at := path.Join(source, child.Name)
		if err := c.one(at, strings.TrimPrefix(rel+"/"+child.Name, "/"), path.Join(target, child.Name), child.Attr, includeInfo, excludeInfo); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory like a; one that is there stays as it is.
func (c *copier) makeDir(target string, a filetree.Attr) error {
	existing, err := c.dst.Stat(target)
	switch {
	case err == nil && existing.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("cannot copy a directory over %s, which is none", target)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return c.dst.Put(target, c.copiedAttr(a))
}

func (c *copier) makeParents() error {
	for i, p := range c.parents {
		if p.made {
			continue
		}
		if err := c.makeDir(p.target, p.attr); err != nil {
			return err
		}
		c.parents[i].made = true
	}
	return nil
}
