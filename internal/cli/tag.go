package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

func (a *app) tagCommand() *cobra.Command {
	var only string
	cmd := &cobra.Command{
		Use:   "tag IMAGE TAG…",
		Short: "Give an image further tags, on its registry",
		Long: `Tag gives what IMAGE names, with all its platforms, further tags in the same
repository or layout. No blob is sent, and nothing is downloaded but manifests. All
tags move or none does.`,
		Example: `  anyarch tag ghcr.io/team/app:1.5.0 1.5 1 latest
  anyarch tag ghcr.io/team/app@sha256:… ghcr.io/team/app:stable
  anyarch tag ghcr.io/team/app:1.5.0 1.5.0-arm64 --platform linux/arm64`,
		GroupID: "ship", Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			p := a.newPlaces()
			defer p.close()
			return a.tag(cmd.Context(), p, list[0], list[1:], only)
		},
	}
	cmd.Flags().StringVarP(&only, "platform", "p", "", "tag only the image of this `PLATFORM`, instead of the index")
	return cmd
}

func (a *app) tag(ctx context.Context, p *places, text string, names []string, only string) error {
	w, target, err := p.both(text)
	if err != nil {
		return err
	}
	tags, err := p.sameRepository(target, names)
	if err != nil {
		return err
	}
	event, err := a.show(1)
	if err != nil {
		return err
	}
	d, data, err := publish.Read(ctx, target.Repo, w.Identifier)
	if errors.Is(err, store.ErrNotFound) {
		return &refusal.Error{Code: "PA407", Place: text, Summary: "there is no such image", Err: nil}
	}
	if err != nil {
		return err
	}
	if only != "" {
		if d, data, err = onlyPlatform(ctx, target.Repo, text, d, data, only); err != nil {
			return err
		}
	}
	if err := complete(ctx, target.Repo, text, d, data); err != nil {
		return err
	}
	plan, err := publish.PlanRetag(ctx, target.Repo, tags, d, data, publish.LatestAlways)
	if err != nil {
		return err
	}
	for _, m := range plan.Moves {
		if lost := lostPlatforms(plan, m, d, data); len(lost) > 0 {
			event.Warn("", "", fmt.Sprintf("%s:%s was there for %s too, and isn't any more", target.Repo.Name(), m.Tag, platform.Names(lost)))
		}
	}
	if err := publish.MoveAll(ctx, event, plan); err != nil {
		return err
	}
	a.screen.Clear()
	return a.printLine(target.Repo.Name() + "@" + d.Digest.String())
}

// lostPlatforms are those that a tag's index has and the next one hasn't.
func lostPlatforms(plan *publish.Retag, m publish.Move, d ocispec.Descriptor, data []byte) []platform.Platform {
	was, old := plan.Old(m.Tag)
	if m.Unchanged() || !image.IsIndex(was.MediaType) {
		return nil
	}
	var lost []platform.Platform
	have := platformsIn(d, data)
	for _, p := range platformsIn(was, old) {
		if image.IsIndex(d.MediaType) && p.Best(have) >= 0 {
			continue
		}
		lost = append(lost, p)
	}
	return lost
}

func platformsIn(d ocispec.Descriptor, data []byte) []platform.Platform {
	var list []platform.Platform
	for _, m := range entries(d, data) {
		if p := platform.FromOCI(m.Platform); !p.IsZero() && !p.IsAttestation() {
			list = append(list, p)
		}
	}
	return list
}

// entries lists those of an index; none of anything else.
func entries(d ocispec.Descriptor, data []byte) []ocispec.Descriptor {
	var index ocispec.Index
	if !image.IsIndex(d.MediaType) || json.Unmarshal(data, &index) != nil {
		return nil
	}
	return index.Manifests
}

// both finds an image in a repository or layout that can be written to.
func (p *places) both(text string) (assemble.Wanted, assemble.Destination, error) {
	w, err := p.source(text)
	if err != nil {
		return w, assemble.Destination{}, err
	}
	if w.Repository != "" {
		d, err := p.repository(w.Repository)
		return w, d, err
	}
	if _, isLayout := w.Source.(image.Layout); !isLayout || !strings.HasPrefix(text, "oci:") {
		return w, assemble.Destination{}, &refusal.Error{Code: "PA433", Kind: refusal.Usage, Place: text, Summary: "this is possible in a registry or a layout", Fix: []string{"oci:DIR:TAG"}}
	}
	w.Identifier = first(w.Identifier, "latest")
	d, err := p.layout(strings.TrimPrefix(w.Name, "oci:"))
	return w, d, err
}

// sameRepository reads tags: bare ones, or references into the same repository.
func (p *places) sameRepository(target assemble.Destination, names []string) ([]string, error) {
	var tags []string
	var refused refusal.Collect
	for _, name := range names {
		if !strings.ContainsAny(name, "/:@") {
			if _, err := registry.ParseReference("example.com/x:" + name); err != nil {
				refused.Add(err)
			}
			tags = append(tags, name)
			continue
		}
		d, tag, err := p.destination("TAG", name)
		switch {
		case err != nil:
			refused.Add(err)
		case d.Repo.Name() != target.Repo.Name():
			refused.Add(&refusal.Error{
				Code: "PA433", Kind: refusal.Usage, Place: name, Summary: "a tag is made in the repository of the image",
				Seen: []string{"that is " + target.Repo.Name()}, Fix: []string{"anyarch copy IMAGE " + name},
			})
		}
		tags = append(tags, tag)
	}
	return tags, refused.Err()
}

// onlyPlatform finds the manifest of one platform of an index.
func onlyPlatform(ctx context.Context, repo publish.Repository, text string, d ocispec.Descriptor, data []byte, only string) (ocispec.Descriptor, []byte, error) {
	want, err := platform.Parse(only)
	if err != nil {
		return d, nil, err
	}
	var have []platform.Platform
	for _, m := range entries(d, data) {
		p := platform.FromOCI(m.Platform)
		have = append(have, p)
		if p == want || p.String() == want.String() && want.OSVersion == "" {
			return publish.Read(ctx, repo, m.Digest.String())
		}
	}
	e := &refusal.Error{Code: "PA204", Kind: refusal.Findings, Platform: want.String(), Place: text, Summary: "the image isn't there for this platform", Seen: []string{"it is there for " + platform.Names(have)}}
	if !image.IsIndex(d.MediaType) {
		e.Summary, e.Seen = "it isn't an index, so there is nothing to choose from", nil
	}
	return d, nil, e
}

// complete refuses an index whose images are gone: no tag is to name it.
func complete(ctx context.Context, repo publish.Repository, text string, d ocispec.Descriptor, data []byte) error {
	list := entries(d, data)
	errs := make([]error, len(list))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, m := range list {
		if !image.IsIndex(m.MediaType) && !image.IsManifest(m.MediaType) {
			continue
		}
		g.Go(func() error {
			_, err := repo.Resolve(gctx, m.Digest.String())
			if errors.Is(err, store.ErrNotFound) {
				errs[i] = &refusal.Error{
					Code: "PA206", Kind: refusal.Findings, Platform: platform.FromOCI(m.Platform).String(), Place: text,
					Summary: "a manifest that the index names is gone", Seen: []string{m.Digest.String()}, Fix: []string{"anyarch index remove " + text + " " + m.Digest.String()},
				}
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var refused refusal.Collect
	for _, err := range errs {
		refused.Add(err)
	}
	return refused.Err()
}
