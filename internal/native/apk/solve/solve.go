package solve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Package is one version of a package.
type Package struct {
	Name, Version, Arch, Origin, Checksum string // Checksum is that of the index: Q1…
	Depends                               []Dependency
	Provides                              []Provide
	InstallIf                             []Dependency
	Replaces                              []Dependency
	ReplacesPriority, ProviderPriority    int
	Size, InstalledSize                   int64 // bytes
	BuildTime                             int64 // seconds since 1970
	Repository                            int   // position in the list of repositories; -1 if none has it
	Tags                                  []string
	Untagged                              bool // a repository without a tag has it
	Installed                             bool
}

// Options say what may change beside what has to.
type Options struct {
	Upgrade    map[string]bool // packages whose newest version is wanted
	UpgradeAll bool
	Latest     bool // newest versions even of what tags hold back
}

// maxSteps bounds the search: real systems take a few hundred.
const maxSteps = 2_000_000

// Unsatisfiable lists what can't be had, as apk prints it.
type Unsatisfiable struct{ Problems []string }

func (u *Unsatisfiable) Error() string { return strings.Join(u.Problems, "\n") }

// provider is a package under one of its names.
type provider struct {
	p       *Package
	version string // of the name; empty: any number of packages may have it
	own     bool
}

// goal is a dependency that has to be met.
type goal struct {
	d    Dependency
	by   *Package // nil: the world
	tags []string // repositories that it may be met from, beside those without a tag
	// first says that it is chosen before those with less choice: they adapt to it.
	first bool
}

type solver struct {
	ctx         context.Context
	o           Options
	providers   map[string][]provider
	conditional []*Package // those with install_if
	steps       int

	chosen  map[string]*Package   // by name
	taken   map[string]*Package   // names with a version, which exclude each other
	names   map[string][]*Package // every name that something chosen has
	forbids []goal                // conflicts
	without map[*Package]bool     // left out of install_if

	depth   int
	problem []string // of the deepest attempt
}

// Solve chooses what meets the world. It keeps what is installed unless that is to
// be upgraded or can't stay, takes the newest versions of what is new, and gives
// packages before those that depend on them.
func Solve(ctx context.Context, universe []*Package, world []Dependency, o Options) ([]*Package, error) {
	s := &solver{ctx: ctx, o: o, providers: make(map[string][]provider, 2*len(universe)), without: map[*Package]bool{}}
	for _, p := range universe {
		s.providers[p.Name] = append(s.providers[p.Name], provider{p, p.Version, true})
		for _, v := range p.Provides {
			if v.Name != p.Name {
				s.providers[v.Name] = append(s.providers[v.Name], provider{p, v.Version, false})
			}
		}
		if len(p.InstallIf) > 0 {
			s.conditional = append(s.conditional, p)
		}
	}
	slices.SortFunc(s.conditional, func(a, b *Package) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), -Compare(a.Version, b.Version), cmp.Compare(a.Repository, b.Repository))
	})
	if problems := s.impossible(world); len(problems) > 0 {
		return nil, &Unsatisfiable{problems}
	}
	goals := make([]goal, 0, len(world))
	for _, d := range world {
		g := goal{d: d}
		if d.Tag != "" {
			g.tags = []string{d.Tag}
		}
		goals = append(goals, g)
	}
	solution, err := s.attempt(goals)
	if err != nil {
		return nil, err
	}
	if len(o.Upgrade) > 0 && !o.UpgradeAll {
		// What is to be upgraded is chosen first: a sibling that stays as it is would
		// hold it back otherwise.
		var first []goal
		for _, name := range slices.Sorted(maps.Keys(o.Upgrade)) {
			if solution.chosen[name] != nil {
				first = append(first, goal{d: Dependency{Name: name}, tags: solution.chosen[name].Tags, first: true})
			}
		}
		for _, g := range first {
			if slices.ContainsFunc(goals, func(have goal) bool { return have.d.Name == g.d.Name && have.d.Tag != "" }) {
				continue
			}
			if better, err := s.attempt(append([]goal{g}, goals...)); err == nil {
				solution = better
			} else if ctx.Err() != nil {
				return nil, err
			}
		}
		if len(first) > 1 {
			if better, err := s.attempt(append(first, goals...)); err == nil {
				solution = better
			}
		}
	}
	return solution.order(world), nil
}

// state is a solution.
type state struct {
	s       *solver
	chosen  map[string]*Package
	because []*Package // of install_if
}

func (s *solver) attempt(goals []goal) (*state, error) {
	s.chosen, s.taken, s.names = map[string]*Package{}, map[string]*Package{}, map[string][]*Package{}
	s.forbids, s.depth, s.problem, s.steps = nil, 0, nil, 0
	clear(s.without)
	var positive []goal
	for _, g := range goals {
		if g.d.Conflict {
			s.forbids = append(s.forbids, g)
		} else {
			positive = append(positive, g)
		}
	}
	if err := s.search(positive); err != nil {
		return nil, err
	}
	st := &state{s: s}
	for {
		p := s.wantedByCondition()
		if p == nil {
			break
		}
		before, forbids := maps.Clone(s.chosen), s.forbids
		taken, names := maps.Clone(s.taken), maps.Clone(s.names)
		err := s.add(p, positive)
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, errSteps) {
				return nil, err
			}
			s.chosen, s.forbids, s.taken, s.names = before, forbids, taken, names
			s.without[p] = true
			continue
		}
		st.because = append(st.because, p)
	}
	st.chosen = s.chosen
	return st, nil
}

var errSteps = errors.New("the dependencies are too entangled: no choice of packages was found in the time allowed")

// wantedByCondition gives a package all of whose install_if are chosen.
func (s *solver) wantedByCondition() *Package {
next:
	for _, p := range s.conditional {
		if s.without[p] || s.chosen[p.Name] != nil || !s.allowed(p, nil) {
			continue
		}
		for _, d := range p.InstallIf {
			if d.Conflict == s.met(d) {
				continue next
			}
		}
		// Of one name, what is installed or the newest comes first.
		best := p
		for _, other := range s.conditional {
			if other.Name == p.Name && !s.without[other] && s.allowed(other, nil) && s.better(provider{other, other.Version, true}, provider{best, best.Version, true}) < 0 {
				ok := true
				for _, d := range other.InstallIf {
					ok = ok && d.Conflict != s.met(d)
				}
				if ok {
					best = other
				}
			}
		}
		return best
	}
	return nil
}

// add chooses one more package, with what it needs.
func (s *solver) add(p *Package, _ []goal) error {
	undo, ok := s.choose(p, goal{d: Dependency{Name: p.Name}})
	if !ok {
		return &Unsatisfiable{s.problem}
	}
	if err := s.search(s.needs(p)); err != nil {
		undo()
		return err
	}
	return nil
}

func (s *solver) needs(p *Package) []goal {
	var list []goal
	var tags []string
	if !p.Untagged {
		tags = p.Tags
	}
	for _, d := range p.Depends {
		if !d.Conflict {
			list = append(list, goal{d: d, by: p, tags: tags})
		}
	}
	return list
}

// met reports whether something chosen meets a dependency.
func (s *solver) met(d Dependency) bool {
	for _, p := range s.names[d.Name] {
		if matches(p, d) {
			return true
		}
	}
	return false
}

// matches reports whether a package is what a dependency names, under any name.
func matches(p *Package, d Dependency) bool {
	if d.Op == Checksum {
		return p.Name == d.Name && p.Checksum == d.Version
	}
	if p.Name == d.Name && d.Matches(p.Version) {
		return true
	}
	for _, v := range p.Provides {
		if v.Name == d.Name && (d.Op == 0 || v.Version != "" && d.Matches(v.Version)) {
			return true
		}
	}
	return false
}

// allowed reports whether a package may be taken at all: from a repository without
// a tag, or with one that is asked for, or because it is there.
func (s *solver) allowed(p *Package, tags []string) bool {
	return p.Untagged || p.Installed || slices.ContainsFunc(p.Tags, func(t string) bool { return slices.Contains(tags, t) })
}

// candidates are the packages that meet a goal, the preferred one first. virtual
// says that there are some that may not be chosen for it, only be there.
func (s *solver) candidates(g goal) (list []provider, virtual bool) {
	for _, c := range s.providers[g.d.Name] {
		if !s.allowed(c.p, g.tags) || s.without[c.p] {
			continue
		}
		switch {
		case g.d.Op == Checksum:
			if !c.own || c.p.Checksum != g.d.Version {
				continue
			}
		case c.version == "":
			if g.d.Op != 0 {
				continue
			}
			// apk-package(5): of packages that provide a name without a version, one
			// is chosen only if it has a provider_priority.
			if c.p.ProviderPriority == 0 && !c.p.Installed {
				virtual = true
				continue
			}
		case !g.d.Matches(c.version):
			continue
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b provider) int {
		if g.d.Tag != "" {
			if c := boolean(slices.Contains(b.p.Tags, g.d.Tag)) - boolean(slices.Contains(a.p.Tags, g.d.Tag)); c != 0 {
				return c
			}
		} else if len(g.tags) > 0 {
			if c := boolean(b.p.Untagged) - boolean(a.p.Untagged); c != 0 {
				return c
			}
		}
		return s.better(a, b)
	})
	return list, virtual
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// better orders providers of one name, the preferred one first.
func (s *solver) better(a, b provider) int {
	upgrade := s.o.UpgradeAll || s.o.Upgrade[a.p.Name] && s.o.Upgrade[b.p.Name]
	if !upgrade {
		if c := boolean(b.p.Installed) - boolean(a.p.Installed); c != 0 {
			return c
		}
	}
	// Among different packages that are there or not, the one that is there stays:
	// an upgrade doesn't exchange providers.
	if a.p.Name != b.p.Name {
		here := func(p *Package) bool {
			return slices.ContainsFunc(s.providers[p.Name], func(q provider) bool { return q.own && q.p.Installed })
		}
		if c := boolean(here(b.p)) - boolean(here(a.p)); c != 0 {
			return c
		}
	}
	if a.version != "" && b.version != "" {
		if c := Compare(b.version, a.version); c != 0 {
			return c
		}
	}
	if a.p.Name == b.p.Name {
		if c := Compare(b.p.Version, a.p.Version); c != 0 {
			return c
		}
		if c := boolean(b.p.Installed) - boolean(a.p.Installed); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(b.p.ProviderPriority, a.p.ProviderPriority), boolean(b.own)-boolean(a.own),
		cmp.Compare(uint(a.p.Repository), uint(b.p.Repository)), strings.Compare(a.p.Name, b.p.Name))
}

// choose takes a package, unless something chosen excludes it.
func (s *solver) choose(p *Package, g goal) (undo func(), ok bool) {
	fail := func(format string, args ...any) (func(), bool) {
		if len(s.chosen) >= s.depth {
			if len(s.chosen) > s.depth {
				s.problem = nil
			}
			s.depth = len(s.chosen)
			text := fmt.Sprintf(format, args...)
			if !slices.Contains(s.problem, text) {
				s.problem = append(s.problem, text)
			}
		}
		return nil, false
	}
	if other := s.chosen[p.Name]; other != nil {
		return fail("%s: conflicts: %s, required by: %s", id(p), id(other), by(g))
	}
	exclusive := []string{p.Name}
	for _, v := range p.Provides {
		if v.Version != "" && !slices.Contains(exclusive, v.Name) {
			exclusive = append(exclusive, v.Name)
		}
	}
	for _, name := range exclusive {
		if other := s.taken[name]; other != nil {
			return fail("%s: conflicts: %s[%s]", id(p), id(other), name)
		}
	}
	for _, f := range s.forbids {
		if f.by != p && matches(p, f.d) {
			return fail("%s: breaks: %s", id(p), by(f))
		}
	}
	var conflicts []goal
	for _, d := range p.Depends {
		if !d.Conflict {
			continue
		}
		c := goal{d: d, by: p}
		for _, other := range s.names[d.Name] {
			if other != p && matches(other, d) {
				return fail("%s: conflicts: %s[!%s]", id(other), id(p), d.Name)
			}
		}
		conflicts = append(conflicts, c)
	}
	s.chosen[p.Name] = p
	for _, name := range exclusive {
		s.taken[name] = p
	}
	names := []string{p.Name}
	for _, v := range p.Provides {
		if !slices.Contains(names, v.Name) {
			names = append(names, v.Name)
		}
	}
	for _, name := range names {
		s.names[name] = append(slices.Clip(s.names[name]), p)
	}
	had := len(s.forbids)
	s.forbids = append(slices.Clip(s.forbids), conflicts...)
	return func() {
		delete(s.chosen, p.Name)
		for _, name := range exclusive {
			delete(s.taken, name)
		}
		for _, name := range names {
			s.names[name] = slices.DeleteFunc(slices.Clone(s.names[name]), func(q *Package) bool { return q == p })
		}
		s.forbids = s.forbids[:had]
	}, true
}

// search meets goals one after the other: those with the least choice first.
func (s *solver) search(goals []goal) error {
	if s.steps++; s.steps > maxSteps {
		return errSteps
	}
	if s.steps%1024 == 0 {
		if err := s.ctx.Err(); err != nil {
			return context.Cause(s.ctx)
		}
	}
	at, least := -1, 0
	var choice []provider
	late := -1 // a goal that only others' choices can meet
	rest := make([]goal, 0, len(goals))
	for _, g := range goals {
		if !s.met(g.d) {
			rest = append(rest, g)
		}
	}
	for i, g := range rest {
		list, virtual := s.candidates(g)
		if len(list) == 0 && virtual {
			late = i
			continue
		}
		n := 0
		for _, c := range list {
			if s.chosen[c.p.Name] == nil {
				n++
			}
		}
		// The first goal decides among equals, so that the world's order counts.
		if at < 0 || n < least && n <= 1 {
			at, least, choice = i, n, list
		}
		if n == 0 || g.first {
			break
		}
	}
	if at < 0 {
		if late < 0 {
			return nil
		}
		g := rest[late]
		var names []string
		for _, c := range s.providers[g.d.Name] {
			if !slices.Contains(names, c.p.Name) {
				names = append(names, c.p.Name)
			}
		}
		slices.Sort(names)
		s.note(fmt.Sprintf("%s (virtual): provided by: %s, required by: %s", g.d.Name, strings.Join(names, " "), by(g)))
		return &Unsatisfiable{s.problem}
	}
	g := rest[at]
	others := slices.Concat(rest[:at], rest[at+1:])
	if len(choice) == 0 || least == 0 {
		s.note(s.reason(g))
		return &Unsatisfiable{s.problem}
	}
	var last error = &Unsatisfiable{s.problem}
	for _, c := range choice {
		undo, ok := s.choose(c.p, g)
		if !ok {
			last = &Unsatisfiable{s.problem}
			continue
		}
		// What a package needs comes first: its pins bind what others may still choose.
		err := s.search(slices.Concat(s.needs(c.p), others))
		if err == nil {
			return nil
		}
		undo()
		var u *Unsatisfiable
		if !errors.As(err, &u) {
			return err
		}
		last = &Unsatisfiable{s.problem}
	}
	return last
}

// note keeps a problem if no attempt came further.
func (s *solver) note(text string) {
	if len(s.chosen) < s.depth {
		return
	}
	if len(s.chosen) > s.depth {
		s.problem = nil
	}
	s.depth = len(s.chosen)
	if !slices.Contains(s.problem, text) {
		s.problem = append(s.problem, text)
	}
}

// reason says why nothing meets a goal.
func (s *solver) reason(g goal) string {
	have := s.providers[g.d.Name]
	if len(have) == 0 {
		return fmt.Sprintf("%s (no such package): required by: %s", g.d.Name, by(g))
	}
	var lines []string
	for _, c := range have {
		if c.own && len(lines) < 3 {
			lines = append(lines, fmt.Sprintf("%s: breaks: %s", id(c.p), by(g)))
		}
	}
	if len(lines) == 0 {
		return fmt.Sprintf("%s: no version of it is %s, required by: %s", g.d.Name, g.d, by(g))
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// impossible finds what the world asks for and nobody has, all of it.
func (s *solver) impossible(world []Dependency) []string {
	var list []string
	for _, d := range world {
		if d.Conflict {
			continue
		}
		g := goal{d: d}
		if d.Tag != "" {
			g.tags = []string{d.Tag}
		}
		if c, virtual := s.candidates(g); len(c) == 0 && !virtual {
			list = append(list, s.reason(g))
		}
	}
	return list
}

func id(p *Package) string { return p.Name + "-" + p.Version }

// by says who has a goal: world[curl>=8], or git-2.1-r0[so:libz.so.1].
func by(g goal) string {
	if g.by == nil {
		return "world[" + g.d.String() + "]"
	}
	return id(g.by) + "[" + g.d.String() + "]"
}

// order puts packages behind what they depend on.
func (st *state) order(world []Dependency) []*Package {
	var list []*Package
	done := map[*Package]bool{}
	byName := map[string][]*Package{}
	for _, name := range slices.Sorted(maps.Keys(st.chosen)) {
		p := st.chosen[name]
		byName[p.Name] = append(byName[p.Name], p)
		for _, v := range p.Provides {
			if v.Name != p.Name {
				byName[v.Name] = append(byName[v.Name], p)
			}
		}
	}
	var visit func(p *Package)
	visitDependency := func(d Dependency) {
		if d.Conflict {
			return
		}
		for _, p := range byName[d.Name] {
			if matches(p, d) {
				visit(p)
			}
		}
	}
	visit = func(p *Package) {
		if done[p] {
			return
		}
		done[p] = true
		for _, d := range p.Depends {
			visitDependency(d)
		}
		for _, d := range p.InstallIf {
			visitDependency(d)
		}
		list = append(list, p)
	}
	for _, d := range world {
		visitDependency(d)
	}
	for _, name := range slices.Sorted(maps.Keys(st.chosen)) {
		visit(st.chosen[name])
	}
	return list
}
