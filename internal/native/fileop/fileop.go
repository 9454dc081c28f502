// Package fileop does what COPY, ADD and WORKDIR say, on file trees: BuildKit's
// file operations with their rules for destinations, wildcards, owners, modes and
// archives (moby/buildkit, solver/llbsolver/file; tonistiigi/fsutil, copy). Content
// is never read to be copied: both trees refer to it.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Options are what actions work with.
type Options struct {
	Scratch string    // host directory for the content of unpacked archives; outlives the trees
	Now     time.Time // of files that have no time of their own
}

// Run executes the actions of one operation on its inputs, which stay as they are,
// and gives its outputs. An output that no action names is nil.
func Run(ctx context.Context, actions []dockerfile.FileAction, inputs []*filetree.Tree, o Options) ([]*filetree.Tree, error) {
	results := make([]*filetree.Tree, len(actions))
	var outputs []*filetree.Tree
	tree := func(i int) (*filetree.Tree, error) {
		switch {
		case i < 0:
			return filetree.New(), nil // scratch
		case i < len(inputs):
			return inputs[i], nil
		case i-len(inputs) < len(results) && results[i-len(inputs)] != nil:
			return results[i-len(inputs)], nil
		}
		return nil, fmt.Errorf("the operation has no input %d", i)
	}
	for k, a := range actions {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		base, err := tree(a.Input)
		if err != nil {
			return nil, err
		}
		r := &runner{Options: o, ctx: ctx, action: a, dst: base.Fork()}
		if r.owner, err = owner(a.Owner, tree); err != nil {
			return nil, err
		}
		if a.Kind == dockerfile.ActionCopy {
			if r.src, err = tree(a.Secondary); err != nil {
				return nil, err
			}
		}
		if err := r.do(); err != nil {
			return nil, err
		}
		results[k] = r.dst
		if a.Output >= 0 {
			for len(outputs) <= a.Output {
				outputs = append(outputs, nil)
			}
			outputs[a.Output] = r.dst
		}
	}
	return outputs, nil
}

// user is who gets the files of an action.
type user struct{ uid, gid int }

// owner looks names up where the operation says: in the destination as it is then.
func owner(o *dockerfile.Owner, tree func(int) (*filetree.Tree, error)) (*user, error) {
	if o == nil || o.User == nil && o.Group == nil {
		return nil, nil
	}
	u := &user{}
	if p := o.User; p != nil {
		u.uid = p.ID
		if p.Name != "" {
			t, err := tree(p.Input)
			if err != nil {
				return nil, err
			}
			uid, gid, _, _, found, err := command.LookupUser(t, p.Name)
			if err != nil {
				return nil, err
			}
			if !found {
				return nil, fmt.Errorf("unable to find user %s: no matching entries in passwd file", p.Name)
			}
			u.uid, u.gid = uid, gid
		} else if o.Group == nil {
			u.gid = p.ID // as BuildKit: a numeric user without a group
		}
	}
	if p := o.Group; p != nil {
		u.gid = p.ID
		if p.Name != "" {
			t, err := tree(p.Input)
			if err != nil {
				return nil, err
			}
			gid, found, err := command.LookupGroup(t, p.Name)
			if err != nil {
				return nil, err
			}
			if !found {
				return nil, fmt.Errorf("unable to find group %s: no matching entries in group file", p.Name)
			}
			u.gid = gid
		}
	}
	return u, nil
}

// runner executes one action.
type runner struct {
	Options
	ctx      context.Context
	action   dockerfile.FileAction
	src, dst *filetree.Tree
	owner    *user
}

// attr are the attributes of what an action makes out of nothing.
func (r *runner) attr(perm fs.FileMode) filetree.Attr {
	a := filetree.Attr{Mode: perm, ModTime: r.time(r.Now), Made: r.owner == nil}
	if r.owner != nil {
		a.UID, a.GID = r.owner.uid, r.owner.gid
	}
	return a
}

// makeAll makes a directory and the parents that it lacks. In a directory with the
// setgid bit they get that bit, and its group unless they are to have an owner.
func (r *runner) makeAll(name string, perm fs.FileMode) error {
	var missing []string
	for dir := path.Clean(name); dir != "/"; dir = path.Dir(dir) {
		if _, err := r.dst.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, dir)
	}
	a := r.attr(perm)
	a.Made = true
	if err := r.dst.MkdirAll(name, a); err != nil || r.owner == nil {
		return err
	}
	for _, dir := range missing {
		if err := r.dst.Update(dir, true, func(b *filetree.Attr) { b.UID, b.GID = a.UID, a.GID }); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) time(otherwise time.Time) time.Time {
	if r.action.Timestamp >= 0 {
		return time.Unix(0, r.action.Timestamp).UTC()
	}
	return otherwise
}

func (r *runner) do() error {
	a := r.action
	switch a.Kind {
	case dockerfile.ActionMkdir:
		name, err := r.dst.Resolve(path.Join("/", a.Path), true)
		if err != nil && !(a.MakeParents && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		if a.MakeParents {
			return r.makeAll(path.Join("/", a.Path), bits(a.Mode))
		}
		if existing, err := r.dst.Stat(name); err == nil && existing.IsDir() {
			return nil
		}
		return r.dst.Mkdir(name, r.attr(bits(a.Mode)))
	case dockerfile.ActionMkfile:
		name, err := r.dst.Resolve(path.Join("/", a.Path), true)
		if err != nil {
			return err
		}
		attr := r.attr(bits(a.Mode).Perm())
		attr.Content = filetree.Bytes(a.Data).Content()
		return r.dst.Put(name, attr)
	case dockerfile.ActionSymlink:
		name, err := r.dst.Resolve(path.Join("/", a.Path), false)
		if err != nil {
			return err
		}
		return r.dst.Symlink(a.Dest, name, r.attr(0o777))
	case dockerfile.ActionRm:
		return r.remove()
	case dockerfile.ActionCopy:
		return r.copyAction()
	}
	return fmt.Errorf("file action %q is not known", a.Kind)
}

// bits turns permission bits of a system call into those of io/fs.
func bits(m int) fs.FileMode {
	out := fs.FileMode(m) & 0o777
	for bit, flag := range map[int]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			out |= flag
		}
	}
	return out
}

func (r *runner) remove() error {
	names := []string{path.Join("/", r.action.Path)}
	if r.action.AllowWildcard {
		var err error
		if names, err = wildcards(r.dst, cleanPath(r.action.Path), false); err != nil {
			return err
		}
	}
	for _, name := range names {
		if name == "/" {
			return errors.New("rmPath: invalid empty path")
		}
		dir, err := r.dst.Resolve(path.Dir(name), true)
		if err != nil {
			if r.action.AllowNotFound && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		at := path.Join(dir, path.Base(name))
		if !r.action.AllowNotFound {
			if _, err := r.dst.Stat(at); err != nil {
				return err
			}
		}
		if err := r.dst.RemoveAll(at); err != nil {
			return err
		}
	}
	return nil
}

// cleanPath cleans a path and keeps the slash at its end, which says that it is to
// be a directory.
func cleanPath(name string) string {
	cleaned := path.Join("/", name)
	if cleaned != "/" && (strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")) {
		cleaned += "/"
	}
	return cleaned
}

// hasWildcard reports whether a path element is a pattern (path.Match).
func hasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// wildcards gives the paths that a pattern matches, in order. A path without a
// pattern is itself, whether or not it exists.
func wildcards(t *filetree.Tree, pattern string, follow bool) ([]string, error) {
	elements := strings.Split(strings.Trim(pattern, "/"), "/")
	first := -1
	for i, e := range elements {
		if hasWildcard(e) {
			first = i
			break
		}
	}
	if first < 0 {
		return []string{strings.ReplaceAll(pattern, "\\", "")}, nil
	}
	root := "/" + strings.Join(elements[:first], "/")
	dir, err := t.Resolve(root, true)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	if !follow && dir != path.Clean(root) {
		dir = path.Clean(root)
	}
	want := strings.Join(elements[first:], "/")
	depth := strings.Count(want, "/")
	var list []string
	err = t.Walk(dir+"/", func(name string, a filetree.Attr) error {
		if name == dir {
			return nil
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
		ok, err := path.Match(want, rel)
		if err != nil {
			return err
		}
		if ok {
			list = append(list, name)
			if a.IsDir() {
				return fs.SkipDir
			}
		}
		if a.IsDir() && strings.Count(rel, "/") >= depth {
			return fs.SkipDir
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	sort.Strings(list)
	return list, err
}
