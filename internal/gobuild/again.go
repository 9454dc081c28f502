package gobuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/anyarch/anyarch/internal/fingerprint"
	"github.com/anyarch/anyarch/internal/gobuild/replay"
)

// recipeVersion rises with every change of what a recipe is.
const recipeVersion = 3

// errPlainly is why a go command has to run without anybody listening: to say to people
// what is wrong.
var errPlainly = errors.New("the go command has to say it itself")

// replays reports whether builds are recorded, so that an edit needn't start go.
// Signatures of Mach-O programs are made by the go command, and what it prints on Windows
// hasn't been compared.
func (a *attempt) replays() bool { return a != nil && a.p.OS == "linux" && runtime.GOOS != "windows" }

func (a *attempt) recipeKey() string {
	data, err := json.Marshal([]any{"recipe", recipeVersion, a.key})
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(data)
}

// goBuild runs go build and records what it does. errPlainly means that it has to be run
// again, or for the first time.
func (a *attempt) goBuild(ctx context.Context, env, args []string) error {
	if !a.replays() {
		return errPlainly
	}
	recorder, err := a.record(ctx, env, args)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errPlainly
	}
	earlier, sum := a.oldRecipe()
	if !a.relist && sum != a.old.Recipe {
		earlier = nil // packages may have been elsewhere
	}
	a.recipe = recorder.Recipe(earlier)
	return nil
}

// record runs a go command and listens to what it does.
func (a *attempt) record(ctx context.Context, env, args []string) (*replay.Recorder, error) {
	recorder := replay.NewRecorder(a.g.root)
	args = slices.Concat(args[:1], replay.Flags, args[1:])
	cmd := a.b.Toolchain.Command(ctx, a.g.root, slices.Concat(env, replay.Env), args...)
	cmd.Stderr = recorder
	return recorder, traced(ctx, "go "+args[0], a.p, cmd, args)
}

// lessons bounds how many packages are compiled to see how it is done.
const lessons = 12

// learn finds out how the packages are compiled that go had in its cache when a project
// was built here for the first time, so that its first edit can be replayed too.
func (a *attempt) learn(ctx context.Context) {
	if a.recipe == nil || !a.relist {
		return
	}
	unknown := a.recipe.Unknown()
	if len(unknown) == 0 || len(unknown) > lessons {
		return
	}
	args := slices.Concat([]string{"list", "-export"}, a.args[1:])
	for _, importPath := range unknown {
		args = append(args, "-gcflags="+importPath+"="+replay.Teaching)
	}
	if recorder, err := a.record(ctx, a.env, append(args, unknown...)); err == nil {
		recorder.Teach(a.recipe)
	}
}

// oldRecipe is the one that was remembered last, and the sum of it. It needn't be that
// of the last build.
func (a *attempt) oldRecipe() (*replay.Recipe, string) {
	data, ok := a.b.Unchanged.Memo.Get(a.recipeKey())
	var r replay.Recipe
	if !ok || json.Unmarshal(data, &r) != nil {
		return nil, ""
	}
	return &r, sumOf(data)
}

// putRecipe remembers the recipe and gives its sum; empty if there is none. Whoever is
// ended between this and the record of the build leaves a recipe that nothing refers to.
func (a *attempt) putRecipe() string {
	if a.recipe == nil {
		return ""
	}
	data, err := json.Marshal(a.recipe)
	if err != nil {
		return ""
	}
	a.b.Unchanged.Memo.Put(a.recipeKey(), data)
	return sumOf(data)
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// replay makes what an edit changes without asking go what that is. It is false where
// that isn't known exactly, and go has to be asked.
func (a *attempt) replay(ctx context.Context) (bool, error) {
	if !a.replays() || a.old == nil || a.relist {
		return false, nil
	}
	recipe, sum := a.oldRecipe()
	if recipe == nil || sum != a.old.Recipe {
		return false, nil // it is of another build than the inputs
	}
	var edits []replay.Edit
	for _, e := range a.old.Inputs.Edits(a.before) {
		sum, err := hex.DecodeString(e.Sum)
		if err != nil || len(sum) != sha256.Size {
			return false, nil
		}
		edits = append(edits, replay.Edit{Path: e.Path, Sum: [sha256.Size]byte(sum)})
	}
	for _, pkg := range a.g.packages {
		if recipe.Programs[pkg.ImportPath] == nil {
			return false, nil
		}
	}
	if len(a.g.packages) != len(recipe.Programs) {
		return false, nil
	}
	kept := a.dir + ".cache" // internal/cache knows it by this name
	if os.MkdirAll(kept, 0o755) != nil {
		return false, nil // go build says what is wrong with the disk
	}
	work, err := os.MkdirTemp(kept, "work-")
	if err != nil {
		return false, nil
	}
	defer os.RemoveAll(work)
	parallel, done, err := a.b.Jobs.start(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	intact := a.intactPrograms()
	if a.begin(); !a.settled {
		return false, nil // what is edited meanwhile wouldn't be noticed
	}
	sealed := make(chan bool, 1)
	go func() { sealed <- a.old.Inputs.Sealed(ctx, a.before) }()
	made, linked, err := recipe.Replay(ctx, edits, replay.Options{
		Root: a.g.root, Work: work, Kept: kept, Parallel: parallel, Run: a.runTool,
	})
	// What was compiled must be what has been looked at: a program with the ID of another
	// text would be taken for that one's.
	if !<-sealed || err != nil || !a.old.Inputs.Still(ctx, a.before) {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, nil // go tells why, or does it
	}
	// What wasn't linked must be what it was.
	for _, pkg := range a.g.packages {
		if !intact[pkg.ImportPath] && linked[pkg.ImportPath] == "" {
			return false, nil
		}
	}
	for _, pkg := range a.g.packages {
		if program := linked[pkg.ImportPath]; program != "" && os.Rename(program, a.g.program(a.dir, pkg, a.p)) != nil {
			return false, nil
		}
	}
	a.recipe = made
	return true, nil
}

// runTool runs a compiler or a linker of the toolchain.
func (a *attempt) runTool(ctx context.Context, env, args []string) error {
	// GOROOT/pkg/tool/linux_amd64/compile
	goroot := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(args[0]))))
	return traced(ctx, filepath.Base(args[0]), a.p, a.b.Toolchain.Tool(ctx, goroot, a.g.root, slices.Concat(a.env, env), args), args)
}

// intactPrograms are those that the last build has left.
func (a *attempt) intactPrograms() map[string]bool {
	intact := map[string]bool{}
	if a == nil || a.old == nil {
		return intact
	}
	for i, pkg := range a.g.packages {
		info, err := os.Lstat(a.g.program(a.dir, pkg, a.p))
		intact[pkg.ImportPath] = err == nil && i < len(a.old.Programs) && info.Mode().IsRegular() && fingerprint.StatOf(info) == a.old.Programs[i]
	}
	return intact
}
