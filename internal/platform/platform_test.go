package platform

import (
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Platform{
		"linux/amd64":                  {OS: "linux", Architecture: "amd64"},
		"linux/amd64/v1":               {OS: "linux", Architecture: "amd64"},
		"linux/amd64/v3":               {OS: "linux", Architecture: "amd64", Variant: "v3"},
		"linux/x86_64":                 {OS: "linux", Architecture: "amd64"},
		"linux/arm64":                  {OS: "linux", Architecture: "arm64"},
		"linux/arm64/v8":               {OS: "linux", Architecture: "arm64"},
		"linux/arm64/v8.0":             {OS: "linux", Architecture: "arm64"},
		"linux/arm64/v8.2":             {OS: "linux", Architecture: "arm64", Variant: "v8.2"},
		"linux/arm64/v9":               {OS: "linux", Architecture: "arm64", Variant: "v9.0"},
		"linux/aarch64":                {OS: "linux", Architecture: "arm64"},
		"linux/arm":                    {OS: "linux", Architecture: "arm", Variant: "v7"},
		"linux/arm/7":                  {OS: "linux", Architecture: "arm", Variant: "v7"},
		"linux/arm/v6":                 {OS: "linux", Architecture: "arm", Variant: "v6"},
		" linux/riscv64 ":              {OS: "linux", Architecture: "riscv64"},
		"linux/ppc64le/power9":         {OS: "linux", Architecture: "ppc64le", Variant: "power9"},
		"windows/amd64":                {OS: "windows", Architecture: "amd64"},
		"windows/amd64:10.0.20348":     {OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"},
		"windows(10.0.17763)/amd64":    {OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763"},
		"local":                        Local(),
		strings.ToUpper("Linux/S390X"): {OS: "linux", Architecture: "s390x"},
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, fix := range map[string]string{
		"linux/arm46":       "--platform linux/arm64",
		"arm64":             "--platform linux/arm64",
		"linux/amd46":       "--platform linux/amd64",
		"linux/amd64/v9":    "",
		"linux/s390x/v2":    "",
		"linux/arm/v8":      "",
		"plan9/amd64":       "",
		"all":               "",
		"linux/":            "",
		"":                  "",
		"linux/amd64:1.2":   "",
		"linux(1)/amd64":    "",
		"linux/amd64/v3/x":  "",
		"linux/amd64,linux": "",
	} {
		_, err := Parse(text)
		list := refusal.All(err)
		if len(list) != 1 || list[0].Code != "PA110" || list[0].Kind != refusal.Usage {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if fix != "" && !slices.Contains(list[0].Fix, fix) {
			t.Errorf("Parse(%q) proposes %q, want %q", text, list[0].Fix, fix)
		}
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	got, err := ParseList([]string{"linux/amd64,linux/arm64/v8", "linux/arm64, linux/x86-64"})
	if err != nil || !slices.Equal(got, Default()) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = ParseList([]string{"linux/arm46,linux/amd64,linux/nope"})
	if len(refusal.All(err)) != 2 {
		t.Errorf("both mistakes should be reported: %v", err)
	}
}

func TestGoEnv(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"linux/386":              "GOOS=linux GOARCH=386 GO386=sse2",
		"linux/amd64":            "GOOS=linux GOARCH=amd64 GOAMD64=v1",
		"linux/amd64/v3":         "GOOS=linux GOARCH=amd64 GOAMD64=v3",
		"linux/arm":              "GOOS=linux GOARCH=arm GOARM=7",
		"linux/arm/v5":           "GOOS=linux GOARCH=arm GOARM=5",
		"linux/arm64":            "GOOS=linux GOARCH=arm64 GOARM64=v8.0",
		"linux/arm64/v9.0":       "GOOS=linux GOARCH=arm64 GOARM64=v9.0",
		"linux/loong64":          "GOOS=linux GOARCH=loong64",
		"linux/mips":             "GOOS=linux GOARCH=mips GOMIPS=hardfloat",
		"linux/mips64le":         "GOOS=linux GOARCH=mips64le GOMIPS64=hardfloat",
		"linux/ppc64le":          "GOOS=linux GOARCH=ppc64le GOPPC64=power8",
		"linux/ppc64le/power10":  "GOOS=linux GOARCH=ppc64le GOPPC64=power10",
		"linux/riscv64":          "GOOS=linux GOARCH=riscv64 GORISCV64=rva20u64",
		"linux/riscv64/rva22u64": "GOOS=linux GOARCH=riscv64 GORISCV64=rva22u64",
		"linux/s390x":            "GOOS=linux GOARCH=s390x",
		"windows/amd64":          "GOOS=windows GOARCH=amd64 GOAMD64=v1",
	} {
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.GoEnv(), " "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// A base for another architecture must never stand in, however near it is.
func TestBest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wanted    string
		available []string
		want      string // "" if there is none
	}{
		"the same":                {"linux/arm64", []string{"linux/amd64", "linux/arm64/v8"}, "linux/arm64"},
		"no other architecture":   {"linux/arm64", []string{"linux/amd64", "linux/arm/v7", "linux/386"}, ""},
		"no 386 for amd64":        {"linux/amd64", []string{"linux/386"}, ""},
		"highest that still runs": {"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm64"}, "linux/arm/v6"},
		"not a higher one":        {"linux/arm/v6", []string{"linux/arm/v7"}, ""},
		"v3 on a plain base":      {"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v2"}, "linux/amd64/v2"},
		"plain on a v3 base":      {"linux/amd64", []string{"linux/amd64/v3"}, ""},
		"newest Windows":          {"windows/amd64", []string{"windows/amd64:10.0.17763.1", "windows/amd64:10.0.20348.9", "windows/amd64:10.0.20348.10"}, "windows/amd64:10.0.20348.10"},
		"asked for Windows":       {"windows/amd64:10.0.17763", []string{"windows/amd64:10.0.20348.9", "windows/amd64:10.0.17763.1"}, "windows/amd64:10.0.17763.1"},
		"whole numbers only":      {"windows/amd64:10.0.2034", []string{"windows/amd64:10.0.20348.9"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wanted, err := Parse(c.wanted)
			if err != nil {
				t.Fatal(err)
			}
			var available []Platform
			for _, text := range c.available {
				p, err := Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				available = append(available, p)
			}
			got := wanted.Best(available)
			if c.want == "" {
				if got >= 0 {
					t.Errorf("got %s, want none", c.available[got])
				}
				return
			}
			want, err := Parse(c.want)
			if err != nil {
				t.Fatal(err)
			}
			if got < 0 || available[got] != want {
				t.Errorf("got %d of %v, want %s", got, c.available, c.want)
			}
		})
	}
}

func TestFromOCI(t *testing.T) {
	t.Parallel()
	if p := FromOCI(nil); !p.IsZero() || p.String() != "unknown" {
		t.Errorf("no platform is %v", p)
	}
	if p := FromOCI(&ocispec.Platform{OS: "unknown", Architecture: "unknown"}); !p.IsAttestation() {
		t.Errorf("%v is no attestation", p)
	}
	p := FromOCI(&ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	if o := p.OCI(); o.Variant != "" || p.String() != "linux/arm64" {
		t.Errorf("arm64/v8 stays %v", o)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"linux/amd64", "linux/arm/v6", "windows(10.0)/amd64", "windows/amd64:1", "local", "a/b/c/d", "(/", "linux/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if p.OSVersion = ""; err != nil || again != p {
			t.Errorf("%q is %v, which is read as %v, %v", text, p, again, err)
		}
	})
}
