package registry

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/anyarch/anyarch/internal/refusal"
)

// smallestChunk is how small pieces get when connections keep breaking.
const smallestChunk = 1 << 20

// chunkSize is what a host has been seen to take in one request. The zero value
// is without limit.
type chunkSize struct {
	mu      sync.Mutex
	size    int64 // 0 is without limit
	ceiling int64 // a size that broke although it was a chunk's; 0 if none has
	good    int   // chunks of size that went through in a row
}

// goodChunks in a row let a host be tried with twice the size.
const goodChunks = 8

func (c *chunkSize) get() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size == 0 {
		return math.MaxInt64
	}
	return c.size
}

// broke learns from a request that sent so many bytes and then broke. What was
// sent is partly still in buffers, so a quarter of it is what surely arrived.
func (c *chunkSize) broke(sent int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size != 0 {
		c.ceiling = c.size
	}
	size := int64(smallestChunk)
	for size*2 <= sent/4 {
		size *= 2
	}
	if c.size != 0 {
		size = max(smallestChunk, min(size, c.size/2))
	}
	c.size, c.good = size, 0
}

func (c *chunkSize) passed(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size == 0 || n < c.size {
		return
	}
	if c.good++; c.good >= goodChunks && (c.ceiling == 0 || c.size*2 < c.ceiling) {
		c.size, c.good = c.size*2, 0
	}
}

// source is the blob on this side.
type source struct {
	open func() (io.ReadCloser, error)
	rc   io.ReadCloser
	pos  int64
}

// seek makes the next byte read the one at offset.
func (s *source) seek(offset int64) error {
	if s.rc != nil && s.pos != offset {
		if seeker, ok := s.rc.(io.Seeker); ok {
			if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
				return err
			}
			s.pos = offset
		} else if s.pos > offset {
			s.close()
		}
	}
	if s.rc == nil {
		rc, err := s.open()
		if err != nil {
			return err
		}
		s.rc, s.pos = rc, 0
		if offset > 0 {
			if seeker, ok := rc.(io.Seeker); ok {
				if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
					return err
				}
				s.pos = offset
			}
		}
	}
	n, err := io.CopyN(io.Discard, s.rc, offset-s.pos)
	s.pos += n
	return err
}

func (s *source) close() {
	if s.rc != nil {
		s.rc.Close()
		s.rc = nil
	}
}

// section is the body of one request: the next bytes of a source. The HTTP
// transport may go on reading it after its request has failed; once detached it
// no longer touches the source.
type section struct {
	mu       sync.Mutex
	source   *source // nil once detached
	left     int64
	read     int64
	err      error // of the source
	progress func(read int64)
}

func (s *section) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source == nil {
		return 0, errors.New("the request has ended")
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.source.rc.Read(p[:min(int64(len(p)), s.left)])
	s.source.pos += int64(n)
	s.left -= int64(n)
	s.read += int64(n)
	if err == io.EOF && s.left > 0 {
		err = &refusal.Error{Code: "PA408", Place: "on this machine", Summary: fmt.Sprintf("a blob ends %d bytes too early", s.left)}
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	if n > 0 {
		s.progress(s.read)
	}
	return n, err
}

func (s *section) Close() error { return nil }

func (s *section) detach() (read int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source = nil
	return s.read, s.err
}
