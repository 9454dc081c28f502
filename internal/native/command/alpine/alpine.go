// Package alpine has the commands that scripts of Alpine's packages call beside
// those that every system has.
package alpine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands are the commands of this package. known are those that busybox can be
// asked for by name.
func Commands(known func(name string) *command.Command) []*command.Command {
	return []*command.Command{
		{Name: "busybox", Check: checkBusybox(known), Run: busybox(known)},
		{Name: "bbsuid", Check: onlyInstall("bbsuid"), Run: func(_ context.Context, p *command.Proc) (int, error) {
			if len(p.Args) != 2 || p.Args[1] != "--install" {
				return 1, &command.Unsupported{Command: "bbsuid", What: "what isn't --install"}
			}
			return install(p, "/bin/bbsuid", "busybox-suid", false)
		}},
		{Name: "add-shell", Run: shells(true)},
		{Name: "remove-shell", Run: shells(false)},
	}
}

func onlyInstall(name string) func([]*string) *command.Unsupported {
	return func(args []*string) *command.Unsupported {
		if len(args) > 0 && args[0] != nil && *args[0] != "--install" {
			return &command.Unsupported{Command: name, What: *args[0]}
		}
		return nil
	}
}

func checkBusybox(known func(string) *command.Command) func([]*string) *command.Unsupported {
	return func(args []*string) *command.Unsupported {
		if len(args) == 0 || args[0] == nil {
			return nil
		}
		name := *args[0]
		if name == "--install" {
			for _, a := range args[1:] {
				if a != nil && *a != "-s" {
					return &command.Unsupported{Command: "busybox --install", What: *a}
				}
			}
			return nil
		}
		c := known(name)
		if c == nil {
			return &command.Unsupported{Command: "busybox", What: name}
		}
		if c.Check != nil {
			return c.Check(args[1:])
		}
		return nil
	}
}

// busybox runs an applet, or makes the links to itself.
func busybox(known func(string) *command.Command) command.Func {
	return func(ctx context.Context, p *command.Proc) (int, error) {
		if len(p.Args) < 2 {
			return 0, &command.Unsupported{Command: "busybox", What: "listing its applets"}
		}
		if p.Args[1] != "--install" {
			c := known(p.Args[1])
			if c == nil {
				return 1, &command.Unsupported{Command: "busybox", What: p.Args[1]}
			}
			q := *p
			q.Args = p.Args[1:]
			return c.Run(ctx, &q)
		}
		if !slices.Equal(p.Args[2:], []string{"-s"}) {
			return 1, &command.Unsupported{Command: "busybox --install", What: "hard links or another directory", Fix: "busybox --install -s"}
		}
		return install(p, "/bin/busybox", "busybox", true)
	}
}

// install makes the links that are missing. Alpine's package lists them, since
// only the program itself knows them else.
func install(p *command.Proc, target, list string, must bool) (int, error) {
	if _, err := p.Tree.Stat(target); err != nil {
		return p.Errorf("%s: not found", target)
	}
	data, err := p.Tree.ReadFile("/etc/busybox-paths.d/" + list)
	if errors.Is(err, fs.ErrNotExist) {
		// Before Alpine 3.17 nothing says which links there are to be. They are there
		// already unless the program itself is new.
		if links, err := linksTo(p, target); err != nil || links > 0 || !must {
			return 0, err
		}
		return 1, &command.Unsupported{Command: "busybox --install", What: "making links without " + "/etc/busybox-paths.d"}
	}
	if err != nil {
		return 1, err
	}
	for name := range strings.FieldsSeq(string(data)) {
		at := "/" + strings.TrimPrefix(name, "/")
		if at == target {
			continue
		}
		if _, err := p.Tree.Lstat(at); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return 1, err
		}
		if _, err := p.Tree.Stat(path.Dir(at)); err != nil {
			continue // as busybox, which makes no directories
		}
		if err := p.Tree.Symlink(target, at, filetree.Attr{ModTime: p.Now, UID: p.UID, GID: p.GID}); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

func linksTo(p *command.Proc, target string) (int, error) {
	n := 0
	for _, dir := range []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin"} {
		children, err := p.Tree.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, c := range children {
			if a, err := p.Tree.Lstat(dir + "/" + c.Name); err == nil && a.IsSymlink() && a.Link == target {
				n++
			}
		}
	}
	return n, nil
}

// shells adds lines to /etc/shells, or takes them out.
func shells(add bool) command.Func {
	return func(_ context.Context, p *command.Proc) (int, error) {
		data, err := p.Tree.ReadFile("/etc/shells")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.Errorf("%v", err)
		}
		lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
		if len(data) == 0 {
			lines = nil
		}
		before := len(lines)
		for _, shell := range p.Args[1:] {
			switch at := slices.Index(lines, shell); {
			case add && at < 0:
				lines = append(lines, shell)
			case !add && at >= 0:
				lines = slices.Delete(lines, at, at+1)
			}
		}
		if len(lines) == before {
			return 0, nil
		}
		text := strings.Join(lines, "\n") + "\n"
		if err := p.Tree.WriteFile("/etc/shells", filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644, ModTime: p.Now}); err != nil {
			return 1, fmt.Errorf("/etc/shells: %w", err)
		}
		return 0, nil
	}
}
