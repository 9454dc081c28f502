package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// module is a copy of sources that tools build.
type module struct {
	name      string
	dir       string
	mains     []string // packages to build, as ./cmd/a
	platforms []string
}

var (
	twoPlatforms  = []string{"linux/amd64", "linux/arm64"}
	fourPlatforms = []string{"linux/amd64", "linux/arm64", "linux/s390x", "linux/riscv64"}
)

// generate writes or copies the sources of a module.
func (b *bench) generate(ctx context.Context, name string) (*module, error) {
	m := &module{name: name, dir: filepath.Join(b.dir, "src", name), platforms: twoPlatforms, mains: []string{"."}}
	var err error
	switch name {
	case "small":
		err = m.write(map[string]string{"main.go": smallSource})
	case "medium":
		dir, pkg := b.root, "./cmd/anyarch"
		if b.medium != "" {
			var found bool
			if dir, pkg, found = strings.Cut(b.medium, "="); !found {
				dir, pkg = b.medium, "."
			}
		}
		if !strings.HasPrefix(pkg, ".") {
			pkg = "./" + pkg
		}
		m.mains = []string{pkg}
		err = copyModule(dir, m.dir)
	case "many":
		files := map[string]string{"shared/shared.go": sharedSource}
		m.mains, m.platforms = nil, fourPlatforms
		for i := range b.mains {
			program := fmt.Sprintf("program%02d", i+1)
			files["cmd/"+program+"/main.go"] = fmt.Sprintf(manySource, program)
			m.mains = append(m.mains, "./cmd/"+program)
		}
		err = m.write(files)
	case "huge":
		if err = m.write(map[string]string{"main.go": hugeSource}); err == nil {
			_, err = output(ctx, m.dir, b.env(filepath.Join(b.dir, "state", "modules")), b.goPath, "get", hugeDependency)
		}
	case "large":
		if err = m.write(map[string]string{"main.go": largeSource, "data/data.go": dataSource}); err == nil {
			err = writeRandom(filepath.Join(m.dir, "data", "data.bin"), int64(b.embed)*1e6)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(b.platforms) > 0 {
		m.platforms = b.platforms
	}
	if err := m.change("first"); err != nil {
		return nil, err
	}
	// What isn't in the module cache must be fetched before clocks run.
	_, err = output(ctx, m.dir, b.env(filepath.Join(b.dir, "state", "modules")), append([]string{b.goPath, "list", "-deps", "-f", "{{.Dir}}"}, m.mains...)...)
	return m, err
}

// write makes a module of a few files.
func (m *module) write(files map[string]string) error {
	files["go.mod"] = "module example.com/" + m.name + "\n\ngo 1.24\n"
	for name, text := range files {
		file := filepath.Join(m.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// change puts another string into the first program. The file looks five
// seconds old: the go command doesn't trust what it remembers of files that
// changed within the last two, so that otherwise the first tool after the
// change would pay for all.
func (m *module) change(text string) error {
	file := filepath.Join(m.dir, filepath.FromSlash(m.mains[0]), "bench_line.go")
	source := fmt.Sprintf("package main\n\nimport \"os\"\n\nfunc init() {\n\tif len(os.Args) == 0 {\n\t\tprintln(%q)\n\t}\n}\n", text)
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		return err
	}
	saved := time.Now().Add(-5 * time.Second)
	return os.Chtimes(file, saved, saved)
}

// copyModule copies the files of one module, without version control and
// without the modules and outputs inside it.
func copyModule(src, dst string) error {
	if _, err := os.Stat(filepath.Join(src, "go.mod")); err != nil {
		return fmt.Errorf("%s isn't the root of a module: %w", src, err)
	}
	return filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, file)
		if err != nil {
			return err
		}
		target := filepath.Join(dst, rel)
		switch {
		case d.IsDir():
			if rel != "." {
				_, err := os.Stat(filepath.Join(file, "go.mod"))
				if err == nil || d.Name() == ".git" || d.Name() == "anyarch-out" {
					return fs.SkipDir
				}
			}
			return os.MkdirAll(target, 0o755)
		case d.Type().IsRegular():
			return copyFile(file, target)
		}
		return nil // links and the like can't be Go sources
	})
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// writeRandom fills a file with bytes that don't compress, the same every time.
func writeRandom(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Close())
}

// readSources brings what a cold build reads into memory, so that the first
// tool doesn't wait for the disk on behalf of the others.
func (b *bench) readSources(ctx context.Context, m *module) error {
	dirs, err := output(ctx, m.dir, b.env(filepath.Join(b.dir, "state", "modules")), append([]string{b.goPath, "list", "-deps", "-f", "{{.Dir}}"}, m.mains...)...)
	if err != nil {
		return err
	}
	tools, err := output(ctx, m.dir, b.base, b.goPath, "env", "GOTOOLDIR")
	if err != nil {
		return err
	}
	for _, dir := range append(strings.Fields(dirs), strings.TrimSpace(tools)) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if e.Type().IsRegular() {
				if err := readAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func readAll(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}

const smallSource = `package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`

const sharedSource = `// Package shared is what all programs have in common.
package shared

import (
	"encoding/json"
	"log"
	"net/http"
)

// Serve answers every request with a program's name.
func Serve(program string) {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewEncoder(w).Encode(map[string]string{"program": program, "path": r.URL.Path}); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`

const manySource = `package main

import "example.com/many/shared"

func main() { shared.Serve(%q) }
`

const largeSource = `package main

import (
	"fmt"

	"example.com/large/data"
)

func main() { fmt.Println(len(data.Bytes)) }
`

// hugeDependency brings some 1,100 packages of 80 modules.
const hugeDependency = "k8s.io/kubectl/pkg/cmd@v0.34.1"

const hugeSource = `package main

import "k8s.io/kubectl/pkg/cmd"

func main() { _ = cmd.NewDefaultKubectlCommand().Execute() }
`

const dataSource = `// Package data makes its program large.
package data

import _ "embed"

// Bytes are random.
//
//go:embed data.bin
var Bytes string
`
