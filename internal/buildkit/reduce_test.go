package buildkit

import (
	"context"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// fakeTree has entries by path: a directory ends with a slash, a link has an arrow.
func fakeTree(t *testing.T, list ...string) func(context.Context, string) ([]*fstypes.Stat, error) {
	dirs := map[string][]*fstypes.Stat{}
	for _, text := range list {
		name, target, link := strings.Cut(text, " -> ")
		st := &fstypes.Stat{Path: path.Base(name), Linkname: target}
		switch {
		case link:
			st.Mode = uint32(os.ModeSymlink)
		case strings.HasSuffix(name, "/"):
			st.Mode = uint32(os.ModeDir)
		}
		dir := path.Dir(strings.TrimSuffix(name, "/"))
		dirs[dir] = append(dirs[dir], st)
	}
	return func(_ context.Context, dir string) ([]*fstypes.Stat, error) {
		if dir != "/" && !strings.HasPrefix(dir, "/") || path.Clean(dir) != dir {
			t.Errorf("%q isn't clean", dir)
		}
		return dirs[dir], nil
	}
}

func TestNeeded(t *testing.T) {
	t.Parallel()
	tree := fakeTree(t, "/usr/", "/usr/bin/", "/usr/bin/app", "/usr/bin/apple", "/usr/bin/link -> ../lib/x", "/usr/lib/", "/usr/lib/x -> /usr/bin/app",
		"/bin -> usr/bin", "/out/", "/out/a.txt", "/out/b.txt", "/out/c.txt -> a.txt", "/out/dir/", "/out/dir/f", "/loop -> loop", "/up -> ../../usr", "/odd*name/", "/odd*name/f",
		"/dangling -> nowhere", "/out/sp ace")
	from := func(src string, c *pb.FileActionCopy) read {
		return read{copy: &pb.FileActionCopy{Src: src, FollowSymlink: !c.FollowSymlink, AllowWildcard: true, IncludePatterns: c.IncludePatterns}}
	}
	for _, c := range []struct {
		name  string
		reads []read
		want  string // "" for everything
	}{
		{"a file", []read{from("/usr/bin/app", &pb.FileActionCopy{})}, "usr/bin/app"},
		{"relative, not clean", []read{from("usr/./lib/../bin//app/", &pb.FileActionCopy{})}, "usr/bin/app"},
		{"through a link", []read{from("/bin/app", &pb.FileActionCopy{})}, "bin usr/bin/app"},
		{"links to links", []read{from("/bin/link", &pb.FileActionCopy{})}, "bin usr/bin/app usr/bin/link usr/lib/x"},
		{"a link itself", []read{from("/bin/link", &pb.FileActionCopy{FollowSymlink: true})}, "bin usr/bin/link"},
		{"above the root", []read{from("/up/lib/x", &pb.FileActionCopy{})}, "up usr/bin/app usr/lib/x"},
		{"wildcards", []read{from("/out/*.txt", &pb.FileActionCopy{})}, "out/a.txt out/b.txt out/c.txt"},
		{"wildcards in directories", []read{from("/*/d?r/f", &pb.FileActionCopy{})}, "out/dir/f"},
		{"wildcards after a link", []read{from("/bin/app*", &pb.FileActionCopy{})}, "bin usr/bin/app usr/bin/apple"},
		{"an escaped wildcard", []read{from(`/odd\*name`, &pb.FileActionCopy{})}, ""},
		{"a directory", []read{from("/out/dir/", &pb.FileActionCopy{})}, "out/dir"},
		{"two", []read{from("/out/dir", &pb.FileActionCopy{}), from("/out/a.txt", &pb.FileActionCopy{})}, "out/a.txt out/dir"},
		{"all", []read{from("/out/a.txt", &pb.FileActionCopy{}), from("/", &pb.FileActionCopy{})}, ""},
		{"a mount", []read{{selector: "/bin"}}, "bin usr/bin"},
		{"a mount of all", []read{{}}, ""},
		{"parents", []read{from("/", &pb.FileActionCopy{IncludePatterns: []string{"out/dir/f", "usr/**/x"}})}, "out/dir/f usr"},
		{"parents from a directory", []read{from("/usr", &pb.FileActionCopy{IncludePatterns: []string{"bin/app"}})}, "usr/bin/app"},
		{"a space", []read{from("/out/sp ace", &pb.FileActionCopy{})}, "out/sp ace"},
	} {
		n := newNeeded(tree)
		for _, r := range c.reads {
			if err := n.add(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		patterns := n.patterns()
		if got := strings.Join(patterns, " "); got != c.want || (patterns == nil) != (c.want == "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for _, name := range []string{"/loop", "/missing/x", "/dangling/x", "/usr/bin/app/x"} {
		n := newNeeded(tree)
		if err := n.add(t.Context(), from(name, &pb.FileActionCopy{})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n.patterns() == nil {
			t.Errorf("%s, which isn't there, needs everything", name)
		}
	}
	// A directory that is searched has to be there, though nothing in it is found.
	n := newNeeded(tree)
	if err := n.add(t.Context(), from("/bin/none*", &pb.FileActionCopy{})); err != nil || !n.dirs["/usr/bin"] {
		t.Errorf("%v, %v", n.dirs, err)
	}
	op := onlyPaths(&pb.Input{}, n).GetFile()
	if last := op.Actions[len(op.Actions)-1]; len(op.Actions) != 2 || last.GetMkdir().GetPath() != "/usr/bin" || last.Output != 0 || op.Actions[0].Output == 0 {
		t.Errorf("%v", op)
	}
	if c := onlyPaths(&pb.Input{}, newNeeded(tree)).GetFile().Actions[0].GetCopy(); len(c.ExcludePatterns) == 0 {
		t.Errorf("nothing is needed, and everything is copied: %v", c)
	}
}
