package native

import (
	"context"
	"fmt"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/progress"
)

// A stage whose file system doesn't become an image may call programs of its own
// base: npm, make, protoc. Where the sandbox works they run in it, from the base for
// this machine's platform, which is pulled then. What the stage makes is the same for
// all platforms unless it reads a platform argument; Go commands cross-compile as ever.

// notThere is what the shell says of a command that is no one's.
const notThere = "a command that isn't there"

// host makes the stage of an operation one whose programs run on this machine. It
// can't if the stage's files are part of an image, or it has no base.
func (b *Build) host(op *dockerfile.Op) bool {
	if b.o.Runner.Name() != "sandbox" || b.final[op] {
		return false
	}
	var chain []*dockerfile.Op
	at := op
	for ; at != nil && at.Source == nil; at = baseOf(at) {
		if b.final[at] {
			return false
		}
		chain = append(chain, at)
	}
	if at == nil || at.Source.Image == "" {
		return false
	}
	for _, o := range chain {
		b.hosted[o] = true
	}
	return true
}

// baseOf is the operation whose file system another one changes; nil for none.
func baseOf(op *dockerfile.Op) *dockerfile.Op {
	at := -1
	switch {
	case op.Exec != nil:
		for _, m := range op.Exec.Mounts {
			if m.Target == "/" {
				at = m.Input
			}
		}
	case len(op.File) > 0:
		at = baseInput(op.File, op.File[len(op.File)-1].Output, len(op.Inputs))
	case op.Merge:
		at = 0
	}
	if at < 0 || at >= len(op.Inputs) {
		return nil
	}
	return op.Inputs[at].Op
}

// hostedBase is the first state of such a stage.
func (b *Build) hostedBase(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op) (*state, error) {
	value, err := shared(ctx, &b.memo, "hosted "+op.Self, func() (any, error) {
		p := b.o.BuildPlatform
		img, err := b.o.Image(ctx, op.Source.Image, p)
		if err != nil {
			return nil, b.locate(op, err)
		}
		st := &stage{image: img, ref: op.Source.Image, goBuilder: goVersion(img.Config.Config.Env) != "", pinned: b.pinned(g, op), hosted: true, dialect: command.GNU}
		if isAlpine(op.Source.Image, img) {
			st.dialect = command.Busybox
		}
		s := &state{stage: st, deferred: &deferrals{}, key: "hosted " + op.Self}
		load := func() (*filetree.Tree, error) { return b.files(ctx, st.ref, img) }
		if st.goBuilder && official(op.Source.Image) {
			s.tree = filetree.NewLazy(golangDirs(st.dialect == command.Busybox), load)
			return s, nil
		}
		if s.tree, err = load(); err == nil && !st.goBuilder {
			st.dialect = dialectOf(s.tree)
		}
		return s, err
	})
	if err != nil {
		return nil, err
	}
	return value.(*state), nil
}

// saysHosted tells that a program of a base will run here.
func (b *Build) saysHosted(op *dockerfile.Op, place, name string) {
	source := op
	for source != nil && source.Source == nil {
		source = baseOf(source)
	}
	text := fmt.Sprintf("%s: %s runs in the sandbox, from %s for %s", place, name, repository(source.Source.Image), b.o.BuildPlatform)
	if _, said := b.warned.LoadOrStore(text, true); !said {
		b.o.Event.Note("", "", progress.Build, text)
	}
}
