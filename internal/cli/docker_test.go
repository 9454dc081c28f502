package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/cli"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/serve"
	"github.com/anyarch/anyarch/internal/store"
)

// dockerRegistry is a registry whose answers a test may change, with images app-amd64
// and app-arm64.
type dockerRegistry struct {
	address, home string
	change        func(w http.ResponseWriter, r *http.Request) bool // true if it has answered
	requests      atomic.Int64
	uploaded      atomic.Int64 // bytes of blobs
}

func newDockerRegistry(t *testing.T, start func(http.Handler) *httptest.Server) *dockerRegistry {
	t.Helper()
	root := t.TempDir()
	server, err := serve.New(serve.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	r := &dockerRegistry{home: t.TempDir()}
	s := start(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.requests.Add(1)
		if q.Method == http.MethodPut && strings.Contains(q.URL.Path, "/blobs/uploads/") || q.Method == http.MethodPatch {
			r.uploaded.Add(q.ContentLength)
		}
		if r.change == nil || !r.change(w, q) {
			server.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(func() { s.Close(); server.Close() })
	r.address = s.Listener.Addr().String()
	for _, arch := range []string{"amd64", "arm64"} {
		st, err := store.Create(filepath.Join(root, "app-"+arch))
		if err != nil {
			t.Fatal(err)
		}
		text := "content for " + arch
		l, err := layer.Write(t.Context(), st, []layer.Entry{{Name: "file", Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}}, layer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: arch}, Config: ocispec.Image{}, Layers: []image.Layer{l}})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Tag(t.Context(), "latest", img.Manifest, true); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// docker runs a command line, {} of which is the registry.
func (r *dockerRegistry) docker(t *testing.T, line string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	s := cli.Process()
	s.Dir, s.Stdout, s.Stderr, s.Stdin = r.home, &out, &errs, strings.NewReader("")
	s.Getenv = func(name string) string {
		switch name {
		case "HOME":
			return r.home
		case "ANYARCH_CACHE":
			return filepath.Join(r.home, "cache")
		}
		return ""
	}
	code = cli.Main(t.Context(), cli.Arguments(append([]string{"/usr/bin/docker"}, strings.Fields(strings.ReplaceAll(line, "{}", r.address))...)), s)
	return out.String(), errs.String(), code
}

func (r *dockerRegistry) must(t *testing.T, line string) string {
	t.Helper()
	stdout, stderr, code := r.docker(t, line)
	if code != 0 {
		t.Fatalf("docker %s: exit %d\n%s", line, code, stderr)
	}
	return stdout
}

// TestDockerManifestErrors is what docker's own swallows: it says "no such manifest"
// whatever is wrong with credentials.
func TestDockerManifestErrors(t *testing.T) {
	t.Parallel()
	challenge := func(status int, scheme, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if scheme != "" {
				w.Header().Set("WWW-Authenticate", scheme)
			}
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":%q}]}`, code)
			return true
		}
	}
	for _, c := range []struct {
		name   string
		change func(http.ResponseWriter, *http.Request) bool
		say    string
	}{
		{"basic challenge without credentials", challenge(401, `Basic realm="x"`, "UNAUTHORIZED"), "PA401"},
		{"denied", challenge(403, "", "DENIED"), "PA402"},
		{"the registry is broken", challenge(400, "", "UNSUPPORTED"), "UNSUPPORTED"},
		{"name unknown", challenge(404, "", "NAME_UNKNOWN"), "no such manifest: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newDockerRegistry(t, httptest.NewServer)
			r.change = c.change
			_, stderr, code := r.docker(t, "manifest create {}/list {}/app-amd64")
			if code != 1 || !strings.Contains(stderr, c.say) {
				t.Errorf("exit %d, and not %q:\n%s", code, c.say, stderr)
			}
			if c.say != "no such manifest: " && strings.Contains(stderr, "no such manifest") {
				t.Errorf("it says that there is no such manifest:\n%s", stderr)
			}
		})
	}
}

// TestDockerManifestMount: registries that don't mount from another repository are
// given the blobs; docker's own fails.
func TestDockerManifestMount(t *testing.T) {
	t.Parallel()
	r := newDockerRegistry(t, httptest.NewServer)
	r.change = func(_ http.ResponseWriter, q *http.Request) bool {
		if query := q.URL.Query(); query.Has("mount") {
			query.Del("mount")
			query.Del("from")
			q.URL.RawQuery = query.Encode()
		}
		return false
	}
	r.must(t, "manifest create {}/list {}/app-amd64 {}/app-arm64")
	r.must(t, "manifest push {}/list")
	if r.uploaded.Load() == 0 {
		t.Error("nothing was uploaded")
	}
	r.must(t, "manifest inspect {}/list")
}

// TestDockerManifestCost: what is in the same registry is mounted, not uploaded, and
// asked for once.
func TestDockerManifestCost(t *testing.T) {
	t.Parallel()
	r := newDockerRegistry(t, httptest.NewServer)
	r.must(t, "manifest create {}/list {}/app-amd64 {}/app-arm64")
	create := r.requests.Swap(0)
	r.must(t, "manifest push {}/list")
	t.Logf("create took %d requests, push %d (docker: 24 for both)", create, r.requests.Load())
	if r.uploaded.Load() != 0 {
		t.Errorf("%d bytes of blobs were uploaded", r.uploaded.Load())
	}
	if all := create + r.requests.Load(); all > 24 {
		t.Errorf("%d requests, docker needs 24", all)
	}
}

// TestDockerManifestInsecure: a certificate that nobody knows is refused, and with
// --insecure, on every command, it isn't.
func TestDockerManifestInsecure(t *testing.T) {
	t.Parallel()
	r := newDockerRegistry(t, httptest.NewTLSServer)
	if _, stderr, code := r.docker(t, "manifest create {}/list {}/app-amd64"); code != 1 || !strings.Contains(stderr, "certificate") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	r.must(t, "manifest create --insecure {}/list {}/app-amd64")
	if _, _, code := r.docker(t, "manifest push {}/list"); code != 1 {
		t.Errorf("pushed without --insecure: exit %d", code)
	}
	r.must(t, "manifest push --insecure {}/list")
	var index ocispec.Index
	if err := json.Unmarshal([]byte(r.must(t, "manifest inspect --insecure {}/list")), &index); err != nil || len(index.Manifests) != 1 {
		t.Errorf("%v %+v", err, index)
	}
}

// TestDockerManifestCrash: what is left of a list after a crash is the list or nothing.
func TestDockerManifestCrash(t *testing.T) {
	t.Parallel()
	r := newDockerRegistry(t, httptest.NewServer)
	r.must(t, "manifest create {}/list {}/app-amd64")
	files, err := filepath.Glob(filepath.Join(r.home, "cache", "manifests", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte(`{"name":"half`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := r.docker(t, "manifest push {}/list"); code != 1 || !strings.Contains(stderr, "docker manifest rm") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	r.must(t, "manifest rm {}/list")
	r.must(t, "manifest create {}/list {}/app-amd64")
}
