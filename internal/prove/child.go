package prove

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
)

// maxShown is how many lines of detail one finding has, and maxFiles how many
// files it lists for machines.
const (
	maxShown = 12
	maxFiles = 1000
)

// child is the image of one platform, while it is looked at.
type child struct {
	*verifier
	descriptor ocispec.Descriptor
	listed     bool // in an index
	order      int
	platform   platform.Platform // of the index, else of the config
	own        bool              // the index names the platform

	artifact string // type of artifact, if it is no image
	manifest document
	config   config
	usable   bool // manifest and config are fit for reading the layers

	tree          *tree
	ownEntrypoint bool
	findings      []Finding
	report        PlatformReport

	mu             sync.Mutex // guards read and reported
	read, reported int64      // bytes
}

// config is what is used of an image's config (image-spec v1.1.1, config.md).
// Other fields may hold what they like.
type config struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	OSVersion    string `json:"os.version"`
	Created      any    `json:"created"`
	Config       struct {
		User       string
		Env        []string
		Entrypoint []string
		Cmd        []string
		WorkingDir string
		Labels     map[string]string
	} `json:"config"`
	RootFS struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// finding begins a finding about this platform.
func (c *child) finding(rule string, severity Severity, summary string, fix ...string) Finding {
	f := Finding{Rule: rule, Severity: severity, Digest: c.descriptor.Digest, Summary: summary, Fix: fix, order: c.order}
	if !c.platform.IsZero() {
		f.Platform = c.platform.String()
	}
	return f
}

func (c *child) add(f Finding) { c.findings = append(c.findings, f) }

// keep records err if it is a defect, and gives it back if it isn't.
func (c *child) keep(err error, layer digest.Digest) error {
	var known *defect
	if !errors.As(err, &known) {
		return err
	}
	f := c.finding(known.rule, Error, known.summary, fixFor(known.rule)...)
	f.Seen, f.Layer = known.seen, layer
	c.add(f)
	return nil
}

func (c *child) worst() Severity {
	worst := Info
	for _, f := range c.findings {
		if f.Severity.rank() > worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}

// proof says in a few words what was proved of an image without errors.
func (c *child) proof() string {
	if b := c.report.EntrypointBinary; b != nil {
		if b.Static {
			return b.Machine + " static"
		}
		return b.Machine
	}
	return string(c.Depth)
}

// readConfig reads manifest and config and compares the config with the index.
func (c *child) readConfig(ctx context.Context) error {
	d := c.descriptor
	defer c.name()
	if err := readJSON(ctx, c.src, d, "manifest", c.listed, &c.manifest); err != nil {
		return c.keep(err, "")
	}
	m := &c.manifest
	if err := m.check(d, "manifest"); err != nil {
		return c.keep(err, "")
	}
	if !isConfig(m.Config.MediaType) {
		c.artifact = m.ArtifactType
		if c.artifact == "" {
			c.artifact = m.Config.MediaType
		}
		if !c.listed {
			return c.keep(&defect{RuleUnreadable, "it isn't an image", []string{fmt.Sprintf("it is an artifact of type %.100q", c.artifact)}}, "")
		}
		return nil
	}
	c.report.ConfigDigest = m.Config.Digest
	c.report.BaseName = m.Annotations[ocispec.AnnotationBaseImageName]
	c.report.BaseDigest = m.Annotations[ocispec.AnnotationBaseImageDigest]
	if len(m.Layers) > maxLayers {
		return c.keep(&defect{RuleUnreadable, "the manifest has more layers than can be used", []string{fmt.Sprintf("%d layers", len(m.Layers))}}, "")
	}
	sound := true
	for _, l := range m.Layers {
		c.report.Layers = append(c.report.Layers, LayerReport{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size})
		if err := checkDescriptor(l, "layer"); err != nil {
			sound = false
			if err := c.keep(err, ""); err != nil {
				return err
			}
			continue
		}
		c.report.Compressed += l.Size
	}
	if err := readJSON(ctx, c.src, *m.Config, "config", true, &c.config); err != nil {
		return c.keep(err, "")
	}
	cfg := &c.config
	c.report.Entrypoint = slices.Concat(cfg.Config.Entrypoint, cfg.Config.Cmd)
	c.report.User, c.report.Labels = cfg.Config.User, cfg.Config.Labels
	c.report.Created, _ = cfg.Created.(string)
	if c.report.BaseName == "" {
		c.report.BaseName, c.report.BaseDigest = cfg.Config.Labels[ocispec.AnnotationBaseImageName], cfg.Config.Labels[ocispec.AnnotationBaseImageDigest]
	}
	c.comparePlatforms()
	c.usable = sound && c.compareDiffIDs()
	return nil
}

// name fills in the platform of the report.
func (c *child) name() {
	c.report.Platform, c.report.Name, c.report.OSVersion = c.platform, c.platform.String(), c.platform.OSVersion
}

// comparePlatforms compares the platform of the index with that of the config.
func (c *child) comparePlatforms() {
	cfg := &c.config
	says := platform.FromOCI(&ocispec.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant, OSVersion: cfg.OSVersion})
	if !c.own {
		c.platform = says
	}
	fix := "build the image again for this platform, without annotating the index"
	if cfg.OS == "" || cfg.Architecture == "" {
		f := c.finding(RulePlatform, Error, "the config names no platform", fix)
		f.Seen = []string{fmt.Sprintf("os is %q, architecture is %q in %s", cfg.OS, cfg.Architecture, c.manifest.Config.Digest)}
		c.add(f)
		return
	}
	if !c.own || c.platform == says {
		return
	}
	f := c.finding(RulePlatform, Error, fmt.Sprintf("the index says %s, the image inside says %s", c.platform, says), fix)
	f.Seen = []string{"config " + c.manifest.Config.Digest.String()}
	if c.platform.OS == says.OS && c.platform.Architecture == says.Architecture {
		switch {
		case c.platform.Variant != says.Variant && cfg.Variant == "":
			f.Severity = Warning
			f.Summary = fmt.Sprintf("the index says %s, the image inside names no variant", c.platform)
		case c.platform.Variant == says.Variant && (c.platform.OSVersion == "" || says.OSVersion == ""):
			return // one of them doesn't say
		case c.platform.Variant == says.Variant:
			f.Severity = Warning
			f.Summary = fmt.Sprintf("the index says OS version %s, the image inside says %s", c.platform.OSVersion, says.OSVersion)
		}
	}
	c.add(f)
}

// compareDiffIDs checks that the config has a digest for each layer.
func (c *child) compareDiffIDs() bool {
	layers, ids := c.manifest.Layers, c.config.RootFS.DiffIDs
	if len(layers) != len(ids) {
		f := c.finding(RuleIntegrity, Error, "manifest and config disagree about the layers", fixFor(RuleIntegrity)...)
		f.Seen = []string{fmt.Sprintf("%d layers in the manifest, %d diff_ids in the config", len(layers), len(ids))}
		c.add(f)
		return false
	}
	for i, id := range ids {
		c.report.Layers[i].DiffID = id
	}
	return true
}

// sharedSeverity is that of finding this image under two platforms.
func (c *child) sharedSeverity() Severity {
	if c.Own != nil && slices.ContainsFunc(c.manifest.Layers, func(l ocispec.Descriptor) bool { return c.Own(l.Digest) }) {
		return Error
	}
	return Warning
}

// isConfig reports whether a config of this media type is that of an image.
func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == image.DockerConfig
}

// isLayer reports whether a layer of this media type is a tar of files.
func isLayer(mediaType string) bool {
	for _, prefix := range []string{
		"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.container.image.rootfs.diff+x-gtar",
	} {
		if rest, ok := strings.CutPrefix(mediaType, prefix); ok {
			return !strings.Contains(rest, "encrypted")
		}
	}
	return false
}

// readContents reads the layers as far as the depth asks, and looks at what is
// in them.
func (c *child) readContents(ctx context.Context) error {
	layers := c.manifest.Layers
	c.tree = &tree{fold: c.platform.OS == "windows", layers: make([]treeLayer, len(layers))}
	for i, l := range layers {
		c.tree.layers[len(layers)-1-i].digest = l.Digest
	}
	if c.Depth == DepthAll {
		// All are needed: those that several images share are waited for once.
		if err := c.readLayers(ctx, 0, len(layers)); err != nil {
			return err
		}
		c.judge()
		return nil
	}
	for i := len(layers); ; i-- {
		s := newStart(c)
		if !s.more || i == 0 {
			c.keepStart(s)
			return nil
		}
		if err := c.readLayers(ctx, i-1, i); err != nil {
			return err
		}
	}
}

// readLayers reads the layers from index from up to index to, bottom first.
func (c *child) readLayers(ctx context.Context, from, to int) error {
	results := make([]*layerScan, to-from)
	var g errgroup.Group
	for i := range results {
		if d := c.manifest.Layers[from+i]; isLayer(d.MediaType) {
			g.Go(func() error {
				results[i] = c.layers.get(ctx, d, c.advance)
				return nil
			})
		}
	}
	_ = g.Wait() // the errors are in the results
	for i, result := range results {
		if err := c.takeLayer(from+i, result); err != nil {
			return err
		}
	}
	return nil
}

// advance reports bytes of layers that were read for this platform, a few times
// a second at most.
func (c *child) advance(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read += n; c.read-c.reported < 4<<20 {
		return
	}
	c.reported = c.read
	c.Progress(progress.Event{
		Time: time.Now(), Image: c.Reference, Platform: c.platform.String(), Step: progress.Verify, State: progress.Advanced,
		Current: c.read, Total: c.report.Compressed,
	})
}

// takeLayer puts what a layer holds into the tree, if its bytes are the right
// ones.
func (c *child) takeLayer(i int, s *layerScan) error {
	d := c.manifest.Layers[i]
	if s == nil {
		return c.keep(&defect{RuleUnreadable, "a layer isn't a tar of files, or is encrypted", []string{fmt.Sprintf("%s is %.100q", d.Digest, d.MediaType)}}, d.Digest)
	}
	var known *defect
	if errors.As(s.err, &known) && known.rule == RuleMissing && len(d.URLs) > 0 {
		f := c.finding(RuleUnreadable, Warning, "a layer is kept elsewhere and wasn't read")
		f.Layer, f.Seen = d.Digest, []string{fmt.Sprintf("%.200s", d.URLs[0])}
		c.add(f)
		return nil
	}
	if s.err != nil {
		return c.keep(s.err, d.Digest)
	}
	if n := len(s.scan.Problems); n > 0 {
		f := c.finding(RuleUnreadable, Error, "a layer has entries that container runtimes refuse")
		f.Layer, f.Seen = d.Digest, s.scan.Problems
		c.add(f)
	}
	if want := c.config.RootFS.DiffIDs[i]; want != s.scan.DiffID {
		f := c.finding(RuleIntegrity, Error, "a layer unpacks to something else than the config says", fixFor(RuleIntegrity)...)
		f.Layer = d.Digest
		f.Seen = []string{fmt.Sprintf("diff_ids[%d] is %.100s", i, want), "the layer unpacks to " + s.scan.DiffID.String()}
		c.add(f)
	}
	root := s.scan.Root
	if c.platform.OS == "windows" {
		if root = root.child("Files", true); root == nil {
			root = &node{Kind: kindDir}
		}
	}
	c.tree.layers[len(c.tree.layers)-1-i].root = root
	c.report.Layers[i].Read, c.report.Layers[i].Cached = true, s.cached
	return nil
}
