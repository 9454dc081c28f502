package shell

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

func isShell(name string) bool {
	switch name {
	case "sh", "ash", "dash", "bash":
		return true
	}
	return false
}

// Command is a shell as a command of scripts: sh -c TEXT, sh -e FILE, bash -euo
// pipefail -c TEXT and the like. It has to be called by a script that [Run] runs,
// whose surroundings it takes over. Its Check looks at the options; what the script
// does is looked at by the [Check] of the outer one.
func Command(name string, d Dialect) *command.Command {
	return &command.Command{
		Name: name,
		Check: func(args []*string) *command.Unsupported {
			_, u := parseCall(name, d, args)
			return u
		},
		Run: func(ctx context.Context, p *command.Proc) (int, error) {
			sh, ok := ctx.Value(sessionKey{}).(*session)
			if !ok {
				return 0, &command.Unsupported{Command: name, What: "a shell outside of a script"}
			}
			args := make([]*string, len(p.Args)-1)
			for i := range args {
				args[i] = &p.Args[i+1]
			}
			c, u := parseCall(name, d, args)
			if u != nil {
				return 0, u
			}
			c.script.Dialect = d
			c.script.Name = p.Args[0]
			switch {
			case c.text:
				if c.script.Text, c.script.Args = "", nil; len(c.rest) == 0 {
					_, _ = fmt.Fprintf(p.Stderr, "%s: -c requires an argument\n", p.Args[0])
					return 2, nil
				}
				c.script.Text = *c.rest[0]
				if len(c.rest) > 1 {
					c.script.Name = *c.rest[1]
					c.script.Args = values(c.rest[2:])
				}
				return sh.nested(ctx, p, c.script, "")
			case len(c.rest) > 0 && !c.stdin:
				c.script.Name, c.script.Args = *c.rest[0], values(c.rest[1:])
				return sh.nested(ctx, p, c.script, sh.abs(p.Dir, *c.rest[0]))
			}
			// The script comes from standard input.
			c.script.Args = values(c.rest)
			text, err := readAll(p.Stdin)
			if err != nil {
				return p.Errorf("%v", err)
			}
			c.script.Text = text
			q := *p
			q.Stdin = strings.NewReader("")
			return sh.nested(ctx, &q, c.script, "")
		},
	}
}

func values(args []*string) []string {
	var list []string
	for _, a := range args {
		list = append(list, *a)
	}
	return list
}

// maxScript bounds a script that is read from a file or a pipe.
const maxScript = 16 << 20

func readAll(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err == nil && len(b) > maxScript {
		err = fmt.Errorf("the script is over %d MiB", maxScript>>20)
	}
	return string(b), err
}

// call is the arguments of a shell.
type call struct {
	script  Script
	text    bool // -c
	stdin   bool // -s
	rest    []*string
	unknown bool // an argument that decides isn't known yet
}

// parseCall reads the arguments of a shell, nil where they aren't known.
func parseCall(name string, d Dialect, args []*string) (call, *command.Unsupported) {
	var c call
	for i := 0; i < len(args); i++ {
		if args[i] == nil {
			c.unknown = true
			return c, nil
		}
		a := *args[i]
		switch {
		case a == "--" || a == "-":
			c.rest = args[i+1:]
			return c, nil
		case d == Bash && (a == "--norc" || a == "--noprofile"):
			continue
		case strings.HasPrefix(a, "--"):
			return c, &command.Unsupported{Command: name, What: "option " + a}
		case len(a) < 2 || a[0] != '-' && a[0] != '+':
			c.rest = args[i:]
			return c, nil
		}
		keep := a[:1]
		for _, letter := range a[1:] {
			switch {
			case letter == 'c' && a[0] == '-':
				c.text = true
			case letter == 's' && a[0] == '-':
				c.stdin = true
			case letter == 'l' && a[0] == '-':
				return c, &command.Unsupported{Command: name, What: "option -l (a login shell)", Fix: "leave -l out, and source the profile"}
			case letter == 'o':
				if i++; i >= len(args) || args[i] == nil {
					c.unknown = true
					return c, nil
				}
				c.script.Options = append(c.script.Options, a[:1]+"o", *args[i])
			default:
				keep += string(letter)
			}
		}
		if len(keep) > 1 {
			c.script.Options = append(c.script.Options, keep)
		}
		if _, _, u := shellOptions(c.script.Options, d); u != nil {
			u.Command = name
			return c, u
		}
	}
	return c, nil
}

// nested runs a script of its own for a call; its text is read from a file of the
// tree if at isn't empty.
func (sh *session) nested(ctx context.Context, p *command.Proc, s Script, at string) (int, error) {
	if at != "" {
		err := sh.allowed(at, 4)
		var text string
		if err == nil {
			var r io.ReadCloser
			if r, err = sh.o.Tree.Open(at); err == nil {
				text, err = readAll(r)
				_ = r.Close()
			}
		}
		if err != nil {
			if f := sh.failed(); f != nil {
				return 0, f
			}
			if _, ok := err.(*fs.PathError); !ok { //nolint:errorlint // what is wrapped deeper is of the base
				return 0, sh.fail(err)
			}
			_, _ = fmt.Fprintf(p.Stderr, "%s: cannot open %s: %s\n", p.Args[0], s.Name, reason(err))
			if s.Dialect == Bash {
				return 127, nil
			}
			return 2, nil
		}
		s.Text = text
	}
	if sh.o.Programs && sh.o.Exec != nil && strange(s) {
		if shell := sh.shellFile(p, s); shell != nil {
			exit, found, err := sh.o.Exec(ctx, shell.path, shell.proc(p, s, at))
			if err != nil || found {
				return exit, err
			}
		}
	}
	o := sh.o
	o.Env = nil
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		o.Env = append(o.Env, name+"="+p.Env[name])
	}
	umask := p.Umask
	o.Tree, o.Dir, o.UID, o.GID, o.Umask = p.Tree, p.Dir, p.UID, p.GID, &umask
	o.Home, o.User = "", ""
	o.Stdin, o.Stdout, o.Stderr = p.Stdin, p.Stdout, p.Stderr
	return run(ctx, s, o, sh.depth+1, sh.writers)
}

// strange reports whether the interpreter can't read a script.
func strange(s Script) bool {
	_, problems, err := parse(s.Text, s.Dialect, s.name(), s.Options)
	return err != nil || len(problems) > 0
}

// shellFile is a shell of the tree.
type shellFile struct{ path string }

// shellFile finds the shell of the tree for a script; nil if there is none.
func (sh *session) shellFile(p *command.Proc, s Script) *shellFile {
	names := []string{"sh"}
	if s.Dialect == Bash {
		names = []string{"bash"}
	}
	if base := path.Base(p.Args[0]); isShell(base) {
		names = append([]string{base}, names...)
	}
	for _, name := range names {
		for dir := range strings.SplitSeq(p.Env["PATH"]+":/bin:/usr/bin", ":") {
			at := path.Join("/", dir, name)
			if fi, err := sh.lookup(at, true); err == nil && fi.Mode().IsRegular() {
				return &shellFile{at}
			}
		}
	}
	return nil
}

// proc is the call of the shell that runs the script; at is its file, empty if it has
// none.
func (f *shellFile) proc(p *command.Proc, s Script, at string) *command.Proc {
	q := *p
	q.Args = append([]string{path.Base(f.path)}, s.Options...)
	if at != "" {
		q.Args = append(q.Args, at)
	} else {
		q.Args = append(q.Args, "-c", s.Text, s.name())
	}
	q.Args = append(q.Args, s.Args...)
	return &q
}
