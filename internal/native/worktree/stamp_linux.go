package worktree

import (
	"io/fs"
	"syscall"
)

const caseInsensitive = false

func stampOf(info fs.FileInfo) Stamp {
	s := Stamp{Mode: info.Mode(), Size: info.Size(), Time: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Inode, s.Change = st.Ino, st.Ctim.Nano()
	}
	if s.Mode.IsDir() {
		// What is in a directory is looked at by itself.
		s.Size, s.Time, s.Change = 0, 0, 0
	}
	return s
}
