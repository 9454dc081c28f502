//go:build !linux && !darwin

package vcs

import "io/fs"

// changeTime isn't known here.
func changeTime(fs.FileInfo) (stamp, bool) { return stamp{}, false }
