package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/cache"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/ui"
)

// cacheSizeFlag bounds the cache: in builds, which keep it, and in cache prune.
func cacheSizeFlag(f *pflag.FlagSet, size *string) {
	f.StringVar(size, "cache-size", "10GiB", "what the cache may take: `SIZE`, 0 for no bound; the longest unused goes first")
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cache", Short: "Where built layers and programs are kept", GroupID: "local", Args: args(cobra.NoArgs),
		Long: `Everything in the cache can be made again. It is bounded: a build that has put
something into it removes what was unused for longest until it takes no more than
--cache-size. Nothing that a running build uses is ever removed. Images that anyarch
docker has named aren't counted: docker rmi removes them.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cacheShowCommand(), a.cachePruneCommand(), a.cacheVerifyCommand(), &cobra.Command{
		Use: "dir", Short: "Print the directory of the cache", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.cacheDir()
			if err != nil {
				return err
			}
			return a.printLine(dir)
		},
	})
	return cmd
}

func (a *app) cacheShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "What is in the cache, what it takes, when it was used last", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.openCache()
			if err != nil {
				return err
			}
			list, leases, err := c.Contents()
			if err != nil {
				return err
			}
			table := ui.NewTable(a.stdoutStyle(), 0)
			var all cache.Part
			row := func(name string, p cache.Part, what string) {
				used := "-"
				if !p.Used.IsZero() {
					used = p.Used.UTC().Format("2006-01-02 15:04")
				}
				table.Row(name, fmt.Sprint(p.Items), ui.Bytes(p.Bytes), used, what)
			}
			for _, p := range list {
				row(p.Name, p, p.What)
				all.Items, all.Bytes = all.Items+p.Items, all.Bytes+p.Bytes
				if p.Used.After(all.Used) {
					all.Used = p.Used
				}
			}
			runs := fmt.Sprintf("%d runs use it now", leases)
			if leases == 1 {
				runs = "1 run uses it now"
			}
			row("all", all, runs)
			if _, err := table.WriteTo(a.Stdout); err != nil {
				return err
			}
			return a.printLine(c.Dir())
		},
	}
}

func (a *app) cachePruneCommand() *cobra.Command {
	var (
		size      string
		olderThan time.Duration
		all       bool
		dryRun    bool
		remote    string
	)
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what was unused for longest; everything can be made again", Args: args(cobra.NoArgs),
		Long: `Prune removes what was unused for longest until the cache takes no more than
--cache-size. With --older-than what was unused for that long goes too, with --all
everything. What a running build may be using stays.`,
		Example: `  anyarch cache prune --cache-size 2GiB
  anyarch cache prune --older-than 168h
  anyarch cache prune --all --dry-run
  anyarch cache prune --remote registry.example.com/team/app/cache:main,max-size=1GiB`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remote != "" {
				return a.pruneGoCache(cmd.Context(), remote, all)
			}
			bounds := cache.Bounds{DryRun: dryRun}
			var err error
			if bounds.Limit, err = cache.ParseSize(size); err != nil {
				return err
			}
			if cmd.Flags().Changed("older-than") {
				bounds.Before = time.Now().Add(-olderThan)
			}
			if all {
				bounds.Before = time.Now().Add(time.Hour) // clocks of file systems may be ahead
			}
			c, err := a.openCache()
			if err != nil {
				return err
			}
			done, err := c.Prune(cmd.Context(), bounds)
			if err != nil {
				return err
			}
			verb := "freed in"
			if dryRun {
				verb = "would be freed in"
			}
			line := fmt.Sprintf("%s %s %s; %s left", ui.Bytes(done.Freed), verb, c.Dir(), ui.Bytes(done.Left))
			if done.InUse > 0 {
				line += fmt.Sprintf(", %s of it kept for builds that are running", ui.Bytes(done.InUse))
			}
			return a.printLine(line)
		},
	}
	cacheSizeFlag(cmd.Flags(), &size)
	cmd.Flags().DurationVar(&olderThan, "older-than", 0, "remove what wasn't used for this long, such as 168h")
	cmd.Flags().BoolVar(&all, "all", false, "remove everything that no running build uses")
	cmd.Flags().StringVar(&remote, "remote", "", "prune a build cache in a registry instead: `REFERENCE[,max-size=2GiB]`, as of --cache")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	return cmd
}

func (a *app) cacheVerifyCommand() *cobra.Command {
	var remote string
	cmd := &cobra.Command{
		Use: "verify", Short: "Read everything again, and remove what is damaged; exit 3 if anything was", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remote != "" {
				return a.verifyGoCache(cmd.Context(), remote)
			}
			c, err := a.openCache()
			if err != nil {
				return err
			}
			done, err := c.Verify(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.printLine(fmt.Sprintf("%s in %d items are what they should be; %d are checked when they are used", ui.Bytes(done.Bytes), done.Items-done.Unknown-len(done.Damaged), done.Unknown)); err != nil {
				return err
			}
			if len(done.Damaged) == 0 {
				return nil
			}
			return &refusal.Error{Code: "PA660", Kind: refusal.Findings, Place: c.Dir(), Summary: fmt.Sprintf("%d items of the cache were damaged; they are removed", len(done.Damaged)), Seen: done.Damaged}
		},
	}
	cmd.Flags().StringVar(&remote, "remote", "", "check a build cache in a registry instead: `REFERENCE`, as of --cache")
	return cmd
}
