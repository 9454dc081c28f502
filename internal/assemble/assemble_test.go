package assemble_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
	"github.com/anyarch/anyarch/internal/store"
)

// client is a client that doesn't wait between its tries.
func client(t *testing.T) *registry.Client {
	t.Helper()
	home := t.TempDir()
	c, err := registry.New(registry.Options{
		ConfigDir: home, Getenv: func(key string) string { return map[string]string{"HOME": home}[key] },
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// repository opens a repository of a test registry as something to write to.
func repository(t *testing.T, c *registry.Client, s *registrytest.Server, name string) *registry.Repository {
	t.Helper()
	r, err := c.Repository(s.Host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return r.Direct()
}

func at(r *registry.Repository) assemble.Place {
	return assemble.Place{Source: r, Name: r.Name(), Repository: r.Name()}
}

// add puts an image for a platform, with a layer of its own, into a repository.
func add(t *testing.T, s *registrytest.Server, repo, tag, platformName string, change func(*ocispec.Manifest, *ocispec.Image)) ocispec.Descriptor {
	t.Helper()
	p, err := platform.Parse(platformName)
	if err != nil {
		t.Fatal(err)
	}
	l, blob := oneFile(t, repo+tag+platformName)
	s.AddBlob(repo, blob)
	config := ocispec.Image{Platform: p.OCI(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{l.Descriptor}}
	if change != nil {
		change(&manifest, &config)
	}
	d := s.AddBlob(repo, encode(t, config))
	d.MediaType = ocispec.MediaTypeImageConfig
	if manifest.MediaType == image.DockerManifest {
		d.MediaType = image.DockerConfig
	}
	manifest.Config = d
	return s.AddManifest(repo, tag, manifest.MediaType, encode(t, manifest))
}

// layers are those that tests have made already, by their content.
var layers sync.Map

type madeLayer struct {
	image.Layer
	blob []byte
}

// oneFile is a layer with a file of this content.
func oneFile(t *testing.T, content string) (image.Layer, []byte) {
	t.Helper()
	if made, ok := layers.Load(content); ok {
		return made.(madeLayer).Layer, made.(madeLayer).blob
	}
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := layer.Write(t.Context(), st, []layer.Entry{{Name: "file", Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}}, layer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := st.ReadBlob(l.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers.Store(content, madeLayer{l, blob})
	return l, blob
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// addIndex puts an index into a repository.
func addIndex(t *testing.T, s *registrytest.Server, repo, tag string, entries ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return s.AddManifest(repo, tag, ocispec.MediaTypeImageIndex, encode(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries}))
}

func on(d ocispec.Descriptor, name string) ocispec.Descriptor {
	os, arch, _ := strings.Cut(name, "/")
	d.Platform = &ocispec.Platform{OS: os, Architecture: arch}
	return d
}

// attest puts an attestation of BuildKit's kind about an image into a repository.
func attest(t *testing.T, s *registrytest.Server, repo string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	statement := s.AddBlob(repo, []byte(`{"_type":"statement about `+subject.Digest.String()+`"}`))
	statement.MediaType = "application/vnd.in-toto+json"
	config := s.AddBlob(repo, []byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["`+statement.Digest.String()+`"]}}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	d := s.AddManifest(repo, "", ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{statement}}))
	d = on(d, "unknown/unknown")
	d.Annotations = map[string]string{assemble.AnnotationReferenceType: "attestation-manifest", assemble.AnnotationReferenceDigest: subject.Digest.String()}
	return d
}

func read(t *testing.T, r *registry.Repository, identifier string) *assemble.Item {
	t.Helper()
	item, err := assemble.NewReader().Read(t.Context(), at(r), identifier)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[*refusal.Error](err)
	if !ok || e.Code != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

// shape lists the entries of a draft.
func shape(d *assemble.Draft) string {
	var list []string
	for _, e := range d.Entries {
		what := string(e.Item.Kind)
		if e.Item.Kind == assemble.KindImage {
			what = platform.FromOCI(e.Descriptor.Platform).String()
		}
		list = append(list, what)
	}
	return strings.Join(list, " ")
}

// TestCost counts what an index over two existing images costs, by kind of
// request.
func TestCost(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	for _, arch := range []string{"amd64", "arm64"} {
		add(t, s, "app", arch, "linux/"+arch, nil)
	}
	repo := repository(t, client(t), s, "app")
	if _, err := repo.Resolve(t.Context(), "amd64"); err != nil { // the ping
		t.Fatal(err)
	}
	s.ForgetRequests()

	reader := assemble.NewReader()
	draft := &assemble.Draft{}
	for _, tag := range []string{"amd64", "arm64"} {
		item, err := reader.Read(t.Context(), at(repo), tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := draft.Add(assemble.Options{}, item); err != nil {
			t.Fatal(err)
		}
	}
	report, err := draft.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig, Require: platform.Default()})
	if err != nil || report.Err(prove.Warning) != nil {
		t.Fatal(err, report.Err(prove.Warning))
	}
	var items []*assemble.Item
	for _, e := range draft.Entries {
		items = append(items, e.Item)
	}
	stats, err := assemble.Send(t.Context(), repo, progress.Discard, items...)
	if err != nil {
		t.Fatal(err)
	}
	d, data, err := draft.Encode()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := publish.PlanRetag(t.Context(), repo, []string{"1.0", "stable"}, d, data, publish.LatestNewest)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish.MoveAll(t.Context(), progress.Discard, plan); err != nil {
		t.Fatal(err)
	}
	counts, sent := map[string]int{}, int64(0)
	for _, r := range s.Requests() {
		what := "manifests"
		if strings.Contains(r.Path, "/blobs/") {
			what = "blobs"
			sent += r.Received
		}
		counts[r.Method+" "+what]++
	}
	t.Logf("two images, two tags: %d requests %v, %d bytes of blobs sent, %+v", len(s.Requests()), counts, sent, stats)
	if n := len(s.Requests()); n > 2*2+2*2 || sent != 0 || stats != (publish.Stats{}) {
		t.Errorf("%d requests, want 2 per image and 2 per tag: %v; %d bytes, %+v", n, counts, sent, stats)
	}
	if tags := s.Tags("app"); tags["1.0"] != d.Digest || tags["stable"] != d.Digest {
		t.Errorf("tags %v, want %s", tags, d.Digest)
	}
}

// TestSources puts together what comes from several repositories, registries and
// a layout.
func TestSources(t *testing.T) {
	t.Parallel()
	here, there := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
	add(t, here, "app", "amd64", "linux/amd64", nil)
	add(t, here, "other", "arm64", "linux/arm64", nil)
	add(t, there, "far", "riscv64", "linux/riscv64", nil)
	c := client(t)
	repo := repository(t, c, here, "app")
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: "s390x"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Tag(t.Context(), "x", img.Manifest, false); err != nil {
		t.Fatal(err)
	}
	items := []*assemble.Item{read(t, repo, "amd64"), read(t, repository(t, c, here, "other"), "arm64"), read(t, repository(t, c, there, "far"), "riscv64")}
	local, err := assemble.NewReader().Read(t.Context(), assemble.Place{Source: image.Layout{Store: st}, Name: "oci:dir"}, "x")
	if err != nil {
		t.Fatal(err)
	}
	items = append(items, local)
	draft := &assemble.Draft{}
	if err := draft.Add(assemble.Options{}, items...); err != nil {
		t.Fatal(err)
	}
	stats, err := assemble.Send(t.Context(), repo, progress.Discard, items...)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Mounted == 0 || stats.Uploaded == 0 {
		t.Errorf("%+v: nothing was mounted, or nothing was sent", stats)
	}
	d, data, err := draft.Encode()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := publish.PlanRetag(t.Context(), repo, []string{"all"}, d, data, publish.LatestNewest)
	if err == nil {
		err = publish.MoveAll(t.Context(), progress.Discard, plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	whole, err := c.Repository(repo.Name())
	if err != nil {
		t.Fatal(err)
	}
	report, err := prove.Verify(t.Context(), whole, d, prove.Options{})
	if err != nil || len(report.Platforms) != 4 || report.Err(prove.Error) != nil && !onlyStart(report) {
		t.Errorf("%v, %d platforms, %v", err, len(report.Platforms), report.Findings)
	}
}

// onlyStart reports whether nothing is wrong but that these images have no program.
func onlyStart(r *prove.Report) bool {
	return !slices.ContainsFunc(r.Findings, func(f prove.Finding) bool { return f.Severity == prove.Error && f.Rule != prove.RuleStart })
}

func TestDraft(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	amd, arm := add(t, s, "app", "amd64", "linux/amd64", nil), add(t, s, "app", "arm64", "linux/arm64", nil)
	win := add(t, s, "app", "win", "windows/amd64", func(_ *ocispec.Manifest, c *ocispec.Image) { c.OSVersion = "10.0.20348.1" })
	newer := add(t, s, "app", "win-newer", "windows/amd64", func(_ *ocispec.Manifest, c *ocispec.Image) { c.OSVersion = "10.0.26100.1" })
	second := add(t, s, "app", "again", "linux/arm64", nil)
	att := attest(t, s, "app", arm)
	addIndex(t, s, "app", "one", on(arm, "linux/arm64"), att)
	inner := addIndex(t, s, "app", "inner", on(amd, "linux/amd64"))
	addIndex(t, s, "app", "outer", inner, on(arm, "linux/arm64"))
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}
	addIndex(t, s, "app", "hole", on(amd, "linux/amd64"), on(gone, "linux/arm64"))
	addIndex(t, s, "app", "wrong", on(amd, "linux/amd64"), on(amd, "linux/arm64"))
	bare := add(t, s, "app", "bare", "linux/amd64", func(_ *ocispec.Manifest, c *ocispec.Image) { c.Platform = ocispec.Platform{} })
	_ = bare
	repo := repository(t, client(t), s, "app")
	make := func(t *testing.T, o assemble.Options, tags ...string) (*assemble.Draft, error) {
		t.Helper()
		d := &assemble.Draft{}
		for _, tag := range tags {
			if err := d.Add(o, read(t, repo, tag)); err != nil {
				return d, err
			}
		}
		d.Sort()
		return d, nil
	}
	for name, c := range map[string]struct {
		tags []string
		o    assemble.Options
		want string
		code string
	}{
		"two images":              {tags: []string{"arm64", "amd64"}, want: "linux/amd64 linux/arm64"},
		"the same image twice":    {tags: []string{"amd64", "amd64"}, want: "linux/amd64"},
		"two builds of Windows":   {tags: []string{"win-newer", "win"}, want: "windows/amd64 windows/amd64"},
		"an attestation":          {tags: []string{"one", "amd64"}, want: "linux/amd64 linux/arm64 attestation"},
		"without attestations":    {tags: []string{"one"}, o: assemble.Options{DropAttestations: true}, want: "linux/arm64"},
		"a nested index":          {tags: []string{"outer"}, want: "linux/amd64 linux/arm64"},
		"a nested index, kept":    {tags: []string{"inner", "arm64"}, o: assemble.Options{Keep: true}, want: "linux/arm64 index"},
		"a platform of two":       {tags: []string{"outer"}, o: assemble.Options{Platforms: platform.Default()[1:]}, want: "linux/arm64"},
		"a platform isn't there":  {tags: []string{"outer"}, o: assemble.Options{Platforms: []platform.Platform{{OS: "linux", Architecture: "s390x"}}}, code: "PA204"},
		"a duplicate":             {tags: []string{"arm64", "again"}, code: "PA420"},
		"a duplicate, replaced":   {tags: []string{"one", "again"}, o: assemble.Options{Replace: true}, want: "linux/arm64"},
		"a duplicate, allowed":    {tags: []string{"arm64", "again"}, o: assemble.Options{AllowDuplicates: true}, want: "linux/arm64 linux/arm64"},
		"an index and its images": {tags: []string{"outer", "arm64"}, want: "linux/amd64 linux/arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := make(t, c.o, c.tags...)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil || shape(d) != c.want {
				t.Errorf("%q, %v, want %q", shape(d), err, c.want)
			}
			_, first, err := d.Encode()
			slices.Reverse(c.tags)
			again, _ := make(t, c.o, c.tags...)
			if _, second, _ := again.Encode(); err != nil || string(first) != string(second) && !c.o.Replace {
				t.Errorf("the order of sources matters:\n%s\n%s", first, second)
			}
		})
	}
	t.Run("editing keeps what it doesn't touch", func(t *testing.T) {
		t.Parallel()
		item := read(t, repo, "one")
		d, err := assemble.Edit(item)
		if err != nil {
			t.Fatal(err)
		}
		if _, data, err := d.Encode(); err != nil || string(data) != string(item.Data) {
			t.Errorf("%s\n%s\n%v", data, item.Data, err)
		}
		if err := d.Add(assemble.Options{}, read(t, repo, "amd64")); err != nil || shape(d) != "linux/arm64 attestation linux/amd64" {
			t.Errorf("%q %v", shape(d), err)
		}
		if err := d.Remove("linux/arm64"); err != nil || shape(d) != "linux/amd64" {
			t.Errorf("%q %v", shape(d), err)
		}
		wantCode(t, d.Remove("linux/amd64"), "PA424")
	})
	t.Run("selectors", func(t *testing.T) {
		t.Parallel()
		d, _ := make(t, assemble.Options{}, "outer", "win", "win-newer")
		wantCode(t, d.Remove("linux/s390x", "sha256:0000000"), "PA424")
		if err := d.Annotate(amd.Digest.Encoded()[:9], assemble.Change{Annotations: map[string]string{"a": "b"}}); err != nil || d.Entries[0].Descriptor.Annotations["a"] != "b" {
			t.Errorf("%v %v", err, d.Entries[0])
		}
		wantCode(t, d.Annotate("windows/amd64", assemble.Change{Variant: "v2"}), "PA424") // two of them
		if err := d.Annotate("windows/amd64:10.0.20348.1", assemble.Change{OSFeatures: []string{"win32k", "win32k"}}); err != nil {
			t.Error(err)
		}
		wantCode(t, d.Annotate("linux/amd64", assemble.Change{Architecture: "arm64"}), "PA420")
		wantCode(t, d.Annotate("", assemble.Change{Architecture: "arm64"}), "PA424")
		_, _ = win, newer
	})
	t.Run("a child is gone", func(t *testing.T) {
		t.Parallel()
		item := read(t, repo, "hole")
		_, err := assemble.Send(t.Context(), repository(t, client(t), s, "elsewhere"), progress.Discard, item)
		wantCode(t, err, "PA206")
		d, err := assemble.Edit(item)
		if err != nil {
			t.Fatal(err)
		}
		report, err := d.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig})
		if err != nil || report.Err(prove.Error) == nil {
			t.Errorf("%v %+v", err, report)
		}
		if err := d.Remove("linux/arm64"); err != nil {
			t.Error(err)
		}
		if report, err = d.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig}); err != nil || report.Err(prove.Warning) != nil {
			t.Errorf("%v %+v", err, report)
		}
	})
	t.Run("an index lies about a platform", func(t *testing.T) {
		t.Parallel()
		d, err := make(t, assemble.Options{}, "wrong")
		if err != nil {
			t.Fatal(err)
		}
		report, err := d.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, report.Err(prove.Error), prove.RulePlatform)
	})
	t.Run("a config names no platform", func(t *testing.T) {
		t.Parallel()
		d, err := make(t, assemble.Options{}, "bare")
		if err != nil {
			t.Fatal(err)
		}
		report, err := d.Prove(t.Context(), prove.Options{Depth: prove.DepthConfig})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, report.Err(prove.Error), prove.RulePlatform)
	})
	_ = second
}

// TestMediaTypes lets Docker's images give Docker's list, unless it can't hold
// what is asked for.
func TestMediaTypes(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	docker := func(m *ocispec.Manifest, _ *ocispec.Image) { m.MediaType = image.DockerManifest }
	add(t, s, "app", "amd64", "linux/amd64", docker)
	arm := add(t, s, "app", "arm64", "linux/arm64", docker)
	add(t, s, "app", "oci", "linux/s390x", nil)
	addIndex(t, s, "app", "attested", on(arm, "linux/arm64"), attest(t, s, "app", arm))
	repo := repository(t, client(t), s, "app")
	for name, c := range map[string]struct {
		tags        []string
		annotations map[string]string
		asked, want string
	}{
		"Docker":                  {tags: []string{"amd64", "arm64"}, want: image.DockerManifestList},
		"mixed":                   {tags: []string{"amd64", "oci"}, want: ocispec.MediaTypeImageIndex},
		"mixed, asked for":        {tags: []string{"amd64", "oci"}, asked: image.DockerManifestList, want: image.DockerManifestList},
		"Docker, OCI asked for":   {tags: []string{"amd64"}, asked: ocispec.MediaTypeImageIndex, want: ocispec.MediaTypeImageIndex},
		"annotations":             {tags: []string{"amd64"}, annotations: map[string]string{"a": "b"}, want: ocispec.MediaTypeImageIndex},
		"annotations, Docker":     {tags: []string{"amd64"}, annotations: map[string]string{"a": "b"}, asked: image.DockerManifestList},
		"an attestation":          {tags: []string{"attested"}, want: ocispec.MediaTypeImageIndex},
		"an attestation, refused": {tags: []string{"attested"}, asked: image.DockerManifestList},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &assemble.Draft{MediaType: c.asked, Annotations: c.annotations}
			for _, tag := range c.tags {
				if err := d.Add(assemble.Options{}, read(t, repo, tag)); err != nil {
					t.Fatal(err)
				}
			}
			got, data, err := d.Encode()
			if c.want == "" {
				wantCode(t, err, "PA432")
				return
			}
			if err != nil || got.MediaType != c.want || !strings.Contains(string(data), fmt.Sprintf("%q", c.want)) {
				t.Errorf("%v %s %s, want %s", err, got.MediaType, data, c.want)
			}
		})
	}
}

// TestRefusedSources are things that can't be part of an index.
func TestRefusedSources(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	s.AddManifest("app", "schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1,"name":"app","fsLayers":[],"history":[]}`))
	s.AddManifest("app", "schema1-as-2", image.DockerManifest, []byte(`{"schemaVersion":1,"name":"app","fsLayers":[],"history":[]}`))
	s.AddManifest("app", "text", "text/plain", []byte(`hello`))
	s.AddManifest("app", "two-faced", ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`))
	s.AddManifest("app", "mislabelled", ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`))
	s.AddManifest("app", "extra", ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[],"x-own":1}`))
	repo := repository(t, client(t), s, "app")
	for _, tag := range []string{"schema1", "schema1-as-2", "text", "two-faced", "mislabelled"} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			_, err := assemble.NewReader().Read(t.Context(), at(repo), tag)
			wantCode(t, err, "PA421")
		})
	}
	if _, err := assemble.NewReader().Read(t.Context(), at(repo), "absent"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	_, err := assemble.Edit(read(t, repo, "extra"))
	wantCode(t, err, "PA429")
}

// clientWith is a client that has credentials for a host.
func clientWith(t *testing.T, host, user, password string) *registry.Client {
	t.Helper()
	home := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(`{"auths":{"`+host+`":{"auth":"`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := registry.New(registry.Options{
		ConfigDir: home, Getenv: func(key string) string { return map[string]string{"HOME": home}[key] },
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
