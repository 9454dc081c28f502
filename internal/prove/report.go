package prove

import (
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/platform"
)

// Report is what is true of an image.
type Report struct {
	Reference    string           `json:"reference,omitempty"`
	Digest       digest.Digest    `json:"digest"`
	MediaType    string           `json:"mediaType"`
	Depth        Depth            `json:"depth"`     // how deep it was looked
	Platforms    []PlatformReport `json:"platforms"` // in the order of the index
	Attestations []Attestation    `json:"attestations,omitempty"`
	Findings     []Finding        `json:"findings"` // worst first; never null
}

// PlatformReport is what was found out about the image of one platform. Fields
// that the depth doesn't reach are empty.
type PlatformReport struct {
	Platform  platform.Platform `json:"-"`        // what the index says, else the config
	Name      string            `json:"platform"` // Platform as text
	OSVersion string            `json:"osVersion,omitempty"`

	Digest       digest.Digest     `json:"digest"` // of the manifest
	MediaType    string            `json:"mediaType"`
	ConfigDigest digest.Digest     `json:"config,omitempty"`
	Compressed   int64             `json:"compressed,omitempty"` // bytes of all layers, as they are pulled
	Layers       []LayerReport     `json:"layers,omitempty"`     // bottom first
	BaseName     string            `json:"baseName,omitempty"`   // org.opencontainers.image.base.name
	BaseDigest   string            `json:"baseDigest,omitempty"` // org.opencontainers.image.base.digest
	Created      string            `json:"created,omitempty"`    // RFC 3339
	User         string            `json:"user,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`

	Entrypoint       []string `json:"entrypoint,omitempty"`       // the whole command: entrypoint and cmd
	EntrypointBinary *Binary  `json:"entrypointBinary,omitempty"` // the program that runs at last
	Binaries         []Binary `json:"binaries,omitempty"`         // every program and library, with depth all
}

// LayerReport is one layer of an image.
type LayerReport struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffID,omitempty"` // as the config has it
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`             // bytes, compressed
	Read      bool          `json:"read"`             // whether its content was looked at
	Cached    bool          `json:"cached,omitempty"` // whether that was done in an earlier run
}

// Attestation is an entry of an index that is no image: what BuildKit adds
// about one, or another artifact.
type Attestation struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	// Type is what the entry says it is, such as attestation-manifest or the
	// type of an artifact.
	Type    string        `json:"type,omitempty"`
	Subject digest.Digest `json:"subject,omitempty"` // manifest that it is about
}
