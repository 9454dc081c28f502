package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/ui"
)

func (a *app) indexShowCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show REFERENCE|DIR|FILE",
		Short: "List the entries of an index as they are written",
		Long: `Show lists what an index says, entry by entry: images, attestations, other indexes
and artifacts, with their annotations, and entries whose image is gone. It compares
nothing: that is what verify does.`,
		Example: `  anyarch index show ghcr.io/team/app:1.0
  anyarch index show ghcr.io/team/app:1.0 --output raw | sha256sum`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if !slices.Contains([]string{"table", "json", "raw", ""}, output) {
				return &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--output " + output, Summary: "not a form of output", Fix: []string{"--output table", "--output json", "--output raw"}}
			}
			p := a.newPlaces()
			defer p.close()
			items, err := p.read(cmd.Context(), assemble.NewReader(), list)
			if err != nil {
				return err
			}
			item := items[0]
			switch output {
			case "raw":
				_, err := a.Stdout.Write(item.Data)
				return err
			case "json":
				return a.printJSON(showItem(item))
			}
			return a.showTable(item)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table|json|raw")
	return cmd
}

// shownItem is the document of `index show --output json`.
type shownItem struct {
	ocispec.Descriptor
	Kind    assemble.Kind     `json:"kind"`
	Own     map[string]string `json:"indexAnnotations,omitempty"` // of an index itself
	Missing bool              `json:"missing,omitempty"`
	Entries []shownItem       `json:"entries,omitempty"`
}

func showItem(item *assemble.Item) shownItem {
	s := shownItem{Descriptor: item.Descriptor, Kind: item.Kind, Own: item.Index.Annotations, Missing: item.Missing != nil}
	for _, c := range item.Children {
		s.Entries = append(s.Entries, showItem(c))
	}
	return s
}

func (a *app) showTable(item *assemble.Item) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n  %s\n\n", ui.Clean(item.Name), item.Descriptor.MediaType, item.Descriptor.Digest)
	t := ui.NewTable(a.stdoutStyle(), 2, "kind", "platform", "digest", "size", "about", "annotations")
	var row func(*assemble.Item, string)
	row = func(i *assemble.Item, indent string) {
		name := ""
		if p := i.Platform(); !p.IsZero() && !p.IsAttestation() {
			name = platformText(i.Descriptor.Platform)
		}
		kind := indent + string(i.Kind)
		if i.Missing != nil {
			kind += " (missing)"
		}
		about := ""
		if subject, err := digest.Parse(i.Subject()); err == nil {
			about = ui.ShortDigest(subject.String())
		}
		var notes []string
		for _, key := range sortedKeys(i.Descriptor.Annotations) {
			if key != assemble.AnnotationReferenceDigest {
				notes = append(notes, key+"="+i.Descriptor.Annotations[key])
			}
		}
		t.Row(kind, name, ui.ShortDigest(i.Descriptor.Digest.String()), ui.Bytes(i.Descriptor.Size), about, strings.Join(notes, " "))
		for _, c := range i.Children {
			row(c, indent+"  ")
		}
	}
	if item.Kind == assemble.KindIndex {
		for _, c := range item.Children {
			row(c, "")
		}
	} else {
		row(item, "")
	}
	if item.Kind == assemble.KindIndex && len(item.Children) == 0 {
		b.WriteString("  no entries\n")
	} else if _, err := t.WriteTo(&b); err != nil {
		return err
	}
	for _, key := range sortedKeys(item.Index.Annotations) {
		fmt.Fprintf(&b, "\n  %s=%s", ui.Clean(key), ui.Clean(item.Index.Annotations[key]))
	}
	if len(item.Index.Annotations) > 0 {
		b.WriteByte('\n')
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}

// platformText is a platform of an entry with its version, as selectors name it.
func platformText(p *ocispec.Platform) string {
	parsed := platform.FromOCI(p)
	if parsed.OSVersion != "" {
		return parsed.String() + ":" + parsed.OSVersion
	}
	return parsed.String()
}
