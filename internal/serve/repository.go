package serve

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/store"
)

// repository is one layout under the root. It may be used concurrently.
type repository struct {
	name  string
	store *store.Store
	facts *facts
	// writing holds back the other goroutines of this process, so that only
	// one of them at a time polls for the lock of the layout.
	writing chan struct{}

	mu   sync.Mutex // guards view and those who make it
	view *view
	file fs.FileInfo // of the index.json that view was made of
	read time.Time   // when that was
}

// dir is where a repository is or would be. The name is valid.
func (s *Server) dir(name string) string {
	if s.single != "" {
		return s.root
	}
	return filepath.Join(s.root, filepath.FromSlash(name))
}

// isLayout reports whether a directory is an OCI image layout.
func isLayout(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil && info.Mode().IsRegular()
}

// repository opens a repository that is there; NAME_UNKNOWN if it isn't.
func (s *Server) repository(name string) (*repository, error) {
	s.mu.Lock()
	repo := s.repos[name]
	s.mu.Unlock()
	if repo != nil {
		return repo, nil
	}
	if !isLayout(s.dir(name)) {
		return nil, nameUnknown(name)
	}
	st, err := store.Open(s.dir(name))
	if err != nil {
		return nil, err
	}
	return s.keep(name, st), nil
}

// create opens a repository to write to it, making it if it isn't there.
func (s *Server) create(name string) (*repository, error) {
	s.mu.Lock()
	repo := s.repos[name]
	s.mu.Unlock()
	if repo != nil && isLayout(repo.store.Dir()) { // it may have been removed by hand
		return repo, nil
	}
	st, err := store.Create(s.dir(name))
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) {
		p := nameInvalid(name)
		p.message += ": there is a file of that name in the directory of the layouts"
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	return s.keep(name, st), nil
}

func (s *Server) keep(name string, st *store.Store) *repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	if repo := s.repos[name]; repo != nil {
		return repo
	}
	repo := &repository{name: name, store: st, facts: &s.facts, writing: make(chan struct{}, 1)}
	s.repos[name] = repo
	return repo
}

func (s *Server) forget(repo *repository) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repos[repo.name] == repo {
		delete(s.repos, repo.name)
	}
}

// names lists the repositories that there are, in lexical order. Links to
// directories aren't followed, as they may lead in circles.
func (s *Server) names(ctx context.Context) ([]string, error) {
	if s.single != "" {
		return []string{s.single}, nil
	}
	var found []string
	var walk func(name string) error
	walk = func(name string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		dir := s.dir(name)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && name != "" {
			return nil
		}
		if err != nil {
			return store.DiskError(dir, "read", err)
		}
		for _, entry := range entries {
			child := entry.Name()
			if !entry.IsDir() || !validComponent(child) || reserved(child) {
				continue
			}
			if name != "" {
				child = name + "/" + child
			}
			if len(child) > maxName {
				continue
			}
			if isLayout(s.dir(child)) {
				found = append(found, child)
			}
			if err := walk(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(""); err != nil {
		return nil, err
	}
	slices.Sort(found)
	return found, nil
}

// racy is how long after a change of index.json its time of modification
// can't be relied on to tell that change from the next: file systems count
// time in ticks.
func racy(modified time.Time) time.Duration {
	if modified.Nanosecond() == 0 {
		return 2 * time.Second
	}
	return 100 * time.Millisecond
}

// current gives the repository's index.json as it is now, reading it only if
// it has changed; NAME_UNKNOWN if the layout has been removed.
func (s *Server) current(repo *repository) (*view, error) {
	repo.mu.Lock()
	defer repo.mu.Unlock()
	// Before reading: what changes in between is then seen as a change again.
	file, err := os.Stat(filepath.Join(repo.store.Dir(), ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		if isLayout(repo.store.Dir()) { // being made
			return newView(repo.store, repo.facts, ocispec.Index{}), nil
		}
		s.forget(repo)
		return nil, nameUnknown(repo.name)
	}
	if err != nil {
		return nil, store.DiskError(repo.store.Dir(), "read", err)
	}
	if repo.view != nil && os.SameFile(file, repo.file) && file.Size() == repo.file.Size() &&
		file.ModTime().Equal(repo.file.ModTime()) && repo.read.Sub(file.ModTime()) > racy(file.ModTime()) {
		return repo.view, nil
	}
	now := time.Now()
	index, err := repo.store.Index()
	for try := 0; err != nil && try < 3 && !errors.Is(err, fs.ErrNotExist); try++ {
		time.Sleep(10 * time.Millisecond) // some programs write index.json in place
		index, err = repo.store.Index()
	}
	if err != nil {
		return nil, err
	}
	repo.view, repo.file, repo.read = newView(repo.store, repo.facts, index), file, now
	return repo.view, nil
}

// find is repository and current in one.
func (s *Server) find(name string) (*repository, *view, error) {
	repo, err := s.repository(name)
	if err != nil {
		return nil, nil, err
	}
	v, err := s.current(repo)
	return repo, v, err
}

// update changes index.json under the lock of the layout. An unchanged index,
// for which change returns errUnchanged, isn't written.
func (r *repository) update(ctx context.Context, change func(v *view, index *ocispec.Index) error) error {
	release, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = r.store.UpdateIndex(ctx, func(index *ocispec.Index) error {
		return change(newView(r.store, r.facts, *index), index)
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// errUnchanged ends an update that has nothing to do.
var errUnchanged = errors.New("nothing to change")

// locked calls f under the lock of the layout, with the index as it is.
func (r *repository) locked(ctx context.Context, f func(v *view) error) error {
	release, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	unlock, err := r.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := r.store.Index()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f(newView(r.store, r.facts, index))
}

func (r *repository) turn(ctx context.Context) (release func(), err error) {
	select {
	case r.writing <- struct{}{}:
		return func() { <-r.writing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// has reports whether a blob is here, as a file of its own: links could lead
// out of the layout.
func (r *repository) has(d digest.Digest) bool {
	path, err := r.store.Path(d)
	if err != nil {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// open opens a blob for which has is true; an absent one is nil.
func (r *repository) open(d digest.Digest) (*os.File, error) {
	if !r.has(d) {
		return nil, nil
	}
	f, err := r.store.Blob(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}
