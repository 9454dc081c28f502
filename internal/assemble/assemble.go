// Package assemble makes an index over images that exist already, wherever they
// are: in repositories of any registry, in layouts, in archives.
//
// A [Reader] reads what a tag or digest names into an [Item], with manifests and
// configs, each in one request. A [Draft] is an index on its way: items are added,
// replaced, annotated and removed, [Draft.Prove] compares what it says with
// configs and programs, and [Draft.Encode] gives its bytes, the same for the same
// items. [Send] lets a repository, layout or archive have everything below it:
// what is there stays, what is on the same registry is mounted, the rest is
// streamed from source to target without touching the disk. Tags are moved
// afterwards, by publish.
package assemble

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// BuildKit's annotations of entries that are attestations of another entry.
const (
	AnnotationReferenceType   = "vnd.docker.reference.type"
	AnnotationReferenceDigest = "vnd.docker.reference.digest"
)

// Place is where images are read: one repository, layout or archive.
type Place struct {
	image.Source
	// Name is what its user would write, without tag or digest: ghcr.io/team/app,
	// oci:dist.
	Name string
	// Repository is the canonical name in a registry; empty elsewhere. What is in
	// the target's own repository needn't be sent, and what is on its registry may
	// be mounted.
	Repository string
}

// Kind is what an item is.
type Kind string

// The kinds of items.
const (
	KindImage       Kind = "image"       // for one platform
	KindIndex       Kind = "index"       // over other items
	KindAttestation Kind = "attestation" // BuildKit's, about another entry of its index
	KindArtifact    Kind = "artifact"    // any other manifest
)

// Item is one manifest or index as it was read. Items are shared by drafts and
// aren't changed.
type Item struct {
	Kind Kind
	// Descriptor is the item's entry in an index: as its own index has it or, of
	// one that was read by itself, with the platform that its config names.
	Descriptor ocispec.Descriptor
	Place      Place
	Name       string           // what it was asked for as, for messages
	Data       []byte           // of the manifest or index; nil if it is missing
	Manifest   ocispec.Manifest // of everything but an index
	Index      ocispec.Index    // of an index
	Config     []byte           // of an image
	Image      ocispec.Image    // Config, parsed
	Children   []*Item          // of an index, in its order
	// Missing says why the item or its config can't be read although its index
	// names it; nil if all is well.
	Missing error
}

// Platform is what the item's entry says in normal form; zero if it says nothing.
func (i *Item) Platform() platform.Platform { return platform.FromOCI(i.Descriptor.Platform) }

// ConfigPlatform is what the config of an image says, as an entry would.
func (i *Item) ConfigPlatform() *ocispec.Platform {
	p := i.Image.Platform
	if p.OS == "" && p.Architecture == "" {
		return nil
	}
	return &p
}

// Subject is the manifest that an attestation is about; empty of others.
func (i *Item) Subject() string { return i.Descriptor.Annotations[AnnotationReferenceDigest] }

// Compression tells images apart that Podman lists once for each compression.
func (i *Item) compression() string {
	return i.Descriptor.Annotations["io.github.containers.compression.zstd"]
}

// Walk calls visit for the item and everything below it, children first.
func (i *Item) Walk(visit func(*Item) error) error {
	for _, c := range i.Children {
		if err := c.Walk(visit); err != nil {
			return err
		}
	}
	return visit(i)
}

// String names an item for people: its platform or kind, and what it was asked
// for as.
func (i *Item) String() string {
	what := string(i.Kind)
	if p := i.Platform(); !p.IsZero() && !p.IsAttestation() {
		what = p.String()
	}
	return what + " " + i.Name
}

// Images are the images at or below an item, in order.
func (i *Item) Images() []*Item {
	var list []*Item
	_ = i.Walk(func(c *Item) error {
		if c.Kind == KindImage {
			list = append(list, c)
		}
		return nil
	})
	return list
}

// isImageConfig reports whether a config of this media type is that of an image.
func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == image.DockerConfig
}

func notAnImage(place, seen string, fix ...string) error {
	return &refusal.Error{Code: "PA421", Place: place, Summary: "it can't be part of an index", Seen: []string{seen}, Fix: fix}
}

// place is how a digest or tag at a place is written.
func (p Place) at(tagOrDigest string) string {
	switch {
	case tagOrDigest == "":
		return p.Name
	case strings.Contains(tagOrDigest, ":"):
		return fmt.Sprintf("%s@%s", p.Name, tagOrDigest)
	}
	return p.Name + ":" + tagOrDigest
}
