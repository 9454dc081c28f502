package text

import (
	"bufio"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// matcher is what a line is compared with.
type matcher struct {
	fixed    string
	fold     bool
	re       *pattern.Regexp // nil for a fixed text
	variable bool            // its matches have different lengths
}

// find gives the first match that begins at from or later; -1 if there is none.
func (m *matcher) find(text string, from int) (start, end int) {
	if m.re == nil {
		in, what := text[from:], m.fixed
		if m.fold {
			in, what = upper(in), upper(what)
		}
		if i := strings.Index(in, what); i >= 0 {
			return from + i, from + i + len(what)
		}
		return -1, -1
	}
	if from == 0 {
		return m.re.Find(text)
	}
	for _, match := range m.re.All(text) {
		if match[0] >= from {
			return match[0], match[1]
		}
	}
	return -1, -1
}

// searcher is one call of grep.
type searcher struct {
	p          *command.Proc
	opt        *command.Parsed
	w          *out
	list       []*matcher
	named      bool
	most       int
	before     int
	after      int
	matched    bool // a line was selected
	listed     bool // a name was shown for -L
	separators bool // something was shown, so that the next group is set apart
}

func grep(kind string) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		g := &searcher{p: p, opt: opt, w: newOut(p.Stdout), most: -1}
		args, exit, err := g.patterns(kind)
		if exit != 0 || err != nil {
			return exit, err
		}
		for _, o := range []struct {
			name string
			to   []*int
		}{{"m", []*int{&g.most}}, {"C", []*int{&g.before, &g.after}}, {"A", []*int{&g.after}}, {"B", []*int{&g.before}}} {
			text, ok := opt.Values[o.name]
			if !ok {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				_, _ = p.Errorf("%s: invalid argument", text)
				return 2, nil
			}
			for _, to := range o.to {
				*to = n
			}
		}
		if (g.before > 0 || g.after > 0) && (opt.Has["o"] || opt.Has["m"]) {
			return refuse(p, "context of -o or -m")
		}
		if opt.Has["r"] || opt.Has["R"] {
			if args, exit, err = g.below(args); err != nil {
				return 0, err
			}
		}
		if !g.named {
			g.named = len(args) > 1
		}
		g.named = (g.named || opt.Has["H"]) && !opt.Has["h"]
		if len(args) == 0 && (opt.Has["r"] || opt.Has["R"]) {
			return max(exit, 1), nil
		}
		failed, err := g.run(ctx, args)
		if err != nil {
			return 0, err
		}
		exit = max(exit, failed)
		switch found := g.matched; {
		case opt.Has["q"] && found:
			return 0, nil
		case exit != 0:
			return exit, nil
		case opt.Has["L"] && p.Dialect == command.Busybox:
			found = g.listed
			fallthrough
		default:
			if found {
				return 0, nil
			}
			return 1, nil
		}
	}
}

// patterns reads what is searched for, and gives the names of files.
func (g *searcher) patterns(kind string) (args []string, exit int, err error) {
	p, opt := g.p, g.opt
	args = opt.Args
	texts := slices.Clone(opt.All["e"])
	for _, name := range opt.All["f"] {
		in, err := p.Input(name)
		if err != nil {
			return nil, 2, unread(p, nil, name, err)
		}
		data, err := io.ReadAll(in)
		_ = in.Close()
		if err != nil {
			return nil, 0, err
		}
		if len(data) > 0 {
			texts = append(texts, strings.TrimSuffix(string(data), "\n"))
		}
	}
	if len(texts) == 0 && !opt.Has["f"] {
		if len(args) == 0 {
			_, _ = p.Errorf("no pattern")
			return nil, 2, nil
		}
		texts, args = args[:1], args[1:]
	}
	for _, o := range opt.Order {
		if o.Name == "E" || o.Name == "F" || o.Name == "G" {
			kind = o.Name
		}
	}
	for _, text := range texts {
		for one := range strings.SplitSeq(text, "\n") {
			m := &matcher{fixed: one, fold: opt.Has["i"]}
			if kind != "F" {
				o := pattern.Options{Fold: opt.Has["i"], StrictBraces: p.Dialect == command.Busybox}
				if kind == "E" {
					o.Syntax = pattern.Extended
				}
				re, err := pattern.Compile(one, o)
				if err != nil {
					return nil, 0, unsupported("grep", "%v", err)
				}
				m.re, m.variable = re, strings.ContainsAny(one, `*+?{|`)
			}
			g.list = append(g.list, m)
		}
	}
	return args, 0, nil
}

// below lists the files of directories, in order, named as they were asked for.
func (g *searcher) below(args []string) (list []string, exit int, err error) {
	g.named = true
	if len(args) == 0 {
		args = []string{"."}
		if g.p.Dialect != command.Busybox {
			args = []string{""} // GNU's says no ./ then
		}
	}
	for _, a := range args {
		root := g.p.Path(a)
		at, err := g.p.Tree.Resolve(root, true)
		if err != nil {
			if err := unread(g.p, nil, a, err); err != nil {
				return nil, 0, err
			}
			exit = 2
			continue
		}
		err = g.p.Tree.Walk(at, func(name string, attr filetree.Attr) error {
			if attr.IsRegular() {
				rel := strings.TrimPrefix(strings.TrimPrefix(name, at), "/")
				switch {
				case rel == "":
					rel = a
				case a != "":
					rel = strings.TrimSuffix(a, "/") + "/" + rel
				}
				list = append(list, rel)
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return list, exit, nil
}

// run searches every file.
func (g *searcher) run(ctx context.Context, args []string) (exit int, err error) {
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, name := range args {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		a, serr := g.p.Tree.Stat(g.p.Path(name))
		if name != "-" && serr == nil && a.IsDir() {
			if g.p.Dialect != command.Busybox {
				_, _ = g.p.Errorf("%s: Is a directory", name)
			}
			continue
		}
		in, err := g.p.Input(name)
		if err != nil {
			if command.Fatal(err) {
				return 0, err
			}
			if !g.opt.Has["s"] {
				if g.w.Flush() != nil {
					return 1, nil
				}
				_, _ = g.p.Errorf("%s: %s", name, command.Reason(err))
			}
			exit = 2
			continue
		}
		err = g.file(name, bufio.NewReaderSize(in, 64<<10))
		_ = in.Close()
		if err == errNobody || err == errFound { //nolint:errorlint // they are these
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
	}
	if g.w.Flush() != nil {
		return 1, nil
	}
	return exit, nil
}

// errFound ends grep -q.
var errFound = &command.Unsupported{What: "found"}

// selects reports whether a pattern is in a line.
func (g *searcher) selects(text string) (bool, error) {
	for _, m := range g.list {
		start, end := m.find(text, 0)
		for start >= 0 {
			switch {
			case g.opt.Has["x"]:
				if start == 0 && end == len(text) {
					return true, nil
				}
				if m.re == nil {
					start = -1
					continue
				}
				// The leftmost longest match of all of it, if there is one, begins at 0.
				if start == 0 && m.variable && end != len(text) || start > 0 {
					start = -1
					continue
				}
				start = -1
				continue
			case g.opt.Has["w"]:
				if (start == 0 || !isWord(text[start-1])) && (end == len(text) || !isWord(text[end])) {
					return true, nil
				}
				if m.variable {
					return false, unsupported("grep", "-w of a match that may be shorter, in %q", text)
				}
				if start+1 > len(text) {
					start = -1
					continue
				}
				start, end = m.find(text, start+1)
				continue
			}
			return true, nil
		}
	}
	return false, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// file searches one file.
func (g *searcher) file(name string, r *bufio.Reader) error {
	shown := name
	if name == "-" {
		shown = "(standard input)"
	}
	quiet := g.opt.Has["q"] || g.opt.Has["c"] || g.opt.Has["l"] || g.opt.Has["L"]
	selected, number, last := 0, 0, 0
	var earlier []string // lines before this one that may be shown
	show := func(n int, text, mark string) error {
		prefix := ""
		if g.named {
			prefix = shown + mark
		}
		if g.opt.Has["n"] {
			prefix += strconv.Itoa(n) + mark
		}
		last = n
		return g.w.text(prefix, text, "\n")
	}
	context := g.before > 0 || g.after > 0
	remaining := 0
	err := forLines(r, '\n', func(text string) error {
		if g.most >= 0 && selected >= g.most {
			return io.EOF
		}
		number++
		hit, err := g.selects(text)
		if err != nil {
			return err
		}
		if hit == g.opt.Has["v"] {
			if remaining > 0 && !quiet {
				remaining--
				return show(number, text, "-")
			}
			if g.before > 0 {
				if earlier = append(earlier, text); len(earlier) > g.before {
					earlier = earlier[1:]
				}
			}
			return nil
		}
		selected++
		g.matched = true
		if g.opt.Has["q"] {
			return errFound
		}
		if g.opt.Has["l"] || g.opt.Has["L"] {
			return io.EOF
		}
		if quiet {
			return nil
		}
		if strings.Contains(text, "\x00") && !g.opt.Has["a"] {
			return unsupported("grep", "lines of a file that isn't text")
		}
		if g.opt.Has["o"] {
			return g.only(number, text, show)
		}
		if context {
			if first := number - len(earlier); g.separators && (last == 0 || first > last+1) {
				if err := g.w.text("--\n"); err != nil {
					return err
				}
			}
			for i, l := range earlier {
				if err := show(number-len(earlier)+i, l, "-"); err != nil {
					return err
				}
			}
			earlier, remaining, g.separators = nil, g.after, true
		}
		return show(number, text, ":")
	})
	if err == io.EOF { //nolint:errorlint // it is that one
		err = nil
	}
	if err != nil {
		return err
	}
	switch {
	case g.opt.Has["l"] && selected > 0, g.opt.Has["L"] && selected == 0:
		g.listed = true
		return g.w.text(shown, "\n")
	case g.opt.Has["c"] && !g.opt.Has["l"] && !g.opt.Has["L"]:
		count := strconv.Itoa(selected) + "\n"
		if g.named {
			return g.w.text(shown, ":", count)
		}
		return g.w.text(count)
	}
	return nil
}

// only shows the matches of a line.
func (g *searcher) only(number int, text string, show func(int, string, string) error) error {
	if g.opt.Has["v"] {
		return nil
	}
	for at := 0; at <= len(text); {
		start, end := -1, -1
		for _, m := range g.list {
			if s, e := m.find(text, at); s >= 0 && (start < 0 || s < start || s == start && e > end) {
				start, end = s, e
			}
		}
		switch {
		case start < 0:
			return nil
		case end == start:
			at = start + 1
			continue
		case g.opt.Has["w"] && (start > 0 && isWord(text[start-1]) || end < len(text) && isWord(text[end])):
			if slices.ContainsFunc(g.list, func(m *matcher) bool { return m.variable }) {
				return unsupported("grep", "-ow of a match that may be shorter, in %q", text)
			}
			at = start + 1
			continue
		case g.opt.Has["x"] && (start > 0 || end < len(text)):
			return nil
		}
		if err := show(number, text[start:end], ":"); err != nil {
			return err
		}
		at = end
	}
	return nil
}
