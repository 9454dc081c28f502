package apk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk/solve"
)

// database is /lib/apk/db of a stage, kept as apk keeps it: scanners read it.
type database struct {
	tree      *filetree.Tree
	dir       string // /lib/apk/db, or /usr/lib/apk/db
	installed []*installed
	world     []solve.Dependency
	scripts   []script
	scriptsGz bool                // scripts.tar.gz, as apk-tools 3 names it
	triggers  map[string][]string // by checksum
	now       time.Time
}

// installed is a package in the database, with its files.
type installed struct {
	entry
	dirs []*ownedDir
}

// ownedDir is a directory of a package (F:) with what else is said about it (M:),
// and its files.
type ownedDir struct {
	name  string // without slashes at the ends; empty is the root
	lines []string
	files []*ownedFile
}

// ownedFile is R: with its lines a: and Z:.
type ownedFile struct {
	name  string
	lines []string
}

// script is a file of scripts.tar.
type script struct {
	header *tar.Header
	data   []byte
}

// openDatabase reads the database of a stage.
func openDatabase(t *filetree.Tree, now time.Time) (*database, error) {
	d := &database{tree: t, dir: "/lib/apk/db", triggers: map[string][]string{}, now: now}
	data, err := t.ReadFile(d.dir + "/installed")
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = t.ReadFile("/usr/lib/apk/db/installed"); err == nil {
			d.dir = "/usr/lib/apk/db"
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the stage has no package database (/lib/apk/db/installed)")
	}
	if err != nil {
		return nil, err
	}
	if err := d.parseInstalled(string(data)); err != nil {
		return nil, fmt.Errorf("%s/installed: %w", d.dir, err)
	}
	if data, err = t.ReadFile("/etc/apk/world"); err == nil {
		if d.world, err = dependencies(string(data)); err != nil {
			return nil, fmt.Errorf("/etc/apk/world: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if data, err = t.ReadFile(d.dir + "/triggers"); err == nil {
		for line := range strings.Lines(string(data)) {
			if words := strings.Fields(line); len(words) > 1 {
				d.triggers[words[0]] = words[1:]
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, d.readScripts()
}

func (d *database) parseInstalled(text string) error {
	var p *installed
	var dir *ownedDir
	var f *ownedFile
	end := func() error {
		if p == nil {
			return nil
		}
		if p.value('V') == "" {
			p.Version = "0" // a stanza that somebody wrote by hand; it is kept as it is
		}
		if err := p.parseFields(); err != nil {
			return err
		}
		p.Installed = true
		d.installed = append(d.installed, p)
		p, dir, f = nil, nil, nil
		return nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			if err := end(); err != nil {
				return err
			}
			continue
		}
		if len(line) < 2 || line[1] != ':' {
			return fmt.Errorf("the line %q can't be read", line)
		}
		if p == nil {
			p = &installed{}
		}
		switch {
		case line[0] == 'F':
			dir, f = &ownedDir{name: line[2:]}, nil
			p.dirs = append(p.dirs, dir)
		case line[0] == 'R' && dir != nil:
			f = &ownedFile{name: line[2:]}
			dir.files = append(dir.files, f)
		case f != nil:
			f.lines = append(f.lines, line)
		case dir != nil:
			dir.lines = append(dir.lines, line)
		default:
			p.fields = append(p.fields, field{line[0], line[2:]})
		}
	}
	return end()
}

// writeInstalled writes the file, stanzas that nothing changed as they were.
func (d *database) writeInstalled() []byte {
	var b bytes.Buffer
	for _, p := range d.installed {
		for _, f := range p.fields {
			b.Write([]byte{f.letter, ':'})
			b.WriteString(f.value + "\n")
		}
		for _, dir := range p.dirs {
			fmt.Fprintf(&b, "F:%s\n", dir.name)
			for _, line := range dir.lines {
				b.WriteString(line + "\n")
			}
			for _, f := range dir.files {
				fmt.Fprintf(&b, "R:%s\n", f.name)
				for _, line := range f.lines {
					b.WriteString(line + "\n")
				}
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (d *database) readScripts() error {
	data, err := d.tree.ReadFile(d.dir + "/scripts.tar")
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = d.tree.ReadFile(d.dir + "/scripts.tar.gz"); err == nil {
			d.scriptsGz = true
			z, zerr := gzip.NewReader(bytes.NewReader(data))
			if zerr != nil {
				return fmt.Errorf("%s/scripts.tar.gz: %w", d.dir, zerr)
			}
			data, err = io.ReadAll(io.LimitReader(z, maxIndex))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = eachEntry(bytes.NewReader(data), func(h *tar.Header, r io.Reader) error {
		data, err := io.ReadAll(r)
		d.scripts = append(d.scripts, script{h, data})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s/scripts.tar: %w", d.dir, err)
	}
	return nil
}

// scriptName is what a script of a package is called in scripts.tar.
func scriptName(e *entry, name string) string {
	return e.Name + "-" + e.Version + "." + e.Checksum + "." + name
}

// scriptOf gives a script of an installed package.
func (d *database) scriptOf(e *entry, name string) []byte {
	want := scriptName(e, name)
	for _, s := range d.scripts {
		if s.header.Name == want {
			return s.data
		}
	}
	return nil
}

// dropScripts forgets the scripts and triggers of a package.
func (d *database) dropScripts(e *entry) {
	prefix := e.Name + "-" + e.Version + "." + e.Checksum + "."
	d.scripts = slices.DeleteFunc(d.scripts, func(s script) bool { return strings.HasPrefix(s.header.Name, prefix) })
	delete(d.triggers, e.Checksum)
}

// addScripts keeps the scripts and triggers of a package that is installed now.
func (d *database) addScripts(a *archive) {
	for _, name := range scriptNames {
		data, ok := a.scripts[name]
		if !ok {
			continue
		}
		d.scripts = append(d.scripts, script{&tar.Header{
			Name: scriptName(a.entry, name), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data)), ModTime: a.entry.buildTime(), Format: tar.FormatUSTAR,
		}, data})
	}
	if len(a.triggers) > 0 {
		d.triggers[a.entry.Checksum] = a.triggers
	}
}

// find gives an installed package.
func (d *database) find(name string) *installed {
	for _, p := range d.installed {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// owners maps every file of the installed packages to who owns it.
func (d *database) owners() map[string]*installed {
	m := map[string]*installed{}
	for _, p := range d.installed {
		for _, dir := range p.dirs {
			for _, f := range dir.files {
				m[path.Join(dir.name, f.name)] = p
			}
		}
	}
	return m
}

// dirUsers counts the packages that have a directory.
func (d *database) dirUsers() map[string]int {
	m := map[string]int{}
	for _, p := range d.installed {
		for _, dir := range p.dirs {
			m[dir.name]++
		}
	}
	return m
}

// disown takes a file from a package that another one replaces.
func (p *installed) disown(name string) {
	dirName, base := path.Split(name)
	dirName = strings.TrimSuffix(dirName, "/")
	for _, dir := range p.dirs {
		if dir.name == dirName {
			dir.files = slices.DeleteFunc(dir.files, func(f *ownedFile) bool { return f.name == base })
		}
	}
}

// checksumOf is what the database says about a file: nil if nothing.
func (p *installed) checksumOf(name string) checksum {
	dirName, base := path.Split(name)
	dirName = strings.TrimSuffix(dirName, "/")
	for _, dir := range p.dirs {
		if dir.name != dirName {
			continue
		}
		for _, f := range dir.files {
			if f.name != base {
				continue
			}
			for _, line := range f.lines {
				if text, ok := strings.CutPrefix(line, "Z:"); ok {
					if sum, err := parseChecksum(text); err == nil {
						return sum
					}
				}
			}
		}
	}
	return nil
}

// save writes everything back.
func (d *database) save() error {
	attr := func(perm fs.FileMode) filetree.Attr { return filetree.Attr{Mode: perm, ModTime: d.now} }
	write := func(name string, data []byte, perm fs.FileMode) error {
		if old, err := d.tree.ReadFile(name); err == nil && bytes.Equal(old, data) {
			return nil
		}
		if a, err := d.tree.Stat(name); err == nil {
			perm = a.Mode.Perm()
		}
		if err := d.tree.MkdirAll(path.Dir(name), attr(0o755)); err != nil {
			return err
		}
		return d.tree.WriteFile(name, filetree.Bytes(data).Content(), attr(perm))
	}
	slices.SortStableFunc(d.world, func(a, b solve.Dependency) int { return strings.Compare(a.Name, b.Name) })
	var world strings.Builder
	for _, w := range d.world {
		world.WriteString(w.String() + "\n")
	}
	if err := write("/etc/apk/world", []byte(world.String()), 0o644); err != nil {
		return err
	}
	if err := write(d.dir+"/installed", d.writeInstalled(), 0o644); err != nil {
		return err
	}
	var triggers strings.Builder
	for _, p := range d.installed {
		if list := d.triggers[p.Checksum]; len(list) > 0 {
			triggers.WriteString(p.Checksum + " " + strings.Join(list, " ") + "\n")
		}
	}
	if err := write(d.dir+"/triggers", []byte(triggers.String()), 0o644); err != nil {
		return err
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, s := range d.scripts {
		if err := t.WriteHeader(s.header); err != nil {
			return err
		}
		if _, err := t.Write(s.data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	name := d.dir + "/scripts.tar"
	if d.scriptsGz {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		b, name = z, name+".gz"
	}
	return write(name, b.Bytes(), 0o644)
}

// own makes the lists of directories and files of a package, as apk writes them:
// directories in the order in which the archive has their files, default modes
// left out.
func own(files []file) []*ownedDir {
	byName := map[string]*ownedDir{}
	var list []*ownedDir
	at := func(name string) *ownedDir {
		if name == "." {
			name = ""
		}
		if byName[name] == nil {
			byName[name] = &ownedDir{name: name}
			list = append(list, byName[name])
		}
		return byName[name]
	}
	sums := map[string]checksum{}
	for _, f := range files {
		if f.Mode.IsDir() {
			d := at(f.name)
			if f.UID != 0 || f.GID != 0 || bits(f.Mode) != 0o755 {
				d.lines = []string{fmt.Sprintf("M:%d:%d:%s", f.UID, f.GID, strconv.FormatInt(bits(f.Mode), 8))}
			}
			continue
		}
		o := &ownedFile{name: path.Base(f.name)}
		if f.Mode.IsRegular() && (f.UID != 0 || f.GID != 0 || bits(f.Mode) != 0o644) {
			o.lines = append(o.lines, fmt.Sprintf("a:%d:%d:%s", f.UID, f.GID, strconv.FormatInt(bits(f.Mode), 8)))
		} else if f.Mode&fs.ModeSymlink != 0 {
			o.lines = append(o.lines, fmt.Sprintf("a:%d:%d:777", f.UID, f.GID))
		}
		sum := f.sum
		if f.hardlink != "" {
			sum = sums[f.hardlink]
		}
		sums[f.name] = sum
		if sum != nil {
			o.lines = append(o.lines, "Z:"+sum.String())
		}
		d := at(path.Dir(f.name))
		d.files = append(d.files, o)
	}
	return list
}

// bits are the permissions as Unix has them, in 12 bits.
func bits(m fs.FileMode) int64 {
	n := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		n |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		n |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		n |= 0o1000
	}
	return n
}
