package cli

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// dockerBuildFlags are the flags of docker build and docker buildx build that say
// what to make.
type dockerBuildFlags struct {
	build       buildFlags
	tags        []string
	platforms   []string
	outputs     []string
	annotations []string
	push, load  bool
	quiet       bool

	exports []export // what outputs, push and load come to
}

// ignored are flags of the first docker build that BuildKit takes and does nothing
// with, as docker build has done since.
var ignored = []string{"compress", "isolation", "security-opt", "squash", "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems", "rm", "force-rm", "disable-content-trust", "stream"}

// cacheOnly are flags that say where other builders keep their caches.
var cacheOnly = []string{"cache-from", "cache-to"}

// unsupported are flags of docker build that would change what is made, or what is
// shown, and that this program doesn't have; and what to do instead.
var unsupported = map[string]string{
	"add-host":      "leave it out: RUN lines run in no container that has a hosts file",
	"allow":         "leave it out: RUN lines have no entitlements to be given",
	"attest":        "leave it out, or --attest type=provenance,disabled=true",
	"builder":       "leave it out: no builder is needed",
	"call":          "anyarch plan -f Dockerfile .",
	"cgroup-parent": "leave it out: RUN lines run in no container",
	"check":         "anyarch plan -f Dockerfile .",
	"print":         "anyarch plan -f Dockerfile .",
	"policy":        "leave it out",
	"provenance":    "--provenance=false",
	"sbom":          "--sbom=false",
	"shm-size":      "leave it out: RUN lines run in no container",
	"ssh":           "--secret id=ID,src=FILE",
	"ulimit":        "leave it out: RUN lines run in no container",
}

func (d *dockerBuildFlags) register(f *pflag.FlagSet) {
	f.SortFlags = false
	b := &d.build
	f.StringVarP(&b.docker.file, "file", "f", "", "`NAME` of the Dockerfile (default PATH/Dockerfile)")
	f.StringArrayVarP(&d.tags, "tag", "t", nil, "`NAME[:TAG]` of the image (repeatable)")
	f.StringArrayVar(&d.platforms, "platform", nil, "`PLATFORM`s of the image (default that of GOARCH among the build arguments, else of this machine)")
	f.StringArrayVar(&b.docker.buildArgs, "build-arg", nil, "`NAME=VALUE` of an ARG; NAME alone takes it from the environment")
	f.StringVar(&b.docker.target, "target", "", "`STAGE` to build")
	f.BoolVar(&d.push, "push", false, "push to the registry; --output type=registry")
	f.BoolVar(&d.load, "load", false, "keep the image on this machine, as without --push and --output")
	f.StringArrayVarP(&d.outputs, "output", "o", nil, "`type=registry|image|docker|oci|local|cacheonly[,dest=FILE]`, or a directory for the image's files")
	f.StringArrayVar(&b.req.Image.Labels, "label", nil, "`KEY=VALUE` label")
	f.StringArrayVar(&d.annotations, "annotation", nil, "`[manifest:|index:]KEY=VALUE`")
	f.StringArrayVar(&b.docker.secrets, "secret", nil, "`id=ID[,src=FILE|,env=VARIABLE]`")
	f.StringArrayVar(&b.docker.contexts, "build-context", nil, "`NAME=DIR` or NAME=docker-image://REFERENCE")
	f.StringVar(&b.docker.network, "network", "default", "of RUN: default|host|none")
	f.BoolVar(&b.docker.noCache, "no-cache", false, "don't take over anything of earlier builds")
	f.StringSliceVar(&b.docker.noFilter, "no-cache-filter", nil, "don't take over anything of these `STAGE`s")
	f.BoolVar(&b.docker.pull, "pull", false, "ask for the bases again; they always are, unless pinned by digest")
	f.StringVar(&b.docker.iidFile, "iidfile", "", "write the image's digest to this `FILE`")
	f.StringVar(&b.metadataFile, "metadata-file", "", "write what was made to this `FILE`, as JSON")
	f.BoolVarP(&d.quiet, "quiet", "q", false, "print the image's digest and nothing else")
	f.StringVar(&b.docker.goVersion, "go-version", "", "(anyarch) Go `VERSION` instead of that of the builder images")
	f.BoolVar(&b.docker.override, "override-goarch", false, "(anyarch) replace a hard-coded GOARCH or GOOS by that of the platform")
	f.StringVar(&b.docker.sandbox, "sandbox", "auto", "(anyarch) where the Go toolchain runs: auto|require|off")
	f.StringArrayVar(&b.docker.mirrors, "package-mirror", nil, "(anyarch) ask `URL=URL`'s second address for packages")

	f.StringVar(&b.req.MediaTypes, "media-types", "oci", "(anyarch) oci|docker")
	f.StringVar(&b.docker.engine, "engine", "auto", "(anyarch) what executes the Dockerfile: native, buildkit, or auto")
	cacheSizeFlag(f, &b.cacheSize)

	hidden := func(name, short, deflt string) {
		f.StringArrayP(name, short, nil, "")
		flag := f.Lookup(name)
		flag.Hidden, flag.NoOptDefVal = true, deflt
	}
	for _, name := range ignored {
		hidden(name, map[string]string{"memory": "m", "cpu-shares": "c"}[name], map[string]string{"compress": "true", "squash": "true", "rm": "true", "force-rm": "true", "disable-content-trust": "true", "stream": "true"}[name])
	}
	for _, name := range cacheOnly {
		hidden(name, "", "")
	}
	for name := range unsupported {
		hidden(name, "", map[string]string{"check": "true", "provenance": "true", "sbom": "true"}[name])
	}
}

// byName are the flags of BuildKit's that docker build has too, by their names there.
func (k *buildkitFlags) byName() map[string]*[]string {
	return map[string]*[]string{"builder": &k.builders, "cache-to": &k.cacheTo, "cache-from": &k.cacheFrom, "ssh": &k.ssh, "allow": &k.allow, "add-host": &k.hosts, "ulimit": &k.ulimits}
}

// harmless reports whether a flag of unsupported has a value that asks for nothing.
func harmless(name, value string) bool {
	switch name {
	case "provenance", "sbom":
		off, err := strconv.ParseBool(value)
		return err == nil && !off
	case "check":
		return value == "false"
	case "call":
		return value == "build"
	case "builder":
		return value == "default"
	case "attest":
		return strings.Contains(value, "disabled=true")
	}
	return false
}

func (a *app) dockerBuildCommand() *cobra.Command {
	var d dockerBuildFlags
	cmd := &cobra.Command{
		Use: "build [OPTIONS] PATH | URL | -", Aliases: []string{"b"}, Args: dockerArgs(1, 1),
		Short: "Build an image from a Dockerfile",
		Long: `Build makes the image of a Dockerfile, without a daemon. One platform is one manifest,
as scripts with docker manifest need it; several are an index.

Without --platform the image is for the GOARCH (GOOS, GOARM) that --build-arg gives,
its base included: docker would put an arm64 program on this machine's base, under
this machine's label.`,
		RunE: func(cmd *cobra.Command, list []string) error {
			if err := a.dockerBuildCheck(cmd, &d); err != nil {
				return err
			}
			return a.dockerBuild(cmd.Context(), &d, list[0])
		},
	}
	d.register(cmd.Flags())
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if v := a.Getenv("BUILDKIT_PROGRESS"); v != "" && !cmd.Flags().Changed("progress") {
			a.progress = v
		}
		own := pflag.NewFlagSet("", pflag.ContinueOnError)
		own.AddFlagSet(cmd.InheritedFlags())
		for _, name := range []string{"go-version", "override-goarch", "sandbox", "engine", "media-types", "cache-size"} {
			own.AddFlag(cmd.Flags().Lookup(name))
		}
		return a.fromEnvironment(own)
	}
	return cmd
}

// dockerBuildCheck turns docker's flags into a request, or names all that can't be
// done.
func (a *app) dockerBuildCheck(cmd *cobra.Command, d *dockerBuildFlags) error {
	var refused refusal.Collect
	var notes []string
	given := d.build.docker.kit.byName()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		fix, isUnsupported := unsupported[f.Name]
		forBuildKit := given[f.Name]
		switch {
		case forBuildKit != nil && d.build.docker.engine == "buildkit":
			*forBuildKit = f.Value.(pflag.SliceValue).GetSlice()
		case f.Name == "shm-size" && d.build.docker.engine == "buildkit":
			d.build.docker.kit.shmSize = strings.Join(f.Value.(pflag.SliceValue).GetSlice(), "")
		case isUnsupported:
			values := f.Value.(pflag.SliceValue).GetSlice()
			if slices.ContainsFunc(values, func(v string) bool { return !harmless(f.Name, v) }) {
				fixes := []string{fix}
				if forBuildKit != nil || f.Name == "shm-size" {
					fixes = append(fixes, "--engine buildkit, which has it")
				}
				refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "docker build --" + f.Name + " " + strings.Join(values, " "), Summary: "anyarch in docker's place doesn't have this flag", Fix: fixes})
			}
		case slices.Contains(ignored, f.Name) && f.Name != "rm" && f.Name != "force-rm":
			notes = append(notes, "WARNING: --"+f.Name+" is ignored, as BuildKit does")
		case slices.Contains(cacheOnly, f.Name):
			notes = append(notes, "--"+f.Name+" is ignored: anyarch has a cache of its own, anyarch cache dir")
		}
	})
	b := &d.build
	b.docker.always = true
	if b.docker.network == "host" {
		b.docker.network = "default" // what runs in RUN lines is on this machine's network anyway
	}
	if b.docker.network != "" && b.docker.network != "default" && b.docker.network != "none" {
		refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "docker build --network " + b.docker.network, Summary: "anyarch in docker's place doesn't have this network", Fix: []string{"--network default", "--network none"}})
	}
	b.req.Plain, b.req.Verify, b.latest = true, "all", "always"
	b.req.Compression = "gzip"
	for _, tag := range d.tags {
		name, err := tagTarget(tag)
		if err != nil {
			refused.Add(err)
			continue
		}
		b.req.Tags = append(b.req.Tags, name)
	}
	refused.Add(d.readExports(a))
	note, err := a.dockerPlatforms(d)
	if !refused.Add(err) {
		return err
	}
	refused.Add(d.readAnnotations())
	if err := refused.Err(); err != nil {
		return err
	}
	if note != "" {
		notes = append(notes, note)
	}
	for _, n := range notes {
		if _, err := fmt.Fprintln(a.Stderr, n); err != nil {
			return err
		}
	}
	return nil
}

// dockerPlatforms decides which platforms are built: those of --platform, else the one
// of GOARCH, GOOS and GOARM among the build arguments, else DOCKER_DEFAULT_PLATFORM, else
// this machine's. note says so if it was GOARCH.
func (a *app) dockerPlatforms(d *dockerBuildFlags) (note string, err error) {
	value := func(name string) string {
		found := ""
		for _, kv := range d.build.docker.buildArgs {
			key, v, ok := strings.Cut(kv, "=")
			if key == name && ok {
				found = v
			} else if key == name {
				found = a.Getenv(name)
			}
		}
		return found
	}
	goos, goarch, goarm := value("GOOS"), value("GOARCH"), value("GOARM")
	asked := slices.Clone(d.platforms)
	if len(asked) == 0 && goarch+goos+goarm == "" && a.Getenv("DOCKER_DEFAULT_PLATFORM") != "" {
		asked = []string{a.Getenv("DOCKER_DEFAULT_PLATFORM")}
	}
	for i, text := range asked {
		parts := strings.Split(text, ",")
		for k, p := range parts {
			p = strings.TrimSpace(p)
			if p != "local" && !strings.Contains(p, "/") {
				p = map[bool]string{true: "linux/" + platform.Local().Architecture, false: "linux/" + p}[p == "linux"]
			}
			parts[k] = p
		}
		asked[i] = strings.Join(parts, ",")
	}
	if len(asked) > 0 {
		d.build.req.Platforms = asked
		list, err := platform.ParseList(asked)
		if err != nil {
			return "", err
		}
		var refused refusal.Collect
		for _, p := range list {
			_, level := p.GoLevel()
			for _, pair := range [][3]string{{"GOARCH", goarch, p.Architecture}, {"GOOS", goos, p.OS}, {"GOARM", goarm, level}} {
				if pair[1] == "" || pair[1] == pair[2] || pair[0] == "GOARM" && p.Architecture != "arm" {
					continue
				}
				fix := []string{"leave --build-arg " + pair[0] + " out: the platform says it"}
				if len(list) == 1 {
					fix = append(fix, "leave --platform out: --build-arg "+pair[0]+" says it")
				}
				refused.Add(&refusal.Error{
					Code: "PA443", Kind: refusal.Usage, Platform: p.String(), Place: "--build-arg " + pair[0] + "=" + pair[1],
					Summary: fmt.Sprintf("%s %s contradicts --platform %s", pair[0], pair[1], p), Fix: fix,
				})
			}
		}
		return "", refused.Err()
	}
	local := platform.Local()
	if goarch == "" && goos == "" && goarm == "" {
		d.build.req.Platforms = []string{local.String()}
		return "", nil
	}
	text := first(goos, "linux") + "/" + first(goarch, map[bool]string{true: "arm", false: local.Architecture}[goarm != ""])
	if goarm != "" && strings.HasSuffix(text, "/arm") {
		text += "/v" + strings.Split(goarm, ",")[0]
	}
	p, err := platform.Parse(text)
	if err != nil {
		return "", err
	}
	d.build.req.Platforms = []string{p.String()}
	var given []string
	for _, pair := range [][2]string{{"GOOS", goos}, {"GOARCH", goarch}, {"GOARM", goarm}} {
		if pair[1] != "" {
			given = append(given, "--build-arg "+pair[0]+"="+pair[1])
		}
	}
	return fmt.Sprintf("%s without --platform: building %s, base included", strings.Join(given, " "), p), nil
}

// readAnnotations sorts annotations by what they are on: the manifests, if they don't
// say (docs.docker.com/build/metadata/annotations).
func (d *dockerBuildFlags) readAnnotations() error {
	var refused refusal.Collect
	for _, text := range d.annotations {
		key, _, found := strings.Cut(text, "=")
		levels, rest, prefixed := strings.Cut(text, ":")
		if !found || !prefixed || len(levels) > len(key) || strings.ContainsAny(levels, "./") && !strings.Contains(levels, "[") {
			levels, rest = "manifest", text
		}
		for level := range strings.SplitSeq(levels, ",") {
			switch {
			case level == "manifest":
				d.build.req.Image.Annotations = append(d.build.req.Image.Annotations, rest)
			case level == "index" && len(d.build.req.Platforms) == 1 && !strings.Contains(d.build.req.Platforms[0], ","):
				refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--annotation " + text, Summary: "an image for one platform has no index to annotate", Fix: []string{"--annotation " + rest, "--platform linux/amd64,linux/arm64"}})
			case level == "index":
				d.build.req.IndexAnnotations = append(d.build.req.IndexAnnotations, rest)
			default:
				refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--annotation " + text, Summary: fmt.Sprintf("anyarch in docker's place can't annotate %q", level), Fix: []string{"--annotation " + rest, "--annotation index:" + rest}})
			}
		}
	}
	return refused.Err()
}

// export is one output of a build.
type export struct {
	kind string // registry, local, stdout, files, or one that the plan knows
	dest string
}

// readExports reads --output, --push and --load.
func (d *dockerBuildFlags) readExports(a *app) error {
	var refused refusal.Collect
	bad := func(text, summary string, fix ...string) {
		refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--output " + text, Summary: summary, Fix: fix})
	}
	if d.push {
		d.exports = append(d.exports, export{kind: "registry"})
	}
	if d.load {
		d.exports = append(d.exports, export{kind: "local"})
	}
	for _, text := range d.outputs {
		fields, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			bad(text, "it is written type=TYPE,dest=FILE", "--output type=oci,dest=image.tar")
			continue
		}
		options := map[string]string{}
		if len(fields) == 1 && !strings.Contains(fields[0], "=") {
			options["type"], options["dest"] = "local", fields[0]
			fields = nil
		}
		for _, f := range fields {
			k, v, ok := strings.Cut(f, "=")
			if !ok {
				v = "true"
			}
			options[strings.ToLower(k)] = v
		}
		refused.Add(d.readExport(a, text, options))
	}
	pushes := slices.ContainsFunc(d.exports, func(e export) bool { return e.kind == "registry" })
	if pushes && len(d.build.req.Tags) == 0 {
		refused.Add(&refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: "docker build --push", Summary: "a tag is needed when pushing to a registry", Fix: []string{"-t registry.example.com/app:1.0"}})
	}
	if len(d.exports) == 0 && len(d.outputs) == 0 {
		d.exports = []export{{kind: "local"}}
	}
	return refused.Err()
}

func (d *dockerBuildFlags) readExport(a *app, text string, options map[string]string) error {
	refuse := func(summary string, fix ...string) error {
		return &refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--output " + text, Summary: summary, Fix: fix}
	}
	kind, dest := options["type"], options["dest"]
	on := func(key string) bool {
		v, err := strconv.ParseBool(options[key])
		return err == nil && v
	}
	tar := options["tar"] != "false"
	for key, value := range options {
		switch key {
		case "type", "dest", "tar", "push", "unpack", "store", "dangling-name-prefix", "name-canonical", "force-compression", "compression-level":
		case "name":
			for name := range strings.SplitSeq(value, ",") {
				canonical, err := tagTarget(name)
				if err != nil {
					return err
				}
				d.build.req.Tags = append(d.build.req.Tags, canonical)
			}
		case "oci-mediatypes":
			if value == "false" {
				d.build.req.MediaTypes = "docker"
			}
		case "compression":
			if !slices.Contains([]string{"gzip", "zstd", "estargz", "uncompressed"}, value) {
				return refuse("layers are compressed with gzip or zstd", "compression=gzip")
			}
			d.build.compression(value)
		case "rewrite-timestamp", "source-date-epoch": // layers have no time of their own in any case
		case "push-by-digest":
			if on(key) {
				return refuse("what is pushed gets a tag", "anyarch publish -f Dockerfile")
			}
		case "registry.insecure":
			return refuse("whether a registry is spoken to without TLS is said for the host", "docker --plain-http HOST build …", "insecure = true in registries.conf")
		default:
			if name, ok := strings.CutPrefix(key, "annotation."); ok {
				d.annotations = append(d.annotations, name+"="+value)
				continue
			}
			if name, ok := strings.CutPrefix(key, "annotation-index."); ok {
				d.annotations = append(d.annotations, "index:"+name+"="+value)
				continue
			}
			return refuse(fmt.Sprintf("anyarch in docker's place doesn't have the option %q", key))
		}
	}
	switch {
	case kind == "registry", kind == "image" && on("push"):
		d.exports = append(d.exports, export{kind: "registry"})
	case kind == "image", kind == "docker" && dest == "":
		d.exports = append(d.exports, export{kind: "local"})
	case (kind == "docker" || kind == "oci") && dest == "-" && tar:
		d.exports = append(d.exports, export{kind: "stdout"})
	case kind == "docker" && tar:
		d.exports = append(d.exports, export{"docker-archive", a.absolute(dest)})
	case kind == "oci" && dest != "" && dest != "-" && tar:
		d.exports = append(d.exports, export{"oci-archive", a.absolute(dest)})
	case kind == "oci" && dest != "" && dest != "-":
		d.exports = append(d.exports, export{"oci", a.absolute(dest)})
	case kind == "cacheonly":
	case kind == "local" && dest != "" && dest != "-":
		d.exports = append(d.exports, export{"files", a.absolute(dest)})
	case kind == "tar" || kind == "local" && dest == "-":
		return refuse("anyarch in docker's place writes the files of an image to a directory, not to a tar", "--output type=local,dest=DIR")
	default:
		return refuse("not an output that anyarch has in docker's place", "--push", "--load", "--output type=oci,dest=image.tar", "--output type=docker,dest=image.tar")
	}
	return nil
}

// dockerBuild builds, pushes, and keeps the image on this machine.
func (a *app) dockerBuild(ctx context.Context, d *dockerBuildFlags, where string) error {
	if d.quiet {
		a.progress = "quiet"
	}
	b := &d.build
	for _, e := range d.exports {
		switch e.kind {
		case "registry":
			b.req.Outputs = append(b.req.Outputs, string(plan.ToRegistry))
		case "local", "stdout", "files":
		default:
			b.req.Outputs = append(b.req.Outputs, e.kind+":"+e.dest)
		}
	}
	b.noOutputs = len(b.req.Outputs) == 0
	b.keep = func(ctx context.Context, outcome *pipeline.Outcome, open openLayer) error {
		o := outcome.Images[0]
		for _, e := range d.exports {
			var err error
			switch e.kind {
			case "files":
				err = a.exportFiles(ctx, o, e.dest, open)
			case "stdout":
				err = a.exportStream(ctx, b.req.Tags, o, open)
			}
			if err != nil {
				return err
			}
		}
		local := slices.ContainsFunc(d.exports, func(e export) bool { return e.kind == "local" })
		if !local && len(o.Pushed) == 0 {
			return nil
		}
		return a.keepImage(ctx, b.req.Tags, o, local, open)
	}
	outcome, err := a.build(ctx, b, []string{where}, false)
	if err != nil {
		return err
	}
	if d.quiet {
		return a.printLine(outcome.Images[0].Index.Digest.String())
	}
	return nil
}

// keepImage gives the image its names on this machine. One that was pushed may leave
// the layers of its base in the registry; else all of them are fetched.
func (a *app) keepImage(ctx context.Context, names []string, o pipeline.ImageOutcome, complete bool, open openLayer) error {
	images, err := a.images()
	if err != nil {
		return err
	}
	kept, err := a.openCache()
	if err != nil {
		return err
	}
	blobs := kept.Blobs()
	from := ""
	if len(o.Pushed) > 0 {
		from = o.Pushed[0].Repository
	}
	for _, p := range o.Platforms {
		for _, l := range p.Image.Layers {
			if !complete || blobs.Has(l.Descriptor.Digest) || len(l.Descriptor.URLs) > 0 {
				continue
			}
			r, err := open(ctx, l)
			if err != nil {
				return err
			}
			if err := errors.Join(blobs.Copy(l.Descriptor, r), r.Close()); err != nil {
				return err
			}
		}
	}
	_, err = images.Add(ctx, slices.Compact(names), image.Layout{Store: blobs}, o.Index, from)
	return err
}

// fetchFrom implements imagestore.Fetcher.
func (a *app) fetchFrom(ctx context.Context, repository string, d ocispec.Descriptor) (io.ReadCloser, error) {
	client, err := a.registryClient()
	if err != nil {
		return nil, err
	}
	repo, err := client.Repository(repository)
	if err != nil {
		return nil, err
	}
	return repo.Fetch(ctx, d)
}

var _ imagestore.Fetcher = (&app{}).fetchFrom
