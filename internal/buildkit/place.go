package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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

// elsewhere ends a build on a node that doesn't run all of its programs by itself, before
// any of them is run.
type elsewhere struct{ plan *plan }

func (e *elsewhere) Error() string { return "programs of another platform run: " + e.plan.seen }

// attempts is how often one node may try one platform: a daemon that was restarted in
// the middle answers again.
const attempts = 2

// Run builds one platform.
//
// The first living node reads the Dockerfile. If it runs all programs of that by itself
// it builds the image; else [assign] says who makes what.
func (b *Build) Run(ctx context.Context, p platform.Platform) (*Result, error) {
	tried := map[*Node]int{}
	var d *plan // known once the first node has read the Dockerfile and can't build it alone
	var lost []string
	for {
		usable := slices.DeleteFunc(slices.Clone(b.o.Nodes), func(n *Node) bool { return n.dead.Load() || tried[n] >= attempts })
		var a assignment
		switch {
		case d != nil:
			// An attestation is to tell how everything was made, and a policy of sources
			// knows nothing of what is handed over.
			a = assign(d.graph, p, usable, len(b.o.Attest) == 0 && b.policy == nil && !d.together)
		case len(usable) > 0:
			a.node = usable[0]
		}
		if a.node == nil {
			return nil, b.nowhere(p, d, lost)
		}
		if a.emulated {
			b.warn(p, fmt.Sprintf("%s is emulated on %s, which takes many times as long", p, a.node.Address))
		}
		r, err := b.try(ctx, p, d, a)
		n := a.node
		if at := (*lostAt)(nil); errors.As(err, &at) {
			n = at.node
		}
		tried[n]++
		var other *elsewhere
		switch {
		case err == nil:
			return r, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &other):
			d = other.plan
			tried[n] = 0
		case errors.Is(err, errOlder):
			d.together = true
			tried[n] = 0
			b.warn(p, fmt.Sprintf("%s is older than %s and can't take over from it: no stage is handed over", n.Address, d.by.Address))
		case b.isLost(ctx, n, err):
			lost = append(lost, n.Address+": "+plain(err))
			b.o.Event.Warn("", p.String(), fmt.Sprintf("PA143 the builder %s was lost in the middle: %s", n.Address, plain(err)))
		default:
			return nil, b.failure(n, p, err)
		}
	}
}

func (b *Build) try(ctx context.Context, p platform.Platform, d *plan, a assignment) (*Result, error) {
	a.node.busy.Add(1)
	defer a.node.busy.Add(-1)
	if len(a.parts) > 0 {
		return b.solveParts(ctx, p, d, a)
	}
	return b.solve(ctx, a.node, p, d == nil)
}

func (b *Build) warn(p platform.Platform, text string) {
	if _, shown := b.warnings.LoadOrStore(text, true); !shown {
		b.o.Event.Warn("", p.String(), text)
	}
}

// nowhere is the refusal where no node is left for a platform.
func (b *Build) nowhere(p platform.Platform, d *plan, lost []string) error {
	if len(lost) > 0 {
		return &refusal.Error{Code: "PA143", Kind: refusal.Unavailable, Platform: p.String(), Place: b.o.Dockerfile,
			Summary: "the builders were lost, and none is left that can build this platform", Seen: lost,
			Fix: []string{"anyarch publish --builder ADDRESS --builder OTHER …"}}
	}
	r := &refusal.Error{Code: "PA142", Kind: refusal.Failed, Platform: p.String(), Place: b.o.Dockerfile,
		Summary: "no builder runs programs of this platform",
		Fix:     []string{"--pin-builders", "anyarch fix " + b.o.Dockerfile, "--builder ssh://user@host=" + p.String()}}
	if d != nil {
		place, what, _ := strings.Cut(d.seen, "\t")
		r.Place = place
		r.Seen = append(r.Seen, what)
	}
	for _, n := range b.o.Nodes {
		r.Seen = append(r.Seen, n.Address+" runs "+platform.Names(n.Native))
	}
	return r
}
