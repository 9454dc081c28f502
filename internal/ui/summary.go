package ui

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Result is what a run came to, for one image.
type Result struct {
	Image     string // name in the run, such as apiping
	Package   string // import path
	GoVersion string // such as go1.26.8
	Base      string // for people: static (built in)
	Platforms []PlatformRow
	Verified  string // what was proved, such as "2/2 platforms · CA roots"; empty if nothing was
	Index     string // digest of the index
	Tags      []TagMove
	Elapsed   time.Duration
	Uploaded  int64  // bytes
	Mounted   int64  // bytes that the registry had elsewhere
	Where     string // repository or path, for people
}

// PlatformRow is one platform of a Result.
type PlatformRow struct {
	Platform   string
	Compile    time.Duration
	Cached     bool   // nothing had to be compiled
	BinarySize int64  // bytes, all binaries together
	LayerSize  int64  // bytes as uploaded, without the base
	Binary     string // machine and linkage of the entrypoint: AArch64 static
	Digest     string // of the manifest
	Pushed     bool
}

// TagMove is what became of one tag.
type TagMove struct {
	Repository string
	Tag        string
	Old        string // version or digest that the tag had; empty if the tag is new
	New        string // version or digest that it has now
	Kept       bool   // the tag stays on Old
	Reason     string // why it stays
}

// Summary writes the end-of-run screen.
func Summary(w io.Writer, style Style, r Result) error {
	var b strings.Builder
	style.heading(&b, r.Image, r.Package, r.GoVersion, labelled("base ", r.Base))

	last := "digest"
	for _, p := range r.Platforms {
		if p.Pushed {
			last = "pushed"
		}
	}
	table := NewTable(style, 2, "platform", "compile", "binary", "layer", "entrypoint", last)
	for _, p := range r.Platforms {
		compile := ""
		switch {
		case p.Cached:
			compile = "cached"
		case p.Compile > 0:
			compile = Seconds(p.Compile)
		}
		digest := cell{text: ShortDigest(p.Digest)}
		if p.Pushed {
			digest = cell{"✓ " + digest.text, good}
		}
		table.add(cell{p.Platform, bold}, cell{text: compile},
			cell{text: size(p.BinarySize)}, cell{text: size(p.LayerSize)}, cell{text: p.Binary}, digest)
	}
	if len(r.Platforms) > 0 {
		b.WriteByte('\n')
		_, _ = table.WriteTo(&b) // a strings.Builder never fails
		b.WriteByte('\n')
	}

	if r.Verified != "" {
		style.outcome(&b, "verified", r.Verified)
	}
	if r.Index != "" {
		style.outcome(&b, "index", r.Index)
	}
	style.tags(&b, r.Tags)

	done := []string{"done in " + Seconds(r.Elapsed)}
	if r.Uploaded > 0 {
		done = append(done, "uploaded "+Bytes(r.Uploaded))
	}
	if r.Mounted > 0 {
		done = append(done, "mounted "+Bytes(r.Mounted))
	}
	if r.Where != "" {
		done = append(done, Clean(r.Where))
	}
	style.println(&b, "  ", part{dim, strings.Join(done, " · ")})
	_, err := io.WriteString(w, b.String())
	return err
}

func labelled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + text
}

func size(n int64) string {
	if n <= 0 {
		return ""
	}
	return Bytes(n)
}

// heading is a name and what describes it: apiping  example.org/x   go1.26.8
func (s Style) heading(b *strings.Builder, name string, about ...string) {
	parts := []part{{bold, Clean(name)}}
	space := "  "
	if name == "" {
		space = ""
	}
	for _, text := range about {
		if text != "" {
			parts = append(parts, part{normal, space + Clean(text)})
			space = "   "
		}
	}
	s.println(b, "", parts...)
}

const outcomeWidth = 12

func (s Style) outcome(b *strings.Builder, what, text string) {
	s.println(b, "  ", part{good, s.mark("✓")}, part{normal, pad(what, outcomeWidth) + Clean(text)})
}

// tags writes what became of the tags, one line per repository.
func (s Style) tags(b *strings.Builder, moves []TagMove) {
	var repositories []string
	lines := map[string][]string{}
	for _, m := range moves {
		if lines[m.Repository] == nil {
			repositories = append(repositories, m.Repository)
		}
		lines[m.Repository] = append(lines[m.Repository], m.text())
	}
	for i, repository := range repositories {
		text := strings.Join(lines[repository], "   ")
		if len(repositories) > 1 {
			text = repository + "  " + text
		}
		if i == 0 {
			s.outcome(b, "tags", text)
		} else {
			s.println(b, "  ", part{normal, strings.Repeat(" ", width(s.mark("✓"))+outcomeWidth) + Clean(text)})
		}
	}
}

func (m TagMove) text() string {
	before, after := ShortDigest(m.Old), ShortDigest(m.New)
	switch {
	case m.Kept:
		text := m.Tag + " stays"
		if before != "" {
			text += " at " + before
		}
		if m.Reason != "" {
			text += " (" + m.Reason + ")"
		}
		return text
	case before == "":
		return m.Tag + " (new)"
	case before == after:
		return m.Tag + " (unchanged)"
	}
	return fmt.Sprintf("%s  %s → %s", m.Tag, before, after)
}
