package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/gobuild/buildid"
)

// Flags and Env make a go command tell a [Recorder] what it does.
var (
	Flags = []string{"-x"}
	Env   = []string{"GODEBUG=gocachehash=1"}
)

// Recorder is the standard error of a go command. Everything that it doesn't need is
// dropped, also what the go command has to say to people.
type Recorder struct {
	root string // directory that the go command runs in
	rest []byte // of an unfinished line

	hashes map[string]*hash // by name
	edited map[string]bool  // action IDs of packages that are edited here
	varied bool             // a package is compiled in several ways, with profiles of several programs
	work   string           // the directory that is printed as $WORK
	dir    string           // where commands are printed to run
	heredoc
	files    map[string]string // what was written, by its name below $WORK
	compiled map[string]Command
	linked   []Command
	complex  map[string]bool   // directories below $WORK in which more than a compiler has run
	kept     map[string]string // the file in the build cache, by directory below $WORK
}

// heredoc is a file whose text is being printed.
type heredoc struct {
	name string
	text strings.Builder
}

// hash is one that was computed, under a name.
type hash struct {
	written []string
	sum     string // hexadecimal
	skip    bool   // of a package that nobody edits
	before  string // the sum of the one under this name before it
}

// NewRecorder records a go command that runs in root.
func NewRecorder(root string) *Recorder {
	return &Recorder{
		root: root, hashes: map[string]*hash{}, edited: map[string]bool{}, files: map[string]string{}, compiled: map[string]Command{},
		complex: map[string]bool{}, kept: map[string]string{},
	}
}

// maxLine bounds a line of the go command's, in bytes; longer ones are no part of a
// recipe.
const maxLine = 4 << 20

// Write takes what the go command prints.
func (r *Recorder) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, found := bytes.Cut(p, []byte("\n"))
		if !found {
			if len(r.rest)+len(p) <= maxLine {
				r.rest = append(r.rest, p...)
			}
			return n, nil
		}
		if len(r.rest) > 0 {
			r.rest = append(r.rest, line...)
			r.line(string(r.rest))
			r.rest = r.rest[:0]
		} else {
			r.line(string(line))
		}
		p = rest
	}
}

func (r *Recorder) line(line string) {
	switch {
	case r.name != "":
		// A text without a line break at its end has the mark in its last line; only that
		// of embedcfg, which is JSON, can be such.
		last, ended := line, line == "EOF"
		if !ended && path.Base(r.name) == "embedcfg" {
			last, ended = strings.CutSuffix(line, "}EOF")
			last += "}"
		}
		switch {
		case !ended:
			r.text.WriteString(line + "\n")
			return
		case line != "EOF":
			r.text.WriteString(last)
		}
		r.files[r.name] = r.text.String()
		r.name = ""
		r.text.Reset()
	case strings.HasPrefix(line, "HASH["):
		r.hashed(line)
	case strings.HasPrefix(line, "HASH "):
	case strings.HasPrefix(line, "WORK="):
		r.work = strings.TrimPrefix(line, "WORK=")
	case strings.HasPrefix(line, "cd "):
		r.dir = strings.TrimPrefix(line, "cd ")
	default:
		r.command(line)
	}
}

// hashed takes a line of GODEBUG=gocachehash=1 (cmd/go/internal/cache/hash.go).
func (r *Recorder) hashed(line string) {
	end := strings.IndexByte(line, ']')
	if end < 0 {
		return
	}
	name, rest := line[len("HASH["):end], line[end+1:]
	if !strings.HasPrefix(name, "build ") && !strings.HasPrefix(name, "link ") {
		return
	}
	h := r.hashes[name]
	if rest == "" {
		r.hashes[name] = &hash{}
		if h != nil {
			r.hashes[name].before = h.sum
		}
		return
	}
	rest = strings.TrimPrefix(rest, ": ")
	switch {
	case h == nil:
	case h.skip && strings.HasPrefix(rest, `"`):
	case strings.HasPrefix(rest, `"`):
		text, err := strconv.Unquote(rest)
		if err != nil {
			h.skip, h.written = true, nil
			return
		}
		// Of packages that nobody edits, nothing is needed: they have a version, or no
		// module at all.
		if strings.HasPrefix(name, "build ") && (strings.HasPrefix(text, "module ") && !strings.HasSuffix(text, "@\n") || strings.HasPrefix(text, "omitdebug ") && strings.Contains(text, " standard true ")) {
			h.skip, h.written = true, nil
			return
		}
		h.written = append(h.written, text)
	default:
		for _, other := range []string{h.before, h.sum} {
			r.varied = r.varied || other != "" && other != rest
		}
		if h.sum = rest; h.skip {
			return
		}
		if data, err := hex.DecodeString(rest); err == nil && len(data) == sha256.Size {
			r.edited[buildid.Text([sha256.Size]byte(data))] = true
		}
	}
}

// tokens takes a printed command apart (cmd/go/internal/work, joinUnambiguously).
func tokens(line string) ([]string, bool) {
	var list []string
	for line != "" {
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, false
			}
			token, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, false
			}
			list = append(list, token)
			line = strings.TrimPrefix(line[len(quoted):], " ")
			continue
		}
		token, rest, _ := strings.Cut(line, " ")
		list = append(list, token)
		line = rest
	}
	return list, true
}

// command takes a line of -x (cmd/go/internal/work/shell.go).
func (r *Recorder) command(line string) {
	const internal = " # internal"
	switch {
	case strings.HasPrefix(line, "cat >") && strings.HasSuffix(line, " << 'EOF'"+internal):
		if r.name = r.below(strings.TrimSuffix(strings.TrimPrefix(line, "cat >"), " << 'EOF'"+internal)); r.name == "" {
			r.name = "elsewhere"
		}
		return
	case strings.HasPrefix(line, "echo '") && strings.HasSuffix(line, internal):
		text, name, found := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "echo '"), internal), "' > ")
		if found {
			r.files[r.below(name)] = text + "\n"
		}
		return
	case strings.HasPrefix(line, "echo -n > ") && strings.HasSuffix(line, internal):
		r.files[r.below(strings.TrimSuffix(strings.TrimPrefix(line, "echo -n > "), internal))] = ""
		return
	}
	args, ok := tokens(strings.TrimSuffix(line, internal))
	if !ok {
		return
	}
	var c Command
	for len(args) > 0 && isVariable(args[0]) {
		key, value, _ := strings.Cut(args[0], "=")
		if len(value) < 2 || value[0] != '\'' || value[len(value)-1] != '\'' {
			return // a space in it, or quotes
		}
		c.Env = append(c.Env, key+"="+value[1:len(value)-1])
		args = args[1:]
	}
	if len(args) == 0 {
		return
	}
	c.Args = args
	switch program := strings.TrimSuffix(path.Base(filepath.ToSlash(args[0])), ".exe"); program {
	case "mkdir", "rm", "mv":
	case "go": // go tool pack puts more into an archive, go tool buildid is Stamp
		if len(args) < 3 || args[2] != "buildid" {
			r.taint(args)
		}
	case "cp":
		if len(args) == 3 {
			if dir, name, _ := strings.Cut(r.below(args[1]), "/"); name == "_pkg_.a" {
				r.kept[dir] = args[2]
			}
		}
	case "compile":
		out, dir := r.output(args)
		switch {
		case !r.edited[actionOf(c)]:
			// Of a package of the toolchain or the module cache, of which there are many.
			for name := range r.files {
				if strings.HasPrefix(name, dir+"/") {
					delete(r.files, name)
				}
			}
		case out == "_pkg_.a" && (r.dir == r.root || !slices.ContainsFunc(args, isDotted)):
			r.compiled[dir] = c
		default:
			r.complex[dir] = true
		}
	case "link":
		r.linked = append(r.linked, c)
	default:
		r.taint(args)
	}
}

// isDotted reports whether a printed argument begins with the directory that the go
// command runs in, which is printed as a dot, also where it is only the beginning of a
// name.
func isDotted(arg string) bool { return strings.HasPrefix(arg, ".") }

// isVariable reports whether a token sets a variable of the environment for a command.
func isVariable(token string) bool {
	key, _, found := strings.Cut(token, "=")
	return found && key != "" && !strings.ContainsFunc(key, func(c rune) bool { return c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') })
}

// below is the name of a file below $WORK; empty for others.
func (r *Recorder) below(file string) string {
	for _, top := range []string{"$WORK", r.work} {
		if rest, found := strings.CutPrefix(file, top+string(filepath.Separator)); found && top != "" {
			return filepath.ToSlash(rest)
		}
	}
	return ""
}

// output is where a tool writes to: the name, and the directory below $WORK.
func (r *Recorder) output(args []string) (name, dir string) {
	if i := slices.Index(args, "-o"); i >= 0 && i+1 < len(args) {
		dir, name, _ = strings.Cut(r.below(args[i+1]), "/")
	}
	return name, dir
}

// taint marks the directories that a command names: more happens there than a recipe
// knows of.
func (r *Recorder) taint(args []string) {
	for _, arg := range args {
		for rest := arg; ; {
			i := strings.Index(rest, "$WORK"+string(filepath.Separator))
			if i < 0 {
				break
			}
			rest = rest[i+len("$WORK")+1:]
			if dir, _, found := strings.Cut(filepath.ToSlash(rest), "/"); found {
				r.complex[dir] = true
			}
		}
	}
}

// Recipe is what was recorded of a go command that went well. What it didn't do again,
// since it was there already, is taken over from earlier, which may be nil. It is nil
// if there is nothing that could be replayed.
func (r *Recorder) Recipe(earlier *Recipe) *Recipe {
	if r.work == "" || r.varied || strings.Contains(r.root, "$WORK") {
		return nil
	}
	made := &Recipe{Packages: map[string]*Package{}, Programs: map[string]*Program{}, Archives: map[string]string{}}
	for name, h := range r.hashes {
		if importPath, ok := strings.CutPrefix(name, "build "); ok && !h.skip && h.sound() {
			made.Packages[importPath] = &Package{Hashed: h.written, ID: actionID(h.written) + "/"}
		}
	}
	for _, c := range r.linked {
		if !r.addProgram(made, c) {
			return nil
		}
	}
	r.takePrograms(made, earlier)
	if len(made.Programs) == 0 {
		return nil
	}
	contents := made.contents()
	for importPath, p := range made.Packages {
		id, found := contents[importPath]
		if !found {
			delete(made.Packages, importPath)
			continue
		}
		p.ID += id
	}
	for dir, c := range r.compiled {
		r.addCompiler(made, dir, c)
	}
	made.takePackages(earlier)
	return made
}

// sound reports whether the rule gives the hash that was computed.
func (h *hash) sound() bool {
	sum := sum(h.written)
	return h.sum == hex.EncodeToString(sum[:])
}

// addProgram adds the program that a linker made; false if its ID isn't what the rule
// says.
func (r *Recorder) addProgram(made *Recipe, c Command) bool {
	_, dir := r.output(c.Args)
	i := slices.IndexFunc(c.Args, func(arg string) bool { return strings.HasPrefix(arg, "-buildid=") })
	text, found := r.files[dir+"/importcfg.link"]
	if i < 0 || !found || len(c.Env) > 1 || slices.ContainsFunc(c.Args, isDotted) {
		return false
	}
	action, _, _ := strings.Cut(strings.TrimPrefix(c.Args[i], "-buildid="), "/")
	for name, h := range r.hashes {
		importPath, ok := strings.CutPrefix(name, "link ")
		if !ok || !h.sound() || actionID(h.written) != action {
			continue
		}
		p := &Program{Hashed: h.written, Tool: c}
		for line := range strings.Lines(text) {
			pkg, file, ok := field(line, "packagefile", "=")
			if !ok {
				p.Module += line
				continue
			}
			if name := r.below(file); name != "" {
				dir, _, _ := strings.Cut(name, "/")
				file = r.kept[dir]
			}
			if file == "" && pkg != importPath {
				return false
			}
			p.Imports = append(p.Imports, pkg)
			if file != "" {
				made.Archives[pkg] = file
			}
		}
		made.Programs[importPath] = p
		return true
	}
	return false
}

// contents are the content IDs of all packages in programs.
func (made *Recipe) contents() map[string]string {
	ids := map[string]string{}
	for main, p := range made.Programs {
		for _, line := range p.Hashed {
			if name, id, ok := field(line, "packagefile", "="); ok {
				ids[name] = id
			} else if _, id, ok := field(line, "packagemain", "/"); ok {
				ids[main] = id
			}
		}
	}
	return ids
}

// actionOf is the action ID that a compiler was told; empty if there is none.
func actionOf(c Command) string {
	i := slices.Index(c.Args, "-buildid")
	if i < 0 || i+1 >= len(c.Args) {
		return ""
	}
	action, _, _ := strings.Cut(c.Args[i+1], "/")
	return action
}

// addCompiler adds how a package was compiled, and where it is.
func (r *Recorder) addCompiler(made *Recipe, dir string, c Command) {
	action := actionOf(c)
	for importPath, p := range made.Packages {
		if strings.HasPrefix(p.ID, action+"/") {
			if file := r.kept[dir]; file != "" {
				made.Archives[importPath] = file
			}
			r.setCompiler(p, dir, c)
			return
		}
	}
}

// setCompiler tells a package how it is compiled, if that is known.
func (r *Recorder) setCompiler(p *Package, dir string, c Command) {
	if r.complex[dir] || len(c.Env) > 0 {
		return
	}
	known := Package{Hashed: p.Hashed, ID: p.ID, Tool: Command{Args: make([]string, len(c.Args))}}
	for i, arg := range c.Args {
		if isDotted(arg) {
			arg = r.root + arg[1:]
		}
		// Each package is compiled in a directory of its own; which one is no
		// matter.
		known.Tool.Args[i] = strings.ReplaceAll(arg, "$WORK"+string(filepath.Separator)+dir, "$WORK")
	}
	if slices.ContainsFunc(known.Tool.Args, func(arg string) bool { return strings.Contains(arg, "$WORK"+string(filepath.Separator)+"b") }) {
		return
	}
	last := c.Args[len(c.Args)-1]
	if filepath.Ext(last) != ".go" {
		return
	}
	known.Dir = filepath.Dir(known.Tool.Args[len(c.Args)-1])
	for name, text := range r.files {
		rest, found := strings.CutPrefix(name, dir+"/")
		if !found || rest == "importcfg.link" {
			continue
		}
		if rest == "importcfg" {
			text = reduce(text)
		}
		if strings.Contains(text, r.work) {
			return
		}
		known.Files = append(known.Files, File{Name: rest, Text: text})
	}
	*p = known
}

// reduce leaves the archives out of a list of imports: recipes keep them once.
func reduce(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if name, _, ok := field(line, "packagefile", "="); ok {
			line = "packagefile " + name + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// Teaching is a flag for the compiler that changes nothing, with which the go command
// compiles what it has in its cache once more, and tells how: see Teach.
const Teaching = "-complete"

// Unknown are packages of which it isn't known how they are compiled, though it could be.
func (made *Recipe) Unknown() (list []string) {
	for importPath, p := range made.Packages {
		simple := !slices.ContainsFunc(p.Hashed, func(line string) bool {
			return strings.HasPrefix(line, "asm ") || strings.HasPrefix(line, "cgo ") || strings.HasPrefix(line, "pgofile ")
		})
		if !p.known() && simple {
			list = append(list, importPath)
		}
	}
	slices.Sort(list)
	return list
}

// Teach completes a recipe with what was recorded of another go command, for the same
// sources and flags, that compiled the packages with Teaching.
func (r *Recorder) Teach(made *Recipe) {
	for importPath, p := range made.Packages {
		h := r.hashes["build "+importPath]
		if p.known() || h == nil || !h.sound() {
			continue
		}
		if !slices.Equal(untaught(skeleton(h.written)), skeleton(p.Hashed)) {
			continue
		}
		for dir, c := range r.compiled {
			if actionOf(c) != actionID(h.written) {
				continue
			}
			last := -1
			for i, arg := range c.Args {
				if arg == Teaching {
					last = i
				}
			}
			if last >= 0 {
				r.setCompiler(p, dir, Command{Args: slices.Delete(slices.Clone(c.Args), last, last+1)})
			}
		}
	}
}

// untaught is what the lines of a package were without Teaching, which is also a setting
// in the build information of programs.
func untaught(lines []string) []string {
	for i, line := range lines {
		if strings.HasPrefix(line, "compile ") {
			lines[i] = strings.Replace(line, " ["+strconv.Quote(Teaching)+"]\n", " []\n", 1)
		}
		rest, ok := strings.CutPrefix(line, "modinfo ")
		info, err := strconv.Unquote(strings.TrimSuffix(rest, "\n"))
		if !ok || err != nil {
			continue
		}
		var b strings.Builder
		for setting := range strings.Lines(info) {
			if !strings.HasPrefix(setting, "build\t-gcflags=") {
				b.WriteString(setting)
			}
		}
		lines[i] = "modinfo " + strconv.Quote(b.String()) + "\n"
	}
	return lines
}

// Locate says in which directories packages are, as far as that is known of a build for
// sure. How a package is compiled that was elsewhere before, with the same sources, isn't
// known any more.
func (made *Recipe) Locate(dirs map[string]string) {
	for importPath, p := range made.Packages {
		if dir := dirs[importPath]; p.Dir != dir {
			p.Dir, p.Tool, p.Files = dir, Command{}, nil
		}
	}
}

// takePrograms takes over how programs are linked that go has left as they were.
func (r *Recorder) takePrograms(made, earlier *Recipe) {
	if earlier == nil {
		return
	}
	for importPath, was := range earlier.Programs {
		h := r.hashes["link "+importPath]
		if made.Programs[importPath] == nil && h != nil && h.sound() && slices.Equal(skeleton(h.written), skeleton(was.Hashed)) {
			made.Programs[importPath] = &Program{Hashed: h.written, Tool: was.Tool, Imports: was.Imports, Module: was.Module}
		}
	}
}

// takePackages takes over how packages are compiled that the go command had in its cache,
// and where they are.
func (made *Recipe) takePackages(earlier *Recipe) {
	if earlier == nil {
		return
	}
	for importPath, p := range made.Packages {
		was := earlier.Packages[importPath]
		if p.known() || was == nil {
			continue
		}
		if p.Dir = was.Dir; was.known() && slices.Equal(skeleton(p.Hashed), skeleton(was.Hashed)) {
			p.Tool, p.Files = was.Tool, was.Files
		}
	}
	before := earlier.contents()
	for importPath, id := range made.contents() {
		if made.Archives[importPath] == "" && before[importPath] == id {
			made.Archives[importPath] = earlier.Archives[importPath]
		}
	}
}

// skeleton is what remains of the lines of a hash without the hashes in it: two packages
// with the same are compiled by the same command.
func skeleton(hashed []string) []string {
	list := make([]string, len(hashed))
	for i, line := range hashed {
		list[i] = line
		for kind, separator := range map[string]string{"file": " ", "import": " ", "packagefile": "=", "packagemain": "/"} {
			if name, _, ok := field(line, kind, separator); ok {
				if list[i] = kind; kind != "packagemain" {
					list[i] += " " + name
				}
			}
		}
	}
	return list
}
