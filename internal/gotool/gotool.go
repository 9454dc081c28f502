// Package gotool decides which Go toolchain compiles, and with which
// environment.
//
// A repository must not be able to run code of its own on the machine that
// builds it, and the machine must not be able to change what is built. So the
// environment of the go command is made from nothing: where the caches and the
// module proxy are comes from the user's own settings, everything that would
// choose code to run or change the program is left out or fixed.
package gotool

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/refusal"
)

// settings are what a user may set in the environment or with `go env -w`:
// where things are and how modules are had. None of them runs code or changes
// a program. GOTOOLCHAIN picks the toolchain, as go.mod does.
var settings = []string{
	"GOCACHE", "GOMODCACHE", "GOPATH", "GOTMPDIR", "GOTOOLCHAIN",
	"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE",
}

// surroundings are variables of the system, not of Go, that the go command
// needs to find its directories and the network. HOME is among them for
// .netrc, with which private module proxies are reached.
var surroundings = []string{
	"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR", "NETRC",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	// Windows
	"USERPROFILE", "LOCALAPPDATA", "APPDATA", "SYSTEMROOT", "TEMP", "TMP",
}

// Toolchain is a go command and the environment it runs in. It is immutable and
// safe for concurrent use.
type Toolchain struct {
	path    string
	env     []string // without a platform
	goflags string   // the user's GOFLAGS, for the caller to check
}

// Options say where a toolchain and its settings are looked for.
type Options struct {
	Getenv   func(string) string // the caller's environment
	LookPath func(string) (string, error)
}

// Find looks for the go command on the caller's PATH and reads the caller's
// settings. Without a go command it is a [refusal.Error] with code PA120.
func Find(o Options) (*Toolchain, error) {
	path, err := o.LookPath("go")
	if err == nil && !filepath.IsAbs(path) {
		err = exec.ErrDot
	}
	if err != nil {
		return nil, &refusal.Error{
			Code: "PA120", Place: "PATH", Summary: "there is no go command", Err: err,
			Seen: []string{err.Error()},
			Fix:  []string{"install Go from https://go.dev/dl and put its bin directory on PATH"},
		}
	}
	saved := readEnvFile(o.Getenv)
	get := func(key string) string {
		if v := o.Getenv(key); v != "" {
			return v
		}
		return saved[key]
	}
	t := &Toolchain{path: path, goflags: get("GOFLAGS")}
	for _, key := range settings {
		if v := get(key); v != "" {
			t.env = append(t.env, key+"="+v)
		}
	}
	for _, key := range surroundings {
		if v := o.Getenv(key); v != "" {
			t.env = append(t.env, key+"="+v)
		}
	}
	t.env = append(t.env,
		// Only Go's own directory: no git, no C compiler, no helper is found.
		"PATH="+filepath.Dir(path),
		"GOENV=off", "GOFLAGS=", "GOAUTH=netrc", "GOVCS=*:off", "GOTELEMETRY=off", "GIT_TERMINAL_PROMPT=0",
		"LC_ALL=C", "TZ=UTC",
	)
	return t, nil
}

// readEnvFile reads what `go env -w` wrote (go help environment).
func readEnvFile(getenv func(string) string) map[string]string {
	file := getenv("GOENV")
	if file == "off" {
		return nil
	}
	if file == "" {
		config := getenv("XDG_CONFIG_HOME")
		switch {
		case runtime.GOOS == "windows":
			config = getenv("APPDATA")
		case runtime.GOOS == "darwin":
			config = filepath.Join(getenv("HOME"), "Library", "Application Support")
		case config == "":
			config = filepath.Join(getenv("HOME"), ".config")
		}
		file = filepath.Join(config, "go", "env")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	values := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, found := strings.Cut(strings.TrimSpace(lines.Text()), "="); found && !strings.HasPrefix(key, "#") {
			values[key] = value
		}
	}
	return values
}

// Path is the go command.
func (t *Toolchain) Path() string { return t.path }

// Home is the GOROOT that the go command belongs to; false if it stands alone, as a
// script that chooses among several does.
func (t *Toolchain) Home() (dir string, ok bool) {
	resolved, err := filepath.EvalSymlinks(t.path)
	if err != nil {
		return "", false
	}
	dir = filepath.Dir(filepath.Dir(resolved))
	if info, err := os.Stat(filepath.Join(dir, "VERSION")); err != nil || !info.Mode().IsRegular() {
		return "", false
	}
	info, err := os.Stat(filepath.Join(dir, "pkg", "tool"))
	return dir, err == nil && info.IsDir()
}

// Settings are the caller's settings of the go command, as KEY=value.
func (t *Toolchain) Settings() []string {
	var list []string
	for _, key := range settings {
		if v := t.Setting(key); v != "" {
			list = append(list, key+"="+v)
		}
	}
	return list
}

// GoFlags is the caller's GOFLAGS. They never reach the go command: see
// gobuild, which takes over the harmless ones and refuses the others.
func (t *Toolchain) GoFlags() string { return t.goflags }

// Identity says what, besides sources and flags, decides what this toolchain
// makes: its path, its modification time, and GOTOOLCHAIN.
func (t *Toolchain) Identity() string {
	id := t.path
	if resolved, err := filepath.EvalSymlinks(t.path); err == nil {
		id = resolved
	}
	if info, err := os.Stat(id); err == nil {
		id += " " + info.ModTime().UTC().Format(time.RFC3339Nano)
	}
	if i := slices.IndexFunc(t.env, func(kv string) bool { return strings.HasPrefix(kv, "GOTOOLCHAIN=") }); i >= 0 {
		id += " " + t.env[i]
	}
	return id
}

// WithCacheProg gives the toolchain with a helper program of this program's own for
// the build cache (GOCACHEPROG; Go 1.24 and later).
func (t *Toolchain) WithCacheProg(command string) *Toolchain {
	with := *t
	with.env = append(slices.Clone(t.env), "GOCACHEPROG="+command)
	return &with
}

// Command prepares `go args…` in dir. extra wins over the toolchain's own
// environment. When ctx ends the go command is killed, with everything
// that it has started.
func (t *Toolchain) Command(ctx context.Context, dir string, extra []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(t.env, extra, []string{"PWD=" + dir})
	cmd.WaitDelay = 3 * time.Second
	ownGroup(cmd)
	return cmd
}

// Tool prepares a program of a toolchain, such as its compiler, as the go command would
// start it: args[0] is its path, and goroot the root that it belongs to.
func (t *Toolchain) Tool(ctx context.Context, goroot, dir string, extra, args []string) *exec.Cmd {
	cmd := t.Command(ctx, dir, slices.Concat([]string{"GOROOT=" + goroot}, extra), args[1:]...)
	cmd.Path, cmd.Args[0] = args[0], args[0]
	return cmd
}

// ErrNoModule is what [ModuleRoot] wraps where there is no go.mod.
var ErrNoModule = errors.New("no go.mod here or above")

// ModuleRoot walks up from dir to the directory with a go.mod.
func ModuleRoot(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(filepath.Join(d, "go.mod")); err == nil && !info.IsDir() {
			return d, nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
		if d == filepath.Dir(d) {
			return "", ErrNoModule
		}
	}
}
