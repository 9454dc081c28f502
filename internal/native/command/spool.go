package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/filetree"
)

const (
	spoolMemory = 1 << 20 // bytes of a file that is being written that are kept in memory
	maxMemory   = 1 << 30 // bytes of one file if there is nowhere else to keep them
)

// Spool takes the content of a file that is being written: what is small stays in
// memory, the rest goes to a file of the host's directory for such things. With no
// such directory everything stays in memory.
type Spool struct {
	Scratch string // outlives the tree; may be empty

	memory []byte
	file   *os.File
	size   int64
}

func (s *Spool) Write(b []byte) (int, error) {
	switch {
	case s.file == nil && len(s.memory)+len(b) <= spoolMemory:
	case s.file == nil && s.Scratch == "":
		if len(s.memory)+len(b) > maxMemory {
			return 0, fmt.Errorf("a file is larger than %d bytes", maxMemory)
		}
	case s.file == nil:
		f, err := os.CreateTemp(s.Scratch, "anyarch-spool-*")
		if err != nil {
			return 0, fmt.Errorf("keep what is written: %w", err)
		}
		s.file = f
		if _, err := f.Write(s.memory); err != nil {
			return 0, fmt.Errorf("keep what is written: %w", err)
		}
		s.memory = nil
	}
	s.size += int64(len(b))
	if s.file == nil {
		s.memory = append(s.memory, b...)
		return len(b), nil
	}
	n, err := s.file.Write(b)
	if err != nil {
		err = fmt.Errorf("keep what is written: %w", err)
	}
	return n, err
}

// Size is how much was written.
func (s *Spool) Size() int64 { return s.size }

// Content ends the writing and gives what was written; nil if it was nothing.
func (s *Spool) Content() (filetree.Content, error) {
	if s.file == nil {
		if len(s.memory) == 0 {
			return nil, nil
		}
		return filetree.Bytes(s.memory).Content(), nil
	}
	name := s.file.Name()
	if err := s.file.Close(); err != nil {
		return nil, fmt.Errorf("keep what is written: %w", err)
	}
	return filetree.FileContent(name, s.size), nil
}

// Discard ends the writing and forgets what was written.
func (s *Spool) Discard() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name())
	}
	s.memory, s.file = nil, nil
}

// Create opens a file of the tree for writing, as a shell's > and >> do. The file
// is there, and empty, from now on; it has its content when the writer is closed,
// and not at all if that isn't called. An error is a *fs.PathError, or is [Fatal].
func (p *Proc) Create(name string, appending bool, scratch string) (io.WriteCloser, error) {
	at := p.Path(name)
	switch path.Clean(at) {
	case "/dev/null":
		return stream{io.Discard}, nil
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1":
		return stream{p.Stdout}, nil
	case "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		return stream{p.Stderr}, nil
	case "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/stdin":
		return nil, &Unsupported{Command: path.Base(p.Args[0]), What: "writing to the device " + name}
	}
	if name == "" || strings.HasSuffix(at, "/") {
		err := syscall.EISDIR
		if name == "" {
			err = syscall.ENOENT
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	target, err := p.Tree.Resolve(at, true)
	if err != nil {
		return nil, err
	}
	o := &output{p: p, name: target, attr: p.Attr(0o666), spool: Spool{Scratch: scratch}}
	a, err := p.Tree.Stat(target)
	switch {
	case err == nil && a.IsDir():
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	case err == nil && !a.IsRegular():
		return nil, &Unsupported{Command: path.Base(p.Args[0]), What: "writing to the device or pipe " + name}
	case err == nil:
		if err := p.allowed(name, &a, 2); err != nil {
			return nil, err
		}
		if appending && a.Content != nil {
			r, err := a.Open()
			if err == nil {
				_, err = io.Copy(&o.spool, &content{r, name})
				_ = r.Close()
			}
			if err != nil {
				o.spool.Discard()
				return nil, fmt.Errorf("append to %s: %w", name, err)
			}
			return o, nil
		}
	case !errors.Is(err, fs.ErrNotExist) || Fatal(err):
		return nil, err
	default:
		if err := p.MayChangeIn(path.Dir(target)); err != nil {
			return nil, err
		}
		parent, err := p.Tree.Stat(path.Dir(target))
		if err != nil {
			return nil, err
		}
		if parent.Mode&fs.ModeSetgid != 0 {
			o.attr.GID = parent.GID
		}
	}
	if err := p.Tree.WriteFile(target, nil, o.attr); err != nil {
		return nil, err
	}
	return o, nil
}

// output is a file that is being written.
type output struct {
	p     *Proc
	name  string
	attr  filetree.Attr
	spool Spool
}

func (o *output) Write(b []byte) (int, error) { return o.spool.Write(b) }

// Close puts what was written into the tree. A file that was removed in the
// meantime has no name any more: what was written to it is lost, as everywhere.
func (o *output) Close() error {
	if _, err := o.p.Tree.Lstat(o.name); err != nil {
		o.spool.Discard()
		if errors.Is(err, fs.ErrNotExist) && !Fatal(err) {
			return nil
		}
		return err
	}
	c, err := o.spool.Content()
	if err != nil {
		return err
	}
	return o.p.Tree.WriteFile(o.name, c, o.attr)
}

// stream is a file that is open already.
type stream struct{ io.Writer }

func (stream) Close() error { return nil }
