package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/trace"
)

// Result is the image of one platform, not assembled yet.
type Result struct {
	Platform platform.Platform
	Layers   []image.Layer // the base's first
	Base     int           // how many layers are the base's
	Config   []byte        // image configuration as JSON, without rootfs and history
	History  []ocispec.History
	Places   map[string]string // where in the Dockerfile a layer comes from, by its digest
	Added    int64             // compressed bytes of the layers that aren't the base's
}

// Run executes the graph of one platform. It may be called for all graphs of the
// build at once; what they have in common runs once.
func (b *Build) Run(ctx context.Context, g *dockerfile.Graph) (*Result, error) {
	if err := b.cacheKeys(ctx); err != nil {
		return nil, err
	}
	r := &Result{Platform: g.Platform, Places: map[string]string{}, Config: g.Config}
	var config struct {
		History []ocispec.History `json:"history"`
	}
	if err := json.Unmarshal(g.Config, &config); err != nil {
		return nil, err
	}
	ops := finalOps(g)
	var img *base.Image
	if len(ops) > 0 && ops[0].Source != nil && ops[0].Source.Image != "" {
		p := g.Platform
		if ops[0].Platform != nil && b.pinned(g, ops[0]) {
			p = *ops[0].Platform
		}
		found, err := b.o.Image(ctx, ops[0].Source.Image, p)
		if err != nil {
			return nil, b.locate(ops[0], err)
		}
		img = &found
	}
	if img != nil && len(ops) > 1 && goVersion(img.Config.Config.Env) != "" {
		b.warn(platform.Platform{}, "%s: the image has the Go toolchain of its base, but not the module and build caches that go left behind: they would make it another one every time", b.place(ops[0]))
	}
	own := ops
	if img != nil {
		own = ops[1:]
	}
	layers, ok := b.keptLayers(ctx, own)
	if ok {
		b.o.Event.Start("", g.Platform.String(), progress.Build, rootName(g))(progress.Cached, rootName(g))
	} else {
		if err := b.evaluate(ctx, g); err != nil {
			return nil, err
		}
		end := b.o.Event.Start("", g.Platform.String(), progress.Pack, "")
		var err error
		if layers, err = b.packLayers(ctx, g, img != nil); err != nil {
			end(progress.Failed, "")
			return nil, err
		}
		end(progress.Done, "")
	}
	b.assemble(img, ops, own, layers, config.History, r)
	return r, nil
}

// finalOps are the operations that the root file system goes through, the base first.
func finalOps(g *dockerfile.Graph) []*dockerfile.Op {
	var list []*dockerfile.Op
	for at := g.Root; at.Op != nil; at = below(at) {
		list = append(list, at.Op)
	}
	slices.Reverse(list)
	return list
}

// rootName is the last instruction of a graph.
func rootName(g *dockerfile.Graph) string {
	if g.Root.Op == nil {
		return ""
	}
	return g.Root.Op.Name
}

// packLayers makes one layer of every operation that changed something.
func (b *Build) packLayers(ctx context.Context, g *dockerfile.Graph, hasBase bool) ([]*image.Layer, error) {
	steps, err := b.chain(ctx, g)
	if err != nil {
		return nil, err
	}
	if hasBase {
		steps = steps[1:]
	}
	layers := make([]*image.Layer, len(steps))
	for i, s := range steps {
		l, err := b.layer(ctx, s)
		if err != nil {
			return nil, b.locate(s.op, err)
		}
		layers[i] = l
		b.keepLayer(s, l)
	}
	return layers, nil
}

// evaluate makes the file system of the image, again whenever a script turned out to
// need programs of its stage's base.
func (b *Build) evaluate(ctx context.Context, g *dockerfile.Graph) error {
	for {
		_, err := b.edge(withLasting(ctx), g, g.Root)
		var needs *needsHost
		if !errors.As(err, &needs) {
			return err
		}
		if b.isHosted(needs.op) {
			return fmt.Errorf("%s: %w, though they do", b.place(needs.op), errHost)
		}
		b.host(needs.op)
	}
}

// step is one operation that the final file system is made of.
type step struct {
	op     *dockerfile.Op
	before *filetree.Tree // nil for the first
	after  *state
}

// chain lists the operations that the root file system went through, the base
// first.
func (b *Build) chain(ctx context.Context, g *dockerfile.Graph) ([]step, error) {
	var list []step
	for at := g.Root; at.Op != nil; {
		s, err := b.edge(ctx, g, at)
		if err != nil {
			return nil, err
		}
		list = append(list, step{op: at.Op, after: s})
		at = below(at)
	}
	slices.Reverse(list)
	for i := range list {
		if i > 0 {
			list[i].before = list[i-1].after.tree
		}
	}
	return list, nil
}

// below is the file system that an operation started from.
func below(e dockerfile.Edge) dockerfile.Edge {
	op := e.Op
	at := -1
	switch {
	case op.Exec != nil:
		for _, m := range op.Exec.Mounts {
			if m.Output == e.Output {
				at = m.Input
			}
		}
	case len(op.File) > 0:
		at = baseInput(op.File, e.Output, len(op.Inputs))
	case op.Merge:
		at = 0
	}
	if at < 0 || at >= len(op.Inputs) {
		return dockerfile.Edge{}
	}
	return op.Inputs[at]
}

// assemble puts the layers of the base and of the operations into a result, with the
// history that says which is of what.
func (b *Build) assemble(img *base.Image, ops, steps []*dockerfile.Op, layers []*image.Layer, history []ocispec.History, r *Result) {
	var inherited []ocispec.History
	if img != nil {
		for _, l := range img.Layers {
			r.Layers = append(r.Layers, l)
			r.Places[l.Descriptor.Digest.String()] = b.place(ops[0])
		}
		inherited = img.Config.History
		r.Base = len(r.Layers)
	}
	// The history of the instructions follows that of the base, one entry with a
	// layer for each operation.
	own := history
	if len(inherited) <= len(history) {
		own = history[len(inherited):]
	}
	r.History = slices.Clone(inherited)
	next := 0
	created := b.o.LayerTime.UTC()
	for _, h := range own {
		h.Created = &created
		if !h.EmptyLayer {
			if next < len(steps) && layers[next] != nil {
				b.add(r, steps[next], layers[next])
			} else {
				h.EmptyLayer = true // it changed nothing
			}
			next++
		}
		r.History = append(r.History, h)
	}
	for ; next < len(steps); next++ {
		if layers[next] != nil {
			b.add(r, steps[next], layers[next])
			r.History = append(r.History, ocispec.History{Created: &created, CreatedBy: steps[next].Name, Comment: "buildkit.dockerfile.v0"})
		}
	}
}

func (b *Build) add(r *Result, op *dockerfile.Op, l *image.Layer) {
	r.Layers = append(r.Layers, *l)
	r.Places[l.Descriptor.Digest.String()] = b.place(op)
	r.Added += l.Descriptor.Size
}

// layer packs what one operation changed; nil if it changed nothing. The same
// change is packed once, for all platforms that share it.
func (b *Build) layer(ctx context.Context, s step) (*image.Layer, error) {
	value, err := shared(ctx, &b.memo, "layer "+s.after.key, func() (any, error) {
		changes := filetree.Diff(s.before, s.after.tree)
		entries, err := entriesOf(changes)
		if err != nil || len(entries) == 0 {
			return (*image.Layer)(nil), err
		}
		end := trace.Start(ctx, trace.Layer, s.op.Name)
		l, err := layer.Write(ctx, b.o.Store, entries, layer.Options{Compression: b.o.Compression, ModTime: b.o.LayerTime, OmitParents: true})
		if err != nil {
			end("error", "not written")
			return nil, err
		}
		end("bytes", strconv.FormatInt(l.Descriptor.Size, 10))
		return &l, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*image.Layer), nil
}

// entriesOf turns changes into the entries of a layer.
func entriesOf(changes []filetree.Change) ([]layer.Entry, error) {
	var list []layer.Entry
	for _, c := range changes {
		name := strings.TrimPrefix(c.Path, "/")
		if name == "" {
			if c.Mode.Perm() == 0o755 && c.UID == 0 && c.GID == 0 && len(c.Xattrs) == 0 {
				continue
			}
			return nil, &refusal.Error{Code: "PA101", Summary: "the root directory itself has another owner or mode: a layer can't say so", Fix: []string{"a directory below it"}}
		}
		e := layer.Entry{Name: name, Mode: c.Mode, UID: c.UID, GID: c.GID, Xattrs: c.Xattrs}
		switch {
		case c.Removed:
			list = append(list, layer.Entry{Name: name, Type: layer.Whiteout})
			continue
		case c.LinkTo != "":
			e.Type, e.Link = layer.Hardlink, strings.TrimPrefix(c.LinkTo, "/")
		case c.IsDir():
			e.Type = layer.Dir
		case c.IsSymlink():
			e.Type, e.Link = layer.Symlink, c.Link
		case c.IsRegular():
			e.Type, e.Size = layer.Regular, c.Size()
			if e.Size > 0 {
				e.Open = c.Content.Open
			}
		case c.Mode&fs.ModeNamedPipe != 0:
			e.Type = layer.FIFO
		case c.Mode&fs.ModeCharDevice != 0:
			e.Type, e.DevMajor, e.DevMinor = layer.CharDevice, c.DevMajor, c.DevMinor
		case c.Mode&fs.ModeDevice != 0:
			e.Type, e.DevMajor, e.DevMinor = layer.BlockDevice, c.DevMajor, c.DevMinor
		default:
			return nil, errors.New("a file of this kind can't be in a layer: " + c.Path)
		}
		list = append(list, e)
	}
	return list, nil
}
