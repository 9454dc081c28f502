package template

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/vcs"
)

// Data is what values are found in. Fields that are left out are unset values.
type Data struct {
	Platform   platform.Platform                // zero where the text is for all platforms at once
	Env        func(name string) (string, bool) // the caller's environment, as os.LookupEnv
	Git        *Git                             // shared by all templates of a run
	Name       string                           // of the program or target
	Package    string                           // import path of the Go package
	Repository string                           // image repository
}

// plain is a value that the caller has or hasn't given.
func plain(name, text string) (string, *problem) {
	if text == "" {
		return "", &problem{summary: name + " has no value here", unset: true}
	}
	return text, nil
}

func (e *execution) name() (string, *problem)       { return plain(".Name", e.data.Name) }
func (e *execution) importPath() (string, *problem) { return plain(".Package", e.data.Package) }
func (e *execution) repository() (string, *problem) { return plain(".Repository", e.data.Repository) }

// ofPlatform takes a part of the platform.
func (e *execution) ofPlatform(name, part string) (string, *problem) {
	if e.data.Platform.IsZero() {
		return "", &problem{summary: name + " has no value here: this text is for all platforms at once", unset: true}
	}
	if part == "" {
		return "", &problem{
			summary: fmt.Sprintf("%s is unset: %s is the default variant", name, e.data.Platform), unset: true,
			fix: []string{fmt.Sprintf("{{if %s}}-{{%s}}{{end}}", name, name)},
		}
	}
	return part, nil
}

func (e *execution) platform() (string, *problem) {
	if e.data.Platform.IsZero() {
		return e.ofPlatform(".Platform", "")
	}
	return e.data.Platform.String(), nil
}
func (e *execution) os() (string, *problem) { return e.ofPlatform(".OS", e.data.Platform.OS) }
func (e *execution) arch() (string, *problem) {
	return e.ofPlatform(".Arch", e.data.Platform.Architecture)
}
func (e *execution) variant() (string, *problem) {
	return e.ofPlatform(".Variant", e.data.Platform.Variant)
}

// Source is a Git repository: a [vcs.Repository], or what stands for one.
type Source interface {
	Commit(ctx context.Context) (vcs.Commit, error)
	Tags(ctx context.Context) ([]string, error)
	Describe(ctx context.Context, match func(tag string) bool) (vcs.Description, error)
	Dirty(ctx context.Context) (bool, error)
	Remote() string
	Shallow() bool
}

// git asks the repository, or says why there is none.
func ask[T any](e *execution, question func(*Git) (T, error)) (T, *problem) {
	var none T
	if e.data.Git == nil {
		return none, gitProblem(vcs.ErrNoRepository)
	}
	answer, err := question(e.data.Git)
	if err != nil {
		return none, gitProblem(err)
	}
	return answer, nil
}

// gitProblem tells what just isn't there from what is broken.
func gitProblem(err error) *problem {
	switch {
	case errors.Is(err, vcs.ErrNoRepository):
		return &problem{
			summary: "there is no Git repository to ask", unset: true, err: err,
			fix: []string{"git init && git add -A && git commit -m 'First version'"},
		}
	case errors.Is(err, vcs.ErrNoCommit):
		return &problem{summary: "the Git repository has no commit yet", unset: true, err: err, fix: []string{"git add -A && git commit -m 'First version'"}}
	}
	p := &problem{summary: "the Git repository can't be read", seen: []string{err.Error()}, err: err, fix: []string{"git fsck"}}
	if unsupported, ok := errors.AsType[*vcs.Unsupported](err); ok {
		p.fix = []string{"{{.Env.VERSION}}"} // what others say needs no Git
		if unsupported.Fix != "" {
			p.fix = []string{unsupported.Fix}
		}
	}
	return p
}

func (e *execution) head() (vcs.Commit, *problem) {
	return ask(e, func(g *Git) (vcs.Commit, error) { return g.Commit(e.ctx) })
}

func (e *execution) commit() (string, *problem) {
	c, p := e.head()
	return c.Hash, p
}

func (e *execution) shortCommit() (string, *problem) {
	c, p := e.head()
	return c.Short(), p
}

func (e *execution) commitDate() (string, *problem) {
	c, p := e.head()
	return c.Time.UTC().Format(time.RFC3339), p
}

func (e *execution) commitTimestamp() (string, *problem) {
	c, p := e.head()
	return strconv.FormatInt(c.Time.Unix(), 10), p
}

func (e *execution) branchName() (string, *problem) {
	c, p := e.head()
	if p == nil && c.Branch == "" {
		p = &problem{
			summary: ".Git.Branch is unset: HEAD is detached", unset: true,
			seen: []string{"GitHub Actions has the name in GITHUB_REF_NAME, GitLab in CI_COMMIT_REF_NAME"},
			fix:  []string{"git switch main", "{{.Env.GITHUB_REF_NAME}}", "{{.Env.CI_COMMIT_REF_NAME}}"},
		}
	}
	return c.Branch, p
}

func (e *execution) tag() (string, *problem) {
	tags, p := ask(e, func(g *Git) ([]string, error) { return g.Tags(e.ctx) })
	if p == nil && len(tags) == 0 {
		return "", &problem{summary: ".Git.Tag is unset: HEAD has no tag", unset: true, fix: append(e.moreTags(), "{{.Git.Describe}}")}
	}
	if p != nil {
		return "", p
	}
	return tags[0], nil
}

func (e *execution) describe() (string, *problem) {
	d, p := ask(e, func(g *Git) (vcs.Description, error) { return g.Describe(e.ctx) })
	if p != nil && errors.Is(p.err, vcs.ErrNoTag) {
		return "", &problem{summary: ".Git.Describe is unset: no tag can be reached from HEAD", unset: true, err: p.err, fix: append(e.moreTags(), "{{.Git.ShortCommit}}")}
	}
	return d.String(), p
}

// moreTags are commands after which there is a tag.
func (e *execution) moreTags() []string {
	if shallow, p := ask(e, (*Git).Shallow); p == nil && shallow {
		return []string{"git fetch --tags --unshallow"}
	}
	return []string{"git fetch --tags", "git tag v0.1.0"}
}

func (e *execution) dirty() (bool, *problem) {
	return ask(e, func(g *Git) (bool, error) { return g.Dirty(e.ctx) })
}

func (e *execution) isDirty() (bool, *problem) { return e.dirty() }

func (e *execution) isClean() (bool, *problem) {
	dirty, p := e.dirty()
	return !dirty, p
}

func (e *execution) treeState() (string, *problem) {
	dirty, p := e.dirty()
	if dirty {
		return "dirty", p
	}
	return "clean", p
}

func (e *execution) remote() (string, *problem) {
	remote, p := ask(e, (*Git).Remote)
	if p == nil && remote == "" {
		p = &problem{summary: ".Git.Remote is unset: the repository has no public origin", unset: true, fix: []string{"git remote add origin https://github.com/acme/app"}}
	}
	return remote, p
}

// version is the semantic version of what is being built.
func (e *execution) version() (string, *problem) {
	v, p := ask(e, func(g *Git) (string, error) { return g.Version(e.ctx) })
	if p != nil && errors.Is(p.err, vcs.ErrNoTag) {
		return "", &problem{
			summary: "there is no version: no tag such as v1.2.3 can be reached from HEAD", unset: true, err: p.err,
			fix: e.moreTags(),
		}
	}
	return v, p
}

// number is one of the three numbers of the version.
func (e *execution) number(i int) (string, *problem) {
	v, p := e.version()
	if p != nil {
		return "", p
	}
	core, _, _ := strings.Cut(strings.TrimPrefix(semver.Canonical("v"+v), "v"), "-")
	return strings.Split(core, ".")[i], nil
}

func (e *execution) major() (string, *problem) { return e.number(0) }
func (e *execution) minor() (string, *problem) { return e.number(1) }
func (e *execution) patch() (string, *problem) { return e.number(2) }

func (e *execution) prerelease() (string, *problem) {
	v, p := e.version()
	if p != nil {
		return "", p
	}
	pre := strings.TrimPrefix(semver.Prerelease("v"+v), "-")
	if pre == "" {
		return "", &problem{summary: ".Prerelease is unset: " + v + " is a release", unset: true, fix: []string{"{{if .Prerelease}}-{{.Prerelease}}{{end}}"}}
	}
	return pre, nil
}

// when is the time that the build has: never the clock's, or no two builds
// would be the same.
func (e *execution) when() (time.Time, *problem) {
	if e.data.Env != nil {
		if text, _ := e.data.Env("SOURCE_DATE_EPOCH"); text != "" {
			seconds, err := strconv.ParseInt(text, 10, 64)
			if err != nil || seconds < 0 || seconds > 253402300799 {
				return time.Time{}, &problem{summary: fmt.Sprintf("SOURCE_DATE_EPOCH is %q, which isn't a number of seconds since 1970", text), fix: []string{"export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)"}}
			}
			return time.Unix(seconds, 0).UTC(), nil
		}
	}
	c, p := e.head()
	if p != nil && p.unset {
		return time.Time{}, &problem{summary: "there is no date: " + p.summary + ", and SOURCE_DATE_EPOCH isn't set", unset: true, err: p.err, fix: []string{"export SOURCE_DATE_EPOCH=$(date +%s)"}}
	}
	return c.Time, p
}

func (e *execution) date() (string, *problem) {
	t, p := e.when()
	return t.UTC().Format(time.RFC3339), p
}

func (e *execution) timestamp() (string, *problem) {
	t, p := e.when()
	return strconv.FormatInt(t.Unix(), 10), p
}
