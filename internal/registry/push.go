package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushBlob uploads a blob, unless it is there. open gives its bytes from the
// beginning; it may be called several times, and if what it gives is an
// io.Seeker that is used. progress, which may be nil, is told how many bytes
// have been sent; the number goes back when something has to be sent again.
// Concurrent calls for one blob share one upload.
//
// A blob is sent in one request where that works. After a broken connection the
// registry is asked how far it got, and the rest follows in chunks.
func (r *Repository) PushBlob(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error), progress func(sent int64)) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("push %s@%s: %w", r.name, d.Digest, err)
	}
	if progress == nil {
		progress = func(int64) {}
	}
	e := r.push
	_, err := e.uploads.do(ctx, d.Digest.String(), func() (struct{}, error) {
		there, ok := e.known.Load(d.Digest)
		if !ok {
			found, err := e.look(ctx, d.Digest)
			if err != nil {
				return struct{}{}, err
			}
			there = found
		}
		if there.(bool) {
			return struct{}{}, nil
		}
		u := &upload{endpoint: e, want: d, source: &source{open: open}, progress: progress}
		u.patience = retry{host: e.host, step: "push blob " + e.place(d.Digest.String())}
		err := u.run(ctx)
		if err == nil {
			e.know(d.Digest, true)
		}
		return struct{}{}, err
	})
	if err == nil {
		progress(d.Size)
	}
	return err
}

// upload is one blob on its way.
type upload struct {
	*endpoint
	want     ocispec.Descriptor
	source   *source
	progress func(int64)

	session  *session // nil if none is open
	offset   int64    // how far the session is
	chunked  bool
	sent     int64 // by the request that failed last
	restarts int   // because the digest was wrong

	patience retry
}

func (u *upload) run(ctx context.Context) error {
	defer u.source.close()
	if s, ok := u.sessions.LoadAndDelete(u.want.Digest); ok {
		u.session = s.(*session)
	}
	u.chunked = u.host.noWhole.Load() || u.host.chunks.get() < u.want.Size && !u.host.noChunks.Load()
	for {
		err := u.pass(ctx)
		if err == nil {
			return nil
		}
		if err := u.recover(ctx, err); err != nil {
			if err == errStored {
				return nil
			}
			u.cancel(ctx)
			return err
		}
	}
}

// pass sends what is left and commits it.
func (u *upload) pass(ctx context.Context) error {
	if u.session == nil {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	if !u.chunked && u.offset == 0 {
		return u.put(ctx, u.want.Size)
	}
	for u.offset < u.want.Size {
		if err := u.patch(ctx); err != nil {
			return err
		}
	}
	return u.put(ctx, 0)
}

func (u *upload) begin(ctx context.Context) error {
	q := &request{step: u.patience.step, method: http.MethodPost, path: u.path + "/blobs/uploads/", scopes: u.pushScope}
	q.body = func() (io.ReadCloser, error) { return http.NoBody, nil } // so that Content-Length: 0 is sent
	resp, err := u.host.attempt(ctx, q)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK {
		return u.host.answer(ctx, resp, q, u.name)
	}
	discard(resp)
	u.offset = 0
	u.session, err = u.endpoint.session(resp)
	return err
}

// put commits the upload, with the next n bytes as its body.
func (u *upload) put(ctx context.Context, n int64) error {
	place, err := url.Parse(u.session.location)
	if err != nil {
		return err
	}
	if place.RawQuery != "" { // signed, perhaps: not to be written anew
		place.RawQuery += "&"
	}
	place.RawQuery += "digest=" + url.QueryEscape(u.want.Digest.String())
	resp, err := u.send(ctx, http.MethodPut, place, n, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return u.host.failed(resp)
	}
	discard(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != u.want.Digest.String() && strings.HasPrefix(got, u.want.Digest.Algorithm().String()+":") {
		return integrity(u.name, u.want.Digest, "the registry has stored it as "+clean(got))
	}
	if n > 0 {
		u.host.chunks.passed(n)
	}
	return nil
}

// patch sends the next chunk.
func (u *upload) patch(ctx context.Context) error {
	n := min(max(u.host.chunks.get(), u.session.minChunk), u.want.Size-u.offset)
	place, err := url.Parse(u.session.location)
	if err != nil {
		return err
	}
	resp, err := u.send(ctx, http.MethodPatch, place, n, http.Header{"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.offset+n-1)}})
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return u.host.failed(resp)
	}
	discard(resp)
	if err := u.move(resp); err != nil {
		return err
	}
	next, ok := uploaded(resp.Header.Get("Range"), n)
	if !ok || next > u.offset+n {
		next = u.offset + n
	}
	if next <= u.offset {
		return &failure{host: u.host.addr, status: http.StatusBadGateway, message: "it took a chunk and didn't keep it"}
	}
	u.host.chunks.passed(n)
	u.gain(next)
	return nil
}

// gain notes how far the session is.
func (u *upload) gain(offset int64) {
	if offset-u.offset >= enoughProgress {
		u.patience.progress()
	}
	u.offset = offset
}

// move follows the session to where an answer says that it goes on.
func (u *upload) move(resp *http.Response) error {
	if resp.Header.Get("Location") == "" {
		return nil
	}
	s, err := u.endpoint.session(resp)
	if err == nil {
		u.session.location = s.location
	}
	return err
}

func (u *upload) send(ctx context.Context, method string, place *url.URL, n int64, header http.Header) (*http.Response, error) {
	q := &request{step: u.patience.step, method: method, url: place, scopes: u.pushScope, header: header.Clone(), length: n}
	if q.header == nil {
		q.header = http.Header{}
	}
	q.header.Set("Content-Type", "application/octet-stream")
	offset := u.offset
	var body *section
	u.sent = 0
	q.body = func() (io.ReadCloser, error) {
		if n == 0 {
			return http.NoBody, nil
		}
		if body != nil {
			body.detach()
		}
		if err := u.source.seek(offset); err != nil {
			return nil, err
		}
		body = &section{source: u.source, left: n, progress: func(read int64) { u.progress(offset + read) }}
		return body, nil
	}
	resp, err := u.host.attempt(ctx, q)
	if body != nil {
		read, broken := body.detach()
		u.sent = read
		if broken != nil { // this side's fault, whatever the network says
			if resp != nil {
				resp.Body.Close()
			}
			return nil, broken
		}
	}
	return resp, err
}

// errStored says that the registry has the blob although it didn't say so.
var errStored = errors.New("stored")

// recover decides how to go on after a failed pass: nil means with another one.
func (u *upload) recover(ctx context.Context, err error) error {
	f, ok := err.(*failure)
	if !ok || ctx.Err() != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if f.status == 0 && !f.temporary() {
		return u.host.refuse(f, u.patience.step, 1)
	}
	opened := u.session != nil
	switch {
	case opened && f.status == http.StatusNotFound && f.code != codeNameAbsent:
		u.drop() // the session is lost
	case opened && (f.status == http.StatusMethodNotAllowed || f.status == http.StatusNotImplemented):
		// One of the two ways isn't had here.
		if u.chunked {
			u.host.noChunks.Store(true)
		} else {
			u.host.noWhole.Store(true)
		}
		if u.host.noChunks.Load() && u.host.noWhole.Load() {
			return u.refuse(f)
		}
		u.chunked = !u.chunked
		return u.resync(ctx)
	case opened && f.status == http.StatusRequestEntityTooLarge:
		if u.sent <= max(smallestChunk, u.session.minChunk) || u.host.noChunks.Load() {
			return u.refuse(f)
		}
		u.host.chunks.broke(u.sent)
		u.chunked = true
	case opened && f.status == http.StatusRequestedRangeNotSatisfiable:
		if next, ok := uploaded(f.rangeHeader, u.want.Size); ok && next != u.offset && next <= u.want.Size {
			u.offset, u.chunked = next, true
			return u.again(ctx, f)
		}
	case opened && f.status == http.StatusBadRequest && (f.code == "DIGEST_INVALID" || f.code == "SIZE_INVALID"):
		// Something on the way has changed the bytes, or they never were right.
		if u.restarts++; u.restarts > 1 {
			return integrity(u.name, u.want.Digest, "the registry says that other bytes have arrived")
		}
		u.cancel(ctx)
		u.drop()
		return nil
	case opened && f.status == http.StatusBadRequest && f.code == "BLOB_UPLOAD_INVALID":
		u.drop()
	case f.status != 0 && !temporary(f.status):
		return u.refuse(f)
	case f.status == 0 && u.sent > 0 && !u.host.noChunks.Load():
		u.host.chunks.broke(u.sent)
		u.chunked = true
	}
	if err := u.again(ctx, f); err != nil {
		return err
	}
	if !opened || u.session == nil {
		return nil
	}
	// It may have been stored before the answer was lost.
	there, err := u.lookOnce(ctx, u.want.Digest)
	if err != nil {
		return err
	}
	if there {
		return errStored
	}
	return u.resync(ctx)
}

// again counts a failure whatever its status is and waits before the next pass.
func (u *upload) again(ctx context.Context, f *failure) error {
	if f.status != 0 && !temporary(f.status) {
		worth := *f
		worth.status = http.StatusBadGateway
		if err := u.patience.again(ctx, &worth); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return u.refuse(f)
		}
		return nil
	}
	return u.patience.again(ctx, f)
}

func (u *upload) refuse(f *failure) error {
	return u.host.denied(f, u.patience.step, u.pushScope, u.name)
}

func (u *upload) drop() { u.session, u.offset = nil, 0 }

// resync asks the registry how far the upload is. A session that it doesn't
// know any more, or that can't be gone on with, is given up.
func (u *upload) resync(ctx context.Context) error {
	place, err := url.Parse(u.session.location)
	if err != nil {
		return err
	}
	resp, err := u.host.do(ctx, &request{step: "ask how far the upload of " + u.want.Digest.String() + " is", method: http.MethodGet, url: place, scopes: u.pushScope})
	if err != nil {
		return err
	}
	discard(resp)
	next, ok := uploaded(resp.Header.Get("Range"), u.want.Size)
	if resp.StatusCode < 200 || resp.StatusCode > 299 || !ok || next > u.want.Size || next > 0 && u.host.noChunks.Load() {
		u.drop()
		return nil
	}
	if err := u.move(resp); err != nil {
		u.drop()
		return nil
	}
	if next > 0 {
		u.chunked = true
	}
	u.gain(next)
	return nil
}

// cancel lets the registry clean up, if there is time for it.
func (u *upload) cancel(ctx context.Context) {
	if u.session == nil {
		return
	}
	place, err := url.Parse(u.session.location)
	if err != nil {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if resp, err := u.host.attempt(ctx, &request{method: http.MethodDelete, url: place, scopes: u.pushScope}); err == nil {
		resp.Body.Close()
	}
}

// uploaded reads the Range header of an upload (distribution-spec v1.1.1,
// "Pushing a blob in chunks"): the offset at which it goes on. 0-0 is what
// registries say of an empty upload, though it should mean one byte; sent tells
// the two apart.
func uploaded(value string, sent int64) (next int64, ok bool) {
	value = strings.TrimPrefix(strings.TrimPrefix(value, "bytes="), "bytes ")
	first, last, ok := strings.Cut(value, "-")
	if !ok || first != "0" {
		return 0, false
	}
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n < -1 || n == math.MaxInt64 {
		return 0, false
	}
	if n == 0 && sent != 1 {
		return 0, true
	}
	return n + 1, true
}
