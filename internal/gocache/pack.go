package gocache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of the artifact in the registry.
const (
	artifactType = "application/vnd.anyarch.gocache.v1"
	indexType    = "application/vnd.anyarch.gocache.index.v1+zstd"
	packType     = "application/vnd.anyarch.gocache.pack.v1+zstd"
)

// packSize is how much content one pack has, about, before compression, in bytes.
const packSize = 24 << 20

// maxIndex bounds what is read as an index, in bytes.
const maxIndex = 256 << 20

// pack is one blob of entries.
type pack struct {
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Used    time.Time     `json:"used"` // by a run that wrote
	Count   int           `json:"count"`
	entries []entry
}

func (p *pack) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: packType, Digest: p.Digest, Size: p.Size}
}

// encodeIndex writes what is in which pack: a line of JSON, and then action, output
// and size of every entry.
func encodeIndex(packs []*pack) ([]byte, error) {
	head, err := json.Marshal(packs)
	if err != nil {
		return nil, err
	}
	plain := append(head, '\n')
	for _, p := range packs {
		for _, e := range p.entries {
			plain = append(plain, e.action[:]...)
			plain = append(plain, e.output[:]...)
			plain = binary.BigEndian.AppendUint64(plain, uint64(e.size))
		}
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(plain, nil), nil
}

const entrySize = 2*len(ID{}) + 8

func decodeIndex(data []byte) ([]*pack, error) {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndex))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain := bufio.NewReader(io.LimitReader(r, maxIndex))
	head, err := plain.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the index of the cache: %w", err)
	}
	var packs []*pack
	if err := json.Unmarshal(head, &packs); err != nil {
		return nil, fmt.Errorf("the index of the cache: %w", err)
	}
	record := make([]byte, entrySize)
	for _, p := range packs {
		if p == nil || p.Digest.Validate() != nil || p.Size < 0 || p.Count < 0 {
			return nil, errors.New("the index of the cache has a pack that can't be")
		}
		for range p.Count {
			if _, err := io.ReadFull(plain, record); err != nil {
				return nil, fmt.Errorf("the index of the cache: %w", err)
			}
			e := readEntry(record)
			if e.size < 0 {
				return nil, errors.New("the index of the cache has an entry that can't be")
			}
			p.entries = append(p.entries, e)
		}
	}
	return packs, nil
}

func readEntry(record []byte) entry {
	var e entry
	copy(e.action[:], record)
	copy(e.output[:], record[len(e.action):])
	e.size = int64(binary.BigEndian.Uint64(record[2*len(e.action):]))
	return e
}

// writePack packs entries of a disk into a file. What has vanished from the disk is
// left out.
func writePack(ctx context.Context, d disk, entries []entry, file *os.File) (*pack, error) {
	sum := digest.Canonical.Digester()
	counted := &counter{w: io.MultiWriter(file, sum.Hash())}
	// What is fetched by every runner is worth a little time; one core each, as several
	// packs are made at once.
	w, err := zstd.NewWriter(counted, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
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
	p.Digest, p.Size, p.Count = sum.Digest(), counted.n, len(p.entries)
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
// each. They must be those that the index announced.
func readPack(ctx context.Context, r io.Reader, d disk, want []entry, done func(entry)) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	plain := bufio.NewReaderSize(z, 256<<10)
	record := make([]byte, entrySize)
	for _, e := range want {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, err := io.ReadFull(plain, record); err != nil {
			return err
		}
		if readEntry(record) != e {
			return errors.New("a pack of the cache isn't what its index says")
		}
		if _, err := d.put(e, plain); err != nil {
			return err
		}
		done(e)
	}
	_, err = io.Copy(io.Discard, r) // to its end, where its digest is compared
	return err
}
