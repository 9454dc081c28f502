//go:build linux

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// TestPassThroughCache writes BuildKit's cache by one daemon and reads it by another, of
// every kind that there is. The program isn't run again, the image is the same, and what
// opens the cache is neither on the screen nor in the image or its provenance.
func TestPassThroughCache(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	service := newObjects(t)
	writer, reader := buildkittest.Start(t, k.registry), buildkittest.Start(t, k.registry)
	token := githubToken()
	const azureKey, awsKey = "c2VjcmV0IG9mIGF6dXJl", "secret-of-amazon"
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", awsKey)
	t.Setenv("AWS_REGION", "eu-central-1")
	t.Setenv("ACTIONS_CACHE_SERVICE_V2", "true")
	t.Setenv("ACTIONS_RESULTS_URL", service.URL+"/")
	t.Setenv("ACTIONS_RUNTIME_TOKEN", token)
	s3 := "type=s3,bucket=kit,name=app,prefix=here/,use_path_style=true,endpoint_url=" + service.URL
	azure := "type=azblob,container=kit,name=app,account_name=me,secret_access_key=" + azureKey + ",account_url=" + service.URL + "/me"
	local := filepath.Join(k.dir, "cache")
	for _, c := range []struct {
		name, to, from string
		kept           string // in the path of what the service has to have
		authorized     string // in a header that has to have come
	}{
		{name: "registry", to: "type=registry,mode=max,ref=" + k.registry + "/kit/cache:1", from: k.registry + "/kit/cache:1"},
		{name: "local", to: "type=local,dest=" + local, from: "type=local,src=" + local},
		{name: "inline", to: "type=inline", from: "type=registry,ref=" + k.registry + "/kit/inline:1"},
		{name: "s3", to: s3 + ",mode=max", from: s3, kept: "/kit/here/manifests/app", authorized: "Credential=AKIDEXAMPLE/"},
		{name: "azblob", to: azure + ",mode=max", from: azure, kept: "/me/kit/manifests/app", authorized: "SharedKey me:"},
		{name: "gha", to: "type=gha,scope=app,mode=max", from: "type=gha,scope=app", kept: "/github/", authorized: "Bearer " + token},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Each has a step of its own, which the others' caches don't have.
			k.file(t, "Dockerfile", "FROM scratch\nCOPY probe /bin/probe\nENV CACHE="+c.name+"\nRUN [\"/bin/probe\", \"/report\", \"env:CACHE\"]\n")
			args := func(d *buildkittest.Daemon, more ...string) []string {
				return append([]string{"publish", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64", "--builder", d.Address, "--progress", "plain", "."}, more...)
			}
			written, first := k.run(t, true, args(writer, "-t", k.registry+"/kit/"+c.name+":1", "--cache-to", c.to)...)
			read, second := k.run(t, true, args(reader, "-t", k.registry+"/kit/"+c.name+":2", "--cache-from", c.from)...)
			if !strings.Contains(second, "from cache") || !strings.Contains(second, "RUN") {
				t.Errorf("the step wasn't taken from the cache:\n%s", second)
			}
			_, a, _ := strings.Cut(written, "@")
			_, b, _ := strings.Cut(read, "@")
			if (a == b) != (c.name != "inline") { // which is a part of the image
				t.Errorf("the image is %s, and from the cache %s", a, b)
			}
			if c.kept != "" && service.has(c.kept) == 0 {
				t.Errorf("the service has nothing at %s", c.kept)
			}
			if c.authorized != "" && service.authorized(c.authorized) == 0 {
				t.Errorf("nobody came with %s: %v", c.authorized, service.auth)
			}
			out, third := k.run(t, true, append(args(reader, "--cache-from", c.from, "--provenance", "mode=max"), "--output", "oci:with-"+c.name)...)
			for _, secret := range []string{azureKey, awsKey, token} {
				if strings.Contains(first+second+third+out, secret) {
					t.Errorf("%s is on the screen", secret)
				}
				check(t, filepath.WalkDir(filepath.Join(k.dir, "with-"+c.name), func(path string, d fs.DirEntry, err error) error {
					if err == nil && !d.IsDir() {
						if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte(secret)) {
							t.Errorf("%s has %s, %v", path, secret, err)
						}
					}
					return err
				}))
			}
		})
	}
	if _, log := k.run(t, false, "build", "--engine", "buildkit", "-f", "Dockerfile", "--builder", writer.Address, "--cache-to", strings.Replace(azure, "azblob", "azure", 1), "."); !strings.Contains(log, "PA502") || strings.Contains(log, azureKey) {
		t.Errorf("a cache of no kind, with a secret:\n%s", log)
	}
}
