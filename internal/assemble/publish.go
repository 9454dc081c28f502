package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
	// Retry goes on from what somebody else has put there; it implies Guard.
	Retry bool

	Destinations []Destination
	Latest       publish.LatestPolicy
	Reader       *Reader
	Require      []platform.Platform
	Depth        prove.Depth // of the proof; empty is [prove.DepthConfig]
	Cache        prove.Cache
	// Force publishes an index that isn't true; what is wrong with it becomes a
	// warning.
	Force  bool
	DryRun bool
	Event  progress.Sink
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
const maxAttempts = 10

// Publish makes an index, proves it, lets every destination have what it names,
// and then moves the tags: all of them, or none. Findings of [prove.Error] are a
// refusal, before anything is sent. Nothing but the index and its parts is
// written in a dry run: nothing at all.
func Publish(ctx context.Context, r Request) (*Outcome, error) {
	r.Guard = r.Guard || r.Retry
	if r.Depth == "" {
		r.Depth = prove.DepthConfig
	}
	p := &publication{Request: r, expect: map[string]map[string]digest.Digest{}, mine: map[digest.Digest]bool{}, before: map[digest.Digest]bool{}}
	for attempt := 1; ; attempt++ {
		o, err := p.once(ctx)
		if err == nil {
			o.Attempts = attempt
			return o, nil
		}
		changed, ok := errors.AsType[*publish.Changed](err)
		if !ok || !r.Retry || attempt == maxAttempts || changed.Race && changed.Other.Digest == "" || ctx.Err() != nil {
			return nil, err
		}
		r.Event.Note("", "", progress.Tag, fmt.Sprintf("%s:%s was moved by somebody else; once more", changed.Repository, changed.Tag))
		if err := p.learn(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// publication is a request over its attempts.
type publication struct {
	Request
	expect map[string]map[string]digest.Digest // repository → tag → what it named
	before map[digest.Digest]bool              // entries of what tags named at first
	mine   map[digest.Digest]bool              // indexes that this request has made
	extra  []Entry                             // of others, to be taken over
}

// base reads what the tags name, before anything else is done.
func (p *publication) base(ctx context.Context) (*Item, error) {
	var base *Item
	if p.Edits {
		d := p.Destinations[0]
		name := p.Base.String()
		if name == "" {
			name = d.Tags[0]
		}
		var err error
		if base, err = p.Reader.Read(ctx, d.Place, name); err != nil {
			return nil, err
		}
	}
	if !p.Guard {
		return base, nil
	}
	for i, d := range p.Destinations {
		known := p.expect[d.Repo.Name()]
		first := known == nil
		if first {
			known = map[string]digest.Digest{}
			p.expect[d.Repo.Name()] = known
		}
		for j, tag := range d.Tags {
			if !first {
				continue
			}
			if base != nil && i == 0 && j == 0 && p.Base == "" {
				p.note(base.Descriptor, base.Data)
				known[tag] = base.Descriptor.Digest
				continue
			}
			was, data, err := publish.Read(ctx, d.Repo, tag)
			switch {
			case errors.Is(err, store.ErrNotFound):
				known[tag] = ""
			case err != nil:
				return nil, err
			default:
				p.note(was, data)
				known[tag] = was.Digest
			}
		}
	}
	return base, nil
}

// note remembers the entries that a tag had at first.
func (p *publication) note(d ocispec.Descriptor, data []byte) {
	p.before[d.Digest] = true
	for _, m := range manifestsOf(data) {
		p.before[m.Digest] = true
	}
}

// manifestsOf lists the entries of an index, none of anything else.
func manifestsOf(data []byte) []ocispec.Descriptor {
	var index ocispec.Index
	if json.Unmarshal(data, &index) != nil {
		return nil
	}
	return index.Manifests
}

// learn reads what others have put under tags meanwhile: that is to be taken over
// into the next attempt.
func (p *publication) learn(ctx context.Context, changed *publish.Changed) error {
	take := func(item *Item) {
		for _, e := range entriesOf(item) {
			if !p.before[e.Descriptor.Digest] {
				p.extra = append(p.extra, e)
			}
		}
	}
	for i, d := range p.Destinations {
		if changed.Race && changed.Repository == d.Repo.Name() {
			item, err := p.Reader.Read(ctx, d.Place, changed.Other.Digest.String())
			if err != nil {
				return err
			}
			take(item)
		}
		for j, tag := range d.Tags {
			item, err := p.Reader.Read(ctx, d.Place, tag)
			switch {
			case errors.Is(err, store.ErrNotFound):
				p.expect[d.Repo.Name()][tag] = ""
				continue
			case err != nil:
				return err
			}
			now := item.Descriptor.Digest
			if now != p.expect[d.Repo.Name()][tag] && !p.mine[now] && (!p.Edits || i+j > 0) {
				take(item) // the first tag is what an edit begins with anyway
			}
			p.expect[d.Repo.Name()][tag] = now
		}
	}
	return nil
}

func (p *publication) once(ctx context.Context) (*Outcome, error) {
	base, err := p.base(ctx)
	if err != nil {
		return nil, err
	}
	draft, err := p.Make(ctx, base)
	if err != nil {
		return nil, err
	}
	for _, e := range p.extra {
		if err := draft.add(Options{}, e); err != nil {
			return nil, err
		}
	}
	if len(p.extra) > 0 && !p.Edits {
		draft.Sort()
	}
	o := &Outcome{Draft: draft}
	if o.Descriptor, o.Data, err = draft.Encode(); err != nil {
		return nil, err
	}
	p.mine[o.Descriptor.Digest] = true
	if o.Report, err = p.prove(ctx, draft); err != nil {
		return nil, err
	}
	if err := p.send(ctx, o); err != nil {
		return nil, err
	}
	var plans []*publish.Retag
	for i, d := range p.Destinations {
		plan, err := publish.PlanRetag(ctx, d.Repo, d.Tags, o.Descriptor, o.Data, p.Latest)
		if err != nil {
			return nil, err
		}
		if p.Guard {
			plan.Expect = p.expect[d.Repo.Name()]
		}
		plans = append(plans, plan)
		o.Pushed[i].Moves = plan.Moves
		o.Pushed[i].Lost = lost(plan, o.Report)
	}
	if p.DryRun {
		return o, nil
	}
	return o, publish.MoveAll(ctx, p.Event, plans...)
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

// annotated reports whether an entry's platform isn't the one that the image was
// found with.
func (e Entry) annotated() bool {
	return platform.FromOCI(e.Descriptor.Platform) != platform.FromOCI(e.Item.Descriptor.Platform) || e.Item.ConfigPlatform() == nil
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
		if entry.annotated() && (f.Rule == prove.RulePlatform || f.Rule == prove.RuleEntrypoint) {
			e.Code = "PA423"
			e.Fix = []string{"build the image for " + f.Platform + ", such as with anyarch publish --platform " + f.Platform, "--force, if you know better"}
		}
	}
	return e
}

// send lets every destination have what the index names, and the index itself
// where no tag will name it.
func (p *publication) send(ctx context.Context, o *Outcome) error {
	o.Pushed = make([]Pushed, len(p.Destinations))
	var items []*Item
	for _, e := range o.Draft.Entries {
		items = append(items, e.Item)
	}
	for i, d := range p.Destinations {
		o.Pushed[i].Repository = d.Repo.Name()
		if p.DryRun {
			continue
		}
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
