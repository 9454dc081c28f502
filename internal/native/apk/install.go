package apk

import (
	"context"
	"crypto/sha1" //nolint:gosec // the format's own checksum
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk/solve"
	"github.com/anyarch/anyarch/internal/native/command"
)

// transaction changes what is installed.
type transaction struct {
	*database
	call           *command.Proc
	options        flags
	owner          map[string]*installed // of files
	users          map[string]int        // of directories
	protected      []protection
	modified       map[string]bool // directories in which something changed
	fresh          map[string]bool // checksums of packages that were installed now
	uids, gids     map[string]int  // names that were looked up, -1 if unknown
	step, steps    int
	failedPackages int
}

// protection is a line of protected_paths.d: files there that were changed are kept.
type protection struct {
	pattern string
	on      bool
}

func (t *transaction) begin() error {
	t.owner, t.users = t.owners(), t.dirUsers()
	t.modified, t.fresh = map[string]bool{}, map[string]bool{}
	t.uids, t.gids = map[string]int{}, map[string]int{}
	// apk_db_open: these are protected without being listed.
	t.protected = []protection{{"etc", true}}
	children, err := t.tree.ReadDir("/etc/apk/protected_paths.d")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range children {
		if !strings.HasSuffix(c.Name, ".list") {
			continue
		}
		data, err := t.tree.ReadFile("/etc/apk/protected_paths.d/" + c.Name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if len(line) < 2 || line[0] == '#' {
				continue
			}
			on := true
			switch line[0] {
			case '-', '+':
				on = line[0] == '+'
				line = line[1:]
			case '@', '!':
				// symlinks only, and "keep always": not what Dockerfiles meet
				return fmt.Errorf("/etc/apk/protected_paths.d/%s: the line %q isn't supported", c.Name, line)
			}
			t.protected = append(t.protected, protection{strings.Trim(line, "/"), on})
		}
	}
	return nil
}

func (t *transaction) isProtected(name string) bool {
	on := false
	for _, p := range t.protected {
		if name == p.pattern || strings.HasPrefix(name, p.pattern+"/") {
			on = p.on
		} else if ok, _ := path.Match(p.pattern, name); ok {
			on = p.on
		}
	}
	return on
}

// say writes what apk says.
func (t *transaction) say(format string, args ...any) {
	if !t.options.quiet {
		_, _ = fmt.Fprintf(t.call.Stdout, format+"\n", args...)
	}
}

// install puts a package into the stage, in place of old if that is not nil.
func (t *transaction) install(ctx context.Context, a *archive, old *installed, tag string) error {
	t.step++
	e := a.entry
	switch {
	case old == nil:
		t.say("(%d/%d) Installing %s%s (%s)", t.step, t.steps, e.Name, tag, e.Version)
	case old.Version == e.Version:
		t.say("(%d/%d) Reinstalling %s%s (%s)", t.step, t.steps, e.Name, tag, e.Version)
	case solve.Compare(old.Version, e.Version) > 0:
		t.say("(%d/%d) Downgrading %s%s (%s -> %s)", t.step, t.steps, e.Name, tag, old.Version, e.Version)
	default:
		t.say("(%d/%d) Upgrading %s%s (%s -> %s)", t.step, t.steps, e.Name, tag, old.Version, e.Version)
	}
	for i := range a.files {
		t.resolveOwner(&a.files[i])
	}
	if err := t.conflicts(a, old); err != nil {
		return err
	}
	before, after, args := "pre-install", "post-install", []string{e.Version}
	if old != nil {
		before, after, args = "pre-upgrade", "post-upgrade", []string{e.Version, old.Version}
	}
	if err := t.runScript(ctx, e, before, a.scripts[before], args); err != nil {
		return err
	}
	// A script may have made the accounts that files belong to.
	t.uids, t.gids = map[string]int{}, map[string]int{}
	for i := range a.files {
		t.resolveOwner(&a.files[i])
	}
	p := &installed{entry: *e}
	p.Installed = true
	skipped := map[string]bool{}
	for i := range a.files {
		kept, err := t.place(&a.files[i], e, old)
		if err != nil {
			return fmt.Errorf("%s: %w", a.files[i].name, err)
		}
		if kept == nobodys {
			skipped[a.files[i].name] = true
		}
	}
	p.dirs = own(slices.DeleteFunc(slices.Clone(a.files), func(f file) bool { return skipped[f.name] }))
	for _, f := range a.files {
		if f.Mode.IsDir() || skipped[f.name] {
			continue
		}
		if other := t.owner[f.name]; other != nil && other != old {
			other.disown(f.name)
		}
		t.owner[f.name] = p
	}
	for _, d := range p.dirs {
		t.users[d.name]++
	}
	if old != nil {
		if err := t.removeFiles(old); err != nil {
			return err
		}
		t.dropScripts(&old.entry)
		t.installed[slices.Index(t.installed, old)] = p
	} else {
		t.installed = append(t.installed, p)
	}
	t.addScripts(a)
	t.fresh[e.Checksum] = true
	return t.runScript(ctx, e, after, a.scripts[after], args)
}

// conflicts finds files that belong to other packages, before anything changes.
// Who replaces whom decides (apk-package(5), replaces and replaces_priority).
func (t *transaction) conflicts(a *archive, old *installed) error {
	for _, f := range a.files {
		other := t.owner[f.name]
		if f.Mode.IsDir() || other == nil || other == old || t.options.forceOverwrite {
			continue
		}
		if t.precedence(a.entry, &other.entry) == 0 {
			return fmt.Errorf("%s-%s: trying to overwrite %s owned by %s-%s", a.entry.Name, a.entry.Version, f.name, other.Name, other.Version)
		}
	}
	return nil
}

// precedence is 1 if a package's files come before those of the other, -1 if it is
// the other way round, 0 if neither says so.
func (t *transaction) precedence(e, other *entry) int {
	if e.Name == other.Name {
		return 1
	}
	replaces := func(a, b *entry) int {
		for _, d := range a.Replaces {
			if d.Name == b.Name && d.Matches(b.Version) {
				return 1
			}
			for _, p := range b.Provides {
				if d.Name == p.Name && (p.Version == "" && d.Op == 0 || p.Version != "" && d.Matches(p.Version)) {
					return 1
				}
			}
		}
		return 0
	}
	a, b := replaces(e, other), replaces(other, e)
	switch {
	case a > b:
		return 1
	case b > a:
		return -1
	case a == 0:
		return 0
	case e.ReplacesPriority < other.ReplacesPriority:
		return -1
	}
	return 1
}

// resolveOwner makes names of owners the numbers that the stage has for them.
func (t *transaction) resolveOwner(f *file) {
	if f.user != "" {
		uid, ok := t.uids[f.user]
		if !ok {
			uid = -1
			if n, _, _, _, known, err := command.LookupUser(t.tree, f.user); err == nil && known {
				uid = n
			}
			t.uids[f.user] = uid
		}
		if uid >= 0 {
			f.UID = uid
		}
	}
	if f.group != "" {
		gid, ok := t.gids[f.group]
		if !ok {
			gid = -1
			if n, known, err := command.LookupGroup(t.tree, f.group); err == nil && known {
				gid = n
			}
			t.gids[f.group] = gid
		}
		if gid >= 0 {
			f.GID = gid
		}
	}
}

// what became of a file of a package.
type outcome int

const (
	written outcome = iota
	kept            // the file that was there stays; it is the package's now
	nobodys         // another package's file stays, and stays that package's
)

// place puts one file where it belongs. Links of the stage are followed in its
// directory, inside the stage; what is at the place itself is replaced.
func (t *transaction) place(f *file, e *entry, old *installed) (outcome, error) {
	name := "/" + f.name
	if f.Mode.IsDir() {
		t.modified[f.name] = t.modified[f.name] || t.users[f.name] == 0
		a, err := t.tree.Stat(name)
		switch {
		case err == nil && a.IsDir():
			if old == nil || t.users[f.name] > 1 {
				return kept, nil
			}
			return kept, t.tree.Update(name, true, func(a *filetree.Attr) { a.Mode, a.UID, a.GID = f.Mode, f.UID, f.GID })
		case err == nil:
			return written, errors.New("there is a file in the place of the directory")
		case !errors.Is(err, fs.ErrNotExist):
			return written, err
		}
		if err := t.tree.MkdirAll(path.Dir(name), filetree.Attr{Mode: 0o755, ModTime: t.now}); err != nil {
			return written, err
		}
		return written, t.tree.Mkdir(name, f.Attr)
	}
	dir := path.Dir(f.name)
	other := t.owner[f.name]
	if other != nil && other != old && !t.options.forceOverwrite && t.precedence(e, &other.entry) < 0 {
		return nobodys, nil
	}
	if dir == "." {
		t.modified[""] = true
	} else {
		t.modified[dir] = true
	}
	if err := t.tree.MkdirAll(path.Dir(name), filetree.Attr{Mode: 0o755, ModTime: t.now}); err != nil {
		return written, err
	}
	there, err := t.tree.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return written, err
	case there.IsDir():
		return written, errors.New("there is a directory in its place")
	case t.isProtected(f.name):
		var recorded checksum
		if other != nil {
			recorded = other.checksumOf(f.name)
		}
		sum, err := t.sumOf(name, &there)
		if err != nil {
			return written, err
		}
		if other == nil || string(sum) != string(recorded) {
			// It was changed, or nobody's: it stays. What differs comes beside it.
			if string(sum) == string(f.sum) || t.options.cleanProtected {
				return kept, nil
			}
			return kept, t.put(name+".apk-new", f)
		}
	}
	return written, t.put(name, f)
}

func (t *transaction) put(name string, f *file) error {
	if a, err := t.tree.Lstat(name); err == nil && !a.IsDir() {
		if err := t.tree.Remove(name); err != nil {
			return err
		}
	}
	if f.hardlink != "" {
		return t.tree.Link("/"+f.hardlink, name)
	}
	return t.tree.Put(name, f.Attr)
}

// sumOf is the checksum of a file of the stage as the database has it.
func (t *transaction) sumOf(name string, a *filetree.Attr) (checksum, error) {
	sum := sha1.New() //nolint:gosec // see above
	if a.IsSymlink() {
		_, _ = io.WriteString(sum, a.Link)
		return sum.Sum(nil), nil
	}
	if !a.IsRegular() {
		return nil, nil
	}
	r, err := a.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(sum, r)
	return sum.Sum(nil), err
}

// removeFiles takes away what a package has and no other one owns. Changed files
// in protected places stay, and so do directories that aren't empty.
func (t *transaction) removeFiles(p *installed) error {
	for _, dir := range slices.Backward(p.dirs) {
		for _, f := range dir.files {
			name := path.Join(dir.name, f.name)
			if t.owner[name] != p {
				continue
			}
			delete(t.owner, name)
			t.modified[dir.name] = true
			a, err := t.tree.Lstat("/" + name)
			if errors.Is(err, fs.ErrNotExist) || err == nil && a.IsDir() {
				continue
			}
			if err != nil {
				return err
			}
			if t.isProtected(name) && !t.options.purge {
				sum, err := t.sumOf("/"+name, &a)
				if err != nil {
					return err
				}
				if string(sum) != string(p.checksumOf(name)) {
					continue
				}
			}
			if err := t.tree.Remove("/" + name); err != nil {
				return err
			}
		}
	}
	// Deepest first, so that a directory is empty when its turn comes.
	var dirs []string
	for _, dir := range p.dirs {
		t.users[dir.name]--
		if t.users[dir.name] <= 0 && dir.name != "" {
			dirs = append(dirs, dir.name)
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) {
		a, err := t.tree.Lstat("/" + dir)
		if err != nil || !a.IsDir() {
			continue
		}
		if children, err := t.tree.ReadDir("/" + dir); err == nil && len(children) == 0 {
			if err := t.tree.Remove("/" + dir); err != nil {
				return err
			}
			t.modified[dir] = true
		}
	}
	return nil
}

// purge takes a package away.
func (t *transaction) remove(ctx context.Context, p *installed) error {
	t.step++
	t.say("(%d/%d) Purging %s (%s)", t.step, t.steps, p.Name, p.Version)
	args := []string{p.Version}
	after := t.scriptOf(&p.entry, "post-deinstall")
	if err := t.runScript(ctx, &p.entry, "pre-deinstall", t.scriptOf(&p.entry, "pre-deinstall"), args); err != nil {
		return err
	}
	if err := t.removeFiles(p); err != nil {
		return err
	}
	t.dropScripts(&p.entry)
	t.installed = slices.DeleteFunc(t.installed, func(q *installed) bool { return q == p })
	return t.runScript(ctx, &p.entry, "post-deinstall", after, args)
}

// fireTriggers runs the triggers of packages whose directories have changed; those
// of new packages see all directories there are (apk-package(5), triggers).
func (t *transaction) fireTriggers(ctx context.Context) error {
	names := slices.Sorted(func(yield func(string) bool) {
		for name, n := range t.users {
			if n > 0 && !yield(name) {
				return
			}
		}
	})
	for _, p := range slices.Clone(t.installed) {
		patterns := t.triggers[p.Checksum]
		var dirs []string
		for _, name := range names {
			for _, pattern := range patterns {
				onlyChanged := strings.HasPrefix(pattern, "+")
				pattern = strings.TrimPrefix(pattern, "+")
				if !t.modified[name] && (onlyChanged || !t.fresh[p.Checksum]) {
					continue
				}
				if ok, _ := path.Match(pattern, "/"+name); ok {
					dirs = append(dirs, "/"+name)
					break
				}
			}
		}
		if len(dirs) == 0 {
			continue
		}
		if err := t.runScript(ctx, &p.entry, "trigger", t.scriptOf(&p.entry, "trigger"), dirs); err != nil {
			return err
		}
	}
	return nil
}

// runScript runs a script of a package in the stage, through the same interpreter
// as RUN lines: what it can't do is refused with the script's name.
func (t *transaction) runScript(ctx context.Context, e *entry, kind string, text []byte, args []string) error {
	if text == nil || t.options.noScripts {
		return nil
	}
	name := e.Name + "-" + e.Version + "." + kind
	t.say("Executing %s", name)
	dir := path.Dir(t.dir) + "/exec"
	a := filetree.Attr{Mode: 0o755, ModTime: t.now}
	existed := true
	if _, err := t.tree.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		existed = false
	}
	if err := t.tree.MkdirAll(dir, a); err != nil {
		return err
	}
	file := dir + "/" + name
	if err := t.tree.WriteFile(file, filetree.Bytes(text).Content(), a); err != nil {
		return err
	}
	call := *t.call
	call.Dir = "/"
	call.Args = append([]string{file}, args...)
	call.Env = map[string]string{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "APK_PACKAGE": e.Name, "APK_SCRIPT": kind}
	exit, err := t.call.Run(ctx, &call)
	var u *command.Unsupported
	if errors.As(err, &u) {
		return &command.Unsupported{Command: "apk", What: fmt.Sprintf("the script %s (%s: %s)", name, u.Command, u.What), Fix: u.Fix}
	}
	if err != nil {
		return err
	}
	if err := t.tree.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !existed {
		if children, err := t.tree.ReadDir(dir); err == nil && len(children) == 0 {
			if err := t.tree.Remove(dir); err != nil {
				return err
			}
		}
	}
	if exit != 0 {
		_, _ = fmt.Fprintf(t.call.Stderr, "ERROR: %s: script exited with error %d\n", name, exit)
		t.failedPackages++
	}
	return nil
}
