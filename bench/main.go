// Bench puts the speed of anyarch next to its floor and its peers, in one run.
//
//	go run ./bench -quick           a look: the small module, one round, two minutes
//	go run ./bench                  everything, five rounds, an hour on two cores
//	go run ./bench -modules many -mains 20 -cold 0
//	go run ./bench -medium ~/src/apiping=./cmd/apiping -json figures.json
//
// The floor is what nobody can be faster than while the go command decides what
// is up to date: `go build -trimpath -ldflags '-s -w'` for the same platforms,
// all at once, to programs that are there already; no image, no push. The
// others make a multi-architecture image and push it to a registry on loopback.
// ko and buildah take part where they are on PATH. buildah has no image with Go
// to start from here, so its Dockerfile is given this machine's Go, modules and
// build cache as volumes. dockerfile is anyarch with a Dockerfile as people write
// them (ARG GOARCH, go mod download, go build), buildkit is BuildKit crossing with
// TARGETARCH and cache mounts, emulated is buildah with the Go of the target
// platform under QEMU. engine is anyarch --engine buildkit, and buildctl the same build by
// BuildKit's own client; what the daemons compute is in wall times only. shared is anyarch with --cache, whose build cache is in the registry
// and nothing on the machine; zstd is anyarch with the other compression.
//
// # Modules
//
// small is a hello over net/http; medium is this repository's cmd/anyarch, or
// what -medium names; huge is a program over kubectl, with the dependencies that
// Kubernetes has; many is -mains programs over a shared package for four platforms;
// large is a program with -embed MB of random data, for the memory.
// All are copies in a temporary directory that is removed at the end.
//
// # Scenarios
//
// cold: nothing but Go and the modules is there; every tool has an empty build
// cache of its own. one-line: one string in one program is new, the same for
// all tools, in a file that looks five seconds old (the go command treats files
// of the last two seconds as unsettled). nothing: the same again.
//
// # Reading it
//
// Seconds say little, since they are this machine's. Every tool runs once in
// every round, in an order that rotates, and "× floor" is the median over the
// rounds of the ratio within one round. CPU is user and system time of the tool
// and all that it started. Memory is the highest resident size of the tool's
// own process, without the go command; "together", of cold runs, is the highest sum of
// what all its processes had for themselves at one time, compilers and linkers included,
// sampled (both on Linux). "uploaded" counts the bytes of
// blobs that clients sent, "requests" everything they asked. "others" is how
// many CPUs everything else kept busy: above 0.3, wall times are not worth much
// and CPU ratios are what to look at. The registry and the counting proxy in
// front of it run on the same CPUs and count for neither.
//
// The second table holds the figures against what anyarch means to reach. It
// never fails: a measurement is no test.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	rounds    int
	cold      int
	modules   []string
	tools     []string
	platforms []string // empty: the module's own
	mains     int
	embed     int // MB
	medium    string
	anyarch   string
	registry  string
	json      string
}

func main() {
	// A terminal's ctrl-C must not leave servers and gigabytes behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, messages io.Writer) (config, error) {
	var c config
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(messages)
	f.IntVar(&c.rounds, "rounds", 5, "warm `ROUNDS`; the large module has three at most")
	f.IntVar(&c.cold, "cold", 1, "cold `ROUNDS`, 0 for none; the large module has none")
	modules := f.String("modules", "small,medium,huge,many,large", "`MODULES` to build")
	tools := f.String("tools", "floor,anyarch,dockerfile,ko,ko-cache,buildah", "`TOOLS` to compare (ko-cache is ko with KOCACHE); also: shared (anyarch --cache, with nothing on the machine), zstd (anyarch --compression zstd), buildkit (buildkitd, buildctl and runc on PATH, as root), buildctl and engine (BuildKit and anyarch --engine buildkit, asked for the same), emulated (buildah with the target's Go under QEMU)")
	platforms := f.String("platforms", "", "`PLATFORMS` instead of each module's own")
	f.IntVar(&c.mains, "mains", 20, "how many `PROGRAMS` the module many has")
	f.IntVar(&c.embed, "embed", 100, "`MB` of data in the program of the module large")
	f.StringVar(&c.medium, "medium", "", "`DIR=PACKAGE` instead of this repository's ./cmd/anyarch")
	f.StringVar(&c.anyarch, "anyarch", "", "`PROGRAM` instead of building ./cmd/anyarch")
	f.StringVar(&c.registry, "registry", "own", "own (anyarch serve) or docker (docker-registry on PATH)")
	f.StringVar(&c.json, "json", "", "write every sample to this `FILE` too")
	quick := f.Bool("quick", false, "only the small module and one warm round, unless told otherwise")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *quick {
		if !given["modules"] {
			*modules = "small"
		}
		if !given["rounds"] {
			c.rounds = 1
		}
		if !given["cold"] {
			c.cold = 0
		}
	}
	c.modules, c.tools, c.platforms = list(*modules), list(*tools), list(*platforms)
	if f.NArg() > 0 {
		return c, fmt.Errorf("%s: there are only flags", f.Arg(0))
	}
	if err := known("-modules", c.modules, "small", "medium", "huge", "many", "large"); err != nil {
		return c, err
	}
	if err := known("-tools", c.tools, "floor", "anyarch", sharedTool, zstdTool, "dockerfile", "ko", "ko-cache", "buildah", "buildkit", "buildctl", "engine", "emulated"); err != nil {
		return c, err
	}
	if err := known("-registry", []string{c.registry}, "own", "docker"); err != nil {
		return c, err
	}
	if c.rounds < 1 || c.cold < 0 || c.mains < 1 || c.embed < 1 {
		return c, errors.New("-rounds, -mains and -embed are at least 1, -cold at least 0")
	}
	if !slices.Contains(c.tools, "floor") {
		c.tools = slices.Insert(c.tools, 0, "floor") // every ratio is to it
	}
	return c, nil
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

func known(flag string, values []string, choices ...string) error {
	for _, v := range values {
		if !slices.Contains(choices, v) {
			return fmt.Errorf("%s %s: known are %s", flag, v, strings.Join(choices, ", "))
		}
	}
	return nil
}

// bench is one run of this program.
type bench struct {
	config
	dir      string // everything that is made, removed at the end
	root     string // of this repository
	goPath   string
	base     []string // environment that all tools share
	modCache string
	registry *registry
	closers  []func() // of servers of tools
	tools    []*tool
	skipped  []string
	samples  []sample
	log      io.Writer
}

func run(ctx context.Context, args []string, out, messages io.Writer) error {
	c, err := parse(args, messages)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "anyarch-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(messages, "bench: left behind:", err)
		}
	}()
	b := &bench{config: c, dir: dir, log: messages}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer b.registry.close()
	defer func() {
		for _, stop := range b.closers {
			stop()
		}
	}()
	for _, name := range c.modules {
		if err := b.module(ctx, name); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted")
			}
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	report := newReport(b.samples, b.about(ctx))
	if err := report.print(out); err != nil {
		return err
	}
	if c.json != "" {
		return report.save(c.json)
	}
	return nil
}

// prepare finds Go, builds anyarch, starts the registry and sets up the tools.
func (b *bench) prepare(ctx context.Context) error {
	if err := b.findGo(ctx); err != nil {
		return err
	}
	if b.anyarch == "" {
		b.say("building anyarch")
		b.anyarch = filepath.Join(b.dir, exe("anyarch"))
		if _, err := output(ctx, b.root, append(os.Environ(), "CGO_ENABLED=0"), b.goPath, "build", "-trimpath", "-ldflags", "-s -w", "-o", b.anyarch, "./cmd/anyarch"); err != nil {
			return err
		}
	} else if path, err := filepath.Abs(b.anyarch); err == nil {
		b.anyarch = path
	}
	var err error
	if b.registry, err = startRegistry(ctx, b); err != nil {
		return err
	}
	return b.findTools(ctx)
}

// say tells what is going on; results go to standard output.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// module measures all scenarios of one module.
func (b *bench) module(ctx context.Context, name string) error {
	m, err := b.generate(ctx, name)
	if err != nil && name == "huge" && ctx.Err() == nil {
		b.skip(name, err) // there may be no network
		return nil
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(m.dir)
	tools := slices.Clone(b.tools)
	rounds, cold := b.rounds, b.cold
	if name == "large" {
		rounds, cold = min(rounds, 3), 0
	}
	states := map[*tool]string{} // the directory with a tool's caches
	defer func() {
		for _, dir := range states {
			os.RemoveAll(dir)
		}
	}()
	if cold > 0 {
		if err := b.readSources(ctx, m); err != nil {
			return err
		}
	}
	for round := range cold {
		for _, t := range rotate(tools, round) {
			os.RemoveAll(states[t])
			states[t] = filepath.Join(b.dir, "state", m.name, t.name, fmt.Sprint(round))
			if t.before != nil {
				if err := t.before(ctx, m); err != nil {
					return err
				}
			}
			if err := b.measure(ctx, t, m, states[t], "cold", round); err != nil {
				if tools, err = b.without(ctx, tools, t, err); err != nil {
					return err
				}
			}
		}
	}
	for _, t := range slices.Clone(tools) {
		if err := b.warm(ctx, t, m, states); err != nil {
			if tools, err = b.without(ctx, tools, t, err); err != nil {
				return err
			}
		}
	}
	for round := range rounds {
		if err := m.change(fmt.Sprintf("round %d of %s", round, b.dir)); err != nil {
			return err
		}
		for _, scenario := range []string{"one-line", "nothing"} {
			for _, t := range rotate(tools, round) {
				if err := b.measure(ctx, t, m, states[t], scenario, round); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// warm fills the caches of a tool. What the floor has compiled is copied
// instead of compiled again: the actions are the same.
func (b *bench) warm(ctx context.Context, t *tool, m *module, states map[*tool]string) error {
	floor := b.tools[0]
	if states[t] == "" {
		states[t] = filepath.Join(b.dir, "state", m.name, t.name, "warm")
		if t != floor {
			if err := os.CopyFS(goCache(states[t]), os.DirFS(goCache(states[floor]))); err != nil {
				return err
			}
		}
	}
	b.say("%s: %s warms up", m.name, t.name)
	_, err := b.once(ctx, t, m, states[t], false)
	return err
}

// without drops a peer that doesn't work here; the floor and anyarch have to.
func (b *bench) without(ctx context.Context, tools []*tool, t *tool, err error) ([]*tool, error) {
	if !t.peer || ctx.Err() != nil {
		return nil, err
	}
	b.skip(t.name, err)
	return slices.DeleteFunc(slices.Clone(tools), func(other *tool) bool { return other == t }), nil
}

func (b *bench) skip(name string, why error) {
	text := fmt.Sprintf("%s is left out: %v", name, why)
	b.say("%s", text)
	b.skipped = append(b.skipped, text)
}

// measure runs a tool once and keeps what it took.
func (b *bench) measure(ctx context.Context, t *tool, m *module, state, scenario string, round int) error {
	s, err := b.once(ctx, t, m, state, scenario == "cold")
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	if t.pushes && scenario != "nothing" && s.Uploaded == 0 {
		return fmt.Errorf("%s uploaded nothing, although a program had changed", t.name)
	}
	s.Module, s.Scenario, s.Tool, s.Round, s.Platforms = m.name, scenario, t.name, round, len(m.platforms)
	b.samples = append(b.samples, s)
	b.say("%s: %s %s %.2f s", m.name, t.name, scenario, s.Wall)
	return nil
}

func rotate[T any](list []T, by int) []T {
	if len(list) == 0 {
		return nil
	}
	by %= len(list)
	return slices.Concat(list[by:], list[:by])
}

// about says where the figures come from.
func (b *bench) about(ctx context.Context) about {
	a := about{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Time: time.Now().UTC().Truncate(time.Second),
		Rounds: b.rounds, Cold: b.cold, Registry: b.config.registry, Tools: map[string]string{}, Skipped: b.skipped,
	}
	for _, t := range b.tools {
		version, err := output(ctx, b.dir, b.env(filepath.Join(b.dir, "state", "version")), t.version...)
		if err != nil {
			version = "unknown"
		}
		version, _, _ = strings.Cut(strings.TrimSpace(version), "\n")
		a.Tools[t.name] = version
	}
	return a
}
