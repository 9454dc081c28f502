package buildkit

import (
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/image"
)

// places tells which instructions brought the layers of an image that aren't its base's,
// by digest. The operations that the result stands on and the layers have the same order;
// if there aren't as many of both, or the history tells of another instruction than the
// one at that line, nothing is said.
func (g *graph) places(layers []image.Layer, dockerfile string) map[string]string {
	var chain []string
	for id := g.result.op; id != ""; {
		r, ok := g.base(id)
		if !ok {
			break
		}
		chain = append(chain, id)
		id = r.op
	}
	if len(chain) != len(layers) {
		return nil
	}
	slices.Reverse(chain)
	out := map[string]string{}
	for i, id := range chain {
		line, text := g.line(id)
		instruction, _, _ := strings.Cut(strings.TrimSpace(text), " ")
		if line > 0 && instruction != "" && strings.HasPrefix(layers[i].History.CreatedBy, strings.ToUpper(instruction)+" ") {
			out[layers[i].Descriptor.Digest.String()] = g.place(id, dockerfile)
		}
	}
	return out
}
