package serve

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
)

// maxDescriptors bounds what one manifest may name. Images have dozens.
const maxDescriptors = 10_000

// document is a manifest or an index, OCI's or Docker's (image-spec v1.1.1,
// manifest.md and image-index.md; distribution, "Image Manifest Version 2,
// Schema 2").
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor  `json:"subject"`
	Annotations   map[string]string    `json:"annotations"`
}

// fact gives what has to be known about the document.
func (m *document) fact() fact {
	f := fact{mediaType: m.MediaType, artifactType: m.ArtifactType}
	if m.Subject != nil && m.Subject.Digest.Validate() == nil {
		f.subject = m.Subject.Digest
	}
	if m.Config != nil {
		f.blobs = append(f.blobs, m.Config.Digest)
		if f.artifactType == "" {
			f.artifactType = m.Config.MediaType
		}
	}
	for _, layer := range m.Layers {
		f.blobs = append(f.blobs, layer.Digest)
	}
	for _, child := range m.Manifests {
		if child.Digest.Validate() == nil {
			f.children = append(f.children, plain(child))
		}
	}
	if f.mediaType == "" {
		f.mediaType = ocispec.MediaTypeImageManifest
		if m.Manifests != nil {
			f.mediaType = ocispec.MediaTypeImageIndex
		}
	}
	return f
}

// parseManifest reads a manifest that is being pushed and checks everything
// that doesn't depend on what else there is.
func parseManifest(data []byte, contentType string) (*document, string, error) {
	var m document
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, "", manifestInvalid("not the JSON of a manifest: %v", err)
	}
	mediaType, err := pushedType(&m, contentType)
	if err != nil {
		return nil, "", err
	}
	switch isIndex := image.IsIndex(mediaType); {
	case m.SchemaVersion != 2:
		return nil, "", manifestInvalid("its schemaVersion is %d instead of 2", m.SchemaVersion)
	case isIndex && (m.Config != nil || m.Layers != nil), !isIndex && m.Manifests != nil:
		// Clients would disagree about what it is (CVE-2021-41190).
		return nil, "", manifestInvalid("it has the fields of an image as well as those of an index")
	case !isIndex && m.Config == nil:
		return nil, "", manifestInvalid("it has no config")
	case len(m.Layers)+len(m.Manifests) > maxDescriptors:
		return nil, "", manifestInvalid("it names more than %d manifests or layers", maxDescriptors)
	}
	for where, list := range map[string][]ocispec.Descriptor{
		"config": optional(m.Config), "layers": m.Layers, "manifests": m.Manifests, "subject": optional(m.Subject),
	} {
		for i, d := range list {
			if err := checkDescriptor(d); err != nil {
				return nil, "", manifestInvalid("%s[%d]: %v", where, i, err)
			}
		}
	}
	return &m, mediaType, nil
}

func optional(d *ocispec.Descriptor) []ocispec.Descriptor {
	if d == nil {
		return nil
	}
	return []ocispec.Descriptor{*d}
}

// pushedType finds the media type of a manifest: what the request says, which
// mustn't contradict the manifest; else what the manifest says.
func pushedType(m *document, contentType string) (string, error) {
	mediaType := contentType
	if parsed, _, err := mime.ParseMediaType(contentType); err == nil {
		mediaType = parsed // its parameters are to be ignored
	}
	switch {
	case mediaType == "":
		mediaType = m.fact().mediaType
	case m.MediaType != "" && m.MediaType != mediaType:
		return "", manifestInvalid("its mediaType is %.200q, and its Content-Type is %.200q", m.MediaType, mediaType)
	}
	if !image.IsIndex(mediaType) && !image.IsManifest(mediaType) {
		p := manifestInvalid("%.200q isn't a media type of OCI or Docker schema 2 manifests", mediaType)
		p.status = http.StatusUnsupportedMediaType
		return "", p
	}
	return mediaType, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.200q: %w", string(d.Digest), err)
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d", d.Size)
	}
	if len(d.Data) > 0 && (int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest) {
		return fmt.Errorf("its data isn't what %s names", d.Digest)
	}
	return nil
}

// needs lists what a manifest can't do without in its repository: config,
// layers, children. Its subject may come later, and layers that mayn't be
// distributed never come.
func (m *document) needs() []digest.Digest {
	var needed []digest.Digest
	for _, d := range optional(m.Config) {
		needed = append(needed, d.Digest)
	}
	for _, d := range m.Layers {
		if len(d.URLs) == 0 && !strings.Contains(d.MediaType, "nondistributable") && d.MediaType != image.DockerForeignLayer {
			needed = append(needed, d.Digest)
		}
	}
	for _, d := range m.Manifests {
		needed = append(needed, d.Digest)
	}
	return needed
}
