package text

import (
	"bufio"
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// amount is how much of a file head and tail are about.
type amount struct {
	n     int64
	bytes bool // else lines
	plus  bool // +N: counted from the beginning
	minus bool // -N: all but so much
}

func amountOf(p *command.Proc, opt *command.Parsed, tail bool) (amount, error) {
	a := amount{n: 10}
	text, bytes := "", false
	for _, o := range opt.Order {
		if o.Name == "n" || o.Name == "c" {
			text, bytes = o.Value, o.Name == "c"
		}
	}
	if text == "" {
		return a, nil
	}
	a.bytes = bytes
	rest := text
	switch {
	case tail && strings.HasPrefix(rest, "+"):
		a.plus, rest = true, rest[1:]
	case strings.HasPrefix(rest, "-"):
		a.minus, rest = !tail, rest[1:]
	}
	n, err := strconv.ParseUint(rest, 10, 62)
	if err != nil {
		if rest == "" || strings.Trim(rest, "0123456789bkKmMGTPEB") != "" {
			return a, errNumber
		}
		return a, unsupported(p.Args[0], "the number %s", text)
	}
	a.n = int64(n) //nolint:gosec // 62 bits
	return a, nil
}

// errNumber is what the tool itself complains about.
var errNumber = &command.Unsupported{What: "not a number"}

// ends runs head or tail.
func ends(ctx context.Context, p *command.Proc, opt *command.Parsed, tail bool, do func(w *out, a amount, r *bufio.Reader) error) (int, error) {
	a, err := amountOf(p, opt, tail)
	if err == errNumber { //nolint:errorlint // it is that one
		return p.Errorf("invalid number of lines: '%s'", opt.Values["n"])
	}
	if err != nil {
		return 0, err
	}
	w := newOut(p.Stdout)
	named, shown := (len(opt.Args) > 1 || opt.Has["v"]) && !opt.Has["q"], false
	return each(ctx, p, w, opt.Args, 1, func(name string, r *bufio.Reader) error {
		if named {
			if name == "-" {
				name = "standard input"
			}
			if shown {
				if err := w.text("\n"); err != nil {
					return err
				}
			}
			shown = true
			if err := w.text("==> ", name, " <==\n"); err != nil {
				return err
			}
		}
		return do(w, a, r)
	})
}

func head(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	return ends(ctx, p, opt, false, func(w *out, a amount, r *bufio.Reader) error {
		switch {
		case a.bytes && !a.minus:
			return copied(w, io.LimitReader(r, a.n))
		case a.minus:
			units, err := allUnits(r, a.bytes)
			if err != nil {
				return err
			}
			return w.text(units[:max(0, int64(len(units))-a.n)]...)
		}
		for range a.n {
			s, err := line(r, '\n')
			if err == io.EOF { //nolint:errorlint // a reader gives EOF as it is
				return nil
			}
			if err != nil {
				return err
			}
			if err := w.text(s); err != nil {
				return err
			}
		}
		return nil
	})
}

func tail(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	return ends(ctx, p, opt, true, func(w *out, a amount, r *bufio.Reader) error {
		if a.plus {
			skip := max(0, a.n-1)
			if a.bytes {
				if _, err := io.CopyN(io.Discard, r, skip); err != nil && err != io.EOF { //nolint:errorlint // as above
					return err
				}
				return copied(w, r)
			}
			for range skip {
				if _, err := line(r, '\n'); err == io.EOF { //nolint:errorlint // as above
					return nil
				} else if err != nil {
					return err
				}
			}
			return copied(w, r)
		}
		units, err := allUnits(r, a.bytes)
		if err != nil {
			return err
		}
		return w.text(units[max(0, int64(len(units))-a.n):]...)
	})
}

// allUnits reads everything, as lines or bytes.
func allUnits(r *bufio.Reader, bytes bool) ([]string, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if bytes {
		return strings.Split(string(data), ""), nil
	}
	list := strings.SplitAfter(string(data), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list, nil
}

// copied passes on the rest. An error of reading stays what it is.
func copied(w *out, r io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		if _, werr := w.Write(buffer[:n]); werr != nil {
			return errNobody
		}
		if err == io.EOF { //nolint:errorlint // as above
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func wc(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if !opt.Has["l"] && !opt.Has["w"] && !opt.Has["c"] && !opt.Has["m"] {
		opt.Has["l"], opt.Has["w"], opt.Has["c"] = true, true, true
	}
	columns := 0
	for _, o := range []string{"l", "w", "m", "c"} {
		if opt.Has[o] {
			columns++
		}
	}
	single := len(opt.Args) <= 1 && columns == 1
	width := 9
	if p.Dialect != command.Busybox {
		// As wide as the size of all files together, which it asks for before it reads.
		var total int64
		width = 1
		for _, name := range opt.Args {
			if name == "-" {
				return refuse(p, "the width of columns for standard input")
			}
			a, err := p.Tree.Stat(p.Path(name))
			switch {
			case err == nil && a.IsRegular():
				total += a.Size()
			case err == nil:
				width = 7
			case command.Fatal(err):
				return 0, err
			}
		}
		if len(opt.Args) == 0 && !single {
			return refuse(p, "several columns for standard input, whose width depends on where it comes from")
		}
		width = max(width, len(strconv.FormatInt(total, 10)))
	}
	if single {
		width = 1
	}
	w := newOut(p.Stdout)
	var totals [4]int64
	show := func(counts [4]int64, name string) error {
		first := true
		for i, o := range []string{"l", "w", "m", "c"} {
			if !opt.Has[o] {
				continue
			}
			text := strconv.FormatInt(counts[i], 10)
			if text = strings.Repeat(" ", max(0, width-len(text))) + text; !first {
				text = " " + text
			}
			first = false
			if err := w.text(text); err != nil {
				return err
			}
		}
		if name != "" {
			name = " " + name
		}
		return w.text(name, "\n")
	}
	exit, err := each(ctx, p, w, opt.Args, 1, func(name string, r *bufio.Reader) error {
		var counts [4]int64
		inWord, ascii := false, true
		for {
			b, err := r.ReadByte()
			if err == io.EOF { //nolint:errorlint // as above
				break
			}
			if err != nil {
				return err
			}
			counts[3]++
			switch b {
			case '\n':
				counts[0]++
				inWord = false
			case ' ', '\t', '\v', '\f', '\r':
				inWord = false
			default:
				if ascii = ascii && b < 128; !inWord && (b > ' ' && b < 127 || b >= 128) {
					inWord = true
					counts[1]++
				}
			}
		}
		if counts[2] = counts[3]; !ascii && opt.Has["m"] {
			return unsupported("wc", "-m of a text that isn't ASCII")
		}
		for i := range counts {
			totals[i] += counts[i]
		}
		if len(opt.Args) == 0 {
			name = ""
		}
		return show(counts, name)
	})
	if err == nil && len(opt.Args) > 1 {
		if show(totals, "total") != nil || w.Flush() != nil {
			return 1, nil
		}
	}
	return exit, err
}
