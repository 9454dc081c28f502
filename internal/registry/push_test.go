package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

const (
	uploadPath   = `/blobs/uploads/upload-`
	bigBlob      = 8 << 20
	manifestPath = `/manifests/`
)

// TestPushSurvives goes through the faults of pushing that a client should ride
// out.
func TestPushSurvives(t *testing.T) {
	t.Parallel()
	expire := func(s *registrytest.Server) func() { return s.ExpireTokens }
	token := registrytest.Config{User: testUser, Password: testPassword}
	type fault = registrytest.Fault
	tests := map[string]struct {
		config registrytest.Config
		faults func(s *registrytest.Server) []fault
		amp    float64       // bytes received at most, for each byte of the blob
		idle   time.Duration // if not the usual
		check  func(t *testing.T, s *registrytest.Server)
	}{
		"nothing goes wrong": {amp: 1, check: func(t *testing.T, s *registrytest.Server) {
			// ping (https fails before it is one), then per blob HEAD, POST, PUT, then two manifests
			if n := len(s.Requests()); n != 1+2*3+2 {
				t.Errorf("%d requests, want 9: %v", n, s.Requests())
			}
		}},
		"with a token": {config: token, amp: 1, check: func(t *testing.T, s *registrytest.Server) {
			if n := s.Count("", "/token"); n != 1 {
				t.Errorf("%d tokens were asked for, want 1", n)
			}
			if n := s.Count("", "^/v2/$"); n != 1 {
				t.Errorf("/v2/ was asked for %d times, want once", n)
			}
		}},
		"with Basic": {config: registrytest.Config{User: testUser, Password: testPassword, Basic: true}, amp: 1},
		"P1 every path answers 503 once": {faults: func(*registrytest.Server) []fault {
			return []fault{
				{Path: `^/v2/$`, Status: 503}, {Method: "HEAD", Status: 503}, {Method: "POST", Status: 503},
				{Method: "PUT", Path: uploadPath, Status: 503}, {Method: "PUT", Path: manifestPath, Status: 503},
			}
		}, amp: 2},
		"P1 token server answers 503 once": {config: token, faults: func(*registrytest.Server) []fault {
			return []fault{{Path: `/token`, Status: 503}}
		}, amp: 1},
		"P2 commit answers 500 twice": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Drain: true, Status: 500, Times: 2}}
		}, amp: 3},
		"P3 manifest answers 502 four times": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: manifestPath, Status: 502, Times: 4}}
		}, amp: 1},
		"P4 429 with Retry-After": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "POST", Status: 429, Header: map[string]string{"Retry-After": "3"}}}
		}, amp: 1},
		"P6 reset in the middle of a blob": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: bigBlob / 2}}
		}, amp: 1.1},
		"P6 reset, and the registry forgets": {config: registrytest.Config{NoResume: true}, faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: bigBlob / 2}}
		}, amp: 1.6},
		"P7 reset of every request over 3 MiB": {faults: func(*registrytest.Server) []fault {
			return []fault{{MinBody: 3 << 20, Cut: registrytest.Reset, At: 3 << 20, Times: -1}}
		}, amp: 1.5},
		"P7 413 for every request over 3 MiB": {faults: func(*registrytest.Server) []fault {
			return []fault{{MinBody: 3 << 20, Drain: true, Status: 413, Times: -1}}
		}, amp: 2.1},
		"P8 upload stalls half way": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Stall, At: bigBlob / 2}}
		}, amp: 1.1, idle: 500 * time.Millisecond},
		"P9 upload session lost": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Drain: true, Status: 404, Body: `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`}}
		}, amp: 2},
		"P10 commit answers 500 but has stored": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Served: true, Status: 500}}
		}, amp: 1},
		"P10 commit is cut but has stored": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Served: true, Status: 201, Cut: registrytest.Reset}}
		}, amp: 1},
		"P11 manifest answers 500 but has stored": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: manifestPath, Served: true, Status: 500}}
		}, amp: 1},
		"P12 no HEAD": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "HEAD", Status: 405, Times: -1}}
		}, amp: 1},
		"P14 PATCH answers 405": {faults: func(*registrytest.Server) []fault {
			return []fault{
				{Method: "PATCH", Status: 405, Times: -1},
				{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: bigBlob / 2},
			}
		}, amp: 3},
		"P15 monolithic PUT answers 405": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Drain: true, Status: 405, Times: -1}}
		}, amp: 2.1},
		"P15 monolithic PUT answers 405 without reading": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Status: 405, Times: -1}}
		}, amp: 2.1},
		"P17 token dies after 3 requests": {
			config: registrytest.Config{User: testUser, Password: testPassword, TokenUses: 3}, amp: 2,
		},
		"P18 token dies at the upload": {config: token, faults: func(s *registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Before: expire(s)}}
		}, amp: 2},
		"P19 token dies at the upload, body is read": {config: token, faults: func(s *registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, Before: expire(s), Drain: true, Status: 401, Header: map[string]string{
				"WWW-Authenticate": `Bearer realm="` + s.URL + `/token",service="test"`,
			}}}
		}, amp: 2},
		"P23 416 with Range": {faults: func(*registrytest.Server) []fault {
			return []fault{
				{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: bigBlob / 2},
				{Method: "PATCH", Status: 416, Header: map[string]string{"Range": fmt.Sprintf("0-%d", bigBlob/2-1)}},
			}
		}, amp: 1.3},
		"P24 PATCH answers 201": {faults: func(*registrytest.Server) []fault {
			return []fault{
				{Method: "PUT", Path: uploadPath, MinBody: 1, Status: 405, Drain: true},
				{Method: "PATCH", Served: true, Status: 201, Times: -1},
			}
		}, amp: 2.1},
		"P25 OCI-Chunk-Min-Length": {config: registrytest.Config{MinChunk: 3 << 20}, faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: bigBlob / 4}}
		}, amp: 1.1, check: func(t *testing.T, s *registrytest.Server) {
			for i, r := range patches(s) {
				if r.Received < 3<<20 && i < len(patches(s))-1 {
					t.Errorf("chunk %d has %d bytes, which is less than the registry takes", i, r.Received)
				}
			}
		}},
		"P29 manifest's blobs are seen late": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "PUT", Path: manifestPath, Status: 404, Times: 3, Body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`}}
		}, amp: 1},
		"POST is reset": {faults: func(*registrytest.Server) []fault {
			return []fault{{Method: "POST", Cut: registrytest.Reset}, {Method: "POST", Cut: registrytest.Close, Skip: 1}}
		}, amp: 1},
		"ten cuts": {faults: func(*registrytest.Server) []fault {
			return []fault{{Path: uploadPath, MinBody: 1, Cut: registrytest.Reset, At: 700 << 10, Times: 10}}
		}, amp: 1.5},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, tt.config)
			if tt.faults != nil {
				for _, f := range tt.faults(s) {
					s.Inject(f)
				}
			}
			o := testOptions(t, loginEnv(s.Host))
			o.IdleTimeout = tt.idle
			r := testRepositoryWith(t, s, "app/web", o).Direct()
			layer := content(bigBlob)
			blobs, d, manifest := testImage(t, layer)
			if err := pushImage(t.Context(), r, "v1", blobs, d, manifest); err != nil {
				t.Fatalf("%s\n%s", describe(err), logOf(s))
			}
			if got := s.Tags("app/web")["v1"]; got != d.Digest {
				t.Errorf("the tag names %q", got)
			}
			for _, data := range blobs {
				if got, ok := s.Blob("app/web", blobDescriptor(data).Digest); !ok || !bytes.Equal(got, data) {
					t.Errorf("a blob of %d bytes arrived as %d", len(data), len(got))
				}
			}
			var received int64
			for _, q := range s.Requests() {
				if strings.Contains(q.Path, "/blobs/") {
					received += q.Received
				}
			}
			if amp := float64(received) / float64(bigBlob); amp > tt.amp+0.001 {
				t.Errorf("%.2f times the blob was received, want at most %.2f\n%s", amp, tt.amp, logOf(s))
			}
			if n := s.OpenUploads(); n > 2 {
				t.Errorf("%d uploads are left open", n)
			}
			if tt.check != nil {
				tt.check(t, s)
			}
		})
	}
}

func patches(s *registrytest.Server) []registrytest.Request {
	return slices.DeleteFunc(s.Requests(), func(r registrytest.Request) bool { return r.Method != http.MethodPatch })
}

func logOf(s *registrytest.Server) string {
	var b strings.Builder
	for _, r := range s.Requests() {
		fmt.Fprintf(&b, "%s %s %d in %d out %d %s\n", r.Method, r.Path, r.Status, r.Received, r.Sent, r.Range)
	}
	return b.String()
}

// TestPushRefused has what can't be ridden out: it fails with the right words,
// and the tag stays where it was.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	type fault = registrytest.Fault
	tests := map[string]struct {
		config registrytest.Config
		env    map[string]string
		faults []fault
		code   string
		says   []string
		most   int // requests of the kind that fails
		path   string
	}{
		"P5 429 for ever": {
			faults: []fault{{Method: "POST", Status: 429, Times: -1}},
			code:   "PA405", says: []string{"429", "8 times"}, most: 8, path: "/uploads/$",
		},
		"429 with a long wait": {
			faults: []fault{{Method: "POST", Status: 429, Times: -1, Header: map[string]string{"Retry-After": "3600"}}},
			code:   "PA405", says: []string{"1h0m0s", "run the command again after"}, most: 1, path: "/uploads/$",
		},
		"5xx for ever": {
			faults: []fault{{Method: "PUT", Path: manifestPath, Status: 502, Times: -1}},
			code:   "PA404", says: []string{"502", "8 times", "push manifest"}, most: 8, path: manifestPath,
		},
		"P16 media type": {
			faults: []fault{{Method: "PUT", Path: manifestPath, Status: 415, Times: -1}},
			code:   "PA406", says: []string{"415", "--media-types docker"}, most: 1, path: manifestPath,
		},
		"P28 stored under another digest": {
			faults: []fault{{Method: "PUT", Path: manifestPath, Served: true, Status: 201, Header: map[string]string{"Docker-Content-Digest": "sha256:" + strings.Repeat("0", 64)}}},
			code:   "PA408", most: 1, path: manifestPath,
		},
		"P30 413 for a manifest": {
			faults: []fault{{Method: "PUT", Path: manifestPath, Status: 413, Times: -1}},
			code:   "PA406", says: []string{"413"}, most: 1, path: manifestPath,
		},
		"P31 507": {
			faults: []fault{{Method: "PUT", Path: uploadPath, Status: 507, Drain: true, Times: -1, Body: `{"errors":[{"code":"DENIED","message":"quota exceeded"}]}`}},
			code:   "PA406", says: []string{"507", "quota exceeded"}, most: 1, path: uploadPath,
		},
		"P26 POST without Location": {
			faults: []fault{{Method: "POST", Status: 202, Times: -1}},
			code:   "PA406", says: []string{"Location"}, most: 1, path: "/uploads/$",
		},
		"403": {
			faults: []fault{{Method: "POST", Status: 403, Times: -1, Body: `{"errors":[{"code":"DENIED","message":"permission denied: correct-horse-battery"}]}`}},
			config: registrytest.Config{User: testUser, Password: testPassword},
			code:   "PA402", says: []string{testUser, "ANYARCH_REGISTRY_PASSWORD", "repository:app/web:pull,push", "anyarch login", "***"}, most: 1, path: "/uploads/$",
		},
		"no repository": {
			faults: []fault{{Method: "POST", Status: 404, Times: -1, Body: `{"errors":[{"code":"NAME_UNKNOWN"}]}`}},
			code:   "PA403", says: []string{"NAME_UNKNOWN"}, most: 1, path: "/uploads/$",
		},
		"no credentials": {
			config: registrytest.Config{User: testUser, Password: testPassword}, env: map[string]string{"HOME": "/nonexistent"},
			code: "PA401", says: []string{"there are none", "anyarch login", "~/.config/containers/auth.json"}, most: 1, path: "/token",
		},
		"no credentials, Basic": {
			config: registrytest.Config{User: testUser, Password: testPassword, Basic: true}, env: map[string]string{},
			code: "PA401", says: []string{"there are none"}, most: 2, path: "/blobs/",
		},
		"wrong credentials": {
			config: registrytest.Config{User: testUser, Password: "another"},
			code:   "PA401", says: []string{testUser, "ANYARCH_REGISTRY_USER", "wrong password ***"}, most: 1, path: "/token",
		},
		"blob changed on the way, always": {
			faults: []fault{{Method: "PUT", Path: uploadPath, Drain: true, Status: 400, Times: -1, Body: `{"errors":[{"code":"DIGEST_INVALID"}]}`}},
			code:   "PA408", most: 2, path: uploadPath,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, tt.config)
			old := s.AddManifest("app/web", "v1", ocispec.MediaTypeImageManifest, []byte(`{"old":true}`))
			for _, f := range tt.faults {
				s.Inject(f)
			}
			env := tt.env
			if env == nil {
				env = loginEnv(s.Host)
			}
			r := testRepositoryWith(t, s, "app/web", testOptions(t, env)).Direct()
			blobs, d, manifest := testImage(t, content(100_000))
			err := pushImage(t.Context(), r, "v1", blobs, d, manifest)
			e := wantRefusal(t, err, tt.code)
			text := describe(e)
			for _, want := range tt.says {
				if !strings.Contains(text, want) {
					t.Errorf("the error doesn't say %q:\n%s", want, text)
				}
			}
			if got := s.Tags("app/web")["v1"]; got != old.Digest {
				t.Errorf("the tag has moved to %s", got)
			}
			if n := s.Count("", tt.path) - s.Count("DELETE", tt.path); n > tt.most {
				t.Errorf("%d requests, want at most %d\n%s", n, tt.most, logOf(s))
			}
			if n := s.OpenUploads(); n > 0 {
				t.Errorf("%d uploads are left open", n)
			}
		})
	}
}
