package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"golang.org/x/term"

	"github.com/anyarch/anyarch/internal/explain"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
	"github.com/anyarch/anyarch/internal/ui"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func joinWords(words []string) string { return strings.Join(words, " ") }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [CODE]", Short: "What an error code means and how to get rid of it; works offline",
		Example: "  anyarch explain PA201\n  anyarch explain exit-codes",
		GroupID: "look", Args: args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var codes []string
			for _, page := range explain.All() {
				codes = append(codes, page.Code+"\t"+page.Title)
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, list []string) error {
			if len(list) == 0 {
				table := ui.NewTable(a.stdoutStyle(), 0)
				for _, page := range explain.All() {
					table.Row(page.Code, page.Title)
				}
				_, err := table.WriteTo(a.Stdout)
				return err
			}
			page, found := explain.Lookup(list[0])
			if !found {
				var codes []string
				for _, p := range explain.All() {
					codes = append(codes, p.Code)
				}
				e := &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "explain " + list[0], Summary: "there is no such code", Fix: []string{"anyarch explain"}}
				if near := refusal.Nearest(list[0], codes); near != "" {
					e.Fix = []string{"anyarch explain " + near}
				}
				return e
			}
			_, err := fmt.Fprintf(a.Stdout, "%s  %s\n\n%s\n", page.Code, page.Title, strings.TrimSpace(page.Text))
			return err
		},
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of this program", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.printLine("anyarch " + Version()) },
	}
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages to a directory", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			dir := list[0]
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(a.Dir, dir)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return store.DiskError(dir, "write", err)
			}
			// A fixed date, so that packages of this program are reproducible.
			epoch := time.Unix(0, 0).UTC()
			cmd.Root().DisableAutoGenTag = true
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "ANYARCH", Section: "1", Source: "anyarch", Date: &epoch}, dir)
		},
	}
}
