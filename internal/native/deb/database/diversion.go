package database

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
)

// diversion moves the file of all packages but one away (dpkg-divert(1)).
type diversion struct {
	from, to string
	by       string // the package that isn't concerned; empty if it is local
}

type diversions struct {
	from, to map[string]diversion
}

const (
	diversionsFile = adminDir + "/diversions"
	overridesFile  = adminDir + "/statoverride"
)

// readDiversions reads three lines for each: from, to, and the package or a colon.
func (d *Database) readDiversions() error {
	data, err := optional(d.tree, diversionsFile)
	if err != nil {
		return err
	}
	d.diversions = diversions{map[string]diversion{}, map[string]diversion{}}
	if len(data) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines)%3 != 0 {
		return fmt.Errorf("%s: it ends in the middle of a diversion", diversionsFile)
	}
	for i := 0; i < len(lines); i += 3 {
		v := diversion{clean(lines[i]), clean(lines[i+1]), lines[i+2]}
		if v.by == ":" {
			v.by = ""
		}
		_, twice := d.diversions.from[v.from]
		if _, too := d.diversions.to[v.to]; twice || too {
			return fmt.Errorf("%s:%d: conflicting diversions of %s and %s", diversionsFile, i+1, v.from, v.to)
		}
		d.diversions.from[v.from], d.diversions.to[v.to] = v, v
	}
	return nil
}

// use is where a path of a package really is.
func (d *Database) use(name, pkg string) string {
	if v, ok := d.diversions.from[name]; ok && v.by != pkg {
		return v.to
	}
	return name
}

// clean gives an absolute path in the form in which they are compared.
func clean(name string) string { return path.Clean("/" + name) }

// override is what dpkg-statoverride(1) has set for a path.
type override struct {
	uid, gid int
	mode     int64
}

// readOverrides reads a line for each: user, group, mode and path.
func (d *Database) readOverrides() error {
	data, err := optional(d.tree, overridesFile)
	if err != nil {
		return err
	}
	d.overrides = map[string]override{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			return fmt.Errorf("%s:%d: it isn't a user, a group, a mode and a path", overridesFile, number)
		}
		var o override
		if o.uid, err = d.account("/etc/passwd", f[0]); err != nil {
			return fmt.Errorf("%s:%d: %w", overridesFile, number, err)
		}
		if o.gid, err = d.account("/etc/group", f[1]); err != nil {
			return fmt.Errorf("%s:%d: %w", overridesFile, number, err)
		}
		if o.mode, err = strconv.ParseInt(f[2], 8, 32); err != nil || o.mode < 0 || o.mode > 0o7777 {
			return fmt.Errorf("%s:%d: %s is no mode", overridesFile, number, f[2])
		}
		d.overrides[clean(f[3])] = o
	}
	return nil
}

// account reads an owner of statoverride: a name or, after #, a number.
func (d *Database) account(file, name string) (int, error) {
	if number, ok := strings.CutPrefix(name, "#"); ok {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return 0, fmt.Errorf("%s is no owner", name)
		}
		return int(n), nil
	}
	known, err := accounts(d.tree, file)
	if err != nil {
		return 0, err
	}
	n, ok := known[name]
	if !ok {
		return 0, fmt.Errorf("%s isn't in %s", name, file)
	}
	return n, nil
}

// accounts are the numbers of the names in passwd(5) or group(5).
func accounts(t *filetree.Tree, file string) (map[string]int, error) {
	data, err := t.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := map[string]int{}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 31); err == nil {
			if _, first := known[f[0]]; !first {
				known[f[0]] = int(n)
			}
		}
	}
	return known, nil
}
