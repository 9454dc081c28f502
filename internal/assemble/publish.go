package assemble

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Destination is one repository or layout and the tags that are to name the index
// there. Without tags it gets the index by digest.
type Destination struct {
	Repo  publish.Repository
	Place Place
	Tags  []string
}

// Request is an index that is to be published.
type Request struct {
	// Make makes the draft. base is what the first tag of the first destination
	// names now, nil unless Edits is set. It is called again after another writer
	// has moved a tag, if Retry is set.
	Make func(ctx context.Context, base *Item) (*Draft, error)
	// Edits says that the draft is made from base, which has to be there.
	Edits bool
	// Base is the digest that is edited instead of what the tag names.
	Base digest.Digest
	// Guard refuses to move a tag that somebody else has moved since it was read.
	Guard bool
	// Retry goes on when somebody else has moved a tag; it implies Guard. Platforms
	// that a tag has and the draft hasn't are taken over then, unless they are known
	// to be of another revision.
	Retry bool
	// AllowFewer lets a guarded tag lose platforms that it has; else that is a refusal
	// with code PA430.
	AllowFewer bool

	Destinations []Destination
	Latest       publish.LatestPolicy
	Reader       *Reader
	Require      []platform.Platform
	Depth        prove.Depth // of the proof; empty is [prove.DepthConfig]
	Cache        prove.Cache
	// Force publishes an index that isn't true; what is wrong with it becomes a
	// warning.
	Force bool
	// Forgive, if set, makes a warning of single findings.
	Forgive func(prove.Finding) bool
	DryRun  bool
	Event   progress.Sink
}

// Outcome is what became of a request.
type Outcome struct {
	Draft      *Draft
	Descriptor ocispec.Descriptor
	Data       []byte
	Report     *prove.Report
	Pushed     []Pushed
	Attempts   int // 1 if nobody came between
}

// Pushed is one destination that has the index now.
type Pushed struct {
	Repository string
	Moves      []publish.Move
	Stats      publish.Stats
	// Lost are the platforms that a tag was for before and isn't any more, by tag.
	Lost map[string][]platform.Platform
}

// maxAttempts bounds how often a request starts again.
const maxAttempts = 20

// Publish makes an index, proves it, lets every destination have what it names,
// and then moves the tags: all of them, or none. Findings of [prove.Error] are a
// refusal, before anything is sent. A dry run writes nothing.
func Publish(ctx context.Context, r Request) (*Outcome, error) {
	r.Guard = r.Guard || r.Retry
	if r.Depth == "" {
		r.Depth = prove.DepthConfig
	}
	p := &publication{Request: r}
	for attempt := 1; ; attempt++ {
		o, err := p.once(ctx)
		if err == nil {
			o.Attempts = attempt
			return o, nil
		}
		changed, ok := errors.AsType[*publish.Changed](err)
		if !ok || !r.Retry || attempt == maxAttempts || ctx.Err() != nil {
			return nil, err
		}
		if changed.Race {
			if err := pause(ctx, attempt); err != nil {
				return nil, err
			}
		}
		r.Event.Note("", "", progress.Tag, fmt.Sprintf("%s:%s was moved by somebody else; once more", changed.Repository, changed.Tag))
		if changed.Replaced {
			if err := p.replaced(ctx, changed); err != nil {
				return nil, err
			}
		}
	}
}

// pause lets another merge come to its end; both wait for different times.
func pause(ctx context.Context, attempt int) error {
	wait := time.Duration(rand.Int64N(int64(20*time.Millisecond) << min(attempt, 7)))
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// publication is a request over its attempts.
type publication struct {
	Request
	expect map[string]map[string]digest.Digest // repository → tag → what it names
	extra  []Entry                             // of others, to be taken over
}

// begin reads what the tags name, before anything else is done.
func (p *publication) begin(ctx context.Context) (base *Item, err error) {
	if p.Edits {
		d := p.Destinations[0]
		name := p.Base.String()
		if name == "" {
			name = d.Tags[0]
		}
		if base, err = p.Reader.Read(ctx, d.Place, name); err != nil {
			return nil, err
		}
	}
	if !p.Guard {
		return base, nil
	}
	p.expect = map[string]map[string]digest.Digest{}
	for i, d := range p.Destinations {
		known := map[string]digest.Digest{}
		p.expect[d.Repo.Name()] = known
		for j, tag := range d.Tags {
			if base != nil && p.Base == "" && i+j == 0 {
				known[tag] = base.Descriptor.Digest
				continue
			}
			was, _, err := publish.Read(ctx, d.Repo, tag)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
			known[tag] = was.Digest
		}
	}
	return base, nil
}

// replaced takes over what the index of another merge had, which mine may have
// replaced.
func (p *publication) replaced(ctx context.Context, changed *publish.Changed) error {
	for _, d := range p.Destinations {
		if changed.Repository != d.Repo.Name() {
			continue
		}
		item, err := p.Reader.Read(ctx, d.Place, changed.Other.Digest.String())
		if err != nil {
			return err
		}
		p.extra = append(p.extra, entriesOf(item)...)
	}
	return nil
}

// keep takes over what tags have and the index hasn't, or refuses to lose it. again
// says that the index has to be made once more.
func (p *publication) keep(ctx context.Context, draft *Draft, pushed []Pushed) (again bool, err error) {
	if !p.Guard || p.Edits || p.AllowFewer {
		return false, nil
	}
	var refused refusal.Collect
	for i, d := range p.Destinations {
		for _, m := range pushed[i].Moves {
			lost := pushed[i].Lost[m.Tag]
			if len(lost) == 0 {
				continue
			}
			if p.Retry {
				took, err := p.takeOver(ctx, draft, d, m.Old)
				if err != nil {
					return false, err
				}
				if took {
					again = true
					continue
				}
			}
			refused.Add(&refusal.Error{
				Code: "PA430", Platform: platform.Names(lost), Place: d.Repo.Name() + ":" + m.Tag, Summary: "the tag would lose what it is there for now",
				Seen: []string{"it names " + m.Old.String()}, Fix: []string{"--retry, to keep images of the same revision", "--allow-fewer"},
			})
		}
	}
	return again, refused.Err()
}

// takeOver takes the images of an index that the draft has no image for, if all of
// them may be of the draft's revision.
func (p *publication) takeOver(ctx context.Context, draft *Draft, d Destination, old digest.Digest) (bool, error) {
	item, err := p.Reader.Read(ctx, d.Place, old.String())
	if err != nil {
		return false, err
	}
	revisions := map[string]bool{}
	for _, e := range draft.Entries {
		if r := e.Item.Revision(); r != "" {
			revisions[r] = true
		}
	}
	var more []Entry
	for _, e := range entriesOf(item) {
		if e.Item.Missing != nil || e.runs() && len(revisions) > 0 && e.Item.Revision() != "" && !revisions[e.Item.Revision()] {
			return false, nil
		}
		if !draft.has(e) {
			more = append(more, e)
		}
	}
	p.extra = append(p.extra, more...)
	return len(more) > 0, nil
}

// Revision is that of the sources of an image, as its annotations or labels say;
// empty if they don't.
func (i *Item) Revision() string {
	return cmp.Or(i.Manifest.Annotations[ocispec.AnnotationRevision], i.Image.Config.Labels[ocispec.AnnotationRevision])
}

// has reports whether a draft has an entry, or another one for its platform.
func (d *Draft) has(e Entry) bool {
	return slices.ContainsFunc(d.Entries, func(other Entry) bool {
		return other.Descriptor.Digest == e.Descriptor.Digest || e.runs() && other.runs() && samePlatform(e, other)
	})
}

func (p *publication) once(ctx context.Context) (*Outcome, error) {
	base, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	for {
		draft, err := p.Make(ctx, base)
		if err != nil {
			return nil, err
		}
		for _, e := range p.extra {
			if about := e.Item.Subject(); !draft.has(e) && (about == "" || draft.has(Entry{Descriptor: ocispec.Descriptor{Digest: digest.Digest(about)}, Item: e.Item})) {
				draft.Entries = append(draft.Entries, e)
			}
		}
		if len(p.extra) > 0 && !p.Edits {
			draft.Sort()
		}
		if len(draft.Entries) == 0 {
			return nil, &refusal.Error{Code: "PA424", Kind: refusal.Usage, Place: draft.Name, Summary: "nothing would be in the index", Seen: []string{"what it would be made of has no entries"}}
		}
		o := &Outcome{Draft: draft}
		if o.Descriptor, o.Data, err = draft.Encode(); err != nil {
			return nil, err
		}
		if o.Report, err = p.prove(ctx, draft); err != nil {
			return nil, err
		}
		plans, err := p.plan(ctx, o)
		if err != nil {
			return nil, err
		}
		again, err := p.keep(ctx, draft, o.Pushed)
		if err != nil {
			return nil, err
		}
		if again {
			continue
		}
		if p.DryRun {
			return o, nil
		}
		if err := p.send(ctx, o); err != nil {
			return nil, err
		}
		return o, publish.MoveAll(ctx, p.Event, plans...)
	}
}

// plan reads what the tags name now. A tag that doesn't name what it did at the
// beginning won't move.
func (p *publication) plan(ctx context.Context, o *Outcome) ([]*publish.Retag, error) {
	var plans []*publish.Retag
	o.Pushed = make([]Pushed, len(p.Destinations))
	for i, d := range p.Destinations {
		plan, err := publish.PlanRetag(ctx, d.Repo, d.Tags, o.Descriptor, o.Data, p.Latest)
		if err != nil {
			return nil, err
		}
		if p.Guard {
			plan.Expect = p.expect[d.Repo.Name()]
			for _, m := range plan.Moves {
				if want := plan.Expect[m.Tag]; m.Old != want && !m.Unchanged() {
					return nil, &publish.Changed{Repository: d.Repo.Name(), Tag: m.Tag, Was: want, Now: m.Old}
				}
			}
		}
		plans = append(plans, plan)
		o.Pushed[i] = Pushed{Repository: d.Repo.Name(), Moves: plan.Moves, Lost: lost(plan, o.Report)}
	}
	return plans, nil
}

// lost are the platforms that tags were for before and aren't any more.
func lost(plan *publish.Retag, now *prove.Report) map[string][]platform.Platform {
	all := map[string][]platform.Platform{}
	for _, m := range plan.Moves {
		d, data := plan.Old(m.Tag)
		if m.Kept || m.Unchanged() || !image.IsIndex(d.MediaType) {
			continue
		}
		for _, entry := range manifestsOf(data) {
			old := platform.FromOCI(entry.Platform)
			if !old.IsZero() && !old.IsAttestation() && !slices.ContainsFunc(now.Platforms, func(p prove.PlatformReport) bool { return old.Runs(p.Platform) || p.Platform.Runs(old) }) {
				all[m.Tag] = append(all[m.Tag], old)
			}
		}
	}
	return all
}

// prove refuses an index that isn't true.
func (p *publication) prove(ctx context.Context, draft *Draft) (*prove.Report, error) {
	end := p.Event.Start("", "", progress.Verify, string(p.Depth))
	report, err := draft.Prove(ctx, prove.Options{Depth: p.Depth, Require: p.Require, Progress: p.Event, Cache: p.Cache})
	if err != nil {
		end(progress.Failed, "")
		return nil, err
	}
	if err := p.programs(ctx, draft, report); err != nil {
		end(progress.Failed, "")
		return nil, err
	}
	var refused refusal.Collect
	for i := range report.Findings {
		f := &report.Findings[i]
		if f.Severity != prove.Error {
			continue
		}
		if p.Forgive != nil && p.Forgive(*f) {
			f.Severity = prove.Warning
			continue
		}
		if p.Force && f.Rule != prove.RuleRequired && f.Rule != prove.RuleMissing {
			f.Severity = prove.Warning
			f.Seen = append(f.Seen, "published all the same: --force")
			continue
		}
		refused.Add(draft.refuse(*f))
	}
	if err := refused.Err(); err != nil {
		end(progress.Failed, "findings")
		return nil, err
	}
	end(progress.Done, "")
	return report, nil
}

// programs reads the programs of images whose entry says another platform than
// they were found with, or whose config says none: a config may be as wrong as an
// annotation.
func (p *publication) programs(ctx context.Context, draft *Draft, report *prove.Report) error {
	if p.Depth != prove.DepthConfig && p.Depth != prove.DepthIndex {
		return nil
	}
	for _, e := range draft.Entries {
		if e.Item.Kind != KindImage || e.Item.Missing != nil || !e.annotated() {
			continue
		}
		alone := &Draft{Entries: []Entry{e}, MediaType: ocispec.MediaTypeImageIndex}
		deeper, err := alone.Prove(ctx, prove.Options{Depth: prove.DepthEntrypoint, Progress: p.Event, Cache: p.Cache})
		if err != nil {
			return err
		}
		for _, f := range deeper.Findings {
			if !slices.ContainsFunc(report.Findings, func(g prove.Finding) bool {
				return g.Rule == f.Rule && g.Platform == f.Platform && g.Summary == f.Summary
			}) && (f.Rule == prove.RuleEntrypoint || f.Rule == prove.RulePrograms) {
				report.Findings = append(report.Findings, f)
			}
		}
		for i, r := range report.Platforms {
			if r.Digest == e.Descriptor.Digest && len(deeper.Platforms) == 1 {
				report.Platforms[i].EntrypointBinary = deeper.Platforms[0].EntrypointBinary
			}
		}
	}
	return nil
}

// annotated reports whether an entry's platform is what somebody says, rather than
// what the image was found with.
func (e Entry) annotated() bool {
	return e.Asserted || platform.FromOCI(e.Descriptor.Platform) != platform.FromOCI(e.Item.Descriptor.Platform) || e.Item.ConfigPlatform() == nil
}

// refuse turns a finding into a refusal; one about an entry that was annotated says
// so.
func (d *Draft) refuse(f prove.Finding) error {
	e := &refusal.Error{Code: f.Rule, Kind: refusal.Findings, Platform: f.Platform, Place: f.Path, Summary: f.Summary, Seen: f.Seen, Fix: f.Fix}
	if f.Rule == prove.RuleRequired {
		e.Fix = []string{"name an image for " + f.Platform + " too, or leave it out of --require"}
	}
	for _, entry := range d.Entries {
		if entry.Descriptor.Digest != f.Digest {
			continue
		}
		if e.Place == "" {
			e.Place = entry.Item.Name
		}
		if entry.annotated() && entry.Descriptor.Platform != nil && (f.Rule == prove.RulePlatform || f.Rule == prove.RuleEntrypoint) {
			e.Code = "PA423"
			e.Fix = []string{"build the image for " + f.Platform + ", such as with anyarch publish --platform " + f.Platform, "--force, if you know better"}
		}
	}
	return e
}

// send lets every destination have what the index names, and the index itself
// where no tag will name it.
func (p *publication) send(ctx context.Context, o *Outcome) error {
	var items []*Item
	for _, e := range o.Draft.Entries {
		items = append(items, e.Item)
	}
	for i, d := range p.Destinations {
		end := p.Event.Start("", "", progress.Push, d.Repo.Name())
		stats, err := Send(ctx, d.Repo, p.Event, items...)
		o.Pushed[i].Stats = stats
		if err == nil && len(d.Tags) == 0 {
			err = d.Repo.PushManifest(ctx, o.Descriptor.Digest.String(), o.Descriptor, o.Data)
		}
		if err != nil {
			end(progress.Failed, d.Repo.Name())
			return err
		}
		end(progress.Done, d.Repo.Name())
	}
	return nil
}

// Wanted is a tag or digest at a place; neither is what the place has to itself.
type Wanted struct {
	Place
	Identifier string
}

// ReadAll reads images side by side and names all that aren't there.
func (r *Reader) ReadAll(ctx context.Context, sources []Wanted) ([]*Item, error) {
	items := make([]*Item, len(sources))
	errs := make([]error, len(sources))
	var g errgroup.Group
	for i, s := range sources {
		g.Go(func() error {
			items[i], errs[i] = r.Read(ctx, s.Place, s.Identifier)
			return nil
		})
	}
	_ = g.Wait()
	var refused refusal.Collect
	for i, err := range errs {
		if errors.Is(err, store.ErrNotFound) && codeOf(err) != "PA206" {
			err = &refusal.Error{Code: "PA407", Place: sources[i].at(sources[i].Identifier), Summary: "there is no such image", Err: err}
		}
		if err != nil && !refused.Add(err) {
			return nil, err
		}
	}
	return items, refused.Err()
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*refusal.Error](err); ok {
		return e.Code
	}
	return ""
}

// manifestsOf lists the entries of an index, none of anything else.
func manifestsOf(data []byte) []ocispec.Descriptor {
	var index ocispec.Index
	if json.Unmarshal(data, &index) != nil {
		return nil
	}
	return index.Manifests
}
