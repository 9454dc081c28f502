package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
)

func open(t *testing.T, dir string) *Cache {
	t.Helper()
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// age makes a file one that was used long ago.
func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func blob(t *testing.T, c *Cache, content string, by time.Duration) digest.Digest {
	t.Helper()
	d, err := c.Blobs().Write([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Blobs().Wait(); err != nil {
		t.Fatal(err)
	}
	path, err := c.Blobs().Path(d)
	if err != nil {
		t.Fatal(err)
	}
	age(t, path, by)
	return d
}

func there(c *Cache, d digest.Digest) bool {
	path, _ := c.Blobs().Path(d)
	_, err := os.Stat(path) // without using it
	return err == nil
}

func TestPruneByUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	maker := open(t, dir)
	old := blob(t, maker, strings.Repeat("a", 1000), 3*time.Hour)
	middle := blob(t, maker, strings.Repeat("b", 1000), 2*time.Hour)
	young := blob(t, maker, strings.Repeat("c", 1000), time.Hour)
	maker.Memo().Put("key", []byte("value"))
	if err := maker.Close(); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	if done, err := c.Prune(t.Context(), Bounds{Limit: 2500, DryRun: true}); err != nil || done.Freed != 1000 || !there(c, old) {
		t.Errorf("a dry run: %+v %v", done, err)
	}
	done, err := c.Prune(t.Context(), Bounds{Limit: 2500})
	if err != nil || done.Freed != 1000 || done.Items != 1 || done.Left > 2500 {
		t.Errorf("%+v %v", done, err)
	}
	if there(c, old) || !there(c, middle) || !there(c, young) {
		t.Error("another one than the longest unused went")
	}
	if done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(-90 * time.Minute)}); err != nil || done.Items != 1 || there(c, middle) || !there(c, young) {
		t.Errorf("by age: %+v %v", done, err)
	}
	if _, ok := c.Memo().Get("key"); !ok {
		t.Error("a young result went")
	}
	if done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)}); err != nil || done.Left != 0 {
		t.Errorf("everything: %+v %v", done, err)
	}
}

// What a run has found stays for it, however old it is; what it hasn't looked for
// doesn't.
func TestLease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, dir)
	used, unused := blob(t, c, "used", time.Hour), blob(t, c, "unused", time.Hour)
	builder := open(t, dir)
	if !builder.Blobs().Has(used) {
		t.Fatal("it isn't there")
	}
	done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)})
	if err != nil || done.Leases != 1 {
		t.Errorf("%+v %v", done, err)
	}
	if !there(c, used) || there(c, unused) {
		t.Errorf("used: %v, unused: %v", there(c, used), there(c, unused))
	}
	if err := builder.Close(); err != nil {
		t.Fatal(err)
	}
	if done, err = c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)}); err != nil || done.Leases != 0 || there(c, used) {
		t.Errorf("after the lease: %+v %v", done, err)
	}
}

// A lease whose holder was killed counts no more.
func TestDeadLease(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	d := blob(t, c, "old", time.Hour)
	dead := c.path(leasesDir, "run-dead")
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(t, dead, 2*time.Hour)
	done, err := c.Prune(t.Context(), Bounds{Before: time.Now()})
	if err != nil || done.Leases != 0 || there(c, d) {
		t.Errorf("%+v %v", done, err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
}

// Directories with a lock go as a whole, unless somebody has the lock.
func TestLocked(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	for _, dir := range []string{filepath.Join(c.Programs(), "key", "linux-amd64"), filepath.Join(c.Work(), "stage", "builder-any")} {
		for _, name := range []string{dir, filepath.Join(dir+".cache", "mod")} {
			if err := os.MkdirAll(name, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{filepath.Join(dir, "program"), filepath.Join(dir+".cache", "mod", "file"), dir + ".state", dir + ".lock"} {
			if err := os.WriteFile(name, []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(dir+".cache", "mod"), 0o500); err != nil { // as the module cache has them
			t.Fatal(err)
		}
		lock := flock.New(dir + ".lock")
		if held, err := lock.TryLock(); err != nil || !held {
			t.Fatal(held, err)
		}
		if done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)}); err != nil || done.InUse != 21 {
			t.Errorf("in use: %+v %v", done, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "program")); err != nil {
			t.Error("a directory that is in use has gone")
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		if done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)}); err != nil || done.Freed != 21 {
			t.Errorf("%+v %v", done, err)
		}
		if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something of %s is left", dir)
		}
	}
	if left, err := os.ReadDir(c.path(trashDir)); err != nil || len(left) > 0 {
		t.Errorf("in the trash: %v %v", left, err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	good, bad := blob(t, c, "good", 0), blob(t, c, "bad", 0)
	c.Memo().Put("good", []byte("value"))
	files := map[string]string{
		"layers/sha256-" + digest.FromString("layer").Encoded() + ".tar":                           "layer",
		"layers/sha256-" + digest.FromString("other").Encoded() + ".tar":                           "damaged",
		"packages/index/" + digest.FromString("url").Encoded():                                     "index",
		"packages/index/" + digest.FromString("url").Encoded() + ".json":                           `{"SHA256":"` + digest.FromString("index").Encoded() + `"}`,
		"packages/packages/apt/packages/" + digest.FromString("package").Encoded():                 "damaged",
		"packages/packages/apk/x86_64/0123456789012345678901234567890123456789.apk":                "checked by apk",
		filepath.ToSlash(mustRel(t, c, func() string { p, _ := c.Blobs().Path(bad); return p }())): "bat",
		"memo/00/11111111111111111111111111111111111111111111111111111111111111":                   strings.Repeat("x", 64),
		"go/key/linux-amd64/program":                                                               "no program",
		"go/key/linux-amd64.lock":                                                                  "",
		"memo/00/new-left-by-a-dead-one":                                                           "half",
	}
	for name, text := range files {
		path := c.path(filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	done, err := c.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Damaged) != 4 || !slices.ContainsFunc(done.Damaged, func(s string) bool { return strings.Contains(s, bad.Encoded()) }) {
		t.Errorf("damaged: %q", done.Damaged)
	}
	if there(c, bad) || !there(c, good) {
		t.Error("the wrong blob went")
	}
	if _, ok := c.Memo().Get("good"); !ok {
		t.Error("a good result went")
	}
	if again, err := c.Verify(t.Context()); err != nil || len(again.Damaged) > 0 || again.Unknown != done.Unknown {
		t.Errorf("again: %+v %v", again, err)
	}
}

func mustRel(t *testing.T, c *Cache, path string) string {
	t.Helper()
	rel, err := filepath.Rel(c.Dir(), path)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "10GiB": 10 << 30, "1.5 gb": 1.5e9, "500MB": 5e8, "7": 7, "2k": 2048, "x": -1, "": -1, "-1": -1, "10 apples": -1, "1e30": -1, "9999999TiB": -1} {
		got, err := ParseSize(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
}

// A run that wrote is followed by a trimming if the cache has outgrown its bound, even a
// moment after the last one; a run that wrote nothing isn't.
func TestTrim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, dir)
	d := blob(t, c, strings.Repeat("x", 100), time.Hour)
	reader := open(t, dir)
	if err := reader.Trim(t.Context(), 10); err != nil || !there(c, d) {
		t.Errorf("a run that wrote nothing trimmed: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Trim(t.Context(), 10); err != nil || there(c, d) {
		t.Errorf("it isn't trimmed: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// Runs one after the other, all within a moment: after none of them there is more
	// than the bound, in blobs and in directories.
	const limit = 5000
	for run := range 20 {
		c, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if run%2 == 0 {
			if _, err := c.Blobs().Write(fmt.Appendf(nil, "%d %s", run, strings.Repeat("x", 700))); err != nil {
				t.Fatal(err)
			}
		} else {
			c.written.Store(true)
			place := filepath.Join(c.Work(), fmt.Sprint("stage", run%3), "builder")
			if err := os.MkdirAll(place, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, size := range map[string]int{filepath.Join(place, fmt.Sprint("file", run)): 900, place + ".state": 10, place + ".lock": 0} {
				if err := os.WriteFile(name, make([]byte, size), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := c.Trim(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		var total int64
		for _, it := range c.items() {
			total += it.size
		}
		if total > limit || total == 0 {
			t.Errorf("after run %d there are %d bytes", run, total)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// What says how much there is may be damaged.
	c = open(t, dir)
	if err := os.WriteFile(c.path(usageFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	blob(t, c, strings.Repeat("y", 2*limit), time.Hour)
	if err := c.Trim(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	if done, err := c.Prune(t.Context(), Bounds{Limit: limit, DryRun: true}); err != nil || done.Left > limit || done.Items > 0 {
		t.Errorf("%+v %v", done, err)
	}
}

// Builders in other processes use blobs, layers and results that are very old while
// pruners remove everything they can: what a builder has found may not vanish.
func TestBuildersAgainstPruners(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	const builders, pruners, rounds = 3, 2, "40"
	var children []*exec.Cmd
	var outs []*bytes.Buffer
	for i := range builders + pruners {
		role := "builder"
		if i >= builders {
			role = "pruner"
		}
		child := exec.Command(os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), "CACHE_TEST_ROLE="+role, "CACHE_TEST_DIR="+dir, "CACHE_TEST_ROUNDS="+rounds)
		out := new(bytes.Buffer)
		child.Stdout, child.Stderr = out, out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		children, outs = append(children, child), append(outs, out)
	}
	for i, child := range children[:builders] {
		if err := child.Wait(); err != nil {
			t.Errorf("%v\n%s", err, outs[i])
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	removed := 0
	for i, child := range children[builders:] {
		if err := child.Wait(); err != nil {
			t.Errorf("%v\n%s", err, outs[builders+i])
		}
		var n int
		if i := strings.Index(outs[builders+i].String(), "removed "); i >= 0 {
			_, _ = fmt.Sscanf(outs[builders+i].String()[i:], "removed %d", &n)
		}
		removed += n
	}
	if removed == 0 {
		t.Error("nothing was ever pruned: the test shows nothing")
	}
	t.Logf("%d items were pruned meanwhile", removed)
}

// TestChild is the other processes of TestBuildersAgainstPruners.
func TestChild(t *testing.T) {
	dir, role := os.Getenv("CACHE_TEST_DIR"), os.Getenv("CACHE_TEST_ROLE")
	var rounds int
	_, _ = fmt.Sscan(os.Getenv("CACHE_TEST_ROUNDS"), &rounds)
	switch role {
	case "":
		t.Skip("only as a child of TestBuildersAgainstPruners")
	case "pruner":
		removed := 0
		for {
			if _, err := os.Stat(filepath.Join(dir, "stop")); err == nil {
				break
			}
			c := open(t, dir)
			done, err := c.Prune(t.Context(), Bounds{Before: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if removed += done.Items; removed > 0 {
				if err := os.WriteFile(filepath.Join(dir, "pruned"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.Close()
		}
		fmt.Printf("removed %d\n", removed)
		return
	}
	pruned := func() bool {
		_, err := os.Stat(filepath.Join(dir, "pruned"))
		return err == nil
	}
	for round := 0; round < rounds || !pruned(); round++ { // until pruners have had their part
		c := open(t, dir)
		var mine []digest.Digest
		for i := range 40 {
			content := fmt.Sprintf("%d %d %d", os.Getpid(), round, i)
			plant(t, c, content)
			mine = append(mine, digest.FromString(content))
		}
		found := 0
		for i, d := range mine {
			if c.Blobs().Has(d) { // as every build decides whether to make it again
				found++
			} else if _, err := c.Blobs().Write(fmt.Appendf(nil, "%d %d %d", os.Getpid(), round, i)); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range mine {
			if _, err := c.Blobs().ReadBlob(d); err != nil {
				t.Fatalf("one of %d that were found has vanished: %v", found, err)
			}
		}
		_ = c.Close()
	}
}

// plant puts a blob there that was unused for an hour.
func plant(t *testing.T, c *Cache, content string) {
	t.Helper()
	path, err := c.Blobs().Path(digest.FromString(content))
	if err != nil {
		t.Fatal(err)
	}
	temp := c.path(fmt.Sprintf("plant-%d", os.Getpid()))
	if err := os.WriteFile(temp, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	age(t, temp, time.Hour)
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}
