package database

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// This file has the checks that dpkg makes before it unpacks or configures a
// package (Debian Policy 7.2 to 7.4). Who installs packages in a good order never
// fails them.

// meets reports whether a package is one that a relation names, by its own name.
func (d *Database) meets(r control.Relation, p *Package) bool {
	return r.Name == p.Name && r.Satisfied(p.Version) && d.onArch(r, p)
}

// provides reports whether a package provides what a relation names.
func (d *Database) provides(r control.Relation, p *Package) (bool, error) {
	list, err := p.relation("Provides")
	if err != nil {
		return false, err
	}
	for _, alternatives := range list {
		for _, v := range alternatives {
			// A version is only met by a Provides with a version (Policy 7.5).
			if v.Name == r.Name && d.onArch(r, p) && (r.Operator == control.Any || v.Operator == control.Exactly && r.Satisfied(control.LaxVersion(v.Version))) {
				return true, nil
			}
		}
	}
	return false, nil
}

// onArch reports whether the architecture of a package is what a relation asks for.
func (d *Database) onArch(r control.Relation, p *Package) bool {
	switch r.Arch {
	case "":
		return p.Architecture == "all" || d.architecture == "" || p.Architecture == d.architecture || p.MultiArch == "foreign"
	case "any":
		return p.MultiArch == "allowed"
	}
	return p.Architecture == r.Arch || p.Architecture == "all" && r.Arch == d.architecture
}

// satisfiers are the packages that meet one of the alternatives, in any state.
func (d *Database) satisfiers(alternatives control.Alternatives) ([]*Package, error) {
	var list []*Package
	for _, r := range alternatives {
		for _, p := range d.packages[r.Name] {
			if d.meets(r, p) {
				list = append(list, p)
			}
		}
		if err := d.loadProviders(); err != nil {
			return nil, err
		}
		for _, p := range d.providers[r.Name] {
			ok, err := d.provides(r, p)
			if err != nil {
				return nil, err
			}
			if ok && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list, nil
}

// loadProviders finds what all packages Provide.
func (d *Database) loadProviders() error {
	if d.providers != nil {
		return nil
	}
	d.providers = map[string][]*Package{}
	for _, p := range d.sorted() {
		list, err := p.relation("Provides")
		if err != nil {
			return err
		}
		for _, alternatives := range list {
			for _, r := range alternatives {
				if known := d.providers[r.Name]; !slices.Contains(known, p) {
					d.providers[r.Name] = append(known, p)
				}
			}
		}
	}
	return nil
}

// checkUnpack makes sure that a package may be unpacked: its Pre-Depends are there,
// and nothing conflicts with it. It gives the packages that it breaks, which are not
// configured any more when it is unpacked.
func (d *Database) checkUnpack(a *archive.Package, next *Package) ([]*Package, error) {
	preDepends, err := next.relation("Pre-Depends")
	if err != nil {
		return nil, err
	}
	for _, alternatives := range preDepends {
		list, err := d.satisfiers(alternatives)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(list, func(p *Package) bool { return d.usable(p, alternatives) }) {
			return nil, fmt.Errorf("pre-dependency problem: %s pre-depends on %s", a.Name, alternatives)
		}
	}
	broken := map[*Package]bool{}
	for _, p := range d.Installed() {
		if p.Name == next.Name {
			continue
		}
		for _, c := range []struct {
			field   string
			by, of  *Package
			problem string
		}{
			{"Conflicts", next, p, "%s conflicts with %s"},
			{"Conflicts", p, next, "%s conflicts with %s"},
			{"Breaks", next, p, ""},
		} {
			alternatives, err := d.against(c.by, c.field, c.of)
			if err != nil {
				return nil, err
			}
			switch {
			case alternatives == nil:
			case c.problem == "":
				broken[p] = true
			default:
				return nil, fmt.Errorf("conflicting packages: "+c.problem+"; %s (%s) is %s", c.by.Name, alternatives, p.Name, p.Version, p.State)
			}
		}
	}
	return slices.DeleteFunc(d.sorted(), func(p *Package) bool { return !broken[p] }), nil
}

// usable reports whether a package can be counted on before another one is
// unpacked: it is configured, or was in a version that does as well.
func (d *Database) usable(p *Package, alternatives control.Alternatives) bool {
	if p.State == Installed || p.State == TriggersPending || p.State == TriggersAwaited {
		return true
	}
	if p.State != Unpacked && p.State != HalfConfigured || p.ConfigVersion.IsZero() {
		return false
	}
	return slices.ContainsFunc(alternatives, func(r control.Relation) bool { return r.Name != p.Name || r.Satisfied(p.ConfigVersion) })
}

// against finds what Conflicts or Breaks of a package has against another one; nil
// if nothing.
func (d *Database) against(by *Package, field string, of *Package) (control.Alternatives, error) {
	list, err := by.relation(field)
	if err != nil {
		return nil, err
	}
	for _, alternatives := range list {
		for _, r := range alternatives {
			if r.Arch == "" {
				r.Arch = of.Architecture
			}
			hit := r.Name == of.Name && r.Satisfied(of.Version)
			if !hit {
				if hit, err = d.provides(r, of); err != nil {
					return nil, err
				}
			}
			if hit {
				return alternatives, nil
			}
		}
	}
	return nil, nil
}

// checkConfigure makes sure that what a package depends on is configured, and that
// nothing breaks it. Packages that depend on each other are configured in the order
// in which they come.
func (d *Database) checkConfigure(p *Package) error {
	var problems []string
	for _, field := range []string{"Depends", "Pre-Depends"} {
		list, err := p.relation(field)
		if err != nil {
			return err
		}
		for _, alternatives := range list {
			problem, err := d.problem(p, alternatives)
			if err != nil {
				return err
			}
			if problem != "" {
				problems = append(problems, fmt.Sprintf(" %s depends on %s; however:\n  %s", p.FileName(), alternatives, problem))
			}
		}
	}
	for _, other := range d.Installed() {
		if other == p || other.State.rank() < TriggersAwaited.rank() {
			continue
		}
		breaks, err := d.against(other, "Breaks", p)
		if err != nil {
			return err
		}
		if breaks != nil {
			problems = append(problems, fmt.Sprintf(" %s (%s) breaks %s and is %s.", other.FileName(), other.Version, breaks, other.State))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("dependency problems prevent configuration of %s:\n%s", p.FileName(), strings.Join(problems, "\n"))
	}
	return nil
}

// problem says why none of the alternatives is met; empty if one is.
func (d *Database) problem(p *Package, alternatives control.Alternatives) (string, error) {
	list, err := d.satisfiers(alternatives)
	if err != nil {
		return "", err
	}
	reason := fmt.Sprintf("Package %s is not installed.", alternatives[0].Name)
	for _, other := range list {
		if other.State.rank() >= TriggersAwaited.rank() || other == p {
			return "", nil
		}
		if other.State == Unpacked || other.State == HalfConfigured {
			cyclic, err := d.reaches(other, p, map[*Package]bool{})
			if err != nil || cyclic {
				return "", err
			}
			reason = fmt.Sprintf("Package %s is not configured yet.", other.FileName())
		}
	}
	if q := d.Get(alternatives[0].Name); q != nil && len(list) == 0 {
		reason = fmt.Sprintf("Version of %s on system is %s.", q.FileName(), q.Version)
	}
	return reason, nil
}

// reaches reports whether a package depends on another one over packages that
// aren't configured.
func (d *Database) reaches(from, to *Package, seen map[*Package]bool) (bool, error) {
	if from == to {
		return true, nil
	}
	if seen[from] || from.State != Unpacked && from.State != HalfConfigured {
		return false, nil
	}
	seen[from] = true
	for _, field := range []string{"Depends", "Pre-Depends"} {
		list, err := from.relation(field)
		if err != nil {
			return false, err
		}
		for _, alternatives := range list {
			next, err := d.satisfiers(alternatives)
			if err != nil {
				return false, err
			}
			for _, p := range next {
				if ok, err := d.reaches(p, to, seen); ok || err != nil {
					return ok, err
				}
			}
		}
	}
	return false, nil
}
