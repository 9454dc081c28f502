package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var rounds = flag.Int("rounds", 150, "rounds of TestRandom")

// place is a directory with files that a command reads.
type place struct {
	*testing.T
	dir string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege on Windows")
	}
	p := &place{t, t.TempDir()}
	p.write("a.go", "package a\n\nimport \"fmt\"\n\nvar x = 1\n\nfunc F() { fmt.Println(x) }\n")
	p.write("b.go", "//go:build linux\n\npackage a\n\n//go:embed text.txt\nvar s string\n")
	p.write("text.txt", "text-1")
	p.write("sub/c.txt", "c")
	p.write("far/one.go", "package a\n\nvar one = 1\n")
	p.write("far/two.go", "package a\n\nvar one = 2\n")
	p.link("far/one.go", "link.go")
	p.link("far", "hop")
	p.link("hop/one.go", "twice.go")
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, filepath.FromSlash(name)) }

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) write(name, text string) {
	p.Helper()
	p.must(os.MkdirAll(filepath.Dir(p.path(name)), 0o755))
	p.must(os.WriteFile(p.path(name), []byte(text), 0o644))
}

func (p *place) replace(name, from, to string) {
	p.Helper()
	data, err := os.ReadFile(p.path(name))
	p.must(err)
	if !strings.Contains(string(data), from) {
		p.Fatalf("%s has no %q", name, from)
	}
	p.must(os.WriteFile(p.path(name), []byte(strings.Replace(string(data), from, to, 1)), 0o644))
}

func (p *place) link(to, name string) {
	p.Helper()
	_ = os.Remove(p.path(name))
	p.must(os.Symlink(filepath.FromSlash(to), p.path(name)))
}

// kept does something and sets the times of a file back to what they were.
func (p *place) kept(name string, do func()) {
	p.Helper()
	info, err := os.Stat(p.path(name))
	p.must(err)
	do()
	p.must(os.Chtimes(p.path(name), info.ModTime(), info.ModTime()))
}

// inputs are what a build of the place reads.
func (p *place) inputs() []Input {
	return []Input{
		{Dir: p.dir, Filter: Sources},
		{Dir: p.dir, Filter: Named, Names: []string{"text.txt", "go.work", "vendor", "hop"}},
		{Dir: p.path("sub"), Filter: Everything},
		{Dir: p.path("nowhere"), Filter: Sources},
		{Dir: p.path("nowhere/else"), Filter: Named, Names: []string{"go.mod"}},
	}
}

// take makes a snapshot as a caller does, of a command that does nothing.
func (p *place) take(inputs []Input, earlier *Snapshot) *Snapshot {
	p.Helper()
	before := NewView()
	for _, in := range inputs {
		before.See(in)
	}
	started, ok := before.Settle()
	if !ok {
		p.Skip("the file system's times are too coarse to wait for")
	}
	s, err := Take(p.Context(), inputs, before, started, earlier)
	p.must(err)
	return s
}

// aged is a snapshot as it would have been if nothing had changed for a while before it
// was taken. What changes from now on has other times.
func aged(t *testing.T, s *Snapshot) *Snapshot {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var old Snapshot
	if err := json.Unmarshal(data, &old); err != nil {
		t.Fatal(err)
	}
	for i := range old.states {
		for k := range old.states[i].Entries {
			old.states[i].Entries[k].Recent = false
		}
	}
	old.settle = false
	time.Sleep(tick)
	return &old
}

func verdict(t *testing.T, s *Snapshot) Verdict {
	t.Helper()
	v, err := s.Compare(t.Context(), NewView())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var names = map[Verdict]string{Same: "same", Renewed: "renewed", Content: "content", Changed: "changed"}

// Whatever happens to files, a snapshot says whether a command would read the same: one
// that was taken a while after the last change by looking at stats, one that was taken
// at once by content.
func TestCompare(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		edit func(p *place)
		want Verdict
	}{
		{"nothing", func(*place) {}, Same},
		{"a file that doesn't count", func(p *place) { p.write("notes.md", "x") }, Same},
		{"a file in a directory that doesn't count", func(p *place) { p.write("other/x.go", "package x\n") }, Same},
		{"touched", func(p *place) { p.must(os.Chtimes(p.path("a.go"), time.Now(), time.Now())) }, Renewed},
		{"touched with a time of long ago", func(p *place) { p.must(os.Chtimes(p.path("a.go"), time.Unix(1, 0), time.Unix(1, 0))) }, Renewed},
		{"written again", func(p *place) { p.replace("a.go", "package", "package") }, Renewed},
		{"another name for it", func(p *place) { p.must(os.Link(p.path("a.go"), p.path("other"))) }, Renewed},
		{"moved away and back", func(p *place) {
			p.must(os.Rename(p.path("a.go"), p.path("z")))
			p.must(os.Rename(p.path("z"), p.path("a.go")))
		}, Renewed},

		{"a digit in a function", func(p *place) { p.replace("a.go", "x = 1", "x = 2") }, Content},
		{"a line more", func(p *place) { p.replace("a.go", "x = 1", "x = 1\n\nvar y = 1") }, Content},
		{"the same size and time", func(p *place) { p.kept("a.go", func() { p.replace("a.go", "x = 1", "x = 2") }) }, Content},
		{"an earlier time, as of a clock that was set back", func(p *place) {
			p.replace("a.go", "x = 1", "x = 2")
			p.must(os.Chtimes(p.path("a.go"), time.Unix(1e9, 0), time.Unix(1e9, 0)))
		}, Content},
		{"a time in the future", func(p *place) {
			p.replace("a.go", "x = 1", "x = 2")
			p.must(os.Chtimes(p.path("a.go"), time.Now().Add(1e4*time.Hour), time.Now().Add(1e4*time.Hour)))
		}, Content},
		{"another file in its place, of the same size and time", func(p *place) {
			p.kept("a.go", func() {
				data, err := os.ReadFile(p.path("a.go"))
				p.must(err)
				p.write("new", strings.Replace(string(data), "x = 1", "x = 2", 1))
				p.must(os.Rename(p.path("new"), p.path("a.go")))
			})
		}, Content},
		{"another file with its inode", func(p *place) {
			p.kept("a.go", func() {
				data, err := os.ReadFile(p.path("a.go"))
				p.must(err)
				p.must(os.Remove(p.path("a.go")))
				p.write("a.go", strings.Replace(string(data), "x = 1", "x = 2", 1))
			})
		}, Content},
		{"written through another name", func(p *place) {
			p.must(os.Link(p.path("a.go"), p.path("other")))
			p.kept("other", func() { p.replace("other", "x = 1", "x = 2") })
			p.must(os.Remove(p.path("other")))
		}, Content},
		{"what a link leads to", func(p *place) { p.replace("far/one.go", "1", "3") }, Content},
		{"a file of a directory that is read whole", func(p *place) { p.write("sub/c.txt", "d") }, Content},
		{"two files that change places", func(p *place) {
			p.write("sub/c.txt", "x")
			p.must(os.Rename(p.path("sub/c.txt"), p.path("z")))
			p.write("sub/c.txt", "y")
		}, Content},

		{"an import", func(p *place) { p.replace("a.go", `"fmt"`, `"log"`) }, Changed},
		{"a build constraint", func(p *place) { p.replace("b.go", "linux", "plan9") }, Changed},
		{"what isn't embedded any more", func(p *place) {
			p.replace("b.go", "//go:embed text.txt\nvar s string\n", "/*\n//go:embed text.txt\nvar s string\n*/\n")
		}, Changed},
		{"what is embedded", func(p *place) { p.replace("b.go", "text.txt", "text.md ") }, Changed},
		{"a mistake", func(p *place) { p.replace("a.go", "package a", "packag a") }, Changed},
		{"a file that has a name of its own", func(p *place) { p.write("text.txt", "text-2") }, Changed},
		{"that with its size and time", func(p *place) { p.kept("text.txt", func() { p.write("text.txt", "text-2") }) }, Changed},
		{"the mode", func(p *place) { p.must(os.Chmod(p.path("a.go"), 0o600)) }, Changed},
		{"a new file", func(p *place) { p.write("new.go", "package a\n") }, Changed},
		{"a new file of a directory that is read whole", func(p *place) { p.write("sub/.x", "") }, Changed},
		{"a new empty directory there", func(p *place) { p.must(os.Mkdir(p.path("sub/x"), 0o755)) }, Changed},
		{"a removed file", func(p *place) { p.must(os.Remove(p.path("a.go"))) }, Changed},
		{"a renamed file", func(p *place) { p.must(os.Rename(p.path("a.go"), p.path("c.go"))) }, Changed},
		{"a name in other letters", func(p *place) { p.must(os.Rename(p.path("a.go"), p.path("A.go"))) }, Changed},
		{"a link to another file", func(p *place) { p.link("far/two.go", "link.go") }, Changed},
		{"a link to the same file by another way", func(p *place) { p.link("hop/one.go", "link.go") }, Changed},
		{"a link on the way", func(p *place) {
			p.write("near/one.go", "package a\n\nvar one = 1\n")
			p.link("near", "hop")
		}, Changed},
		{"a link instead of a file", func(p *place) {
			p.must(os.Rename(p.path("a.go"), p.path("far/a.go")))
			p.link("far/a.go", "a.go")
		}, Changed},
		{"a link that leads nowhere", func(p *place) { p.must(os.Remove(p.path("far/one.go"))) }, Changed},
		{"a link to itself", func(p *place) { p.link("link.go", "link.go") }, Changed},
		{"a directory instead of a file", func(p *place) {
			p.must(os.Remove(p.path("a.go")))
			p.must(os.Mkdir(p.path("a.go"), 0o755))
		}, Changed},
		{"a file instead of a directory", func(p *place) {
			p.must(os.RemoveAll(p.path("sub")))
			p.write("sub", "")
		}, Changed},
		{"a directory that has gone", func(p *place) { p.must(os.RemoveAll(p.path("sub"))) }, Changed},
		{"a name that comes", func(p *place) { p.write("go.work", "go 1.24\n") }, Changed},
		{"a directory of that name", func(p *place) { p.must(os.Mkdir(p.path("vendor"), 0o755)) }, Changed},
		{"a link of that name that leads nowhere", func(p *place) { p.link("nowhere", "vendor") }, Changed},
		{"a directory that comes", func(p *place) { p.must(os.Mkdir(p.path("nowhere"), 0o755)) }, Changed},
		{"a name in a directory that comes", func(p *place) { p.write("nowhere/else/go.mod", "module x\n") }, Changed},
		{"a file where a directory wasn't", func(p *place) { p.write("nowhere", "") }, Same},
	}
	for _, tt := range tests {
		for _, old := range []bool{true, false} {
			name := tt.name + ", at once"
			if old {
				name = tt.name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t)
				s := p.take(p.inputs(), nil)
				if old {
					s = aged(t, s)
				}
				tt.edit(p)
				got, want := verdict(t, s), tt.want
				if !old {
					want = max(want, Renewed) // stats say nothing yet
				}
				if got != want {
					t.Errorf("%s, want %s", names[got], names[want])
				}
				if again := verdict(t, s); again != got {
					t.Errorf("and then %s", names[again])
				}
			})
		}
	}
}

// What can't be read is said to have changed, or not to be there; it is never taken for
// something that is the same.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := aged(t, p.take(p.inputs(), nil))
	p.must(os.Chmod(p.path("a.go"), 0))
	if got := verdict(t, s); got != Changed {
		t.Errorf("a file without permissions: %s", names[got])
	}
	p.must(os.Chmod(p.path("a.go"), 0o644))
	p.must(os.Chmod(p.path("sub"), 0))
	if got := verdict(t, s); os.Geteuid() != 0 && got != Changed {
		t.Errorf("a directory without permissions: %s", names[got])
	}
	p.must(os.Chmod(p.path("sub"), 0o755))

	// Names that no file system takes, and a file where a directory is looked for.
	p.write("file", "")
	inputs := []Input{
		{Dir: p.dir, Filter: Named, Names: []string{strings.Repeat("x", 5000)}},
		{Dir: p.path("file/below"), Filter: Named, Names: []string{"x"}},
		{Dir: p.path("file"), Filter: Everything},
	}
	if got := verdict(t, aged(t, p.take(inputs, nil))); got != Same {
		t.Errorf("names that can't be: %s", names[got])
	}
	if os.Geteuid() != 0 {
		p.must(os.Chmod(p.path("text.txt"), 0))
		before := NewView()
		in := Input{Dir: p.dir, Filter: Named, Names: []string{"text.txt"}}
		before.See(in)
		started, _ := before.Settle()
		if _, err := Take(t.Context(), []Input{in}, before, started, nil); !errors.Is(err, ErrUnsettled) {
			t.Errorf("a snapshot of what can't be read: %v", err)
		}
	}
}

// A snapshot isn't made of what may have changed while the command read it.
func TestTake(t *testing.T) {
	t.Parallel()
	in := func(p *place) []Input { return []Input{{Dir: p.dir, Filter: Sources}} }
	tests := []struct {
		name  string
		edit  func(p *place) // while the command runs
		taken bool
	}{
		{"nothing", func(*place) {}, true},
		{"a file that doesn't count", func(p *place) { p.write("notes.md", "x") }, true},
		{"a file", func(p *place) { p.replace("a.go", "x = 1", "x = 2") }, false},
		{"a file, with its size and time", func(p *place) { p.kept("a.go", func() { p.replace("a.go", "x = 1", "x = 2") }) }, false},
		{"there and back", func(p *place) {
			p.replace("a.go", "x = 1", "x = 2")
			p.replace("a.go", "x = 2", "x = 1")
		}, false},
		{"a new file", func(p *place) { p.write("new.go", "package a\n") }, false},
		{"a file less", func(p *place) { p.must(os.Remove(p.path("b.go"))) }, false},
		{"a link", func(p *place) { p.link("far/two.go", "link.go") }, false},
		{"what a link leads to", func(p *place) { p.replace("far/one.go", "1", "3") }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			before := NewView()
			for _, i := range in(p) {
				before.See(i)
			}
			started, ok := before.Settle()
			if !ok {
				t.Skip("the file system's times are too coarse to wait for")
			}
			tt.edit(p)
			if _, err := Take(t.Context(), in(p), before, started, nil); (err == nil) != tt.taken || err != nil && !errors.Is(err, ErrUnsettled) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("unseen", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		// What nobody looked at before must be old: here it is, and there it isn't.
		if _, err := Take(t.Context(), in(p), NewView(), time.Now().Add(time.Minute), nil); err != nil {
			t.Errorf("of long before: %v", err)
		}
		if _, err := Take(t.Context(), in(p), NewView(), time.Now(), nil); !errors.Is(err, ErrUnsettled) {
			t.Errorf("of a moment ago: %v", err)
		}
	})
	t.Run("ended", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Take(ctx, in(p), NewView(), time.Now(), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if _, err := p.take(in(p), nil).Compare(ctx, NewView()); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// A change that was seen a moment after it was made is waited for, one of the future
// isn't.
func TestSettle(t *testing.T) {
	t.Parallel()
	v := NewView()
	v.last = time.Now()
	if since, ok := v.Settle(); !ok || !since.After(v.last) {
		t.Errorf("%v %v", since, ok)
	}
	v.last = time.Now().Add(time.Hour) // the clock was set back since
	if _, ok := v.Settle(); ok {
		t.Error("it doesn't matter that a file is of the future")
	}
	v = NewView()
	v.note(time.Unix(v.begin.Unix(), 0)) // no fractions: a file system with coarse times
	if _, ok := v.Settle(); ok {
		t.Error("coarse times are waited for")
	}
}

// Snapshots renew themselves when stats differ but content doesn't, and read nothing
// that the earlier one knows.
func TestRenew(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := aged(t, p.take(p.inputs(), nil))
	p.must(os.Chtimes(p.path("a.go"), time.Now(), time.Now()))
	view := NewView()
	if v, err := s.Compare(t.Context(), view); err != nil || v != Renewed {
		t.Fatalf("%v %v", v, err)
	}
	view.Settle()
	renewed, err := s.Renew(t.Context(), view)
	p.must(err)
	if got := verdict(t, aged(t, renewed)); got != Same {
		t.Errorf("a renewed snapshot says %s", names[got])
	}
	view = NewView()
	if _, err := s.Compare(t.Context(), view); err != nil {
		t.Fatal(err)
	}
	p.replace("a.go", "x = 1", "x = 2")
	if _, err := s.Renew(t.Context(), view); !errors.Is(err, ErrUnsettled) {
		t.Errorf("renewed over an edit: %v", err)
	}
	p.replace("a.go", "x = 2", "x = 1")

	// Sums that an earlier snapshot has are believed for what has the same stats.
	marked := aged(t, p.take(p.inputs(), nil))
	for i := range marked.states {
		for k := range marked.states[i].Entries {
			if marked.states[i].Entries[k].Name == "a.go" {
				marked.states[i].Entries[k].Sum = "marked"
			}
		}
	}
	later := NewView()
	later.begin = later.begin.Add(time.Minute)
	before := NewView()
	for _, in := range p.inputs() {
		before.See(in)
	}
	started, _ := before.Settle()
	st, ok := take(p.inputs()[0], later, before, started, marked.byKey()[p.inputs()[0].key()])
	if e, _ := st.entry("a.go"); !ok || e.Sum != "marked" || e.Recent {
		t.Errorf("%v %+v", ok, e)
	}
}

// Directories that belong to a tool are one hash.
func TestSealed(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(p *place){
		"nothing":    func(*place) {},
		"a file":     func(p *place) { p.kept("a.go", func() { p.replace("a.go", "x = 1", "x = 2") }) },
		"a new file": func(p *place) { p.write("new.go", "package a\n") },
		"a link":     func(p *place) { p.link("far/two.go", "link.go") },
		"a mode":     func(p *place) { p.must(os.Chmod(p.path("a.go"), 0o600)) },
		"all of it":  func(p *place) { p.must(os.RemoveAll(p.dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			in := Input{Dir: p.dir, Filter: Sources, Sealed: true}
			signature, _, ok := NewView().signature(in)
			if !ok {
				t.Fatal("it has no signature")
			}
			s := &Snapshot{states: []state{{Input: in, Signature: signature}}}
			time.Sleep(tick)
			edit(p)
			want := Changed
			if name == "nothing" {
				want = Same
			}
			if got := verdict(t, s); got != want {
				t.Errorf("%s, want %s", names[got], names[want])
			}
		})
	}
	// One that was unpacked a moment ago, of which times don't tell yet, is read in full
	// or not remembered.
	p := newPlace(t)
	in := []Input{{Dir: p.dir, Filter: Sources, Sealed: true}}
	if _, err := Take(t.Context(), in, NewView(), time.Now(), nil); !errors.Is(err, ErrUnsettled) {
		t.Errorf("%v", err)
	}
	s, err := Take(t.Context(), in, NewView(), time.Now().Add(time.Minute), nil)
	if err != nil || s.states[0].Sealed || len(s.states[0].Entries) == 0 {
		t.Errorf("%v", err)
	}
}

// Filters say which names of a directory count.
func TestFilters(t *testing.T) {
	t.Parallel()
	p := &place{t, t.TempDir()}
	for _, name := range []string{"a.go", "x_test.go", "a.c", "a.S", "a.syso", "go.mod", "default.pgo", "a.txt", ".a.go", "_a.go", "README", "go1.26.8"} {
		p.write(name, "")
	}
	for _, name := range []string{"sub", ".git", "_x", "testdata", "vendor", "d.go"} {
		p.must(os.Mkdir(p.path(name), 0o755))
	}
	for filter, want := range map[Filter]string{
		Sources:    "a.S a.c a.go a.syso default.pgo go.mod x_test.go",
		Packages:   "a.S a.c a.go a.syso d.go default.pgo go.mod sub vendor x_test.go",
		Toolchains: "go1.26.8",
		Everything: ".a.go .git README _a.go _x a.S a.c a.go a.syso a.txt d.go default.pgo go.mod go1.26.8 sub testdata vendor x_test.go",
	} {
		list, _, err := NewView().entries(Input{Dir: p.dir, Filter: filter})
		p.must(err)
		var got []string
		for _, e := range list {
			got = append(got, e.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
}

// Random edits of everything: what is called the same is the same, byte for byte, and
// what is the same isn't called changed.
func TestRandom(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := newPlace(t)
	files := []string{"a.go", "b.go", "text.txt", "sub/c.txt", "far/one.go", "far/two.go", "link.go", "twice.go", "new.go", "sub/new", "go.work", "nowhere/x.go", "nowhere/else/go.mod", "notes.md"}
	edit := func() {
		name := files[r.IntN(len(files))]
		path := p.path(name)
		info, err := os.Stat(path)
		switch kind := r.IntN(9); {
		case err != nil || info.IsDir():
			_ = os.RemoveAll(path)
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			_ = os.WriteFile(path, []byte("package a\n\nvar x = 1\n"), 0o644)
		case kind < 3: // a digit, with or without its times
			data, _ := os.ReadFile(path)
			if i := strings.LastIndexAny(string(data), "0123456789"); i >= 0 {
				data[i] = byte('0' + r.IntN(3))
			}
			_ = os.WriteFile(path, data, 0o644)
			if kind > 0 {
				_ = os.Chtimes(path, info.ModTime(), info.ModTime())
			}
		case kind == 3:
			_ = os.Remove(path)
		case kind == 4:
			data, _ := os.ReadFile(path)
			_ = os.WriteFile(p.path("temp"), data, 0o644)
			_ = os.Chtimes(p.path("temp"), info.ModTime(), info.ModTime())
			_ = os.Rename(p.path("temp"), path)
		case kind == 5:
			_ = os.Chmod(path, []fs.FileMode{0o644, 0o755}[r.IntN(2)])
		case kind == 6:
			_ = os.Remove(path)
			_ = os.Symlink(p.path(files[r.IntN(len(files))]), path)
		case kind == 7:
			_ = os.Remove(path)
			_ = os.MkdirAll(path, 0o755)
		default:
			other := p.path(files[r.IntN(len(files))])
			_ = os.Rename(path, p.path("temp"))
			_ = os.Rename(other, path)
			_ = os.Rename(p.path("temp"), other)
		}
	}
	var counts [Changed + 1]int
	for n := range *rounds {
		inputs := p.inputs()
		before := NewView()
		for _, in := range inputs {
			before.See(in)
		}
		started, ok := before.Settle()
		s, err := Take(t.Context(), inputs, before, started, nil)
		if !ok || err != nil {
			edit() // such as a link to itself
			continue
		}
		if n%4 == 0 {
			s = aged(t, s)
		}
		was := p.describe(inputs)
		for range r.IntN(3) {
			edit()
		}
		got, is := verdict(t, s), p.describe(inputs)
		counts[got]++
		switch {
		case got <= Renewed && was != is:
			t.Fatalf("round %d: %s, but\n%s\nbecame\n%s", n, names[got], was, is)
		case got > Renewed && was == is:
			t.Fatalf("round %d: %s, but nothing did", n, names[got])
		}
	}
	t.Logf("same %d, renewed %d, content %d, changed %d", counts[Same], counts[Renewed], counts[Content], counts[Changed])
}

// describe says everything that a command can see of inputs.
func (p *place) describe(inputs []Input) string {
	var b strings.Builder
	for _, in := range inputs {
		var list []string
		if in.Filter == Named {
			list = slices.Sorted(slices.Values(in.Names))
		} else {
			entries, err := os.ReadDir(in.Dir)
			if err != nil {
				fmt.Fprintf(&b, "%s isn't there\n", in.Dir)
			}
			for _, e := range entries {
				if in.Filter.wants(e) {
					list = append(list, e.Name())
				}
			}
		}
		for _, name := range list {
			path := filepath.Join(in.Dir, name)
			link, _ := os.Readlink(path)
			resolved, _ := filepath.EvalSymlinks(path)
			if link == "" {
				resolved = ""
			}
			info, err := os.Stat(path)
			switch {
			case err != nil:
				fmt.Fprintf(&b, "%s %q absent\n", path, link)
			case info.IsDir():
				fmt.Fprintf(&b, "%s %q %q directory\n", path, link, resolved)
			default:
				data, err := os.ReadFile(path)
				fmt.Fprintf(&b, "%s %q %q %v %x %v\n", path, link, resolved, info.Mode(), sha256.Sum256(data), err)
			}
		}
	}
	return b.String()
}

// Records come from a cache that anybody may have written to.
func FuzzSnapshot(f *testing.F) {
	f.Add([]byte(`[{"dir":"/tmp","filter":"sources","entries":[{"name":"a","kind":"file","size":1,"sum":"x","shape":"-"}]}]`))
	f.Add([]byte(`[{"dir":"/nowhere","filter":"named","names":["a"],"entries":[{"name":"a","kind":"absent"}],"sealed":true,"signature":"x"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Snapshot
		if json.Unmarshal(data, &s) != nil {
			return
		}
		dir := t.TempDir()
		for i := range s.states {
			s.states[i].Dir = dir // not all over this machine
			for k, name := range s.states[i].Names {
				s.states[i].Names[k] = filepath.Base(name)
			}
		}
		v, err := s.Compare(t.Context(), NewView())
		if err != nil || v < Same || v > Changed {
			t.Errorf("%v %v", v, err)
		}
		for _, st := range s.states {
			if v < Content && !st.Sealed && st.Filter != Named && len(st.Entries) > 0 {
				t.Errorf("an empty directory is the same as %+v", st)
			}
		}
		_ = s.Inputs()
		_ = s.SealedAs(&s)
	})
}

func FuzzShape(f *testing.F) {
	f.Add([]byte("package a\n\nimport \"fmt\"\n\n//go:embed x\nvar x string\n"))
	f.Add([]byte("//go:build linux\n\npackage a // import \"x\"\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		source = append(source, '\n')
		shape := shapeOf(source)
		if shape == "" {
			return
		}
		// What follows doesn't say which files are read, unless it embeds some.
		if more := shapeOf(append(slices.Clone(source), "var after = 1\n"...)); more != shape {
			t.Errorf("a variable more: %q is %s, and then %s", source, shape, more)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), "", source, 0); err != nil {
			return // it may end within a comment or a string
		}
		if more := shapeOf(append(slices.Clone(source), "//go:embed y\nvar after string\n"...)); more == shape {
			t.Errorf("a file more isn't noticed after %q", source)
		}
	})
}
