package gobuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/gotool"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
	"github.com/anyarch/anyarch/internal/trace"
)

var (
	edits   = flag.Int("edits", 150, "random edits of TestRandomEdits")
	rounds  = flag.Int("rounds", 8, "rounds of TestFlagsAtOnce")
	replays = flag.Int("replays", 25, "edits of TestRandomReplays")
)

// project is a program with everything that a build reads: packages, embedded files,
// assembly, a link, a replaced module.
var project = map[string]string{
	"go.mod":             "module example.com/m\n\ngo 1.24\n\nrequire example.com/other v0.0.0\n\nreplace example.com/other => ./other\n",
	"main.go":            "package main\n\nimport (\n\t\"example.com/m/inner\"\n\t\"example.com/m/low\"\n\t\"example.com/other\"\n)\n\nvar version = \"none\"\n\nfunc main() { println(\"main-1\", version, inner.Text(), other.Text, low.Asm()) }\n",
	"low/asm.go":         "package low\n\nfunc Asm() int\n",
	"low/asm_amd64.s":    "#include \"number.h\"\n\nTEXT ·Asm(SB),4,$0-8\n\tMOVQ $NUMBER, AX\n\tMOVQ AX, ret+0(FP)\n\tRET\n",
	"low/number.h":       "#define NUMBER 41\n",
	"inner/inner.go":     "package inner\n\nimport _ \"embed\"\n\n//go:embed text.txt\nvar text string\n\nfunc Text() string { return text + linked + extra + more() }\n\nvar extra = \"-\"\n",
	"inner/text.txt":     "embedded-1\n",
	"inner/more.go":      "package inner\n\nimport \"embed\"\n\n//go:embed all:data tree*\nvar files embed.FS\n\nfunc more() string {\n\tlist, _ := files.ReadDir(\"data\")\n\ts := \"\"\n\tfor _, e := range list {\n\t\tb, _ := files.ReadFile(\"data/\" + e.Name())\n\t\ts += e.Name() + string(b)\n\t}\n\treturn s\n}\n",
	"inner/data/a.txt":   "a",
	"inner/data/.hidden": "h",
	"inner/tree/b.txt":   "b",
	"inner/tagged.go":    "//go:build never\n\npackage inner\n\nfunc init() { extra = \"tagged\" }\n",
	"links/one.go":       "package inner\n\nvar linked = \"one\"\n",
	"links/two.go":       "package inner\n\nvar linked = \"two\"\n",
	"other/go.mod":       "module example.com/other\n\ngo 1.24\n",
	"other/other.go":     "package other\n\nvar Text = \"other-1\"\n",
	"notes.txt":          "nothing that a build reads\n",
}

// lab builds one project again and again, and asks go each time whether that was right.
type lab struct {
	*testing.T
	dir    string
	memo   Memo
	ours   *Builder
	oracle *Builder
	p      platform.Platform
	flags  Flags
	env    map[string]string
	goroot string // instead of this machine's
}

func newLab(t *testing.T, more map[string]string) *lab {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege on Windows")
	}
	l := &lab{T: t, dir: tree(t, project), memo: store.NewMemo(t.TempDir()), p: parse(t, "linux/amd64"), env: map[string]string{}}
	for name, content := range more {
		l.write(name, content)
	}
	l.link("../links/one.go", "inner/linked.go")
	l.ours, l.oracle = builder(t, l.dir, l.env), builder(t, l.dir, l.env)
	return l
}

// toolchain finds the go command anew, as another process does.
func (l *lab) toolchain() *gotool.Toolchain {
	l.Helper()
	own := builder(l.T, l.dir, l.env)
	if l.goroot == "" {
		return own.Toolchain
	}
	found, err := gotool.Find(gotool.Options{Getenv: own.Getenv, LookPath: func(name string) (string, error) { return filepath.Join(l.goroot, "bin", name), nil }})
	if err != nil {
		l.Fatal(err)
	}
	return found
}

// ownGoroot gives the lab a toolchain that consists of links to this machine's.
func (l *lab) ownGoroot() {
	l.Helper()
	home, ok := l.toolchain().Home()
	if !ok {
		l.Skip("the go command doesn't say where it is")
	}
	l.goroot = l.T.TempDir()
	for _, dir := range []string{"", "bin", "pkg", "pkg/tool", "pkg/tool/" + runtime.GOOS + "_" + runtime.GOARCH} {
		if err := os.MkdirAll(filepath.Join(l.goroot, filepath.FromSlash(dir)), 0o755); err != nil {
			l.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Join(home, filepath.FromSlash(dir)))
		if err != nil {
			l.Skipf("this machine's Go is laid out in another way: %v", err)
		}
		for _, e := range entries {
			name := filepath.Join(filepath.FromSlash(dir), e.Name())
			if e.IsDir() && slices.Contains([]string{"bin", "pkg", "pkg/tool", "pkg/tool/" + runtime.GOOS + "_" + runtime.GOARCH}, filepath.ToSlash(name)) {
				continue
			}
			if name == filepath.Join("bin", "go") { // it looks where it is itself
				err = copyTo(filepath.Join(l.goroot, name), filepath.Join(home, name))
			} else {
				err = os.Symlink(filepath.Join(home, name), filepath.Join(l.goroot, name))
			}
			if err != nil {
				l.Fatal(err)
			}
		}
	}
}

func copyTo(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	_ = os.Remove(to)
	return os.WriteFile(to, data, 0o755)
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, filepath.FromSlash(name)) }

func (l *lab) write(name, content string) {
	l.Helper()
	if err := os.MkdirAll(filepath.Dir(l.path(name)), 0o755); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(l.path(name), []byte(content), 0o644); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) read(name string) string {
	data, err := os.ReadFile(l.path(name))
	if err != nil {
		l.Fatal(err)
	}
	return string(data)
}

func (l *lab) replace(name, from, to string) {
	l.Helper()
	text := l.read(name)
	if !strings.Contains(text, from) {
		l.Fatalf("%s has no %q", name, from)
	}
	l.write(name, strings.Replace(text, from, to, 1))
}

func (l *lab) link(to, name string) {
	l.Helper()
	_ = os.Remove(l.path(name))
	if err := os.Symlink(to, l.path(name)); err != nil {
		l.Fatal(err)
	}
}

// run does what a run of the program does, with a look at the sources of its own.
func (l *lab) run() (asked int, unchanged bool, program []byte, err error) {
	l.Helper()
	recorder := trace.New()
	b := *l.ours
	// The caller's settings are read anew, as another process does.
	b.Toolchain = l.toolchain()
	b.Unchanged = &Unchanged{Memo: l.memo, Self: "test"}
	program, unchanged, err = l.build(trace.With(context.Background(), recorder), &b)
	return recorder.Count(trace.Process), unchanged, program, err
}

func (l *lab) build(ctx context.Context, b *Builder) (program []byte, unchanged bool, err error) {
	packages, err := b.Packages(ctx, []string{"./..."}, l.p, l.flags)
	if err != nil {
		return nil, false, err
	}
	flags := make([]Flags, len(packages))
	for i := range flags {
		flags[i] = l.flags
	}
	programs, err := b.Compile(ctx, packages, flags, l.p)
	if err != nil {
		return nil, false, err
	}
	defer programs.Close()
	for _, pkg := range packages {
		data, err := os.ReadFile(programs.Path(pkg))
		if err != nil {
			return nil, false, err
		}
		program = append(program, pkg.ImportPath...)
		program = append(program, data...)
	}
	return program, programs.Unchanged, nil
}

// check builds and compares with what go makes. It gives whether go wasn't asked.
func (l *lab) check(what string) (skipped bool) {
	l.Helper()
	asked, unchanged, program, err := l.run()
	l.oracle.Toolchain = l.toolchain()
	want, _, wantErr := l.build(context.Background(), l.oracle)
	switch {
	case (err == nil) != (wantErr == nil):
		l.Fatalf("%s: with fingerprints the result is %v, without %v", what, err, wantErr)
	case !bytes.Equal(program, want):
		l.Fatalf("%s: WRONG PROGRAM (go was asked %d times)", what, asked)
	}
	return unchanged && asked == 0
}

// settle builds until nothing is to be done.
func (l *lab) settle() {
	l.Helper()
	if _, _, _, err := l.run(); err != nil {
		l.Fatal(err)
	}
	if !l.check("the same again") {
		l.Fatal("go was asked although nothing had changed")
	}
}

// Everything that a build reads is noticed when it changes.
func TestWhatInvalidates(t *testing.T) {
	t.Parallel()
	sameTimes := func(l *lab, name, from, to string) {
		info, err := os.Stat(l.path(name))
		if err != nil {
			l.Fatal(err)
		}
		l.replace(name, from, to)
		if err := os.Chtimes(l.path(name), info.ModTime(), info.ModTime()); err != nil {
			l.Fatal(err)
		}
	}
	tests := []struct {
		name string
		more map[string]string
		edit func(l *lab)
		skip bool // go needn't be asked
	}{
		{name: "nothing", edit: func(*lab) {}, skip: true},
		{name: "a file that no build reads", edit: func(l *lab) { l.write("notes.txt", "x") }, skip: true},
		{name: "a new file that no build reads", edit: func(l *lab) { l.write("readme.md", "x") }, skip: true},
		{name: "a touched file", edit: func(l *lab) { now := time.Now(); _ = os.Chtimes(l.path("main.go"), now, now) }, skip: true},
		{name: "a file written again", edit: func(l *lab) { l.write("main.go", l.read("main.go")) }, skip: true},
		{name: "a line", edit: func(l *lab) { l.replace("main.go", "main-1", "main-longer") }},
		{name: "the same size", edit: func(l *lab) { l.replace("main.go", "main-1", "main-2") }},
		{name: "the same size and time", edit: func(l *lab) { sameTimes(l, "main.go", "main-1", "main-2") }},
		{name: "two files that change places", edit: func(l *lab) {
			_ = os.Rename(l.path("links/one.go"), l.path("links/three.go"))
			_ = os.Rename(l.path("links/two.go"), l.path("links/one.go"))
			_ = os.Rename(l.path("links/three.go"), l.path("links/two.go"))
		}},
		{name: "a new file in a package", edit: func(l *lab) { l.write("inner/new.go", "package inner\n\nfunc init() { extra = \"new\" }\n") }},
		{name: "a deleted file", edit: func(l *lab) { _ = os.Remove(l.path("low/asm_amd64.s")) }},
		{name: "a build tag in a file", edit: func(l *lab) { l.replace("inner/tagged.go", "never", "linux") }},
		{name: "a build tag", edit: func(l *lab) { l.flags.Tags = []string{"never"} }},
		{name: "linker flags", edit: func(l *lab) { l.flags.LDFlags = []string{"-X main.version=2"} }},
		{name: "a renamed file", edit: func(l *lab) { _ = os.Rename(l.path("inner/more.go"), l.path("inner/less.go")) }},
		{name: "a Go file in an embedded directory", edit: func(l *lab) { l.write("inner/tree/x.go", "package x\n") }},
		{name: "GOAMD64", edit: func(l *lab) { l.p = parse(l.T, "linux/amd64/v3") }},
		{name: "another architecture", edit: func(l *lab) { _ = os.Remove(l.path("asm_amd64.s")); l.p = parse(l.T, "linux/arm64") }},
		{name: "GOEXPERIMENT", edit: func(l *lab) { l.flags.Env = []string{"GOEXPERIMENT=nodwarf5"} }},
		{name: "GOFLAGS", edit: func(l *lab) { l.env["GOFLAGS"] = "-mod=mod" }},
		{name: "an embedded file", edit: func(l *lab) { l.write("inner/text.txt", "embedded-2\n") }},
		{name: "a new file in an embedded directory", edit: func(l *lab) { l.write("inner/data/b.txt", "b") }},
		{name: "a hidden file of all:", edit: func(l *lab) { l.write("inner/data/.hidden", "i") }},
		{name: "a new directory in an embedded one", edit: func(l *lab) { l.write("inner/data/deep/er/c.txt", "c") }},
		{name: "a file that an embedding pattern matches", edit: func(l *lab) { l.write("inner/tree2/c.txt", "c") }},
		{name: "a deleted embedded file", edit: func(l *lab) { _ = os.Remove(l.path("inner/data/a.txt")) }},
		{name: "assembly", edit: func(l *lab) { l.replace("low/asm_amd64.s", "MOVQ $NUMBER, AX", "MOVQ $7, AX") }},
		{name: "a header", edit: func(l *lab) { l.write("low/number.h", "#define NUMBER 42\n") }},
		{name: "a replaced module", edit: func(l *lab) { l.replace("other/other.go", "other-1", "other-2") }},
		{name: "go.mod of a replaced module", edit: func(l *lab) { l.replace("other/go.mod", "1.24", "1.23") }},
		{name: "go.mod", edit: func(l *lab) { l.replace("go.mod", "go 1.24", "go 1.23") }},
		{name: "a link", edit: func(l *lab) { l.link("../links/two.go", "inner/linked.go") }},
		{name: "what a link leads to", edit: func(l *lab) { l.replace("links/one.go", "\"one\"", "\"six\"") }},
		{name: "mode", edit: func(l *lab) { _ = os.Chmod(l.path("main.go"), 0o600) }},
		{name: "a new program", edit: func(l *lab) { l.write("cmd/two/main.go", hello) }},
		{name: "a program that is none any more", more: map[string]string{"cmd/two/main.go": hello}, edit: func(l *lab) { l.replace("cmd/two/main.go", "package main", "package two") }},
		{name: "go.mod in the way of a package", edit: func(l *lab) { l.write("inner/go.mod", "module example.com/elsewhere\n") }},
		{name: "a new go.work", edit: func(l *lab) { l.write("go.work", "go 1.24\n\nuse .\n\nuse ./other\n") }},
		{name: "use of go.work", more: map[string]string{"go.work": "go 1.24\n\nuse .\n", "third/go.mod": "module example.com/other\n\ngo 1.24\n", "third/x.go": "package other\n\nvar Text = \"third\"\n"},
			edit: func(l *lab) { l.write("go.work", "go 1.24\n\nuse .\n\nuse ./third\n") }},
		{name: "a new vendor directory", edit: func(l *lab) { l.write("vendor/modules.txt", "# example.com/other v0.0.0 => ./other\n") }},
		{name: "a mistake", edit: func(l *lab) { l.replace("main.go", "func main()", "func main(") }},
		{name: "a package that comes and goes", edit: func(l *lab) { _ = os.Rename(l.path("inner"), l.path("outer")) }},
		{name: "a test of another package", edit: func(l *lab) { l.write("inner/x_test.go", "package wrong\n") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, tt.more)
			l.settle()
			tt.edit(l)
			if skipped := l.check(tt.name); skipped != tt.skip {
				t.Errorf("go wasn't asked: %v, want %v", skipped, tt.skip)
			}
		})
	}
}

// Another toolchain, and another program of the same one, compile anew.
func TestToolchainInvalidates(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.settle()
	l.ownGoroot()
	if l.check("another toolchain") {
		t.Error("the toolchain is in another place, and go wasn't asked")
	}
	// What nobody has looked at before go started is remembered only once it is a little
	// older than that.
	settle := func() {
		t.Helper()
		for range 100 {
			if l.check("the same again") {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
		t.Fatal("go is asked again and again")
	}
	settle()
	for _, name := range []string{"pkg/tool/" + runtime.GOOS + "_" + runtime.GOARCH + "/compile", "bin/go"} {
		file := filepath.Join(l.goroot, filepath.FromSlash(name))
		from, err := filepath.EvalSymlinks(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := copyTo(file, from); err != nil {
			t.Fatal(err)
		}
		if l.check(name) {
			t.Errorf("%s is another file, and go wasn't asked", name)
		}
		settle()
	}
}

// Vendored packages are read where they are, and modules.txt with them.
func TestVendorInvalidates(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	out, err := exec.Command("go", "-C", l.dir, "mod", "vendor").CombinedOutput()
	if err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	l.settle()
	l.replace("vendor/example.com/other/other.go", "other-1", "other-2")
	if l.check("a vendored file") {
		t.Error("a vendored file changed, and go wasn't asked")
	}
	if _, _, _, err := l.run(); err != nil {
		t.Fatal(err)
	}
	l.write("vendor/modules.txt", "# wrong\n")
	if l.check("modules.txt") {
		t.Error("modules.txt changed, and go wasn't asked")
	}
}

// What a C compiler reads isn't known: with cgo go is asked each time.
func TestCgoIsAsked(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.ours.CC = map[platform.Platform]string{l.p: "cc"}
	if l.ours.knowable(&group{}, l.p) {
		t.Error("a build with cgo is fingerprinted")
	}
	delete(l.ours.CC, l.p)
	for _, flags := range []Flags{{Extra: []string{"-pgo=x"}}, {Extra: []string{"-gcflags=-N"}}, {Env: []string{"GOFIPS140=v1.0.0"}}} {
		if l.ours.knowable(&group{flags: flags}, l.p) {
			t.Errorf("a build with %v is fingerprinted", flags)
		}
	}
	if l.ours.knowable(&group{ldflags: [][]string{{"-linkmode=internal"}}}, l.p) {
		t.Error("a build with flags of the linker that aren't known is fingerprinted")
	}
}

// programs are the files that builds have left.
func (l *lab) programs() (files []string) {
	l.Helper()
	files, err := filepath.Glob(filepath.Join(l.ours.CacheDir, "*", "linux-amd64", "*"))
	if err != nil || len(files) == 0 {
		l.Fatalf("there are no programs: %v", err)
	}
	return files
}

// Programs in the cache that somebody replaces, and damaged records, are noticed.
func TestDamage(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.settle()
	var damaged int
	err := filepath.WalkDir(l.ours.CacheDir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".lock") {
			damaged++
			return os.WriteFile(path, []byte("not a program"), 0o755)
		}
		return err
	})
	if err != nil || damaged != 1 {
		t.Fatalf("damaged %d programs: %v", damaged, err)
	}
	if l.check("a damaged program") {
		t.Error("a damaged program was used")
	}
	l.settle()
	// go build looks at no more of a program than its build ID.
	for _, file := range l.programs() {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(file, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if l.check("a program with another bit") {
		t.Error("a damaged program was used")
	}
	l.settle()
	truncated := &damagedMemo{Memo: l.memo.(*store.Memo)}
	b := *l.ours
	b.Unchanged = &Unchanged{Memo: truncated, Self: "test"}
	if _, unchanged, err := l.build(context.Background(), &b); err != nil || unchanged {
		t.Errorf("a damaged record was used: %v", err)
	}
	b.Unchanged = &Unchanged{Memo: l.memo, Self: "another version"}
	if _, unchanged, err := l.build(context.Background(), &b); err != nil || unchanged {
		t.Errorf("the record of another version was used: %v", err)
	}
}

// damagedMemo cuts off everything that it gives.
type damagedMemo struct{ *store.Memo }

func (m *damagedMemo) Get(key string) ([]byte, bool) {
	data, ok := m.Memo.Get(key)
	return data[:len(data)/2], ok
}

// An edit while go builds isn't taken for what was built.
func TestEditMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.settle()
	for i := range 3 {
		stop, stopped := make(chan struct{}), make(chan struct{})
		l.write("inner/text.txt", fmt.Sprintf("before-%d\n", i))
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					_ = os.WriteFile(l.path("inner/text.txt"), fmt.Appendf(nil, "during-%d\n", n%10), 0o644)
				}
			}
		}()
		_, _, _, err := l.run()
		close(stop)
		<-stopped
		if err != nil {
			t.Fatal(err)
		}
		l.check("after edits meanwhile")
	}
}

// Random edits of everything, against go's own opinion after each.
func TestRandomEdits(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t, map[string]string{"cmd/two/main.go": hello})
	l.settle()
	last := snapshot(l)
	// What go makes of a state of the sources, worked out once for each.
	opinions := map[string]string{}
	opinion := func(program []byte, err error) string {
		if err != nil {
			return "an error"
		}
		return fmt.Sprintf("%x", sha256.Sum256(program))
	}
	var skipped, builds int
	var trail []string
	for n := range *edits {
		if random.IntN(3) == 0 {
			l.restore(last)
			trail = append(trail, "checkout")
		} else {
			trail = append(trail, randomEdit(l, random))
		}
		skip := l.wouldSkip()
		if !skip && random.IntN(50) > 0 {
			continue // go will be asked, and knows
		}
		_, unchanged, program, err := l.run()
		if skip && !unchanged {
			t.Fatal("go was asked although it needn't have been")
		}
		state := l.state()
		if !unchanged {
			builds++
			opinions[state] = opinion(program, err)
			if err == nil {
				last = snapshot(l)
			}
			continue
		}
		skipped++
		if opinions[state] == "" {
			l.oracle.Toolchain = l.toolchain()
			want, _, wantErr := l.build(context.Background(), l.oracle)
			opinions[state] = opinion(want, wantErr)
		}
		if opinion(program, err) != opinions[state] {
			t.Fatalf("WRONG SKIP after %d edits; the last were\n%s", n+1, strings.Join(trail[max(0, len(trail)-40):], "\n"))
		}
	}
	t.Logf("%d edits, %d builds, go not asked %d times, never wrong; go's opinion of %d states", *edits, builds, skipped, len(opinions))
}

// wouldSkip reports whether a run now would start no go.
func (l *lab) wouldSkip() bool {
	l.Helper()
	ctx := context.Background()
	b := *l.ours
	b.Toolchain = l.toolchain()
	b.Unchanged = &Unchanged{Memo: l.memo, Self: "test"}
	key, _ := b.listInputs(l.dir, []string{"./..."}, l.p, l.flags)
	packages, ok := b.recallList(ctx, key, l.dir)
	if !ok {
		return false
	}
	flags := make([]Flags, len(packages))
	for i := range flags {
		flags[i] = l.flags
	}
	for _, g := range b.groups(packages, flags) {
		args, env, dir, err := b.prepare(g, l.p)
		if err != nil {
			l.Fatal(err)
		}
		if !b.attempt(g, l.p, args, env, dir).superfluous(ctx) {
			return false
		}
	}
	return true
}

// state is a hash of everything in the sources that any build could read: names,
// modes, links, content, and the flags.
func (l *lab) state() string {
	h := sha256.New()
	fmt.Fprintln(h, l.flags, l.env)
	err := filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, d.Type())
		switch {
		case d.Type()&os.ModeSymlink != 0:
			link, err := os.Readlink(path)
			fmt.Fprintln(h, link)
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			fmt.Fprintf(h, "%q\n", data)
			return err
		}
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	return string(h.Sum(nil))
}

func randomEdit(l *lab, random *rand.Rand) string {
	files := []string{"main.go", "inner/inner.go", "inner/more.go", "inner/text.txt", "inner/data/a.txt", "inner/data/.hidden", "inner/tree/b.txt",
		"inner/tagged.go", "links/one.go", "links/two.go", "other/other.go", "low/number.h", "low/asm_amd64.s", "low/asm.go", "notes.txt", "go.mod", "cmd/two/main.go"}
	name := files[random.IntN(len(files))]
	path := l.path(name)
	data, err := os.ReadFile(path)
	switch kind := random.IntN(14); {
	case err != nil:
		l.write(name, project[name])
		return "back comes " + name
	case kind < 4: // a digit, with or without its times
		i := bytes.LastIndexAny(data, "0123456789")
		if name == "go.mod" || i < 0 {
			return "nothing"
		}
		info, err := os.Stat(path)
		data[i] = byte('0' + random.IntN(10))
		l.write(name, string(data))
		if err == nil && kind < 2 {
			_ = os.Chtimes(path, info.ModTime(), info.ModTime())
		}
		return fmt.Sprintf("a digit of %s, times kept: %v", name, kind < 2)
	case kind == 4:
		now := time.Now().Add(-time.Duration(random.IntN(5)) * time.Second)
		_ = os.Chtimes(path, now, now)
		return "touch " + name
	case kind == 5:
		l.write(name, string(data)+"\n")
		return "a line more in " + name
	case kind == 6:
		if name == "go.mod" {
			return "nothing"
		}
		_ = os.Remove(path)
		return "remove " + name
	case kind == 7:
		fresh := filepath.ToSlash(filepath.Dir(name)) + fmt.Sprintf("/new%d", random.IntN(3)) + []string{".go", ".txt", "_test.go", "_windows.go", ".s"}[random.IntN(5)]
		if _, err := os.Stat(l.path(fresh)); err == nil {
			_ = os.Remove(l.path(fresh))
			return "remove " + fresh
		}
		l.write(fresh, fmt.Sprintf("package %s\n\nfunc init() { println(%d) }\n", packageOf(name), random.IntN(3)))
		return "new " + fresh
	case kind == 8:
		l.link(fmt.Sprintf("../links/%s.go", []string{"one", "two"}[random.IntN(2)]), "inner/linked.go")
		return "link"
	case kind == 9: // written to another file and renamed, as editors do
		temp := path + "~"
		if i := bytes.LastIndexAny(data, "123456789"); i >= 0 && name != "go.mod" {
			data[i] = byte('1' + random.IntN(9))
		}
		_ = os.WriteFile(temp, data, 0o644)
		_ = os.Rename(temp, path)
		return "rename over " + name
	case kind == 10:
		a, b := l.path("inner/text.txt"), l.path("inner/data/a.txt")
		_ = os.Rename(a, a+"~")
		_ = os.Rename(b, a)
		_ = os.Rename(a+"~", b)
		return "swap"
	case kind == 11:
		l.flags = []Flags{{}, {LDFlags: []string{"-X main.version=9"}}, {Tags: []string{"never"}}, {LDFlags: []string{"-s", "-w"}}}[random.IntN(4)]
		return fmt.Sprintf("flags %v", l.flags)
	case kind == 12:
		fresh := []string{"inner/go.mod", "cmd/go.mod", "cmd/three/main.go", "inner/data/deep/x.txt", "vendor/modules.txt", "go.work"}[random.IntN(6)]
		if _, err := os.Stat(l.path(fresh)); err == nil {
			_ = os.RemoveAll(l.path(fresh))
			if fresh == "vendor/modules.txt" {
				_ = os.Remove(l.path("vendor"))
			}
			return "remove " + fresh
		}
		content := map[string]string{"cmd/three/main.go": hello, "go.work": "go 1.24\n\nuse .\n"}[fresh]
		if strings.HasSuffix(fresh, "go.mod") {
			content = "module example.com/cut\n"
		}
		l.write(fresh, content)
		return "new " + fresh
	default:
		from, to := l.path("inner"), l.path("away")
		if _, err := os.Stat(to); err == nil {
			from, to = to, from
		}
		if random.IntN(4) == 0 {
			_ = os.Rename(from, to)
			return "rename a package"
		}
		_ = os.Chmod(path, []os.FileMode{0o644, 0o600, 0o755}[random.IntN(3)])
		return "chmod " + name
	}
}

func packageOf(name string) string {
	switch strings.Split(name, "/")[0] {
	case "inner", "links":
		return "inner"
	case "other", "low":
		return strings.Split(name, "/")[0]
	}
	return "main"
}

// checkout is all that is in the directory of a lab, as a commit has it.
type checkout struct {
	files map[string]string // content by path
	modes map[string]os.FileMode
	links map[string]string
	flags Flags
}

func snapshot(l *lab) *checkout {
	c := &checkout{map[string]string{}, map[string]os.FileMode{}, map[string]string{}, l.flags}
	err := filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type()&os.ModeSymlink != 0:
			c.links[path], err = os.Readlink(path)
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			c.files[path], c.modes[path] = string(data), info.Mode()
			return err
		}
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	return c
}

// restore is what git checkout does: only what differs is written.
func (l *lab) restore(c *checkout) {
	l.Helper()
	now := snapshot(l)
	for path, link := range now.links {
		if c.links[path] != link {
			_ = os.Remove(path)
		}
	}
	for path := range now.files {
		if _, keep := c.files[path]; !keep {
			_ = os.Remove(path)
		}
	}
	for path, content := range c.files {
		if now.files[path] == content && now.modes[path] == c.modes[path] {
			continue
		}
		_ = os.Remove(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			l.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), c.modes[path]); err != nil {
			l.Fatal(err)
		}
	}
	for path, link := range c.links {
		if _, err := os.Lstat(path); err != nil {
			if err := os.Symlink(link, path); err != nil {
				l.Fatal(err)
			}
		}
	}
	for _, dir := range []string{"away", "vendor", "cmd/three", "inner/data/deep"} { // git keeps no empty directories
		_ = os.Remove(l.path(dir))
	}
	l.flags = c.flags
}

// Two runs at once with different flags, and sources that change: each gets its own
// program of the sources of now.
func TestFlagsAtOnce(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("the programs are for linux/amd64, and are run")
	}
	l := newLab(t, nil)
	for round := range *rounds {
		if round%2 == 0 { // in the others nothing has changed
			l.write("inner/text.txt", fmt.Sprintf("round-%d\n", round))
		}
		want := strings.TrimSpace(l.read("inner/text.txt"))
		var wg sync.WaitGroup
		for _, version := range []string{"red", "blue"} {
			wg.Go(func() {
				b := *l.ours
				b.Unchanged = &Unchanged{Memo: l.memo, Self: "test"}
				packages, err := b.Packages(context.Background(), []string{"."}, l.p, Flags{})
				if err != nil {
					t.Error(err)
					return
				}
				programs, err := b.Compile(context.Background(), packages, []Flags{{LDFlags: []string{"-X main.version=" + version}}}, l.p)
				if err != nil {
					t.Error(err)
					return
				}
				defer programs.Close()
				out, err := exec.Command(programs.Path(packages[0])).CombinedOutput()
				if err != nil || !slices.Contains(strings.Fields(string(out)), version) || !strings.Contains(string(out), want+"\n") {
					t.Errorf("round %d: the program of %s says %q (%v)", round, version, out, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
	}
}
