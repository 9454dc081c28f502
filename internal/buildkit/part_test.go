package buildkit

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	caps "github.com/moby/buildkit/util/apicaps/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
)

var (
	amd = platform.Platform{OS: "linux", Architecture: "amd64"}
	arm = platform.Platform{OS: "linux", Architecture: "arm64"}
)

func testNode(name string, native, emulated []platform.Platform) *Node {
	return &Node{Endpoint: Endpoint{Address: name}, Native: native, Emulated: emulated}
}

// dockerfileLines stands for a Dockerfile whose instructions are looked up.
var dockerfileLines = llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte("RUN cross\nCOPY --from=cross /app /\nRUN app\n"))

func at(line int32) llb.ConstraintsOpt {
	return dockerfileLines.Location([]*pb.Range{{Start: &pb.Position{Line: line}, End: &pb.Position{Line: line}}})
}

// stage makes a stage of a platform's image.
func stage(p platform.Platform) llb.State { return llb.Image("base", llb.Platform(p.OCI())) }

// run runs a program of a platform in a stage.
func run(s llb.State, p platform.Platform, name string, opts ...llb.RunOption) llb.State {
	return s.Run(append([]llb.RunOption{llb.Args([]string{name}), llb.Platform(p.OCI()), at(int32(len(name)))}, opts...)...).Root()
}

func graphOf(t *testing.T, s llb.State) *graph {
	t.Helper()
	d, err := s.Marshal(t.Context(), llb.Platform(arm.OCI()))
	if err != nil {
		t.Fatal(err)
	}
	g, err := readGraph(d.ToPB(), "")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestAssign says who makes what, for graphs of all shapes.
func TestAssign(t *testing.T) {
	t.Parallel()
	first := testNode("first", []platform.Platform{amd}, []platform.Platform{arm})
	second := testNode("second", []platform.Platform{arm}, nil)
	third := testNode("third", []platform.Platform{arm}, nil)
	emulator := testNode("emulator", nil, []platform.Platform{amd, arm})
	nodes := []*Node{first, second, third}
	cross := run(stage(amd), amd, "cross")
	copied := func(s llb.State) llb.State { return stage(arm).File(llb.Copy(s, "/app", "/app")) }
	selected := func(s llb.State, opts ...llb.MountOption) llb.RunOption { return llb.AddMount("/mnt", s, opts...) }
	for _, c := range []struct {
		name  string
		state llb.State
		nodes []*Node
		node  *Node
		parts string // lines of the operations at which it is taken apart, and who makes them
	}{
		{"copied from", run(copied(cross), arm, "app"), nodes, second, "first:5"},
		{"nothing runs at the end", copied(cross), nodes, second, "first:5"},
		{"nothing else runs", run(stage(arm), arm, "app"), nodes, second, ""},
		{"mounted in part", run(stage(arm), arm, "app", selected(cross, llb.SourcePath("/out"), llb.Readonly)), nodes, second, "first:5"},
		{"mounted with its base", run(stage(arm), arm, "app", selected(cross, llb.Readonly)), nodes, second, ""},
		{"mounted, on nothing", run(stage(arm), arm, "app", selected(run(llb.Scratch(), amd, "cross"), llb.Readonly)), nodes, second, "first:5"},
		{"a mount that is kept", llb.Scratch().File(llb.Copy(stage(arm).Run(llb.Args([]string{"app"}), llb.Platform(arm.OCI())).AddMount("/mnt", cross), "/a", "/a")), nodes, second, ""},
		{"linked", run(llb.Merge([]llb.State{stage(arm), llb.Scratch().File(llb.Copy(cross, "/app", "/app"))}), arm, "app"), nodes, second, "first:5"},
		{"through another stage", run(copied(llb.Scratch().File(llb.Copy(cross, "/app", "/app"))), arm, "app"), nodes, second, "first:0"},
		{"a stage of both", run(copied(run(stage(arm).File(llb.Copy(cross, "/app", "/app")), arm, "strip")), arm, "app"), nodes, second, "first:5"},
		{"stood on, too", run(cross.File(llb.Copy(cross, "/app", "/b")), arm, "app"), nodes, second, ""},
		{"only one node is left", run(copied(cross), arm, "app"), nodes[1:2], second, ""},
		{"the first node is lost", run(copied(cross), arm, "app"), []*Node{third, testNode("other", []platform.Platform{amd}, nil)}, third, "other:5"},
		{"an emulator is left", run(copied(cross), arm, "app"), []*Node{testNode("fast", []platform.Platform{amd}, nil), emulator}, emulator, "fast:5"},
		{"nobody is left", run(copied(cross), arm, "app"), []*Node{testNode("fast", []platform.Platform{amd}, nil)}, nil, ""},
		{"the other way round", copied(cross), []*Node{second, first}, second, "first:5"},
	} {
		a := assign(graphOf(t, c.state), arm, c.nodes, true)
		g := graphOf(t, c.state)
		var parts []string
		for _, part := range a.parts {
			line := g.place(part.op, "0")
			parts = append(parts, part.node.Address+":"+line[max(0, strings.LastIndex(line, ":")+1):])
		}
		if a.node != c.node || strings.Join(parts, " ") != c.parts {
			t.Errorf("%s: %+v, parts %q, want %q", c.name, a.node, parts, c.parts)
		}
	}
	second.busy.Store(1)
	if a := assign(graphOf(t, run(copied(cross), arm, "app")), arm, nodes, true); a.node != third {
		t.Errorf("the idle one of two: %+v", a.node)
	}
	if a := assign(graphOf(t, run(copied(cross), arm, "app")), arm, nodes, false); a.node != third || len(a.parts) > 0 {
		t.Errorf("all in one place, for its provenance: %+v", a)
	}
}

// TestWriter writes a graph with a part replaced: nothing of the part is left, and what
// is around it keeps its names and places.
func TestWriter(t *testing.T) {
	t.Parallel()
	local := llb.Local("context", llb.SessionID("old"))
	cross := run(stage(amd).File(llb.Copy(local, "/", "/src")), amd, "cross")
	g := graphOf(t, run(llb.Scratch().File(llb.Copy(cross, "/app", "/app")).File(llb.Copy(local, "/", "/")), arm, "app", llb.WithCustomName("the app")))
	parts, _ := g.parts([]*Node{testNode("first", []platform.Platform{amd}, nil)})
	if len(parts) != 1 {
		t.Fatalf("%d parts", len(parts))
	}
	w := g.writer("new")
	w.replaced[parts[0].result] = handedOver(arm, "sha256:1234")
	in, err := w.input(g.result)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.end(in)
	if err != nil {
		t.Fatal(err)
	}
	after, err := readGraph(d, "new")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, id := range after.order {
		op := after.ops[id]
		text += op.String() + after.meta[id].String() + after.place(id, "Dockerfile") + "\n"
	}
	for _, want := range []string{"sha256:1234", "the app", "Dockerfile:3", "new", "linux"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is lost:\n%s", want, text)
		}
	}
	for _, no := range []string{`"cross"`, "old", "docker-image"} {
		if strings.Contains(text, no) {
			t.Errorf("%s is left:\n%s", no, text)
		}
	}
}

// TestOlder sees that a daemon doesn't know what another one's front end asks for.
func TestOlder(t *testing.T) {
	t.Parallel()
	g := graphOf(t, run(stage(arm), arm, "app", llb.Network(pb.NetMode_NONE)))
	w := g.writer("")
	in, err := w.input(g.result)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.end(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := knows(pb.Caps.CapSet(pb.Caps.All()), d); err != nil {
		t.Error(err)
	}
	all := slices.DeleteFunc(pb.Caps.All(), func(c *caps.APICap) bool { return c.ID == string(pb.CapExecMetaNetwork) })
	if err := knows(pb.Caps.CapSet(all), d); !errors.Is(err, errOlder) {
		t.Error(err)
	}
}

// TestPlaces says which instruction brought a layer, and nothing where that isn't certain.
func TestPlaces(t *testing.T) {
	t.Parallel()
	g := graphOf(t, run(stage(arm).File(llb.Copy(llb.Scratch(), "/app", "/"), at(2)), arm, "app"))
	layers := func(history ...string) (list []image.Layer) {
		for i, h := range history {
			list = append(list, image.Layer{Descriptor: ocispec.Descriptor{Digest: []ocispec.Descriptor{{Digest: "sha256:1"}, {Digest: "sha256:2"}, {Digest: "sha256:3"}}[i].Digest}, History: ocispec.History{CreatedBy: h}})
		}
		return list
	}
	for _, c := range []struct {
		history []string
		want    string
	}{
		{[]string{"COPY /app / # buildkit", "RUN app # buildkit"}, "Dockerfile:2 Dockerfile:3"},
		{[]string{"COPY /app / # buildkit", "CMD app"}, "Dockerfile:2 "},
		{[]string{"COPY /app / # buildkit"}, " "},
		{[]string{"ADD x", "COPY /app / # buildkit", "RUN app # buildkit"}, " "},
	} {
		got := g.places(layers(c.history...), "Dockerfile")
		if text := got["sha256:1"] + " " + got["sha256:2"]; text != c.want {
			t.Errorf("%q: %q, want %q", c.history, text, c.want)
		}
	}
	if slices.Contains(g.order, "") {
		t.Error("an operation without a name")
	}
}
