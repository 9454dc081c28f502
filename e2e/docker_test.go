package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// drop is a place where anyarch is called docker, and a registry stands in for
// docker.io.
type drop struct {
	program, docker, registry, root string
	packages                        *mirror
	env                             []string
}

func newDrop(t *testing.T) *drop {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash to run the scripts with")
	}
	d := &drop{program: filepath.Join(t.TempDir(), "anyarch"), packages: alpineMirror(t)}
	if out, err := exec.Command("go", "build", "-o", d.program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(t.TempDir(), "bin")
	if out, err := exec.Command(d.program, "docker", "install", bin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d.docker = filepath.Join(bin, "docker")
	d.registry, d.root = start(t)
	conf := filepath.Join(t.TempDir(), "registries.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", d.registry), 0o644))
	d.env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "CONTAINERS_REGISTRIES_CONF="+conf,
		"ANYARCH_CACHE="+t.TempDir(), "ANYARCH_PACKAGE_MIRROR=https://dl-cdn.alpinelinux.org/alpine="+d.packages.address, "NO_COLOR=1")
	return d
}

// run runs a command of a project, verbatim, and gives what it has written.
func (d *drop) run(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, d.env, &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// must is run that has to succeed.
func (d *drop) must(t *testing.T, dir string, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, err := d.run(t, dir, args...)
	if err != nil {
		if unreachable.MatchString(stderr) {
			t.Skipf("what it needs can't be reached from here: %s", unreachable.FindString(stderr))
		}
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout, stderr
}

// prove looks at what a script has published: every platform down to the last
// program, and both tags the same index.
func (d *drop) prove(t *testing.T, dir, repository, version string) {
	t.Helper()
	stdout, _ := d.must(t, dir, d.program, "verify", "--depth", "all", "--require", "linux/amd64,linux/arm64", "docker.io/"+repository+":"+version)
	for _, want := range []string{"linux/amd64", "x86-64 static", "linux/arm64", "AArch64 static"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("verify doesn't say %q:\n%s", want, stdout)
		}
	}
	digests := map[string]bool{}
	for _, tag := range []string{version, "latest"} {
		stdout, _ := d.must(t, dir, d.docker, "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", repository+":"+tag)
		digests[stdout] = true
	}
	if len(digests) != 1 {
		t.Errorf("%s and latest name different indexes: %v", version, digests)
	}
}

// TestDockerScripts runs the scripts of a project that was written for docker, which
// isn't there.
func TestDockerScripts(t *testing.T) {
	d := newDrop(t)
	archive, err := txtar.ParseFile("testdata/docker/project.txtar")
	check(t, err)
	dir := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, f.Data, 0o755))
		if strings.HasSuffix(f.Name, "Dockerfile") {
			standIn(t, d.root, d.packages, f.Data)
		}
	}
	t.Run("script", func(t *testing.T) {
		stdout, stderr := d.must(t, dir, "bash", "-e", "docker/build-multi-arch.sh")
		for _, want := range []string{"version=1.2.3\n", "Created manifest list docker.io/team/probe:1.2.3\n", "Created manifest list docker.io/team/probe:latest\n", "docker manifest push team/probe:latest\n"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("standard output lacks %q:\n%s", want, stdout)
			}
		}
		if want := "--build-arg GOARCH=arm64 without --platform: building linux/arm64, base included\n"; !strings.Contains(stderr, want) {
			t.Errorf("standard error lacks %q:\n%s", want, stderr)
		}
		stdout, _ = d.must(t, dir, "bash", "-e", "./docker-push.sh")
		if lines := strings.Fields(stdout); len(lines) != 2 || lines[0] != lines[1] || !strings.HasPrefix(lines[0], "sha256:") {
			t.Errorf("pushing printed %q, not one digest twice", stdout)
		}
		d.prove(t, dir, "team/probe", "1.2.3")
	})
	t.Run("again", func(t *testing.T) { // the next run of CI, on a machine that kept its lists
		d.must(t, dir, "bash", "-e", "docker/build-multi-arch.sh")
		d.must(t, dir, "bash", "-e", "./docker-push.sh")
		d.prove(t, dir, "team/probe", "1.2.3")
	})
	t.Run("steps", func(t *testing.T) {
		d.must(t, dir, "bash", "steps.sh")
		d.prove(t, dir, "library/app", "1.2.3")
	})
	// Both recipes make the same images of the same sources.
	a, _ := d.must(t, dir, d.docker, "manifest", "inspect", "team/probe:latest")
	b, _ := d.must(t, dir, d.docker, "manifest", "inspect", "app:latest")
	if a != b {
		t.Errorf("team/probe is\n%s\nand app is\n%s", a, b)
	}
}

// TestDockerApiping runs the script of udhos/apiping as it is.
func TestDockerApiping(t *testing.T) {
	sources := os.Getenv("ANYARCH_E2E_SOURCES")
	original := filepath.Join(sources, "udhos+apiping")
	if _, err := os.Stat(original); sources == "" || err != nil {
		t.Skip("ANYARCH_E2E_SOURCES names no folder with a checkout of udhos/apiping")
	}
	d := newDrop(t)
	dir := filepath.Join(t.TempDir(), "apiping")
	check(t, os.CopyFS(dir, os.DirFS(original)))
	data, err := os.ReadFile(filepath.Join(dir, "docker", "Dockerfile"))
	check(t, err)
	standIn(t, d.root, d.packages, data)
	stdout, _ := d.must(t, dir, "bash", "docker/build-multi-arch.sh")
	version, _, _ := strings.Cut(stdout, "\n")
	version = strings.TrimPrefix(version, "version=")
	if version == "" {
		t.Fatalf("the script found no version:\n%s", stdout)
	}
	d.must(t, dir, "bash", "-e", "./docker-push.sh")
	d.prove(t, dir, "udhos/apiping", version)
}
