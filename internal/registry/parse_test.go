package registry

import (
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	sum := "sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"alpine":                           "docker.io/library/alpine",
		"alpine:3.20":                      "docker.io/library/alpine:3.20",
		"owner/app":                        "docker.io/owner/app",
		"docker.io/alpine":                 "docker.io/library/alpine",
		"index.docker.io/alpine":           "docker.io/library/alpine",
		"ghcr.io/owner/app:v1@" + sum:      "ghcr.io/owner/app:v1@" + sum,
		"localhost/a":                      "localhost/a",
		"localhost:5000/a:b":               "localhost:5000/a:b",
		"[::1]:5000/a":                     "[::1]:5000/a",
		"Docker.io/alpine":                 "docker.io/library/alpine",
		"GHCR.io/owner/app":                "ghcr.io/owner/app",
		"app@" + sum:                       "docker.io/library/app@" + sum,
		"registry.example/a__b/c-d/e.f--g": "registry.example/a__b/c-d/e.f--g",
	} {
		got, err := ParseReference(in)
		if err != nil || got.String() != want {
			t.Errorf("%s is read as %s, %v; want %s", in, got, err, want)
		}
	}
	for in, fix := range map[string]string{
		"":                                    "",
		"Owner/App:V1":                        "owner/app:V1",
		"ghcr.io/Owner/App:V1":                "ghcr.io/owner/app:V1",
		"https://ghcr.io/owner/app":           "ghcr.io/owner/app",
		"app:-x":                              "app:x",
		"app:a b":                             "app:a-b",
		"app@sha256:123":                      "",
		"app@md5:123":                         "",
		"ghcr.io/":                            "ghcr.io/owner/name",
		"ghcr.io/a//b":                        "",
		"ghcr.io/../b":                        "",
		"ghcr.io/a/":                          "",
		"-a":                                  "",
		"a..b/c":                              "",
		"ghcr.io/" + strings.Repeat("a", 256): "",
		"a\x00b":                              "",
	} {
		_, err := ParseReference(in)
		e, ok := err.(*refusal.Error)
		if !ok || e.Code != "PA503" || e.Kind != refusal.Usage {
			t.Errorf("%q: %v", in, err)
		} else if fix != "" && (len(e.Fix) == 0 || e.Fix[0] != fix) {
			t.Errorf("%q: fix %q, want %q", in, e.Fix, fix)
		}
	}
	if _, err := ParseRepository("alpine:3.20"); err == nil {
		t.Error("a tag is taken for a part of a repository")
	}
	r := Reference{Repository: "a.example/b", Tag: "t", Digest: digest.Digest(sum)}
	if r.Identifier() != sum {
		t.Errorf("identifier %s", r.Identifier())
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"alpine", "localhost:5000/a/b:c", "[::1]:5000/a@sha256:" + strings.Repeat("a", 64), "A/b", "a@b", "a:b:c", "a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if _, ok := err.(*refusal.Error); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q → %+v → %+v, %v", s, r, again, err)
		}
		if strings.ContainsAny(r.Repository, "\\?#%@ ") || strings.Contains(r.Repository, "..") {
			t.Fatalf("%q is let through", r.Repository)
		}
	})
}

func FuzzNextLink(f *testing.F) {
	for _, s := range []string{`</v2/a/tags/list?n=1&last=b>; rel="next"`, `<a>; rel=prev, <b>; rel=next`, `<`, `<>;rel=next`, `<a>;<b>`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if link := nextLink(http.Header{"Link": {s}}); strings.ContainsAny(link, "<>") && !strings.Contains(s, "<"+link+">") {
			t.Fatalf("%q of %q", link, s)
		}
	})
}

func TestNextLink(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`</v2/a/tags/list?n=1&last=b>; rel="next"`:  "/v2/a/tags/list?n=1&last=b",
		`<a>; rel=prev, <b,c>; title="x"; REL=Next`: "b,c",
		`<a>; rel="prev"`:                           "",
		`rel="next"`:                                "",
		`<a`:                                        "",
	} {
		if got := nextLink(http.Header{"Link": {in}}); got != want {
			t.Errorf("%s leads to %q, want %q", in, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for in, want := range map[string]time.Duration{
		"0": 0, "3": 3 * time.Second, " 7 ": 7 * time.Second, at(time.Minute): time.Minute, at(-time.Hour): 0,
		"-1": -1, "soon": -1, "": -1, "1.5": -1, "99999999999999999999": -1,
	} {
		got, ok := retryAfter(http.Header{"Retry-After": {in}}, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
	// A registry whose clock is an hour fast is taken by its own clock.
	got, _ := retryAfter(http.Header{"Retry-After": {at(time.Hour + time.Minute)}, "Date": {at(time.Hour)}}, now)
	if got != time.Minute {
		t.Errorf("with another clock: %v", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"3", "-1", "9223372036854775807", "Mon, 23 Nov 2026 08:00:00 GMT", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		if d, ok := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, time.Unix(1<<30, 0)); ok && d < 0 {
			t.Fatalf("%q is %v", value, d)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-99", "bytes=0-5", "bytes 5-9/10", "bytes 0-0/*", "0--1", "1-2", "bytes 9223372036854775807-9223372036854775807/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if next, ok := uploaded(s, 5); ok && next < 0 {
			t.Fatalf("%q goes on at %d", s, next)
		}
		if from, total, ok := contentRange(s); ok && (from < 0 || total >= 0 && from >= total) {
			t.Fatalf("%q begins at %d of %d", s, from, total)
		}
	})
}

func TestUploaded(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"0-99": 100, "0-0": 0, "bytes=0-9": 10, "0--1": 0, "1-9": -1, "": -1, "x": -1, "0-9223372036854775807": -1} {
		got, ok := uploaded(in, 5)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q goes on at %d, want %d", in, got, want)
		}
	}
	if got, _ := uploaded("0-0", 1); got != 1 {
		t.Errorf("one byte goes on at %d", got)
	}
}

const testConf = `
unqualified-search-registries = ["quay.io"]
short-name-mode = "enforcing"

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "docker.io/library/secret"
location = "docker.io/library/secret"
blocked = true

[[registry]]
prefix = "*.corp.example"
location = "hub.corp.example/all"

[[registry]]
prefix = "old.example/team"
location = "new.example/moved"
mirror-by-digest-only = true
[[registry.mirror]]
location = "digests.example/x"

[[registry]]
location = "plain.example"
insecure = true
`

func TestRegistriesConf(t *testing.T) {
	t.Parallel()
	o := testOptions(t, nil)
	o.RegistriesConf = []string{writeFile(t, "registries.conf", testConf)}
	c := testClient(t, o)
	sum := "sha256:" + strings.Repeat("ab", 32)
	names := func(list []reader) []string {
		var names []string
		for _, r := range list {
			names = append(names, r.name)
		}
		return names
	}
	for _, tt := range []struct {
		name              string
		byTag, byDigest   []string
		push              string
		insecure, mirrors bool
	}{
		{
			name:  "alpine",
			byTag: []string{"mirror.example:5000/hub/library/alpine", "tags.example/library/alpine", "docker.io/library/alpine"}, push: "docker.io/library/alpine",
			byDigest: []string{"mirror.example:5000/hub/library/alpine", "digests.example/library/alpine", "docker.io/library/alpine"},
		},
		{name: "a.b.corp.example/x/y", byTag: []string{"hub.corp.example/all/x/y"}, byDigest: []string{"hub.corp.example/all/x/y"}, push: "hub.corp.example/all/x/y"},
		{name: "corp.example/x", byTag: []string{"corp.example/x"}, byDigest: []string{"corp.example/x"}, push: "corp.example/x"},
		{name: "old.example/team/a", byTag: []string{"new.example/moved/a"}, byDigest: []string{"digests.example/x/a", "new.example/moved/a"}, push: "new.example/moved/a"},
		{name: "old.example/teams/a", byTag: []string{"old.example/teams/a"}, byDigest: []string{"old.example/teams/a"}, push: "old.example/teams/a"},
		{name: "plain.example/a", byTag: []string{"plain.example/a"}, byDigest: []string{"plain.example/a"}, push: "plain.example/a", insecure: true},
	} {
		r, err := c.Repository(tt.name)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := names(r.sources("v1")); !slices.Equal(got, tt.byTag) {
			t.Errorf("%s by tag: %v", tt.name, got)
		}
		if got := names(r.sources(sum)); !slices.Equal(got, tt.byDigest) {
			t.Errorf("%s by digest: %v", tt.name, got)
		}
		if r.push.name != tt.push || r.push.host.insecure != tt.insecure || r.push.host.mayPlain != tt.insecure {
			t.Errorf("%s is pushed to %s", tt.name, r.push.name)
		}
	}
	_, err := c.Repository("secret")
	wantRefusal(t, err, "PA407")
}

func TestRegistriesConfDropIns(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	user := filepath.Join(home, ".config", "containers", "registries.conf")
	write(t, user, "[[registry]]\nlocation=\"a.example\"\n[[registry]]\nprefix=\"b.example\"\nlocation=\"first.example\"\n")
	write(t, filepath.Join(user+".d", "20-b.conf"), "[[registry]]\nprefix=\"b.example\"\nlocation=\"third.example\"\n")
	write(t, filepath.Join(user+".d", "10-a.conf"), "[[registry]]\nprefix=\"b.example\"\nlocation=\"second.example\"\n")
	write(t, filepath.Join(user+".d", "99-no.txt"), "not read")
	o := testOptions(t, nil)
	for _, path := range DefaultRegistriesConf(func(k string) string { return map[string]string{"HOME": home}[k] }) {
		if strings.HasPrefix(path, home) { // this machine may have its own
			o.RegistriesConf = append(o.RegistriesConf, path)
		}
	}
	r, err := testClient(t, o).Repository("b.example/x")
	if err != nil || r.push.name != "third.example/x" {
		t.Errorf("%v, %v", r.push.name, err)
	}
	got := DefaultRegistriesConf(func(k string) string { return map[string]string{"CONTAINERS_REGISTRIES_CONF": "named.conf"}[k] })
	if len(got) == 0 || got[0] != "named.conf" {
		t.Errorf("paths %v", got)
	}
}

func TestRegistriesConfRefused(t *testing.T) {
	t.Parallel()
	for name, conf := range map[string]string{
		"not TOML":        "[[registry]",
		"no location":     "[[registry]]\ninsecure = true",
		"scheme":          "[[registry]]\nlocation = \"https://a.example\"",
		"wild location":   "[[registry]]\nlocation = \"*.example\"",
		"wild path":       "[[registry]]\nprefix = \"*.example/a\"",
		"mirror use":      "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation=\"b.example\"\npull-from-mirror=\"never\"",
		"mirror nowhere":  "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\ninsecure=true",
		"mirror use both": "[[registry]]\nlocation = \"a.example\"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation=\"b.example\"\npull-from-mirror=\"all\"",
	} {
		o := testOptions(t, nil)
		o.RegistriesConf = []string{writeFile(t, "registries.conf", conf)}
		_, err := New(o)
		if e, ok := errors.AsType[*refusal.Error](err); !ok || e.Code != "PA503" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Options{RegistriesConf: []string{filepath.Join(t.TempDir(), "none")}}); err == nil {
		t.Error("a file that isn't there is read")
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add(testConf, "docker.io/library/alpine")
	f.Add("[[registry]]\nprefix=\"*.a\"\nlocation=\"b\"", "x.a/y")
	f.Add("[[registry]]\nprefix=\"a.b/c\"\nlocation=\"d.e\"", "a.b/c")
	f.Fuzz(func(t *testing.T, conf, name string) {
		tables, err := parseConf(conf)
		if err != nil {
			return
		}
		r := routes{tables: map[string]registryTable{}}
		for _, table := range tables {
			r.tables[table.Prefix] = table
		}
		name, err = ParseRepository(name)
		if err != nil {
			return
		}
		route, err := r.find(name)
		if err != nil {
			return
		}
		for _, l := range append(mirrorNames(route), route.location.name) {
			host, path, _ := strings.Cut(l, "/")
			if !hostPattern.MatchString(host) || !pathPattern.MatchString(path) {
				t.Fatalf("%q becomes %q", name, l)
			}
		}
	})
}
