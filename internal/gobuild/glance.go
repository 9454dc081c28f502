package gobuild

import (
	"go/build"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/anyarch/anyarch/internal/platform"
)

// glance finds out what directories hold without starting the go command, in
// the common case: each is a main package of the module, without a workspace
// and nothing odd. In every other case, and for everything that is to be
// refused, ok is false and `go list` is asked; what is compiled is decided by
// `go build` in any case.
func (b *Builder) glance(root string, patterns []string, p platform.Platform, flags Flags) (packages []Package, ok bool) {
	if len(flags.Extra) > 0 || len(b.CC) > 0 || b.Getenv("GOWORK") != "" || findWorkspace(root) != "" {
		return nil, false
	}
	if _, err := b.commonArgs(flags); err != nil {
		return nil, false
	}
	if _, err := checkEnv(flags.Env); err != nil {
		return nil, false
	}
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, false
	}
	mod, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil || mod.Module == nil || mod.Go == nil {
		return nil, false
	}
	goBuild := build.Default
	goBuild.GOOS, goBuild.GOARCH, goBuild.BuildTags, goBuild.CgoEnabled = p.OS, p.Architecture, flags.Tags, false
	seen := map[string]bool{}
	for _, pattern := range patterns {
		if pattern != "." && !strings.HasPrefix(pattern, "./") || strings.Contains(pattern, "...") {
			return nil, false
		}
		dir := filepath.Join(root, filepath.FromSlash(pattern))
		pkg, err := goBuild.ImportDir(dir, 0)
		if err != nil || pkg.Name != "main" || len(pkg.InvalidGoFiles) > 0 || strings.Contains(pattern, "/vendor/") {
			return nil, false
		}
		importPath := path.Join(mod.Module.Mod.Path, pattern)
		if seen[importPath] {
			continue
		}
		seen[importPath] = true
		packages = append(packages, Package{
			ImportPath: importPath, Name: programName(importPath), Dir: dir,
			Module: mod.Module.Mod.Path, GoVersion: mod.Go.Version, root: root,
		})
	}
	sortPackages(packages)
	return packages, len(packages) > 0
}
