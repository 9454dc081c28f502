package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
)

// Stages travel from one node to another as images of one layer, through the store. The
// node that wants them reads them as an OCI layout of this session.

// handoverStore names the store of what is handed over, in a session.
const handoverStore = "anyarch-handover"

// plan is what the front end of the first node made of the Dockerfile, for a platform
// that other nodes have to build.
type plan struct {
	*graph
	metadata map[string][]byte // of its result: the config of the image
	by       *Node             // whose front end it was
	seen     string            // the instruction that made others necessary: place, tab, command
	// handed are the images of parts that were made already.
	handed map[result]digest.Digest
	// together says that nothing can be handed over after all.
	together bool
}

// errOlder is that of a daemon which doesn't know operations of the graph, since another
// one's front end has made it.
var errOlder = errors.New("this BuildKit is older than the one that read the Dockerfile")

// solveOn solves a definition on a daemon, if it knows all that is in there.
func solveOn(ctx context.Context, c gateway.Client, d *pb.Definition, evaluate bool) (*gateway.Result, error) {
	if err := knows(c.BuildOpts().LLBCaps, d); err != nil {
		return nil, err
	}
	return c.Solve(ctx, gateway.SolveRequest{Evaluate: evaluate, Definition: d, CacheImports: cacheImports(c)})
}

func knows(caps apicaps.CapSet, d *pb.Definition) error {
	for _, meta := range d.Metadata {
		for id := range meta.Caps {
			if err := caps.Supports(apicaps.CapID(id)); err != nil {
				return fmt.Errorf("%w: %w", errOlder, err)
			}
		}
	}
	return nil
}

// lostAt is an error of a node other than the one that makes the image.
type lostAt struct {
	node *Node
	error
}

func (l *lostAt) Unwrap() error { return l.error }

// solveParts has the parts made where they are to be made, all at once, and then the
// image.
func (b *Build) solveParts(ctx context.Context, p platform.Platform, d *plan, a assignment) (*Result, error) {
	handed := make([]digest.Digest, len(a.parts))
	g, partCtx := errgroup.WithContext(ctx)
	for i, c := range a.parts {
		if handed[i] = d.handed[c.result]; handed[i] == "" {
			g.Go(func() (err error) {
				c.node.busy.Add(1)
				defer c.node.busy.Add(-1)
				if handed[i], err = b.makePart(partCtx, p, d, c, i); err != nil {
					err = &lostAt{c.node, err}
				}
				return err
			})
		}
	}
	err := g.Wait()
	for i, c := range a.parts {
		if handed[i] != "" {
			d.handed[c.result] = handed[i]
		}
	}
	if err != nil {
		return nil, err
	}
	exports, imports := b.caches(p)
	layouts := maps.Clone(b.layouts)
	layouts[handoverStore] = b.parts
	return b.image(ctx, a.node, p, job{
		opt: client.SolveOpt{FrontendAttrs: map[string]string{"platform": dockerfile.Format(p)}, OCIStores: layouts, LocalMounts: b.mounts, CacheExports: exports, CacheImports: imports},
		build: func(ctx context.Context, c gateway.Client) (*gateway.Result, *graph, error) {
			w := d.writer(c.BuildOpts().SessionID)
			for i, part := range a.parts {
				w.replaced[part.result] = handedOver(p, handed[i])
				w.names[part.result] = "[handover] what " + d.place(part.op, b.o.Dockerfile) + " made on " + part.node.Address
			}
			in, err := w.input(d.graph.result)
			if err != nil {
				return nil, nil, err
			}
			definition, err := w.end(in)
			if err != nil {
				return nil, nil, err
			}
			r, err := solveOn(ctx, c, definition, false)
			if err != nil {
				return nil, nil, err
			}
			for key, value := range d.metadata {
				r.AddMeta(key, value)
			}
			g, err := readGraph(definition, w.session)
			return r, g, err
		},
	})
}

// handedOver is the operation that reads an image of the store.
func handedOver(p platform.Platform, image digest.Digest) *pb.Op {
	return &pb.Op{
		Platform: pb.PlatformFromSpec(p.OCI()),
		Op: &pb.Op_Source{Source: &pb.SourceOp{
			Identifier: "oci-layout://anyarch.invalid/handover@" + image.String(),
			Attrs:      map[string]string{pb.AttrOCILayoutStoreID: handoverStore},
		}},
	}
}

// cacheImports are those that the client was given: a front end would read them itself.
func cacheImports(c gateway.Client) []gateway.CacheOptionsEntry {
	var list []gateway.CacheOptionsEntry
	_ = json.Unmarshal([]byte(c.BuildOpts().Opts["cache-imports"]), &list) // none where it isn't set
	return list
}

// makePart makes a part and brings what is read of it into the store, as an image of one
// layer for the platform that wants it. i tells the parts of a platform apart.
func (b *Build) makePart(ctx context.Context, p platform.Platform, d *plan, c *part, i int) (digest.Digest, error) {
	exports, imports := b.partCaches(p, i)
	config, err := json.Marshal(ocispec.Image{Platform: p.OCI(), RootFS: ocispec.RootFS{Type: "layers"}})
	if err != nil {
		return "", err
	}
	resp, err := b.run(ctx, c.node, p, job{
		opt: client.SolveOpt{
			FrontendAttrs: map[string]string{"platform": dockerfile.Format(p)},
			OCIStores:     b.layouts, LocalMounts: b.mounts, CacheExports: exports, CacheImports: imports,
			Exports: []client.ExportEntry{{Type: client.ExporterOCI, OutputStore: b.parts, Attrs: map[string]string{
				"tar": "false", "oci-mediatypes": "true", "compression": "zstd", "compression-level": "1", "force-compression": "true",
			}}},
		},
		build: func(ctx context.Context, gw gateway.Client) (*gateway.Result, *graph, error) {
			w := d.writer(gw.BuildOpts().SessionID)
			in, err := w.input(c.result)
			if err != nil {
				return nil, nil, err
			}
			whole, err := w.end(in)
			if err != nil {
				return nil, nil, err
			}
			made, err := solveOn(ctx, gw, whole, true)
			if err != nil {
				return nil, nil, err
			}
			ref, err := made.SingleRef()
			if err != nil {
				return nil, nil, err
			}
			files := newNeeded(listRef(ref))
			for _, r := range c.reads {
				if err := files.add(ctx, r); err != nil {
					return nil, nil, err
				}
			}
			id, err := w.add(onlyPaths(in, files), named("[handover] what is read of "+d.place(c.op, b.o.Dockerfile)), d.source.GetLocations()[c.op])
			if err != nil {
				return nil, nil, err
			}
			definition, err := w.end(&pb.Input{Digest: id})
			if err != nil {
				return nil, nil, err
			}
			r, err := solveOn(ctx, gw, definition, false)
			if err != nil {
				return nil, nil, err
			}
			r.AddMeta(exptypes.ExporterImageConfigKey, config)
			return r, nil, nil
		},
	})
	if err != nil {
		return "", err
	}
	root, err := descriptor(resp)
	if err != nil {
		return "", err
	}
	img, err := b.read(ctx, image.Layout{Store: b.o.Store}, root)
	if err != nil {
		return "", err
	}
	size := img.Manifest.Size + img.Config.Size
	for _, l := range img.Layers {
		size += l.Descriptor.Size
	}
	b.o.Event.Note("", p.String(), progress.Build, fmt.Sprintf("%s was built on %s, and %s of it handed over", d.place(c.op, b.o.Dockerfile), c.node.Address, units.HumanSize(float64(size))))
	return root.Digest, nil
}

// onlyPaths copies what is needed of a file system to an empty one, each path to its place.
func onlyPaths(in *pb.Input, files *needed) *pb.Op {
	c := &pb.FileActionCopy{Src: "/", Dest: "/", Mode: -1, Timestamp: -1, DirCopyContents: true, CreateDestPath: true, IncludePatterns: files.patterns()}
	if c.IncludePatterns != nil && len(c.IncludePatterns) == 0 {
		c.ExcludePatterns = []string{"**"} // no pattern at all would be everything
	}
	op := &pb.FileOp{Actions: []*pb.FileAction{{Input: -1, SecondaryInput: 0, Output: -1, Action: &pb.FileAction_Copy{Copy: c}}}}
	// Directories come after what is in them, which has brought those above it as they are.
	for _, dir := range slices.Sorted(maps.Keys(files.dirs)) {
		if dir != "/" {
			op.Actions = append(op.Actions, &pb.FileAction{
				Input: int64(len(op.Actions)), SecondaryInput: -1, Output: -1, // actions are counted after the one input
				Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: dir, Mode: 0o755, MakeParents: true, Timestamp: -1}},
			})
		}
	}
	op.Actions[len(op.Actions)-1].Output = 0
	return &pb.Op{Inputs: []*pb.Input{in}, Op: &pb.Op_File{File: op}}
}

// partCaches are the caches of a part: those of its platform with a suffix of their own,
// and for reading the shared ones. What an inline cache would stand in is no image that
// anybody keeps.
func (b *Build) partCaches(p platform.Platform, i int) (to, from []client.CacheOptionsEntry) {
	suffix := fmt.Sprintf("-%s-stage%d", strings.ReplaceAll(p.String(), "/", "-"), i)
	to = slices.DeleteFunc(ownCaches(b.to, suffix, false), func(e client.CacheOptionsEntry) bool { return e.Type == "inline" })
	return to, ownCaches(b.from, suffix, true)
}
