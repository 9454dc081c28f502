//go:build !linux

package sandbox

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
)

// plain exists for terminals, which matter where a sandbox can be left through one.
func plain(w io.Writer) io.Writer { return w }

// confines tells that nothing keeps the toolchain inside but its arguments.
func confines() bool { return false }

// command prepares the go command itself.
func (m *mapping) command(ctx context.Context, args, env []string, dir string) (cmd *exec.Cmd, done func(), err error) {
	cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(env, "PWD="+filepath.Clean(dir))
	cmd.Dir = dir
	ownGroup(cmd)
	return cmd, func() {
		if cmd.Process != nil {
			endGroup(cmd.Process)
		}
	}, nil
}
