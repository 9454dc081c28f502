package solve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// ladders are versions in ascending order: every pair of a ladder is compared.
var ladders = []string{
	"0 0.0 0.0.1 0.1 0.9 0.10 0.99 1 1.0 1.0.0 1.0.1 1.1 1.2 1.9 1.10 1.99 1.100 2 9 10 11 99 100 20240101 20250101.120000",
	"1.0_alpha 1.0_alpha1 1.0_alpha2 1.0_alpha10 1.0_beta 1.0_beta1 1.0_pre 1.0_pre2 1.0_rc 1.0_rc1 1.0_rc1-r1 1.0_rc2 1.0 1.0-r0 1.0-r1 1.0-r2 1.0-r10 1.0_cvs 1.0_cvs1 1.0_svn 1.0_svn20240101 1.0_git 1.0_git1 1.0_git20250101 1.0_hg 1.0_p 1.0_p1 1.0_p1-r0 1.0_p2 1.0_p10 1.0a 1.0a_p1 1.0b 1.0z 1.0.1 1.1",
	"1.0.00 1.0.001 1.0.01 1.0.02 1.0.09 1.0.1 1.0.2 1.0.10",
	"1.2_rc1_p1 1.2_rc1_p2 1.2_rc2 1.2 1.2_git1_p1 1.2_git2 1.2_p1_p1",
	"3.3.1-r0 3.3.1-r1 3.3.1-r9 3.3.1-r10 3.3.2-r0 3.3.10-r0 3.10.0-r0",
	"8.0.0-r0 8.4.0-r0 8.5.0-r0 8.9.1-r1 8.9.1-r2 8.10.0-r0 8.14.1-r2",
	"1.2.3_git20240101-r0 1.2.3_git20240101-r1 1.2.3_git20240102-r0 1.2.3_p1-r0 1.2.4-r0",
	"20230506-r0 20240226-r0 20240705-r0 20241121-r1 20241121-r2 20250619-r0",
	"2.39-r9 2.40-r0 2.40.1-r0 2.41a 2.41a-r1 2.41b 2.41.1",
	"99999999999999999998 99999999999999999999 100000000000000000000",
}

func TestCompareLadders(t *testing.T) {
	for _, ladder := range ladders {
		list := strings.Fields(ladder)
		for i, a := range list {
			if !ValidVersion(a) {
				t.Errorf("%s is no version", a)
			}
			for j, b := range list {
				want := 0
				if i < j {
					want = -1
				} else if i > j {
					want = 1
				}
				if got := Compare(a, b); got != want {
					t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
				}
			}
		}
	}
}

func TestValidVersion(t *testing.T) {
	for _, v := range strings.Fields("1 1.2.3 1.2a 1.2_rc1 1.2_p1-r0 1.2.3~abcdef0-r1 20240101.120000 0.0.0_git20200101-r0 1.0_rc1_p2") {
		if !ValidVersion(v) {
			t.Errorf("%s is a version", v)
		}
	}
	for _, v := range []string{"", "a", "1.", ".1", "1..2", "1.2ab", "1.2_foo", "1.2-r", "1.2-1", "1.2-rx", "1.2~xyz", "1.2 ", "-r1", "1_", "1.2-r1-r2", "v1"} {
		if ValidVersion(v) {
			t.Errorf("%s is no version", v)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		dependency, yes, no string
	}{
		{"a", "1 2 0.0.1", ""},
		{"a=1.2", "1.2", "1.2.0 1.2-r0 1.1"},
		{"a=1.2-r0", "1.2-r0", "1.2-r1 1.2"},
		{"a<1.2", "1.1 1.2_rc1 1.1.9-r9", "1.2 1.2-r0 1.3"},
		{"a<=1.2", "1.1 1.2", "1.2-r0 1.2.1"},
		{"a>1.2", "1.2-r0 1.2.1 1.3 1.2_p1", "1.2 1.1 1.2_rc1"},
		{"a>=1.2", "1.2 1.2-r0 2", "1.1 1.2_alpha"},
		{"a~1.2", "1.2 1.2.3 1.2-r5 1.2.0_p1 1.2a", "1.20 1.3 1.1 1"},
		{"a=~1.2", "1.2.3", "1.3"},
		{"a~=1.2", "1.2.3", "1.3"},
		{"a>~1.2", "1.2.3 1.3", "1.1"},
		{"a<~1.2", "1.2.3 1.1", "1.3"},
		{"a@edge>1", "2", "1"},
		{"a>1@edge", "2", "1"},
	} {
		d, err := ParseDependency(c.dependency)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range strings.Fields(c.yes) {
			if !d.Matches(v) {
				t.Errorf("%s matches %s", c.dependency, v)
			}
		}
		for _, v := range strings.Fields(c.no) {
			if d.Matches(v) {
				t.Errorf("%s doesn't match %s", c.dependency, v)
			}
		}
	}
}

func TestParseDependency(t *testing.T) {
	for text, want := range map[string]string{
		"a": "a", "!a": "!a", "so:libc.musl-x86_64.so.1": "so:libc.musl-x86_64.so.1", "/bin/sh": "/bin/sh", ".build-deps=20240101.000000": ".build-deps=20240101.000000",
		"a>=1": "a>=1", "a=<1": "a<=1", "a@edge": "a@edge", "a>1@edge": "a@edge>1", "a><Q1abc=": "a><Q1abc=", "!a<2": "!a<2", "a=~1": "a~1", "cmd:bash": "cmd:bash", "g++": "g++",
	} {
		d, err := ParseDependency(text)
		if err != nil || d.String() != want {
			t.Errorf("%s: %s, %v, want %s", text, d, err, want)
		}
	}
	for _, text := range []string{"", "!", "a=", "a>", "a=x", "a==1", "-a", "a b", "a><1", "a@", "=1"} {
		if d, err := ParseDependency(text); err == nil {
			t.Errorf("%q is %v", text, d)
		}
	}
}

// pkg reads "name-version: dep dep | p: provide | i: install_if | k: 10 | installed | tag: t".
func pkg(t testing.TB, text string) *Package {
	t.Helper()
	p := &Package{Untagged: true}
	for i, field := range strings.Split(text, "|") {
		field = strings.TrimSpace(field)
		key, rest, ok := strings.Cut(field, ": ")
		switch {
		case i == 0:
			if !ok {
				key = strings.TrimSuffix(field, ":")
			}
			at := strings.LastIndex(key, "-")
			if strings.HasPrefix(key[at:], "-r") {
				at = strings.LastIndex(key[:at], "-")
			}
			p.Name, p.Version = key[:at], key[at+1:]
			p.Depends = deps(t, rest)
		case key == "p":
			for _, w := range strings.Fields(rest) {
				v, err := ParseProvide(w)
				if err != nil {
					t.Fatal(err)
				}
				p.Provides = append(p.Provides, v)
			}
		case key == "i":
			p.InstallIf = deps(t, rest)
		case key == "k":
			_, _ = fmt.Sscan(rest, &p.ProviderPriority)
		case key == "tag":
			p.Tags, p.Untagged = []string{rest}, false
		case field == "installed":
			p.Installed = true
		case field == "gone":
			p.Installed, p.Repository = true, -1
		}
	}
	p.Checksum = "Q1" + p.Name + p.Version
	return p
}

func deps(t testing.TB, text string) []Dependency {
	t.Helper()
	var list []Dependency
	for _, w := range strings.Fields(text) {
		d, err := ParseDependency(w)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

func TestSolve(t *testing.T) {
	for _, c := range []struct {
		name     string
		universe string // one per line
		world    string
		options  Options
		want     string // in order; or words of the error after "error:"
	}{
		{"the newest of what is new", "a-1\na-3\na-2", "a", Options{}, "a-3"},
		{"what is installed stays", "a-1 | installed\na-2", "a", Options{}, "a-1"},
		{"unless it is upgraded", "a-1 | installed\na-2", "a", Options{Upgrade: map[string]bool{"a": true}}, "a-2"},
		{"or has to", "a-1 | installed\na-2\nb-1: a>1", "a b", Options{}, "a-2 b-1"},
		{"what no repository has stays too", "a-1 | gone\nb-1", "a b", Options{}, "a-1 b-1"},
		{"what nobody needs goes", "a-1 | installed\nb-1 | installed", "a", Options{}, "a-1"},
		{"dependencies come first", "a-1: b c\nb-1: c\nc-1", "a", Options{}, "c-1 b-1 a-1"},
		{"a circle", "a-1: b\nb-1: a", "a", Options{}, "b-1 a-1"},
		{"another name", "curl-8: so:libc.so\nmusl-1 | p: so:libc.so=1", "curl", Options{}, "musl-1 curl-8"},
		{"siblings that pin each other move together", "busybox-1 | installed\nbusybox-binsh-1: busybox=1 | p: /bin/sh | k: 60 | installed\nbase-1: /bin/sh | installed\nbusybox-2\nbusybox-binsh-2: busybox=2 | p: /bin/sh | k: 60",
			"base busybox", Options{Upgrade: map[string]bool{"busybox": true}}, "busybox-2 busybox-binsh-2 base-1"},
		{"and so by upgrading all", "busybox-1 | installed\nbusybox-binsh-1: busybox=1 | p: /bin/sh | k: 60 | installed\nbase-1: /bin/sh | installed\nbusybox-2\nbusybox-binsh-2: busybox=2 | p: /bin/sh | k: 60",
			"base", Options{UpgradeAll: true}, "busybox-2 busybox-binsh-2 base-1"},
		{"an older one if the newest doesn't fit", "a-2: b<2\na-1: b\nb-2\nb-1", "a b>1", Options{}, "b-2 a-1"},
		{"the newest that needs an older one", "a-2: b<2\na-1\nb-2\nb-1", "a", Options{}, "b-1 a-2"},
		{"an impossible pin", "a-1\na-2", "a=3", Options{}, "error: a-1: breaks: world[a=3] a-2"},
		{"all of what is missing", "a-1", "a x y", Options{}, "error: x (no such package): required by: world[x] y (no such package)"},
		{"a dependency that is missing", "a-1: x", "a", Options{}, "error: x (no such package): required by: a-1[x]"},
		{"by priority", "cron-1 | p: crond | k: 1\ndcron-1 | p: crond | k: 5\na-1: crond", "a", Options{}, "dcron-1 a-1"},
		{"without priority nobody is chosen", "x-1 | p: crond\ny-1 | p: crond\na-1: crond", "a", Options{}, "error: crond (virtual): provided by: x y, required by: a-1[crond]"},
		{"unless somebody asked for it", "x-1 | p: crond\ny-1 | p: crond\na-1: crond", "a y", Options{}, "y-1 a-1"},
		{"a conflict", "a-1: !b\nb-1", "a b", Options{}, "error: breaks"},
		{"a conflict of the world", "a-1: b\nb-1\nb-2", "a !b>1", Options{}, "b-1 a-1"},
		{"names with a version exclude each other", "a-1 | p: libx=1\nb-1 | p: libx=2", "a b", Options{}, "error: conflicts"},
		{"names without don't", "a-1 | p: libx\nb-1 | p: libx", "a b", Options{}, "a-1 b-1"},
		{"install_if", "a-1\ndocs-1\na-doc-1: man | i: a=1 docs\nman-1", "a docs", Options{}, "a-1 docs-1 man-1 a-doc-1"},
		{"install_if that isn't met", "a-1\ndocs-1\na-doc-1 | i: a=1 docs", "a", Options{}, "a-1"},
		{"install_if that doesn't fit", "a-1\na-x-1: !a | i: a", "a", Options{}, "a-1"},
		{"install_if after install_if", "a-1\nb-1 | i: a\nc-1 | i: b", "a", Options{}, "a-1 b-1 c-1"},
		{"a tag", "a-1\na-2 | tag: edge", "a", Options{}, "a-1"},
		{"asked for", "a-1\na-2: b>1 | tag: edge\nb-1\nb-2 | tag: edge", "a@edge", Options{}, "b-2 a-2"},
		{"of a tag only what has to", "a-2: b | tag: edge\nb-1\nb-2 | tag: edge", "a@edge", Options{}, "b-1 a-2"},
		{"by checksum", "a-1\na-2", "a><Q1a1", Options{}, "a-1"},
		{"a virtual package", ".deps-20240101.000000: a b\na-1\nb-1", ".deps=20240101.000000", Options{}, "a-1 b-1 .deps-20240101.000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var universe []*Package
			for line := range strings.SplitSeq(c.universe, "\n") {
				universe = append(universe, pkg(t, line))
			}
			for range 3 {
				rand.Shuffle(len(universe), func(i, j int) { universe[i], universe[j] = universe[j], universe[i] })
				got, err := Solve(context.Background(), universe, deps(t, c.world), c.options)
				if words, ok := strings.CutPrefix(c.want, "error: "); ok {
					if err == nil {
						t.Fatalf("%v", names(got))
					}
					for part := range strings.SplitSeq(words, " ") {
						if !strings.Contains(err.Error(), part) {
							t.Errorf("%q isn't in: %v", part, err)
						}
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if strings.Join(names(got), " ") != c.want {
					t.Errorf("%v, want %s", names(got), c.want)
				}
			}
		})
	}
}

func names(list []*Package) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"-"+p.Version)
	}
	return out
}

// holds says what is wrong with a choice; empty if nothing is.
func holds(chosen []*Package, world []Dependency) string {
	met := func(d Dependency) bool {
		return slices.ContainsFunc(chosen, func(p *Package) bool { return matches(p, d) })
	}
	taken := map[string]*Package{}
	for _, p := range chosen {
		list := []string{p.Name}
		for _, v := range p.Provides {
			if v.Version != "" && v.Name != p.Name {
				list = append(list, v.Name)
			}
		}
		for _, name := range list {
			if taken[name] != nil {
				return fmt.Sprintf("%s is there twice", name)
			}
			taken[name] = p
		}
		for _, d := range p.Depends {
			if d.Conflict {
				if slices.ContainsFunc(chosen, func(q *Package) bool { return q != p && matches(q, d) }) {
					return fmt.Sprintf("%s has %s", p.Name, d)
				}
			} else if !met(d) {
				return fmt.Sprintf("%s lacks %s", p.Name, d)
			}
		}
	}
	for _, d := range world {
		if met(d) == d.Conflict {
			return fmt.Sprintf("the world's %s", d)
		}
	}
	return ""
}

// TestExhaustive compares with all choices there are, in small universes.
func TestExhaustive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	solved, unsolved := 0, 0
	for round := range 4000 {
		var universe []*Package
		n := 2 + r.IntN(4)
		word := func() string {
			name := string(rune('a' + r.IntN(n)))
			switch r.IntN(6) {
			case 0:
				return fmt.Sprintf("%s=%d", name, 1+r.IntN(3))
			case 1:
				return fmt.Sprintf("%s<%d", name, 2+r.IntN(2))
			case 2:
				return fmt.Sprintf("%s>%d", name, 1+r.IntN(2))
			case 3:
				return fmt.Sprintf("!%s>%d", name, 1+r.IntN(3))
			}
			return name
		}
		for i := range n {
			for v := range 1 + r.IntN(3) {
				p := &Package{Name: string(rune('a' + i)), Version: fmt.Sprint(v + 1), Untagged: true}
				for range r.IntN(3) {
					p.Depends = append(p.Depends, deps(t, word())...)
				}
				if r.IntN(4) == 0 {
					p.Provides = []Provide{{string(rune('a' + r.IntN(n))), fmt.Sprint(1 + r.IntN(3))}}
					if p.Provides[0].Name == p.Name {
						p.Provides = nil
					}
				}
				p.Installed = r.IntN(5) == 0 && !slices.ContainsFunc(universe, func(q *Package) bool { return q.Name == p.Name && q.Installed })
				universe = append(universe, p)
			}
		}
		world := deps(t, word()+" "+word())
		possible := false
		for bits := range 1 << len(universe) {
			var chosen []*Package
			for i, p := range universe {
				if bits>>i&1 == 1 {
					chosen = append(chosen, p)
				}
			}
			if holds(chosen, world) == "" {
				possible = true
				break
			}
		}
		got, err := Solve(context.Background(), universe, world, Options{UpgradeAll: round%2 == 0})
		switch {
		case err == nil && !possible, err != nil && possible:
			t.Fatalf("possible %v, but %v, %v\n%s\nworld %v", possible, names(got), err, describe(universe), world)
		case err == nil:
			solved++
			if wrong := holds(got, world); wrong != "" {
				t.Fatalf("%s: %v\n%s\nworld %v", wrong, names(got), describe(universe), world)
			}
		default:
			unsolved++
		}
	}
	if solved < 500 || unsolved < 500 {
		t.Errorf("%d solved, %d not: the universes are one-sided", solved, unsolved)
	}
}

func describe(universe []*Package) string {
	var b strings.Builder
	for _, p := range universe {
		fmt.Fprintf(&b, "%s-%s: %v provides %v\n", p.Name, p.Version, p.Depends, p.Provides)
	}
	return b.String()
}

// large is a universe of the size of Alpine's main and community.
func large(n int) []*Package {
	r := rand.New(rand.NewPCG(3, 4))
	list := make([]*Package, 0, n)
	for i := range n {
		p := &Package{Name: fmt.Sprintf("package%d", i), Version: "1.0-r0", Untagged: true, Installed: i < 15,
			Provides: []Provide{{fmt.Sprintf("so:lib%d.so.1", i), "1.0"}, {fmt.Sprintf("cmd:package%d", i), "1.0-r0"}}}
		for range r.IntN(6) {
			if i > 0 {
				p.Depends = append(p.Depends, Dependency{Name: fmt.Sprintf("so:lib%d.so.1", r.IntN(min(i, 400)))})
			}
		}
		if i%10 == 0 && i > 0 {
			p.InstallIf = []Dependency{{Name: fmt.Sprintf("package%d", i-1), Op: Equal, Version: "1.0-r0"}, {Name: "docs"}}
		}
		list = append(list, p)
	}
	return list
}

func TestLarge(t *testing.T) {
	universe := large(25_000)
	begin := time.Now()
	got, err := Solve(context.Background(), universe, deps(t, "package1 package2 package20000 package24999"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d packages chosen in %v", len(got), len(universe), time.Since(begin))
	if wrong := holds(got, nil); wrong != "" {
		t.Error(wrong)
	}
}

func FuzzParseDependency(f *testing.F) {
	for _, s := range []string{"a>=1.2-r0", "!b@edge", "c><Q1x", "so:x=1", "a~=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDependency(s)
		if err != nil {
			return
		}
		again, err := ParseDependency(d.String())
		if err != nil || again != d {
			t.Fatalf("%q is %+v, and written and read again %+v, %v", s, d, again, err)
		}
	})
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0_rc1-r1", "1.0a")
	f.Fuzz(func(t *testing.T, a, b string) {
		if Compare(a, b) != -Compare(b, a) && ValidVersion(a) && ValidVersion(b) {
			t.Fatalf("Compare(%q, %q) = %d, the other way round %d", a, b, Compare(a, b), Compare(b, a))
		}
	})
}

// BenchmarkSolve chooses from an index of the size of Alpine's main and community.
func BenchmarkSolve(b *testing.B) {
	universe := large(25_000)
	world := deps(b, "package1 package2 package20000 package24999")
	for b.Loop() {
		if _, err := Solve(context.Background(), universe, world, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
