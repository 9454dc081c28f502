//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// TestBuilder starts a daemon of the user's own, which is used without an address, and
// ends by itself.
func TestBuilder(t *testing.T) {
	peers(t)
	buildkittest.Need(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	cache := filepath.Join(t.TempDir(), "cache")
	t.Setenv("ANYARCH_CACHE", cache)
	builder := func(ok bool, want string, args ...string) {
		t.Helper()
		out, log := k.run(t, ok, append([]string{"builder"}, args...)...)
		if !strings.Contains(out, want) {
			t.Errorf("builder %s: %s%s", strings.Join(args, " "), out, log)
		}
	}
	t.Cleanup(func() { _ = k.command("builder", "stop").Run() })
	builder(false, "not running", "status")
	builder(true, "not running", "stop")
	builder(true, "unix://", "start", "--idle", "1h")
	builder(true, "unix://", "start")
	builder(true, "runs       linux/amd64", "status")
	// It is found where no builder is named, and does what the native engine refuses.
	_, log := k.run(t, true, "build", "-f", "Dockerfile", "--platform", "linux/amd64", "--output", "oci:own", "--progress", "plain", ".")
	if !strings.Contains(log, "engine buildkit") {
		t.Error(log)
	}
	builder(true, "stopped", "stop")
	builder(false, "not running", "status")
	// With --engine buildkit it is started on demand, once for all who ask at once.
	atOnce(t, 3, func(i int) *exec.Cmd {
		return k.command("build", "-f", "Dockerfile", "--platform", "linux/amd64", "--engine", "buildkit", "--output", fmt.Sprintf("oci:own%d", i), ".")
	})
	if n := daemons(t, cache); n != 1 {
		t.Errorf("%d daemons were started", n)
	}
	builder(true, "running", "status")
	builder(true, "stopped", "stop")
	builder(true, "unix://", "start", "--idle", "1s")
	for deadline := time.Now().Add(2 * time.Minute); k.command("builder", "status").Run() == nil; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it doesn't end although nobody uses it")
		}
	}
	t.Setenv("PATH", t.TempDir())
	_, log = k.run(t, false, "builder", "start")
	for _, want := range []string{"PA146", "buildkitd isn't installed", "runc"} {
		if !strings.Contains(log, want) {
			t.Errorf("what is missing isn't named (%s):\n%s", want, log)
		}
	}
}

// atOnce runs commands at the same time; all have to end well.
func atOnce(t *testing.T, n int, command func(i int) *exec.Cmd) {
	t.Helper()
	logs := make([]bytes.Buffer, n)
	running := make([]*exec.Cmd, n)
	for i := range running {
		running[i] = command(i)
		running[i].Stdout, running[i].Stderr = io.Discard, &logs[i]
		check(t, running[i].Start())
	}
	for i, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, logs[i].String())
		}
	}
}

// daemons counts the buildkitd processes that keep their state below a directory.
func daemons(t *testing.T, dir string) int {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	n := 0
	for _, file := range list {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		if filepath.Base(args[0]) == "buildkitd" && strings.Contains(string(line), dir) {
			n++
		}
	}
	return n
}

// ordinaryUser is somebody of this machine who isn't root and has subordinate ids, as
// rootlesskit needs them.
func ordinaryUser(t *testing.T) (uid, gid uint32) {
	t.Helper()
	for _, name := range []string{"newuidmap", "rootlesskit"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s isn't installed (Debian's uidmap and rootlesskit)", name)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	list, err := os.ReadFile("/etc/subuid")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(line, ":")
		u, err := user.Lookup(name)
		if err != nil || u.Uid == "0" {
			continue
		}
		id, err := strconv.ParseUint(u.Uid, 10, 32)
		check(t, err)
		group, err := strconv.ParseUint(u.Gid, 10, 32)
		check(t, err)
		return uint32(id), uint32(group)
	}
	t.Skip("no user of this machine has subordinate ids: useradd --create-home builder makes one")
	return 0, 0
}

// TestBuilderRootless starts a daemon as an ordinary user, several at once start only one,
// builds what the native engine refuses, and waits until it ends by itself.
func TestBuilderRootless(t *testing.T) {
	peers(t)
	uid, gid := ordinaryUser(t)
	buildkitd, runtime := buildkittest.Need(t)
	k := newKit(t)
	// Everything lies where that user can read it.
	home, err := os.MkdirTemp("", "rootless-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	check(t, os.Mkdir(filepath.Join(home, "bin"), 0o755))
	for name, file := range map[string]string{"bin/anyarch": k.program, "bin/buildkitd": buildkitd, "bin/" + filepath.Base(runtime): runtime, "tool-amd64": filepath.Join(k.dir, "tool-amd64")} {
		data, err := os.ReadFile(file)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(home, name), data, 0o755))
	}
	check(t, os.WriteFile(filepath.Join(home, "Dockerfile"), []byte(kitDockerfile), 0o644))
	check(t, os.Chown(home, int(uid), int(gid)))
	cache := filepath.Join(home, "cache")
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(home, "bin", "anyarch"), args...)
		cmd.Dir = home
		cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "ANYARCH_CACHE=" + cache, "PATH=" + filepath.Join(home, "bin") + ":" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		return cmd
	}
	first := command("builder", "start", "--idle", "1h")
	if out, err := first.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(cache, "buildkitd", "log"))
		if text := strings.ToLower(string(log)); strings.Contains(text, "operation not permitted") || strings.Contains(text, "permission denied") {
			t.Skipf("this machine has no user namespaces for ordinary users: %s", log)
		}
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	t.Cleanup(func() { _ = command("builder", "stop").Run() })
	build := func(i int) *exec.Cmd {
		return command("build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64", "--output", fmt.Sprintf("oci:out%d", i), ".")
	}
	atOnce(t, 1, build)
	if out, err := command("builder", "stop").CombinedOutput(); err != nil || daemons(t, cache) != 0 {
		t.Fatalf("%d daemons are left after stop: %v\n%s", daemons(t, cache), err, out)
	}
	atOnce(t, 3, func(int) *exec.Cmd { return command("builder", "start", "--idle", "1s") })
	if n := daemons(t, cache); n > 1 {
		t.Errorf("%d daemons were started", n)
	}
	for deadline := time.Now().Add(2 * time.Minute); command("builder", "status").Run() == nil || daemons(t, cache) > 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it doesn't end although nobody uses it")
		}
	}
}
