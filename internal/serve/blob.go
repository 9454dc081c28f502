package serve

import (
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/progress"
)

// getBlob gives a blob or a part of it (distribution-spec v1.1.1, "Pulling
// blobs").
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request, to route) error {
	d, err := parseDigest(to.reference)
	if err != nil {
		return err
	}
	repo, err := s.repository(to.name)
	if err != nil {
		return err
	}
	f, err := repo.open(d)
	if err != nil {
		return err
	}
	if f == nil {
		return s.absent(repo, blobUnknown(d))
	}
	defer f.Close()
	send(w, r, f, "application/octet-stream", d)
	return nil
}

// send answers with a file of the store, whose name is its digest.
func send(w http.ResponseWriter, r *http.Request, f *os.File, mediaType string, d digest.Digest) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", etag(d))
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // no client wants several parts, and they are costly
	}
	http.ServeContent(w, r, "", time.Time{}, f)
}

func etag(d digest.Digest) string { return `"` + d.String() + `"` }

// absent answers that something isn't in a repository, or that there is no
// such repository any more.
func (s *Server) absent(repo *repository, p *problem) error {
	if !isLayout(repo.store.Dir()) {
		s.forget(repo)
		return nameUnknown(repo.name)
	}
	return p
}

// deleteBlob removes a blob that nothing in the repository needs
// (distribution-spec v1.1.1, "Deleting Blobs").
func (s *Server) deleteBlob(w http.ResponseWriter, r *http.Request, to route) error {
	d, err := parseDigest(to.reference)
	if err != nil {
		return err
	}
	repo, err := s.repository(to.name)
	if err != nil {
		return err
	}
	if !repo.has(d) {
		return s.absent(repo, blobUnknown(d))
	}
	err = repo.locked(r.Context(), func(v *view) error {
		if _, ok := v.manifest(d); ok {
			return inUse(d, "it is a manifest, which has to be deleted as one")
		}
		if _, user := v.holders(d); user != "" {
			return inUse(d, user.String()+" needs it")
		}
		return repo.store.Delete(d)
	})
	if err != nil {
		return err
	}
	s.log.Note(repo.name, "", progress.Serve, "deleted blob "+d.String())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// inUse turns down to delete what something else needs. The specification lets
// a registry disable deletion with this status.
func inUse(d digest.Digest, why string) *problem {
	return &problem{status: http.StatusMethodNotAllowed, code: codeDenied, message: d.String() + " can't be deleted: " + why}
}

// mount lets a repository have a blob of another one, or of any, if from is
// empty; false if that one doesn't have it (distribution-spec v1.1.1,
// "Mounting a blob from another repository").
func (s *Server) mount(r *http.Request, name string, d digest.Digest, from string) (bool, error) {
	if repo, err := s.repository(name); err == nil && repo.has(d) {
		return true, nil
	}
	sources := []string{from}
	if from == "" {
		var err error
		if sources, err = s.names(r.Context()); err != nil {
			return false, err
		}
	}
	for _, source := range sources {
		if s.single != "" || !s.validName(source) { // a single repository has no others
			continue
		}
		other, err := s.repository(source)
		if err != nil || !other.has(d) {
			continue
		}
		repo, err := s.create(name)
		if err != nil {
			return false, err
		}
		if err := repo.store.Link(d, other.store); err != nil {
			if isAbsent(err) {
				continue // deleted since
			}
			return false, err
		}
		return true, nil
	}
	return false, nil
}
