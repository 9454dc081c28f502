package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/ui"
)

// parseFormat reads --output of the commands that look at images.
func parseFormat(text string) (isJSON bool, err error) {
	switch text {
	case "table", "":
		return false, nil
	case "json":
		return true, nil
	}
	return false, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--output " + text, Summary: "not a form of output", Fix: []string{"--output table", "--output json"}}
}

func (a *app) verifyCommand() *cobra.Command {
	var depth, output, failOn string
	var require, allow []string
	cmd := &cobra.Command{
		Use:   "verify REFERENCE|DIR|FILE…",
		Short: "Is an image really what its index says?",
		Long: `Verify compares index, configs and programs of any image, whoever made it,
on every platform, and reads the layers of its base too. Nothing is ever executed.

It exits with 3 if an image isn't what it says.`,
		Example: `  anyarch verify ghcr.io/udhos/apiping:1.5.0
  anyarch verify anyarch-out/apiping --require linux/amd64,linux/arm64
  anyarch verify --depth config --output json registry.example.com/app`,
		GroupID: "look", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, images []string) error {
			asJSON, err := parseFormat(output)
			if err != nil {
				return err
			}
			options := prove.Options{Allow: allow}
			if depth == "" {
				depth = string(prove.DepthAll)
			}
			if options.Depth, err = prove.ParseDepth(depth); err != nil {
				return err
			}
			if options.Require, err = platform.ParseList(require); err != nil {
				return err
			}
			if failOn != "error" && failOn != "warning" && failOn != "never" {
				return &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--fail-on " + failOn, Summary: "not a severity", Fix: []string{"--fail-on error", "--fail-on warning", "--fail-on never"}}
			}
			event, err := a.show(len(images))
			if err != nil {
				return err
			}
			if kept, err := a.openCache(); err == nil {
				options.Cache = kept.Memo()
			}
			options.Progress = event
			var reports []*prove.Report
			found := false
			for _, text := range images {
				begin := time.Now()
				o, err := a.openImage(cmd.Context(), text)
				if err != nil {
					return err
				}
				end := event.Start("", "", progress.Verify, o.name)
				report, err := prove.Verify(cmd.Context(), o.source, o.descriptor, options)
				o.close()
				if err != nil {
					end(progress.Failed, o.name)
					return fmt.Errorf("verify %s: %w", o.name, err)
				}
				end(progress.Done, o.name)
				report.Reference = o.name
				reports = append(reports, report)
				for _, f := range report.Findings {
					found = found || f.Severity == prove.Error && failOn != "never" || f.Severity == prove.Warning && failOn == "warning"
				}
				if !asJSON {
					a.screen.Clear()
					view := a.view(report)
					view.Checked, view.Elapsed = checked(options.Depth), time.Since(begin)
					view.Findings = findingViews(report, true)
					if err := ui.Verify(a.Stdout, a.stdoutStyle(), view); err != nil {
						return err
					}
				}
			}
			if asJSON {
				var document any = reports
				if len(reports) == 1 {
					document = reports[0]
				}
				if err := a.printJSON(document); err != nil {
					return err
				}
			}
			if found {
				return exitError(refusal.Findings.ExitCode())
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&depth, "depth", "all", "what is read: index|config|entrypoint|all")
	f.StringArrayVar(&require, "require", nil, "platforms that the image must have: `LIST`")
	f.StringArrayVar(&allow, "allow", nil, "`GLOB` of files that may be of another architecture")
	f.StringVar(&failOn, "fail-on", "error", "exit with 3 from this severity on: error|warning|never")
	f.StringVarP(&output, "output", "o", "table", "table|json")
	return cmd
}

// checked says what a depth looks at.
func checked(d prove.Depth) string {
	switch d {
	case prove.DepthIndex:
		return "index"
	case prove.DepthConfig:
		return "index = config"
	case prove.DepthEntrypoint:
		return "index = config = entrypoint"
	}
	return "index = config = every program"
}

// stdoutStyle is for results on standard output, which may be a file.
func (a *app) stdoutStyle() ui.Style {
	style := a.style()
	if a.color != "always" && !isTerminal(a.Stdout) {
		style.Color = false
	}
	return style
}

func (a *app) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return a.printLine(string(data))
}

// view is a report for people.
func (a *app) view(r *prove.Report) ui.ImageView {
	v := ui.ImageView{Subject: r.Reference, Digest: r.Digest.String(), Kind: "image"}
	if image.IsIndex(r.MediaType) {
		v.Kind = fmt.Sprintf("index, %d platforms", len(r.Platforms))
		if len(r.Platforms) == 1 {
			v.Kind = "index, 1 platform"
		}
	}
	for _, p := range r.Platforms {
		row := ui.PlatformView{
			Platform: p.Name, Digest: p.Digest.String(), Size: p.Compressed, Layers: len(p.Layers),
			Entrypoint: joinWords(p.Entrypoint), User: p.User,
		}
		if b := p.EntrypointBinary; b != nil {
			row.Binary, row.Go = binaryLine(b), b.GoVersion
		}
		v.Platforms = append(v.Platforms, row)
		if v.Base == "" && p.BaseName != "" {
			v.Base = p.BaseName
			if p.BaseDigest != "" {
				v.Base += "@" + ui.ShortDigest(p.BaseDigest)
			}
		}
	}
	for _, d := range r.Attestations {
		v.Attestations = append(v.Attestations, strings.TrimSpace(d.Type+" "+ui.ShortDigest(d.Digest.String())))
	}
	return v
}

func (a *app) inspectCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "inspect REFERENCE|DIR|FILE",
		Short: "One screen about an image: platforms, sizes, binaries, base, tags",
		Example: `  anyarch inspect anyarch-out/apiping
  anyarch inspect ghcr.io/udhos/apiping:1.5.0 --output json`,
		GroupID: "look", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			asJSON, err := parseFormat(output)
			if err != nil {
				return err
			}
			event, err := a.show(1)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			o, err := a.openImage(ctx, list[0])
			if err != nil {
				return err
			}
			defer o.close()
			options := prove.Options{Depth: prove.DepthEntrypoint, Progress: event}
			if kept, err := a.openCache(); err == nil {
				options.Cache = kept.Memo()
			}
			report, err := prove.Verify(ctx, o.source, o.descriptor, options)
			if err != nil {
				return fmt.Errorf("inspect %s: %w", o.name, err)
			}
			report.Reference = o.name
			doc := inspection{Report: report}
			if doc.Tags, err = tagsOf(cmd, o); err != nil {
				return err
			}
			if referrers, err := o.source.Referrers(ctx, o.descriptor.Digest); err == nil {
				doc.Referrers = referrers
			}
			if image.IsIndex(o.descriptor.MediaType) {
				var index ocispec.Index
				if _, err := image.FetchJSON(ctx, o.source, o.descriptor, &index); err != nil {
					return err
				}
				doc.Annotations = index.Annotations
			} else {
				var manifest ocispec.Manifest
				if _, err := image.FetchJSON(ctx, o.source, o.descriptor, &manifest); err != nil {
					return err
				}
				doc.Annotations = manifest.Annotations
			}
			a.screen.Clear()
			if asJSON {
				return a.printJSON(doc)
			}
			return ui.Inspect(a.Stdout, a.stdoutStyle(), a.inspectView(doc))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table|json")
	return cmd
}

// inspection is the document of `inspect --output json`.
type inspection struct {
	*prove.Report
	Tags        []string             `json:"tags,omitempty"` // that name this very image
	Annotations map[string]string    `json:"annotations,omitempty"`
	Referrers   []ocispec.Descriptor `json:"referrers,omitempty"`
}

// maxTags bounds how many tags are asked what they name.
const maxTags = 20

// tagsOf finds the tags that name the same image, among the last few.
func tagsOf(cmd *cobra.Command, o *opened) ([]string, error) {
	tags, err := o.source.Tags(cmd.Context())
	if err != nil {
		return nil, nil // not every registry lists them
	}
	var same []string
	for _, tag := range tags[max(0, len(tags)-maxTags):] {
		if d, err := o.source.Resolve(cmd.Context(), tag); err == nil && d.Digest == o.descriptor.Digest {
			same = append(same, tag)
		}
	}
	return same, cmd.Context().Err()
}

func (a *app) inspectView(doc inspection) ui.ImageView {
	v := a.view(doc.Report)
	v.Tags = doc.Tags
	take := func(key string) string {
		value := doc.Annotations[key]
		return value
	}
	v.Created, v.Source, v.Revision = take(ocispec.AnnotationCreated), take(ocispec.AnnotationSource), take(ocispec.AnnotationRevision)
	if base := take(ocispec.AnnotationBaseImageName); base != "" && v.Base == "" {
		v.Base = base + "@" + ui.ShortDigest(take(ocispec.AnnotationBaseImageDigest))
	}
	for _, key := range sortedKeys(doc.Annotations) {
		switch key {
		case ocispec.AnnotationCreated, ocispec.AnnotationSource, ocispec.AnnotationRevision, ocispec.AnnotationBaseImageName, ocispec.AnnotationBaseImageDigest:
		default:
			v.Annotations = append(v.Annotations, key+"="+doc.Annotations[key])
		}
	}
	for _, d := range doc.Referrers {
		v.Attestations = append(v.Attestations, d.ArtifactType+" "+ui.ShortDigest(d.Digest.String()))
	}
	return v
}
