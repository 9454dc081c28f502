package prove

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// foreign is a file that doesn't run on the platform of its image.
type foreign struct {
	path     string
	layer    digest.Digest
	machine  string // and what else sets it apart, for counting
	what     string
	severity Severity
}

// judge looks at the whole tree of an image.
func (c *child) judge() {
	s := newStart(c)
	c.keepStart(s)
	started := map[*node]bool{}
	for _, h := range s.programs {
		started[h.node()] = true
	}
	var (
		wrong      []foreign
		loaderless = map[string][]string{} // files by the interpreter that isn't there
		damaged    []string
		loaders    = map[string]*loader{}
		lost       []string // programs without some library
		bases      = map[string]bool{}
	)
	var dynamic []hit
	places := c.searchedPlaces()
	c.tree.walk(hit{c.tree.root(), "/"}, func(h hit) {
		n := h.node()
		if n == nil || n.Kind != kindFile && n.Kind != kindSymlink {
			return
		}
		bases[path.Base(h.path)] = true
		if n.Binary == nil {
			return
		}
		b := *n.Binary
		b.Path = h.path
		c.report.Binaries = append(c.report.Binaries, b)
		if started[n] || c.allowed(h.path) {
			return
		}
		if b.Problem != "" {
			if places[path.Dir(h.path)] {
				damaged = append(damaged, h.path+": "+b.Problem)
			}
			return
		}
		if m := compare(&b, c.platform); m != nil {
			machine := b.Machine
			if m.level {
				machine += " of a higher level"
			} else if !runsFormat(&b, c.platform) {
				machine += " for " + b.system()
			}
			wrong = append(wrong, foreign{h.path, c.layerOf(h).digest, machine, m.what, c.foreignSeverity(h.path, &b, m, places)})
			return
		}
		if b.Kind == kindProgram && b.Interpreter != "" {
			dynamic = append(dynamic, h)
		}
	})
	for _, h := range dynamic {
		b := h.node().Binary
		at, st := c.tree.resolve(b.Interpreter)
		switch {
		case st == unknown:
		case st == absent || at.isDir():
			loaderless[b.Interpreter] = append(loaderless[b.Interpreter], h.path)
		default:
			key := b.Interpreter + b.Architecture
			if loaders[key] == nil {
				loaders[key] = c.newLoader(b)
			}
			l := loaders[key]
			l.more = false
			for _, text := range l.missing(h) {
				// A library that is somewhere may be found by what a script sets.
				name, _, _ := strings.Cut(text, ",")
				if !bases[path.Base(name)] {
					lost = append(lost, text)
				}
			}
		}
	}
	c.reportForeign(wrong)
	c.reportList(RuleUnreadable, damaged, "program is", "programs are", "damaged: no system runs")
	c.reportLibraries(loaderless, lost)
}

// searchedPlaces are the directories, symbolic links resolved, in which
// programs and libraries are looked for by name.
func (c *child) searchedPlaces() map[string]bool {
	s := &start{child: c}
	l := &loader{tree: c.tree}
	dirs := slices.Concat(strings.Split(s.path(), ":"), strings.Split(defaultPath, ":"), libraryDirs(c.tree, c.platform.Architecture), l.settings())
	if p, ok := c.env("LD_LIBRARY_PATH"); ok {
		dirs = append(dirs, strings.Split(p, ":")...)
	}
	if c.platform.OS == "windows" {
		dirs = []string{"/Windows/System32", "/Windows"}
	}
	places := map[string]bool{}
	for _, dir := range dirs {
		if h, st := c.tree.resolve(dir); st == found && h.path != "/" {
			places[h.path] = true
		}
	}
	return places
}

// foreignSeverity says how much it matters that a file is for another machine.
// Where the system looks for programs by name, and for what is marked as
// executable, it is an error. Toolchains, package managers and bundles of
// prebuilt modules have files for other machines on purpose: a directory named
// for the machine, or a file that nothing on this system could start, is none.
func (c *child) foreignSeverity(file string, b *Binary, m *mismatch, places map[string]bool) Severity {
	searched := places[path.Dir(file)]
	switch {
	case m.mild:
		return Warning
	case !runsFormat(b, c.platform) && b.OS != c.platform.OS:
		switch {
		case searched && b.Mode&0o111 != 0:
			return Error
		case b.Mode&0o111 != 0:
			return Warning
		}
		return Info // such as the launchers that pip brings for Windows
	case c.platform.OS == "windows" && (b.Architecture == "386" || b.Architecture == "amd64" && c.platform.Architecture == "arm64"):
		return Info // Windows runs them
	case searched:
		return Error
	case b.Kind == kindObject || b.Kind == kindCore, strings.HasPrefix(file, "/lib/firmware/"), strings.HasPrefix(file, "/usr/lib/firmware/"):
		return Info // not run by this processor
	case namesMachine(path.Dir(file), b.Architecture), b.Mode&0o111 == 0:
		return Warning
	}
	return Error
}

// spellings are how directories name an architecture.
var spellings = map[string][]string{
	"386": {"386", "i386", "i486", "i586", "i686", "x86", "ia32"}, "amd64": {"amd64", "x86_64", "x64"},
	"arm": {"arm", "armel", "armhf", "armv5", "armv6", "armv7", "armv6l", "armv7l", "gnueabihf"}, "arm64": {"arm64", "aarch64"},
	"loong64": {"loong64", "loongarch64"}, "mips": {"mips"}, "mipsle": {"mipsle", "mipsel"}, "mips64": {"mips64"}, "mips64le": {"mips64le", "mips64el"},
	"ppc64": {"ppc64", "powerpc64"}, "ppc64le": {"ppc64le", "ppc64el", "powerpc64le"}, "riscv64": {"riscv64"}, "s390x": {"s390x"},
}

// namesMachine reports whether a directory is named for an architecture, as in
// prebuilds/linux-arm64.
func namesMachine(dir, architecture string) bool {
	dir = strings.ReplaceAll(strings.ToLower(dir), "x86-64", "x86_64")
	words := strings.FieldsFunc(dir, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	})
	for _, word := range words {
		if slices.Contains(spellings[architecture], word) {
			return true
		}
		for part := range strings.SplitSeq(word, "_") {
			if slices.Contains(spellings[architecture], part) && part != "x86" {
				return true
			}
		}
	}
	return false
}

// reportForeign makes one finding of all files for other machines. Those that
// matter little are only mentioned if there is nothing worse.
func (c *child) reportForeign(wrong []foreign) {
	if len(wrong) == 0 {
		return
	}
	slices.SortStableFunc(wrong, func(a, b foreign) int {
		return cmp.Or(cmp.Compare(b.severity.rank(), a.severity.rank()), cmp.Compare(a.path, b.path))
	})
	severity := wrong[0].severity
	if severity != Info {
		wrong = slices.DeleteFunc(wrong, func(w foreign) bool { return w.severity == Info })
	}
	counts := map[string]int{}
	var machines, lines []string
	f := c.finding(RulePrograms, severity, "", "docker buildx build --platform "+c.platform.String()+" . resolves FROM per platform, and so does anyarch build",
		"if they are meant to be there: --allow '"+path.Dir(wrong[0].path)+"/**'")
	f.Path, f.Layer = wrong[0].path, wrong[0].layer
	width := 0
	for _, w := range wrong[:min(len(wrong), maxShown)] {
		width = max(width, len(w.path))
	}
	for _, w := range wrong {
		if counts[w.machine]++; counts[w.machine] == 1 {
			machines = append(machines, w.machine)
		}
		lines = append(lines, fmt.Sprintf("%-*s  %s", width, w.path, w.what))
		if len(f.Files) < maxFiles {
			f.Files = append(f.Files, w.path)
		}
	}
	slices.SortStableFunc(machines, func(a, b string) int { return cmp.Compare(counts[b], counts[a]) })
	parts := make([]string, len(machines))
	for i, m := range machines {
		parts[i] = fmt.Sprintf("%d %s", counts[m], m)
	}
	switch {
	case len(wrong) == 1:
		f.Summary = fmt.Sprintf("%s is %s", wrong[0].path, wrong[0].what)
	case len(machines) == 1:
		f.Summary = fmt.Sprintf("%d files are %s", len(wrong), machines[0])
	default:
		f.Summary = fmt.Sprintf("%d files are for other machines: %s", len(wrong), strings.Join(parts, ", "))
	}
	if b := c.report.EntrypointBinary; b != nil && compare(b, c.platform) == nil && severity == Error {
		f.Summary += fmt.Sprintf(" (the entrypoint is %s)", b.Machine)
	}
	f.Seen = shorten(lines)
	c.add(f)
}

// reportList makes one warning of several files.
func (c *child) reportList(rule string, lines []string, one, many, what string) {
	if len(lines) == 0 {
		return
	}
	noun := one
	if len(lines) > 1 {
		noun = many
	}
	f := c.finding(rule, Warning, fmt.Sprintf("%d %s %s", len(lines), noun, what))
	f.Seen = shorten(lines)
	c.add(f)
}

// reportLibraries reports programs other than the entrypoint that can't be
// loaded.
func (c *child) reportLibraries(loaderless map[string][]string, lost []string) {
	interpreters := make([]string, 0, len(loaderless))
	for name := range loaderless {
		interpreters = append(interpreters, name)
	}
	slices.Sort(interpreters)
	for _, name := range interpreters {
		files := loaderless[name]
		f := c.finding(RuleLibraries, Warning, fmt.Sprintf("%d programs need %s, which isn't in the image", len(files), name), libraryFix...)
		if len(files) == 1 {
			f.Summary = fmt.Sprintf("%s needs %s, which isn't in the image", files[0], name)
		}
		f.Path, f.Seen, f.Files = files[0], shorten(files), files[:min(len(files), maxFiles)]
		c.add(f)
	}
	if len(lost) > 0 {
		f := c.finding(RuleLibraries, Warning, "programs need libraries that aren't in the image", libraryFix...)
		f.Seen = shorten(lost)
		c.add(f)
	}
}
