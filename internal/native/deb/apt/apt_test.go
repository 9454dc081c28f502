package apt_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/basic"
	"github.com/anyarch/anyarch/internal/native/command/certificates"
	"github.com/anyarch/anyarch/internal/native/deb/apt"
	"github.com/anyarch/anyarch/internal/native/deb/debtest"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
)

// system is a small Debian for arm64, and an archive.
type system struct {
	t       *testing.T
	tree    *filetree.Tree
	dir     string
	key     *openpgp.Entity
	server  *httptest.Server
	asked   map[string]int
	offline bool
	cache   string
}

func control(name, version, more string) string {
	return "Package: " + name + "\nVersion: " + version + "\nArchitecture: arm64\nMaintainer: nobody <nobody@example.com>\n" + more + "Description: made by a test\n"
}

func newSystem(t *testing.T) *system {
	t.Helper()
	key, err := openpgp.NewEntity("test", "", "test@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, tree: filetree.New(), dir: t.TempDir(), key: key, asked: map[string]int{}, cache: t.TempDir()}
	s.publish(
		debtest.Simple(control("libfoo1", "1.2-1", "Multi-Arch: same\n"), map[string]string{"/usr/lib/aarch64-linux-gnu/libfoo.so.1": "libfoo for arm64"}, nil),
		debtest.Simple(control("foo", "2.0-1", "Depends: libfoo1 (>= 1.0), base\nRecommends: foo-doc\n"), map[string]string{"/usr/bin/foo": "foo for arm64", "/etc/foo.conf": "setting\n"},
			map[string]string{"conffiles": "/etc/foo.conf\n", "postinst": "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n\techo \"configured $DPKG_MAINTSCRIPT_PACKAGE\" > /var/log/foo.log\nfi\n"}),
		debtest.Simple(control("foo-doc", "2.0-1", ""), map[string]string{"/usr/share/doc/foo/manual": "read me\n"}, nil),
		debtest.Simple(control("base", "2-1", ""), map[string]string{"/usr/share/base": "2\n"}, nil),
		debtest.Simple(control("foreign", "1-1", ""), map[string]string{"/usr/bin/compile-it": "\x7fELF"}, map[string]string{"postinst": "#!/bin/sh\n/usr/bin/compile-it\n"}),
		debtest.Simple(control("bad", "1-1", "Depends: nosuch\n"), map[string]string{"/x": "x"}, nil),
	)
	files := http.FileServer(http.Dir(s.dir))
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked[r.URL.Path]++
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.server.Close)
	var public bytes.Buffer
	if err := key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	s.put("/usr/share/keyrings/test.gpg", public.String())
	s.put("/etc/apt/sources.list.d/test.sources", "Types: deb\nURIs: "+s.server.URL+"/debian\nSuites: stable\nComponents: main\nSigned-By: /usr/share/keyrings/test.gpg\n")
	s.put("/var/lib/dpkg/status", "Package: base\nStatus: install ok installed\nPriority: required\nMaintainer: x\nArchitecture: arm64\nVersion: 1-1\nDescription: x\n")
	s.put("/var/lib/dpkg/info/base.list", "/.\n/usr\n/usr/share\n/usr/share/base\n")
	s.put("/var/lib/dpkg/arch", "arm64\n")
	s.put("/usr/share/base", "1\n")
	s.put("/var/log/x", "")
	s.put("/bin/sh", "")
	return s
}

func (s *system) put(name, text string) {
	s.t.Helper()
	if err := s.tree.MkdirAll(path.Dir(name), filetree.Attr{Mode: 0o755}); err != nil {
		s.t.Fatal(err)
	}
	if err := s.tree.WriteFile(name, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o755}); err != nil {
		s.t.Fatal(err)
	}
}

// publish writes the archive.
func (s *system) publish(debs ...debtest.Deb) {
	s.t.Helper()
	var index strings.Builder
	for _, d := range debs {
		data := d.Build(s.t)
		name, _, _ := strings.Cut(strings.TrimPrefix(d.Control, "Package: "), "\n")
		file := "pool/" + name + ".deb"
		s.write(file, data)
		sum := sha256.Sum256(data)
		index.WriteString(d.Control + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %s\n\n", file, len(data), hex.EncodeToString(sum[:])))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(index.String())); err != nil {
		s.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(packed.Bytes())
	digest := hex.EncodeToString(sum[:])
	s.write("dists/stable/main/binary-arm64/by-hash/SHA256/"+digest, packed.Bytes())
	s.release(fmt.Sprintf("Origin: test\nSuite: stable\nCodename: stable\nArchitectures: arm64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n %s %d main/binary-arm64/Packages.gz\n", digest, packed.Len()), s.key)
}

func (s *system) release(text string, key *openpgp.Entity) {
	s.t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, key.PrivateKey, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.write("dists/stable/InRelease", out.Bytes())
}

func (s *system) write(name string, data []byte) {
	s.t.Helper()
	name = filepath.Join(s.dir, "debian", name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) run(script string) (int, string, error) {
	s.t.Helper()
	set := command.Set{}
	scratch := s.t.TempDir()
	downloads := download.New(download.Options{Client: s.server.Client(), Cache: s.cache, Scratch: scratch})
	for _, list := range [][]*command.Command{basic.Commands(), {certificates.Command()}, apt.Commands(apt.Options{Downloads: downloads, Scratch: scratch, Offline: s.offline})} {
		for _, c := range list {
			set[c.Name] = c
		}
	}
	set["sh"] = shell.Command("sh", shell.Dash)
	text := shell.Script{Text: script, Dialect: shell.Dash, Name: "sh"}
	for _, p := range shell.Check(text, func(name string) (*command.Command, bool) { c, ok := set[name]; return c, ok }) {
		return 1, "", p.Unsupported
	}
	var out bytes.Buffer
	exit, err := shell.Run(context.Background(), text, shell.Options{
		Tree: s.tree, Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Platform: platform.Platform{OS: "linux", Architecture: "arm64"}, Commands: set,
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Now: time.Unix(1760000000, 0).UTC(), CommandDialect: command.GNU, Scratch: scratch,
	})
	return exit, out.String(), err
}

func (s *system) read(name string) string {
	s.t.Helper()
	data, err := s.tree.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func TestInstall(t *testing.T) {
	s := newSystem(t)
	exit, out, err := s.run("apt-get update && apt-get install -y --no-install-recommends foo && rm -rf /var/lib/apt/lists/*")
	if exit != 0 || err != nil {
		t.Fatal(exit, err, out)
	}
	if s.read("/usr/bin/foo") != "foo for arm64" || s.read("/usr/lib/aarch64-linux-gnu/libfoo.so.1") != "libfoo for arm64" || s.read("/var/log/foo.log") != "configured foo\n" || s.read("/etc/foo.conf") != "setting\n" {
		t.Error(out)
	}
	if _, err := s.tree.Lstat("/usr/share/doc/foo/manual"); err == nil {
		t.Error("a recommended package was installed")
	}
	status := s.read("/var/lib/dpkg/status")
	for _, want := range []string{"Package: foo\nStatus: install ok installed\n", "Package: libfoo1\nStatus: install ok installed\n", "Conffiles:\n /etc/foo.conf ", "Package: base\nStatus: install ok installed\nPriority: required\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("%q isn't in\n%s", want, status)
		}
	}
	if got := s.read("/var/lib/apt/extended_states"); got != "Package: libfoo1\nArchitecture: arm64\nAuto-Installed: 1\n\n" {
		t.Errorf("%q", got)
	}
	for name, n := range s.asked {
		if n != 1 {
			t.Errorf("%s was asked for %d times", name, n)
		}
	}
	// The next build asks for the Release file alone.
	clear(s.asked)
	if exit, out, err := s.run("apt-get update -qq && apt-get install -y foo-doc"); exit != 0 || err != nil || len(s.asked) != 2 {
		t.Error(exit, err, out, s.asked)
	}
	if exit, out, err := s.run("apt-get upgrade -y && apt-get autoremove -y && apt-get clean"); exit != 0 || err != nil || s.read("/usr/share/base") != "2\n" {
		t.Error(exit, err, out)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		prepare            func(s *system)
	}{
		{"no such package", "apt-get update && apt-get install -y nosuch", "Unable to locate package nosuch", nil},
		{"without update", "apt-get install -y foo", "Unable to locate package foo", nil},
		{"without -y", "apt-get update && apt-get install foo", "Abort.", nil},
		{"a dependency that isn't there", "apt-get update && apt-get install -y bad", "nosuch", nil},
		{"no network", "apt-get update", "--network=none", func(s *system) { s.offline = true }},
		{"an unknown option", "apt-get install -y --download-only foo", "option --download-only", nil},
		{"an unknown subcommand", "apt-get source foo", "apt-get: source", nil},
		{"a script that needs a program", "apt-get update && apt-get install -y foreign", "postinst of foreign", nil},
		{"another key", "apt-get update", "isn't one of the stage's keys", func(s *system) {
			other, err := openpgp.NewEntity("other", "", "other@example.com", nil)
			if err != nil {
				s.t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(s.dir, "debian/dists/stable/InRelease"))
			if err != nil {
				s.t.Fatal(err)
			}
			block, _ := clearsign.Decode(data)
			s.release(string(block.Plaintext), other)
		}},
		{"a changed release", "apt-get update", "isn't one of the stage's keys", func(s *system) {
			name := filepath.Join(s.dir, "debian/dists/stable/InRelease")
			data, err := os.ReadFile(name)
			if err != nil {
				s.t.Fatal(err)
			}
			s.write("dists/stable/InRelease", bytes.Replace(data, []byte("Origin: test"), []byte("Origin: evil"), 1))
		}},
		{"another package", "apt-get update && apt-get install -y foo", "Hash Sum mismatch", func(s *system) {
			s.write("pool/foo.deb", debtest.Simple(control("foo", "2.0-1", ""), map[string]string{"/evil": "x"}, nil).Build(s.t))
		}},
		{"pins", "apt-get update && apt-get install -y foo", "pins", func(s *system) { s.put("/etc/apt/preferences.d/x", "Package: *\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t)
			if c.prepare != nil {
				c.prepare(s)
			}
			exit, out, err := s.run(c.script)
			if err == nil && exit == 0 {
				t.Fatal(out)
			}
			if err != nil {
				out += err.Error()
			}
			if !strings.Contains(out, c.want) {
				t.Errorf("%q isn't in:\n%s", c.want, out)
			}
			for _, name := range []string{"/evil"} {
				if _, err := s.tree.Lstat(name); err == nil {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

func TestDpkg(t *testing.T) {
	s := newSystem(t)
	s.put("/tmp/x.deb", string(debtest.Simple(control("x", "1", "Depends: base\n"), map[string]string{"/opt/x": "x"}, nil).Build(t)))
	if exit, out, err := s.run("dpkg -i /tmp/x.deb && dpkg --print-architecture"); exit != 0 || err != nil || !strings.HasSuffix(out, "arm64\n") || s.read("/opt/x") != "x" {
		t.Error(exit, err, out)
	}
}
