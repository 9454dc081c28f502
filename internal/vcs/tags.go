package vcs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

const tagPrefix = "refs/tags/"

// tag is a tag on a commit.
type tag struct {
	name      string
	commit    objectID
	annotated bool
	object    objectID // the tag itself if it is annotated
}

// Tags lists the tags at HEAD, newest first: those that are semantic versions
// (with or without a leading v) in their order, then the others by name.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	id, _, err := r.resolveHead()
	if err != nil {
		return nil, err
	}
	db := r.objects()
	defer db.close()
	tags, err := r.tags(ctx, db)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range tags {
		if t.commit == id {
			names = append(names, t.name)
		}
	}
	slices.SortFunc(names, newestFirst)
	return names, nil
}

// IsVersion reports whether a tag is a semantic version (semver 2.0.0), with or
// without a leading v. Tags such as v1 or v1.5, which are moved from release to
// release, are not.
func IsVersion(tag string) bool {
	v := "v" + strings.TrimPrefix(tag, "v")
	core, _, _ := strings.Cut(v, "-")
	core, _, _ = strings.Cut(core, "+")
	return semver.IsValid(v) && strings.Count(core, ".") == 2
}

// newestFirst orders tags by the version they name. Two spellings of one
// version, and tags that are no versions, go by name.
func newestFirst(a, b string) int {
	isA, isB := IsVersion(a), IsVersion(b)
	switch {
	case isA && isB:
		return cmp.Or(semver.Compare("v"+strings.TrimPrefix(b, "v"), "v"+strings.TrimPrefix(a, "v")), strings.Compare(a, b))
	case isA:
		return -1
	case isB:
		return 1
	}
	return strings.Compare(a, b)
}

// tags lists all tags that are on commits, sorted by name.
func (r *Repository) tags(ctx context.Context, db *objects) ([]tag, error) {
	found := map[string]packed{}
	err := r.eachPacked(tagPrefix, func(p packed) bool {
		found[p.name] = p
		return ctx.Err() == nil
	})
	if err != nil {
		return nil, err
	}
	if err := r.looseTags(ctx, found); err != nil {
		return nil, err
	}
	var tags []tag
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := found[name]
		t := tag{name: strings.TrimPrefix(name, tagPrefix), commit: p.id}
		switch {
		case p.peeled != "":
			t.annotated, t.object, t.commit = true, p.id, p.peeled
		case p.known:
		default:
			onCommit, err := db.peel(p.id)
			if errors.Is(err, errMissing) { // a shallow or partial clone has tags of what it left out
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read tag %s: %w", t.name, err)
			}
			if onCommit == "" {
				continue
			}
			t.annotated, t.object, t.commit = onCommit != p.id, p.id, onCommit
		}
		tags = append(tags, t)
	}
	return tags, nil
}

// looseTags adds the tags that are files; they stand before packed ones.
func (r *Repository) looseTags(ctx context.Context, found map[string]packed) error {
	dir := filepath.Join(r.common, "refs", "tags")
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if isAbsent(err) { // removed meanwhile, or never there
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := tagPrefix + filepath.ToSlash(rel)
		if !entry.Type().IsRegular() || !validRef(name) {
			return nil
		}
		id, err := r.resolve(name)
		if errors.Is(err, errNoRef) {
			return nil
		}
		if err != nil {
			return err
		}
		found[name] = packed{name: name, id: id}
		return nil
	})
}
