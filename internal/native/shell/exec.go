package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"

	"github.com/anyarch/anyarch/internal/native/command"
)

// own marks the name of a builtin that we do ourselves on its way from the call
// handler to the exec handler. No script can make such a name.
const own = "\x00"

// exec runs what is neither a function nor a builtin of the interpreter.
func (sh *session) exec(ctx context.Context, args []string) (err error) {
	defer sh.guard(&err)
	hc := interp.HandlerCtx(ctx)
	stdout := &pipeEnd{w: hc.Stdout}
	p := sh.proc(hc, args, stdout)
	var exit int
	if name, ok := strings.CutPrefix(args[0], own); ok {
		p.Args = append([]string{name}, args[1:]...)
		b := sh.builtins()[name]
		if b == nil {
			exit, err = sh.find(ctx, p, line(hc))
		} else {
			var inner error
			exit, inner, err = b(ctx, hc, p)
			if err == nil && inner != nil {
				return inner
			}
		}
	} else {
		exit, err = sh.find(ctx, p, line(hc))
	}
	switch {
	case err != nil:
		return sh.fail(err)
	case stdout.broken.Load() && ctx.Err() == nil:
		// Nobody reads: the command, or the shell that has it as a builtin, would
		// have been killed by SIGPIPE.
		return hc.Builtin(ctx, []string{"exit", "141"})
	case exit != 0:
		return interp.ExitStatus(uint8(exit)) //nolint:gosec // exit codes are bytes
	}
	return nil
}

func line(hc interp.HandlerContext) int { return max(1, int(hc.Pos.Line())) } //nolint:gosec // small

// pipeEnd notices that its reader is gone.
type pipeEnd struct {
	w      io.Writer
	broken atomic.Bool
}

func (e *pipeEnd) Write(b []byte) (int, error) {
	n, err := e.w.Write(b)
	if err != nil && (errors.Is(err, syscall.EPIPE) || errors.Is(err, fs.ErrClosed)) {
		e.broken.Store(true)
	}
	return n, err
}

// proc is a call as commands see it.
func (sh *session) proc(hc interp.HandlerContext, args []string, stdout io.Writer) *command.Proc {
	env := exported(hc.Env)
	env["PWD"] = hc.Env.Get("PWD").Str
	p := &command.Proc{
		Tree: sh.o.Tree, Dir: sh.physical(sh.dir(hc)), Env: env, Args: args,
		Stdin: hc.Stdin, Stdout: stdout, Stderr: hc.Stderr, UID: sh.o.UID, GID: sh.o.GID, Umask: sh.umask(hc.Env),
		Platform: sh.o.Platform, Dialect: sh.o.CommandDialect, Now: sh.o.Now, Run: sh.runProc,
	}
	if hc.Stdin == nil {
		p.Stdin = strings.NewReader("")
	}
	return p
}

// runProc runs a command for another one, such as env or xargs.
func (sh *session) runProc(ctx context.Context, p *command.Proc) (exit int, err error) {
	defer sh.guard(&err)
	if len(p.Args) == 0 {
		return 0, errors.New("a command without a name was run")
	}
	if p.Run == nil {
		p.Run = sh.runProc
	}
	return sh.find(ctx, p, 0)
}

// found is where a command is: a command of ours, a file of the tree, or both, when
// ours stands for the file.
type found struct {
	path    string
	command *command.Command
}

// binDir reports whether a directory is one that holds the tools of a system, for
// which our commands stand.
func binDir(dir string) bool {
	switch path.Clean(dir) {
	case "/bin", "/sbin", "/usr/bin", "/usr/sbin":
		return true
	}
	return false
}

func goDir(dir, name string) bool {
	return path.Clean(dir) == "/usr/local/go/bin" && (name == "go" || name == "gofmt")
}

// which looks a command up as a shell does, by PATH. A file that somebody put into
// another directory than those of the system comes before our command.
func (sh *session) which(name, pathList, cwd string) (found, bool) {
	cmd := sh.o.Commands[name]
	if strings.Contains(name, "/") {
		at := sh.abs(cwd, name)
		base := path.Base(name)
		if c := sh.o.Commands[base]; c != nil && (binDir(path.Dir(at)) || goDir(path.Dir(at), base)) {
			return found{at, c}, true
		}
		fi, err := sh.lookup(at, true)
		if err != nil || fi.IsDir() {
			return found{at, nil}, false
		}
		return found{at, nil}, true
	}
	unreadable := 0 // how many directories of a base that wasn't read may have it
	for dir := range strings.SplitSeq(pathList, ":") {
		if dir == "" {
			dir = "."
		}
		at := strings.TrimSuffix(sh.abs(cwd, dir), "/") + "/" + name
		ours := cmd != nil && (binDir(dir) || goDir(dir, name))
		a, there, unread := sh.peek(at)
		if unread {
			unreadable++
		}
		if unread && cmd == nil {
			if sh.o.Absent != nil {
				if err := sh.o.Absent(name); err != nil {
					_ = sh.fail(err)
					return found{}, false
				}
			}
			fi, err := sh.lookup(at, true)
			if there = err == nil; there {
				a = fi.(info).Attr
			}
		}
		switch {
		case ours && (there || unread && goDir(dir, name)):
			return found{at, cmd}, true
		case there && !a.IsDir() && sh.allowed(at, 1) == nil:
			return found{at, nil}, true
		}
	}
	if cmd == nil || unreadable == 0 && notInBases(name, sh.o.CommandDialect) && sh.hasShell() {
		return found{}, false
	}
	dir := "/usr/bin"
	if sh.o.CommandDialect == command.Busybox && strings.Contains(busyboxBin, " "+name+" ") {
		dir = "/bin"
	}
	return found{dir + "/" + name, cmd}, true
}

// notInBases reports whether a command of ours is one that an Alpine or a Debian has
// only if a package with it was installed: scripts ask whether it is there.
func notInBases(name string, d command.Dialect) bool {
	if d == command.Busybox {
		return strings.Contains(" bash curl dash git update-ca-certificates zip ", " "+name+" ")
	}
	return strings.Contains(" ash busybox curl git nc unzip update-ca-certificates wget xxd zip ", " "+name+" ")
}

// hasShell reports whether the tree has a shell: it is a system then, and not a few
// files that stand for one.
func (sh *session) hasShell() bool {
	fi, err := sh.lookup("/bin/sh", true)
	return err == nil && !fi.IsDir()
}

// busyboxBin are the applets that Alpine has in /bin; others are in /usr/bin.
const busyboxBin = " arch ash base64 cat chgrp chmod chown cp date dd df dmesg echo ed egrep false fgrep fsync getopt grep gunzip gzip hostname kill link linux32 linux64 ln login ls lzop mkdir mknod mktemp more mount mountpoint mv netstat nice pidof ping ping6 printenv ps pwd rev rm rmdir run-parts sed setpriv sh sleep stat stty su sync tar touch true umount uname usleep watch zcat "

// find looks a command up and runs it.
func (sh *session) find(ctx context.Context, p *command.Proc, at int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	name := p.Args[0]
	f, ok := sh.which(name, p.Env["PATH"], p.Dir)
	if err := sh.failed(); err != nil {
		return 0, err
	}
	if f.command != nil {
		return f.command.Run(ctx, p)
	}
	if run := sh.alsoPrograms()[path.Base(name)]; run != nil && (binDir(path.Dir(f.path)) || !ok && !strings.Contains(name, "/")) {
		return run(p)
	}
	if !ok {
		return sh.notFound(p, f.path, at)
	}
	return sh.program(ctx, f.path, p, at)
}

func (sh *session) notFound(p *command.Proc, at string, line int) (int, error) {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		if fi, err := sh.lookup(at, true); err == nil && fi.IsDir() {
			text := "Is a directory"
			if sh.script.Dialect != Bash {
				text = "Permission denied"
			}
			sh.complain(p.Stderr, line, name, text)
			return 126, nil
		}
	}
	switch {
	case strings.Contains(name, "/") && sh.script.Dialect == Bash:
		sh.complain(p.Stderr, line, name, "No such file or directory")
	case sh.script.Dialect == Bash:
		sh.complain(p.Stderr, line, name, "command not found")
	default:
		sh.complain(p.Stderr, line, name, "not found")
	}
	return 127, nil
}

// complain writes a message as the dialect's shell does.
func (sh *session) complain(w io.Writer, line int, name, text string) {
	where := ": "
	switch {
	case line <= 0:
	case sh.script.Dialect == Dash:
		where = ": " + strconv.Itoa(line) + ": "
	case sh.script.Dialect == Bash:
		where = ": line " + strconv.Itoa(line) + ": "
	}
	_, _ = fmt.Fprintf(w, "%s%s%s: %s\n", sh.script.name(), where, name, text)
}

// program runs a file of the tree: a script by its first line, anything else by
// Options.Exec.
func (sh *session) program(ctx context.Context, at string, p *command.Proc, line int) (int, error) {
	if err := sh.allowed(at, 1); err != nil {
		if f := sh.failed(); f != nil {
			return 0, f
		}
		sh.complain(p.Stderr, line, p.Args[0], "Permission denied")
		return 126, nil
	}
	head, err := sh.head(at)
	if err != nil {
		return 0, sh.fail(err)
	}
	if text, ok := strings.CutPrefix(head, "#!"); ok {
		text, _, _ = strings.Cut(text, "\n")
		interpreter, arg, _ := strings.Cut(strings.TrimSpace(text), " ")
		arg = strings.TrimSpace(arg)
		if path.Base(interpreter) == "env" && !strings.ContainsAny(arg, " \t=") && !strings.HasPrefix(arg, "-") {
			interpreter, arg = arg, ""
		}
		if f, ok := sh.which(interpreter, p.Env["PATH"], p.Dir); ok && f.command != nil && isShell(path.Base(interpreter)) {
			args := []string{interpreter}
			if arg != "" {
				args = append(args, arg)
			}
			q := *p
			q.Args = append(append(args, at), p.Args[1:]...)
			return f.command.Run(ctx, &q)
		} else if !ok {
			text := "not found"
			if sh.script.Dialect == Bash {
				text = "cannot execute: required file not found"
			}
			sh.complain(p.Stderr, line, p.Args[0], text)
			return 127, nil
		}
	} else if plainText(head) {
		// A text without a first line that says who reads it: shells run it themselves.
		return sh.nested(ctx, p, Script{Dialect: sh.script.Dialect, Name: p.Args[0], Args: p.Args[1:]}, at)
	}
	if sh.o.Exec != nil {
		exit, found, err := sh.o.Exec(ctx, at, p)
		if err != nil || found {
			return exit, err
		}
	}
	return 0, &command.Unsupported{Command: p.Args[0], What: "running the program " + at + " of the image"}
}

func (sh *session) head(at string) (string, error) {
	r, err := sh.o.Tree.Open(at)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	b := make([]byte, 256)
	n, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return string(b[:n]), err
}

// plainText is how shells tell a script from a program: no zero byte in its first line.
func plainText(head string) bool {
	first, _, _ := strings.Cut(head, "\n")
	return !strings.Contains(first, "\x00")
}

// umask is what a shell, or subshell, has set.
func (sh *session) umask(env expand.Environ) fs.FileMode {
	if v := env.Get(umaskVariable); v.IsSet() {
		if n, err := strconv.ParseUint(v.Str, 8, 12); err == nil {
			return fs.FileMode(n)
		}
	}
	if sh.o.Umask != nil {
		return *sh.o.Umask
	}
	return 0o022
}
