package assemble_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// memory is a source of one document under the tag x.
type memory struct {
	d    ocispec.Descriptor
	data []byte
}

func (m memory) Resolve(context.Context, string) (ocispec.Descriptor, error) { return m.d, nil }
func (m memory) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if d.Digest != m.d.Digest {
		return nil, fmt.Errorf("%s: %w", d.Digest, store.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(m.data)), nil
}
func (memory) Tags(context.Context) ([]string, error) { return nil, nil }
func (memory) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

// FuzzEdit edits whatever a registry may give as an index. What is written again
// without a change keeps its digest.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`), true)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}`), true)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3","size":1},"layers":[]}`), false)
	f.Fuzz(func(t *testing.T, data []byte, isIndex bool) {
		mediaType := ocispec.MediaTypeImageManifest
		if isIndex {
			mediaType = ocispec.MediaTypeImageIndex
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		item, err := assemble.NewReader().Read(t.Context(), assemble.Place{Source: memory{d, data}, Name: "fuzz"}, "x")
		if err != nil {
			return
		}
		draft, err := assemble.Edit(item)
		if err != nil {
			return
		}
		made, _, err := draft.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if image.IsIndex(mediaType) && made.Digest != d.Digest {
			t.Errorf("%s was written again as another index", data)
		}
		_, _ = draft.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig})
		_ = draft.Annotate("linux/arm64", assemble.Change{Annotations: map[string]string{"a": "b"}, Architecture: "amd64"})
		draft.Sort()
		_ = draft.Remove("linux/amd64")
		if _, _, err := draft.Encode(); err != nil {
			t.Fatal(err)
		}
	})
}
