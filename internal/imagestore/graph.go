package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// Manifest is one manifest below an image, with what it says.
type Manifest struct {
	Descriptor ocispec.Descriptor // as the index has it, with its platform; of an image that has no index, with that of the config
	ocispec.Manifest
}

// Runnable reports whether the manifest is an image rather than an attestation or
// another artifact.
func (m Manifest) Runnable() bool { return Runnable(m.Descriptor) }

// Runnable reports whether an entry of an index is an image for a platform. Those of
// unknown/unknown are attestations by BuildKit's convention.
func Runnable(d ocispec.Descriptor) bool {
	return d.Platform != nil && d.Platform.OS != "" && d.Platform.OS != "unknown" && d.Platform.Architecture != "unknown"
}

// maxDepth is how deep indexes may be nested.
const maxDepth = 4

// walk calls visit with every blob below d, whatever is named before what names it:
// layers, configs, manifests, indexes. What src lacks is passed to missing.
func walk(ctx context.Context, src image.Source, d ocispec.Descriptor, depth int, visit func(ocispec.Descriptor) error, missing func(ocispec.Descriptor) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		if len(d.URLs) > 0 {
			return nil // not distributable
		}
		return visit(d)
	}
	var document struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if _, err := image.FetchJSON(ctx, src, d, &document); err != nil {
		if errors.Is(err, store.ErrNotFound) && missing != nil {
			return missing(d)
		}
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: indexes are nested more than %d deep", d.Digest, maxDepth)
	}
	below := append(document.Manifests, document.Layers...)
	if document.Config != nil {
		below = append(below, *document.Config)
	}
	for _, b := range below {
		if err := walk(ctx, src, b, depth+1, visit, missing); err != nil {
			return err
		}
	}
	return visit(d)
}

// Manifests gives the manifests of an image, in the order of its index. Of an index
// whose children aren't all here those are left out whose manifest is missing.
func (s *Store) Manifests(ctx context.Context, img Image) ([]Manifest, error) {
	var list []Manifest
	src := s.Source(img)
	var collect func(d ocispec.Descriptor, depth int) error
	collect = func(d ocispec.Descriptor, depth int) error {
		if image.IsIndex(d.MediaType) {
			var index ocispec.Index
			if _, err := image.FetchJSON(ctx, src, d, &index); err != nil {
				return err
			}
			if depth > maxDepth {
				return fmt.Errorf("%s: indexes are nested more than %d deep", d.Digest, maxDepth)
			}
			for _, child := range index.Manifests {
				if err := collect(child, depth+1); err != nil && !errors.Is(err, store.ErrNotFound) {
					return err
				}
			}
			return nil
		}
		m := Manifest{Descriptor: d}
		if _, err := image.FetchJSON(ctx, src, d, &m.Manifest); err != nil {
			return err
		}
		if m.Descriptor.Platform == nil && (m.Config.MediaType == ocispec.MediaTypeImageConfig || m.Config.MediaType == image.DockerConfig) {
			var config ocispec.Image
			if _, err := image.FetchJSON(ctx, src, m.Config, &config); err == nil {
				p := platform.FromOCI(&config.Platform).OCI()
				m.Descriptor.Platform = &p
			}
		}
		list = append(list, m)
		return nil
	}
	return list, collect(img.Descriptor, 0)
}

// Add takes an image into the store, every blob of it that isn't here already, and
// gives it names. A blob that src, a layout of the cache, has is linked. If from names
// a repository that has everything, layers that src doesn't have are left there.
//
// It gives the platforms whose manifest src doesn't have. An image of from that lacks
// some is added under no name.
func (s *Store) Add(ctx context.Context, names []string, src image.Source, d ocispec.Descriptor, from string) (absent []string, err error) {
	unlock, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	layout, isLayout := src.(image.Layout)
	err = walk(ctx, src, d, 0, func(d ocispec.Descriptor) error {
		if s.blobs.Has(d.Digest) {
			return nil
		}
		if isLayout {
			if err := s.blobs.Link(d.Digest, layout.Store); err == nil || from == "" || !errors.Is(err, store.ErrNotFound) {
				return err
			}
			return nil
		}
		r, err := src.Fetch(ctx, d)
		if err != nil {
			return err
		}
		defer r.Close()
		return s.blobs.Copy(d, r)
	}, func(d ocispec.Descriptor) error {
		name := d.Digest.String()
		if d.Platform != nil {
			name = platform.FromOCI(d.Platform).String()
		}
		absent = append(absent, name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(absent) > 0 && from != "" {
		return absent, nil
	}
	return absent, s.put(ctx, names, d, from)
}

// useLock is held, shared, by whoever adds an image, and alone by whoever removes
// blobs.
func (s *Store) useLock() *flock.Flock { return flock.New(filepath.Join(s.blobs.Dir(), ".use")) }

func (s *Store) use(ctx context.Context) (unlock func(), err error) {
	lock := s.useLock()
	held, err := lock.TryRLock()
	if err == nil && !held {
		_, err = lock.TryRLockContext(ctx, 5*time.Millisecond)
	}
	if err != nil {
		return nil, store.DiskError(s.blobs.Dir(), "lock", err)
	}
	return func() { _ = lock.Close() }, nil
}

// sweep removes blobs that no image needs. While somebody adds an image it does
// nothing: the next one will.
func (s *Store) sweep(ctx context.Context) error {
	lock := s.useLock()
	held, err := lock.TryLock()
	if err != nil || !held {
		return nil //nolint:nilerr // garbage is no failure
	}
	defer lock.Close()
	index, err := s.blobs.Index()
	if err != nil {
		return err
	}
	keep := map[digest.Digest]bool{}
	for _, m := range index.Manifests {
		s.reach(m.Digest, keep)
	}
	dirs, err := os.ReadDir(filepath.Join(s.blobs.Dir(), ocispec.ImageBlobsDir))
	if err != nil {
		return store.DiskError(s.blobs.Dir(), "read", err)
	}
	for _, dir := range dirs {
		files, err := os.ReadDir(filepath.Join(s.blobs.Dir(), ocispec.ImageBlobsDir, dir.Name()))
		if err != nil {
			continue
		}
		for _, f := range files {
			d := digest.NewDigestFromEncoded(digest.Algorithm(dir.Name()), f.Name())
			if d.Validate() != nil || keep[d] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := s.blobs.Delete(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// reach marks what a manifest or index names, as far as it is here.
func (s *Store) reach(d digest.Digest, keep map[digest.Digest]bool) {
	if keep[d] {
		return
	}
	keep[d] = true
	size, err := s.blobs.Size(d)
	if err != nil || size > store.MaxManifestSize {
		return
	}
	data, err := s.blobs.ReadBlob(d)
	if err != nil {
		return
	}
	var document struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if json.Unmarshal(data, &document) != nil {
		return
	}
	for _, m := range document.Manifests {
		s.reach(m.Digest, keep)
	}
	for _, l := range document.Layers {
		keep[l.Digest] = true
	}
	if document.Config != nil {
		keep[document.Config.Digest] = true
	}
}
