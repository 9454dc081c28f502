package control

import (
	"fmt"
	"strings"
)

// Operator is how a version must be to another one (Debian Policy 7.1). The empty
// one is any version.
type Operator string

// The operators. Before and After are strict.
const (
	Any     Operator = ""
	Before  Operator = "<<"
	AtMost  Operator = "<="
	Exactly Operator = "="
	AtLeast Operator = ">="
	After   Operator = ">>"
)

// Relation is one package that a relationship names.
type Relation struct {
	Name string
	// Arch is what stands after the colon of the name: "any", "native" or an
	// architecture; mostly it is empty.
	Arch string
	// Operator and Version are what is in parentheses.
	Operator Operator
	Version  string
	// Only are the architectures that it is for, those with ! that it isn't for,
	// wildcards among them; of source packages (Debian Policy 7.1).
	Only []string
	// Profiles are the build profiles that it is for, one string for each <...>.
	Profiles []string
}

// Alternatives are relations of which one is enough: what stands between commas.
type Alternatives []Relation

// Satisfied reports whether a version is what the relation asks for.
func (r Relation) Satisfied(version Version) bool {
	if r.Operator == Any {
		return true
	}
	c := version.Compare(LaxVersion(r.Version))
	switch r.Operator {
	case Before:
		return c < 0
	case AtMost:
		return c <= 0
	case Exactly:
		return c == 0
	case AtLeast:
		return c >= 0
	case After:
		return c > 0
	}
	return false
}

// For reports whether the relation is there on an architecture.
func (r Relation) For(arch string) bool {
	if len(r.Only) == 0 {
		return true
	}
	for _, pattern := range r.Only {
		if name, not := strings.CutPrefix(pattern, "!"); not {
			if MatchArch(name, arch) {
				return false
			}
		} else if MatchArch(pattern, arch) {
			return true
		}
	}
	return strings.HasPrefix(r.Only[0], "!")
}

// String is the relation as dpkg writes it.
func (r Relation) String() string {
	var b strings.Builder
	b.WriteString(r.Name)
	if r.Arch != "" {
		b.WriteByte(':')
		b.WriteString(r.Arch)
	}
	if r.Operator != Any {
		fmt.Fprintf(&b, " (%s %s)", string(r.Operator), r.Version)
	}
	if len(r.Only) > 0 {
		fmt.Fprintf(&b, " [%s]", strings.Join(r.Only, " "))
	}
	for _, p := range r.Profiles {
		fmt.Fprintf(&b, " <%s>", p)
	}
	return b.String()
}

// String is the alternatives as dpkg writes them.
func (a Alternatives) String() string {
	parts := make([]string, len(a))
	for i, r := range a {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// FormatRelations gives a field of relationships as dpkg writes it.
func FormatRelations(list []Alternatives) string {
	parts := make([]string, len(list))
	for i, a := range list {
		parts[i] = a.String()
	}
	return strings.Join(parts, ", ")
}

// maxRelations bounds a field. The longest Provides of Debian have some thousands.
const maxRelations = 100_000

// ParseRelations reads a field of relationships, such as Depends. An empty one has
// none. As dpkg does it takes the old "<" and ">" for "<=" and ">=", and a version
// without an operator for "=".
func ParseRelations(field string) ([]Alternatives, error) {
	p := relationParser{rest: field}
	if p.space(); p.rest == "" {
		return nil, nil
	}
	list := make([]Alternatives, 0, strings.Count(field, ",")+1)
	for {
		r, err := p.relation()
		if err != nil {
			return nil, err
		}
		alternatives := Alternatives{r}
		for p.take('|') {
			if r, err = p.relation(); err != nil {
				return nil, err
			}
			alternatives = append(alternatives, r)
		}
		list = append(list, alternatives)
		if p.rest == "" {
			return list, nil
		}
		if !p.take(',') {
			return nil, fmt.Errorf("%s stands after %s where a comma should be", quoted([]byte(p.rest)), r.Name)
		}
		// A comma at the end means nothing; debian/control files have it.
		if p.space(); p.rest == "" {
			return list, nil
		}
	}
}

// relationParser has what is left of a field.
type relationParser struct {
	rest  string
	count int
}

func (p *relationParser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

// take reads one character and the space around it.
func (p *relationParser) take(c byte) bool {
	p.space()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	p.space()
	return true
}

// until reads up to one of the characters of end.
func (p *relationParser) until(end string) string {
	i := strings.IndexAny(p.rest, end)
	if i < 0 {
		i = len(p.rest)
	}
	word := p.rest[:i]
	p.rest = p.rest[i:]
	return word
}

func (p *relationParser) relation() (Relation, error) {
	var r Relation
	if p.count++; p.count > maxRelations {
		return r, fmt.Errorf("a relationship field has more than %d packages", maxRelations)
	}
	r.Name = p.until(" \t\r\n:(,|[<")
	if r.Name == "" {
		return r, fmt.Errorf("there is %s where the name of a package should be", quoted([]byte(p.rest)))
	}
	if !ValidName(r.Name) {
		return r, fmt.Errorf("%s is no name of a package", quoted([]byte(r.Name)))
	}
	if strings.HasPrefix(p.rest, ":") {
		p.rest = p.rest[1:]
		if r.Arch = p.until(" \t\r\n(,|[<"); !validArch(r.Arch) {
			return r, fmt.Errorf("%s after %s: is no architecture", quoted([]byte(r.Arch)), r.Name)
		}
	}
	if p.take('(') {
		if err := p.version(&r); err != nil {
			return r, err
		}
	}
	if p.take('[') {
		r.Only = strings.Fields(p.until("]"))
		if !p.take(']') || len(r.Only) == 0 {
			return r, fmt.Errorf("the architectures of %s don't end in ]", r.Name)
		}
		for _, a := range r.Only {
			if !validArch(strings.TrimPrefix(a, "!")) {
				return r, fmt.Errorf("%s after %s is no architecture", quoted([]byte(a)), r.Name)
			}
		}
	}
	for p.take('<') {
		r.Profiles = append(r.Profiles, strings.Join(strings.Fields(p.until(">")), " "))
		if !p.take('>') {
			return r, fmt.Errorf("the profiles of %s don't end in >", r.Name)
		}
	}
	p.space()
	return r, nil
}

func (p *relationParser) version(r *Relation) error {
	operator := p.rest[:len(p.rest)-len(strings.TrimLeft(p.rest, "<>="))]
	p.rest = p.rest[len(operator):]
	switch operator {
	case "<", "<=":
		r.Operator = AtMost
	case ">", ">=":
		r.Operator = AtLeast
	case "", "=":
		r.Operator = Exactly
	case "<<":
		r.Operator = Before
	case ">>":
		r.Operator = After
	default:
		return fmt.Errorf("%q isn't how the version of %s can be", operator, r.Name)
	}
	p.space()
	r.Version = p.until(" \t\r\n()")
	if !p.take(')') {
		return fmt.Errorf("the version of %s doesn't end in )", r.Name)
	}
	if _, problem := parseVersion(r.Version); problem != "" {
		return fmt.Errorf("the version %s of %s: %s", quoted([]byte(r.Version)), r.Name, problem)
	}
	return nil
}

// ValidName reports whether dpkg takes s for the name of a package: letters,
// digits and - + . _, a letter or digit first. Debian Policy 5.6.1 allows less.
func ValidName(s string) bool {
	if s == "" || !digit(s[0]) && !letter(s[0]) {
		return false
	}
	return only(s, "-+._")
}

func validArch(s string) bool {
	return s != "" && (digit(s[0]) || letter(s[0])) && only(s, "-")
}
