package serve_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/serve"
	"github.com/anyarch/anyarch/internal/store"
)

// TestUpload pushes one blob in every way that the specification has.
func TestUpload(t *testing.T) {
	t.Parallel()
	data := []byte(strings.Repeat("0123456789", 1000))
	d := digest.FromBytes(data)
	begin := func(c client) string {
		return c.want(202, "POST", "/v2/app/blobs/uploads/", nil).header.Get("Location")
	}
	for name, push := range map[string]func(c client){
		"one POST": func(c client) { c.pushBlob("app", data) },
		"POST and PUT": func(c client) {
			c.want(201, "PUT", begin(c)+"?digest="+d.String(), data)
		},
		"one PATCH": func(c client) {
			at := begin(c)
			if a := c.want(202, "PATCH", at, data); a.header.Get("Range") != "0-9999" {
				t.Error(a.header)
			}
			c.want(201, "PUT", at+"?digest="+d.String(), nil)
		},
		"chunks": func(c client) {
			at := begin(c)
			c.want(202, "PATCH", at, data[:4000], "Content-Range", "0-3999")
			c.want(202, "PATCH", at, data[4000:5000], "Content-Range", "4000-4999")
			c.want(201, "PUT", at+"?digest="+d.String(), data[5000:], "Content-Range", "5000-9999")
		},
		"a chunk in the wrong place": func(c client) {
			at := begin(c)
			c.want(202, "PATCH", at, data[:4000], "Content-Range", "0-3999")
			a := c.want(416, "PATCH", at, data[5000:], "Content-Range", "5000-9999")
			if a.header.Get("Range") != "0-3999" || a.header.Get("Location") != at {
				t.Error(a.header)
			}
			if a := c.want(204, "GET", at, nil); a.header.Get("Range") != "0-3999" {
				t.Error(a.header)
			}
			c.want(416, "PUT", at+"?digest="+d.String(), data[:10], "Content-Range", "0-9")
			c.want(400, "PATCH", at, data[4000:], "Content-Range", "4000-4001")
			c.want(400, "PATCH", at, data[4000:], "Content-Range", "x")
			c.want(201, "PUT", at+"?digest="+d.String(), data[4000:])
		},
		"mounted": func(c client) {
			c.pushBlob("other/place", data)
			c.want(201, "POST", "/v2/app/blobs/uploads/?mount="+d.String()+"&from=other/place", nil)
		},
		"mounted from anywhere": func(c client) {
			c.pushBlob("other/place", data)
			c.want(201, "POST", "/v2/app/blobs/uploads/?mount="+d.String(), nil)
		},
		"not to be mounted": func(c client) {
			for _, from := range []string{"nobody", "../app", "UPPER"} {
				c.want(202, "POST", "/v2/app/blobs/uploads/?mount="+d.String()+"&from="+url.QueryEscape(from), nil)
			}
			a := c.want(202, "POST", "/v2/app/blobs/uploads/?mount="+d.String(), nil)
			c.want(201, "PUT", a.header.Get("Location")+"?digest="+d.String(), data)
		},
		"wrong digests": func(c client) {
			other := digest.FromString("other").String()
			if a := c.want(400, "POST", "/v2/app/blobs/uploads/?digest="+other, data); a.code() != "DIGEST_INVALID" {
				t.Error(string(a.body))
			}
			c.want(400, "POST", "/v2/app/blobs/uploads/?digest=sha256:..%2f..%2fx", data)
			c.want(400, "POST", "/v2/app/blobs/uploads/?digest-algorithm=md5", data)
			at := begin(c)
			c.want(400, "PUT", at, nil)
			c.want(400, "PUT", at+"?digest="+other, data)
			if a := c.want(404, "PUT", at+"?digest="+d.String(), data); a.code() != "BLOB_UPLOAD_UNKNOWN" {
				t.Error(string(a.body))
			}
			c.pushBlob("app", data)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			c := start(t, serve.Options{Root: root})
			c.want(404, "GET", "/v2/app/blobs/"+d.String(), nil)
			push(c)
			a := c.want(200, "GET", "/v2/app/blobs/"+d.String(), nil)
			if !bytes.Equal(a.body, data) || a.header.Get("Docker-Content-Digest") != d.String() {
				t.Error("other bytes")
			}
			if a := c.want(206, "GET", "/v2/app/blobs/"+d.String(), nil, "Range", "bytes=9990-"); string(a.body) != "0123456789" {
				t.Errorf("range: %s", a.body)
			}
			c.want(200, "GET", "/v2/app/blobs/"+d.String(), nil, "Range", "bytes=0-1,3-4,6-7")
			c.want(416, "GET", "/v2/app/blobs/"+d.String(), nil, "Range", "bytes=10000-")
			c.want(304, "GET", "/v2/app/blobs/"+d.String(), nil, "If-None-Match", a.header.Get("ETag"))
			if a := c.want(200, "HEAD", "/v2/app/blobs/"+d.String(), nil); a.header.Get("Content-Length") != "10000" {
				t.Error(a.header)
			}
			c.want(202, "DELETE", "/v2/app/blobs/"+d.String(), nil)
			if a := c.want(404, "DELETE", "/v2/app/blobs/"+d.String(), nil); a.code() != "BLOB_UNKNOWN" {
				t.Error(string(a.body))
			}
			if left := leftovers(t, root); len(left) > 0 {
				t.Error(left)
			}
		})
	}
}

// TestErrors is the table of what is turned down, and how.
func TestErrors(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := start(t, serve.Options{Root: root})
	app := c.image("app", "v1", "1")
	empty := digest.FromString("{}").String()
	missing := digest.FromString("nothing").String()
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ambiguous := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"` + empty + `"},"manifests":[]}`
	image := func(fields string) string {
		return `{"schemaVersion":2,"config":{"mediaType":"x","size":2,"digest":"` + empty + `"}` + fields + `}`
	}
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"no endpoint", "GET", "/v2/app", "", 404, "UNSUPPORTED"},
		{"another method", "POST", "/v2/app/tags/list", "", 405, "UNSUPPORTED"},
		{"no repository", "GET", "/v2/nobody/tags/list", "", 404, "NAME_UNKNOWN"},
		{"manifest of no repository", "GET", "/v2/nobody/manifests/x", "", 404, "NAME_UNKNOWN"},
		{"delete in no repository", "DELETE", "/v2/nobody/manifests/x", "", 404, "NAME_UNKNOWN"},
		{"hostile name", "PUT", "/v2/a/..%2f..%2fb/manifests/x", "{}", 400, "NAME_INVALID"},
		{"name of a layout's files", "POST", "/v2/app/blobs/blobs/uploads/", "", 400, "NAME_INVALID"},
		{"name of a file", "POST", "/v2/file/blobs/uploads/?digest=" + empty, "{}", 400, "NAME_INVALID"},
		{"below a file", "POST", "/v2/file/app/blobs/uploads/?digest=" + empty, "{}", 400, "NAME_INVALID"},
		{"below a file, reading", "GET", "/v2/file/app/tags/list", "", 404, "NAME_UNKNOWN"},
		{"no tag", "GET", "/v2/app/manifests/v2", "", 404, "MANIFEST_UNKNOWN"},
		{"no manifest", "GET", "/v2/app/manifests/" + missing, "", 404, "MANIFEST_UNKNOWN"},
		{"a blob is no manifest", "GET", "/v2/app/manifests/" + empty, "", 404, "MANIFEST_UNKNOWN"},
		{"no tag to delete", "DELETE", "/v2/app/manifests/v2", "", 404, "MANIFEST_UNKNOWN"},
		{"no manifest to delete", "DELETE", "/v2/app/manifests/" + missing, "", 404, "MANIFEST_UNKNOWN"},
		{"bad digest", "GET", "/v2/app/manifests/sha256:..", "", 400, "DIGEST_INVALID"},
		{"bad digest of a blob", "GET", "/v2/app/blobs/sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "", 400, "DIGEST_INVALID"},
		{"bad digest of a subject", "GET", "/v2/app/referrers/x", "", 400, "DIGEST_INVALID"},
		{"bad tag", "PUT", "/v2/app/manifests/-x", image(""), 400, "MANIFEST_INVALID"},
		{"bad tag parameter", "PUT", "/v2/app/manifests/x?tag=a/b", image(""), 400, "MANIFEST_INVALID"},
		{"many tags", "PUT", "/v2/app/manifests/x?" + strings.Repeat("tag=a&", 100), image(""), 414, "UNSUPPORTED"},
		{"not JSON", "PUT", "/v2/app/manifests/x", "{", 400, "MANIFEST_INVALID"},
		{"no manifest at all", "PUT", "/v2/app/manifests/x", "[]", 400, "MANIFEST_INVALID"},
		{"schema version", "PUT", "/v2/app/manifests/x", `{"schemaVersion":1}`, 400, "MANIFEST_INVALID"},
		{"no config", "PUT", "/v2/app/manifests/x", `{"schemaVersion":2}`, 400, "MANIFEST_INVALID"},
		{"media type", "PUT", "/v2/app/manifests/x", image(`,"mediaType":"text/plain"`), 415, "MANIFEST_INVALID"},
		{"image and index", "PUT", "/v2/app/manifests/x", ambiguous, 400, "MANIFEST_INVALID"},
		{"layer's digest", "PUT", "/v2/app/manifests/x", image(`,"layers":[{"digest":"sha256:../../x"}]`), 400, "MANIFEST_INVALID"},
		{"layer's size", "PUT", "/v2/app/manifests/x", image(`,"layers":[{"size":-1,"digest":"` + empty + `"}]`), 400, "MANIFEST_INVALID"},
		{"huge size", "PUT", "/v2/app/manifests/x", image(`,"layers":[{"size":9223372036854775808}]`), 400, "MANIFEST_INVALID"},
		{"lying data", "PUT", "/v2/app/manifests/x", image(`,"layers":[{"size":2,"data":"AAA=","digest":"` + empty + `"}]`), 400, "MANIFEST_INVALID"},
		{"missing layer", "PUT", "/v2/app/manifests/x", image(`,"layers":[{"digest":"` + missing + `"}]`), 400, "MANIFEST_BLOB_UNKNOWN"},
		{"missing child", "PUT", "/v2/app/manifests/x", `{"schemaVersion":2,"manifests":[{"digest":"` + missing + `"}]}`, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"nothing is there", "PUT", "/v2/nobody/manifests/x", image(""), 400, "MANIFEST_BLOB_UNKNOWN"},
		{"nothing is made of it", "GET", "/v2/nobody/tags/list", "", 404, "NAME_UNKNOWN"},
		{"many layers", "PUT", "/v2/app/manifests/x", image(`,"layers":[` + strings.Repeat(`{},`, 10_000) + `{}]`), 400, "MANIFEST_INVALID"},
		{"too large", "PUT", "/v2/app/manifests/x", strings.Repeat(" ", store.MaxManifestSize+1), 413, "SIZE_INVALID"},
		{"other digest", "PUT", "/v2/app/manifests/" + missing, image(""), 400, "DIGEST_INVALID"},
		{"blob that is needed", "DELETE", "/v2/app/blobs/" + empty, "", 405, "DENIED"},
		{"manifest as a blob", "DELETE", "/v2/app/blobs/" + app.Digest.String(), "", 405, "DENIED"},
		{"no upload", "PATCH", "/v2/app/blobs/uploads/00000000-0000-4000-8000-000000000000", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"n", "GET", "/v2/app/tags/list?n=x", "", 400, "UNSUPPORTED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var body []byte
			if test.body != "" {
				body = []byte(test.body)
			}
			c := client{t, c.base, c.http}
			if a := c.want(test.status, test.method, test.path, body); a.code() != test.code {
				t.Errorf("%s instead of %s: %s", a.code(), test.code, a.body)
			}
		})
	}
	if err := c.complete("app", "v1"); err != nil {
		t.Error(err)
	}
	if got := c.tags("app"); !slices.Equal(got, []string{"v1"}) {
		t.Error(got)
	}
}

// TestManifestLifetime follows the manifests of one repository through pushes
// and deletions: what was acknowledged exists until it is deleted by digest.
func TestManifestLifetime(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := start(t, serve.Options{Root: root})
	listed := func() []string {
		t.Helper()
		st, err := store.Open(filepath.Join(root, "app"))
		if err != nil {
			t.Fatal(err)
		}
		index, err := st.Index()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range index.Manifests {
			got = append(got, m.Annotations[ocispec.AnnotationRefName]+"@"+m.Digest.Encoded()[:8])
		}
		slices.Sort(got)
		return got
	}
	expect := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		if got := listed(); !slices.Equal(got, want) {
			t.Fatalf("index.json lists %q instead of %q", got, want)
		}
	}
	at := func(tag string, d ocispec.Descriptor) string { return tag + "@" + d.Digest.Encoded()[:8] }
	path := func(d ocispec.Descriptor) string { return "/v2/app/manifests/" + d.Digest.String() }

	a, b := c.image("app", "", "a"), c.image("app", "", "b")
	expect(at("", a), at("", b))
	all := c.push("app", "", index(a, b))
	expect(at("", all)) // its children needn't be listed any more
	c.push("app", "v1", index(a, b))
	c.push("app", "v1", index(a, b))
	expect(at("v1", all))
	if a := c.want(200, "GET", path(a), nil); a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
		t.Error(a.header)
	}
	c.push("app", "", manifest(ocispec.DescriptorEmptyJSON)) // another one
	other := c.push("app", "v1", manifest(ocispec.DescriptorEmptyJSON))
	expect(at("", all), at("v1", other)) // what lost its tag stays
	c.push("app", "a", manifest(descriptor("layer a")))
	expect(at("", all), at("v1", other), at("a", a))

	if got := c.want(405, "DELETE", path(b), nil); got.code() != "DENIED" {
		t.Error(string(got.body))
	}
	c.want(202, "DELETE", "/v2/app/manifests/v1", nil)
	c.want(404, "GET", "/v2/app/manifests/v1", nil)
	c.want(200, "GET", path(other), nil)
	c.want(202, "DELETE", path(all), nil)
	c.want(404, "GET", path(all), nil)
	expect(at("", other), at("a", a), at("", b)) // the children outlive their index
	c.want(202, "DELETE", path(b), nil)
	c.want(202, "DELETE", path(a), nil) // with its tag
	c.want(404, "GET", "/v2/app/manifests/a", nil)
	expect(at("", other))
	c.want(202, "DELETE", "/v2/app/blobs/"+digest.FromString("layer a").String(), nil)
	c.want(404, "HEAD", "/v2/app/blobs/"+a.Digest.String(), nil) // its bytes are gone too
}

func descriptor(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	one := c.image("app", "v1", "1")
	c.pushBlob("app", []byte("layer 2"))
	two := encode(t, manifest(descriptor("layer 2")))
	etag := c.want(200, "HEAD", "/v2/app/manifests/v1", nil).header.Get("ETag")
	if etag != `"`+one.Digest.String()+`"` {
		t.Fatal(etag)
	}
	put := func(status int, tag string, headers ...string) {
		t.Helper()
		c.want(status, "PUT", "/v2/app/manifests/"+tag, two, append(headers, "Content-Type", ocispec.MediaTypeImageManifest)...)
	}
	put(412, "v1", "If-None-Match", "*")
	put(412, "v1", "If-None-Match", "W/"+etag)
	put(412, "v1", "If-Match", `"sha256:other"`)
	put(412, "v1", "If-Match", "W/"+etag)
	put(412, "v2", "If-Match", "*")
	put(201, "v2", "If-None-Match", "*")
	put(201, "v1", "If-Match", `"x", `+etag)
	put(412, "v1", "If-Match", etag)
	c.want(412, "DELETE", "/v2/app/manifests/v1", nil, "If-Match", etag)
	c.want(202, "DELETE", "/v2/app/manifests/v1", nil, "If-Match", `"`+digest.FromBytes(two).String()+`"`)
}

func TestTagParametersAndSHA512(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	layer := []byte("layer")
	big := digest.NewDigestFromBytes(digest.SHA512, sum512(layer))
	c.want(201, "POST", "/v2/app/blobs/uploads/?digest="+big.String(), layer)
	c.pushBlob("app", []byte("{}"))
	data := encode(t, manifest(ocispec.Descriptor{MediaType: "x", Digest: big, Size: 5}))
	d := digest.NewDigestFromBytes(digest.SHA512, sum512(data))
	a := c.want(201, "PUT", "/v2/app/manifests/"+d.String()+"?tag=1&tag=1.2&tag=1.2.3", data)
	if got := a.header.Values("OCI-Tag"); !slices.Equal(got, []string{"1", "1.2", "1.2.3"}) {
		t.Error(got)
	}
	for _, tag := range c.tags("app") {
		if a := c.want(200, "HEAD", "/v2/app/manifests/"+tag, nil); a.header.Get("Docker-Content-Digest") != d.String() {
			t.Errorf("%s: %v", tag, a.header)
		}
	}
	c.want(202, "DELETE", "/v2/app/manifests/"+d.String(), nil)
	if got := c.tags("app"); len(got) > 0 {
		t.Error(got)
	}
}

func sum512(data []byte) []byte {
	sum := sha512.Sum512(data)
	return sum[:]
}

func TestDockerMediaTypes(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	c.pushBlob("app", []byte("{}"))
	m := manifest(ocispec.Descriptor{MediaType: image.DockerForeignLayer, Digest: digest.FromString("elsewhere"), Size: 9})
	m.MediaType = image.DockerManifest
	child := c.push("app", "amd64", m)
	list := index(child)
	list.MediaType = image.DockerManifestList
	c.push("app", "all", list)
	for reference, want := range map[string]string{"all": image.DockerManifestList, child.Digest.String(): image.DockerManifest} {
		a := c.want(200, "GET", "/v2/app/manifests/"+reference, nil, "Accept", ocispec.MediaTypeImageIndex)
		if got := a.header.Get("Content-Type"); got != want {
			t.Errorf("%s: %s", reference, got)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	for i := range 5 {
		c.image("app", fmt.Sprintf("v%d", i), "same")
	}
	c.image("app/deep", "x", "same")
	c.image("app-2", "x", "same")
	for _, test := range []struct {
		path, want, link string
	}{
		{"/v2/app/tags/list", "v0 v1 v2 v3 v4", ""},
		{"/v2/app/tags/list?n=2", "v0 v1", "/v2/app/tags/list?last=v1&n=2"},
		{"/v2/app/tags/list?n=2&last=v1", "v2 v3", "/v2/app/tags/list?last=v3&n=2"},
		{"/v2/app/tags/list?n=2&last=v3", "v4", ""},
		{"/v2/app/tags/list?n=5", "v0 v1 v2 v3 v4", ""},
		{"/v2/app/tags/list?n=0", "", ""},
		{"/v2/app/tags/list?last=v11", "v2 v3 v4", ""},
		{"/v2/app/tags/list?last=z&n=100", "", ""},
		{"/v2/_catalog", "app app-2 app/deep", ""},
		{"/v2/_catalog?n=1&last=app", "app-2", "/v2/_catalog?last=app-2&n=1"},
	} {
		a := c.want(200, "GET", test.path, nil)
		var list struct{ Tags, Repositories []string }
		if err := json.Unmarshal(a.body, &list); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(append(list.Tags, list.Repositories...), " ")
		link := strings.TrimSuffix(strings.TrimPrefix(a.header.Get("Link"), "<"), `>; rel="next"`)
		if got != test.want || link != test.link || strings.Contains(string(a.body), "null") {
			t.Errorf("%s: %s, Link %s", test.path, a.body, a.header.Get("Link"))
		}
	}
}

// TestReferrers pages through referrers whose annotations are too large for
// one answer, among them one that only an index lists.
func TestReferrers(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	subject := c.image("app", "v1", "1")
	var want []string
	for i := range 5 {
		m := manifest()
		m.Subject = &subject
		m.ArtifactType = fmt.Sprintf("application/x-%d", i%2)
		m.Annotations = map[string]string{"n": fmt.Sprint(i), "large": strings.Repeat("x", 1<<20)}
		d := c.push("app", "", m)
		want = append(want, d.Digest.String())
		if i == 0 {
			c.push("app", "holder", index(d))
		}
	}
	slices.Sort(want)
	list := func(path string) (got []string, pages int) {
		for path != "" {
			a := c.want(200, "GET", path, nil)
			var index ocispec.Index
			if err := json.Unmarshal(a.body, &index); err != nil {
				t.Fatal(err)
			}
			for _, d := range index.Manifests {
				if d.Annotations["n"] == "" || d.Size == 0 || d.ArtifactType == "" {
					t.Errorf("%s lacks something", d.Digest)
				}
				got = append(got, d.Digest.String())
			}
			pages++
			path = strings.TrimSuffix(strings.TrimPrefix(a.header.Get("Link"), "<"), `>; rel="next"`)
		}
		return got, pages
	}
	if got, pages := list("/v2/app/referrers/" + subject.Digest.String()); !slices.Equal(got, want) || pages != 3 {
		t.Errorf("%d pages: %q instead of %q", pages, got, want)
	}
	if got, _ := list("/v2/app/referrers/" + subject.Digest.String() + "?artifactType=application/x-1"); len(got) != 2 {
		t.Error(got)
	}
	if got, _ := list("/v2/nobody/referrers/" + subject.Digest.String()); len(got) != 0 {
		t.Error(got)
	}
}
