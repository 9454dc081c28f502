// Package apk is Alpine's package manager, on a file tree: what `apk add` does in a
// container, for any architecture, without running anything of it.
//
// Indexes are trusted by the keys of the stage alone, packages by the index, files
// by the package: every link of that chain is checked before a file is used. The
// database (/lib/apk/db), /etc/apk/world, changed files below /etc, scripts and
// triggers are kept and run as apk does; scripts go through the same interpreter
// as RUN lines.
//
// Sources: apk(8), apk-world(5), apk-repositories(5), apk-v2(5), apk-package(5).
package apk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/apk/solve"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/platform"
)

// Command makes the command. offline says that the step must not use the network.
func Command(s *Session, offline bool) *command.Command {
	return &command.Command{Name: "apk", Check: check, Run: func(ctx context.Context, p *command.Proc) (int, error) {
		return s.run(ctx, p, offline)
	}}
}

// options of all subcommands, and what each of them knows beside them.
var common = command.Options{
	Short: "qvX:fUh",
	Long: []string{"quiet", "verbose", "repository=", "force", "update-cache", "no-cache", "no-progress", "progress", "no-interactive", "allow-untrusted",
		"force-overwrite", "force-refresh", "force-old-apk", "force-broken-world", "force-binary-stdout", "force-non-repository", "force-missing-repositories", "force-no-chroot",
		"wait=", "timeout=", "cache-max-age=", "repositories-file=", "print-arch", "version", "no-network", "purge", "clean-protected", "no-scripts", "no-commit-hooks",
		"no-logfile", "no-check-certificate", "preserve-env", "legacy-info", "no-chown"},
	Same: map[string]string{"quiet": "q", "verbose": "v", "repository": "X", "force": "f", "update-cache": "U", "update": "U", "upgrade": "u", "latest": "l", "virtual": "t",
		"installed": "e", "available": "a", "rdepends": "r"},
}

// refused are options of apk that mean something else than what can be done here.
var refused = []string{"no-check-certificate", "preserve-env", "force-no-chroot", "no-chown", "force-broken-world", "force-missing-repositories"}

type subcommand struct {
	short string
	long  []string
}

var subcommands = map[string]subcommand{
	"add":     {"ult:", []string{"upgrade", "latest", "virtual=", "update"}},
	"del":     {"r", []string{"rdepends"}},
	"update":  {"", nil},
	"upgrade": {"al", []string{"available", "latest", "ignore", "prune"}},
	"fix":     {"rdux", []string{"reinstall", "depends", "upgrade"}},
	"info":    {"e", []string{"installed"}},
	"cache":   {"", nil},
}

func optionsOf(sub string) command.Options {
	o := common
	if c, ok := subcommands[sub]; ok {
		o.Short += c.short
		o.Long = append(slices.Clone(o.Long), c.long...)
	}
	return o
}

// subcommandOf finds the applet: the first word that is no option nor its value.
func subcommandOf(args []*string) string {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == nil {
			return ""
		}
		switch {
		case *a == "-X" || *a == "--repository" || *a == "-t" || *a == "--virtual" || *a == "--wait" || *a == "--timeout" || *a == "--cache-max-age" || *a == "--repositories-file":
			i++
		case !strings.HasPrefix(*a, "-"):
			return *a
		}
	}
	return "-"
}

// check says before the build what can't be done.
func check(args []*string) *command.Unsupported {
	sub := subcommandOf(args)
	if sub == "" {
		return nil
	}
	if _, ok := subcommands[sub]; !ok && sub != "-" {
		return &command.Unsupported{Command: "apk", What: sub}
	}
	if u := optionsOf(sub).Check("apk " + strings.Trim(sub, "-"))(args); u != nil {
		return u
	}
	for _, a := range args {
		if a == nil {
			continue
		}
		for _, name := range refused {
			if *a == "--"+name {
				return &command.Unsupported{Command: "apk", What: "option --" + name}
			}
		}
		if sub == "upgrade" && (*a == "--prune" || *a == "--ignore") || sub == "fix" && (*a == "-x" || *a == "--xattr") || sub == "del" && (*a == "-r" || *a == "--rdepends") {
			return &command.Unsupported{Command: "apk " + sub, What: "option " + *a}
		}
	}
	if sub == "cache" {
		for i, a := range args {
			if a != nil && *a == "cache" && i+1 < len(args) && args[i+1] != nil && *args[i+1] != "clean" && *args[i+1] != "purge" {
				return &command.Unsupported{Command: "apk cache", What: *args[i+1]}
			}
		}
	}
	return nil
}

// flags are the options of one call.
type flags struct {
	sub                                                             string
	quiet                                                           bool
	verbose                                                         int
	noCache, noNetwork, allowUntrusted, forceOverwrite              bool
	cleanProtected, purge, noScripts, upgrade, latest, available    bool
	installed, reinstall, noHooks, printArch, version, updateCaches bool
	virtual, repositoriesFile                                       string
	repositories, args                                              []string
}

func parseFlags(p *command.Proc) (*flags, error) {
	pointers := make([]*string, len(p.Args)-1)
	for i := range pointers {
		pointers[i] = &p.Args[i+1]
	}
	if u := check(pointers); u != nil {
		return nil, u
	}
	sub := subcommandOf(pointers)
	o, err := optionsOf(sub).Parse("apk", p.Args[1:])
	if err != nil {
		return nil, err
	}
	f := &flags{sub: sub, quiet: o.Has["q"], verbose: len(o.All["v"]), noCache: o.Has["no-cache"], noNetwork: o.Has["no-network"], allowUntrusted: o.Has["allow-untrusted"],
		forceOverwrite: o.Has["force-overwrite"] || o.Has["f"], cleanProtected: o.Has["clean-protected"], purge: o.Has["purge"], noScripts: o.Has["no-scripts"],
		upgrade: o.Has["u"], latest: o.Has["l"], available: o.Has["a"], installed: o.Has["e"], reinstall: sub == "fix", noHooks: o.Has["no-commit-hooks"],
		printArch: o.Has["print-arch"], version: o.Has["version"], updateCaches: o.Has["U"],
		virtual: o.Values["t"], repositoriesFile: o.Values["repositories-file"], repositories: o.All["X"]}
	if sub == "fix" {
		f.upgrade = o.Has["u"]
	}
	if sub != "-" {
		f.args = o.Args[1:]
	}
	return f, nil
}

// arch names a platform as Alpine does; empty if Alpine doesn't have it.
func arch(p platform.Platform) string {
	switch p.Architecture {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "386":
		return "x86"
	case "arm":
		if p.Variant == "v6" || p.Variant == "v5" {
			return "armhf"
		}
		return "armv7"
	case "loong64":
		return "loongarch64"
	case "ppc64le", "s390x", "riscv64":
		return p.Architecture
	}
	return ""
}

// stageArch is the architecture of the packages of a stage.
func stageArch(p *command.Proc) (string, error) {
	if data, err := p.Tree.ReadFile("/etc/apk/arch"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name := strings.TrimSpace(line); plainName(name) {
				return name, nil
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if a := arch(p.Platform); a != "" {
		return a, nil
	}
	return "", &command.Unsupported{Command: "apk", What: "packages for " + p.Platform.String()}
}

func (s *Session) run(ctx context.Context, p *command.Proc, offline bool) (int, error) {
	f, err := parseFlags(p)
	if err != nil {
		return p.Failed(err)
	}
	if f.printArch {
		a, err := stageArch(p)
		if err != nil {
			return 2, err
		}
		_, _ = fmt.Fprintln(p.Stdout, a)
		return 0, nil
	}
	if f.version || f.sub == "-" {
		return 2, &command.Unsupported{Command: "apk", What: "asking for its version or help"}
	}
	if p.UID != 0 && f.sub != "info" {
		_, _ = fmt.Fprintln(p.Stderr, "ERROR: Unable to lock database: Permission denied\nERROR: Failed to open apk database: Permission denied")
		return 99, nil
	}
	db, err := openDatabase(p.Tree, p.Now)
	if err != nil {
		return s.failed(p, err)
	}
	r := &runner{Session: s, call: p, flags: f, db: db, offline: offline || f.noNetwork}
	switch f.sub {
	case "info":
		return r.info()
	case "cache":
		return r.cleanCache()
	case "update":
		return r.update(ctx)
	}
	return r.change(ctx)
}

// failed turns an error into what apk would print, unless it ends the build.
func (s *Session) failed(p *command.Proc, err error) (int, error) {
	var u *command.Unsupported
	if errors.As(err, &u) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return 1, err
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, " ") {
			line = "ERROR: " + line
		}
		_, _ = fmt.Fprintln(p.Stderr, line)
	}
	return 1, nil
}

// runner is one call of apk.
type runner struct {
	*Session
	call    *command.Proc
	flags   *flags
	db      *database
	offline bool

	arch     string
	keys     keyring
	repos    []*repository
	universe []*entry
	archives map[*entry]*archive // given as files
}

func (r *runner) say(format string, args ...any) {
	if !r.flags.quiet {
		_, _ = fmt.Fprintf(r.call.Stdout, format+"\n", args...)
	}
}

func (r *runner) info() (int, error) {
	if !r.flags.installed && len(r.flags.args) > 0 {
		return 2, &command.Unsupported{Command: "apk info", What: "describing packages"}
	}
	if !r.flags.installed {
		for _, p := range r.db.installed {
			line := p.Name
			if r.flags.verbose > 0 {
				line += "-" + p.Version
			}
			if r.flags.verbose > 1 {
				line += " - " + p.value('T')
			}
			_, _ = fmt.Fprintln(r.call.Stdout, line)
		}
		return 0, nil
	}
	missing := 0
	for _, name := range r.flags.args {
		d, err := solve.ParseDependency(name)
		if err != nil {
			return r.call.Errorf("%v", err)
		}
		found := false
		for _, p := range r.db.installed {
			if p.Name == d.Name && d.Matches(p.Version) {
				found = true
				_, _ = fmt.Fprintln(r.call.Stdout, name)
			}
		}
		if !found {
			missing++
		}
	}
	return missing, nil
}

func (r *runner) cleanCache() (int, error) {
	children, err := r.call.Tree.ReadDir("/var/cache/apk")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	for _, c := range children {
		if strings.HasSuffix(c.Name, ".apk") || strings.HasPrefix(c.Name, "APKINDEX.") && len(r.flags.args) > 0 && r.flags.args[0] == "purge" {
			if err := r.call.Tree.RemoveAll("/var/cache/apk/" + c.Name); err != nil {
				return 1, err
			}
		}
	}
	return 0, nil
}

// prepare reads what the stage says about repositories and keys, and the indexes.
func (r *runner) prepare(ctx context.Context) error {
	var err error
	if r.arch, err = stageArch(r.call); err != nil {
		return err
	}
	r.keys = keyring{}
	for _, dir := range []string{"/etc/apk/keys", "/usr/share/apk/keys/" + r.arch, "/lib/apk/keys"} {
		if err := r.readKeys(dir); err != nil {
			return err
		}
	}
	files := []string{"/etc/apk/repositories"}
	if r.flags.repositoriesFile != "" {
		files = []string{r.call.Path(r.flags.repositoriesFile)}
	} else if children, err := r.call.Tree.ReadDir("/etc/apk/repositories.d"); err == nil {
		for _, c := range children {
			if strings.HasSuffix(c.Name, ".list") {
				files = append(files, "/etc/apk/repositories.d/"+c.Name)
			}
		}
	}
	// Those of the command line come first in apk's order of preference.
	for _, text := range r.flags.repositories {
		list, err := parseRepositories(text+"\n", "--repository")
		if err != nil {
			return err
		}
		r.repos = append(r.repos, list...)
	}
	for _, name := range files {
		data, err := r.call.Tree.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		list, err := parseRepositories(string(data), name)
		if err != nil {
			return err
		}
		r.repos = append(r.repos, list...)
	}
	seen := map[string]bool{}
	r.repos = slices.DeleteFunc(r.repos, func(repo *repository) bool {
		key := repo.tag + " " + repo.url
		defer func() { seen[key] = true }()
		return seen[key]
	})
	return nil
}

func (r *runner) readKeys(dir string) error {
	children, err := r.call.Tree.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range children {
		if r.keys[c.Name] != nil {
			continue
		}
		data, err := r.call.Tree.ReadFile(dir + "/" + c.Name)
		if err != nil {
			continue // a link that leads nowhere
		}
		if err := r.keys.add(c.Name, data); err != nil && strings.HasSuffix(c.Name, ".pub") {
			return fmt.Errorf("%s/%s: %w", dir, c.Name, err)
		}
	}
	return nil
}

// readIndexes downloads and checks the index of every repository.
func (r *runner) readIndexes(ctx context.Context, keep bool) error {
	var failures []error
	for i, repo := range r.repos {
		address := repo.url + "/" + r.arch + "/APKINDEX.tar.gz"
		err := func() error {
			var file string
			var err error
			if repo.local {
				file, err = r.readLocal(r.call.Tree, address)
			} else {
				r.say("fetch %s", download.Clean(address))
				file, err = r.Latest(ctx, address, r.offline)
			}
			if err != nil {
				return err
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text, err := openIndex(data, r.keys, r.flags.allowUntrusted)
			if err != nil {
				return err
			}
			if keep && !repo.local {
				if err := r.keepIndex(repo, data); err != nil {
					return err
				}
			}
			index := r.parse(text, repo)
			for _, e := range index.entries {
				if e.Arch != "noarch" && e.Arch != r.arch && e.Arch != "" {
					continue
				}
				mine := *e
				mine.Repository, mine.repository = i, repo
				if repo.tag != "" {
					mine.Tags = []string{repo.tag}
				} else {
					mine.Untagged = true
				}
				r.universe = append(r.universe, &mine)
			}
			return nil
		}()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			failures = append(failures, fmt.Errorf("%s: %s: %w", repo.place, download.Clean(repo.url), err))
		}
	}
	return errors.Join(failures...)
}

// keepIndex leaves an index where apk does without --no-cache.
func (r *runner) keepIndex(repo *repository, data []byte) error {
	dir := "/var/cache/apk"
	if a, err := r.call.Tree.Stat(dir); err != nil || !a.IsDir() {
		return nil // apk keeps nothing then either
	}
	name := dir + "/" + repo.cacheName()
	if old, err := r.call.Tree.ReadFile(name); err == nil && string(old) == string(data) {
		return nil
	}
	return r.call.Tree.WriteFile(name, filetree.Bytes(data).Content(), filetree.Attr{Mode: 0o644, ModTime: r.call.Now})
}

func (r *runner) update(ctx context.Context) (int, error) {
	if err := r.prepare(ctx); err != nil {
		return r.failed(r.call, err)
	}
	if err := r.readIndexes(ctx, !r.flags.noCache); err != nil {
		return r.failed(r.call, err)
	}
	names := map[string]bool{}
	for _, e := range r.universe {
		names[e.Name] = true
	}
	r.say("OK: %d distinct packages available", len(names))
	return 0, nil
}

// change is add, del, upgrade and fix: a new world, what it takes, and the way there.
func (r *runner) change(ctx context.Context) (int, error) {
	if err := r.prepare(ctx); err != nil {
		return r.failed(r.call, err)
	}
	if err := r.hooks(); err != nil {
		return r.failed(r.call, err)
	}
	if r.flags.sub == "add" && len(r.flags.args) == 0 && r.flags.virtual == "" && !r.flags.upgrade {
		// apk add without a package brings the stage to what its world says.
		r.flags.upgrade = false
	}
	needIndexes := r.flags.sub != "del"
	if needIndexes {
		if err := r.readIndexes(ctx, !r.flags.noCache); err != nil {
			return r.failed(r.call, err)
		}
	}
	for _, p := range r.db.installed {
		r.addInstalled(p)
	}
	world, options, err := r.target()
	if err != nil {
		return r.failed(r.call, err)
	}
	all := make([]*solve.Package, len(r.universe))
	back := make(map[*solve.Package]*entry, len(r.universe))
	for i, e := range r.universe {
		all[i] = &e.Package
		back[&e.Package] = e
	}
	chosen, err := solve.Solve(ctx, all, world, options)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("unable to select packages:\n  %s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n  "))
	}
	if err != nil {
		return r.failed(r.call, err)
	}
	list := make([]*entry, len(chosen))
	for i, c := range chosen {
		list[i] = back[c]
	}
	if err := r.commit(ctx, world, list); err != nil {
		return r.failed(r.call, err)
	}
	return 0, nil
}

// addInstalled makes an installed package a candidate, unless an index has the very
// same one.
func (r *runner) addInstalled(p *installed) {
	for _, e := range r.universe {
		if e.Name == p.Name && e.Version == p.Version && e.Checksum == p.Checksum {
			e.Installed = true
			return
		}
	}
	mine := p.entry
	mine.Repository, mine.Installed, mine.Untagged = -1, true, true
	r.universe = append(r.universe, &mine)
}

// hooks refuses what apk would run around a change.
func (r *runner) hooks() error {
	if r.flags.noHooks || r.flags.noScripts {
		return nil
	}
	for _, dir := range []string{"/etc/apk/commit_hooks.d", "/lib/apk/commit_hooks.d"} {
		if children, err := r.call.Tree.ReadDir(dir); err == nil && len(children) > 0 {
			return &command.Unsupported{Command: "apk", What: "the hook " + dir + "/" + children[0].Name, Fix: "apk --no-commit-hooks"}
		}
	}
	return nil
}

// target is what the world shall be, and what may be newer than it is.
func (r *runner) target() ([]solve.Dependency, solve.Options, error) {
	world := slices.Clone(r.db.world)
	options := solve.Options{Upgrade: map[string]bool{}, Latest: r.flags.latest}
	set := func(d solve.Dependency) {
		for i := range world {
			if world[i].Name == d.Name {
				if d.Op == 0 && !d.Conflict && d.Tag == "" && world[i].Conflict == d.Conflict && r.flags.sub != "add" {
					return
				}
				world[i] = d
				return
			}
		}
		world = append(world, d)
	}
	if r.flags.sub == "del" {
		for _, name := range r.flags.args {
			d, err := solve.ParseDependency(name)
			if err != nil {
				return nil, options, err
			}
			before := len(world)
			world = slices.DeleteFunc(world, func(w solve.Dependency) bool { return w.Name == d.Name })
			if len(world) == before && r.db.find(d.Name) == nil {
				//lint:ignore ST1005 as apk says it
				return nil, options, fmt.Errorf("No such package: %s", d.Name)
			}
		}
		return world, options, nil
	}
	if r.flags.sub == "upgrade" && len(r.flags.args) == 0 {
		options.UpgradeAll = true
		if r.flags.available {
			for _, e := range r.universe {
				if e.Installed && e.Repository < 0 {
					e.Untagged = false
				}
			}
		}
		return world, options, nil
	}
	var wanted []solve.Dependency
	for _, arg := range r.flags.args {
		if strings.HasSuffix(arg, ".apk") && strings.Contains(arg, "/") || strings.HasSuffix(arg, ".apk") && r.exists(arg) {
			d, err := r.localPackage(arg)
			if err != nil {
				return nil, options, fmt.Errorf("%s: %w", arg, err)
			}
			wanted = append(wanted, d)
			continue
		}
		d, err := solve.ParseDependency(arg)
		if err != nil {
			return nil, options, fmt.Errorf("'%s' is not a valid %s dependency, format is name(@tag)([<>~=]version)", arg, r.flags.sub)
		}
		wanted = append(wanted, d)
	}
	switch r.flags.sub {
	case "upgrade", "fix":
		for _, d := range wanted {
			if r.db.find(d.Name) == nil {
				//lint:ignore ST1005 as apk says it
				return nil, options, fmt.Errorf("Package '%s' is not installed", d.Name)
			}
			if r.flags.sub == "upgrade" || r.flags.upgrade {
				options.Upgrade[d.Name] = true
			}
		}
		return world, options, nil
	}
	if r.flags.virtual != "" {
		v, err := r.virtual(wanted)
		if err != nil {
			return nil, options, err
		}
		wanted = []solve.Dependency{v}
	}
	for _, d := range wanted {
		set(d)
		if r.flags.upgrade {
			r.inherit(d.Name, options.Upgrade)
		}
	}
	if r.flags.upgrade && len(wanted) == 0 {
		for _, d := range world {
			r.inherit(d.Name, options.Upgrade)
		}
	}
	return world, options, nil
}

// inherit marks a package and what it depends on: apk add -u brings both up to date.
func (r *runner) inherit(name string, marked map[string]bool) {
	if marked[name] {
		return
	}
	marked[name] = true
	for _, e := range r.universe {
		if e.Name != name {
			continue
		}
		for _, d := range e.Depends {
			for _, p := range r.db.installed {
				if p.Name == d.Name || slices.ContainsFunc(p.Provides, func(q solve.Provide) bool { return q.Name == d.Name }) {
					r.inherit(p.Name, marked)
				}
			}
		}
	}
}

func (r *runner) exists(name string) bool {
	_, err := r.call.Tree.Stat(r.call.Path(name))
	return err == nil
}

// virtual makes the package of `apk add --virtual NAME`: nothing but dependencies.
// Its version is the time, as apk's is.
func (r *runner) virtual(depends []solve.Dependency) (solve.Dependency, error) {
	name := r.flags.virtual
	if !plainName(name) {
		return solve.Dependency{}, fmt.Errorf("'%s' is not a valid virtual package name", name)
	}
	version := r.call.Now.UTC().Format("20060102.150405")
	var words []string
	for _, d := range depends {
		words = append(words, d.String())
	}
	e := &entry{fields: []field{
		{'C', virtualChecksum(name, version, words)}, {'P', name}, {'V', version}, {'A', "noarch"}, {'S', "0"}, {'I', "0"}, {'T', "virtual meta package"},
	}}
	if len(words) > 0 {
		e.fields = append(e.fields, field{'D', strings.Join(words, " ")})
	}
	if err := e.parseFields(); err != nil {
		return solve.Dependency{}, err
	}
	e.Repository, e.Untagged = -1, true
	r.universe = append(r.universe, e)
	if r.archives == nil {
		r.archives = map[*entry]*archive{}
	}
	r.archives[e] = &archive{entry: e}
	return solve.ParseDependency(name + "=" + version)
}

// localPackage reads a package file of the stage.
func (r *runner) localPackage(name string) (solve.Dependency, error) {
	file, err := r.readLocal(r.call.Tree, r.call.Path(name))
	if err != nil {
		return solve.Dependency{}, err
	}
	a, err := openArchive(file, nil, r.keys, r.flags.allowUntrusted, r.scratch)
	if err != nil {
		return solve.Dependency{}, err
	}
	if a.entry.Arch != "noarch" && a.entry.Arch != r.arch {
		return solve.Dependency{}, fmt.Errorf("the package is for %s, the stage is for %s", a.entry.Arch, r.arch)
	}
	a.entry.fields = append([]field{{'C', a.entry.Checksum}}, a.entry.fields...)
	a.entry.Repository, a.entry.Untagged = -1, true
	if r.archives == nil {
		r.archives = map[*entry]*archive{}
	}
	r.archives[a.entry] = a
	r.universe = append(r.universe, a.entry)
	return solve.ParseDependency(a.entry.Name + "><" + a.entry.Checksum)
}

// commit downloads and checks everything first, and changes the stage then.
func (r *runner) commit(ctx context.Context, world []solve.Dependency, chosen []*entry) error {
	names := map[string]bool{}
	type step struct {
		new *entry
		old *installed
	}
	var steps []step
	for _, e := range chosen {
		names[e.Name] = true
		old := r.db.find(e.Name)
		again := r.flags.reinstall && (len(r.flags.args) == 0 && old != nil && old.value('f') != "" || slices.Contains(r.flags.args, e.Name)) && !r.flags.upgrade
		if e.Installed && !again {
			continue
		}
		steps = append(steps, step{e, old})
	}
	var gone []*installed
	for _, p := range slices.Backward(r.db.installed) {
		if !names[p.Name] {
			gone = append(gone, p)
		}
	}
	archives := make([]*archive, len(steps))
	for i, st := range steps {
		a, err := r.archive(ctx, st.new)
		if err != nil {
			return fmt.Errorf("%s-%s: %w", st.new.Name, st.new.Version, err)
		}
		archives[i] = a
	}
	t := &transaction{database: r.db, call: r.call, options: *r.flags, steps: len(steps) + len(gone)}
	if err := t.begin(); err != nil {
		return err
	}
	for _, p := range gone {
		if err := t.remove(ctx, p); err != nil {
			return err
		}
	}
	for i, st := range steps {
		tag := ""
		if st.new.repository != nil && st.new.repository.tag != "" {
			tag = "@" + st.new.repository.tag
		}
		if err := t.install(ctx, archives[i], st.old, tag); err != nil {
			return err
		}
	}
	r.db.world = world
	if t.steps > 0 {
		if err := t.fireTriggers(ctx); err != nil {
			return err
		}
	}
	if err := r.db.save(); err != nil {
		return err
	}
	if t.failedPackages > 0 {
		return fmt.Errorf("%d error; %s", t.failedPackages, r.summary())
	}
	r.say("OK: %s", r.summary())
	return nil
}

func (r *runner) summary() string {
	var size int64
	for _, p := range r.db.installed {
		size += p.InstalledSize
	}
	return strconv.FormatInt((size+1<<19)>>20, 10) + " MiB in " + strconv.Itoa(len(r.db.installed)) + " packages"
}

// archive gives a package's files, checked against its entry.
func (r *runner) archive(ctx context.Context, e *entry) (*archive, error) {
	if a := r.archives[e]; a != nil {
		return a, nil
	}
	want, err := parseChecksum(e.Checksum)
	if err != nil {
		return nil, err
	}
	if e.repository == nil {
		return nil, errors.New("no repository has this package")
	}
	var a *archive
	use := func(file string) error {
		got, err := openArchive(file, want, r.keys, false, r.scratch)
		if err != nil {
			return err
		}
		if got.entry.Name != e.Name || got.entry.Version != e.Version || got.entry.Arch != e.Arch {
			return fmt.Errorf("it is %s-%s for %s, the index says %s-%s for %s", got.entry.Name, got.entry.Version, got.entry.Arch, e.Name, e.Version, e.Arch)
		}
		got.entry.fields = append([]field{{'C', e.Checksum}}, got.entry.fields...)
		got.entry.Checksum = e.Checksum
		a = got
		return nil
	}
	file := e.Name + "-" + e.Version + ".apk"
	if e.repository.local {
		name, err := r.readLocal(r.call.Tree, path.Join(e.repository.url, r.arch, file))
		if err != nil {
			return nil, err
		}
		err = use(name)
		return a, err
	}
	err = r.Checked(ctx, e.repository.url+"/"+r.arch+"/"+file, filepath.Join("apk", r.arch, want.hex()+".apk"), r.offline, use)
	if a != nil && e.repository.tag != "" {
		a.entry.set('s', e.repository.tag)
	}
	return a, err
}
