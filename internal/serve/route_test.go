package serve

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	t.Parallel()
	s := &Server{}
	for name, want := range map[string]bool{
		"app": true, "team/app": true, "a.b_c__d-e---f/0": true, "manifests/tags/list": true,
		strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
		"": false, "/": false, "a/": false, "/a": false, "a//b": false, ".": false, "..": false, "a/../b": false,
		"../a": false, "A": false, "a_": false, "-a": false, "a..b": false, "a___b": false, "a.-b": false, "a\\b": false,
		"a\x00": false, "a:b": false, "c:/x": false, "a b": false, "é": false,
		"blobs": false, "a/blobs": false, "a/blobs/sha256": false, "a/ingest": false, "a/index.json": false,
		"a/oci-layout": false, "ingest/a": false, "a/blobs2": true, "blob": true,
	} {
		if got := s.validName(name); got != want {
			t.Errorf("%.40q: %v", name, got)
		}
	}
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"apiping": "apiping", "My App": "my-app", "a__b": "a__b", "..x..": "x", "/": "image", "é": "image", "A_1": "a-1",
	} {
		if got := nameOf(dir); got != want || !validComponent(got) {
			t.Errorf("%q: %q", dir, got)
		}
	}
}

func TestParseRoute(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]route{
		"/v2":                               {kind: toBase},
		"/v2/":                              {kind: toBase},
		"/v2/_catalog":                      {kind: toCatalog},
		"/v2/a/tags/list":                   {kind: toTags, name: "a"},
		"/v2/tags/list/tags/list":           {kind: toTags, name: "tags/list"},
		"/v2/a/b/manifests/latest":          {toManifest, "a/b", "latest"},
		"/v2/manifests/manifests/manifests": {toManifest, "manifests", "manifests"},
		"/v2/a/blobs/sha256:0":              {toBlob, "a", "sha256:0"},
		"/v2/a/blobs/uploads/":              {kind: toUploads, name: "a"},
		"/v2/a/blobs/uploads":               {kind: toUploads, name: "a"},
		"/v2/a/blobs/uploads/x":             {toUpload, "a", "x"},
		"/v2/a/referrers/sha256:0":          {toReferrers, "a", "sha256:0"},
	} {
		if got, ok := parseRoute(path); !ok || got != want {
			t.Errorf("%s: %+v %v", path, got, ok)
		}
	}
	for _, path := range []string{"", "/", "/v1/", "/v2x", "/v2/a", "/v2/a/manifests/", "/v2/a/other/b", "//v2/", "/v2/tags/list"} {
		if got, ok := parseRoute(path); ok {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// FuzzRoute sends any path to a registry and looks whether a file appears
// outside of it, and that names mean what the specification's grammar says.
func FuzzRoute(f *testing.F) {
	for _, path := range []string{
		"/v2/a/tags/list", "/v2/../x/blobs/uploads/", "/v2/a/blobs/sha256:x", "/v2/a%2f..%2fb/manifests/x",
		"/v2/a/blobs/blobs/uploads/", "/v2//blobs/uploads/", "/v2/c:/blobs/uploads/", "/v2/nul/blobs/uploads/",
	} {
		f.Add(path, "PUT")
		f.Add(path, "POST")
	}
	grammar := regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tag := regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	outside := f.TempDir()
	root := filepath.Join(outside, "root")
	s, err := New(Options{Root: root})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, method string) {
		if got, want := validGrammar(path), grammar.MatchString(path) && len(path) <= maxName; got != want {
			t.Fatalf("%q is a name: %v", path, got)
		}
		if got, want := validTag(path), tag.MatchString(path); got != want {
			t.Fatalf("%q is a tag: %v", path, got)
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader("x"))
		r.Method, r.URL.Path = method, path
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %q: %d", method, path, w.Code)
		}
		// A single POST makes the repository, if it makes anything.
		r = httptest.NewRequest("POST", "/?digest=sha256:0000000000000000000000000000000000000000000000000000000000000000", strings.NewReader("x"))
		r.URL.Path = "/v2/" + path + "/blobs/uploads/"
		w = httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 400 {
			t.Fatalf("%q: %d", path, w.Code)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
			t.Fatalf("%q wrote outside of the root: %v", path, entries)
		}
	})
}
