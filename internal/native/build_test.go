package native_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

var (
	amd64 = platform.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = platform.Platform{OS: "linux", Architecture: "arm64"}
)

// world is a registry with golang and others, a toolchain that only notes what it is
// called for, and a context.
type world struct {
	t       *testing.T
	mu      sync.Mutex
	calls   []string // of the toolchain: arguments, and GOARCH
	opened  []string // bases whose layers were read
	events  bytes.Buffer
	context *filetree.Tree
	secrets map[string]native.Secret
	block   chan struct{} // go commands wait for it, if not nil
	options func(*native.Options)
	store   *store.Store

	ignoreCache []string // stages
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, context: filetree.New(), secrets: map[string]native.Secret{}}
	for name, text := range map[string]string{"/go.mod": "module example.com/m\n", "/main.go": "package main\n"} {
		if err := w.context.Put(name, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	w.store = st
	return w
}

func (w *world) config(ref string, p platform.Platform) ocispec.Image {
	c := ocispec.Image{Platform: p.OCI(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(ref)}}}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if strings.Contains(ref, "golang") {
		c.Config.Env = []string{"PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin", "GOLANG_VERSION=1.25.4", "GOPATH=/go"}
		c.Config.WorkingDir = "/go"
	}
	return c
}

// Name and the others make a world the runner of its toolchain.
func (w *world) Name() string                                            { return "mapped" }
func (w *world) Check([]*string, map[string]string) *command.Unsupported { return nil }

func (w *world) Run(ctx context.Context, c sandbox.Command) (int, error) {
	env := map[string]string{}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	words := strings.Join(c.Args[1:], " ")
	if strings.HasPrefix(words, "list -deps") {
		return 0, nil // no package with C in it
	}
	w.mu.Lock()
	w.calls = append(w.calls, words+" ["+env["GOARCH"]+"]")
	w.mu.Unlock()
	if w.block != nil {
		select {
		case <-w.block:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	write := func(name, text string) {
		if !path.IsAbs(name) {
			name = path.Join(c.Dir, name)
		}
		at := filepath.Join(c.Root, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o755)); err != nil {
			w.t.Error(err)
		}
	}
	switch i := slices.Index(c.Args, "-o"); {
	case i > 0:
		write(c.Args[i+1], "program for "+env["GOARCH"]+"\n")
	case strings.HasPrefix(words, "mod tidy"):
		write("go.sum", "sums\n")
	case strings.HasPrefix(words, "install ./"):
		at := path.Join(env["GOPATH"], "bin")
		if env["GOARCH"] != "amd64" {
			at = path.Join(at, env["GOOS"]+"_"+env["GOARCH"])
		}
		write(path.Join(at, "hello"), "installed for "+env["GOARCH"]+"\n")
	case strings.HasPrefix(words, "vet"):
		_, _ = fmt.Fprintln(c.Stderr, "vet says this")
		return 3, nil
	}
	return 0, nil
}

// build compiles a Dockerfile for platforms.
func (w *world) build(text string, platforms ...platform.Platform) (*native.Build, []*dockerfile.Graph) {
	w.t.Helper()
	var graphs []*dockerfile.Graph
	for _, p := range platforms {
		g, err := dockerfile.Compile(w.t.Context(), dockerfile.Options{
			Name: "Dockerfile", Data: []byte(text), Platform: p, BuildPlatform: amd64,
			Resolve: func(_ context.Context, ref string, p platform.Platform) (dockerfile.ImageConfig, error) {
				data, err := json.Marshal(w.config(ref, p))
				d := digest.FromString(ref) // of the index, the same for all platforms
				return dockerfile.ImageConfig{Ref: ref + "@" + d.String(), Digest: d, Config: data}, err
			},
			Ignore:      func(context.Context, string) ([]byte, error) { return nil, nil },
			IgnoreCache: w.ignoreCache,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		graphs = append(graphs, g)
	}
	dir := w.t.TempDir()
	o := native.Options{
		Dockerfile: "Dockerfile", DockerfileText: []byte(text), Runner: w, Store: w.store, Secrets: w.secrets, BuildPlatform: amd64,
		Image: func(_ context.Context, ref string, p platform.Platform) (base.Image, error) {
			return base.Image{Platform: p, Config: w.config(ref, p), Ref: ref, Manifest: ocispec.Descriptor{Digest: digest.FromString(ref + p.String())}}, nil
		},
		OpenLayer: func(_ context.Context, img base.Image, _ int) (io.ReadCloser, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened = append(w.opened, img.Ref)
			return nil, errors.New("nobody reads the layers of this base")
		},
		Local:     func(context.Context, dockerfile.Local) (*filetree.Tree, error) { return w.context.Fork(), nil },
		Toolchain: func(context.Context, string) (string, error) { return filepath.Join(dir, "goroot"), nil },
		Event: func(e progress.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			_, _ = fmt.Fprintf(&w.events, "%+v\n", e)
		},
		WorkDir: filepath.Join(dir, "work"), Scratch: w.t.TempDir(), LayerDir: filepath.Join(dir, "layers"), ModCache: filepath.Join(dir, "mod"), BuildCache: filepath.Join(dir, "cache"),
		LayerTime: time.Unix(1700000000, 0),
	}
	if w.options != nil {
		w.options(&o)
	}
	b := native.New(graphs, o)
	w.t.Cleanup(func() { _ = b.Close() })
	return b, graphs
}

// run builds for all platforms at once.
func (w *world) run(text string, platforms ...platform.Platform) ([]*native.Result, error) {
	w.t.Helper()
	b, graphs := w.build(text, platforms...)
	if err := b.Check(w.t.Context()); err != nil {
		return nil, err
	}
	results := make([]*native.Result, len(graphs))
	group, ctx := errgroup.WithContext(w.t.Context())
	for i, g := range graphs {
		group.Go(func() (err error) {
			results[i], err = b.Run(ctx, g)
			return err
		})
	}
	return results, group.Wait()
}

// count is how often the toolchain was called so.
func (w *world) count(call string) int {
	n := 0
	for _, c := range w.calls {
		if c == call {
			n++
		}
	}
	return n
}

const apiping = `FROM golang:1.25.4-alpine AS builder
RUN apk add --no-cache git
RUN adduser -D -g '' tester
WORKDIR /src
COPY . .
RUN go mod tidy
RUN go env -w CGO_ENABLED=0
RUN go build -o /out/app .
FROM scratch
COPY --from=builder /out/app /app
COPY go.mod /go.mod
`

// TestSharedSteps: what doesn't depend on the platform runs once for all of them, and
// nothing of the builder's image is read for packages and accounts that nobody looks at.
func TestSharedSteps(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unpinned": apiping,
		"pinned":   strings.Replace(strings.Replace(apiping, "FROM golang", "FROM --platform=$BUILDPLATFORM golang", 1), "RUN go build", "ARG TARGETARCH\nRUN GOARCH=$TARGETARCH go build", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			results, err := w.run(text, amd64, arm64)
			if err != nil {
				t.Fatal(err)
			}
			for call, want := range map[string]int{"build -o /out/app . [amd64]": 1, "build -o /out/app . [arm64]": 1} {
				if got := w.count(call); got != want {
					t.Errorf("%s: %d times, want %d\n%v", call, got, want, w.calls)
				}
			}
			tidy := 0
			for _, c := range w.calls {
				if strings.HasPrefix(c, "mod tidy") {
					tidy++
				}
			}
			if tidy != 1 {
				t.Errorf("go mod tidy ran %d times: %v", tidy, w.calls)
			}
			if len(w.opened) > 0 {
				t.Errorf("layers of %v were read", w.opened)
			}
			if len(results[0].Layers) != 2 || results[0].Layers[0].Descriptor.Digest == results[1].Layers[0].Descriptor.Digest {
				t.Error("both platforms have the same program")
			}
			if results[0].Layers[1].Descriptor.Digest != results[1].Layers[1].Descriptor.Digest {
				t.Error("go.mod is another layer on another platform")
			}
		})
	}
}

// TestPlanned: plan says the same without doing it.
func TestPlanned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.build(apiping, amd64, arm64)
	d, err := b.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Steps {
		perPlatform := strings.Contains(s.Name, "go build") || strings.Contains(s.Name, "/app /app")
		if perPlatform != (len(s.Platforms) > 0) && !strings.Contains(s.Name, "go.mod /go.mod") {
			t.Errorf("%s (%s) runs for %v", s.Name, s.Place, s.Platforms)
		}
	}
	if len(w.calls) > 0 || len(w.opened) > 0 || len(d.Toolchains) != 1 || d.Toolchains[0] != "1.25.4" {
		t.Errorf("calls %v, layers %v, toolchains %v", w.calls, w.opened, d.Toolchains)
	}
}

// TestInstalled: go install puts programs where the Dockerfile looks for them.
func TestInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.run("FROM golang:1.25.4\nWORKDIR /src\nCOPY . .\nRUN go install ./cmd/hello\nFROM scratch\nCOPY --from=0 /go/bin/hello /hello\n", amd64, arm64); err != nil {
		t.Fatal(err)
	}
	if w.count("install ./cmd/hello [arm64]") != 1 || w.count("install ./cmd/hello [amd64]") != 1 {
		t.Error(w.calls)
	}
}

// TestForThisMachine: what a build runs is made for this machine, whatever the image is
// for; a GOARCH that contradicts the platform is refused, or replaced on request.
func TestForThisMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.run("FROM golang:1.25.4\nRUN go test ./... && go generate ./... && go run ./gen && go install example.com/tool@v1\nRUN go build -o /app\nFROM scratch\nCOPY --from=0 /app /app\n", arm64); err != nil {
		t.Fatal(err)
	}
	want := []string{"test ./... [amd64]", "generate ./... [amd64]", "run ./gen [amd64]", "install example.com/tool@v1 [amd64]", "build -o /app [arm64]"}
	if !slices.Equal(w.calls, want) {
		t.Errorf("got %q\nwant %q", w.calls, want)
	}
	hard := "FROM golang:1.25.4\nENV CGO_ENABLED=0\nRUN GOOS=linux \\\n  GOARCH=amd64 go build -o /app\nFROM scratch\nCOPY --from=0 /app /app\n"
	w = newWorld(t)
	_, err := w.run(hard, amd64, arm64)
	if list := refusal.All(err); len(list) != 1 || list[0].Code != "PA122" || list[0].Place != "Dockerfile:4" || list[0].Platform != "linux/arm64" {
		t.Errorf("%+v", list)
	}
	w.options = func(o *native.Options) { o.OverrideArch = true }
	if _, err := w.run(hard, amd64, arm64); err != nil || w.count("build -o /app [arm64]") != 1 || !strings.Contains(w.events.String(), "is replaced by arm64") {
		t.Errorf("%v %v\n%s", err, w.calls, w.events.String())
	}
}

// TestRefusedAtOnce: everything that can't be done is said together, with its line,
// before anything is read or run.
func TestRefusedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.run(`FROM golang:1.25.4-alpine AS builder
RUN --mount=type=ssh go mod download
RUN --mount=type=secret,id=token,required=true cat /run/secrets/token
RUN --security=insecure true
FROM alpine:3.22
RUN echo one && \
    chroot / true && \
    sed -i 's/a/b/e' /etc/x
RUN ["chroot", "/"]
RUN read -r a < <(echo 1)
COPY --from=builder /x /x
`, amd64, arm64)
	var got []string
	for _, r := range refusal.All(err) {
		got = append(got, r.Code+" "+r.Place)
		if len(r.Fix) == 0 {
			t.Errorf("%s has no fix", r.Summary)
		}
	}
	want := []string{"PA101 Dockerfile:2", "PA102 Dockerfile:3", "PA101 Dockerfile:4", "PA160 Dockerfile:7", "PA101 Dockerfile:8", "PA160 Dockerfile:9", "PA101 Dockerfile:10"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v\n%v", got, want, err)
	}
	if len(w.calls)+len(w.opened) > 0 {
		t.Errorf("%v %v", w.calls, w.opened)
	}
}

// TestSecrets: a secret is there for its command, and nowhere afterwards: not in layers,
// configs, events or messages, in any encoding; another value makes the same image.
func TestSecrets(t *testing.T) {
	t.Parallel()
	text := `FROM alpine:3.22
RUN --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN test "$(cat /run/secrets/token)" = "$TOKEN" && test -n "$TOKEN" && echo seen > /seen
RUN ! test -e /run/secrets/token && test -z "$TOKEN" && echo gone > /gone
`
	var digests []string
	for _, value := range []string{"canary-one-7c1f", "canary-two-99ab"} {
		w := newWorld(t)
		w.secrets["token"] = func() ([]byte, error) { return []byte(value), nil }
		results, err := w.run(text, amd64)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, fmt.Sprint(results[0].Layers[0].Descriptor.Digest, results[0].Layers[1].Descriptor.Digest))
		seen := w.events.String() + string(results[0].Config) + fmt.Sprint(results[0].History)
		for _, l := range results[0].Layers {
			name, err := w.store.Path(l.Descriptor.Digest)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			z, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			seen += string(plain)
		}
		for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), hex.EncodeToString([]byte(value))} {
			if strings.Contains(seen, form) {
				t.Errorf("%s is somewhere", form)
			}
		}
		if strings.Contains(seen, "run/secrets") && !strings.Contains(text, "run/secrets") {
			t.Error("the mount's directory stays")
		}
	}
	if digests[0] != digests[1] {
		t.Error("the value of a secret changes the image")
	}
}

// TestFailed: a RUN that fails is shown with what it wrote.
func TestFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.run("FROM golang:1.25.4\nRUN echo before \\\n && go vet ./...\nFROM scratch\nCOPY --from=0 /x /x\n", arm64)
	var r *refusal.Error
	if !errors.As(err, &r) || r.Code != "PA107" || r.Place != "Dockerfile:2" || !strings.Contains(r.Summary, "exit code 3") {
		t.Fatalf("%v", err)
	}
	if seen := strings.Join(r.Seen, "\n"); !strings.Contains(seen, "go vet ./...") || !strings.Contains(seen, "before\nvet says this") {
		t.Errorf("%s", seen)
	}
}

// TestCancelled: a build that is given up ends, whatever it waits for.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"toolchain": apiping, "shell": "FROM alpine:3.22\nRUN while :; do :; done\n", "sleep": "FROM alpine:3.22\nRUN sleep 1000\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.block = make(chan struct{})
			b, graphs := w.build(text, amd64)
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("given up")
			time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
			if _, err := b.Run(ctx, graphs[0]); err == nil || !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestHostile: what is only meant to do harm is an error, and leaves nothing outside.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a stage's link out":      "FROM alpine:3.22 AS a\nRUN ln -s / /out && ln -s ../../../../etc/hostname /host\nFROM scratch\nCOPY --from=a /out/proc/1/environ /x\n",
		"a secret over the root":  "FROM alpine:3.22\nRUN --mount=type=secret,id=token,required=true,target=/../../x true\n",
		"a fork bomb":             "FROM alpine:3.22\nRUN f() { f; }; f\n",
		"a relative escape":       "FROM alpine:3.22 AS a\nFROM scratch\nCOPY --from=a ../../../etc/hostname /x\n",
		"the machine's processes": "FROM alpine:3.22\nRUN cat /proc/1/environ\n",
		"a write to a device":     "FROM alpine:3.22\nRUN echo x > /dev/sda\nRUN test -b /dev/sda\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := newWorld(t).run(text, amd64); err == nil {
				t.Error("it was built")
			}
		})
	}
}
