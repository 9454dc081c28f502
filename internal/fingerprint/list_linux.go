package fingerprint

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// listed are the entries of a directory. A build reads thousands of files that nobody
// edits, and a stat of each is most of what a run costs in which nothing has changed: so
// they are looked at from their directories, without a walk down their paths.
func listed(in Input) (entries []Entry, missing bool, err error) {
	dir, err := os.Open(in.Dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDirectory) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer dir.Close()
	names, err := dir.ReadDir(-1)
	if errors.Is(err, errNotDirectory) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	names = slices.DeleteFunc(names, func(e fs.DirEntry) bool { return !in.Filter.wants(e) })
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	entries = make([]Entry, len(names))
	fd := int(dir.Fd())
	for i, e := range names {
		var st unix.Stat_t
		switch {
		case e.Type().IsRegular() && unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG:
			entries[i] = Entry{Name: e.Name(), Kind: File, Stat: statOf(&st)}
		default:
			entries[i] = lookAt(in.Dir, e.Name())
		}
	}
	return entries, false, nil
}

// statOf is StatOf for what the system itself says of a regular file.
func statOf(st *unix.Stat_t) Stat {
	mode := fs.FileMode(st.Mode & 0o777)
	if st.Mode&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if st.Mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if st.Mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return Stat{
		Mode: mode, Size: st.Size, Modified: unix.TimespecToNsec(st.Mtim), Change: unix.TimespecToNsec(st.Ctim),
		Inode: st.Ino, Device: uint64(st.Dev),
	}
}
