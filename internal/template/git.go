package template

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/vcs"
)

// Git asks a repository each question at most once, and none before it is
// needed. It is safe for concurrent use.
type Git struct {
	find func() (Source, error)

	source   memo[Source]
	commit   memo[vcs.Commit]
	tags     memo[[]string]
	describe memo[vcs.Description]
	version  memo[string]
	dirty    memo[bool]
}

// NewGit uses the repository that find gives; find is called when the first
// question is asked:
//
//	template.NewGit(func() (template.Source, error) { return vcs.Find(dir) })
func NewGit(find func() (Source, error)) *Git { return &Git{find: find} }

// memo is an answer that is worked out once. That the asker was cancelled isn't
// an answer.
type memo[T any] struct {
	mu    sync.Mutex
	known bool
	value T
	err   error
}

func (m *memo[T]) get(find func() (T, error)) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known {
		return m.value, m.err
	}
	value, err := find()
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		m.known, m.value, m.err = true, value, err
	}
	return value, err
}

// from asks the repository a question.
func from[T any](g *Git, m *memo[T], question func(Source) (T, error)) (T, error) {
	return m.get(func() (T, error) {
		source, err := g.source.get(g.find)
		if err != nil {
			var none T
			return none, err
		}
		return question(source)
	})
}

// Commit is the commit at HEAD.
func (g *Git) Commit(ctx context.Context) (vcs.Commit, error) {
	return from(g, &g.commit, func(s Source) (vcs.Commit, error) { return s.Commit(ctx) })
}

// Tags are the tags at HEAD, newest first.
func (g *Git) Tags(ctx context.Context) ([]string, error) {
	return from(g, &g.tags, func(s Source) ([]string, error) { return s.Tags(ctx) })
}

// Describe is the nearest tag of any name.
func (g *Git) Describe(ctx context.Context) (vcs.Description, error) {
	return from(g, &g.describe, func(s Source) (vcs.Description, error) { return s.Describe(ctx, nil) })
}

// Dirty reports whether tracked files are changed.
func (g *Git) Dirty(ctx context.Context) (bool, error) {
	return from(g, &g.dirty, func(s Source) (bool, error) { return s.Dirty(ctx) })
}

// Remote is the public URL of the origin; empty if there is none.
func (g *Git) Remote() (string, error) {
	source, err := g.source.get(g.find)
	if err != nil {
		return "", err
	}
	return source.Remote(), nil
}

// Shallow reports whether history, and so tags, may be missing.
func (g *Git) Shallow() (bool, error) {
	source, err := g.source.get(g.find)
	if err != nil {
		return false, err
	}
	return source.Shallow(), nil
}

// Version is the semantic version of the working tree: the newest version among
// the tags at HEAD without its v (1.5.0), or else the nearest tag that is a
// version, the distance and the commit (1.5.0-3-gabc1234); followed by -dirty
// if tracked files are changed. Tags that are no versions, such as nightly or
// api/v2.0.0, are passed over. Without one the error wraps [vcs.ErrNoTag].
func (g *Git) Version(ctx context.Context) (string, error) {
	return g.version.get(func() (string, error) {
		version, err := g.cleanVersion(ctx)
		if err != nil {
			return "", err
		}
		dirty, err := g.Dirty(ctx)
		if err != nil {
			return "", err
		}
		if !dirty {
			return version, nil
		}
		return suffix(version, "dirty"), nil
	})
}

func (g *Git) cleanVersion(ctx context.Context) (string, error) {
	tags, err := g.Tags(ctx)
	if err != nil {
		return "", err
	}
	for _, tag := range tags {
		if vcs.IsVersion(tag) {
			return strings.TrimPrefix(tag, "v"), nil
		}
	}
	source, err := g.source.get(g.find)
	if err != nil {
		return "", err
	}
	d, err := source.Describe(ctx, vcs.IsVersion)
	if err != nil {
		return "", err
	}
	version := strings.TrimPrefix(d.Tag, "v")
	if d.Distance == 0 {
		return version, nil
	}
	return suffix(version, fmt.Sprintf("%d-g%s", d.Distance, vcs.Commit{Hash: d.Commit}.Short())), nil
}

// suffix adds to the pre-release of a version, before any build metadata
// (semver 2.0.0, 9 and 10).
func suffix(version, more string) string {
	version, build, found := strings.Cut(version, "+")
	version += "-" + more
	if found {
		version += "+" + build
	}
	return version
}
