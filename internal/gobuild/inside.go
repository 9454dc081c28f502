package gobuild

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/anyarch/anyarch/internal/refusal"
)

// findWorkspace walks up from root to a go.work, as the go command does.
func findWorkspace(root string) string {
	for d := root; ; d = filepath.Dir(d) {
		file := filepath.Join(d, "go.work")
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
		if d == filepath.Dir(d) {
			return ""
		}
	}
}

// repositoryRoot is the nearest directory above dir that a version control
// system manages, or "" if there is none.
func repositoryRoot(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		for _, mark := range []string{".git", ".hg", ".jj"} {
			if _, err := os.Lstat(filepath.Join(d, mark)); err == nil {
				return d
			}
		}
		if d == filepath.Dir(d) {
			return ""
		}
	}
}

// checkInside refuses workspaces and replacements that bring in sources from
// outside the repository: another checkout of the same commit would build
// something else, and a repository could read what isn't its own.
func (b *Builder) checkInside(root string) error {
	boundary := repositoryRoot(root)
	var refused refusal.Collect
	modules := []string{root}
	work := b.Getenv("GOWORK")
	if work == "" {
		work = findWorkspace(root)
	}
	if work != "" && work != "off" {
		if boundary == "" {
			boundary = filepath.Dir(work)
		}
		if !inside(boundary, work) {
			refused.Add(&refusal.Error{
				Code: "PA116", Place: work, Summary: "the workspace lies outside the repository",
				Seen: []string{"the repository is " + boundary},
				Fix:  []string{"run with GOWORK=off in front of the command", "--allow-outside"},
			})
			return refused.Err()
		}
		used, err := b.checkWorkspace(work, boundary)
		if !refused.Add(err) {
			return err
		}
		modules = append(modules, used...)
	}
	if boundary == "" {
		boundary = root
	}
	for _, dir := range modules {
		file := filepath.Join(dir, "go.mod")
		data, err := os.ReadFile(file)
		if err != nil {
			continue // go says it better
		}
		mod, err := modfile.ParseLax(file, data, nil)
		if err != nil {
			continue
		}
		// ParseLax leaves replacements out; they are read on their own.
		full, err := modfile.Parse(file, data, func(_, v string) (string, error) { return v, nil })
		if err != nil {
			full = mod
		}
		for _, r := range full.Replace {
			refused.Add(checkReplace(file, dir, boundary, r))
		}
	}
	return refused.Err()
}

func (b *Builder) checkWorkspace(work, boundary string) (modules []string, err error) {
	data, err := os.ReadFile(work)
	if err != nil {
		return nil, nil // go says it better
	}
	file, err := modfile.ParseWork(work, data, nil)
	if err != nil {
		return nil, nil
	}
	var refused refusal.Collect
	for _, use := range file.Use {
		dir := filepath.FromSlash(use.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(work), dir)
		}
		if !inside(boundary, dir) {
			refused.Add(outside(fmt.Sprintf("%s:%d", work, use.Syntax.Start.Line), "use "+use.Path, boundary))
			continue
		}
		modules = append(modules, dir)
	}
	for _, r := range file.Replace {
		refused.Add(checkReplace(work, filepath.Dir(work), boundary, r))
	}
	return modules, refused.Err()
}

func checkReplace(file, dir, boundary string, r *modfile.Replace) error {
	if r.New.Version != "" || !modfile.IsDirectoryPath(r.New.Path) {
		return nil
	}
	target := filepath.FromSlash(r.New.Path)
	if !filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	if inside(boundary, target) {
		return nil
	}
	return outside(fmt.Sprintf("%s:%d", file, r.Syntax.Start.Line), "replace "+r.Old.Path+" => "+r.New.Path, boundary)
}

func outside(place, what, boundary string) *refusal.Error {
	return &refusal.Error{
		Code: "PA116", Place: place, Summary: "sources from outside the repository: " + what,
		Seen: []string{"the repository is " + boundary},
		Fix:  []string{"go mod vendor", "--allow-outside"},
	}
}

// inside reports whether file is boundary or lies below it, symbolic links
// followed.
func inside(boundary, file string) bool {
	if resolved, err := filepath.EvalSymlinks(boundary); err == nil {
		boundary = resolved
	}
	if resolved, err := filepath.EvalSymlinks(file); err == nil {
		file = resolved
	}
	rel, err := filepath.Rel(boundary, file)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
