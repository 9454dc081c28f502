package replay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
)

// lab is a module that is built by go, recorded, and replayed.
type lab struct {
	*testing.T
	dir, out, kept, work string
	flags                []string
}

var module = map[string]string{
	"go.mod":             "module example.com/m\n\ngo 1.24\n",
	"cmd/a/main.go":      "package main\n\nimport (\n\t\"example.com/m/inner\"\n\t\"example.com/m/low\"\n)\n\nfunc main() { println(\"a-1\", inner.Text, low.Number()) }\n",
	"cmd/b/main.go":      "package main\n\nimport (\n\t\"embed\"\n\n\t\"example.com/m/inner\"\n)\n\n//go:embed data\nvar data embed.FS\n\nfunc main() {\n\ttext, _ := data.ReadFile(\"data/a b.txt\")\n\tprintln(\"b-1\", inner.Text, string(text))\n}\n",
	"cmd/b/x_test.go":    "package main\n",
	"inner/inner.go":     "package inner\n\nimport \"example.com/m/leaf\"\n\nvar Text = leaf.Text + \"-inner-1\"\n",
	"leaf/leaf.go":       "package leaf\n\nconst Text = \"leaf-1\"\n",
	"low/low.go":         "package low\n\nfunc Number() int\n",
	"low/low_amd64.s":    "#include \"textflag.h\"\n\nTEXT ·Number(SB),NOSPLIT,$0-8\n\tMOVQ $41, AX\n\tMOVQ AX, ret+0(FP)\n\tRET\n",
	"cmd/b/data/a b.txt": "embedded-1",
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, dir: filepath.Join(t.TempDir(), "a module"), out: t.TempDir(), kept: t.TempDir(), work: "off", flags: []string{"-ldflags=-s -w"}}
	for name, text := range module {
		if strings.HasSuffix(name, ".go") {
			text += fmt.Sprintf("\n// %s\n", l.dir) // so that go doesn't have it from another test
		}
		l.write(name, text)
	}
	return l
}

func (l *lab) write(name, text string) Edit {
	l.Helper()
	path := filepath.Join(l.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.Fatal(err)
	}
	return Edit{Path: path, Sum: sha256.Sum256([]byte(text))}
}

func (l *lab) replace(name, from, to string) Edit {
	l.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, filepath.FromSlash(name)))
	if err != nil || !bytes.Contains(data, []byte(from)) {
		l.Fatalf("%s: no %q: %v", name, from, err)
	}
	return l.write(name, strings.Replace(string(data), from, to, 1))
}

func (l *lab) env() []string {
	return append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "GOAMD64=", "CGO_ENABLED=0", "GOFLAGS=", "GOENV=off", "GOWORK="+l.work, "GOEXPERIMENT=", "PWD="+l.dir)
}

// build has go build into a directory.
func (l *lab) build(out string, r *Recorder) {
	l.Helper()
	args := slices.Concat([]string{"build"}, Flags, []string{"-trimpath", "-buildvcs=false"}, l.flags, []string{"-o", out + string(filepath.Separator), "./cmd/..."})
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = l.dir, l.env()
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if r != nil {
		cmd.Stderr, cmd.Env = r, append(cmd.Env, Env...)
	}
	if err := cmd.Run(); err != nil {
		l.Fatalf("go build: %v\n%s", err, messages.Bytes())
	}
}

func (l *lab) record(earlier *Recipe) *Recipe {
	l.Helper()
	r := NewRecorder(l.dir)
	l.build(l.out, r)
	return saved(l.T, r.Recipe(earlier))
}

// saved is a recipe as another run reads it.
func saved(t *testing.T, r *Recipe) *Recipe {
	t.Helper()
	if r == nil {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var read Recipe
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	return &read
}

func (l *lab) replay(r *Recipe, edits ...Edit) (after *Recipe, linked, ran []string, err error) {
	l.Helper()
	done := make(chan string, 100)
	after, programs, err := r.Replay(context.Background(), edits, Options{
		Root: l.dir, Work: l.TempDir(), Kept: l.kept,
		Run: func(ctx context.Context, env, args []string) error {
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Dir, cmd.Env = l.dir, slices.Concat(l.env(), env)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", args, err, out)
			}
			done <- filepath.Base(args[0])
			return nil
		},
	})
	for importPath, program := range programs {
		linked = append(linked, importPath)
		if err := os.Rename(program, filepath.Join(l.out, filepath.Base(importPath))); err != nil {
			l.Fatal(err)
		}
	}
	slices.Sort(linked)
	close(done)
	for name := range done {
		ran = append(ran, name)
	}
	slices.Sort(ran)
	return saved(l.T, after), linked, ran, err
}

// same compares the programs with those that go makes.
func (l *lab) same(what string) {
	l.Helper()
	want := l.TempDir()
	l.build(want, nil)
	for _, name := range []string{"a", "b"} {
		x, err := os.ReadFile(filepath.Join(l.out, name))
		if err != nil {
			l.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(want, name))
		if err != nil {
			l.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			l.Fatalf("%s: program %s isn't the one that go makes", what, name)
		}
	}
}

// Edits of programs, of packages below them, of embedded files and of what nobody reads
// are replayed one after the other, and each time the programs are those of go.
func TestReplay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.record(nil)
	if r == nil {
		t.Fatal("nothing was recorded")
	}
	tests := []struct {
		name   string
		edit   func() []Edit
		linked []string
		ran    []string
	}{
		{"one program", func() []Edit { return []Edit{l.replace("cmd/a/main.go", "a-1", "a-longer")} }, []string{"example.com/m/cmd/a"}, []string{"compile", "link"}},
		{"an embedded file", func() []Edit { return []Edit{l.write("cmd/b/data/a b.txt", "embedded-2")} }, []string{"example.com/m/cmd/b"}, []string{"compile", "link"}},
		{"a package of both", func() []Edit { return []Edit{l.replace("inner/inner.go", "inner-1", "inner-2")} }, []string{"example.com/m/cmd/a", "example.com/m/cmd/b"}, []string{"compile", "compile", "compile", "link", "link"}},
		{"a constant below it", func() []Edit { return []Edit{l.replace("leaf/leaf.go", "leaf-1", "leaf-2")} }, []string{"example.com/m/cmd/a", "example.com/m/cmd/b"}, []string{"compile", "compile", "compile", "compile", "link", "link"}},
		{"the first again, on kept packages", func() []Edit { return []Edit{l.replace("cmd/a/main.go", "a-longer", "a-3")} }, []string{"example.com/m/cmd/a"}, []string{"compile", "link"}},
		{"several", func() []Edit {
			return []Edit{l.replace("cmd/a/main.go", "a-3", "a-4"), l.replace("cmd/b/main.go", "b-1", "b-2"), l.replace("leaf/leaf.go", "leaf-2", "leaf-3")}
		}, []string{"example.com/m/cmd/a", "example.com/m/cmd/b"}, []string{"compile", "compile", "compile", "compile", "link", "link"}},
		{"a test", func() []Edit { return []Edit{l.write("cmd/b/x_test.go", "package main // x\n")} }, nil, nil},
		{"back", func() []Edit { return []Edit{l.replace("leaf/leaf.go", "leaf-3", "leaf-1")} }, []string{"example.com/m/cmd/a", "example.com/m/cmd/b"}, []string{"compile", "compile", "compile", "compile", "link", "link"}},
	}
	for _, tt := range tests {
		after, linked, ran, err := l.replay(r, tt.edit()...)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if !slices.Equal(linked, tt.linked) || !slices.Equal(ran, tt.ran) {
			t.Errorf("%s: linked %v, ran %v", tt.name, linked, ran)
		}
		l.same(tt.name)
		r = after
	}
	kept, err := os.ReadDir(l.kept)
	if err != nil || len(kept) != 4 {
		t.Errorf("%d packages are kept, of four: %v", len(kept), err)
	}
}

// A recipe that go has made anew keeps how packages are compiled that it had in its
// cache.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.record(nil)
	l.replace("cmd/a/main.go", "a-1", "a-2")
	if second := l.record(nil); second.Packages["example.com/m/inner"].known() {
		t.Fatal("go compiles what it has")
	} else if _, _, _, err := l.replay(second, l.replace("inner/inner.go", "inner-1", "inner-2")); !errors.Is(err, ErrUnknown) {
		t.Fatalf("a package was compiled, nobody knows how: %v", err)
	}
	l.replace("inner/inner.go", "inner-2", "inner-1")
	l.replace("cmd/a/main.go", "a-2", "a-3")
	second := l.record(first)
	edit := l.replace("inner/inner.go", "inner-1", "inner-7")
	if _, _, _, err := l.replay(second, edit); err != nil {
		t.Fatal(err)
	}
	l.same("a package of the first recording")
}

// What go has in its cache is compiled once more, to see how.
func TestTeach(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.build(t.TempDir(), nil)
	r := l.record(nil)
	want := []string{"example.com/m/cmd/a", "example.com/m/cmd/b", "example.com/m/inner", "example.com/m/leaf"}
	if unknown := r.Unknown(); !slices.Equal(unknown, want) {
		t.Fatalf("unknown are %q", unknown)
	}
	recorder := NewRecorder(l.dir)
	args := slices.Concat([]string{"list", "-export"}, Flags, []string{"-trimpath", "-buildvcs=false"}, l.flags)
	for _, name := range want {
		args = append(args, "-gcflags="+name+"="+Teaching)
	}
	cmd := exec.Command("go", append(args, want...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = l.dir, append(l.env(), Env...), recorder
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	recorder.Teach(r)
	if unknown := r.Unknown(); len(unknown) != 0 {
		t.Fatalf("still unknown are %q", unknown)
	}
	r, _, _, err := l.replay(saved(t, r), l.replace("leaf/leaf.go", "leaf-1", "leaf-2"))
	if err != nil {
		t.Fatal(err)
	}
	l.same("the first edit")
	if _, _, _, err := l.replay(r, l.replace("cmd/b/main.go", "b-1", "b-2")); err != nil {
		t.Fatal(err)
	}
	l.same("the second")
}

// The other modules of a workspace are edited here too, wherever they are.
func TestWorkspace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	top := filepath.Dir(l.dir)
	l.dir = filepath.Join(top, "m")
	if err := os.Rename(filepath.Join(top, "a module"), l.dir); err != nil {
		t.Fatal(err)
	}
	l.write("../m2/go.mod", "module example.com/m2\n\ngo 1.24\n")
	l.write("../m2/second.go", "package m2\n\nconst Text = \"second-1\"\n// "+l.dir+"\n")
	l.write("../go.work", "go 1.24\n\nuse (\n\t./m\n\t./m2\n)\n")
	l.replace("leaf/leaf.go", "const Text = ", "import \"example.com/m2\"\n\nconst Text = m2.Text + ")
	l.work = filepath.Join(top, "go.work")
	r := l.record(nil)
	edit := l.replace("../m2/second.go", "second-1", "second-2")
	after, _, ran, err := l.replay(r, edit)
	if err != nil || len(ran) != 7 {
		t.Fatalf("%q: %v", ran, err)
	}
	l.same("the other module")
	if _, _, _, err := l.replay(after, l.replace("cmd/a/main.go", "a-1", "a-2")); err != nil {
		t.Fatal(err)
	}
	l.same("a program")
}

// What a recipe doesn't know is left to go.
func TestUnknown(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(l *lab) []Edit{
		"assembly":            func(l *lab) []Edit { return []Edit{l.replace("low/low_amd64.s", "$41", "$42")} },
		"beside assembly":     func(l *lab) []Edit { return []Edit{l.replace("low/low.go", "func", "// x\nfunc")} },
		"another file":        func(l *lab) []Edit { return []Edit{l.write("notes.txt", "x")} },
		"a mistake":           func(l *lab) []Edit { return []Edit{l.replace("cmd/a/main.go", "println(", "println(x")} },
		"a package by itself": func(l *lab) []Edit { return []Edit{l.replace("leaf/leaf.go", "\"leaf-1\"", "1")} },
		"a file that is gone": func(l *lab) []Edit {
			e := l.replace("inner/inner.go", "1", "2")
			_ = os.Remove(e.Path)
			return []Edit{e}
		},
		"a profile of a program": func(l *lab) []Edit { return []Edit{l.write("cmd/a/default.pgo", "x")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			r := l.record(nil)
			if _, _, _, err := l.replay(r, edit(l)...); !errors.Is(err, ErrUnknown) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// An ID that somebody has chosen stays.
func TestChosenID(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"-s -w -buildid=", "-buildid=mine", "--buildid mine"} {
		t.Run(flags, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.flags = []string{"-ldflags=" + flags}
			if _, _, ran, err := l.replay(l.record(nil), l.replace("inner/inner.go", "inner-1", "inner-2")); err != nil || len(ran) == 0 {
				t.Fatalf("%q: %v", ran, err)
			}
			l.same("an edit")
		})
	}
}

// Packages that are compiled with the profile of one program and without for another
// are several under one name.
func TestProfileOfOneProgram(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var profile bytes.Buffer
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Skipf("no profile can be made: %v", err) // go test -cpuprofile
	}
	pprof.StopCPUProfile()
	l.write("cmd/a/default.pgo", profile.String())
	if r := l.record(nil); r != nil {
		t.Errorf("there is a recipe with %d packages", len(r.Packages))
	}
}

// What go puts into an archive besides is no work of a compiler.
func TestObjects(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.write("leaf/object_linux_amd64.syso", string(object()))
	r := l.record(nil)
	if p := r.Packages["example.com/m/leaf"]; p == nil || p.known() {
		t.Errorf("it is known how a package with an object is compiled: %+v", p)
	}
	if _, _, _, err := l.replay(r, l.replace("leaf/leaf.go", "leaf-1", "leaf-2")); !errors.Is(err, ErrUnknown) {
		t.Errorf("the error is %v", err)
	}
	if _, _, _, err := l.replay(r, l.replace("leaf/leaf.go", "leaf-2", "leaf-1"), l.replace("cmd/a/main.go", "a-1", "a-2")); !errors.Is(err, ErrUnknown) {
		t.Errorf("the error is %v", err)
	}
}

// object is an object file with nothing in it (ELF-64: header, no section and the one
// with the names of sections).
func object() []byte {
	var b bytes.Buffer
	names := "\x00.shstrtab\x00"
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: 64, Ehsize: 64, Shentsize: 64, Shnum: 2, Shstrndx: 1,
	}
	for _, part := range []any{
		header, elf.Section64{}, elf.Section64{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: 64 + 2*64, Size: uint64(len(names)), Addralign: 1},
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // to memory
	}
	b.WriteString(names)
	return b.Bytes()
}

// Archives that are kept between runs are read before they are used.
func TestDamagedArchive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r, _, _, err := l.replay(l.record(nil), l.replace("inner/inner.go", "inner-1", "inner-2"))
	if err != nil {
		t.Fatal(err)
	}
	file := r.Archives["example.com/m/inner"]
	data, err := os.ReadFile(file)
	if err != nil || filepath.Dir(file) != l.kept {
		t.Fatalf("%s: %v", file, err)
	}
	i := bytes.Index(data, []byte("inner-2"))
	if i < 0 {
		t.Fatal("the text isn't in the archive")
	}
	data[i] = 'x'
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := l.replay(r, l.replace("cmd/a/main.go", "a-1", "a-2")); !errors.Is(err, ErrUnknown) {
		t.Errorf("a damaged archive was linked: %v", err)
	}
}

// Interrupted, it says that, and not that something is unknown.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.record(nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("enough")
	_, _, err := r.Replay(ctx, []Edit{l.replace("leaf/leaf.go", "leaf-1", "leaf-2")}, Options{
		Root: l.dir, Work: t.TempDir(), Kept: l.kept,
		Run: func(ctx context.Context, _, _ []string) error {
			cancel(reason)
			<-ctx.Done()
			return ctx.Err()
		},
	})
	if !errors.Is(err, reason) || errors.Is(err, ErrUnknown) {
		t.Errorf("the error is %v", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		`/x/compile -o $WORK/b001/_pkg_.a`:              {"/x/compile", "-o", "$WORK/b001/_pkg_.a"},
		`link "-X=main.a=b c" "" "\"" ./x`:              {"link", "-X=main.a=b c", "", `"`, "./x"},
		`GOROOT='' link`:                                {"GOROOT=''", "link"},
		`compile -trimpath "/a=>b;$WORK/b001=>" ./é.go`: {"compile", "-trimpath", "/a=>b;$WORK/b001=>", "./é.go"},
	} {
		got, ok := tokens(line)
		if !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", line, got, ok)
		}
	}
	if got, ok := tokens(`compile "open`); ok {
		t.Errorf("an open quote gives %q", got)
	}
}

// Whatever a go command prints, a recorder neither fails nor makes a recipe of it whose
// hashes aren't right.
func FuzzRecorder(f *testing.F) {
	f.Add([]byte("WORK=/tmp/go-build1\ncat >/tmp/go-build1/b001/importcfg << 'EOF' # internal\n# import config\npackagefile a=/x\nEOF\ncd /src\n/go/compile -o $WORK/b001/_pkg_.a -buildid x/x ./a.go\ncp $WORK/b001/_pkg_.a /c # internal\nGOROOT='' /go/link -o $WORK/b001/exe/a.out -importcfg $WORK/b001/importcfg.link -buildid=a/b/c/d $WORK/b001/_pkg_.a\n"))
	f.Add([]byte("HASH[build a]\nHASH[build a]: \"go1\"\nHASH[build a]: \"file a.go x\\n\"\nHASH[build a]: 00\nHASH[link a]\nHASH[link a]: \"packagemain x/y\\n\"\n"))
	f.Add([]byte("echo -n > $WORK/b001/x # internal\necho 'a' > $WORK/b001/y # internal\ncat >x << 'EOF' # internal\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewRecorder("/src")
		for chunk := range slices.Chunk(data, 7) {
			if n, err := r.Write(chunk); n != len(chunk) || err != nil {
				t.Fatal(n, err)
			}
		}
		made := r.Recipe(nil)
		if made == nil {
			return
		}
		for name, p := range made.Packages {
			if !strings.HasPrefix(p.ID, actionID(p.Hashed)+"/") {
				t.Errorf("%s has the ID %s", name, p.ID)
			}
		}
	})
}
