package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/refusal"
)

// maxDownload bounds what ADD fetches, in bytes.
const maxDownload = 20 << 30

// download fetches the file of an ADD, once for all platforms that name the same URL.
func (b *Build) download(ctx context.Context, h dockerfile.HTTP) (*filetree.Tree, error) {
	value, err := shared(ctx, &b.memo, fmt.Sprintf("http %v", h), func() (any, error) { return b.fetch(ctx, h) })
	if err != nil {
		return nil, err
	}
	return value.(*filetree.Tree).Fork(), nil
}

func (b *Build) fetch(ctx context.Context, h dockerfile.HTTP) (*filetree.Tree, error) {
	if b.o.Offline {
		return nil, &refusal.Error{Code: "PA107", Place: h.URL, Summary: "the file can't be downloaded with --network none"}
	}
	var last error
	for try := range 3 {
		if try > 0 {
			select {
			case <-time.After(time.Duration(try) * time.Second):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		tree, again, err := b.fetchOnce(ctx, h)
		if err == nil || !again {
			return tree, err
		}
		last = err
	}
	return nil, &refusal.Error{Code: "PA107", Kind: refusal.Unavailable, Place: h.URL, Summary: "the file can't be downloaded", Seen: []string{last.Error()}, Err: last}
}

// fetched is what is remembered of a file that was downloaded: its content is in the
// store.
type fetched struct {
	Digest   digest.Digest
	Size     int64
	Name     string // that the server gives it
	ETag     string // if it says that the bytes are the same
	Modified string // Last-Modified
	// Since says that Modified tells one content from another: a file that changes twice
	// within a second has one time for both (RFC 9110, 8.8.2.2).
	Since bool
}

// recall gives what an earlier build has downloaded, if that is still there, and what it
// was.
func (b *Build) recall(h dockerfile.HTTP) (fetched, bool) {
	var f fetched
	if b.o.Memo == nil || b.o.NoCache {
		return f, false
	}
	data, ok := b.o.Memo.Get("http " + h.URL)
	if !ok || json.Unmarshal(data, &f) != nil || h.Checksum != "" && f.Digest.String() != h.Checksum {
		return fetched{}, false
	}
	in, err := b.o.Store.Blob(f.Digest)
	if err != nil {
		return fetched{}, false
	}
	verifier := f.Digest.Verifier()
	n, err := io.Copy(verifier, in)
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	if err != nil || n != f.Size || !verifier.Verified() {
		_ = b.o.Store.Delete(f.Digest) // it is damaged
		return fetched{}, false
	}
	return f, true
}

// fetchOnce asks the server once. What it has and had before travels once: it is asked
// with the validators of what came then, and not at all if the Dockerfile says which
// bytes it is.
func (b *Build) fetchOnce(ctx context.Context, h dockerfile.HTTP) (t *filetree.Tree, again bool, err error) {
	known, here := b.recall(h)
	if here && h.Checksum != "" {
		t, err = b.fetchedTree(h, known)
		return t, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return nil, false, err
	}
	// The bytes that the checksum is of are those that the server has.
	req.Header.Set("Accept-Encoding", "identity")
	if here && known.ETag != "" {
		req.Header.Set("If-None-Match", known.ETag)
	}
	if here && known.Since {
		req.Header.Set("If-Modified-Since", known.Modified)
	}
	asked := req.Header.Get("If-None-Match")+req.Header.Get("If-Modified-Since") != ""
	end := download.Fetching(req)
	resp, err := b.o.Client.Do(req)
	defer func() { end(resp) }() // the body has come then
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		return nil, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	now := fetched{Name: path.Base(resp.Request.URL.Path), Modified: resp.Header.Get("Last-Modified")}
	if now.Name == "/" || now.Name == "." || strings.Contains(now.Name, "\x00") {
		now.Name = "download"
	}
	switch {
	case resp.StatusCode == http.StatusNotModified && asked:
		known.Name = now.Name
		if now.Modified != "" {
			known.Modified = now.Modified
		}
		t, err = b.fetchedTree(h, known)
		return t, false, err
	case resp.StatusCode != http.StatusOK:
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, &refusal.Error{Code: "PA107", Place: h.URL, Summary: "the server answered " + resp.Status}
	}
	out, err := b.o.Store.Ingest()
	if err != nil {
		return nil, false, err
	}
	defer out.Abort()
	now.Size, err = io.Copy(out, io.LimitReader(resp.Body, maxDownload+1))
	var full *refusal.Error
	switch {
	case errors.As(err, &full):
		return nil, false, err // of the disk
	case err != nil:
		return nil, true, err
	case resp.ContentLength >= 0 && now.Size != resp.ContentLength:
		return nil, true, fmt.Errorf("%d of %d bytes came", now.Size, resp.ContentLength)
	case now.Size > maxDownload:
		return nil, false, &refusal.Error{Code: "PA107", Place: h.URL, Summary: fmt.Sprintf("the file has more than %d bytes", int64(maxDownload))}
	}
	if now.Digest, err = out.Commit(""); err != nil {
		return nil, false, err
	}
	if h.Checksum != "" && now.Digest.String() != h.Checksum {
		return nil, false, &refusal.Error{Code: "PA107", Place: h.URL, Summary: "the file isn't the one that --checksum names",
			Seen: []string{"it is " + now.Digest.String(), "wanted " + h.Checksum}}
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) { // not a weak one: W/"…"
		now.ETag = tag
	}
	changed, err1 := http.ParseTime(now.Modified)
	told, err2 := http.ParseTime(resp.Header.Get("Date"))
	now.Since = err1 == nil && err2 == nil && told.Sub(changed) >= time.Minute
	if data, err := json.Marshal(now); err == nil && b.o.Memo != nil {
		b.o.Memo.Put("http "+h.URL, data)
	}
	t, err = b.fetchedTree(h, now)
	return t, false, err
}

// fetchedTree is the file that ADD copies.
func (b *Build) fetchedTree(h dockerfile.HTTP, f fetched) (*filetree.Tree, error) {
	a := filetree.Attr{Mode: 0o600, UID: h.UID, GID: h.GID, ModTime: b.now()}
	if h.Mode != 0 {
		a.Mode = fs.FileMode(h.Mode).Perm()
	}
	if stamp, err := http.ParseTime(f.Modified); err == nil {
		a.ModTime = stamp
	}
	if f.Size > 0 {
		// The tree reads the file by its name.
		if err := b.o.Store.Settle(f.Digest); err != nil {
			return nil, err
		}
		name, err := b.o.Store.Path(f.Digest)
		if err != nil {
			return nil, err
		}
		a.Content = filetree.FileContent(name, f.Size)
	}
	name := h.Filename
	if name == "" {
		name = f.Name
	}
	t := filetree.New()
	return t, t.Put("/"+path.Base(name), a)
}
