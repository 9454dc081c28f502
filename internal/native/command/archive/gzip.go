package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

var gzipOptions = command.Options{Short: "cdfkqntN123456789", Long: []string{"stdout", "to-stdout", "decompress", "uncompress", "force", "keep", "quiet", "no-name", "name", "test", "fast", "best"},
	Same: map[string]string{"stdout": "c", "to-stdout": "c", "decompress": "d", "uncompress": "d", "force": "f", "keep": "k", "quiet": "q", "no-name": "n", "name": "N", "test": "t", "fast": "1", "best": "9"}}

// gzipRun is one call of gzip, gunzip or zcat.
type gzipRun struct {
	*command.Parsed
	p       *command.Proc
	ctx     context.Context //nolint:containedctx // of this one call
	name    string
	scratch string
	unpack  bool
	level   int
	exit    int
}

func gzip(ctx context.Context, p *command.Proc, name, scratch string) (int, error) {
	opt, err := gzipOptions.Parse(name, p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	g := &gzipRun{Parsed: opt, p: p, ctx: ctx, name: name, scratch: scratch, unpack: name != "gzip" || opt.Has["d"] || opt.Has["t"], level: 6}
	for _, o := range opt.Order {
		if o.Name >= "1" && o.Name <= "9" {
			g.level = int(o.Name[0] - '0')
		}
	}
	if name == "zcat" {
		opt.Has["c"] = true
	}
	if opt.Has["N"] && (g.unpack || p.Dialect == command.Busybox) {
		return 0, &command.Unsupported{Command: name, What: "option -N"}
	}
	args := opt.Args
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, arg := range args {
		if arg == "-" {
			err = g.stream(p.Stdin, "stdin", "", time.Time{})
		} else {
			err = g.file(arg)
		}
		if errors.Is(err, errStop) {
			break
		}
		if err != nil {
			return 1, err
		}
	}
	return g.exit, nil
}

// warnf is what GNU's gzip calls a warning, of which the exit code is 2.
func (g *gzipRun) warnf(format string, args ...any) error {
	if g.p.Dialect == command.Busybox {
		return g.failf(format, args...)
	}
	if g.exit == 0 {
		g.exit = 2
	}
	if !g.Has["q"] {
		_ = g.sayf(format, args...)
	}
	return nil
}

func (g *gzipRun) failf(format string, args ...any) error {
	g.exit = 1
	return g.sayf(format, args...)
}

// sayf writes a message; its error is always nil.
func (g *gzipRun) sayf(format string, args ...any) error {
	name := "gzip" // GNU's gunzip and zcat are scripts that call it
	if g.p.Dialect == command.Busybox {
		name = g.name
	}
	_, _ = fmt.Fprintf(g.p.Stderr, name+": "+format+"\n", args...)
	return nil
}

// find looks for the file that is meant, which may lack its suffix.
func (g *gzipRun) find(name string) (string, filetree.Attr, error) {
	tries := []string{name}
	if g.unpack && g.p.Dialect == command.GNU && !strings.HasSuffix(name, ".gz") {
		tries = append(tries, name+".gz")
	}
	var a filetree.Attr
	var err error
	for _, try := range tries {
		if a, err = g.p.Tree.Stat(g.p.Path(try)); err == nil || command.Fatal(err) || !errors.Is(err, fs.ErrNotExist) {
			return try, a, err
		}
	}
	return tries[len(tries)-1], a, err
}

// unpacked is the name of what is in a compressed file.
func (g *gzipRun) unpacked(name string) (string, bool) {
	suffixes := []string{".gz", ".tgz"}
	if g.p.Dialect == command.GNU {
		suffixes = []string{".gz", ".tgz", ".taz", ".z", "-gz", "-z", "_z"}
	}
	for _, s := range suffixes {
		if base := strings.TrimSuffix(name, s); base != name && base != "" && !strings.HasSuffix(base, "/") {
			if strings.HasPrefix(s, ".t") {
				base += ".tar"
			}
			return base, true
		}
	}
	return "", false
}

// file packs or unpacks a file.
func (g *gzipRun) file(arg string) error {
	p := g.p
	name, a, err := g.find(arg)
	if command.Fatal(err) {
		return err
	}
	toStdout := g.Has["c"] || g.Has["t"]
	if err == nil && p.Dialect == command.GNU && !toStdout && !g.Has["f"] {
		if l, lerr := p.Tree.Lstat(p.Path(name)); lerr == nil && l.IsSymlink() {
			return g.failf("%s: Too many levels of symbolic links", name)
		}
	}
	switch {
	case err != nil:
		return g.failf("%s: %s", name, command.Reason(err))
	case a.IsDir() && p.Dialect == command.GNU:
		return g.warnf("%s is a directory -- ignored", name)
	case a.IsDir():
		return g.failf("read error: Is a directory")
	}
	in, err := p.Open(name)
	if command.Fatal(err) {
		return err
	}
	if err != nil {
		return g.failf("%s: %s", name, command.Reason(err))
	}
	defer func() { _ = in.Close() }()
	if toStdout {
		return g.stream(in, name, path.Base(name), a.ModTime)
	}
	target := name + ".gz"
	switch {
	case g.unpack:
		var ok bool
		if target, ok = g.unpacked(name); !ok {
			return g.warnf("%s: unknown suffix -%s ignored", name, map[command.Dialect]string{command.GNU: "-"}[p.Dialect])
		}
	case p.Dialect == command.GNU && !g.Has["f"]:
		for _, s := range []string{".gz", ".tgz", ".taz", ".z", "-gz", "-z", "_z"} {
			if strings.HasSuffix(name, s) {
				if !g.Has["q"] {
					_ = g.sayf("%s already has %s suffix -- unchanged", name, s)
				}
				return nil
			}
		}
	}
	if a.SameFile(&a) && p.Dialect == command.GNU && !g.Has["f"] {
		return &command.Unsupported{Command: g.name, What: "a file that has several names, " + name, Fix: g.name + " -f"}
	}
	return g.replace(in, name, target, a)
}

// replace writes a new file and removes the old one.
func (g *gzipRun) replace(in io.Reader, name, target string, a filetree.Attr) error {
	p := g.p
	at := p.Path(target)
	if err := p.MayChangeIn(path.Dir(at)); err != nil {
		if command.Fatal(err) {
			return err
		}
		return g.failf("%s: %s", target, command.Reason(err))
	}
	old, err := p.Tree.Lstat(at)
	switch {
	case command.Fatal(err):
		return err
	case err == nil && !g.Has["f"] && p.Dialect == command.GNU:
		return g.warnf("%s already exists;\tnot overwritten", target)
	case err == nil && old.IsDir():
		return g.failf("%s: Is a directory", target)
	case err == nil && !g.Has["f"]:
		return g.failf("can't open '%s': File exists", target)
	}
	spool := &command.Spool{Scratch: g.scratch}
	modified, err := g.transform(spool, in, name, path.Base(name), a.ModTime)
	if err != nil {
		spool.Discard()
		return err
	}
	if g.exit == 1 && modified == nil {
		spool.Discard()
		return nil
	}
	fresh := filetree.Attr{Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: a.ModTime}
	if p.UID != 0 {
		fresh.UID, fresh.GID = p.UID, p.GID
	}
	if p.Dialect == command.Busybox {
		fresh = p.Attr(a.Mode.Perm())
		if modified.Unix() > 0 {
			fresh.ModTime = *modified
		}
	}
	if fresh.Content, err = spool.Content(); err != nil {
		return err
	}
	if err := p.Tree.Put(at, fresh); err != nil {
		return err
	}
	if g.Has["k"] {
		return nil
	}
	return p.Tree.Remove(p.Path(name))
}

// stream packs or unpacks to standard output, or to nowhere.
func (g *gzipRun) stream(in io.Reader, shown, name string, modified time.Time) error {
	out := g.p.Stdout
	if g.Has["t"] {
		out = io.Discard
	}
	_, err := g.transform(out, in, shown, name, modified)
	return err
}

// transform packs or unpacks. It gives the time that a packed file says it is of;
// nil, with an exit code, if it couldn't be unpacked.
func (g *gzipRun) transform(out io.Writer, in io.Reader, shown, name string, modified time.Time) (*time.Time, error) {
	to := &counter{w: out}
	raw := bufio.NewReaderSize(&source{g.ctx, in}, 1<<16)
	// failed is what to do about an error of either side.
	failed := func(err error) (*time.Time, error) {
		switch p := (*fs.PathError)(nil); {
		case to.err != nil && out == g.p.Stdout:
			return nil, errStop // nobody reads it
		case to.err != nil:
			return nil, to.err
		case endsBuild(err):
			return nil, err
		case errors.As(err, &p):
			return nil, g.failf("%s: %s", shown, command.Reason(p))
		}
		text := "invalid compressed data--format violated"
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			text = "unexpected end of file"
		} else if errors.Is(err, errFormat) {
			text = "not in gzip format"
		}
		if g.p.Dialect == command.GNU {
			g.exit = 1
			_, _ = fmt.Fprintf(g.p.Stderr, "\ngzip: %s: %s\n", shown, text)
			return nil, nil
		}
		return nil, g.failf("%s", map[bool]string{true: "invalid magic", false: text}[errors.Is(err, errFormat)])
	}
	if !g.unpack {
		z := newGzipWriter(to, g.level)
		if g.p.Dialect == command.GNU && !g.Has["n"] && name != "" {
			wide := make([]rune, len(name))
			for i := range len(name) {
				wide[i] = rune(name[i]) // the header has the bytes of a name
			}
			z.Name = string(wide)
			if modified.Unix() > 0 {
				z.ModTime = modified
			}
		}
		_, err := io.Copy(z, raw)
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			return failed(err)
		}
		return &time.Time{}, nil
	}
	kind := gzipped
	switch found := recognise(raw); {
	case found == gzipped:
	case g.name == "zcat" && g.p.Dialect == command.Busybox:
		if kind = found; found == none {
			return failed(errFormat)
		}
	case g.p.Dialect == command.GNU && found == compress:
		return nil, &command.Unsupported{Command: g.name, What: "this kind of compression"}
	case g.p.Dialect == command.GNU && g.Has["f"] && g.Has["c"]:
		if err := g.copy(to, raw); err != nil {
			return failed(err)
		}
		return &time.Time{}, nil
	default:
		if _, err := raw.Peek(1); err != nil {
			return failed(err)
		}
		if head, _ := raw.Peek(4); slices.Contains([]string{"PK\x03\x04"}, string(head)) && g.p.Dialect == command.GNU {
			return nil, &command.Unsupported{Command: g.name, What: "unpacking a zip archive", Fix: "unzip"}
		}
		return failed(errFormat)
	}
	plain, done, err := decompress(raw, kind)
	defer done()
	if err != nil {
		return failed(err)
	}
	var when time.Time
	if z, ok := plain.(*gunzip); ok {
		when = z.header.ModTime
	}
	switch err := g.copy(to, plain); {
	case errors.Is(err, errTrailing) && g.p.Dialect == command.GNU:
		if g.exit == 0 {
			g.exit = 2
		}
		if !g.Has["q"] {
			_, _ = fmt.Fprintf(g.p.Stderr, "\ngzip: %s: decompression OK, trailing garbage ignored\n", shown)
		}
	case errors.Is(err, errTrailing):
	case err != nil:
		return failed(err)
	}
	return &when, nil
}

// copy copies what is unpacked, up to what one archive may become.
func (g *gzipRun) copy(to io.Writer, from io.Reader) error {
	n, err := io.Copy(to, io.LimitReader(from, maxUnpacked+1))
	if err == nil && n > maxUnpacked {
		err = errTooLarge
	}
	return err
}
