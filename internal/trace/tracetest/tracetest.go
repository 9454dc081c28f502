// Package tracetest holds files to what viewers of the Trace Event Format take
// ("Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU,
// and Perfetto's importer of it, which drops slices that overlap in a thread without
// nesting).
package tracetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"unicode/utf8"
)

// Span is a complete event. Times are microseconds.
type Span struct {
	Track string // the name of its process
	Name  string
	Time  float64
	Took  float64
	Args  map[string]string
}

type event struct {
	Name     *string           `json:"name"`
	Category *string           `json:"cat"`
	Phase    string            `json:"ph"`
	Time     *float64          `json:"ts"`
	Duration *float64          `json:"dur"`
	Process  *int              `json:"pid"`
	Thread   *int              `json:"tid"`
	Args     map[string]string `json:"args"`
}

// Read gives the spans of a file, in its order, or what is wrong with it.
func Read(data []byte) ([]Span, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it isn't UTF-8")
	}
	var file struct {
		Events []event `json:"traceEvents"`
		Unit   string  `json:"displayTimeUnit"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it goes on after its end")
	}
	if file.Unit != "ms" && file.Unit != "ns" {
		return nil, fmt.Errorf("times are shown in %q", file.Unit)
	}
	processes := map[int]string{}
	type thread struct{ process, thread int }
	open := map[thread][]float64{} // ends of the spans that one is in
	var list []Span
	last := math.Inf(-1)
	for i, e := range file.Events {
		if e.Name == nil || *e.Name == "" || e.Process == nil || e.Thread == nil {
			return nil, fmt.Errorf("event %d has no name, process or thread", i)
		}
		switch e.Phase {
		case "M":
			if *e.Name == "process_name" {
				if e.Args["name"] == "" || processes[*e.Process] != "" {
					return nil, fmt.Errorf("event %d doesn't name process %d, or names it again", i, *e.Process)
				}
				processes[*e.Process] = e.Args["name"]
			}
		case "X":
			if e.Category == nil || e.Time == nil || e.Duration == nil || *e.Time < 0 || *e.Duration < 0 || *e.Thread < 1 {
				return nil, fmt.Errorf("event %d, %s, has no time or one before the beginning", i, *e.Name)
			}
			if processes[*e.Process] == "" {
				return nil, fmt.Errorf("event %d, %s, is of a process without a name", i, *e.Name)
			}
			// Viewers count in nanoseconds.
			begin, end := math.Round(*e.Time*1e3), math.Round((*e.Time+*e.Duration)*1e3)
			if begin < last {
				return nil, fmt.Errorf("event %d, %s, is out of order", i, *e.Name)
			}
			last = begin
			at := thread{*e.Process, *e.Thread}
			open[at] = slices.DeleteFunc(open[at], func(t float64) bool { return t <= begin })
			if slices.ContainsFunc(open[at], func(t float64) bool { return t < end }) {
				return nil, fmt.Errorf("event %d, %s, overlaps with another one of its thread", i, *e.Name)
			}
			open[at] = append(open[at], end)
			list = append(list, Span{processes[*e.Process], *e.Name, *e.Time, *e.Duration, e.Args})
		default:
			return nil, fmt.Errorf("event %d has the phase %q", i, e.Phase)
		}
	}
	return list, nil
}
