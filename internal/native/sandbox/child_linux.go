package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of the child beside the standard ones.
const (
	ordersFD = 3 // the spec, and then nothing until the parent dies
	reportFD = 4 // ready, or what went wrong
)

// ready is what the child reports when everything is set up.
const ready = "\x00ready"

// Main runs the first process of a sandbox if this process was started as one, and
// doesn't return then. It has to be called first of all in main and TestMain, in
// every program that calls [New].
func Main() bool {
	if os.Args[0] != reexec || len(os.Args) != 2 {
		return false
	}
	switch os.Args[1] {
	case "init":
		initMain()
	case "mapped":
		mappedMain()
	default:
		return false
	}
	return true
}

// initMain is process 1 of a sandbox: it builds the file system, gives up every
// right, starts the program, collects its orphans and ends as it does, which ends
// whatever is left.
func initMain() {
	runtime.LockOSThread() // rights and namespaces belong to threads
	report := os.NewFile(reportFD, "report")
	fail := func(err error) {
		_, _ = io.WriteString(report, err.Error())
		os.Exit(125)
	}
	// What the caller's own parent left open must not get into the sandbox.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		for fd := 3; fd < 1024; fd++ {
			unix.CloseOnExec(fd)
		}
	}
	orders := os.NewFile(ordersFD, "orders")
	decoder := json.NewDecoder(orders)
	var s spec
	if err := decoder.Decode(&s); err != nil {
		fail(fmt.Errorf("read orders: %w", err))
	}
	if err := s.prepare(); err != nil {
		fail(err)
	}
	if err := lockDown(); err != nil {
		fail(err)
	}
	if s.Probe {
		_, _ = io.WriteString(report, ready)
		os.Exit(0)
	}
	go func() {
		// The parent never writes again: this returns when it is gone, even if
		// the thread that the death signal is tied to lives on or never was.
		_, _ = io.Copy(io.Discard, orders)
		os.Exit(137)
	}()
	pid, err := s.launch()
	_, _ = io.WriteString(report, ready)
	_ = report.Close()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", s.Args[0], explain(err))
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
			os.Exit(127)
		}
		os.Exit(126)
	}
	os.Exit(reap(pid))
}

// explain says what the kernel means by its answers to exec.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w, or the loader of a dynamic program isn't there", err)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: it isn't a program of this machine's architecture", err)
	}
	return err
}

// launch starts the program of the sandbox.
func (s *spec) launch() (int, error) {
	unix.Umask(s.Umask)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return 0, err
	}
	if err := os.Chdir(s.Dir); err != nil {
		return 0, err
	}
	return syscall.ForkExec(s.Program, s.Args, &syscall.ProcAttr{Env: s.Env, Files: []uintptr{0, 1, 2}})
}

// reap waits for pid and collects every orphan meanwhile.
func reap(pid int) int {
	// Held open here they would keep a pipeline's other end waiting.
	for fd := range 3 {
		_ = unix.Close(fd)
	}
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 125
		case got != pid:
		case status.Exited():
			return status.ExitStatus()
		case status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// lockDown gives up what process 1 was given to build the file system, for itself
// and all that it will start.
func lockDown() error {
	// A signal at the death of the parent's thread may have been lost on exec.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	// A keyring of its own, so that the caller's session keyring can't be read.
	_, _ = unix.KeyctlJoinSessionKeyring("")
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	noAbstractSockets()
	for c := uintptr(0); c < 64; c++ {
		err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
		if errors.Is(err, syscall.EINVAL) {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	// User 0 gets no capabilities by executing something, now and for good.
	const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7 // NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each locked
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureBits); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])))
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&none)
	if err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	// The program must not look into this process: it knows paths of the host,
	// and built with cgo it has threads that still have their rights.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// allThreads makes a system call that concerns a thread in every thread. A program
// built with cgo can do so only in this one, from which the program is started.
func allThreads(call, a, b uintptr) error {
	_, _, e := syscall.AllThreadsSyscall6(call, a, b, 0, 0, 0, 0)
	if e == syscall.ENOTSUP {
		_, _, e = syscall.RawSyscall6(call, a, b, 0, 0, 0, 0)
	}
	if e != 0 {
		return e
	}
	return nil
}

// noAbstractSockets keeps abstract Unix sockets of other processes out of reach:
// they belong to the network, which may be the host's, and some daemons trust
// whoever has the right user on them. Best effort: Landlock of Linux 6.12. It holds
// for this thread and what it starts.
func noAbstractSockets() {
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	size := unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped) // what that kernel knows of it
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return
	}
	_, _, _ = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	_ = unix.Close(int(fd))
}

// loopbackUp makes 127.0.0.1 work in a network of its own, as container engines do.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// writeFile writes to a file of /proc/sys; it is one that exists.
func writeFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, strings.NewReader(text))
	return errors.Join(err, f.Close())
}
