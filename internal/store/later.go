package store

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
)

// later makes blobs durable beside the work that goes on with them.
type later struct {
	mu      sync.Mutex // guards what follows, and the renames of pending blobs
	pending map[digest.Digest]*unsynced
	failed  error

	running sync.WaitGroup
	slots   chan struct{} // one for each file that is synced at once
}

// unsynced is a blob that is whole, but not yet in its place.
type unsynced struct {
	path string
	size int64
	done chan struct{}
}

// SyncLater lets Commit return before a blob is durable: it can be read at once by this
// Store, and gets its name in the layout when it has been synced, in the background. So
// a crash leaves no blob that isn't whole, as otherwise, but perhaps none where one was
// committed: right for a cache, whose blobs are on their way elsewhere. Wait waits for
// all. It must be called before the store is used.
func (s *Store) SyncLater() {
	if runtime.GOOS != "windows" { // which renames no file that somebody reads
		s.later = &later{pending: map[digest.Digest]*unsynced{}, slots: make(chan struct{}, 8)}
	}
}

// Wait waits until all blobs are durable. The error is that of the first that can't be;
// it isn't in the store then.
func (s *Store) Wait() error {
	if s.later == nil {
		return nil
	}
	s.later.running.Wait()
	s.later.mu.Lock()
	defer s.later.mu.Unlock()
	return s.later.failed
}

// Settle waits until a blob is where Path says. ErrNotFound if it isn't here.
func (s *Store) Settle(d digest.Digest) error {
	s.later.settle(d)
	_, err := s.Size(d)
	return err
}

// settle waits until a blob is in its place, if it is on its way there.
func (l *later) settle(d digest.Digest) {
	if l == nil {
		return
	}
	l.mu.Lock()
	u := l.pending[d]
	l.mu.Unlock()
	if u != nil {
		<-u.done
	}
}

// open opens a blob that is on its way; nil if it isn't.
func (l *later) open(d digest.Digest) (*os.File, error) {
	if l == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.pending[d]; u != nil {
		return os.Open(u.path)
	}
	return nil, nil
}

// size is that of a blob that is on its way.
func (l *later) size(d digest.Digest) (int64, bool) {
	if l == nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.pending[d]
	if u == nil {
		return 0, false
	}
	return u.size, true
}

// commit takes a blob that is whole from its writer, and gives it its name when it has
// been synced.
func (l *later) commit(w *Writer, d digest.Digest, path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[d] != nil {
		return // the writer is aborted: another one has brought the same
	}
	u := &unsynced{path: w.file.Name(), size: w.size, done: make(chan struct{})}
	l.pending[d] = u
	w.done = true
	l.running.Go(func() {
		l.slots <- struct{}{}
		defer func() { <-l.slots }()
		err := errors.Join(w.file.Sync(), w.file.Close())
		l.mu.Lock()
		w.unlock()
		if err == nil {
			err = os.Rename(u.path, path)
		}
		if err != nil {
			_ = os.Remove(u.path)
		}
		delete(l.pending, d)
		l.mu.Unlock()
		if err == nil {
			err = syncDir(filepath.Dir(path))
		}
		if err == nil && w.store.wrote != nil {
			w.store.wrote()
		}
		if err != nil {
			l.mu.Lock()
			l.failed = errors.Join(l.failed, w.store.fail("sync", err))
			l.mu.Unlock()
		}
		close(u.done)
	})
}
