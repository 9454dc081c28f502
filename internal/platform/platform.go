// Package platform is the one place that knows what a platform is called:
// in an OCI index, in Go's environment, and in the header of a program.
//
// A platform is parsed once, from what a user typed or from a descriptor, and
// then handed on as a [Platform] value; nobody parses a string again.
package platform

import (
	"cmp"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Platform is an OCI platform in normal form (image-spec v1.1.1,
// image-index.md, "platform"): arm64 rather than arm64/v8, arm/v7 rather than
// arm, amd64 rather than amd64/v1. The zero value is no platform. Platforms can
// be compared with == and used as map keys.
type Platform struct {
	OS           string
	Architecture string // an OCI architecture, which is a GOARCH
	Variant      string // empty for the architecture's default
	OSVersion    string // only for Windows: the build of the base image
}

// Default is what is built when nobody says otherwise.
func Default() []Platform {
	return []Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
}

// Local is the platform of Linux containers on this machine.
func Local() Platform {
	p := Platform{OS: "linux", Architecture: runtime.GOARCH}
	return normalize(ocispec.Platform{OS: p.OS, Architecture: p.Architecture})
}

// variants lists, per architecture, the variants that exist, lowest first. A
// program for a variant runs on every later one. The empty string is the
// default in normal form.
var variants = map[string][]string{
	"amd64":   {"", "v2", "v3", "v4"},
	"arm":     {"v5", "v6", "v7"},
	"arm64":   {"", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9", "v9.0", "v9.1", "v9.2", "v9.3", "v9.4", "v9.5"},
	"ppc64":   {"", "power9", "power10"},
	"ppc64le": {"", "power9", "power10"},
	"riscv64": {"", "rva22u64", "rva23u64"},
}

// oses and architectures are those of `go tool dist list` in Go 1.26 that an
// image can be made for.
var (
	oses          = []string{"linux", "windows", "darwin", "freebsd"}
	architectures = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x"}
)

var dottedVariant = regexp.MustCompile(`^v[0-9]+\.[0-9]+$`)

// Parse reads one OCI platform such as linux/arm64, linux/arm/v6 or
// windows/amd64, or the word local. A Windows platform may name an OS version,
// as in windows(10.0.20348)/amd64 or windows/amd64:10.0.20348.
// What isn't a platform, or one that Go can't compile for, is a
// [refusal.Error] with code PA110.
func Parse(text string) (Platform, error) {
	text = strings.TrimSpace(text)
	if text == "local" {
		return Local(), nil
	}
	spec, osVersion := text, ""
	if strings.HasPrefix(text, "windows/") {
		spec, osVersion, _ = strings.Cut(text, ":")
	}
	if !strings.Contains(spec, "/") {
		return Platform{}, unknown(text, "a platform is written os/architecture[/variant]")
	}
	// containerd's parser takes no variants with a dot, such as arm64/v8.2.
	variant := ""
	if i := strings.LastIndex(spec, "/"); strings.Count(spec, "/") == 2 && dottedVariant.MatchString(spec[i+1:]) {
		spec, variant = spec[:i], spec[i+1:]
	}
	parsed, err := platforms.Parse(spec)
	if err != nil {
		return Platform{}, unknown(text, "a platform is written os/architecture[/variant]")
	}
	if variant != "" {
		parsed.Variant = variant
	}
	p := normalize(parsed)
	if osVersion != "" {
		p.OSVersion = osVersion
	}
	if p.OSVersion != "" && p.OS != "windows" {
		return Platform{}, unknown(text, "only Windows platforms have an OS version")
	}
	if !slices.Contains(oses, p.OS) {
		return Platform{}, unknown(text, fmt.Sprintf("there is no operating system %q", p.OS), "known are "+strings.Join(oses, ", "))
	}
	if !slices.Contains(architectures, p.Architecture) {
		return Platform{}, unknown(text, fmt.Sprintf("there is no architecture %q", p.Architecture), "known are "+strings.Join(architectures, ", "))
	}
	if known := variants[p.Architecture]; p.Variant != "" && !slices.Contains(known, p.Variant) {
		if len(known) == 0 {
			return Platform{}, unknown(text, fmt.Sprintf("%s has no variants", p.Architecture))
		}
		return Platform{}, unknown(text, fmt.Sprintf("%s has no variant %q", p.Architecture, p.Variant), "known are "+strings.Join(spell(p.Architecture, known), ", "))
	}
	return p, nil
}

// spell writes the default variant by its name.
func spell(arch string, known []string) []string {
	names := slices.Clone(known)
	for i, name := range names {
		if name == "" {
			names[i] = map[string]string{"amd64": "v1", "arm64": "v8", "ppc64": "power8", "ppc64le": "power8", "riscv64": "rva20u64"}[arch]
		}
	}
	return names
}

func unknown(text, why string, seen ...string) error {
	e := &refusal.Error{
		Code: "PA110", Kind: refusal.Usage, Place: "--platform " + text,
		Summary: fmt.Sprintf("%q is not a platform: %s", text, why), Seen: seen,
		Fix: []string{"--platform linux/amd64,linux/arm64"},
	}
	if near := nearest(text); near != "" {
		e.Fix = []string{"--platform " + near}
	}
	return e
}

// nearest finds the platform that was probably meant, or "".
func nearest(text string) string {
	var names []string
	for _, os := range oses {
		for _, arch := range architectures {
			names = append(names, os+"/"+arch)
		}
	}
	if near := refusal.Nearest(text, names); near != "" {
		return near
	}
	return refusal.Nearest("linux/"+text, names)
}

// ParseList reads comma-separated platforms, as --platform takes them. The same
// platform twice, also by another spelling, counts once. Every mistake is
// reported, not only the first. The word all isn't a platform: see [IsAll].
func ParseList(texts []string) ([]Platform, error) {
	var (
		list    []Platform
		refused refusal.Collect
	)
	for _, text := range texts {
		for part := range strings.SplitSeq(text, ",") {
			if strings.TrimSpace(part) == "" {
				continue
			}
			p, err := Parse(part)
			if err != nil {
				refused.Add(err)
				continue
			}
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

// IsAll reports whether --platform asks for every platform that the base has
// and Go can compile for.
func IsAll(texts []string) bool {
	return len(texts) == 1 && strings.TrimSpace(texts[0]) == "all"
}

// FromOCI takes the platform of a descriptor or config in normal form. A
// descriptor without a platform gives the zero Platform.
func FromOCI(p *ocispec.Platform) Platform {
	if p == nil || (p.OS == "" && p.Architecture == "") {
		return Platform{}
	}
	return normalize(*p)
}

func normalize(p ocispec.Platform) Platform {
	n := platforms.Normalize(p)
	result := Platform{OS: n.OS, Architecture: n.Architecture, Variant: n.Variant, OSVersion: n.OSVersion}
	// containerd leaves a few spellings of the defaults alone.
	switch {
	case result.Architecture == "amd64" && result.Variant == "v1",
		result.Architecture == "arm64" && (result.Variant == "v8" || result.Variant == "v8.0"),
		strings.HasPrefix(result.Architecture, "ppc64") && result.Variant == "power8",
		result.Architecture == "riscv64" && result.Variant == "rva20u64":
		result.Variant = ""
	case result.Architecture == "arm64" && result.Variant == "v9":
		result.Variant = "v9.0"
	case result.Architecture == "arm" && result.Variant == "":
		result.Variant = "v7"
	case result.Architecture == "arm" && result.Variant != "" && !strings.HasPrefix(result.Variant, "v"):
		result.Variant = "v" + result.Variant
	}
	return result
}

// OCI is the platform as it stands in descriptors and configs.
func (p Platform) OCI() ocispec.Platform {
	return ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
}

// String is os/architecture[/variant], with the OS version left out.
func (p Platform) String() string {
	if p.OS == "" && p.Architecture == "" {
		return "unknown"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// IsZero reports whether p is no platform.
func (p Platform) IsZero() bool { return p == Platform{} }

// IsAttestation reports whether a descriptor with this platform is BuildKit's
// provenance or SBOM rather than something that can run.
func (p Platform) IsAttestation() bool { return p.OS == "unknown" && p.Architecture == "unknown" }

// goLevel names, per architecture, Go's variable for the instruction set level
// and its default. The default is always set, so that a level in the caller's
// environment or in the toolchain's settings never reaches a build.
var goLevel = map[string]struct{ name, value string }{
	"386":      {"GO386", "sse2"},
	"amd64":    {"GOAMD64", "v1"},
	"arm":      {"GOARM", "7"},
	"arm64":    {"GOARM64", "v8.0"},
	"mips":     {"GOMIPS", "hardfloat"},
	"mipsle":   {"GOMIPS", "hardfloat"},
	"mips64":   {"GOMIPS64", "hardfloat"},
	"mips64le": {"GOMIPS64", "hardfloat"},
	"ppc64":    {"GOPPC64", "power8"},
	"ppc64le":  {"GOPPC64", "power8"},
	"riscv64":  {"GORISCV64", "rva20u64"},
}

// GoLevel is the name and value of Go's instruction set variable for this
// platform, such as GOAMD64=v3; both are empty where the architecture has none.
func (p Platform) GoLevel() (name, value string) {
	level := goLevel[p.Architecture]
	if p.Variant == "" {
		return level.name, level.value
	}
	switch p.Architecture {
	case "arm":
		return level.name, strings.TrimPrefix(p.Variant, "v")
	default:
		return level.name, p.Variant
	}
}

// GoEnv is what makes `go build` compile for this platform, as KEY=value.
func (p Platform) GoEnv() []string {
	env := []string{"GOOS=" + p.OS, "GOARCH=" + p.Architecture}
	if name, value := p.GoLevel(); name != "" {
		env = append(env, name+"="+value)
	}
	return env
}

// rank orders the variants of one architecture; -1 for one that isn't known.
func (p Platform) rank() int {
	known := variants[p.Architecture]
	if len(known) == 0 && p.Variant == "" {
		return 0
	}
	return slices.Index(known, p.Variant)
}

// Runs reports whether a machine of platform p runs a program made for other:
// the same OS and architecture, and a variant that isn't higher. An OS version
// of p must be a prefix of other's, in whole numbers.
func (p Platform) Runs(other Platform) bool {
	if p.OS != other.OS || p.Architecture != other.Architecture || !p.matchesOSVersion(other) {
		return false
	}
	if p.Variant == other.Variant {
		return true
	}
	return other.rank() >= 0 && p.rank() >= other.rank()
}

func (p Platform) matchesOSVersion(other Platform) bool {
	return p.OSVersion == "" || p.OSVersion == other.OSVersion || strings.HasPrefix(other.OSVersion, p.OSVersion+".")
}

// Best picks the entry of available that suits p best: the same variant, else
// the highest lower one; of several Windows builds the newest. It returns -1 if
// there is none. It never falls back to another architecture.
func (p Platform) Best(available []Platform) int {
	best := -1
	for i, candidate := range available {
		if !p.Runs(candidate) {
			continue
		}
		if best < 0 || cmp.Or(
			cmp.Compare(candidate.rank(), available[best].rank()),
			compareOSVersions(candidate.OSVersion, available[best].OSVersion)) > 0 {
			best = i
		}
	}
	return best
}

func compareOSVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		if c := cmp.Or(cmp.Compare(len(as[i]), len(bs[i])), cmp.Compare(as[i], bs[i])); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}

// Names lists platforms for people, comma-separated.
func Names(list []Platform) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
