package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/native/worktree"
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

// runGo runs the toolchain on the stage's files.
func (in *invocation) runGo(ctx context.Context, p *command.Proc) (int, error) {
	version := in.b.o.GoVersion
	if version == "" {
		version = goVersion(in.exec.Env)
	}
	if version == "" && in.stage != nil {
		version = goVersion(in.stage.image.Config.Config.Env)
	}
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
	compiles := sub == "build" || sub == "install" || sub == "list" || sub == "env" || sub == "get"
	saved := in.savedEnv(env)
	set := func(name string) string {
		if v := env[name]; v != "" {
			return v
		}
		return saved[name]
	}
	installs := sub == "install" && slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "@") })
	switch {
	case forHost[sub] || installs && !pinned:
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
	cgo := set("CGO_ENABLED")
	if cgo == "1" && (sub == "build" || sub == "install" || sub == "test" || sub == "run") {
		return 0, in.b.refuse("PA103", in.b.place(in.op), in.label,
			"cgo needs a C compiler for the platform, which the native engine doesn't run",
			"CGO_ENABLED=0 in this instruction, if no package needs C", otherEngine)
	}
	env["CGO_ENABLED"] = "0"
	if (sub == "build" || sub == "install") && cgo == "" {
		if err := in.needsC(ctx, p, root, env, args, sub); err != nil {
			return 0, err
		}
	}
	if (sub == "build" || sub == "install") && (in.dialect() == command.GNU || in.deferred.installs("git")) && !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "-buildvcs") }) && !strings.Contains(set("GOFLAGS"), "-buildvcs") && in.hasRepository(p.Dir) {
		in.b.warn(in.target, "%s: the program doesn't carry the revision of the .git in the stage: go asks a git program for it, and none runs here (-ldflags -X, or -buildvcs=false)", in.b.place(in.op))
	}
	cross := sub == "install" && !installs && (env["GOARCH"] != in.b.o.BuildPlatform.Architecture || env["GOOS"] != in.b.o.BuildPlatform.OS)
	if cross {
		// The images look for it in $GOPATH/bin, where a native build puts it.
		delete(env, "GOBIN")
	}
	exit, err := in.start(ctx, p, append([]string{goroot + "/bin/go"}, args...), env, root, version, compiles || forHost[sub])
	if cross && err == nil && exit == 0 {
		err = in.moveInstalled(p, env)
	}
	return exit, err
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

// needsC refuses programs that link C packages where the stage would have used
// cgo: without it they compile and fail when they run.
func (in *invocation) needsC(ctx context.Context, p *command.Proc, root string, env map[string]string, args []string, sub string) error {
	compiler := in.dialect() == command.GNU || in.deferred.installs("gcc", "build-base", "musl-dev", "g++", "clang", "alpine-sdk")
	if in.stage == nil || !in.stage.goBuilder || !compiler {
		return nil // no C compiler there: go itself turns cgo off
	}
	list := listArgs(args, sub)
	if list == nil {
		return nil
	}
	probe := maps.Clone(env)
	probe["CGO_ENABLED"] = "1"
	out := &tail{limit: 1 << 20}
	q := *p
	q.Stdout, q.Stderr = out, &tail{limit: 1 << 10}
	exit, err := in.start(ctx, &q, append([]string{goroot + "/bin/go"}, list...), probe, root, "", true)
	if err != nil || exit != 0 {
		return err // the build itself will say what is wrong
	}
	var found []string
	for _, line := range out.lines(1 << 20) {
		if line = strings.TrimSpace(line); line != "" {
			found = append(found, line)
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	return &refusal.Error{Code: "PA103", Platform: in.label, Place: in.b.place(in.op),
		Summary: "packages need C, and the stage has a C compiler that the native engine can't run", Seen: slices.Compact(found),
		Fix: []string{"CGO_ENABLED=0 in this instruction, if the program works without them", otherEngine}}
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

// program runs a program that lies in the tree, for the shell.
func (in *invocation) program(ctx context.Context, name string, p *command.Proc) (int, bool, error) {
	if in.b.o.Runner.Name() != "sandbox" {
		return 0, false, nil
	}
	a, err := in.tree.Stat(name)
	if err != nil || !a.IsRegular() {
		return 0, false, nil
	}
	if in.stage != nil && in.stage.hosted {
		if err := in.tree.Force(); err != nil {
			return 0, true, err
		}
	}
	root := ""
	if version := goVersion(in.exec.Env); version != "" {
		if root, err = in.b.o.Toolchain(ctx, version); err != nil {
			return 0, true, err
		}
	}
	q := *p
	args := append([]string{name}, p.Args[1:]...)
	env := maps.Clone(p.Env)
	if root != "" && in.stage != nil && in.stage.hosted && !in.stage.pinned {
		// A go command that the program starts makes programs of the image.
		level, value := in.target.GoLevel()
		for _, kv := range [][2]string{{"GOOS", in.target.OS}, {"GOARCH", in.target.Architecture}, {level, value}, {"CGO_ENABLED", "0"}} {
			if kv[0] != "" && env[kv[0]] == "" {
				env[kv[0]] = kv[1]
			}
		}
	}
	exit, err := in.start(ctx, &q, args, env, root, "", true)
	return exit, true, err
}

// start runs a process in a checkout of the tree and brings back what it changed.
func (in *invocation) start(ctx context.Context, p *command.Proc, args []string, env map[string]string, root, _ string, heavy bool) (int, error) {
	if heavy {
		// Go uses all cores where it can; linking can't. Two at once keep the
		// machine busy, and memory bounded.
		select {
		case in.b.compiles <- struct{}{}:
			defer func() { <-in.b.compiles }()
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	config := path.Join(first(env["XDG_CONFIG_HOME"], path.Join(env["HOME"], ".config")), "go")
	foreign := sandbox.Foreign(args, in.withSaved(env, first(env["GOENV"], path.Join(config, "env"))))
	slot, release, err := in.b.work.take(ctx, in.workName(foreign), in.b.o.Runner.Name() == "mapped")
	if err != nil {
		return 0, err
	}
	defer release()
	if err := slot.tree.Checkout(ctx, in.tree); err != nil {
		return 0, err
	}
	modCache, buildCache := in.b.o.ModCache, in.b.o.BuildCache
	if foreign {
		// What isn't the toolchain could change what later builds take from the
		// caches of all projects: it gets caches of its own.
		modCache, buildCache = filepath.Join(slot.dir+".cache", "mod"), filepath.Join(slot.dir+".cache", "build")
	}
	for _, dir := range []string{modCache, buildCache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	var list []string
	if root != "" {
		if env["GOFLAGS"] == "" {
			delete(env, "GOFLAGS")
		}
		env["GOTOOLCHAIN"] = "local"
		for _, kv := range in.b.o.GoEnv {
			k, v, _ := strings.Cut(kv, "=")
			if env[k] == "" {
				env[k] = v
			}
		}
		env["GOTELEMETRY"] = "off"
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	home := env["HOME"]
	gopath := env["GOPATH"]
	if gopath == "" {
		gopath = path.Join(home, "go")
	}
	gopath, _, _ = strings.Cut(gopath, ":")
	modTarget := first(env["GOMODCACHE"], path.Join(gopath, "pkg", "mod"))
	buildTarget := first(env["GOCACHE"], path.Join(first(env["XDG_CACHE_HOME"], path.Join(home, ".cache")), "go-build"))
	exit, err := in.b.o.Runner.Run(ctx, sandbox.Command{
		Root: slot.dir, Dir: p.Dir, Args: args, Env: list, Goroot: root, GorootTarget: goroot,
		ModCache: modCache, BuildCache: buildCache, ModCacheTarget: modTarget, BuildCacheTarget: buildTarget,
		Network: in.exec.Network != "none" && !in.b.o.Offline, ProxyEnv: append(slices.Clone(in.b.o.Proxy), in.exec.Proxy...),
		CACerts: hostCertificates(), Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr,
	})
	if err != nil {
		return exit, err
	}
	// Counters of the go command have the day in their names: no image has the
	// same digest tomorrow with them.
	ignored := []string{modTarget, buildTarget, goroot, "/proc", "/dev", "/sys", path.Join(config, "telemetry")}
	// What a process leaves behind is imported even if it failed: the next word of
	// the script may look at it.
	err = slot.tree.Commit(ctx, in.tree, in.uid, in.gid, in.b.now(), func(name string) bool {
		return slices.ContainsFunc(ignored, func(dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") })
	})
	return exit, err
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

// workName names the directory that a stage's processes run in: the same in the
// next run of the program, so that little has to be written.
func (in *invocation) workName(foreign bool) string {
	name := first(in.op.Stage, "stage")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, name)
	label := first(strings.ReplaceAll(in.label, "/", "-"), "any")
	if foreign {
		label += "-foreign"
	}
	return name + "-" + label
}

// worktrees are the directories that processes run in, one at a time each.
type worktrees struct {
	mu           sync.Mutex
	dir, scratch string
	open         map[string]*worktreeSlot
}

type worktreeSlot struct {
	dir  string
	tree *worktree.Worktree
	busy chan struct{}
}

func (w *worktrees) take(ctx context.Context, name string, rewriteLinks bool) (*worktreeSlot, func(), error) {
	w.mu.Lock()
	slot := w.open[name]
	if slot == nil {
		dir := filepath.Join(w.dir, name)
		if err := os.MkdirAll(w.dir, 0o700); err != nil {
			w.mu.Unlock()
			return nil, nil, err
		}
		tree, err := worktree.Open(ctx, worktree.Options{Dir: dir, Scratch: w.scratch, RewriteLinks: rewriteLinks, Skip: func(name string) bool {
			return name == goroot || strings.HasPrefix(name, goroot+"/")
		}})
		if err != nil {
			w.mu.Unlock()
			return nil, nil, err
		}
		slot = &worktreeSlot{dir: dir, tree: tree, busy: make(chan struct{}, 1)}
		w.open[name] = slot
	}
	w.mu.Unlock()
	select {
	case slot.busy <- struct{}{}:
		return slot, func() { <-slot.busy }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

func (w *worktrees) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, slot := range w.open {
		errs = append(errs, slot.tree.Close())
	}
	w.open = map[string]*worktreeSlot{}
	return errors.Join(errs...)
}
