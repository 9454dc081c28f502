// Package publish makes an index public: blobs, then manifests by digest, then
// the index by digest, then all of it is read back and compared, and only then
// do tags move. A failure at any point leaves every tag where it was.
package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// parallel is how many blobs or manifests of one repository are under way at
// once.
const parallel = 4

// Repository is what an image is published to. Its methods may be called
// concurrently.
type Repository interface {
	image.Source
	Name() string
	// Exists reports whether the repository has a blob.
	Exists(ctx context.Context, d ocispec.Descriptor) (bool, error)
	// Mount lets the repository have a blob of another one on the same
	// registry; false if the registry won't.
	Mount(ctx context.Context, d ocispec.Descriptor, from string) (bool, error)
	// PushBlob uploads a blob. open may be called several times.
	PushBlob(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error), sent func(n int64)) error
	// PushManifest uploads a manifest or index under a tag or its digest.
	PushManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) error
	// DeleteTag removes a tag, leaving what it named.
	DeleteTag(ctx context.Context, tag string) error
}

// Blobs is where the bytes of an image's blobs are had from.
type Blobs interface {
	// Open opens a blob, fetching it first if it isn't on this machine.
	Open(ctx context.Context, layer image.Layer) (io.ReadCloser, error)
}

// Stats count what went over the wire to one repository.
type Stats struct {
	Uploaded int64 // bytes of blobs sent
	Mounted  int64 // bytes of blobs that were mounted instead
	Present  int64 // bytes of blobs that were there already
}

// Session publishes one index to one repository.
type Session struct {
	repo  Repository
	store *store.Store
	blobs Blobs
	event progress.Sink
	name  string // of the image, for events
	slots chan struct{}

	places *Places // nil where nobody else publishes

	mu    sync.Mutex // guards stats and done
	stats Stats
	done  map[digest.Digest]*once
}

// once lets the platforms of an image share one upload of a blob.
type once struct {
	sync.Mutex
	ok bool
}

// NewSession prepares publishing to repo. Manifests and configs come from st,
// layers from blobs.
func NewSession(repo Repository, st *store.Store, blobs Blobs, name string, event progress.Sink) *Session {
	return &Session{
		repo: repo, store: st, blobs: blobs, name: name, event: event,
		slots: make(chan struct{}, parallel), done: map[digest.Digest]*once{},
	}
}

// Repository is where this session publishes to.
func (s *Session) Repository() Repository { return s.repo }

// Stats says what has been sent so far.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Blobs makes sure that the repository has every blob of an image. It may run
// for several images at once.
func (s *Session) Blobs(ctx context.Context, img image.Image) error {
	g, ctx := errgroup.WithContext(ctx)
	push := func(layer image.Layer, fromStore bool) {
		g.Go(func() error {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			return s.blob(ctx, img, layer, fromStore)
		})
	}
	for _, layer := range img.Layers {
		if len(layer.Descriptor.URLs) > 0 {
			continue // non-distributable: clients get it where it says
		}
		push(layer, false)
	}
	push(image.Layer{Descriptor: img.Config}, true)
	return g.Wait()
}

func (s *Session) blob(ctx context.Context, img image.Image, layer image.Layer, fromStore bool) error {
	d := layer.Descriptor
	s.mu.Lock()
	state := s.done[d.Digest]
	if state == nil {
		state = &once{}
		s.done[d.Digest] = state
	}
	s.mu.Unlock()
	state.Lock()
	defer state.Unlock()
	if state.ok {
		return nil
	}
	if s.places != nil {
		defer s.places.turn(s.repo.Name(), d.Digest)()
	}
	exists, err := s.repo.Exists(ctx, d)
	if err != nil {
		return err
	}
	if exists {
		s.count(&s.stats.Present, d.Size)
		s.note(d, false)
		state.ok = true
		return nil
	}
	for _, from := range s.sources(layer) {
		mounted, err := s.repo.Mount(ctx, d, from)
		if err != nil {
			return err
		}
		if mounted {
			s.count(&s.stats.Mounted, d.Size)
			s.note(d, false)
			state.ok = true
			return nil
		}
	}
	platform := img.Platform.String()
	var sent int64
	err = s.repo.PushBlob(ctx, d, func() (io.ReadCloser, error) {
		if fromStore {
			return s.store.Blob(d.Digest)
		}
		return s.blobs.Open(ctx, layer)
	}, func(n int64) {
		sent = n
		s.event(progress.Event{Image: s.name, Platform: platform, Step: progress.Push, State: progress.Advanced, Current: sent, Total: d.Size})
	})
	if err != nil {
		return err
	}
	s.count(&s.stats.Uploaded, d.Size)
	s.note(d, true)
	state.ok = true
	return nil
}

func (s *Session) note(d ocispec.Descriptor, sent bool) {
	if s.places != nil {
		s.places.note(s.repo.Name(), d.Digest, sent)
	}
}

func (s *Session) count(counter *int64, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*counter += n
}

// Has reports whether the repository has the index with all its manifests, so
// that nothing needs to be uploaded.
func (s *Session) Has(ctx context.Context, index ocispec.Descriptor, images []image.Image) (bool, error) {
	descriptors := []ocispec.Descriptor{index}
	for _, img := range images {
		descriptors = append(descriptors, img.Manifest)
	}
	for _, d := range descriptors {
		found, err := s.repo.Resolve(ctx, d.Digest.String())
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if found.Digest != d.Digest {
			return false, nil
		}
	}
	return true, nil
}

// Manifests uploads the manifests of images and then their index, by digest,
// reads all of them back and compares. The index may be the one manifest itself. The blobs must be there.
func (s *Session) Manifests(ctx context.Context, index ocispec.Descriptor, images []image.Image) error {
	descriptors := make([]ocispec.Descriptor, len(images))
	for i, img := range images {
		descriptors[i] = img.Manifest
	}
	if err := s.each(ctx, descriptors, s.put); err != nil {
		return err
	}
	if !slices.ContainsFunc(descriptors, func(d ocispec.Descriptor) bool { return d.Digest == index.Digest }) {
		if err := s.put(ctx, index); err != nil {
			return err
		}
		descriptors = append(descriptors, index)
	}
	for _, img := range images {
		descriptors = append(descriptors, img.Config)
	}
	return s.each(ctx, descriptors, s.compare)
}

func (s *Session) each(ctx context.Context, descriptors []ocispec.Descriptor, do func(context.Context, ocispec.Descriptor) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, d := range descriptors {
		g.Go(func() error { return do(ctx, d) })
	}
	return g.Wait()
}

func (s *Session) put(ctx context.Context, d ocispec.Descriptor) error {
	data, err := s.store.ReadBlob(d.Digest)
	if err != nil {
		return err
	}
	return s.repo.PushManifest(ctx, d.Digest.String(), d, data)
}

// compare reads a manifest, index or config back from the repository.
func (s *Session) compare(ctx context.Context, d ocispec.Descriptor) error {
	want, err := s.store.ReadBlob(d.Digest)
	if err != nil {
		return err
	}
	r, err := s.repo.Fetch(ctx, d)
	if err != nil {
		return fmt.Errorf("read back %s: %w", d.Digest, err)
	}
	defer r.Close()
	got, err := io.ReadAll(io.LimitReader(r, int64(len(want))+1))
	if err != nil {
		return fmt.Errorf("read back %s: %w", d.Digest, err)
	}
	if !bytes.Equal(got, want) {
		return &refusal.Error{
			Code: "PA412", Place: s.repo.Name() + "@" + d.Digest.String(), Summary: "the registry gave back something else than was pushed",
			Seen: []string{fmt.Sprintf("%d bytes were pushed, %d other bytes came back", len(want), len(got))},
			Fix:  []string{"look for a proxy or cache in front of " + s.repo.Name()},
		}
	}
	return nil
}
