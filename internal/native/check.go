package native

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Check finds everything in the graphs that can't be done exactly, before
// anything is downloaded but the configs of the bases. The error is a
// refusal.Error or a refusal.List, in the order of the Dockerfile.
func (b *Build) Check(ctx context.Context) error {
	type found struct {
		line int
		*refusal.Error
	}
	var all []found
	seen := map[string]bool{}
	for _, g := range b.graphs {
		stages := map[*dockerfile.Op]*stage{}
		for _, op := range g.Ops {
			st, err := b.checkedStage(ctx, g, op, stages)
			if err != nil {
				return err
			}
			stages[op] = st
			for _, r := range b.checkOp(g, op, st) {
				key := fmt.Sprintf("%s %s %s", r.Code, r.Place, r.Summary)
				if !seen[key] {
					seen[key] = true
					all = append(all, found{op.Line(), r})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(x, y found) int { return x.line - y.line })
	var refused refusal.Collect
	for _, f := range all {
		refused.Add(f.Error)
	}
	return refused.Err()
}

// checkedStage tells what stage an operation is in, without reading any file.
func (b *Build) checkedStage(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, stages map[*dockerfile.Op]*stage) (*stage, error) {
	switch {
	case op.Source != nil && op.Source.Image != "":
		p := g.Platform
		if op.Platform != nil {
			p = *op.Platform
		}
		img, err := b.o.Image(ctx, op.Source.Image, p)
		if err != nil {
			return nil, b.locate(op, err)
		}
		st := &stage{image: img, ref: op.Source.Image, goBuilder: goVersion(img.Config.Config.Env) != "", pinned: b.pinned(g, op), dialect: command.GNU}
		if isAlpine(op.Source.Image, img) {
			st.dialect = command.Busybox
		}
		return st, nil
	case op.Exec != nil:
		for _, m := range op.Exec.Mounts {
			if m.Target == "/" && m.Input >= 0 && m.Input < len(op.Inputs) {
				return stages[op.Inputs[m.Input].Op], nil
			}
		}
	case len(op.File) > 0:
		if at := baseInput(op.File, op.File[len(op.File)-1].Output, len(op.Inputs)); at >= 0 {
			return stages[op.Inputs[at].Op], nil
		}
	case op.Merge && len(op.Inputs) > 0:
		return stages[op.Inputs[0].Op], nil
	}
	return nil, nil
}

// checkOp finds what of one operation can't be done.
func (b *Build) checkOp(g *dockerfile.Graph, op *dockerfile.Op, st *stage) []*refusal.Error {
	place := b.place(op)
	var list []*refusal.Error
	if s := op.Source; s != nil && s.Image == "" && s.Local == nil && s.HTTP == nil {
		list = append(list, b.refuse("PA101", place, "", fmt.Sprintf("files can't be had from %s natively", s.Identifier), "COPY them from the context instead", otherEngine))
	}
	e := op.Exec
	if e == nil {
		return list
	}
	for _, m := range e.Mounts {
		if m.Kind == dockerfile.MountSSH {
			list = append(list, b.refuse("PA101", place, "", "RUN --mount=type=ssh: no agent of this machine is given to a build", "--mount=type=secret with a token, and GOPRIVATE", otherEngine))
		}
		if m.Kind == dockerfile.MountSecret && !m.Optional && b.o.Secrets[m.ID] == nil {
			list = append(list, b.refuse("PA102", place, "", fmt.Sprintf("the secret %s isn't given", m.ID), fmt.Sprintf("--secret id=%s,src=FILE", m.ID)))
		}
	}
	for _, s := range e.SecretEnv {
		if !s.Optional && b.o.Secrets[s.ID] == nil {
			list = append(list, b.refuse("PA102", place, "", fmt.Sprintf("the secret %s isn't given", s.ID), fmt.Sprintf("--secret id=%s,env=%s", s.ID, s.Name)))
		}
	}
	if e.Insecure {
		list = append(list, b.refuse("PA101", place, "", "RUN --security=insecure can't be done natively", otherEngine))
	}
	if e.Devices {
		list = append(list, b.refuse("PA101", place, "", "RUN --device can't be done natively", otherEngine))
	}
	in := &invocation{b: b, op: op, exec: e, stage: st, deferred: &deferrals{}, platform: g.Platform, target: g.Platform}
	if op.Platform != nil {
		in.platform = *op.Platform
	}
	if version := first(b.o.GoVersion, goVersion(e.Env)); version != "" && b.o.CheckToolchain != nil && callsGo(e) {
		if err := b.o.CheckToolchain(version); err != nil {
			for _, r := range refusal.All(err) {
				r.Place = place
				list = append(list, r)
			}
		}
	}
	list = append(list, b.checkScript(g, in)...)
	if st != nil && st.goBuilder && !st.pinned {
		list = append(list, b.hardCoded(g, op)...)
	}
	return list
}

// checkScript finds what of a RUN's script can't be done: by the interpreter, or by
// programs of the stage's base where those may run.
func (b *Build) checkScript(g *dockerfile.Graph, in *invocation) []*refusal.Error {
	op, known := in.op, in.commandSet()
	script := in.stage.script(in.exec)
	problems := shell.Check(script, func(name string) (*command.Command, bool) {
		c, ok := known[name]
		return c, ok
	})
	if len(problems) == 0 {
		return nil
	}
	var list []*refusal.Error
	if u := b.cantHost(g, op); u != nil || in.stage == nil {
		for _, p := range problems {
			if p.Unsupported.What == notThere && u != nil {
				list = append(list, b.refuseHost(op, b.placeOf(op, p), p.Word, u))
				continue
			}
			list = append(list, b.refuseCommand(b.placeOf(op, p), p.Unsupported))
		}
		return list
	}
	_, programs, refused := in.hostedProblems(script)
	for _, p := range refused {
		list = append(list, b.refuseCommand(b.placeOf(op, p), p.Unsupported))
	}
	if len(programs)+len(refused) == 0 {
		programs = problems // of commands of ours, which the stage's own programs do instead
	}
	if len(programs) > 0 {
		b.host(op)
		for _, p := range programs {
			b.saysHosted(op, b.placeOf(op, p), first(p.Word, p.Unsupported.Command))
		}
	}
	return list
}

// placeOf is the line of the Dockerfile that a problem of a script is in.
func (b *Build) placeOf(op *dockerfile.Op, p shell.Problem) string {
	if len(op.Lines) > 1 && p.Word != "" {
		// The lines of the instruction follow one another; a script that was
		// continued with backslashes is one line for the shell.
		source := b.lines()
		for _, r := range op.Lines {
			for n := r.Start; n <= r.End && n <= len(source); n++ {
				if strings.Contains(source[n-1], p.Word) {
					return fmt.Sprintf("%s:%d", b.o.Dockerfile, n)
				}
			}
		}
	}
	return b.place(op)
}

// lines are those of the Dockerfile.
func (b *Build) lines() []string { return strings.Split(string(b.o.DockerfileText), "\n") }

// hardCoded finds a GOOS or GOARCH that contradicts the platform, where a go
// command builds: in the instruction's environment or written before the command.
func (b *Build) hardCoded(g *dockerfile.Graph, op *dockerfile.Op) []*refusal.Error {
	if b.o.OverrideArch {
		return nil
	}
	var list []*refusal.Error
	for _, c := range goBuilds(op.Exec) {
		for _, v := range [][2]string{{"GOOS", g.Platform.OS}, {"GOARCH", g.Platform.Architecture}} {
			if got := c[v[0]]; got != "" && got != v[1] {
				place := b.placeOf(op, shell.Problem{Word: v[0] + "=" + got})
				list = append(list, b.contradiction(place, g.Platform, v[0], got, v[1]))
			}
		}
	}
	return list
}
