package native

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Description says what a build would do.
type Description struct {
	Steps      []PlannedStep
	Bases      []string // references with digests and what they are needed for
	Toolchains []string // Go versions
	Refusals   refusal.List
}

// PlannedStep is one instruction.
type PlannedStep struct {
	Name      string
	Place     string
	Platforms []string // empty if it runs once for all of them
}

// Describe tells what Run would do, without doing it: nothing is downloaded but
// the configs of bases.
func (b *Build) Describe(ctx context.Context) (*Description, error) {
	d := &Description{}
	if err := b.Check(ctx); err != nil {
		if d.Refusals = refusal.All(err); len(d.Refusals) == 0 {
			return nil, err
		}
	}
	at := map[string]int{}
	for _, g := range b.graphs {
		keys := map[*dockerfile.Op]*state{}
		stages := map[*dockerfile.Op]*stage{}
		for _, op := range g.Ops {
			st, err := b.checkedStage(ctx, g, op, stages)
			if err != nil {
				return nil, err
			}
			stages[op] = st
			var inputs []*state
			for _, in := range op.Inputs {
				inputs = append(inputs, keys[in.Op])
			}
			s := &state{stage: st, deferred: &deferrals{}}
			s.key, s.bound = b.key(g, op, inputs)
			if op.Source != nil && op.Source.Image != "" && st.goBuilder && official(op.Source.Image) && !st.pinned {
				s.key, s.bound = "golang "+op.Self, false
			}
			keys[op] = s
			if op.Source != nil {
				b.describeSource(d, op, st)
				continue
			}
			if op.Name == "" {
				continue
			}
			i, known := at[s.key]
			if !known {
				i = len(d.Steps)
				at[s.key] = i
				d.Steps = append(d.Steps, PlannedStep{Name: op.Name, Place: b.place(op)})
			}
			d.Steps[i].Platforms = append(d.Steps[i].Platforms, g.Platform.String())
		}
	}
	for i := range d.Steps {
		if len(d.Steps[i].Platforms) == len(b.graphs) && len(b.graphs) > 1 {
			d.Steps[i].Platforms = nil
		}
	}
	return d, nil
}

func (b *Build) describeSource(d *Description, op *dockerfile.Op, st *stage) {
	if op.Source.Image == "" {
		return
	}
	use := "its files"
	if st.goBuilder {
		version := first(b.o.GoVersion, goVersion(st.image.Config.Config.Env))
		if !slices.Contains(d.Toolchains, version) {
			d.Toolchains = append(d.Toolchains, version)
		}
		use = "its config"
		if !official(op.Source.Image) {
			use = "its config and files"
		}
	}
	name, id, _ := strings.Cut(op.Source.Image, "@")
	line := fmt.Sprintf("%s (%s) %s", name, use, id)
	if !slices.Contains(d.Bases, line) {
		d.Bases = append(d.Bases, line)
	}
}
