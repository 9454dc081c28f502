package ui

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
)

// frameTime is the shortest time between two frames: ten a second.
const frameTime = 100 * time.Millisecond

// live shows one line per image and platform, and redraws them in place.
//
// Lines that stay (notes, warnings) are written where the live area begins, and
// the area is drawn anew below them, so that they scroll away like any other
// text. Between frames the cursor stands visible at the start of the line below
// the area: whenever the program dies, the terminal is usable.
type live struct {
	style  Style
	many   bool
	width  func() int
	height func() int

	rows  []*row
	drawn []string // the lines on the screen now, without colours
	frame string
	cols  int // width of the terminal when the frame was drawn
}

// row is one line of the live area.
type row struct {
	image, platform string
	active          []*openStep // in the order in which they started
	last            progress.Event
	ended           bool // last says how the last step ended
}

func newLive(style Style, many bool, width, height func() int) *live {
	return &live{style: style, many: many, width: width, height: height}
}

func (v *live) interval() time.Duration { return frameTime }

func (v *live) show(b *bytes.Buffer, events []progress.Event, now time.Time) time.Duration {
	var stay bytes.Buffer
	for _, e := range events {
		v.event(&stay, e, now)
	}
	v.draw(b, stay.String(), now, false)
	for _, r := range v.rows {
		if len(r.active) > 0 {
			return frameTime // elapsed times move on, and so may the terminal's size
		}
	}
	return 0
}

func (v *live) event(stay *bytes.Buffer, e progress.Event, now time.Time) {
	switch e.State {
	case progress.Warning:
		v.print(stay, warn, prefix(e, v.many)+"warning: "+Clean(e.Message))
		return
	case progress.Note:
		v.print(stay, normal, prefix(e, v.many)+Clean(e.Message))
		return
	}
	r := v.row(e)
	at := slices.IndexFunc(r.active, func(s *openStep) bool { return s.last.Step == e.Step })
	switch e.State {
	case progress.Started:
		if at >= 0 {
			r.active = slices.Delete(r.active, at, at+1)
		}
		r.active = append(r.active, &openStep{last: e, start: now})
	case progress.Advanced:
		if at < 0 {
			return
		}
		if e.Message == "" {
			e.Message = r.active[at].last.Message
		}
		r.active[at].last = e
	case progress.Done, progress.Cached, progress.Failed:
		if at >= 0 {
			r.active = slices.Delete(r.active, at, at+1)
		}
		// A failure stays on the line, whatever else still comes to an end.
		if !r.ended || r.last.State != progress.Failed {
			r.last, r.ended = e, true
		}
	}
}

func (v *live) print(b *bytes.Buffer, t tone, text string) {
	b.WriteString(v.style.paint(t, v.style.line(v.style.fold(text))) + "\n")
}

func (v *live) row(e progress.Event) *row {
	for _, r := range v.rows {
		if r.image == e.Image && r.platform == e.Platform {
			return r
		}
	}
	r := &row{image: e.Image, platform: e.Platform}
	v.rows = append(v.rows, r)
	return r
}

func (v *live) end(b *bytes.Buffer, clear bool, now time.Time) {
	if clear {
		v.rows = nil
	}
	v.draw(b, "", now, true)
}

// draw brings the terminal from the last frame to the next in one write.
func (v *live) draw(b *bytes.Buffer, stay string, now time.Time, last bool) {
	cols, lines := v.width(), v.height()
	if cols <= 0 {
		cols = 80
	}
	if lines <= 0 {
		lines = 24
	}
	next := v.render(cols, lines, now, last)
	var area strings.Builder
	for _, l := range next {
		area.WriteString(l.text + "\x1b[K\r\n")
	}
	if stay == "" && area.String() == v.frame && (cols == v.cols || len(v.drawn) == 0) {
		return
	}

	b.WriteString("\x1b[?25l") // hide the cursor
	// A terminal that became narrower has broken the lines that no longer fit.
	up := 0
	for _, text := range v.drawn {
		up += rowsOf(text, cols)
	}
	// What has left the screen at its top is out of reach.
	if up = min(up, lines-1); up > 0 {
		fmt.Fprintf(b, "\x1b[%dA", up)
	}
	b.WriteByte('\r')
	if stay != "" || cols != v.cols {
		b.WriteString("\x1b[J") // what stays may be longer than a line
	}
	b.WriteString(strings.ReplaceAll(stay, "\n", "\r\n"))
	// No automatic line break inside the area: a character that is wider on this
	// terminal than we think must not cost a line.
	b.WriteString("\x1b[?7l" + area.String() + "\x1b[?7h\x1b[J")
	b.WriteString("\x1b[?25h")

	v.frame, v.cols, v.drawn = area.String(), cols, v.drawn[:0]
	for _, l := range next {
		v.drawn = append(v.drawn, l.plain)
	}
}

type drawnLine struct{ text, plain string } // with and without colours

// rowsOf is the number of rows that a terminal breaks a line into. A wide
// character that would be cut in two goes to the next row.
func rowsOf(text string, cols int) int {
	rows, used := 1, 0
	for _, r := range text {
		w := runeWidth(r)
		if used+w > cols {
			rows, used = rows+1, 0
		}
		used += w
	}
	return rows
}

// render makes the lines of the area, few enough to leave one for the cursor:
// what has scrolled out of the terminal couldn't be redrawn.
func (v *live) render(cols, lines int, now time.Time, last bool) []drawnLine {
	rows, room := slices.Clone(v.rows), max(1, lines-1)
	left := 0
	if len(rows) > room && !last {
		// Those at work first, then failures, then those that wait; in each
		// group in their own order.
		rank := func(r *row) int {
			switch {
			case len(r.active) > 0:
				return 0
			case r.ended && r.last.State == progress.Failed:
				return 1
			}
			return 2
		}
		slices.SortStableFunc(rows, func(a, b *row) int { return rank(a) - rank(b) })
		left = len(rows) - room + 1
		rows = rows[:room-1]
	}
	label := 0
	for _, r := range v.rows {
		label = max(label, width(v.label(r)))
	}
	var drawn []drawnLine
	for _, r := range rows {
		drawn = append(drawn, v.line(r, label, cols, now))
	}
	if left > 0 {
		drawn = append(drawn, v.fit(cols, part{dim, fmt.Sprintf("  … and %d more", left)}))
	}
	return drawn
}

func (v *live) label(r *row) string {
	var of []string
	if v.many && r.image != "" {
		of = append(of, Clean(r.image))
	}
	if r.platform != "" {
		of = append(of, Clean(r.platform))
	}
	return strings.Join(of, " ")
}

type part struct {
	tone tone
	text string
}

const barWidth = 16

// line is one row of the area: what it is of, the step, its time, how far it
// is, what it says. What is cut off on a narrow terminal matters least.
func (v *live) line(r *row, label, cols int, now time.Time) drawnLine {
	name := pad(v.label(r), label)
	if label > 0 {
		name += "  "
	}
	if len(r.active) > 0 {
		step := r.active[len(r.active)-1]
		e := step.last
		parts := []part{
			{normal, v.style.mark("•")}, {bold, name},
			{normal, pad(doing(e.Step), 9) + " "},
			{dim, fmt.Sprintf("%6s", Seconds(now.Sub(step.start)))},
		}
		amount := v.style.amount(e)
		// A bar that is cut off lies; where there's no room the numbers do.
		if e.Total > 0 && v.columns(parts)+barWidth+len(amount)+4 < cols {
			filled := barWidth * percent(e) / 100
			parts = append(parts,
				part{normal, "  "},
				part{good, strings.Repeat("█", filled)},
				part{dim, strings.Repeat("░", barWidth-filled)})
		}
		if amount != "" {
			parts = append(parts, part{normal, "  " + amount})
		}
		if e.Message != "" {
			parts = append(parts, part{dim, "  " + Clean(e.Message)})
		}
		return v.fit(cols, parts...)
	}
	if r.ended && r.last.State == progress.Failed {
		return v.fit(cols, part{bad, v.style.mark("✗")}, part{bold, name}, part{bad, ended(r.last, Bytes)})
	}
	if r.ended {
		return v.fit(cols, part{good, v.style.mark("✓")}, part{bold, name}, part{normal, ended(r.last, Bytes)})
	}
	return v.fit(cols, part{normal, v.style.mark("")}, part{bold, strings.TrimRight(name, " ")})
}

// columns is how many columns parts take.
func (v *live) columns(parts []part) int {
	n := 0
	for _, p := range parts {
		n += width(v.style.fold(p.text))
	}
	return n
}

// fit joins parts and cuts them to a terminal's width, minus the last column:
// some terminals break the line already when that is filled.
func (v *live) fit(cols int, parts ...part) drawnLine {
	var text, plain strings.Builder
	room := max(1, cols-1)
	for i, p := range parts {
		next, rest := v.style.fold(p.text), v.columns(parts[i+1:])
		// An ellipsis goes where the text is really cut, not at a part's end.
		cut := width(next)+min(rest, 1) > room
		if cut {
			next = v.style.truncate(next+strings.Repeat(" ", min(rest, 1)), room)
		}
		text.WriteString(v.style.paint(p.tone, next))
		plain.WriteString(next)
		if cut {
			break
		}
		room -= width(next)
	}
	return drawnLine{text.String(), plain.String()}
}
