package database

import (
	"archive/tar"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/debtest"
)

// pkg is a package of a scenario: "name version", more fields of control after lines,
// and files.
type pkg struct {
	control string            // "hello 1\nReplaces: x"
	files   map[string]string // content by absolute name; "->x" a symbolic link, a name with / at the end a directory
	info    map[string]string // conffiles, triggers, ...
	links   map[string]string // hard links: name to target
	more    []tar.Header      // other files
}

// build writes a .deb and gives its name.
func (p pkg) build(t *testing.T, dir string) string {
	t.Helper()
	first, rest, _ := strings.Cut(p.control, "\n")
	name, version, _ := strings.Cut(first, " ")
	control := fmt.Sprintf("Package: %s\nVersion: %s\n", name, version)
	if !strings.Contains(rest, "Architecture:") {
		control += "Architecture: all\n"
	}
	control += "Maintainer: A B <a@b.c>\nDescription: a package\n for a test\n"
	if rest != "" {
		control += rest + "\n"
	}
	regular := map[string]string{}
	for file, text := range p.files {
		if !strings.HasPrefix(text, "->") && !strings.HasSuffix(file, "/") {
			regular[file] = text
		} else {
			// Its directory comes with a file in it, which is taken out below.
			regular[path.Dir(strings.TrimSuffix(file, "/"))+"/.placeholder"] = ""
		}
	}
	for file := range p.links {
		regular[path.Dir(file)+"/.placeholder"] = ""
	}
	d := debtest.Simple(control, regular, p.info)
	var files []tar.Header
	for _, h := range d.Files {
		if !strings.HasSuffix(h.Name, "/.placeholder") {
			files = append(files, h)
		}
	}
	for file, text := range p.files {
		switch {
		case strings.HasSuffix(file, "/"):
			h := debtest.Dir("." + file)
			h.Mode = 0o750
			files = append(files, h)
		case strings.HasPrefix(text, "->"):
			files = append(files, debtest.Symlink(text[2:], "."+file))
		}
	}
	for file, target := range p.links {
		files = append(files, debtest.Link("."+target, "."+file))
	}
	d.Files = append(files, p.more...)
	out := filepath.Join(dir, name+"_"+strings.ReplaceAll(version, ":", "%3a")+".deb")
	if err := os.WriteFile(out, d.Build(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// step is something that happens to a system.
type step struct {
	put     map[string]string // changes by hand
	debs    []pkg             // what is installed
	flags   []string          // of dpkg
	options Options           // that mean the same
	all     bool              // configure with ConfigureAll
	fails   string            // what the error says, if there must be one
}

func conf(t string) map[string]string { return map[string]string{"/etc/hello.conf": t} }

var conffiles = map[string]string{"conffiles": "/etc/hello.conf\n"}

// edited is a system where both sides have changed a configuration file.
func edited(flags []string, policy ConffilePolicy, fails string) []step {
	return []step{
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{put: conf("mine\n"), debs: []pkg{{control: "hello 2", files: conf("two\n"), info: conffiles}}, flags: flags, options: Options{Conffiles: policy}, fails: fails},
	}
}

var scenarios = map[string][]step{
	"plain": {{debs: []pkg{{control: "hello 1:1.0-1\nHomepage: http://x\nX-Field: y\nTag: a,\n b\nDepends: a(>=0:1) |b , c\nEssential: no\nPriority: OPTIONAL\nSection: x\nOrigin: o\nBugs: b\nSource: s (1)\nInstalled-Size: 5\nMulti-Arch: foreign",
		files: map[string]string{"/usr/bin/hello": "x", "/usr/share/doc/hello/empty": "", "/usr/lib/hello/link": "->../../bin/hello", "/var/lib/hello/": ""},
		links: map[string]string{"/usr/bin/hi": "/usr/bin/hello"},
		info:  map[string]string{"shlibs": "x", "symbols": "y", "templates": "z", "with.dot": "no"},
		more: []tar.Header{{Typeflag: tar.TypeReg, Name: "./usr/bin/su", Mode: 0o4755, Uname: "games", Gname: "games"}, {Typeflag: tar.TypeReg, Name: "./usr/bin/who", Mode: 0o2711, Uid: 12, Gid: 34, Uname: "nobody-of-this-name"},
			{Typeflag: tar.TypeFifo, Name: "./usr/fifo", Mode: 0o600}}}},
		put: map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\ngames:x:5:60::/:/bin/sh\n", "/etc/group": "root:x:0:\ngames:x:60:\n"}, fails: "c"}},
	"merged usr": {
		{put: map[string]string{"/usr/bin/": "", "/usr/lib/": "", "/bin": "->usr/bin", "/lib": "->usr/lib"}, debs: []pkg{{control: "hello 1", files: map[string]string{"/bin/hello": "1", "/lib/hello/a": "1", "/lib/hello/b": "1", "/usr/lib/c": ""}}}},
		// What moves from /bin to /usr/bin stays where it is.
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/bin/hello": "2", "/usr/lib/hello/a": "2", "/lib/c": ""}}}},
		{debs: []pkg{{control: "hello 3", files: map[string]string{"/bin/hello": "3"}}}},
	},
	"upgrade": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/share/hello/a/b": "1", "/usr/share/hello/c": "1", "/opt/x/y/z": "1", "/usr/share/other/": "", "/l": "->usr", "/usr/m": "->nowhere"}}, {control: "other 1", files: map[string]string{"/usr/share/other/file": "1"}}}},
		{put: map[string]string{"/opt/x/mine": "mine"}, debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/share/hello/a/new": "2", "/usr/share/hello/c": "2"}, info: map[string]string{"md5sums": "abc  usr/share/hello/c\n"}}}},
		{put: map[string]string{"/usr/share/hello/c": "-"}, debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/share/hello/a/new": "2", "/usr/share/hello/c": "2"}}}},
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/share/hello/a/b": "1"}, info: map[string]string{"shlibs": "1"}}}},
		{debs: []pkg{{control: "hello 3"}}},
	},
	"types": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/t/dir/file": "1", "/t/dir2/": "", "/t/file": "1", "/t/link": "->file", "/t/dirlink": "->dir", "/t/dangling": "->none", "/t/file2": "1", "/t/same": "->dir"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/t/dir": "->elsewhere", "/t/dir2": "2", "/t/file/in": "2", "/t/link": "2", "/t/dirlink/in": "2", "/t/dangling/in": "2", "/t/file2": "->file", "/t/same": "->./dir"}}}},
		{debs: []pkg{{control: "hello 3", files: map[string]string{"/t/dir/": "", "/t/dir2/in": "3", "/t/file": "3", "/t/link/": "", "/t/dirlink": "->../t/file", "/t/dangling": "->in", "/t/file2/in": "3", "/t/same": "->dir2"}}}},
	},
	"types by hand": {
		{put: map[string]string{"/a": "file", "/b/in": "x", "/c": "->b", "/d": "->nowhere", "/e": "->a", "/f": "->f"},
			debs: []pkg{{control: "hello 1", files: map[string]string{"/a/in": "1", "/b": "->a", "/c/in2": "1", "/d/in": "1", "/e": "1", "/f/in": "1"}}}},
		{put: map[string]string{"/g/h/i": "x"}, debs: []pkg{{control: "hello 2", files: map[string]string{"/g/h": "2"}}}},
	},
	"hard links": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/a": "1", "/b": "1"}, links: map[string]string{"/a1": "/a", "/a2": "/a"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/a": "2"}, links: map[string]string{"/a1": "/a", "/b": "/a"}}}},
		{put: map[string]string{"/etc/c": "c"}, debs: []pkg{{control: "hello 3", files: map[string]string{"/a": "3", "/a1": "3"}, links: map[string]string{"/d": "/etc/c"}}}},
	},

	"conffile kept by nobody": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{debs: []pkg{{control: "hello 2", files: conf("two\n"), info: conffiles}}},
		{debs: []pkg{{control: "hello 3", files: conf("two\n"), info: conffiles}}},
	},
	"conffile changed by hand": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{put: conf("mine\n"), debs: []pkg{{control: "hello 2", files: conf("one\n"), info: conffiles}}},
		{put: conf("three\n"), debs: []pkg{{control: "hello 3", files: conf("three\n"), info: conffiles}}},
	},
	"conffile changed by both": edited(nil, ConffilePolicy{}, "dpkg would ask about the configuration file /etc/hello.conf of hello, which was changed here and by the package"),
	"confold":                  edited([]string{"--force-confold"}, ConffilePolicy{Old: true}, ""),
	"confnew":                  edited([]string{"--force-confnew"}, ConffilePolicy{New: true}, ""),
	"confdef":                  edited([]string{"--force-confdef"}, ConffilePolicy{Default: true}, ""),
	"confdef, confnew":         edited([]string{"--force-confdef", "--force-confnew"}, ConffilePolicy{Default: true, New: true}, ""),
	"confdef, confold":         edited([]string{"--force-confdef", "--force-confold"}, ConffilePolicy{Default: true, Old: true}, ""),
	"confnew, confold":         edited([]string{"--force-confnew", "--force-confold"}, ConffilePolicy{New: true, Old: true}, ""),
	"conffile deleted": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{put: conf("-"), debs: []pkg{{control: "hello 2", files: conf("one\n"), info: conffiles}}},
		{debs: []pkg{{control: "hello 3", files: conf("one\n"), info: conffiles}}, flags: []string{"--force-confmiss"}, options: Options{Conffiles: ConffilePolicy{Missing: true}}},
		{put: conf("-"), debs: []pkg{{control: "hello 4", files: conf("two\n"), info: conffiles}}, flags: []string{"--force-confold"}, options: Options{Conffiles: ConffilePolicy{Old: true}}},
		{debs: []pkg{{control: "hello 5", files: conf("three\n"), info: conffiles}}, flags: []string{"--force-confnew"}, options: Options{Conffiles: ConffilePolicy{New: true}}},
		{put: conf("-"), debs: []pkg{{control: "hello 6", files: conf("four\n"), info: conffiles}}, fails: "which was deleted here and changed by the package"},
	},
	"conffile there before": {
		{put: conf("mine\n"), debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}, fails: "which is here but not from the package"},
	},
	"conffile there before, confold": {
		{put: conf("mine\n"), debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}, flags: []string{"--force-confold"}, options: Options{Conffiles: ConffilePolicy{Old: true}}},
		{debs: []pkg{{control: "hello 2", files: conf("one\n"), info: conffiles}}},
	},
	"conffile there before, the same": {
		{put: conf("one\n"), debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
	},
	"confask": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{put: conf("mine\n"), debs: []pkg{{control: "hello 2", files: conf("one\n"), info: conffiles}}, flags: []string{"--force-confask", "--force-confnew"}, options: Options{Conffiles: ConffilePolicy{Ask: true, New: true}}},
	},
	"obsolete conffile": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/etc/hello.conf": "one\n", "/etc/d/two": "2"}, info: map[string]string{"conffiles": "/etc/hello.conf\n/etc/d/two\n"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/etc/hello.conf": "one\n"}, info: conffiles}}},
		{debs: []pkg{{control: "hello 3"}}},
		{debs: []pkg{{control: "hello 4", files: conf("one\n"), info: conffiles}}},
	},
	"conffile that isn't one any more": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{put: conf("mine\n"), debs: []pkg{{control: "hello 2", files: conf("two\n")}}},
		{debs: []pkg{{control: "hello 3", files: conf("three\n"), info: conffiles}}, fails: "which is here but not from the package"},
	},
	"remove on upgrade": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/etc/h/a": "1", "/etc/h/b": "1"}, info: map[string]string{"conffiles": "/etc/h/a\n/etc/h/b\n"}}}},
		{put: map[string]string{"/etc/h/b": "mine"}, debs: []pkg{{control: "hello 2", info: map[string]string{"conffiles": "remove-on-upgrade /etc/h/a\nremove-on-upgrade /etc/h/b\n"}}}},
		{debs: []pkg{{control: "hello 3"}}},
	},
	"conffile behind a link": {
		{put: map[string]string{"/etc/real/": "", "/etc/h": "->real", "/etc/hello.conf": "->hello.real", "/etc/hello.real": "one\n"},
			debs: []pkg{{control: "hello 1", files: map[string]string{"/etc/h/a": "1", "/etc/hello.conf": "one\n"}, info: map[string]string{"conffiles": "/etc/h/a\n/etc/hello.conf\n"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/etc/h/a": "2", "/etc/hello.conf": "two\n"}, info: map[string]string{"conffiles": "/etc/h/a\n/etc/hello.conf\n"}}}},
	},
	"conffile moves to another package": {
		{debs: []pkg{{control: "hello 1", files: conf("one\n"), info: conffiles}}},
		{debs: []pkg{{control: "world 2\nReplaces: hello (<< 2)", files: conf("two\n"), info: conffiles}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/x": ""}}}},
		{put: conf("mine\n"), debs: []pkg{{control: "world 3", files: conf("two\n"), info: conffiles}}},
	},
	"obsolete conffile of another package": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/etc/hello.conf": "1", "/usr/x": ""}, info: conffiles}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/x": ""}}}},
		{debs: []pkg{{control: "world 1", files: conf("2"), info: conffiles}}},
	},

	"file of another package": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1"}}}},
		{debs: []pkg{{control: "world 1", files: map[string]string{"/usr/bin/hello": "2"}}}, fails: "trying to overwrite '/usr/bin/hello', which is also in package hello 1"},
	},
	"directory of another package": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello/x": "1"}}}},
		{debs: []pkg{{control: "world 1", files: map[string]string{"/usr/bin/hello": "2"}}}, fails: "trying to overwrite directory '/usr/bin/hello' in package hello 1 with nondirectory"},
	},
	"link over a directory of another package": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello/x": "1"}}}},
		{debs: []pkg{{control: "world 1", files: map[string]string{"/usr/bin/hello": "->x"}}}},
	},
	"replaces": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1", "/usr/bin/more": "1"}}}},
		{debs: []pkg{{control: "world 1\nReplaces: hello (<< 2)", files: map[string]string{"/usr/bin/hello": "2"}}}},
		// The old package comes again: its file stays away.
		{debs: []pkg{{control: "hello 1.1", files: map[string]string{"/usr/bin/hello": "1.1", "/usr/bin/more": "1.1"}}}},
		{debs: []pkg{{control: "world 2", files: map[string]string{"/usr/share/w": "2"}}}},
	},
	"replaces another version": {
		{debs: []pkg{{control: "hello 3", files: map[string]string{"/usr/bin/hello": "1"}}}},
		{debs: []pkg{{control: "world 1\nReplaces: hello (<< 2)", files: map[string]string{"/usr/bin/hello": "2"}}}, fails: "trying to overwrite '/usr/bin/hello'"},
	},
	"replaced conffile": {
		{debs: []pkg{{control: "world 1\nReplaces: hello", files: conf("world\n"), info: conffiles}}},
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/etc/hello.conf": "hello\n", "/usr/y": ""}, info: conffiles}}},
	},
	"overwrite": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1", "/usr/bin/more": "1"}}}},
		{put: map[string]string{"/etc/dpkg/dpkg.cfg": "force-overwrite\n"}, flags: []string{"--force-overwrite"}, debs: []pkg{{control: "world 1", files: map[string]string{"/usr/bin/hello": "2"}}}},
	},
	"disappearance": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1", "/usr/share/common/x": "1"}, info: map[string]string{"triggers": "interest /usr/share/hello\ninterest-noawait hello-trigger\n"}}, {control: "third 1", files: map[string]string{"/usr/share/common/y": "1"}}}},
		{debs: []pkg{{control: "world 1\nReplaces: hello\nProvides: hello", files: map[string]string{"/usr/bin/hello": "2", "/usr/share/common/x": "2"}}}},
	},
	"no disappearance of what is needed": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1"}}, {control: "third 1\nDepends: hello", files: map[string]string{"/usr/share/common/y": "1"}}}},
		{debs: []pkg{{control: "world 1\nReplaces: hello", files: map[string]string{"/usr/bin/hello": "2"}}}},
	},

	"diversions": {
		{put: map[string]string{"/var/lib/dpkg/diversions": "/usr/bin/hello\n/usr/bin/hello.real\n:\n/usr/bin/world\n/usr/bin/world.hello\nhello\n/etc/hello.conf\n/etc/hello.orig\n:\n"},
			debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1", "/usr/bin/world": "1", "/etc/hello.conf": "1"}, info: conffiles}}},
		{debs: []pkg{{control: "world 1", files: map[string]string{"/usr/bin/world": "2"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/bin/hello": "2", "/etc/hello.conf": "2"}, info: conffiles}}},
		{debs: []pkg{{control: "third 2", files: map[string]string{"/usr/bin/hello.real": "2"}}}, fails: "trying to overwrite '/usr/bin/hello.real', which is the diverted version of '/usr/bin/hello'"},
	},
	"statoverride": {
		{put: map[string]string{"/var/lib/dpkg/statoverride": "root games 2755 /usr/bin/hello\n#5 #6 700 /var/hello\n", "/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/etc/group": "games:x:60:\n"},
			debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/bin/hello": "1", "/var/hello/": ""}}}},
	},
	"filters": {
		{put: map[string]string{"/etc/dpkg/dpkg.cfg.d/docker": "# slim\npath-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\npath-exclude=/usr/share/man/*\n"},
			flags: []string{"--path-exclude=/usr/share/doc/*", "--path-include=/usr/share/doc/*/copyright", "--path-exclude=/usr/share/man/*"},
			debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/share/doc/hello/copyright": "1", "/usr/share/doc/hello/changelog": "1", "/usr/share/doc/hello/examples/x": "1", "/usr/share/man/man1/hello.1": "1", "/usr/share/doc/hello/link": "->copyright", "/usr/bin/hello": "1"},
				links: map[string]string{"/usr/share/man/man1/hi.1": "/usr/share/man/man1/hello.1"}}}},
	},

	"triggers": {
		{debs: []pkg{{control: "man 1", files: map[string]string{"/usr/bin/man": "1"}, info: map[string]string{"triggers": "# about\ninterest /usr/share/man\ninterest-noawait /usr/share/noawait\n interest named\ninterest-await /etc\n"}},
			{control: "ld 1", info: map[string]string{"triggers": "interest-noawait ldconfig\n"}}}},
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/share/man/man1/hello.1": "1", "/usr/share/noawait/x": "1"}, info: map[string]string{"triggers": "activate-noawait ldconfig\n"}}}},
		{debs: []pkg{{control: "world 1", files: map[string]string{"/usr/x": "1", "/etc/hello.conf": "1"}, info: map[string]string{"conffiles": "/etc/hello.conf\n", "triggers": "activate named\n"}}}},
		{debs: []pkg{{control: "man 2", files: map[string]string{"/usr/bin/man": "1"}, info: map[string]string{"triggers": "interest-noawait /usr/share/man\n"}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/share/doc/hello": "1"}}}},
		{debs: []pkg{{control: "man 3"}, {control: "ld 2"}}},
	},
	"awaited triggers": {
		{debs: []pkg{{control: "man 1", info: map[string]string{"triggers": "interest /usr/share/man\n"}}, {control: "hello 1", files: map[string]string{"/usr/x": ""}}}},
		{debs: []pkg{{control: "hello 2", files: map[string]string{"/usr/share/man/man1/hello.1": "1"}}, {control: "world 1", files: map[string]string{"/usr/share/man/man1/world.1": "1"}}, {control: "man 2", files: map[string]string{"/usr/share/man/x": ""}, info: map[string]string{"triggers": "interest /usr/share/man\n"}}}},
		{debs: []pkg{{control: "hello 3"}}},
	},
	"bad triggers": {
		{debs: []pkg{{control: "hello 1", info: map[string]string{"triggers": "interests x\n"}}}, fails: `triggers: "interests x" isn't known`},
	},
	"bad conffiles": {
		{debs: []pkg{{control: "hello 1", info: map[string]string{"conffiles": "etc/x\n"}}}, fails: `conffiles: "etc/x" is no absolute path`},
	},

	"names with architectures": {
		{debs: []pkg{{control: "hello 1\nArchitecture: amd64", files: map[string]string{"/usr/a": "1"}, info: map[string]string{"shlibs": "1", "symbols": "1", "triggers": "interest /usr/x\n"}}}},
		{debs: []pkg{{control: "hello 2\nArchitecture: amd64\nMulti-Arch: same", files: map[string]string{"/usr/a": "2"}, info: map[string]string{"shlibs": "2", "triggers": "interest /usr/x\n"}}}},
		{debs: []pkg{{control: "hello 3\nArchitecture: all\nMulti-Arch: foreign", files: map[string]string{"/usr/a": "3"}}}},
		{debs: []pkg{{control: "hello 4\nArchitecture: amd64\nMulti-Arch: same", files: map[string]string{"/usr/a": "4"}, info: map[string]string{"md5sums": ""}}}},
	},
	"same and all": {
		{debs: []pkg{{control: "hello 1\nArchitecture: all\nMulti-Arch: same"}}, fails: "Multi-Arch: same, but of architecture all"},
	},

	"scripts": {
		{debs: []pkg{{control: "hello 1", files: map[string]string{"/usr/a": "1"}, info: recorders}}},
		{debs: []pkg{{control: "hello 1:2-1", files: map[string]string{"/usr/a": "1"}, info: recorders}}},
		{debs: []pkg{{control: "hello 1:2-1", info: recorders}}},
		{debs: []pkg{{control: "hello 3"}}},
		{debs: []pkg{{control: "hello 4\nArchitecture: amd64\nMulti-Arch: same", info: recorders}}},
	},
	"scripts of others": {
		{debs: []pkg{{control: "man 1", info: map[string]string{"triggers": "interest /usr/share/man\ninterest named\n", "postinst": recorder}},
			{control: "third 1", files: map[string]string{"/usr/x": "1"}, info: recorders}, {control: "world 1", info: recorders}}},
		{debs: []pkg{{control: "hello 1\nReplaces: third\nBreaks: world (<< 2)", files: map[string]string{"/usr/x": "1", "/usr/share/man/y": ""}, info: recorders}, {control: "world 2", info: recorders}}, flags: []string{"--auto-deconfigure"}},
	},
	"after removal": {
		{put: map[string]string{"/var/lib/dpkg/status": "Package: hello\nStatus: deinstall ok config-files\nMaintainer: a\nArchitecture: all\nVersion: 1\nConfig-Version: 1\nConffiles:\n /etc/hello.conf 5bbf5a52328e7439ae6e719dfe712200\nDescription: b\nX-Unknown: c\n\nPackage: other\nStatus: install ok installed\nMaintainer: a\nArchitecture: all\nVersion: 1\nDescription: b\nX-Unknown: c\n\n",
			"/var/lib/dpkg/info/hello.list": "/etc/hello.conf\n", "/var/lib/dpkg/info/hello.postrm": recorder, "/var/lib/dpkg/info/other.list": "/.\n", "/etc/hello.conf": "one\n"},
			debs: []pkg{{control: "hello 2", files: conf("two\n"), info: map[string]string{"conffiles": "/etc/hello.conf\n", "preinst": recorder, "postinst": recorder}}}},
	},

	"depends": {
		{debs: []pkg{{control: "hello 1\nDepends: world"}}, fails: "dependency problems prevent configuration of hello:\n hello depends on world; however:\n  Package world is not installed."},
	},
	"depends on a version": {
		{debs: []pkg{{control: "world 1"}}},
		{debs: []pkg{{control: "hello 1\nDepends: world (>= 2)"}}, fails: "hello depends on world (>= 2); however:\n  Version of world on system is 1."},
	},
	"depends in a circle": {
		{debs: []pkg{{control: "third 1\nDepends: hello"}, {control: "world 1\nDepends: third"}, {control: "hello 1\nDepends: world"}}},
	},
	"all at once": {
		{debs: []pkg{{control: "hello 1\nDepends: world", info: recorders}, {control: "world 1\nDepends: third", info: recorders}, {control: "third 1", info: recorders}}, all: true},
	},
	"all at once in a circle": {
		{debs: []pkg{{control: "hello 1\nDepends: world"}, {control: "world 1\nDepends: third"}, {control: "third 1\nDepends: hello"}}, all: true},
	},
	"all at once without what they need": {
		{debs: []pkg{{control: "hello 1\nDepends: world"}, {control: "world 1\nDepends: third"}}, all: true, fails: "dependency problems prevent configuration of world"},
	},
	"depends on what is provided": {
		{debs: []pkg{{control: "world 1\nProvides: virtual, versioned (= 2)"}, {control: "hello 1\nDepends: virtual, versioned (>= 2), self\nProvides: self"}}},
	},
	"depends on another version provided": {
		{debs: []pkg{{control: "world 1\nProvides: versioned"}}},
		{debs: []pkg{{control: "hello 1\nDepends: versioned (>= 2)"}}, fails: "hello depends on versioned (>= 2)"},
	},
	"alternatives": {
		{debs: []pkg{{control: "world 1"}}},
		{debs: []pkg{{control: "hello 1\nDepends: x (>= 1) | y | world"}}},
	},
	"pre-depends": {
		{debs: []pkg{{control: "hello 1\nPre-Depends: world"}}, fails: "hello pre-depends on world"},
	},
	"pre-depends on what isn't configured": {
		{debs: []pkg{{control: "world 1"}, {control: "hello 1\nPre-Depends: world"}}, fails: "hello pre-depends on world"},
	},
	"pre-depends on what was configured": {
		{debs: []pkg{{control: "world 1"}}},
		{debs: []pkg{{control: "world 2"}, {control: "hello 1\nPre-Depends: world (>= 1)"}}},
	},
	"conflicts": {
		{debs: []pkg{{control: "world 1"}}},
		{debs: []pkg{{control: "hello 1\nConflicts: world (<< 2)"}}, fails: "hello conflicts with world (<< 2); world (1) is installed"},
	},
	"conflicts the other way": {
		{debs: []pkg{{control: "world 1\nConflicts: virtual"}}},
		{debs: []pkg{{control: "hello 1\nProvides: virtual"}}, fails: "world conflicts with virtual; world (1) is installed"},
	},
	"conflicts with itself": {
		{debs: []pkg{{control: "hello 1\nProvides: virtual\nConflicts: virtual, hello\nReplaces: virtual"}}},
	},
	"breaks": {
		{debs: []pkg{{control: "world 1", files: conf("1"), info: conffiles}}},
		{debs: []pkg{{control: "hello 1\nBreaks: world (<< 2)"}, {control: "world 2", files: conf("2"), info: conffiles}}, flags: []string{"--auto-deconfigure"}},
	},
	"broken": {
		{debs: []pkg{{control: "hello 1\nBreaks: world (<< 2)"}}},
		{debs: []pkg{{control: "world 1"}}, fails: "hello (1) breaks world (<< 2) and is installed."},
	},
}

// TestScenarios lets dpkg do the same, where there is one, and compares files and
// database after every step.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for name, steps := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			for i, s := range steps {
				p.put(t, s.put)
				dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				var files []string
				for _, d := range s.debs {
					files = append(files, d.build(t, dir))
				}
				err := p.install(t, s.options, s.flags, s.all, files...)
				switch {
				case err == nil && s.fails != "":
					t.Errorf("step %d doesn't fail", i+1)
				case err != nil && (s.fails == "" || !strings.Contains(err.Error(), s.fails)):
					t.Errorf("step %d: %v, want %q", i+1, err, s.fails)
				}
				if t.Failed() {
					t.Fatalf("in step %d", i+1)
				}
			}
		})
	}
}
