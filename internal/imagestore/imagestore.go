// Package imagestore keeps the images of this machine by name, as docker tag and
// docker images know them: a name is a full reference, docker.io/library/app:1.0,
// and stands in the index.json of an OCI layout beside the cache's blobs. Blobs that
// the cache has too are the same file, so that an image takes no room of its own and
// still stays when the cache is pruned.
//
// Names change only together and only by one rename of index.json, so that a
// command which is killed leaves all of the old names or all of the new ones. An
// image that has lost its last name stays, as docker keeps it, until it is removed.
package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// annotationFrom names a repository that has every blob of an image, so that what
// isn't on this machine can be had from there.
const annotationFrom = "anyarch.from"

// Store is the images of one machine. Its methods may be called concurrently, by
// any number of processes.
type Store struct {
	blobs *store.Store
	fetch Fetcher
}

// Fetcher opens a blob in a repository, such as docker.io/library/alpine.
type Fetcher func(ctx context.Context, repository string, d ocispec.Descriptor) (io.ReadCloser, error)

// Open keeps images in dir, making it if it isn't there. fetch gets what isn't here,
// of images that were pushed when they were built; it may be nil.
func Open(dir string, fetch Fetcher) (*Store, error) {
	blobs, err := store.Create(dir)
	if err != nil {
		return nil, err
	}
	return &Store{blobs: blobs, fetch: fetch}, nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.blobs.Dir() }

// Image is an image or index with all its names.
type Image struct {
	Names      []string // canonical references with tags, in the order they were given
	Descriptor ocispec.Descriptor
	From       string // a repository that has all of it, or empty
}

// List gives the images, the newest first.
func (s *Store) List() ([]Image, error) {
	index, err := s.blobs.Index()
	if err != nil {
		return nil, err
	}
	var list []Image
	for _, m := range slices.Backward(index.Manifests) {
		i := slices.IndexFunc(list, func(img Image) bool { return img.Descriptor.Digest == m.Digest })
		if i < 0 {
			list = append(list, Image{Descriptor: ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}})
			i = len(list) - 1
		}
		if name := m.Annotations[ocispec.AnnotationRefName]; name != "" {
			list[i].Names = append([]string{name}, list[i].Names...)
		}
		if from := m.Annotations[annotationFrom]; from != "" {
			list[i].From = from
		}
	}
	return list, nil
}

// Canonical reads a name as docker does and adds the tag latest where there is
// neither tag nor digest.
func Canonical(text string) (registry.Reference, error) {
	ref, err := registry.ParseReference(text)
	if err == nil && ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	return ref, err
}

// Familiar writes a canonical name as docker shows it: without docker.io/library/.
func Familiar(name string) string {
	if rest, ok := strings.CutPrefix(name, "docker.io/library/"); ok && !strings.Contains(rest, "/") {
		return rest
	}
	return strings.TrimPrefix(name, "docker.io/")
}

// Find gives the image of a name, a digest, or the first digits of its digest or of
// its config's. What isn't there is a refusal with code PA444 that wraps
// store.ErrNotFound; digits that several images begin with are PA445.
func (s *Store) Find(text string) (Image, error) {
	list, err := s.List()
	if err != nil {
		return Image{}, err
	}
	ref, refErr := Canonical(text)
	if refErr == nil {
		for _, img := range list {
			if ref.Digest != "" && img.Descriptor.Digest == ref.Digest || ref.Digest == "" && slices.Contains(img.Names, ref.String()) {
				return img, nil
			}
		}
	}
	digits := strings.TrimPrefix(text, "sha256:")
	var found []Image
	if isHex(digits) {
		for _, img := range list {
			if strings.HasPrefix(img.Descriptor.Digest.Encoded(), digits) || strings.HasPrefix(s.config(img).Encoded(), digits) {
				found = append(found, img)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if refErr != nil && !strings.HasPrefix(text, "sha256:") {
			return Image{}, refErr
		}
		return Image{}, notFound(text, list)
	}
	e := &refusal.Error{Code: "PA445", Kind: refusal.Usage, Place: text, Summary: fmt.Sprintf("%d images begin with these digits", len(found))}
	for _, img := range found {
		e.Fix = append(e.Fix, img.Descriptor.Digest.String())
	}
	return Image{}, e
}

func notFound(text string, list []Image) error {
	e := &refusal.Error{Code: "PA444", Kind: refusal.Usage, Place: text, Summary: "No such image: " + text, Err: store.ErrNotFound, Fix: []string{"docker pull " + text}}
	var names []string
	for _, img := range list {
		for _, name := range img.Names {
			names = append(names, Familiar(name))
		}
	}
	if near := refusal.Nearest(text, names); near != "" {
		e.Fix = []string{near}
	} else if len(names) == 0 {
		e.Seen = []string{"there are no images on this machine yet"}
	}
	return e
}

func isHex(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// config is the digest of the config of an image for one platform, else empty.
func (s *Store) config(img Image) digest.Digest {
	if image.IsIndex(img.Descriptor.MediaType) {
		return "sha256:"
	}
	var m ocispec.Manifest
	if data, err := s.blobs.ReadBlob(img.Descriptor.Digest); err == nil && json.Unmarshal(data, &m) == nil && m.Config.Digest.Validate() == nil {
		return m.Config.Digest
	}
	return "sha256:"
}

// Tag lets names mean an image of the store, all of them at once.
func (s *Store) Tag(ctx context.Context, names []string, img Image) error {
	unlock, err := s.use(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.put(ctx, names, img.Descriptor, img.From)
}

// Pushed notes that a repository has all of an image.
func (s *Store) Pushed(ctx context.Context, d digest.Digest, repository string) error {
	return s.blobs.UpdateIndex(ctx, func(index *ocispec.Index) error {
		for i, m := range index.Manifests {
			if m.Digest == d {
				annotations := map[string]string{}
				maps.Copy(annotations, m.Annotations)
				annotations[annotationFrom] = repository
				index.Manifests[i].Annotations = annotations
			}
		}
		return nil
	})
}

// put lets names mean the image d, all of them at once; without names it is kept by
// its digest. from names a repository that has all blobs of it.
func (s *Store) put(ctx context.Context, names []string, d ocispec.Descriptor, from string) error {
	if _, err := s.blobs.Size(d.Digest); err != nil {
		return err
	}
	entry := func(name string, d ocispec.Descriptor) ocispec.Descriptor {
		e := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{}}
		if name != "" {
			e.Annotations[ocispec.AnnotationRefName] = name
		}
		if from != "" {
			e.Annotations[annotationFrom] = from
		}
		return e
	}
	return s.blobs.UpdateIndex(ctx, func(index *ocispec.Index) error {
		var lost []ocispec.Descriptor
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			name := m.Annotations[ocispec.AnnotationRefName]
			switch {
			case name == "":
				return m.Digest == d.Digest
			case slices.Contains(names, name):
				lost = append(lost, m)
				return true
			}
			return false
		})
		here := func(d digest.Digest) bool {
			return slices.ContainsFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d })
		}
		for _, m := range lost {
			if m.Digest != d.Digest && !here(m.Digest) {
				m.Annotations = map[string]string{annotationFrom: m.Annotations[annotationFrom]}
				if m.Annotations[annotationFrom] == "" {
					m.Annotations = nil
				}
				index.Manifests = append(index.Manifests, m)
			}
		}
		for _, name := range names {
			index.Manifests = append(index.Manifests, entry(name, d))
		}
		if len(names) == 0 && !here(d.Digest) {
			index.Manifests = append(index.Manifests, entry("", d))
		}
		return nil
	})
}

// Removed is what became of an image.
type Removed struct {
	Untagged []string
	Deleted  digest.Digest // empty if it has other names
}

// Remove takes a name from its image, and removes the image with its last name. An
// image that text names by digest or digits goes with all its names; if there are
// several, only with force. Blobs that no other image needs go too.
func (s *Store) Remove(ctx context.Context, text string, force bool) (Removed, error) {
	img, err := s.Find(text)
	if err != nil {
		return Removed{}, err
	}
	names := img.Names
	if ref, err := Canonical(text); err == nil && ref.Digest == "" && slices.Contains(img.Names, ref.String()) {
		names = []string{ref.String()}
	} else if len(names) > 1 && !force {
		e := &refusal.Error{Code: "PA445", Kind: refusal.Usage, Place: text, Summary: "the image has several names; removing it by its digest needs --force"}
		for _, name := range names {
			e.Seen = append(e.Seen, Familiar(name))
		}
		e.Fix = []string{"docker rmi --force " + text}
		return Removed{}, e
	}
	r := Removed{Untagged: names}
	err = s.blobs.UpdateIndex(ctx, func(index *ocispec.Index) error {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			name := m.Annotations[ocispec.AnnotationRefName]
			return m.Digest == img.Descriptor.Digest && (name == "" || slices.Contains(names, name))
		})
		if !slices.ContainsFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == img.Descriptor.Digest }) {
			r.Deleted = img.Descriptor.Digest
		}
		return nil
	})
	if err == nil && r.Deleted != "" {
		err = s.sweep(ctx)
	}
	return r, err
}

// Source reads one image of the store: blobs of it that aren't here come from the
// repository that has them, and stay.
func (s *Store) Source(img Image) image.Source { return source{image.Layout{Store: s.blobs}, s, img} }

type source struct {
	image.Layout
	store *Store
	image Image
}

func (s source) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := s.Layout.Fetch(ctx, d)
	if err == nil || !errors.Is(err, store.ErrNotFound) || s.image.From == "" || s.store.fetch == nil {
		return r, err
	}
	remote, err := s.store.fetch(ctx, s.image.From, d)
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	if err := s.store.blobs.Copy(d, remote); err != nil {
		return nil, err
	}
	return s.Layout.Fetch(ctx, d)
}

// Resolve gives the image itself, whatever is asked for.
func (s source) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return s.image.Descriptor, nil
}
