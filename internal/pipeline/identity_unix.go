//go:build !windows

package pipeline

import (
	"fmt"
	"io/fs"
	"syscall"
)

// fileIdentity tells files apart that have the same path, size and time.
func fileIdentity(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	return ""
}
