package database

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/debtest"
)

// tree makes one of files.
func tree(t *testing.T, files map[string]string) *filetree.Tree {
	t.Helper()
	tr := filetree.New()
	for name, text := range files {
		if err := tr.MkdirAll(name[:strings.LastIndexByte(name, '/')], filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := tr.Put(name, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

const installed = "Package: hello\nStatus: install ok installed\nMaintainer: a\nArchitecture: all\nVersion: 1\nDescription: b\n\n"

func deb(t *testing.T, p pkg) *archive.Package {
	t.Helper()
	return read(t, p.build(t, t.TempDir()))
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, text, want string }{
		{statusFile, "Package", `/var/lib/dpkg/status: line 1: "Package" has no colon after its name`},
		{statusFile, "\nPackage: ../x\n", `/var/lib/dpkg/status: line 2: "../x" is no name of a package`},
		{statusFile, "Package: x\nArchitecture: a/b\n", `/var/lib/dpkg/status: line 1: x has the architecture "a/b"`},
		{statusFile, "Package: x\nStatus: install ok\n", `/var/lib/dpkg/status: line 1: x has the status "install ok"`},
		{statusFile, "Package: x\nStatus: install ok done\n", `/var/lib/dpkg/status: line 1: x has the status "install ok done"`},
		{statusFile, "Package: x\nStatus: install ok installed\nConffiles:\n /etc/x\n", `/var/lib/dpkg/status: line 1: x: the conffile "/etc/x" has no hash`},
		{statusFile, "Package: x\nStatus: install ok installed\nConffiles:\n / abc\n", `/var/lib/dpkg/status: line 1: x: the root is a conffile`},
		{updatesDir + "/0001", "Package: x\n", `/var/lib/dpkg/updates/0001: line 1: x has the status ""`},
		{diversionsFile, "/a\n/b\n", "/var/lib/dpkg/diversions: it ends in the middle of a diversion"},
		{diversionsFile, "/a\n/b\n:\n/a\n/c\n:\n", "/var/lib/dpkg/diversions:4: conflicting diversions of /a and /c"},
		{overridesFile, "root root 755\n", "/var/lib/dpkg/statoverride:1: it isn't a user, a group, a mode and a path"},
		{overridesFile, "#0 #0 755 /a\nroot #0 755 /b\n", "/var/lib/dpkg/statoverride:2: root isn't in /etc/passwd"},
		{overridesFile, "#0 nogroup 755 /a\n", "/var/lib/dpkg/statoverride:1: nogroup isn't in /etc/group"},
		{overridesFile, "#0 #0 799 /a\n", "/var/lib/dpkg/statoverride:1: 799 is no mode"},
		{overridesFile, "#x #0 755 /a\n", "/var/lib/dpkg/statoverride:1: #x is no owner"},
		{fileTriggersFile, "/usr/x man\nx\n", "/var/lib/dpkg/triggers/File:2: it isn't a path and a package"},
		{fileTriggersFile, "/usr/x ../x\n", `/var/lib/dpkg/triggers/File:1: ".." is no name of a package`},
		{"/etc/dpkg/dpkg.cfg", "no-debsig\n\n# x\nrefuse-downgrade\n", "/etc/dpkg/dpkg.cfg:4: the option refuse-downgrade of dpkg isn't known"},
		{"/etc/dpkg/dpkg.cfg.d/x", "force-unsafe-io\nforce-all\n", "/etc/dpkg/dpkg.cfg.d/x:2: the option force-all of dpkg isn't known"},
	} {
		_, err := Open(tree(t, map[string]string{c.file: c.text}), Options{})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %q: %v, want %s", c.file, c.text, err, c.want)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	const more = "Package: libc6\nStatus: install ok installed\nMaintainer: a\nArchitecture: amd64\nMulti-Arch: same\nVersion: 2\nDescription: b\n\n" +
		"Package: libc6\nStatus: install ok unpacked\nMaintainer: a\nArchitecture: i386\nMulti-Arch: same\nVersion: 2\nDescription: b\n\n" +
		"Package: dpkg\nStatus: install ok installed\nMaintainer: a\nArchitecture: amd64\nVersion: 1\nDescription: b\n\n" +
		"Package: gone\nStatus: deinstall ok config-files\nMaintainer: a\nArchitecture: amd64\nVersion: 1\nDescription: b\n\n" +
		"Package: never\nStatus: unknown ok not-installed\nArchitecture: amd64\n\n"
	tr := tree(t, map[string]string{
		statusFile:                      installed + more,
		updatesDir + "/0000":            strings.Replace(installed, "Version: 1", "Version: 2", 1),
		updatesDir + "/tmp.i":           "",
		archFile:                        "amd64\ni386\n",
		"/etc/dpkg/dpkg.cfg":            "force-confold\nforce-confdef,confmiss\nlog /var/log/dpkg.log\npath-exclude \"/usr/share/x y/*\"\nno-force-downgrade\n",
		"/etc/dpkg/dpkg.cfg.d/a.bak":    "nonsense\n",
		infoDir + "/libc6:amd64.list":   "/.\n/lib\n/lib/x/\n",
		infoDir + "/libc6.list":         "/old\n",
		infoDir + "/hello.postinst":     "#!/bin/sh\n",
		infoDir + "/libc6:i386.md5sums": "x",
	})
	d, err := Open(tr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Architecture() != "amd64" || fmt.Sprint(d.ForeignArchitectures()) != "[i386]" {
		t.Errorf("architectures %s and %s", d.Architecture(), d.ForeignArchitectures())
	}
	var names []string
	for _, p := range d.Installed() {
		names = append(names, p.ID()+"="+p.Version.String())
	}
	if got := strings.Join(names, " "); got != "dpkg:amd64=1 hello:all=2 libc6:amd64=2 libc6:i386=2" {
		t.Errorf("installed: %s", got)
	}
	if u := d.Unconfigured(); len(u) != 1 || u[0].ID() != "libc6:i386" {
		t.Errorf("not configured: %v", u)
	}
	for name, want := range map[string]string{"libc6": "libc6:amd64", "libc6:i386": "libc6:i386", "hello:amd64": "hello:all", "hello": "hello:all", "gone": "gone:amd64"} {
		if p := d.Get(name); p == nil || p.ID() != want {
			t.Errorf("%s: %v", name, p)
		}
	}
	for _, name := range []string{"never", "nothing", "hello:i386", "libc6:arm64"} {
		if p := d.Get(name); p != nil {
			t.Errorf("%s: %v", name, p.ID())
		}
	}
	if d.force != (ConffilePolicy{Old: true, Default: true, Missing: true}) || len(d.filters) != 1 || d.filters[0].pattern != "/usr/share/x y/*" {
		t.Errorf("options %+v %+v", d.force, d.filters)
	}
	files, err := d.Files(d.Get("libc6"))
	if err != nil || strings.Join(files, " ") != "/ /lib /lib/x" {
		t.Errorf("files %s, %v", files, err)
	}
	script, ok, err := d.Info(d.Get("hello"), "postinst")
	if string(script) != "#!/bin/sh\n" || !ok || err != nil {
		t.Errorf("postinst %q %v %v", script, ok, err)
	}
	if _, ok, err := d.Info(d.Get("hello"), "prerm"); ok || err != nil {
		t.Errorf("prerm %v %v", ok, err)
	}
	// Taking over the updates changes the status file.
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	data, err := tr.ReadFile(statusFile)
	if err != nil || !strings.HasPrefix(string(data), "Package: dpkg") || strings.Contains(string(data), "never") || !strings.Contains(string(data), "Version: 2\nDescription: b\n\nPackage: libc6\n") {
		t.Errorf("status:\n%s\n%v", data, err)
	}
	if old, err := tr.ReadFile(statusOld); err != nil || string(old) != installed+more {
		t.Errorf("status-old:\n%s\n%v", old, err)
	}
	if _, err := tr.Stat(updatesDir + "/0000"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the update is there: %v", err)
	}
}

// TestEmpty starts from nothing.
func TestEmpty(t *testing.T) {
	t.Parallel()
	tr := filetree.New()
	d, err := Open(tr, Options{Now: debtest.Time})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Stat("/var"); err == nil {
		t.Error("an empty database was written")
	}
	ctx := context.Background()
	if err := d.Unpack(ctx, deb(t, pkg{control: "hello 1", files: map[string]string{"/usr/bin/hello": "x"}})); err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(ctx, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/var/lib/dpkg/status":              "Package: hello\nStatus: install ok installed\nMaintainer: A B <a@b.c>\nArchitecture: all\nVersion: 1\nDescription: a package\n for a test\n\n",
		"/var/lib/dpkg/info/format":         "1\n",
		"/var/lib/dpkg/info/hello.list":     "/.\n/usr\n/usr/bin\n/usr/bin/hello\n",
		"/var/lib/dpkg/info/hello.md5sums":  "9dd4e461268c8034f5c8564e155c67a6  usr/bin/hello\n",
		"/usr/bin/hello":                    "x",
		"/var/lib/dpkg/triggers/File":       "",
		"/var/lib/dpkg/info/hello.postinst": "",
	} {
		data, err := optional(tr, name)
		if err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	a, err := tr.Stat("/var/lib/dpkg/status")
	if err != nil || !a.ModTime.Equal(debtest.Time) {
		t.Errorf("time of the status: %v, %v", a.ModTime, err)
	}
	// Nothing has changed: nothing is written.
	before := tr.Fork()
	if err := d.Flush(); err != nil || len(filetree.Diff(before, tr)) > 0 {
		t.Errorf("a second flush wrote something: %v", err)
	}
}

func TestArchitecture(t *testing.T) {
	t.Parallel()
	tr := tree(t, map[string]string{statusFile: "Package: dpkg\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1\n\n"})
	d, err := Open(tr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Unpack(context.Background(), deb(t, pkg{control: "hello 1\nArchitecture: amd64"}))
	if err == nil || err.Error() != "unpack hello (1): package architecture (amd64) does not match system (arm64)" {
		t.Errorf("error %v", err)
	}
	if err := d.Unpack(context.Background(), deb(t, pkg{control: "hello 1\nArchitecture: arm64"})); err != nil {
		t.Error(err)
	}
}

// TestTwoArchitectures isn't supported, and must say so.
func TestTwoArchitectures(t *testing.T) {
	t.Parallel()
	d, err := Open(filetree.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Unpack(context.Background(), deb(t, pkg{control: "hello 1\nArchitecture: amd64\nMulti-Arch: same"})); err != nil {
		t.Fatal(err)
	}
	err = d.Unpack(context.Background(), deb(t, pkg{control: "hello 1\nArchitecture: i386\nMulti-Arch: same"}))
	if err == nil || !strings.Contains(err.Error(), "hello:amd64 is installed as well; several architectures of one package aren't supported") {
		t.Errorf("error %v", err)
	}
}

func TestConfigureErrors(t *testing.T) {
	t.Parallel()
	d, err := Open(tree(t, map[string]string{statusFile: installed + "Package: bad\nStatus: install reinstreq half-installed\nArchitecture: all\nVersion: 1\n\nPackage: worse\nStatus: install reinstreq unpacked\nArchitecture: all\nVersion: 1\n\n"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"nothing": "no package named 'nothing' is installed, cannot configure",
		"hello":   "package hello is already installed and configured",
		"bad":     "package bad is not ready for configuration: it is half-installed",
		"worse":   "package worse is in a very bad inconsistent state; it has to be installed again",
	} {
		if err := d.Configure(context.Background(), name); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

func TestPromptError(t *testing.T) {
	t.Parallel()
	tr := tree(t, conf("mine\n"))
	d, err := Open(tr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Unpack(context.Background(), deb(t, pkg{control: "hello 1", files: conf("one\n"), info: conffiles})); err != nil {
		t.Fatal(err)
	}
	var prompt *PromptError
	if err := d.Configure(context.Background(), "hello"); !errors.As(err, &prompt) || *prompt != (PromptError{"hello", "/etc/hello.conf", true, false}) {
		t.Errorf("error %v", err)
	}
}

// TestScriptChanges lets a preinst make a diversion, which counts at once.
func TestScriptChanges(t *testing.T) {
	t.Parallel()
	tr := filetree.New()
	var log []string
	d, err := Open(tr, Options{
		Log: func(line string) { log = append(log, line) },
		Script: func(_ context.Context, s *Script) error {
			if s.Name != "preinst" {
				return errors.New("exit status 3")
			}
			if err := tr.MkdirAll(adminDir, filetree.Attr{Mode: 0o755}); err != nil {
				return err
			}
			return tr.Put(diversionsFile, filetree.Attr{Mode: 0o644, Content: filetree.Bytes("/usr/bin/a\n/usr/bin/a.real\n:\n").Content()})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Unpack(context.Background(), deb(t, pkg{control: "hello 1", files: map[string]string{"/usr/bin/a": "x"}, info: recorders})); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Stat("/usr/bin/a.real"); err != nil {
		t.Error(err)
	}
	if err := d.Configure(context.Background(), "hello"); err == nil || err.Error() != "configure hello (1): postinst of hello (1): exit status 3" {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(log, "|"); got != "Setting up hello (1) ..." {
		t.Errorf("log %s", got)
	}
}

// TestTriggersOfScripts takes over what dpkg-trigger has written.
func TestTriggersOfScripts(t *testing.T) {
	t.Parallel()
	tr := tree(t, map[string]string{
		statusFile:                installed,
		triggersDir + "/named":    "hello/noawait\n",
		fileTriggersFile:          "/usr/share/man hello\n",
		infoDir + "/hello.list":   "/.\n",
		infoDir + "/hello.none":   "",
		unincorpFile:              "",
		infoDir + "/hello.config": "",
	})
	var calls []string
	d, err := Open(tr, Options{Script: func(_ context.Context, s *Script) error {
		calls = append(calls, s.Name+" "+strings.Join(s.Args, " "))
		return tr.Put(unincorpFile, filetree.Attr{Mode: 0o644, Content: filetree.Bytes("named world\n/usr/share/man/x -\n# x\n\nnobody -\n").Content()})
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := d.Unpack(ctx, deb(t, pkg{control: "world 1", info: map[string]string{"postinst": recorder}})); err != nil {
		t.Fatal(err)
	}
	if err := d.Configure(ctx, "world"); err != nil {
		t.Fatal(err)
	}
	if p := d.Get("hello"); p.State != TriggersPending || strings.Join(p.TriggersPending, " ") != "/usr/share/man named" || len(d.Triggered()) != 1 {
		t.Errorf("%s, pending %s", p.State, p.TriggersPending)
	}
	if data, err := tr.ReadFile(unincorpFile); err != nil || len(data) > 0 {
		t.Errorf("left: %q %v", data, err)
	}
	if err := d.ProcessTriggers(ctx); err != nil || d.Get("hello").State != Installed {
		t.Errorf("%s, %v", d.Get("hello").State, err)
	}
	if strings.Join(calls, "|") != "postinst configure " {
		t.Errorf("calls %q", calls)
	}
	if err := d.Activate("a b", nil); err == nil {
		t.Error("a trigger with a space was activated")
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/usr/share/doc/*", "/usr/share/doc/a/b", true}, {"/usr/share/doc/*", "/usr/share/doc", false}, {"/usr/share/doc*", "/usr/share/doc", true},
		{"*/copyright", "/usr/share/doc/a/copyright", true}, {"*/copyright", "/usr/share/doc/a/copyright.gz", false}, {"/a?c", "/abc", true}, {"/a?c", "/a/c", true}, {"/a?c", "/ac", false},
		{"/[a-c]x", "/bx", true}, {"/[a-c]x", "/dx", false}, {"/[!a-c]x", "/dx", true}, {"/[^a-c]x", "/ax", false}, {"/[]]x", "/]x", true}, {"/[a", "/[a", true}, {"/[a-]x", "/-x", true},
		{`/[\]]`, "/]", true}, {`/\*`, "/*", true}, {`/\*`, "/a", false}, {"/*/*/*.mo", "/usr/share/x.mo", true}, {"**a*b", "xxaxxb", true}, {"*a*b", "xxaxx", false}, {"", "", true}, {"", "a", false}, {"*", "", true}, {`/a\`, `/a\`, true},
		{"/usr/share/locale/*/LC_MESSAGES/*.mo", "/usr/share/locale/de/LC_MESSAGES/x.mo", true},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("%q and %q: %v", c.pattern, c.name, got)
		}
	}
}

func TestSpoolTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spool := SpoolTo(dir)
	for _, size := range []int{0, 100, smallFile, smallFile + 1} {
		want := bytes.Repeat([]byte("x"), size)
		c, err := spool(bytes.NewReader(want), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if cerr := r.Close(); err != nil || cerr != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d, %v %v", len(got), size, err, cerr)
		}
		if _, err := spool(bytes.NewReader(want), int64(size+1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes where there should be %d: %v", size, size+1, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%d files, %v", len(files), err)
	}
}

// TestStatusOfHost writes every paragraph of the host's database as if it had changed:
// it must be the same.
func TestStatusOfHost(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(statusFile)
	if err != nil {
		t.Skip("no dpkg on this host")
	}
	tr := tree(t, map[string]string{statusFile: string(data)})
	d, err := Open(tr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Installed() {
		before := p.Control.String()
		p.changed = true
		if got := string(p.appendTo(nil)); got != before {
			t.Errorf("%s is written\n%s\nit was\n%s", p.Name, got, before)
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if again, err := tr.ReadFile(statusFile); err != nil || !bytes.Equal(again, data) {
		t.Errorf("the status file is another one: %v", err)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add(installed)
	f.Add("Package: x\nStatus: install ok unpacked\nConffiles:\n /etc/a b newconffile obsolete remove-on-upgrade\n")
	f.Fuzz(func(t *testing.T, text string) {
		tr := filetree.New()
		if err := tr.MkdirAll(adminDir, filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := tr.Put(statusFile, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
		d, err := Open(tr, Options{})
		if err != nil {
			return
		}
		for _, p := range d.Installed() {
			p.changed = true
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		first, err := optional(tr, statusFile)
		if err != nil {
			t.Fatal(err)
		}
		d, err = Open(tr, Options{})
		if err != nil {
			t.Fatalf("%q can't be read again: %v", first, err)
		}
		for _, p := range d.Installed() {
			p.changed = true
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		if second, err := optional(tr, statusFile); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%q is written %q the second time: %v", first, second, err)
		}
	})
}

// FuzzUnpack unpacks foreign files over a system; nothing of it may panic, and what
// was outside of the tree's names before must still be there.
func FuzzUnpack(f *testing.F) {
	d := debtest.Simple("", map[string]string{"/etc/hello.conf": "1", "/usr/bin/hello": "x"}, nil)
	f.Add(d.DataTar(f), "/etc/hello.conf\n", "interest /usr\nactivate x\n")
	f.Add(debtest.Tar(f, append(d.Files, debtest.Symlink("usr/bin", "./bin"), debtest.Link("./usr/bin/hello", "./bin/x")), d.Content), "remove-on-upgrade /x\n", "")
	f.Fuzz(func(t *testing.T, data []byte, conffiles, triggers string) {
		c := debtest.Deb{Control: "Package: hello\nVersion: 1\nArchitecture: all\n", Info: map[string]string{"conffiles": conffiles, "triggers": triggers}}
		b := debtest.Ar(t, "debian-binary", []byte("2.0\n"), "control.tar", c.ControlTar(t), "data.tar", data)
		a, err := archive.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		tr := filetree.New()
		db, err := Open(tr, Options{Conffiles: ConffilePolicy{New: true}})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		for range 2 {
			if db.Unpack(ctx, a) != nil || db.Configure(ctx, "hello") != nil || db.ProcessTriggers(ctx) != nil {
				return
			}
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(tr, Options{}); err != nil && !strings.Contains(string(data), "/var/lib/dpkg") {
			t.Fatal(err)
		}
	})
}
