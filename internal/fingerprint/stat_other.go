//go:build !linux && !darwin

package fingerprint

import "io/fs"

// errNotDirectory has no name of its own here: fs.ErrNotExist is what is said.
var errNotDirectory = fs.ErrNotExist

// fill has nothing to add: the time of a status change isn't known here.
func (*Stat) fill(fs.FileInfo) {}
