package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
	"github.com/anyarch/anyarch/internal/ui"
)

// indexFlags are the flags of all commands that publish an index.
type indexFlags struct {
	tags         []string
	require      []string
	mediaTypes   string
	verify       string
	latest       string
	metadataFile string
	force        bool
	dryRun       bool
	retry        bool
	fewer        bool
}

func (x *indexFlags) register(f *pflag.FlagSet, retry bool) {
	f.SortFlags = false
	f.StringArrayVarP(&x.tags, "tag", "t", nil, "`REFERENCE` to publish to, oci:DIR[:TAG], or a bare tag for the repository before it (repeatable)")
	f.StringArrayVar(&x.require, "require", nil, "platforms that the index must have, or nothing is published: `LIST`")
	f.StringVar(&x.mediaTypes, "media-types", "", "oci|docker (default docker if every image is of Docker's types, else oci)")
	f.StringVar(&x.verify, "verify", "config", "what is proved before a tag moves: config|entrypoint|all")
	f.StringVar(&x.latest, "latest", "newest", "when the tag latest moves beside a version: newest|always|never")
	if retry {
		f.BoolVar(&x.retry, "retry", false, "if somebody else moves a tag meanwhile, go on, and keep platforms that they have put there")
	}
	f.BoolVar(&x.force, "force", false, "publish an index that contradicts an image; a warning, which --metadata-file records")
	f.StringVar(&x.metadataFile, "metadata-file", "", "write what was made to this `FILE`, as JSON")
	f.BoolVar(&x.dryRun, "dry-run", false, "print the index and write nothing")
}

// request checks the flags.
func (x *indexFlags) request(a *app, p *places) (assemble.Request, error) {
	r := assemble.Request{Reader: assemble.NewReader(), Force: x.force, DryRun: x.dryRun, Retry: x.retry, AllowFewer: x.fewer}
	p.dry = x.dryRun
	var refused refusal.Collect
	var err error
	if r.Require, err = platform.ParseList(x.require); err != nil {
		refused.Add(err)
	}
	if r.Latest, err = plan.ParseLatest(x.latest); err != nil {
		refused.Add(err)
	}
	if r.Depth, err = prove.ParseDepth(x.verify); err != nil {
		refused.Add(err)
	}
	if _, err := indexType(x.mediaTypes); err != nil {
		refused.Add(err)
	}
	if c, err := a.openCache(); err == nil {
		r.Cache = c.Memo()
	}
	return r, refused.Err()
}

// indexType reads --media-types.
func indexType(text string) (string, error) {
	switch text {
	case "", "auto":
		return "", nil
	case string(image.OCI):
		return ocispec.MediaTypeImageIndex, nil
	case string(image.Docker):
		return image.DockerManifestList, nil
	}
	return "", &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--media-types " + text, Summary: "not media types", Fix: []string{"--media-types oci", "--media-types docker"}}
}

func (a *app) indexCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "index",
		Short: "Make an index of images that exist already, or change one",
		Long: `Index makes one reference over images for several platforms, wherever they are:
tags and digests in any repository of any registry, OCI layouts, archives.
What the index says is compared with every image before anything is written, and
tags move last. Nothing passes through this machine's disk, and what is on the
target's registry already isn't sent again.`,
		GroupID: "ship", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.indexCreateCommand(), a.indexAddCommand(), a.indexAnnotateCommand(), a.indexRemoveCommand(), a.indexShowCommand())
	return cmd
}

func (a *app) indexCreateCommand() *cobra.Command {
	var (
		x                       indexFlags
		from, platforms         []string
		annotations, childNotes []string
		nested                  string
		noAttestations          bool
		artifactType            string
	)
	cmd := &cobra.Command{
		Use:   "create IMAGE… -t REFERENCE [-t TAG…]",
		Short: "Make an index over images and tag it",
		Long: `Create makes an index over images, and over the images of indexes. It has each
platform once, sorted, and is the same for the same images in whatever order.
Annotations that all images have alike are the index's too. Attestations of
BuildKit come along with the image that they are about.

With --from the images are those of metadata files that builds on several machines
have written. A tag that somebody else moves between the beginning and the end is
then an error, as is one that would lose a platform. With --retry it is another
attempt, in which platforms that the tag has of the same revision are kept.

Standard output is one line per repository: repository@digest.`,
		Example: `  anyarch index create ghcr.io/team/app:1.0-amd64 ghcr.io/team/app:1.0-arm64 -t ghcr.io/team/app:1.0 -t latest
  anyarch index create oci:dist docker.io/team/extra@sha256:… -t registry.example.com/app:1.0
  anyarch index create --from 'd/*.json' --require linux/amd64,linux/arm64 -t ghcr.io/team/app:1.0 -t latest`,
		RunE: func(cmd *cobra.Command, images []string) error {
			images, from = a.unquoted(images, from)
			if len(images) == 0 && len(from) == 0 {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: "an index of what? name images", Fix: []string{cmd.UseLine()}}
			}
			if len(x.tags) == 0 && !x.dryRun {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: "where to? name a repository and a tag", Fix: []string{"-t registry.example.com/app:1.0"}}
			}
			p := a.newPlaces()
			defer p.close()
			req, err := x.request(a, p)
			if err != nil {
				return err
			}
			o := assemble.Options{DropAttestations: noAttestations}
			if o.Keep, err = nestedPolicy(nested); err != nil {
				return err
			}
			if o.Platforms, err = platform.ParseList(platforms); err != nil {
				return err
			}
			notes, err := keyValues("--annotation", annotations)
			if err != nil {
				return err
			}
			entryNotes, err := keyValues("--entry-annotation", childNotes)
			if err != nil {
				return err
			}
			if req.Destinations, err = p.destinations("-t", x.tags, nil); err != nil {
				return err
			}
			if len(from) > 0 {
				req.Guard = true
			}
			req.Make = func(ctx context.Context, _ *assemble.Item) (*assemble.Draft, error) {
				items, err := p.read(ctx, req.Reader, images)
				if err != nil {
					return nil, err
				}
				results, err := a.readResults(ctx, p, req.Reader, from, x.force)
				if err != nil {
					return nil, err
				}
				d := &assemble.Draft{Name: first(x.tags...), ArtifactType: artifactType}
				if d.MediaType, err = indexType(x.mediaTypes); err != nil {
					return nil, err
				}
				if err := d.Add(o, append(items, results...)...); err != nil {
					return nil, err
				}
				d.Sort()
				if d.MediaType != image.DockerManifestList {
					d.Annotations = d.CommonAnnotations()
				}
				if err := d.Annotate("", notes); err != nil {
					return nil, err
				}
				for i := range d.Entries {
					if d.Entries[i].Item.Kind == assemble.KindImage {
						d.Entries[i].Descriptor.Annotations = annotated(d.Entries[i].Descriptor.Annotations, entryNotes.Annotations)
					}
				}
				return d, nil
			}
			return a.publishIndex(cmd.Context(), &x, req)
		},
	}
	f := cmd.Flags()
	x.register(f, true)
	f.BoolVar(&x.fewer, "allow-fewer", false, "with --from or --retry, let a tag lose platforms that it has")
	f.StringArrayVar(&from, "from", nil, "metadata `FILES` of builds on other machines, a glob (repeatable)")
	f.StringArrayVarP(&platforms, "platform", "p", nil, "take only these platforms of indexes: `LIST`")
	f.StringVar(&nested, "nested", "flatten", "an index among the images: flatten|keep")
	f.BoolVar(&noAttestations, "no-attestations", false, "leave out BuildKit's attestations")
	f.StringArrayVar(&annotations, "annotation", nil, "`KEY=VALUE` annotation of the index (repeatable)")
	f.StringArrayVar(&childNotes, "entry-annotation", nil, "`KEY=VALUE` annotation of every image's entry (repeatable)")
	f.StringVar(&artifactType, "artifact-type", "", "`TYPE` of the index, if it is an artifact")
	return cmd
}

// unquoted takes over files of a --from pattern that the shell has expanded.
func (a *app) unquoted(images, from []string) (rest, files []string) {
	for _, text := range images {
		if info, err := os.Stat(a.absolute(text)); len(from) > 0 && strings.HasSuffix(text, ".json") && err == nil && info.Mode().IsRegular() {
			from = append(from, text)
			continue
		}
		rest = append(rest, text)
	}
	return rest, from
}

func annotated(old, more map[string]string) map[string]string {
	if len(more) == 0 {
		return old
	}
	next := maps.Clone(old)
	if next == nil {
		next = map[string]string{}
	}
	maps.Copy(next, more)
	return next
}

func nestedPolicy(text string) (keep bool, err error) {
	switch text {
	case "flatten", "":
		return false, nil
	case "keep":
		return true, nil
	}
	return false, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--nested " + text, Summary: "not what can be done with an index among the images", Fix: []string{"--nested flatten", "--nested keep"}}
}

// keyValues reads annotations. One with an empty value is removed.
func keyValues(flag string, texts []string) (assemble.Change, error) {
	c := assemble.Change{Annotations: map[string]string{}}
	var refused refusal.Collect
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok || key == "":
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: flag + " " + text, Summary: "it is written KEY=VALUE", Fix: []string{flag + " org.opencontainers.image.source=https://…"}})
		case value == "":
			c.Remove = append(c.Remove, key)
		default:
			c.Annotations[key] = value
		}
	}
	return c, refused.Err()
}

func (a *app) indexAddCommand() *cobra.Command {
	var (
		x              indexFlags
		platforms      []string
		nested         string
		replace        bool
		noAttestations bool
	)
	cmd := &cobra.Command{
		Use:   "add REFERENCE IMAGE…",
		Short: "Add images to an index",
		Long: `Add puts further images into an index and moves its tag. What is there stays as
it is. A platform that is there already is refused unless --replace is given.`,
		Example: `  anyarch index add ghcr.io/team/app:1.0 ghcr.io/team/app:1.0-riscv64
  anyarch index add ghcr.io/team/app:1.0 oci:fixed --replace`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			o := assemble.Options{Replace: replace, DropAttestations: noAttestations}
			var err error
			if o.Keep, err = nestedPolicy(nested); err != nil {
				return err
			}
			if o.Platforms, err = platform.ParseList(platforms); err != nil {
				return err
			}
			return a.editIndex(cmd.Context(), &x, list[0], func(ctx context.Context, p *places, r *assemble.Reader, d *assemble.Draft) error {
				items, err := p.read(ctx, r, list[1:])
				if err != nil {
					return err
				}
				return d.Add(o, items...)
			})
		},
	}
	f := cmd.Flags()
	x.register(f, true)
	f.BoolVar(&replace, "replace", false, "let an image take the place of the one for the same platform")
	f.StringArrayVarP(&platforms, "platform", "p", nil, "take only these platforms of indexes: `LIST`")
	f.StringVar(&nested, "nested", "flatten", "an index among the images: flatten|keep")
	f.BoolVar(&noAttestations, "no-attestations", false, "leave out BuildKit's attestations")
	return cmd
}

func (a *app) indexRemoveCommand() *cobra.Command {
	var x indexFlags
	cmd := &cobra.Command{
		Use:     "remove REFERENCE PLATFORM|DIGEST…",
		Aliases: []string{"rm"},
		Short:   "Take images out of an index",
		Long: `Remove takes entries out of an index, with the attestations about them, and moves
its tag. The images stay in the repository.`,
		Example: `  anyarch index remove ghcr.io/team/app:1.0 linux/arm/v7`,
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.editIndex(cmd.Context(), &x, list[0], func(_ context.Context, _ *places, _ *assemble.Reader, d *assemble.Draft) error {
				return d.Remove(list[1:]...)
			})
		},
	}
	x.register(cmd.Flags(), false)
	return cmd
}

func (a *app) indexAnnotateCommand() *cobra.Command {
	var (
		x           indexFlags
		c           assemble.Change
		annotations []string
	)
	cmd := &cobra.Command{
		Use:   "annotate REFERENCE [PLATFORM|DIGEST]",
		Short: "Change what an index says of itself or of an image",
		Long: `Annotate changes annotations of an index or of one of its entries, or the platform
of an entry. A platform that contradicts the image's config or its program is
refused: annotating doesn't change a program. --force does it all the same, and
the contradiction is recorded.`,
		Example: `  anyarch index annotate ghcr.io/team/app:1.0 --annotation org.opencontainers.image.description='An app'
  anyarch index annotate ghcr.io/team/app:1.0 linux/arm --variant v6`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			notes, err := keyValues("--annotation", annotations)
			if err != nil {
				return err
			}
			c.Annotations, c.Remove = notes.Annotations, notes.Remove
			if err := knownPlatform(c); err != nil {
				return err
			}
			return a.editIndex(cmd.Context(), &x, list[0], func(_ context.Context, _ *places, _ *assemble.Reader, d *assemble.Draft) error {
				selector := ""
				if len(list) == 2 {
					selector = list[1]
				}
				return d.Annotate(selector, c)
			})
		},
	}
	f := cmd.Flags()
	x.register(f, false)
	f.StringArrayVar(&annotations, "annotation", nil, "`KEY=VALUE` annotation; KEY= removes it (repeatable)")
	f.StringVar(&c.OS, "os", "", "operating `SYSTEM` of the entry")
	f.StringVar(&c.Architecture, "arch", "", "`ARCHITECTURE` of the entry")
	f.StringVar(&c.Variant, "variant", "", "`VARIANT` of the entry's architecture")
	f.StringVar(&c.OSVersion, "os-version", "", "`VERSION` of the entry's operating system")
	f.StringSliceVar(&c.OSFeatures, "os-features", nil, "`FEATURES` of the entry's operating system, added")
	return cmd
}

// knownPlatform refuses words that are no system and no architecture.
func knownPlatform(c assemble.Change) error {
	if c.OS == "" && c.Architecture == "" {
		return nil
	}
	_, err := platform.Parse(first(c.OS, "linux") + "/" + first(c.Architecture, "amd64"))
	if e, ok := errors.AsType[*refusal.Error](err); ok {
		e.Place, e.Fix = strings.TrimSpace(joinFlags(c)), []string{"--os linux --arch arm64"}
	}
	return err
}

func joinFlags(c assemble.Change) string {
	text := ""
	if c.OS != "" {
		text += " --os " + c.OS
	}
	if c.Architecture != "" {
		text += " --arch " + c.Architecture
	}
	return text
}

// editIndex changes the index that a reference names and moves its tag, and others
// that are asked for.
func (a *app) editIndex(ctx context.Context, x *indexFlags, text string, change func(context.Context, *places, *assemble.Reader, *assemble.Draft) error) error {
	p := a.newPlaces()
	defer p.close()
	req, err := x.request(a, p)
	if err != nil {
		return err
	}
	w, err := p.source(text)
	if err != nil {
		return err
	}
	var target assemble.Destination
	if w.Repository != "" {
		target, err = p.repository(w.Repository)
	} else {
		if _, ok := w.Source.(image.Layout); !ok || !strings.HasPrefix(text, "oci:") {
			return &refusal.Error{Code: "PA433", Kind: refusal.Usage, Place: text, Summary: "an index is changed in a registry or a layout", Fix: []string{"oci:DIR:TAG"}}
		}
		target, err = p.layout(strings.TrimPrefix(w.Name, "oci:"))
	}
	if err != nil {
		return err
	}
	if d, err := digest.Parse(w.Identifier); err == nil {
		req.Base = d
		if len(x.tags) == 0 && !x.dryRun {
			return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: text, Summary: "what a digest names can't be changed: name a tag for the new index", Fix: []string{"-t " + w.Name + ":TAG"}}
		}
	} else {
		target.Tags = []string{first(w.Identifier, "latest")}
	}
	if req.Destinations, err = p.destinations("-t", x.tags, &target); err != nil {
		return err
	}
	if req.Base != "" && len(req.Destinations[0].Tags) == 0 && len(req.Destinations) > 1 {
		return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: text, Summary: "name a tag in the same repository", Fix: []string{"-t " + w.Name + ":TAG"}}
	}
	mediaType, err := indexType(x.mediaTypes)
	if err != nil {
		return err
	}
	req.Edits, req.Guard = true, true
	req.Make = func(ctx context.Context, base *assemble.Item) (*assemble.Draft, error) {
		d, err := assemble.Edit(base)
		if err != nil {
			return nil, err
		}
		if mediaType != "" {
			d.MediaType = mediaType
		}
		return d, change(ctx, p, req.Reader, d)
	}
	err = a.publishIndex(ctx, x, req)
	if errors.Is(err, store.ErrNotFound) && len(refusal.All(err)) <= 1 {
		return &refusal.Error{Code: "PA407", Place: text, Summary: "there is no such index", Fix: []string{"anyarch index create IMAGE… -t " + text}, Err: nil}
	}
	return err
}

// publishIndex does what a request says and shows what came of it.
func (a *app) publishIndex(ctx context.Context, x *indexFlags, req assemble.Request) error {
	event, err := a.show(1)
	if err != nil {
		return err
	}
	begin := time.Now()
	req.Event = event
	o, err := assemble.Publish(ctx, req)
	if err != nil {
		return err
	}
	if x.metadataFile != "" {
		if err := a.writeIndexMetadata(x.metadataFile, o); err != nil {
			return err
		}
	}
	if err := a.showIndex(o, req.Edits, x.dryRun, begin); err != nil {
		return err
	}
	if x.dryRun {
		return a.printLine(string(o.Data))
	}
	for _, pushed := range o.Pushed {
		if err := a.printLine(pushed.Repository + "@" + o.Descriptor.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

// showIndex shows people what became of an index that was begun at a time: tags that
// stayed or lost a platform, the summary, and findings.
func (a *app) showIndex(o *assemble.Outcome, edited, dryRun bool, begin time.Time) error {
	event := a.screen.Sink()
	for _, pushed := range o.Pushed {
		for _, m := range pushed.Moves {
			if m.Kept {
				event.Warn("", "", fmt.Sprintf("PA410 %s:%s stays: %s (use --latest always)", pushed.Repository, m.Tag, m.Reason))
			}
			if lost := pushed.Lost[m.Tag]; len(lost) > 0 && !m.Kept && !edited {
				event.Warn("", "", fmt.Sprintf("%s:%s was there for %s too, and isn't any more", pushed.Repository, m.Tag, platform.Names(lost)))
			}
		}
	}
	a.screen.Clear()
	if a.talkative() {
		if err := ui.Summary(a.Stderr, a.style(), indexSummary(o, dryRun, time.Since(begin))); err != nil {
			return err
		}
	}
	if findings := findingViews(o.Report, false); len(findings) > 0 {
		return ui.Findings(a.Stderr, a.style(), findings)
	}
	return nil
}

func indexSummary(o *assemble.Outcome, dryRun bool, took time.Duration) ui.Result {
	r := ui.Result{Index: o.Descriptor.Digest.String(), Elapsed: took}
	for _, p := range o.Report.Platforms {
		row := ui.PlatformRow{Platform: p.Name, LayerSize: p.Compressed, Digest: p.Digest.String(), Pushed: !dryRun && len(o.Pushed) > 0}
		if p.OSVersion != "" {
			row.Platform += " " + p.OSVersion
		}
		if p.EntrypointBinary != nil {
			row.Binary = binaryLine(p.EntrypointBinary)
		}
		r.Platforms = append(r.Platforms, row)
	}
	switch {
	case slices.ContainsFunc(o.Report.Findings, func(f prove.Finding) bool { return f.Severity != prove.Info }):
	default:
		r.Verified = fmt.Sprintf("%d platforms · %s", len(o.Report.Platforms), checked(o.Report.Depth))
		if len(o.Report.Platforms) == 1 {
			r.Verified = "1 platform · " + checked(o.Report.Depth)
		}
	}
	var where []string
	for _, pushed := range o.Pushed {
		r.Uploaded += pushed.Stats.Uploaded
		r.Mounted += pushed.Stats.Mounted
		where = append(where, pushed.Repository)
		for _, m := range pushed.Moves {
			r.Tags = append(r.Tags, tagMove(pushed.Repository, m))
		}
	}
	r.Where = strings.Join(where, ", ")
	if r.Image = r.Where; r.Image == "" {
		r.Image = "index"
	}
	if dryRun {
		r.Where = "nothing was written (--dry-run)"
	}
	return r
}
