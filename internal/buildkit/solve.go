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
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
)

// errSilent ends a build on a daemon that stopped answering.
var errSilent = errors.New("it doesn't answer any more")

// pulse is how often a daemon is asked whether it is still there, during a build.
const pulse = 10 * time.Second

// solve builds a platform on a node and reads what came of it. With cross set, the
// build ends with an *elsewhere if a program has to run that the node's machine doesn't
// run by itself.
func (b *Build) solve(ctx context.Context, n *Node, p platform.Platform, cross bool) (*Result, error) {
	solveCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := b.watch(solveCtx, n, cancel)
	defer stop()
	attrs := maps.Clone(b.frontend)
	attrs["platform"] = dockerfile.Format(p)
	for k, v := range b.o.BuildArgs(p) {
		attrs["build-arg:"+k] = v
	}
	exports, imports := b.caches(p)
	mounts := maps.Clone(b.mounts)
	var err error
	if mounts["dockerfile"], err = b.writeDockerfile(p); err != nil {
		return nil, err
	}
	status := make(chan *client.SolveStatus)
	shown := b.show(p, n, status)
	base := 0
	var away *elsewhere
	resp, err := n.client.Build(solveCtx, client.SolveOpt{
		FrontendAttrs: attrs, LocalMounts: mounts, OCIStores: b.layouts, SharedKey: b.o.Context,
		Exports:      []client.ExportEntry{{Type: client.ExporterOCI, Attrs: b.exporter(), OutputStore: b.blobs}},
		CacheExports: exports, CacheImports: imports, Session: b.session,
		AllowedEntitlements: b.o.Allow, SourcePolicy: b.policy,
	}, "anyarch", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		r, err := c.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: c.BuildOpts().Opts})
		if err != nil {
			return nil, err
		}
		if cross {
			if away, err = b.inspect(ctx, n, r); err != nil || away != nil {
				return nil, errors.Join(err, asError(away))
			}
		}
		base = baseLayers(r.Metadata)
		return r, nil
	}, status)
	log := <-shown
	if away != nil {
		return nil, away
	}
	if err != nil {
		if cause := context.Cause(solveCtx); errors.Is(cause, errSilent) {
			err = cause
		}
		return nil, &failed{err, log}
	}
	r, err := b.result(ctx, p, resp.ExporterResponse[exptypes.ExporterImageDescriptorKey])
	if err != nil {
		return nil, err
	}
	r.Base, r.Node, r.Added = min(base, len(r.Image.Layers)), n.Address, 0
	for _, l := range r.Image.Layers[r.Base:] {
		r.Added += l.Descriptor.Size
	}
	return r, nil
}

func asError(e *elsewhere) error {
	if e == nil {
		return nil
	}
	return e
}

// watch asks the daemon from time to time whether it lives, and ends the build if it
// has stopped answering: a machine that lost its network says nothing.
func (b *Build) watch(ctx context.Context, n *Node, cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(pulse)
		defer tick.Stop()
		missed := 0
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n.alive(ctx) == nil {
				missed = 0
			} else if missed++; missed > 1 {
				cancel(errSilent)
				return
			}
		}
	}()
	return func() { close(done); cancel(nil); <-ended }
}

// inspect looks for programs of another machine in what the daemon is about to do.
func (b *Build) inspect(ctx context.Context, n *Node, r *gateway.Result) (*elsewhere, error) {
	var found *elsewhere
	err := r.EachRef(func(ref gateway.Reference) error {
		if ref == nil || found != nil {
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
		step, err := b.foreignStep(n, definition)
		if step != "" {
			found = &elsewhere{step}
		}
		return err
	})
	return found, err
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

// result reads the image that the daemon has put into the store.
func (b *Build) result(ctx context.Context, p platform.Platform, encoded string) (*Result, error) {
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("descriptor of BuildKit: %w", err)
	}
	var root ocispec.Descriptor
	if err := json.Unmarshal(data, &root); err != nil {
		return nil, fmt.Errorf("descriptor of BuildKit: %w", err)
	}
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
