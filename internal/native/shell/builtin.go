package shell

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

// builtinFunc is a builtin. inner is what the interpreter said to something that
// the builtin had it do, and is passed back to it.
type builtinFunc func(ctx context.Context, hc interp.HandlerContext, p *command.Proc) (exit int, inner, err error)

// builtins are ours, which replace those of the interpreter.
func (sh *session) builtins() map[string]builtinFunc {
	plain := func(f func(hc interp.HandlerContext, p *command.Proc) (int, error)) builtinFunc {
		return func(_ context.Context, hc interp.HandlerContext, p *command.Proc) (int, error, error) {
			exit, err := f(hc, p)
			return exit, nil, err
		}
	}
	return map[string]builtinFunc{
		"echo":    plain(func(_ interp.HandlerContext, p *command.Proc) (int, error) { return sh.echo(p) }),
		"printf":  plain(func(_ interp.HandlerContext, p *command.Proc) (int, error) { return sh.printf(p) }),
		"test":    plain(sh.test),
		"[":       plain(sh.test),
		"pwd":     plain(sh.pwd),
		"command": plain(sh.describe),
		"type":    plain(sh.describe),
		"hash":    plain(sh.hash),
		"cd":      sh.cd,
		"umask":   sh.setUmask,
		"read":    sh.readLine,
	}
}

// alsoPrograms are builtins that are programs too, so that env or xargs find them
// where a stage has no commands of these names.
func (sh *session) alsoPrograms() map[string]func(*command.Proc) (int, error) {
	return map[string]func(*command.Proc) (int, error){
		"echo": sh.echoProgram, "printf": sh.printf,
		"test":  func(p *command.Proc) (int, error) { return sh.testArguments(p, nil) },
		"[":     func(p *command.Proc) (int, error) { return sh.testArguments(p, nil) },
		"true":  func(*command.Proc) (int, error) { return 0, nil },
		"false": func(*command.Proc) (int, error) { return 1, nil },
		"pwd": func(p *command.Proc) (int, error) {
			_, _ = fmt.Fprintln(p.Stdout, p.Dir)
			return 0, nil
		},
	}
}

// dir is the working directory of a shell or subshell.
func (sh *session) dir(hc interp.HandlerContext) string {
	if windowsHost {
		if v := hc.Env.Get(hiddenPrefix + "dir"); v.IsSet() {
			return v.Str
		}
	}
	return hc.Dir
}

// set has the interpreter set variables of the script.
func (sh *session) set(ctx context.Context, hc interp.HandlerContext, assignments ...string) error {
	return hc.Builtin(ctx, []string{"eval", strings.Join(assignments, " ")})
}

// cd changes the directory as POSIX says: by the names, so that `cd link; cd ..`
// comes back. The interpreter gets to know the real directory, so that ../x means
// what it means to the kernel.
func (sh *session) cd(ctx context.Context, hc interp.HandlerContext, p *command.Proc) (int, error, error) {
	d := sh.script.Dialect
	failed := 2
	if d == Bash {
		failed = 1
	}
	args, physical := p.Args[1:], false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		flag := args[0]
		if args = args[1:]; flag == "--" {
			break
		}
		if strings.Trim(flag[1:], "LP") != "" {
			return 0, nil, &command.Unsupported{Command: "cd", What: "option " + flag}
		}
		physical = flag[len(flag)-1] == 'P'
	}
	if len(args) > 1 && d == Bash {
		sh.complain(hc.Stderr, line(hc), "cd", "too many arguments")
		return 1, nil, nil
	}
	target, show := hc.Env.Get("HOME").Str, false
	if len(args) > 0 {
		target = args[0]
	} else if !hc.Env.Get("HOME").IsSet() || target == "" {
		if d == Bash {
			sh.complain(hc.Stderr, line(hc), "cd", "HOME not set")
			return 1, nil, nil
		}
		return 0, nil, nil
	}
	if target == "-" {
		if !hc.Env.Get("OLDPWD").IsSet() && d == Bash {
			sh.complain(hc.Stderr, line(hc), "cd", "OLDPWD not set")
			return 1, nil, nil
		}
		if target, show = hc.Env.Get("OLDPWD").Str, true; target == "" {
			target = hc.Env.Get("PWD").Str
		}
	}
	if hc.Env.Get("CDPATH").Str != "" && !strings.HasPrefix(target, "/") && !strings.HasPrefix(target, ".") {
		return 0, nil, &command.Unsupported{Command: "cd", What: "the variable CDPATH", Fix: "unset CDPATH"}
	}
	if target == "" {
		return 0, nil, nil // stays, in all dialects
	}
	was := hc.Env.Get("PWD").Str
	logical, err := sh.logical(was, target)
	if err == nil {
		var fi fs.FileInfo
		if fi, err = sh.lookup(logical, true); err == nil && !fi.IsDir() {
			//lint:ignore ST1005 these are the words of the shell
			err = fmt.Errorf("Not a directory") //nolint:staticcheck // the words of the C library
		} else if err == nil {
			err = sh.allowed(logical, 1)
		}
	}
	if f := sh.failed(); f != nil {
		return 0, nil, f
	}
	if err != nil {
		switch d {
		case Dash:
			sh.complain(hc.Stderr, line(hc), "cd", "can't cd to "+target)
		case Ash:
			sh.complain(hc.Stderr, line(hc), "cd", "can't cd to "+target+": "+reason(err))
		default:
			sh.complain(hc.Stderr, line(hc), "cd", target+": "+reason(err))
		}
		return failed, nil, nil
	}
	real := sh.physical(logical)
	if physical {
		logical = real
	}
	vars := []string{"OLDPWD=" + quote(was), "PWD=" + quote(logical)}
	if windowsHost {
		vars = append(vars, hiddenPrefix+"dir="+quote(real))
	} else if inner := hc.Builtin(ctx, []string{"cd", real}); inner != nil {
		return 0, inner, nil
	}
	if inner := sh.set(ctx, hc, vars...); inner != nil {
		return 0, inner, nil
	}
	if show {
		_, _ = fmt.Fprintln(p.Stdout, logical)
	}
	return 0, nil, nil
}

// logical is where a path leads by its names. What is before a .. has to be a directory.
func (sh *session) logical(from, target string) (string, error) {
	at := "/"
	if !strings.HasPrefix(target, "/") {
		at = from
	}
	for e := range strings.SplitSeq(target, "/") {
		switch e {
		case "", ".":
		case "..":
			fi, err := sh.lookup(at, true)
			if err != nil {
				return "", err
			}
			if !fi.IsDir() {
				//lint:ignore ST1005 these are the words of the shell
				return "", fmt.Errorf("Not a directory") //nolint:staticcheck // the words of the C library
			}
			at = path.Dir(at)
		default:
			at = strings.TrimSuffix(at, "/") + "/" + e
		}
	}
	return at, nil
}

func (sh *session) pwd(hc interp.HandlerContext, p *command.Proc) (int, error) {
	where := hc.Env.Get("PWD").Str
	for _, a := range p.Args[1:] {
		switch a {
		case "-L":
			where = hc.Env.Get("PWD").Str
		case "-P":
			where = sh.physical(sh.dir(hc))
		default:
			if strings.HasPrefix(a, "-") {
				return 0, &command.Unsupported{Command: "pwd", What: "option " + a}
			}
		}
	}
	_, _ = fmt.Fprintln(p.Stdout, where)
	return 0, nil
}

// parseUmask reads an octal mask.
func parseUmask(args []string) (fs.FileMode, *command.Unsupported) {
	n, err := strconv.ParseUint(args[0], 8, 12)
	if err != nil || n > 0o777 || len(args) > 1 {
		return 0, &command.Unsupported{Command: "umask", What: "the mask " + strings.Join(args, " "), Fix: "umask 022"}
	}
	return fs.FileMode(n), nil
}

func (sh *session) setUmask(ctx context.Context, hc interp.HandlerContext, p *command.Proc) (int, error, error) {
	if len(p.Args) == 1 {
		_, _ = fmt.Fprintf(p.Stdout, "%04o\n", p.Umask)
		return 0, nil, nil
	}
	mask, u := parseUmask(p.Args[1:])
	if u != nil {
		return 0, nil, u
	}
	return 0, sh.set(ctx, hc, fmt.Sprintf("%s=%04o", umaskVariable, mask)), nil
}

// describe does command -v, command -V and type.
func (sh *session) describe(hc interp.HandlerContext, p *command.Proc) (int, error) {
	d, args := sh.script.Dialect, p.Args[1:]
	verbose, kind := p.Args[0] == "type", ""
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		switch flag := args[0]; {
		case p.Args[0] == "command" && strings.Trim(flag[1:], "pvV") == "":
			verbose = verbose || strings.Contains(flag, "V")
		case flag == "--":
		case p.Args[0] == "type" && d == Bash && (flag == "-t" || flag == "-p" || flag == "-P"):
			kind = flag
		default:
			return 0, &command.Unsupported{Command: p.Args[0], What: "option " + flag}
		}
		args = args[1:]
	}
	exit := 0
	missing := 127
	if d == Bash {
		missing = 1
	}
	for _, name := range args {
		what, at := sh.kind(name, p)
		if f := sh.failed(); f != nil {
			return 0, f
		}
		text := ""
		switch {
		case what == "":
			exit = missing
			switch {
			case kind != "" || !verbose:
			case d == Bash:
				sh.complain(hc.Stderr, line(hc), p.Args[0], name+": not found")
			default:
				_, _ = fmt.Fprintf(p.Stdout, "%s: not found\n", name)
			}
			continue
		case kind == "-t":
			text = what
		case kind != "":
			if text = at; at == "" {
				continue
			}
		case !verbose && at != "":
			text = at
		case !verbose:
			text = name
		case at != "":
			text = name + " is " + at
		case what == "function":
			if d == Bash {
				return 0, &command.Unsupported{Command: p.Args[0], What: "printing a function"}
			}
			text = name + " is a shell function"
			if d == Ash {
				text = name + " is a function"
			}
		default:
			text = name + " is a shell " + what
			if what == "builtin" && slices.Contains(special, name) && d == Dash {
				text = name + " is a special shell builtin"
			}
		}
		_, _ = fmt.Fprintln(p.Stdout, text)
	}
	return exit, nil
}

var special = []string{":", ".", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "times", "trap", "unset"}

// kind is what a name is to the shell: keyword, function, builtin or file.
func (sh *session) kind(name string, p *command.Proc) (what, at string) {
	d := sh.script.Dialect
	switch {
	case name == "":
		return "", ""
	case keyword(name, d):
		return "keyword", ""
	case sh.isFunction(name):
		return "function", ""
	case builtinOf(name, d) || name == "local" || name == "kill" && d == Dash:
		return "builtin", ""
	}
	f, ok := sh.which(name, p.Env["PATH"], p.Dir)
	if ok && f.command == nil && strings.Contains(name, "/") && sh.allowed(f.path, 1) != nil {
		ok = false
	}
	if !ok {
		return "", ""
	}
	if strings.Contains(name, "/") {
		f.path = name
	}
	return "file", f.path
}

func keyword(name string, d Dialect) bool {
	switch name {
	case "[[", "function":
		return d != Dash
	case "select", "time", "coproc":
		return d == Bash
	}
	return syntax.IsKeyword(name)
}

func (sh *session) hash(hc interp.HandlerContext, p *command.Proc) (int, error) {
	args := p.Args[1:]
	if len(args) == 1 && args[0] == "-r" {
		return 0, nil
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return 0, &command.Unsupported{Command: "hash", What: "the list of commands", Fix: "leave it out"}
	}
	exit := 0
	for _, name := range args {
		if what, _ := sh.kind(name, p); what == "" || what == "keyword" {
			sh.complain(hc.Stderr, line(hc), "hash", name+": not found")
			exit = 1
			if sh.script.Dialect != Bash {
				exit = 127
			}
		}
	}
	return exit, sh.failed()
}
