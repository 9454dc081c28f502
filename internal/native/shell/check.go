package shell

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

// Problem is something that a script says and that can't be done exactly.
type Problem struct {
	Line, Col   int    // in Script.Text, from 1, in bytes; of the command that has it for a text inside a text
	Word        string // as it is in the text, to find it in the Dockerfile; may be empty
	Unsupported *command.Unsupported
}

// Lookup finds a command by name.
type Lookup func(name string) (*command.Command, bool)

// Check finds what a script can't have, without running it: all of it at once, in
// order of the text. Commands whose names aren't written literally are left for
// when they run. A command with a slash in its name is a file of the tree, unless
// it is in one of the directories of the system; known is asked about it with the
// whole name, and may refuse it with a command whose Check does.
func Check(s Script, known Lookup) []Problem {
	return check(s, known, 0)
}

const maxNesting = 16

func check(s Script, known Lookup, depth int) []Problem {
	p, problems, err := parse(s.Text, s.Dialect, s.name(), s.Options)
	if err != nil {
		return []Problem{{Line: 1, Col: 1, Unsupported: &command.Unsupported{Command: s.name(), What: "the script's syntax (" + err.Error() + ")"}}}
	}
	if _, _, u := shellOptions(s.Options, s.Dialect); u != nil {
		problems = append(problems, Problem{Line: 1, Col: 1, Unsupported: u})
	}
	if p.file == nil {
		return problems
	}
	c := &checker{p: p, known: known, depth: depth, asked: map[string]bool{}}
	c.commands()
	problems = append(problems, c.found...)
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return problems
}

type checker struct {
	p     *program
	known Lookup
	depth int
	asked map[string]bool // names that the script looks for itself before it uses them
	found []Problem
}

func (c *checker) commands() {
	syntax.Walk(c.p.file, func(n syntax.Node) bool {
		if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 1 {
			if name, ok := literal(call.Args[0]); ok {
				switch name {
				case "command", "which", "type", "hash":
					for _, w := range call.Args[1:] {
						if text, ok := literal(w); ok && !strings.HasPrefix(text, "-") {
							c.asked[text] = true
						}
					}
					if first, _ := literal(call.Args[1]); name == "command" && !strings.HasPrefix(strings.ToLower(first), "-v") {
						clear(c.asked)
					}
				}
			}
		}
		return true
	})
	syntax.Walk(c.p.file, func(n syntax.Node) bool {
		if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 0 {
			args := make([]*string, len(call.Args))
			for i, w := range call.Args {
				if text, ok := literal(w); ok {
					args[i] = &text
				}
			}
			c.call(call.Pos(), args, true)
		}
		return true
	})
}

// report adds a problem; word is what to look for in the text.
func (c *checker) report(pos syntax.Pos, word string, u *command.Unsupported) {
	c.found = append(c.found, Problem{Line: int(pos.Line()), Col: int(pos.Col()), Word: word, Unsupported: u}) //nolint:gosec // small
}

// call checks one command. functions says that a function may have its name.
func (c *checker) call(pos syntax.Pos, args []*string, functions bool) {
	if len(args) == 0 || args[0] == nil {
		return
	}
	name, rest := *args[0], args[1:]
	if functions && (c.p.functions[name] || name == "") {
		return
	}
	base := path.Base(name)
	if builtinOf(name, c.p.dialect) {
		c.inner(pos, name, rest)
		return
	}
	slash := strings.Contains(name, "/")
	inBin := slash && (binDir(path.Dir(name)) || goDir(path.Dir(name), base))
	lookup := name
	if inBin {
		lookup = base
	}
	if c.known != nil {
		cmd, ok := c.known(lookup)
		switch {
		case ok && cmd != nil && cmd.Check != nil:
			if u := cmd.Check(rest); u != nil {
				c.report(pos, name, u)
			}
		case !ok && (!slash || inBin) && !c.asked[name] && !(functions && c.p.loads) && !programs(base):
			c.report(pos, name, &command.Unsupported{Command: name, What: "a command that isn't there"})
		}
	}
	if isShell(base) && (!slash || inBin) {
		c.shell(pos, base, rest)
		return
	}
	if !slash || inBin {
		c.inner(pos, base, rest)
	}
}

// shell checks the text of sh -c TEXT.
func (c *checker) shell(pos syntax.Pos, name string, args []*string) {
	d := Dialect(name)
	if name == "sh" {
		if d = c.p.dialect; d == Bash {
			d = Dash
		}
	}
	call, u := parseCall(name, d, args)
	if u != nil {
		if c.known == nil {
			c.report(pos, name, u)
		}
		return
	}
	if !call.unknown && call.text && len(call.rest) > 0 && call.rest[0] != nil {
		s := call.script
		s.Text, s.Dialect, s.Name = *call.rest[0], d, name
		c.text(pos, s)
	}
}

// text checks a script in the script.
func (c *checker) text(pos syntax.Pos, s Script) {
	if c.depth >= maxNesting {
		return
	}
	for _, p := range check(s, c.known, c.depth+1) {
		c.report(pos, p.Word, p.Unsupported)
	}
}

// inner checks the command that a command runs.
func (c *checker) inner(pos syntax.Pos, name string, args []*string) {
	skip := func(values string) []*string {
		for len(args) > 0 {
			if args[0] == nil {
				return nil
			}
			a := *args[0]
			switch {
			case a == "--":
				return args[1:]
			case !strings.HasPrefix(a, "-") || a == "-":
				return args
			case len(a) == 2 && strings.Contains(values, a[1:]) && len(args) > 1:
				args = args[2:]
			default:
				args = args[1:]
			}
		}
		return nil
	}
	switch name {
	case "eval":
		texts := make([]string, 0, len(args))
		for _, a := range args {
			if a == nil {
				return
			}
			texts = append(texts, *a)
		}
		// What it calls may be a function of this script.
		s := Script{Text: strings.Join(texts, " "), Dialect: c.p.dialect, Name: c.p.name}
		c.text(pos, Script{Text: s.Text, Dialect: s.Dialect, Name: s.Name})
	case "exec", "builtin", "nohup", "busybox":
		c.call(pos, skip(""), false)
	case "command":
		if len(args) > 0 && args[0] != nil && (*args[0] == "-v" || *args[0] == "-V") {
			return
		}
		c.call(pos, skip(""), false)
	case "env":
		rest := skip("uCS")
		for len(rest) > 0 && rest[0] != nil && strings.Contains(*rest[0], "=") {
			rest = rest[1:]
		}
		c.call(pos, rest, false)
	case "xargs":
		c.call(pos, skip("nPIdLsEa"), false)
	case "nice":
		c.call(pos, skip("n"), false)
	case "time":
		c.call(pos, skip("of"), false)
	case "timeout":
		if rest := skip("ks"); len(rest) > 1 {
			c.call(pos, rest[1:], false)
		}
	case "find":
		for i, a := range args {
			if a == nil {
				continue
			}
			switch *a {
			case "-exec", "-execdir", "-ok":
				end := i + 1
				for end < len(args) && (args[end] == nil || *args[end] != ";" && *args[end] != "+") {
					end++
				}
				c.call(pos, unknownBraces(args[i+1:end]), false)
			}
		}
	}
}

func unknownBraces(args []*string) []*string {
	out := slices.Clone(args)
	for i, a := range out {
		if a != nil && strings.Contains(*a, "{}") {
			out[i] = nil
		}
	}
	return out
}

// programs are the tools that every system has as files and that we have as builtins.
func programs(name string) bool {
	switch name {
	case "echo", "printf", "test", "[", "true", "false", "pwd":
		return true
	}
	return false
}

// builtinOf reports whether a name is a builtin of the dialect.
func builtinOf(name string, d Dialect) bool {
	switch name {
	case "source", "history", "help":
		return d != Dash
	case "shopt", "builtin", "bind", "caller", "compgen", "complete", "compopt", "declare", "typeset", "dirs", "disown",
		"enable", "logout", "mapfile", "readarray", "popd", "pushd", "suspend":
		return d == Bash
	case "let":
		return d != Dash
	case "newgrp":
		return false
	}
	return interp.IsBuiltin(name)
}

// literal is what a word is for certain: ok is false if it has a substitution or a
// pattern in it, or could become several words or another one.
func literal(w *syntax.Word) (text string, ok bool) {
	if w == nil {
		return "", false
	}
	var b strings.Builder
	for i, part := range w.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			v := part.Value
			if i == 0 && strings.HasPrefix(v, "~") {
				return "", false
			}
			for j := 0; j < len(v); j++ {
				switch v[j] {
				case '\\':
					if j++; j < len(v) && v[j] != '\n' {
						b.WriteByte(v[j])
					}
				case '*', '?':
					return "", false
				case '[':
					if strings.Contains(v[j:], "]") || len(w.Parts) > 1 {
						return "", false
					}
					b.WriteByte('[')
				case '{':
					if strings.Contains(v, ",") || strings.Contains(v, "..") {
						return "", false
					}
					b.WriteByte('{')
				default:
					b.WriteByte(v[j])
				}
			}
		case *syntax.SglQuoted:
			if part.Dollar {
				return "", false
			}
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			for _, inner := range part.Parts {
				l, ok := inner.(*syntax.Lit)
				if !ok {
					return "", false
				}
				for j := 0; j < len(l.Value); j++ {
					if l.Value[j] == '\\' && j+1 < len(l.Value) {
						switch l.Value[j+1] {
						case '\\', '"', '$', '`':
							j++
						case '\n':
							j++
							continue
						}
					}
					b.WriteByte(l.Value[j])
				}
			}
		default:
			return "", false
		}
	}
	return b.String(), true
}
