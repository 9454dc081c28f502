package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// opened is an image that a command was given, wherever it is.
type opened struct {
	source     image.Source
	descriptor ocispec.Descriptor
	name       string // as its user would write it
	close      func()
}

// openImage finds an image by what its user typed: the directory of a layout
// (DIR, DIR:TAG, DIR@DIGEST, with or without oci: in front), an archive, or a
// reference into a registry.
func (a *app) openImage(ctx context.Context, text string) (*opened, error) {
	o, identifier, err := a.openSource(text)
	if err != nil {
		return nil, err
	}
	o.descriptor, err = o.source.Resolve(ctx, identifier)
	if errors.Is(err, store.ErrNotFound) {
		o.close()
		return nil, a.notFound(ctx, o, text, identifier)
	}
	if err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (a *app) openSource(text string) (*opened, string, error) {
	local, isLocal := strings.CutPrefix(text, "oci:")
	for _, prefix := range []string{"oci-archive:", "docker-archive:"} {
		if file, found := strings.CutPrefix(text, prefix); found {
			return a.openArchive(file)
		}
	}
	dir, identifier := splitPath(local)
	abs := dir
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(a.Dir, abs)
	}
	info, err := os.Stat(abs)
	switch {
	case err == nil && info.IsDir():
		return a.openLayout(dir, abs, identifier)
	case err == nil && identifier == "":
		return a.openArchive(dir)
	case isLocal || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/"):
		return nil, "", &refusal.Error{
			Code: "PA604", Kind: refusal.Usage, Place: dir, Summary: "there is no such layout or archive",
			Fix: []string{"anyarch build --output oci:" + dir},
		}
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return nil, "", err
	}
	client, err := a.registryClient()
	if err != nil {
		return nil, "", err
	}
	repo, err := client.Repository(ref.Repository)
	if err != nil {
		return nil, "", err
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	return &opened{source: repo, name: ref.String(), close: func() {}}, ref.Identifier(), nil
}

// splitPath takes the tag or digest off a path.
func splitPath(text string) (dir, identifier string) {
	if i := strings.LastIndex(text, "@"); i > 0 {
		if _, err := digest.Parse(text[i+1:]); err == nil {
			return text[:i], text[i+1:]
		}
	}
	if i := strings.LastIndex(text, ":"); i > len(filepath.VolumeName(text)) && !strings.ContainsAny(text[i:], `/\`) {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// openLayout opens dir, or the only layout in it.
func (a *app) openLayout(dir, abs, identifier string) (*opened, string, error) {
	name := dir
	st, err := store.Open(abs)
	if err != nil {
		below, globErr := filepath.Glob(filepath.Join(abs, "*", ocispec.ImageLayoutFile))
		if globErr != nil || len(below) == 0 {
			return nil, "", err
		}
		if len(below) > 1 {
			e := &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: dir, Summary: "there are several images; name one"}
			for _, marker := range below {
				e.Fix = append(e.Fix, filepath.ToSlash(filepath.Join(dir, filepath.Base(filepath.Dir(marker)))))
			}
			return nil, "", e
		}
		name = filepath.ToSlash(filepath.Join(dir, filepath.Base(filepath.Dir(below[0]))))
		if st, err = store.Open(filepath.Dir(below[0])); err != nil {
			return nil, "", err
		}
	}
	switch {
	case identifier == "":
	case strings.Contains(identifier, ":"):
		name += "@" + identifier
	default:
		name += ":" + identifier
	}
	return &opened{source: image.Layout{Store: st}, name: name, close: func() {}}, identifier, nil
}

// openArchive unpacks an archive's blobs for as long as the command runs.
func (a *app) openArchive(file string) (*opened, string, error) {
	abs := file
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(a.Dir, abs)
	}
	dir, err := os.MkdirTemp("", "anyarch-archive-")
	if err != nil {
		return nil, "", err
	}
	remove := func() { os.RemoveAll(dir) }
	layout, err := image.OpenArchive(abs, dir)
	if err != nil {
		remove()
		return nil, "", err
	}
	return &opened{source: layout, name: file, close: remove}, "", nil
}

// notFound says what there is instead.
func (a *app) notFound(ctx context.Context, o *opened, text, identifier string) error {
	e := &refusal.Error{Code: "PA407", Place: o.name, Summary: "there is no such image"}
	if tags, err := o.source.Tags(ctx); err == nil && len(tags) > 0 {
		shown := tags
		if len(shown) > 8 {
			shown = shown[len(shown)-8:]
		}
		e.Seen = []string{fmt.Sprintf("%d tags are there, among them %s", len(tags), strings.Join(shown, ", "))}
		if near := refusal.Nearest(identifier, tags); near != "" {
			e.Fix = []string{strings.TrimSuffix(text, ":"+identifier) + ":" + near}
		}
	}
	return e
}
