// Package solve chooses packages as Alpine's apk does: its order of versions, its
// language of dependencies, and a solver with backtracking.
//
// Sources: apk-package(5), apk-world(5) and the version rules of abuild's APKBUILD
// reference.
package solve

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// The parts of a version, in the order that decides between versions of which one
// ends where the other goes on: the later kind is the smaller version.
const (
	partFirst = iota
	partNumber
	partLetter
	partSuffix
	partSuffixNumber
	partHash
	partRevision
	partEnd
)

// suffixes in their order: those before the empty string come before the release.
var suffixes = []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"}

var release = slices.Index(suffixes, "")

type part struct {
	kind int
	text string
}

var versionSyntax = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]*)*(~[0-9a-f]+)?(-r[0-9]+)?$`)

// ValidVersion reports whether apk would take v for a version:
// NUMBER{.NUMBER}[LETTER]{_SUFFIX[NUMBER]}[~HASH][-rNUMBER].
func ValidVersion(v string) bool { return versionSyntax.MatchString(v) }

// next takes the first part off a version; before is the kind of what was taken
// last, -1 at the beginning.
func next(v string, before int) (part, string) {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	switch {
	case v == "":
		return part{kind: partEnd}, ""
	case before < 0:
		n := digits(v)
		return part{partFirst, v[:n]}, v[n:]
	case v[0] == '.':
		n := digits(v[1:])
		return part{partNumber, v[1 : 1+n]}, v[1+n:]
	case v[0] >= 'a' && v[0] <= 'z' && before <= partNumber:
		return part{partLetter, v[:1]}, v[1:]
	case v[0] == '_':
		n := 1
		for n < len(v) && v[n] >= 'a' && v[n] <= 'z' {
			n++
		}
		return part{partSuffix, v[1:n]}, v[n:]
	case before == partSuffix && digits(v) > 0:
		n := digits(v)
		return part{partSuffixNumber, v[:n]}, v[n:]
	case v[0] == '~':
		n := 1
		for n < len(v) && v[n] != '-' {
			n++
		}
		return part{partHash, v[1:n]}, v[n:]
	case strings.HasPrefix(v, "-r"):
		return part{partRevision, v[2:]}, ""
	}
	return part{kind: partEnd}, "" // no version at all; what was read counts
}

// number compares decimal numbers of any length.
func number(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func (p part) compare(q part) int {
	switch p.kind {
	case partNumber:
		// A number with a leading zero is a fraction: 1.01 is before 1.1.
		if strings.HasPrefix(p.text, "0") || strings.HasPrefix(q.text, "0") {
			return cmp.Compare(p.text, q.text)
		}
		return number(p.text, q.text)
	case partFirst, partSuffixNumber, partRevision:
		return number(p.text, q.text)
	case partSuffix:
		return cmp.Compare(slices.Index(suffixes, p.text), slices.Index(suffixes, q.text))
	}
	return cmp.Compare(p.text, q.text)
}

// Compare orders two versions as apk does: -1, 0 or 1.
func Compare(a, b string) int { return compare(a, b, false) }

// compare with fuzzy takes a for equal as soon as b ends: 1.2.3 is a 1.2.
func compare(a, b string, fuzzy bool) int {
	kindA, kindB := -1, -1
	for {
		var p, q part
		p, a = next(a, kindA)
		q, b = next(b, kindB)
		kindA, kindB = p.kind, q.kind
		switch {
		case q.kind == partEnd && fuzzy:
			return 0
		case p.kind == partEnd && q.kind == partEnd:
			return 0
		case p.kind == q.kind:
			if c := p.compare(q); c != 0 {
				return c
			}
		case p.kind == partSuffix && slices.Index(suffixes, p.text) < release:
			return -1
		case q.kind == partSuffix && slices.Index(suffixes, q.text) < release:
			return 1
		default:
			return cmp.Compare(q.kind, p.kind)
		}
	}
}
