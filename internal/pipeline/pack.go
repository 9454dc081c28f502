package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/trace"
)

// factsVersion rises when more is read from programs, so that what was
// remembered before is read again.
const factsVersion = 1

// packed is what the memo remembers of a layer with programs.
type packed struct {
	Descriptor ocispec.Descriptor `json:"descriptor"`
	DiffID     digest.Digest      `json:"diffID"`
	Binaries   []*prove.Binary    `json:"binaries,omitempty"`
}

// programFile is one program on its way into a layer.
type programFile struct {
	name string // in the layer
	path string // on this machine
	info fs.FileInfo
}

// packPrograms makes the layer with an image's programs, and reads what their
// headers say on the way. Programs that are the very files of an earlier run
// are neither read nor compressed again. The caller holds the lock of the
// directory that they are in.
func (r *run) packPrograms(ctx context.Context, target plan.Image, p platform.Platform, paths []string) (l image.Layer, binaries []*prove.Binary, cached bool, err error) {
	files := make([]programFile, len(paths))
	for i, file := range paths {
		info, err := os.Stat(file)
		if err != nil {
			return image.Layer{}, nil, false, err
		}
		name := path.Join(strings.TrimPrefix(target.BinaryDir, "/"), target.Packages[i].Name)
		if p.OS == "windows" {
			name += ".exe"
		}
		files[i] = programFile{name: name, path: file, info: info}
	}
	key, err := r.programsKey(p, files)
	if err != nil {
		return image.Layer{}, nil, false, err
	}
	if known, ok := r.recall(key); ok {
		return known.layer(), known.Binaries, true, nil
	}
	select {
	case r.packing <- struct{}{}:
		defer func() { <-r.packing }()
	case <-ctx.Done():
		return image.Layer{}, nil, false, context.Cause(ctx)
	}
	var entries []layer.Entry
	for _, f := range files {
		b, err := readBinary(f)
		if err != nil {
			return image.Layer{}, nil, false, err
		}
		binaries = append(binaries, b)
		entries = append(entries, layer.Entry{
			Name: f.name, Mode: 0o755, Size: f.info.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(f.path) },
		})
	}
	end := trace.Start(ctx, trace.Layer, p.String()+" "+target.Name)
	options := r.layerOptions(p)
	slot := r.slot(target, p)
	options.Earlier = r.recallBlocks(slot)
	options.Made = func(b layer.Blocks) { r.rememberBlocks(slot, b) }
	l, err = layer.Write(ctx, r.cache, entries, options)
	end("files", fmt.Sprint(len(entries)), "bytes", fmt.Sprint(l.Descriptor.Size), "digest", l.Descriptor.Digest.String())
	if err != nil {
		return image.Layer{}, nil, false, err
	}
	for _, f := range files {
		if now, err := os.Stat(f.path); err != nil || !sameFile(now, f.info) {
			return image.Layer{}, nil, false, fmt.Errorf("%s changed while it was packed", f.path)
		}
	}
	r.remember(key, packed{Descriptor: l.Descriptor, DiffID: l.DiffID, Binaries: binaries})
	return l, binaries, false, nil
}

// slot names the place that a layer of programs has in the memory of runs:
// those of the same packages for the same platform, whatever is in them.
func (r *run) slot(target plan.Image, p platform.Platform) string {
	var packages []string
	for _, pkg := range target.Packages {
		packages = append(packages, pkg.ImportPath)
	}
	return r.key("blocks", p, append(packages, p.String()))
}

// recallBlocks finds what the last layer in a slot was made of. After a small
// change most of it can be taken over.
func (r *run) recallBlocks(slot string) *layer.Blocks {
	data, ok := r.memo.Get(slot)
	var b layer.Blocks
	if !ok || json.Unmarshal(data, &b) != nil {
		return nil
	}
	return &b
}

func (r *run) rememberBlocks(slot string, b layer.Blocks) {
	if data, err := json.Marshal(b); err == nil {
		r.memo.Put(slot, data)
	}
}

func sameFile(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

func readBinary(f programFile) (*prove.Binary, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := prove.ReadBinary(file, f.info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	if b == nil {
		return nil, fmt.Errorf("%s is no program", f.path)
	}
	b.Path = "/" + f.name
	return b, nil
}

// programsKey says all that the bytes of a layer of programs depend on.
func (r *run) programsKey(p platform.Platform, files []programFile) (string, error) {
	type file struct {
		Name    string
		Size    int64
		Content string
	}
	var list []file
	for _, f := range files {
		content, err := contentID(f.path)
		if err != nil {
			return "", err
		}
		list = append(list, file{f.name, f.info.Size(), content})
	}
	return r.key("programs", p, list), nil
}

func (r *run) key(kind string, p platform.Platform, content any) string {
	o := r.layerOptions(p)
	data, err := json.Marshal([]any{"layer", layer.Compat, factsVersion, kind, o.Compression, o.ModTime.Unix(), o.Windows, o.OmitParents, content})
	if err != nil {
		panic(err) // only strings and numbers
	}
	return string(data)
}

func (r *run) layerOptions(p platform.Platform) layer.Options {
	return layer.Options{
		Compression: r.plan.Compression, ModTime: r.plan.LayerTime, Windows: p.OS == "windows",
		// What a directory of a foreign base is like, or whether it is a link,
		// isn't known without pulling it.
		OmitParents: !r.plan.Base.BuiltIn(), Parent: r.plan.BaseImages[p].Parent,
	}
}

func (p packed) layer() image.Layer {
	return image.Layer{Descriptor: p.Descriptor, DiffID: p.DiffID}
}

// recall finds a layer that was made before and is still in the store.
func (r *run) recall(key string) (packed, bool) {
	data, ok := r.memo.Get(key)
	if !ok {
		return packed{}, false
	}
	var known packed
	if json.Unmarshal(data, &known) != nil {
		return packed{}, false
	}
	if size, err := r.cache.Size(known.Descriptor.Digest); err != nil || size != known.Descriptor.Size {
		return packed{}, false
	}
	return known, true
}

func (r *run) remember(key string, p packed) {
	if data, err := json.Marshal(p); err == nil {
		r.memo.Put(key, data)
	}
}

// packFiles makes the layer with an image's extra files. Their content is
// always read, so that a changed file is noticed whatever its times say.
func (r *run) packFiles(ctx context.Context, files []plan.File, p platform.Platform) (image.Layer, []*prove.Binary, error) {
	var (
		entries []layer.Entry
		content []any
		refused refusal.Collect
	)
	for _, f := range files {
		found, err := walkFile(f)
		if err != nil {
			if !refused.Add(err) {
				return image.Layer{}, nil, err
			}
			continue
		}
		entries = append(entries, found...)
	}
	if err := refused.Err(); err != nil {
		return image.Layer{}, nil, err
	}
	for _, e := range entries {
		var sum digest.Digest
		if e.Open != nil {
			r, err := e.Open()
			if err != nil {
				return image.Layer{}, nil, err
			}
			sum, err = digest.FromReader(r)
			r.Close()
			if err != nil {
				return image.Layer{}, nil, err
			}
		}
		content = append(content, []any{e.Name, e.Type, e.Mode, e.UID, e.GID, e.Link, e.Size, sum})
	}
	key := r.key("files", p, content)
	if known, ok := r.recall(key); ok {
		return known.layer(), known.Binaries, nil
	}
	var binaries []*prove.Binary
	for _, e := range entries {
		b, err := sniffProgram(e)
		if err != nil {
			return image.Layer{}, nil, err
		}
		if b != nil {
			binaries = append(binaries, b)
		}
	}
	end := trace.Start(ctx, trace.Layer, p.String()+" files")
	l, err := layer.Write(ctx, r.cache, entries, r.layerOptions(p))
	end("files", fmt.Sprint(len(entries)), "bytes", fmt.Sprint(l.Descriptor.Size), "digest", l.Descriptor.Digest.String())
	if err != nil {
		return image.Layer{}, nil, err
	}
	r.remember(key, packed{Descriptor: l.Descriptor, DiffID: l.DiffID, Binaries: binaries})
	return l, binaries, nil
}

// sniffProgram reads a file's header if it is a program.
func sniffProgram(e layer.Entry) (*prove.Binary, error) {
	if e.Open == nil || e.Size < 64 {
		return nil, nil
	}
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, nil
	}
	head := make([]byte, 4)
	if _, err := at.ReadAt(head, 0); err != nil || !(bytes.Equal(head, []byte("\x7fELF")) || head[0] == 'M' && head[1] == 'Z' || isMachO(head)) {
		return nil, nil
	}
	b, err := prove.ReadBinary(at, e.Size)
	if err != nil || b == nil {
		return nil, nil // data that begins like a program
	}
	b.Path = "/" + e.Name
	return b, nil
}

func isMachO(head []byte) bool {
	for _, magic := range []string{"\xfe\xed\xfa\xce", "\xfe\xed\xfa\xcf", "\xce\xfa\xed\xfe", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe"} {
		if string(head) == magic {
			return true
		}
	}
	return false
}

// walkFile turns one --file into entries. A directory is opened once and never
// left: a link that points out of it is refused, not followed.
func walkFile(f plan.File) ([]layer.Entry, error) {
	bad := func(place, why string) error {
		return &refusal.Error{Code: "PA123", Kind: refusal.Usage, Place: place, Summary: "can't go into the image: " + why}
	}
	info, err := os.Stat(f.Source)
	if err != nil {
		return nil, bad(f.Source, "no such file or directory")
	}
	target := strings.TrimPrefix(f.Target, "/")
	if info.Mode().IsRegular() {
		// A link at the top was named by the user, so it is followed.
		name, err := filepath.EvalSymlinks(f.Source)
		if err != nil {
			return nil, bad(f.Source, err.Error())
		}
		return []layer.Entry{regular(f, target, info, func() (io.ReadCloser, error) { return os.Open(name) })}, nil
	}
	if !info.IsDir() {
		return nil, bad(f.Source, "neither a file nor a directory")
	}
	var entries []layer.Entry
	var refused refusal.Collect
	err = filepath.WalkDir(f.Source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(f.Source, file)
		if err != nil {
			return err
		}
		name := path.Join(target, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			if name != "" && name != "." {
				entries = append(entries, layer.Entry{Name: name, Type: layer.Dir, Mode: 0o755, UID: f.UID, GID: f.GID})
			}
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(file)
			if err != nil {
				return err
			}
			link = filepath.ToSlash(link)
			if path.IsAbs(link) || filepath.IsAbs(link) || !filepath.IsLocal(path.Join(path.Dir(filepath.ToSlash(rel)), link)) {
				refused.Add(bad(file, "a link to "+link+", outside the directory"))
				return nil
			}
			entries = append(entries, layer.Entry{Name: name, Type: layer.Symlink, Mode: 0o777, UID: f.UID, GID: f.GID, Link: link})
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			source := f.Source
			entries = append(entries, regular(f, name, info, func() (io.ReadCloser, error) {
				root, err := os.OpenRoot(source)
				if err != nil {
					return nil, err
				}
				defer root.Close()
				return root.Open(rel)
			}))
		default:
			refused.Add(bad(file, "not a file, directory or link"))
		}
		return nil
	})
	if err != nil {
		return nil, bad(f.Source, err.Error())
	}
	return entries, refused.Err()
}

func regular(f plan.File, name string, info fs.FileInfo, open func() (io.ReadCloser, error)) layer.Entry {
	mode := f.Mode
	if mode == 0 {
		// What a checkout keeps of a mode, whatever the umask was.
		mode = 0o644
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
	}
	return layer.Entry{Name: name, Mode: mode, UID: f.UID, GID: f.GID, Size: info.Size(), Open: open}
}
