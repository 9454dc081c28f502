package buildkit

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// blobs lets a daemon put the blobs of an image straight into a store, each checked
// against its digest on the way. What the store has isn't sent. It implements
// content.Store as far as BuildKit's exporter calls it.
type blobs struct {
	content.Store // nil: the rest of the interface isn't used

	store *store.Store
	scans prove.Cache            // where what is seen of layers on the way is kept; nil for nowhere
	temp  string                 // for programs that are looked at
	mu    sync.Mutex             // guards taken
	taken map[digest.Digest]bool // blobs that are on their way
}

func newBlobs(st *store.Store) *blobs { return &blobs{store: st, taken: map[digest.Digest]bool{}} }

// Info implements content.InfoProvider.
func (b *blobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	size, err := b.store.Size(d)
	if err != nil {
		return content.Info{}, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound)
	}
	return content.Info{Digest: d, Size: size}, nil
}

// ReaderAt implements content.Provider.
func (b *blobs) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	f, err := b.store.Blob(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdefs.ErrNotFound)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &blobReader{f, info.Size()}, nil
}

type blobReader struct {
	*os.File
	size int64
}

func (r *blobReader) Size() int64 { return r.size }

// Writer implements content.Ingester. Of two writers of the same blob the second is
// told to wait, and finds the blob there.
func (b *blobs) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	d := o.Desc.Digest
	if d != "" {
		if _, err := b.Info(ctx, d); err == nil {
			return nil, fmt.Errorf("%s: %w", d, errdefs.ErrAlreadyExists)
		}
		b.mu.Lock()
		busy := b.taken[d]
		b.taken[d] = true
		b.mu.Unlock()
		if busy {
			return nil, fmt.Errorf("%s is being received: %w", d, errdefs.ErrUnavailable)
		}
	}
	w, err := b.store.Ingest()
	if err != nil {
		b.release(d)
		return nil, err
	}
	bw := &blobWriter{blobs: b, w: w, ref: o.Ref, expected: d, total: o.Desc.Size, begin: time.Now()}
	if b.scans != nil {
		bw.ahead = prove.NewAhead(b.scans, b.temp)
	}
	return bw, nil
}

func (b *blobs) release(d digest.Digest) {
	if d != "" {
		b.mu.Lock()
		delete(b.taken, d)
		b.mu.Unlock()
	}
}

// Abort implements content.IngestManager: a writer that is closed keeps nothing.
func (b *blobs) Abort(context.Context, string) error { return nil }

// Status implements content.IngestManager: nothing is resumed.
func (b *blobs) Status(_ context.Context, ref string) (content.Status, error) {
	return content.Status{}, fmt.Errorf("%s: %w", ref, errdefs.ErrNotFound)
}

// ListStatuses implements content.IngestManager.
func (b *blobs) ListStatuses(context.Context, ...string) ([]content.Status, error) { return nil, nil }

// Update implements content.Manager: labels of a containerd don't matter here.
func (b *blobs) Update(ctx context.Context, info content.Info, _ ...string) (content.Info, error) {
	return b.Info(ctx, info.Digest)
}

// Walk implements content.Manager: a daemon has no need to know what else is here.
func (b *blobs) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

// Delete implements content.Manager: a daemon deletes nothing here.
func (b *blobs) Delete(context.Context, digest.Digest) error { return errdefs.ErrPermissionDenied }

// blobWriter is one blob on its way.
type blobWriter struct {
	blobs    *blobs
	w        *store.Writer
	ref      string
	expected digest.Digest
	got      digest.Digest
	total    int64
	begin    time.Time
	closed   bool
	ahead    *prove.Ahead // looks into the blob while it comes; nil for none
}

func (w *blobWriter) Write(p []byte) (int, error) {
	if w.ahead != nil {
		_, _ = w.ahead.Write(p)
	}
	return w.w.Write(p)
}

func (w *blobWriter) Close() error {
	if !w.closed {
		w.closed = true
		w.w.Abort()
		if w.ahead != nil {
			w.ahead.Close(w.got)
		}
		w.blobs.release(w.expected)
	}
	return nil
}

// Digest is that of the blob, once it is committed.
func (w *blobWriter) Digest() digest.Digest { return w.got }

func (w *blobWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	defer w.Close()
	if size > 0 && w.w.Size() != size {
		return fmt.Errorf("%s: %d bytes came instead of %d: %w", w.ref, w.w.Size(), size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" {
		expected = w.expected
	}
	got, err := w.w.Commit(expected)
	if err != nil {
		return err
	}
	w.got = got
	return nil
}

func (w *blobWriter) Status() (content.Status, error) {
	return content.Status{Ref: w.ref, Offset: w.w.Size(), Total: w.total, Expected: w.expected, StartedAt: w.begin, UpdatedAt: time.Now()}, nil
}

func (w *blobWriter) Truncate(size int64) error {
	if size == w.w.Size() {
		return nil
	}
	if size != 0 {
		return fmt.Errorf("%s: a blob is received from its beginning: %w", w.ref, errdefs.ErrNotImplemented)
	}
	if w.ahead != nil {
		w.ahead.Close("")
		w.ahead = nil
	}
	w.w.Abort()
	fresh, err := w.blobs.store.Ingest()
	if err != nil {
		return err
	}
	w.w = fresh
	return nil
}

var _ content.Store = (*blobs)(nil)
