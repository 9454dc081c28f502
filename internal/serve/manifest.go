package serve

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/store"
)

// maxTags bounds the tags of one push.
const maxTags = 100

// getManifest gives a manifest as it was pushed (distribution-spec v1.1.1,
// "Pulling manifests").
func (s *Server) getManifest(w http.ResponseWriter, r *http.Request, to route) error {
	if strings.Contains(to.reference, ":") {
		if _, err := parseDigest(to.reference); err != nil {
			return err
		}
	}
	repo, v, err := s.find(to.name)
	if err != nil {
		return err
	}
	d, ok := v.resolve(to.reference)
	if !ok {
		return manifestUnknown(to.reference)
	}
	f, err := repo.open(d.Digest)
	if err != nil {
		return err
	}
	if f == nil {
		return manifestUnknown(to.reference)
	}
	defer f.Close()
	mediaType := d.MediaType
	if mediaType == "" { // other programs may leave it out
		mediaType = v.facts.of(repo.store, d.Digest).mediaType
	}
	r.Header.Del("Range") // manifests are read whole
	send(w, r, f, mediaType, d.Digest)
	return nil
}

// push is a manifest on its way into a repository.
type push struct {
	reference string // tag or digest, as the URL has it
	tags      []string
	data      []byte
	document  *document
	d         ocispec.Descriptor
}

// putManifest takes a manifest (distribution-spec v1.1.1, "Pushing
// Manifests"). All its tags move at once.
func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, to route) error {
	p := push{reference: to.reference, tags: r.URL.Query()["tag"]}
	var byDigest digest.Digest
	if strings.Contains(to.reference, ":") {
		d, err := parseDigest(to.reference)
		if err != nil {
			return err
		}
		byDigest = d
	} else {
		p.tags = append([]string{to.reference}, p.tags...)
	}
	if len(p.tags) > maxTags {
		return &problem{status: http.StatusRequestURITooLong, code: codeUnsupported, message: fmt.Sprintf("more than %d tags", maxTags)}
	}
	for _, tag := range p.tags {
		if !validTag(tag) {
			return manifestInvalid("%.200q can't be a tag", tag)
		}
	}
	data, err := s.readManifest(w, r)
	if err != nil {
		return err
	}
	d := digest.FromBytes(data)
	if byDigest != "" {
		if d = byDigest.Algorithm().FromBytes(data); d != byDigest {
			return digestInvalid(byDigest.String(), fmt.Errorf("the manifest has the digest %s", d))
		}
	}
	document, mediaType, err := parseManifest(data, r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	p.data, p.document = data, document
	p.d = ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}

	if _, err := s.repository(to.name); isProblem(err, codeNameUnknown) && !s.options.Sparse {
		// What can't be pushed shouldn't leave an empty repository behind.
		if err := document.complete(func(digest.Digest) bool { return false }); err != nil {
			return err
		}
	}
	repo, err := s.create(to.name)
	if err != nil {
		return err
	}
	if err := s.commit(r, repo, p); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+to.name+"/manifests/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", etag(d))
	if document.Subject != nil {
		h.Set("OCI-Subject", document.Subject.Digest.String())
	}
	for _, tag := range r.URL.Query()["tag"] {
		h.Add("OCI-Tag", tag)
	}
	w.WriteHeader(http.StatusCreated)
	s.log.Note(repo.name, "", progress.Serve, "pushed "+strings.Join(append(p.tags, d.String()), " "))
	return nil
}

func (s *Server) readManifest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := &problem{
		status: http.StatusRequestEntityTooLarge, code: codeSizeInvalid, message: fmt.Sprintf("manifests may have %d bytes", store.MaxManifestSize),
	}
	if r.ContentLength > store.MaxManifestSize {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(s.incoming(w, r), store.MaxManifestSize+1))
	if err != nil {
		return nil, manifestInvalid("it didn't arrive whole")
	}
	if len(data) > store.MaxManifestSize {
		return nil, tooLarge
	}
	return data, nil
}

// commit stores a manifest and lists it. What it needs is looked for under the
// lock, so that it can't be deleted at the same time.
func (s *Server) commit(r *http.Request, repo *repository, p push) error {
	if err := p.write(repo.store); err != nil {
		return err
	}
	return repo.update(r.Context(), func(v *view, index *ocispec.Index) error {
		if err := precondition(r, v, p.reference); err != nil {
			return err
		}
		if !s.options.Sparse {
			if err := p.document.complete(repo.has); err != nil {
				return err
			}
		}
		if !repo.has(p.d.Digest) { // deleted since
			if err := p.write(repo.store); err != nil {
				return err
			}
		}
		if v.holds(p) {
			return errUnchanged
		}
		p.enter(index)
		return nil
	})
}

// write stores the bytes of the manifest under the digest that it was pushed
// by.
func (p push) write(st *store.Store) error {
	if st.Has(p.d.Digest) {
		return nil
	}
	w, err := st.Ingest()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(p.data); err != nil {
		return err
	}
	_, err = w.Commit(p.d.Digest)
	return err
}

// complete checks that a repository has everything a manifest needs.
func (m *document) complete(has func(digest.Digest) bool) error {
	var missing []any
	for _, d := range m.needs() {
		if !has(d) {
			missing = append(missing, map[string]string{"digest": d.String()})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	const enough = 20
	return &problem{
		status: http.StatusBadRequest, code: codeManifestBlobUnknown,
		message: fmt.Sprintf("%d blobs or manifests that it names aren't in this repository", len(missing)),
		details: missing[:min(len(missing), enough)],
	}
}

// precondition checks If-Match and If-None-Match (RFC 9110, 13.1) against what
// the reference names now. Of two writers who have read the same manifest only
// one can then replace it.
func precondition(r *http.Request, v *view, reference string) error {
	now, exists := v.resolve(reference)
	failed := &problem{status: http.StatusPreconditionFailed, code: codeDenied, message: fmt.Sprintf("%.200s isn't there", reference)}
	if exists {
		failed.message = reference + " is " + now.Digest.String()
	}
	if wanted := r.Header.Values("If-Match"); len(wanted) > 0 && !(exists && matches(wanted, now.Digest, false)) {
		return failed
	}
	if unwanted := r.Header.Values("If-None-Match"); len(unwanted) > 0 && exists && matches(unwanted, now.Digest, true) {
		return failed
	}
	return nil
}

// matches looks for a digest in a list of entity tags.
func matches(list []string, d digest.Digest, weak bool) bool {
	for _, line := range list {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimSpace(tag)
			if weak {
				tag = strings.TrimPrefix(tag, "W/")
			}
			if tag == "*" || tag == etag(d) {
				return true
			}
		}
	}
	return false
}

// deleteManifest removes a tag, or a manifest with all its tags
// (distribution-spec v1.1.1, "Deleting tags", "Deleting Manifests").
func (s *Server) deleteManifest(w http.ResponseWriter, r *http.Request, to route) error {
	repo, err := s.repository(to.name)
	if err != nil {
		return err
	}
	if strings.Contains(to.reference, ":") {
		err = deleteByDigest(r, repo, to.reference)
	} else {
		err = repo.update(r.Context(), func(v *view, index *ocispec.Index) error {
			if _, ok := v.tags[to.reference]; !ok {
				return manifestUnknown(to.reference)
			}
			if err := precondition(r, v, to.reference); err != nil {
				return err
			}
			untag(index, to.reference)
			return nil
		})
	}
	if isAbsent(err) {
		return s.absent(repo, manifestUnknown(to.reference))
	}
	if err != nil {
		return err
	}
	s.log.Note(repo.name, "", progress.Serve, "deleted "+to.reference)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func deleteByDigest(r *http.Request, repo *repository, reference string) error {
	d, err := parseDigest(reference)
	if err != nil {
		return err
	}
	err = repo.update(r.Context(), func(v *view, index *ocispec.Index) error {
		if _, ok := v.manifest(d); !ok || !repo.has(d) && !v.lists(d) {
			return manifestUnknown(reference)
		}
		if err := precondition(r, v, reference); err != nil {
			return err
		}
		if parent, _ := v.holders(d); parent != "" {
			return inUse(d, parent.String()+" lists it")
		}
		repo.unlist(index, d)
		return nil
	})
	if err != nil {
		return err
	}
	// Its bytes go after the change of index.json is durable, so that nothing
	// is listed at any moment that isn't there. By then it may be in use again.
	return repo.locked(r.Context(), func(v *view) error {
		_, exists := v.manifest(d)
		if parent, user := v.holders(d); exists || parent != "" || user != "" {
			return nil
		}
		return repo.store.Delete(d)
	})
}
