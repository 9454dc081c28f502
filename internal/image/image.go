// Package image is the OCI data model as this program uses it: an image for one
// platform, the index over several, and the places that both can be read from.
//
// Descriptors, manifests, configs and indexes are the types of
// github.com/opencontainers/image-spec; this package writes and reads them.
package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// Docker's media types (distribution, "Image Manifest Version 2, Schema 2").
const (
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// foreignLayer is deprecated, but old Windows bases have it.
const foreignLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

// IsIndex reports whether a media type is an OCI index or a Docker manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerManifestList
}

// IsManifest reports whether a media type is an OCI or Docker image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}

// MediaTypes is the family of media types that an image is written in.
type MediaTypes string

// The families of media types.
const (
	OCI    MediaTypes = "oci"
	Docker MediaTypes = "docker"
)

// Layer is one layer of an image: its compressed blob and what it holds.
type Layer struct {
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest   // digest of the uncompressed tar
	History    ocispec.History // its entry in the config's history
	// From names the repository that has the blob, such as
	// registry.example/base/static, if the layer came from one. A registry may
	// then mount it instead of receiving it again.
	From string
}

// Image is an image for one platform, complete: every blob that it names is in
// a store, or can be had from where its layer came From.
type Image struct {
	Platform platform.Platform
	Manifest ocispec.Descriptor // with Platform set
	Config   ocispec.Descriptor
	Layers   []Layer
}

// Recipe is what [Assemble] makes an image of.
type Recipe struct {
	Platform platform.Platform
	Config   ocispec.Image // rootfs, history and platform are filled in
	// RawConfig, if not nil, is the config as JSON instead, with fields that
	// ocispec.Image has no room for. Of Config only Created counts then.
	RawConfig []byte
	// History, if not nil, replaces that of the layers.
	History     []ocispec.History
	Layers      []Layer // base first
	Annotations map[string]string
	MediaTypes  MediaTypes // empty means OCI
}

// Assemble writes config and manifest of a recipe to st (image-spec v1.1.1,
// config.md and manifest.md). The same recipe gives the same bytes.
func Assemble(st *store.Store, r Recipe) (Image, error) {
	config := r.Config
	config.Platform = r.Platform.OCI()
	config.Platform.OSFeatures = r.Config.OSFeatures
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	config.History = nil
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Layers:      []ocispec.Descriptor{},
		Annotations: r.Annotations,
	}
	configType := ocispec.MediaTypeImageConfig
	if r.MediaTypes == Docker {
		manifest.MediaType, configType = DockerManifest, DockerConfig
		manifest.Annotations = nil // schema 2 has none
	}
	layers := make([]Layer, len(r.Layers))
	for i, layer := range r.Layers {
		d, err := convert(layer.Descriptor, r.MediaTypes)
		if err != nil {
			return Image{}, err
		}
		layer.Descriptor = d
		layers[i] = layer
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.DiffID)
		if !layer.History.EmptyLayer {
			config.History = append(config.History, layer.History)
		}
	}
	if r.History != nil {
		config.History = r.History
	}
	var document any = config
	if r.RawConfig != nil {
		raw, err := complete(r.RawConfig, config)
		if err != nil {
			return Image{}, err
		}
		document = raw
	}
	configDescriptor, err := writeJSON(st, configType, document)
	if err != nil {
		return Image{}, err
	}
	manifest.Config = configDescriptor
	descriptor, err := writeJSON(st, manifest.MediaType, manifest)
	if err != nil {
		return Image{}, err
	}
	p := r.Platform.OCI()
	p.OSFeatures = r.Config.OSFeatures
	descriptor.Platform = &p
	return Image{Platform: r.Platform, Manifest: descriptor, Config: configDescriptor, Layers: layers}, nil
}

// complete fills platform, rootfs and history into a config that was given as
// JSON, and leaves every other field as it is.
func complete(raw []byte, config ocispec.Image) (map[string]json.RawMessage, error) {
	document := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	own, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(own, &fields); err != nil {
		return nil, err
	}
	for _, name := range []string{"created", "architecture", "os", "os.version", "os.features", "variant", "rootfs", "history"} {
		if value, ok := fields[name]; ok {
			document[name] = value
		} else {
			delete(document, name)
		}
	}
	return document, nil
}

// convert gives a layer the media type of the family, dropping what a manifest
// shouldn't inherit from a base's descriptor.
func convert(d ocispec.Descriptor, family MediaTypes) (ocispec.Descriptor, error) {
	result := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs}
	switch d.MediaType {
	case ocispec.MediaTypeImageLayerGzip, DockerLayer:
		result.MediaType = ocispec.MediaTypeImageLayerGzip
		if family == Docker {
			result.MediaType = DockerLayer
		}
	case foreignLayer, DockerForeignLayer:
		result.MediaType = foreignLayer
		if family == Docker {
			result.MediaType = DockerForeignLayer
		}
	default:
		if family == Docker {
			return result, fmt.Errorf("layer %s is %s, which Docker's media types don't have", d.Digest, d.MediaType)
		}
	}
	return result, nil
}

// WriteIndex writes the index over images, in their order, and gives its
// descriptor (image-spec v1.1.1, image-index.md).
func WriteIndex(st *store.Store, images []Image, annotations map[string]string, family MediaTypes) (ocispec.Descriptor, error) {
	index := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Manifests:   []ocispec.Descriptor{},
		Annotations: annotations,
	}
	if family == Docker {
		index.MediaType, index.Annotations = DockerManifestList, nil
	}
	for _, img := range images {
		index.Manifests = append(index.Manifests, img.Manifest)
	}
	return writeJSON(st, index.MediaType, index)
}

func writeJSON(st *store.Store, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := st.Write(data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, nil
}

// Source is where an image can be read: a repository of a registry, a layout or
// an archive. Its methods may be called concurrently.
type Source interface {
	// Resolve finds what a tag or a digest names. The media type and size of
	// the descriptor are set. An absent one wraps store.ErrNotFound.
	Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error)
	// Fetch opens a manifest, config or layer. The reader fails, at the latest
	// at its end, if the bytes don't have the descriptor's digest and size.
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// Tags lists the tags there are, in lexical order.
	Tags(ctx context.Context) ([]string, error)
	// Referrers lists the descriptors of manifests whose subject is d
	// (distribution-spec v1.1.1, "Listing Referrers"); none is no error.
	Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error)
}

// FetchJSON reads a manifest, index or config of at most
// [store.MaxManifestSize] bytes into v and returns its bytes.
func FetchJSON(ctx context.Context, src Source, d ocispec.Descriptor, v any) ([]byte, error) {
	if d.Size > store.MaxManifestSize {
		return nil, fmt.Errorf("%s %s: %d bytes are more than the %d that are read", d.MediaType, d.Digest, d.Size, store.MaxManifestSize)
	}
	r, err := src.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, store.MaxManifestSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > store.MaxManifestSize {
		return nil, fmt.Errorf("%s %s: more than %d bytes", d.MediaType, d.Digest, store.MaxManifestSize)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("%s %s: %w", d.MediaType, d.Digest, err)
	}
	return data, nil
}

// Verified wraps r so that its end is an error unless exactly d's bytes came.
// A size of zero or less isn't checked.
func Verified(r io.ReadCloser, d ocispec.Descriptor) io.ReadCloser {
	return &verifiedReader{ReadCloser: r, want: d, verifier: d.Digest.Verifier()}
}

type verifiedReader struct {
	io.ReadCloser
	want     ocispec.Descriptor
	verifier digest.Verifier
	n        int64
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.verifier.Write(p[:n])
	if r.want.Size > 0 && r.n > r.want.Size {
		return n, integrityError(r.want, fmt.Sprintf("more than %d bytes came", r.want.Size))
	}
	if err == io.EOF {
		if r.want.Size > 0 && r.n != r.want.Size {
			return n, integrityError(r.want, fmt.Sprintf("%d bytes came instead of %d", r.n, r.want.Size))
		}
		if !r.verifier.Verified() {
			return n, integrityError(r.want, "its bytes have another digest")
		}
	}
	return n, err
}
