package replay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
)

// Options say where and how tools run.
type Options struct {
	// Root is the directory that the recorded go command ran in.
	Root string
	// Work is an empty directory on the file system of the programs.
	Work string
	// Kept is a directory for compiled packages, which later replays need. It belongs to
	// the recipe: what else is in it is removed.
	Kept string
	// Parallel is how many tools run at once; 0 for as many as there are cores.
	Parallel int
	// Run runs a program of the toolchain in Root; env are variables that it needs besides
	// those of the go command.
	Run func(ctx context.Context, env, args []string) error
}

// Replay makes what edits change. It gives the recipe of what is there then, and the
// programs that were linked: files in Work, by the import paths of their main packages. If
// it can't do exactly what the go command would, or a tool fails, the error wraps
// [ErrUnknown].
func (r *Recipe) Replay(ctx context.Context, edits []Edit, o Options) (*Recipe, map[string]string, error) {
	p := &replay{
		Options: o, recipe: r, edits: map[string][sha256.Size]byte{}, used: map[string]bool{}, checked: map[string]bool{},
		done: map[string]chan struct{}{}, ids: map[string]string{},
		after: &Recipe{Packages: map[string]*Package{}, Programs: maps.Clone(r.Programs), Archives: maps.Clone(r.Archives)},
	}
	for _, e := range edits {
		p.edits[e.Path] = e.Sum
	}
	if p.Parallel <= 0 {
		p.Parallel = runtime.GOMAXPROCS(0)
	}
	p.slots = make(chan struct{}, p.Parallel)
	linked, err := p.run(ctx)
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	p.tidy()
	return p.after, linked, nil
}

// replay is the state of one Replay.
type replay struct {
	Options
	recipe *Recipe
	edits  map[string][sha256.Size]byte // by path
	slots  chan struct{}                // one for each tool that may run
	done   map[string]chan struct{}     // closed when a package is as it should be

	mu      sync.Mutex        // guards what follows
	used    map[string]bool   // edits that went into a package
	checked map[string]bool   // packages whose archives are what they should be
	ids     map[string]string // build IDs of packages that are new
	after   *Recipe
}

func (p *replay) run(ctx context.Context) (map[string]string, error) {
	if err := p.ordered(); err != nil {
		return nil, err
	}
	for importPath := range p.recipe.Packages {
		p.done[importPath] = make(chan struct{})
	}
	packages, packagesCtx := errgroup.WithContext(ctx)
	for importPath := range p.recipe.Packages {
		packages.Go(func() error { return p.compile(packagesCtx, importPath) })
	}
	if err := packages.Wait(); err != nil {
		return nil, err
	}
	if err := p.covered(); err != nil {
		return nil, err
	}
	linked := map[string]string{}
	programs, programsCtx := errgroup.WithContext(ctx)
	for importPath := range p.recipe.Programs {
		programs.Go(func() error {
			program, err := p.link(programsCtx, importPath)
			if program != "" {
				p.mu.Lock()
				linked[importPath] = program
				p.mu.Unlock()
			}
			return err
		})
	}
	return linked, programs.Wait()
}

// ordered refuses what the go command can't have built: packages that import each other.
func (p *replay) ordered() error {
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case 1:
			return fmt.Errorf("%s imports itself", name)
		case 2:
			return nil
		}
		state[name] = 1
		for _, next := range imports(p.recipe.Packages[name].Hashed) {
			if p.recipe.Packages[next] != nil {
				if err := visit(next); err != nil {
					return err
				}
			}
		}
		state[name] = 2
		return nil
	}
	for name := range p.recipe.Packages {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}

// compile makes a package as it should be, when those that it imports are.
func (p *replay) compile(ctx context.Context, importPath string) error {
	was := p.recipe.Packages[importPath]
	for _, name := range imports(was.Hashed) {
		if done := p.done[name]; done != nil {
			select {
			case <-done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	defer close(p.done[importPath]) // after an error ctx has ended
	p.mu.Lock()
	hashed := p.update(was.Hashed, was.Dir)
	p.mu.Unlock()
	action := actionID(hashed)
	made := *was
	if !strings.HasPrefix(was.ID, action+"/") {
		made.Hashed = hashed
		archive, err := p.runCompiler(ctx, &made, action)
		if err != nil {
			return fmt.Errorf("%s: %w", importPath, err)
		}
		p.mu.Lock()
		p.ids[importPath], p.after.Archives[importPath] = made.ID, archive
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.after.Packages[importPath] = &made
	p.mu.Unlock()
	return nil
}

// runCompiler compiles a package, gives it its ID, and says where the archive is.
func (p *replay) runCompiler(ctx context.Context, made *Package, action string) (archive string, err error) {
	if !made.known() {
		return "", errors.New("it isn't known how it is compiled")
	}
	work, err := os.MkdirTemp(p.Work, "b")
	if err != nil {
		return "", err
	}
	for _, f := range made.Files {
		text, err := p.expand(f.Text)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(work, f.Name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	args := slices.Clone(made.Tool.Args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "$WORK", work)
		if i > 0 && args[i-1] == "-buildid" {
			args[i] = action + "/" + action
		}
	}
	if err := p.tool(ctx, made.Tool.Env, args); err != nil {
		return "", err
	}
	out := filepath.Join(work, "_pkg_.a")
	if made.ID, err = buildid.Stamp(out, action+"/"+action); err != nil {
		return "", err
	}
	archive = filepath.Join(p.Kept, strings.ReplaceAll(made.ID, "/", ".")+".a")
	return archive, os.Rename(out, archive)
}

// expand names the archives in a list of imports.
func (p *replay) expand(text string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "packagefile "); ok {
			name = strings.TrimSuffix(name, "\n")
			file := p.after.Archives[name]
			if file == "" {
				return "", errors.New("it isn't known where " + name + " is")
			}
			if err := p.check(name, file); err != nil {
				return "", err
			}
			line = "packagefile " + name + "=" + file + "\n"
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

// check reads an archive that replays have kept, once: nobody else looks after them.
// p.mu is held.
func (p *replay) check(name, file string) error {
	if filepath.Dir(file) != p.Kept || p.checked[name] || p.ids[name] != "" {
		return nil
	}
	pkg := p.recipe.Packages[name]
	if pkg == nil || !buildid.Has(file, pkg.ID) {
		return errors.New(file + " is damaged")
	}
	p.checked[name] = true
	return nil
}

// covered refuses edits of which it isn't known what they do. Go files of a package that
// don't go into it, such as tests, do nothing.
func (p *replay) covered() error {
	for path := range p.edits {
		// A file may go into several packages, if it is embedded.
		for importPath, pkg := range p.recipe.Packages {
			if !pkg.known() && pkg.mayRead(path) {
				return errors.New(importPath + ": it isn't known how it is compiled")
			}
		}
		if p.used[path] {
			continue
		}
		known := false
		for _, pkg := range p.recipe.Packages {
			known = known || pkg.known() && pkg.Dir == filepath.Dir(path)
		}
		if !known || filepath.Ext(path) != ".go" {
			return errors.New("it isn't known what " + path + " is for")
		}
	}
	return nil
}

// link makes a program, if anything in it is new, and says where it is.
func (p *replay) link(ctx context.Context, importPath string) (program string, err error) {
	was := p.recipe.Programs[importPath]
	main := p.after.Packages[importPath]
	if main == nil {
		return "", errors.New(importPath + ": it isn't known how it is compiled")
	}
	made := *was
	p.mu.Lock()
	made.Hashed = p.update(was.Hashed, "")
	p.mu.Unlock()
	if !setMain(made.Hashed, main.ID) {
		return "", errors.New(importPath + ": the go command keeps its main package elsewhere")
	}
	action := actionID(made.Hashed)
	if action == actionID(was.Hashed) {
		return "", nil
	}
	work, err := os.MkdirTemp(p.Work, "l")
	if err != nil {
		return "", err
	}
	var list strings.Builder
	for _, name := range made.Imports {
		list.WriteString("packagefile " + name + "\n")
	}
	text, err := p.expand(list.String())
	if err != nil {
		return "", fmt.Errorf("%s: %w", importPath, err)
	}
	importcfg := filepath.Join(work, "importcfg.link")
	if err := os.WriteFile(importcfg, []byte(text+made.Module), 0o644); err != nil {
		return "", err
	}
	out, id := filepath.Join(work, "a.out"), action+"/"+main.ID+"/"+action
	args := slices.Clone(made.Tool.Args)
	// The first ID is the go command's. The linker prefers one that -ldflags has chosen.
	given, chosen := false, false
	for i := 1; i < len(args); i++ {
		switch {
		case args[i-1] == "-o":
			args[i] = out
		case args[i-1] == "-importcfg":
			args[i] = importcfg
		case !given && strings.HasPrefix(args[i], "-buildid="):
			args[i], given = "-buildid="+id, true
		case strings.HasPrefix(args[i], "-buildid"), strings.HasPrefix(args[i], "--buildid"):
			chosen = true
		case i == len(args)-1:
			args[i] = p.after.Archives[importPath]
		case strings.Contains(args[i], "$WORK"):
			return "", errors.New(importPath + ": the linker reads " + args[i])
		}
	}
	if err := p.tool(ctx, made.Tool.Env, args); err != nil {
		return "", fmt.Errorf("%s: %w", importPath, err)
	}
	if !chosen {
		if _, err := buildid.Stamp(out, id); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(out, 0o755); err != nil {
		return "", err
	}
	p.mu.Lock()
	p.after.Programs[importPath] = &made
	p.mu.Unlock()
	return out, nil
}

// tool runs a program of the toolchain in its turn.
func (p *replay) tool(ctx context.Context, env, args []string) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.slots }()
	return p.Run(ctx, env, args)
}

// tidy removes the archives that no recipe needs any more. Replays of the same programs
// never run at the same time.
func (p *replay) tidy() {
	used := map[string]bool{}
	for _, file := range p.after.Archives {
		used[file] = true
	}
	entries, err := os.ReadDir(p.Kept)
	if err != nil {
		return
	}
	for _, e := range entries {
		if file := filepath.Join(p.Kept, e.Name()); !used[file] && file != p.Work {
			_ = os.RemoveAll(file) // what stays is removed next time
		}
	}
}
