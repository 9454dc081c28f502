package prove

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/platform"
)

// mismatch is why a program doesn't run on a platform.
type mismatch struct {
	what  string // "an x86-64 program", to follow "is"
	seen  []string
	mild  bool // most machines of the platform run it all the same
	level bool // the architecture is right, only too new
}

// CheckBinary compares a program with the platform that it is to run on: the
// machine and system in its header, and the GOOS, GOARCH and instruction set
// level in Go's build information. Needing a lower level than the platform has
// is fine. path is what the program is called in the findings, which have the
// rule PA201; none means that it suits.
func CheckBinary(b *Binary, p platform.Platform, path string) []Finding {
	m := compare(b, p)
	if m == nil {
		return nil
	}
	f := Finding{
		Rule: RuleEntrypoint, Severity: Error, Platform: p.String(), Path: path,
		Summary: fmt.Sprintf("%s is %s", path, m.what), Seen: m.seen,
		Fix: []string{
			"anyarch build --platform " + p.String() + " compiles for each platform by itself",
			"in a Dockerfile: `ARG TARGETARCH` without a value, in the stage that uses it",
		},
	}
	if m.level {
		name, value := p.GoLevel()
		f.Fix = []string{name + "=" + value + " go build ./...", "or say in the index what it needs: --platform " + levelPlatform(b, p).String()}
	}
	return []Finding{f}
}

// compare says why b doesn't run on p; nil if it does, as far as b says.
func compare(b *Binary, p platform.Platform) *mismatch {
	if b.Portable {
		return nil
	}
	noun := b.Machine + " program"
	if b.Kind != kindProgram {
		noun = b.Machine + " " + b.Kind
	}
	what := article(noun)
	header := []string{"the image says " + p.String() + ", the " + b.Format.name() + " header says " + b.Machine}
	if b.GoArch != "" {
		header = append(header, fmt.Sprintf("Go's build information says GOOS=%s GOARCH=%s", b.GoOS, b.GoArch))
	}
	suits := b.Architecture == p.Architecture || slices.Contains(b.Slices, p.Architecture)
	if !runsFormat(b, p) {
		return &mismatch{what: what + " for " + b.system(), seen: header}
	}
	switch {
	case suits:
	case p.Architecture == "amd64" && (b.Architecture == "386" || b.Machine == machineX32):
		return &mismatch{what: what, seen: header, mild: true}
	default:
		return &mismatch{what: what, seen: header}
	}
	if b.GoArch != "" && b.GoArch != p.Architecture && len(b.Slices) == 0 || b.GoOS != "" && b.GoOS != p.OS && b.Format != Wasm {
		return &mismatch{what: fmt.Sprintf("compiled for %s/%s", b.GoOS, b.GoArch), seen: header}
	}
	return compareLevel(b, p)
}

// runsFormat says whether the system of p loads programs of b's format.
func runsFormat(b *Binary, p platform.Platform) bool {
	switch b.Format {
	case PE:
		return p.OS == "windows"
	case MachO:
		return p.OS == "darwin"
	case Wasm:
		return p.Architecture == "wasm"
	}
	return p.OS != "windows" && p.OS != "darwin" && p.Architecture != "wasm" && (b.OS == "" || b.OS == p.OS)
}

func (f Format) name() string {
	switch f {
	case PE:
		return "PE"
	case MachO:
		return "Mach-O"
	case Wasm:
		return "WebAssembly"
	}
	return "ELF"
}

// system names the system that b is for, for people.
func (b *Binary) system() string {
	switch {
	case b.Format == PE:
		return "Windows"
	case b.Format == MachO:
		return "macOS"
	case b.Format == Wasm:
		return "a WebAssembly runtime"
	case b.GoOS != "":
		return b.GoOS
	case b.OS != "":
		return b.OS
	}
	return "Linux or Unix"
}

// compareLevel compares what a Go program needs of the processor with what the
// platform promises. A variant that isn't known promises nothing and is not
// compared.
func compareLevel(b *Binary, p platform.Platform) *mismatch {
	if b.GoLevel == nil {
		return nil
	}
	needs := levelPlatform(b, p)
	if !isKnown(p) || !isKnown(needs) {
		return nil
	}
	promises := p
	promises.OSVersion = ""
	if promises.Runs(needs) {
		return nil
	}
	name, value := p.GoLevel()
	return &mismatch{
		level: true,
		what:  fmt.Sprintf("compiled with %s=%s, and %s promises %s only", b.GoLevel.Name, b.GoLevel.Value, p, value),
		seen: []string{
			fmt.Sprintf("Go's build information says %s=%s", b.GoLevel.Name, b.GoLevel.Value),
			fmt.Sprintf("a machine of %s need not have more than %s=%s", p, name, value),
		},
	}
}

// isKnown reports whether the variant of p is one that is ordered among others.
func isKnown(p platform.Platform) bool {
	lowest := platform.Platform{OS: p.OS, Architecture: p.Architecture}
	if p.Architecture == "arm" {
		lowest.Variant = "v5"
	}
	p.OSVersion = ""
	return p.Runs(lowest)
}

// levelPlatform is the lowest platform of p's architecture that has the level
// that b needs.
func levelPlatform(b *Binary, p platform.Platform) platform.Platform {
	needs := platform.Platform{OS: p.OS, Architecture: p.Architecture}
	level, options, _ := strings.Cut(b.GoLevel.Value, ",")
	switch b.GoLevel.Name {
	case "GOARM":
		needs.Variant = "v" + level
	case "GOARM64":
		needs.Variant = level
		// The large system extensions came with Armv8.1.
		if level == "v8.0" && strings.Contains(options, "lse") {
			needs.Variant = "v8.1"
		}
	case "GOAMD64", "GOPPC64", "GORISCV64":
		needs.Variant = level
	}
	oci := needs.OCI()
	return platform.FromOCI(&oci)
}

// article puts a or an before a noun, going by how names of machines sound.
func article(noun string) string {
	for _, vowel := range []string{"x86", "i386", "A", "IBM", "S/", "un", "e", "object"} {
		if strings.HasPrefix(noun, vowel) {
			return "an " + noun
		}
	}
	return "a " + noun
}
