package sandbox

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args string
		env  map[string]string
		want bool
	}{
		"build":               {args: "go build -o /app ./cmd/app"},
		"by path":             {args: "/usr/local/go/bin/go build ."},
		"ldflags":             {args: "go build -ldflags=-s|-extldflags=-static ."},
		"download":            {args: "go mod download -x"},
		"compile tests":       {args: "go test -c -o /t ./..."},
		"no cgo":              {args: "go build", env: map[string]string{"CGO_ENABLED": "0", "CC": "gcc"}},
		"netrc":               {args: "go build", env: map[string]string{"GOAUTH": "netrc"}},
		"run":                 {args: "go run .", want: true},
		"run after -C":        {args: "go -C /src run .", want: true},
		"generate":            {args: "go generate ./...", want: true},
		"tool":                {args: "go tool stringer", want: true},
		"test":                {args: "go test ./...", want: true},
		"test with -c inside": {args: "go test ./... -args -c", want: true},
		"unknown":             {args: "go frob", want: true},
		"another program":     {args: "/go/bin/stringer", want: true},
		"toolexec":            {args: "go build -toolexec /x .", want: true},
		"toolexec joined":     {args: "go build --toolexec=/x .", want: true},
		"vettool":             {args: "go vet -vettool=/x .", want: true},
		"vettool at the end":  {args: "go vet . -vettool=/x", want: true},
		"exec in GOFLAGS":     {args: "go test -c", env: map[string]string{"GOFLAGS": "-mod=mod -exec=/x"}, want: true},
		"toolexec in GOFLAGS": {args: "go build", env: map[string]string{"GOFLAGS": `"-toolexec=/x y"`}, want: true},
		"linker":              {args: "go build -ldflags=-linkmode=external|-extld=/x .", want: true},
		"linker in GOFLAGS":   {args: "go build", env: map[string]string{"GOFLAGS": "-ldflags=-extld=/x"}, want: true},
		"cache program":       {args: "go build", env: map[string]string{"GOCACHEPROG": "/x"}, want: true},
		"auth program":        {args: "go build", env: map[string]string{"GOAUTH": "netrc; /x y"}, want: true},
		"cgo":                 {args: "go build", env: map[string]string{"CGO_ENABLED": "1"}, want: true},
		"compiler":            {args: "go build", env: map[string]string{"CC": "/x"}, want: true},
		"toolchain on PATH":   {args: "go build", env: map[string]string{"GOTOOLCHAIN": "go1.25.0+path"}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Foreign(words(c.args), c.env); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if !Foreign(nil, nil) {
		t.Error("nothing at all isn't go")
	}
}

// words splits a command line; "|" stands for a space inside a word.
func words(line string) []string {
	args := strings.Fields(line)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "|", " ")
	}
	return args
}

// In a line "?" is a word that isn't known yet.
func TestCheck(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"go build -o /app -trimpath -ldflags -s|-w|-X|main.v=1 ./cmd/app": "",
		"go build -v -a -tags netgo -ldflags=-extldflags|\"-static\" .":   "",
		"go build ? ?": "", "?": "", "go ?": "", "go mod ?": "",
		"go build -gcflags=all=-N|-l .":        "",
		"go install example.com/x@v1.0.0":      "",
		"go mod download -x":                   "",
		"go mod tidy -go=1.25":                 "",
		"go mod edit -replace=a=../b":          "",
		"go list -m -json all":                 "",
		"go list -deps -f {{.Dir}} ./...":      "",
		"go env GOPATH":                        "",
		"go env -w GOPROXY=https://p,direct":   "",
		"go vet -printf=false ./...":           "",
		"go version":                           "",
		"go clean -cache -modcache":            "",
		"go fmt ./...":                         "",
		"go get -u ./...":                      "",
		"go -C /src build":                     "",
		"go work sync":                         "",
		"go work use ./a":                      "",
		"go run .":                             "go run",
		"go test ./...":                        "go test",
		"go generate":                          "go generate",
		"go tool compile":                      "go tool",
		"go doc fmt":                           "go doc",
		"go mod frob":                          "go mod frob",
		"go":                                   "without a command",
		"/go/bin/stringer -type=T":             "program of the stage",
		"make":                                 "program of the stage",
		"go build -toolexec /x":                "-toolexec",
		"go build --overlay=o.json":            "-overlay",
		"go build -pkgdir /x .":                "-pkgdir",
		"go build -race .":                     "-race",
		"go build -n .":                        "-n",
		"go build -frob .":                     "-frob",
		"go build -ldflags -cpuprofile=/x .":   "-cpuprofile",
		"go build -ldflags=-linkmode|external": "-linkmode external",
		"go build -ldflags=-extld|/x .":        "-extld",
		"go build -gcflags=-cpuprofile=/x .":   "-cpuprofile",
		"go build -gcflags=x=-trimpath=/y":     "-trimpath",
		"go build -compiler gccgo":             "-compiler",
		"go vet -vettool=/x ./...":             "-vettool",
		"go env -w GOFLAGS=-toolexec=/x":       "-toolexec",
		"go env -w GOCACHEPROG=/x":             "GOCACHEPROG",
		"go env -w CC=/x":                      "CC=/x",
		"go env -w CGO_ENABLED=1":              "CGO_ENABLED=1",
		"go work use ../../x":                  "go work use",
		"go work init /src":                    "go work init",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			args := pointers(words(line))
			for i := range args {
				if *args[i] == "?" {
					args[i] = nil
				}
			}
			u := mapped{}.Check(args, nil)
			if want == "" && u != nil || want != "" && (u == nil || !strings.Contains(u.Error(), want)) {
				t.Errorf("got %v, want %q", u, want)
			}
			if u != nil && u.Fix == "" {
				t.Error("no fix")
			}
			if u := (mapped{}).Check(args, map[string]string{"GOCACHEPROG": "/x"}); u == nil && args[0] != nil {
				t.Error("GOCACHEPROG is allowed")
			}
		})
	}
}

// What mapped refuses when it runs, after a look at the stage.
func TestRefusedStages(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		env   string
		dir   string
		want  string // "" is allowed
	}{
		"absolute replace":    {files: map[string]string{"src/go.mod": "module m\n\ngo 1.25\n\nreplace example.com/x => /lib/x\n"}, want: "/lib/x"},
		"replace outside":     {files: map[string]string{"src/go.mod": "module m\n\ngo 1.25\n\nreplace example.com/x => ../../x\n"}, want: "../../x"},
		"replace inside":      {files: map[string]string{"src/go.mod": "module m\n\ngo 1.25\n\nreplace example.com/x => ../x\n", "x/go.mod": "module example.com/x\n"}},
		"work outside":        {files: map[string]string{"go.work": "go 1.25\n\nuse ./src\nuse ../x\n"}, want: "../x"},
		"work inside":         {files: map[string]string{"go.work": "go 1.25\n\nuse ./src\n"}},
		"GOFLAGS of the env":  {env: "GOFLAGS=-toolexec=/x", want: "-toolexec"},
		"modfile in GOFLAGS":  {env: "GOFLAGS=-modfile=/x.mod", want: "-modfile"},
		"saved GOFLAGS":       {files: map[string]string{"root/.config/go/env": "GOFLAGS=-overlay=/x\n"}, env: "GOFLAGS=", want: "-overlay"},
		"saved cache program": {files: map[string]string{"root/.config/go/env": "GOCACHEPROG=/x\n"}, want: "GOCACHEPROG"},
		"saved elsewhere":     {files: map[string]string{"conf/go/env": "GOAUTH=/x\n"}, env: "XDG_CONFIG_HOME=/conf", want: "GOAUTH"},
		"another toolchain":   {env: "GOROOT=/opt/go", want: "GOROOT"},
		"the toolchain":       {env: "GOROOT=/usr/local/go"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, module)
			for file, text := range c.files {
				s.write(file, text)
			}
			cmd := s.command("go", "list", "./...")
			if c.env != "" {
				cmd.Env = append(cmd.Env, c.env)
			}
			got := run(t, mapped{}, cmd)
			switch {
			case c.want == "":
				got.ok(t)
			case !unsupported(got.err) || !strings.Contains(got.err.Error(), c.want):
				t.Errorf("exit %d, %v, want %q\n%s", got.exit, got.err, c.want, got.stderr)
			}
		})
	}
}

// The whole environment of mapped, so that nothing joins it unseen.
func TestMappedEnvironment(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := Command{
		Root: root, Dir: "/", Goroot: filepath.Join(root, "goroot"), GorootTarget: "/usr/local/go", ModCache: "/m", BuildCache: "/b",
		Env: []string{
			"PATH=/bin", "HOME=/home/u", "GOPATH=/go:/more", "GOOS=linux", "GOARM=7", "GOPROXY=file:///proxy,off", "CC=/x", "CGO_CFLAGS=-fplugin=/x",
			"LD_PRELOAD=/x", "DYLD_INSERT_LIBRARIES=/x", "GIT_SSH_COMMAND=/x", "FOO=bar", "GOFLAGS=-mod=mod", "GOCOVERDIR=/x", "NETRC=/run/netrc",
		},
		ProxyEnv: []string{"HTTPS_PROXY=http://p"}, Network: true, CACerts: "/ca.pem",
	}
	m := mapping{c: c}
	l := readGo(pointers([]string{"go", "build"}))
	got, err := m.environment(&l)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }
	want := map[string]string{
		"PATH": filepath.Join(c.Goroot, "bin"), "HOME": in("home/u"), "TMPDIR": in("tmp"), "GOENV": in("home/u/.config/go/env"), "NETRC": in("run/netrc"),
		"GOPATH": in("go") + string(filepath.ListSeparator) + in("more"), "GOMODCACHE": "/m", "GOCACHE": "/b", "GOOS": "linux", "GOARM": "7",
		"GOPROXY": "file://" + filepath.ToSlash(in("proxy")) + ",off", "GOFLAGS": "-mod=mod -trimpath", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local",
		"GOWORK": "off", "HTTPS_PROXY": "http://p", "SSL_CERT_FILE": "/ca.pem",
	}
	if os.PathSeparator == '\\' {
		t.Skip("there are more of them there")
	}
	slices.Sort(got)
	if wanted := list(want); !slices.Equal(got, slices.Sorted(slices.Values(wanted))) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(slices.Sorted(slices.Values(wanted)), "\n"))
	}
}

// A secret that go reads, such as .netrc, is there for one command.
func TestMappedMount(t *testing.T) {
	t.Parallel()
	s := newStage(t, module)
	c := s.command("go", "list", "-e", "-f", "{{.EmbedFiles}}", ".")
	c.Mounts = []Mount{{Host: secret(t, "data", "hunter2"), Target: "/src/run/data.txt", File: true}}
	s.write("src/main.go", "package main\n\nimport _ \"embed\"\n\n//go:embed run/data.txt\nvar data string\n\nfunc main() { println(data) }\n")
	if got := run(t, mapped{}, c).ok(t).stdout; got != "[run/data.txt]\n" {
		t.Errorf("got %q", got)
	}
	if slices.Contains(s.entries(), "src/run") {
		t.Error("it is left")
	}
	c.Mounts = []Mount{{Host: t.TempDir(), Target: "/data"}}
	if got := run(t, mapped{}, c); !unsupported(got.err) {
		t.Errorf("a directory: %+v", got)
	}
}

func TestKeepCaches(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"go clean -cache":               "done",
		"go clean -modcache -testcache": "done",
		"go clean -cache -i ./...":      "go clean -i ./...",
		"go clean":                      "go clean",
		"go build -o cache .":           "go build -o cache .",
		"/bin/clean -cache":             "/bin/clean -cache",
	} {
		args, done := keepCaches(Command{Args: words(line)})
		if got := strings.Join(args, " "); !done && got != want || done != (want == "done") {
			t.Errorf("%s: %q %v", line, got, done)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := &stage{t: t, root: t.TempDir()}
	s.write("usr/bin/x", "")
	s.link("usr/bin", "bin")
	s.link("/etc", "abs")
	s.link("../../../..", "up")
	s.link("loop", "loop")
	for name, want := range map[string]string{
		"/bin/x": "/usr/bin/x", "/abs/passwd": "/etc/passwd", "/up/usr": "/usr", "/../../x": "/x", "/missing/../y": "/y", "/": "/", "/bin/../z": "/usr/z", "/loop/x": "",
	} {
		if got, err := resolve(s.root, name); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	if os.PathSeparator == '\\' {
		t.Skip("paths are written otherwise there")
	}
	var out bytes.Buffer
	m := mapping{c: Command{Root: "/w/root", ModCache: "/w/root-mod", ModCacheTarget: "/go/pkg/mod", Goroot: "/opt/go", GorootTarget: "/usr/local/go"}}
	w := m.translate(&out)
	in := "/w/root/src/a.go:3: x\n/w/root\n\"/w/root-mod/x@v1\" /w/rootless /opt/go/src;/opt/gopher\nGOPATH='/w/root/go'\n" + strings.Repeat("y", 3*longest) + " /w/root/z"
	want := "/src/a.go:3: x\n/\n\"/go/pkg/mod/x@v1\" /w/rootless /usr/local/go/src;/opt/gopher\nGOPATH='/go'\n" + strings.Repeat("y", 3*longest) + " /z"
	for part := range slices.Chunk([]byte(in), 7) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil || out.String() != want {
		t.Errorf("%v, got %.300q", err, out.String())
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	s := &stage{t: t, root: t.TempDir()}
	s.write("root/.config/go/env", "# comment\nGOPROXY=p\nGOFLAGS=-mod=mod\nnonsense\n")
	got := Environ(s.root, []string{"GOPROXY=q", "GOFLAGS="})
	if want := map[string]string{"GOPROXY": "q", "GOFLAGS": "-mod=mod"}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := Environ(s.root, []string{"GOENV=off"}); got["GOPROXY"] != "" {
		t.Errorf("off: %v", got)
	}
}

func FuzzForeign(f *testing.F) {
	f.Add("build -o x -ldflags -s", `-toolexec="x y" '`)
	f.Add("-C", "-")
	f.Add("mod", "a=b")
	f.Add("env -w GOFLAGS=-x", "")
	f.Fuzz(func(t *testing.T, line, goflags string) {
		args := append([]string{"go"}, strings.Fields(line)...)
		env := map[string]string{"GOFLAGS": goflags}
		if Foreign(args, env) && (mapped{}).Check(pointers(args), env) == nil {
			t.Errorf("mapped runs %q with GOFLAGS=%q, which may start other programs", args, goflags)
		}
	})
}
