package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/anyarch/anyarch/internal/platform"
)

// capabilities are what this program can execute: everything that the compiler
// may ask for but differences of file systems, which no Dockerfile needs.
func capabilities() []*capspb.APICap {
	return slices.DeleteFunc(pb.Caps.All(), func(c *capspb.APICap) bool { return c.ID == string(pb.CapDiffOp) })
}

// frontend is what BuildKit's compiler sees of the world: the configs of bases
// and the ignore files of contexts. It stands where a daemon stands otherwise.
type frontend struct {
	o    Options
	opts map[string]string
	caps apicaps.CapSet
}

func newFrontend(o Options) (*frontend, error) {
	opts := map[string]string{}
	for name, value := range o.Contexts {
		opts["context:"+name] = value
	}
	for k, v := range o.BuildArgs {
		opts["build-arg:"+k] = v
	}
	if o.Network != "" && o.Network != "default" {
		opts["force-network-mode"] = o.Network
	}
	if len(o.IgnoreCache) > 0 {
		opts["no-cache"] = strings.Join(o.IgnoreCache, ",")
	}
	if o.Hostname != "" {
		opts["hostname"] = o.Hostname
	}
	return &frontend{o: o, opts: opts, caps: pb.Caps.CapSet(capabilities())}, nil
}

// BuildOpts implements client.Client.
func (f *frontend) BuildOpts() client.BuildOpts {
	return client.BuildOpts{Opts: maps.Clone(f.opts), Product: "anyarch", LLBCaps: f.caps, Caps: f.caps}
}

// ResolveImageConfig implements llb.ImageMetaResolver.
func (f *frontend) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if opt.OCILayoutOpt != nil {
		return "", "", nil, errors.New("contexts of kind oci-layout aren't supported here: use docker-image://REF")
	}
	p := f.o.Platform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		p = platform.FromOCI(opt.ImageOpt.Platform)
	}
	image, err := f.o.Resolve(ctx, ref, p)
	if err != nil {
		return "", "", nil, err
	}
	return image.Ref, image.Digest, image.Config, nil
}

// ResolveSourceMetadata implements sourceresolver.MetaResolver.
func (f *frontend) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	ref, ok := strings.CutPrefix(op.Identifier, "docker-image://")
	if !ok {
		return nil, fmt.Errorf("the properties of %s can't be asked for before it is read", op.Identifier)
	}
	resolved, id, config, err := f.ResolveImageConfig(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op:    &pb.SourceOp{Identifier: "docker-image://" + resolved, Attrs: op.Attrs},
		Image: &sourceresolver.ResolveImageResponse{Digest: id, Config: config},
	}, nil
}

// Solve implements client.Client for the one thing that the compiler solves: it
// reads the ignore file of a local context.
func (f *frontend) Solve(_ context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Definition == nil {
		return nil, errors.New("only the files of a context can be read while a Dockerfile is compiled")
	}
	for _, raw := range req.Definition.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, err
		}
		if s := op.GetSource(); s != nil {
			if name, ok := strings.CutPrefix(s.Identifier, "local://"); ok {
				result := client.NewResult()
				result.SetRef(&ignoreFile{f, name})
				return result, nil
			}
		}
	}
	return nil, errors.New("only the files of a local context can be read while a Dockerfile is compiled")
}

// Inputs implements client.Client.
func (f *frontend) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

// NewContainer implements client.Client.
func (f *frontend) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.New("no containers while a Dockerfile is compiled")
}

// Warn implements client.Client. Warnings are had from the compiler directly.
func (f *frontend) Warn(context.Context, digest.Digest, string, client.WarnOpts) error { return nil }

// ignoreFile is a local context of which only the ignore file can be read.
type ignoreFile struct {
	f    *frontend
	name string
}

func (i *ignoreFile) ToState() (llb.State, error)    { return llb.Local(i.name), nil }
func (i *ignoreFile) Evaluate(context.Context) error { return nil }

// ReadFile implements client.Reference.
func (i *ignoreFile) ReadFile(ctx context.Context, _ client.ReadRequest) ([]byte, error) {
	data, err := i.f.o.Ignore(ctx, i.name)
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

// StatFile implements client.Reference.
func (i *ignoreFile) StatFile(ctx context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	data, err := i.f.o.Ignore(ctx, i.name)
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: req.Path, Size: int64(len(data))}, nil
}

// ReadDir implements client.Reference.
func (i *ignoreFile) ReadDir(context.Context, client.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errors.New("only the ignore file of a context can be read while a Dockerfile is compiled")
}

var (
	_ client.Client         = (*frontend)(nil)
	_ client.Reference      = (*ignoreFile)(nil)
	_ llb.ImageMetaResolver = (*frontend)(nil)
)
