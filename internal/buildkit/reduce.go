package buildkit

import (
	"context"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// needed are the paths of a file tree that what reads it looks at: those that are named,
// with everything below them, and the symbolic links on the way.
//
// A tree of these paths alone is as good as the whole one to whoever reads them, since
// each keeps its place, owner, mode, time and links, and those of its parents. More paths
// than are read never harm, so what is hard to tell is answered by more.
type needed struct {
	list  func(ctx context.Context, dir string) ([]*fstypes.Stat, error)
	known map[string]map[string]*fstypes.Stat // of directories that were listed
	paths map[string]bool
	dirs  map[string]bool // in which something is looked for, and need not be
}

// newNeeded prepares to look at a tree. The paths of directories that list is called with
// begin with a slash and have no links in them.
func newNeeded(list func(ctx context.Context, dir string) ([]*fstypes.Stat, error)) *needed {
	return &needed{list: list, known: map[string]map[string]*fstypes.Stat{}, paths: map[string]bool{}, dirs: map[string]bool{}}
}

// listRef lists directories of what a daemon made.
func listRef(ref gateway.Reference) func(context.Context, string) ([]*fstypes.Stat, error) {
	return func(ctx context.Context, dir string) ([]*fstypes.Stat, error) {
		return ref.ReadDir(ctx, gateway.ReadDirRequest{Path: dir})
	}
}

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 255

func (n *needed) entries(ctx context.Context, dir string) (map[string]*fstypes.Stat, error) {
	if known, ok := n.known[dir]; ok {
		return known, nil
	}
	list, err := n.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	entries := map[string]*fstypes.Stat{}
	for _, st := range list {
		entries[path.Base(st.Path)] = st
	}
	n.known[dir] = entries
	return entries, nil
}

// resolve follows the links of a path, and those on the way are needed. The last one is
// followed if follow is set. ok is false where nothing is there.
func (n *needed) resolve(ctx context.Context, name string, follow bool) (real string, ok bool, err error) {
	todo := components(name)
	real = "/"
	for links := 0; len(todo) > 0; {
		entries, err := n.entries(ctx, real)
		if err != nil {
			return "", false, err
		}
		st := entries[todo[0]]
		if st == nil {
			return "", false, nil
		}
		at := path.Join(real, todo[0])
		todo = todo[1:]
		mode := os.FileMode(st.Mode)
		switch {
		case mode&os.ModeSymlink != 0 && (len(todo) > 0 || follow):
			n.paths[at] = true
			if links++; links > maxLinks {
				return "", false, nil
			}
			target := st.Linkname
			if !path.IsAbs(target) {
				target = path.Join(real, target)
			}
			todo = append(components(target), todo...)
			real = "/"
			continue
		case len(todo) > 0 && !mode.IsDir():
			return "", false, nil
		}
		real = at
	}
	return real, true, nil
}

// components are the names in a path that has been cleaned.
func components(name string) []string {
	return strings.FieldsFunc(path.Clean("/"+name), func(r rune) bool { return r == '/' })
}

// add adds what is read.
func (n *needed) add(ctx context.Context, r read) error {
	name, follow := r.selector, true
	if r.copy != nil {
		name, follow = r.copy.Src, r.copy.FollowSymlink
		if names := components(name); r.copy.AllowWildcard {
			if i := slices.IndexFunc(names, wild); i >= 0 {
				base, ok, err := n.resolve(ctx, strings.Join(names[:i], "/"), follow)
				if err != nil || !ok {
					return err
				}
				n.dirs[base] = true
				return n.match(ctx, base, names[i:], r.copy)
			}
		}
	}
	return n.addPath(ctx, name, follow, r.copy)
}

func (n *needed) addPath(ctx context.Context, name string, follow bool, c *pb.FileActionCopy) error {
	real, ok, err := n.resolve(ctx, name, follow)
	if err != nil || !ok {
		return err
	}
	if c == nil || len(c.IncludePatterns) == 0 {
		n.paths[real] = true
		return nil
	}
	n.dirs[real] = true
	for _, pattern := range c.IncludePatterns {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		names := components(pattern)
		if i := slices.IndexFunc(names, wild); i >= 0 {
			names = names[:i]
		}
		n.paths[path.Join(real, path.Join(names...))] = true
	}
	return nil
}

// match adds the entries that the rest of a path with wildcards matches. Links to
// directories aren't followed by what copies, and neither are they here.
func (n *needed) match(ctx context.Context, dir string, names []string, c *pb.FileActionCopy) error {
	entries, err := n.entries(ctx, dir)
	if err != nil {
		return err
	}
	for name, st := range entries {
		if ok, err := path.Match(names[0], name); err != nil || !ok {
			continue
		}
		at := path.Join(dir, name)
		switch {
		case len(names) == 1:
			if err := n.addPath(ctx, at, c.FollowSymlink, c); err != nil {
				return err
			}
		case os.FileMode(st.Mode).IsDir():
			if err := n.match(ctx, at, names[1:], c); err != nil {
				return err
			}
		}
	}
	return nil
}

// wild reports whether a name may match others than itself.
func wild(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// patterns are the paths as BuildKit's copying has them, sorted; nil if everything is
// needed. There are no wildcards in them: a name that patterns can't say is had with the
// directory that it is in.
func (n *needed) patterns() []string {
	out := []string{}
	for p := range n.paths {
		names := components(p)
		if i := slices.IndexFunc(names, func(name string) bool { return !plainName(name) }); i >= 0 {
			names = names[:i]
		}
		if len(names) == 0 {
			return nil
		}
		out = append(out, strings.Join(names, "/"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func plainName(name string) bool {
	return strings.TrimSpace(name) == name && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-+@,=:%~ ", r)
	})
}
