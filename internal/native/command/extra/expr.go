package extra

import (
	"context"
	"fmt"
	"math/big"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// expr evaluates an expression of its arguments (POSIX.1-2017, expr), with match,
// substr, index and length, which both tools have.
func expr(_ context.Context, p *command.Proc) (int, error) {
	e := &expression{p: p, args: p.Args[1:], busybox: p.Dialect == command.Busybox}
	if len(e.args) > 0 && !e.busybox {
		switch {
		case e.args[0] == "--":
			e.args = e.args[1:]
		case len(e.args) == 1 && strings.HasPrefix(e.args[0], "--"):
			return refuse(p, "option %s", e.args[0])
		}
	}
	if len(e.args) == 0 {
		_, _ = fmt.Fprintln(p.Stderr, "expr: "+map[bool]string{true: "too few arguments", false: "missing operand"}[e.busybox])
		return 2, nil
	}
	v := e.or(true)
	if e.mistake == "" && e.refused == nil && e.at < len(e.args) {
		e.fail("syntax error", "syntax error: unexpected argument '"+e.args[e.at]+"'")
	}
	if e.refused != nil {
		return 0, e.refused
	}
	if e.mistake != "" {
		_, _ = fmt.Fprintln(p.Stderr, "expr: "+e.mistake)
		return 2, nil
	}
	_, _ = fmt.Fprintln(p.Stdout, v.String())
	if e.null(v) {
		return 1, nil
	}
	return 0, nil
}

// operand is a value: a number, or a text that may be one.
type operand struct {
	number *big.Int
	text   string
}

func (o operand) String() string {
	if o.number != nil {
		return o.number.String()
	}
	return o.text
}

func number(n int) operand { return operand{number: big.NewInt(int64(n))} }

type expression struct {
	p       *command.Proc
	args    []string
	at      int
	busybox bool
	mistake string
	refused *command.Unsupported
}

func (e *expression) fail(busybox, gnu string) operand {
	if e.mistake == "" {
		if e.mistake = gnu; e.busybox {
			e.mistake = busybox
		}
	}
	return operand{}
}

func (e *expression) failed() bool { return e.mistake != "" || e.refused != nil }

// next takes one of these operators; empty if there is none.
func (e *expression) next(operators ...string) string {
	if e.at < len(e.args) && !e.failed() {
		for _, op := range operators {
			if e.args[e.at] == op {
				e.at++
				return op
			}
		}
	}
	return ""
}

// null reports whether a value is what | and & take for false.
func (e *expression) null(o operand) bool {
	switch {
	case o.number != nil:
		return o.number.Sign() == 0
	case e.busybox || o.text == "":
		return o.text == "" || o.text == "0"
	}
	digits := strings.TrimPrefix(o.text, "-")
	return digits != "" && strings.Trim(digits, "0") == ""
}

var (
	minInt64 = new(big.Int).Lsh(big.NewInt(-1), 63)
	maxInt64 = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 63), big.NewInt(1))
)

// integer gives a value as a number; nil if it is none.
func (e *expression) integer(o operand) *big.Int {
	if o.number != nil {
		return o.number
	}
	text := o.text
	if e.busybox {
		if text = strings.TrimLeft(text, " \t\n\v\f\r"); strings.HasPrefix(text, "+") {
			if text = text[1:]; strings.HasPrefix(text, "-") {
				return nil
			}
		}
	}
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return nil
	}
	n, ok := new(big.Int).SetString(text, 10)
	switch {
	case !ok:
		return nil
	case e.busybox && n.Cmp(minInt64) < 0:
		return minInt64
	case e.busybox && n.Cmp(maxInt64) > 0:
		return maxInt64
	}
	return n
}

// or, and, comparison, sum, product, matching and primary read the levels of
// operators. GNU's evaluates what | and & need alone; evaluate says whether the value
// counts.
func (e *expression) or(evaluate bool) operand {
	left := e.and(evaluate)
	for e.next("|") != "" {
		right := e.and(evaluate && (e.busybox || e.null(left)))
		if e.null(left) {
			if left = right; !e.busybox && e.null(left) {
				left = number(0)
			}
		}
	}
	return left
}

func (e *expression) and(evaluate bool) operand {
	left := e.comparison(evaluate)
	for e.next("&") != "" {
		right := e.comparison(evaluate && (e.busybox || !e.null(left)))
		if e.null(left) || e.null(right) {
			left = number(0)
		}
	}
	return left
}

func (e *expression) comparison(evaluate bool) operand {
	left := e.sum(evaluate)
	for {
		op := e.next("<", "<=", "=", "==", "!=", ">=", ">")
		if op == "" {
			return left
		}
		right := e.sum(evaluate)
		var order int
		if a, b := e.integer(left), e.integer(right); a != nil && b != nil {
			order = a.Cmp(b)
		} else {
			// busybox has made numbers of both by now, so that +1 is 1.
			x, y := left.String(), right.String()
			if e.busybox && a != nil {
				x = a.String()
			}
			if e.busybox && b != nil {
				y = b.String()
			}
			if hasUTF8(e.p) && (!isASCII(x) || !isASCII(y)) && op != "=" && op != "==" && op != "!=" {
				e.refuse("comparing what isn't ASCII in the order of a language")
			}
			order = strings.Compare(x, y)
		}
		result := map[string]bool{"<": order < 0, "<=": order <= 0, "=": order == 0, "==": order == 0, "!=": order != 0, ">=": order >= 0, ">": order > 0}[op]
		left = number(map[bool]int{true: 1}[result])
	}
}

func (e *expression) refuse(what string) {
	if e.refused == nil {
		e.refused = &command.Unsupported{Command: "expr", What: what}
	}
}

func (e *expression) sum(evaluate bool) operand {
	left := e.product(evaluate)
	for {
		op := e.next("+", "-")
		if op == "" {
			return left
		}
		left = e.calculate(left, op, e.product(evaluate), evaluate)
	}
}

func (e *expression) product(evaluate bool) operand {
	left := e.matching(evaluate)
	for {
		op := e.next("*", "/", "%")
		if op == "" {
			return left
		}
		left = e.calculate(left, op, e.matching(evaluate), evaluate)
	}
}

func (e *expression) calculate(left operand, op string, right operand, evaluate bool) operand {
	if !evaluate || e.failed() {
		return left
	}
	a, b := e.integer(left), e.integer(right)
	if a == nil || b == nil {
		return e.fail("non-numeric argument", "non-integer argument")
	}
	result := new(big.Int)
	switch op {
	case "+":
		result.Add(a, b)
	case "-":
		result.Sub(a, b)
	case "*":
		result.Mul(a, b)
	default:
		if b.Sign() == 0 {
			return e.fail("division by zero", "division by zero")
		}
		if op == "/" {
			result.Quo(a, b)
		} else {
			result.Rem(a, b)
		}
	}
	if e.busybox && !result.IsInt64() {
		e.refuse("a number of more than 64 bits")
	}
	return operand{number: result}
}

func (e *expression) matching(evaluate bool) operand {
	left := e.word(evaluate)
	for e.next(":") != "" {
		left = e.match(left, e.word(evaluate), evaluate)
	}
	return left
}

// match does TEXT : EXPRESSION, which has to match from the beginning.
func (e *expression) match(text, expression operand, evaluate bool) operand {
	if !evaluate || e.failed() {
		return text
	}
	s := text.String()
	re, err := pattern.Compile(expression.String(), pattern.Options{StrictBraces: e.busybox})
	if err != nil {
		e.refuse(err.Error())
		return operand{}
	}
	if !isASCII(s) && hasUTF8(e.p) {
		e.refuse("matching what isn't ASCII")
	}
	if strings.HasPrefix(expression.String(), "^") && e.busybox {
		e.refuse("a regular expression that begins with ^ (it is ignored)")
	}
	m := re.Groups(s)
	hit := m != nil && m[0] == 0
	switch {
	case re.NumGroups() > 0 && hit && m[2] >= 0:
		return operand{text: s[m[2]:m[3]]}
	case re.NumGroups() > 0 && (!hit || !e.busybox):
		return operand{}
	case hit:
		return number(m[1])
	}
	return number(0)
}

// word reads one of the functions, or a primary.
func (e *expression) word(evaluate bool) operand {
	ascii := func(list ...operand) {
		for _, o := range list {
			if evaluate && hasUTF8(e.p) && !isASCII(o.String()) {
				e.refuse("counting characters that aren't ASCII")
			}
		}
	}
	quote := "+"
	if e.busybox {
		quote = "quote"
	}
	switch e.next(quote, "length", "match", "index", "substr") {
	case quote:
		return e.take()
	case "length":
		o := e.word(evaluate)
		ascii(o)
		return number(len(o.String()))
	case "match":
		text := e.word(evaluate)
		return e.match(text, e.word(evaluate), evaluate)
	case "index":
		text := e.word(evaluate)
		chars := e.word(evaluate)
		ascii(text, chars)
		return number(strings.IndexAny(text.String(), chars.String()) + 1)
	case "substr":
		text, from, length := e.word(evaluate), e.word(evaluate), e.word(evaluate)
		ascii(text)
		s, at, n := text.String(), e.integer(from), e.integer(length)
		if at == nil || n == nil || at.Sign() <= 0 || n.Sign() <= 0 || at.Cmp(big.NewInt(int64(len(s)))) > 0 {
			return operand{}
		}
		s = s[at.Int64()-1:]
		if n.Cmp(big.NewInt(int64(len(s)))) < 0 {
			s = s[:n.Int64()]
		}
		return operand{text: s}
	}
	if e.next("(") != "" {
		inner := e.or(evaluate)
		if !e.failed() && e.next(")") == "" {
			if e.at < len(e.args) {
				return e.fail("syntax error", "syntax error: expecting ')' instead of '"+e.args[e.at]+"'")
			}
			return e.fail("syntax error", "syntax error: expecting ')' after '"+e.args[e.at-1]+"'")
		}
		return inner
	}
	if e.next(")") != "" {
		return e.fail("syntax error", "syntax error: unexpected ')'")
	}
	return e.take()
}

// take takes an argument as it is.
func (e *expression) take() operand {
	if e.failed() {
		return operand{}
	}
	if e.at >= len(e.args) {
		return e.fail("syntax error", "syntax error: missing argument after '"+e.args[e.at-1]+"'")
	}
	e.at++
	return operand{text: e.args[e.at-1]}
}
