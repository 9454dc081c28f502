package plan

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// MakeDockerfile turns a request into the plan of an image that a Dockerfile
// makes: platforms, destinations and annotations, without programs and base. It
// gives the clock of the build too: the time of the commit, where it is known.
func (m *Maker) MakeDockerfile(ctx context.Context, req Request) (*Plan, time.Time, error) {
	p := &Plan{Latest: req.Latest}
	var refused refusal.Collect
	var err error
	if platform.IsAll(req.Platforms) {
		refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--platform all",
			Summary: "a Dockerfile may have several bases: name the platforms", Fix: []string{"--platform linux/amd64,linux/arm64"}})
	} else if p.Platforms, err = platform.ParseList(req.Platforms); err != nil && !refused.Add(err) {
		return nil, time.Time{}, err
	}
	if len(req.Platforms) == 0 {
		p.Platforms = platform.Default()
	}
	for _, wanted := range p.Platforms {
		if wanted.OS != "linux" {
			refused.Add(&refusal.Error{Code: "PA101", Platform: wanted.String(), Place: "--platform", Summary: "Dockerfiles are built natively for Linux only", Fix: []string{"--platform linux/amd64,linux/arm64"}})
		}
	}
	if p.Compression, err = layer.ParseCompression(req.Compression); err != nil {
		refused.Add(err)
	}
	if p.Verify, err = verifyDepth(req); err != nil {
		refused.Add(err)
	}
	refused.Add(m.mediaTypes(p, req))
	refused.Add(m.outputs(p, req))
	if p.LayerTime, err = sourceDateEpoch(m.Getenv); err != nil {
		refused.Add(err)
	}
	if err := refused.Err(); err != nil {
		return nil, time.Time{}, err
	}
	source, err := m.Source(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	clock := p.LayerTime
	if m.Getenv("SOURCE_DATE_EPOCH") == "" && !source.Time.IsZero() {
		clock = source.Time.UTC()
	}
	target := Image{Name: req.Name}
	if target.Name != "" {
		if target.Name, err = m.Expand("--name", req.Name, Vars{}); err != nil {
			return nil, time.Time{}, err
		}
	}
	if target.Destinations, err = m.destinations(req, target.Name, ""); err != nil {
		return nil, time.Time{}, err
	}
	ofDirectory := target.Name == "" && len(target.Destinations) == 0
	if target.Name == "" {
		target.Name = imageName(req, target)
	}
	standard := standardAnnotations(p, target, clock, source)
	if ofDirectory {
		// The same sources are the same image, whatever somebody calls their checkout.
		delete(standard, ocispec.AnnotationTitle)
	}
	if req.Plain {
		standard, p.NoIndex = nil, len(p.Platforms) == 1
		if target.IndexAnnotations, err = m.pairs("--annotation", req.IndexAnnotations, Vars{Name: target.Name}, nil); err != nil {
			return nil, time.Time{}, err
		}
	}
	if target.Annotations, err = m.pairs("--annotation", req.Image.Annotations, Vars{Name: target.Name}, standard); err != nil {
		return nil, time.Time{}, err
	}
	p.Images = []Image{target}
	return p, clock, nil
}

// imageName is the last element of the repository, else of the directory.
func imageName(req Request, target Image) string {
	if len(target.Destinations) > 0 {
		r := target.Destinations[0].Repository
		return r[strings.LastIndex(r, "/")+1:]
	}
	name := filepath.Base(req.Dir)
	if len(req.Targets) > 0 {
		where := req.Targets[0]
		if !filepath.IsAbs(where) {
			where = filepath.Join(req.Dir, where)
		}
		if base := filepath.Base(filepath.Clean(where)); base != "/" && base != "." && !strings.Contains(where, "://") {
			name = base
		}
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	if name = strings.Trim(name, "-_."); name == "" {
		return "image"
	}
	return name
}
