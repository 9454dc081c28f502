package archive

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// member is a file of an ar archive.
type member struct {
	name         string
	offset, size int64
}

const (
	arMagic   = "!<arch>\n"
	arHeader  = 60
	maxMember = 100
)

// members lists an ar archive in the common format, without the extensions for long
// names, which packages don't need (deb(5)).
func members(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), magic); err != nil || string(magic) != arMagic {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, errors.New("it isn't a .deb: it isn't an ar archive")
	}
	var list []member
	header := make([]byte, arHeader)
	for at := int64(len(arMagic)); at < size; {
		if len(list) == maxMember {
			return nil, fmt.Errorf("the ar archive has more than %d members", maxMember)
		}
		if _, err := io.ReadFull(io.NewSectionReader(r, at, size-at), header); err != nil {
			return nil, fmt.Errorf("the ar archive ends in a header: %w", err)
		}
		if string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("the ar archive has no header at %d", at)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		length, err := strconv.ParseInt(strings.Trim(string(header[48:58]), " "), 10, 64)
		if err != nil || length < 0 || length > size-at-arHeader {
			return nil, fmt.Errorf("the member %q of the ar archive has the size %q", name, header[48:58])
		}
		list = append(list, member{name, at + arHeader, length})
		// Members start at even offsets.
		at += arHeader + length + length%2
	}
	return list, nil
}

func (m member) open(r io.ReaderAt) io.Reader { return io.NewSectionReader(r, m.offset, m.size) }

// decompressor gives what is inside and what to call when it isn't needed any more.
type decompressor func(*bufio.Reader) (io.Reader, func(), error)

// decompressors are the compressions of deb(5), by the ending of the name. lzma,
// which dpkg-deb doesn't write any more, isn't among them.
var decompressors = map[string]decompressor{
	"": func(r *bufio.Reader) (io.Reader, func(), error) { return r, func() {}, nil },
	".gz": func(r *bufio.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	},
	".bz2": func(r *bufio.Reader) (io.Reader, func(), error) { return bzip2.NewReader(r), func() {}, nil },
	".xz":  func(r *bufio.Reader) (io.Reader, func(), error) { return newXZReader(r), func() {}, nil },
	".zst": func(r *bufio.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	},
}

func compression(name, tar string) (decompressor, error) {
	ending := strings.TrimPrefix(name, tar)
	d, ok := decompressors[ending]
	if !ok || ending == ".bz2" && tar == "control.tar" {
		return nil, fmt.Errorf("the compression of %q isn't known", name)
	}
	return d, nil
}

// decompressed gives the tar archive in the member.
func (m member) decompressed(r io.ReaderAt, tar string) (io.Reader, func(), error) {
	d, err := compression(m.name, tar)
	if err != nil {
		return nil, nil, err
	}
	return d(bufio.NewReaderSize(m.open(r), 1<<16))
}
