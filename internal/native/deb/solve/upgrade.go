package solve

import "slices"

// Upgrade finds what "apt-get upgrade" would upgrade: everything that can be without
// new packages and without removals. What can't is in KeptBack of the plan. With
// newPackages it is "apt upgrade", or "apt-get upgrade --with-new-pkgs", which
// installs what the upgrades need.
func (u *Universe) Upgrade(newPackages bool, o Options) (*Plan, error) {
	m, err := u.marking(o.Recommends)
	if err != nil {
		return nil, err
	}
	if err := m.sound(); err != nil {
		return nil, err
	}
	for _, e := range m.current {
		if e.current.Hold {
			continue
		}
		if _, err := m.mark(e, request{}); err != nil {
			return nil, err
		}
	}
	if newPackages {
		if err := m.withNew(); err != nil {
			return nil, err
		}
	}
	if err := m.keepBroken(); err != nil {
		return nil, err
	}
	plan := &Plan{}
	for _, e := range m.current {
		if best := e.best(); m.state(e).install == e.current && best != nil && best.Version.Compare(e.current.Version) > 0 {
			plan.KeptBack = append(plan.KeptBack, best)
		}
	}
	slices.SortFunc(plan.KeptBack, byName)
	return m.plan(plan, o)
}

// withNew installs what upgrades need. What would be removed for that stays; what
// doesn't go together then is dealt with later, and may leave new packages behind
// that nothing needs, as in apt.
func (m *marking) withNew() error {
	for _, e := range m.current {
		if m.state(e).mode != install {
			continue
		}
		if _, err := m.mark(e, request{dependencies: true}); err != nil {
			return err
		}
	}
	for _, s := range m.states {
		if s.mode == remove {
			s.keepIt(0)
		}
	}
	return nil
}

// keepBroken takes upgrades back until all goes together: that of a package which
// lacks something, and where it is another's upgrade that takes something away, that
// one.
func (m *marking) keepBroken() error {
	for changed := true; changed; {
		changed = false
		for _, e := range m.all() {
			s := m.state(e)
			bad, worse, err := m.worse(s)
			if err != nil {
				return err
			}
			if len(bad) == 0 && !worse {
				continue
			}
			if s.install != s.current {
				s.mode, s.install = keep, s.current
				changed = true
				if bad, _, err = m.worse(s); err != nil {
					return err
				}
			}
			for _, d := range bad {
				if err := m.undo(d, &changed); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// worse gives what a package lacks, and whether it lacks something that it recommends
// where the installed version has all of that: apt keeps such an upgrade back.
func (m *marking) worse(s *state) (bad []*dependency, worse bool, err error) {
	if bad, err = m.broken(s.install, false); err != nil {
		return nil, false, err
	}
	now, err := m.broken(s.install, true)
	if err != nil || len(now) == len(bad) || s.install == s.current {
		return bad, false, err
	}
	if s.current == nil {
		return bad, true, nil
	}
	list, err := m.u.wants(s.current)
	if err != nil {
		return nil, false, err
	}
	for i := range list {
		if d := &list[i]; m.important(d) {
			if ok, err := m.satisfied(d, installed); err != nil || !ok {
				return bad, false, err
			}
		}
	}
	return bad, true, nil
}

// all are the names that are installed or marked, in the order of names.
func (m *marking) all() []*entry {
	var list []*entry
	for e := range m.states {
		list = append(list, e)
	}
	for _, e := range m.current {
		if m.states[e] == nil {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return byEntry(a, b) })
	return list
}

// undo takes back the upgrades of the packages that a dependency is about.
func (m *marking) undo(d *dependency, changed *bool) error {
	if ok, err := m.satisfied(d, m.planned); ok || err != nil {
		return err
	}
	for i := range d.any {
		r := &d.any[i]
		touched := append([]*Package(nil), m.u.providers[r.Name]...)
		if e := m.u.entries[r.Name]; e != nil {
			touched = append(touched, e.versions...)
		}
		for _, p := range touched {
			s := m.state(p.entry)
			if s.install == s.current {
				continue
			}
			s.mode, s.install = keep, s.current
			*changed = true
			if ok, err := m.satisfied(d, m.planned); ok || err != nil {
				return err
			}
		}
	}
	return nil
}
