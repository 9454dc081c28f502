package pattern

import (
	"errors"
	"strings"
)

// set is a set of bytes.
type set [256]bool

func (s *set) add(from, to byte) {
	for c := int(from); c <= int(to); c++ {
		s[c] = true
	}
}

func (s *set) negate() {
	for c := range s {
		s[c] = !s[c]
	}
}

// fold adds the other case of every letter.
func (s *set) fold() {
	for c := 'a'; c <= 'z'; c++ {
		both := s[c] || s[c-'a'+'A']
		s[c], s[c-'a'+'A'] = both, both
	}
}

// class gives a class such as digit (POSIX.1-2017, 7.3.1, in the POSIX locale).
func class(name string) (s set, ok bool) {
	switch name {
	case "alpha", "alnum", "upper", "lower", "digit", "xdigit":
		if name == "alpha" || name == "alnum" || name == "upper" {
			s.add('A', 'Z')
		}
		if name == "alpha" || name == "alnum" || name == "lower" {
			s.add('a', 'z')
		}
		if name == "alnum" || name == "digit" || name == "xdigit" {
			s.add('0', '9')
		}
		if name == "xdigit" {
			s.add('A', 'F')
			s.add('a', 'f')
		}
	case "blank":
		s['\t'], s[' '] = true, true
	case "space":
		s.add('\t', '\r')
		s[' '] = true
	case "cntrl":
		s.add(0, 31)
		s[127] = true
	case "graph":
		s.add('!', '~')
	case "print":
		s.add(' ', '~')
	case "punct":
		s.add('!', '/')
		s.add(':', '@')
		s.add('[', '`')
		s.add('{', '~')
	default:
		return s, false
	}
	return s, true
}

var (
	errOpen    = errors.New("an open bracket")
	errBracket = errors.New("a bracket expression")
)

// bracket reads a bracket expression; text begins after the "[". negations are the
// characters that negate it, and escape reads an escaped character, if a backslash
// is one in the brackets of this kind of pattern.
func bracket(text, negations string, escape func(string) (c byte, rest string, err error)) (s set, rest string, err error) {
	negated := false
	if text != "" && strings.IndexByte(negations, text[0]) >= 0 {
		negated, text = true, text[1:]
	}
	// element reads a character or a class, which is put into the set.
	element := func() (c byte, isClass bool, err error) {
		switch {
		case text == "":
			return 0, false, errOpen
		case strings.HasPrefix(text, "[:"):
			name, after, ok := strings.Cut(text[2:], ":]")
			if !ok {
				break // an ordinary "["
			}
			add, ok := class(name)
			if !ok {
				return 0, false, errBracket
			}
			for i := range add {
				s[i] = s[i] || add[i]
			}
			text = after
			return 0, true, nil
		case strings.HasPrefix(text, "[=") || strings.HasPrefix(text, "[."):
			// In the POSIX locale both are the character itself.
			if len(text) < 5 || text[3] != text[1] || text[4] != ']' {
				return 0, false, errBracket
			}
			c, text = text[2], text[5:]
			return c, false, nil
		case text[0] == '\\' && escape != nil:
			c, text, err = escape(text[1:])
			return c, false, err
		}
		c, text = text[0], text[1:]
		return c, false, nil
	}
	for first := true; ; first = false {
		if text == "" {
			return s, "", errOpen
		}
		if text[0] == ']' && !first {
			break
		}
		from, isClass, err := element()
		if err != nil {
			return s, "", err
		}
		if isClass {
			continue
		}
		to := from
		if len(text) > 1 && text[0] == '-' && text[1] != ']' {
			text = text[1:]
			if strings.HasPrefix(text, "[:") {
				return s, "", errBracket
			}
			if to, _, err = element(); err != nil {
				return s, "", err
			}
			if to < from {
				return s, "", errBracket
			}
		}
		s.add(from, to)
	}
	if negated {
		s.negate()
	}
	return s, text[1:], nil
}
