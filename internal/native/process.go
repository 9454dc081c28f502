package native

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/trace"
)

// program runs a program that lies in the tree, for the shell.
func (in *invocation) program(ctx context.Context, name string, p *command.Proc) (int, bool, error) {
	if in.b.o.Runner.Name() != "sandbox" {
		return 0, false, nil
	}
	a, err := in.tree.Stat(name)
	if err != nil || !a.IsRegular() {
		return 0, false, nil
	}
	if !in.hosted() {
		// A static program that the build has made or copied needs nothing of the base.
		b, err := in.binary(name)
		if err != nil {
			return 0, true, err
		}
		if b == nil || !b.Static || b.Architecture != in.b.o.BuildPlatform.Architecture {
			if u := in.b.cantHost(in.graph, in.op); u != nil {
				return 0, true, in.b.refuseHost(in.op, in.b.place(in.op), p.Args[0], u)
			}
			return 0, true, errHost
		}
	} else if b, err := in.binary(name); err != nil {
		return 0, true, err
	} else if b != nil && b.Architecture != in.b.o.BuildPlatform.Architecture {
		return 0, true, in.b.refuse("PA160", in.b.place(in.op), "", p.Args[0]+": a program for "+first(b.Architecture, b.Machine)+" can't run here",
			"one that is made for the machine that builds: go run, or GOARCH=$BUILDARCH", otherEngine)
	}
	root := ""
	if version := in.toolchainVersion(); version != "" && in.hasGo() {
		if root, err = in.b.o.Toolchain(ctx, version); err != nil {
			return 0, true, err
		}
	}
	exit, err := in.start(ctx, process{Proc: p, path: name, args: p.Args, env: maps.Clone(p.Env), goroot: root, heavy: true})
	return exit, true, err
}

// binary reads the header of a file; nil if it is no program but, say, a script.
func (in *invocation) binary(name string) (*prove.Binary, error) {
	r, err := in.tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	at, ok := r.(io.ReaderAt)
	a, err := in.tree.Stat(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		data, err := io.ReadAll(io.LimitReader(r, maxHeader))
		if err != nil {
			return nil, err
		}
		at = bytes.NewReader(data)
	}
	b, err := prove.ReadBinary(at, a.Size())
	if b == nil && err != nil {
		return nil, nil //nolint:nilerr // the kernel will say what it thinks of it
	}
	return b, nil
}

// maxHeader bounds what is read of a program that can only be read from its beginning.
const maxHeader = 256 << 20

// runGofmt runs the toolchain's gofmt, which reads and writes files and nothing else.
func (in *invocation) runGofmt(ctx context.Context, p *command.Proc) (int, error) {
	if in.b.o.Runner.Name() != "sandbox" {
		return 0, &command.Unsupported{Command: "gofmt", What: "running it during a build", Fix: "go vet, or leave it to CI"}
	}
	root, err := in.b.o.Toolchain(ctx, in.toolchainVersion())
	if err != nil {
		return 0, err
	}
	name := goroot + "/bin/gofmt"
	return in.start(ctx, process{Proc: p, path: name, args: append([]string{name}, p.Args[1:]...), env: maps.Clone(p.Env), goroot: root})
}

// process is one process of a RUN.
type process struct {
	*command.Proc
	path   string   // of the program, in the tree
	args   []string // its arguments, the name it sees as its own first
	env    map[string]string
	goroot string // of the host; empty if no go command is there
	heavy  bool   // it may use all processors, and much memory
}

// traced is the process's name in a trace: no arguments, which may hold secrets.
func (p process) traced() string {
	name := path.Base(p.path)
	if p.goroot != "" && name == "go" && len(p.args) > 1 {
		name += " " + p.args[1]
	}
	return name
}

// start runs a process in a checkout of the tree and brings back what it changed.
func (in *invocation) start(ctx context.Context, p process) (int, error) {
	if p.heavy {
		leave, err := in.enter(ctx)
		if err != nil {
			return 0, err
		}
		defer leave()
	}
	env := p.env
	config := path.Join(first(env["XDG_CONFIG_HOME"], path.Join(env["HOME"], ".config")), "go")
	foreign := in.hosted() || sandbox.Foreign(append([]string{p.path}, p.args[1:]...), in.withSaved(env, first(env["GOENV"], path.Join(config, "env"))))
	slot, release, err := in.b.work.take(ctx, in, in.workName(foreign), in.b.o.Runner.Name() == "mapped")
	if err != nil {
		return 0, err
	}
	defer release()
	if in.hosted() {
		if err := in.tree.Force(); err != nil {
			return 0, err
		}
	}
	if err := slot.checkout(ctx, in.tree); err != nil {
		return 0, err
	}
	modCache, buildCache := in.b.o.ModCache, in.b.o.BuildCache
	if foreign {
		// What isn't the toolchain could change what later builds take from the
		// caches of all projects: it gets caches of its own.
		cache := in.b.work.path(in.cacheName())
		modCache, buildCache = filepath.Join(cache, "mod"), filepath.Join(cache, "build")
	} else if p.goroot != "" && in.b.o.BeforeGo != nil {
		in.b.o.BeforeGo(ctx)
	}
	for _, dir := range []string{modCache, buildCache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	c := sandbox.Command{
		Root: slot.dir, Dir: p.Dir, Program: p.path, Args: p.args, Goroot: p.goroot, GorootTarget: goroot, ModCache: modCache, BuildCache: buildCache,
		Network: in.exec.Network != "none" && !in.b.o.Offline, ProxyEnv: append(slices.Clone(in.b.o.Proxy), in.exec.Proxy...),
		UID: in.uid, GID: in.gid, Umask: p.Umask, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr,
	}
	var shim *shim
	if p.goroot != "" {
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
		c.CACerts = hostCertificates()
	}
	if in.hosted() && !strings.HasPrefix(p.path, goroot+"/bin/") {
		if shim, err = in.newShim(p.goroot != "", env); err != nil {
			return 0, err
		}
		c.Mounts = append(c.Mounts, shim.mounts(p.goroot)...)
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		c.Env = append(c.Env, k+"="+env[k])
	}
	gopath, _, _ := strings.Cut(first(env["GOPATH"], path.Join(env["HOME"], "go")), ":")
	c.ModCacheTarget = first(env["GOMODCACHE"], path.Join(gopath, "pkg", "mod"))
	c.BuildCacheTarget = first(env["GOCACHE"], path.Join(first(env["XDG_CACHE_HOME"], path.Join(env["HOME"], ".cache")), "go-build"))
	if in.hosted() && p.goroot == "" && !in.hasGo() {
		c.ModCache, c.BuildCache = "", "" // nobody looks for them
	}
	end := trace.Start(ctx, trace.Process, p.traced())
	exit, err := in.b.o.Runner.Run(ctx, c)
	end("instruction", in.b.place(in.op), "platform", in.label, "exit", strconv.Itoa(exit))
	if err != nil {
		return exit, err
	}
	if err := shim.said(in); err != nil {
		return exit, err
	}
	// Counters of the go command have the day in their names: no image has the
	// same digest tomorrow with them.
	ignored := []string{goroot, "/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts", shimDir, path.Join(config, "telemetry")}
	if c.ModCache != "" {
		ignored = append(ignored, c.ModCacheTarget, c.BuildCacheTarget)
	}
	// What a process leaves behind is imported even if it failed: the next word of
	// the script may look at it.
	return exit, slot.commit(ctx, in, func(name string) bool {
		return slices.ContainsFunc(ignored, func(dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") })
	})
}

// enter waits until there is room for a process that uses all of the machine. Go uses
// all cores where it can; linking can't. Two at once keep the machine busy, and memory
// bounded. The processes of one RUN count as one: those of a pipe wait for each other.
func (in *invocation) enter(ctx context.Context) (leave func(), err error) {
	in.heavyMu.Lock()
	defer in.heavyMu.Unlock()
	if in.heavy == 0 {
		select {
		case in.b.compiles <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	in.heavy++
	return func() {
		in.heavyMu.Lock()
		defer in.heavyMu.Unlock()
		if in.heavy--; in.heavy == 0 {
			<-in.b.compiles
		}
	}, nil
}

// settle removes the secrets of a RUN that has ended from the directory that its
// processes ran in.
func (in *invocation) settle(ctx context.Context) error {
	if !slices.ContainsFunc(in.exec.Mounts, func(m dockerfile.Mount) bool { return m.Kind == dockerfile.MountSecret }) {
		return nil
	}
	return in.b.work.forget(ctx, in)
}
