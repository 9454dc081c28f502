package gotool

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/refusal"
)

func find(t *testing.T, environment map[string]string) *Toolchain {
	t.Helper()
	if _, ok := environment["GOENV"]; !ok {
		environment["GOENV"] = "off"
	}
	tool, err := Find(Options{
		Getenv:   func(key string) string { return environment[key] },
		LookPath: func(string) (string, error) { return filepath.FromSlash("/opt/go/bin/go"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

// The whole environment of the go command, so that nothing joins it unseen.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("paths are written otherwise there")
	}
	hostile := map[string]string{
		"HOME": "/home/u", "GOPROXY": "https://proxy.example", "GOCACHE": "/c", "GOTOOLCHAIN": "go1.26.0", "HTTPS_PROXY": "http://p",
		"GOFLAGS": "-toolexec=/evil", "GOARCH": "386", "GOOS": "plan9", "GOAMD64": "v4", "GOEXPERIMENT": "x", "GODEBUG": "x=1", "GOCACHEPROG": "/evil",
		"GOAUTH": "/evil", "GOVCS": "*:all", "GOROOT": "/evil", "CC": "/evil", "CGO_ENABLED": "1", "CGO_CFLAGS": "-fplugin=/evil", "PKG_CONFIG": "/evil",
		"GIT_SSH_COMMAND": "/evil", "GIT_CONFIG_GLOBAL": "/evil", "LD_PRELOAD": "/evil.so", "PATH": "/evil:/bin", "GOWORK": "/evil", "AWS_SECRET_ACCESS_KEY": "s3cret",
	}
	got := find(t, hostile).Command(context.Background(), "/src", []string{"GOOS=linux"}, "build").Env
	want := []string{
		"GOCACHE=/c", "GOTOOLCHAIN=go1.26.0", "GOPROXY=https://proxy.example", "HOME=/home/u", "HTTPS_PROXY=http://p",
		"PATH=/opt/go/bin", "GOENV=off", "GOFLAGS=", "GOAUTH=netrc", "GOVCS=*:off", "GOTELEMETRY=off", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "TZ=UTC",
		"GOOS=linux", "PWD=/src",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestGoEnvFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\nGOPROXY=https://saved.example\nGOFLAGS=-mod=mod\nCC=/evil\nnonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool := find(t, map[string]string{"GOENV": file})
	if !slices.Contains(tool.env, "GOPROXY=https://saved.example") || slices.ContainsFunc(tool.env, func(kv string) bool { return strings.HasPrefix(kv, "CC=") }) {
		t.Errorf("environment is %q", tool.env)
	}
	if tool.GoFlags() != "-mod=mod" {
		t.Errorf("GOFLAGS is %q", tool.GoFlags())
	}
	if tool := find(t, map[string]string{"GOENV": file, "GOPROXY": "off"}); !slices.Contains(tool.env, "GOPROXY=off") {
		t.Error("the environment doesn't win over the file")
	}
}

func TestNoGo(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(string) (string, error){
		"absent":   func(string) (string, error) { return "", exec.ErrNotFound },
		"relative": func(string) (string, error) { return "./go", nil },
	} {
		_, err := Find(Options{Getenv: func(string) string { return "" }, LookPath: look})
		if list := refusal.All(err); len(list) != 1 || list[0].Code != "PA120" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestModuleRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	below := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ModuleRoot(below); !errors.Is(err, ErrNoModule) {
		t.Errorf("no module: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := ModuleRoot(below); err != nil || got != dir {
		t.Errorf("got %s, %v", got, err)
	}
}
