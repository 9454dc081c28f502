//go:build !windows

package gotool

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup lets cancelling reach the compilers and linkers that go has started,
// and keeps a terminal's ctrl-C from reaching them before us.
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
