package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A disk that is full while a layout is written: a clear error, the old state
// intact, nothing left behind, and room again is enough to go on.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("can't mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, err := Create(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	first := put(t, s, "first")
	if err := s.Tag(context.Background(), "latest", first, false); err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(bytes.Repeat([]byte("x"), 512<<10))
	if codeOf(err) != "PA601" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk is %v", err)
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	if err := s.Tag(context.Background(), "other", first, false); codeOf(err) != "PA601" {
		t.Errorf("a tag on a full disk: %v", err)
	}
	if d, err := s.Find("latest"); err != nil || d.Digest != first.Digest {
		t.Errorf("latest names %s, %v", d.Digest, err)
	}
	if left := leftovers(t, s); len(left) > 1 { // the filler is outside
		t.Errorf("left over: %v", left)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(context.Background(), "other", first, false); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
