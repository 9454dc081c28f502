package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// tarRun is one call of tar.
type tarRun struct {
	*tarCall
	p        *command.Proc
	ctx      context.Context //nolint:containedctx // of this one call
	scratch  string
	dir      string // where the members are, or go
	exit     int
	warned   map[string]bool
	excluded []*pattern.Glob
}

// errStop ends the run of tar with what it has said already.
var errStop = errors.New("stop")

func runTar(ctx context.Context, p *command.Proc, scratch string) (int, error) {
	args := make([]*string, len(p.Args)-1)
	for i := range args {
		args[i] = &p.Args[i+1]
	}
	t := &tarRun{p: p, ctx: ctx, scratch: scratch, dir: p.Dir, warned: map[string]bool{}}
	call, err := parseTar(args, p.Dialect)
	if m := (*mistake)(nil); errors.As(err, &m) {
		if p.Dialect == command.GNU && m.getopt {
			return 64, t.sayf("%s", m.text)
		}
		return t.failure(), t.sayf("%s", m.text)
	}
	if err != nil {
		return 2, err
	}
	t.tarCall = call
	if err = t.exclusions(); err == nil {
		if t.mode == 'c' {
			err = t.create()
		} else {
			err = t.read()
		}
	}
	if errors.Is(err, errStop) {
		return t.exit, nil
	}
	if err != nil {
		return 2, err
	}
	switch {
	case t.exit == 0:
	case p.Dialect == command.GNU:
		_ = t.sayf("Exiting with failure status due to previous errors")
	case t.mode == 'c':
		_ = t.sayf("error exit delayed from previous errors")
	}
	return t.exit, nil
}

// failure is the exit code of something that went wrong.
func (t *tarRun) failure() int {
	if t.p.Dialect == command.Busybox {
		return 1
	}
	return 2
}

// sayf writes a message; its error is always nil.
func (t *tarRun) sayf(format string, args ...any) error {
	_, _ = fmt.Fprintf(t.p.Stderr, "tar: "+format+"\n", args...)
	return nil
}

// problem is what is wrong with one member; tar goes on.
func (t *tarRun) problem(format string, args ...any) error {
	t.exit = t.failure()
	return t.sayf(format, args...)
}

// die is what tar can't go on after.
func (t *tarRun) die(gnu, busybox string, args ...any) error {
	t.exit = t.failure()
	if t.p.Dialect == command.Busybox {
		_ = t.sayf(busybox, args...)
		return errStop
	}
	_ = t.sayf(gnu, args...)
	_ = t.sayf("Error is not recoverable: exiting now")
	return errStop
}

// path is a name in the directory of -C.
func (t *tarRun) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return strings.TrimSuffix(t.dir, "/") + "/" + name
}

// chdir goes to the directory of a -C.
func (t *tarRun) chdir(name string) error {
	at := t.path(name)
	if t.p.Dialect == command.Busybox {
		t.dir = t.p.Dir // which takes the last -C alone
		at = t.path(name)
	}
	a, err := t.p.Tree.Stat(at)
	if command.Fatal(err) {
		return err
	}
	if err == nil && !a.IsDir() {
		err = &fs.PathError{Op: "chdir", Path: name, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return t.die("%[1]s: Cannot open: %[2]s", "can't change directory to '%s': %s", name, command.Reason(err))
	}
	if t.dir, err = t.p.Tree.Resolve(at, true); err != nil {
		return err
	}
	return nil
}

// lines reads a file of names or patterns.
func (t *tarRun) lines(name string) ([]string, error) {
	r, err := t.p.Input(name)
	if err == nil {
		defer func() { _ = r.Close() }()
		var list []string
		scan := bufio.NewScanner(r)
		for scan.Scan() {
			line := scan.Text()
			if strings.HasPrefix(line, "-") && t.p.Dialect == command.GNU {
				return nil, noTar("the option " + line + " in " + name)
			}
			if line != "" {
				list = append(list, line)
			}
		}
		if err = scan.Err(); err == nil {
			return list, nil
		}
	}
	if command.Fatal(err) {
		return nil, err
	}
	return nil, t.die("%s: Cannot open: %s", "can't open '%s': %s", name, command.Reason(err))
}

// exclusions reads the patterns of what is left out.
func (t *tarRun) exclusions() error {
	list := slices.Clone(t.exclude)
	for _, name := range t.excludeFrom {
		lines, err := t.lines(name)
		if err != nil {
			return err
		}
		list = append(list, lines...)
	}
	for _, text := range list {
		var flags pattern.Flags
		if t.p.Dialect == command.Busybox && t.mode == 'c' {
			flags = pattern.Slash
		}
		g, err := pattern.ParseGlob(text, flags)
		if err != nil {
			return noTar(err.Error() + " in --exclude=" + text)
		}
		t.excluded = append(t.excluded, g)
	}
	t.exclude = list
	return nil
}

// isExcluded says whether a member, or a directory that it is in, is left out.
func (t *tarRun) isExcluded(name string) bool {
	full := name
	name = strings.TrimRight(name, "/")
	for i, g := range t.excluded {
		if t.p.Dialect == command.Busybox && t.mode != 'c' {
			if g.Match(leadingElements(full, strings.Count(t.exclude[i], "/"))) {
				return true
			}
			continue
		}
		anchored := t.p.Dialect == command.Busybox && strings.HasPrefix(t.exclude[i], "/")
		for at := range len(name) {
			if at > 0 && (anchored || name[at-1] != '/' || name[at] == '/') {
				continue
			}
			if g.MatchLeading(name[at:]) {
				return true
			}
		}
	}
	return false
}

// leadingElements is a name cut at its slash number n+1, which is as far as busybox
// compares it with a pattern of n slashes.
func leadingElements(name string, n int) string {
	for i := range len(name) {
		if name[i] == '/' {
			if n--; n < 0 {
				return name[:i]
			}
		}
	}
	return name
}

// inside takes the beginning off a name that would lead out of the directory.
func (t *tarRun) inside(name, of string) string {
	cut := 0
	if t.p.Dialect == command.Busybox {
		for {
			rest := name[cut:]
			if strings.HasPrefix(rest, "/") {
				cut++
			} else if strings.HasPrefix(rest, "../") {
				cut += 3
			} else if i := strings.Index(rest, "/../"); i >= 0 {
				cut += i + 4
			} else {
				break
			}
		}
	} else {
		for at := 0; at < len(name); {
			end := len(name)
			if i := strings.IndexByte(name[at:], '/'); i >= 0 {
				end = at + i
			}
			if name[at:end] == ".." {
				cut = end
			}
			at = end + 1
		}
		for cut < len(name) && name[cut] == '/' {
			cut++
		}
	}
	if cut > 0 {
		prefix := name[:cut]
		if t.p.Dialect == command.Busybox {
			if !t.warned[""] {
				t.warned[""] = true
				_ = t.sayf("removing leading '%s' from member names", prefix)
			}
		} else if !t.warned[of+prefix] {
			t.warned[of+prefix] = true
			_ = t.sayf("Removing leading `%s' from %s", prefix, of)
		}
	}
	if name = name[cut:]; name == "" && t.p.Dialect == command.GNU {
		return "."
	}
	return name
}

// hasDotDot reports whether an element of a name is "..".
func hasDotDot(name string) bool {
	return slices.Contains(strings.Split(name, "/"), "..")
}

// quoted is a name as GNU's tar lists it: with escapes (gnulib, quotearg.c, style
// escape, in the POSIX locale).
func (t *tarRun) quoted(name string) string {
	if t.p.Dialect == command.Busybox {
		return name
	}
	var out strings.Builder
	for i := range len(name) {
		c := name[i]
		at := strings.IndexByte("\a\b\f\n\r\t\v\\", c)
		switch {
		case at >= 0:
			out.WriteString(`\` + `abfnrtv\`[at:at+1])
		case c < ' ' || c > '~':
			fmt.Fprintf(&out, `\%03o`, c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

// member is a name that tar was asked to read, and whether it was there.
type member struct {
	name  string
	glob  *pattern.Glob // if it is a pattern
	found bool
}

// members are the names among the operands; the directories among them are gone to.
func (t *tarRun) members() ([]*member, error) {
	var list []*member
	last := -1
	for i, o := range t.operands {
		if o.chdir {
			last = i
		}
	}
	for i, o := range t.operands {
		names := []string{o.name}
		switch {
		case o.chdir && (t.p.Dialect == command.GNU || i == last):
			if err := t.chdir(o.name); err != nil {
				return nil, err
			}
			continue
		case o.chdir:
			continue
		case o.list:
			var err error
			if names, err = t.lines(o.name); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			if trimmed := strings.TrimRight(name, "/"); trimmed != "" {
				name = trimmed
			}
			m := &member{name: name}
			switch {
			case t.p.Dialect == command.Busybox || t.has["wildcards"]:
				g, err := pattern.ParseGlob(name, 0)
				if err != nil {
					return nil, noTar(err.Error() + " in " + name)
				}
				m.glob = g
			case strings.ContainsAny(name, "*?[") && !t.warned["patterns"]:
				t.warned["patterns"] = true
				_ = t.sayf("Pattern matching characters used in file names")
				_ = t.sayf("Use --wildcards to enable pattern matching, or --no-wildcards to suppress this warning")
			}
			list = append(list, m)
		}
	}
	return list, nil
}

// wanted says whether a member is one of those that were asked for.
func (t *tarRun) wanted(list []*member, name string) bool {
	if len(list) == 0 {
		return true
	}
	full := name // with the slash of a directory, which busybox compares too
	name = strings.TrimRight(name, "/")
	for _, m := range list {
		var hit bool
		switch {
		case t.p.Dialect == command.Busybox:
			hit = m.glob.Match(leadingElements(full, strings.Count(m.name, "/")))
		case m.glob != nil:
			hit = m.glob.MatchLeading(name)
		default:
			hit = name == m.name || strings.HasPrefix(name, m.name+"/")
		}
		if !hit {
			continue
		}
		// busybox looks for the name itself among what there was.
		if t.p.Dialect == command.Busybox {
			for _, m := range list {
				m.found = m.found || m.name == name
			}
		}
		m.found = m.found || t.p.Dialect == command.GNU
		return true
	}
	return false
}

// read lists or extracts an archive.
func (t *tarRun) read() (err error) {
	in := io.NopCloser(t.p.Stdin)
	if t.file != "-" {
		if in, err = t.p.Open(t.file); command.Fatal(err) {
			return err
		}
		if err != nil {
			return t.die("%s: Cannot open: %s", "can't open '%s': %s", t.file, command.Reason(err))
		}
	}
	defer func() { _ = in.Close() }()
	list, err := t.members()
	if err != nil {
		return err
	}
	raw := bufio.NewReaderSize(&source{t.ctx, in}, 1<<16)
	kind := t.compression
	if found := recognise(raw); kind == none && found != none {
		switch {
		case found == compress:
			return noTar("this kind of compression")
		case t.file != "-":
			kind = found
		case t.p.Dialect == command.GNU:
			return t.die("Archive is compressed. Use "+found.option()+" option", "")
		default:
			return &command.Unsupported{Command: "tar", What: "a compressed archive from standard input without an option that says so", Fix: "tar " + found.option()}
		}
	}
	if kind == zstded && t.p.Dialect == command.Busybox {
		return t.die("", "invalid tar magic")
	}
	plain, done, err := decompress(raw, kind)
	defer done()
	if err != nil {
		return t.broken(err, kind)
	}
	x := &extraction{tarRun: t, members: list, store: store{scratch: t.scratch}}
	if err := x.run(plain, kind); err != nil {
		return errors.Join(err, x.store.close())
	}
	if err := x.store.close(); err != nil {
		return err
	}
	for _, m := range list {
		switch {
		case m.found:
		case t.p.Dialect == command.Busybox:
			return t.die("", "%s: not found in archive", m.name)
		default:
			_ = t.problem("%s: Not found in archive", t.quoted(m.name))
		}
	}
	return nil
}

// broken says that an archive can't be read.
func (t *tarRun) broken(err error, kind compression) error {
	if endsBuild(err) {
		return err
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return t.die("%s: Cannot read: %s", "read error from '%s': %s", p.Path, command.Reason(p))
	}
	if kind != none && !errors.Is(err, tar.ErrHeader) {
		text := "unexpected end of file"
		if errors.Is(err, errFormat) {
			text = "not in " + string(kind) + " format"
		} else if !errors.Is(err, io.ErrUnexpectedEOF) {
			text = "invalid compressed data"
		}
		if t.p.Dialect == command.GNU {
			_, _ = fmt.Fprintf(t.p.Stderr, "\n%s: stdin: %s\n", kind, text)
		}
		return t.die("Child returned status 1", "short read")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return t.die("Unexpected EOF in archive", "short read")
	}
	if t.p.Dialect == command.GNU {
		return t.problem("This does not look like a tar archive")
	}
	return t.die("", "invalid tar magic")
}

// listing is where names are listed.
func (t *tarRun) listing() io.Writer {
	if t.mode == 'c' && t.file == "-" {
		return t.p.Stderr
	}
	return t.p.Stdout
}
