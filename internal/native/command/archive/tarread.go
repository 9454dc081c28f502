package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// extraction reads the members of an archive.
type extraction struct {
	*tarRun
	members []*member
	store   store
	width   int // of owner and size in a long listing
	ids     map[string]int

	// What is done when everything else is there, so that nothing goes through it
	// before: links that lead somewhere else, and the modes of directories.
	links []*laterLink
	dirs  []laterDir
}

// laterLink is a link that is made at the end. GNU's tar puts an empty file there
// in the meantime, which names may be linked to.
type laterLink struct {
	hard   bool
	target string
	shown  string // how the target is written
	names  []string
	attr   filetree.Attr
	place  filetree.Content // of the file that is there in the meantime
}

type laterDir struct {
	at   string
	attr filetree.Attr
}

func (x *extraction) run(plain io.Reader, kind compression) error {
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(x.broken(err, kind), x.finish())
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.member(h, r); err != nil {
			if errors.Is(err, errArchive) {
				return errors.Join(x.broken(errors.Unwrap(err), kind), x.finish())
			}
			return err
		}
	}
	if err := x.finish(); err != nil {
		return err
	}
	// What comes after the end is read too, so that what writes it can end.
	if _, err := io.Copy(io.Discard, plain); err != nil && !errors.Is(err, errTrailing) {
		return x.broken(err, kind)
	} else if err != nil {
		if x.p.Dialect == command.GNU {
			_, _ = fmt.Fprintf(x.p.Stderr, "\ngzip: stdin: decompression OK, trailing garbage ignored\n")
		}
		return x.die("Child returned status 2", "short read")
	}
	return nil
}

// errArchive marks an error of reading the content of a member.
var errArchive = errors.New("archive")

type archiveError struct{ err error }

func (a *archiveError) Error() string        { return a.err.Error() }
func (a *archiveError) Unwrap() error        { return a.err }
func (a *archiveError) Is(target error) bool { return target == errArchive }

// member lists or extracts one member.
func (x *extraction) member(h *tar.Header, content io.Reader) error {
	if x.p.Dialect == command.Busybox {
		for _, record := range []string{"path", "linkpath", "size", "uid", "gid"} {
			if _, ok := h.PAXRecords[record]; ok {
				return noTar("an archive with the pax record " + record + ", which busybox passes over,")
			}
		}
		h.ModTime = time.Unix(h.ModTime.Unix(), 0)
	}
	if strings.IndexByte("01234567\x00", h.Typeflag) < 0 {
		return noTar(fmt.Sprintf("a member of the type %q (%s)", h.Typeflag, h.Name))
	}
	name := h.Name
	if x.p.Dialect == command.Busybox {
		name = x.inside(name, "")
	}
	if !x.wanted(x.members, name) || x.isExcluded(name) {
		return nil
	}
	if x.mode == 't' {
		return x.list(h, name)
	}
	if x.p.Dialect == command.GNU {
		inside := x.inside(name, "member names")
		if hasDotDot(name) {
			return x.problem("%s: Member name contains '..'", x.quoted(name))
		}
		name = inside
	}
	shown := h.Name
	if x.p.Dialect == command.Busybox {
		shown = name
	}
	name, ok := x.stripped(name)
	if x.verbose > 0 && (ok || x.p.Dialect == command.Busybox) {
		if _, err := fmt.Fprintln(x.listing(), x.quoted(shown)); err != nil {
			return errStop // nobody reads it
		}
	}
	if !ok {
		return nil
	}
	if x.has["to-stdout"] {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return x.copyOut(content)
	}
	return x.extract(h, name, content)
}

func (x *extraction) copyOut(content io.Reader) error {
	in := &errorOf{r: content}
	if _, err := io.Copy(x.p.Stdout, in); in.err != nil {
		return &archiveError{in.err}
	} else if err != nil {
		return errStop
	}
	return nil
}

// errorOf tells an error of reading from one of writing.
type errorOf struct {
	r   io.Reader
	err error
}

func (e *errorOf) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

// stripped takes the first elements off a name; false if nothing is left.
func (x *extraction) stripped(name string) (string, bool) {
	for range x.strip {
		if x.p.Dialect == command.GNU {
			name = strings.TrimLeft(name, "/")
		}
		_, rest, ok := strings.Cut(name, "/")
		if !ok {
			return "", false
		}
		name = rest
	}
	if x.strip > 0 {
		if x.p.Dialect == command.GNU {
			name = strings.TrimLeft(name, "/")
		}
		if name == "" {
			return "", false
		}
	}
	return name, true
}

// mode gives the bits of a mode as the tree has them.
func mode(bits int64) fs.FileMode {
	m := fs.FileMode(bits & 0o777) //nolint:gosec // nine bits
	for _, s := range []struct {
		bit  int64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if bits&s.bit != 0 {
			m |= s.mode
		}
	}
	return m
}

// kept is the mode that a member gets.
func (x *extraction) kept(bits int64) fs.FileMode {
	root := x.p.UID == 0
	switch {
	case x.has["no-same-permissions"], !root && x.p.Dialect == command.Busybox, !root && !x.has["same-permissions"]:
		return mode(bits) &^ x.p.Umask &^ (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	return mode(bits)
}

// attr are the attributes that a member gets.
func (x *extraction) attr(h *tar.Header) (filetree.Attr, error) {
	a := filetree.Attr{Mode: x.kept(h.Mode), UID: x.p.UID, GID: x.p.GID, ModTime: h.ModTime}
	if x.has["touch"] {
		a.ModTime = x.p.Now
	}
	if x.p.UID != 0 || x.has["no-same-owner"] {
		return a, nil
	}
	a.UID, a.GID = h.Uid, h.Gid
	if x.has["numeric-owner"] {
		return a, nil
	}
	if x.ids == nil {
		x.ids = map[string]int{}
	}
	// The names count before the numbers, if the stage has them.
	for _, n := range []struct {
		name string
		id   *int
		of   string
	}{{h.Uname, &a.UID, "u"}, {h.Gname, &a.GID, "g"}} {
		if n.name == "" {
			continue
		}
		id, known := x.ids[n.of+n.name]
		if !known {
			var found bool
			var err error
			if n.of == "u" {
				id, _, _, _, found, err = command.LookupUser(x.p.Tree, n.name)
			} else {
				id, found, err = command.LookupGroup(x.p.Tree, n.name)
			}
			if err != nil {
				return a, err
			}
			if !found {
				id = -1
			}
			x.ids[n.of+n.name] = id
		}
		if id >= 0 {
			*n.id = id
		}
	}
	return a, nil
}

// kind is what a member is.
func kind(h *tar.Header) byte {
	switch h.Typeflag {
	case 0, '7':
		return tar.TypeReg
	}
	return h.Typeflag
}

func (x *extraction) extract(h *tar.Header, name string, content io.Reader) error {
	shown, at := name, x.path(strings.TrimRight(name, "/"))
	a, err := x.attr(h)
	if err != nil {
		return err
	}
	if err := x.parents(at); err != nil {
		return x.failed(err, shown, "open", "can't create directory '%s': %s")
	}
	if kind(h) == tar.TypeDir {
		return x.directory(at, shown, a)
	}
	if kind(h) == tar.TypeLink && x.p.Dialect == command.Busybox && h.Linkname == name {
		return nil // as it says itself, an ugly special case
	}
	old, err := x.p.Tree.Lstat(at)
	if command.Fatal(err) {
		return err
	}
	exists := err == nil
	switch {
	case exists && x.has["skip-old-files"]:
		return nil
	case exists && x.has["keep-old-files"]:
		return x.failed(&fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}, shown, "open", "")
	case exists && kind(h) == tar.TypeLink && x.isTarget(h, at):
		return nil
	}
	if err := x.mayReplace(at); err != nil {
		return x.failed(err, shown, "open", "can't open '%s': %s")
	}
	if exists && old.IsDir() {
		if x.p.Dialect == command.Busybox {
			return x.die("", "can't remove old file %s: Is a directory", shown)
		}
		if err := x.p.Tree.Remove(at); err != nil {
			return x.failed(err, shown, "open", "")
		}
		exists = false
	}
	if exists && kind(h) != tar.TypeReg {
		if err := x.p.Tree.Remove(at); err != nil {
			return x.failed(err, shown, "unlink", "can't remove old file %s: %s")
		}
	}
	switch kind(h) {
	case tar.TypeReg:
		if a.Content, err = x.store.keep(content, h.Size); err != nil {
			if endsBuild(err) {
				return err
			}
			return &archiveError{err}
		}
	case tar.TypeLink:
		return x.hardLink(h, at, shown)
	case tar.TypeSymlink:
		return x.symlink(h, at, shown, a)
	case tar.TypeChar:
		a.Mode, a.DevMajor, a.DevMinor = a.Mode|fs.ModeDevice|fs.ModeCharDevice, h.Devmajor, h.Devminor
	case tar.TypeBlock:
		a.Mode, a.DevMajor, a.DevMinor = a.Mode|fs.ModeDevice, h.Devmajor, h.Devminor
	case tar.TypeFifo:
		a.Mode |= fs.ModeNamedPipe
	}
	if (kind(h) == tar.TypeChar || kind(h) == tar.TypeBlock) && x.p.UID != 0 {
		return x.failed(&fs.PathError{Op: "mknod", Path: name, Err: syscall.EPERM}, shown, "mknod", "can't create node %s: %s")
	}
	if err := x.p.Tree.Put(at, a); err != nil {
		return x.failed(err, shown, "open", "can't open '%s': %s")
	}
	return nil
}

// failed says that a member can't be made; busybox goes no further then.
func (x *extraction) failed(err error, shown, doing, busybox string) error {
	if command.Fatal(err) {
		return err
	}
	if x.p.Dialect == command.Busybox {
		return x.die("", busybox, shown, command.Reason(err))
	}
	reason := command.Reason(err)
	if errors.Is(err, syscall.ENOTEMPTY) {
		reason = "File exists" // it says why it couldn't open the file
	}
	return x.problem("%s: Cannot %s: %s", x.quoted(shown), doing, reason)
}

// mayReplace says whether the user may put a file at a path. Directories of this
// archive get their modes at the end, so until then everything may be put there.
func (x *extraction) mayReplace(at string) error {
	if x.p.UID == 0 {
		return nil
	}
	dir, err := x.p.Tree.Resolve(path.Dir(at), true)
	if err != nil {
		return err
	}
	for _, d := range x.dirs {
		if d.at == dir {
			return nil
		}
	}
	return x.p.MayChangeIn(dir)
}

// parents makes the directories above a path that the archive hasn't.
func (x *extraction) parents(at string) error {
	dir := path.Dir(at)
	if a, err := x.p.Tree.Stat(dir); err == nil {
		if !a.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	} else if command.Fatal(err) || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := x.parents(dir); err != nil {
		return err
	}
	if err := x.mayReplace(dir); err != nil {
		return err
	}
	return x.p.Tree.Mkdir(dir, x.p.Attr(0o777))
}

func (x *extraction) directory(at, shown string, a filetree.Attr) error {
	a.Mode |= fs.ModeDir
	old, err := x.p.Tree.Lstat(at)
	if command.Fatal(err) {
		return err
	}
	exists := err == nil
	if x.p.Dialect == command.Busybox {
		if !exists {
			if err := x.mayReplace(at); err != nil {
				return x.failed(err, shown, "", "can't make dir %s: %s")
			}
			return x.p.Tree.Mkdir(at, a)
		}
		// What is there stays, whatever it is, and gets the mode.
		err := x.p.Tree.Update(at, true, func(d *filetree.Attr) {
			d.Mode, d.UID, d.GID = a.Mode.Perm()|a.Mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), a.UID, a.GID
			if !x.has["touch"] {
				d.ModTime = a.ModTime
			}
		})
		if err != nil && !command.Fatal(err) {
			return nil // it doesn't look whether that worked
		}
		return err
	}
	if exists && old.IsSymlink() && x.has["keep-directory-symlink"] {
		if to, err := x.p.Tree.Stat(at); err == nil && to.IsDir() {
			return nil
		} else if command.Fatal(err) {
			return err
		}
	}
	switch {
	case exists && old.IsDir():
		if x.has["skip-old-files"] || x.has["keep-old-files"] {
			return nil
		}
	case exists && x.has["skip-old-files"]:
		return nil
	case exists && x.has["keep-old-files"]:
		return x.failed(&fs.PathError{Op: "mkdir", Path: at, Err: fs.ErrExist}, shown, "mkdir", "")
	default:
		if err := x.mayReplace(at); err != nil {
			return x.failed(err, shown, "mkdir", "")
		}
		if exists {
			if err := x.p.Tree.Remove(at); err != nil {
				return x.failed(err, shown, "mkdir", "")
			}
		}
		if err := x.p.Tree.Mkdir(at, a); err != nil {
			return x.failed(err, shown, "mkdir", "")
		}
	}
	real, err := x.p.Tree.Resolve(at, true)
	if err != nil {
		return err
	}
	x.dirs = append(x.dirs, laterDir{real, a})
	return nil
}

// target is the path that a hard link is to, and how it is written.
func (x *extraction) target(h *tar.Header) (at, shown string, ok bool) {
	shown = h.Linkname
	if x.p.Dialect == command.GNU {
		shown = x.inside(shown, "hard link targets")
	}
	shown, ok = x.stripped(shown)
	return x.path(shown), shown, ok
}

// isTarget reports whether a hard link is there already.
func (x *extraction) isTarget(h *tar.Header, at string) bool {
	target, _, ok := x.target(h)
	if !ok || x.p.Dialect == command.Busybox {
		return false
	}
	a, errA := x.p.Tree.Lstat(at)
	b, errB := x.p.Tree.Lstat(target)
	if errA != nil || errB != nil {
		return false
	}
	from, errA := x.p.Tree.Resolve(at, false)
	to, errB := x.p.Tree.Resolve(target, false)
	return errA == nil && errB == nil && from == to || a.SameFile(&b)
}

func (x *extraction) hardLink(h *tar.Header, at, shown string) error {
	target, text, ok := x.target(h)
	if !ok && x.p.Dialect == command.Busybox {
		return nil
	}
	if x.p.Dialect == command.Busybox {
		x.links = append(x.links, &laterLink{hard: true, target: target, shown: text, names: []string{at}})
		return nil
	}
	if err := x.p.Tree.Link(target, at); err != nil {
		if command.Fatal(err) {
			return err
		}
		return x.problem("%s: Cannot hard link to '%s': %s", x.quoted(shown), x.quoted(text), command.Reason(err))
	}
	if a, err := x.p.Tree.Lstat(at); err == nil && a.Content != nil {
		for _, l := range x.links {
			if l.place == a.Content {
				l.names = append(l.names, at)
			}
		}
	}
	return nil
}

func (x *extraction) symlink(h *tar.Header, at, shown string, a filetree.Attr) error {
	leadsOut := strings.HasPrefix(h.Linkname, "/") || hasDotDot(h.Linkname)
	if x.p.Dialect == command.Busybox {
		leadsOut = strings.HasPrefix(h.Linkname, "/") || strings.Contains(h.Linkname, "..")
		a.UID, a.GID, a.ModTime = x.p.UID, x.p.GID, x.p.Now
	}
	if !leadsOut {
		if err := x.p.Tree.Symlink(h.Linkname, at, a); err != nil {
			return x.failed(err, shown, "create symlink to '"+h.Linkname+"'", "can't create symlink '%s': %s")
		}
		return nil
	}
	l := &laterLink{target: h.Linkname, shown: h.Linkname, names: []string{at}, attr: a}
	x.links = append(x.links, l)
	if x.p.Dialect == command.Busybox {
		return nil
	}
	l.place = filetree.Bytes{}.Content()
	return x.p.Tree.Put(at, filetree.Attr{UID: x.p.UID, GID: x.p.GID, ModTime: x.p.Now, Content: l.place})
}

// finish makes the links and gives the directories their modes.
func (x *extraction) finish() error {
	for _, l := range x.links {
		if err := x.laterLink(l); err != nil {
			return err
		}
	}
	for _, d := range x.dirs {
		a, err := x.p.Tree.Lstat(d.at)
		if command.Fatal(err) {
			return err
		}
		if err != nil || !a.IsDir() {
			continue
		}
		if err := x.p.Tree.Update(d.at, false, func(a *filetree.Attr) {
			a.Mode, a.UID, a.GID, a.ModTime = d.attr.Mode, d.attr.UID, d.attr.GID, d.attr.ModTime
		}); err != nil {
			return err
		}
	}
	x.links, x.dirs = nil, nil
	return nil
}

func (x *extraction) laterLink(l *laterLink) error {
	first := ""
	for _, at := range l.names {
		if x.p.Dialect == command.Busybox {
			kind := "sym"
			var err error
			if l.hard {
				kind, err = "hard", x.p.Tree.Link(l.target, at)
			} else {
				err = x.p.Tree.Symlink(l.target, at, l.attr)
			}
			if command.Fatal(err) {
				return err
			}
			if err != nil {
				return x.die("", "can't create %slink '%s' to '%s'", kind, at, l.shown)
			}
			continue
		}
		a, err := x.p.Tree.Lstat(at)
		if command.Fatal(err) {
			return err
		}
		if err != nil || a.Content != l.place {
			continue // something else came in its place
		}
		err = x.p.Tree.Remove(at)
		if err == nil && first == "" {
			err, first = x.p.Tree.Symlink(l.target, at, l.attr), at
		} else if err == nil {
			err = x.p.Tree.Link(first, at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list prints a member.
func (x *extraction) list(h *tar.Header, name string) error {
	shown := h.Name
	if x.p.Dialect == command.Busybox {
		shown = name
	}
	line := x.quoted(shown)
	if x.verbose > 0 {
		line = x.long(h, name)
	}
	if _, err := fmt.Fprintln(x.p.Stdout, line); err != nil {
		return errStop // nobody reads it
	}
	return nil
}

func (x *extraction) long(h *tar.Header, name string) string {
	letter := map[byte]string{tar.TypeReg: "-", tar.TypeLink: "h", tar.TypeSymlink: "l", tar.TypeChar: "c", tar.TypeBlock: "b", tar.TypeDir: "d", tar.TypeFifo: "p"}[kind(h)]
	if x.p.Dialect == command.Busybox && letter == "h" {
		letter = "-"
	}
	perm := []byte(mode(h.Mode).Perm().String()[1:])
	for _, s := range []struct {
		bit      int64
		at       int
		with, no byte
	}{{0o4000, 2, 's', 'S'}, {0o2000, 5, 's', 'S'}, {0o1000, 8, 't', 'T'}} {
		if h.Mode&s.bit != 0 {
			if perm[s.at] == 'x' {
				perm[s.at] = s.with
			} else {
				perm[s.at] = s.no
			}
		}
	}
	user, group := h.Uname, h.Gname
	if user == "" || x.has["numeric-owner"] && x.p.Dialect == command.GNU {
		user = fmt.Sprint(h.Uid)
	}
	if group == "" || x.has["numeric-owner"] && x.p.Dialect == command.GNU {
		group = fmt.Sprint(h.Gid)
	}
	size := fmt.Sprint(h.Size)
	if kind(h) != tar.TypeReg {
		size = "0"
	}
	if x.p.Dialect == command.Busybox {
		line := fmt.Sprintf("%s%s %s/%s %9s %s %s", letter, perm, user, group, size, h.ModTime.UTC().Format("2006-01-02 15:04:05"), name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		return line
	}
	if kind(h) == tar.TypeChar || kind(h) == tar.TypeBlock {
		size = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
	}
	pad := len(user) + 1 + len(group) + 1 + len(size)
	x.width = max(x.width, 19, pad)
	x.inside(h.Name, "member names")
	line := fmt.Sprintf("%s%s %s/%s %*s %s %s", letter, perm, user, group, x.width-pad+len(size), size, h.ModTime.UTC().Format("2006-01-02 15:04"), x.quoted(h.Name))
	switch kind(h) {
	case tar.TypeSymlink:
		line += " -> " + x.quoted(h.Linkname)
	case tar.TypeLink:
		line += " link to " + x.quoted(x.inside(h.Linkname, "hard link targets"))
	}
	return line
}
