package shell

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mvdan.cc/sh/v3/interp"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// errUnread is how a lookup in a tree whose base isn't read yet ends, where that
// isn't worth reading it.
var errUnread = errors.New("the base isn't read yet")

// info is a file of the tree as the interpreter wants it.
type info struct {
	name string
	filetree.Attr
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.Attr.Size() }
func (i info) Mode() fs.FileMode          { return i.Attr.Mode }
func (i info) ModTime() time.Time         { return i.Attr.ModTime }
func (i info) IsDir() bool                { return i.Attr.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.Attr.Mode.Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }

const windowsHost = runtime.GOOS == "windows"

// hostSlashes undoes what the path functions of a Windows host did to a path.
func hostSlashes(name string) string {
	if windowsHost {
		return strings.ReplaceAll(name, `\`, "/")
	}
	return name
}

// known passes on the answer of the tree, but for a base that couldn't be read:
// that is no answer, and ends the script.
func (sh *session) known(err error) error {
	if err == nil {
		return nil
	}
	if p, ok := err.(*fs.PathError); ok { //nolint:errorlint // what is wrapped deeper is of the base
		return p
	}
	return sh.fail(err)
}

func (sh *session) stat(_ context.Context, name string, follow bool) (fi fs.FileInfo, err error) {
	defer sh.guard(&err)
	return sh.lookup(hostSlashes(name), follow)
}

func (sh *session) lookup(name string, follow bool) (fs.FileInfo, error) {
	var a filetree.Attr
	var err error
	if name == "" {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	if d, ok := device(name); ok {
		return info{path.Base(name), d}, nil
	}
	if follow {
		a, err = sh.o.Tree.Stat(name)
	} else {
		a, err = sh.o.Tree.Lstat(name)
	}
	if err != nil {
		return nil, sh.known(err)
	}
	return info{path.Base(name), a}, nil
}

// device gives the devices that every container has, whatever is in its image.
func device(name string) (filetree.Attr, bool) {
	switch path.Clean(name) {
	case "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
		return filetree.Attr{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}, true
	case "/dev/stdin", "/dev/stdout", "/dev/stderr":
		return filetree.Attr{Mode: fs.ModeNamedPipe | 0o600}, true
	}
	return filetree.Attr{}, false
}

func (sh *session) access(_ context.Context, name string, mode interp.AccessMode) (err error) {
	defer sh.guard(&err)
	return sh.allowed(hostSlashes(name), uint32(mode))
}

// allowed checks the permission of the script's user: 4 to read, 2 to write, 1 to
// execute or search. Root may do everything but execute what nobody may.
func (sh *session) allowed(name string, want uint32) error {
	denied := &fs.PathError{Op: "access", Path: name, Err: fs.ErrPermission}
	fi, err := sh.lookup(name, true)
	if err != nil {
		return err
	}
	a := fi.(info).Attr
	if sh.o.UID == 0 {
		if want&1 != 0 && !a.IsDir() && a.Mode&0o111 == 0 {
			return denied
		}
		return nil
	}
	if err := sh.searchable(name); err != nil {
		return err
	}
	if !sh.permits(a, want) {
		return denied
	}
	return nil
}

// searchable checks that the script's user may go where a file is.
func (sh *session) searchable(name string) error {
	if sh.o.UID == 0 {
		return nil
	}
	real, err := sh.o.Tree.Resolve(name, true)
	if err != nil {
		return sh.known(err)
	}
	for dir := real; dir != "/"; {
		dir = path.Dir(dir)
		a, err := sh.o.Tree.Stat(dir)
		if err != nil {
			return sh.known(err)
		}
		if !sh.permits(a, 1) {
			return &fs.PathError{Op: "access", Path: name, Err: fs.ErrPermission}
		}
	}
	return nil
}

func (sh *session) permits(a filetree.Attr, want uint32) bool {
	bits := uint32(a.Mode.Perm())
	switch {
	case a.UID == sh.o.UID:
		bits >>= 6
	case a.GID == sh.o.GID || bits>>3&7 != bits&7 && sh.inGroup(a.GID):
		bits >>= 3
	}
	return bits&want == want
}

// readDir lists a directory for patterns such as *.go.
func (sh *session) readDir(ctx context.Context, name string) (list []fs.DirEntry, err error) {
	defer sh.guard(&err)
	if windowsHost && hostSlashes(name) != interp.HandlerCtx(ctx).Dir {
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "a pattern in another directory, on a Windows host,", Fix: "cd there first, or use find"})
	}
	name = hostSlashes(name)
	children, err := sh.o.Tree.ReadDir(name)
	if err != nil {
		return nil, sh.known(err)
	}
	if sh.o.UID != 0 {
		if err := sh.allowed(name, 4); err != nil {
			return nil, err
		}
	}
	for _, c := range children {
		list = append(list, info{c.Name, c.Attr})
	}
	return list, nil
}

// homeOf finds the home directory of a user, in the tree.
func (sh *session) homeOf(user string) (string, bool) {
	home, found := "", false
	sh.entries("/etc/passwd", func(f []string) bool {
		if len(f) >= 6 && f[0] == user {
			home, found = f[5], true
		}
		return !found
	})
	return home, found
}

// inGroup reports whether the script's user is a further member of a group.
func (sh *session) inGroup(gid int) bool {
	user := ""
	sh.entries("/etc/passwd", func(f []string) bool {
		if len(f) >= 3 && f[2] == strconv.Itoa(sh.o.UID) {
			user = f[0]
		}
		return user == ""
	})
	member := false
	sh.entries("/etc/group", func(f []string) bool {
		if user != "" && len(f) >= 4 && f[2] == strconv.Itoa(gid) {
			for m := range strings.SplitSeq(f[3], ",") {
				member = member || m == user
			}
		}
		return !member
	})
	return member
}

func (sh *session) entries(name string, do func(fields []string) bool) {
	r, err := sh.o.Tree.Open(name)
	if err != nil {
		_ = sh.known(err)
		return
	}
	defer func() { _ = r.Close() }()
	lines := bufio.NewScanner(r)
	for lines.Scan() && do(strings.Split(lines.Text(), ":")) {
	}
}

// peek looks for a file without reading the base of a lazy tree for it: then
// unread is true.
func (sh *session) peek(name string) (a filetree.Attr, found, unread bool) {
	t := sh.o.Tree
	if t.Lazy() {
		t = t.WithLoader(func() (*filetree.Tree, error) { return nil, errUnread })
	}
	a, err := t.Stat(name)
	if errors.Is(err, errUnread) {
		return a, false, true
	}
	return a, err == nil, false
}

// physical is a directory without symbolic links, as the kernel knows it.
func (sh *session) physical(dir string) string {
	real, err := sh.o.Tree.Resolve(dir, true)
	if err != nil {
		_ = sh.known(err)
		return dir
	}
	return real
}

// abs is the path in the tree of a name that a script used.
func (sh *session) abs(dir, name string) string {
	if strings.HasPrefix(name, "/") || name == "" {
		return name
	}
	if real := sh.physical(dir); real != "/" {
		return real + "/" + name
	}
	return "/" + name
}

// reason is the text of an error in the words of the C library.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, syscall.ENOTDIR):
		return "Not a directory"
	case errors.Is(err, syscall.EISDIR):
		return "Is a directory"
	case errors.Is(err, syscall.ELOOP):
		return "Too many levels of symbolic links"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	case errors.Is(err, fs.ErrExist):
		return "File exists"
	}
	return err.Error()
}
