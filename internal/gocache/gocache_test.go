package gocache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/serve"
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	os.Exit(m.Run())
}

// registryFor is a registry of the test's own.
func registryFor(t *testing.T) Repository {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := serve.New(serve.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ctx, listener) }()
	t.Cleanup(func() { stop(); <-done })
	client, err := registry.New(registry.Options{Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repository(listener.Addr().String() + "/team/cache")
	if err != nil {
		t.Fatal(err)
	}
	return repo.Direct()
}

func session(t *testing.T, o Options) *Session {
	t.Helper()
	o.Tag, o.Scratch = "main", t.TempDir()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Warn == nil {
		o.Warn = func(text string) { t.Errorf("warning: %s", text) }
	}
	s := New(t.Context(), o)
	t.Cleanup(s.Close)
	return s
}

func made(text string) (entry, string) {
	return entry{action: sha256.Sum256([]byte("action " + text)), output: sha256.Sum256([]byte(text)), size: int64(len(text))}, text
}

// talk is the go command's side of the protocol.
type talk struct {
	t       *testing.T
	in      io.WriteCloser
	out     *json.Decoder
	id      int64
	pending sync.WaitGroup
}

func converse(t *testing.T, s *Session) *talk {
	t.Helper()
	toUs, in := io.Pipe()
	out, fromUs := io.Pipe()
	k := &talk{t: t, in: in, out: json.NewDecoder(out)}
	k.pending.Go(func() {
		defer fromUs.Close()
		if err := s.converse(t.Context(), toUs, fromUs); err != nil {
			t.Errorf("converse: %v", err)
		}
	})
	if first := k.answer(); len(first.KnownCommands) != 3 {
		t.Errorf("it begins with %+v", first)
	}
	return k
}

func (k *talk) answer() response {
	k.t.Helper()
	var r response
	if err := k.out.Decode(&r); err != nil {
		k.t.Fatal(err)
	}
	return r
}

func (k *talk) ask(q request, body string) response {
	k.t.Helper()
	k.id++
	q.ID = k.id
	text, err := json.Marshal(q)
	if err != nil {
		k.t.Fatal(err)
	}
	text = append(text, '\n', '\n')
	if q.BodySize > 0 {
		text = fmt.Appendf(text, "%q\n", base64.StdEncoding.EncodeToString([]byte(body)))
	}
	if _, err := k.in.Write(text); err != nil {
		k.t.Fatal(err)
	}
	return k.answer()
}

func (k *talk) put(e entry, body string) response {
	k.t.Helper()
	return k.ask(request{Command: "put", ActionID: e.action[:], OutputID: e.output[:], BodySize: e.size}, body)
}

func (k *talk) get(e entry) response {
	k.t.Helper()
	return k.ask(request{Command: "get", ActionID: e.action[:]}, "")
}

func (k *talk) close() {
	k.t.Helper()
	if r := k.ask(request{Command: "close"}, ""); r.Err != "" {
		k.t.Error(r.Err)
	}
	k.pending.Wait()
}

// What one run made another one finds, on another machine.
func TestShare(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	var all []entry
	first := session(t, Options{Repository: repo})
	k := converse(t, first)
	for i := range 300 {
		e, text := made(strings.Repeat(fmt.Sprint("x", i), i)) // the first is empty
		if r := k.get(e); !r.Miss {
			t.Fatal("it is there before it was made")
		}
		r := k.put(e, text)
		if data, err := os.ReadFile(r.DiskPath); r.Err != "" || err != nil || string(data) != text {
			t.Fatalf("%+v %v", r, err)
		}
		all = append(all, e)
	}
	if r := k.get(all[7]); r.Miss || !bytes.Equal(r.OutputID, all[7].output[:]) || r.Size != all[7].size {
		t.Errorf("what was made: %+v", r)
	}
	k.close()
	if err := first.Save(t.Context()); err != nil {
		t.Fatal(err)
	}

	second := session(t, Options{Repository: repo, ReadOnly: true})
	k = converse(t, second)
	for _, e := range all {
		r := k.get(e)
		if r.Miss {
			t.Fatal("it isn't found")
		}
		data, err := os.ReadFile(r.DiskPath)
		if err != nil || sha256.Sum256(data) != e.output {
			t.Fatalf("wrong content: %v", err)
		}
	}
	fresh, text := made("only here")
	if r := k.put(fresh, text); r.Err != "" {
		t.Error(r.Err)
	}
	if r := k.ask(request{Command: "nonsense"}, ""); r.Err == "" {
		t.Error("an unknown command is answered")
	}
	k.close()
	if n := second.Stats(); n.Remote != 300 || n.Made != 1 {
		t.Errorf("%+v", n)
	}
	before, _, err := repo.Manifest(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, _, err := repo.Manifest(t.Context(), "main"); err != nil || after.Digest != before.Digest {
		t.Errorf("mode=ro wrote: %v", err)
	}
	// A go command that can't ask finds all of it too.
	third := session(t, Options{Repository: repo})
	third.Fill(t.Context())
	for _, e := range all {
		if _, _, ok := third.disk.get(e.action); !ok {
			t.Fatal("not everything is there")
		}
	}
	third.Collect()
	if err := third.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, _, err := repo.Manifest(t.Context(), "main"); err != nil || after.Digest != before.Digest {
		t.Errorf("nothing was new, and yet it wrote: %v", err)
	}
}

// Small packs are put together, and the longest unused goes when there is too much.
func TestBounds(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	dir := t.TempDir()
	for i := range 3 * few {
		s := session(t, Options{Repository: repo, Dir: dir})
		e, text := made(fmt.Sprint("content ", i))
		k := converse(t, s)
		k.put(e, text)
		k.close()
		if err := s.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	there, err := load(t.Context(), repo, "main")
	if err != nil || len(there.packs) > few {
		t.Errorf("%d packs, %v", len(there.packs), err)
	}
	total := 0
	for _, p := range there.packs {
		total += p.Count
	}
	if total != 3*few {
		t.Errorf("%d entries", total)
	}
	list := []*pack{{Size: 1000, Used: time.Unix(3, 0)}, {Size: 1000, Used: time.Unix(1, 0)}, {Size: 1000, Used: time.Unix(2, 0)}}
	if got := bounded(list, 3000); len(got) != 2 || got[0] != list[0] || got[1] != list[2] {
		t.Errorf("%v", got)
	}
	if freed, left, err := Prune(t.Context(), repo, "main", 0); err != nil || freed == 0 || left != 0 {
		t.Errorf("%d freed, %d left, %v", freed, left, err)
	}
	if there, err := load(t.Context(), repo, "main"); err != nil || len(there.packs) != 0 {
		t.Errorf("%d packs are left, %v", len(there.packs), err)
	}
}

// tampered gives other packs than the index promises.
type tampered struct {
	Repository
	change func([]byte) []byte
}

func (r tampered) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	in, err := r.Repository.Fetch(ctx, d)
	if err != nil || d.MediaType != packType {
		return in, err
	}
	defer in.Close()
	data, err := io.ReadAll(in)
	return io.NopCloser(bytes.NewReader(r.change(data))), err
}

// Nothing that isn't what the index says comes to the go command; what can't be had is
// a miss.
func TestDamage(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	s := session(t, Options{Repository: repo})
	e, text := made(strings.Repeat("content", 100))
	k := converse(t, s)
	k.put(e, text)
	k.close()
	if err := s.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, otherText := made(strings.Repeat("another", 100))
	dir := disk{t.TempDir()}
	if _, err := dir.put(other, strings.NewReader(otherText)); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writePack(t.Context(), dir, []entry{other}, file); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"another pack": func([]byte) []byte { return foreign },
		"cut short":    func(b []byte) []byte { return b[:len(b)/2] },
		"empty":        func([]byte) []byte { return nil },
		"no zstd":      func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) },
	} {
		warned := false
		s := session(t, Options{Repository: tampered{repo, change}, Warn: func(string) { warned = true }})
		k := converse(t, s)
		if r := k.get(e); !r.Miss {
			t.Errorf("%s: it was taken", name)
		}
		k.close()
		if !warned {
			t.Errorf("%s: nothing was said", name)
		}
	}
	// A result that isn't what it is announced as isn't kept.
	s = session(t, Options{Repository: repo})
	k = converse(t, s)
	if r := k.put(entry{action: e.action, output: e.output, size: 3}, "bad"); r.Err == "" {
		t.Error("a wrong output was kept")
	}
	if r := k.get(other); !r.Miss {
		t.Error("an unknown action has a result")
	}
	k.close()
}

// broken is a registry that is away.
type broken struct{ Repository }

func (broken) Manifest(context.Context, string) (ocispec.Descriptor, []byte, error) {
	return ocispec.Descriptor{}, nil, errors.New("connection refused")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	warnings := 0
	s := session(t, Options{Repository: broken{}, Warn: func(string) { warnings++ }})
	k := converse(t, s)
	e, text := made("content")
	if r := k.get(e); !r.Miss {
		t.Error("a hit from nowhere")
	}
	if r := k.put(e, text); r.Err != "" {
		t.Error(r.Err)
	}
	k.close()
	if err := s.Save(t.Context()); err == nil {
		t.Error("it was saved nowhere")
	}
	if warnings != 1 {
		t.Errorf("%d warnings", warnings)
	}
}

// Another program, and another platform, take over everything that they have in common
// with what was built before, on whichever machine.
func TestShareable(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.com/p\ngo 1.24\n",
		"shared/shared.go": "package shared\n\nfunc Text() string { return \"shared\" }\n",
		"cmd/a/main.go":    "package main\n\nimport \"example.com/p/shared\"\n\nfunc main() { println(1, shared.Text()) }\n",
		"cmd/b/main.go":    "package main\n\nimport \"example.com/p/shared\"\n\nfunc main() { println(2, shared.Text()) }\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	own := strings.TrimSpace(string(out)) // where the standard library probably is
	compiled := regexp.MustCompile(`/compile .* -p (\S+) `)
	build := func(cache, arch string, programs ...string) (packages []string) {
		t.Helper()
		s := session(t, Options{Repository: repo, Dir: cache})
		prog, err := s.Serve()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", append([]string{"build", "-x", "-trimpath", "-o", t.TempDir()}, programs...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOCACHEPROG="+prog, "GOCACHE="+cache, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH="+arch)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := s.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, m := range compiled.FindAllSubmatch(out, -1) {
			packages = append(packages, string(m[1]))
		}
		return packages
	}
	build(own, "amd64", "./cmd/a")
	if list := build(t.TempDir(), "amd64", "./cmd/b"); !slices.Equal(list, []string{"main"}) {
		t.Errorf("the second program compiles %v", list)
	}
	build(own, "arm64", "./cmd/a")
	if list := build(t.TempDir(), "arm64", "./cmd/a", "./cmd/b"); !slices.Equal(list, []string{"main"}) {
		t.Errorf("the second platform compiles %v", list)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if list := build(t.TempDir(), arch, "./cmd/a", "./cmd/b"); len(list) > 0 {
			t.Errorf("%s: %v is compiled although it was", arch, list)
		}
	}
}

// The go command itself, with an empty build cache: what a run before has made isn't
// made again.
func TestGoCommand(t *testing.T) {
	t.Parallel()
	repo := registryFor(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/p\ngo 1.24\n", "main.go": "package main\n\nfunc main() { println(1) }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(s *Session, cache string) string {
		prog, err := s.Serve()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-x", "-trimpath", "-o", filepath.Join(t.TempDir(), "p"), ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOCACHEPROG="+prog, "GOCACHE="+cache, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache := strings.TrimSpace(string(out)) // where the standard library probably is
	first := session(t, Options{Repository: repo, Dir: cache})
	build(first, cache)
	if n := first.Stats(); n.Local+n.Made < 10 {
		t.Fatalf("%+v", n)
	}
	if err := first.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	second := session(t, Options{Repository: repo, Dir: empty, ReadOnly: true})
	if out := build(second, empty); strings.Contains(out, "/compile ") {
		t.Errorf("something was compiled again:\n%s", out)
	}
	if n := second.Stats(); n.Remote < 10 || n.Made > 3 {
		t.Errorf("%+v", n)
	}
	// The cache that it filled is one that go uses by itself.
	cmd := exec.Command("go", "build", "-x", "-trimpath", "-o", filepath.Join(t.TempDir(), "p"), ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOCACHEPROG=", "GOCACHE="+empty, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "/compile ") {
		t.Errorf("%v: it isn't used without a helper\n%s", err, out)
	}
}
