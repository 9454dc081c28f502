package cli

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/modfile"

	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/runner"
	"github.com/anyarch/anyarch/internal/store"
)

func (a *app) runCommand() *cobra.Command {
	var b buildFlags
	var runPlatform string
	cmd := &cobra.Command{
		Use:   "run PACKAGE|REFERENCE|DIR [flags] [-- ARGUMENT…]",
		Short: "Build if need be, and run this machine's platform of an image here",
		Long: `Run builds a Go package for every platform into ./anyarch-out, proves the image,
and starts the program for this machine, without a container engine. An image
that is there already, in a registry, a layout or an archive, is only started.

Programs for another architecture (--run-platform) need qemu-user.`,
		Example: `  anyarch run ./examples/hello
  anyarch run ./cmd/api -- -listen :8080
  anyarch run ghcr.io/udhos/apiping:1.5.0
  anyarch run anyarch-out/hello --run-platform linux/arm64`,
		GroupID: "local", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			target, arguments := list[0], list[1:]
			if at := cmd.ArgsLenAtDash(); at > 1 || at < 0 && len(list) > 1 {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "anyarch run", Summary: "arguments of the program come after --", Fix: []string{"anyarch run " + target + " -- " + strings.Join(arguments, " ")}}
			}
			on := platform.Local()
			if runPlatform != "" {
				var err error
				if on, err = platform.Parse(runPlatform); err != nil {
					return err
				}
			}
			if a.isPackage(target) {
				if len(b.req.Outputs) == 0 {
					b.req.Outputs = []string{defaultOutput}
				}
				outcome, err := a.build(cmd.Context(), &b, []string{target}, false)
				if err != nil {
					return err
				}
				if len(outcome.Images) != 1 {
					return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: target, Summary: "there are several programs; name one", Fix: []string{"anyarch run " + a.nearPath(outcome.Images[0].Packages[0].Dir)}}
				}
				written := outcome.Images[0].Written
				if len(written) == 0 {
					return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "--output", Summary: "run needs the image on this machine", Fix: []string{"anyarch publish, then anyarch run REFERENCE"}}
				}
				target = written[0].Path + "@" + outcome.Images[0].Index.Digest.String()
			} else if _, err := a.show(1); err != nil {
				return err
			}
			o, err := a.openImage(cmd.Context(), target)
			if err != nil {
				return err
			}
			defer o.close()
			a.screen.Close()
			code, err := runner.Run(cmd.Context(), runner.Options{
				Source: o.source, Index: o.descriptor, Platform: on, Args: arguments,
				Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, LookPath: a.LookPath,
				Share: []string{"/etc/resolv.conf", "/etc/hosts"},
			})
			if err != nil {
				return err
			}
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
	b.register(cmd.Flags())
	cmd.Flags().StringVar(&runPlatform, "run-platform", "", "run this `PLATFORM` instead of this machine's, under qemu-user")
	return cmd
}

// isPackage tells a Go package from an image: a directory that is no layout,
// or an import path of the module here.
func (a *app) isPackage(target string) bool {
	dir, _ := splitPath(target)
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.Dir, dir)
	}
	if strings.HasPrefix(target, "oci:") || strings.HasPrefix(target, "oci-archive:") || strings.HasPrefix(target, "docker-archive:") {
		return false
	}
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return strings.HasSuffix(target, ".go")
		}
		if _, err := store.Open(dir); err == nil {
			return false
		}
		below, err := filepath.Glob(filepath.Join(dir, "*", "oci-layout"))
		return err != nil || len(below) == 0
	}
	if strings.HasPrefix(target, ".") || filepath.IsAbs(target) || strings.HasSuffix(target, "/...") {
		return true // and the build says that there is no such directory
	}
	root, err := gotool.ModuleRoot(a.Dir)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return false
	}
	module := modfile.ModulePath(data)
	return module != "" && (target == module || strings.HasPrefix(target, module+"/")) && !strings.ContainsAny(target, "@:")
}

func (a *app) loginCommand() *cobra.Command {
	var user, password string
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "login REGISTRY",
		Short: "Keep credentials for a registry where docker keeps them",
		Example: `  anyarch login ghcr.io --username octocat
  echo "$TOKEN" | anyarch login registry.example.com --username ci --password-stdin`,
		GroupID: "ship", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			client, err := a.registryClient()
			if err != nil {
				return err
			}
			switch {
			case fromStdin:
				data, err := io.ReadAll(io.LimitReader(a.Stdin, 64<<10))
				if err != nil {
					return err
				}
				password = strings.TrimRight(string(data), "\r\n")
			case password == "":
				if user == "" {
					if _, err := io.WriteString(a.Stderr, "Username: "); err != nil {
						return err
					}
					line, err := bufio.NewReader(a.Stdin).ReadString('\n')
					if err != nil && !errors.Is(err, io.EOF) {
						return err
					}
					user = strings.TrimSpace(line)
				}
				if _, err := io.WriteString(a.Stderr, "Password: "); err != nil {
					return err
				}
				password, err = a.Password()
				if err != nil {
					return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "anyarch login", Summary: "there is no terminal to ask for a password", Fix: []string{"echo \"$TOKEN\" | anyarch login " + list[0] + " --username USER --password-stdin"}}
				}
				if _, err := io.WriteString(a.Stderr, "\n"); err != nil {
					return err
				}
			}
			if err := client.Login(cmd.Context(), list[0], user, password); err != nil {
				return err
			}
			_, err = io.WriteString(a.Stderr, "logged in to "+list[0]+"\n")
			return err
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "`USER`")
	cmd.Flags().StringVar(&password, "password", "", "`PASSWORD`; better --password-stdin: other users see command lines")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout REGISTRY", Short: "Remove the credentials of a registry", GroupID: "ship", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			client, err := a.registryClient()
			if err != nil {
				return err
			}
			if err := client.Logout(cmd.Context(), list[0]); err != nil {
				return err
			}
			_, err = io.WriteString(a.Stderr, "logged out of "+list[0]+"\n")
			return err
		},
	}
}
