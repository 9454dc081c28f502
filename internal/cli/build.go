package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/cache"
	"github.com/anyarch/anyarch/internal/gobuild"
	"github.com/anyarch/anyarch/internal/gocache"
	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
	"github.com/anyarch/anyarch/internal/trace"
	"github.com/anyarch/anyarch/internal/ui"
)

// buildFlags are the flags of publish, build and run.
type buildFlags struct {
	req          plan.Request
	latest       string
	metadataFile string
	dryRun       bool
	estimate     bool
	cacheSize    string
	goCache      string
	shared       *gocache.Session // nil without --cache
	noPrint      bool             // no fingerprints
	traceFile    string
	docker       dockerfileFlags

	noOutputs bool // the image stays in the cache alone
	// keep, if set, is called when all has been published and written.
	keep func(ctx context.Context, outcome *pipeline.Outcome, open openLayer) error
}

// openLayer opens a layer of an image that was built, fetching it if it is the base's
// and isn't here.
type openLayer func(ctx context.Context, l image.Layer) (io.ReadCloser, error)

func (b *buildFlags) register(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringArrayVarP(&b.req.Platforms, "platform", "p", nil, "platforms, all of them required: `LIST`, local or all (default linux/amd64,linux/arm64)")
	f.StringArrayVarP(&b.req.Tags, "tag", "t", nil, "full `REFERENCE`, or a bare tag for the repository before it (repeatable)")
	f.StringArrayVarP(&b.req.Outputs, "output", "o", nil, "registry, oci:`DIR`, oci-archive:FILE or docker-archive:FILE (default registry with -t, else oci:anyarch-out/NAME)")
	f.StringVar(&b.req.Base, "base", "static", "static (built in), scratch, an image `REFERENCE` or oci:DIR")
	f.BoolVar(&b.req.Combine, "combine", false, "put all programs into one image; the first is its entrypoint")
	f.StringVar(&b.req.Name, "name", "", "`NAME` of the image, instead of the program's")

	f.StringArrayVar(&b.req.LDFlags, "ldflags", nil, "linker flags, such as '-X main.version={{.Version}}'")
	f.StringArrayVar(&b.req.GoTags, "go-tags", nil, "build `TAGS`, comma-separated")
	f.StringArrayVar(&b.req.GoFlags, "go-flag", nil, "further `FLAG` of go build, such as -gcflags=all=-N")
	f.StringArrayVar(&b.req.GoEnv, "go-env", nil, "`KEY=VALUE` for go build, such as GOEXPERIMENT=…")
	f.StringArrayVar(&b.req.CC, "cc", nil, "turn cgo on for a platform: `PLATFORM=COMMAND`")
	f.BoolVar(&b.req.AllowOutside, "allow-outside", false, "accept a go.work or replace that reaches outside the repository")

	f.StringVar(&b.req.Image.BinaryDir, "binary-dir", "/usr/local/bin", "where programs go in the image")
	f.StringArrayVar(&b.req.Image.Entrypoint, "entrypoint", nil, "entrypoint `WORD`, instead of the program (repeatable)")
	f.StringArrayVar(&b.req.Image.Cmd, "cmd", nil, "default argument `WORD` (repeatable)")
	f.StringArrayVarP(&b.req.Image.Env, "env", "e", nil, "`KEY=VALUE` in the image's environment")
	f.StringVarP(&b.req.Image.WorkingDir, "workdir", "w", "", "working directory")
	f.StringVarP(&b.req.Image.User, "user", "u", "", "`USER[:GROUP]` that the program runs as")
	f.StringArrayVar(&b.req.Image.ExposedPorts, "expose", nil, "`PORT[/PROTOCOL]` that the program listens on")
	f.StringArrayVar(&b.req.Image.Volumes, "volume", nil, "`DIR` that is a volume")
	f.StringVar(&b.req.Image.StopSignal, "stop-signal", "", "`SIGNAL` that ends the program")
	f.StringArrayVarP(&b.req.Image.Labels, "label", "l", nil, "`KEY=VALUE` label of the configs")
	f.StringArrayVar(&b.req.Image.Annotations, "annotation", nil, "`KEY=VALUE` annotation of the index and every manifest")
	f.StringArrayVar(&b.req.Image.Files, "file", nil, "extra file or directory `SRC:DST[:mode=0644,owner=UID:GID]`")

	f.StringVar(&b.req.Compression, "compression", "gzip", "of new layers: gzip|zstd, and estargz|uncompressed with BuildKit")
	f.StringVar(&b.req.MediaTypes, "media-types", "oci", "oci|docker")
	f.StringVar(&b.req.Verify, "verify", "", "what to prove beyond what this run adds: config|entrypoint|all, the base's layers too (default config)")
	f.StringVar(&b.latest, "latest", "newest", "when the tag latest moves beside a version: newest|always|never")
	f.StringVar(&b.metadataFile, "metadata-file", "", "write what was made to this `FILE`, as JSON")
	f.BoolVar(&b.req.ByDigest, "push-by-digest", false, "push to the repository of -t and move no tag; anyarch index create --from puts results together")
	f.BoolVar(&b.noPrint, "no-fingerprint", false, "ask the go command even where nothing seems to have changed")
	f.StringVar(&b.traceFile, "trace", "", "write what the run spent its time on to this `FILE`, for ui.perfetto.dev")
	f.BoolVar(&b.dryRun, "dry-run", false, "do everything except writing to registries")
	f.BoolVar(&b.estimate, "estimate", false, "print what publishing would upload instead, and write nothing to registries")
	cacheSizeFlag(f, &b.cacheSize)
	f.StringVar(&b.goCache, "cache", "", "share Go's build cache through a registry: `REFERENCE[,mode=ro][,max-size=2GiB]` (ANYARCH_CACHE_REF)")
	b.docker.register(f)
}

func (a *app) publishCommand() *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "publish [PACKAGE…] -t REFERENCE [-t TAG…]",
		Short: "Build every platform, prove them, push, and move the tags last",
		Long: `Publish compiles Go main packages for every platform, packs them, proves that
index, config and binaries agree, pushes everything by digest, reads it back, and
then moves the tags: latest last. If anything fails, every tag stays where it was.

Standard output is one line per image: repository@digest.
Without -t the image goes to an OCI layout, ./anyarch-out/NAME.`,
		Example: `  anyarch publish ./cmd/apiping -t ghcr.io/udhos/apiping:1.5.0 -t latest
  anyarch publish ./cmd/... -t 'registry.example.com/team/{{.Name}}:{{.Version}}'
  anyarch publish --base alpine:3.22 --platform all -t example.com/app:1.0
  IMG=$(anyarch publish ./cmd/api -t example.com/api)`,
		GroupID: "ship",
		RunE: func(cmd *cobra.Command, targets []string) error {
			if err := b.checkFlags(cmd); err != nil {
				return err
			}
			_, err := a.build(cmd.Context(), &b, targets, true)
			return err
		},
	}
	b.register(cmd.Flags())
	return cmd
}

func (a *app) buildCommand() *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "build [PACKAGE…]",
		Short: "Build every platform and prove them, on this machine only",
		Long: `Build does what publish does up to the proof, and keeps the image on this
machine: by default as an OCI layout, ./anyarch-out/NAME.`,
		Example: `  anyarch build ./cmd/api
  anyarch build ./cmd/api --platform local --output docker-archive:api.tar && docker load -i api.tar
  anyarch build ./cmd/api --platform linux/arm64 --push-by-digest -t ghcr.io/team/api --metadata-file d/arm64.json`,
		GroupID: "ship",
		RunE: func(cmd *cobra.Command, targets []string) error {
			if len(b.req.Outputs) == 0 && !b.req.ByDigest {
				b.req.Outputs = []string{defaultOutput}
			}
			if err := b.checkFlags(cmd); err != nil {
				return err
			}
			_, err := a.build(cmd.Context(), &b, targets, true)
			return err
		},
	}
	b.register(cmd.Flags())
	return cmd
}

// defaultOutput asks for the default layout whatever tags there are.
const defaultOutput = "default"

// build makes the plan, runs it and shows what came of it. printRefs writes
// one line per image to standard output.
func (a *app) build(ctx context.Context, b *buildFlags, targets []string, printRefs bool) (_ *pipeline.Outcome, err error) {
	event, err := a.show(1)
	if err != nil {
		return nil, err
	}
	if b.traceFile != "" {
		recorder := trace.New()
		ctx, event = trace.With(ctx, recorder), recorder.Sink(event)
		defer func() {
			if writeErr := a.writeTrace(b.traceFile, recorder); err == nil {
				err = writeErr
			}
		}()
	}
	req := b.req
	req.Dir, req.Targets = a.Dir, targets
	if len(targets) == 0 {
		req.Targets = []string{"."}
	}
	if req.Latest, err = plan.ParseLatest(b.latest); err != nil {
		return nil, err
	}
	limit, err := cache.ParseSize(b.cacheSize)
	if err != nil {
		return nil, err
	}
	kept, err := a.openCache()
	if err != nil {
		return nil, err
	}
	// After everything else: what is too much is the next run's as well.
	defer func() { _ = kept.Trim(ctx, limit) }()
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = dropDamaged(kept.Blobs(), err)
		}
	}()
	if b.goCache != "" {
		if b.shared, err = a.openGoCache(ctx, b.goCache, event); err != nil {
			return nil, err
		}
		defer b.shared.Close()
	}
	bases := base.New(base.Options{Store: kept.Blobs(), Open: a.openReference, Compression: layer.Compression(req.Compression), Progress: event})
	var p *plan.Plan
	walk := func(builder func(context.Context, platform.Platform) (*pipeline.Built, error)) (*pipeline.Outcome, error) {
		return pipeline.Run(ctx, p, pipeline.Options{
			Cache: kept.Blobs(), Memo: kept.Memo(), Event: event, DryRun: b.dryRun || b.estimate, Estimate: b.estimate, Layers: bases.Open, Build: builder,
			Repository: func(name string) (publish.Repository, error) {
				client, err := a.registryClient()
				if err != nil {
					return nil, err
				}
				repo, err := client.Repository(name)
				if err != nil {
					return nil, err
				}
				return repo.Direct(), nil
			},
		})
	}
	var outcome *pipeline.Outcome
	if b.docker.file != "" || b.docker.always {
		e, err := a.openEngine(ctx, b, targets, event, bases, true)
		if err != nil {
			return nil, err
		}
		defer e.close()
		if p = e.in.plan; b.noOutputs {
			p.Outputs = nil
		}
		if outcome, err = e.run(ctx, walk); err != nil {
			return nil, err
		}
	} else if p, err = a.planPackages(ctx, b, req, kept.Programs(), bases, a.unchanged(b, kept.Memo()), event); err != nil {
		return nil, err
	} else {
		defer a.boundMemory(len(p.Images) * len(p.Platforms))()
		if outcome, err = walk(nil); err != nil {
			return nil, err
		}
	}
	if b.shared != nil {
		a.saveGoCache(ctx, b, event)
	}
	if b.keep != nil {
		if err := b.keep(ctx, outcome, bases.Open); err != nil {
			return nil, err
		}
	}
	if b.docker.iidFile != "" && len(outcome.Images) == 1 {
		if err := os.WriteFile(a.absolute(b.docker.iidFile), []byte(outcome.Images[0].Index.Digest.String()), 0o644); err != nil {
			return nil, &refusal.Error{Code: "PA602", Place: "--iidfile " + b.docker.iidFile, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
		}
	}
	if b.metadataFile != "" {
		if err := a.writeMetadata(b.metadataFile, outcome); err != nil {
			return nil, err
		}
	}
	a.screen.Clear()
	if a.talkative() {
		for _, o := range outcome.Images {
			if err := ui.Summary(a.Stderr, a.style(), a.summary(p, o, outcome)); err != nil {
				return nil, err
			}
			if findings := findingViews(o.Report, false); len(findings) > 0 {
				if err := ui.Findings(a.Stderr, a.style(), findings); err != nil {
					return nil, err
				}
			}
		}
	}
	if b.estimate {
		return outcome, a.printEstimate(outcome)
	}
	if printRefs {
		for _, o := range outcome.Images {
			if err := a.printLine(a.reference(o)); err != nil {
				return nil, err
			}
		}
	}
	return outcome, nil
}

// unchanged is what spares builds of which nothing has changed; nil if that isn't
// wanted.
func (a *app) unchanged(b *buildFlags, memo *store.Memo) *gobuild.Unchanged {
	if b.noPrint {
		return nil
	}
	self := Version()
	// Versions in the making share a name.
	if path, err := os.Executable(); err == nil {
		if info, err := os.Stat(path); err == nil {
			self += fmt.Sprint(" ", info.Size(), " ", info.ModTime().UnixNano())
		}
	}
	return &gobuild.Unchanged{Memo: memo, Self: self}
}

// boundMemory has the garbage collector keep this process small beside the compilers
// and linkers that it starts: what it holds at once is little, but it passes gigabytes
// through. The limit is soft, and GOMEMLIMIT goes before it. The function that it
// returns lifts it.
func (a *app) boundMemory(images int) func() {
	if a.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(24<<20 + int64(images)*32<<10)
	return func() { debug.SetMemoryLimit(before) }
}

// writeTrace writes what a run spent its time on, also of one that failed.
func (a *app) writeTrace(file string, recorder *trace.Recorder) error {
	err := writeWhole(a.absolute(file), func(w io.Writer) error {
		_, err := recorder.WriteTo(w)
		return err
	})
	if err != nil {
		return &refusal.Error{Code: "PA602", Place: "--trace " + file, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	return nil
}

// planPackages makes the plan of Go packages.
func (a *app) planPackages(ctx context.Context, b *buildFlags, req plan.Request, programs string, bases *base.Resolver, unchanged *gobuild.Unchanged, event progress.Sink) (*plan.Plan, error) {
	toolchain, err := gotool.Find(gotool.Options{Getenv: a.Getenv, LookPath: a.LookPath})
	if err != nil {
		return nil, err
	}
	if b.shared != nil {
		helper, err := b.shared.Serve()
		if err != nil {
			return nil, err
		}
		toolchain = toolchain.WithCacheProg(helper)
	}
	revision := a.newRevision(ctx, plan.SourceDir(req), event)
	maker := plan.Maker{
		Toolchain: toolchain, CacheDir: programs, Getenv: a.Getenv,
		Bases: bases, Expand: revision.expand, Source: revision.source, Unchanged: unchanged,
	}
	end := event.Start("", "", progress.Resolve, strings.Join(req.Targets, " "))
	p, err := maker.Make(ctx, req)
	if err != nil {
		end(progress.Failed, "")
		return nil, err
	}
	end(progress.Done, fmt.Sprintf("%s for %d platforms", strings.Join(req.Targets, " "), len(p.Platforms)))
	return p, nil
}

// reference is the line on standard output for one image.
func (a *app) reference(o pipeline.ImageOutcome) string {
	where := o.Name
	switch {
	case len(o.Pushed) > 0:
		where = o.Pushed[0].Repository
	case len(o.Written) > 0:
		where = a.nearPath(o.Written[0].Path)
	}
	return where + "@" + o.Index.Digest.String()
}

// nearPath writes a path as seen from the working directory, if that is
// shorter.
func (a *app) nearPath(path string) string {
	rel, err := filepath.Rel(a.Dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return filepath.ToSlash(rel)
}

// summary is the screen at the end of a run.
func (a *app) summary(p *plan.Plan, o pipeline.ImageOutcome, outcome *pipeline.Outcome) ui.Result {
	r := ui.Result{Image: o.Name, Index: o.Index.Digest.String(), Elapsed: outcome.Elapsed}
	if len(o.Packages) > 0 {
		r.Package = o.Packages[0].ImportPath
	}
	if len(o.Packages) > 1 {
		r.Package = fmt.Sprintf("%s and %d more", r.Package, len(o.Packages)-1)
	}
	if p.Base != nil {
		r.Base = baseName(p.Base)
	}
	for _, pl := range o.Platforms {
		row := ui.PlatformRow{
			Platform: pl.Image.Platform.String(), Compile: pl.Compile, Cached: pl.Cached,
			LayerSize: pl.Added, Digest: pl.Image.Manifest.Digest.String(), Pushed: len(o.Pushed) > 0,
		}
		for _, b := range pl.Binaries {
			row.BinarySize += b.Size
		}
		if len(pl.Binaries) > 0 {
			row.Binary = binaryLine(pl.Binaries[0])
			r.GoVersion = pl.Binaries[0].GoVersion
		}
		r.Platforms = append(r.Platforms, row)
	}
	r.Verified = fmt.Sprintf("%d/%d platforms · index = config = binary", len(o.Platforms), len(p.Platforms))
	for _, pushed := range o.Pushed {
		r.Uploaded += pushed.Stats.Uploaded
		r.Mounted += pushed.Stats.Mounted
		for _, m := range pushed.Moves {
			r.Tags = append(r.Tags, tagMove(pushed.Repository, m))
		}
	}
	var places []string
	for _, pushed := range o.Pushed {
		places = append(places, pushed.Repository)
	}
	for _, w := range o.Written {
		places = append(places, string(w.Kind)+":"+a.nearPath(w.Path))
	}
	r.Where = strings.Join(places, ", ")
	return r
}

func baseName(b *base.Base) string {
	switch {
	case b.Name == base.Static:
		return fmt.Sprintf("static (built in, %s)", b.Version)
	case b.BuiltIn():
		return b.Name
	}
	return b.Name + "@" + ui.ShortDigest(b.Digest.String())
}

// binaryLine says what a program is, for people.
func binaryLine(b *prove.Binary) string {
	if b.Static {
		return b.Machine + " static"
	}
	return b.Machine + " dynamic"
}

func tagMove(repository string, m publish.Move) ui.TagMove {
	t := ui.TagMove{Repository: repository, Tag: m.Tag, New: m.New.String(), Kept: m.Kept, Reason: m.Reason}
	if m.Old != "" {
		t.Old = m.Old.String()
	}
	if m.OldVersion != "" {
		t.Old = m.OldVersion
	}
	return t
}

// metadata is one image in --metadata-file: the keys of docker buildx, and
// what it doesn't say per platform.
type metadata struct {
	Name       string                      `json:"image.name,omitempty"`
	Digest     string                      `json:"containerimage.digest"`
	Config     string                      `json:"containerimage.config.digest,omitempty"` // of an image without an index
	Descriptor any                         `json:"containerimage.descriptor"`
	Schema     int                         `json:"anyarch.schema"`
	Platforms  map[string]metadataPlatform `json:"anyarch.platforms"`
	Findings   []prove.Finding             `json:"anyarch.findings"`
	Tags       []metadataTag               `json:"anyarch.tags,omitempty"`
	Outputs    []string                    `json:"anyarch.outputs,omitempty"`
	Timings    map[string]metadataTiming   `json:"anyarch.timings"`
}

type metadataPlatform struct {
	Digest     string        `json:"digest"`
	Config     string        `json:"config"`
	Compressed int64         `json:"compressed"` // bytes of all layers
	Entrypoint *prove.Binary `json:"entrypoint,omitempty"`
}

type metadataTag struct {
	Repository string `json:"repository"`
	publish.Move
}

type metadataTiming struct {
	Compile float64 `json:"compile"` // seconds
}

// writeMetadata writes what was made: one object, or one per image by name.
func (a *app) writeMetadata(file string, outcome *pipeline.Outcome) error {
	all := map[string]metadata{}
	for _, o := range outcome.Images {
		m := metadata{
			Digest: o.Index.Digest.String(), Descriptor: o.Index, Schema: 1,
			Platforms: map[string]metadataPlatform{}, Findings: o.Report.Findings, Timings: map[string]metadataTiming{},
		}
		if m.Findings == nil {
			m.Findings = []prove.Finding{}
		}
		if len(o.Platforms) == 1 && o.Index.Digest == o.Platforms[0].Image.Manifest.Digest {
			m.Config = o.Platforms[0].Image.Config.Digest.String()
		}
		var references []string
		for _, pushed := range o.Pushed {
			for _, move := range pushed.Moves {
				if !move.Kept {
					references = append(references, pushed.Repository+":"+move.Tag)
				}
				m.Tags = append(m.Tags, metadataTag{pushed.Repository, move})
			}
			if len(pushed.Moves) == 0 {
				references = append(references, pushed.Repository)
			}
		}
		m.Name = strings.Join(references, ",")
		for _, w := range o.Written {
			m.Outputs = append(m.Outputs, string(w.Kind)+":"+w.Path)
		}
		for _, pl := range o.Platforms {
			entry := metadataPlatform{Digest: pl.Image.Manifest.Digest.String(), Config: pl.Image.Config.Digest.String()}
			for _, l := range pl.Image.Layers {
				entry.Compressed += l.Descriptor.Size
			}
			if len(pl.Binaries) > 0 {
				entry.Entrypoint = pl.Binaries[0]
			}
			m.Platforms[pl.Image.Platform.String()] = entry
			m.Timings[pl.Image.Platform.String()] = metadataTiming{Compile: pl.Compile.Seconds()}
		}
		all[o.Name] = m
	}
	var document any = all
	if len(outcome.Images) == 1 {
		document = all[outcome.Images[0].Name]
	}
	return a.writeJSON("--metadata-file", file, document)
}

// findingViews turns findings into what is shown; of information only if all
// is set.
func findingViews(r *prove.Report, all bool) []ui.FindingView {
	var views []ui.FindingView
	if r == nil {
		return nil
	}
	for _, f := range r.Findings {
		if f.Severity == prove.Info && !all {
			continue
		}
		views = append(views, ui.FindingView{
			Severity: string(f.Severity), Rule: f.Rule, Platform: f.Platform, Summary: f.Summary, Place: f.Path,
			Seen: slices.Clone(f.Seen), Fix: slices.Clone(f.Fix),
		})
	}
	return views
}
