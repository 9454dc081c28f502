package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/plan"
	"github.com/anyarch/anyarch/internal/serve"
)

func (a *app) serveCommand() *cobra.Command {
	var addr string
	var readOnly, allowRemote bool
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "A registry on 127.0.0.1 over a directory of OCI layouts",
		Long: `Serve is an OCI registry for this machine: docker, podman, crane and containerd
push to it and pull from it. Every repository is an OCI layout below DIR, by
default ./anyarch-out, so what anyarch build leaves there is served at once.
What was pushed survives a crash of the registry and of the machine.`,
		Example: `  anyarch serve
  anyarch publish ./cmd/api -t 127.0.0.1:5000/api:1.0`,
		GroupID: "local", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			dir := plan.DefaultOutput
			if len(list) > 0 {
				dir = list[0]
			}
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(a.Dir, dir)
			}
			event, err := a.show(1)
			if err != nil {
				return err
			}
			server, err := serve.New(serve.Options{Root: dir, ReadOnly: readOnly, AllowRemote: allowRemote, Log: event})
			if err != nil {
				return err
			}
			defer server.Close()
			return server.Run(cmd.Context(), addr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:5000", "`ADDRESS` to listen on; port 0 picks a free one")
	f.BoolVar(&readOnly, "read-only", false, "refuse every change")
	f.BoolVar(&allowRemote, "allow-remote", false, "accept an address that other machines can reach; there is no login")
	return cmd
}
