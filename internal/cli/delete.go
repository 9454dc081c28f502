package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func (a *app) deleteCommand() *cobra.Command {
	var dryRun, children bool
	cmd := &cobra.Command{
		Use:   "delete REFERENCE…",
		Short: "Delete tags or images of a registry, without making holes in indexes",
		Long: `Delete removes tags, or images and indexes by digest. What is part of an index that
a tag names, or is named by another tag, stays: the tag would be broken. All of it
is looked at before anything is deleted.

A tag is removed alone where the registry can do that; else the image is, if no
other tag names it. The registry frees the space when it cleans up.`,
		Example: `  anyarch delete ghcr.io/team/app:1.0-rc1
  anyarch delete registry.example.com/app@sha256:… --children`,
		GroupID: "ship", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			p := a.newPlaces()
			defer p.close()
			return a.delete(cmd.Context(), p, list, children, dryRun)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&children, "children", false, "delete the images of an index too, those that nothing else names")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be deleted")
	return cmd
}

// deleter is a repository that removes manifests.
type deleter interface {
	publish.Repository
	Delete(ctx context.Context, d digest.Digest) error
}

// doomed is one thing that is to be deleted.
type doomed struct {
	text   string
	repo   deleter
	tag    string // empty if it is deleted by digest
	digest digest.Digest
}

func (a *app) delete(ctx context.Context, p *places, texts []string, children, dryRun bool) error {
	var list []doomed
	graphs := map[string]*graph{}
	var refused refusal.Collect
	for _, text := range texts {
		w, target, err := p.both(text)
		if err != nil {
			if !refused.Add(err) {
				return err
			}
			continue
		}
		repo, ok := target.Repo.(deleter)
		if !ok {
			return fmt.Errorf("%s: nothing can be deleted there", text)
		}
		if w.Repository != "" && !strings.ContainsAny(text[strings.LastIndex(text, "/")+1:], ":@") {
			refused.Add(&refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: text, Summary: "name a tag or a digest to delete", Fix: []string{text + ":latest"}})
			continue
		}
		d, data, err := publish.Read(ctx, repo, w.Identifier)
		if errors.Is(err, store.ErrNotFound) {
			refused.Add(&refusal.Error{Code: "PA407", Place: text, Summary: "there is no such image"})
			continue
		}
		if err != nil {
			return err
		}
		one := doomed{text: text, repo: repo, digest: d.Digest}
		if !strings.Contains(w.Identifier, ":") {
			one.tag = w.Identifier
		}
		if graphs[repo.Name()] == nil {
			graphs[repo.Name()] = &graph{repo: repo, going: map[string]bool{}, below: map[digest.Digest][]ocispec.Descriptor{}}
		}
		g := graphs[repo.Name()]
		g.below[d.Digest] = entries(d, data)
		if one.tag != "" {
			// What goes with the tags that go isn't in the way.
			g.going[one.tag] = true
		}
		list = append(list, one)
	}
	if err := refused.Err(); err != nil {
		return err
	}
	for _, one := range list {
		g := graphs[one.repo.Name()]
		if one.tag == "" || children {
			if err := g.read(ctx); err != nil {
				return err
			}
		}
		if one.tag == "" {
			refused.Add(g.mayGo(one))
		}
	}
	if err := refused.Err(); err != nil {
		return err
	}
	for _, one := range list {
		gone := []digest.Digest{}
		if children {
			gone = graphs[one.repo.Name()].alone(one.digest)
		}
		if !dryRun {
			if err := a.deleteOne(ctx, one, graphs[one.repo.Name()], children); err != nil {
				return err
			}
			for _, d := range gone {
				if err := one.repo.Delete(ctx, d); err != nil && !errors.Is(err, store.ErrNotFound) {
					return cantDelete(err, one.text)
				}
			}
		}
		if err := a.printLine(one.text); err != nil {
			return err
		}
		for _, d := range gone {
			if err := a.printLine(one.repo.Name() + "@" + d.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteOne removes a tag alone if the registry can do that, else what it names,
// which nothing else may name then.
func (a *app) deleteOne(ctx context.Context, one doomed, g *graph, children bool) error {
	if one.tag != "" {
		err := one.repo.DeleteTag(ctx, one.tag)
		if err == nil && !children {
			return nil
		}
		if err := g.read(ctx); err != nil {
			return err
		}
		switch named := g.mayGo(one); {
		case err == nil && named != nil:
			return nil
		case err != nil && named != nil:
			return errors.Join(cantDelete(err, one.text), named)
		}
	}
	if err := one.repo.Delete(ctx, one.digest); err != nil && !(one.tag != "" && errors.Is(err, store.ErrNotFound)) {
		return cantDelete(err, one.text)
	}
	return nil
}

// cantDelete says so of a registry that deletes nothing.
func cantDelete(err error, text string) error {
	e, ok := errors.AsType[*refusal.Error](err)
	if !ok || e.Kind != refusal.Failed || e.Code != "PA406" {
		return err
	}
	return &refusal.Error{Code: "PA428", Place: text, Summary: "the registry doesn't delete this", Seen: append([]string{e.Summary}, e.Seen...), Fix: []string{"anyarch explain PA428"}}
}

// graph is what the tags of a repository lead to, but for those that are going.
type graph struct {
	repo  publish.Repository
	going map[string]bool
	tags  map[string]digest.Digest               // nil until it was read
	below map[digest.Digest][]ocispec.Descriptor // of an index
}

// read reads every tag of the repository, and indexes inside indexes.
func (g *graph) read(ctx context.Context) error {
	if g.tags != nil {
		return nil
	}
	tags, err := g.repo.Tags(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("which tags there are: %w", err)
	}
	// Markers are second names of what a merge has made.
	tags = slices.DeleteFunc(tags, func(t string) bool { return g.going[t] || strings.Contains(t, publish.MarkerSuffix) })
	g.tags = map[string]digest.Digest{}
	repo := g.repo
	type read struct {
		d    ocispec.Descriptor
		data []byte
	}
	all := make([]read, len(tags))
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(6)
	for i, tag := range tags {
		eg.Go(func() error {
			d, data, err := publish.Read(gctx, repo, tag)
			if errors.Is(err, store.ErrNotFound) {
				return nil // removed meanwhile
			}
			all[i] = read{d, data}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	seen := map[digest.Digest]bool{}
	var nested func(d ocispec.Descriptor, data []byte, level int) error
	nested = func(d ocispec.Descriptor, data []byte, level int) error {
		if seen[d.Digest] || level > 8 {
			return nil
		}
		seen[d.Digest] = true
		list := entries(d, data)
		g.below[d.Digest] = list
		for _, m := range list {
			if !image.IsIndex(m.MediaType) {
				continue
			}
			inner, data, err := publish.Read(ctx, repo, m.Digest.String())
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := nested(inner, data, level+1); err != nil {
				return err
			}
		}
		return nil
	}
	for i, tag := range tags {
		if all[i].d.Digest == "" {
			continue
		}
		g.tags[tag] = all[i].d.Digest
		if err := nested(all[i].d, all[i].data, 1); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether an index leads to a digest, and for which platform.
func (g *graph) holds(index, d digest.Digest, level int) (what string, ok bool) {
	for _, m := range g.below[index] {
		if m.Digest == d {
			p := platform.FromOCI(m.Platform)
			if p.IsZero() || p.IsAttestation() {
				return "an entry", true
			}
			return p.String(), true
		}
		if level < 8 {
			if what, ok := g.holds(m.Digest, d, level+1); ok {
				return what, ok
			}
		}
	}
	return "", false
}

// mayGo refuses to delete what a tag needs.
func (g *graph) mayGo(one doomed) error {
	e := &refusal.Error{Code: "PA427", Kind: refusal.Findings, Place: one.text, Summary: "a tag needs what would be deleted"}
	for _, tag := range sortedKeys(g.tags) {
		d := g.tags[tag]
		if d == one.digest {
			e.Seen = append(e.Seen, tag+" names it")
		} else if what, ok := g.holds(d, one.digest, 1); ok {
			e.Seen = append(e.Seen, fmt.Sprintf("%s has it as %s", tag, what))
		}
	}
	if len(e.Seen) == 0 {
		return nil
	}
	if len(e.Seen) > 12 {
		e.Seen = append(e.Seen[:12], fmt.Sprintf("and %d more", len(e.Seen)-12))
	}
	e.Fix = []string{"delete these tags first, or in the same command"}
	return e
}

// alone are the entries of an index that no tag leads to once it is gone, the
// deepest last.
func (g *graph) alone(index digest.Digest) []digest.Digest {
	var list []digest.Digest
	for _, m := range g.below[index] {
		if slices.Contains(list, m.Digest) || g.mayGo(doomed{digest: m.Digest}) != nil {
			continue
		}
		list = append(list, m.Digest)
		list = append(list, g.alone(m.Digest)...)
	}
	return list
}
