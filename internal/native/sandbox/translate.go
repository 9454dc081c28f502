package sandbox

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// translator turns the host's paths in a stream into those of the stage.
type translator struct {
	to    io.Writer
	pairs [][2]string // the host's path, the stage's; the longest first
	rest  []byte      // not yet written: no more than a line or longest bytes
}

// longest is how much of a line is kept back. A path that a longer line is cut in
// is kept whole.
const longest = 64 << 10

// translate gives a writer that translates for w.
func (m *mapping) translate(w io.Writer) *translator {
	if w == nil {
		w = io.Discard
	}
	t := &translator{to: plain(w)}
	add := func(host, stage string) {
		if host == "" || stage == "" {
			return
		}
		names := []string{filepath.Clean(host)}
		if real, err := filepath.EvalSymlinks(host); err == nil {
			names = append(names, real)
		}
		for _, name := range names {
			t.pairs = append(t.pairs, [2]string{name, strings.TrimSuffix(stage, "/")})
			if os.PathSeparator == '\\' {
				t.pairs = append(t.pairs,
					[2]string{filepath.ToSlash(name), strings.TrimSuffix(stage, "/")},
					[2]string{strings.ReplaceAll(name, `\`, `\\`), strings.TrimSuffix(stage, "/")})
			}
		}
	}
	add(m.c.Root, "/")
	for _, d := range m.elsewhere() {
		add(d.host, d.target)
	}
	slices.SortStableFunc(t.pairs, func(a, b [2]string) int { return len(b[0]) - len(a[0]) })
	return t
}

// Write implements [io.Writer].
func (t *translator) Write(p []byte) (int, error) {
	t.rest = append(t.rest, p...)
	end := bytes.LastIndexByte(t.rest, '\n') + 1
	if end == 0 && len(t.rest) > 2*longest {
		// A very long line: up to a place that is in no path.
		end = bytes.LastIndexAny(t.rest, " \t\",;")
		if end <= 0 {
			end = len(t.rest) - longest
		}
	}
	if end <= 0 {
		return len(p), nil
	}
	_, err := t.to.Write(t.replace(t.rest[:end]))
	t.rest = append(t.rest[:0], t.rest[end:]...)
	return len(p), err
}

func (t *translator) flush() error {
	_, err := t.to.Write(t.replace(t.rest))
	t.rest = nil
	return err
}

func (t *translator) replace(text []byte) []byte {
	var out []byte
	for len(text) > 0 {
		at, pair := -1, [2]string{}
		for _, p := range t.pairs {
			// The first in the text, and of those the longest.
			if i := indexPath(text, p[0]); i >= 0 && (at < 0 || i < at) {
				at, pair = i, p
			}
		}
		if at < 0 {
			return append(out, text...)
		}
		out = append(out, text[:at]...)
		text = text[at+len(pair[0]):]
		tail := 0
		for tail < len(text) && !bytes.ContainsRune([]byte(" \t\r\n\"':;,()"), rune(text[tail])) {
			tail++
		}
		name := pair[1] + string(text[:tail])
		if os.PathSeparator == '\\' {
			name = strings.ReplaceAll(strings.ReplaceAll(name, `\\`, "/"), `\`, "/")
		}
		if pair[1] == "" && tail == 0 {
			name = "/"
		}
		out = append(out, name...)
		text = text[tail:]
	}
	return out
}

// indexPath finds a path that ends there or goes on with a separator.
func indexPath(text []byte, name string) int {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte(name))
		if i < 0 {
			return -1
		}
		i += from
		end := i + len(name)
		if end == len(text) || bytes.ContainsRune([]byte("/\\ \t\r\n\"':;,()="), rune(text[end])) {
			return i
		}
		from = i + 1
	}
}
