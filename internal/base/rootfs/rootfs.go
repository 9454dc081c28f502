// Package rootfs gives the root file system of an image as a file tree, made of
// its layers. A layer is unpacked once, to a tar that content is read from.
package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Layer is one layer of an image.
type Layer struct {
	DiffID    digest.Digest
	MediaType string
	Open      func(ctx context.Context) (io.ReadCloser, error) // compressed, as it is in the registry
}

// Options say where layers are unpacked.
type Options struct {
	Dir string // kept from run to run: one tar per diff ID
	// Use says what a file there is like, and keeps others from removing it while
	// the tree is used; nil where nobody removes anything.
	Use func(path string) (fs.FileInfo, error)
}

// What one layer may become, so that a small blob can't fill the disk.
const (
	maxUnpacked   = 20 << 30
	maxZstdWindow = 128 << 20
	maxEntries    = 4 << 20
)

// Index gives the tree that layers make, the first at the bottom. A layer that
// isn't what its diff ID says is a refusal.Error with code PA109.
func Index(ctx context.Context, layers []Layer, o Options) (*filetree.Tree, error) {
	before := o.unpacked(layers)
	t, err := index(ctx, layers, o)
	if err == nil || ctx.Err() != nil {
		return t, err
	}
	dropDamaged(layers, o)
	// Another platform that met the same damage may have been first.
	if slices.EqualFunc(before, o.unpacked(layers), func(was, is fs.FileInfo) bool { return was == nil || sameFile(was, is) }) {
		return nil, err
	}
	return index(ctx, layers, o)
}

// unpacked are the files of layers that are there, nil for others.
func (o Options) unpacked(layers []Layer) []fs.FileInfo {
	list := make([]fs.FileInfo, len(layers))
	for i, l := range layers {
		if l.DiffID.Validate() == nil {
			list[i], _ = os.Stat(o.file(l)) // what can't be looked at isn't there
		}
	}
	return list
}

// sameFile reports whether a file is still there, and no other one in its place: numbers of
// files are given out again, so that the time counts too.
func sameFile(was, is fs.FileInfo) bool {
	return is != nil && os.SameFile(was, is) && was.ModTime().Equal(is.ModTime())
}

// dropDamaged removes unpacked layers that aren't any more what they were when they were
// unpacked.
func dropDamaged(layers []Layer, o Options) {
	for _, l := range layers {
		if l.DiffID.Validate() != nil {
			continue
		}
		f, err := os.Open(o.file(l))
		if err != nil {
			continue
		}
		was, statErr := f.Stat()
		verifier := l.DiffID.Verifier()
		_, err = io.Copy(verifier, f)
		_ = f.Close()
		if err != nil || statErr != nil || verifier.Verified() {
			continue
		}
		if is, err := os.Stat(o.file(l)); err == nil && sameFile(was, is) { // no sound one has come in its place
			_ = os.Remove(o.file(l)) // if it stays, the error does
		}
	}
}

// file is where the tar of a layer is.
func (o Options) file(l Layer) string {
	return filepath.Join(o.Dir, l.DiffID.Algorithm().String()+"-"+l.DiffID.Encoded()+".tar")
}

func index(ctx context.Context, layers []Layer, o Options) (*filetree.Tree, error) {
	t := filetree.New()
	for i, l := range layers {
		file, err := unpack(ctx, l, o)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if err := apply(ctx, t, file); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return t, nil
}

// unpack gives the file with the tar of a layer.
func unpack(ctx context.Context, l Layer, o Options) (string, error) {
	dir, stat := o.Dir, os.Stat
	if o.Use != nil {
		stat = o.Use
	}
	if err := l.DiffID.Validate(); err != nil {
		return "", refuse(fmt.Sprintf("the diff ID %q is no digest", l.DiffID))
	}
	file := o.file(l)
	if _, err := stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	r, err := l.Open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	plain, closer, err := decompress(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return "", refuse("the layer can't be decompressed: " + err.Error())
	}
	defer closer()
	out, err := os.CreateTemp(dir, ".layer-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(out.Name()) }()
	verifier := l.DiffID.Verifier()
	n, err := io.Copy(io.MultiWriter(out, verifier), io.LimitReader(&cancellable{ctx, plain}, maxUnpacked+1))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", fmt.Errorf("unpack: %w", err)
	case n > maxUnpacked:
		return "", refuse(fmt.Sprintf("the layer has more than %d bytes", int64(maxUnpacked)))
	case !verifier.Verified():
		return "", refuse("the layer isn't what its diff ID " + l.DiffID.String() + " says")
	}
	return file, os.Rename(out.Name(), file)
}

type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func refuse(why string) error { return &refusal.Error{Code: "PA109", Summary: why} }

// decompress goes by what the bytes are: media types lie.
func decompress(r *bufio.Reader) (io.Reader, func(), error) {
	head, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// apply puts a layer over a tree (image-spec v1.1.1, layer.md, "Applying
// Changesets"): removals first, as they are about the layers below only.
func apply(ctx context.Context, t *filetree.Tree, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	type entry struct {
		h      *tar.Header
		offset int64
	}
	var entries []entry
	// archive/tar skips content by seeking where it can, so the position of a
	// file's content is that of the file after its header was read.
	tr := tar.NewReader(f)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return refuse("the layer is no tar: " + err.Error())
		}
		if len(entries) >= maxEntries {
			return refuse(fmt.Sprintf("the layer has more than %d files", maxEntries))
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		name := clean(h.Name)
		base := path.Base(name)
		if strings.HasPrefix(base, ".wh.") {
			dir, err := place(t, path.Dir(name), false)
			if err != nil {
				continue // nothing there to remove
			}
			if base == ".wh..wh..opq" {
				children, err := t.ReadDir(dir)
				if err != nil {
					continue
				}
				for _, c := range children {
					if err := t.RemoveAll(path.Join(dir, c.Name)); err != nil {
						return err
					}
				}
			} else if err := t.RemoveAll(path.Join(dir, strings.TrimPrefix(base, ".wh."))); err != nil {
				return err
			}
			continue
		}
		entries = append(entries, entry{h, offset})
	}
	for _, e := range entries {
		if err := add(t, e.h, file, e.offset); err != nil {
			return err
		}
	}
	return nil
}

// clean makes a name in a layer absolute and keeps it inside the root.
func clean(name string) string { return path.Clean("/" + name) }

// place gives the canonical path of a directory, following symbolic links inside
// the root; what is missing is made, if create is set.
func place(t *filetree.Tree, dir string, create bool) (string, error) {
	if create {
		if err := t.MkdirAll(dir, filetree.Attr{Mode: 0o755}); err != nil {
			return "", err
		}
	}
	a, err := t.Stat(dir)
	if err != nil {
		return "", err
	}
	if !a.IsDir() {
		return "", &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	return t.Resolve(dir, true)
}

func add(t *filetree.Tree, h *tar.Header, file string, offset int64) error {
	name := clean(h.Name)
	a := filetree.Attr{Mode: mode(h.Mode), UID: h.Uid, GID: h.Gid, ModTime: h.ModTime}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if a.Xattrs == nil {
				a.Xattrs = map[string]string{}
			}
			a.Xattrs[attr] = value
		}
	}
	if name == "/" {
		if h.Typeflag == tar.TypeDir {
			a.Mode |= fs.ModeDir
			return t.Put("/", a)
		}
		return nil
	}
	dir, err := place(t, path.Dir(name), true)
	if err != nil {
		return refuse(fmt.Sprintf("the layer has %s, but what it lies in is no directory", name))
	}
	name = path.Join(dir, path.Base(name))
	old, oldErr := t.Lstat(name)
	switch h.Typeflag {
	case tar.TypeDir:
		a.Mode |= fs.ModeDir
		if oldErr == nil && old.IsDir() {
			return t.Put(name, a)
		}
	case tar.TypeReg:
		if h.Size < 0 {
			return refuse(name + " has a negative size")
		}
		if h.Size > 0 {
			a.Content = filetree.SectionContent(file, offset, h.Size)
		}
		if strings.Contains(fmt.Sprint(h.PAXRecords), "GNU.sparse") {
			return refuse(name + " is a sparse file, which layers don't have")
		}
	case tar.TypeSymlink:
		a.Mode, a.Link = fs.ModeSymlink|0o777, h.Linkname
	case tar.TypeLink:
		target, err := place(t, path.Dir(clean(h.Linkname)), false)
		if err == nil {
			target = path.Join(target, path.Base(clean(h.Linkname)))
			if target == name {
				return nil
			}
			if oldErr == nil {
				err = t.RemoveAll(name)
			}
			if err == nil {
				err = t.Link(target, name)
			}
		}
		if err != nil {
			return refuse(fmt.Sprintf("%s is a hard link to %s, which isn't there", name, h.Linkname))
		}
		return nil
	case tar.TypeChar:
		a.Mode, a.DevMajor, a.DevMinor = a.Mode|fs.ModeDevice|fs.ModeCharDevice, h.Devmajor, h.Devminor
	case tar.TypeBlock:
		a.Mode, a.DevMajor, a.DevMinor = a.Mode|fs.ModeDevice, h.Devmajor, h.Devminor
	case tar.TypeFifo:
		a.Mode |= fs.ModeNamedPipe
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return refuse(fmt.Sprintf("%s has the type %q, which layers don't have", name, h.Typeflag))
	}
	if oldErr == nil {
		if err := t.RemoveAll(name); err != nil {
			return err
		}
	}
	return t.Put(name, a)
}

// mode turns the mode of a tar header into that of io/fs.
func mode(m int64) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			out |= flag
		}
	}
	return out
}
