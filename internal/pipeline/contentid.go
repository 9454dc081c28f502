package pipeline

import (
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
)

// contentID identifies what is in a program. The go command has hashed the
// whole of it and written the hash into it, so that reading its head is enough;
// the file's times say nothing, since the go command renews them when it finds
// a program up to date. A program without such an ID is hashed.
func contentID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if id := buildid.Read(f); id != "" {
		return "go " + id, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	d, err := digest.FromReader(f)
	return d.String(), err
}
