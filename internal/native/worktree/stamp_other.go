//go:build !linux

package worktree

import (
	"io/fs"
	"runtime"
)

const caseInsensitive = runtime.GOOS == "windows" || runtime.GOOS == "darwin"

func stampOf(info fs.FileInfo) Stamp {
	s := Stamp{Mode: info.Mode(), Size: info.Size(), Time: info.ModTime().UnixNano()}
	if s.Mode.IsDir() {
		s.Size, s.Time = 0, 0
	}
	return s
}
