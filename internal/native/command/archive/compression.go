package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// compression is a kind of compressed stream; the zero value is none.
type compression string

const (
	none     compression = ""
	gzipped  compression = "gzip"
	bzipped  compression = "bzip2"
	xzed     compression = "xz"
	zstded   compression = "zstd"
	compress compression = "compress" // of Unix's early days; and others that aren't read
)

// option is the option of tar for a kind.
func (c compression) option() string {
	return map[compression]string{gzipped: "-z", bzipped: "-j", xzed: "-J", zstded: "--zstd", compress: "-Z"}[c]
}

// recognise goes by the first bytes.
func recognise(r *bufio.Reader) compression {
	head, _ := r.Peek(6)
	for _, k := range []struct {
		magic string
		kind  compression
	}{{"\x1f\x8b", gzipped}, {"BZh", bzipped}, {"\xfd7zXZ\x00", xzed}, {"\x28\xb5\x2f\xfd", zstded}, {"\x1f\x9d", compress}, {"\x5d\x00\x00", compress}, {"LZIP", compress}} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.kind
		}
	}
	return none
}

// errFormat is what a stream gives that isn't of its kind.
var errFormat = errors.New("not of this format")

// decompress reads a stream of a kind. The errors of the reader are those of the
// stream: errFormat, or what it says itself.
func decompress(r *bufio.Reader, kind compression) (io.Reader, func(), error) {
	nothing := func() {}
	if kind == none {
		return r, nothing, nil
	}
	if found := recognise(r); found != kind {
		if _, err := r.Peek(1); err != nil && !errors.Is(err, io.EOF) {
			return nil, nothing, err
		}
		return nil, nothing, errFormat
	}
	switch kind {
	case gzipped:
		z, err := newGunzip(r)
		return z, nothing, err
	case bzipped:
		return bzip2.NewReader(r), nothing, nil
	case xzed:
		z, err := xz.NewReader(r)
		return z, nothing, err
	case zstded:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	}
	return nil, nothing, errFormat
}

// errTrailing is what a gzip stream ends with if something else comes after it.
var errTrailing = errors.New("trailing garbage")

// gunzip reads the members of a gzip stream one after the other, and what comes
// after them: zeros, which are nothing, or something else.
type gunzip struct {
	in     *bufio.Reader
	z      *kgzip.Reader
	header kgzip.Header // of the first member
	err    error
}

func newGunzip(in *bufio.Reader) (*gunzip, error) {
	z, err := kgzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gunzip{in: in, z: z, header: z.Header}, nil
}

func (g *gunzip) Read(b []byte) (int, error) {
	for g.err == nil {
		n, err := g.z.Read(b)
		if errors.Is(err, io.EOF) {
			err = g.next()
		}
		g.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, g.err
}

// next goes on to the next member; io.EOF if there is none.
func (g *gunzip) next() error {
	head, err := g.in.Peek(2)
	switch {
	case len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b:
		if err := g.z.Reset(g.in); err != nil {
			return err
		}
		g.z.Multistream(false)
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		return err
	}
	for {
		c, err := g.in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errTrailing
		}
	}
}
