package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/dockerfile/pin"
	"github.com/anyarch/anyarch/internal/refusal"
)

func (a *app) fixCommand() *cobra.Command {
	var (
		write           bool
		target, context string
	)
	cmd := &cobra.Command{
		Use:   "fix [DOCKERFILE…]",
		Short: "Let a Dockerfile cross-compile its Go programs, so that nothing is emulated",
		Long: `Fix pins the stages that run go build to the builder's own platform, tells go build
the platform of the image, removes defaults that hide it (ARG TARGETARCH=amd64), and
turns cgo off where nothing needs it. It prints the change as a diff; --write makes it.

Not a byte changes besides: comments, continued lines and heredocs stay as they are.
What can't be changed without changing what is built is left alone, with the reason on
standard error. The result builds with docker, BuildKit and anyarch alike.`,
		Example: `  anyarch fix
  anyarch fix --write docker/Dockerfile`,
		GroupID: "look",
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				files = []string{"Dockerfile"}
			}
			var refused refusal.Collect
			for _, file := range files {
				if err := a.fix(file, context, target, write); err != nil && !refused.Add(err) {
					return err
				}
			}
			return refused.Err()
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&write, "write", "w", false, "change the files")
	f.StringVar(&target, "target", "", "`STAGE` of the image, if it isn't the last")
	f.StringVar(&context, "context", "", "`DIR` with the Go sources, to see whether they need C (default the working directory)")
	return cmd
}

func (a *app) fix(file, context, target string, write bool) error {
	at := a.absolute(file)
	text, err := os.ReadFile(at)
	if err != nil {
		return &refusal.Error{Code: "PA106", Kind: refusal.Usage, Place: file, Summary: "the Dockerfile can't be read", Seen: []string{err.Error()}, Err: err}
	}
	r, err := pin.Rewrite(file, text, pin.Options{Target: target, NeedsC: func(packages []string) string {
		return pin.NeedsC(a.absolute(first(context, ".")), packages)
	}})
	if err != nil {
		return err
	}
	for _, l := range r.Left {
		if _, err := fmt.Fprintf(a.Stderr, "%s:%d: left alone: %s\n", file, l.Line, l.Text); err != nil {
			return err
		}
	}
	if string(r.Text) == string(text) {
		return nil
	}
	if !write {
		_, err := a.Stdout.Write(diff.Diff(file, text, file+" (fixed)", r.Text))
		return err
	}
	for _, c := range r.Changes {
		if _, err := fmt.Fprintf(a.Stderr, "%s:%d: %s\n", file, c.Line, c.Text); err != nil {
			return err
		}
	}
	return replaceFile(at, r.Text)
}

// replaceFile writes a file beside its place and renames it, with the mode it had.
func replaceFile(file string, data []byte) error {
	// A link stays a link: what it leads to is replaced.
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return &refusal.Error{Code: "PA602", Place: file, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return &refusal.Error{Code: "PA602", Place: file, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	return nil
}
