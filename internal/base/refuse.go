package base

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// windowsBase is what a program for Windows is usually put on.
const windowsBase = "mcr.microsoft.com/windows/nanoserver:ltsc2022"

// at is where the user finds the base's name.
func (b *Base) at() string {
	if b.place == "" {
		return b.Name
	}
	return b.place
}

// write spells a base as it is written where this one was.
func (b *Base) write(ref string) string {
	file, _, _ := strings.Cut(filepath.Base(b.place), ":")
	switch {
	case strings.Contains(file, "Dockerfile"), strings.Contains(file, "Containerfile"):
		return "FROM " + ref
	case strings.HasSuffix(file, ".yaml"), strings.HasSuffix(file, ".yml"):
		return "base: " + ref
	}
	return "--base " + ref
}

// foreign refuses a platform that a built-in base has no files for.
func (b *Base) foreign(p platform.Platform) error {
	e := &refusal.Error{
		Code: "PA104", Platform: p.String(), Place: b.at(),
		Summary: "base " + b.Name + " has no such platform",
		Seen:    []string{"it is for Linux"},
		Fix:     []string{b.write(Scratch)},
	}
	if p.OS == "windows" {
		e.Seen = []string{"programs for Windows run only on a base with its files, of the same build as the host"}
		e.Fix = []string{b.write(windowsBase)}
	}
	return e
}

// explain gives what went wrong while the base was read for a platform, or for
// all of them, its code.
func (b *Base) explain(err error, on string) error {
	e := &refusal.Error{Platform: on, Place: b.at(), Err: err}
	bad, isBad := errors.AsType[unusable](err)
	other, contradicts := errors.AsType[contradiction](err)
	switch {
	case isBad:
		e.Code, e.Summary = "PA109", "base can't be built on"
		e.Seen = []string{b.Name + ": " + bad.why}
	case contradicts:
		e.Code, e.Kind, e.Summary = "PA203", refusal.Findings, "base is for another platform than its index says"
		e.Seen = []string{
			fmt.Sprintf("%s: the index says %s, the config says %s", b.Name, name(other.index), name(other.config)),
			"manifest " + other.digest.String(),
		}
	case len(refusal.All(err)) == 0 && errors.Is(err, store.ErrNotFound):
		e.Code, e.Summary = "PA403", "base image isn't there"
		e.Seen = []string{b.Name, err.Error()}
	default:
		return fmt.Errorf("base %s: %w", b.Name, err)
	}
	return e
}

// choose picks the image of the base for each platform, or refuses all those
// that it doesn't have.
func (b *Base) choose(ctx context.Context, wanted []platform.Platform) ([]child, error) {
	available := make([]platform.Platform, len(b.children))
	for i, c := range b.children {
		available[i] = c.platform
	}
	chosen := make([]child, len(wanted))
	var missing, present []platform.Platform
	for i, p := range wanted {
		if best := p.Best(available); best >= 0 {
			chosen[i] = b.children[best]
			present = append(present, p)
		} else {
			missing = append(missing, p)
		}
	}
	switch {
	case len(missing) == 0:
		return chosen, nil
	case b.indexed:
		return nil, b.lacks("PA104", "base image has no such platform", missing, present)
	}
	if err := b.pinned(ctx, missing); err != nil {
		return nil, err
	}
	return nil, b.lacks("PA108", "base image is for one platform only, and not for this one", missing, present)
}

// lacks refuses each of the missing platforms.
func (b *Base) lacks(code, summary string, missing, present []platform.Platform) error {
	var fix []string
	linux := func(p platform.Platform) bool { return p.OS == "linux" }
	from := strings.HasPrefix(b.write(""), "FROM")
	switch {
	case slices.ContainsFunc(missing, linux) && !from:
		fix = append(fix, b.write(Static))
	case slices.ContainsFunc(missing, linux): // a Dockerfile can't name static
	case missing[0].OS != "windows":
		fix = append(fix, b.write(Scratch))
	case missing[0].OSVersion == "":
		fix = append(fix, b.write(windowsBase))
	}
	if len(present) > 0 {
		fix = append(fix, "--platform "+names(present, ","))
	}
	var has []platform.Platform
	for _, c := range b.children {
		if !slices.Contains(has, c.platform) {
			has = append(has, c.platform)
		}
	}
	kind := "manifest"
	if b.indexed {
		kind = "index"
	}
	seen := []string{fmt.Sprintf("%s (%s %s) has: %s", b.Name, kind, short(b.Digest), names(has, ", "))}
	if _, tag, digested := splitReference(b.Name); digested && !b.indexed && tag == "" {
		seen = append(seen, "a digest may be that of one platform of a multi-platform image; its index has another one")
	}
	var refused refusal.Collect
	for _, p := range missing {
		refused.Add(&refusal.Error{Code: code, Platform: name(p), Place: b.at(), Summary: summary, Seen: seen, Fix: fix})
	}
	return refused.Err()
}

// pinned refuses a base whose digest is that of one platform while its tag is
// an index; nil if it isn't so, or can't be found out. The tag may have moved
// on since the digest was taken: the index then has the missing platforms, but
// not the pinned manifest.
func (b *Base) pinned(ctx context.Context, missing []platform.Platform) error {
	repository, tag, digested := splitReference(b.Name)
	if !digested || tag == "" {
		return nil
	}
	// The turn of this other name isn't taken: it is only looked at.
	index, err := b.resolver.load(ctx, repository+":"+tag)
	if err != nil {
		return context.Cause(ctx)
	}
	if !index.indexed {
		return nil
	}
	has := make([]platform.Platform, len(index.children))
	still := false
	for i, c := range index.children {
		has[i] = c.platform
		still = still || c.descriptor.Digest == b.Digest
	}
	seen := fmt.Sprintf("%s is the %s image of the index %s", short(b.Digest), name(b.children[0].platform), short(index.root.Digest))
	if !still {
		seen = fmt.Sprintf("%s is a %s image; the tag %s is now the index %s", short(b.Digest), name(b.children[0].platform), tag, short(index.root.Digest))
	}
	var refused refusal.Collect
	refused.Add(&refusal.Error{
		Code: "PA105", Place: b.at(), Summary: "base is pinned to one platform of a multi-arch image",
		Seen: []string{seen, "missing: " + names(missing, ", ") + "; the index has: " + names(has, ", ")},
		Fix:  []string{b.write(fmt.Sprintf("%s:%s@%s", repository, tag, index.root.Digest))},
	})
	other := &Base{Name: repository + ":" + tag, Digest: index.root.Digest, place: b.place, content: index}
	for _, p := range missing { // those that the index wouldn't have either
		if p.Best(has) < 0 {
			refused.Add(other.lacks("PA104", "base image has no such platform", []platform.Platform{p}, nil))
		}
	}
	return refused.Err()
}

// splitReference takes repository[:tag][@digest] apart as it is written.
// Layouts have either a tag or a digest.
func splitReference(ref string) (repository, tag string, digested bool) {
	repository, _, digested = strings.Cut(ref, "@")
	if strings.HasPrefix(ref, "oci:") {
		return repository, "", digested
	}
	if i := strings.LastIndex(repository, ":"); i > strings.LastIndex(repository, "/") {
		repository, tag = repository[:i], repository[i+1:]
	}
	return repository, tag, digested
}

// name is a platform with its OS version.
func name(p platform.Platform) string {
	if p.OSVersion != "" {
		return p.String() + ":" + p.OSVersion
	}
	return p.String()
}

func names(list []platform.Platform, separator string) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = name(p)
	}
	return strings.Join(texts, separator)
}

// short is a digest for people to recognize.
func short(d digest.Digest) string {
	const shown = len("sha256:") + 12
	if len(d) <= shown {
		return d.String()
	}
	return d.String()[:shown] + "…"
}
