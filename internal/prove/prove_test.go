package prove_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// programs are compiled once for all tests.
var programs = struct {
	sync.Mutex
	dir   string
	built map[string]*program
}{built: map[string]*program{}}

type program struct {
	once sync.Once
	data []byte
	err  error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "prove-test-")
	if err != nil {
		panic(err)
	}
	programs.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const (
	small  = "package main\n\nfunc main() { println(\"hello\") }\n"
	client = "package main\n\nimport \"crypto/tls\"\n\nfunc main() { c, err := tls.Dial(\"tcp\", \"localhost:1\", nil); println(c, err) }\n"
)

// compile gives a Go program for a platform and, with env, for a level.
func compile(t *testing.T, source, goPlatform string, env ...string) []byte {
	t.Helper()
	goos, goarch, _ := strings.Cut(goPlatform, "/")
	key := source + goPlatform + strings.Join(env, " ")
	programs.Lock()
	p := programs.built[key]
	if p == nil {
		p = &program{}
		programs.built[key] = p
	}
	programs.Unlock()
	p.once.Do(func() {
		goCommand, err := exec.LookPath("go")
		if err != nil {
			p.err = err
			return
		}
		dir := filepath.Join(programs.dir, digest.FromString(key).Encoded()[:16])
		if p.err = os.MkdirAll(dir, 0o755); p.err != nil {
			return
		}
		_ = os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/hello\n\ngo 1.26\n"), 0o644)
		_ = os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644)
		args := []string{"build", "-o", "program", "-ldflags", "-s -w"}
		if slices.Contains(env, "PIE=1") {
			args = append(args, "-buildmode=pie")
		}
		cmd := exec.Command(goCommand, append(args, ".")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOENV=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0",
			"GOOS="+goos, "GOARCH="+goarch, "GOAMD64=v1", "GOARM64=v8.0", "GOARM=7")
		cmd.Env = append(cmd.Env, env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("%w\n%s", err, out)
			return
		}
		p.data, p.err = os.ReadFile(filepath.Join(dir, "program"))
	})
	if p.err != nil {
		t.Skipf("no Go program for %s: %v", goPlatform, p.err)
	}
	return p.data
}

// entry is one entry of a layer in a test.
type entry struct {
	name string
	data []byte
	mode int64
	kind byte // tar.TypeReg if 0
	link string
	uid  int
}

func exe(name string, data []byte) entry { return entry{name: name, data: data, mode: 0o755} }
func file(name, text string) entry       { return entry{name: name, data: []byte(text), mode: 0o644} }
func dir(name string) entry              { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func link(name, to string) entry         { return entry{name: name, kind: tar.TypeSymlink, link: to} }
func hard(name, to string) entry         { return entry{name: name, kind: tar.TypeLink, link: to} }

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Typeflag: e.kind, Linkname: e.link, Uid: e.uid}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// fixture makes images in a layout.
type fixture struct {
	testing.TB
	*store.Store
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fixture{t, st}
}

func (f fixture) blob(mediaType string, data []byte) ocispec.Descriptor {
	f.Helper()
	d, err := f.Write(data)
	if err != nil {
		f.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (f fixture) json(mediaType string, v any) ocispec.Descriptor {
	f.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	return f.blob(mediaType, data)
}

// layer is a layer and its diff ID.
type layer struct {
	ocispec.Descriptor
	diffID digest.Digest
}

func (f fixture) raw(archive []byte) layer {
	return layer{f.blob(ocispec.MediaTypeImageLayerGzip, gzipped(f, archive)), digest.FromBytes(archive)}
}

func (f fixture) layer(entries ...entry) layer {
	f.Helper()
	return f.raw(tarOf(f, entries...))
}

// shape is an image in a test. The zero values are those of a sound one.
type shape struct {
	platform   string // of the index
	config     string // platform of the config, if it isn't the same
	entrypoint []string
	cmd        []string
	env        []string
	user       string
	workdir    string
	layers     []layer
	diffIDs    []digest.Digest
	noPlatform bool
}

func (f fixture) manifest(s shape) ocispec.Descriptor {
	f.Helper()
	p := parse(f, s.platform).OCI()
	c := p
	if s.config != "" {
		c = parse(f, s.config).OCI()
	}
	cfg := ocispec.Image{Platform: c, Config: ocispec.ImageConfig{Entrypoint: s.entrypoint, Cmd: s.cmd, Env: s.env, User: s.user, WorkingDir: s.workdir}}
	if s.noPlatform {
		cfg.Platform = ocispec.Platform{}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range s.layers {
		m.Layers = append(m.Layers, l.Descriptor)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.diffID)
	}
	if s.diffIDs != nil {
		cfg.RootFS.DiffIDs = s.diffIDs
	}
	m.Config = f.json(ocispec.MediaTypeImageConfig, cfg)
	d := f.json(ocispec.MediaTypeImageManifest, m)
	d.Platform = &p
	return d
}

func (f fixture) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	f.Helper()
	return f.json(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
}

func (f fixture) verify(d ocispec.Descriptor, o prove.Options) *prove.Report {
	f.Helper()
	o.TempDir = f.TempDir()
	r, err := prove.Verify(context.Background(), image.Layout{Store: f.Store}, d, o)
	if err != nil {
		f.Fatal(err)
	}
	if left, _ := os.ReadDir(o.TempDir); len(left) > 0 {
		f.Errorf("%d temporary files are left", len(left))
	}
	if _, err := json.Marshal(r); err != nil {
		f.Error(err)
	}
	return r
}

func parse(t testing.TB, text string) platform.Platform {
	t.Helper()
	p, err := platform.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rules gives "PA201 error linux/arm64" for each finding, infos left out.
func rules(r *prove.Report) []string {
	list := []string{}
	for _, f := range r.Findings {
		if f.Severity != prove.Info {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Rule, f.Severity, f.Platform)))
		}
	}
	return list
}

func describe(r *prove.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s[%s] %s: %s\n", f.Severity, f.Rule, f.Platform, f.Summary)
		for _, s := range f.Seen {
			fmt.Fprintf(&b, "    %s\n", s)
		}
	}
	return b.String()
}

// expect checks the findings, infos left out.
func expect(t testing.TB, r *prove.Report, want ...string) {
	t.Helper()
	if got := rules(r); !slices.Equal(got, want) {
		t.Errorf("findings:\n got %q\nwant %q\n%s", got, want, describe(r))
	}
	if (r.Err(prove.Error) == nil) != !slices.ContainsFunc(want, func(s string) bool { return strings.Contains(s, " error") }) {
		t.Errorf("Err: %v", r.Err(prove.Error))
	}
}

// corrupt changes one byte of a blob on disk.
func (f fixture) corrupt(d digest.Digest, at int64) {
	f.Helper()
	path, err := f.Path(d)
	if err != nil {
		f.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer w.Close()
	b := make([]byte, 1)
	if _, err := w.ReadAt(b, at); err != nil && err != io.EOF {
		f.Fatal(err)
	}
	b[0] ^= 0x55
	if _, err := w.WriteAt(b, at); err != nil {
		f.Fatal(err)
	}
}

type (
	descriptor = ocispec.Descriptor
	digestOf   = digest.Digest
)
