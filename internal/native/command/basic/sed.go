package basic

import (
	"context"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// edit is one command of a sed script: s, d or p, on the lines that it is for.
type edit struct {
	from, to   *address
	negated    bool
	verb       byte
	expression *regexp.Regexp
	with       string
	global     bool
	print      bool
	active     bool
}

type address struct {
	line       int // 0 for a pattern, -1 for the last line
	expression *regexp.Regexp
}

// parseSed reads a script of the commands s, d, p and q, with addresses.
func parseSed(text string, extended bool) ([]*edit, *command.Unsupported) {
	unsupported := func(what string) *command.Unsupported { return &command.Unsupported{Command: "sed", What: what} }
	var list []*edit
	rest := text
	for {
		rest = strings.TrimLeft(rest, " \t\n;")
		if rest == "" {
			return list, nil
		}
		e := &edit{}
		for i := range 2 {
			var a *address
			switch {
			case rest != "" && rest[0] >= '0' && rest[0] <= '9':
				digits := leading(rest)
				n, err := strconv.Atoi(digits)
				if err != nil || n == 0 {
					return nil, unsupported("the address " + digits)
				}
				a, rest = &address{line: n}, rest[len(digits):]
			case strings.HasPrefix(rest, "$"):
				a, rest = &address{line: -1}, rest[1:]
			case strings.HasPrefix(rest, "/"):
				pattern, after, ok := delimited(rest[1:], '/')
				if !ok {
					return nil, unsupported("the address " + rest)
				}
				re, u := posix("sed", pattern, extended, false)
				if u != nil {
					return nil, u
				}
				a, rest = &address{expression: re}, after
			}
			if a == nil {
				if i == 1 {
					return nil, unsupported("the script " + text)
				}
				break
			}
			if i == 0 {
				e.from = a
				if !strings.HasPrefix(rest, ",") {
					break
				}
				rest = rest[1:]
			} else {
				e.to = a
			}
		}
		rest = strings.TrimLeft(rest, " \t")
		if strings.HasPrefix(rest, "!") {
			e.negated, rest = true, strings.TrimLeft(rest[1:], " \t")
		}
		if rest == "" {
			return nil, unsupported("the script " + text)
		}
		e.verb, rest = rest[0], rest[1:]
		switch e.verb {
		case 'd', 'p', 'q':
		case 's':
			if rest == "" {
				return nil, unsupported("the script " + text)
			}
			mark := rest[0]
			pattern, after, ok := delimited(rest[1:], mark)
			var with string
			if ok {
				with, after, ok = delimited(after, mark)
			}
			if !ok {
				return nil, unsupported("the script " + text)
			}
			fold := false
			for after != "" && strings.IndexByte(" \t\n;}", after[0]) < 0 {
				switch after[0] {
				case 'g':
					e.global = true
				case 'p':
					e.print = true
				case 'i', 'I':
					fold = true
				default:
					return nil, unsupported("the flag " + after[:1] + " of s")
				}
				after = after[1:]
			}
			if mark != '/' {
				pattern = strings.ReplaceAll(pattern, `\`+string(mark), string(mark))
			}
			re, u := posix("sed", pattern, extended, fold)
			if u != nil {
				return nil, u
			}
			e.expression, rest = re, after
			if e.with, ok = replacement(with, mark); !ok {
				return nil, unsupported("the replacement " + with)
			}
		default:
			return nil, unsupported("the command " + string(e.verb))
		}
		rest = strings.TrimLeft(rest, " \t")
		if rest != "" && rest[0] != ';' && rest[0] != '\n' {
			return nil, unsupported("the script " + text)
		}
		list = append(list, e)
	}
}

// delimited takes text up to a mark that isn't escaped or in a bracket.
func delimited(text string, mark byte) (part, rest string, ok bool) {
	bracket := false
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && !bracket:
			i++
		case text[i] == '[' && mark != '[' && !bracket:
			bracket = strings.Contains(text[i+1:], "]")
			if strings.HasPrefix(text[i+1:], "]") || strings.HasPrefix(text[i+1:], "^]") {
				i++
			}
		case text[i] == ']':
			bracket = false
		case text[i] == mark && !bracket:
			return text[:i], text[i+1:], true
		}
	}
	return "", "", false
}

// replacement turns that of sed into a template of regexp.Expand.
func replacement(text string, mark byte) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '&':
			out.WriteString("${0}")
		case c == '$':
			out.WriteString("$$")
		case c == '\\' && i+1 < len(text):
			i++
			switch d := text[i]; {
			case d >= '0' && d <= '9':
				out.WriteString("${" + string(d) + "}")
			case d == 'n':
				out.WriteByte('\n')
			case d == 't':
				out.WriteByte('\t')
			case d == '&', d == '\\', d == mark, d == '\n':
				out.WriteByte(d)
			case d >= 'a' && d <= 'z', d >= 'A' && d <= 'Z':
				return "", false // \U, \L and the like
			default:
				out.WriteByte(d)
			}
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), true
}

// checkSed looks at the script before anything runs.
func checkSed(o command.Options) func([]*string) *command.Unsupported {
	options := o.Check("sed")
	return func(args []*string) *command.Unsupported {
		if u := options(args); u != nil {
			return u
		}
		var words []string
		for _, a := range args {
			if a == nil {
				return nil
			}
			words = append(words, *a)
		}
		opt, err := o.Parse("sed", words)
		if err != nil {
			return nil
		}
		_, u := sedScript(opt)
		return u
	}
}

func sedScript(opt *command.Parsed) ([]*edit, *command.Unsupported) {
	scripts := opt.All["e"]
	if len(scripts) == 0 {
		if len(opt.Args) == 0 {
			return nil, &command.Unsupported{Command: "sed", What: "a missing script"}
		}
		scripts = opt.Args[:1]
	}
	return parseSed(strings.Join(scripts, "\n"), opt.Has["E"] || opt.Has["r"])
}

func sed(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	script, u := sedScript(opt)
	if u != nil {
		return 0, u
	}
	names := opt.Args
	if len(opt.All["e"]) == 0 {
		names = names[1:]
	}
	if !opt.Has["i"] {
		return files(p, names, func(_ string, r io.Reader) error {
			lines, err := allLines(r)
			if err == nil {
				_, err = io.WriteString(p.Stdout, apply(script, lines, opt.Has["n"]))
			}
			return err
		})
	}
	exit := 0
	for _, name := range names {
		data, err := p.Tree.ReadFile(p.Path(name))
		if err == nil {
			var lines []string
			if lines, err = allLines(strings.NewReader(string(data))); err == nil {
				for _, e := range script {
					e.active = false
				}
				err = p.Tree.WriteFile(p.Path(name), filetree.Bytes(apply(script, lines, opt.Has["n"])).Content(), p.Attr(0o666))
			}
		}
		if err != nil {
			if err := report(p, "can't read", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// apply runs a script over lines.
func apply(script []*edit, lines []string, quiet bool) string {
	var out strings.Builder
	for i, line := range lines {
		text, ended := strings.CutSuffix(line, "\n")
		end := ""
		if ended {
			end = "\n"
		}
		deleted, quit := false, false
		for _, e := range script {
			if e.selects(i+1, len(lines), text) == e.negated {
				continue
			}
			switch e.verb {
			case 'd':
				deleted = true
			case 'p':
				out.WriteString(text + "\n")
			case 'q':
				quit = true
			case 's':
				changed, hit := e.substitute(text)
				if text = changed; hit && e.print {
					out.WriteString(text + "\n")
				}
			}
			if deleted || quit {
				break
			}
		}
		if !deleted && !quiet {
			out.WriteString(text + end)
		}
		if quit {
			break
		}
	}
	return out.String()
}

func (e *edit) substitute(text string) (string, bool) {
	if !e.expression.MatchString(text) {
		return text, false
	}
	if e.global {
		return e.expression.ReplaceAllString(text, e.with), true
	}
	m := e.expression.FindStringSubmatchIndex(text)
	return text[:m[0]] + string(e.expression.ExpandString(nil, e.with, text, m)) + text[m[1]:], true
}

func (a *address) is(line, last int, text string) bool {
	switch {
	case a.expression != nil:
		return a.expression.MatchString(text)
	case a.line < 0:
		return line == last
	}
	return a.line == line
}

func (e *edit) selects(line, last int, text string) bool {
	switch {
	case e.from == nil:
		return true
	case e.to == nil:
		return e.from.is(line, last, text)
	case e.active:
		if e.to.is(line, last, text) || e.to.expression == nil && e.to.line > 0 && line >= e.to.line {
			e.active = false
		}
		return e.to.expression != nil || e.to.line < 0 || line <= e.to.line
	case e.from.is(line, last, text):
		e.active = !(e.to.expression == nil && e.to.line > 0 && e.to.line <= line) && !(e.to.line < 0 && line == last)
		return true
	}
	return false
}
