package store_test

import (
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/store"
)

func TestLink(t *testing.T) {
	t.Parallel()
	from, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	to, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, err := from.Write([]byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a blob that is there already is no error
		if err := to.Link(d, from); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Delete(d); err != nil {
		t.Fatal(err)
	}
	if data, err := to.ReadBlob(d); err != nil || string(data) != "content" {
		t.Errorf("%q %v", data, err)
	}
	if err := to.Link(digest.FromString("absent"), from); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an absent blob: %v", err)
	}
	path, err := from.Path(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Args[0], path); err == nil {
		if err := to.Link(d, from); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a symbolic link: %v", err)
		}
	}
}
