// Package trace records what a run spends its time on, for a viewer such as
// ui.perfetto.dev: every process, layer, request, download, BuildKit build and step, in the Trace Event
// Format (JSON object form, complete events).
//
// A [Recorder] travels in the context, so that the packages that do the work need no
// place for it; without one [Start] does nothing.
package trace

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
)

// Track is a group of spans that are shown together.
type Track string

// The tracks, in the order in which they are shown.
const (
	Step     Track = "steps"     // of platforms, as on the screen
	Process  Track = "processes" // that are started: go, and others in the sandbox
	Layer    Track = "layers"
	Request  Track = "requests"  // to registries, until the answer's header has come
	Download Track = "downloads" // of packages, indexes and other files
	Solve    Track = "BuildKit"  // builds by daemons
)

var tracks = []Track{Step, Process, Layer, Request, Download, Solve}

// Recorder keeps the spans of one run. It is safe for concurrent use.
type Recorder struct {
	begin time.Time

	mu    sync.Mutex // guards spans
	spans []span
}

type span struct {
	track      Track
	name       string
	begin, end time.Time
	args       map[string]string
}

// New begins a recording.
func New() *Recorder { return &Recorder{begin: time.Now()} }

type key struct{}

// With gives a context in which spans are recorded by r.
func With(ctx context.Context, r *Recorder) context.Context {
	return context.WithValue(ctx, key{}, r)
}

// Start begins a span, if somebody records, and returns the function that ends it.
// That takes details in pairs of name and value.
func Start(ctx context.Context, track Track, name string) func(details ...string) {
	r, _ := ctx.Value(key{}).(*Recorder)
	if r == nil {
		return func(...string) {}
	}
	begin := time.Now()
	return func(details ...string) { r.add(track, name, begin, time.Now(), details...) }
}

func (r *Recorder) add(track Track, name string, begin, end time.Time, details ...string) {
	// Steps are told with the time that they took, and clocks can be set.
	if begin.Before(r.begin) {
		begin = r.begin
	}
	if end.Before(begin) {
		end = begin
	}
	if name == "" {
		name = string(track) // viewers want one
	}
	s := span{track: track, name: name, begin: begin, end: end}
	for pair := range slices.Chunk(details, 2) {
		if len(pair) == 2 && pair[1] != "" {
			if s.args == nil {
				s.args = map[string]string{}
			}
			s.args[pair[0]] = pair[1]
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, s)
}

// Count is how many spans of a track have ended.
func (r *Recorder) Count(track Track) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.spans {
		if s.track == track {
			n++
		}
	}
	return n
}

// Names are those of the spans of a track that have ended, in the order of their ends.
func (r *Recorder) Names(track Track) (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.track == track {
			names = append(names, s.name)
		}
	}
	return names
}

// Sink records the steps among events on their way to next.
func (r *Recorder) Sink(next progress.Sink) progress.Sink {
	return func(e progress.Event) {
		switch e.State {
		case progress.Done, progress.Cached, progress.Failed:
			name := string(e.Step)
			if e.Step == progress.Build && e.Message != "" {
				name = e.Message // the instruction
			}
			if e.Platform != "" {
				name += " " + e.Platform
			}
			r.add(Step, name, e.Time.Add(-e.Duration), e.Time, "image", e.Image, "platform", e.Platform, "state", string(e.State), "message", e.Message)
		}
		next(e)
	}
}

// event is one of the Trace Event Format. Times are microseconds.
type event struct {
	Name     string            `json:"name"`
	Category string            `json:"cat,omitempty"`
	Phase    string            `json:"ph"`
	Time     float64           `json:"ts"`
	Duration *float64          `json:"dur,omitempty"`
	Process  int               `json:"pid"`
	Thread   int               `json:"tid"`
	Args     map[string]string `json:"args,omitempty"`
}

// WriteTo writes the recording.
func (r *Recorder) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	spans := slices.Clone(r.spans)
	r.mu.Unlock()
	slices.SortStableFunc(spans, func(a, b span) int {
		if c := a.begin.Compare(b.begin); c != 0 {
			return c
		}
		return cmp.Or(b.end.Compare(a.end), cmp.Compare(a.name, b.name))
	})
	document := struct {
		Events []event `json:"traceEvents"`
		Unit   string  `json:"displayTimeUnit"`
	}{Unit: "ms"}
	for i, track := range tracks {
		document.Events = append(document.Events,
			event{Name: "process_name", Phase: "M", Process: i + 1, Args: map[string]string{"name": string(track)}})
	}
	free := map[Track][]time.Time{} // when each lane of a track is free again
	for _, s := range spans {
		lane := slices.IndexFunc(free[s.track], func(t time.Time) bool { return !t.After(s.begin) })
		if lane < 0 {
			lane = len(free[s.track])
			free[s.track] = append(free[s.track], s.end)
		}
		free[s.track][lane] = s.end
		took := micros(s.end.Sub(s.begin))
		document.Events = append(document.Events, event{
			Name: s.name, Category: string(s.track), Phase: "X", Time: micros(s.begin.Sub(r.begin)), Duration: &took,
			Process: slices.Index(tracks, s.track) + 1, Thread: lane + 1, Args: s.args,
		})
	}
	data, err := json.Marshal(document)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(append(data, '\n'))
	return int64(n), err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
