package assemble

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// Prove compares the draft with the configs of its images and, as far as the
// depth asks for it, with their programs. Manifests and configs have been read
// already, so that [prove.DepthConfig] costs nothing. An image that is missing is
// among the findings.
func (d *Draft) Prove(ctx context.Context, o prove.Options) (*prove.Report, error) {
	descriptor, data, err := d.Encode()
	if err != nil {
		return nil, err
	}
	return prove.Verify(ctx, d.source(descriptor, data), descriptor, o)
}

// source reads the draft as if it were published.
func (d *Draft) source(index ocispec.Descriptor, data []byte) *Source {
	s := &Source{known: map[digest.Digest][]byte{index.Digest: data}, blobs: map[digest.Digest]blobAt{}}
	for _, e := range d.Entries {
		s.add(e.Item)
	}
	return s
}

// blobAt is a blob with a place that has it.
type blobAt struct {
	place Place
	d     ocispec.Descriptor
}

// Source is everything below items, as one source: manifests and configs from
// memory, layers from where they are.
type Source struct {
	known map[digest.Digest][]byte
	blobs map[digest.Digest]blobAt
}

var _ image.Source = (*Source)(nil)

// NewSource makes a source of items.
func NewSource(items ...*Item) *Source {
	s := &Source{known: map[digest.Digest][]byte{}, blobs: map[digest.Digest]blobAt{}}
	for _, i := range items {
		s.add(i)
	}
	return s
}

func (s *Source) add(item *Item) {
	_ = item.Walk(func(i *Item) error {
		if i.Data != nil {
			s.known[i.Descriptor.Digest] = i.Data
		}
		if i.Config != nil {
			s.known[i.Manifest.Config.Digest] = i.Config
		}
		for _, b := range i.Blobs() {
			if _, ok := s.blobs[b.Digest]; !ok {
				s.blobs[b.Digest] = blobAt{i.Place, b}
			}
		}
		return nil
	})
}

// Blobs are the config and layers of a manifest; of an entry that is no manifest
// the entry itself.
func (i *Item) Blobs() []ocispec.Descriptor {
	switch {
	case i.Kind == KindIndex:
		return nil
	case i.Data == nil:
		if i.Missing == nil {
			return []ocispec.Descriptor{i.Descriptor}
		}
		return nil
	}
	return append(slices.Clone(i.Manifest.Layers), i.Manifest.Config)
}

// Resolve finds a manifest by its digest; there are no tags.
func (s *Source) Resolve(_ context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("%s: %w", tagOrDigest, store.ErrNotFound)
}

// Fetch opens what the items name.
func (s *Source) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if data, ok := s.known[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	if b, ok := s.blobs[d.Digest]; ok {
		return b.place.Fetch(ctx, d)
	}
	return nil, fmt.Errorf("%s: %w", d.Digest, store.ErrNotFound)
}

// Tags lists no tags.
func (s *Source) Tags(context.Context) ([]string, error) { return nil, nil }

// Referrers lists no referrers.
func (s *Source) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}
