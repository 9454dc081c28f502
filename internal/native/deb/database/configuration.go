package database

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/anyarch/anyarch/internal/native/deb/archive"
)

// ConffilePolicy is what to do where dpkg would ask about a configuration file,
// which it can't without a terminal: the options --force-conf* of dpkg(1). The zero
// value is an error, as dpkg ends at the end of its standard input.
type ConffilePolicy struct {
	Default bool // confdef: what is offered first, which is always to keep the file
	Old     bool // confold: keep the file
	New     bool // confnew: install the one of the package
	Missing bool // confmiss: install a file that was deleted
	Ask     bool // confask: ask about every changed file, though the package has nothing new
}

// filter is an option path-exclude or path-include.
type filter struct {
	pattern string
	include bool
}

const (
	configFile = "/etc/dpkg/dpkg.cfg"
	configDir  = "/etc/dpkg/dpkg.cfg.d"
)

// readConfiguration reads the options of dpkg.cfg(5), of which those for slim
// images, path-exclude, matter most.
func (d *Database) readConfiguration() error {
	files, err := d.tree.ReadDir(configDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	for _, f := range files {
		if strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" {
			names = append(names, configDir+"/"+f.Name)
		}
	}
	for _, name := range append(names, configFile) {
		data, err := optional(d.tree, name)
		if err != nil {
			return err
		}
		number := 0
		for line := range strings.Lines(string(data)) {
			number++
			if err := d.option(line); err != nil {
				return fmt.Errorf("%s:%d: %w", name, number, err)
			}
		}
	}
	return nil
}

// option reads a line: a name, and a value after space or an equals sign.
func (d *Database) option(line string) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	name, value := line, ""
	if i := strings.IndexAny(line, " \t="); i >= 0 {
		name, value = line[:i], strings.TrimSpace(strings.TrimPrefix(strings.TrimLeft(line[i:], " \t"), "="))
	}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	switch name {
	case "path-exclude":
		d.filters = append(d.filters, filter{value, false})
	case "path-include":
		d.filters = append(d.filters, filter{value, true})
	case "no-debsig", "log", "no-pager", "debug", "status-fd", "status-logger":
		// They don't change what is installed.
	default:
		things, force := strings.CutPrefix(name, "force-")
		if !force {
			if rest, ok := strings.CutPrefix(name, "no-force-"); ok && rest != "" {
				return nil // what it takes back isn't on by default here
			}
			return fmt.Errorf("the option %s of dpkg isn't known", name)
		}
		for thing := range strings.SplitSeq(things, ",") {
			if err := d.forced(thing); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Database) forced(thing string) error {
	switch thing {
	case "unsafe-io", "security-mac", "downgrade", "hold", "not-root", "script-chrootless":
		// They matter to other programs, or are how it is here anyway.
	case "confdef":
		d.force.Default = true
	case "confold":
		d.force.Old = true
	case "confnew":
		d.force.New = true
	case "confmiss":
		d.force.Missing = true
	case "confask":
		d.force.Ask = true
	case "overwrite":
		d.overwrite = true
	default:
		return fmt.Errorf("the option force-%s of dpkg isn't known", thing)
	}
	return nil
}

// filtered reports whether a file of a package is not to be installed. The last
// filter that matches counts; directories stay if something in them may be
// included (dpkg(1), --path-exclude).
func (d *Database) filtered(e *archive.Entry) bool {
	name := e.Path
	if name == "/" {
		name = ""
	}
	skip := false
	for _, f := range d.filters {
		if match(f.pattern, name) {
			skip = !f.include
		}
	}
	if !skip || !e.Mode.IsDir() && e.Mode&fs.ModeSymlink == 0 {
		return skip
	}
	for _, f := range d.filters {
		if !f.include {
			continue
		}
		literal := f.pattern
		if i := strings.IndexAny(literal, `*?[\`); i >= 0 {
			literal = literal[:i]
		}
		if strings.HasPrefix(name, strings.TrimRight(literal, "/")) {
			return false
		}
	}
	return true
}

// match is fnmatch(3) without flags: a star goes over slashes.
func match(pattern, name string) bool {
	// A star takes as little as it can; when the rest doesn't match, the last star
	// takes one character more. No other has to: what is before it matched.
	star, from := -1, 0
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, n
			p++
			continue
		}
		if width, ok := one(pattern[p:], name[n]); ok {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, n = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// one matches a character with the beginning of a pattern, of which it gives the
// length.
func one(pattern string, c byte) (width int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if width, ok, valid := bracket(pattern, c); valid {
			return width, ok
		}
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	}
	return 1, pattern[0] == c
}

// bracket matches [a-z] and [!a-z]; one without its end isn't valid.
func bracket(pattern string, c byte) (width int, ok, valid bool) {
	i := 1
	not := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if not {
		i++
	}
	for start := i; i < len(pattern); {
		if pattern[i] == ']' && i > start {
			return i + 1, ok != not, true
		}
		low := pattern[i]
		if low == '\\' && i+1 < len(pattern) {
			i++
			low = pattern[i]
		}
		high := low
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			high = pattern[i+2]
			i += 2
		}
		if low <= c && c <= high {
			ok = true
		}
		i++
	}
	return 0, false, false
}
