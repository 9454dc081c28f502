package fingerprint

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// View looks at directories, at each name once. Several snapshots that share inputs
// are compared through one view. It is safe for concurrent use.
//
// A view that has looked at everything a command is about to read can tell
// afterwards whether any of it changed meanwhile: let it see the files, wait for
// Settle, run the command, and Take a snapshot.
type View struct {
	begin time.Time

	mu    sync.Mutex // guards what follows
	dirs  map[string]*directory
	seals map[string]*seal
	sums  map[string]*content
	last  time.Time // latest change of a file that was seen
	vague bool      // some file system has coarse times
}

// directory is one that was listed.
type directory struct {
	once  sync.Once
	names []fs.DirEntry
	err   error

	mu    sync.Mutex // guards stats
	stats map[string]Entry
}

type seal struct {
	once      sync.Once
	signature string
	newest    time.Time
	ok        bool
}

type content struct {
	once       sync.Once
	sum, shape string
	err        error
}

// NewView has seen nothing yet.
func NewView() *View {
	return &View{begin: time.Now(), dirs: map[string]*directory{}, seals: map[string]*seal{}, sums: map[string]*content{}}
}

func (v *View) directory(dir string) *directory {
	v.mu.Lock()
	d := v.dirs[dir]
	if d == nil {
		d = &directory{stats: map[string]Entry{}}
		v.dirs[dir] = d
	}
	v.mu.Unlock()
	d.once.Do(func() { d.names, d.err = os.ReadDir(dir) })
	return d
}

// look stats a name in a directory, links followed.
func (v *View) look(dir string, d *directory, name string) Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.stats[name]; ok {
		return e
	}
	e := lookAt(dir, name)
	d.stats[name] = e
	if e.Kind == File {
		v.note(e.touched())
	}
	return e
}

func lookAt(dir, name string) Entry {
	e := Entry{Name: name, Kind: Absent}
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDirectory) {
			e.Kind, e.Link = Other, err.Error()
		}
		return e
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if e.Link, err = os.Readlink(path); err != nil {
			e.Kind = Other
			return e
		}
		// What it leads to in the end, and by which names.
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			e.Link += "\x00" + resolved
		}
		if info, err = os.Stat(path); err != nil {
			return e // dangling
		}
	}
	switch {
	case info.IsDir():
		e.Kind = Directory
	case info.Mode().IsRegular():
		e.Kind, e.Stat = File, StatOf(info)
	default:
		e.Kind = Other
	}
	return e
}

func (v *View) note(changed time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if changed.After(v.last) {
		v.last = changed
	}
	if changed.Nanosecond() == 0 && !changed.Before(v.begin.Add(-recent)) {
		v.vague = true
	}
}

// entries are the names of an input that count, sorted.
func (v *View) entries(in Input) (list []Entry, missing bool, err error) {
	if in.byName() {
		d := v.unlisted(in.Dir)
		for _, name := range in.Names {
			list = append(list, v.look(in.Dir, d, name))
		}
		return list, false, nil
	}
	d := v.directory(in.Dir)
	if errors.Is(d.err, fs.ErrNotExist) || errors.Is(d.err, errNotDirectory) {
		return nil, true, nil
	}
	if d.err != nil {
		return nil, false, d.err
	}
	for _, entry := range d.names {
		if in.Filter.wants(entry) {
			list = append(list, v.look(in.Dir, d, entry.Name()))
		}
	}
	return list, false, nil
}

// See looks at an input, for Take.
func (v *View) See(in Input) {
	if in.Sealed {
		v.signature(in)
		return
	}
	_, _, _ = v.entries(in) // an input that can't be read is so again for Take
}

// unlisted is a directory of which only some names are looked at. What they were
// like is kept apart from the listing, which may not exist.
func (v *View) unlisted(dir string) *directory {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.dirs["\x00"+dir]
	if d == nil {
		d = &directory{stats: map[string]Entry{}}
		v.dirs["\x00"+dir] = d
	}
	return d
}

// seen is what the view has seen of an input before; false if it hasn't looked.
func (v *View) seen(in Input) (list []Entry, missing, ok bool) {
	v.mu.Lock()
	d, named := v.dirs[in.Dir], v.dirs["\x00"+in.Dir]
	v.mu.Unlock()
	if in.byName() {
		for _, name := range in.Names {
			e, ok := named.stat(name)
			if !ok && d != nil {
				if e, ok = d.stat(name); !ok && d.listedWithout(name) {
					e, ok = Entry{Name: name, Kind: Absent}, true
				}
			}
			if !ok {
				return nil, false, false
			}
			list = append(list, e)
		}
		return list, false, true
	}
	if d == nil {
		return nil, false, false
	}
	d.once.Do(func() { d.err = fs.ErrInvalid }) // waits for a listing that is under way
	if errors.Is(d.err, fs.ErrNotExist) || errors.Is(d.err, errNotDirectory) {
		return nil, true, true
	}
	if d.err != nil {
		return nil, false, false
	}
	for _, entry := range d.names {
		if in.Filter.wants(entry) {
			e, ok := d.stat(entry.Name())
			if !ok {
				return nil, false, false
			}
			list = append(list, e)
		}
	}
	return list, false, true
}

func (d *directory) stat(name string) (Entry, bool) {
	if d == nil {
		return Entry{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.stats[name]
	return e, ok
}

// listedWithout reports that the directory was listed and has no such name.
func (d *directory) listedWithout(name string) bool {
	d.once.Do(func() { d.err = fs.ErrInvalid })
	if errors.Is(d.err, fs.ErrNotExist) {
		return true
	}
	return d.err == nil && !slices.ContainsFunc(d.names, func(e fs.DirEntry) bool { return e.Name() == name })
}

// signature is a hash of all stats in a directory, and its latest change.
func (v *View) signature(in Input) (sum string, newest time.Time, ok bool) {
	key := in.key()
	v.mu.Lock()
	s := v.seals[key]
	if s == nil {
		s = &seal{}
		v.seals[key] = s
	}
	v.mu.Unlock()
	s.once.Do(func() {
		entries, missing, err := list(in)
		if err != nil || missing {
			return
		}
		var text []byte
		for _, e := range entries {
			if e.Kind == File && e.touched().After(s.newest) {
				s.newest = e.touched()
			}
			text = e.append(text)
		}
		sum := sha256.Sum256(text)
		s.signature, s.ok = hex.EncodeToString(sum[:16]), true
	})
	return s.signature, s.newest, s.ok
}

// list is entries without a memory, for what is looked at once.
func list(in Input) (entries []Entry, missing bool, err error) {
	if !in.byName() {
		return listed(in)
	}
	for _, name := range in.Names {
		entries = append(entries, lookAt(in.Dir, name))
	}
	return entries, false, nil
}

// append writes down all that has been seen of an entry.
func (e Entry) append(b []byte) []byte {
	for _, text := range []string{e.Name, string(e.Kind), e.Link} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	for _, n := range []uint64{uint64(e.Mode), uint64(e.Size), uint64(e.Modified), uint64(e.Change), e.Inode, e.Device} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// content hashes a file, and what of it decides which other files are read.
func (v *View) content(in Input, e Entry) (sum, shape string, err error) {
	path := filepath.Join(in.Dir, e.Name)
	key := string(in.Filter) + "\x00" + path
	v.mu.Lock()
	c := v.sums[key]
	if c == nil {
		c = &content{}
		v.sums[key] = c
	}
	v.mu.Unlock()
	c.once.Do(func() { c.sum, c.shape, c.err = read(path, in.Filter, e.Name) })
	return c.sum, c.shape, c.err
}

// tick is more than the interval at which kernels advance the clock that files get
// their times from (10 ms at HZ=100).
const tick = 20 * time.Millisecond

// Settle waits, if need be, until a change of any file that the view has seen would
// leave another time than the last one; a few milliseconds after an edit, else not
// at all. It gives the time since when that is so; false if the file system's times
// are too coarse to wait for.
func (v *View) Settle() (time.Time, bool) {
	v.mu.Lock()
	last, vague := v.last, v.vague
	v.mu.Unlock()
	now := time.Now()
	wait := last.Add(tick).Sub(now)
	switch {
	case vague || wait > 2*tick: // or a time in the future
		return now, false
	case wait > 0:
		time.Sleep(wait)
	}
	return time.Now(), true
}

// settled reports whether a change at a time is so old that no later one can have
// the same time.
func (v *View) settled(changed time.Time) bool { return changed.Before(v.begin.Add(-recent)) }

// Tree looks at every file below a directory, so that a snapshot can be taken after a
// command of which isn't known yet what it reads. It stops after limit names and
// leaves the directories of version control systems alone; what it hasn't seen, Take
// judges by its age.
func (v *View) Tree(dir string, limit int) {
	v.walk(dir, &limit)
}

func (v *View) walk(dir string, left *int) {
	d := v.directory(dir)
	if d.err != nil {
		return
	}
	for _, entry := range d.names {
		if *left--; *left < 0 {
			return
		}
		if entry.IsDir() {
			switch entry.Name() {
			case ".git", ".hg", ".svn", ".bzr", ".jj":
			default:
				v.walk(filepath.Join(dir, entry.Name()), left)
			}
		}
		v.look(dir, d, entry.Name())
	}
}

// sourceExtensions are those of files that go/build looks at (go/build.goodOSArchFile
// and Context.ImportDir).
var sourceExtensions = []string{
	".go", ".c", ".cc", ".cpp", ".cxx", ".m", ".h", ".hh", ".hpp", ".hxx", ".f", ".F", ".for", ".f90",
	".s", ".S", ".sx", ".swig", ".swigcxx", ".syso",
}

// wants reports whether a filter keeps a name.
func (f Filter) wants(e fs.DirEntry) bool {
	name := e.Name()
	switch f {
	case Everything:
		return true
	case Toolchains:
		return strings.HasPrefix(name, "go1.")
	case Packages:
		if e.IsDir() {
			return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_") && name != "testdata"
		}
	}
	if name == "go.mod" || name == "default.pgo" {
		return true
	}
	if e.IsDir() || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return false
	}
	return slices.Contains(sourceExtensions, filepath.Ext(name))
}

// Subtree gives the inputs that a whole directory is: every name in it and below.
// Directories come before what is in them.
func Subtree(dir string, filter Filter) []Input {
	inputs := []Input{{Dir: dir, Filter: filter}}
	names, err := os.ReadDir(dir)
	if err != nil {
		return inputs
	}
	for _, e := range names {
		if e.IsDir() && filter.wants(e) {
			inputs = append(inputs, Subtree(filepath.Join(dir, e.Name()), filter)...)
		}
	}
	slices.SortFunc(inputs[1:], func(a, b Input) int { return cmp.Compare(a.Dir, b.Dir) })
	return inputs
}
