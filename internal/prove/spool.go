package prove

import (
	"cmp"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/store"
)

// spoolMemory is how many bytes of a program are kept in memory; larger ones go
// to a temporary file.
const spoolMemory = 4 << 20

// headOnly is how much is kept of a file larger than maxProgram.
const headOnly = 16 << 20

// diskError is one of the spool, not of what is spooled.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }

// spool holds one program at a time, so that it can be read at any offset: the
// headers of a program point to its end, and a layer only comes as a stream.
type spool struct {
	dir    string // for the temporary file
	memory []byte
	file   *os.File
	size   int64
	onDisk bool
}

// fill takes the content of a file of the given size, beginning with head. The
// digest is empty if the file is too large to be kept as a whole.
func (s *spool) fill(head []byte, rest io.Reader, size int64) (digest.Digest, error) {
	keep := size
	if size > maxProgram {
		keep = headOnly
	}
	s.size, s.onDisk = 0, keep > spoolMemory
	s.memory = s.memory[:0]
	if s.onDisk {
		if err := s.open(); err != nil {
			return "", err
		}
	}
	digester := digest.Canonical.Digester()
	if err := s.write(head, digester); err != nil {
		return "", err
	}
	buffer := make([]byte, 64<<10)
	for s.size < keep {
		n, err := rest.Read(buffer[:min(int64(len(buffer)), keep-s.size)])
		if err := s.write(buffer[:n], digester); err != nil {
			return "", err
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	if keep < size {
		return "", nil
	}
	return digester.Digest(), nil
}

func (s *spool) open() error {
	if s.file != nil {
		if err := s.file.Truncate(0); err != nil {
			return &diskError{store.DiskError(s.file.Name(), "write", err)}
		}
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return &diskError{store.DiskError(s.file.Name(), "write", err)}
		}
		return nil
	}
	f, err := os.CreateTemp(s.dir, "anyarch-program-")
	if err != nil {
		return &diskError{store.DiskError(cmp.Or(s.dir, os.TempDir()), "write", err)}
	}
	s.file = f
	return nil
}

func (s *spool) write(p []byte, digester digest.Digester) error {
	digester.Hash().Write(p)
	s.size += int64(len(p))
	if !s.onDisk {
		s.memory = append(s.memory, p...)
		return nil
	}
	if _, err := s.file.Write(p); err != nil {
		return &diskError{store.DiskError(s.file.Name(), "write", err)}
	}
	return nil
}

// ReadAt reads what was filled in last.
func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	if s.onDisk {
		return s.file.ReadAt(p, off)
	}
	if off >= int64(len(s.memory)) {
		return 0, io.EOF
	}
	n := copy(p, s.memory[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
	}
}
