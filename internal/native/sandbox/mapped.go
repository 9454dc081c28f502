package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/refusal"
)

// mapped runs go commands with the paths of the host's directory in the place of
// the stage's.
type mapped struct{}

// Name implements [Runner].
func (mapped) Name() string { return "mapped" }

// mapping is one command on its way from the stage's paths to the host's.
type mapping struct {
	c    Command
	work string // the go.work in use, on the host; empty if none
}

// path gives the host's path of one of the stage, after all symbolic links.
func (m *mapping) path(name string) (string, error) {
	at, err := resolve(m.c.Root, path.Join("/", name))
	if err != nil {
		return "", err
	}
	return m.real(at), nil
}

// real gives the host's path of a canonical one: in a cache, the toolchain or a
// mount if it is there, else in the root.
func (m *mapping) real(at string) string {
	for _, d := range m.elsewhere() {
		if rest, ok := below(d.target, at); ok {
			return filepath.Join(d.host, filepath.FromSlash(rest))
		}
	}
	return inside(m.c.Root, at)
}

type elsewhere struct{ host, target string }

// elsewhere lists directories of the stage that aren't in its root, inner before
// outer.
func (m *mapping) elsewhere() []elsewhere {
	var all []elsewhere
	for _, d := range []elsewhere{{m.c.Goroot, m.c.GorootTarget}, {m.c.ModCache, m.c.ModCacheTarget}, {m.c.BuildCache, m.c.BuildCacheTarget}} {
		if d.host != "" && d.target != "" {
			d.target = path.Clean(d.target)
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b elsewhere) int { return len(b.target) - len(a.target) })
	return all
}

// join gives the stage's path of an argument. One that climbs above the root stays
// at it, as in a container.
func join(dir, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", dir, name)
}

// Run implements [Runner].
func (r mapped) Run(ctx context.Context, c Command) (int, error) {
	words := make([]*string, len(c.Args))
	for i := range c.Args {
		words[i] = &c.Args[i]
	}
	if u := r.Check(words, Environ(c.Root, c.Env)); u != nil {
		return 0, u
	}
	if !isGo(c.Args[0], c.GorootTarget) {
		return 0, &command.Unsupported{Command: c.Args[0], What: "running a program of the stage without the sandbox", Fix: fix}
	}
	args, done := keepCaches(c)
	if done {
		return 0, nil
	}
	c.Args = args
	// Links in the path of the directory itself would be seen in the output.
	root, err := filepath.EvalSymlinks(c.Root)
	if err != nil {
		return 0, err
	}
	c.Root = root
	m := mapping{c: c}
	l := readGo(pointers(c.Args))
	dir, err := m.modules(&l)
	if err != nil {
		return 0, err
	}
	if !confines() {
		if err := noLinksOut(root); err != nil {
			return 0, err
		}
	}
	args, err = m.arguments(&l)
	if err != nil {
		return 0, err
	}
	env, err := m.environment(&l)
	if err != nil {
		return 0, err
	}
	unmount, err := m.mount()
	if err != nil {
		return 0, err
	}
	exit, err := m.start(ctx, args, env, dir)
	if uerr := unmount(); err == nil && uerr != nil {
		err = uerr
	}
	return exit, err
}

func pointers(args []string) []*string {
	words := make([]*string, len(args))
	for i := range args {
		words[i] = &args[i]
	}
	return words
}

// arguments maps the command line.
func (m *mapping) arguments(l *goLine) ([]string, error) {
	args := slices.Clone(m.c.Args)
	v, _ := verb(l.verb)
	dir := m.c.Dir
	for _, f := range l.flags {
		if f.value == nil || f.in < 0 || v.flags[f.name] != pathFlag || f.name == "pgo" && (*f.value == "auto" || *f.value == "off") {
			continue
		}
		to, err := m.path(join(dir, *f.value))
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(*f.value, "/") {
			to += string(filepath.Separator) // for -o it says that this is a directory
		}
		if f.name == "o" && *f.value == "/dev/null" {
			to = os.DevNull
		}
		if f.in == f.at {
			to = "-" + f.name + "=" + to
		}
		args[f.in] = to
		if f.name == "C" {
			dir = join(dir, *f.value)
		}
	}
	for _, i := range l.rest {
		arg := args[i]
		if v.args == wordArgs || v.args == insideArgs || v.args == packageArgs && !isPathArg(arg) || l.on("m") && l.verb != "version" {
			continue
		}
		if !path.IsAbs(arg) && !strings.HasPrefix(path.Clean(arg), "..") {
			continue // the same from the real directory
		}
		clean, pattern := arg, ""
		if at := strings.Index(arg, "..."); at >= 0 {
			slash := strings.LastIndex(arg[:at], "/")
			clean, pattern = arg[:slash+1], arg[slash+1:]
		}
		if clean == "" {
			continue
		}
		to, err := m.path(join(dir, clean))
		if err != nil {
			return nil, err
		}
		args[i] = filepath.Join(to, pattern)
	}
	args[0] = filepath.Join(m.c.Goroot, "bin", "go")
	if runtime.GOOS == "windows" {
		args[0] += ".exe"
	}
	return args, nil
}

// modules finds what the go command will take for its modules, and refuses those
// that lead out of the root. It gives the directory that the command begins in.
func (m *mapping) modules(l *goLine) (dir string, err error) {
	begin, err := resolve(m.c.Root, path.Join("/", m.c.Dir))
	if err != nil {
		return "", err
	}
	at := begin
	if f, ok := l.flag("C"); ok && f.value != nil {
		if at, err = resolve(m.c.Root, join(begin, *f.value)); err != nil {
			return "", err
		}
	}
	all := Environ(m.c.Root, m.c.Env)
	switch name := all["GOWORK"]; name {
	case "off":
	case "":
		m.work = m.above(at, "go.work")
	default:
		if m.work, err = m.path(name); err != nil {
			return "", err
		}
	}
	if m.work != "" && l.verb != "env" {
		if err := m.checkWork(); err != nil {
			return "", err
		}
	}
	mod := m.above(at, "go.mod")
	if f, ok := l.flag("modfile"); ok && f.value != nil {
		if mod, err = m.path(join(at, *f.value)); err != nil {
			return "", err
		}
	}
	if mod != "" {
		return m.real(begin), m.checkMod(mod, l)
	}
	// Without one in the stage, go would go on to look above its root.
	for d := filepath.Dir(m.c.Root); ; d = filepath.Dir(d) {
		if info, err := os.Stat(filepath.Join(d, "go.mod")); err == nil && info.Mode().IsRegular() {
			return "", &refusal.Error{
				Code: "PA130", Place: filepath.Join(d, "go.mod"), Summary: "a go.mod above the build's directory would be taken for that of the stage",
				Fix: []string{"ANYARCH_CACHE=DIR   # a directory that is in no module"},
			}
		}
		if d == filepath.Dir(d) {
			return m.real(begin), nil
		}
	}
}

// above looks for a file in a directory of the stage and those above it.
func (m *mapping) above(dir, name string) string {
	for ; ; dir = path.Dir(dir) {
		file := filepath.Join(m.real(dir), name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file
		}
		if dir == "/" {
			return ""
		}
	}
}

// checkWork refuses a go.work that names directories outside.
func (m *mapping) checkWork() error {
	data, err := os.ReadFile(m.work)
	if err != nil {
		return nil // go says it better
	}
	f, err := modfile.ParseWork(m.work, data, nil)
	if err != nil {
		return nil
	}
	for _, use := range f.Use {
		if err := m.checkDir(m.work, use.Path); err != nil {
			return err
		}
		if err := m.checkMod(filepath.Join(filepath.Dir(m.work), filepath.FromSlash(use.Path), "go.mod"), nil); err != nil {
			return err
		}
	}
	return m.checkReplace(m.work, f.Replace)
}

// checkMod refuses a go.mod with replacements outside.
func (m *mapping) checkMod(file string, l *goLine) error {
	if l != nil && (l.verb == "mod edit" || l.verb == "env" || l.verb == "version" || l.verb == "fmt") {
		return nil // they don't load it
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	f, err := modfile.ParseLax(file, data, nil)
	if err != nil {
		return nil
	}
	// ParseLax leaves replacements out; Parse knows all that is allowed now.
	if strict, err := modfile.Parse(file, data, nil); err == nil {
		f = strict
	} else if bytes.Contains(data, []byte("replace")) {
		return nil // go refuses the file as well
	}
	return m.checkReplace(file, f.Replace)
}

func (m *mapping) checkReplace(file string, replaced []*modfile.Replace) error {
	for _, r := range replaced {
		if r.New.Version == "" {
			if err := m.checkDir(file, r.New.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkDir refuses a directory that would be another one on this machine than in
// the stage.
func (m *mapping) checkDir(file, dir string) error {
	shown := m.stagePath(file)
	if path.IsAbs(dir) || filepath.IsAbs(dir) {
		return refuse("the absolute path "+dir+" in "+shown, "write it relative to "+path.Base(shown)+", or "+fix)
	}
	depth := strings.Count(strings.Trim(path.Dir(shown), "/"), "/") + 1
	if path.Dir(shown) == "/" {
		depth = 0
	}
	for part := range strings.SplitSeq(path.Clean(filepath.ToSlash(dir)), "/") {
		if part == ".." {
			depth--
		}
		if depth < 0 {
			return refuse("the path "+dir+" in "+shown+", which leads out of the stage", "")
		}
		if part != ".." {
			break
		}
	}
	return nil
}

// stagePath is the stage's path of a host's file in the root.
func (m *mapping) stagePath(file string) string {
	if rel, err := filepath.Rel(m.c.Root, file); err == nil && filepath.IsLocal(rel) {
		return "/" + filepath.ToSlash(rel)
	}
	return filepath.ToSlash(file)
}

// noLinksOut makes sure that no symbolic link of the root leads out of it, where
// nothing else would stop the toolchain from following it.
func noLinksOut(root string) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return err
		}
		to, err := os.Readlink(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Join(filepath.Dir(name), to))
		if filepath.IsAbs(to) || err != nil || !filepath.IsLocal(rel) {
			rel, _ := filepath.Rel(root, name)
			return refuse("the symbolic link /"+filepath.ToSlash(rel)+", which leads out of the stage", "")
		}
		return nil
	})
}

// mount puts files of the host, such as secrets, into the root for the time of one
// command. Directories can't be: the toolchain would see where they are.
func (m *mapping) mount() (func() error, error) {
	var points mountPoints
	var files []string
	undo := func() error {
		var errs []error
		for _, f := range files {
			if err := os.Truncate(f, 0); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(append(errs, points.remove())...)
	}
	for _, mount := range m.c.Mounts {
		at, err := resolve(m.c.Root, mount.Target)
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		if slices.ContainsFunc(m.elsewhere(), func(d elsewhere) bool { return d.target == at }) {
			continue // a cache that go is pointed to anyway
		}
		real := inside(m.c.Root, at)
		if _, err := os.Lstat(real); !mount.File || err == nil {
			return nil, errors.Join(undo(), refuse("a mount at "+mount.Target, ""))
		}
		mount.Target = at
		if err = points.make(m.c.Root, []Mount{mount}); err == nil {
			files = append(files, real)
			err = fill(real, mount.Host)
		}
		if err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	return undo, nil
}

// fill copies a file into one that is there; nobody else may read it.
func fill(name, from string) error {
	if err := os.Chmod(name, 0o600); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// start runs the go command and translates what it writes.
func (m *mapping) start(ctx context.Context, args, env []string, dir string) (int, error) {
	out, errs := m.translate(m.c.Stdout), m.translate(m.c.Stderr)
	cmd, done, err := m.command(ctx, args, env, dir)
	if err != nil {
		return 0, err
	}
	defer done()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, out, errs // no go command here reads its input
	cmd.WaitDelay = 5 * time.Second
	// A signal at our death is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	flushed := errors.Join(out.flush(), errs.flush())
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		if code := cmd.ProcessState.ExitCode(); code >= 0 {
			return code, flushed
		}
		return 137, flushed
	}
	if err != nil {
		return 0, fmt.Errorf("start go: %w", err)
	}
	return 0, flushed
}
