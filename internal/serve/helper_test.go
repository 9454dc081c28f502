package serve_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/serve"
)

// client speaks HTTP to a registry and checks status codes.
type client struct {
	testing.TB
	base string
	http *http.Client
}

// answer is a response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// start runs a registry over a directory, a new one if none is given.
func start(t testing.TB, o serve.Options) client {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	registry, err := serve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	t.Cleanup(func() { server.Close(); registry.Close() })
	return client{t, server.URL, server.Client()}
}

// try is one exchange; headers are name, value, name, value.
func (c client) try(method, path string, body []byte, headers ...string) (answer, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	url := path
	if strings.HasPrefix(path, "/") {
		url = c.base + path
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, data}, err
}

// want is an exchange that must have a status.
func (c client) want(status int, method, path string, body []byte, headers ...string) answer {
	c.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != status {
		c.Fatalf("%s %.200s: %d instead of %d: %.500s", method, path, a.status, status, a.body)
	}
	return a
}

// code is the error code of an answer.
func (a answer) code() string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

// pushBlob pushes a blob in one request.
func (c client) pushBlob(name string, data []byte) ocispec.Descriptor {
	c.Helper()
	d := digest.FromBytes(data)
	c.want(201, "POST", "/v2/"+name+"/blobs/uploads/?digest="+d.String(), data)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
}

// manifest makes an image manifest of layers, whose config is {}.
func manifest(layers ...ocispec.Descriptor) ocispec.Manifest {
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.DescriptorEmptyJSON, Layers: append([]ocispec.Descriptor{}, layers...),
	}
}

func index(children ...ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, children...),
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// push pushes a manifest or index under a tag, or under its digest if the
// reference is empty.
func (c client) push(name, reference string, v any) ocispec.Descriptor {
	c.Helper()
	data := encode(c, v)
	var head struct{ MediaType string }
	if err := json.Unmarshal(data, &head); err != nil {
		c.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: head.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if reference == "" {
		reference = d.Digest.String()
	}
	a := c.want(201, "PUT", "/v2/"+name+"/manifests/"+reference, data, "Content-Type", head.MediaType)
	if got := a.header.Get("Docker-Content-Digest"); got != d.Digest.String() {
		c.Fatalf("digest %s", got)
	}
	return d
}

// image pushes an image of one layer, made of a seed, under a tag.
func (c client) image(name, reference, seed string) ocispec.Descriptor {
	c.Helper()
	c.pushBlob(name, []byte("{}"))
	return c.push(name, reference, manifest(c.pushBlob(name, []byte("layer "+seed))))
}

// tags lists all tags.
func (c client) tags(name string) []string {
	c.Helper()
	var list struct{ Tags []string }
	if err := json.Unmarshal(c.want(200, "GET", "/v2/"+name+"/tags/list", nil).body, &list); err != nil {
		c.Fatal(err)
	}
	return list.Tags
}

// complete fetches what a reference names and everything below it, and
// compares every digest.
func (c client) complete(name, reference string) error {
	get := func(kind, reference string) ([]byte, error) {
		a, err := c.try("GET", "/v2/"+name+"/"+kind+"/"+reference, nil)
		if err != nil {
			return nil, err
		}
		if a.status != 200 {
			return nil, fmt.Errorf("%s %s: %d", kind, reference, a.status)
		}
		if got := a.header.Get("Docker-Content-Digest"); digest.FromBytes(a.body).String() != got || strings.Contains(reference, ":") && reference != got {
			return nil, fmt.Errorf("%s %s: other bytes", kind, reference)
		}
		return a.body, nil
	}
	data, err := get("manifests", reference)
	if err != nil {
		return err
	}
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, layer := range m.Layers {
		if _, err := get("blobs", layer.Digest.String()); err != nil {
			return err
		}
	}
	for _, child := range m.Manifests {
		if err := c.complete(name, child.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

// leftovers lists temporary files.
func leftovers(t testing.TB, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(filepath.Dir(path)) == "ingest" {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
