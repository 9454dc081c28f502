package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// places are the sources and destinations of one command. What is read from a
// repository that is written to is asked of the repository itself, not of mirrors.
type places struct {
	app     *app
	targets map[string]assemble.Destination // by canonical name
	closes  []func()
	dry     bool // layouts aren't made
}

func (a *app) newPlaces() *places {
	return &places{app: a, targets: map[string]assemble.Destination{}}
}

// close removes what archives were unpacked to.
func (p *places) close() {
	for _, f := range p.closes {
		f()
	}
}

// source finds an image as openImage does, without reading it.
func (p *places) source(text string) (assemble.Wanted, error) {
	o, identifier, err := p.app.openSource(text)
	if err != nil {
		return assemble.Wanted{}, err
	}
	p.closes = append(p.closes, o.close)
	w := assemble.Wanted{Place: assemble.Place{Source: o.source, Name: o.name}, Identifier: identifier}
	for _, suffix := range []string{"@" + identifier, ":" + identifier} {
		if identifier != "" {
			w.Name = strings.TrimSuffix(w.Name, suffix)
		}
	}
	if repo, ok := o.source.(*registry.Repository); ok {
		w.Name, w.Repository = repo.Name(), repo.Name()
		if target, ok := p.targets[repo.Name()]; ok {
			w.Place = target.Place
		}
	}
	return w, nil
}

// sources finds several images and reports everything that isn't one.
func (p *places) sources(texts []string) ([]assemble.Wanted, error) {
	var list []assemble.Wanted
	var refused refusal.Collect
	for _, text := range texts {
		w, err := p.source(text)
		if err != nil && !refused.Add(err) {
			return nil, err
		}
		list = append(list, w)
	}
	return list, refused.Err()
}

// read reads images, with all that is below them but layers.
func (p *places) read(ctx context.Context, reader *assemble.Reader, texts []string) ([]*assemble.Item, error) {
	wanted, err := p.sources(texts)
	if err != nil {
		return nil, err
	}
	return reader.ReadAll(ctx, wanted)
}

// repository opens a repository to write to.
func (p *places) repository(name string) (assemble.Destination, error) {
	if d, ok := p.targets[name]; ok {
		return d, nil
	}
	client, err := p.app.registryClient()
	if err != nil {
		return assemble.Destination{}, err
	}
	repo, err := client.Repository(name)
	if err != nil {
		return assemble.Destination{}, err
	}
	direct := repo.Direct()
	d := assemble.Destination{Repo: direct, Place: assemble.Place{Source: direct, Name: direct.Name(), Repository: direct.Name()}}
	p.targets[name] = d
	return d, nil
}

// layout opens, or makes, a layout to write to.
func (p *places) layout(dir string) (assemble.Destination, error) {
	if dir == "" {
		return assemble.Destination{}, &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: "oci:", Summary: "a layout needs a directory", Fix: []string{"oci:dist:1.0"}}
	}
	abs := dir
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(p.app.Dir, abs)
	}
	if d, ok := p.targets["oci:"+abs]; ok {
		return d, nil
	}
	open := store.Create
	if _, err := os.Stat(abs); err != nil && p.dry {
		open = func(string) (*store.Store, error) {
			dir, err := os.MkdirTemp("", "anyarch-dry-")
			if err != nil {
				return nil, err
			}
			p.closes = append(p.closes, func() { os.RemoveAll(dir) })
			return store.Create(dir)
		}
	}
	st, err := open(abs)
	if err != nil {
		if len(refusal.All(err)) == 0 {
			err = &refusal.Error{Code: "PA602", Place: "oci:" + dir, Summary: "can't make a layout here", Seen: []string{err.Error()}, Err: err}
		}
		return assemble.Destination{}, err
	}
	l := publish.NewLayout(st, "oci:"+dir)
	d := assemble.Destination{Repo: l, Place: assemble.Place{Source: l, Name: "oci:" + dir}}
	p.targets["oci:"+abs] = d
	return d, nil
}

// destination reads one -t: a reference into a registry or oci:DIR[:TAG]. Without a
// tag it is latest.
func (p *places) destination(flag, text string) (assemble.Destination, string, error) {
	if local, ok := strings.CutPrefix(text, "oci:"); ok {
		dir, tag := splitPath(local)
		if strings.Contains(tag, ":") {
			return assemble.Destination{}, "", digestTarget(flag, text)
		}
		d, err := p.layout(dir)
		return d, first(tag, "latest"), err
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return assemble.Destination{}, "", err
	}
	if ref.Digest != "" {
		return assemble.Destination{}, "", digestTarget(flag, text)
	}
	d, err := p.repository(ref.Repository)
	return d, first(ref.Tag, "latest"), err
}

func digestTarget(flag, text string) error {
	return &refusal.Error{
		Code: "PA503", Kind: refusal.Usage, Place: flag + " " + text, Summary: "a digest can't be published to; it follows from the content",
		Fix: []string{flag + " " + text[:strings.Index(text, "@")] + ":1.0"},
	}
}

// destinations reads all of -t. A bare tag is one for the repository before it, or
// for the first, if that is given.
func (p *places) destinations(flag string, texts []string, first *assemble.Destination) ([]assemble.Destination, error) {
	var list []assemble.Destination
	var refused refusal.Collect
	previous := -1
	if first != nil {
		list, previous = append(list, *first), 0
	}
	add := func(d assemble.Destination, tag string) {
		previous = slices.IndexFunc(list, func(other assemble.Destination) bool { return other.Repo.Name() == d.Repo.Name() })
		if previous < 0 {
			previous = len(list)
			d.Tags = nil
			list = append(list, d)
		}
		if !slices.Contains(list[previous].Tags, tag) {
			list[previous].Tags = append(slices.Clip(list[previous].Tags), tag)
		}
	}
	for _, text := range texts {
		if !strings.ContainsAny(text, "/:@") {
			if previous < 0 {
				refused.Add(&refusal.Error{
					Code: "PA503", Kind: refusal.Usage, Place: flag + " " + text, Summary: "a bare tag needs a repository before it",
					Fix: []string{fmt.Sprintf("%s docker.io/USER/NAME:%s", flag, text)},
				})
				continue
			}
			if _, err := registry.ParseReference("example.com/x:" + text); err != nil {
				refused.Add(err)
				continue
			}
			add(list[previous], text)
			continue
		}
		d, tag, err := p.destination(flag, text)
		if err != nil {
			if !refused.Add(err) {
				return nil, err
			}
			continue
		}
		add(d, tag)
	}
	return list, refused.Err()
}
