package source

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// fields are the names that the options of a line have in a stanza.
var fields = map[string]string{
	"architectures": "arch", "languages": "lang", "targets": "target",
	"trusted": "trusted", "signed-by": "signed-by",
	"check-valid-until": "check-valid-until", "valid-until-min": "valid-until-min", "valid-until-max": "valid-until-max",
	"check-date": "check-date", "date-max-future": "date-max-future",
	"pdiffs": "pdiffs", "by-hash": "by-hash",
	"allow-insecure": "allow-insecure", "allow-weak": "allow-weak", "allow-downgrade-to-insecure": "allow-downgrade-to-insecure",
}

// stanzas reads the form of deb822:
//
//	Types: deb
//	URIs: https://example.org/debian
//	Suites: bookworm bookworm-updates
//	Components: main contrib
//	Signed-By: /usr/share/keyrings/x.gpg
func stanzas(file, text, arch string) ([]Source, error) {
	r := control.NewReader(strings.NewReader(text))
	r.Comments = true
	var list []Source
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			var syntax *control.SyntaxError
			if errors.As(err, &syntax) {
				return nil, fmt.Errorf("%s:%d: %s", file, syntax.Line, syntax.Problem)
			}
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		place := fmt.Sprintf("%s:%d", file, p.Line)
		more, err := stanza(place, p, arch)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		list = append(list, more...)
	}
}

func stanza(place string, p *control.Paragraph, arch string) ([]Source, error) {
	s := Source{Place: place}
	if enabled := p.Get("Enabled"); enabled != "" {
		c, err := choice("Enabled", enabled)
		if err != nil || c == No {
			return nil, err
		}
	}
	for _, f := range p.Fields {
		if err := s.field(f); err != nil {
			return nil, err
		}
	}
	types, uris, suites := strings.Fields(p.Get("Types")), strings.Fields(p.Get("URIs")), strings.Fields(p.Get("Suites"))
	for _, needed := range []struct {
		name   string
		values []string
	}{{"Types", types}, {"URIs", uris}, {"Suites", suites}} {
		if len(needed.values) == 0 {
			return nil, fmt.Errorf("it has no %s", needed.name)
		}
	}
	var list []Source
	for _, kind := range types {
		var err error
		if s.Sources, err = sources(kind); err != nil {
			return nil, err
		}
		for _, uri := range uris {
			if list, err = s.add(list, uri, suites, strings.Fields(p.Get("Components")), arch); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// field takes over what isn't the place of packages.
func (s *Source) field(f control.Field) error {
	name := strings.ToLower(f.Name)
	switch name {
	case "types", "uris", "suites", "components", "enabled":
		return nil
	}
	if strings.HasPrefix(name, "x-") {
		return nil // of other programs
	}
	suffix := ""
	for ending, sign := range map[string]string{"-add": "+", "-remove": "-"} {
		if plain, ok := strings.CutSuffix(name, ending); ok {
			name, suffix = plain, sign
		}
	}
	option, ok := fields[name]
	if !ok {
		return fmt.Errorf("the field %s isn't known", f.Name)
	}
	return s.option(option+suffix, strings.Fields(f.Value), f.Value)
}

// option takes over one, by the name that it has in a line, as a list and as it is.
func (s *Source) option(key string, values []string, value string) error {
	var err error
	switch key {
	case "arch":
		s.Architectures = values
	case "arch+":
		s.AddArchitectures = values
	case "arch-":
		s.RemoveArchitectures = values
	case "signed-by":
		s.SignedBy, err = signedBy(value)
	case "trusted":
		s.Trusted, err = choice(key, value)
	case "check-valid-until":
		s.CheckValidUntil, err = choice(key, value)
	case "check-date":
		s.CheckDate, err = choice(key, value)
	case "allow-insecure":
		s.AllowInsecure, err = choice(key, value)
	case "allow-weak":
		s.AllowWeak, err = choice(key, value)
	case "allow-downgrade-to-insecure":
		s.AllowDowngrade, err = choice(key, value)
	case "valid-until-min":
		s.ValidUntilMin, err = seconds(key, value)
	case "valid-until-max":
		s.ValidUntilMax, err = seconds(key, value)
	case "date-max-future":
		s.DateMaxFuture, err = seconds(key, value)
	case "lang", "lang+", "lang-", "target", "target+", "target-", "pdiffs", "by-hash":
		// Translations and other ways to the same indexes.
	default:
		err = fmt.Errorf("the option %s isn't known", key)
	}
	return err
}

// choice reads what apt takes for yes and no.
func choice(name, value string) (Choice, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "yes", "true", "with", "on", "enable", "1":
		return Yes, nil
	case "no", "false", "without", "off", "disable", "0":
		return No, nil
	}
	return Default, fmt.Errorf("%s is %q, neither yes nor no", name, value)
}

func seconds(name, value string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is %q, no number of seconds", name, value)
	}
	return n, nil
}

// signedBy reads paths of keyrings and fingerprints of keys, with commas or spaces
// between them, or a key that is in the file itself.
func signedBy(value string) (SignedBy, error) {
	if strings.HasPrefix(strings.TrimSpace(value), "-----BEGIN") {
		return embedded(value)
	}
	var s SignedBy
	for _, v := range strings.FieldsFunc(value, func(c rune) bool { return strings.ContainsRune(", \t\n", c) }) {
		digits := strings.TrimSuffix(v, "!")
		switch {
		case strings.HasPrefix(v, "/"):
			s.Files = append(s.Files, v)
		case len(digits) >= 16 && strings.Trim(digits, "0123456789abcdefABCDEF") == "":
			s.Fingerprints = append(s.Fingerprints, v)
		default:
			return s, fmt.Errorf("Signed-By has %q, which is neither an absolute path nor a fingerprint", v)
		}
	}
	if s.IsZero() {
		return s, errors.New("Signed-By is empty")
	}
	return s, nil
}

// embedded takes the space of continuation lines out of a key, and the dots that stand
// for empty lines.
func embedded(value string) (SignedBy, error) {
	lines := strings.Split(strings.TrimSpace(value), "\n")
	for i, line := range lines {
		if lines[i] = strings.TrimSpace(line); lines[i] == "." {
			lines[i] = ""
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "-----END") }) {
		return SignedBy{}, errors.New("the key of Signed-By has no end")
	}
	return SignedBy{Key: strings.Join(lines, "\n") + "\n"}, nil
}
