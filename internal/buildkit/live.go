package buildkit

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
)

// errSilent ends a build on a daemon that stopped answering.
var errSilent = errors.New("it doesn't answer any more")

// A daemon is asked whether it is still there every pulse, during a build, and has grace
// to answer. One that misses that twice in a row, and gives no other sign of life, is lost.
const (
	pulse = 5 * time.Second
	grace = 15 * time.Second
)

// signs are the signs of life of a daemon: reports, and files that travel. Where a slow
// line is busy with files, an answer waits behind them for as long as it takes.
type signs struct{ last atomic.Int64 }

func (s *signs) see()                       { s.last.Store(time.Now().UnixNano()) }
func (s *signs) seenSince(t time.Time) bool { return s.last.Load() > t.UnixNano() }

// watch asks the daemon from time to time whether it lives, and ends the build if it
// has fallen silent: a machine that lost its network says nothing.
func (n *Node) watch(ctx context.Context, s *signs, cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(pulse)
		defer tick.Stop()
		missed := 0
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			asked := time.Now()
			if n.alive(ctx, grace) == nil || s.seenSince(asked) {
				missed = 0
			} else if missed++; missed > 1 {
				cancel(errSilent)
				return
			}
		}
	}()
	return func() { close(done); cancel(nil); <-ended }
}

// watched gives the options of a job with which everything that travels is a sign.
func (s *signs) watched(o client.SolveOpt) client.SolveOpt {
	o.LocalMounts, o.OCIStores = maps.Clone(o.LocalMounts), maps.Clone(o.OCIStores)
	for name, fs := range o.LocalMounts {
		o.LocalMounts[name] = watchedFS{fs, s}
	}
	for name, store := range o.OCIStores {
		o.OCIStores[name] = watchedStore{store, s}
	}
	exports := make([]client.ExportEntry, len(o.Exports))
	for i, e := range o.Exports {
		if e.OutputStore != nil {
			e.OutputStore = watchedStore{e.OutputStore, s}
		}
		exports[i] = e
	}
	o.Exports = exports
	return o
}

type watchedFS struct {
	fsutil.FS
	signs *signs
}

func (f watchedFS) Open(name string) (io.ReadCloser, error) {
	r, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return watchedFile{r, f.signs}, nil
}

type watchedFile struct {
	io.ReadCloser
	signs *signs
}

func (f watchedFile) Read(p []byte) (int, error) {
	f.signs.see()
	return f.ReadCloser.Read(p)
}

type watchedStore struct {
	content.Store
	signs *signs
}

func (s watchedStore) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	r, err := s.Store.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return watchedReader{r, s.signs}, nil
}

func (s watchedStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return watchedWriter{w, s.signs}, nil
}

type watchedReader struct {
	content.ReaderAt
	signs *signs
}

func (r watchedReader) ReadAt(p []byte, at int64) (int, error) {
	r.signs.see()
	return r.ReaderAt.ReadAt(p, at)
}

type watchedWriter struct {
	content.Writer
	signs *signs
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.signs.see()
	return w.Writer.Write(p)
}
