package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Arguments are what [Main] is called with: those of the process, and docker in
// front of them if that is the name it was called by.
func Arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if strings.TrimSuffix(strings.ToLower(filepath.Base(argv[0])), ".exe") == "docker" {
		return append([]string{"docker"}, argv[1:]...)
	}
	return argv[1:]
}

// dockerCommand is the part of docker's command line that makes and moves images.
func (a *app) dockerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "docker COMMAND",
		Short: "docker build, manifest, push and their like, for scripts that call docker",
		Long: `Docker does what scripts ask of docker to make images and to publish them: build,
buildx build, manifest, buildx imagetools, tag, push, pull, images, rmi, save,
load, login, logout. There is no daemon; images that aren't pushed are kept in the
cache. Called by the name docker, anyarch is this command: anyarch docker install
DIR makes the link.

What goes to standard output and the exit codes are docker's.`,
		Example: `  anyarch docker install "$HOME/bin"
  PATH="$HOME/bin:$PATH" ./docker/build-multi-arch.sh`,
		GroupID: "ship", Args: cobra.ArbitraryArgs,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		PersistentPreRunE:  func(cmd *cobra.Command, _ []string) error { return a.fromEnvironment(cmd.InheritedFlags()) },
		RunE: func(cmd *cobra.Command, list []string) error {
			if version, err := cmd.Flags().GetBool("version"); err == nil && version {
				return a.printLine("anyarch version " + Version() + ", in docker's place")
			}
			if len(list) == 0 {
				return cmd.Help()
			}
			return otherCommand(cmd, list)
		},
	}
	cmd.Flags().BoolP("version", "v", false, "print version information and quit")
	cmd.SetFlagErrorFunc(dockerFlagError)
	imageCommands := func() []*cobra.Command {
		return []*cobra.Command{a.dockerBuildCommand(), a.dockerTagCommand(), a.dockerPushCommand(), a.dockerPullCommand(), a.dockerSaveCommand(), a.dockerLoadCommand()}
	}
	cmd.AddCommand(imageCommands()...)
	cmd.AddCommand(a.dockerImagesCommand("images"), a.dockerRemoveCommand("rmi"), a.dockerInspectCommand(),
		a.dockerLoginCommand(), a.dockerLogoutCommand(), a.dockerVersionCommand(), a.dockerInstallCommand())
	group := func(use, short string, commands ...*cobra.Command) *cobra.Command {
		g := &cobra.Command{
			Use: use + " COMMAND", Short: short, Args: cobra.ArbitraryArgs, FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
			RunE: func(cmd *cobra.Command, list []string) error {
				if len(list) == 0 {
					_, err := fmt.Fprint(a.Stderr, cmd.UsageString())
					return err
				}
				return otherCommand(cmd, list)
			},
		}
		g.AddCommand(commands...)
		cmd.AddCommand(g)
		return g
	}
	group("image", "Images of this machine", append(imageCommands(), a.dockerImagesCommand("ls"), a.dockerRemoveCommand("rm"), a.dockerPruneCommand(), a.dockerInspectCommand())...)
	group("builder", "Builds", a.dockerBuildCommand())
	group("manifest", "Manifests and lists of them", a.dockerManifestCommands()...)
	buildx := group("buildx", "Builds and indexes", a.dockerBuildCommand(), a.dockerBuildxVersionCommand())
	tools := group("imagetools", "Images in registries", a.dockerToolsCreate(), a.dockerToolsInspect())
	cmd.RemoveCommand(tools)
	buildx.AddCommand(tools)
	return cmd
}

// instead says what to use for commands that this program isn't.
var instead = map[string][]string{
	"run":            {"anyarch run IMAGE", "podman run IMAGE"},
	"exec":           {"podman exec"},
	"create":         {"podman create"},
	"container":      {"podman container"},
	"ps":             {"podman ps"},
	"compose":        {"podman compose"},
	"history":        {"anyarch inspect IMAGE"},
	"image history":  {"anyarch inspect IMAGE"},
	"commit":         {"docker build, with a Dockerfile that says what was done"},
	"import":         {"docker build, with FROM scratch and ADD"},
	"image import":   {"docker build, with FROM scratch and ADD"},
	"cp":             {"docker build --output DIR"},
	"search":         {"crane catalog REGISTRY"},
	"system":         {"anyarch cache prune"},
	"builder prune":  {"anyarch cache prune"},
	"buildx prune":   {"anyarch cache prune"},
	"info":           {"docker version"},
	"buildx create":  {"delete this line: no builder is needed, every platform is built here"},
	"buildx use":     {"delete this line: no builder is needed, every platform is built here"},
	"buildx rm":      {"delete this line: there are no builders"},
	"buildx stop":    {"delete this line: there are no builders"},
	"buildx ls":      {"delete this line: no builder is needed, every platform is built here"},
	"buildx inspect": {"delete this line: no builder is needed, every platform is built here"},
	"buildx install": {"delete this line: docker build is what buildx build is"},
	"buildx bake":    {"docker build, once per target"},
	"buildx du":      {"anyarch cache dir"},
	"context":        {"delete this line: there is no daemon to choose"},
	"trust":          {"cosign sign"},
}

// otherCommand is the answer to commands of docker that this program isn't.
func otherCommand(cmd *cobra.Command, list []string) error {
	path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath()+" "+list[0], "anyarch "), "docker ")
	e := &refusal.Error{Code: "PA442", Kind: refusal.Usage, Place: "docker " + path, Summary: "this is anyarch in docker's place, and there is no such command", Fix: instead[path]}
	if e.Fix == nil && strings.Contains(path, " ") && cmd.Name() != "image" {
		e.Fix = instead[strings.Fields(path)[0]]
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	slices.Sort(names)
	if e.Fix == nil {
		if near := refusal.Nearest(list[0], names); near != "" {
			e.Fix = []string{strings.TrimPrefix(cmd.CommandPath(), "anyarch ") + " " + near}
		}
	}
	e.Seen = []string{"it makes and publishes images: " + strings.Join(names, ", ")}
	return e
}

// dockerFlagError is flagError with docker's exit code.
func dockerFlagError(cmd *cobra.Command, err error) error {
	if e, ok := flagError(cmd, err).(*refusal.Error); ok {
		e.Code = "PA440"
		return asDocker(e)
	}
	return err
}

// dockerExit is docker's exit code for an error: 125 for the command line of a
// command, 1 for everything else that fails.
func dockerExit(err error) int {
	switch {
	case exitCode(err) == 130:
		return 130
	case slices.ContainsFunc(refusal.All(err), func(e *refusal.Error) bool { return e.Code == "PA440" }):
		return 125
	}
	return 1
}

// dockerGlobals takes off the flags that docker has before its commands. Those that
// choose a daemon are refused: there is none.
func (a *app) dockerGlobals(args []string) ([]string, error) {
	f := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.Usage = func() {}
	f.SetOutput(io.Discard)
	var config, level string
	var debug, help, version bool
	f.StringVar(&config, "config", "", "")
	f.StringVarP(&level, "log-level", "l", "", "")
	f.BoolVarP(&debug, "debug", "D", false, "")
	f.BoolVarP(&help, "help", "h", false, "")
	f.BoolVarP(&version, "version", "v", false, "")
	var hosts []string
	f.StringArrayVarP(&hosts, "host", "H", nil, "")
	contexts := f.StringP("context", "c", "", "")
	f.Bool("tls", false, "")
	f.Bool("tlsverify", false, "")
	for _, name := range []string{"tlscacert", "tlscert", "tlskey"} {
		f.String(name, "", "")
	}
	// The flags that every command of anyarch has may stand here too.
	f.StringVar(&a.progress, "progress", a.progress, "")
	f.StringVar(&a.color, "color", a.color, "")
	f.StringSliceVar(&a.plainHTTP, "plain-http", nil, "")
	f.StringSliceVar(&a.trust, "trust-realm", nil, "")
	if err := f.Parse(args); err != nil {
		return nil, &refusal.Error{Code: "PA440", Kind: refusal.Usage, Place: "docker", Summary: err.Error(), Fix: []string{"docker --help"}}
	}
	var refused refusal.Collect
	f.Visit(func(flag *pflag.Flag) {
		switch {
		case flag.Name == "context" && *contexts == "default":
		case slices.Contains([]string{"host", "context", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey"}, flag.Name):
			refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "docker --" + flag.Name, Summary: "this is anyarch in docker's place: there is no daemon to choose", Fix: []string{"docker without --" + flag.Name}})
		}
	})
	if config != "" {
		getenv := a.Getenv
		a.Getenv = func(name string) string {
			if name == "DOCKER_CONFIG" {
				return config
			}
			return getenv(name)
		}
	}
	rest := f.Args()
	if version {
		rest = append([]string{"--version"}, rest...)
	}
	if help {
		rest = append([]string{"--help"}, rest...)
	}
	return rest, refused.Err()
}

// dockerArgs checks the number of arguments of a command of docker; most below 0
// means that there may be any number.
func dockerArgs(least, most int) cobra.PositionalArgs {
	check := args(func(cmd *cobra.Command, list []string) error {
		count := func(n int) string {
			if n == 1 {
				return "1 argument"
			}
			return fmt.Sprintf("%d arguments", n)
		}
		switch name := strings.TrimPrefix(cmd.CommandPath(), "anyarch "); {
		case least == most && len(list) != least:
			return fmt.Errorf("'%s' requires %s", name, count(least))
		case len(list) < least:
			return fmt.Errorf("'%s' requires at least %s", name, count(least))
		case most >= 0 && len(list) > most:
			return fmt.Errorf("'%s' requires at most %s", name, count(most))
		}
		return nil
	})
	return func(cmd *cobra.Command, list []string) error {
		err := check(cmd, list)
		if e, ok := errors.AsType[*refusal.Error](err); ok {
			return asDocker(e)
		}
		return err
	}
}

// asDocker names commands as whoever called docker did.
func asDocker(e *refusal.Error) *refusal.Error {
	e.Place = strings.TrimPrefix(e.Place, "anyarch ")
	for i := range e.Fix {
		e.Fix[i] = strings.TrimPrefix(e.Fix[i], "anyarch ")
	}
	return e
}

func (a *app) dockerInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use: "install DIR", Short: "Make a link docker to this program in DIR, for PATH", Args: dockerArgs(1, 1),
		Example: `  anyarch docker install "$HOME/bin"`,
		RunE: func(_ *cobra.Command, list []string) error {
			dir := list[0]
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(a.Dir, dir)
			}
			program, err := os.Executable()
			if err == nil {
				program, err = filepath.EvalSymlinks(program)
			}
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return store.DiskError(dir, "create", err)
			}
			link := filepath.Join(dir, "docker")
			if runtime.GOOS == "windows" {
				link += ".exe"
			}
			if err := installLink(program, link); err != nil {
				return err
			}
			if err := a.printLine(link); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Stderr, "Scripts that call docker call anyarch with\n  export PATH=%s%c$PATH\n", dir, os.PathListSeparator)
			return err
		},
	}
}

// installLink lets link be program. Anything there that isn't this program is left.
func installLink(program, link string) error {
	if info, err := os.Lstat(link); err == nil {
		if at, err := os.Stat(link); err == nil {
			if own, err := os.Stat(program); err == nil && os.SameFile(at, own) {
				return nil
			}
		}
		e := &refusal.Error{Code: "PA446", Kind: refusal.Usage, Place: link, Summary: "there is another docker here, which stays", Fix: []string{"anyarch docker install \"$HOME/anyarch-bin\""}}
		if info.Mode()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(link); err == nil {
				e.Seen = []string{"a link to " + target}
				e.Fix = append(e.Fix, "rm "+link)
			}
		}
		return e
	}
	temporary := strings.Contains(program, string(filepath.Separator)+"go-build") // go run removes it
	if !temporary && os.Symlink(program, link) == nil {
		return nil
	}
	if !temporary && os.Link(program, link) == nil {
		return nil
	}
	in, err := os.Open(program)
	if err != nil {
		return store.DiskError(program, "read", err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(link), ".docker-")
	if err != nil {
		return store.DiskError(link, "write", err)
	}
	defer os.Remove(out.Name()) // fails once renamed, as it should
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(0o755)
	}
	err = errors.Join(err, out.Close())
	if err == nil {
		err = os.Rename(out.Name(), link)
	}
	if err != nil {
		return store.DiskError(link, "write", err)
	}
	return nil
}

// images opens the images of this machine.
func (a *app) images() (*imagestore.Store, error) {
	dir, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	return imagestore.Open(filepath.Join(dir, "images"), a.fetchFrom)
}
