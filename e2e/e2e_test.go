// Package e2e builds real projects with their own Dockerfiles.
//
// Their sources aren't part of this repository: ANYARCH_E2E_SOURCES names a folder
// with one checkout per project, OWNER+NAME, at the commit of the table. What isn't
// there is skipped, and counted. Bases are stood in for by a registry of the test's
// own, with images of the same shape; modules come from the network.
package e2e

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/native/apk/apktest"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/serve"
	"github.com/anyarch/anyarch/internal/store"
)

// project is one row: what is built, and what comes of it.
type project struct {
	repository, commit, dockerfile string
	args                           []string
	files                          map[string]string // that its release process makes before the build
	programs                       bool              // its builder has programs that run: it needs a sandbox, and a Debian
	refusals                       []string          // codes and words, all of which are shown; none if it builds
}

var projects = []project{
	{repository: "traefik/whoami", commit: "8951300b46f1", dockerfile: "Dockerfile", programs: true},
	{repository: "stefanprodan/podinfo", commit: "eec06d1ea459", dockerfile: "Dockerfile"},
	{repository: "OJ/gobuster", commit: "2548b9e819db", dockerfile: "Dockerfile"},
	{repository: "fullstorydev/grpcurl", commit: "afea969b8a8e", dockerfile: "Dockerfile", files: map[string]string{"VERSION": "v1.9.3\n"}},
	{repository: "jwilder/dockerize", commit: "2b3e41aa277b", dockerfile: "Dockerfile"},
	{repository: "mccutchen/go-httpbin", commit: "697b6e3b326e", dockerfile: "Dockerfile", programs: true},
	{repository: "AlexxIT/go2rtc", commit: "dc1685e9cf7a", dockerfile: "docker/Dockerfile"},
	{repository: "XTLS/Xray-core", commit: "2323273e373f", dockerfile: ".github/docker/Dockerfile"},
	{repository: "nginx-proxy/docker-gen", commit: "920275ac2df6", dockerfile: "Dockerfile.alpine"},
	{repository: "gitleaks/gitleaks", commit: "b58d3f102cf3", dockerfile: "Dockerfile"},
	{repository: "czerwonk/junos_exporter", commit: "a193f67f65c6", dockerfile: "Dockerfile"},
	{repository: "peimanja/artifactory_exporter", commit: "4a01a6286fde", dockerfile: "Dockerfile"},
	{repository: "udhos/apiping", commit: "385c15f40796", dockerfile: "docker/Dockerfile"},
	{repository: "Axolord/dyndns-netcup-go", commit: "25bfa738b173", dockerfile: "build/package/Dockerfile"},
	{repository: "adammy/go-memes", commit: "5bb341e07b69", dockerfile: "cmd/meme/Dockerfile", refusals: []string{"PA131", "PA122"}},
	{repository: "adammy/go-memes", commit: "5bb341e07b69", dockerfile: "cmd/meme/Dockerfile", args: []string{"--override-goarch", "--go-version", "1.21.13"}},
	{repository: "CatchZeng/dingtalk", commit: "f4f1df9b5f30", dockerfile: "build/package/Dockerfile", refusals: []string{"PA131"}},
	{repository: "CatchZeng/dingtalk", commit: "f4f1df9b5f30", dockerfile: "build/package/Dockerfile", args: []string{"--go-version", "1.21.13"}},
	{repository: "Zmey56/wisdom-tcp-server", commit: "4fe856791e1d", dockerfile: "cmd/server/Dockerfile"},
	{repository: "JoeyMckenzie/realworld-go-kit", commit: "c2dc171a6bbe", dockerfile: "Dockerfile", refusals: []string{"PA101", "apt"}},
	{repository: "olareg/olareg", commit: "79de6b47ef2a", dockerfile: "build/Dockerfile.olareg", programs: true},
	{repository: "umputun/reproxy", commit: "43daa211d700", dockerfile: "Dockerfile"},
}

func TestProjects(t *testing.T) {
	sources := os.Getenv("ANYARCH_E2E_SOURCES")
	if sources == "" {
		t.Skipf("ANYARCH_E2E_SOURCES names no folder with checkouts: %d builds skipped", len(projects))
	}
	program := filepath.Join(t.TempDir(), "anyarch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	packages := alpineMirror(t)
	conf := filepath.Join(t.TempDir(), "registries.conf")
	var text strings.Builder
	for _, name := range []string{"docker.io", "gcr.io", "ghcr.io", "quay.io"} {
		fmt.Fprintf(&text, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", name, registry)
	}
	if err := os.WriteFile(conf, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	skipped := 0
	for _, p := range projects {
		dir := filepath.Join(sources, strings.ReplaceAll(p.repository, "/", "+"))
		if _, err := os.Stat(dir); err != nil {
			skipped++
			continue
		}
		t.Run(p.repository+strings.Join(p.args, ""), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(dir, p.dockerfile))
			if err != nil {
				t.Fatal(err)
			}
			if packages.builders = p.programs; p.programs {
				packages.programs(t)
			}
			data = standIn(t, root, packages, data)
			// What a build leaves beside its sources isn't theirs.
			dir := copied(t, dir)
			file := filepath.Join(t.TempDir(), "Dockerfile")
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
			for name, text := range p.files {
				if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			out := filepath.Join(t.TempDir(), "out")
			args := append([]string{"build", "-f", file, "--output", "oci:" + out}, p.args...)
			cmd := exec.Command(program, append(args, ".")...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf, "ANYARCH_PACKAGE_MIRROR=https://dl-cdn.alpinelinux.org/alpine="+packages.address)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err = cmd.Run()
			if len(p.refusals) == 0 {
				if err != nil && unreachable.MatchString(stderr.String()) {
					t.Skipf("what it needs can't be reached from here: %s", unreachable.FindString(stderr.String()))
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, stderr.String())
				}
				if verified, err := exec.Command(program, "verify", out).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, verified)
				}
				return
			}
			if err == nil {
				t.Fatal("it was built, though something of it is expected to be refused")
			}
			for _, word := range p.refusals {
				if !strings.Contains(strings.ReplaceAll(stderr.String(), file, p.dockerfile), word) {
					t.Errorf("%s isn't refused:\n%s", word, stderr.String())
				}
			}
		})
	}
	if skipped > 0 {
		t.Logf("%d of %d builds skipped: their sources aren't in %s", skipped, len(projects), sources)
	}
}

func start(t *testing.T) (address, root string) {
	t.Helper()
	root = t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := serve.New(serve.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ctx, listener) }()
	t.Cleanup(func() { stop(); <-done })
	return listener.Addr().String(), root
}

var (
	from    = regexp.MustCompile(`(?im)^\s*FROM\s+(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?`)
	copies  = regexp.MustCompile(`(?im)^\s*COPY\s+.*--from=([^\s]+[/:][^\s]+)`)
	pinned  = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)
	release = regexp.MustCompile(`^1\.\d+\.\d+`)
	minor   = regexp.MustCompile(`^1\.\d+`)
	arg     = regexp.MustCompile(`(?im)^\s*ARG\s+(\w+)=(\S+)`)
)

// standIn puts an image of the same shape into the registry for every base of a
// Dockerfile, and takes digests out of it: those are of the real ones.
func standIn(t *testing.T, root string, packages *mirror, text []byte) []byte {
	t.Helper()
	text = pinned.ReplaceAll(text, nil)
	values := map[string]string{}
	for _, m := range arg.FindAllSubmatch(text, -1) {
		values[string(m[1])] = strings.Trim(string(m[2]), `"`)
	}
	stages := map[string]bool{"scratch": true}
	var names []string
	for _, m := range from.FindAllSubmatch(text, -1) {
		name := os.Expand(string(m[1]), func(k string) string { return values[k] })
		if !stages[strings.ToLower(name)] {
			names = append(names, name)
		}
		stages[strings.ToLower(string(m[2]))] = true
	}
	for _, m := range copies.FindAllSubmatch(text, -1) {
		names = append(names, string(m[1]))
	}
	for _, name := range names {
		repository, tag, found := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
		if !found {
			tag = "latest"
		}
		repository = name[:strings.LastIndex(name, "/")+1] + repository
		for _, host := range []string{"docker.io/", "gcr.io/", "ghcr.io/", "quay.io/"} {
			repository = strings.TrimPrefix(repository, host)
		}
		if !strings.Contains(repository, "/") {
			repository = "library/" + repository
		}
		base(t, packages, root, repository, tag)
	}
	return text
}

// patches are the last releases that there are toolchains of; older ones have none.
var patches = map[string]string{"1.21": "13", "1.22": "12", "1.23": "12", "1.24": "13", "1.25": "14", "1.26": "8", "1.18": "1", "1.19": "1", "1.20": "1"}

// base makes an image for both architectures: Alpine-like, unless its name says Debian.
// A golang image of a mirror with builders has programs, for this machine's architecture.
func base(t *testing.T, packages *mirror, root, repository, tag string) {
	t.Helper()
	st, err := store.Create(filepath.Join(root, filepath.FromSlash(repository)))
	check(t, err)
	d := func(name string) layer.Entry { return layer.Entry{Name: name, Type: layer.Dir, Mode: 0o755} }
	f := func(name, text string, mode fs.FileMode) layer.Entry {
		return layer.Entry{Name: name, Mode: mode, Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
	}
	debian := strings.Contains(tag, "bookworm") || strings.Contains(tag, "bullseye") || strings.Contains(repository, "debian") || strings.HasSuffix(repository, "golang") && !strings.Contains(tag, "alpine")
	entries := []layer.Entry{
		d("etc"), d("etc/ssl"), d("etc/ssl/certs"), d("tmp"), d("home"), d("usr"), d("usr/bin"), d("usr/share"), d("usr/share/zoneinfo"), d("lib"), d("lib/apk"), d("lib/apk/db"),
		f("etc/ssl/certs/ca-certificates.crt", "CERTIFICATES\n", 0o644), f("usr/share/zoneinfo/UTC", "TZif\n", 0o644),
		f("lib/apk/db/installed", "P:ca-certificates\n\nP:tzdata\n\n", 0o644),
		f("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n", 0o644),
		f("etc/group", "root:x:0:root\nnogroup:x:65533:\nnonroot:x:65532:\nnobody:x:65534:\n", 0o644), f("etc/shadow", "root:*::0:::::\n", 0o640),
		f("srv.placeholder", "a stand-in\n", 0o644),
	}
	if !debian {
		entries = append(entries, d("bin"), f("etc/alpine-release", "3.22.0\n", 0o644))
	} else {
		entries = append(entries, layer.Entry{Name: "bin", Type: layer.Symlink, Link: "usr/bin"})
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if strings.HasSuffix(repository, "golang") {
		version := strings.TrimPrefix(runtime.Version(), "go")
		switch {
		case release.MatchString(tag):
			version = release.FindString(tag)
		case minor.MatchString(tag):
			version = minor.FindString(tag) + "." + patches[minor.FindString(tag)]
		}
		env = []string{"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOLANG_VERSION=" + version, "GOTOOLCHAIN=local", "GOPATH=/go"}
	}
	if packages.builders && strings.HasSuffix(repository, "golang") && debian {
		kept, err := debianRoot("builder", builderPackages...)
		skipWithout(t, err)
		realBuilder(t, root, repository, tag, strings.TrimPrefix(env[1], "GOLANG_VERSION="), kept)
		return
	}
	var images []image.Image
	for _, arch := range []string{"amd64", "arm64"} {
		if packages.builders && strings.HasSuffix(repository, "golang") && arch == runtime.GOARCH {
			entries = packages.builder(t, arch)
		} else if strings.HasSuffix(repository, "alpine") || strings.HasSuffix(tag, "-alpine") && !strings.HasSuffix(repository, "golang") {
			entries = packages.alpine(t, arch)
		}
		l, err := layer.Write(t.Context(), st, entries, layer.Options{})
		check(t, err)
		if l.History.CreatedBy = "debian"; !debian {
			l.History.CreatedBy = "ADD alpine-minirootfs"
		}
		img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: arch}, Config: ocispec.Image{Config: ocispec.ImageConfig{Env: env}}, Layers: []image.Layer{l}})
		check(t, err)
		images = append(images, img)
	}
	index, err := image.WriteIndex(st, images, nil, image.OCI)
	check(t, err)
	check(t, st.Tag(t.Context(), tag, index, true))
}

// programs gives the mirror packages whose programs run: make and git are this machine's,
// with their libraries in a package beside, since there is no Alpine to take them from.
func (m *mirror) programs(t *testing.T) {
	t.Helper()
	if m.real {
		return
	}
	m.real = true
	arch := apktest.Arches[runtime.GOARCH]
	list := apktest.New(arch)
	libraries := map[string]string{}
	for i := range list {
		if name := list[i].Name; name == "make" || name == "git" {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("%s isn't on PATH (Debian's package %s)", name, name)
			}
			out, err := exec.Command("ldd", program).Output()
			check(t, err)
			for _, word := range strings.Fields(string(out)) {
				if strings.HasPrefix(word, "/") {
					libraries[word[1:]] = word
				}
			}
			list[i].Files, list[i].Depends = hostFiles(t, map[string]string{"usr/bin/" + name: program}), []string{"libraries-of-this-machine"}
		}
	}
	for i := range list {
		if list[i].Name != "ca-certificates" {
			continue
		}
		conf := ""
		for n, rest := 0, roots(t); ; n++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			name := fmt.Sprintf("mozilla/Root_%d.crt", n)
			conf += name + "\n"
			list[i].Files = append(list[i].Files, apktest.File{Name: "usr/share/ca-certificates/" + name, Mode: 0o644, Data: string(pem.EncodeToMemory(block))})
		}
		for k, f := range list[i].Files {
			if f.Name == "etc/ca-certificates.conf" {
				list[i].Files[k].Data = conf
			}
		}
	}
	list = append(list, apktest.Package{Name: "libraries-of-this-machine", Version: "1-r0", Arch: arch, Files: hostFiles(t, libraries)})
	check(t, apktest.WriteRepository(filepath.Join(m.dir, "main"), m.key, list...))
}

// roots are the certificates that this machine trusts, for modules that come from the
// network: nobody has a certificate of the mirror's own root.
func roots(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Skipf("no certificates for a builder: %v", err)
	}
	return data
}

// hostFiles are files of this machine for a package, by their names in it.
func hostFiles(t *testing.T, files map[string]string) []apktest.File {
	t.Helper()
	var list []apktest.File
	var dirs []string
	for at, from := range files {
		data, err := os.ReadFile(from)
		check(t, err)
		dirs = append(dirs, path.Dir(at))
		list = append(list, apktest.File{Name: at, Mode: 0o755, Data: string(data)})
	}
	return append(apktest.Dirs(dirs...), list...)
}

// builder is an Alpine image whose busybox is this machine's static one, of Debian.
func (m *mirror) builder(t *testing.T, arch string) []layer.Entry {
	t.Helper()
	name, _ := exec.LookPath("busybox")
	if out, _ := exec.Command("ldd", name).CombinedOutput(); name == "" || !strings.Contains(string(out), "not a dynamic") && !strings.Contains(string(out), "statically") {
		t.Skip("there is no static busybox (Debian's package busybox-static)")
	}
	data, err := os.ReadFile(name)
	check(t, err)
	entries := slices.Clone(m.alpine(t, arch))
	for name, data := range map[string][]byte{"bin/busybox": data, "etc/ssl/certs/ca-certificates.crt": roots(t)} {
		for i := range entries {
			if entries[i].Name == name {
				entries[i].Size, entries[i].Open = int64(len(data)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
			}
		}
	}
	return entries
}

// copied is a copy of a project's sources.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(dir))
	if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// unreachable is what a build says when a machine can't have what it needs.
var unreachable = regexp.MustCompile(`no such host|403 Forbidden|connection refused`)

// mirror has the packages of a small Alpine.
type mirror struct {
	dir, address string
	key          *apktest.Key
	roots        map[string][]layer.Entry
	real         bool // its make and git are programs
	builders     bool // golang images have programs
}

func alpineMirror(t *testing.T) *mirror {
	t.Helper()
	key, err := apktest.NewKey("test@example.com-1.rsa.pub")
	check(t, err)
	m := &mirror{dir: t.TempDir(), key: key, roots: map[string][]layer.Entry{}}
	check(t, apktest.Mirror(m.dir, key, "amd64", "arm64"))
	server := httptest.NewServer(http.FileServer(http.Dir(m.dir)))
	t.Cleanup(server.Close)
	m.address = server.URL
	return m
}

// alpine is the content of an Alpine image.
func (m *mirror) alpine(t *testing.T, arch string) []layer.Entry {
	t.Helper()
	if m.roots[arch] != nil {
		return m.roots[arch]
	}
	tree, err := apktest.Root(t.Context(), m.dir, "https://dl-cdn.alpinelinux.org/alpine", m.key, platform.Platform{OS: "linux", Architecture: arch}, t.TempDir())
	check(t, err)
	var list []layer.Entry
	check(t, tree.Walk("/", func(name string, a filetree.Attr) error {
		e := layer.Entry{Name: strings.TrimPrefix(name, "/"), Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: a.ModTime}
		switch {
		case e.Name == "":
			return nil
		case a.IsDir():
			e.Type = layer.Dir
		case a.IsSymlink():
			e.Type, e.Link = layer.Symlink, a.Link
		default:
			data, err := tree.ReadFile(name)
			if err != nil {
				return err
			}
			e.Size, e.Open = int64(len(data)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		}
		list = append(list, e)
		return nil
	}))
	m.roots[arch] = list
	return list
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
