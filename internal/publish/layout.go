package publish

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/store"
)

// Layout is an OCI image layout as something to publish to.
type Layout struct {
	image.Layout
	name string
}

var _ Repository = Layout{}

// NewLayout publishes into st, which is called name in messages.
func NewLayout(st *store.Store, name string) Layout {
	return Layout{image.Layout{Store: st}, name}
}

// Name is what the layout is called.
func (l Layout) Name() string { return l.name }

// Exists reports whether the layout has a blob.
func (l Layout) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	return l.Store.Has(d.Digest), nil
}

// Mount does nothing: a layout has no neighbours.
func (l Layout) Mount(context.Context, ocispec.Descriptor, string) (bool, error) { return false, nil }

// PushBlob copies a blob into the layout.
func (l Layout) PushBlob(_ context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error), sent func(n int64)) error {
	if l.Store.Has(d.Digest) {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := l.Store.Copy(d, r); err != nil {
		return err
	}
	if sent != nil {
		sent(d.Size)
	}
	return nil
}

// PushManifest stores a manifest and, if it isn't given by its digest, lets the tag
// name it.
func (l Layout) PushManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) error {
	if err := l.Store.Copy(d, bytes.NewReader(data)); err != nil {
		return err
	}
	if strings.Contains(tagOrDigest, ":") {
		return nil
	}
	return l.Store.Tag(ctx, tagOrDigest, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType}, false)
}

// PushReferrer stores a manifest with a subject and lists it, so that it is found
// among the subject's referrers.
func (l Layout) PushReferrer(ctx context.Context, d ocispec.Descriptor, data []byte) (bool, error) {
	if err := l.PushManifest(ctx, d.Digest.String(), d, data); err != nil {
		return false, err
	}
	return true, l.list(ctx, d)
}

// list puts a manifest into index.json without a name.
func (l Layout) list(ctx context.Context, d ocispec.Descriptor) error {
	return l.Store.UpdateIndex(ctx, func(index *ocispec.Index) error {
		for _, m := range index.Manifests {
			if m.Digest == d.Digest {
				return nil
			}
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType})
		return nil
	})
}

// DeleteTag takes a name off what it named, which stays, without one only if
// nothing else lists it. An absent tag wraps store.ErrNotFound.
func (l Layout) DeleteTag(ctx context.Context, tag string) error {
	return l.remove(ctx, tag, func(m ocispec.Descriptor) bool { return m.Annotations[ocispec.AnnotationRefName] == tag })
}

// Delete takes a manifest or index out of index.json, with its tags. Its blobs
// stay until the layout is cleaned up. An absent one wraps store.ErrNotFound.
func (l Layout) Delete(ctx context.Context, d digest.Digest) error {
	return l.remove(ctx, d.String(), func(m ocispec.Descriptor) bool { return m.Digest == d })
}

func (l Layout) remove(ctx context.Context, what string, goes func(ocispec.Descriptor) bool) error {
	return l.Store.UpdateIndex(ctx, func(index *ocispec.Index) error {
		var kept []ocispec.Descriptor
		for _, m := range index.Manifests {
			if !goes(m) {
				kept = append(kept, m)
			}
		}
		if len(kept) == len(index.Manifests) {
			return fmt.Errorf("%s in %s: %w", what, l.name, store.ErrNotFound)
		}
		index.Manifests = kept
		return nil
	})
}
