// Package database is dpkg's side of installing packages: its database in
// /var/lib/dpkg and the rules by which the files of a package get into a file
// system (dpkg(1), deb-conffiles(5), deb-triggers(5), Debian Policy 6 and 7.6).
//
// A Database is opened on a tree, packages are unpacked into the tree and
// configured, and at the end the status file is written. It is meant to leave the
// tree and the database as the dpkg of Debian 12 (1.21) does, except for backups of
// an interrupted run, its log and times of directories.
//
// Maintainer scripts aren't run here: they are given to a function of the caller at
// the moment when dpkg runs them.
//
// Only one architecture beside "all" can have an instance of a package at a time.
package database

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Where things are.
const (
	adminDir    = "/var/lib/dpkg"
	statusFile  = adminDir + "/status"
	statusOld   = adminDir + "/status-old"
	infoDir     = adminDir + "/info"
	updatesDir  = adminDir + "/updates"
	triggersDir = adminDir + "/triggers"
	archFile    = adminDir + "/arch"
)

// Options are what a database can be opened with. The zero value is usable.
type Options struct {
	// Now is the time that files which it writes itself get; the files of packages
	// have that of the archive.
	Now time.Time
	// Spool keeps the content of a file of a package, of which size bytes can be
	// read from r until it returns. nil keeps all in memory; see SpoolTo.
	Spool func(r io.Reader, size int64) (filetree.Content, error)
	// Script runs a maintainer script. A failure ends what is being done: there is
	// no way back as dpkg has it. The database is not on disk at that time unless
	// the function calls Flush. nil leaves the scripts out.
	Script func(ctx context.Context, s *Script) error
	// Log gets what dpkg says on its standard output, a line at a time without its
	// end; nil throws it away.
	Log func(line string)
	// Conffiles says what happens to configuration files where dpkg would ask.
	Conffiles ConffilePolicy
}

// Database is the packages of a file system. It is not for concurrent use. After an
// error of Unpack or Configure, it and its tree must not be used any more: work on
// a fork of the tree where that matters.
type Database struct {
	o            Options
	tree         *filetree.Tree
	architecture string
	foreign      []string
	packages     map[string][]*Package // by name
	filters      []filter
	force        ConffilePolicy
	overwrite    bool // force-overwrite is set in dpkg.cfg

	diversions diversions
	overrides  map[string]override

	// owners are the packages that have a path in their list of files; nil until
	// somebody asks.
	owners map[string][]*Package

	// providers are the packages that Provide a name; nil until somebody asks.
	providers map[string][]*Package

	fileTriggers []interest // of /var/lib/dpkg/triggers/File, in its order
}

// Open reads the database of a tree. One that has none is empty.
func Open(t *filetree.Tree, o Options) (*Database, error) {
	d := &Database{o: o, tree: t, packages: map[string][]*Package{}, force: o.Conffiles}
	data, err := optional(t, statusFile)
	if err != nil {
		return nil, err
	}
	if err := d.readStatus(statusFile, data); err != nil {
		return nil, err
	}
	if err := d.readUpdates(); err != nil {
		return nil, err
	}
	if err := d.readArchitecture(); err != nil {
		return nil, err
	}
	if err := d.readConfiguration(); err != nil {
		return nil, err
	}
	return d, d.reload()
}

// reload reads what maintainer scripts may have changed.
func (d *Database) reload() error {
	if err := d.readDiversions(); err != nil {
		return err
	}
	if err := d.readOverrides(); err != nil {
		return err
	}
	return d.readFileTriggers()
}

// optional reads a file; one that isn't there is empty.
func optional(t *filetree.Tree, name string) ([]byte, error) {
	data, err := t.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// readStatus takes over the paragraphs of a file in the form of the status file.
func (d *Database) readStatus(name string, data []byte) error {
	r := control.NewReader(bytes.NewReader(data))
	for {
		paragraph, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p, err := newPackage(paragraph)
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, paragraph.Line, err)
		}
		d.add(p)
	}
}

// readUpdates takes over what a dpkg that was interrupted has left: paragraphs that
// replace those of the status file, in files with numbers as names.
func (d *Database) readUpdates() error {
	names, err := d.updates()
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := d.tree.ReadFile(name)
		if err != nil {
			return err
		}
		if err := d.readStatus(name, data); err != nil {
			return err
		}
	}
	return nil
}

func (d *Database) updates() ([]string, error) {
	list, err := d.tree.ReadDir(updatesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range list {
		if f.Name != "" && strings.Trim(f.Name, "0123456789") == "" {
			names = append(names, updatesDir+"/"+f.Name)
		}
	}
	return names, nil
}

// readArchitecture finds the architecture of the system: dpkg has it built in, and
// writes it down only where there are foreign ones.
func (d *Database) readArchitecture() error {
	data, err := optional(d.tree, archFile)
	if err != nil {
		return err
	}
	list := strings.Fields(string(data))
	if dpkg := d.Get("dpkg"); dpkg != nil && dpkg.Architecture != "all" {
		d.architecture = dpkg.Architecture
	} else if len(list) > 0 {
		d.architecture = list[0]
	}
	for _, a := range list {
		if a != d.architecture {
			d.foreign = append(d.foreign, a)
		}
	}
	return nil
}

// Architecture is that of the system, empty if the database doesn't say it: then
// packages of every architecture can be installed.
func (d *Database) Architecture() string { return d.architecture }

// ForeignArchitectures are those that dpkg --add-architecture has added.
func (d *Database) ForeignArchitectures() []string { return slices.Clone(d.foreign) }

// add puts a package in, in place of one of the same name and architecture.
func (d *Database) add(p *Package) {
	d.providers = nil
	list := d.packages[p.Name]
	if i := slices.IndexFunc(list, func(q *Package) bool { return q.Architecture == p.Architecture }); i >= 0 {
		list[i] = p
		return
	}
	d.packages[p.Name] = append(list, p)
}

// Get finds a package by its name, or its name and architecture ("libc6:amd64"),
// that is more than not-installed; nil if there is none.
func (d *Database) Get(name string) *Package {
	name, arch, _ := strings.Cut(name, ":")
	for _, p := range d.packages[name] {
		if (arch == "" || arch == p.Architecture || arch == d.architecture && p.Architecture == "all") && p.State != NotInstalled {
			return p
		}
	}
	return nil
}

// Installed are the packages that have files in the tree, in whatever state, sorted
// by name and architecture.
func (d *Database) Installed() []*Package {
	return slices.DeleteFunc(d.sorted(), func(p *Package) bool { return p.State.rank() <= ConfigFiles.rank() })
}

// Unconfigured are the packages that Configure has to be called for, sorted by name.
func (d *Database) Unconfigured() []*Package {
	return slices.DeleteFunc(d.sorted(), func(p *Package) bool { return p.State != Unpacked && p.State != HalfConfigured })
}

// sorted are all packages in the order of the status file.
func (d *Database) sorted() []*Package {
	all := slices.Concat(slices.Collect(maps.Values(d.packages))...)
	slices.SortFunc(all, func(a, b *Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Architecture, b.Architecture)
	})
	return all
}

// Flush writes the status file, and what it was as status-old. It writes nothing if
// nothing has changed.
func (d *Database) Flush() error {
	var b []byte
	for _, p := range d.sorted() {
		if p.informative() {
			b = append(p.appendTo(b), '\n')
		}
	}
	old, err := optional(d.tree, statusFile)
	if err != nil {
		return err
	}
	updates, err := d.updates()
	if err != nil || bytes.Equal(old, b) && len(updates) == 0 {
		return err
	}
	if old != nil {
		if err := d.tree.RemoveAll(statusOld); err != nil {
			return err
		}
		if err := d.tree.Rename(statusFile, statusOld); err != nil {
			return err
		}
	}
	if err := d.write(statusFile, b); err != nil {
		return err
	}
	for _, name := range updates {
		if err := d.tree.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file of the database, in place of what is there.
func (d *Database) write(name string, data []byte) error {
	dir := name[:strings.LastIndexByte(name, '/')]
	if err := d.tree.MkdirAll(dir, filetree.Attr{Mode: 0o755, ModTime: d.o.Now}); err != nil {
		return err
	}
	return d.tree.Put(name, filetree.Attr{Mode: 0o644, ModTime: d.o.Now, Content: filetree.Bytes(data).Content()})
}

func (d *Database) log(format string, args ...any) {
	if d.o.Log != nil {
		d.o.Log(fmt.Sprintf(format, args...))
	}
}

// keep gives the content of a file of a package.
func (d *Database) keep(r io.Reader, size int64) (filetree.Content, error) {
	if d.o.Spool != nil {
		return d.o.Spool(r, size)
	}
	return inMemory(r, size)
}

func inMemory(r io.Reader, size int64) (filetree.Content, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return filetree.Bytes(b.Bytes()).Content(), err
}

// smallFile is what SpoolTo keeps in memory.
const smallFile = 64 << 10

// SpoolTo gives a function for Options.Spool that keeps small files in memory and
// others in a directory of the host, which must stay as long as the tree is used.
func SpoolTo(dir string) func(r io.Reader, size int64) (filetree.Content, error) {
	return func(r io.Reader, size int64) (filetree.Content, error) {
		if size <= smallFile {
			return inMemory(r, size)
		}
		f, err := os.CreateTemp(dir, "deb-*")
		if err != nil {
			return nil, err
		}
		n, err := io.Copy(f, r)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		return filetree.FileContent(f.Name(), n), nil
	}
}
