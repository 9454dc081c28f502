package registry

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

// TestSweep lets every single request of a push fail once, in every way, and
// then everything from that request on. The first must not be noticed. After
// the second the tag is where it was, or the image is complete.
func TestSweep(t *testing.T) {
	t.Parallel()
	type fault = registrytest.Fault
	layer := content(200_000)
	blobs, d, manifest := testImage(t, layer)
	for _, config := range []registrytest.Config{{}, {User: testUser, Password: testPassword}} {
		for name, f := range map[string]fault{
			"503":                  {Status: 503},
			"500 after the work":   {Status: 500, Served: true},
			"reset":                {Cut: registrytest.Reset},
			"close":                {Cut: registrytest.Close},
			"reset after the work": {Cut: registrytest.Reset, Served: true},
			"reset after 10 bytes": {Cut: registrytest.Reset, At: 10},
			"429":                  {Status: 429, Drain: true, Header: map[string]string{"Retry-After": "1"}},
		} {
			for _, forever := range []bool{false, true} {
				t.Run(fmt.Sprintf("token %v, %s, forever %v", config.User != "", name, forever), func(t *testing.T) {
					t.Parallel()
					for k := range 40 {
						s := registrytest.New(t, config)
						old := s.AddManifest("app/web", "v1", ocispec.MediaTypeImageManifest, []byte(`{"old":true}`))
						f := f
						f.Skip = k
						if forever {
							f.Times = -1
						}
						s.Inject(f)
						r := testRepository(t, s, "app/web").Direct()
						err := pushImage(t.Context(), r, "v1", blobs, d, manifest)
						requests := len(s.Requests())
						tag := s.Tags("app/web")["v1"]
						if !forever && (err != nil || tag != d.Digest) {
							t.Fatalf("request %d: %s\n%s", k, describe(err), logOf(s))
						}
						if err == nil && tag != d.Digest || err != nil && tag != d.Digest && tag != old.Digest {
							t.Fatalf("request %d: the tag names %s after %v", k, tag, err)
						}
						if err != nil && len(refusal.All(err)) != 1 {
							t.Fatalf("request %d: %v isn't a refusal", k, err)
						}
						wantNoSecret(t, err)
						if tag == d.Digest {
							for _, data := range blobs {
								if got, _ := s.Blob("app/web", blobDescriptor(data).Digest); !bytes.Equal(got, data) {
									t.Fatalf("request %d: the tag has moved before its blobs", k)
								}
							}
						}
						if requests <= k {
							break // all of them have had their turn
						}
					}
				})
			}
		}
	}
}

// TestRealRegistry runs against distribution's registry, where there is one.
func TestRealRegistry(t *testing.T) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("there is no docker-registry on the PATH")
	}
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), address))
	cmd := exec.CommandContext(t.Context(), program, "serve", config)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for i := 0; ; i++ {
		resp, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			resp.Body.Close()
			break
		}
		if i == 200 {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	c := testClient(t, testOptions(t, nil))
	r, err := c.Repository(address + "/app/web")
	if err != nil {
		t.Fatal(err)
	}
	r = r.Direct()
	layer := content(bigBlob)
	blobs, d, manifest := testImage(t, layer)
	if err := pushImage(t.Context(), r, "v1", blobs, d, manifest); err != nil {
		t.Fatal(describe(err))
	}
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != d.Digest || got.Size != d.Size {
		t.Errorf("resolve: %v, %v", got, err)
	}
	if got, err := readAll(t, r, d); err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("manifest: %v", err)
	}
	if got, err := readAll(t, r, blobDescriptor(layer)); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("blob: %v", err)
	}
	other, err := c.Repository(address + "/app/other")
	if err != nil {
		t.Fatal(err)
	}
	if mounted, err := other.Mount(t.Context(), blobDescriptor(layer), r.Name()); err != nil || !mounted {
		t.Errorf("mount: %v, %v", mounted, err)
	}
	// In chunks, and by a mount that isn't one.
	other.push.host.noWhole.Store(true)
	data := content(3 << 20)
	if mounted, err := other.Mount(t.Context(), blobDescriptor(data), r.Name()); err != nil || mounted {
		t.Errorf("mount of what isn't there: %v, %v", mounted, err)
	}
	if err := other.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil); err != nil {
		t.Error(describe(err))
	}
	other.push.host.chunks.broke(4 << 20)
	data = content(4<<20 + 5)
	if err := other.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil); err != nil {
		t.Error(describe(err))
	}
	if tags, err := r.Tags(t.Context()); err != nil || len(tags) != 1 || tags[0] != "v1" {
		t.Errorf("tags %v, %v", tags, err)
	}
	if found, err := r.Referrers(t.Context(), d.Digest); err != nil || len(found) != 0 {
		t.Errorf("referrers %v, %v", found, err)
	}
	if err := r.Delete(t.Context(), d.Digest); err != nil {
		t.Error(describe(err))
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "data", "docker", "registry", "v2", "repositories", "app", "web", "_uploads")); len(entries) > 0 {
		t.Errorf("%d uploads are left open", len(entries))
	}
}
