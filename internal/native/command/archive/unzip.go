package archive

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

var unzipOptions = command.Options{Short: "qonjlpd:"}

// unzipRun is one call of unzip.
type unzipRun struct {
	*command.Parsed
	p       *command.Proc
	ctx     context.Context //nolint:containedctx // of this one call
	archive string
	dir     string // of -d; empty for the working directory
	quiet   int
	store   store
	exit    int
	links   []zipLink
	dirs    []laterDir
}

type zipLink struct{ at, shown, target string }

func unzip(ctx context.Context, p *command.Proc, scratch string) (exit int, err error) {
	opt, err := unzipOptions.Parse("unzip", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	u := &unzipRun{Parsed: opt, p: p, ctx: ctx, store: store{scratch: scratch}, quiet: len(opt.All["q"])}
	switch {
	case len(opt.Args) == 0 || opt.Args[0] == "-":
		return 0, &command.Unsupported{Command: "unzip", What: "reading from standard input"}
	case opt.Has["l"] && opt.Has["q"], opt.Has["l"] && opt.Has["p"], opt.Has["o"] && opt.Has["n"]:
		return 0, &command.Unsupported{Command: "unzip", What: "this combination of options"}
	}
	if opt.Has["p"] {
		u.quiet = 2
	}
	in, size, err := u.open(opt.Args[0])
	if errors.Is(err, errStop) {
		return u.exit, nil
	}
	if err != nil {
		return 1, err
	}
	defer func() { _ = in.Close() }()
	err = u.run(in, size)
	if errors.Is(err, errStop) {
		err = nil
	}
	return u.exit, errors.Join(err, u.store.close())
}

// die writes a message and ends with an exit code: that of Info-ZIP's, or 1.
func (u *unzipRun) die(exit int, format string, args ...any) error {
	if u.exit = exit; u.p.Dialect == command.Busybox {
		u.exit = 1
	}
	_, _ = fmt.Fprintf(u.p.Stderr, format+"\n", args...)
	return errStop
}

func refuseZip(what string) error { return &command.Unsupported{Command: "unzip", What: what} }

// randomAccess is an archive that can be read from anywhere.
type randomAccess struct {
	io.ReaderAt
	close func() error
}

func (r *randomAccess) Close() error { return r.close() }

// open finds the archive, of which the suffix may be missing, and makes it readable
// from anywhere, as its directory is at its end.
func (u *unzipRun) open(name string) (*randomAccess, int64, error) {
	var a filetree.Attr
	err := error(&fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist})
	for _, suffix := range []string{"", ".zip", ".ZIP"} {
		b, serr := u.p.Tree.Stat(u.p.Path(name + suffix))
		if command.Fatal(serr) {
			return nil, 0, serr
		}
		if serr == nil && (!b.IsDir() || u.p.Dialect == command.Busybox) {
			a, err, u.archive = b, nil, name+suffix
			break
		}
	}
	if err == nil {
		err = u.p.MayRead(u.archive, &a)
	}
	if command.Fatal(err) {
		return nil, 0, err
	}
	if err != nil || !a.IsRegular() {
		if u.p.Dialect == command.Busybox {
			return nil, 0, u.die(1, "unzip: can't open %s[.zip]", name)
		}
		return nil, 0, u.die(9, "unzip:  cannot find or open %[1]s, %[1]s.zip or %[1]s.ZIP.", name)
	}
	r, err := a.Open()
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", name, err)
	}
	if at, ok := r.(io.ReaderAt); ok {
		return &randomAccess{at, r.Close}, a.Size(), nil
	}
	defer func() { _ = r.Close() }()
	if a.Size() <= 64<<20 || u.store.scratch == "" {
		b, err := io.ReadAll(&source{u.ctx, r})
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", name, err)
		}
		return &randomAccess{bytes.NewReader(b), func() error { return nil }}, int64(len(b)), nil
	}
	f, err := os.CreateTemp(u.store.scratch, "anyarch-zip-*")
	if err != nil {
		return nil, 0, fmt.Errorf("keep %s: %w", name, err)
	}
	closing := func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	n, err := io.Copy(f, &source{u.ctx, r})
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("keep %s: %w", name, err), closing())
	}
	return &randomAccess{f, closing}, n, nil
}

func (u *unzipRun) run(in io.ReaderAt, size int64) error {
	p := u.p
	busybox := p.Dialect == command.Busybox
	if err := u.target(); err != nil {
		return err
	}
	if u.quiet == 0 {
		_, _ = fmt.Fprintf(p.Stdout, "Archive:  %s\n", u.archive)
	}
	r, err := zip.NewReader(in, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		if endsBuild(err) {
			return err
		}
		return u.die(9, "unzip:  cannot find zipfile directory in %s", u.archive)
	}
	var wanted []*member
	for _, name := range u.Args[1:] {
		g, err := pattern.ParseGlob(name, 0)
		if err != nil {
			return refuseZip(err.Error() + " in " + name)
		}
		wanted = append(wanted, &member{name: name, glob: g})
	}
	if u.Has["l"] {
		_, _ = io.WriteString(p.Stdout, "  Length      Date    Time    Name\n---------  ---------- -----   ----\n")
	}
	files, total := 0, uint64(0)
	for _, f := range r.File {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		if err := u.check(f); err != nil {
			return err
		}
		hit := matches(wanted, f.Name)
		if hit || busybox {
			files++ // busybox counts what it doesn't list, too
		}
		if !hit {
			continue
		}
		total += f.UncompressedSize64
		switch {
		case u.Has["l"]:
			err = u.list(f)
		case u.Has["p"]:
			err = u.print(f)
		default:
			err = u.extract(f)
		}
		if err != nil {
			return err
		}
	}
	if err := u.finish(); err != nil {
		return err
	}
	if u.Has["l"] {
		if busybox {
			_, _ = fmt.Fprintf(p.Stdout, " --------%21s-------\n%9d%21s%d files\n", "", total, "", files)
		} else {
			plural := "s"
			if files == 1 {
				plural = ""
			}
			_, _ = fmt.Fprintf(p.Stdout, "---------                     -------\n%9d                     %d file%s\n", total, files, plural)
		}
	}
	for _, m := range wanted {
		if !m.found && !busybox {
			u.exit = 11
			_, _ = fmt.Fprintf(p.Stderr, "caution: filename not matched:  %s\n", m.name)
		}
	}
	return nil
}

func matches(wanted []*member, name string) bool {
	hit := len(wanted) == 0
	for _, m := range wanted {
		if m.glob.Match(name) {
			m.found, hit = true, true
		}
	}
	return hit
}

// check refuses what the tools take in ways of their own.
func (u *unzipRun) check(f *zip.File) error {
	fat := f.CreatorVersion>>8 != 3 && f.CreatorVersion>>8 != 19
	switch {
	case f.Flags&1 != 0:
		return refuseZip("an encrypted archive")
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return refuseZip(fmt.Sprintf("the compression method %d", f.Method))
	case f.Name == "" || strings.HasPrefix(f.Name, "/") || hasDotDot(f.Name) || strings.Contains(f.Name, `\`):
		return refuseZip("a member with the name " + f.Name)
	case u.p.Dialect == command.GNU && strings.ContainsFunc(f.Name, func(r rune) bool { return r < ' ' || r > '~' }):
		return refuseZip("a member with a name that isn't ASCII, " + f.Name)
	case u.p.Dialect == command.Busybox && f.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return refuseZip("a member with a setuid or setgid bit, " + f.Name + ", which versions of busybox take differently,")
	case fat && f.ExternalAttrs>>16 != 0, f.CreatorVersion>>8 != 0 && fat && f.CreatorVersion>>8 != 11 && f.CreatorVersion>>8 != 14 && f.CreatorVersion>>8 != 10:
		return refuseZip("an archive made by this system")
	}
	return nil
}

func (u *unzipRun) list(f *zip.File) error {
	date := f.Modified.UTC().Format("2006-01-02 15:04")
	if u.p.Dialect == command.Busybox {
		date = fmt.Sprintf("%02d-%02d-%04d %02d:%02d", f.ModifiedDate>>5&15, f.ModifiedDate&31, f.ModifiedDate>>9+1980, f.ModifiedTime>>11, f.ModifiedTime>>5&63)
	}
	if _, err := fmt.Fprintf(u.p.Stdout, "%9d  %s   %s\n", f.UncompressedSize64, date, f.Name); err != nil {
		return errStop // nobody reads it
	}
	return nil
}

// broken is what is wrong with the content of a member.
func (u *unzipRun) broken(f *zip.File, err error) error {
	if endsBuild(err) {
		return err
	}
	if errors.Is(err, zip.ErrChecksum) && u.p.Dialect == command.Busybox {
		return u.die(1, "unzip: crc error")
	}
	return u.die(2, "unzip: %s: invalid compressed data", f.Name)
}

// contentOf opens a member. busybox looks at the checksum of compressed ones alone.
func (u *unzipRun) contentOf(f *zip.File) (io.ReadCloser, error) {
	r, err := f.Open()
	if err == nil && f.Method == zip.Store && u.p.Dialect == command.Busybox {
		return unchecked{r}, nil
	}
	return r, err
}

type unchecked struct{ io.ReadCloser }

func (c unchecked) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if errors.Is(err, zip.ErrChecksum) {
		err = io.EOF
	}
	return n, err
}

func (u *unzipRun) print(f *zip.File) error {
	if f.Mode().IsDir() || strings.HasSuffix(f.Name, "/") {
		return nil
	}
	r, err := u.contentOf(f)
	if err != nil {
		return u.broken(f, err)
	}
	defer func() { _ = r.Close() }()
	in := &errorOf{r: r}
	if _, err := io.Copy(u.p.Stdout, in); in.err != nil {
		return u.broken(f, in.err)
	} else if err != nil {
		return errStop
	}
	return nil
}

// target makes the directory of -d, though not what it would be in.
func (u *unzipRun) target() error {
	if !u.Has["d"] || u.Has["l"] || u.Has["p"] {
		return nil
	}
	u.dir = strings.TrimRight(u.Values["d"], "/")
	if u.dir == "" {
		u.dir = "/"
	}
	at := u.p.Path(u.dir)
	a, err := u.p.Tree.Stat(at)
	switch {
	case err == nil && a.IsDir():
		return nil
	case err == nil:
		err = &fs.PathError{Op: "mkdir", Path: u.dir, Err: syscall.ENOTDIR}
	case command.Fatal(err):
		return err
	default:
		if err = u.p.MayChangeIn(path.Dir(at)); err == nil {
			err = u.p.Tree.Mkdir(at, u.p.Attr(0o777))
		}
	}
	switch {
	case err == nil:
		return nil
	case command.Fatal(err):
		return err
	case u.p.Dialect == command.Busybox:
		return u.die(1, "unzip: can't change directory to '%s': %s", u.dir, command.Reason(err))
	}
	return u.die(2, "checkdir:  cannot create extraction directory: %s\n           %s", u.dir, command.Reason(err))
}

// say writes a line about a member. GNU stands for Info-ZIP's here.
func (u *unzipRun) say(doing, shown, more string) {
	switch {
	case u.quiet > 0:
	case doing == "creat" || u.p.Dialect == command.Busybox:
		_, _ = fmt.Fprintf(u.p.Stdout, "%8sing: %s\n", doing, shown)
	default:
		_, _ = fmt.Fprintf(u.p.Stdout, "%8sing: %-22s  %s\n", doing, shown, more)
	}
}

func (u *unzipRun) extract(f *zip.File) error {
	name := f.Name
	if u.Has["j"] {
		name = name[strings.LastIndexByte(name, '/')+1:]
	}
	if name == "" {
		return nil
	}
	shown := name
	if u.dir != "" && u.p.Dialect == command.GNU {
		shown = strings.TrimSuffix(u.dir, "/") + "/" + name
	}
	at := u.p.Path(strings.TrimSuffix(u.dir, "/") + "/" + name)
	if u.dir == "" {
		at = u.p.Path(name)
	}
	at = strings.TrimRight(at, "/")
	if err := u.parents(path.Dir(at)); err != nil {
		return u.failed(shown, err)
	}
	old, err := u.p.Tree.Lstat(at)
	if command.Fatal(err) {
		return err
	}
	exists := err == nil
	if strings.HasSuffix(name, "/") {
		return u.directory(f, at, shown, exists, old)
	}
	switch {
	case exists && u.Has["n"]:
		return nil
	case exists && !u.Has["o"]:
		return &command.Unsupported{Command: "unzip", What: "asking whether to replace " + shown, Fix: "unzip -o"}
	case exists && (old.IsDir() || u.p.Dialect == command.Busybox && !old.IsRegular()):
		return refuseZip("replacing " + shown + ", which is no regular file")
	}
	if err := u.p.MayChangeIn(path.Dir(at)); err != nil && !u.made(path.Dir(at)) {
		return u.failed(shown, err)
	}
	content, err := u.content(f)
	if err != nil {
		return err
	}
	if f.Mode()&fs.ModeSymlink != 0 {
		return u.symlink(f, at, shown, exists, content)
	}
	doing := "inflat"
	if f.Method == zip.Store && u.p.Dialect == command.GNU {
		doing = "extract"
	}
	u.say(doing, shown, "")
	a := u.attr(f, 0o666)
	a.Content = content
	if exists && u.p.Dialect == command.Busybox {
		err = u.p.Tree.WriteFile(at, content, a) // it keeps what it is but for its content
	} else {
		err = u.p.Tree.Put(at, a)
	}
	if err != nil {
		return u.failed(shown, err)
	}
	return nil
}

// attr are the attributes of a file.
func (u *unzipRun) attr(f *zip.File, perm fs.FileMode) filetree.Attr {
	a := u.p.Attr(perm)
	unix := f.CreatorVersion>>8 == 3 || f.CreatorVersion>>8 == 19
	switch {
	case unix && u.p.Dialect == command.Busybox:
		a.Mode = f.Mode().Perm() &^ u.p.Umask
		if f.Mode().IsDir() {
			a.Mode = f.Mode().Perm()
		}
	case unix:
		a.Mode = f.Mode().Perm()
	case u.p.Dialect == command.GNU:
		a.Mode = f.Mode().Perm() &^ u.p.Umask
	}
	if u.p.Dialect == command.GNU {
		a.ModTime = f.Modified
	}
	return a
}

func (u *unzipRun) content(f *zip.File) (filetree.Content, error) {
	r, err := u.contentOf(f)
	if err != nil {
		return nil, u.broken(f, err)
	}
	defer func() { _ = r.Close() }()
	size := int64(f.UncompressedSize64) //nolint:gosec // a negative one is refused
	c, err := u.store.keep(r, size)
	if err == nil {
		// The checksum comes at the end.
		var n int64
		if n, err = io.Copy(io.Discard, io.LimitReader(r, 1)); n > 0 {
			err = zip.ErrFormat
		}
	}
	if err != nil {
		return nil, u.broken(f, err)
	}
	return c, nil
}

func (u *unzipRun) failed(shown string, err error) error {
	if command.Fatal(err) {
		return err
	}
	if u.p.Dialect == command.Busybox {
		return u.die(1, "unzip: can't open '%s': %s", shown, command.Reason(err))
	}
	return u.die(50, "error:  cannot create %s\n        %s", shown, command.Reason(err))
}

// parents makes the directories that the archive hasn't.
func (u *unzipRun) parents(dir string) error {
	a, err := u.p.Tree.Stat(dir)
	switch {
	case err == nil && !a.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil:
		return nil
	case command.Fatal(err) || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	if err := u.p.MayChangeIn(path.Dir(dir)); err != nil && !u.made(path.Dir(dir)) {
		return err
	}
	return u.p.Tree.Mkdir(dir, u.p.Attr(0o777))
}

// made reports whether a directory is one of the archive: its mode says nothing
// about what the archive puts into it.
func (u *unzipRun) made(dir string) bool {
	for _, d := range u.dirs {
		if d.at == dir {
			return true
		}
	}
	return false
}

func (u *unzipRun) directory(f *zip.File, at, shown string, exists bool, old filetree.Attr) error {
	busybox := u.p.Dialect == command.Busybox
	if exists && !busybox && old.IsSymlink() {
		if to, err := u.p.Tree.Stat(at); err == nil && to.IsDir() {
			return nil
		}
	}
	if exists && !old.IsDir() {
		return u.die(2, "unzip: '%s' exists but is not a directory", shown)
	}
	if exists {
		return nil
	}
	u.say("creat", shown, "")
	a := u.attr(f, 0o777)
	if err := u.p.MayChangeIn(path.Dir(at)); err != nil && !u.made(path.Dir(at)) {
		return u.failed(shown, err)
	}
	if err := u.p.Tree.Mkdir(at, a); err != nil {
		return u.failed(shown, err)
	}
	if !busybox {
		u.dirs = append(u.dirs, laterDir{at, a})
	}
	return nil
}

func (u *unzipRun) symlink(f *zip.File, at, shown string, exists bool, content filetree.Content) error {
	if content == nil || content.Size() > 4095 {
		return refuseZip("the symbolic link " + f.Name)
	}
	if f.Method != zip.Store && u.p.Dialect == command.Busybox {
		return u.die(1, "unzip: compressed symlink is not supported")
	}
	r, err := content.Open()
	if err != nil {
		return fmt.Errorf("keep what is unpacked: %w", err)
	}
	target, err := io.ReadAll(r)
	_ = r.Close()
	if err != nil {
		return fmt.Errorf("keep what is unpacked: %w", err)
	}
	if u.p.Dialect == command.Busybox {
		u.say("inflat", shown, "")
	} else {
		u.say("link", shown, "-> "+string(target)+" ")
	}
	if exists {
		if err := u.p.Tree.Remove(at); err != nil {
			return err
		}
	}
	if u.p.Dialect == command.GNU {
		// An empty file keeps the place, so that nothing goes through the link.
		if err := u.p.Tree.Put(at, u.p.Attr(0o666)); err != nil {
			return err
		}
	} else if !strings.HasPrefix(string(target), "/") && !strings.Contains(string(target), "..") {
		return u.p.Tree.Symlink(string(target), at, u.p.Attr(0o777))
	}
	u.links = append(u.links, zipLink{at, shown, string(target)})
	return nil
}

// finish makes the links that were left for the end.
func (u *unzipRun) finish() error {
	if len(u.links) > 0 && u.p.Dialect == command.GNU && u.quiet == 0 {
		_, _ = io.WriteString(u.p.Stdout, "finishing deferred symbolic links:\n")
	}
	for _, l := range u.links {
		if u.p.Dialect == command.GNU {
			if err := u.p.Tree.RemoveAll(l.at); err != nil {
				return err
			}
			if u.quiet == 0 {
				_, _ = fmt.Fprintf(u.p.Stdout, "  %-22s -> %s\n", l.shown, l.target)
			}
		}
		if err := u.p.Tree.Symlink(l.target, l.at, u.p.Attr(0o777)); err != nil {
			if command.Fatal(err) {
				return err
			}
			return u.die(1, "unzip: can't create symlink '%s' to '%s'", l.at, l.target)
		}
	}
	return nil
}
