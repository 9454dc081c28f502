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
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
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

// openSessions prepares one session per image and repository.
func (r *run) openSessions() ([][]*publish.Session, error) {
	sessions := make([][]*publish.Session, len(r.plan.Images))
	if !r.plan.Pushes() {
		return sessions, nil
	}
	places := publish.NewPlaces(r.memo)
	for i, target := range r.plan.Images {
		for _, d := range target.Destinations {
			repo, err := r.Repository(d.Repository)
			if err != nil {
				return nil, err
			}
			session := publish.NewSession(repo, r.cache, blobs{r}, target.Name, r.Event)
			session.Share(places)
			sessions[i] = append(sessions[i], session)
		}
	}
	return sessions, nil
}

// introduce has registries met, and tokens fetched, while programs compile. The
// function that it returns ends what is under way.
func (r *run) introduce(ctx context.Context, sessions [][]*publish.Session) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.SetLimit(4)
	var done sync.WaitGroup
	done.Go(func() {
		for _, list := range sessions {
			for _, s := range list {
				if repo, ok := s.Repository().(interface{ Prepare(context.Context) }); ok && ctx.Err() == nil {
					g.Go(func() error { repo.Prepare(ctx); return nil })
				}
			}
		}
		_ = g.Wait() // nothing fails
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// blobs gives layers: ours from the cache, those of the base fetched when
// somebody wants them.
type blobs struct{ r *run }

func (b blobs) Open(ctx context.Context, l image.Layer) (io.ReadCloser, error) {
	if f, err := b.r.cache.Blob(l.Descriptor.Digest); err == nil {
		return f, nil
	}
	return b.r.Layers(ctx, l)
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

// publish uploads what isn't there yet and moves tags, over all images and
// repositories: tags only when everything else is done.
func (r *run) publish(ctx context.Context, outcome *Outcome, sessions [][]*publish.Session) error {
	var (
		plans []publish.TagPlan
		mu    sync.Mutex // guards plans
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	type slot struct{ i, k int }
	order := map[*publish.Session]slot{}
	for i := range outcome.Images {
		o := &outcome.Images[i]
		o.Pushed = make([]Pushed, len(sessions[i]))
		for k, session := range sessions[i] {
			order[session] = slot{i, k}
			tags := r.plan.Images[i].Destinations[k].Tags
			if r.plan.ByDigest {
				tags = nil
			}
			o.Pushed[k].Repository = session.Repository().Name()
			g.Go(func() error {
				moves, err := session.PlanTags(gctx, tags, o.Index, r.plan.Latest)
				if err != nil {
					return err
				}
				mu.Lock()
				plans = append(plans, publish.TagPlan{Session: session, Index: o.Index, Moves: moves})
				mu.Unlock()
				if r.DryRun || len(tags) > 0 && !slices.ContainsFunc(moves, func(m publish.Move) bool { return !m.Unchanged() }) {
					return nil // every tag names this very index
				}
				return r.upload(gctx, session, o)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return causeOf(ctx, err)
	}
	if r.Estimate {
		for i := range outcome.Images {
			o := &outcome.Images[i]
			for k, session := range sessions[i] {
				var err error
				if o.Pushed[k].Estimate, err = session.Estimate(ctx, o.Index, o.all()); err != nil {
					return causeOf(ctx, err)
				}
			}
		}
	}
	slices.SortFunc(plans, func(a, b publish.TagPlan) int {
		x, y := order[a.Session], order[b.Session]
		return (x.i-y.i)*1000 + x.k - y.k
	})
	for _, p := range plans {
		for _, m := range p.Moves {
			if !m.Kept && m.Old != "" && !m.Unchanged() && publish.IsVersion(m.Tag) {
				r.Event.Warn(outcome.Images[order[p.Session].i].Name, "", fmt.Sprintf("PA411 %s:%s named another image, %s", p.Session.Repository().Name(), m.Tag, m.Old))
			}
			if m.Kept {
				r.Event.Warn(outcome.Images[order[p.Session].i].Name, "", fmt.Sprintf("PA410 %s:%s stays: %s (use --latest always)", p.Session.Repository().Name(), m.Tag, m.Reason))
			}
		}
	}
	if !r.DryRun {
		if err := publish.MoveTags(ctx, plans); err != nil {
			return err
		}
	}
	for _, p := range plans {
		at := order[p.Session]
		pushed := &outcome.Images[at.i].Pushed[at.k]
		pushed.Moves, pushed.Stats = p.Moves, p.Session.Stats()
	}
	return nil
}

// causeOf prefers the reason for which a run was cancelled.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (r *run) upload(ctx context.Context, session *publish.Session, o *ImageOutcome) error {
	images := o.all()
	there, err := session.Has(ctx, o.Index, images)
	if err != nil {
		return err
	}
	if there {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, img := range images {
		g.Go(func() error {
			end := r.Event.Start(o.Name, img.Platform.String(), progress.Push, session.Repository().Name())
			if err := session.Blobs(gctx, img); err != nil {
				end(progress.Failed, session.Repository().Name())
				return err
			}
			end(progress.Done, session.Repository().Name())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	end := r.Event.Start(o.Name, "", progress.Index, "")
	if err := session.Manifests(ctx, o.Index, images); err != nil {
		end(progress.Failed, "")
		return err
	}
	end(progress.Done, session.Repository().Name()+"@"+o.Index.Digest.String())
	return nil
}

// write puts an image to the places on this machine that were asked for.
func (r *run) write(ctx context.Context, target plan.Image, o *ImageOutcome) error {
	multi := image.Multi{Index: o.Index, Images: o.all(), Store: r.cache, Open: blobs{r}.Open}
	tags, full := target.LocalTags()
	for _, out := range r.plan.Outputs {
		w := Written{Kind: out.Kind, Path: out.Path, Tags: tags}
		var err error
		switch out.Kind {
		case plan.ToRegistry:
			continue
		case plan.ToLayout:
			if out.PerImage {
				w.Path = filepath.Join(out.Path, filepath.FromSlash(target.Name))
			}
			var dst *store.Store
			if dst, err = store.Create(w.Path); err == nil {
				err = multi.WriteLayout(ctx, dst, tags)
			}
		case plan.ToArchive:
			err = multi.WriteArchive(ctx, w.Path, tags)
		case plan.ToDockerArchive:
			multi.Images = multi.Images[:len(o.Platforms)] // it has no room for attestations
			err = multi.WriteDockerArchive(ctx, w.Path, full)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", w.Path, err)
		}
		o.Written = append(o.Written, w)
	}
	return nil
}
