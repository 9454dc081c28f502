package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func integrityError(d ocispec.Descriptor, seen string) error {
	return &refusal.Error{Code: "PA408", Place: d.Digest.String(), Summary: "content differs from its digest", Seen: []string{seen}}
}

// Layout reads images from an OCI image layout (image-spec v1.1.1,
// image-layout.md) that anybody may have written: every byte is verified.
type Layout struct{ Store *store.Store }

var _ Source = Layout{}

// Resolve finds a tag, by its org.opencontainers.image.ref.name, or a digest.
// Without a name it is the only entry of the layout's index.
func (l Layout) Resolve(_ context.Context, name string) (ocispec.Descriptor, error) {
	index, err := l.Store.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if name == "" {
		return l.only(index)
	}
	if d, err := l.Store.Find(name); err == nil {
		return d, nil
	}
	// A digest may also be that of a child, which index.json doesn't list.
	if d, err := digest.Parse(name); err == nil {
		if data, err := l.Store.ReadBlob(d); err == nil {
			var head struct {
				MediaType string `json:"mediaType"`
			}
			if json.Unmarshal(data, &head) == nil && (IsIndex(head.MediaType) || IsManifest(head.MediaType)) {
				return ocispec.Descriptor{MediaType: head.MediaType, Digest: d, Size: int64(len(data))}, nil
			}
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s in %s: %w", name, l.Store.Dir(), store.ErrNotFound)
}

func (l Layout) only(index ocispec.Index) (ocispec.Descriptor, error) {
	var candidates []ocispec.Descriptor
	for _, m := range index.Manifests {
		if !slices.ContainsFunc(candidates, func(d ocispec.Descriptor) bool { return d.Digest == m.Digest }) {
			candidates = append(candidates, m)
		}
	}
	for _, m := range candidates {
		if m.Annotations[ocispec.AnnotationRefName] == "latest" {
			return m, nil
		}
	}
	switch len(candidates) {
	case 0:
		return ocispec.Descriptor{}, fmt.Errorf("%s has no image: %w", l.Store.Dir(), store.ErrNotFound)
	case 1:
		return candidates[0], nil
	}
	e := &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: l.Store.Dir(), Summary: "the layout has several images; name one by its tag or digest"}
	for _, m := range candidates {
		if tag := m.Annotations[ocispec.AnnotationRefName]; tag != "" {
			e.Fix = append(e.Fix, l.Store.Dir()+":"+tag)
		} else {
			e.Fix = append(e.Fix, l.Store.Dir()+"@"+m.Digest.String())
		}
	}
	return ocispec.Descriptor{}, e
}

// Fetch opens a blob of the layout.
func (l Layout) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := l.Store.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	return Verified(f, d), nil
}

// Tags lists the names in the layout's index.
func (l Layout) Tags(context.Context) ([]string, error) {
	index, err := l.Store.Index()
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, m := range index.Manifests {
		if tag := m.Annotations[ocispec.AnnotationRefName]; tag != "" {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// Referrers looks through the manifests of index.json for those whose subject
// is d.
func (l Layout) Referrers(_ context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	index, err := l.Store.Index()
	if err != nil {
		return nil, err
	}
	var found []ocispec.Descriptor
	for _, m := range index.Manifests {
		data, err := l.Store.ReadBlob(m.Digest)
		if err != nil {
			continue
		}
		var manifest ocispec.Manifest
		if json.Unmarshal(data, &manifest) == nil && manifest.Subject != nil && manifest.Subject.Digest == d {
			m.ArtifactType = manifest.ArtifactType
			m.Annotations = manifest.Annotations
			found = append(found, m)
		}
	}
	return found, nil
}
