package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Repository is one repository of a registry. It may be used concurrently.
type Repository struct {
	client *Client
	name   string
	pull   []mirror // in the order in which they are asked; the last is push
	push   *endpoint
	direct bool
}

var _ image.Source = (*Repository)(nil)

// mirror is a place to read from.
type mirror struct {
	*endpoint
	use mirrorUse // empty for the place itself
}

// endpoint is a repository on the host that is really asked.
type endpoint struct {
	host      *host
	path      string // library/alpine
	name      string // docker.io/library/alpine, for messages
	pullScope string
	pushScope string

	// What is known of blobs there: digest → bool. A blob that is there stays,
	// as far as one process is concerned.
	known    sync.Map
	looks    flight[bool]
	uploads  flight[struct{}]
	sessions sync.Map // digest → *session that a mount has left open
}

// Name is the canonical name, such as docker.io/library/alpine.
func (r *Repository) Name() string { return r.name }

// Direct gives the same repository without mirrors. Who writes reads back from
// it, because a mirror may be late, and is asked for one token instead of two.
func (r *Repository) Direct() *Repository {
	return &Repository{client: r.client, name: r.name, push: r.push, pull: []mirror{{endpoint: r.push}}, direct: true}
}

// Prepare finds out how the registry is spoken to and gets a token for writing, so
// that the first request needs no other before it. What goes wrong is left to that
// request to tell.
func (r *Repository) Prepare(ctx context.Context) {
	if _, err := r.push.host.reach(ctx); err == nil {
		_, _, _ = r.push.host.authorize(ctx, r.push.pushScope)
	}
}

// reader is an endpoint as a repository reads it.
type reader struct {
	*endpoint
	scope string
	tries int // how patient to be; 0 is as patient as ever
}

// mirrorTries is the patience with a mirror, after which the next place is
// asked.
const mirrorTries = 2

// sources are the places to ask for a tag or digest.
func (r *Repository) sources(tagOrDigest string) []reader {
	_, err := digest.Parse(tagOrDigest)
	var list []reader
	for i, m := range r.pull {
		if m.use == useDigest && err != nil || m.use == useTag && err == nil {
			continue
		}
		e := reader{endpoint: m.endpoint, scope: m.pullScope, tries: mirrorTries}
		if i == len(r.pull)-1 {
			e.tries = 0
		}
		if r.direct {
			e.scope = m.pushScope
		}
		list = append(list, e)
	}
	return list
}

// each asks one place after the other for what is wanted. The last one's error
// is the one that counts: it is the repository's own.
func each[T any](ctx context.Context, readers []reader, ask func(reader) (T, error)) (T, error) {
	var value T
	var err error
	for _, e := range readers {
		value, err = ask(e)
		if err == nil || ctx.Err() != nil {
			return value, err
		}
	}
	return value, err
}

var acceptManifests = strings.Join([]string{
	ocispec.MediaTypeImageIndex, image.DockerManifestList, ocispec.MediaTypeImageManifest, image.DockerManifest, "*/*",
}, ", ")

// Resolve finds what a tag or digest names. An absent one wraps
// store.ErrNotFound.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	if err := checkIdentifier(r.name, tagOrDigest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return each(ctx, r.sources(tagOrDigest), func(e reader) (ocispec.Descriptor, error) {
		return e.resolve(ctx, tagOrDigest)
	})
}

func checkIdentifier(name, s string) error {
	if tagPattern.MatchString(s) {
		return nil
	}
	if _, err := digest.Parse(s); err != nil {
		return &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: name, Summary: fmt.Sprintf("%q is neither a tag nor a digest", s), Fix: []string{name + ":latest"}}
	}
	return nil
}

// place is how a tag or digest of the repository is written.
func (e *endpoint) place(tagOrDigest string) string {
	if strings.Contains(tagOrDigest, ":") {
		return e.name + "@" + tagOrDigest
	}
	return e.name + ":" + tagOrDigest
}

// resolve asks with HEAD, which Docker Hub doesn't count as a pull. Where that
// doesn't tell enough the manifest is read.
func (e reader) resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	q := &request{
		step: "look for manifest " + e.place(tagOrDigest), method: http.MethodHead,
		path: e.path + "/manifests/" + tagOrDigest, scopes: e.scope, tries: e.tries, header: http.Header{"Accept": {acceptManifests}},
	}
	resp, err := e.host.do(ctx, q)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	discard(resp)
	if resp.StatusCode == http.StatusOK {
		d := ocispec.Descriptor{MediaType: mediaType(resp), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
		want, wantErr := digest.Parse(tagOrDigest)
		if wantErr == nil && d.Digest == "" {
			d.Digest = want
		}
		usable := d.Digest.Validate() == nil && d.Size > 0 && (image.IsIndex(d.MediaType) || image.IsManifest(d.MediaType)) && (wantErr != nil || d.Digest == want)
		if usable {
			return d, nil
		}
	}
	if resp.StatusCode == http.StatusNotFound {
		return ocispec.Descriptor{}, e.host.denied(&failure{host: e.host.addr, status: resp.StatusCode}, q.step, q.scopes, e.place(tagOrDigest))
	}
	// HEAD has no words for what is wrong, and not every registry has HEAD.
	data, mt, err := e.manifest(ctx, tagOrDigest, acceptManifests)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mt, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if want, err := digest.Parse(tagOrDigest); err == nil {
		if got := want.Algorithm().FromBytes(data); got != want {
			return ocispec.Descriptor{}, integrity(e.name, want, "its bytes have the digest "+got.String())
		}
		d.Digest = want
	}
	return d, nil
}

func mediaType(resp *http.Response) string {
	mt, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(mt)
}

// manifest reads a manifest, whatever its digest. Cut answers are asked for
// again.
func (e reader) manifest(ctx context.Context, tagOrDigest, accept string) (data []byte, mt string, err error) {
	q := &request{
		step: "read manifest " + e.place(tagOrDigest), method: http.MethodGet,
		path: e.path + "/manifests/" + tagOrDigest, scopes: e.scope, tries: e.tries, header: http.Header{"Accept": {accept}},
	}
	data, resp, err := e.read(ctx, q, e.place(tagOrDigest))
	if err != nil {
		return nil, "", err
	}
	mt = mediaType(resp)
	if !image.IsIndex(mt) && !image.IsManifest(mt) {
		var head struct {
			MediaType string `json:"mediaType"`
		}
		if json.Unmarshal(data, &head) == nil && head.MediaType != "" {
			mt = head.MediaType
		}
	}
	return data, mt, nil
}

// read reads a small answer into memory.
func (e reader) read(ctx context.Context, q *request, place string) ([]byte, *http.Response, error) {
	patience := retry{host: e.host, step: q.step, limit: q.tries}
	for {
		data, resp, err := e.readOnce(ctx, q, place)
		if err == nil {
			return data, resp, nil
		}
		if _, ok := err.(*failure); !ok {
			return nil, nil, err
		}
		if err := patience.again(ctx, err); err != nil {
			return nil, nil, err
		}
	}
}

func (e reader) readOnce(ctx context.Context, q *request, place string) ([]byte, *http.Response, error) {
	resp, err := e.host.attempt(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, e.host.answer(ctx, resp, q, place)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, store.MaxManifestSize+1))
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if len(data) > store.MaxManifestSize {
		return nil, nil, &refusal.Error{Code: "PA406", Place: place, Summary: fmt.Sprintf("the registry answers with more than the %d bytes that are read", store.MaxManifestSize)}
	}
	if err != nil {
		return nil, nil, networkFailure(resp.Request.URL.Host, err)
	}
	return data, resp, nil
}

// Fetch opens a manifest or a blob, by its digest. A blob is streamed: a cut or
// silent connection is replaced by another that goes on where it was, on the
// next mirror if need be. The reader fails at its end, at the latest, if the
// bytes don't have the digest and size of d; that is a refusal with code PA408.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("fetch %s@%s: %w", r.name, d.Digest, err)
	}
	sources := r.healthy(d.Digest)
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		return r.fetchBlob(ctx, sources, d)
	}
	data, err := each(ctx, sources, func(e reader) ([]byte, error) {
		data, _, err := e.manifest(ctx, d.Digest.String(), d.MediaType+", "+acceptManifests)
		if err != nil {
			return nil, err
		}
		if d.Size > 0 && int64(len(data)) != d.Size {
			return nil, integrity(e.name, d.Digest, fmt.Sprintf("%d bytes came instead of %d", len(data), d.Size))
		}
		if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
			return nil, integrity(e.name, d.Digest, "its bytes have the digest "+got.String())
		}
		return data, nil
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(string(data))), nil
}

// healthy are the endpoints that haven't given wrong bytes for a digest; all of
// them if none is left.
func (r *Repository) healthy(d digest.Digest) []reader {
	sources := r.sources(d.String())
	good := slices.DeleteFunc(slices.Clone(sources), func(e reader) bool {
		_, bad := r.client.damaged.Load(e.name + "@" + d.String())
		return bad
	})
	if len(good) == 0 {
		return sources
	}
	return good
}

// Tags lists the tags, in the registry's order. A repository that isn't there
// wraps store.ErrNotFound.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	return each(ctx, r.sources("latest"), func(e reader) ([]string, error) {
		var tags []string
		err := e.pages(ctx, "list the tags of "+e.name, e.path+"/tags/list?n=1000", e.name, func(data []byte, _ *http.Response) error {
			var page struct{ Tags []string }
			if err := json.Unmarshal(data, &page); err != nil {
				return err
			}
			tags = append(tags, page.Tags...)
			return nil
		})
		return tags, err
	})
}

// maxPages bounds a listing; a registry that gives more is running in circles.
const maxPages = 10000

// pages reads a listing and what follows it by Link (distribution-spec v1.1.1,
// "Listing Tags").
func (e reader) pages(ctx context.Context, step, path, place string, page func([]byte, *http.Response) error) error {
	q := &request{step: step, method: http.MethodGet, path: path, scopes: e.scope, tries: e.tries}
	seen := map[string]bool{}
	for range maxPages {
		data, resp, err := e.read(ctx, q, place)
		if err != nil {
			return err
		}
		if err := page(data, resp); err != nil {
			if _, ok := errors.AsType[*refusal.Error](err); ok {
				return err
			}
			return &refusal.Error{Code: "PA406", Place: place, Summary: "the registry's listing isn't readable", Seen: []string{"while it was asked to " + step}, Err: err}
		}
		next := nextLink(resp.Header)
		if next == "" {
			return nil
		}
		u, err := e.host.locate(resp.Request.URL, next)
		if err != nil || !e.host.owns(u) || seen[u.String()] {
			return &refusal.Error{Code: "PA406", Place: place, Summary: "the registry's listing doesn't end where it should", Seen: []string{"it continues on another host, or on a page that was there already"}}
		}
		seen[u.String()] = true
		q = &request{step: step, method: http.MethodGet, url: u, scopes: e.scope, tries: e.tries}
	}
	return &refusal.Error{Code: "PA406", Place: place, Summary: "the registry's listing doesn't end"}
}

// nextLink gives the target of the Link header (RFC 8288) that leads on.
func nextLink(header http.Header) string {
	for _, value := range header.Values("Link") {
		for value != "" {
			start := strings.IndexByte(value, '<')
			if start < 0 {
				break
			}
			end := strings.IndexByte(value[start:], '>')
			if end < 0 {
				break
			}
			target := value[start+1 : start+end]
			params := value[start+end+1:]
			if i := strings.IndexByte(params, '<'); i >= 0 {
				params, value = params[:i], params[i:]
			} else {
				value = ""
			}
			for _, p := range strings.FieldsFunc(params, func(r rune) bool { return r == ';' || r == ',' }) {
				k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
				if strings.EqualFold(strings.TrimSpace(k), "rel") && strings.EqualFold(strings.Trim(strings.TrimSpace(v), `"`), "next") {
					if _, err := url.Parse(target); err == nil {
						return target
					}
				}
			}
		}
	}
	return ""
}

// Referrers lists what has d as its subject: by the referrers API or, where the
// registry hasn't got it, by the tag schema (distribution-spec v1.1.1, "Listing
// Referrers" and "Unavailable Referrers API").
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("referrers of %s@%s: %w", r.name, d, err)
	}
	return each(ctx, r.sources(d.String()), func(e reader) ([]ocispec.Descriptor, error) {
		return e.referrers(ctx, d)
	})
}

var errNoReferrers = errors.New("no referrers API")

func (e reader) referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	if !e.host.noReferrers.Load() {
		var found []ocispec.Descriptor
		err := e.pages(ctx, "list the referrers of "+e.place(d.String()), e.path+"/referrers/"+d.String(), e.name, func(data []byte, resp *http.Response) error {
			var index ocispec.Index
			if mt := mediaType(resp); mt != ocispec.MediaTypeImageIndex {
				return &refusal.Error{Code: "PA406", Place: e.name, Summary: "the registry answers with " + clean(mt) + " instead of an index", Err: errNoReferrers}
			}
			if err := json.Unmarshal(data, &index); err != nil {
				return err
			}
			found = append(found, index.Manifests...)
			return nil
		})
		switch status := statusOf(err); {
		case err == nil:
			return found, nil
		case errors.Is(err, errNoReferrers), status == http.StatusMethodNotAllowed, status == http.StatusBadRequest, status == http.StatusNotImplemented:
			e.host.noReferrers.Store(true)
		case status == http.StatusNotFound:
			// So says a registry without the API, and perhaps one without the
			// repository.
		default:
			return nil, err
		}
	}
	tag := ReferrersTag(d)
	data, _, err := e.manifest(ctx, tag, ocispec.MediaTypeImageIndex+", "+acceptManifests)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, &refusal.Error{Code: "PA406", Place: e.place(tag), Summary: "the list of referrers isn't an index", Err: err}
	}
	return index.Manifests, nil
}

// ReferrersTag is the tag under which the referrers of d are listed where there
// is no referrers API (distribution-spec v1.1.1, "Referrers Tag Schema").
func ReferrersTag(d digest.Digest) string {
	algorithm, encoded := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}
