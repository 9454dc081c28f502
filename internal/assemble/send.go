package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Send lets a target have everything below items, and the items themselves by
// digest; the index of a draft and tags come afterwards. What was read from the
// target's own repository is there. Blobs of the same registry are mounted where
// the registry does that, others are streamed from their place to the target.
// Nothing is sent if an item is missing.
func Send(ctx context.Context, target publish.Repository, event progress.Sink, items ...*Item) (publish.Stats, error) {
	s := &sender{target: target, event: event, blobs: map[digest.Digest]bool{}, manifests: map[digest.Digest]bool{}}
	for _, item := range items {
		if err := item.Walk(func(i *Item) error { return i.Missing }); err != nil {
			return s.stats, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	var order []*Item
	for _, item := range items {
		_ = item.Walk(func(i *Item) error {
			if i.Place.Repository != "" && i.Place.Repository == target.Name() || s.manifests[i.Descriptor.Digest] {
				return nil
			}
			s.manifests[i.Descriptor.Digest] = true
			for _, b := range i.Blobs() {
				if foreign(b) || s.blobs[b.Digest] {
					continue
				}
				s.blobs[b.Digest] = true
				g.Go(func() error { return s.blob(gctx, i, b) })
			}
			if i.Data != nil {
				order = append(order, i)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return s.stats, err
	}
	// Manifests of images side by side, then what names them.
	for _, indexes := range []bool{false, true} {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, i := range order {
			if (i.Kind == KindIndex) != indexes {
				continue
			}
			push := func() error {
				d := i.Descriptor
				if err := target.PushManifest(gctx, d.Digest.String(), ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(i.Data))}, i.Data); err != nil {
					return explainForeign(i, err)
				}
				s.event.Note("", "", progress.Push, i.String())
				return nil
			}
			if indexes { // nested ones come after what they name
				if err := push(); err != nil {
					return s.stats, err
				}
				continue
			}
			g.Go(push)
		}
		if err := g.Wait(); err != nil {
			return s.stats, err
		}
	}
	return s.stats, nil
}

// foreign reports whether a layer is one that registries don't keep: clients get
// it where it says (image-spec v1.1.1, layer.md, "Non-Distributable Layers").
func foreign(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 && (strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, "foreign"))
}

// explainForeign says what registries mean that take no manifest whose layers are
// kept elsewhere.
func explainForeign(i *Item, err error) error {
	e, ok := errors.AsType[*refusal.Error](err)
	if !ok || e.Code != "PA404" && e.Code != "PA406" {
		return err
	}
	for _, l := range i.Manifest.Layers {
		if foreign(l) {
			e.Seen = append(e.Seen, "the image has a layer that is kept elsewhere, at "+l.URLs[0], "registries take that only if their configuration allows it")
			e.Fix = []string{"REGISTRY_VALIDATION_MANIFESTS_URLS_ALLOW='[^https://]'   (in the environment of the registry)"}
			return e
		}
	}
	return err
}

type sender struct {
	target    publish.Repository
	event     progress.Sink
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]bool

	mu    sync.Mutex // guards stats
	stats publish.Stats
}

func (s *sender) count(counter *int64, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*counter += n
}

func (s *sender) blob(ctx context.Context, i *Item, d ocispec.Descriptor) error {
	if i.Place.Repository != "" {
		mounted, err := s.target.Mount(ctx, d, i.Place.Repository)
		if err != nil {
			return err
		}
		if mounted {
			s.count(&s.stats.Mounted, d.Size)
			return nil
		}
	}
	exists, err := s.target.Exists(ctx, d)
	if err != nil {
		return err
	}
	if exists {
		s.count(&s.stats.Present, d.Size)
		return nil
	}
	name := ""
	if p := i.Platform(); !p.IsZero() && !p.IsAttestation() {
		name = p.String()
	}
	err = s.target.PushBlob(ctx, d, func() (io.ReadCloser, error) {
		if i.Config != nil && d.Digest == i.Manifest.Config.Digest {
			return io.NopCloser(bytes.NewReader(i.Config)), nil
		}
		r, err := i.Place.Fetch(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		return r, nil
	}, func(n int64) {
		s.event(progress.Event{Platform: name, Step: progress.Push, State: progress.Advanced, Current: n, Total: d.Size})
	})
	if err != nil {
		return err
	}
	s.count(&s.stats.Uploaded, d.Size)
	return nil
}

// Blobs lists everything at and below an item, and what refers to it, each once, to
// be written into an archive. A missing item is an error.
func Blobs(item *Item, about []Referrer) ([]image.Blob, error) {
	var list []image.Blob
	seen := map[digest.Digest]bool{}
	add := func(d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list = append(list, image.Blob{Descriptor: d, Open: open})
		}
	}
	bytesOf := func(data []byte) func(context.Context) (io.ReadCloser, error) {
		return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	}
	visit := func(i *Item) error {
		if i.Missing != nil {
			return i.Missing
		}
		if i.Config != nil {
			add(i.Manifest.Config, bytesOf(i.Config))
		}
		for _, b := range i.Blobs() {
			if !foreign(b) {
				add(b, func(ctx context.Context) (io.ReadCloser, error) { return i.Place.Fetch(ctx, b) })
			}
		}
		if i.Data != nil {
			d := i.Descriptor
			d.Size = int64(len(i.Data))
			add(d, bytesOf(i.Data))
		}
		return nil
	}
	if err := item.Walk(visit); err != nil {
		return nil, err
	}
	for _, r := range about {
		if err := r.Item.Walk(visit); err != nil {
			return nil, err
		}
	}
	return list, nil
}
