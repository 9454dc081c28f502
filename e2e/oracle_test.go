//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
)

var updateOracle = flag.Bool("update-oracle", false, "write the golden listings of TestOracle from what anyarch makes, to be checked by hand")

// TestOracle builds every Dockerfile of testdata/oracle with anyarch and with buildah,
// and compares the images: every file with its attributes, and the config.
//
// Each is an archive (txtar) with a Dockerfile and its context; the words above the
// first file say what else the context has (see [oracleCase]). What may differ, and why,
// is in allowed.txt. A line that no difference needs any more fails the test.
// Modification times aren't compared. What anyarch refuses says so itself.
//
// What this buildah can't build, or builds otherwise than BuildKit, is compared with
// NAME.golden: what the image has that its base hasn't. Where buildkitd and buildctl
// are on PATH and the user is root, all Dockerfiles are compared with BuildKit too:
// its differences are in allowed-buildkit.txt.
func TestOracle(t *testing.T) {
	peers(t)
	files, err := filepath.Glob("testdata/oracle/*.txtar")
	check(t, err)
	program := filepath.Join(t.TempDir(), "anyarch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	im := &images{}
	o := &oracles{
		program: program, registry: registry, bases: newBases(root, im), images: im,
		allowed: readRules(t, "allowed.txt"), allowedBuildKit: readRules(t, "allowed-buildkit.txt"),
	}
	check(t, o.configure(t.TempDir()))
	o.buildah, o.noBuildah = o.startBuildah(t)
	if o.noBuildah != "" {
		t.Log(o.noBuildah + ": only golden listings are compared")
	}
	o.buildkit = o.startBuildKit(t)
	t.Run("Dockerfile", func(t *testing.T) {
		for _, file := range files {
			c := readCase(t, file)
			t.Run(c.name, func(t *testing.T) { t.Parallel(); o.test(t, c) })
		}
	})
	o.unused(t)
}

// oracleCase is one Dockerfile and its context.
type oracleCase struct {
	name    string
	files   []txtar.File
	text    string   // of the Dockerfile
	golden  string   // golden: why it is compared with a listing instead of with buildah's image
	needs   []string // applets: what of busybox buildah needs; with Debian's, it is compared with a listing
	args    []string // args: of all builders
	refused []string // refused: what the refusals say, each with its line, as 3:WORDS; other builders build it
	setup   [][]string
}

// large says that its base is one that takes long to copy.
func (c *oracleCase) large() bool {
	return strings.Contains(c.text, "debian:") || strings.Contains(c.text, "golang:")
}

// A line above the first file that begins with one of these words and a colon is:
var directives = regexp.MustCompile(`^(golden|applets|args|refused|mode|dir|link|hard|tar): +(.*)$`)

func readCase(t *testing.T, file string) *oracleCase {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	check(t, err)
	c := &oracleCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), files: archive.Files}
	for line := range strings.Lines(string(archive.Comment)) {
		m := directives.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		switch m[1] {
		case "golden":
			c.golden = m[2]
		case "applets":
			c.needs = strings.Fields(m[2])
		case "args":
			c.args = strings.Fields(m[2])
		case "refused":
			c.refused = append(c.refused, m[2])
		default:
			c.setup = append(c.setup, append([]string{m[1]}, strings.Fields(m[2])...))
		}
	}
	for _, f := range c.files {
		if f.Name == "Dockerfile" {
			c.text = string(f.Data)
		}
	}
	if c.text == "" {
		t.Fatalf("%s has no Dockerfile", file)
	}
	return c
}

// write makes the context. Bits and ids are those that a checkout would have.
func (c *oracleCase) write(dir string) error {
	for _, f := range c.files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, bytes.ReplaceAll(f.Data, []byte("\\GOVERSION\\"), []byte(goVersion)), 0o644); err != nil {
			return err
		}
	}
	in := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	for _, s := range c.setup {
		var err error
		switch s[0] {
		case "mode": // mode: 0755 NAME…
			mode, perr := strconv.ParseUint(s[1], 8, 32)
			if err = perr; err == nil {
				for _, name := range s[2:] {
					err = errors.Join(err, os.Chmod(in(name), fs.FileMode(mode&0o777)|map[bool]fs.FileMode{true: fs.ModeSetuid}[mode&0o4000 != 0]))
				}
			}
		case "dir": // dir: NAME…
			for _, name := range s[1:] {
				err = errors.Join(err, os.MkdirAll(in(name), 0o755))
			}
		case "link": // link: NAME TARGET
			err = os.Symlink(s[2], in(s[1]))
		case "hard": // hard: NAME TARGET
			err = os.Link(in(s[2]), in(s[1]))
		case "tar": // tar: NAME FILE…, which are taken out of the context; compressed if NAME ends with gz
			err = packed(dir, s[1], s[2:])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(s, " "), err)
		}
	}
	return nil
}

// rule is a line of allowed.txt: differences of an attribute of some files in some
// images, and why they are there.
type rule struct {
	file                                string
	line                                int
	dockerfile, path, attribute, reason string
	used                                bool
}

// readRules reads `Dockerfile | path | attribute | reason`. The first two are globs,
// * being anything; the path "config" is that of the config, its attributes are its
// fields. The attribute "exists" is of files that only one image has.
func readRules(t *testing.T, name string) []*rule {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "oracle", name))
	check(t, err)
	var list []*rule
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, "|", 4)
		if len(f) != 4 {
			t.Fatalf("%s:%d: not Dockerfile | path | attribute | reason", name, i+1)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		list = append(list, &rule{file: name, line: i + 1, dockerfile: f[0], path: f[1], attribute: f[2], reason: f[3]})
	}
	return list
}

// glob reports whether a pattern, in which * stands for anything, is of a name.
func glob(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	for i := len(head); i <= len(name); i++ {
		if glob(rest, name[i:]) {
			return true
		}
	}
	return false
}

// oracles are the builders, and what their images may differ in.
type oracles struct {
	program, registry string
	conf, policy      string // registries.conf and policy.json
	bases             *bases
	images            *images
	noBuildah         string // why
	buildah, buildkit func(t *testing.T, c *oracleCase, dir string) *result

	mu                       sync.Mutex
	allowed, allowedBuildKit []*rule
	ran, ranBuildKit         []string // the names of the Dockerfiles that were compared
}

// configure lets every builder find docker.io in the test's own registry.
func (o *oracles) configure(dir string) error {
	o.conf, o.policy = filepath.Join(dir, "registries.conf"), filepath.Join(dir, "policy.json")
	return errors.Join(
		os.WriteFile(o.conf, fmt.Appendf(nil, "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", o.registry), 0o644),
		os.WriteFile(o.policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644))
}

// differ reports what isn't excused by a rule.
func (o *oracles) differ(t *testing.T, c *oracleCase, against string, list []difference, rules ...[]*rule) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	unexcused := 0
	for _, d := range list {
		excused := false
		for _, r := range slices.Concat(rules...) {
			if glob(r.dockerfile, c.name) && glob(r.path, d.path) && (r.attribute == d.attribute || r.attribute == "*") {
				r.used, excused = true, true
			}
		}
		if excused {
			continue
		}
		if unexcused++; unexcused <= 20 {
			t.Errorf("%s: %s", against, d)
		}
	}
	if unexcused > 20 {
		t.Errorf("%s: %d further differences", against, unexcused-20)
	}
}

func (o *oracles) test(t *testing.T, c *oracleCase) {
	for name, base := range map[string]func(*testing.T){"alpine:3.22": o.bases.alpine, "golang:": o.bases.golang, "onbuild:1": o.bases.onbuild, "debian:12": o.bases.debian} {
		if strings.Contains(c.text, name) {
			o.bases.alpine(t)
			base(t)
		}
	}
	dir := filepath.Join(t.TempDir(), "context")
	check(t, c.write(dir))
	got, refused := o.anyarch(t, c, dir)
	if c.refused != nil {
		if got != nil {
			t.Fatal("anyarch builds it: compare it with the others")
		}
		if n := strings.Count(refused, "error["); n != len(c.refused) {
			t.Errorf("%d refusals, not %d\n%s", n, len(c.refused), refused)
		}
		for _, want := range c.refused {
			line, words, _ := strings.Cut(want, ":")
			if !regexp.MustCompile(regexp.QuoteMeta(strings.TrimSpace(words)) + `.*\n.*Dockerfile:` + line + `\n`).MatchString(refused) {
				t.Errorf("%s isn't refused\n%s", want, refused)
			}
		}
		return
	}
	if got == nil {
		t.Errorf("anyarch doesn't build it: %s", refused)
	}
	golden := filepath.Join("testdata", "oracle", c.name+".golden")
	byBuildah := c.golden == "" && o.noBuildah == "" && o.has(c)
	if got != nil && (c.golden != "" || c.needs != nil) {
		text := listing(got, o.bases.baseOf(got))
		if *updateOracle {
			check(t, os.WriteFile(golden, []byte(text), 0o644))
		}
		o.listed(t, c, golden, text)
	}
	if byBuildah {
		if want := o.buildah(t, c, dir); got != nil {
			o.differ(t, c, "buildah", compare(got, want), o.allowed)
		}
	}
	if o.buildkit != nil && o.has(c) {
		if want := o.buildkit(t, c, dir); got != nil && want != nil {
			o.differ(t, c, "BuildKit", compare(got, want), o.allowedBuildKit)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if byBuildah || c.golden != "" || c.needs != nil {
		o.ran = append(o.ran, c.name)
	}
	if o.buildkit != nil && o.has(c) {
		o.ranBuildKit = append(o.ranBuildKit, c.name)
	}
}

// has reports whether busybox has what a Dockerfile needs of it.
func (o *oracles) has(c *oracleCase) bool {
	return !slices.ContainsFunc(c.needs, func(applet string) bool { return !o.bases.applet(applet) })
}

// listed compares with a golden listing, line by line, in the words of rules.
func (o *oracles) listed(t *testing.T, c *oracleCase, golden, text string) {
	t.Helper()
	data, err := os.ReadFile(golden)
	check(t, err)
	parse := func(text string) map[string]string {
		lines := map[string]string{}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			name := "config"
			if quoted, err := strconv.QuotedPrefix(line); err == nil {
				name, _ = strconv.Unquote(quoted)
			} else if f := strings.Fields(line); len(f) > 1 {
				name += " " + f[1]
			}
			lines[name] = strings.TrimSpace(line)
		}
		return lines
	}
	got, want := parse(text), parse(string(data))
	var list []difference
	for name := range got {
		if got[name] != want[name] {
			list = append(list, difference{name, "golden", got[name], want[name]})
		}
	}
	for name := range want {
		if got[name] == "" {
			list = append(list, difference{name, "golden", "", want[name]})
		}
	}
	slices.SortFunc(list, func(a, b difference) int { return strings.Compare(a.path, b.path) })
	o.differ(t, c, filepath.Base(golden), list)
}

// anyarch builds a Dockerfile, or says why it doesn't.
func (o *oracles) anyarch(t *testing.T, c *oracleCase, dir string) (*result, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "anyarch")
	args := append([]string{"build", "-f", filepath.Join(dir, "Dockerfile"), "--platform", "linux/" + runtime.GOARCH, "--output", "oci:" + out, "--no-cache", "--progress", "plain"}, c.args...)
	cmd := exec.Command(o.program, append(args, dir)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+o.conf)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Sprintf("%v\n%s", err, text)
	}
	return o.images.read(t, out, imageOf(t, out)), ""
}

// imageOf finds the only image of a layout.
func imageOf(t *testing.T, dir string) digest.Digest {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	check(t, err)
	for {
		var index ocispec.Index
		check(t, json.Unmarshal(data, &index))
		found := slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Platform != nil && d.Platform.OS == "unknown" })
		if len(found) != 1 {
			t.Fatalf("%s has %d images", dir, len(found))
		}
		d := found[0]
		if d.MediaType != ocispec.MediaTypeImageIndex {
			return d.Digest
		}
		data, err = os.ReadFile(filepath.Join(dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()))
		check(t, err)
	}
}

// startBuildah gives a build with buildah, or says why there is none.
func (o *oracles) startBuildah(t *testing.T) (build func(*testing.T, *oracleCase, string) *result, why string) {
	program, err := exec.LookPath("buildah")
	if err != nil {
		return nil, "buildah isn't on PATH"
	}
	storage := memory(t)
	fast := "vfs"
	if overlays(t, storage) {
		fast = "overlay"
	}
	env := append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+o.conf, "BUILDAH_ISOLATION=chroot", "TMPDIR="+t.TempDir())
	// Large bases aren't copied where layers can be stacked; hard links over several
	// layers are, so that other names of a file change with it.
	run := func(c *oracleCase, dir string, args ...string) ([]byte, error) {
		driver := "vfs"
		if c.large() {
			driver = fast
		}
		cmd := exec.Command(program, slices.Concat([]string{"--root", filepath.Join(storage, driver), "--runroot", filepath.Join(storage, driver+"-run"), "--storage-driver", driver}, args)...)
		cmd.Dir, cmd.Env = dir, append(slices.Clone(env), "STORAGE_DRIVER="+driver)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%w\n%s%s", err, out, stderr.String())
		}
		return out, err
	}
	layout := filepath.Join(storage, "layout")
	common := []string{"bud", "--isolation", "chroot", "--layers=false", "--format", "docker", "--identity-label=false", "--signature-policy", o.policy, "--timestamp", "0"}
	// The standard library is compiled once, not in every build.
	var goCache []string
	if kept := filepath.Join(o.bases.cache, "go-build"); o.bases.cache != "" && os.MkdirAll(kept, 0o755) == nil {
		goCache = []string{"--volume", kept + ":/root/.cache/go-build"}
	}
	// One build that does nothing but run a program shows whether this machine can.
	if o.bases.busybox != "" {
		dir := t.TempDir()
		data, err := os.ReadFile(o.bases.busybox)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "busybox"), data, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"true\"]\n"), 0o644))
		if _, err := run(&oracleCase{}, dir, slices.Concat(common, []string{"-t", "probe", dir})...); err != nil {
			return nil, fmt.Sprintf("buildah can't run here: %v", err)
		}
	}
	var mu sync.Mutex // of the layout, which shares the blobs of bases
	return func(t *testing.T, c *oracleCase, dir string) *result {
		t.Helper()
		tag := "localhost/" + c.name
		var volumes []string
		if strings.Contains(c.text, "golang:") {
			volumes = goCache
		}
		if _, err := run(c, dir, slices.Concat(common, volumes, c.args, []string{"-f", "Dockerfile", "-t", tag, dir})...); err != nil {
			t.Fatalf("buildah: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := run(c, dir, "push", "--disable-compression", "--signature-policy", o.policy, tag, "oci:"+layout+":"+c.name); err != nil {
			t.Fatalf("buildah: %v", err)
		}
		data, err := os.ReadFile(filepath.Join(layout, "index.json"))
		check(t, err)
		var index ocispec.Index
		check(t, json.Unmarshal(data, &index))
		i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == c.name })
		if i < 0 {
			t.Fatalf("buildah: %s isn't in its layout", c.name)
		}
		r := o.images.read(t, layout, index.Manifests[i].Digest)
		// The layout is OCI's, whose configs have less than Docker's.
		out, err := run(c, dir, "inspect", "--type", "image", tag)
		if err != nil {
			t.Fatalf("buildah: %v", err)
		}
		var inspected struct{ Docker struct{ Config config } }
		check(t, json.Unmarshal(out, &inspected))
		r.config = inspected.Docker.Config
		if out, err := run(c, dir, "rmi", "--force", tag); err != nil {
			t.Logf("buildah: %v\n%s", err, out)
		}
		return r
	}, ""
}

// memory gives a temporary directory, in memory if there is enough of it: vfs copies
// whole bases for every stage.
func memory(t *testing.T) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &st); err == nil && st.Bavail*uint64(st.Bsize) > 8<<30 {
		if dir, err := os.MkdirTemp("/dev/shm", "anyarch-oracle"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	return t.TempDir()
}

// overlays reports whether layers can be stacked in a directory instead of copied.
func overlays(t *testing.T, dir string) bool {
	t.Helper()
	probe, err := os.MkdirTemp(dir, "overlay")
	check(t, err)
	in := func(name string) string { return filepath.Join(probe, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		check(t, os.Mkdir(in(name), 0o755))
	}
	if syscall.Mount("overlay", in("merged"), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", in("lower"), in("upper"), in("work"))) != nil {
		return false
	}
	return syscall.Unmount(in("merged"), 0) == nil
}

// unused reports rules that are out of date, of Dockerfiles that were all compared.
func (o *oracles) unused(t *testing.T) {
	names, err := filepath.Glob("testdata/oracle/*.txtar")
	check(t, err)
	failed := t.Failed() // then what is used isn't known
	for _, list := range []struct {
		rules []*rule
		ran   []string
	}{{o.allowed, o.ran}, {o.allowedBuildKit, o.ranBuildKit}} {
		for _, r := range list.rules {
			matched, complete := false, true
			for _, name := range names {
				if name = strings.TrimSuffix(filepath.Base(name), ".txtar"); glob(r.dockerfile, name) {
					matched = true
					complete = complete && slices.Contains(list.ran, name)
				}
			}
			if !matched {
				t.Errorf("%s:%d: no Dockerfile is called %s", r.file, r.line, r.dockerfile)
			} else if complete && !r.used && !failed {
				t.Errorf("%s:%d: nothing differs so any more: %s %s %s (%s)", r.file, r.line, r.dockerfile, r.path, r.attribute, r.reason)
			}
		}
	}
}
