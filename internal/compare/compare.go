// Package compare says what differs between two images: config, annotations,
// layers, and every file, programs with the machine that they are for. It looks at
// one platform of two versions, or at two platforms of one version.
package compare

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/base/rootfs"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Options say what is compared.
type Options struct {
	// Files compares the files too, which needs all layers that the images don't
	// share. They are unpacked in Layers.
	Files  bool
	Layers rootfs.Options
	// Times counts a file with another time as changed.
	Times bool
}

// Difference is what differs between two images. Everything in it is sorted.
type Difference struct {
	From        string        `json:"from"` // name of the image
	To          string        `json:"to"`
	FromDigest  digest.Digest `json:"fromDigest"`
	ToDigest    digest.Digest `json:"toDigest"`
	Fields      []Field       `json:"fields"` // of config and manifest
	Layers      []Layer       `json:"layers"` // that only one of them has, in order
	Shared      int           `json:"sharedLayers"`
	Files       []File        `json:"files"`
	FilesLooked bool          `json:"filesCompared"`
}

// Same reports whether nothing differs.
func (d *Difference) Same() bool {
	return d.FromDigest == d.ToDigest || len(d.Fields)+len(d.Layers)+len(d.Files) == 0
}

// Field is a field of the config or manifest with two values; one that isn't there
// is empty.
type Field struct {
	Name string `json:"name"` // such as config.Env.PATH
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Layer is a layer that one of the images has.
type Layer struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes, compressed
	Added  bool          `json:"added"`
	By     string        `json:"createdBy,omitempty"`
}

// File is a file that differs.
type File struct {
	Path   string `json:"path"`
	Change string `json:"change"` // added, removed, changed
	// What lists the attributes that differ of a file that both have: type, content,
	// mode, owner, link, xattrs, time.
	What []string `json:"what,omitempty"`
	From *State   `json:"from,omitempty"`
	To   *State   `json:"to,omitempty"`
}

// State is a file as one image has it.
type State struct {
	Mode    string `json:"mode"` // as ls writes it
	Owner   string `json:"owner"`
	Size    int64  `json:"size"`
	Link    string `json:"link,omitempty"`
	Machine string `json:"machine,omitempty"` // of a program: AArch64
	Go      string `json:"go,omitempty"`      // version that compiled it
}

// Images compares two images.
func Images(ctx context.Context, from, to *assemble.Item, o Options) (*Difference, error) {
	d := &Difference{From: from.Name, To: to.Name, FromDigest: from.Descriptor.Digest, ToDigest: to.Descriptor.Digest, Fields: []Field{}, Layers: []Layer{}, Files: []File{}}
	for _, i := range []*assemble.Item{from, to} {
		if i.Missing != nil {
			return nil, i.Missing
		}
	}
	fields, err := compareFields(from, to)
	if err != nil {
		return nil, err
	}
	d.Fields = append(d.Fields, fields...)
	d.compareLayers(from, to)
	d.FilesLooked = o.Files
	if !o.Files || len(d.Layers) == 0 {
		return d, nil
	}
	before, err := tree(ctx, from, o)
	if err != nil {
		return nil, err
	}
	after, err := tree(ctx, to, o)
	if err != nil {
		return nil, err
	}
	files, err := compareFiles(ctx, before, after, o)
	d.Files = append(d.Files, files...)
	return d, err
}

// compareLayers finds layers that only one image has.
func (d *Difference) compareLayers(from, to *assemble.Item) {
	has := func(i *assemble.Item, l ocispec.Descriptor) bool {
		return slices.ContainsFunc(i.Manifest.Layers, func(o ocispec.Descriptor) bool { return o.Digest == l.Digest })
	}
	only := func(i, other *assemble.Item, added bool) {
		by := createdBy(i)
		for n, l := range i.Manifest.Layers {
			if !has(other, l) {
				d.Layers = append(d.Layers, Layer{Digest: l.Digest, Size: l.Size, Added: added, By: by[n]})
			} else if added {
				d.Shared++
			}
		}
	}
	only(from, to, false)
	only(to, from, true)
}

// createdBy names what made each layer, where the history says so.
func createdBy(i *assemble.Item) []string {
	list := make([]string, len(i.Manifest.Layers))
	n := 0
	for _, h := range i.Image.History {
		if h.EmptyLayer || n >= len(list) {
			continue
		}
		list[n] = h.CreatedBy
		n++
	}
	return list
}

// compareFields compares configs, but for layers and their history, and the
// manifests' annotations.
func compareFields(from, to *assemble.Item) ([]Field, error) {
	a, err := fieldsOf(from)
	if err != nil {
		return nil, err
	}
	b, err := fieldsOf(to)
	if err != nil {
		return nil, err
	}
	var list []Field
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] != b[name] {
			list = append(list, Field{Name: name, From: a[name], To: b[name]})
		}
	}
	return list, nil
}

func fieldsOf(i *assemble.Item) (map[string]string, error) {
	var config map[string]any
	if err := json.Unmarshal(i.Config, &config); err != nil {
		return nil, fmt.Errorf("config of %s: %w", i.Name, err)
	}
	delete(config, "rootfs")
	delete(config, "history")
	fields := map[string]string{}
	flatten("", config, fields)
	for k, v := range i.Manifest.Annotations {
		fields["annotation."+k] = v
	}
	if i.Descriptor.MediaType != "" {
		fields["mediaType"] = i.Descriptor.MediaType
	}
	return fields, nil
}

// flatten writes a JSON value as fields with dotted names. The environment is one
// field per variable.
func flatten(name string, v any, fields map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			flatten(strings.TrimPrefix(name+"."+k, "."), inner, fields)
		}
		if len(v) == 0 && strings.Count(name, ".") > 1 {
			fields[name] = "{}" // a port or a volume
		}
		return
	case []any:
		if name == "config.Env" {
			for _, pair := range v {
				if text, ok := pair.(string); ok {
					key, value, _ := strings.Cut(text, "=")
					fields[name+"."+key] = value
				}
			}
			return
		}
	case string:
		if v != "" {
			fields[name] = v
		}
		return
	case nil:
		return
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) == nil {
		fields[name] = strings.TrimSpace(b.String())
	}
}

// tree unpacks an image.
func tree(ctx context.Context, i *assemble.Item, o Options) (*filetree.Tree, error) {
	ids := i.Image.RootFS.DiffIDs
	if len(ids) != len(i.Manifest.Layers) {
		return nil, fmt.Errorf("%s: %d layers in the manifest, %d in the config", i.Name, len(i.Manifest.Layers), len(ids))
	}
	var layers []rootfs.Layer
	for n, l := range i.Manifest.Layers {
		layers = append(layers, rootfs.Layer{DiffID: ids[n], MediaType: l.MediaType, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := i.Place.Fetch(ctx, l)
			if errors.Is(err, store.ErrNotFound) && len(l.URLs) > 0 {
				return nil, &refusal.Error{Code: "PA219", Place: i.Name, Summary: "a layer is kept elsewhere, so that its files can't be compared", Seen: []string{l.URLs[0]}, Fix: []string{"--files=false"}}
			}
			return r, err
		}})
	}
	t, err := rootfs.Index(ctx, layers, o.Layers)
	if err != nil {
		return nil, fmt.Errorf("files of %s: %w", i.Name, err)
	}
	return t, nil
}

// compareFiles compares two trees.
func compareFiles(ctx context.Context, before, after *filetree.Tree, o Options) ([]File, error) {
	had, err := list(before)
	if err != nil {
		return nil, err
	}
	has, err := list(after)
	if err != nil {
		return nil, err
	}
	names := maps.Clone(had)
	maps.Copy(names, has)
	var files []File
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		a, inA := had[name]
		b, inB := has[name]
		f := File{Path: name, Change: "changed"}
		switch {
		case !inA:
			f.Change = "added"
		case !inB:
			f.Change = "removed"
		default:
			if f.What, err = differs(a, b, o); err != nil {
				return nil, err
			}
			if f.What == nil {
				continue
			}
		}
		content := inA != inB || slices.Contains(f.What, "content")
		if inA {
			if f.From, err = state(a, content); err != nil {
				return nil, err
			}
		}
		if inB {
			if f.To, err = state(b, content); err != nil {
				return nil, err
			}
		}
		files = append(files, f)
	}
	return files, nil
}

func list(t *filetree.Tree) (map[string]filetree.Attr, error) {
	all := map[string]filetree.Attr{}
	err := t.Walk("/", func(name string, a filetree.Attr) error {
		if name != "/" {
			all[name] = a
		}
		return nil
	})
	return all, err
}

// differs lists the attributes that differ.
func differs(a, b filetree.Attr, o Options) ([]string, error) {
	var what []string
	if a.Mode.Type() != b.Mode.Type() {
		return []string{"type"}, nil
	}
	if a.IsRegular() {
		same, err := sameContent(a, b)
		if err != nil {
			return nil, err
		}
		if !same {
			what = append(what, "content")
		}
	}
	if a.Mode != b.Mode {
		what = append(what, "mode")
	}
	if a.UID != b.UID || a.GID != b.GID {
		what = append(what, "owner")
	}
	if a.Link != b.Link || a.DevMajor != b.DevMajor || a.DevMinor != b.DevMinor {
		what = append(what, "link")
	}
	if !maps.Equal(a.Xattrs, b.Xattrs) {
		what = append(what, "xattrs")
	}
	if o.Times && !a.IsDir() && !a.ModTime.Equal(b.ModTime) {
		what = append(what, "time")
	}
	return what, nil
}

// keyed is content that knows which bytes it has without reading them.
type keyed interface{ Key() string }

func sameContent(a, b filetree.Attr) (bool, error) {
	if a.Size() != b.Size() {
		return false, nil
	}
	x, okX := a.Content.(keyed)
	y, okY := b.Content.(keyed)
	if a.Size() == 0 || okX && okY && x.Key() != "" && x.Key() == y.Key() {
		return true, nil
	}
	one, err := hash(a)
	if err != nil {
		return false, err
	}
	two, err := hash(b)
	return one == two, err
}

func hash(a filetree.Attr) (digest.Digest, error) {
	r, err := a.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	return digest.Canonical.FromReader(r)
}

// maxProgram bounds the programs that are looked into, in bytes.
const maxProgram = 256 << 20

// state says what a file is like; of content that differs, what program it is.
func state(a filetree.Attr, content bool) (*State, error) {
	s := &State{Mode: mode(a.Mode), Owner: fmt.Sprintf("%d:%d", a.UID, a.GID), Size: a.Size(), Link: a.Link}
	if !content || !a.IsRegular() || a.Size() < 64 || a.Size() > maxProgram {
		return s, nil
	}
	r, err := a.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte("\x7fELF")) && !bytes.HasPrefix(head, []byte("MZ")) && head[0] < 0xca && !bytes.HasPrefix(head, []byte("\x00asm")) {
		return s, nil // most files, which needn't be read whole
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	data = append(head, data...)
	if b, _ := prove.ReadBinary(bytes.NewReader(data), int64(len(data))); b != nil {
		s.Machine, s.Go = cmp.Or(b.Machine, "unknown machine"), b.GoVersion
	}
	return s, nil
}

// mode writes permissions as ls does.
func mode(m fs.FileMode) string {
	text := []byte(m.Perm().String())
	switch {
	case m.IsDir():
		text[0] = 'd'
	case m&fs.ModeSymlink != 0:
		text[0] = 'l'
	case m&fs.ModeNamedPipe != 0:
		text[0] = 'p'
	case m&fs.ModeCharDevice != 0:
		text[0] = 'c'
	case m&fs.ModeDevice != 0:
		text[0] = 'b'
	}
	for i, bit := range []fs.FileMode{fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky} {
		if m&bit == 0 {
			continue
		}
		at, letter := 3*(i+1), "sst"[i]
		if text[at] == '-' {
			letter -= 'a' - 'A'
		}
		text[at] = letter
	}
	return string(text)
}
