// Package daemon runs a BuildKit daemon for one user: started when it is wanted, and
// ended when nobody has used it for a while.
//
// The daemon is the buildkitd that is installed on the machine, with runc or crun; as
// an ordinary user it runs in rootlesskit. Starting them is what its user asked for by
// `anyarch builder start` or --engine buildkit, and nothing else starts them.
//
// A supervisor, which is this program again, starts buildkitd, holds a lock as long as
// it lives, and ends it when it is idle. Whoever finds the lock free knows that nothing
// runs.
package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/anyarch/anyarch/internal/buildkit"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Options say where a daemon lives and what it is.
type Options struct {
	Dir      string // of its state, of this user alone
	Config   string // a buildkitd.toml, empty for buildkitd's own default
	Idle     time.Duration
	LookPath func(string) (string, error)
	TempDir  string // for the socket, if the path in Dir would be too long
	// Supervisor is the command line that calls Supervise with the same options.
	Supervisor []string
}

// DefaultIdle is how long nobody has to use a daemon before it ends.
const DefaultIdle = 15 * time.Minute

// Status is what is known about the daemon.
type Status struct {
	Running bool
	PID     int // of the supervisor
	Address string
	Dir     string
}

func (o Options) lock() string { return filepath.Join(o.Dir, "lock") }
func (o Options) pid() string  { return filepath.Join(o.Dir, "pid") }
func (o Options) used() string { return filepath.Join(o.Dir, "used") }
func (o Options) log() string  { return filepath.Join(o.Dir, "log") }
func (o Options) root() string { return filepath.Join(o.Dir, "root") }

// maxSocket is the room for the path of a socket, less what buildkitd appends.
const maxSocket = 100

// socket is the path of the daemon's socket.
func (o Options) socket() string {
	path := filepath.Join(o.Dir, "sock")
	if len(path) <= maxSocket {
		return path
	}
	sum := sha256.Sum256([]byte(o.Dir))
	return filepath.Join(o.TempDir, "anyarch-"+strconv.Itoa(os.Getuid())+"-"+hex.EncodeToString(sum[:6]), "sock")
}

// Address is where the daemon answers, if it runs.
func (o Options) Address() string { return "unix://" + o.socket() }

// Look says whether the daemon runs.
func Look(o Options) (Status, error) {
	s := Status{Address: o.Address(), Dir: o.Dir}
	if _, err := os.Stat(o.lock()); err != nil {
		return s, nil
	}
	l := flock.New(o.lock())
	free, err := l.TryRLock() // those who look don't get in each other's way
	if err != nil {
		return s, err
	}
	if free {
		return s, l.Unlock()
	}
	s.Running = true
	data, err := os.ReadFile(o.pid())
	if err == nil {
		s.PID, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	}
	return s, nil
}

// Use marks the daemon as used now.
func (o Options) Use() {
	now := time.Now()
	if os.Chtimes(o.used(), now, now) != nil {
		_ = os.WriteFile(o.used(), nil, 0o600)
	}
}

// Endpoint is the daemon as an endpoint of builds.
func (o Options) Endpoint() buildkit.Endpoint {
	return buildkit.Endpoint{Address: o.Address(), Origin: "anyarch builder"}
}

func missing(what string, fix ...string) error {
	return &refusal.Error{Code: "PA146", Kind: refusal.Failed, Place: "anyarch builder start", Summary: what, Fix: fix}
}

// programs are what a daemon is made of.
type programs struct{ buildkitd, runtime, rootless string }

// find looks for the programs; each that is missing is named.
func (o Options) find() (programs, error) {
	var p programs
	var refused refusal.Collect
	var err error
	if p.buildkitd, err = o.LookPath("buildkitd"); err != nil {
		refused.Add(missing("buildkitd isn't installed", "https://github.com/moby/buildkit/releases", "--builder docker-container://buildkitd"))
	}
	if p.runtime, err = o.LookPath("runc"); err != nil {
		if p.runtime, err = o.LookPath("crun"); err != nil {
			refused.Add(missing("neither runc nor crun is installed", "apt-get install runc"))
		}
	}
	if os.Getuid() != 0 {
		if p.rootless, err = o.LookPath("rootlesskit"); err != nil {
			refused.Add(missing("rootlesskit isn't installed, which runs buildkitd without root", "apt-get install rootlesskit uidmap"))
		}
	}
	return p, refused.Err()
}

// arguments are the command line of the daemon.
func (o Options) arguments(p programs) []string {
	args := []string{p.buildkitd, "--root", o.root(), "--addr", o.Address(), "--oci-worker=true", "--containerd-worker=false", "--oci-worker-binary", p.runtime,
		"--otel-socket-path", filepath.Join(filepath.Dir(o.socket()), "otel")} // /run isn't everybody's, nor this daemon's alone
	if o.Config != "" {
		args = append(args, "--config", o.Config)
	}
	if p.rootless != "" {
		args = append([]string{p.rootless, "--net=host", "--copy-up=/etc"}, args...)
	}
	return args
}

// environment is that of the daemon: this process's, with a place for the state of runc
// where an ordinary user's session has none.
func (o Options) environment(p programs) ([]string, error) {
	env := os.Environ()
	if p.rootless == "" || os.Getenv("XDG_RUNTIME_DIR") != "" {
		return env, nil
	}
	dir := filepath.Join(o.Dir, "run")
	return append(env, "XDG_RUNTIME_DIR="+dir), os.MkdirAll(dir, 0o700)
}

// make makes the directories, for this user alone.
func (o Options) make() error {
	for _, dir := range []string{o.Dir, filepath.Dir(o.socket())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &refusal.Error{Code: "PA602", Place: dir, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
		}
		if err := private(dir); err != nil {
			return err
		}
	}
	return nil
}

// answer waits until the daemon answers. ended tells that it won't any more.
func (o Options) answer(ctx context.Context, ended func() bool) error {
	for {
		n, err := buildkit.Connect(ctx, o.Endpoint())
		if err == nil {
			return n.Close()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ended() {
			r := &refusal.Error{Code: "PA146", Kind: refusal.Failed, Place: o.log(), Summary: "buildkitd doesn't start", Fix: []string{"anyarch builder start --config buildkitd.toml"}}
			if text, err := os.ReadFile(o.log()); err == nil {
				r.Seen = cause(strings.Split(strings.TrimSpace(string(text)), "\n"))
			}
			return r
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// cause is what a log says about the end of a daemon: its own words, without the stack
// below them, or the last lines.
func cause(lines []string) []string {
	for i, l := range lines {
		if strings.HasPrefix(l, "buildkitd: ") {
			return lines[i : i+1]
		}
	}
	return lines[max(0, len(lines)-8):]
}
