package extra

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// whole reads a number of an option.
func whole(opt *command.Parsed, name string, standard int) (int, error) {
	text, ok := opt.Values[name]
	if !ok {
		return standard, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || strings.HasPrefix(text, "+") {
		return 0, fmt.Errorf("invalid number '%s'", text)
	}
	return n, nil
}

// nl numbers lines. GNU's has pages of head, body and foot, of which it numbers the
// body alone.
func nl(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	busybox := p.Dialect == command.Busybox
	start, errV := whole(opt, "v", 1)
	step, errI := whole(opt, "i", 1)
	width, errW := whole(opt, "w", 6)
	if err := errors.Join(errV, errI, errW); err != nil {
		return p.Errorf("%v", err)
	}
	style, format, separator := opt.Values["b"], opt.Values["n"], "\t"
	if s, ok := opt.Values["s"]; ok {
		separator = s
	}
	if style == "" {
		style = "t"
	}
	switch {
	case !slices.Contains([]string{"a", "t", "n"}, style):
		return refuse(p, "numbering lines of the style %s", style)
	case format != "" && (busybox || !slices.Contains([]string{"ln", "rn", "rz"}, format)):
		return refuse(p, "numbers of the format %s", format)
	case width < 1:
		return p.Errorf("invalid line number field width: '%d'", width)
	case opt.Has["p"] && !busybox:
		return refuse(p, "option -p")
	}
	layout := map[string]string{"": "%*d", "rn": "%*d", "rz": "%0*d", "ln": "%-*d"}[format]
	out := newOutput(p)
	n, body := start, true
	return each(ctx, p, opt.Args, out, func(r *bufio.Reader) error {
		return eachLine(r, func(line string, _ bool) error {
			if section := strings.TrimSpace(line); !busybox && line == section && (line == `\:` || line == `\:\:` || line == `\:\:\:`) {
				body = line == `\:\:`
				if line == `\:\:\:` {
					n = start
				}
				return out.write("\n")
			}
			numbered := style == "a" || style == "t" && line != ""
			if !body || !numbered {
				return out.write(strings.Repeat(" ", width+len(separator)), line, "\n")
			}
			text := fmt.Sprintf(layout, width, n)
			n += step
			return out.write(text, separator, line, "\n")
		})
	})
}

// tac gives the lines of every file the last one first.
func tac(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	out := newOutput(p)
	return each(ctx, p, opt.Args, out, func(r *bufio.Reader) error {
		var lines []string
		err := eachLine(r, func(line string, ended bool) error {
			if ended {
				line += "\n"
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil {
			return err
		}
		for _, line := range slices.Backward(lines) {
			if err := out.write(line); err != nil {
				return err
			}
		}
		return nil
	})
}

// delimiters reads the list of paste -d: \n \t \\ and \0, which is none.
func delimiters(text string) ([]string, bool) {
	var list []string
	for i := 0; i < len(text); i++ {
		c := text[i : i+1]
		if c == `\` {
			if i++; i == len(text) {
				return nil, false
			}
			at := strings.IndexByte(`nt\0`, text[i])
			if at < 0 {
				return nil, false
			}
			c = []string{"\n", "\t", `\`, ""}[at]
		}
		list = append(list, c)
	}
	return list, true
}

// paste puts lines of several files side by side.
func paste(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	busybox := p.Dialect == command.Busybox
	marks := []string{"\t"}
	if text, ok := opt.Values["d"]; ok {
		list, known := delimiters(text)
		if !known || text == "" && busybox || !isASCII(text) && hasUTF8(p) {
			return refuse(p, "the delimiters %q", text)
		}
		if marks = list; len(list) == 0 {
			marks = []string{""}
		}
	}
	names := opt.Args
	if len(names) == 0 {
		names = []string{"-"}
	}
	var files []*bufio.Reader
	stdin := bufio.NewReader(cancelled{ctx, p.Stdin})
	for _, name := range names {
		if name == "-" {
			files = append(files, stdin) // all of them read on where another one stopped
			continue
		}
		in, err := p.Input(name)
		if err != nil {
			return 1, unread(p, name, err)
		}
		defer func() { _ = in.Close() }()
		files = append(files, bufio.NewReader(cancelled{ctx, in}))
	}
	out := newOutput(p)
	var err error
	if opt.Has["s"] {
		err = pasteSerial(out, files, marks, busybox)
	} else {
		err = pasteParallel(out, files, marks, busybox)
	}
	switch {
	case errors.Is(err, errNobodyReads):
		return 1, nil
	case err != nil:
		return 1, unread(p, names[0], err)
	}
	if err := out.Flush(); err != nil {
		return 1, nil //nolint:nilerr // nobody reads it
	}
	return 0, nil
}

func pasteSerial(out output, files []*bufio.Reader, marks []string, busybox bool) error {
	for _, r := range files {
		first, n := true, 0
		err := eachLine(r, func(line string, _ bool) error {
			mark := ""
			if !first {
				mark = marks[n%len(marks)]
				n++
			}
			first = false
			return out.write(mark, line)
		})
		if err == nil && (!first || !busybox) {
			err = out.write("\n")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func pasteParallel(out output, files []*bufio.Reader, marks []string, busybox bool) error {
	open := slices.Clone(files)
	for {
		row := make([]string, len(files))
		has := make([]bool, len(files))
		any := false
		for i, r := range open {
			if r == nil {
				continue
			}
			line, err := r.ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if line == "" {
				open[i] = nil
				continue
			}
			row[i], has[i], any = strings.TrimSuffix(line, "\n"), true, true
		}
		if !any {
			return nil
		}
		n := 0
		for i := range files {
			// busybox writes nothing at all for a file that has ended.
			if busybox && !has[i] {
				continue
			}
			mark := "\n"
			if i < len(files)-1 {
				mark = marks[n%len(marks)]
				n++
			}
			if err := out.write(row[i], mark); err != nil {
				return err
			}
		}
	}
}

// fold breaks lines that are too wide.
func fold(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	width := 80
	names := []string{}
	set := func(text string) bool {
		n, err := strconv.Atoi(text)
		if err == nil {
			width = n
		}
		return err == nil && n > 0
	}
	if text, ok := opt.Values["w"]; ok && !set(text) {
		return p.Errorf("invalid number of columns: '%s'", text)
	}
	for _, a := range opt.Args {
		if strings.HasPrefix(a, "-") && isNumber(a) {
			if !set(a[1:]) {
				return p.Errorf("invalid number of columns: '%s'", a[1:])
			}
			continue
		}
		names = append(names, a)
	}
	column := func(at int, c byte) int {
		switch {
		case opt.Has["b"]:
		case c == '\t':
			return at + 8 - at%8
		case c == '\b':
			return max(at-1, 0)
		case c == '\r':
			return 0
		}
		return at + 1
	}
	out := newOutput(p)
	unicode := p.Dialect == command.Busybox && hasUTF8(p)
	exit, err := each(ctx, p, names, out, func(r *bufio.Reader) error {
		return eachLine(r, func(line string, ended bool) error {
			if unicode && !isASCII(line) {
				return &command.Unsupported{Command: "fold", What: "characters that aren't ASCII"}
			}
			start, at := 0, 0
			for i := 0; i < len(line); i++ {
				next := column(at, line[i])
				if next <= width || i == start {
					at = next
					continue
				}
				cut := i
				if opt.Has["s"] {
					if blank := strings.LastIndexAny(line[start:i], " \t"); blank >= 0 {
						cut = start + blank + 1
					}
				}
				if err := out.write(line[start:cut], "\n"); err != nil {
					return err
				}
				start, at = cut, 0
				for j := start; j < i; j++ {
					at = column(at, line[j])
				}
				i-- // the character is looked at again, on its new line
			}
			if ended {
				return out.write(line[start:], "\n")
			}
			return out.write(line[start:])
		})
	})
	return exit, err
}

// rev turns every line round.
func rev(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	out := newOutput(p)
	return each(ctx, p, opt.Args, out, func(r *bufio.Reader) error {
		return eachLine(r, func(line string, ended bool) error {
			if !isASCII(line) {
				return &command.Unsupported{Command: "rev", What: "characters that aren't ASCII"}
			}
			b := []byte(line)
			slices.Reverse(b)
			if ended {
				b = append(b, '\n')
			}
			return out.write(string(b))
		})
	})
}
