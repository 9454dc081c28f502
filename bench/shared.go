package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/ui"
)

// What a shared build cache, kept results of Dockerfile steps and the chosen levels of
// compression are meant to reach.
const (
	sharedFactor = 0.25 // of anyarch's own cold build
	rebuildWall  = 0.15 // seconds, for a Dockerfile of which nothing has changed
	gzipFactor   = 0.93 // of ko's bytes
	zstdFactor   = 0.89
	sharedTool   = "shared" // anyarch --cache on a machine that has nothing itself
	zstdTool     = "zstd"   // anyarch --compression zstd
)

// oursWith is anyarch with further flags.
func (b *bench) oursWith(name string, flags func(m *module) []string) *tool {
	return &tool{
		name: name, version: []string{b.anyarch, "version"}, pushes: true,
		build: func(ctx context.Context, w *meter, m *module, state string) error {
			env := b.env(state, "ANYARCH_CACHE="+filepath.Join(state, "anyarch"))
			args := slices.Concat([]string{b.anyarch, "publish"}, m.mains, []string{
				"--platform", strings.Join(m.platforms, ","), "--ldflags", ldflags,
				"-t", b.repository(name, m, state) + "/{{.Name}}:bench",
			}, flags(m))
			return w.run(ctx, m.dir, env, args...)
		},
	}
}

// shared is a fresh CI runner whose build cache is in the registry, filled by a run
// before.
func (b *bench) shared() *tool {
	place := func(m *module) string { return fmt.Sprintf("%s/%s/%s:main", b.registry.addr, sharedTool, m.name) }
	t := b.oursWith(sharedTool, func(m *module) []string { return []string{"--cache", place(m) + ",mode=ro"} })
	filled := map[string]bool{}
	t.before = func(ctx context.Context, m *module) error {
		if filled[m.name] {
			return nil
		}
		filled[m.name] = true
		b.say("%s: the shared build cache is filled", m.name)
		// Whoever fills it has what the floor has compiled.
		env := b.env(filepath.Join(b.dir, "state", m.name, "filler"), "GOCACHE="+goCache(filepath.Join(b.dir, "state", m.name, "floor", "0")))
		args := slices.Concat([]string{b.anyarch, "publish"}, m.mains, []string{
			"--platform", strings.Join(m.platforms, ","), "--ldflags", ldflags, "--cache", place(m),
			"-t", fmt.Sprintf("%s/filler/%s/{{.Name}}:bench", b.registry.addr, m.name),
		})
		_, err := output(ctx, m.dir, env, args...)
		return err
	}
	return t
}

// zstd is anyarch with the other compression.
func (b *bench) zstd() *tool {
	return b.oursWith(zstdTool, func(*module) []string { return []string{"--compression", "zstd"} })
}

// sharedTargets compare rows of these tools with each other and with ko.
func sharedTargets(rows []row) []target {
	find := func(r row, tool string) *row {
		at := slices.IndexFunc(rows, func(o row) bool { return o.Module == r.Module && o.Scenario == r.Scenario && o.Tool == tool })
		if at < 0 {
			return nil
		}
		return &rows[at]
	}
	var list []target
	for _, r := range rows {
		switch {
		case r.Tool == sharedTool && r.Scenario == "cold":
			if cold := find(r, "anyarch"); cold != nil && cold.Wall > 0 {
				x := r.Wall / cold.Wall
				list = append(list, target{fmt.Sprintf("cold with a shared build cache: ≤ %.2f × cold", sharedFactor), r.Module, fmt.Sprintf("%.2f ×", x), x <= sharedFactor})
			}
		case r.Tool == "dockerfile" && r.Scenario == "nothing" && r.Module != "many":
			list = append(list, target{fmt.Sprintf("dockerfile, nothing: ≤ %.2f s + network", rebuildWall), r.Module, fmt.Sprintf("%.2f s", r.Wall), r.Wall <= rebuildWall})
		case (r.Tool == "anyarch" || r.Tool == zstdTool) && r.Scenario == "one-line":
			factor := gzipFactor
			if r.Tool == zstdTool {
				factor = zstdFactor
			}
			if ko := find(r, "ko"); ko != nil && ko.Uploaded > 0 {
				x := float64(r.Uploaded) / float64(ko.Uploaded)
				list = append(list, target{fmt.Sprintf("bytes of %s: ≤ %.2f × ko", r.Tool, factor), r.Module, fmt.Sprintf("%.3f × (%s)", x, ui.Bytes(r.Uploaded)), x <= factor})
			}
		}
	}
	return list
}
