package dockerfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// ImageConfig is what a base's registry says about it on one platform.
type ImageConfig struct {
	Ref    string // with its digest
	Digest digest.Digest
	Config []byte
}

// Options say what is compiled, and for whom.
type Options struct {
	Name      string // of the Dockerfile, for messages
	Data      []byte
	Target    string // stage; empty for the last
	BuildArgs map[string]string
	Labels    map[string]string
	// Contexts are named contexts, as --build-context NAME=VALUE has them:
	// docker-image://REF, or local:NAME for a directory.
	Contexts map[string]string
	Network  string // default, none or host
	Hostname string
	// IgnoreCache are stages of which nothing is taken over from earlier builds.
	IgnoreCache []string

	Platform      platform.Platform // of the image
	BuildPlatform platform.Platform // of this machine's containers

	// Resolve finds a base on a platform and reads its config.
	Resolve func(ctx context.Context, ref string, p platform.Platform) (ImageConfig, error)
	// Ignore gives the ignore file of a local context; nothing if it has none.
	Ignore func(ctx context.Context, local string) ([]byte, error)
}

// ErrFrontEnd is in the refusal of a Dockerfile that asks for another front end.
var ErrFrontEnd = errors.New("another front end")

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 1 << 20

// Compile gives the graph of one platform. A mistake in the Dockerfile is a
// refusal.Error with code PA106 and the line.
func Compile(ctx context.Context, o Options) (*Graph, error) {
	if len(o.Data) > maxDockerfile {
		return nil, &refusal.Error{Code: "PA106", Place: o.Name, Summary: fmt.Sprintf("the Dockerfile has %d bytes; the limit is %d", len(o.Data), maxDockerfile),
			Fix: []string{"keep data in files of their own and COPY them"}}
	}
	if err := checkSyntaxLine(o); err != nil {
		return nil, err
	}
	graph := &Graph{Platform: o.Platform}
	target := o.Platform.OCI()
	client, err := newFrontend(o)
	if err != nil {
		return nil, o.refuse(err)
	}
	bc, err := dockerui.NewClient(client)
	if err != nil {
		return nil, o.refuse(err)
	}
	build := o.BuildPlatform.OCI()
	bc.BuildPlatforms = []ocispec.Platform{build}
	config := bc.Config
	config.Target = o.Target
	config.BuildArgs = maps.Clone(o.BuildArgs)
	if config.BuildArgs == nil {
		config.BuildArgs = map[string]string{}
	}
	config.Labels = o.Labels
	caps := pb.Caps.CapSet(capabilities())
	result, err := dockerfile2llb.Dockerfile2LLB(ctx, o.Data, dockerfile2llb.ConvertOpt{
		Config: config, Client: bc, TargetPlatform: &target, MetaResolver: client, LLBCaps: &caps,
		SourceMap: llb.NewSourceMap(nil, o.Name, "Dockerfile", o.Data),
		Warn: func(rule, _, url, detail string, location []parser.Range) {
			w := Warning{Rule: rule, Detail: detail, URL: url}
			if len(location) > 0 {
				w.Line = location[0].Start.Line
			}
			if !slices.Contains(graph.Warnings, w) {
				graph.Warnings = append(graph.Warnings, w)
			}
		},
	})
	if err != nil {
		return nil, o.refuse(err)
	}
	// BuildKit leaves the platform of images that are FROM scratch to this.
	result.Image.OS, result.Image.Architecture, result.Image.Variant = target.OS, target.Architecture, target.Variant
	if graph.Config, err = json.Marshal(result.Image); err != nil {
		return nil, fmt.Errorf("config of %s: %w", o.Name, err)
	}
	definition, err := result.State.Marshal(ctx, llb.Platform(target), llb.WithCaps(caps))
	if err != nil {
		return nil, o.refuse(err)
	}
	if err := graph.decode(definition); err != nil {
		return nil, fmt.Errorf("graph of %s: %w", o.Name, err)
	}
	return graph, nil
}

// refuse says where in the Dockerfile a mistake is. A refusal stays what it is.
func (o Options) refuse(err error) error {
	var own *refusal.Error
	var list refusal.List
	if errors.As(err, &own) || errors.As(err, &list) || errors.Is(err, context.Canceled) {
		if own != nil && own.Place == "" {
			if line := lineOf(err); line > 0 {
				own.Place = fmt.Sprintf("%s:%d", o.Name, line)
			}
		}
		if own != nil {
			return own
		}
		return err
	}
	place := o.Name
	if line := lineOf(err); line > 0 {
		place = fmt.Sprintf("%s:%d", o.Name, line)
	}
	return &refusal.Error{Code: "PA106", Place: place, Summary: err.Error()}
}

func lineOf(err error) int {
	var located *parser.LocationError
	if errors.As(err, &located) {
		for _, ranges := range located.Locations {
			if len(ranges) > 0 {
				return ranges[0].Start.Line
			}
		}
	}
	return 0
}

// checkSyntaxLine refuses a Dockerfile that asks for another front end than
// Docker's own, which would have to be run.
func checkSyntaxLine(o Options) error {
	ref, _, ranges, ok := parser.DetectSyntax(o.Data)
	if !ok {
		return nil
	}
	name := strings.TrimPrefix(strings.TrimPrefix(ref, "docker.io/"), "index.docker.io/")
	if i := strings.IndexAny(name, ":@"); i >= 0 {
		name = name[:i]
	}
	switch name {
	case "docker/dockerfile", "docker/dockerfile-upstream":
		return nil
	}
	line := 1
	if len(ranges) > 0 {
		line = ranges[0].Start.Line
	}
	return &refusal.Error{Code: "PA106", Place: fmt.Sprintf("%s:%d", o.Name, line),
		Summary: fmt.Sprintf("the Dockerfile is to be read by another front end, %s, which is a program of its own", ref),
		Fix:     []string{"# syntax=docker/dockerfile:1", "--engine buildkit"}, Err: ErrFrontEnd}
}

// decode turns BuildKit's definition into plain operations.
func (g *Graph) decode(definition *llb.Definition) error {
	if len(definition.Def) == 0 {
		return nil
	}
	byDigest := map[digest.Digest]*Op{}
	var last *pb.Op
	for _, raw := range definition.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			return err
		}
		id := digest.FromBytes(raw)
		if op.Op == nil { // the last one only names the root
			last = &op
			continue
		}
		o, err := decodeOp(&op, byDigest)
		if err != nil {
			return err
		}
		meta := definition.Metadata[id]
		o.Name, o.IgnoreCache = meta.Description["llb.customname"], meta.IgnoreCache
		if definition.Source != nil {
			if at := definition.Source.Locations[string(id)]; at != nil {
				for _, l := range at.Locations {
					for _, r := range l.Ranges {
						o.Lines = append(o.Lines, Range{int(r.Start.Line), int(r.End.Line)})
					}
				}
			}
		}
		if strings.HasPrefix(o.Name, "[") {
			o.Stage, _, _ = strings.Cut(strings.TrimPrefix(o.Name, "["), "]")
			fields := strings.Fields(o.Stage)
			if len(fields) > 1 && strings.Contains(fields[len(fields)-1], "/") {
				fields = fields[:len(fields)-1]
			}
			if len(fields) > 0 && strings.Contains(fields[0], "/") && len(fields) > 1 {
				fields = fields[1:] // the platform
			}
			o.Stage = strings.Join(fields, " ")
		}
		byDigest[id] = o
		g.Ops = append(g.Ops, o)
	}
	if last == nil || len(last.Inputs) != 1 {
		return errors.New("the definition has no root")
	}
	g.Root = Edge{Op: byDigest[digest.Digest(last.Inputs[0].Digest)], Output: int(last.Inputs[0].Index)}
	if g.Root.Op == nil {
		return errors.New("the root of the definition isn't in it")
	}
	return nil
}

func decodeOp(op *pb.Op, known map[digest.Digest]*Op) (*Op, error) {
	o := &Op{}
	for _, in := range op.Inputs {
		under := known[digest.Digest(in.Digest)]
		if under == nil {
			return nil, fmt.Errorf("operation %s isn't in the definition", in.Digest)
		}
		o.Inputs = append(o.Inputs, Edge{Op: under, Output: int(in.Index)})
	}
	if op.Platform != nil {
		p := platform.FromOCI(&ocispec.Platform{OS: op.Platform.OS, Architecture: op.Platform.Architecture, Variant: op.Platform.Variant, OSVersion: op.Platform.OSVersion})
		o.Platform = &p
	}
	var err error
	switch x := op.Op.(type) {
	case *pb.Op_Source:
		// Where the files are sent from is drawn anew for every build.
		delete(x.Source.Attrs, pb.AttrLocalUniqueID)
		delete(x.Source.Attrs, pb.AttrLocalSessionID)
		delete(x.Source.Attrs, pb.AttrSharedKeyHint)
		o.Source, err = decodeSource(x.Source)
	case *pb.Op_Exec:
		o.Exec, err = decodeExec(x.Exec)
	case *pb.Op_File:
		o.File, err = decodeFile(x.File)
	case *pb.Op_Merge:
		o.Merge = true
	default:
		err = fmt.Errorf("operation %T is not known", op.Op)
	}
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(struct {
		S *Source
		E *Exec
		F []FileAction
		M bool
	}{o.Source, o.Exec, o.File, o.Merge})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	o.Self = hex.EncodeToString(sum[:])
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%v\n", o.Self, o.Platform)
	for _, in := range o.Inputs {
		_, _ = fmt.Fprintf(h, "%s %d\n", in.Op.Key, in.Output)
	}
	o.Key = hex.EncodeToString(h.Sum(nil))
	return o, nil
}

func decodeSource(s *pb.SourceOp) (*Source, error) {
	source := &Source{Identifier: s.Identifier, Attrs: s.Attrs}
	scheme, rest, _ := strings.Cut(s.Identifier, "://")
	list := func(key string) ([]string, error) {
		var l []string
		if text := s.Attrs[key]; text != "" {
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", key, s.Identifier, err)
			}
		}
		return l, nil
	}
	var err error
	switch scheme {
	case "docker-image":
		source.Image = rest
	case "local":
		l := &Local{Name: rest}
		for _, f := range []struct {
			to  *[]string
			key string
		}{{&l.Include, pb.AttrIncludePatterns}, {&l.Exclude, pb.AttrExcludePatterns}, {&l.Follow, pb.AttrFollowPaths}} {
			if *f.to, err = list(f.key); err != nil {
				return nil, err
			}
		}
		source.Local = l
	case "http", "https":
		h := &HTTP{URL: s.Identifier, Filename: s.Attrs[pb.AttrHTTPFilename], Checksum: s.Attrs[pb.AttrHTTPChecksum]}
		for _, f := range []struct {
			to   *int
			key  string
			base int
		}{{&h.Mode, pb.AttrHTTPPerm, 0}, {&h.UID, pb.AttrHTTPUID, 10}, {&h.GID, pb.AttrHTTPGID, 10}} {
			if text := s.Attrs[f.key]; text != "" {
				n, err := strconv.ParseInt(text, f.base, 64)
				if err != nil {
					return nil, fmt.Errorf("%s of %s: %w", f.key, s.Identifier, err)
				}
				*f.to = int(n)
			}
		}
		source.HTTP = h
	}
	return source, nil
}

func decodeExec(e *pb.ExecOp) (*Exec, error) {
	x := &Exec{Args: e.Meta.Args, Env: e.Meta.Env, Dir: e.Meta.Cwd, User: e.Meta.User, Hostname: e.Meta.Hostname,
		Insecure: e.Security == pb.SecurityMode_INSECURE, Devices: len(e.CdiDevices) > 0}
	switch e.Network {
	case pb.NetMode_HOST:
		x.Network = NetworkHost
	case pb.NetMode_NONE:
		x.Network = NetworkNone
	}
	if p := e.Meta.ProxyEnv; p != nil {
		for _, v := range [][2]string{{"HTTP_PROXY", p.HttpProxy}, {"HTTPS_PROXY", p.HttpsProxy}, {"FTP_PROXY", p.FtpProxy}, {"NO_PROXY", p.NoProxy}, {"ALL_PROXY", p.AllProxy}} {
			if v[1] != "" {
				x.Proxy = append(x.Proxy, v[0]+"="+v[1], strings.ToLower(v[0])+"="+v[1])
			}
		}
	}
	for _, s := range e.Secretenv {
		x.SecretEnv = append(x.SecretEnv, SecretEnv{ID: s.ID, Name: s.Name, Optional: s.Optional})
	}
	for _, m := range e.Mounts {
		n := Mount{Input: int(m.Input), Selector: m.Selector, Target: m.Dest, ReadOnly: m.Readonly, Output: int(m.Output)}
		switch m.MountType {
		case pb.MountType_BIND:
			n.Kind = MountBind
		case pb.MountType_CACHE:
			n.Kind, n.ID = MountCache, m.CacheOpt.ID
			n.Sharing = strings.ToLower(m.CacheOpt.Sharing.String())
		case pb.MountType_SECRET:
			n.Kind, n.ID = MountSecret, m.SecretOpt.ID
			n.UID, n.GID, n.Mode, n.Optional = int(m.SecretOpt.Uid), int(m.SecretOpt.Gid), m.SecretOpt.Mode, m.SecretOpt.Optional
		case pb.MountType_SSH:
			n.Kind = MountSSH
		case pb.MountType_TMPFS:
			n.Kind = MountTmpfs
		default:
			return nil, fmt.Errorf("mount type %v is not known", m.MountType)
		}
		x.Mounts = append(x.Mounts, n)
	}
	slices.SortStableFunc(x.Mounts, func(a, b Mount) int {
		return strings.Compare(a.Target, b.Target)
	})
	return x, nil
}

func decodeFile(f *pb.FileOp) ([]FileAction, error) {
	var list []FileAction
	for _, a := range f.Actions {
		n := FileAction{Input: int(a.Input), Secondary: int(a.SecondaryInput), Output: int(a.Output), Mode: -1, Timestamp: -1}
		switch x := a.Action.(type) {
		case *pb.FileAction_Copy:
			c := x.Copy
			n.Kind, n.Path, n.Dest, n.Mode, n.ModeStr, n.Timestamp = ActionCopy, c.Src, c.Dest, int(c.Mode), c.ModeStr, c.Timestamp
			n.FollowSymlink, n.DirCopyContents, n.AttemptUnpack, n.CreateDestPath = c.FollowSymlink, c.DirCopyContents, c.AttemptUnpackDockerCompatibility, c.CreateDestPath
			n.AllowWildcard, n.AllowEmpty, n.AlwaysReplace = c.AllowWildcard, c.AllowEmptyWildcard, c.AlwaysReplaceExistingDestPaths
			n.Include, n.Exclude, n.Required = c.IncludePatterns, c.ExcludePatterns, c.RequiredPaths
			n.Owner = decodeOwner(c.Owner)
		case *pb.FileAction_Mkfile:
			m := x.Mkfile
			n.Kind, n.Path, n.Mode, n.Data, n.Timestamp, n.Owner = ActionMkfile, m.Path, int(m.Mode), bytes.Clone(m.Data), m.Timestamp, decodeOwner(m.Owner)
		case *pb.FileAction_Mkdir:
			m := x.Mkdir
			n.Kind, n.Path, n.Mode, n.MakeParents, n.Timestamp, n.Owner = ActionMkdir, m.Path, int(m.Mode), m.MakeParents, m.Timestamp, decodeOwner(m.Owner)
		case *pb.FileAction_Rm:
			n.Kind, n.Path, n.AllowNotFound, n.AllowWildcard = ActionRm, x.Rm.Path, x.Rm.AllowNotFound, x.Rm.AllowWildcard
		case *pb.FileAction_Symlink:
			s := x.Symlink
			n.Kind, n.Path, n.Dest, n.Timestamp, n.Owner = ActionSymlink, s.Newpath, s.Oldpath, s.Timestamp, decodeOwner(s.Owner)
		default:
			return nil, fmt.Errorf("file action %T is not known", a.Action)
		}
		list = append(list, n)
	}
	return list, nil
}

func decodeOwner(c *pb.ChownOpt) *Owner {
	if c == nil {
		return nil
	}
	who := func(u *pb.UserOpt) *Principal {
		if u == nil || u.User == nil {
			return nil
		}
		switch x := u.User.(type) {
		case *pb.UserOpt_ByName:
			return &Principal{Name: x.ByName.Name, Input: int(x.ByName.Input)}
		case *pb.UserOpt_ByID:
			return &Principal{ID: int(x.ByID), Input: -1}
		}
		return nil
	}
	return &Owner{User: who(c.User), Group: who(c.Group)}
}

// Format is how BuildKit writes a platform in the arguments of a Dockerfile.
func Format(p platform.Platform) string { return platforms.Format(p.OCI()) }
