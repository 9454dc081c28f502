package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
)

// The codes of distribution-spec v1.1.1, "Error Codes".
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN" // the registry's own failures, which the specification leaves open
)

// problem is an answer that isn't what was asked for.
type problem struct {
	status  int
	code    string
	message string
	details []any // several errors of one code, one detail each; or none
}

func (p *problem) Error() string { return p.code + ": " + p.message }

// isProblem reports whether an error is an answer with a certain code.
func isProblem(err error, code string) bool {
	p, ok := errors.AsType[*problem](err)
	return ok && p.code == code
}

// isAbsent reports whether a file wasn't there.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func nameInvalid(name string) *problem {
	return &problem{http.StatusBadRequest, codeNameInvalid, fmt.Sprintf("%.300q can't be the name of a repository", name), nil}
}

func nameUnknown(name string) *problem {
	return &problem{http.StatusNotFound, codeNameUnknown, "there is no repository " + name, nil}
}

func digestInvalid(d string, err error) *problem {
	return &problem{http.StatusBadRequest, codeDigestInvalid, fmt.Sprintf("%.200q: %v", d, err), nil}
}

func blobUnknown(d digest.Digest) *problem {
	return &problem{http.StatusNotFound, codeBlobUnknown, d.String() + " isn't in this repository", nil}
}

func manifestUnknown(reference string) *problem {
	return &problem{http.StatusNotFound, codeManifestUnknown, fmt.Sprintf("%.200s isn't in this repository", reference), nil}
}

func manifestInvalid(format string, args ...any) *problem {
	return &problem{http.StatusBadRequest, codeManifestInvalid, fmt.Sprintf(format, args...), nil}
}

// parseDigest validates a digest of a request.
func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", digestInvalid(s, err)
	}
	return d, nil
}

// fail answers with an error. What only this machine should know, such as
// paths, goes to the log instead.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{status: http.StatusInternalServerError, code: codeUnknown, message: "the registry failed; its log says why"}
		e, isRefusal := errors.AsType[*refusal.Error](err)
		switch {
		case gone(r, err):
			p.status, p.message = http.StatusServiceUnavailable, "the request was given up"
		case isRefusal && e.Code == "PA408":
			p = &problem{status: http.StatusBadRequest, code: codeDigestInvalid, message: e.Summary}
		case isRefusal && e.Code == "PA601":
			p.status, p.message = http.StatusInsufficientStorage, e.Summary
		}
		if p.status >= http.StatusInternalServerError && !gone(r, err) {
			s.log.Warn("", "", fmt.Sprintf("%s %s: %v%s", r.Method, r.URL.Path, err, seen(e)))
		}
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	var body struct {
		Errors []entry `json:"errors"`
	}
	for _, detail := range p.details {
		body.Errors = append(body.Errors, entry{p.code, p.message, detail})
	}
	if len(body.Errors) == 0 {
		body.Errors = []entry{{p.code, p.message, nil}}
	}
	data, err := json.Marshal(body)
	if err != nil {
		data = []byte(`{"errors":[{"code":"UNKNOWN","message":""}]}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(p.status)
	w.Write(data) //nolint:errcheck // the client may be gone
}

func seen(e *refusal.Error) string {
	if e == nil || len(e.Seen) == 0 {
		return ""
	}
	return ": " + e.Seen[0]
}

// writeJSON answers with a small document.
func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data) //nolint:errcheck // the client may be gone
	return nil
}
