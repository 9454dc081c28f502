package cache

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isBusy reports whether an error is that of removing what is open.
func isBusy(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
}
