package text

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// address says which lines a command of sed is for.
type address struct {
	line   int             // a number; -1 for the last one
	re     *pattern.Regexp // or a pattern
	empty  bool            // or the last pattern that was used
	step   int             // FIRST~STEP; as a second address, ~STEP
	plus   bool            // as a second address: line is a number of lines
	zero   bool            // 0, as a first one: a pattern after it may be in the first line
	folded bool
}

// piece is a part of a replacement.
type piece struct {
	text  string
	group int  // -1: text
	fold  byte // U, L, u, l or E, with group -2
}

// edit is one command of a script.
type edit struct {
	from, to *address
	negated  bool
	verb     byte
	text     string // of a, i and c; the file of r and w; the label of b, t and T
	target   int    // where b, t, T and { go on; -1 for the end
	re       *pattern.Regexp
	emptyRE  bool
	with     []piece
	nth      int
	global   bool
	print    bool
	write    string
	table    [256]byte
	code     int

	active bool // in its range
	end    int  // the line that a range of numbers ends with
}

// sedParser reads a script.
type sedParser struct {
	rest     string
	extended bool
	busybox  bool
	list     []*edit
	blocks   []int
	labels   map[string]int
}

func (s *sedParser) refuse(format string, args ...any) *command.Unsupported {
	return unsupported("sed", format, args...)
}

// errSed is a mistake that sed itself complains about.
type errSed string

func (e errSed) Error() string { return string(e) }

func parseSed(script string, extended, busybox bool) ([]*edit, error) {
	s := &sedParser{rest: script, extended: extended, busybox: busybox, labels: map[string]int{}}
	for {
		s.rest = strings.TrimLeft(s.rest, " \t\n;")
		if s.rest == "" {
			break
		}
		if s.rest[0] == '#' {
			_, s.rest, _ = strings.Cut(s.rest, "\n")
			continue
		}
		if err := s.command(); err != nil {
			return nil, err
		}
	}
	if len(s.blocks) > 0 {
		return nil, errSed("unmatched {")
	}
	for _, e := range s.list {
		if strings.IndexByte("btT", e.verb) < 0 {
			continue
		}
		if e.target = -1; e.text != "" {
			at, ok := s.labels[e.text]
			if !ok {
				return nil, errSed("can't find label for jump to " + e.text)
			}
			e.target = at
		}
	}
	return s.list, nil
}

// command reads one command with its addresses.
func (s *sedParser) command() error {
	e := &edit{}
	var err error
	if e.from, err = s.address(true); err != nil {
		return err
	}
	s.blanks()
	if e.from != nil && strings.HasPrefix(s.rest, ",") {
		s.rest = s.rest[1:]
		s.blanks()
		if e.to, err = s.address(false); err != nil {
			return err
		}
		if e.to == nil {
			return errSed("unexpected ,")
		}
		s.blanks()
	}
	if e.from != nil && e.from.zero && (e.to == nil || e.to.re == nil && !e.to.empty) {
		return errSed("invalid usage of line address 0")
	}
	if s.busybox {
		for _, a := range []*address{e.from, e.to} {
			if a != nil && (a.step > 0 || a.zero || a.folded) {
				return s.refuse("an address with ~, 0 or I")
			}
		}
	}
	for strings.HasPrefix(s.rest, "!") {
		e.negated = true
		s.rest = s.rest[1:]
		s.blanks()
	}
	if s.rest == "" {
		return errSed("missing command")
	}
	e.verb, s.rest = s.rest[0], s.rest[1:]
	at := len(s.list)
	s.list = append(s.list, e)
	switch e.verb {
	case '{':
		s.blocks = append(s.blocks, at)
		return nil
	case '}':
		if s.busybox && len(s.blocks) == 0 {
			return s.refuse("a } without a {")
		}
		if len(s.blocks) == 0 || e.from != nil {
			return errSed("unexpected }")
		}
		s.list[s.blocks[len(s.blocks)-1]].target = at
		s.blocks = s.blocks[:len(s.blocks)-1]
	case 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', '=':
	case 'z':
		if s.busybox {
			return s.refuse("the command z")
		}
	case 'F', 'e', 'R', 'W', 'l', 'v':
		return s.refuse("the command %c", e.verb)
	case 'q', 'Q':
		if e.to != nil {
			return errSed("command only uses one address")
		}
		if e.verb == 'Q' && s.busybox {
			return s.refuse("the command Q")
		}
		s.blanks()
		digits := s.rest[:len(s.rest)-len(strings.TrimLeft(s.rest, "0123456789"))]
		if s.rest = s.rest[len(digits):]; digits != "" {
			if s.busybox {
				return s.refuse("the exit code of %c", e.verb)
			}
			if e.code, err = strconv.Atoi(digits); err != nil || e.code > 255 {
				return s.refuse("the exit code %s", digits)
			}
		}
	case ':':
		if e.from != nil {
			return errSed(": doesn't want any addresses")
		}
		if e.text = s.label(); e.text == "" {
			return errSed("\":\" lacks a label")
		}
		s.labels[e.text] = at
	case 'b', 't', 'T':
		if e.verb == 'T' && s.busybox {
			return s.refuse("the command T")
		}
		e.text = s.label()
	case 'a', 'i', 'c':
		return s.addition(e)
	case 'r', 'w':
		s.blanks()
		e.text, s.rest, _ = strings.Cut(s.rest, "\n")
		if e.text == "" {
			return errSed("missing filename in r/R/w/W commands")
		}
		return nil
	case 'y':
		return s.translation(e)
	case 's':
		return s.substitution(e)
	default:
		return s.refuse("the command %c", e.verb)
	}
	return s.ended()
}

func (s *sedParser) blanks() { s.rest = strings.TrimLeft(s.rest, " \t") }

// ended sees to it that nothing but the next command follows.
func (s *sedParser) ended() error {
	s.blanks()
	if s.rest == "" || strings.IndexByte(";\n}#", s.rest[0]) >= 0 {
		return nil
	}
	return errSed("extra characters after command")
}

func (s *sedParser) label() string {
	s.blanks()
	end := strings.IndexAny(s.rest, ";\n \t}")
	if end < 0 {
		end = len(s.rest)
	}
	label := s.rest[:end]
	s.rest = s.rest[end:]
	return label
}

func (s *sedParser) number() (int, error) {
	digits := s.rest[:len(s.rest)-len(strings.TrimLeft(s.rest, "0123456789"))]
	s.rest = s.rest[len(digits):]
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, errSed("expected a number")
	}
	return n, nil
}

// address reads one address, nil if there is none.
func (s *sedParser) address(first bool) (*address, error) {
	if s.rest == "" {
		return nil, nil
	}
	a := &address{}
	var err error
	switch c := s.rest[0]; {
	case c >= '0' && c <= '9':
		if a.line, err = s.number(); err != nil {
			return nil, err
		}
		if strings.HasPrefix(s.rest, "~") && first {
			s.rest = s.rest[1:]
			if a.step, err = s.number(); err != nil {
				return nil, err
			}
			return a, nil
		}
		if a.line == 0 {
			if !first {
				return nil, s.refuse("the address 0")
			}
			a.zero = true
		}
	case c == '$':
		a.line, s.rest = -1, s.rest[1:]
	case !first && (c == '+' || c == '~'):
		s.rest = s.rest[1:]
		n, err := s.number()
		if err != nil {
			return nil, err
		}
		if a.plus, a.line = true, n; c == '~' {
			a.plus, a.line, a.step = false, 0, n
		}
	case c == '/' || c == '\\' && len(s.rest) > 1:
		mark := byte('/')
		if s.rest = s.rest[1:]; c == '\\' {
			mark, s.rest = s.rest[0], s.rest[1:]
		}
		text, ok := s.until(mark)
		if !ok {
			return nil, errSed("unterminated address regex")
		}
		fold := false
		for s.rest != "" && (s.rest[0] == 'I' || s.rest[0] == 'M') {
			if s.rest[0] == 'M' {
				return nil, s.refuse("the flag M")
			}
			fold, a.folded, s.rest = true, true, s.rest[1:]
		}
		if a.re, a.empty, err = s.expression(text, mark, fold); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	return a, nil
}

// until takes text up to a mark that is neither escaped nor in brackets.
func (s *sedParser) until(mark byte) (string, bool) {
	text := s.rest
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case text[i] == '[' && mark != '[':
			// A closing bracket that comes first is one of the characters.
			end := i + 1
			if strings.HasPrefix(text[end:], "^") {
				end++
			}
			if strings.HasPrefix(text[end:], "]") {
				end++
			}
			for end < len(text) && text[end] != ']' && text[end] != '\n' {
				if strings.HasPrefix(text[end:], "[:") {
					if n := strings.Index(text[end:], ":]"); n > 0 {
						end += n + 1
					}
				}
				end++
			}
			if end < len(text) && text[end] == ']' {
				i = end
			}
		case text[i] == mark:
			s.rest = text[i+1:]
			return text[:i], true
		}
	}
	return "", false
}

// plainUntil is until for what has no brackets: replacements.
func (s *sedParser) plainUntil(mark byte) (string, bool) {
	for i := 0; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '\\':
			i++
		case mark:
			text := s.rest[:i]
			s.rest = s.rest[i+1:]
			return text, true
		}
	}
	return "", false
}

// expression compiles a regular expression; empty says that it is the last one.
func (s *sedParser) expression(text string, mark byte, fold bool) (re *pattern.Regexp, empty bool, err error) {
	if text == "" {
		if fold {
			return nil, false, s.refuse("flags of an empty regular expression")
		}
		return nil, true, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 >= len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch c := text[i]; {
		case c == mark && mark != '/' && strings.IndexByte(`.|+?(){}[]*^$`, c) >= 0:
			return nil, false, s.refuse(`\%c in a regular expression that is between %c`, c, c)
		case c == mark:
			b.WriteByte(c)
		case c == 'n':
			b.WriteByte('\n')
		case c == 't':
			b.WriteByte('\t')
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	o := pattern.Options{Fold: fold, StrictBraces: s.busybox}
	if s.extended {
		o.Syntax = pattern.Extended
	}
	if re, err = pattern.Compile(b.String(), o); err != nil {
		return nil, false, s.refuse("%v", err)
	}
	return re, false, nil
}

// addition reads the text of a, i and c.
func (s *sedParser) addition(e *edit) error {
	s.blanks()
	oneLine := true
	if strings.HasPrefix(s.rest, "\\") {
		after := strings.TrimLeft(s.rest[1:], " \t")
		switch {
		case strings.HasPrefix(after, "\n"):
			oneLine, s.rest = false, after[1:]
		case after == "" && s.busybox:
			return s.refuse("%c of nothing", e.verb)
		case after == "":
			s.rest = "" // nothing is added but the end of the last line
			return nil
		default:
			s.rest = s.rest[1:]
		}
	} else if s.rest == "" || s.rest[0] == '\n' {
		return errSed("expected \\ after `a', `c' or `i'")
	}
	if !oneLine && (strings.HasPrefix(s.rest, " ") || strings.HasPrefix(s.rest, "\t")) {
		return s.refuse("blanks at the beginning of text (which versions keep and which don't)")
	}
	var b strings.Builder
	for i := 0; ; i++ {
		if i >= len(s.rest) {
			s.rest = ""
			break
		}
		c := s.rest[i]
		if c == '\n' {
			s.rest = s.rest[i+1:]
			break
		}
		if c == '\\' {
			if i++; i >= len(s.rest) {
				s.rest = ""
				break
			}
			if c = s.rest[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
				return s.refuse(`the escape \%c in text`, c)
			}
		}
		b.WriteByte(c)
	}
	e.text = b.String() + "\n"
	return nil
}

// translation reads y/ABC/xyz/.
func (s *sedParser) translation(e *edit) error {
	if s.rest == "" {
		return errSed("unterminated y")
	}
	mark := s.rest[0]
	s.rest = s.rest[1:]
	var sets [2][]byte
	for i := range sets {
		text, ok := s.plainUntil(mark)
		if !ok {
			return errSed("unterminated y")
		}
		for j := 0; j < len(text); j++ {
			c := text[j]
			if c == '\\' && j+1 < len(text) {
				j++
				switch c = text[j]; c {
				case 'n':
					c = '\n'
				case 't':
					c = '\t'
				case '\\', mark:
				default:
					return s.refuse(`the escape \%c of y`, c)
				}
			}
			if c >= 128 {
				return s.refuse("y of characters that aren't ASCII")
			}
			sets[i] = append(sets[i], c)
		}
	}
	if len(sets[0]) != len(sets[1]) {
		return errSed("strings for `y' command are different lengths")
	}
	for i := range e.table {
		e.table[i] = byte(i) //nolint:gosec // below 256
	}
	seen := map[byte]bool{}
	for i, c := range sets[0] {
		if !seen[c] {
			seen[c], e.table[c] = true, sets[1][i]
		}
	}
	return s.ended()
}

// substitution reads s/RE/WITH/FLAGS.
func (s *sedParser) substitution(e *edit) error {
	if s.rest == "" || s.rest[0] == '\n' || s.rest[0] == '\\' {
		return errSed("unterminated `s' command")
	}
	mark := s.rest[0]
	s.rest = s.rest[1:]
	text, ok := s.until(mark)
	if !ok {
		return errSed("unterminated `s' command")
	}
	with, ok := s.plainUntil(mark)
	if !ok {
		return errSed("unterminated `s' command")
	}
	fold := false
flags:
	for s.rest != "" {
		switch c := s.rest[0]; {
		case c == 'g':
			e.global = true
		case c == 'p':
			e.print = true
		case c == 'i' || c == 'I':
			fold = true
		case c >= '1' && c <= '9':
			n, err := s.number()
			if err != nil {
				return err
			}
			e.nth = n
			continue
		case c == 'w':
			s.rest = strings.TrimLeft(s.rest[1:], " \t")
			e.write, s.rest, _ = strings.Cut(s.rest, "\n")
			break flags
		case c == 'e' || c == 'm' || c == 'M':
			return s.refuse("the flag %c of s", c)
		default:
			break flags
		}
		s.rest = s.rest[1:]
	}
	if e.nth > 0 && e.global && s.busybox {
		return s.refuse("the flags g and %d of s together", e.nth)
	}
	var err error
	if e.re, e.emptyRE, err = s.expression(text, mark, fold); err != nil {
		return err
	}
	if e.with, err = s.replacement(with, mark); err != nil {
		return err
	}
	if e.re != nil {
		for _, w := range e.with {
			if w.group > e.re.NumGroups() {
				return errSed(fmt.Sprintf("invalid reference \\%d on `s' command's RHS", w.group))
			}
		}
	}
	if e.write != "" {
		return nil
	}
	return s.ended()
}

func (s *sedParser) replacement(text string, mark byte) ([]piece, error) {
	var list []piece
	var b strings.Builder
	flush := func(next piece) {
		if b.Len() > 0 {
			list = append(list, piece{text: b.String(), group: -1})
			b.Reset()
		}
		list = append(list, next)
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '&' {
			flush(piece{group: 0})
			continue
		}
		if c != '\\' || i+1 >= len(text) {
			b.WriteByte(c)
			continue
		}
		i++
		switch c = text[i]; {
		case c == mark:
			if c == '&' {
				return nil, s.refuse("& as a mark")
			}
			b.WriteByte(c)
		case c >= '0' && c <= '9':
			flush(piece{group: int(c - '0')})
		case c == 'n':
			b.WriteByte('\n')
		case c == 't':
			b.WriteByte('\t')
		case strings.IndexByte("ULulE", c) >= 0 && !s.busybox:
			flush(piece{group: -2, fold: c})
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			return nil, s.refuse(`the replacement \%c`, c)
		default:
			b.WriteByte(c)
		}
	}
	if b.Len() > 0 {
		list = append(list, piece{text: b.String(), group: -1})
	}
	return list, nil
}
