package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/anyarch/anyarch/internal/native/command"
)

// sandbox runs a command in namespaces of its own.
type sandbox struct {
	mu    sync.Mutex
	roots map[string]*rootUse // those with running commands
}

// rootUse is what the commands that run in one root share, such as the two of
// `go list ./... | go run ./gen`: a mount point that one removes would take away
// the mounts of the other.
type rootUse struct {
	commands int
	points   mountPoints
}

// enter makes the mount points of one more command. leave has to be called when it
// has ended.
func (r *sandbox) enter(root string, mounts []Mount) (leave func() error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	use := r.roots[root]
	if use == nil {
		use = &rootUse{}
		r.roots[root] = use
	}
	use.commands++
	leave = func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.release(root, use)
	}
	if err := use.points.make(root, mounts); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", root, errors.Join(err, r.release(root, use)))
	}
	return leave, nil
}

// release ends one use of a root; r is locked.
func (r *sandbox) release(root string, use *rootUse) error {
	if use.commands--; use.commands > 0 {
		return nil
	}
	delete(r.roots, root)
	return use.points.remove()
}

// spec is what the first process of a sandbox is told.
type spec struct {
	Root    string
	Mounts  []Mount
	Dir     string
	Program string
	Args    []string
	Env     []string
	Umask   int
	Network bool
	Probe   bool // set everything up and start nothing
}

// Name implements [Runner].
func (*sandbox) Name() string { return "sandbox" }

// Check implements [Runner]. In the sandbox a command may do what it likes.
func (*sandbox) Check([]*string, map[string]string) *command.Unsupported { return nil }

// newSandbox starts a sandbox once, since nothing else tells whether it works:
// namespaces may be made and then be of no use (AppArmor), or /proc may not be
// mounted (containers).
func newSandbox() (Runner, error) {
	root, err := os.MkdirTemp("", "anyarch-probe-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r := &sandbox{roots: map[string]*rootUse{}}
	if _, err := r.start(ctx, spec{Root: root, Mounts: system, Dir: "/", Probe: true}, Command{}); err != nil {
		return nil, err
	}
	return r, nil
}

func unavailableFix() []string {
	return []string{
		"sysctl kernel.apparmor_restrict_unprivileged_userns=0 kernel.unprivileged_userns_clone=1   # as root, where they exist",
		"docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …           # in a container",
		"--sandbox auto                                                                              # runs go with mapped paths",
	}
}

// system is what every sandbox has. The child knows what belongs there.
var system = []Mount{{Target: "/proc", Host: procFS, Tmpfs: true}, {Target: "/dev", Host: devFS, Tmpfs: true}}

// setUp are the capabilities that building the file system and locking it takes.
var setUp = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_SYS_CHROOT}

// What is in the Host of a Tmpfs that isn't empty: no path begins like this.
const procFS, devFS = "\x00proc", "\x00dev"

// Run implements [Runner].
func (r *sandbox) Run(ctx context.Context, c Command) (int, error) {
	if args, done := keepCaches(c); done {
		return 0, nil
	} else {
		c.Args = args
	}
	s := spec{Root: c.Root, Program: c.Program, Args: c.Args, Env: withProxy(c.Env, c.ProxyEnv), Umask: int(c.Umask.Perm()), Network: c.Network}
	if s.Program == "" {
		s.Program = c.Args[0]
	}
	if s.Umask == 0 {
		s.Umask = 0o022
	}
	mounts := slices.Clone(system)
	add := func(m Mount) {
		if m.Target != "" && (m.Host != "" || m.Tmpfs) {
			mounts = append(mounts, m)
		}
	}
	add(Mount{Host: c.Goroot, Target: c.GorootTarget, ReadOnly: true})
	add(Mount{Host: c.ModCache, Target: c.ModCacheTarget})
	add(Mount{Host: c.BuildCache, Target: c.BuildCacheTarget})
	if c.Network {
		for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				add(Mount{Host: name, Target: name, ReadOnly: true, File: true})
			}
		}
	}
	if c.CACerts != "" {
		if file, dir := ownCertificates(&c); file == "" && dir == "" {
			// Where Go looks anyway: a variable would be seen by programs that
			// a command starts.
			add(Mount{Host: c.CACerts, Target: certificates[0], ReadOnly: true, File: true})
		}
	}
	for _, m := range c.Mounts {
		if m.Tmpfs {
			m.Host = ""
		}
		add(m)
	}
	for i := range mounts {
		at, err := resolve(c.Root, mounts[i].Target)
		if err != nil {
			return 0, fmt.Errorf("mount %s: %w", mounts[i].Target, err)
		}
		if at == "/" {
			return 0, fmt.Errorf("mount %s: a mount can't replace the root", mounts[i].Target)
		}
		mounts[i].Target = at
	}
	// Outer mounts before inner ones; of two with one target the later wins.
	slices.SortStableFunc(mounts, func(a, b Mount) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})
	s.Mounts = mounts
	s.Dir = path.Clean("/" + c.Dir)
	return r.start(ctx, s, c)
}

// start makes the namespaces and waits for the end of everything in them.
func (r *sandbox) start(ctx context.Context, s spec, c Command) (exit int, err error) {
	leave, err := r.enter(s.Root, s.Mounts)
	if err != nil {
		return 0, err
	}
	defer func() {
		if lerr := leave(); err == nil && lerr != nil {
			err = fmt.Errorf("remove mount points from %s: %w", s.Root, lerr)
		}
	}()
	orders, ordersW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ordersW.Close() // the sandbox dies with this end, whatever happens to us
	defer orders.Close()
	report, reportW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	defer reportW.Close()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{reexec, "init"}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{orders, reportW}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		// One user is enough: owners are never read from the disk.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: c.UID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: c.GID, HostID: os.Getegid(), Size: 1}},
		Setsid:      true,
		Pdeathsig:   syscall.SIGKILL,
	}
	if c.UID != 0 {
		// Whoever isn't user 0 has no right after an exec that isn't ambient.
		cmd.SysProcAttr.AmbientCaps = setUp
	}
	if !s.Network {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	stdin, err := connect(cmd, c)
	if err != nil {
		return 0, err
	}
	// The signal at our death is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EUSERS) {
			err = errors.New("user namespaces are used up or switched off (sysctl user.max_user_namespaces)")
		}
		return 0, fmt.Errorf("make namespaces: %w", err)
	}
	stdin()
	orders.Close()
	reportW.Close()
	sent := json.NewEncoder(ordersW).Encode(s)
	failure, _ := io.ReadAll(io.LimitReader(report, 64<<10))
	err = cmd.Wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	text := string(failure)
	state := cmd.ProcessState
	switch {
	case strings.HasPrefix(text, ready):
		if err != nil && (state == nil || state.ExitCode() < 0) {
			return 0, fmt.Errorf("the sandbox ended early: %w", err)
		}
		return state.ExitCode(), nil
	case text != "":
		return 0, errors.New(text)
	case sent != nil:
		return 0, sent
	}
	return 0, fmt.Errorf("the sandbox didn't start: %w", cmp(err, io.ErrUnexpectedEOF))
}

func cmp(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// connect gives the child its standard streams. A terminal is never handed over:
// who has its descriptor can type into it. The function has to be called when the
// child has started.
func connect(cmd *exec.Cmd, c Command) (started func(), err error) {
	cmd.Stdout, cmd.Stderr = plain(c.Stdout), plain(c.Stderr)
	if f, ok := c.Stdin.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		cmd.Stdin = f
		return func() {}, nil
	}
	if c.Stdin == nil {
		return func() {}, nil
	}
	// exec.Cmd would wait until the reader ends, even if nobody reads.
	w, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return func() {
		go func() {
			_, _ = io.Copy(w, c.Stdin)
			_ = w.Close()
		}()
	}, nil
}

func plain(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return struct{ io.Writer }{f}
	}
	return w
}
