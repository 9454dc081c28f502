package store

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"time"
)

// Memo remembers small results under keys that say all they depend on. It is a
// cache: what can't be read isn't there, and what can't be written is
// forgotten. It may be shared by goroutines and processes.
type Memo struct{ dir string }

// NewMemo keeps results in dir.
func NewMemo(dir string) *Memo { return &Memo{dir: dir} }

func (m *Memo) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(m.dir, name[:2], name[2:])
}

// Get gives what was put under key.
func (m *Memo) Get(key string) ([]byte, bool) {
	path := m.path(key)
	data, err := os.ReadFile(path)
	// A file that a crash has cut short or emptied counts as absent.
	if err != nil || !Intact(data) {
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // for pruning
	return data[sha256.Size:], true
}

// Intact reports whether the file of a result is as it was written.
func Intact(file []byte) bool {
	return len(file) >= sha256.Size && sha256.Sum256(file[sha256.Size:]) == [sha256.Size]byte(file[:sha256.Size])
}

// Put remembers data under key.
func (m *Memo) Put(key string, data []byte) {
	path := m.path(key)
	if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	sum := sha256.Sum256(data)
	_, err = f.Write(append(sum[:], data...))
	if closeErr := f.Close(); err != nil || closeErr != nil {
		return
	}
	_ = os.Rename(f.Name(), path)
}
