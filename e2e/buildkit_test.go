//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// kitTool is a program for RUN lines: it says who it was made for, and waits if told.
const kitTool = `package main

import (
	"os"
	"runtime"
	"time"
)

func main() {
	if len(os.Args) > 2 {
		d, _ := time.ParseDuration(os.Args[2])
		time.Sleep(d)
	}
	if os.WriteFile(os.Args[1], []byte(runtime.GOARCH), 0o644) != nil {
		os.Exit(1)
	}
}
`

// kit is what tests of the BuildKit engine share: two platforms that one machine runs.
type kit struct {
	program, dir   string
	registry, root string // its address and directory
}

func newKit(t *testing.T) *kit {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("it takes a machine that runs two platforms: amd64 and 386")
	}
	built, err := kitPrograms()
	check(t, err)
	k := &kit{program: filepath.Join(built, "anyarch"), dir: t.TempDir()}
	k.registry, k.root = start(t)
	for _, name := range []string{"tool-amd64", "tool-386"} {
		check(t, os.Link(filepath.Join(built, name), filepath.Join(k.dir, name)))
	}
	return k
}

// kitPrograms builds anyarch and the tool for both platforms, once for all tests.
var kitPrograms = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "anyarch-kit-"); err != nil {
		return "", err
	}
	atExit = append(atExit, func() { _ = os.RemoveAll(dir) })
	source := filepath.Join(dir, "tool.go")
	if err := os.WriteFile(source, []byte(kitTool), 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "anyarch"), "../cmd/anyarch").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	for _, arch := range []string{"amd64", "386"} {
		if err := goTool(filepath.Join(dir, "tool-"+arch), source, arch); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// goTool builds a static program of one file.
func goTool(program, source, arch string) error {
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, source)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// file writes a Dockerfile.
func (k *kit) file(t *testing.T, name, text string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o644))
}

func (k *kit) command(args ...string) *exec.Cmd {
	cmd := exec.Command(k.program, args...)
	cmd.Dir = k.dir
	cmd.Env = append(os.Environ(), "BUILDKIT_HOST=", "DOCKER_CONFIG="+filepath.Join(k.dir, "docker"))
	return cmd
}

// run runs anyarch, which has to end as ok says, and gives what it wrote.
func (k *kit) run(t *testing.T, ok bool, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := k.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); (err == nil) != ok {
		t.Fatalf("anyarch %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), errs.String()
}

// tagged reports whether the registry has a tag.
func (k *kit) tagged(t *testing.T, repository, tag string) bool {
	t.Helper()
	resp, err := http.Get("http://" + k.registry + "/v2/" + repository + "/manifests/" + tag)
	check(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	check(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode == http.StatusOK
}

const kitDockerfile = `FROM scratch
ARG TARGETARCH
COPY tool-$TARGETARCH /bin/tool
RUN ["/bin/tool", "/made"]
ENTRYPOINT ["/bin/tool", "/tmp/x"]
`

// TestBuildKit builds by daemons of the test's own: which engine is chosen, where each
// platform goes, and what comes back.
func TestBuildKit(t *testing.T) {
	peers(t)
	daemon := buildkittest.Start(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	on := []string{"-f", "Dockerfile", "--platform", "linux/amd64,linux/386", "--progress", "plain", "--builder", daemon.Address}

	t.Run("reproducible", func(t *testing.T) {
		first, log := k.run(t, true, append([]string{"build", "--engine", "buildkit", "--output", "oci:first", "."}, on...)...)
		if !strings.Contains(log, "2/2 platforms") {
			t.Error(log)
		}
		second, _ := k.run(t, true, append([]string{"build", "--engine", "buildkit", "--output", "oci:second", "--no-cache", "."}, on...)...)
		_, a, _ := strings.Cut(first, "@")
		_, b, _ := strings.Cut(second, "@")
		if a != b {
			t.Errorf("built twice, the digests are %s and %s", a, b)
		}
	})
	t.Run("auto", func(t *testing.T) {
		// The native engine can't run /bin/tool of an image.
		_, log := k.run(t, true, append([]string{"build", "--output", "oci:auto", "."}, on...)...)
		if !strings.Contains(log, "engine buildkit: the native engine refuses Dockerfile:4") {
			t.Errorf("it isn't said which engine builds and why:\n%s", log)
		}
		_, log = k.run(t, false, "build", "-f", "Dockerfile", "--platform", "linux/amd64", "--output", "oci:none", ".")
		if !strings.Contains(log, "/bin/tool") || !strings.Contains(log, "--engine buildkit") || !strings.Contains(log, "anyarch builder start") {
			t.Errorf("without a builder the refusal stands, and says what helps:\n%s", log)
		}
		_, log = k.run(t, false, "build", "-f", "Dockerfile", "--platform", "linux/amd64", "--output", "oci:none", "--builder", "unix://"+filepath.Join(k.dir, "no.sock"), ".")
		if !strings.Contains(log, "PA141") || !strings.Contains(log, "/bin/tool") {
			t.Errorf("a builder that is away, and the refusal:\n%s", log)
		}
		_, log = k.run(t, false, "build", "-f", "Dockerfile", "--engine", "native", "--cache-to", "type=inline", ".")
		if !strings.Contains(log, "PA148") {
			t.Errorf("a flag of BuildKit's with the native engine:\n%s", log)
		}
	})
	t.Run("plan", func(t *testing.T) {
		out, _ := k.run(t, true, append([]string{"plan", "."}, on...)...)
		for _, want := range []string{"engine     buildkit", "Dockerfile:4", daemon.Address, "linux/386", "native on"} {
			if !strings.Contains(out, want) {
				t.Errorf("plan doesn't say %q:\n%s", want, out)
			}
		}
	})
	t.Run("failure", func(t *testing.T) {
		k.file(t, "Fails", strings.Replace(kitDockerfile, `"/made"`, `"/no/such/directory"`, 1))
		_, log := k.run(t, false, append([]string{"build", "--engine", "buildkit", "--output", "oci:fails", "-f", "Fails", "."}, on[2:]...)...)
		if !strings.Contains(log, "PA145") || !strings.Contains(log, "Fails:4") {
			t.Errorf("the line isn't named:\n%s", log)
		}
	})
	t.Run("wrong program", func(t *testing.T) {
		k.file(t, "Wrong", strings.Replace(kitDockerfile, "tool-$TARGETARCH", "tool-amd64", 1))
		_, log := k.run(t, false, append([]string{"publish", "--engine", "buildkit", "-t", k.registry + "/kit/wrong:1", "-f", "Wrong", "."}, on[2:]...)...)
		if !strings.Contains(log, "PA201") || !strings.Contains(log, "linux/386") || !strings.Contains(log, "Wrong:3") {
			t.Errorf("a program of another platform isn't found, or not the line that brought it:\n%s", log)
		}
		if k.tagged(t, "kit/wrong", "1") {
			t.Error("it was published")
		}
	})
	t.Run("attestations", func(t *testing.T) {
		count := func(reference string) (images, attestations int) {
			resp, err := http.Get("http://" + k.registry + "/v2/kit/attested/manifests/" + reference)
			check(t, err)
			defer resp.Body.Close()
			var index struct {
				Manifests []struct {
					Platform    struct{ OS string }
					Annotations map[string]string
				}
			}
			check(t, json.NewDecoder(resp.Body).Decode(&index))
			for _, m := range index.Manifests {
				if m.Platform.OS == "unknown" {
					if m.Annotations["vnd.docker.reference.digest"] == "" {
						t.Error("an attestation of nothing")
					}
					attestations++
				} else {
					images++
				}
			}
			return images, attestations
		}
		args := append([]string{"publish", "--engine", "buildkit", "-t", k.registry + "/kit/attested:1", "."}, on...)
		k.run(t, true, args...)
		if i, a := count("1"); i != 2 || a != 0 {
			t.Errorf("%d images and %d attestations, which nobody asked for", i, a)
		}
		k.run(t, true, append(slices.Clone(args), "--provenance", "mode=max", "-t", "2")...)
		if i, a := count("2"); i != 2 || a != 2 {
			t.Errorf("%d images and %d attestations", i, a)
		}
	})
	t.Run("pass through", func(t *testing.T) {
		k.file(t, "Secret", `FROM scratch AS extra
COPY tool-amd64 /tool
FROM scratch
ARG TARGETARCH
COPY --from=more tool-$TARGETARCH /bin/tool
RUN --mount=type=secret,id=s,required=true,target=/secret ["/bin/tool", "/made"]
RUN --network=host ["/bin/tool", "/again"]
COPY --from=layout /bin/tool /bin/other
ENTRYPOINT ["/bin/tool", "/tmp/x"]
`)
		args := append([]string{"build", "--engine", "buildkit", "-f", "Secret", "--build-context", "more=" + k.dir, "--build-context", "layout=oci-layout://first", "--output", "oci:secret", "."}, on[2:]...)
		_, log := k.run(t, false, args...)
		if !strings.Contains(log, "network.host") {
			t.Errorf("an entitlement that wasn't given:\n%s", log)
		}
		args = append(args, "--allow", "network.host")
		_, log = k.run(t, false, args...)
		if !strings.Contains(log, "secret") {
			t.Errorf("a secret that wasn't given:\n%s", log)
		}
		k.file(t, "token", "x")
		args = append(args, "--secret", "id=s,src=token", "--cache-to", "type=local,dest="+filepath.Join(k.dir, "cache"), "--compression", "zstd", "--compression-level", "5", "--label", "a=b", "--annotation", "c=d")
		k.run(t, true, args...)
		for _, p := range []string{"linux-amd64", "linux-386"} {
			if _, err := os.Stat(filepath.Join(k.dir, "cache", p, "index.json")); err != nil {
				t.Errorf("the cache of a platform: %v", err)
			}
		}
		fresh := buildkittest.Start(t)
		_, log = k.run(t, true, append(slices.Clone(args), "--builder", fresh.Address, "--cache-from", "type=local,src="+filepath.Join(k.dir, "cache"))...)
		if !strings.Contains(log, "2/2 platforms") {
			t.Error(log)
		}
	})
}

// TestBuildKitNodes spreads two platforms over two daemons, and kills one in the middle.
func TestBuildKitNodes(t *testing.T) {
	peers(t)
	k := newKit(t)
	k.file(t, "Slow", strings.Replace(kitDockerfile, `"/made"`, `"/made", "3s"`, 1))
	// until starts a publish and calls do when the program of linux/386 runs.
	until := func(t *testing.T, tag string, do func(), builders ...string) (string, error) {
		t.Helper()
		args := []string{"publish", "--engine", "buildkit", "-f", "Slow", "--platform", "linux/amd64,linux/386", "--progress", "rawjson", "-t", k.registry + "/kit/nodes:" + tag}
		for _, b := range builders {
			args = append(args, "--builder", b)
		}
		cmd := k.command(append(args, ".")...)
		stderr, err := cmd.StderrPipe()
		check(t, err)
		check(t, cmd.Start())
		var log strings.Builder
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			log.WriteString(lines.Text() + "\n")
			var event struct{ Platform, State, Message string }
			if json.Unmarshal(lines.Bytes(), &event) == nil && event.Platform == "linux/386" && event.State == "started" && strings.Contains(event.Message, "RUN") && do != nil {
				do()
				do = nil
			}
		}
		return log.String(), cmd.Wait()
	}
	x86, amd64 := buildkittest.Start(t), buildkittest.Start(t)
	log, err := until(t, "spread", nil, x86.Address+"=linux/386", amd64.Address+"=linux/amd64")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for platform, node := range map[string]string{"linux/386": x86.Address, "linux/amd64": amd64.Address} {
		found := false
		for line := range strings.Lines(log) {
			found = found || strings.Contains(line, `"platform":"`+platform+`"`) && strings.Contains(line, "RUN") && strings.Contains(line, node) && strings.Contains(line, `"done"`)
		}
		if !found {
			t.Errorf("the program of %s wasn't run on %s:\n%s", platform, node, log)
		}
	}
	log, err = until(t, "retried", x86.Kill, x86.Address+"=linux/386", amd64.Address+"=linux/amd64,linux/386")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if !strings.Contains(log, "PA143") || !k.tagged(t, "kit/nodes", "retried") {
		t.Errorf("a lost builder isn't said, or the tag isn't there:\n%s", log)
	}
	last := buildkittest.Start(t)
	log, err = until(t, "lost", last.Kill, last.Address)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(log, "PA143") {
		t.Errorf("with no builder left: %v\n%s", err, log)
	}
	if k.tagged(t, "kit/nodes", "lost") {
		t.Error("a tag moved although a platform is missing")
	}
}

// TestEngines builds a few Dockerfiles of testdata/oracle with both engines and compares
// the images: every file with its attributes, and the config. What may differ is what may
// differ from BuildKit's own client; see TestOracle.
func TestEngines(t *testing.T) {
	peers(t)
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	buildkittest.Need(t)
	k := newKit(t)
	daemon := buildkittest.Start(t, k.registry)
	im := &images{}
	o := &oracles{
		program: k.program, registry: k.registry, bases: newBases(k.root, im), images: im,
		allowed: readRules(t, "allowed.txt"), allowedBuildKit: readRules(t, "allowed-buildkit.txt"),
	}
	check(t, o.configure(t.TempDir()))
	for _, name := range []string{"scratch", "config", "copy-context", "multi-stage", "scripts", "workdir-user"} {
		c := readCase(t, filepath.Join("testdata", "oracle", name+".txtar"))
		t.Run(c.name, func(t *testing.T) {
			for name, base := range map[string]func(*testing.T){"alpine:3.22": o.bases.alpine, "onbuild:1": o.bases.onbuild} {
				if strings.Contains(c.text, name) {
					o.bases.alpine(t)
					base(t)
				}
			}
			dir := filepath.Join(t.TempDir(), "context")
			check(t, c.write(dir))
			one := func(engine string) *result {
				out := filepath.Join(t.TempDir(), engine)
				cmd := exec.Command(k.program, append([]string{"build", "-f", "Dockerfile", "--platform", "linux/amd64", "--engine", engine, "--builder", daemon.Address, "--output", "oci:" + out, "."}, c.args...)...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+o.conf)
				if text, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("--engine %s: %v\n%s", engine, err, text)
				}
				return o.images.read(t, out, imageOf(t, out))
			}
			o.differ(t, c, "the engines", compare(one("native"), one("buildkit")), o.allowedBuildKit)
		})
	}
}

// kitGo stands for the go command, since compiling takes minutes in a container: it
// "builds" the tool for the GOARCH that it is told, else for its own.
const kitGo = `package main

import (
	"os"
	"runtime"
)

func main() {
	arch := os.Getenv("GOARCH")
	if arch == "" {
		arch = runtime.GOARCH
	}
	data, err := os.ReadFile("/tools/tool-" + arch)
	for i, arg := range os.Args {
		if arg == "-o" && err == nil {
			err = os.WriteFile(os.Args[i+1], data, 0o755)
		}
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
`

// TestBuildKitPinned builds for a platform that no builder runs: only cross-compiled.
func TestBuildKitPinned(t *testing.T) {
	peers(t)
	shell := busybox()
	if shell == "" {
		t.Skip("busybox isn't installed, which is the shell of the builder stage")
	}
	k := newKit(t)
	daemon := buildkittest.Start(t, k.registry)
	for _, c := range []struct{ name, arch, source string }{{"tool-riscv64", "riscv64", kitTool}, {"go", "amd64", kitGo}} {
		source := filepath.Join(t.TempDir(), "main.go")
		check(t, os.WriteFile(source, []byte(c.source), 0o644))
		check(t, goTool(filepath.Join(k.dir, c.name), source, c.arch))
	}
	data, err := os.ReadFile(shell)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(k.dir, "sh"), data, 0o755))
	on := []string{"--engine", "buildkit", "--builder", daemon.Address + "=linux/amd64"}
	k.file(t, "Foreign", strings.ReplaceAll(kitDockerfile, "$TARGETARCH", "riscv64"))
	_, log := k.run(t, false, append([]string{"build", "-f", "Foreign", "--platform", "linux/riscv64", "--output", "oci:none", "."}, on...)...)
	if !strings.Contains(log, "PA142") || !strings.Contains(log, "Foreign:4") {
		t.Errorf("a program of a platform that nobody runs:\n%s", log)
	}
	k.file(t, "Base", "FROM scratch\nCOPY sh /bin/sh\nCOPY go /bin/go\n")
	k.run(t, true, append([]string{"publish", "-f", "Base", "--platform", "linux/amd64", "-t", k.registry + "/kit/golang:1", "."}, on...)...)
	k.file(t, "Dockerfile", `FROM `+k.registry+`/kit/golang:1 AS builder
COPY tool-* /tools/
RUN go build -o /app .
FROM scratch
COPY --from=builder /app /bin/app
ENTRYPOINT ["/bin/app", "/tmp/x"]
`)
	args := append([]string{"build", "-f", "Dockerfile", "--platform", "linux/amd64,linux/riscv64", "--output", "oci:out", "."}, on...)
	if _, log := k.run(t, false, args...); !strings.Contains(log, "linux/riscv64") {
		t.Errorf("a builder stage of a platform that there is no image for:\n%s", log)
	}
	k.run(t, true, append(slices.Clone(args), "--pin-builders")...)
	if out, _ := k.run(t, true, "verify", "out"); !strings.Contains(out, "linux/riscv64") {
		t.Error(out)
	}
	k.run(t, true, "fix", "--write", "Dockerfile")
	k.run(t, true, append(slices.Clone(args), "--output", "oci:fixed")...)
	if out, _ := k.run(t, true, "verify", "fixed"); !strings.Contains(out, "linux/riscv64") {
		t.Error(out)
	}
}
