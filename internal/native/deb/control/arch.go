package control

import "strings"

// MatchArch reports whether an architecture is what a name stands for, which may be
// a wildcard: any, linux-any, any-amd64 (Debian Policy 11.1).
func MatchArch(pattern, arch string) bool {
	if pattern == arch || pattern == "any" {
		return true
	}
	if !strings.Contains(pattern, "any") {
		// linux-amd64 is another name of amd64.
		return strings.TrimPrefix(pattern, "linux-") == arch
	}
	want, have := archParts(pattern), archParts(arch)
	for i := range want {
		if want[i] != "any" && want[i] != have[i] {
			return false
		}
	}
	return true
}

// archABI are the architectures whose name says more than their processor.
var archABI = map[string][2]string{
	"arm":           {"base", "arm"},
	"armel":         {"eabi", "arm"},
	"armhf":         {"eabihf", "arm"},
	"x32":           {"x32", "amd64"},
	"arm64ilp32":    {"ilp32", "arm64"},
	"mips64el":      {"abi64", "mips64el"},
	"mips64":        {"abi64", "mips64"},
	"mips64r6el":    {"abi64", "mips64r6el"},
	"mips64r6":      {"abi64", "mips64r6"},
	"mipsn32":       {"abin32", "mips64"},
	"mipsn32el":     {"abin32", "mips64el"},
	"powerpcspe":    {"spe", "powerpc"},
	"uclinux-armel": {"eabi", "arm"},
}

// archParts gives the ABI, C library, system and processor of a name: those that
// dpkg-architecture(1) has a wildcard for.
func archParts(name string) [4]string {
	parts := strings.Split(name, "-")
	switch len(parts) {
	case 4:
		return [4]string(parts)
	case 3:
		return [4]string{"any", parts[0], parts[1], parts[2]}
	}
	abi, libc, system, cpu := "base", "gnu", "linux", parts[len(parts)-1]
	if len(parts) == 2 {
		system = parts[0]
		if system == "any" || cpu == "any" {
			abi, libc = "any", "any"
		}
		if system == "musl" || system == "uclibc" {
			libc, system = system, "linux"
		}
	}
	if special, ok := archABI[cpu]; ok && abi != "any" {
		abi, cpu = special[0], special[1]
	}
	return [4]string{abi, libc, system, cpu}
}
