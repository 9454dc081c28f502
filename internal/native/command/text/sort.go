package text

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// key is a part of lines that they are sorted by (sort(1), -k).
type key struct {
	from, fromChar int // counted from 1; 0 characters for the beginning
	to, toChar     int // 0 for the end of the line; 0 characters for the end of the field
	fromBlanks     bool
	toBlanks       bool
	order          order
}

// order is how two keys are compared.
type order struct{ numeric, reverse, fold, version bool }

func (o order) set(letters string) (order, bool, error) {
	blanks := false
	for _, c := range letters {
		switch c {
		case 'n':
			o.numeric = true
		case 'r':
			o.reverse = true
		case 'f':
			o.fold = true
		case 'V':
			o.version = true
		case 'b':
			blanks = true
		default:
			return o, false, unsupported("sort", "the order %c of a key", c)
		}
	}
	return o, blanks, nil
}

// sorter is one call of sort.
type sorter struct {
	p                       *command.Proc
	keys                    []key
	whole                   order
	separator               string
	unique, stable, busybox bool
}

func sorting(scratch string) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		s := &sorter{p: p, unique: opt.Has["u"], stable: opt.Has["s"], busybox: p.Dialect == command.Busybox,
			whole: order{opt.Has["n"], opt.Has["r"], opt.Has["f"], opt.Has["V"]}}
		if t, ok := opt.Values["t"]; ok {
			if len(t) != 1 {
				return refuse(p, "the separator %q", t)
			}
			s.separator = t
		}
		for _, text := range opt.All["k"] {
			k, err := s.key(text, opt.Has["b"])
			if err != nil {
				return 0, err
			}
			s.keys = append(s.keys, k)
		}
		if opt.Has["b"] && len(s.keys) == 0 {
			s.keys = []key{{from: 1, fromBlanks: true, order: s.whole}}
		}
		end := byte('\n')
		if opt.Has["z"] {
			end = 0
		}
		var all []string
		w := newOut(p.Stdout)
		exit, err := each(ctx, p, w, opt.Args, 2, func(_ string, r *bufio.Reader) error {
			return forLines(r, end, func(text string) error { all = append(all, text); return nil })
		})
		if err != nil || exit != 0 {
			return exit, err
		}
		if s.busybox {
			if err := s.odd(all); err != nil {
				return 0, err
			}
		}
		if opt.Has["c"] || opt.Has["C"] {
			for i := 1; i < len(all); i++ {
				if n := s.compare(all[i-1], all[i]); n > 0 || n == 0 && s.unique {
					if opt.Has["c"] {
						_, _ = p.Errorf("-:%d: disorder: %s", i+1, all[i])
					}
					return 1, nil
				}
			}
			return 0, nil
		}
		slices.SortStableFunc(all, s.compare)
		if s.unique {
			kept := all[:0]
			for i, l := range all {
				if i > 0 && s.compare(kept[len(kept)-1], l) == 0 {
					if s.busybox && l != kept[len(kept)-1] {
						return refuse(p, "-u of lines that differ and have the same key (which of them stays depends on the version)")
					}
					continue
				}
				kept = append(kept, l)
			}
			all = kept
		}
		var target io.WriteCloser
		if name, ok := opt.Values["o"]; ok {
			if target, err = p.Create(name, false, scratch); err != nil {
				if command.Fatal(err) {
					return 0, err
				}
				_, _ = p.Errorf("open failed: %s: %s", name, command.Reason(err))
				return 2, nil
			}
			w = newOut(target)
		}
		for _, l := range all {
			if w.text(l, string(rune(end))) != nil {
				return 1, nil
			}
		}
		if w.Flush() != nil {
			return 1, nil
		}
		if target != nil {
			return 0, target.Close()
		}
		return 0, nil
	}
}

// odd refuses what busybox compares in its own way.
func (s *sorter) odd(lines []string) error {
	numeric := s.whole.numeric
	for _, k := range s.keys {
		numeric = numeric || k.order.numeric
		if k.fromChar > 1 || k.toChar > 0 {
			return unsupported("sort", "places of characters in keys")
		}
	}
	if !numeric {
		return nil
	}
	for _, l := range lines {
		for _, k := range append(s.keys, key{from: 1, order: s.whole}) {
			text := strings.TrimLeft(s.part(l, k), " \t")
			digits := strings.TrimLeft(strings.TrimLeft(text, "-"), "0123456789.")
			if strings.HasPrefix(text, "+") || digits != "" && len(digits) < len(text) && strings.ContainsRune("eExX", rune(digits[0])) || strings.HasPrefix(strings.ToLower(text), "nan") || strings.HasPrefix(strings.ToLower(text), "inf") {
				return unsupported("sort", "-n of %q", text)
			}
		}
	}
	return nil
}

// key reads FIELD[.CHARACTER][OPTIONS][,FIELD[.CHARACTER][OPTIONS]].
func (s *sorter) key(text string, blanks bool) (key, error) {
	bad := unsupported("sort", "the key %s", text)
	number := func(t string) (int, string, bool) {
		digits := t[:len(t)-len(strings.TrimLeft(t, "0123456789"))]
		n, err := strconv.Atoi(digits)
		return n, t[len(digits):], err == nil
	}
	var k key
	from, to, hasTo := strings.Cut(text, ",")
	var ok bool
	var letters string
	if k.from, letters, ok = number(from); !ok || k.from < 1 {
		return k, bad
	}
	if strings.HasPrefix(letters, ".") {
		if k.fromChar, letters, ok = number(letters[1:]); !ok || k.fromChar < 1 {
			return k, bad
		}
	}
	own := order{}
	var err error
	if own, k.fromBlanks, err = own.set(letters); err != nil {
		return k, err
	}
	if hasTo {
		if k.to, letters, ok = number(to); !ok || k.to < 1 {
			return k, bad
		}
		if strings.HasPrefix(letters, ".") {
			if k.toChar, letters, ok = number(letters[1:]); !ok {
				return k, bad
			}
		}
		if own, k.toBlanks, err = own.set(letters); err != nil {
			return k, err
		}
	}
	if own == (order{}) && !k.fromBlanks && !k.toBlanks {
		own, k.fromBlanks, k.toBlanks = s.whole, blanks, blanks
	}
	k.order = own
	return k, nil
}

// field gives where field n of a line begins and ends; without a separator a field
// begins with the blanks before it.
func (s *sorter) field(l string, n int) (start, end int) {
	at := 0
	for i := 1; ; i++ {
		start = at
		if s.separator != "" {
			if j := strings.Index(l[at:], s.separator); j >= 0 {
				end = at + j
			} else {
				end = len(l)
			}
		} else {
			end = at
			for end < len(l) && isBlank(l[end]) {
				end++
			}
			for end < len(l) && !isBlank(l[end]) {
				end++
			}
		}
		if i == n {
			return start, end
		}
		if end >= len(l) {
			return len(l), len(l)
		}
		at = end + len(s.separator)
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func (s *sorter) part(l string, k key) string {
	start, _ := s.field(l, k.from)
	if k.fromBlanks {
		for start < len(l) && isBlank(l[start]) {
			start++
		}
	}
	start = min(len(l), start+max(0, k.fromChar-1))
	end := len(l)
	if k.to > 0 {
		var from int
		if from, end = s.field(l, k.to); k.toChar > 0 {
			if k.toBlanks {
				for from < len(l) && isBlank(l[from]) {
					from++
				}
			}
			end = min(len(l), from+k.toChar)
		}
	}
	return l[start:max(start, end)]
}

// compare orders two lines; those with the same keys by all of their bytes, unless
// they are to stay as they came.
func (s *sorter) compare(a, b string) int {
	for _, k := range s.keys {
		if n := k.order.compare(s.part(a, k), s.part(b, k)); n != 0 {
			return n
		}
	}
	if len(s.keys) == 0 {
		if n := s.whole.compare(a, b); n != 0 {
			return n
		}
	}
	if s.unique || s.stable {
		return 0
	}
	n := strings.Compare(a, b)
	if s.whole.reverse {
		return -n
	}
	return n
}

func (o order) compare(a, b string) int {
	n := 0
	switch {
	case o.numeric:
		n = compareNumbers(a, b)
	case o.version:
		n = compareVersions(a, b)
	case o.fold:
		n = strings.Compare(upper(a), upper(b))
	default:
		n = strings.Compare(a, b)
	}
	if o.reverse {
		return -n
	}
	return n
}

func upper(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 32
		}
		return r
	}, s)
}

// compareNumbers compares the decimal numbers that two texts begin with, however
// long they are.
func compareNumbers(a, b string) int {
	an, ai, af := decimal(a)
	bn, bi, bf := decimal(b)
	if an != bn {
		if an {
			return -1
		}
		return 1
	}
	n := len(ai) - len(bi)
	if n == 0 {
		n = strings.Compare(ai, bi)
	}
	if n == 0 {
		n = strings.Compare(af, bf)
	}
	if an {
		return -n
	}
	return n
}

// decimal splits a number into its sign, digits before the point without leading and
// digits after it without trailing zeros. Minus zero has no sign.
func decimal(s string) (negative bool, whole, fraction string) {
	s = strings.TrimLeft(s, " \t")
	if strings.HasPrefix(s, "-") {
		negative, s = true, s[1:]
	}
	rest := strings.TrimLeft(s, "0123456789")
	whole = strings.TrimLeft(s[:len(s)-len(rest)], "0")
	if strings.HasPrefix(rest, ".") {
		after := strings.TrimLeft(rest[1:], "0123456789")
		fraction = strings.TrimRight(rest[1:len(rest)-len(after)], "0")
	}
	if whole == "" && fraction == "" {
		negative = false
	}
	return negative, whole, fraction
}

// compareVersions orders runs of digits by their value.
func compareVersions(a, b string) int {
	run := func(s string) string { return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))] }
	for a != "" && b != "" {
		da, db := run(a), run(b)
		if da != "" && db != "" {
			x, y := strings.TrimLeft(da, "0"), strings.TrimLeft(db, "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if n := strings.Compare(x, y); n != 0 {
				return n
			}
			a, b = a[len(da):], b[len(db):]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func uniq(scratch string) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		if len(opt.Args) > 2 {
			return p.Errorf("extra operand '%s'", opt.Args[2])
		}
		var numbers [3]int
		for i, o := range []string{"f", "s", "w"} {
			text, ok := opt.Values[o]
			if numbers[i] = -1; !ok {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return p.Errorf("%s: invalid number", text)
			}
			numbers[i] = n
		}
		same := func(a, b string) bool {
			cutout := func(s string) string {
				for range max(0, numbers[0]) {
					s = strings.TrimLeft(s, " \t")
					if i := strings.IndexAny(s, " \t"); i >= 0 {
						s = s[i:]
					} else {
						s = ""
					}
				}
				s = s[min(len(s), max(0, numbers[1])):]
				if numbers[2] >= 0 {
					s = s[:min(len(s), numbers[2])]
				}
				return s
			}
			if a, b = cutout(a), cutout(b); opt.Has["i"] {
				a, b = upper(a), upper(b)
			}
			return a == b
		}
		w := newOut(p.Stdout)
		var target io.WriteCloser
		names := opt.Args
		if len(names) == 2 && names[1] != "-" {
			var err error
			if target, err = p.Create(names[1], false, scratch); err != nil {
				if command.Fatal(err) {
					return 0, err
				}
				return p.Errorf("%s: %s", names[1], command.Reason(err))
			}
			w = newOut(target)
		}
		first, count := "", 0
		flush := func() error {
			if count == 0 || opt.Has["d"] && count == 1 || opt.Has["u"] && count > 1 {
				return nil
			}
			if opt.Has["c"] {
				if err := w.text(fmt.Sprintf("%7d ", count)); err != nil {
					return err
				}
			}
			return w.text(first, "\n")
		}
		exit, err := each(ctx, p, w, names[:min(1, len(names))], 1, func(_ string, r *bufio.Reader) error {
			if err := forLines(r, '\n', func(text string) error {
				if count > 0 && same(first, text) {
					count++
					return nil
				}
				err := flush()
				first, count = text, 1
				return err
			}); err != nil {
				return err
			}
			return flush()
		})
		if target != nil && err == nil {
			err = target.Close()
		}
		return exit, err
	}
}

// cut picks fields or bytes.
func cut(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	list, kind := "", ""
	for _, o := range []string{"f", "c", "b"} {
		if v, ok := opt.Values[o]; ok {
			if kind != "" {
				return p.Errorf("only one type of list may be specified")
			}
			list, kind = v, o
		}
	}
	if kind == "" {
		return p.Errorf("you must specify a list of bytes, characters, or fields")
	}
	delimiter := "\t"
	if d, ok := opt.Values["d"]; ok {
		if len(d) != 1 {
			return refuse(p, "the delimiter %q", d)
		}
		delimiter = d
	}
	joiner := delimiter
	if kind != "f" {
		joiner = ""
	}
	if d, ok := opt.Values["output-delimiter"]; ok {
		joiner = d
	}
	type span struct{ from, to int }
	var spans []span
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		s := span{1, 1 << 62}
		var err error
		if from != "" {
			if s.from, err = strconv.Atoi(from); err != nil || s.from < 1 {
				return p.Errorf("invalid field value '%s'", part)
			}
		}
		switch {
		case !isRange:
			s.to = s.from
		case to != "":
			if s.to, err = strconv.Atoi(to); err != nil || s.to < s.from {
				return p.Errorf("invalid decreasing range")
			}
		case from == "":
			return p.Errorf("invalid range with no endpoint: -")
		}
		if part == "" {
			return p.Errorf("fields are numbered from 1")
		}
		spans = append(spans, s)
	}
	chosen := func(n int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return n >= s.from && n <= s.to }) != opt.Has["complement"]
	}
	w := newOut(p.Stdout)
	return each(ctx, p, w, opt.Args, 1, func(_ string, r *bufio.Reader) error {
		return forLines(r, '\n', func(text string) error {
			if kind != "f" {
				if joiner != "" {
					return unsupported("cut", "--output-delimiter of bytes")
				}
				var b strings.Builder
				for i := range len(text) {
					if chosen(i + 1) {
						b.WriteByte(text[i])
					}
				}
				return w.text(b.String(), "\n")
			}
			if !strings.Contains(text, delimiter) {
				if opt.Has["s"] {
					return nil
				}
				return w.text(text, "\n")
			}
			fields := strings.Split(text, delimiter)
			if p.Dialect == command.Busybox && len(spans) > 1 && slices.ContainsFunc(spans, func(s span) bool { return s.from > len(fields) }) {
				return unsupported("cut", "several fields of a line that hasn't all of them (versions of busybox differ)")
			}
			var picked []string
			for i, f := range fields {
				if chosen(i + 1) {
					picked = append(picked, f)
				}
			}
			return w.text(strings.Join(picked, joiner), "\n")
		})
	})
}
