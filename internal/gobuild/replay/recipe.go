// Package replay does again what a go command has done, for another text of some of
// the files: the compilers and linkers that it would start, with the arguments that it
// would give them, so that the same programs come out, to the last byte.
//
// Of what `go build` takes after an edit, a third is finding out that the other five
// hundred packages are as they were. Who knows that already needs only the rest. A
// [Recorder] listens to a go command that tells what it hashes (GODEBUG=gocachehash=1)
// and what it runs (-x); the [Recipe] that it makes holds, for every package that is
// edited here and for every program, the very lines that went into its action ID, and
// the command. Replaying changes the lines of the edited files and of what depends on
// them, computes the IDs by the go command's own rule, and runs the commands.
//
// A recipe vouches for itself: it is only kept if the IDs that the rule gives for the
// recorded build are those that the go command has given. What a recipe can't do
// exactly, such as assembly, cgo or profiles, is [ErrUnknown]: then the go command is
// asked, as if there were no recipe. The sources are cmd/go/internal/work: exec.go
// (buildActionID, linkActionID), gc.go and buildid.go.
package replay

import (
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
)

// ErrUnknown is why something can't be replayed: it isn't known how, or it went wrong.
// The go command does it, and says what is wrong.
var ErrUnknown = errors.New("not all is known of how this is built")

// Recipe is how the packages and programs of one build were made. It is immutable.
type Recipe struct {
	// Packages are those that are edited here, by import path.
	Packages map[string]*Package `json:"packages"`
	// Programs are by the import path of their main package.
	Programs map[string]*Program `json:"programs"`
	// Archives are the compiled packages that go into programs, by import path.
	Archives map[string]string `json:"archives"`
}

// Package is how one package was compiled.
type Package struct {
	Dir string `json:"dir,omitempty"` // of its sources; empty if nobody has said where that is
	// Hashed is what went into the hash that is its action ID, write by write.
	Hashed []string `json:"hashed"`
	// ID is its build ID: action ID, slash, content ID.
	ID    string  `json:"id"`
	Tool  Command `json:"tool"`  // without arguments if it isn't known how it was compiled
	Files []File  `json:"files"` // that the go command wrote for the compiler
}

// known reports whether it is known how the package was compiled.
func (p *Package) known() bool { return len(p.Tool.Args) > 0 }

// Program is how one program was linked.
type Program struct {
	Hashed []string `json:"hashed"`
	Tool   Command  `json:"tool"`
	// Imports are the packages in it, in the order of the linker's list, the rest of
	// which is Module.
	Imports []string `json:"imports"`
	Module  string   `json:"module"`
}

// Command is a program of the toolchain and its arguments, in which $WORK stands for
// a directory of the build and ./ for the one that the go command ran in.
type Command struct {
	Env  []string `json:"env,omitempty"` // KEY=value
	Args []string `json:"args"`
}

// File is one that a tool reads, below $WORK. A line `packagefile P` gets the archive of
// package P.
type File struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// sum is the rule for action IDs.
func sum(hashed []string) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range hashed {
		h.Write([]byte(s))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func actionID(hashed []string) string { return buildid.Text(sum(hashed)) }

// contentID is the last part of a build ID.
func contentID(id string) string { return id[strings.LastIndex(id, "/")+1:] }

// field takes a line of a hash apart: what precedes the last separator, and what follows.
func field(line, kind, separator string) (name, value string, ok bool) {
	rest, ok := strings.CutPrefix(line, kind+" ")
	if !ok {
		return "", "", false
	}
	i := strings.LastIndex(rest, separator)
	if i < 0 || !strings.HasSuffix(rest, "\n") {
		return "", "", false
	}
	return rest[:i], strings.TrimSuffix(rest[i+1:], "\n"), true
}

// Edit is a file whose content is another one than in the recorded build.
type Edit struct {
	Path string
	Sum  [sha256.Size]byte // of its content
}

// update gives lines as they are after the edits and with the packages that are new by
// now. dir is that of the package's sources.
func (p *replay) update(hashed []string, dir string) []string {
	list := make([]string, len(hashed))
	for i, line := range hashed {
		list[i] = line
		if name, _, ok := field(line, "file", " "); ok && dir != "" {
			path := filepath.Join(dir, filepath.FromSlash(name))
			if sum, edited := p.edits[path]; edited {
				list[i] = "file " + name + " " + buildid.Text(sum) + "\n"
				p.used[path] = true
			}
		} else if name, _, ok := field(line, "import", " "); ok && p.ids[name] != "" {
			list[i] = "import " + name + " " + contentID(p.ids[name]) + "\n"
		} else if name, _, ok := field(line, "packagefile", "="); ok && p.ids[name] != "" {
			list[i] = "packagefile " + name + "=" + contentID(p.ids[name]) + "\n"
		}
	}
	return list
}

// mayRead reports whether a file is one of those that a package consists of, or could be.
func (p *Package) mayRead(path string) bool {
	return slices.ContainsFunc(p.Hashed, func(line string) bool {
		name, _, ok := field(line, "file", " ")
		if !ok {
			return false
		}
		name = filepath.FromSlash(name)
		if p.Dir == "" {
			return strings.HasSuffix(path, string(filepath.Separator)+name)
		}
		return filepath.Join(p.Dir, name) == path
	})
}

// setMain puts the build ID of its main package into the lines of a program.
func setMain(hashed []string, id string) bool {
	found := false
	for i, line := range hashed {
		if strings.HasPrefix(line, "packagemain ") {
			hashed[i], found = "packagemain "+id+"\n", true
		}
	}
	return found
}

// imports are the packages that a package or program was made with, by its hash.
func imports(hashed []string) (list []string) {
	for _, line := range hashed {
		if name, _, ok := field(line, "import", " "); ok {
			list = append(list, name)
		}
	}
	return list
}
