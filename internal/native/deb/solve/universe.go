// Package solve finds which packages to install, as apt-get does: what is asked for,
// what that depends on and recommends, and what has to be upgraded with it.
//
// It follows the marking of apt 2.6: the dependencies of a package are marked one
// after the other, the first of the alternatives that can be had is taken, one that
// is installed before the others. Where that leads to packages that can't be
// together, apt goes on to search; here it is an error, and so is everything for
// which apt would remove a package.
//
// Packages are of one architecture and "all"; those of others don't exist here.
package solve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Package is one version of a package, installed or available.
type Package struct {
	Name         string
	Architecture string
	Version      control.Version
	Control      *control.Paragraph
	// Priority is the pin of where it comes from (apt_preferences(5)); 0 is 500,
	// that of a source without pins. What is installed has none.
	Priority int
	// Origin is for the caller, who wants to find the package again.
	Origin any
	// Hold says that it is installed and shall stay as it is (dpkg(1), hold).
	Hold bool

	entry        *entry
	dependencies []dependency
	parsed       bool
}

// NewPackage makes one of its paragraph in an index or in the status file of dpkg.
// Its relationships are read when they are needed.
func NewPackage(c *control.Paragraph) (*Package, error) {
	p := &Package{Name: c.Get("Package"), Architecture: c.Get("Architecture"), Control: c}
	version := c.Get("Version")
	if !control.ValidName(p.Name) || version == "" {
		return nil, fmt.Errorf("the paragraph at line %d has the Package %q and the Version %q", c.Line, p.Name, version)
	}
	p.Version = control.LaxVersion(version)
	return p, nil
}

// String is the name and the version, as "apt-get install" takes them.
func (p *Package) String() string { return p.Name + "=" + p.Version.String() }

// source gives the name and the version of the source package.
func (p *Package) source() (name, version string) {
	name, version = p.Name, p.Version.String()
	if s := p.Control.Get("Source"); s != "" {
		var rest string
		name, rest, _ = strings.Cut(s, " ")
		if rest = strings.Trim(rest, " ()"); rest != "" {
			version = rest
		}
	}
	return name, version
}

// kind is that of a dependency: the name of its field.
type kind string

const (
	preDepends kind = "Pre-Depends"
	depends    kind = "Depends"
	conflicts  kind = "Conflicts"
	breaks     kind = "Breaks"
	recommends kind = "Recommends"
	suggests   kind = "Suggests"
)

// kinds are in the order in which apt reads them.
var kinds = []kind{preDepends, depends, conflicts, breaks, recommends, suggests}

func (k kind) negative() bool { return k == conflicts || k == breaks }
func (k kind) critical() bool { return k != recommends && k != suggests }

// dependency is what a package wants of others: one of the alternatives, or, if it is
// negative, none of the only one.
type dependency struct {
	kind kind
	any  control.Alternatives
	of   *Package
}

func (d *dependency) String() string { return string(d.kind) + ": " + d.any.String() }

// wants reads the relationships of a package.
func (u *Universe) wants(p *Package) ([]dependency, error) {
	if p.parsed {
		return p.dependencies, nil
	}
	var list []dependency
	for _, k := range kinds {
		field := p.Control.Get(string(k))
		if field == "" {
			continue
		}
		all, err := control.ParseRelations(field)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", k, p, err)
		}
		for _, a := range all {
			here := slices.DeleteFunc(a, func(r control.Relation) bool { return !r.For(u.architecture) })
			if len(here) > 0 {
				list = append(list, dependency{k, here, p})
			}
		}
	}
	p.dependencies, p.parsed = list, true
	return list, nil
}

// Universe is all packages there are. It may be asked several times, but not
// concurrently.
type Universe struct {
	architecture string
	entries      map[string]*entry
	order        []*entry              // as they were given: available ones first
	providers    map[string][]*Package // of a name, in the order in which they were given
	given        []*Package
	ids          map[string]int // see tie
}

// entry is all versions of one name.
type entry struct {
	name     string
	versions []*Package // newest first
	current  *Package   // installed, one of versions
}

// New makes a universe of the packages that are installed and of those that are
// available, in the order of their sources. Those of other architectures are left
// out. Where a version is in several sources, the first counts, with the highest
// priority of all.
func New(architecture string, installed, available []*Package) *Universe {
	u := &Universe{architecture: architecture, entries: make(map[string]*entry, len(available)), providers: map[string][]*Package{}}
	for _, p := range available {
		u.add(p, false)
	}
	for _, p := range installed {
		u.add(p, true)
	}
	for _, e := range u.order {
		slices.SortStableFunc(e.versions, func(a, b *Package) int { return b.Version.Compare(a.Version) })
	}
	return u
}

func (u *Universe) add(p *Package, installed bool) {
	if p.Architecture != u.architecture && p.Architecture != "all" {
		return
	}
	e := u.entries[p.Name]
	if e == nil {
		e = &entry{name: p.Name}
		u.entries[p.Name] = e
		u.order = append(u.order, e)
	}
	priority := p.Priority
	if installed {
		priority = installedPriority
	} else if priority == 0 {
		priority = defaultPriority
	}
	if i := slices.IndexFunc(e.versions, func(v *Package) bool { return v.Version.Compare(p.Version) == 0 }); i >= 0 {
		known := e.versions[i]
		known.Priority = max(known.Priority, priority)
		if installed {
			e.current, known.Hold = known, p.Hold
		}
		return
	}
	// The universe changes what it was given.
	own := *p
	own.entry, own.Priority = e, priority
	e.versions = append(e.versions, &own)
	u.given = append(u.given, &own)
	if installed {
		e.current = &own
	}
	for name := range providedNames(own.Control.Get("Provides")) {
		u.providers[name] = append(u.providers[name], &own)
	}
}

// The priorities of apt_preferences(5).
const (
	installedPriority = 100
	defaultPriority   = 500
	downgradePriority = 1000
)

// providedNames gives the names in a field without reading what else is in it: most
// packages of an archive are never looked at.
func providedNames(field string) map[string]bool {
	if field == "" {
		return nil
	}
	names := map[string]bool{}
	for part := range strings.SplitSeq(field, ",") {
		part = strings.TrimLeft(part, " \t\n")
		if i := strings.IndexAny(part, " \t\n(:"); i >= 0 {
			part = part[:i]
		}
		if part != "" {
			names[part] = true
		}
	}
	return names
}

// provided are the versions with which a package provides a name, empty for none.
func (u *Universe) provided(p *Package, name string) ([]string, error) {
	list, err := control.ParseRelations(p.Control.Get("Provides"))
	if err != nil {
		//lint:ignore ST1005 a field of control files
		return nil, fmt.Errorf("Provides of %s: %w", p, err)
	}
	var versions []string
	for _, a := range list {
		for _, r := range a {
			if r.Name == name && (r.Operator == control.Any || r.Operator == control.Exactly) && r.For(u.architecture) {
				versions = append(versions, r.Version)
			}
		}
	}
	return versions, nil
}

// meets reports whether a package is what a relation names, by its own name.
func (u *Universe) meets(r *control.Relation, p *Package) bool {
	if p == nil || p.Name != r.Name || !r.Satisfied(p.Version) {
		return false
	}
	switch r.Arch {
	case "":
		return true
	case "any":
		return strings.EqualFold(p.Control.Get("Multi-Arch"), "allowed")
	}
	return r.Arch == u.architecture || r.Arch == "native"
}

// provides reports whether a package provides what a relation names: a version is
// only met by a Provides with one (Debian Policy 7.5).
func (u *Universe) provides(r *control.Relation, p *Package) (bool, error) {
	if r.Arch != "" && r.Arch != u.architecture && r.Arch != "any" {
		return false, nil
	}
	if r.Arch == "any" && !strings.EqualFold(p.Control.Get("Multi-Arch"), "allowed") {
		return false, nil
	}
	versions, err := u.provided(p, r.Name)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(versions, func(v string) bool {
		return r.Operator == control.Any || v != "" && r.Satisfied(control.LaxVersion(v))
	}), nil
}

// matching lists the versions that meet a relation among those that chosen gives for
// an entry: the package of that name first, then those that provide it. What a
// package has against others doesn't concern itself.
func (u *Universe) matching(d *dependency, r *control.Relation, chosen func(*entry) *Package) ([]*Package, error) {
	var list []*Package
	own := func(p *Package) bool { return d.kind.negative() && p.Name == d.of.Name }
	if e := u.entries[r.Name]; e != nil {
		if p := chosen(e); p != nil && !own(p) && u.meets(r, p) {
			list = append(list, p)
		}
	}
	for _, p := range u.providers[r.Name] {
		if chosen(p.entry) != p || own(p) {
			continue
		}
		ok, err := u.provides(r, p)
		if err != nil {
			return nil, err
		}
		if ok && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list, nil
}

// tie decides between packages that nothing tells apart. apt takes the one whose name
// it has met last while it read its indexes, and so it is here: names are numbered
// as they come, those of packages and of what they relate to.
func (u *Universe) tie(name string) int {
	if u.ids == nil {
		u.ids = make(map[string]int, 2*len(u.entries))
		meet := func(name string) {
			if _, ok := u.ids[name]; !ok {
				u.ids[name] = len(u.ids)
			}
		}
		for _, p := range u.given {
			meet(p.Name)
			for _, field := range []string{"Pre-Depends", "Depends", "Conflicts", "Breaks", "Recommends", "Suggests", "Replaces", "Enhances", "Provides"} {
				for name := range relatedNames(p.Control.Get(field)) {
					meet(name)
				}
			}
		}
	}
	return u.ids[name]
}

// relatedNames gives the names of a field of relationships in their order. One with
// an architecture is another name to apt.
func relatedNames(field string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for part := range strings.FieldsFuncSeq(field, func(c rune) bool { return c == ',' || c == '|' }) {
			part = strings.TrimLeft(part, " \t\n")
			if i := strings.IndexAny(part, " \t\n(["); i >= 0 {
				part = part[:i]
			}
			if part != "" && !yield(part) {
				return
			}
		}
	}
}
