//go:build !windows

package ui

import "os"

// enableEscapes reports whether the terminal obeys escape sequences.
func enableEscapes(*os.File) bool { return true }
