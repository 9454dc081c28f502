package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/anyarch/anyarch/internal/ui"
)

// What anyarch means to reach.
const (
	coldFactor      = 1.03
	manyColdFactor  = 1.05 // of six platforms and more,
	manyColdMemory  = 0.5  // with this part of the floor's memory
	nothingSeconds  = 0.06 // one program, with a registry on loopback
	manySeconds     = 0.3
	nothingKoFactor = 20.0       // times as fast as ko with KOCACHE
	memoryLimit     = 64_000_000 // bytes

	dockerfileFactor  = 1.5
	dockerfileSeconds = 0.5
	dockerfileMemory  = 300_000_000
	emulatedFactor    = 10.0
	engineFactor      = 1.03
)

// oneLineFactor is what a changed line may take, in floors.
func oneLineFactor(module string, platforms int) float64 {
	switch {
	case module == "many":
		return 1.25
	case platforms > 2:
		return 1.15
	}
	return 1.10
}

// about says where figures come from.
type about struct {
	OS       string            `json:"os"`
	Arch     string            `json:"arch"`
	CPUs     int               `json:"cpus"`
	Time     time.Time         `json:"time"`
	Rounds   int               `json:"rounds"`
	Cold     int               `json:"cold"`
	Registry string            `json:"registry"`
	Tools    map[string]string `json:"tools"` // versions
	Skipped  []string          `json:"skipped,omitempty"`
}

// row is one tool in one scenario: medians over the rounds, ratios to the floor
// of the same round.
type row struct {
	Module    string  `json:"module"`
	Scenario  string  `json:"scenario"`
	Tool      string  `json:"tool"`
	Rounds    int     `json:"rounds"`
	Platforms int     `json:"platforms"`
	Wall      float64 `json:"wall"` // seconds
	XWall     float64 `json:"wallRatio"`
	CPU       float64 `json:"cpu"` // seconds
	XCPU      float64 `json:"cpuRatio"`
	Memory    int64   `json:"memory"`   // bytes, the highest of all rounds
	Together  int64   `json:"together"` // the same, of all processes; cold only
	XTogether float64 `json:"togetherRatio"`
	Uploaded  int64   `json:"uploaded"`
	Requests  int64   `json:"requests"`
	Others    float64 `json:"others"`

	late float64 // median of wall beyond dockerfileFactor floors, in seconds
	most int64   // the most that any round uploaded
}

// target is one goal with what was reached.
type target struct {
	Goal    string `json:"goal"`
	Module  string `json:"module"`
	Reached string `json:"reached"`
	Met     bool   `json:"met"`
}

type report struct {
	About   about    `json:"about"`
	Rows    []row    `json:"rows"`
	Targets []target `json:"targets"`
	Samples []sample `json:"samples"`
}

func newReport(samples []sample, a about) *report {
	rows := rowsOf(samples)
	return &report{About: a, Rows: rows, Targets: targetsOf(rows), Samples: samples}
}

// rowsOf puts samples together, in the order in which scenarios and tools
// first occur, except that cold and its tools start with the floor.
func rowsOf(samples []sample) []row {
	type key struct{ module, scenario, tool string }
	type round struct {
		module, scenario string
		round            int
	}
	floors := map[round]sample{}
	groups := map[key][]sample{}
	var order []key
	for _, s := range samples {
		if s.Tool == "floor" {
			floors[round{s.Module, s.Scenario, s.Round}] = s
		}
		k := key{s.Module, s.Scenario, s.Tool}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], s)
	}
	// Rotation and leaving out shuffle tools; the table shouldn't.
	position := map[string]int{}
	for _, k := range order {
		if _, seen := position[k.module+"/"+k.scenario]; !seen {
			position[k.module+"/"+k.scenario] = len(position)
		}
	}
	rank := map[string]int{"floor": 0, "anyarch": 1, "dockerfile": 2, "ko": 3, "ko-cache": 4, "buildah": 5, "buildkit": 6, "buildctl": 7, "engine": 8, "emulated": 9}
	slices.SortStableFunc(order, func(x, y key) int {
		if d := position[x.module+"/"+x.scenario] - position[y.module+"/"+y.scenario]; d != 0 {
			return d
		}
		return rank[x.tool] - rank[y.tool]
	})
	var rows []row
	for _, k := range order {
		group := groups[k]
		r := row{Module: k.module, Scenario: k.scenario, Tool: k.tool, Rounds: len(group)}
		var xwall, xcpu, xtogether, late []float64
		for _, s := range group {
			r.Platforms = s.Platforms
			r.Together = max(r.Together, s.Together)
			r.Memory, r.most = max(r.Memory, s.Memory), max(r.most, s.Uploaded)
			if f, ok := floors[round{s.Module, s.Scenario, s.Round}]; ok {
				if f.Wall > 0 {
					xwall = append(xwall, s.Wall/f.Wall)
				}
				if f.CPU > 0 {
					xcpu = append(xcpu, s.CPU/f.CPU)
				}
				if f.Together > 0 {
					xtogether = append(xtogether, float64(s.Together)/float64(f.Together))
				}
				late = append(late, s.Wall-dockerfileFactor*f.Wall)
			}
		}
		r.Wall = medianOf(group, func(s sample) float64 { return s.Wall })
		r.CPU = medianOf(group, func(s sample) float64 { return s.CPU })
		r.Others = medianOf(group, func(s sample) float64 { return s.Others })
		r.Uploaded = int64(medianOf(group, func(s sample) float64 { return float64(s.Uploaded) }))
		r.Requests = int64(medianOf(group, func(s sample) float64 { return float64(s.Requests) }))
		r.XWall, r.XCPU, r.XTogether, r.late = median(xwall), median(xcpu), median(xtogether), median(late)
		rows = append(rows, r)
	}
	return rows
}

func medianOf(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return median(values)
}

// median is the middle value, or the mean of the two middle ones; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// targetsOf compares the rows of anyarch with what is to be reached. Ratios
// hold for programs as people ship them; the large module is for memory.
func targetsOf(rows []row) []target {
	var list []target
	memory := map[string]int64{}
	kept := map[string]float64{} // seconds that ko takes with KOCACHE, by module
	for _, r := range rows {
		if r.Tool == "ko-cache" && r.Scenario == "nothing" {
			kept[r.Module] = r.Wall
		}
	}
	var modules []string
	for _, r := range rows {
		if r.Tool != "anyarch" {
			continue
		}
		if _, seen := memory[r.Module]; !seen {
			modules = append(modules, r.Module)
		}
		memory[r.Module] = max(memory[r.Module], r.Memory)
		switch {
		case r.Scenario == "nothing":
			limit := nothingSeconds
			if r.Module == "many" {
				limit = manySeconds
			}
			list = append(list, target{fmt.Sprintf("nothing: ≤ %.2f s", limit), r.Module, fmt.Sprintf("%.3f s", r.Wall), r.Wall <= limit})
			if other := kept[r.Module]; other > 0 {
				list = append(list, target{fmt.Sprintf("nothing: ≥ %.0f × as fast as ko with KOCACHE", nothingKoFactor), r.Module, fmt.Sprintf("%.1f ×", other/r.Wall), other >= nothingKoFactor*r.Wall})
			}
			list = append(list, target{"nothing: 0 bytes uploaded", r.Module, ui.Bytes(r.most), r.most == 0})
		case r.Module == "large":
		case r.Scenario == "cold":
			limit := coldFactor
			if r.Platforms >= 6 {
				limit = manyColdFactor
				if r.XTogether > 0 {
					list = append(list, target{fmt.Sprintf("cold, %d platforms: ≤ %.1f × the floor's memory", r.Platforms, manyColdMemory), r.Module, fmt.Sprintf("%.2f ×", r.XTogether), r.XTogether <= manyColdMemory})
				}
			}
			list = append(list, target{fmt.Sprintf("cold: ≤ %.2f × floor", limit), r.Module, fmt.Sprintf("%.3f ×", r.XWall), r.XWall <= limit})
		case r.Scenario == "one-line":
			limit := oneLineFactor(r.Module, r.Platforms)
			list = append(list, target{fmt.Sprintf("one-line: ≤ %.2f × floor", limit), r.Module, fmt.Sprintf("%.2f ×", r.XWall), r.XWall <= limit})
		}
	}
	for _, m := range modules {
		if memory[m] > 0 {
			list = append(list, target{"memory: ≤ 64 MB", m, fmt.Sprintf("%.0f MB", float64(memory[m])/1e6), memory[m] <= memoryLimit})
		}
	}
	return slices.Concat(list, dockerfileTargets(rows), sharedTargets(rows))
}

// dockerfileTargets are what builds of Dockerfiles mean to reach: beside go build,
// beside BuildKit with warm cache mounts, and beside an emulated build.
func dockerfileTargets(rows []row) []target {
	wall := map[string]float64{}
	for _, r := range rows {
		wall[r.Module+"/"+r.Scenario+"/"+r.Tool] = r.Wall
	}
	var list []target
	for _, r := range rows {
		where := r.Module + "/" + r.Scenario + "/"
		if other := wall[where+"buildctl"]; r.Tool == "engine" && other > 0 {
			list = append(list, target{fmt.Sprintf("engine, %s: ≤ %.2f × buildctl", r.Scenario, engineFactor), r.Module, fmt.Sprintf("%.2f ×", r.Wall/other), r.Wall <= engineFactor*other})
		}
		if r.Tool != "dockerfile" {
			continue
		}
		name := "dockerfile, " + r.Scenario + ": "
		if r.Scenario == "cold" {
			list = append(list, target{name + fmt.Sprintf("≤ %.2f × floor", coldFactor), r.Module, fmt.Sprintf("%.2f ×", r.XWall), r.XWall <= coldFactor})
		} else {
			list = append(list, target{name + fmt.Sprintf("≤ %.1f × floor + %.1f s", dockerfileFactor, dockerfileSeconds), r.Module,
				fmt.Sprintf("%.1f × floor %+.2f s", dockerfileFactor, r.late), r.late <= dockerfileSeconds})
		}
		if other := wall[where+"buildkit"]; other > 0 && r.Scenario != "cold" {
			list = append(list, target{name + "no slower than BuildKit", r.Module, fmt.Sprintf("%.1f times as fast", other/r.Wall), other >= r.Wall})
		}
		if other := wall[where+"emulated"]; other > 0 {
			list = append(list, target{name + fmt.Sprintf("≥ %.0f × as fast as emulated", emulatedFactor), r.Module, fmt.Sprintf("%.1f ×", other/r.Wall), other >= emulatedFactor*r.Wall})
		}
		list = append(list, target{name + "memory ≤ 300 MB", r.Module, fmt.Sprintf("%.0f MB", float64(r.Memory)/1e6), r.Memory <= dockerfileMemory})
	}
	return list
}

func (r *report) print(w io.Writer) error {
	a := r.About
	fmt.Fprintf(w, "\n%s/%s, %d CPUs, %d warm and %d cold rounds, registry %s\n", a.OS, a.Arch, a.CPUs, a.Rounds, a.Cold, a.Registry)
	for _, name := range slices.Sorted(maps.Keys(a.Tools)) {
		fmt.Fprintf(w, "  %s: %s\n", name, a.Tools[name])
	}
	for _, text := range a.Skipped {
		fmt.Fprintf(w, "  %s\n", ui.Clean(text))
	}
	fmt.Fprintln(w)
	style := ui.NewStyle(os.Getenv, ui.ColorNever, false, "")
	t := ui.NewTable(style, 0, "module", "scenario", "tool", "wall", "× floor", "CPU", "× floor", "memory", "together", "uploaded", "requests", "others")
	last := ""
	for _, row := range r.Rows {
		group := row.Module + "/" + row.Scenario
		module, scenario := row.Module, row.Scenario
		if group == last {
			module, scenario = "", ""
		}
		last = group
		cells := []string{module, scenario, row.Tool,
			fmt.Sprintf("%.2f s", row.Wall), fmt.Sprintf("%.2f", row.XWall), fmt.Sprintf("%.2f s", row.CPU), fmt.Sprintf("%.2f", row.XCPU)}
		memory, others := "", ""
		if row.Memory > 0 {
			memory = fmt.Sprintf("%.0f MB", float64(row.Memory)/1e6)
		}
		if row.Others >= 0 {
			others = fmt.Sprintf("%.2f", row.Others)
		}
		together := ""
		if row.Together > 0 {
			together = fmt.Sprintf("%.0f MB", float64(row.Together)/1e6)
		}
		cells = append(cells, memory, together)
		if row.Tool == "floor" {
			cells = append(cells, "", "")
		} else {
			cells = append(cells, ui.Bytes(row.Uploaded), fmt.Sprint(row.Requests))
		}
		t.Row(append(cells, others)...)
	}
	if _, err := t.WriteTo(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = ui.NewTable(style, 0, "target", "module", "reached", "")
	for _, goal := range r.Targets {
		met := "met"
		if !goal.Met {
			met = "not met"
		}
		t.Row(goal.Goal, goal.Module, goal.Reached, met)
	}
	_, err := t.WriteTo(w)
	return err
}

func (r *report) save(file string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
