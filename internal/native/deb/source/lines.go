package source

import (
	"errors"
	"fmt"
	"strings"
)

// lines reads the form with a line for each source:
//
//	deb [ arch=amd64 signed-by=/usr/share/keyrings/x.gpg ] https://example.org/debian bookworm main contrib
func lines(file, text, arch string) ([]Source, error) {
	var list []Source
	number := 0
	for line := range strings.Lines(text) {
		number++
		place := fmt.Sprintf("%s:%d", file, number)
		line = strings.Trim(uncommented(strings.TrimSuffix(line, "\n")), " \t\r")
		if line == "" {
			continue
		}
		more, err := oneLine(place, line, arch)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		list = append(list, more...)
	}
	return list, nil
}

// uncommented cuts off what is after a # that isn't in brackets.
func uncommented(line string) string {
	depth := 0
	for i, c := range line {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == '#' && depth <= 0:
			return line[:i]
		}
	}
	return line
}

func oneLine(place, line, arch string) ([]Source, error) {
	s := Source{Place: place}
	kind, rest, err := word(line)
	if err != nil {
		return nil, err
	}
	if s.Sources, err = sources(kind); err != nil {
		return nil, err
	}
	if options, ok := strings.CutPrefix(rest, "["); ok {
		end := strings.IndexByte(options, ']')
		if end < 0 {
			return nil, errors.New("the options don't end in ]")
		}
		rest = strings.TrimLeft(options[end+1:], " \t")
		for options = strings.TrimLeft(options[:end], " \t"); options != ""; {
			var option string
			if option, options, err = word(options); err != nil {
				return nil, err
			}
			key, value, ok := strings.Cut(option, "=")
			if !ok || key == "" || value == "" {
				return nil, fmt.Errorf("the option %q has no name or no value", option)
			}
			if err := s.option(key, strings.Split(value, ","), value); err != nil {
				return nil, err
			}
		}
	}
	var words []string
	for rest != "" {
		var w string
		if w, rest, err = word(rest); err != nil {
			return nil, err
		}
		words = append(words, w)
	}
	if len(words) < 2 {
		return nil, errors.New("it has no URI or no suite")
	}
	return s.add(nil, words[0], words[1:2], words[2:], arch)
}

// sources reads the type of a source.
func sources(kind string) (bool, error) {
	switch kind {
	case "deb":
		return false, nil
	case "deb-src":
		return true, nil
	}
	return false, fmt.Errorf("the type %q isn't known", kind)
}

// word cuts off a word, in which spaces may be in quotes or brackets, and characters
// may be written as %20.
func word(s string) (w, rest string, err error) {
	end := 0
	for end < len(s) && s[end] != ' ' && s[end] != '\t' {
		closing := map[byte]byte{'"': '"', '[': ']'}[s[end]]
		if closing != 0 {
			i := strings.IndexByte(s[end+1:], closing)
			if i < 0 {
				return "", "", fmt.Errorf("%q doesn't end in %c", s[end:], closing)
			}
			end += i + 1
		}
		end++
	}
	var b strings.Builder
	for i := 0; i < end; i++ {
		if s[i] == '"' {
			continue
		}
		if s[i] == '%' && i+2 < end {
			high, low := strings.IndexByte(hexadecimal, lower(s[i+1])), strings.IndexByte(hexadecimal, lower(s[i+2]))
			if high >= 0 && low >= 0 {
				b.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), strings.TrimLeft(s[end:], " \t"), nil
}

const hexadecimal = "0123456789abcdef"

func lower(c byte) byte {
	if c >= 'A' && c <= 'F' {
		return c + 'a' - 'A'
	}
	return c
}
