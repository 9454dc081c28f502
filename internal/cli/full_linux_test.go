package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/anyarch/anyarch/internal/cli"
)

// A disk that is full during a build: it fails and says so, whatever was written by then;
// the cache is healthy, and with room again the build comes to what it comes to elsewhere.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("can't mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	dir, home := t.TempDir(), t.TempDir()
	for file, content := range map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() { println(\"hello\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	goCache := goEnv(t, "GOCACHE")
	run := func(cache string, args ...string) (code int, stdout, stderr string) {
		system := cli.Process()
		getenv := system.Getenv
		system.Getenv = func(key string) string {
			switch key {
			case "ANYARCH_CACHE":
				return cache
			case "GOCACHE":
				return goCache
			case "HOME":
				return home
			case "GOFLAGS":
				return ""
			case "GOENV":
				return "off"
			}
			return getenv(key)
		}
		var out, said bytes.Buffer
		system.Dir, system.Stdout, system.Stderr = dir, &out, &said
		code = cli.Main(t.Context(), args, system)
		return code, out.String(), said.String()
	}
	build := []string{"build", "-q", ".", "-p", "linux/amd64", "--output", "oci:out"}
	code, want, stderr := run(t.TempDir(), build...)
	if code != 0 {
		t.Fatal(stderr)
	}
	full := 0
	for size := 64; ; size += 256 { // full at another place each time
		if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dk", size)); err != nil {
			t.Fatal(err)
		}
		code, got, stderr := run(small, build...)
		if code == 0 {
			if got != want {
				t.Errorf("%s, and on a disk that was full %s", want, got)
			}
			break
		}
		full++
		if !strings.Contains(stderr, "PA601") && !strings.Contains(stderr, "no space left") || size > 64<<10 {
			t.Fatalf("with %d KiB:\n%s", size, stderr)
		}
		if code, out, stderr := run(small, "cache", "verify"); code != 0 {
			t.Errorf("with %d KiB the cache is damaged:\n%s%s", size, out, stderr)
		}
	}
	if full < 3 {
		t.Errorf("the disk was full only %d times", full)
	}
	if code, out, stderr := run(small, "cache", "verify"); code != 0 {
		t.Errorf("at the end the cache is damaged:\n%s%s", out, stderr)
	}
}
