package runner

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
)

// maxUnpacked bounds one layer, in bytes, so that a bomb can't fill the disk
// beyond it.
const maxUnpacked = 20 << 30

// unpack applies one layer to root (image-spec v1.1.1, layer.md, "Applying
// Changesets"). Nothing outside root is ever read or written, whatever names
// and links the layer has.
func unpack(ctx context.Context, src image.Source, d ocispec.Descriptor, root string) error {
	blob, err := src.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer blob.Close()
	plain, err := decompress(blob)
	if err != nil {
		return err
	}
	defer plain.Close()
	limited := &io.LimitedReader{R: plain, N: maxUnpacked}
	for tr := tar.NewReader(limited); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if limited.N <= 0 {
				return fmt.Errorf("more than %d bytes unpacked", int64(maxUnpacked))
			}
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := apply(root, h, tr); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	// To the end, so that the digest is checked.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, blob)
	return err
}

// Unpack applies the layers of an image, the lowest first, to the empty directory root.
func Unpack(ctx context.Context, src image.Source, layers []ocispec.Descriptor, root string) error {
	for _, d := range layers {
		if err := unpack(ctx, src, d, root); err != nil {
			return fmt.Errorf("unpack %s: %w", d.Digest, err)
		}
	}
	return nil
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(head), "\x1f\x8b"):
		return gzip.NewReader(buffered)
	case string(head) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

func apply(root string, h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)
	if name == "/" {
		return nil
	}
	dir, err := resolve(root, path.Dir(name), true)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		return err
	}
	base := path.Base(name)
	if base == ".wh..wh..opq" {
		return empty(filepath.Join(root, dir))
	}
	if gone, ok := strings.CutPrefix(base, ".wh."); ok {
		return os.RemoveAll(filepath.Join(root, dir, path.Base("/"+gone)))
	}
	target := filepath.Join(root, dir, base)
	mode := fs.FileMode(h.Mode).Perm()
	if h.Typeflag != tar.TypeDir {
		if err := os.RemoveAll(target); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if info, err := os.Lstat(target); err == nil && !info.IsDir() {
			if err := os.Remove(target); err != nil {
				return err
			}
		}
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if h.Mode&0o1000 != 0 {
			mode |= fs.ModeSticky
		}
	case tar.TypeReg:
		f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, target)
	case tar.TypeLink:
		from, err := resolve(root, path.Clean("/"+h.Linkname), false)
		if err != nil {
			return err
		}
		return os.Link(filepath.Join(root, from), target)
	default:
		return nil // devices and pipes: a program that needs them needs an engine
	}
	own(target, h)
	return os.Chmod(target, mode)
}

// own gives a file its owner where that is possible: for root.
func own(target string, h *tar.Header) {
	if os.Geteuid() == 0 {
		_ = os.Lchown(target, h.Uid, h.Gid)
	}
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows symbolic links inside root, as a process with that root
// would, and gives the path below root. Only the last element may be missing a
// target; it is followed too if last is set.
func resolve(root, name string, last bool) (string, error) {
	rest := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at := "/"
	for hops := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, element)
		if len(rest) == 0 && !last {
			return next, nil
		}
		link, err := os.Readlink(filepath.Join(root, next))
		if err != nil { // no link, or not there yet
			at = next
			continue
		}
		if hops++; hops > 40 {
			return "", errors.New("too many symbolic links")
		}
		if path.IsAbs(link) {
			at = "/"
		}
		rest = append(strings.Split(link, "/"), rest...)
	}
	return at, nil
}
