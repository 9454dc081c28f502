package plan

import (
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/gobuild"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
)

// Plan is what will be done. Everything in it has been checked as far as that
// is possible without compiling.
type Plan struct {
	Platforms   []platform.Platform
	Base        *base.Base
	BaseImages  map[platform.Platform]base.Image
	Builder     *gobuild.Builder
	Images      []Image
	Compression layer.Compression
	MediaTypes  image.MediaTypes
	LayerTime   time.Time // of every file in the layers that are made
	Latest      publish.LatestPolicy
	Verify      prove.Depth
	Outputs     []Output
	// NoIndex says that the one platform's manifest is what is published, without
	// an index over it.
	NoIndex  bool
	ByDigest bool // no tag moves
}

// Image is one image of the plan: one or more programs on a base, for all
// platforms.
type Image struct {
	Name        string
	Packages    []gobuild.Package // the first is the entrypoint
	Flags       map[platform.Platform][]gobuild.Flags
	Configs     map[platform.Platform]ocispec.Image // without platform, rootfs and history
	BinaryDir   string
	Files       []File
	Annotations map[string]string
	// IndexAnnotations are those of the index, if they aren't those of the
	// manifests.
	IndexAnnotations map[string]string
	Destinations     []Destination
}

// Destination is one repository and the tags that the image gets there.
type Destination struct {
	Repository string
	Tags       []string
}

// Pushes reports whether the plan writes to registries.
func (p *Plan) Pushes() bool {
	for _, o := range p.Outputs {
		if o.Kind == ToRegistry {
			return true
		}
	}
	return false
}

// LocalTags are the tags of the image where there is no registry, and its full
// references; latest if none was asked for.
func (i Image) LocalTags() (tags, references []string) {
	for _, d := range i.Destinations {
		for _, tag := range d.Tags {
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
			references = append(references, d.Repository+":"+tag)
		}
	}
	if len(tags) == 0 {
		return []string{"latest"}, []string{i.Name + ":latest"}
	}
	return tags, references
}
