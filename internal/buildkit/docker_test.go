package buildkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestDockerEngine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	context := func(name, host string) {
		file := filepath.Join(dir, "contexts", "meta", digest.FromString(name).Encoded(), "meta.json")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(`{"Name":"`+name+`","Endpoints":{"docker":{"Host":"`+host+`","SkipTLSVerify":false}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	context("rootless", "unix:///run/user/1000/docker.sock")
	context("far", "ssh://me@far")
	for _, c := range []struct{ name, address, host, env, current, want string }{
		{name: "nothing is configured", address: "docker://", want: "unix /var/run/docker.sock"},
		{name: "a socket", address: "docker:///run/other.sock", host: "tcp://x:1", want: "unix /run/other.sock"},
		{name: "an address", address: "docker://10.0.0.1:2375", want: "tcp 10.0.0.1:2375"},
		{name: "DOCKER_HOST", address: "docker://", host: "tcp://x:2375", env: "rootless", want: "tcp x:2375"},
		{name: "DOCKER_CONTEXT", address: "docker://", env: "rootless", current: "far", want: "unix /run/user/1000/docker.sock"},
		{name: "the context in use", address: "docker://", current: "rootless", want: "unix /run/user/1000/docker.sock"},
		{name: "the default one", address: "docker://", env: "default", current: "rootless", want: "unix /var/run/docker.sock"},
		{name: "named", address: "docker://?context=rootless", host: "tcp://x:2375", want: "unix /run/user/1000/docker.sock"},
		{name: "through ssh", address: "docker://?context=far", want: "not through ssh://me@far"},
		{name: "unknown", address: "docker://?context=near", want: "no such context"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"currentContext":"`+c.current+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		env := map[string]string{"DOCKER_CONFIG": dir, "DOCKER_HOST": c.host, "DOCKER_CONTEXT": c.env}
		d, err := dockerEngine(c.address, func(name string) string { return env[name] })
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = d.network + " " + d.address
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
