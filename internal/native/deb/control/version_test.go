package control

import (
	"cmp"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pairs are versions and how the first is to the second. Each row has a reason to
// be there.
var pairs = []struct{ a, how, b string }{
	// Plain numbers.
	{"1", "=", "1"}, {"1", "<", "2"}, {"9", "<", "10"}, {"10", ">", "9"}, {"0", "<", "1"},
	{"1.0", "<", "1.1"}, {"1.9", "<", "1.10"}, {"1.0.0", ">", "1.0"}, {"1.2.3", "<", "1.2.4"}, {"1.2.3", "<", "1.3"},
	{"2.0", ">", "1.99"}, {"1.2", "<", "1.2.0"}, {"99999999999999999999", "<", "100000000000000000000"},
	{"18446744073709551616", ">", "18446744073709551615"}, {"4294967296", ">", "4294967295"}, {"1.18446744073709551616", ">", "1.1"},
	// Leading zeros don't count.
	{"1.0", "=", "1.00"}, {"1.01", "=", "1.1"}, {"01", "=", "1"}, {"1.001", "<", "1.2"}, {"0", "=", "00"}, {"1.0a", "<", "1.a0"},
	{"2023.01.05", "=", "2023.1.5"}, {"20230101", ">", "2023.1.5"},
	// The end is like a zero.
	{"1.0", "=", "1."}, {"1.a", "<", "1.a1"}, {"1.a0", "=", "1.a"}, {"1", "=", "1-0"}, {"1.0", "=", "1.0-0"}, {"1.0-0", "=", "1.0-00"},
	{"1.0", "<", "1.0-1"}, {"1.0-0", "<", "1.0-1"}, {"1-0a", "<", "1-1"},
	// Letters come before other characters.
	{"1.0a", ">", "1.0"}, {"1.0a", "<", "1.0b"}, {"1.0a", "<", "1.0.1"}, {"1.0a", "<", "1.0+1"}, {"1.0z", "<", "1.0+"},
	{"1.0Z", "<", "1.0a"}, {"1a", "<", "1b"}, {"1a", "<", "1aa"}, {"1A", "<", "1a"}, {"1.0rc1", ">", "1.0"}, {"1.0rc1", "<", "1.0rc2"},
	{"1.0rc9", "<", "1.0rc10"}, {"1.0alpha", "<", "1.0beta"}, {"1.0b1", "<", "1.0rc1"}, {"1x", "<", "1.0"},
	// Characters among each other: + - . in the order of ASCII.
	{"1+", "<", "1."}, {"1.0+a", "<", "1.0.a"}, {"1.0+1", ">", "1.0"}, {"1.0+", ">", "1.0"}, {"1.0++", ">", "1.0+"}, {"1..1", ">", "1.1"},
	{"1.+1", ">", "1.1"}, {"1+1", "<", "1.1"}, {"1-1-1", ">", "1-1"}, {"1-1-1", "<", "1.1-1"}, {"1-a-1", ">", "1a-1"}, {"1+1-1", "<", "1-1-1"},
	// A tilde is before all, even the end.
	{"1.0~", "<", "1.0"}, {"1.0~~", "<", "1.0~"}, {"1.0~rc1", "<", "1.0"}, {"1.0~rc1", "<", "1.0~rc2"}, {"1.0~~a", "<", "1.0~"},
	{"1.0~a", ">", "1.0~"}, {"1.0~1", ">", "1.0~"}, {"1.0~0", "=", "1.0~"}, {"1.0~a", "<", "1.0a"}, {"1.0~", "<", "1.0a"}, {"1.0~+", ">", "1.0~a"},
	{"1~", "<", "1"}, {"1~1", "<", "1"}, {"1.0~rc1-1", "<", "1.0-1"}, {"1.0-1~", "<", "1.0-1"}, {"1.0-1~bpo12+1", "<", "1.0-1"},
	{"1.0-1~bpo11+1", "<", "1.0-1~bpo12+1"}, {"1.0-~", "<", "1.0"}, {"1.0-0~", "<", "1.0"}, {"1.0-1~deb12u1", ">", "1.0-0"},
	{"1.0~rc1+dfsg-1", "<", "1.0~rc2-1"}, {"1.0~beta1~svn1245", "<", "1.0~beta1"}, {"1.0~beta1", "<", "1.0"},
	// Revisions.
	{"1.0-1", "<", "1.0-2"}, {"1.0-9", "<", "1.0-10"}, {"1.0-1", "<", "1.0-1.1"}, {"1.0-1.1", "<", "1.0-2"}, {"1.0-1+b1", ">", "1.0-1"},
	{"1.0-1+b1", "<", "1.0-1+b2"}, {"1.0-1+b9", "<", "1.0-1+b10"}, {"1.0-1+deb12u1", ">", "1.0-1"}, {"1.0-1+deb12u1", "<", "1.0-1.1"},
	{"1.0-1+deb11u9", "<", "1.0-1+deb12u1"}, {"1.0-1ubuntu1", ">", "1.0-1"}, {"1.0-1ubuntu1", "<", "1.0-2"}, {"1.0-1build1", "<", "1.0-1ubuntu1"},
	{"1.1-1", ">", "1.0-9"}, {"1.0-1-1", ">", "1.0-1"}, {"1.0.0-1", ">", "1.0-2"}, {"2-1", ">", "1-99"}, {"1.0-a", "<", "1.0-a1"}, {"1.0-a", ">", "1.0-1"},
	{"1.0+dfsg-1", ">", "1.0-1"}, {"1.0+dfsg-1", "<", "1.0.1-1"}, {"1.0+dfsg1-1", ">", "1.0+dfsg-9"}, {"1.0+ds-1", ">", "1.0+dfsg-1"},
	{"1.0+really0.9-1", ">", "1.0-5"}, {"1.0+git20200101-1", "<", "1.0+git20210101-1"}, {"1.0-1+rpi1", ">", "1.0-1+deb12u1"},
	// Epochs.
	{"0:1.0", "=", "1.0"}, {"1:1.0", ">", "2.0"}, {"1:0", ">", "999"}, {"2:1", ">", "1:9"}, {"1:1.0-1", ">", "1.0-1"}, {"01:1.0", "=", "1:1.0"},
	{"10:1", ">", "9:1"}, {"1:1:2", "<", "1:1:3"}, {"0:1:1", ">", "0:1"}, {"2147483647:1", ">", "1:1"},
	// What the archive has.
	{"2.36-9+deb12u10", ">", "2.36-9+deb12u9"}, {"1:1.2.13.dfsg-1", ">", "1.2.13.dfsg-1"}, {"3.0.16-1~deb12u1", ">", "3.0.15-1~deb12u1"},
	{"20230311", "<", "20230311+deb12u1"}, {"2024b-0+deb12u1", "<", "2025b-0+deb12u1"}, {"7.88.1-10+deb12u12", "<", "7.88.1-10+deb12u14"},
	{"252.38-1~deb12u1", "<", "252.39-1~deb12u1"}, {"5.36.0-7+deb12u2", ">", "5.36.0-7"}, {"12.4+deb12u11", "<", "12.4+deb12u12"},
	{"6.1.0-1", "<", "6.1.0-1.1"}, {"1.46.2-2", "<", "1.47.0-2"}, {"2:8.39-15", ">", "10.42-1"}, {"0.17029-2", "<", "0.17030-1"},
	{"0~20171227.2d46a3-1", "<", "0.1-1"}, {"1:2.39.5-0+deb12u2", "<", "1:2.39.5-1"}, {"1.21.22", "<", "1.21.23"}, {"9.99", "<", "10"},
}

func TestCompare(t *testing.T) {
	t.Parallel()
	if len(pairs) < 100 {
		t.Fatalf("%d pairs", len(pairs))
	}
	_, err := exec.LookPath("dpkg")
	sign := map[string]int{"<": -1, "=": 0, ">": 1}
	for _, p := range pairs {
		want := sign[p.how]
		if got := cmp.Compare(CompareVersions(p.a, p.b), 0); got != want {
			t.Errorf("%s %s %s: %d", p.a, p.how, p.b, got)
		}
		if got := cmp.Compare(CompareVersions(p.b, p.a), 0); got != -want {
			t.Errorf("%s and %s the other way round: %d", p.b, p.a, got)
		}
		if err == nil && !testing.Short() {
			operator := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[want]
			if !dpkg(t, p.a, operator, p.b) {
				t.Errorf("dpkg doesn't say %s %s %s", p.a, p.how, p.b)
			}
		}
	}
}

// TestCompareWithDpkg asks dpkg about versions made of the parts that matter.
func TestCompareWithDpkg(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg"); err != nil || testing.Short() {
		t.Skip("no dpkg on this host, or a short test")
	}
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"0", "1", "2", "9", "10", "01", "00", ".", ".", "~", "~", "+", "-", "a", "b", "Z", "rc", "deb12u1", "+b1"}
	version := func() string {
		var b strings.Builder
		if random.IntN(6) == 0 {
			b.WriteString([]string{"0:", "1:", "2:"}[random.IntN(3)])
		}
		b.WriteString([]string{"0", "1", "2"}[random.IntN(3)])
		for range random.IntN(5) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		return b.String()
	}
	for tried := 0; tried < 300; {
		a, b := version(), version()
		if random.IntN(2) == 0 {
			b = a + parts[random.IntN(len(parts))]
		}
		if _, err := ParseVersion(a); err != nil {
			continue
		}
		if _, err := ParseVersion(b); err != nil {
			continue
		}
		tried++
		got := CompareVersions(a, b)
		operator := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[cmp.Compare(got, 0)]
		if !dpkg(t, a, operator, b) {
			t.Errorf("%s and %s: %d, dpkg doesn't say %s", a, b, got, operator)
		}
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want Version
	}{
		{"1.0", Version{0, "1.0", ""}},
		{"1.0-1", Version{0, "1.0", "1"}},
		{"1:1.0-1-2", Version{1, "1.0-1", "2"}},
		{" 0:1.0 ", Version{0, "1.0", ""}},
		{"1:2:3-4", Version{1, "2:3", "4"}},
	} {
		got, err := ParseVersion(c.text)
		if err != nil || got != c.want {
			t.Errorf("%q: %#v, %v", c.text, got, err)
		}
		if again, err := ParseVersion(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q", c.text, got)
		}
	}
	for text, want := range map[string]string{
		"":             `version "": it is empty`,
		"1 2":          `version "1 2": it has spaces in it`,
		"a1":           `version "a1": the upstream version doesn't start with a digit`,
		"1.0-":         `version "1.0-": the revision is empty`,
		"-1":           `version "-1": the upstream version is empty`,
		"1:":           `version "1:": there is nothing after the epoch`,
		":1":           `version ":1": the epoch is no number`,
		"x:1":          `version "x:1": the epoch is no number`,
		"-1:1":         `version "-1:1": the epoch is no number`,
		"2147483648:1": `version "2147483648:1": the epoch is too big`,
		"1_0":          `version "1_0": the upstream version has a character that isn't allowed`,
		"1.0-1_2":      `version "1.0-1_2": the revision has a character that isn't allowed`,
	} {
		if _, err := ParseVersion(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzVersion(f *testing.F) {
	for _, p := range pairs {
		f.Add(p.a, p.b, "1.0~a")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		list := []Version{LaxVersion(a), LaxVersion(b), LaxVersion(c)}
		if list[0].Compare(list[0]) != 0 {
			t.Fatalf("%q isn't equal to itself", a)
		}
		if cmp.Compare(list[0].Compare(list[1]), 0) != -cmp.Compare(list[1].Compare(list[0]), 0) {
			t.Fatalf("%q and %q are both before or after the other", a, b)
		}
		slices.SortFunc(list, Version.Compare)
		if list[0].Compare(list[1]) > 0 || list[1].Compare(list[2]) > 0 || list[0].Compare(list[2]) > 0 {
			t.Fatalf("%q isn't sorted", list)
		}
		if v, err := ParseVersion(a); err == nil {
			if again, err := ParseVersion(v.String()); err != nil || again != v {
				t.Fatalf("%q is written %q: %v", a, v, err)
			}
		}
	})
}
