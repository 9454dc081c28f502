// Package shell runs the shell scripts of RUN lines on a file tree: nothing of the
// host is read, written or started.
//
// The language is that of mvdan.cc/sh. Where it differs from the shell that a
// script was written for, three things make up for it: a check that refuses what
// can't be done exactly, before anything runs ([Check]); a rewriting of the
// syntax tree, for what means something else there (rewrite.go); and builtins of
// our own, for those that would look at the host or answer in another way.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/platform"
)

// Dialect is the shell that a script is written for.
type Dialect string

// The dialects. The sh of Debian is dash, that of Alpine is ash.
const (
	Dash Dialect = "dash"
	Ash  Dialect = "ash"
	Bash Dialect = "bash"
)

// Script is a text and the shell that runs it.
type Script struct {
	Text    string
	Dialect Dialect
	Name    string   // $0, and what messages begin with; "sh" or "bash" if empty
	Options []string // between the shell and its -c, such as -e, -o and pipefail
	Args    []string // $1 and so on
}

func (s Script) name() string {
	switch {
	case s.Name != "":
		return s.Name
	case s.Dialect == Bash:
		return "bash"
	}
	return "sh"
}

// Options is the world that a script sees.
type Options struct {
	Tree           *filetree.Tree
	Dir            string   // working directory in the tree; "/" if empty
	Env            []string // name=value, the exported environment
	UID, GID       int
	User, Home     string // USER and HOME, where Env doesn't have them; may be empty
	Umask          *fs.FileMode
	Platform       platform.Platform
	Commands       command.Set
	CommandDialect command.Dialect
	// Exec runs a program of the tree, found at path (absolute), that is no shell
	// script. found is false if it can't be run; then the script is refused. May be nil.
	Exec func(ctx context.Context, path string, p *command.Proc) (exit int, found bool, err error)
	// Programs says that Exec runs the shells of the tree too: they get the scripts
	// that the interpreter can't read.
	Programs bool
	// Absent is asked about a command that is none of ours and would be in the part of
	// the tree that wasn't read. Its error ends the script; without one the tree is
	// read. May be nil.
	Absent  func(name string) error
	Stdin   io.Reader // nil is empty
	Stdout  io.Writer // as Stderr, may be written to concurrently with it, but never with itself
	Stderr  io.Writer
	Now     time.Time // the clock of the build
	Scratch string    // host directory for the content of large files; it has to outlive the tree
}

// maxDepth bounds shells in shells: a script that calls itself.
const maxDepth = 64

// Run runs a script and gives its exit code. The error is a *command.Unsupported,
// a cancelled context, a base that can't be read, or a fault of the interpreter;
// whatever a shell reports itself is text on Stderr and an exit code.
func Run(ctx context.Context, s Script, o Options) (exit int, err error) {
	return run(ctx, s, o, 0, &openWriters{})
}

func run(ctx context.Context, s Script, o Options, depth int, writers *openWriters) (exit int, err error) {
	defer func() {
		if p := recover(); p != nil {
			exit, err = 0, fault(s.name(), p)
		}
	}()
	if depth > maxDepth {
		return 0, &command.Unsupported{Command: s.name(), What: fmt.Sprintf("more than %d shells in one another", maxDepth)}
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	stdout, stderr := &lockedWriter{w: o.Stdout}, &lockedWriter{w: o.Stderr}
	prog, problems, perr := parse(s.Text, s.Dialect, s.name(), s.Options)
	if perr != nil {
		_, _ = fmt.Fprintf(stderr, "%s: Syntax error: %v\n", s.name(), perr)
		return 2, nil
	}
	if len(problems) > 0 {
		return 0, problems[0].Unsupported
	}
	prog.rewrite()
	file := prog.file
	options, hidden, u := shellOptions(s.Options, s.Dialect)
	if u != nil {
		return 0, u
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sh := &session{o: o, script: s, cancel: cancel, depth: depth, writers: writers, functions: prog.functions, errexit: prog.errexit, sources: map[string]string{}, stderr: stderr}
	env := newEnviron(sh)
	stdin, stop, err := pipe(o.Stdin)
	if err != nil {
		return 0, err
	}
	defer stop()
	params := append(options, "--")
	params = append(params, s.Args...)
	r, err := interp.New(
		func(r *interp.Runner) error { r.Dir = o.Dir; return nil }, // interp.Dir would look at the host
		interp.Env(env), interp.StdIO(stdin, stdout, stderr), interp.Params(params...),
		interp.CallHandler(sh.call), interp.OpenHandler(sh.open), interp.StatHandler(sh.stat),
		interp.AccessHandler(sh.access), interp.ReadDirHandler2(sh.readDir),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return sh.exec }),
	)
	if err != nil {
		return 0, err
	}
	r.Reset()
	env.ready = true
	if len(hidden) > 0 {
		text := strings.Join(hidden, "; ")
		first, err := syntax.NewParser().Parse(strings.NewReader(text), "")
		if err != nil {
			return 0, err
		}
		file.Stmts = append(first.Stmts, file.Stmts...)
	}
	err = r.Run(context.WithValue(ctx, sessionKey{}, sh), file)
	if failed := sh.failed(); failed != nil {
		return 0, failed
	}
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	var status interp.ExitStatus
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &status):
		return int(status), nil
	}
	return 0, err
}

func fault(name string, p any) error {
	return fmt.Errorf("%s: the shell interpreter failed: %v\n%s", name, p, firstLines(debug.Stack(), 24))
}

func firstLines(stack []byte, n int) string {
	lines := strings.SplitN(string(stack), "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// session is one shell while it runs, with its subshells.
type session struct {
	o         Options
	script    Script
	cancel    context.CancelCauseFunc
	depth     int
	writers   *openWriters // shared with shells in this one
	stderr    io.Writer
	mu        sync.Mutex
	err       error
	functions map[string]bool // that some text of the script defines
	errexit   bool
	sources   map[string]string // rewritten texts of . by the name they are opened with
}

type sessionKey struct{}

// fail ends the script with an error that no script can catch, such as a base
// that can't be read: most places where the interpreter calls us can't return one.
func (sh *session) fail(err error) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.err == nil {
		sh.err = err
	}
	sh.cancel(sh.err)
	return err
}

func (sh *session) failed() error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.err
}

// guard makes a panic in a handler the error of the script: handlers run in
// goroutines of the interpreter too, where Run could not recover.
func (sh *session) guard(err *error) {
	if p := recover(); p != nil {
		*err = sh.fail(fault(sh.script.name(), p))
	}
}

// lockedWriter is a writer for the concurrent stages of a pipe.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return len(p), nil
	}
	return l.w.Write(p)
}

// pipe makes a reader the read end of a pipe, which is what the interpreter wants
// as standard input. stop ends the copying.
func pipe(r io.Reader) (*os.File, func(), error) {
	if f, ok := r.(*os.File); ok && f != nil {
		return f, func() {}, nil // shared with the outer shell, which reads on where this one stops
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	go func() {
		if r != nil {
			_, _ = io.Copy(pw, r)
		}
		_ = pw.Close()
	}()
	return pr, func() { _ = pr.Close() }, nil
}
