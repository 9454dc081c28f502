// Package sandbox runs one program of the host inside the root directory of a
// build stage: the Go toolchain and, where that is safe, programs that the stage
// itself brings.
//
// There are two ways. The sandbox (Linux) puts the process into namespaces of its
// own, where the stage's directory is the whole file system and every path is the
// one that a container would have. Where that isn't allowed, and on other systems,
// mapped runs the go commands that start nothing but the toolchain, with the paths
// they are given turned into those of the directory, and on Linux with Landlock
// around them. What mapped can't do exactly it refuses.
package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Mount is a file or directory of the host that a command sees.
type Mount struct {
	Host     string // of the host; unused for Tmpfs
	Target   string // absolute, canonical in the root
	ReadOnly bool
	Tmpfs    bool // an empty directory that is dropped afterwards
	File     bool // Host is a file
}

// Command is one program to run.
type Command struct {
	// Root is the host directory that is the stage's root file system. Every
	// directory in it has to be writable for the caller: the process has no
	// capability that would override permissions. Its symbolic links have to
	// lead to places inside (the sandbox sees nothing else anyway).
	Root string
	Dir  string   // working directory: absolute, in the root
	Args []string // Args[0] is the name that the program sees as its own
	// Program is its absolute path in the root, such as /usr/local/go/bin/go; Args[0]
	// if empty.
	Program string
	Env     []string // complete; nothing of the host's environment is added
	// UID and GID are those that the process sees as its own. In the root everything
	// belongs to them; on the host it is the caller.
	UID, GID int
	Umask    fs.FileMode // 022 if zero

	Goroot       string // host directory of the toolchain; appears read-only at GorootTarget
	GorootTarget string // usually /usr/local/go

	// Host directories of the two caches, and where the stage's go looks for
	// them (GOMODCACHE, GOCACHE). Both are writable: give directories of its own
	// to a [Foreign] command.
	ModCache, BuildCache             string
	ModCacheTarget, BuildCacheTarget string

	Mounts  []Mount
	Network bool
	// CACerts is a PEM file of the host that the process trusts if the stage has
	// no certificates itself. It is at no place that outlives the process.
	CACerts  string
	ProxyEnv []string // HTTP_PROXY and the like: KEY=value, for this process only

	Stdin          io.Reader // nil is empty
	Stdout, Stderr io.Writer // nil discards
}

// Runner runs commands. It is safe for concurrent use, also by commands that share
// a Root, as those of a pipeline do; nothing but commands may change a Root
// meanwhile.
type Runner interface {
	// Name is "sandbox" or "mapped".
	Name() string
	// Check says what of a command line can't be done, before anything runs. args
	// begins with "go" or the path of a program; nil words aren't known yet. env is
	// what is known of the environment.
	Check(args []*string, env map[string]string) *command.Unsupported
	// Run runs a command and gives its exit code: 127 and 126 for a program that
	// isn't there or can't be executed, 128+n for one that a signal ended. When
	// ctx ends, all that it has started is killed and the error is the context's
	// cause. A *command.Unsupported is what Check would have said, had it known.
	Run(ctx context.Context, c Command) (exit int, err error)
}

// Mode says which runner is wanted.
type Mode string

// The modes.
const (
	Auto    Mode = "auto"    // the sandbox where it works
	Require Mode = "require" // the sandbox or nothing
	Off     Mode = "off"     // mapped
)

// reexec is the name by which this program knows that it was started by itself.
const reexec = "anyarch-sandbox"

// New gives the runner of a mode. Whether the sandbox works here is found out by
// starting one. note says, in one line, why it fell back to mapped. The error is a
// [refusal.Error] with code PA130 if the sandbox is required and not to be had.
func New(mode Mode) (r Runner, note string, err error) {
	if os.Args[0] == reexec {
		panic("sandbox: Main has to be called first of all in main and TestMain")
	}
	switch mode {
	case Off:
		return mapped{}, "", nil
	case Auto, Require, "":
	default:
		return nil, "", &refusal.Error{
			Code: "PA130", Kind: refusal.Usage, Place: "--sandbox " + string(mode), Summary: "there is no such way to run the toolchain",
			Fix: []string{"--sandbox auto", "--sandbox require", "--sandbox off"},
		}
	}
	r, err = newSandbox()
	if err == nil {
		return r, "", nil
	}
	if mode == Require {
		return nil, "", &refusal.Error{
			Code: "PA130", Place: "--sandbox require", Summary: "the sandbox isn't available here", Seen: []string{err.Error()}, Err: err,
			Fix: unavailableFix(),
		}
	}
	return mapped{}, "no sandbox (" + err.Error() + "): go commands run with mapped paths and -trimpath", nil
}

// errSystem is why there is no sandbox where there are no namespaces.
var errSystem = errors.New("it needs Linux")

// isGo tells whether a program is the go command, by the path it is called with.
func isGo(program, gorootTarget string) bool {
	return program == "go" || gorootTarget != "" && program == strings.TrimSuffix(gorootTarget, "/")+"/bin/go"
}

// lookup gives the value of a variable.
func lookup(env []string, key string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(env[i], "="); ok && k == key {
			return v
		}
	}
	return ""
}

// withProxy adds the proxy variables that the stage hasn't set itself. Of a
// variable that is there twice the last counts, wherever it is read.
func withProxy(env, proxy []string) []string {
	all := make([]string, 0, len(env)+len(proxy))
	seen := map[string]bool{}
	for _, kv := range slices.Backward(env) {
		k, _, _ := strings.Cut(kv, "=")
		if !seen[k] {
			seen[k] = true
			all = append(all, kv)
		}
	}
	slices.Reverse(all)
	for _, kv := range proxy {
		if k, _, ok := strings.Cut(kv, "="); ok && !seen[k] {
			all = append(all, kv)
		}
	}
	return all
}
