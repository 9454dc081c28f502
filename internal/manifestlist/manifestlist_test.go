package manifestlist_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/anyarch/anyarch/internal/manifestlist"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func TestLists(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "lists")
	s := manifestlist.Open(dir)
	if _, err := s.Get("a:1"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Remove(ctx, "a:1"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	// Several processes add to one list: none loses another's entry.
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			err := manifestlist.Open(dir).Update(ctx, "a:1", func(l *manifestlist.List) (*manifestlist.List, error) {
				if l == nil {
					l = &manifestlist.List{}
				}
				l.Entries = append(l.Entries, manifestlist.Entry{Ref: fmt.Sprint(i)})
				return l, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l, err := s.Get("a:1")
	if err != nil || len(l.Entries) != 10 || l.Name != "a:1" {
		t.Fatalf("%+v %v", l, err)
	}
	// A change that fails, or wants none, leaves the list.
	failed := errors.New("no")
	if err := s.Update(ctx, "a:1", func(l *manifestlist.List) (*manifestlist.List, error) { l.Entries = nil; return nil, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if l, err := s.Get("a:1"); err != nil || len(l.Entries) != 10 {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := s.Get("a-1"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another name is the same list: %v", err)
	}
	// What can't be read says so, and can be removed.
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	var e *refusal.Error
	if _, err := s.Get("a:1"); !errors.As(err, &e) || e.Code != "PA408" {
		t.Error(err)
	}
	if err := s.Remove(ctx, "a:1"); err != nil {
		t.Error(err)
	}
}
