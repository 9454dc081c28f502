// Package buildcontext opens what a Dockerfile's COPY reads from: a directory, a
// tar on standard input, or a git repository. Nothing outside of it can be read
// through it, whatever links it has.
package buildcontext

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Options say what is opened.
type Options struct {
	// Where is a directory, - for standard input, or the address of a git
	// repository with #REF:SUBDIR (docs.docker.com/build/concepts/context).
	Where   string
	Stdin   io.Reader
	Scratch string // host directory for what isn't a directory already
	// DockerfileFromStdin says that standard input is the Dockerfile.
	DockerfileFromStdin bool
}

// Context is an open context. Its methods may be called concurrently.
type Context struct {
	dir   string
	root  *os.Root
	local bool   // it is a directory of the user
	stdin []byte // a Dockerfile that came on standard input
	// beside is where the Dockerfile that is called dockerfile was found on this
	// machine: its ignore file is there too.
	dockerfile, beside string
}

// maxDockerfile bounds a Dockerfile on standard input, in bytes.
const maxDockerfile = 1 << 20

func refuse(place, summary string, fix ...string) *refusal.Error {
	return &refusal.Error{Code: "PA106", Kind: refusal.Usage, Place: place, Summary: summary, Fix: fix}
}

// Open opens a context. What can't be one is a refusal.Error with code PA106.
func Open(ctx context.Context, o Options) (*Context, error) {
	c := &Context{}
	switch {
	case o.DockerfileFromStdin:
		data, err := io.ReadAll(io.LimitReader(o.Stdin, maxDockerfile+1))
		if err != nil {
			return nil, err
		}
		if o.Where == "-" {
			return nil, refuse("-f - -", "standard input can't be the Dockerfile and the context at once", "-f - .")
		}
		c.stdin = data
	case o.Where == "-":
		if err := c.fromStdin(ctx, o); err != nil {
			return nil, err
		}
	}
	if c.dir == "" {
		switch {
		case isGit(o.Where):
			dir, err := clone(ctx, o.Where, o.Scratch)
			if err != nil {
				return nil, err
			}
			c.dir = dir
		case strings.HasPrefix(o.Where, "http://") || strings.HasPrefix(o.Where, "https://"):
			return nil, refuse(o.Where, "a context is a directory, a git repository or a tar on standard input", "curl -fsSL "+o.Where+" | anyarch publish -f Dockerfile -")
		default:
			c.dir, c.local = o.Where, true
		}
	}
	info, err := os.Stat(c.dir)
	if err != nil || !info.IsDir() {
		return nil, refuse(o.Where, "the context is no directory", "anyarch publish -f Dockerfile .")
	}
	if c.root, err = os.OpenRoot(c.dir); err != nil {
		return nil, err
	}
	return c, nil
}

// Dir is the directory of this machine that the files are in. Links in it may lead
// anywhere: whoever reads it must not follow them.
func (c *Context) Dir() string { return c.dir }

// fromStdin takes a tar, plain or compressed, or a Dockerfile without a context.
func (c *Context) fromStdin(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Scratch, 0o700); err != nil {
		return err
	}
	r := bufio.NewReaderSize(o.Stdin, 1<<16)
	plain, err := decompress(r)
	if err != nil {
		return refuse("-", "standard input can't be decompressed: "+err.Error())
	}
	head := bufio.NewReaderSize(plain, 1<<12)
	block, _ := head.Peek(512)
	if len(block) == 512 && bytes.HasPrefix(block[257:], []byte("ustar")) {
		if err := extract(ctx, head, o.Scratch); err != nil {
			return err
		}
	} else {
		data, err := io.ReadAll(io.LimitReader(head, maxDockerfile+1))
		if err != nil {
			return err
		}
		c.stdin = data
	}
	c.dir = o.Scratch
	return nil
}

// extract unpacks a tar below dir, and nowhere else.
func extract(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refuse("-", "standard input is no whole tar: "+err.Error())
		}
		name := filepath.FromSlash(strings.TrimPrefix(path.Join("/", h.Name), "/"))
		if name == "" {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			var f *os.File
			if f, err = root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fs.FileMode(h.Mode).Perm()|0o600); err == nil {
				_, err = io.Copy(f, tr)
				if cerr := f.Close(); err == nil {
					err = cerr
				}
			}
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeLink:
			err = root.Link(filepath.FromSlash(strings.TrimPrefix(path.Join("/", h.Linkname), "/")), name)
		case tar.TypeXGlobalHeader:
		default:
			err = refuse("-", fmt.Sprintf("%s in the tar is neither file, directory nor link", h.Name))
		}
		if err != nil {
			return err
		}
	}
}

// Dockerfile gives the Dockerfile that -f names: relative to the working directory
// cwd, or to the context where that has it and cwd hasn't, or where the context
// isn't a directory. Without a name it is the context's. name is what messages call it.
func (c *Context) Dockerfile(file, cwd string) (name string, data []byte, err error) {
	if c.stdin != nil && (file == "-" || file == "" || file == "Dockerfile") {
		return "Dockerfile", c.stdin, nil
	}
	fromContext := file == "" // as docker has it without -f
	if fromContext {
		file = "Dockerfile"
	}
	if c.local && !fromContext {
		at := file
		if !filepath.IsAbs(at) {
			at = filepath.Join(cwd, file)
		}
		data, err := readLimited(func() (io.ReadCloser, error) { return os.Open(at) })
		if err == nil {
			c.dockerfile, c.beside = filepath.ToSlash(file), at
			return c.dockerfile, data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.IsAbs(file) {
			return "", nil, &refusal.Error{Code: "PA106", Kind: refusal.Usage, Place: file, Summary: "the Dockerfile can't be read", Seen: []string{err.Error()}, Err: err}
		}
	}
	data, err = readLimited(func() (io.ReadCloser, error) { return c.root.Open(filepath.FromSlash(file)) })
	if err != nil {
		r := &refusal.Error{Code: "PA106", Kind: refusal.Usage, Place: file, Summary: "there is no such Dockerfile", Err: err}
		if names := c.dockerfiles(); len(names) > 0 {
			for _, n := range names {
				r.Fix = append(r.Fix, "-f "+n)
			}
		}
		return "", nil, r
	}
	return filepath.ToSlash(file), data, nil
}

// dockerfiles are files that look like Dockerfiles, at most two levels deep.
func (c *Context) dockerfiles() []string {
	var list []string
	_ = fs.WalkDir(c.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || len(list) >= 5 {
			return nil
		}
		if d.IsDir() && (strings.Count(name, "/") > 1 || strings.HasPrefix(d.Name(), ".") && name != ".") {
			return fs.SkipDir
		}
		if strings.Contains(strings.ToLower(d.Name()), "dockerfile") && !strings.HasSuffix(d.Name(), ".dockerignore") && !d.IsDir() {
			list = append(list, name)
		}
		return nil
	})
	return list
}

func readLimited(open func() (io.ReadCloser, error)) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(data) == 0 {
		data = []byte{}
	}
	return data, err
}

// Ignore gives the ignore file: that of the Dockerfile, NAME.dockerignore beside
// it, else .dockerignore; nothing if there is none.
func (c *Context) Ignore(dockerfile string) ([]byte, error) {
	names := []string{".dockerignore"}
	if dockerfile != "" {
		names = []string{filepath.FromSlash(dockerfile) + ".dockerignore", ".dockerignore"}
	}
	for i, name := range names {
		var data []byte
		var err error
		if i == 0 && len(names) == 2 && c.beside != "" && dockerfile == c.dockerfile {
			data, err = os.ReadFile(c.beside + ".dockerignore")
		} else {
			data, err = readLimited(func() (io.ReadCloser, error) { return c.root.Open(name) })
		}
		if err == nil {
			return data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "escapes") {
			return nil, err
		}
	}
	return nil, nil
}

// Filter says what of a context is wanted, as BuildKit's llb.Local has it: patterns
// of .dockerignore. An empty Include and Follow mean everything.
type Filter struct {
	Include, Exclude, Follow []string
}

// Tree gives the files of the context that pass, owned by root as BuildKit has
// them. Content is opened when it is read; a file that has changed by then is a
// refusal.Error with code PA124.
func (c *Context) Tree(ctx context.Context, f Filter) (*filetree.Tree, error) {
	var exclude, include *patternmatcher.PatternMatcher
	var err error
	if len(f.Exclude) > 0 {
		if exclude, err = patternmatcher.New(f.Exclude); err != nil {
			return nil, refuse(".dockerignore", err.Error())
		}
	}
	wanted := slices.Concat(f.Include, f.Follow)
	for i, p := range wanted {
		wanted[i] = strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(p)), "/")
	}
	if slices.Contains(wanted, "") {
		wanted = nil // the whole context
	}
	if len(wanted) > 0 {
		if include, err = patternmatcher.New(wanted); err != nil {
			return nil, refuse("COPY", err.Error())
		}
	}
	t := filetree.New()
	w := walker{c: c, ctx: ctx, tree: t, include: include, exclude: exclude, wanted: wanted}
	if err := w.dir(".", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{}); err != nil {
		return nil, err
	}
	// A symbolic link that was asked for brings what it leads to.
	for i := 0; include != nil && i < len(w.links) && i < 1000; i++ {
		target := w.links[i]
		if !slices.Contains(w.wanted, target) {
			w.wanted = append(w.wanted, target)
			if w.include, err = patternmatcher.New(w.wanted); err != nil {
				return nil, err
			}
			if err := w.dir(".", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{}); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// Patterns reads an ignore file.
func Patterns(data []byte) ([]string, error) { return ignorefile.ReadAll(bytes.NewReader(data)) }

type walker struct {
	c                *Context
	ctx              context.Context
	tree             *filetree.Tree
	include, exclude *patternmatcher.PatternMatcher
	wanted           []string
	links            []string // where symbolic links lead that passed
}

func (w *walker) dir(name string, parentInclude, parentExclude patternmatcher.MatchInfo) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	d, err := w.c.root.Open(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	list, err := d.ReadDir(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		at := path.Join(name, e.Name())
		included, excluded := true, false
		var includeInfo, excludeInfo patternmatcher.MatchInfo
		if w.include != nil {
			if included, includeInfo, err = w.include.MatchesUsingParentResults(at, parentInclude); err != nil {
				return err
			}
		}
		if w.exclude != nil {
			if excluded, excludeInfo, err = w.exclude.MatchesUsingParentResults(at, parentExclude); err != nil {
				return err
			}
		}
		if e.IsDir() {
			if excluded && !w.exclude.Exclusions() {
				continue
			}
			if !included && !w.mayContain(at) {
				continue
			}
			if included && !excluded {
				if err := w.put(at); err != nil {
					return err
				}
			}
			if err := w.dir(at, includeInfo, excludeInfo); err != nil {
				return err
			}
			continue
		}
		if included && !excluded {
			if err := w.put(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayContain reports whether something below a directory may be wanted.
func (w *walker) mayContain(dir string) bool {
	for _, p := range w.wanted {
		// As far as the pattern is literal it has to agree with the directory.
		literal, _, pattern := strings.Cut(p, "*")
		if i := strings.IndexAny(literal, "?[\\"); i >= 0 {
			literal, pattern = literal[:i], true
		}
		if strings.HasPrefix(p, dir+"/") || pattern && (strings.HasPrefix(dir+"/", literal) || strings.HasPrefix(literal, dir+"/")) {
			return true
		}
	}
	return false
}

// put adds one file, and the directories it lies in.
func (w *walker) put(name string) error {
	at := "/" + name
	if _, err := w.tree.Lstat(at); err == nil {
		return nil
	}
	for dir := range parents(name) {
		if _, err := w.tree.Lstat("/" + dir); err == nil {
			continue
		}
		if err := w.one(dir); err != nil {
			return err
		}
	}
	return w.one(name)
}

// parents are the directories above a file, outermost first.
func parents(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i, r := range name {
			if r == '/' && !yield(name[:i]) {
				return
			}
		}
	}
}

func (w *walker) one(name string) error {
	info, err := w.c.root.Lstat(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	a := filetree.Attr{Mode: info.Mode(), ModTime: info.ModTime()}
	if runtime.GOOS == "windows" && !a.IsSymlink() {
		a.Mode = a.Mode.Type() | 0o755 // Windows has no such bits; as Docker does
	}
	switch {
	case a.IsDir():
	case a.IsSymlink():
		if a.Link, err = w.c.root.Readlink(filepath.FromSlash(name)); err != nil {
			return err
		}
		a.Link = filepath.ToSlash(a.Link)
		a.Mode = fs.ModeSymlink | 0o777
		target := strings.TrimPrefix(path.Join("/", path.Dir(name), a.Link), "/")
		if path.IsAbs(a.Link) {
			target = strings.TrimPrefix(path.Clean(a.Link), "/")
		}
		if target != "" {
			w.links = append(w.links, target)
		}
	case a.IsRegular():
		if info.Size() > 0 {
			a.Content = &content{c: w.c, name: filepath.FromSlash(name), info: info}
		}
	case a.Mode&fs.ModeSocket != 0:
		return nil // as BuildKit: nobody can copy a socket
	case a.Mode&fs.ModeNamedPipe != 0:
	default:
		return refuse(name, "the context has a device here, which can't be copied", "echo "+name+" >> .dockerignore")
	}
	return w.tree.Put("/"+name, a)
}

// content is a file of the context as it was when the context was read.
type content struct {
	c    *Context
	name string
	info fs.FileInfo
}

func (c *content) Size() int64 { return c.info.Size() }

// Key identifies the content across runs, as go build and make do: by time and size.
func (c *content) Key() string {
	return fmt.Sprintf("%s %s %d %d %s", c.c.dir, c.name, c.info.Size(), c.info.ModTime().UnixNano(), inode(c.info))
}

func (c *content) Open() (io.ReadCloser, error) {
	// Lstat first: what has become a link since then isn't followed.
	now, err := c.c.root.Lstat(c.name)
	if err == nil && !now.Mode().IsRegular() {
		err = c.changed("it isn't a file any more")
	}
	if err != nil {
		return nil, err
	}
	f, err := c.c.root.Open(c.name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!os.SameFile(info, c.info) || info.Size() != c.info.Size() || !info.ModTime().Equal(c.info.ModTime())) {
		err = c.changed(fmt.Sprintf("it had %d bytes and has %d", c.info.Size(), info.Size()))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (c *content) changed(how string) error {
	return &refusal.Error{Code: "PA124", Place: filepath.ToSlash(c.name), Summary: "this file of the context was changed during the build", Seen: []string{how}, Fix: []string{"try again when nothing writes to it"}}
}
