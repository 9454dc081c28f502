package buildkit

import (
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/platform"
)

func TestCaches(t *testing.T) {
	t.Parallel()
	env := map[string]string{"ACTIONS_CACHE_URL": "https://cache", "ACTIONS_RUNTIME_TOKEN": "secret", "AWS_REGION": "eu"}
	getenv := func(name string) string { return env[name] }
	arm := platform.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	both := []platform.Platform{{OS: "linux", Architecture: "amd64"}, arm}
	for _, c := range []struct {
		text, key, one, many string
	}{
		{"reg/app:cache", "ref", "reg/app:cache", "reg/app:cache-linux-arm-v7"},
		{"type=registry,ref=reg:5000/app,mode=max", "ref", "reg:5000/app", "reg:5000/app:latest-linux-arm-v7"},
		{"type=local,dest=/c,src=/c", "dest", "/c", "/c/linux-arm-v7"},
		{"type=gha", "scope", "", "buildkit-linux-arm-v7"},
		{"type=gha,scope=x", "scope", "x", "x-linux-arm-v7"},
		{"type=s3,bucket=b", "name", "", "buildkit-linux-arm-v7"},
		{"type=azblob,account_url=https://a", "name", "", "buildkit-linux-arm-v7"},
		{"type=inline", "ref", "", ""},
	} {
		list, err := readCaches("--cache-to", []string{c.text}, getenv)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		one, _ := (&Build{platforms: both[1:], to: list}).caches(arm)
		many, _ := (&Build{platforms: both, to: list}).caches(arm)
		if got := one[0].Attrs[c.key]; got != c.one {
			t.Errorf("%s for one platform: %s is %q, want %q", c.text, c.key, got, c.one)
		}
		if got := many[0].Attrs[c.key]; got != c.many {
			t.Errorf("%s for two platforms: %s is %q, want %q", c.text, c.key, got, c.many)
		}
	}
	for _, text := range []string{"type=disk", "type=registry", "type=local", "type=s3,bucket=b,region"} {
		if _, err := readCaches("--cache-to", []string{text}, func(string) string { return "" }); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
	if _, err := readCaches("--cache-to", []string{"type=gha"}, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "url") {
		t.Errorf("gha without its environment: %v", err)
	}
}
