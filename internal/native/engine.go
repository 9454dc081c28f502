package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/native/fileop"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// layerOpener opens one layer of a base.
func (b *Build) layerOpener(img base.Image, i int) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) { return b.o.OpenLayer(ctx, img, i) }
}

// scratch is the empty file system.
var scratch = identify(func(context.Context) (string, error) { return "scratch", nil })

// edge gives the state that an operation's input is, as platform g sees it.
func (b *Build) edge(ctx context.Context, g *dockerfile.Graph, e dockerfile.Edge) (*state, error) {
	if e.Op == nil || e.Output < 0 {
		return &state{key: "scratch", tree: filetree.New(), deferred: &deferrals{}, identity: scratch}, nil
	}
	return b.edgeIn(ctx, g, e, b.isHosted(e.Op))
}

// edgeIn is edge for an input of a stage that is hosted or isn't.
func (b *Build) edgeIn(ctx context.Context, g *dockerfile.Graph, e dockerfile.Edge, hosted bool) (*state, error) {
	if hosted && e.Op.Source != nil && e.Op.Source.Image != "" {
		return b.hostedBase(ctx, g, e.Op)
	}
	outputs, err := b.eval(ctx, g, e.Op, hosted)
	if err != nil {
		return nil, err
	}
	if e.Output >= len(outputs) || outputs[e.Output] == nil {
		return nil, fmt.Errorf("%s: output %d of %d", e.Op.Name, e.Output, len(outputs))
	}
	return outputs[e.Output], nil
}

// eval executes an operation, once for everything that has the same key: the
// same steps of several platforms are one. hosted says that it is part of a hosted
// stage here, with all before it in the stage.
func (b *Build) eval(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, hosted bool) ([]*state, error) {
	if outputs, ok, err := b.restore(ctx, g, op, hosted); ok || err != nil {
		return outputs, err
	}
	inputs := make([]*state, len(op.Inputs))
	group, gctx := errgroup.WithContext(ctx)
	for i, e := range op.Inputs {
		group.Go(func() (err error) {
			if hosted && i == baseIndex(op) && e.Op != nil && e.Output >= 0 {
				inputs[i], err = b.edgeIn(gctx, g, e, true)
				return err
			}
			inputs[i], err = b.edge(gctx, g, e)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	key, bound := b.key(g, op, inputs)
	if outputs, ok, err := b.restoreAlike(ctx, g, op, inputs, hosted, bound); ok || err != nil {
		return outputs, err
	}
	outputs, err := b.execute(ctx, g, op, inputs, key, bound)
	if !bound && errors.Is(err, errPlatform) {
		// It read a file of the base after all.
		outputs, err = b.execute(ctx, g, op, inputs, key+" "+g.Platform.String(), true)
	}
	if err == nil {
		b.name(ctx, g, op, inputs, outputs, hosted)
	}
	var known *needsHost
	if errors.Is(err, errHost) && !errors.As(err, &known) {
		err = &needsHost{op}
	}
	return outputs, err
}

// key identifies an operation and all that it depends on. bound says that the
// platform of the graph is one of these things.
func (b *Build) key(g *dockerfile.Graph, op *dockerfile.Op, inputs []*state) (key string, bound bool) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n", op.Self)
	for i, in := range inputs {
		_, _ = fmt.Fprintf(h, "%s %d\n", in.key, op.Inputs[i].Output)
		bound = bound || in.bound
	}
	switch {
	case op.Source != nil && op.Source.Image != "":
		if b.pinned(g, op) {
			return "pinned image " + op.Key, false
		}
		return "image " + op.Key, true // what builders have in common is said by their states
	case op.Exec != nil && op.Platform != nil:
		if root := rootState(op, inputs); root != nil && root.stage != nil && root.stage.pinned {
			_, _ = fmt.Fprintf(h, "%v", *op.Platform)
		} else if !bound {
			bound = !b.platformFree(op, inputs)
		}
	}
	if bound {
		_, _ = fmt.Fprintf(h, "%v", g.Platform)
	}
	return hex.EncodeToString(h.Sum(nil)), bound
}

// pinned reports whether a base has a platform of its own, whatever the image is
// built for: FROM --platform=$BUILDPLATFORM.
func (b *Build) pinned(g *dockerfile.Graph, op *dockerfile.Op) bool {
	return op.Platform != nil && (*op.Platform != g.Platform || b.graphsWith[op.Key] > 1)
}

// platformFree reports whether a RUN does the same on every platform: it is in a
// Go builder, and none of its commands looks at the platform.
func (b *Build) platformFree(op *dockerfile.Op, inputs []*state) bool {
	root := rootState(op, inputs)
	if root != nil && root.stage != nil && root.stage.hosted && !root.bound {
		// Its environment, and with it each platform argument, is part of the key.
		return b.hostedFree(root.stage, op.Exec)
	}
	return root != nil && !root.bound && !looksAtPlatform(op.Exec)
}

// rootState is the input that is the root file system of a RUN.
func rootState(op *dockerfile.Op, inputs []*state) *state {
	for _, m := range op.Exec.Mounts {
		if m.Target == "/" && m.Input >= 0 && m.Input < len(inputs) {
			return inputs[m.Input]
		}
	}
	return nil
}

func (b *Build) execute(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs []*state, key string, bound bool) ([]*state, error) {
	value, err := shared(ctx, &b.memo, key, func() (any, error) {
		label := b.label(g, op, bound)
		end := func(progress.State, string) {}
		ctx, asked := download.Watch(ctx)
		if op.Name != "" && op.Source == nil {
			end = b.o.Event.Start("", label, progress.Build, op.Name)
		}
		if bound {
			for i, in := range inputs {
				if in.stage != nil && in.stage.neutral {
					inputs[i] = b.bind(ctx, in, g.Platform)
				}
			}
		}
		outputs, err := b.do(ctx, g, op, inputs)
		switch {
		case errors.Is(err, errPlatform), errors.Is(err, errHost):
			end(progress.Cached, op.Name)
			return nil, err
		case err != nil:
			end(progress.Failed, op.Name)
			return nil, b.locate(op, err)
		}
		for i, o := range outputs {
			if o != nil && op.Source == nil {
				o.key, o.bound = fmt.Sprintf("%s/%d", key, i), bound
			}
			if o != nil {
				o.sources, o.own = sourcesOf(inputs, asked), sourcesOf(nil, asked)
			}
		}
		if op.Exec != nil {
			if err := b.keep(op, inputs, outputs, bound); err != nil {
				end(progress.Failed, op.Name)
				return nil, b.locate(op, err)
			}
		}
		for i, o := range outputs {
			if o != nil {
				o.identity = b.identityOf(g, op, inputs, o, i, bound)
			}
		}
		end(progress.Done, op.Name)
		return outputs, nil
	})
	if err != nil {
		return nil, err
	}
	return value.([]*state), nil
}

// label is the platform that an operation is shown under, empty if it runs once
// for all.
func (b *Build) label(g *dockerfile.Graph, op *dockerfile.Op, bound bool) string {
	if bound || len(b.graphs) == 1 || b.graphsWith[op.Key] == 1 && b.selfWith[op.Self] == 1 {
		return g.Platform.String()
	}
	return ""
}

// locate gives an error the place of the instruction it is about.
func (b *Build) locate(op *dockerfile.Op, err error) error {
	var own *refusal.Error
	if errors.As(err, &own) {
		if own.Place == "" {
			own.Place = b.place(op)
		}
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errPlatform) || errors.Is(err, errHost) {
		return err
	}
	return &refusal.Error{Code: "PA107", Place: b.place(op), Summary: err.Error(), Err: err, Seen: b.excerpt(op)}
}

// excerpt is the instruction, for messages.
func (b *Build) excerpt(op *dockerfile.Op) []string {
	name := op.Name
	if i := strings.Index(name, "] "); strings.HasPrefix(name, "[") && i > 0 {
		name = name[i+2:]
	}
	if name == "" {
		return nil
	}
	return []string{name}
}

func (b *Build) do(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs []*state) ([]*state, error) {
	switch {
	case op.Source != nil:
		s, err := b.open(ctx, g, op)
		return []*state{s}, err
	case op.Exec != nil:
		return b.run(ctx, g, op, inputs)
	case op.Merge:
		return b.merge(inputs)
	}
	return b.file(ctx, op, inputs)
}

// open makes the state of a source.
func (b *Build) open(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op) (*state, error) {
	s := op.Source
	switch {
	case s.Image != "":
		return b.source(ctx, g, op)
	case s.Local != nil:
		t, err := b.local(ctx, op)
		return &state{key: op.Key, tree: t, deferred: &deferrals{}}, err
	case s.HTTP != nil:
		t, err := b.download(ctx, *s.HTTP)
		return &state{key: op.Key, tree: t, deferred: &deferrals{}}, err
	}
	return nil, &refusal.Error{Code: "PA101", Place: b.place(op),
		Summary: fmt.Sprintf("files can't be had from %s by the native engine", s.Identifier),
		Fix:     []string{"COPY them from the context instead"}}
}

// file executes COPY, ADD and WORKDIR.
func (b *Build) file(ctx context.Context, op *dockerfile.Op, inputs []*state) ([]*state, error) {
	trees := make([]*filetree.Tree, len(inputs))
	for i, in := range inputs {
		trees[i] = in.tree
	}
	out, err := fileop.Run(ctx, op.File, trees, fileop.Options{Scratch: b.o.Scratch, Now: b.now()})
	if err != nil {
		return nil, err
	}
	// Whose file system it is that the files were put into: the first input of the
	// chain of actions that leads to each output.
	states := make([]*state, len(out))
	for i, t := range out {
		if t == nil {
			continue
		}
		states[i] = &state{tree: t, deferred: &deferrals{}}
		if at := baseInput(op.File, i, len(inputs)); at >= 0 {
			states[i].stage, states[i].deferred, states[i].loads = inputs[at].stage, inputs[at].deferred, inputs[at].loads
		}
	}
	return states, nil
}

// baseInput finds the input that output is made on, -1 for none.
func baseInput(list []dockerfile.FileAction, output, inputs int) int {
	for k, a := range list {
		if a.Output != output {
			continue
		}
		at := k
		for {
			in := list[at].Input
			if in < inputs {
				return in
			}
			at = in - inputs
		}
	}
	return -1
}

// merge puts file systems over one another, as layers: COPY --link.
func (b *Build) merge(inputs []*state) ([]*state, error) {
	if len(inputs) == 0 {
		return []*state{{tree: filetree.New(), deferred: &deferrals{}}}, nil
	}
	out := *inputs[0]
	out.tree = inputs[0].tree.Fork()
	for _, in := range inputs[1:] {
		if err := out.tree.Overlay(in.tree); err != nil {
			return nil, err
		}
	}
	return []*state{&out}, nil
}

// now is the clock of the build: the same for the same input.
func (b *Build) now() time.Time {
	switch {
	case !b.o.Now.IsZero():
		return b.o.Now.UTC()
	case !b.o.LayerTime.IsZero():
		return b.o.LayerTime.UTC()
	}
	return time.Unix(0, 0).UTC()
}
