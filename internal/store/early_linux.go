package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginWriting asks the system to begin writing a part of a file to the disk. It doesn't
// wait, and whether it does is of no matter.
func beginWriting(f *os.File, offset, n int64) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE) })
}
