package buildkit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
)

// graph is what a front end made of the Dockerfile for one platform: operations by
// digest, each with the results that it reads. It isn't changed after it was read.
type graph struct {
	ops     map[string]*pb.Op
	order   []string // as the front end gave them
	result  result
	meta    map[string]*pb.OpMetadata
	source  *pb.Source
	session string // of the build that the front end ran in: named in sources of this machine
}

// result is one of the results of an operation.
type result struct {
	op    string
	index int64
}

// readGraph reads a definition. The last operation of one only names the result.
func readGraph(d *pb.Definition, session string) (*graph, error) {
	g := &graph{ops: map[string]*pb.Op{}, meta: d.GetMetadata(), source: d.GetSource(), session: session}
	for i, raw := range d.GetDef() {
		op := &pb.Op{}
		if err := op.Unmarshal(raw); err != nil {
			return nil, fmt.Errorf("definition of BuildKit: %w", err)
		}
		if i == len(d.Def)-1 && len(op.Inputs) == 1 && op.Op == nil {
			g.result = result{op.Inputs[0].Digest, op.Inputs[0].Index}
			break
		}
		id := digest.FromBytes(raw).String()
		g.ops[id] = op
		g.order = append(g.order, id)
	}
	for _, op := range g.ops {
		for _, in := range op.Inputs {
			if g.ops[in.Digest] == nil {
				return nil, fmt.Errorf("definition of BuildKit: %s is missing", in.Digest)
			}
		}
	}
	if g.result.op != "" && g.ops[g.result.op] == nil {
		return nil, fmt.Errorf("definition of BuildKit: its result is missing")
	}
	return g, nil
}

// runs gives the platform of the program that an operation runs, if it runs one.
func (g *graph) runs(id string) (platform.Platform, bool) {
	op := g.ops[id]
	if op.GetExec() == nil || op.Platform == nil {
		return platform.Platform{}, false
	}
	return platform.FromOCI(&ocispec.Platform{OS: op.Platform.OS, Architecture: op.Platform.Architecture, Variant: op.Platform.Variant}), true
}

// programs are the platforms of all programs that have to run for a result.
func (g *graph) programs(id string) []platform.Platform {
	var out []platform.Platform
	seen := map[string]bool{}
	var visit func(string)
	visit = func(id string) {
		if seen[id] {
			return
		}
		seen[id] = true
		if p, ok := g.runs(id); ok && !slices.Contains(out, p) {
			out = append(out, p)
		}
		for _, in := range g.ops[id].Inputs {
			visit(in.Digest)
		}
	}
	visit(id)
	return out
}

// foreignStep finds the first instruction that runs a program which the node's machine
// doesn't run by itself, as place, tab and command; empty if there is none.
func (g *graph) foreignStep(n *Node, dockerfile string) string {
	for _, id := range g.order {
		if p, ok := g.runs(id); ok && !n.runs(p) {
			return g.place(id, dockerfile) + "\t" + strings.Join(g.ops[id].GetExec().GetMeta().GetArgs(), " ")
		}
	}
	return ""
}

// line gives the line of the Dockerfile that an operation comes from, and its text; 0 if
// it isn't known.
func (g *graph) line(id string) (number int, text string) {
	list := g.source.GetLocations()[id].GetLocations()
	if len(list) == 0 || len(list[0].Ranges) == 0 {
		return 0, ""
	}
	number = int(list[0].Ranges[0].GetStart().GetLine())
	if infos := g.source.GetInfos(); int(list[0].SourceIndex) < len(infos) {
		if lines := strings.Split(string(infos[list[0].SourceIndex].GetData()), "\n"); number > 0 && number <= len(lines) {
			text = lines[number-1]
		}
	}
	return number, text
}

func (g *graph) place(id, dockerfile string) string {
	if n, _ := g.line(id); n > 0 {
		return fmt.Sprintf("%s:%d", dockerfile, n)
	}
	return dockerfile
}

// base gives the result that an operation changes, as opposed to those that it only
// reads. ok is false for operations that change nothing, such as sources, and for those
// that don't have one such result.
func (g *graph) base(id string) (r result, ok bool) {
	op := g.ops[id]
	input := int64(-1)
	switch {
	case op.GetFile() != nil:
		for _, a := range op.GetFile().Actions {
			if a.Input >= int64(len(op.Inputs)) {
				continue // what an action before it made
			}
			if input >= 0 && a.Input != input {
				return result{}, false
			}
			input = a.Input
		}
	case op.GetExec() != nil:
		for _, m := range op.GetExec().Mounts {
			if m.Dest == pb.RootMount {
				input = m.Input
			}
		}
	case op.GetMerge() != nil && len(op.Inputs) == 2 && len(op.GetMerge().Inputs) == 2:
		input = op.GetMerge().Inputs[0].Input
	default:
		return result{}, false
	}
	if input < 0 {
		return result{}, true // an empty file system
	}
	return result{op.Inputs[input].Digest, op.Inputs[input].Index}, true
}

// read is what an operation reads of a result that it doesn't change: the sources of a
// COPY, or a mount.
type read struct {
	copy     *pb.FileActionCopy
	selector string // of a mount
}

// all reports whether nothing can be left out.
func (r read) all() bool {
	if r.copy != nil {
		return strings.Trim(r.copy.Src, "/.") == "" && len(r.copy.IncludePatterns) == 0
	}
	return strings.Trim(r.selector, "/.") == ""
}

// reads tells for each input of an operation what is read of it; nil stands for all
// inputs that the operation stands on in another way.
func (g *graph) reads(id string) [][]read {
	op := g.ops[id]
	out := make([][]read, len(op.Inputs))
	whole := make([]bool, len(op.Inputs))
	stands := func(i int64) {
		if i >= 0 && i < int64(len(whole)) {
			whole[i] = true
		}
	}
	switch {
	case op.GetFile() != nil:
		owner := func(u *pb.UserOpt) {
			if name := u.GetByName(); name != nil {
				stands(name.Input)
			}
		}
		for _, a := range op.GetFile().Actions {
			stands(a.Input)
			c := a.GetCopy()
			if c == nil {
				stands(a.SecondaryInput)
				continue
			}
			owner(c.Owner.GetUser())
			owner(c.Owner.GetGroup())
			if i := a.SecondaryInput; i >= 0 && i < int64(len(out)) {
				out[i] = append(out[i], read{copy: c})
			}
		}
	case op.GetExec() != nil:
		for _, m := range op.GetExec().Mounts {
			switch {
			case m.Dest == pb.RootMount || m.Output >= 0:
				stands(m.Input)
			case m.Input >= 0 && m.Input < int64(len(out)):
				out[m.Input] = append(out[m.Input], read{selector: m.Selector})
			}
		}
	}
	for i := range out {
		if whole[i] {
			out[i] = nil
		}
	}
	return out
}

// onImage reports whether a result stands on an image: its tree holds all of that.
func (g *graph) onImage(id string) bool {
	for {
		if s := g.ops[id].GetSource(); s != nil {
			return strings.HasPrefix(s.Identifier, "docker-image://") || strings.HasPrefix(s.Identifier, "oci-layout://")
		}
		r, ok := g.base(id)
		if !ok || r.op == "" {
			return !ok
		}
		id = r.op
	}
}

// writer writes a definition of operations of a graph, some results of which are
// replaced by others.
type writer struct {
	g        *graph
	session  string // the one that files of this machine come from
	replaced map[result]*pb.Op
	names    map[result]string // of what stands for them, for people

	def  *pb.Definition
	done map[string]string // the new digest of an operation
}

func (g *graph) writer(session string) *writer {
	w := &writer{g: g, session: session, replaced: map[result]*pb.Op{}, names: map[result]string{}, done: map[string]string{}}
	w.def = &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: &pb.Source{Locations: map[string]*pb.Locations{}, Infos: g.source.GetInfos()}}
	return w
}

// add appends an operation.
func (w *writer) add(op *pb.Op, meta *pb.OpMetadata, at *pb.Locations) (string, error) {
	raw, err := op.Marshal()
	if err != nil {
		return "", err
	}
	id := digest.FromBytes(raw).String()
	if _, is := w.def.Metadata[id]; is {
		return id, nil
	}
	if meta == nil {
		meta = &pb.OpMetadata{}
	}
	w.def.Def = append(w.def.Def, raw)
	w.def.Metadata[id] = meta
	if at != nil {
		w.def.Source.Locations[id] = at
	}
	return id, nil
}

// input writes all that a result is made of and gives its new name.
func (w *writer) input(r result) (*pb.Input, error) {
	if op := w.replaced[r]; op != nil {
		id, err := w.add(op, named(w.names[r]), w.g.source.GetLocations()[r.op])
		return &pb.Input{Digest: id}, err
	}
	if id := w.done[r.op]; id != "" {
		return &pb.Input{Digest: id, Index: r.index}, nil
	}
	op := w.g.ops[r.op].CloneVT()
	for i, in := range op.Inputs {
		var err error
		if op.Inputs[i], err = w.input(result{in.Digest, in.Index}); err != nil {
			return nil, err
		}
	}
	if s := op.GetSource(); s != nil {
		for _, key := range []string{pb.AttrLocalSessionID, pb.AttrOCILayoutSessionID} {
			if _, is := s.Attrs[key]; is {
				s.Attrs[key] = w.session
			}
		}
	}
	id, err := w.add(op, w.g.meta[r.op], w.g.source.GetLocations()[r.op])
	w.done[r.op] = id
	return &pb.Input{Digest: id, Index: r.index}, err
}

// named is the name of an operation, for people.
func named(name string) *pb.OpMetadata {
	return &pb.OpMetadata{Description: map[string]string{"llb.customname": name}}
}

// end gives the definition of what was written, with this result. More can be written
// after it, for another one.
func (w *writer) end(in *pb.Input) (*pb.Definition, error) {
	raw, err := (&pb.Op{Inputs: []*pb.Input{in}}).Marshal()
	if err != nil {
		return nil, err
	}
	return &pb.Definition{Def: append(slices.Clip(w.def.Def), raw), Metadata: maps.Clone(w.def.Metadata), Source: w.def.Source}, nil
}
