package native

import (
	_ "embed"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/sandbox"
)

// Programs of a hosted stage find a go command of ours on their PATH, and a date:
//
//   - In a stage that isn't pinned, make expects that go compiles for the image, as it
//     does in an emulated container. A GOARCH in the environment would say so, but to
//     everybody: `go run` would make a generator that this machine can't run, and
//     scripts that look at GOARCH would see what no container has. So the go command
//     that they find is a script that decides for each call, as runGo does for RUN lines.
//   - The clock of a build stands still, or the image would have another digest every
//     day: date answers as that of RUN lines does.
//
// The scripts need the stage's /bin/sh. They tell what went on in files of a directory
// of their own, which is as trustworthy as the stage is: it can only make the build fail
// or be repeated.

//go:embed shim_go.sh
var goShim string

//go:embed shim_date.sh
var dateShim string

const (
	shimDir  = "/.anyarch"
	shimGo   = shimDir + "/go"   // the toolchain
	shimBin  = shimDir + "/bin"  // programs that come first on PATH
	shimNote = shimDir + "/note" // what the scripts tell
)

// shim is what one process of a hosted stage is given.
type shim struct {
	dir string // of the host
	goo bool   // it has a go command
}

// newShim makes the scripts for a process, and puts them on the PATH in env.
func (in *invocation) newShim(hasGo bool, env map[string]string) (*shim, error) {
	if _, err := in.tree.Stat("/bin/sh"); err != nil {
		if hasGo && !in.stage.pinned {
			// Nothing can decide for each call then; what compiles is for the image.
			for _, kv := range in.target.GoEnv() {
				if k, v, _ := strings.Cut(kv, "="); env[k] == "" {
					env[k] = v
				}
			}
		}
		return nil, nil
	}
	dir, err := os.MkdirTemp(in.b.o.Scratch, "shim-*")
	if err != nil {
		return nil, err
	}
	s := &shim{dir: dir, goo: hasGo}
	for _, name := range []string{"bin", "note"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	values := func(text string, list ...string) []byte {
		return []byte(strings.NewReplacer(list...).Replace(text))
	}
	date := values(dateShim, "@SECONDS@", strconv.FormatInt(in.b.now().Unix(), 10), "@BIN@", shimBin)
	if err := os.WriteFile(filepath.Join(dir, "bin", "date"), date, 0o755); err != nil { //nolint:gosec // a program
		return nil, err
	}
	if env["PATH"] != "" {
		env["PATH"] = shimBin + ":" + env["PATH"]
	}
	if !hasGo {
		return s, nil
	}
	saved := in.savedEnv(env)
	level, value := in.target.GoLevel()
	b := in.b.o.BuildPlatform
	script := values(goShim, "@GO@", shimGo+"/bin/go", "@GOROOT@", goroot, "@NOTE@", shimNote,
		"@HOSTOS@", b.OS, "@HOSTARCH@", b.Architecture, "@OS@", in.target.OS, "@ARCH@", in.target.Architecture, "@LEVEL@", level, "@VALUE@", value,
		"@SAVEDOS@", saved["GOOS"], "@SAVEDARCH@", saved["GOARCH"], "@SAVEDCGO@", saved["CGO_ENABLED"], "@SAVEDCC@", saved["CC"],
		"@PINNED@", mark(in.stage.pinned), "@BOUND@", mark(in.bound || in.stage.pinned), "@OVERRIDE@", mark(in.b.o.OverrideArch))
	return s, os.WriteFile(filepath.Join(dir, "go"), script, 0o755) //nolint:gosec // a program
}

// mark is a truth for the scripts: 1 or empty.
func mark(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// mounts are where a process sees the scripts; root is the toolchain's directory.
func (s *shim) mounts(root string) []sandbox.Mount {
	if s == nil {
		return nil
	}
	list := []sandbox.Mount{
		{Host: filepath.Join(s.dir, "bin"), Target: shimBin, ReadOnly: true},
		{Host: filepath.Join(s.dir, "note"), Target: shimNote},
	}
	if s.goo {
		list = append(list, sandbox.Mount{Host: root, Target: shimGo, ReadOnly: true},
			sandbox.Mount{Host: filepath.Join(s.dir, "go"), Target: goroot + "/bin/go", ReadOnly: true, File: true})
	}
	return list
}

// said reads what the scripts have told, when the process has ended.
func (s *shim) said(in *invocation) error {
	if s == nil {
		return nil
	}
	defer func() { _ = os.RemoveAll(s.dir) }()
	root, err := os.OpenRoot(filepath.Join(s.dir, "note"))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	platform := false
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		f, err := root.Open(e.Name())
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(f, 4<<10))
		_ = f.Close()
		if err != nil {
			return err
		}
		kind, rest, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		switch kind {
		case "platform":
			platform = true
		case "cgo":
			return in.refuseC(in.target.Architecture, strings.Fields(rest))
		}
	}
	if platform && !in.bound && !in.stage.pinned {
		return errPlatform
	}
	return nil
}
