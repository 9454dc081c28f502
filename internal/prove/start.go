package prove

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxChain bounds how many programs hand over to each other at the start: a
// script to its interpreter, a shell to what it execs.
const maxChain = 6

// defaultPath is where runtimes look for programs if the config has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start finds out what a container of the image starts, as far as it can be
// known without running it: the entrypoint, what its #! line names, and what a
// shell or an init hands over to. It is made anew when more layers were read.
type start struct {
	*child
	programs []hit // in the order in which they run
	findings []Finding
	more     bool // something depends on a layer that isn't read
}

func newStart(c *child) *start {
	s := &start{child: c}
	if argv := c.report.Entrypoint; len(argv) > 0 {
		s.run(argv, true, 0)
	} else {
		s.add(c.finding(RuleStart, Info, "the image starts nothing by itself: it has neither entrypoint nor cmd"))
	}
	for _, h := range s.programs {
		s.checkProgram(h)
	}
	return s
}

// keepStart takes over what a start found out.
func (c *child) keepStart(s *start) {
	c.findings = append(c.findings, s.findings...)
	if s.more && len(s.findings) == 0 {
		f := c.finding(RuleStart, Warning, "what the image starts is in a layer that wasn't read")
		f.Seen = []string{strings.Join(c.report.Entrypoint, " ")}
		c.add(f)
	}
	if len(s.programs) == 0 {
		return
	}
	last := s.programs[len(s.programs)-1]
	b := *last.node().Binary
	b.Path = last.path
	c.report.EntrypointBinary = &b
	c.ownEntrypoint = c.Own != nil && c.Own(c.layerOf(last).digest)
}

func (c *child) layerOf(h hit) treeLayer { return c.tree.layers[h.place[0].layer] }

func (s *start) add(f Finding) { s.findings = append(s.findings, f) }

// refuse records that a container can't start.
func (s *start) refuse(h hit, summary string, seen ...string) {
	f := s.finding(RuleStart, Error, summary,
		"anyarch inspect "+orText(s.Reference, "REFERENCE"),
		"in a Dockerfile: COPY --chmod=0755 app /app and ENTRYPOINT [\"/app\"]")
	f.Path = h.path
	if len(h.place) > 0 {
		f.Layer = s.layerOf(h).digest
	}
	f.Seen = append([]string{"it starts " + strconv.Quote(strings.Join(s.report.Entrypoint, " "))}, seen...)
	s.add(f)
}

func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// run follows a command. What the runtime itself starts is strict: not finding
// it is an error. What a shell might start isn't, as only running would tell.
func (s *start) run(argv []string, strict bool, depth int) {
	if len(argv) == 0 {
		return
	}
	if depth > maxChain {
		if strict {
			s.refuse(hit{path: argv[0]}, argv[0]+" is a script whose interpreter is a script, and so on: Linux gives up")
		}
		return
	}
	h, st := s.find(argv[0])
	switch {
	case st == unknown:
		s.more = true
		return
	case st == absent:
		if strict {
			s.refuse(hit{path: argv[0]}, argv[0]+" isn't in the image", s.searched(argv[0]))
		}
		return
	}
	n := h.node()
	if n == nil || n.Kind != kindFile {
		if strict {
			s.refuse(h, argv[0]+" isn't a regular file")
		}
		return
	}
	if !s.executable(n) {
		if strict {
			s.refuse(h, argv[0]+" may not be executed", fmt.Sprintf("its mode is %04o, its owner %d:%d, and it is started by user %q", n.Mode, n.UID, n.GID, s.config.Config.User))
		}
		return
	}
	switch {
	case n.Binary != nil && n.Binary.Problem != "":
		s.refuse(h, argv[0]+" is damaged: no system runs it", n.Binary.Problem)
	case n.Binary != nil:
		s.programs = append(s.programs, h)
		s.handOver(argv, depth)
	case n.Script != "":
		s.script(h, n.Script, argv, depth)
	case s.platform.OS == "windows":
		// Batch files and others are run by what the registry says.
	case strict:
		s.refuse(h, argv[0]+" is neither a program nor a script with a #! line", fmt.Sprintf("it has %d bytes", n.Size))
	}
}

// find looks for a command as runtimes do: along PATH if it has no slash, else
// from the working directory.
func (s *start) find(name string) (hit, state) {
	if s.platform.OS == "windows" {
		return s.findWindows(name)
	}
	if strings.Contains(name, "/") {
		return s.tree.resolve(s.absolute(name))
	}
	first, result := hit{}, absent
	for _, dir := range strings.Split(s.path(), ":") {
		h, st := s.tree.resolve(s.absolute(path.Join(dir, name)))
		switch {
		case st == unknown && result == absent:
			return hit{}, unknown // what is further back may be hidden by it
		case st != found || h.isDir():
		case s.executable(h.node()):
			return h, found
		case result == absent:
			first, result = h, found
		}
	}
	return first, result
}

func (s *start) absolute(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return s.config.Config.WorkingDir + "/" + name
}

// path is the search path of the config.
func (s *start) path() string {
	if p, ok := s.env("PATH"); ok {
		return p
	}
	return defaultPath
}

func (c *child) env(name string) (string, bool) {
	for _, pair := range slices.Backward(c.config.Config.Env) { // the last one wins
		key, value, ok := strings.Cut(pair, "=")
		if ok && (key == name || c.platform.OS == "windows" && strings.EqualFold(key, name)) {
			return value, true
		}
	}
	return "", false
}

func (s *start) searched(name string) string {
	if strings.ContainsAny(name, `/\`) {
		return "looked for " + s.absolute(name)
	}
	return "looked in " + s.path()
}

// findWindows looks for a command as CreateProcess does.
func (s *start) findWindows(name string) (hit, state) {
	slashes := func(p string) string {
		p = strings.ReplaceAll(p, `\`, "/")
		if len(p) > 1 && p[1] == ':' {
			p = p[2:]
		}
		return p
	}
	file := slashes(strings.Trim(name, `"`))
	dirs := []string{slashes(s.config.Config.WorkingDir)}
	switch {
	case strings.HasPrefix(file, "/"):
		dirs = []string{""}
	case !strings.Contains(file, "/"):
		search, ok := s.env("PATH")
		if !ok {
			search = `C:\Windows\System32;C:\Windows`
		}
		for dir := range strings.SplitSeq(search, ";") {
			dirs = append(dirs, slashes(dir))
		}
	}
	for _, dir := range dirs {
		for _, suffix := range []string{"", ".exe", ".com", ".bat", ".cmd"} {
			h, st := s.tree.resolve(dir + "/" + file + suffix)
			if st == unknown || st == found && !h.isDir() {
				return h, st
			}
		}
	}
	return hit{}, absent
}

// executable reports whether the container's user may execute a file. Of users
// by name only root's permissions are known without running anything.
func (c *child) executable(n *node) bool {
	if c.platform.OS == "windows" {
		return true
	}
	user, group, _ := strings.Cut(c.config.Config.User, ":")
	uid, err := strconv.Atoi(user)
	if err != nil || uid == 0 {
		return n.Mode&0o111 != 0
	}
	gid, err := strconv.Atoi(group)
	switch {
	case uid == n.UID:
		return n.Mode&0o100 != 0
	case err == nil && gid == n.GID:
		return n.Mode&0o010 != 0
	case err != nil: // the user's groups are in /etc/passwd and /etc/group
		return n.Mode&0o011 != 0
	}
	return n.Mode&0o001 != 0
}

// script goes on with the interpreter of a script (execve(2), "Interpreter
// scripts").
func (s *start) script(h hit, line string, argv []string, depth int) {
	fields := strings.TrimSpace(strings.TrimPrefix(line, "#!"))
	interpreter, argument, _ := strings.Cut(fields, " ")
	if tab, rest, ok := strings.Cut(interpreter, "\t"); ok {
		interpreter, argument = tab, rest
	}
	if interpreter == "" {
		s.refuse(h, argv[0]+" names no interpreter", line)
		return
	}
	if strings.HasSuffix(line, "\r") {
		s.refuse(h, argv[0]+" has Windows line ends, so that its interpreter isn't found", strconv.Quote(line))
		return
	}
	if hit, st := s.tree.resolve(s.absolute(interpreter)); st == absent {
		s.refuse(h, fmt.Sprintf("%s needs %s, which isn't in the image", argv[0], interpreter), line)
		return
	} else if st == found && hit.isDir() {
		s.refuse(h, fmt.Sprintf("%s needs %s, which is a directory", argv[0], interpreter), line)
		return
	}
	next := []string{s.absolute(interpreter)}
	if argument = strings.TrimSpace(argument); argument != "" {
		if path.Base(interpreter) == "env" {
			next = append(next, strings.Fields(argument)...)
		} else {
			next = append(next, argument)
		}
	}
	s.run(append(append(next, h.path), argv[1:]...), true, depth+1)
}

// handOver follows programs that are known to start another one.
func (s *start) handOver(argv []string, depth int) {
	name := strings.ToLower(path.Base(strings.ReplaceAll(argv[0], `\`, "/")))
	switch strings.TrimSuffix(name, ".exe") {
	case "sh", "bash", "dash", "ash", "zsh", "ksh":
		if len(argv) > 2 && strings.HasPrefix(argv[1], "-") && strings.HasSuffix(argv[1], "c") {
			s.run(firstCommand(argv[2]), false, depth+1)
		}
	case "cmd":
		for i, arg := range argv {
			if strings.EqualFold(arg, "/c") && i+1 < len(argv) {
				s.run(strings.Fields(strings.Join(argv[i+1:], " ")), false, depth+1)
				return
			}
		}
	case "tini", "tini-static", "dumb-init", "catatonit", "env":
		rest := argv[1:]
		for len(rest) > 0 && (strings.HasPrefix(rest[0], "-") || strings.Contains(rest[0], "=")) {
			rest = rest[1:]
		}
		s.run(rest, false, depth+1)
	}
}

// firstCommand takes the words of a shell script up to where it is no simple
// command any more; none if it begins with something that only a shell can
// tell.
func firstCommand(script string) []string {
	var words []string
	for word := range strings.FieldsSeq(script) {
		if len(words) == 0 && (word == "exec" || strings.Contains(word, "=") && !strings.Contains(word, "/")) {
			continue
		}
		if unquoted := strings.Trim(word, `"'`); len(words) == 0 || word[0] == '"' || word[0] == '\'' {
			word = unquoted
		}
		if word == "" || strings.ContainsAny(word, "$`;&|<>(){}*?[]!\\\"'") {
			break
		}
		words = append(words, word)
	}
	return words
}

// checkProgram compares one of the programs that run with the platform, and
// looks for what it needs at its start.
func (s *start) checkProgram(h hit) {
	b := h.node().Binary
	if b.Portable {
		s.refuse(h, h.path+" is "+article(b.Machine+" code")+", which no processor runs by itself")
		return
	}
	for _, f := range CheckBinary(b, s.platform, h.path) {
		f.Digest, f.Layer, f.order = s.descriptor.Digest, s.layerOf(h).digest, s.order
		s.add(f)
	}
	s.checkLoader(h)
	s.checkRoots(h)
}
