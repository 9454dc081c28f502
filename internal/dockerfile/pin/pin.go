// Package pin rewrites Dockerfiles so that Go programs are cross-compiled: the stage
// that runs go build is pinned to the machine's own platform, and go build is told the
// platform of the image. Nothing is emulated then.
//
// A rewrite changes the few words that it has to and no other byte: comments, line
// continuations, heredocs and spelling stay. What can't be changed without changing
// what is built is left alone, with the reason. Rewriting twice is rewriting once.
package pin

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Options say how a Dockerfile is rewritten.
type Options struct {
	Target string // stage of the image; empty for the last
	// Platform, if it isn't zero, is written into the lines instead of $TARGETOS and
	// $TARGETARCH. No line is added then, so that places in messages stay right.
	Platform platform.Platform
	// NeedsC says why packages of the context need C, or nothing; they are the
	// arguments of go build. nil says nothing.
	NeedsC func(packages []string) string
}

// Remark is something about a line: what was changed, or why it wasn't.
type Remark struct {
	Line int // in the original
	Text string
}

// Result is a rewritten Dockerfile.
type Result struct {
	Text    []byte
	Changes []Remark
	Left    []Remark // what was left alone although nothing is pinned there
}

// Rewrite rewrites a Dockerfile that messages call name. One that can't be parsed is a
// refusal.Error with code PA106; if the result couldn't be, nothing is changed and the
// error has PA147.
func Rewrite(name string, text []byte, o Options) (*Result, error) {
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, &refusal.Error{Code: "PA106", Kind: refusal.Usage, Place: name, Summary: err.Error(), Err: err}
	}
	f := &file{Options: o, text: text, result: &Result{}, edits: map[int]edit{}, declared: map[declaration]bool{}}
	if tree.EscapeToken != parser.DefaultEscapeToken {
		f.left(1, "the escape character isn't a backslash: this is for Windows")
		f.result.Text = text
		return f.result, nil
	}
	f.read(tree.AST)
	f.globals()
	for _, s := range f.stages {
		f.builder(s)
	}
	f.result.Text = f.apply()
	if err := sound(f.result.Text); err != nil {
		return nil, &refusal.Error{Code: "PA147", Place: name, Summary: "the Dockerfile can't be changed safely: what came out can't be read", Seen: []string{err.Error()}, Err: err}
	}
	slices.SortStableFunc(f.result.Changes, func(a, b Remark) int { return a.Line - b.Line })
	slices.SortStableFunc(f.result.Left, func(a, b Remark) int { return a.Line - b.Line })
	return f.result, nil
}

// sound reports whether BuildKit can read a Dockerfile.
func sound(text []byte) error {
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	_, _, err = instructions.Parse(tree.AST, nil)
	return err
}

// file is a Dockerfile that is being rewritten.
type file struct {
	Options
	text     []byte
	lines    []int // offset of each line
	global   []*instruction
	stages   []*stage
	result   *Result
	edits    map[int]edit // by offset
	declared map[declaration]bool
}

// declaration is an ARG that was added to a stage.
type declaration struct {
	stage *stage
	name  string
}

// edit replaces some bytes by others.
type edit struct {
	length int
	text   string
}

// instruction is one instruction and where it stands.
type instruction struct {
	*parser.Node
	name       string // lower case
	start, end int    // bytes, without the last newline
}

// stage is FROM and what follows.
type stage struct {
	from   *instruction
	name   string
	base   string
	parent *stage // the stage that base names
	list   []*instruction
}

// read splits the Dockerfile into stages.
func (f *file) read(ast *parser.Node) {
	f.lines = []int{0}
	for i, c := range f.text {
		if c == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	for _, n := range ast.Children {
		in := &instruction{Node: n, name: strings.ToLower(n.Value), start: f.lines[n.StartLine-1], end: len(f.text)}
		if n.EndLine < len(f.lines) {
			in.end = f.lines[n.EndLine] - 1
		}
		switch {
		case in.name == "from":
			s := &stage{from: in}
			if words := in.words(); len(words) > 0 {
				s.base = words[0]
				if len(words) == 3 && strings.EqualFold(words[1], "as") {
					s.name = strings.ToLower(words[2])
				}
			}
			for _, earlier := range f.stages {
				if earlier.name != "" && earlier.name == strings.ToLower(s.base) {
					s.parent = earlier
				}
			}
			f.stages = append(f.stages, s)
		case len(f.stages) == 0:
			f.global = append(f.global, in)
		default:
			last := f.stages[len(f.stages)-1]
			last.list = append(last.list, in)
		}
	}
}

// words are the arguments of an instruction, as the parser sees them.
func (in *instruction) words() []string {
	var list []string
	for n := in.Next; n != nil; n = n.Next {
		list = append(list, n.Value)
	}
	return list
}

// flag is the value of a flag such as --platform.
func (in *instruction) flag(name string) (string, bool) {
	for _, f := range in.Flags {
		if v, ok := strings.CutPrefix(f, "--"+name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// chain lists the stages that a stage is made on, the first one first.
func (s *stage) chain() []*stage {
	var list []*stage
	for at := s; at != nil; at = at.parent {
		list = append(list, at)
	}
	slices.Reverse(list)
	return list
}

// isImage reports whether the file system of a stage becomes that of the image.
func (f *file) isImage(s *stage) bool {
	target := f.stages[len(f.stages)-1]
	for _, other := range f.stages {
		if f.Target != "" && (other.name == strings.ToLower(f.Target)) {
			target = other
		}
	}
	return slices.Contains(target.chain(), s)
}

func (f *file) changed(line int, format string, args ...any) {
	f.result.Changes = append(f.result.Changes, Remark{line, fmt.Sprintf(format, args...)})
}

func (f *file) left(line int, format string, args ...any) {
	r := Remark{line, fmt.Sprintf(format, args...)}
	if !slices.Contains(f.result.Left, r) {
		f.result.Left = append(f.result.Left, r)
	}
}

// apply makes the edits.
func (f *file) apply() []byte {
	offsets := make([]int, 0, len(f.edits))
	for at := range f.edits {
		offsets = append(offsets, at)
	}
	slices.Sort(offsets)
	var out bytes.Buffer
	done := 0
	for _, at := range offsets {
		out.Write(f.text[done:at])
		out.WriteString(f.edits[at].text)
		done = at + f.edits[at].length
	}
	out.Write(f.text[done:])
	return out.Bytes()
}

// replace edits length bytes at an offset; what is already inserted there stays before.
func (f *file) replace(at, length int, text string) {
	f.edits[at] = edit{length: max(length, f.edits[at].length), text: f.edits[at].text + text}
}

// lineOf is the line of an offset, from 1.
func (f *file) lineOf(at int) int {
	i, found := slices.BinarySearch(f.lines, at)
	if found {
		return i + 1
	}
	return i
}

// target is what stands for the image's platform: an argument, or the value itself.
func (f *file) target(name string) string {
	switch {
	case f.Platform.IsZero():
		return "$" + name
	case name == "TARGETOS":
		return f.Platform.OS
	}
	return f.Platform.Architecture
}

// declare adds an ARG of the platform to a stage, before an instruction, unless there is
// one above.
func (f *file) declare(s *stage, before *instruction, names ...string) {
	if !f.Platform.IsZero() {
		return
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		known := f.declared[declaration{s, name}]
		f.declared[declaration{s, name}] = true
		for _, in := range s.list {
			if in == before {
				break
			}
			known = known || in.name == "arg" && slices.ContainsFunc(in.words(), func(w string) bool {
				n, _, _ := strings.Cut(w, "=")
				return n == name
			})
		}
		return known
	})
	if len(names) == 0 {
		return
	}
	at, line := before.start, before.StartLine
	for line > 1 && strings.HasPrefix(strings.TrimSpace(f.line(line-1)), "#") {
		line-- // the comment belongs to the instruction
		at = f.lines[line-1]
	}
	word, newline := "ARG", "\n"
	if from := strings.TrimLeft(string(f.text[s.from.start:s.from.end]), " \t"); strings.HasPrefix(from, "from") {
		word = "arg"
	}
	if strings.HasSuffix(f.line(before.StartLine), "\r") {
		newline = "\r\n"
	}
	indent := f.line(before.StartLine)
	indent = indent[:len(indent)-len(strings.TrimLeft(indent, " \t"))]
	f.replace(at, 0, indent+word+" "+strings.Join(names, " ")+newline)
	f.changed(before.StartLine, "%s %s is declared", word, strings.Join(names, " "))
}

// line is one line, without its newline.
func (f *file) line(n int) string {
	end := len(f.text)
	if n < len(f.lines) {
		end = f.lines[n] - 1
	}
	return string(f.text[f.lines[n-1]:end])
}

// globals removes defaults of platform arguments above the first FROM: they hide the
// image's platform wherever the argument is used.
func (f *file) globals() {
	for _, in := range f.global {
		f.defaults(in)
	}
	for _, s := range f.stages {
		for _, in := range s.list {
			f.defaults(in)
		}
	}
}

// platformArgs are set by BuildKit, but a default in the Dockerfile wins.
var platformArgs = []string{"TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT", "BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT"}

func (f *file) defaults(in *instruction) {
	if in.name != "arg" {
		return
	}
	raw := string(f.text[in.start:in.end])
	for _, w := range in.words() {
		name, _, has := strings.Cut(w, "=")
		if !has || !slices.Contains(platformArgs, name) {
			continue
		}
		at, length := assignment(raw, name)
		if at < 0 {
			continue
		}
		f.replace(in.start+at+len(name), length-len(name), "")
		f.changed(in.StartLine, "%s has no default any more: it hid the image's platform", name)
	}
}

// assignment finds NAME=VALUE among the words of an instruction, -1 if it isn't there.
// length is that of all of it.
func assignment(raw, name string) (at, length int) {
	for from := 0; ; {
		i := strings.Index(raw[from:], name+"=")
		if i < 0 {
			return -1, 0
		}
		i += from
		from = i + 1
		if i == 0 || !strings.ContainsRune(" \t\n", rune(raw[i-1])) {
			continue
		}
		end := i + len(name) + 1
		quote := byte(0)
		for ; end < len(raw); end++ {
			c := raw[end]
			switch {
			case quote != 0:
				if c == quote {
					quote = 0
				}
				continue
			case c == '"' || c == '\'':
				quote = c
				continue
			case c == '\\' && end+1 < len(raw) && raw[end+1] != '\n' && raw[end+1] != '\r':
				end++
				continue
			}
			if strings.IndexByte(" \t\r\n\\", c) >= 0 {
				break
			}
		}
		return i, end - i
	}
}

// baseName is the last element of a base's repository.
func baseName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	name := path.Base(ref)
	name, _, _ = strings.Cut(name, ":")
	return name
}
