package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/filetree"
)

// Reason is the text of an error in the words of the C library.
func Reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, syscall.ENOTEMPTY): // which is fs.ErrExist too
		return "Directory not empty"
	case errors.Is(err, syscall.EEXIST), errors.Is(err, fs.ErrExist):
		return "File exists"
	case errors.Is(err, syscall.ENOTDIR):
		return "Not a directory"
	case errors.Is(err, syscall.EISDIR):
		return "Is a directory"
	case errors.Is(err, syscall.ELOOP):
		return "Too many levels of symbolic links"
	case errors.Is(err, syscall.EROFS):
		return "Read-only file system"
	case errors.Is(err, syscall.EBUSY):
		return "Device or resource busy"
	case errors.Is(err, syscall.EINVAL):
		return "Invalid argument"
	case errors.Is(err, syscall.EPERM): // which is fs.ErrPermission too
		return "Operation not permitted"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	}
	return err.Error()
}

// Fatal reports whether an error is no answer to a command but ends the build: the
// base can't be read, or something was asked for that can't be done. An answer is a
// *fs.PathError itself; one that is wrapped deeper is of the host.
func Fatal(err error) bool {
	_, ok := err.(*fs.PathError) //nolint:errorlint // see above
	return err != nil && !ok
}

// Input opens a file for reading as a filter does: "-" is standard input.
func (p *Proc) Input(name string) (io.ReadCloser, error) {
	if name == "-" {
		return input{p.Stdin, name}, nil
	}
	return p.Open(name)
}

// Open opens a file for reading. An error is a *fs.PathError, or is [Fatal]; so is
// an error of reading.
func (p *Proc) Open(name string) (io.ReadCloser, error) {
	switch path.Clean(p.Path(name)) {
	case "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0":
		return input{p.Stdin, name}, nil
	case "/dev/null":
		return io.NopCloser(strings.NewReader("")), nil
	case "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
		return nil, &Unsupported{Command: path.Base(p.Args[0]), What: "the device " + name}
	}
	a, err := p.Tree.Stat(p.Path(name))
	if err != nil {
		return nil, err
	}
	if err := p.MayRead(name, &a); err != nil {
		return nil, err
	}
	if !a.IsDir() && !a.IsRegular() {
		return nil, &Unsupported{Command: path.Base(p.Args[0]), What: "reading the device or pipe " + name}
	}
	if a.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	r, err := a.Open()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &content{r, name}, nil
}

// input is standard input: that it can't be read is an answer.
type input struct {
	io.Reader
	name string
}

func (i input) Read(b []byte) (int, error) {
	n, err := i.Reader.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // a reader gives EOF as it is
		err = &fs.PathError{Op: "read", Path: i.name, Err: err}
	}
	return n, err
}

func (input) Close() error { return nil }

// content is a file of the tree: that it can't be read ends the build.
type content struct {
	io.ReadCloser
	name string
}

func (c *content) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // a reader gives EOF as it is
		err = fmt.Errorf("read %s: %w", c.name, err)
	}
	return n, err
}

// Permits reports whether the user who runs the command may read (4), write (2) or
// execute or search (1) a file, by its own mode alone. Root may do everything but
// execute what nobody may.
func (p *Proc) Permits(a *filetree.Attr, want uint32) (bool, error) {
	if p.UID == 0 {
		return want&1 == 0 || a.IsDir() || a.Mode&0o111 != 0, nil
	}
	bits := uint32(a.Mode.Perm())
	switch {
	case a.UID == p.UID:
		bits >>= 6
	case a.GID == p.GID:
		bits >>= 3
	case bits>>3&7 != bits&7:
		member, err := p.inGroup(a.GID)
		if err != nil {
			return false, err
		}
		if member {
			bits >>= 3
		}
	}
	return bits&want == want, nil
}

// inGroup reports whether the user is a further member of a group.
func (p *Proc) inGroup(gid int) (bool, error) {
	user, err := UserName(p.Tree, p.UID)
	if err != nil || user == "" {
		return false, err
	}
	list, err := database(p.Tree, group, 4)
	for _, f := range list {
		if f[2] != fmt.Sprint(gid) {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member == user {
				return true, nil
			}
		}
	}
	return false, err
}

func (p *Proc) allowed(name string, a *filetree.Attr, want uint32) error {
	ok, err := p.Permits(a, want)
	if err == nil && !ok {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return err
}

// MayRead says whether the user may read a file that is there, or list a directory:
// a *fs.PathError if not.
func (p *Proc) MayRead(name string, a *filetree.Attr) error { return p.allowed(name, a, 4) }

// MayWrite says whether the user may write to a file that is there: a *fs.PathError
// if not.
func (p *Proc) MayWrite(name string, a *filetree.Attr) error { return p.allowed(name, a, 2) }

// Replace puts a new file with this content in place of one that is there, whose
// attributes are old, as tools do that edit "in place": other names of the old file
// keep what they have, and a symbolic link at name is replaced. Its capabilities
// are lost.
func (p *Proc) Replace(name string, old filetree.Attr, c filetree.Content) error {
	at := p.Path(name)
	if err := p.MayChangeIn(path.Dir(path.Clean(at))); err != nil {
		return err
	}
	fresh := filetree.Attr{Mode: old.Mode, UID: old.UID, GID: old.GID, ModTime: p.Now, Content: c}
	if p.UID != 0 {
		fresh.UID, fresh.GID = p.UID, p.GID
	}
	if p.Dialect == Busybox {
		fresh.Mode &^= fs.ModeSetuid | fs.ModeSetgid // chown after chmod
	}
	return p.Tree.Put(at, fresh)
}

// MayChangeIn says whether the user may make and remove files in a directory, which
// has to be there: a *fs.PathError if not.
func (p *Proc) MayChangeIn(dir string) error {
	a, err := p.Tree.Stat(dir)
	if err == nil && !a.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return err
	}
	return p.allowed(dir, &a, 3)
}
