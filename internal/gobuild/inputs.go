package gobuild

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/anyarch/anyarch/internal/fingerprint"
	"github.com/anyarch/anyarch/internal/platform"
)

// errUnknownInputs is why a build can't be fingerprinted: what it reads isn't known
// for sure. It is built again each time.
var errUnknownInputs = errors.New("not all that the build reads is known")

// knowable reports whether a build reads only what is found by inputs. A C compiler
// reads headers that nobody lists, and some flags name files; in doubt go is asked.
func (b *Builder) knowable(g *group, p platform.Platform) bool {
	if b.CC[p] != "" {
		return false
	}
	for _, flag := range g.flags.Extra {
		switch name, _ := flagName(flag); name {
		case "-mod", "-modcacherw", "-p", "-v", "-trimpath", "-buildvcs":
		default:
			return false
		}
	}
	for _, kv := range g.flags.Env {
		if key, _, _ := strings.Cut(kv, "="); key != "GOEXPERIMENT" && key != "CGO_ENABLED" {
			return false
		}
	}
	for _, lists := range g.ldflags {
		for _, field := range strings.Fields(strings.Join(lists, " ")) {
			if !strings.HasPrefix(strings.TrimLeft(field, `'"`), "-") {
				continue // a value
			}
			switch name, _ := flagName(strings.Trim(field, `'"`)); name {
			case "-s", "-w", "-X", "-buildid", "-compressdwarf", "-checklinkname":
			default:
				return false
			}
		}
	}
	return true
}

// dependency is what `go list -deps` says of one package.
type dependency struct {
	ImportPath    string
	Dir           string
	Standard      bool
	Incomplete    bool
	CgoFiles      []string
	EmbedPatterns []string
	EmbedFiles    []string
	Module        *listedModule
	Error         *struct{ Err string }
}

type listedModule struct {
	Path, Dir string
	Main      bool
	Replace   *struct{ Dir, Version string }
}

const dependencyFields = "-json=ImportPath,Dir,Standard,Incomplete,CgoFiles,EmbedPatterns,EmbedFiles,Module,Error"

// sources collects the inputs of a build.
type sources struct {
	inputs  []fingerprint.Input
	sealed  []string // directories in which nobody edits
	modules []localModule
}

// localModule is one whose sources are edited here.
type localModule struct{ path, dir string }

func (s *sources) add(in ...fingerprint.Input) { s.inputs = append(s.inputs, in...) }

func named(dir string, names ...string) fingerprint.Input {
	return fingerprint.Input{Dir: dir, Filter: fingerprint.Named, Names: names}
}

// environment finds the inputs that are known before any package is: toolchain,
// workspace, go.mod of all modules that are edited here.
func (b *Builder) environment(root string, env []string) (*sources, error) {
	s := &sources{}
	goroot, ok := b.Toolchain.Home()
	if !ok {
		return nil, errUnknownInputs // a script that chooses one, perhaps
	}
	bin := filepath.Dir(b.Toolchain.Path())
	s.add(named(bin, filepath.Base(b.Toolchain.Path())), fingerprint.Input{Dir: bin, Filter: fingerprint.Toolchains})
	s.addGoroot(goroot)
	modules, _ := b.Toolchain.Caches()
	s.sealed = append(s.sealed, modules)
	s.addModule(root)
	if work := lastValue(env, "GOWORK"); work != "" && work != "off" {
		s.addWorkspace(work)
	}
	return s, nil
}

func lastValue(env []string, key string) (value string) {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			value = v
		}
	}
	return value
}

// addGoroot adds what decides what a toolchain does. Its packages are added as they
// are imported.
func (s *sources) addGoroot(goroot string) {
	if slices.Contains(s.sealed, goroot) {
		return
	}
	s.sealed = append(s.sealed, goroot)
	s.add(named(goroot, "VERSION", "go.env"))
	dirs := []string{filepath.Join(goroot, "bin"), filepath.Join(goroot, "pkg", "include")}
	if tools, err := filepath.Glob(filepath.Join(goroot, "pkg", "tool", "*")); err == nil {
		dirs = append(dirs, tools...)
	}
	for _, dir := range dirs {
		s.add(fingerprint.Input{Dir: dir, Filter: fingerprint.Everything, Sealed: true})
	}
}

// addModule adds a module that is edited here, and what its go.mod puts in the place
// of others.
func (s *sources) addModule(dir string) {
	if slices.ContainsFunc(s.modules, func(m localModule) bool { return m.dir == dir }) {
		return
	}
	vendor := filepath.Join(dir, "vendor")
	s.sealed = append(s.sealed, vendor)
	s.add(named(dir, "go.mod", "go.sum", "vendor"), named(vendor, "modules.txt"))
	file := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		s.modules = append(s.modules, localModule{"", dir})
		return
	}
	s.modules = append(s.modules, localModule{modfile.ModulePath(data), dir})
	if mod, err := modfile.Parse(file, data, func(_, v string) (string, error) { return v, nil }); err == nil {
		s.addReplaced(dir, mod.Replace)
	}
}

func (s *sources) addReplaced(dir string, replaced []*modfile.Replace) {
	for _, r := range replaced {
		if r.New.Version != "" || !modfile.IsDirectoryPath(r.New.Path) {
			continue
		}
		target := filepath.FromSlash(r.New.Path)
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		s.add(named(target, "go.mod", "go.sum", "vendor"))
		s.modules = append(s.modules, localModule{r.Old.Path, target})
	}
}

func (s *sources) addWorkspace(work string) {
	dir := filepath.Dir(work)
	vendor := filepath.Join(dir, "vendor")
	s.sealed = append(s.sealed, vendor)
	s.add(named(dir, filepath.Base(work), "go.work.sum", "vendor"), named(vendor, "modules.txt"))
	data, err := os.ReadFile(work)
	if err != nil {
		return
	}
	file, err := modfile.ParseWork(work, data, nil)
	if err != nil {
		return
	}
	for _, use := range file.Use {
		used := filepath.FromSlash(use.Path)
		if !filepath.IsAbs(used) {
			used = filepath.Join(dir, used)
		}
		s.addModule(used)
	}
	s.addReplaced(dir, file.Replace)
}

// inputs lists all that a build of packages for p reads, and the directories of the
// packages, by import path.
func (b *Builder) inputs(ctx context.Context, g *group, p platform.Platform, env []string) ([]fingerprint.Input, map[string]string, error) {
	s, err := b.environment(g.root, env)
	if err != nil {
		return nil, nil, err
	}
	args := []string{"-deps", dependencyFields}
	for _, pkg := range g.packages {
		args = append(args, pkg.ImportPath)
	}
	all, err := golist[dependency](ctx, b, g.root, p, g.flags, args...)
	if err != nil {
		return nil, nil, err
	}
	for _, pkg := range all {
		if pkg.ImportPath == "unsafe" { // every program has it; the toolchain may be one that go.mod asks for
			s.addGoroot(strings.TrimSuffix(pkg.Dir, filepath.Join(string(filepath.Separator), "src", pkg.ImportPath)))
		}
	}
	dirs := map[string]string{}
	for _, pkg := range all {
		if pkg.Error != nil || pkg.Incomplete || len(pkg.CgoFiles) > 0 || pkg.Dir == "" {
			return nil, nil, errUnknownInputs
		}
		if err := s.addPackage(pkg); err != nil {
			return nil, nil, err
		}
		dirs[pkg.ImportPath] = pkg.Dir
	}
	return s.inputs, dirs, nil
}

// isSealed reports whether a directory belongs to the toolchain, the module cache or
// a vendor directory.
func (s *sources) isSealed(dir string) bool {
	return slices.ContainsFunc(s.sealed, func(top string) bool { return below(top, dir) })
}

func below(top, dir string) bool {
	return dir == top || strings.HasPrefix(dir, strings.TrimSuffix(top, string(filepath.Separator))+string(filepath.Separator))
}

func (s *sources) addPackage(pkg dependency) error {
	s.addRivals(pkg)
	if s.isSealed(pkg.Dir) {
		s.add(fingerprint.Input{Dir: pkg.Dir, Filter: fingerprint.Sources, Sealed: true})
		byDir := map[string][]string{}
		for _, file := range pkg.EmbedFiles {
			full := filepath.Join(pkg.Dir, filepath.FromSlash(file))
			byDir[filepath.Dir(full)] = append(byDir[filepath.Dir(full)], filepath.Base(full))
		}
		for dir, names := range byDir {
			s.add(fingerprint.Input{Dir: dir, Filter: fingerprint.Named, Names: names, Sealed: true})
		}
		return nil
	}
	if pkg.Module == nil {
		return errUnknownInputs
	}
	top := pkg.Module.Dir
	if pkg.Module.Replace != nil {
		top = pkg.Module.Replace.Dir
	}
	if top == "" || !below(top, pkg.Dir) {
		return errUnknownInputs
	}
	s.add(fingerprint.Input{Dir: pkg.Dir, Filter: fingerprint.Sources})
	s.addWay(top, pkg.Dir)
	for _, pattern := range pkg.EmbedPatterns {
		s.addEmbed(pkg.Dir, strings.Split(strings.TrimPrefix(pattern, "all:"), "/"))
	}
	return nil
}

// addWay adds the directories between a module and a package in it: a go.mod there
// would cut it off, and each may be a link.
func (s *sources) addWay(top, dir string) {
	for dir != top {
		parent := filepath.Dir(dir)
		s.add(named(parent, "go.mod", filepath.Base(dir)))
		dir = parent
	}
}

// addRivals watches the directories in modules that are edited here which would
// provide a package too if they were there.
func (s *sources) addRivals(pkg dependency) {
	for _, m := range s.modules {
		rest, found := strings.CutPrefix(pkg.ImportPath, m.path+"/")
		if m.path == "" || !found {
			continue
		}
		if dir := filepath.Join(m.dir, filepath.FromSlash(rest)); dir != pkg.Dir {
			s.add(fingerprint.Input{Dir: dir, Filter: fingerprint.Sources})
		}
	}
}

// addEmbed adds all that a pattern of go:embed looks at: the directories that it is
// matched in, and what it matches, with everything below.
func (s *sources) addEmbed(dir string, elements []string) {
	if len(elements) == 0 || elements[0] == "." {
		s.add(fingerprint.Subtree(dir, fingerprint.Everything)...)
		return
	}
	element := elements[0]
	var matches []string
	if !strings.ContainsAny(element, `*?[\`) {
		// A name that isn't a pattern: its directory needn't be listed.
		filter := fingerprint.Data
		if len(elements) > 1 {
			filter = fingerprint.Named // a directory on the way
		}
		s.add(fingerprint.Input{Dir: dir, Filter: filter, Names: []string{element}})
		matches = []string{element}
	} else {
		s.add(fingerprint.Input{Dir: dir, Filter: fingerprint.Everything})
		names, err := os.ReadDir(dir)
		if err != nil {
			return
		}
		for _, e := range names {
			if ok, err := path.Match(element, e.Name()); ok && err == nil {
				matches = append(matches, e.Name())
			}
		}
	}
	for _, name := range matches {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.IsDir() {
			s.addEmbed(full, elements[1:])
		}
	}
}
