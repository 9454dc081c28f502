// Package apt is apt-get, apt and dpkg on a file tree: what they do in a container, for
// any architecture, without running anything of it.
//
// An archive is trusted by the keys of the stage alone (Signed-By, trusted.gpg.d), its
// indexes by its Release file, packages by the index; each link is checked before
// anything is used. Maintainer scripts run through the same interpreter as RUN lines;
// one that needs a program of the image is refused by its name.
//
// Sources: apt-get(8), apt-secure(8), dpkg(1), Debian Policy 6.
package apt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/control"
	"github.com/anyarch/anyarch/internal/native/deb/database"
	"github.com/anyarch/anyarch/internal/native/deb/solve"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/platform"
)

// Options are what the commands of one build share.
type Options struct {
	Downloads *download.Session
	Scratch   string // of this build
	Offline   bool   // the step must not use the network
}

// Commands are apt-get, apt and dpkg, and the helpers that maintainer scripts call.
func Commands(o Options) []*command.Command {
	list := []*command.Command{{Name: "dpkg", Check: checkDpkg, Run: o.dpkg}}
	for _, name := range []string{"apt-get", "apt"} {
		list = append(list, &command.Command{Name: name, Check: check(name), Run: o.apt})
	}
	return append(list, helpers()...)
}

var options = command.Options{
	Short: "yqVfo:c:u",
	Long: []string{"yes", "assume-yes", "quiet=?", "verbose-versions", "no-install-recommends", "install-recommends", "no-install-suggests", "fix-missing", "option=", "fix-broken",
		"allow-downgrades", "allow-change-held-packages", "no-upgrade", "only-upgrade", "no-show-progress", "show-progress", "purge", "auto-remove", "with-new-pkgs", "show-upgraded", "no-remove", "no-auto-remove"},
	Same: map[string]string{"yes": "y", "assume-yes": "y", "quiet": "q", "verbose-versions": "V", "option": "o", "fix-broken": "f"},
}

var subcommands = []string{"update", "install", "upgrade", "clean", "autoclean", "autoremove"}

func check(name string) func([]*string) *command.Unsupported {
	return func(args []*string) *command.Unsupported {
		if u := options.Check(name)(args); u != nil {
			return u
		}
		skip, found := false, false
		for _, a := range args {
			switch {
			case a == nil:
				return nil
			case skip:
				skip = false
			case *a == "-o" || *a == "-c" || *a == "--option":
				skip = true
			case strings.HasPrefix(*a, "-"):
			case !found:
				found = true
				if !slices.Contains(subcommands, *a) {
					return &command.Unsupported{Command: name, What: *a}
				}
			}
		}
		return nil
	}
}

// runner is one call.
type runner struct {
	d       *download.Session
	scratch string
	offline bool
	call    *command.Proc
	arch    string
	quiet   int
	yes     bool
	policy  database.ConffilePolicy
	solve   solve.Options
	newPkgs bool
	db      *database.Database
}

func (r *runner) say(format string, args ...any) {
	if r.quiet < 1 {
		_, _ = fmt.Fprintf(r.call.Stdout, format+"\n", args...)
	}
}

// arch names a platform as Debian does; empty if Debian doesn't have it.
func arch(p platform.Platform) string {
	switch p.Architecture {
	case "amd64", "arm64", "riscv64", "s390x", "loong64":
		return p.Architecture
	case "386":
		return "i386"
	case "ppc64le":
		return "ppc64el"
	case "mips64le":
		return "mips64el"
	case "arm":
		if p.Variant == "v5" || p.Variant == "v6" {
			return "armel"
		}
		return "armhf"
	}
	return ""
}

func (o Options) runner(p *command.Proc) *runner {
	return &runner{d: o.Downloads, scratch: o.Scratch, offline: o.Offline, call: p, arch: arch(p.Platform), solve: solve.Options{Recommends: true}}
}

func (o Options) apt(ctx context.Context, p *command.Proc) (int, error) {
	name := path.Base(p.Args[0])
	opt, err := options.Parse(name, p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	if len(opt.Args) == 0 {
		return 0, &command.Unsupported{Command: name, What: "help"}
	}
	if !slices.Contains(subcommands, opt.Args[0]) {
		return 0, &command.Unsupported{Command: name, What: opt.Args[0]}
	}
	r := o.runner(p)
	if r.arch == "" {
		return 0, &command.Unsupported{Command: name, What: "packages for " + p.Platform.String()}
	}
	r.quiet, r.yes = len(opt.All["q"]), opt.Has["y"]
	r.newPkgs = opt.Has["with-new-pkgs"] || name == "apt"
	r.solve.AllowDowngrades, r.solve.AllowHeld = opt.Has["allow-downgrades"], opt.Has["allow-change-held-packages"]
	r.solve.OnlyUpgrade, r.solve.NoUpgrade = opt.Has["only-upgrade"], opt.Has["no-upgrade"]
	settings, err := r.configuration()
	if err != nil {
		return r.failed(err)
	}
	for _, text := range opt.All["o"] {
		k, v, _ := strings.Cut(text, "=")
		settings = append(settings, [2]string{k, v})
	}
	if u := r.apply(name, settings); u != nil {
		return 0, u
	}
	if opt.Has["no-install-recommends"] {
		r.solve.Recommends = false
	}
	if opt.Has["install-recommends"] {
		r.solve.Recommends = true
	}
	if p.UID != 0 {
		_, _ = fmt.Fprintln(p.Stderr, "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?")
		return 100, nil
	}
	switch sub, args := opt.Args[0], opt.Args[1:]; sub {
	case "update":
		if err := r.update(ctx); err != nil {
			return r.failed(err)
		}
		r.say("Reading package lists...")
	case "clean", "autoclean":
		return r.clean()
	case "autoremove":
		return r.autoremove(name, args)
	default:
		if err := r.change(ctx, sub, args, opt.Has["f"]); err != nil {
			return r.failed(err)
		}
	}
	return 0, nil
}

// failed turns an error into what apt prints, unless it ends the build.
func (r *runner) failed(err error) (int, error) {
	var u *command.Unsupported
	if errors.As(err, &u) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return 1, err
	}
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		_, _ = fmt.Fprintln(r.call.Stderr, "E: "+line)
	}
	return 100, nil
}

// configuration reads what of /etc/apt/apt.conf.d matters to what is installed.
func (r *runner) configuration() ([][2]string, error) {
	var list [][2]string
	children, err := r.call.Tree.ReadDir("/etc/apt/apt.conf.d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := []string{"/etc/apt/apt.conf"}
	for _, c := range children {
		names = append(names, "/etc/apt/apt.conf.d/"+c.Name)
	}
	for _, name := range names {
		data, err := r.call.Tree.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSuffix(strings.TrimSpace(line), ";")
			k, v, ok := strings.Cut(line, " ")
			if ok && (strings.EqualFold(k, "APT::Install-Recommends") || strings.EqualFold(k, "APT::Get::Assume-Yes")) {
				list = append(list, [2]string{k, strings.Trim(strings.TrimSpace(v), `"`)})
			}
		}
	}
	return list, nil
}

// apply takes settings over (apt.conf(5)). Those that change nothing of the result are
// known; others are refused.
func (r *runner) apply(name string, settings [][2]string) *command.Unsupported {
	for _, s := range settings {
		key, on := strings.ToLower(s[0]), slices.Contains([]string{"1", "true", "yes", "on", "with", "enable"}, strings.ToLower(s[1]))
		switch key {
		case "apt::install-recommends":
			r.solve.Recommends = on
		case "apt::get::assume-yes":
			r.yes = r.yes || on
		case "dpkg::options::", "dpkg::options":
			if u := r.force(name, s[1]); u != nil {
				return u
			}
		case "apt::install-suggests":
			if on {
				return &command.Unsupported{Command: name, What: "-o " + s[0]}
			}
		case "acquire::retries", "dpkg::use-pty", "acquire::http::timeout", "acquire::https::timeout", "apt::get::show-versions", "acquire::http::pipeline-depth", "acquire::languages", "apt::sandbox::user", "dpkg::progress-fancy", "acquire::queue-mode":
		default:
			return &command.Unsupported{Command: name, What: "-o " + s[0]}
		}
	}
	return nil
}

func (r *runner) force(name, option string) *command.Unsupported {
	for what := range strings.SplitSeq(strings.TrimPrefix(option, "--force-"), ",") {
		switch what {
		case "confdef":
			r.policy.Default = true
		case "confold":
			r.policy.Old = true
		case "confnew":
			r.policy.New = true
		case "confmiss":
			r.policy.Missing = true
		case "unsafe-io":
		default:
			return &command.Unsupported{Command: name, What: "the option " + option + " of dpkg"}
		}
	}
	return nil
}

// clean empties the cache of packages, which nothing puts any into here.
func (r *runner) clean() (int, error) {
	for _, dir := range []string{"/var/cache/apt/archives", "/var/cache/apt"} {
		children, err := r.call.Tree.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, c := range children {
			if strings.HasSuffix(c.Name, ".deb") || strings.HasSuffix(c.Name, ".bin") {
				if err := r.call.Tree.Remove(dir + "/" + c.Name); err != nil {
					return 1, err
				}
			}
		}
	}
	return 0, nil
}

// autoremove does nothing where there is nothing to remove; removing is refused.
func (r *runner) autoremove(name string, args []string) (int, error) {
	if len(args) > 0 {
		return 0, &command.Unsupported{Command: name + " autoremove", What: "naming packages"}
	}
	data, err := r.call.Tree.ReadFile("/var/lib/apt/extended_states")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	db, err := database.Open(r.call.Tree, database.Options{Now: r.call.Now})
	if err != nil {
		return r.failed(err)
	}
	needed := map[string]bool{}
	var need func(p *database.Package)
	installed := db.Installed()
	need = func(p *database.Package) {
		if needed[p.Name] {
			return
		}
		needed[p.Name] = true
		for _, field := range []string{"Pre-Depends", "Depends", "Recommends", "Suggests"} {
			list, err := control.ParseRelations(p.Control.Get(field))
			if err != nil {
				continue
			}
			for _, alternatives := range list {
				for _, rel := range alternatives {
					for _, q := range installed {
						if q.Name == rel.Name || providesName(q, rel.Name) {
							need(q)
						}
					}
				}
			}
		}
	}
	auto := autoInstalled(string(data))
	for _, p := range installed {
		if !auto[p.Name] || p.Control.Get("Essential") == "yes" {
			need(p)
		}
	}
	for _, p := range installed {
		if !needed[p.Name] {
			return 0, &command.Unsupported{Command: name, What: "autoremove, which would remove " + p.Name}
		}
	}
	return 0, nil
}

func providesName(p *database.Package, name string) bool {
	list, err := control.ParseRelations(p.Control.Get("Provides"))
	return err == nil && slices.ContainsFunc(list, func(a control.Alternatives) bool { return len(a) > 0 && a[0].Name == name })
}

func autoInstalled(text string) map[string]bool {
	auto := map[string]bool{}
	reader := control.NewReader(strings.NewReader(text))
	for {
		p, err := reader.Next()
		if err != nil {
			return auto
		}
		if p.Get("Auto-Installed") == "1" {
			auto[p.Get("Package")] = true
		}
	}
}

// open opens the database of the stage, whose scripts run in the interpreter.
func (r *runner) open() error {
	var err error
	r.db, err = database.Open(r.call.Tree, database.Options{Now: r.call.Now, Spool: database.SpoolTo(r.scratch), Conffiles: r.policy, Log: func(line string) { r.say("%s", line) }, Script: r.script})
	return err
}

// change is install and upgrade.
func (r *runner) change(ctx context.Context, sub string, args []string, fixBroken bool) error {
	if _, err := r.call.Tree.Stat("/var/lib/dpkg/status"); err != nil {
		return &command.Unsupported{Command: "apt-get", What: sub + " in a stage without a package database (/var/lib/dpkg/status)"}
	}
	for _, file := range []string{"/etc/apt/preferences"} {
		if _, err := r.call.Tree.Stat(file); err == nil {
			return &command.Unsupported{Command: "apt-get", What: "pins (" + file + ")"}
		}
	}
	if children, err := r.call.Tree.ReadDir("/etc/apt/preferences.d"); err == nil && len(children) > 0 {
		return &command.Unsupported{Command: "apt-get", What: "pins (/etc/apt/preferences.d/" + children[0].Name + ")"}
	}
	if err := r.open(); err != nil {
		return err
	}
	var installed []*solve.Package
	for _, p := range r.db.Installed() {
		q, err := solve.NewPackage(p.Control)
		if err != nil {
			return err
		}
		q.Hold = p.Want == "hold"
		installed = append(installed, q)
	}
	available, err := r.available(ctx)
	if err != nil {
		return err
	}
	local := map[string]string{}
	for i, a := range args {
		if strings.HasSuffix(a, ".deb") && strings.Contains(a, "/") {
			p, file, err := r.localPackage(a)
			if err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
			p.Origin = file
			available = append([]*solve.Package{p}, available...)
			args[i] = p.Name + "=" + p.Version.String()
			local[p.Name] = file
		}
	}
	universe := solve.New(r.arch, installed, available)
	var plan *solve.Plan
	switch {
	case sub == "upgrade":
		plan, err = universe.Upgrade(r.newPkgs, r.solve)
	case fixBroken && len(args) == 0:
		plan, err = universe.FixBroken(r.solve)
	default:
		plan, err = universe.Install(args, r.solve)
	}
	if err != nil {
		return err
	}
	for _, note := range plan.Notes {
		r.say("%s", note)
	}
	var names []string
	extra, upgraded, size := 0, 0, int64(0)
	for _, s := range plan.Steps {
		names = append(names, s.Name)
		if s.Old != nil {
			upgraded++
		}
		if s.Auto || s.Old != nil {
			extra++
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		r.say("The following packages will be installed or upgraded:\n  %s", strings.Join(names, " "))
	}
	r.say("%d upgraded, %d newly installed, 0 to remove and %d not upgraded.", upgraded, len(plan.Steps)-upgraded, len(plan.KeptBack))
	if extra > 0 && !r.yes {
		//lint:ignore ST1005 as apt says it
		return errors.New("Do you want to continue? [Y/n] Abort. (there is nobody to ask: apt-get -y)")
	}
	if len(plan.Steps) == 0 {
		return r.markAuto(plan)
	}
	archives := map[string]*archive.Package{}
	for _, s := range plan.Steps {
		a, err := r.fetch(ctx, s.Package)
		if err != nil {
			//lint:ignore ST1005 as apt says it
			return fmt.Errorf("Failed to fetch %s: %w", s.Package, err)
		}
		archives[s.Name] = a
		size++
	}
	actions, err := universe.Actions(plan)
	if err != nil {
		return err
	}
	for _, a := range actions {
		if a.Configure {
			r.say("Setting up %s (%s) ...", a.Name, a.Version)
			err = r.db.Configure(ctx, a.Name)
		} else {
			r.say("Unpacking %s (%s) ...", a.Name, a.Version)
			err = r.db.Unpack(ctx, archives[a.Name])
		}
		if err != nil {
			return err
		}
	}
	if err := r.db.ProcessTriggers(ctx); err != nil {
		return err
	}
	if err := r.db.Flush(); err != nil {
		return err
	}
	return r.markAuto(plan)
}

// markAuto keeps which packages nobody asked for (apt-mark(8)).
func (r *runner) markAuto(plan *solve.Plan) error {
	const file = "/var/lib/apt/extended_states"
	data, err := r.call.Tree.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(data)
	changed := false
	for _, s := range plan.Steps {
		if s.Auto && !autoInstalled(text)[s.Name] {
			architecture := s.Architecture
			if architecture == "all" {
				architecture = r.arch
			}
			text += "Package: " + s.Name + "\nArchitecture: " + architecture + "\nAuto-Installed: 1\n\n"
			changed = true
		}
	}
	auto := autoInstalled(text)
	for _, name := range plan.Asked {
		if auto[name] {
			text = strings.ReplaceAll(text, "Package: "+name+"\nArchitecture: "+r.arch+"\nAuto-Installed: 1\n\n", "")
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if err := r.call.Tree.MkdirAll(path.Dir(file), filetree.Attr{Mode: 0o755, ModTime: r.call.Now}); err != nil {
		return err
	}
	return r.call.Tree.WriteFile(file, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644, ModTime: r.call.Now})
}

// fetch gets the file of a package, checked by its index.
func (r *runner) fetch(ctx context.Context, p *solve.Package) (*archive.Package, error) {
	if file, ok := p.Origin.(string); ok {
		return open(file)
	}
	from, ok := p.Origin.(origin)
	if !ok {
		return nil, errors.New("it can't be downloaded")
	}
	sum, name := p.Control.Get("SHA256"), p.Control.Get("Filename")
	if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" || name == "" || path.Clean("/"+name) != "/"+strings.TrimPrefix(name, "./") {
		return nil, errors.New("its index has no SHA-256 checksum or no file name for it")
	}
	var mine string
	address := from.source.URI + strings.TrimPrefix(name, "./")
	r.say("Get: %s", download.Clean(address))
	if err := r.d.Checked(ctx, address, filepath.Join("apt", "packages", sum), r.offline, func(file string) error {
		return keep(file, releaseFile{sum, -1}, r.scratch, &mine)
	}); err != nil {
		return nil, err
	}
	a, err := open(mine)
	if err != nil {
		return nil, err
	}
	if a.Name != p.Name || a.Version.Compare(p.Version) != 0 || a.Architecture != p.Architecture {
		return nil, fmt.Errorf("it is %s %s for %s", a.Name, a.Version, a.Architecture)
	}
	return a, nil
}

// open opens a package file of this build, which stays open as long as the process:
// its content is read when it is unpacked.
func open(file string) (*archive.Package, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return archive.Open(f, info.Size())
}

// localPackage reads a .deb of the stage.
func (r *runner) localPackage(name string) (*solve.Package, string, error) {
	file, err := copyOut(r.call.Tree, r.call.Path(name), r.scratch)
	if err != nil {
		return nil, "", err
	}
	a, err := open(file)
	if err != nil {
		return nil, "", err
	}
	p, err := solve.NewPackage(a.Control)
	return p, file, err
}

// script runs a maintainer script in the stage.
func (r *runner) script(ctx context.Context, s *database.Script) error {
	if done, err := r.builtin(ctx, s); done || err != nil {
		return err
	}
	if err := r.db.Flush(); err != nil {
		return err
	}
	const dir = "/var/lib/dpkg/tmp.ci"
	file := "/var/lib/dpkg/info/" + s.Package + "." + s.Name
	temporary := false
	if _, err := r.call.Tree.Lstat(file); err != nil || s.Name == "preinst" {
		temporary = true
		file = dir + "/" + s.Name
		a := filetree.Attr{Mode: 0o755, ModTime: r.call.Now}
		if err := r.call.Tree.MkdirAll(dir, a); err != nil {
			return err
		}
		if err := r.call.Tree.WriteFile(file, filetree.Bytes(s.Content).Content(), a); err != nil {
			return err
		}
	}
	call := *r.call
	call.Dir = "/"
	call.Args = append([]string{file}, s.Args...)
	call.Env = map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DPKG_MAINTSCRIPT_PACKAGE": s.Package, "DPKG_MAINTSCRIPT_ARCH": s.Architecture,
		"DPKG_MAINTSCRIPT_NAME": s.Name, "DPKG_ROOT": "", "DPKG_ADMINDIR": "/var/lib/dpkg", "DPKG_RUNNING_VERSION": "1.21.22", "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT": "1",
		"DEBIAN_FRONTEND": "noninteractive", "HOME": "/root",
	}
	exit, err := r.call.Run(ctx, &call)
	var u *command.Unsupported
	if errors.As(err, &u) {
		return &command.Unsupported{Command: "apt-get", What: fmt.Sprintf("the %s (%s: %s)", s, u.Command, u.What), Fix: u.Fix}
	}
	if err != nil {
		return err
	}
	if temporary {
		if err := r.call.Tree.RemoveAll(dir); err != nil {
			return err
		}
	}
	if exit != 0 {
		return fmt.Errorf("the script ended with exit code %d", exit)
	}
	return nil
}

// dpkg is -i, and what says for which architecture the stage is.
var dpkgOptions = command.Options{Short: "i", Long: []string{"print-architecture", "install", "force-confold", "force-confnew", "force-confdef"}, Same: map[string]string{"install": "i"}}

func checkDpkg(args []*string) *command.Unsupported { return dpkgOptions.Check("dpkg")(args) }

func (o Options) dpkg(ctx context.Context, p *command.Proc) (int, error) {
	opt, err := dpkgOptions.Parse("dpkg", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	r := o.runner(p)
	if opt.Has["print-architecture"] {
		_, _ = fmt.Fprintln(p.Stdout, r.arch)
		return 0, nil
	}
	if !opt.Has["i"] || len(opt.Args) == 0 {
		return 0, &command.Unsupported{Command: "dpkg", What: "what isn't -i or --print-architecture"}
	}
	r.policy = database.ConffilePolicy{Default: opt.Has["force-confdef"], Old: opt.Has["force-confold"], New: opt.Has["force-confnew"]}
	if err := r.open(); err != nil {
		return r.failed(err)
	}
	var names []string
	err = func() error {
		for _, name := range opt.Args {
			file, err := copyOut(p.Tree, p.Path(name), o.Scratch)
			if err != nil {
				return err
			}
			a, err := open(file)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.say("Unpacking %s (%s) ...", a.Name, a.Version)
			if err := r.db.Unpack(ctx, a); err != nil {
				return err
			}
			names = append(names, a.Name)
		}
		for _, name := range names {
			r.say("Setting up %s ...", name)
			if err := r.db.Configure(ctx, name); err != nil {
				return err
			}
		}
		if err := r.db.ProcessTriggers(ctx); err != nil {
			return err
		}
		return r.db.Flush()
	}()
	if err != nil {
		code, err := r.failed(err)
		if code == 100 {
			code = 1
		}
		return code, err
	}
	return 0, nil
}

// copyOut copies a file of the stage to the scratch directory.
func copyOut(t *filetree.Tree, name, scratch string) (string, error) {
	in, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(scratch, "deb-*")
	if err != nil {
		return "", err
	}
	_, err = out.ReadFrom(in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return out.Name(), err
}
