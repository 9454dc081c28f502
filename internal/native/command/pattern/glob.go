package pattern

import (
	"errors"
	"strings"
)

// Glob is a file name pattern, as fnmatch(3) has them: * ? [ ] and backslash. A
// leading dot is an ordinary character.
type Glob struct {
	parts []part
	flags Flags
}

// Flags say how a [Glob] matches.
type Flags int

// The flags.
const (
	Fold  Flags = 1 << iota // upper and lower case are the same
	Slash                   // * ? and [ ] don't match a slash
)

// part is a character, a set, or a star.
type part struct {
	star bool
	set  set
}

// ParseGlob reads a pattern; the error says what in it differs from one C library
// to the other.
func ParseGlob(text string, flags Flags) (*Glob, error) {
	g := &Glob{flags: flags}
	for text != "" {
		c := text[0]
		text = text[1:]
		p := part{}
		switch c {
		case '*':
			p.star = true
		case '?':
			p.set.add(0, 255)
		case '[':
			s, rest, err := bracket(text, "!^", func(string) (byte, string, error) {
				return 0, "", errors.New("a backslash in brackets")
			})
			switch {
			case errors.Is(err, errOpen) && !strings.Contains(text, "/"):
				p.set['['] = true // an ordinary character
			case err != nil:
				return nil, err
			default:
				p.set, text = s, rest
			}
		case '\\':
			if text == "" {
				return nil, errors.New("a backslash at the end")
			}
			p.set[text[0]], text = true, text[1:]
		default:
			p.set[c] = true
		}
		if flags&Fold != 0 {
			p.set.fold()
		}
		if flags&Slash != 0 && (c == '?' || c == '[') {
			p.set['/'] = false
		}
		g.parts = append(g.parts, p)
	}
	return g, nil
}

// Match reports whether all of name matches.
func (g *Glob) Match(name string) bool {
	// On a mismatch the last star takes one more character; stars before it need
	// not be tried again.
	at, star, from := 0, -1, 0
	for i := 0; ; {
		switch {
		case at < len(g.parts) && g.parts[at].star:
			star, from = at, i
			at++
			continue
		case i == len(name) && at == len(g.parts):
			return true
		case i < len(name) && at < len(g.parts) && g.parts[at].set[name[i]]:
			at++
			i++
			continue
		}
		if star < 0 || from >= len(name) || g.flags&Slash != 0 && name[from] == '/' {
			return false
		}
		from++
		at, i = star+1, from
	}
}

// MatchLeading reports whether name, or a directory above it, matches.
func (g *Glob) MatchLeading(name string) bool {
	if g.Match(name) {
		return true
	}
	for i := range len(name) {
		if name[i] == '/' && g.Match(name[:i]) {
			return true
		}
	}
	return false
}
