package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // what the registry stores in
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/anyarch/anyarch/internal/cli"
)

// distribution is the CNCF's registry, in this process, with a log of what it
// was asked.
type distribution struct {
	host string

	mu       sync.Mutex // guards what follows
	requests []string
	uploaded int64
	refuse   *regexp.Regexp // requests that are answered with 403
}

func startDistribution(t *testing.T) *distribution {
	t.Helper()
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": configuration.Parameters{"rootdirectory": t.TempDir()},
		"delete":     configuration.Parameters{"enabled": true},
	}}
	config.HTTP.Secret = "for tests"
	config.Log.Level = "fatal"
	app := handlers.NewApp(context.Background(), config)
	d := &distribution{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line := r.Method + " " + r.URL.Path
		d.mu.Lock()
		d.requests = append(d.requests, line)
		if r.ContentLength > 0 {
			d.uploaded += r.ContentLength
		}
		refused := d.refuse != nil && d.refuse.MatchString(line)
		d.mu.Unlock()
		if refused {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"not today"}]}`)
			return
		}
		app.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	d.host = strings.TrimPrefix(server.URL, "http://")
	return d
}

// since empties the log and gives what was in it.
func (d *distribution) since() (requests []string, uploaded int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	requests, uploaded = d.requests, d.uploaded
	d.requests, d.uploaded = nil, 0
	return requests, uploaded
}

func (d *distribution) deny(pattern string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = nil
	if pattern != "" {
		d.refuse = regexp.MustCompile(pattern)
	}
}

// user is somebody with a module, a home and nothing else.
type user struct {
	t    *testing.T
	dir  string
	home string
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{t: t, dir: t.TempDir(), home: t.TempDir()}
	for file, content := range map[string]string{
		"go.mod":            "module example.com/m\n\ngo 1.24\n",
		"cmd/hello/main.go": "package main\n\nimport (\n\t\"os\"\n\t\"runtime\"\n)\n\nvar version = \"none\"\n\nfunc main() {\n\tos.Stdout.WriteString(\"hello \" + version + \" \" + runtime.GOARCH + \"\\n\")\n}\n",
	} {
		path := filepath.Join(u.dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// anyarch runs the program as its user would.
func (u *user) anyarch(args ...string) (code int, stdout, stderr string) {
	u.t.Helper()
	var out, messages bytes.Buffer
	code = cli.Main(u.t.Context(), args, cli.System{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &messages, Dir: u.dir, LookPath: exec.LookPath,
		Width: func() int { return 0 }, Height: func() int { return 0 },
		Getenv: func(key string) string {
			switch key {
			case "HOME":
				return u.home
			case "ANYARCH_CACHE":
				return filepath.Join(u.home, "cache")
			case "GOCACHE", "GOMODCACHE", "PATH", "LOCALAPPDATA":
				return os.Getenv(key)
			case "GOFLAGS", "GOENV":
				return map[string]string{"GOENV": "off"}[key]
			case "GOTOOLCHAIN":
				return "local"
			}
			return ""
		},
	})
	return code, out.String(), messages.String()
}

// mustAnyarch is anyarch that must succeed.
func (u *user) mustAnyarch(args ...string) (stdout string) {
	u.t.Helper()
	code, stdout, stderr := u.anyarch(args...)
	if code != 0 {
		u.t.Fatalf("anyarch %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s isn't installed", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestRealRegistry publishes to the CNCF's registry and has the field's tools
// look at what is there.
func TestRealRegistry(t *testing.T) {
	d := startDistribution(t)
	u := newUser(t)
	if u.home != "" && os.Getenv("GOCACHE") == "" {
		if out, err := exec.Command("go", "env", "GOCACHE").Output(); err == nil {
			t.Setenv("GOCACHE", strings.TrimSpace(string(out)))
		}
	}
	repo := d.host + "/team/hello"
	publish := []string{"publish", "./cmd/hello", "-t", repo + ":1.0.0", "-t", "latest", "--ldflags", "-X main.version=1.0.0"}
	stdout := u.mustAnyarch(publish...)
	if !regexp.MustCompile(`^` + regexp.QuoteMeta(repo) + `@sha256:[0-9a-f]{64}\n$`).MatchString(stdout) {
		t.Fatalf("standard output is %q", stdout)
	}
	published := strings.TrimSpace(stdout)
	digest := published[strings.Index(published, "@")+1:]

	t.Run("order", func(t *testing.T) {
		requests, _ := d.since()
		last := map[string]int{}
		for i, line := range requests {
			switch {
			case strings.HasPrefix(line, "PUT") && strings.Contains(line, "/blobs/uploads/"):
				last["blobs"] = i
			case strings.HasPrefix(line, "PUT") && strings.HasSuffix(line, "/manifests/"+digest):
				last["index"] = i
			case strings.HasPrefix(line, "PUT") && strings.Contains(line, "/manifests/sha256:"):
				last["manifests"] = i
			case strings.HasPrefix(line, "PUT") && strings.HasSuffix(line, "/manifests/1.0.0"):
				last["version"] = i
			case strings.HasPrefix(line, "PUT") && strings.HasSuffix(line, "/manifests/latest"):
				last["latest"] = i
			}
		}
		if !(0 < last["blobs"] && last["blobs"] < last["manifests"] && last["manifests"] < last["index"] && last["index"] < last["version"] && last["version"] < last["latest"]) {
			t.Errorf("the order is %v of\n%s", last, strings.Join(requests, "\n"))
		}
	})
	t.Run("second publish uploads nothing", func(t *testing.T) {
		if again := u.mustAnyarch(publish...); again != stdout {
			t.Errorf("another digest: %s", again)
		}
		requests, uploaded := d.since()
		if uploaded != 0 {
			t.Errorf("%d bytes were sent", uploaded)
		}
		for _, line := range requests {
			if !strings.HasPrefix(line, "HEAD") && line != "GET /v2/" {
				t.Errorf("asked for %s", line)
			}
		}
	})
	t.Run("validate", func(t *testing.T) {
		ref, err := name.ParseReference(published, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
	})
	t.Run("crane", func(t *testing.T) { tool(t, "crane", "validate", "--remote", repo+":latest") })
	t.Run("skopeo", func(t *testing.T) {
		raw := tool(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+repo+":1.0.0")
		var index ocispec.Index
		if err := json.Unmarshal([]byte(raw), &index); err != nil {
			t.Fatal(err)
		}
		if len(index.Manifests) != 2 || strings.Contains(raw, "artifactType") {
			t.Errorf("the index is %s", raw)
		}
	})
	t.Run("buildah", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		root := t.TempDir()
		for _, arch := range []string{"amd64", "arm64"} {
			tool(t, "buildah", "--root", filepath.Join(root, arch), "--runroot", filepath.Join(root, "run"+arch), "--storage-driver", "vfs", "pull", "--tls-verify=false", "--arch", arch, repo+":latest")
		}
	})
	t.Run("run", func(t *testing.T) {
		if got := u.mustAnyarch("run", repo+":latest"); !strings.HasPrefix(got, "hello 1.0.0 ") {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("run arm64 under qemu", func(t *testing.T) {
		if _, err := exec.LookPath("qemu-aarch64-static"); err != nil {
			t.Skip("qemu-aarch64-static isn't installed")
		}
		if got := u.mustAnyarch("run", published, "--run-platform", "linux/arm64"); got != "hello 1.0.0 arm64\n" {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("verify", func(t *testing.T) {
		u.mustAnyarch("verify", repo+":latest", "--require", "linux/amd64,linux/arm64")
	})
	t.Run("mount from the base's repository", func(t *testing.T) {
		d.since()
		u.mustAnyarch("publish", "./cmd/hello", "--base", published, "-t", d.host+"/other/app:1")
		requests, uploaded := d.since()
		mounts := 0
		for _, line := range requests {
			if strings.HasPrefix(line, "POST") {
				mounts++
			}
		}
		if mounts == 0 || uploaded > 4<<20 {
			t.Errorf("%d uploads or mounts, %d bytes sent", mounts, uploaded)
		}
	})
	for _, step := range []string{`^(POST|PUT|PATCH) .*/blobs/uploads/`, `^PUT .*/manifests/sha256`, `^PUT .*/manifests/2\.0\.0$`, `^PUT .*/manifests/latest$`, `^GET .*/manifests/sha256`} {
		t.Run("refused at "+step, func(t *testing.T) {
			d.deny(step)
			defer d.deny("")
			code, out, stderr := u.anyarch("publish", "./cmd/hello", "-t", repo+":2.0.0", "-t", "latest", "--ldflags", "-X main.version="+regexp.MustCompile(`\W`).ReplaceAllString(step, ""))
			if code == 0 || out != "" || !strings.Contains(stderr, "not today") && !strings.Contains(stderr, "PA402") {
				t.Errorf("exit %d, said %q\n%s", code, out, stderr)
			}
			d.deny("")
			for tag, want := range map[string]string{"latest": digest, "1.0.0": digest} {
				ref, err := name.ParseReference(repo+":"+tag, name.Insecure)
				if err != nil {
					t.Fatal(err)
				}
				head, err := remote.Head(ref)
				if err != nil || head.Digest.String() != want {
					t.Errorf("%s names %v, %v; want %s", tag, head, err, want)
				}
			}
			if ref, err := name.ParseReference(repo+":2.0.0", name.Insecure); err != nil {
				t.Fatal(err)
			} else if head, err := remote.Head(ref); err == nil {
				t.Errorf("2.0.0 names %s", head.Digest)
			}
		})
	}
}
