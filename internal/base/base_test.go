package base

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

var linuxAMD64 = platform.Platform{OS: "linux", Architecture: "amd64"}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// registry stands in for registry.example/base: a layout that counts what it
// is asked for.
type registry struct {
	image.Layout
	mu       sync.Mutex
	resolved []string
	fetched  map[digest.Digest]int
	block    chan struct{} // if not nil, Fetch of layers waits for it
}

const repository = "registry.example/base"

func newRegistry(t *testing.T) *registry {
	return &registry{Layout: image.Layout{Store: newStore(t)}, fetched: map[digest.Digest]int{}}
}

func (r *registry) Resolve(ctx context.Context, name string) (ocispec.Descriptor, error) {
	r.mu.Lock()
	r.resolved = append(r.resolved, name)
	r.mu.Unlock()
	if d, err := digest.Parse(name); err == nil { // whatever it is: not all registries look into manifests
		size, err := r.Store.Size(d)
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: size}, err
	}
	return r.Layout.Resolve(ctx, name)
}

func (r *registry) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if r.block != nil && isLayer(d.MediaType) {
		<-r.block
	}
	r.mu.Lock()
	r.fetched[d.Digest]++
	r.mu.Unlock()
	return r.Layout.Fetch(ctx, d)
}

// open is an Opener for registry.example/base and nothing else.
func (r *registry) open(_ context.Context, ref string) (image.Source, string, string, error) {
	rest, ok := strings.CutPrefix(ref, repository)
	if !ok {
		return nil, "", "", fmt.Errorf("%s isn't %s", ref, repository)
	}
	rest, d, _ := strings.Cut(rest, "@")
	if d == "" {
		d = strings.TrimPrefix(rest, ":")
	}
	return r, repository, d, nil
}

// write stores anything as JSON.
func (r *registry) write(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Store.Write(data)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (r *registry) tag(t *testing.T, name string, d ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	if err := r.Store.Tag(t.Context(), name, d, true); err != nil {
		t.Fatal(err)
	}
	return d
}

// oci is the platform that text names, in the spelling that it has.
func oci(text string) ocispec.Platform {
	text, osVersion, _ := strings.Cut(text, ":")
	parts := append(strings.Split(text, "/"), "")
	return ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2], OSVersion: osVersion}
}

func wanted(texts ...string) []platform.Platform {
	var list []platform.Platform
	for _, text := range texts {
		p := oci(text)
		list = append(list, platform.FromOCI(&p))
	}
	return list
}

// image makes an image whose config says one platform, and gives a descriptor
// that says the same.
func (r *registry) image(t *testing.T, spelled string) ocispec.Descriptor {
	t.Helper()
	p := oci(spelled)
	content := []byte("files for " + spelled)
	d, err := r.Store.Write(content)
	if err != nil {
		t.Fatal(err)
	}
	config := r.write(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: p,
		Config:   ocispec.ImageConfig{User: "7", Env: []string{"A=" + spelled}, Labels: map[string]string{"of": "base"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("tar of " + spelled)}},
		History:  []ocispec.History{{CreatedBy: "ENV A", EmptyLayer: true}, {CreatedBy: "COPY files"}},
	})
	manifest := r.write(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: d, Size: int64(len(content))}},
	})
	manifest.Platform = &p
	return manifest
}

func (r *registry) index(t *testing.T, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return r.write(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

// images is an index over images of the platforms.
func (r *registry) images(t *testing.T, platforms ...string) ocispec.Descriptor {
	t.Helper()
	var manifests []ocispec.Descriptor
	for _, p := range platforms {
		manifests = append(manifests, r.image(t, p))
	}
	return r.index(t, manifests...)
}

func (r *registry) resolver(t *testing.T) *Resolver {
	return New(Options{Store: newStore(t), Open: r.open})
}

func resolve(t *testing.T, r *Resolver, name string) *Base {
	t.Helper()
	b, err := r.Resolve(t.Context(), name, "anyarch.yaml:3")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func platformsOf(images []Image) []string {
	var list []string
	for _, img := range images {
		list = append(list, name(img.Platform))
	}
	return list
}

func TestFor(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		base   []string
		wanted []string
		want   []string
	}{
		"as asked": {[]string{"linux/amd64", "linux/arm64"}, []string{"linux/arm64", "linux/amd64"}, []string{"linux/arm64", "linux/amd64"}},
		// ko has "no matching platforms" for the next two.
		"arm64/v8 in the base":     {[]string{"linux/amd64", "linux/arm64/v8"}, []string{"linux/arm64"}, []string{"linux/arm64"}},
		"arm64/v8 asked":           {[]string{"linux/amd64", "linux/arm64"}, []string{"linux/arm64/v8"}, []string{"linux/arm64"}},
		"lower variant":            {[]string{"linux/amd64", "linux/arm/v5", "linux/arm/v6"}, []string{"linux/amd64/v3", "linux/arm/v7"}, []string{"linux/amd64", "linux/arm/v6"}},
		"best variant":             {[]string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, []string{"linux/amd64/v3"}, []string{"linux/amd64/v2"}},
		"arm without a variant":    {[]string{"linux/arm"}, []string{"linux/arm/v7"}, []string{"linux/arm/v7"}},
		"newest Windows":           {[]string{"windows/amd64:10.0.17763.1", "windows/amd64:10.0.20348.169", "windows/amd64:10.0.20348.99"}, []string{"windows/amd64"}, []string{"windows/amd64:10.0.20348.169"}},
		"one Windows":              {[]string{"windows/amd64:10.0.17763.1", "windows/amd64:10.0.20348.169"}, []string{"windows/amd64:10.0.17763"}, []string{"windows/amd64:10.0.17763.1"}},
		"attestations are skipped": {[]string{"unknown/unknown", "linux/amd64"}, []string{"linux/amd64"}, []string{"linux/amd64"}},
		"nothing":                  {[]string{"linux/amd64"}, nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			r.tag(t, "1", r.images(t, test.base...))
			images, err := resolve(t, r.resolver(t), repository+":1").For(t.Context(), wanted(test.wanted...))
			if err != nil {
				t.Fatal(err)
			}
			if got := platformsOf(images); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	index := r.tag(t, "1", r.images(t, "linux/amd64", "linux/arm64/v8"))
	b := resolve(t, r.resolver(t), repository+":1")
	if b.Digest != index.Digest || b.Repository != repository || b.Name != repository+":1" || b.Version != "" {
		t.Errorf("%+v", b)
	}
	images, err := b.For(t.Context(), wanted("linux/arm64"))
	if err != nil {
		t.Fatal(err)
	}
	img, manifest := images[0], r.image(t, "linux/arm64/v8")
	if img.Ref != repository+"@"+manifest.Digest.String() || img.Manifest.Digest != manifest.Digest || img.Manifest.Size != manifest.Size {
		t.Errorf("%s, %+v; want %+v", img.Ref, img.Manifest, manifest)
	}
	if img.Config.Config.User != "7" || img.Config.Config.Env[0] != "A=linux/arm64/v8" {
		t.Errorf("config %+v", img.Config)
	}
	want := image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromString("files for linux/arm64/v8"), Size: 24},
		DiffID:     digest.FromString("tar of linux/arm64/v8"),
		History:    ocispec.History{CreatedBy: "COPY files"},
		From:       repository,
	}
	if !reflect.DeepEqual(img.Layers, []image.Layer{want}) {
		t.Errorf("layers %+v\nwant %+v", img.Layers, want)
	}
}

// seenOf is what a refusal says in all.
func seenOf(e *refusal.Error) string {
	return strings.Join(append(append([]string{e.Error()}, e.Seen...), e.Fix...), "\n")
}

// refused checks codes and platforms of all refusals, in order, as "PA104
// linux/arm64".
func refused(t *testing.T, err error, want ...string) refusal.List {
	t.Helper()
	var got []string
	list := refusal.All(err)
	for _, e := range list {
		got = append(got, strings.TrimSpace(e.Code+" "+e.Platform))
		if e.Place == "" || e.Summary == "" || len(e.Seen) == 0 {
			t.Errorf("says too little: %+v", e)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %q, want %q: %v", got, want, err)
	}
	return list
}

// ko drops platforms that the base hasn't and says nothing.
func TestMissingPlatformsAreAllRefused(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.tag(t, "1", r.images(t, "linux/amd64", "linux/arm64", "unknown/unknown", "windows/amd64:10.0.20348.169"))
	b := resolve(t, r.resolver(t), repository+":1")
	images, err := b.For(t.Context(), wanted("linux/amd64", "linux/arm/v7", "linux/s390x", "linux/arm64", "windows/amd64:10.0.17763"))
	if images != nil {
		t.Errorf("images %v", platformsOf(images))
	}
	list := refused(t, err, "PA104 linux/arm/v7", "PA104 linux/s390x", "PA104 windows/amd64:10.0.17763")
	text := seenOf(list[0])
	for _, want := range []string{
		"anyarch.yaml:3", repository + ":1 (index " + short(b.Digest) + ") has: linux/amd64, linux/arm64, windows/amd64:10.0.20348.169",
		"base: static", "--platform linux/amd64,linux/arm64",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "unknown") {
		t.Errorf("lists an attestation:\n%s", text)
	}
}

func TestSinglePlatform(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	arm64 := r.image(t, "linux/arm64")
	amd64 := r.image(t, "linux/amd64")
	index := r.tag(t, "multi", r.index(t, amd64, arm64))
	r.tag(t, "only", amd64)
	r.tag(t, "moved", r.images(t, "linux/arm64/v8", "linux/riscv64"))
	tests := map[string]struct {
		ref    string
		wanted []string
		want   []string // refusals
		say    []string
	}{
		"suits":                   {repository + ":only", []string{"linux/amd64"}, nil, nil},
		"suits a higher variant":  {repository + ":only", []string{"linux/amd64", "linux/amd64/v3"}, nil, nil},
		"doesn't suit":            {repository + ":only", []string{"linux/amd64", "linux/arm64"}, []string{"PA108 linux/arm64"}, []string{"manifest", "has: linux/amd64", "--platform linux/amd64"}},
		"pinned, suits":           {repository + ":multi@" + amd64.Digest.String(), []string{"linux/amd64"}, nil, nil},
		"pinned":                  {repository + ":multi@" + amd64.Digest.String(), []string{"linux/amd64", "linux/arm64"}, []string{"PA105"}, []string{"base: " + repository + ":multi@" + index.Digest.String(), "is the linux/amd64 image", "missing: linux/arm64"}},
		"pinned, and lacks more":  {repository + ":multi@" + amd64.Digest.String(), []string{"linux/arm64", "linux/s390x"}, []string{"PA105", "PA104 linux/s390x"}, nil},
		"pinned, tag moved":       {repository + ":moved@" + amd64.Digest.String(), []string{"linux/amd64", "linux/arm64"}, []string{"PA105"}, []string{"the tag moved is now the index"}},
		"pinned, tag is single":   {repository + ":only@" + amd64.Digest.String(), []string{"linux/arm64"}, []string{"PA108 linux/arm64"}, nil},
		"pinned, tag is gone":     {repository + ":gone@" + amd64.Digest.String(), []string{"linux/arm64"}, []string{"PA108 linux/arm64"}, nil},
		"pinned without a tag":    {repository + "@" + amd64.Digest.String(), []string{"linux/arm64"}, []string{"PA108 linux/arm64"}, []string{"a digest may be that of one platform"}},
		"pinned to the index":     {repository + ":multi@" + index.Digest.String(), []string{"linux/amd64", "linux/arm64"}, nil, nil},
		"index lacks by a digest": {repository + "@" + index.Digest.String(), []string{"linux/s390x"}, []string{"PA104 linux/s390x"}, []string{"has: linux/amd64, linux/arm64", "base: static"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			images, err := resolve(t, r.resolver(t), test.ref).For(t.Context(), wanted(test.wanted...))
			if test.want == nil {
				if err != nil || len(images) != len(test.wanted) {
					t.Fatalf("%v, %v", platformsOf(images), err)
				}
				return
			}
			text := seenOf(refused(t, err, test.want...)[0])
			for _, want := range test.say {
				if !strings.Contains(text, want) {
					t.Errorf("lacks %q:\n%s", want, text)
				}
			}
		})
	}
}

func TestFixIsSpelledAsTheBaseIs(t *testing.T) {
	t.Parallel()
	for place, want := range map[string]string{
		"docker/Dockerfile:1": "FROM x", "Dockerfile.alpine:12": "FROM x", "anyarch.yaml:12": "base: x",
		"a/b.yml": "base: x", "--base": "--base x", "": "--base x",
	} {
		if got := (&Base{place: place}).write("x"); got != want {
			t.Errorf("%q: %q, want %q", place, got, want)
		}
	}
}

func TestBuiltIn(t *testing.T) {
	t.Parallel()
	r := New(Options{Store: newStore(t), Open: func(context.Context, string) (image.Source, string, string, error) {
		return nil, "", "", errors.New("a built-in base asks nobody")
	}})
	static, scratch := resolve(t, r, Static), resolve(t, r, Scratch)
	if static.Version != StaticVersion || static.Digest != "" || scratch.Version != "" {
		t.Errorf("%+v, %+v", static, scratch)
	}
	all, err := static.All(t.Context())
	if err != nil || len(all) != 15 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, p := range all { // in the spelling that Parse gives
		if parsed, err := platform.Parse(p.String()); err != nil || parsed != p {
			t.Errorf("%v: %v, %v", p, parsed, err)
		}
	}
	images, err := static.For(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range images {
		if img.Platform != all[i] || !reflect.DeepEqual(img.Layers, images[0].Layers) || img.Config.Architecture != all[i].Architecture || img.Config.Variant != all[i].Variant {
			t.Errorf("%v: %+v", all[i], img)
		}
	}
	if c := images[0].Config.Config; c.User != "65532" || c.WorkingDir != "/" || len(c.Env) != 2 || c.Entrypoint != nil {
		t.Errorf("config %+v", c)
	}
	if l := images[0].Layers[0]; !r.store.Has(l.Descriptor.Digest) || l.From != "" || l.History.CreatedBy == "" {
		t.Errorf("layer %+v", l)
	}
	if e, ok := images[0].Parent("tmp"); !ok || e.Mode.Perm() != 0o777 {
		t.Errorf("%+v", e)
	}
	if _, ok := images[0].Parent("app"); ok {
		t.Error("static has no /app")
	}
	refused(t, second(static.For(t.Context(), wanted("windows/amd64", "linux/amd64", "darwin/arm64"))), "PA104 windows/amd64", "PA104 darwin/arm64")

	if all, err := scratch.All(t.Context()); err != nil || len(all) != 15 {
		t.Errorf("%v, %v", all, err)
	}
	images, err = scratch.For(t.Context(), wanted("linux/amd64/v3", "darwin/arm64", "freebsd/amd64"))
	if err != nil || len(images) != 3 || len(images[0].Layers) != 0 || !reflect.DeepEqual(images[0].Config.Config, ocispec.ImageConfig{}) {
		t.Fatalf("%+v, %v", images, err)
	}
	list := refused(t, second(scratch.For(t.Context(), wanted("windows/amd64"))), "PA104 windows/amd64")
	if fix := list[0].Fix; !reflect.DeepEqual(fix, []string{"base: mcr.microsoft.com/windows/nanoserver:ltsc2022"}) {
		t.Errorf("fix %q", fix)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAll(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	unsaid := r.image(t, "linux/ppc64le")
	unsaid.Platform = nil
	attestation := r.image(t, "linux/mips")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	artifact := r.image(t, "linux/mips64")
	artifact.ArtifactType = "application/vnd.example.sbom"
	crane := r.image(t, "linux/s390x") // as crane writes entries
	crane.ArtifactType = ocispec.MediaTypeImageConfig
	chart := r.write(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON,
	})
	if _, err := r.Store.Write([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	other := ocispec.Descriptor{MediaType: "application/vnd.example+json", Digest: digest.FromString("other"), Size: 5}
	nested := r.index(t, r.image(t, "linux/arm/v6"), r.index(t, r.image(t, "linux/arm64/v8"), r.image(t, "windows/amd64:10.0.1")))
	r.tag(t, "1", r.index(t, r.image(t, "linux/amd64"), nested, unsaid, attestation, artifact, crane, chart, other,
		r.image(t, "unknown/unknown"), r.image(t, "linux/amd64/v1"), r.image(t, "linux/amd64/v3"), r.image(t, "windows/amd64:10.0.2")))
	all, err := resolve(t, r.resolver(t), repository+":1").All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "linux/amd64 linux/arm/v6 linux/arm64 windows/amd64:10.0.1 linux/ppc64le linux/s390x linux/amd64/v3 windows/amd64:10.0.2"
	if got := names(all, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// refusals are the codes in an error.
func refusals(err error) []string {
	var codes []string
	for _, e := range refusal.All(err) {
		codes = append(codes, e.Code)
	}
	return codes
}
