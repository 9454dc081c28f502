package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/refusal"
)

func create(t *testing.T) *Store {
	t.Helper()
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, content string) ocispec.Descriptor {
	t.Helper()
	d, err := s.Write([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(content))}
}

func codeOf(err error) string {
	if list := refusal.All(err); len(list) > 0 {
		return list[0].Code
	}
	return ""
}

func leftovers(t *testing.T, s *Store) []string {
	t.Helper()
	var left []string
	err := filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(s.Dir(), path)
		switch {
		case err != nil || d.IsDir(), rel == "oci-layout", rel == "index.json", rel == lockFile, strings.HasPrefix(rel, "blobs"):
		default:
			left = append(left, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	s := create(t)
	d := put(t, s, "content")
	if data, err := s.ReadBlob(d.Digest); err != nil || string(data) != "content" {
		t.Errorf("read %q, %v", data, err)
	}
	wrong := ocispec.Descriptor{Digest: digest.FromString("other"), Size: 5}
	for name, err := range map[string]error{
		"other bytes": s.Copy(wrong, strings.NewReader("abcde")),
		"too short":   s.Copy(wrong, strings.NewReader("abc")),
		"too long":    s.Copy(wrong, strings.NewReader("other and more")),
	} {
		if codeOf(err) != "PA408" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Has(wrong.Digest) {
		t.Error("wrong bytes were stored")
	}
	sum := digest.SHA512.FromString("by sha512")
	if err := s.Copy(ocispec.Descriptor{Digest: sum}, strings.NewReader("by sha512")); err != nil || !s.Has(sum) {
		t.Errorf("sha512: %v", err)
	}
	if _, err := s.Blob(digest.FromString("absent")); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	for _, bad := range []digest.Digest{"sha256:../../../etc/passwd", "sha256:AB", "md5:00", "", "sha256:"} {
		if _, err := s.Blob(bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
	path, err := s.Path(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadBlob(d.Digest); codeOf(err) != "PA408" {
		t.Errorf("damage isn't noticed: %v", err)
	}
	if left := leftovers(t, s); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// A writer that died leaves a file that the next user of the layout removes; a
// writer that lives keeps its own.
func TestSweep(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("open files can't be removed there anyway")
	}
	s := create(t)
	dead := filepath.Join(s.Dir(), ingestDir, "blob-dead")
	if err := os.WriteFile(dead, []byte("half a blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	old := time.Now().Add(-time.Hour)
	for _, file := range []string{dead, w.file.Name()} {
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Create(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the dead writer's file is still there")
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(""); err != nil {
		t.Errorf("the living writer lost its file: %v", err)
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := create(t)
	ctx := context.Background()
	a, b := put(t, s, "a"), put(t, s, "b")
	for _, step := range []struct {
		name string
		d    ocispec.Descriptor
	}{{"1.0", a}, {"latest", a}, {"latest", b}, {"latest", b}} {
		if err := s.Tag(ctx, step.name, step.d, false); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]digest.Digest{"1.0": a.Digest, "latest": b.Digest, a.Digest.String(): a.Digest} {
		if got, err := s.Find(name); err != nil || got.Digest != want {
			t.Errorf("%s names %s, %v", name, got.Digest, err)
		}
	}
	index, err := s.Index()
	if err != nil || len(index.Manifests) != 2 {
		t.Errorf("%d entries, %v", len(index.Manifests), err)
	}
	if err := s.Tag(ctx, "ghost", ocispec.Descriptor{Digest: digest.FromString("ghost")}, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("a tag without its blob: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	unlock, err := s.Lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Tag(cancelled, "late", a, false); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the lock isn't cancelled: %v", err)
	}
	unlock()
}

// Eight writers in two processes on one layout: no tag may be lost.
func TestConcurrentTags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const writers, each = 4, 12
	child := exec.Command(os.Args[0], "-test.run=^TestTagWriter$")
	child.Env = append(os.Environ(), "STORE_TEST_DIR="+dir, "STORE_TEST_NAME=child", fmt.Sprintf("STORE_TEST_WRITERS=%d", writers), fmt.Sprintf("STORE_TEST_EACH=%d", each))
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	writeTags(t, dir, "parent", writers, each)
	if err := child.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := s.Index()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(index.Manifests), 2*writers*each; got != want {
		t.Errorf("%d tags, want %d", got, want)
	}
	if left := leftovers(t, s); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestTagWriter is the other process of TestConcurrentTags.
func TestTagWriter(t *testing.T) {
	dir := os.Getenv("STORE_TEST_DIR")
	if dir == "" {
		t.Skip("only as a child of TestConcurrentTags")
	}
	writers, _ := strconv.Atoi(os.Getenv("STORE_TEST_WRITERS"))
	each, _ := strconv.Atoi(os.Getenv("STORE_TEST_EACH"))
	writeTags(t, dir, os.Getenv("STORE_TEST_NAME"), writers, each)
}

func writeTags(t *testing.T, dir, name string, writers, each int) {
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			s, err := Create(dir)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				tag := fmt.Sprintf("%s-%d-%d", name, w, i)
				d, err := s.Write([]byte(tag))
				if err == nil {
					err = s.Tag(context.Background(), tag, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(tag))}, false)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestNotALayout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(dir); codeOf(err) != "PA604" {
		t.Errorf("an empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"9.0"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); codeOf(err) != "PA604" {
		t.Errorf("a future version: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Join(file, "below")); err == nil {
		t.Error("a layout below a file")
	}
}

func TestMemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := NewMemo(dir)
	if _, ok := m.Get("key"); ok {
		t.Error("something under an unused key")
	}
	m.Put("key", []byte("value"))
	if data, ok := m.Get("key"); !ok || string(data) != "value" {
		t.Errorf("got %q, %v", data, ok)
	}
	for _, damage := range [][]byte{nil, []byte("short"), bytes.Repeat([]byte("x"), 100)} {
		if err := os.WriteFile(m.path("key"), damage, 0o644); err != nil {
			t.Fatal(err)
		}
		if data, ok := m.Get("key"); ok {
			t.Errorf("damage is taken for %q", data)
		}
	}
	NewMemo(filepath.Join(m.path("key"), "below", "a", "file")).Put("key", nil) // can't, and says nothing
}
