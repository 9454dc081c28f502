package assemble_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

// request is an index of images by tag in repo, published to destinations.
func request(repo *registry.Repository, from []string, destinations ...assemble.Destination) assemble.Request {
	reader := assemble.NewReader()
	return assemble.Request{
		Reader: reader, Destinations: destinations, Latest: publish.LatestNewest, Event: progress.Discard,
		Make: func(ctx context.Context, _ *assemble.Item) (*assemble.Draft, error) {
			d := &assemble.Draft{}
			for _, tag := range from {
				item, err := reader.Read(ctx, at(repo), tag)
				if err != nil {
					return nil, err
				}
				if err := d.Add(assemble.Options{}, item); err != nil {
					return nil, err
				}
			}
			d.Sort()
			return d, nil
		},
	}
}

func to(r *registry.Repository, tags ...string) assemble.Destination {
	return assemble.Destination{Repo: r, Place: at(r), Tags: tags}
}

// has lists the architectures that a tag's index is there for.
func has(t *testing.T, s *registrytest.Server, repo, tag string) []string {
	t.Helper()
	data, ok := s.Manifest(repo, s.Tags(repo)[tag])
	if !ok {
		return nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range index.Manifests {
		list = append(list, m.Platform.Architecture)
	}
	slices.Sort(list)
	return list
}

// TestRace lets several machines put their platform under the same tags at the
// same time, as the last jobs of several pipelines do.
func TestRace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		writers []string
		retry   bool
		keeps   bool // the registry removes no tags
		edits   bool
	}{
		"retry":                                     {writers: []string{"amd64", "arm64", "s390x", "riscv64", "ppc64le"}, retry: true},
		"retry where tags can't be removed":         {writers: []string{"amd64", "arm64"}, retry: true, keeps: true},
		"no retry":                                  {writers: []string{"amd64", "arm64", "s390x", "riscv64"}, edits: true},
		"no retry where tags can't be removed":      {writers: []string{"amd64", "arm64"}, edits: true, keeps: true},
		"adding with retry":                         {writers: []string{"amd64", "arm64", "s390x", "riscv64"}, edits: true, retry: true},
		"adding with retry, tags can't be removed":  {writers: []string{"amd64", "arm64"}, edits: true, retry: true, keeps: true},
		"one alone, where tags can't be removed":    {writers: []string{"amd64"}, keeps: true},
		"one alone with retry, where tags are gone": {writers: []string{"amd64"}, retry: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for round := range 3 {
				s := registrytest.New(t, registrytest.Config{})
				if c.keeps {
					s.Inject(registrytest.Fault{Method: "DELETE", Path: "/manifests/", Times: -1, Status: 405})
				}
				first := add(t, s, "app", "386", "linux/386", nil)
				if c.edits {
					addIndex(t, s, "app", "1.0", on(first, "linux/386"))
					addIndex(t, s, "app", "latest", on(first, "linux/386"))
				}
				for _, arch := range c.writers {
					add(t, s, "app", arch, "linux/"+arch, nil)
				}
				errs := make([]error, len(c.writers))
				var wg, all sync.WaitGroup
				all.Add(len(c.writers))
				for i, arch := range c.writers {
					repo := repository(t, client(t), s, "app")
					wg.Go(func() {
						r := request(repo, []string{arch}, to(repo, "1.0", "latest"))
						r.Guard, r.Retry = true, c.retry
						if c.edits {
							r.Edits = true
							r.Make = func(ctx context.Context, base *assemble.Item) (*assemble.Draft, error) {
								d, err := assemble.Edit(base)
								if err != nil {
									return nil, err
								}
								item, err := r.Reader.Read(ctx, at(repo), arch)
								if err != nil {
									return nil, err
								}
								return d, d.Add(assemble.Options{}, item)
							}
						}
						// All have read the tags before the first of them moves one.
						build, once := r.Make, sync.Once{}
						r.Make = func(ctx context.Context, base *assemble.Item) (*assemble.Draft, error) {
							once.Do(func() { all.Done(); all.Wait() })
							return build(ctx, base)
						}
						_, errs[i] = assemble.Publish(t.Context(), r)
					})
				}
				wg.Wait()
				now := has(t, s, "app", "1.0")
				failed, replaced := 0, false
				for i, err := range errs {
					var changed *publish.Changed
					switch {
					case err == nil:
					case errors.As(err, &changed):
						failed++
						replaced = replaced || changed.Replaced
					default:
						t.Errorf("%s: %v", c.writers[i], err)
					}
				}
				for i, err := range errs {
					if err == nil && !slices.Contains(now, c.writers[i]) && !replaced {
						t.Errorf("round %d: %s is lost without a word: %q", round, c.writers[i], now)
					}
				}
				if c.retry && failed > 0 {
					t.Errorf("round %d: %d of %d gave up: %v", round, failed, len(errs), errors.Join(errs...))
				}
				if c.edits && !slices.Contains(now, "386") {
					t.Errorf("round %d: what was there is lost: %q", round, now)
				}
				if !c.keeps {
					for tag := range s.Tags("app") {
						if strings.Contains(tag, publish.MarkerSuffix) {
							t.Errorf("%s is left", tag)
						}
					}
				}
			}
		})
	}
}

// TestChanged is what happens when a tag moves between its reading and the end.
func TestChanged(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		add(t, s, "app", arch, "linux/"+arch, nil)
	}
	other := add(t, s, "app", "other-amd64", "linux/amd64", nil)
	repo := repository(t, client(t), s, "app")
	for name, c := range map[string]struct {
		put   ocispec.Descriptor
		retry bool
		want  []string // of the tag, nil if it is an error
		code  string
	}{
		"an error":                      {put: on(s390x(t, s), "linux/s390x"), code: "PA422"},
		"taken over":                    {put: on(s390x(t, s), "linux/s390x"), retry: true, want: []string{"amd64", "arm64", "s390x"}},
		"a platform that both have":     {put: on(other, "linux/amd64"), retry: true, want: []string{"amd64", "arm64"}},
		"a platform that both have, no": {put: on(other, "linux/amd64"), code: "PA422"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tag := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
			r := request(repo, []string{"amd64", "arm64"}, to(repo, "v-"+tag, tag))
			r.Guard, r.Retry = true, c.retry
			build, once := r.Make, sync.Once{}
			r.Make = func(ctx context.Context, base *assemble.Item) (*assemble.Draft, error) {
				once.Do(func() { addIndex(t, s, "app", tag, c.put) })
				return build(ctx, base)
			}
			o, err := assemble.Publish(t.Context(), r)
			if c.code != "" {
				wantCode(t, err, c.code)
				if _, ok := s.Tags("app")["v-"+tag]; ok {
					t.Error("another tag was moved")
				}
				if got := has(t, s, "app", tag); len(got) != 1 {
					t.Errorf("the other one's index is gone: %q", got)
				}
				return
			}
			if err != nil || o.Attempts != 2 || !slices.Equal(has(t, s, "app", tag), c.want) || !slices.Equal(has(t, s, "app", "v-"+tag), c.want) {
				t.Errorf("%v, %+v, %q", err, o, has(t, s, "app", tag))
			}
		})
	}
}

func s390x(t *testing.T, s *registrytest.Server) ocispec.Descriptor {
	t.Helper()
	d := s.Tags("app")["s390x"]
	data, _ := s.Manifest("app", d)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(data))}
}

// TestFewer lets a guarded tag keep what it is there for.
func TestFewer(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	of := func(revision string) func(*ocispec.Manifest, *ocispec.Image) {
		return func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Annotations = map[string]string{ocispec.AnnotationRevision: revision}
		}
	}
	add(t, s, "app", "amd64", "linux/amd64", of("1"))
	same, old := add(t, s, "app", "same", "linux/arm64", of("1")), add(t, s, "app", "old", "linux/arm64", of("0"))
	repo := repository(t, client(t), s, "app")
	for name, c := range map[string]struct {
		was          ocispec.Descriptor
		guard, retry bool
		fewer        bool
		want         []string
	}{
		"not guarded":                   {was: same, want: []string{"amd64"}},
		"guarded":                       {was: same, guard: true},
		"guarded, allowed":              {was: same, guard: true, fewer: true, want: []string{"amd64"}},
		"retry, the same revision":      {was: same, retry: true, want: []string{"amd64", "arm64"}},
		"retry, another revision":       {was: old, retry: true},
		"retry, another, allowed":       {was: old, retry: true, fewer: true, want: []string{"amd64"}},
		"guarded, the tag is an image":  {was: ocispec.Descriptor{}, guard: true, want: []string{"amd64"}},
		"retry, there is no such a tag": {was: ocispec.Descriptor{}, retry: true, want: []string{"amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tag := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
			if c.was.Digest != "" {
				addIndex(t, s, "app", tag, on(c.was, "linux/arm64"))
			}
			r := request(repo, []string{"amd64"}, to(repo, tag))
			r.Guard, r.Retry, r.AllowFewer = c.guard, c.retry, c.fewer
			o, err := assemble.Publish(t.Context(), r)
			if c.want == nil {
				wantCode(t, err, "PA430")
				return
			}
			if err != nil || !slices.Equal(has(t, s, "app", tag), c.want) {
				t.Errorf("%v %q", err, has(t, s, "app", tag))
			}
			if c.was.Digest != "" && len(c.want) == 1 && len(o.Pushed[0].Lost[tag]) != 1 {
				t.Errorf("%+v", o.Pushed)
			}
		})
	}
}

// TestRegistries publishes an index to registries that lack or break something.
// Either all tags are right in the end or none has moved.
func TestRegistries(t *testing.T) {
	t.Parallel()
	type fault = registrytest.Fault
	for name, c := range map[string]struct {
		config  registrytest.Config
		faults  []fault
		guard   bool
		code    string // of the error, empty if it has to work
		sent    bool   // blobs had to be sent
		noMount bool   // a mount is answered with 202
	}{
		"nothing is wrong":          {},
		"no HEAD":                   {faults: []fault{{Method: "HEAD", Times: -1, Status: 405}}},
		"no HEAD, guarded":          {faults: []fault{{Method: "HEAD", Times: -1, Status: 405}}, guard: true},
		"a mount becomes an upload": {noMount: true, sent: true},
		"mount answers 400":         {faults: []fault{{Method: "POST", Path: "/target/blobs/uploads/$", Times: 1, Status: 400}}, sent: true},
		"mount answers 405":         {faults: []fault{{Method: "POST", Path: "/target/blobs/uploads/$", Times: 1, Status: 405}}, sent: true},
		"no OCI index":              {faults: []fault{{Method: "PUT", Path: "/manifests/(1.0|latest)", Times: -1, Status: 415}}, code: "PA406"},
		"no OCI index, guarded":     {faults: []fault{{Method: "PUT", Path: "/manifests/(1.0|latest)", Times: -1, Status: 415}}, guard: true, code: "PA406"},
		"no delete":                 {faults: []fault{{Method: "DELETE", Times: -1, Status: 405}}, guard: true},
		"429 once everywhere":       {faults: []fault{{Method: "GET", Status: 429}, {Method: "PUT", Status: 429}, {Method: "POST", Status: 429}, {Method: "HEAD", Status: 429}}},
		"503 once everywhere":       {faults: []fault{{Method: "GET", Status: 503}, {Method: "PUT", Status: 503}, {Method: "POST", Status: 503}, {Method: "DELETE", Status: 503}}, guard: true},
		"500 for ever on the index": {faults: []fault{{Method: "PUT", Path: "/manifests/1.0", Times: -1, Status: 500}}, code: "PA404"},
		"500 for ever on latest":    {faults: []fault{{Method: "PUT", Path: "/manifests/latest", Times: -1, Status: 500}}, code: "PA404"},
		"a lost answer":             {faults: []fault{{Method: "PUT", Path: "/manifests/1.0", Status: 500, Served: true}}},
		"a token that expires":      {config: registrytest.Config{User: "user", Password: "secret", TokenUses: 3}},
		"a token that expires soon": {config: registrytest.Config{User: "user", Password: "secret", TokenUses: 4}, guard: true},
		"Basic":                     {config: registrytest.Config{User: "user", Password: "secret", Basic: true}},
		"latest is forbidden":       {faults: []fault{{Method: "PUT", Path: "/manifests/latest", Times: -1, Status: 403}}, code: "PA402"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, c.config)
			for _, arch := range []string{"amd64", "arm64"} {
				add(t, s, "app", arch, "linux/"+arch, nil)
			}
			old := add(t, s, "target", "latest", "linux/386", nil)
			cl := client(t)
			if c.config.User != "" {
				cl = clientWith(t, s.Host, c.config.User, c.config.Password)
			}
			source, target := repository(t, cl, s, "app"), repository(t, cl, s, "target")
			before := maps.Clone(s.Tags("target"))
			for _, f := range c.faults {
				s.Inject(f)
			}
			if c.noMount {
				s.Inject(fault{Method: "POST", Path: "/target/blobs/uploads/$", Serve: func(w http.ResponseWriter, r *http.Request) {
					r.URL.RawQuery = ""
					s.ServeHTTP(w, r)
				}})
			}
			r := request(source, []string{"amd64", "arm64"}, to(target, "1.0", "latest"))
			r.Guard, r.Require = c.guard, platform.Default()
			o, err := assemble.Publish(t.Context(), r)
			tags := maps.Clone(s.Tags("target"))
			maps.DeleteFunc(tags, func(tag string, _ digest.Digest) bool { return strings.Contains(tag, publish.MarkerSuffix) })
			if c.code != "" {
				wantCode(t, err, c.code)
				if !maps.Equal(tags, before) {
					t.Errorf("tags were %v and are %v", before, tags)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tags["1.0"] != o.Descriptor.Digest || tags["latest"] != o.Descriptor.Digest || tags["latest"] == old.Digest {
				t.Errorf("tags %v, want %s", tags, o.Descriptor.Digest)
			}
			if stats := o.Pushed[0].Stats; c.sent != (stats.Uploaded > 0) || !c.sent && stats.Mounted == 0 {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// TestPutBack interrupts publishing at each of its requests in turn: every tag
// then is as it was, or all are as they should be.
func TestPutBack(t *testing.T) {
	t.Parallel()
	for _, guard := range []bool{false, true} {
		for step := 0; ; step++ {
			s := registrytest.New(t, registrytest.Config{})
			for _, arch := range []string{"amd64", "arm64"} {
				add(t, s, "app", arch, "linux/"+arch, nil)
			}
			add(t, s, "target", "1.0", "linux/386", nil)
			c := client(t)
			source, target := repository(t, c, s, "app"), repository(t, c, s, "target")
			before := maps.Clone(s.Tags("target"))
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := false
			s.Inject(registrytest.Fault{Path: "/v2/.+", Skip: step, Before: func() { stopped = true; cancel(context.Canceled) }})
			r := request(source, []string{"amd64", "arm64"}, to(target, "1.0", "new"))
			r.Guard = guard
			o, err := assemble.Publish(ctx, r)
			cancel(nil)
			tags := maps.Clone(s.Tags("target"))
			maps.DeleteFunc(tags, func(tag string, _ digest.Digest) bool { return strings.Contains(tag, publish.MarkerSuffix) })
			switch {
			case err == nil:
				if tags["1.0"] != o.Descriptor.Digest || tags["new"] != o.Descriptor.Digest {
					t.Errorf("step %d: %v", step, tags)
				}
			case !maps.Equal(tags, before):
				t.Errorf("guard %v, interrupted at request %d: tags were %v and are %v", guard, step, before, tags)
			}
			if !stopped {
				if step < 8 {
					t.Errorf("only %d requests", step)
				}
				break
			}
		}
	}
}

// TestWhole publishes to two repositories, of which one fails.
func TestWhole(t *testing.T) {
	t.Parallel()
	s, far := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
	add(t, s, "app", "amd64", "linux/amd64", nil)
	c := client(t)
	here, there := repository(t, c, s, "app"), repository(t, c, far, "app")
	far.Inject(registrytest.Fault{Method: "PUT", Path: "/manifests/1.0", Times: -1, Status: 403})
	_, err := assemble.Publish(t.Context(), request(here, []string{"amd64"}, to(here, "1.0"), to(there, "1.0")))
	wantCode(t, err, "PA402")
	if _, ok := s.Tags("app")["1.0"]; ok {
		t.Error("the tag of the first repository has moved")
	}
	far.Heal()
	o, err := assemble.Publish(t.Context(), request(here, []string{"amd64"}, to(here, "1.0"), to(there, "1.0")))
	if err != nil || far.Tags("app")["1.0"] != o.Descriptor.Digest {
		t.Errorf("%v %v", err, far.Tags("app"))
	}
	// Nothing is left to do, and nothing is done.
	s.ForgetRequests()
	far.ForgetRequests()
	if _, err = assemble.Publish(t.Context(), request(here, []string{"amd64"}, to(here, "1.0"), to(there, "1.0"))); err != nil {
		t.Fatal(err)
	}
	if n := s.Count("PUT", "") + s.Count("POST", "") + far.Count("POST", "") + far.Count("PATCH", ""); n != 0 {
		t.Error(fmt.Sprint(n, " requests that write, where everything is there"))
	}
}
