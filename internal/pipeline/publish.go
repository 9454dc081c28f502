package pipeline

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/store"
)

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
