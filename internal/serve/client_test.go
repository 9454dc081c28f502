package serve_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/serve"
)

// TestCrane uses the registry as crane does.
func TestCrane(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	host := strings.TrimPrefix(c.base, "http://")
	index, err := random.Index(4096, 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	if err := c.complete("team/app", "v1"); err != nil {
		t.Error(err)
	}
	if err := crane.Copy(host+"/team/app:v1", host+"/copied:v2"); err != nil { // mounts
		t.Fatal(err)
	}
	if err := c.complete("copied", "v2"); err != nil {
		t.Error(err)
	}
	if err := crane.Tag(host+"/copied:v2", "v3"); err != nil {
		t.Fatal(err)
	}
	if tags, err := crane.ListTags(host + "/copied"); err != nil || !slices.Equal(tags, []string{"v2", "v3"}) {
		t.Error(tags, err)
	}
	if repositories, err := crane.Catalog(host); err != nil || !slices.Equal(repositories, []string{"copied", "team/app"}) {
		t.Error(repositories, err)
	}
	subject, err := crane.Head(host + "/copied:v2")
	if err != nil {
		t.Fatal(err)
	}
	attached, ok := mutate.Subject(mutate.ConfigMediaType(mutate.MediaType(emptyImage(t), types.OCIManifestSchema1), "application/x-config"), *subject).(v1.Image)
	if !ok {
		t.Fatal("not an image")
	}
	if err := crane.Push(attached, host+"/copied:attached"); err != nil {
		t.Fatal(err)
	}
	at, err := name.NewDigest(host + "/copied@" + subject.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	referrers, err := remote.Referrers(at)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := referrers.IndexManifest(); err != nil || len(m.Manifests) != 1 || m.Manifests[0].ArtifactType != "application/x-config" {
		t.Error(m, err)
	}
	if err := crane.Delete(host + "/copied:v2"); err != nil {
		t.Error(err)
	}
}

func emptyImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(16, 1)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// seed pushes an index of one image for this machine.
func seed(c client, repository, tag string) {
	c.Helper()
	layer, err := crane.Layer(map[string][]byte{"hello": []byte("hello")})
	if err != nil {
		c.Fatal(err)
	}
	compressed, err := layer.Compressed()
	if err != nil {
		c.Fatal(err)
	}
	data, err := io.ReadAll(compressed)
	if err != nil {
		c.Fatal(err)
	}
	diffID, err := layer.DiffID()
	if err != nil {
		c.Fatal(err)
	}
	machine := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	config := ocispec.Image{Platform: machine, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.Digest(diffID.String())}}}
	m := manifest(c.pushBlob(repository, data))
	m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip
	m.Config = c.pushBlob(repository, encode(c, config))
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	child := c.push(repository, "", m)
	child.Platform = &machine
	c.push(repository, tag, index(child))
}

// tool runs a program that may not be there, with no configuration of this
// machine.
func tool(t *testing.T, home, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skip("there is no " + program)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home, "TMPDIR=" + home, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestSkopeo copies an image in, between repositories and out, and reads a
// repository's layout from the disk.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	root, home := t.TempDir(), t.TempDir()
	c := start(t, serve.Options{Root: root})
	host := strings.TrimPrefix(c.base, "http://")
	seed(c, "seed", "v1")
	policy := []string{"--insecure-policy"}
	skopeo := func(args ...string) string { return tool(t, home, "skopeo", append(policy, args...)...) }
	skopeo("copy", "--all", "oci:"+filepath.Join(root, "seed")+":v1", "--dest-tls-verify=false", "docker://"+host+"/in:1.5.0")
	skopeo("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+host+"/in:1.5.0", "docker://"+host+"/deep/copy:v2")
	skopeo("copy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+host+"/in:1.5.0", "docker://"+host+"/docker:v2")
	skopeo("copy", "--all", "--src-tls-verify=false", "docker://"+host+"/deep/copy:v2", "oci:"+filepath.Join(home, "out")+":v2")
	for _, reference := range []string{"in 1.5.0", "deep/copy v2", "docker v2"} {
		repository, tag, _ := strings.Cut(reference, " ")
		if err := c.complete(repository, tag); err != nil {
			t.Error(reference, err)
		}
	}
	if out := skopeo("inspect", "--raw", "oci:"+filepath.Join(root, "in")+":1.5.0"); !strings.Contains(out, "manifests") {
		t.Error(out)
	}
	if out := skopeo("list-tags", "--tls-verify=false", "docker://"+host+"/in"); !strings.Contains(out, "1.5.0") {
		t.Error(out)
	}
	skopeo("delete", "--tls-verify=false", "docker://"+host+"/deep/copy:v2")
	c.want(404, "GET", "/v2/deep/copy/manifests/v2", nil)
}

// TestBuildah pulls an image and pushes it back.
func TestBuildah(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	c := start(t, serve.Options{})
	host := strings.TrimPrefix(c.base, "http://")
	seed(c, "seed", "v1")
	store := []string{"--root", filepath.Join(home, "root"), "--runroot", filepath.Join(home, "run"), "--storage-driver", "vfs"}
	buildah := func(args ...string) string { return tool(t, home, "buildah", append(store, args...)...) }
	policy := filepath.Join(home, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	buildah("pull", "--signature-policy", policy, "--tls-verify=false", host+"/seed:v1")
	buildah("push", "--signature-policy", policy, "--tls-verify=false", host+"/seed:v1", "docker://"+host+"/back:v1")
	if err := c.complete("back", "v1"); err != nil {
		t.Error(err)
	}
}
