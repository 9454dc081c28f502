package gobuild

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Flags of go build by what may be done with them.
var (
	// harmless flags change how go works, not what it makes; they are taken
	// over from GOFLAGS.
	harmless = []string{"-mod", "-modcacherw", "-p", "-v", "-x", "-n", "-a"}
	// settled flags are what this program does anyway, or decides itself.
	settled = []string{"-trimpath", "-buildvcs"}
	// ours have a flag of this program. In GOFLAGS they would change what one
	// user's shell builds, unseen by the next.
	ours = map[string]string{"-tags": "--go-tags", "-ldflags": "--ldflags"}
	// asked flags change the program and are taken when asked for by name.
	asked = []string{"-gcflags", "-asmflags", "-pgo", "-buildmode", "-gccgoflags"}
	// withC need a C compiler.
	withC = []string{"-race", "-msan", "-asan", "-cover", "-covermode", "-coverpkg"}
)

func flagName(flag string) (name, value string) {
	name, value, _ = strings.Cut(flag, "=")
	if strings.HasPrefix(name, "--") {
		name = name[1:]
	}
	return name, value
}

func forbidden(place, flag, why string, fix ...string) *refusal.Error {
	return &refusal.Error{
		Code: "PA117", Kind: refusal.Usage, Place: place,
		Summary: fmt.Sprintf("%s isn't allowed: %s", flag, why), Fix: fix,
	}
}

// checkGoFlags sorts the caller's GOFLAGS: harmless ones are kept, what would
// change the program must be said on the command line, what would run other
// code is refused.
func checkGoFlags(goflags string) ([]string, error) {
	var (
		kept    []string
		refused refusal.Collect
	)
	for _, flag := range strings.Fields(goflags) {
		name, value := flagName(flag)
		switch {
		case slices.Contains(settled, name):
		case name == "-n" || name == "-a":
			// They would print or repeat the work; nobody means that for good.
		case slices.Contains(harmless, name):
			if name != "-v" && name != "-x" {
				kept = append(kept, flag)
			}
		case ours[name] != "":
			refused.Add(forbidden("GOFLAGS", flag, "it would change the image without being said",
				fmt.Sprintf("%s %s", ours[name], shellQuote(value)), "and run with GOFLAGS= in front of the command"))
		case slices.Contains(asked, name), slices.Contains(withC, name):
			refused.Add(forbidden("GOFLAGS", flag, "it would change the image without being said",
				"--go-flag="+shellQuote(flag), "and run with GOFLAGS= in front of the command"))
		default:
			refused.Add(forbidden("GOFLAGS", flag, "it makes go run or read something that isn't part of the sources",
				"run with GOFLAGS= in front of the command, or go env -u GOFLAGS"))
		}
	}
	return kept, refused.Err()
}

// checkFlags accepts flags that were given by name.
func checkFlags(place string, flags []string, cgo bool) ([]string, error) {
	var (
		kept    []string
		refused refusal.Collect
	)
	for _, flag := range flags {
		name, value := flagName(flag)
		switch {
		case !strings.HasPrefix(flag, "-"):
			refused.Add(forbidden(place, flag, "a flag of go build starts with -", place+"=-"+flag))
		case slices.Contains(settled, name):
		case slices.Contains(harmless, name), slices.Contains(asked, name):
			kept = append(kept, flag)
		case ours[name] != "":
			refused.Add(forbidden(place, flag, "it has a flag of its own", fmt.Sprintf("%s %s", ours[name], shellQuote(value))))
		case slices.Contains(withC, name) && cgo:
			kept = append(kept, flag)
		case slices.Contains(withC, name):
			refused.Add(forbidden(place, flag, "it needs cgo", "--cc linux/amd64=gcc"))
		default:
			refused.Add(forbidden(place, flag, "only flags that change nothing but the compiled program are"))
		}
	}
	return kept, refused.Err()
}

// checkLDFlags refuses linker flags that start a host program.
func checkLDFlags(ldflags []string, cgo bool) error {
	var refused refusal.Collect
	for _, list := range ldflags {
		if strings.ContainsAny(list, "\n\r\x00") {
			refused.Add(forbidden("--ldflags", "a line break", "the linker takes one line"))
		}
		if cgo {
			continue
		}
		for _, field := range strings.Fields(list) {
			switch name, _ := flagName(strings.Trim(field, `'"`)); name {
			case "-extld", "-extldflags", "-extar", "-linkmode":
				if name == "-linkmode" && strings.HasSuffix(strings.Trim(list, `'"`), "internal") {
					continue
				}
				if name == "-extldflags" { // without an external linker it does nothing; scripts carry it along
					continue
				}
				refused.Add(forbidden("--ldflags", field, "it starts a linker of this machine", "--cc linux/arm64=aarch64-linux-gnu-gcc turns cgo on for one platform"))
			}
		}
	}
	return refused.Err()
}

// checkEnv accepts variables that change what Go compiles and nothing else.
func checkEnv(env []string) ([]string, error) {
	var refused refusal.Collect
	for _, kv := range env {
		key, value, found := strings.Cut(kv, "=")
		place := "--go-env " + key
		switch {
		case !found:
			refused.Add(forbidden(place, kv, "a variable is written KEY=value"))
		case slices.Contains([]string{"GOEXPERIMENT", "GOFIPS140", "CGO_CFLAGS", "CGO_LDFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS"}, key):
		case key == "CGO_ENABLED" && value == "0":
		case key == "CGO_ENABLED":
			refused.Add(&refusal.Error{
				Code: "PA113", Kind: refusal.Usage, Place: place, Summary: "cgo needs a C compiler per platform",
				Fix: []string{"--cc linux/amd64=gcc --cc linux/arm64=aarch64-linux-gnu-gcc"},
			})
		case slices.Contains([]string{"GOOS", "GOARCH", "GOARM", "GOARM64", "GOAMD64", "GO386", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64"}, key):
			refused.Add(forbidden(place, kv, "the platform decides it", "--platform linux/amd64/v3 sets GOAMD64=v3 and says so in the index"))
		default:
			refused.Add(forbidden(place, key, "only GOEXPERIMENT, GOFIPS140 and CGO_*FLAGS may be set for a build"))
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	return env, nil
}

// shellQuote makes a value safe to paste.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"$&|;<>()*?[]#~`\\!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
