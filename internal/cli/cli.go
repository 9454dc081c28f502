// Package cli is the command line: flags become requests, outcomes become what
// is on the screen. One file per command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/cache"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/ui"
)

// System is the process that the command line runs in, so that tests can be
// another one.
type System struct {
	Stdin      io.Reader
	Stdout     io.Writer
	Stderr     io.Writer
	Getenv     func(string) string
	LookPath   func(string) (string, error)
	Dir        string // working directory
	IsTerminal bool   // of Stderr
	Width      func() int
	Height     func() int
	Password   func() (string, error) // asks for one without echo
}

// Process is this very process.
func Process() System {
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	fd := int(os.Stderr.Fd())
	size := func(width bool) func() int {
		return func() int {
			w, h, err := term.GetSize(fd)
			if err != nil {
				return 0
			}
			if width {
				return w
			}
			return h
		}
	}
	return System{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, LookPath: exec.LookPath, Dir: dir,
		IsTerminal: term.IsTerminal(fd), Width: size(true), Height: size(false),
		Password: func() (string, error) {
			data, err := term.ReadPassword(int(os.Stdin.Fd()))
			return string(data), err
		},
	}
}

// app is what the commands of one run share.
type app struct {
	System
	progress  string
	color     string
	quiet     bool
	plainHTTP []string
	insecure  bool // of docker manifest
	trust     []string

	screen *ui.Screen
	client *registry.Client
	cache  *cache.Cache // nil until it is opened
}

// Main runs the command line and gives the exit code; see `anyarch explain
// exit-codes`.
func Main(ctx context.Context, args []string, s System) int {
	a := &app{System: s}
	root := a.root()
	exit := exitCode
	var err error
	if len(args) > 0 && args[0] == "docker" {
		exit = dockerExit
		var rest []string
		if rest, err = a.dockerGlobals(args[1:]); err == nil {
			args = append([]string{"docker"}, rest...)
		}
	}
	root.SetArgs(args)
	root.SetIn(s.Stdin)
	root.SetOut(s.Stdout)
	root.SetErr(s.Stderr)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if a.cache != nil {
		_ = a.cache.Close() // what is left of a lease is removed by the next pruning
	}
	style := ui.NewStyle(s.Getenv, ui.ColorAuto, s.IsTerminal, s.Dir)
	if a.screen != nil {
		a.screen.Close()
		style = a.screen.Style()
	}
	var said exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &said):
		return int(said)
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = context.Canceled
	}
	if strings.HasPrefix(err.Error(), "unknown command") {
		err = unknownCommand(root, err)
	}
	_ = ui.Errors(s.Stderr, err, style, "nothing was tagged")
	return exit(err)
}

// exitError ends the program with a code, everything having been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode is that of the gravest refusal in err.
func exitCode(err error) int {
	list := refusal.All(err)
	if len(list) == 0 || slices.ContainsFunc(list, func(e *refusal.Error) bool { return errors.Is(e, context.Canceled) }) {
		if errors.Is(err, context.Canceled) {
			return 130
		}
		return 1
	}
	// What its user can mend at once comes before what may pass by itself.
	for _, kind := range []refusal.Kind{refusal.Usage, refusal.Auth, refusal.Findings, refusal.Failed, refusal.Unavailable} {
		if slices.ContainsFunc(list, func(e *refusal.Error) bool { return e.Kind == kind }) {
			return kind.ExitCode()
		}
	}
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "anyarch",
		Short: "Multi-architecture container images of Go programs, proved before they are tagged",
		Long: `anyarch makes one image reference that is right on every machine.

It compiles a Go program for every platform, puts each binary on its base, proves
that index, config and binary agree, and only then pushes and moves tags. It
needs a Go toolchain and nothing else: no Docker, no root, no emulator.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.fromEnvironment(cmd.Flags())
		},
		Version: Version(),
	}
	root.SetVersionTemplate("anyarch {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.progress, "progress", "auto", "what is shown while working: auto|tty|plain|rawjson|quiet|none")
	f.StringVar(&a.color, "color", "auto", "colours: auto|always|never")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "only warnings and errors; same as --progress quiet")
	f.StringSliceVar(&a.plainHTTP, "plain-http", nil, "speak HTTP without TLS to this `HOST` (loopback always may)")
	f.StringSliceVar(&a.trust, "trust-realm", nil, "give a registry's credentials to this token server `HOST`, of another domain")
	root.AddGroup(
		&cobra.Group{ID: "ship", Title: "Build and ship"},
		&cobra.Group{ID: "look", Title: "Check and look"},
		&cobra.Group{ID: "local", Title: "On this machine"},
	)
	root.AddCommand(
		a.publishCommand(), a.buildCommand(), a.indexCommand(), a.tagCommand(), a.copyCommand(), a.deleteCommand(), a.loginCommand(), a.logoutCommand(),
		a.planCommand(), a.fixCommand(), a.verifyCommand(), a.inspectCommand(), a.diffCommand(), a.explainCommand(),
		a.runCommand(), a.serveCommand(), a.cacheCommand(), a.builderCommand(), a.dockerCommand(),
		a.manCommand(), a.versionCommand(),
	)
	root.SetHelpCommandGroupID("")
	return root
}

// Version is that of this program, from what the go command has stamped.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// fromEnvironment lets ANYARCH_FLAG_NAME stand for a flag that isn't given.
func (a *app) fromEnvironment(flags *pflag.FlagSet) error {
	var refused refusal.Collect
	flags.VisitAll(func(f *pflag.Flag) {
		name := "ANYARCH_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if f.Name == "cache" {
			name = "ANYARCH_CACHE_REF" // ANYARCH_CACHE is the directory of the cache
		}
		value := a.Getenv(name)
		if f.Changed || value == "" || f.Name == "help" || f.Name == "version" {
			return
		}
		values := []string{value}
		if f.Value.Type() == "stringArray" {
			values = strings.Split(value, "\n")
		}
		for _, v := range values {
			if err := flags.Set(f.Name, v); err != nil {
				refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: name + "=" + value, Summary: err.Error()})
			}
		}
	})
	return refused.Err()
}

// flagError turns cobra's complaint about a flag into a refusal with a
// suggestion.
func flagError(cmd *cobra.Command, err error) error {
	e := &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: err.Error(), Fix: []string{cmd.CommandPath() + " --help"}}
	name, found := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !found {
		return e
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := refusal.Nearest(name, names); near != "" {
		e.Summary = fmt.Sprintf("unknown flag --%s: did you mean --%s?", name, near)
		e.Fix = []string{"--" + near}
	}
	return e
}

func unknownCommand(root *cobra.Command, err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	e := &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "anyarch", Summary: strings.TrimSuffix(first, ` for "anyarch"`), Fix: []string{"anyarch --help"}}
	name := strings.Trim(strings.TrimPrefix(e.Summary, "unknown command "), `"`)
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	if near := refusal.Nearest(name, names); near != "" {
		e.Fix = []string{"anyarch " + near}
	}
	return e
}

// args wraps a check of positional arguments so that its error is a refusal.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return &refusal.Error{
				Code: "PA505", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: err.Error(), Fix: []string{cmd.UseLine()},
			}
		}
		return nil
	}
}

// show opens the screen for a run that makes a number of images.
func (a *app) show(images int) (progress.Sink, error) {
	mode, err := ui.ParseMode(a.progress)
	if err != nil {
		return nil, err
	}
	color, err := ui.ParseColor(a.color)
	if err != nil {
		return nil, err
	}
	if a.quiet {
		mode = ui.Quiet
	}
	a.screen = ui.New(ui.Options{
		Out: a.Stderr, IsTerminal: func() bool { return a.IsTerminal }, Width: a.Width, Height: a.Height,
		Getenv: a.Getenv, Mode: mode, Color: color, Dir: a.Dir, Images: images,
	})
	return a.screen.Sink(), nil
}

// talkative reports whether summaries are wanted on the screen.
func (a *app) talkative() bool {
	mode := a.screen.Mode()
	return mode == ui.TTY || mode == ui.Plain
}

// style is how text looks where the screen is.
func (a *app) style() ui.Style {
	if a.screen != nil {
		return a.screen.Style()
	}
	color, err := ui.ParseColor(a.color)
	if err != nil {
		color = ui.ColorAuto
	}
	return ui.NewStyle(a.Getenv, color, a.IsTerminal, a.Dir)
}

// registryClient speaks to registries; it is made when first needed.
func (a *app) registryClient() (*registry.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	client, err := registry.New(registry.Options{
		Getenv: a.Getenv, PlainHTTP: a.plainHTTP, TrustRealm: a.trust, UserAgent: "anyarch/" + Version(),
		RegistriesConf: registry.DefaultRegistriesConf(a.Getenv), Insecure: a.insecure,
	})
	if err != nil {
		return nil, err
	}
	a.client = client
	return client, nil
}

// openReference finds the repository of a reference into a registry.
func (a *app) openReference(_ context.Context, text string) (src image.Source, repository, tagOrDigest string, err error) {
	ref, err := registry.ParseReference(text)
	if err != nil {
		return nil, "", "", err
	}
	client, err := a.registryClient()
	if err != nil {
		return nil, "", "", err
	}
	repo, err := client.Repository(ref.Repository)
	if err != nil {
		return nil, "", "", err
	}
	return repo, ref.Repository, ref.Identifier(), nil
}

var _ base.Opener = (&app{}).openReference

// cacheDir is where everything that can be made again is kept.
func (a *app) cacheDir() (string, error) {
	if dir := a.Getenv("ANYARCH_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir := a.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		var err error
		if dir, err = os.UserCacheDir(); err != nil {
			return "", &refusal.Error{
				Code: "PA602", Place: "HOME", Summary: "there is no place for the cache", Seen: []string{err.Error()},
				Fix: []string{"ANYARCH_CACHE=/tmp/anyarch"},
			}
		}
	}
	return filepath.Join(dir, "anyarch"), nil
}

// openCache opens the cache, once for the run; Main closes it.
func (a *app) openCache() (*cache.Cache, error) {
	if a.cache != nil {
		return a.cache, nil
	}
	dir, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	a.cache, err = cache.Open(dir)
	return a.cache, err
}

// printLine writes one result to standard output.
func (a *app) printLine(text string) error {
	_, err := fmt.Fprintln(a.Stdout, text)
	return err
}
