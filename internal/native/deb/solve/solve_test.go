package solve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// parse reads packages of a text with a paragraph for each, in short: the first
// line is "name version", or "name version arch"; the others are fields.
func parse(t testing.TB, text string) []*Package {
	t.Helper()
	var b strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		first, rest, _ := strings.Cut(strings.TrimSpace(paragraph), "\n")
		f := strings.Fields(first)
		if len(f) == 0 {
			continue
		}
		arch := "amd64"
		if len(f) > 2 {
			arch = f[2]
		}
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\n", f[0], f[1], arch)
		for line := range strings.Lines(rest) {
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		b.WriteString("\n")
	}
	return index(t, []byte(b.String()))
}

// shown gives the steps of a plan in their order.
func shown(p *Plan) string {
	var list []string
	for _, s := range p.Steps {
		text := s.String()
		if s.Auto {
			text += "+"
		}
		if s.Old != nil {
			text += "<" + s.Old.Version.String()
		}
		list = append(list, text)
	}
	return strings.Join(list, " ")
}

func TestInstall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, installed, available, args string
		options                          Options
		want                             string // the plan, or what the error says after "!"
	}{
		{"one", "", "a 1", "a", Options{}, "a=1"},
		{"nothing", "a 1", "", "", Options{}, ""},
		{"newest", "", "a 1\n\na 2\n\na 1.5", "a", Options{}, "a=2"},
		{"installed", "a 1", "a 1", "a", Options{}, ""},
		{"upgrade of what is named", "a 1", "a 1\n\na 2", "a", Options{}, "a=2<1"},
		{"no upgrade of what isn't named", "a 1\n\nb 1", "a 2\n\nb 2\n\nc 1\nDepends: b", "c", Options{}, "c=1"},
		{"upgrade that is needed", "b 1", "b 2\n\nc 1\nDepends: b (>= 2)", "c", Options{}, "b=2<1 c=1"},
		{"version", "", "a 1\n\na 2", "a=1", Options{}, "a=1"},
		{"version that starts so", "", "a 1.18.1-1\n\na 1.18.2-1\n\na 1.20", "a=1.18.*", Options{}, "a=1.18.2-1"},
		{"version by a pattern", "", "a 1.1\n\na 1.2\n\na 2.1", "a=?.1", Options{}, "a=2.1"},
		{"version that isn't there", "", "a 1", "a=3", Options{}, "!Version '3' for 'a' was not found"},
		{"architecture", "", "a 1", "a:amd64", Options{}, "a=1"},
		{"other architecture", "", "a 1", "a:i386", Options{}, `!"a:i386": packages of other architectures aren't supported`},
		{"packages of other architectures", "", "a 1 i386\n\nb 1 all", "a", Options{}, "!Unable to locate package a"},
		{"release", "", "a 1", "a/bookworm", Options{}, `!"a/bookworm": files and the choice of a release aren't supported`},
		{"file", "", "a 1", "./a.deb", Options{}, `!"./a.deb": files and the choice of a release aren't supported`},
		{"removal", "a 1", "a 1", "a-", Options{}, `!"a-": packages aren't removed`},
		{"task", "", "a 1", "a^", Options{}, `!"a^": tasks aren't supported`},
		{"pattern", "", "a 1", "a*", Options{}, `!"a*": patterns aren't supported`},
		{"plus", "", "a 1\n\ng++ 1", "a+ g++", Options{}, "a=1 g++=1"},
		{"unknown", "", "a 1", "b c", Options{}, "!Unable to locate package b\nUnable to locate package c"},
		{"priority", "", "a 1", "a", Options{}, "a=1"},

		{"dependencies first", "", "a 1\nDepends: b\n\nb 1\nDepends: c\n\nc 1", "a", Options{}, "c=1+ b=1+ a=1"},
		{"recommends", "", "a 1\nDepends: b\nRecommends: c\nSuggests: d\n\nb 1\nRecommends: e\n\nc 1\n\nd 1\n\ne 1", "a", Options{Recommends: true}, "b=1+ a=1 c=1+ e=1+"},
		{"no recommends", "", "a 1\nDepends: b\nRecommends: c\n\nb 1\n\nc 1", "a", Options{}, "b=1+ a=1"},
		{"recommends that can't be", "", "a 1\nRecommends: b, c, x\n\nb 1\nDepends: y\n\nc 1", "a", Options{Recommends: true}, "a=1 c=1+"},
		{"first alternative", "", "a 1\nDepends: b | c\n\nb 1\n\nc 1", "a", Options{}, "b=1+ a=1"},
		{"second alternative", "", "a 1\nDepends: b | c\n\nb 1\nDepends: x\n\nc 1", "a", Options{}, "c=1+ a=1"},
		{"second alternative without what the first left", "", "a 1\nDepends: b | c\n\nb 1\nDepends: d, e\n\nc 1\n\nd 1\n\ne 1\nDepends: x", "a", Options{}, "c=1+ a=1"},
		{"installed alternative", "c 1", "a 1\nDepends: b | c\n\nb 1\n\nc 1", "a", Options{}, "a=1"},
		{"alternative that can be upgraded", "c 1", "a 1\nDepends: b | c (>= 2)\n\nb 1\n\nc 2", "a", Options{}, "c=2<1 a=1"},
		{"provided", "", "a 1\nDepends: v\n\nb 1\nProvides: v", "a", Options{}, "b=1+ a=1"},
		{"real before provided", "", "a 1\nDepends: v\n\nb 1\nProvides: v\nPriority: required\n\nv 1\nPriority: extra", "a", Options{}, "v=1+ a=1"},
		{"provided by a package of higher priority", "", "a 1\nDepends: v\n\nb 1\nProvides: v\nPriority: optional\n\nc 1\nProvides: v\nPriority: important\n\nd 1\nProvides: v\nPriority: extra", "a", Options{}, "c=1+ a=1"},
		{"provided version", "", "a 1\nDepends: v (>= 2)\n\nb 1\nProvides: v (= 1)\n\nc 1\nProvides: v\n\nd 1\nProvides: v (= 2)", "a", Options{}, "d=1+ a=1"},
		{"no provided version", "", "a 1\nDepends: v (>= 2)\n\nc 1\nProvides: v", "a", Options{}, "!unmet dependencies:\n a : Depends: v (>= 2)\nUnable to correct problems"},
		{"any", "", "a 1\nDepends: p:any (>= 2)\n\np 3\nMulti-Arch: allowed", "a", Options{}, "p=3+ a=1"},
		{"any of what isn't for that", "", "a 1\nDepends: p:any\n\np 3\nMulti-Arch: foreign", "a", Options{}, "!unmet dependencies:\n a : Depends: p:any but it is not going to be installed\n"},
		{"native", "", "a 1\nDepends: p:amd64\n\np 3", "a", Options{}, "p=3+ a=1"},
		{"foreign", "", "a 1\nDepends: q:i386\n\nq 1", "a", Options{}, "!a : Depends: q:i386 but it is not"},
		{"virtual asked for", "", "b 1\nProvides: v", "v", Options{}, "b=1"},
		{"virtual of several", "", "b 1\nProvides: v\n\nc 2\nProvides: v", "v", Options{}, "!Package 'v' has no installation candidate: package v is a virtual package provided by b 1, c 2; you should explicitly select one to install"},
		{"multi-arch same", "", "a 1\nMulti-Arch: same\nDepends: b (= 1)\n\nb 1\nMulti-Arch: same", "a", Options{}, "b=1+ a=1"},
		{"architectures in brackets", "", "a 1\nDepends: b [i386], c [amd64]\n\nc 1", "a", Options{}, "c=1+ a=1"},

		{"unmet", "", "a 1\nDepends: b (>= 2) | x, c\n\nb 1", "a", Options{}, "!The following packages have unmet dependencies:\n a : Depends: b (>= 2) but it is not going to be installed or\n              x but it is not installable\n     Depends: c but it is not installable\nUnable to correct problems, you have held broken packages."},
		{"deeper unmet", "", "a 1\nDepends: b\n\nb 1\nDepends: c (= 2)\n\nc 1", "a", Options{}, "!b : Depends: c (= 2) but it is not going to be installed"},
		{"conflict of two", "", "a 1\nConflicts: b\n\nb 1", "a b", Options{}, "!a : Conflicts: b but 1 is to be installed"},
		{"conflict with what is installed", "b 1", "a 1\nConflicts: b\n\nb 1", "a", Options{}, "!The following packages would be REMOVED, which isn't supported: b"},
		{"conflict with an older version", "b 1", "a 1\nConflicts: b (<< 2)\n\nb 2", "a", Options{}, "a=1 b=2<1"},
		{"conflict with itself", "", "a 1\nConflicts: v\nProvides: v", "a", Options{}, "a=1"},
		{"breaks", "b 1", "a 1\nBreaks: b (<< 2)\n\nb 2", "a", Options{}, "a=1 b=2<1"},
		{"breaks what can't be upgraded", "b 1", "a 1\nBreaks: b", "a", Options{}, "!would be REMOVED, which isn't supported: b"},
		{"alternative because of a conflict", "", "a 1\nDepends: b | c\nConflicts: b\n\nb 1\n\nc 1", "a", Options{}, "c=1+ a=1"},
		{"what depends on the old version", "a 1\n\nb 1\nDepends: a (= 1)", "a 2\n\nb 2\nDepends: a (= 2)", "a", Options{}, "a=2<1 b=2<1"},
		{"others of the same source", "a 1\nSource: s\n\nb 1\nSource: s", "a 2\nSource: s\n\nb 2\nSource: s", "a", Options{}, "a=2<1 b=2<1"},
		{"others of another version of the source", "a 1\nSource: s\n\nb 1\nSource: s", "a 2\nSource: s\n\nb 2.1\nSource: s", "a", Options{}, "a=2<1"},

		{"downgrade", "a 2", "a 1\n\na 2", "a=1", Options{}, "!Packages were downgraded and -y was used without --allow-downgrades: a"},
		{"allowed downgrade", "a 2", "a 1\n\na 2", "a=1", Options{AllowDowngrades: true}, "a=1<2"},
		{"newer installed", "a 3", "a 1", "a", Options{}, ""},
		{"only upgrade", "a 1", "a 2\n\nb 1", "a b", Options{OnlyUpgrade: true}, "a=2<1"},
		{"no upgrade", "a 1", "a 2\n\nb 1", "a b", Options{NoUpgrade: true}, "b=1"},

		{"circle", "", "a 1\nDepends: b\n\nb 1\nDepends: c\n\nc 1\nDepends: a", "a", Options{}, "a=1 c=1+ b=1+"},
		{"circle with pre-depends", "", "a 1\nDepends: b\n\nb 1\nPre-Depends: a", "a", Options{}, "a=1 b=1+"},
		{"broken system", "b 1\nDepends: x", "a 1", "a", Options{}, "!unmet dependencies:\n b : Depends: x but it is not installable\nUnmet dependencies. Try 'apt --fix-broken install'"},
		{"broken system that is repaired", "b 1\nDepends: a", "a 1", "a", Options{}, "a=1"},
		{"bad field", "", "a 1\nDepends: b (>= 2", "a", Options{}, "!Depends of a=1: the version of b doesn't end in )"},
		{"bad field of what nobody wants", "", "a 1\n\nb 1\nDepends: x y", "a", Options{}, "a=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := New("amd64", parse(t, c.installed), parse(t, c.available))
			plan, err := u.Install(strings.Fields(c.args), c.options)
			if want, fails := strings.CutPrefix(c.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// The order is a promise only where one needs the other; here all has one.
			if got := shown(plan); got != c.want {
				t.Errorf("plan %q, want %q", got, c.want)
			}
			ordered(t, u, plan)
		})
	}
}

func TestPriorities(t *testing.T) {
	t.Parallel()
	available := parse(t, "a 1\n\na 2\n\na 3\n\nb 1")
	available[1].Priority = 900
	available[2].Priority = 100
	available[3].Priority = -1
	u := New("amd64", nil, available)
	if plan, err := u.Install([]string{"a"}, Options{}); err != nil || shown(plan) != "a=2" {
		t.Errorf("%v, %v", plan, err)
	}
	if _, err := u.Install([]string{"b"}, Options{}); err == nil || err.Error() != "Package 'b' has no installation candidate" {
		t.Errorf("error %v", err)
	}
	// One with a priority over 1000 is installed over a newer one.
	available = parse(t, "a 1")
	available[0].Priority = 1001
	if plan, err := New("amd64", parse(t, "a 2"), available).Install([]string{"a"}, Options{AllowDowngrades: true}); err != nil || shown(plan) != "a=1<2" {
		t.Errorf("%v, %v", plan, err)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	held := parse(t, "a 1")
	held[0].Hold = true
	u := New("amd64", held, parse(t, "a 2\n\nb 1\nDepends: a (>= 2)"))
	if _, err := u.Install([]string{"b"}, Options{}); err == nil || !strings.Contains(err.Error(), "b : Depends: a (>= 2) but 1 is to be installed") {
		t.Errorf("error %v", err)
	}
	if _, err := u.Install([]string{"a"}, Options{}); err == nil || err.Error() != "Held packages were changed and -y was used without --allow-change-held-packages: a" {
		t.Errorf("error %v", err)
	}
	if plan, err := u.Install([]string{"a"}, Options{AllowHeld: true}); err != nil || shown(plan) != "a=2<1" {
		t.Errorf("%v, %v", plan, err)
	}
	if plan, err := u.Upgrade(false, Options{}); err != nil || shown(plan) != "" || len(plan.KeptBack) != 1 {
		t.Errorf("%v, %v", plan, err)
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, installed, available string
		newPackages                bool
		want, keptBack             string
	}{
		{"all", "a 1\n\nb 1\n\nc 2", "a 2\n\nb 2\n\nc 1\n\nd 1", false, "a=2<1 b=2<1", ""},
		{"new package needed", "a 1\n\nb 1", "a 2\nDepends: n\n\nb 2\n\nn 1", false, "b=2<1", "a"},
		{"new package allowed", "a 1\n\nb 1", "a 2\nDepends: n\n\nb 2\n\nn 1", true, "n=1+ a=2<1 b=2<1", ""},
		{"removal needed", "a 1\n\nb 1", "a 2\nConflicts: b\n\nb 1", true, "", "a"},
		{"together", "a 1\n\nb 1\nDepends: a (= 1)", "a 2\n\nb 2\nDepends: a (= 2)", false, "a=2<1 b=2<1", ""},
		{"one waits for the other", "a 1\n\nb 1\nDepends: a (= 1)", "a 2", false, "", "a"},
		{"new recommendation", "a 1", "a 2\nRecommends: n\n\nn 1", false, "", "a"},
		{"new recommendation installed", "a 1", "a 2\nRecommends: n\n\nn 1", true, "a=2<1 n=1+", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := New("amd64", parse(t, c.installed), parse(t, c.available))
			plan, err := u.Upgrade(c.newPackages, Options{Recommends: true})
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, p := range plan.KeptBack {
				kept = append(kept, p.Name)
			}
			if got := shown(plan); got != c.want || strings.Join(kept, " ") != c.keptBack {
				t.Errorf("plan %q, kept back %s; want %q and %s", got, kept, c.want, c.keptBack)
			}
			ordered(t, u, plan)
		})
	}
	if _, err := New("amd64", parse(t, "a 1\nDepends: x"), nil).Upgrade(false, Options{}); err == nil || !strings.Contains(err.Error(), "Try 'apt --fix-broken install'") {
		t.Errorf("error of a broken system: %v", err)
	}
}

func TestFixBroken(t *testing.T) {
	t.Parallel()
	u := New("amd64", parse(t, "a 1\nDepends: b, c | d\n\ne 1"), parse(t, "b 1\nDepends: f\n\nd 1\n\ne 2\n\nf 1"))
	if plan, err := u.FixBroken(Options{}); err != nil || shown(plan) != "f=1+ b=1+ d=1+" {
		t.Errorf("%v, %v", plan, err)
	}
	var unmet *UnmetError
	if _, err := New("amd64", parse(t, "a 1\nDepends: b"), nil).FixBroken(Options{}); !errors.As(err, &unmet) {
		t.Errorf("error %v", err)
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, installed, available, args, want string }{
		{"unpacked, then configured", "", "a 1\nDepends: b\n\nb 1", "a", "b a, +b +a"},
		{"pre-depends", "", "a 1\nPre-Depends: b\n\nb 1\nDepends: c\n\nc 1\n\nd 1", "a d", "c b +c +b a d, +a +d"},
		{"conflicts with what is upgraded", "b 1", "a 1\nConflicts: b (<< 2)\n\nb 2", "a", "b a, +a +b"},
		{"conflicts of what is upgraded", "b 1\nConflicts: a", "a 1\n\nb 2", "a", "b a, +a +b"},
		{"pre-depends on what is in a circle", "", "a 1\nPre-Depends: b\n\nb 1\nDepends: c\n\nc 1\nDepends: b", "a", "b c +c +b a, +a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := New("amd64", parse(t, c.installed), parse(t, c.available))
			plan, err := u.Install(strings.Fields(c.args), Options{})
			if err != nil {
				t.Fatal(err)
			}
			list, err := u.Actions(plan)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range list {
				if a.Configure {
					got = append(got, "+"+a.Name)
				} else {
					got = append(got, a.Name)
				}
			}
			if want := strings.ReplaceAll(c.want, ",", ""); strings.Join(got, " ") != want {
				t.Errorf("actions %s, want %s", got, want)
			}
		})
	}
	u := New("amd64", nil, parse(t, "a 1\nPre-Depends: b\n\nb 1\nPre-Depends: a"))
	plan, err := u.Install([]string{"a"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Actions(plan); !errors.Is(err, errPreDepends) {
		t.Errorf("error %v", err)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	u := New("amd64", parse(t, "a 1"), parse(t, "a 1\n\nb 1.2\nProvides: v\n\nc 1.18.2"))
	plan, err := u.Install([]string{"a", "v", "c=1.18*"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(plan.Notes, "|"); got != "Note, selecting 'b' instead of 'v'|Selected version '1.18.2' for 'c'|a is already the newest version (1)." {
		t.Errorf("notes %s", got)
	}
	if !slices.Equal(plan.Asked, []string{"a", "b", "c"}) {
		t.Errorf("asked %s", plan.Asked)
	}
}

func TestNewPackage(t *testing.T) {
	t.Parallel()
	for _, fields := range [][]control.Field{
		{{Name: "Version", Value: "1"}}, {{Name: "Package", Value: "a"}}, {{Name: "Package", Value: "a/b"}, {Name: "Version", Value: "1"}},
	} {
		if p, err := NewPackage(&control.Paragraph{Fields: fields}); err == nil {
			t.Errorf("%v: %v", fields, p)
		}
	}
}

// short makes a package, if it can be one.
func short(name, version, rest string) []*Package {
	r := control.NewReader(strings.NewReader("Package: " + name + "\nVersion: " + version + "\nArchitecture: all\n" + rest))
	c, err := r.Next()
	if err != nil {
		return nil
	}
	p, err := NewPackage(c)
	if err != nil {
		return nil
	}
	return []*Package{p}
}

func FuzzInstall(f *testing.F) {
	f.Add("a 1", "a 2\nDepends: b | c (>= 1), v\n\nb 1\nProvides: v (= 1)\nConflicts: c\n\nc 1\nPre-Depends: a", "a b=1")
	f.Fuzz(func(t *testing.T, installed, available, args string) {
		if strings.Count(installed+available, "\n") > 60 {
			return
		}
		read := func(text string) (list []*Package) {
			for paragraph := range strings.SplitSeq(text, "\n\n") {
				first, rest, _ := strings.Cut(paragraph, "\n")
				f := strings.Fields(first)
				if len(f) < 2 || strings.ContainsAny(rest, "\t\r\x00") {
					return nil
				}
				list = append(list, short(f[0], f[1], rest)...)
			}
			return list
		}
		u := New("amd64", read(installed), read(available))
		for _, recommends := range []bool{false, true} {
			plan, err := u.Install(strings.Fields(args), Options{Recommends: recommends, AllowDowngrades: true})
			if err != nil {
				continue
			}
			_, _ = u.Actions(plan)
			_, _ = u.Upgrade(recommends, Options{})
		}
	})
}
