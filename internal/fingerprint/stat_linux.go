package fingerprint

import (
	"io/fs"
	"syscall"
)

var errNotDirectory error = syscall.ENOTDIR

func (s *Stat) fill(info fs.FileInfo) {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Change, s.Inode, s.Device = sys.Ctim.Nano(), sys.Ino, uint64(sys.Dev)
	}
}
