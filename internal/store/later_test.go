package store

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A blob that is still being synced is there for everybody who asks the store.
func TestSyncLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.SyncLater()
	other, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			content := bytes.Repeat([]byte{byte(i / 2)}, 100_000) // each is written twice
			d, err := s.Write(content)
			if err != nil {
				t.Error(err)
				return
			}
			if size, err := s.Size(d); err != nil || size != int64(len(content)) {
				t.Errorf("size %d: %v", size, err)
			}
			f, err := s.Blob(d)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if read, err := io.ReadAll(f); err != nil || !bytes.Equal(read, content) {
				t.Errorf("%d bytes: %v", len(read), err)
			}
			if err := other.Link(d, s); err != nil {
				t.Error(err)
			}
			if i%4 == 0 {
				if err := s.Settle(d); err != nil {
					t.Error(err)
				}
				path, err := s.Path(d)
				if err != nil {
					t.Error(err)
				} else if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{dir, other.Dir()} {
		blobs, err := os.ReadDir(filepath.Join(place, "blobs", "sha256"))
		if err != nil || len(blobs) != 20 {
			t.Errorf("%d blobs: %v", len(blobs), err)
		}
		for _, b := range blobs {
			data, err := os.ReadFile(filepath.Join(place, "blobs", "sha256", b.Name()))
			if err != nil || digest.FromBytes(data).Encoded() != b.Name() {
				t.Errorf("%s isn't what it is called: %v", b.Name(), err)
			}
		}
		left, err := os.ReadDir(filepath.Join(place, ingestDir))
		if err != nil || len(left) != 0 {
			t.Errorf("%d temporary files are left: %v", len(left), err)
		}
	}
	if err := s.Settle(digest.FromString("none")); err == nil {
		t.Error("a blob that isn't there has settled")
	}
}

// What can't be put into its place isn't there, and Wait says so.
func TestSyncLaterFails(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("blobs are synced at once on Windows")
	}
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.SyncLater()
	content := []byte("x")
	path, err := s.Path(digest.FromBytes(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in", "the", "way"), 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(""); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err == nil {
		t.Error("nothing went wrong")
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), ingestDir)); len(left) != 0 {
		t.Error(fmt.Sprint(left))
	}
}
