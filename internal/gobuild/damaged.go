package gobuild

import (
	"io"
	"os"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
)

// dropDamaged removes from where a program goes what is none, and a program that isn't
// what its build ID says: go build wouldn't replace the one, and takes the other for what
// it would make itself.
func dropDamaged(file string) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	var head [4]byte
	_, err = io.ReadFull(f, head[:])
	f.Close()
	switch string(head[:]) {
	case "\x7fELF", "\xfe\xed\xfa\xce", "\xfe\xed\xfa\xcf", "\xce\xfa\xed\xfe", "\xcf\xfa\xed\xfe", "\x00asm":
	default:
		if err != nil || string(head[:2]) != "MZ" {
			_ = os.Remove(file) // go says what is wrong
			return
		}
	}
	if whole, _ := buildid.Intact(file); !whole {
		_ = os.Remove(file)
	}
}
