package sandbox

import (
	"path"
	"regexp"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// fix is what helps against everything that only the sandbox can do.
const fix = "a Linux machine that allows user namespaces (anyarch explain PA130)"

// refuse says what mapped can't do.
func refuse(what, instead string) *command.Unsupported {
	return &command.Unsupported{Command: "go", What: what + " without the sandbox", Fix: or(instead, fix)}
}

// Check implements [Runner].
func (mapped) Check(args []*string, env map[string]string) *command.Unsupported {
	if len(args) == 0 || args[0] == nil {
		return nil
	}
	if name := *args[0]; path.Base(name) != "go" {
		return &command.Unsupported{Command: name, What: "running a program of the stage without the sandbox", Fix: fix}
	}
	for key, value := range env {
		if why := blockedVariable(key, value, ""); why != "" && key != "GOROOT" {
			return refuse(key+"="+value+" ("+why+")", "")
		}
	}
	if u := checkGoFlags(env["GOFLAGS"]); u != nil {
		return u
	}
	l := readGo(args)
	return l.check(args)
}

// check says what of a command line mapped can't do.
func (l *goLine) check(args []*string) *command.Unsupported {
	for _, f := range l.flags {
		if f.name == "h" || f.name == "help" {
			return refuse("help", "")
		}
	}
	if l.verb == "" {
		if l.open {
			return nil
		}
		return refuse("go without a command", "")
	}
	v, ok := verb(l.verb)
	if !ok {
		switch l.verb {
		case "run", "generate", "test", "tool":
			return refuse("go "+l.verb+" (it starts programs that aren't part of the toolchain)", "")
		}
		return refuse("go "+l.verb, "")
	}
	for _, f := range l.flags {
		kind := v.flags[f.name]
		if kind == unknownFlag && l.verb == "vet" && analyzer.MatchString(f.name) {
			continue
		}
		if u := checkFlag(f.name, f.value, kind); u != nil {
			return u
		}
	}
	for _, i := range l.rest {
		if args[i] == nil {
			continue
		}
		arg := *args[i]
		switch {
		case v.args == insideArgs && (path.IsAbs(arg) || strings.HasPrefix(path.Clean(arg), "..")):
			return refuse("go "+l.verb+" "+arg+" (the path would be written down)", "")
		case l.verb == "env" && l.on("w"):
			key, value, _ := strings.Cut(arg, "=")
			if why := blockedVariable(key, value, ""); why != "" && key != "CGO_ENABLED" {
				return refuse("go env -w "+arg+" ("+why+")", "")
			}
			if key == "CC" || key == "CXX" || key == "AR" || key == "FC" || key == "PKG_CONFIG" || strings.HasPrefix(key, "CGO_") && (key != "CGO_ENABLED" || value != "0") {
				return refuse("go env -w "+arg+" (needs a C compiler)", "")
			}
			if key == "GOFLAGS" {
				if u := checkGoFlags(value); u != nil {
					return u
				}
			}
		}
	}
	return nil
}

// analyzer is the name of one of vet's own flags.
var analyzer = regexp.MustCompile(`^[a-z]+(\.[a-z]+)?$`)

// checkFlag says why a flag can't be used; value is nil if it isn't known or there
// is none.
func checkFlag(name string, value *string, kind flagKind) *command.Unsupported {
	switch kind {
	case unknownFlag:
		return refuse("flag -"+name, "")
	case foreignFlag:
		return refuse("flag -"+name+" (it runs a program)", "")
	case outsideFlag:
		return refuse("flag -"+name+" (it leads to other files)", "")
	case imitatedFlag:
		return refuse("flag -"+name+" (it would show paths of this machine)", "")
	case cgoFlag:
		if value != nil && *value == "false" {
			return nil
		}
		return refuse("flag -"+name+" (it needs a C compiler)", "")
	case toolFlags:
		if value == nil {
			return nil
		}
		if found, foreign := strangeToolFlag(name, *value); found != "" {
			why := " (it may name a file)"
			if foreign {
				why = " (it runs a linker)"
			}
			return refuse(found+" in -"+name+why, "")
		}
	}
	if name == "compiler" && value != nil && *value != "gc" {
		return refuse("flag -compiler="+*value, "")
	}
	return nil
}

// sharedCaches are the switches of go clean that empty caches.
var sharedCaches = []string{"cache", "testcache", "modcache", "fuzzcache"}

// keepCaches takes from `go clean -cache -modcache` and the like what would empty
// caches that other stages, other platforms and the user work with: they are
// nowhere in the stage's files, so for the stage they are clean. done tells that
// nothing is left to do.
func keepCaches(c Command) (args []string, done bool) {
	if len(c.Args) == 0 || !isGo(c.Args[0], c.GorootTarget) {
		return c.Args, false
	}
	words := make([]*string, len(c.Args))
	for i := range c.Args {
		words[i] = &c.Args[i]
	}
	l := readGo(words)
	if l.verb != "clean" {
		return c.Args, false
	}
	drop := map[int]bool{}
	for _, name := range sharedCaches {
		for _, f := range l.flags {
			if f.name == name && f.in != f.at || f.name == name && f.value != nil {
				drop[f.at] = true
			}
		}
	}
	if len(drop) == 0 {
		return c.Args, false
	}
	rest := false
	for i, arg := range c.Args {
		if !drop[i] {
			args = append(args, arg)
			rest = rest || i > 1
		}
	}
	return args, !rest
}
