package shell

import (
	"context"
	"fmt"
	"path"
	"runtime"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

// builtin checks a call of a builtin whose arguments are written literally.
func (p *program) builtin(n *syntax.CallExpr, subshell bool) {
	if len(n.Args) == 0 {
		return
	}
	name, ok := literal(n.Args[0])
	if !ok || p.functions[name] || !builtinOf(name, p.dialect) {
		return
	}
	var args []string
	for _, w := range n.Args[1:] {
		text, ok := literal(w)
		if !ok {
			if len(args) == 0 {
				return
			}
			break
		}
		args = append(args, text)
	}
	complete := len(args) == len(n.Args)-1
	if name == "trap" && subshell && !(complete && trapIgnored(args)) {
		p.add(n.Pos(), name, "trap in a subshell", "trap in the script itself")
		return
	}
	if !complete && name != "set" && name != "read" {
		if u := unsupportedBuiltin(name, p.dialect); u != nil {
			u.Command = name
			p.problems = append(p.problems, Problem{Line: int(n.Pos().Line()), Col: int(n.Pos().Col()), Word: name, Unsupported: u}) //nolint:gosec // small
		}
		return
	}
	var u *command.Unsupported
	switch name {
	case "set":
		if complete || len(args) > 0 {
			_, _, _, _, u = setArguments(args, p.dialect)
			if !complete && u != nil && u.What == listing {
				u = nil
			}
		}
	case "trap":
		_, u = trapArguments(args)
	case "umask":
		if len(args) > 0 {
			_, u = parseUmask(args)
		}
	case "shopt":
		u = shoptArguments(args)
	case "read":
		u = readOptions(args, p.dialect)
	case "alias":
		if p.dialect != Bash && len(args) > 0 {
			u = unsupportedBuiltin(name, p.dialect)
		}
	case "exec":
		if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
			u = &command.Unsupported{What: "option " + args[0]}
		}
	case "wait":
		if len(args) > 0 {
			u = &command.Unsupported{What: "waiting for a job (there are none)"}
		}
	case "command":
		if len(args) > 0 && builtinOf(args[0], p.dialect) {
			u = unsupportedBuiltin(args[0], p.dialect)
		}
	default:
		u = unsupportedBuiltin(name, p.dialect)
	}
	if u != nil {
		if u.Command == "" {
			u.Command = name
		}
		p.problems = append(p.problems, Problem{Line: int(n.Pos().Line()), Col: int(n.Pos().Col()), Word: name, Unsupported: u}) //nolint:gosec // small
	}
}

// unsupportedBuiltin names the builtins that can't be had.
func unsupportedBuiltin(name string, d Dialect) *command.Unsupported {
	switch name {
	case "kill", "jobs", "bg", "fg", "disown", "suspend":
		return &command.Unsupported{Command: name, What: "control of processes"}
	case "ulimit":
		return &command.Unsupported{Command: name, What: "setting limits", Fix: "leave it out"}
	case "times":
		return &command.Unsupported{Command: name, What: "measuring time"}
	case "fc", "history", "bind", "caller", "compgen", "complete", "compopt", "enable", "logout", "help",
		"mapfile", "readarray", "popd", "pushd", "dirs":
		return &command.Unsupported{Command: name, What: "this builtin"}
	case "alias", "unalias":
		if d != Bash {
			return &command.Unsupported{Command: name, What: "an alias", Fix: "NAME() { … \"$@\"; }"}
		}
	}
	return nil
}

// maxFrames bounds the depth of Go's stack, of which a call of a function in a
// script takes about ten frames.
const maxFrames = 10000

// call is asked before every command, function or builtin, with its expanded words.
func (sh *session) call(ctx context.Context, args []string) (out []string, err error) {
	defer sh.guard(&err)
	hc := interp.HandlerCtx(ctx)
	if ifs := hc.Env.Get("IFS"); args[0] != "read" && args[0] != "unset" && !strings.HasPrefix(args[0], own) && strings.Trim(ifs.Str, " \t\n") != "" {
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "splitting words at other characters than white space (IFS)", Fix: "tr, cut, or IFS=… read"})
	}
	if runtime.Callers(maxFrames, make([]uintptr, 1)) > 0 {
		// The stack of a goroutine can't be recovered from once it is full.
		return nil, sh.fail(&command.Unsupported{Command: sh.script.name(), What: "functions or scripts that call themselves this deeply"})
	}
	if args[0] == shiftName && len(args) > 1 {
		out, err = sh.shift(hc, args[1], args[2:])
		if err != nil {
			return nil, sh.fail(err)
		}
		return out, nil
	}
	if !interp.IsBuiltin(args[0]) {
		return args, nil
	}
	out, err = sh.builtinCall(hc, args)
	if err != nil {
		return nil, sh.fail(err)
	}
	return out, nil
}

// builtinCall says what a builtin becomes: itself, with checked arguments, or one
// of ours.
func (sh *session) builtinCall(hc interp.HandlerContext, args []string) ([]string, error) {
	name, rest := args[0], args[1:]
	d := sh.script.Dialect
	ours := func() []string { return append([]string{own + name}, rest...) }
	refuse := func(u *command.Unsupported) ([]string, error) {
		if u.Command == "" {
			u.Command = name
		}
		return nil, u
	}
	if !builtinOf(name, d) {
		return ours(), nil // a program of that name, or nothing
	}
	if u := unsupportedBuiltin(name, d); u != nil {
		return refuse(u)
	}
	switch name {
	case "exit", "return":
		if len(rest) > 0 {
			if _, err := strconv.Atoi(rest[0]); err != nil {
				text := "Illegal number: " + rest[0]
				if d == Bash {
					text = rest[0] + ": numeric argument required"
				}
				sh.complain(hc.Stderr, line(hc), name, text)
				return []string{"exit", "2"}, nil
			}
			return args[:2], nil
		}
	case "eval":
		text, err := sh.translate(strings.Join(rest, " "), hc)
		if err != nil {
			return nil, err
		}
		return []string{"eval", text}, nil
	case ".", "source":
		return sh.source(hc, args)
	case "set":
		flags, hidden, params, has, u := setArguments(rest, d)
		if u != nil {
			return refuse(u)
		}
		out := append([]string{"set"}, flags...)
		if has {
			out = append(append(out, "--"), params...)
		}
		if len(hidden) == 0 {
			if len(out) == 1 {
				return []string{":"}, nil
			}
			return out, nil
		}
		if len(out) > 1 {
			quoted := []string{"set"}
			for _, w := range out[1:] {
				quoted = append(quoted, quote(w))
			}
			hidden = append(hidden, strings.Join(quoted, " "))
		}
		return []string{"eval", strings.Join(hidden, "; ")}, nil
	case "unset":
		for _, a := range rest {
			if a == "" && d == Bash {
				return []string{":"}, nil
			}
			base, _, _ := strings.Cut(a, "[")
			if a != "-v" && a != "-f" && !syntax.ValidName(base) && !sh.isFunction(a) {
				text := "bad variable name"
				if d == Bash {
					text = "`" + a + "': not a valid identifier"
				}
				sh.complain(hc.Stderr, line(hc), name, text)
				if d == Bash {
					return []string{"false"}, nil
				}
				return []string{"exit", "2"}, nil
			}
			if strings.HasPrefix(a, hiddenPrefix) {
				return refuse(&command.Unsupported{What: "the variable name " + a})
			}
		}
	case "trap":
		out, u := trapArguments(rest)
		if u != nil {
			return refuse(u)
		}
		if len(out) == 2 && out[0] != "" && out[0] != "-" {
			text, err := sh.translate(out[0], hc)
			if err != nil {
				return nil, err
			}
			out[0] = text
		}
		if len(out) == 0 {
			return []string{":"}, nil
		}
		return append([]string{"trap", "--"}, out...), nil
	case "shopt":
		if u := shoptArguments(rest); u != nil {
			return refuse(u)
		}
	case "exec":
		if len(rest) > 0 && rest[0] == "--" {
			return append([]string{"exec"}, rest[1:]...), nil
		}
		if len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
			return refuse(&command.Unsupported{What: "option " + rest[0]})
		}
	case "wait":
		if len(rest) > 0 {
			return refuse(&command.Unsupported{What: "waiting for a job (there are none)"})
		}
	case "command":
		return sh.commandCall(hc, args)
	case "builtin":
		if len(rest) == 0 {
			return []string{":"}, nil
		}
		if !builtinOf(rest[0], d) {
			sh.complain(hc.Stderr, line(hc), "builtin", rest[0]+": not a shell builtin")
			return []string{"false"}, nil
		}
		return sh.builtinCall(hc, rest)
	case "echo", "printf", "test", "[", "read", "cd", "pwd", "umask", "type", "hash":
		return ours(), nil
	}
	return args, nil
}

func (sh *session) shift(hc interp.HandlerContext, count string, args []string) ([]string, error) {
	have, _ := strconv.Atoi(count)
	n := 1
	if len(args) > 0 {
		var err error
		if n, err = strconv.Atoi(args[0]); err != nil || n < 0 {
			sh.complain(hc.Stderr, line(hc), "shift", "Illegal number: "+args[0])
			if sh.script.Dialect == Bash {
				return []string{"false"}, nil
			}
			return []string{"exit", "2"}, nil
		}
	}
	switch {
	case n <= have:
		return []string{"shift", strconv.Itoa(n)}, nil
	case sh.script.Dialect == Bash:
		return []string{"false"}, nil
	case sh.script.Dialect == Dash:
		sh.complain(hc.Stderr, line(hc), "shift", "can't shift that many")
		return []string{"exit", "2"}, nil
	}
	return nil, &command.Unsupported{Command: "shift", What: "shifting more than there is (versions of busybox differ)"}
}

// commandCall does command [-pvV] NAME ….
func (sh *session) commandCall(hc interp.HandlerContext, args []string) ([]string, error) {
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		switch flag := rest[0]; {
		case flag == "--":
			rest = rest[1:]
		case strings.Trim(flag[1:], "pvV") != "":
			return nil, &command.Unsupported{Command: "command", What: "option " + flag}
		case strings.ContainsAny(flag, "vV"):
			return append([]string{own + "command"}, args[1:]...), nil
		default:
			rest = rest[1:]
			continue
		}
		break
	}
	if len(rest) == 0 {
		return []string{":"}, nil
	}
	if builtinOf(rest[0], sh.script.Dialect) {
		return sh.builtinCall(hc, rest)
	}
	if interp.IsBuiltin(rest[0]) {
		return append([]string{own + rest[0]}, rest[1:]...), nil
	}
	return append([]string{"command", "--"}, rest...), nil
}

func (sh *session) isFunction(name string) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.functions[name]
}

// translate makes a text that the script made ready for the interpreter.
func (sh *session) translate(text string, hc interp.HandlerContext) (string, error) {
	var options []string
	sh.mu.Lock()
	if sh.errexit {
		options = []string{"-e"}
	}
	sh.mu.Unlock()
	p, problems, err := parse(text, sh.script.Dialect, sh.script.name(), options)
	if err != nil {
		_, _ = fmt.Fprintf(hc.Stderr, "%s: Syntax error: %v\n", sh.script.name(), err)
		if sh.script.Dialect == Bash {
			return "false", nil
		}
		return "exit 2", nil
	}
	if len(problems) > 0 {
		return "", problems[0].Unsupported
	}
	sh.merge(p)
	p.rewrite()
	return p.text()
}

// source does . FILE: the interpreter would look for it on the host.
func (sh *session) source(hc interp.HandlerContext, args []string) ([]string, error) {
	name, rest := args[0], args[1:]
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	d := sh.script.Dialect
	if len(rest) == 0 {
		if d == Bash {
			sh.complain(hc.Stderr, line(hc), name, "filename argument required")
			return []string{"exit", "2"}, nil
		}
		return []string{":"}, nil
	}
	at := ""
	if strings.Contains(rest[0], "/") {
		at = sh.abs(sh.dir(hc), rest[0])
	} else {
		for dir := range strings.SplitSeq(hc.Env.Get("PATH").Str, ":") {
			try := strings.TrimSuffix(sh.abs(sh.dir(hc), dir), "/") + "/" + rest[0]
			if fi, err := sh.lookup(try, true); err == nil && fi.Mode().IsRegular() {
				at = try
				break
			}
		}
		if try := sh.abs(sh.dir(hc), rest[0]); at == "" && d != Dash {
			at = try
		}
	}
	var text string
	err := error(nil)
	if at == "" {
		sh.complain(hc.Stderr, line(hc), name, rest[0]+": not found")
		return []string{"exit", "127"}, nil
	}
	if err = sh.allowed(at, 4); err == nil {
		r, oerr := sh.o.Tree.Open(at)
		if err = oerr; err == nil {
			text, err = readAll(r)
			_ = r.Close()
		}
	}
	if f := sh.failed(); f != nil {
		return nil, f
	}
	if err != nil {
		if d == Bash {
			sh.complain(hc.Stderr, line(hc), rest[0], reason(err))
			return []string{"false"}, nil
		}
		sh.complain(hc.Stderr, line(hc), name, "cannot open "+rest[0]+": "+strings.Replace(reason(err), "No such file or directory", "No such file", 1))
		return []string{"exit", "2"}, nil
	}
	if text, err = sh.translate(text, hc); err != nil {
		return nil, err
	}
	sh.mu.Lock()
	id := strconv.Itoa(len(sh.sources)) + path.Clean("/"+rest[0])
	sh.sources[id] = text
	sh.mu.Unlock()
	out := []string{".", sourcePrefix + id}
	if d == Bash {
		out = append(out, rest[1:]...)
	}
	return out, nil
}
