package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"

	"github.com/klauspost/compress/flate"
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/store"
)

// blockSize is how much of a tar is compressed on its own, in bytes. It is
// part of a layer's digest. Larger blocks compress better, smaller ones are
// more often the same as last time.
const blockSize = 512 << 10

// Block is one compressed block in the blob of a layer.
type Block struct {
	Plain      digest.Digest `json:"plain"`      // of the bytes before compression
	Compressed digest.Digest `json:"compressed"` // of the bytes in the blob
	Offset     int64         `json:"offset"`     // in the blob
	Size       int64         `json:"size"`       // in the blob
}

// Blocks is what a gzip layer is made of. A later layer with some of the same
// content takes over compressed blocks instead of making them again; its bytes
// are the same either way.
type Blocks struct {
	Blob   digest.Digest `json:"blob"`
	Blocks []Block       `json:"blocks"`
}

// blockGzip writes one gzip member (RFC 1952) whose deflate stream (RFC 1951)
// is made of blocks that don't look back at each other. So blocks can be
// compressed side by side, or be had from an earlier layer, and the bytes
// depend on the content alone.
type blockGzip struct {
	w       io.Writer
	buffer  []byte
	crc     uint32
	size    uint32 // of the input, modulo 2^32
	offset  int64
	queue   chan *pending
	written chan error
	failed  chan struct{} // closed when the output can't be written
	earlier map[digest.Digest]Block
	from    io.ReaderAt // the blob of the earlier layer
	close   func() error
	encoder chan *flate.Writer // that nobody uses
	spare   chan *pending      // whose buffers nobody uses
	made    []Block
}

// pending is a block on its way through.
type pending struct {
	plain []byte
	block Block
	out   []byte
	err   error
	ready chan struct{}
}

// gzipHeader has no name and no time, and doesn't name a system.
var gzipHeader = [10]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

func newBlockGzip(w io.Writer, st *store.Store, earlier *Blocks) (*blockGzip, error) {
	cores := runtime.GOMAXPROCS(0)
	z := &blockGzip{
		w: w, buffer: make([]byte, 0, blockSize), offset: int64(len(gzipHeader)),
		// As many blocks are under way as there are cores, and one that is
		// being written.
		queue: make(chan *pending, cores), written: make(chan error, 1), failed: make(chan struct{}),
		encoder: make(chan *flate.Writer, cores+2), spare: make(chan *pending, cores+2),
		close: func() error { return nil },
	}
	if earlier != nil {
		if f, err := st.Blob(earlier.Blob); err == nil {
			z.from, z.close, z.earlier = f, f.Close, map[digest.Digest]Block{}
			for _, b := range earlier.Blocks {
				z.earlier[b.Plain] = b
			}
		}
	}
	if _, err := w.Write(gzipHeader[:]); err != nil {
		z.close()
		return nil, err
	}
	go z.writeAll()
	return z, nil
}

// Write takes more of the tar.
func (z *blockGzip) Write(p []byte) (int, error) {
	n := len(p)
	z.crc = crc32.Update(z.crc, crc32.IEEETable, p)
	z.size += uint32(n)
	for len(p) > 0 {
		take := min(blockSize-len(z.buffer), len(p))
		z.buffer = append(z.buffer, p[:take]...)
		p = p[take:]
		if len(z.buffer) == blockSize {
			if err := z.submit(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (z *blockGzip) submit() error {
	var b *pending
	select {
	case b = <-z.spare:
	default:
		b = &pending{plain: make([]byte, 0, blockSize)}
	}
	b.plain, z.buffer = z.buffer, b.plain[:0]
	b.ready = make(chan struct{})
	select {
	case z.queue <- b:
	case <-z.failed:
		return io.ErrClosedPipe // Close tells the reason
	}
	go func() {
		defer close(b.ready)
		b.err = z.compress(b)
	}()
	return nil
}

// compress fills in b.out, from the earlier layer or by compressing.
func (z *blockGzip) compress(b *pending) error {
	sum := sha256.Sum256(b.plain)
	b.block.Plain = digest.NewDigestFromBytes(digest.SHA256, sum[:])
	if known, ok := z.earlier[b.block.Plain]; ok && known.Size > 0 && known.Size < 2*blockSize {
		b.out = slices.Grow(b.out[:0], int(known.Size))[:known.Size]
		if _, err := z.from.ReadAt(b.out, known.Offset); err == nil && digest.FromBytes(b.out) == known.Compressed {
			b.block.Compressed = known.Compressed
			return nil
		}
	}
	var encoder *flate.Writer
	out := bytes.NewBuffer(b.out[:0])
	select {
	case encoder = <-z.encoder:
		encoder.Reset(out)
	default:
		var err error
		if encoder, err = flate.NewWriter(out, gzipLevel); err != nil {
			return err
		}
	}
	if _, err := encoder.Write(b.plain); err != nil {
		return err
	}
	if err := encoder.Flush(); err != nil { // ends on a whole byte
		return err
	}
	select {
	case z.encoder <- encoder:
	default:
	}
	b.out = out.Bytes()
	b.block.Compressed = digest.FromBytes(b.out)
	return nil
}

// writeAll writes blocks in their order.
func (z *blockGzip) writeAll() {
	var failure error
	for b := range z.queue {
		<-b.ready
		if failure == nil {
			if failure = b.err; failure == nil {
				_, failure = z.w.Write(b.out)
			}
			if failure != nil {
				close(z.failed)
			}
		}
		b.block.Offset, b.block.Size = z.offset, int64(len(b.out))
		z.offset += b.block.Size
		z.made = append(z.made, b.block)
		select {
		case z.spare <- b:
		default:
		}
	}
	z.written <- failure
}

// Close ends the stream. It doesn't close the writer below.
func (z *blockGzip) Close() error {
	defer z.close()
	var submitErr error
	if len(z.buffer) > 0 {
		submitErr = z.submit()
	}
	close(z.queue)
	if err := <-z.written; err != nil {
		return err
	}
	if submitErr != nil {
		return fmt.Errorf("compress: %w", submitErr)
	}
	// An empty last block (RFC 1951, 3.2.6), then checksum and size.
	trailer := []byte{0x03, 0x00}
	trailer = binary.LittleEndian.AppendUint32(trailer, z.crc)
	trailer = binary.LittleEndian.AppendUint32(trailer, z.size)
	_, err := z.w.Write(trailer)
	return err
}
