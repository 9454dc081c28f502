package solve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Plan is what is to be installed.
type Plan struct {
	// Steps are the packages to install, in an order to configure them in: what a
	// package depends on comes before it. Where packages depend on each other in a
	// circle, one comes first that no other of them has in its Pre-Depends, by name.
	Steps []Step
	// Asked are the names that were asked for, virtual packages replaced; they count
	// as installed by hand.
	Asked []string
	// KeptBack are newer versions of installed packages that an upgrade leaves out.
	KeptBack []*Package
	// Notes are lines that apt-get prints.
	Notes []string
}

// Step is a package to install.
type Step struct {
	*Package
	Old  *Package // the version that is installed; nil for a new package
	Auto bool     // it is new, and nobody has asked for it
}

// Action is one thing to do with a package, for dpkg.
type Action struct {
	Step
	Configure bool // else it is unpacked
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

func byName(a, b *Package) int { return strings.Compare(a.Name, b.Name) }

func byEntry(a, b *entry) int { return strings.Compare(a.name, b.name) }

// maxRepairs bounds how often packages are repaired that others have broken.
const maxRepairs = 10

// repair upgrades installed packages that what is planned has broken, and installs what
// they lack. An attempt that leaves more broken than before, or removes something, is
// taken back. It is a small part of what the problem resolver of apt does.
func (m *marking) repair() error {
	before, err := m.brokenEntries()
	for range maxRepairs {
		if err != nil || len(before) == 0 {
			return err
		}
		progress := false
		for _, e := range before {
			if m.state(e).current == nil {
				continue
			}
			saved := m.snapshot()
			// A candidate that can't be is forgotten the first time.
			for range 2 {
				ok, err := m.mark(e, request{dependencies: true})
				if err != nil {
					return err
				}
				if ok {
					break
				}
			}
			after, err := m.brokenEntries()
			if err != nil {
				return err
			}
			if len(after) >= len(before) || m.removes() {
				m.restore(saved)
				continue
			}
			before, progress = after, true
			break
		}
		if !progress {
			return nil
		}
	}
	return nil
}

// brokenEntries are the names that don't go together with the others, sorted.
func (m *marking) brokenEntries() ([]*entry, error) {
	var list []*entry
	for _, e := range m.all() {
		bad, err := m.broken(m.planned(e), false)
		if err != nil {
			return nil, err
		}
		if len(bad) > 0 {
			list = append(list, e)
		}
	}
	return list, nil
}

func (m *marking) removes() bool {
	for _, s := range m.states {
		if s.mode == remove {
			return true
		}
	}
	return false
}

func (m *marking) snapshot() map[*entry]state {
	all := make(map[*entry]state, len(m.states))
	for e, s := range m.states {
		all[e] = *s
	}
	return all
}

func (m *marking) restore(all map[*entry]state) {
	for e, s := range m.states {
		if before, ok := all[e]; ok {
			*s = before
		} else {
			*s = state{entry: e, candidate: e.best(), install: e.current}
		}
	}
}

// plan makes sure that all goes together, and puts it in order.
func (m *marking) plan(plan *Plan, o Options) (*Plan, error) {
	text, err := m.unmet(m.planned, "to be installed")
	if err != nil {
		return nil, err
	}
	if text != "" && m.wasBroken != "" {
		return nil, &UnmetError{text, tryToFix}
	}
	if text != "" {
		return nil, &UnmetError{text, "Unable to correct problems, you have held broken packages."}
	}
	if err := m.sweep(); err != nil {
		return nil, err
	}
	var removed, downgraded, held []string
	var steps []Step
	for _, e := range m.all() {
		s := m.state(e)
		switch {
		case s.install == s.current:
			continue
		case s.install == nil:
			removed = append(removed, e.name)
			continue
		case s.current == nil:
		case s.current.Hold:
			held = append(held, e.name)
		case s.install.Version.Compare(s.current.Version) < 0:
			downgraded = append(downgraded, e.name)
		}
		steps = append(steps, Step{Package: s.install, Old: s.current, Auto: s.auto && s.current == nil})
	}
	switch {
	case len(removed) > 0:
		return nil, &RemovalError{removed}
	case len(downgraded) > 0 && !o.AllowDowngrades:
		//lint:ignore ST1005 the words of apt
		return nil, fmt.Errorf("Packages were downgraded and -y was used without --allow-downgrades: %s", strings.Join(downgraded, " "))
	case len(held) > 0 && !o.AllowHeld:
		//lint:ignore ST1005 the words of apt
		return nil, fmt.Errorf("Held packages were changed and -y was used without --allow-change-held-packages: %s", strings.Join(held, " "))
	}
	g, err := m.graph(steps)
	if err != nil {
		return nil, err
	}
	for _, n := range g.order() {
		plan.Steps = append(plan.Steps, n.step)
	}
	return plan, nil
}

// sweep takes back new packages that nobody has asked for and nothing needs,
// recommends or suggests: what is left of attempts that came to nothing.
func (m *marking) sweep() error {
	wanted := map[*Package]bool{}
	var follow func(p *Package) error
	follow = func(p *Package) error {
		if p == nil || wanted[p] {
			return nil
		}
		wanted[p] = true
		list, err := m.u.wants(p)
		if err != nil {
			return err
		}
		for i := range list {
			d := &list[i]
			for j := range d.any {
				if d.kind.negative() {
					continue
				}
				met, err := m.u.matching(d, &d.any[j], m.planned)
				if err != nil {
					return err
				}
				for _, q := range met {
					if err := follow(q); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	all := m.all()
	for _, e := range all {
		if s := m.state(e); s.current != nil || !s.auto {
			if err := follow(s.install); err != nil {
				return err
			}
		}
	}
	for _, e := range all {
		if s := m.state(e); s.install != nil && !wanted[s.install] {
			s.mode, s.install = keep, s.current
		}
	}
	return nil
}

// node is a step with the others that have to come before it.
type node struct {
	step Step
	pre  []*node // those in its Pre-Depends
	all  []*node // those in its Depends too
	// first are those that must be unpacked before it, so that it doesn't conflict
	// with their old versions.
	first []*node
}

type graph []*node

// graph finds out which steps need others. They are sorted by name.
func (m *marking) graph(steps []Step) (graph, error) {
	nodes := map[*Package]*node{}
	var g graph
	for _, s := range steps {
		n := &node{step: s}
		nodes[s.Package] = n
		g = append(g, n)
	}
	for _, n := range g {
		list, err := m.u.wants(n.step.Package)
		if err != nil {
			return nil, err
		}
		for i := range list {
			if err := m.edges(n, &list[i], nodes); err != nil {
				return nil, err
			}
		}
		if n.step.Old == nil {
			continue
		}
		// What the old version has against a new package must be gone before that
		// is unpacked.
		if list, err = m.u.wants(n.step.Old); err != nil {
			return nil, err
		}
		for i := range list {
			d := &list[i]
			if d.kind != conflicts {
				continue
			}
			for j := range d.any {
				hit, err := m.u.matching(d, &d.any[j], m.planned)
				if err != nil {
					return nil, err
				}
				for _, p := range hit {
					if other := nodes[p]; other != nil && other != n {
						other.first = append(other.first, n)
					}
				}
			}
		}
	}
	return g, nil
}

// edges adds what a dependency says about the order.
func (m *marking) edges(n *node, d *dependency, nodes map[*Package]*node) error {
	switch d.kind {
	case conflicts:
		for i := range d.any {
			hit, err := m.u.matching(d, &d.any[i], installed)
			if err != nil {
				return err
			}
			for _, p := range hit {
				if other := nodes[m.state(p.entry).install]; other != nil && other != n {
					n.first = append(n.first, other)
				}
			}
		}
	case preDepends, depends:
		for i := range d.any {
			list, err := m.u.matching(d, &d.any[i], m.planned)
			if err != nil {
				return err
			}
			for _, p := range list {
				other := nodes[p]
				if other == nil || other == n {
					continue
				}
				if !slices.Contains(n.all, other) {
					n.all = append(n.all, other)
				}
				if d.kind == preDepends && !slices.Contains(n.pre, other) {
					n.pre = append(n.pre, other)
				}
			}
		}
	}
	return nil
}

// order puts the nodes in an order to configure them in: the strong components of the
// graph one after the other, and within one, after one of it has been freed of what it
// only Depends on, the same again.
func (g graph) order() []*node {
	needs := map[*node]map[*node]bool{}
	for _, n := range g {
		needs[n] = map[*node]bool{}
		for _, other := range n.all {
			needs[n][other] = true
		}
	}
	return sortNodes(g, needs)
}

func sortNodes(list []*node, needs map[*node]map[*node]bool) []*node {
	var out []*node
	for _, part := range components(list, needs) {
		if len(part) == 1 {
			out = append(out, part[0])
			continue
		}
		freed := pick(part)
		inner := map[*node]map[*node]bool{}
		cut := false
		for _, n := range part {
			inner[n] = map[*node]bool{}
			for other := range needs[n] {
				if !slices.Contains(part, other) {
					continue
				}
				if n == freed && !slices.Contains(n.pre, other) {
					cut = true
					continue
				}
				inner[n][other] = true
			}
		}
		if !cut {
			// It is a circle of Pre-Depends, which no order suits.
			clear(inner[freed])
		}
		out = append(out, sortNodes(part, inner)...)
	}
	return out
}

// pick chooses the node of a component that comes first: one that others Pre-Depend
// on, if there is one.
func pick(part []*node) *node {
	for _, n := range part {
		if slices.ContainsFunc(part, func(other *node) bool { return slices.Contains(other.pre, n) }) &&
			!slices.ContainsFunc(n.pre, func(other *node) bool { return slices.Contains(part, other) }) {
			return n
		}
	}
	return part[0]
}

// components gives the strong components, those that others need first (Tarjan), each
// in the order of the list.
func components(list []*node, needs map[*node]map[*node]bool) [][]*node {
	index, low := map[*node]int{}, map[*node]int{}
	on := map[*node]bool{}
	position := map[*node]int{}
	for i, n := range list {
		position[n] = i
	}
	var stack []*node
	var out [][]*node
	var visit func(n *node)
	visit = func(n *node) {
		index[n] = len(index) + 1
		low[n] = index[n]
		stack = append(stack, n)
		on[n] = true
		for _, other := range list {
			if !needs[n][other] {
				continue
			}
			if index[other] == 0 {
				visit(other)
				low[n] = min(low[n], low[other])
			} else if on[other] {
				low[n] = min(low[n], index[other])
			}
		}
		if low[n] != index[n] {
			return
		}
		at := slices.Index(stack, n)
		part := slices.Clone(stack[at:])
		stack = stack[:at]
		for _, p := range part {
			on[p] = false
		}
		slices.SortFunc(part, func(a, b *node) int { return position[a] - position[b] })
		out = append(out, part)
	}
	for _, n := range list {
		if index[n] == 0 {
			visit(n)
		}
	}
	return out
}

// Actions are what dpkg has to do, in order: all is unpacked, but what something
// Pre-Depends on is configured before that is unpacked, and then the rest is
// configured in the order of the steps. The plan must come of this universe.
func (u *Universe) Actions(p *Plan) ([]Action, error) {
	m, err := u.marking(false)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Steps {
		m.state(s.entry).install = s.Package
	}
	steps := slices.Clone(p.Steps)
	g, err := m.graph(steps)
	if err != nil {
		return nil, err
	}
	a := actions{unpacked: map[*node]int{}, configured: map[*node]int{}}
	for _, n := range g {
		if err := a.unpack(n); err != nil {
			return nil, err
		}
	}
	for _, n := range g {
		if err := a.configure(n); err != nil {
			return nil, err
		}
	}
	return a.list, nil
}

// actions are those so far. The numbers are 1 while something is being done and 2 when
// it is.
type actions struct {
	list                 []Action
	unpacked, configured map[*node]int
}

var errPreDepends = errors.New("they pre-depend on each other in a circle")

func (a *actions) unpack(n *node) error {
	if a.unpacked[n] > 0 {
		return nil
	}
	a.unpacked[n] = 1
	for _, other := range n.first {
		if err := a.unpack(other); err != nil {
			return err
		}
	}
	for _, other := range n.pre {
		if err := a.configure(other); err != nil {
			return err
		}
		if a.configured[other] < 2 {
			return fmt.Errorf("%s and %s can't be installed: %w", n.step.Name, other.step.Name, errPreDepends)
		}
	}
	a.unpacked[n] = 2
	a.list = append(a.list, Action{Step: n.step})
	return nil
}

// configure configures a package after what it depends on. In a circle of Depends, one
// that is being waited for must be unpacked at least.
func (a *actions) configure(n *node) error {
	if a.configured[n] > 0 {
		return nil
	}
	a.configured[n] = 1
	if err := a.unpack(n); err != nil {
		return err
	}
	if a.unpacked[n] < 2 {
		a.configured[n] = 0
		return nil
	}
	for _, other := range n.all {
		if a.configured[other] == 1 {
			if err := a.unpack(other); err != nil {
				return err
			}
			continue
		}
		if err := a.configure(other); err != nil {
			return err
		}
	}
	a.configured[n] = 2
	a.list = append(a.list, Action{Step: n.step, Configure: true})
	return nil
}
