package registry

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry/registrytest"
)

// TestTokenServer has where credentials go (reliability H1, P21, P22).
func TestTokenServer(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sink []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = r.ParseForm()
		sink = append(sink, r.Header.Get("Authorization")+r.Form.Encode())
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	for name, tt := range map[string]struct{ realm, code string }{
		"metadata service":         {"http://169.254.169.254/token", "PA406"},
		"mapped metadata service":  {"http://[::ffff:169.254.169.254]/token", "PA406"},
		"file":                     {"file:///etc/passwd", "PA406"},
		"none":                     {"", "PA401"}, // the test server's own; the password is wrong
		"on another loopback port": {elsewhere.URL, "PA401"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Config{User: testUser, Password: "another", Realm: tt.realm})
			_, err := testRepository(t, s, "app/web").Tags(t.Context())
			wantRefusal(t, err, tt.code)
		})
	}
	mu.Lock()
	defer mu.Unlock()
	if len(sink) != 1 {
		t.Errorf("the other host was asked %d times", len(sink))
	}
}

func TestTrustedRealm(t *testing.T) {
	t.Parallel()
	c := testClient(t, Options{Getenv: func(string) string { return "" }, TrustRealm: []string{"login.example.net"}})
	for _, tt := range []struct {
		registry, realm string
		want            bool
	}{
		{"docker.io", "https://auth.docker.io/token", true},
		{"ghcr.io", "https://ghcr.io/token", true},
		{"registry.gitlab.com", "https://gitlab.com/jwt/auth", true},
		{"registry.example.com", "https://login.example.net/token", true},
		{"registry.example.com", "https://evil.example.org/token", false},
		{"registry.example.co.uk", "https://auth.example.co.uk/token", true},
		{"registry.example.co.uk", "https://evil.co.uk/token", false},
		{"rg.fr-par.scw.cloud", "https://api.scaleway.com/token", true},
		{"10.0.0.5:5000", "https://10.0.0.5/token", true},
		{"10.0.0.5:5000", "https://11.0.0.5/token", false},
		{"example.com", "https://example.com.evil.org/token", false},
		{"localhost:5000", "http://127.0.0.1:5001/token", true},
		{"registry.localnet", "https://other.localnet/token", false},
	} {
		u, err := url.Parse(tt.realm)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.host(tt.registry, false).trusts(u); got != tt.want {
			t.Errorf("%s trusts %s: %v", tt.registry, tt.realm, got)
		}
	}
}

func TestReach(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]reach{
		"8.8.8.8": public, "2600::1": public, "10.0.0.1": private, "172.16.0.1": private, "192.168.1.1": private,
		"100.64.0.1": private, "fd12::1": private, "127.0.0.1": loopback, "127.9.9.9": loopback, "::1": loopback, "0.0.0.0": loopback,
		"169.254.169.254": linkLocal, "fe80::1": linkLocal, "fd00:ec2::254": linkLocal, "::ffff:169.254.169.254": linkLocal,
		"::ffff:127.0.0.1": loopback, "64:ff9b::a9fe:a9fe": linkLocal, "64:ff9b::808:808": public, "255.255.255.255": private, "224.0.0.1": linkLocal,
	} {
		if got := reachOf(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s is at %d, want %d", ip, got, want)
		}
	}
	for _, tt := range []struct {
		from, to reach
		want     bool
	}{
		{public, public, true}, {public, private, false}, {public, loopback, false}, {public, linkLocal, false},
		{private, private, true}, {private, loopback, false}, {private, linkLocal, false}, {private, public, true},
		{loopback, loopback, true}, {loopback, private, true}, {loopback, linkLocal, false}, {linkLocal, linkLocal, true},
	} {
		if got := mayReach(tt.from, tt.to); got != tt.want {
			t.Errorf("from %d to %d: %v", tt.from, tt.to, got)
		}
	}
}

// TestGuardResolves: a name that resolves to a near address isn't dialled by
// who was led there from afar.
func TestGuardResolves(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	tr := newTransports(nil)
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	for _, from := range []reach{public, private, linkLocal} {
		_, err := tr.dialLed(t.Context(), "tcp", "localhost:"+port, from)
		if _, ok := errors.AsType[*guardError](err); !ok {
			t.Errorf("from %d: %v", from, err)
		}
	}
	conn, err := tr.dialLed(t.Context(), "tcp", "localhost:"+port, loopback)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{})
	s.AddManifest("app/web", "v1", "a/b", []byte(`{}`))
	o := testOptions(t, nil)
	o.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Scheme == "https" {
			return nil, errors.New("http: server gave HTTP response to HTTPS client")
		}
		req.URL.Host = s.Host
		return http.DefaultTransport.RoundTrip(req)
	})
	r, err := testClient(t, o).Repository("registry.example/app/web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Tags(t.Context())
	e := wantRefusal(t, err, "PA409")
	if e.Kind != refusal.Usage || len(e.Fix) != 1 || e.Fix[0] != "--plain-http registry.example" {
		t.Errorf("%+v", e)
	}
	o.PlainHTTP = []string{"registry.example"}
	r, err = testClient(t, o).Repository("registry.example/app/web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Tags(t.Context()); err != nil {
		t.Error(describe(err))
	}
}

// TestCredentials has every place that credentials are found in.
func TestCredentials(t *testing.T) {
	const file = `{"auths":{"example.com":{"auth":"c29tZWJvZHk6ZmlsZQ=="},"example.com/team":{"auth":"c29tZWJvZHk6dGVhbQ=="},"https://index.docker.io/v1/":{"auth":"c29tZWJvZHk6aHVi"}}}`
	helpers := t.TempDir()
	for _, kind := range []string{"good", "token", "none", "broken", "endless"} {
		link(t, filepath.Join(helpers, helperPrefix+kind))
	}
	t.Setenv("PATH", helpers+string(os.PathListSeparator)+os.Getenv("PATH"))
	tests := map[string]struct {
		docker, podman string
		env            map[string]string
		host, path     string
		user, password string // empty: none are found
		place          string
		note           string
	}{
		"docker":               {docker: file, host: "example.com", path: "x", user: "somebody", password: "file", place: `config.json (auths["example.com"])`},
		"docker, part of host": {docker: file, host: "example.com", path: "team/x", user: "somebody", password: "team", place: "example.com/team"},
		"docker, hub":          {docker: file, host: "docker.io", path: "library/alpine", user: "somebody", password: "hub", place: "index.docker.io/v1"},
		"podman":               {podman: file, host: "example.com", user: "somebody", password: "file", place: "auth.json"},
		"none":                 {docker: file, host: "other.example"},
		"broken docker config": {docker: `{"auths":{"example.com":{"auth":"!!!"}}}`, podman: file, host: "example.com", user: "somebody", password: "file", note: "isn't readable"},
		"helper":               {docker: `{"credHelpers":{"example.com":"good"}}`, host: "example.com", user: testUser, password: testPassword, place: "docker-credential-good"},
		"store":                {docker: `{"credsStore":"good","auths":{"example.com":{}}}`, host: "example.com", user: testUser, password: testPassword, place: "credsStore"},
		"helper has none":      {docker: `{"credsStore":"none","auths":{"example.com":{"auth":"c29tZWJvZHk6ZmlsZQ=="}}}`, host: "example.com", user: "somebody", password: "file"},
		"helper breaks":        {docker: `{"credsStore":"broken"}`, host: "example.com", note: "ended with"},
		"helper is endless":    {docker: `{"credsStore":"endless"}`, host: "example.com", note: "more than 65536 bytes"},
		"helper is missing":    {docker: `{"credsStore":"nonesuch"}`, host: "example.com", note: "PATH"},
		"helper is a path":     {docker: `{"credsStore":"../../x"}`, host: "example.com", note: "other characters"},
		"DOCKER_AUTH_CONFIG":   {env: map[string]string{"DOCKER_AUTH_CONFIG": file}, host: "example.com", user: "somebody", password: "file", place: "DOCKER_AUTH_CONFIG"},
		"GitHub Actions":       {env: map[string]string{"GITHUB_TOKEN": "t0ken", "GITHUB_ACTOR": "octocat"}, host: "ghcr.io", user: "octocat", password: "t0ken", place: "GITHUB_TOKEN"},
		"GitHub, other host":   {env: map[string]string{"GITHUB_TOKEN": "t0ken"}, host: "docker.io"},
		"GitLab":               {env: map[string]string{"CI_REGISTRY": "example.com:5050", "CI_REGISTRY_USER": "u", "CI_REGISTRY_PASSWORD": "p"}, host: "example.com:5050", user: "u", password: "p"},
		"GitLab job token":     {env: map[string]string{"CI_REGISTRY": "example.com", "CI_JOB_TOKEN": "p"}, host: "example.com", user: "gitlab-ci-token", password: "p"},
		"GitLab, other host":   {env: map[string]string{"CI_REGISTRY": "example.com", "CI_JOB_TOKEN": "p"}, host: "other.example"},
		"own":                  {docker: file, env: map[string]string{"ANYARCH_REGISTRY": "https://example.com/team", "ANYARCH_REGISTRY_USER": "me", "ANYARCH_REGISTRY_PASSWORD": "pw"}, host: "example.com", user: "me", password: "pw", place: "ANYARCH_REGISTRY_PASSWORD"},
		"own, other host":      {env: map[string]string{"ANYARCH_REGISTRY": "example.com", "ANYARCH_REGISTRY_USER": "me", "ANYARCH_REGISTRY_PASSWORD": "pw"}, host: "example.org"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			docker, home := t.TempDir(), t.TempDir()
			if tt.docker != "" {
				write(t, filepath.Join(docker, "config.json"), tt.docker)
			}
			if tt.podman != "" {
				write(t, filepath.Join(home, ".config", "containers", "auth.json"), tt.podman)
			}
			k := newKeychain(func(key string) string {
				if key == "HOME" {
					return home
				}
				return tt.env[key]
			}, docker)
			got := k.find(t.Context(), tt.host, tt.path)
			if got.auth.Username != tt.user || got.auth.Password != tt.password || got.anonymous() != (tt.password == "") {
				t.Errorf("found %q %q at %q", got.auth.Username, got.auth.Password, got.place)
			}
			if !strings.Contains(got.place, tt.place) {
				t.Errorf("place %q, want %q in it", got.place, tt.place)
			}
			if notes := strings.Join(got.notes, "\n"); !strings.Contains(notes, tt.note) || strings.Contains(notes, testPassword) {
				t.Errorf("notes %q, want %q in them", notes, tt.note)
			}
		})
	}
}

// TestLogin logs in and out, with and without a helper.
func TestLogin(t *testing.T) {
	helpers := t.TempDir()
	link(t, filepath.Join(helpers, helperPrefix+"good"))
	t.Setenv("PATH", helpers+string(os.PathListSeparator)+os.Getenv("PATH"))
	for name, tt := range map[string]struct {
		basic  bool
		config string
		helper bool
	}{
		"file, token": {config: `{"auths":{"example.org":{"auth":"YTpi"}},"psFormat":"x"}`},
		"file, Basic": {basic: true, config: `{"auths":{"example.org":{"auth":"YTpi"}}}`},
		"helper":      {config: `{"credsStore":"good"}`, helper: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword, Basic: tt.basic})
			s.AddManifest("app/web", "v1", "a/b", []byte(`{}`))
			o := testOptions(t, nil)
			path := filepath.Join(o.ConfigDir, "config.json")
			write(t, path, tt.config)
			c := testClient(t, o)
			r, err := c.Repository(s.Host + "/app/web")
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, c.Login(t.Context(), s.Host, testUser, "wrong-"+testPassword[:3]), "PA401")
			if data, _ := os.ReadFile(path); string(data) != tt.config {
				t.Errorf("a refused login is kept: %s", data)
			}
			if !tt.helper {
				_, err = r.Tags(t.Context())
				wantRefusal(t, err, "PA401")
			}
			if err := c.Login(t.Context(), "https://"+s.Host+"/v2/", testUser, testPassword); err != nil {
				t.Fatal(describe(err))
			}
			if _, err := r.Tags(t.Context()); err != nil {
				t.Errorf("after the login: %s", describe(err))
			}
			data, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(data), s.Host) || strings.Contains(string(data), basicSecret(testUser, testPassword)) == tt.helper {
				t.Errorf("config.json: %s, %v", data, err)
			}
			if strings.Contains(tt.config, "example.org") != strings.Contains(string(data), "example.org") {
				t.Errorf("another login is lost: %s", data)
			}
			if tt.helper {
				stored, err := os.ReadFile(filepath.Join(helpers, "store"))
				if err != nil || !strings.Contains(string(stored), testPassword) {
					t.Errorf("the helper was given %s, %v", stored, err)
				}
			}
			if err := c.Logout(t.Context(), s.Host); err != nil {
				t.Fatal(err)
			}
			if data, _ := os.ReadFile(path); strings.Contains(string(data), s.Host) {
				t.Errorf("after the logout: %s", data)
			}
			if _, err := os.Stat(filepath.Join(helpers, "erase")); tt.helper && err != nil {
				t.Error("the helper wasn't asked to erase")
			}
			if err := c.Logout(t.Context(), s.Host); err != nil {
				t.Errorf("logging out twice: %v", err)
			}
		})
	}
}

func TestIdentityToken(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
	s.AddManifest("app/web", "v1", "a/b", []byte(`{}`))
	o := testOptions(t, nil)
	write(t, filepath.Join(o.ConfigDir, "config.json"), `{"auths":{"`+s.Host+`":{"identitytoken":"`+testPassword+`"}}}`)
	if _, err := testRepositoryWith(t, s, "app/web", o).Tags(t.Context()); err != nil {
		t.Error(describe(err))
	}
}

func TestAnonymousPull(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword, AnonymousPull: true})
	s.AddManifest("app/web", "v1", "a/b", []byte(`{}`))
	r := testRepositoryWith(t, s, "app/web", testOptions(t, nil))
	if _, err := r.Tags(t.Context()); err != nil {
		t.Error(describe(err))
	}
	data := content(10)
	err := r.PushBlob(t.Context(), blobDescriptor(data), opener(data), nil)
	wantRefusal(t, err, "PA401")
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// link makes this test binary a program at path.
func link(t testing.TB, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if os.Link(self, path) == nil || os.Symlink(self, path) == nil {
		return
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestTokenLifetime: a token is replaced before it expires, not after.
func TestTokenLifetime(t *testing.T) {
	t.Parallel()
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword, ExpiresIn: 300})
	s.AddManifest("app/web", "v1", "a/b", []byte(`{}`))
	r := testRepository(t, s, "app/web")
	for i, wait := range []time.Duration{0, 200 * time.Second, 200 * time.Second} {
		if err := r.client.clock.sleep(t.Context(), wait); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Tags(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, want := s.Count("", "/token"), 1+i/2; n != want {
			t.Errorf("after %d listings %d tokens were asked for, want %d", i+1, n, want)
		}
	}
}

// TestLedToAnotherRegistry: some registries lead to others, which hand out
// anonymous tokens of their own.
func TestLedToAnotherRegistry(t *testing.T) {
	t.Parallel()
	other := registrytest.New(t, registrytest.Config{User: "x", Password: "y", AnonymousPull: true})
	data := content(1000)
	d := other.AddBlob("real/web", data)
	s := registrytest.New(t, registrytest.Config{User: testUser, Password: testPassword})
	s.Inject(registrytest.Fault{Path: blobsPath, Times: -1, Status: 307, Header: map[string]string{"Location": other.URL + "/v2/real/web/blobs/" + d.Digest.String()}})
	r := testRepository(t, s, "app/web")
	for range 2 {
		if got, err := readAll(t, r, d); err != nil || len(got) != len(data) {
			t.Fatalf("%d bytes, %s", len(got), describe(err))
		}
	}
	if n := other.Count("", "/token"); n != 1 {
		t.Errorf("%d tokens were asked for", n)
	}
	for _, q := range other.Requests() {
		if q.Path == "/token" && q.Authorization != "" {
			t.Errorf("the other registry's token server has seen %q", q.Authorization)
		}
	}
}

// TestUnreachable: a name that never answers isn't waited for long.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{
		"no such host":       &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "registry.example", IsNotFound: true}},
		"connection refused": dialError(),
		"certificate":        &tls.CertificateVerificationError{Err: errors.New("x509: unknown authority")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, recovers := range []bool{false, true} {
				o := testOptions(t, nil)
				var tries int
				o.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
					if tries++; tries > 1 && recovers {
						return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"tags":["v1"]}`)), Request: req}, nil
					}
					return nil, cause
				})
				r, err := testClient(t, o).Repository("registry.example/app")
				if err != nil {
					t.Fatal(err)
				}
				_, err = r.Tags(t.Context())
				if recovers && name != "certificate" {
					if err != nil {
						t.Error(describe(err))
					}
					continue
				}
				e := wantRefusal(t, err, "PA404")
				if len(e.Fix) == 0 || tries > maxStrangerTries {
					t.Errorf("%d tries: %s", tries, describe(e))
				}
			}
		})
	}
}
