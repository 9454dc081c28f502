package buildkit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Placement says where a platform can be built, for people.
type Placement struct {
	Platform platform.Platform
	Node     string // empty if no node runs its programs
	Emulated bool
}

// Place says which node runs the programs of each platform, before anything is built.
// Platforms for which no program has to run are built by the first node all the same.
func Place(nodes []*Node, platforms []platform.Platform) []Placement {
	var list []Placement
	for _, p := range platforms {
		at := Placement{Platform: p}
		for _, n := range nodes {
			if n.runs(p) {
				at.Node, at.Emulated = n.Address, false
				break
			}
			if at.Node == "" && n.emulates(p) {
				at.Node, at.Emulated = n.Address, true
			}
		}
		list = append(list, at)
	}
	return list
}

// elsewhere ends a build on a node that doesn't run the platform's programs by itself,
// before any of them is run.
type elsewhere struct{ seen string }

func (e *elsewhere) Error() string { return "programs of the platform run: " + e.seen }

// Run builds one platform.
func (b *Build) Run(ctx context.Context, p platform.Platform) (*Result, error) {
	tried := map[*Node]int{}
	var lost []string
	for {
		n, native := b.pick(p, tried)
		if n == nil {
			return nil, b.nowhere(p, lost)
		}
		tried[n]++
		n.busy.Add(1)
		r, err := b.solve(ctx, n, p, !native && !b.isForeign(p))
		n.busy.Add(-1)
		var other *elsewhere
		switch {
		case err == nil:
			return r, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &other):
			b.mu.Lock()
			b.foreign[p] = other.seen
			b.mu.Unlock()
			tried[n] = 0
			if !b.served(p) {
				return nil, b.nowhere(p, lost)
			}
		case b.isLost(ctx, n, err):
			lost = append(lost, n.Address+": "+plain(err))
			b.o.Event.Warn("", p.String(), fmt.Sprintf("PA143 the builder %s was lost in the middle: %s", n.Address, plain(err)))
		default:
			return nil, b.failure(n, p, err)
		}
	}
}

func (b *Build) isForeign(p platform.Platform) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.foreign[p] != ""
}

// served reports whether some living node can run a platform's programs at all.
func (b *Build) served(p platform.Platform) bool {
	for _, n := range b.o.Nodes {
		if !n.dead.Load() && (n.runs(p) || n.emulates(p)) {
			return true
		}
	}
	return false
}

// attempts is how often one node may try one platform: a daemon that was restarted in
// the middle answers again.
const attempts = 2

// pick chooses the node for a platform. native says that the node runs the platform's
// programs; if it doesn't, the build has to be one in which none of them is run, unless
// it is known that there are some and an emulator is all there is.
func (b *Build) pick(p platform.Platform, tried map[*Node]int) (n *Node, native bool) {
	usable := func(n *Node) bool { return !n.dead.Load() && tried[n] < attempts }
	foreign := b.isForeign(p)
	if !foreign {
		// Cross compilers and COPY are at home everywhere: on the first node that is left.
		for _, n := range b.o.Nodes {
			if usable(n) {
				return n, n.runs(p)
			}
		}
		return nil, false
	}
	for _, m := range b.o.Nodes {
		if usable(m) && m.runs(p) && (n == nil || m.busy.Load() < n.busy.Load()) {
			n = m
		}
	}
	if n != nil {
		return n, true
	}
	for _, n := range b.o.Nodes {
		if usable(n) && n.emulates(p) {
			b.warn(p, fmt.Sprintf("%s is emulated on %s, which takes many times as long", p, n.Address))
			return n, false
		}
	}
	return nil, false
}

func (b *Build) warn(p platform.Platform, text string) {
	if _, shown := b.warnings.LoadOrStore(text, true); !shown {
		b.o.Event.Warn("", p.String(), text)
	}
}

// nowhere is the refusal where no node is left for a platform.
func (b *Build) nowhere(p platform.Platform, lost []string) error {
	if len(lost) > 0 {
		return &refusal.Error{Code: "PA143", Kind: refusal.Unavailable, Platform: p.String(), Place: b.o.Dockerfile,
			Summary: "the builders were lost, and none is left that can build this platform", Seen: lost,
			Fix: []string{"anyarch publish --builder ADDRESS --builder OTHER …"}}
	}
	b.mu.Lock()
	seen := b.foreign[p]
	b.mu.Unlock()
	r := &refusal.Error{Code: "PA142", Kind: refusal.Failed, Platform: p.String(), Place: b.o.Dockerfile,
		Summary: "no builder runs programs of this platform",
		Fix:     []string{"--pin-builders", "anyarch fix " + b.o.Dockerfile, "--builder ssh://user@host=" + p.String()}}
	if place, what, ok := strings.Cut(seen, "\t"); ok {
		r.Place = place
		r.Seen = append(r.Seen, what)
	} else if seen != "" {
		r.Seen = append(r.Seen, seen)
	}
	for _, n := range b.o.Nodes {
		r.Seen = append(r.Seen, n.Address+" runs "+platform.Names(n.Native))
	}
	return r
}

// foreignStep finds the first instruction that runs a program which the node's machine
// doesn't run by itself, as place, tab and name.
func (b *Build) foreignStep(n *Node, d *llb.Definition) (string, error) {
	for _, raw := range d.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			return "", err
		}
		exec := op.GetExec()
		if exec == nil || op.Platform == nil {
			continue
		}
		p := platform.FromOCI(&ocispec.Platform{OS: op.Platform.OS, Architecture: op.Platform.Architecture, Variant: op.Platform.Variant})
		if n.runs(p) {
			continue
		}
		place := b.o.Dockerfile
		name := strings.Join(exec.Meta.Args, " ")
		if at := locate(d, raw); at > 0 {
			place = fmt.Sprintf("%s:%d", place, at)
		}
		return place + "\t" + name, nil
	}
	return "", nil
}
