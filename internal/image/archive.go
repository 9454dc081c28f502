package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// maxLink is how many symbolic links of a docker-archive are remembered: old
// versions of docker save link equal layers to each other.
const maxLinks = 10000

// readArchive takes an archive's blobs into st and names what it holds.
func readArchive(r *tar.Reader, st *store.Store, file string) (Layout, error) {
	bad := func(why string, err error) (Layout, error) {
		return Layout{}, &refusal.Error{Code: "PA604", Place: file, Summary: "not an OCI archive and no docker-archive: " + why, Err: err}
	}
	var (
		index, manifest []byte
		files           = map[string]ocispec.Descriptor{} // by name in the archive
		links           = map[string]string{}
	)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad(err.Error(), err)
		}
		name := path.Clean(h.Name)
		switch {
		case h.Typeflag == tar.TypeSymlink && len(links) < maxLinks:
			links[name] = path.Join(path.Dir(name), h.Linkname)
			continue
		case h.Typeflag != tar.TypeReg:
			continue
		case name == ocispec.ImageIndexFile || name == "manifest.json":
			data, err := io.ReadAll(io.LimitReader(r, store.MaxManifestSize))
			if err != nil {
				return bad(err.Error(), err)
			}
			if name == ocispec.ImageIndexFile {
				index = data
			} else {
				manifest = data
			}
			continue
		}
		w, err := st.Ingest()
		if err != nil {
			return Layout{}, err
		}
		if _, err := io.Copy(w, r); err != nil {
			w.Abort()
			return bad(err.Error(), err)
		}
		size := w.Size()
		d, err := w.Commit("")
		if err != nil {
			return Layout{}, err
		}
		files[name] = ocispec.Descriptor{Digest: d, Size: size}
	}
	switch {
	case index != nil:
		var parsed ocispec.Index
		if err := json.Unmarshal(index, &parsed); err != nil {
			return bad(err.Error(), err)
		}
		return Layout{Store: st}, st.UpdateIndex(context.Background(), func(i *ocispec.Index) error { *i = parsed; return nil })
	case manifest != nil:
		if err := fromDocker(st, manifest, files, links); err != nil {
			return bad(err.Error(), err)
		}
		return Layout{Store: st}, nil
	}
	return bad("it has neither index.json nor manifest.json", nil)
}

// fromDocker writes the manifests that a docker-archive only implies.
func fromDocker(st *store.Store, data []byte, files map[string]ocispec.Descriptor, links map[string]string) error {
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		return err
	}
	find := func(name string) (ocispec.Descriptor, error) {
		name = path.Clean(name)
		for range 8 {
			if d, ok := files[name]; ok {
				return d, nil
			}
			name = links[name]
		}
		return ocispec.Descriptor{}, fmt.Errorf("%s isn't in the archive", name)
	}
	for _, entry := range entries {
		config, err := find(entry.Config)
		if err != nil {
			return err
		}
		raw, err := st.ReadBlob(config.Digest)
		if err != nil {
			return err
		}
		var parsed ocispec.Image
		if err := json.Unmarshal(raw, &parsed); err != nil {
			return err
		}
		config.MediaType = DockerConfig
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: DockerManifest, Config: config}
		for _, name := range entry.Layers {
			layer, err := find(name)
			if err != nil {
				return err
			}
			layer.MediaType = sniff(st, layer.Digest)
			m.Layers = append(m.Layers, layer)
		}
		d, err := writeJSON(st, DockerManifest, m)
		if err != nil {
			return err
		}
		p := platform.FromOCI(&parsed.Platform).OCI()
		d.Platform = &p
		d.Annotations = nil
		err = st.UpdateIndex(context.Background(), func(index *ocispec.Index) error {
			for _, name := range entry.RepoTags {
				d.Annotations = map[string]string{ocispec.AnnotationRefName: name, annotationName: name}
				if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
					d.Annotations[ocispec.AnnotationRefName] = name[i+1:]
				}
				index.Manifests = append(index.Manifests, d)
			}
			if len(entry.RepoTags) == 0 {
				index.Manifests = append(index.Manifests, d)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// annotationName is the full name of an image in index.json, as containerd has it.
const annotationName = "io.containerd.image.name"

// sniff tells how a layer is compressed by its first bytes.
func sniff(st *store.Store, d digest.Digest) string {
	f, err := st.Blob(d)
	if err != nil {
		return ocispec.MediaTypeImageLayer
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := io.ReadFull(f, head)
	switch magic := string(head[:n]); {
	case strings.HasPrefix(magic, "\x1f\x8b"):
		return DockerLayer
	case magic == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}
