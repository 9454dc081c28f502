package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
	"github.com/anyarch/anyarch/internal/store"
)

func TestMount(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
	data := content(50_000)
	d := s.AddBlob("base/static", data)
	r := testRepository(t, s, "app/web")
	mounted, err := r.Mount(t.Context(), d, s.Host+"/base/static")
	if err != nil || !mounted {
		t.Fatalf("mount: %v, %v", mounted, err)
	}
	if there, err := r.Exists(t.Context(), d); err != nil || !there {
		t.Errorf("exists: %v, %v", there, err)
	}
	if n := s.Count("HEAD", ""); n != 0 {
		t.Errorf("what is known was asked for %d times", n)
	}
	if mounted, err := r.Mount(t.Context(), blobDescriptor([]byte("x")), "other.example/base/static"); err != nil || mounted {
		t.Errorf("mount from another registry: %v, %v", mounted, err)
	}
}

func TestMountRefused(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]registrytest.Fault{
		"P13 400":       {Method: "POST", Status: 400},
		"upload opened": {Method: "DELETE"},
		"405":           {Method: "POST", Status: 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, registrytest.Config{})
			s.Inject(f)
			data := content(5000)
			r := testRepository(t, s, "app/web")
			mounted, err := r.Mount(t.Context(), blobDescriptor(data), s.Host+"/base/static")
			if err != nil || mounted {
				t.Fatalf("mount: %v, %v", mounted, err)
			}
			if err := r.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil); err != nil {
				t.Fatal(err)
			}
			if n := s.OpenUploads(); n != 0 {
				t.Errorf("%d uploads are left open", n)
			}
			want := 2
			if name == "upload opened" {
				want = 1
			}
			if n := s.Count("POST", ""); n != want {
				t.Errorf("%d uploads were opened, want %d", n, want)
			}
		})
	}
}

// TestPushOnce: who pushes the same blob at the same time shares one upload.
func TestPushOnce(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
	r := testRepository(t, s, "app/web")
	data := content(1 << 20)
	var opened atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := r.Exists(t.Context(), blobDescriptor(data)); err != nil {
				t.Error(err)
			}
			err := r.PushBlob(t.Context(), blobDescriptor(data), func() (io.ReadCloser, error) {
				opened.Add(1)
				return io.NopCloser(bytes.NewReader(data)), nil
			}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if opened.Load() != 1 || s.Count("PUT", "") != 1 || s.Count("", "/token") != 1 {
		t.Errorf("opened %d times\n%s", opened.Load(), logOf(s))
	}
}

// TestGate: while a registry has asked for patience nobody asks it anything.
func TestGate(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	s.Inject(registrytest.Fault{Method: "HEAD", Status: 429, Header: map[string]string{"Retry-After": "7"}})
	o := testOptions(t, nil)
	asleep := make(chan time.Duration, 100)
	wake := make(chan struct{})
	o.Sleep = func(ctx context.Context, d time.Duration) error {
		asleep <- d
		<-wake
		return nil
	}
	r := testRepositoryWith(t, s, "app/web", o)
	var group sync.WaitGroup
	look := func(i int) {
		group.Go(func() {
			if _, err := r.Exists(t.Context(), blobDescriptor([]byte{byte(i)})); err != nil {
				t.Error(err)
			}
		})
	}
	look(0)
	if d := <-asleep; d > 7*time.Second || d < 6*time.Second {
		t.Errorf("waits %v, want what is left of 7s", d)
	}
	before := len(s.Requests())
	for i := range 8 {
		look(i + 1)
	}
	for range 8 {
		<-asleep
	}
	if n := len(s.Requests()); n != before {
		t.Errorf("%d requests were sent while the registry wanted none", n-before)
	}
	close(wake)
	group.Wait()
}

func TestPushSourceFails(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	r := testRepository(t, s, "app/web")
	data := content(100_000)
	broken := errors.New("the disk is gone")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"open": func() (io.ReadCloser, error) { return nil, broken },
		"read": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(data[:500]), iotestErr{broken})), nil
		},
	} {
		if err := r.PushBlob(t.Context(), blobDescriptor(data), open, nil); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := r.PushBlob(t.Context(), blobDescriptor(data), opener(data[:500]), nil)
	wantRefusal(t, err, "PA408")
	if n := s.OpenUploads(); n != 0 {
		t.Errorf("%d uploads are left open", n)
	}
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

func TestPushCancelled(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	s.Inject(registrytest.Fault{Method: "PUT", Before: cancel, Cut: registrytest.Stall, At: 10})
	r := testRepository(t, s, "app/web")
	data := content(1 << 20)
	if err := r.PushBlob(ctx, blobDescriptor(data), opener(data), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := s.OpenUploads(); n != 0 {
		t.Errorf("%d uploads are left open", n)
	}
}

// TestRestart: a registry that has answered before is waited for.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	var down atomic.Int32
	s.Inject(registrytest.Fault{Method: "PUT", Path: uploadPath, Before: func() { down.Store(12); s.ForgetUploads() }, Cut: registrytest.Reset, At: 5000})
	o := testOptions(t, nil)
	o.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
		if down.Load() > 0 {
			down.Add(-1)
			return nil, dialError()
		}
		return http.DefaultTransport.RoundTrip(req)
	})
	r := testRepositoryWith(t, s, "app/web", o)
	data := content(100_000)
	if err := r.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil); err != nil {
		t.Fatal(describe(err))
	}
	down.Store(1 << 20)
	_, err := r.Exists(t.Context(), blobDescriptor([]byte("x")))
	e := wantRefusal(t, err, "PA404")
	if e.Kind != refusal.Unavailable {
		t.Errorf("kind %v", e.Kind)
	}
	if n := 1<<20 - down.Load(); n < maxTries || n > 300 {
		t.Errorf("tried %d times", n)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
	d := s.AddManifest("app/web", "v1", ocispec.MediaTypeImageManifest, []byte(`{}`))
	s.AddManifest("app/web", "v2", ocispec.MediaTypeImageManifest, []byte(`{}`))
	r := testRepository(t, s, "app/web")
	if err := r.DeleteTag(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	if tags := s.Tags("app/web"); len(tags) != 1 {
		t.Errorf("tags %v", tags)
	}
	if err := r.Delete(t.Context(), d.Digest); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), d.Digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting what isn't there: %v", err)
	}
	wantRefusal(t, r.DeleteTag(t.Context(), "a/b"), "PA503")
	s.Inject(registrytest.Fault{Method: "DELETE", Status: 405})
	wantRefusal(t, r.DeleteTag(t.Context(), "v2"), "PA406")
}

func TestPushReferrer(t *testing.T) {
	t.Parallel()
	for _, without := range []bool{false, true} {
		s := registrytest.New(t, registrytest.Config{NoReferrers: without})
		r := testRepository(t, s, "app/web")
		subject := blobDescriptor([]byte("subject"))
		data := []byte(`{"schemaVersion":2,"artifactType":"a/b","subject":{"mediaType":"x","digest":"` + subject.Digest.String() + `","size":7}}`)
		d := blobDescriptor(data)
		d.MediaType = ocispec.MediaTypeImageManifest
		listed, err := r.PushReferrer(t.Context(), d, data)
		if err != nil || listed == without {
			t.Errorf("pushing a referrer: listed %v, %v", listed, err)
		}
		if without {
			index := []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"` + d.MediaType + `","digest":"` + d.Digest.String() + `","size":1}]}`)
			s.AddManifest("app/web", ReferrersTag(subject.Digest), ocispec.MediaTypeImageIndex, index)
		}
		found, err := r.Referrers(t.Context(), subject.Digest)
		if err != nil || len(found) != 1 || found[0].Digest != d.Digest {
			t.Errorf("referrers: %v, %v", found, err)
		}
		none, err := r.Referrers(t.Context(), d.Digest)
		if err != nil || len(none) != 0 {
			t.Errorf("referrers of what has none: %v, %v", none, err)
		}
	}
}
