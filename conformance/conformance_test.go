package conformance

import (
	"context"
	"encoding/xml"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/serve"
)

// report is the summary of junit.xml, which the suite writes.
type report struct {
	Tests    int `xml:"tests,attr"`
	Errors   int `xml:"errors,attr"`
	Failures int `xml:"failures,attr"`
	Skipped  int `xml:"skipped,attr"`
	Disabled int `xml:"disabled,attr"`
	Cases    []struct {
		Name   string `xml:"name,attr"`
		Status string `xml:"status,attr"`
		Out    string `xml:"system-out"`
	} `xml:"testsuite>testcase"`
}

// everything turns all of the suite's options on that a version leaves off.
var everything = []string{
	"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_BLOBS_MOUNT_ANONYMOUS=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true",
	"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true", "OCI_API_REFERRER=true",
}

// TestConformance wants every check of the suite to pass: none may fail, be
// skipped because the registry lacks something, or be disabled.
func TestConformance(t *testing.T) {
	suite := build(t)
	for _, test := range []struct {
		name    string
		options serve.Options
		env     []string
		least   int // checks that the suite has been seen to make
	}{
		{"1.0", serve.Options{}, append([]string{"OCI_VERSION=1.0"}, everything...), 900},
		{"1.1", serve.Options{}, append([]string{"OCI_VERSION=1.1"}, everything...), 900},
		{"dev", serve.Options{}, append([]string{"OCI_VERSION=dev"}, everything...), 900},
		{"dev with sparse manifests", serve.Options{Sparse: true}, append([]string{"OCI_VERSION=dev", "OCI_DATA_SPARSE=true"}, everything...), 950},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.options.Root = t.TempDir()
			registry, err := serve.New(test.options)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(registry.Close)
			server := httptest.NewServer(registry)
			t.Cleanup(server.Close)
			r := run(t, suite, server.Listener.Addr(), test.env)
			t.Logf("%d checks: %d passed, %d failed, %d errors, %d skipped, %d disabled", r.Tests,
				r.Tests-r.Failures-r.Errors-r.Skipped-r.Disabled, r.Failures, r.Errors, r.Skipped, r.Disabled)
			for _, c := range r.Cases {
				if c.Status != "passed" {
					t.Errorf("%s: %s: %s", c.Status, c.Name, c.Out)
				}
			}
			if r.Failures+r.Errors+r.Skipped+r.Disabled > 0 || r.Tests < test.least {
				t.Errorf("not everything passed, or fewer than %d checks were made", test.least)
			}
		})
	}
}

// build compiles the suite, at the version that go.mod has.
func build(t *testing.T) string {
	t.Helper()
	suite := filepath.Join(t.TempDir(), "suite")
	if runtime.GOOS == "windows" {
		suite += ".exe"
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	return suite
}

func run(t *testing.T, suite string, registry net.Addr, env []string) report {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, suite)
	cmd.Dir = dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OCI_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "OCI_REGISTRY="+registry.String(), "OCI_TLS=disabled", "OCI_RESULTS_DIR="+dir)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput() // its exit code says less than its report
	data, readErr := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if readErr != nil {
		t.Fatalf("the suite made no report: %v\n%s", err, out)
	}
	var r report
	if err := xml.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}
