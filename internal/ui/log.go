package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/anyarch/anyarch/internal/progress"
)

// heartbeat is after how long, and how often, a step that goes on is mentioned
// in a log, so that nobody takes the job for dead.
const heartbeat = 10 * time.Second

// words names each step while it goes on and once it is done.
var words = map[progress.Step]struct{ doing, done string }{
	progress.Resolve: {"resolving", "resolved"},
	progress.Compile: {"compiling", "compiled"},
	progress.Pack:    {"packing", "packed"},
	progress.Verify:  {"verifying", "verified"},
	progress.Pull:    {"pulling", "pulled"},
	progress.Push:    {"pushing", "pushed"},
	progress.Index:   {"indexing", "indexed"},
	progress.Tag:     {"tagging", "tagged"},
	progress.Serve:   {"serving", "served"},
	progress.Build:   {"building", "built"},
}

func doing(step progress.Step) string {
	if w, ok := words[step]; ok {
		return w.doing
	}
	return Clean(string(step))
}

func done(step progress.Step) string {
	if w, ok := words[step]; ok {
		return w.done
	}
	return Clean(string(step))
}

// prefix says what an event is of: [linux/arm64], or [apiping linux/arm64] when
// one run makes several images. It is empty, else ends in a space.
func prefix(e progress.Event, many bool) string {
	var of []string
	if many && e.Image != "" {
		of = append(of, Clean(e.Image))
	}
	if e.Platform != "" {
		of = append(of, Clean(e.Platform))
	}
	if len(of) == 0 {
		return ""
	}
	return "[" + strings.Join(of, " ") + "] "
}

// ended describes an event that ends a step: compiled 2.0s 15073442 bytes.
func ended(e progress.Event, spell func(bytes int64) string) string {
	var text string
	switch e.State {
	case progress.Cached:
		text = done(e.Step) + " from cache " + Seconds(e.Duration)
	case progress.Failed:
		text = strings.TrimSpace(Clean(string(e.Step))+" failed") + " " + Seconds(e.Duration)
	default:
		text = done(e.Step) + " " + Seconds(e.Duration)
	}
	switch size := max(e.Current, e.Total); {
	case e.Message != "":
		text += " " + Clean(e.Message)
	case size > 0:
		text += " " + spell(size)
	}
	return text
}

// exactly writes a number of bytes for programs that read a log.
func exactly(n int64) string { return fmt.Sprintf("%d bytes", n) }

// log shows one line per event, for logs and for grep.
type log struct {
	style Style
	many  bool
	quiet bool
	open  map[stepKey]*openStep
	order []stepKey // of open, so that heartbeats come in a stable order
}

// openStep is a step that has started and not ended.
type openStep struct {
	last  progress.Event // newest event, with the message of the start if it has none
	start time.Time
	next  time.Time // when the next heartbeat is due
}

func newLog(style Style, many, quiet bool) *log {
	return &log{style: style, many: many, quiet: quiet, open: map[stepKey]*openStep{}}
}

func (l *log) interval() time.Duration { return 0 }

func (l *log) end(*bytes.Buffer, bool, time.Time) {}

func (l *log) show(b *bytes.Buffer, events []progress.Event, now time.Time) time.Duration {
	for _, e := range events {
		l.event(b, e, now)
	}
	if l.quiet {
		return 0
	}
	return l.heartbeats(b, now)
}

func (l *log) event(b *bytes.Buffer, e progress.Event, now time.Time) {
	key, before := keyOf(e), prefix(e, l.many)
	switch e.State {
	case progress.Started:
		if l.open[key] == nil {
			l.order = append(l.order, key)
		}
		l.open[key] = &openStep{last: e, start: now, next: now.Add(heartbeat)}
	case progress.Advanced:
		if step := l.open[key]; step != nil {
			if e.Message == "" {
				e.Message = step.last.Message
			}
			step.last = e
		}
	case progress.Done, progress.Cached, progress.Failed:
		l.close(key)
		text := before + ended(e, exactly)
		switch {
		case e.State == progress.Failed:
			l.print(b, bad, text)
		case !l.quiet:
			l.print(b, normal, text)
		}
	case progress.Warning:
		l.print(b, warn, before+"warning: "+Clean(e.Message))
	case progress.Note:
		if !l.quiet {
			l.print(b, normal, before+Clean(e.Message))
		}
	}
}

func (l *log) close(key stepKey) {
	if l.open[key] == nil {
		return
	}
	delete(l.open, key)
	for i, k := range l.order {
		if k == key {
			l.order = append(l.order[:i], l.order[i+1:]...)
			return
		}
	}
}

func (l *log) heartbeats(b *bytes.Buffer, now time.Time) time.Duration {
	var soonest time.Duration
	for _, key := range l.order {
		step := l.open[key]
		if !now.Before(step.next) {
			e := step.last
			text := prefix(e, l.many) + "still " + doing(e.Step) + " " + Seconds(now.Sub(step.start))
			if amount := l.style.amount(e); amount != "" {
				text += " " + amount
			}
			if e.Message != "" {
				text += " " + Clean(e.Message)
			}
			l.print(b, dim, text)
			for !now.Before(step.next) {
				step.next = step.next.Add(heartbeat)
			}
		}
		if wait := step.next.Sub(now); soonest == 0 || wait < soonest {
			soonest = wait
		}
	}
	return soonest
}

func (l *log) print(b *bytes.Buffer, t tone, text string) {
	b.WriteString(l.style.paint(t, l.style.line(l.style.fold(text))) + "\n")
}

// amount is how far a step has come: 62% 3.4/5.9 MiB, or 3.4 MiB.
func (s Style) amount(e progress.Event) string {
	switch {
	case e.Total > 0:
		current, total := Bytes(min(e.Current, e.Total)), Bytes(e.Total)
		if unit := total[strings.IndexByte(total, ' '):]; strings.HasSuffix(current, unit) {
			current = strings.TrimSuffix(current, unit)
		}
		return fmt.Sprintf("%d%% %s/%s", percent(e), current, total)
	case e.Current > 0:
		return Bytes(e.Current)
	}
	return ""
}

// percent rounds down: 100 means that everything is there.
func percent(e progress.Event) int {
	if e.Total <= 0 {
		return 0
	}
	current := min(max(e.Current, 0), e.Total)
	return int(float64(current) / float64(e.Total) * 100)
}

// jsonLines shows every event as one JSON object on a line.
type jsonLines struct{}

func (jsonLines) interval() time.Duration { return 0 }

func (jsonLines) end(*bytes.Buffer, bool, time.Time) {}

func (jsonLines) show(b *bytes.Buffer, events []progress.Event, _ time.Time) time.Duration {
	for _, e := range events {
		writeJSON(b, e)
	}
	return 0
}

// writeJSON writes one line. encoding/json escapes control characters below
// U+0020; the others that a terminal or a reader could fall for are escaped
// here, and can only stand inside strings.
func writeJSON(b *bytes.Buffer, value any) {
	var raw bytes.Buffer
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return // a struct of strings, numbers and times of this century always encodes
	}
	for _, r := range raw.String() {
		switch {
		case r == '\n' || !hostile(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(unicode.ReplacementChar)
		}
	}
}
