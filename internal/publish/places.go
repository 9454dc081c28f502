package publish

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/store"
)

// Places knows which repositories of a registry have a blob, so that others of the
// same registry can mount it instead of having it sent. It is shared by the sessions
// of a run, of which one at a time cares for a blob on a registry, and remembers
// places for the next run. It may be used concurrently.
type Places struct {
	memo *store.Memo // may be nil

	mu    sync.Mutex
	turns map[string]*sync.Mutex // by registry and digest
	known map[string]string      // repository by registry and digest
}

// NewPlaces makes it. memo may be nil.
func NewPlaces(memo *store.Memo) *Places {
	return &Places{memo: memo, turns: map[string]*sync.Mutex{}, known: map[string]string{}}
}

// registryOf is the registry of a repository's canonical name.
func registryOf(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}

// turn waits until no other session cares for a blob on a registry.
func (p *Places) turn(repository string, d digest.Digest) (done func()) {
	key := registryOf(repository) + " " + d.String()
	p.mu.Lock()
	m := p.turns[key]
	if m == nil {
		m = new(sync.Mutex)
		p.turns[key] = m
	}
	p.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// find gives another repository of the same registry that has, or had, a blob.
func (p *Places) find(repository string, d digest.Digest) string {
	key := registryOf(repository) + " " + d.String()
	p.mu.Lock()
	place := p.known[key]
	p.mu.Unlock()
	if place == "" && p.memo != nil {
		if data, ok := p.memo.Get("blob at " + key); ok {
			place = string(data)
		}
	}
	if place == repository || registryOf(place) != registryOf(repository) {
		return ""
	}
	return place
}

// note remembers that a repository has a blob. sent says that it was sent there just now.
func (p *Places) note(repository string, d digest.Digest, sent bool) {
	key := registryOf(repository) + " " + d.String()
	p.mu.Lock()
	if p.known[key] == "" {
		p.known[key] = repository
	}
	p.mu.Unlock()
	if sent && p.memo != nil {
		p.memo.Put("blob at "+key, []byte(repository))
	}
}

// sources are the repositories that a layer may be mounted from, the best first.
func (s *Session) sources(layer image.Layer) []string {
	var list []string
	if s.places != nil {
		list = append(list, s.places.find(s.repo.Name(), layer.Descriptor.Digest))
	}
	list = append(list, layer.From)
	list = slices.DeleteFunc(list, func(from string) bool {
		return from == "" || from == s.repo.Name() || registryOf(from) != registryOf(s.repo.Name())
	})
	return slices.Compact(list)
}

// Share lets the sessions of a run know of each other's blobs. It must be called
// before the session is used.
func (s *Session) Share(p *Places) { s.places = p }

// Estimate is what publishing would do. It is what would be sent, as far as one can
// know without trying: a registry may refuse to mount.
type Estimate struct {
	Upload, Mount, Present                int64 // bytes of blobs
	UploadBlobs, MountBlobs, PresentBlobs int
	Manifests                             int64 // bytes of manifests and the index
}

// Estimate asks the repository what it has of images and their index.
func (s *Session) Estimate(ctx context.Context, index ocispec.Descriptor, images []image.Image) (Estimate, error) {
	var e Estimate
	there, err := s.Has(ctx, index, images)
	if err != nil {
		return e, err
	}
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		if !there && !seen[img.Manifest.Digest] {
			seen[img.Manifest.Digest] = true
			e.Manifests += img.Manifest.Size
		}
		layers := append(slices.Clone(img.Layers), image.Layer{Descriptor: img.Config})
		for _, layer := range layers {
			d := layer.Descriptor
			if seen[d.Digest] || len(d.URLs) > 0 {
				continue
			}
			seen[d.Digest] = true
			exists := there
			if !exists {
				if exists, err = s.repo.Exists(ctx, d); err != nil {
					return e, err
				}
			}
			switch {
			case exists:
				e.Present, e.PresentBlobs = e.Present+d.Size, e.PresentBlobs+1
			case len(s.sources(layer)) > 0:
				e.Mount, e.MountBlobs = e.Mount+d.Size, e.MountBlobs+1
			default:
				e.Upload, e.UploadBlobs = e.Upload+d.Size, e.UploadBlobs+1
				if s.places != nil {
					s.places.note(s.repo.Name(), d.Digest, false) // for the next repository
				}
			}
		}
	}
	if !there && !seen[index.Digest] {
		e.Manifests += index.Size
	}
	return e, nil
}
