package buildkit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/trace"
)

// job is a build on one daemon.
type job struct {
	opt   client.SolveOpt // what differs from one job to the next
	build func(ctx context.Context, c gateway.Client) (*gateway.Result, *graph, error)
}

// run runs a job on a node, and shows what the node does for a platform. The error is a
// *failed if the node couldn't do it or was lost.
func (b *Build) run(ctx context.Context, n *Node, p platform.Platform, j job) (*client.SolveResponse, error) {
	solveCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := &signs{}
	stop := n.watch(solveCtx, alive, cancel)
	defer stop()
	opt := alive.watched(j.opt)
	opt.SharedKey, opt.Session = b.o.Context, b.session
	opt.AllowedEntitlements, opt.SourcePolicy = b.o.Allow, b.policy
	end := trace.Start(ctx, trace.Solve, p.String()+" on "+n.Address)
	defer func() { end() }()
	status := make(chan *client.SolveStatus)
	shown := b.show(p, n, status, alive)
	var aside error // which the daemon would only give back as a text
	resp, err := n.client.Build(solveCtx, opt, "anyarch", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		r, _, err := j.build(ctx, c)
		if away := (*elsewhere)(nil); errors.As(err, &away) || errors.Is(err, errOlder) {
			aside = err
		}
		return r, err
	}, status)
	log := <-shown
	if aside != nil {
		return nil, aside
	}
	if err != nil {
		if cause := context.Cause(solveCtx); errors.Is(cause, errSilent) {
			err = cause
		}
		return nil, &failed{err, log}
	}
	return resp, nil
}

// image runs a job that makes the image of a platform, and reads what came of it.
func (b *Build) image(ctx context.Context, n *Node, p platform.Platform, j job) (*Result, error) {
	base := 0
	var made *graph
	build := j.build
	j.build = func(ctx context.Context, c gateway.Client) (*gateway.Result, *graph, error) {
		r, g, err := build(ctx, c)
		if err == nil {
			base, made = baseLayers(r.Metadata), g
		}
		return r, g, err
	}
	j.opt.Exports = []client.ExportEntry{{Type: client.ExporterOCI, Attrs: b.exporter(), OutputStore: b.blobs}}
	// The exporter takes the time of the layers from the attributes of the front end.
	attrs := maps.Clone(b.frontend)
	maps.Copy(attrs, j.opt.FrontendAttrs)
	j.opt.FrontendAttrs = attrs
	resp, err := b.run(ctx, n, p, j)
	if err != nil {
		return nil, err
	}
	root, err := descriptor(resp)
	if err != nil {
		return nil, err
	}
	r, err := b.result(ctx, p, root)
	if err != nil {
		return nil, err
	}
	r.Base, r.Node, r.Added = min(base, len(r.Image.Layers)), n.Address, 0
	for _, l := range r.Image.Layers[r.Base:] {
		r.Added += l.Descriptor.Size
	}
	if made != nil {
		r.Places = made.places(r.Image.Layers[r.Base:], b.o.Dockerfile)
	}
	return r, nil
}

// solve builds a platform on a node whose front end reads the Dockerfile. With cross set,
// it ends with an *elsewhere if a program has to run that the node's machine doesn't run
// by itself.
func (b *Build) solve(ctx context.Context, n *Node, p platform.Platform, cross bool) (*Result, error) {
	attrs := map[string]string{"platform": dockerfile.Format(p)}
	for k, v := range b.o.BuildArgs(p) {
		attrs["build-arg:"+k] = v
	}
	exports, imports := b.caches(p)
	mounts := maps.Clone(b.mounts)
	var err error
	if mounts["dockerfile"], err = b.writeDockerfile(p); err != nil {
		return nil, err
	}
	return b.image(ctx, n, p, job{
		opt: client.SolveOpt{FrontendAttrs: attrs, LocalMounts: mounts, OCIStores: b.layouts, CacheExports: exports, CacheImports: imports},
		build: func(ctx context.Context, c gateway.Client) (*gateway.Result, *graph, error) {
			r, err := c.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: c.BuildOpts().Opts})
			if err != nil {
				return nil, nil, err
			}
			g, err := b.inspect(ctx, r, c.BuildOpts().SessionID)
			if err != nil || g == nil {
				return r, nil, err
			}
			if step := g.foreignStep(n, b.o.Dockerfile); cross && step != "" {
				return nil, nil, &elsewhere{&plan{graph: g, metadata: r.Metadata, by: n, seen: step, handed: map[result]digest.Digest{}}}
			}
			return r, g, nil
		},
	})
}

// inspect reads what the daemon is about to do; nil if that is nothing.
func (b *Build) inspect(ctx context.Context, r *gateway.Result, session string) (g *graph, err error) {
	err = r.EachRef(func(ref gateway.Reference) error {
		if ref == nil || g != nil {
			return nil
		}
		state, err := ref.ToState()
		if err != nil {
			return err
		}
		definition, err := state.Marshal(ctx)
		if err != nil {
			return err
		}
		g, err = readGraph(definition.ToPB(), session)
		return err
	})
	return g, err
}

// baseLayers counts the layers of the base that the front end's result names.
func baseLayers(metadata map[string][]byte) int {
	for key, value := range metadata {
		if key != exptypes.ExporterImageBaseConfigKey && !strings.HasPrefix(key, exptypes.ExporterImageBaseConfigKey+"/") {
			continue
		}
		var config struct {
			RootFS ocispec.RootFS `json:"rootfs"`
		}
		if json.Unmarshal(value, &config) == nil {
			return len(config.RootFS.DiffIDs)
		}
	}
	return 0
}

// descriptor is that of what an exporter has put into the store.
func descriptor(resp *client.SolveResponse) (ocispec.Descriptor, error) {
	var root ocispec.Descriptor
	data, err := base64.StdEncoding.DecodeString(resp.ExporterResponse[exptypes.ExporterImageDescriptorKey])
	if err == nil {
		err = json.Unmarshal(data, &root)
	}
	if err != nil {
		return root, fmt.Errorf("descriptor of BuildKit: %w", err)
	}
	return root, nil
}

// result reads the image that the daemon has put into the store.
func (b *Build) result(ctx context.Context, p platform.Platform, root ocispec.Descriptor) (*Result, error) {
	r := &Result{}
	manifests := []ocispec.Descriptor{root}
	source := image.Layout{Store: b.o.Store}
	if image.IsIndex(root.MediaType) {
		var index ocispec.Index
		if _, err := image.FetchJSON(ctx, source, root, &index); err != nil {
			return nil, err
		}
		manifests = index.Manifests
	}
	for _, d := range manifests {
		attestation := platform.FromOCI(d.Platform).IsAttestation()
		img, err := b.read(ctx, source, d)
		if err != nil {
			return nil, err
		}
		if attestation {
			img.Platform = platform.FromOCI(d.Platform)
			img.Manifest.Platform, img.Manifest.Annotations = d.Platform, d.Annotations
			img.Manifest.ArtifactType = d.ArtifactType
			r.Attestations = append(r.Attestations, img)
			continue
		}
		if !r.Image.Platform.IsZero() {
			return nil, fmt.Errorf("BuildKit made more than one image of %s", p)
		}
		oci := p.OCI()
		img.Platform, img.Manifest.Platform = p, &oci
		r.Image = img
	}
	if r.Image.Platform.IsZero() {
		return nil, fmt.Errorf("BuildKit made no image of %s", p)
	}
	return r, nil
}

// read gives the parts of one image.
func (b *Build) read(ctx context.Context, source image.Source, d ocispec.Descriptor) (image.Image, error) {
	img := image.Image{Manifest: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	var manifest ocispec.Manifest
	if _, err := image.FetchJSON(ctx, source, d, &manifest); err != nil {
		return img, err
	}
	img.Config = manifest.Config
	var config ocispec.Image
	if manifest.Config.MediaType == ocispec.MediaTypeImageConfig || manifest.Config.MediaType == image.DockerConfig {
		if _, err := image.FetchJSON(ctx, source, manifest.Config, &config); err != nil {
			return img, err
		}
	}
	history := slices.DeleteFunc(config.History, func(h ocispec.History) bool { return h.EmptyLayer })
	for i, l := range manifest.Layers {
		layer := image.Layer{Descriptor: l}
		if i < len(config.RootFS.DiffIDs) {
			layer.DiffID = config.RootFS.DiffIDs[i]
		}
		if i < len(history) {
			layer.History = history[i]
		}
		img.Layers = append(img.Layers, layer)
	}
	return img, nil
}
