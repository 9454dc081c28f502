package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

func (a *app) planCommand() *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "plan -f DOCKERFILE [CONTEXT]",
		Short: "Say what a Dockerfile's build would do, and what it would be refused for",
		Long: `Plan reads a Dockerfile as publish -f does and prints the steps, which of them are
shared by all platforms, the bases and the Go toolchains that are needed, and every
refusal. Nothing is built, and nothing but the configs of the bases is downloaded.
The exit code is 3 if there are refusals.`,
		Example: `  anyarch plan -f docker/Dockerfile .
  anyarch plan -f Dockerfile --platform linux/amd64,linux/arm64,linux/riscv64 .`,
		GroupID: "look",
		RunE: func(cmd *cobra.Command, targets []string) error {
			if b.docker.file == "" {
				b.docker.file = "Dockerfile"
			}
			if err := b.checkFlags(cmd); err != nil {
				return err
			}
			return a.plan(cmd, &b, targets)
		},
	}
	b.register(cmd.Flags())
	return cmd
}

func (a *app) plan(cmd *cobra.Command, b *buildFlags, targets []string) error {
	ctx := cmd.Context()
	event, err := a.show(1)
	if err != nil {
		return err
	}
	kept, err := a.openCache()
	if err != nil {
		return err
	}
	bases := base.New(base.Options{Store: kept.Blobs(), Open: a.openReference, Compression: layer.Compression(b.req.Compression), Progress: event})
	e, err := a.openEngine(ctx, b, targets, event, bases, false)
	if err != nil {
		return err
	}
	defer e.close()
	var out strings.Builder
	fmt.Fprintf(&out, "platforms  %s\n", platform.Names(e.in.plan.Platforms))
	if e.kit != nil {
		a.screen.Clear()
		fmt.Fprintf(&out, "engine     buildkit")
		if e.why != "" {
			fmt.Fprintf(&out, "  (%s)", e.why)
		}
		fmt.Fprintln(&out)
		describeNodes(&out, e.nodes, e.in.plan)
		_, err := fmt.Fprint(a.Stdout, out.String())
		return err
	}
	description, err := e.native.build.Describe(ctx)
	if err != nil {
		return err
	}
	a.screen.Clear()
	for _, line := range description.Bases {
		fmt.Fprintf(&out, "base       %s\n", line)
	}
	for _, version := range description.Toolchains {
		fmt.Fprintf(&out, "toolchain  go%s\n", version)
	}
	fmt.Fprintln(&out, "steps")
	for _, s := range description.Steps {
		who := "once, for all platforms"
		if len(s.Platforms) > 0 {
			who = strings.Join(s.Platforms, ", ")
		}
		fmt.Fprintf(&out, "  %-24s %s  (%s)\n", s.Place, s.Name, who)
	}
	if _, err := fmt.Fprint(a.Stdout, out.String()); err != nil {
		return err
	}
	if len(description.Refusals) == 0 {
		return nil
	}
	for _, r := range description.Refusals {
		r.Kind = refusal.Findings
	}
	return description.Refusals
}
