package control

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseRelations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       []Alternatives
		written    string // if it isn't text
	}{
		{"none", "  \n ", nil, ""},
		{"one", "libc6", []Alternatives{{{Name: "libc6"}}}, ""},
		{"version", "libc6 (>= 2.34)", []Alternatives{{{Name: "libc6", Operator: AtLeast, Version: "2.34"}}}, ""},
		{"without spaces", "libc6(>=2.34),a|b", []Alternatives{{{Name: "libc6", Operator: AtLeast, Version: "2.34"}}, {{Name: "a"}, {Name: "b"}}}, "libc6 (>= 2.34), a | b"},
		{"all there is", "a (>= 1.2) [amd64] | b:any, c", []Alternatives{
			{{Name: "a", Operator: AtLeast, Version: "1.2", Only: []string{"amd64"}}, {Name: "b", Arch: "any"}},
			{{Name: "c"}}}, ""},
		{"old operators", "a (< 1), b (> 1), c (1)", []Alternatives{
			{{Name: "a", Operator: AtMost, Version: "1"}}, {{Name: "b", Operator: AtLeast, Version: "1"}}, {{Name: "c", Operator: Exactly, Version: "1"}}},
			"a (<= 1), b (>= 1), c (= 1)"},
		{"strict operators", "a (<< 1:2~), b (>> 1-2)", []Alternatives{
			{{Name: "a", Operator: Before, Version: "1:2~"}}, {{Name: "b", Operator: After, Version: "1-2"}}}, ""},
		{"architectures", "a [!i386 !hurd-any]", []Alternatives{{{Name: "a", Only: []string{"!i386", "!hurd-any"}}}}, ""},
		{"profiles", "a:native <!nocheck> <cross stage1>", []Alternatives{{{Name: "a", Arch: "native", Profiles: []string{"!nocheck", "cross stage1"}}}}, ""},
		{"lines", "a,\n b\n , c,\n", []Alternatives{{{Name: "a"}}, {{Name: "b"}}, {{Name: "c"}}}, "a, b, c"},
		{"capitals and signs", "libstdc++6, R_x.y", []Alternatives{{{Name: "libstdc++6"}}, {{Name: "R_x.y"}}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseRelations(c.text)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("%#v, %v", got, err)
			}
			want := c.written
			if want == "" {
				want = strings.TrimSpace(c.text)
			}
			if written := FormatRelations(got); written != want {
				t.Errorf("written %q", written)
			}
		})
	}
}

func TestParseRelationsErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		", a":        `there is ", a" where the name of a package should be`,
		"a,, b":      `there is ", b" where the name of a package should be`,
		"a |":        `there is "" where the name of a package should be`,
		"a b":        `"b" stands after a where a comma should be`,
		"a (>= 1":    `the version of a doesn't end in )`,
		"a (>= 1 2)": `the version of a doesn't end in )`,
		"a (>= )":    `the version "" of a: it is empty`,
		"a (>= :)":   `the version ":" of a: the epoch is no number`,
		"a (=> 1)":   `"=>" isn't how the version of a can be`,
		"a (<> 1)":   `"<>" isn't how the version of a can be`,
		"a [amd64":   `the architectures of a don't end in ]`,
		"a [ ]":      `the architectures of a don't end in ]`,
		"a [am/d64]": `"am/d64" after a is no architecture`,
		"a <nocheck": `the profiles of a don't end in >`,
		"a: b":       `"" after a: is no architecture`,
		"-a":         `"-a" is no name of a package`,
		"${x}":       `"${x}" is no name of a package`,
		"a/b":        `"a/b" is no name of a package`,
		strings.Repeat("a,", maxRelations+1) + "a": "a relationship field has more than 100000 packages",
		strings.Repeat("a|", maxRelations+1) + "a": "a relationship field has more than 100000 packages",
	} {
		if _, err := ParseRelations(text); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

func TestSatisfied(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operator Operator
		want     [3]bool // for 1, 2 and 3, of 2
	}{
		{Any, [3]bool{true, true, true}},
		{Before, [3]bool{true, false, false}},
		{AtMost, [3]bool{true, true, false}},
		{Exactly, [3]bool{false, true, false}},
		{AtLeast, [3]bool{false, true, true}},
		{After, [3]bool{false, false, true}},
		{"??", [3]bool{}},
	} {
		for i, v := range []string{"1", "2", "3"} {
			r := Relation{Name: "a", Operator: c.operator, Version: "2"}
			if got := r.Satisfied(LaxVersion(v)); got != c.want[i] {
				t.Errorf("%s %s 2: %v", v, c.operator, got)
			}
		}
	}
}

func TestMatchArch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, arch string
		want          bool
	}{
		{"amd64", "amd64", true}, {"amd64", "arm64", false}, {"any", "riscv64", true},
		{"linux-any", "amd64", true}, {"linux-any", "hurd-i386", false}, {"hurd-any", "hurd-i386", true}, {"kfreebsd-any", "amd64", false},
		{"any-amd64", "amd64", true}, {"any-amd64", "kfreebsd-amd64", true}, {"any-amd64", "x32", true}, {"any-i386", "amd64", false},
		{"any-arm", "armhf", true}, {"any-arm", "armel", true}, {"any-arm", "arm64", false}, {"linux-amd64", "amd64", true},
		{"gnu-any-any", "amd64", true}, {"musl-any-any", "amd64", false}, {"musl-linux-any", "musl-linux-armhf", true}, {"all", "amd64", false},
		{"any-any", "amd64", true}, {"eabihf-any-any-arm", "armhf", true}, {"eabihf-any-any-arm", "armel", false},
	} {
		if got := MatchArch(c.pattern, c.arch); got != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.arch, got)
		}
	}
	for arch, want := range map[string]bool{"amd64": true, "i386": false, "arm64": true} {
		if got := (Relation{Only: []string{"!i386"}}).For(arch); got != want {
			t.Errorf("[!i386] on %s: %v", arch, got)
		}
		if got := (Relation{Only: []string{"i386"}}).For(arch); got == want {
			t.Errorf("[i386] on %s: %v", arch, got)
		}
	}
	if !(Relation{}).For("amd64") {
		t.Error("what isn't restricted isn't there")
	}
}

func FuzzRelations(f *testing.F) {
	f.Add("a (>= 1.2) [amd64] | b:any, c <!nocheck> <x y>")
	f.Add("a(<1),b|c,")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseRelations(text)
		if err != nil {
			return
		}
		written := FormatRelations(list)
		again, err := ParseRelations(written)
		if err != nil || FormatRelations(again) != written {
			t.Fatalf("%q is written %q, then %q: %v", text, written, FormatRelations(again), err)
		}
	})
}
