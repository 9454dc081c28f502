package fileop

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/anyarch/anyarch/internal/filetree"
)

// maxUnpacked bounds what one archive may become.
const maxUnpacked = 20 << 30

// unpack extracts a local archive into dest, as ADD does; false if the file is no
// archive.
func (r *runner) unpack(source, dest string) (bool, error) {
	a, err := r.src.Stat(source)
	if err != nil {
		return false, notFound(err, source)
	}
	if !a.IsRegular() || a.Size() == 0 {
		return false, nil
	}
	f, err := a.Open()
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	plain, closer, err := decompressor(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		return false, nil // no archive: it is copied as it is
	}
	defer closer()
	limited := &io.LimitedReader{R: plain, N: maxUnpacked}
	tr := tar.NewReader(limited)
	h, err := tr.Next()
	if err != nil {
		return false, nil
	}
	target, err := r.dst.Resolve(path.Clean(dest), true)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = path.Clean(dest), nil
	}
	if err != nil {
		return false, err
	}
	if err := r.dst.MkdirAll(target, r.attr(0o755)); err != nil {
		return false, err
	}
	for ; err == nil; h, err = tr.Next() {
		if cerr := r.ctx.Err(); cerr != nil {
			return true, cerr
		}
		if err := r.extract(target, h, tr); err != nil {
			return true, fmt.Errorf("%s: %w", source, err)
		}
	}
	if !errors.Is(err, io.EOF) {
		return true, fmt.Errorf("%s: %w", source, err)
	}
	if limited.N <= 0 {
		return true, fmt.Errorf("%s has more than %d bytes unpacked", source, int64(maxUnpacked))
	}
	return true, nil
}

// decompressor goes by the first bytes; an error means that it is no archive.
func decompressor(r *bufio.Reader) (io.Reader, func(), error) {
	head, _ := r.Peek(6)
	none := func() {}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, none, err
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), none, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.NewReader(r)
		return z, none, err
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, none, err
		}
		return z, z.Close, nil
	}
	if block, err := r.Peek(512); err == nil && bytes.HasPrefix(block[257:], []byte("ustar")) {
		return r, none, nil
	}
	return nil, none, errors.New("no archive")
}

// extract puts one entry of an archive below dir. Names stay inside, and symbolic
// links on the way are followed inside the tree.
func (r *runner) extract(dir string, h *tar.Header, content io.Reader) error {
	name := path.Join(dir, path.Join("/", h.Name))
	attr := filetree.Attr{Mode: bits(int(h.Mode)), UID: h.Uid, GID: h.Gid, ModTime: r.time(h.ModTime)}
	if r.owner != nil {
		attr.UID, attr.GID = r.owner.uid, r.owner.gid
	}
	for key, value := range h.PAXRecords {
		if x, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if attr.Xattrs == nil {
				attr.Xattrs = map[string]string{}
			}
			attr.Xattrs[x] = value
		}
	}
	if name == dir {
		return nil
	}
	if err := r.dst.MkdirAll(path.Dir(name), r.attr(0o755)); err != nil {
		return err
	}
	existing, err := r.dst.Lstat(name)
	exists := err == nil
	switch h.Typeflag {
	case tar.TypeDir:
		attr.Mode |= fs.ModeDir
		if exists && existing.IsDir() {
			return r.dst.Put(name, attr)
		}
	case tar.TypeReg:
		if h.Size > 0 {
			if attr.Content, err = r.spool(content, h.Size); err != nil {
				return err
			}
		}
	case tar.TypeSymlink:
		attr.Mode, attr.Link = fs.ModeSymlink|0o777, h.Linkname
	case tar.TypeLink:
		if exists {
			if err := r.dst.RemoveAll(name); err != nil {
				return err
			}
		}
		return r.dst.Link(path.Join(dir, path.Join("/", h.Linkname)), name)
	case tar.TypeChar:
		attr.Mode, attr.DevMajor, attr.DevMinor = attr.Mode|fs.ModeDevice|fs.ModeCharDevice, h.Devmajor, h.Devminor
	case tar.TypeBlock:
		attr.Mode, attr.DevMajor, attr.DevMinor = attr.Mode|fs.ModeDevice, h.Devmajor, h.Devminor
	case tar.TypeFifo:
		attr.Mode |= fs.ModeNamedPipe
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("%s has the type %q, which isn't supported", h.Name, h.Typeflag)
	}
	if exists {
		if err := r.dst.RemoveAll(name); err != nil {
			return err
		}
	}
	return r.dst.Put(name, attr)
}

// spool keeps the content of an archive's file: small ones in memory, others on disk.
func (r *runner) spool(content io.Reader, size int64) (filetree.Content, error) {
	if size <= 64<<10 {
		b, err := io.ReadAll(io.LimitReader(content, size))
		return filetree.Bytes(b).Content(), err
	}
	f, err := os.CreateTemp(r.Scratch, "unpacked-*")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return filetree.FileContent(f.Name(), n), nil
}
