package native_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native"
	"github.com/anyarch/anyarch/internal/native/apk/apktest"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// rebuilt is a world whose builds take over what earlier ones left behind.
type rebuilt struct {
	*world
	memo    *store.Memo
	checked bool // against a build that takes over nothing
}

func newRebuilt(t *testing.T) *rebuilt {
	t.Helper()
	r := &rebuilt{world: newWorld(t), memo: store.NewMemo(t.TempDir()), checked: true}
	packages := t.TempDir()
	r.options = func(o *native.Options) {
		o.Memo, o.Version, o.PackageDir, o.Client = r.memo, "test", packages, http.DefaultClient
	}
	return r
}

func (r *rebuilt) put(name, text string) {
	r.t.Helper()
	if err := r.context.MkdirAll(filepath.ToSlash(filepath.Dir(name)), filetree.Attr{Mode: 0o755}); err != nil {
		r.t.Fatal(err)
	}
	if err := r.context.WriteFile(name, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644}); err != nil {
		r.t.Fatal(err)
	}
}

// ran builds and gives the RUN instructions that were executed, and the layers. A build
// that takes over nothing has to make the same layers.
func (r *rebuilt) ran(text string, platforms ...platform.Platform) (ran []string, layers string) {
	r.t.Helper()
	build := func() ([]string, string) {
		r.events.Reset()
		b, graphs := r.build(text, platforms...)
		var layers []string
		for _, g := range graphs {
			result, err := b.Run(r.t.Context(), g)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, l := range result.Layers[result.Base:] {
				layers = append(layers, l.Descriptor.Digest.String())
			}
		}
		if err := b.Close(); err != nil {
			r.t.Fatal(err)
		}
		var ran []string
		for line := range strings.Lines(r.events.String()) {
			if _, name, ok := strings.Cut(line, "Message:["); ok && strings.Contains(line, "State:done") && strings.Contains(line, "Step:build") && strings.Contains(name, "] RUN ") {
				name, _, _ = strings.Cut(name, " Current:")
				ran = append(ran, name[strings.Index(name, "RUN "):])
			}
		}
		slices.Sort(ran)
		return ran, strings.Join(layers, " ")
	}
	ran, layers = build()
	if !r.checked {
		return ran, layers
	}
	with := r.options
	r.options = func(o *native.Options) { with(o); o.NoCache = true; o.Memo = store.NewMemo(r.t.TempDir()) }
	_, fresh := build()
	r.options = with
	if layers != fresh {
		r.t.Errorf("taken over from earlier builds the layers are %s, without %s", layers, fresh)
	}
	return ran, layers
}

// files is a server of one file, which counts what it is asked for.
type files struct {
	*httptest.Server
	mu sync.Mutex
	served
	requests, bodies int
}

type served struct {
	body, tag, date string
	name            string // where it is redirected to, if not empty
}

func newFiles(t *testing.T) *files {
	f := &files{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.name != "" && r.URL.Path != f.name {
			http.Redirect(w, r, f.name, http.StatusFound)
			return
		}
		f.requests++
		if f.tag != "" {
			w.Header().Set("ETag", f.tag)
		}
		if f.date != "" {
			w.Header().Set("Last-Modified", f.date)
		}
		if is := r.Header.Get("If-None-Match"); is != "" && is == f.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		} else if since := r.Header.Get("If-Modified-Since"); is == "" && since != "" && since == f.date {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		f.bodies++
		_, _ = io.WriteString(w, f.body)
	}))
	t.Cleanup(f.Close)
	return f
}

// counts are the requests and bodies since the last time.
func (f *files) counts() [2]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := [2]int{f.requests, f.bodies}
	f.requests, f.bodies = 0, 0
	return n
}

// ADD of a URL asks the server whether the file has changed, and gets it only then; it
// doesn't ask if the Dockerfile says which bytes it is.
func TestDownloads(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	sum := digest.FromString("one").String()
	tests := []struct {
		name  string
		flags string
		first served
		edit  func(f *files)
		want  [2]int // requests and bodies of the second build
		ran   int
	}{
		{name: "the same tag", first: served{body: "one", tag: `"1"`}, want: [2]int{1, 0}},
		{name: "the same time", first: served{body: "one", date: old}, want: [2]int{1, 0}},
		{name: "another tag", first: served{body: "one", tag: `"1"`}, edit: func(f *files) { f.body, f.tag = "two", `"2"` }, want: [2]int{1, 1}, ran: 1},
		{name: "another tag of the same bytes", first: served{body: "one", tag: `"1"`}, edit: func(f *files) { f.tag = `"2"` }, want: [2]int{1, 1}},
		{name: "another time", first: served{body: "one", date: old}, edit: func(f *files) { f.body, f.date = "two", time.Now().UTC().Format(http.TimeFormat) }, want: [2]int{1, 1}, ran: 1},
		{name: "a tag that doesn't speak of bytes", first: served{body: "one", tag: `W/"1"`}, edit: func(f *files) { f.body = "two" }, want: [2]int{1, 1}, ran: 1},
		{name: "a time that is too young", first: served{body: "one", date: time.Now().UTC().Format(http.TimeFormat)}, edit: func(f *files) { f.body = "two" }, want: [2]int{1, 1}, ran: 1},
		{name: "neither", first: served{body: "one"}, edit: func(f *files) { f.body = "two" }, want: [2]int{1, 1}, ran: 1},
		{name: "the tag counts more than the time", first: served{body: "one", tag: `"1"`, date: old}, edit: func(f *files) { f.body, f.tag = "two", `"2"` }, want: [2]int{1, 1}, ran: 1},
		{name: "a checksum", flags: "--checksum=" + sum, first: served{body: "one", tag: `"1"`}, edit: func(f *files) { f.body = "two" }, want: [2]int{0, 0}},
		{name: "a checksum, and a change in the Dockerfile", flags: "--checksum=" + sum, first: served{body: "one"}, edit: func(f *files) { f.tag = "changes the Dockerfile" }, want: [2]int{0, 0}, ran: 1},
		{name: "an empty file", first: served{tag: `"1"`}, want: [2]int{1, 0}},
		{name: "a redirection", first: served{body: "one", tag: `"1"`, name: "/real.txt"}, want: [2]int{1, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, f := newRebuilt(t), newFiles(t)
			f.served = tt.first
			r.checked = false // a build without memory counts too
			text := "FROM alpine:3.22\nADD " + tt.flags + " " + f.URL + "/file.txt /d/\nRUN cat /d/* > /copy\n"
			r.ran(text, amd64)
			if n := f.counts(); n != [2]int{1, 1} {
				t.Errorf("the first build asked %v", n)
			}
			if tt.edit != nil {
				tt.edit(f)
			}
			if strings.HasPrefix(f.tag, "changes") {
				text = strings.Replace(text, "/copy", "/copied", 1)
			}
			ran, layers := r.ran(text, amd64)
			if n := f.counts(); n != tt.want {
				t.Errorf("the second build asked %v, want %v", n, tt.want)
			}
			if len(ran) != tt.ran {
				t.Errorf("executed %q", ran)
			}
			if tt.flags == "" {
				fresh := newRebuilt(t)
				fresh.checked = false
				if _, want := fresh.ran(text, amd64); want != layers {
					t.Errorf("the layers are %s, without memory %s", layers, want)
				}
			}
		})
	}
}

// What was downloaded and is damaged since is downloaded again.
func TestDamagedDownload(t *testing.T) {
	t.Parallel()
	r, f := newRebuilt(t), newFiles(t)
	r.checked = false
	f.body, f.tag = "one", `"1"`
	text := "FROM alpine:3.22\nADD " + f.URL + "/file.txt /d/\nRUN cat /d/* > /copy\n"
	_, want := r.ran(text, amd64)
	f.counts()
	name, err := r.store.Path(digest.FromString("one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("eno"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, layers := r.ran(strings.Replace(text, "cat ", "cat  ", 1), amd64); layers != want {
		t.Errorf("%s became %s", want, layers)
	}
	if n := f.counts(); n != [2]int{1, 1} {
		t.Errorf("asked %v", n)
	}
}

// --no-cache takes over nothing, of the server neither; --no-cache-filter nothing of a
// stage, and of what comes after it what is made of the same.
func TestNoCache(t *testing.T) {
	t.Parallel()
	r, f := newRebuilt(t), newFiles(t)
	f.body, f.tag = "one", `"1"`
	text := "FROM alpine:3.22 AS one\nADD " + f.URL + "/f /f\nRUN cat /f > /a\nFROM alpine:3.22 AS two\nRUN echo b > /b\nFROM alpine:3.22\nCOPY --from=one /a /a\nCOPY --from=two /b /b\nRUN cat /a /b > /c\n"
	r.checked = false
	_, layers := r.ran(text, amd64)
	f.counts()
	if ran, same := r.ran(text, amd64); len(ran) > 0 || same != layers {
		t.Errorf("executed %q", ran)
	}
	f.counts()
	usual := r.options
	r.options = func(o *native.Options) { usual(o); o.NoCache = true }
	if ran, same := r.ran(text, amd64); len(ran) != 3 || same != layers {
		t.Errorf("with --no-cache only %q was executed", ran)
	}
	if n := f.counts(); n != [2]int{1, 1} {
		t.Errorf("with --no-cache the server was asked %v", n)
	}
	r.options = usual
	for filter, want := range map[string][]string{
		"one":     {"RUN cat /f > /a"},
		"TWO":     {"RUN echo b > /b"},
		"one,two": {"RUN cat /f > /a", "RUN echo b > /b"},
		"other":   nil,
	} {
		r.ignoreCache = strings.Split(filter, ",")
		if ran, same := r.ran(text, amd64); !slices.Equal(ran, want) || same != layers {
			t.Errorf("--no-cache-filter %s executes %q, want %q", filter, ran, want)
		}
	}
}

// What changes without changing what an instruction sees doesn't have it executed again.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	stages := `FROM alpine:3.22 AS tools
RUN mkdir /out && echo %s > /out/one && echo %s > /out/two
RUN echo more > /out/three
FROM alpine:3.22
COPY --from=tools /out/one /x/
RUN cat /x/one > /copied
RUN echo last > /last
`
	tests := []struct {
		name          string
		before, after string
		edit          func(r *rebuilt)
		want          []string // what is executed after the edit
	}{
		{name: "nothing", before: fmt.Sprintf(stages, "a", "b"), after: fmt.Sprintf(stages, "a", "b")},
		{name: "another file of the stage", before: fmt.Sprintf(stages, "a", "b"), after: fmt.Sprintf(stages, "a", "c"),
			want: []string{"RUN echo more > /out/three", "RUN mkdir /out && echo a > /out/one && echo c > /out/two"}},
		{name: "the copied file", before: fmt.Sprintf(stages, "a", "b"), after: fmt.Sprintf(stages, "z", "b"),
			want: []string{"RUN cat /x/one > /copied", "RUN echo last > /last", "RUN echo more > /out/three", "RUN mkdir /out && echo z > /out/one && echo b > /out/two"}},
		{name: "a stage that ends alike", before: "FROM alpine:3.22\nRUN echo a > /a\nRUN echo b > /b\n", after: "FROM alpine:3.22\nRUN echo a > /c && mv /c /a\nRUN echo b > /b\n",
			want: []string{"RUN echo a > /c && mv /c /a"}},
		{name: "a file that no COPY before has", before: "FROM alpine:3.22\nCOPY go.mod /src/\nRUN cat /src/go.mod > /a\nCOPY . /src\nRUN cat /src/main.go > /b\n",
			edit: func(r *rebuilt) { r.put("/main.go", "package other\n") }, want: []string{"RUN cat /src/main.go > /b"}},
		{name: "a mode", before: "FROM alpine:3.22\nCOPY . /src\nRUN cat /src/main.go > /b\n",
			edit: func(r *rebuilt) {
				if err := r.context.Update("/main.go", false, func(a *filetree.Attr) { a.Mode = 0o755 }); err != nil {
					r.t.Fatal(err)
				}
			}, want: []string{"RUN cat /src/main.go > /b"}},
		{name: "a file that isn't mounted", before: "FROM alpine:3.22 AS t\nRUN mkdir /m /n && echo a > /m/a && echo b > /n/b\nFROM alpine:3.22\nRUN --mount=type=bind,from=t,source=/m,target=/mnt cat /mnt/a > /a\n",
			after: "FROM alpine:3.22 AS t\nRUN mkdir /m /n && echo a > /m/a && echo c > /n/b\nFROM alpine:3.22\nRUN --mount=type=bind,from=t,source=/m,target=/mnt cat /mnt/a > /a\n",
			want:  []string{"RUN mkdir /m /n && echo a > /m/a && echo c > /n/b"}},
		{name: "a file that is mounted", before: "FROM alpine:3.22 AS t\nRUN mkdir /m && echo a > /m/a\nFROM alpine:3.22\nRUN --mount=type=bind,from=t,source=/m,target=/mnt cat /mnt/a > /a\n",
			after: "FROM alpine:3.22 AS t\nRUN mkdir /m && echo b > /m/a\nFROM alpine:3.22\nRUN --mount=type=bind,from=t,source=/m,target=/mnt cat /mnt/a > /a\n",
			want:  []string{"RUN --mount=type=bind,from=t,source=/m,target=/mnt cat /mnt/a > /a", "RUN mkdir /m && echo b > /m/a"}},
		{name: "COPY --link", before: "FROM alpine:3.22 AS t\nRUN echo a > /a && echo b > /b\nFROM alpine:3.22\nCOPY --link --from=t /a /a\nRUN cat /a > /c\n",
			after: "FROM alpine:3.22 AS t\nRUN echo a > /a && echo c > /b\nFROM alpine:3.22\nCOPY --link --from=t /a /a\nRUN cat /a > /c\n", want: []string{"RUN echo a > /a && echo c > /b"}},
		{name: "the environment", before: "FROM alpine:3.22\nENV A=1\nRUN echo a > /a\n", after: "FROM alpine:3.22\nENV A=2\nRUN echo a > /a\n", want: []string{"RUN echo a > /a"}},
		{name: "the base", before: "FROM alpine:3.22\nRUN echo a > /a\n", after: "FROM alpine:3.21\nRUN echo a > /a\n", want: []string{"RUN echo a > /a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRebuilt(t)
			if ran, _ := r.ran(tt.before, amd64); len(ran) == 0 {
				t.Fatal("nothing was executed at first")
			}
			if tt.after == "" {
				tt.after = tt.before
			}
			if tt.edit != nil {
				tt.edit(r)
			}
			ran, layers := r.ran(tt.after, amd64)
			if !slices.Equal(ran, tt.want) {
				t.Errorf("executed %q, want %q", ran, tt.want)
			}
			if again, same := r.ran(tt.after, amd64); len(again) > 0 || same != layers {
				t.Errorf("the same again executed %q", again)
			}
		})
	}
}

// A step that has read an index of packages is taken over while its server has the same
// index, whatever its validators.
func TestIndexesExpire(t *testing.T) {
	t.Parallel()
	r, f := newRebuilt(t), newFiles(t)
	r.checked = false
	key, err := apktest.NewKey("test.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	index := func(version string) string {
		data, err := apktest.Index(key, "C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:a\nV:"+version+"\nA:x86_64\nS:1\nI:1\n\n")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	f.served = served{body: index("1"), tag: `"1"`}
	update := "RUN apk --allow-untrusted update"
	text := "FROM alpine:3.22\nRUN mkdir -p /etc/apk /lib/apk/db && echo " + f.URL + " > /etc/apk/repositories && echo x86_64 > /etc/apk/arch && : > /lib/apk/db/installed\n" + update + "\nRUN echo last > /last\n"
	if ran, _ := r.ran(text, amd64); len(ran) != 3 {
		t.Fatalf("executed %q", ran)
	}
	f.counts()
	for _, step := range []struct {
		name string
		now  served
		want []string
		asks [2]int
	}{
		{"nothing", f.served, nil, [2]int{1, 0}},
		{"another tag of the same index", served{body: f.body, tag: `"2"`}, nil, [2]int{1, 1}},
		{"another index", served{body: index("2"), tag: `"3"`}, []string{update}, [2]int{1, 1}},
		{"nothing again", served{body: index("2"), tag: `"3"`}, nil, [2]int{1, 0}},
		{"the index of before", served{body: f.body, tag: `"1"`}, []string{update}, [2]int{1, 1}},
	} {
		f.served = step.now
		ran, layers := r.ran(text, amd64)
		if n := f.counts(); n != step.asks {
			t.Errorf("%s: the server was asked %v, want %v", step.name, n, step.asks)
		}
		if !slices.Equal(ran, step.want) {
			t.Errorf("%s: executed %q, want %q", step.name, ran, step.want)
		}
		usual := r.options
		r.options = func(o *native.Options) { usual(o); o.NoCache = true }
		if _, fresh := r.ran(text, amd64); fresh != layers {
			t.Errorf("%s: %s, without the cache %s", step.name, layers, fresh)
		}
		r.options = usual
		f.counts()
	}
}

// The usual order of a Go builder: an edited file has programs compiled again, and no
// modules fetched, on all platforms.
func TestModulesStay(t *testing.T) {
	t.Parallel()
	r := newRebuilt(t)
	r.checked = false
	text := "FROM golang:1.25.4-alpine AS b\nWORKDIR /src\nCOPY go.mod ./\nRUN go mod download\nCOPY . .\nRUN go build -o /out/app .\nFROM scratch\nCOPY --from=b /out/app /app\n"
	r.ran(text, amd64, arm64)
	if n := r.count("mod download []"); n != 1 {
		t.Fatalf("%d downloads at first: %v", n, r.calls)
	}
	r.calls = nil
	r.put("/main.go", "package main // edited\n")
	r.ran(text, amd64, arm64)
	if want := []string{"build -o /out/app . [amd64]", "build -o /out/app . [arm64]"}; !slices.Equal(slices.Sorted(slices.Values(r.calls)), want) {
		t.Errorf("after an edit go was called for %v", r.calls)
	}
}

// Steps that depend on the platform are taken over for each of them, those that don't for
// all: nobody gets another platform's.
func TestTakenOverPerPlatform(t *testing.T) {
	t.Parallel()
	r := newRebuilt(t)
	text := `FROM alpine:3.22 AS t
RUN echo a > /a && echo %s > /b
FROM golang:1.25.4-alpine AS b
COPY --from=t /a /opt/a
ARG TARGETARCH
RUN echo $TARGETARCH > /opt/arch
RUN uname -m > /opt/machine
RUN go build -o /opt/app .
RUN echo x > /opt/x
FROM scratch
COPY --from=b /opt /opt
`
	executed := func(value string) []string {
		ran, _ := r.ran(fmt.Sprintf(text, value), amd64, arm64)
		return slices.Compact(ran)
	}
	if ran := executed("1"); len(ran) != 6 { // one names the platform
		t.Fatalf("executed %q", ran)
	}
	if ran := executed("1"); len(ran) > 0 {
		t.Errorf("the same again executed %q", ran)
	}
	for _, value := range []string{"2", "3"} {
		if ran, want := executed(value), []string{"RUN echo a > /a && echo " + value + " > /b"}; !slices.Equal(ran, want) {
			t.Errorf("executed %q, want %q", ran, want)
		}
	}
	if ran := executed("1"); len(ran) > 0 {
		t.Errorf("what was made first executed %q", ran)
	}
}
