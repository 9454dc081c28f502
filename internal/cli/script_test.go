package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/anyarch/anyarch/internal/cli"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/gocache"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/native/apk/apktest"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/serve"
	"github.com/anyarch/anyarch/internal/store"
	"github.com/anyarch/anyarch/internal/trace/tracetest"
)

func TestMain(m *testing.M) {
	if sandbox.Main() || gocache.Main() {
		return
	}
	testscript.Main(m, map[string]func(){
		"anyarch": func() { os.Exit(cli.Main(context.Background(), cli.Arguments(os.Args), cli.Process())) },
		"docker":  func() { os.Exit(cli.Main(context.Background(), cli.Arguments(os.Args), cli.Process())) },
	})
}

// TestScripts is the specification of the command line, one file per topic in
// testdata/script. Every script has a module with programs, an empty home, and
// a registry of its own at $REGISTRY.
func TestScripts(t *testing.T) {
	t.Parallel()
	goCache := goEnv(t, "GOCACHE")
	memo := filepath.Join(t.TempDir(), "cache") // compiled and packed once for all scripts
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			root := filepath.Join(env.WorkDir, "registry")
			server, err := serve.New(serve.Options{Root: root})
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = server.Serve(ctx, listener)
			}()
			env.Defer(func() { stop(); <-done })
			for file, content := range programs {
				path := filepath.Join(env.WorkDir, filepath.FromSlash(file))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					return err
				}
			}
			home := filepath.Join(env.WorkDir, "home")
			if err := os.MkdirAll(home, 0o755); err != nil {
				return err
			}
			for key, value := range map[string]string{
				"REGISTRY": listener.Addr().String(), "HOME": home, "USERPROFILE": home, "LOCALAPPDATA": home, "ANYARCH_CACHE": memo,
				"GOCACHE": goCache, "GOFLAGS": "", "GOPROXY": "off", "GOENV": "off", "GOTOOLCHAIN": "local", "GOARCH": "", "GOOS": "",
				// The directory of anyarch itself, and nothing else on PATH.
				"BIN":   filepath.SplitList(env.Getenv("PATH"))[0],
				"LOCAL": platform.Local().String(), "NO_COLOR": "1", "CI": "", "GITHUB_ACTIONS": "",
			} {
				env.Setenv(key, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tag":         checkTag,
			"config":      checkConfig,
			"base":        makeBase,
			"bases":       makeBases,
			"mirror":      makeMirror,
			"traced":      traced,
			"hammer":      hammer,
			"flip":        flip,
			"files":       listFiles,
			"half":        makeHalf,
			"replace":     replace,
			"config-only": configOnly,
			"children":    children,
			"buildx":      asBuildx,
			"edits":       edits,
			"real":        realRegistry,
		},
	})
}

func goEnv(t *testing.T, key string) string {
	t.Helper()
	out, err := exec.Command("go", "env", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// programs is the module of every script. They use println, so that the
// standard library has little to compile.
var programs = map[string]string{
	"go.mod":              "module example.com/m\n\ngo 1.24\n",
	"cmd/hello/main.go":   "package main\n\nvar version = \"none\"\n\nfunc main() { println(\"hello\", version) }\n",
	"cmd/other/main.go":   "package main\n\nfunc main() { println(\"other\") }\n",
	"cmd/exit/main.go":    "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(os.Args[1] + os.Getenv(\"GREETING\") + \"\\n\"); os.Exit(7) }\n",
	"lib/lib.go":          "package lib\n",
	"only/amd64/main.go":  "package main\n\nimport \"syscall\"\n\nfunc main() {\n\t_ = syscall.Iopl(3)\n}\n",
	"only/cgo/main.go":    "package main\n\nimport \"C\"\n\nfunc main() {}\n",
	"files/page.html":     "<p>\n",
	"files/sub/tool.sh":   "#!/bin/sh\n",
	"files/sub/page.link": "",
}

// tag checks what a tag of the registry names: tag REPO TAG is FILE, where FILE
// holds a digest; or tag REPO TAG absent.
func checkTag(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || neg {
		ts.Fatalf("usage: tag REPOSITORY TAG is FILE|absent")
	}
	st, err := store.Open(filepath.Join(ts.Getenv("WORK"), "registry", args[0]))
	var d ocispec.Descriptor
	if err == nil {
		d, err = st.Find(args[1])
	}
	if args[2] == "absent" {
		if err == nil {
			ts.Fatalf("%s:%s names %s", args[0], args[1], d.Digest)
		}
		return
	}
	ts.Check(err)
	want := strings.TrimSpace(ts.ReadFile(args[3]))
	want = want[strings.Index(want, "sha256:"):]
	if d.Digest.String() != want {
		ts.Fatalf("%s:%s names %s, want %s", args[0], args[1], d.Digest, want)
	}
}

// config checks the config of one platform of a layout against a pattern:
// config LAYOUT PLATFORM PATTERN. The whole of index, manifest and config is
// matched, on one line each.
func checkConfig(ts *testscript.TestScript, neg bool, args []string) {
	st, err := store.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	src := image.Layout{Store: st}
	ctx := context.Background()
	d, err := src.Resolve(ctx, "")
	ts.Check(err)
	var index ocispec.Index
	raw, err := image.FetchJSON(ctx, src, d, &index)
	ts.Check(err)
	all := "index " + string(raw)
	found := false
	for _, m := range index.Manifests {
		if platform.FromOCI(m.Platform).String() != args[1] {
			continue
		}
		found = true
		var manifest ocispec.Manifest
		raw, err := image.FetchJSON(ctx, src, m, &manifest)
		ts.Check(err)
		all += "\nmanifest " + string(raw)
		var any json.RawMessage
		raw, err = image.FetchJSON(ctx, src, manifest.Config, &any)
		ts.Check(err)
		all += "\nconfig " + string(raw)
	}
	if !found {
		ts.Fatalf("no platform %s in %s", args[1], all)
	}
	matched, err := regexp.MatchString(args[2], all)
	ts.Check(err)
	if matched == neg {
		ts.Fatalf("%q matches: %v\n%s", args[2], matched, all)
	}
}

// base makes a base image in the registry: base REPO TAG PLATFORM,PLATFORM…
// A tag with a manifest alone is made with the word single. The digest of the
// first child is $CHILD afterwards.
func makeBase(ts *testscript.TestScript, neg bool, args []string) {
	st, err := store.Create(filepath.Join(ts.Getenv("WORK"), "registry", args[0]))
	ts.Check(err)
	l, err := layer.Write(context.Background(), st, []layer.Entry{{Name: "etc/base", Size: 0}}, layer.Options{})
	ts.Check(err)
	l.History = ocispec.History{CreatedBy: "base"}
	var images []image.Image
	for name := range strings.SplitSeq(args[2], ",") {
		p, err := platform.Parse(name)
		ts.Check(err)
		config := ocispec.Image{Config: ocispec.ImageConfig{Env: []string{"PATH=/bin", "FROM=base"}, User: "1000", Cmd: []string{"sh"}, Labels: map[string]string{"org.opencontainers.image.title": "base", "kept": "yes"}}}
		img, err := image.Assemble(st, image.Recipe{Platform: p, Config: config, Layers: []image.Layer{l}})
		ts.Check(err)
		images = append(images, img)
	}
	d := images[0].Manifest
	ts.Setenv("CHILD", d.Digest.String())
	if len(args) < 4 {
		d, err = image.WriteIndex(st, images, nil, image.OCI)
		ts.Check(err)
	}
	ts.Check(st.Tag(context.Background(), args[1], d, true))
}

// bases puts what Dockerfiles are built on into the registry: library/golang, with
// tags 1 and 1-alpine and the version of the go command that runs the tests, and
// library/alpine, library/debian and library/old, a golang of before toolchain
// modules.
func makeBases(ts *testscript.TestScript, _ bool, _ []string) {
	version := strings.TrimPrefix(runtime.Version(), "go")
	content := func(text string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
	}
	dir := func(name string) layer.Entry { return layer.Entry{Name: name, Type: layer.Dir, Mode: 0o755} }
	file := func(name, text string, mode fs.FileMode) layer.Entry {
		return layer.Entry{Name: name, Mode: mode, Size: int64(len(text)), Open: content(text)}
	}
	accounts := []layer.Entry{
		dir("etc"), dir("etc/ssl"), dir("etc/ssl/certs"), dir("tmp"), dir("home"), dir("usr"), dir("usr/bin"), dir("usr/share"), file("etc/ssl/certs/ca-certificates.crt", "CERTS\n", 0o644),
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n", 0o644),
		file("etc/group", "root:x:0:root\nnobody:x:65534:\n", 0o644), file("etc/shadow", "root:*::0:::::\n", 0o640),
	}
	alpine := append(slices.Clone(accounts), dir("bin"), dir("lib"), file("etc/alpine-release", "3.22.2\n", 0o644), file("bin/busybox", "#!/no\n", 0o755),
		layer.Entry{Name: "bin/sh", Type: layer.Symlink, Link: "/bin/busybox"})
	debian := append(slices.Clone(accounts), layer.Entry{Name: "bin", Type: layer.Symlink, Link: "usr/bin"}, file("usr/bin/dash", "#!/no\n", 0o755),
		layer.Entry{Name: "usr/bin/sh", Type: layer.Symlink, Link: "dash"}, file("usr/bin/old", "old\n", 0o755), layer.Entry{Name: "usr/bin/hard", Type: layer.Hardlink, Link: "usr/bin/old"})
	path := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	golang := []string{"PATH=/go/bin:/usr/local/go/bin:" + strings.TrimPrefix(path, "PATH="), "GOLANG_VERSION=" + version, "GOPATH=/go"}
	for _, b := range []struct {
		repository, tag, by string
		entries             []layer.Entry
		env                 []string
	}{
		{"library/golang", "1-alpine", "ADD alpine-minirootfs", alpine, golang}, {"library/golang", "1", "debian", debian, golang},
		{"library/alpine", "3", "ADD alpine-minirootfs", alpine, []string{path}}, {"library/debian", "12", "debian", debian, []string{path}},
		{"library/old", "1", "debian", debian, []string{path, "GOLANG_VERSION=1.18.1", "GOPATH=/go"}},
	} {
		st, err := store.Create(filepath.Join(ts.Getenv("WORK"), "registry", filepath.FromSlash(b.repository)))
		ts.Check(err)
		l, err := layer.Write(context.Background(), st, b.entries, layer.Options{})
		ts.Check(err)
		l.History = ocispec.History{CreatedBy: b.by}
		var images []image.Image
		for _, arch := range []string{"amd64", "arm64"} {
			config := ocispec.Image{Config: ocispec.ImageConfig{Env: b.env, Cmd: []string{"sh"}}}
			img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: arch}, Config: config, Layers: []image.Layer{l}})
			ts.Check(err)
			images = append(images, img)
		}
		d, err := image.WriteIndex(st, images, nil, image.OCI)
		ts.Check(err)
		ts.Check(st.Tag(context.Background(), b.tag, d, true))
	}
}

// mirror serves signed packages of a small Alpine ($MIRROR), and puts library/alpine
// with tag 3.22 into the registry, whose packages come from there.
func makeMirror(ts *testscript.TestScript, _ bool, _ []string) {
	key, err := apktest.NewKey("test@example.com-1.rsa.pub")
	ts.Check(err)
	dir := ts.MkAbs("mirror")
	ts.Check(apktest.Mirror(dir, key, "amd64", "arm64"))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	ts.Defer(server.Close)
	ts.Setenv("MIRROR", server.URL)
	st, err := store.Create(filepath.Join(ts.Getenv("WORK"), "registry", "library", "alpine"))
	ts.Check(err)
	var images []image.Image
	for _, arch := range []string{"amd64", "arm64"} {
		p := platform.Platform{OS: "linux", Architecture: arch}
		scratch := ts.MkAbs("scratch-" + arch)
		ts.Check(os.MkdirAll(scratch, 0o755))
		tree, err := apktest.Root(context.Background(), dir, "https://dl-cdn.alpinelinux.org/alpine/v3.22", key, p, scratch)
		ts.Check(err)
		var entries []layer.Entry
		ts.Check(tree.Walk("/", func(name string, a filetree.Attr) error {
			e := layer.Entry{Name: strings.TrimPrefix(name, "/"), Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: a.ModTime, Size: a.Size(), Open: a.Open}
			switch {
			case e.Name == "":
				return nil
			case a.IsDir():
				e.Type, e.Open = layer.Dir, nil
			case a.IsSymlink():
				e.Type, e.Link, e.Open = layer.Symlink, a.Link, nil
			}
			entries = append(entries, e)
			return nil
		}))
		l, err := layer.Write(context.Background(), st, entries, layer.Options{})
		ts.Check(err)
		l.History = ocispec.History{CreatedBy: "ADD alpine-minirootfs"}
		img, err := image.Assemble(st, image.Recipe{Platform: p, Layers: []image.Layer{l},
			Config: ocispec.Image{Config: ocispec.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"/bin/sh"}}}})
		ts.Check(err)
		images = append(images, img)
	}
	d, err := image.WriteIndex(st, images, nil, image.OCI)
	ts.Check(err)
	ts.Check(st.Tag(context.Background(), "3.22", d, true))
}

// files lists what the layers of an image that its Dockerfile made have in them:
// files LAYOUT ARCH, one line per entry with type, mode, owner, path and link.
func listFiles(ts *testscript.TestScript, _ bool, args []string) {
	st, err := store.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	src, ctx := image.Layout{Store: st}, context.Background()
	d, err := src.Resolve(ctx, "")
	ts.Check(err)
	var index ocispec.Index
	_, err = image.FetchJSON(ctx, src, d, &index)
	ts.Check(err)
	for _, m := range index.Manifests {
		if m.Platform.Architecture != args[1] {
			continue
		}
		var manifest ocispec.Manifest
		_, err = image.FetchJSON(ctx, src, m, &manifest)
		ts.Check(err)
		for i, l := range manifest.Layers {
			r, err := src.Fetch(ctx, l)
			ts.Check(err)
			z, err := gzip.NewReader(r)
			ts.Check(err)
			for tr := tar.NewReader(z); ; {
				h, err := tr.Next()
				if err == io.EOF {
					break
				}
				ts.Check(err)
				_, err = fmt.Fprintf(ts.Stdout(), "%d %c %04o %d:%d /%s %s\n", i, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname)
				ts.Check(err)
			}
			ts.Check(r.Close())
		}
	}
}

// half rewrites a layout's index so that its arm64 entry is the amd64 image
// under another label: half LAYOUT.
func makeHalf(ts *testscript.TestScript, neg bool, args []string) {
	st, err := store.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	src := image.Layout{Store: st}
	ctx := context.Background()
	d, err := src.Resolve(ctx, "")
	ts.Check(err)
	var index ocispec.Index
	_, err = image.FetchJSON(ctx, src, d, &index)
	ts.Check(err)
	var manifest ocispec.Manifest
	_, err = image.FetchJSON(ctx, src, index.Manifests[0], &manifest)
	ts.Check(err)
	var config ocispec.Image
	_, err = image.FetchJSON(ctx, src, manifest.Config, &config)
	ts.Check(err)
	var layers []image.Layer
	for i, l := range manifest.Layers {
		layers = append(layers, image.Layer{Descriptor: l, DiffID: config.RootFS.DiffIDs[i]})
	}
	first, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: "amd64"}, Config: config, Layers: layers})
	ts.Check(err)
	second, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: "arm64"}, Config: config, Layers: layers})
	ts.Check(err)
	made, err := image.WriteIndex(st, []image.Image{first, second}, nil, image.OCI)
	ts.Check(err)
	ts.Check(st.Tag(ctx, "latest", made, false))
}

// config-only makes an image whose config names no platform: config-only REPO TAG.
func configOnly(ts *testscript.TestScript, _ bool, args []string) {
	st, err := store.Create(filepath.Join(ts.Getenv("WORK"), "registry", filepath.FromSlash(args[0])))
	ts.Check(err)
	img, err := image.Assemble(st, image.Recipe{})
	ts.Check(err)
	img.Manifest.Platform = nil
	ts.Check(st.Tag(context.Background(), args[1], img.Manifest, true))
}

// children lets $AMD64 and $ARM64 be the digests of an index's images: children REPO TAG.
func children(ts *testscript.TestScript, _ bool, args []string) {
	st, err := store.Open(filepath.Join(ts.Getenv("WORK"), "registry", filepath.FromSlash(args[0])))
	ts.Check(err)
	src, ctx := image.Layout{Store: st}, context.Background()
	d, err := src.Resolve(ctx, args[1])
	ts.Check(err)
	var index ocispec.Index
	_, err = image.FetchJSON(ctx, src, d, &index)
	ts.Check(err)
	for _, m := range index.Manifests {
		ts.Setenv(strings.ToUpper(m.Platform.Architecture), m.Digest.String())
	}
}

// replace changes a file: replace FILE OLD NEW.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	data := ts.ReadFile(args[0])
	if !strings.Contains(data, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(data, args[1], args[2])), 0o644))
}

// traced holds a trace to its format and to what must be in it: traced FILE TRACK/NAME….
func traced(ts *testscript.TestScript, _ bool, args []string) {
	spans, err := tracetest.Read([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	for _, want := range args[1:] {
		if !slices.ContainsFunc(spans, func(s tracetest.Span) bool { return strings.HasPrefix(s.Track+"/"+s.Name, want) }) {
			ts.Fatalf("%s isn't in the trace: %v", want, spans)
		}
	}
}

// realRegistry starts distribution's registry: real VARIABLE [delete].
func realRegistry(ts *testscript.TestScript, _ bool, args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	address := listener.Addr().String()
	ts.Check(listener.Close())
	dir := ts.MkAbs("real-" + args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	config := filepath.Join(dir, "config.yml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: %v}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), len(args) > 1, address), 0o644))
	cmd := exec.Command("docker-registry", "serve", config)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for i := 0; ; i++ {
		resp, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			ts.Check(resp.Body.Close())
			break
		}
		if i == 400 {
			ts.Fatalf("docker-registry doesn't start: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Setenv(args[0], address)
}

// asBuildx leaves of a metadata file what docker buildx writes: buildx FROM TO.
func asBuildx(ts *testscript.TestScript, _ bool, args []string) {
	var all map[string]json.RawMessage
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &all))
	for key := range all {
		if strings.HasPrefix(key, "anyarch.") {
			delete(all, key)
		}
	}
	data, err := json.Marshal(all)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o644))
}

// TestInterrupt stops a build in the middle of compiling: nothing may be left
// running, and no tag behind.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGINT to send")
	}
	t.Parallel()
	dir, home := t.TempDir(), t.TempDir()
	for file, content := range map[string]string{"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": "package main\n\nimport _ \"net/http\"\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	registry := filepath.Join(home, "registry")
	server, err := serve.New(serve.Options{Root: registry})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = server.Serve(ctx, listener) }()
	var stderr bytes.Buffer
	run, interrupt := context.WithCancelCause(t.Context())
	system := cli.Process()
	system.Dir, system.Stdout, system.Stderr = dir, &bytes.Buffer{}, &stderr
	getenv := system.Getenv
	goCache := filepath.Join(home, "gocache") // empty, so that there is something to compile
	system.Getenv = func(key string) string {
		switch key {
		case "GOCACHE":
			return goCache
		case "ANYARCH_CACHE":
			return filepath.Join(home, "cache")
		case "HOME":
			return home
		case "GOFLAGS", "GOENV":
			return map[string]string{"GOENV": "off"}[key]
		}
		return getenv(key)
	}
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(run, []string{"publish", ".", "-t", listener.Addr().String() + "/app:1.0", "--progress", "plain", "--trace", "trace.json"}, system)
	}()
	// The first object in the cache says that compiling is under way.
	for {
		if objects, _ := filepath.Glob(filepath.Join(goCache, "[0-9a-f][0-9a-f]", "*-d")); len(objects) > 0 {
			break
		}
		select {
		case c := <-code:
			t.Fatalf("ended with %d before it was interrupted\n%s", c, stderr.String())
		default:
			runtime.Gosched()
		}
	}
	interrupt(context.Canceled)
	if c := <-code; c != 130 {
		t.Errorf("exit %d\n%s", c, stderr.String())
	}
	if !strings.Contains(stderr.String(), "interrupted: nothing was tagged") {
		t.Errorf("it says\n%s", stderr.String())
	}
	if _, err := store.Open(filepath.Join(registry, "app")); err == nil {
		t.Error("something was published")
	}
	if data, err := os.ReadFile(filepath.Join(dir, "trace.json")); err != nil {
		t.Error(err)
	} else if spans, err := tracetest.Read(data); err != nil || !slices.ContainsFunc(spans, func(s tracetest.Span) bool { return s.Track == "processes" && strings.HasPrefix(s.Name, "go build") }) {
		t.Errorf("the trace of an interrupted run: %v %v", spans, err)
	}
	if left := processesWith(goCache); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

// processesWith lists processes whose command line or environment names text,
// where the system shows them.
func processesWith(text string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		if strings.Contains(file, fmt.Sprintf("/%d/", os.Getpid())) {
			continue
		}
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(text)) {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}
