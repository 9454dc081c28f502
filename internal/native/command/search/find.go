// Package search has find: it walks the stage's tree in the order of names, which
// is the order of a directory there.
package search

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands gives the commands of this package.
func Commands() []*command.Command {
	return []*command.Command{{Name: "find", Check: check, Run: find}}
}

// check reads the expression in both dialects, as nothing says which one it is: what
// neither can do is refused before the build.
func check(args []*string) *command.Unsupported {
	var refused *command.Unsupported
	for _, dialect := range []command.Dialect{command.Busybox, command.GNU} {
		_, err := parse(args, dialect)
		if err == nil {
			return nil
		}
		if u := (*command.Unsupported)(nil); errors.As(err, &u) {
			refused = u
		}
	}
	return refused
}

// visit is a file that find comes to.
type visit struct {
	name  string // as it is printed
	start string // the argument that it is below
	at    string // in the tree
	depth int
	filetree.Attr
}

// finder is one call of find.
type finder struct {
	p       *command.Proc
	query   *query
	exit    int
	pruned  bool
	batches []*batch
}

// errQuit ends the walk: -quit, or nobody reads what is printed.
var errQuit = errors.New("quit")

func find(ctx context.Context, p *command.Proc) (int, error) {
	args := make([]*string, len(p.Args)-1)
	for i := range args {
		args[i] = &p.Args[i+1]
	}
	q, err := parse(args, p.Dialect)
	if err != nil {
		return p.Failed(err)
	}
	f := &finder{p: p, query: q}
	test, err := q.expression(f)
	if err != nil {
		if m := (*usage)(nil); errors.As(err, &m) {
			return p.Errorf("%s", m.text)
		}
		return 1, err
	}
	for _, name := range q.paths {
		if err = f.start(ctx, name, test); err != nil {
			break
		}
	}
	if errors.Is(err, errQuit) {
		// Of the tools only GNU's runs what is still to be run.
		if p.Dialect == command.Busybox {
			return f.exit, nil
		}
		err = nil
	}
	for _, b := range f.batches {
		if err == nil {
			err = b.flush(ctx)
		}
	}
	return f.exit, err
}

// problem writes what is wrong with a file; the error is for what ends the build.
func (f *finder) problem(format, name string, err error) error {
	if command.Fatal(err) {
		return err
	}
	if f.p.Dialect == command.GNU {
		name = "'" + name + "'"
	}
	_, _ = fmt.Fprintf(f.p.Stderr, "find: "+format+"%s: %s\n", name, command.Reason(err))
	f.exit = 1
	return nil
}

// start walks from one of the paths that find was called with.
func (f *finder) start(ctx context.Context, name string, test node) error {
	v := &visit{name: name, start: name, at: f.p.Path(name)}
	err := error(&fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist})
	if name != "" {
		v.Attr, err = f.stat(v.at, f.query.follow != followNothing)
	}
	if err != nil {
		return f.problem("", name, err)
	}
	return f.walk(ctx, v, test, nil)
}

// stat looks at a file; a link that leads nowhere is one even if links are followed.
func (f *finder) stat(at string, follow bool) (filetree.Attr, error) {
	if follow {
		a, err := f.p.Tree.Stat(at)
		if err == nil || command.Fatal(err) {
			return a, err
		}
	}
	return f.p.Tree.Lstat(at)
}

// walk comes to a file and, if it is a directory, to what is in it. above are the
// canonical paths of the directories on the way, if links are followed.
func (f *finder) walk(ctx context.Context, v *visit, test node, above []string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	q := f.query
	if f.query.follow == followAll && v.IsDir() {
		real, err := f.p.Tree.Resolve(v.at, true)
		if err != nil {
			return err
		}
		for _, dir := range above {
			if dir == real {
				return &command.Unsupported{Command: "find", What: "following symbolic links in a circle, at " + v.name + ",", Fix: "find without -L"}
			}
		}
		above = append(above[:len(above):len(above)], real)
	}
	apply := func() error {
		f.pruned = false
		if v.depth < q.minDepth {
			return nil
		}
		_, err := test.eval(ctx, v)
		return err
	}
	if !q.depthFirst {
		if err := apply(); err != nil {
			return err
		}
		if f.pruned {
			return nil
		}
	}
	if v.IsDir() && v.depth < q.maxDepth {
		if err := f.children(ctx, v, test, above); err != nil {
			return err
		}
	}
	if q.depthFirst {
		return apply()
	}
	return nil
}

func (f *finder) children(ctx context.Context, v *visit, test node, above []string) error {
	list, err := f.list(v)
	if err != nil {
		return f.problem("", v.name, err)
	}
	searchable, err := f.p.Permits(&v.Attr, 1)
	if err != nil {
		return err
	}
	for _, c := range list {
		child := &visit{name: join(v.name, c.Name), start: v.start, at: join(v.at, c.Name), depth: v.depth + 1, Attr: c.Attr}
		if !searchable {
			if err := f.problem("", child.name, &fs.PathError{Op: "stat", Path: child.name, Err: fs.ErrPermission}); err != nil {
				return err
			}
			continue
		}
		if f.query.changes || c.IsSymlink() && f.query.follow == followAll {
			// What was done since the directory was listed may have changed it.
			if child.Attr, err = f.stat(child.at, f.query.follow == followAll); err != nil {
				if err := f.problem("", child.name, err); err != nil {
					return err
				}
				continue
			}
		}
		if err := f.walk(ctx, child, test, above); err != nil {
			return err
		}
	}
	return nil
}

func (f *finder) list(v *visit) ([]filetree.Child, error) {
	// Links aren't followed where they come up, so neither here.
	at := v.at
	if a, err := f.stat(at, f.query.follow == followAll || f.query.follow == followArguments && v.depth == 0); err != nil {
		return nil, err
	} else if !a.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: v.name, Err: syscall.ENOTDIR}
	} else if err := f.p.MayRead(v.name, &a); err != nil {
		return nil, err
	}
	return f.p.Tree.ReadDir(at)
}

func join(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}

// base is the last element of a name, without slashes at its end.
func base(name string) string {
	if trimmed := strings.TrimRight(name, "/"); trimmed != "" {
		return trimmed[strings.LastIndexByte(trimmed, '/')+1:]
	}
	return "/"
}

func (f *finder) print(text string) error {
	if _, err := io.WriteString(f.p.Stdout, text); err != nil {
		return errQuit // nobody reads it
	}
	return nil
}

// isEmpty does -empty.
func (f *finder) isEmpty(v *visit) (bool, error) {
	if !v.IsDir() {
		return v.IsRegular() && v.Size() == 0, nil
	}
	list, err := f.list(v)
	if err != nil {
		return false, f.problem("", v.name, err)
	}
	return len(list) == 0, nil
}

func (f *finder) remove(v *visit) (bool, error) {
	if v.name == "." {
		return true, nil
	}
	at := strings.TrimRight(v.at, "/")
	err := f.p.MayChangeIn(path.Dir(at))
	if err == nil {
		a, lerr := f.p.Tree.Lstat(at)
		if err = lerr; err == nil && a.IsSymlink() && strings.HasSuffix(v.at, "/") {
			err = &fs.PathError{Op: "remove", Path: v.name, Err: syscall.ENOTDIR}
		}
	}
	if err == nil {
		err = f.p.Tree.Remove(at)
	}
	if err == nil {
		return true, nil
	}
	if f.p.Dialect == command.GNU {
		return false, f.problem("cannot delete ", v.name, err)
	}
	// busybox says so and goes on as if nothing had happened.
	exit := f.exit
	err = f.problem("", v.name, err)
	f.exit = exit
	return true, err
}

// newer does -newer. Files of one build have one time, so that the later of two
// can't be told.
func (f *finder) newer(v *visit, than time.Time) (bool, error) {
	if v.ModTime.Equal(than) && v.ModTime.Equal(f.p.Now) {
		return false, &command.Unsupported{Command: "find", What: "-newer with a file of this build (all of them have the same time)"}
	}
	return v.ModTime.After(than), nil
}

// sizeOf is the size of a file, as far as every file system says the same.
func sizeOf(v *visit) (size int64, known bool) {
	switch {
	case v.IsRegular():
		return v.Size(), true
	case v.IsSymlink():
		return int64(len(v.Link)), true
	case v.IsDir():
		return 0, false
	}
	return 0, true
}
