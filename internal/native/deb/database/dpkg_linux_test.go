package database

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostComparable says that a directory of the host can be listed with all that matters.
const hostComparable = true

// lutimes sets the time of a symbolic link.
func lutimes(name string, at time.Time) error {
	t := unix.NsecToTimeval(at.UnixNano())
	return unix.Lutimes(name, []unix.Timeval{t, t})
}

// disk lists the directory.
func (p *pair) disk(t *testing.T) snapshot {
	t.Helper()
	s := snapshot{}
	links := map[uint64]string{}
	err := filepath.WalkDir(p.root, func(file string, e fs.DirEntry, err error) error {
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(file, p.root), "/")
		if err != nil || skipped(name) {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var content []byte
		link := ""
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(file); err != nil {
				return err
			}
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(file); err != nil {
				return err
			}
		} else if stat.Nlink > 1 && !info.IsDir() {
			if links[stat.Ino] == "" {
				links[stat.Ino] = name
			}
			link = "=" + links[stat.Ino]
		}
		s[name] = line(info.Mode(), int(stat.Uid), int(stat.Gid), link, info.ModTime(), content, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
