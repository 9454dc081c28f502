package pin

import (
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// cgoModules are modules that don't work, or work otherwise, without a C compiler.
var cgoModules = []string{
	"github.com/mattn/go-sqlite3", "github.com/confluentinc/confluent-kafka-go", "github.com/libgit2/git2go", "github.com/valyala/gozstd",
	"github.com/h2non/bimg", "github.com/davidbyttow/govips", "gopkg.in/gographics/imagick", "github.com/google/gopacket", "github.com/gopacket/gopacket",
	"github.com/miekg/pkcs11", "github.com/ThalesIgnite/crypto11", "github.com/lxc/go-lxc", "github.com/linxGnu/grocksdb", "github.com/tecbot/gorocksdb",
	"github.com/marcboeker/go-duckdb", "github.com/duckdb/duckdb-go", "github.com/veandco/go-sdl2", "github.com/go-gl/gl", "github.com/godror/godror",
	"github.com/ibmdb/go_ibm_db", "github.com/mattn/go-oci8", "github.com/tursodatabase/go-libsql", "github.com/yalue/onnxruntime_go", "github.com/seccomp/libseccomp-golang",
	"libvirt.org/go/libvirt", "github.com/ceph/go-ceph", "github.com/msteinert/pam", "github.com/gordonklaus/portaudio", "github.com/knqyf263/go-rpmdb",
}

// maxFiles bounds how many Go files are looked at.
const maxFiles = 20000

// NeedsC says why packages of a context need C: a file that imports it, or a module that
// does nothing without it. Empty if nothing is found. targets are the arguments of go
// build; what isn't a package of the context's own module stands for everything in it.
// Tests and other systems' files don't count.
func NeedsC(dir string, targets []string) string {
	s := &sources{dir: dir, linux: build.Default, seen: map[string]bool{}}
	s.linux.GOOS, s.linux.GOARCH, s.linux.CgoEnabled = "linux", "amd64", true
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return s.everything()
	}
	s.module = modfile.ModulePath(data)
	if len(targets) == 0 {
		targets = []string{"."}
	}
	for _, t := range targets {
		t = strings.TrimSuffix(t, "/")
		local, own := strings.CutPrefix(t, s.module+"/")
		switch {
		case t == s.module:
			local = "."
		case strings.HasSuffix(t, ".go"):
			local = path.Dir(t)
		case !own:
			local = t
		}
		info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(path.Clean("/"+local))))
		if err != nil || !info.IsDir() || strings.ContainsAny(t, "$*") || strings.HasSuffix(t, "...") {
			return s.everything()
		}
		s.todo = append(s.todo, path.Clean(local))
	}
	for len(s.todo) > 0 && s.files < maxFiles {
		next := s.todo[0]
		s.todo = s.todo[1:]
		if why := s.pkg(next); why != "" {
			return why
		}
	}
	return ""
}

// sources are the Go files of a context.
type sources struct {
	dir    string
	module string // path of the module at its root, empty for none
	linux  build.Context
	seen   map[string]bool
	todo   []string // directories, relative and with slashes
	files  int
}

// pkg looks at one package and queues those of the module that it imports.
func (s *sources) pkg(dir string) string {
	if s.seen[dir] {
		return ""
	}
	s.seen[dir] = true
	at := filepath.Join(s.dir, filepath.FromSlash(path.Clean("/"+dir)))
	list, err := os.ReadDir(at)
	if err != nil {
		return ""
	}
	for _, d := range list {
		name := d.Name()
		if !d.Type().IsRegular() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if ok, err := s.linux.MatchFile(at, name); err != nil || !ok {
			continue
		}
		s.files++
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(at, name), nil, parser.ImportsOnly)
		if err != nil {
			continue
		}
		for _, i := range tree.Imports {
			imported := strings.Trim(i.Path.Value, `"`)
			switch {
			case imported == "C":
				return path.Join(dir, name) + ` imports "C"`
			case slices.ContainsFunc(cgoModules, func(m string) bool { return imported == m || strings.HasPrefix(imported, m+"/") }):
				return path.Join(dir, name) + " imports " + imported
			case imported == s.module:
				s.todo = append(s.todo, ".")
			default:
				if local, own := strings.CutPrefix(imported, s.module+"/"); own && s.module != "" {
					s.todo = append(s.todo, local)
				}
			}
		}
	}
	return ""
}

// everything looks at all packages below the context.
func (s *sources) everything() string {
	why := ""
	_ = filepath.WalkDir(s.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		name := d.Name()
		if file != s.dir && (name == "testdata" || name == "vendor" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(s.dir, file)
		if err == nil {
			why = s.pkg(filepath.ToSlash(rel))
		}
		if why != "" || s.files > maxFiles {
			return fs.SkipAll
		}
		return nil
	})
	return why
}
