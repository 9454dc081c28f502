package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/buildkit"
	"github.com/anyarch/anyarch/internal/buildkit/daemon"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// buildkitFlags are the flags that only matter to BuildKit.
type buildkitFlags struct {
	builders   []string
	cacheTo    []string
	cacheFrom  []string
	ssh        []string
	allow      []string
	hosts      []string
	ulimits    []string
	attest     []string
	provenance string
	sbom       string
	policy     string
	shmSize    string
	level      string
	// compression is one that only BuildKit has, empty for one of the plan's.
	compression string
}

// buildkitOnly are their names.
var buildkitOnly = []string{"builder", "cache-to", "cache-from", "ssh", "allow", "add-host", "ulimit", "attest", "provenance", "sbom", "source-policy", "shm-size", "compression-level"}

func (k *buildkitFlags) register(f *pflag.FlagSet) {
	f.StringArrayVar(&k.builders, "builder", nil, "BuildKit at `ADDRESS[=PLATFORM,…]`, with the platforms that its machine runs natively (repeatable)")
	f.StringArrayVar(&k.cacheTo, "cache-to", nil, "BuildKit writes its cache to `type=TYPE,…`: registry, local, inline, gha, s3, azblob")
	f.StringArrayVar(&k.cacheFrom, "cache-from", nil, "BuildKit reads the cache of `type=TYPE,…`")
	f.StringArrayVar(&k.ssh, "ssh", nil, "agent for RUN --mount=type=ssh, with BuildKit: `ID[=SOCKET|KEY]`")
	f.StringArrayVar(&k.allow, "allow", nil, "`ENTITLEMENT` that RUN may use, with BuildKit: network.host, security.insecure, device")
	f.StringArrayVar(&k.hosts, "add-host", nil, "`NAME=ADDRESS` in the hosts file of RUN, with BuildKit")
	f.StringArrayVar(&k.ulimits, "ulimit", nil, "`NAME=SOFT:HARD` limit of RUN, with BuildKit")
	f.StringVar(&k.shmSize, "shm-size", "", "`BYTES` of /dev/shm in RUN, with BuildKit")
	f.StringArrayVar(&k.attest, "attest", nil, "attestation that BuildKit makes, beside the image in its index: `type=provenance|sbom,…`")
	f.StringVar(&k.provenance, "provenance", "", "short for --attest type=provenance: `true|false|mode=max`")
	f.StringVar(&k.sbom, "sbom", "", "short for --attest type=sbom: `true|false|generator=IMAGE`")
	f.StringVar(&k.policy, "source-policy", "", "source policy for BuildKit, from this JSON `FILE`")
	f.StringVar(&k.level, "compression-level", "", "`LEVEL` of the compression, with BuildKit")
}

// wanted names a flag that only BuildKit can do; empty if there is none.
func (k *buildkitFlags) wanted(network string) string {
	given := map[string]bool{
		"--cache-to": len(k.cacheTo) > 0, "--cache-from": len(k.cacheFrom) > 0, "--ssh": len(k.ssh) > 0, "--allow": len(k.allow) > 0,
		"--add-host": len(k.hosts) > 0, "--ulimit": len(k.ulimits) > 0, "--attest": len(k.attest) > 0, "--source-policy": k.policy != "",
		"--provenance": asked(k.provenance), "--sbom": asked(k.sbom),
		"--shm-size": k.shmSize != "", "--compression-level": k.level != "", "--network host": network == "host",
		"--compression " + k.compression: k.compression != "",
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if given[name] {
			return name
		}
	}
	return ""
}

// asked reports whether a flag asks for an attestation: it says neither nothing nor no.
func asked(value string) bool {
	yes, err := strconv.ParseBool(value)
	return value != "" && (err != nil || yes)
}

// compression takes a compression of layers: the plan's, or one that only BuildKit has.
func (b *buildFlags) compression(name string) {
	b.req.Compression = name
	if name == "estargz" || name == "uncompressed" {
		b.req.Compression, b.docker.kit.compression = "", name
	}
}

// onlyBuildKit refuses named contexts that the native engine can't read.
func onlyBuildKit(contexts map[string]string) error {
	var refused refusal.Collect
	for _, name := range slices.Sorted(maps.Keys(contexts)) {
		value := contexts[name]
		if strings.HasPrefix(value, "oci-layout://") || strings.HasPrefix(value, "target:") {
			refused.Add(&refusal.Error{Code: "PA148", Kind: refusal.Usage, Place: "--build-context " + name + "=" + value, Summary: "only BuildKit reads contexts of this kind",
				Fix: []string{"--build-context " + name + "=docker-image://REFERENCE", "--engine buildkit"}})
		}
	}
	return refused.Err()
}

// attestations reads --attest, --provenance and --sbom, as docker buildx has them.
func (k *buildkitFlags) attestations() (map[string]string, error) {
	out := map[string]string{}
	var refused refusal.Collect
	for _, text := range k.attest {
		kind, rest := "", []string{}
		for field := range strings.SplitSeq(text, ",") {
			if v, ok := strings.CutPrefix(field, "type="); ok {
				kind = v
			} else {
				rest = append(rest, field)
			}
		}
		if kind != "provenance" && kind != "sbom" {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--attest " + text, Summary: "it is provenance or sbom", Fix: []string{"--attest type=provenance,mode=max", "--attest type=sbom"}})
			continue
		}
		out[kind] = strings.Join(rest, ",")
	}
	for kind, value := range map[string]string{"provenance": k.provenance, "sbom": k.sbom} {
		asked, err := strconv.ParseBool(value)
		switch {
		case value == "":
		case err != nil:
			out[kind] = value
		case asked:
			out[kind] = ""
		default:
			delete(out, kind)
		}
	}
	for kind, value := range out {
		if strings.Contains(value, "disabled=true") {
			delete(out, kind)
		}
	}
	return out, refused.Err()
}

// endpoints are the builders that are configured: by --builder, else BUILDKIT_HOST, else
// by docker buildx, else the one of `anyarch builder start`, if it runs.
func (a *app) endpoints(ctx context.Context, b *buildFlags) ([]buildkit.Endpoint, error) {
	if list := b.docker.kit.builders; len(list) > 0 {
		origin := "--builder"
		if a.Getenv("ANYARCH_BUILDER") == strings.Join(list, "\n") {
			origin = "ANYARCH_BUILDER"
		}
		return buildkit.Endpoints(list, origin, a.Dir)
	}
	if host := a.Getenv("BUILDKIT_HOST"); host != "" {
		return buildkit.Endpoints([]string{host}, "BUILDKIT_HOST", a.Dir)
	}
	list, err := buildkit.Buildx(a.Getenv)
	if err != nil || len(list) > 0 {
		return list, err
	}
	o, err := a.daemon()
	if err != nil {
		return nil, err
	}
	s, err := daemon.Look(o)
	if err != nil || !s.Running {
		return nil, err
	}
	o.Use()
	if err := daemon.Await(ctx, o); err != nil {
		return nil, context.Cause(ctx) // it was ending; who wants one may start another
	}
	return []buildkit.Endpoint{o.Endpoint()}, nil
}

// connect connects to all builders. Those that are away are warned about; if all are,
// that is the error.
func (a *app) connect(ctx context.Context, list []buildkit.Endpoint, event progress.Sink) ([]*buildkit.Node, error) {
	end := event.Start("", "", progress.Resolve, "builders")
	nodes, errs := buildkit.ConnectAll(ctx, list)
	if len(nodes) == 0 {
		end(progress.Failed, "builders")
		var refused refusal.Collect
		for _, err := range errs {
			if !refused.Add(err) {
				return nil, err
			}
		}
		return nil, refused.Err()
	}
	end(progress.Done, fmt.Sprintf("%d of %d builders", len(nodes), len(list)))
	for _, err := range errs {
		for _, r := range refusal.All(err) {
			event.Warn("", "", fmt.Sprintf("%s %s: %s", r.Code, r.Place, r.Summary))
		}
	}
	for _, n := range nodes {
		if n.Plain() {
			event.Warn("", "", n.Address+" is spoken to without TLS: whoever is on that network can read and change what is built")
		}
	}
	return nodes, nil
}

// prepareBuildKit prepares a build by nodes.
func (a *app) prepareBuildKit(b *buildFlags, in *dockerInput, nodes []*buildkit.Node, event progress.Sink) (*buildkit.Build, error) {
	d := &b.docker
	kept, err := a.openCache()
	if err != nil {
		return nil, err
	}
	ignore, err := in.context.Ignore(in.path)
	if err != nil {
		return nil, err
	}
	attest, err := d.kit.attestations()
	if err != nil {
		return nil, err
	}
	var policy []byte
	if file := first(d.kit.policy, a.Getenv("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")); file != "" {
		if policy, err = os.ReadFile(a.absolute(file)); err != nil {
			return nil, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--source-policy " + file, Summary: "can't be read", Seen: []string{err.Error()}, Err: err}
		}
	}
	contexts := map[string]buildkit.Context{}
	for name, value := range in.contexts {
		if c := in.named[name]; c != nil {
			contexts[name] = buildkit.Context{Dir: c.Dir()}
		} else {
			contexts[name] = buildkit.Context{Value: value}
		}
	}
	client, err := a.registryClient()
	if err != nil {
		return nil, err
	}
	secrets := map[string]func() ([]byte, error){}
	for id, s := range in.secrets {
		secrets[id] = s
	}
	return buildkit.New(in.plan.Platforms, buildkit.Options{
		Nodes: nodes, Dockerfile: in.path, Text: in.textFor, Ignore: ignore, Context: in.context.Dir(), Scratch: filepath.Join(in.scratch, "buildkit"),
		Contexts: contexts, Target: d.target, BuildArgs: func(p platform.Platform) map[string]string { return in.args[p] }, Labels: in.labels,
		Network: d.network, Hosts: d.kit.hosts, NoCache: d.noCache, IgnoreCache: d.noFilter, Pull: d.pull, ShmSize: d.kit.shmSize, Ulimits: d.kit.ulimits,
		Secrets: secrets, SSH: d.kit.ssh, Allow: d.kit.allow, CacheTo: d.kit.cacheTo, CacheFrom: d.kit.cacheFrom, SourcePolicy: policy, Attest: attest,
		Compression: first(d.kit.compression, string(in.plan.Compression)), Level: d.kit.level, Docker: in.plan.MediaTypes == image.Docker,
		Annotations: in.plan.Images[0].Annotations, LayerTime: in.plan.LayerTime,
		Credentials: client.Credentials, Getenv: a.Getenv, Store: kept.Blobs(), Scans: kept.Memo(), Event: event,
	})
}

// byBuildKit builds one platform, for the pipeline.
func byBuildKit(kit *buildkit.Build) func(context.Context, platform.Platform) (*pipeline.Built, error) {
	return func(ctx context.Context, p platform.Platform) (*pipeline.Built, error) {
		r, err := kit.Run(ctx, p)
		if err != nil {
			return nil, err
		}
		return &pipeline.Built{Image: r.Image, Attestations: r.Attestations, Base: r.Base, Added: r.Added, Places: r.Places}, nil
	}
}

// describeNodes says which builder runs what, for plan.
func describeNodes(w *strings.Builder, nodes []*buildkit.Node, p *plan.Plan) {
	for _, n := range nodes {
		fmt.Fprintf(w, "builder    %s  runs %s", n.Address, platform.Names(n.Native))
		if len(n.Emulated) > 0 {
			fmt.Fprintf(w, ", emulates %s", platform.Names(n.Emulated))
		}
		fmt.Fprintf(w, "  (%s)\n", n.Origin)
	}
	for _, at := range buildkit.Place(nodes, p.Platforms) {
		switch {
		case at.Node == "":
			fmt.Fprintf(w, "%-24s  cross-compiled on %s, where no program of its own has to run\n", at.Platform, nodes[0].Address)
		case at.Emulated:
			fmt.Fprintf(w, "%-24s  emulated on %s, where a program of its own has to run\n", at.Platform, at.Node)
		default:
			fmt.Fprintf(w, "%-24s  native on %s, where a program of its own has to run\n", at.Platform, at.Node)
		}
	}
}
