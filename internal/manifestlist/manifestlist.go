// Package manifestlist keeps the lists that docker manifest is making between its
// commands: create and annotate write them, push reads them.
//
// A list is one file, named by the digest of its name: docker's own, a directory per
// list with names that are only made safe, confuses app-arm64:v1 with app:arm64-v1. It
// is changed under a lock and replaced by a rename, so that a command which is killed
// leaves the old list or the new one.
package manifestlist

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// List is a list under creation.
type List struct {
	Name    string  `json:"name"` // canonical, such as docker.io/team/app:1.0
	Entries []Entry `json:"entries"`
	// Pushed is what the list was pushed as. A pushed list is done: creating it again
	// begins anew.
	Pushed digest.Digest `json:"pushed,omitempty"`
	// Stale says why the list isn't what its user means: create was refused because
	// the list was there, with other images. It can't be pushed then.
	Stale string `json:"stale,omitempty"`
}

// Entry is one image of a list.
type Entry struct {
	Ref        string             `json:"ref"`        // canonical, as it was given
	Repository string             `json:"repository"` // that has the image
	Descriptor ocispec.Descriptor `json:"descriptor"` // as the list will have it
	Manifest   []byte             `json:"manifest"`
	Config     []byte             `json:"config,omitempty"`
	With       []Entry            `json:"with,omitempty"`   // attestations of it
	Forced     []string           `json:"forced,omitempty"` // what annotate --force has overridden
}

// Find gives the index of the entry of an image: by the reference that it was given
// as, or by its digest; -1 if there is none.
func (l *List) Find(ref string, d digest.Digest) int {
	for i, e := range l.Entries {
		if e.Ref == ref {
			return i
		}
	}
	for i, e := range l.Entries {
		if d != "" && e.Descriptor.Digest == d {
			return i
		}
	}
	return -1
}

// Store is the lists of one machine. It may be used by any number of processes.
type Store struct{ dir string }

// Open keeps lists in dir, which is made when the first list is.
func Open(dir string) *Store { return &Store{dir: dir} }

func (s *Store) path(name string) string {
	return filepath.Join(s.dir, digest.FromString(name).Encoded()[:32]+".json")
}

// Get reads a list; an absent one wraps store.ErrNotFound.
func (s *Store) Get(name string) (*List, error) {
	data, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, store.ErrNotFound)
	}
	if err != nil {
		return nil, store.DiskError(s.dir, "read", err)
	}
	var l List
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, &refusal.Error{Code: "PA408", Place: s.path(name), Summary: "the list under creation can't be read", Seen: []string{err.Error()}, Err: err, Fix: []string{"docker manifest rm " + name}}
	}
	return &l, nil
}

// Update changes a list under the lock. change gets the list as it is, nil if there is
// none, and gives what it is to be; an error leaves everything as it was.
func (s *Store) Update(ctx context.Context, name string, change func(*List) (*List, error)) error {
	return s.locked(ctx, func() error {
		old, err := s.Get(name)
		if errors.Is(err, store.ErrNotFound) {
			old, err = nil, nil
		}
		if err != nil {
			return err
		}
		next, err := change(old)
		if err != nil || next == nil {
			return err
		}
		next.Name = name
		data, err := json.Marshal(next)
		if err != nil {
			return err
		}
		return s.replace(s.path(name), data)
	})
}

// Remove drops a list, readable or not; an absent one wraps store.ErrNotFound.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.locked(ctx, func() error {
		err := os.Remove(s.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, store.ErrNotFound)
		}
		if err != nil {
			return store.DiskError(s.dir, "remove", err)
		}
		return nil
	})
}

func (s *Store) locked(ctx context.Context, do func() error) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return store.DiskError(s.dir, "create", err)
	}
	lock := flock.New(filepath.Join(s.dir, ".lock"))
	held, err := lock.TryLock()
	if err == nil && !held {
		_, err = lock.TryLockContext(ctx, 5*time.Millisecond)
	}
	if err != nil {
		return store.DiskError(s.dir, "lock", err)
	}
	defer lock.Close()
	return do()
}

func (s *Store) replace(path string, data []byte) error {
	f, err := os.CreateTemp(s.dir, ".list-")
	if err != nil {
		return store.DiskError(s.dir, "write", err)
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return store.DiskError(s.dir, "write", err)
	}
	return nil
}
