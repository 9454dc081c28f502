package solve

import (
	"cmp"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// mode is what is to happen to a package.
type mode int

const (
	keep mode = iota
	install
	remove
)

// state is what is to become of the packages of a name.
type state struct {
	*entry
	candidate *Package // what would be installed
	install   *Package // what is there in the end
	mode      mode
	protected bool // it is what somebody wants: nothing else may change it
	auto      bool // it is new, and nobody has asked for it
}

// marking is one question to a universe.
type marking struct {
	u          *Universe
	recommends bool
	states     map[*entry]*state
	current    []*entry // what is installed
	dependents map[string][]*dependency
	bySource   map[string][]*entry // what is installed, by the names of the source packages of its versions
	wasBroken  string              // what installed packages lack, as in an error
}

func (u *Universe) marking(recommends bool) (*marking, error) {
	m := &marking{u: u, recommends: recommends, states: map[*entry]*state{}, dependents: map[string][]*dependency{}, bySource: map[string][]*entry{}}
	for _, e := range u.order {
		if e.current == nil {
			continue
		}
		m.current = append(m.current, e)
		list, err := u.wants(e.current)
		if err != nil {
			return nil, err
		}
		for i := range list {
			for _, r := range list[i].any {
				if known := m.dependents[r.Name]; !slices.Contains(known, &list[i]) {
					m.dependents[r.Name] = append(known, &list[i])
				}
			}
		}
		for _, v := range e.versions {
			name, _ := v.source()
			if !slices.Contains(m.bySource[name], e) {
				m.bySource[name] = append(m.bySource[name], e)
			}
		}
	}
	return m, nil
}

// state gives that of a name, which starts as it is installed.
func (m *marking) state(e *entry) *state {
	s := m.states[e]
	if s == nil {
		s = &state{entry: e, candidate: e.best(), install: e.current}
		m.states[e] = s
	}
	return s
}

// best is the version that apt would install: the newest of those with the highest
// priority, but none older than what is installed unless its priority is high
// enough (apt_preferences(5)).
func (e *entry) best() *Package {
	var best *Package
	for _, v := range e.versions {
		if v.Priority <= 0 || best != nil && v.Priority <= best.Priority {
			continue
		}
		if e.current != nil && v.Priority < downgradePriority && v.Version.Compare(e.current.Version) < 0 {
			continue
		}
		best = v
	}
	return best
}

func (m *marking) planned(e *entry) *Package   { return m.state(e).install }
func (m *marking) candidate(e *entry) *Package { return m.state(e).candidate }
func installed(e *entry) *Package              { return e.current }

// important reports whether a dependency is followed.
func (m *marking) important(d *dependency) bool {
	return d.kind.critical() || m.recommends && d.kind == recommends
}

// satisfied reports whether a dependency is met by what is chosen.
func (m *marking) satisfied(d *dependency, chosen func(*entry) *Package) (bool, error) {
	for i := range d.any {
		list, err := m.u.matching(d, &d.any[i], chosen)
		if err != nil {
			return false, err
		}
		if len(list) > 0 {
			return !d.kind.negative(), nil
		}
	}
	return d.kind.negative(), nil
}

// broken lists what a package lacks, or has too much, of what is planned.
func (m *marking) broken(p *Package, important bool) ([]*dependency, error) {
	if p == nil {
		return nil, nil
	}
	list, err := m.u.wants(p)
	if err != nil {
		return nil, err
	}
	var bad []*dependency
	for i := range list {
		d := &list[i]
		if !d.kind.critical() && !(important && m.important(d)) {
			continue
		}
		ok, err := m.satisfied(d, m.planned)
		if err != nil {
			return nil, err
		}
		if !ok {
			bad = append(bad, d)
		}
	}
	return bad, nil
}

// maxDepth bounds how deep dependencies go.
const maxDepth = 3000

// mayChange reports whether something else than the user may set a mode.
func (s *state) mayChange(to mode, depth int) bool {
	switch {
	case depth > maxDepth:
		return false
	case s.mode == to:
		return true
	case s.protected:
		return false
	case to != keep && s.current != nil && s.current.Hold:
		return false
	case to == remove && s.current != nil && (yes(s.current, "Essential") || yes(s.current, "Protected") || yes(s.current, "Important")):
		return false
	}
	return true
}

func yes(p *Package, field string) bool { return strings.EqualFold(p.Control.Get(field), "yes") }

// set makes the candidate what is planned.
func (s *state) set(fromUser bool) {
	if s.protected && s.install == s.candidate {
		return
	}
	s.mode, s.install = install, s.candidate
	if s.current == nil {
		s.auto = !fromUser
	}
	if s.candidate == s.current {
		s.mode = keep
	}
}

// keepIt makes what is installed what is planned.
func (s *state) keepIt(depth int) bool {
	if !s.mayChange(keep, depth) {
		return false
	}
	s.mode, s.install = keep, s.current
	return true
}

// removeIt plans to have nothing of a name.
func (s *state) removeIt(depth int) bool {
	if !s.mayChange(remove, depth) {
		return false
	}
	s.mode, s.install = remove, nil
	if s.current == nil {
		s.mode = keep
	}
	return true
}

// discard takes back that a package is installed, and doesn't think of its candidate
// any more.
func (s *state) discard() {
	if s.mode == keep && s.install == s.candidate && s.candidate == s.current {
		return
	}
	s.mode, s.install = keep, s.current
	s.candidate = s.install
}

// request is how a package is marked.
type request struct {
	dependencies bool // mark them too
	fromUser     bool
	depth        int
}

// mark marks a package for installation, with what it needs. It reports whether that
// worked; what didn't may still be marked if the user wants it. The steps and
// their order are those of pkgDepCache::MarkInstall.
func (m *marking) mark(e *entry, r request) (bool, error) {
	s := m.state(e)
	// A package that stays as the user wants it is only here for its dependencies.
	staying := s.protected && s.mode == keep && s.candidate != nil && s.candidate == s.current
	if !staying && !r.fromUser && !s.mayChange(install, r.depth) {
		return false, nil
	}
	if s.candidate == nil || r.depth > maxDepth {
		return false, nil
	}
	if !s.protected {
		bad, err := m.broken(s.install, true)
		if err != nil {
			return false, err
		}
		if len(bad) == 0 {
			if s.candidate == s.current {
				if s.install == nil {
					return s.keepIt(r.depth), nil
				}
				return true, nil
			}
			if s.mode == install {
				return true, nil
			}
		}
	}
	if r.dependencies {
		ok, err := m.possible(s)
		if err != nil || !ok {
			return false, err
		}
	}
	if r.fromUser {
		s.set(true)
	}
	if !r.dependencies {
		if !r.fromUser {
			s.set(false)
		}
		return true, nil
	}
	return m.follow(s, r)
}

// possible reports whether all that the candidate needs is there or could be. One that
// can't ever be installed is forgotten.
func (m *marking) possible(s *state) (bool, error) {
	if s.candidate == s.current {
		return true, nil
	}
	list, err := m.u.wants(s.candidate)
	if err != nil {
		return false, err
	}
	for i := range list {
		d := &list[i]
		if !d.kind.critical() || d.kind.negative() {
			continue
		}
		for _, chosen := range []func(*entry) *Package{m.planned, m.candidate} {
			if ok, err := m.satisfied(d, chosen); err != nil {
				return false, err
			} else if ok {
				d = nil
				break
			}
		}
		if d == nil {
			continue
		}
		if !s.protected {
			s.candidate = s.current
			if s.mode != remove {
				s.mode = keep
			}
		}
		return false, nil
	}
	return true, nil
}

// follow marks a package and what it needs.
func (m *marking) follow(s *state, r request) (bool, error) {
	failEarly := !s.protected && !r.fromUser
	f := &following{m: m, s: s, propagate: s.protected, fromUser: r.fromUser, depth: r.depth}
	failed := false
	for _, step := range []func() (bool, error){f.collect, f.conflicts, f.dependents} {
		ok, err := step()
		if err != nil || !ok && failEarly {
			return false, err
		}
		failed = failed || !ok
	}
	if !r.fromUser {
		s.set(false)
	}
	// Nothing that follows may take it away again.
	s.protected = true
	defer func() { s.protected = f.propagate }()
	if err := f.siblings(); err != nil {
		return false, err
	}
	for _, step := range []func() (bool, error){f.upgrade, f.install, f.remove} {
		ok, err := step()
		if err != nil {
			return false, err
		}
		if !ok && failEarly {
			s.discard()
			return false, nil
		}
		failed = failed || !ok
	}
	return !failed, nil
}

// following is what one package drags along.
type following struct {
	m         *marking
	s         *state
	propagate bool // the package is protected: what only it can have is too
	fromUser  bool
	depth     int

	wanted    []*dependency
	unwanted  []*dependency
	toUpgrade []*entry
	toRemove  []*entry
}

// early reports whether a failure ends a step: for the user all is tried.
func (f *following) early() bool { return !f.propagate && !f.fromUser }

// collect sorts the dependencies that aren't met.
func (f *following) collect() (bool, error) {
	list, err := f.m.u.wants(f.s.candidate)
	if err != nil {
		return false, err
	}
	for i := range list {
		d := &list[i]
		ok, err := f.m.satisfied(d, f.m.planned)
		if err != nil {
			return false, err
		}
		if ok && !f.propagate || !f.m.important(d) {
			continue
		}
		if d.kind.negative() {
			f.unwanted = append(f.unwanted, d)
		} else {
			f.wanted = append(f.wanted, d)
		}
	}
	return true, nil
}

// conflicts deals with what the package has something against: what isn't installed
// must not be, what is has to be upgraded, or removed.
func (f *following) conflicts() (bool, error) {
	m, ok := f.m, true
	var badCandidates []*entry
	for _, d := range f.unwanted {
		candidates, err := m.solutions(d, m.candidate)
		if err != nil {
			return false, err
		}
		for _, p := range candidates {
			s := m.state(p.entry)
			if s.candidate != p {
				continue
			}
			switch {
			case s.current == p:
				ok = f.drop(s) && ok
			case s.mode == install && !s.keepIt(f.depth):
				ok = false
			case f.propagate:
				s.candidate = s.install
				if s.current == nil {
					s.protected = true
				}
			default:
				badCandidates = append(badCandidates, p.entry)
			}
			if !ok && f.early() {
				return false, nil
			}
		}
		there, err := m.solutions(d, installed)
		if err != nil {
			return false, err
		}
		for _, p := range there {
			s := m.state(p.entry)
			switch {
			case s.candidate != p && s.candidate != nil && !slices.Contains(badCandidates, p.entry):
				f.toUpgrade = append(f.toUpgrade, p.entry)
			case s.candidate == s.current:
				// Done above.
			default:
				ok = f.drop(s) && ok
			}
			if !ok && f.early() {
				return false, nil
			}
		}
	}
	return ok, nil
}

// drop removes a package that an upgrade doesn't help, later or at once.
func (f *following) drop(s *state) bool {
	if !f.propagate {
		if s.mode == remove {
			return true
		}
		if !s.mayChange(remove, f.depth) {
			return false
		}
		f.toRemove = append(f.toRemove, s.entry)
		return true
	}
	if s.mode != remove && !s.removeIt(f.depth+1) {
		return false
	}
	s.candidate, s.protected = s.install, true
	return true
}

// dependents finds installed packages that need the version of the package that goes
// away: they have to be upgraded.
func (f *following) dependents() (bool, error) {
	current := f.s.current
	if current == nil {
		return true, nil
	}
	for _, d := range f.m.dependents[current.Name] {
		parent := f.m.state(d.of.entry)
		if parent.mode == install || !f.m.important(d) || d.kind.negative() || slices.Contains(f.toUpgrade, d.of.entry) {
			continue
		}
		for i := range d.any {
			r := &d.any[i]
			if f.m.u.meets(r, current) && !f.m.u.meets(r, f.s.candidate) {
				f.toUpgrade = append(f.toUpgrade, d.of.entry)
				break
			}
		}
	}
	return true, nil
}

// siblings upgrades the other installed packages that were built of the same source.
func (f *following) siblings() error {
	name, version := f.s.candidate.source()
	var list []*entry
	for _, e := range f.m.bySource[name] {
		s := f.m.state(e)
		if e == f.s.entry || s.candidate == nil || s.candidate == s.current || s.mode == install && s.install == s.candidate {
			continue
		}
		if n, v := s.candidate.source(); n == name && v == version {
			list = append(list, e)
		}
	}
	for _, dependencies := range []bool{false, true} {
		for _, e := range list {
			if _, err := f.m.mark(e, request{dependencies: dependencies, depth: f.depth + 1}); err != nil {
				return err
			}
		}
	}
	return nil
}

// upgrade marks what has to be upgraded; what can't be is removed.
func (f *following) upgrade() (bool, error) {
	ok := true
	for _, e := range f.toUpgrade {
		s := f.m.state(e)
		if s.mode == install {
			continue
		}
		done, err := f.m.mark(e, request{dependencies: true, depth: f.depth + 1})
		if err != nil {
			return false, err
		}
		switch {
		case done:
		case !s.removeIt(f.depth + 1):
			if ok = false; f.early() {
				return false, nil
			}
		case f.propagate:
			s.protected = true
		}
	}
	return ok, nil
}

// install marks what the package depends on and recommends.
func (f *following) install() (bool, error) {
	ok := true
	for _, d := range f.wanted {
		done, err := f.one(d)
		if err != nil {
			return false, err
		}
		if !done && d.kind.critical() {
			if ok = false; f.early() {
				return false, nil
			}
		}
	}
	return ok, nil
}

// one marks one of the alternatives of a dependency.
func (f *following) one(d *dependency) (bool, error) {
	m := f.m
	met, err := m.satisfied(d, m.planned)
	if err != nil {
		return false, err
	}
	if met {
		if !f.propagate || !d.kind.critical() {
			return true, nil
		}
		return f.protectOnly(d)
	}
	if !d.kind.critical() && f.s.current != nil {
		// What an installed package recommends and hasn't got was not wanted.
		if follow, err := f.newRecommendation(d); err != nil || !follow {
			return true, err
		}
	}
	list, err := m.solutions(d, m.candidate)
	if err != nil {
		return false, err
	}
	for _, p := range list {
		s := m.state(p.entry)
		if s.candidate != p {
			continue
		}
		if f.propagate && d.kind.critical() && len(list) == 1 {
			ok, err := m.mark(p.entry, request{depth: f.depth + 1})
			if err != nil {
				return false, err
			}
			if !ok {
				continue
			}
			s.protected = true
		}
		ok, err := m.mark(p.entry, request{dependencies: true, depth: f.depth + 1})
		if err != nil {
			return false, err
		}
		if ok {
			return true, nil
		}
	}
	return false, nil
}

// protectOnly protects the package that meets a dependency if no other could.
func (f *following) protectOnly(d *dependency) (bool, error) {
	m := f.m
	var all []*Package
	for _, chosen := range []func(*entry) *Package{m.candidate, installed} {
		list, err := m.solutions(d, chosen)
		if err != nil {
			return false, err
		}
		for _, p := range list {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	if len(all) != 1 || m.state(all[0].entry).protected {
		return true, nil
	}
	m.state(all[0].entry).protected = true
	return m.mark(all[0].entry, request{dependencies: true, depth: f.depth + 1})
}

// newRecommendation reports whether an upgrade recommends something that the installed
// version didn't, or that was there.
func (f *following) newRecommendation(d *dependency) (bool, error) {
	old, err := f.m.u.wants(f.s.current)
	if err != nil {
		return false, err
	}
	known := false
	for i := range old {
		o := &old[i]
		if o.kind.critical() || !f.m.important(o) || !slices.ContainsFunc(o.any, func(r control.Relation) bool { return r.Name == d.any[0].Name }) {
			continue
		}
		known = true
		if had, err := f.m.satisfied(o, installed); err != nil || had {
			return had, err
		}
	}
	return !known, nil
}

// remove removes what could wait until now.
func (f *following) remove() (bool, error) {
	ok := true
	for _, e := range f.toRemove {
		ok = f.m.state(e).removeIt(f.depth) && ok
	}
	return ok, nil
}

// solutions lists the versions that meet a dependency among the chosen ones, those of
// installed packages first, and else in the order of the alternatives.
func (m *marking) solutions(d *dependency, chosen func(*entry) *Package) ([]*Package, error) {
	var here, others []*Package
	for i := range d.any {
		r := &d.any[i]
		list, err := m.u.matching(d, r, chosen)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(list, func(a, b *Package) int { return m.prefer(r, a, b) })
		for _, p := range list {
			if p.entry.current != nil {
				here = append(here, p)
			} else {
				others = append(others, p)
			}
		}
	}
	list := slices.Compact(append(here, others...))
	if d.kind.negative() {
		return list, nil
	}
	return slices.DeleteFunc(list, func(p *Package) bool {
		s := m.state(p.entry)
		return s.protected && (s.mode == remove || s.mode == keep && s.current == nil)
	}), nil
}

// prefer orders packages that meet the same relation.
func (m *marking) prefer(r *control.Relation, a, b *Package) int {
	first := func(x, y bool) int {
		switch {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	}
	return cmp.Or(
		first(m.state(a.entry).protected, m.state(b.entry).protected),
		first(a.entry.current != nil, b.entry.current != nil),
		first(a.Name == r.Name, b.Name == r.Name),
		first(yes(a, "Essential"), yes(b, "Essential")),
		first(yes(a, "Protected") || yes(a, "Important"), yes(b, "Protected") || yes(b, "Important")),
		cmp.Compare(rank(a), rank(b)),
		cmp.Compare(m.u.tie(b.Name), m.u.tie(a.Name)),
	)
}

// rank is that of the field Priority (Debian Policy 2.5): apt takes none for more than
// required, and one that it doesn't know for the least.
func rank(p *Package) int {
	switch strings.ToLower(p.Control.Get("Priority")) {
	case "":
		return 0
	case "required":
		return 1
	case "important":
		return 2
	case "standard":
		return 3
	case "optional":
		return 4
	}
	return 5
}
