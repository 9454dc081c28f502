package template_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/template"
	"github.com/anyarch/anyarch/internal/vcs"
)

var update = flag.Bool("update", false, "write the golden files")

const hash = "abc1234def5678900000000000000000000000ff"

// repository answers as it is told to, and counts the questions.
type repository struct {
	found, commits, tagged, described, looked atomic.Int32

	err      error
	branch   string
	tags     []string
	nearest  map[bool]vcs.Description // by whether only versions count
	dirty    bool
	dirtyErr error
	remote   string
	shallow  bool
}

func (r *repository) Commit(ctx context.Context) (vcs.Commit, error) {
	r.commits.Add(1)
	return vcs.Commit{Hash: hash, Branch: r.branch, Time: time.Unix(1700000000, 0).UTC()}, ctx.Err()
}
func (r *repository) Tags(context.Context) ([]string, error) { r.tagged.Add(1); return r.tags, nil }
func (r *repository) Describe(_ context.Context, match func(string) bool) (vcs.Description, error) {
	r.described.Add(1)
	d, ok := r.nearest[match != nil]
	if !ok {
		return d, fmt.Errorf("describe: %w", vcs.ErrNoTag)
	}
	d.Commit = hash
	return d, nil
}
func (r *repository) Dirty(context.Context) (bool, error) {
	r.looked.Add(1)
	return r.dirty, r.dirtyErr
}
func (r *repository) Remote() string { return r.remote }
func (r *repository) Shallow() bool  { return r.shallow }

func (r *repository) git() *template.Git {
	return template.NewGit(func() (template.Source, error) {
		r.found.Add(1)
		return r, r.err
	})
}

// Repositories by what they are.
var (
	released = func() *repository {
		return &repository{branch: "main", tags: []string{"v1.5.0", "latest"}, nearest: map[bool]vcs.Description{false: {Tag: "v1.5.0"}}, remote: "https://github.com/acme/app"}
	}
	between = func() *repository {
		return &repository{branch: "feature/New_Thing", tags: []string{"nightly"}, nearest: map[bool]vcs.Description{false: {Tag: "nightly"}, true: {Tag: "v1.5.0-rc.1", Distance: 3}}}
	}
	changed = func() *repository {
		r := released()
		r.dirty = true
		return r
	}
	metadata = func() *repository {
		return &repository{nearest: map[bool]vcs.Description{true: {Tag: "2.0.0+exp", Distance: 1}}}
	}
	untagged = func() *repository { return &repository{branch: "main"} }
	shallow  = func() *repository { return &repository{shallow: true} }
	absent   = func() *repository { return &repository{err: fmt.Errorf("/src: %w", vcs.ErrNoRepository)} }
	unborn   = func() *repository { return &repository{err: fmt.Errorf("main: %w", vcs.ErrNoCommit)} }
	damaged  = func() *repository { return &repository{err: errors.New("object 12 is damaged")} }
	reftable = func() *repository {
		return &repository{err: &vcs.Unsupported{Place: ".git/config", What: "refs are kept as reftable, which isn't supported", Fix: "git refs migrate --ref-format=files"}}
	}
	splitted = func() *repository {
		r := released()
		r.dirtyErr = &vcs.Unsupported{Place: ".git/index", What: "a split index isn't supported"}
		return r
	}
)

var environment = map[string]string{
	"VERSION": "2.0", "EMPTY": "", "SPACE": "a -extld=./evil", "QUOTE": `it's`, "DOUBLE": `"`, "LINES": "a\nb", "BYTES": "a\xffb", "TITLE": "Fix: the Thing!", "LONG": strings.Repeat("x", 300),
	"ESC": "a\x1b[31m", "DOTS": "...",
}

func data(git *template.Git) *template.Data {
	return &template.Data{
		Platform: platform.Platform{OS: "linux", Architecture: "arm", Variant: "v6"},
		Env: func(name string) (string, bool) {
			value, set := environment[name]
			return value, set
		},
		Git: git, Name: "api", Package: "example.com/app/cmd/api", Repository: "ghcr.io/acme/api",
	}
}

func TestExecute(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text, want string
		git        func() *repository
	}{
		{text: "", want: ""},
		{text: "plain } text", want: "plain } text"},
		{text: "{{.Version}}", want: "1.5.0"},
		{text: "{{.Version}}", git: changed, want: "1.5.0-dirty"},
		{text: "{{.Version}}", git: between, want: "1.5.0-rc.1-3-gabc1234"},
		{text: "{{.Version}}", git: metadata, want: "2.0.0-1-gabc1234+exp"},
		{text: "{{.Major}}.{{.Minor}}.{{.Patch}}", want: "1.5.0"},
		{text: "{{.Major}}.{{.Minor}}.{{.Patch}} {{.Prerelease}}", git: between, want: "1.5.0 rc.1-3-gabc1234"},
		{text: "v{{.Major}}{{if .Prerelease}}-{{.Prerelease}}{{end}}", want: "v1"},
		{text: "{{.Git.Commit}}", want: hash},
		{text: "{{.Git.FullCommit}}", want: hash},
		{text: "{{.Git.ShortCommit}}", want: "abc1234"},
		{text: "{{.Git.Branch}}", want: "main"},
		{text: "{{slug .Git.Branch | lower}}", git: between, want: "feature-new_thing"},
		{text: "{{.Git.Tag}}", want: "v1.5.0"},
		{text: "{{.Git.Describe}}", want: "v1.5.0"},
		{text: "{{.Git.CommitDate}} {{.Git.CommitTimestamp}}", want: "2023-11-14T22:13:20Z 1700000000"},
		{text: "{{.Date}} {{.Timestamp}}", want: "2023-11-14T22:13:20Z 1700000000"},
		{text: "{{.Git.IsDirty}} {{.Git.IsClean}} {{.Git.TreeState}}", want: "false true clean"},
		{text: "{{.Git.IsDirty}} {{.Git.IsClean}} {{.Git.TreeState}}", git: changed, want: "true false dirty"},
		{text: "{{.Git.Remote}}", want: "https://github.com/acme/app"},
		{text: "{{.Platform}}", want: "linux/arm/v6"},
		{text: "{{.Platform.OS}}/{{.Platform.Arch}}/{{.Platform.Variant}}", want: "linux/arm/v6"},
		{text: "{{.OS}}/{{.Arch}}/{{.Variant}}", want: "linux/arm/v6"},
		{text: "{{.Name}} {{.Package}} {{.Repository}}", want: "api example.com/app/cmd/api ghcr.io/acme/api"},
		{text: "{{.Env.VERSION}}", want: "2.0"},
		{text: `{{default "dev" .Env.NONE}}`, want: "dev"},
		{text: `{{.Env.NONE | default "dev"}}`, want: "dev"},
		{text: `{{default "dev" .Env.EMPTY}}`, want: "dev"},
		{text: `{{default "dev" .Env.VERSION}}`, want: "2.0"},
		{text: `{{default "dev" (lower .Env.NONE)}}`, want: "dev"},
		{text: `{{default "" .Env.NONE}}`, want: ""},
		{text: `{{default "dev" .Version}}`, git: absent, want: "dev"},
		{text: `{{default "dev" .Version}}`, git: unborn, want: "dev"},
		{text: `{{default "dev" .Version}}`, git: untagged, want: "dev"},
		{text: `{{default .Git.ShortCommit .Git.Tag}}`, git: untagged, want: "abc1234"},
		{text: `{{or .Git.Tag .Git.Branch "x"}}`, git: untagged, want: "main"},
		{text: `{{if and .Git.Tag .Git.IsClean}}release{{else}}snapshot{{end}}`, want: "release"},
		{text: `{{if and .Git.Tag .Git.IsClean}}release{{else}}snapshot{{end}}`, git: changed, want: "snapshot"},
		{text: `{{if not .Git.Tag}}a{{else}}b{{end}}`, git: absent, want: "a"},
		{text: `{{if eq .OS "windows"}}.exe{{else if eq .Arch "arm64" "arm"}}-arm{{end}}`, want: "-arm"},
		{text: `{{if ne .OS "windows"}}a{{end}}`, want: "a"},
		{text: `{{if .Env.EMPTY}}a{{else}}b{{end}}`, want: "b"},
		{text: `{{if false}}a{{else}}b{{end}}`, want: "b"},
		{text: `{{replace "." "-" .Env.VERSION}}`, want: "2-0"},
		{text: `{{trimPrefix "v" .Git.Tag}} {{trimSuffix ".0" .Git.Tag}} {{upper .OS}}`, want: "1.5.0 v1.5 LINUX"},
		{text: `{{join "-" .OS .Arch .Variant}}`, want: "linux-arm-v6"},
		{text: `{{slug .Env.TITLE}}`, want: "Fix-the-Thing"},
		{text: `{{slug .Env.LONG}}`, want: strings.Repeat("x", 128)},
		{text: "a {{- .OS -}} b{{/* why */}}", want: "alinuxb"},
		{text: "{{`{{`}}.OS}}", want: "{{.OS}}"},
		{text: `{{replace "\n" " " .Env.LINES}}`, want: "a b"},
		{text: `{{.Env.SPACE}}`, want: "a -extld=./evil"},
	} {
		t.Run(test.text, func(t *testing.T) {
			t.Parallel()
			git := test.git
			if git == nil {
				git = released
			}
			parsed, err := template.Parse("--label", test.text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parsed.Execute(t.Context(), data(git().git()))
			if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestExecuteWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"-s -w -X main.version={{.Version}}":                "-s -w -X main.version=1.5.0",
		"-X 'main.title={{.Env.SPACE}}' -s":                 "-X 'main.title=a -extld=./evil' -s",
		`-X "main.title={{.Env.QUOTE}}"`:                    `-X "main.title=it's"`,
		"-X main.title={{slug .Env.SPACE}}":                 "-X main.title=a--extld-.-evil",
		"'x' {{.Version}}":                                  "'x' 1.5.0",
		"-X main.a={{.Version}} '-X=main.b={{.Env.TITLE}}'": "-X main.a=1.5.0 '-X=main.b=Fix: the Thing!'",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			parsed, err := template.ParseWords("--ldflags", text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parsed.Execute(t.Context(), data(released().git()))
			if err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// render shows a refusal with all that a user is told.
func render(text string, err error) string {
	e, ok := errors.AsType[*refusal.Error](err)
	if !ok {
		return fmt.Sprintf("%s\n  not a refusal: %v\n", text, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q\n  %s %d %s: %s\n", text, e.Code, e.Kind.ExitCode(), e.Place, e.Summary)
	for _, seen := range e.Seen[1:] {
		b.WriteString("  seen: " + seen + "\n")
	}
	for _, fix := range e.Fix {
		b.WriteString("  fix:  " + fix + "\n")
	}
	return b.String()
}

func TestErrors(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, test := range []struct {
		text  string
		git   func() *repository
		words bool
		bare  bool // without platform, names or environment
	}{
		{text: "{{.Verson}}"}, {text: "{{.version}}"}, {text: "{{.Tag}}"}, {text: "{{.Git.Dirty}}"}, {text: "{{.Git.Comit}}"}, {text: "{{.Frobnicate}}"}, {text: "{{.env.HOME}}"},
		{text: "{{.Env}}"}, {text: "{{.Env.A.B}}"}, {text: "{{.Git}}"}, {text: "{{.Platform.Architecture}}"}, {text: "{{Version}}"}, {text: "{{Tag}}"},
		{text: "{{if false}}{{.Verson}}{{end}}"},
		{text: "{{.Version"}, {text: "{{}}"}, {text: "{{if}}x{{end}}"}, {text: "{{if .OS}}"}, {text: "a\n{{.Version}\n"}, {text: "{{.}}"}, {text: "{{$}}"}, {text: "{{nil}}"},
		{text: "{{$x := .OS}}{{$x}}"}, {text: "{{range 1000000000}}x{{end}}"}, {text: "{{with .OS}}x{{end}}"}, {text: `{{define "x"}}{{end}}`}, {text: `{{template "x"}}`},
		{text: `{{block "x" .}}a{{end}}`}, {text: "{{(.OS).Name}}"}, {text: "{{.OS .Arch}}"}, {text: `{{"a" | .OS}}`},
		{text: `{{env "HOME"}}`}, {text: `{{printf "%d" 1}}`}, {text: "{{lowr .OS}}"}, {text: "{{lower}}"}, {text: `{{replace "a" .OS}}`}, {text: `{{.OS | default "a" "b"}}`}, {text: `{{join "a"}}`},
		{text: strings.Repeat("{{.OS}}", 10000)},
		{text: "{{.Env.NONE}}"}, {text: "{{.Env.EMPTY}}"}, {text: "{{.Env.NONE}}", bare: true}, {text: "{{lower .Env.NONE}}"}, {text: `{{or .Env.NONE .Env.EMPTY}}`}, {text: `{{eq .Env.NONE "a"}}`},
		{text: `{{slug .Env.DOTS}}`}, {text: `{{trimPrefix "v" "v"}}`}, {text: "{{.Env.LINES}}"}, {text: "{{.Env.BYTES}}"}, {text: "{{.Env.ESC}}"},
		{text: `{{replace "" (replace "" .Env.LONG .Env.LONG) (replace "" .Env.LONG .Env.LONG)}}`},
		{text: "{{.Version}}", git: untagged}, {text: "{{.Version}}", git: shallow}, {text: "{{.Version}}", git: absent}, {text: "{{.Version}}", git: unborn}, {text: "{{.Version}}", git: damaged},
		{text: "{{.Version}}", git: reftable}, {text: "{{.Version}}", git: splitted}, {text: `{{default "dev" .Version}}`, git: damaged}, {text: `{{if .Version}}a{{end}}`, git: damaged}, {text: `{{if not .Version}}a{{end}}`, git: damaged},
		{text: `{{or .Version "a"}}`, git: damaged}, {text: "{{.Version}}", bare: true}, {text: "{{.Major}}", git: untagged}, {text: "{{.Prerelease}}"}, {text: "{{.Prerelease}}", git: untagged},
		{text: "{{.Git.Tag}}", git: untagged}, {text: "{{.Git.Tag}}", git: shallow}, {text: "{{.Git.Branch}}", git: shallow}, {text: "{{.Git.Describe}}", git: untagged}, {text: "{{.Git.Remote}}", git: untagged},
		{text: "{{.Git.Commit}}", git: absent}, {text: "{{.Git.TreeState}}", git: splitted}, {text: "{{.Date}}", git: absent}, {text: "{{.Date}}", git: damaged},
		{text: "{{.Platform}}", bare: true}, {text: "{{.Arch}}", bare: true}, {text: "{{.Platform.Variant}}", bare: true}, {text: "{{.Name}}", bare: true}, {text: "{{.Package}}", bare: true}, {text: "{{.Repository}}", bare: true},
		{text: "-X main.a={{.Env.SPACE}}", words: true}, {text: "-X main.a={{.Env.QUOTE}}", words: true}, {text: "-X 'main.a={{.Env.QUOTE}}'", words: true}, {text: `-X "main.a={{.Env.DOUBLE}}"`, words: true},
		{text: "'a'{{.Env.SPACE}}", words: true}, {text: "-X main.a={{.Env.LINES}}", words: true},
	} {
		parse, place := template.Parse, "--tag"
		if test.words {
			parse, place = template.ParseWords, "--ldflags"
		}
		parsed, err := parse(place, test.text)
		if err == nil {
			git := test.git
			if git == nil {
				git = released
			}
			values := data(git().git())
			if test.bare {
				values = &template.Data{}
			}
			_, err = parsed.Execute(t.Context(), values)
		}
		got.WriteString(render(test.text[:min(80, len(test.text))], err))
	}
	golden := filepath.Join("testdata", "errors.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Errorf("errors differ from %s (run with -update and look at the change):\n%s", golden, got.String())
	}
}

// The variant of an architecture's default is unset, not empty.
func TestDefaultVariant(t *testing.T) {
	t.Parallel()
	parsed, err := template.Parse("--build-arg", "{{.Arch}}{{if .Variant}}-{{.Variant}}{{end}}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsed.Execute(t.Context(), &template.Data{Platform: platform.Platform{OS: "linux", Architecture: "arm64"}})
	if err != nil || got != "arm64" {
		t.Errorf("got %q, %v", got, err)
	}
	parsed, err = template.Parse("--build-arg", "{{.Variant}}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = parsed.Execute(t.Context(), &template.Data{Platform: platform.Platform{OS: "linux", Architecture: "arm64"}})
	if err == nil || !strings.Contains(err.Error(), "linux/arm64 is the default variant") {
		t.Errorf("got %v", err)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	t.Parallel()
	for epoch, want := range map[string]string{"86400": "1970-01-02T00:00:00Z 86400", "": "2023-11-14T22:13:20Z 1700000000", "x": "isn't a number of seconds", "-1": "isn't a number of seconds"} {
		values := data(released().git())
		values.Env = func(string) (string, bool) { return epoch, true }
		parsed, err := template.Parse("--label", "{{.Date}} {{.Timestamp}}")
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsed.Execute(t.Context(), values)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("SOURCE_DATE_EPOCH=%s gives %q", epoch, got)
		}
	}
}

// Git costs nothing unless a template asks for it, and then only once.
func TestGitIsAskedOnce(t *testing.T) {
	t.Parallel()
	r := released()
	git := r.git()
	run := func(text string) {
		t.Helper()
		parsed, err := template.Parse("--tag", text)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := parsed.Execute(t.Context(), data(git)); err != nil {
			t.Error(err)
		}
	}
	run("plain")
	run(`{{.Platform}} {{.Env.VERSION}} {{.Name}} {{if eq .OS "plan9"}}{{.Version}}{{end}}`)
	if n := r.found.Load(); n != 0 {
		t.Fatalf("the repository was looked for %d times before it was needed", n)
	}
	run("{{.Git.Commit}} {{.Git.Branch}} {{.Date}}")
	if r.looked.Load() != 0 || r.tagged.Load() != 0 || r.described.Load() != 0 {
		t.Error("more was asked than the commit")
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			run("{{.Version}} {{.Git.Commit}} {{.Git.Tag}} {{.Git.IsDirty}} {{.Git.Describe}} {{.Major}} {{.Date}}")
		})
	}
	group.Wait()
	for what, n := range map[string]int32{"found": r.found.Load(), "commit": r.commits.Load(), "tags": r.tagged.Load(), "describe": r.described.Load(), "dirty": r.looked.Load()} {
		if n != 1 {
			t.Errorf("%s: asked %d times", what, n)
		}
	}
}

// A cancelled question is asked again by the next, and isn't the user's mistake.
func TestCancelled(t *testing.T) {
	t.Parallel()
	git := released().git()
	parsed, err := template.Parse("--tag", "{{.Git.Commit}}")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := parsed.Execute(ctx, data(git)); !errors.Is(err, context.Canceled) || len(refusal.All(err)) > 0 {
		t.Errorf("got %v", err)
	}
	if got, err := parsed.Execute(t.Context(), data(git)); got != hash || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNeedsPlatform(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"plain": false, "{{.Version}}": false, "{{.Platform}}": true, "{{.Platform.Arch}}": true, "{{.OS}}": true, "{{lower .Variant}}": true,
		"{{if .Git.Tag}}{{.Arch}}{{end}}": true, "{{.Env.Arch}}": false, `{{if eq .OS "x"}}{{end}}`: true,
	} {
		parsed, err := template.Parse("--tag", text)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.NeedsPlatform(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Every value that is listed exists, and has a line of documentation.
func TestFields(t *testing.T) {
	t.Parallel()
	for _, field := range template.Fields() {
		if field.Doc == "" || strings.HasSuffix(field.Doc, ".") {
			t.Errorf("%s: %q", field.Name, field.Doc)
		}
		if _, err := template.Parse("x", "{{"+field.Name+"}}"); err != nil {
			t.Error(err)
		}
	}
}

// A real repository fits.
var _ template.Source = (*vcs.Repository)(nil)

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"-X main.v={{.Version}}", `{{if eq .OS "a"}}{{.Arch}}{{else}}{{or .Git.Tag "x"}}{{end}}`, "{{slug (lower .Env.TITLE) | default `a`}}",
		`{{join "-" .OS .Arch | replace "a" "b"}}`, "{{- 1 -}} {{true}} {{/* x */}}", `{{define "x"}}{{end}}`, "{{range .}}{{end}}", "{{((.OS))}}", "'{{.Env.QUOTE}}' {{.Env.SPACE}}",
	} {
		f.Add(seed)
	}
	values := data(between().git())
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(place, text string) (*template.Template, error){template.Parse, template.ParseWords} {
			parsed, err := parse("place", text)
			if err == nil {
				_, err = parsed.Execute(t.Context(), values)
			}
			if err != nil && len(refusal.All(err)) != 1 {
				t.Fatalf("%q: %v isn't a refusal", text, err)
			}
		}
	})
}
