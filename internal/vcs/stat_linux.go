package vcs

import (
	"io/fs"
	"syscall"
)

// changeTime is when a file's metadata last changed; it gives away a change
// whose author has set the modification time back.
func changeTime(info fs.FileInfo) (stamp, bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, false
	}
	return stamp{uint32(s.Ctim.Sec), uint32(s.Ctim.Nsec)}, true
}
