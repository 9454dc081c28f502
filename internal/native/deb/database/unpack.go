package database

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Unpack puts the files of a package into the tree, over those of the version that
// is installed, and leaves the package unpacked: Configure is next. Configuration
// files are put beside, as .dpkg-new. What the package breaks is not configured any
// more afterwards; see Unconfigured.
//
// It fails where dpkg does: for a package of another architecture, conflicts, a
// Pre-Depends that isn't there, and files that belong to other packages unless it
// Replaces them (Debian Policy 7.6).
func (d *Database) Unpack(ctx context.Context, a *archive.Package) error {
	if err := d.unpack(ctx, a); err != nil {
		return fmt.Errorf("unpack %s (%s): %w", a.Name, a.Version, err)
	}
	return nil
}

func (d *Database) unpack(ctx context.Context, a *archive.Package) error {
	if err := d.reload(); err != nil {
		return err
	}
	if err := d.checkArchitecture(a); err != nil {
		return err
	}
	u := &unpacking{d: d, a: a, listed: map[string]*newFile{}, conffiles: map[string]*newConf{}, said: map[*Package]int{}}
	if err := u.prepare(); err != nil {
		return err
	}
	if err := u.before(ctx); err != nil {
		return err
	}
	if err := u.extract(ctx); err != nil {
		return err
	}
	if u.old.rank() > ConfigFiles.rank() {
		if err := d.runInstalled(ctx, u.p, "postrm", "upgrade", a.Version.String()); err != nil {
			return err
		}
	}
	if err := u.removeOld(); err != nil {
		return err
	}
	if err := u.writeInfo(); err != nil {
		return err
	}
	u.takeFields()
	if err := u.disappear(ctx); err != nil {
		return err
	}
	if err := u.takeFromOthers(); err != nil {
		return err
	}
	u.p.Flag = "ok"
	u.p.set(Unpacked)
	return d.incorporate()
}

func (d *Database) checkArchitecture(a *archive.Package) error {
	if a.Architecture == "all" || d.architecture == "" || a.Architecture == d.architecture || slices.Contains(d.foreign, a.Architecture) {
		return nil
	}
	return fmt.Errorf("package architecture (%s) does not match system (%s)", a.Architecture, d.architecture)
}

// unpacking is one package on its way into the tree.
type unpacking struct {
	d   *Database
	a   *archive.Package
	p   *Package // what it becomes in the database; its fields are of the old version until takeFields
	new *Package // what it is by its control file
	old State    // before

	broken []*Package // what it Breaks

	triggers    []directive
	oldTriggers []directive

	files     []*newFile // in the order of the list
	listed    map[string]*newFile
	conffiles map[string]*newConf
	confOrder []*newConf
	oldConf   map[string]string // hashes of the conffiles of the old version

	users, groups map[string]int
	said          map[*Package]int // whether another package is replaced by it, or replaces it
}

// newFile is a file of the package.
type newFile struct {
	path   string
	hash   string // MD5, if it is needed
	placed bool   // it is in the tree: other packages have it no more
	kept   bool   // another package's file is there instead, or a filter leaves it out
}

// newConf is a configuration file of the package.
type newConf struct {
	path     string
	hash     string // of the version that was configured before
	remove   bool   // remove-on-upgrade
	obsolete bool
}

// What said means.
const (
	replaces   = 1
	replacedBy = 2
)

// prepare reads the control archive, finds what is installed and makes sure that the
// package can be.
func (u *unpacking) prepare() error {
	d, a := u.d, u.a
	c := a.Control.Clone()
	c.Remove("Status")
	u.new = &Package{Name: a.Name, Architecture: a.Architecture, Version: a.Version, MultiArch: multiArch(c), Control: c}
	if a.Architecture == "all" && u.new.MultiArch == "same" {
		return fmt.Errorf("it is Multi-Arch: same, but of architecture all")
	}
	for _, field := range relationFields {
		if _, err := u.new.relation(field); err != nil {
			return err
		}
	}
	var err error
	if f, ok := a.File("triggers"); ok {
		if u.triggers, err = directives(f.Data); err != nil {
			return err
		}
	}
	if err := u.findInstalled(); err != nil {
		return err
	}
	if u.broken, err = d.checkUnpack(a, u.new); err != nil {
		return err
	}
	if err := d.loadOwners(); err != nil {
		return err
	}
	if u.oldTriggers, err = d.directivesOf(u.p); err != nil {
		return err
	}
	return u.readConffiles()
}

// findInstalled finds the instance that the package takes the place of: the one of
// its architecture, or of another one if it can only be installed for one.
func (u *unpacking) findInstalled() error {
	d, a := u.d, u.a
	for _, p := range d.packages[a.Name] {
		if p.Architecture != a.Architecture && p.State.rank() > ConfigFiles.rank() && p.MultiArch == "same" && u.new.MultiArch == "same" {
			return fmt.Errorf("%s is installed as well; several architectures of one package aren't supported", p.ID())
		}
		if u.p == nil || p.Architecture == a.Architecture || p.State.rank() > u.p.State.rank() {
			u.p = p
		}
	}
	if u.p == nil || u.p.State == NotInstalled {
		u.p = &Package{Name: a.Name, Architecture: a.Architecture, MultiArch: u.new.MultiArch, Want: "unknown", Flag: "ok", State: NotInstalled, Control: &control.Paragraph{}, filesLoaded: true}
		d.add(u.p)
	}
	u.old = u.p.State
	return nil
}

// readConffiles reads what the package says about configuration files, and finds the
// hashes that the old version, or another package that had them, has for them.
func (u *unpacking) readConffiles() error {
	u.oldConf = map[string]string{}
	for _, f := range u.p.Conffiles {
		u.oldConf[f.Path] = f.Hash
	}
	f, ok := u.a.File("conffiles")
	if !ok {
		return nil
	}
	list, err := listedConffiles(f.Data)
	if err != nil {
		return err
	}
	for _, l := range list {
		c := &newConf{path: l.path, hash: newConffile, remove: l.remove}
		for _, owner := range u.d.owners[l.path] {
			if known := owner.conffile(l.path); known != nil {
				c.hash = known.Hash
				if owner == u.p {
					break
				}
			}
		}
		u.conffiles[c.path] = c
		u.confOrder = append(u.confOrder, c)
	}
	return nil
}

// isConffile reports whether a path is a configuration file that the package brings.
func (u *unpacking) isConffile(name string) bool {
	c := u.conffiles[name]
	return c != nil && !c.remove
}

// before runs the scripts that come before the files, and takes away the state of
// being configured.
func (u *unpacking) before(ctx context.Context) error {
	d, a, p := u.d, u.a, u.p
	version := a.Version.String()
	if u.old.rank() > ConfigFiles.rank() {
		if err := d.activateOf(p); err != nil {
			return err
		}
	}
	if err := d.activateAll(u.triggers, p); err != nil {
		return err
	}
	if u.old.rank() >= HalfConfigured.rank() {
		p.Flag = "reinstreq"
		p.set(HalfConfigured)
		d.acted(p)
		if err := d.runInstalled(ctx, p, "prerm", "upgrade", version); err != nil {
			return err
		}
		p.set(Unpacked)
	}
	for _, b := range u.broken {
		if b.State.rank() < HalfConfigured.rank() {
			continue
		}
		d.log("De-configuring %s (%s), to allow installation of %s (%s) ...", b.FileName(), b.Version, a.Name, version)
		b.set(HalfConfigured)
		d.acted(b)
		if err := d.runInstalled(ctx, b, "prerm", "deconfigure", "in-favour", a.Name, version); err != nil {
			return err
		}
	}
	p.Want, p.Flag = "install", "reinstreq"
	from := p.Version.String()
	if u.old == NotInstalled {
		p.Version, p.MultiArch, from = a.Version, u.new.MultiArch, ""
	}
	p.set(HalfInstalled)
	if u.old.rank() <= ConfigFiles.rank() {
		if from == "" {
			return d.runNew(ctx, a, "preinst", "install")
		}
		return d.runNew(ctx, a, "preinst", "install", from, version)
	}
	d.log("Unpacking %s (%s) over (%s) ...", u.new.FileName(), version, from)
	return d.runNew(ctx, a, "preinst", "upgrade", from, version)
}

// loadOwners reads the lists of files of all packages.
func (d *Database) loadOwners() error {
	if d.owners != nil {
		return nil
	}
	d.owners = map[string][]*Package{}
	for _, p := range d.sorted() {
		files, err := d.Files(p)
		if err != nil {
			return err
		}
		for _, f := range files {
			d.owners[f] = append(d.owners[f], p)
		}
	}
	return nil
}

// Files are the paths of a package, in the order of its list, with "/" for the root.
// A package that has no list has no files.
func (d *Database) Files(p *Package) ([]string, error) {
	if p.filesLoaded {
		return p.files, nil
	}
	if p.State == NotInstalled {
		p.filesLoaded = true
		return nil, nil
	}
	data, _, err := d.Info(p, "list")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		name := strings.TrimSuffix(line, "\n")
		if name == "" {
			return nil, fmt.Errorf("the list of files of %s has an empty line", p.FileName())
		}
		if name = clean(name); !seen[name] {
			seen[name] = true
			p.files = append(p.files, name)
		}
	}
	p.filesLoaded = true
	return p.files, nil
}

// setFiles changes the list of files of a package in memory and in the tree.
func (d *Database) setFiles(p *Package, file string, list []string) error {
	for _, name := range p.files {
		d.owners[name] = slices.DeleteFunc(slices.Clone(d.owners[name]), func(q *Package) bool { return q == p })
	}
	var b bytes.Buffer
	for _, name := range list {
		if !slices.Contains(d.owners[name], p) {
			d.owners[name] = append(d.owners[name], p)
		}
		if name == "/" {
			name = "/." // as dpkg has it
		}
		b.WriteString(name + "\n")
	}
	p.files, p.filesLoaded = list, true
	return d.write(file, b.Bytes())
}

// removeOld takes away what the old version had and the new one hasn't.
func (u *unpacking) removeOld() error {
	d, p := u.d, u.p
	for _, c := range u.confOrder {
		if c.remove {
			if err := d.removeOnUpgrade(p, c.path, c.hash); err != nil {
				return err
			}
		}
	}
	old, err := d.Files(p)
	if err != nil {
		return err
	}
	// What is in a directory comes after it in the list, and goes first.
	for _, name := range slices.Backward(old) {
		f := u.listed[name]
		if u.conffiles[name] != nil || f != nil && !f.kept {
			continue
		}
		if err := u.removeFile(name); err != nil {
			return err
		}
	}
	return nil
}

// removeFile takes away a path of the old version.
func (u *unpacking) removeFile(name string) error {
	d, p := u.d, u.p
	use := d.use(name, p.Name)
	if a, err := d.tree.Stat(use); err == nil && a.IsDir() {
		others := slices.ContainsFunc(d.owners[name], func(q *Package) bool { return q != p })
		if others {
			return nil
		}
	}
	a, err := d.tree.Lstat(use)
	if err != nil {
		return nil //nolint:nilerr // what can't be looked up isn't there
	}
	if a.IsDir() {
		d.activatePath(use, p)
		if use == "/" {
			return nil
		}
		if err := d.tree.Remove(use); err != nil {
			d.log("warning: unable to delete old directory '%s': %v", name, err)
		}
		return nil
	}
	// It may be a file of the new version by another name: over a symbolic link
	// of the tree, such as /bin.
	same := u.sameFile(use)
	if hash, conf := u.oldConf[name]; conf {
		if same != nil {
			if c := u.conffiles[same.path]; c != nil && !c.remove && c.hash == newConffile {
				c.hash = hash
			}
			return nil
		}
		u.keepObsolete(name, hash)
		return nil
	}
	if same != nil {
		return nil
	}
	d.activatePath(use, p)
	return d.tree.Remove(use)
}

// keepObsolete lists a configuration file that only the old version had: it stays
// until the package is purged.
func (u *unpacking) keepObsolete(name, hash string) {
	if u.conffiles[name] == nil {
		c := &newConf{path: name, hash: hash, obsolete: true}
		u.conffiles[name] = c
		u.confOrder = append(u.confOrder, c)
	}
	if u.listed[name] == nil {
		u.list(name)
	}
}

// sameFile finds the file of the new version that is at a place of the tree.
func (u *unpacking) sameFile(use string) *newFile {
	at, err := u.d.tree.Resolve(use, false)
	if err != nil {
		return nil
	}
	for _, f := range u.files {
		if f.kept || path.Base(f.path) != path.Base(use) {
			continue
		}
		if other, err := u.d.tree.Resolve(f.path, false); err == nil && other == at {
			return f
		}
	}
	return nil
}

// writeInfo writes the list of files, the interests in triggers and the other files
// of the control archive.
func (u *unpacking) writeInfo() error {
	d, p := u.d, u.p
	prefix := infoDir + "/" + fileName(u.new.Name, u.new.Architecture, u.new.MultiArch) + "."
	oldPrefix := strings.TrimSuffix(d.infoFile(p, "list"), "list")
	var list []string
	var sums bytes.Buffer
	for _, f := range u.files {
		list = append(list, f.path)
		if f.hash != "" {
			fmt.Fprintf(&sums, "%s  %s\n", f.hash, f.path[1:])
		}
	}
	if err := u.removeInfo(oldPrefix); err != nil {
		return err
	}
	if err := d.setFiles(p, prefix+"list", list); err != nil {
		return err
	}
	if err := u.writeFormat(); err != nil {
		return err
	}
	// The file of triggers names packages as they are called from now on.
	if err := d.changeInterests(p, u.oldTriggers, u.new, u.triggers); err != nil {
		return err
	}
	for _, f := range u.a.Info {
		if err := d.tree.Put(prefix+f.Name, filetree.Attr{Mode: f.Mode, ModTime: f.ModTime, Content: filetree.Bytes(f.Data).Content()}); err != nil {
			return err
		}
	}
	if _, ok := u.a.File("md5sums"); ok {
		return nil
	}
	return d.write(prefix+"md5sums", sums.Bytes())
}

// removeInfo takes away what the database has about the old version.
func (u *unpacking) removeInfo(prefix string) error {
	files, err := u.d.tree.ReadDir(infoDir)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		name := infoDir + "/" + f.Name
		if kind, ok := strings.CutPrefix(name, prefix); ok && !strings.Contains(kind, ".") {
			if err := u.d.tree.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeFormat says that file names have the architecture in them where it is needed.
func (u *unpacking) writeFormat() error {
	const format = infoDir + "/format"
	if _, err := u.d.tree.Lstat(format); !isMissing(err) {
		return err
	}
	return u.d.write(format, []byte("1\n"))
}

// takeFields makes the package what its new control file says.
func (u *unpacking) takeFields() {
	p := u.p
	if p.Architecture != u.new.Architecture {
		list := u.d.packages[p.Name]
		u.d.packages[p.Name] = slices.DeleteFunc(list, func(q *Package) bool {
			return q != p && q.Architecture == u.new.Architecture
		})
	}
	p.Architecture, p.Version, p.MultiArch = u.new.Architecture, u.new.Version, u.new.MultiArch
	p.Control, p.relations, p.changed = u.new.Control, nil, true
	u.d.providers = nil
	p.Conffiles = nil
	for _, c := range u.confOrder {
		p.Conffiles = append(p.Conffiles, Conffile{c.path, c.hash, c.obsolete, c.remove})
	}
}

// disappear forgets the packages all of whose files the new one has taken over
// (Debian Policy 6.6, footnote on the disappearance of packages).
func (u *unpacking) disappear(ctx context.Context) error {
	d := u.d
	for _, other := range d.Installed() {
		if other == u.p || len(other.files) == 0 || !slices.ContainsFunc(other.files, func(f string) bool { return f != "/" }) {
			continue
		}
		if slices.ContainsFunc(other.files, func(f string) bool { return u.saves(f, other) }) {
			continue
		}
		needed, err := d.needed(other)
		if err != nil {
			return err
		}
		if needed {
			continue
		}
		d.log("(Noting disappearance of %s, which has been completely replaced.)", other.FileName())
		if err := d.forget(ctx, other, u.a); err != nil {
			return err
		}
	}
	return nil
}

// saves reports whether a file is the reason for another package to stay.
func (u *unpacking) saves(name string, other *Package) bool {
	d := u.d
	if v, ok := d.diversions.from[name]; ok && (v.by == other.Name || v.by == u.p.Name) {
		return true
	}
	if f := u.listed[name]; f != nil && !f.kept {
		return false
	}
	return !slices.ContainsFunc(d.owners[name], func(third *Package) bool { return third != u.p && third != other })
}

// needed reports whether something that is installed couldn't be without a package.
func (d *Database) needed(p *Package) (bool, error) {
	for _, other := range d.Installed() {
		if other == p || other.State.rank() < TriggersAwaited.rank() {
			continue
		}
		for _, field := range []string{"Depends", "Pre-Depends", "Recommends"} {
			list, err := other.relation(field)
			if err != nil {
				return false, err
			}
			for _, alternatives := range list {
				met, err := d.satisfiers(alternatives)
				if err != nil {
					return false, err
				}
				met = slices.DeleteFunc(met, func(q *Package) bool { return q.State.rank() <= ConfigFiles.rank() })
				if len(met) == 1 && met[0] == p {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// forget takes a package out of the database that has no files any more.
func (d *Database) forget(ctx context.Context, p *Package, by *archive.Package) error {
	if err := d.activateOf(p); err != nil {
		return err
	}
	if err := d.runInstalled(ctx, p, "postrm", "disappear", by.Name, by.Version.String()); err != nil {
		return err
	}
	// As dpkg has it, its interests in triggers stay: nobody acts on them.
	for _, name := range p.files {
		d.owners[name] = slices.DeleteFunc(slices.Clone(d.owners[name]), func(q *Package) bool { return q == p })
	}
	u := &unpacking{d: d}
	if err := u.removeInfo(strings.TrimSuffix(d.infoFile(p, "list"), "list")); err != nil {
		return err
	}
	d.acted(p)
	p.Want, p.Flag, p.files = "unknown", "ok", nil
	p.Conffiles, p.TriggersAwaited, p.ConfigVersion = nil, nil, control.Version{}
	p.Control, p.relations = &control.Paragraph{}, nil
	d.providers = nil
	p.set(NotInstalled)
	return nil
}

// takeFromOthers takes the files that are placed out of the lists of other packages.
func (u *unpacking) takeFromOthers() error {
	d := u.d
	placed := map[string]bool{}
	var from []*Package
	for _, f := range u.files {
		if !f.placed {
			continue
		}
		v, diverted := d.diversions.from[f.path]
		if diverted && v.by == u.p.Name {
			continue
		}
		placed[f.path] = true
		for _, other := range d.owners[f.path] {
			if other.Name == u.p.Name || diverted && other.Name == v.by {
				continue
			}
			if c := other.conffile(f.path); c != nil && u.isConffile(f.path) {
				c.Obsolete, other.changed = true, true
			}
			if !slices.Contains(from, other) {
				from = append(from, other)
			}
		}
	}
	for _, other := range from {
		left := slices.DeleteFunc(slices.Clone(other.files), func(name string) bool { return placed[name] })
		if err := d.setFiles(other, d.infoFile(other, "list"), left); err != nil {
			return err
		}
	}
	return nil
}

// list adds a path to the list of files.
func (u *unpacking) list(name string) *newFile {
	f := &newFile{path: name}
	u.files = append(u.files, f)
	u.listed[name] = f
	return f
}

// unlist takes a path out of the list of files.
func (u *unpacking) unlist(name string) {
	f := u.listed[name]
	if f == nil {
		return
	}
	delete(u.listed, name)
	u.files = slices.DeleteFunc(u.files, func(g *newFile) bool { return g == f })
}

// exists looks a file up that may not be there.
func (d *Database) exists(name string) (filetree.Attr, bool, error) {
	a, err := d.tree.Lstat(name)
	if isMissing(err) {
		return filetree.Attr{}, false, nil
	}
	return a, err == nil, err
}

// bits gives the mode of a file with other permissions.
func bits(mode fs.FileMode, permissions int64) fs.FileMode {
	m := mode&fs.ModeType | fs.FileMode(permissions)&fs.ModePerm
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if permissions&bit != 0 {
			m |= flag
		}
	}
	return m
}
