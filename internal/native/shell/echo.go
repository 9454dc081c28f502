package shell

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/anyarch/anyarch/internal/native/command"
)

// echo writes its arguments. That of dash understands escapes always, the others
// with -e.
func (sh *session) echo(p *command.Proc) (int, error) {
	args := p.Args[1:]
	newline, escapes := true, sh.script.Dialect == Dash
	if sh.script.Dialect == Dash {
		if len(args) > 0 && args[0] == "-n" {
			newline, args = false, args[1:]
		}
		return echo(p.Stdout, args, newline, escapes, dashEscapes)
	}
	return sh.echoOptions(p, args)
}

// echoProgram is echo as a program: that of coreutils and that of busybox are like
// the builtins of bash and ash.
func (sh *session) echoProgram(p *command.Proc) (int, error) { return sh.echoOptions(p, p.Args[1:]) }

func (sh *session) echoOptions(p *command.Proc, args []string) (int, error) {
	newline, escapes := true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		for _, l := range args[0][1:] {
			switch l {
			case 'n':
				newline = false
			default:
				escapes = l == 'e'
			}
		}
		args = args[1:]
	}
	style := bashEscapes
	if sh.script.Dialect == Ash {
		style = ashEscapes
	}
	return echo(p.Stdout, args, newline, escapes, style)
}

func echo(w io.Writer, args []string, newline, escapes bool, style escapeStyle) (int, error) {
	text := strings.Join(args, " ")
	if escapes {
		stop := false
		if text, stop = unescape(text, style); stop {
			newline = false
		}
	}
	if newline {
		text += "\n"
	}
	if _, err := io.WriteString(w, text); err != nil {
		return 1, nil
	}
	return 0, nil
}

// escapeStyle is what escapes mean to one shell.
type escapeStyle struct {
	hex     bool // \xHH
	unicode bool // \uHHHH and \UHHHHHHHH
	escape  bool // \e
	bigE    bool // \E
	octal   bool // \NNN, without the zero of \0NNN
	zero    bool // \0NNN takes three digits after the zero
}

var (
	dashEscapes = escapeStyle{escape: true, octal: true, zero: true}
	ashEscapes  = escapeStyle{hex: true, escape: true, zero: true}
	bashEscapes = escapeStyle{hex: true, unicode: true, escape: true, bigE: true, zero: true}
)

// unescape replaces escapes. stop says that there was a \c, which ends the output.
func unescape(s string, style escapeStyle) (text string, stop bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		digits := func(most, base int) (uint64, int) {
			n := 0
			for n < most && i+1+n < len(s) && isDigit(s[i+1+n], base) {
				n++
			}
			v, _ := strconv.ParseUint(s[i+1:i+1+n], base, 64)
			return v, n
		}
		c := s[i]
		switch {
		case c == 'a':
			b.WriteByte('\a')
		case c == 'b':
			b.WriteByte('\b')
		case c == 'c':
			return b.String(), true
		case c == 'f':
			b.WriteByte('\f')
		case c == 'n':
			b.WriteByte('\n')
		case c == 'r':
			b.WriteByte('\r')
		case c == 't':
			b.WriteByte('\t')
		case c == 'v':
			b.WriteByte('\v')
		case c == '\\':
			b.WriteByte('\\')
		case c == 'e' && style.escape || c == 'E' && style.bigE:
			b.WriteByte(0x1b)
		case c == '0' && style.zero:
			v, n := digits(3, 8)
			b.WriteByte(byte(v)) //nolint:gosec // a byte, as shells do
			i += n
		case c >= '0' && c <= '7' && style.octal:
			i--
			v, n := digits(3, 8)
			b.WriteByte(byte(v)) //nolint:gosec // a byte, as shells do
			i += n
		case c == 'x' && style.hex:
			v, n := digits(2, 16)
			if n == 0 {
				b.WriteString(`\x`)
				break
			}
			b.WriteByte(byte(v)) //nolint:gosec // two digits
			i += n
		case (c == 'u' || c == 'U') && style.unicode:
			most := 4
			if c == 'U' {
				most = 8
			}
			v, n := digits(most, 16)
			if n == 0 {
				b.WriteString(s[i-1 : i+1])
				break
			}
			if v > utf8.MaxRune {
				v = utf8.RuneError
			}
			b.WriteRune(rune(v)) //nolint:gosec // bounded above
			i += n
		default:
			b.WriteString(s[i-1 : i+1])
		}
	}
	return b.String(), false
}

func isDigit(c byte, base int) bool {
	switch {
	case c >= '0' && c <= '7':
		return true
	case c >= '8' && c <= '9':
		return base > 8
	}
	return base == 16 && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F')
}

// printf formats its arguments, over and over until none is left (POSIX, printf).
func (sh *session) printf(p *command.Proc) (int, error) {
	args := p.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		sh.complain(p.Stderr, 0, "printf", "usage: printf format [arg ...]")
		return 2, nil
	}
	if strings.HasPrefix(args[0], "-v") {
		return 0, &command.Unsupported{Command: "printf", What: "option -v", Fix: `NAME="$(printf …)"`}
	}
	f := formatter{sh: sh, p: p, args: args[1:]}
	for {
		left := len(f.args)
		done, err := f.format(args[0])
		if err != nil {
			return 0, err
		}
		if done || len(f.args) == 0 || len(f.args) == left {
			break
		}
	}
	if _, err := io.WriteString(p.Stdout, f.out.String()); err != nil {
		return 1, nil
	}
	return f.exit, nil
}

type formatter struct {
	sh   *session
	p    *command.Proc
	args []string
	out  strings.Builder
	exit int
}

func (f *formatter) next() (string, bool) {
	if len(f.args) == 0 {
		return "", false
	}
	a := f.args[0]
	f.args = f.args[1:]
	return a, true
}

func (f *formatter) format(format string) (done bool, err error) {
	style := escapeStyle{octal: true, escape: f.sh.script.Dialect != Ash}
	switch f.sh.script.Dialect {
	case Bash:
		style.hex, style.unicode, style.escape, style.bigE = true, true, true, true
	case Ash:
		style.hex, style.escape = true, true
	}
	for i := 0; i < len(format); i++ {
		if format[i] == '\\' {
			j := i + 1
			for j < len(format) && format[j] != '%' && format[j] != '\\' {
				j++
			}
			if j == i+1 && j < len(format) && format[j] == '\\' {
				j++
			}
			text := format[i:j]
			if strings.HasPrefix(text, `\"`) || strings.HasPrefix(text, `\'`) && f.sh.script.Dialect == Bash {
				text = text[1:]
			}
			if strings.HasPrefix(text, `\c`) {
				if f.sh.script.Dialect != Bash {
					return true, nil
				}
				f.out.WriteString(text)
			} else {
				plain, _ := unescape(text, style)
				f.out.WriteString(plain)
			}
			i = j - 1
			continue
		}
		if format[i] != '%' {
			f.out.WriteByte(format[i])
			continue
		}
		if i+1 < len(format) && format[i+1] == '%' {
			f.out.WriteByte('%')
			i++
			continue
		}
		spec := "%"
		for i++; i < len(format) && strings.IndexByte("-+ 0#", format[i]) >= 0; i++ {
			spec += format[i : i+1]
		}
		number := func() {
			if i < len(format) && format[i] == '*' {
				a, _ := f.next()
				n, err := strconv.Atoi(a)
				if err != nil || n > 1<<16 || n < -1<<16 {
					n = 0
				}
				spec += strconv.Itoa(n)
				i++
				return
			}
			for ; i < len(format) && isDigit(format[i], 10); i++ {
				spec += format[i : i+1]
			}
		}
		number()
		if i < len(format) && format[i] == '.' {
			spec += "."
			i++
			number()
		}
		for i < len(format) && strings.IndexByte("hlLjzt", format[i]) >= 0 {
			i++
		}
		if i >= len(format) {
			f.sh.complain(f.p.Stderr, 0, "printf", "%: missing format character")
			f.exit = 1
			return true, nil
		}
		if len(spec) > 12 {
			return true, &command.Unsupported{Command: "printf", What: "the format " + spec}
		}
		if stop, err := f.verb(spec, format[i], style); stop || err != nil {
			return true, err
		}
	}
	return false, nil
}

func (f *formatter) verb(spec string, verb byte, style escapeStyle) (stop bool, err error) {
	arg, _ := f.next()
	switch verb {
	case 's':
		// Widths count bytes here, not characters as in Go.
		f.out.WriteString(pad(spec, arg))
	case 'b':
		style.zero = true
		text, stop := unescape(arg, style)
		f.out.WriteString(pad(spec, text))
		return stop, nil
	case 'c':
		if arg != "" {
			arg = arg[:1]
		}
		f.out.WriteString(pad(spec, arg))
	case 'd', 'i':
		_, _ = fmt.Fprintf(&f.out, spec+"d", f.integer(arg))
	case 'u':
		_, _ = fmt.Fprintf(&f.out, spec+"d", uint64(f.integer(arg))) //nolint:gosec // as C does
	case 'o', 'x', 'X':
		_, _ = fmt.Fprintf(&f.out, spec+string(verb), uint64(f.integer(arg))) //nolint:gosec // as C does
	case 'e', 'E', 'f', 'F', 'g', 'G':
		v := 0.0
		if arg != "" {
			var perr error
			if v, perr = strconv.ParseFloat(arg, 64); perr != nil {
				f.bad(arg)
			}
		}
		if (verb == 'g' || verb == 'G') && !strings.Contains(spec, ".") {
			spec += ".6"
		}
		text := fmt.Sprintf(spec+string(verb), v)
		f.out.WriteString(text)
	case 'q':
		if f.sh.script.Dialect != Bash {
			return true, &command.Unsupported{Command: "printf", What: "the format %q"}
		}
		if arg == "" || strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@%+") != "" {
			return true, &command.Unsupported{Command: "printf", What: "the format %q of such a text"}
		}
		f.out.WriteString(pad(spec, arg))
	default:
		return true, &command.Unsupported{Command: "printf", What: "the format " + spec + string(verb)}
	}
	return false, nil
}

// pad makes a string as wide as a format says, and cuts it to its precision.
func pad(spec, s string) string {
	spec = strings.TrimLeft(spec, "%+ #0")
	left := strings.HasPrefix(spec, "-")
	width, precision, has := strings.Cut(strings.TrimLeft(spec, "-+ #0"), ".")
	if n, _ := strconv.Atoi(precision); has && n >= 0 && n < len(s) {
		s = s[:n]
	}
	n, _ := strconv.Atoi(width)
	if n < 0 {
		left, n = true, -n
	}
	fill := strings.Repeat(" ", max(0, n-len(s)))
	if left {
		return s + fill
	}
	return fill + s
}

func (f *formatter) bad(arg string) {
	text := arg + ": expected numeric value"
	switch f.sh.script.Dialect {
	case Bash:
		text = arg + ": invalid number"
	case Ash:
		text = "invalid number '" + arg + "'"
	}
	f.sh.complain(f.p.Stderr, 0, "printf", text)
	f.exit = 1
}

func (f *formatter) integer(arg string) int64 {
	if arg == "" {
		return 0
	}
	if arg[0] == '\'' || arg[0] == '"' {
		r, size := utf8.DecodeRuneInString(arg[1:])
		if size == 0 {
			return 0
		}
		return int64(r)
	}
	text := strings.TrimSpace(arg)
	base := 10
	sign := ""
	if strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		sign, text = text[:1], text[1:]
	}
	switch {
	case strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0X"):
		base, text = 16, text[2:]
	case len(text) > 1 && text[0] == '0':
		base, text = 8, text[1:]
	}
	if v, err := strconv.ParseInt(sign+text, base, 64); err == nil {
		return v
	}
	if v, err := strconv.ParseUint(text, base, 64); err == nil && sign != "-" {
		return int64(v) //nolint:gosec // as C does
	}
	f.bad(arg)
	n := 0
	for n < len(text) && isDigit(text[n], base) {
		n++
	}
	v, _ := strconv.ParseInt(sign+text[:n], base, 64)
	return v
}
