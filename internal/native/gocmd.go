package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// goroot is where the official images have the toolchain.
const goroot = "/usr/local/go"

// forHost are the go commands whose programs run in the build itself, so that
// they are made for this machine whatever the image is for.
var forHost = map[string]bool{"run": true, "test": true, "generate": true, "tool": true, "vet": true}

// goCommand is the go command of a stage.
func (in *invocation) goCommand() *command.Command {
	return &command.Command{
		Name:  "go",
		Check: func(args []*string) *command.Unsupported { return in.b.checkGo(in.stage, in.exec.Env, args) },
		Run:   in.runGo,
	}
}

// checkGo looks at a go command line before anything runs.
func (b *Build) checkGo(st *stage, env []string, args []*string) *command.Unsupported {
	name := "go"
	variables := map[string]string{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		variables[k] = v
	}
	return b.o.Runner.Check(append([]*string{&name}, args...), variables)
}

// subcommand is the first word of a go command line that is no flag.
func subcommand(args []string) string {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-C":
			i++
		case strings.HasPrefix(args[i], "-"):
		default:
			return args[i]
		}
	}
	return ""
}

// toolchainVersion is the Go version of the stage; empty if it has none.
func (in *invocation) toolchainVersion() string {
	if in.b.o.GoVersion != "" {
		return in.b.o.GoVersion
	}
	if version := goVersion(in.exec.Env); version != "" || in.stage == nil {
		return version
	}
	return goVersion(in.stage.image.Config.Config.Env)
}

// runGo runs the toolchain on the stage's files.
func (in *invocation) runGo(ctx context.Context, p *command.Proc) (int, error) {
	version := in.toolchainVersion()
	if version == "" {
		return p.Errorf("not found")
	}
	root, err := in.b.o.Toolchain(ctx, version)
	if err != nil {
		return 0, err
	}
	args := p.Args[1:]
	sub := subcommand(args)
	env := maps.Clone(p.Env)
	goos, goarch := in.target.OS, in.target.Architecture
	pinned := in.stage != nil && in.stage.pinned
	if pinned {
		goos, goarch = in.platform.OS, in.platform.Architecture
	}
	forHere := forHost[sub] && !(sub == "test" && onlyCompiles(args))
	compiles := sub == "build" || sub == "install" || sub == "list" || sub == "env" || sub == "get" || sub == "test" && !forHere
	saved := in.savedEnv(env)
	set := func(name string) string {
		if v := env[name]; v != "" {
			return v
		}
		return saved[name]
	}
	installs := sub == "install" && slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "@") })
	switch {
	case forHere || installs && !pinned:
		// These start what they build, or build tools that the next line starts.
		if set("GOARCH") != "" && set("GOARCH") != in.b.o.BuildPlatform.Architecture || set("GOOS") != "" && set("GOOS") != in.b.o.BuildPlatform.OS || !pinned {
			env["GOOS"], env["GOARCH"] = in.b.o.BuildPlatform.OS, in.b.o.BuildPlatform.Architecture
			for _, level := range []string{"GOARM", "GOAMD64", "GO386", "GOARM64", "GOMIPS", "GOPPC64", "GORISCV64"} {
				delete(env, level)
			}
		}
	case compiles && !pinned:
		if err := in.contradicts(set("GOOS"), goos, "GOOS", env); err != nil {
			return 0, err
		}
		if err := in.contradicts(set("GOARCH"), goarch, "GOARCH", env); err != nil {
			return 0, err
		}
		if set("GOOS") == "" {
			env["GOOS"] = goos
		}
		if set("GOARCH") == "" {
			env["GOARCH"] = goarch
		}
		if level, value := in.target.GoLevel(); level != "" && set(level) == "" {
			env[level] = value
		}
	case pinned && set("GOARCH") == "" && in.platform.Architecture != in.b.o.BuildPlatform.Architecture:
		env["GOOS"], env["GOARCH"] = goos, goarch
	}
	if err := in.cgo(ctx, p, root, env, set, args, sub); err != nil {
		return 0, err
	}
	if (sub == "build" || sub == "install") && !in.hosted() && (in.dialect() == command.GNU || in.deferred.installs("git")) && !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "-buildvcs") }) && !strings.Contains(set("GOFLAGS"), "-buildvcs") && in.hasRepository(p.Dir) {
		in.b.warn(in.target, "%s: the program doesn't carry the revision of the .git in the stage: go asks a git program for it, and none runs here (-ldflags -X, or -buildvcs=false)", in.b.place(in.op))
	}
	cross := sub == "install" && !installs && !pinned && (env["GOARCH"] != in.b.o.BuildPlatform.Architecture || env["GOOS"] != in.b.o.BuildPlatform.OS)
	if cross {
		// The images look for it in $GOPATH/bin, where a native build puts it.
		delete(env, "GOBIN")
	}
	name := goroot + "/bin/go"
	exit, err := in.start(ctx, process{Proc: p, path: name, args: append([]string{name}, args...), env: env, goroot: root, heavy: compiles || forHost[sub]})
	if cross && err == nil && exit == 0 {
		err = in.moveInstalled(p, env)
	}
	return exit, err
}

// onlyCompiles reports whether a go test has -c: its program is for somebody else to run.
func onlyCompiles(args []string) bool {
	for _, a := range args {
		switch a {
		case "-args", "--args":
			return false
		case "-c", "--c", "-c=true", "--c=true":
			return true
		}
	}
	return false
}

// hasRepository reports whether go would find a Git repository above dir.
func (in *invocation) hasRepository(dir string) bool {
	for ; dir != "/"; dir = path.Dir(dir) {
		if a, err := in.tree.Stat(path.Join(dir, ".git")); err == nil && a.IsDir() {
			return true
		}
	}
	return false
}

// contradicts refuses a GOOS or GOARCH that isn't that of the platform, or
// replaces it if its user says so.
func (in *invocation) contradicts(got, want, name string, env map[string]string) error {
	if got == "" || got == want {
		return nil
	}
	if in.b.o.OverrideArch {
		in.b.warn(in.target, "%s: %s=%s is replaced by %s", in.b.place(in.op), name, got, want)
		env[name] = want
		return nil
	}
	return in.b.contradiction(in.b.place(in.op), in.target, name, got, want)
}

// contradiction is the refusal of a GOOS or GOARCH that isn't that of the platform.
func (b *Build) contradiction(place string, p platform.Platform, name, got, want string) *refusal.Error {
	field := map[string]string{"GOARCH": "Arch", "GOOS": "OS"}[name]
	return b.refuse("PA122", place, p.String(),
		fmt.Sprintf("%s=%s makes a program for another platform than %s", name, got, p),
		fmt.Sprintf("ARG TARGET%s before this line, and %s=$TARGET%s in it", strings.TrimPrefix(name, "GO"), name, strings.TrimPrefix(name, "GO")),
		fmt.Sprintf("--build-arg %s={{.Platform.%s}}, if it is an ARG", name, field),
		"--override-goarch")
}

// savedEnv is what `go env -w` has kept in the stage.
func (in *invocation) savedEnv(env map[string]string) map[string]string {
	file := env["GOENV"]
	if file == "" {
		config := env["XDG_CONFIG_HOME"]
		if config == "" {
			config = path.Join(env["HOME"], ".config")
		}
		file = path.Join(config, "go", "env")
	}
	values := map[string]string{}
	// Only the upper tree is looked at: no base has such a file, and one is not to
	// be read for it.
	if _, err := in.tree.Stat(file); err != nil {
		return values
	}
	data, err := in.tree.ReadFile(file)
	if err != nil {
		return values
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = v
		}
	}
	return values
}

// listArgs turns `go build FLAGS PACKAGES` into the `go list` that finds packages
// outside the standard library with C in them; nil if that can't be told.
func listArgs(args []string, sub string) []string {
	list := []string{}
	packages := []string{}
	at := slices.Index(args, sub)
	for i := 0; i < at; i++ {
		list = append(list, args[i])
	}
	list = append(list, "list", "-deps", "-f", "{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}")
	for i := at + 1; i < len(args); i++ {
		a := args[i]
		if !strings.HasPrefix(a, "-") {
			packages = append(packages, a)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch name {
		case "tags", "mod", "modfile", "overlay":
			list = append(list, a)
			if !hasValue && i+1 < len(args) {
				i++
				list = append(list, args[i])
			}
		case "o", "ldflags", "gcflags", "asmflags", "p", "pgo", "buildmode", "installsuffix", "compiler", "gccgoflags", "pkgdir", "toolexec", "coverpkg", "covermode", "C", "exec":
			if !hasValue {
				i++
			}
		case "a", "v", "x", "n", "race", "msan", "asan", "trimpath", "work", "cover", "linkshared", "modcacherw", "buildvcs", "json", "i":
		default:
			return nil
		}
	}
	return append(list, packages...)
}

// moveInstalled puts programs that go installed for another platform where it
// puts those for its own.
func (in *invocation) moveInstalled(p *command.Proc, env map[string]string) error {
	gopath := env["GOPATH"]
	if gopath == "" {
		gopath = path.Join(env["HOME"], "go")
	}
	gopath, _, _ = strings.Cut(gopath, ":")
	from := path.Join(gopath, "bin", env["GOOS"]+"_"+env["GOARCH"])
	children, err := in.tree.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	to := path.Join(gopath, "bin")
	if bin := p.Env["GOBIN"]; bin != "" {
		to = bin
		if err := in.tree.MkdirAll(to, p.Attr(0o777)); err != nil {
			return err
		}
	}
	for _, c := range children {
		if err := in.tree.Rename(path.Join(from, c.Name), path.Join(to, c.Name)); err != nil {
			return err
		}
	}
	return in.tree.RemoveAll(from)
}

// withSaved adds what `go env -w` saved in the stage to an environment.
func (in *invocation) withSaved(env map[string]string, file string) map[string]string {
	if file == "off" {
		return env
	}
	// What the base has saved is nothing: it needn't be read for that.
	above := in.tree.WithLoader(func() (*filetree.Tree, error) { return nil, fs.ErrNotExist })
	data, err := above.ReadFile(file)
	if err != nil {
		return env
	}
	all := maps.Clone(env)
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && all[k] == "" {
			all[k] = v
		}
	}
	return all
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// hostCertificates is the file of root certificates that this machine trusts;
// empty if it has none in the usual places.
func hostCertificates() string {
	for _, name := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
		if name == "" {
			continue
		}
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	return ""
}
