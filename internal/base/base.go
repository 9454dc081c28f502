// Package base gives what an image is put on: config and layers of a base, per
// platform.
//
// A base is static or scratch, which are built in, or an image in a registry or
// a layout. It is resolved once per run, to a digest, so that all platforms are
// built on the same thing; a platform that it doesn't have is refused and never
// left out; and its layers stay where they are until somebody needs their bytes.
package base

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// The names of the built-in bases.
const (
	Static  = "static"  // root certificates, time zones, users; for every Linux platform
	Scratch = "scratch" // nothing
)

// Opener finds the repository that a reference is in, without asking it
// anything yet. repository is its canonical name, such as
// registry.example/base/static; tagOrDigest is the digest of the reference if
// it has one, else its tag, else empty.
type Opener func(ctx context.Context, ref string) (src image.Source, repository string, tagOrDigest string, err error)

// Options are what a [Resolver] works with. Store and Open must be set.
type Options struct {
	Store       *store.Store      // keeps manifests, configs and layers by digest
	Open        Opener            // for references into registries
	Compression layer.Compression // of the layer of static
	Progress    progress.Sink     // nil for none
}

// Resolver resolves bases for one run: a name that it has resolved keeps its
// digest. Its methods may be called from any number of goroutines.
type Resolver struct {
	store       *store.Store
	opener      Opener
	compression layer.Compression
	event       progress.Sink
	turns       turns

	mu    sync.Mutex // guards what follows
	bases map[string]*content
	from  map[digest.Digest]*content // which base a layer is of
}

// New makes a Resolver.
func New(o Options) *Resolver {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	return &Resolver{
		store: o.Store, opener: o.Open, compression: o.Compression, event: o.Progress,
		turns: turns{busy: map[string]chan struct{}{}},
		bases: map[string]*content{}, from: map[digest.Digest]*content{},
	}
}

// Base is one resolved base. It is immutable; its methods may be called
// concurrently.
type Base struct {
	Name       string        // as its user wrote it
	Repository string        // canonical; empty for the built-in ones and layouts
	Digest     digest.Digest // of its index, or of its manifest if it has no index; empty for the built-in ones
	Version    string        // of static; empty for others
	place      string        // where its user wrote it
	*content
}

// content is what all uses of one base in a run share.
type content struct {
	resolver   *Resolver
	src        image.Source // nil for the built-in ones
	repository string
	root       ocispec.Descriptor
	indexed    bool // root is an index
	children   []child
}

// child is the image of one platform.
type child struct {
	descriptor ocispec.Descriptor
	platform   platform.Platform
}

// Image is a base on one platform. Config is to be changed and the layers of
// the new image to be put after Layers.
type Image struct {
	// Platform is that of the base, with the OS version of Windows: it may
	// have a lower variant than was asked for.
	Platform platform.Platform
	Config   ocispec.Image
	// RawConfig is the config as its author wrote it, with what ocispec.Image has
	// no field for, such as Healthcheck; nil for the built-in bases.
	RawConfig []byte
	Layers    []image.Layer
	Manifest  ocispec.Descriptor // zero for the built-in bases
	Ref       string             // repository@digest of the manifest; empty if the base isn't in a registry
	// Parent gives the attributes of the directories that the base is known to
	// have with other ones than usual, for [layer.Options]. It may be nil.
	Parent func(name string) (layer.Entry, bool)
}

// Resolve finds what a name means: [Static], [Scratch], oci:DIR, oci:DIR:TAG,
// oci:DIR@DIGEST, or a reference for the Opener. place says where the user wrote
// it, such as anyarch.yaml:12, for refusals. A tag is asked for once per run,
// a digest whose manifest is in the store not at all. An absent one is a
// [refusal.Error] with code PA403, what isn't a container image one with PA109.
func (r *Resolver) Resolve(ctx context.Context, name, place string) (*Base, error) {
	b := &Base{Name: name, place: place}
	switch name {
	case Static:
		b.Version, b.content = StaticVersion, &content{resolver: r}
		return b, nil
	case Scratch:
		b.content = &content{resolver: r}
		return b, nil
	}
	done, err := r.turns.take(ctx, "resolve "+name)
	if err != nil {
		return nil, err
	}
	defer done()
	r.mu.Lock()
	b.content = r.bases[name]
	r.mu.Unlock()
	if b.content == nil {
		if b.content, err = r.load(ctx, name); err != nil {
			return nil, b.explain(err, "")
		}
		r.mu.Lock()
		r.bases[name] = b.content
		r.mu.Unlock()
	}
	b.Repository, b.Digest = b.repository, b.root.Digest
	return b, nil
}

// open finds the source of a name that isn't of a built-in base.
func (r *Resolver) open(ctx context.Context, name string) (src image.Source, repository, tagOrDigest string, err error) {
	if layout, ok := strings.CutPrefix(name, "oci:"); ok {
		dir, identifier := splitLayout(layout)
		st, err := store.Open(dir)
		return image.Layout{Store: st}, "", identifier, err
	}
	src, repository, tagOrDigest, err = r.opener(ctx, name)
	if tagOrDigest == "" {
		tagOrDigest = "latest"
	}
	return src, repository, tagOrDigest, err
}

// splitLayout takes DIR[:TAG] or DIR[@DIGEST] apart. The colon of a Windows
// drive belongs to DIR.
func splitLayout(layout string) (dir, identifier string) {
	volume := len(filepath.VolumeName(layout))
	if i := strings.LastIndex(layout, "@"); i > volume {
		if _, err := digest.Parse(layout[i+1:]); err == nil {
			return layout[:i], layout[i+1:]
		}
	}
	if i := strings.LastIndex(layout, ":"); i > volume && !strings.ContainsAny(layout[i:], `/\`) {
		return layout[:i], layout[i+1:]
	}
	return layout, ""
}

// All lists the platforms that the base has, in its order, for --platform all:
// with variants, and each build of Windows for itself. Static and scratch have
// every Linux platform that Go compiles for.
func (b *Base) All(context.Context) ([]platform.Platform, error) {
	if b.src == nil {
		return staticPlatforms(), nil
	}
	var list []platform.Platform
	seen := map[platform.Platform]bool{}
	for _, c := range b.children {
		if !seen[c.platform] {
			seen[c.platform] = true
			list = append(list, c.platform)
		}
	}
	return list, nil
}

// parallel is how many platforms of a base are loaded at once.
const parallel = 4

// For gives the base on each of the wanted platforms, in their order. If it
// doesn't suit all of them the refusals say so together: PA104 for a platform
// that it doesn't have, PA105 and PA108 for a base that is one platform alone,
// PA203 for one whose config contradicts its index. The layer of static is in
// the store afterwards; of other bases layers are had by [Base.Fetch].
func (b *Base) For(ctx context.Context, wanted []platform.Platform) ([]Image, error) {
	if b.src == nil {
		return b.builtIn(ctx, wanted)
	}
	chosen, err := b.choose(ctx, wanted)
	if err != nil {
		return nil, err
	}
	images := make([]Image, len(wanted))
	refusals := make([]error, len(wanted))
	g, loading := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, c := range chosen {
		g.Go(func() error {
			img, err := b.load(loading, c)
			if err != nil {
				err = b.explain(err, name(wanted[i]))
				if len(refusal.All(err)) > 0 {
					refusals[i] = err // the others are still looked at
					return nil
				}
				return err
			}
			images[i] = img
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var refused refusal.Collect
	for _, err := range refusals {
		refused.Add(err)
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	b.resolver.remember(b.content, images)
	return images, nil
}

// builtIn is For of static and scratch.
func (b *Base) builtIn(ctx context.Context, wanted []platform.Platform) ([]Image, error) {
	var refused refusal.Collect
	for _, p := range wanted {
		if p.OS == "windows" || b.Name == Static && p.OS != "linux" {
			refused.Add(b.foreign(p))
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	r := b.resolver
	images := make([]Image, len(wanted))
	for i, p := range wanted {
		images[i] = Image{Platform: p, Config: ocispec.Image{Platform: p.OCI()}}
		if b.Name == Static {
			images[i].Config.Config = staticConfig()
			images[i].Layers = []image.Layer{staticLayer(r.compression)}
			images[i].Parent = staticDir
		}
	}
	r.remember(b.content, images)
	if b.Name == Static && len(wanted) > 0 {
		if err := b.Fetch(ctx, staticLayer(r.compression)); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// Fetch makes sure that the store has a layer of this base, verified. It is for
// those layers that the destination doesn't have and can't mount. Several calls
// for one layer share the work.
func (b *Base) Fetch(ctx context.Context, l image.Layer) error {
	return b.resolver.fetch(ctx, b.content, l)
}

func (r *Resolver) fetch(ctx context.Context, c *content, l image.Layer) error {
	d := l.Descriptor.Digest
	done, err := r.turns.take(ctx, "fetch "+d.String())
	if err != nil {
		return err
	}
	defer done()
	if r.store.Has(d) {
		return nil
	}
	if c.src == nil {
		return writeStatic(ctx, r.store, r.compression)
	}
	from := l.From
	if from == "" {
		from = "layout"
	}
	what := from + "@" + short(d)
	end := r.event.Start("", "", progress.Pull, what)
	if err := r.copy(ctx, c.src, l.Descriptor, func(current int64) {
		r.event(progress.Event{Time: time.Now(), Step: progress.Pull, State: progress.Advanced, Message: what, Current: current, Total: l.Descriptor.Size})
	}); err != nil {
		end(progress.Failed, what)
		return fmt.Errorf("fetch layer %s of %s: %w", d, from, err)
	}
	end(progress.Done, what)
	return nil
}

// copy streams a blob into the store, which checks its digest and size.
func (r *Resolver) copy(ctx context.Context, src image.Source, d ocispec.Descriptor, advanced func(int64)) error {
	blob, err := src.Fetch(ctx, d)
	if err != nil {
		return err
	}
	err = r.store.Copy(d, &meter{Reader: blob, ctx: ctx, advanced: advanced})
	if closeErr := blob.Close(); err == nil {
		err = closeErr
	}
	return err
}

// meter says how far a blob has come, once a mebibyte, and ends with ctx.
type meter struct {
	io.Reader
	ctx      context.Context
	advanced func(int64)
	n, said  int64
}

func (m *meter) Read(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		return 0, context.Cause(m.ctx)
	}
	n, err := m.Reader.Read(p)
	if m.n += int64(n); m.advanced != nil && m.n-m.said >= 1<<20 {
		m.said = m.n
		m.advanced(m.n)
	}
	return n, err
}

// remember keeps where layers came from, for Open.
func (r *Resolver) remember(c *content, images []Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, img := range images {
		for _, l := range img.Layers {
			r.from[l.Descriptor.Digest] = c
		}
	}
}

// Open opens a layer, of whatever image. If it is of a base that this Resolver
// gave and the store doesn't have it, it is fetched first.
func (r *Resolver) Open(ctx context.Context, l image.Layer) (io.ReadCloser, error) {
	r.mu.Lock()
	c := r.from[l.Descriptor.Digest]
	r.mu.Unlock()
	if c != nil {
		if err := r.fetch(ctx, c, l); err != nil {
			return nil, err
		}
	}
	return r.store.Blob(l.Descriptor.Digest)
}

// turns lets one goroutine at a time work on a key; others wait, or give up
// when their context ends.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// take waits for the turn on key; done gives it to the next one.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	for {
		t.mu.Lock()
		other, taken := t.busy[key]
		if !taken {
			mine := make(chan struct{})
			t.busy[key] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.busy, key)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// BuiltIn reports whether the base is one of this program's own.
func (b *Base) BuiltIn() bool { return b.src == nil }
