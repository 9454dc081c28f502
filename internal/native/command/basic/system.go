package basic

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/platform"
)

func systemCommands() []*command.Command {
	return []*command.Command{
		tool("uname", command.Options{Short: "asmrnopv", Long: []string{"machine", "kernel-name", "all"}, Same: map[string]string{"machine": "m", "kernel-name": "s", "all": "a"}}, uname),
		tool("arch", command.Options{}, func(_ context.Context, p *command.Proc, _ *command.Parsed) (int, error) {
			_, _ = fmt.Fprintln(p.Stdout, machine(p.Platform))
			return 0, nil
		}),
		tool("id", command.Options{Short: "ugn"}, id),
		tool("whoami", command.Options{}, whoami),
		tool("nproc", command.Options{}, func(_ context.Context, p *command.Proc, _ *command.Parsed) (int, error) {
			_, _ = fmt.Fprintln(p.Stdout, 1) // the same on every machine
			return 0, nil
		}),
		tool("hostname", command.Options{}, func(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
			_, _ = fmt.Fprintln(p.Stdout, "buildkitsandbox")
			return 0, nil
		}),
		tool("which", command.Options{Short: "a"}, which),
		tool("dpkg", command.Options{Long: []string{"print-architecture"}}, func(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
			if !opt.Has["print-architecture"] || len(opt.Args) > 0 {
				return 0, &command.Unsupported{Command: "dpkg", What: "installing packages"}
			}
			names := map[string]string{"arm": "armhf", "386": "i386", "ppc64le": "ppc64el"}
			name := p.Platform.Architecture
			if n, ok := names[name]; ok {
				name = n
			}
			_, _ = fmt.Fprintln(p.Stdout, name)
			return 0, nil
		}),
	}
}

// machine is what uname -m says on a platform.
func machine(p platform.Platform) string {
	switch p.Architecture {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "386":
		return "i686"
	case "arm":
		if p.Variant == "v6" {
			return "armv6l"
		}
		return "armv7l"
	case "loong64":
		return "loongarch64"
	}
	return p.Architecture
}

func uname(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if opt.Has["r"] || opt.Has["v"] || opt.Has["a"] {
		return 0, &command.Unsupported{Command: "uname", What: "the version of the kernel, which is another one on every machine", Fix: "uname -m"}
	}
	var fields []string
	for _, f := range [][2]string{{"s", "Linux"}, {"n", "buildkitsandbox"}, {"m", machine(p.Platform)}, {"p", machine(p.Platform)}, {"o", "GNU/Linux"}} {
		if opt.Has[f[0]] || f[0] == "s" && len(opt.Has) == 0 {
			if f[0] == "o" && p.Dialect == command.Busybox {
				f[1] = "Linux"
			}
			fields = append(fields, f[1])
		}
	}
	_, _ = fmt.Fprintln(p.Stdout, strings.Join(fields, " "))
	return 0, nil
}

func id(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	uid, gid := p.UID, p.GID
	if len(opt.Args) > 0 {
		u, g, _, _, found, err := command.LookupUser(p.Tree, opt.Args[0])
		if err != nil {
			return 0, err
		}
		if !found {
			return p.Errorf("'%s': no such user", opt.Args[0])
		}
		uid, gid = u, g
	}
	user, err := command.UserName(p.Tree, uid)
	if err != nil {
		return 0, err
	}
	group, err := command.GroupName(p.Tree, gid)
	if err != nil {
		return 0, err
	}
	switch {
	case opt.Has["u"] && opt.Has["n"]:
		_, _ = fmt.Fprintln(p.Stdout, user)
	case opt.Has["u"]:
		_, _ = fmt.Fprintln(p.Stdout, uid)
	case opt.Has["g"] && opt.Has["n"]:
		_, _ = fmt.Fprintln(p.Stdout, group)
	case opt.Has["g"]:
		_, _ = fmt.Fprintln(p.Stdout, gid)
	default:
		_, _ = fmt.Fprintf(p.Stdout, "uid=%d(%s) gid=%d(%s) groups=%d(%s)\n", uid, user, gid, group, gid, group)
	}
	return 0, nil
}

func whoami(_ context.Context, p *command.Proc, _ *command.Parsed) (int, error) {
	name, err := command.UserName(p.Tree, p.UID)
	if err != nil {
		return 0, err
	}
	if name == "" {
		return p.Errorf("unknown uid %d", p.UID)
	}
	_, _ = fmt.Fprintln(p.Stdout, name)
	return 0, nil
}

func which(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	exit := 0
	for _, name := range opt.Args {
		found := false
		for dir := range strings.SplitSeq(p.Env["PATH"], ":") {
			at := path.Join("/", dir, name)
			a, err := p.Tree.Stat(at)
			if fatal(err) {
				return 0, err
			}
			if err == nil && a.IsRegular() && a.Mode&0o111 != 0 {
				_, _ = fmt.Fprintln(p.Stdout, at)
				found = true
				break
			}
		}
		if !found {
			exit = 1
		}
	}
	return exit, nil
}
