package gobuild

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/fingerprint"
	"github.com/anyarch/anyarch/internal/gobuild/replay"
	"github.com/anyarch/anyarch/internal/platform"
)

// rememberVersion rises with every change of what is remembered of a build or how it
// is compared.
const rememberVersion = 3

// maxTree bounds how many names of modules that are edited here are looked at before
// a build of which isn't known yet what it reads.
const maxTree = 50_000

// Unchanged tells builds that would make again what they have made from others. It
// belongs to one run: what it has looked at isn't looked at twice.
type Unchanged struct {
	// Memo keeps what builds have read, between runs.
	Memo Memo
	// Self says which program this is, so that another version asks again.
	Self string

	once sync.Once
	view *fingerprint.View
}

// Memo remembers small results under keys that say all they depend on.
type Memo interface {
	Get(key string) ([]byte, bool)
	Put(key string, data []byte)
}

// first is the view that all comparisons of a run share.
func (u *Unchanged) first() *fingerprint.View {
	u.once.Do(func() { u.view = fingerprint.NewView() })
	return u.view
}

// buildRecord is what is remembered of one build.
type buildRecord struct {
	Inputs   *fingerprint.Snapshot `json:"inputs"`
	Programs []fingerprint.Stat    `json:"programs"` // in the order of the packages
	// Recipe is the sum of the one that belongs to the inputs; empty if there is none.
	Recipe string `json:"recipe,omitempty"`
}

// attempt is one build that may turn out to be superfluous.
type attempt struct {
	b       *Builder
	g       *group
	p       platform.Platform
	args    []string // of go build
	env     []string
	dir     string // of the programs; the caller holds its lock
	key     string
	before  *fingerprint.View
	old     *buildRecord
	relist  bool // what the build reads may differ from what it read
	started time.Time
	settled bool
	recipe  *replay.Recipe // of the programs as they are now
}

// attempt prepares a build; nil if nothing is to be remembered of it.
func (b *Builder) attempt(g *group, p platform.Platform, args, env []string, dir string) *attempt {
	if b.Unchanged == nil || !b.knowable(g, p) {
		return nil
	}
	// The directory may have programs of other packages too.
	packages := make([]string, len(g.packages))
	for i, pkg := range g.packages {
		packages[i] = pkg.ImportPath
	}
	key, err := json.Marshal([]any{"build", rememberVersion, b.Unchanged.Self, b.Toolchain.Identity(), b.Toolchain.Settings(), g.root, args, env, g.serial, dir, packages})
	if err != nil {
		return nil
	}
	return &attempt{b: b, g: g, p: p, args: args, env: env, dir: dir, key: string(key)}
}

// superfluous reports whether the build would make what is there already. If not,
// the inputs have been looked at for remember.
func (a *attempt) superfluous(ctx context.Context) bool {
	if a == nil {
		return false
	}
	a.relist = true
	if data, ok := a.b.Unchanged.Memo.Get(a.key); ok {
		var old buildRecord
		if json.Unmarshal(data, &old) == nil && old.Inputs != nil {
			a.old = &old
		}
	}
	a.before = a.b.Unchanged.first()
	if a.old != nil {
		verdict, err := a.old.Inputs.Compare(ctx, a.before)
		if err != nil {
			return false
		}
		if verdict <= fingerprint.Renewed && a.intact() {
			if verdict == fingerprint.Renewed {
				if renewed, err := a.old.Inputs.Renew(ctx, a.before); err == nil {
					a.put(buildRecord{Inputs: renewed, Programs: a.old.Programs, Recipe: a.old.Recipe})
				}
			}
			return true
		}
		a.relist = verdict == fingerprint.Changed
	}
	if a.relist {
		// The run's view may be older than what another build has fetched.
		a.before = fingerprint.NewView()
		if s, err := a.b.environment(a.g.root, a.env); err == nil {
			left := maxTree
			for _, m := range s.modules {
				a.before.Tree(m.dir, left)
			}
		}
	}
	return false
}

// intact reports whether the programs are those that the build has left.
func (a *attempt) intact() bool {
	if len(a.old.Programs) != len(a.g.packages) {
		return false
	}
	for _, intact := range a.intactPrograms() {
		if !intact {
			return false
		}
	}
	return true
}

// begin forgets what is known of the programs, which go build is about to replace,
// and notes when it starts.
func (a *attempt) begin() {
	if a == nil {
		return
	}
	if a.old != nil {
		a.b.Unchanged.Memo.Put(a.key, nil)
	}
	a.started, a.settled = a.before.Settle()
}

// remember finds out what a build that went well has read, and keeps it unless some
// of it was changed meanwhile. A failure only means that go is asked next time.
func (a *attempt) remember(ctx context.Context) {
	if a == nil || !a.settled {
		return
	}
	var inputs []fingerprint.Input
	var earlier *fingerprint.Snapshot
	if a.old != nil {
		earlier = a.old.Inputs
		inputs = earlier.Inputs()
	}
	if a.relist {
		var err error
		var dirs map[string]string
		if inputs, dirs, err = a.b.inputs(ctx, a.g, a.p, a.env); err != nil {
			return
		}
		if a.recipe != nil {
			a.recipe.Locate(dirs)
		}
	}
	snapshot, err := fingerprint.Take(ctx, inputs, a.before, a.started, earlier)
	if err != nil {
		return
	}
	if !a.relist && !snapshot.SealedAs(earlier) {
		return // the list may be another one
	}
	record := buildRecord{Inputs: snapshot}
	for _, pkg := range a.g.packages {
		info, err := os.Lstat(a.g.program(a.dir, pkg, a.p))
		if err != nil {
			return
		}
		record.Programs = append(record.Programs, fingerprint.StatOf(info))
	}
	a.learn(ctx)
	record.Recipe = a.putRecipe()
	a.put(record)
}

func (a *attempt) put(record buildRecord) {
	if data, err := json.Marshal(record); err == nil {
		a.b.Unchanged.Memo.Put(a.key, data)
	}
}

// listRecord is what is remembered of one go list.
type listRecord struct {
	Inputs   *fingerprint.Snapshot `json:"inputs"`
	Packages []Package             `json:"packages"`
}

// remembered is list, without go where nothing has changed since the last time.
func (b *Builder) remembered(ctx context.Context, root string, patterns []string, p platform.Platform, flags Flags) ([]Package, error) {
	key, inputs := b.listInputs(root, patterns, p, flags)
	if key == "" {
		return b.list(ctx, root, patterns, p, flags)
	}
	if packages, ok := b.recallList(ctx, key, root); ok {
		return packages, nil
	}
	before := fingerprint.NewView()
	for _, in := range inputs {
		before.See(in)
	}
	started, settled := before.Settle()
	packages, err := b.list(ctx, root, patterns, p, flags)
	if err != nil || !settled {
		return packages, err
	}
	if snapshot, err := fingerprint.Take(ctx, inputs, before, started, nil); err == nil {
		b.putList(key, listRecord{snapshot, packages})
	}
	return packages, nil
}

// recallList is what go list said the last time, if it would say the same again.
func (b *Builder) recallList(ctx context.Context, key, root string) ([]Package, bool) {
	data, ok := b.Unchanged.Memo.Get(key)
	var old listRecord
	if !ok || json.Unmarshal(data, &old) != nil || old.Inputs == nil {
		return nil, false
	}
	view := b.Unchanged.first()
	verdict, err := old.Inputs.Compare(ctx, view)
	// Without -deps, go list looks at a file no further than its imports.
	if err != nil || verdict > fingerprint.Content || verdict == fingerprint.Content && !old.Inputs.Sealed(ctx, view) {
		return nil, false
	}
	if verdict != fingerprint.Same {
		if taken, err := old.Inputs.Retake(ctx, view); err == nil {
			b.putList(key, listRecord{taken, old.Packages})
		}
	}
	for i := range old.Packages {
		old.Packages[i].root = root
	}
	return old.Packages, true
}

func (b *Builder) putList(key string, record listRecord) {
	if data, err := json.Marshal(record); err == nil {
		b.Unchanged.Memo.Put(key, data)
	}
}

// listInputs are what `go list -find` reads for patterns that are directories. The key
// is empty where that isn't known.
func (b *Builder) listInputs(root string, patterns []string, p platform.Platform, flags Flags) (key string, inputs []fingerprint.Input) {
	if b.Unchanged == nil || !b.knowable(&group{flags: flags}, p) {
		return "", nil
	}
	common, err := b.commonArgs(flags)
	if err != nil {
		return "", nil
	}
	env, err := b.env(root, p, flags)
	if err != nil {
		return "", nil
	}
	s, err := b.environment(root, env)
	if err != nil {
		return "", nil
	}
	for _, pattern := range patterns {
		if pattern != "." && !strings.HasPrefix(pattern, "./") {
			return "", nil
		}
		dir := filepath.Join(root, filepath.FromSlash(strings.TrimSuffix(pattern, "/...")))
		s.addWay(root, dir)
		switch {
		case strings.Contains(strings.TrimSuffix(pattern, "/..."), "..."):
			return "", nil
		case strings.HasSuffix(pattern, "/..."):
			s.add(fingerprint.Subtree(dir, fingerprint.Packages)...)
		default:
			s.add(fingerprint.Input{Dir: dir, Filter: fingerprint.Sources})
		}
	}
	data, err := json.Marshal([]any{"list", rememberVersion, b.Unchanged.Self, b.Toolchain.Identity(), b.Toolchain.Settings(), root, patterns, common, env})
	if err != nil {
		return "", nil
	}
	return string(data), s.inputs
}
