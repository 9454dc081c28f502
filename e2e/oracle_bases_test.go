//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// bases are the images that the Dockerfiles of the oracle begin with, in a registry
// of the test's own. Each is made when the first Dockerfile asks for it.
type bases struct {
	root    string
	busybox string // the program
	cache   string // what is kept between runs of the test

	alpine, debian, golang, onbuild func(*testing.T)
	alpineLayers                    []image.Layer
	mu                              sync.Mutex
	results                         map[string]*result // by reference
	images                          *images
}

func newBases(root string, im *images) *bases {
	b := &bases{root: root, images: im, results: map[string]*result{}, busybox: busybox()}
	if dir, err := os.UserCacheDir(); err == nil {
		b.cache = filepath.Join(dir, "anyarch-oracle")
	}
	b.alpine, b.debian, b.golang, b.onbuild = once(b.makeAlpine), once(b.makeDebian), once(b.makeGolang), once(b.makeOnbuild)
	return b
}

// once makes a base for the first test that wants it, with the same outcome for
// all: a reason to skip, or an error.
func once(make func() error) func(*testing.T) {
	outcome := sync.OnceValue(make)
	return func(t *testing.T) {
		t.Helper()
		err := outcome()
		if skip := (*skipError)(nil); errors.As(err, &skip) {
			t.Skip(skip.reason)
		}
		check(t, err)
	}
}

// skipError says why a base can't be made here.
type skipError struct{ reason string }

func (e *skipError) Error() string { return e.reason }

// busybox finds a static busybox. The one in the cache, if there is one, was put there
// by hand: Debian's has neither adduser nor install, and one that has compares
// what is a golden listing otherwise.
func busybox() string {
	if dir, err := os.UserCacheDir(); err == nil {
		if name := filepath.Join(dir, "anyarch-oracle", "busybox"); exec.Command(name, "true").Run() == nil {
			return name
		}
	}
	name, _ := exec.LookPath("busybox")
	return name
}

// applet reports whether busybox has a command.
func (b *bases) applet(name string) bool {
	out, err := exec.Command(b.busybox, "--list").Output()
	return err == nil && slices.Contains(strings.Fields(string(out)), name)
}

// baseOf is the base whose layers an image begins with.
func (b *bases) baseOf(r *result) *result {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best *result
	for _, name := range slices.Sorted(maps.Keys(b.results)) { // alpine before those that have its layers too
		base := b.results[name]
		if len(base.layers) <= len(r.layers) && slices.Equal(base.layers, r.layers[:len(base.layers)]) && (best == nil || len(best.layers) < len(base.layers)) {
			best = base
		}
	}
	return best
}

// tree is the content of a layer while it is made.
type tree struct {
	w   *tar.Writer
	err error
}

func (t *tree) add(h tar.Header, content []byte) {
	if t.err != nil {
		return
	}
	h.Size, h.Format = int64(len(content)), tar.FormatPAX
	if t.err = t.w.WriteHeader(&h); t.err == nil {
		_, t.err = t.w.Write(content)
	}
}

func (t *tree) dir(mode int64, names ...string) {
	for _, name := range names {
		t.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
	}
}

func (t *tree) file(name string, mode int64, text string) {
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, []byte(text))
}

func (t *tree) link(name, to string) {
	t.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

// layer stores a layer that a function fills.
func (b *bases) layer(st *store.Store, createdBy string, fill func(*tree)) (image.Layer, error) {
	return b.blob(st, createdBy, func(w io.Writer) error {
		t := &tree{w: tar.NewWriter(w)}
		fill(t)
		return errors.Join(t.err, t.w.Close())
	})
}

// blob stores a layer whose tar a function writes.
func (b *bases) blob(st *store.Store, createdBy string, write func(io.Writer) error) (image.Layer, error) {
	blob, err := st.Ingest()
	if err != nil {
		return image.Layer{}, err
	}
	defer blob.Abort()
	plain := sha256.New()
	w, err := gzip.NewWriterLevel(blob, gzip.BestSpeed)
	if err != nil {
		return image.Layer{}, err
	}
	if err := errors.Join(write(io.MultiWriter(w, plain)), w.Close()); err != nil {
		return image.Layer{}, err
	}
	size := blob.Size()
	d, err := blob.Commit("")
	return image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size},
		DiffID:     digest.NewDigest(digest.SHA256, plain), History: ocispec.History{CreatedBy: createdBy},
	}, err
}

func (b *bases) store(repository string) (*store.Store, error) {
	return store.Create(filepath.Join(b.root, filepath.FromSlash(repository)))
}

// image tags an image of the host's platform, in Docker's format: that of OCI has no
// room for triggers and health checks, and buildah drops them.
func (b *bases) image(st *store.Store, repository, tag string, layers []image.Layer, config map[string]any) error {
	return b.imageFor(runtime.GOARCH, st, repository, tag, layers, config)
}

// imageFor is the same for another architecture.
func (b *bases) imageFor(arch string, st *store.Store, repository, tag string, layers []image.Layer, config map[string]any) error {
	raw, err := json.Marshal(map[string]any{"os": "linux", "architecture": arch, "config": config})
	if err != nil {
		return err
	}
	img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: arch}, RawConfig: raw, Layers: layers, MediaTypes: image.Docker})
	if err != nil {
		return err
	}
	index, err := image.WriteIndex(st, []image.Image{img}, nil, image.Docker)
	if err != nil {
		return err
	}
	if err := st.Tag(context.Background(), tag, index, true); err != nil {
		return err
	}
	r := &result{files: map[string]*node{}}
	for _, l := range layers {
		file, err := st.Path(l.Descriptor.Digest)
		if err != nil {
			return err
		}
		entries, err := b.images.layer(file, l.DiffID)
		if err != nil {
			return err
		}
		if err := r.apply(entries); err != nil {
			return err
		}
		r.layers = append(r.layers, l.DiffID)
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &r.config); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.results[repository+":"+tag] = r
	return nil
}

const (
	alpinePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	passwd     = `root:x:0:0:root:/root:/bin/sh
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
mail:x:8:12:mail:/var/mail:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
`
	group = `root:x:0:root
bin:x:1:root,bin,daemon
daemon:x:2:root,bin,daemon
mail:x:12:mail
shadow:x:42:
www-data:x:82:
users:x:100:games
nogroup:x:65533:
nobody:x:65534:
`
	shadow = `root:*::0:::::
bin:!::0:::::
daemon:!::0:::::
mail:!::0:::::
nobody:!::0:::::
`
	profile = "export PATH=" + alpinePath + "\nexport PAGER=less\numask 022\n"
)

// capability is security.capability with cap_net_bind_service=ep (linux/capability.h,
// VFS_CAP_REVISION_2).
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// makeAlpine makes alpine:3.22: what alpine-minirootfs has, with the host's busybox
// instead of Alpine's; below /srv and /opt are files for the Dockerfiles to work on.
// Its second layer takes away some of what the first one has.
func (b *bases) makeAlpine() error {
	if b.busybox == "" {
		return &skipError{"busybox isn't on PATH (Debian's package busybox-static)"}
	}
	program, err := os.ReadFile(b.busybox)
	if err != nil {
		return err
	}
	if out, _ := exec.Command("ldd", b.busybox).CombinedOutput(); !strings.Contains(string(out), "not a dynamic") && !strings.Contains(string(out), "statically") {
		return &skipError{b.busybox + " isn't static (Debian's package busybox-static)"}
	}
	applets, err := exec.Command(b.busybox, "--list-full").Output()
	if err != nil {
		return err
	}
	st, err := b.store("library/alpine")
	if err != nil {
		return err
	}
	first, err := b.layer(st, "ADD alpine-minirootfs-3.22.0-x86_64.tar.gz / # buildkit", func(t *tree) {
		t.dir(0o755, ".", "bin", "dev", "etc", "etc/apk", "etc/profile.d", "etc/ssl", "etc/ssl/certs", "home", "lib", "media", "media/cdrom", "mnt", "opt", "run", "sbin", "srv",
			"usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/local/lib", "usr/local/share", "usr/sbin", "usr/share", "usr/share/zoneinfo", "usr/share/zoneinfo/Europe",
			"var", "var/cache", "var/cache/apk", "var/lib", "var/local", "var/log", "var/mail", "var/opt", "var/spool")
		t.dir(0o555, "proc", "sys", "var/empty")
		t.dir(0o1777, "tmp", "var/tmp")
		t.dir(0o700, "root")
		t.link("var/run", "../run")
		t.link("var/lock", "../run/lock")
		t.file("bin/busybox", 0o755, string(program))
		for name := range strings.FieldsSeq(string(applets)) {
			if path.Base(name) == "busybox" || name == "linuxrc" || path.Base(name) == "dpkg" {
				continue
			}
			t.link(name, "/bin/busybox")
		}
		t.file("etc/alpine-release", 0o644, "3.22.0\n")
		t.file("etc/apk/repositories", 0o644, "https://dl-cdn.alpinelinux.org/alpine/v3.22/main\nhttps://dl-cdn.alpinelinux.org/alpine/v3.22/community\n")
		t.file("etc/passwd", 0o644, passwd)
		t.file("etc/group", 0o644, group)
		t.add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/shadow", Mode: 0o640, Gid: 42}, []byte(shadow))
		t.file("etc/profile", 0o644, profile)
		t.file("etc/issue", 0o644, "Welcome to Alpine Linux\n")
		t.file("etc/motd", 0o644, "Welcome to Alpine!\n\nSee <https://wiki.alpinelinux.org/>.\n")
		t.file("etc/shells", 0o644, "# valid login shells\n/bin/sh\n/bin/ash\n")
		t.link("etc/mtab", "../proc/mounts")
		t.file("etc/ssl/certs/ca-certificates.crt", 0o644, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
		t.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
		t.file("usr/share/zoneinfo/UTC", 0o644, "TZif2 UTC\n")
		t.file("usr/share/zoneinfo/Europe/Berlin", 0o644, "TZif2 Berlin\n")
		t.file("srv/gone", 0o644, "the second layer takes this away\n")
		t.dir(0o755, "opt/hidden")
		t.file("opt/hidden/old", 0o644, "the second layer hides this\n")
	})
	if err != nil {
		return err
	}
	second, err := b.layer(st, "COPY samples / # buildkit", func(t *tree) {
		t.file("srv/.wh.gone", 0o644, "")
		t.file("opt/hidden/.wh..wh..opq", 0o644, "")
		t.file("opt/hidden/new", 0o644, "new\n")
		t.dir(0o750, "srv/data")
		t.add(tar.Header{Typeflag: tar.TypeReg, Name: "srv/data/owned", Mode: 0o640, Uid: 1, Gid: 12}, []byte("owned by bin\n"))
		t.file("srv/data/one", 0o644, "one\n")
		t.add(tar.Header{Typeflag: tar.TypeLink, Name: "srv/data/two", Linkname: "srv/data/one", Mode: 0o644}, nil)
		t.link("srv/data/to-one", "one")
		t.link("srv/data/absolute", "/srv/data/one")
		t.link("srv/data/dangling", "nowhere")
		t.link("srv/link", "data")
		t.add(tar.Header{Typeflag: tar.TypeReg, Name: "srv/setuid", Mode: 0o4755}, []byte("setuid\n"))
		t.add(tar.Header{Typeflag: tar.TypeReg, Name: "srv/setgid", Mode: 0o2755, Gid: 12}, []byte("setgid\n"))
		t.add(tar.Header{Typeflag: tar.TypeReg, Name: "srv/capable", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}}, []byte("capable\n"))
		t.add(tar.Header{Typeflag: tar.TypeFifo, Name: "srv/fifo", Mode: 0o600}, nil)
		t.add(tar.Header{Typeflag: tar.TypeChar, Name: "srv/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, nil)
		t.dir(0o2775, "srv/shared")
	})
	if err != nil {
		return err
	}
	b.alpineLayers = []image.Layer{first, second}
	return b.image(st, "library/alpine", "3.22", b.alpineLayers, map[string]any{"Env": []string{"PATH=" + alpinePath}, "Cmd": []string{"/bin/sh"}})
}

// makeOnbuild makes onbuild:1, alpine:3.22 with triggers and everything else that a config
// can have.
func (b *bases) makeOnbuild() error {
	st, err := b.copyAlpine("library/onbuild")
	if err != nil {
		return err
	}
	return b.image(st, "library/onbuild", "1", b.alpineLayers, map[string]any{
		"Env": []string{"PATH=" + alpinePath, "FROM_BASE=yes"}, "Cmd": []string{"true"}, "Entrypoint": []string{"/bin/busybox"}, "WorkingDir": "/srv/shared", "User": "nobody",
		"Labels": map[string]string{"base": "onbuild", "keep": "1"}, "ExposedPorts": map[string]any{"53/udp": struct{}{}}, "Volumes": map[string]any{"/var/lib/base": struct{}{}},
		"StopSignal": "SIGQUIT", "Healthcheck": map[string]any{"Test": []string{"CMD", "true"}, "Interval": 5_000_000_000, "Retries": 2}, "Shell": []string{"/bin/ash", "-ec"},
		"OnBuild": []string{"COPY app.txt /app.txt", "RUN cat /app.txt > /tmp/copied", "ENV TRIGGERED=1"},
	})
}

// copyAlpine gives another repository alpine's layers, and its store.
func (b *bases) copyAlpine(repository string) (*store.Store, error) {
	from, err := b.store("library/alpine")
	if err != nil {
		return nil, err
	}
	to, err := b.store(repository)
	if err != nil {
		return nil, err
	}
	for _, l := range b.alpineLayers {
		if err := to.Link(l.Descriptor.Digest, from); err != nil {
			return nil, fmt.Errorf("%s: %w", repository, err)
		}
	}
	return to, nil
}

// makeDebian makes debian:12.
func (b *bases) makeDebian() error {
	kept, err := b.debianRoot(runtime.GOARCH)
	if err != nil {
		return err
	}
	return b.debianImage(kept, "library/debian", "12", runtime.GOARCH)
}

// debianRoot gives the archive of a minimal bookworm of mmdebstrap's, kept between runs.
func (b *bases) debianRoot(arch string) (string, error) {
	program, err := exec.LookPath("mmdebstrap")
	kept := filepath.Join(b.cache, "debian-12-"+arch+".tar")
	if _, statErr := os.Stat(kept); statErr == nil {
		return kept, nil
	}
	if err != nil || b.cache == "" {
		return "", &skipError{"mmdebstrap isn't on PATH (Debian's package mmdebstrap)"}
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return "", err
	}
	temporary := fmt.Sprintf("%s.%d", kept, os.Getpid())
	defer func() { _ = os.Remove(temporary) }()
	cmd := exec.Command(program, "--quiet", "--architectures="+arch, "--variant=minbase", "--format=tar", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/zoneinfo/*", "bookworm", temporary)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1750000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &skipError{fmt.Sprintf("mmdebstrap can't make a Debian for %s here: %v\n%s", arch, err, out)}
	}
	return kept, os.Rename(temporary, kept)
}

// debianImage makes an image of such a root.
func (b *bases) debianImage(kept, repository, tag, arch string) error {
	st, err := b.store(repository)
	if err != nil {
		return err
	}
	l, err := b.blob(st, "# debian.sh --arch '"+arch+"' out/ 'bookworm'", func(w io.Writer) error {
		f, err := os.Open(kept)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		return err
	}
	return b.imageFor(arch, st, repository, tag, []image.Layer{l}, map[string]any{"Env": []string{"PATH=" + alpinePath}, "Cmd": []string{"bash"}})
}

// goVersion is that of the toolchain that runs the tests, and golang's tag.
var goVersion = strings.TrimPrefix(strings.Fields(runtime.Version())[0], "go")

// makeGolang makes golang:VERSION-alpine: alpine:3.22 with the host's toolchain, less what
// no build reads. anyarch knows a Go builder by its config and doesn't pull it; buildah
// runs the toolchain that is in it.
func (b *bases) makeGolang() error {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	goroot := strings.TrimSpace(string(out))
	st, err := b.copyAlpine("library/golang")
	if err != nil {
		return err
	}
	l, err := b.layer(st, "COPY /target/ / # buildkit", func(t *tree) {
		t.dir(0o1777, "go", "go/bin", "go/src")
		t.err = errors.Join(t.err, filepath.WalkDir(goroot, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(goroot, name)
			rel = filepath.ToSlash(rel)
			if d.IsDir() && (d.Name() == "testdata" || slices.Contains([]string{"api", "doc", "misc", "test", "src/cmd", "pkg/mod", ".git"}, rel)) {
				return filepath.SkipDir
			}
			if strings.HasSuffix(rel, "_test.go") {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			to := path.Join("usr/local/go", rel)
			switch {
			case d.IsDir():
				t.dir(0o755, to)
			case d.Type().IsRegular():
				data, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				mode := int64(0o644)
				if info.Mode()&0o111 != 0 {
					mode = 0o755
				}
				t.file(to, mode, string(data))
			}
			return t.err
		}))
	})
	if err != nil {
		return err
	}
	return b.image(st, "library/golang", goVersion+"-alpine", append(slices.Clone(b.alpineLayers), l), map[string]any{
		"Env":        []string{"PATH=/go/bin:/usr/local/go/bin:" + alpinePath, "GOLANG_VERSION=" + goVersion, "GOTOOLCHAIN=local", "GOPATH=/go"},
		"WorkingDir": "/go", "Cmd": []string{"/bin/sh"}})
}

// tarball packs files, as user 1000.
func tarball(list []tarred) ([]byte, error) {
	var b bytes.Buffer
	t := &tree{w: tar.NewWriter(&b)}
	for _, f := range list {
		h := tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o640, Uid: 1000, Gid: 1000}
		if strings.HasSuffix(f.name, ".sh") {
			h.Mode = 0o4755
		}
		t.add(h, f.data)
	}
	return b.Bytes(), errors.Join(t.err, t.w.Close())
}

// packed makes an archive of files of a context, which it takes out of there.
func packed(dir, name string, files []string) error {
	var list []tarred
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			return err
		}
		list = append(list, tarred{f, data})
	}
	data, err := tarball(list)
	if err != nil {
		return err
	}
	if strings.HasSuffix(name, "gz") {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		data = b.Bytes()
	}
	return os.WriteFile(filepath.Join(dir, name), data, 0o644)
}

type tarred struct {
	name string
	data []byte
}
