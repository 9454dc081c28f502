package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/refusal"
)

var (
	noPlatform = &refusal.Error{
		Code: "PA104", Platform: "linux/arm64", Place: "anyarch.yaml:12",
		Summary: "base image has no such platform",
		Seen:    []string{"base: gcr.io/acme/base:1.4  (index sha256:c5d2da74… has: linux/amd64)", "Nothing was pushed; tags are unchanged."},
		Fix:     []string{"choose a multi-arch base (`base: static` is built in)", "or drop linux/arm64 from platforms"},
	}
	noRegistry = &refusal.Error{
		Code: "PA404", Kind: refusal.Unavailable, Place: "https://ghcr.io/v2/",
		Summary: "registry can't be reached", Seen: []string{"dial tcp: lookup ghcr.io: no such host"},
		Fix: []string{"try again"},
	}
	cancelledCompile = &refusal.Error{Code: "PA112", Platform: "linux/amd64", Summary: "doesn't compile", Err: context.Canceled}
)

func TestErrors(t *testing.T) {
	t.Parallel()
	many := refusal.List{}
	for i := range 23 {
		many = append(many, &refusal.Error{
			Code: "PA112", Platform: "linux/arm64", Place: fmt.Sprintf("sub dir/main,%d.go:%d:7", i, i+1),
			Summary: "100% wrong", Seen: []string{"::error::not a command", "see ##[error] there"}, Fix: []string{"line 1\nline 2"},
		})
	}
	for _, c := range []struct {
		name  string
		err   error
		style Style
	}{
		{name: "none"},
		{name: "one", err: fmt.Errorf("plan: %w", noPlatform)},
		{name: "color", err: noPlatform, style: Style{Color: true}},
		{name: "ascii", err: &refusal.Error{Code: "PA104", Summary: "x", Fix: []string{"1.0 → 2.0"}}, style: Style{ASCII: true}},
		{name: "list", err: refusal.List{noPlatform, noRegistry}},
		{name: "joined", err: errors.Join(fmt.Errorf("a: %w", noPlatform), noRegistry, noPlatform, errors.New("and a plain one"), cancelledCompile, context.Canceled)},
		{name: "unknown", err: errors.New("open x: file exists\nsecond line \x1b]0;title\x07\x1b[2J")},
		{name: "unknown-annotated", err: errors.New("first\n::set-env name=x::y"), style: Style{Annotate: true}},
		{name: "interrupted", err: fmt.Errorf("compile: %w", context.Canceled)},
		{name: "interrupted-refusal", err: refusal.List{cancelledCompile, cancelledCompile}},
		{name: "annotated", err: refusal.List{noPlatform, noRegistry}, style: Style{Annotate: true}},
		{name: "annotated-many", err: many, style: Style{Annotate: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := Errors(&b, c.err, c.style, "nothing was tagged"); err != nil {
				t.Fatal(err)
			}
			golden(t, "errors-"+c.name, b.String())
			for line := range strings.Lines(b.String()) {
				// What GitHub takes for a command must be one of ours.
				if trimmed := strings.TrimSpace(line); c.style.Annotate && strings.HasPrefix(trimmed, "::") && !strings.HasPrefix(line, "::error ") {
					t.Errorf("foreign command %q", line)
				}
			}
		})
	}
}

func TestProblemsAsJSON(t *testing.T) {
	t.Parallel()
	raw, err := json.MarshalIndent(Problems(errors.Join(noPlatform, noRegistry, errors.New("plain")), ""), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "problems", string(raw)+"\n")
	if got := Problems(nil, ""); got != nil {
		t.Errorf("nil became %v", got)
	}
	if got := Problems(context.Canceled, "nothing was tagged"); len(got) != 1 || got[0].Summary != "interrupted: nothing was tagged" {
		t.Errorf("%+v", got)
	}
}

func TestFileLine(t *testing.T) {
	t.Parallel()
	for place, want := range map[string]struct {
		file         string
		line, column int
	}{
		"go.mod:3":                    {"go.mod", 3, 0},
		"cmd/main.go:3:22":            {"cmd/main.go", 3, 22},
		`C:\src\main.go:3`:            {`C:\src\main.go`, 3, 0},
		"docker/Dockerfile.debian:18": {"docker/Dockerfile.debian", 18, 0},
		"go.mod":                      {},
		"go.mod:0":                    {},
		"go.mod:+3":                   {},
		"go.mod:x":                    {},
		"ghcr.io/acme/base:14":        {},
		"alpine:3":                    {},
		"registry.example.com:443":    {},
		"http://h/x.json:4":           {},
		"--file a.go:3":               {},
		":3":                          {},
		"":                            {},
	} {
		if file, line, column := fileLine(place); file != want.file || line != want.line || column != want.column {
			t.Errorf("%q: %q %d %d, want %+v", place, file, line, column, want)
		}
	}
}

func FuzzFileLine(f *testing.F) {
	for _, place := range []string{"go.mod:3", "a.go:1:2", "::", "a:99999999999999999999.go:1"} {
		f.Add(place)
	}
	f.Fuzz(func(t *testing.T, place string) {
		file, line, column := fileLine(place)
		if (file == "") != (line == 0) || line < 0 || column < 0 || !strings.HasPrefix(place, file) {
			t.Errorf("%q: %q %d %d", place, file, line, column)
		}
	})
}

func TestAnnotatedFilesAreNamedFromTheCheckout(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := Style{Workspace: root, Dir: filepath.Join(root, "sub")}
	for file, want := range map[string]string{
		"main.go":                               "sub/main.go",
		filepath.Join("..", "go.mod"):           "go.mod",
		filepath.Join(root, "x", "y.go"):        "x/y.go",
		filepath.Join("..", "..", "outside.go"): "../../outside.go",
	} {
		if got := s.inWorkspace(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	if got := (Style{}).inWorkspace("a.go"); got != "a.go" {
		t.Error(got)
	}
	if got := (Style{Workspace: root}).inWorkspace("a.go"); got != "a.go" {
		t.Error(got)
	}
}

// FuzzErrors: no foreign text may reach the terminal as anything but text, nor
// GitHub's runner as a command.
func FuzzErrors(f *testing.F) {
	f.Add("PA104", "linux/arm64", "go.mod:3", "summary", "seen\r\n::set-output name=x::y", "fix \u202e")
	f.Add("", "::", "##[add-path]x.go:1", "\x1b[31m", "\u2003::stop-commands::x", "\xff\x9b")
	f.Fuzz(func(t *testing.T, code, platform, place, summary, seen, fix string) {
		var b strings.Builder
		err := errors.Join(
			&refusal.Error{Code: code, Platform: platform, Place: place, Summary: summary, Seen: []string{seen}, Fix: []string{fix}},
			errors.New(seen))
		if werr := Errors(&b, err, Style{Annotate: true}, ""); werr != nil {
			t.Fatal(werr)
		}
		for line := range strings.Lines(b.String()) {
			text := strings.TrimSuffix(line, "\n")
			if strings.ContainsFunc(text, hostileOrBreak) {
				t.Errorf("hostile text in %q", text)
			}
			if strings.HasPrefix(strings.TrimSpace(text), "::") && !strings.HasPrefix(text, "::error file=") || strings.Contains(text, "##[") {
				t.Errorf("foreign command %q", text)
			}
		}
	})
}
