package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"mvdan.cc/sh/v3/interp"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

const (
	sourcePrefix  = "\x00source/"      // names of rewritten texts; no script can make one
	clobberPrefix = "/.anyarch-force/" // what >| puts before a name, see rewrite.go
	memoryLimit   = 1 << 20            // bytes of a written file that are kept in memory
)

// open opens a file for a redirection, in the tree.
func (sh *session) open(ctx context.Context, name string, flag int, _ fs.FileMode) (f io.ReadWriteCloser, err error) {
	defer sh.guard(&err)
	hc := interp.HandlerCtx(ctx)
	if text, ok := strings.CutPrefix(name, sourcePrefix); ok {
		sh.mu.Lock()
		body := sh.sources[text]
		sh.mu.Unlock()
		return &file{r: strings.NewReader(body)}, nil
	}
	name, force := strings.CutPrefix(name, clobberPrefix)
	write := flag&(os.O_WRONLY|os.O_RDWR) != 0
	at := sh.abs(sh.dir(hc), name)
	switch path.Clean(at) {
	case "/dev/null":
		return &file{r: strings.NewReader(""), w: io.Discard}, nil
	case "/dev/zero":
		if write {
			return &file{w: io.Discard}, nil
		}
		return stream(io.NopCloser(zeros{}))
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1":
		return &file{w: hc.Stdout}, nil
	case "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		return &file{w: hc.Stderr}, nil
	case "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0":
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "a redirection from " + name, Fix: "leave the redirection out"})
	case "/dev/random", "/dev/urandom":
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: name + " (a build has to give the same every time)"})
	case "/dev/tty", "/dev/full":
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "the device " + name})
	}
	if strings.HasPrefix(path.Clean(at), "/dev/tcp/") || strings.HasPrefix(path.Clean(at), "/dev/udp/") || strings.HasPrefix(path.Clean(at), "/dev/fd/") {
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "the device " + name})
	}
	if !write {
		return sh.read(ctx, name, at)
	}
	noclobber := hc.Env.Get(clobberOff).Str == "1" && !force && flag&os.O_APPEND == 0
	return sh.create(hc, name, at, flag&os.O_APPEND != 0, noclobber)
}

// refused is a redirection that fails, as the dialect says it. The interpreter
// prints it as it is.
func (sh *session) refused(name string, creating bool, err error) error {
	text := reason(err)
	switch {
	case sh.script.Dialect == Bash && errors.Is(err, fs.ErrExist):
		text = "cannot overwrite existing file"
	case sh.script.Dialect == Bash:
	case creating && errors.Is(err, fs.ErrNotExist):
		text = "Directory nonexistent"
	case errors.Is(err, fs.ErrNotExist):
		text = "No such file"
	}
	doing := ""
	switch {
	case sh.script.Dialect == Dash && creating:
		doing = " cannot create"
	case sh.script.Dialect == Dash:
		doing = " cannot open"
	case sh.script.Dialect == Ash && creating:
		doing, text = " can't create", strings.ToLower(text[:1])+text[1:]
	case sh.script.Dialect == Ash:
		doing, text = " can't open", strings.ToLower(text[:1])+text[1:]
	}
	return &os.PathError{Op: sh.script.name() + ":" + doing, Path: name, Err: errors.New(text)}
}

func (sh *session) read(_ context.Context, name, at string) (io.ReadWriteCloser, error) {
	fi, err := sh.lookup(at, true)
	if err == nil {
		err = sh.allowed(at, 4)
	}
	if err != nil {
		if sh.failed() != nil {
			return nil, err
		}
		return nil, sh.refused(name, false, err)
	}
	a := fi.(info).Attr
	switch {
	case a.IsDir():
		// A shell opens it, and what reads from it fails.
		return &file{r: failing{syscall.EISDIR}}, nil
	case !a.IsRegular():
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "a redirection from the device or pipe " + name})
	}
	content, err := a.Open()
	if err != nil {
		return nil, sh.fail(fmt.Errorf("read %s: %w", at, err))
	}
	return stream(&checked{content, func(err error) { _ = sh.fail(fmt.Errorf("read %s: %w", at, err)) }})
}

// stream gives a reader as the read end of a pipe, which the interpreter takes as
// it is: closing it ends the copying.
func stream(r io.ReadCloser) (io.ReadWriteCloser, error) {
	pr, pw, err := os.Pipe()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go func() {
		_, _ = io.Copy(pw, r)
		_ = r.Close()
		_ = pw.Close()
	}()
	return pr, nil
}

// checked reports errors of reading: a pipe would hide them.
type checked struct {
	io.ReadCloser
	report func(error)
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		c.report(err)
	}
	return n, err
}

func (sh *session) create(hc interp.HandlerContext, name, at string, appending, noclobber bool) (io.ReadWriteCloser, error) {
	fail := func(err error) (io.ReadWriteCloser, error) {
		if f := sh.failed(); f != nil {
			return nil, f
		}
		return nil, sh.refused(name, true, err)
	}
	if name == "" {
		return fail(fs.ErrNotExist)
	}
	if strings.HasSuffix(at, "/") {
		return fail(syscall.EISDIR)
	}
	target, err := sh.o.Tree.Resolve(at, true)
	if err != nil {
		return fail(sh.known(err))
	}
	if appending {
		if w := sh.writers.share(target); w != nil {
			return &file{w: w, c: w}, nil
		}
	}
	w := &writer{sh: sh, name: target, users: 1, attr: filetree.Attr{Mode: 0o666 &^ sh.umask(hc.Env), UID: sh.o.UID, GID: sh.o.GID, ModTime: sh.o.Now, Made: true}}
	a, err := sh.o.Tree.Stat(target)
	switch {
	case err == nil && a.IsDir():
		return fail(syscall.EISDIR)
	case err == nil && noclobber && a.IsRegular():
		return fail(fs.ErrExist)
	case err == nil && !a.IsRegular():
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "a redirection to the device or pipe " + name})
	case err == nil:
		if err := sh.allowed(target, 2); err != nil {
			return fail(err)
		}
		if appending {
			if err := w.keep(a.Content); err != nil {
				return nil, sh.fail(fmt.Errorf("read %s: %w", target, err))
			}
			sh.writers.add(w)
			return &file{w: w, c: w}, nil
		}
	case !errors.Is(sh.known(err), fs.ErrNotExist):
		return fail(err)
	default:
		parent, err := sh.o.Tree.Stat(path.Dir(target))
		if err != nil {
			return fail(sh.known(err))
		}
		if !parent.IsDir() {
			return fail(syscall.ENOTDIR)
		}
		if err := sh.allowed(path.Dir(target), 3); err != nil {
			return fail(err)
		}
		if parent.Mode&fs.ModeSetgid != 0 {
			w.attr.GID = parent.GID
		}
	}
	// The file is there, and empty, from now on: the command may look at it.
	if err := sh.o.Tree.WriteFile(target, nil, w.attr); err != nil {
		return fail(sh.known(err))
	}
	sh.writers.add(w)
	return &file{w: w, c: w}, nil
}

// file is an opened file: one of reading and writing works.
type file struct {
	r io.Reader
	w io.Writer
	c io.Closer
}

func (f *file) Read(p []byte) (int, error) {
	if f.r == nil {
		return 0, syscall.EBADF
	}
	return f.r.Read(p)
}

func (f *file) Write(p []byte) (int, error) {
	if f.w == nil {
		return 0, syscall.EBADF
	}
	return f.w.Write(p)
}

func (f *file) Close() error {
	if f.c == nil {
		return nil
	}
	return f.c.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// writer collects what is written to a file of the tree. Every write can be seen
// in the tree at once, as `echo a > f; …` inside one redirection may read f. What is
// more than memoryLimit goes to a file in the scratch directory.
type writer struct {
	sh     *session
	mu     sync.Mutex
	users  int // openings that aren't closed; guarded by the mutex of openWriters
	name   string
	attr   filetree.Attr
	before filetree.Content // what was there, to append to
	memory []byte
	spool  *os.File
	size   int64
	dirty  bool
}

// keep makes content the beginning of what is written.
func (w *writer) keep(content filetree.Content) error {
	if content == nil || content.Size() > memoryLimit {
		w.before = content
		return nil
	}
	r, err := content.Open()
	if err != nil {
		return err
	}
	w.memory, err = io.ReadAll(r)
	return errors.Join(err, r.Close())
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if w.spool == nil && len(w.memory)+len(p) > memoryLimit {
		f, err := os.CreateTemp(w.sh.o.Scratch, "anyarch-write-*")
		if err != nil {
			return 0, w.sh.fail(fmt.Errorf("write %s: %w", w.name, err))
		}
		if _, err := f.Write(w.memory); err != nil {
			return 0, w.sh.fail(fmt.Errorf("write %s: %w", w.name, err))
		}
		w.spool, w.size, w.memory = f, int64(len(w.memory)), nil
	}
	if w.spool != nil {
		if _, err := w.spool.Write(p); err != nil {
			return 0, w.sh.fail(fmt.Errorf("write %s: %w", w.name, err))
		}
		w.size += int64(len(p))
	} else {
		w.memory = append(w.memory, p...)
	}
	w.dirty = true
	if w.spool == nil && w.before == nil {
		// Cheap as long as it is small; a growing slice is shared, never changed
		// where somebody has read it.
		return len(p), w.publish()
	}
	return len(p), nil
}

// publish puts what was written into the tree. A file that was removed or replaced
// in the meantime is a file without a name: what is written to it is lost.
func (w *writer) publish() error {
	var now filetree.Content
	switch {
	case w.spool != nil:
		now = spooled{&spoolFile{w.spool.Name(), w.size}}
	case len(w.memory) > 0:
		now = filetree.Bytes(w.memory[:len(w.memory):len(w.memory)]).Content()
	}
	if w.before != nil {
		now = joined{&joint{w.before, now}}
	}
	if _, err := w.sh.o.Tree.Lstat(w.name); err != nil {
		return w.sh.known(ignoreMissing(err))
	}
	if err := w.sh.o.Tree.WriteFile(w.name, now, w.attr); err != nil {
		return w.sh.fail(err)
	}
	w.dirty = false
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (w *writer) Close() error {
	if !w.sh.writers.done(w) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	if w.dirty {
		err = w.publish()
	}
	if w.spool != nil {
		if cerr := w.spool.Close(); err == nil && cerr != nil {
			err = w.sh.fail(fmt.Errorf("write %s: %w", w.name, cerr))
		}
	}
	return err
}

type spoolFile struct {
	name string
	size int64
}

// spooled is content in a scratch file. It is comparable, as contents have to be.
type spooled struct{ *spoolFile }

func (s spooled) Size() int64                  { return s.size }
func (s spooled) Open() (io.ReadCloser, error) { return os.Open(s.name) }

type joint struct{ first, second filetree.Content }

// joined is one content after another: what >> makes.
type joined struct{ *joint }

func (j joined) Size() int64 { return j.first.Size() + j.second.Size() }

func (j joined) Open() (io.ReadCloser, error) {
	first, err := j.first.Open()
	if err != nil {
		return nil, err
	}
	second, err := j.second.Open()
	if err != nil {
		_ = first.Close()
		return nil, err
	}
	return &both{io.MultiReader(first, second), first, second}, nil
}

type both struct {
	io.Reader
	first, second io.Closer
}

func (b *both) Close() error { return errors.Join(b.first.Close(), b.second.Close()) }

// openWriters are the files that are being written, so that two redirections that
// append to one file (>>log 2>>log) do so.
type openWriters struct {
	mu   sync.Mutex
	list map[string]*writer
}

func (o *openWriters) add(w *writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list == nil {
		o.list = map[string]*writer{}
	}
	o.list[w.name] = w
}

func (o *openWriters) share(name string) *writer {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.list[name]
	if w != nil {
		w.users++
	}
	return w
}

// done reports whether nobody writes any more.
func (o *openWriters) done(w *writer) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w.users--; w.users > 0 {
		return false
	}
	if o.list[w.name] == w {
		delete(o.list, w.name)
	}
	return true
}
