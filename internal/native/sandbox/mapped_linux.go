package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// cage is what the child of mapped is told: what may be touched, and what to run.
type cage struct {
	Args, Env []string
	ReadWrite []string // directories without the right to execute what is in them
	Build     []string // with it: vet and others are built and run there
	Tools     []string // to read and execute
	Files     []string // to read
	Network   bool
}

// confines tells whether Landlock works here, which makes links out of the root
// lead nowhere. Its first version forbade to rename from one directory into
// another; it's of no use to go.
func confines() bool {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return e == 0 && version >= 2
}

// command prepares a child that locks itself in and becomes the go command.
func (m *mapping) command(ctx context.Context, args, env []string, dir string) (cmd *exec.Cmd, done func(), err error) {
	c := m.c
	j := cage{Args: args, Env: env, ReadWrite: []string{c.Root, c.ModCache}, Build: []string{c.BuildCache}, Tools: []string{c.Goroot}, Network: c.Network}
	if c.Network {
		j.Files = []string{
			"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
			"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", c.CACerts,
		}
	}
	orders, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Dir = []string{reexec, "mapped"}, []string{}, dir
	cmd.ExtraFiles = []*os.File{orders}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = json.NewEncoder(w).Encode(j)
		_ = w.Close()
	}()
	return cmd, func() {
		_ = orders.Close() // a child that never read lets the writer go
		<-sent
		// The go command may have left something behind that still runs.
		if cmd.Process != nil {
			_ = killGroup(cmd.Process.Pid)
		}
	}, nil
}

func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	} else {
		return err
	}
}

// mappedMain locks this process in and becomes the go command.
func mappedMain() {
	runtime.LockOSThread()
	fail := func(what string, err error) {
		_, _ = fmt.Fprintf(os.Stderr, "anyarch: %s: %v\n", what, err)
		os.Exit(125)
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		for fd := 3; fd < 1024; fd++ {
			unix.CloseOnExec(fd)
		}
	}
	orders := os.NewFile(ordersFD, "orders")
	var j cage
	if err := json.NewDecoder(io.LimitReader(orders, 16<<20)).Decode(&j); err != nil {
		fail("read orders", err)
	}
	if err := j.lock(); err != nil {
		fail("landlock", err)
	}
	unix.Umask(0o022)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		fail("limit", err)
	}
	fail("start "+j.Args[0], syscall.Exec(j.Args[0], j.Args, j.Env))
}

// lock applies Landlock as far as this kernel has it.
func (j *cage) lock() error {
	if !confines() {
		return nil
	}
	const (
		read  = landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR)
		write = landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
			unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
			unix.LANDLOCK_ACCESS_FS_TRUNCATE)
		execute = landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_EXECUTE)
	)
	config := landlock.V6.BestEffort()
	var rules []landlock.Rule
	add := func(access landlock.AccessFSSet, names []string, refer bool) {
		for _, name := range names {
			info, err := os.Stat(name)
			if name == "" || err != nil {
				continue
			}
			granted := access
			if !info.IsDir() {
				granted &^= landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_DIR)
			}
			rule := landlock.PathAccess(granted, filepath.Clean(name)).IgnoreIfMissing()
			if refer {
				rule = rule.WithRefer()
			}
			rules = append(rules, rule)
		}
	}
	add(read|write, j.ReadWrite, true)
	add(read|write|execute, j.Build, true)
	add(read|execute, j.Tools, false)
	add(read, j.Files, false)
	add(landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_WRITE_FILE), []string{os.DevNull}, false)
	add(landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE), []string{"/dev/urandom", "/dev/random"}, false)
	if err := config.RestrictPaths(rules...); err != nil {
		return err
	}
	if !j.Network {
		if err := config.RestrictNet(); err != nil {
			return err
		}
	}
	return config.RestrictScoped()
}
