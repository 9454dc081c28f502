package serve

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tags lists the tags of a repository (distribution-spec v1.1.1, "Listing
// Tags").
func (s *Server) tags(w http.ResponseWriter, r *http.Request, to route) error {
	_, v, err := s.find(to.name)
	if err != nil {
		return err
	}
	part, err := page(w, r, v.names)
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{to.name, part})
}

// catalog lists the repositories (distribution, "Listing Repositories"), which
// the OCI's specification leaves out.
func (s *Server) catalog(w http.ResponseWriter, r *http.Request, _ route) error {
	names, err := s.names(r.Context())
	if err != nil {
		return err
	}
	part, err := page(w, r, names)
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{part})
}

// page picks the part of a sorted list that the parameters n and last ask for,
// and links to the next one.
func page(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if query.Has("n") {
		n, err := strconv.ParseUint(query.Get("n"), 10, 31)
		if err != nil {
			return nil, &problem{status: http.StatusBadRequest, code: codeUnsupported, message: "n isn't a number of entries"}
		}
		if int(n) < len(all) {
			all = all[:n]
			if n > 0 {
				linkNext(w, r, url.Values{"n": {query.Get("n")}, "last": {all[n-1]}})
			}
		}
	}
	if all == nil {
		all = []string{}
	}
	return all, nil
}

// linkNext says where the list goes on (RFC 5988).
func linkNext(w http.ResponseWriter, r *http.Request, parameters url.Values) {
	next := url.URL{Path: r.URL.Path, RawQuery: parameters.Encode()}
	w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

// maxReferrers bounds one answer with referrers, in bytes. Clients read
// indexes of up to 4 MiB.
const maxReferrers = 3 << 20

// referrers lists the manifests whose subject is a digest (distribution-spec
// v1.1.1, "Listing Referrers"). It is never 404, which would send clients to
// the referrers tag; manifests that such a tag lists are among them anyway.
func (s *Server) referrers(w http.ResponseWriter, r *http.Request, to route) error {
	subject, err := parseDigest(to.reference)
	if err != nil {
		return err
	}
	answer := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
	}
	repo, v, err := s.find(to.name)
	switch {
	case isProblem(err, codeNameUnknown):
	case err != nil:
		return err
	default:
		answer.Manifests = s.referrersOf(w, r, repo, v, subject)
	}
	if wanted := r.URL.Query().Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, ocispec.MediaTypeImageIndex, answer)
}

func (s *Server) referrersOf(w http.ResponseWriter, r *http.Request, repo *repository, v *view, subject digest.Digest) []ocispec.Descriptor {
	query := r.URL.Query()
	wanted, last := query.Get("artifactType"), query.Get("last")
	found := []ocispec.Descriptor{}
	size := 0
	for _, d := range v.referrers()[subject] {
		if wanted != "" && d.ArtifactType != wanted || d.Digest.String() <= last {
			continue
		}
		// Annotations can be large, so they aren't kept in memory.
		data, err := repo.store.ReadBlob(d.Digest)
		if err != nil {
			continue
		}
		var m document
		if json.Unmarshal(data, &m) != nil {
			continue
		}
		d.Size, d.Annotations = int64(len(data)), m.Annotations
		encoded, err := json.Marshal(d)
		if err != nil {
			continue
		}
		if size += len(encoded); size > maxReferrers && len(found) > 0 {
			parameters := url.Values{"last": {found[len(found)-1].Digest.String()}}
			if wanted != "" {
				parameters.Set("artifactType", wanted)
			}
			linkNext(w, r, parameters)
			break
		}
		found = append(found, d)
	}
	return found
}
