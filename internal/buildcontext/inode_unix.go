//go:build unix

package buildcontext

import (
	"io/fs"
	"strconv"
	"syscall"
)

func inode(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(st.Ino, 10)
	}
	return ""
}
