package shell

import (
	"runtime"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/expand"
)

// environ is what the interpreter asks for variables that the script hasn't set.
// The interpreter falls back to the host for some: its user, home directory and
// directory of temporary files, and other users' homes. Here they have answers.
type environ struct {
	sh    *session
	vars  map[string]expand.Variable
	ready bool // the interpreter has been set up
}

func newEnviron(sh *session) *environ {
	e := &environ{sh: sh, vars: map[string]expand.Variable{}}
	set := func(name, value string) {
		e.vars[name] = expand.Variable{Set: true, Exported: true, Kind: expand.String, Str: value}
	}
	for _, kv := range sh.o.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			set(name, value)
		}
	}
	for name, value := range map[string]string{"HOME": sh.o.Home, "USER": sh.o.User} {
		if _, ok := e.vars[name]; !ok && value != "" {
			set(name, value)
		}
	}
	plain := func(name, value string, readonly bool) {
		e.vars[name] = expand.Variable{Set: true, Kind: expand.String, Str: value, ReadOnly: readonly}
	}
	delete(e.vars, "_")
	switch sh.script.Dialect {
	case Bash:
		plain("UID", strconv.Itoa(sh.o.UID), true)
		plain("EUID", strconv.Itoa(sh.o.UID), true)
		if _, ok := e.vars["HOSTNAME"]; !ok {
			plain("HOSTNAME", "buildkitsandbox", false)
		}
	case Ash:
		if _, ok := e.vars["HOSTNAME"]; !ok {
			plain("HOSTNAME", "buildkitsandbox", false)
		}
	}
	return e
}

// Get implements expand.Environ.
func (e *environ) Get(name string) expand.Variable {
	if !e.ready {
		switch name {
		case "TMPDIR":
			// Files with a certain name in this directory are opened on the host,
			// so it is one that no script can name.
			dir := "/\x00"
			if runtime.GOOS == "windows" {
				dir = `C:\` + "\x00"
			}
			return expand.Variable{Set: true, Kind: expand.String, Str: dir}
		case "UID", "EUID", "GID", "HOME":
			return expand.Variable{Set: true, Kind: expand.String}
		}
	}
	if user, ok := strings.CutPrefix(name, "HOME "); ok {
		// ~user: without an answer the interpreter asks the host.
		home, found := e.sh.homeOf(user)
		if !found {
			home = "~" + user
		}
		return expand.Variable{Set: true, Kind: expand.String, Str: home}
	}
	return e.vars[name]
}

// Each implements expand.Environ.
func (e *environ) Each(do func(string, expand.Variable) bool) {
	for name, v := range e.vars {
		if !do(name, v) {
			return
		}
	}
}

// hiddenPrefix begins the variables that hold state of the shell for us, so that
// subshells have their own.
const (
	hiddenPrefix  = "__anyarch_"
	umaskVariable = hiddenPrefix + "umask"
	clobberOff    = hiddenPrefix + "noclobber"
)

// exported is the environment of a command.
func exported(env expand.Environ) map[string]string {
	out := map[string]string{}
	env.Each(func(name string, v expand.Variable) bool {
		if v.IsSet() && v.Exported && v.Kind == expand.String && !strings.HasPrefix(name, hiddenPrefix) {
			out[name] = v.Str
		} else {
			delete(out, name)
		}
		return true
	})
	return out
}

// quote writes a word so that a shell reads it as it is.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
