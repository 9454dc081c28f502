//go:build linux

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// startBuildKit gives a build with a buildkitd of the test's own, nil if there can't be
// one.
func (o *oracles) startBuildKit(t *testing.T) func(*testing.T, *oracleCase, string) *result {
	client, err := exec.LookPath("buildctl")
	if err != nil {
		return nil
	}
	parent := memory(t)
	fast := "native"
	if overlays(t, parent) {
		fast = "overlayfs"
	}
	addresses := map[string]string{}
	for _, snapshotter := range []string{"native", fast} {
		if addresses[snapshotter] != "" {
			continue
		}
		daemon, err := buildkittest.Try(t, buildkittest.Options{Registries: []string{o.registry}, Snapshotter: snapshotter, Parent: parent})
		if err != nil {
			t.Logf("%v: nothing is compared with BuildKit", err)
			return nil
		}
		addresses[snapshotter] = daemon.Address
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
