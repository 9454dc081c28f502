package fingerprint

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Sealed directories are listed by a way of their own, which sees what the other one
// sees.
func TestListIsAsEntries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a.go": 0o644, "b.go": 0o4755, "c.txt": 0o600, "d.s": os.ModeSticky | 0o444, ".hidden.go": 0o644, "go.mod": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"link.go": "a.go", "dangling.go": "nothing", "tree": "sub"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Skip(err) // needs a privilege on Windows
		}
	}
	for _, in := range []Input{
		{Dir: dir, Filter: Sources}, {Dir: dir, Filter: Packages}, {Dir: dir, Filter: Everything}, {Dir: dir, Filter: Named, Names: []string{"a.go", "none"}},
		{Dir: filepath.Join(dir, "none"), Filter: Sources}, {Dir: filepath.Join(dir, "a.go"), Filter: Sources},
	} {
		want, wantMissing, wantErr := NewView().entries(in)
		got, missing, err := list(in)
		if !slices.Equal(got, want) || missing != wantMissing || (err == nil) != (wantErr == nil) {
			t.Errorf("%v:\n%v %v %v, want\n%v %v %v", in, got, missing, err, want, wantMissing, wantErr)
		}
	}
}
