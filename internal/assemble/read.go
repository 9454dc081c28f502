package assemble

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Bounds on what an index leads to.
const (
	maxNesting = 4
	maxEntries = 10_000
)

// parallel is how many manifests or blobs are under way at once.
const parallel = 6

// Reader reads items. A manifest or config that several items share is read once.
// Its methods may be called concurrently.
type Reader struct {
	mu    sync.Mutex // guards known
	known map[string][]byte
	slots chan struct{}
}

// NewReader prepares reading.
func NewReader() *Reader {
	return &Reader{known: map[string][]byte{}, slots: make(chan struct{}, parallel)}
}

// manifestReader is a source that reads by tag in one request.
type manifestReader interface {
	Manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error)
}

// Read reads what a tag or digest names at a place, and everything below it but
// layers. Nothing by that name wraps store.ErrNotFound; an entry of an index
// that can't be found is an item that is Missing. What is no image, index or
// artifact is a refusal with code PA421.
func (r *Reader) Read(ctx context.Context, p Place, tagOrDigest string) (*Item, error) {
	var (
		d    ocispec.Descriptor
		data []byte
		err  error
	)
	if m, ok := p.Source.(manifestReader); ok {
		d, data, err = m.Manifest(ctx, tagOrDigest)
	} else if d, err = p.Resolve(ctx, tagOrDigest); err == nil {
		data, err = r.fetch(ctx, p, d)
	}
	if err != nil {
		return nil, err
	}
	name := p.at(tagOrDigest)
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(data))}
	r.know(p, d.Digest, data)
	item := &Item{Descriptor: d, Place: p, Name: name}
	count := 0
	if err := r.fill(ctx, item, data, 1, &count); err != nil {
		return nil, err
	}
	if item.Missing != nil {
		return nil, item.Missing
	}
	return item, nil
}

// ReadDescriptor reads the entry d of an index.
func (r *Reader) ReadDescriptor(ctx context.Context, p Place, d ocispec.Descriptor) (*Item, error) {
	item := &Item{Descriptor: d, Place: p, Name: p.at(d.Digest.String())}
	count := 0
	return item, r.load(ctx, item, 1, &count)
}

// Kept makes an item of what was read earlier and kept: its manifest and, of an
// image, its config. d is its entry as its own index or config has it.
func Kept(p Place, d ocispec.Descriptor, manifest, config []byte) (*Item, error) {
	item := &Item{Kind: kindOf(d), Descriptor: d, Place: p, Name: p.at(d.Digest.String()), Data: manifest, Config: config}
	if err := json.Unmarshal(manifest, &item.Manifest); err != nil {
		return nil, notAnImage(item.Name, err.Error())
	}
	if config == nil {
		return item, nil
	}
	if err := json.Unmarshal(config, &item.Image); err != nil {
		return nil, notAnImage(item.Name, "its config isn't one: "+err.Error())
	}
	item.Descriptor.Platform = item.ConfigPlatform()
	return item, nil
}

func (r *Reader) key(p Place, d digest.Digest) string { return p.Name + "@" + d.String() }

func (r *Reader) know(p Place, d digest.Digest, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[r.key(p, d)] = data
}

// fetch reads a manifest or config.
func (r *Reader) fetch(ctx context.Context, p Place, d ocispec.Descriptor) ([]byte, error) {
	r.mu.Lock()
	data, ok := r.known[r.key(p, d.Digest)]
	r.mu.Unlock()
	if ok {
		return data, nil
	}
	if d.Size > store.MaxManifestSize {
		return nil, notAnImage(p.at(d.Digest.String()), fmt.Sprintf("%d bytes are more than the %d that are read", d.Size, store.MaxManifestSize))
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f, err := p.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, store.MaxManifestSize+1))
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest || d.Size > 0 && int64(len(data)) != d.Size {
		return nil, &refusal.Error{Code: "PA408", Place: p.at(d.Digest.String()), Summary: "content differs from its digest or size", Seen: []string{fmt.Sprintf("%d bytes with the digest %s", len(data), got)}}
	}
	r.know(p, d.Digest, data)
	return data, nil
}

// load reads an entry of an index.
func (r *Reader) load(ctx context.Context, item *Item, level int, count *int) error {
	d := item.Descriptor
	if err := d.Digest.Validate(); err != nil {
		return notAnImage(item.Name, fmt.Sprintf("%.100q is no digest: %v", string(d.Digest), err))
	}
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		item.Kind = KindArtifact // a blob, or something of the future
		return nil
	}
	data, err := r.fetch(ctx, item.Place, d)
	if errors.Is(err, store.ErrNotFound) {
		item.Kind, item.Missing = kindOf(d), missing(item, err)
		return nil
	}
	if err != nil {
		return err
	}
	return r.fill(ctx, item, data, level, count)
}

func missing(item *Item, err error) error {
	return &refusal.Error{
		Code: "PA206", Kind: refusal.Findings, Place: item.Name, Summary: "a manifest or config that the index names is gone", Err: err,
		Seen: []string{"a clean-up that doesn't know indexes has removed it, or it was never pushed"},
		Fix:  []string{"anyarch index remove REFERENCE " + item.Descriptor.Digest.String()},
	}
}

// kindOf tells by its entry alone what an item is.
func kindOf(d ocispec.Descriptor) Kind {
	switch {
	case d.Annotations[AnnotationReferenceType] != "" || platform.FromOCI(d.Platform).IsAttestation():
		return KindAttestation
	case image.IsIndex(d.MediaType):
		return KindIndex
	case d.ArtifactType != "" && d.Platform == nil:
		return KindArtifact
	}
	return KindImage
}

// head has the fields that tell kinds of documents apart.
type head struct {
	MediaType string          `json:"mediaType"`
	Config    json.RawMessage `json:"config"`
	Layers    json.RawMessage `json:"layers"`
	Manifests json.RawMessage `json:"manifests"`
	FSLayers  json.RawMessage `json:"fsLayers"`
}

func (h head) check(d ocispec.Descriptor, name string) error {
	switch {
	case h.FSLayers != nil || d.MediaType == "application/vnd.docker.distribution.manifest.v1+json" || d.MediaType == "application/vnd.docker.distribution.manifest.v1+prettyjws":
		return notAnImage(name, "it is of the first Docker schema, which names no platform and has other digests than any copy of it", "build the image again, or convert it with `skopeo copy --format v2s2`")
	case !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType):
		return notAnImage(name, fmt.Sprintf("its media type is %.100q", d.MediaType))
	case h.MediaType != "" && h.MediaType != d.MediaType,
		image.IsIndex(d.MediaType) && (h.Config != nil || h.Layers != nil || h.Manifests == nil),
		image.IsManifest(d.MediaType) && (h.Manifests != nil || h.Config == nil):
		// A manifest to one program and an index to another: CVE-2021-41190.
		return notAnImage(name, fmt.Sprintf("it is served as %.100s and its content is something else", d.MediaType))
	}
	return nil
}

// fill reads what a manifest or index names.
func (r *Reader) fill(ctx context.Context, item *Item, data []byte, level int, count *int) error {
	item.Data = data
	var h head
	if err := json.Unmarshal(data, &h); err != nil {
		return notAnImage(item.Name, "it isn't JSON: "+err.Error())
	}
	if err := h.check(item.Descriptor, item.Name); err != nil {
		return err
	}
	if image.IsIndex(item.Descriptor.MediaType) {
		return r.fillIndex(ctx, item, level, count)
	}
	if err := json.Unmarshal(data, &item.Manifest); err != nil {
		return notAnImage(item.Name, err.Error())
	}
	item.Kind = kindOf(item.Descriptor)
	switch {
	case item.Kind == KindAttestation:
		return nil
	case !isImageConfig(item.Manifest.Config.MediaType):
		item.Kind = KindArtifact
		if item.Descriptor.ArtifactType == "" {
			item.Descriptor.ArtifactType = item.Manifest.ArtifactType
			if item.Descriptor.ArtifactType == "" {
				item.Descriptor.ArtifactType = item.Manifest.Config.MediaType
			}
		}
		return nil
	}
	item.Kind = KindImage
	config, err := r.fetch(ctx, item.Place, item.Manifest.Config)
	if errors.Is(err, store.ErrNotFound) {
		item.Missing = missing(item, err)
		return nil
	}
	if err != nil {
		return err
	}
	item.Config = config
	if err := json.Unmarshal(config, &item.Image); err != nil {
		return notAnImage(item.Name, "its config isn't one: "+err.Error())
	}
	if item.Descriptor.Platform == nil {
		item.Descriptor.Platform = item.ConfigPlatform()
	}
	return nil
}

func (r *Reader) fillIndex(ctx context.Context, item *Item, level int, count *int) error {
	item.Kind = KindIndex
	if level > maxNesting {
		return &refusal.Error{Code: "PA218", Kind: refusal.Findings, Place: item.Name, Summary: "an index is nested too deeply"}
	}
	if err := json.Unmarshal(item.Data, &item.Index); err != nil {
		return notAnImage(item.Name, err.Error())
	}
	if *count += len(item.Index.Manifests); *count > maxEntries {
		return &refusal.Error{Code: "PA218", Kind: refusal.Findings, Place: item.Name, Summary: fmt.Sprintf("more than %d entries", maxEntries)}
	}
	g, gctx := errgroup.WithContext(ctx)
	item.Children = make([]*Item, len(item.Index.Manifests))
	var nested []*Item
	for i, d := range item.Index.Manifests {
		child := &Item{Descriptor: d, Place: item.Place, Name: item.Place.at(d.Digest.String())}
		item.Children[i] = child
		if image.IsIndex(d.MediaType) {
			nested = append(nested, child) // one after the other: they share the count
			continue
		}
		g.Go(func() error { return r.load(gctx, child, level+1, nil) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, child := range nested {
		if err := r.load(ctx, child, level+1, count); err != nil {
			return err
		}
	}
	return nil
}

// unknownFields names the first field of an index that this program has no room
// for, so that writing the index again would lose it; empty if there is none.
func unknownFields(data []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var index ocispec.Index
	if err := decoder.Decode(&index); err != nil {
		return err.Error()
	}
	if index.SchemaVersion != 2 {
		return fmt.Sprintf("its schemaVersion is %d, and that of an index is 2", index.SchemaVersion)
	}
	return ""
}
