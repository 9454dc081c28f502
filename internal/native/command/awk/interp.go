package awk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// interpreter is one run of a program. What goes wrong in an expression unwinds it
// with a failure.
type interpreter struct {
	ctx     context.Context //nolint:containedctx // of this one run
	p       *command.Proc
	prog    *program
	regexps *regexps
	scratch string

	globals []cell
	frame   []cell // of the function that runs
	calls   int
	result  value // of return
	exit    int
	steps   int

	// The record and its fields. Each is made from the other when it is needed.
	record      string
	recordClass class
	fields      []value
	split       bool // fields are those of record
	joined      bool // record is that of fields

	nr, fnr                  float64
	fs, ofs, ors, rs, subsep string
	convfmt, ofmt            string
	splitFS                  splitter
	splitRS                  *pattern.Regexp
	out                      *bufio.Writer
	outputs                  map[string]*outputFile
	inputs                   map[string]*records
	stdin                    *records
	input                    *records // the file of ARGV that is read
	argument                 int      // of ARGV
	usedFile                 bool
	ranges                   []bool
}

// failure unwinds the interpreter.
type failure struct{ err error }

// runtimeError is what awk itself complains about.
type runtimeError struct{ what string }

func (r *runtimeError) Error() string { return r.what }

var (
	errNobodyReads = errors.New("nobody reads")
	errExit        = errors.New("exit")
)

func (in *interpreter) runtime(format string, args ...any) {
	panic(failure{&runtimeError{fmt.Sprintf(format, args...)}})
}

// misuse is what GNU systems' awks complain about and busybox's passes over in some
// way.
func (in *interpreter) misuse(format string, args ...any) {
	if in.prog.busybox {
		panic(failure{refuse(format, args...)})
	}
	in.runtime(format, args...)
}

func (in *interpreter) check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// maxCalls bounds how deep functions call each other.
const maxCalls = 5000

// protect does something that may fail anywhere inside.
func (in *interpreter) protect(do func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = f.err
		}
	}()
	do()
	return nil
}

// run runs a program; the error may be a *runtimeError. An exit goes on with END,
// one in END ends.
func (in *interpreter) run() error {
	err := in.protect(func() {
		leave := in.blocks(in.prog.begin)
		if leave == flowOn && (len(in.prog.rules) > 0 || len(in.prog.end) > 0) {
			leave = in.main()
		}
		if !in.ended(leave) {
			in.runtime("next in BEGIN")
		}
	})
	if err != nil && !errors.Is(err, errExit) {
		return err
	}
	in.frame, in.calls = nil, 0
	err = in.protect(func() {
		if leave := in.blocks(in.prog.end); !in.ended(leave) {
			in.runtime("next in END")
		}
	})
	if errors.Is(err, errExit) {
		return nil
	}
	return err
}

func (in *interpreter) ended(leave flow) bool { return leave == flowOn || leave == flowExit }

func (in *interpreter) blocks(list []*block) flow {
	for _, b := range list {
		if leave := in.exec(b); leave != flowOn {
			return leave
		}
	}
	return flowOn
}

// main runs the rules for every record.
func (in *interpreter) main() flow {
	for {
		record, ok := in.nextRecord()
		if !ok {
			return flowOn
		}
		in.setRecord(fromInput(record))
		for _, r := range in.prog.rules {
			if !in.matches(r) {
				continue
			}
			if r.body == nil {
				in.write(in.out, in.text(in.field(0)), in.ors)
				continue
			}
			switch leave := in.exec(r.body); leave {
			case flowExit:
				return leave
			case flowNextFile:
				in.skipFile()
				fallthrough
			case flowNext:
				goto next
			}
		}
	next:
	}
}

func (in *interpreter) matches(r *rule) bool {
	switch {
	case r.from == nil:
		return true
	case r.to == nil:
		return in.condition(r.from)
	case !in.ranges[r.id] && !in.condition(r.from):
		return false
	}
	in.ranges[r.id] = !in.condition(r.to)
	return true
}

func (in *interpreter) condition(e expr) bool { return in.isTrue(in.eval(e)) }

func (in *interpreter) exec(s stmt) flow {
	if in.steps++; in.steps&0xfff == 0 && in.ctx.Err() != nil {
		in.check(context.Cause(in.ctx))
	}
	switch s := s.(type) {
	case nil:
	case *block:
		for _, inner := range s.list {
			if leave := in.exec(inner); leave != flowOn {
				return leave
			}
		}
	case *exprStmt:
		in.eval(s.e)
	case *printStmt:
		in.print(s)
	case *ifStmt:
		if in.condition(s.when) {
			return in.exec(s.yes)
		}
		return in.exec(s.no)
	case *whileStmt:
		for s.once || in.condition(s.when) {
			if leave := in.exec(s.body); leave == flowBreak {
				break
			} else if leave != flowOn && leave != flowContinue {
				return leave
			}
			if s.once && !in.condition(s.when) {
				break
			}
			in.tick()
		}
	case *forStmt:
		for in.exec(s.first); s.when == nil || in.condition(s.when); in.exec(s.after) {
			if leave := in.exec(s.body); leave == flowBreak {
				break
			} else if leave != flowOn && leave != flowContinue {
				return leave
			}
			in.tick()
		}
	case *forInStmt:
		for _, key := range in.array(s.array).keys() {
			in.assign(s.key, fromInput(key))
			if leave := in.exec(s.body); leave == flowBreak {
				break
			} else if leave != flowOn && leave != flowContinue {
				return leave
			}
		}
	case *deleteStmt:
		if s.index == nil {
			in.array(s.array).clear()
		} else {
			in.array(s.array).remove(in.subscript(s.index))
		}
	case *jump:
		if s.e != nil {
			v := in.eval(s.e)
			if s.to == flowReturn {
				in.result = v
			} else {
				in.exit = int(int64(in.number(v))) & 255
			}
		}
		return s.to
	}
	return flowOn
}

// tick looks now and then whether the build was cancelled.
func (in *interpreter) tick() {
	if in.steps++; in.steps&0xfff == 0 && in.ctx.Err() != nil {
		in.check(context.Cause(in.ctx))
	}
}

func (in *interpreter) cell(v *variable) *cell {
	if v.local {
		return &in.frame[v.index]
	}
	return &in.globals[v.index]
}

// array gives a variable as an array.
func (in *interpreter) array(v *variable) *array {
	if !v.local && v.index < varUser && in.globals[v.index].arr == nil {
		in.misuse("%s is no array", v.name)
	}
	return in.arrayOf(in.cell(v), v.name)
}

func (in *interpreter) arrayOf(c *cell, name string) *array {
	switch {
	case c.arr != nil:
	case c.v.class != unset:
		in.misuse("%s is no array", name)
	case c.from != nil:
		c.arr = in.arrayOf(c.from, name)
	default:
		c.arr = newArray(in.prog.busybox)
	}
	return c.arr
}

func (in *interpreter) get(v *variable) value {
	if !v.local && v.index < varUser {
		switch v.index {
		case varNF:
			in.splitRecord()
			return numeric(float64(len(in.fields)))
		case varNR:
			return numeric(in.nr)
		case varFNR:
			return numeric(in.fnr)
		}
	}
	c := in.cell(v)
	if c.arr != nil {
		in.misuse("%s is an array", v.name)
	}
	return c.v
}

func (in *interpreter) assign(target expr, v value) {
	switch t := target.(type) {
	case *variable:
		in.set(t, v)
	case *element:
		*in.array(t.array).at(in.subscript(t.index)) = v
	case *field:
		in.setField(in.fieldNumber(t.index), v)
	case *grouped:
		in.assign(t.inner, v)
	}
}

func (in *interpreter) set(v *variable, to value) {
	c := in.cell(v)
	if c.arr != nil {
		in.misuse("%s is an array", v.name)
	}
	if v.local || v.index >= varUser {
		c.v = to
		return
	}
	in.setSpecial(v.index, to)
}

func (in *interpreter) setSpecial(index int, to value) {
	switch index {
	case varNF:
		n := in.number(to)
		if n < 0 || n > 1<<22 || math.IsNaN(n) {
			in.misuse("NF set to %v", n)
		}
		in.splitRecord()
		for float64(len(in.fields)) < math.Trunc(n) {
			in.fields = append(in.fields, value{class: inputV})
		}
		in.fields = in.fields[:int(n)]
		in.joined = false
		return
	case varNR:
		in.nr = in.number(to)
		return
	case varFNR:
		in.fnr = in.number(to)
		return
	}
	s := in.text(to)
	switch index {
	case varFS:
		in.splitRecord() // the record is that of the old one
		in.splitFS = in.splitterFor(s)
		in.fs = s
	case varOFS:
		in.joinFields()
		in.ofs = s
	case varORS:
		in.ors = s
	case varRS:
		in.rs, in.splitRS = s, nil
		if len(s) > 1 {
			re, err := in.regexps.compile(s, false)
			in.check(err)
			in.splitRS = re
		}
	case varSUBSEP:
		in.subsep = s
	case varCONVFMT:
		in.convfmt = in.numberFormat(s)
	case varOFMT:
		in.ofmt = in.numberFormat(s)
	}
	in.globals[index].v = to
}

// numberFormat checks CONVFMT or OFMT: one number, by %e, %f or %g.
func (in *interpreter) numberFormat(s string) string {
	i := strings.IndexByte(s, '%')
	if i >= 0 {
		d, length := in.directive(s[i:], func() int { return -1 })
		if strings.IndexByte("eEfFgG", d.verb) >= 0 && !strings.Contains(s[i+length:], "%") {
			return s
		}
	}
	panic(failure{refuse("the format %q for numbers", s)})
}

// subscript is the index of an element.
func (in *interpreter) subscript(list []expr) string {
	if len(list) == 1 {
		return in.text(in.eval(list[0]))
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = in.text(in.eval(e))
	}
	return strings.Join(parts, in.subsep)
}

func (in *interpreter) fieldNumber(e expr) int {
	n := in.number(in.eval(e))
	switch {
	case math.IsNaN(n) || n > 1<<22:
		in.misuse("field %v", n)
	case n <= -1:
		in.runtime("negative field index $%d", int(n))
	}
	return int(n)
}

func (in *interpreter) eval(e expr) value {
	switch e := e.(type) {
	case *constant:
		return e.v
	case *variable:
		return in.get(e)
	case *field:
		return in.field(in.fieldNumber(e.index))
	case *element:
		return *in.array(e.array).at(in.subscript(e.index))
	case *grouped:
		return in.eval(e.inner)
	case *regex:
		return truth(e.re.Match(in.text(in.field(0))))
	case *member:
		key := in.subscript(e.index)
		return truth(in.array(e.array).values[key] != nil)
	case *assignment:
		return in.assignment(e)
	case *conditional:
		if in.condition(e.when) {
			return in.eval(e.yes)
		}
		return in.eval(e.no)
	case *logical:
		if in.condition(e.left) != e.and {
			return truth(!e.and)
		}
		return truth(in.condition(e.right))
	case *not:
		return truth(!in.condition(e.inner))
	case *sign:
		return numeric(-in.number(in.eval(e.inner)))
	case *plus:
		return numeric(in.number(in.eval(e.inner)))
	case *binary:
		return in.binary(e)
	case *matching:
		left := in.text(in.eval(e.left))
		return truth(in.pattern(e.right).Match(left) != e.negated)
	case *increment:
		old := in.number(in.eval(e.target))
		in.assign(e.target, numeric(old+e.by))
		if e.prefix {
			return numeric(old + e.by)
		}
		return numeric(old)
	case *callFunction:
		return in.call(e)
	case *callBuiltin:
		return in.builtin(e)
	case *getLine:
		return in.getLine(e)
	}
	in.runtime("a list in parentheses")
	return value{}
}

func (in *interpreter) assignment(e *assignment) value {
	if e.op == 0 {
		v := in.eval(e.from)
		in.assign(e.target, v)
		return v
	}
	right := in.number(in.eval(e.from))
	v := numeric(in.calculate(e.op, in.number(in.eval(e.target)), right))
	in.assign(e.target, v)
	return v
}

func (in *interpreter) binary(e *binary) value {
	left := in.eval(e.left)
	right := in.eval(e.right)
	switch e.op {
	case "":
		a, b := in.text(left), in.text(right)
		in.bound(len(a) + len(b))
		return literal(a + b)
	case "<":
		return truth(in.compare(left, right) < 0)
	case "<=":
		return truth(in.compare(left, right) <= 0)
	case "==":
		return truth(in.compare(left, right) == 0)
	case "!=":
		return truth(in.compare(left, right) != 0)
	case ">":
		return truth(in.compare(left, right) > 0)
	case ">=":
		return truth(in.compare(left, right) >= 0)
	}
	return numeric(in.calculate(e.op[0], in.number(left), in.number(right)))
}

func (in *interpreter) calculate(op byte, a, b float64) float64 {
	switch op {
	case '+':
		return a + b
	case '-':
		return a - b
	case '*':
		return a * b
	case '/', '%':
		switch {
		case b == 0 && in.prog.busybox:
			in.runtime("Division by zero")
		case b == 0:
			panic(failure{refuse("a division by zero (which not every awk complains of)")})
		case op == '/':
			return a / b
		}
		return math.Mod(a, b)
	}
	return math.Pow(a, b)
}

// maxText bounds how long a string may become.
const maxText = 1 << 28

func (in *interpreter) bound(length int) {
	if length > maxText {
		panic(failure{refuse("strings of more than %d bytes", maxText)})
	}
}

// pattern gives an operand as a regular expression.
func (in *interpreter) pattern(e expr) *pattern.Regexp {
	if r, ok := e.(*regex); ok {
		return r.re
	}
	re, err := in.regexps.compile(in.text(in.eval(e)), false)
	in.check(err)
	return re
}

// call calls a function of the program. A variable without a value is passed on as
// it is, as the function may make an array of it.
func (in *interpreter) call(e *callFunction) value {
	if in.calls++; in.calls > maxCalls {
		panic(failure{refuse("functions that call themselves this deeply")})
	}
	frame := make([]cell, e.f.parameters)
	for i, arg := range e.args {
		v, ok := arg.(*variable)
		if !ok || !v.local && v.index < varUser && in.globals[v.index].arr == nil {
			frame[i].v = in.eval(arg)
			continue
		}
		switch c := in.cell(v); {
		case c.arr != nil:
			frame[i].arr = c.arr
		case c.v.class != unset:
			frame[i].v = c.v
		case c.from != nil && c.from.arr != nil:
			frame[i].arr = in.arrayOf(c, v.name)
		default:
			frame[i].from = c
		}
	}
	outer := in.frame
	in.frame, in.result = frame, value{}
	leave := in.exec(e.f.body)
	in.frame = outer
	in.calls--
	v := in.result
	in.result = value{}
	switch leave {
	case flowExit:
		panic(failure{errExit})
	case flowNext, flowNextFile:
		panic(failure{refuse("next in a function")})
	}
	return v
}

// print does print and printf.
func (in *interpreter) print(s *printStmt) {
	var parts []string
	switch {
	case s.format:
		args := make([]value, len(s.args)-1)
		format := in.text(in.eval(s.args[0]))
		for i, a := range s.args[1:] {
			args[i] = in.eval(a)
		}
		parts = []string{in.sprintf(format, args)}
	case len(s.args) == 0:
		parts = []string{in.text(in.field(0)), in.ors}
	default:
		values := make([]string, len(s.args))
		for i, a := range s.args {
			values[i] = in.printed(in.eval(a))
		}
		parts = []string{strings.Join(values, in.ofs), in.ors}
	}
	out := in.out
	if s.to != nil {
		out = in.output(in.text(in.eval(s.to)), s.append)
	}
	in.write(out, parts...)
}

func (in *interpreter) write(out *bufio.Writer, parts ...string) {
	for _, part := range parts {
		if _, err := out.WriteString(part); err != nil {
			if out == in.out {
				err = errNobodyReads
			}
			in.check(err)
		}
	}
}
