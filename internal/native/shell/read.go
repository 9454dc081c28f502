package shell

import (
	"context"
	"io"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

func readOptions(args []string, d Dialect) *command.Unsupported {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' || a == "--" {
			return nil
		}
		for j, l := range a[1:] {
			switch {
			case l == 'r' || l == 's' && d != Dash:
			case l == 'p':
				if j == len(a)-2 {
					i++
				}
			default:
				return &command.Unsupported{Command: "read", What: "option -" + string(l)}
			}
			if l == 'p' {
				break
			}
		}
	}
	return nil
}

// readLine does read: a line, split at IFS as POSIX says, also at empty fields.
func (sh *session) readLine(ctx context.Context, hc interp.HandlerContext, p *command.Proc) (int, error, error) {
	args, raw := p.Args[1:], false
	if u := readOptions(args, sh.script.Dialect); u != nil {
		return 0, nil, u
	}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		flag := args[0]
		args = args[1:]
		if flag == "--" {
			break
		}
		letters, _, prompt := strings.Cut(flag, "p")
		raw = raw || strings.Contains(letters, "r")
		if prompt && strings.HasSuffix(flag, "p") && len(args) > 0 {
			args = args[1:] // shown only on a terminal
		}
	}
	if len(args) == 0 && sh.script.Dialect == Dash {
		sh.complain(hc.Stderr, line(hc), "read", "arg count")
		return 2, nil, nil
	}
	for _, name := range args {
		if !syntax.ValidName(name) || strings.HasPrefix(name, hiddenPrefix) || name == "PWD" {
			sh.complain(hc.Stderr, line(hc), "read", name+": bad variable name")
			return 2, nil, nil
		}
	}
	text, escaped, ended, err := readText(p.Stdin, raw)
	if err != nil {
		return 1, nil, nil
	}
	exit := 0
	if !ended {
		exit = 1
	}
	ifs := " \t\n"
	if v := hc.Env.Get("IFS"); v.IsSet() {
		ifs = v.Str
	}
	if len(args) == 0 {
		args, ifs = []string{"REPLY"}, ""
	}
	values := split(text, escaped, ifs, len(args))
	var vars []string
	for i, name := range args {
		vars = append(vars, name+"="+quote(values[i]))
	}
	if inner := sh.set(ctx, hc, vars...); inner != nil {
		return 0, inner, nil
	}
	return exit, nil, nil
}

// readText reads a line, byte by byte: what is behind it is for the next command.
// escaped says which bytes had a backslash before them.
func readText(r io.Reader, raw bool) (text []byte, escaped []bool, ended bool, err error) {
	var b [1]byte
	backslash := false
	for {
		n, err := r.Read(b[:])
		if n > 0 {
			c := b[0]
			switch {
			case backslash && c == '\n':
				backslash = false
			case backslash:
				text, escaped, backslash = append(text, c), append(escaped, true), false
			case c == '\\' && !raw:
				backslash = true
			case c == '\n':
				return text, escaped, true, nil
			case c == 0:
			default:
				text, escaped = append(text, c), append(escaped, false)
			}
		}
		if err == io.EOF {
			return text, escaped, false, nil
		}
		if err != nil {
			return text, escaped, false, err
		}
	}
}

// split divides a line into n fields (POSIX, read and field splitting).
func split(text []byte, escaped []bool, ifs string, n int) []string {
	values := make([]string, n)
	space := func(i int) bool {
		return !escaped[i] && strings.IndexByte(ifs, text[i]) >= 0 && strings.IndexByte(" \t\n", text[i]) >= 0
	}
	delimiter := func(i int) bool { return !escaped[i] && strings.IndexByte(ifs, text[i]) >= 0 }
	i, end := 0, len(text)
	for i < end && space(i) {
		i++
	}
	for end > i && space(end-1) {
		end--
	}
	for k := range n {
		start := i
		for i < end && !delimiter(i) {
			i++
		}
		if k == n-1 && i < end {
			// The last name gets the rest, but for one delimiter at the very end.
			j := i
			for j < end && space(j) {
				j++
			}
			if j < end && delimiter(j) && !space(j) {
				j++
			}
			for j < end && space(j) {
				j++
			}
			if j < end {
				values[k] = string(text[start:end])
			} else {
				values[k] = string(text[start:i])
			}
			break
		}
		values[k] = string(text[start:i])
		for i < end && space(i) {
			i++
		}
		if i < end && delimiter(i) {
			i++
			for i < end && space(i) {
				i++
			}
		}
	}
	return values
}
