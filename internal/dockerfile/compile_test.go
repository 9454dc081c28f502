package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// resolve is a registry that has every image, as golang and alpine are.
func resolve(_ context.Context, ref string, p platform.Platform) (ImageConfig, error) {
	config := ocispec.Image{Platform: p.OCI(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(ref)}}}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if strings.Contains(ref, "golang") {
		config.Config.Env = []string{"PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin", "GOLANG_VERSION=1.25.4", "GOPATH=/go"}
		config.Config.WorkingDir = "/go"
	}
	data, err := json.Marshal(config)
	d := digest.FromString(ref + p.String())
	return ImageConfig{Ref: ref + "@" + d.String(), Digest: d, Config: data}, err
}

func compile(t *testing.T, text string, p platform.Platform, change func(*Options)) (*Graph, error) {
	t.Helper()
	o := Options{
		Name: "Dockerfile", Data: []byte(text), Platform: p, BuildPlatform: platform.Platform{OS: "linux", Architecture: "amd64"},
		Resolve: resolve, Ignore: func(context.Context, string) ([]byte, error) { return []byte(".git\n"), nil },
	}
	if change != nil {
		change(&o)
	}
	return Compile(t.Context(), o)
}

var (
	amd64 = platform.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = platform.Platform{OS: "linux", Architecture: "arm64"}
)

// TestGolden keeps what BuildKit's compiler makes of a Dockerfile with every
// kind of instruction: an upgrade that changes it must be seen.
func TestGolden(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "all.Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := compile(t, string(text), arm64, func(o *Options) {
		o.BuildArgs = map[string]string{"VERSION": "1.2.3"}
		o.Labels = map[string]string{"team": "x"}
		o.Contexts = map[string]string{"extra": "local:extra"}
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(plain(g), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "all.json")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the graph differs from %s; run with UPDATE=1 and read the difference\n%s", golden, got)
	}
}

// plain is a graph as a list without pointers.
func plain(g *Graph) any {
	type op struct {
		Name     string
		Stage    string
		Platform string
		Lines    []Range
		Inputs   []int
		Source   *Source      `json:",omitempty"`
		Exec     *Exec        `json:",omitempty"`
		File     []FileAction `json:",omitempty"`
		Merge    bool         `json:",omitempty"`
	}
	at := map[*Op]int{}
	var list []op
	for i, o := range g.Ops {
		at[o] = i
		n := op{Name: o.Name, Stage: o.Stage, Lines: o.Lines, Source: o.Source, Exec: o.Exec, File: o.File, Merge: o.Merge}
		if o.Platform != nil {
			n.Platform = o.Platform.String()
		}
		for _, in := range o.Inputs {
			n.Inputs = append(n.Inputs, at[in.Op])
		}
		list = append(list, n)
	}
	return struct {
		Ops      []op
		Config   json.RawMessage
		Warnings []Warning
	}{list, g.Config, g.Warnings}
}

// TestSameOnEveryPlatform is what sharing steps between platforms rests on.
func TestSameOnEveryPlatform(t *testing.T) {
	t.Parallel()
	text := "FROM --platform=$BUILDPLATFORM golang:1.25 AS build\nWORKDIR /src\nCOPY . .\nRUN go mod download\nARG TARGETARCH\nRUN GOARCH=$TARGETARCH go build -o /app\nFROM scratch\nCOPY --from=build /app /app\n"
	a, err := compile(t, text, amd64, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := compile(t, text, arm64, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, o := range a.Ops {
		keys[o.Key] = true
	}
	for _, o := range b.Ops {
		line := o.Line()
		if shared := keys[o.Key]; shared != (line <= 4) {
			t.Errorf("line %d %s: shared is %v", line, o.Name, shared)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, place, summary string }{
		{"unknown instruction", "FROM scratch\nRUNN x\n", "Dockerfile:2", "unknown instruction: RUNN"},
		{"no stage", "ARG A=1\n", "Dockerfile", "no stages"},
		{"empty", "", "Dockerfile", "cannot be empty"},
		{"cycle", "FROM scratch AS a\nCOPY --from=b /x /x\nFROM scratch AS b\nCOPY --from=a /x /x\n", "Dockerfile:", "circular dependency"},
		{"frontend", "# syntax=evil.example/frontend:1\nFROM scratch\n", "Dockerfile:1", "another front end"},
		{"target", "FROM scratch AS a\n", "Dockerfile", "target stage \"zzz\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := compile(t, test.text, amd64, func(o *Options) {
				if test.name == "target" {
					o.Target = "zzz"
				}
			})
			var r *refusal.Error
			if !errors.As(err, &r) {
				t.Fatalf("no refusal but %v", err)
			}
			if r.Code != "PA106" || !strings.HasPrefix(r.Place, test.place) || !strings.Contains(r.Summary, test.summary) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("FROM golang\nRUN go build\nFROM scratch\nCOPY --from=0 /a /b\n")
	f.Add("FROM alpine\nRUN --mount=type=secret,id=x cat /run/secrets/x\nCOPY <<EOF /x\nhi\nEOF\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Compile(t.Context(), Options{
			Name: "Dockerfile", Data: []byte(text), Platform: arm64, BuildPlatform: amd64,
			Resolve: resolve, Ignore: func(context.Context, string) ([]byte, error) { return nil, nil },
		})
	})
}
