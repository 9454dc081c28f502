//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/store"
)

// hosted is a registry with a builder, and a program to build with.
type hosted struct {
	program, conf, cache string
}

func newHosted(t *testing.T) *hosted {
	t.Helper()
	kept, err := debianRoot("builder", builderPackages...)
	minimal, err2 := debianRoot("minimal", "ca-certificates")
	skipWithout(t, errors.Join(err, err2))
	h := &hosted{program: filepath.Join(t.TempDir(), "anyarch"), conf: filepath.Join(t.TempDir(), "registries.conf"), cache: os.Getenv("ANYARCH_E2E_CACHE")}
	if h.cache == "" {
		h.cache = t.TempDir()
	}
	if out, err := exec.Command("go", "build", "-o", h.program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	version := strings.TrimPrefix(runtime.Version(), "go")
	realBuilder(t, root, "library/golang", "1", version, kept)
	realBuilder(t, root, "library/golang", "minimal", version, minimal)
	realBuilder(t, root, "library/debian", "12", "", minimal)
	check(t, os.WriteFile(h.conf, fmt.Appendf(nil, "[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", registry), 0o644))
	return h
}

// build builds a context, and gives what a program of the image prints for this
// machine's platform.
func (h *hosted) build(t *testing.T, files map[string]string, args ...string) (out, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		check(t, os.WriteFile(file, []byte(text), mode))
	}
	out = filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(h.program, append(append([]string{"build", "--output", "oci:" + out, "--sandbox", "require", "-f", "Dockerfile"}, args...), ".")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+h.conf, "XDG_CACHE_HOME="+h.cache)
	var text bytes.Buffer
	cmd.Stderr = &text
	err = cmd.Run()
	return out, text.String(), err
}

// files reads the layers that a Dockerfile made: names and contents, per platform.
func (h *hosted) files(t *testing.T, layout, arch string) map[string]string {
	t.Helper()
	st, err := store.Open(layout)
	check(t, err)
	read := func(d digest.Digest, v any) {
		file, err := st.Path(d)
		check(t, err)
		data, err := os.ReadFile(file)
		check(t, err)
		check(t, json.Unmarshal(data, v))
	}
	var top ocispec.Index
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	check(t, err)
	check(t, json.Unmarshal(data, &top))
	var index ocispec.Index
	read(top.Manifests[0].Digest, &index)
	found := map[string]string{}
	for _, m := range index.Manifests {
		if m.Platform == nil || m.Platform.Architecture != arch {
			continue
		}
		var manifest ocispec.Manifest
		read(m.Digest, &manifest)
		for _, l := range manifest.Layers {
			file, err := st.Path(l.Digest)
			check(t, err)
			readLayer(t, file, found)
		}
	}
	return found
}

// readLayer adds the regular files of a layer.
func readLayer(t *testing.T, file string, to map[string]string) {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	check(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		check(t, err)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		check(t, err)
		to[fmt.Sprintf("%s %o %d:%d", h.Name, h.Mode&0o7777, h.Uid, h.Gid)] = string(data)
	}
}

// TestHostedStages: what programs of a builder's base make, for two platforms.
func TestHostedStages(t *testing.T) {
	peers(t)
	h := newHosted(t)
	goFiles := map[string]string{
		"go.mod":  "module example.com/app\n\ngo 1.21\n",
		"main.go": "package main\n\nimport \"fmt\"\n\nvar version = \"none\"\n\nfunc main() { fmt.Println(version) }\n",
	}
	with := func(more ...string) map[string]string {
		files := map[string]string{}
		for k, v := range goFiles {
			files[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			files[more[i]] = more[i+1]
		}
		return files
	}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  map[string]string // of the layers, for every platform; "ARCH" is its name
		elf   string            // a program of the platform
	}{
		{name: "make builds for the image, and runs its generator here", elf: "app 755 0:0", files: with("Dockerfile", `FROM golang:1 AS build
WORKDIR /src
COPY . .
RUN make build
FROM scratch
COPY --from=build /src/app /src/gen.txt /src/arch.txt /
ENTRYPOINT ["/app"]
`, "Makefile", "ARCH := $(shell go env GOARCH)\nbuild:\n\tgo run ./gen > gen.txt\n\techo $(ARCH) $$(go env GOOS) > arch.txt\n\tCGO_ENABLED=0 go build -ldflags \"-X main.version=$$(date +%Y)\" -o app .\n",
			"gen/main.go", "package main\n\nimport \"runtime\"\n\nfunc main() { println(runtime.GOARCH); print(\"\"); }\n"),
			want: map[string]string{"gen.txt 644 0:0": "", "arch.txt 644 0:0": "ARCH linux\n"}},
		{name: "pinned builder", elf: "app 755 0:0", files: with("Dockerfile", `FROM --platform=$BUILDPLATFORM golang:1 AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN make
FROM scratch
COPY --from=build /src/app /
ENTRYPOINT ["/app"]
`, "Makefile", "app: main.go\n\tCGO_ENABLED=0 GOARCH=$(TARGETARCH) go build -o app .\n")},
		{name: "scripts, pipes, exit codes, users and modes", files: map[string]string{"Dockerfile": `FROM debian:12 AS build
RUN useradd -u 1234 -m dev && mkdir /work && chown dev /work
COPY script.sh strange.sh call.sh /work/
WORKDIR /work
USER dev
ENV GREETING=hello
RUN ./script.sh > out.txt && perl -e 'print "p\n"' | tr a-z A-Z | perl -ne 'print "<$_>"' > pipe.txt
RUN perl -e 'exit 3'; echo $? > code.txt; umask 077; perl -e 'open F, ">private"; print F "$ENV{GREETING} ", $<, " ", (getpwuid($<))[0]'
RUN ["./strange.sh"]
RUN ./call.sh
RUN perl -e 'kill 15, $$' || echo $? > signal.txt; perl -e 'while (<STDIN>) { print uc }' < out.txt > stdin.txt
RUN cat <<END | perl -pe 's/a/b/' > heredoc.txt
aaa
END
FROM scratch
COPY --from=build /work/ /work/
`, "script.sh": "#!/bin/sh\nset -e\necho \"$GREETING from $(pwd)\"\n", "strange.sh": "#!/bin/bash\ncat <(echo substituted) > strange.txt\n", "call.sh": "#!/bin/sh\nperl -e 'print 6*7' > call.txt\n"},
			want: map[string]string{"work/out.txt 644 1234:1234": "hello from /work\n", "work/pipe.txt 644 1234:1234": "<P\n>", "work/code.txt 644 1234:1234": "3\n",
				"work/private 600 1234:1234": "hello 1234 dev", "work/strange.txt 644 1234:1234": "substituted\n", "work/call.txt 644 1234:1234": "42",
				"work/signal.txt 644 1234:1234": "143\n", "work/stdin.txt 644 1234:1234": "HELLO FROM /WORK\n", "work/heredoc.txt 644 1234:1234": "baa\n"}},
		{name: "a platform argument makes another result", files: map[string]string{"Dockerfile": `FROM debian:12 AS build
ARG TARGETARCH
RUN perl -e 'print $ENV{TARGETARCH}' > /arch.txt
RUN perl -e 'print time' > /shared.txt
FROM scratch
COPY --from=build /arch.txt /
`}, want: map[string]string{"arch.txt 644 0:0": "ARCH"}},
		{name: "git of the base", files: map[string]string{"Dockerfile": `FROM golang:1 AS build
RUN git init -q /r && cd /r && git config user.email a@example.com && git config user.name A && echo x > f && git add f && git commit -qm first && git tag v1.2 && perl -e 'print qx(git describe --tags)' > /version.txt && git clone -q /r /clone && cp /clone/f /cloned.txt
FROM scratch
COPY --from=build /version.txt /cloned.txt /
`}, want: map[string]string{"version.txt 644 0:0": "v1.2\n", "cloned.txt 644 0:0": "x\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			layout, stderr, err := h.build(t, test.files, "--platform", "linux/amd64,linux/arm64")
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			for _, arch := range []string{"amd64", "arm64"} {
				files := h.files(t, layout, arch)
				for name, want := range test.want {
					if got, ok := files[name]; !ok || got != strings.ReplaceAll(want, "ARCH", arch) {
						t.Errorf("%s: %s is %q, want %q", arch, name, got, want)
					}
				}
				if test.elf != "" {
					machine := map[string]string{"amd64": "\x3e\x00", "arm64": "\xb7\x00"}[arch]
					if text := files[test.elf]; len(text) < 20 || text[18:20] != machine {
						t.Errorf("%s: %s is no program of it", arch, test.elf)
					}
				}
				if t.Failed() {
					for name := range files {
						t.Log(arch, name)
					}
					t.Log(stderr)
				}
			}
		})
	}
}

// TestHostedCgo: C compilers that apt-get of ours installs from Debian's mirror, for this
// machine and across.
func TestHostedCgo(t *testing.T) {
	peers(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the cross compiler of the test is amd64's for arm64")
	}
	h := newHosted(t)
	files := func(dockerfile string) map[string]string {
		return map[string]string{"Dockerfile": dockerfile, "go.mod": "module example.com/app\n\ngo 1.21\n",
			"main.go": "package main\n\n// #include <stdio.h>\n// static int answer(void) { return 42; }\n// static void say(int n) { printf(\"answer %d, long of %zu bytes\\n\", n, sizeof(long)); fflush(stdout); }\nimport \"C\"\n\nfunc main() { C.say(C.answer()) }\n"}
	}
	const install = "RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross && rm -rf /var/lib/apt/lists/*\n"
	const final = "FROM scratch\nCOPY --from=build /app /\nENTRYPOINT [\"/app\"]\n"
	for _, test := range []struct{ name, dockerfile, refused string }{
		{name: "pinned, with CC by TARGETARCH", dockerfile: "FROM --platform=$BUILDPLATFORM golang:minimal AS build\n" + install +
			"ARG TARGETARCH\nWORKDIR /src\nCOPY . .\nRUN case $TARGETARCH in arm64) export CC=aarch64-linux-gnu-gcc ;; esac; CGO_ENABLED=1 GOARCH=$TARGETARCH go build -ldflags '-linkmode external -extldflags -static' -o /app .\n" + final},
		{name: "unpinned", dockerfile: "FROM golang:minimal AS build\n" + install + "WORKDIR /src\nCOPY . .\nRUN go build -ldflags '-linkmode external -extldflags -static' -o /app .\n" + final},
		{name: "a compiler for this machine alone", dockerfile: "FROM golang:1 AS build\nWORKDIR /src\nCOPY . .\nENV CGO_ENABLED=1\nRUN go build -o /app .\n" + final,
			refused: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
		{name: "behind make", dockerfile: "FROM golang:1 AS build\nWORKDIR /src\nCOPY . .\nRUN printf 'app:\\n\\tgo build -o /app .\\n' > Makefile && make\n" + final,
			refused: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
	} {
		t.Run(test.name, func(t *testing.T) {
			layout, stderr, err := h.build(t, files(test.dockerfile), "--platform", "linux/amd64,linux/arm64")
			if test.refused != "" {
				if err == nil || !strings.Contains(stderr, "PA103") || !strings.Contains(stderr, test.refused) {
					t.Fatalf("%v\n%s", err, stderr)
				}
				return
			}
			if err != nil && unreachable.MatchString(stderr) {
				t.Skipf("Debian's mirror can't be reached from here: %s", unreachable.FindString(stderr))
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			for arch, runner := range map[string]string{"amd64": "", "arm64": "qemu-aarch64-static"} {
				program := filepath.Join(t.TempDir(), "app")
				check(t, os.WriteFile(program, []byte(h.files(t, layout, arch)["app 755 0:0"]), 0o755))
				words := []string{program}
				if runner != "" {
					if _, err := exec.LookPath(runner); err != nil {
						t.Logf("%s isn't on PATH: the program isn't run", runner)
						continue
					}
					words = []string{runner, program}
				}
				if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil || string(out) != "answer 42, long of 8 bytes\n" {
					t.Errorf("%s: %v %s", arch, err, out)
				}
			}
		})
	}
}

// TestHostedUnprivileged builds as a user without any right.
func TestHostedUnprivileged(t *testing.T) {
	peers(t)
	if os.Geteuid() != 0 {
		t.Skip("the other tests of hosted stages run without rights here")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv isn't on PATH")
	}
	h := newHosted(t)
	dir, err := os.MkdirTemp("", "anyarch-nobody-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const nobody = 65534
	for _, name := range []string{dir, filepath.Join(dir, "home"), filepath.Join(dir, "context")} {
		check(t, os.MkdirAll(name, 0o755))
		check(t, errors.Join(os.Chmod(name, 0o755), os.Chown(name, nobody, nobody)))
	}
	data, err := os.ReadFile(h.program)
	check(t, err)
	program := filepath.Join(dir, "anyarch")
	check(t, os.WriteFile(program, data, 0o755))
	conf, err := os.ReadFile(h.conf)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "registries.conf"), conf, 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "context", "Dockerfile"), []byte(`FROM debian:12 AS build
RUN useradd -m dev
USER dev
RUN perl -e 'open F, ">/home/dev/who"; print F "$< ", (getpwuid($<))[0]'
FROM scratch
COPY --from=build /home/dev/who /
`), 0o644))
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "build", "--output", "oci:"+filepath.Join(dir, "home", "out"),
		"--sandbox", "require", "-f", "Dockerfile", "--platform", "linux/amd64,linux/arm64", ".")
	cmd.Dir = filepath.Join(dir, "context")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home"), "CONTAINERS_REGISTRIES_CONF=" + filepath.Join(dir, "registries.conf")}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "PA130") {
		t.Skipf("no sandbox without rights here: %s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if got := h.files(t, filepath.Join(dir, "home", "out"), arch)["who 644 1000:1000"]; got != "1000 dev" {
			t.Errorf("%s: %q", arch, got)
		}
	}
}
