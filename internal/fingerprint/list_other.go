//go:build !linux

package fingerprint

import (
	"errors"
	"io/fs"
	"os"
)

// list is entries without a memory, for what is looked at once.
func list(in Input) (entries []Entry, missing bool, err error) {
	if in.byName() {
		for _, name := range in.Names {
			entries = append(entries, lookAt(in.Dir, name))
		}
		return entries, false, nil
	}
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
