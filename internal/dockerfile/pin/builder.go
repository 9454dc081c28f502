package pin

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// settings are the values of Go's variables that hold at some point of a stage, as they
// are written. A variable that isn't there isn't set.
type settings map[string]setting

// setting is where a variable was set.
type setting struct {
	stage *stage
	in    *instruction
	value string
}

// goVars are the variables that matter here.
var goVars = []string{"GOOS", "GOARCH", "CGO_ENABLED"}

var literalArch = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64", "aarch64"}

// builder rewrites a stage that compiles Go programs.
func (f *file) builder(s *stage) {
	runs := f.scripts(s)
	if !slices.ContainsFunc(runs, func(r *script) bool { return len(r.builds) > 0 }) {
		f.hidden(s, runs)
		return
	}
	chain := s.chain()
	root := chain[0]
	if why, line := f.against(s, runs); why != "" {
		f.left(line, "%s", why)
		return
	}
	set := settings{}
	for _, at := range chain {
		for _, in := range at.list {
			if at != s {
				f.note(set, at, in)
			}
		}
	}
	for _, in := range s.list {
		f.note(set, s, in)
		for _, r := range runs {
			if r.in == in {
				f.script(s, r, set)
			}
		}
	}
	f.pin(root)
}

// pin lets a stage run on the machine's own platform.
func (f *file) pin(s *stage) {
	const here = "$BUILDPLATFORM"
	given, ok := s.from.flag("platform")
	raw := string(f.text[s.from.start:s.from.end])
	switch {
	case !ok:
		word := len(raw) - len(strings.TrimLeft(raw, " \t")) + len(s.from.Value)
		if _, planned := f.edits[s.from.start+word]; planned {
			return
		}
		f.replace(s.from.start+word, 0, " --platform="+here)
	case given == "$TARGETPLATFORM" || given == "${TARGETPLATFORM}":
		at := strings.Index(raw, "--platform="+given)
		if at < 0 {
			return
		}
		at += s.from.start + len("--platform=")
		if _, planned := f.edits[at]; planned {
			return
		}
		f.replace(at, len(given), here)
	default:
		return
	}
	f.changed(s.from.StartLine, "the stage runs on the builder's own platform: --platform=%s", here)
}

// against gives the reason for which a stage has to stay as it is.
func (f *file) against(s *stage, runs []*script) (why string, line int) {
	root := s.chain()[0]
	line = s.from.StartLine
	switch {
	case f.isImage(root):
		return "the image is made on this stage, so it has to be of the image's platform: COPY the program from here into a stage of its own", line
	case f.NeedsC != nil && !f.noC(s, runs):
		for _, r := range runs {
			for _, b := range r.builds {
				if why := f.NeedsC(b.packages); why != "" {
					return "the program needs C (" + why + "), which is compiled on the image's platform", line
				}
			}
		}
	}
	if why, line := f.runs(s, runs); why != "" {
		return why, line
	}
	var outputs []string
	tools := false
	for _, r := range runs {
		outputs = append(outputs, r.outputs...)
		tools = tools || r.tools
	}
	for _, r := range runs {
		switch {
		case r.xx:
			return "xx chooses the platform by itself", r.in.StartLine
		case r.unreadable != "" && len(r.builds) == 0 && strings.Contains(r.unreadable, "go build"):
			return "the script of this RUN can't be read", r.in.StartLine
		case r.installs > 0:
			return "go install puts cross-compiled programs into a directory of their own: use go build -o", r.in.StartLine
		case r.needsC != "" && !f.noC(s, runs):
			return r.needsC + ": C is compiled on the image's platform", r.in.StartLine
		case r.special != "":
			return r.special, r.in.StartLine
		}
		for _, called := range r.calls {
			if slices.ContainsFunc(outputs, func(o string) bool {
				return strings.TrimPrefix(path.Clean(called), "./") == strings.TrimPrefix(path.Clean(o), "./") && strings.Contains(called, "/")
			}) {
				return "the program that was built is run here (" + called + "), and it is one of the image's platform", r.in.StartLine
			}
		}
	}
	return f.copied(s, outputs, tools)
}

// runs looks for go run and the like under an ARG or ENV of GOARCH that would have to
// become the image's: what they start has to be of the builder's platform.
func (f *file) runs(s *stage, runs []*script) (why string, line int) {
	set := settings{}
	for _, at := range s.chain() {
		for _, in := range at.list {
			f.note(set, at, in)
			known := set["GOARCH"]
			for _, r := range runs {
				if r.in == in && r.runs && known.in != nil && (known.value == "" || slices.Contains(literalArch, known.value)) {
					return "GOARCH holds for go run, go generate and go test too, which start programs: set it before go build alone", known.in.StartLine
				}
			}
		}
	}
	return "", 0
}

// systemDirs hold programs and libraries of a base, which are of its platform.
var systemDirs = []string{"/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/go"}

// copied looks for programs of the base that another stage takes from a stage.
func (f *file) copied(s *stage, outputs []string, tools bool) (why string, line int) {
	for _, other := range f.stages {
		if slices.Contains(other.chain(), s.chain()[0]) {
			continue
		}
		for _, in := range other.list {
			from, ok := in.flag("from")
			if in.name != "copy" || !ok || !f.named(from, s) {
				continue
			}
			words := in.words()
			for _, src := range words[:max(0, len(words)-1)] {
				src = path.Clean("/" + src)
				if src == "/" {
					return "another stage copies all of this one, which would be of the builder's platform", in.StartLine
				}
				if slices.ContainsFunc(outputs, func(o string) bool { return path.Clean("/"+o) == src }) {
					continue
				}
				if tools && strings.HasSuffix(src, "/go/bin") {
					return "tools of the builder's platform are in " + src + " too", in.StartLine
				}
				for _, dir := range systemDirs {
					if src == dir || strings.HasPrefix(src, dir+"/") {
						return src + " is copied from this stage, and would be of the builder's platform", in.StartLine
					}
				}
			}
		}
	}
	return "", 0
}

// named reports whether COPY --from means a stage, or one that it is made on.
func (f *file) named(from string, s *stage) bool {
	for _, at := range s.chain() {
		if at.name != "" && at.name == strings.ToLower(from) {
			return true
		}
		if i := slices.Index(f.stages, at); from == decimal(i) {
			return true
		}
	}
	return false
}

func decimal(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return decimal(n/10) + string(rune('0'+n%10))
}

// noC reports whether cgo is off wherever a stage builds.
func (f *file) noC(s *stage, runs []*script) bool {
	set := settings{}
	for _, at := range s.chain() {
		for _, in := range at.list {
			f.note(set, at, in)
			for _, r := range runs {
				if r.in != in {
					continue
				}
				for _, b := range r.builds {
					value := set["CGO_ENABLED"].value
					if v, ok := b.values["CGO_ENABLED"]; ok {
						value = v
					}
					if value != "0" {
						return false
					}
				}
			}
		}
	}
	return true
}

// goEnvWrite is `go env -w NAME=VALUE`, which holds for the rest of the stage.
var goEnvWrite = regexp.MustCompile(`\bgo\s+env\s+-w\s+[^&|;\n]*\b(GOOS|GOARCH|CGO_ENABLED)=([^\s&|;"']+)`)

// note takes over what an instruction sets.
func (f *file) note(set settings, s *stage, in *instruction) {
	words := in.words()
	switch in.name {
	case "env":
		for i := 0; i+1 < len(words); i += 3 { // name, value, separator
			if slices.Contains(goVars, words[i]) {
				set[words[i]] = setting{s, in, unquote(words[i+1])}
			}
		}
	case "arg":
		for _, w := range words {
			name, value, _ := strings.Cut(w, "=")
			if slices.Contains(goVars, name) {
				if was, ok := set[name]; !ok || was.in.name == "arg" { // ENV wins
					set[name] = setting{s, in, unquote(value)}
				}
			}
		}
	case "run":
		for _, m := range goEnvWrite.FindAllStringSubmatch(string(f.text[in.start:in.end]), -1) {
			if _, ok := set[m[1]]; !ok {
				set[m[1]] = setting{s, in, m[2]}
			}
		}
	}
}

func unquote(s string) string { return strings.Trim(s, `"'`) }

// script tells the go commands of one RUN the platform.
func (f *file) script(s *stage, r *script, set settings) {
	for _, b := range r.builds {
		var add, names []string
		if _, inline := b.values["CGO_ENABLED"]; !inline && set["CGO_ENABLED"].in == nil {
			add = append(add, "CGO_ENABLED=0")
		}
		for _, v := range [][2]string{{"GOOS", "TARGETOS"}, {"GOARCH", "TARGETARCH"}} {
			value, inline := b.values[v[0]]
			refers := func(value string) bool {
				return strings.Contains(value, "$"+v[1]) || strings.Contains(value, "${"+v[1])
			}
			if inline {
				if refers(value) {
					names = append(names, v[1]) // it may not be declared, or only below
				}
				if v[0] == "GOARCH" && slices.Contains(literalArch, unquote(value)) && unquote(value) != f.target(v[1]) {
					at := b.valueAt[v[0]]
					f.replace(r.in.start+at, len(value), f.target(v[1]))
					f.changed(f.lineOf(r.in.start+at), "GOARCH=%s is that of the image now", value)
					names = append(names, v[1])
				}
				continue
			}
			known := set[v[0]]
			switch {
			case known.in == nil:
				add = append(add, v[0]+"="+f.target(v[1]))
				names = append(names, v[1])
			case refers(known.value):
				f.declare(known.stage, known.in, v[1])
			case v[0] == "GOARCH" || known.value == "":
				f.setting(v[0], v[1], known)
			}
		}
		if len(names) > 0 {
			f.declare(s, r.in, slices.Compact(names)...)
		}
		if len(add) > 0 {
			at := r.in.start + b.at
			f.replace(at, 0, strings.Join(add, " ")+" ")
			f.changed(f.lineOf(at), "go build has %s", strings.Join(add, " "))
		}
	}
}

// setting changes an ENV or ARG of GOARCH or GOOS that is empty or literal.
func (f *file) setting(name, argument string, at setting) {
	if at.value != "" && !slices.Contains(literalArch, at.value) {
		return
	}
	raw := string(f.text[at.in.start:at.in.end])
	i, length := assignment(raw, name)
	text := name + "=" + f.target(argument)
	switch {
	case i < 0 && at.in.name == "arg" && at.value == "":
		m := regexp.MustCompile(`[\s](` + name + `)(\s|$)`).FindStringSubmatchIndex(raw)
		if m == nil {
			return
		}
		i, length = m[2], len(name)
	case i < 0 && at.in.name == "env":
		m := regexp.MustCompile(`\s(` + name + `)(\s+)(\S+)`).FindStringSubmatchIndex(raw)
		if m == nil {
			return
		}
		i, length, text = m[6], m[7]-m[6], f.target(argument)
	case i < 0:
		f.left(at.in.StartLine, "%s is set here by go env -w", name)
		return
	}
	if _, planned := f.edits[at.in.start+i]; planned || raw[i:i+length] == text {
		return
	}
	f.declare(at.stage, at.in, argument)
	f.replace(at.in.start+i, length, text)
	f.changed(at.in.StartLine, "%s is that of the image now", name)
}

// hidden remarks on stages that compile Go programs in a way that isn't seen.
func (f *file) hidden(s *stage, runs []*script) {
	root := s.chain()[0]
	if _, pinned := root.from.flag("platform"); pinned || f.isImage(root) || !strings.Contains(baseName(root.base), "golang") {
		return
	}
	for _, r := range runs {
		if r.indirect != "" {
			f.left(r.in.StartLine, "%s builds here: it has to hand GOOS and GOARCH on to go build, and this stage can be pinned to $BUILDPLATFORM then", r.indirect)
			return
		}
	}
}
