package plan

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/gobuild"
	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
)

// Vars are what a template may say, besides the revision and the environment.
type Vars struct {
	Platform platform.Platform // zero where there is no single one
	Name     string            // of the image
	Package  string            // import path
}

// Source is what is known of where the sources come from.
type Source struct {
	Revision string    // commit, with -dirty if tracked files differ from it; empty if unknown
	URL      string    // of the repository; empty if unknown
	Tag      string    // newest version tag on the commit; empty if there is none
	Time     time.Time // of the commit; zero if unknown
}

// Maker makes plans. Its fields are what a plan is made with.
type Maker struct {
	Toolchain *gotool.Toolchain
	Bases     *base.Resolver
	CacheDir  string // where compiled programs are kept
	// Unchanged spares builds of which nothing has changed; nil asks go each time.
	Unchanged *gobuild.Unchanged
	Getenv    func(string) string
	// Expand executes a template; place says where it stands, for refusals.
	Expand func(place, text string, v Vars) (string, error)
	// Source reads the revision of the sources; see SourceDir.
	Source func(ctx context.Context) (Source, error)
}

// defaultPath is the PATH of images whose base sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Make turns a request into a plan. What can't be done is refused all at once.
func (m *Maker) Make(ctx context.Context, req Request) (*Plan, error) {
	p := &Plan{Latest: req.Latest}
	var refused refusal.Collect
	keep := func(err error) error {
		if refused.Add(err) {
			return nil
		}
		return err
	}
	var err error
	all := platform.IsAll(req.Platforms)
	if !all {
		p.Platforms, err = platform.ParseList(req.Platforms)
		if err := keep(err); err != nil {
			return nil, err
		}
	}
	if len(req.Platforms) == 0 {
		p.Platforms = platform.Default()
	}
	if p.Compression, err = layer.ParseCompression(req.Compression); err != nil {
		refused.Add(err)
	}
	p.Verify, err = verifyDepth(req)
	refused.Add(err)
	refused.Add(m.mediaTypes(p, req))
	refused.Add(m.outputs(p, req))
	if p.LayerTime, err = sourceDateEpoch(m.Getenv); err != nil {
		refused.Add(err)
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	if p.Builder, err = m.builder(p, req); err != nil {
		return nil, err
	}

	var (
		packages    []gobuild.Package
		source      Source
		packagesErr error
		baseErr     error
	)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if baseErr = m.base(gctx, p, req, all); len(refusal.All(baseErr)) == 0 {
			return baseErr
		}
		return nil
	})
	g.Go(func() error {
		first := platform.Local()
		if len(p.Platforms) > 0 {
			first = p.Platforms[0]
		}
		flags, err := m.flags(req, Vars{Platform: first, Name: "name", Package: "package"}, false)
		if err == nil {
			packages, err = p.Builder.Packages(gctx, req.Targets, first, flags)
		}
		if packagesErr = err; len(refusal.All(err)) == 0 {
			return err
		}
		return nil
	})
	g.Go(func() (err error) {
		source, err = m.Source(gctx)
		return err
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	refused.Add(packagesErr)
	refused.Add(baseErr)
	if packagesErr == nil {
		if err := keep(m.images(p, req, packages, source)); err != nil {
			return nil, err
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	p.Builder.Jobs = gobuild.NewJobs(runtime.NumCPU(), len(p.Platforms))
	return p, nil
}

// verifyDepth is how deep an image is looked into before it is published. What
// a run adds is proved in any case, while it is packed; layers are read once
// more only where the base matters too: for an entrypoint that isn't ours, and
// on scratch, where nothing else can provide what a program needs.
func verifyDepth(req Request) (prove.Depth, error) {
	switch {
	case req.Verify != "":
		return prove.ParseDepth(req.Verify)
	case req.Base == base.Scratch || len(req.Image.Entrypoint) > 0:
		return prove.DepthEntrypoint, nil
	}
	return prove.DepthConfig, nil
}

// SourceDir is a directory in the sources' repository.
func SourceDir(req Request) string {
	for _, target := range req.Targets {
		dir := strings.TrimSuffix(target, "/...")
		if !path.IsAbs(dir) {
			dir = path.Join(req.Dir, dir)
		}
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return req.Dir
}

func (m *Maker) mediaTypes(p *Plan, req Request) error {
	p.MediaTypes = image.MediaTypes(req.MediaTypes)
	switch {
	case p.MediaTypes == "":
		p.MediaTypes = image.OCI
	case p.MediaTypes != image.OCI && p.MediaTypes != image.Docker:
		return &refusal.Error{
			Code: "PA502", Kind: refusal.Usage, Place: "--media-types " + req.MediaTypes, Summary: "not a family of media types",
			Fix: []string{"--media-types oci", "--media-types docker"},
		}
	case p.MediaTypes == image.Docker && p.Compression == layer.Zstd:
		return &refusal.Error{
			Code: "PA502", Kind: refusal.Usage, Place: "--media-types docker --compression zstd", Summary: "Docker's media types have no zstd layers",
			Fix: []string{"--media-types oci", "--compression gzip"},
		}
	}
	return nil
}

func (m *Maker) outputs(p *Plan, req Request) error {
	var refused refusal.Collect
	p.ByDigest = req.ByDigest
	if req.ByDigest && len(req.Tags) == 0 {
		refused.Add(&refusal.Error{
			Code: "PA426", Kind: refusal.Usage, Place: "--push-by-digest", Summary: "it needs the repository to push to",
			Fix: []string{"--push-by-digest -t registry.example.com/app"},
		})
	}
	for _, text := range req.Outputs {
		o, err := parseOutput(req.Dir, text)
		if err != nil {
			refused.Add(err)
			continue
		}
		if o.Kind == ToRegistry && len(req.Tags) == 0 {
			refused.Add(&refusal.Error{
				Code: "PA503", Kind: refusal.Usage, Place: "--output registry", Summary: "a registry needs a reference",
				Fix: []string{"-t registry.example.com/app:1.0"},
			})
		}
		if o.Kind == ToDockerArchive && len(p.Platforms) != 1 {
			refused.Add(&refusal.Error{
				Code: "PA502", Kind: refusal.Usage, Place: "--output " + text, Summary: "a docker-archive has room for one platform",
				Seen: []string{"asked for: " + platform.Names(p.Platforms)},
				Fix:  []string{"--platform local", "--output oci-archive:" + strings.TrimPrefix(text, "docker-archive:")},
			})
		}
		p.Outputs = append(p.Outputs, o)
	}
	if len(req.Outputs) == 0 {
		if len(req.Tags) > 0 {
			p.Outputs = []Output{{Kind: ToRegistry}}
		} else {
			p.Outputs = []Output{DefaultLayout(req.Dir)}
		}
	}
	return refused.Err()
}

// DefaultLayout is where images go without --output and -t.
func DefaultLayout(dir string) Output {
	return Output{Kind: ToLayout, Path: path.Join(dir, DefaultOutput), PerImage: true}
}

// sourceDateEpoch reads SOURCE_DATE_EPOCH
// (reproducible-builds.org/specs/source-date-epoch), else the epoch itself.
func sourceDateEpoch(getenv func(string) string) (time.Time, error) {
	text := getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, &refusal.Error{
			Code: "PA502", Kind: refusal.Usage, Place: "SOURCE_DATE_EPOCH=" + text, Summary: "not a number of seconds since 1970",
			Fix: []string{"SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)"},
		}
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// builder prepares compiling, with a C compiler per platform if one was named.
func (m *Maker) builder(p *Plan, req Request) (*gobuild.Builder, error) {
	b := &gobuild.Builder{
		Toolchain: m.Toolchain, CacheDir: m.CacheDir, Dir: req.Dir, Getenv: m.Getenv,
		AllowOutside: req.AllowOutside, CC: map[platform.Platform]string{}, Unchanged: m.Unchanged,
	}
	var refused refusal.Collect
	for _, text := range req.CC {
		name, command, found := strings.Cut(text, "=")
		if !found || command == "" {
			refused.Add(&refusal.Error{
				Code: "PA502", Kind: refusal.Usage, Place: "--cc " + text, Summary: "it is written PLATFORM=COMMAND",
				Fix: []string{"--cc linux/arm64=aarch64-linux-gnu-gcc"},
			})
			continue
		}
		parsed, err := platform.Parse(name)
		if err != nil {
			refused.Add(err)
			continue
		}
		b.CC[parsed] = command
	}
	if len(b.CC) > 0 {
		for _, wanted := range p.Platforms {
			if b.CC[wanted] == "" {
				refused.Add(&refusal.Error{
					Code: "PA113", Kind: refusal.Usage, Platform: wanted.String(), Place: "--cc",
					Summary: "cgo is on for other platforms, but no C compiler is named for this one",
					Fix:     []string{"--cc " + wanted.String() + "=" + gobuild.CrossCompiler(wanted)},
				})
			}
		}
	}
	return b, refused.Err()
}

// base resolves the base and what it is on every platform.
func (m *Maker) base(ctx context.Context, p *Plan, req Request, all bool) error {
	name, err := m.Expand("--base", req.Base, Vars{})
	if err != nil {
		return err
	}
	if name == "" {
		name = base.Static
	}
	if p.Base, err = m.Bases.Resolve(ctx, name, "--base "+name); err != nil {
		return err
	}
	if all {
		has, err := p.Base.All(ctx)
		if err != nil {
			return err
		}
		for _, candidate := range has {
			if _, err := platform.Parse(candidate.String()); err == nil {
				p.Platforms = append(p.Platforms, candidate)
			}
		}
		if len(p.Platforms) == 0 {
			return &refusal.Error{
				Code: "PA104", Place: "--base " + name, Summary: "the base has no platform that Go compiles for",
				Seen: []string{"it has: " + platform.Names(has)}, Fix: []string{"--base static"},
			}
		}
	}
	images, err := p.Base.For(ctx, p.Platforms)
	if err != nil {
		return err
	}
	p.BaseImages = map[platform.Platform]base.Image{}
	for i, wanted := range p.Platforms {
		p.BaseImages[wanted] = images[i]
	}
	return nil
}

// flags expands the templates of the build flags. ldflags says whether those
// of the linker are wanted too: listing packages needs none.
func (m *Maker) flags(req Request, v Vars, ldflags bool) (gobuild.Flags, error) {
	var (
		f       gobuild.Flags
		refused refusal.Collect
	)
	expand := func(place string, texts []string) []string {
		var list []string
		for _, text := range texts {
			value, err := m.Expand(place, text, v)
			if err != nil {
				refused.Add(err)
				continue
			}
			list = append(list, value)
		}
		return list
	}
	for _, tags := range expand("--go-tags", req.GoTags) {
		f.Tags = append(f.Tags, strings.FieldsFunc(tags, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	f.Extra = expand("--go-flag", req.GoFlags)
	f.Env = expand("--go-env", req.GoEnv)
	if ldflags {
		f.LDFlags = expand("--ldflags", req.LDFlags)
	}
	return f, refused.Err()
}

// images decides which programs go into which image, and where it goes.
func (m *Maker) images(p *Plan, req Request, packages []gobuild.Package, source Source) error {
	groups := [][]gobuild.Package{}
	if req.Combine {
		groups = append(groups, byTarget(packages, req.Targets))
	} else {
		for _, pkg := range packages {
			groups = append(groups, []gobuild.Package{pkg})
		}
	}
	var refused refusal.Collect
	names := map[string]string{}
	for _, group := range groups {
		name := group[0].Name
		if req.Name != "" {
			expanded, err := m.Expand("--name", req.Name, Vars{Name: name, Package: group[0].ImportPath})
			if err != nil {
				refused.Add(err)
				continue
			}
			name = expanded
		}
		if other, taken := names[name]; taken && len(p.Platforms) > 0 {
			refused.Add(&refusal.Error{
				Code: "PA504", Kind: refusal.Usage, Place: group[0].ImportPath, Summary: fmt.Sprintf("two images would be named %s", name),
				Seen: []string{"the other one is " + other}, Fix: []string{"publish them one by one, with --name NAME"},
			})
		}
		names[name] = group[0].ImportPath
		target, err := m.image(p, req, name, group, source)
		if !refused.Add(err) {
			return err
		}
		p.Images = append(p.Images, target)
	}
	refused.Add(collisions(p.Images))
	return refused.Err()
}

// byTarget puts packages in the order in which their user named them, so that
// the first is the entrypoint.
func byTarget(packages []gobuild.Package, targets []string) []gobuild.Package {
	position := func(pkg gobuild.Package) int {
		for i, target := range targets {
			clean := strings.TrimSuffix(strings.TrimPrefix(path.Clean(target), "./"), "/...")
			if pkg.ImportPath == clean || strings.HasSuffix(pkg.ImportPath, "/"+clean) || strings.HasSuffix(pkg.Dir, "/"+clean) {
				return i
			}
		}
		return len(targets)
	}
	sorted := slices.Clone(packages)
	slices.SortStableFunc(sorted, func(a, b gobuild.Package) int { return position(a) - position(b) })
	return sorted
}

// collisions refuses two images with one reference: the second would take the
// tag from the first.
func collisions(images []Image) error {
	var refused refusal.Collect
	owner := map[string]string{}
	for _, target := range images {
		_, references := target.LocalTags()
		if len(target.Destinations) == 0 {
			continue
		}
		for _, ref := range references {
			if other, taken := owner[ref]; taken {
				refused.Add(&refusal.Error{
					Code: "PA504", Kind: refusal.Usage, Place: "-t " + ref, Summary: fmt.Sprintf("%s and %s would get the same tag", other, target.Name),
					Fix: []string{"-t " + strings.Replace(ref, ":", "/{{.Name}}:", 1), "--combine puts all programs into one image"},
				})
				continue
			}
			owner[ref] = target.Name
		}
	}
	return refused.Err()
}

// image plans one image.
func (m *Maker) image(p *Plan, req Request, name string, packages []gobuild.Package, source Source) (Image, error) {
	target := Image{
		Name: name, Packages: packages, BinaryDir: req.Image.BinaryDir,
		Flags: map[platform.Platform][]gobuild.Flags{}, Configs: map[platform.Platform]ocispec.Image{},
	}
	if target.BinaryDir == "" {
		target.BinaryDir = "/usr/local/bin"
	}
	var refused refusal.Collect
	if !path.IsAbs(target.BinaryDir) {
		refused.Add(&refusal.Error{
			Code: "PA502", Kind: refusal.Usage, Place: "--binary-dir " + req.Image.BinaryDir, Summary: "the place of programs must be absolute",
			Fix: []string{"--binary-dir /app"},
		})
	}
	var err error
	if target.Destinations, err = m.destinations(req, name, packages[0].ImportPath); err != nil && !refused.Add(err) {
		return target, err
	}
	for _, text := range req.Image.Files {
		expanded, err := m.Expand("--file", text, Vars{Name: name, Package: packages[0].ImportPath})
		if err != nil {
			refused.Add(err)
			continue
		}
		f, err := parseFile(req.Dir, expanded)
		if err != nil {
			refused.Add(err)
			continue
		}
		if _, err := os.Stat(f.Source); err != nil {
			refused.Add(&refusal.Error{Code: "PA123", Kind: refusal.Usage, Place: "--file " + text, Summary: "no such file or directory", Seen: []string{f.Source}})
			continue
		}
		target.Files = append(target.Files, f)
	}
	vars := Vars{Name: name, Package: packages[0].ImportPath}
	created := p.LayerTime
	if m.Getenv("SOURCE_DATE_EPOCH") == "" && !source.Time.IsZero() {
		created = source.Time.UTC()
	}
	standard := standardAnnotations(p, target, created, source)
	if target.Annotations, err = m.pairs("--annotation", req.Image.Annotations, vars, standard); err != nil {
		refused.Add(err)
	}
	for _, wanted := range p.Platforms {
		vars.Platform = wanted
		for _, pkg := range packages {
			v := vars
			v.Package = pkg.ImportPath
			flags, err := m.flags(req, v, true)
			refused.Add(err)
			target.Flags[wanted] = append(target.Flags[wanted], flags)
		}
		config, err := m.config(p, req.Image, target, vars, created, standard)
		refused.Add(err)
		target.Configs[wanted] = config
	}
	return target, refused.Err()
}

// standardAnnotations are those of image-spec v1.1.1, annotations.md, that are
// known. They are the same on every platform.
func standardAnnotations(p *Plan, target Image, created time.Time, source Source) map[string]string {
	a := map[string]string{
		ocispec.AnnotationCreated: created.Format(time.RFC3339),
		ocispec.AnnotationTitle:   target.Name,
	}
	set := func(key, value string) {
		if value != "" {
			a[key] = value
		}
	}
	set(ocispec.AnnotationRevision, source.Revision)
	set(ocispec.AnnotationSource, source.URL)
	version := source.Tag
	for _, d := range target.Destinations {
		for _, tag := range d.Tags {
			if _, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v")); err == nil {
				version = tag
			}
		}
	}
	set(ocispec.AnnotationVersion, version)
	if p.Base != nil && !p.Base.BuiltIn() && p.Base.Repository != "" {
		if ref, err := registry.ParseReference(p.Base.Name); err == nil {
			set(ocispec.AnnotationBaseImageName, ref.String())
		}
		set(ocispec.AnnotationBaseImageDigest, p.Base.Digest.String())
	}
	return a
}

// pairs expands key=value templates over defaults.
func (m *Maker) pairs(flag string, texts []string, v Vars, defaults map[string]string) (map[string]string, error) {
	var refused refusal.Collect
	var expanded []string
	for _, text := range texts {
		value, err := m.Expand(flag, text, v)
		if err != nil {
			refused.Add(err)
			continue
		}
		expanded = append(expanded, value)
	}
	given, err := parsePairs(flag, expanded)
	refused.Add(err)
	result := maps.Clone(defaults)
	if result == nil {
		result = map[string]string{}
	}
	maps.Copy(result, given)
	return result, refused.Err()
}

// config is the image configuration on one platform: that of the base, with
// what was asked for.
func (m *Maker) config(p *Plan, shape Shape, target Image, v Vars, created time.Time, standard map[string]string) (ocispec.Image, error) {
	var refused refusal.Collect
	expand := func(flag string, texts []string) []string {
		var list []string
		for _, text := range texts {
			value, err := m.Expand(flag, text, v)
			if err != nil {
				refused.Add(err)
				continue
			}
			list = append(list, value)
		}
		return list
	}
	under := p.BaseImages[v.Platform]
	config := ocispec.Image{Created: &created, Config: under.Config.Config}
	config.OSFeatures = under.Config.OSFeatures
	c := &config.Config
	c.Entrypoint = expand("--entrypoint", shape.Entrypoint)
	if len(c.Entrypoint) == 0 {
		c.Entrypoint = []string{programPath(target, v.Platform)}
	}
	c.Cmd = expand("--cmd", shape.Cmd)
	c.Env = mergeEnv(c.Env, expand("--env", shape.Env), &refused)
	if v.Platform.OS != "windows" && !slices.ContainsFunc(c.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		c.Env = append([]string{"PATH=" + defaultPath}, c.Env...)
	}
	if shape.WorkingDir != "" {
		if !path.IsAbs(shape.WorkingDir) && v.Platform.OS != "windows" {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--workdir " + shape.WorkingDir, Summary: "a working directory must be absolute", Fix: []string{"--workdir /" + shape.WorkingDir}})
		}
		c.WorkingDir = shape.WorkingDir
	}
	if shape.User != "" {
		c.User = shape.User
	}
	if shape.StopSignal != "" {
		c.StopSignal = shape.StopSignal
	}
	ports, err := parsePorts(shape.ExposedPorts)
	refused.Add(err)
	c.ExposedPorts = mergeSet(c.ExposedPorts, ports)
	volumes := map[string]struct{}{}
	for _, volume := range shape.Volumes {
		volumes[volume] = struct{}{}
	}
	c.Volumes = mergeSet(c.Volumes, volumes)
	// What a base says of itself isn't true of an image that stands on it.
	labels := map[string]string{}
	for key, value := range c.Labels {
		if !strings.HasPrefix(key, "org.opencontainers.image.") && !strings.HasPrefix(key, "org.label-schema.") {
			labels[key] = value
		}
	}
	maps.Copy(labels, standard)
	c.Labels, err = m.pairs("--label", shape.Labels, v, labels)
	refused.Add(err)
	return config, refused.Err()
}

// programPath is where the first program of an image is, as its config says it.
func programPath(target Image, p platform.Platform) string {
	name := path.Join(target.BinaryDir, target.Packages[0].Name)
	if p.OS == "windows" {
		return `C:` + strings.ReplaceAll(name, "/", `\`) + ".exe"
	}
	return name
}

func mergeSet(a, b map[string]struct{}) map[string]struct{} {
	if len(a)+len(b) == 0 {
		return nil
	}
	result := maps.Clone(a)
	if result == nil {
		result = map[string]struct{}{}
	}
	maps.Copy(result, b)
	return result
}

// mergeEnv lets later variables replace earlier ones, in place.
func mergeEnv(inherited, own []string, refused *refusal.Collect) []string {
	env := slices.Clone(inherited)
	for _, kv := range own {
		key, _, found := strings.Cut(kv, "=")
		if !found || key == "" || strings.ContainsAny(kv, "\x00") {
			refused.Add(&refusal.Error{
				Code: "PA502", Kind: refusal.Usage, Place: "--env " + kv, Summary: "it is written KEY=VALUE; nothing is taken over from this machine's environment",
				Fix: []string{fmt.Sprintf("--env '%s={{.Env.%s}}'", key, key)},
			})
			continue
		}
		if i := slices.IndexFunc(env, func(old string) bool { return strings.HasPrefix(old, key+"=") }); i >= 0 {
			env[i] = kv
		} else {
			env = append(env, kv)
		}
	}
	return env
}

// destinations reads -t: full references, and bare tags for the repository
// before.
func (m *Maker) destinations(req Request, name, importPath string) ([]Destination, error) {
	var (
		list    []Destination
		refused refusal.Collect
	)
	add := func(repository, tag string) {
		for i := range list {
			if list[i].Repository == repository {
				if !slices.Contains(list[i].Tags, tag) {
					list[i].Tags = append(list[i].Tags, tag)
				}
				return
			}
		}
		list = append(list, Destination{Repository: repository, Tags: []string{tag}})
	}
	previous := ""
	for _, text := range req.Tags {
		expanded, err := m.Expand("-t", text, Vars{Name: name, Package: importPath})
		if err != nil {
			refused.Add(err)
			continue
		}
		if !strings.ContainsAny(expanded, "/:@") {
			if previous == "" {
				refused.Add(&refusal.Error{
					Code: "PA503", Kind: refusal.Usage, Place: "-t " + text, Summary: "a bare tag needs a repository before it",
					Fix: []string{"-t docker.io/USER/" + name + ":" + expanded},
				})
				continue
			}
			if _, err := registry.ParseReference("example.com/x:" + expanded); err != nil {
				refused.Add(err)
				continue
			}
			add(previous, expanded)
			continue
		}
		ref, err := registry.ParseReference(expanded)
		if err != nil {
			refused.Add(err)
			continue
		}
		if ref.Digest != "" {
			refused.Add(&refusal.Error{
				Code: "PA503", Kind: refusal.Usage, Place: "-t " + text, Summary: "a digest can't be published to; it follows from the content",
				Fix: []string{"-t " + ref.Repository + ":1.0"},
			})
			continue
		}
		if ref.Tag == "" {
			ref.Tag = "latest"
		}
		previous = ref.Repository
		add(ref.Repository, ref.Tag)
	}
	return list, refused.Err()
}

// ParseLatest reads the value of --latest; the empty string is newest.
func ParseLatest(text string) (publish.LatestPolicy, error) {
	switch policy := publish.LatestPolicy(text); policy {
	case "":
		return publish.LatestNewest, nil
	case publish.LatestNewest, publish.LatestAlways, publish.LatestNever:
		return policy, nil
	}
	return "", &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--latest " + text, Summary: "not a policy for latest",
		Fix: []string{"--latest newest", "--latest always", "--latest never"},
	}
}
