// Package command has the commands that a build stage's shell scripts may call,
// each on the stage's file tree: no command here starts a process or touches a
// file of the host.
//
// A command knows its options. One that it doesn't know is refused, before the
// build starts where the script says it literally and when the command is called
// where it was computed; it is never ignored.
package command

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/platform"
)

// Dialect is the shell and the set of tools that a stage has: the same command
// may behave differently in each.
type Dialect string

// The dialects.
const (
	Busybox Dialect = "busybox" // Alpine: ash and busybox applets
	GNU     Dialect = "gnu"     // Debian, Ubuntu and most others: dash or bash, coreutils
)

// Proc is one call of a command: everything it sees of the world.
type Proc struct {
	Tree     *filetree.Tree
	Dir      string            // working directory: canonical, absolute
	Env      map[string]string // the exported environment
	Args     []string          // Args[0] is the name it was called by
	Stdin    io.Reader         // never nil
	Stdout   io.Writer
	Stderr   io.Writer
	UID, GID int               // of the user who runs it; what it creates belongs to them
	Umask    fs.FileMode       // usually 022
	Platform platform.Platform // what uname and the like answer
	Dialect  Dialect
	Now      time.Time // the clock of the build, for date and the times of files

	// Run runs another command with this call's surroundings, as env, xargs and
	// find -exec do, and gives its exit code. An error is a refusal or a cancelled
	// context, and has to be returned as it is.
	Run func(ctx context.Context, p *Proc) (int, error)
}

// Path makes an argument an absolute path in the tree.
func (p *Proc) Path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	// A trailing slash means something to lookups; path.Join would drop it.
	joined := p.Dir + "/" + name
	if name == "" {
		return p.Dir
	}
	return joined
}

// Attr gives the attributes of a new file: owned by the user who runs the command,
// with the umask applied to perm (which may have fs.ModeDir).
func (p *Proc) Attr(perm fs.FileMode) filetree.Attr {
	return filetree.Attr{Mode: perm &^ p.Umask, UID: p.UID, GID: p.GID, ModTime: p.Now, Made: true}
}

// Errorf writes a message in the manner of Unix tools, "name: message", and gives
// exit code 1, so that a command can `return p.Errorf(…)`.
func (p *Proc) Errorf(format string, args ...any) (int, error) {
	_, _ = fmt.Fprintf(p.Stderr, path.Base(p.Args[0])+": "+format+"\n", args...)
	return 1, nil
}

// Func runs a command and gives its exit code. The error is for what ends the
// build: a *Unsupported, or a cancelled context. What an ordinary tool would
// report (a file that isn't there) is a message on Stderr and an exit code.
type Func func(ctx context.Context, p *Proc) (exit int, err error)

// Command is one command.
type Command struct {
	Name string
	// Check looks at the arguments before anything runs. A nil element of args
	// is one that isn't known yet (it has a variable or a substitution in it).
	// It gives nil or what can't be done. A nil Check accepts everything; such a
	// command reports what it can't do when it runs.
	Check func(args []*string) *Unsupported
	Run   Func
}

// Unsupported says that a command can't do here exactly what it was asked for.
type Unsupported struct {
	Command string // such as tar
	What    string // such as "option --use-compress-program"
	Fix     string // what to write instead; may be empty
}

func (u *Unsupported) Error() string {
	return fmt.Sprintf("%s: %s is not supported by the native engine", u.Command, u.What)
}

// Set is the commands of a stage by name.
type Set map[string]*Command
