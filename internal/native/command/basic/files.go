// Package basic has the small tools that scripts of RUN lines use to move files
// about, in the manner of busybox and GNU where both agree, and in that of the
// stage's own where they don't.
package basic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands gives the commands of this package.
func Commands() []*command.Command {
	var list []*command.Command
	for _, group := range [][]*command.Command{fileCommands(), moreFiles(), textCommands(), systemCommands(), accountCommands(), accountChanges(), capabilityCommands()} {
		list = append(list, group...)
	}
	return list
}

// tool makes a command of its options and what it does with them.
func tool(name string, o command.Options, run func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error)) *command.Command {
	return &command.Command{Name: name, Check: o.Check(name), Run: func(ctx context.Context, p *command.Proc) (int, error) {
		opt, err := o.Parse(name, p.Args[1:])
		if err != nil {
			return p.Failed(err)
		}
		return run(ctx, p, opt)
	}}
}

// reason is the text of an error as Unix tools write it.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, syscall.EEXIST), errors.Is(err, fs.ErrExist):
		return "File exists"
	case errors.Is(err, syscall.ENOTDIR):
		return "Not a directory"
	case errors.Is(err, syscall.EISDIR):
		return "Is a directory"
	case errors.Is(err, syscall.ENOTEMPTY):
		return "Directory not empty"
	case errors.Is(err, syscall.EROFS):
		return "Read-only file system"
	case errors.Is(err, syscall.ELOOP):
		return "Too many levels of symbolic links"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	}
	return err.Error()
}

// fatal are errors that are no answer to a command: the base can't be read.
func fatal(err error) bool {
	var p *fs.PathError
	return err != nil && !errors.As(err, &p)
}

// report writes what went wrong with one file; the error is for what ends the build.
func report(p *command.Proc, what, name string, err error) error {
	if fatal(err) {
		return err
	}
	_, _ = fmt.Fprintf(p.Stderr, "%s: %s '%s': %s\n", path.Base(p.Args[0]), what, name, reason(err))
	return nil
}

// mayWrite says whether the user may change what is in a directory.
func mayWrite(p *command.Proc, name string) error {
	if p.UID == 0 {
		return nil
	}
	a, err := p.Tree.Stat(name)
	if err != nil {
		return err
	}
	shift := 0
	switch {
	case a.UID == p.UID:
		shift = 6
	case a.GID == p.GID:
		shift = 3
	}
	if a.Mode.Perm()>>shift&0o3 != 0o3 {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return nil
}

// mayChange says whether the user may change the attributes of a file.
func mayChange(p *command.Proc, a filetree.Attr, name string) error {
	if p.UID == 0 || a.UID == p.UID {
		return nil
	}
	return &fs.PathError{Op: "chmod", Path: name, Err: fs.ErrPermission}
}

func fileCommands() []*command.Command {
	return []*command.Command{
		tool("mkdir", command.Options{Short: "pm:v", Long: []string{"parents", "mode=", "verbose"}, Same: map[string]string{"parents": "p", "mode": "m", "verbose": "v"}}, mkdir),
		tool("rmdir", command.Options{Short: "p", Long: []string{"parents"}, Same: map[string]string{"parents": "p"}}, rmdir),
		tool("rm", command.Options{Short: "rRfvd", Long: []string{"recursive", "force", "verbose", "dir"}, Same: map[string]string{"recursive": "r", "force": "f", "R": "r", "verbose": "v", "dir": "d"}}, rm),
		tool("touch", command.Options{Short: "camh", Long: []string{"no-create"}, Same: map[string]string{"no-create": "c"}}, touch),
		tool("ln", command.Options{Short: "sfnvT", Long: []string{"symbolic", "force", "no-dereference", "verbose", "no-target-directory"}, Same: map[string]string{"symbolic": "s", "force": "f", "no-dereference": "n", "verbose": "v", "no-target-directory": "T"}}, ln),
		tool("chmod", command.Options{Short: "Rfvc", Long: []string{"recursive", "silent", "quiet", "verbose", "changes"}, Same: map[string]string{"recursive": "R", "silent": "f", "quiet": "f", "verbose": "v", "changes": "c"},
			Plain: func(arg string) bool { return len(arg) > 1 && strings.ContainsRune("rwxXst", rune(arg[1])) }}, chmod),
		tool("chown", command.Options{Short: "Rfvhc", Long: []string{"recursive", "silent", "quiet", "verbose", "no-dereference", "changes"}, Same: map[string]string{"recursive": "R", "silent": "f", "quiet": "f", "verbose": "v", "no-dereference": "h", "changes": "c"}}, chown(false)),
		tool("chgrp", command.Options{Short: "Rfvhc", Long: []string{"recursive", "no-dereference"}, Same: map[string]string{"recursive": "R", "no-dereference": "h"}}, chown(true)),
		tool("cp", command.Options{Short: "rRapfvdPLHTnut:i", Long: []string{"recursive", "archive", "preserve=?", "force", "verbose", "no-dereference", "dereference", "no-target-directory", "no-clobber", "update", "target-directory="},
			Same: map[string]string{"recursive": "r", "archive": "a", "force": "f", "verbose": "v", "no-dereference": "P", "dereference": "L", "no-target-directory": "T", "no-clobber": "n", "update": "u", "target-directory": "t", "R": "r", "preserve": "p"}}, cp),
		tool("mv", command.Options{Short: "fvnTt:", Long: []string{"force", "verbose", "no-clobber", "no-target-directory", "target-directory="}, Same: map[string]string{"force": "f", "verbose": "v", "no-clobber": "n", "no-target-directory": "T", "target-directory": "t"}}, mv),
	}
}

func mkdir(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) == 0 {
		return p.Errorf("missing operand")
	}
	exit := 0
	for _, name := range opt.Args {
		at := p.Path(name)
		attr := p.Attr(0o777)
		err := error(nil)
		if opt.Has["v"] {
			format := "mkdir: created directory '%s'\n"
			if p.Dialect == command.Busybox {
				format = "created directory: '%s'\n"
			}
			var missing []string
			for one := path.Clean(name); one != "." && one != "/"; one = path.Dir(one) {
				if _, err := p.Tree.Lstat(p.Path(one)); !errors.Is(err, fs.ErrNotExist) || fatal(err) {
					break
				}
				missing = append(missing, one)
				if !opt.Has["p"] {
					break
				}
			}
			for i, one := range slices.Backward(missing) {
				if i > 0 && p.Dialect == command.Busybox {
					one += "/"
				}
				_, _ = fmt.Fprintf(p.Stdout, format, one)
			}
		}
		if opt.Has["p"] {
			if err = writableAncestor(p, at); err == nil {
				err = p.Tree.MkdirAll(at, attr)
			}
		} else if err = mayWrite(p, path.Dir(path.Clean(at))); err == nil {
			err = p.Tree.Mkdir(at, attr)
		}
		if err == nil && opt.Has["m"] {
			set, perr := mode.ParseWithUmask(opt.Values["m"], uint(p.Umask))
			if perr != nil {
				return p.Errorf("invalid mode '%s'", opt.Values["m"])
			}
			err = p.Tree.Update(at, true, func(a *filetree.Attr) { a.Mode = set.Apply(fs.ModeDir | 0o777) })
		}
		if err != nil {
			if err := report(p, "can't create directory", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// writableAncestor checks the deepest directory above name that exists.
func writableAncestor(p *command.Proc, name string) error {
	if p.UID == 0 {
		return nil
	}
	for dir := path.Clean(name); ; dir = path.Dir(dir) {
		if _, err := p.Tree.Stat(dir); err == nil {
			if dir == path.Clean(name) {
				return nil
			}
			return mayWrite(p, dir)
		} else if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return err
		}
	}
}

func rmdir(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	exit := 0
	for _, name := range opt.Args {
		at := p.Path(name)
		a, err := p.Tree.Lstat(at)
		if err == nil && !a.IsDir() {
			err = &fs.PathError{Op: "rmdir", Path: name, Err: syscall.ENOTDIR}
		}
		if err == nil {
			err = mayWrite(p, path.Dir(path.Clean(at)))
		}
		// -p goes on with the directories that were named, not with those above.
		for rest := path.Clean(name); err == nil; {
			if err = p.Tree.Remove(at); err != nil || !opt.Has["p"] {
				break
			}
			if rest = path.Dir(rest); rest == "." || rest == "/" {
				break
			}
			at = path.Dir(path.Clean(at))
		}
		if err != nil {
			if err := report(p, "failed to remove", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

func rm(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	recursive := opt.Has["r"] || opt.Has["R"]
	if len(opt.Args) == 0 && !opt.Has["f"] {
		return p.Errorf("missing operand")
	}
	exit := 0
	for _, name := range opt.Args {
		at := p.Path(name)
		last := path.Base(strings.TrimRight(name, "/"))
		if path.Clean(at) == "/" || last == "." || last == ".." {
			_, _ = fmt.Fprintf(p.Stderr, "rm: refusing to remove '%s'\n", name)
			exit = 1
			continue
		}
		a, err := p.Tree.Lstat(strings.TrimRight(at, "/"))
		switch {
		case errors.Is(err, fs.ErrNotExist) && !fatal(err) && opt.Has["f"]:
			continue
		case err == nil && a.IsDir() && !recursive && !opt.Has["d"]:
			err = &fs.PathError{Op: "rm", Path: name, Err: syscall.EISDIR}
		}
		if err == nil {
			err = mayWrite(p, path.Dir(strings.TrimRight(at, "/")))
		}
		if err == nil {
			if opt.Has["v"] && a.IsDir() {
				if err := removed(p, strings.TrimRight(at, "/"), name); err != nil {
					return 0, err
				}
			}
			if recursive {
				err = p.Tree.RemoveAll(strings.TrimRight(at, "/"))
			} else {
				err = p.Tree.Remove(at)
			}
		}
		if err == nil && opt.Has["v"] && !a.IsDir() {
			_, _ = fmt.Fprintf(p.Stdout, "removed '%s'\n", name)
		}
		if err != nil {
			if err := report(p, "can't remove", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// removed names everything below a directory, and itself, as rm -v does.
func removed(p *command.Proc, at, name string) error {
	children, err := p.Tree.ReadDir(at)
	if err != nil {
		return err
	}
	for _, c := range children {
		below := path.Join(name, c.Name)
		if !c.IsDir() {
			_, _ = fmt.Fprintf(p.Stdout, "removed '%s'\n", below)
		} else if err := removed(p, path.Join(at, c.Name), below); err != nil {
			return err
		}
	}
	kind := "removed directory "
	if p.Dialect == command.Busybox {
		kind = "removed directory: "
	}
	_, _ = fmt.Fprintf(p.Stdout, "%s'%s'\n", kind, strings.TrimRight(name, "/"))
	return nil
}

func touch(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) == 0 {
		return p.Errorf("missing file operand")
	}
	exit := 0
	for _, name := range opt.Args {
		at := p.Path(name)
		_, err := p.Tree.Stat(at)
		switch {
		case err == nil:
			err = p.Tree.Chtimes(at, true, p.Now)
		case errors.Is(err, fs.ErrNotExist) && !fatal(err) && opt.Has["c"]:
			err = nil
		case errors.Is(err, fs.ErrNotExist) && !fatal(err):
			if err = mayWrite(p, path.Dir(at)); err == nil {
				err = p.Tree.WriteFile(at, nil, p.Attr(0o666))
			}
		}
		if err != nil {
			if err := report(p, "cannot touch", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// isDir reports whether name leads to a directory; an error is one that ends the build.
func isDir(p *command.Proc, name string) (bool, error) {
	a, err := p.Tree.Stat(name)
	if fatal(err) {
		return false, err
	}
	return err == nil && a.IsDir(), nil
}

func ln(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) == 0 {
		return p.Errorf("missing file operand")
	}
	targets, dest := opt.Args, "."
	if len(opt.Args) > 1 {
		targets, dest = opt.Args[:len(opt.Args)-1], opt.Args[len(opt.Args)-1]
	}
	into, err := isDir(p, p.Path(dest))
	if err != nil {
		return 0, err
	}
	if a, err := p.Tree.Lstat(p.Path(dest)); err == nil && a.IsSymlink() && opt.Has["n"] || opt.Has["T"] {
		into = false
	}
	exit := 0
	for _, target := range targets {
		at := p.Path(dest)
		if into {
			at = path.Join(at, path.Base(target))
		}
		err := mayWrite(p, path.Dir(at))
		if err == nil && opt.Has["f"] {
			if a, lerr := p.Tree.Lstat(at); lerr == nil && !a.IsDir() {
				err = p.Tree.Remove(at)
			}
		}
		if err == nil {
			if opt.Has["s"] {
				err = p.Tree.Symlink(target, at, p.Attr(0o777))
			} else {
				err = p.Tree.Link(p.Path(target), at)
			}
		}
		if err != nil {
			if err := report(p, "failed to create link", at, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// each calls do for a file, and for everything below it if it is to be recursive.
func each(p *command.Proc, name string, recursive bool, do func(at string, a filetree.Attr) error) error {
	at := p.Path(name)
	if !recursive {
		a, err := p.Tree.Stat(at)
		if err != nil {
			return err
		}
		return do(at, a)
	}
	if a, err := p.Tree.Stat(at); err != nil {
		return err
	} else if a.IsDir() {
		resolved, err := p.Tree.Resolve(at, true)
		if err != nil {
			return err
		}
		at = resolved
	}
	return p.Tree.Walk(at, do)
}

func chmod(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) < 2 {
		return p.Errorf("missing operand")
	}
	set, err := mode.ParseWithUmask(opt.Args[0], uint(p.Umask))
	if err != nil {
		return p.Errorf("invalid mode: '%s'", opt.Args[0])
	}
	exit := 0
	for _, name := range opt.Args[1:] {
		err := each(p, name, opt.Has["R"], func(at string, a filetree.Attr) error {
			if a.IsSymlink() {
				return nil
			}
			if err := mayChange(p, a, at); err != nil {
				return err
			}
			return p.Tree.Update(at, true, func(a *filetree.Attr) { a.Mode = set.Apply(a.Mode) })
		})
		if err != nil {
			if fatal(err) {
				return 0, err
			}
			if !opt.Has["f"] {
				_ = report(p, "cannot access", name, err)
			}
			exit = 1
		}
	}
	return exit, nil
}

func chown(groupOnly bool) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		if len(opt.Args) < 2 {
			return p.Errorf("missing operand")
		}
		spec := opt.Args[0]
		if groupOnly {
			spec = ":" + spec
		}
		uid, gid, err := owner(p, spec)
		if err != nil {
			if fatal(err) {
				var m message
				if errors.As(err, &m) {
					return p.Errorf("%s", m)
				}
				return 0, err
			}
			return p.Errorf("%v", err)
		}
		exit := 0
		for _, name := range opt.Args[1:] {
			follow := !opt.Has["R"] && !opt.Has["h"]
			change := func(at string, a filetree.Attr) error {
				if p.UID != 0 && (uid >= 0 && uid != a.UID || a.UID != p.UID) {
					return &fs.PathError{Op: "chown", Path: at, Err: fs.ErrPermission}
				}
				return p.Tree.Update(at, follow, func(a *filetree.Attr) {
					if uid >= 0 {
						a.UID = uid
					}
					if gid >= 0 {
						a.GID = gid
					}
					if a.IsRegular() && a.Mode&0o111 != 0 {
						a.Mode &^= fs.ModeSetuid | fs.ModeSetgid // as Linux does (chown(2))
					}
					if _, has := a.Xattrs[capability]; has {
						a.Xattrs = maps.Clone(a.Xattrs)
						delete(a.Xattrs, capability)
					}
				})
			}
			link, err := p.Tree.Lstat(p.Path(name))
			if opt.Has["R"] && err == nil && link.IsSymlink() && !strings.HasSuffix(name, "/") {
				err = change(p.Path(name), link) // the link itself; what it leads to stays
			} else {
				err = each(p, name, opt.Has["R"], change)
			}
			if err != nil {
				if fatal(err) {
					return 0, err
				}
				if !opt.Has["f"] {
					_ = report(p, "cannot access", name, err)
				}
				exit = 1
			}
		}
		return exit, nil
	}
}

// capability is the extended attribute that a new owner takes away.
const capability = "security.capability"

// message is what a tool says to its user.
type message string

func (m message) Error() string { return string(m) }
