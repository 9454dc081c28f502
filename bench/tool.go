package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const ldflags = "-s -w"

// tool builds a module for its platforms, and pushes it if it can.
type tool struct {
	name    string
	version []string // command that prints it
	peer    bool     // may be left out
	pushes  bool
	// before, if not nil, is called before a cold run, and not measured.
	before func(ctx context.Context, m *module) error
	// build does the work once. All that the tool keeps is below state.
	build func(ctx context.Context, w *meter, m *module, state string) error
}

// findGo finds the go command, this repository, and what tools share.
func (b *bench) findGo(ctx context.Context) error {
	var err error
	if b.goPath, err = exec.LookPath("go"); err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	text, err := output(ctx, wd, os.Environ(), b.goPath, "env", "GOMOD", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOPRIVATE", "GOTOOLCHAIN")
	if err != nil {
		return err
	}
	values := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	if b.root = filepath.Dir(values[0]); filepath.Base(values[0]) != "go.mod" {
		return errors.New("run me in the repository: go run ./bench")
	}
	b.modCache = values[1]
	b.base = []string{
		"GOENV=off", "GOFLAGS=", "GOWORK=off", "GOTELEMETRY=off", "CGO_ENABLED=0", "LC_ALL=C",
		"GOMODCACHE=" + values[1], "GOPROXY=" + values[2], "GOSUMDB=" + values[3], "GOPRIVATE=" + values[4], "GOTOOLCHAIN=" + values[5],
	}
	for _, key := range []string{
		"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"SYSTEMROOT", "COMSPEC", "PATHEXT",
	} {
		if value, set := os.LookupEnv(key); set {
			b.base = append(b.base, key+"="+value)
		}
	}
	return nil
}

func goCache(state string) string { return filepath.Join(state, "go-build") }

// env is the whole environment of a tool that keeps its things below state.
func (b *bench) env(state string, more ...string) []string {
	home, temp := filepath.Join(state, "home"), filepath.Join(state, "tmp")
	for _, dir := range []string{home, temp, goCache(state)} {
		_ = os.MkdirAll(dir, 0o755) // a tool that misses it will say so
	}
	return slices.Concat(b.base, []string{
		"HOME=" + home, "USERPROFILE=" + home, "XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"LOCALAPPDATA=" + filepath.Join(home, "cache"), "APPDATA=" + filepath.Join(home, "config"),
		"TMPDIR=" + temp, "TMP=" + temp, "TEMP=" + temp, "GOCACHE=" + goCache(state), "GOPATH=" + filepath.Join(home, "go"),
	}, more)
}

// findTools sets up what takes part.
func (b *bench) findTools(ctx context.Context) error {
	for _, name := range b.config.tools {
		var t *tool
		var err error
		switch name {
		case "floor":
			t = b.floor()
		case "anyarch":
			t = b.ours()
		case sharedTool:
			t = b.shared()
		case zstdTool:
			t = b.zstd()
		case "ko", "ko-cache":
			t, err = b.ko(ctx, name)
		case "dockerfile":
			t, err = b.ourDockerfile(ctx)
		case "buildah":
			t, err = b.buildah()
		case "buildkit", "buildctl", "engine":
			t, err = b.buildkit(ctx, name)
		case "emulated":
			t, err = b.emulated(ctx)
		}
		if err != nil {
			b.skip(name, err)
			continue
		}
		b.tools = append(b.tools, t)
	}
	// warm copies from the first.
	slices.SortStableFunc(b.tools, func(x, y *tool) int { return boolInt(y.name == "floor") - boolInt(x.name == "floor") })
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// floor is one go build per platform, all at once.
func (b *bench) floor() *tool {
	return &tool{
		name: "floor", version: []string{b.goPath, "version"},
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state)
			g, ctx := errgroup.WithContext(ctx)
			for _, p := range m.platforms {
				out := filepath.Join(state, "out", filepath.FromSlash(p)) + string(filepath.Separator)
				if err := os.MkdirAll(out, 0o755); err != nil {
					return err
				}
				args := append([]string{b.goPath, "build", "-trimpath", "-ldflags", ldflags, "-o", out}, m.mains...)
				g.Go(func() error { return w.run(ctx, m.dir, slices.Concat(env, goEnv(p)), args...) })
			}
			return g.Wait()
		},
	}
}

// goEnv spells a platform for the go command.
func goEnv(platform string) []string {
	parts := strings.SplitN(platform, "/", 3)
	env := []string{"GOOS=" + parts[0]}
	if len(parts) > 1 {
		env = append(env, "GOARCH="+parts[1])
	}
	if len(parts) > 2 {
		switch parts[1] {
		case "arm":
			env = append(env, "GOARM="+strings.TrimPrefix(parts[2], "v"))
		case "arm64":
			env = append(env, "GOARM64="+parts[2]+".0")
		case "amd64":
			env = append(env, "GOAMD64="+parts[2])
		}
	}
	return env
}

// programName is what a program of the module is called in repositories.
func (m *module) programName(main string) string {
	if main == "." {
		return m.name
	}
	return path.Base(main)
}

func (b *bench) ours() *tool {
	return &tool{
		name: "anyarch", version: []string{b.anyarch, "version"}, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "ANYARCH_CACHE="+filepath.Join(state, "anyarch"))
			args := slices.Concat([]string{b.anyarch, "publish"}, m.mains, []string{
				"--platform", strings.Join(m.platforms, ","), "--ldflags", ldflags,
				"-t", b.repository("anyarch", m, state) + "/{{.Name}}:bench",
			})
			return w.run(ctx, m.dir, env, args...)
		},
	}
}

// repository is where one tool pushes one module. A cold tool finds none of
// what it pushed before.
func (b *bench) repository(tool string, m *module, state string) string {
	return fmt.Sprintf("%s/%s/%s-%s", b.registry.addr, tool, m.name, filepath.Base(state))
}

func (b *bench) ko(ctx context.Context, name string) (*tool, error) {
	program, err := exec.LookPath("ko")
	if err != nil {
		return nil, errors.New("it isn't on PATH (go install github.com/google/ko@latest)")
	}
	base, err := b.registry.pushBase(ctx, slices.Concat(fourPlatforms, b.platforms))
	if err != nil {
		return nil, fmt.Errorf("push its base image: %w", err)
	}
	return &tool{
		name: name, version: []string{program, "version"}, peer: true, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "KO_DEFAULTBASEIMAGE="+base, "KO_DOCKER_REPO="+b.repository(name, m, state), "DOCKER_CONFIG="+filepath.Join(state, "home"))
			if name == "ko-cache" {
				dir := filepath.Join(state, "ko")
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				env = append(env, "KOCACHE="+dir)
			}
			args := slices.Concat([]string{program, "build", "-B", "--platform", strings.Join(m.platforms, ",")}, koFlags(), m.mains)
			return w.run(ctx, m.dir, env, args...)
		},
	}, nil
}

func koFlags() []string {
	var flags []string
	for _, f := range strings.Fields(ldflags) {
		flags = append(flags, "--ldflags="+f)
	}
	return flags
}

// dockerfile compiles with the Go of this machine, since there is no image with
// one here.
const dockerfile = `FROM scratch AS build
COPY . /src
WORKDIR /src
ARG TARGETOS
ARG TARGETARCH
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH GOFLAGS= GOENV=off GOWORK=off GOTOOLCHAIN=local GOTELEMETRY=off
ENV GOROOT=/goroot GOCACHE=/gocache GOMODCACHE=/gomodcache GOPROXY=off HOME=/tmp TMPDIR=/tmp
%s
FROM scratch
COPY --from=build /out/ /app/
ENTRYPOINT ["/app/main"]
`

func (b *bench) buildah() (*tool, error) {
	program, err := exec.LookPath("buildah")
	if err != nil {
		return nil, errors.New("it isn't on PATH")
	}
	if runtime.GOOS != "linux" {
		return nil, errors.New("it runs on Linux only")
	}
	var runs atomic.Int64
	return &tool{
		name: "buildah", version: []string{program, "--version"}, peer: true, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			if n := len(m.mains) * len(m.platforms); n > 24 {
				return fmt.Errorf("%d images are built one by one", n)
			}
			env := b.env(state, "BUILDAH_ISOLATION=chroot")
			goroot, err := output(ctx, m.dir, env, b.goPath, "env", "GOROOT")
			if err != nil {
				return err
			}
			storage := []string{"--root", filepath.Join(state, "storage"), "--runroot", filepath.Join(state, "run")}
			command := func(args ...string) []string { return slices.Concat([]string{program}, storage, args) }
			for _, main := range m.mains {
				// As a Dockerfile in exec form can't expand variables, every
				// program has its own.
				file := filepath.Join(state, "Dockerfile."+m.programName(main))
				run := fmt.Sprintf(`RUN ["/goroot/bin/go", "build", "-trimpath", "-ldflags", %q, "-o", "/out/main", %q]`, ldflags, main)
				if err := os.WriteFile(file, fmt.Appendf(nil, dockerfile, run), 0o644); err != nil {
					return err
				}
				list := fmt.Sprintf("%s-%d", m.programName(main), runs.Add(1))
				for _, p := range m.platforms {
					if err := w.run(ctx, m.dir, env, command("bud", "--layers", "--network", "host", "--platform", p, "--manifest", list, "-f", file,
						"-v", strings.TrimSpace(goroot)+":/goroot:ro", "-v", b.modCache+":/gomodcache:ro", "-v", goCache(state)+":/gocache", "-v", filepath.Join(state, "tmp")+":/tmp",
						m.dir)...); err != nil {
						return err
					}
				}
				to := "docker://" + b.repository("buildah", m, state) + "/" + m.programName(main) + ":bench"
				if err := w.run(ctx, m.dir, env, command("manifest", "push", "--all", "--tls-verify=false", list, to)...); err != nil {
					return err
				}
			}
			return nil
		},
	}, nil
}
