//go:build !windows

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup makes cancelling reach what a command has started.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}

func exe(name string) string { return name }
