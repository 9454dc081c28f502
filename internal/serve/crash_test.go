package serve_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/serve"
)

// crashRoot, in the environment, makes the test binary a registry.
const crashRoot = "ANYARCH_TEST_SERVE_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(crashRoot)
	if root == "" {
		os.Exit(m.Run())
	}
	registry, err := serve.New(serve.Options{Root: root})
	if err == nil {
		err = runChild(registry)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func runChild(registry *serve.Server) error {
	l, err := registry.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return registry.Serve(context.Background(), l)
}

// child is a registry in a process of its own.
type child struct {
	client
	cmd *exec.Cmd
}

func startChild(t *testing.T, root string) child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashRoot+"="+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it may have ended
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return child{client{t, "http://" + strings.TrimSpace(addr), &http.Client{Transport: transport, Timeout: time.Minute}}, cmd}
}

func (c child) kill() {
	c.cmd.Process.Kill() //nolint:errcheck // it may have ended
	c.cmd.Wait()         //nolint:errcheck // its exit status is that of a killed process
}

// TestCrash kills a registry in the midst of pushes, again and again. What it
// has acknowledged is there afterwards, and no tag is there without its image.
// ANYARCH_CRASH_ROUNDS sets how often.
func TestCrash(t *testing.T) {
	t.Parallel()
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("ANYARCH_CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	root := t.TempDir()
	var (
		mu    sync.Mutex
		acked = map[string]string{} // tag → digest
		gone  = map[string]bool{}   // tags whose deletion was asked for
	)
	for round := range rounds {
		c := startChild(t, root)
		enough := rand.IntN(25)
		done, kill := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for w := range 6 {
			all.Go(func() {
				for i := 0; done.Err() == nil; i++ {
					tag := fmt.Sprintf("r%d-w%d-%d", round, w, i)
					d, ok := pushUntilKilled(c.client, tag)
					if !ok {
						return
					}
					mu.Lock()
					acked[tag] = d
					if enough--; enough < 0 {
						kill()
					}
					mu.Unlock()
					if i%4 == 3 { // some tags go again
						mu.Lock()
						gone[tag] = true
						mu.Unlock()
						c.try("DELETE", "/v2/app/manifests/"+tag, nil) //nolint:errcheck // may be killed
					}
				}
			})
		}
		<-done.Done()
		c.kill()
		all.Wait()
		kill()
	}
	c := startChild(t, root)
	defer c.kill()
	tags := c.tags("app")
	for _, tag := range tags {
		if err := c.complete("app", tag); err != nil {
			t.Errorf("%s is torn: %v", tag, err)
		}
	}
	for tag, d := range acked {
		if gone[tag] {
			continue
		}
		if !slices.Contains(tags, tag) {
			t.Errorf("%s was acknowledged and is lost", tag)
			continue
		}
		if a := c.want(200, "HEAD", "/v2/app/manifests/"+tag, nil); a.header.Get("Docker-Content-Digest") != d {
			t.Errorf("%s is another image", tag)
		}
	}
	t.Logf("%d kills, %d pushes acknowledged, %d tags", rounds, len(acked), len(tags))
}

// pushUntilKilled pushes an image, in chunks, and reports whether the registry
// acknowledged its tag.
func pushUntilKilled(c client, tag string) (string, bool) {
	layer := []byte(strings.Repeat("layer "+tag, 2000))
	for _, blob := range [][]byte{[]byte("{}"), layer} {
		a, err := c.try("POST", "/v2/app/blobs/uploads/", nil)
		if err != nil || a.status != 202 {
			return "", false
		}
		at := a.header.Get("Location")
		if a, err = c.try("PATCH", at, blob[:1]); err != nil || a.status != 202 {
			return "", false
		}
		if a, err = c.try("PUT", at+"?digest="+digest.FromBytes(blob).String(), blob[1:]); err != nil || a.status != 201 {
			return "", false
		}
	}
	m := encode(c, manifest(descriptor(string(layer))))
	a, err := c.try("PUT", "/v2/app/manifests/"+tag, m)
	return digest.FromBytes(m).String(), err == nil && a.status == 201
}
