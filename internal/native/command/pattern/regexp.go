// Package pattern has the patterns of POSIX: regular expressions, basic and
// extended, and those for file names. They match bytes, as in the POSIX locale,
// which is that of a RUN line unless somebody sets another one.
//
// What one C library does otherwise than another, or POSIX leaves undefined, is
// refused, as is what Go's regular expressions have no equivalent for.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Syntax is a kind of regular expression.
type Syntax int

// The kinds.
const (
	Basic    Syntax = iota
	Extended        // as egrep has it
	Awk             // extended, with the escapes of awk, in brackets too
)

// Options say more about a regular expression.
type Options struct {
	Syntax Syntax
	Fold   bool // upper and lower case are the same
	// StrictBraces is for a C library that takes a brace as the beginning of an
	// interval wherever it is (musl); else one that begins none is an ordinary
	// character (glibc).
	StrictBraces bool
	// NoIntervals is for programs of which some versions have intervals, such as
	// a{2}, and others don't.
	NoIntervals bool
}

// Regexp is a regular expression. Of several matches it takes the leftmost, and of
// these the longest.
type Regexp struct {
	re     *regexp.Regexp
	groups int
}

// Compile reads a regular expression; the error says what of it isn't supported.
func Compile(text string, o Options) (*Regexp, error) {
	t := &translator{text: text, o: o}
	if err := t.translate(); err != nil {
		return nil, err
	}
	re, err := regexp.Compile("(?s:" + t.out.String() + ")")
	if err != nil {
		return nil, fmt.Errorf("the regular expression %s", text)
	}
	re.Longest()
	return &Regexp{re, re.NumSubexp()}, nil
}

// translator writes a Go expression in which every byte above 127 is the character
// of that number, as [widen] makes them of a text.
type translator struct {
	text   string
	o      Options
	at     int
	out    strings.Builder
	groups []int  // where open groups begin in out
	atom   int    // where the last atom begins in out; -1 if there is none to repeat
	many   bool   // the last atom is repeated already
	word   bool   // the last atom is one character of a word
	before string // what is needed of the next character: "\<" was there
}

var errBack = errors.New("a back reference")

func (t *translator) literal(c byte) {
	if t.o.Fold && isLetter(c) {
		var s set
		s[c] = true
		s.fold()
		t.set(&s)
		return
	}
	t.begin()
	t.word = isWord(c)
	switch {
	case c < utf8.RuneSelf && (isWord(c) || strings.IndexByte(` "#%&',/:;<=>@_~!-`, c) >= 0):
		t.out.WriteByte(c)
	default:
		fmt.Fprintf(&t.out, `\x{%02x}`, c)
	}
}

func (t *translator) set(s *set) {
	if t.o.Fold {
		s.fold()
	}
	t.begin()
	t.word = true
	any := false
	for c := range s {
		any = any || s[c]
		t.word = t.word && (!s[c] || isWord(byte(c))) //nolint:gosec // below 256
	}
	if !any {
		t.out.WriteString(`[^\x{0}-\x{10FFFF}]`)
		return
	}
	t.out.WriteByte('[')
	for c := 0; c < 256; c++ {
		if !s[c] {
			continue
		}
		to := c
		for to < 255 && s[to+1] {
			to++
		}
		fmt.Fprintf(&t.out, `\x{%02x}-\x{%02x}`, c, to)
		c = to
	}
	t.out.WriteByte(']')
}

// begin begins an atom.
func (t *translator) begin() {
	t.atom, t.many = t.out.Len(), false
}

// anchor writes what matches no character.
func (t *translator) anchor(text string) {
	t.out.WriteString(text)
	t.atom, t.many, t.word = -1, false, false
}

// repeat writes a repetition of the last atom.
func (t *translator) repeat(op string) {
	if t.many {
		// Go has no a**, or would take a*? for something else.
		all := t.out.String()
		t.out.Reset()
		t.out.WriteString(all[:t.atom] + "(?:" + all[t.atom:] + ")")
	}
	t.out.WriteString(op)
	t.many, t.word = true, false
}

func (t *translator) translate() error {
	t.atom = -1
	extended := t.o.Syntax != Basic
	for t.at < len(t.text) {
		if t.before != "" {
			if err := t.startOfWord(); err != nil {
				return err
			}
			continue
		}
		c := t.text[t.at]
		t.at++
		escaped := false
		if c == '\\' {
			if t.at == len(t.text) {
				return errors.New("a backslash at the end of a regular expression")
			}
			c = t.text[t.at]
			t.at++
			escaped = true
		}
		// operator says whether the character has the meaning that both kinds have
		// it for, one of them with a backslash.
		operator := escaped != extended
		var err error
		switch {
		case c == '[' && !escaped:
			err = t.bracket()
		case c == '.' && !escaped:
			t.begin()
			t.word = false
			t.out.WriteByte('.')
		case c == '*' && !escaped:
			if t.atom < 0 {
				if extended {
					return errors.New("a repetition of nothing")
				}
				t.literal('*')
				break
			}
			t.repeat("*")
		case (c == '+' || c == '?') && operator:
			if t.atom < 0 {
				if extended {
					return errors.New("a repetition of nothing")
				}
				return fmt.Errorf(`\%c in a place where it repeats nothing`, c)
			}
			t.repeat(string(c))
		case c == '{' && operator:
			err = t.interval()
		case c == '(' && operator:
			t.groups = append(t.groups, t.out.Len())
			t.out.WriteByte('(')
			t.atom, t.many, t.word = -1, false, false
		case c == ')' && operator:
			if len(t.groups) == 0 {
				return errors.New("a parenthesis that nothing opened")
			}
			t.out.WriteByte(')')
			t.atom, t.many, t.word = t.groups[len(t.groups)-1], false, false
			t.groups = t.groups[:len(t.groups)-1]
		case c == '|' && operator:
			t.out.WriteByte('|')
			t.atom, t.many, t.word = -1, false, false
		case c == '^' && !escaped && (extended || t.startOfBranch()):
			t.anchor("^")
		case c == '$' && !escaped && (extended || t.endOfBranch()):
			t.anchor("$")
		case escaped:
			err = t.escape(c)
		default:
			t.literal(c)
		}
		if err != nil {
			return err
		}
	}
	if len(t.groups) > 0 {
		return errors.New("an open parenthesis")
	}
	if t.before != "" {
		return errors.New(`\< at the end`)
	}
	return nil
}

// startOfBranch and endOfBranch say where ^ and $ are anchors in a basic expression.
func (t *translator) startOfBranch() bool {
	before := t.text[:t.at-1]
	return before == "" || strings.HasSuffix(before, `\(`) || strings.HasSuffix(before, `\|`)
}

func (t *translator) endOfBranch() bool {
	after := t.text[t.at:]
	return after == "" || strings.HasPrefix(after, `\)`) || strings.HasPrefix(after, `\|`)
}

func (t *translator) bracket() error {
	var escape func(string) (byte, string, error)
	if t.o.Syntax == Awk {
		escape = Escape
	}
	s, rest, err := bracket(t.text[t.at:], "^", escape)
	if err != nil {
		return err
	}
	t.at = len(t.text) - len(rest)
	t.set(&s)
	return nil
}

// interval reads {n}, {n,} or {n,m}, after the brace.
func (t *translator) interval() error {
	end := "}"
	if t.o.Syntax == Basic {
		end = `\}`
	}
	text, _, closed := strings.Cut(t.text[t.at:], end)
	from, to, isRange := strings.Cut(text, ",")
	low, err := strconv.ParseUint(from, 10, 16)
	high := low
	if err == nil && isRange && to != "" {
		high, err = strconv.ParseUint(to, 10, 16)
	}
	switch {
	case (!closed || err != nil) && t.o.Syntax != Basic && !t.o.StrictBraces && !strings.HasPrefix(text, ",") && (text == "" || text[0] < '0' || text[0] > '9'):
		t.literal('{')
		return nil
	case !closed || err != nil || high < low:
		return errors.New("the interval {" + text)
	case t.atom < 0:
		return errors.New("a repetition of nothing")
	case t.o.NoIntervals:
		return fmt.Errorf("the interval {%s} (which versions of the program take differently)", text)
	case high > 1000 || low > 1000:
		return fmt.Errorf("the interval {%s}", text)
	}
	t.at += len(text) + len(end)
	switch {
	case !isRange:
		t.repeat(fmt.Sprintf("{%d}", low))
	case to == "":
		t.repeat(fmt.Sprintf("{%d,}", low))
	default:
		t.repeat(fmt.Sprintf("{%d,%d}", low, high))
	}
	return nil
}

func (t *translator) escape(c byte) error {
	if t.o.Syntax == Awk {
		b, rest, err := Escape(t.text[t.at-1:])
		if err != nil {
			return err
		}
		t.at = len(t.text) - len(rest)
		t.literal(b)
		return nil
	}
	switch {
	case c >= '1' && c <= '9':
		return errBack
	case c == 'w' || c == 'W' || c == 's' || c == 'S':
		var s set
		if c == 's' || c == 'S' {
			s, _ = class("space")
		} else {
			s, _ = class("alnum")
			s['_'] = true
		}
		if c == 'W' || c == 'S' {
			s.negate()
		}
		t.set(&s)
	case c == 'b' || c == 'B':
		t.anchor(`\` + string(c))
	case c == '<':
		t.before = `\<`
	case c == '>':
		// Go has only the boundary of a word: after a character of one that is
		// its end.
		if !t.word {
			return errors.New(`\> after something that isn't one character of a word`)
		}
		t.anchor(`\b`)
	case isLetter(c) || c >= '0' && c <= '9' || c == '`' || c == '\'':
		return fmt.Errorf(`the escape \%c`, c)
	default:
		t.literal(c)
	}
	return nil
}

// startOfWord writes \<, which is the boundary of a word before a character of one.
func (t *translator) startOfWord() error {
	rest := t.text[t.at:]
	ok := isWord(rest[0]) || strings.HasPrefix(rest, `\w`)
	if rest[0] == '[' {
		s, _, err := bracket(rest[1:], "^", nil)
		ok = err == nil
		for c := range s {
			ok = ok && (!s[c] || isWord(byte(c))) //nolint:gosec // below 256
		}
	}
	if !ok {
		return errors.New(`\< before something that isn't one character of a word`)
	}
	// What may be repeated no times would leave the boundary to what follows it.
	probe := &translator{text: rest, o: t.o}
	if i := probe.lengthOfFirst(); i < len(rest) && (strings.IndexByte("*?{", rest[i]) >= 0 || strings.HasPrefix(rest[i:], `\?`) || strings.HasPrefix(rest[i:], `\{`)) {
		return errors.New(`\< before something that is repeated`)
	}
	t.before = ""
	t.anchor(`\b`)
	return nil
}

// lengthOfFirst is the length of the first character or bracket expression.
func (t *translator) lengthOfFirst() int {
	switch {
	case t.text[0] == '[':
		if _, rest, err := bracket(t.text[1:], "^", nil); err == nil {
			return len(t.text) - len(rest)
		}
	case t.text[0] == '\\' && len(t.text) > 1:
		return 2
	}
	return 1
}

// Escape reads an escape of awk, in a string or a regular expression, after the
// backslash (POSIX.1-2017, awk, table "Escape Sequences").
func Escape(text string) (c byte, rest string, err error) {
	if text == "" {
		return 0, "", errors.New("a backslash at the end")
	}
	c, rest = text[0], text[1:]
	if i := strings.IndexByte("abfnrtv", c); i >= 0 {
		return "\a\b\f\n\r\t\v"[i], rest, nil
	}
	if c >= '0' && c <= '7' {
		n := 0
		for i := 0; i < 3 && text != "" && text[0] >= '0' && text[0] <= '7'; i++ {
			n = n*8 + int(text[0]-'0')
			text = text[1:]
		}
		return byte(n), text, nil //nolint:gosec // cut to a byte, as everywhere
	}
	if isLetter(c) || c == '8' || c == '9' {
		return 0, "", fmt.Errorf(`the escape \%c`, c)
	}
	return c, rest, nil
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isWord(c byte) bool   { return isLetter(c) || c >= '0' && c <= '9' || c == '_' }

// widen makes every byte the character of that number; ok is false if the text is
// that already.
func widen(text string) (wide string, ok bool) {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			var b strings.Builder
			b.Grow(2 * len(text))
			for j := range len(text) {
				b.WriteRune(rune(text[j]))
			}
			return b.String(), true
		}
	}
	return text, false
}

// narrow makes places in a widened text those in the text itself.
func narrow(wide string, places []int) {
	done, bytes := 0, 0
	known := map[int]int{}
	// Places of groups aren't in order, but each lies at or after the first one.
	for i, at := range places {
		if at < 0 {
			continue
		}
		n, ok := known[at]
		if !ok {
			if at >= done {
				bytes += utf8.RuneCountInString(wide[done:at])
				done = at
				n = bytes
			} else {
				n = utf8.RuneCountInString(wide[:at])
			}
			known[at] = n
		}
		places[i] = n
	}
}

// Match reports whether a part of the text matches.
func (r *Regexp) Match(text string) bool {
	wide, _ := widen(text)
	return r.re.MatchString(wide)
}

// Find gives the first match, as text[from:to]; -1, -1 if there is none.
func (r *Regexp) Find(text string) (from, to int) {
	m := r.Groups(text)
	if m == nil {
		return -1, -1
	}
	return m[0], m[1]
}

// Groups gives the first match and those of its groups in pairs, -1 for a group
// that isn't in it; nil if there is none.
func (r *Regexp) Groups(text string) []int {
	wide, changed := widen(text)
	m := r.re.FindStringSubmatchIndex(wide)
	if changed {
		narrow(wide, m)
	}
	return m
}

// All gives all matches one after the other. An empty one right after another isn't
// among them.
func (r *Regexp) All(text string) [][]int {
	wide, changed := widen(text)
	list := r.re.FindAllStringIndex(wide, -1)
	if changed {
		done, bytes := 0, 0
		for _, m := range list {
			bytes += utf8.RuneCountInString(wide[done:m[0]])
			length := utf8.RuneCountInString(wide[m[0]:m[1]])
			done = m[1]
			m[0] = bytes
			bytes += length
			m[1] = bytes
		}
	}
	return list
}

// NumGroups is the number of groups in parentheses.
func (r *Regexp) NumGroups() int { return r.groups }
