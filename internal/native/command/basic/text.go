package basic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/native/command"
)

func textCommands() []*command.Command {
	list := []*command.Command{
		tool("cat", command.Options{Short: "un", Long: []string{"number"}, Same: map[string]string{"number": "n"}}, cat),
		tool("tee", command.Options{Short: "ai", Long: []string{"append"}, Same: map[string]string{"append": "a"}}, tee),
		tool("tr", command.Options{Short: "dsc", StopAtArgument: true}, tr),
		tool("basename", command.Options{Short: "as:"}, basename),
		tool("dirname", command.Options{}, dirname),
		tool("env", command.Options{Short: "iu:", Long: []string{"ignore-environment", "unset="}, Same: map[string]string{"ignore-environment": "i", "unset": "u"}, StopAtArgument: true}, env),
		tool("printenv", command.Options{}, printenv),
		tool("xargs", command.Options{Short: "0rn:I:t", Long: []string{"null", "no-run-if-empty", "max-args="}, Same: map[string]string{"null": "0", "no-run-if-empty": "r", "max-args": "n"}, StopAtArgument: true}, xargs),
		tool("seq", command.Options{Short: "ws:", Long: []string{"equal-width", "separator="}, Same: map[string]string{"equal-width": "w", "separator": "s"},
			Plain: func(arg string) bool { return len(arg) > 1 && arg[1] >= '0' && arg[1] <= '9' }}, seq),
		tool("sleep", command.Options{}, sleep),
		tool("date", command.Options{Short: "uId:R", Long: []string{"utc", "iso-8601=?", "date=", "rfc-3339="}, Same: map[string]string{"utc": "u", "date": "d"}}, date),
		tool("true", command.Options{}, func(context.Context, *command.Proc, *command.Parsed) (int, error) { return 0, nil }),
		tool("false", command.Options{}, func(context.Context, *command.Proc, *command.Parsed) (int, error) { return 1, nil }),
	}
	return list
}

// files calls do with the lines of each file, or of standard input.
func files(p *command.Proc, names []string, do func(name string, r io.Reader) error) (int, error) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	exit := 0
	for _, name := range names {
		in, err := p.Input(name)
		if err != nil {
			if err := report(p, "can't open", name, err); err != nil {
				return 0, err
			}
			exit = 1
			continue
		}
		err = do(name, in)
		_ = in.Close()
		if err != nil {
			return 1, nil // nobody reads what is written
		}
	}
	return exit, nil
}

func cat(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if !opt.Has["n"] {
		return files(p, opt.Args, func(_ string, r io.Reader) error { _, err := io.Copy(p.Stdout, r); return err })
	}
	n, open := 0, false // open: the last line has no end yet
	return files(p, opt.Args, func(_ string, r io.Reader) error {
		b := bufio.NewReader(r)
		for {
			line, err := b.ReadString('\n')
			if line != "" {
				if !open {
					n++
					line = fmt.Sprintf("%6d\t", n) + line
				}
				open = !strings.HasSuffix(line, "\n")
				if _, err := io.WriteString(p.Stdout, line); err != nil {
					return err
				}
			}
			if err == io.EOF { //nolint:errorlint // a reader gives EOF as it is
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

func tee(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	outputs := []io.Writer{p.Stdout}
	var files []io.WriteCloser
	exit := 0
	for _, name := range opt.Args {
		w, err := p.Create(name, opt.Has["a"], "")
		if err != nil {
			if err := report(p, "can't open", name, err); err != nil {
				return 0, err
			}
			exit = 1
			continue
		}
		outputs, files = append(outputs, w), append(files, w)
	}
	if _, err := io.Copy(io.MultiWriter(outputs...), p.Stdin); err != nil {
		exit = 1
	}
	for _, f := range files {
		if err := f.Close(); err != nil {
			if command.Fatal(err) {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

// trSet expands a set of tr: ranges, classes and escapes.
func trSet(text string) ([]byte, bool) {
	classes := map[string]string{
		"[:upper:]": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "[:lower:]": "abcdefghijklmnopqrstuvwxyz", "[:digit:]": "0123456789",
		"[:alpha:]": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "[:alnum:]": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
		"[:space:]": "\t\n\v\f\r ", "[:blank:]": "\t ",
	}
	var out []byte
	for i := 0; i < len(text); {
		if text[i] == '[' && i+1 < len(text) && text[i+1] == ':' {
			end := strings.Index(text[i:], ":]")
			if end < 0 {
				return nil, false
			}
			class, ok := classes[text[i:i+end+2]]
			if !ok {
				return nil, false
			}
			out = append(out, class...)
			i += end + 2
			continue
		}
		c := text[i]
		i++
		if c == '\\' && i < len(text) {
			escapes := map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', '\\': '\\', 'v': '\v', 'f': '\f', '0': 0}
			e, ok := escapes[text[i]]
			if !ok {
				e = text[i]
			}
			c = e
			i++
		}
		if i+1 < len(text) && text[i] == '-' {
			to := text[i+1]
			if to < c {
				return nil, false
			}
			for b := int(c); b <= int(to); b++ {
				out = append(out, byte(b))
			}
			i += 2
			continue
		}
		out = append(out, c)
	}
	return out, true
}

func tr(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) == 0 {
		return p.Errorf("missing operand")
	}
	sets := make([][]byte, 2)
	for i, text := range opt.Args {
		if i > 1 {
			return p.Errorf("extra operand '%s'", text)
		}
		var ok bool
		if sets[i], ok = trSet(text); !ok {
			return 0, &command.Unsupported{Command: "tr", What: "the set " + text}
		}
	}
	var in [256]bool
	for _, b := range sets[0] {
		in[b] = true
	}
	if opt.Has["c"] {
		for i := range in {
			in[i] = !in[i]
		}
	}
	squeeze := sets[0]
	if len(opt.Args) > 1 {
		squeeze = sets[1]
	}
	data, err := io.ReadAll(p.Stdin)
	if err != nil {
		return 1, nil
	}
	out := make([]byte, 0, len(data))
	for _, b := range data {
		hit := in[b]
		switch {
		case hit && opt.Has["d"]:
			continue
		case hit && len(sets[1]) > 0:
			if opt.Has["c"] {
				b = sets[1][len(sets[1])-1]
			} else {
				at := slices.Index(sets[0], b)
				b = sets[1][min(at, len(sets[1])-1)]
			}
		}
		if opt.Has["s"] && len(out) > 0 && out[len(out)-1] == b && (slices.Contains(squeeze, b) || opt.Has["c"] && len(opt.Args) == 1 && hit) {
			continue
		}
		out = append(out, b)
	}
	_, _ = p.Stdout.Write(out)
	return 0, nil
}

func basename(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	args, suffix := opt.Args, opt.Values["s"]
	if !opt.Has["a"] && !opt.Has["s"] && len(args) == 2 {
		args, suffix = args[:1], args[1]
	}
	if len(args) == 0 {
		return p.Errorf("missing operand")
	}
	for _, a := range args {
		b := path.Base(a)
		if b != suffix {
			b = strings.TrimSuffix(b, suffix)
		}
		_, _ = fmt.Fprintln(p.Stdout, b)
	}
	return 0, nil
}

func dirname(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	for _, a := range opt.Args {
		_, _ = fmt.Fprintln(p.Stdout, path.Dir(strings.TrimRight(a, "/")+strings.Repeat("/", btoi(strings.Trim(a, "/") == ""))))
	}
	return 0, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func env(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	q := *p
	q.Env = map[string]string{}
	if !opt.Has["i"] {
		for k, v := range p.Env {
			q.Env[k] = v
		}
	}
	for _, name := range opt.All["u"] {
		delete(q.Env, name)
	}
	args := opt.Args
	for len(args) > 0 && strings.Contains(args[0], "=") {
		k, v, _ := strings.Cut(args[0], "=")
		q.Env[k] = v
		args = args[1:]
	}
	if len(args) == 0 {
		return printenv(ctx, &q, &command.Parsed{})
	}
	q.Args = args
	return p.Run(ctx, &q)
}

func printenv(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) > 0 {
		exit := 0
		for _, name := range opt.Args {
			if v, ok := p.Env[name]; ok {
				_, _ = fmt.Fprintln(p.Stdout, v)
			} else {
				exit = 1
			}
		}
		return exit, nil
	}
	var names []string
	for k := range p.Env {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		_, _ = fmt.Fprintf(p.Stdout, "%s=%s\n", k, p.Env[k])
	}
	return 0, nil
}

func xargs(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	data, err := io.ReadAll(p.Stdin)
	if err != nil {
		return 1, nil
	}
	var words []string
	switch {
	case opt.Has["0"]:
		words = strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if len(data) == 0 {
			words = nil
		}
	case opt.Has["I"]:
		for l := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
			if l = strings.TrimLeft(l, " \t"); l != "" {
				words = append(words, l)
			}
		}
	default:
		var ok bool
		if words, ok = quotedWords(string(data)); !ok {
			return 0, &command.Unsupported{Command: "xargs", What: "an open quote in its input", Fix: "xargs -0"}
		}
	}
	args := opt.Args
	if len(args) == 0 {
		args = []string{"echo"}
	}
	exit := 0
	run := func(words []string) error {
		q := *p
		q.Stdin = strings.NewReader("")
		q.Args = slices.Concat(args, words)
		if mark, ok := opt.Values["I"]; ok {
			q.Args = nil
			for _, a := range args {
				q.Args = append(q.Args, strings.ReplaceAll(a, mark, words[0]))
			}
		}
		code, err := p.Run(ctx, &q)
		if code != 0 {
			exit = 123
			if code == 126 || code == 127 {
				exit = code
			}
		}
		return err
	}
	if len(words) == 0 {
		if opt.Has["r"] || opt.Has["I"] || p.Dialect == command.Busybox && false {
			return 0, nil
		}
		return exit, run(nil)
	}
	per := len(words)
	if opt.Has["I"] {
		per = 1
	} else if n, err := strconv.Atoi(opt.Values["n"]); err == nil && n > 0 {
		per = n
	}
	for len(words) > 0 {
		n := min(per, len(words))
		if err := run(words[:n]); err != nil {
			return 0, err
		}
		words = words[n:]
	}
	return exit, nil
}

// quotedWords splits the input of xargs: blanks and newlines are between words, unless
// they are in quotes or after a backslash.
func quotedWords(text string) (words []string, ok bool) {
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\n':
			return nil, false
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			in, quote = true, c
		case c == '\\' && i+1 < len(text):
			i++
			in = true
			b.WriteByte(text[i])
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				words = append(words, b.String())
				b.Reset()
			}
			in = false
		default:
			in = true
			b.WriteByte(c)
		}
	}
	if in {
		words = append(words, b.String())
	}
	return words, quote == 0
}

func seq(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	n := []int{1, 1, 0}
	var err error
	var v []int
	separator := "\n"
	if s, ok := opt.Values["s"]; ok {
		separator = s
	}
	for _, a := range opt.Args {
		i, e := strconv.Atoi(a)
		err = errors.Join(err, e)
		v = append(v, i)
	}
	switch len(v) {
	case 1:
		n[2] = v[0]
	case 2:
		n[0], n[2] = v[0], v[1]
	case 3:
		n[0], n[1], n[2] = v[0], v[1], v[2]
	default:
		return p.Errorf("missing operand")
	}
	if err != nil || n[1] == 0 {
		return 0, &command.Unsupported{Command: "seq", What: "numbers that aren't whole"}
	}
	width := 0
	if opt.Has["w"] {
		for _, end := range []int{n[0], n[2]} {
			width = max(width, len(strconv.Itoa(end)))
		}
	}
	w := bufio.NewWriter(p.Stdout)
	first := true
	for i := n[0]; n[1] > 0 && i <= n[2] || n[1] < 0 && i >= n[2]; i += n[1] {
		if !first {
			_, _ = w.WriteString(separator)
		}
		first = false
		if _, err := fmt.Fprintf(w, "%0*d", width, i); err != nil {
			return 1, nil
		}
	}
	if !first {
		_ = w.WriteByte('\n')
	}
	if w.Flush() != nil {
		return 1, nil
	}
	return 0, nil
}

func sleep(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	for _, a := range opt.Args {
		if a[len(a)-1] >= '0' && a[len(a)-1] <= '9' {
			a += "s"
		}
		d, err := time.ParseDuration(a)
		if err != nil {
			return p.Errorf("invalid time interval '%s'", a)
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return 0, nil
}

// date answers with the clock of the build, in UTC.
func date(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	now := p.Now.UTC()
	if text, ok := opt.Values["d"]; ok {
		seconds, err := strconv.ParseInt(strings.TrimPrefix(text, "@"), 10, 64)
		switch {
		case err == nil && strings.HasPrefix(text, "@"):
			now = time.Unix(seconds, 0).UTC()
		case text == "now":
		default:
			return 0, &command.Unsupported{Command: "date", What: "-d " + text}
		}
	}
	format := "+%a %b %e %H:%M:%S UTC %Y"
	switch {
	case len(opt.Args) == 1 && strings.HasPrefix(opt.Args[0], "+"):
		format = opt.Args[0]
	case len(opt.Args) > 0:
		return 0, &command.Unsupported{Command: "date", What: "setting the clock"}
	case opt.Has["I"], opt.Has["iso-8601"]:
		format = "+%Y-%m-%d"
		if opt.Values["iso-8601"] == "seconds" {
			format = "+%Y-%m-%dT%H:%M:%S+00:00"
		}
	case opt.Has["R"]:
		format = "+%a, %d %b %Y %H:%M:%S +0000"
	case opt.Has["rfc-3339"]:
		format = "+%Y-%m-%d"
		if opt.Values["rfc-3339"] == "seconds" {
			format = "+%Y-%m-%d %H:%M:%S+00:00"
		}
	}
	layouts := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'b': "Jan", 'h': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday",
		'e': "_2", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'I': "03", 'p': "PM", 'Z': "MST", 'z': "-0700"}
	var out strings.Builder
	for i := 1; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		switch c := format[i]; c {
		case '%':
			out.WriteByte('%')
		case 'n':
			out.WriteByte('\n')
		case 't':
			out.WriteByte('\t')
		case 's':
			out.WriteString(strconv.FormatInt(now.Unix(), 10))
		case 'N':
			out.WriteString("000000000")
		default:
			layout, ok := layouts[c]
			if !ok {
				return 0, &command.Unsupported{Command: "date", What: "%" + string(c)}
			}
			out.WriteString(now.Format(layout))
		}
	}
	_, _ = fmt.Fprintln(p.Stdout, out.String())
	return 0, nil
}
