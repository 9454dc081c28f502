package registry

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifest reads what a tag or digest names in one request: its descriptor and
// its bytes, which have been checked against the digest if one was given. Unlike
// [Repository.Resolve] it counts as a pull on registries that count. An absent
// one wraps store.ErrNotFound.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error) {
	if err := checkIdentifier(r.name, tagOrDigest); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	type answer struct {
		d    ocispec.Descriptor
		data []byte
	}
	got, err := each(ctx, r.sources(tagOrDigest), func(e reader) (answer, error) {
		data, mt, err := e.manifest(ctx, tagOrDigest, acceptManifests)
		if err != nil {
			return answer{}, err
		}
		d := ocispec.Descriptor{MediaType: mt, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if want, err := digest.Parse(tagOrDigest); err == nil {
			if got := want.Algorithm().FromBytes(data); got != want {
				return answer{}, integrity(e.name, want, "its bytes have the digest "+got.String())
			}
			d.Digest = want
		}
		return answer{d, data}, nil
	})
	return got.d, got.data, err
}

// PutManifest is [Repository.PushManifest] that also tells whether the registry
// has said, in its answer, under which digest it has stored the manifest: then
// it needn't be asked again.
func (r *Repository) PutManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) (confirmed bool, err error) {
	resp, err := r.push.putManifest(ctx, tagOrDigest, d, data)
	return err == nil && resp.Header.Get("Docker-Content-Digest") == d.Digest.String(), err
}
