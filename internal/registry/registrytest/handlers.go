package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	uploadsPath   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/([^/]*)$`)
	blobPath      = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
	manifestPath  = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	tagsPath      = regexp.MustCompile(`^/v2/(.+)/tags/list$`)
	referrersPath = regexp.MustCompile(`^/v2/(.+)/referrers/([^/]+)$`)
)

// serve does what a registry does.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, id int) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.URL.Path == "/token" {
		s.serveToken(w, r)
		return
	}
	if !s.authorized(w, r) {
		return
	}
	path := r.URL.Path
	switch {
	case path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case uploadsPath.MatchString(path):
		m := uploadsPath.FindStringSubmatch(path)
		s.serveUpload(w, r, m[1], m[2], id)
	case blobPath.MatchString(path):
		m := blobPath.FindStringSubmatch(path)
		s.serveBlob(w, r, m[1], digest.Digest(m[2]))
	case manifestPath.MatchString(path):
		m := manifestPath.FindStringSubmatch(path)
		s.serveManifest(w, r, m[1], m[2])
	case tagsPath.MatchString(path):
		s.serveTags(w, r, tagsPath.FindStringSubmatch(path)[1])
	case referrersPath.MatchString(path) && !s.config.NoReferrers:
		m := referrersPath.FindStringSubmatch(path)
		s.serveReferrers(w, m[1], digest.Digest(m[2]))
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such page")
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, repo string, d digest.Digest) {
	data, ok := s.Blob(repo, d)
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		delete(s.repos[repo].blobs, d)
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", d.String())
		if s.config.NoRange {
			r.Header.Del("Range")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request, repo, name string, id int) {
	query := r.URL.Query()
	if name == "" {
		if r.Method != http.MethodPost {
			fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
			return
		}
		if d := digest.Digest(query.Get("mount")); d != "" {
			if data, ok := s.Blob(query.Get("from"), d); ok {
				s.AddBlob(repo, data)
				w.Header().Set("Location", "/v2/"+repo+"/blobs/"+d.String())
				w.Header().Set("Docker-Content-Digest", d.String())
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		s.mu.Lock()
		s.serial++
		name = fmt.Sprintf("upload-%d", s.serial)
		s.uploads[name] = &upload{repo: repo, owner: id}
		s.mu.Unlock()
		s.uploadHeader(w, repo, name, 0)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.mu.Lock()
	u := s.uploads[name]
	size := 0
	if u != nil {
		u.owner = id
		size = len(u.data)
	}
	s.mu.Unlock()
	if u == nil || u.repo != repo {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "upload unknown to registry")
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.uploadHeader(w, repo, name, size)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodDelete:
		s.mu.Lock()
		delete(s.uploads, name)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		if span := r.Header.Get("Content-Range"); span != "" {
			first, _, _ := strings.Cut(span, "-")
			if start, err := strconv.Atoi(first); err != nil || start != size {
				s.uploadHeader(w, repo, name, size)
				fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk out of order")
				return
			}
		}
		size, ok := s.receive(u, r.Body, name, id)
		if !ok {
			return
		}
		s.uploadHeader(w, repo, name, size)
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		if _, ok := s.receive(u, r.Body, name, id); !ok {
			return
		}
		s.commit(w, u, name, digest.Digest(query.Get("digest")))
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	}
}

func (s *Server) uploadHeader(w http.ResponseWriter, repo, name string, size int) {
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+name+"?state=signed%2Bstate")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
	if s.config.MinChunk > 0 {
		w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(s.config.MinChunk, 10))
	}
}

// receive appends a body to an upload. What has come before a connection broke
// is kept, unless the registry is of the kind that doesn't.
func (s *Server) receive(u *upload, body io.Reader, name string, id int) (size int, ok bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		s.mu.Lock()
		if u.owner != id { // another request has taken the upload over
			s.mu.Unlock()
			return 0, false
		}
		u.data = append(u.data, buf[:n]...)
		size = len(u.data)
		if err != nil && err != io.EOF && s.config.NoResume {
			delete(s.uploads, name)
		}
		s.mu.Unlock()
		if err == io.EOF {
			return size, true
		}
		if err != nil {
			return size, false
		}
	}
}

func (s *Server) commit(w http.ResponseWriter, u *upload, name string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, name)
	if d.Validate() != nil || d.Algorithm().FromBytes(u.data) != d {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "the bytes have another digest")
		return
	}
	s.repo(u.repo).blobs[d] = u.data
	w.Header().Set("Location", "/v2/"+u.repo+"/blobs/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, repo, name string) {
	if r.Method == http.MethodPut {
		s.putManifest(w, r, repo, name)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rep := s.repos[repo]
	if rep == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	d := digest.Digest(name)
	tagged, isTag := rep.tags[name]
	if isTag {
		d = tagged
	}
	m, ok := rep.manifests[d]
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to registry")
		return
	}
	switch r.Method {
	case http.MethodDelete:
		if isTag {
			delete(rep.tags, name)
		} else {
			delete(rep.manifests, d)
			maps.DeleteFunc(rep.tags, func(_ string, of digest.Digest) bool { return of == d })
		}
		w.WriteHeader(http.StatusAccepted)
	case http.MethodGet, http.MethodHead:
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
		w.Header().Set("Content-Length", strconv.Itoa(len(m.data)))
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodGet {
			_, _ = w.Write(m.data)
		}
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	}
}

func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, repo, name string) {
	data, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return
	}
	var parsed struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
		Subject   *ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &parsed); err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "not JSON")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rep := s.repo(repo)
	d := digest.FromBytes(data)
	if want, err := digest.Parse(name); err == nil {
		if d = want.Algorithm().FromBytes(data); d != want {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", "the bytes have another digest")
			return
		}
	}
	blobs := parsed.Layers
	if parsed.Config != nil {
		blobs = append(blobs, *parsed.Config)
	}
	for _, b := range blobs {
		if _, ok := rep.blobs[b.Digest]; !ok && len(b.URLs) == 0 {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: "+b.Digest.String())
			return
		}
	}
	for _, m := range parsed.Manifests {
		if _, ok := rep.manifests[m.Digest]; !ok {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "manifest unknown to registry: "+m.Digest.String())
			return
		}
	}
	rep.manifests[d] = manifest{r.Header.Get("Content-Type"), data}
	if !strings.Contains(name, ":") {
		rep.tags[name] = d
	}
	if parsed.Subject != nil && !s.config.NoReferrers {
		w.Header().Set("OCI-Subject", parsed.Subject.Digest.String())
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Location", "/v2/"+repo+"/manifests/"+d.String())
	w.WriteHeader(http.StatusCreated)
}

func (s *Server) serveTags(w http.ResponseWriter, r *http.Request, repo string) {
	all := s.Tags(repo)
	if all == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	names := slices.Sorted(maps.Keys(all))
	if last := r.URL.Query().Get("last"); last != "" {
		names = slices.DeleteFunc(names, func(n string) bool { return n <= last })
	}
	limit := s.config.PageSize
	if n, err := strconv.Atoi(r.URL.Query().Get("n")); err == nil && (limit == 0 || n < limit) {
		limit = n
	}
	if limit > 0 && len(names) > limit {
		names = names[:limit]
		w.Header().Set("Link", fmt.Sprintf("</v2/%s/tags/list?n=%d&last=%s>; rel=\"next\"", repo, limit, names[limit-1]))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": names})
}

func (s *Server) serveReferrers(w http.ResponseWriter, repo string, subject digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	if rep := s.repos[repo]; rep != nil {
		for d, m := range rep.manifests {
			var parsed ocispec.Manifest
			if json.Unmarshal(m.data, &parsed) == nil && parsed.Subject != nil && parsed.Subject.Digest == subject {
				index.Manifests = append(index.Manifests, ocispec.Descriptor{
					MediaType: m.mediaType, Digest: d, Size: int64(len(m.data)), ArtifactType: parsed.ArtifactType, Annotations: parsed.Annotations,
				})
			}
		}
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(index)
}
