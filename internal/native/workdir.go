package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/worktree"
)

// workName names the directory that a stage's processes run in: the same in the
// next run of the program, so that little has to be written. The base of a hosted
// stage is large: its platforms take turns in one directory.
func (in *invocation) workName(foreign bool) string {
	if in.hosted() {
		return in.stageName() + "-hosted"
	}
	label := first(strings.ReplaceAll(in.label, "/", "-"), "any")
	if foreign {
		label += "-foreign"
	}
	return in.stageName() + "-" + label
}

// cacheName names the directory of the caches of go commands that others could change.
func (in *invocation) cacheName() string {
	if in.hosted() {
		return in.stageName() + "-hosted.cache"
	}
	return in.workName(true) + ".cache"
}

func (in *invocation) stageName() string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, first(in.op.Stage, "stage"))
}

// worktrees are the directories that processes run in. Each belongs to one RUN at a
// time, whose processes may share it: those of a pipe do.
type worktrees struct {
	mu           sync.Mutex
	dir, scratch string
	open         map[string]*worktreeSlot
}

type worktreeSlot struct {
	dir  string
	mu   sync.Mutex // of tree
	tree *worktree.Worktree

	// Guarded by worktrees.mu.
	owner  *invocation
	active int           // processes of the owner
	free   chan struct{} // closed when the owner has gone
}

// path of a directory beside those of the worktrees.
func (w *worktrees) path(name string) string { return filepath.Join(w.dir, name) }

// take gives a RUN the directory of a name, and waits while another one has it.
func (w *worktrees) take(ctx context.Context, in *invocation, name string, rewriteLinks bool) (*worktreeSlot, func(), error) {
	for {
		slot, wait, err := w.try(ctx, in, name, rewriteLinks)
		if err != nil {
			return nil, nil, err
		}
		if wait == nil {
			return slot, func() { w.release(slot) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// try takes a directory if it is free or the RUN has it; else wait ends when it may be.
func (w *worktrees) try(ctx context.Context, in *invocation, name string, rewriteLinks bool) (_ *worktreeSlot, wait <-chan struct{}, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.open[name]
	if slot == nil {
		if err := os.MkdirAll(w.dir, 0o700); err != nil {
			return nil, nil, err
		}
		dir := w.path(name)
		tree, err := worktree.Open(ctx, worktree.Options{Dir: dir, Scratch: w.scratch, RewriteLinks: rewriteLinks, Skip: func(name string) bool {
			return name == goroot || strings.HasPrefix(name, goroot+"/")
		}})
		if err != nil {
			return nil, nil, err
		}
		slot = &worktreeSlot{dir: dir, tree: tree}
		w.open[name] = slot
	}
	if slot.owner != nil && slot.owner != in {
		return nil, slot.free, nil
	}
	if slot.owner == nil {
		slot.owner, slot.free = in, make(chan struct{})
	}
	slot.active++
	return slot, nil, nil
}

func (w *worktrees) release(slot *worktreeSlot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slot.active--; slot.active == 0 {
		slot.owner = nil
		close(slot.free)
	}
}

// checkout makes the directory what the tree is.
func (s *worktreeSlot) checkout(ctx context.Context, t *filetree.Tree) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.Checkout(ctx, t)
}

// commit brings back what processes changed.
func (s *worktreeSlot) commit(ctx context.Context, in *invocation, ignore func(string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.Commit(ctx, in.tree, in.uid, in.gid, in.b.now(), ignore)
}

// forget makes the directories that a RUN's processes ran in what its tree is now.
func (w *worktrees) forget(ctx context.Context, in *invocation) error {
	for _, foreign := range []bool{false, true} {
		w.mu.Lock()
		known := w.open[in.workName(foreign)] != nil
		w.mu.Unlock()
		if !known {
			continue
		}
		slot, release, err := w.take(ctx, in, in.workName(foreign), false)
		if err != nil {
			return err
		}
		err = slot.checkout(ctx, in.tree)
		release()
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *worktrees) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, slot := range w.open {
		errs = append(errs, slot.tree.Close())
	}
	w.open = map[string]*worktreeSlot{}
	return errors.Join(errs...)
}
