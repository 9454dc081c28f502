//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startBuildKit gives a build with a buildkitd of the test's own, nil if there can't be
// one.
func (o *oracles) startBuildKit(t *testing.T) func(*testing.T, *oracleCase, string) *result {
	daemon, err := exec.LookPath("buildkitd")
	if err != nil || os.Getuid() != 0 {
		return nil
	}
	client, err := exec.LookPath("buildctl")
	if err != nil {
		return nil
	}
	fast := "native"
	if overlays(t, memory(t)) {
		fast = "overlayfs"
	}
	addresses := map[string]string{}
	for _, snapshotter := range []string{"native", fast} {
		if addresses[snapshotter] == "" {
			if addresses[snapshotter] = o.daemon(t, daemon, client, snapshotter); addresses[snapshotter] == "" {
				return nil
			}
		}
	}
	return func(t *testing.T, c *oracleCase, dir string) *result {
		t.Helper()
		if strings.Contains(c.text, "golang:") {
			return nil // It would compile the standard library, for minutes.
		}
		out := filepath.Join(t.TempDir(), "buildkit")
		address := addresses["native"]
		if c.large() {
			address = addresses[fast]
		}
		args := []string{"--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
			"--opt", "attest:provenance=disabled=true", "--output", "type=oci,tar=false,dest=" + out}
		for i := 0; i+1 < len(c.args); i += 2 {
			switch key, value, _ := strings.Cut(c.args[i+1], "="); c.args[i] {
			case "--build-arg":
				args = append(args, "--opt", "build-arg:"+key+"="+value)
			case "--target":
				args = append(args, "--opt", "target="+key)
			default:
				t.Fatalf("BuildKit: %s isn't known here", c.args[i])
			}
		}
		if text, err := exec.Command(client, args...).CombinedOutput(); err != nil {
			t.Fatalf("BuildKit: %v\n%s", err, text)
		}
		return o.images.read(t, out, imageOf(t, out))
	}
}

// daemon starts a buildkitd and gives its address, none if it doesn't answer.
func (o *oracles) daemon(t *testing.T, daemon, client, snapshotter string) string {
	t.Helper()
	dir := memory(t)
	address := "unix://" + filepath.Join(dir, "buildkitd.sock")
	conf := filepath.Join(dir, "buildkitd.toml")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `root = %q
[grpc]
  address = [%q]
[worker.oci]
  snapshotter = %q
  networkMode = "host"
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%q]
[registry.%q]
  http = true
`, filepath.Join(dir, "root"), address, snapshotter, o.registry, o.registry), 0o644))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, daemon, "--config", conf)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	log, err := os.Create(filepath.Join(dir, "log"))
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cancel(); <-ended; _ = log.Close() })
	for deadline := time.Now().Add(30 * time.Second); exec.Command(client, "--addr", address, "debug", "workers").Run() != nil; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Logf("buildkitd doesn't answer: nothing is compared with BuildKit\n%s", text)
			return ""
		}
	}
	return address
}
