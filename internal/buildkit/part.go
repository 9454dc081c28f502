package buildkit

import (
	"slices"

	"github.com/anyarch/anyarch/internal/platform"
)

// part is a result that another node makes than the one that makes the image: most
// often of a stage that cross-compiles.
type part struct {
	result
	reads []read // of it, by what makes the image
	node  *Node
}

// parts takes a graph apart: results that are only read, for which programs run that
// another node runs by itself, are made there. What is left is what the image stands on,
// and everything that can't be had in another way; need are the platforms of the
// programs that run for that.
//
// A part goes to the first of the nodes, in the order of its user, that runs all of its
// programs by itself. A result without programs is none: copying and pulling are done
// where the files are wanted. Neither is a stage that stands on an image of which all
// files are read: moving a toolchain costs more than running it.
func (g *graph) parts(nodes []*Node) (parts []*part, need []platform.Platform) {
	if g.result.op == "" {
		return nil, nil
	}
	kept := map[string]bool{}
	reads := map[result][]read{}
	var order []result
	var keep func(id string)
	keep = func(id string) {
		if kept[id] {
			return
		}
		kept[id] = true
		if p, ok := g.runs(id); ok && !slices.Contains(need, p) {
			need = append(need, p)
		}
		for i, list := range g.reads(id) {
			in := g.ops[id].Inputs[i]
			if list == nil {
				keep(in.Digest)
				continue
			}
			r := result{in.Digest, in.Index}
			if reads[r] == nil {
				order = append(order, r)
			}
			reads[r] = append(reads[r], list...)
		}
	}
	home := map[result]*Node{}
	find := func(r result) *Node {
		if n, known := home[r]; known {
			return n
		}
		home[r] = nil
		if programs := g.programs(r.op); len(programs) > 0 {
			for _, n := range nodes {
				if n.runsAll(programs) {
					home[r] = n
					break
				}
			}
		}
		return home[r]
	}
	keep(g.result.op)
	for again := true; again; {
		again = false
		for i := 0; i < len(order); i++ { // it grows
			r := order[i]
			if kept[r.op] {
				continue
			}
			if find(r) == nil || slices.ContainsFunc(reads[r], read.all) && g.onImage(r.op) {
				keep(r.op)
				again = true
			}
		}
	}
	for _, r := range order {
		if !kept[r.op] {
			parts = append(parts, &part{result: r, reads: reads[r], node: find(r)})
		}
	}
	return parts, need
}

// assignment says who builds a platform.
type assignment struct {
	node *Node
	// parts are made by others first and handed over; with none the node's own front end
	// reads the Dockerfile.
	parts    []*part
	emulated bool
}

// assign chooses who builds the platform of a graph in which programs run that the first
// node doesn't run by itself. usable are the living nodes in the order of their user. No
// node comes out where none is left that could.
//
// Of several machines that run the programs by themselves the least busy one is taken;
// an emulator is all right where there is no such machine.
func assign(g *graph, p platform.Platform, usable []*Node, apart bool) assignment {
	var parts []*part
	var need []platform.Platform
	if apart {
		parts, need = g.parts(usable)
	}
	idle := func(able func(*Node) bool) *Node {
		var best *Node
		for _, n := range usable {
			if able(n) && (best == nil || n.busy.Load() < best.busy.Load()) {
				best = n
			}
		}
		return best
	}
	others := func(n *Node) []*part {
		return slices.DeleteFunc(slices.Clone(parts), func(c *part) bool { return n == nil || c.node == n })
	}
	// What is left without a program that its node doesn't run stays with the others.
	if n := idle(func(n *Node) bool { return n.runsAll(need) && n.runs(p) }); len(others(n)) > 0 {
		return assignment{node: n, parts: others(n)}
	}
	if n := idle(func(n *Node) bool { return n.runsAll(need) }); len(others(n)) > 0 {
		return assignment{node: n, parts: others(n)}
	}
	if n := idle(func(n *Node) bool { return n.runs(p) }); n != nil {
		return assignment{node: n}
	}
	emulates := func(n *Node) bool {
		return !slices.ContainsFunc(need, func(q platform.Platform) bool { return !n.runs(q) && !n.emulates(q) })
	}
	for _, n := range usable {
		if emulates(n) && n.emulates(p) {
			return assignment{node: n, parts: others(n), emulated: true}
		}
	}
	for _, n := range usable {
		if n.emulates(p) {
			return assignment{node: n, emulated: true}
		}
	}
	return assignment{}
}

// runsAll reports whether the machine runs programs of all these platforms by itself.
func (n *Node) runsAll(list []platform.Platform) bool {
	return !slices.ContainsFunc(list, func(p platform.Platform) bool { return !n.runs(p) })
}
