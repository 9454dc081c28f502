package ui

import (
	"os"

	"golang.org/x/sys/windows"
)

// enableEscapes makes the console obey escape sequences and reports whether it
// does. Consoles older than Windows 10 1511 don't, and are treated as no
// terminal at all. The setting stays: the summary that follows needs it too, and
// today's consoles have it on by default.
func enableEscapes(f *os.File) bool {
	handle := windows.Handle(f.Fd())
	var before uint32
	if err := windows.GetConsoleMode(handle, &before); err != nil {
		return false
	}
	wanted := before | windows.ENABLE_PROCESSED_OUTPUT | windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING
	return wanted == before || windows.SetConsoleMode(handle, wanted) == nil
}
