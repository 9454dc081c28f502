package store

import (
	"errors"

	"golang.org/x/sys/windows"
)

// syncDir does nothing: NTFS journals renames, and directories can't be synced.
func syncDir(string) error { return nil }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
