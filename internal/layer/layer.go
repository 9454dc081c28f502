// Package layer turns files into a layer: a deterministic tar, compressed, as a
// blob in a store, in one streaming pass.
//
// The bytes of a layer are a function of its entries and options alone: not of
// the machine, the number of cores, the time or the order in which the entries
// were found. Memory doesn't grow with the size of files.
package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Compat is the compatibility number of the encoders: two versions of this
// program with the same number make the same bytes of the same entries. It
// rises with every change of a golden digest in this package's tests, be its
// cause here, in klauspost/compress or in archive/tar.
const Compat = 1

// Compression is how the tar of a layer is compressed. The empty string means
// [Gzip].
type Compression string

// The compressions of layers (image-spec v1.1.1, layer.md).
const (
	Gzip Compression = "gzip" // every runtime and registry takes it
	Zstd Compression = "zstd" // smaller and faster; needs Docker 23 or containerd 1.5
)

// ParseCompression reads the name of a compression; the empty string is [Gzip].
// Another name is a [refusal.Error] with code PA502.
func ParseCompression(name string) (Compression, error) {
	switch c := Compression(name); c {
	case "", Gzip:
		return Gzip, nil
	case Zstd:
		return Zstd, nil
	}
	return "", &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--compression " + name,
		Summary: fmt.Sprintf("%q is not a compression of layers; known are gzip and zstd", name),
		Fix:     []string{"--compression gzip", "--compression zstd"},
	}
}

// The levels are fixed, since a level is part of a layer's digest. Measured on
// the tars of four stripped Go programs of 12 to 24 MB, against the standard
// library's gzip at level 1, which ko uses (size, time with hashing):
//
//	gzip 4        0.943  0.84        zstd fastest  0.92-0.95  0.4-0.5
//	gzip 5        0.92   0.99-1.08   zstd default  0.88-0.895 0.5-0.6
//	gzip 6        0.91   1.07-1.17   zstd better   0.85-0.87  1.0-2.0
//
// gzip 5 is the cheapest level below 0.93 of the bytes, for the same time;
// zstd's default is the last level that is faster than gzip.
const (
	gzipLevel = 5
	zstdLevel = zstd.SpeedDefault
	// zstdWindow bounds what every client needs to decompress, and what an
	// encoder needs here, in bytes. 8 MiB made no program smaller.
	zstdWindow = 4 << 20
)

// MediaType is the OCI media type of layers with this compression.
func (c Compression) MediaType() string {
	if c == Zstd {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// encoder compresses into w. Neither encoder's output depends on the sizes of
// the writes. The encoders of klauspost/compress have assembly for some
// architectures, which its authors test to give the same output as the Go code.
func (o Options) encoder(w io.Writer, st *store.Store) (io.WriteCloser, error) {
	switch o.Compression {
	case "", Gzip:
		return newBlockGzip(w, st, o.Earlier)
	case Zstd:
		return zstd.NewWriter(w,
			zstd.WithEncoderLevel(zstdLevel),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderConcurrency(1), // blocks are cut in the same places on every machine
			zstd.WithEncoderCRC(true))
	}
	_, err := ParseCompression(string(o.Compression))
	return nil, err
}

// Options say how a layer is written.
type Options struct {
	Compression Compression
	// ModTime is the time of entries that have none of their own, to the
	// second. The zero time means the epoch.
	ModTime time.Time
	// Windows makes a layer for Windows: files lie under Files, there is an
	// empty directory Hives, and each entry carries attributes and a security
	// descriptor.
	Windows bool
	// Parent, if not nil, gives the entry of a directory that no entry names
	// but that one lies in; false for the default, which is mode 0755 of user
	// and group 0. An entry replaces the attributes that the directory has in
	// the layers below, so say here what they are, such as 1777 for tmp.
	Parent func(name string) (Entry, bool)
	// OmitParents leaves directories out that no entry names. Extractors make
	// what is missing and keep what is there, also where it is a link: right
	// for a layer over a base whose tree isn't known.
	OmitParents bool
	// Earlier is what Made was told of a layer with much of the same content,
	// whose blob may be in the store; it saves time and changes nothing else.
	Earlier *Blocks
	// Made, if not nil, is told what a gzip layer is made of.
	Made func(Blocks)
}

// Write makes a layer of entries and stores it. Digest, size and diff ID are
// found while the bytes go by. If an entry can't be part of a layer the error
// is a [refusal.Error] with code PA505, several of them at once in a
// [refusal.List]; a file that changes while it is read is PA124. On error
// nothing is stored.
func Write(ctx context.Context, st *store.Store, entries []Entry, o Options) (image.Layer, error) {
	headers, err := plan(entries, o)
	if err != nil {
		return image.Layer{}, err
	}
	blob, err := st.Ingest()
	if err != nil {
		return image.Layer{}, err
	}
	defer blob.Abort()
	encoder, err := o.encoder(blob, st)
	if err != nil {
		return image.Layer{}, err
	}
	diffID := digest.Canonical.Digester()
	if err := writeTar(ctx, io.MultiWriter(diffID.Hash(), encoder), headers); err != nil {
		encoder.Close() // ends the encoder; what it wrote is dropped
		return image.Layer{}, err
	}
	if err := encoder.Close(); err != nil {
		return image.Layer{}, fmt.Errorf("compress a layer: %w", err)
	}
	size := blob.Size()
	d, err := blob.Commit("")
	if err != nil {
		return image.Layer{}, err
	}
	if blocks, ok := encoder.(*blockGzip); ok && o.Made != nil {
		o.Made(Blocks{Blob: d, Blocks: blocks.made})
	}
	return image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: o.Compression.MediaType(), Digest: d, Size: size},
		DiffID:     diffID.Digest(),
	}, nil
}

// record is one entry as it goes into the tar.
type record struct {
	header tar.Header
	open   func() (io.ReadCloser, error) // nil unless there is content
}

// copyBuffer is how much of a file is in memory at once, in bytes.
const copyBuffer = 128 << 10

func writeTar(ctx context.Context, w io.Writer, records []record) error {
	tw := tar.NewWriter(w)
	buffer := make([]byte, copyBuffer)
	for _, r := range records {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := tw.WriteHeader(&r.header); err != nil {
			return fmt.Errorf("layer: %s: %w", r.header.Name, err)
		}
		if r.open == nil {
			continue
		}
		if err := writeContent(ctx, tw, r, buffer); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	return nil
}

// writeContent copies a file, no byte more or less than its header says.
func writeContent(ctx context.Context, tw *tar.Writer, r record, buffer []byte) (err error) {
	f, err := r.open()
	if err != nil {
		return fmt.Errorf("layer: %s: %w", r.header.Name, err)
	}
	defer f.Close()
	var n int64
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		got, readErr := f.Read(buffer)
		n += int64(got)
		if n > r.header.Size {
			return changed(r.header, fmt.Sprintf("more than the %d bytes that it had came", r.header.Size))
		}
		if _, err := tw.Write(buffer[:got]); err != nil {
			return fmt.Errorf("layer: %s: %w", r.header.Name, err)
		}
		switch {
		case errors.Is(readErr, io.EOF) && n < r.header.Size:
			return changed(r.header, fmt.Sprintf("%d bytes came instead of %d", n, r.header.Size))
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil:
			return fmt.Errorf("layer: %s: %w", r.header.Name, readErr)
		}
	}
}

func changed(h tar.Header, seen string) error {
	return &refusal.Error{
		Code: "PA124", Place: "/" + h.Name, Summary: "a file changed while it was read",
		Seen: []string{seen}, Fix: []string{"run it again when nothing writes to the file"},
	}
}

// tarMode is the mode as tar has it: permissions and the three special bits.
func tarMode(mode fs.FileMode) int64 {
	m := int64(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		m |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		m |= 0o1000
	}
	return m
}
