package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anyarch/anyarch/internal/platform"
)

// ordinary is a Dockerfile as people write them for one architecture at a time.
const ordinary = `FROM %s AS build
WORKDIR /tmp/app
COPY go.* ./
RUN go mod download
COPY . .
ARG GOARCH
ENV CGO_ENABLED=0
RUN %s
FROM scratch
%s
USER 65532
`

// ourDockerfile is anyarch with that Dockerfile.
func (b *bench) ourDockerfile(ctx context.Context) (*tool, error) {
	version, err := output(ctx, b.dir, b.base, b.goPath, "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	builder, err := b.registry.pushGoBuilder(ctx, slices.Concat(fourPlatforms, b.platforms), strings.TrimPrefix(strings.TrimSpace(version), "go"))
	if err != nil {
		return nil, fmt.Errorf("push its builder image: %w", err)
	}
	return &tool{
		name: "dockerfile", version: []string{b.anyarch, "version"}, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "ANYARCH_CACHE="+filepath.Join(state, "anyarch"))
			for _, main := range m.mains {
				name := m.programName(main)
				file := filepath.Join(state, "Dockerfile."+name)
				compile := fmt.Sprintf("go build -trimpath -ldflags '%s' -o /out/%s %s", ldflags, name, main)
				if err := os.WriteFile(file, fmt.Appendf(nil, ordinary, builder, compile, fmt.Sprintf("COPY --from=build /out/%[1]s /app/%[1]s\nENTRYPOINT [\"/app/%[1]s\"]", name)), 0o644); err != nil {
					return err
				}
				if err := w.run(ctx, m.dir, env, b.anyarch, "publish", "-f", file, "--platform", strings.Join(m.platforms, ","),
					"-t", b.repository("dockerfile", m, state)+"/"+name+":bench", "."); err != nil {
					return err
				}
			}
			return nil
		},
	}, nil
}

// crossed is the same for BuildKit by a user who knows how to cross-compile and
// to keep caches. A machine without a registry of images has no golang to start
// from: Go comes as a named context.
const crossed = `FROM %s AS build
COPY --from=goroot . /usr/local/go
COPY --from=certificates . /etc/ssl/certs
` + crossedSteps

// crossedSteps are those in a stage that has Go.
const crossedSteps = `WORKDIR /tmp/app
ENV GOROOT=/usr/local/go GOPATH=/go HOME=/root TMPDIR=/var/tmp GOTOOLCHAIN=local GOFLAGS= CGO_ENABLED=0 GOTELEMETRY=off
WORKDIR /var/tmp
WORKDIR /tmp/app
ARG GOPROXY
ARG GOSUMDB
COPY go.* ./
RUN --mount=type=cache,id=modules,target=/go/pkg/mod ["/usr/local/go/bin/go", "mod", "download"]
COPY . .
ARG TARGETOS
ARG TARGETARCH
ENV GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN --mount=type=cache,id=modules,target=/go/pkg/mod --mount=type=cache,id=%s,target=/root/.cache/go-build ["/usr/local/go/bin/go", "build", "-trimpath", "-ldflags", %q, "-o", "/out/main", %q]
FROM scratch
COPY --from=build /out/main /app/main
ENTRYPOINT ["/app/main"]
USER 65532
`

// buildkit is a buildkitd of this program's own, each tool with one of its own so that
// none finds what another has built. buildctl and engine are BuildKit's own client and
// anyarch with the same Dockerfile, which starts from an image that has Go, and with times
// that are the same every day.
func (b *bench) buildkit(ctx context.Context, name string) (*tool, error) {
	daemon, err := exec.LookPath("buildkitd")
	if err != nil {
		return nil, errors.New("buildkitd isn't on PATH (go install github.com/moby/buildkit/cmd/...@latest)")
	}
	client, err := exec.LookPath("buildctl")
	if err != nil {
		return nil, errors.New("buildctl isn't on PATH")
	}
	goroot, err := output(ctx, b.dir, b.base, b.goPath, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	address, err := b.startBuildkit(ctx, name, daemon, client)
	if err != nil {
		return nil, err
	}
	proxy := map[string]string{}
	for _, kv := range b.base {
		k, v, _ := strings.Cut(kv, "=")
		proxy[k] = v
	}
	certificates := "/etc/ssl/certs"
	if file := proxy["SSL_CERT_FILE"]; file != "" {
		certificates = filepath.Dir(file)
	}
	contexts := map[string]string{"goroot": strings.TrimSpace(goroot), "certificates": certificates}
	text, start := crossed, "scratch"
	if name != "buildkit" {
		text, start = "FROM --platform=$BUILDPLATFORM %s AS build\n"+crossedSteps, b.registry.addr+"/golang:bench"
		if err := b.pushGo(ctx, client, address, start, contexts); err != nil {
			return nil, fmt.Errorf("push an image with Go: %w", err)
		}
		contexts = nil
	}
	return &tool{
		name: name, version: []string{daemon, "--version"}, peer: true, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "ANYARCH_CACHE="+filepath.Join(state, "anyarch"))
			for _, main := range m.mains {
				dir := filepath.Join(state, "dockerfile."+m.programName(main))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				// A cold tool has a build cache of its own.
				file := filepath.Join(dir, "Dockerfile")
				if err := os.WriteFile(file, fmt.Appendf(nil, text, start, "build-"+filepath.Base(state), ldflags, main), 0o644); err != nil {
					return err
				}
				target := b.repository(name, m, state) + "/" + m.programName(main) + ":bench"
				args := []string{b.anyarch, "publish", "--engine", "buildkit", "--builder", address, "-f", file, "--platform", strings.Join(m.platforms, ","),
					"--build-arg", "GOPROXY=" + proxy["GOPROXY"], "--build-arg", "GOSUMDB=" + proxy["GOSUMDB"], "-t", target, m.dir}
				if name != "engine" {
					args = slices.Concat(buildctl(client, address, m.dir, dir, contexts), []string{"--opt", "platform=" + strings.Join(m.platforms, ","),
						"--opt", "build-arg:GOPROXY=" + proxy["GOPROXY"], "--opt", "build-arg:GOSUMDB=" + proxy["GOSUMDB"]})
					output := "type=image,push=true,registry.insecure=true,name=" + target
					if name == "buildctl" {
						output += ",rewrite-timestamp=true"
						args = append(args, "--opt", "build-arg:SOURCE_DATE_EPOCH=0")
					}
					args = append(args, "--output", output)
				}
				if err := w.run(ctx, m.dir, env, args...); err != nil {
					return err
				}
			}
			return nil
		},
	}, nil
}

// buildctl is the beginning of a command of BuildKit's client.
func buildctl(client, address, context, dockerfile string, contexts map[string]string) []string {
	args := []string{client, "--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain", "--local", "context=" + context, "--local", "dockerfile=" + dockerfile}
	for name, dir := range contexts {
		args = append(args, "--local", name+"="+dir, "--opt", "context:"+name+"=local:"+name)
	}
	return args
}

// pushGo pushes an image with the Go of this machine, once.
func (b *bench) pushGo(ctx context.Context, client, address, name string, contexts map[string]string) error {
	dir := filepath.Join(b.dir, "golang")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := "FROM scratch\nCOPY --from=goroot . /usr/local/go\nCOPY --from=certificates . /etc/ssl/certs\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return err
	}
	args := append(buildctl(client, address, dir, dir, contexts), "--output", "type=image,push=true,registry.insecure=true,compression=uncompressed,name="+name)
	_, err := output(ctx, dir, b.base, args...)
	return err
}

// startBuildkit starts a buildkitd and waits for it.
func (b *bench) startBuildkit(ctx context.Context, name, daemon, client string) (string, error) {
	if os.Getuid() != 0 {
		return "", errors.New("it needs root")
	}
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	address := "unix://" + filepath.Join(dir, "buildkitd.sock")
	conf := filepath.Join(dir, "buildkitd.toml")
	text := fmt.Sprintf("root = %q\n[grpc]\n  address = [%q]\n[worker.oci]\n  networkMode = \"host\"\n[worker.containerd]\n  enabled = false\n[registry.%q]\n  http = true\n",
		filepath.Join(dir, "root"), address, b.registry.addr)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	child := command(ctx, b.dir, append(os.Environ(), "HOME="+dir), daemon, "--config", conf)
	var messages bytes.Buffer
	child.Stderr = &messages
	if err := child.Start(); err != nil {
		cancel()
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	stop := func() { cancel(); <-ended }
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err := output(ctx, b.dir, b.base, client, "--addr", address, "debug", "workers"); err == nil {
			break
		}
		select {
		case err := <-ended:
			cancel()
			return "", fmt.Errorf("it has ended: %w\n%s", err, messages.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			stop()
			return "", errors.New("buildkitd doesn't answer")
		}
	}
	b.closers = append(b.closers, stop)
	return address, nil
}

// emulated is buildah with the Go of each target platform, which QEMU runs where
// it isn't this machine's (binfmt_misc).
func (b *bench) emulated(ctx context.Context) (*tool, error) {
	program, err := exec.LookPath("buildah")
	if err != nil {
		return nil, errors.New("buildah isn't on PATH")
	}
	version, err := output(ctx, b.dir, b.base, b.goPath, "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	goroots := map[string]string{}
	for _, p := range slices.Concat(twoPlatforms, b.platforms) {
		target, err := platform.Parse(p)
		if err != nil {
			return nil, err
		}
		if target.Architecture != runtime.GOARCH {
			if list, _ := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-*"); len(list) == 0 {
				return nil, errors.New("QEMU isn't registered in /proc/sys/fs/binfmt_misc")
			}
		}
		text, err := output(ctx, b.dir, append(b.base, "GOFLAGS=-modcacherw"), b.goPath, "mod", "download", "-json",
			"golang.org/toolchain@v0.0.1-"+strings.TrimSpace(version)+"."+target.OS+"-"+target.Architecture)
		if err != nil {
			return nil, err
		}
		_, dir, _ := strings.Cut(text, `"Dir": "`)
		dir, _, _ = strings.Cut(dir, `"`)
		// Modules have no executable files; the go command gives its own toolchains the bit.
		for _, pattern := range []string{"bin/*", "pkg/tool/*/*"} {
			tools, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, tool := range tools {
				if err := os.Chmod(tool, 0o755); err != nil {
					return nil, err
				}
			}
		}
		goroots[p] = dir
	}
	var runs atomic.Int64
	return &tool{
		name: "emulated", version: []string{program, "--version"}, peer: true, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "BUILDAH_ISOLATION=chroot")
			storage := []string{"--root", filepath.Join(state, "storage"), "--runroot", filepath.Join(state, "run")}
			command := func(args ...string) []string { return slices.Concat([]string{program}, storage, args) }
			for _, main := range m.mains {
				file := filepath.Join(state, "Dockerfile."+m.programName(main))
				run := fmt.Sprintf(`RUN ["/goroot/bin/go", "build", "-trimpath", "-ldflags", %q, "-o", "/out/main", %q]`, ldflags, main)
				if err := os.WriteFile(file, fmt.Appendf(nil, dockerfile, run), 0o644); err != nil {
					return err
				}
				list := fmt.Sprintf("%s-%d", m.programName(main), runs.Add(1))
				for _, p := range m.platforms {
					if goroots[p] == "" {
						return fmt.Errorf("%s has no Go here", p)
					}
					if err := w.run(ctx, m.dir, env, command("bud", "--layers", "--network", "host", "--platform", p, "--manifest", list, "-f", file,
						"-v", goroots[p]+":/goroot:ro", "-v", b.modCache+":/gomodcache:ro", "-v", goCache(state)+":/gocache", "-v", filepath.Join(state, "tmp")+":/tmp",
						m.dir)...); err != nil {
						return err
					}
				}
				to := "docker://" + b.repository("emulated", m, state) + "/" + m.programName(main) + ":bench"
				if err := w.run(ctx, m.dir, env, command("manifest", "push", "--all", "--tls-verify=false", list, to)...); err != nil {
					return err
				}
			}
			return nil
		},
	}, nil
}
