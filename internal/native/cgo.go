package native

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/refusal"
)

// cgo decides whether a go command that compiles uses C, and with which compiler: as
// a container of the platform would, whose gcc makes programs for the platform. Here
// it is gcc of this machine's platform, and another platform needs a cross compiler.
// What only the standard library would use C for (net, os/user) is built without,
// on all platforms alike.
func (in *invocation) cgo(ctx context.Context, p *command.Proc, root string, env map[string]string, set func(string) string, args []string, sub string) error {
	asked := set("CGO_ENABLED")
	builds := sub == "build" || sub == "install"
	wants := asked == "1" && (builds || sub == "test" || sub == "run")
	var found []string
	if builds && asked == "" && in.hasCompiler(p, set("CC")) && (in.native(env) || !in.stage.pinned) {
		var err error
		if found, err = in.needsC(ctx, p, root, env, args, sub); err != nil {
			return err
		}
		wants = len(found) > 0
	}
	if !wants {
		if builds || !in.hosted() {
			env["CGO_ENABLED"] = "0"
		}
		return nil
	}
	if !in.hosted() {
		if in.b.cantHost(in.graph, in.op) == nil {
			return errHost
		}
		return in.refuseC(env["GOARCH"], found)
	}
	env["CGO_ENABLED"] = "1"
	if in.native(env) {
		return nil
	}
	compiler, _, _ := strings.Cut(strings.TrimSpace(set("CC")), " ")
	if compiler == "" && !in.stage.pinned {
		if compiler = in.crossCompiler(p); compiler != "" {
			env["CC"] = compiler
			if cxx := strings.TrimSuffix(compiler, "gcc") + "g++"; set("CXX") == "" && in.findProgram(p, cxx) {
				env["CXX"] = cxx
			}
			return nil
		}
	}
	if compiler == "" || !in.findProgram(p, compiler) {
		return in.refuseC(env["GOARCH"], found)
	}
	return nil
}

// native reports whether a go command with this environment makes programs for the
// machine that builds.
func (in *invocation) native(env map[string]string) bool {
	b := in.b.o.BuildPlatform
	return first(env["GOARCH"], b.Architecture) == b.Architecture && first(env["GOOS"], b.OS) == b.OS
}

// hasCompiler reports whether go would find a C compiler in the stage, and use cgo.
func (in *invocation) hasCompiler(p *command.Proc, cc string) bool {
	if in.stage == nil || !in.stage.goBuilder {
		return false
	}
	if !in.hosted() {
		return in.dialect() == command.GNU || in.deferred.installs("gcc", "build-base", "musl-dev", "g++", "clang", "alpine-sdk")
	}
	if cc, _, _ = strings.Cut(strings.TrimSpace(cc), " "); cc != "" {
		return in.findProgram(p, cc)
	}
	return in.findProgram(p, "gcc") || in.findProgram(p, "clang")
}

// findProgram reports whether a program is on a call's PATH.
func (in *invocation) findProgram(p *command.Proc, name string) bool {
	q := *p
	q.Args = []string{name}
	return in.lookPath(&q) != ""
}

// crossCompiler is the C compiler of the stage for the image's platform; empty if
// there is none.
func (in *invocation) crossCompiler(p *command.Proc) string {
	for _, name := range crossCompilers(in.target.Architecture, in.target.Variant) {
		if in.findProgram(p, name) {
			return name
		}
	}
	return ""
}

// crossCompilers are the names of C compilers for an architecture, first as Debian
// calls it, then those for musl.
func crossCompilers(arch, variant string) []string {
	cpu, gnu, musl := arch, "gnu", "musl"
	switch arch {
	case "amd64":
		cpu = "x86_64"
	case "386":
		cpu = "i686"
	case "arm64":
		cpu = "aarch64"
	case "arm":
		if gnu, musl = "gnueabihf", "musleabihf"; variant == "v5" {
			gnu, musl = "gnueabi", "musleabi"
		}
	case "ppc64le":
		cpu = "powerpc64le"
	case "mips64le":
		cpu, gnu, musl = "mips64el", "gnuabi64", "muslabi64"
	case "loong64":
		cpu = "loongarch64"
	}
	return []string{cpu + "-linux-" + gnu + "-gcc", cpu + "-linux-" + musl + "-gcc", cpu + "-alpine-linux-" + musl + "-gcc"}
}

// debianCross are the packages of Debian with the cross compiler and the C library of
// an architecture.
func debianCross(arch, variant string) (compiler string, packages []string) {
	compiler = crossCompilers(arch, variant)[0]
	name := map[string]string{"386": "i386", "arm": "armhf", "ppc64le": "ppc64el", "mips64le": "mips64el"}[arch]
	if arch == "arm" && variant == "v5" {
		name = "armel"
	}
	return compiler, []string{"gcc-" + strings.ReplaceAll(strings.TrimSuffix(compiler, "-gcc"), "_", "-"), "libc6-dev-" + first(name, arch) + "-cross"}
}

// refuseC is the refusal of a program that needs C where no compiler makes it.
func (in *invocation) refuseC(arch string, found []string) error {
	slices.Sort(found)
	e := &refusal.Error{Code: "PA103", Platform: in.label, Place: in.b.place(in.op), Seen: slices.Compact(found),
		Summary: "the program needs C, and the stage has no C compiler for " + first(arch, in.target.Architecture)}
	if u := in.b.cantHost(in.graph, in.op); u != nil {
		e.Summary = "the program needs C, and the stage's compiler is " + u.What + ": it can't run here"
		e.Fix = append(e.Fix, u.Fix)
	} else {
		compiler, packages := debianCross(first(arch, in.target.Architecture), in.target.Variant)
		switch {
		case in.dialect() == command.GNU && in.stage.pinned:
			e.Fix = append(e.Fix, fmt.Sprintf("RUN apt-get update && apt-get install -y --no-install-recommends %s   # before this line", strings.Join(packages, " ")),
				"ENV CC="+compiler+"   # for this platform alone: case $TARGETARCH in … esac")
		case in.dialect() == command.GNU:
			e.Fix = append(e.Fix, fmt.Sprintf("RUN apt-get update && apt-get install -y --no-install-recommends %s   # before this line", strings.Join(packages, " ")))
		default:
			e.Fix = append(e.Fix, "a builder with a cross compiler in it, such as golang:bookworm with apt-get install "+strings.Join(packages, " ")+", or "+crossCompilers(arch, in.target.Variant)[1]+" on PATH, and CC set to it")
		}
	}
	e.Fix = append(e.Fix, "CGO_ENABLED=0 in this instruction, if the program works without C", otherEngine)
	return e
}

// needsC lists the packages outside the standard library that have C in them, of what
// a go command line builds: without cgo such programs compile, and fail when they run.
func (in *invocation) needsC(ctx context.Context, p *command.Proc, root string, env map[string]string, args []string, sub string) ([]string, error) {
	list := listArgs(args, sub)
	if list == nil {
		return nil, nil
	}
	probe := maps.Clone(env)
	probe["CGO_ENABLED"] = "1"
	out := &tail{limit: 1 << 20}
	q := *p
	q.Stdin, q.Stdout, q.Stderr = strings.NewReader(""), out, &tail{limit: 1 << 10}
	name := goroot + "/bin/go"
	exit, err := in.start(ctx, process{Proc: &q, path: name, args: append([]string{name}, list...), env: probe, goroot: root, heavy: true})
	if err != nil || exit != 0 {
		return nil, err // the build itself will say what is wrong
	}
	var found []string
	for _, line := range out.lines(1 << 20) {
		if line = strings.TrimSpace(line); line != "" {
			found = append(found, line)
		}
	}
	return found, nil
}
