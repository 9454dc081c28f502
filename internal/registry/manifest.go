package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
)

// settle is how long a registry may take to see blobs that it has just taken.
const settle = 5 * time.Second

// Head finds what a tag or digest names in the repository itself, whatever
// mirrors say. An absent one wraps store.ErrNotFound.
func (r *Repository) Head(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	if err := checkIdentifier(r.name, tagOrDigest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return reader{endpoint: r.push, scope: r.push.pushScope}.resolve(ctx, tagOrDigest)
}

// PushManifest uploads a manifest or index under a tag or its digest. Everything
// that it names should be there.
func (r *Repository) PushManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) error {
	_, err := r.push.putManifest(ctx, tagOrDigest, d, data)
	return err
}

// PushReferrer uploads a manifest that has a subject, by its digest. listed says
// that the registry lists it among the subject's referrers from now on; if not,
// the index under [ReferrersTag] has to be updated (distribution-spec v1.1.1,
// "Pushing Manifests with Subject").
func (r *Repository) PushReferrer(ctx context.Context, d ocispec.Descriptor, data []byte) (listed bool, err error) {
	resp, err := r.push.putManifest(ctx, d.Digest.String(), d, data)
	return err == nil && resp.Header.Get("OCI-Subject") != "", err
}

func (e *endpoint) putManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) (*http.Response, error) {
	if err := checkIdentifier(e.name, tagOrDigest); err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm(); !got.Available() || got.FromBytes(data) != d.Digest {
		return nil, integrity(e.name, d.Digest, "the bytes to be pushed have another digest")
	}
	q := &request{
		step: "push manifest " + e.place(tagOrDigest), method: http.MethodPut,
		path: e.path + "/manifests/" + tagOrDigest, scopes: e.pushScope,
		header: http.Header{"Content-Type": {d.MediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		length: int64(len(data)),
	}
	patience := retry{host: e.host, step: q.step}
	var waited time.Duration
	for {
		resp, err := e.host.attempt(ctx, q)
		if err != nil {
			// Putting the same bytes twice is putting them once.
			if err := patience.again(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		if resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent {
			discard(resp)
			if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.Digest.String() && digest.Digest(got).Validate() == nil && digest.Digest(got).Algorithm() == d.Digest.Algorithm() {
				return nil, integrity(e.name, d.Digest, "the registry has stored it as "+got)
			}
			return resp, nil
		}
		f := e.host.failed(resp)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if unsettled(f.code) && waited < settle {
			pause := min(time.Second, firstBackoff+waited)
			waited += pause
			if err := e.host.client.clock.sleep(ctx, pause); err != nil {
				return nil, err
			}
			continue
		}
		return nil, e.manifestRefused(f, q, tagOrDigest, d)
	}
}

// unsettled reports whether a registry misses what it may only not see yet.
func unsettled(code string) bool {
	return code == "MANIFEST_BLOB_UNKNOWN" || code == "BLOB_UNKNOWN"
}

func (e *endpoint) manifestRefused(f *failure, q *request, tagOrDigest string, d ocispec.Descriptor) error {
	err := e.host.denied(f, q.step, q.scopes, e.place(tagOrDigest))
	refused, ok := err.(*refusal.Error)
	if ok && (f.status == http.StatusUnsupportedMediaType || f.code == "MANIFEST_INVALID" || f.code == "UNSUPPORTED") && bytes.Contains([]byte(d.MediaType), []byte(".oci.")) {
		refused.Seen = append(refused.Seen, "it was given "+d.MediaType+", which old registries don't know")
		refused.Fix = []string{"--media-types docker"}
	}
	return err
}

// Delete removes a manifest or index, with all tags that name it. An absent one
// wraps store.ErrNotFound.
func (r *Repository) Delete(ctx context.Context, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("delete %s@%s: %w", r.name, d, err)
	}
	return r.push.remove(ctx, d.String())
}

// DeleteTag removes a tag and leaves what it named, on registries that can do
// so; others refuse. An absent one wraps store.ErrNotFound.
func (r *Repository) DeleteTag(ctx context.Context, tag string) error {
	if !tagPattern.MatchString(tag) {
		return checkIdentifier(r.name, ":"+tag)
	}
	return r.push.remove(ctx, tag)
}

func (e *endpoint) remove(ctx context.Context, tagOrDigest string) error {
	q := &request{
		step: "delete " + e.place(tagOrDigest), method: http.MethodDelete,
		path: e.path + "/manifests/" + tagOrDigest, scopes: "repository:" + e.path + ":delete,pull,push",
	}
	resp, err := e.host.do(ctx, q)
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return e.host.answer(ctx, resp, q, e.place(tagOrDigest))
	}
	discard(resp)
	return nil
}
