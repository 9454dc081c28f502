package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/refusal"
)

// hub is the registry that docker means where none is named.
const hub = "docker.io"

func (a *app) dockerLoginCommand() *cobra.Command {
	var user, password string
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "login [OPTIONS] [SERVER]", Short: "Keep credentials for a registry where docker keeps them", Args: dockerArgs(0, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			server := hub
			if len(list) > 0 {
				server = list[0]
			}
			client, err := a.registryClient()
			if err != nil {
				return err
			}
			bad := func(summary string) error {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "docker login", Summary: summary, Fix: []string{"echo \"$TOKEN\" | docker login --username USER --password-stdin " + server}}
			}
			in := bufio.NewReader(a.Stdin)
			switch {
			case fromStdin && password != "":
				return bad("--password and --password-stdin are mutually exclusive")
			case fromStdin && user == "":
				return bad("--password-stdin needs --username")
			case fromStdin:
				data, err := io.ReadAll(io.LimitReader(in, 64<<10))
				if err != nil {
					return err
				}
				password = strings.TrimRight(string(data), "\r\n")
			default:
				if user == "" {
					if _, err := io.WriteString(a.Stderr, "Username: "); err != nil {
						return err
					}
					line, err := in.ReadString('\n')
					if err != nil && !errors.Is(err, io.EOF) {
						return err
					}
					if user = strings.TrimSpace(line); user == "" {
						return bad("there is no username")
					}
				}
				if password != "" {
					break
				}
				if _, err := io.WriteString(a.Stderr, "Password: "); err != nil {
					return err
				}
				if password, err = a.Password(); err != nil {
					return bad("there is no terminal to ask for a password")
				}
				if _, err := io.WriteString(a.Stderr, "\n"); err != nil {
					return err
				}
			}
			if err := client.Login(cmd.Context(), server, user, password); err != nil {
				return err
			}
			return a.printLine("Login Succeeded")
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "`USER`")
	cmd.Flags().StringVarP(&password, "password", "p", "", "`PASSWORD`; better --password-stdin: other users see command lines")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func (a *app) dockerLogoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout [SERVER]", Short: "Remove the credentials of a registry", Args: dockerArgs(0, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			server := hub
			if len(list) > 0 {
				server = list[0]
			}
			client, err := a.registryClient()
			if err != nil {
				return err
			}
			if err := client.Logout(cmd.Context(), server); err != nil {
				return err
			}
			return a.printLine("Removing login credentials for " + server)
		},
	}
}

// clientVersion is what docker version says, with the fields that its templates know.
type clientVersion struct {
	Platform  struct{ Name string }
	Version   string
	GoVersion string
	Os, Arch  string
	Context   string
}

func (a *app) dockerVersionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version [OPTIONS]", Short: "The version of this program", Args: dockerArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := clientVersion{Version: strings.TrimPrefix(Version(), "v"), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, Context: "default"}
			v.Platform.Name = "anyarch in docker's place"
			if format == "" {
				_, err := fmt.Fprintf(a.Stdout, "Client: %s\n Version:           %s\n Go version:        %s\n OS/Arch:           %s/%s\n Context:           %s\n\nServer: none is needed\n",
					v.Platform.Name, v.Version, v.GoVersion, v.Os, v.Arch, v.Context)
				return err
			}
			if format == "json" {
				format = "{{json .}}"
			}
			t, err := dockerTemplate(format)
			if err != nil {
				return err
			}
			// Scripts ask whether there is a server, and which: this program is both.
			return executeLine(a.Stdout, t, struct{ Client, Server clientVersion }{v, v})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go `TEMPLATE`")
	return cmd
}

func (a *app) dockerBuildxVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of this program", Args: dockerArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return a.printLine("anyarch " + Version() + ", in docker's place")
		},
	}
}
