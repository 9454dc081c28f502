package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/buildcontext"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/dockerfile/pin"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/gobuild/buildid"
	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/native"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// dockerfileFlags are the flags that only matter with a Dockerfile.
type dockerfileFlags struct {
	file      string
	buildArgs []string
	contexts  []string
	secrets   []string
	target    string
	network   string
	sandbox   string
	engine    string
	goVersion string
	override  bool
	noCache   bool
	noFilter  []string // stages
	pull      bool
	mirrors   []string
	iidFile   string
	always    bool // there is a Dockerfile even if none is named
	pin       bool // cross-compile in Go builder stages
	kit       buildkitFlags
}

func (d *dockerfileFlags) register(f *pflag.FlagSet) {
	f.StringVarP(&d.file, "dockerfile", "f", "", "build this Dockerfile; `FILE`, or - for standard input")
	f.StringArrayVar(&d.buildArgs, "build-arg", nil, "`NAME=VALUE` of an ARG, such as GOARCH={{.Platform.Arch}}; NAME alone takes it from the environment")
	f.StringVar(&d.target, "target", "", "`STAGE` of the Dockerfile to build")
	f.StringArrayVar(&d.contexts, "build-context", nil, "further context `NAME=DIR` or NAME=docker-image://REFERENCE")
	f.StringArrayVar(&d.secrets, "secret", nil, "secret for RUN --mount=type=secret: `id=ID,src=FILE` or id=ID,env=VARIABLE")
	f.StringVar(&d.network, "network", "default", "of RUN: default|none, and host with BuildKit")
	f.StringVar(&d.sandbox, "sandbox", "auto", "where the Go toolchain runs: auto|require|off")
	f.StringVar(&d.engine, "engine", "auto", "what executes the Dockerfile: native, buildkit, or auto: BuildKit where native refuses and a builder is configured")
	f.StringVar(&d.goVersion, "go-version", "", "Go `VERSION` instead of that of the builder images")
	f.BoolVar(&d.override, "override-goarch", false, "replace a hard-coded GOARCH or GOOS by that of the platform")
	f.BoolVar(&d.noCache, "no-cache", false, "don't take over anything of earlier builds")
	f.StringSliceVar(&d.noFilter, "no-cache-filter", nil, "don't take over anything of these `STAGE`s")
	f.BoolVar(&d.pull, "pull", false, "ask for the bases again; they always are, unless pinned by digest")
	f.StringArrayVar(&d.mirrors, "package-mirror", nil, "ask `URL=URL`'s second address for packages of repositories that begin with the first")
	f.StringVar(&d.iidFile, "iidfile", "", "write the digest of the index to this `FILE`")
	f.BoolVar(&d.pin, "pin-builders", false, "run stages with go build on the builder's own platform, and cross-compile; what is changed is shown")
	d.kit.register(f)
}

// goOnly are flags that say how Go packages become an image; a Dockerfile says
// that itself.
var goOnly = []string{"base", "combine", "ldflags", "go-tags", "go-flag", "go-env", "cc", "allow-outside", "binary-dir", "entrypoint", "cmd", "env", "workdir", "user", "expose", "volume", "stop-signal", "file"}

// checkFlags refuses flags of the one kind of build in the other.
func (b *buildFlags) checkFlags(cmd *cobra.Command) error {
	var refused refusal.Collect
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case b.docker.file != "" && slices.Contains(goOnly, f.Name):
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--" + f.Name, Summary: "this is for Go packages; with -f the Dockerfile says it"})
		case b.docker.file == "" && (slices.Contains([]string{"build-arg", "target", "build-context", "secret", "network", "sandbox", "engine", "go-version", "override-goarch", "no-cache", "no-cache-filter", "pull", "package-mirror", "pin-builders"}, f.Name) || slices.Contains(buildkitOnly, f.Name)):
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--" + f.Name, Summary: "this is for Dockerfiles", Fix: []string{"-f Dockerfile"}})
		}
	})
	switch {
	case !slices.Contains([]string{"auto", "native", "buildkit", ""}, b.docker.engine):
		refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--engine " + b.docker.engine, Summary: "there is no such engine", Fix: []string{"--engine auto", "--engine native", "--engine buildkit"}})
	case !slices.Contains([]string{"", "default", "none", "host"}, b.docker.network):
		refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--network " + b.docker.network, Summary: "there is no such network", Fix: []string{"--network default", "--network none"}})
	}
	if b.docker.file != "" {
		b.compression(b.req.Compression)
	}
	return refused.Err()
}

// dockerInput is a Dockerfile with all that flags say about its build, for either
// engine.
type dockerInput struct {
	plan     *plan.Plan
	clock    time.Time // of the build
	where    string    // the context, as it was given
	path     string    // of the Dockerfile, for messages
	text     []byte
	pinned   map[platform.Platform][]byte // --pin-builders: the text for each platform
	context  *buildcontext.Context
	args     map[platform.Platform]map[string]string
	labels   map[string]string
	secrets  map[string]native.Secret
	contexts map[string]string // named ones, as BuildKit's compiler is told
	named    map[string]*buildcontext.Context
	scratch  string
}

// close removes what was made for this run alone.
func (in *dockerInput) close() { _ = os.RemoveAll(in.scratch) }

// readDockerfile reads a Dockerfile, its context and its flags. The caller closes what
// it gives.
func (a *app) readDockerfile(ctx context.Context, b *buildFlags, targets []string, event progress.Sink, bases *base.Resolver) (_ *dockerInput, err error) {
	d := &b.docker
	req := b.req
	in := &dockerInput{where: ".", args: map[platform.Platform]map[string]string{}}
	switch len(targets) {
	case 0:
	case 1:
		in.where = targets[0]
	default:
		return nil, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: strings.Join(targets, " "), Summary: "with -f there is one argument: the context", Fix: []string{"anyarch publish -f " + d.file + " ."}}
	}
	req.Dir, req.Targets = a.Dir, []string{in.where}
	if req.Latest, err = plan.ParseLatest(b.latest); err != nil {
		return nil, err
	}
	if in.scratch, err = os.MkdirTemp(first(a.Getenv("TMPDIR"), os.TempDir()), "anyarch-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if in.context, err = buildcontext.Open(ctx, buildcontext.Options{Where: a.absolute(in.where), Stdin: a.Stdin, Scratch: filepath.Join(in.scratch, "context"), DockerfileFromStdin: d.file == "-"}); err != nil {
		return nil, err
	}
	if in.path, in.text, err = in.context.Dockerfile(d.file, a.Dir); err != nil {
		return nil, err
	}
	revision := a.newRevision(ctx, plan.SourceDir(req), event)
	revision.literal = req.Plain
	maker := plan.Maker{Getenv: a.Getenv, Bases: bases, Expand: revision.expand, Source: revision.source}
	if in.plan, in.clock, err = maker.MakeDockerfile(ctx, req); err != nil {
		return nil, err
	}
	if in.secrets, err = a.secrets(d.secrets); err != nil {
		return nil, err
	}
	if in.labels, err = a.labels(revision, req.Image.Labels); err != nil {
		return nil, err
	}
	if in.contexts, in.named, err = a.contexts(ctx, d.contexts, in.scratch); err != nil {
		return nil, err
	}
	for _, p := range in.plan.Platforms {
		if in.args[p], err = a.buildArguments(revision, d.buildArgs, in.text, p); err != nil {
			return nil, err
		}
	}
	if d.pin {
		err = in.pin(d.target, event)
	}
	return in, err
}

// pin lets Go builder stages run on the builder's own platform. Every platform has a text
// of its own, with the same lines, so that places in messages stay right.
func (in *dockerInput) pin(target string, event progress.Sink) error {
	in.pinned = map[platform.Platform][]byte{}
	needsC := func(packages []string) string { return pin.NeedsC(in.context.Dir(), packages) }
	for i, p := range in.plan.Platforms {
		r, err := pin.Rewrite(in.path, in.text, pin.Options{Target: target, Platform: p, NeedsC: needsC})
		if err != nil {
			return err
		}
		in.pinned[p] = r.Text
		name := ""
		if len(in.plan.Platforms) > 1 {
			name = p.String()
		}
		for _, c := range r.Changes {
			event.Note("", name, progress.Resolve, fmt.Sprintf("%s:%d: %s", in.path, c.Line, c.Text))
		}
		for _, l := range r.Left {
			if i == 0 {
				event.Warn("", "", fmt.Sprintf("%s:%d: not pinned: %s", in.path, l.Line, l.Text))
			}
		}
	}
	return nil
}

// textFor is the Dockerfile for a platform.
func (in *dockerInput) textFor(p platform.Platform) []byte {
	if text, ok := in.pinned[p]; ok {
		return text
	}
	return in.text
}

// dockerBuild is a Dockerfile in the native engine.
type dockerBuild struct {
	graphs []*dockerfile.Graph
	build  *native.Build
}

// prepareNative compiles the Dockerfile for every platform and prepares the engine.
// Nothing has been downloaded but the configs of the bases.
func (a *app) prepareNative(ctx context.Context, b *buildFlags, in *dockerInput, event progress.Sink, bases *base.Resolver) (*dockerBuild, error) {
	d := &b.docker
	if err := onlyBuildKit(in.contexts); err != nil {
		return nil, err
	}
	kept, err := a.openCache()
	if err != nil {
		return nil, err
	}
	out := &dockerBuild{}
	images := newImages(bases)
	for _, p := range in.plan.Platforms {
		graph, err := dockerfile.Compile(ctx, dockerfile.Options{
			Name: in.path, Data: in.textFor(p), Target: d.target, BuildArgs: in.args[p], Labels: in.labels, Contexts: in.contexts,
			Network: d.network, IgnoreCache: d.noFilter, Platform: p, BuildPlatform: platform.Local(),
			Resolve: images.resolve,
			Ignore: func(_ context.Context, local string) ([]byte, error) {
				if c := in.named[local]; c != nil {
					return c.Ignore("")
				}
				return in.context.Ignore(in.path)
			},
		})
		if err != nil {
			return nil, err
		}
		out.graphs = append(out.graphs, graph)
	}
	for _, w := range out.graphs[0].Warnings {
		event.Warn("", "", fmt.Sprintf("%s:%d: %s (%s)", in.path, w.Line, w.Detail, w.Rule))
	}
	mirror, err := packageMirror(append(slices.Clone(d.mirrors), strings.Fields(a.Getenv("ANYARCH_PACKAGE_MIRROR"))...))
	if err != nil {
		return nil, err
	}
	runner, note, err := sandbox.New(sandbox.Mode(d.sandbox))
	if err != nil {
		return nil, err
	}
	if note != "" {
		event.Note("", "", progress.Resolve, note)
	}
	goTool, err := gotool.Find(gotool.Options{Getenv: a.Getenv, LookPath: a.LookPath})
	if err != nil {
		return nil, err
	}
	modules, builds := goTool.Caches()
	work := digest.FromString(a.absolute(in.where) + "\x00" + in.path).Encoded()[:16]
	var beforeGo func(context.Context)
	if b.shared != nil {
		// Processes in the sandbox reach no helper: all of it is there before them.
		beforeGo = b.shared.Fill
	}
	out.build = native.New(out.graphs, native.Options{
		Dockerfile: in.path, DockerfileText: in.text, Image: images.image, OpenLayer: images.layer(bases),
		Local: func(ctx context.Context, l dockerfile.Local) (*filetree.Tree, error) {
			c := in.context
			if n := in.named[l.Name]; n != nil {
				c = n
			}
			return c.Tree(ctx, buildcontext.Filter{Include: l.Include, Exclude: l.Exclude, Follow: l.Follow})
		},
		Toolchain: goTool.Root, CheckToolchain: gotool.CheckVersion, Runner: runner, Client: http.DefaultClient, Store: kept.Blobs(), Memo: kept.Memo(), Event: event,
		WorkDir: filepath.Join(kept.Work(), work), Scratch: in.scratch, LayerDir: kept.Layers(),
		PackageDir: kept.Packages(), Use: kept.Use, Mirror: mirror,
		ModCache: modules, BuildCache: builds, BeforeGo: beforeGo, GoEnv: goTool.Network(), Proxy: goTool.Proxies(),
		BuildPlatform: platform.Local(), Secrets: in.secrets, Compression: in.plan.Compression,
		LayerTime: in.plan.LayerTime, Now: in.clock, GoVersion: d.goVersion, OverrideArch: d.override, Offline: d.network == "none",
		Version: programID(), NoCache: d.noCache,
	})
	return out, nil
}

// programID identifies this very program, so that results of another version aren't
// taken over.
func programID() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if id := buildid.Read(f); id != "" {
		return id
	}
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d", Version(), info.Size(), info.ModTime().UnixNano())
}

// packageMirror reads --package-mirror FROM=TO: the first that fits counts.
func packageMirror(list []string) (func(string) string, error) {
	type pair struct{ from, to string }
	var pairs []pair
	for _, text := range list {
		from, to, ok := strings.Cut(text, "=")
		if !ok || !strings.Contains(from, "://") || !strings.Contains(to, "://") {
			return nil, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--package-mirror " + text, Summary: "not two addresses",
				Fix: []string{"--package-mirror https://dl-cdn.alpinelinux.org/alpine=https://mirror.example.com/alpine"}}
		}
		pairs = append(pairs, pair{strings.TrimRight(from, "/"), strings.TrimRight(to, "/")})
	}
	return func(address string) string {
		for _, p := range pairs {
			if rest, ok := strings.CutPrefix(address, p.from); ok && strings.HasPrefix(rest, "/") {
				return p.to + rest
			}
		}
		return address
	}, nil
}

// builder runs the engine for one platform, for the pipeline.
func (d *dockerBuild) builder(ctx context.Context, p platform.Platform) (*pipeline.Built, error) {
	for _, g := range d.graphs {
		if g.Platform != p {
			continue
		}
		r, err := d.build.Run(ctx, g)
		if err != nil {
			return nil, err
		}
		return &pipeline.Built{Layers: r.Layers, Base: r.Base, RawConfig: r.Config, History: r.History, Places: r.Places, Added: r.Added}, nil
	}
	return nil, fmt.Errorf("no graph for %s", p)
}

// absolute makes the path of a context absolute; -, URLs and git addresses stay.
func (a *app) absolute(where string) string {
	if where == "-" || strings.Contains(where, "://") || strings.HasPrefix(where, "git@") || filepath.IsAbs(where) {
		return where
	}
	return filepath.Join(a.Dir, where)
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// buildArguments expands --build-arg for a platform. An ARG GOARCH, GOOS or GOARM
// that the Dockerfile declares without a value gets the platform's.
func (a *app) buildArguments(r *revision, given []string, text []byte, p platform.Platform) (map[string]string, error) {
	args := map[string]string{}
	var refused refusal.Collect
	for _, kv := range given {
		name, value, found := strings.Cut(kv, "=")
		if !found {
			if v := a.Getenv(name); v != "" {
				args[name] = v
			}
			continue
		}
		expanded, err := r.expand("--build-arg "+name, value, plan.Vars{Platform: p})
		if err != nil {
			refused.Add(err)
			continue
		}
		args[name] = expanded
	}
	values := map[string]string{"GOARCH": p.Architecture, "GOOS": p.OS}
	if level, value := p.GoLevel(); level == "GOARM" {
		values["GOARM"] = value
	}
	for name, value := range values {
		if _, ok := args[name]; !ok && declares(text, name) {
			args[name] = value
		}
	}
	return args, refused.Err()
}

// declares reports whether a Dockerfile has an ARG of this name without a value.
func declares(text []byte, name string) bool {
	for line := range strings.SplitSeq(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.EqualFold(fields[0], "ARG") {
			continue
		}
		for _, f := range fields[1:] {
			if strings.HasPrefix(f, "#") {
				break
			}
			if f == name {
				return true
			}
		}
	}
	return false
}

// labels expands --label.
func (a *app) labels(r *revision, given []string) (map[string]string, error) {
	labels := map[string]string{}
	var refused refusal.Collect
	for _, kv := range given {
		name, value, _ := strings.Cut(kv, "=")
		expanded, err := r.expand("--label", value, plan.Vars{})
		if err != nil {
			refused.Add(err)
			continue
		}
		labels[name] = expanded
	}
	return labels, refused.Err()
}

// secrets reads --secret id=ID,src=FILE or id=ID,env=VARIABLE, as docker does.
func (a *app) secrets(given []string) (map[string]native.Secret, error) {
	secrets := map[string]native.Secret{}
	var refused refusal.Collect
	for _, text := range given {
		fields := map[string]string{}
		for part := range strings.SplitSeq(text, ",") {
			k, v, _ := strings.Cut(part, "=")
			fields[strings.ToLower(k)] = v
		}
		id, src, env := fields["id"], first(fields["src"], fields["source"]), fields["env"]
		if id == "" || fields["type"] != "" && fields["type"] != "file" && fields["type"] != "env" {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--secret " + text, Summary: "it is written id=ID,src=FILE or id=ID,env=VARIABLE", Fix: []string{"--secret id=token,src=token.txt"}})
			continue
		}
		switch {
		case src == "" && env == "" && a.Getenv(id) != "":
			env = id
		case src == "" && env == "":
			src = id
		case src != "" && fields["type"] == "env":
			env, src = src, ""
		}
		if env != "" {
			secrets[id] = func() ([]byte, error) { return []byte(a.Getenv(env)), nil }
			continue
		}
		if !filepath.IsAbs(src) {
			src = filepath.Join(a.Dir, src)
		}
		if _, err := os.Stat(src); err != nil {
			refused.Add(&refusal.Error{Code: "PA102", Kind: refusal.Usage, Place: "--secret id=" + id, Summary: "the file of the secret can't be read", Seen: []string{err.Error()}})
			continue
		}
		secrets[id] = func() ([]byte, error) { return os.ReadFile(src) }
	}
	return secrets, refused.Err()
}

// contexts reads --build-context NAME=VALUE: what BuildKit's compiler is told, and
// the directories by the name that it asks for.
func (a *app) contexts(ctx context.Context, given []string, scratch string) (map[string]string, map[string]*buildcontext.Context, error) {
	values, named := map[string]string{}, map[string]*buildcontext.Context{}
	var refused refusal.Collect
	for _, text := range given {
		name, value, found := strings.Cut(text, "=")
		if !found || name == "" || value == "" {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--build-context " + text, Summary: "it is written NAME=DIR or NAME=docker-image://REFERENCE", Fix: []string{"--build-context extra=../extra"}})
			continue
		}
		if layout, ok := strings.CutPrefix(value, "oci-layout://"); ok {
			values[name] = "oci-layout://" + a.absolute(layout)
			continue
		}
		if strings.HasPrefix(value, "docker-image://") || strings.HasPrefix(value, "target:") {
			values[name] = value
			continue
		}
		c, err := buildcontext.Open(ctx, buildcontext.Options{Where: a.absolute(value), Stdin: a.Stdin, Scratch: filepath.Join(scratch, "context-"+name)})
		if err != nil {
			if !refused.Add(err) {
				return nil, nil, err
			}
			continue
		}
		values[name], named[name] = "local:"+name, c
	}
	return values, named, refused.Err()
}

// images are the bases of the graphs, each asked for once.
type images struct {
	bases *base.Resolver
	mu    sync.Mutex
	known map[string]base.Image // by the reference in the graph and platform
	of    map[digest.Digest]*base.Base
}

func newImages(bases *base.Resolver) *images {
	return &images{bases: bases, known: map[string]base.Image{}, of: map[digest.Digest]*base.Base{}}
}

// resolve implements dockerfile.Options.Resolve.
func (i *images) resolve(ctx context.Context, ref string, p platform.Platform) (dockerfile.ImageConfig, error) {
	b, err := i.bases.Resolve(ctx, ref, "FROM "+ref)
	if err != nil {
		return dockerfile.ImageConfig{}, err
	}
	found, err := b.For(ctx, []platform.Platform{p})
	if err != nil {
		// A Go builder isn't pulled: where it doesn't exist for the platform, its
		// config for this machine says the same.
		local, other := b.For(ctx, []platform.Platform{platform.Local()})
		if other != nil || !slices.ContainsFunc(local[0].Config.Config.Env, func(kv string) bool { return strings.HasPrefix(kv, "GOLANG_VERSION=") }) {
			return dockerfile.ImageConfig{}, err
		}
		found = local
	}
	pinned := ref
	if !strings.Contains(ref, "@") {
		pinned += "@" + b.Digest.String()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known[pinned+" "+p.String()] = found[0]
	i.of[found[0].Manifest.Digest] = b
	return dockerfile.ImageConfig{Ref: pinned, Digest: b.Digest, Config: found[0].RawConfig}, nil
}

// image implements native.Options.Image.
func (i *images) image(ctx context.Context, ref string, p platform.Platform) (base.Image, error) {
	i.mu.Lock()
	img, ok := i.known[ref+" "+p.String()]
	i.mu.Unlock()
	if ok {
		return img, nil
	}
	if _, err := i.resolve(ctx, ref, p); err != nil {
		return base.Image{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if img, ok = i.known[ref+" "+p.String()]; !ok {
		return base.Image{}, errors.New("no image " + ref)
	}
	return img, nil
}

// layer implements native.Options.OpenLayer.
func (i *images) layer(bases *base.Resolver) func(context.Context, base.Image, int) (io.ReadCloser, error) {
	return func(ctx context.Context, img base.Image, n int) (io.ReadCloser, error) {
		return bases.Open(ctx, img.Layers[n])
	}
}
