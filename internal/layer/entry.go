package layer

import (
	"archive/tar"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Type is what an entry of a layer is. The zero value is a regular file.
type Type int

// The types of entries.
const (
	Regular Type = iota
	Dir
	Symlink
	Hardlink // its attributes are those of the file that Link names
	Whiteout // takes away what layers below have at Name (image-spec v1.1.1, layer.md, "Whiteouts")
	Opaque   // hides what layers below have in the directory Name ("Opaque Whiteout")
	CharDevice
	BlockDevice
	FIFO
)

// Entry is one file, directory or link of a layer, or one removal.
type Entry struct {
	Name     string // slash-separated, without a leading slash
	Type     Type
	Mode     fs.FileMode // permissions, setuid, setgid and sticky; other bits are ignored
	UID, GID int
	ModTime  time.Time // cut to the second; zero means Options.ModTime
	// Link is where a symbolic link leads, as it is; or the Name of the
	// regular file in this layer that a hard link is to.
	Link   string
	Size   int64                         // of a regular file, in bytes
	Open   func() (io.ReadCloser, error) // the content of a regular file; may be nil if Size is 0
	Xattrs map[string]string             // extended attributes, such as security.capability
	// The number of a device.
	DevMajor, DevMinor int64
}

// The prefixes of removals (image-spec v1.1.1, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// Where a layer for Windows has its files and its registry.
const (
	windowsFiles = "Files"
	windowsHives = "Hives"
)

// maxElement is the longest element of a name, in bytes, that the file systems
// of Linux and Windows have.
const maxElement = 255

// Clean gives the name of an entry in normal form: no empty and no single-dot
// elements. A name that doesn't stay inside the layer, that no file system
// could have, or that would be read as a removal is a [refusal.Error] with code
// PA505. Bytes that aren't UTF-8 are allowed, as Linux allows them.
func Clean(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", refuse(name, "not a name of a file in a layer: "+why)
	}
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return bad("it has a NUL")
	case strings.HasPrefix(name, "/"):
		return bad("it begins with a slash")
	}
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "..":
			return bad("it has an element ..")
		case strings.HasPrefix(element, whiteoutPrefix):
			return bad("elements that begin with .wh. remove files instead of making them")
		case len(element) > maxElement:
			return bad(fmt.Sprintf("an element is longer than %d bytes", maxElement))
		}
	}
	clean := path.Clean(name)
	if clean == "." {
		return bad("it is the root")
	}
	return clean, nil
}

// cleanWindows is [Clean] by the rules of Windows, where a backslash separates
// and a colon names a stream or a drive.
func cleanWindows(name string) (string, error) {
	clean, err := Clean(name)
	if err != nil {
		return "", err
	}
	for element := range strings.SplitSeq(clean, "/") {
		if i := strings.IndexFunc(element, func(r rune) bool { return r < ' ' || strings.ContainsRune(`\:*?"<>|`, r) }); i >= 0 {
			return "", refuse(name, fmt.Sprintf("Windows has no file names with %q", element[i:i+1]))
		}
		if strings.HasSuffix(element, ".") || strings.HasSuffix(element, " ") {
			return "", refuse(name, "Windows has no file names that end with a dot or a space")
		}
	}
	return clean, nil
}

func refuse(name, summary string, seen ...string) error {
	return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: fmt.Sprintf("%q", name), Summary: summary, Seen: seen}
}

// planner turns entries into records, collecting what is wrong with them.
type planner struct {
	Options
	entries map[string]Entry // by cleaned name; removals aren't here
	removed map[string]Entry // removals, by the name that they have in the tar
	folded  map[string]string
	refused refusal.Collect
}

// plan checks entries, adds the directories they lie in, and orders them: each
// directory before what is in it, removals first, hard links last, so that
// what they are to is there already. Beyond that it is the order of bytes.
func plan(entries []Entry, o Options) ([]record, error) {
	p := planner{Options: o, entries: map[string]Entry{}, removed: map[string]Entry{}, folded: map[string]string{}}
	for _, e := range entries {
		if err := p.add(e); err != nil {
			return nil, err
		}
	}
	if err := p.parents(); err != nil {
		return nil, err
	}
	p.links()
	if err := p.refused.Err(); err != nil {
		return nil, err
	}
	return p.records()
}

// add takes one entry. What its user did wrong is collected; the error is of
// the caller.
func (p *planner) add(e Entry) error {
	name, err := p.clean(e.Name)
	if err != nil {
		p.refused.Add(err)
		return nil
	}
	e.Name = name
	if e.UID < 0 || e.GID < 0 {
		return fmt.Errorf("layer: %s: owner %d:%d", name, e.UID, e.GID)
	}
	if e.Type != Regular {
		e.Size, e.Open = 0, nil
	}
	switch e.Type {
	case Whiteout, Opaque:
		key := path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
		if e.Type == Opaque {
			if p.Windows {
				p.refused.Add(refuse(name, "layers for Windows can't hide what a directory has below"))
				return nil
			}
			key = path.Join(name, opaqueName)
		}
		if _, twice := p.removed[key]; twice {
			p.refused.Add(refuse(name, "removed twice in one layer"))
			return nil
		}
		p.removed[key] = e
		return nil
	case Regular:
		if e.Open == nil && e.Size != 0 || e.Size < 0 {
			return fmt.Errorf("layer: %s: no content of %d bytes", name, e.Size)
		}
	case Symlink:
		if e.Link == "" || strings.IndexByte(e.Link, 0) >= 0 {
			p.refused.Add(refuse(name, fmt.Sprintf("a symbolic link can't lead to %q", e.Link)))
			return nil
		}
	case CharDevice, BlockDevice, FIFO:
		if p.Windows {
			p.refused.Add(refuse(name, "layers for Windows have no devices and no pipes"))
			return nil
		}
	case Dir, Hardlink:
	default:
		return fmt.Errorf("layer: %s: no type of entry has the number %d", name, e.Type)
	}
	for key := range e.Xattrs {
		if key == "" || strings.ContainsAny(key, "=\x00") {
			p.refused.Add(refuse(name, fmt.Sprintf("no extended attribute is named %q", key)))
			return nil
		}
	}
	p.put(e)
	return nil
}

func (p *planner) clean(name string) (string, error) {
	if p.Windows {
		return cleanWindows(name)
	}
	return Clean(name)
}

// put keeps an entry unless there is one of its name, on Windows in any case.
func (p *planner) put(e Entry) {
	key := e.Name
	if p.Windows {
		key = strings.ToLower(key)
	}
	if other, taken := p.folded[key]; taken {
		p.refused.Add(refuse(e.Name, "two files of a layer have the same name", fmt.Sprintf("the other one is %q", other)))
		return
	}
	p.folded[key] = e.Name
	p.entries[e.Name] = e
}

// parents adds the directories that entries and removals lie in.
func (p *planner) parents() error {
	var names []string
	for name := range p.entries {
		names = append(names, name)
	}
	for name := range p.removed {
		names = append(names, name)
	}
	slices.Sort(names) // so that refusals have an order
	for _, name := range names {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if e, ok := p.entries[dir]; ok {
				if e.Type != Dir {
					p.refused.Add(refuse(name, "lies in something that isn't a directory", fmt.Sprintf("the same layer has %q", dir)))
				}
				break // its own parents are added for itself
			}
			if p.OmitParents {
				continue
			}
			parent := Entry{Name: dir, Type: Dir, Mode: 0o755}
			if p.Parent != nil {
				if known, ok := p.Parent(dir); ok {
					if known.Type != Dir {
						return fmt.Errorf("layer: %s: the entry of a parent must be a directory", dir)
					}
					parent = known
					parent.Name = dir
				}
			}
			p.put(parent)
		}
	}
	return nil
}

// links gives each hard link the attributes of its file: an extractor may set
// those of the link's header on the file that they share.
func (p *planner) links() {
	for name, e := range p.entries {
		if e.Type != Hardlink {
			continue
		}
		target, err := p.clean(e.Link)
		file, ok := p.entries[target]
		if err != nil || !ok || file.Type != Regular {
			p.refused.Add(refuse(name, "a hard link must be to a regular file of the same layer", fmt.Sprintf("it is to %q", e.Link)))
			continue
		}
		file.Name, file.Type, file.Link = name, Hardlink, target
		file.Size, file.Open, file.Xattrs = 0, nil, nil
		p.entries[name] = file
	}
}

// records writes the headers, in order.
func (p *planner) records() ([]record, error) {
	type keyed struct {
		rank int
		key  string
		record
	}
	list := make([]keyed, 0, len(p.entries)+len(p.removed))
	for name, e := range p.entries {
		rank := 0
		if e.Type == Hardlink {
			rank = 1
		}
		list = append(list, keyed{rank, name, record{p.header(name, e), e.Open}})
	}
	for name, e := range p.removed {
		e.Type, e.Mode, e.Size, e.Open, e.Xattrs = Regular, 0, 0, nil, nil
		// Removals come before their siblings: NUL sorts before every byte.
		list = append(list, keyed{0, path.Dir(name) + "/\x00" + path.Base(name), record{p.header(name, e), nil}})
		if path.Dir(name) == "." {
			list[len(list)-1].key = "\x00" + name
		}
	}
	slices.SortFunc(list, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.key, b.key))
	})
	var records []record
	if p.Windows {
		for _, name := range []string{windowsHives, windowsFiles} {
			records = append(records, record{p.windowsRoot(name), nil})
		}
	}
	for _, k := range list {
		records = append(records, k.record)
	}
	return records, nil
}

// header is the tar header of an entry. The writer of archive/tar chooses
// ustar where that fits and PAX with sorted records where it doesn't; no header
// has the name of a user or a time of access or change.
func (p *planner) header(name string, e Entry) tar.Header {
	h := tar.Header{
		Name: name, Mode: tarMode(e.Mode), Uid: e.UID, Gid: e.GID,
		ModTime: p.time(e.ModTime), PAXRecords: map[string]string{},
	}
	for key, value := range e.Xattrs {
		h.PAXRecords["SCHILY.xattr."+key] = value
	}
	switch e.Type {
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case Symlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
	case Hardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
	case CharDevice:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, e.DevMajor, e.DevMinor
	case BlockDevice:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, e.DevMajor, e.DevMinor
	case FIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	if p.Windows {
		h.Name = windowsFiles + "/" + h.Name
		if e.Type == Hardlink {
			h.Linkname = windowsFiles + "/" + h.Linkname
		}
		describeWindows(&h)
	}
	return h
}

func (p *planner) windowsRoot(name string) tar.Header {
	h := tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: p.time(time.Time{}), PAXRecords: map[string]string{}}
	describeWindows(&h)
	return h
}

// time is to the second, as finer or missing times would need PAX records.
func (p *planner) time(t time.Time) time.Time {
	if t.IsZero() {
		t = p.ModTime
	}
	if t.IsZero() {
		return time.Unix(0, 0)
	}
	return time.Unix(t.Unix(), 0)
}
