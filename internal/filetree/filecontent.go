package filetree

import (
	"fmt"
	"io"
	"os"
)

// FileContent is the content of a regular file of the host, size bytes long. It is
// opened on demand; a file that has another size by then is an error.
func FileContent(path string, size int64) Content { return &file{path: path, size: size} }

// SectionContent is a part of a file of the host: size bytes from offset.
func SectionContent(path string, offset, size int64) Content {
	return &file{path: path, offset: offset, size: size, section: true}
}

type file struct {
	path         string
	offset, size int64
	section      bool
}

func (f *file) Size() int64 { return f.size }

func (f *file) Open() (io.ReadCloser, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	if f.section {
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(r, f.offset, f.size), r}, nil
	}
	info, err := r.Stat()
	if err == nil && info.Size() != f.size {
		err = fmt.Errorf("%s has %d bytes now, not %d", f.path, info.Size(), f.size)
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// Key identifies the content across runs: the same key means the same bytes. It is
// empty where that can't be promised.
func (f *file) Key() string {
	if !f.section {
		return ""
	}
	return fmt.Sprintf("%s %d %d", f.path, f.offset, f.size)
}
