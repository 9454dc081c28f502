package solve

import (
	"fmt"
	"strings"
)

// Op says which versions a dependency accepts: any of its bits may hold.
type Op uint8

// The comparisons of apk-world(5).
const (
	Less     Op = 1 << iota
	Equal       // also with Less and Greater
	Greater     //
	Fuzzy       // ~: versions that begin like this one
	Checksum    // ><: the package with this checksum
)

// Dependency is one dependency, such as so:libc.musl-x86_64.so.1, curl>=8.5 or !ash.
type Dependency struct {
	Name     string
	Op       Op // 0: any version
	Version  string
	Conflict bool   // written !name: nothing that matches may be installed
	Tag      string // of the repository, written name@tag
}

// ParseDependency reads one dependency.
func ParseDependency(s string) (Dependency, error) {
	d := Dependency{}
	rest, conflict := strings.CutPrefix(s, "!")
	d.Conflict = conflict
	at := strings.IndexAny(rest, "<>=~@")
	if at < 0 {
		at = len(rest)
	}
	d.Name, rest = rest[:at], rest[at:]
	if d.Name == "" || strings.ContainsAny(d.Name, " \t\n!") || strings.HasPrefix(d.Name, "-") {
		return d, fmt.Errorf("%q is no dependency", s)
	}
	tag := func() {
		rest = rest[1:]
		at := strings.IndexAny(rest, "<>=~")
		if at < 0 {
			at = len(rest)
		}
		d.Tag, rest = rest[:at], rest[at:]
	}
	if strings.HasPrefix(rest, "@") {
		if tag(); d.Tag == "" {
			return d, fmt.Errorf("%q has no tag", s)
		}
	}
	if rest == "" {
		return d, nil
	}
	for rest != "" {
		bit := map[byte]Op{'<': Less, '=': Equal, '>': Greater, '~': Fuzzy}[rest[0]]
		if bit == 0 {
			break
		}
		if d.Op&bit != 0 {
			return d, fmt.Errorf("%q has an operator twice", s)
		}
		d.Op |= bit
		rest = rest[1:]
	}
	d.Version, rest, _ = strings.Cut(rest, "@")
	if rest != "" {
		d.Tag = rest
	}
	switch {
	case d.Op == Less|Greater:
		d.Op = Checksum
		if !strings.HasPrefix(d.Version, "Q") {
			return d, fmt.Errorf("%q has no checksum", s)
		}
		return d, nil
	case d.Op == 0:
		return d, fmt.Errorf("%q is no dependency", s)
	case d.Op&Fuzzy != 0:
		d.Op &^= Equal // =~ and ~= mean ~
	}
	if !ValidVersion(d.Version) {
		return d, fmt.Errorf("%q: %q is no version", s, d.Version)
	}
	return d, nil
}

// String writes the dependency as apk does.
func (d Dependency) String() string {
	var b strings.Builder
	if d.Conflict {
		b.WriteByte('!')
	}
	b.WriteString(d.Name)
	if d.Tag != "" {
		b.WriteString("@" + d.Tag)
	}
	if d.Op == Checksum {
		b.WriteString("><")
	}
	for _, o := range []struct {
		op   Op
		text string
	}{{Less, "<"}, {Greater, ">"}, {Fuzzy, "~"}, {Equal, "="}} {
		if d.Op&o.op != 0 {
			b.WriteString(o.text)
		}
	}
	b.WriteString(d.Version)
	return b.String()
}

// Matches reports whether a version is one that the dependency names. Of a
// conflict, those are the versions that must not be.
func (d Dependency) Matches(version string) bool {
	switch {
	case d.Op == 0:
		return true
	case d.Op == Checksum:
		return false // a version says nothing about it
	}
	c := compare(version, d.Version, d.Op&Fuzzy != 0)
	switch {
	case c < 0:
		return d.Op&Less != 0
	case c > 0:
		return d.Op&Greater != 0
	}
	return d.Op&(Equal|Fuzzy) != 0
}

// Provide is another name of a package.
type Provide struct {
	Name, Version string // without a version, several packages may provide it at once
}

// ParseProvide reads one of them: so:libz.so.1=1.3.1, or cron.
func ParseProvide(s string) (Provide, error) {
	name, version, ok := strings.Cut(s, "=")
	if name == "" || strings.ContainsAny(name, "<>~!@ ") || ok && !ValidVersion(version) {
		return Provide{}, fmt.Errorf("%q is nothing that can be provided", s)
	}
	return Provide{name, version}, nil
}
