package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/registry/registrytest"
	"github.com/anyarch/anyarch/internal/store"
)

const blobsPath = `/blobs/sha256:`

// TestFetchSurvives goes through the faults of pulling that a client should
// ride out.
func TestFetchSurvives(t *testing.T) {
	t.Parallel()
	type fault = registrytest.Fault
	cuts := func(how registrytest.Cut) []fault {
		return []fault{{Path: blobsPath, Cut: how, At: bigBlob / 4, Times: 3}}
	}
	tests := map[string]struct {
		config registrytest.Config
		faults []fault
		amp    float64 // bytes sent at most; 0 isn't checked
		idle   time.Duration
	}{
		"nothing goes wrong":               {amp: 1},
		"G1 every path answers 503 once":   {faults: []fault{{Path: `^/v2/$`, Status: 503}, {Method: "HEAD", Status: 503}, {Path: manifestPath, Status: 503}, {Path: blobsPath, Status: 503}}, amp: 1.01},
		"G2 manifest answers 502 4 times":  {faults: []fault{{Path: manifestPath, Status: 502, Times: 4}}, amp: 1},
		"G3 429 with Retry-After":          {faults: []fault{{Path: blobsPath, Status: 429, Header: map[string]string{"Retry-After": "3"}}}, amp: 1.01},
		"G4 RST at half":                   {faults: []fault{{Path: blobsPath, Cut: registrytest.Reset, At: bigBlob / 2}}, amp: 1.6},
		"G5 RST every 25 %":                {faults: cuts(registrytest.Reset)},
		"G6 FIN at half":                   {faults: []fault{{Path: blobsPath, Cut: registrytest.Close, At: bigBlob / 2}}, amp: 1.01},
		"G7 FIN every 25 %":                {faults: cuts(registrytest.Close), amp: 1.01},
		"G8 RST and no Range":              {config: registrytest.Config{NoRange: true}, faults: []fault{{Path: blobsPath, Cut: registrytest.Reset, At: bigBlob / 2}}, amp: 1.6},
		"G9 stall at half":                 {faults: []fault{{Path: blobsPath, Cut: registrytest.Stall, At: bigBlob / 2}}, amp: 1.01, idle: 500 * time.Millisecond},
		"G9 stall before the answer":       {faults: []fault{{Path: blobsPath, Cut: registrytest.Stall}}, amp: 1.01, idle: 500 * time.Millisecond},
		"G17 HEAD 405":                     {faults: []fault{{Method: "HEAD", Status: 405, Times: -1}}, amp: 1.01},
		"G18 token dies after 2 requests":  {config: registrytest.Config{User: testUser, Password: testPassword, TokenUses: 2}, amp: 1.01},
		"manifest is cut":                  {faults: []fault{{Method: "GET", Path: manifestPath, Cut: registrytest.Reset, At: 20, Times: 2}}, amp: 1.01},
		"another range than asked for":     {faults: []fault{{Path: blobsPath, Cut: registrytest.Close, At: 1 << 20}, {Path: blobsPath, Skip: 1, Status: 206, Header: map[string]string{"Content-Range": "bytes 7340032-8388607/8388608"}}}},
		"416 for what is left":             {faults: []fault{{Path: blobsPath, Cut: registrytest.Close, At: 1 << 20}, {Path: blobsPath, Skip: 1, Status: 416}}},
		"digest missing in answer to HEAD": {faults: []fault{{Method: "HEAD", Path: manifestPath, Status: 200, Times: -1}}, amp: 1.01},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, tt.config)
			layer := content(bigBlob)
			blob := s.AddBlob("app/web", layer)
			_, _, manifest := testImage(t, layer)
			want := s.AddManifest("app/web", "v1", ocispec.MediaTypeImageManifest, manifest)
			for _, f := range tt.faults {
				s.Inject(f)
			}
			o := testOptions(t, loginEnv(s.Host))
			o.IdleTimeout = tt.idle
			r := testRepositoryWith(t, s, "app/web", o)
			d, err := r.Resolve(t.Context(), "v1")
			if err != nil || d.Digest != want.Digest || d.Size != want.Size || d.MediaType != want.MediaType {
				t.Fatalf("resolve: %v, %s", d, describe(err))
			}
			if got, err := readAll(t, r, d); err != nil || !bytes.Equal(got, manifest) {
				t.Fatalf("manifest: %d bytes, %s", len(got), describe(err))
			}
			got, err := readAll(t, r, blob)
			if err != nil || !bytes.Equal(got, layer) {
				t.Fatalf("blob: %d bytes, %s\n%s", len(got), describe(err), logOf(s))
			}
			var sent int64
			for _, q := range s.Requests() {
				if strings.Contains(q.Path, blobsPath) {
					sent += q.Sent
				}
			}
			if amp := float64(sent) / bigBlob; tt.amp > 0 && amp > tt.amp+0.001 {
				t.Errorf("%.2f times the blob was sent, want at most %.2f\n%s", amp, tt.amp, logOf(s))
			}
		})
	}
}

// TestFetchDamaged: wrong bytes never end well.
func TestFetchDamaged(t *testing.T) {
	t.Parallel()
	layer := content(300_000)
	serve := func(data []byte, length int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if length >= 0 {
				w.Header().Set("Content-Length", strconv.Itoa(length))
			}
			_, _ = w.Write(data)
		}
	}
	type fault = registrytest.Fault
	for name, tt := range map[string]struct {
		faults  []fault
		noRange bool
	}{
		"G10 short, and says so":     {faults: []fault{{Path: blobsPath, Times: -1, Serve: serve(layer[:1000], 1000)}}},
		"G10 short, chunked":         {faults: []fault{{Path: blobsPath, Times: -1, Serve: serve(layer[:200_000], -1)}}},
		"G11 flipped byte":           {faults: []fault{{Path: blobsPath, Times: -1, Flip: true, FlipAt: 5000}}},
		"G12 trailing, and says so":  {faults: []fault{{Path: blobsPath, Times: -1, Serve: serve(append(slices.Clone(layer), 1), len(layer)+1)}}},
		"G12 trailing, chunked":      {faults: []fault{{Path: blobsPath, Times: -1, Serve: serve(append(slices.Clone(layer), 1), -1)}}},
		"prefix changes on restart":  {noRange: true, faults: []fault{{Path: blobsPath, Cut: registrytest.Close, At: 200_000}, {Path: blobsPath, Times: -1, Flip: true, FlipAt: 100}}},
		"suffix is flipped, resumed": {faults: []fault{{Path: blobsPath, Cut: registrytest.Close, At: 200_000}, {Path: blobsPath, Times: -1, Flip: true, FlipAt: 100}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, registrytest.Config{NoRange: tt.noRange})
			d := s.AddBlob("app/web", layer)
			for _, f := range tt.faults {
				s.Inject(f)
			}
			_, err := readAll(t, testRepository(t, s, "app/web"), d)
			wantRefusal(t, err, "PA408")
		})
	}
}

func TestFetchManifestRefused(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	d := s.AddManifest("app/web", "v1", ocispec.MediaTypeImageManifest, []byte(`{"a":1}`))
	r := testRepository(t, s, "app/web")
	s.Inject(registrytest.Fault{Path: manifestPath, Flip: true, FlipAt: 2})
	_, err := r.Fetch(t.Context(), d)
	wantRefusal(t, err, "PA408") // G13
	s.Inject(registrytest.Fault{Path: manifestPath, Serve: func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}})
	_, err = r.Fetch(t.Context(), d)
	wantRefusal(t, err, "PA406") // G14
	for _, name := range []string{"v2", "sha256:" + strings.Repeat("a", 64)} {
		if _, err := r.Resolve(t.Context(), name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("resolve %s: %v", name, err)
		}
	}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x"), Size: 1}
	if _, err := r.Fetch(t.Context(), absent); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("fetch of an absent blob: %v", err)
	}
	if _, err := r.Fetch(t.Context(), ocispec.Descriptor{Digest: "sha256:../../x"}); err == nil {
		t.Error("a digest that is none was fetched")
	}
	_, err = r.Resolve(t.Context(), "../v1")
	wantRefusal(t, err, "PA503")
}

// TestRedirects has what a registry may lead its client to, and what not.
func TestRedirects(t *testing.T) {
	t.Parallel()
	layer := content(100_000)
	var seen atomic.Value
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Clone())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(layer))
	}))
	t.Cleanup(storage.Close)
	type test struct {
		tls   bool
		place string
		code  string // empty if it is followed
		most  int
	}
	tests := map[string]test{
		"G15 to another host":       {place: storage.URL + "/blob?signature=secret"},
		"G16 loop":                  {place: "again", code: "PA406", most: maxRedirects + 1},
		"P22 metadata service":      {place: "http://169.254.169.254/latest/meta-data/", code: "PA406", most: 1},
		"mapped metadata service":   {place: "http://[::ffff:169.254.169.254]/", code: "PA406", most: 1},
		"javascript":                {place: "javascript:alert(1)", code: "PA406", most: 1},
		"file":                      {place: "file:///etc/passwd", code: "PA406", most: 1},
		"no Location":               {place: "", code: "PA406", most: 1},
		"from https to http":        {tls: true, place: storage.URL + "/blob", code: "PA406", most: 1},
		"credentials in a Location": {place: strings.Replace(storage.URL, "http://", "http://user:pw@", 1)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword, TLS: tt.tls})
			d := s.AddBlob("app/web", layer)
			place := tt.place
			if place == "again" {
				place = "/v2/app/web/blobs/" + d.Digest.String()
			}
			s.Inject(registrytest.Fault{Path: blobsPath, Times: -1, Status: 307, Header: map[string]string{"Location": place}})
			o := testOptions(t, loginEnv(s.Host))
			if tt.tls {
				o.RegistriesConf = []string{writeFile(t, "registries.conf", "[[registry]]\nlocation = \""+s.Host+"\"\ninsecure = true\n")}
			}
			got, err := readAll(t, testRepositoryWith(t, s, "app/web", o), d)
			if tt.code != "" {
				e := wantRefusal(t, err, tt.code)
				if strings.Contains(describe(e), "signature") {
					t.Errorf("the error shows a signed URL: %s", describe(e))
				}
				if n := s.Count("GET", blobsPath); n > tt.most {
					t.Errorf("%d requests", n)
				}
				return
			}
			if err != nil || !bytes.Equal(got, layer) {
				t.Fatalf("%d bytes, %s", len(got), describe(err))
			}
			if h := seen.Load().(http.Header); h.Get("Authorization") != "" {
				t.Errorf("another host has seen the authorization %q", h.Get("Authorization"))
			}
		})
	}
}

// TestUploadLocation has where a registry may lead an upload to (P20, P27).
func TestUploadLocation(t *testing.T) {
	t.Parallel()
	data := content(20_000)
	var query, authorization atomic.Value
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query.Store(r.URL.RawQuery)
		authorization.Store(r.Header.Get("Authorization"))
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(storage.Close)
	for name, tt := range map[string]struct{ place, query, code string }{
		"with query":       {place: storage.URL + "/up?sig=a%2Fb", query: "sig=a%2Fb&digest=sha256%3A" + digest.FromBytes(data).Encoded()},
		"without query":    {place: storage.URL + "/up", query: "digest=sha256%3A" + digest.FromBytes(data).Encoded()},
		"metadata service": {place: "http://169.254.169.254/", code: "PA406"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
			s.Inject(registrytest.Fault{Method: "POST", Status: 202, Header: map[string]string{"Location": tt.place}})
			err := testRepository(t, s, "app/web").PushBlob(t.Context(), blobDescriptor(data), opener(data), nil)
			if tt.code != "" {
				wantRefusal(t, err, tt.code)
				return
			}
			if err != nil {
				t.Fatal(describe(err))
			}
			if query.Load() != tt.query || authorization.Load() != "" {
				t.Errorf("query %v, authorization %q", query.Load(), authorization.Load())
			}
		})
	}
}

func writeFile(t testing.TB, name, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMirrors reads through mirrors and writes past them.
func TestMirrors(t *testing.T) {
	t.Parallel()
	mirror, home := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
	layer := content(600_000)
	d := home.AddBlob("real/app", layer)
	_, _, manifest := testImage(t, layer)
	m := home.AddManifest("real/app", "v1", ocispec.MediaTypeImageManifest, manifest)
	conf := fmt.Sprintf(`
[[registry]]
prefix = "example.com/team"
location = %q
[[registry.mirror]]
location = %q
`, home.Host+"/real", mirror.Host+"/cache")
	o := testOptions(t, nil)
	o.RegistriesConf = []string{writeFile(t, "registries.conf", conf)}
	client := testClient(t, o)
	r, err := client.Repository("example.com/team/app")
	if err != nil {
		t.Fatal(err)
	}
	if r.Name() != "example.com/team/app" {
		t.Errorf("name %s", r.Name())
	}
	// The mirror hasn't got it, then it has.
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != m.Digest {
		t.Fatalf("resolve: %v %s", got, describe(err))
	}
	mirror.AddManifest("cache/app", "v1", ocispec.MediaTypeImageManifest, []byte(`{"late":true}`))
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest == m.Digest {
		t.Errorf("the mirror wasn't asked: %v, %v", got, err)
	}
	if got, err := r.Direct().Resolve(t.Context(), "v1"); err != nil || got.Digest != m.Digest {
		t.Errorf("the mirror was asked: %v, %v", got, err)
	}
	if got, err := r.Head(t.Context(), "v1"); err != nil || got.Digest != m.Digest {
		t.Errorf("the mirror was asked: %v, %v", got, err)
	}
	// A mirror that breaks down in the middle of a blob is replaced.
	mirror.AddBlob("cache/app", layer)
	mirror.Inject(registrytest.Fault{Path: blobsPath, Cut: registrytest.Close, At: 400_000})
	mirror.Inject(registrytest.Fault{Path: blobsPath, Status: 503, Times: -1})
	got, err := readAll(t, r, d)
	if err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %s", len(got), describe(err))
	}
	// One that gives wrong bytes is passed over from then on.
	mirror.Heal()
	mirror.Inject(registrytest.Fault{Path: blobsPath, Flip: true, Times: -1})
	_, err = readAll(t, r, d)
	wantRefusal(t, err, "PA408")
	if got, err := readAll(t, r, d); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %s", len(got), describe(err))
	}
	// What is pushed doesn't go to mirrors.
	mirror.ForgetRequests()
	data := content(4000)
	if err := r.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := home.Blob("real/app", blobDescriptor(data).Digest); !ok || len(mirror.Requests()) > 0 {
		t.Errorf("pushed to the wrong place: %s", logOf(mirror))
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{PageSize: 3})
	var want []string
	for i := range 10 {
		tag := fmt.Sprintf("v%d", i)
		s.AddManifest("app/web", tag, ocispec.MediaTypeImageManifest, []byte(`{}`))
		want = append(want, tag)
	}
	r := testRepository(t, s, "app/web")
	if got, err := r.Tags(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("tags %v, %v", got, err)
	}
	_, err := testRepository(t, s, "app/none").Tags(t.Context())
	if wantRefusal(t, err, "PA403"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v isn't store.ErrNotFound", err)
	}
	for _, link := range []string{`</v2/app/web/tags/list?n=1000>; rel="next"`, `<https://elsewhere.example/>; rel="next"`} {
		s.Heal()
		s.Inject(registrytest.Fault{Path: "/tags/", Times: -1, Status: 200, Header: map[string]string{"Link": link}, Body: `{"tags":["a"]}`})
		_, err := r.Tags(t.Context())
		wantRefusal(t, err, "PA406")
	}
}
