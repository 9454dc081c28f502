package apktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/platform"
)

// Applets are the links of this busybox.
var Applets = strings.Fields("bin/ash bin/cat bin/chmod bin/cp bin/echo bin/ls bin/mkdir bin/rm bin/sed sbin/adduser usr/bin/wget usr/bin/id usr/bin/env usr/sbin/addgroup usr/sbin/adduser")

// busyboxTrigger is what Alpine's own busybox runs after every change of a
// directory with programs.
const busyboxTrigger = `#!/bin/sh

for i in "$@"; do
	case "$i" in
		/lib/modules/*)
			if [ -d "$i" ] && [ -x /sbin/depmod ]; then
				/sbin/depmod ${i#/lib/modules/}
			fi
			;;
		*)	do_bb_install=yes
			;;
	esac
done

if [ -n "$do_bb_install" ]; then
	[ -e /bin/bbsuid ] && /bin/bbsuid --install
	[ -e /bin/busybox-extras ] && /bin/busybox-extras --install -s
	/bin/busybox --install -s
fi
`

// Old are the packages that a base of this small Alpine has.
func Old(arch string) []Package {
	paths := strings.Join(Applets, "\n") + "\n"
	libc := "so:libc.musl-" + arch + ".so.1"
	return []Package{
		{Name: "ssl_client", Version: "1.37.0-r18", Arch: arch, Origin: "busybox", Depends: []string{libc, "so:libssl.so.3"}, Files: append(Dirs("usr/bin"), File{Name: "usr/bin/ssl_client", Mode: 0o755, Data: elf(arch, "ssl_client")})},
		{Name: "alpine-baselayout-data", Version: "3.7.0-r0", Arch: arch, Files: append(Dirs("etc"),
			File{Name: "etc/passwd", Mode: 0o644, Data: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"},
			File{Name: "etc/group", Mode: 0o644, Data: "root:x:0:root\nnobody:x:65534:\nusers:x:100:\n"},
			File{Name: "etc/shadow", Mode: 0o640, Data: "root:*::0:::::\nnobody:!::0:::::\n"},
			File{Name: "etc/shells", Mode: 0o644, Data: "/bin/sh\n/bin/ash\n"},
			File{Name: "etc/profile", Mode: 0o644, Data: "export PATH\n"})},
		{Name: "musl", Version: "1.2.5-r9", Arch: arch, Provides: []string{libc + "=1"}, Files: append(Dirs("lib"), File{Name: "lib/ld-musl-" + arch + ".so.1", Mode: 0o755, Data: "musl for " + arch})},
		{Name: "busybox", Version: "1.37.0-r18", Arch: arch, Depends: []string{libc}, Triggers: []string{"/bin", "/usr/bin", "/sbin", "/usr/sbin", "/lib/modules/*"},
			Scripts: map[string]string{"trigger": busyboxTrigger, "post-install": "#!/bin/sh\nexec /bin/busybox --install -s\n", "post-upgrade": "#!/bin/sh\nexec /bin/busybox --install -s\n"},
			Files: append(Dirs("bin", "sbin", "usr/bin", "usr/sbin", "etc/busybox-paths.d"), File{Name: "bin/busybox", Mode: 0o755, Data: elf(arch, "busybox 18 for "+arch)},
				File{Name: "etc/busybox-paths.d/busybox", Mode: 0o644, Data: paths})},
		{Name: "busybox-binsh", Version: "1.37.0-r18", Arch: arch, Origin: "busybox", Depends: []string{"busybox=1.37.0-r18"}, Provides: []string{"/bin/sh", "cmd:sh=1.37.0-r18"}, ProviderPriority: 100,
			Files: append(Dirs("bin"), File{Name: "bin/sh", Mode: fs.ModeSymlink | 0o777, Link: "/bin/busybox"})},
		{Name: "alpine-baselayout", Version: "3.7.0-r0", Arch: arch, Depends: []string{"alpine-baselayout-data=3.7.0-r0", "/bin/sh"},
			Scripts: map[string]string{"pre-upgrade": "#!/bin/sh\nexit 0\n", "post-install": "#!/bin/sh\nchmod 600 /etc/shadow\n"},
			Files: append(Dirs("dev", "home", "opt", "proc", "run", "sys", "usr/local/bin", "usr/share", "var/cache/apk", "var/log", "lib/apk/db", "etc/apk/keys"),
				File{Name: "root", Mode: fs.ModeDir | 0o700}, File{Name: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}, File{Name: "etc/motd", Mode: 0o644, Data: "Welcome to Alpine!\n"})},
		{Name: "libcrypto3", Version: "3.5.4-r0", Arch: arch, Origin: "openssl", Depends: []string{libc}, Provides: []string{"so:libcrypto.so.3=3.5.4"},
			Files: append(Dirs("usr/lib", "etc/ssl"), File{Name: "usr/lib/libcrypto.so.3", Mode: 0o755, Data: "libcrypto 4 for " + arch}, File{Name: "etc/ssl/openssl.cnf", Mode: 0o644, Data: "# 4\n"})},
		{Name: "libssl3", Version: "3.5.4-r0", Arch: arch, Origin: "openssl", Depends: []string{libc, "so:libcrypto.so.3"}, Provides: []string{"so:libssl.so.3=3.5.4"},
			Files: append(Dirs("usr/lib"), File{Name: "usr/lib/libssl.so.3", Mode: 0o755, Data: "libssl 4 for " + arch})},
		{Name: "ca-certificates-bundle", Version: "20250619-r0", Arch: arch, Files: append(Dirs("etc/ssl/certs"),
			File{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Data: Certificate}, File{Name: "etc/ssl/cert.pem", Mode: fs.ModeSymlink | 0o777, Link: "certs/ca-certificates.crt"})},
	}
}

// New are packages that a repository has beside those: newer ones, and others.
func New(arch string) []Package {
	libc := "so:libc.musl-" + arch + ".so.1"
	list := Old(arch)
	var out []Package
	for _, p := range list {
		q := p
		switch p.Name {
		case "libcrypto3", "libssl3":
			q.Version = "3.5.5-r0"
			q.Provides = []string{strings.ReplaceAll(p.Provides[0], "3.5.4", "3.5.5")}
			if p.Name == "libssl3" {
				q.Depends = []string{libc, "so:libcrypto.so.3", "libcrypto3=3.5.5-r0"}
			}
			q.Files = nil
			for _, f := range p.Files {
				f.Data = strings.NewReplacer(" 4 ", " 5 ", "# 4", "# 5").Replace(f.Data)
				q.Files = append(q.Files, f)
			}
		case "busybox", "busybox-binsh", "ssl_client":
			q.Version = "1.37.0-r19"
			if p.Name == "busybox-binsh" {
				q.Depends, q.Provides = []string{"busybox=1.37.0-r19"}, []string{"/bin/sh", "cmd:sh=1.37.0-r19"}
			}
		case "musl":
			q.Version = "1.2.5-r10"
		}
		out = append(out, q)
	}
	simple := func(name, version string, depends []string, files ...File) Package {
		p := Package{Name: name, Version: version, Arch: arch, Depends: depends, Provides: []string{"cmd:" + name + "=" + version}}
		for _, f := range files {
			p.Files = append(p.Files, Dirs(filepath.ToSlash(filepath.Dir(f.Name)))...)
			p.Files = append(p.Files, f)
		}
		return p
	}
	program := func(name string) File {
		return File{Name: "usr/bin/" + name, Mode: 0o755, Data: elf(arch, name+" for "+arch)}
	}
	out = append(out,
		simple("curl", "8.14.1-r2", []string{"ca-certificates-bundle", libc, "so:libcurl.so.4"}, program("curl")),
		Package{Name: "libcurl", Version: "8.14.1-r2", Arch: arch, Depends: []string{"so:libssl.so.3", "so:libcrypto.so.3", "so:libz.so.1", "nghttp2-libs"}, Provides: []string{"so:libcurl.so.4=4.8.0"},
			Files: append(Dirs("usr/lib"), File{Name: "usr/lib/libcurl.so.4.8.0", Mode: 0o755, Data: "libcurl for " + arch}, File{Name: "usr/lib/libcurl.so.4", Mode: fs.ModeSymlink | 0o777, Link: "libcurl.so.4.8.0"})},
		Package{Name: "zlib", Version: "1.3.1-r2", Arch: arch, Provides: []string{"so:libz.so.1=1.3.1"}, Files: append(Dirs("usr/lib"), File{Name: "usr/lib/libz.so.1", Mode: 0o755, Data: "zlib for " + arch})},
		Package{Name: "ca-certificates", Version: "20250619-r0", Arch: arch, Depends: []string{"/bin/sh", libc}, Triggers: []string{"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/ssl/certs", "/etc/ca-certificates/update.d"},
			Scripts: map[string]string{"trigger": "#!/bin/sh\n\n/usr/sbin/update-ca-certificates --fresh >/dev/null 2>&1\nexit 0\n"},
			Files: append(Dirs("etc/ca-certificates/update.d", "usr/share/ca-certificates/mozilla", "usr/sbin", "usr/local/share/ca-certificates"),
				File{Name: "etc/ca-certificates.conf", Mode: 0o644, Data: "# made by a test\nmozilla/Test_Root.crt\n"},
				File{Name: "usr/share/ca-certificates/mozilla/Test_Root.crt", Mode: 0o644, Data: Certificate},
				File{Name: "usr/sbin/update-ca-certificates", Mode: 0o755, Data: elf(arch, "update for "+arch)})},
		Package{Name: "tzdata", Version: "2025b-r0", Arch: arch, Files: append(Dirs("usr/share/zoneinfo/Europe"), File{Name: "usr/share/zoneinfo/Europe/Berlin", Mode: 0o644, Data: "TZif2"}, File{Name: "usr/share/zoneinfo/UTC", Mode: 0o644, Data: "TZif2 UTC"})},
		Package{Name: "bash", Version: "5.2.37-r0", Arch: arch, Depends: []string{"/bin/sh"}, Files: append(Dirs("bin"), program("bash-bin"), File{Name: "bin/bash", Mode: 0o755, Data: elf(arch, "bash for "+arch)}),
			Scripts: map[string]string{"post-install": "#!/bin/sh\nadd-shell '/bin/bash'\nexit 0\n"}},
		Package{Name: "openssh-server", Version: "10.0-r1", Arch: arch, Depends: []string{"/bin/sh"}, Files: append(Dirs("var/empty"), File{Name: "usr/sbin/sshd", Mode: 0o755, Data: elf(arch, "sshd")}, File{Name: "etc/ssh.conf", Mode: 0o640, Data: "x", User: "sshd"}),
			Scripts: map[string]string{"pre-install": "#!/bin/sh\naddgroup -S -g 22 sshd 2>/dev/null\nadduser -S -D -H -h /dev/null -s /sbin/nologin -G sshd -g sshd sshd 2>/dev/null\nexit 0\n"}},
		Package{Name: "needs-foreign", Version: "1-r0", Arch: arch, Files: append(Dirs("usr/bin"), program("compile-it")),
			Scripts: map[string]string{"post-install": "#!/bin/sh\n/usr/bin/compile-it --all\n"}},
		simple("git", "2.49.1-r0", []string{"ca-certificates", "so:libcurl.so.4"}, program("git")),
		simple("tini", "0.19.0-r3", nil, File{Name: "sbin/tini", Mode: 0o755, Data: elf(arch, "tini for "+arch)}),
		simple("netcat-openbsd", "1.229.1-r0", nil, program("nc")),
		simple("make", "4.4.1-r3", nil, program("make")),
	)
	for _, name := range strings.Fields("openssl openssh-client ffmpeg ffplay jq alsa-plugins-pulse font-droid libva-intel-driver intel-media-driver nghttp2-libs wget") {
		out = append(out, simple(name, "1.0-r0", nil, program(name)))
	}
	return out
}

// elf makes the smallest program of an architecture, with a text behind it.
func elf(arch, text string) string {
	machine := map[string]uint16{"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21}[arch]
	if machine == 0 {
		return text
	}
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	size := uint64(64 + 56 + len(text))
	for _, v := range []any{uint16(2), machine, uint32(1), uint64(0x400078), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0), // header
		uint32(1), uint32(5), uint64(0), uint64(0x400000), uint64(0x400000), size, size, uint64(0x1000)} { // PT_LOAD of all of it
		_ = binary.Write(&b, binary.LittleEndian, v) // a buffer takes everything
	}
	b.WriteString(text)
	return b.String()
}

// Certificate is of a root that nobody trusts.
const Certificate = `-----BEGIN CERTIFICATE-----
MIIBMzCB2qADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMTCVRlc3QgUm9v
dDAeFw0yNTAxMDEwMDAwMDBaFw0zNTAxMDEwMDAwMDBaMBQxEjAQBgNVBAMTCVRl
c3QgUm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBbwv8ZtPL3sG1Qm7A2c
-----END CERTIFICATE-----
`

// Arches are the architectures of this small Alpine.
var Arches = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7", "riscv64": "riscv64", "s390x": "s390x", "386": "x86", "ppc64le": "ppc64le"}

// Mirror writes the repositories old and main below dir, for these architectures.
func Mirror(dir string, key *Key, goarch ...string) error {
	for _, a := range goarch {
		if err := WriteRepository(filepath.Join(dir, "old"), key, Old(Arches[a])...); err != nil {
			return err
		}
		if err := WriteRepository(filepath.Join(dir, "main"), key, New(Arches[a])...); err != nil {
			return err
		}
	}
	return nil
}

// Root installs the base system from a mirror's old packages (a directory) into an
// empty tree, whose own repository is then address.
func Root(ctx context.Context, mirror, address string, key *Key, p platform.Platform, scratch string) (*filetree.Tree, error) {
	t := filetree.New()
	at := time.Unix(1700000000, 0).UTC()
	put := func(name string, data []byte) error {
		if err := t.MkdirAll(filepath.ToSlash(filepath.Dir(name)), filetree.Attr{Mode: 0o755, ModTime: at}); err != nil {
			return err
		}
		return t.WriteFile(name, filetree.Bytes(data).Content(), filetree.Attr{Mode: 0o644, ModTime: at})
	}
	server := http.FileServerFS(os.DirFS(mirror))
	client := &http.Client{Transport: handler{server}}
	for name, data := range map[string]string{"/etc/apk/keys/" + key.Name: string(key.Public()), "/etc/apk/repositories": "http://mirror/old\n", "/lib/apk/db/installed": "", "/etc/apk/world": "",
		"/etc/alpine-release": "3.22.2\n"} {
		if err := put(name, []byte(data)); err != nil {
			return nil, err
		}
	}
	session := apk.NewSession(download.New(download.Options{Client: client, Cache: filepath.Join(scratch, "cache"), Scratch: scratch}), scratch)
	var out bytes.Buffer
	proc := &command.Proc{Tree: t, Dir: "/", Args: strings.Fields("apk add --no-cache --no-scripts alpine-baselayout busybox libssl3 libcrypto3 ca-certificates-bundle musl ssl_client"),
		Env: map[string]string{}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Umask: 0o022, Platform: p, Dialect: command.Busybox, Now: at,
		Run: func(context.Context, *command.Proc) (int, error) { return 127, nil }}
	exit, err := apk.Command(session, false).Run(ctx, proc)
	if err == nil && exit != 0 {
		err = fmt.Errorf("exit code %d: %s", exit, out.String())
	}
	if err != nil {
		return nil, err
	}
	for _, name := range Applets {
		if _, err := t.Lstat("/" + name); err == nil {
			continue
		}
		if err := t.Symlink("/bin/busybox", "/"+name, filetree.Attr{ModTime: at}); err != nil {
			return nil, err
		}
	}
	return t, put("/etc/apk/repositories", []byte(address+"/main\n"))
}

// handler is a server without a network.
type handler struct{ http.Handler }

func (h handler) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answer{header: http.Header{}, code: http.StatusOK}
	h.ServeHTTP(w, r)
	return &http.Response{StatusCode: w.code, Status: fmt.Sprint(w.code), Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r}, nil
}

type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
