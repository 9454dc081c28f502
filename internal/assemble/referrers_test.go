package assemble_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
	"github.com/anyarch/anyarch/internal/store"
)

// about puts an artifact with a subject into a repository.
func about(t *testing.T, s *registrytest.Server, repo, kind string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	empty, blob := s.AddBlob(repo, []byte("{}")), s.AddBlob(repo, []byte(kind+subject.Digest.String()))
	empty.MediaType = "application/vnd.oci.empty.v1+json"
	subject = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	return s.AddManifest(repo, "", ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Config: empty, Layers: []ocispec.Descriptor{blob}, Subject: &subject, Annotations: map[string]string{"kind": kind},
	}))
}

// TestReferrers copies what is said about an index, an image in it and a signature,
// to registries that know referrers and that don't, and to a layout.
func TestReferrers(t *testing.T) {
	t.Parallel()
	for _, from := range []bool{true, false} {
		for _, to := range []string{"registry", "registry without referrers", "layout"} {
			name := map[bool]string{true: "from a registry", false: "from one without referrers"}[from] + " to a " + to
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := registrytest.New(t, registrytest.Config{NoReferrers: !from})
				arm := add(t, s, "app", "arm", "linux/arm64", nil)
				index := addIndex(t, s, "app", "1.0", on(arm, "linux/arm64"))
				signature := about(t, s, "app", "signature", index)
				sbom := about(t, s, "app", "sbom", arm)
				counter := about(t, s, "app", "countersignature", signature)
				cosign := add(t, s, "app", strings.Replace(arm.Digest.String(), ":", "-", 1)+".sig", "linux/amd64", nil)
				if !from {
					for subject, d := range map[string]ocispec.Descriptor{index.Digest.String(): signature, arm.Digest.String(): sbom, signature.Digest.String(): counter} {
						addIndex(t, s, "app", strings.Replace(subject, ":", "-", 1), d)
					}
				}
				c := client(t)
				reader := assemble.NewReader()
				item, err := reader.Read(t.Context(), at(repository(t, c, s, "app")), "1.0")
				if err != nil {
					t.Fatal(err)
				}
				found, err := reader.Referrers(t.Context(), item)
				if err != nil || len(found) != 4 {
					t.Fatalf("%v %d: %+v", err, len(found), found)
				}
				var target publish.Repository
				other := registrytest.New(t, registrytest.Config{NoReferrers: to == "registry without referrers"})
				if to == "layout" {
					st, err := store.Create(t.TempDir())
					if err != nil {
						t.Fatal(err)
					}
					target = publish.NewLayout(st, "oci:dir")
				} else {
					target = repository(t, c, other, "copy")
				}
				for range 2 { // twice is once
					if _, err := assemble.Send(t.Context(), target, progress.Discard, item); err != nil {
						t.Fatal(err)
					}
					if _, err := assemble.SendReferrers(t.Context(), target, progress.Discard, found); err != nil {
						t.Fatal(err)
					}
				}
				for _, pair := range [][2]ocispec.Descriptor{{index, signature}, {arm, sbom}, {signature, counter}} {
					list, err := target.Referrers(t.Context(), pair[0].Digest)
					if err != nil || len(list) != 1 || list[0].Digest != pair[1].Digest || list[0].Annotations["kind"] == "" || list[0].ArtifactType == "" {
						t.Errorf("%v %+v", err, list)
					}
				}
				tags, err := target.Tags(t.Context())
				if err != nil || !slices.Contains(tags, strings.Replace(arm.Digest.String(), ":", "-", 1)+".sig") {
					t.Errorf("%v %q: the signature of cosign is gone (%s)", err, tags, cosign.Digest)
				}
				if to == "registry without referrers" && !slices.Contains(tags, registry.ReferrersTag(index.Digest)) {
					t.Errorf("%q", tags)
				}
			})
		}
	}
}
