// Package prove says what is true of an image: it compares what the index
// promises with what the config says and with what the programs inside are.
//
// An image that runs on the machine that built it proves nothing about the
// others, and running it under an emulator proves less: QEMU runs the wrong
// program without a word. So nothing is ever executed here. [Verify] walks
// from the index down as deep as it is told, reads the layers as streams, and
// looks into the header of every program. What disagrees becomes a [Finding],
// and what can't be read is a finding too, never a silent yes.
package prove

import (
	"context"
	"path"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
)

// Depth says how deep an image is looked into. Each depth includes the ones
// before it. The empty string means DepthAll.
type Depth string

// The depths.
const (
	// DepthIndex reads the index, and of images that it gives no platform their
	// config.
	DepthIndex Depth = "index"
	// DepthConfig reads every manifest and config.
	DepthConfig Depth = "config"
	// DepthEntrypoint reads layers from the top until it is known what the
	// container starts.
	DepthEntrypoint Depth = "entrypoint"
	// DepthAll reads every file of every layer.
	DepthAll Depth = "all"
)

// ParseDepth reads a depth; the empty string is [DepthAll]. Anything else is a
// [refusal.Error] with code PA502.
func ParseDepth(text string) (Depth, error) {
	switch d := Depth(text); d {
	case "":
		return DepthAll, nil
	case DepthIndex, DepthConfig, DepthEntrypoint, DepthAll:
		return d, nil
	}
	return "", badFlag("--verify", text, "not a depth of verification",
		string(DepthIndex), string(DepthConfig), string(DepthEntrypoint), string(DepthAll))
}

// Cache keeps what was found in layers, by a key that includes the digest of
// the layer. Its methods may be called concurrently. It must not be writable
// by anybody who may not decide what is published.
type Cache interface {
	Get(key string) ([]byte, bool)
	Put(key string, data []byte)
}

// Options say what [Verify] looks at. The zero value looks at everything.
type Options struct {
	Depth   Depth
	Require []platform.Platform // that the image must have
	// Allow are globs of files in the image that may be for another machine. A
	// pattern matches the whole path or a directory above it; ** crosses
	// slashes.
	Allow []string
	// Own reports whether a layer was made here rather than by whoever made the
	// base; it turns PA207 into an error. nil means that none was.
	Own       func(layer digest.Digest) bool
	Reference string        // what the image is called, for findings and events
	Progress  progress.Sink // nil means progress.Discard
	Cache     Cache         // nil means that every layer is read
	Limits    Limits
	TempDir   string // for one program at a time; os.TempDir if empty
}

// parallel is how many manifests, and how many platforms, are under way at once.
const parallel = 4

// verifier is one run of Verify.
type verifier struct {
	Options
	src    image.Source
	allow  []*regexp.Regexp
	layers *layers
}

// Verify looks into the image or index d of src. What is wrong with the image
// is in the report, and an image with findings is no error: see [Report.Err].
// An error means that it couldn't be told, because a registry, the network or
// the disk failed or ctx ended; then nothing may be concluded.
func Verify(ctx context.Context, src image.Source, d ocispec.Descriptor, opts Options) (*Report, error) {
	depth, err := ParseDepth(string(opts.Depth))
	if err != nil {
		return nil, err
	}
	opts.Depth = depth
	if opts.Progress == nil {
		opts.Progress = progress.Discard
	}
	v := &verifier{Options: opts, src: src}
	for _, pattern := range opts.Allow {
		glob, err := compileGlob(pattern)
		if err != nil {
			return nil, err
		}
		v.allow = append(v.allow, glob)
	}
	v.layers = &layers{verifier: v, slots: make(chan struct{}, min(parallel, max(2, runtime.GOMAXPROCS(0)))), scans: map[layerKey]*layerScan{}}

	w := &walker{verifier: v, report: &Report{Reference: opts.Reference, Digest: d.Digest, MediaType: d.MediaType, Depth: depth}}
	if err := w.root(ctx, d); err != nil {
		return nil, err
	}
	if err := v.configs(ctx, w.children); err != nil {
		return nil, err
	}
	if depth != DepthIndex {
		if err := w.attestations(ctx); err != nil {
			return nil, err
		}
	}
	w.sortOut()
	if depth == DepthEntrypoint || depth == DepthAll {
		if err := v.contents(ctx, w.children); err != nil {
			return nil, err
		}
	}
	return w.finish(), nil
}

// configs reads the manifests and configs of all children, where the depth or
// a missing platform asks for it.
func (v *verifier) configs(ctx context.Context, children []*child) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, c := range children {
		if v.Depth == DepthIndex && !c.platform.IsZero() {
			continue
		}
		g.Go(func() error { return c.readConfig(ctx) })
	}
	return g.Wait()
}

// contents reads the layers of all children that have a usable config.
func (v *verifier) contents(ctx context.Context, children []*child) error {
	for _, c := range children {
		if c.usable {
			v.layers.expect(c)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, c := range children {
		if !c.usable {
			continue
		}
		g.Go(func() error {
			end := v.Progress.Start(v.Reference, c.platform.String(), progress.Verify, "looking into "+string(v.Depth))
			err := c.readContents(ctx)
			v.layers.release(c)
			switch {
			case err != nil:
				end(progress.Failed, err.Error())
			case c.worst() == Error:
				end(progress.Failed, "findings")
			default:
				end(progress.Done, c.proof())
			}
			return err
		})
	}
	return g.Wait()
}

// compileGlob reads a pattern of Options.Allow.
func compileGlob(pattern string) (*regexp.Regexp, error) {
	text := strings.TrimPrefix(path.Clean("/"+pattern), "/")
	if text == "" {
		return nil, badFlag("--allow", pattern, "not a pattern for files in an image", "'/usr/local/go/**'")
	}
	var b strings.Builder
	b.WriteString("^/")
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case strings.HasPrefix(text[i:], "**/"):
			b.WriteString("(.*/)?")
			i += 2
		case strings.HasPrefix(text[i:], "**"):
			b.WriteString(".*")
			i++
		case c == '*':
			b.WriteString("[^/]*")
		case c == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	b.WriteString("(/.*)?$")
	glob, err := regexp.Compile(b.String())
	if err != nil {
		return nil, badFlag("--allow", pattern, "not a pattern for files in an image", "'/usr/local/go/**'")
	}
	return glob, nil
}

func (v *verifier) allowed(file string) bool {
	for _, glob := range v.allow {
		if glob.MatchString(file) {
			return true
		}
	}
	return false
}

// layerKey names a layer as a manifest does: two manifests may lie differently
// about the size of one blob.
type layerKey struct {
	digest digest.Digest
	size   int64
}

// layers reads each layer once for all images of a run, and forgets it after
// the last of them.
type layers struct {
	*verifier
	slots chan struct{} // a place for each layer that is being read

	mu    sync.Mutex // guards scans
	scans map[layerKey]*layerScan
}

type layerScan struct {
	users  int
	once   sync.Once
	scan   *scan
	cached bool
	err    error
}

func keyOf(d ocispec.Descriptor) layerKey { return layerKey{d.Digest, d.Size} }

// expect announces that a child will use its layers.
func (l *layers) expect(c *child) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range c.manifest.Layers {
		if l.scans[keyOf(d)] == nil {
			l.scans[keyOf(d)] = &layerScan{}
		}
		l.scans[keyOf(d)].users++
	}
}

// release forgets the layers that nobody else will use.
func (l *layers) release(c *child) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range c.manifest.Layers {
		if s := l.scans[keyOf(d)]; s != nil {
			if s.users--; s.users <= 0 {
				delete(l.scans, keyOf(d))
			}
		}
	}
	c.tree = nil
}

// get gives what a layer holds, reading it if nobody has.
func (l *layers) get(ctx context.Context, d ocispec.Descriptor, moving func(int64)) *layerScan {
	l.mu.Lock()
	s := l.scans[keyOf(d)]
	l.mu.Unlock()
	s.once.Do(func() {
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		case <-ctx.Done():
			s.err = context.Cause(ctx)
			return
		}
		s.scan, s.cached, s.err = l.read(ctx, d, moving)
	})
	return s
}
