package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
	"github.com/anyarch/anyarch/internal/store"
)

// made is an index over two platforms, in a store.
type made struct {
	store  *store.Store
	index  ocispec.Descriptor
	images []image.Image
}

func (m made) Open(_ context.Context, l image.Layer) (io.ReadCloser, error) {
	return m.store.Blob(l.Descriptor.Digest)
}

func build(t *testing.T, content string) made {
	t.Helper()
	st, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := made{store: st}
	for _, p := range platform.Default() {
		data := content + " for " + p.String()
		l, err := layer.Write(t.Context(), st, []layer.Entry{{Name: "app", Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil }}}, layer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		img, err := image.Assemble(st, image.Recipe{Platform: p, Layers: []image.Layer{l}})
		if err != nil {
			t.Fatal(err)
		}
		m.images = append(m.images, img)
	}
	if m.index, err = image.WriteIndex(st, m.images, nil, image.OCI); err != nil {
		t.Fatal(err)
	}
	return m
}

// client is a client that doesn't wait between its tries.
func client(t *testing.T) *registry.Client {
	t.Helper()
	home := t.TempDir()
	c, err := registry.New(registry.Options{
		ConfigDir: home, Getenv: func(key string) string { return map[string]string{"HOME": home}[key] },
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var repositories = []string{"team/app", "mirror/app"}

// send publishes m as a version and latest to both repositories, as the
// pipeline does.
func send(ctx context.Context, t *testing.T, server *registrytest.Server, m made, version string) error {
	t.Helper()
	c := client(t)
	var plans []publish.TagPlan
	for _, name := range repositories {
		repo, err := c.Repository(server.Host + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		s := publish.NewSession(repo.Direct(), m.store, m, "app", progress.Discard)
		for _, img := range m.images {
			if err := s.Blobs(ctx, img); err != nil {
				return err
			}
		}
		if err := s.Manifests(ctx, m.index, m.images); err != nil {
			return err
		}
		moves, err := s.PlanTags(ctx, []string{version, "latest"}, m.index, publish.LatestNewest)
		if err != nil {
			return err
		}
		plans = append(plans, publish.TagPlan{Session: s, Index: m.index, Moves: moves})
	}
	return publish.MoveTags(ctx, plans)
}

func tags(server *registrytest.Server) map[string]digest.Digest {
	all := map[string]digest.Digest{}
	for _, name := range repositories {
		for tag, d := range server.Tags(name) {
			all[name+":"+tag] = d
		}
	}
	return all
}

// Whichever request the registry turns down, every tag is where it was; only a
// publish without a failure moves them, all of them.
func TestFailureAnywhereLeavesTags(t *testing.T) {
	t.Parallel()
	first, second := build(t, "first"), build(t, "second")
	want := map[string]digest.Digest{}
	for _, name := range repositories {
		want[name+":1.0.0"], want[name+":2.0.0"], want[name+":latest"] = first.index.Digest, second.index.Digest, second.index.Digest
	}
	failures := 0
	for k, all := 0, 1; k < all; k++ {
		server := registrytest.New(t, registrytest.Config{})
		if err := send(t.Context(), t, server, first, "1.0.0"); err != nil {
			t.Fatal(err)
		}
		before := tags(server)
		server.ForgetRequests()
		server.Inject(registrytest.Fault{Skip: k, Status: 403, Body: `{"errors":[{"code":"DENIED","message":"no"}]}`})
		err := send(t.Context(), t, server, second, "2.0.0")
		server.Heal()
		all = max(all, len(server.Requests()))
		after := tags(server)
		switch {
		case err == nil && !maps.Equal(after, want): // some requests may fail, such as a mount
			t.Fatalf("request %d: no error, but tags are %v", k, after)
		case err != nil && !maps.Equal(after, before):
			t.Fatalf("request %d failed (%v): tags were %v and are %v", k, err, before, after)
		case err != nil:
			failures++
		}
	}
	if failures < 20 {
		t.Errorf("only %d requests mattered", failures)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	server := registrytest.New(t, registrytest.Config{})
	if err := send(t.Context(), t, server, build(t, "x"), "1.0.0"); err != nil {
		t.Fatal(err)
	}
	rank, last := 0, ""
	for _, r := range server.Requests() {
		if r.Method != "PUT" || !strings.Contains(r.Path, "/manifests/") {
			continue
		}
		now := 0
		switch {
		case strings.HasSuffix(r.Path, "/1.0.0"):
			now = 1
		case strings.HasSuffix(r.Path, "/latest"):
			now = 2
		}
		if now < rank {
			t.Errorf("%s after %s", r.Path, last)
		}
		rank, last = now, r.Path
	}
	if rank != 2 {
		t.Error("latest never moved")
	}
}

// A registry, or a cache in front of it, that gives back something else.
func TestReadBack(t *testing.T) {
	t.Parallel()
	m := build(t, "x")
	server := registrytest.New(t, registrytest.Config{})
	size := int(m.index.Size)
	server.Inject(registrytest.Fault{Method: "GET", Path: "/manifests/" + m.index.Digest.String(), Times: -1, Status: 200, Body: string(bytes.Repeat([]byte(" "), size)),
		Header: map[string]string{"Content-Type": ocispec.MediaTypeImageIndex, "Docker-Content-Digest": m.index.Digest.String()}})
	err := send(t.Context(), t, server, m, "1.0.0")
	list := refusal.All(err)
	if len(list) == 0 || list[0].Code != "PA412" && list[0].Code != "PA408" {
		t.Errorf("got %v", err)
	}
	if now := tags(server); len(now) > 0 {
		t.Errorf("tags are %v", now)
	}
}

// Ctrl-C between two tags puts the first one back.
func TestInterruptBetweenTags(t *testing.T) {
	t.Parallel()
	first, second := build(t, "first"), build(t, "second")
	for _, at := range []string{"/manifests/2.0.0", "/manifests/latest"} {
		for skip := range 2 {
			server := registrytest.New(t, registrytest.Config{})
			if err := send(t.Context(), t, server, first, "1.0.0"); err != nil {
				t.Fatal(err)
			}
			before := tags(server)
			ctx, cancel := context.WithCancel(t.Context())
			server.Inject(registrytest.Fault{Method: "PUT", Path: at, Skip: skip, Served: true, Before: cancel, Cut: registrytest.Close})
			err := send(ctx, t, server, second, "2.0.0")
			server.Heal()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("at %s: %v", at, err)
			}
			if now := tags(server); !maps.Equal(now, before) {
				t.Errorf("at %s, %d: tags were %v and are %v", at, skip, before, now)
			}
		}
	}
}

func TestLatestPolicy(t *testing.T) {
	t.Parallel()
	m := build(t, "x")
	for name, c := range map[string]struct {
		there  []string // tags of another image
		tags   []string
		policy publish.LatestPolicy
		kept   string // why latest stays, empty if it moves
	}{
		"first":                  {nil, []string{"1.0.0", "latest"}, "", ""},
		"newer":                  {[]string{"1.0.0", "latest"}, []string{"v1.1.0", "latest"}, publish.LatestNewest, ""},
		"older":                  {[]string{"v2.0.0", "latest"}, []string{"1.9.9", "latest"}, publish.LatestNewest, "1.9.9 is older than 2.0.0"},
		"older, latest is new":   {[]string{"2.0.0"}, []string{"1.9.9", "latest"}, publish.LatestNewest, "1.9.9 is older than 2.0.0"},
		"newer than numbers say": {[]string{"1.9.0", "latest"}, []string{"1.10.0", "latest"}, publish.LatestNewest, ""},
		"pre-release":            {[]string{"1.0.0", "latest"}, []string{"2.0.0-rc.1", "latest"}, publish.LatestNewest, "2.0.0-rc.1 is a pre-release"},
		"newer than pre-release": {[]string{"2.0.0-rc.1", "latest"}, []string{"1.0.0", "latest"}, publish.LatestNewest, ""},
		"alone":                  {[]string{"2.0.0", "latest"}, []string{"latest"}, publish.LatestNewest, ""},
		"beside a branch":        {[]string{"2.0.0", "latest"}, []string{"main", "latest"}, publish.LatestNewest, ""},
		"always":                 {[]string{"2.0.0", "latest"}, []string{"1.0.0", "latest"}, publish.LatestAlways, ""},
		"never":                  {nil, []string{"1.0.0", "latest"}, publish.LatestNever, "--latest never"},
		"floating tags":          {[]string{"3", "2.5", "latest"}, []string{"1.0.0", "latest"}, publish.LatestNewest, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.New(t, registrytest.Config{})
			for _, tag := range c.there {
				server.AddManifest("app", tag, ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
			}
			repo, err := client(t).Repository(server.Host + "/app")
			if err != nil {
				t.Fatal(err)
			}
			moves, err := publish.NewSession(repo, m.store, m, "app", progress.Discard).PlanTags(t.Context(), c.tags, m.index, c.policy)
			if err != nil {
				t.Fatal(err)
			}
			last := moves[len(moves)-1]
			if last.Tag != "latest" || last.Reason != c.kept || last.Kept != (c.kept != "") {
				t.Errorf("latest: %+v", last)
			}
		})
	}
}
