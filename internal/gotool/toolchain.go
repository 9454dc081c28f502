package gotool

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Setting is the value of one of the go command's settings that the caller has,
// in the environment or by go env -w; empty if it has none.
func (t *Toolchain) Setting(name string) string {
	value := ""
	for _, kv := range t.env {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			value = v
		}
	}
	return value
}

// Caches are the directories of the module cache and of the build cache
// (GOMODCACHE, GOCACHE).
func (t *Toolchain) Caches() (modules, builds string) {
	home := t.Setting("HOME")
	if runtime.GOOS == "windows" {
		home = t.Setting("USERPROFILE")
	}
	if modules = t.Setting("GOMODCACHE"); modules == "" {
		gopath, _, _ := strings.Cut(t.Setting("GOPATH"), string(os.PathListSeparator))
		if gopath == "" {
			gopath = filepath.Join(home, "go")
		}
		modules = filepath.Join(gopath, "pkg", "mod")
	}
	if builds = t.Setting("GOCACHE"); builds == "" {
		switch {
		case runtime.GOOS == "windows":
			builds = filepath.Join(t.Setting("LOCALAPPDATA"), "go-build")
		case runtime.GOOS == "darwin":
			builds = filepath.Join(home, "Library", "Caches", "go-build")
		case t.Setting("XDG_CACHE_HOME") != "":
			builds = filepath.Join(t.Setting("XDG_CACHE_HOME"), "go-build")
		default:
			builds = filepath.Join(home, ".cache", "go-build")
		}
	}
	return modules, builds
}

// Network are the caller's settings of where modules come from, as KEY=value: they
// can't change what a module is, since checksums are compared.
func (t *Toolchain) Network() []string {
	var list []string
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE"} {
		if v := t.Setting(name); v != "" {
			list = append(list, name+"="+v)
		}
	}
	return list
}

// Proxies are the caller's proxies, as KEY=value.
func (t *Toolchain) Proxies() []string {
	var list []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		if v := t.Setting(name); v != "" {
			list = append(list, name+"="+v)
		}
	}
	return list
}

// oldest is the first version that there is a toolchain module of.
const oldest = "1.21.0"

var released = regexp.MustCompile(`^1\.\d+(\.\d+)?$`)

// CheckVersion says, without asking anybody, that no toolchain can be fetched of a
// version: a refusal.Error with code PA131.
func CheckVersion(version string) error {
	if !released.MatchString(version) || semver.Compare("v"+version, "v"+oldest) < 0 {
		return &refusal.Error{Code: "PA131", Place: "go" + version, Summary: "there is no toolchain to be fetched of this Go version",
			Seen: []string{"toolchains can be fetched from Go " + oldest + " on, of releases"},
			Fix:  []string{"--go-version 1.21.13", "FROM golang:1.21 or newer"}}
	}
	return nil
}

// Root gives the root directory of an exact Go version, such as 1.25.4. If it
// isn't here the go command fetches it, as the module golang.org/toolchain, and
// checks it against the checksum database. A version that there is no such module
// of is a refusal.Error with code PA131, one that can't be fetched PA133.
func (t *Toolchain) Root(ctx context.Context, version string) (string, error) {
	if err := CheckVersion(version); err != nil {
		return "", err
	}
	modules, _ := t.Caches()
	root := filepath.Join(modules, "golang.org", "toolchain@v0.0.1-go"+version+"."+runtime.GOOS+"-"+runtime.GOARCH)
	if isRoot(root, version) {
		return root, nil
	}
	cmd := t.Command(ctx, os.TempDir(), []string{"GOTOOLCHAIN=go" + version, "GOWORK=off", "GO111MODULE=on"}, "env", "GOROOT")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if root = strings.TrimSpace(string(out)); err == nil && isRoot(root, version) {
		return root, nil
	}
	seen := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if strings.Contains(stderr.String(), "toolchain not available") {
		return "", &refusal.Error{Code: "PA131", Place: "go" + version, Summary: "there is no toolchain to be fetched of this Go version", Seen: seen, Err: err,
			Fix: []string{"--go-version with a version of https://go.dev/dl"}}
	}
	if err == nil {
		seen = []string{fmt.Sprintf("go env GOROOT gave %s", root)}
	}
	return "", &refusal.Error{Code: "PA133", Kind: refusal.Unavailable, Place: "go" + version, Summary: "the Go toolchain of the builder image can't be fetched", Seen: seen, Err: err,
		Fix: []string{"GOTOOLCHAIN=go" + version + " go version", "--go-version with a version that is here"}}
}

// isRoot reports whether a directory has this very version.
func isRoot(dir, version string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "VERSION"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(data), "\n")
	if strings.TrimSpace(first) != "go"+version {
		return false
	}
	name := "go"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	info, err := os.Stat(filepath.Join(dir, "bin", name))
	return err == nil && info.Mode().IsRegular()
}
