// Package extra has small tools that RUN lines use now and then: to calculate,
// compare, number, turn round and encode lines and bytes, and to run other commands
// in some way.
package extra

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

// Commands gives the commands of this package.
func Commands() []*command.Command {
	return []*command.Command{
		{Name: "expr", Run: expr},
		tool("comm", command.Options{Short: "123", Long: []string{"nocheck-order", "output-delimiter="}}, comm),
		tool("cmp", command.Options{Short: "s", Long: []string{"silent", "quiet"}, Same: map[string]string{"silent": "s", "quiet": "s"}}, cmp),
		{Name: "diff", Check: checkDiff, Run: diff},
		tool("nl", command.Options{Short: "b:i:n:s:v:w:p", Long: []string{"body-numbering=", "line-increment=", "number-format=", "number-separator=", "starting-line-number=", "number-width="},
			Same: map[string]string{"body-numbering": "b", "line-increment": "i", "number-format": "n", "number-separator": "s", "starting-line-number": "v", "number-width": "w"}}, nl),
		tool("tac", command.Options{}, tac),
		tool("paste", command.Options{Short: "d:s", Long: []string{"delimiters=", "serial"}, Same: map[string]string{"delimiters": "d", "serial": "s"}}, paste),
		tool("fold", command.Options{Short: "bsw:", Long: []string{"bytes", "spaces", "width="}, Same: map[string]string{"bytes": "b", "spaces": "s", "width": "w"}, Plain: isNumber}, fold),
		tool("rev", command.Options{}, rev),
		tool("od", command.Options{Short: "A:t:N:j:vw:bcdox", Long: []string{"address-radix=", "format=", "read-bytes=", "skip-bytes=", "output-duplicates", "width="},
			Same: map[string]string{"address-radix": "A", "format": "t", "read-bytes": "N", "skip-bytes": "j", "output-duplicates": "v", "width": "w"}}, od),
		tool("xxd", command.Options{Short: "prc:l:u"}, xxd),
		tool("base64", command.Options{Short: "dw:", Long: []string{"decode", "wrap="}, Same: map[string]string{"decode": "d", "wrap": "w"}}, base64Tool),
		tool("timeout", command.Options{Short: "s:k:", Long: []string{"signal=", "kill-after=", "foreground", "preserve-status"}, StopAtArgument: true}, timeout),
		{Name: "nice", Run: nice},
		tool("nohup", command.Options{StopAtArgument: true}, nohup),
		{Name: "yes", Run: yes},
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

// isNumber recognises -80, which is no option of letters.
func isNumber(arg string) bool {
	return len(arg) > 1 && strings.Trim(arg[1:], "0123456789") == ""
}

// refuse says that a command can't do what it was asked for.
func refuse(p *command.Proc, format string, args ...any) (int, error) {
	return 0, &command.Unsupported{Command: path.Base(p.Args[0]), What: fmt.Sprintf(format, args...)}
}

// unread says that a file can't be read, as busybox's and GNU's tools do alike.
func unread(p *command.Proc, name string, err error) error {
	if command.Fatal(err) {
		return err
	}
	_, _ = p.Errorf("%s: %s", name, command.Reason(err))
	return nil
}

// errNobodyReads ends a command of which nobody reads the output.
var errNobodyReads = errors.New("nobody reads")

// output buffers what a command writes and remembers that nobody reads it.
type output struct{ *bufio.Writer }

func newOutput(p *command.Proc) output { return output{bufio.NewWriterSize(p.Stdout, 1<<16)} }

// each calls do with every file, or with standard input, one after the other, and
// gives the exit code. What was written is flushed in the end.
func each(ctx context.Context, p *command.Proc, names []string, out output, do func(r *bufio.Reader) error) (int, error) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	exit := 0
	for _, name := range names {
		err := readFile(ctx, p, name, do)
		switch {
		case errors.Is(err, errNobodyReads):
			return 1, nil
		case err != nil:
			exit = 1
			if out.Flush() == nil {
				err = unread(p, name, err)
			}
			if command.Fatal(err) {
				return exit, err
			}
		}
	}
	if err := out.Flush(); err != nil {
		return 1, nil //nolint:nilerr // nobody reads it
	}
	return exit, nil
}

func readFile(ctx context.Context, p *command.Proc, name string, do func(r *bufio.Reader) error) error {
	in, err := p.Input(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	return do(bufio.NewReaderSize(cancelled{ctx, in}, 1<<16))
}

// cancelled ends reading when the build is cancelled.
type cancelled struct {
	ctx context.Context //nolint:containedctx // of this one call
	r   io.Reader
}

func (c cancelled) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(b)
}

// eachLine calls do with every line, of which ended says whether it has its end.
func eachLine(r *bufio.Reader, do func(line string, ended bool) error) error {
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			text, ended := strings.CutSuffix(line, "\n")
			if err := do(text, ended); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write writes to a buffered output.
func (o output) write(parts ...string) error {
	for _, s := range parts {
		if _, err := o.WriteString(s); err != nil {
			return errNobodyReads
		}
	}
	return nil
}

// hasUTF8 reports whether the environment asks for characters of several bytes.
func hasUTF8(p *command.Proc) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := p.Env[name]; v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// isASCII reports whether a text has only characters of one byte.
func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] > 127 {
			return false
		}
	}
	return true
}
