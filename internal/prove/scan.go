package prove

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// scanVersion changes whenever the scanner finds something else in the same
// layer, so that results in a cache aren't used any more.
const scanVersion = 1

// Bounds on one layer.
const (
	maxEntries = 1_000_000
	maxPath    = 4096 // bytes, as Linux has it
	maxNames   = 64 << 20
	maxScript  = 255 // bytes of a #! line, as Linux reads it
	maxText    = 64 << 10
	maxReports = 20 // problems that are reported of one layer
)

// scan is what one layer holds, of what matters here.
type scan struct {
	Version    int           `json:"version"`
	DiffID     digest.Digest `json:"diffID"`
	Compressed int64         `json:"compressed"` // bytes of the blob
	Root       *node         `json:"root"`
	// Problems are entries that container runtimes refuse.
	Problems []string `json:"problems,omitempty"`

	unclean bool // has names that aren't UTF-8, which JSON can't carry
}

// scanner reads one layer.
type scanner struct {
	*scan
	spool   *spool
	entries int
	names   int
	links   []lateLink
}

// lateLink is a hard link that came before its file, or whose file is in a
// layer below.
type lateLink struct {
	node   *node
	target string
}

// scanLayer reads a layer as a stream: the tree of its entries, and what its
// programs say about themselves. Nothing is unpacked but one program at a time,
// to memory or to a temporary file in dir. The error is a *badLayer if the
// bytes can't be used, else what reading or the disk gave.
func scanLayer(ctx context.Context, src *source, limits Limits, dir string) (result *scan, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, badf("not readable: %v", p)
		}
	}()
	raw, free, err := decompress(src)
	if err != nil {
		return nil, err
	}
	defer free()
	limited := &bounded{Reader: raw, src: src, limits: limits.filled()}
	diffID := digest.Canonical.Digester()
	stream := io.TeeReader(limited, diffID.Hash())

	s := &scanner{scan: &scan{Version: scanVersion, Root: &node{Kind: kindDir, Mode: 0o755}}, spool: &spool{dir: dir}}
	defer s.spool.close()
	if err := s.read(ctx, tar.NewReader(stream), limited); err != nil {
		return nil, err
	}
	// What follows the archive belongs to the digests.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return nil, asBad(err)
	}
	if _, err := io.Copy(io.Discard, src); err != nil {
		return nil, err
	}
	s.settleLinks()
	s.DiffID, s.Compressed = diffID.Digest(), src.n
	return s.scan, nil
}

// asBad takes an error of a decompressor or of archive/tar for one of the bytes.
func asBad(err error) error {
	var bad *badLayer
	if errors.As(err, &bad) {
		return bad
	}
	return badf("%v", err)
}

func (s *scanner) read(ctx context.Context, tr *tar.Reader, limited *bounded) error {
	head := make([]byte, 512)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return asBad(err)
		}
		if s.entries++; s.entries > maxEntries {
			return badf("more than %d entries", maxEntries)
		}
		if s.names += len(h.Name) + len(h.Linkname); s.names > maxNames {
			return badf("more than %d bytes of names", maxNames)
		}
		n := &node{Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid}
		link := ""
		switch h.Typeflag {
		case tar.TypeDir:
			n.Kind = kindDir
		case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
			n.Kind, n.Size = kindFile, h.Size
			if strings.HasSuffix(h.Name, "/") {
				n.Kind, n.Size = kindDir, 0 // as old tars write directories
				break
			}
			if err := s.content(tr, h, n, head, limited); err != nil {
				return err
			}
		case tar.TypeSymlink:
			n.Kind, n.Link = kindSymlink, h.Linkname
		case tar.TypeLink:
			n.Kind, link = kindHardlink, h.Linkname
		case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
			n.Kind = kindOther
		case tar.TypeXGlobalHeader:
			continue
		default:
			s.problem(h.Name, fmt.Sprintf("has the unknown type %q", h.Typeflag))
			continue
		}
		s.put(h.Name, n, link)
	}
}

// content looks into a regular file.
func (s *scanner) content(tr *tar.Reader, h *tar.Header, n *node, head []byte, limited *bounded) error {
	got, err := io.ReadFull(tr, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return asBad(err)
	}
	begin := head[:got]
	switch {
	case looksLikeProgram(begin):
		before := limited.n
		d, err := s.spool.fill(begin, tr, h.Size)
		if err != nil {
			return s.fillError(err)
		}
		// A sparse file is larger than its bytes in the archive.
		if grown := s.spool.size - (limited.n - before) - int64(got); grown > 0 {
			limited.extra += grown
			if err := limited.check(); err != nil {
				return err
			}
		}
		b, err := ReadBinary(s.spool, s.spool.size)
		if err != nil {
			if b == nil {
				b = &Binary{Format: formatOf(begin), Kind: kindProgram, Machine: "unknown"}
			}
			b.Problem = err.Error()
		}
		if b != nil {
			b.Size, b.Mode, b.Digest = h.Size, n.Mode, d
			n.Binary = b
		}
	case bytes.HasPrefix(begin, []byte("#!")) && n.Mode&0o111 != 0:
		line, _, _ := bytes.Cut(begin[:min(got, maxScript)], []byte("\n"))
		n.Script = string(line)
	case isLoaderSetting(h.Name):
		rest, err := io.ReadAll(io.LimitReader(tr, maxText-int64(got)))
		if err != nil {
			return asBad(err)
		}
		n.Text = string(begin) + string(rest)
	}
	return nil
}

// fillError tells errors of the disk from those of the layer.
func (s *scanner) fillError(err error) error {
	var disk *diskError
	if errors.As(err, &disk) {
		return disk
	}
	return asBad(err)
}

func formatOf(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return ELF
	case bytes.HasPrefix(head, []byte("MZ")):
		return PE
	}
	return MachO
}

// isLoaderSetting names the files that tell the dynamic loader where to look.
func isLoaderSetting(name string) bool {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	return name == "etc/ld.so.conf" ||
		strings.HasPrefix(name, "etc/ld.so.conf.d/") && strings.HasSuffix(name, ".conf") ||
		strings.HasPrefix(name, "etc/ld-musl-") && strings.HasSuffix(name, ".path")
}

func (s *scanner) problem(name, what string) {
	if len(s.Problems) < maxReports {
		s.Problems = append(s.Problems, fmt.Sprintf("%.200q %s", name, what))
	}
}

// clean gives the elements of an entry's name, as runtimes take it: relative to
// the root even if it begins with a slash.
func (s *scanner) clean(name string) ([]string, bool) {
	if !utf8.ValidString(name) {
		s.unclean = true
	}
	switch {
	case len(name) > maxPath:
		s.problem(name, fmt.Sprintf("has a name of more than %d bytes", maxPath))
		return nil, false
	case strings.IndexByte(name, 0) >= 0:
		s.problem(name, "has a NUL in its name")
		return nil, false
	}
	relative := path.Clean(strings.TrimLeft(name, "/"))
	if relative == ".." || strings.HasPrefix(relative, "../") {
		s.problem(name, "lies outside of the image")
		return nil, false
	}
	if relative == "." {
		return nil, true
	}
	return strings.Split(relative, "/"), true
}

const whiteout = ".wh."

// put adds an entry to the tree of the layer, the last one of a name winning.
func (s *scanner) put(name string, n *node, link string) {
	elements, ok := s.clean(name)
	if !ok {
		return
	}
	if n.Kind == kindSymlink && (n.Link == "" || len(n.Link) > maxPath || strings.IndexByte(n.Link, 0) >= 0) {
		s.problem(name, "is a symbolic link that leads nowhere")
		return
	}
	if !utf8.ValidString(n.Link) || !utf8.ValidString(n.Script) || !utf8.ValidString(n.Text) {
		s.unclean = true
	}
	if len(elements) == 0 {
		if n.Kind != kindDir {
			s.problem(name, "is the root, and no directory")
		}
		return
	}
	last := elements[len(elements)-1]
	dir := s.makeDir(elements[:len(elements)-1], 0)
	if dir == nil {
		s.problem(name, "lies in something that isn't a directory")
		return
	}
	if rest, is := strings.CutPrefix(last, whiteout); is {
		s.whiteout(name, dir, rest)
		return
	}
	if n.Kind == kindHardlink && !s.hardlink(name, n, link) {
		return
	}
	if n.Kind == kindHardlink {
		if target := s.lookup(n.Link); target != nil && target.Kind != kindDir && target.Kind != kindWhiteout {
			n = target
		} else {
			s.links = append(s.links, lateLink{n, n.Link})
		}
	}
	old := dir.Children[last]
	switch {
	case old != nil && old.Kind == kindDir && n.Kind == kindDir:
		old.Mode, old.UID, old.GID = n.Mode, n.UID, n.GID
		return
	case old != nil && n.Kind == kindDir && (old.Kind == kindWhiteout || old.Hides):
		n.Hides = true
	}
	set(dir, last, n)
}

func set(dir *node, name string, n *node) {
	if dir.Children == nil {
		dir.Children = map[string]*node{}
	}
	dir.Children[name] = n
}

// hardlink checks the target of a hard link and keeps it in normal form.
func (s *scanner) hardlink(name string, n *node, link string) bool {
	target, ok := s.clean(link)
	if !ok || len(target) == 0 {
		s.problem(name, "is a hard link that leads nowhere")
		return false
	}
	n.Link = strings.Join(target, "/")
	return true
}

// whiteout notes that something of the layers below is gone (image-spec v1.1.1,
// layer.md, "Whiteouts"). It doesn't touch what this layer brings itself.
func (s *scanner) whiteout(name string, dir *node, rest string) {
	switch {
	case rest == whiteout+".opq":
		dir.Hides = true
	case strings.HasPrefix(rest, whiteout): // aufs keeps its own data so
	case rest == "" || rest == "." || rest == "..":
		s.problem(name, "removes nothing that can be")
	default:
		switch old := dir.Children[rest]; {
		case old == nil:
			set(dir, rest, &node{Kind: kindWhiteout})
		case old.Kind == kindDir:
			old.Hides = true
		}
	}
}

// makeDir gives the directory of some elements, making what isn't there and
// following symbolic links of this layer; nil if something else is in the way.
func (s *scanner) makeDir(elements []string, links int) *node {
	at := []*node{s.Root}
	for i, element := range elements {
		dir := at[len(at)-1]
		if element == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		c := dir.Children[element]
		switch {
		case c == nil, c.Kind == kindWhiteout:
			made := &node{Kind: kindDir, Mode: 0o755, Hides: c != nil}
			set(dir, element, made)
			c = made
		case c.Kind == kindSymlink:
			if links >= maxLinks {
				return nil
			}
			var target []string
			if !strings.HasPrefix(c.Link, "/") {
				target = append(target, elements[:i]...)
			}
			target = append(append(target, split(c.Link)...), elements[i+1:]...)
			return s.makeDir(target, links+1)
		case c.Kind != kindDir:
			return nil
		}
		at = append(at, c)
	}
	return at[len(at)-1]
}

// lookup finds what this layer has at a path.
func (s *scanner) lookup(name string) *node {
	t := &tree{layers: []treeLayer{{root: s.Root}}}
	dir, st := t.resolve(path.Dir(name))
	if st != found {
		return nil
	}
	return dir.node().Children[path.Base(name)]
}

// settleLinks lets hard links that came before their file share its content.
// What is left is to a file of a layer below.
func (s *scanner) settleLinks() {
	for _, l := range s.links {
		switch target := s.lookup(l.target); {
		case target == nil, target.Kind == kindHardlink:
		case target.Kind == kindDir:
			s.problem(l.target, "is a directory with a hard link to it")
		default:
			*l.node = *target
		}
	}
}
