package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/anyarch/anyarch/internal/cache"
	"github.com/anyarch/anyarch/internal/gocache"
	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/ui"
)

// goCacheLimit is what a shared build cache may take if its user says nothing.
const goCacheLimit = 2 << 30

// goCachePlace is a shared build cache as --cache names it.
type goCachePlace struct {
	repository gocache.Repository
	tag, name  string
	readOnly   bool
	limit      int64
}

// parseGoCache reads REFERENCE[,mode=ro|rw][,max-size=SIZE].
func (a *app) parseGoCache(text string) (goCachePlace, error) {
	wrong := func(why string) error {
		return &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--cache " + text, Summary: why,
			Fix: []string{"--cache registry.example.com/team/app/cache:main", "--cache registry.example.com/team/app/cache:main,mode=ro"}}
	}
	p := goCachePlace{limit: goCacheLimit}
	name, rest, _ := strings.Cut(text, ",")
	for rest != "" {
		var option string
		option, rest, _ = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key == "mode" && (value == "ro" || value == "rw"):
			p.readOnly = value == "ro"
		case key == "max-size":
			size, err := cache.ParseSize(value)
			if err != nil {
				return p, wrong(fmt.Sprintf("%q is not a size", value))
			}
			p.limit = size
		default:
			return p, wrong(fmt.Sprintf("%q is not an option of it", option))
		}
	}
	ref, err := registry.ParseReference(name)
	if err != nil {
		return p, err
	}
	if ref.Digest != "" {
		return p, wrong("a cache is a tag, which moves")
	}
	if p.tag = ref.Tag; p.tag == "" {
		p.tag = "latest"
	}
	client, err := a.registryClient()
	if err != nil {
		return p, err
	}
	repository, err := client.Repository(ref.Repository)
	if err != nil {
		return p, err
	}
	p.repository, p.name = repository, ref.Repository+":"+p.tag
	if !p.readOnly {
		p.repository = repository.Direct() // who writes reads what is there now
	}
	return p, nil
}

// openGoCache opens the build cache that --cache names.
func (a *app) openGoCache(ctx context.Context, text string, event progress.Sink) (*gocache.Session, error) {
	place, err := a.parseGoCache(text)
	if err != nil {
		return nil, err
	}
	toolchain, err := gotool.Find(gotool.Options{Getenv: a.Getenv, LookPath: a.LookPath})
	if err != nil {
		return nil, err
	}
	_, builds := toolchain.Caches()
	if err := os.MkdirAll(builds, 0o777); err != nil {
		return nil, &refusal.Error{Code: "PA602", Place: builds, Summary: "can't write to Go's build cache", Seen: []string{err.Error()}, Err: err}
	}
	return gocache.New(ctx, gocache.Options{
		Repository: place.repository, Tag: place.tag, ReadOnly: place.readOnly, Limit: place.limit, Dir: builds,
		Scratch: first(a.Getenv("TMPDIR"), os.TempDir()),
		Warn:    func(text string) { event.Warn("", "", fmt.Sprintf("PA661 %s: %s", place.name, text)) },
	}), nil
}

// saveGoCache writes what a build has added to the cache that --cache names. The build
// has succeeded, so what goes wrong is only said.
func (a *app) saveGoCache(ctx context.Context, b *buildFlags, event progress.Sink) {
	name, _, _ := strings.Cut(b.goCache, ",")
	if b.docker.file != "" || b.docker.always {
		b.shared.Collect()
	}
	if b.dryRun || b.estimate {
		return // writes nothing
	}
	if err := b.shared.Save(ctx); err != nil && ctx.Err() == nil {
		event.Warn("", "", fmt.Sprintf("PA661 %s: the build cache can't be written: %v", name, err))
	}
	if n := b.shared.Stats(); n != (gocache.Stats{}) {
		wrote := "nothing new to keep there"
		switch {
		case b.shared.ReadOnly():
			wrote = "nothing is written there (mode=ro)"
		case n.Pushed > 0:
			wrote = ui.Bytes(n.Pushed) + " sent there"
		}
		event.Note("", "", progress.Resolve, fmt.Sprintf("build cache %s: %s; %s", name, n, wrote))
	}
}

// verifyGoCache reads a cache in a registry again; what is damaged is named no more.
func (a *app) verifyGoCache(ctx context.Context, text string) error {
	place, err := a.writableGoCache(text)
	if err != nil {
		return err
	}
	done, err := gocache.Verify(ctx, place.repository, place.tag)
	if err != nil {
		return fmt.Errorf("verify %s: %w", place.name, err)
	}
	if err := a.printLine(fmt.Sprintf("%s in %d results are what they should be", ui.Bytes(done.Bytes), done.Entries)); err != nil {
		return err
	}
	if len(done.Damaged) == 0 {
		return nil
	}
	return &refusal.Error{Code: "PA660", Kind: refusal.Findings, Place: place.name, Summary: fmt.Sprintf("%d items of the build cache were damaged; it names them no more", len(done.Damaged)), Seen: done.Damaged}
}

// writableGoCache reads the place of a cache that is to be changed.
func (a *app) writableGoCache(text string) (goCachePlace, error) {
	place, err := a.parseGoCache(text)
	if err == nil && place.readOnly {
		err = &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--remote " + text, Summary: "what is only read can't be changed", Fix: []string{"--remote " + place.name}}
	}
	return place, err
}

// pruneGoCache keeps a cache in a registry within its bound, or empties it.
func (a *app) pruneGoCache(ctx context.Context, text string, all bool) error {
	place, err := a.writableGoCache(text)
	if err != nil {
		return err
	}
	if all {
		place.limit = 0
	}
	freed, left, err := gocache.Prune(ctx, place.repository, place.tag, place.limit)
	if err != nil {
		return fmt.Errorf("prune %s: %w", place.name, err)
	}
	return a.printLine(fmt.Sprintf("%s freed in %s; %s left", ui.Bytes(freed), place.name, ui.Bytes(left)))
}
