package gobuild

import (
	"context"
	"debug/buildinfo"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// tree writes files and gives their directory. It is a repository of its own.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const hello = "package main\n\nvar version = \"none\"\n\nfunc main() { println(version) }\n"

// builder makes a Builder in dir whose user has the given environment, on top
// of what the go command needs to find its caches.
func builder(t *testing.T, dir string, environment map[string]string) *Builder {
	t.Helper()
	getenv := func(key string) string {
		if v, ok := environment[key]; ok {
			return v
		}
		switch key {
		case "HOME", "PATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOPATH", "USERPROFILE", "LOCALAPPDATA", "SYSTEMROOT", "TMPDIR", "TEMP":
			return os.Getenv(key)
		case "GOTOOLCHAIN":
			return "local"
		case "GOENV":
			return "off"
		}
		return ""
	}
	toolchain, err := gotool.Find(gotool.Options{Getenv: getenv, LookPath: exec.LookPath})
	if err != nil {
		t.Fatal(err)
	}
	return &Builder{Toolchain: toolchain, CacheDir: t.TempDir(), Dir: dir, Getenv: getenv}
}

func parse(t *testing.T, text string) platform.Platform {
	t.Helper()
	p, err := platform.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compile finds and builds patterns with the same flags for all.
func compile(t *testing.T, b *Builder, p platform.Platform, flags Flags, patterns ...string) ([]Package, *Programs, error) {
	t.Helper()
	packages, err := b.Packages(context.Background(), patterns, p, flags)
	if err != nil {
		return nil, nil, err
	}
	all := make([]Flags, len(packages))
	for i := range all {
		all[i] = flags
	}
	programs, err := b.Compile(context.Background(), packages, all, p)
	if err == nil {
		t.Cleanup(programs.Close)
	}
	return packages, programs, err
}

func setting(t *testing.T, file, key string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// The caller's shell must never decide what is compiled: other builders make
// v3 programs under a plain amd64 label, or amd64 programs for arm64.
func TestShellDoesNotLeak(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": hello})
	b := builder(t, dir, map[string]string{
		"GOOS": "windows", "GOARCH": "386", "GOAMD64": "v3", "GOARM64": "v9.0", "GOARM": "5", "CGO_ENABLED": "1",
		"GOEXPERIMENT": "rangefunc", "GODEBUG": "x=1", "CC": "/does/not/exist",
	})
	for name, want := range map[string]struct {
		machine    elf.Machine
		key, value string
	}{
		"linux/amd64":    {elf.EM_X86_64, "GOAMD64", "v1"},
		"linux/amd64/v3": {elf.EM_X86_64, "GOAMD64", "v3"},
		"linux/arm64":    {elf.EM_AARCH64, "GOARM64", "v8.0"},
		"linux/arm/v6":   {elf.EM_ARM, "GOARM", "6"},
	} {
		packages, programs, err := compile(t, b, parse(t, name), Flags{}, ".")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		file := programs.Path(packages[0])
		f, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != want.machine {
			t.Errorf("%s: machine is %s, want %s", name, f.Machine, want.machine)
		}
		f.Close()
		if got := setting(t, file, want.key); got != want.value {
			t.Errorf("%s: %s=%s, want %s", name, want.key, got, want.value)
		}
		if got := setting(t, file, "CGO_ENABLED"); got != "0" {
			t.Errorf("%s: CGO_ENABLED=%s", name, got)
		}
	}
}

// Hostile settings and repositories must not run code; each row did, or does,
// with a plain go build. The marker file tells.
func TestNothingOfTheRepositoryRuns(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the hostile program is a shell script")
	}
	t.Parallel()
	for name, attack := range map[string]struct {
		environment func(script string) map[string]string
		goenv       string // content of the user's go env file, %s is the script
		files       map[string]string
		refused     string // code, empty if the build succeeds
	}{
		"GOFLAGS toolexec":      {environment: func(s string) map[string]string { return map[string]string{"GOFLAGS": "-toolexec=" + s} }, refused: "PA117"},
		"GOFLAGS overlay":       {environment: func(string) map[string]string { return map[string]string{"GOFLAGS": "-overlay=/tmp/x"} }, refused: "PA117"},
		"GOFLAGS modfile":       {environment: func(string) map[string]string { return map[string]string{"GOFLAGS": "-modfile=/tmp/x"} }, refused: "PA117"},
		"go env file toolexec":  {goenv: "GOFLAGS=-toolexec=%s\n", refused: "PA117"},
		"GOCACHEPROG":           {environment: func(s string) map[string]string { return map[string]string{"GOCACHEPROG": s} }},
		"GOCACHEPROG in env":    {goenv: "GOCACHEPROG=%s\n"},
		"GOAUTH":                {environment: func(s string) map[string]string { return map[string]string{"GOAUTH": s} }},
		"CC":                    {environment: func(s string) map[string]string { return map[string]string{"CC": s, "CGO_ENABLED": "1"} }},
		"CC in go env":          {goenv: "CC=%s\nCGO_ENABLED=1\n"},
		"PKG_CONFIG":            {environment: func(s string) map[string]string { return map[string]string{"PKG_CONFIG": s} }},
		"fsmonitor in .git":     {files: map[string]string{".git/config": "[core]\n\tfsmonitor = SCRIPT\n\trepositoryformatversion = 0\n", ".git/HEAD": "ref: refs/heads/main\n", ".git/objects/x": "", ".git/refs/x": ""}},
		"GIT_SSH_COMMAND":       {environment: func(s string) map[string]string { return map[string]string{"GIT_SSH_COMMAND": s} }},
		"go:generate directive": {files: map[string]string{"gen.go": "package main\n\n//go:generate SCRIPT\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": hello}
			home := t.TempDir()
			marker := filepath.Join(home, "marker")
			script := filepath.Join(home, "script")
			if err := os.WriteFile(script, []byte("#!/bin/sh\ntouch "+marker+"\nexec \"$@\"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			for file, content := range attack.files {
				files[file] = strings.ReplaceAll(content, "SCRIPT", script)
			}
			environment := map[string]string{}
			if attack.environment != nil {
				environment = attack.environment(script)
			}
			if attack.goenv != "" {
				environment["GOENV"] = filepath.Join(home, "goenv")
				if err := os.WriteFile(environment["GOENV"], []byte(strings.ReplaceAll(attack.goenv, "%s", script)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b := builder(t, tree(t, files), environment)
			_, _, err := compile(t, b, parse(t, "linux/arm64"), Flags{}, ".")
			if code := codeOf(err); code != attack.refused {
				t.Errorf("refused with %q (%v), want %q", code, err, attack.refused)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("the program of the repository was started")
			}
		})
	}
}

func codeOf(err error) string {
	list := refusal.All(err)
	if len(list) == 0 {
		if err != nil {
			return err.Error()
		}
		return ""
	}
	return list[0].Code
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	module := "module example.com/m\n\ngo 1.24\n"
	for name, c := range map[string]struct {
		files    map[string]string
		pattern  string
		platform string
		flags    Flags
		code     string
		place    string
		says     string
	}{
		"not a main package":    {files: map[string]string{"lib/lib.go": "package lib\n"}, pattern: "./lib", code: "PA114", says: "is package lib"},
		"no program in pattern": {files: map[string]string{"lib/lib.go": "package lib\n"}, pattern: "./...", code: "PA114", says: "no main package"},
		"no such directory":     {pattern: "./cmd/nope", code: "PA115", says: "no such directory"},
		"no Go files":           {files: map[string]string{"docs/x.md": ""}, pattern: "./docs", code: "PA115", says: "no Go files"},
		"no module":             {files: map[string]string{"go.mod": ""}, pattern: "/", code: "PA115", says: "not in a Go module"},
		"a file":                {files: map[string]string{"main.go": hello}, pattern: "./main.go", code: "PA115", says: "not a file"},
		"no such import":        {files: map[string]string{"main.go": hello}, pattern: "example.com/other/cmd", code: "PA115"},
		"forgotten dot":         {files: map[string]string{"cmd/api/main.go": hello}, pattern: "cmd/api", code: "PA115", says: "written with ./"},
		"only on amd64": {
			files:   map[string]string{"main.go": "package main\n\nimport \"syscall\"\n\nfunc main() {\n\t_ = syscall.Iopl(3)\n}\n"},
			pattern: ".", platform: "linux/arm64", code: "PA112", place: "main.go:6:14", says: "undefined: syscall.Iopl",
		},
		"excluded by constraints": {
			files:   map[string]string{"main_amd64.go": hello},
			pattern: ".", platform: "linux/arm64", code: "PA112", says: "no Go file is for this platform",
		},
		"needs cgo": {
			files:   map[string]string{"main.go": "package main\n\nimport _ \"example.com/m/c\"\n\nfunc main() {}\n", "c/c.go": "package c\n\nimport \"C\"\n"},
			pattern: ".", platform: "linux/arm64", code: "PA111", place: "c/c.go:3", says: "needs cgo",
		},
		"missing module": {
			files:   map[string]string{"main.go": "package main\n\nimport _ \"example.com/missing/pkg\"\n\nfunc main() {}\n"},
			pattern: ".", code: "PA119",
		},
		"Go of the future":  {files: map[string]string{"go.mod": "module example.com/m\n\ngo 1.99\n", "main.go": hello}, pattern: ".", code: "PA121"},
		"replace outside":   {files: map[string]string{"go.mod": module + "\nreplace example.com/x => ../../x\n", "main.go": hello}, pattern: ".", code: "PA116", says: "replace example.com/x => ../../x"},
		"workspace outside": {files: map[string]string{"go.work": "go 1.24\n\nuse .\nuse ../elsewhere\n", "main.go": hello}, pattern: ".", code: "PA116", says: "use ../elsewhere"},
		"toolexec flag":     {files: map[string]string{"main.go": hello}, pattern: ".", flags: Flags{Extra: []string{"-toolexec=x"}}, code: "PA117"},
		"external linker":   {files: map[string]string{"main.go": hello}, pattern: ".", flags: Flags{LDFlags: []string{"-linkmode=external -extld=/bin/x"}}, code: "PA117"},
		"GOARCH as env":     {files: map[string]string{"main.go": hello}, pattern: ".", flags: Flags{Env: []string{"GOARCH=amd64"}}, code: "PA117", says: "the platform decides"},
		"cgo as env":        {files: map[string]string{"main.go": hello}, pattern: ".", flags: Flags{Env: []string{"CGO_ENABLED=1"}}, code: "PA113"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"go.mod": module}
			for file, content := range c.files {
				files[file] = content
			}
			b := builder(t, tree(t, files), map[string]string{"GOPROXY": "off"})
			if c.platform == "" {
				c.platform = "linux/amd64"
			}
			_, _, err := compile(t, b, parse(t, c.platform), c.flags, c.pattern)
			if codeOf(err) != c.code {
				t.Fatalf("got %v (%s), want %s", err, codeOf(err), c.code)
			}
			e := refusal.All(err)[0]
			if c.place != "" && e.Place != c.place {
				t.Errorf("place is %q, want %q", e.Place, c.place)
			}
			if !strings.Contains(e.Error()+strings.Join(e.Seen, "\n")+strings.Join(e.Fix, "\n"), c.says) {
				t.Errorf("%q doesn't say %q: %q", e.Error(), c.says, e)
			}
		})
	}
}

func TestManyPackages(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.24\n", "cmd/a/main.go": hello, "cmd/b/main.go": hello, "cmd/lib/lib.go": "package lib\n",
		"cmd/tool/v2/main.go": hello, "other/a/main.go": hello, "nested/go.mod": "module example.com/nested\n\ngo 1.24\n", "nested/main.go": hello,
	})
	b := builder(t, dir, nil)
	packages, programs, err := compile(t, b, parse(t, "linux/riscv64"), Flags{}, "./cmd/...", "./other/a", "./nested")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	seen := map[string]bool{}
	for _, pkg := range packages {
		names = append(names, pkg.ImportPath+"="+pkg.Name)
		file := programs.Path(pkg)
		if seen[file] {
			t.Errorf("%s shares its file with another program", pkg.ImportPath)
		}
		seen[file] = true
		if info, err := buildinfo.ReadFile(file); err != nil || info.Path != pkg.ImportPath {
			t.Errorf("%s: the program is %v, %v", pkg.ImportPath, info, err)
		}
	}
	want := []string{"example.com/m/cmd/a=a", "example.com/m/cmd/b=b", "example.com/m/cmd/tool/v2=tool", "example.com/m/other/a=a", "example.com/nested=nested"}
	if !slices.Equal(names, want) {
		t.Errorf("packages are %v, want %v", names, want)
	}
}

// Two runs with different flags at once must each get their own program: a
// peer's cache gives one of them the other's, every time.
func TestConcurrentFlags(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": hello})
	b := builder(t, dir, nil)
	p := parse(t, "linux/amd64")
	var wg sync.WaitGroup
	for _, version := range []string{"one-version", "two-version", "one-version", "two-version"} {
		wg.Go(func() {
			for range 3 {
				packages, programs, err := compile(t, b, p, Flags{LDFlags: []string{"-X main.version=" + version}}, ".")
				if err != nil {
					t.Error(err)
					return
				}
				data, err := os.ReadFile(programs.Path(packages[0]))
				programs.Close()
				if err != nil {
					t.Error(err)
					return
				}
				other := map[string]string{"one-version": "two-version", "two-version": "one-version"}[version]
				if !strings.Contains(string(data), version) || strings.Contains(string(data), other) {
					t.Errorf("the program of %s is another's", version)
				}
			}
		})
	}
	wg.Wait()
}

// The same sources and flags give the same program, wherever they lie.
func TestReproducible(t *testing.T) {
	t.Parallel()
	files := map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": hello}
	var first []byte
	for i := range 2 {
		b := builder(t, tree(t, files), nil)
		packages, programs, err := compile(t, b, parse(t, "linux/s390x"), Flags{}, ".")
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(programs.Path(packages[0]))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = data
		} else if string(first) != string(data) {
			t.Error("two directories give two programs")
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	b := builder(t, tree(t, map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": hello}), nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Packages(ctx, []string{"."}, parse(t, "linux/amd64"), Flags{}); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}
