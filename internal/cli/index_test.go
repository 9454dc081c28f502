package cli_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/cli"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

// TestIndexCost counts what the whole command costs on a private registry, from its
// start to its end: two requests per image, manifest and config, and two per tag,
// what it names and its move.
func TestIndexCost(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: "user", Password: "secret"})
	put := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, arch := range []string{"amd64", "arm64"} {
		config := s.AddBlob("app", put(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}))
		config.MediaType = ocispec.MediaTypeImageConfig
		s.AddManifest("app", arch, ocispec.MediaTypeImageManifest, put(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}))
	}
	home := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(`{"auths":{"`+s.Host+`":{"auth":"`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(tags ...string) (stderr string) {
		t.Helper()
		s.ForgetRequests()
		var out, problems bytes.Buffer
		system := cli.System{
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &problems, Dir: home,
			Getenv: func(key string) string {
				return map[string]string{"HOME": home, "DOCKER_CONFIG": home, "ANYARCH_CACHE": filepath.Join(home, "cache"), "NO_COLOR": "1"}[key]
			},
			LookPath: func(string) (string, error) { return "", os.ErrNotExist },
			Width:    func() int { return 80 }, Height: func() int { return 24 },
		}
		args := []string{"index", "create", s.Host + "/app:amd64", s.Host + "/app:arm64", "--require", "linux/amd64,linux/arm64"}
		for _, tag := range tags {
			args = append(args, "-t", tag)
		}
		if code := cli.Main(t.Context(), args, system); code != 0 {
			t.Fatalf("exit %d\n%s", code, problems.String())
		}
		return problems.String()
	}
	for name, tags := range map[string][]string{
		"two new tags": {s.Host + "/app:1.0", "stable"}, "the same again": {s.Host + "/app:1.0", "stable"}, "one": {s.Host + "/app:other"},
	} {
		run(tags...)
		counts, n, sent := map[string]int{}, 0, int64(0)
		for _, r := range s.Requests() {
			if r.Path == "/token" || r.Path == "/v2/" || r.Status == 401 {
				continue // authentication
			}
			what := "manifest"
			if strings.Contains(r.Path, "/blobs/") {
				what, sent = "blob", sent+r.Received
			}
			counts[fmt.Sprint(r.Method, " ", what)]++
			n++
		}
		t.Logf("%s: %d requests after authentication, %v, %d bytes of blobs sent", name, n, counts, sent)
		if limit := 2*2 + 2*len(tags); n > limit || sent != 0 {
			t.Errorf("%s: %d requests, want at most %d: %v; %d bytes sent", name, n, limit, counts, sent)
		}
	}
}
