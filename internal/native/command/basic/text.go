package basic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

func textCommands() []*command.Command {
	grepOptions := command.Options{Short: "EFGivqocnlLrRwxse:hHm:", Long: []string{"quiet", "silent", "ignore-case", "invert-match", "extended-regexp", "fixed-strings", "only-matching", "count", "recursive"},
		Same: map[string]string{"quiet": "q", "silent": "q", "ignore-case": "i", "invert-match": "v", "extended-regexp": "E", "fixed-strings": "F", "only-matching": "o", "count": "c", "recursive": "r", "R": "r"}}
	sedOptions := command.Options{Short: "nEre:i", Long: []string{"quiet", "silent", "expression=", "regexp-extended", "in-place"}, Same: map[string]string{"quiet": "n", "silent": "n", "expression": "e", "regexp-extended": "E", "in-place": "i", "r": "E"}}
	list := []*command.Command{
		tool("cat", command.Options{Short: "u"}, cat),
		tool("tee", command.Options{Short: "ai", Long: []string{"append"}, Same: map[string]string{"append": "a"}}, tee),
		tool("head", command.Options{Short: "n:c:q", Long: []string{"lines=", "bytes="}, Same: map[string]string{"lines": "n", "bytes": "c"}}, head),
		tool("tail", command.Options{Short: "n:q", Long: []string{"lines="}, Same: map[string]string{"lines": "n"}}, tail),
		tool("wc", command.Options{Short: "lwc", Long: []string{"lines", "words", "bytes"}, Same: map[string]string{"lines": "l", "words": "w", "bytes": "c"}}, wc),
		tool("sort", command.Options{Short: "urnV", Long: []string{"unique", "reverse", "numeric-sort", "version-sort"}, Same: map[string]string{"unique": "u", "reverse": "r", "numeric-sort": "n", "version-sort": "V"}}, sortLines),
		tool("uniq", command.Options{Short: "cd"}, uniq),
		tool("cut", command.Options{Short: "d:f:c:s", Long: []string{"delimiter=", "fields=", "characters="}, Same: map[string]string{"delimiter": "d", "fields": "f", "characters": "c"}}, cut),
		tool("tr", command.Options{Short: "dsc", StopAtArgument: true}, tr),
		tool("basename", command.Options{Short: "as:"}, basename),
		tool("dirname", command.Options{}, dirname),
		tool("env", command.Options{Short: "iu:", Long: []string{"ignore-environment", "unset="}, Same: map[string]string{"ignore-environment": "i", "unset": "u"}, StopAtArgument: true}, env),
		tool("printenv", command.Options{}, printenv),
		tool("xargs", command.Options{Short: "0rn:I:t", Long: []string{"null", "no-run-if-empty", "max-args="}, Same: map[string]string{"null": "0", "no-run-if-empty": "r", "max-args": "n"}, StopAtArgument: true}, xargs),
		tool("seq", command.Options{}, seq),
		tool("sleep", command.Options{}, sleep),
		tool("date", command.Options{Short: "uId:R", Long: []string{"utc", "iso-8601=?", "date=", "rfc-3339="}, Same: map[string]string{"utc": "u", "date": "d"}}, date),
		tool("grep", grepOptions, grep(false, false)),
		tool("egrep", grepOptions, grep(true, false)),
		tool("fgrep", grepOptions, grep(false, true)),
		{Name: "sed", Run: func(ctx context.Context, p *command.Proc) (int, error) {
			opt, err := sedOptions.Parse("sed", p.Args[1:])
			if err != nil {
				return p.Failed(err)
			}
			return sed(ctx, p, opt)
		}, Check: checkSed(sedOptions)},
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
		in, err := input(p, name)
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
	return files(p, opt.Args, func(_ string, r io.Reader) error { _, err := io.Copy(p.Stdout, r); return err })
}

func tee(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	data, err := io.ReadAll(p.Stdin)
	if err != nil {
		return 1, nil
	}
	_, _ = p.Stdout.Write(data)
	for _, name := range opt.Args {
		out := data
		if opt.Has["a"] {
			if old, err := p.Tree.ReadFile(p.Path(name)); err == nil {
				out = append(slices.Clone(old), data...)
			}
		}
		if err := p.Tree.WriteFile(p.Path(name), filetree.Bytes(out).Content(), p.Attr(0o666)); err != nil {
			return 1, report(p, "can't open", name, err)
		}
	}
	return 0, nil
}

func count(p *command.Proc, opt *command.Parsed, name string) (int, bool) {
	text, ok := opt.Values[name]
	if !ok {
		return 10, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(text, "+"))
	return n, err == nil
}

func head(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if opt.Has["c"] {
		n, err := strconv.ParseInt(opt.Values["c"], 10, 64)
		if err != nil || n < 0 {
			return 0, &command.Unsupported{Command: "head", What: "-c " + opt.Values["c"]}
		}
		return files(p, opt.Args, func(_ string, r io.Reader) error { _, err := io.Copy(p.Stdout, io.LimitReader(r, n)); return err })
	}
	n, ok := count(p, opt, "n")
	if !ok || n < 0 {
		return 0, &command.Unsupported{Command: "head", What: "-n " + opt.Values["n"]}
	}
	return files(p, opt.Args, func(_ string, r io.Reader) error {
		b := bufio.NewReader(r)
		for i := 0; i < n; i++ {
			line, err := b.ReadString('\n')
			if _, werr := io.WriteString(p.Stdout, line); werr != nil {
				return werr
			}
			if err != nil {
				break
			}
		}
		return nil
	})
}

func tail(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	n, ok := count(p, opt, "n")
	if !ok {
		return 0, &command.Unsupported{Command: "tail", What: "-n " + opt.Values["n"]}
	}
	from := strings.HasPrefix(opt.Values["n"], "+")
	if n < 0 {
		n = -n
	}
	return files(p, opt.Args, func(_ string, r io.Reader) error {
		lines, err := allLines(r)
		if err != nil {
			return err
		}
		switch {
		case from:
			lines = lines[min(max(n-1, 0), len(lines)):]
		case len(lines) > n:
			lines = lines[len(lines)-n:]
		}
		for _, l := range lines {
			if _, err := io.WriteString(p.Stdout, l); err != nil {
				return err
			}
		}
		return nil
	})
}

// allLines reads lines with their ends.
func allLines(r io.Reader) ([]string, error) {
	data, err := io.ReadAll(io.LimitReader(r, 256<<20))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(s string) bool { return s == "" }), nil
}

func wc(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	all := !opt.Has["l"] && !opt.Has["w"] && !opt.Has["c"]
	return files(p, opt.Args, func(name string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var fields []string
		if all || opt.Has["l"] {
			fields = append(fields, strconv.Itoa(strings.Count(string(data), "\n")))
		}
		if all || opt.Has["w"] {
			fields = append(fields, strconv.Itoa(len(strings.Fields(string(data)))))
		}
		if all || opt.Has["c"] {
			fields = append(fields, strconv.Itoa(len(data)))
		}
		if name != "-" {
			fields = append(fields, name)
		}
		_, err = fmt.Fprintln(p.Stdout, strings.Join(fields, " "))
		return err
	})
}

func sortLines(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	var all []string
	exit, err := files(p, opt.Args, func(_ string, r io.Reader) error {
		lines, err := allLines(r)
		for _, l := range lines {
			all = append(all, strings.TrimSuffix(l, "\n"))
		}
		return err
	})
	if err != nil {
		return exit, err
	}
	less := func(a, b string) bool { return a < b }
	switch {
	case opt.Has["V"]:
		less = func(a, b string) bool { return versionLess(a, b) }
	case opt.Has["n"]:
		number := func(s string) float64 {
			s = strings.TrimSpace(s)
			end := 0
			for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || s[end] == '-' && end == 0) {
				end++
			}
			n, _ := strconv.ParseFloat(s[:end], 64)
			return n
		}
		less = func(a, b string) bool {
			if x, y := number(a), number(b); x != y {
				return x < y
			}
			return a < b
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return less(all[i], all[j]) })
	if opt.Has["r"] {
		slices.Reverse(all)
	}
	if opt.Has["u"] {
		all = slices.Compact(all)
	}
	for _, l := range all {
		if _, err := fmt.Fprintln(p.Stdout, l); err != nil {
			return 1, nil
		}
	}
	return exit, nil
}

// versionLess orders runs of digits by their value, as sort -V does.
func versionLess(a, b string) bool {
	for a != "" && b != "" {
		da, db := leading(a), leading(b)
		if da != "" && db != "" {
			x, y := strings.TrimLeft(da, "0"), strings.TrimLeft(db, "0")
			if len(x) != len(y) {
				return len(x) < len(y)
			}
			if x != y {
				return x < y
			}
			a, b = a[len(da):], b[len(db):]
			continue
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) < len(b)
}

func leading(s string) string {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	return s[:end]
}

func uniq(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	return files(p, opt.Args, func(_ string, r io.Reader) error {
		lines, err := allLines(r)
		if err != nil {
			return err
		}
		for i := 0; i < len(lines); {
			n := i
			for n < len(lines) && strings.TrimSuffix(lines[n], "\n") == strings.TrimSuffix(lines[i], "\n") {
				n++
			}
			line := strings.TrimSuffix(lines[i], "\n")
			if opt.Has["c"] {
				line = fmt.Sprintf("%7d %s", n-i, line)
			}
			if !opt.Has["d"] || n-i > 1 {
				if _, err := fmt.Fprintln(p.Stdout, line); err != nil {
					return err
				}
			}
			i = n
		}
		return nil
	})
}

func cut(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	delimiter, list := "\t", opt.Values["f"]
	if d, ok := opt.Values["d"]; ok {
		delimiter = d
	}
	if opt.Has["c"] {
		list = opt.Values["c"]
	}
	if list == "" {
		return p.Errorf("you must specify a list of bytes, characters, or fields")
	}
	type span struct{ from, to int }
	var spans []span
	for part := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(part, "-")
		s := span{1, 1 << 30}
		var err error
		if a != "" {
			s.from, err = strconv.Atoi(a)
		}
		if err == nil && !isRange {
			s.to = s.from
		} else if err == nil && b != "" {
			s.to, err = strconv.Atoi(b)
		}
		if err != nil || s.from < 1 {
			return p.Errorf("invalid list: '%s'", list)
		}
		spans = append(spans, s)
	}
	wanted := func(n int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return n >= s.from && n <= s.to })
	}
	return files(p, opt.Args, func(_ string, r io.Reader) error {
		lines, err := allLines(r)
		if err != nil {
			return err
		}
		for _, l := range lines {
			l = strings.TrimSuffix(l, "\n")
			var kept []string
			join := delimiter
			if opt.Has["c"] {
				join = ""
				for i := range len(l) {
					if wanted(i + 1) {
						kept = append(kept, l[i:i+1])
					}
				}
			} else {
				fields := strings.Split(l, delimiter)
				if len(fields) == 1 {
					if !opt.Has["s"] {
						_, _ = fmt.Fprintln(p.Stdout, l)
					}
					continue
				}
				for i, f := range fields {
					if wanted(i + 1) {
						kept = append(kept, f)
					}
				}
			}
			if _, err := fmt.Fprintln(p.Stdout, strings.Join(kept, join)); err != nil {
				return err
			}
		}
		return nil
	})
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
		if strings.ContainsAny(string(data), `'"\`) {
			return 0, &command.Unsupported{Command: "xargs", What: "quotes in its input", Fix: "xargs -0"}
		}
		words = strings.Fields(string(data))
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

func seq(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	n := []int{1, 1, 0}
	var err error
	var v []int
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
	for i := n[0]; n[1] > 0 && i <= n[2] || n[1] < 0 && i >= n[2]; i += n[1] {
		if _, err := fmt.Fprintln(p.Stdout, i); err != nil {
			return 1, nil
		}
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

// posix compiles a basic or extended regular expression (POSIX.1-2017, 9); what Go
// has no equivalent for is refused.
func posix(name, text string, extended, fold bool) (*regexp.Regexp, *command.Unsupported) {
	var out strings.Builder
	unsupported := func(what string) *command.Unsupported {
		return &command.Unsupported{Command: name, What: what + " in " + text}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '[':
			end := i + 1
			if end < len(text) && text[end] == '^' {
				end++
			}
			if end < len(text) && text[end] == ']' {
				end++
			}
			for end < len(text) && text[end] != ']' {
				if strings.HasPrefix(text[end:], "[:") {
					if n := strings.Index(text[end:], ":]"); n > 0 {
						end += n + 1
					}
				}
				end++
			}
			if end >= len(text) {
				return nil, unsupported("an open bracket")
			}
			class := text[i+1 : end]
			negated := ""
			if strings.HasPrefix(class, "^") {
				negated, class = "^", class[1:]
			}
			// In a bracket a backslash is an ordinary character (POSIX), "]" may come first.
			class = strings.ReplaceAll(class, `\`, `\\`)
			if strings.HasPrefix(class, "]") {
				class = `\]` + class[1:]
			}
			parts := strings.Split(class, "[")
			for k := 1; k < len(parts); k++ {
				if !strings.HasPrefix(parts[k], ":") {
					parts[k] = `\[` + parts[k]
				} else {
					parts[k] = "[" + parts[k]
				}
			}
			out.WriteString("[" + negated + strings.Join(parts, "") + "]")
			i = end
		case c == '\\' && i+1 < len(text):
			i++
			d := text[i]
			switch {
			case d >= '1' && d <= '9':
				return nil, unsupported("a back reference")
			case !extended && strings.IndexByte("(){}|+?", d) >= 0:
				out.WriteByte(d)
			case strings.IndexByte("wWsSbB", d) >= 0:
				out.WriteString(`\` + string(d))
			case d == '<', d == '>':
				out.WriteString(`\b`)
			case d == 'n':
				out.WriteByte('\n')
			case d == 't':
				out.WriteByte('\t')
			default:
				out.WriteString(regexp.QuoteMeta(string(d)))
			}
		case !extended && strings.IndexByte("(){}|+?", c) >= 0:
			out.WriteString(`\` + string(c))
		case !extended && c == '*' && (i == 0 || strings.HasSuffix(text[:i], `\(`) || text[:i] == "^"):
			out.WriteString(`\*`)
		case !extended && c == '^' && i > 0 && !strings.HasSuffix(text[:i], `\(`) && !strings.HasSuffix(text[:i], `\|`):
			out.WriteString(`\^`)
		case !extended && c == '$' && i+1 < len(text) && !strings.HasPrefix(text[i+1:], `\)`) && !strings.HasPrefix(text[i+1:], `\|`):
			out.WriteString(`\$`)
		default:
			out.WriteByte(c)
		}
	}
	expression := out.String()
	if fold {
		expression = "(?i)" + expression
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, unsupported("a regular expression")
	}
	re.Longest()
	return re, nil
}

func grep(extended, fixed bool) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		patterns, args := opt.All["e"], opt.Args
		if len(patterns) == 0 {
			if len(args) == 0 {
				return p.Errorf("no pattern")
			}
			patterns, args = args[:1], args[1:]
		}
		var list []*regexp.Regexp
		for _, text := range patterns {
			for line := range strings.SplitSeq(text, "\n") {
				ext := extended || opt.Has["E"]
				if fixed || opt.Has["F"] {
					line, ext = regexp.QuoteMeta(line), true
					re, err := regexp.Compile(map[bool]string{true: "(?i)", false: ""}[opt.Has["i"]] + wrap(line, opt))
					if err != nil {
						return p.Errorf("%v", err)
					}
					list = append(list, re)
					continue
				}
				re, u := posix("grep", line, ext, opt.Has["i"])
				if u != nil {
					return 0, u
				}
				if opt.Has["w"] || opt.Has["x"] {
					re = regexp.MustCompile(wrap(re.String(), opt))
					re.Longest()
				}
				list = append(list, re)
			}
		}
		if opt.Has["r"] {
			var found []string
			if len(args) == 0 {
				args = []string{"."}
			}
			for _, a := range args {
				err := p.Tree.Walk(p.Path(a), func(name string, attr filetree.Attr) error {
					if attr.IsRegular() {
						found = append(found, name)
					}
					return nil
				})
				if err != nil {
					return 2, report(p, "can't open", a, err)
				}
			}
			args = found
		}
		matched := false
		named := (len(args) > 1 || opt.Has["r"] || opt.Has["H"]) && !opt.Has["h"]
		most := -1
		if text, ok := opt.Values["m"]; ok {
			most, _ = strconv.Atoi(text)
		}
		exit, err := files(p, args, func(name string, r io.Reader) error {
			n, line := 0, 0
			scan := bufio.NewScanner(r)
			scan.Buffer(nil, 64<<20)
			for scan.Scan() && (most < 0 || n < most) {
				line++
				text := scan.Text()
				hit := slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(text) })
				if hit == opt.Has["v"] {
					continue
				}
				n++
				if opt.Has["q"] || opt.Has["c"] || opt.Has["l"] || opt.Has["L"] {
					continue
				}
				prefix := ""
				if named {
					prefix = name + ":"
				}
				if opt.Has["n"] {
					prefix += strconv.Itoa(line) + ":"
				}
				lines := []string{text}
				if opt.Has["o"] {
					lines = nil
					for _, re := range list {
						for _, m := range re.FindAllString(text, -1) {
							if m != "" {
								lines = append(lines, m)
							}
						}
					}
				}
				for _, l := range lines {
					if _, err := fmt.Fprintln(p.Stdout, prefix+l); err != nil {
						return err
					}
				}
			}
			matched = matched || n > 0
			switch {
			case opt.Has["c"] && named:
				_, _ = fmt.Fprintf(p.Stdout, "%s:%d\n", name, n)
			case opt.Has["c"]:
				_, _ = fmt.Fprintln(p.Stdout, n)
			case opt.Has["l"] && n > 0, opt.Has["L"] && n == 0:
				_, _ = fmt.Fprintln(p.Stdout, name)
			}
			return scan.Err()
		})
		switch {
		case err != nil:
			return 0, err
		case matched && (exit == 0 || opt.Has["q"]):
			return 0, nil
		case exit != 0:
			return 2, nil
		}
		return 1, nil
	}
}

func wrap(expression string, opt *command.Parsed) string {
	switch {
	case opt.Has["x"]:
		return "^(?:" + expression + ")$"
	case opt.Has["w"]:
		return `\b(?:` + expression + `)\b`
	}
	return expression
}
