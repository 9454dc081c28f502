package cli

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/mod/semver"

	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/template"
	"github.com/anyarch/anyarch/internal/vcs"
)

// revision answers what templates and annotations ask about the sources. The
// repository is read once per run.
type revision struct {
	ctx   context.Context
	git   *template.Git
	env   func(string) string
	event progress.Sink
	// literal leaves every text as it is: docker has no templates.
	literal bool
}

func (a *app) newRevision(ctx context.Context, dir string, event progress.Sink) *revision {
	return &revision{
		ctx: ctx, env: a.Getenv, event: event,
		git: template.NewGit(func() (template.Source, error) {
			repository, err := vcs.Find(dir)
			if err != nil {
				return nil, err
			}
			return repository, nil
		}),
	}
}

// expand fills in a template. Linker flags are split into words afterwards, so
// no value may bring words of its own.
func (r *revision) expand(place, text string, v plan.Vars) (string, error) {
	if r.literal {
		return text, nil
	}
	parse := template.Parse
	if place == "--ldflags" {
		parse = template.ParseWords
	}
	t, err := parse(place, text)
	if err != nil {
		return "", err
	}
	return t.Execute(r.ctx, &template.Data{
		Platform: v.Platform, Name: v.Name, Package: v.Package, Git: r.git,
		Env: func(name string) (string, bool) {
			value := r.env(name)
			return value, value != ""
		},
	})
}

// source reads the revision for annotations. Sources without a repository have
// none; one that can't be read is said, since the image will lack it.
func (r *revision) source(ctx context.Context) (plan.Source, error) {
	var s plan.Source
	commit, err := r.git.Commit(ctx)
	switch {
	case errors.Is(err, vcs.ErrNoRepository), errors.Is(err, vcs.ErrNoCommit):
		return s, nil
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		r.event.Warn("", "", "the image will not name its revision: "+err.Error())
		return s, nil
	}
	s.Revision, s.Time = commit.Hash, commit.Time
	dirty, err := r.git.Dirty(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return s, context.Cause(ctx)
		}
		r.event.Warn("", "", "can't tell whether tracked files are changed: "+err.Error())
	}
	if dirty || err != nil {
		s.Revision += "-dirty"
	}
	if s.URL, err = r.git.Remote(); err != nil {
		return s, err
	}
	tags, err := r.git.Tags(ctx)
	if err != nil {
		return s, err
	}
	if i := slices.IndexFunc(tags, isVersion); i >= 0 {
		s.Tag = tags[i]
	}
	return s, nil
}

// isVersion accepts 1.5.0 and v1.5.0.
func isVersion(tag string) bool {
	return semver.IsValid(tag) || semver.IsValid("v"+tag)
}
