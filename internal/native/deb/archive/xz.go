package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads .xz files (The .xz File Format 1.2.0) with the LZMA2 decoder of
// github.com/ulikunitz/xz. The reader of that package takes as much memory at once
// as the header of any block asks for, up to 4 GiB; this one has a limit.
type xzReader struct {
	in      *counter
	err     error
	started bool // a stream is open
	kind    byte // which check its blocks have
	blocks  []xzBlock
	block   *lzma.Reader2
	check   hash.Hash // of the block
	start   int64     // of the block in the input
	header  xzHeader
	size    int64 // of the block so far, decompressed
}

// xzBlock is what the index must say about a block.
type xzBlock struct{ unpadded, size uint64 }

// xzHeader is what the header of a block says. Sizes are -1 if it doesn't.
type xzHeader struct {
	length           int64 // of the header itself
	compressed, size int64
	dictionary       int
}

// maxDictionary is twice the biggest that the presets of xz use (xz(1), -9).
const maxDictionary = 128 << 20

// maxBlocks bounds what is remembered of a stream: blocks of threads of xz have
// some MiB each.
const maxBlocks = 1 << 20

var (
	xzMagic       = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	xzFooterMagic = []byte("YZ")
	errXZ         = errors.New("xz: the data is damaged")
)

func newXZReader(r *bufio.Reader) io.Reader {
	return &xzReader{in: &counter{r: r}}
}

// counter knows how much has been read.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// full reads n bytes that must be there.
func (c *counter) full(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	return b, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (x *xzReader) Read(b []byte) (int, error) {
	for x.err == nil {
		if len(b) == 0 {
			return 0, nil
		}
		if x.block == nil {
			x.err = x.next()
			continue
		}
		n, err := x.block.Read(b)
		x.check.Write(b[:n])
		x.size += int64(n)
		if x.header.size >= 0 && x.size > x.header.size {
			err = errXZ
		}
		switch {
		case errors.Is(err, io.EOF):
			x.err = x.endBlock()
		case err != nil:
			x.err = err
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, x.err
}

// next opens the next block, over the ends and starts of streams.
func (x *xzReader) next() error {
	if !x.started {
		return x.startStream()
	}
	x.start = x.in.n
	size, err := x.in.ReadByte()
	if err != nil {
		return unexpected(err)
	}
	if size == 0 {
		return x.endStream()
	}
	if len(x.blocks) == maxBlocks {
		return fmt.Errorf("xz: a stream has more than %d blocks", maxBlocks)
	}
	rest, err := x.in.full((int(size)+1)*4 - 1)
	if err != nil {
		return err
	}
	if x.header, err = blockHeader(append([]byte{size}, rest...)); err != nil {
		return err
	}
	x.size = 0
	switch x.kind {
	case 0:
		x.check = nothing{}
	case 1:
		x.check = crc32.NewIEEE()
	case 4:
		x.check = crc64.New(crc64.MakeTable(crc64.ECMA))
	default:
		x.check = sha256.New()
	}
	x.block, err = lzma.Reader2Config{DictCap: max(x.header.dictionary, lzma.MinDictCap)}.NewReader2(x.in)
	return err
}

// startStream reads a header, after padding between streams; io.EOF where there is
// no more.
func (x *xzReader) startStream() error {
	first := x.in.n == 0
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(x.in, head); err != nil {
			if errors.Is(err, io.EOF) && !first {
				return io.EOF
			}
			return unexpected(err)
		}
		if !first && bytes.Equal(head, make([]byte, 4)) {
			continue
		}
		rest, err := x.in.full(8)
		if err != nil {
			return err
		}
		head = append(head, rest...)
		flags := head[6:8]
		if !bytes.Equal(head[:6], xzMagic) || crc32.ChecksumIEEE(flags) != binary.LittleEndian.Uint32(head[8:]) {
			return errXZ
		}
		x.kind = flags[1]
		if flags[0] != 0 || x.kind != 0 && x.kind != 1 && x.kind != 4 && x.kind != 10 {
			return fmt.Errorf("xz: the kind of check %d isn't known", x.kind)
		}
		x.started, x.blocks = true, nil
		return nil
	}
}

// blockHeader reads the header of a block, whose only filter must be LZMA2.
func blockHeader(b []byte) (xzHeader, error) {
	h := xzHeader{length: int64(len(b)), compressed: -1, size: -1}
	end := len(b) - 4
	if crc32.ChecksumIEEE(b[:end]) != binary.LittleEndian.Uint32(b[end:]) {
		return h, errXZ
	}
	flags, r := b[1], bytes.NewReader(b[2:end])
	if flags&0x3c != 0 {
		return h, errXZ
	}
	for _, optional := range []struct {
		bit  byte
		size *int64
	}{{0x40, &h.compressed}, {0x80, &h.size}} {
		if flags&optional.bit == 0 {
			continue
		}
		n, err := varint(r)
		if err != nil {
			return h, err
		}
		*optional.size = int64(n)
	}
	id, err := varint(r)
	if err != nil {
		return h, err
	}
	length, err := varint(r)
	if err != nil {
		return h, err
	}
	bits, err := r.ReadByte()
	if err != nil || flags&3 != 0 || id != 0x21 || length != 1 || bits > 40 {
		return h, errors.New("xz: there is another filter than LZMA2")
	}
	for r.Len() > 0 {
		if c, _ := r.ReadByte(); c != 0 {
			return h, errXZ
		}
	}
	dictionary := int64(2|bits&1) << (bits/2 + 11)
	if dictionary > maxDictionary {
		return h, fmt.Errorf("xz: it takes %d MiB of memory to decompress it; at most %d are given", dictionary>>20, maxDictionary>>20)
	}
	h.dictionary = int(dictionary)
	return h, nil
}

// varint reads a multibyte integer of at most 63 bits.
func varint(r io.ByteReader) (uint64, error) {
	var n uint64
	for shift := 0; shift < 63; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 {
				return 0, errXZ
			}
			return n, nil
		}
	}
	return 0, errXZ
}

// endBlock reads the padding and the check of a block.
func (x *xzReader) endBlock() error {
	x.block = nil
	compressed := x.in.n - x.start - x.header.length
	if x.header.size >= 0 && x.size != x.header.size || x.header.compressed >= 0 && compressed != x.header.compressed {
		return errXZ
	}
	if err := x.padding(compressed); err != nil {
		return err
	}
	sum := x.check.Sum(nil)
	if x.kind == 1 || x.kind == 4 {
		reverse(sum) // they are little-endian in the file
	}
	stored, err := x.in.full(len(sum))
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, sum) {
		return errors.New("xz: the checksum is wrong: the data is damaged")
	}
	x.blocks = append(x.blocks, xzBlock{uint64(x.header.length + compressed + int64(len(sum))), uint64(x.size)})
	return nil
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

// padding reads zeros up to a multiple of four.
func (x *xzReader) padding(n int64) error {
	zeros, err := x.in.full(int(-n & 3))
	if err == nil && !bytes.Equal(zeros, make([]byte, len(zeros))) {
		err = errXZ
	}
	return err
}

// endStream reads the index, whose first byte has been read, and the footer.
func (x *xzReader) endStream() error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	in := &summed{x.in, sum}
	count, err := varint(in)
	if err != nil {
		return err
	}
	if count != uint64(len(x.blocks)) {
		return errXZ
	}
	for _, b := range x.blocks {
		unpadded, err := varint(in)
		if err != nil {
			return err
		}
		size, err := varint(in)
		if err != nil {
			return err
		}
		if (xzBlock{unpadded, size}) != b {
			return errXZ
		}
	}
	for (x.in.n-x.start)%4 != 0 {
		if b, err := in.ReadByte(); err != nil || b != 0 {
			return errXZ
		}
	}
	index := x.in.n - x.start
	stored, err := x.in.full(4)
	if err != nil {
		return err
	}
	footer, err := x.in.full(12)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(stored) != sum.Sum32() ||
		binary.LittleEndian.Uint32(footer) != crc32.ChecksumIEEE(footer[4:10]) ||
		(int64(binary.LittleEndian.Uint32(footer[4:]))+1)*4 != index+4 ||
		footer[8] != 0 || footer[9] != x.kind || !bytes.Equal(footer[10:], xzFooterMagic) {
		return errXZ
	}
	x.started = false
	return nil
}

// summed reads bytes that a checksum is made of.
type summed struct {
	r   io.ByteReader
	sum hash.Hash32
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

// nothing is the check of a stream that has none.
type nothing struct{}

func (nothing) Write(b []byte) (int, error) { return len(b), nil }
func (nothing) Sum(b []byte) []byte         { return b }
func (nothing) Reset()                      {}
func (nothing) Size() int                   { return 0 }
func (nothing) BlockSize() int              { return 1 }
