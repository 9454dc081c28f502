// Package archive reads binary packages of Debian: .deb files (deb(5)).
//
// A .deb is an ar archive of two compressed tar archives: control.tar has what is
// to be known about the package, data.tar its files. Both are read as the foreign
// bytes that they are: what isn't in the form, leads out of the root or is bigger
// than a package can be, is an error, and nothing is unpacked here.
package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Package is an opened .deb. It is immutable; its methods may be called
// concurrently if the file it is read from can be read concurrently.
type Package struct {
	// Control is the paragraph of the file control, which has Package, Version and
	// Architecture in it (Debian Policy 5.3).
	Control      *control.Paragraph
	Name         string
	Version      control.Version
	Architecture string
	// Info are the other files of control.tar: maintainer scripts, conffiles,
	// md5sums, triggers and so on (deb-control(5), DEBIAN directory), in the order
	// of the archive.
	Info []InfoFile

	data io.ReaderAt
	part member
}

// InfoFile is a file of control.tar.
type InfoFile struct {
	Name    string
	Mode    fs.FileMode // permissions
	ModTime time.Time
	Data    []byte // must not be changed
}

// What an archive may be at most. The control.tar of a big package of Debian has
// some MiB, and its files less than 100,000 names.
const (
	maxControl     = 64 << 20
	maxControlFile = 1000
	maxData        = 20 << 30
	maxFiles       = 5_000_000
	maxPath        = 4096 // PATH_MAX of Linux
	maxInfoName    = 50   // of dpkg
)

// errSize is an archive that is bigger than it may be.
var errSize = errors.New("there is more in it than a package can have")

// Open reads everything but the files of a .deb of this size.
func Open(r io.ReaderAt, size int64) (*Package, error) {
	members, err := members(r, size)
	if err != nil {
		return nil, err
	}
	controlPart, dataPart, err := parts(r, members)
	if err != nil {
		return nil, err
	}
	p := &Package{data: r, part: dataPart}
	if _, err := compression(dataPart.name, "data.tar"); err != nil {
		return nil, err
	}
	if err := p.readControl(r, controlPart); err != nil {
		return nil, fmt.Errorf("%s: %w", controlPart.name, err)
	}
	return p, nil
}

// parts finds the two tar archives: deb(5) says which members may be where.
func parts(r io.ReaderAt, list []member) (controlPart, dataPart member, err error) {
	if len(list) == 0 || list[0].name != "debian-binary" {
		return controlPart, dataPart, errors.New("the first member isn't debian-binary")
	}
	if err := checkFormat(r, list[0]); err != nil {
		return controlPart, dataPart, err
	}
	for _, m := range list[1:] {
		isControl := m.name == "control.tar" || strings.HasPrefix(m.name, "control.tar.")
		isData := m.name == "data.tar" || strings.HasPrefix(m.name, "data.tar.")
		switch {
		case strings.HasPrefix(m.name, "_"):
			// Members with this name don't matter to who doesn't know them.
		case isControl && controlPart.name != "":
			return controlPart, dataPart, errors.New("there are two members control.tar")
		case isControl:
			controlPart = m
		case controlPart.name == "":
			return controlPart, dataPart, fmt.Errorf("the member %q is before control.tar", m.name)
		case isData:
			// What comes later is for programs that know it.
			return controlPart, m, nil
		default:
			return controlPart, dataPart, fmt.Errorf("the member %q is before data.tar", m.name)
		}
	}
	if controlPart.name == "" {
		return controlPart, dataPart, errors.New("there is no member control.tar")
	}
	return controlPart, dataPart, errors.New("there is no member data.tar")
}

// checkFormat reads the version of the format: 2 and any minor number.
func checkFormat(r io.ReaderAt, m member) error {
	if m.size > 1024 {
		return errors.New("debian-binary is too long")
	}
	text := make([]byte, m.size)
	if _, err := io.ReadFull(m.open(r), text); err != nil {
		return fmt.Errorf("debian-binary: %w", err)
	}
	line, _, found := strings.Cut(string(text), "\n")
	major, minor, dot := strings.Cut(line, ".")
	if !found || !dot || minor == "" || strings.Trim(minor, "0123456789") != "" {
		return fmt.Errorf("debian-binary says %q, which is no version of the format", text)
	}
	if major != "2" {
		return fmt.Errorf("the format is of version %s; only 2.0 is known", line)
	}
	return nil
}

// readControl reads control.tar.
func (p *Package) readControl(r io.ReaderAt, m member) error {
	plain, done, err := m.decompressed(r, "control.tar")
	if err != nil {
		return err
	}
	defer done()
	in := &limited{plain, maxControl}
	tr := tar.NewReader(in)
	count := 0
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if count++; count > maxControlFile {
			return fmt.Errorf("it has more than %d files", maxControlFile)
		}
		if err := p.readInfo(h, tr); err != nil {
			return err
		}
	}
	if err := drain(in); err != nil {
		return err
	}
	if p.Control == nil {
		return errors.New("there is no file control")
	}
	return nil
}

// readInfo reads one file of control.tar.
func (p *Package) readInfo(h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)[1:]
	switch {
	case h.Typeflag == tar.TypeDir && name == "":
		return nil
	case h.Typeflag != tar.TypeReg || strings.Contains(name, "/") || name == "":
		return fmt.Errorf("%s is no regular file", shown(h.Name))
	case len(name) > maxInfoName:
		return fmt.Errorf("the name %s is too long", shown(h.Name))
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if name == "control" {
		if p.Control != nil {
			return errors.New("there are two files control")
		}
		return p.parse(data)
	}
	// As dpkg has it: what has a dot in its name is left out, and so is what would
	// overwrite the list of files.
	if strings.Contains(name, ".") || name == "list" {
		return nil
	}
	for i := range name {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return fmt.Errorf("%s isn't the name of a control file", shown(h.Name))
		}
	}
	if _, twice := p.File(name); twice {
		return fmt.Errorf("there are two files %s", name)
	}
	p.Info = append(p.Info, InfoFile{
		Name:    name,
		Mode:    fs.FileMode(h.Mode) & fs.ModePerm,
		ModTime: h.ModTime,
		Data:    data,
	})
	return nil
}

// parse reads the file control.
func (p *Package) parse(data []byte) error {
	r := control.NewReader(bytes.NewReader(data))
	c, err := r.Next()
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		return errors.New("control: there is more than one paragraph")
	}
	p.Control, p.Name, p.Architecture = c, c.Get("Package"), c.Get("Architecture")
	if !control.ValidName(p.Name) {
		return fmt.Errorf("control: the Package %q is no name", p.Name)
	}
	if p.Version, err = control.ParseVersion(c.Get("Version")); err != nil {
		return fmt.Errorf("control: %s: %w", p.Name, err)
	}
	// An Architecture becomes a part of file names in the database of dpkg.
	if !control.ValidName(p.Architecture) || strings.ContainsAny(p.Architecture, "._+") {
		return fmt.Errorf("control: the Architecture %q of %s is none", p.Architecture, p.Name)
	}
	return nil
}

// File gives the content of a file of control.tar, such as postinst, and whether it
// is there.
func (p *Package) File(name string) (InfoFile, bool) {
	for _, f := range p.Info {
		if f.Name == name {
			return f, true
		}
	}
	return InfoFile{}, false
}

// Entry is a file of data.tar.
type Entry struct {
	// Path is where it goes: absolute and clean, "/" for the root.
	Path string
	// Mode has the type bits of io/fs, setuid, setgid, sticky and permissions. That
	// of a hard link is of a regular file.
	Mode         fs.FileMode
	UID, GID     int
	User, Group  string // names of the owner, which may be empty
	ModTime      time.Time
	Size         int64
	Symlink      string // where a symbolic link leads, as it is
	HardLink     string // absolute, clean path of the file that this is another name of
	Major, Minor int64  // of a device
}

// Walk reads the files of the package in the order of the archive and calls do for
// each with its content, which is empty for what isn't a regular file and only
// there until do returns. An error of do ends it. At its end all checksums of the
// archive have been verified: before, no content can be trusted.
func (p *Package) Walk(ctx context.Context, do func(e *Entry, content io.Reader) error) error {
	if err := p.walk(ctx, do); err != nil {
		return fmt.Errorf("%s: %w", p.part.name, err)
	}
	return nil
}

func (p *Package) walk(ctx context.Context, do func(e *Entry, content io.Reader) error) error {
	plain, done, err := p.part.decompressed(p.data, "data.tar")
	if err != nil {
		return err
	}
	defer done()
	in := &limited{plain, maxData}
	tr := tar.NewReader(in)
	for count := 0; ; count++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return drain(in)
		}
		if err != nil {
			return err
		}
		if count == maxFiles {
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		e, err := entry(h)
		if err != nil {
			return err
		}
		if err := do(e, tr); err != nil {
			return err
		}
	}
}

// entry takes over what deb(5) allows in a header.
func entry(h *tar.Header) (*Entry, error) {
	if h.Format == tar.FormatPAX {
		return nil, fmt.Errorf("%s has a PAX header, which packages can't have", shown(h.Name))
	}
	e := &Entry{
		UID: h.Uid, GID: h.Gid, User: h.Uname, Group: h.Gname,
		Mode:    permissions(h.Mode),
		ModTime: h.ModTime,
	}
	var err error
	if e.Path, err = inside(h.Name); err != nil {
		return nil, err
	}
	if h.Uid < 0 || h.Gid < 0 {
		return nil, fmt.Errorf("%s has a negative owner", shown(h.Name))
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
		e.Symlink = h.Linkname
		if e.Symlink == "" || len(e.Symlink) >= maxPath || strings.ContainsAny(e.Symlink, "\x00") {
			return nil, fmt.Errorf("the symbolic link %s leads to %s", shown(h.Name), shown(h.Linkname))
		}
	case tar.TypeLink:
		if e.HardLink, err = inside(h.Linkname); err != nil {
			return nil, err
		}
	case tar.TypeChar:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Major, e.Minor = h.Devmajor, h.Devminor
	case tar.TypeBlock:
		e.Mode |= fs.ModeDevice
		e.Major, e.Minor = h.Devmajor, h.Devminor
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	default:
		return nil, fmt.Errorf("%s is of the type %q, which packages can't have", shown(h.Name), h.Typeflag)
	}
	if e.Path == "/" && !e.Mode.IsDir() {
		return nil, errors.New("the root isn't a directory")
	}
	return e, nil
}

// inside gives the path of a name of the archive: ./usr/bin is /usr/bin. A name
// that climbs up is an error even where it stays inside: nobody packs one, but
// somebody may try where it leads.
func inside(name string) (string, error) {
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return "", fmt.Errorf("the name %s leads out of the package", shown(name))
		}
	}
	if name == "" || len(name) >= maxPath || strings.ContainsAny(name, "\n\x00") {
		return "", fmt.Errorf("%s isn't the name of a file", shown(name))
	}
	return path.Clean("/" + name), nil
}

// shown shortens a foreign name for an error message.
func shown(name string) string {
	if len(name) > 200 {
		return fmt.Sprintf("%q...", name[:200])
	}
	return fmt.Sprintf("%q", name)
}

// permissions takes the mode of tar over.
func permissions(mode int64) fs.FileMode {
	m := fs.FileMode(mode) & fs.ModePerm
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// limited is a reader that fails when there is more than n bytes; it must not look
// like the end of the archive.
type limited struct {
	r io.Reader
	n int64
}

func (l *limited) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	if l.n -= int64(n); l.n < 0 {
		return 0, errSize
	}
	return n, err
}

// drain reads what is after the end of a tar archive: the checksums of the
// compression come last.
func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
