package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/refusal"
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	os.Exit(runTests(m))
}

// canary is in the environment of the tests: no command may see it.
const canary = "ANYARCH_TEST_CANARY=hunter2"

// machine is what the tests take from this machine, its Go, and a build cache that
// spares them to compile the standard library each time.
var machine struct{ goroot, buildCache string }

func runTests(m *testing.M) int {
	if key, value, ok := strings.Cut(canary, "="); ok {
		if err := os.Setenv(key, value); err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	machine.buildCache = dir
	cmd := exec.Command("go", "env", "GOROOT")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOENV=off", "HOME="+dir)
	if out, err := cmd.Output(); err == nil {
		machine.goroot = strings.TrimSpace(string(out))
	}
	return m.Run()
}

// stage is a root directory like that of a golang image.
type stage struct {
	t    *testing.T
	root string
	mod  string
}

func newStage(t *testing.T, files map[string]string) *stage {
	t.Helper()
	if machine.goroot == "" {
		t.Skip("no go command")
	}
	s := &stage{t: t, root: filepath.Join(t.TempDir(), "root"), mod: t.TempDir()}
	t.Cleanup(func() {
		// Where processes aren't contained, go's telemetry may still write its counters
		// after go has ended.
		for range 100 {
			if os.RemoveAll(s.root) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	for _, dir := range []string{"src", "tmp", "root", "etc", "go", "usr/local"} {
		if err := os.MkdirAll(filepath.Join(s.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		s.write(name, text)
	}
	return s
}

func (s *stage) write(name, text string) {
	s.t.Helper()
	name = filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) link(to, name string) {
	s.t.Helper()
	_ = os.Remove(filepath.Join(s.root, name))
	if err := os.Symlink(to, filepath.Join(s.root, name)); err != nil {
		s.t.Skipf("no symbolic links: %v", err)
	}
}

func (s *stage) command(args ...string) Command {
	if args[0] == "go" {
		args[0] = "/usr/local/go/bin/go"
	}
	return Command{
		Root: s.root, Dir: "/src", Args: args,
		Env:    []string{"PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin", "GOPATH=/go", "GOTOOLCHAIN=local", "HOME=/root", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOPROXY=off"},
		Goroot: machine.goroot, GorootTarget: "/usr/local/go",
		ModCache: s.mod, ModCacheTarget: "/go/pkg/mod", BuildCache: machine.buildCache, BuildCacheTarget: "/root/.cache/go-build",
	}
}

// result is what a command did.
type result struct {
	exit           int
	err            error
	stdout, stderr string
}

func run(t *testing.T, r Runner, c Command) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	exit, err := r.Run(ctx, c)
	return result{exit, err, out.String(), errs.String()}
}

func (r result) ok(t *testing.T) result {
	t.Helper()
	if r.err != nil || r.exit != 0 {
		t.Fatalf("exit %d, %v\n%s%s", r.exit, r.err, r.stdout, r.stderr)
	}
	return r
}

// both runs a test with each runner that works here.
func both(t *testing.T, f func(t *testing.T, r Runner)) {
	t.Helper()
	t.Run("mapped", func(t *testing.T) {
		t.Parallel()
		f(t, mapped{})
	})
	t.Run("sandbox", func(t *testing.T) {
		t.Parallel()
		f(t, sandboxed(t))
	})
}

func sandboxed(t *testing.T) Runner {
	t.Helper()
	r, err := newSandbox()
	if err != nil {
		t.Skipf("no sandbox here: %v", err)
	}
	return r
}

// entries lists everything in a root.
func (s *stage) entries() []string {
	s.t.Helper()
	var all []string
	err := filepath.WalkDir(s.root, func(name string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(s.root, name); rel != "." {
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

const hello = "package main\n\nfunc main() { println(\"hello\") }\n"

var module = map[string]string{"src/go.mod": "module example.com/m\n\ngo 1.25\n", "src/main.go": hello}

func TestBuild(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		s := newStage(t, module)
		before := s.entries()
		run(t, r, s.command("go", "build", "-o", "/app", "-ldflags", "-s -w", ".")).ok(t)
		if info, err := os.Stat(filepath.Join(s.root, "app")); err != nil || info.Mode()&0o111 == 0 {
			t.Fatalf("no program: %v", err)
		}
		if err := os.Remove(filepath.Join(s.root, "app")); err != nil {
			t.Fatal(err)
		}
		var after []string
		for _, name := range s.entries() {
			if !strings.HasPrefix(name, "root/.config") { // the go command's own notes, as in a container
				after = append(after, name)
			}
		}
		if got, want := strings.Join(after, "\n"), strings.Join(before, "\n"); got != want {
			t.Errorf("left in the root:\n%s\nbefore:\n%s", got, want)
		}
	})
}

// What a stage is told about paths are the stage's.
func TestPaths(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		s := newStage(t, module)
		got := run(t, r, s.command("go", "env", "GOPATH", "GOMODCACHE", "GOCACHE", "GOENV", "GOROOT", "GOMOD", "GOFLAGS")).ok(t).stdout
		want := "/go\n/go/pkg/mod\n/root/.cache/go-build\n/root/.config/go/env\n/usr/local/go\n/src/go.mod\n-buildvcs=false\n"
		if got != want {
			t.Errorf("go env: got\n%swant\n%s", got, want)
		}
		if got := run(t, r, s.command("go", "list", "-f", "{{.Dir}} {{.Root}}", "./...")).ok(t).stdout; got != "/src /src\n" {
			t.Errorf("go list: %q", got)
		}
		if got := run(t, r, s.command("go", "list", "-f", "{{.Dir}}", "/src/...")).ok(t).stdout; got != "/src\n" {
			t.Errorf("go list of an absolute path: %q", got)
		}
		if got := run(t, r, s.command("go", "list", "-json=Dir,GoFiles", ".")).ok(t).stdout; !strings.Contains(got, `"Dir": "/src"`) {
			t.Errorf("go list -json: %s", got)
		}
	})
}

func TestRequire(t *testing.T) {
	t.Parallel()
	r, note, err := New(Auto)
	if err != nil || r.Name() == "mapped" && note == "" || r.Name() == "sandbox" && note != "" {
		t.Errorf("auto: %v %q %v", r, note, err)
	}
	if r, _, err := New(Off); err != nil || r.Name() != "mapped" {
		t.Errorf("off: %v %v", r, err)
	}
	if required, _, err := New(Require); r.Name() == "mapped" {
		if list := refusal.All(err); len(list) != 1 || list[0].Code != "PA130" {
			t.Errorf("require: %v", err)
		}
	} else if err != nil || required.Name() != "sandbox" {
		t.Errorf("require: %v %v", required, err)
	}
	if _, _, err := New("maybe"); refusal.All(err) == nil {
		t.Error("an unknown mode is taken")
	}
}

func unsupported(err error) bool {
	_, ok := errors.AsType[*command.Unsupported](err)
	return ok
}
