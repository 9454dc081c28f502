package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An unchanged project is built again without starting the toolchain, unpacking a
// base or downloading anything but whether the package index is the same still.
func TestRebuild(t *testing.T) {
	sources := os.Getenv("ANYARCH_E2E_SOURCES")
	dir := filepath.Join(sources, "udhos+apiping")
	if _, err := os.Stat(dir); sources == "" || err != nil {
		t.Skip("ANYARCH_E2E_SOURCES has no checkout of udhos/apiping")
	}
	program := filepath.Join(t.TempDir(), "anyarch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/anyarch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	registry, root := start(t)
	packages := alpineMirror(t)
	var mu sync.Mutex
	var asked []string
	files := http.FileServer(http.Dir(packages.dir))
	counting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Path+" "+r.Header.Get("If-Modified-Since"))
		mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(counting.Close)
	data, err := os.ReadFile(filepath.Join(dir, "docker/Dockerfile"))
	check(t, err)
	file := filepath.Join(t.TempDir(), "Dockerfile")
	check(t, os.WriteFile(file, standIn(t, root, packages, data), 0o644))
	conf := filepath.Join(t.TempDir(), "registries.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", registry), 0o644))
	out, cache := filepath.Join(t.TempDir(), "out"), t.TempDir()
	build := func(args ...string) (string, string, time.Duration) {
		begin := time.Now()
		cmd := exec.Command(program, append(append([]string{"build", "--progress", "rawjson", "-f", file, "--output", "oci:" + out}, args...), ".")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf, "ANYARCH_CACHE="+cache, "ANYARCH_PACKAGE_MIRROR=https://dl-cdn.alpinelinux.org/alpine="+counting.URL)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			if unreachable.MatchString(stderr.String()) {
				t.Skipf("what it needs can't be reached from here: %s", unreachable.FindString(stderr.String()))
			}
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		t.Logf("%v of CPU", cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		return stdout.String(), stderr.String(), time.Since(begin)
	}
	first, _, took := build()
	t.Logf("first: %v", took)
	for range 3 {
		asked = nil
		again, events, took := build()
		t.Logf("again: %v", took)
		if again != first {
			t.Errorf("%s, and then %s", first, again)
		}
		for line := range strings.Lines(events) {
			if strings.Contains(line, `"step":"build"`) && !strings.Contains(line, `"state":"cached"`) && !strings.Contains(line, `"state":"started"`) {
				t.Errorf("a step ran again: %s", line)
			}
		}
		for _, a := range asked {
			if !strings.Contains(a, "APKINDEX") || strings.HasSuffix(a, " ") {
				t.Errorf("the mirror was asked for %s", a)
			}
		}
	}
	if fresh, _, took := build("--no-cache"); fresh != first {
		t.Errorf("%s, and without the cache %s", first, fresh)
	} else {
		t.Logf("--no-cache: %v", took)
	}
}
