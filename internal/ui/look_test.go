package ui

import (
	"strings"
	"testing"
	"time"
)

func result() Result {
	return Result{
		Image: "apiping", Package: "github.com/udhos/apiping/cmd/apiping", GoVersion: "go1.26.8", Base: "static (built in)",
		Platforms: []PlatformRow{
			{Platform: "linux/amd64", Compile: 2 * time.Second, BinarySize: 16147660, LayerSize: 6186598, Binary: "x86-64  static ✓", Digest: "sha256:070b4370c451" + strings.Repeat("0", 52), Pushed: true},
			{Platform: "linux/arm64", Cached: true, BinarySize: 15073442, LayerSize: 5662310, Binary: "AArch64 static ✓", Digest: "sha256:cda9187ed569" + strings.Repeat("0", 52), Pushed: true},
		},
		Verified: "2/2 platforms · index = config = ELF · CA roots · nonroot",
		Index:    "sha256:526512fae5f0e73100ffd6af8d6f29270f60402525fb078acda6f3eded828762",
		Tags: []TagMove{
			{Repository: "ghcr.io/udhos/apiping", Tag: "1.5.0", New: "1.5.0"},
			{Repository: "ghcr.io/udhos/apiping", Tag: "latest", Old: "1.4.0", New: "1.5.0"},
		},
		Elapsed: 4600 * time.Millisecond, Uploaded: 12058624, Where: "ghcr.io/udhos/apiping",
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	several := result()
	several.Tags = append(several.Tags,
		TagMove{Repository: "docker.io/udhos/apiping", Tag: "1.5.0", Old: "1.5.0", New: "1.5.0"},
		TagMove{Repository: "docker.io/udhos/apiping", Tag: "latest", Old: "1.6.0", Kept: true, Reason: "1.5.0 is older"},
		TagMove{Repository: "docker.io/udhos/apiping", Tag: "edge", Old: "sha256:" + strings.Repeat("ab", 32), New: "sha256:" + strings.Repeat("cd", 32)})
	several.Mounted = 3 << 20
	local := Result{Image: "hello", Platforms: []PlatformRow{{Platform: "linux/arm64", Compile: time.Second, Digest: "sha256:" + strings.Repeat("ab", 32)}}, Elapsed: time.Second, Where: "hello.oci \x1b[2J"}
	for _, c := range []struct {
		name   string
		style  Style
		result Result
	}{
		{"published", Style{}, result()},
		{"color", Style{Color: true}, result()},
		{"ascii", Style{ASCII: true}, several},
		{"several", Style{}, several},
		{"local", Style{}, local},
		{"empty", Style{}, Result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := Summary(&b, c.style, c.result); err != nil {
				t.Fatal(err)
			}
			golden(t, "summary-"+c.name, b.String())
		})
	}
}

func imageView() ImageView {
	return ImageView{
		Subject: "ghcr.io/udhos/apiping:1.5.0", Kind: "index, 2 platforms",
		Digest: "sha256:526512fae5f0e73100ffd6af8d6f29270f60402525fb078acda6f3eded828762",
		Base:   "static (built in)", Created: "2026-11-23", Source: "https://github.com/udhos/apiping", Revision: "83d74f4",
		Tags:         []string{"1.5.0", "latest"},
		Attestations: []string{"provenance linux/amd64", "provenance linux/arm64"},
		Annotations:  []string{"org.opencontainers.image.licenses=MIT"},
		Platforms: []PlatformView{
			{Platform: "linux/amd64", Digest: "sha256:" + strings.Repeat("ab", 32), Size: 6186598, Layers: 2, Entrypoint: "/app", Binary: "x86-64 static ✓", Go: "go1.26.8", User: "65532"},
			{Platform: "linux/arm64", Digest: "sha256:" + strings.Repeat("cd", 32), Size: 5662310, Layers: 2, Entrypoint: "/app", Binary: "x86-64 static ✗", Go: "go1.26.8", User: "65532"},
		},
		Checked: "every file", Elapsed: 300 * time.Millisecond,
	}
}

func TestVerifyAndInspect(t *testing.T) {
	t.Parallel()
	wrong := FindingView{
		Severity: "error", Rule: "PA201", Platform: "linux/arm64", Summary: "/app is an x86-64 program", Place: "docker/Dockerfile:3",
		Seen: []string{"config says arm64, ELF e_machine says x86-64; go build info: GOARCH=amd64"}, Fix: []string{"write `ARG TARGETARCH`"},
	}
	roots := FindingView{Severity: "warning", Rule: "PA214", Summary: "no CA roots", Place: "Dockerfile:9"}
	info := FindingView{Severity: "info", Rule: "PA211", Summary: "2 entries are attestations", Place: "Dockerfile:1"}
	for _, c := range []struct {
		name     string
		style    Style
		findings []FindingView
	}{
		{"clean", Style{}, nil},
		{"findings", Style{}, []FindingView{wrong, roots, roots, info}},
		{"warning", Style{ASCII: true}, []FindingView{roots}},
		{"annotated", Style{Annotate: true}, []FindingView{wrong, roots, info, {Severity: "error", Rule: "PA202", Summary: "nowhere"}}},
		{"color", Style{Color: true}, []FindingView{wrong, roots, info}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := imageView()
			v.Findings = c.findings
			if c.findings == nil {
				v.Platforms[1].Binary = "AArch64 static ✓"
			}
			var verify, inspect, alone strings.Builder
			if err := Verify(&verify, c.style, v); err != nil {
				t.Fatal(err)
			}
			if err := Inspect(&inspect, c.style, v); err != nil {
				t.Fatal(err)
			}
			if err := Findings(&alone, c.style, c.findings); err != nil {
				t.Fatal(err)
			}
			golden(t, "verify-"+c.name, verify.String())
			golden(t, "inspect-"+c.name, inspect.String())
			golden(t, "findings-"+c.name, alone.String())
		})
	}
}
