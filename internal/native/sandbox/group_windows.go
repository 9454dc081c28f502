package sandbox

import (
	"os"
	"os/exec"
)

// ownGroup leaves the default: the go command is killed; the tools it has started
// end with their pipes.
func ownGroup(*exec.Cmd) {}

func endGroup(*os.Process) {}
