package native

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/alpine"
	"github.com/anyarch/anyarch/internal/native/command/archive"
	"github.com/anyarch/anyarch/internal/native/command/awk"
	"github.com/anyarch/anyarch/internal/native/command/basic"
	"github.com/anyarch/anyarch/internal/native/command/certificates"
	"github.com/anyarch/anyarch/internal/native/command/extra"
	"github.com/anyarch/anyarch/internal/native/command/search"
	"github.com/anyarch/anyarch/internal/native/command/text"
	"github.com/anyarch/anyarch/internal/native/command/transfer"
	"github.com/anyarch/anyarch/internal/native/deb/apt"
	"github.com/anyarch/anyarch/internal/native/git"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// standard are the commands that every stage has.
func (b *Build) standard() command.Set {
	set := command.Set{}
	known := func(name string) *command.Command { return set[name] }
	for _, list := range [][]*command.Command{
		extra.Commands(), search.Commands(), text.CommandsIn(b.o.Scratch), archive.CommandsIn(b.o.Scratch), awk.CommandsIn(b.o.Scratch), basic.Commands(), alpine.Commands(known), {certificates.Command()},
	} {
		for _, c := range list {
			set[c.Name] = c
		}
	}
	set["git"] = git.Command(git.Options{Scratch: b.o.Scratch})
	for _, name := range []string{"sh", "ash", "dash", "bash"} {
		dialect := map[string]shell.Dialect{"sh": shell.Ash, "ash": shell.Ash, "dash": shell.Dash, "bash": shell.Bash}[name]
		set[name] = shell.Command(name, dialect)
	}
	return set
}

// commandSet are the commands of one RUN.
func (in *invocation) commandSet() command.Set {
	set := in.installed()
	if in.hasGo() {
		set["go"] = in.goCommand()
		set["gofmt"] = &command.Command{Name: "gofmt", Run: in.runGofmt}
	}
	if in.defers() {
		for _, name := range append(slices.Clone(accountCommands), packageManagers...) {
			if c := set[name]; c != nil {
				set[name] = in.deferrable(c)
			}
		}
	}
	return set
}

// packageManagers change what is installed.
var packageManagers = []string{"apk", "apt-get", "apt"}

// installed are the commands that work on a base that is there.
func (in *invocation) installed() command.Set {
	set := in.b.standard()
	if in.dialect() == command.GNU {
		set["sh"] = shell.Command("sh", shell.Dash)
	}
	offline := in.exec.Network == "none" || in.b.o.Offline
	for _, c := range transfer.Commands(transfer.Options{Client: in.b.o.Client, Scratch: in.b.o.Scratch, Offline: offline}) {
		set[c.Name] = c
	}
	set["apk"] = apk.Command(in.b.apk, offline)
	if in.dialect() == command.GNU {
		for _, c := range apt.Commands(apt.Options{Downloads: in.b.downloads, Scratch: in.b.o.Scratch, Offline: offline}) {
			set[c.Name] = c
		}
	}
	return set
}

// defers reports whether packages and accounts may wait until somebody reads the
// base: in a Go builder whose file system doesn't become an image.
func (in *invocation) defers() bool {
	return in.stage != nil && in.stage.goBuilder && !in.stage.hosted && !in.b.final[in.op]
}

// accountCommands change nothing but who has an account.
var accountCommands = []string{"adduser", "addgroup", "useradd", "groupadd", "usermod", "groupmod", "deluser", "delgroup", "userdel", "groupdel", "update-ca-certificates", "passwd"}

func (in *invocation) hasGo() bool {
	return goVersion(in.exec.Env) != "" || in.stage != nil && in.stage.goBuilder
}

// deferrals are commands of a Go builder that wait until somebody reads the base.
type deferrals struct {
	mu   sync.Mutex
	list []deferredCommand
}

type deferredCommand struct {
	in       *invocation // that it was part of
	packages []string    // that it installs; none of another command
	proc     command.Proc
}

func (d *deferrals) clone() *deferrals {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &deferrals{list: slices.Clone(d.list)}
}

func (d *deferrals) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.list)
}

func (d *deferrals) add(c deferredCommand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, c)
}

// installs reports whether one of these packages was asked for.
func (d *deferrals) installs(names ...string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.list {
		for _, p := range c.packages {
			if slices.Contains(names, p) {
				return true
			}
		}
	}
	return false
}

// replay runs what was deferred, on the base that somebody reads now.
func (d *deferrals) replay(ctx context.Context, b *Build, st *stage, p platform.Platform, t *filetree.Tree) error {
	d.mu.Lock()
	list := slices.Clone(d.list)
	d.mu.Unlock()
	for _, c := range list {
		if len(c.packages) > 0 {
			missing := c.packages
			installed, hasDatabase := installedPackages(t)
			if hasDatabase {
				missing = slices.DeleteFunc(slices.Clone(c.packages), func(name string) bool { return installed[name] })
			}
			if len(missing) == 0 {
				continue
			}
			if !hasDatabase || !hasRepositories(t) {
				b.warn(p, "%s: %s not installed: files are read from %s as it is", b.place(c.in.op), strings.Join(missing, " "), repository(st.ref))
				continue
			}
		}
		if name := c.proc.Args[0]; name == "update-ca-certificates" {
			if _, err := t.Stat("/usr/sbin/" + name); err != nil {
				b.warn(p, "%s: %s has no %s: its certificates are read as they are", b.place(c.in.op), repository(st.ref), name)
				continue
			}
		}
		var words, env []string
		if len(c.packages) > 0 && c.proc.Args[0] != "apk" {
			// Lists of packages that were downloaded before were for nobody then.
			words = []string{c.proc.Args[0], "-qq", "update", "&&"}
		}
		for _, w := range c.proc.Args {
			words = append(words, quote(w))
		}
		for _, k := range slices.Sorted(maps.Keys(c.proc.Env)) {
			env = append(env, k+"="+c.proc.Env[k])
		}
		out := &tail{limit: 16 << 10}
		exit, err := shell.Run(ctx, shell.Script{Text: strings.Join(words, " "), Dialect: shell.Bash, Name: c.proc.Args[0]}, shell.Options{
			Tree: t, Dir: "/", Env: env, UID: c.proc.UID, GID: c.proc.GID, Platform: p, Commands: c.in.installed(), Stdin: strings.NewReader(""), Stdout: out, Stderr: out,
			Now: b.now(), CommandDialect: st.dialect, Scratch: b.o.Scratch,
		})
		if err != nil {
			return c.in.unsupported(err)
		}
		if exit != 0 {
			return &refusal.Error{Code: "PA107", Platform: p.String(), Place: b.place(c.in.op), Summary: fmt.Sprintf("%s ended with exit code %d", c.proc.Args[0], exit), Seen: out.lines(10)}
		}
	}
	return nil
}

// hasRepositories reports whether packages could come from anywhere: images that only
// look like Alpine or Debian have none.
func hasRepositories(t *filetree.Tree) bool {
	if data, err := t.ReadFile("/etc/apk/repositories"); err == nil && strings.TrimSpace(string(data)) != "" {
		return true
	}
	for _, dir := range []string{"/etc/apt", "/etc/apt/sources.list.d"} {
		children, err := t.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, c := range children {
			if strings.HasSuffix(c.Name, ".sources") || strings.HasSuffix(c.Name, ".list") {
				return true
			}
		}
	}
	return false
}

// installedPackages reads the database of apk or dpkg.
func installedPackages(t *filetree.Tree) (map[string]bool, bool) {
	found := map[string]bool{}
	if data, err := t.ReadFile("/lib/apk/db/installed"); err == nil {
		for line := range strings.SplitSeq(string(data), "\n") {
			if name, ok := strings.CutPrefix(line, "P:"); ok {
				found[name] = true
			}
		}
		return found, true
	}
	if data, err := t.ReadFile("/var/lib/dpkg/status"); err == nil {
		for line := range strings.SplitSeq(string(data), "\n") {
			if name, ok := strings.CutPrefix(line, "Package: "); ok {
				found[name] = true
			}
		}
		return found, true
	}
	return nil, false
}

// deferrable makes a command wait for somebody who reads the base, as long as
// nobody has.
func (in *invocation) deferrable(c *command.Command) *command.Command {
	isPackageManager := slices.Contains(packageManagers, c.Name)
	return &command.Command{Name: c.Name, Check: c.Check, Run: func(ctx context.Context, p *command.Proc) (int, error) {
		if !in.tree.Lazy() {
			return c.Run(ctx, p)
		}
		kept := *p
		kept.Env, kept.Args = maps.Clone(p.Env), slices.Clone(p.Args)
		kept.Args[0] = c.Name
		d := deferredCommand{in: in, proc: kept}
		if isPackageManager {
			if d.packages = packageNames(c.Name, p.Args[1:]); len(d.packages) == 0 {
				return 0, nil // lists of packages aren't kept where nobody looks
			}
		}
		in.deferred.add(d)
		return 0, nil
	}}
}

// packageNames are the packages that an install command asks for.
func packageNames(name string, args []string) []string {
	var list []string
	sub := ""
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-t" || a == "--virtual" || a == "-X" || a == "--repository" || a == "-o" || a == "-c" || a == "--target-release":
			i++
		case strings.HasPrefix(a, "-"):
		case sub == "":
			sub = a
		default:
			a, _, _ = strings.Cut(a, "=")
			a = strings.TrimRight(strings.SplitN(a, "~", 2)[0], "<>")
			list = append(list, path.Base(a))
		}
	}
	if name == "apk" && sub != "add" || name != "apk" && sub != "install" {
		return nil
	}
	return list
}

// otherEngine is what to do with what can't be done here.
const otherEngine = "--engine buildkit"

// refuse makes a refusal.
func (b *Build) refuse(code, place, p, summary string, fix ...string) *refusal.Error {
	return &refusal.Error{Code: code, Platform: p, Place: place, Summary: summary, Fix: fix}
}

// refuseCommand is the refusal of what a command can't do.
func (b *Build) refuseCommand(place string, u *command.Unsupported) *refusal.Error {
	fix := []string{otherEngine}
	if u.Fix != "" {
		fix = []string{u.Fix}
	}
	summary := u.Command + ": " + u.What
	if u.Command == "" {
		summary = u.What
	}
	return &refusal.Error{Code: "PA101", Place: place, Summary: summary + " can't be done natively", Fix: fix}
}
