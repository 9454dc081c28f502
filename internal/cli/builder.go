package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/buildkit"
	"github.com/anyarch/anyarch/internal/buildkit/daemon"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// daemon is this user's own BuildKit.
func (a *app) daemon() (daemon.Options, error) {
	cache, err := a.cacheDir()
	if err != nil {
		return daemon.Options{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return daemon.Options{}, err
	}
	o := daemon.Options{
		Dir: filepath.Join(cache, "buildkitd"), Idle: daemon.DefaultIdle, LookPath: a.LookPath,
		TempDir: first(a.Getenv("XDG_RUNTIME_DIR"), a.Getenv("TMPDIR"), os.TempDir()),
	}
	o.Supervisor = []string{self, "builder", "supervise"}
	return o, nil
}

// ownBuilder starts this user's own BuildKit where no other is configured.
func (a *app) ownBuilder(ctx context.Context, event progress.Sink) ([]buildkit.Endpoint, error) {
	o, err := a.daemon()
	if err != nil {
		return nil, err
	}
	end := event.Start("", "", progress.Resolve, "buildkitd")
	if _, err := daemon.Start(ctx, o); err != nil {
		end(progress.Failed, "buildkitd")
		refused := refusal.Collect{}
		refused.Add(&refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: "--engine buildkit", Summary: "no builder is configured, and none can be started",
			Fix: []string{"--builder unix:///run/buildkit/buildkitd.sock", "--builder docker-container://buildkitd"}})
		if !refused.Add(err) {
			return nil, err
		}
		return nil, refused.Err()
	}
	end(progress.Done, "buildkitd at "+o.Address())
	return []buildkit.Endpoint{o.Endpoint()}, nil
}

func (a *app) builderCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "builder",
		Short: "A BuildKit of your own: start, stop, status",
		Long: `Builder runs the buildkitd that is installed on this machine, with runc or crun, for
this user alone; as an ordinary user in rootlesskit. --engine buildkit starts it where no
other builder is configured, and it ends by itself when nobody has used it for a while.`,
		GroupID: "local",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var config string
	idle := daemon.DefaultIdle
	options := func() (daemon.Options, error) {
		o, err := a.daemon()
		if err != nil {
			return o, err
		}
		if config != "" {
			o.Config = a.absolute(config)
			if _, err := os.Stat(o.Config); err != nil {
				return o, &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--config " + config, Summary: "can't be read", Seen: []string{err.Error()}, Err: err}
			}
			o.Supervisor = append(o.Supervisor, "--config", o.Config)
		}
		o.Idle = max(idle, time.Second)
		o.Supervisor = append(o.Supervisor, "--idle", o.Idle.String())
		return o, nil
	}
	start := &cobra.Command{
		Use: "start", Short: "Start it, unless it runs, and print its address", Args: args(cobra.NoArgs),
		Example: "  anyarch builder start\n  BUILDKIT_HOST=$(anyarch builder start) buildctl debug workers",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			if _, err := daemon.Start(cmd.Context(), o); err != nil {
				return err
			}
			return a.printLine(o.Address())
		},
	}
	supervise := &cobra.Command{
		Use: "supervise", Hidden: true, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := options()
			if err != nil {
				return err
			}
			return daemon.Supervise(cmd.Context(), o)
		},
	}
	for _, c := range []*cobra.Command{start, supervise} {
		c.Flags().StringVar(&config, "config", "", "its buildkitd.toml, from this `FILE`")
		c.Flags().DurationVar(&idle, "idle", daemon.DefaultIdle, "end it when nobody has used it for this `TIME`")
	}
	cmd.AddCommand(start, supervise,
		&cobra.Command{
			Use: "stop", Short: "End it", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error {
				o, err := a.daemon()
				if err != nil {
					return err
				}
				stopped, err := daemon.Stop(cmd.Context(), o)
				if err != nil {
					return err
				}
				if !stopped {
					return a.printLine("not running")
				}
				return a.printLine("stopped")
			},
		},
		&cobra.Command{
			Use: "status", Short: "Say whether it runs, where, and what it can build; exit 1 if it doesn't", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error {
				o, err := a.daemon()
				if err != nil {
					return err
				}
				s, err := daemon.Look(o)
				if err != nil {
					return err
				}
				if !s.Running {
					if err := a.printLine("not running"); err != nil {
						return err
					}
					return exitError(1)
				}
				n, err := buildkit.Connect(cmd.Context(), o.Endpoint())
				if err != nil {
					return err
				}
				defer func() { _ = n.Close() }()
				_, err = fmt.Fprintf(a.Stdout, "running    %s\nprocess    %d\nstate      %s\nruns       %s\nemulates   %s\n", s.Address, s.PID, s.Dir, platform.Names(n.Native), platform.Names(n.Emulated))
				return err
			},
		})
	return cmd
}
