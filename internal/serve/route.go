package serve

import (
	"path/filepath"
	"strings"
)

// kind is one endpoint of the distribution-spec.
type kind int

const (
	toBase      kind = iota // /v2/
	toCatalog               // /v2/_catalog
	toTags                  // /v2/<name>/tags/list
	toReferrers             // /v2/<name>/referrers/<digest>
	toManifest              // /v2/<name>/manifests/<tag or digest>
	toBlob                  // /v2/<name>/blobs/<digest>
	toUploads               // /v2/<name>/blobs/uploads/
	toUpload                // /v2/<name>/blobs/uploads/<session>
)

// route is where a request goes. Name and reference are as they came:
// unescaped, not yet validated.
type route struct {
	kind      kind
	name      string // of the repository
	reference string // tag, digest or session
}

func (r route) named() bool { return r.kind != toBase && r.kind != toCatalog }

// parseRoute reads the path of a URL. It reads from the right, because the
// components of a name may be words of the API, as in /v2/tags/list/tags/list.
func parseRoute(path string) (route, bool) {
	if path == "/v2" {
		return route{kind: toBase}, true
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case !ok:
		return route{}, false
	case rest == "":
		return route{kind: toBase}, true
	case rest == "_catalog":
		return route{kind: toCatalog}, true
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return route{kind: toTags, name: name}, true
	}
	if name, ok := strings.CutSuffix(strings.TrimSuffix(rest, "/"), "/blobs/uploads"); ok {
		return route{kind: toUploads, name: name}, true
	}
	slash := strings.LastIndexByte(rest, '/')
	if slash < 0 {
		return route{}, false
	}
	before, last := rest[:slash], rest[slash+1:]
	if last == "" {
		return route{}, false
	}
	for _, endpoint := range []struct {
		suffix string
		kind   kind
	}{
		{"/blobs/uploads", toUpload}, {"/blobs", toBlob}, {"/manifests", toManifest}, {"/referrers", toReferrers},
	} {
		if name, ok := strings.CutSuffix(before, endpoint.suffix); ok {
			return route{endpoint.kind, name, last}, true
		}
	}
	return route{}, false
}

// maxName bounds the length of a repository's name, as clients do
// (distribution-spec v1.1.1, "Pulling manifests").
const maxName = 255

// validName reports whether a repository may have this name: by the grammar of
// the specification, and so that its layout's files are nobody else's.
func (s *Server) validName(name string) bool {
	if s.single != "" {
		return validGrammar(name) // nothing is ever made of the name
	}
	if !validGrammar(name) || !filepath.IsLocal(filepath.FromSlash(name)) { // Windows has names for devices
		return false
	}
	for component := range strings.SplitSeq(name, "/") {
		if reserved(component) {
			return false
		}
	}
	return true
}

// reserved reports whether a layout has a file or directory of this name, so
// that a/blobs can't be a repository beside a.
func reserved(component string) bool {
	switch component {
	case "blobs", "ingest", "oci-layout", "index.json":
		return true
	}
	return false
}

func validGrammar(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for component := range strings.SplitSeq(name, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

// validComponent matches [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(c string) bool {
	i := 0
	word := func() bool {
		start := i
		for i < len(c) && (c[i] >= 'a' && c[i] <= 'z' || c[i] >= '0' && c[i] <= '9') {
			i++
		}
		return i > start
	}
	for {
		if !word() {
			return false
		}
		if i == len(c) {
			return true
		}
		start := i
		for i < len(c) && c[i] == c[start] && (c[i] == '.' || c[i] == '_' || c[i] == '-') {
			i++
		}
		switch n := i - start; {
		case n == 0, c[start] == '.' && n > 1, c[start] == '_' && n > 2:
			return false
		}
	}
}

// validTag matches [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func validTag(tag string) bool {
	if tag == "" || len(tag) > 128 {
		return false
	}
	for i := range len(tag) {
		c := tag[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// nameOf makes a repository's name of the name of a directory: the same, if it
// is one, else the nearest that is.
func nameOf(dir string) string {
	var b strings.Builder
	gap := false
	for _, c := range []byte(strings.ToLower(dir)) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			if gap && b.Len() > 0 {
				b.WriteByte('-')
			}
			gap = false
			b.WriteByte(c)
		} else {
			gap = true
		}
	}
	switch {
	case validComponent(dir):
		return dir
	case b.Len() == 0:
		return "image"
	}
	return b.String()
}
