// Package archive has the tools that pack and unpack: tar, gzip and its relatives,
// and unzip. Archives are read and written as streams. What is unpacked goes to one
// file of the host per archive, of which the files in the tree are parts; names of
// members lead nowhere but into the tree.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands gives the commands of this package. What they unpack is kept in memory.
func Commands() []*command.Command { return CommandsIn("") }

// CommandsIn gives the commands of this package. What they unpack is kept in the
// host's directory scratch, which has to outlive the trees.
func CommandsIn(scratch string) []*command.Command {
	list := []*command.Command{
		{Name: "tar", Check: checkTar, Run: func(ctx context.Context, p *command.Proc) (int, error) { return runTar(ctx, p, scratch) }},
		{Name: "unzip", Check: unzipOptions.Check("unzip"), Run: func(ctx context.Context, p *command.Proc) (int, error) { return unzip(ctx, p, scratch) }},
	}
	for _, name := range []string{"gzip", "gunzip", "zcat"} {
		list = append(list, &command.Command{Name: name, Check: gzipOptions.Check(name), Run: func(ctx context.Context, p *command.Proc) (int, error) { return gzip(ctx, p, name, scratch) }})
	}
	return list
}

const (
	maxUnpacked = 20 << 30 // bytes that one archive may become
	maxInMemory = 1 << 30  // the same where there is nowhere but memory
)

// errTooLarge ends the build: an archive that becomes so large is made for harm.
var errTooLarge = errors.New("the archive unpacks to more than fits")

// store keeps the contents of the files of one archive.
type store struct {
	scratch string
	file    *os.File
	size    int64
}

// keep reads size bytes. Errors of r are given as they are.
func (s *store) keep(r io.Reader, size int64) (filetree.Content, error) {
	limit := int64(maxUnpacked)
	if s.scratch == "" {
		limit = maxInMemory
	}
	if size < 0 || s.size+size > limit {
		return nil, errTooLarge
	}
	if size == 0 {
		return nil, nil
	}
	if s.scratch == "" {
		// A size that isn't true must not cost memory.
		b, err := io.ReadAll(io.LimitReader(r, size))
		if err == nil && int64(len(b)) < size {
			err = io.ErrUnexpectedEOF
		}
		s.size += int64(len(b))
		return filetree.Bytes(b).Content(), err
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.scratch, "anyarch-unpacked-*")
		if err != nil {
			return nil, fmt.Errorf("keep what is unpacked: %w", err)
		}
		s.file = f
	}
	at := s.size
	n, err := io.CopyN(&hostFile{s.file}, r, size)
	s.size += n
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return filetree.SectionContent(s.file.Name(), at, size), err
}

// close ends the writing; the contents stay.
func (s *store) close() error {
	if s.file == nil {
		return nil
	}
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("keep what is unpacked: %w", err)
	}
	return nil
}

// hostFile marks errors of the host, so that they aren't taken for the archive's.
type hostFile struct{ f *os.File }

type hostError struct{ err error }

func (h *hostError) Error() string { return "keep what is unpacked: " + h.err.Error() }
func (h *hostError) Unwrap() error { return h.err }

func (h *hostFile) Write(b []byte) (int, error) {
	n, err := h.f.Write(b)
	if err != nil {
		err = &hostError{err}
	}
	return n, err
}

// endsBuild reports whether an error of reading an archive isn't about the archive:
// the host's, or that of the tree's own content.
func endsBuild(err error) bool {
	var h *hostError
	var s *sourceError
	return errors.As(err, &h) || errors.As(err, &s) || errors.Is(err, errTooLarge)
}

// source is where an archive is read from. Its errors aren't the archive's.
type source struct {
	ctx context.Context
	r   io.Reader
}

type sourceError struct{ err error }

func (s *sourceError) Error() string { return s.err.Error() }
func (s *sourceError) Unwrap() error { return s.err }

func (s *source) Read(b []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, &sourceError{context.Cause(s.ctx)}
	}
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF && command.Fatal(err) { //nolint:errorlint // a reader gives EOF as it is
		err = &sourceError{err}
	}
	return n, err
}
