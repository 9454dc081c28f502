package serve

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/store"
)

// uploads are the sessions in which blobs are being pushed. They live in this
// process only: after a restart clients begin anew, as they must be able to.
type uploads struct {
	server *Server
	mu     sync.Mutex
	open   map[string]*upload
}

// upload is one session. Its temporary file is made with the first byte.
type upload struct {
	id     string
	name   string // of the repository
	size   atomic.Int64
	expiry *time.Timer

	// The manager's lock guards these.
	users int       // requests that have it or wait for it
	idle  time.Time // since when nobody does
	stop  func()    // interrupts the request that has it

	busy   sync.Mutex // held by the request that has it; guards these
	writer *store.Writer
	gone   bool // committed, cancelled or broken
}

// start opens a session. If there are too many, one that has been idle for a
// minute gives way; else the client has to wait.
func (u *uploads) start(name string) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.open) >= u.server.options.MaxUploads {
		var oldest *upload
		for _, up := range u.open {
			if up.users == 0 && time.Since(up.idle) > time.Minute && (oldest == nil || up.idle.Before(oldest.idle)) {
				oldest = up
			}
		}
		if oldest == nil {
			return nil, &problem{status: http.StatusTooManyRequests, code: codeTooManyRequests, message: fmt.Sprintf("%d uploads are open", len(u.open))}
		}
		u.remove(oldest)
	}
	up := &upload{id: newUUID(), name: name, idle: time.Now()}
	up.expiry = time.AfterFunc(u.server.options.UploadExpiry, func() { u.expire(up) })
	if u.open == nil {
		u.open = map[string]*upload{}
	}
	u.open[up.id] = up
	return up, nil
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// find looks a session up without taking it.
func (u *uploads) find(to route) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.open[to.reference]
	if up == nil || up.name != to.name {
		return nil, uploadUnknown()
	}
	return up, nil
}

func uploadUnknown() *problem {
	return &problem{status: http.StatusNotFound, code: codeUploadUnknown, message: "there is no such upload; it may have expired"}
}

// take gives a session to one request. Another one that still has it, most
// likely because its connection is dead and nobody has noticed, is interrupted.
func (u *uploads) take(to route, stop func()) (up *upload, release func(), err error) {
	up, err = u.find(to)
	if err != nil {
		return nil, nil, err
	}
	u.mu.Lock()
	up.users++
	up.expiry.Stop()
	before := up.stop
	up.stop = stop
	u.mu.Unlock()
	if before != nil {
		before()
	}
	up.busy.Lock()
	release = func() {
		up.busy.Unlock()
		u.mu.Lock()
		defer u.mu.Unlock()
		if up.users--; up.users == 0 {
			up.stop = nil
			up.idle = time.Now()
			if u.open[up.id] == up {
				up.expiry.Reset(u.server.options.UploadExpiry)
			}
		}
	}
	if up.gone {
		release()
		return nil, nil, uploadUnknown()
	}
	return up, release, nil
}

// expire ends a session that nobody uses.
func (u *uploads) expire(up *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up.users == 0 {
		u.remove(up)
	}
}

// remove drops a session that nobody has; the manager's lock is held.
func (u *uploads) remove(up *upload) {
	delete(u.open, up.id)
	up.expiry.Stop()
	up.busy.Lock() // free: nobody has it
	defer up.busy.Unlock()
	up.end()
}

// end drops what has been received, unless it was committed. The request that
// calls it has the session.
func (up *upload) end() {
	up.gone = true
	if up.writer != nil {
		up.writer.Abort()
	}
}

// finish ends a session that the calling request has.
func (u *uploads) finish(up *upload) {
	up.end()
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, up.id)
}

// close ends all sessions, interrupting those who use them.
func (u *uploads) close() {
	u.mu.Lock()
	var used []*upload
	for _, up := range u.open {
		if up.users == 0 {
			u.remove(up)
			continue
		}
		used = append(used, up)
		if up.stop != nil {
			up.stop()
		}
	}
	u.mu.Unlock()
	for _, up := range used {
		up.busy.Lock()
		u.finish(up)
		up.busy.Unlock()
	}
}

// startUpload opens an upload, unless the blob can be mounted or comes with the
// request (distribution-spec v1.1.1, "Pushing blobs").
func (s *Server) startUpload(w http.ResponseWriter, r *http.Request, to route) error {
	query := r.URL.Query()
	if algorithm := query.Get("digest-algorithm"); algorithm != "" && !digest.Algorithm(algorithm).Available() {
		return digestInvalid(algorithm, digest.ErrDigestUnsupported)
	}
	if query.Has("mount") {
		d, err := parseDigest(query.Get("mount"))
		if err != nil {
			return err
		}
		mounted, err := s.mount(r, to.name, d, query.Get("from"))
		if err != nil {
			return err
		}
		if mounted {
			created(w, to.name, d)
			return nil
		}
	} else if query.Has("digest") {
		return s.pushAtOnce(w, r, to, query.Get("digest"))
	}
	up, err := s.uploads.start(to.name)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		return err
	}
	up.describe(w)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// pushAtOnce takes a blob that comes in a single POST.
func (s *Server) pushAtOnce(w http.ResponseWriter, r *http.Request, to route, reference string) error {
	d, err := parseDigest(reference)
	if err != nil {
		return err
	}
	repo, err := s.create(to.name)
	if err != nil {
		return err
	}
	writer, err := repo.store.Ingest()
	if err != nil {
		return err
	}
	defer writer.Abort()
	in := s.incoming(w, r)
	if _, err := io.Copy(writer, in); err != nil {
		return in.problem(err)
	}
	if _, err := writer.Commit(d); err != nil {
		return err
	}
	created(w, to.name, d)
	return nil
}

// created answers that a blob is here now.
func created(w http.ResponseWriter, name string, d digest.Digest) {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// describe says in headers where an upload goes on. Nothing and one byte are
// both 0-0, as every registry has it.
func (up *upload) describe(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Location", "/v2/"+up.name+"/blobs/uploads/"+up.id)
	h.Set("Range", "0-"+strconv.FormatInt(max(up.size.Load()-1, 0), 10))
	h.Set("Docker-Upload-UUID", up.id)
}

// uploadStatus says how much of an upload is here. It doesn't disturb the
// request that is sending.
func (s *Server) uploadStatus(w http.ResponseWriter, _ *http.Request, to route) error {
	up, err := s.uploads.find(to)
	if err != nil {
		return err
	}
	up.describe(w)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// patchUpload takes a chunk, or all there is.
func (s *Server) patchUpload(w http.ResponseWriter, r *http.Request, to route) error {
	in := s.incoming(w, r)
	up, release, err := s.uploads.take(to, in.interrupt)
	if err != nil {
		return err
	}
	defer release()
	if err := s.receive(w, r, up, in); err != nil {
		return err
	}
	up.describe(w)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// putUpload takes what is left of a blob and closes its upload.
func (s *Server) putUpload(w http.ResponseWriter, r *http.Request, to route) error {
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	in := s.incoming(w, r)
	up, release, err := s.uploads.take(to, in.interrupt)
	if err != nil {
		return err
	}
	defer release()
	if err := s.receive(w, r, up, in); err != nil {
		return err
	}
	defer s.uploads.finish(up)
	if _, err := up.writer.Commit(d); err != nil {
		return err
	}
	created(w, up.name, d)
	return nil
}

// cancelUpload drops an upload (distribution-spec, "Cancel a blob upload").
func (s *Server) cancelUpload(w http.ResponseWriter, _ *http.Request, to route) error {
	up, release, err := s.uploads.take(to, nil)
	if err != nil {
		return err
	}
	defer release()
	s.uploads.finish(up)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receive appends the body of a request to an upload. What has arrived before
// a connection breaks stays, and the client can go on after it.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, up *upload, in *incoming) error {
	var body io.Reader = in
	want := int64(-1)
	if value := r.Header.Get("Content-Range"); value != "" {
		first, last, ok := parseContentRange(value)
		switch {
		case !ok:
			return &problem{status: http.StatusBadRequest, code: codeUploadInvalid, message: fmt.Sprintf("Content-Range %.100q", value)}
		case first != up.size.Load():
			up.describe(w)
			return &problem{
				status: http.StatusRequestedRangeNotSatisfiable, code: codeUploadInvalid,
				message: fmt.Sprintf("the upload goes on at byte %d", up.size.Load()),
			}
		}
		want = last - first + 1
		if r.ContentLength >= 0 && r.ContentLength != want {
			return sizeInvalid(r.ContentLength, want)
		}
		body = io.LimitReader(in, want)
	}
	if up.writer == nil {
		repo, err := s.create(up.name)
		if err != nil {
			return err
		}
		if up.writer, err = repo.store.Ingest(); err != nil {
			return err
		}
	}
	n, err := io.Copy(counter{up}, body)
	if err != nil {
		if in.err == nil { // the disk failed: free what the upload takes
			s.uploads.finish(up)
		}
		return in.problem(err)
	}
	if want >= 0 {
		more, _ := io.CopyN(io.Discard, in, 1) // a body without Content-Length may be too long
		if n+more != want {
			return sizeInvalid(n+more, want)
		}
	}
	return nil
}

// counter writes to an upload and counts.
type counter struct{ *upload }

func (c counter) Write(p []byte) (int, error) {
	n, err := c.writer.Write(p)
	c.size.Store(c.writer.Size())
	return n, err
}

func sizeInvalid(got, want int64) *problem {
	return &problem{
		status: http.StatusBadRequest, code: codeSizeInvalid, message: fmt.Sprintf("%d bytes came and Content-Range has %d", got, want),
	}
}

// problem tells a body that broke off, which is the client's matter, from a
// disk that failed, which is ours.
func (in *incoming) problem(err error) error {
	if in.err == nil {
		return err
	}
	return &problem{status: http.StatusBadRequest, code: codeUploadInvalid, message: "the body didn't arrive whole"}
}

// parseContentRange reads first-last (distribution-spec v1.1.1, "Pushing a
// blob in chunks"), and tolerates the form of RFC 9110, bytes first-last/size.
func parseContentRange(value string) (first, last int64, ok bool) {
	value = strings.TrimPrefix(value, "bytes ")
	value, _, _ = strings.Cut(value, "/")
	a, b, ok := strings.Cut(value, "-")
	if !ok {
		return 0, 0, false
	}
	first, errFirst := strconv.ParseInt(a, 10, 64)
	last, errLast := strconv.ParseInt(b, 10, 64)
	return first, last, errFirst == nil && errLast == nil && first >= 0 && last >= first && last-first+1 > 0 && a[0] != '+' && b[0] != '+'
}
