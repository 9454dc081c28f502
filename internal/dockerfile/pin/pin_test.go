package pin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/anyarch/anyarch/internal/platform"
)

// TestRewrite rewrites the Dockerfiles of testdata, archives with the files in, want (the
// same as in if it isn't there) and left, the remarks on what isn't changed.
func TestRewrite(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			o := Options{}
			for line := range strings.Lines(string(archive.Comment)) {
				if v, ok := strings.CutPrefix(line, "target: "); ok {
					o.Target = strings.TrimSpace(v)
				}
				if v, ok := strings.CutPrefix(line, "needs C: "); ok {
					o.NeedsC = func([]string) string { return strings.TrimSpace(v) }
				}
			}
			in := parts["in"]
			want, changes := parts["want"]
			if !changes {
				want = in
			}
			r := rewrite(t, in, o)
			if string(r.Text) != want {
				t.Errorf("%s", diff.Diff("want", []byte(want), "got", r.Text))
			}
			var left strings.Builder
			for _, l := range r.Left {
				fmt.Fprintf(&left, "%d %s\n", l.Line, l.Text)
			}
			if left.String() != parts["left"] {
				t.Errorf("left alone:\n%s\nwant:\n%s", left.String(), parts["left"])
			}
			if changes != (len(r.Changes) > 0) {
				t.Errorf("changes: %+v", r.Changes)
			}
			if again := rewrite(t, string(r.Text), o); string(again.Text) != string(r.Text) {
				t.Errorf("twice isn't once:\n%s", diff.Diff("once", r.Text, "twice", again.Text))
			}
			// With the platform written out, no line is added.
			o.Platform = platform.Platform{OS: "linux", Architecture: "riscv64"}
			literal := rewrite(t, in, o)
			if got, want := strings.Count(string(literal.Text), "\n"), strings.Count(in, "\n"); got != want {
				t.Errorf("%d lines of %d:\n%s", got, want, literal.Text)
			}
			if changes && strings.Contains(want, "GOARCH=$TARGETARCH") && !strings.Contains(in, "TARGETARCH") && !strings.Contains(string(literal.Text), "GOARCH=riscv64") {
				t.Errorf("the platform isn't written out:\n%s", literal.Text)
			}
		})
	}
}

func rewrite(t *testing.T, text string, o Options) *Result {
	t.Helper()
	r, err := Rewrite("Dockerfile", []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRewriteWindows(t *testing.T) {
	t.Parallel()
	in := "FROM golang AS b\r\n# why\r\nRUN echo \\\r\n  # inside\r\n  && go build -o /app .\r\nFROM scratch\r\nCOPY --from=b /app /app\r\n"
	want := "FROM --platform=$BUILDPLATFORM golang AS b\r\nARG TARGETOS TARGETARCH\r\n# why\r\nRUN echo \\\r\n  # inside\r\n  && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /app .\r\nFROM scratch\r\nCOPY --from=b /app /app\r\n"
	r := rewrite(t, in, Options{})
	if string(r.Text) != want {
		t.Errorf("%q", r.Text)
	}
	if r = rewrite(t, "# escape=`\nFROM golang\nRUN go build\n", Options{}); len(r.Changes) > 0 || len(r.Left) != 1 {
		t.Errorf("another escape character: %+v", r)
	}
	if _, err := Rewrite("Dockerfile", []byte("RUN <<EOF\n"), Options{}); err == nil {
		t.Error("a heredoc without an end was read")
	}
}

func TestNeedsC(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files   map[string]string
		targets string
		want    string
	}{
		"nothing":       {map[string]string{"main.go": "package main\n", "go.mod": "module m\nrequire golang.org/x/sys v0.1.0\n"}, ".", ""},
		"no module":     {map[string]string{"sub/c.go": "package sub\n\nimport \"C\"\n"}, ".", "sub/c.go imports \"C\""},
		"imported":      {map[string]string{"go.mod": "module m\n", "cmd/a/a.go": "package main\nimport _ \"m/sub\"\n", "sub/c.go": "package sub\n\nimport \"C\"\n"}, "./cmd/a", "sub/c.go imports \"C\""},
		"another's":     {map[string]string{"go.mod": "module m\n", "cmd/a/a.go": "package main\n", "cmd/b/c.go": "package main\n\nimport \"C\"\n"}, "m/cmd/a", ""},
		"everything":    {map[string]string{"go.mod": "module m\n", "cmd/a/a.go": "package main\n", "cmd/b/c.go": "package main\n\nimport \"C\"\n"}, "./cmd/$NAME", "cmd/b/c.go imports \"C\""},
		"a file":        {map[string]string{"go.mod": "module m\n", "cmd/a/a.go": "package main\nimport \"C\"\n"}, "cmd/a/a.go", "cmd/a/a.go imports \"C\""},
		"a module's":    {map[string]string{"go.mod": "module m\n", "db.go": "package m\nimport _ \"github.com/mattn/go-sqlite3\"\n"}, "", "db.go imports github.com/mattn/go-sqlite3"},
		"not Linux's":   {map[string]string{"c_darwin.go": "package m\nimport \"C\"\n", "d.go": "//go:build windows\n\npackage m\nimport \"C\"\n"}, ".", ""},
		"tests":         {map[string]string{"c_test.go": "package m\nimport \"C\"\n", "testdata/c.go": "package m\nimport \"C\"\n"}, ".", ""},
		"not its files": {map[string]string{"go.mod": "module m\n", "main.go": "package main\n"}, "../../etc", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range c.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := NeedsC(dir, strings.Fields(c.targets)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// FuzzRewrite: whatever comes in, what goes out can be read, and rewriting it again
// changes nothing.
func FuzzRewrite(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		if archive, err := txtar.ParseFile(file); err == nil {
			f.Add(archive.Files[0].Data)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := sound(text); err != nil {
			t.Skip("it is no Dockerfile: ", err)
		}
		r, err := Rewrite("Dockerfile", text, Options{})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		again, err := Rewrite("Dockerfile", r.Text, Options{})
		if err != nil || string(again.Text) != string(r.Text) {
			t.Fatalf("twice isn't once: %v\n%s", err, diff.Diff("once", r.Text, "twice", again.Text))
		}
	})
}
