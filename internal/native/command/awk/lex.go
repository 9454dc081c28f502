package awk

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// kind is what a token is; operators and brackets are their own text.
type kind int

const (
	endToken   kind = iota
	newline         // or the end of a comment
	number          // with value
	text            // a string, with its escapes read
	name            // of a variable
	called          // a name right before "("
	builtin         // the name of a function that awk has
	keyword         // a word of the language
	punctuator      // operators and brackets
)

type token struct {
	kind   kind
	text   string
	value  float64
	line   int
	before bool // white space comes before it
}

// syntax is a program that isn't one.
type syntax struct {
	line int
	what string
}

func (s *syntax) Error() string { return fmt.Sprintf("line %d: %s", s.line, s.what) }

// refuse says what of awk can't be had.
func refuse(format string, args ...any) *command.Unsupported {
	return &command.Unsupported{Command: "awk", What: fmt.Sprintf(format, args...)}
}

var keywords = map[string]bool{"BEGIN": true, "END": true, "function": true, "if": true, "else": true, "while": true, "for": true, "do": true, "break": true, "continue": true, "next": true, "nextfile": true,
	"exit": true, "return": true, "delete": true, "in": true, "getline": true, "print": true, "printf": true}

var builtins = map[string]bool{"length": true, "substr": true, "index": true, "split": true, "sub": true, "gsub": true, "match": true, "sprintf": true, "tolower": true, "toupper": true,
	"int": true, "sqrt": true, "exp": true, "log": true, "sin": true, "cos": true, "atan2": true, "close": true, "fflush": true}

// others are names that mean something to one awk or another: what they do depends
// on the machine or on the time, or isn't the same everywhere.
var others = map[string]string{"system": "running a shell command (system)", "rand": "random numbers (rand)", "srand": "random numbers (srand)", "systime": "the time (systime)", "strftime": "the time (strftime)", "mktime": "the time (mktime)",
	"func": "the word func", "BEGINFILE": "", "ENDFILE": "", "switch": "", "case": "", "default": "", "gensub": "", "asort": "", "asorti": "", "strtonum": "", "patsplit": "", "and": "", "or": "", "xor": "", "compl": "", "lshift": "", "rshift": "", "isarray": "", "typeof": "",
	"RT": "", "IGNORECASE": "", "FIELDWIDTHS": "", "FPAT": "", "ERRNO": "", "PROCINFO": "", "SYMTAB": "", "FUNCTAB": "", "ARGIND": "", "BINMODE": "", "LINT": "", "TEXTDOMAIN": "", "ROUNDMODE": "", "PREC": ""}

// lexer reads tokens. Whether a slash begins a regular expression is known to the
// parser alone, which asks for one.
type lexer struct {
	src     string
	at      int
	line    int
	busybox bool
}

func (l *lexer) fail(format string, args ...any) error {
	return &syntax{l.line, fmt.Sprintf(format, args...)}
}

// space skips white space, continued lines and comments.
func (l *lexer) space() bool {
	from := l.at
	for l.at < len(l.src) {
		switch c := l.src[l.at]; {
		case c == ' ' || c == '\t' || c == '\r':
			l.at++
		case c == '\\' && strings.HasPrefix(l.src[l.at+1:], "\n"):
			l.at += 2
			l.line++
		case c == '\\' && strings.HasPrefix(l.src[l.at+1:], "\r\n"):
			l.at += 3
			l.line++
		case c == '#':
			for l.at < len(l.src) && l.src[l.at] != '\n' {
				l.at++
			}
		default:
			return l.at > from
		}
	}
	return l.at > from
}

// operators, the longest first.
var operators = []string{"**=", "&&", "||", "++", "--", "+=", "-=", "*=", "/=", "%=", "^=", "==", "<=", ">=", "!=", "!~", ">>", "**", "{", "}", "(", ")", "[", "]", ";", ",", "+", "-", "*", "/", "%", "^", "!", ">", "<", "|", "?", ":", "~", "$", "="}

func (l *lexer) next() (token, error) {
	t := token{before: l.space(), line: l.line}
	if l.at >= len(l.src) {
		return t, nil
	}
	c := l.src[l.at]
	switch {
	case c == '\n':
		l.at++
		l.line++
		t.kind = newline
		return t, nil
	case c == '"':
		s, err := l.quoted()
		t.kind, t.text = text, s
		return t, err
	case c >= '0' && c <= '9' || c == '.' && l.at+1 < len(l.src) && l.src[l.at+1] >= '0' && l.src[l.at+1] <= '9':
		n, err := l.number()
		t.kind, t.value = number, n
		return t, err
	case c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z':
		from := l.at
		for l.at < len(l.src) && (l.src[l.at] == '_' || l.src[l.at]|0x20 >= 'a' && l.src[l.at]|0x20 <= 'z' || l.src[l.at] >= '0' && l.src[l.at] <= '9') {
			l.at++
		}
		t.text = l.src[from:l.at]
		if what, ok := others[t.text]; ok && (t.text != "func" || !l.busybox) {
			if what == "" {
				what = t.text
			}
			return t, refuse("%s", what)
		}
		switch {
		case t.text == "func":
			t.kind, t.text = keyword, "function"
		case keywords[t.text]:
			t.kind = keyword
		case builtins[t.text]:
			t.kind = builtin
		case strings.HasPrefix(l.src[l.at:], "("):
			t.kind = called
		default:
			t.kind = name
		}
		return t, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(l.src[l.at:], op) {
			l.at += len(op)
			t.kind, t.text = punctuator, op
			if strings.HasPrefix(op, "**") {
				if !l.busybox {
					return t, refuse("the operator %s (which not every awk has)", op)
				}
				t.text = strings.Replace(op, "**", "^", 1)
			}
			return t, nil
		}
	}
	if c == '@' {
		return t, refuse("the character @")
	}
	return t, l.fail("unexpected character %q", c)
}

// number reads a decimal number. Others, such as 0x1A and 010, aren't the same in
// every awk.
func (l *lexer) number() (float64, error) {
	length := decimal(l.src[l.at:])
	digits := l.src[l.at : l.at+length]
	rest := l.src[l.at+length:]
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' || digits == "0" && rest != "" && rest[0]|0x20 == 'x' {
		return 0, refuse("the number %s%.1s (which not every awk takes for a decimal one)", digits, rest)
	}
	l.at += length
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n > 0 && n < 1e-300 {
		return 0, refuse("the number %s", digits)
	}
	return n, nil
}

// decimal is the length of the decimal number that a text begins with, without a sign.
func decimal(s string) int {
	digits := func(i int) int {
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i
	}
	end := digits(0)
	any := end > 0
	if end < len(s) && s[end] == '.' {
		if after := digits(end + 1); any || after > end+1 {
			any, end = true, after
		}
	}
	if !any {
		return 0
	}
	if end < len(s) && s[end]|0x20 == 'e' {
		exponent := end + 1
		if exponent < len(s) && (s[exponent] == '+' || s[exponent] == '-') {
			exponent++
		}
		if after := digits(exponent); after > exponent {
			end = after
		}
	}
	return end
}

func (l *lexer) quoted() (string, error) {
	from := l.at + 1
	for i := from; i < len(l.src); i++ {
		switch l.src[i] {
		case '\n':
			return "", l.fail("a string isn't closed")
		case '\\':
			i++
			if i < len(l.src) && l.src[i] == '\n' {
				return "", refuse("a string of several lines")
			}
		case '"':
			l.at = i + 1
			return escapes(l.src[from:i], l.busybox)
		}
	}
	return "", l.fail("a string isn't closed")
}

// escapes reads the escapes of a string. Those that POSIX leaves undefined, such as
// "\.", mean one thing here and another one there.
func escapes(s string, busybox bool) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var out strings.Builder
	for s != "" {
		c := s[0]
		s = s[1:]
		if c != '\\' {
			out.WriteByte(c)
			continue
		}
		if s == "" {
			return "", refuse("a backslash at the end of a string")
		}
		known := strings.IndexByte(`"\abfnrtv01234567`, s[0]) >= 0 || s[0] == '/' && busybox
		b, rest, err := pattern.Escape(s)
		if !known || err != nil || b == 0 {
			return "", &command.Unsupported{Command: "awk", What: `the escape \` + s[:1] + " in a string (which not every awk takes alike)", Fix: `two backslashes for one, or none`}
		}
		out.WriteByte(b)
		s = rest
	}
	return out.String(), nil
}

// regexp reads a regular expression, after its first slash, as it is written.
func (l *lexer) regexp() (string, error) {
	from := l.at
	bracket := false
	for i := from; i < len(l.src); i++ {
		switch c := l.src[i]; {
		case c == '\n':
			return "", l.fail("a regular expression isn't closed")
		case c == '\\':
			i++
		case c == '[' && !bracket:
			bracket = true
			rest := strings.TrimPrefix(l.src[i+1:], "^")
			i = len(l.src) - len(rest) - 1
			if strings.HasPrefix(rest, "]") {
				i++
			}
		case c == '[' && strings.HasPrefix(l.src[i:], "[:"):
			if end := strings.Index(l.src[i:], ":]"); end > 0 {
				i += end + 1
			}
		case c == ']':
			bracket = false
		case c == '/' && bracket:
			return "", &command.Unsupported{Command: "awk", What: "a slash in brackets of a regular expression (which not every awk takes alike)", Fix: `[\/]`}
		case c == '/':
			l.at = i + 1
			return l.src[from:i], nil
		}
	}
	return "", l.fail("a regular expression isn't closed")
}

// regexps compiles regular expressions, each of them once.
type regexps struct {
	busybox bool
	known   map[string]*pattern.Regexp
}

// compile reads a regular expression. One that is written between slashes has had
// its escapes read by busybox, as those of a string, before the C library sees it.
func (r *regexps) compile(source string, written bool) (*pattern.Regexp, error) {
	key := source
	if written {
		key = "/" + source
	}
	if re := r.known[key]; re != nil {
		return re, nil
	}
	o := pattern.Options{Syntax: pattern.Awk, NoIntervals: true}
	expression := source
	if r.busybox {
		o = pattern.Options{Syntax: pattern.Extended, StrictBraces: true}
		if written {
			expression = busyboxEscapes(source)
		}
	}
	re, err := pattern.Compile(expression, o)
	if err != nil {
		return nil, refuse("%v in /%s/", err, source)
	}
	if r.known == nil || len(r.known) > 500 {
		r.known = map[string]*pattern.Regexp{}
	}
	r.known[key] = re
	return re, nil
}

// busyboxEscapes reads the escapes that busybox knows, and leaves others as they are.
func busyboxEscapes(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte("abfnrtv", s[i]); at >= 0 && s[i] != 'b' {
			out.WriteByte("\a\b\f\n\r\t\v"[at])
			continue
		}
		out.WriteString(s[i-1 : i+1])
	}
	return out.String()
}

var errDepth = errors.New("expressions or statements inside each other this deeply")
