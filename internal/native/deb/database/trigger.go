package database

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// interest is a package that acts when a trigger is activated (deb-triggers(5)).
type interest struct {
	trigger string
	pkg     string // a name, with its architecture if there may be several
	await   bool   // who activates it waits until the package has acted
}

func (i interest) suffix() string {
	if i.await {
		return i.pkg
	}
	return i.pkg + "/noawait"
}

const (
	fileTriggersFile = triggersDir + "/File"
	unincorpFile     = triggersDir + "/Unincorp"
)

// parseInterest reads a package with the option after it.
func parseInterest(trigger, text string) (interest, error) {
	pkg, option, _ := strings.Cut(text, "/")
	name, _, _ := strings.Cut(pkg, ":")
	if !control.ValidName(name) {
		return interest{}, fmt.Errorf("%q is no name of a package", pkg)
	}
	return interest{trigger, pkg, option != "noawait"}, nil
}

// readFileTriggers reads the paths that packages are interested in.
func (d *Database) readFileTriggers() error {
	data, err := optional(d.tree, fileTriggersFile)
	if err != nil {
		return err
	}
	d.fileTriggers = nil
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		trigger, pkg, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || !strings.HasPrefix(trigger, "/") {
			return fmt.Errorf("%s:%d: it isn't a path and a package", fileTriggersFile, number)
		}
		i, err := parseInterest(trigger, pkg)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", fileTriggersFile, number, err)
		}
		d.fileTriggers = append(d.fileTriggers, i)
	}
	return nil
}

// namedTriggers reads who is interested in a trigger that isn't a path.
func (d *Database) namedTriggers(trigger string) ([]interest, error) {
	data, err := optional(d.tree, triggersDir+"/"+trigger)
	if err != nil {
		return nil, err
	}
	var list []interest
	for line := range strings.Lines(string(data)) {
		i, err := parseInterest(trigger, strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", triggersDir, trigger, err)
		}
		list = append(list, i)
	}
	return list, nil
}

// directive is a line of a file triggers of a package.
type directive struct {
	activate bool // else it is interest
	trigger  string
	await    bool
}

// directives reads such a file.
func directives(data []byte) ([]directive, error) {
	var list []directive
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		verb, noawait := strings.CutSuffix(f[0], "-noawait")
		verb = strings.TrimSuffix(verb, "-await")
		if len(f) != 2 || verb != "interest" && verb != "activate" {
			return nil, fmt.Errorf("triggers: %q isn't known", strings.TrimSpace(line))
		}
		if !validTrigger(f[1]) {
			return nil, fmt.Errorf("triggers: %q is no trigger", f[1])
		}
		list = append(list, directive{verb == "activate", f[1], !noawait})
	}
	return list, nil
}

// validTrigger reports whether it is a path or has the form of the name of a package.
// Names become those of files.
func validTrigger(s string) bool {
	if strings.HasPrefix(s, "/") {
		return clean(s) == s && s != "/"
	}
	return control.ValidName(s) && s != "File" && s != "Unincorp" && s != "Lock"
}

// changeInterests replaces the interests of a package by those of its new version,
// which may have another architecture.
func (d *Database) changeInterests(p *Package, old []directive, next *Package, now []directive) error {
	files := slices.Clone(d.fileTriggers)
	for _, o := range old {
		if o.activate {
			continue
		}
		if !strings.HasPrefix(o.trigger, "/") {
			if err := d.changeNamed(o.trigger, p, nil); err != nil {
				return err
			}
			continue
		}
		files = slices.DeleteFunc(files, func(i interest) bool { return i.trigger == o.trigger && d.same(i.pkg, p) })
	}
	for _, n := range now {
		if n.activate {
			continue
		}
		i := interest{n.trigger, next.FileName(), n.await}
		if !strings.HasPrefix(n.trigger, "/") {
			if err := d.changeNamed(n.trigger, next, &i); err != nil {
				return err
			}
			continue
		}
		if at := slices.IndexFunc(files, func(i interest) bool { return i.trigger == n.trigger && d.same(i.pkg, next) }); at >= 0 {
			files[at].await = n.await
		} else {
			files = append(files, i)
		}
	}
	if slices.Equal(files, d.fileTriggers) {
		return nil
	}
	d.fileTriggers = files
	if len(files) == 0 {
		return d.tree.RemoveAll(fileTriggersFile)
	}
	var b bytes.Buffer
	for _, i := range files {
		fmt.Fprintf(&b, "%s %s\n", i.trigger, i.suffix())
	}
	return d.write(fileTriggersFile, b.Bytes())
}

// same reports whether a name of a list of triggers means a package.
func (d *Database) same(name string, p *Package) bool {
	return name == p.Name || name == p.ID()
}

// changeNamed takes a package out of the file of a trigger and puts it, if now isn't
// nil, at its end.
func (d *Database) changeNamed(trigger string, p *Package, now *interest) error {
	list, err := d.namedTriggers(trigger)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i interest) bool { return d.same(i.pkg, p) })
	if now != nil {
		list = append(list, *now)
	}
	if len(list) == 0 {
		return d.tree.RemoveAll(triggersDir + "/" + trigger)
	}
	var b bytes.Buffer
	for _, i := range list {
		b.WriteString(i.suffix() + "\n")
	}
	return d.write(triggersDir+"/"+trigger, b.Bytes())
}

// Activate activates a trigger, a name or a path, for a package that waits until it
// has been processed, or for none: what dpkg-trigger(1) does.
func (d *Database) Activate(trigger string, by *Package) error {
	if !validTrigger(trigger) {
		return fmt.Errorf("%q is no trigger", trigger)
	}
	if strings.HasPrefix(trigger, "/") {
		d.activatePath(trigger, by)
		return nil
	}
	list, err := d.namedTriggers(trigger)
	if err != nil {
		return err
	}
	for _, i := range list {
		d.activate(i, by)
	}
	return nil
}

// activateFile activates the triggers of a path itself.
func (d *Database) activateFile(name string, by *Package) {
	for _, i := range d.fileTriggers {
		if i.trigger == name {
			d.activate(i, by)
		}
	}
}

// activatePath activates the triggers of a path and of all directories it is in.
func (d *Database) activatePath(name string, by *Package) {
	for _, i := range d.fileTriggers {
		if i.trigger == name || strings.HasPrefix(name, i.trigger+"/") {
			d.activate(i, by)
		}
	}
}

// activate notes that a package has something to do, and who waits for it.
func (d *Database) activate(i interest, by *Package) {
	p := d.Get(i.pkg)
	if p == nil || p.State.rank() < TriggersAwaited.rank() {
		return
	}
	if !slices.Contains(p.TriggersPending, i.trigger) {
		p.TriggersPending = append([]string{i.trigger}, p.TriggersPending...)
		if len(p.TriggersAwaited) > 0 {
			p.set(TriggersAwaited)
		} else {
			p.set(TriggersPending)
		}
	}
	if i.await && by != nil && by.State.rank() > ConfigFiles.rank() && !slices.Contains(by.TriggersAwaited, p.FileName()) {
		by.TriggersAwaited = append(by.TriggersAwaited, p.FileName())
		by.changed = true
		if by.State.rank() > TriggersAwaited.rank() {
			by.set(TriggersAwaited)
		}
	}
}

// activateAll activates what a file triggers says.
func (d *Database) activateAll(list []directive, by *Package) error {
	for _, t := range list {
		if !t.activate {
			continue
		}
		waiting := by
		if !t.await {
			waiting = nil
		}
		if err := d.Activate(t.trigger, waiting); err != nil {
			return err
		}
	}
	return nil
}

// activateOf activates what the triggers file of an installed package says.
func (d *Database) activateOf(p *Package) error {
	list, err := d.directivesOf(p)
	if err != nil {
		return err
	}
	return d.activateAll(list, p)
}

func (d *Database) directivesOf(p *Package) ([]directive, error) {
	data, _, err := d.Info(p, "triggers")
	if err != nil {
		return nil, err
	}
	list, err := directives(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return list, nil
}

// acted says that a package has nothing to do any more: nobody waits for it.
func (d *Database) acted(p *Package) {
	p.TriggersPending = nil
	p.changed = true
	for _, other := range d.sorted() {
		i := slices.IndexFunc(other.TriggersAwaited, func(name string) bool { return d.same(name, p) })
		if i < 0 {
			continue
		}
		other.TriggersAwaited = slices.Delete(slices.Clone(other.TriggersAwaited), i, i+1)
		other.changed = true
		if other.State == TriggersAwaited {
			d.settle(other)
		}
	}
}

// settle gives a configured package the state that its triggers say. As dpkg has it,
// the version counts as configured when it doesn't wait for other packages any more.
func (d *Database) settle(p *Package) {
	switch {
	case len(p.TriggersAwaited) > 0:
		p.set(TriggersAwaited)
	case len(p.TriggersPending) > 0:
		p.set(TriggersPending)
	default:
		p.set(Installed)
	}
	if p.State != TriggersAwaited {
		p.ConfigVersion = p.Version
	}
}

// incorporate takes over what dpkg-trigger has written while a script ran.
func (d *Database) incorporate() error {
	data, err := optional(d.tree, unincorpFile)
	if err != nil || len(data) == 0 {
		return err
	}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		waiting := f[1:]
		if len(waiting) == 0 {
			waiting = []string{"-"}
		}
		for _, name := range waiting {
			var by *Package
			if name != "-" {
				by = d.Get(name)
			}
			if err := d.Activate(f[0], by); err != nil {
				return fmt.Errorf("%s:%d: %w", unincorpFile, number, err)
			}
		}
	}
	return d.write(unincorpFile, nil)
}

// Triggered are the packages that have triggers to act upon, sorted by name.
func (d *Database) Triggered() []*Package {
	return slices.DeleteFunc(d.sorted(), func(p *Package) bool {
		return len(p.TriggersPending) == 0 || p.State.rank() < TriggersAwaited.rank()
	})
}

// maxTriggerRounds bounds how often packages may activate each other's triggers.
const maxTriggerRounds = 100

// ProcessTriggers runs the postinst of the packages that have triggers to act upon,
// until none has. dpkg does so at the end of each run.
func (d *Database) ProcessTriggers(ctx context.Context) error {
	for range maxTriggerRounds {
		list := d.Triggered()
		if len(list) == 0 {
			return nil
		}
		for _, p := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			names := strings.Join(p.TriggersPending, " ")
			if names == "" {
				continue
			}
			d.log("Processing triggers for %s (%s) ...", p.FileName(), p.Version)
			// While it runs, nobody can give it more to do.
			p.set(HalfConfigured)
			if err := d.runInstalled(ctx, p, "postinst", "triggered", names); err != nil {
				return err
			}
			p.TriggersPending = nil
			d.settle(p)
			d.acted(p)
		}
	}
	return errors.New("the packages activate each other's triggers without end")
}

// isMissing reports whether a lookup found nothing.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
