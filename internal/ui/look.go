package ui

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// FindingView is one finding about an image, ready to be shown.
type FindingView struct {
	Severity string   `json:"severity"` // error, warning or info
	Rule     string   `json:"rule"`     // such as PA201
	Platform string   `json:"platform,omitempty"`
	Summary  string   `json:"summary"`
	Place    string   `json:"place,omitempty"`
	Seen     []string `json:"seen,omitempty"`
	Fix      []string `json:"fix,omitempty"`
}

// ImageView is one image of many platforms, as verify and inspect show it.
// Empty fields are left out of the screen.
type ImageView struct {
	Subject      string // reference or path that was asked for
	Digest       string
	Kind         string // such as "index, 2 platforms"
	Base         string
	Created      string
	Source       string
	Revision     string
	Platforms    []PlatformView
	Tags         []string
	Attestations []string // such as "provenance linux/amd64"
	Annotations  []string // key=value
	Checked      string   // what verify looked at, such as "every file"
	Findings     []FindingView
	Elapsed      time.Duration
}

// PlatformView is one platform of an ImageView.
type PlatformView struct {
	Platform   string
	Digest     string
	Size       int64 // bytes, compressed, base included
	Layers     int
	Entrypoint string // the command
	Binary     string // its machine and linkage: AArch64 static
	Go         string // version that it was compiled with
	User       string
}

// Inspect writes what an image is.
func Inspect(w io.Writer, style Style, v ImageView) error {
	var b strings.Builder
	style.image(&b, v)
	facts := NewTable(style, 2)
	for _, fact := range []struct{ name, text string }{
		{"base", v.Base}, {"created", v.Created}, {"source", v.Source}, {"revision", v.Revision},
		{"tags", strings.Join(v.Tags, "  ")},
	} {
		if fact.text != "" {
			facts.add(cell{fact.name, dim}, cell{text: fact.text})
		}
	}
	for _, list := range []struct {
		name  string
		texts []string
	}{{"attestations", v.Attestations}, {"annotations", v.Annotations}} {
		name := list.name
		for _, text := range list.texts {
			facts.add(cell{name, dim}, cell{text: text})
			name = ""
		}
	}
	if len(facts.rows) > 0 {
		b.WriteByte('\n')
		_, _ = facts.WriteTo(&b)
	}
	if len(v.Findings) > 0 {
		b.WriteByte('\n')
		style.findings(&b, v.Findings)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Verify writes whether an image is what its index says. Findings come before
// the verdict, which is the last line. In GitHub Actions, findings that have a
// place in a file are annotated too.
func Verify(w io.Writer, style Style, v ImageView) error {
	var b strings.Builder
	style.image(&b, v)
	b.WriteByte('\n')
	style.findings(&b, v.Findings)
	if len(v.Findings) > 0 {
		b.WriteByte('\n')
	}

	count := map[string]int{}
	for _, f := range v.Findings {
		count[f.Severity]++
	}
	var verdict []string
	for _, kind := range []string{"error", "warning"} {
		switch n := count[kind]; {
		case n == 1:
			verdict = append(verdict, "1 "+kind)
		case n > 1:
			verdict = append(verdict, fmt.Sprintf("%d %ss", n, kind))
		}
	}
	sign, t := "✓", good
	switch {
	case count["error"] > 0:
		sign, t = "✗", bad
	case count["warning"] > 0:
		sign, t = "•", warn
	}
	if len(verdict) == 0 {
		verdict = []string{"verified"}
	}
	verdict = append(verdict, plural(len(v.Platforms), "platform"))
	if v.Checked != "" {
		verdict = append(verdict, Clean(v.Checked))
	}
	if v.Elapsed > 0 {
		verdict = append(verdict, Seconds(v.Elapsed))
	}
	style.println(&b, "  ", part{t, style.mark(sign)}, part{t, strings.Join(verdict, " · ")})
	style.annotateFindings(&b, v.Findings)
	_, err := io.WriteString(w, b.String())
	return err
}

// Findings writes findings alone, for runs that have a screen of their own.
func Findings(w io.Writer, style Style, list []FindingView) error {
	var b strings.Builder
	style.findings(&b, list)
	style.annotateFindings(&b, list)
	_, err := io.WriteString(w, b.String())
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (s Style) image(b *strings.Builder, v ImageView) {
	s.heading(b, v.Subject, v.Kind)
	if v.Digest != "" {
		s.println(b, "  ", part{dim, Clean(v.Digest)})
	}
	if len(v.Platforms) == 0 {
		return
	}
	table := NewTable(s, 2, "platform", "size", "layers", "entrypoint", "binary", "go", "user", "digest")
	for _, p := range v.Platforms {
		layers := ""
		if p.Layers > 0 {
			layers = strconv.Itoa(p.Layers)
		}
		t := normal
		for _, f := range v.Findings {
			if f.Platform == p.Platform && f.Severity == "error" {
				t = bad
			}
		}
		table.add(cell{p.Platform, bold}, cell{text: size(p.Size)}, cell{text: layers},
			cell{text: p.Entrypoint}, cell{p.Binary, t}, cell{text: p.Go}, cell{text: p.User}, cell{text: ShortDigest(p.Digest)})
	}
	b.WriteByte('\n')
	_, _ = table.WriteTo(b)
}

func (s Style) findings(b *strings.Builder, list []FindingView) {
	for i, f := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		s.problem(b, f.Severity, Problem{
			Code: f.Rule, Platform: f.Platform, Summary: f.Summary, Place: f.Place, Seen: f.Seen, Fix: f.Fix,
		})
	}
}

func (s Style) annotateFindings(b *strings.Builder, list []FindingView) {
	var notes []annotation
	for _, f := range list {
		if file, _, _ := fileLine(f.Place); file == "" {
			continue
		}
		kind := f.Severity
		if kind != "error" && kind != "warning" {
			kind = "notice"
		}
		notes = append(notes, annotation{kind, f.Place, f.Rule, f.Platform, f.Summary, f.Fix})
	}
	s.annotate(b, notes)
}
