package imagestore

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// Saved is one image of an archive and the names that it gets there.
type Saved struct {
	Image Image
	Names []string
}

// Save writes images as docker save does: an OCI layout in one tar, whose index.json
// names them, and a manifest.json beside it for what reads docker-archives alone;
// that has room for one platform of an image, which is local's if there is one. The
// same images give the same bytes.
func (s *Store) Save(ctx context.Context, w io.Writer, images []Saved, local platform.Platform) error {
	type legacy struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	old := []legacy{}
	type blob struct {
		ocispec.Descriptor
		from image.Source
	}
	blobs := map[digest.Digest]blob{}
	for _, saved := range images {
		src := s.Source(saved.Image)
		err := walk(ctx, src, saved.Image.Descriptor, 0, func(d ocispec.Descriptor) error {
			blobs[d.Digest] = blob{d, src}
			return nil
		}, nil)
		if err != nil {
			return err
		}
		for _, name := range saved.Names {
			d := saved.Image.Descriptor
			ref, err := Canonical(name)
			if err != nil {
				return err
			}
			d.Annotations = map[string]string{ocispec.AnnotationRefName: ref.Tag, annotationName: name}
			index.Manifests = append(index.Manifests, d)
		}
		if len(saved.Names) == 0 {
			index.Manifests = append(index.Manifests, saved.Image.Descriptor)
		}
		manifests, err := s.Manifests(ctx, saved.Image)
		if err != nil {
			return err
		}
		manifests = slices.DeleteFunc(manifests, func(m Manifest) bool { return !m.Runnable() })
		if len(manifests) == 0 {
			continue
		}
		chosen := manifests[0]
		for _, m := range manifests {
			if platform.FromOCI(m.Descriptor.Platform) == local {
				chosen = m
			}
		}
		entry := legacy{Config: blobName(chosen.Config.Digest), Layers: []string{}, RepoTags: []string{}}
		for _, name := range saved.Names {
			entry.RepoTags = append(entry.RepoTags, Familiar(name))
		}
		for _, l := range chosen.Layers {
			entry.Layers = append(entry.Layers, blobName(l.Digest))
		}
		old = append(old, entry)
	}
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := blobs[d]
		r, err := b.from.Fetch(ctx, b.Descriptor)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobName(d), Size: b.Size, Mode: 0o644, ModTime: epoch})
		if err == nil {
			_, err = io.Copy(tw, r)
		}
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	for _, file := range []struct {
		name    string
		content any
	}{{ocispec.ImageIndexFile, index}, {"manifest.json", old}, {ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}} {
		data, err := json.Marshal(file.content)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file.name, Size: int64(len(data)), Mode: 0o644, ModTime: epoch}); err != nil {
			return err
		}
		if _, err := tw.Write(data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// annotationName is the full name of an image in index.json, as containerd and
// docker save have it.
const annotationName = "io.containerd.image.name"

var epoch = time.Unix(0, 0).UTC()

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// Loaded is one image that Load has taken in.
type Loaded struct {
	Names      []string
	Descriptor ocispec.Descriptor
	Absent     []string // platforms that the archive names and doesn't have
}

// Load takes in every image of an archive of docker save or of an OCI archive, which
// may be compressed with gzip, zstd or bzip2. name is what messages call it.
func (s *Store) Load(ctx context.Context, r io.Reader, name string) ([]Loaded, error) {
	plain, err := uncompressed(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	dir, err := os.MkdirTemp(filepath.Dir(s.Dir()), "load-")
	if err != nil {
		return nil, store.DiskError(s.Dir(), "write", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	layout, err := image.ReadArchive(plain, dir, name)
	if err != nil {
		return nil, err
	}
	index, err := layout.Store.Index()
	if err != nil {
		return nil, err
	}
	var list []Loaded
	for _, d := range index.Manifests {
		if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
			continue
		}
		i := slices.IndexFunc(list, func(l Loaded) bool { return l.Descriptor.Digest == d.Digest })
		if i < 0 {
			list = append(list, Loaded{Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}})
			i = len(list) - 1
		}
		full := d.Annotations[annotationName]
		if tag := d.Annotations[ocispec.AnnotationRefName]; full == "" && strings.ContainsAny(tag, "/:") {
			full = tag // some tools put the whole reference there
		}
		if full == "" {
			continue
		}
		ref, err := Canonical(full)
		if err != nil || ref.Digest != "" {
			continue
		}
		list[i].Names = append(list[i].Names, ref.String())
	}
	for i, l := range list {
		if list[i].Absent, err = s.Add(ctx, l.Names, layout, l.Descriptor, ""); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return list, nil
}

// uncompressed looks at the first bytes.
func uncompressed(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch magic := string(head); {
	case strings.HasPrefix(magic, "\x1f\x8b"):
		return gzip.NewReader(buffered)
	case magic == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case strings.HasPrefix(magic, "BZh"):
		return io.NopCloser(bzip2.NewReader(buffered)), nil
	}
	return io.NopCloser(buffered), nil
}
