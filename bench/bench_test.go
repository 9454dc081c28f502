package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string // of the error; empty for none
		see  func(config) bool
	}{
		"defaults":         {nil, "", func(c config) bool { return c.rounds == 5 && c.cold == 1 && len(c.modules) == 5 }},
		"quick":            {[]string{"-quick"}, "", func(c config) bool { return c.rounds == 1 && c.cold == 0 && slices.Equal(c.modules, []string{"small"}) }},
		"quick, but":       {[]string{"-quick", "-rounds", "2", "-modules", "many"}, "", func(c config) bool { return c.rounds == 2 && c.cold == 0 && c.modules[0] == "many" }},
		"floor is implied": {[]string{"-tools", "ko"}, "", func(c config) bool { return slices.Equal(c.tools, []string{"floor", "ko"}) }},
		"unknown module":   {[]string{"-modules", "tiny"}, "-modules tiny: known are small, medium, huge, many, large", nil},
		"unknown tool":     {[]string{"-tools", "make"}, "-tools make: known are", nil},
		"unknown registry": {[]string{"-registry", "none"}, "-registry none: known are", nil},
		"no rounds":        {[]string{"-rounds", "0"}, "at least 1", nil},
		"an argument":      {[]string{"small"}, "there are only flags", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(c.args, io.Discard)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("got %v, want %q", err, c.want)
			case c.want == "" && !c.see(got):
				t.Fatalf("got %+v", got)
			}
		})
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for want, values := range map[float64][]float64{0: nil, 1: {1}, 2: {9, 1, 2}, 2.5: {4, 1, 3, 2}} {
		if got := median(values); got != want {
			t.Errorf("median of %v: %v", values, got)
		}
	}
}

// A ratio of medians would be 1 here: noise that hits a whole round must
// cancel out within it.
func TestRatiosAreWithinARound(t *testing.T) {
	t.Parallel()
	var samples []sample
	for round, floor := range []float64{1, 10, 100} {
		samples = append(samples,
			sample{Module: "many", Scenario: "nothing", Tool: "anyarch", Round: round, Wall: 2 * floor, CPU: 3 * floor, Memory: 5 + int64(round), Uploaded: int64(round)},
			sample{Module: "many", Scenario: "nothing", Tool: "floor", Round: round, Wall: floor, CPU: floor})
	}
	rows := rowsOf(samples)
	if len(rows) != 2 || rows[0].Tool != "floor" || rows[1].Tool != "anyarch" {
		t.Fatalf("rows: %+v", rows)
	}
	r := rows[1]
	if r.XWall != 2 || r.XCPU != 3 || r.Wall != 20 || r.Memory != 7 || r.Uploaded != 1 || r.most != 2 || r.Rounds != 3 {
		t.Errorf("row: %+v", r)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	of := func(module, scenario string, change func(*row)) row {
		r := row{Module: module, Scenario: scenario, Tool: "anyarch", XWall: 1, Memory: 50e6}
		if change != nil {
			change(&r)
		}
		return r
	}
	for name, c := range map[string]struct {
		row  row
		want []string
	}{
		"cold":              {of("small", "cold", func(r *row) { r.XWall = 1.03 }), []string{"cold: ≤ 1.03 × floor true", "memory: ≤ 64 MB true"}},
		"cold, slow":        {of("small", "cold", func(r *row) { r.XWall = 1.04 }), []string{"cold: ≤ 1.03 × floor false", "memory: ≤ 64 MB true"}},
		"one-line":          {of("small", "one-line", func(r *row) { r.XWall = 1.10 }), []string{"one-line: ≤ 1.10 × floor true", "memory: ≤ 64 MB true"}},
		"one-line, slow":    {of("small", "one-line", func(r *row) { r.XWall = 1.11 }), []string{"one-line: ≤ 1.10 × floor false", "memory: ≤ 64 MB true"}},
		"one-line, six":     {of("small", "one-line", func(r *row) { r.XWall, r.Platforms = 1.15, 6 }), []string{"one-line: ≤ 1.15 × floor true", "memory: ≤ 64 MB true"}},
		"one-line of many":  {of("many", "one-line", func(r *row) { r.XWall = 1.25 }), []string{"one-line: ≤ 1.25 × floor true", "memory: ≤ 64 MB true"}},
		"nothing":           {of("small", "nothing", func(r *row) { r.Wall = 0.05 }), []string{"nothing: ≤ 0.06 s true", "nothing: 0 bytes uploaded true", "memory: ≤ 64 MB true"}},
		"nothing of many":   {of("many", "nothing", func(r *row) { r.Wall = 0.31 }), []string{"nothing: ≤ 0.30 s false", "nothing: 0 bytes uploaded true", "memory: ≤ 64 MB true"}},
		"uploaded once":     {of("large", "nothing", func(r *row) { r.most = 1 }), []string{"nothing: ≤ 0.06 s true", "nothing: 0 bytes uploaded false", "memory: ≤ 64 MB true"}},
		"large is for size": {of("large", "one-line", func(r *row) { r.XWall, r.Memory = 9, 65e6 }), []string{"memory: ≤ 64 MB false"}},
		"memory is unknown": {of("large", "one-line", func(r *row) { r.Memory = 0 }), nil},
		"peers have none":   {row{Module: "small", Scenario: "nothing", Tool: "ko"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, goal := range targetsOf([]row{c.row}) {
				met := " false"
				if goal.Met {
					met = " true"
				}
				got = append(got, goal.Goal+met)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	beside := targetsOf([]row{of("many", "nothing", func(r *row) { r.Wall = 0.2 }), {Module: "many", Scenario: "nothing", Tool: "ko-cache", Wall: 4}})
	if !slices.ContainsFunc(beside, func(goal target) bool {
		return goal.Goal == "nothing: ≥ 20 × as fast as ko with KOCACHE" && goal.Met
	}) {
		t.Errorf("beside ko: %+v", beside)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := newReport([]sample{
		{Module: "small", Scenario: "one-line", Tool: "ko", Wall: 1.5, CPU: 3, Memory: 80e6, Uploaded: 5 << 20, Requests: 61, Others: 0.1},
		{Module: "small", Scenario: "one-line", Tool: "floor", Wall: 1, CPU: 2, Memory: 30e6, Others: -1},
		{Module: "small", Scenario: "one-line", Tool: "anyarch", Wall: 1.1, CPU: 2.2, Memory: 21e6, Uploaded: 4 << 20, Requests: 27, Others: 0},
	}, about{OS: "linux", Arch: "amd64", CPUs: 2, Rounds: 1, Registry: "own", Tools: map[string]string{"floor": "go1"}, Skipped: []string{"buildah is left out: it isn't on PATH"}})
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"", "linux/amd64, 2 CPUs, 1 warm and 0 cold rounds, registry own", "floor: go1", "buildah is left out: it isn't on PATH", "",
		"module scenario tool wall × floor CPU × floor memory uploaded requests others",
		"small one-line floor 1.00 s 1.00 2.00 s 1.00 30 MB",
		"anyarch 1.10 s 1.10 2.20 s 1.10 21 MB 4.0 MiB 27 0.00",
		"ko 1.50 s 1.50 3.00 s 1.50 80 MB 5.0 MiB 61 0.10", "",
		"target module reached", "one-line: ≤ 1.10 × floor small 1.10 × met", "memory: ≤ 64 MB small 21 MB met",
		"bytes of anyarch: ≤ 0.93 × ko small 0.800 × (4.0 MiB) met",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s", out.String())
	}
	file := filepath.Join(t.TempDir(), "figures.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(data, &back); err != nil || len(back.Samples) != 3 || len(back.Rows) != 3 || len(back.Targets) != 3 {
		t.Errorf("%v: %s", err, data)
	}
}

func TestCounting(t *testing.T) {
	t.Parallel()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Location", "http://"+r.Host+"/there")
		w.WriteHeader(http.StatusCreated)
	}))
	defer backend.Close()
	to, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	var c counts
	front := httptest.NewServer(counting(&c, to))
	defer front.Close()
	for _, send := range []struct{ method, path, body string }{
		{http.MethodHead, "/v2/a/blobs/sha256:0", ""}, {http.MethodPost, "/v2/a/blobs/uploads/", ""},
		{http.MethodPut, "/v2/a/blobs/uploads/1", "12345"}, {http.MethodPut, "/v2/a/manifests/latest", "123"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), send.method, front.URL+send.path, strings.NewReader(send.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != front.URL+"/there" {
			t.Errorf("the registry's link leads to %s, around the proxy", got)
		}
	}
	if blobs, all, requests := c.get(); blobs != 5 || all != 8 || requests != 4 {
		t.Errorf("counted %d of blobs, %d of all, %d requests", blobs, all, requests)
	}
	c.reset()
	if blobs, all, requests := c.get(); blobs+all+requests != 0 {
		t.Error("something is left after reset")
	}
}

func TestCopyModule(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for _, name := range []string{"go.mod", "main.go", "sub/a.txt", "nested/go.mod", "nested/b.go", ".git/config", "anyarch-out/index.json"} {
		file := filepath.Join(src, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyModule(src, dst); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(dst, func(file string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dst, file)
			got = append(got, filepath.ToSlash(rel))
		}
		return err
	})
	if want := []string{"go.mod", "main.go", "sub/a.txt"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := copyModule(filepath.Join(src, "sub"), dst); err == nil {
		t.Error("a directory without go.mod was copied")
	}
}

// What generate writes has to compile: change is added to any main package.
func TestGeneratedModulesBuild(t *testing.T) {
	t.Parallel()
	b := newTestBench(t)
	b.mains, b.embed = 2, 1
	for _, name := range []string{"small", "many", "large"} {
		m, err := b.generate(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		// Type-checking alone: no platform's standard library is compiled here.
		args := append([]string{b.goPath, "list", "-e", "-deps", "-f", "{{with .Error}}{{.}}{{end}}"}, m.mains...)
		out, err := output(t.Context(), m.dir, b.env(filepath.Join(b.dir, "state")), args...)
		if err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

func TestChangeLooksSettled(t *testing.T) {
	t.Parallel()
	m := &module{name: "small", dir: t.TempDir(), mains: []string{"."}}
	read := func() string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(m.dir, "bench_line.go"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := m.change("one"); err != nil {
		t.Fatal(err)
	}
	one := read()
	if err := m.change("two"); err != nil {
		t.Fatal(err)
	}
	if two := read(); one == two || !strings.Contains(two, `println("two")`) {
		t.Errorf("got %s", two)
	}
	info, err := os.Stat(filepath.Join(m.dir, "bench_line.go"))
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(info.ModTime()) < 2*time.Second {
		t.Errorf("saved at %s, which the go command doesn't trust", info.ModTime())
	}
}

func newTestBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), log: io.Discard}
	if err := b.findGo(t.Context()); err != nil {
		t.Skip("no go command to ask: ", err)
	}
	return b
}

func TestPushBase(t *testing.T) {
	t.Parallel()
	var paths []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		paths = append(paths, r.Method+" "+strings.Split(r.URL.Path, "sha256:")[0])
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", "/v2/base/blobs/uploads/1?state=x")
			w.WriteHeader(http.StatusAccepted)
		case strings.Contains(r.URL.Path, "/blobs/") && (r.URL.Query().Get("digest") != digestOf(data) || r.URL.Query().Get("state") != "x"):
			t.Errorf("%s with %d bytes", r.URL, len(data))
		default:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer server.Close()
	r := &registry{addr: strings.TrimPrefix(server.URL, "http://")}
	ref, err := r.pushBase(t.Context(), []string{"linux/amd64", "linux/arm/v7", "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(ref, r.addr+"/base@sha256:") {
		t.Errorf("got %s", ref)
	}
	blob := []string{"POST /v2/base/blobs/uploads/", "PUT /v2/base/blobs/uploads/1"}
	manifest := []string{"PUT /v2/base/manifests/"}
	if want := slices.Concat(blob, blob, manifest, blob, manifest, manifest); !slices.Equal(paths, want) {
		t.Errorf("got %q", paths)
	}
}

func TestGoEnv(t *testing.T) {
	t.Parallel()
	for platform, want := range map[string]string{
		"linux/s390x":    "GOOS=linux GOARCH=s390x",
		"linux/arm/v7":   "GOOS=linux GOARCH=arm GOARM=7",
		"linux/amd64/v3": "GOOS=linux GOARCH=amd64 GOAMD64=v3",
		"linux/arm64/v8": "GOOS=linux GOARCH=arm64 GOARM64=v8.0",
	} {
		if got := strings.Join(goEnv(platform), " "); got != want {
			t.Errorf("%s: %s", platform, got)
		}
	}
}

func TestProc(t *testing.T) {
	t.Parallel()
	if got := statusBytes("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n", "VmHWM:"); got != 2<<20 {
		t.Errorf("VmHWM: %d", got)
	}
	if got := statusBytes("VmHWM:\tmany kB\n", "VmHWM:"); got != 0 {
		t.Errorf("VmHWM of nonsense: %d", got)
	}
	// user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
	if got := busyIn("cpu  1 2 4 1000 1000 8 16 1000 1000 1000"); got != 31*tick {
		t.Errorf("busy: %s", got)
	}
}

func FuzzHighWater(f *testing.F) {
	f.Add("VmHWM:\t   2048 kB\n")
	f.Fuzz(func(t *testing.T, status string) { statusBytes(status, "VmHWM:") })
}

func TestMeterTakesCommandsAtOnce(t *testing.T) {
	t.Parallel()
	b := newTestBench(t)
	var w meter
	errs := make(chan error, 4)
	for range 4 {
		go func() {
			errs <- w.run(t.Context(), b.dir, b.env(filepath.Join(b.dir, "state")), b.goPath, "version")
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	err := w.run(t.Context(), b.dir, b.base, b.goPath, "no-such-command")
	if err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("a command that fails: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if err := w.run(ctx, b.dir, b.base, b.goPath, "version"); !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled command: %v", err)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	if got := rotate([]string{"a", "b", "c"}, 4); !slices.Equal(got, []string{"b", "c", "a"}) {
		t.Errorf("got %q", got)
	}
	if got := rotate([]string{}, 1); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
