package buildkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/platform"
)

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, address, platforms, ca, wrong string
	}{
		{text: "unix:///run/buildkit/buildkitd.sock", address: "unix:///run/buildkit/buildkitd.sock"},
		{text: "/run/buildkit/buildkitd.sock", address: "unix:///run/buildkit/buildkitd.sock"},
		{text: "unix:///b.sock=linux/arm64,linux/arm/v7", address: "unix:///b.sock", platforms: "linux/arm64, linux/arm/v7"},
		{text: "tcp://b:1234", address: "tcp://b:1234"},
		{text: "tcp://b:1234?ca=certs/ca.pem&cert=/c/cert&key=/k=linux/arm64", address: "tcp://b:1234", platforms: "linux/arm64", ca: "/home/me/certs/ca.pem"},
		{text: "tcp://b:1234?ca=linux/ca", address: "tcp://b:1234", ca: "/home/me/linux/ca"},
		{text: "ssh://me@b:22/run/user/1/buildkitd.sock=linux/s390x", address: "ssh://me@b:22/run/user/1/buildkitd.sock", platforms: "linux/s390x"},
		{text: "docker-container://b?context=far", address: "docker-container://b?context=far"},
		{text: "podman-container://b", address: "podman-container://b"},
		{text: "kube-pod://b-0?namespace=build", address: "kube-pod://b-0?namespace=build"},
		{text: "docker://", address: "docker://"},

		{text: "b:1234", wrong: "unix://"},
		{text: "http://b", wrong: "reached by one of"},
		{text: "unix://run/b.sock", wrong: "slash"},
		{text: "tcp://b", wrong: "port"},
		{text: "tcp://b:1?cert=x", wrong: "go together"},
		{text: "tcp://b:1?tls=x", wrong: "none of"},
		{text: "ssh://me:secret@b", wrong: "password"},
		{text: "ssh://-oProxyCommand=x", wrong: "host"},
		{text: "docker-container://", wrong: "container"},
		{text: "docker-container://-v", wrong: "container"},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			e, err := ParseEndpoint(c.text, "--builder", "/home/me")
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Fatalf("error %v, not about %q", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Address != c.address || platform.Names(e.Platforms) != c.platforms || e.TLS.CA != filepath.FromSlash(c.ca) {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestBuildx(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"BUILDX_CONFIG": dir}
	getenv := func(name string) string { return env[name] }
	if list, err := Buildx(getenv); err != nil || list != nil {
		t.Fatalf("without a configuration: %v, %v", list, err)
	}
	write("current", `{"Key":"unix:///var/run/docker.sock","Name":"farm","Global":false}`)
	write("instances/farm", `{"Name":"farm","Driver":"docker-container","Nodes":[
		{"Name":"farm0","Endpoint":"unix:///var/run/docker.sock","Platforms":null,"DriverOpts":{}},
		{"Name":"farm1","Endpoint":"arm-host","Platforms":[{"architecture":"arm64","os":"linux"}]}]}`)
	list, err := Buildx(getenv)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Address != "docker-container://buildx_buildkit_farm0" || list[1].Address != "docker-container://buildx_buildkit_farm1?context=arm-host" || platform.Names(list[1].Platforms) != "linux/arm64" || list[0].Origin != "docker buildx farm" {
		t.Errorf("%+v", list)
	}
	write("instances/far", `{"Name":"far","Driver":"remote","Nodes":[{"Name":"far0","Endpoint":"tcp://b:1234","DriverOpts":{"cacert":"/c/ca.pem","cert":"/c/cert.pem","key":"/c/key.pem","servername":"b"}}]}`)
	env["BUILDX_BUILDER"] = "far"
	if list, err = Buildx(getenv); err != nil || len(list) != 1 || list[0].Address != "tcp://b:1234" || list[0].TLS != (TLS{"/c/ca.pem", "/c/cert.pem", "/c/key.pem", "b"}) {
		t.Errorf("%+v, %v", list, err)
	}
	write("instances/pods", `{"Name":"pods","Driver":"kubernetes","Nodes":[{"Name":"pods0","Endpoint":"kubernetes:///pods"}]}`)
	env["BUILDX_BUILDER"] = "pods"
	if _, err = Buildx(getenv); err == nil || !strings.Contains(err.Error(), "kubernetes") {
		t.Errorf("a driver without addresses: %v", err)
	}
	for _, name := range []string{"default", "../../etc/passwd", "missing"} {
		env["BUILDX_BUILDER"] = name
		if list, err = Buildx(getenv); len(list) > 0 || name != "missing" && err != nil || name == "missing" && err == nil {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	parse := func(text string) []platform.Platform {
		if text == "" {
			return nil
		}
		list, err := platform.ParseList([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for _, c := range []struct{ all, declared, native, emulated string }{
		{"linux/amd64,linux/amd64/v2,linux/arm64,linux/386,linux/riscv64", "", "linux/amd64, linux/amd64/v2, linux/386", "linux/arm64, linux/riscv64"},
		{"linux/arm64,linux/amd64,linux/arm/v7", "", "linux/arm64, linux/arm/v7", "linux/amd64"},
		{"linux/arm/v7,linux/arm64", "", "linux/arm/v7", "linux/arm64"},
		{"linux/amd64,linux/arm64", "linux/arm64", "linux/arm64", "linux/amd64"},
	} {
		native, emulated := split(parse(c.all), parse(c.declared))
		if platform.Names(native) != c.native || platform.Names(emulated) != c.emulated {
			t.Errorf("%s, declared %s: native %s, emulated %s", c.all, c.declared, platform.Names(native), platform.Names(emulated))
		}
	}
}
