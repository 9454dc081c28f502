package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// creation writes an archive.
type creation struct {
	*tarRun
	out      *counter
	w        *tar.Writer
	archive  string // the canonical path of the archive itself; empty if it is a stream
	several  bool   // more than one name, of which GNU's tar archives no file twice
	written  map[string]string
	hardlink []archived
	names    map[string]string // of users and groups by number
}

// archived is a file with several names that is in the archive under one of them.
type archived struct {
	attr filetree.Attr
	name string
}

// counter counts what is written and remembers why it couldn't be.
type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

func (t *tarRun) create() error {
	named := false
	for _, o := range t.operands {
		named = named || !o.chdir
	}
	if !named {
		t.exit = t.failure()
		if t.p.Dialect == command.Busybox {
			return t.die("", "empty archive")
		}
		_ = t.sayf("Cowardly refusing to create an empty archive")
		return errStop
	}
	if t.byName && t.compression == none && t.file != "-" {
		switch {
		case strings.HasSuffix(t.file, ".gz"), strings.HasSuffix(t.file, ".tgz"), strings.HasSuffix(t.file, ".taz") && t.p.Dialect == command.GNU:
			t.compression = gzipped
		case !strings.HasSuffix(t.file, ".tar"):
			return &command.Unsupported{Command: "tar", What: "choosing the compression by the name " + t.file, Fix: "tar -czf"}
		}
	}
	c := &creation{tarRun: t, written: map[string]string{}, names: map[string]string{}}
	var file io.WriteCloser
	target := t.p.Stdout
	if t.file != "-" {
		var err error
		if file, err = t.p.Create(t.file, false, t.scratch); command.Fatal(err) {
			return err
		}
		if err != nil {
			return t.die("%s: Cannot open: %s", "can't open '%s': %s", t.file, command.Reason(err))
		}
		target = file
		if c.archive, err = t.p.Tree.Resolve(t.p.Path(t.file), true); err != nil {
			return err
		}
	}
	outer := &counter{w: target}
	var z *kgzip.Writer
	if t.compression == gzipped {
		z = newGzipWriter(outer, 6)
		target = z
	} else {
		target = outer
	}
	c.out = &counter{w: target}
	c.w = tar.NewWriter(c.out)
	err := c.all()
	if err == nil && c.out.err == nil {
		err = c.end()
	}
	if z != nil && err == nil {
		err = z.Close()
	}
	if outer.err != nil {
		if file == nil {
			return errStop // nobody reads it
		}
		return outer.err
	}
	if err != nil {
		return err
	}
	if file != nil {
		return file.Close()
	}
	return nil
}

// end writes the end of the archive. GNU's tar fills its last record.
func (c *creation) end() error {
	if err := c.w.Close(); err != nil {
		return err
	}
	if rest := c.out.n % 10240; rest != 0 && c.p.Dialect == command.GNU {
		if _, err := c.out.Write(make([]byte, 10240-rest)); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) all() error {
	names := 0
	last := -1
	for i, o := range c.operands {
		if o.chdir {
			last = i
		} else {
			names++
		}
	}
	c.several = names > 1
	if c.p.Dialect == command.Busybox && last >= 0 {
		if err := c.chdir(c.operands[last].name); err != nil {
			return err
		}
	}
	for _, o := range c.operands {
		list := []string{o.name}
		switch {
		case o.chdir && c.p.Dialect == command.Busybox:
			continue
		case o.chdir:
			if err := c.chdir(o.name); err != nil {
				return err
			}
			continue
		case o.list:
			var err error
			if list, err = c.lines(o.name); err != nil {
				return err
			}
			c.several = c.several || len(list) > 1
		}
		for _, name := range list {
			if trimmed := strings.TrimRight(name, "/"); trimmed != "" {
				name = trimmed
			} else {
				name = "/"
			}
			if err := c.add(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// add puts a file, and what is in it, into the archive.
func (c *creation) add(name string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.p.Dialect == command.GNU && c.isExcluded(name) {
		return nil
	}
	at := c.path(name)
	var a filetree.Attr
	var err error
	if c.has["dereference"] {
		a, err = c.p.Tree.Stat(at)
	} else {
		a, err = c.p.Tree.Lstat(at)
	}
	if command.Fatal(err) {
		return err
	}
	if err != nil {
		if c.p.Dialect == command.Busybox {
			c.exit = 1
			return c.sayf("%s: %s", name, command.Reason(err))
		}
		return c.problem("%s: Cannot stat: %s", c.quoted(name), command.Reason(err))
	}
	var member string
	if c.p.Dialect == command.Busybox {
		if member = c.inside(name, ""); member == "" && a.IsDir() {
			return c.children(name, at)
		}
		if c.isExcluded(member) {
			return nil
		}
	} else {
		member = c.inside(name, "member names")
		if member == "." && name != "." && strings.Trim(name, "/.") == "" {
			member = "./"
		}
	}
	real, err := c.p.Tree.Resolve(at, c.has["dereference"])
	if err != nil {
		return err
	}
	if a.IsRegular() && real == c.archive && c.archive != "" {
		if c.p.Dialect == command.Busybox {
			return c.sayf("%s: file is the archive; skipping", name)
		}
		return c.sayf("%s: file is the archive; not dumped", c.quoted(name))
	}
	if a.Mode&fs.ModeSocket != 0 {
		return c.sayf("%s: socket ignored", name)
	}
	h, err := c.header(member, &a)
	if err != nil {
		return err
	}
	if !a.IsDir() {
		c.link(h, real, &a)
	}
	var content io.ReadCloser
	if h.Typeflag == tar.TypeReg {
		if content, err = c.p.Open(at); command.Fatal(err) {
			return err
		}
		if err != nil {
			return c.problem("%s: Cannot open: %s", c.quoted(name), command.Reason(err))
		}
		defer func() { _ = content.Close() }()
	}
	if err := c.w.WriteHeader(h); err != nil {
		if c.out.err != nil {
			return c.out.err
		}
		return noTar("the file " + name + " (" + err.Error() + ")")
	}
	if content != nil {
		if _, err := io.Copy(c.w, content); err != nil {
			return err
		}
	}
	if c.verbose > 0 {
		_, _ = fmt.Fprintln(c.listing(), c.quoted(h.Name))
	}
	if !a.IsDir() || c.has["no-recursion"] {
		return nil
	}
	return c.children(name, at)
}

func (c *creation) children(name, at string) error {
	a, err := c.p.Tree.Stat(at)
	if err == nil {
		err = c.p.MayRead(name, &a)
	}
	var list []filetree.Child
	if err == nil {
		list, err = c.p.Tree.ReadDir(at)
	}
	if command.Fatal(err) {
		return err
	}
	if err != nil {
		return c.problem("%s: Cannot open: %s", c.quoted(name), command.Reason(err))
	}
	for _, child := range list {
		if err := c.add(strings.TrimSuffix(name, "/") + "/" + child.Name); err != nil {
			return err
		}
	}
	return nil
}

// link makes the header of a file that is in the archive already that of a link.
func (c *creation) link(h *tar.Header, real string, a *filetree.Attr) {
	first, again := "", false
	if a.SameFile(a) {
		for _, other := range c.hardlink {
			if other.attr.SameFile(a) {
				first, again = other.name, true
			}
		}
		if !again {
			c.hardlink = append(c.hardlink, archived{*a, h.Name})
		}
	} else if c.several && c.p.Dialect == command.GNU {
		if first, again = c.written[real]; !again {
			c.written[real] = h.Name
		}
	}
	if again {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	}
}

// header is that of a file under a name.
func (c *creation) header(name string, a *filetree.Attr) (*tar.Header, error) {
	h := &tar.Header{Name: name, Mode: int64(unixBits(a.Mode)), Uid: a.UID, Gid: a.GID, ModTime: a.ModTime.Truncate(time.Second), Format: tar.FormatGNU, Typeflag: tar.TypeReg, Size: a.Size()}
	if c.ustar {
		h.Format = tar.FormatUSTAR
	}
	if a.ModTime.IsZero() || h.ModTime.Unix() < 0 {
		h.ModTime = time.Unix(0, 0)
	}
	if c.mtime != nil {
		h.ModTime = *c.mtime
	}
	switch {
	case a.IsDir():
		h.Typeflag = tar.TypeDir
		if !strings.HasSuffix(h.Name, "/") {
			h.Name += "/"
		}
	case a.IsSymlink():
		h.Typeflag, h.Linkname = tar.TypeSymlink, a.Link
	case a.Mode&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, a.DevMajor, a.DevMinor
	case a.Mode&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, a.DevMajor, a.DevMinor
	case a.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	}
	if h.Typeflag != tar.TypeReg {
		h.Size = 0
	}
	return h, c.owners(h)
}

// owners names who a file belongs to, or is to belong to.
func (c *creation) owners(h *tar.Header) error {
	for _, o := range []struct {
		spec string
		id   *int
		name *string
		user bool
	}{{c.owner, &h.Uid, &h.Uname, true}, {c.group, &h.Gid, &h.Gname, false}} {
		name, number, both := strings.Cut(o.spec, ":")
		n, err := strconv.Atoi(name)
		switch {
		case o.spec == "":
		case both:
			id, err := strconv.Atoi(number)
			if err != nil || name == "" || id < 0 {
				return noTar("the owner " + o.spec)
			}
			*o.id, *o.name = id, name
		case err == nil && n >= 0 && name[0] != '+':
			*o.id = n
		case strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-"):
			return noTar("the owner " + o.spec)
		default:
			*o.name = name
			var id int
			var found bool
			if o.user {
				id, _, _, _, found, err = command.LookupUser(c.p.Tree, name)
			} else {
				id, found, err = command.LookupGroup(c.p.Tree, name)
			}
			if err != nil {
				return err
			}
			if found {
				*o.id = id
			}
		}
		switch {
		case c.has["numeric-owner"] && c.p.Dialect == command.GNU:
			*o.name = ""
		case *o.name == "":
			if *o.name, err = c.nameOf(*o.id, o.user); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *creation) nameOf(id int, user bool) (string, error) {
	key := fmt.Sprint(user, id)
	if name, ok := c.names[key]; ok {
		return name, nil
	}
	var name string
	var err error
	if user {
		name, err = command.UserName(c.p.Tree, id)
	} else {
		name, err = command.GroupName(c.p.Tree, id)
	}
	if name == "" && c.p.Dialect == command.Busybox {
		name = strconv.Itoa(id)
	}
	c.names[key] = name
	return name, err
}

// unixBits gives a mode as Unix has it.
func unixBits(m fs.FileMode) uint32 {
	b := uint32(m.Perm())
	for _, s := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&s.mode != 0 {
			b |= s.bit
		}
	}
	return b
}

// newGzipWriter writes what gzip does to a pipe: neither a name nor a time.
func newGzipWriter(w io.Writer, level int) *kgzip.Writer {
	z, err := kgzip.NewWriterLevel(w, level)
	if err != nil {
		z = kgzip.NewWriter(w) // levels are checked before
	}
	z.OS, z.ModTime = 3, time.Unix(0, 0) // Unix; no time
	return z
}
