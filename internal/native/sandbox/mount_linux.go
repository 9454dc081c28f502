package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostname is what BuildKit calls its containers.
const hostname = "buildkitsandbox"

// prepare builds the file system and makes it the root.
func (s *spec) prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if !s.Network {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	// A root without rights could become one with rights in another namespace, and
	// play with more of the kernel than the Go toolchain needs. Best effort.
	_ = writeFile("/proc/sys/user/max_user_namespaces", "0")

	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", s.Root, err)
	}
	// Opened after the bind: this is the mounted directory, not the one below it.
	rootFD, err := unix.Open(s.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Root, err)
	}
	defer unix.Close(rootFD)
	root := rootDir(rootFD)
	if err := remount(fdPath(rootFD), unix.MS_NOSUID|unix.MS_NODEV); err != nil {
		return fmt.Errorf("restrict %s: %w", s.Root, err)
	}
	for _, m := range s.Mounts {
		if err := root.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := unix.Fchdir(rootFD); err != nil {
		return err
	}
	// The old root is stacked on the new one and then let go: nothing of the host
	// has a path any more.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	return os.Chdir("/")
}

// rootDir is the descriptor of the future root.
type rootDir int

// fdPath names an open file for calls that want a path, without looking it up again.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// open finds a name as if the root were the root already, so that no link leads
// out of it.
func (r rootDir) open(name string, flags int) (int, error) {
	return unix.Openat2(int(r), strings.TrimLeft(name, "/"), &unix.OpenHow{
		Flags:   uint64(flags | unix.O_PATH | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// mount puts one mount in its place.
func (r rootDir) mount(m Mount) error {
	fd, err := r.open(m.Target, 0)
	if errors.Is(err, unix.ENOENT) {
		// In a tmpfs, where it couldn't be made before.
		var points mountPoints
		if err = points.place(fdPath(int(r)), strings.TrimPrefix(m.Target, "/"), m.File, true); err == nil {
			fd, err = r.open(m.Target, 0)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	at := fdPath(fd)
	switch {
	case m.Host == procFS:
		return r.mountProc(at)
	case m.Host == devFS:
		return r.mountDev(at)
	case m.Tmpfs:
		return unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	}
	// Recursive, since mounts below that came from outside can't be uncovered.
	if err := unix.Mount(m.Host, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return r.remount(m.Target, flags)
}

// remount changes the flags of the mount that is at a name now.
func (r rootDir) remount(name string, flags uintptr) error {
	fd, err := r.open(name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := remount(fdPath(fd), flags); err != nil {
		return fmt.Errorf("restrict: %w", err)
	}
	return nil
}

// remount adds flags to a bind mount, and to those below it where the kernel can.
// What the mount has already stays: in a user namespace those flags are locked,
// and leaving one out is EPERM.
func remount(at string, flags uintptr) error {
	attr := unix.MountAttr{}
	for _, f := range [...]struct{ flag, attr uint64 }{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
	} {
		if uint64(flags)&f.flag != 0 {
			attr.Attr_set |= f.attr
		}
	}
	// It only adds, so locked flags are no matter; since Linux 5.12.
	if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, &attr); err == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return err
	}
	for _, f := range [...]struct{ st, ms uintptr }{
		{unix.ST_RDONLY, unix.MS_RDONLY}, {unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if uintptr(st.Flags)&f.st != 0 {
			flags |= f.ms
		}
	}
	return unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// What of /proc is the machine's and not the sandbox's, as container runtimes have
// it: a process with the user of root could change the machine there.
var (
	procReadOnly = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
	procHidden   = []string{
		"acpi", "asound", "kcore", "keys", "key-users", "latency_stats", "timer_list", "timer_stats",
		"sched_debug", "scsi", "interrupts", "kallsyms", "kmsg", "kpagecount", "kpageflags", "vmallocinfo",
	}
)

// mountProc mounts a fresh /proc, in which only the processes of the sandbox are.
// Where that isn't allowed, in containers whose own /proc has parts covered, it
// shows the host's: the command lines of other processes can be read then, but the
// kernel lets nobody look into them (their environment, memory, root and files),
// because they are in another user namespace.
func (r rootDir) mountProc(at string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	fresh := unix.Mount("proc", at, "proc", flags, "")
	if fresh != nil {
		if err := unix.Mount("/proc", at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return errors.Join(fresh, err)
		}
		if err := r.remount("/proc", flags); err != nil {
			return err
		}
	}
	for _, name := range procReadOnly {
		if err := r.cover("/proc/"+name, "", false); err != nil {
			return err
		}
	}
	for _, name := range procHidden {
		if err := r.cover("/proc/"+name, "/dev/null", true); err != nil {
			return err
		}
	}
	return nil
}

// cover makes a file or directory of /proc read-only, or hides it.
func (r rootDir) cover(name, with string, hide bool) error {
	fd, err := r.open(name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	at := fdPath(fd)
	switch {
	case hide && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.Mount("tmpfs", at, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,mode=0555")
	case hide:
		err = unix.Mount(with, at, "", unix.MS_BIND, "")
	default:
		if err = unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = r.remount(name, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
		}
	}
	if err != nil {
		return fmt.Errorf("cover %s: %w", name, err)
	}
	return nil
}

// mountDev makes a /dev with what every program may expect. A device can't be made
// without real rights, so the host's are bound.
func (r rootDir) mountDev(at string) error {
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID, "mode=0755,size=65536k"); err != nil {
		return err
	}
	fd, err := r.open("/dev", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dir := fdPath(fd)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		host := filepath.Join("/dev", name)
		if _, err := os.Stat(host); err != nil {
			if name == "null" {
				return err
			}
			continue
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount(host, file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o755); err != nil {
		return err
	}
	return os.Chmod(shm, os.ModeSticky|0o777)
}
