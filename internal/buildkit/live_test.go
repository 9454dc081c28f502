package buildkit

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"github.com/anyarch/anyarch/internal/store"
)

// TestSigns takes whatever travels between a daemon and this machine for a sign of life.
func TestSigns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	s := &signs{}
	o := s.watched(client.SolveOpt{
		LocalMounts: map[string]fsutil.FS{"context": fs}, OCIStores: map[string]content.Store{"layout": newBlobs(st)},
		Exports: []client.ExportEntry{{Type: client.ExporterOCI, OutputStore: newBlobs(st)}},
	})
	sign := func(what string, do func() error) {
		t.Helper()
		s.last.Store(0)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if !s.seenSince(time.Unix(0, 0)) {
			t.Errorf("%s is no sign", what)
		}
	}
	d := ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4}
	sign("a file", func() error {
		f, err := o.LocalMounts["context"].Open("f")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.ReadAll(f)
		return err
	})
	sign("a blob that comes", func() error {
		w, err := o.Exports[0].OutputStore.Writer(t.Context(), content.WithRef("blob"), content.WithDescriptor(d))
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, "blob"); err != nil {
			return err
		}
		return w.Commit(t.Context(), d.Size, d.Digest)
	})
	sign("a blob that goes", func() error {
		r, err := o.OCIStores["layout"].ReaderAt(t.Context(), d)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.ReadAt(make([]byte, d.Size), 0)
		return err
	})
}
