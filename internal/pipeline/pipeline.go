// Package pipeline walks a plan to its end: every platform is compiled and
// packed, everything is proved, the images become one index, and the index
// becomes public.
//
// Platforms walk side by side: while one compiles, another is packed and a
// third is uploaded. Blobs may travel early, since nobody can see them; a
// manifest is uploaded only when every platform is complete and proved, and
// tags move only when everything has been read back.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/gobuild"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Options are the places that a run works in.
type Options struct {
	Cache *store.Store // blobs of everything that is made
	Memo  *store.Memo  // what was made of what
	Event progress.Sink
	// Repository opens what images are pushed to.
	Repository func(name string) (publish.Repository, error)
	// Layers opens a layer of the base, fetching it if it isn't here.
	Layers func(ctx context.Context, l image.Layer) (io.ReadCloser, error)
	// Build makes the image of one platform where the plan has no Go packages of
	// its own: what a Dockerfile says. It is called for all platforms at once.
	Build func(ctx context.Context, p platform.Platform) (*Built, error)
	// DryRun does everything except remote writes and tags.
	DryRun bool
	// Estimate asks repositories what publishing would send them. It is for dry runs.
	Estimate bool
}

// Built is an image that another builder than Go's made: its parts, or all of it.
type Built struct {
	// Image is complete, with manifest and config in the cache, unless its manifest
	// has no digest. Then it is assembled of what follows.
	Image image.Image
	// Attestations are manifests about a complete image, which stand beside it in the
	// index, also in the cache.
	Attestations []image.Image

	Layers    []image.Layer
	Base      int // how many of the layers, from the first, are the base's
	RawConfig []byte
	History   []ocispec.History
	Places    map[string]string // what brought a layer, such as Dockerfile:12, by its digest
	Added     int64             // compressed bytes of the layers that aren't the base's
}

// Outcome is what a run came to.
type Outcome struct {
	Images  []ImageOutcome
	Elapsed time.Duration
}

// ImageOutcome is one image of the outcome.
type ImageOutcome struct {
	Name      string
	Packages  []gobuild.Package
	Index     ocispec.Descriptor
	Platforms []PlatformOutcome
	Report    *prove.Report
	Pushed    []Pushed
	Written   []Written
}

// PlatformOutcome is one platform of an image.
type PlatformOutcome struct {
	Image    image.Image
	Binaries []*prove.Binary // programs that this run added, the entrypoint first
	Compile  time.Duration
	Cached   bool  // the programs were those of an earlier run
	Added    int64 // compressed bytes of the layers that this run added

	base         int
	places       map[string]string // what brought a layer, by its digest
	attestations []image.Image
}

// Pushed is one repository that has the image now.
type Pushed struct {
	Repository string
	Moves      []publish.Move
	Stats      publish.Stats
	Estimate   publish.Estimate // if it was asked for
}

// Written is one place on this machine that has the image now.
type Written struct {
	Kind plan.OutputKind
	Path string
	Tags []string
}

// run is the state of one Run.
type run struct {
	Options
	plan  *plan.Plan
	cache *store.Store
	memo  *store.Memo
	fails atomic.Bool // some platform has failed: no more uploads
	// packing bounds how many layers are made at once, and so memory. Each is
	// compressed on all cores.
	packing chan struct{}
	closing sync.WaitGroup // of programs that have been packed
}

// Run does what the plan says. If any platform of any image fails, all that
// failed is reported and nothing is published.
func Run(ctx context.Context, p *plan.Plan, o Options) (*Outcome, error) {
	begin := time.Now()
	r := &run{Options: o, plan: p, cache: o.Cache, memo: o.Memo, packing: make(chan struct{}, 2)}
	if p.Base != nil && o.Cache == nil {
		return nil, errors.New("pipeline: no cache")
	}
	sessions, err := r.openSessions()
	if err != nil {
		return nil, err
	}
	defer r.introduce(ctx, sessions)()
	defer r.closing.Wait()
	results, uploaded, err := r.build(ctx, sessions)
	if err != nil {
		return nil, err
	}
	outcome := &Outcome{}
	outcome.Images, err = r.finishAll(ctx, results) // while the last blobs travel
	if err != nil {
		r.fails.Store(true)
	}
	uploadErr := uploaded()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if uploadErr != nil {
		return nil, uploadErr
	}
	if err := r.publish(ctx, outcome, sessions); err != nil {
		return nil, err
	}
	for i := range outcome.Images {
		if err := r.write(ctx, p.Images[i], &outcome.Images[i]); err != nil {
			return nil, err
		}
	}
	outcome.Elapsed = time.Since(begin)
	return outcome, nil
}

// build compiles and packs every platform of every image, and starts uploads
// of what is finished. If there is no error, uploaded is to be called; it waits for
// them.
func (r *run) build(ctx context.Context, sessions [][]*publish.Session) (_ [][]PlatformOutcome, uploaded func() error, err error) {
	results := make([][]PlatformOutcome, len(r.plan.Images))
	for i := range results {
		results[i] = make([]PlatformOutcome, len(r.plan.Platforms))
	}
	uploads, uploadCtx := errgroup.WithContext(ctx)
	uploads.SetLimit(8)
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(r.plan.Platforms))
	)
	for j, p := range r.plan.Platforms {
		wg.Go(func() {
			errs[j] = r.buildPlatform(ctx, p, func(i int, b PlatformOutcome) {
				results[i][j] = b
				if b.Cached || r.fails.Load() || r.DryRun {
					return // most probably there already: asked for later, by tag
				}
				for _, session := range sessions[i] {
					uploads.Go(func() error {
						if r.fails.Load() {
							return nil
						}
						return session.Blobs(uploadCtx, b.Image)
					})
				}
			})
			if errs[j] != nil {
				r.fails.Store(true)
			}
		})
	}
	wg.Wait()
	var refused refusal.Collect
	for _, failed := range errs {
		if failed != nil && !refused.Add(failed) {
			err = failed
			break
		}
	}
	if err == nil {
		err = refused.Err()
	}
	if err == nil && ctx.Err() == nil {
		return results, uploads.Wait, nil
	}
	_ = uploads.Wait() // what failed before them is what counts
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return nil, nil, err
}

// buildPlatform makes all images for one platform and hands each to done.
func (r *run) buildPlatform(ctx context.Context, p platform.Platform, done func(i int, b PlatformOutcome)) error {
	if r.Build != nil {
		return r.buildOther(ctx, p, done)
	}
	var packages []gobuild.Package
	var flags []gobuild.Flags
	for _, target := range r.plan.Images {
		packages = append(packages, target.Packages...)
		flags = append(flags, target.Flags[p]...)
	}
	end := r.Event.Start("", p.String(), progress.Compile, names(packages))
	begin := time.Now()
	programs, err := r.plan.Builder.Compile(ctx, packages, flags, p)
	took := time.Since(begin)
	if err != nil {
		why := "does not compile"
		if ctx.Err() != nil {
			why = "interrupted"
		}
		end(progress.Failed, why)
		return err
	}
	defer r.closing.Go(programs.Close) // while blobs travel
	state := progress.Done
	if programs.Unchanged {
		state = progress.Cached
	}
	end(state, names(packages))

	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, target := range r.plan.Images {
		g.Go(func() error {
			b, err := r.pack(ctx, target, p, programs)
			if err != nil {
				return err
			}
			b.Compile = took
			done(i, b)
			return nil
		})
	}
	return g.Wait()
}

// buildOther makes the image of one platform with the run's own builder.
func (r *run) buildOther(ctx context.Context, p platform.Platform, done func(i int, b PlatformOutcome)) error {
	begin := time.Now()
	built, err := r.Build(ctx, p)
	if err != nil {
		return err
	}
	target := r.plan.Images[0]
	created := r.plan.LayerTime
	b := PlatformOutcome{Compile: time.Since(begin), Added: built.Added, places: built.Places, base: built.Base, attestations: built.Attestations}
	if built.Image.Manifest.Digest != "" {
		b.Image = built.Image
		done(0, b)
		return nil
	}
	b.Image, err = image.Assemble(r.cache, image.Recipe{
		Platform: p, Config: ocispec.Image{Created: &created}, RawConfig: built.RawConfig, History: built.History,
		Layers: built.Layers, Annotations: target.Annotations, MediaTypes: r.plan.MediaTypes,
	})
	if err != nil {
		return err
	}
	done(0, b)
	return nil
}

// count is a number of things, for people.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func names(packages []gobuild.Package) string {
	if len(packages) > 4 {
		return fmt.Sprintf("%d programs", len(packages))
	}
	var list []string
	for _, pkg := range packages {
		list = append(list, pkg.Name)
	}
	return strings.Join(list, " ")
}

// pack makes one image for one platform and checks what went into it.
func (r *run) pack(ctx context.Context, target plan.Image, p platform.Platform, programs *gobuild.Programs) (PlatformOutcome, error) {
	end := r.Event.Start(r.label(target), p.String(), progress.Pack, "")
	b, err := r.packImage(ctx, target, p, programs)
	switch {
	case err != nil:
		end(progress.Failed, "")
	case b.Cached:
		end(progress.Cached, fmt.Sprintf("%d bytes", b.Added))
	default:
		end(progress.Done, fmt.Sprintf("%d bytes", b.Added))
	}
	return b, err
}

// label names an image in events, where there are several.
func (r *run) label(target plan.Image) string {
	if len(r.plan.Images) == 1 {
		return ""
	}
	return target.Name
}

func (r *run) packImage(ctx context.Context, target plan.Image, p platform.Platform, programs *gobuild.Programs) (PlatformOutcome, error) {
	var b PlatformOutcome
	under := r.plan.BaseImages[p]
	layers := slices.Clone(under.Layers)
	if len(target.Files) > 0 {
		l, extra, err := r.packFiles(ctx, target.Files, p)
		if err != nil {
			return b, err
		}
		b.Binaries = extra
		b.Added += l.Descriptor.Size
		layers = append(layers, r.history(l, "files"))
	}
	var paths []string
	for _, pkg := range target.Packages {
		paths = append(paths, programs.Path(pkg))
	}
	l, binaries, cached, err := r.packPrograms(ctx, target, p, paths)
	if err != nil {
		return b, err
	}
	b.Cached = cached
	b.Added += l.Descriptor.Size
	b.Binaries = append(binaries, b.Binaries...)
	var importPaths []string
	for _, pkg := range target.Packages {
		importPaths = append(importPaths, pkg.ImportPath)
	}
	layers = append(layers, r.history(l, "go build "+strings.Join(importPaths, " ")))
	config := target.Configs[p]
	b.Image, err = image.Assemble(r.cache, image.Recipe{
		Platform: imagePlatform(p, under.Platform), Config: config, Layers: layers,
		Annotations: target.Annotations, MediaTypes: r.plan.MediaTypes,
	})
	return b, err
}

// imagePlatform is what config and index say: the platform that was asked for,
// on the build of Windows that its base is for.
func imagePlatform(asked, found platform.Platform) platform.Platform {
	if asked.OS == "windows" {
		asked.OSVersion = found.OSVersion
	}
	return asked
}

func (r *run) history(l image.Layer, what string) image.Layer {
	created := r.plan.LayerTime
	l.History = ocispec.History{Created: &created, CreatedBy: "anyarch: " + what}
	return l
}
