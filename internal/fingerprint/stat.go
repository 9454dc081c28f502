package fingerprint

import (
	"io/fs"
	"time"
)

// Stat is what tells one content of a file from another without reading it.
type Stat struct {
	Mode     fs.FileMode `json:"mode,omitempty"`
	Size     int64       `json:"size,omitempty"`
	Modified int64       `json:"mtime,omitempty"` // nanoseconds since 1970
	Change   int64       `json:"ctime,omitempty"` // the same, of the status; 0 if the system doesn't say
	Inode    uint64      `json:"ino,omitempty"`
	Device   uint64      `json:"dev,omitempty"`
}

// StatOf reads a Stat from what the system has said of a file.
func StatOf(info fs.FileInfo) Stat {
	s := Stat{Mode: info.Mode(), Size: info.Size(), Modified: info.ModTime().UnixNano()}
	s.fill(info)
	return s
}

// changed is when a file was last changed in any way. Where the system doesn't say
// it is the distant future for what must not be mistaken, which makes content count,
// and touched for the rest.
func (s Stat) changed() time.Time {
	if s.Change == 0 {
		return time.Unix(1<<40, 0)
	}
	return time.Unix(0, s.Change)
}

// touched is when a file was last changed, as far as its own word goes.
func (s Stat) touched() time.Time {
	if s.Change == 0 {
		return time.Unix(0, s.Modified)
	}
	return time.Unix(0, s.Change)
}
