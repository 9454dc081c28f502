package control

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Version is the version of a package: [epoch:]upstream[-revision] (Debian Policy
// 5.6.12). The zero value is no version; it is before all others.
type Version struct {
	Epoch    int
	Upstream string
	Revision string // empty for a native package
}

// ParseVersion reads a version as strictly as dpkg reads that of a package it
// installs.
func ParseVersion(s string) (Version, error) {
	v, problem := parseVersion(s)
	if problem == "" {
		problem = v.invalid()
	}
	if problem != "" {
		return Version{}, fmt.Errorf("version %q: %s", s, problem)
	}
	return v, nil
}

// LaxVersion takes a string for the version that is closest to it, and never fails:
// archives have versions that dpkg only warns about.
func LaxVersion(s string) Version {
	v, problem := parseVersion(s)
	if problem != "" {
		return Version{Upstream: strings.TrimSpace(s)}
	}
	return v
}

func parseVersion(s string) (v Version, problem string) {
	s = strings.Trim(s, " \t")
	if s == "" {
		return v, "it is empty"
	}
	if strings.ContainsAny(s, " \t\n") {
		return v, "it has spaces in it"
	}
	v.Upstream = s
	if epoch, rest, found := strings.Cut(s, ":"); found {
		if epoch == "" || strings.Trim(epoch, "0123456789") != "" {
			return v, "the epoch is no number"
		}
		n, err := strconv.Atoi(epoch)
		if err != nil || n > math.MaxInt32 {
			return v, "the epoch is too big"
		}
		if rest == "" {
			return v, "there is nothing after the epoch"
		}
		v.Epoch, v.Upstream = n, rest
	}
	if i := strings.LastIndexByte(v.Upstream, '-'); i >= 0 {
		v.Upstream, v.Revision = v.Upstream[:i], v.Upstream[i+1:]
		if v.Revision == "" {
			return v, "the revision is empty"
		}
	}
	if v.Upstream == "" {
		return v, "the upstream version is empty"
	}
	return v, ""
}

func (v Version) invalid() string {
	if c := v.Upstream[0]; c < '0' || c > '9' {
		return "the upstream version doesn't start with a digit"
	}
	if !only(v.Upstream, ".+-~:") {
		return "the upstream version has a character that isn't allowed"
	}
	if !only(v.Revision, ".+~") {
		return "the revision has a character that isn't allowed"
	}
	return ""
}

// only reports whether s is made of letters, digits and others.
func only(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && !letter(c) && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// IsZero reports whether it is no version at all.
func (v Version) IsZero() bool { return v == Version{} }

// String is the version as it stands in a control file.
func (v Version) String() string {
	s := v.Upstream
	if v.Epoch != 0 || strings.Contains(v.Upstream, ":") {
		s = strconv.Itoa(v.Epoch) + ":" + s
	}
	if v.Revision != "" {
		s += "-" + v.Revision
	}
	return s
}

// Compare is negative if v is before w, positive if it is after it, and 0 if
// neither is, which doesn't mean that they are the same string: 1.0 and 1.00 are
// equal, and so are 1.0 and 1.0-0 (Debian Policy 5.6.12).
func (v Version) Compare(w Version) int {
	if c := cmp.Compare(v.Epoch, w.Epoch); c != 0 {
		return c
	}
	if c := comparePart(v.Upstream, w.Upstream); c != 0 {
		return c
	}
	return comparePart(v.Revision, w.Revision)
}

// CompareVersions is Compare for strings, which are taken as LaxVersion does.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	return LaxVersion(a).Compare(LaxVersion(b))
}

// comparePart compares by turns what isn't digits, by character, and what is, by
// value.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			// Equal weights of an end and a digit don't come here: one of the two
			// isn't a digit, and has the weight of no other.
			a, b = a[1:], b[1:]
		}
		x, y := leadingDigits(&a), leadingDigits(&b)
		if c := cmp.Compare(len(x), len(y)); c != 0 {
			return c
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// weight orders the characters that aren't digits: a tilde is before everything,
// even the end; letters are before all else (Debian Policy 5.6.12).
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case letter(s[0]):
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// leadingDigits cuts a number off, which it gives without leading zeros: compared
// by length and then as text no number is too big.
func leadingDigits(s *string) string {
	end := 0
	for end < len(*s) && digit((*s)[end]) {
		end++
	}
	number := strings.TrimLeft((*s)[:end], "0")
	*s = (*s)[end:]
	return number
}
