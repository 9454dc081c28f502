package text

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// sedOptions are read by hand: -i may have a suffix, which no other option does.
type sedOptions struct {
	scripts             []string
	files               []string
	quiet, extended     bool
	inPlace, separate   bool
	suffix              string
	zero                bool
	scriptFile          []int // which of the scripts are names of files
	missing, incomplete bool  // an option without its value; an argument that isn't known yet
}

func readSedOptions(args []*string, busybox bool) (o sedOptions, err error) {
	for i := 0; i < len(args); i++ {
		if args[i] == nil {
			o.incomplete = true
			if len(o.scripts) == 0 {
				o.scripts = append(o.scripts, "")
			}
			continue
		}
		arg := *args[i]
		value := func(rest string) (string, bool) {
			if rest != "" {
				return rest, true
			}
			if i++; i >= len(args) {
				o.missing = true
				return "", false
			}
			if args[i] == nil {
				o.incomplete = true
				return "", true
			}
			return *args[i], true
		}
		if arg == "--" {
			for _, a := range args[i+1:] {
				if a == nil {
					o.incomplete = true
					continue
				}
				o.files = append(o.files, *a)
			}
			break
		}
		if arg == "-" || !strings.HasPrefix(arg, "-") {
			o.files = append(o.files, arg)
			continue
		}
		if strings.HasPrefix(arg, "--") {
			name, v, has := strings.Cut(arg[2:], "=")
			switch name {
			case "quiet", "silent":
				o.quiet = true
			case "regexp-extended":
				o.extended = true
			case "separate":
				o.separate = true
			case "null-data":
				o.zero = true
			case "in-place":
				o.inPlace, o.suffix = true, v
			case "expression", "file":
				if !has {
					v, _ = value("")
				}
				if name == "file" {
					o.scriptFile = append(o.scriptFile, len(o.scripts))
				}
				o.scripts = append(o.scripts, v)
			case "unbuffered", "sandbox":
			default:
				return o, unsupported("sed", "option --%s", name)
			}
			if busybox && name != "expression" && name != "quiet" && name != "silent" && name != "regexp-extended" && name != "in-place" && name != "file" {
				return o, unsupported("sed", "option --%s", name)
			}
			continue
		}
	letters:
		for j := 1; j < len(arg); j++ {
			switch arg[j] {
			case 'n':
				o.quiet = true
			case 'E', 'r':
				o.extended = true
			case 's':
				o.separate = true
			case 'u':
			case 'z':
				if busybox {
					return o, unsupported("sed", "option -z")
				}
				o.zero = true
			case 'i':
				o.inPlace, o.suffix = true, arg[j+1:]
				break letters
			case 'e', 'f':
				if arg[j] == 'f' {
					o.scriptFile = append(o.scriptFile, len(o.scripts))
				}
				v, _ := value(arg[j+1:])
				o.scripts = append(o.scripts, v)
				break letters
			default:
				return o, unsupported("sed", "option -%c", arg[j])
			}
		}
	}
	if strings.ContainsAny(o.suffix, "*/") {
		return o, unsupported("sed", "the suffix %s", o.suffix)
	}
	if len(o.scripts) == 0 && len(o.files) > 0 {
		o.scripts, o.files = o.files[:1], o.files[1:]
	}
	return o, nil
}

// checkSed looks at options and script before anything runs.
func checkSed(args []*string) *command.Unsupported {
	o, err := readSedOptions(args, false)
	var u *command.Unsupported
	if errors.As(err, &u) {
		return u
	}
	if o.incomplete || o.missing || len(o.scriptFile) > 0 {
		return nil
	}
	if _, err := parseSed(strings.Join(o.scripts, "\n"), o.extended, false); errors.As(err, &u) {
		return u
	}
	return nil
}

// editor is one call of sed while it runs.
type editor struct {
	p       *command.Proc
	o       sedOptions
	list    []*edit
	w       *out
	missing bool // the last line that was written lacks its end
	end     string

	names  []string // files that come
	reader *bufio.Reader
	closer io.Closer
	next   string // the line that comes, with its end
	has    bool   // there is one

	line    int
	space   string
	ended   bool // the pattern space's line had an end
	hold    string
	queue   []edit // text and files for the end of the cycle
	last    *pattern.Regexp
	written map[string]*out
	closers []io.Closer
	exit    int
	scratch string
}

var errQuit = errors.New("quit")

func sed(ctx context.Context, p *command.Proc, scratch string) (int, error) {
	pointers := make([]*string, len(p.Args)-1)
	for i := range pointers {
		pointers[i] = &p.Args[i+1]
	}
	o, err := readSedOptions(pointers, p.Dialect == command.Busybox)
	if err != nil {
		return 0, err
	}
	if o.missing || len(o.scripts) == 0 {
		return p.Errorf("option requires an argument")
	}
	for _, i := range o.scriptFile {
		in, err := p.Input(o.scripts[i])
		if err != nil {
			exit := 4
			if p.Dialect == command.Busybox {
				exit = 1
			}
			return exit, unread(p, nil, o.scripts[i], err)
		}
		data, err := io.ReadAll(in)
		_ = in.Close()
		if err != nil {
			return 0, err
		}
		o.scripts[i] = strings.TrimSuffix(string(data), "\n")
	}
	script := strings.Join(o.scripts, "\n")
	if strings.HasPrefix(script, "#n\n") || script == "#n" {
		o.quiet = true
	}
	list, err := parseSed(script, o.extended, p.Dialect == command.Busybox)
	if err != nil {
		var own errSed
		if errors.As(err, &own) {
			return p.Errorf("-e expression #1: %v", own)
		}
		return 0, err
	}
	e := &editor{p: p, o: o, list: list, w: newOut(p.Stdout), end: "\n", written: map[string]*out{}, scratch: scratch}
	if o.zero {
		e.end = "\x00"
	}
	defer func() {
		for _, c := range e.closers {
			_ = c.Close()
		}
	}()
	if o.inPlace {
		if len(o.files) == 0 {
			return p.Errorf("no input files")
		}
		for _, name := range o.files {
			if err := e.inPlace(ctx, name); err == errQuit { //nolint:errorlint // it is that one
				break
			} else if err != nil {
				return 0, err
			}
		}
		return e.exit, e.finish()
	}
	if e.names = o.files; len(e.names) == 0 {
		e.names = []string{"-"}
	}
	err = e.run(ctx)
	if err == errNobody { //nolint:errorlint // it is that one
		return 1, nil
	}
	if err != nil && err != errQuit { //nolint:errorlint // as above
		return 0, err
	}
	if e.w.Flush() != nil {
		return 1, nil
	}
	return e.exit, e.finish()
}

// finish puts what w has written into its files.
func (e *editor) finish() error {
	for _, w := range e.written {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	var first error
	for _, c := range e.closers {
		if err := c.Close(); first == nil {
			first = err
		}
	}
	e.closers = nil
	return first
}

// inPlace edits one file.
func (e *editor) inPlace(ctx context.Context, name string) error {
	old, err := e.p.Tree.Stat(e.p.Path(name))
	if err == nil && !old.IsRegular() {
		_, _ = e.p.Errorf("couldn't edit %s: not a regular file", name)
		e.exit = 4
		return nil
	}
	if err != nil {
		if err := unread(e.p, nil, name, err); err != nil {
			return err
		}
		e.exit = 1
		if e.p.Dialect != command.Busybox {
			e.exit = 2
		}
		return nil
	}
	spool := command.Spool{Scratch: e.scratch}
	e.w, e.missing, e.names, e.line = newOut(&spool), false, []string{name}, 0
	for _, c := range e.list {
		c.active = false
	}
	err = e.run(ctx)
	quit := err == errQuit //nolint:errorlint // it is that one
	if err == nil || quit {
		if quit {
			// What wasn't read stays as it is.
			for e.has {
				if err := e.w.text(e.next); err != nil {
					return err
				}
				e.advance()
			}
		}
		err = e.w.Flush()
	}
	if err != nil {
		spool.Discard()
		return err
	}
	content, err := spool.Content()
	if err != nil {
		return err
	}
	if e.o.suffix != "" {
		backup := e.p.Path(name) + e.o.suffix
		if err := e.p.Tree.Put(backup, filetree.Attr{Mode: old.Mode, UID: old.UID, GID: old.GID, ModTime: old.ModTime, Content: old.Content, Xattrs: old.Xattrs}); err != nil {
			return err
		}
	}
	if err := e.p.Replace(name, old, content); err != nil {
		if err := unread(e.p, nil, name, err); err != nil {
			return err
		}
		e.exit = 4
	}
	if quit {
		return errQuit
	}
	return nil
}

// advance makes the next line ready; it reports a file that can't be read.
func (e *editor) advance() error {
	e.has, e.next = false, ""
	for {
		for e.reader == nil {
			if len(e.names) == 0 {
				return nil
			}
			name := e.names[0]
			e.names = e.names[1:]
			in, err := e.p.Input(name)
			if err != nil {
				if err := unread(e.p, e.w, name, err); err != nil {
					return err
				}
				if e.exit = 2; e.p.Dialect == command.Busybox {
					e.exit = 1
				}
				continue
			}
			if e.o.separate {
				e.line = 0
			}
			e.reader, e.closer = bufio.NewReaderSize(in, 32<<10), in
		}
		text, err := line(e.reader, e.end[0])
		if err == nil {
			e.next, e.has = text, true
			return nil
		}
		_ = e.closer.Close()
		e.reader = nil
		if err != io.EOF { //nolint:errorlint // a reader gives EOF as it is
			return err
		}
		if e.o.separate && len(e.names) > 0 {
			return nil // the last line of this file is one
		}
	}
}

// isLast reports whether no line follows this one.
func (e *editor) isLast() bool { return !e.has }

// take makes the next line the pattern space; false if there is none.
func (e *editor) take() (bool, error) {
	if !e.has && e.o.separate && len(e.names) > 0 {
		if err := e.advance(); err != nil {
			return false, err
		}
	}
	if !e.has {
		return false, nil
	}
	e.line++
	e.space, e.ended = strings.CutSuffix(e.next, e.end)
	return true, e.advance()
}

// write writes a text and the end of its line, if it has one.
func (e *editor) write(text string, ended bool) error {
	if err := e.endLine(); err != nil {
		return err
	}
	if !ended {
		e.missing = true
		return e.w.text(text)
	}
	return e.w.text(text, e.end)
}

// endLine gives the last line the end that it lacks.
func (e *editor) endLine() error {
	if !e.missing {
		return nil
	}
	e.missing = false
	return e.w.text(e.end)
}

// flushQueue writes what a and r have left for the end of the cycle.
func (e *editor) flushQueue() error {
	for _, q := range e.queue {
		if q.verb == 'a' {
			if err := e.endLine(); err != nil {
				return err
			}
			if err := e.w.text(q.text); err != nil {
				return err
			}
			continue
		}
		in, err := e.p.Input(q.text)
		if err != nil {
			if command.Fatal(err) {
				return err
			}
			continue // a file that isn't there is an empty one
		}
		err = e.endLine()
		if err == nil {
			var data []byte
			if data, err = io.ReadAll(in); err == nil {
				if err = e.w.text(string(data)); err == nil && len(data) > 0 && data[len(data)-1] != '\n' {
					e.missing = true
				}
			}
		}
		_ = in.Close()
		if err != nil {
			return err
		}
	}
	e.queue = nil
	return nil
}

// run edits all lines of the files that come.
func (e *editor) run(ctx context.Context) error {
	if err := e.advance(); err != nil {
		return err
	}
	again := false // after D: the pattern space is kept
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if !again {
			ok, err := e.take()
			if err != nil || !ok {
				return err
			}
		}
		quit, restart, err := e.cycle()
		if err != nil {
			return err
		}
		if err := e.flushQueue(); err != nil {
			return err
		}
		if quit {
			return errQuit
		}
		again = restart
	}
}

// cycle runs the script on the pattern space.
func (e *editor) cycle() (quit, restart bool, err error) {
	replaced := false
	steps := 0
	for i := 0; i < len(e.list); i++ {
		if steps++; steps > 50_000_000 {
			return false, false, unsupported("sed", "a script that doesn't end")
		}
		c := e.list[i]
		if !e.selected(c) {
			if c.verb == '{' {
				i = c.target
			}
			continue
		}
		switch c.verb {
		case '{', '}', ':':
		case 'd':
			return false, false, nil
		case 'D':
			if _, rest, found := strings.Cut(e.space, e.end); found {
				e.space = rest
				return false, true, nil
			}
			return false, false, nil
		case 'g':
			e.space = e.hold
		case 'G':
			e.space += e.end + e.hold
		case 'h':
			e.hold = e.space
		case 'H':
			e.hold += e.end + e.space
		case 'x':
			e.hold, e.space = e.space, e.hold
		case 'z':
			e.space = ""
		case 'n':
			if !e.has {
				if e.p.Dialect == command.Busybox || !e.o.quiet {
					if !e.o.quiet {
						err = e.write(e.space, e.ended)
					}
				}
				return true, false, err
			}
			if !e.o.quiet {
				if err := e.write(e.space, e.ended); err != nil {
					return false, false, err
				}
			}
			if err := e.flushQueue(); err != nil {
				return false, false, err
			}
			if _, err := e.take(); err != nil {
				return false, false, err
			}
		case 'N':
			if !e.has {
				if !e.o.quiet {
					err = e.write(e.space, e.ended)
				}
				return true, false, err
			}
			before := e.space
			if err := e.flushQueue(); err != nil {
				return false, false, err
			}
			if _, err := e.take(); err != nil {
				return false, false, err
			}
			e.space = before + e.end + e.space
		case 'p':
			if err := e.write(e.space, e.ended); err != nil {
				return false, false, err
			}
		case 'P':
			head, _, _ := strings.Cut(e.space, e.end)
			if err := e.write(head, true); err != nil {
				return false, false, err
			}
		case '=':
			if err := e.write(strconv.Itoa(e.line), true); err != nil {
				return false, false, err
			}
		case 'q', 'Q':
			e.exit = max(e.exit, c.code)
			if c.verb == 'q' && !e.o.quiet {
				err = e.write(e.space, e.ended)
			}
			return true, false, err
		case 'a', 'r':
			if c.verb == 'a' && c.text == "" {
				c = &edit{verb: 'a'}
			}
			e.queue = append(e.queue, *c)
		case 'i':
			if err := e.endLine(); err != nil {
				return false, false, err
			}
			if err := e.w.text(c.text); err != nil {
				return false, false, err
			}
		case 'c':
			if c.to == nil || c.negated || !c.active {
				if err := e.endLine(); err != nil {
					return false, false, err
				}
				if err := e.w.text(c.text); err != nil {
					return false, false, err
				}
			}
			return false, false, nil
		case 'y':
			b := []byte(e.space)
			for j := range b {
				b[j] = c.table[b[j]]
			}
			e.space = string(b)
		case 'w':
			if err := e.toFile(c.text); err != nil {
				return false, false, err
			}
		case 's':
			hit, err := e.substitute(c)
			if err != nil {
				return false, false, err
			}
			if hit {
				replaced = true
				if c.print {
					if err := e.write(e.space, e.ended); err != nil {
						return false, false, err
					}
				}
				if c.write != "" {
					if err := e.toFile(c.write); err != nil {
						return false, false, err
					}
				}
			}
		case 'b', 't', 'T':
			jump := c.verb == 'b' || c.verb == 't' && replaced || c.verb == 'T' && !replaced
			if c.verb != 'b' {
				replaced = false
			}
			if jump {
				if i = c.target; i < 0 {
					i = len(e.list)
				}
			}
		}
	}
	if !e.o.quiet {
		err = e.write(e.space, e.ended)
	}
	return false, false, err
}

// toFile writes the pattern space to a file of w.
func (e *editor) toFile(name string) error {
	switch name {
	case "/dev/stdout":
		return e.write(e.space, true)
	}
	w := e.written[name]
	if w == nil {
		f, err := e.p.Create(name, false, e.scratch)
		if err != nil {
			if command.Fatal(err) {
				return err
			}
			_, _ = e.p.Errorf("couldn't open file %s: %s", name, command.Reason(err))
			e.exit = 4
			return errQuit
		}
		w = newOut(f)
		e.written[name], e.closers = w, append(e.closers, f)
	}
	return w.text(e.space, e.end)
}

// matches reports whether a regular expression is in the pattern space.
func (e *editor) matches(a *address) bool {
	re := a.re
	if a.empty {
		re = e.last
	}
	if re == nil {
		return false
	}
	e.last = re
	return re.Match(e.space)
}

// selected reports whether a command is for this line.
func (e *editor) selected(c *edit) bool { return e.inRange(c) != c.negated }

func (e *editor) inRange(c *edit) bool {
	if c.from == nil {
		return true
	}
	if c.to == nil {
		return e.is(c.from)
	}
	if !c.active {
		begins := e.is(c.from)
		if c.from.zero && e.line == 1 {
			c.active = true
			return !e.closes(c) || true
		}
		if !begins {
			return false
		}
		switch to := c.to; {
		case to.re != nil || to.empty:
			c.active = true
		case to.plus:
			c.end = e.line + to.line
			c.active = c.end > e.line
		case to.step > 0:
			c.end = (e.line + to.step - 1) / to.step * to.step
			c.active = c.end > e.line
		case to.step == 0 && to.line == 0:
			c.active = false // ~0
		case to.line < 0:
			c.active = !e.isLast()
		default:
			c.end = to.line
			c.active = c.end > e.line
		}
		return true
	}
	return e.closes(c)
}

// closes ends a range that this line is the last of. It reports whether the line is
// in the range at all.
func (e *editor) closes(c *edit) bool {
	switch to := c.to; {
	case to.re != nil || to.empty:
		if e.matches(to) {
			c.active = false
		}
	case to.line < 0 && !to.plus:
		c.active = !e.isLast()
	default:
		if e.line >= c.end {
			c.active = false
		}
		if e.line > c.end { // a command jumped over its end
			return e.is(c.from)
		}
	}
	return true
}

func (e *editor) is(a *address) bool {
	switch {
	case a.re != nil || a.empty:
		return e.matches(a)
	case a.zero:
		return false
	case a.line < 0:
		return e.isLast()
	case a.step > 0:
		return e.line >= a.line && (e.line-a.line)%a.step == 0
	}
	return e.line == a.line
}

// substitute is the command s.
func (e *editor) substitute(c *edit) (bool, error) {
	re := c.re
	if c.emptyRE {
		if re = e.last; re == nil {
			return false, unsupported("sed", "an empty regular expression before any other")
		}
		for _, w := range c.with {
			if w.group > re.NumGroups() {
				return false, unsupported("sed", `\%d of an empty regular expression`, w.group)
			}
		}
	}
	e.last = re
	text := e.space
	if !re.Match(text) {
		return false, nil
	}
	var matches [][]int
	if c.global || c.nth > 1 {
		matches = re.All(text)
	} else {
		matches = [][]int{re.Groups(text)}
	}
	var b strings.Builder
	done, hit := 0, false
	for i, m := range matches {
		if c.nth > 0 && (i+1 < c.nth || i+1 > c.nth && !c.global) {
			continue
		}
		groups := m
		if len(groups) == 2 && re.NumGroups() > 0 {
			var ok bool
			if groups, ok = groupsAt(re, text, m); !ok {
				return false, unsupported("sed", "the groups of a later match that depends on what is before it")
			}
		}
		b.WriteString(text[done:m[0]])
		b.WriteString(expand(c.with, text, groups))
		done, hit = m[1], true
	}
	if !hit {
		return false, nil
	}
	b.WriteString(text[done:])
	e.space = b.String()
	return true, nil
}

// groupsAt gives the groups of a match that isn't the first.
func groupsAt(re *pattern.Regexp, text string, m []int) ([]int, bool) {
	if m[0] == 0 {
		g := re.Groups(text)
		return g, g != nil && g[0] == m[0] && g[1] == m[1]
	}
	// The match alone: the same unless it looks at what is around it.
	g := re.Groups(text[m[0]:m[1]])
	if g == nil || g[0] != 0 || g[1] != m[1]-m[0] {
		return nil, false
	}
	for i := range g {
		if g[i] >= 0 {
			g[i] += m[0]
		}
	}
	return g, true
}

// expand writes a replacement.
func expand(with []piece, text string, groups []int) string {
	var b strings.Builder
	var all, once byte
	add := func(s string) {
		switch all {
		case 'U':
			s = upper(s)
		case 'L':
			s = strings.ToLower(s)
		}
		if once != 0 && s != "" {
			if once == 'u' {
				s = upper(s[:1]) + s[1:]
			} else {
				s = strings.ToLower(s[:1]) + s[1:]
			}
			once = 0
		}
		b.WriteString(s)
	}
	for _, w := range with {
		switch {
		case w.group == -1:
			add(w.text)
		case w.group == -2:
			switch w.fold {
			case 'u', 'l':
				once = w.fold
			case 'E':
				all = 0
			default:
				all = w.fold
			}
		case 2*w.group+1 < len(groups) && groups[2*w.group] >= 0:
			add(text[groups[2*w.group]:groups[2*w.group+1]])
		}
	}
	return b.String()
}
