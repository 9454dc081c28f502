package awk

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// builtin calls a function that awk has.
func (in *interpreter) builtin(e *callBuiltin) value {
	text := func(i int) string { return in.text(in.eval(e.args[i])) }
	num := func(i int) float64 { return in.number(in.eval(e.args[i])) }
	switch e.name {
	case "length":
		if len(e.args) == 0 {
			return numeric(float64(len(in.text(in.field(0)))))
		}
		if v, ok := e.args[0].(*variable); ok && (v.local || v.index >= varUser || in.globals[v.index].arr != nil) {
			c := in.cell(v)
			if c.arr == nil && c.v.class == unset && c.from != nil && c.from.arr != nil {
				c.arr = c.from.arr
			}
			if c.arr != nil && v.local && in.prog.busybox {
				panic(failure{refuse("the length of an array that is a parameter")})
			}
			if c.arr != nil {
				return numeric(float64(len(c.arr.values)))
			}
		}
		return numeric(float64(len(text(0))))
	case "substr":
		return literal(in.substr(e))
	case "index":
		s, what := text(0), text(1)
		if what == "" {
			panic(failure{refuse("looking for an empty string with index (which not every awk finds alike)")})
		}
		return numeric(float64(strings.Index(s, what) + 1))
	case "split":
		return in.splitInto(e)
	case "sub", "gsub":
		return in.substitute(e)
	case "match":
		s := text(0)
		from, to := in.pattern(e.args[1]).Find(s)
		length := to - from
		if from < 0 {
			length = -1
		}
		in.globals[varRSTART].v, in.globals[varRLENGTH].v = numeric(float64(from+1)), numeric(float64(length))
		return numeric(float64(from + 1))
	case "sprintf":
		args := make([]value, len(e.args)-1)
		format := text(0)
		for i := range args {
			args[i] = in.eval(e.args[i+1])
		}
		return literal(in.sprintf(format, args))
	case "tolower", "toupper":
		return literal(changeCase(text(0), e.name == "toupper"))
	case "int":
		n := math.Trunc(num(0))
		if math.Abs(n) >= 1<<63 && in.prog.busybox {
			panic(failure{refuse("int of a number of more than 63 bits (which every machine has another one of)")})
		}
		return numeric(n)
	case "sqrt":
		return numeric(math.Sqrt(num(0)))
	case "exp":
		return numeric(math.Exp(num(0)))
	case "log":
		return numeric(math.Log(num(0)))
	case "sin":
		return numeric(math.Sin(num(0)))
	case "cos":
		return numeric(math.Cos(num(0)))
	case "atan2":
		y := num(0)
		return numeric(math.Atan2(y, num(1)))
	case "close":
		return numeric(float64(in.close(text(0))))
	}
	// fflush: what is written can be read when it is closed.
	if len(e.args) > 0 {
		text(0)
	}
	return numeric(0)
}

// changeCase changes the letters of ASCII.
func changeCase(s string, up bool) string {
	b := []byte(s)
	for i, c := range b {
		if up && c >= 'a' && c <= 'z' || !up && c >= 'A' && c <= 'Z' {
			b[i] = c ^ 0x20
		}
	}
	return string(b)
}

func (in *interpreter) substr(e *callBuiltin) string {
	s := in.text(in.eval(e.args[0]))
	from := in.number(in.eval(e.args[1]))
	length, limited := 0.0, len(e.args) > 2
	if limited {
		length = in.number(in.eval(e.args[2]))
	}
	if !in.prog.busybox && (from != math.Trunc(from) || length != math.Trunc(length) || limited && from < 1) {
		panic(failure{refuse("substr with %v, %v (which not every awk takes alike)", from, length)})
	}
	at := math.Max(math.Trunc(from)-1, 0)
	if math.IsNaN(at) || at >= float64(len(s)) {
		return ""
	}
	s = s[int(at):]
	if limited {
		length = math.Max(math.Trunc(length), 0)
		if length < float64(len(s)) {
			s = s[:int(length)]
		}
	}
	return s
}

func (in *interpreter) splitInto(e *callBuiltin) value {
	s := in.text(in.eval(e.args[0]))
	by := in.splitFS
	if len(e.args) > 2 {
		if r, ok := e.args[2].(*regex); ok {
			by = splitter{re: r.re, source: r.source}
			if in.prog.busybox && strings.Contains(strings.ReplaceAll(r.source, "[^", ""), "^") {
				panic(failure{refuse("splitting at /%s/, with an anchor", r.source)})
			}
		} else {
			by = in.splitterFor(in.text(in.eval(e.args[2])))
		}
	}
	list := in.splitText(s, by, false)
	a := in.array(e.args[1].(*variable))
	a.clear()
	for i, part := range list {
		*a.at(strconv.Itoa(i + 1)) = fromInput(part)
	}
	return numeric(float64(len(list)))
}

// substitute does sub and gsub.
func (in *interpreter) substitute(e *callBuiltin) value {
	re := in.pattern(e.args[0])
	with := in.replacement(in.text(in.eval(e.args[1])))
	var target expr = &field{&constant{numeric(0)}}
	if len(e.args) > 2 {
		target = e.args[2]
	}
	s := in.text(in.eval(target))
	var matches [][]int
	if e.name == "sub" {
		if from, to := re.Find(s); from >= 0 {
			matches = [][]int{{from, to}}
		}
	} else {
		matches = re.All(s)
		if in.prog.busybox && re.Match("") && slices.ContainsFunc(matches, func(m []int) bool { return m[0] < m[1] }) {
			panic(failure{refuse("gsub with a regular expression that matches nothing, too")})
		}
	}
	if len(matches) == 0 && !in.prog.busybox { // which sets what it changed nothing in, too
		return numeric(0)
	}
	var out strings.Builder
	at := 0
	for _, m := range matches {
		out.WriteString(s[at:m[0]])
		for _, part := range with {
			if part.matched {
				out.WriteString(s[m[0]:m[1]])
			} else {
				out.WriteString(part.text)
			}
		}
		at = m[1]
		in.bound(out.Len())
	}
	out.WriteString(s[at:])
	in.assign(target, literal(out.String()))
	return numeric(float64(len(matches)))
}

// replaced is a part of what sub puts in: a text, or what matched.
type replaced struct {
	matched bool
	text    string
}

// replacement reads what sub puts in. Backslashes in other places than before & are
// not taken alike.
func (in *interpreter) replacement(s string) []replaced {
	var list []replaced
	for s != "" {
		i := strings.IndexAny(s, `\&`)
		if i < 0 {
			return append(list, replaced{text: s})
		}
		if i > 0 {
			list = append(list, replaced{text: s[:i]})
			s = s[i:]
		}
		slashes := len(s) - len(strings.TrimLeft(s, `\`))
		s = s[slashes:]
		and := strings.HasPrefix(s, "&")
		if slashes > 3 || !and && (slashes != 1 || in.prog.busybox || s == "") {
			panic(failure{refuse("backslashes in the replacement of sub (which not every awk takes alike)")})
		}
		if !and {
			list = append(list, replaced{text: `\`})
			continue
		}
		s = s[1:]
		switch slashes {
		case 0:
			list = append(list, replaced{matched: true})
		case 1:
			list = append(list, replaced{text: "&"})
		case 2:
			list = append(list, replaced{text: `\`}, replaced{matched: true})
		case 3:
			list = append(list, replaced{text: `\&`})
		}
	}
	return list
}
