package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Multi is an index and the images under it, ready to be written somewhere.
type Multi struct {
	Index  ocispec.Descriptor
	Images []Image
	// Store has manifests and configs; Open gives layers.
	Store *store.Store
	Open  func(ctx context.Context, layer Layer) (io.ReadCloser, error)
}

// Blob is one blob that has to be written.
type Blob struct {
	Descriptor ocispec.Descriptor
	Open       func(ctx context.Context) (io.ReadCloser, error)
}

// blobs lists what an index needs, each blob once: layers and configs first,
// then manifests, the index last.
func (m Multi) blobs() []Blob {
	var (
		list []Blob
		seen = map[digest.Digest]bool{}
	)
	add := func(d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) {
		if !seen[d.Digest] && len(d.URLs) == 0 {
			seen[d.Digest] = true
			list = append(list, Blob{d, open})
		}
	}
	stored := func(d ocispec.Descriptor) func(context.Context) (io.ReadCloser, error) {
		return func(context.Context) (io.ReadCloser, error) { return m.Store.Blob(d.Digest) }
	}
	for _, img := range m.Images {
		for _, layer := range img.Layers {
			add(layer.Descriptor, func(ctx context.Context) (io.ReadCloser, error) { return m.Open(ctx, layer) })
		}
		add(img.Config, stored(img.Config))
	}
	for _, img := range m.Images {
		add(img.Manifest, stored(img.Manifest))
	}
	add(m.Index, stored(m.Index))
	return list
}

// WriteLayout adds the index to the layout dst under the given tags: blobs
// first, the tags last.
func (m Multi) WriteLayout(ctx context.Context, dst *store.Store, tags []string) error {
	for _, b := range m.blobs() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if dst.Has(b.Descriptor.Digest) {
			continue
		}
		if err := copyBlob(ctx, dst, b); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if d, err := dst.Find(tag); err == nil && d.Digest == m.Index.Digest {
			continue
		}
		if err := dst.Tag(ctx, tag, m.Index, false); err != nil {
			return err
		}
	}
	return nil
}

func copyBlob(ctx context.Context, dst *store.Store, b Blob) error {
	r, err := b.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	return dst.Copy(b.Descriptor, r)
}

// epoch is the time of everything in an archive.
var epoch = time.Unix(0, 0).UTC()

// WriteArchive writes an OCI layout of the index as one tar file: the same
// image gives the same bytes. The file appears whole or not at all.
func (m Multi) WriteArchive(ctx context.Context, file string, tags []string) error {
	var entries []ocispec.Descriptor
	for _, tag := range tags {
		d := m.Index
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		entries = append(entries, d)
	}
	return WriteArchive(ctx, file, m.blobs(), entries)
}

// WriteArchive writes blobs as an OCI layout in one tar file, in which index.json
// lists entries. It is streamed: nothing is kept on this machine. The file appears
// whole or not at all.
func WriteArchive(ctx context.Context, file string, blobs []Blob, entries []ocispec.Descriptor) error {
	top, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
	if err != nil {
		return err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return writeTar(file, func(w *tar.Writer) error {
		for _, dir := range []string{"blobs/", "blobs/sha256/"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
				return err
			}
		}
		list := slices.Clone(blobs)
		slices.SortFunc(list, func(a, b Blob) int {
			return strings.Compare(a.Descriptor.Digest.String(), b.Descriptor.Digest.String())
		})
		for _, b := range list {
			name := "blobs/" + b.Descriptor.Digest.Algorithm().String() + "/" + b.Descriptor.Digest.Encoded()
			if err := tarBlob(ctx, w, name, b); err != nil {
				return err
			}
		}
		if err := tarBytes(w, ocispec.ImageIndexFile, top); err != nil {
			return err
		}
		return tarBytes(w, ocispec.ImageLayoutFile, layout)
	})
}

// WriteDockerArchive writes one image as `docker save` does, for `docker load`.
// repoTags are full references, such as example.com/app:1.0. The format has
// room for one platform only.
func (m Multi) WriteDockerArchive(ctx context.Context, file string, repoTags []string) error {
	if len(m.Images) != 1 {
		return fmt.Errorf("a docker-archive holds one platform, not %d", len(m.Images))
	}
	img := m.Images[0]
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: img.Config.Digest.Encoded() + ".json", RepoTags: repoTags, Layers: []string{}}
	var list []Blob
	for _, layer := range img.Layers {
		name := layer.Descriptor.Digest.Encoded() + ".tar.gz"
		if strings.HasSuffix(layer.Descriptor.MediaType, "+zstd") {
			name = layer.Descriptor.Digest.Encoded() + ".tar.zst"
		}
		if !slices.Contains(entry.Layers, name) {
			list = append(list, Blob{layer.Descriptor, func(ctx context.Context) (io.ReadCloser, error) { return m.Open(ctx, layer) }})
		}
		entry.Layers = append(entry.Layers, name)
	}
	top, err := json.Marshal([]any{entry})
	if err != nil {
		return err
	}
	config, err := m.Store.ReadBlob(img.Config.Digest)
	if err != nil {
		return err
	}
	return writeTar(file, func(w *tar.Writer) error {
		if err := tarBytes(w, entry.Config, config); err != nil {
			return err
		}
		for _, b := range list {
			i := slices.IndexFunc(entry.Layers, func(n string) bool { return strings.HasPrefix(n, b.Descriptor.Digest.Encoded()) })
			if err := tarBlob(ctx, w, entry.Layers[i], b); err != nil {
				return err
			}
		}
		return tarBytes(w, "manifest.json", top)
	})
}

// writeTar writes a tar file beside its place and renames it.
func writeTar(file string, fill func(*tar.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return writeError(file, err)
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	w := tar.NewWriter(f)
	err = fill(w)
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return writeError(file, err)
	}
	return nil
}

func writeError(file string, err error) error {
	if _, isPath := err.(*fs.PathError); !isPath { //nolint:errorlint // only the file's own errors
		return err
	}
	return store.DiskError(file, "write", err)
}

func tarBytes(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(data))
	return err
}

func tarBlob(ctx context.Context, w *tar.Writer, name string, b Blob) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r, err := b.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: b.Descriptor.Size, Mode: 0o644, ModTime: epoch}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("%s: %w", b.Descriptor.Digest, err)
	}
	return nil
}

// OpenArchive unpacks an OCI archive or a docker-archive into the empty
// directory dir and gives the layout. Only files of the expected names are
// written, and only inside dir.
func OpenArchive(file, dir string) (Layout, error) {
	f, err := os.Open(file)
	if err != nil {
		return Layout{}, &refusal.Error{Code: "PA604", Place: file, Summary: "can't read the archive", Seen: []string{err.Error()}, Err: err}
	}
	defer f.Close()
	return ReadArchive(f, dir, file)
}

// ReadArchive is OpenArchive for a stream; name is what messages call it.
func ReadArchive(r io.Reader, dir, name string) (Layout, error) {
	st, err := store.Create(dir)
	if err != nil {
		return Layout{}, err
	}
	return readArchive(tar.NewReader(r), st, name)
}
