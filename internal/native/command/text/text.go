// Package text has the tools that pass lines on: head, tail, wc, sort, uniq, cut,
// grep and sed, as GNU's and busybox's are where they agree, and as those of the
// stage where they don't. What depends on the version of a tool is refused.
package text

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// CommandsIn gives the commands of this package; long output is kept in files of the
// directory scratch.
func CommandsIn(scratch string) []*command.Command {
	headTail := []string{"lines=", "bytes=", "quiet", "silent", "verbose"}
	headTailSame := map[string]string{"lines": "n", "bytes": "c", "quiet": "q", "silent": "q", "verbose": "v"}
	grepOptions := command.Options{Short: "EFGiyvwxclLnoqshHrRe:f:m:A:B:C:a", Long: []string{"quiet", "silent", "ignore-case", "invert-match", "extended-regexp", "fixed-strings", "basic-regexp", "only-matching",
		"count", "recursive", "line-number", "files-with-matches", "files-without-match", "no-filename", "with-filename", "word-regexp", "line-regexp", "regexp=", "file=", "max-count=", "no-messages", "after-context=", "before-context=", "context=", "text"},
		Same: map[string]string{"quiet": "q", "silent": "q", "ignore-case": "i", "y": "i", "invert-match": "v", "extended-regexp": "E", "fixed-strings": "F", "basic-regexp": "G", "only-matching": "o", "count": "c", "recursive": "r",
			"line-number": "n", "files-with-matches": "l", "files-without-match": "L", "no-filename": "h", "with-filename": "H", "word-regexp": "w", "line-regexp": "x", "regexp": "e", "file": "f", "max-count": "m", "no-messages": "s",
			"after-context": "A", "before-context": "B", "context": "C", "text": "a"}}
	sortOptions := command.Options{Short: "urnfbscCVzt:k:o:", Long: []string{"unique", "reverse", "numeric-sort", "ignore-case", "ignore-leading-blanks", "stable", "check", "version-sort", "zero-terminated", "field-separator=", "key=", "output="},
		Same: map[string]string{"unique": "u", "reverse": "r", "numeric-sort": "n", "ignore-case": "f", "ignore-leading-blanks": "b", "stable": "s", "check": "c", "version-sort": "V", "zero-terminated": "z", "field-separator": "t", "key": "k", "output": "o"}}
	uniqOptions := command.Options{Short: "cduif:s:w:", Long: []string{"count", "repeated", "unique", "ignore-case", "skip-fields=", "skip-chars=", "check-chars="},
		Same: map[string]string{"count": "c", "repeated": "d", "unique": "u", "ignore-case": "i", "skip-fields": "f", "skip-chars": "s", "check-chars": "w"}}
	cutOptions := command.Options{Short: "d:f:c:b:s", Long: []string{"delimiter=", "fields=", "characters=", "bytes=", "only-delimited", "output-delimiter=", "complement"},
		Same: map[string]string{"delimiter": "d", "fields": "f", "characters": "c", "bytes": "b", "only-delimited": "s"}}
	return []*command.Command{
		counted("head", command.Options{Short: "n:c:qv", Long: headTail, Same: headTailSame}, head),
		counted("tail", command.Options{Short: "n:c:qv", Long: headTail, Same: headTailSame}, tail),
		tool("wc", command.Options{Short: "lwcm", Long: []string{"lines", "words", "bytes", "chars"}, Same: map[string]string{"lines": "l", "words": "w", "bytes": "c", "chars": "m"}}, wc),
		tool("sort", sortOptions, sorting(scratch)),
		tool("uniq", uniqOptions, uniq(scratch)),
		tool("cut", cutOptions, cut),
		tool("grep", grepOptions, grep("")), tool("egrep", grepOptions, grep("E")), tool("fgrep", grepOptions, grep("F")),
		{Name: "sed", Check: checkSed, Run: func(ctx context.Context, p *command.Proc) (int, error) { return sed(ctx, p, scratch) }},
	}
}

// tool makes a command of its options and what it does with them.
func tool(name string, o command.Options, run func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error)) *command.Command {
	return &command.Command{Name: name, Check: o.Check(name), Run: func(ctx context.Context, p *command.Proc) (int, error) {
		opt, err := o.Parse(name, p.Args[1:])
		if err != nil {
			return p.Failed(err)
		}
		return run(ctx, p, opt)
	}}
}

// counted is a tool that takes -5 for -n 5.
func counted(name string, o command.Options, run func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error)) *command.Command {
	o.Plain = func(arg string) bool { return len(arg) > 1 && strings.Trim(arg[1:], "0123456789") == "" }
	c := tool(name, o, run)
	inner := c.Run
	c.Run = func(ctx context.Context, p *command.Proc) (int, error) {
		q := *p
		if len(p.Args) > 1 && strings.HasPrefix(p.Args[1], "-") && o.Plain(p.Args[1]) {
			q.Args = append([]string{p.Args[0], "-n", p.Args[1][1:]}, p.Args[2:]...)
		}
		return inner(ctx, &q)
	}
	return c
}

// unsupported says that a tool can't do what it was asked for.
func unsupported(name, format string, args ...any) *command.Unsupported {
	return &command.Unsupported{Command: name, What: fmt.Sprintf(format, args...)}
}

func refuse(p *command.Proc, format string, args ...any) (int, error) {
	return 0, unsupported(path.Base(p.Args[0]), format, args...)
}

// errNobody ends a tool whose output nobody reads any more.
var errNobody = errors.New("nobody reads")

// out buffers what a tool writes.
type out struct {
	*bufio.Writer
	failed bool
}

func newOut(w io.Writer) *out { return &out{Writer: bufio.NewWriterSize(w, 32<<10)} }

func (o *out) text(parts ...string) error {
	for _, s := range parts {
		if _, err := o.WriteString(s); err != nil {
			o.failed = true
			return errNobody
		}
	}
	return nil
}

// each opens every file, or standard input if there is none, for do. The exit code is
// failed if one can't be read; what was written is flushed in the end.
func each(ctx context.Context, p *command.Proc, w *out, names []string, failed int, do func(name string, r *bufio.Reader) error) (int, error) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	exit := 0
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return 0, context.Cause(ctx)
		}
		in, err := p.Input(name)
		if err == nil {
			err = do(name, bufio.NewReaderSize(in, 32<<10))
			_ = in.Close()
		}
		if errors.Is(err, errNobody) {
			return 1, nil
		}
		if err != nil {
			if ferr := unread(p, w, name, err); ferr != nil {
				return 0, ferr
			}
			exit = failed
		}
	}
	if w.Flush() != nil {
		return 1, nil
	}
	return exit, nil
}

// unread says that a file can't be read.
func unread(p *command.Proc, w *out, name string, err error) error {
	if command.Fatal(err) {
		return err
	}
	if w != nil && w.Flush() != nil {
		return nil
	}
	if p.Dialect == command.Busybox {
		_, _ = p.Errorf("%s: %s", name, command.Reason(err))
	} else {
		_, _ = p.Errorf("cannot open '%s' for reading: %s", name, command.Reason(err))
	}
	return nil
}

// line reads one line with its end; io.EOF without one if there is none.
func line(r *bufio.Reader, end byte) (string, error) {
	s, err := r.ReadString(end)
	if err == io.EOF && s != "" { //nolint:errorlint // a reader gives EOF as it is
		return s, nil
	}
	return s, err
}

// forLines calls do for every line, without its end.
func forLines(r *bufio.Reader, end byte, do func(text string) error) error {
	for {
		s, err := line(r, end)
		if err == io.EOF { //nolint:errorlint // as above
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(strings.TrimSuffix(s, string(end))); err != nil {
			return err
		}
	}
}
