package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

// TestMain lets the test binary be a credential helper: a test links to it
// under the name of one.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"), helperPrefix); ok {
		helperMain(name)
	}
	os.Exit(m.Run())
}

// testOptions are options that look at nothing of this machine and wait for
// nothing.
func testOptions(t testing.TB, env map[string]string) Options {
	return Options{
		ConfigDir: t.TempDir(),
		Getenv:    func(k string) string { return env[k] },
		Sleep:     func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func testClient(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testRepository is a repository of a test server, with credentials for it.
func testRepository(t testing.TB, s *registrytest.Server, path string) *Repository {
	t.Helper()
	return testRepositoryWith(t, s, path, testOptions(t, loginEnv(s.Host)))
}

func testRepositoryWith(t testing.TB, s *registrytest.Server, path string, o Options) *Repository {
	t.Helper()
	r, err := testClient(t, o).Repository(s.Host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	testUser     = "somebody"
	testPassword = "correct-horse-battery"
)

func loginEnv(host string) map[string]string {
	return map[string]string{"ANYARCH_REGISTRY": host, "ANYARCH_REGISTRY_USER": testUser, "ANYARCH_REGISTRY_PASSWORD": testPassword}
}

// content is some bytes that no part of is like another.
func content(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(data)
	return data
}

func blobDescriptor(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// testImage is a manifest with the blobs that it names.
func testImage(t testing.TB, layer []byte) (blobs [][]byte, d ocispec.Descriptor, manifest []byte) {
	t.Helper()
	config := []byte(`{"architecture":"arm64","os":"linux"}`)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blobDescriptor(config), Layers: []ocispec.Descriptor{blobDescriptor(layer)}}
	m.SchemaVersion = 2
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d = blobDescriptor(manifest)
	d.MediaType = ocispec.MediaTypeImageManifest
	return [][]byte{layer, config}, d, manifest
}

// pushImage does what publishing an image does.
func pushImage(ctx context.Context, r *Repository, tag string, blobs [][]byte, d ocispec.Descriptor, manifest []byte) error {
	for _, data := range blobs {
		there, err := r.Exists(ctx, blobDescriptor(data))
		if err != nil {
			return err
		}
		if there {
			continue
		}
		if err := r.PushBlob(ctx, blobDescriptor(data), opener(data), nil); err != nil {
			return err
		}
	}
	if err := r.PushManifest(ctx, d.Digest.String(), d, manifest); err != nil {
		return err
	}
	return r.PushManifest(ctx, tag, d, manifest)
}

// wantRefusal checks the code of an error and that it shows no secret.
func wantRefusal(t testing.TB, err error, code string) *refusal.Error {
	t.Helper()
	found := refusal.All(err)
	if len(found) != 1 || found[0].Code != code {
		t.Fatalf("error %v (%s), want a refusal %s", err, describe(err), code)
	}
	wantNoSecret(t, err)
	return found[0]
}

func wantNoSecret(t testing.TB, err error) {
	t.Helper()
	text := describe(err)
	for _, secret := range []string{testPassword, basicSecret(testUser, testPassword), "token-"} {
		if strings.Contains(text, secret) {
			t.Errorf("the error shows the secret %q:\n%s", secret, text)
		}
	}
}

func describe(err error) string {
	text := fmt.Sprint(err)
	for e := err; e != nil; {
		text += "\n" + e.Error()
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	for _, e := range refusal.All(err) {
		text += fmt.Sprintf("\n%s %s\nseen: %s\nfix: %s", e.Code, e.Summary, strings.Join(e.Seen, "\n      "), strings.Join(e.Fix, "\n     "))
	}
	return text
}

func readAll(t testing.TB, r *Repository, d ocispec.Descriptor) ([]byte, error) {
	t.Helper()
	rc, err := r.Fetch(t.Context(), d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func dialError() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

// helperMain is a credential helper of some kind.
func helperMain(kind string) {
	input, _ := io.ReadAll(os.Stdin)
	switch {
	case os.Args[1] != "get":
		_ = os.WriteFile(filepath.Join(filepath.Dir(os.Args[0]), os.Args[1]), input, 0o600)
	case kind == "good":
		fmt.Printf(`{"ServerURL":%q,"Username":%q,"Secret":%q}`, input, testUser, testPassword)
	case kind == "token":
		fmt.Printf(`{"Username":"<token>","Secret":%q}`, testPassword)
	case kind == "none":
		fmt.Println(helperNone)
		os.Exit(1)
	case kind == "broken":
		fmt.Println(testPassword)
		fmt.Fprintln(os.Stderr, testPassword)
		os.Exit(3)
	case kind == "endless":
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 4096)); err != nil {
				os.Exit(1)
			}
		}
	}
	os.Exit(0)
}
