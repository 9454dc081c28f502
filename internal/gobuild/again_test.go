package gobuild

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/trace"
)

// how runs a build and tells which programs were started for it.
func (l *lab) how() (started []string, unchanged bool, program []byte, err error) {
	l.Helper()
	recorder := trace.New()
	b := *l.ours
	b.Toolchain = builder(l.T, l.dir, l.env).Toolchain
	b.Unchanged = &Unchanged{Memo: l.memo, Self: "test"}
	program, unchanged, err = l.build(trace.With(context.Background(), recorder), &b)
	for _, name := range recorder.Names(trace.Process) {
		started = append(started, strings.Join(strings.Fields(name)[:len(strings.Fields(name))-1], " "))
	}
	slices.Sort(started)
	return started, unchanged, program, err
}

// After an edit below the imports only the compiler and the linker run; whatever else
// changes, go is asked. The programs are those of go in any case.
func TestReplays(t *testing.T) {
	t.Parallel()
	one, all := []string{"compile", "link"}, []string{"compile", "compile", "compile", "link", "link"}
	tests := []struct {
		name    string
		edit    func(l *lab)
		started []string // nil for whatever begins with go
	}{
		{"a line", func(l *lab) { l.replace("main.go", "main-1", "main-longer") }, one},
		{"a function more", func(l *lab) { l.write("main.go", l.read("main.go")+"\nfunc more() { println(version) }\n") }, one},
		{"an embedded file", func(l *lab) { l.write("inner/text.txt", "embedded-2\n") }, all},
		{"what a link leads to", func(l *lab) { l.replace("links/one.go", "\"one\"", "\"six\"") }, all},
		{"two at once", func(l *lab) {
			l.replace("inner/inner.go", "\"-\"", "\"+\"")
			l.replace("main.go", "main-1", "main-2")
		}, all},
		{"the other program", func(l *lab) { l.replace("cmd/two/main.go", "two-1", "two-2") }, one},
		{"a file that another platform has", func(l *lab) { l.replace("inner/x_windows.go", "1", "2") }, []string{}},
		{"an import", func(l *lab) { l.replace("main.go", "import (", "import (\n\t_ \"fmt\"") }, nil},
		{"a new file", func(l *lab) { l.write("new.go", "package main\n\nfunc init() { println(2) }\n") }, nil},
		{"a line that embeds", func(l *lab) { l.replace("inner/inner.go", "text.txt", "data/a.txt") }, nil},
		{"a comment around a line that embeds", func(l *lab) {
			l.replace("inner/inner.go", "//go:embed text.txt\n", "/*\n//go:embed text.txt\n*/\n")
		}, nil},
		{"a file that a package with assembly embeds too", func(l *lab) { l.write("low/both/x.txt", "both-2") }, nil},
		{"a line for go before the package", func(l *lab) { l.replace("main.go", "package main", "//go:debug panicnil=1\npackage main") }, nil},
		{"a package with assembly", func(l *lab) { l.replace("low/asm.go", "func", "// x\nfunc") }, nil},
		{"assembly", func(l *lab) { l.replace("low/asm_amd64.s", "MOVQ $NUMBER, AX", "MOVQ $7, AX") }, nil},
		{"a replaced module", func(l *lab) { l.replace("other/other.go", "other-1", "other-2") }, nil},
		{"a mistake", func(l *lab) { l.replace("main.go", "println(", "printline(") }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			two := strings.Replace(project["main.go"], "main-1", "two-1", 1)
			two = strings.Replace(strings.Replace(two, ", low.Asm()", "", 1), "\t\"example.com/m/low\"\n", "", 1)
			l := newLab(t, map[string]string{
				"cmd/two/main.go":    two,
				"inner/x_windows.go": "package inner\n\nvar _ = 1\n",
				"low/both.go":        "package low\n\nimport _ \"embed\"\n\n//go:embed both/x.txt\nvar Both string\n",
				"both.go":            "package main\n\nimport (\n\t_ \"embed\"\n\n\t\"example.com/m/low\"\n)\n\n//go:embed low/both/x.txt\nvar both string\n\nfunc init() { println(both, low.Both) }\n",
				"low/both/x.txt":     "both-1",
			})
			// What go has in its cache from another test isn't compiled, and not recorded.
			mark := fmt.Sprintf("\nvar _ = %q\n", l.dir)
			for _, name := range []string{"main.go", "cmd/two/main.go", "inner/inner.go"} {
				l.write(name, l.read(name)+mark)
			}
			l.settle()
			tt.edit(l)
			started, _, program, err := l.how()
			l.oracle.Toolchain = builder(t, l.dir, l.env).Toolchain
			want, _, wantErr := l.build(context.Background(), l.oracle)
			if (err == nil) != (wantErr == nil) || string(program) != string(want) {
				t.Fatalf("it differs from what go makes: %v, %v", err, wantErr)
			}
			asked := slices.ContainsFunc(started, func(name string) bool { return strings.HasPrefix(name, "go ") })
			if tt.started == nil && !asked || tt.started != nil && !slices.Equal(started, tt.started) {
				t.Errorf("it started %q", started)
			}
			if err != nil && (!strings.Contains(err.Error(), "main.go") || err.Error() != wantErr.Error()) {
				t.Errorf("it says\n%v\nand go says\n%v", err, wantErr)
			}
			if err == nil {
				l.settle()
			}
		})
	}
}

// Random edits, most of which are replayed, against go's own programs after each.
func TestRandomReplays(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t, map[string]string{"cmd/two/main.go": strings.Replace(hello, "package main\n", "package main\n\nimport _ \"example.com/m/inner\"\n", 1)})
	l.settle()
	last := snapshot(l)
	var replayed, asked, failed int
	var trail []string
	for range *replays {
		for range 1 + random.IntN(2) {
			trail = append(trail, replayable(l, random))
		}
		started, unchanged, program, err := l.how()
		l.oracle.Toolchain = builder(t, l.dir, l.env).Toolchain
		want, _, wantErr := l.build(context.Background(), l.oracle)
		if (err == nil) != (wantErr == nil) || string(program) != string(want) {
			t.Fatalf("WRONG PROGRAM (%v, %v) by %q after\n%s", err, wantErr, started, strings.Join(trail[max(0, len(trail)-40):], "\n"))
		}
		switch {
		case err != nil:
			failed++
			l.restore(last)
			trail = append(trail, "checkout")
			continue
		case slices.ContainsFunc(started, func(name string) bool { return strings.HasPrefix(name, "go build") }):
			asked++
		case !unchanged:
			replayed++
		}
		last = snapshot(l)
	}
	t.Logf("%d edits: %d replayed, go asked %d times, %d didn't compile; never wrong", *replays, replayed, asked, failed)
	if replayed < *replays/4 {
		t.Error("hardly any edit was replayed")
	}
}

// replayable edits a file in a way that is often below the imports.
func replayable(l *lab, random *rand.Rand) string {
	files := []string{"main.go", "cmd/two/main.go", "inner/inner.go", "inner/more.go", "inner/text.txt", "inner/data/a.txt", "links/one.go", "links/two.go", "low/asm.go"}
	name := files[random.IntN(len(files))]
	if random.IntN(12) == 0 {
		return randomEdit(l, random)
	}
	if !strings.HasSuffix(name, ".go") {
		l.write(name, fmt.Sprint(random.IntN(50)))
		return "write " + name
	}
	pkg := packageOf(name)
	switch random.IntN(6) {
	case 0:
		l.write(name, l.read(name)+"\n// "+fmt.Sprint(random.IntN(9))+"\n")
		return "a comment in " + name
	case 1:
		l.write(name, l.read(name)+fmt.Sprintf("\nfunc f%d() int { return %d }\n", random.IntN(1<<30), random.IntN(9)))
		return "a function in " + name
	case 2:
		l.write(name, l.read(name)+fmt.Sprintf("\nfunc init() { println(%q, %d) }\n", pkg, random.IntN(9)))
		return "an init in " + name
	case 3:
		l.write(name, l.read(name)+fmt.Sprintf("\ntype T%d[P any] struct{ p P }\n\nvar V%[1]d = T%[1]d[int]{%d}\n", random.IntN(1<<30), random.IntN(9)))
		return "a type in " + name
	case 4:
		text := l.read(name)
		if i := strings.Index(text, "\nfunc init() {"); i > 0 {
			if end := strings.IndexByte(text[i+1:], '\n'); end > 0 {
				l.write(name, text[:i]+text[i+1+end:])
				return "an init less in " + name
			}
		}
	}
	l.write(name, l.read(name)+fmt.Sprintf("\nvar x%d = %d\n", random.IntN(3), random.IntN(9))) // twice is a mistake
	return "a variable in " + name
}

// The first edit of a project that go had compiled before anyarch came is replayed too.
func TestFirstEdit(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.write("main.go", l.read("main.go")+fmt.Sprintf("\nvar _ = %q\n", l.dir))
	if _, _, err := l.build(context.Background(), l.oracle); err != nil {
		t.Fatal(err)
	}
	l.settle()
	l.replace("main.go", "main-1", "main-2")
	started, _, program, err := l.how()
	if err != nil || !slices.Equal(started, []string{"compile", "link"}) {
		t.Fatalf("it started %q: %v", started, err)
	}
	if want, _, err := l.build(context.Background(), l.oracle); err != nil || string(want) != string(program) {
		t.Fatalf("it differs from what go makes: %v", err)
	}
}

// hook is a memo that something is done to.
type hook struct {
	Memo
	put func(key string, data []byte) (keep bool)
}

func (h *hook) Put(key string, data []byte) {
	if h.put(key, data) {
		h.Memo.Put(key, data)
	}
}

// same builds, and compares with what go makes.
func (l *lab) same(what string) (started []string) {
	l.Helper()
	started, _, program, err := l.how()
	if err != nil {
		l.Fatalf("%s: %v", what, err)
	}
	l.oracle.Toolchain = builder(l.T, l.dir, l.env).Toolchain
	want, _, err := l.build(context.Background(), l.oracle)
	if err != nil || string(want) != string(program) {
		l.Fatalf("%s: it differs from what go makes (%v); it started %q", what, err, started)
	}
	return started
}

// A recipe that couldn't be kept, on a full disk or since somebody was ended, doesn't
// leave an earlier one for sources that it doesn't know.
func TestRecipeOfEarlierBuild(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.write("main.go", l.read("main.go")+fmt.Sprintf("\nvar _ = %q\n", l.dir))
	l.settle()
	full := false
	l.memo = &hook{l.memo, func(key string, _ []byte) bool { return !full || !strings.HasPrefix(key, `["recipe"`) }}
	full = true
	l.replace("inner/inner.go", "import _ \"embed\"", "import (\n\t_ \"embed\"\n\t_ \"errors\"\n)")
	l.replace("inner/inner.go", "\"-\"", "\"+\"")
	l.same("an import")
	l.replace("main.go", "main-1", "main-2")
	l.same("a line")
}

// What is edited while it is compiled doesn't come into a program that says it was
// made of something else: go would take that for the program of the other text.
func TestEditedMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.write("main.go", l.read("main.go")+fmt.Sprintf("\nvar _ = %q\n", l.dir))
	l.settle()
	once := true
	l.memo = &hook{l.memo, func(key string, data []byte) bool {
		// It is known by now what main.go was like.
		if strings.HasPrefix(key, `["build"`) && data == nil && once {
			once = false
			l.replace("main.go", "main-2", "main-3")
		}
		return true
	}}
	l.replace("main.go", "main-1", "main-2")
	l.same("edited meanwhile")
	if once {
		t.Fatal("nothing was edited meanwhile")
	}
	l.replace("main.go", "main-3", "main-2")
	l.same("taken back")
}

// A module of a workspace that has moved is compiled where it is now.
func TestMovedModule(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.env["GOWORK"] = l.path("go.work")
	use := func(dir string) { l.write("go.work", "go 1.24\n\nuse (\n\t.\n\t./"+dir+"\n\t./leaf\n)\n") }
	l.write("leaf/go.mod", "module example.com/leaf\n\ngo 1.24\n")
	l.write("leaf/leaf.go", "package leaf\n\nconst Text = \"leaf-1\"\n\n// "+l.dir+"\n")
	for _, dir := range []string{"one", "two"} {
		l.write(dir+"/go.mod", "module example.com/moved\n\ngo 1.24\n")
		l.write(dir+"/moved.go", "package moved\n\nimport \"example.com/leaf\"\n\nvar Text = \"moved-1\" + leaf.Text\n\n// "+l.dir+"\n")
	}
	l.replace("main.go", "import (", "import (\n\t\"example.com/moved\"")
	l.replace("main.go", "version,", "version, moved.Text,")
	use("one")
	l.settle()
	use("two")
	l.same("moved")
	l.replace("one/moved.go", "moved-1", "moved-2")
	l.same("what was there before is edited")
	l.replace("leaf/leaf.go", "leaf-1", "leaf-2")
	if started := l.same("what it imports is edited"); !slices.Contains(started, "compile") {
		t.Errorf("it started %q", started)
	}
}
