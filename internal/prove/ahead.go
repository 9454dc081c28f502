package prove

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Ahead looks into a blob while it arrives, so that [Verify] with the same cache need
// not read it again. What it can't make sense of, a config for instance, it leaves to
// Verify: nothing is concluded here.
type Ahead struct {
	cache  Cache
	chunks chan []byte
	ended  chan struct{} // closed when nothing more is read
	stop   context.CancelFunc
	scan   *scan // once ended is closed; nil if it couldn't be read
}

// aheadChunk and aheadChunks bound the bytes of a blob that wait to be looked into.
const (
	aheadChunk  = 256 << 10
	aheadChunks = 4
)

// NewAhead begins with a blob. Close has to be called. dir is for one program at a time;
// os.TempDir if empty.
func NewAhead(cache Cache, dir string) *Ahead {
	ctx, stop := context.WithCancel(context.Background())
	a := &Ahead{cache: cache, chunks: make(chan []byte, aheadChunks), ended: make(chan struct{}), stop: stop}
	go func() {
		defer close(a.ended)
		src := &source{Reader: &chunkReader{ctx: ctx, chunks: a.chunks}, moving: func(int64) {}}
		if s, err := scanLayer(ctx, src, Limits{}, dir); err == nil && src.err == nil && ctx.Err() == nil {
			a.scan = s
		}
	}()
	return a
}

// Write takes the next bytes of the blob. It never fails.
func (a *Ahead) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		chunk := append([]byte(nil), p[:min(len(p), aheadChunk)]...)
		select {
		case a.chunks <- chunk:
		case <-a.ended:
			return n, nil
		}
		p = p[len(chunk):]
	}
	return n, nil
}

// Close ends the blob. With its digest, which the caller has computed from the same
// bytes, what was found is kept; without one it is forgotten.
func (a *Ahead) Close(d digest.Digest) {
	if d == "" {
		a.stop()
	} else {
		close(a.chunks)
	}
	<-a.ended
	a.stop()
	if d == "" || a.scan == nil || a.scan.unclean {
		return
	}
	if data, err := json.Marshal(a.scan); err == nil {
		a.cache.Put(scanKey(d), data)
	}
}

// scanKey is where a cache has what was found in a layer.
func scanKey(d digest.Digest) string { return fmt.Sprintf("layer-scan/%d/%s", scanVersion, d) }

// chunkReader reads what comes through a channel.
type chunkReader struct {
	ctx    context.Context
	chunks <-chan []byte
	rest   []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		select {
		case chunk, more := <-r.chunks:
			if !more {
				return 0, io.EOF
			}
			r.rest = chunk
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
