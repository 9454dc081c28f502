package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/buildkit"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// engine is what executes a Dockerfile: one of native and kit is set.
type engine struct {
	in     *dockerInput
	native *dockerBuild
	kit    *buildkit.Build
	nodes  []*buildkit.Node
	why    string // where it wasn't the user who chose

	a     *app
	b     *buildFlags
	event progress.Sink
}

// close ends connections and removes what was made for this run alone.
func (e *engine) close() {
	if e.native != nil {
		_ = e.native.build.Close()
	}
	for _, n := range e.nodes {
		_ = n.Close()
	}
	e.in.close()
}

// openEngine reads a Dockerfile and chooses what executes it. With check set, whatever
// the native engine would refuse is refused here, or given to BuildKit.
func (a *app) openEngine(ctx context.Context, b *buildFlags, targets []string, event progress.Sink, bases *base.Resolver, check bool) (_ *engine, err error) {
	e := &engine{a: a, b: b, event: event}
	if e.in, err = a.readDockerfile(ctx, b, targets, event, bases); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	only := b.docker.kit.wanted(b.docker.network)
	switch b.docker.engine {
	case "native":
		if only != "" {
			return nil, &refusal.Error{Code: "PA148", Kind: refusal.Usage, Place: only, Summary: "only BuildKit can do this", Fix: []string{"--engine buildkit"}}
		}
		return e, e.openNative(ctx, bases, check)
	case "buildkit":
		return e, e.openBuildKit(ctx, "", true)
	}
	if only != "" {
		return e, e.openBuildKit(ctx, only+" is BuildKit's", true)
	}
	err = e.openNative(ctx, bases, true)
	switch {
	case err != nil && forBuildKit(err):
		err = e.instead(ctx, err, check)
	case err != nil && e.native != nil && !check:
		err = nil // plan shows the refusals itself
	}
	return e, err
}

func (e *engine) openNative(ctx context.Context, bases *base.Resolver, check bool) (err error) {
	if e.native, err = e.a.prepareNative(ctx, e.b, e.in, e.event, bases); err != nil || !check {
		return err
	}
	return e.native.build.Check(ctx)
}

// forBuildKit reports whether BuildKit could do what the native engine refuses: all of
// it. A secret that isn't given, or a mistake in the Dockerfile, is the same to both.
func forBuildKit(err error) bool {
	list := refusal.All(err)
	return len(list) > 0 && !slices.ContainsFunc(list, func(r *refusal.Error) bool {
		return !slices.Contains([]string{"PA101", "PA103", "PA120", "PA130", "PA131", "PA133", "PA148", "PA160"}, r.Code) && !errors.Is(r, dockerfile.ErrFrontEnd)
	})
}

// instead turns to BuildKit after a refusal of the native engine, if a builder is
// configured and answers; otherwise the refusal stands.
func (e *engine) instead(ctx context.Context, refused error, check bool) error {
	list := refusal.All(refused)
	why := fmt.Sprintf("the native engine refuses %s: %s", list[0].Place, list[0].Summary)
	if len(list) > 1 {
		why += fmt.Sprintf(", and %d more", len(list)-1)
	}
	endpoints, err := e.a.endpoints(ctx, e.b)
	if err != nil {
		return err
	}
	if len(endpoints) == 0 {
		if !check && e.native != nil {
			return nil // plan shows the refusals itself
		}
		e.a.offerBuilder(list)
		return refused
	}
	native := e.native
	if err := e.openBuildKit(ctx, why, false); err != nil {
		for _, r := range refusal.All(err) {
			if r.Code == "PA141" || r.Code == "PA144" {
				e.event.Warn("", "", fmt.Sprintf("%s %s: %s", r.Code, r.Place, r.Summary))
				e.native = native
				return refused
			}
		}
		return err
	}
	if native != nil {
		_ = native.build.Close()
	}
	return nil
}

// offerBuilder says what makes BuildKit do what the native engine refuses, where a daemon
// is installed that could be started. It isn't started unasked.
func (a *app) offerBuilder(refused []*refusal.Error) {
	if _, err := a.LookPath("buildkitd"); err != nil {
		return
	}
	for _, r := range refused {
		for _, fix := range []string{"--engine buildkit", "anyarch builder start"} {
			if !slices.Contains(r.Fix, fix) {
				r.Fix = append(slices.Clip(r.Fix), fix)
			}
		}
	}
}

// openBuildKit connects to the builders. why says what it was chosen for, if it wasn't
// the user who did.
func (e *engine) openBuildKit(ctx context.Context, why string, start bool) error {
	endpoints, err := e.a.endpoints(ctx, e.b)
	if err != nil {
		return err
	}
	if len(endpoints) == 0 && start {
		if endpoints, err = e.a.ownBuilder(ctx, e.event); err != nil {
			return err
		}
	}
	if e.nodes, err = e.a.connect(ctx, endpoints, e.event); err != nil {
		return err
	}
	if e.kit, err = e.a.prepareBuildKit(e.b, e.in, e.nodes, e.event); err != nil {
		return err
	}
	e.native, e.why = nil, why
	if why != "" {
		e.event.Note("", "", progress.Resolve, "engine buildkit: "+why)
	}
	return nil
}

// run runs the pipeline. What the native engine can only see while it runs, such as a
// command whose name is computed, sends everything to BuildKit after all: nothing is
// published by then.
func (e *engine) run(ctx context.Context, run func(build func(context.Context, platform.Platform) (*pipeline.Built, error)) (*pipeline.Outcome, error)) (*pipeline.Outcome, error) {
	if e.native != nil {
		outcome, err := run(e.native.builder)
		if err == nil || e.b.docker.engine == "native" || !forBuildKit(err) {
			return outcome, err
		}
		if err := e.instead(ctx, err, true); err != nil {
			return nil, err
		}
	}
	return run(byBuildKit(e.kit))
}
