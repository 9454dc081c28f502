package compare_test

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/base/rootfs"
	"github.com/anyarch/anyarch/internal/compare"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

func file(name, content string, mode fs.FileMode) layer.Entry {
	return layer.Entry{Name: name, Mode: mode, Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

// elf is the header of a program that does nothing, for a machine.
func elf(machine byte) string {
	head := make([]byte, 200)
	copy(head, "\x7fELF\x02\x01\x01")
	head[16], head[18], head[20] = 2, machine, 1
	head[52], head[54], head[58] = 64, 56, 64
	return string(head)
}

// item makes an image of layers.
func item(t *testing.T, st *store.Store, config ocispec.ImageConfig, layers ...[]layer.Entry) *assemble.Item {
	t.Helper()
	r := image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: "amd64"}, Config: ocispec.Image{Config: config}}
	for _, entries := range layers {
		l, err := layer.Write(t.Context(), st, entries, layer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r.Layers = append(r.Layers, l)
	}
	img, err := image.Assemble(st, r)
	if err != nil {
		t.Fatal(err)
	}
	i, err := assemble.NewReader().Read(t.Context(), assemble.Place{Source: image.Layout{Store: st}, Name: "oci:dir"}, img.Manifest.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestImages(t *testing.T) {
	t.Parallel()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := layer.Entry{Name: "d", Type: layer.Dir, Mode: 0o755}
	base := []layer.Entry{dir, file("d/gone", "gone", 0o644), file("d/kept", "kept", 0o644), file("d/mode", "mode", 0o644), file("d/text", "one", 0o644), file("d/program", elf(62), 0o755), {Name: "d/link", Type: layer.Symlink, Link: "kept"}}
	change := []layer.Entry{{Name: "d/gone", Type: layer.Whiteout}, file("d/kept", "kept", 0o644), file("d/mode", "mode", 0o644|fs.ModeSetuid), file("d/new", "new", 0o600), file("d/text", "two", 0o644), file("d/program", elf(183), 0o755), {Name: "d/link", Type: layer.Symlink, Link: "new"}}
	from := item(t, st, ocispec.ImageConfig{Env: []string{"A=1", "B=2"}, Labels: map[string]string{"l": "x"}}, base)
	to := item(t, st, ocispec.ImageConfig{Env: []string{"B=3", "A=1"}, Cmd: []string{"sh"}, Volumes: map[string]struct{}{"/v": {}}}, base, change)
	o := compare.Options{Files: true, Layers: rootfs.Options{Dir: t.TempDir()}}
	d, err := compare.Images(t.Context(), from, to, o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range d.Fields {
		got = append(got, fmt.Sprintf("%s: %s → %s", f.Name, f.From, f.To))
	}
	if want := []string{"config.Cmd:  → [\"sh\"]", "config.Env.B: 2 → 3", "config.Labels.l: x → ", "config.Volumes./v:  → {}"}; !slices.Equal(got, want) {
		t.Errorf("fields %q, want %q", got, want)
	}
	got = nil
	for _, f := range d.Files {
		line := f.Change + " " + f.Path
		for _, w := range f.What {
			line += " " + w
		}
		for _, s := range []*compare.State{f.From, f.To} {
			if s != nil && s.Machine != "" {
				line += " " + s.Machine
			}
		}
		got = append(got, line)
	}
	want := []string{"removed /d/gone", "changed /d/link link", "changed /d/mode mode", "added /d/new", "changed /d/program content x86-64 AArch64", "changed /d/text content"}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if i := slices.IndexFunc(d.Files, func(f compare.File) bool { return f.Path == "/d/mode" }); i < 0 || d.Files[i].To.Mode != "-rwSr--r--" {
		t.Errorf("%+v", d.Files)
	}
	if d.Shared != 1 || len(d.Layers) != 1 || !d.Layers[0].Added || d.Same() {
		t.Errorf("layers %+v, %d in common", d.Layers, d.Shared)
	}
	same, err := compare.Images(t.Context(), from, from, o)
	if err != nil || !same.Same() {
		t.Errorf("%v %+v", err, same)
	}
	back, err := compare.Images(t.Context(), to, from, o)
	if err != nil || len(back.Files) != len(d.Files) || len(back.Fields) != len(d.Fields) {
		t.Errorf("%v: the other way round %d files and %d fields", err, len(back.Files), len(back.Fields))
	}
	cheap, err := compare.Images(t.Context(), from, to, compare.Options{})
	if err != nil || len(cheap.Files) != 0 || cheap.FilesLooked {
		t.Errorf("%v %+v", err, cheap)
	}
}
