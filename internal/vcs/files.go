package vcs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// openRegular opens a file that is one: a repository from a stranger can have
// a pipe or a device where a file belongs, and reading it would never end.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "read", Path: path, Err: notRegular(info)}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return f, info, nil
}

// notRegular is the error of a file that isn't regular. A directory gives
// what the system would.
func notRegular(info fs.FileInfo) error {
	if info.IsDir() {
		return syscall.EISDIR
	}
	return errors.New("not a regular file")
}

// readSmall reads a whole file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return data, nil
}

// trimLine takes the line end off a file that is one line.
func trimLine(text []byte) string { return strings.TrimRight(string(text), "\r\n") }

// plainPath resolves a path that a repository names. Network and device paths
// are refused: on Windows, looking at one sends the user's credentials to the
// machine that it names.
func plainPath(base, path string) (string, error) {
	if path == "" || strings.ContainsAny(path, "\x00\n\r") {
		return "", fmt.Errorf("%q isn't a path", path)
	}
	if runtime.GOOS == "windows" && len(path) > 1 && strings.ContainsRune(`\/`, rune(path[0])) && strings.ContainsRune(`\/`, rune(path[1])) {
		return "", fmt.Errorf("%q is a network or device path", path)
	}
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	return filepath.Join(base, path), nil
}

// isNotDir reports whether a path led through something that is a file.
func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// isAbsent reports whether there is nothing to be read at a path.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) || isNotDir(err) }
