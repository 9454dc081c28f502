package prove

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Limits bound what one layer may unpack to. Zero fields mean the defaults.
type Limits struct {
	Uncompressed int64 // bytes, 20 GiB by default
	Ratio        int64 // uncompressed to compressed, 200 by default; not applied to the first 64 MiB
}

const (
	defaultUncompressed = 20 << 30
	defaultRatio        = 200
	ratioFree           = 64 << 20
	// maxWindow bounds what a zstd layer may ask for in memory, in bytes. It is
	// what `zstd --long` uses.
	maxWindow = 128 << 20
)

func (l Limits) filled() Limits {
	if l.Uncompressed <= 0 {
		l.Uncompressed = defaultUncompressed
	}
	if l.Ratio <= 0 {
		l.Ratio = defaultRatio
	}
	return l
}

// badLayer is a layer that was read and can't be used, and not because of the
// way to it.
type badLayer struct{ why string }

func (e *badLayer) Error() string { return e.why }

func badf(format string, args ...any) error { return &badLayer{fmt.Sprintf(format, args...)} }

// source counts the bytes of a blob and keeps the error of reading it, so that
// it is told apart from what a decompressor makes of the bytes.
type source struct {
	io.Reader
	n      int64
	err    error
	moving func(n int64)
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.n += int64(n)
	if n > 0 {
		s.moving(int64(n))
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// decompress gives the tar of a layer. Like the runtimes it goes by the first
// bytes, not by the media type. The returned function frees the decoder.
func decompress(src *source) (io.Reader, func(), error) {
	buffered := bufio.NewReaderSize(src, 64<<10)
	head, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, badf("not readable as gzip: %v", err)
		}
		return r, func() { _ = r.Close() }, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		r, err := zstd.NewReader(buffered,
			zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<40)) // the whole is bounded by bounded
		if err != nil {
			return nil, nil, badf("not readable as zstd: %v", err)
		}
		return r, r.Close, nil
	}
	return buffered, func() {}, nil
}

// bounded fails when a layer unpacks to more than its limits allow.
type bounded struct {
	io.Reader
	src    *source
	limits Limits
	n      int64 // bytes so far
	extra  int64 // bytes that sparse files were expanded to
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n += int64(n)
	if e := b.check(); e != nil {
		return n, e
	}
	return n, err
}

func (b *bounded) check() error {
	n := b.n + b.extra
	if n > b.limits.Uncompressed {
		return badf("unpacks to more than %d bytes", b.limits.Uncompressed)
	}
	if n > ratioFree && n/b.limits.Ratio > b.src.n {
		return badf("unpacks to more than %d times its size", b.limits.Ratio)
	}
	return nil
}
