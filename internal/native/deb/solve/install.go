package solve

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Options are those of apt-get that matter to what is chosen.
type Options struct {
	// Recommends says whether recommended packages are installed too: not so with
	// --no-install-recommends.
	Recommends bool
	// AllowDowngrades and AllowHeld are --allow-downgrades and
	// --allow-change-held-packages, without which apt-get -y ends with an error.
	AllowDowngrades, AllowHeld bool
	// OnlyUpgrade and NoUpgrade are --only-upgrade and --no-upgrade: what is asked
	// for is left out if it isn't installed, or if it is.
	OnlyUpgrade, NoUpgrade bool
}

// Install finds what "apt-get install" would install for its arguments: names, with
// "=version" or ":architecture" after them. What is installed is upgraded only if it
// is asked for, or something needs it.
//
// An argument that can't be understood, or that asks for a removal, and packages
// that don't exist or don't go together, are errors with the words of apt.
func (u *Universe) Install(arguments []string, o Options) (*Plan, error) {
	m, err := u.marking(o.Recommends)
	if err != nil {
		return nil, err
	}
	if m.wasBroken, err = m.unmet(installed, "installed"); err != nil {
		return nil, err
	}
	plan := &Plan{}
	var asked []*Package
	var problems []error
	for _, a := range arguments {
		p, err := m.find(a, plan)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		asked = append(asked, p)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	var later []*entry
	for _, p := range asked {
		s := m.state(p.entry)
		if o.OnlyUpgrade && s.current == nil || o.NoUpgrade && s.current != nil {
			plan.note("Skipping %s", p.Name)
			continue
		}
		s.candidate = p
		s.protected = true
		if _, err := m.mark(p.entry, request{fromUser: true}); err != nil {
			return nil, err
		}
		if s.mode != install {
			plan.note("%s is already the newest version (%s).", p.Name, p.Version)
		}
		plan.Asked = append(plan.Asked, p.Name)
		later = append(later, p.entry)
	}
	for _, e := range later {
		// In a system that is broken apt installs what it is told to and no more.
		if m.wasBroken != "" {
			break
		}
		if _, err := m.mark(e, request{dependencies: true, fromUser: true}); err != nil {
			return nil, err
		}
	}
	if m.wasBroken == "" {
		if err := m.repair(); err != nil {
			return nil, err
		}
	}
	return m.plan(plan, o)
}

// FixBroken finds what "apt-get --fix-broken install" would install, without more
// arguments: what installed packages lack, such as those that dpkg -i has unpacked.
func (u *Universe) FixBroken(o Options) (*Plan, error) {
	m, err := u.marking(o.Recommends)
	if err != nil {
		return nil, err
	}
	for _, e := range m.current {
		bad, err := m.broken(e.current, false)
		if err != nil {
			return nil, err
		}
		if len(bad) == 0 {
			continue
		}
		if _, err := m.mark(e, request{dependencies: true}); err != nil {
			return nil, err
		}
	}
	if err := m.repair(); err != nil {
		return nil, err
	}
	return m.plan(&Plan{}, o)
}

// sound makes sure that what is installed goes together: apt refuses to upgrade
// something else before.
func (m *marking) sound() error {
	text, err := m.unmet(installed, "installed")
	if err != nil || text == "" {
		return err
	}
	return &UnmetError{text, tryToFix}
}

const tryToFix = "Unmet dependencies. Try 'apt --fix-broken install' with no packages (or specify a solution)."

// find finds the version that an argument asks for.
func (m *marking) find(argument string, plan *Plan) (*Package, error) {
	name, version, versioned := strings.Cut(argument, "=")
	switch {
	case strings.Contains(name, "/") && !versioned:
		return nil, fmt.Errorf("%q: files and the choice of a release aren't supported", argument)
	case strings.HasSuffix(name, "^"):
		return nil, fmt.Errorf("%q: tasks aren't supported", argument)
	}
	e, err := m.named(name, argument)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return m.virtual(name, plan)
	}
	if versioned {
		for _, v := range e.versions {
			if matchesVersion(version, v.Version.String()) {
				if v.Version.String() != version {
					plan.note("Selected version '%s' for '%s'", v.Version, name)
				}
				return v, nil
			}
		}
		//lint:ignore ST1005 the words of apt
		return nil, fmt.Errorf("Version '%s' for '%s' was not found", version, name)
	}
	if c := m.state(e).candidate; c != nil {
		return c, nil
	}
	return m.virtual(name, plan)
}

// named finds the entry that a name means; nil if there is none but something
// provides it.
func (m *marking) named(name, argument string) (*entry, error) {
	plain, arch, qualified := strings.Cut(name, ":")
	if qualified && arch != m.u.architecture && arch != "all" && arch != "any" && arch != "native" {
		return nil, fmt.Errorf("%q: packages of other architectures aren't supported", argument)
	}
	for _, try := range []string{plain, strings.TrimSuffix(plain, "+")} {
		if e := m.u.entries[try]; e != nil {
			return e, nil
		}
		if len(m.u.providers[try]) > 0 {
			return nil, nil
		}
	}
	if base, ok := strings.CutSuffix(plain, "-"); ok && m.u.entries[base] != nil {
		return nil, fmt.Errorf("%q: packages aren't removed", argument)
	}
	if strings.ContainsAny(plain, "*?[]^$|\\(){}") {
		return nil, fmt.Errorf("%q: patterns aren't supported", argument)
	}
	//lint:ignore ST1005 the words of apt
	return nil, fmt.Errorf("Unable to locate package %s", plain)
}

// matchesVersion reports whether a version is what an argument says: it may end in a
// star, or be a pattern.
func matchesVersion(pattern, version string) bool {
	pattern, version = strings.ToLower(pattern), strings.ToLower(version)
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(version, prefix) {
		return true
	}
	if pattern == version {
		return true
	}
	ok, err := path.Match(pattern, version)
	return ok && err == nil
}

// virtual finds the only package that provides a name.
func (m *marking) virtual(name string, plan *Plan) (*Package, error) {
	name, _, _ = strings.Cut(strings.TrimSuffix(name, "+"), ":")
	var list []*Package
	for _, p := range m.u.providers[name] {
		if m.state(p.entry).candidate == p && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if len(list) == 1 {
		plan.note("Note, selecting '%s' instead of '%s'", list[0].Name, name)
		return list[0], nil
	}
	text := fmt.Sprintf("Package '%s' has no installation candidate", name)
	if len(list) > 1 {
		text += fmt.Sprintf(": package %s is a virtual package provided by", name)
		for i, p := range list {
			if i > 0 {
				text += ","
			}
			text += fmt.Sprintf(" %s %s", p.Name, p.Version)
		}
		text += "; you should explicitly select one to install"
	}
	return nil, errors.New(text)
}

// UnmetError is packages that don't go together.
type UnmetError struct {
	// Packages has a line for each package and each thing that it lacks, in the form
	// of apt.
	Packages string
	Reason   string
}

func (e *UnmetError) Error() string {
	return "The following packages have unmet dependencies:\n" + e.Packages + e.Reason
}

// RemovalError is packages that apt would remove for what was asked for.
type RemovalError struct {
	Names []string // sorted
}

func (e *RemovalError) Error() string {
	return fmt.Sprintf("The following packages would be REMOVED, which isn't supported: %s", strings.Join(e.Names, " "))
}

// unmet says what the packages lack that are chosen; empty if nothing.
func (m *marking) unmet(chosen func(*entry) *Package, is string) (string, error) {
	var names []string
	entries := map[string]*entry{}
	for _, e := range m.current {
		entries[e.name] = e
	}
	for e := range m.states {
		entries[e.name] = e
	}
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		p := chosen(entries[name])
		if p == nil {
			continue
		}
		list, err := m.u.wants(p)
		if err != nil {
			return "", err
		}
		head := " " + name + " :"
		for i := range list {
			d := &list[i]
			if !d.kind.critical() {
				continue
			}
			ok, err := m.satisfied(d, chosen)
			if err != nil {
				return "", err
			}
			if ok {
				continue
			}
			m.describe(&b, head, d, chosen, is)
			head = strings.Repeat(" ", len(head))
		}
	}
	return b.String(), nil
}

// describe writes a dependency with what is there instead, in the columns of apt.
func (m *marking) describe(b *strings.Builder, head string, d *dependency, chosen func(*entry) *Package, is string) {
	for i := range d.any {
		r := d.any[i]
		before := head + " " + string(d.kind) + ": "
		if i > 0 {
			before = strings.Repeat(" ", len(before))
		}
		b.WriteString(before + control.Relation{Name: r.Name, Arch: r.Arch, Operator: r.Operator, Version: r.Version}.String())
		if len(m.u.providers[r.Name]) == 0 {
			e := m.u.entries[r.Name]
			var there, could *Package
			if e != nil {
				there, could = chosen(e), m.state(e).candidate
			}
			switch {
			case there != nil:
				fmt.Fprintf(b, " but %s is %s", there.Version, is)
			case could == nil:
				b.WriteString(" but it is not installable")
			case is == "installed":
				b.WriteString(" but it is not installed")
			default:
				b.WriteString(" but it is not going to be installed")
			}
		}
		if i < len(d.any)-1 {
			b.WriteString(" or")
		}
		b.WriteByte('\n')
	}
}
