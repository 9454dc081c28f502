package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// enoughProgress is what a transfer must have gained since its last failure for
// its patience to begin anew, in bytes.
const enoughProgress = 256 << 10

// fetchBlob opens a blob at the first source that has it.
func (r *Repository) fetchBlob(ctx context.Context, sources []reader, d ocispec.Descriptor) (io.ReadCloser, error) {
	b := &blobReader{ctx: ctx, repo: r, sources: sources, want: d, hash: d.Digest.Algorithm().Hash()}
	for {
		err := b.open(false)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil || !b.nextSource() {
			return nil, err
		}
	}
}

// blobReader reads one blob over as many connections as it takes. What it has
// delivered it doesn't hold; it knows its hash, so that a source that can only
// start over is compared with what was delivered before.
type blobReader struct {
	ctx     context.Context
	repo    *Repository
	sources []reader // the first is in use
	want    ocispec.Descriptor

	body    io.ReadCloser // nil between connections
	host    string        // that body comes from
	hash    hash.Hash     // of what was delivered
	offset  int64         // of what was delivered
	noRange bool          // the source starts over whatever it is asked for

	patience retry
	gained   int64 // since the last failure
	empty    int   // connections in a row that ended properly, but too early
	err      error // the end
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.read(p)
	if err != nil {
		b.err = err
		b.drop()
	}
	return n, err
}

func (b *blobReader) read(p []byte) (int, error) {
	for {
		if b.want.Size > 0 && b.offset == b.want.Size && b.body == nil {
			return 0, b.finish()
		}
		if b.body == nil {
			if err := b.open(true); err != nil {
				return 0, err
			}
		}
		n, err := b.body.Read(p)
		if n > 0 {
			if b.want.Size > 0 && b.offset+int64(n) > b.want.Size {
				return 0, b.damage(fmt.Sprintf("more than %d bytes came", b.want.Size))
			}
			b.hash.Write(p[:n])
			b.offset += int64(n)
			b.gained += int64(n)
			b.empty = 0
			if b.gained >= enoughProgress {
				b.patience.progress()
			}
			// What ends the connection, if it does, is seen by the next call.
			if err != nil {
				b.broken(err)
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if b.ctx.Err() != nil {
			return 0, b.ctx.Err()
		}
		b.broken(err)
		if err == io.EOF {
			if b.want.Size <= 0 || b.offset == b.want.Size {
				return 0, b.finish()
			}
			b.empty++
		}
		if b.empty > 1 {
			return 0, b.damage(fmt.Sprintf("%d bytes came instead of %d", b.offset, b.want.Size))
		}
		if err := b.again(networkFailure(b.host, fmt.Errorf("the answer ends after %d of %d bytes: %w", b.offset, b.want.Size, err))); err != nil {
			return 0, err
		}
	}
}

// broken lets go of a connection that has ended. A blob of unknown size has
// ended with it, if it ended properly.
func (b *blobReader) broken(err error) {
	if err == io.EOF && b.want.Size <= 0 {
		return // asked once more, the body says EOF once more
	}
	b.drop()
}

func (b *blobReader) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// again waits before the next connection, or moves to the next source, or ends
// it all.
func (b *blobReader) again(err error) error {
	if b.gained >= enoughProgress {
		b.patience.progress()
	}
	b.gained = 0
	end := b.patience.again(b.ctx, err)
	if end != nil && b.ctx.Err() == nil && b.nextSource() {
		return nil
	}
	return end
}

func (b *blobReader) nextSource() bool {
	if len(b.sources) < 2 {
		return false
	}
	b.sources = b.sources[1:]
	b.patience, b.noRange, b.empty = retry{}, false, 0
	return true
}

// finish checks the whole.
func (b *blobReader) finish() error {
	if got := digest.NewDigest(b.want.Digest.Algorithm(), b.hash); got != b.want.Digest {
		return b.damage("its bytes have the digest " + got.String())
	}
	return io.EOF
}

// damage says that the source gave wrong bytes, and remembers it: the next
// Fetch asks another one first.
func (b *blobReader) damage(seen string) error {
	name := b.sources[0].name
	b.repo.client.damaged.Store(name+"@"+b.want.Digest.String(), struct{}{})
	return integrity(name, b.want.Digest, seen)
}

// open makes a connection that goes on at offset. resuming lets it try again
// and try other sources; the first connection leaves that to do and fetchBlob.
func (b *blobReader) open(resuming bool) error {
	for {
		e := b.sources[0]
		if b.patience.host == nil {
			b.patience = retry{host: e.host, step: "read blob " + e.place(b.want.Digest.String()), limit: e.tries}
		}
		err := b.connect(e)
		if err == nil || b.ctx.Err() != nil {
			return err
		}
		if _, ok := err.(*failure); ok {
			if err := b.again(err); err != nil {
				return err
			}
			continue
		}
		if !resuming || !b.nextSource() {
			return err
		}
	}
}

// connect makes one connection at offset. Temporary failures are a *failure.
func (b *blobReader) connect(e reader) error {
	q := &request{
		step: "read blob " + e.place(b.want.Digest.String()), method: http.MethodGet,
		path: e.path + "/blobs/" + b.want.Digest.String(), scopes: e.scope,
	}
	ranged := b.offset > 0 && !b.noRange
	if ranged {
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", b.offset)}}
	}
	resp, err := e.host.attempt(b.ctx, q)
	if err != nil {
		return err
	}
	b.host = resp.Request.URL.Host
	start := int64(0)
	switch {
	case resp.StatusCode == http.StatusOK:
		if b.want.Size > 0 && resp.ContentLength >= 0 && resp.ContentLength != b.want.Size {
			resp.Body.Close()
			return b.damage(fmt.Sprintf("the registry has %d bytes instead of %d", resp.ContentLength, b.want.Size))
		}
	case resp.StatusCode == http.StatusPartialContent && ranged:
		from, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from > b.offset {
			resp.Body.Close()
			b.noRange = true
			return &failure{host: b.host, status: http.StatusBadGateway, message: "it answers with another range than asked for"}
		}
		if b.want.Size > 0 && total >= 0 && total != b.want.Size {
			resp.Body.Close()
			return b.damage(fmt.Sprintf("the registry has %d bytes instead of %d", total, b.want.Size))
		}
		start = from
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && ranged:
		f := e.host.failed(resp)
		if b.empty > 0 {
			return b.damage(fmt.Sprintf("%d bytes came instead of %d", b.offset, b.want.Size))
		}
		b.noRange = true
		f.status = http.StatusBadGateway // worth another try, from the beginning
		return f
	case resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound && !e.host.owns(resp.Request.URL):
		// The storage that the registry led to, whose permission may have run
		// out meanwhile. The registry gives a new one.
		f := e.host.failed(resp)
		f.message, f.status = fmt.Sprintf("the storage answers %d %s", f.status, f.message), http.StatusBadGateway
		return f
	default:
		return e.host.answer(b.ctx, resp, q, e.name+"@"+b.want.Digest.String())
	}
	if err := b.skip(resp.Body, b.offset-start, start); err != nil {
		resp.Body.Close()
		return err
	}
	b.body = resp.Body
	return nil
}

// skip reads what was delivered before. If it is all of that, it is compared.
func (b *blobReader) skip(body io.Reader, n, start int64) error {
	if n == 0 {
		return nil
	}
	again := b.want.Digest.Algorithm().Hash()
	if _, err := io.CopyN(again, body, n); err != nil {
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		return networkFailure(b.host, fmt.Errorf("the answer ends before byte %d: %w", b.offset, err))
	}
	if start == 0 && string(again.Sum(nil)) != string(b.hash.Sum(nil)) {
		return b.damage("read again, it begins with other bytes")
	}
	return nil
}

// contentRange reads a Content-Range header (RFC 9110, section 14.4). total is
// negative if it isn't known.
func contentRange(value string) (from, total int64, ok bool) {
	value, ok = strings.CutPrefix(value, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, size, ok := strings.Cut(value, "/")
	if !ok {
		return 0, 0, false
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, false
	}
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || from < 0 || to < from || size != "*" && to >= total {
		return 0, 0, false
	}
	return from, total, true
}

// Close ends the transfer.
func (b *blobReader) Close() error {
	b.drop()
	if b.err == nil {
		b.err = errors.New("read of a closed blob")
	}
	return nil
}
