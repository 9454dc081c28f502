package database

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/debtest"
)

// pair is a file system twice: in a directory of the host, for dpkg, and as a tree.
type pair struct {
	root string
	tree *filetree.Tree
	real bool // dpkg is there, and may do everything
}

// newPair makes an empty system.
func newPair(t *testing.T) *pair {
	t.Helper()
	_, err := exec.LookPath("dpkg")
	p := &pair{t.TempDir(), filetree.New(), hostComparable && err == nil && os.Getuid() == 0 && !testing.Short()}
	if err := os.Chmod(p.root, 0o755); err != nil {
		t.Fatal(err)
	}
	p.put(t, map[string]string{"/var/lib/dpkg/status": "", "/var/lib/dpkg/info/format": "1\n", "/var/lib/dpkg/triggers/": "", "/var/lib/dpkg/updates/": ""})
	return p
}

// put changes the file system by hand: files by their content, directories by a slash
// at the end, links by an arrow before what they lead to. "-" removes.
func (p *pair) put(t *testing.T, files map[string]string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := debtest.Time.Add(time.Hour)
	for name, text := range files {
		must(p.tree.MkdirAll(path.Dir(name), filetree.Attr{Mode: 0o755}))
		switch {
		case strings.HasSuffix(name, "/"):
			must(p.tree.MkdirAll(name, filetree.Attr{Mode: 0o755}))
		case text == "-":
			must(p.tree.RemoveAll(name))
		case strings.HasPrefix(text, "->/"):
			t.Fatalf("dpkg would go by %s to the files of this host", text)
		case strings.HasPrefix(text, "->"):
			must(p.tree.Symlink(text[2:], name, filetree.Attr{ModTime: at}))
		default:
			must(p.tree.Put(name, filetree.Attr{Mode: 0o640, UID: max(os.Getuid(), 0), GID: max(os.Getgid(), 0), ModTime: at, Content: filetree.Bytes(text).Content()}))
		}
		if p.real {
			must(putOnDisk(p.root+name, text, at))
		}
	}
}

// putOnDisk does the same to a file of the host.
func putOnDisk(name, text string, at time.Time) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(name, "/"):
		return os.MkdirAll(name, 0o755)
	case text == "-":
		return os.RemoveAll(name)
	case strings.HasPrefix(text, "->"):
		if err := os.Symlink(text[2:], name); err != nil {
			return err
		}
		return lutimes(name, at)
	}
	if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
		return err
	}
	if err := os.Chmod(name, 0o640); err != nil {
		return err
	}
	return os.Chtimes(name, at, at)
}

// dpkg runs the dpkg of the host on the directory, with its standard input at the
// end.
func (p *pair) dpkg(args ...string) error {
	if !p.real {
		return nil
	}
	cmd := exec.Command("dpkg", append([]string{"--root=" + p.root, "--force-not-root", "--force-unsafe-io", "--force-architecture", "--force-script-chrootless"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DPKG_FRONTEND_LOCKED=", "PATH="+os.Getenv("PATH")+":/sbin:/usr/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// recorder is a maintainer script that writes down how it was called.
const (
	recorder = "#!/bin/sh\necho \"$DPKG_MAINTSCRIPT_NAME of $DPKG_MAINTSCRIPT_PACKAGE:$DPKG_MAINTSCRIPT_ARCH: $*|\" >>\"$DPKG_ROOT" + calls + "\"\n"
	calls    = "/calls"
)

var recorders = map[string]string{"preinst": recorder, "postinst": recorder, "prerm": recorder, "postrm": recorder}

// script does what a recorder does.
func (p *pair) script(_ context.Context, s *Script) error {
	if string(s.Content) != recorder {
		return fmt.Errorf("%q isn't known", s.Content)
	}
	data, err := optional(p.tree, calls)
	if err != nil {
		return err
	}
	data = append(data, fmt.Sprintf("%s of %s:%s: %s|\n", s.Name, s.Package, s.Architecture, strings.Join(s.Args, " "))...)
	return p.tree.Put(calls, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(data).Content()})
}

// open opens the database of the tree.
func (p *pair) open(t *testing.T, o Options) *Database {
	t.Helper()
	d, err := Open(p.tree, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// snapshot lists a file system: a line for each file, but for what dpkg has that isn't
// compared.
type snapshot map[string]string

func skipped(name string) bool {
	switch name {
	case "/var/lib/dpkg/lock", "/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/triggers/Lock", "/var/lib/dpkg/triggers/Unincorp",
		"/var/lib/dpkg/available", "/var/lib/dpkg/status-old", "/var/lib/dpkg/tmp.ci", "/var/log", "/var/log/dpkg.log",
		"/var/lib/dpkg/cmethopt", "/var/lib/dpkg/diversions-old":
		return true
	}
	return false
}

// byHand reports whether a file was written by dpkg itself, at a time of its own.
func byHand(name string) bool {
	return strings.HasPrefix(name, "/var/lib/dpkg/") && (strings.HasSuffix(name, ".list") || strings.HasSuffix(name, ".md5sums") || !strings.HasPrefix(name, "/var/lib/dpkg/info/")) || name == "/var/lib/dpkg/info/format" || name == calls
}

func line(mode fs.FileMode, uid, gid int, link string, at time.Time, content []byte, name string) string {
	s := fmt.Sprintf("%v", mode)
	if mode&fs.ModeSymlink != 0 {
		s = "L"
	}
	s += fmt.Sprintf(" %d:%d %s", uid, gid, link)
	if !mode.IsDir() && !byHand(name) {
		s += " " + at.UTC().Format(time.DateTime)
	}
	if mode.IsRegular() {
		if strings.HasPrefix(name, "/var/lib/dpkg/") || name == calls {
			// dpkg turns the order of pending triggers around each time it reads it.
			lines := strings.Split(string(content), "\n")
			for i, l := range lines {
				if words, ok := strings.CutPrefix(l, "Triggers-Pending: "); ok {
					lines[i] = "Triggers-Pending: " + strings.Join(slices.Sorted(slices.Values(strings.Fields(words))), " ")
				}
			}
			return s + "\n" + strings.Join(lines, "\n")
		}
		s += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
	}
	return s
}

// memory lists the tree.
func (p *pair) memory(t *testing.T) snapshot {
	t.Helper()
	type named struct {
		name string
		attr filetree.Attr
	}
	var all []named
	if err := p.tree.Walk("/", func(name string, a filetree.Attr) error {
		if !skipped(name) {
			all = append(all, named{name, a})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s := snapshot{}
	for _, f := range all {
		link := f.attr.Link
		if !f.attr.IsDir() && !f.attr.IsSymlink() {
			names := slices.DeleteFunc(slices.Clone(all), func(g named) bool { return !g.attr.SameFile(&f.attr) })
			if len(names) > 1 {
				link = "=" + names[0].name
			}
		}
		var content []byte
		if f.attr.IsRegular() {
			r, err := f.attr.Open()
			if err != nil {
				t.Fatal(err)
			}
			if content, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		s[f.name] = line(f.attr.Mode, f.attr.UID, f.attr.GID, link, f.attr.ModTime, content, f.name)
	}
	return s
}

// compare compares the two.
func (p *pair) compare(t *testing.T, when string) {
	t.Helper()
	if !p.real {
		return
	}
	want, got := p.disk(t), p.memory(t)
	for name, w := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%s: %s isn't there; dpkg has %s", when, name, w)
		} else if g != w {
			t.Errorf("%s: %s is\n%s\ndpkg has\n%s", when, name, g, w)
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is there, which dpkg doesn't have: %s", when, name, g)
		}
	}
}

// read opens a .deb.
func read(t *testing.T, file string) *archive.Package {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return a
}

// install lets both unpack and configure packages, and compares what they have after
// each step and whether they fail.
func (p *pair) install(t *testing.T, o Options, flags []string, all bool, files ...string) error {
	t.Helper()
	o.Script = p.script
	d := p.open(t, o)
	ctx := context.Background()
	for _, file := range files {
		err := d.Unpack(ctx, read(t, file))
		derr := p.dpkg(append(slices.Clone(flags), "--no-triggers", "--unpack", file)...)
		if p.real && (err == nil) != (derr == nil) {
			t.Fatalf("unpack of %s: %v; dpkg: %v", filepath.Base(file), err, derr)
		}
		if err != nil {
			return err
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		p.compare(t, "unpacked "+filepath.Base(file))
	}
	var names []string
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), "_")
		if q := d.Get(name); q != nil && q.State == Unpacked && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var err error
	if all {
		err, names = d.ConfigureAll(ctx), []string{"-a"}
	}
	for _, name := range names {
		if all || err != nil {
			break
		}
		err = d.Configure(ctx, name)
	}
	derr := p.dpkg(append(append(slices.Clone(flags), "--no-triggers", "--configure"), names...)...)
	if p.real && (err == nil) != (derr == nil) {
		t.Fatalf("configure of %s: %v; dpkg: %v", names, err, derr)
	}
	if err != nil {
		return err
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	p.compare(t, fmt.Sprintf("configured %s", names))
	if err := d.ProcessTriggers(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.dpkg("--triggers-only", "-a"); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	p.compare(t, "triggers")
	return nil
}

// withoutScripts packs a package again without maintainer scripts, which can't run in
// a directory without programs.
func withoutScripts(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-R", file, dir+"/x").CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb -R: %v: %s", err, out)
	}
	for _, s := range []string{"preinst", "postinst", "prerm", "postrm", "config"} {
		if err := os.Remove(dir + "/x/DEBIAN/" + s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	again := filepath.Join(dir, filepath.Base(file))
	if out, err := exec.Command("dpkg-deb", "-Zgzip", "-z1", "-b", dir+"/x", again).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb -b: %v: %s", err, out)
	}
	return again
}

// TestRealPackages installs packages of the archive.
func TestRealPackages(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("owners can only be compared as root")
	}
	// Each group is configured before the next is unpacked; in the first, packages
	// depend on each other.
	groups := [][]string{{"gcc-12-base", "libgcc-s1", "libc6", "libcrypt1"}, {"hello", "netbase", "zlib1g", "media-types", "ncurses-base"}, {"sensible-utils", "bash-completion", "libaudit-common", "liblzma5", "libbz2-1.0", "bzip2"}}
	files := debtest.Download(t, slices.Concat(groups...)...)
	p := newPair(t)
	for range 2 { // the second time over what is there
		for _, group := range groups {
			var list []string
			for _, name := range group {
				list = append(list, withoutScripts(t, files[name]))
			}
			if err := p.install(t, Options{}, nil, false, list...); err != nil {
				t.Fatal(err)
			}
		}
	}
}
