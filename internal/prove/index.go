package prove

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
)

// Bounds on an index and what it leads to.
const (
	maxNesting     = 4
	maxDescriptors = 10_000
	maxLayers      = 1000 // overlay file systems take half of that
)

// The annotations by which BuildKit marks its attestations, and Podman the
// variants of one image that are compressed with zstd.
const (
	annotationType    = "vnd.docker.reference.type"
	annotationSubject = "vnd.docker.reference.digest"
	annotationZstd    = "io.github.containers.compression.zstd"
)

// walker finds the images under an index.
type walker struct {
	*verifier
	report      *Report
	children    []*child
	findings    []Finding
	descriptors int
	visited     map[digest.Digest]bool // indexes
	silent      bool                   // the bound on descriptors was reported
}

// document has the fields that tell a manifest from an index.
type document struct {
	MediaType string               `json:"mediaType"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	FSLayers  []any                `json:"fsLayers"` // schema 1 of Docker
	Subject   *ocispec.Descriptor  `json:"subject"`

	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

// check refuses a document that isn't of the descriptor's media type, or that
// is a manifest to one program and an index to another (CVE-2021-41190).
func (doc *document) check(d ocispec.Descriptor, noun string) error {
	var why string
	switch {
	case doc.FSLayers != nil:
		return &defect{RuleUnreadable, "the " + noun + " is of the first Docker schema, which names no platform", []string{d.Digest.String()}}
	case doc.MediaType != "" && doc.MediaType != d.MediaType:
		why = fmt.Sprintf("it says that it is %.100s", doc.MediaType)
	case image.IsIndex(d.MediaType) && (doc.Config != nil || doc.Layers != nil):
		why = "it has a config or layers"
	case image.IsManifest(d.MediaType) && doc.Manifests != nil:
		why = "it has manifests"
	case image.IsManifest(d.MediaType) && doc.Config == nil:
		why = "it has no config"
	default:
		return nil
	}
	return &defect{RuleIntegrity, "the " + noun + " isn't of the media type that it is listed with",
		[]string{d.Digest.String() + " is listed as " + d.MediaType, why}}
}

// root starts at what was asked for. A defect of it is a finding, of an image
// without platforms.
func (w *walker) root(ctx context.Context, d ocispec.Descriptor) error {
	w.visited = map[digest.Digest]bool{}
	err := w.visit(ctx, d, 1, false)
	var known *defect
	if !errors.As(err, &known) {
		return err
	}
	w.add(Finding{Rule: known.rule, Severity: Error, Digest: d.Digest, Summary: known.summary, Seen: known.seen, Fix: fixFor(known.rule)})
	return nil
}

func (w *walker) add(f Finding) { w.findings = append(w.findings, f) }

// visit takes one descriptor: an index is walked, a manifest becomes a child.
func (w *walker) visit(ctx context.Context, d ocispec.Descriptor, level int, listed bool) error {
	switch {
	case image.IsIndex(d.MediaType):
		return w.index(ctx, d, level, listed)
	case image.IsManifest(d.MediaType):
		if err := checkDescriptor(d, "manifest"); err != nil {
			return err
		}
		c := &child{verifier: w.verifier, descriptor: d, listed: listed, order: len(w.children), platform: platform.FromOCI(d.Platform)}
		c.own = listed && !c.platform.IsZero()
		c.report = PlatformReport{Digest: d.Digest, MediaType: d.MediaType}
		c.name()
		w.children = append(w.children, c)
		return nil
	}
	if listed {
		w.attest(d, cmp.Or(d.ArtifactType, d.MediaType))
		return nil
	}
	return &defect{RuleUnreadable, "it isn't an image", []string{fmt.Sprintf("its media type is %.100q", d.MediaType)}}
}

func (w *walker) index(ctx context.Context, d ocispec.Descriptor, level int, listed bool) error {
	if level > maxNesting {
		return &defect{RuleNesting, "an index is nested too deeply", []string{fmt.Sprintf("%s is an index inside %d others", d.Digest, level-1)}}
	}
	if w.visited[d.Digest] {
		return &defect{RuleNesting, "the same index is there twice, or leads back to itself", []string{d.Digest.String()}}
	}
	w.visited[d.Digest] = true
	var doc document
	if err := readJSON(ctx, w.src, d, "index", listed, &doc); err != nil {
		return err
	}
	if err := doc.check(d, "index"); err != nil {
		return err
	}
	for _, m := range doc.Manifests {
		if w.descriptors++; w.descriptors > maxDescriptors {
			if w.silent {
				return nil
			}
			w.silent = true
			return &defect{RuleNesting, fmt.Sprintf("more than %d entries", maxDescriptors), []string{d.Digest.String()}}
		}
		if kind := m.Annotations[annotationType]; kind != "" || platform.FromOCI(m.Platform).IsAttestation() {
			w.attest(m, cmp.Or(kind, m.ArtifactType))
			continue
		}
		err := w.visit(ctx, m, level+1, true)
		var known *defect
		if errors.As(err, &known) {
			w.add(Finding{
				Rule: known.rule, Severity: Error, Digest: m.Digest, Platform: nameOf(m.Platform),
				Summary: known.summary, Seen: known.seen, Fix: fixFor(known.rule), order: len(w.children),
			})
		} else if err != nil {
			return err
		}
	}
	return nil
}

func nameOf(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	return platform.FromOCI(p).String()
}

func (w *walker) attest(d ocispec.Descriptor, kind string) {
	w.report.Attestations = append(w.report.Attestations, Attestation{
		Digest: d.Digest, MediaType: d.MediaType, Type: kind,
		Subject: digest.Digest(d.Annotations[annotationSubject]),
	})
}

// attestations finds attestations that are gone. Their content is nobody's
// platform, so that is a warning.
func (w *walker) attestations(ctx context.Context) error {
	wrong := make([]*defect, len(w.report.Attestations))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, a := range w.report.Attestations {
		g.Go(func() error {
			err := w.there(ctx, ocispec.Descriptor{MediaType: a.MediaType, Digest: a.Digest}, "attestation")
			if errors.As(err, &wrong[i]) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, known := range wrong {
		if known != nil {
			w.add(Finding{
				Rule: known.rule, Severity: Warning, Digest: w.report.Attestations[i].Digest,
				Summary: known.summary, Seen: known.seen, Fix: fixFor(known.rule),
			})
		}
	}
	return nil
}

// there reports whether a blob can be opened.
func (w *walker) there(ctx context.Context, d ocispec.Descriptor, noun string) error {
	if err := checkDescriptor(d, noun); err != nil {
		return err
	}
	r, err := w.src.Fetch(ctx, d)
	if err != nil {
		return classify(err, d, noun)
	}
	return r.Close()
}

// sortOut turns children that are no images into attestations, and compares the
// ones that are with each other and with what is required.
func (w *walker) sortOut() {
	w.children = slices.DeleteFunc(w.children, func(c *child) bool {
		if c.artifact == "" || !c.listed {
			return false
		}
		w.attest(c.descriptor, c.artifact)
		return true
	})
	if n := len(w.report.Attestations); n > 0 {
		f := Finding{Rule: RuleAttestation, Severity: Info, Digest: w.report.Digest, Summary: fmt.Sprintf("%d entries are attestations or other artifacts, and no platforms", n)}
		if n == 1 {
			f.Summary = "1 entry is an attestation or another artifact, and no platform"
		}
		for _, a := range w.report.Attestations[:min(n, maxShown)] {
			f.Seen = append(f.Seen, strings.TrimSpace(a.Digest.String()+" "+a.Type))
		}
		w.add(f)
	}
	w.duplicates()
	w.shared()
	w.required()
}

// duplicates finds platforms that several entries are for. Podman lists an
// image once for each compression, which isn't meant.
func (w *walker) duplicates() {
	type key struct {
		platform.Platform
		features, compression string
	}
	first := map[key]*child{}
	for _, c := range w.children {
		if !c.listed || c.platform.IsZero() {
			continue
		}
		k := key{Platform: c.platform, compression: c.descriptor.Annotations[annotationZstd]}
		if c.descriptor.Platform != nil {
			k.features = strings.Join(c.descriptor.Platform.OSFeatures, ",")
		}
		other := first[k]
		if other == nil {
			first[k] = c
			continue
		}
		f := c.finding(RuleDuplicate, Error, "the index has "+c.platform.String()+" twice", "publish the index anew, with each platform once")
		f.Seen = []string{other.descriptor.Digest.String(), c.descriptor.Digest.String()}
		if other.descriptor.Digest == c.descriptor.Digest {
			f.Severity = Warning
			f.Seen = []string{"both entries are " + c.descriptor.Digest.String()}
		}
		w.add(f)
	}
}

// shared finds platforms that lead to the same image.
func (w *walker) shared() {
	first := map[digest.Digest]*child{}
	for _, c := range w.children {
		other := first[c.descriptor.Digest]
		if other == nil {
			first[c.descriptor.Digest] = c
			continue
		}
		if !c.listed || other.platform == c.platform {
			continue
		}
		f := c.finding(RuleShared, c.sharedSeverity(), fmt.Sprintf("%s and %s are the same image", other.platform, c.platform), sharedFix...)
		f.Seen = []string{"both entries are " + c.descriptor.Digest.String()}
		w.add(f)
	}
}

var sharedFix = []string{
	"anyarch build compiles for each platform by itself",
	"in a Dockerfile: COPY dist/${TARGETARCH}/app /app",
}

// sameEntrypoints finds platforms of different machines whose entrypoints are
// byte for byte the same program.
func (w *walker) sameEntrypoints() {
	first := map[digest.Digest]*child{}
	for _, c := range w.children {
		b := c.report.EntrypointBinary
		if b == nil || b.Digest == "" || b.Portable || b.Format == Wasm || len(b.Slices) > 1 {
			continue
		}
		other := first[b.Digest]
		switch {
		case other == nil:
			first[b.Digest] = c
		case other.descriptor.Digest == c.descriptor.Digest: // reported by shared
		case other.platform.OS != c.platform.OS || other.platform.Architecture != c.platform.Architecture:
			severity := Warning
			if c.ownEntrypoint || other.ownEntrypoint {
				severity = Error
			}
			f := c.finding(RuleShared, severity, fmt.Sprintf("%s and %s start the same program, byte for byte", other.platform, c.platform), sharedFix...)
			f.Path = b.Path
			f.Seen = []string{fmt.Sprintf("%s is %s, %s", b.Path, article(b.Machine+" "+b.Kind), b.Digest)}
			w.add(f)
		}
	}
}

// required finds platforms that have to be there and aren't.
func (w *walker) required() {
	var have []platform.Platform
	for _, c := range w.children {
		if !c.platform.IsZero() {
			have = append(have, c.platform)
		}
	}
	for i, p := range w.Require {
		if p.Best(have) >= 0 {
			continue
		}
		f := Finding{
			Rule: RuleRequired, Severity: Error, Platform: p.String(), Digest: w.report.Digest, order: len(w.children) + i,
			Summary: "the image isn't there for this platform", Seen: []string{"it is there for " + cmp.Or(platform.Names(have), "none that is known")},
			Fix: []string{"anyarch publish --platform " + platformList(append(slices.Clone(have), p))},
		}
		w.add(f)
	}
}

func platformList(list []platform.Platform) string {
	var names []string
	for _, p := range list {
		if !slices.Contains(names, p.String()) {
			names = append(names, p.String())
		}
	}
	return strings.Join(names, ",")
}

// finish puts the report together.
func (w *walker) finish() *Report {
	w.sameEntrypoints()
	r := w.report
	r.Platforms, r.Findings = []PlatformReport{}, []Finding{}
	for _, c := range w.children {
		r.Platforms = append(r.Platforms, c.report)
		w.findings = append(w.findings, c.findings...)
	}
	for _, f := range w.findings {
		f.Image = w.Reference
		r.Findings = append(r.Findings, f)
	}
	sortFindings(r.Findings)
	return r
}

// fixFor is what helps against defects of blobs.
func fixFor(rule string) []string {
	switch rule {
	case RuleMissing:
		return []string{"publish the image again: the same sources give the same digests", "use a clean-up that knows indexes"}
	case RuleIntegrity:
		return []string{"publish the image again, and look for a proxy or cache in between if it comes back"}
	case RuleNesting:
		return []string{"don't trust this image: no builder makes such an index"}
	}
	return nil
}
