package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// peerStep is a command line that docker's client and anyarch are both given, and what
// is compared of what they do. {} is the repository prefix that each has to itself.
type peerStep struct {
	args string
	// json compares standard output as JSON; shape, with all digests alike; else it
	// is compared byte for byte.
	json, shape bool
	// pushed is compared as both registries have it.
	pushed string
	// differs says why anyarch's exit code is 1 where docker's is 0, or the other way
	// round; nothing else is compared then.
	differs string
}

var peerSteps = []peerStep{
	{args: "manifest create --insecure {}/list:1 {}/app-amd64 {}/app-arm64"},
	{args: "manifest annotate {}/list:1 {}/app-arm64 --arch arm64 --os linux"},
	{args: "manifest annotate --os-version 10.1 --os-features a,b --os-features b {}/list:1 {}/app-amd64"},
	{args: "manifest inspect --insecure {}/list:1", json: true},
	{args: "manifest inspect --insecure {}/list:1 {}/app-arm64"},
	{args: "manifest inspect --insecure {}/app-arm64"},
	{args: "manifest push --insecure {}/list:1", shape: true, pushed: "list:1"},
	{args: "manifest rm {}/list:1"},
	{args: "manifest inspect --insecure {}/list:1", json: true},
	{args: "manifest push --insecure {}/list:1"},
	{args: "manifest rm {}/list:1"},
	{args: "manifest rm"},
	{args: "manifest create --insecure {}/list:2 {}/app-amd64"},
	{args: "manifest create --insecure --amend {}/list:2 {}/app-arm64"},
	{args: "manifest create --insecure {}/list:2 {}/win"},
	{args: "manifest create --insecure -a {}/list:2 {}/win"},
	{args: "manifest push --insecure -p {}/list:2", shape: true, pushed: "list:2"},
	{args: "manifest push --insecure {}/list:2"},
	{args: "manifest create --insecure {}/list:3 {}/app-amd64 {}/nowhere"},
	{args: "manifest create --insecure {}/list:4 {}/index"},
	{args: "manifest create --insecure {}/list:4"},
	{args: "manifest create --insecure {}/BAD {}/app-amd64"},
	{args: "manifest create --insecure {}/list:5 {}/app-amd64"},
	{args: "manifest annotate --arch amd64 {}/list:5 {}/app-arm64"},
	{args: "manifest annotate --arch amd64 {}/nolist {}/app-arm64"},
	{args: "manifest annotate --arch foo {}/list:5 {}/app-amd64"},
	{args: "manifest annotate --bogus foo {}/list:5 {}/app-amd64"},
	{args: "manifest annotate {}/BAD {}/app-amd64"},
	{args: "manifest annotate {}/list:5 {}/BAD"},
	{args: "manifest annotate {}/list:5"},
	{args: "manifest inspect --insecure {}/list:5 {}/app-arm64"},
	{args: "manifest inspect --insecure {}/nowhere"},
	{args: "manifest inspect --insecure {}/index", json: true},
	{args: "manifest create --insecure {}/list:6 {}/app-amd64@AMD64 {}/app-arm64@ARM64"},
	{args: "manifest annotate --variant v8 {}/list:6 {}/app-arm64@ARM64"},
	{args: "manifest push --insecure {}/list:6", shape: true, pushed: "list:6"},
	{args: "manifest create --insecure {}/app-amd64:all {}/app-amd64 {}/app-arm64"},
	{args: "manifest push --insecure {}/app-amd64:all", shape: true, pushed: "app-amd64:all"},
	{args: "manifest"},
	{args: "frobnicate"},
	{args: "--bogus"},
	{args: "tag one"},
	{args: "manifest annotate --arch arm64 {}/list:5 {}/app-amd64", differs: "the annotation contradicts the image"},
	{args: "manifest create --insecure {}/list:5 {}/app-amd64", differs: "the same list of the same images is there already"},
	{args: "manifest create --insecure {}/list:7 {}/app-amd64 {}/same"},
	{args: "manifest push --insecure {}/list:7", differs: "linux/amd64 would be there twice"},
	{args: "manifest create --insecure {}/list:8 {}/none", shape: true},
	{args: "manifest push --insecure {}/list:8"},
}

var anyDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// TestDockerPeer gives docker's own client the same command lines. It needs no engine
// for docker manifest.
func TestDockerPeer(t *testing.T) {
	peers(t)
	peer, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("there is no docker to compare with")
	}
	if out, err := exec.Command(peer, "--version").Output(); err != nil || !strings.HasPrefix(string(out), "Docker version") {
		t.Skipf("%s isn't docker: %s %v", peer, out, err)
	}
	bin := filepath.Join(t.TempDir(), "docker")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	digests := map[string]string{}
	for _, user := range []string{"peer", "ours"} {
		peerImages(t, filepath.Join(root, user), digests)
	}
	config, cache := t.TempDir(), t.TempDir()
	run := func(program, user, args string) (stdout, stderr string, code int) {
		args = strings.NewReplacer("{}", registry+"/"+user, "AMD64", digests["app-amd64"], "ARM64", digests["app-arm64"]).Replace(args)
		cmd := exec.Command(program, strings.Fields(args)...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+config, "ANYARCH_CACHE="+cache, "DOCKER_CLI_EXPERIMENTAL=enabled", "NO_COLOR=1")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the exit code says it
		replace := strings.NewReplacer("/"+user+"/", "/{}/")
		return replace.Replace(out.String()), replace.Replace(errs.String()), cmd.ProcessState.ExitCode()
	}
	for _, s := range peerSteps {
		t.Run(s.args, func(t *testing.T) {
			wantOut, wantErr, want := run(peer, "peer", s.args)
			gotOut, gotErr, got := run(bin, "ours", s.args)
			if s.differs != "" {
				if got == want {
					t.Errorf("both exit with %d: it says that they differ because %s", got, s.differs)
				}
				return
			}
			if got != want {
				t.Fatalf("exit %d, docker's is %d\nanyarch: %s%s\ndocker: %s%s", got, want, gotOut, gotErr, wantOut, wantErr)
			}
			switch {
			case s.json:
				var g, w any
				if json.Unmarshal([]byte(gotOut), &g) != nil || json.Unmarshal([]byte(wantOut), &w) != nil || !reflect.DeepEqual(g, w) {
					t.Errorf("anyarch prints\n%s\ndocker\n%s", gotOut, wantOut)
				}
			case s.shape:
				if g, w := anyDigest.ReplaceAllString(gotOut, "sha256:…"), anyDigest.ReplaceAllString(wantOut, "sha256:…"); g != w {
					t.Errorf("anyarch prints\n%s\ndocker\n%s", gotOut, wantOut)
				}
			case gotOut != wantOut:
				t.Errorf("anyarch prints\n%s\ndocker\n%s", gotOut, wantOut)
			}
			if want != 0 && gotErr == "" {
				t.Error("it fails without a word")
			}
			if s.pushed != "" {
				if g, w := fetchIndex(t, registry, "ours/"+s.pushed), fetchIndex(t, registry, "peer/"+s.pushed); !reflect.DeepEqual(g, w) {
					t.Errorf("anyarch has pushed\n%+v\ndocker\n%+v", g, w)
				}
			}
		})
	}
}

// peerImages puts the same images below dir: of Docker's media types, which clients of
// all ages know.
func peerImages(t *testing.T, dir string, digests map[string]string) {
	t.Helper()
	put := func(name string, p platform.Platform, label string) image.Image {
		st, err := store.Create(filepath.Join(dir, name))
		check(t, err)
		text := "content of " + name
		l, err := layer.Write(t.Context(), st, []layer.Entry{{Name: "file", Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}}, layer.Options{})
		check(t, err)
		img, err := image.Assemble(st, image.Recipe{Platform: p, Config: ocispec.Image{Config: ocispec.ImageConfig{Labels: map[string]string{"l": label}}}, Layers: []image.Layer{l}, MediaTypes: image.Docker})
		check(t, err)
		img.Manifest = asDockerWrites(t, st, img)
		check(t, st.Tag(t.Context(), "latest", img.Manifest, true))
		digests[name] = img.Manifest.Digest.String()
		return img
	}
	linux := func(arch string) platform.Platform { return platform.Platform{OS: "linux", Architecture: arch} }
	put("app-amd64", linux("amd64"), "")
	put("app-arm64", linux("arm64"), "")
	put("same", linux("amd64"), "same")
	put("win", platform.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1"}, "")
	put("none", platform.Platform{}, "")
	both := []image.Image{put("index", linux("amd64"), "a"), put("index", linux("arm64"), "b")}
	st, err := store.Open(filepath.Join(dir, "index"))
	check(t, err)
	index, err := image.WriteIndex(st, both, nil, image.Docker)
	check(t, err)
	check(t, st.Tag(t.Context(), "latest", index, true))
}

// asDockerWrites spells a manifest as docker does: clients of before version 23 write
// what they push anew, and then it has to come to the same digest.
func asDockerWrites(t *testing.T, st *store.Store, img image.Image) ocispec.Descriptor {
	t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Size      int64  `json:"size"`
		Digest    string `json:"digest"`
	}
	of := func(d ocispec.Descriptor) descriptor { return descriptor{d.MediaType, d.Size, d.Digest.String()} }
	m := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, image.DockerManifest, of(img.Config), nil}
	for _, l := range img.Layers {
		m.Layers = append(m.Layers, of(l.Descriptor))
	}
	data, err := json.MarshalIndent(m, "", "   ")
	check(t, err)
	d := img.Manifest
	d.Digest, err = st.Write(data)
	check(t, err)
	d.Size = int64(len(data))
	return d
}

// fetchIndex reads an index as the registry has it, its entries sorted.
func fetchIndex(t *testing.T, registry, name string) ocispec.Index {
	t.Helper()
	repository, tag, _ := strings.Cut(name, ":")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+registry+"/v2/"+repository+"/manifests/"+tag, nil)
	check(t, err)
	req.Header.Set("Accept", image.DockerManifestList+", "+ocispec.MediaTypeImageIndex)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	var index ocispec.Index
	check(t, json.NewDecoder(resp.Body).Decode(&index))
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return index
}
