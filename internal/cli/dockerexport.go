package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/runner"
	"github.com/anyarch/anyarch/internal/store"
)

// built reads the layers of what was built.
type built struct {
	image.Layout
	layers map[string]image.Layer
	open   openLayer
}

func (b built) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if l, ok := b.layers[d.Digest.String()]; ok {
		r, err := b.open(ctx, l)
		if err != nil {
			return nil, err
		}
		return image.Verified(r, d), nil
	}
	return b.Layout.Fetch(ctx, d)
}

func (a *app) builtSource(o pipeline.ImageOutcome, open openLayer) (built, error) {
	kept, err := a.openCache()
	if err != nil {
		return built{}, err
	}
	b := built{Layout: image.Layout{Store: kept.Blobs()}, layers: map[string]image.Layer{}, open: open}
	for _, p := range o.Platforms {
		for _, l := range p.Image.Layers {
			b.layers[l.Descriptor.Digest.String()] = l
		}
	}
	return b, nil
}

// exportFiles writes the files of an image into a directory, as --output type=local
// does: over what is there, owned by who runs this, one directory per platform if
// there are several.
func (a *app) exportFiles(ctx context.Context, o pipeline.ImageOutcome, dest string, open openLayer) error {
	src, err := a.builtSource(o, open)
	if err != nil {
		return err
	}
	for _, p := range o.Platforms {
		into := dest
		if len(o.Platforms) > 1 {
			into = filepath.Join(dest, strings.ReplaceAll(p.Image.Platform.String(), "/", "_"))
		}
		var layers []ocispec.Descriptor
		for _, l := range p.Image.Layers {
			layers = append(layers, l.Descriptor)
		}
		if err := exportLayers(ctx, src, layers, into); err != nil {
			return err
		}
	}
	return nil
}

// exportLayers unpacks layers beside their place and moves the files over: a layer may
// remove files of those below it, and none of the directory's own.
func exportLayers(ctx context.Context, src image.Source, layers []ocispec.Descriptor, dest string) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return store.DiskError(dest, "create", err)
	}
	scratch, err := os.MkdirTemp(dest, ".anyarch-")
	if err != nil {
		return store.DiskError(dest, "write", err)
	}
	defer removeAll(scratch)
	if err := runner.Unpack(ctx, src, layers, scratch); err != nil {
		return err
	}
	root, err := os.OpenRoot(dest) // what leads out of it stays unfollowed
	if err != nil {
		return store.DiskError(dest, "write", err)
	}
	defer root.Close()
	err = filepath.WalkDir(scratch, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == scratch {
			return err
		}
		name, err := filepath.Rel(scratch, path)
		if err != nil {
			return err
		}
		return exportFile(root, scratch, name, entry)
	})
	if err != nil {
		return store.DiskError(dest, "write", err)
	}
	return nil
}

func exportFile(root *os.Root, scratch, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	there, err := root.Lstat(name)
	if err == nil && !(there.IsDir() && info.IsDir()) {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	path := filepath.Join(scratch, name)
	switch {
	case info.IsDir():
		if err := root.Mkdir(name, info.Mode().Perm()|0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return root.Symlink(target, name)
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(info.Mode().Perm())
	}
	return errors.Join(err, out.Close())
}

// removeAll removes a tree that may have directories which can't be written.
func removeAll(dir string) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// exportStream writes an image to standard output, as docker save does.
func (a *app) exportStream(ctx context.Context, names []string, o pipeline.ImageOutcome, open openLayer) error {
	kept, err := a.openCache()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(kept.Dir(), "export-")
	if err != nil {
		return store.DiskError(kept.Dir(), "write", err)
	}
	defer removeAll(dir)
	images, err := imagestore.Open(dir, nil)
	if err != nil {
		return err
	}
	src, err := a.builtSource(o, open)
	if err != nil {
		return err
	}
	if _, err := images.Add(ctx, names, src, o.Index, ""); err != nil {
		return err
	}
	img, err := images.Find(o.Index.Digest.String())
	if err != nil {
		return err
	}
	return images.Save(ctx, a.Stdout, []imagestore.Saved{{Image: img, Names: names}}, platform.Local())
}
