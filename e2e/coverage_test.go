package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pattern is what a Dockerfile of a Go program needs beside go, apk and the shell, and how
// many of 459 real Dockerfiles have that need as their last one in the order of
// frequency; ordinary are those of the 327 that weren't picked for being popular.
type pattern struct {
	name          string
	all, ordinary int
	dockerfile    string // that has the need; empty if it is never built here
	late          bool   // only the build itself finds that a program has to run
	never         bool   // not claimed to work, though nothing is refused before it is tried
}

const (
	coverBuild = "FROM golang:1.26 AS build\nWORKDIR /src\nCOPY . .\n"
	coverFinal = "FROM alpine:3.22\nCOPY --from=build /out/app /app\nENTRYPOINT [\"/app\"]\n"
	coverGo    = "RUN CGO_ENABLED=0 go build -o /out/app .\n"
)

var patterns = []pattern{
	{name: "nothing but go", all: 165, ordinary: 117, dockerfile: coverBuild + "RUN go mod download\n" + coverGo + coverFinal},
	{name: "apk, accounts, files", all: 93, ordinary: 91, dockerfile: coverBuild + coverGo +
		"FROM alpine:3.22\nRUN apk add --no-cache ca-certificates tzdata curl && addgroup -S app && adduser -S -G app app && mkdir -p /data && chown app /data\nCOPY --from=build /out/app /app\nUSER app\n"},
	{name: "make", all: 20, ordinary: 10, dockerfile: coverBuild + "RUN make build\n" + coverFinal},
	{name: "cgo", all: 18, ordinary: 11, dockerfile: coverBuild + "RUN apt-get update && apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross\nRUN CGO_ENABLED=1 go build -o /out/app .\n" + coverFinal, late: true},
	{name: "npm, yarn, pnpm", all: 18, ordinary: 12, dockerfile: "FROM node:22 AS ui\nWORKDIR /ui\nCOPY . .\nRUN npm ci && npm run build\n" + coverBuild + "COPY --from=ui /ui/dist ui\n" + coverGo + coverFinal},
	{name: "git describe and git config", all: 6, ordinary: 2, dockerfile: coverBuild + "RUN git config --global url.https://example.com/.insteadOf git@example.com: && CGO_ENABLED=0 go build -ldflags \"-X main.v=$(git describe --tags)\" -o /out/app .\n" + coverFinal},
	{name: "git clone", all: 4, ordinary: 3, dockerfile: coverBuild + "RUN git clone --depth 1 https://example.com/r /r\n" + coverGo + coverFinal},
	{name: "apt in the final stage, certificates and zones", all: 9, ordinary: 7, dockerfile: coverBuild + coverGo +
		"FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y --no-install-recommends ca-certificates tzdata && rm -rf /var/lib/apt/lists/*\nCOPY --from=build /out/app /app\n"},
	{name: "sed, grep, awk", all: 8, ordinary: 6, dockerfile: coverBuild + "RUN sed -i 's/a/b/' go.mod && grep -q module go.mod && V=$(awk '/^go /{print $2}' go.mod) && echo $V\n" + coverGo + coverFinal},
	{name: "update-ca-certificates", all: 8, ordinary: 5, dockerfile: coverBuild + coverGo + "FROM alpine:3.22\nRUN apk add ca-certificates && update-ca-certificates\nCOPY --from=build /out/app /app\n"},
	{name: "other coreutils", all: 8, ordinary: 6, dockerfile: coverBuild + "RUN ls -la && date && head -1 go.mod | tr a-z A-Z | tee x && touch y && find . -name '*.md' -delete && sha256sum go.mod\n" + coverGo + coverFinal},
	{name: "apt in the builder, tools", all: 8, ordinary: 6, dockerfile: coverBuild + "RUN apt-get update && apt-get install -y git ca-certificates\n" + coverGo + coverFinal},
	{name: "apt in the final stage, anything", all: 8, ordinary: 6, dockerfile: coverBuild + coverGo + "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y curl procps && apt-get clean\nCOPY --from=build /out/app /app\n"},
	{name: "scripts of the project", all: 10, ordinary: 5, dockerfile: coverBuild + "RUN chmod +x build.sh && ./build.sh\n" + coverFinal},
	{name: "apt in the builder, libraries and compilers", all: 7, ordinary: 5, dockerfile: coverBuild + "RUN apt-get update && apt-get install -y gcc libc6-dev libsqlite3-dev\n" + coverGo + coverFinal},
	{name: "curl, wget", all: 5, ordinary: 2, dockerfile: coverBuild + "RUN curl -fsSL -o x https://example.com/x && wget -q -O y https://example.com/y\n" + coverGo + coverFinal},
	{name: "tar, unzip", all: 8, ordinary: 6, dockerfile: coverBuild + "RUN curl -fsSL https://example.com/x.tgz | tar -xz -C /usr/local && unzip -q y.zip\n" + coverGo + coverFinal},
	{name: "a program that was built or copied", all: 6, ordinary: 2, dockerfile: coverBuild + coverGo + "RUN /out/app --generate\n" + coverFinal, late: true},
	{name: "xx helpers", all: 6, ordinary: 0, dockerfile: "FROM tonistiigi/xx:1.6.1 AS xx\n" + coverBuild + "COPY --from=xx / /\nRUN xx-go build -o /out/app .\n" + coverFinal, never: true},
	{name: "curl | sh", all: 6, ordinary: 3, dockerfile: coverBuild + "RUN curl -sSfL https://example.com/install.sh | sh -s -- -b /usr/local/bin v1.2.3\n" + coverGo + coverFinal, late: true},
	{name: "tools that go installs", all: 5, ordinary: 4, dockerfile: coverBuild + "RUN go install github.com/a-h/templ/cmd/templ@latest && templ generate\n" + coverGo + coverFinal, late: true},
	{name: "C compilers by name", all: 3, ordinary: 2, dockerfile: coverBuild + "RUN gcc -O2 -o helper helper.c && cmake --version\n" + coverGo + coverFinal},
	{name: "upx, strip", all: 3, ordinary: 3, dockerfile: coverBuild + "RUN apt-get update && apt-get install -y upx-ucl\n" + coverGo + "RUN upx --best /out/app\n" + coverFinal},
	{name: "dnf, yum", all: 3, ordinary: 0, dockerfile: "FROM redhat/ubi9 AS build\nRUN dnf install -y golang\n" + coverFinal, never: true},
	{name: "setcap", all: 3, ordinary: 1, dockerfile: coverBuild + coverGo + "FROM alpine:3.22\nRUN apk add --no-cache libcap\nCOPY --from=build /out/app /app\nRUN setcap cap_net_bind_service=+ep /app\n"},
	{name: "pip, python", all: 2, ordinary: 2, dockerfile: coverBuild + coverGo + "FROM python:3.13-alpine\nRUN pip install requests\nCOPY --from=build /out/app /app\n"},
	{name: "task runners", all: 2, ordinary: 1, dockerfile: coverBuild + "RUN task build\n" + coverFinal},
	{name: "usermod, groupmod", all: 3, ordinary: 1, dockerfile: coverBuild + coverGo + "FROM debian:bookworm-slim\nRUN groupmod -g 1000 users && useradd -m app && usermod -aG users app && passwd -l app\nCOPY --from=build /out/app /app\n"},
	{name: "ssh", all: 2, ordinary: 2, dockerfile: "# syntax=docker/dockerfile:1\n" + coverBuild + "RUN --mount=type=ssh go mod download\n" + coverGo + coverFinal},
	{name: "protoc", all: 1, ordinary: 1, dockerfile: coverBuild + "RUN protoc --go_out=. api.proto\n" + coverGo + coverFinal},
	{name: "everything else, Windows among it", all: 11, ordinary: 5},
}

// TestCoverage asks for the plan of one Dockerfile of each pattern, with the sandbox and
// without, and weighs the answers by how frequent the pattern is.
func TestCoverage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "anyarch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	packages := alpineMirror(t)
	conf := filepath.Join(t.TempDir(), "registries.conf")
	var text strings.Builder
	for _, name := range []string{"docker.io"} {
		fmt.Fprintf(&text, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", name, registry)
	}
	check(t, os.WriteFile(conf, []byte(text.String()), 0o644))
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/app\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n", "build.sh": "#!/bin/sh\nCGO_ENABLED=0 go build -o /out/app .\n"} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	plan := func(sandbox, text string) (bool, string) {
		file := filepath.Join(dir, "Dockerfile")
		check(t, os.WriteFile(file, []byte(text), 0o644))
		cmd := exec.Command(program, "plan", "-f", file, "--sandbox", sandbox, "--platform", "linux/amd64,linux/arm64", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf, "ANYARCH_ENGINE=native", "XDG_CACHE_HOME="+filepath.Join(dir, ".cache"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		return cmd.Run() == nil, stderr.String()
	}
	hasSandbox := true
	if ok, said := plan("require", coverBuild+coverGo+coverFinal); !ok && strings.Contains(said, "PA130") {
		t.Logf("no sandbox here: that half isn't measured\n%s", said)
		hasSandbox = false
	}
	type sums struct{ total, interpreted, sandboxed int }
	var all, ordinary sums
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-48s %9s %9s  %-12s %s\n", "what the Dockerfile needs", "all", "ordinary", "interpreter", "sandbox")
	for _, p := range patterns {
		interpreted, sandboxed := false, false
		if p.dockerfile != "" {
			standIn(t, root, packages, []byte(p.dockerfile))
			ok, said := plan("off", p.dockerfile)
			if interpreted = ok && !p.late && !p.never; !ok && !strings.Contains(said, "error[PA1") {
				t.Errorf("%s: %s", p.name, said)
			}
			if hasSandbox {
				ok, said := plan("require", p.dockerfile)
				if sandboxed = ok && !p.never; !ok && !strings.Contains(said, "error[PA1") {
					t.Errorf("%s: %s", p.name, said)
				}
			}
		}
		for _, s := range []struct {
			sums *sums
			n    int
		}{{&all, p.all}, {&ordinary, p.ordinary}} {
			s.sums.total += s.n
			if interpreted {
				s.sums.interpreted += s.n
			}
			if sandboxed {
				s.sums.sandboxed += s.n
			}
		}
		mark := map[bool]string{true: "yes", false: "refused"}
		fmt.Fprintf(&table, "%-48s %9d %9d  %-12s %s\n", p.name, p.all, p.ordinary, mark[interpreted], mark[sandboxed])
	}
	share := func(n, of int) float64 { return 100 * float64(n) / float64(of) }
	fmt.Fprintf(&table, "%-48s %8.1f%% %8.1f%%\n", "without a refusal, by interpreter and installer", share(all.interpreted, all.total), share(ordinary.interpreted, ordinary.total))
	fmt.Fprintf(&table, "%-48s %8.1f%% %8.1f%%\n", "without a refusal, with the sandbox", share(all.sandboxed, all.total), share(ordinary.sandboxed, ordinary.total))
	t.Log(table.String())
	if all.total != 459 || ordinary.total != 327 {
		t.Errorf("the table has %d and %d Dockerfiles", all.total, ordinary.total)
	}
	if share(ordinary.interpreted, ordinary.total) < 80 {
		t.Error("less than 80 % of ordinary Dockerfiles by interpreter and installer")
	}
	if hasSandbox && share(all.sandboxed, all.total) < 92 {
		t.Error("less than 92 % of Dockerfiles with the sandbox")
	}
}
