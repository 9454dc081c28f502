// Package gobuild turns Go main packages into programs: one `go build` per
// platform for all of them.
//
// Programs are left where the next run finds them, so that the go command can
// tell that nothing has changed and skip the link. That directory belongs to
// one set of sources, flags and toolchain, and is locked from before the build
// until its reader is done: two runs at once can't get each other's programs.
package gobuild

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/mod/module"

	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Flags change what is compiled. The zero value is a plain build.
type Flags struct {
	LDFlags []string // each an argument list for the linker, as -ldflags takes it
	Tags    []string // build tags
	Extra   []string // further flags of go build, checked against an allow-list
	Env     []string // KEY=value, checked against an allow-list
}

// Package is one Go main package.
type Package struct {
	ImportPath string
	Name       string // of the program, without .exe
	Dir        string
	Module     string // path of its module
	GoVersion  string // language version that go.mod asks for, such as 1.24
	root       string // directory that go runs in
}

// Builder compiles. It is immutable and safe for concurrent use.
type Builder struct {
	Toolchain *gotool.Toolchain
	CacheDir  string              // where programs are kept between runs
	Dir       string              // what relative package paths are relative to
	Getenv    func(string) string // for GOWORK
	// AllowOutside accepts workspaces and replacements that reach outside the
	// repository.
	AllowOutside bool
	// CC names the C compiler per platform. Where it is set, cgo is on.
	CC map[platform.Platform]string
	// Unchanged spares builds of which nothing has changed; nil asks go each time.
	Unchanged *Unchanged
	// Jobs bounds how much the go commands of a run do at once; nil doesn't.
	Jobs *Jobs
}

// Packages finds the main packages that patterns mean, as `go build` would:
// directories (./cmd/api), patterns (./cmd/...) and import paths. It refuses
// what can't become a program, all at once: PA114 for a package that isn't
// main, PA115 for one that isn't there, PA116 for sources outside the
// repository, PA121 for a Go version that can't be had.
func (b *Builder) Packages(ctx context.Context, patterns []string, p platform.Platform, flags Flags) ([]Package, error) {
	var (
		refused refusal.Collect
		roots   []string
		byRoot  = map[string][]string{}
	)
	for _, pattern := range patterns {
		root, local, err := b.locate(pattern)
		if err != nil {
			if !refused.Add(err) {
				return nil, err
			}
			continue
		}
		if byRoot[root] == nil {
			roots = append(roots, root)
			if !b.AllowOutside {
				refused.Add(b.checkInside(root))
			}
		}
		byRoot[root] = append(byRoot[root], local)
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	var packages []Package
	for _, root := range roots {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if found, ok := b.glance(root, byRoot[root], p, flags); ok {
			packages = append(packages, found...)
			continue
		}
		found, err := b.remembered(ctx, root, byRoot[root], p, flags)
		if err != nil && !refused.Add(err) {
			return nil, err
		}
		packages = append(packages, found...)
	}
	return packages, refused.Err()
}

// locate finds the directory to run go in for a pattern, and the pattern as
// seen from there. Local paths may lie in another module than b.Dir.
func (b *Builder) locate(pattern string) (root, local string, err error) {
	isPath := pattern == "." || pattern == ".." || strings.HasPrefix(pattern, "./") || strings.HasPrefix(pattern, "../") ||
		filepath.IsAbs(pattern) || strings.HasPrefix(pattern, `.\`) || strings.HasPrefix(pattern, `..\`)
	dir := b.Dir
	if isPath {
		dir = filepath.Clean(strings.TrimSuffix(filepath.ToSlash(pattern), "/..."))
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(b.Dir, dir)
		}
		info, statErr := os.Stat(dir)
		switch {
		case statErr != nil:
			return "", "", missing(pattern, "no such directory", b.Dir)
		case !info.IsDir() && strings.HasSuffix(pattern, ".go"):
			e := missing(pattern, "a target is a package, not a file", b.Dir)
			e.Fix = []string{dotted(b.Dir, filepath.Dir(dir))}
			return "", "", e
		case !info.IsDir():
			return "", "", missing(pattern, "not a directory", b.Dir)
		}
	} else if info, statErr := os.Stat(filepath.Join(b.Dir, pattern)); statErr == nil && info.IsDir() && !strings.Contains(firstElement(pattern), ".") {
		e := missing(pattern, "import paths of the standard library can't be images; a directory is written with ./", b.Dir)
		e.Fix = []string{"./" + filepath.ToSlash(pattern)}
		return "", "", e
	}
	root, err = gotool.ModuleRoot(dir)
	if err != nil {
		return "", "", &refusal.Error{
			Code: "PA115", Kind: refusal.Usage, Place: pattern, Summary: "not in a Go module", Err: err,
			Seen: []string{"there is no go.mod in " + dir + " or above"},
			Fix:  []string{"go mod init example.com/" + filepath.Base(dir)},
		}
	}
	if !isPath {
		return root, pattern, nil
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return "", "", err
	}
	local = "./" + filepath.ToSlash(rel)
	if rel == "." {
		local = "."
	}
	if strings.HasSuffix(filepath.ToSlash(pattern), "/...") {
		local = strings.TrimSuffix(local, "/") + "/..."
		if rel == "." {
			local = "./..."
		}
	}
	return root, local, nil
}

func firstElement(p string) string {
	first, _, _ := strings.Cut(p, "/")
	return first
}

func dotted(base, dir string) string {
	rel, err := filepath.Rel(base, dir)
	if err != nil {
		return dir
	}
	if rel == "." {
		return "."
	}
	return "./" + filepath.ToSlash(rel)
}

func missing(place, why, dir string) *refusal.Error {
	return &refusal.Error{
		Code: "PA115", Kind: refusal.Usage, Place: place, Summary: "no package to build: " + why,
		Seen: []string{"looked for from " + dir},
	}
}

// listed is what `go list` says of one package.
type listed struct {
	ImportPath     string
	Name           string
	Dir            string
	Match          []string
	CgoFiles       []string
	IgnoredGoFiles []string
	Module         *struct{ Path, Dir, GoVersion string }
	Error          *struct{ Pos, Err string }
}

// list runs `go list` for patterns in root.
func (b *Builder) list(ctx context.Context, root string, patterns []string, p platform.Platform, flags Flags) ([]Package, error) {
	all, err := b.golist(ctx, root, p, flags, append([]string{"-find", "-e", "-json=ImportPath,Name,Dir,Match,Module,Error,CgoFiles,IgnoredGoFiles"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var (
		packages []Package
		refused  refusal.Collect
		matched  = map[string]bool{}
		libs     []string
	)
	for _, pkg := range all {
		for _, m := range pkg.Match {
			matched[m] = true
		}
		wild := !slices.ContainsFunc(pkg.Match, func(m string) bool { return !strings.Contains(m, "...") })
		switch {
		case pkg.Name == "main":
			packages = append(packages, toPackage(root, pkg))
		case pkg.Error != nil && wild && len(pkg.IgnoredGoFiles) > 0 && !b.isMain(pkg):
			// Excluded by build constraints, and no program anyway.
		case pkg.Error != nil && len(pkg.IgnoredGoFiles) > 0 && b.isMain(pkg):
			// A program, but not on this platform: compiling says it better.
			packages = append(packages, toPackage(root, pkg))
		case pkg.Error != nil && wild && strings.Contains(pkg.Error.Err, "no Go files"):
		case pkg.Error != nil:
			refused.Add(b.explainList(pkg))
		case wild:
			libs = append(libs, pkg.ImportPath)
		default:
			refused.Add(b.notMain(ctx, pkg, root, p, flags))
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	if len(packages) == 0 {
		e := &refusal.Error{
			Code: "PA114", Kind: refusal.Usage, Place: strings.Join(patterns, " "),
			Summary: "no main package among them",
		}
		if len(libs) > 0 {
			e.Seen = []string{fmt.Sprintf("%d packages were found, none of them a program", len(libs))}
		}
		e.Fix = b.suggestMains(ctx, root, p, flags)
		return nil, e
	}
	sortPackages(packages)
	return slices.CompactFunc(packages, func(x, y Package) bool { return x.ImportPath == y.ImportPath }), nil
}

func sortPackages(packages []Package) {
	slices.SortFunc(packages, func(x, y Package) int { return cmp.Compare(x.ImportPath, y.ImportPath) })
}

func toPackage(root string, pkg listed) Package {
	result := Package{ImportPath: pkg.ImportPath, Name: programName(pkg.ImportPath), Dir: pkg.Dir, root: root}
	if pkg.Module != nil {
		result.Module, result.GoVersion = pkg.Module.Path, pkg.Module.GoVersion
	}
	if pkg.ImportPath == "command-line-arguments" || result.Name == "." || result.Name == "/" {
		result.Name = filepath.Base(pkg.Dir)
	}
	return result
}

// programName is the name that go build gives a program: the last element of
// its import path, or the one before a major version.
func programName(importPath string) string {
	if prefix, version, ok := module.SplitPathVersion(importPath); ok && version != "" && prefix != "" && strings.HasPrefix(version, "/") {
		return path.Base(prefix)
	}
	return path.Base(importPath)
}

var mainClause = regexp.MustCompile(`(?m)^package\s+main\b`)

// isMain looks into the files that build constraints exclude.
func (b *Builder) isMain(pkg listed) bool {
	for _, name := range pkg.IgnoredGoFiles {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := os.Open(filepath.Join(pkg.Dir, name))
		if err != nil {
			continue
		}
		head, err := io.ReadAll(io.LimitReader(f, 64<<10))
		f.Close()
		if err == nil && mainClause.Match(head) && !bytes.Contains(head, []byte("//go:build ignore")) {
			return true
		}
	}
	return false
}

func (b *Builder) notMain(ctx context.Context, pkg listed, root string, p platform.Platform, flags Flags) error {
	e := &refusal.Error{
		Code: "PA114", Kind: refusal.Usage, Place: pkg.ImportPath,
		Summary: fmt.Sprintf("not a main package: %s is package %s", dotted(b.Dir, pkg.Dir), pkg.Name),
	}
	e.Fix = b.suggestMains(ctx, root, p, flags)
	return e
}

// suggestMains names up to three programs of the module.
func (b *Builder) suggestMains(ctx context.Context, root string, p platform.Platform, flags Flags) []string {
	all, err := b.golist(ctx, root, p, flags, "-find", "-e", "-json=ImportPath,Name,Dir", "./...")
	if err != nil {
		return nil
	}
	var fix []string
	for _, pkg := range all {
		if pkg.Name == "main" && len(fix) < 3 {
			fix = append(fix, dotted(b.Dir, pkg.Dir))
		}
	}
	return fix
}

func (b *Builder) golist(ctx context.Context, root string, p platform.Platform, flags Flags, args ...string) ([]listed, error) {
	return golist[listed](ctx, b, root, p, flags, args...)
}

// golist runs `go list` and reads what it says of each package.
func golist[T any](ctx context.Context, b *Builder, root string, p platform.Platform, flags Flags, args ...string) ([]T, error) {
	common, err := b.commonArgs(flags)
	if err != nil {
		return nil, err
	}
	env, err := b.env(root, p, flags)
	if err != nil {
		return nil, err
	}
	stdout, stderr, err := b.run(ctx, root, env, p, slices.Concat([]string{"list"}, common, args)...)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, b.explain(p, root, stderr, err)
	}
	var all []T
	for d := json.NewDecoder(bytes.NewReader(stdout)); ; {
		var pkg T
		if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list in %s: %w", root, err)
		}
		all = append(all, pkg)
	}
}

// Programs are the results of one Compile. Close must be called when they have
// been read; until then no other run replaces them.
type Programs struct {
	// Unchanged says that all programs are those of an earlier run: go wasn't asked.
	Unchanged bool

	files map[string]string
	locks []*flock.Flock
	notes []func() // what is to be written down for the next run
}

// Path is where the program of a package is.
func (p *Programs) Path(pkg Package) string { return p.files[pkg.ImportPath] }

// Close writes down what was read, for the next run, and lets other runs build in the
// same place.
func (p *Programs) Close() {
	for _, note := range p.notes {
		note()
	}
	for _, lock := range p.locks {
		lock.Close()
	}
}

// Compile builds all packages for one platform. flags are those of each
// package, in the order of packages. What doesn't compile is a refusal that
// names platform, file and line: PA111 where cgo is missing, PA112 otherwise,
// PA119 where a module can't be had.
func (b *Builder) Compile(ctx context.Context, packages []Package, flags []Flags, p platform.Platform) (*Programs, error) {
	programs := &Programs{files: map[string]string{}, Unchanged: true}
	for _, group := range b.groups(packages, flags) {
		if err := b.compileGroup(ctx, group, p, programs); err != nil {
			programs.Close()
			return nil, err
		}
	}
	return programs, nil
}

// group is what one `go build` can do: one module, one set of flags but for the
// linker's, and programs with different names.
type group struct {
	root     string
	flags    Flags // of all, LDFlags of the first
	packages []Package
	ldflags  [][]string
	names    map[string]bool
	serial   int // tells groups with equal root and flags apart
}

func (b *Builder) groups(packages []Package, flags []Flags) []*group {
	var groups []*group
	for i, pkg := range packages {
		f := flags[i]
		serial := 0
		var home *group
		for _, g := range groups {
			if g.root == pkg.root && slices.Equal(g.flags.Tags, f.Tags) && slices.Equal(g.flags.Extra, f.Extra) && slices.Equal(g.flags.Env, f.Env) {
				if !g.names[pkg.Name] {
					home = g
					break
				}
				serial++
			}
		}
		if home == nil {
			home = &group{root: pkg.root, flags: f, names: map[string]bool{}, serial: serial}
			groups = append(groups, home)
		}
		home.names[pkg.Name] = true
		home.packages = append(home.packages, pkg)
		home.ldflags = append(home.ldflags, f.LDFlags)
	}
	return groups
}

// prepare finds the arguments of go build, its environment, and the directory that
// programs go to.
func (b *Builder) prepare(g *group, p platform.Platform) (args, env []string, dir string, err error) {
	common, err := b.commonArgs(g.flags)
	if err != nil {
		return nil, nil, "", err
	}
	if env, err = b.env(g.root, p, g.flags); err != nil {
		return nil, nil, "", err
	}
	args = slices.Concat([]string{"build", "-trimpath", "-buildvcs=false"}, common, g.ldflagArgs())
	return args, env, filepath.Join(b.CacheDir, b.key(g, args, env), strings.ReplaceAll(p.String(), "/", "-")), nil
}

func (b *Builder) compileGroup(ctx context.Context, g *group, p platform.Platform, programs *Programs) error {
	args, env, dir, err := b.prepare(g, p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return diskError(dir, err)
	}
	lock := flock.New(dir + ".lock")
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	programs.locks = append(programs.locks, lock)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return diskError(dir, err)
	}
	attempt := b.attempt(g, p, args, env, dir)
	superfluous := attempt.superfluous(ctx)
	if !superfluous {
		programs.Unchanged = false
		if replayed, err := attempt.replay(ctx); err != nil {
			return err
		} else if replayed {
			// The compiler and the linker have done what go would have had them do.
		} else if err := b.goBuild(ctx, g, p, env, args, dir, attempt); err != nil {
			return err
		}
	}
	for _, pkg := range g.packages {
		file := g.program(dir, pkg, p)
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%s: go build left no program for %s: %w", p, pkg.ImportPath, err)
		}
		programs.files[pkg.ImportPath] = file
	}
	if !superfluous && attempt != nil {
		programs.notes = append(programs.notes, func() { attempt.remember(ctx) })
	}
	// A mark for trimming the cache: this set of programs was used now.
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
	return nil
}

// goBuild has the go command build a group into dir.
func (b *Builder) goBuild(ctx context.Context, g *group, p platform.Platform, env, args []string, dir string, a *attempt) error {
	parallel, done, err := b.Jobs.start(ctx)
	if err != nil {
		return err
	}
	defer done()
	if parallel > 0 && !slices.ContainsFunc(args, func(arg string) bool { name, _ := flagName(arg); return name == "-p" }) {
		args = append(args, fmt.Sprintf("-p=%d", parallel))
	}
	args = append(args, "-o", dir+string(filepath.Separator))
	intact := a.intactPrograms()
	for _, pkg := range g.packages {
		args = append(args, pkg.ImportPath)
		if !intact[pkg.ImportPath] {
			dropDamaged(g.program(dir, pkg, p))
		}
	}
	a.begin()
	if err := a.goBuild(ctx, env, args); !errors.Is(err, errPlainly) {
		return err
	}
	_, stderr, err := b.run(ctx, g.root, env, p, args...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return b.explain(p, g.root, stderr, err)
	}
	return nil
}

// program is where go build puts the program of a package.
func (g *group) program(dir string, pkg Package, p platform.Platform) string {
	file := filepath.Join(dir, pkg.Name)
	if p.OS == "windows" {
		file += ".exe"
	}
	return file
}

// ldflagArgs gives each package its own linker flags, in one go build.
func (g *group) ldflagArgs() []string {
	same := !slices.ContainsFunc(g.ldflags, func(f []string) bool { return !slices.Equal(f, g.ldflags[0]) })
	if same {
		if len(g.ldflags[0]) == 0 {
			return nil
		}
		return []string{"-ldflags=" + strings.Join(g.ldflags[0], " ")}
	}
	var args []string
	for i, pkg := range g.packages {
		args = append(args, "-ldflags="+pkg.ImportPath+"="+strings.Join(g.ldflags[i], " "))
	}
	return args
}

// key names the directory for one set of sources, flags and toolchain. The
// environment counts only where it changes programs.
func (b *Builder) key(g *group, args, env []string) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, part := range []any{b.Toolchain.Identity(), g.root, args, env, g.serial} {
		_ = enc.Encode(part) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// commonArgs are the flags that go list and go build share.
func (b *Builder) commonArgs(flags Flags) ([]string, error) {
	var (
		args    []string
		refused refusal.Collect
	)
	fromEnv, err := checkGoFlags(b.Toolchain.GoFlags())
	refused.Add(err)
	args = append(args, fromEnv...)
	extra, err := checkFlags("--go-flag", flags.Extra, len(b.CC) > 0)
	refused.Add(err)
	args = append(args, extra...)
	if len(flags.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(flags.Tags, ","))
	}
	refused.Add(checkLDFlags(flags.LDFlags, len(b.CC) > 0))
	return args, refused.Err()
}

// env is what makes go build for p in root.
func (b *Builder) env(root string, p platform.Platform, flags Flags) ([]string, error) {
	env := p.GoEnv()
	cgo := "CGO_ENABLED=0"
	if cc := b.CC[p]; cc != "" {
		cgo = "CGO_ENABLED=1"
		// A C compiler finds its assembler and linker beside it or on PATH.
		env = append(env, "CC="+cc, "PATH="+b.Getenv("PATH"))
	}
	extra, err := checkEnv(flags.Env)
	if err != nil {
		return nil, err
	}
	env = append(env, extra...)
	work := b.Getenv("GOWORK")
	if work == "" {
		work = findWorkspace(root)
	}
	if work == "" {
		work = "off"
	}
	return append(env, "GOWORK="+work, cgo), nil
}
