package solve

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// How much apt is asked. What is asked by default takes some seconds; who changes the
// solver should ask for hundreds.
var (
	askPackages = flag.Int("packages", 2, "how many packages of the archive, by chance, are compared with apt")
	askWorlds   = flag.Int("worlds", 10, "how many small archives, made by chance, are compared with apt")
	firstWorld  = flag.Int("first", 0, "the first of these archives")
	askSystems  = flag.Bool("systems", false, "compare upgrades of big systems with apt too")
)

// index reads paragraphs.
func index(t testing.TB, data []byte) []*Package {
	t.Helper()
	r := control.NewReader(bytes.NewReader(data))
	var list []*Package
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPackage(c)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// hostIndexes reads the indexes that the apt of the host has fetched.
func hostIndexes(t testing.TB) (arch string, available []*Package) {
	t.Helper()
	if testing.Short() {
		t.Skip("apt isn't asked in a short test")
	}
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").Output()
	if err != nil || len(out) == 0 {
		t.Skipf("no apt on this host, or no indexes: %v", err)
	}
	for _, file := range strings.Fields(string(out)) {
		data, err := exec.Command("/usr/lib/apt/apt-helper", "cat-file", file).Output()
		if err != nil {
			t.Skipf("%s: %v", file, err)
		}
		available = append(available, index(t, data)...)
	}
	out, err = exec.Command("dpkg", "--print-architecture").Output()
	if err != nil || len(available) == 0 {
		t.Skipf("no indexes on this host: %v", err)
	}
	return strings.TrimSpace(string(out)), available
}

// status writes installed packages as a status file.
func status(list []*Package) []byte {
	var b []byte
	for _, p := range list {
		c := p.Control.Clone()
		c.Set("Status", map[bool]string{false: "install ok installed", true: "hold ok installed"}[p.Hold])
		b = append(c.Append(b), '\n')
	}
	return b
}

// apt lets apt-get simulate something on a system of these packages. It gives a line
// for each package that would be installed, sorted, or the output of its failure.
func apt(t testing.TB, installed []*Package, args ...string) (steps []string, failed string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "status")
	if err := os.WriteFile(file, status(installed), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("apt-get", append([]string{"-s", "-y", "-q", "-o", "Dir::State::status=" + file, "-o", "Dir::State::extended_states=" + dir + "/extended",
		"-o", "Dir::Cache=" + dir, "-o", "Debug::NoLocking=1", "-o", "APT::Get::Show-User-Simulation-Note=0"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, string(out)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[0] == "Inst":
			version := strings.TrimPrefix(f[2], "(")
			if strings.HasPrefix(f[2], "[") {
				version = strings.TrimPrefix(f[3], "(")
			}
			steps = append(steps, f[1]+"="+version)
		case len(f) > 1 && f[0] == "Remv":
			steps = append(steps, "-"+f[1])
		}
	}
	slices.Sort(steps)
	return steps, ""
}

// names gives a plan in the same form.
func names(p *Plan) []string {
	var list []string
	for _, s := range p.Steps {
		list = append(list, s.Name+"="+s.Version.String())
	}
	slices.Sort(list)
	return list
}

// base is a small system: what a container image of Debian has.
func base(t testing.TB, arch string, available []*Package) []*Package {
	t.Helper()
	plan, err := New(arch, nil, available).Install(baseNames(available), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var list []*Package
	for _, s := range plan.Steps {
		list = append(list, s.Package)
	}
	return list
}

// agree compares a plan with that of apt.
func agree(t testing.TB, u *Universe, installed []*Package, o Options, args ...string) bool {
	t.Helper()
	flags := []string{"install"}
	if !o.Recommends {
		flags = append(flags, "--no-install-recommends")
	}
	want, failed := apt(t, installed, append(flags, args...)...)
	plan, err := u.Install(args, o)
	var removal *RemovalError
	removes := slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, "-") })
	switch {
	case failed != "" && err != nil:
		return true
	case failed != "":
		t.Errorf("%s: apt fails: %s\nplanned: %s", args, failed, names(plan))
	case errors.As(err, &removal) && removes:
		return true
	case err != nil:
		t.Errorf("%s: %v\napt: %s", args, err, want)
	case !slices.Equal(names(plan), want):
		got := names(plan)
		more := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return slices.Contains(want, s) })
		less := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(got, s) })
		t.Errorf("%s: %d packages; apt has %d; only here %s; only there %s", args, len(got), len(want), more, less)
	default:
		ordered(t, u, plan)
		return true
	}
	return false
}

// ordered checks that the order of a plan does what it promises.
func ordered(t testing.TB, u *Universe, plan *Plan) {
	t.Helper()
	list, err := u.Actions(plan)
	if err != nil {
		t.Error(err)
		return
	}
	unpacked, configured := map[string]int{}, map[string]int{}
	for i, a := range list {
		if a.Configure {
			configured[a.Name] = i + 1
		} else {
			unpacked[a.Name] = i + 1
		}
	}
	if len(unpacked) != len(plan.Steps) || len(configured) != len(plan.Steps) {
		t.Errorf("%d packages are unpacked and %d configured, of %d", len(unpacked), len(configured), len(plan.Steps))
	}
	for _, s := range plan.Steps {
		if configured[s.Name] < unpacked[s.Name] {
			t.Errorf("%s is configured before it is unpacked", s.Name)
		}
		for _, a := range list {
			for _, d := range s.dependencies {
				if d.kind != preDepends || len(d.any) > 1 || d.any[0].Name != a.Name || !a.Configure {
					continue
				}
				if configured[a.Name] > unpacked[s.Name] {
					t.Errorf("%s is unpacked before %s is configured, which it pre-depends on", s.Name, a.Name)
				}
			}
		}
	}
}

// TestLikeApt installs packages of the archive on a small system.
func TestLikeApt(t *testing.T) {
	t.Parallel()
	arch, available := hostIndexes(t)
	installed := base(t, arch, available)
	if want, failed := apt(t, nil, append([]string{"install", "--no-install-recommends"}, baseNames(available)...)...); failed != "" || !slices.Equal(want, planNames(installed)) {
		t.Errorf("the base is\n%s\napt has\n%s %s", planNames(installed), want, failed)
	}
	u := New(arch, installed, available)
	for i, args := range [][]string{
		{"ca-certificates", "git"}, {"build-essential"}, {"default-jre-headless"}, {"mail-transport-agent"}, {"awk"}, {"no-such-package"},
	} {
		agree(t, u, installed, Options{Recommends: i%2 == 0}, args...)
	}
	random := rand.New(rand.NewPCG(3, 4))
	good := 0
	for range *askPackages {
		name := available[random.IntN(len(available))].Name
		if agree(t, u, installed, Options{Recommends: random.IntN(2) == 0}, name) {
			good++
		}
	}
	t.Logf("%d of %d random packages as apt has them", good, *askPackages)
}

func baseNames(available []*Package) []string {
	args := []string{"apt"}
	for _, p := range available {
		if (yes(p, "Essential") || p.Control.Get("Priority") == "required") && !slices.Contains(args, p.Name) {
			args = append(args, p.Name)
		}
	}
	return args
}

func planNames(list []*Package) []string {
	var names []string
	for _, p := range list {
		names = append(names, p.String())
	}
	slices.Sort(names)
	return names
}

// older makes an older system of one: the packages of some sources get versions that
// are just before theirs, in their own relationships too.
func older(t testing.TB, installed []*Package, chosen func(source string) bool) []*Package {
	t.Helper()
	versions := map[string]string{}
	for _, p := range installed {
		if name, _ := p.source(); chosen(name) {
			versions[p.Name] = p.Control.Get("Version")
		}
	}
	var list []*Package
	for _, p := range installed {
		c := p.Control.Clone()
		if v, ok := versions[p.Name]; ok {
			c.Set("Version", v+"~~old")
		}
		for _, field := range []string{"Depends", "Pre-Depends", "Breaks", "Conflicts", "Provides", "Recommends"} {
			relations, err := control.ParseRelations(c.Get(field))
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range relations {
				for i := range a {
					// What was so must be so.
					v, ok := versions[a[i].Name]
					if ok && a[i].Satisfied(control.LaxVersion(v)) != a[i].Satisfied(control.LaxVersion(v+"~~old")) {
						a[i].Version = v + "~~old"
					}
				}
			}
			if len(relations) > 0 {
				c.Set(field, control.FormatRelations(relations))
			}
		}
		q, err := NewPackage(c)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, q)
	}
	return list
}

// hostInstalled reads what is installed on the host.
func hostInstalled(t testing.TB) []*Package {
	t.Helper()
	data, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Skip("no dpkg on this host")
	}
	return slices.DeleteFunc(index(t, data), func(p *Package) bool { return p.Control.Get("Status") != "install ok installed" })
}

// TestUpgradeLikeApt upgrades systems, and installs packages on them.
func TestUpgradeLikeApt(t *testing.T) {
	t.Parallel()
	arch, available := hostIndexes(t)
	host := hostInstalled(t)
	sum := func(s string) (n int) {
		for _, c := range s {
			n = n*31 + int(c)
		}
		return n & 0xffff
	}
	small := base(t, arch, available)
	list := map[string][]*Package{
		"host":            host,
		"older host":      older(t, host, func(source string) bool { return sum(source)%3 == 0 }),
		"older small":     older(t, small, func(source string) bool { return sum(source)%2 == 0 }),
		"all small older": older(t, small, func(string) bool { return true }),
	}
	for name, installed := range list {
		if !*askSystems && name != "older small" {
			continue
		}
		u := New(arch, installed, available)
		for _, newPackages := range []bool{false, true} {
			flags := []string{"upgrade"}
			if newPackages {
				flags = append(flags, "--with-new-pkgs")
			}
			want, failed := apt(t, installed, flags...)
			plan, err := u.Upgrade(newPackages, Options{Recommends: true})
			switch {
			case err != nil && failed != "":
			case err != nil || failed != "":
				t.Errorf("%s, %s: %v; apt: %s", name, flags, err, failed)
			case !slices.Equal(names(plan), want):
				t.Errorf("%s, %s:\n%s\napt has\n%s", name, flags, names(plan), want)
			default:
				ordered(t, u, plan)
				t.Logf("%s, %s: %d packages, %d kept back", name, flags, len(plan.Steps), len(plan.KeptBack))
			}
		}
		for i, args := range [][]string{{"libc6-dev"}, {"perl"}, {"curl"}, {"libssl-dev"}, {"systemd"}, {"python3-dev"}, {"gcc", "g++"}, {"libgcc-s1"}} {
			if !*askSystems && i >= 2 {
				break
			}
			agree(t, u, installed, Options{Recommends: true}, args...)
		}
	}
}

// archive makes a directory that apt gets packages from, and gives the options for it.
func archive(t testing.TB, available []*Package) []string {
	t.Helper()
	dir := t.TempDir()
	var b []byte
	for _, p := range available {
		c := p.Control.Clone()
		c.Set("Filename", "./"+p.Name+"_"+p.Version.String()+".deb")
		c.Set("Size", "1000")
		c.Set("SHA256", strings.Repeat("0", 64))
		b = append(c.Append(b), '\n')
	}
	for _, sub := range []string{"repo", "lists/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(dir, "sources.list")
	for name, data := range map[string][]byte{filepath.Join(dir, "repo/Packages"): b, list: []byte("deb [trusted=yes] file:" + dir + "/repo ./\n")} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	options := []string{"-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::Etc::preferencesparts=-", "-o", "Dir::State::lists=" + dir + "/lists", "-o", "APT::Sandbox::User=root"}
	empty := filepath.Join(dir, "status")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	update := append([]string{"update", "-q", "-o", "Dir::State::status=" + empty, "-o", "Dir::Cache=" + dir, "-o", "Debug::NoLocking=1"}, options...)
	if out, err := exec.Command("apt-get", update...).CombinedOutput(); err != nil {
		t.Skipf("apt-get update: %v: %s", err, out)
	}
	return options
}

// world makes a small archive by chance, and a system of some of its packages.
func world(t testing.TB, random *rand.Rand, arch string) (installed, available []*Package) {
	t.Helper()
	letters := "abcdefghij"
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	name := func() string { return string(letters[random.IntN(len(letters))]) }
	relation := func() string {
		r := name()
		if random.IntN(8) == 0 {
			r = pick("virtual", "other")
		}
		if random.IntN(3) == 0 {
			r += pick(" (>= ", " (<< ", " (= ", " (>> ", " (<= ") + pick("1", "2", "3") + ")"
		}
		return r
	}
	var text, there strings.Builder
	for _, c := range letters {
		for version := 1; version <= 3; version++ {
			if random.IntN(2) == 0 {
				continue
			}
			var b strings.Builder
			fmt.Fprintf(&b, "Package: %c\nVersion: %d\nArchitecture: %s\nMaintainer: x\nDescription: y\nPriority: %s\n", c, version, pick(arch, "all"), pick("optional", "optional", "required", "extra"))
			if random.IntN(6) == 0 {
				fmt.Fprintf(&b, "Source: %s (%d)\n", name(), version)
			}
			for _, f := range []struct {
				field  string
				chance int
			}{{"Depends", 2}, {"Pre-Depends", 25}, {"Recommends", 5}, {"Conflicts", 8}, {"Breaks", 6}} {
				var list []string
				for random.IntN(f.chance) == 0 && len(list) < 3 {
					r := relation()
					if random.IntN(3) == 0 && f.field != "Conflicts" && f.field != "Breaks" {
						r += " | " + relation()
					}
					list = append(list, r)
				}
				if len(list) > 0 {
					fmt.Fprintf(&b, "%s: %s\n", f.field, strings.Join(list, ", "))
				}
			}
			if random.IntN(5) == 0 {
				fmt.Fprintf(&b, "Provides: %s%s\n", pick("virtual", "other", name()), pick("", " (= 1)", " (= 2)"))
			}
			b.WriteByte('\n')
			text.WriteString(b.String())
			if random.IntN(4) == 0 {
				there.Reset()
			}
			if random.IntN(3) == 0 && !strings.Contains(there.String(), fmt.Sprintf("Package: %c\n", c)) {
				there.WriteString(b.String())
			}
		}
	}
	return index(t, []byte(there.String())), index(t, []byte(text.String()))
}

// TestWorldsLikeApt asks apt about small worlds made by chance. Where apt finds a way
// after what was marked first doesn't go together, here it is an error; nothing else
// may differ.
func TestWorldsLikeApt(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("apt-get"); err != nil || testing.Short() {
		t.Skip("no apt on this host, or a short test")
	}
	kinds := map[string]int{}
	for seed := *firstWorld; seed < *firstWorld+*askWorlds; seed++ {
		random := rand.New(rand.NewPCG(uint64(seed), 7))
		installed, available := world(t, random, "amd64")
		u := New("amd64", installed, available)
		options := archive(t, available)
		for range 6 {
			var args, flags []string
			o := Options{Recommends: random.IntN(2) == 0}
			var plan *Plan
			var err error
			if random.IntN(8) == 0 {
				flags = []string{"install", "--fix-broken"}
				plan, err = u.FixBroken(o)
			} else if random.IntN(4) == 0 {
				newPackages := random.IntN(2) == 0
				flags = []string{"upgrade"}
				if newPackages {
					flags = append(flags, "--with-new-pkgs")
				}
				plan, err = u.Upgrade(newPackages, o)
			} else {
				for len(args) < 1+random.IntN(2) {
					args = append(args, string("abcdefghij"[random.IntN(10)]))
				}
				flags = []string{"install"}
				plan, err = u.Install(args, o)
			}
			if !o.Recommends {
				flags = append(flags, "--no-install-recommends")
			}
			want, failed := apt(t, installed, append(append(slices.Clone(options), flags...), args...)...)
			removes := slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, "-") })
			var removal *RemovalError
			what := ""
			switch {
			case failed != "" && err != nil:
				what = "both fail"
			case errors.As(err, &removal) && removes:
				what = "both remove"
			case err != nil && removes:
				what = "apt removes, here it fails"
			case err != nil:
				what = "apt finds a way, here it fails"
			case strings.Contains(failed, " newly installed, "):
				what = "apt finds no order"
			case failed != "" && slices.Contains(flags, "--with-new-pkgs"):
				what = "another package is kept back"
			case failed != "":
				what = "here is a way, apt fails"
			case slices.Equal(names(plan), want):
				what = "the same"
				if len(want) == 0 {
					what = "the same: nothing"
				}
				ordered(t, u, plan)
			case slices.Contains(flags, "--with-new-pkgs"):
				// apt has an order of its own in which it keeps packages back.
				what = "another package is kept back"
			case slices.Contains(flags, "--fix-broken"):
				what = "another way"
			default:
				what = "different"
			}
			kinds[strings.Join(flags, " ")+": "+what]++
			if what == "different" || what == "here is a way, apt fails" {
				t.Errorf("seed %d: %s %s: %s\nhere %v\napt %s%s\ninstalled:\n%s\navailable:\n%s", seed, flags, args, what, names(plan), want, failed, status(installed), status(available))
			}
			if what == "apt finds a way, here it fails" && testing.Verbose() {
				t.Logf("seed %d: %s %s: %s\nhere %v\napt %s%s\ninstalled:\n%s\navailable:\n%s", seed, flags, args, what, err, want, failed, status(installed), status(available))
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%4d %s", kinds[k], k)
	}
}

// BenchmarkInstall reads the indexes once and asks again and again.
func BenchmarkInstall(b *testing.B) {
	arch, available := hostIndexes(b)
	installed := base(b, arch, available)
	b.Run("New", func(b *testing.B) {
		for b.Loop() {
			New(arch, installed, available)
		}
	})
	u := New(arch, installed, available)
	b.Run("Install", func(b *testing.B) {
		for b.Loop() {
			if _, err := u.Install([]string{"build-essential", "curl", "git"}, Options{Recommends: true}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
