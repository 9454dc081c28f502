package database

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// State is how far the installation of a package has got (dpkg(1), "Package
// states").
type State string

// The states, in the order of dpkg.
const (
	NotInstalled    State = "not-installed"
	ConfigFiles     State = "config-files"
	HalfInstalled   State = "half-installed"
	Unpacked        State = "unpacked"
	HalfConfigured  State = "half-configured"
	TriggersAwaited State = "triggers-awaited"
	TriggersPending State = "triggers-pending"
	Installed       State = "installed"
)

var states = []State{NotInstalled, ConfigFiles, HalfInstalled, Unpacked, HalfConfigured, TriggersAwaited, TriggersPending, Installed}

func (s State) rank() int { return slices.Index(states, s) }

// Package is one that the database knows. It must not be changed by others; it
// changes when the database does.
type Package struct {
	Name         string
	Architecture string
	Version      control.Version
	MultiArch    string // "same", "foreign", "allowed" or empty

	Want  string // what is wanted: install, hold, deinstall, purge or unknown
	Flag  string // ok or reinstreq
	State State

	// ConfigVersion is the version that was configured last; none before the first
	// time.
	ConfigVersion control.Version
	Conffiles     []Conffile

	TriggersPending []string // names of triggers that it has to act upon
	TriggersAwaited []string // packages whose triggers it waits for

	// Control are all its fields, those of the state among them as they were read.
	Control *control.Paragraph

	changed bool // it isn't what was read any more

	files       []string // of its list, in order; valid if it is loaded
	filesLoaded bool
	relations   map[string][]control.Alternatives // fields that have been parsed
}

// Conffile is a configuration file of a package (dpkg-query(1), field Conffiles).
type Conffile struct {
	Path string
	// Hash is the MD5 sum, in hexadecimal, of the version that came with the
	// package when it was configured; "newconffile" before that.
	Hash            string
	Obsolete        bool // the package has it no more
	RemoveOnUpgrade bool // the package wants it gone
}

// What stands for a hash where there is none, as in dpkg.
const (
	newConffile = "newconffile"
	nonexistent = "nonexistent"
	noHash      = "-"
)

// id is what packages are told apart by.
func id(name, arch string) string { return name + ":" + arch }

// ID is the name and the architecture: "libc6:amd64".
func (p *Package) ID() string { return id(p.Name, p.Architecture) }

// FileName is the name as it is in the names of the files of the database and where
// dpkg shows it: with the architecture where it may be installed for several.
func (p *Package) FileName() string { return fileName(p.Name, p.Architecture, p.MultiArch) }

func fileName(name, arch, multiArch string) string {
	if multiArch == "same" {
		return id(name, arch)
	}
	return name
}

// newPackage takes over a paragraph of the status file.
func newPackage(c *control.Paragraph) (*Package, error) {
	p := &Package{Name: c.Get("Package"), Architecture: c.Get("Architecture"), Control: c, MultiArch: multiArch(c)}
	if !control.ValidName(p.Name) {
		return nil, fmt.Errorf("%q is no name of a package", p.Name)
	}
	if strings.ContainsAny(p.Architecture, "/\n") {
		return nil, fmt.Errorf("%s has the architecture %q", p.Name, p.Architecture)
	}
	// dpkg takes versions here that it wouldn't install.
	p.Version = control.LaxVersion(c.Get("Version"))
	status := strings.Fields(c.Get("Status"))
	if len(status) != 3 || State(status[2]).rank() < 0 {
		return nil, fmt.Errorf("%s has the status %q", p.Name, c.Get("Status"))
	}
	p.Want, p.Flag, p.State = status[0], status[1], State(status[2])
	if v := c.Get("Config-Version"); v != "" {
		p.ConfigVersion = control.LaxVersion(v)
	} else if p.State.rank() >= TriggersPending.rank() {
		p.ConfigVersion = p.Version
	}
	for _, v := range []control.Version{p.Version, p.ConfigVersion} {
		if control.LaxVersion(v.String()) != v {
			return nil, fmt.Errorf("%s has the version %q", p.Name, v)
		}
	}
	p.TriggersPending = strings.Fields(c.Get("Triggers-Pending"))
	p.TriggersAwaited = strings.Fields(c.Get("Triggers-Awaited"))
	for _, line := range control.Lines(c.Get("Conffiles")) {
		conffile, err := parseConffile(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		p.Conffiles = append(p.Conffiles, conffile)
	}
	return p, nil
}

func multiArch(c *control.Paragraph) string {
	switch v := strings.ToLower(c.Get("Multi-Arch")); v {
	case "same", "foreign", "allowed":
		return v
	}
	return ""
}

// parseConffile reads a line of the field Conffiles: the words after the path, which
// may have spaces in it, are known.
func parseConffile(line string) (Conffile, error) {
	var f Conffile
	for _, flag := range []struct {
		word string
		set  *bool
	}{{"remove-on-upgrade", &f.RemoveOnUpgrade}, {"obsolete", &f.Obsolete}} {
		if rest, ok := strings.CutSuffix(line, " "+flag.word); ok {
			*flag.set, line = true, strings.TrimRight(rest, " ")
		}
	}
	i := strings.LastIndexByte(line, ' ')
	if i <= 0 {
		return f, fmt.Errorf("the conffile %q has no hash", line)
	}
	f.Path, f.Hash = clean(strings.TrimRight(line[:i], " ")), line[i+1:]
	if f.Path == "/" {
		return f, errors.New("the root is a conffile")
	}
	return f, nil
}

func (f Conffile) String() string {
	s := f.Path + " " + f.Hash
	if f.Obsolete {
		s += " obsolete"
	}
	if f.RemoveOnUpgrade {
		s += " remove-on-upgrade"
	}
	return s
}

// set changes the state.
func (p *Package) set(s State) {
	p.State, p.changed = s, true
}

// informative reports whether dpkg keeps the package in the status file.
func (p *Package) informative() bool {
	return p.State != NotInstalled || p.Want != "unknown" || p.Flag != "ok"
}

// fieldOrder is the order in which dpkg writes the fields that it knows.
var fieldOrder = []string{
	"Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin", "Maintainer", "Bugs",
	"Architecture", "Multi-Arch", "Source", "Version", "Config-Version", "Replaces", "Provides", "Depends", "Pre-Depends",
	"Recommends", "Suggests", "Breaks", "Conflicts", "Enhances", "Conffiles", "Description", "Triggers-Pending", "Triggers-Awaited",
}

// relationFields are those of relationships between packages.
var relationFields = []string{"Replaces", "Provides", "Depends", "Pre-Depends", "Recommends", "Suggests", "Breaks", "Conflicts", "Enhances"}

var priorities = []string{"required", "important", "standard", "optional", "extra"}

// notKept are the fields of an index that dpkg knows but doesn't write to the status
// file.
var notKept = []string{"Filename", "Size", "MD5sum", "MSDOS-Filename"}

// appendTo writes the paragraph of the status file: as it was read, if nothing has
// changed, and else as dpkg writes it.
func (p *Package) appendTo(b []byte) []byte {
	if p.changed {
		p.Control = p.paragraph()
	}
	return p.Control.Append(b)
}

func (p *Package) paragraph() *control.Paragraph {
	out := &control.Paragraph{}
	for _, name := range fieldOrder {
		if value := p.field(name); value != "" {
			out.Fields = append(out.Fields, control.Field{Name: name, Value: value})
		}
	}
	for _, f := range p.Control.Fields {
		known := func(name string) bool { return strings.EqualFold(name, f.Name) }
		if !slices.ContainsFunc(fieldOrder, known) && !slices.ContainsFunc(notKept, known) {
			out.Fields = append(out.Fields, f)
		}
	}
	return out
}

// field gives the value of a known field as dpkg writes it, empty if it doesn't.
func (p *Package) field(name string) string {
	value := p.Control.Get(name)
	switch name {
	case "Status":
		return p.Want + " " + p.Flag + " " + string(p.State)
	case "Version":
		return p.Version.String()
	case "Config-Version":
		if p.ConfigVersion.IsZero() || p.State == NotInstalled || p.State.rank() >= TriggersPending.rank() {
			return ""
		}
		return p.ConfigVersion.String()
	case "Essential", "Protected":
		if !strings.EqualFold(value, "yes") {
			return ""
		}
		return "yes"
	case "Multi-Arch":
		return p.MultiArch
	case "Priority":
		// dpkg knows those of Debian Policy 2.5, and leaves others as they are.
		if lower := strings.ToLower(value); slices.Contains(priorities, lower) {
			return lower
		}
	case "Conffiles":
		var b strings.Builder
		for _, f := range p.Conffiles {
			b.WriteString("\n ")
			b.WriteString(f.String())
		}
		return b.String()
	case "Triggers-Pending":
		return strings.Join(p.TriggersPending, " ")
	case "Triggers-Awaited":
		return strings.Join(p.TriggersAwaited, " ")
	}
	if slices.Contains(relationFields, name) {
		list, err := control.ParseRelations(value)
		if err != nil {
			return value
		}
		for _, alternatives := range list {
			for i := range alternatives {
				if alternatives[i].Operator != control.Any {
					alternatives[i].Version = control.LaxVersion(alternatives[i].Version).String()
				}
			}
		}
		return control.FormatRelations(list)
	}
	return value
}

// relation gives a field of relationships.
func (p *Package) relation(field string) ([]control.Alternatives, error) {
	if list, ok := p.relations[field]; ok {
		return list, nil
	}
	list, err := control.ParseRelations(p.Control.Get(field))
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", field, p.Name, err)
	}
	if p.relations == nil {
		p.relations = map[string][]control.Alternatives{}
	}
	p.relations[field] = list
	return list, nil
}
