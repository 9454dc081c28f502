package pipeline

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
)

// finishAll proves all images and writes their indexes. Of several that fail the
// first is told.
func (r *run) finishAll(ctx context.Context, results [][]PlatformOutcome) ([]ImageOutcome, error) {
	images := make([]ImageOutcome, len(r.plan.Images))
	errs := make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, target := range r.plan.Images {
		g.Go(func() error {
			if ctx.Err() == nil {
				images[i], errs[i] = r.finish(ctx, target, results[i])
			}
			return nil
		})
	}
	_ = g.Wait() // errors are kept in the order of images
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return images, nil
}

// finish proves one image on all its platforms and writes its index.
func (r *run) finish(ctx context.Context, target plan.Image, results []PlatformOutcome) (ImageOutcome, error) {
	o := ImageOutcome{Name: target.Name, Packages: target.Packages}
	o.Platforms = results
	annotations := target.Annotations
	if target.IndexAnnotations != nil {
		annotations = target.IndexAnnotations
	}
	var err error
	if r.plan.NoIndex && len(o.all()) == 1 {
		o.Index = results[0].Image.Manifest
	} else if o.Index, err = image.WriteIndex(r.cache, o.all(), annotations, r.plan.MediaTypes); err != nil {
		return o, err
	}
	end := r.Event.Start(r.label(target), "", progress.Verify, "")
	o.Report, err = r.prove(ctx, o)
	if err != nil {
		end(progress.Failed, "")
		return o, err
	}
	if err := refuseFindings(o.Report.Findings, o.place); err != nil {
		end(progress.Failed, "")
		return o, err
	}
	end(progress.Done, count(len(results), "platform"))
	return o, nil
}

// all are the images of the index in their order, attestations last.
func (o ImageOutcome) all() []image.Image {
	var images, attestations []image.Image
	for _, p := range o.Platforms {
		images = append(images, p.Image)
		attestations = append(attestations, p.attestations...)
	}
	return append(images, attestations...)
}

// prove compares index, configs and binaries. What this run added has been
// read while it was packed; layers are read again only if a program needs
// others of the image, or if its user wants all of them read.
func (r *run) prove(ctx context.Context, o ImageOutcome) (*prove.Report, error) {
	depth := r.plan.Verify
	if r.Build != nil {
		depth = prove.DepthAll // any line may bring a program
	}
	var added []prove.Finding
	ours := map[digest.Digest]platform.Platform{}
	for _, p := range o.Platforms {
		on := p.Image.Platform
		for _, b := range p.Binaries {
			added = append(added, prove.CheckBinary(b, on, b.Path)...)
			if !b.Static && b.Format == prove.ELF {
				depth = prove.DepthAll // its interpreter and libraries are in the base
			}
		}
		if r.Build != nil {
			// A Dockerfile's layers may well be the same on several platforms.
			for _, l := range p.Image.Layers[p.base:] {
				ours[l.Descriptor.Digest] = on
			}
			continue
		}
		programs := p.Image.Layers[len(p.Image.Layers)-1].Descriptor.Digest
		if other, taken := ours[programs]; taken && (other.OS != on.OS || other.Architecture != on.Architecture || other.Variant != on.Variant) {
			added = append(added, prove.Finding{
				Rule: prove.RuleShared, Severity: prove.Error, Platform: on.String(), Digest: p.Image.Manifest.Digest, Layer: programs,
				Summary: fmt.Sprintf("the programs are byte for byte those of %s", other),
				Fix:     []string{"anyarch cache prune --older-than 0s"},
			})
		}
		ours[programs] = on
	}
	report, err := prove.Verify(ctx, source{image.Layout{Store: r.cache}, blobs{r}, o}, o.Index, prove.Options{
		Depth: depth, Require: r.plan.Platforms, Progress: r.Event, Cache: r.memo,
		Own: func(layer digest.Digest) bool { _, own := ours[layer]; return own },
	})
	if err != nil {
		return nil, err
	}
	if r.Build != nil {
		for i := range o.Platforms {
			for _, found := range report.Platforms {
				if found.Platform == o.Platforms[i].Image.Platform && found.EntrypointBinary != nil {
					o.Platforms[i].Binaries = []*prove.Binary{found.EntrypointBinary}
				}
			}
		}
	}
	for _, f := range added {
		if !slices.ContainsFunc(report.Findings, func(g prove.Finding) bool { return g.Rule == f.Rule && g.Platform == f.Platform }) {
			report.Findings = append(report.Findings, f)
		}
	}
	return report, nil
}

// source is the cache, with layers of the base fetched when they are read.
type source struct {
	image.Layout
	blobs blobs
	image ImageOutcome
}

func (s source) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	for _, p := range s.image.Platforms {
		for _, l := range p.Image.Layers {
			if l.Descriptor.Digest == d.Digest {
				r, err := s.blobs.Open(ctx, l)
				if err != nil {
					return nil, err
				}
				return image.Verified(r, d), nil
			}
		}
	}
	return s.Layout.Fetch(ctx, d)
}

// refuseFindings turns errors among findings into refusals, so that nothing is
// published.
func refuseFindings(findings []prove.Finding, place func(prove.Finding) string) error {
	var refused refusal.Collect
	for _, f := range findings {
		if f.Severity == prove.Error {
			refused.Add(&refusal.Error{
				Code: f.Rule, Kind: refusal.Findings, Platform: f.Platform, Place: place(f), Summary: f.Summary, Seen: f.Seen, Fix: f.Fix,
			})
		}
	}
	return refused.Err()
}

// place is where a finding has its cause: the line of a Dockerfile that brought
// the file, or the file in the image.
func (o ImageOutcome) place(f prove.Finding) string {
	for _, p := range o.Platforms {
		line := p.places[f.Layer.String()]
		switch {
		case line == "":
		case f.Path == "":
			return line
		default:
			return line + " " + f.Path
		}
	}
	return f.Path
}
