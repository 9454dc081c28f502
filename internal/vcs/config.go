package vcs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// config holds the values of a Git configuration file by their key, such as
// core.autocrlf or remote.origin.url: section and variable in lower case, the
// subsection as it is written. A key can have several values.
type config map[string][]string

// errConfig is what a damaged configuration file is.
var errConfig = errors.New("not a Git configuration file")

// get is the value that counts: the last one.
func (c config) get(key string) string {
	values := c[key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// first is the first value; of several URLs of a remote git fetches that one.
func (c config) first(key string) string {
	if values := c[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// isTrue reads a truth value; otherwise is what counts where there is none.
func (c config) isTrue(key string, otherwise bool) bool {
	if len(c[key]) == 0 {
		return otherwise
	}
	switch strings.ToLower(c.get(key)) {
	case "false", "no", "off", "0", "":
		return false
	}
	return true
}

// keys lists what follows prefix in the keys that have it, sorted.
func (c config) keys(prefix string) []string {
	var keys []string
	for key := range c {
		if rest, found := strings.CutPrefix(key, prefix); found {
			keys = append(keys, rest)
		}
	}
	slices.Sort(keys)
	return keys
}

// over adds the values of a file that is read later.
func (c config) over(later config) config {
	merged := maps.Clone(c)
	for key, values := range later {
		merged[key] = slices.Concat(merged[key], values)
	}
	return merged
}

// parseConfig reads a configuration file (git-config, "Configuration file").
// Includes are not followed.
func parseConfig(text []byte) (config, error) {
	p := configParser{text: strings.TrimPrefix(string(text), "\ufeff"), line: 1}
	c := config{}
	section := ""
	for {
		p.skip()
		if p.text == "" {
			return c, nil
		}
		if p.text[0] == '[' {
			name, err := p.section()
			if err != nil {
				return nil, err
			}
			section = name
			continue
		}
		name, value, err := p.variable()
		if err != nil {
			return nil, err
		}
		if section == "" {
			return nil, p.bad()
		}
		key := section + "." + name
		c[key] = append(c[key], value)
	}
}

type configParser struct {
	text string // what is left
	line int
}

func (p *configParser) bad() error { return fmt.Errorf("line %d: %w", p.line, errConfig) }

// next takes one byte; 0 at the end. CR LF counts as LF.
func (p *configParser) next() byte {
	if p.text == "" {
		return 0
	}
	if strings.HasPrefix(p.text, "\r\n") {
		p.text = p.text[1:]
	}
	c := p.text[0]
	p.text = p.text[1:]
	if c == '\n' {
		p.line++
	}
	return c
}

// skip passes white space and comments.
func (p *configParser) skip() {
	for p.text != "" {
		switch p.text[0] {
		case ' ', '\t', '\r', '\n', '\v', '\f':
			p.next()
		case '#', ';':
			for p.text != "" && p.next() != '\n' {
			}
		default:
			return
		}
	}
}

// section reads [name], [name "subsection"] or the older [name.subsection].
func (p *configParser) section() (string, error) {
	end := strings.IndexAny(p.text, " \t]\n")
	if end < 0 || p.text[end] == '\n' {
		return "", p.bad()
	}
	name := strings.ToLower(p.text[1:end])
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return "", p.bad()
	}
	p.text = p.text[end:]
	if p.text[0] == ']' {
		p.text = p.text[1:]
		return name, nil
	}
	p.text = strings.TrimLeft(p.text, " \t")
	if p.text == "" || p.next() != '"' {
		return "", p.bad()
	}
	var sub strings.Builder
	for {
		switch c := p.next(); c {
		case 0, '\n':
			return "", p.bad()
		case '"':
			if p.next() != ']' {
				return "", p.bad()
			}
			return name + "." + sub.String(), nil
		case '\\':
			if c = p.next(); c == 0 || c == '\n' {
				return "", p.bad()
			}
			sub.WriteByte(c)
		default:
			sub.WriteByte(c)
		}
	}
}

// variable reads name = value, or name alone, which is true.
func (p *configParser) variable() (name, value string, err error) {
	rest := strings.TrimLeft(p.text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
	name = strings.ToLower(p.text[:len(p.text)-len(rest)])
	p.text = strings.TrimLeft(rest, " \t")
	switch {
	case name == "":
		return "", "", p.bad()
	case p.text == "" || p.text[0] == '\n' || p.text[0] == '#' || p.text[0] == ';' || strings.HasPrefix(p.text, "\r\n"):
		return name, "true", nil
	case p.text[0] != '=':
		return "", "", p.bad()
	}
	p.text = p.text[1:]
	value, err = p.value()
	return name, value, err
}

// value reads up to the end of the line, with its quotes and escapes.
func (p *configParser) value() (string, error) {
	var (
		b      strings.Builder
		solid  int // length without trailing white space
		quoted bool
	)
	p.text = strings.TrimLeft(p.text, " \t")
	for {
		c := p.next()
		switch {
		case c == '\n' || c == 0 && p.text == "":
			if quoted {
				return "", p.bad()
			}
			return b.String()[:solid], nil
		case !quoted && (c == '#' || c == ';'):
			for p.text != "" && p.next() != '\n' {
			}
			return b.String()[:solid], nil
		case c == '"':
			quoted = !quoted
			solid = b.Len()
		case c == '\\':
			switch c = p.next(); c {
			case '\n':
				continue
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case 'b':
				c = '\b'
			case '\\', '"':
			default:
				return "", p.bad()
			}
			b.WriteByte(c)
			solid = b.Len()
		default:
			b.WriteByte(c)
			if quoted || c != ' ' && c != '\t' && c != '\r' {
				solid = b.Len()
			}
		}
	}
}
