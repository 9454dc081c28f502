package registry

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Exists reports whether the repository itself, not a mirror, has a blob. That
// it has is remembered for the life of the client; that it hasn't is what the
// next PushBlob then relies on.
func (r *Repository) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if err := d.Digest.Validate(); err != nil {
		return false, fmt.Errorf("look for %s@%s: %w", r.name, d.Digest, err)
	}
	e := r.push
	if there, ok := e.known.Load(d.Digest); ok && there.(bool) {
		return true, nil
	}
	return e.look(ctx, d.Digest)
}

// look asks whether a blob is there, once for all who want to know now.
func (e *endpoint) look(ctx context.Context, d digest.Digest) (bool, error) {
	return e.looks.do(ctx, d.String(), func() (bool, error) {
		there, err := e.lookOnce(ctx, d)
		if err == nil {
			e.know(d, there)
		}
		return there, err
	})
}

func (e *endpoint) know(d digest.Digest, there bool) { e.known.Store(d, there) }

func (e *endpoint) lookOnce(ctx context.Context, d digest.Digest) (bool, error) {
	q := &request{
		step: "look for blob " + e.place(d.String()), method: http.MethodHead,
		path: e.path + "/blobs/" + d.String(), scopes: e.pushScope,
	}
	resp, err := e.host.do(ctx, q)
	if err != nil {
		return false, err
	}
	discard(resp)
	own := e.host.owns(resp.Request.URL)
	switch {
	case resp.StatusCode == http.StatusOK:
		return true, nil
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	case own && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden):
		return false, e.explain(ctx, q, resp.StatusCode)
	}
	// No HEAD here, or none at the storage that it leads to: one byte tells.
	q.method, q.header = http.MethodGet, http.Header{"Range": {"bytes=0-0"}}
	resp, err = e.host.do(ctx, q)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable, nil
}

// explain asks again with GET, because an answer to HEAD has no words.
func (e *endpoint) explain(ctx context.Context, q *request, status int) error {
	get := *q
	get.method, get.header = http.MethodGet, http.Header{"Range": {"bytes=0-0"}}
	resp, err := e.host.do(ctx, &get)
	if err != nil {
		return err
	}
	if resp.StatusCode < 400 {
		resp.Body.Close()
		return e.host.denied(&failure{host: e.host.addr, status: status}, q.step, q.scopes, e.name)
	}
	return e.host.answer(ctx, resp, q, e.name)
}

// Mount lets the repository have a blob of another one on the same registry,
// without sending it (distribution-spec v1.1.1, "Mounting a blob from another
// repository"). False means that it has to be pushed; an upload that the
// registry has opened instead is used by the next PushBlob of that blob.
func (r *Repository) Mount(ctx context.Context, d ocispec.Descriptor, fromRepository string) (bool, error) {
	if err := d.Digest.Validate(); err != nil {
		return false, fmt.Errorf("mount %s@%s: %w", r.name, d.Digest, err)
	}
	name, err := ParseRepository(fromRepository)
	if err != nil {
		return false, err
	}
	other, err := r.client.routes.find(name)
	if err != nil {
		return false, nil // blocked for pulling; the blob can still be pushed
	}
	e, from := r.push, r.client.endpoint(other.location)
	if from.host != e.host || from == e {
		return false, nil
	}
	if there, ok := e.known.Load(d.Digest); ok && there.(bool) {
		return true, nil
	}
	q := &request{
		step:   "mount blob " + d.Digest.String() + " of " + from.name + " into " + e.name,
		method: http.MethodPost,
		path:   e.path + "/blobs/uploads/?mount=" + d.Digest.String() + "&from=" + from.path,
		scopes: e.pushScope + " " + from.pullScope,
	}
	resp, err := e.host.do(ctx, q)
	if err != nil {
		if ctx.Err() == nil && isAuth(err) {
			return false, nil // no token for the other repository
		}
		return false, err
	}
	discard(resp)
	switch resp.StatusCode {
	case http.StatusCreated:
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.Digest.String() {
			return false, nil
		}
		e.know(d.Digest, true)
		return true, nil
	case http.StatusAccepted:
		if s, err := e.session(resp); err == nil {
			e.sessions.Store(d.Digest, s)
		}
	}
	return false, nil
}

// session is an upload that a registry has opened.
type session struct {
	location string
	minChunk int64 // distribution-spec v1.1.1, OCI-Chunk-Min-Length; 0 if not given
}

// session reads where an upload goes on from an answer that has opened it.
func (e *endpoint) session(resp *http.Response) (*session, error) {
	place := resp.Header.Get("Location")
	if id := resp.Header.Get("Docker-Upload-UUID"); place == "" && id != "" && !strings.ContainsAny(id, "/?#%") {
		place = "/v2/" + e.path + "/blobs/uploads/" + id
	}
	u, err := e.host.locate(resp.Request.URL, place)
	if err != nil {
		return nil, &failure{host: e.host.addr, err: err}
	}
	s := &session{location: u.String()}
	if n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && n > 0 {
		s.minChunk = n
	}
	return s, nil
}
