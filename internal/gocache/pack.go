package gocache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packSize is how much content one pack has, about, before compression, in bytes.
const packSize = 24 << 20

// pack is one blob of entries.
type pack struct {
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Used    time.Time     `json:"used"`  // by a run that wrote
	Count   int           `json:"count"` // of entries
	entries []entry
}

// indexed is about what an index takes for a pack, in bytes: hashes can't be compressed.
func (p *pack) indexed() int64 { return 200 + int64(len(p.entries)*entrySize) }

func (p *pack) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: packType, Digest: p.Digest, Size: p.Size}
}

// writePack packs entries of a disk into a file. What has vanished from the disk is
// left out.
func writePack(ctx context.Context, d disk, entries []entry, file *os.File) (*pack, error) {
	sum := digest.Canonical.Digester()
	written := &counter{w: io.MultiWriter(file, sum.Hash())}
	// What is fetched by every runner is worth a little time; one core each, as several
	// packs are made at once.
	w, err := zstd.NewWriter(written, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
	if err != nil {
		return nil, err
	}
	p := &pack{}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := writeEntry(w, d, e); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		p.entries = append(p.entries, e)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	p.Digest, p.Size, p.Count = sum.Digest(), written.n, len(p.entries)
	return p, nil
}

func writeEntry(w io.Writer, d disk, e entry) error {
	f, err := os.Open(d.path(e.output, "d"))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != e.size {
		return os.ErrNotExist // somebody writes to it
	}
	record := append(append(make([]byte, 0, entrySize), e.action[:]...), e.output[:]...)
	record = binary.BigEndian.AppendUint64(record, uint64(e.size))
	if _, err := w.Write(record); err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if err == nil && n != e.size {
		err = fmt.Errorf("an output has %d bytes instead of %d", n, e.size)
	}
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// readPack puts the entries of a pack on a disk, one after the other, and tells done of
// each. They must be those that the index announced. It gives how many bytes it has read.
func readPack(ctx context.Context, r io.Reader, d disk, want []entry, done func(entry)) (int64, error) {
	read := &counted{r: r}
	z, err := zstd.NewReader(read, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return 0, err
	}
	defer z.Close()
	plain := bufio.NewReaderSize(z, 256<<10)
	record := make([]byte, entrySize)
	for _, e := range want {
		if err := ctx.Err(); err != nil {
			return read.n, context.Cause(ctx)
		}
		if _, err := io.ReadFull(plain, record); err != nil {
			return read.n, err
		}
		if readEntry(record) != e {
			return read.n, errors.New("a pack of the cache isn't what its index says")
		}
		if _, err := d.put(e, plain); err != nil {
			return read.n, err
		}
		done(e)
	}
	_, err = io.Copy(io.Discard, read) // to its end, where its digest is compared
	return read.n, err
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
