package apk_test

import (
	"bytes"
	"context"
	"crypto"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"archive/tar"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk"
	"github.com/anyarch/anyarch/internal/native/apk/apktest"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/alpine"
	"github.com/anyarch/anyarch/internal/native/command/basic"
	"github.com/anyarch/anyarch/internal/native/command/certificates"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
)

var arm64 = platform.Platform{OS: "linux", Architecture: "arm64"}

// system is a small Alpine, with a mirror.
type system struct {
	t       testing.TB
	tree    *filetree.Tree
	key     *apktest.Key
	mirror  string
	server  *httptest.Server
	session *apk.Session
	asked   map[string]int
	offline bool
}

func newSystem(t testing.TB) *system {
	t.Helper()
	key, err := apktest.NewKey("test@example.com-1.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, key: key, mirror: t.TempDir(), asked: map[string]int{}}
	if err := apktest.Mirror(s.mirror, key, "arm64"); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(s.mirror))
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked[r.URL.Path]++
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.server.Close)
	if s.tree, err = apktest.Root(context.Background(), s.mirror, s.server.URL, key, arm64, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.fresh(t.TempDir())
	return s
}

func (s *system) fresh(cache string) {
	s.session = newSession(s.server.Client(), cache, s.t.TempDir())
}

// run runs a script in the system.
func (s *system) run(script string) (int, string, error) {
	s.t.Helper()
	set := command.Set{}
	for _, list := range [][]*command.Command{basic.Commands(), alpine.Commands(func(name string) *command.Command { return set[name] }), {certificates.Command(), apk.Command(s.session, s.offline)}} {
		for _, c := range list {
			set[c.Name] = c
		}
	}
	set["sh"] = shell.Command("sh", shell.Ash)
	for _, p := range shell.Check(shell.Script{Text: script, Dialect: shell.Ash, Name: "sh"}, func(name string) (*command.Command, bool) { c, ok := set[name]; return c, ok }) {
		return 1, "", p.Unsupported
	}
	var out bytes.Buffer
	exit, err := shell.Run(context.Background(), shell.Script{Text: script, Dialect: shell.Ash, Name: "sh"}, shell.Options{
		Tree: s.tree, Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Platform: arm64, Commands: set, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
		Now: time.Unix(1760000000, 0).UTC(), CommandDialect: command.Busybox, Scratch: s.t.TempDir(),
	})
	return exit, out.String(), err
}

// must runs a script that has to succeed.
func (s *system) must(script string) string {
	s.t.Helper()
	exit, out, err := s.run(script)
	if err != nil || exit != 0 {
		s.t.Fatalf("%s: exit code %d, %v\n%s", script, exit, err, out)
	}
	return out
}

func (s *system) read(name string) string {
	s.t.Helper()
	data, err := s.tree.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// versions are what the database says is installed.
func (s *system) versions() map[string]string {
	list := map[string]string{}
	name := ""
	for line := range strings.Lines(s.read("/lib/apk/db/installed")) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "P:"); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(line, "V:"); ok {
			list[name] = v
		}
	}
	return list
}

func TestAdd(t *testing.T) {
	s := newSystem(t)
	before := s.read("/lib/apk/db/installed")
	out := s.must("apk add --no-cache curl")
	for _, want := range []string{"fetch " + s.server.URL + "/main/aarch64/APKINDEX.tar.gz", "(1/4) Installing zlib (1.3.1-r2)", "(4/4) Installing curl (8.14.1-r2)", "Executing busybox-1.37.0-r18.trigger", "in 13 packages"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q isn't in:\n%s", want, out)
		}
	}
	if got := s.read("/usr/bin/curl"); !strings.HasSuffix(got, "curl for aarch64") {
		t.Errorf("curl is %q", got)
	}
	if got := s.read("/usr/lib/libcurl.so.4"); got != "libcurl for aarch64" {
		t.Errorf("libcurl is %q", got)
	}
	after := s.read("/lib/apk/db/installed")
	if !strings.HasPrefix(after, before) {
		t.Error("the stanzas of what was there have changed")
	}
	const want = `P:curl
V:8.14.1-r2
A:aarch64
`
	stanza := after[strings.Index(after, "P:curl\n"):]
	if !strings.HasPrefix(stanza, want) {
		t.Errorf("%s", stanza)
	}
	if want := "F:usr\nF:usr/bin\nR:curl\na:0:0:755\nZ:Q1"; !strings.Contains(stanza, want) {
		t.Errorf("%q isn't in\n%s", want, stanza)
	}
	if want := "R:libcurl.so.4\na:0:0:777\nZ:Q1"; !strings.Contains(after, want) {
		t.Errorf("%q isn't in\n%s", want, after)
	}
	if got := s.read("/etc/apk/world"); got != "alpine-baselayout\nbusybox\nca-certificates-bundle\ncurl\nlibcrypto3\nlibssl3\nmusl\nssl_client\n" {
		t.Errorf("world is\n%s", got)
	}
	if _, err := s.tree.Stat("/lib/apk/exec"); err == nil {
		t.Error("scripts were left in /lib/apk/exec")
	}
	if children, err := s.tree.ReadDir("/var/cache/apk"); err != nil || len(children) != 0 {
		t.Errorf("--no-cache left %v, %v", children, err)
	}
	// The same again changes nothing at all.
	fork := s.tree.Fork()
	s.must("apk add --no-cache curl")
	if changes := filetree.Diff(fork, s.tree); len(changes) > 0 {
		t.Errorf("the second time changed %v", changes)
	}
}

func TestDownloadsOnce(t *testing.T) {
	s := newSystem(t)
	cache := t.TempDir()
	base := s.tree.Fork()
	s.fresh(cache)
	s.must("apk add --no-cache curl")
	s.tree = base.Fork()
	s.must("apk add --no-cache curl")
	for name, n := range s.asked {
		if n != 1 {
			t.Errorf("%s was asked for %d times in one build", name, n)
		}
	}
	clear(s.asked)
	s.tree = base.Fork()
	s.fresh(cache)
	s.must("apk add --no-cache curl")
	if len(s.asked) != 1 {
		t.Errorf("the next build asked for %v", s.asked)
	}
}

func TestCacheOfIndexes(t *testing.T) {
	s := newSystem(t)
	if out := s.must("apk update"); !strings.Contains(out, "distinct packages available") {
		t.Error(out)
	}
	children, err := s.tree.ReadDir("/var/cache/apk")
	if err != nil || len(children) != 1 || !strings.HasPrefix(children[0].Name, "APKINDEX.") {
		t.Errorf("%v, %v", children, err)
	}
	s.must("rm -rf /var/cache/apk/*")
}

func TestUpgrade(t *testing.T) {
	s := newSystem(t)
	s.must("echo changed >> /etc/ssl/openssl.cnf")
	out := s.must("apk upgrade --no-cache libssl3")
	if !strings.Contains(out, "Upgrading libcrypto3 (3.5.4-r0 -> 3.5.5-r0)") || !strings.Contains(out, "Upgrading libssl3 (3.5.4-r0 -> 3.5.5-r0)") {
		t.Error(out)
	}
	if v := s.versions(); v["busybox"] != "1.37.0-r18" || v["libssl3"] != "3.5.5-r0" {
		t.Error(v)
	}
	if got := s.read("/usr/lib/libssl.so.3"); got != "libssl 5 for aarch64" {
		t.Error(got)
	}
	if s.read("/etc/ssl/openssl.cnf") != "# 4\nchanged\n" || s.read("/etc/ssl/openssl.cnf.apk-new") != "# 5\n" {
		t.Error("a changed file below /etc isn't kept")
	}
	s.must("apk upgrade --no-cache")
	if v := s.versions(); v["busybox"] != "1.37.0-r19" || v["busybox-binsh"] != "1.37.0-r19" || v["musl"] != "1.2.5-r10" {
		t.Error(v)
	}
}

func TestUpgradeKeepsPins(t *testing.T) {
	s := newSystem(t)
	s.must("apk add --no-cache -u busybox")
	if v := s.versions(); v["busybox"] != "1.37.0-r19" || v["busybox-binsh"] != "1.37.0-r19" || v["libssl3"] != "3.5.4-r0" {
		t.Error(v)
	}
}

func TestDelete(t *testing.T) {
	s := newSystem(t)
	base := s.tree.Fork()
	before := s.read("/lib/apk/db/installed") + s.read("/etc/apk/world")
	s.must("apk add --no-cache --virtual .build-deps curl tzdata && apk add --no-cache tini")
	if v := s.versions(); v[".build-deps"] != "20251009.085320" || v["curl"] == "" {
		t.Error(v)
	}
	if world := s.read("/etc/apk/world"); !strings.Contains(world, ".build-deps=20251009.085320\n") {
		t.Error(world)
	}
	s.must("apk del .build-deps tini")
	for _, c := range filetree.Diff(base, s.tree) {
		switch c.Path {
		case "/lib/apk/db/scripts.tar", "/lib/apk/db/triggers", "/lib/apk", "/lib/apk/db", "/etc/apk/world", "/lib/apk/db/installed":
		default:
			t.Errorf("%s is left changed", c.Path)
		}
	}
	if s.read("/lib/apk/db/installed")+s.read("/etc/apk/world") != before {
		t.Error("the database isn't as before")
	}
}

func TestScripts(t *testing.T) {
	s := newSystem(t)
	s.must("apk add --no-cache bash openssh-server ca-certificates")
	if got := s.read("/etc/shells"); got != "/bin/sh\n/bin/ash\n/bin/bash\n" {
		t.Error(got)
	}
	if got := s.read("/etc/passwd"); !strings.Contains(got, "sshd:x:") {
		t.Error(got)
	}
	a, err := s.tree.Stat("/etc/ssh.conf")
	if err != nil || a.GID != 22 || a.Mode.Perm() != 0o640 {
		t.Errorf("%+v, %v: it belongs to an account that a script made", a, err)
	}
	if got, err := s.tree.Readlink("/etc/ssl/certs/ca-cert-Test_Root.pem"); err != nil || got != "/usr/share/ca-certificates/mozilla/Test_Root.crt" {
		t.Error(got, err)
	}
	_, _, err = s.run("apk add --no-cache needs-foreign")
	if err == nil || !strings.Contains(err.Error(), "needs-foreign-1-r0.post-install") {
		t.Errorf("%v: a script that runs a program of the image isn't refused by its name", err)
	}
}

func TestInfo(t *testing.T) {
	s := newSystem(t)
	if exit, _, err := s.run("apk info -e curl"); exit == 0 || err != nil {
		t.Error(exit, err)
	}
	if out := s.must("apk info -e busybox && apk --print-arch"); out != "busybox\naarch64\n" {
		t.Errorf("%q", out)
	}
}

// TestRefused is what doesn't work, and what is said about it. Nothing changes.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		prepare            func(t *testing.T, s *system)
	}{
		{"no such package", "apk add --no-cache nosuch curl neither", "nosuch (no such package): required by: world[nosuch]", nil},
		{"and all of them", "apk add --no-cache nosuch curl neither", "neither (no such package)", nil},
		{"an impossible pin", "apk add --no-cache 'curl=8.0-r0'", "curl-8.14.1-r2: breaks: world[curl=8.0-r0]", nil},
		{"an unknown option", "apk add --no-cache --root /x curl", "option --root", nil},
		{"an unknown subcommand", "apk dot curl", "apk: dot", nil},
		{"no network", "apk add --no-cache curl", "--network=none", func(_ *testing.T, s *system) { s.offline = true }},
		{"no key", "rm /etc/apk/keys/*; apk add --no-cache curl", "UNTRUSTED signature: /etc/apk/keys of the stage has no test@example.com-1.rsa.pub", nil},
		{"another key of that name", "apk add --no-cache curl", "BAD signature", func(t *testing.T, s *system) {
			other, err := apktest.NewKey(s.key.Name)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.tree.WriteFile("/etc/apk/keys/"+s.key.Name, filetree.Bytes(other.Public()).Content(), filetree.Attr{Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
		}},
		{"an unsigned index", "apk add --no-cache curl", "UNTRUSTED: it isn't signed", func(t *testing.T, s *system) { write(t, s, nil, apktest.New("aarch64")...) }},
		{"no such architecture", "apk add --no-cache curl", "the server answered 404", func(t *testing.T, s *system) {
			if err := s.tree.WriteFile("/etc/apk/arch", filetree.Bytes("riscv64\n").Content(), filetree.Attr{Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
		}},
		{"another package under the name", "apk add --no-cache tini", "BAD checksum", func(t *testing.T, s *system) {
			evil := apktest.Package{Name: "tini", Version: "0.19.0-r3", Arch: "aarch64", Files: []apktest.File{{Name: "evil", Mode: 0o644, Data: "EVIL"}}}
			b, err := evil.Build(s.key)
			if err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(s.mirror, "main/aarch64/tini-0.19.0-r3.apk"), b.File)
		}},
		{"other files in the package", "apk add --no-cache bad", "datahash", func(t *testing.T, s *system) {
			other, err := (&apktest.Package{Name: "x", Version: "1", Arch: "aarch64", Files: []apktest.File{{Name: "evil", Mode: 0o644, Data: "EVIL"}}}).Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			write(t, s, s.key, apktest.Package{Name: "bad", Version: "1-r0", Arch: "aarch64", Files: []apktest.File{{Name: "good", Mode: 0o644, Data: "good"}},
				Tamper: func(control, _ []byte) ([]byte, []byte) { return control, other.File[len(other.File)/2:] }})
		}},
		{"a file with another checksum", "apk add --no-cache bad", "BAD checksum of good", func(t *testing.T, s *system) {
			write(t, s, s.key, apktest.Package{Name: "bad", Version: "1-r0", Arch: "aarch64", Files: []apktest.File{{Name: "good", Mode: 0o644, Data: "good",
				Raw: func(h *tar.Header) { h.PAXRecords["APK-TOOLS.checksum.SHA1"] = strings.Repeat("00", 20) }}}})
		}},
		{"another architecture's package", "apk add --no-cache swapped", "no such package", func(t *testing.T, s *system) {
			p := apktest.Package{Name: "swapped", Version: "1-r0", Arch: "x86_64"}
			b, err := p.Build(s.key)
			if err != nil {
				t.Fatal(err)
			}
			index, err := apktest.Index(s.key, b.Index+"\n")
			if err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(s.mirror, "main/aarch64/APKINDEX.tar.gz"), index)
			put(t, filepath.Join(s.mirror, "main/aarch64/swapped-1-r0.apk"), b.File)
		}},
		{"a file outside", "apk add --no-cache bad", "leads elsewhere", func(t *testing.T, s *system) {
			write(t, s, s.key, apktest.Package{Name: "bad", Version: "1-r0", Arch: "aarch64", Files: []apktest.File{{Name: "../../evil", Mode: 0o644, Data: "x"}}})
		}},
		{"a hard link outside", "apk add --no-cache bad", "which isn't a file of the package", func(t *testing.T, s *system) {
			write(t, s, s.key, apktest.Package{Name: "bad", Version: "1-r0", Arch: "aarch64", Files: []apktest.File{{Name: "evil", HardLink: "/etc/shadow"}}})
		}},
		{"a file of another package", "apk add --no-cache bad", "trying to overwrite etc/motd owned by alpine-baselayout-3.7.0-r0", func(t *testing.T, s *system) {
			write(t, s, s.key, apktest.Package{Name: "bad", Version: "1-r0", Arch: "aarch64", Files: append(apktest.Dirs("etc"), apktest.File{Name: "etc/motd", Mode: 0o644, Data: "x"})})
		}},
		{"the format of apk 3", "apk add --no-cache curl", "ADB", func(t *testing.T, s *system) {
			put(t, filepath.Join(s.mirror, "main/aarch64/APKINDEX.tar.gz"), []byte("ADB.\x00\x00\x00\x00"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t)
			if c.prepare != nil {
				c.prepare(t, s)
			}
			before := s.read("/lib/apk/db/installed") + s.read("/etc/apk/world")
			exit, out, err := s.run(c.script)
			if err == nil && exit == 0 {
				t.Fatalf("it worked:\n%s", out)
			}
			if err != nil {
				out += err.Error()
			}
			if !strings.Contains(out, c.want) {
				t.Errorf("%q isn't in:\n%s", c.want, out)
			}
			if s.read("/lib/apk/db/installed")+s.read("/etc/apk/world") != before {
				t.Error("the database has changed")
			}
			for _, name := range []string{"/evil", "/good", "/usr/bin/curl"} {
				if _, err := s.tree.Lstat(name); err == nil {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

func write(t *testing.T, s *system, key *apktest.Key, packages ...apktest.Package) {
	t.Helper()
	if err := apktest.WriteRepository(filepath.Join(s.mirror, "main"), key, packages...); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSignatures(t *testing.T) {
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA512} {
		s := newSystem(t)
		s.key.Hash = hash
		write(t, s, s.key, apktest.New("aarch64")...)
		s.must("apk add --no-cache tini")
	}
}

func TestReplaces(t *testing.T) {
	s := newSystem(t)
	write(t, s, s.key, append(apktest.New("aarch64"), apktest.Package{Name: "motd", Version: "1-r0", Arch: "aarch64", Replaces: []string{"alpine-baselayout"},
		Files: append(apktest.Dirs("etc", "opt"), apktest.File{Name: "etc/motd", Mode: 0o644, Data: "mine\n"}, apktest.File{Name: "opt/link", Mode: fs.ModeSymlink | 0o777, Link: "/etc"})})...)
	s.must("apk add --no-cache motd")
	if got := s.read("/etc/motd"); got != "mine\n" {
		t.Error(got)
	}
	db := s.read("/lib/apk/db/installed")
	if strings.Count(db, "R:motd\n") != 1 {
		t.Error("two packages own /etc/motd")
	}
}

func TestLocalPackage(t *testing.T) {
	s := newSystem(t)
	p := apktest.Package{Name: "mine", Version: "1.0.0-r0", Arch: "aarch64", Depends: []string{"tini"}, Files: append(apktest.Dirs("opt"), apktest.File{Name: "opt/mine", Mode: 0o755, Data: "mine"})}
	for _, signed := range []bool{false, true} {
		key := s.key
		if !signed {
			key = nil
		}
		b, err := p.Build(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.tree.WriteFile("/tmp/mine.apk", filetree.Bytes(b.File).Content(), filetree.Attr{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if !signed {
			if exit, out, err := s.run("apk add --no-cache /tmp/mine.apk"); exit == 0 || err != nil || !strings.Contains(out, "UNTRUSTED") {
				t.Error(exit, out, err)
			}
			continue
		}
		s.must("apk add --no-cache /tmp/mine.apk")
		if s.read("/opt/mine") != "mine" || s.versions()["tini"] == "" {
			t.Error("it isn't installed")
		}
	}
}

func contentOf(data []byte) filetree.Content { return filetree.Bytes(data).Content() }

func attr(mode fs.FileMode) filetree.Attr { return filetree.Attr{Mode: mode} }

func newSession(client *http.Client, cache, scratch string) *apk.Session {
	return apk.NewSession(download.New(download.Options{Client: client, Cache: cache, Scratch: scratch}), scratch)
}
