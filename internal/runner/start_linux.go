package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// run starts the job with the strongest separation that works here.
func (j *job) run(ctx context.Context, o Options) (int, error) {
	if j.outside == "" {
		uid, gid := j.identity()
		attr := &syscall.SysProcAttr{Chroot: j.root, Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		if os.Geteuid() != 0 {
			attr = &syscall.SysProcAttr{
				Chroot:      j.root,
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: int(uid), HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: int(gid), HostID: os.Getegid(), Size: 1}},
			}
		}
		cmd := j.cmd(ctx, o, j.argv)
		cmd.Dir, cmd.SysProcAttr = j.dir, attr
		code, err := wait(ctx, cmd)
		if err == nil || !refusedByKernel(err) {
			return code, err
		}
	}
	cmd := j.cmd(ctx, o, j.outsideArgv())
	cmd.Dir = filepath.Join(j.root, j.dir)
	return wait(ctx, cmd)
}

// refusedByKernel tells that a namespace or a new root isn't allowed here, from
// that the program itself can't start.
func refusedByKernel(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EUSERS) || errors.Is(err, syscall.EACCES)
}

// identity is the user and group of the image's config, looked up in its own
// passwd and group files where they are names.
func (j *job) identity() (uid, gid uint32) {
	user, group, hasGroup := strings.Cut(j.user, ":")
	if user == "" {
		return 0, 0
	}
	line := j.account("/etc/passwd", user, 2)
	if n, err := strconv.ParseUint(user, 10, 32); err == nil {
		uid = uint32(n)
	} else if len(line) > 2 {
		n, _ := strconv.ParseUint(line[2], 10, 32)
		uid = uint32(n)
	}
	if !hasGroup {
		if len(line) > 3 {
			n, _ := strconv.ParseUint(line[3], 10, 32)
			gid = uint32(n)
		}
		return uid, gid
	}
	if n, err := strconv.ParseUint(group, 10, 32); err == nil {
		return uid, uint32(n)
	}
	if line := j.account("/etc/group", group, 2); len(line) > 2 {
		n, _ := strconv.ParseUint(line[2], 10, 32)
		gid = uint32(n)
	}
	return uid, gid
}

// account finds the line of a name, or of a number in the given field.
func (j *job) account(file, name string, number int) []string {
	inside, err := resolve(j.root, file, true)
	if err != nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(j.root, inside))
	if err != nil {
		return nil
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.Split(line, ":")
		if len(fields) > number && (fields[0] == name || fields[number] == name) {
			return fields
		}
	}
	return nil
}
