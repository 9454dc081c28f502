package base

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// What an index may be, so that a hostile one ends.
const (
	maxDepth    = 4    // indexes in indexes, the root counted
	maxIndexes  = 64   // indexes in all
	maxChildren = 4096 // manifests in all
)

// unusable is why a base can't be built on; it becomes a refusal with PA109.
type unusable struct{ why string }

func (u unusable) Error() string { return u.why }

// contradiction is a config that isn't for the platform its index says; it
// becomes a refusal with PA203.
type contradiction struct {
	index, config platform.Platform
	digest        digest.Digest
}

func (c contradiction) Error() string {
	return fmt.Sprintf("the index says %s, the config of %s says %s", c.index, c.digest, c.config)
}

// load resolves a name to its digest and reads its index, if it is one.
func (r *Resolver) load(ctx context.Context, name string) (*content, error) {
	src, repository, identifier, err := r.open(ctx, name)
	if err != nil {
		return nil, err
	}
	c := &content{resolver: r, src: src, repository: repository}
	data, err := c.rootBytes(ctx, identifier)
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(data)
	if err != nil {
		return nil, err
	}
	c.root.MediaType, c.root.Size = kind, int64(len(data))
	c.indexed = image.IsIndex(kind)
	w := walk{content: c}
	if c.indexed {
		err = w.index(ctx, data, []digest.Digest{c.root.Digest})
	} else {
		err = w.add(ctx, c.root)
	}
	if err != nil {
		return nil, err
	}
	c.children = w.children
	if len(c.children) == 0 {
		return nil, unusable{"its index has no image for any platform"}
	}
	return c, nil
}

// rootBytes finds what the identifier names and reads it. Nothing is asked if
// that is a digest and its bytes are here.
func (c *content) rootBytes(ctx context.Context, identifier string) ([]byte, error) {
	if d, err := digest.Parse(identifier); err == nil {
		if data, err := c.resolver.cached(d); err == nil {
			c.root.Digest = d
			return data, nil
		}
	}
	d, err := c.src.Resolve(ctx, identifier)
	if err != nil {
		return nil, err
	}
	c.root = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	return c.read(ctx, c.root)
}

// cached reads a manifest or config that the store has. A damaged one is
// dropped, so that it is had again.
func (r *Resolver) cached(d digest.Digest) ([]byte, error) {
	data, err := r.store.ReadBlob(d)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		_ = r.store.Delete(d) // if it can't be removed, reading it again fails again
	}
	return data, err
}

// read reads a manifest, index or config, from the store or else the source,
// and keeps it.
func (c *content) read(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, unusable{fmt.Sprintf("it names %q, which isn't a digest", d.Digest)}
	}
	if d.Size > store.MaxManifestSize {
		return nil, unusable{fmt.Sprintf("%s has %d bytes, which is more than the %d of a manifest or config", d.Digest, d.Size, store.MaxManifestSize)}
	}
	if data, err := c.resolver.cached(d.Digest); err == nil {
		return data, nil
	}
	if d.Size <= 0 {
		d.Size = 0 // not known; the digest is checked all the same
	}
	if err := c.resolver.copy(ctx, c.src, d, nil); err != nil {
		return nil, err
	}
	return c.resolver.store.ReadBlob(d.Digest)
}

// parse decodes a manifest, index or config.
func parse(data []byte, what string, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return unusable{fmt.Sprintf("its %s isn't readable: %v", what, err)}
	}
	return nil
}

// kindOf says whether data is an index or a manifest, as one of their media
// types. Old ones have no media type of their own; one that could be read as
// either is refused (CVE-2021-41190).
func kindOf(data []byte) (string, error) {
	var head struct {
		MediaType     string          `json:"mediaType"`
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := parse(data, "manifest", &head); err != nil {
		return "", err
	}
	asIndex, asManifest := head.Manifests != nil, head.Config != nil || head.Layers != nil
	switch {
	case asIndex && asManifest:
		return "", unusable{"it is an index and a manifest at once"}
	case head.SchemaVersion == 1:
		return "", unusable{"it is a manifest of schema 1, which registries gave up in 2019"}
	case head.MediaType == "" && asIndex:
		return ocispec.MediaTypeImageIndex, nil
	case head.MediaType == "" && asManifest:
		return ocispec.MediaTypeImageManifest, nil
	case image.IsIndex(head.MediaType) && !asManifest, image.IsManifest(head.MediaType) && !asIndex:
		return head.MediaType, nil
	}
	return "", unusable{fmt.Sprintf("it has the media type %q", head.MediaType)}
}

// walk collects the images below an index.
type walk struct {
	*content
	indexes  int
	children []child
}

// index goes through an index; path are the digests from the root to it.
func (w *walk) index(ctx context.Context, data []byte, path []digest.Digest) error {
	if w.indexes++; w.indexes > maxIndexes {
		return unusable{fmt.Sprintf("it has more than %d indexes", maxIndexes)}
	}
	var index ocispec.Index
	if err := parse(data, "index", &index); err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if !image.IsIndex(d.MediaType) {
			if err := w.add(ctx, d); err != nil {
				return err
			}
			continue
		}
		if slices.Contains(path, d.Digest) {
			return unusable{fmt.Sprintf("its index %s has itself in it", d.Digest)}
		}
		if len(path) == maxDepth {
			return unusable{fmt.Sprintf("its indexes lie more than %d deep", maxDepth)}
		}
		nested, err := w.read(ctx, d)
		if err != nil {
			return fmt.Errorf("index %s: %w", d.Digest, err)
		}
		if kind, err := kindOf(nested); err != nil || !image.IsIndex(kind) {
			return unusable{fmt.Sprintf("%s isn't the index that it is said to be", d.Digest)}
		}
		if err := w.index(ctx, nested, append(slices.Clone(path), d.Digest)); err != nil {
			return err
		}
	}
	return nil
}

// add takes one manifest, unless it is something else than an image. One whose
// platform isn't said has it in its config.
func (w *walk) add(ctx context.Context, d ocispec.Descriptor) error {
	p := platform.FromOCI(d.Platform)
	if !image.IsManifest(d.MediaType) || p.IsAttestation() ||
		d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" ||
		d.ArtifactType != "" && !isConfig(d.ArtifactType) {
		return nil
	}
	if len(w.children) == maxChildren {
		return unusable{fmt.Sprintf("it has more than %d manifests", maxChildren)}
	}
	c := child{descriptor: d, platform: p}
	if p.IsZero() {
		img, err := w.load(ctx, c)
		if _, other := errors.AsType[unusable](err); other && w.indexed {
			return nil // a signature, an SBOM: indexes hold all sorts of things
		}
		if err != nil {
			return err
		}
		c.platform = img.Platform
	}
	w.children = append(w.children, c)
	return nil
}

// isConfig reports whether a media type is that of an image's config.
func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == image.DockerConfig
}

// isLayer reports whether a media type is that of files, of whatever
// compression.
func isLayer(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
}

// load reads manifest and config of one platform and holds them against each
// other and against what the index says.
func (c *content) load(ctx context.Context, ch child) (Image, error) {
	data, err := c.read(ctx, ch.descriptor)
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", ch.descriptor.Digest, err)
	}
	manifest, err := parseManifest(ch.descriptor.Digest, data)
	if err != nil {
		return Image{}, err
	}
	ch.descriptor.Size = int64(len(data))
	if data, err = c.read(ctx, manifest.Config); err != nil {
		return Image{}, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	return c.combine(ch, manifest, data)
}

// parseManifest reads the manifest of an image.
func parseManifest(d digest.Digest, data []byte) (ocispec.Manifest, error) {
	var manifest ocispec.Manifest
	if kind, err := kindOf(data); err != nil || !image.IsManifest(kind) {
		return manifest, unusable{fmt.Sprintf("%s isn't the manifest that it is said to be", d)}
	}
	if err := parse(data, "manifest", &manifest); err != nil {
		return manifest, err
	}
	if !isConfig(manifest.Config.MediaType) {
		return manifest, unusable{fmt.Sprintf("its config has the media type %q", manifest.Config.MediaType)}
	}
	return manifest, nil
}

// combine makes an image of a manifest and the bytes of its config.
func (c *content) combine(ch child, manifest ocispec.Manifest, data []byte) (Image, error) {
	var config ocispec.Image
	if err := parse(data, "config", &config); err != nil {
		return Image{}, err
	}
	p, err := agree(ch, config.Platform)
	if err != nil {
		return Image{}, err
	}
	layers, err := c.layers(manifest, config)
	if err != nil {
		return Image{}, err
	}
	img := Image{Platform: p, Config: config, RawConfig: data, Layers: layers, Manifest: ch.descriptor}
	oci := p.OCI()
	oci.OSFeatures = config.OSFeatures
	img.Manifest.Platform = &oci
	if c.repository != "" {
		img.Ref = c.repository + "@" + ch.descriptor.Digest.String()
	}
	return img, nil
}

// agree gives the platform that index and config say together. Configs made by
// old tools have no variant and no OS version, some none at all; what the index
// says holds then. What both say must be the same.
func agree(ch child, config ocispec.Platform) (platform.Platform, error) {
	said := platform.FromOCI(&config)
	switch {
	case said.IsZero() && ch.platform.IsZero():
		return platform.Platform{}, unusable{"neither its config nor an index says for which platform it is"}
	case said.IsZero():
		return ch.platform, nil
	case ch.platform.IsZero():
		return said, nil
	}
	if config.Variant == "" {
		said.Variant = ch.platform.Variant
	}
	if config.OSVersion == "" {
		said.OSVersion = ch.platform.OSVersion
	}
	indexed := ch.platform
	if indexed.OSVersion == "" {
		indexed.OSVersion = said.OSVersion
	}
	// An index that says just arm means v7, where an image for v6 runs as well.
	// One that says just amd64 doesn't mean v3.
	unsaid := ch.descriptor.Platform != nil && ch.descriptor.Platform.Variant == ""
	if indexed != said && !(unsaid && indexed.Runs(said)) {
		return platform.Platform{}, contradiction{indexed, said, ch.descriptor.Digest}
	}
	return said, nil
}

// layers pairs the layers of a manifest with diff IDs and history of its config
// (image-spec v1.1.1, config.md). Descriptors stay as they are, whatever their
// compression; those of foreign layers keep their URLs.
func (c *content) layers(manifest ocispec.Manifest, config ocispec.Image) ([]image.Layer, error) {
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, unusable{fmt.Sprintf("its manifest has %d layers, its config %d", len(manifest.Layers), len(config.RootFS.DiffIDs))}
	}
	history := slices.DeleteFunc(slices.Clone(config.History), func(h ocispec.History) bool { return h.EmptyLayer })
	layers := make([]image.Layer, len(manifest.Layers))
	for i, d := range manifest.Layers {
		diffID := config.RootFS.DiffIDs[i]
		switch {
		case d.Digest.Validate() != nil || diffID.Validate() != nil:
			return nil, unusable{fmt.Sprintf("layer %d has the digest %q and the diff ID %q", i+1, d.Digest, diffID)}
		case d.Size < 0:
			return nil, unusable{fmt.Sprintf("layer %d has %d bytes", i+1, d.Size)}
		case !isLayer(d.MediaType):
			return nil, unusable{fmt.Sprintf("layer %d has the media type %q", i+1, d.MediaType)}
		}
		layers[i] = image.Layer{Descriptor: d, DiffID: diffID, From: c.repository}
		if i < len(history) {
			layers[i].History = history[i]
		}
	}
	return layers, nil
}
