//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// debianInstall is what is compared: the packages that Dockerfiles of Go programs
// install most (bookworm).
const debianInstall = "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates tzdata curl && rm -rf /var/lib/apt/lists/*"

// TestDebianPackages installs packages of the Debian mirror on a real Debian root, of
// this machine's architecture and of arm64, once with its own apt-get and once with
// anyarch, and compares every file. What may differ, and why, is in
// testdata/debian/allowed.txt. Then the program that was installed is started, under
// qemu-user where its architecture is another.
//
// It needs root, mmdebstrap and the mirror; for another architecture qemu-user, known
// to binfmt_misc.
func TestDebianPackages(t *testing.T) {
	peers(t)
	if os.Getuid() != 0 {
		t.Skip("an apt-get of its own needs root for chroot")
	}
	if !mirrorAnswers() {
		t.Skip("Debian's mirror can't be reached from here")
	}
	program := filepath.Join(t.TempDir(), "anyarch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	im := &images{}
	o := &oracles{program: program, registry: registry, bases: newBases(root, im), images: im}
	check(t, o.configure(t.TempDir()))
	rules := readRules(t, "../debian/allowed.txt")
	compared := 0
	for _, arch := range slices.Compact(slices.Sorted(slices.Values([]string{runtime.GOARCH, "arm64"}))) {
		t.Run(arch, func(t *testing.T) {
			if arch != runtime.GOARCH && !emulates(arch) {
				t.Skipf("programs for %s can't run here: binfmt_misc has no qemu for it", arch)
			}
			kept, err := o.bases.debianRoot(arch)
			var skip *skipError
			if errors.As(err, &skip) {
				t.Skip(skip.reason)
			}
			check(t, err)
			kept = slim(t, kept)
			check(t, o.bases.debianImage(kept, "library/debian", "bookworm-slim", arch))
			want, dir := realInstall(t, kept)

			context := t.TempDir()
			check(t, os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM debian:bookworm-slim\nRUN "+debianInstall+"\n"), 0o644))
			out := filepath.Join(t.TempDir(), "out")
			cmd := exec.Command(program, "build", "-f", filepath.Join(context, "Dockerfile"), "--platform", "linux/"+arch, "--output", "oci:"+out, "--no-cache", "--progress", "plain", context)
			cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+o.conf)
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			got := im.read(t, out, imageOf(t, out))
			want.config = got.config // apt-get makes none
			for _, r := range []*result{got, want} {
				unordered(t, r.files["/var/lib/apt/extended_states"])
			}
			o.differ(t, &oracleCase{name: "debian"}, "apt-get", compare(got, want), rules)
			compared++

			// The program starts with the very files that were compared.
			version, err := exec.Command("chroot", dir, "/usr/bin/curl", "--version").CombinedOutput()
			if err != nil {
				t.Fatalf("the oracle's own curl: %v\n%s", err, version)
			}
			mine := filepath.Join(t.TempDir(), "root")
			check(t, materialize(kept, mine))
			for _, l := range manifestOf(t, out).Layers[1:] {
				check(t, materialize(filepath.Join(out, "blobs", "sha256", l.Digest.Encoded()), mine))
			}
			if ours, err := exec.Command("chroot", mine, "/usr/bin/curl", "--version").CombinedOutput(); err != nil || !bytes.Equal(ours, version) {
				t.Errorf("curl as anyarch has installed it says %q, %v; installed by apt-get it says %q", ours, err, version)
			}
		})
	}
	if compared == 2 && !t.Failed() {
		for _, r := range rules {
			if !r.used {
				t.Errorf("allowed.txt:%d: nothing differs so any more: %s %s (%s)", r.line, r.path, r.attribute, r.reason)
			}
		}
	}
}

// slim adds to a root what Docker's Debian images tell apt: not to keep packages, nor
// a cache of the indexes.
func slim(t *testing.T, kept string) string {
	t.Helper()
	in, err := os.ReadFile(kept)
	check(t, err)
	end := bytes.TrimRight(in, "\x00")
	in = in[:(len(end)+511)/512*512]
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{
		"docker-clean": "DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true\"; };\n" +
			"APT::Update::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true\"; };\n" +
			"Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n",
		"docker-gzip-indexes": "Acquire::GzipIndexes \"true\";\n",
		"docker-no-languages": "Acquire::Languages \"none\";\n",
	} {
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./etc/apt/apt.conf.d/" + name, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1750000000, 0)}))
		_, err := io.WriteString(w, text)
		check(t, err)
	}
	check(t, w.Close())
	out := filepath.Join(t.TempDir(), "root.tar")
	check(t, os.WriteFile(out, append(in, b.Bytes()...), 0o644))
	return out
}

// realInstall installs with the root's own apt-get, and reads what it has made.
func realInstall(t *testing.T, kept string) (*result, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	check(t, materialize(kept, dir))
	resolv, err := os.ReadFile("/etc/resolv.conf")
	check(t, err)
	before, err := os.ReadFile(filepath.Join(dir, "etc/resolv.conf"))
	had := err == nil
	check(t, os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), resolv, 0o644))
	cmd := exec.Command("chroot", dir, "/bin/sh", "-c", debianInstall)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apt-get: %v\n%s", err, text)
	}
	if had {
		check(t, os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), before, 0o644))
	} else {
		check(t, os.Remove(filepath.Join(dir, "etc/resolv.conf")))
	}
	packed := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf", "-", "-C", dir, ".")
	pipe, err := packed.StdoutPipe()
	check(t, err)
	check(t, packed.Start())
	list, err := readTar(pipe)
	check(t, err)
	_, _ = io.Copy(io.Discard, pipe)
	check(t, packed.Wait())
	r := &result{files: map[string]*node{}}
	check(t, r.apply(list))
	return r, dir
}

// materialize unpacks a root file system.
func materialize(archive, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive, "-C", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// unordered sorts the stanzas of a file: apt writes them in the order of its hash table.
func unordered(t *testing.T, n *node) {
	t.Helper()
	if n == nil {
		t.Fatal("there is no extended_states")
	}
	text, err := strconv.Unquote(n.content)
	check(t, err)
	n.content = strings.Join(slices.Sorted(slices.Values(strings.Split(strings.TrimSpace(text), "\n\n"))), "\n\n")
}

// manifestOf reads the manifest of a layout's only image.
func manifestOf(t *testing.T, dir string) ocispec.Manifest {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", imageOf(t, dir).Encoded()))
	check(t, err)
	var m ocispec.Manifest
	check(t, json.Unmarshal(data, &m))
	return m
}

func mirrorAnswers() bool {
	c := http.Client{Timeout: 20 * time.Second}
	resp, err := c.Head("http://deb.debian.org/debian/dists/bookworm/InRelease")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// emulates reports whether the kernel starts programs of another architecture, in
// every root (flag F).
func emulates(arch string) bool {
	name := map[string]string{"arm64": "aarch64", "amd64": "x86_64"}[arch]
	data, err := os.ReadFile("/proc/sys/fs/binfmt_misc/qemu-" + name)
	text := string(data)
	_, flags, _ := strings.Cut(text, "flags: ")
	flags, _, _ = strings.Cut(flags, "\n")
	return err == nil && strings.HasPrefix(text, "enabled") && strings.Contains(flags, "F")
}
