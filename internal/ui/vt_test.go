package ui

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// terminal is a small emulation of a terminal: enough to replay what a Screen
// writes and to look at what a person would see. It reflows lines when it is
// resized, as VTE, kitty, iTerm and Windows Terminal do.
type terminal struct {
	mu         sync.Mutex
	t          *testing.T
	cols, rows int
	lines      []vtLine // all lines, scrolled-out ones included
	x, y       int      // y counts from the first of lines
	hidden     bool
	wrap       bool
	pending    bool   // the last column is filled, the next character wraps
	rest       []byte // incomplete input
	writes     int
	stream     strings.Builder
}

type vtLine struct {
	cells   []rune
	wrapped bool // continues the line above
}

func newTerminal(t *testing.T, cols, rows int) *terminal {
	return &terminal{t: t, cols: cols, rows: rows, wrap: true, lines: []vtLine{{}}}
}

func (v *terminal) Width() int  { v.mu.Lock(); defer v.mu.Unlock(); return v.cols }
func (v *terminal) Height() int { v.mu.Lock(); defer v.mu.Unlock(); return v.rows }

func (v *terminal) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writes++
	v.stream.Write(p)
	v.rest = append(v.rest, p...)
	for len(v.rest) > 0 {
		n := v.consume(v.rest)
		if n == 0 {
			break
		}
		v.rest = v.rest[n:]
	}
	if v.hidden {
		v.t.Error("the cursor is hidden between two writes")
	}
	if !v.wrap {
		v.t.Error("automatic line breaks are off between two writes")
	}
	return len(p), nil
}

func (v *terminal) count() int { v.mu.Lock(); defer v.mu.Unlock(); return v.writes }

func (v *terminal) top() int { return max(0, len(v.lines)-v.rows) }

func (v *terminal) consume(p []byte) int {
	switch p[0] {
	case '\r':
		v.x, v.pending = 0, false
		return 1
	case '\n':
		v.down(false)
		return 1
	case 0x1b:
		return v.escape(p)
	}
	if !utf8.FullRune(p) {
		return 0
	}
	r, n := utf8.DecodeRune(p)
	if r < 0x20 {
		v.t.Errorf("control character %q reached the terminal", r)
	}
	w := runeWidth(r)
	if w == 0 {
		return n
	}
	if v.pending || v.x+w > v.cols {
		if v.wrap {
			v.x = 0
			v.down(true)
		} else {
			v.x = v.cols - w
		}
	}
	line := &v.lines[v.y]
	for len(line.cells) < v.x+w {
		line.cells = append(line.cells, ' ')
	}
	line.cells[v.x] = r
	for i := 1; i < w; i++ {
		line.cells[v.x+i] = 0
	}
	v.x += w
	v.pending = false
	if v.x >= v.cols {
		v.x, v.pending = v.cols-1, true
	}
	return n
}

func (v *terminal) down(wrapped bool) {
	v.pending = false
	v.y++
	if v.y == len(v.lines) {
		v.lines = append(v.lines, vtLine{})
	}
	v.lines[v.y].wrapped = wrapped
}

func (v *terminal) escape(p []byte) int {
	end := 2
	for end < len(p) && (p[end] < 0x40 || p[end] > 0x7e) {
		end++
	}
	if end >= len(p) {
		return 0
	}
	switch sequence := string(p[1 : end+1]); sequence {
	case "[K":
		v.cut(v.y, v.x)
	case "[J":
		v.cut(v.y, v.x)
		v.lines = v.lines[:v.y+1]
	case "[?25l":
		v.hidden = true
	case "[?25h":
		v.hidden = false
	case "[?7l":
		v.wrap = false
	case "[?7h":
		v.wrap = true
	default:
		switch number := sequence[1 : len(sequence)-1]; sequence[len(sequence)-1] {
		case 'A':
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				v.t.Errorf("bad sequence %q", sequence)
			}
			if v.y-n < v.top() {
				v.t.Errorf("cursor moves %d up, out of the screen", n)
			}
			v.y, v.pending = max(v.top(), v.y-n), false
		case 'm':
		default:
			v.t.Errorf("unknown sequence %q", sequence)
		}
	}
	return end + 1
}

func (v *terminal) cut(y, x int) {
	if len(v.lines[y].cells) > x {
		v.lines[y].cells = v.lines[y].cells[:x]
	}
}

// resize breaks lines anew at the new width; the cursor stays with its text.
func (v *terminal) resize(cols, rows int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var (
		whole   [][]rune
		cursor  int // index in whole
		atFirst int // column in it
	)
	for y, line := range v.lines {
		if line.wrapped && len(whole) > 0 {
			if y == v.y {
				cursor, atFirst = len(whole)-1, len(whole[len(whole)-1])+v.x
			}
			whole[len(whole)-1] = append(whole[len(whole)-1], line.cells...)
			continue
		}
		if y == v.y {
			cursor, atFirst = len(whole), v.x
		}
		whole = append(whole, append([]rune(nil), line.cells...))
	}
	v.lines = nil
	for i, line := range whole {
		for start := 0; start == 0 || start < len(line); {
			end := min(len(line), start+cols)
			if end < len(line) && line[end] == 0 {
				end-- // a wide character isn't cut in two
			}
			if i == cursor && atFirst >= start && (atFirst < end || end == len(line)) {
				v.y, v.x = len(v.lines), min(atFirst-start, cols-1)
			}
			v.lines = append(v.lines, vtLine{cells: line[start:end], wrapped: start > 0})
			start = max(end, start+1)
		}
	}
	v.cols, v.rows, v.pending = cols, rows, false
}

// text is everything that was ever on the screen, scrolled-out lines included.
func (v *terminal) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	for _, line := range v.lines {
		var l strings.Builder
		for _, r := range line.cells {
			if r != 0 {
				l.WriteRune(r)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
