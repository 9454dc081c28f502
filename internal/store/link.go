package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Link gives the store a blob that another one has: as a second name of the
// same file where the file system can do that, else as a copy, which is
// verified. ErrNotFound if the other one doesn't have it.
func (s *Store) Link(d digest.Digest, from *Store) error {
	source, err := from.Path(d)
	if err != nil {
		return err
	}
	target, err := s.Path(d)
	if err != nil {
		return err
	}
	from.later.settle(d)
	info, err := os.Lstat(source)
	if err != nil {
		return from.fail("read", err)
	}
	if !info.Mode().IsRegular() { // a link to a link would follow the other store's changes
		return from.fail("read", &fs.PathError{Op: "link", Path: source, Err: fs.ErrNotExist})
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return s.fail("write", err)
	}
	err = os.Link(source, target)
	if err == nil || errors.Is(err, fs.ErrExist) {
		if err := syncDir(filepath.Dir(target)); err != nil {
			return s.fail("sync", err)
		}
		return nil
	}
	f, err := from.Blob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := s.Ingest()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := f.WriteTo(w); err != nil {
		return err
	}
	_, err = w.Commit(d)
	return err
}
