package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/compare"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/ui"
)

func (a *app) diffCommand() *cobra.Command {
	var (
		platforms    []string
		output       string
		files, times bool
		exitCode     bool
	)
	cmd := &cobra.Command{
		Use:   "diff IMAGE [IMAGE]",
		Short: "What differs between two versions of an image, or between its platforms",
		Long: `Diff compares each platform of one image with the same platform of another one:
config, annotations, layers, and every file, programs with the machine they are
for. Of one image, or of two that have one platform each, it compares platforms with
each other.

It exits with 0 whether or not something differs, unless --exit-code is given.`,
		Example: `  anyarch diff ghcr.io/team/app:1.4.0 ghcr.io/team/app:1.5.0
  anyarch diff ghcr.io/team/app:1.5.0
  anyarch diff app:1 app:2 -p linux/arm64 --files=false`,
		GroupID: "look", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			asJSON, err := parseFormat(output)
			if err != nil {
				return err
			}
			only, err := platform.ParseList(platforms)
			if err != nil {
				return err
			}
			differs, err := a.diff(cmd.Context(), list, only, compare.Options{Files: files, Times: times}, asJSON)
			if err == nil && differs && exitCode {
				return exitError(refusal.Findings.ExitCode())
			}
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&platforms, "platform", "p", nil, "compare these platforms only: `LIST`")
	f.BoolVar(&files, "files", true, "compare files, which reads the layers that differ")
	f.BoolVar(&times, "times", false, "a file with another time is a change too")
	f.BoolVar(&exitCode, "exit-code", false, "exit with 3 if something differs")
	f.StringVarP(&output, "output", "o", "table", "table|json")
	return cmd
}

// pairOf are two images that are compared; one is nil if there is no counterpart.
type pairOf struct {
	name     string // of the platform, or two of them
	from, to *assemble.Item
}

// comparison is the document of `diff --output json`.
type comparison struct {
	Platform string              `json:"platform"`
	Only     string              `json:"only,omitempty"` // from or to, if it is in one image only
	Diff     *compare.Difference `json:"difference,omitempty"`
}

func (a *app) diff(ctx context.Context, texts []string, only []platform.Platform, o compare.Options, asJSON bool) (differs bool, err error) {
	p := a.newPlaces()
	defer p.close()
	event, err := a.show(1)
	if err != nil {
		return false, err
	}
	items, err := p.read(ctx, assemble.NewReader(), texts)
	if err != nil {
		return false, err
	}
	pairs, err := pairsOf(items, only)
	if err != nil {
		return false, err
	}
	if o.Layers.Dir, o.Layers.Use, err = a.layerDir(p); err != nil {
		return false, err
	}
	var all []comparison
	for _, pair := range pairs {
		c := comparison{Platform: pair.name}
		switch {
		case pair.from == nil:
			c.Only, differs = "to", true
		case pair.to == nil:
			c.Only, differs = "from", true
		default:
			end := event.Start("", pair.name, progress.Verify, "comparing")
			if c.Diff, err = compare.Images(ctx, pair.from, pair.to, o); err != nil {
				end(progress.Failed, "")
				return false, err
			}
			end(progress.Done, "")
			differs = differs || !c.Diff.Same()
		}
		all = append(all, c)
	}
	a.screen.Clear()
	if asJSON {
		return differs, a.printJSON(all)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", ui.Clean(items[0].Name), items[0].Descriptor.Digest)
	if len(items) > 1 {
		fmt.Fprintf(&b, "%s  %s\n", ui.Clean(items[1].Name), items[1].Descriptor.Digest)
	}
	for _, c := range all {
		writeComparison(&b, c)
	}
	_, err = fmt.Fprint(a.Stdout, b.String())
	return differs, err
}

// layerDir is where layers are unpacked: in the cache, or for this run only.
func (a *app) layerDir(p *places) (string, func(string) (os.FileInfo, error), error) {
	if kept, err := a.openCache(); err == nil {
		return kept.Layers(), kept.Use, nil
	}
	dir, err := os.MkdirTemp("", "anyarch-layers-")
	if err != nil {
		return "", nil, err
	}
	p.closes = append(p.closes, func() { os.RemoveAll(dir) })
	return dir, nil, nil
}

// pairsOf decides what is compared with what.
func pairsOf(items []*assemble.Item, only []platform.Platform) ([]pairOf, error) {
	wanted := func(i *assemble.Item) bool { return len(only) == 0 || slices.Contains(only, i.Platform()) }
	sides := make([][]*assemble.Item, len(items))
	for n, item := range items {
		for _, img := range item.Images() {
			if wanted(img) {
				sides[n] = append(sides[n], img)
			}
		}
		if len(sides[n]) == 0 {
			return nil, &refusal.Error{Code: "PA204", Kind: refusal.Findings, Place: item.Name, Summary: "there is no image to compare", Fix: []string{"anyarch index show " + item.Name}}
		}
	}
	between := func(a, b *assemble.Item) pairOf {
		return pairOf{platformText(a.Descriptor.Platform) + " → " + platformText(b.Descriptor.Platform), a, b}
	}
	if len(items) == 1 {
		if len(sides[0]) < 2 {
			return nil, &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: items[0].Name, Summary: "the image has one platform: name another image to compare it with", Fix: []string{"anyarch diff " + items[0].Name + " OTHER"}}
		}
		var pairs []pairOf
		for _, other := range sides[0][1:] {
			pairs = append(pairs, between(sides[0][0], other))
		}
		return pairs, nil
	}
	if len(sides[0]) == 1 && len(sides[1]) == 1 && sides[0][0].Platform() != sides[1][0].Platform() {
		return []pairOf{between(sides[0][0], sides[1][0])}, nil
	}
	var pairs []pairOf
	taken := map[*assemble.Item]bool{}
	for _, from := range sides[0] {
		pair := pairOf{name: platformText(from.Descriptor.Platform), from: from}
		for _, exact := range []bool{true, false} {
			for _, to := range sides[1] {
				// A new build of Windows is the counterpart of the old one.
				if pair.to == nil && !taken[to] && (to.Platform() == from.Platform() || !exact && to.Platform().String() == from.Platform().String()) {
					pair.to = to
					taken[to] = true
				}
			}
		}
		pairs = append(pairs, pair)
	}
	for _, to := range sides[1] {
		if !taken[to] {
			pairs = append(pairs, pairOf{name: platformText(to.Descriptor.Platform), to: to})
		}
	}
	return pairs, nil
}

func writeComparison(b *strings.Builder, c comparison) {
	fmt.Fprintf(b, "\n%s", c.Platform)
	switch {
	case c.Only == "from":
		b.WriteString("  only in the first image\n")
		return
	case c.Only == "to":
		b.WriteString("  only in the second image\n")
		return
	case c.Diff.Same():
		b.WriteString("  no difference\n")
		return
	}
	d := c.Diff
	b.WriteByte('\n')
	if len(d.Fields) > 0 {
		b.WriteString("  config\n")
		for _, f := range d.Fields {
			if f.From != "" {
				fmt.Fprintf(b, "    - %s  %s\n", ui.Clean(f.Name), ui.Clean(f.From))
			}
			if f.To != "" {
				fmt.Fprintf(b, "    + %s  %s\n", ui.Clean(f.Name), ui.Clean(f.To))
			}
		}
	}
	if len(d.Layers) > 0 {
		fmt.Fprintf(b, "  layers  %d in common\n", d.Shared)
		for _, l := range d.Layers {
			sign := "-"
			if l.Added {
				sign = "+"
			}
			fmt.Fprintf(b, "    %s %s  %s\n", sign, ui.ShortDigest(l.Digest.String()), strings.TrimSpace(ui.Bytes(l.Size)+"  "+ui.Clean(l.By)))
		}
	}
	if len(d.Files) > 0 {
		b.WriteString("  files\n")
		for _, f := range d.Files {
			fmt.Fprintf(b, "    %s %s  %s\n", map[string]string{"added": "+", "removed": "-", "changed": "~"}[f.Change], ui.Clean(f.Path), fileText(f))
		}
	} else if d.FilesLooked && len(d.Layers) > 0 {
		b.WriteString("  files  no difference but in times or compression\n")
	}
}

// fileText says what a file is, or what has become of it.
func fileText(f compare.File) string {
	one := func(s *compare.State) string {
		parts := []string{s.Mode, s.Owner}
		switch {
		case s.Link != "":
			parts = append(parts, "→ "+ui.Clean(s.Link))
		case s.Mode[0] == '-':
			parts = append(parts, ui.Bytes(s.Size))
		}
		return strings.Join(append(parts, strings.TrimSpace(s.Machine+" "+s.Go)), "  ")
	}
	switch f.Change {
	case "added":
		return strings.TrimSpace(one(f.To))
	case "removed":
		return strings.TrimSpace(one(f.From))
	}
	var parts []string
	change := func(from, to string) {
		if from == to {
			parts = append(parts, from)
		} else {
			parts = append(parts, from+" → "+to)
		}
	}
	for _, what := range f.What {
		switch what {
		case "content":
			change(ui.Bytes(f.From.Size), ui.Bytes(f.To.Size))
			if f.From.Machine+f.To.Machine != "" {
				change(first(strings.TrimSpace(f.From.Machine+" "+f.From.Go), "no program"), first(strings.TrimSpace(f.To.Machine+" "+f.To.Go), "no program"))
			}
		case "mode", "type":
			change(f.From.Mode, f.To.Mode)
		case "owner":
			change(f.From.Owner, f.To.Owner)
		case "link":
			change(ui.Clean(f.From.Link), ui.Clean(f.To.Link))
		default:
			parts = append(parts, what)
		}
	}
	return strings.Join(parts, "  ")
}
