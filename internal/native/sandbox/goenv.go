package sandbox

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// Environ gives the environment of a go command in a stage as a map: env, and below
// it what `go env -w` has written into the stage at root.
func Environ(root string, env []string) map[string]string {
	all := savedEnv(root, env)
	for _, kv := range withProxy(env, nil) {
		if k, v, ok := strings.Cut(kv, "="); ok && (v != "" || all[k] == "") {
			all[k] = v // to the go command an empty variable is none
		}
	}
	return all
}

// savedEnv reads the file of `go env -w`.
func savedEnv(root string, env []string) map[string]string {
	all := map[string]string{}
	name := envFile(env)
	if name == "off" {
		return all
	}
	at, err := resolve(root, name)
	if err != nil {
		return all
	}
	f, err := os.Open(inside(root, at))
	if err != nil {
		return all
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(k, "#") {
			all[k] = v
		}
	}
	return all
}

// envFile is where the go of a Linux stage keeps what `go env -w` writes, as a path
// of the stage; "off" if nowhere.
func envFile(env []string) string {
	if name := lookup(env, "GOENV"); name != "" {
		return name
	}
	config := lookup(env, "XDG_CONFIG_HOME")
	if config == "" {
		config = path.Join(home(env), ".config")
	}
	return path.Join(config, "go", "env")
}

func home(env []string) string {
	if h := lookup(env, "HOME"); strings.HasPrefix(h, "/") {
		return h
	}
	return "/root"
}

// blocked are the variables that make the go command run or use something that
// isn't the toolchain; they are refused unless the value says otherwise.
func blockedVariable(key, value, gorootTarget string) (why string) {
	if value == "" {
		return ""
	}
	switch key {
	case "GOCACHEPROG", "GCCGO", "GOTOOLDIR", "GOPACKAGESDRIVER":
		return "runs a program"
	case "GOAUTH":
		if authCommand(value) {
			return "runs a program"
		}
	case "GOROOT":
		if gorootTarget != "" && path.Clean(value) != path.Clean(gorootTarget) {
			return "names another toolchain"
		}
	case "CGO_ENABLED":
		if value != "0" {
			return "needs a C compiler"
		}
	case "GOTOOLCHAIN":
		if value != "local" && value != "auto" && !strings.HasPrefix(value, "local+") {
			return "names another toolchain"
		}
	case "GO111MODULE":
		if value == "off" {
			return "takes packages from GOPATH"
		}
	case "GOFIPS140", "GOFLAGS":
	}
	return ""
}

// checkGoFlags looks at the GOFLAGS of a stage, each of which is one word.
func checkGoFlags(value string) *command.Unsupported {
	known := buildFlags()
	for _, word := range splitQuoted(value) {
		name, val, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
		kind, ok := known[name]
		if name == "exec" || name == "vettool" {
			kind, ok = foreignFlag, true
		}
		if !ok {
			continue // of another command; what isn't known is no flag of build
		}
		if u := checkFlag(name, &val, kind); u != nil {
			u.What += " in GOFLAGS"
			return u
		}
		if kind == pathFlag && val != "auto" && val != "off" {
			return refuse("-"+name+" in GOFLAGS", "")
		}
	}
	return nil
}

// environment makes the environment of a go command in mapped mode. Only variables
// of Go and of the network are taken from the stage: nothing else changes what the
// toolchain makes, and some (DYLD_INSERT_LIBRARIES) would bring foreign code.
func (m *mapping) environment(l *goLine) ([]string, error) {
	c := m.c
	all := Environ(c.Root, c.Env)
	for key, value := range all {
		if why := blockedVariable(key, value, c.GorootTarget); why != "" {
			return nil, refuse(key+"="+value+" ("+why+")", "")
		}
	}
	if u := checkGoFlags(all["GOFLAGS"]); u != nil {
		return nil, u
	}
	env := map[string]string{}
	for key, value := range all {
		// What comes from the file of go env -w stays there: the go command reads it.
		if strings.HasPrefix(key, "GO") && lookup(c.Env, key) != "" {
			env[key] = value
		}
	}
	for _, kv := range withProxy(c.Env, c.ProxyEnv) {
		switch k, v, _ := strings.Cut(kv, "="); strings.ToUpper(k) {
		case "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY":
			env[k] = v
		}
	}
	for _, key := range []string{"GOROOT", "GOCOVERDIR", "GOTMPDIR", "GOBIN", "GOPATH", "GOMODCACHE", "GOCACHE", "GOENV"} {
		delete(env, key)
	}
	var failed error
	set := func(key, name string) {
		real, err := m.path(name)
		if err != nil && failed == nil {
			failed = err
		}
		env[key] = real
	}
	h := home(c.Env)
	set("HOME", h)
	set("TMPDIR", or(lookup(c.Env, "TMPDIR"), "/tmp"))
	for _, key := range []string{"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "NETRC"} {
		if v := lookup(c.Env, key); v != "" {
			set(key, v)
		}
	}
	if name := envFile(c.Env); name == "off" {
		env["GOENV"] = name
	} else {
		set("GOENV", name)
	}
	env["PATH"] = filepath.Join(c.Goroot, "bin") // no git, no compiler, no helper
	if runtime.GOOS == "windows" {
		env["SYSTEMROOT"] = os.Getenv("SYSTEMROOT") // without it no program starts there
		env["USERPROFILE"], env["TEMP"], env["TMP"] = env["HOME"], env["TMPDIR"], env["TMPDIR"]
		env["LOCALAPPDATA"], env["APPDATA"] = filepath.Join(env["HOME"], ".cache"), filepath.Join(env["HOME"], ".config")
	}
	if l.verb == "env" && (l.on("w") || l.on("u")) {
		// go env -w complains about variables that hide what it writes.
		return list(env), failed
	}

	// GOPATH may be a list, and a saved one is of the stage, so it is always given.
	var paths []string
	for p := range strings.SplitSeq(or(all["GOPATH"], path.Join(h, "go")), ":") {
		real, err := m.path(p)
		if err != nil {
			return nil, err
		}
		paths = append(paths, real)
	}
	env["GOPATH"] = strings.Join(paths, string(filepath.ListSeparator))
	for _, key := range []string{"GOBIN", "GOTMPDIR"} {
		if all[key] != "" {
			set(key, all[key])
		}
	}
	env["GOMODCACHE"], env["GOCACHE"] = c.ModCache, c.BuildCache
	if c.ModCache == "" {
		set("GOMODCACHE", or(all["GOMODCACHE"], path.Join(strings.Split(or(all["GOPATH"], path.Join(h, "go")), ":")[0], "pkg/mod")))
	}
	if c.BuildCache == "" {
		set("GOCACHE", or(all["GOCACHE"], path.Join(or(lookup(c.Env, "XDG_CACHE_HOME"), path.Join(h, ".cache")), "go-build")))
	}
	env["CGO_ENABLED"], env["GOTOOLCHAIN"] = "0", "local"
	if all["GOOS"] == "" {
		env["GOOS"] = "linux"
	}
	if proxy := all["GOPROXY"]; proxy != "" {
		mappedProxy, err := m.proxy(proxy)
		if err != nil {
			return nil, err
		}
		env["GOPROXY"] = mappedProxy
	}
	if !c.Network {
		env["GOPROXY"] = "off"
	}
	if l.verb != "env" {
		env["GOFLAGS"] = strings.TrimSpace(all["GOFLAGS"] + " -trimpath")
		// Not to be looked for above the root.
		env["GOWORK"] = or(m.work, "off")
	}
	file, dir := ownCertificates(&c)
	switch {
	case file != "" || dir != "":
		if file != "" {
			env["SSL_CERT_FILE"] = inside(c.Root, file)
		}
		if dir != "" {
			env["SSL_CERT_DIR"] = inside(c.Root, dir)
		}
	case c.CACerts != "":
		env["SSL_CERT_FILE"] = c.CACerts
	}
	return list(env), failed
}

// proxy maps the file:// entries of a GOPROXY.
func (m *mapping) proxy(value string) (string, error) {
	var b strings.Builder
	for value != "" {
		end := strings.IndexAny(value, ",|")
		entry, sep := value, ""
		if end >= 0 {
			entry, sep = value[:end], value[end:end+1]
		}
		value = value[len(entry)+len(sep):]
		if name, ok := strings.CutPrefix(entry, "file://"); ok {
			real, err := m.path(name)
			if err != nil {
				return "", err
			}
			entry = "file://" + filepath.ToSlash(real)
			if runtime.GOOS == "windows" {
				entry = "file:///" + filepath.ToSlash(real)
			}
		}
		b.WriteString(entry + sep)
	}
	return b.String(), nil
}

func or(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

func list(env map[string]string) []string {
	all := make([]string, 0, len(env))
	for k, v := range env {
		all = append(all, k+"="+v)
	}
	return all
}
