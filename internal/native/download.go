package native

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
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

func (b *Build) fetchOnce(ctx context.Context, h dockerfile.HTTP) (t *filetree.Tree, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return nil, false, err
	}
	// The bytes that the checksum is of are those that the server has.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := b.o.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		return nil, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, &refusal.Error{Code: "PA107", Place: h.URL, Summary: "the server answered " + resp.Status}
	}
	out, err := os.CreateTemp(b.o.Scratch, "download-*")
	if err != nil {
		return nil, false, err
	}
	sum := digest.SHA256.Digester()
	n, err := io.Copy(io.MultiWriter(out, sum.Hash()), io.LimitReader(resp.Body, maxDownload+1))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return nil, true, err
	case resp.ContentLength >= 0 && n != resp.ContentLength:
		return nil, true, fmt.Errorf("%d of %d bytes came", n, resp.ContentLength)
	case h.Checksum != "" && sum.Digest().String() != h.Checksum:
		return nil, false, &refusal.Error{Code: "PA107", Place: h.URL, Summary: "the file isn't the one that --checksum names",
			Seen: []string{"it is " + sum.Digest().String(), "wanted " + h.Checksum}}
	}
	name := h.Filename
	if name == "" {
		name = path.Base(resp.Request.URL.Path)
		if name == "/" || name == "." || strings.Contains(name, "\x00") {
			name = "download"
		}
	}
	a := filetree.Attr{Mode: 0o600, UID: h.UID, GID: h.GID, ModTime: b.now()}
	if h.Mode != 0 {
		a.Mode = fs.FileMode(h.Mode).Perm()
	}
	if stamp, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		a.ModTime = stamp
	}
	if n > 0 {
		a.Content = filetree.FileContent(out.Name(), n)
	}
	t = filetree.New()
	return t, false, t.Put("/"+path.Base(name), a)
}
