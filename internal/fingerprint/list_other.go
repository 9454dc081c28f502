//go:build !linux

package fingerprint

import (
	"errors"
	"io/fs"
	"os"
)

// listed are the entries of a directory.
func listed(in Input) (entries []Entry, missing bool, err error) {
	names, err := os.ReadDir(in.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, entry := range names {
		if in.Filter.wants(entry) {
			entries = append(entries, lookAt(in.Dir, entry.Name()))
		}
	}
	return entries, false, nil
}
