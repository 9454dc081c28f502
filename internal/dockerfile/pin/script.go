package pin

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// script is what a RUN does, as far as it matters here. Offsets are from the beginning
// of the instruction.
type script struct {
	in         *instruction
	builds     []goBuild
	outputs    []string // of go build -o
	calls      []string // first words of commands
	installs   int      // go install of the context's own programs
	tools      bool     // go install of others, with a version
	runs       bool     // go run, generate or test: programs of the builder's platform
	xx         bool
	needsC     string // why
	special    string // another reason to leave it alone
	indirect   string // what may build: make and friends
	unreadable string // the script, if it is none of a shell
}

// goBuild is one go build command.
type goBuild struct {
	at      int               // where variables can be put before it
	values  map[string]string // that are set for it, as written
	valueAt map[string]int
	// packages are its arguments.
	packages []string
}

// takesValue are the flags of go build whose value may be a word of its own.
var takesValue = []string{"-o", "-p", "-C", "-asmflags", "-buildmode", "-compiler", "-gccgoflags", "-gcflags", "-installsuffix", "-ldflags", "-mod", "-modfile", "-overlay", "-pgo", "-pkgdir", "-tags", "-toolexec", "-covermode", "-coverpkg"}

// scripts reads the RUN instructions of a stage and of those that it is made on.
func (f *file) scripts(s *stage) []*script {
	var list []*script
	for _, at := range s.chain() {
		for _, in := range at.list {
			if in.name == "run" {
				r := f.parse(in)
				if at != s {
					r.builds = nil // they are those of that stage
				}
				list = append(list, r)
			}
		}
	}
	return list
}

func (f *file) parse(in *instruction) *script {
	r := &script{in: in}
	raw := f.text[in.start:in.end]
	if in.Attributes["json"] {
		if words := in.words(); len(words) > 1 && words[0] == "go" && words[1] == "build" {
			r.special = "RUN in the form of a list has no shell to set variables in: write RUN go build …"
			r.builds = []goBuild{{values: map[string]string{"GOOS": "", "GOARCH": "", "CGO_ENABLED": ""}}}
		}
		return r
	}
	text := plain(in, raw)
	if text == nil {
		r.unreadable = string(raw)
		return r
	}
	tree, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(text), "")
	if err != nil {
		r.unreadable = string(raw)
		return r
	}
	exported := map[string]string{}
	exportedAt := map[string]int{}
	syntax.Walk(tree, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.DeclClause:
			if n.Variant.Value == "export" {
				r.assign(n.Args, text, exported, exportedAt)
			}
		case *syntax.CallExpr:
			if len(n.Args) == 0 {
				r.assign(n.Assigns, text, exported, exportedAt)
			} else {
				r.call(n, text, exported, exportedAt)
			}
		}
		return true
	})
	return r
}

func (r *script) assign(list []*syntax.Assign, text []byte, values map[string]string, at map[string]int) {
	for _, a := range list {
		if a.Name != nil && a.Value != nil && slices.Contains(goVars, a.Name.Value) {
			from, to := int(a.Value.Pos().Offset()), int(a.Value.End().Offset())
			values[a.Name.Value], at[a.Name.Value] = string(text[from:to]), from
		}
	}
}

// installC are packages that bring a C compiler or what it needs.
var installC = regexp.MustCompile(`\b(apk|apt-get|apt|dnf|microdnf|yum)\b[^&|;]*\b(add|install)\b[^&|;]*\s(gcc|g\+\+|build-base|musl-dev|libc-dev|libc6-dev|build-essential|clang|alpine-sdk|[a-z0-9.+]+-dev|[a-z0-9.+]+-devel)(\s|$|&|;)`)

// call reads one command.
func (r *script) call(n *syntax.CallExpr, text []byte, exported map[string]string, exportedAt map[string]int) {
	words := make([]string, len(n.Args))
	for i, w := range n.Args {
		words[i] = w.Lit()
		if words[i] == "" {
			words[i] = unquote(string(text[w.Pos().Offset():w.End().Offset()]))
		}
	}
	r.calls = append(r.calls, words[0])
	whole := string(text[n.Pos().Offset():n.End().Offset()])
	if m := installC.FindStringSubmatch(whole); m != nil {
		r.needsC = m[3] + " is installed"
	}
	switch words[0] {
	case "make", "mage", "task", "just", "goreleaser", "bazel":
		r.indirect = words[0]
	case "xx-go", "xx-apk", "xx-apt", "xx-verify":
		r.xx = true
	}
	if strings.HasSuffix(words[0], ".sh") && strings.Contains(words[0], "/") {
		r.indirect = words[0]
	}
	// The command may stand behind env, nice or a wrapper such as orchestrion.
	g := slices.Index(words, "go")
	if g < 0 || g+1 >= len(words) || g > 0 && words[0] != "env" && words[0] != "nice" && words[0] != "time" && words[0] != "exec" && words[0] != "orchestrion" && words[0] != "garble" {
		return
	}
	rest := words[g+2:]
	switch words[g+1] {
	case "run", "generate", "test", "tool":
		r.runs = true
	case "install":
		if slices.ContainsFunc(rest, func(w string) bool { return strings.Contains(w, "@") }) {
			r.tools = true
		} else {
			r.installs++
		}
	case "build":
		b := goBuild{at: int(n.Args[0].Pos().Offset()), values: map[string]string{}, valueAt: map[string]int{}}
		for k, v := range exported {
			b.values[k], b.valueAt[k] = v, exportedAt[k]
		}
		r.assign(n.Assigns, text, b.values, b.valueAt)
		for i := 1; i < g; i++ { // env NAME=VALUE go build
			if name, value, ok := strings.Cut(words[i], "="); ok && slices.Contains(goVars, name) {
				b.values[name], b.valueAt[name] = value, int(n.Args[i].Pos().Offset())+len(name)+1
			}
		}
		for i := 0; i < len(rest); i++ {
			if !strings.HasPrefix(rest[i], "-") {
				b.packages = append(b.packages, rest[i])
			} else if slices.Contains(takesValue, rest[i]) {
				i++
			}
		}
		for i, w := range rest {
			value, ok := strings.CutPrefix(w, "-o=")
			if w == "-o" && i+1 < len(rest) {
				value, ok = rest[i+1], true
			}
			if ok {
				r.outputs = append(r.outputs, value)
			}
			if strings.HasPrefix(w, "-buildmode=") && w != "-buildmode=exe" && w != "-buildmode=pie" || w == "-race" || w == "-msan" {
				r.needsC = w
			}
		}
		if unquote(b.values["CGO_ENABLED"]) == "1" {
			r.needsC = "CGO_ENABLED=1"
		}
		r.builds = append(r.builds, b)
	}
}

// plain turns the text of a RUN into that of its script, of the same length: what isn't
// the shell's becomes spaces. nil if it is no shell's.
func plain(in *instruction, raw []byte) []byte {
	text := bytes.Clone(raw)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if text[i] != '\n' {
				text[i] = ' '
			}
		}
	}
	// The instruction's name and flags.
	at := 0
	space := func() {
		for at < len(raw) {
			if raw[at] == '\\' && at+1 < len(raw) && (raw[at+1] == '\n' || raw[at+1] == '\r') {
				text[at] = ' '
				at++
				continue
			}
			if strings.IndexByte(" \t\r\n", raw[at]) < 0 {
				return
			}
			text[at] = ' '
			at++
		}
	}
	word := func() {
		from := at
		for at < len(raw) && strings.IndexByte(" \t\r\n", raw[at]) < 0 {
			at++
		}
		blank(from, at)
	}
	space()
	word()
	space()
	for range in.Flags {
		word()
		space()
	}
	if len(in.Heredocs) > 0 && bytes.HasPrefix(raw[at:], []byte("<<")) {
		first := bytes.IndexByte(raw[at:], '\n')
		if first < 0 || len(in.Heredocs) != 1 || strings.ContainsAny(strings.TrimSpace(string(raw[at+2:at+first])), " \t") {
			return nil
		}
		body := at + first + 1
		if bytes.HasPrefix(bytes.TrimSpace(raw[body:]), []byte("#!")) && !regexp.MustCompile(`^\s*#!\s*/\S*/(env\s+)?(ba|da|a)?sh\b`).Match(raw[body:]) {
			return nil
		}
		blank(at, body)
		if last := bytes.LastIndexByte(bytes.TrimRight(raw, "\r\n"), '\n'); last >= body-1 {
			blank(last+1, len(text))
		}
		return text
	}
	if len(in.Heredocs) > 0 {
		return text
	}
	// Comments and empty lines between continued lines are the Dockerfile's.
	for i := at; i < len(raw); {
		end := bytes.IndexByte(raw[i:], '\n')
		if end < 0 {
			break
		}
		end += i
		if end > 0 && raw[end-1] == '\r' { // a continued line that ends with CR LF
			text[end-1] = ' '
			if end > 1 && text[end-2] == '\\' {
				text[end-2], text[end-1] = ' ', '\\'
			}
		}
		if i > at {
			line := bytes.TrimSpace(raw[i:end])
			switch {
			case len(line) == 0:
				blank(i, end)
				text[end] = ' '
			case line[0] == '#':
				blank(i, end)
				text[end-1] = '\\'
			}
		}
		i = end + 1
	}
	return text
}
