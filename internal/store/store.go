// Package store keeps blobs and tags on disk as an OCI image layout that
// survives crashes and shares well.
//
// A [Store] is one directory in the form of image-spec v1.1.1, image-layout.md.
// Blobs are immutable: they are written to a temporary file, hashed on the way,
// synced, renamed into place and the directory synced. index.json changes only
// under a file lock and only by rename. Any number of processes may use one
// directory at once; none of them loses what another has written, and a crash
// at any moment leaves the old state or the new one.
package store

import (
	"context"
	_ "crypto/sha512" // go-digest takes algorithms that are linked

	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
)

// ErrNotFound is what reading an absent blob or tag wraps.
var ErrNotFound = fs.ErrNotExist

// MaxManifestSize bounds what is read into memory as one manifest or index, in
// bytes. Registries accept 4 MiB (distribution-spec v1.1.1, "Pushing
// Manifests"); twice that is given to layouts.
const MaxManifestSize = 8 << 20

const (
	ingestDir = "ingest" // temporary files of blobs that are being written
	lockFile  = ".lock"
)

// Store is an OCI image layout on disk. Its methods may be called from any
// number of goroutines.
type Store struct {
	dir   string
	use   func(path string) (fs.FileInfo, error)
	wrote func()
	later *later // nil: Commit waits until a blob is durable
}

// Create opens the layout at dir, making it if it isn't there. Temporary files
// that dead processes left behind are removed.
func Create(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{filepath.Join(dir, "blobs", "sha256"), filepath.Join(dir, ingestDir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, s.fail("create", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); errors.Is(err, fs.ErrNotExist) {
		marker, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err != nil {
			return nil, err
		}
		if err := s.replace(ocispec.ImageLayoutFile, marker); err != nil {
			return nil, s.fail("create", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageIndexFile)); errors.Is(err, fs.ErrNotExist) {
		if err := s.UpdateIndex(context.Background(), func(*ocispec.Index) error { return nil }); err != nil {
			return nil, err
		}
	}
	s.sweep()
	return s, nil
}

// Open opens a layout that is there already, for reading or writing.
// A directory that isn't a layout is a [refusal.Error] with code PA604.
func Open(dir string) (*Store, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageLayoutFile))
	if err != nil {
		return nil, &refusal.Error{
			Code: "PA604", Place: dir, Summary: "not an OCI image layout", Err: err,
			Seen: []string{"there is no readable file oci-layout in it"},
			Fix:  []string{"anyarch build --output oci:" + dir},
		}
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(data, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return nil, &refusal.Error{
			Code: "PA604", Place: filepath.Join(dir, ocispec.ImageLayoutFile),
			Summary: fmt.Sprintf("not an OCI image layout of version %s", ocispec.ImageLayoutVersion), Err: err,
		}
	}
	return &Store{dir: dir}, nil
}

// Shared says that others may remove blobs that nobody has used for a while: use is
// called instead of os.Stat when a blob is looked for, and keeps it; wrote is called
// when there is a new one. It must be called before the store is used.
func (s *Store) Shared(use func(path string) (fs.FileInfo, error), wrote func()) {
	s.use, s.wrote = use, wrote
}

// Dir is the directory of the layout.
func (s *Store) Dir() string { return s.dir }

// Path is where the blob of a digest is or would be. Digests are validated, so
// that nothing outside the layout can be named.
func (s *Store) Path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", string(d), err)
	}
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// Size gives the size of a blob in bytes; ErrNotFound if it isn't here.
func (s *Store) Size(d digest.Digest) (int64, error) {
	path, err := s.Path(d)
	if err != nil {
		return 0, err
	}
	if size, ok := s.later.size(d); ok {
		return size, nil
	}
	stat := os.Stat
	if s.use != nil {
		stat = s.use
	}
	info, err := stat(path)
	if err != nil {
		return 0, s.fail("read", err)
	}
	return info.Size(), nil
}

// Has reports whether a blob is here.
func (s *Store) Has(d digest.Digest) bool {
	_, err := s.Size(d)
	return err == nil
}

// Blob opens a blob for reading. Blobs are verified when they are written, not
// when they are read; use [Verify] on layouts that others have written.
func (s *Store) Blob(d digest.Digest) (*os.File, error) {
	path, err := s.Path(d)
	if err != nil {
		return nil, err
	}
	if f, err := s.later.open(d); f != nil || err != nil {
		return f, err
	}
	if s.use != nil {
		if _, err := s.use(path); err != nil {
			return nil, s.fail("read", err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, s.fail("read", err)
	}
	return f, nil
}

// ReadBlob reads a small blob, such as a manifest or a config, and checks its
// digest. More than [MaxManifestSize] bytes are an error.
func (s *Store) ReadBlob(d digest.Digest) ([]byte, error) {
	f, err := s.Blob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxManifestSize+1))
	if err != nil {
		return nil, s.fail("read", err)
	}
	if len(data) > MaxManifestSize {
		return nil, fmt.Errorf("%s in %s is larger than %d bytes", d, s.dir, MaxManifestSize)
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, &refusal.Error{
			Code: "PA408", Place: f.Name(), Summary: "a blob of the layout is damaged",
			Seen: []string{"its bytes have the digest " + got.String()},
		}
	}
	return data, nil
}

// Delete removes a blob; removing an absent one is no error.
func (s *Store) Delete(d digest.Digest) error {
	path, err := s.Path(d)
	if err != nil {
		return err
	}
	s.later.settle(d)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("remove", err)
	}
	return nil
}

// Write stores small content, such as a manifest, and returns its digest.
func (s *Store) Write(data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	// What is there may be damaged.
	if size, err := s.Size(d); err == nil && size == int64(len(data)) {
		if _, err := s.ReadBlob(d); err == nil {
			return d, nil
		}
	}
	w, err := s.Ingest()
	if err != nil {
		return "", err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	if _, err := w.Commit(d); err != nil {
		return "", err
	}
	return d, nil
}

// Copy stores what r gives as the blob described by d. Bytes that don't have
// its digest, or its size if that is positive, aren't stored.
func (s *Store) Copy(d ocispec.Descriptor, r io.Reader) error {
	if s.Has(d.Digest) {
		return nil
	}
	w, err := s.Ingest()
	if err != nil {
		return err
	}
	defer w.Abort()
	if d.Size > 0 {
		r = io.LimitReader(r, d.Size+1)
	}
	n, err := io.Copy(w, r)
	if err != nil {
		return err
	}
	if d.Size > 0 && n != d.Size {
		return integrity(d.Digest.String(), fmt.Sprintf("%d bytes came instead of %d", n, d.Size))
	}
	_, err = w.Commit(d.Digest)
	return err
}

func integrity(place, seen string) error {
	return &refusal.Error{Code: "PA408", Place: place, Summary: "content differs from its digest", Seen: []string{seen}}
}

// Writer takes the bytes of one new blob. It isn't safe for concurrent use.
type Writer struct {
	store    *Store
	file     *os.File
	lock     *flock.Flock
	digester digest.Digester
	size     int64
	done     bool
}

// Ingest starts a new blob. Call Commit to keep it; Abort, which may be
// deferred, drops it and does nothing after Commit.
func (s *Store) Ingest() (*Writer, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, ingestDir), "blob-")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Join(s.dir, ingestDir), 0o755); err != nil {
			return nil, s.fail("write", err)
		}
		f, err = os.CreateTemp(filepath.Join(s.dir, ingestDir), "blob-")
	}
	if err != nil {
		return nil, s.fail("write", err)
	}
	w := &Writer{store: s, file: f, digester: digest.Canonical.Digester()}
	// The lock tells sweep, in another process, that the writer lives.
	w.lock = flock.New(f.Name())
	if _, err := w.lock.TryLock(); err != nil {
		w.lock = nil
	}
	return w, nil
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.digester.Hash().Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, w.store.fail("write", err)
	}
	return n, nil
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.size }

// Commit makes the blob durable, unless SyncLater was called, and gives its digest. If
// expected isn't empty the digest must be that one, of whatever algorithm, else nothing is
// kept and the error is a [refusal.Error] with code PA408.
func (w *Writer) Commit(expected digest.Digest) (digest.Digest, error) {
	defer w.Abort()
	got := w.digester.Digest()
	if expected != "" && expected.Algorithm() != got.Algorithm() {
		if err := expected.Validate(); err != nil {
			return "", integrity(expected.String(), err.Error())
		}
		if _, err := w.file.Seek(0, io.SeekStart); err != nil {
			return "", w.store.fail("read", err)
		}
		rehashed, err := expected.Algorithm().FromReader(w.file)
		if err != nil {
			return "", w.store.fail("read", err)
		}
		got = rehashed
	}
	if expected != "" && got != expected {
		return "", integrity(expected.String(), "its bytes have the digest "+got.String())
	}
	if err := w.file.Chmod(0o644); err != nil {
		return "", w.store.fail("write", err)
	}
	path, err := w.store.Path(got)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", w.store.fail("write", err)
	}
	if w.store.later != nil {
		w.store.later.commit(w, got, path)
		return got, nil
	}
	if err := w.file.Sync(); err != nil {
		return "", w.store.fail("sync", err)
	}
	if err := w.file.Close(); err != nil {
		return "", w.store.fail("write", err)
	}
	w.unlock() // Windows renames no open file
	if err := os.Rename(w.file.Name(), path); err != nil {
		return "", w.store.fail("write", err)
	}
	w.done = true
	if err := syncDir(filepath.Dir(path)); err != nil {
		return "", w.store.fail("sync", err)
	}
	if w.store.wrote != nil {
		w.store.wrote()
	}
	return got, nil
}

// Abort drops the blob unless it was committed.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.file.Close()
	w.unlock()
	os.Remove(w.file.Name())
}

func (w *Writer) unlock() {
	if w.lock != nil {
		_ = w.lock.Close()
		w.lock = nil
	}
}

// sweep removes temporary files whose writer is dead. One that is a few seconds
// old may belong to a writer that has yet to lock it.
func (s *Store) sweep() {
	entries, err := os.ReadDir(filepath.Join(s.dir, ingestDir))
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < 10*time.Second {
			continue
		}
		path := filepath.Join(s.dir, ingestDir, entry.Name())
		lock := flock.New(path, flock.SetFlag(os.O_RDWR))
		if held, err := lock.TryLock(); err != nil || !held {
			continue
		}
		os.Remove(path)
		lock.Close()
	}
}

// Lock takes the layout's lock, waiting until ctx ends, and returns what
// releases it. It keeps other processes and other goroutines out.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	lock := flock.New(filepath.Join(s.dir, lockFile))
	held, err := lock.TryLock()
	if err == nil && !held {
		_, err = lock.TryLockContext(ctx, 5*time.Millisecond)
	}
	if err != nil {
		return nil, s.fail("lock", err)
	}
	return func() { lock.Close() }, nil
}

// Index reads index.json.
func (s *Store) Index() (ocispec.Index, error) {
	path := filepath.Join(s.dir, ocispec.ImageIndexFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return ocispec.Index{}, s.fail("read", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return ocispec.Index{}, &refusal.Error{Code: "PA604", Place: path, Summary: "index.json of the layout isn't readable", Seen: []string{err.Error()}, Err: err}
	}
	return index, nil
}

// UpdateIndex changes index.json: change is called with its present content,
// under the lock, and what it leaves is written. If change returns an error
// nothing is written. Blobs that the new index names must be here already.
func (s *Store) UpdateIndex(ctx context.Context, change func(*ocispec.Index) error) error {
	unlock, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := s.Index()
	if errors.Is(err, fs.ErrNotExist) {
		index, err = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}, nil
	}
	if err != nil {
		return err
	}
	if err := change(&index); err != nil {
		return err
	}
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if err := s.replace(ocispec.ImageIndexFile, append(data, '\n')); err != nil {
		return s.fail("write", err)
	}
	return nil
}

// Tag lets name mean the manifest or index d, whose blob must be here. Another
// manifest that had the name loses it, and stays in the index untagged only if
// keepUntagged is set.
func (s *Store) Tag(ctx context.Context, name string, d ocispec.Descriptor, keepUntagged bool) error {
	if _, err := s.Size(d.Digest); err != nil {
		return fmt.Errorf("tag %s: %w", name, err)
	}
	return s.UpdateIndex(ctx, func(index *ocispec.Index) error {
		setTag(index, name, d, keepUntagged)
		return nil
	})
}

func setTag(index *ocispec.Index, name string, d ocispec.Descriptor, keepUntagged bool) {
	kept := index.Manifests[:0:0]
	for _, m := range index.Manifests {
		tag := m.Annotations[ocispec.AnnotationRefName]
		switch {
		case tag == name && m.Digest == d.Digest: // written again below
		case tag == name && keepUntagged:
			delete(m.Annotations, ocispec.AnnotationRefName)
			kept = append(kept, m)
		case tag == name:
		case tag == "" && m.Digest == d.Digest: // gains its name below
		default:
			kept = append(kept, m)
		}
	}
	annotations := map[string]string{ocispec.AnnotationRefName: name}
	for k, v := range d.Annotations {
		if k != ocispec.AnnotationRefName {
			annotations[k] = v
		}
	}
	d.Annotations = annotations
	d.Platform, d.Data, d.URLs = nil, nil, nil
	index.Manifests = append(kept, d)
}

// Find gives the descriptor that index.json has for a tag or a digest.
// ErrNotFound if there is none.
func (s *Store) Find(name string) (ocispec.Descriptor, error) {
	index, err := s.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] == name || m.Digest.String() == name {
			return m, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s in %s: %w", name, s.dir, ErrNotFound)
}

// replace writes a file of the layout as a whole or not at all.
func (s *Store) replace(name string, data []byte) error {
	f, err := os.CreateTemp(s.dir, "."+name+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	return err
}

// fail says what couldn't be done with the layout; see [DiskError].
func (s *Store) fail(verb string, err error) error { return DiskError(s.dir, verb, err) }

// DiskError turns an error of the operating system about a place on disk into
// a refusal, keeping the cause for errors.Is: PA601 if the disk is full, else
// PA602. What isn't there and what was cancelled stays as it is.
func DiskError(place, verb string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &refusal.Error{Code: "PA602", Place: place, Summary: "can't " + verb + " here", Seen: []string{err.Error()}, Err: err}
	if isFull(err) {
		e.Code, e.Summary = "PA601", "the disk is full"
		e.Fix = []string{"free some space, or put the layout elsewhere with --output oci:DIR and the cache with ANYARCH_CACHE=DIR"}
	}
	return e
}
