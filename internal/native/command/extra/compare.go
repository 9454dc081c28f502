package extra

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// open opens two files, of which one may be standard input.
func open(ctx context.Context, p *command.Proc, names [2]string) (r [2]*bufio.Reader, done func(), failed string, err error) {
	var closers []io.Closer
	done = func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}
	for i, name := range names {
		in, err := p.Input(name)
		if err != nil {
			done()
			return r, func() {}, name, err
		}
		closers = append(closers, in)
		r[i] = bufio.NewReaderSize(cancelled{ctx, in}, 1<<16)
	}
	return r, done, "", nil
}

// lineSource gives the lines of a file, and knows those before.
type lineSource struct {
	r                      *bufio.Reader
	line, before, earlier  string
	has, hadOne, hadBefore bool
}

// next goes on to the next line; has says whether there is one.
func (l *lineSource) next() error {
	if l.hadOne {
		l.earlier, l.before = l.before, l.line
		l.hadBefore = true
	}
	line, err := l.r.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	l.has = line != ""
	if l.has {
		l.line, l.hadOne = strings.TrimSuffix(line, "\n"), true
	}
	return nil
}

// comm compares two sorted files line by line.
func comm(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	busybox := p.Dialect == command.Busybox
	if busybox && len(opt.Has) > 0 && (opt.Has["nocheck-order"] || opt.Has["output-delimiter"]) {
		return refuse(p, "a long option with busybox")
	}
	if len(opt.Args) != 2 {
		return p.Errorf("two files are needed")
	}
	r, done, failed, err := open(ctx, p, [2]string{opt.Args[0], opt.Args[1]})
	if err != nil {
		return 1, unread(p, failed, err)
	}
	defer done()
	delimiter := "\t"
	if d, ok := opt.Values["output-delimiter"]; ok {
		delimiter = d
	}
	prefix := [3]string{"", delimiter, delimiter + delimiter}
	if opt.Has["1"] {
		prefix[1], prefix[2] = "", delimiter
	}
	if opt.Has["2"] {
		prefix[2] = strings.TrimPrefix(prefix[2], delimiter)
	}
	out := newOutput(p)
	print := func(column int, line string) error {
		if opt.Has[string(rune('1'+column))] {
			return nil
		}
		return out.write(prefix[column], line, "\n")
	}
	files := [2]*lineSource{{r: r[0]}, {r: r[1]}}
	unpaired, warned := false, [2]bool{}
	check := func(i int, a, b string) {
		if !busybox && !opt.Has["nocheck-order"] && unpaired && !warned[i] && a > b {
			warned[i] = true
			_ = out.Flush()
			_, _ = fmt.Fprintf(p.Stderr, "comm: file %d is not in sorted order\n", i+1)
		}
	}
	advance := func(i int) error {
		f := files[i]
		if err := f.next(); err != nil {
			return err
		}
		switch {
		case f.has && f.hadBefore:
			check(i, f.before, f.line)
		case !f.has && f.hadBefore:
			check(i, f.earlier, f.before) // an unpaired line may have come since
		}
		return nil
	}
	err = errors.Join(advance(0), advance(1))
	for err == nil && (files[0].has || files[1].has) {
		a, b := files[0], files[1]
		switch {
		case !b.has || a.has && a.line < b.line:
			unpaired = true
			if err = print(0, a.line); err == nil {
				err = advance(0)
			}
		case !a.has || b.line < a.line:
			unpaired = true
			if err = print(1, b.line); err == nil {
				err = advance(1)
			}
		default:
			if err = print(2, a.line); err == nil {
				err = errors.Join(advance(0), advance(1))
			}
		}
	}
	switch {
	case errors.Is(err, errNobodyReads):
		return 1, nil
	case err != nil:
		return 1, unread(p, opt.Args[0], err)
	}
	if err := out.Flush(); err != nil {
		return 1, nil //nolint:nilerr // nobody reads it
	}
	if warned[0] || warned[1] {
		return p.Errorf("input is not in sorted order")
	}
	return 0, nil
}

// difference is where two files differ.
type difference struct {
	at, line int64 // counted from one
	end      int   // which file ended there; -1 if none did
	newline  bool  // what is before the end is the end of a line
}

// compare finds where two files differ; nil if they don't.
func compare(a, b *bufio.Reader) (*difference, error) {
	d := &difference{at: 1, line: 1}
	for {
		x, errA := a.ReadByte()
		y, errB := b.ReadByte()
		endA, endB := errors.Is(errA, io.EOF), errors.Is(errB, io.EOF)
		switch {
		case errA != nil && !endA:
			return nil, errA
		case errB != nil && !endB:
			return nil, errB
		case endA && endB:
			return nil, nil
		case endA:
			d.end = 0
			return d, nil
		case endB:
			d.end = 1
			return d, nil
		case x != y:
			d.end = -1
			return d, nil
		}
		d.at++
		if d.newline = x == '\n'; d.newline {
			d.line++
		}
	}
}

// trouble is the answer to a file that can't be compared.
func trouble(p *command.Proc, name string, err error, quiet bool) (int, error) {
	switch {
	case command.Fatal(err):
		return 2, err
	case quiet && p.Dialect == command.Busybox:
		return 2, nil
	case p.Dialect == command.Busybox:
		return 2, unread(p, name, err)
	}
	_, _ = p.Errorf("%s: %s", name, command.Reason(err))
	return 2, nil
}

func cmp(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	quiet := opt.Has["s"]
	names := [2]string{"", "-"}
	switch len(opt.Args) {
	case 1, 2:
		copy(names[:], opt.Args)
	case 0:
		_, _ = p.Errorf("missing operand after 'cmp'")
		return 2, nil
	default:
		return refuse(p, "skipping bytes")
	}
	if names[0] == "-" && names[1] == "-" {
		return 0, nil
	}
	r, done, failed, err := open(ctx, p, names)
	if err != nil {
		return trouble(p, failed, err, quiet)
	}
	defer done()
	d, err := compare(r[0], r[1])
	switch {
	case err != nil:
		return trouble(p, names[0], err, quiet)
	case d == nil:
		return 0, nil
	case quiet:
		return 1, nil
	case d.end < 0:
		_, _ = fmt.Fprintf(p.Stdout, "%s %s differ: char %d, line %d\n", names[0], names[1], d.at, d.line)
		return 1, nil
	}
	switch name := names[d.end]; {
	case p.Dialect == command.Busybox:
		_, _ = p.Errorf("EOF on %s", name)
	case d.at == 1:
		_, _ = p.Errorf("EOF on %s which is empty", name)
	case d.newline:
		_, _ = p.Errorf("EOF on %s after byte %d, line %d", name, d.at-1, d.line-1)
	default:
		_, _ = p.Errorf("EOF on %s after byte %d, in line %d", name, d.at-1, d.line)
	}
	return 1, nil
}

var diffOptions = command.Options{Short: "q", Long: []string{"brief"}, Same: map[string]string{"brief": "q"}}

// checkDiff wants -q: the other forms of what diff prints are refused.
func checkDiff(args []*string) *command.Unsupported {
	if u := diffOptions.Check("diff")(args); u != nil {
		return u
	}
	brief := false
	for _, a := range args {
		brief = brief || a == nil || strings.HasPrefix(*a, "-") && *a != "-" && *a != "--"
	}
	if !brief {
		return &command.Unsupported{Command: "diff", What: "printing what differs", Fix: "diff -q, or cmp"}
	}
	return nil
}

// diff does diff -q.
func diff(ctx context.Context, p *command.Proc) (int, error) {
	opt, err := diffOptions.Parse("diff", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	if !opt.Has["q"] {
		return 0, &command.Unsupported{Command: "diff", What: "printing what differs", Fix: "diff -q, or cmp"}
	}
	if len(opt.Args) != 2 {
		_, _ = p.Errorf("two files are needed")
		return 2, nil
	}
	names := [2]string{opt.Args[0], opt.Args[1]}
	for _, name := range names {
		if name == "-" {
			continue
		}
		a, err := p.Tree.Stat(p.Path(name))
		switch {
		case command.Fatal(err):
			return 2, err
		case err != nil && p.Dialect == command.Busybox:
			_, _ = p.Errorf("can't stat '%s': %s", name, command.Reason(err))
			return 2, nil
		case err != nil:
			return trouble(p, name, err, false)
		case a.IsDir():
			return refuse(p, "comparing directories")
		}
	}
	if names[0] == names[1] {
		return 0, nil
	}
	r, done, failed, err := open(ctx, p, names)
	if err != nil {
		return trouble(p, failed, err, false)
	}
	defer done()
	d, err := compare(r[0], r[1])
	if err != nil {
		return trouble(p, names[0], err, false)
	}
	if d == nil {
		return 0, nil
	}
	_, _ = fmt.Fprintf(p.Stdout, "Files %s and %s differ\n", names[0], names[1])
	return 1, nil
}
