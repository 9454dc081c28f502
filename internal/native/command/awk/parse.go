package awk

import (
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// maxDepth bounds how deep expressions and statements may be in each other.
const maxDepth = 1000

// parser reads a program by recursive descent (POSIX.1-2017, awk, Grammar). An error
// is a *syntax or a *command.Unsupported.
type parser struct {
	lex       lexer
	tok       token
	err       error
	prog      *program
	regexps   *regexps
	variables map[string]int
	functions map[string]*function
	order     []*function
	calls     []*callFunction
	locals    map[string]int // of the function that is read; nil outside
	loops     int
	depth     int
	noIn      bool // "in" belongs to for
	noGreater bool // ">" is a redirection
	bodies    bool // in a rule of records, where next and getline mean something
}

// parse reads a program.
func parse(src string, busybox bool) (*program, error) {
	p := &parser{lex: lexer{src: src, line: 1, busybox: busybox}, prog: &program{busybox: busybox}, regexps: &regexps{busybox: busybox}, variables: map[string]int{}, functions: map[string]*function{}}
	for i, s := range specials {
		p.variables[s] = i
	}
	p.prog.names = slices.Clone(specials)
	p.advance()
	for p.skipEnds(); p.err == nil && p.tok.kind != endToken; p.skipEnds() {
		p.item()
	}
	if p.err != nil {
		return nil, p.err
	}
	for _, f := range p.order {
		if !f.defined {
			return nil, refuse("the function %s, which isn't defined", f.name)
		}
		if _, ok := p.variables[f.name]; ok {
			return nil, &syntax{p.tok.line, f.name + " is a function and a variable"}
		}
	}
	for _, c := range p.calls {
		if len(c.args) > c.f.parameters {
			return nil, &syntax{p.tok.line, c.f.name + " is called with too many arguments"}
		}
	}
	p.prog.functions, p.prog.globals = p.order, len(p.prog.names)
	return p.prog, nil
}

func (p *parser) fail(what string) {
	if p.err == nil {
		p.err = &syntax{p.tok.line, what}
	}
}

func (p *parser) refuse(format string, args ...any) {
	if p.err == nil {
		p.err = refuse(format, args...)
	}
}

func (p *parser) advance() {
	if p.err != nil {
		p.tok = token{line: p.tok.line}
		return
	}
	t, err := p.lex.next()
	if err != nil {
		p.err = err
		t = token{line: p.lex.line}
	}
	p.tok = t
}

// deeper counts how deep we are; every call is undone with p.depth--.
func (p *parser) deeper() {
	if p.depth++; p.depth > maxDepth {
		p.refuse("%v", errDepth)
	}
}

func (p *parser) is(text string) bool {
	return (p.tok.kind == punctuator || p.tok.kind == keyword) && p.tok.text == text
}

// take takes a token if it is there.
func (p *parser) take(text string) bool {
	if p.err == nil && p.is(text) {
		p.advance()
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.take(text) {
		p.fail("syntax error: " + text + " is missing" + p.near())
	}
}

func (p *parser) near() string {
	switch p.tok.kind {
	case endToken:
		return " at the end"
	case newline:
		return " at the end of the line"
	case number:
		return " before a number"
	case text:
		return ` before "` + p.tok.text + `"`
	}
	return " before " + p.tok.text
}

func (p *parser) skipLines() {
	for p.err == nil && p.tok.kind == newline {
		p.advance()
	}
}

func (p *parser) skipEnds() {
	for p.err == nil && (p.tok.kind == newline || p.is(";")) {
		p.advance()
	}
}

// item reads a rule or a function.
func (p *parser) item() {
	switch {
	case p.take("function"):
		p.function()
	case p.is("BEGIN") || p.is("END"):
		list := &p.prog.begin
		if p.tok.text == "END" {
			list = &p.prog.end
		}
		p.advance()
		if !p.is("{") {
			p.fail("syntax error: { is missing" + p.near())
			return
		}
		*list = append(*list, p.block())
	default:
		r := &rule{id: len(p.prog.rules)}
		if !p.is("{") {
			r.from = p.expression()
			if p.take(",") {
				p.skipLines()
				r.to = p.expression()
			}
		}
		if p.is("{") {
			p.bodies = true
			r.body = p.block()
			p.bodies = false
		}
		p.prog.rules = append(p.prog.rules, r)
		if r.body == nil && p.err == nil && p.tok.kind != newline && p.tok.kind != endToken && !p.is(";") {
			p.fail("syntax error" + p.near())
		}
	}
}

func (p *parser) named(name string) *function {
	f := p.functions[name]
	if f == nil {
		f = &function{name: name}
		p.functions[name] = f
		p.order = append(p.order, f)
	}
	return f
}

func (p *parser) function() {
	if p.tok.kind != name && p.tok.kind != called {
		p.fail("syntax error: the name of a function is missing" + p.near())
		return
	}
	f := p.named(p.tok.text)
	if f.defined {
		p.fail("the function " + f.name + " is defined twice")
	}
	f.defined = true
	p.advance()
	p.expect("(")
	p.locals = map[string]int{}
	for p.err == nil && !p.is(")") {
		if p.tok.kind != name {
			p.fail("syntax error: the name of a parameter is missing" + p.near())
			break
		}
		if _, twice := p.locals[p.tok.text]; twice || p.tok.text == f.name || slices.Contains(specials, p.tok.text) {
			p.fail("the parameter " + p.tok.text + " has the name of something else")
		}
		p.locals[p.tok.text] = len(p.locals)
		p.advance()
		if !p.is(")") {
			p.expect(",")
			p.skipLines()
		}
	}
	p.expect(")")
	p.skipLines()
	f.parameters = len(p.locals)
	if !p.is("{") {
		p.fail("syntax error: { is missing" + p.near())
		return
	}
	bodies := p.bodies
	p.bodies = true
	f.body = p.block()
	p.bodies = bodies
	p.locals = nil
}

// block reads { … }.
func (p *parser) block() *block {
	p.expect("{")
	b := &block{}
	for p.skipEnds(); p.err == nil && !p.is("}"); p.skipEnds() {
		if p.tok.kind == endToken {
			p.fail("syntax error: } is missing at the end")
			break
		}
		b.list = append(b.list, p.statement())
	}
	p.expect("}")
	return b
}

// end reads what ends a simple statement.
func (p *parser) end() {
	switch {
	case p.tok.kind == newline || p.is(";"):
		p.advance()
	case p.is("}") || p.tok.kind == endToken || p.err != nil:
	default:
		p.fail("syntax error" + p.near())
	}
}

// body reads the statement that belongs to an if or a loop.
func (p *parser) body() stmt {
	if p.take(";") {
		return &block{}
	}
	p.skipLines()
	return p.statement()
}

func (p *parser) loop() stmt {
	p.loops++
	defer func() { p.loops-- }()
	return p.body()
}

func (p *parser) statement() stmt {
	p.deeper()
	defer func() { p.depth-- }()
	if p.err != nil {
		return &block{}
	}
	switch {
	case p.is("{"):
		return p.block()
	case p.take(";"):
		return &block{}
	case p.take("if"):
		p.expect("(")
		s := &ifStmt{when: p.expression()}
		p.expect(")")
		s.yes = p.body()
		// An else may come after the ends of lines, and after one semicolon.
		saved := *p
		p.skipEnds()
		if p.take("else") {
			s.no = p.body()
		} else if p.err == nil {
			*p = saved
		}
		return s
	case p.take("while"):
		p.expect("(")
		s := &whileStmt{when: p.expression()}
		p.expect(")")
		s.body = p.loop()
		return s
	case p.take("do"):
		s := &whileStmt{once: true}
		s.body = p.loop()
		p.skipEnds()
		p.expect("while")
		p.expect("(")
		s.when = p.expression()
		p.expect(")")
		p.end()
		return s
	case p.take("for"):
		return p.forStatement()
	}
	s := p.simple()
	p.end()
	return s
}

func (p *parser) forStatement() stmt {
	p.expect("(")
	var first stmt
	if !p.is(";") {
		p.noIn = true
		first = p.simple()
		p.noIn = false
		if s, ok := first.(*exprStmt); ok && p.is("in") {
			p.advance()
			f := &forInStmt{key: s.e, array: p.array()}
			if !assignable(f.key) {
				p.fail("syntax error: for needs a variable")
			}
			p.expect(")")
			f.body = p.loop()
			return f
		}
	}
	f := &forStmt{first: first}
	p.expect(";")
	p.skipLines()
	if !p.is(";") {
		f.when = p.expression()
	}
	p.expect(";")
	p.skipLines()
	if !p.is(")") {
		f.after = p.simple()
	}
	p.expect(")")
	f.body = p.loop()
	return f
}

// simple reads a statement that is no if and no loop.
func (p *parser) simple() stmt {
	switch {
	case p.is("print") || p.is("printf"):
		return p.print()
	case p.take("delete"):
		d := &deleteStmt{array: p.array()}
		if p.take("[") {
			d.index = p.list("]")
		}
		return d
	case p.is("break") || p.is("continue"):
		if p.loops == 0 {
			p.fail(p.tok.text + " outside of a loop")
		}
		j := &jump{to: flowBreak}
		if p.tok.text == "continue" {
			j.to = flowContinue
		}
		p.advance()
		return j
	case p.is("next") || p.is("nextfile"):
		if !p.bodies {
			p.fail(p.tok.text + " in BEGIN or END")
		}
		j := &jump{to: flowNext}
		if p.tok.text == "nextfile" {
			j.to = flowNextFile
		}
		p.advance()
		return j
	case p.is("exit") || p.is("return"):
		j := &jump{to: flowExit}
		if p.tok.text == "return" {
			if j.to = flowReturn; p.locals == nil {
				p.fail("return outside of a function")
			}
		}
		p.advance()
		if p.tok.kind != newline && p.tok.kind != endToken && !p.is(";") && !p.is("}") {
			j.e = p.expression()
		}
		return j
	}
	return &exprStmt{p.expression()}
}

// print reads print and printf, with the redirection.
func (p *parser) print() stmt {
	s := &printStmt{format: p.tok.text == "printf"}
	p.advance()
	p.noGreater = true
	if p.tok.kind != newline && p.tok.kind != endToken && !p.is(";") && !p.is("}") && !p.is(">") && !p.is(">>") && !p.is("|") {
		for {
			s.args = append(s.args, p.expression())
			if !p.take(",") {
				break
			}
			p.skipLines()
		}
		if t, ok := s.args[0].(*tuple); ok && len(s.args) == 1 {
			s.args = t.list
		}
	}
	p.noGreater = false
	for _, a := range s.args {
		if _, ok := a.(*tuple); ok {
			p.fail("syntax error: a list in parentheses")
		}
	}
	if s.format && len(s.args) == 0 {
		p.fail("syntax error: printf without a format")
	}
	switch {
	case p.is("|"):
		p.refuse("output to a shell command")
	case p.is(">") || p.is(">>"):
		s.append = p.tok.text == ">>"
		p.advance()
		p.noGreater = true
		s.to = p.concatenation()
		p.noGreater = false
		if p.is(">") || p.is(">>") || p.is("|") || p.is("?") {
			p.refuse("a redirection with another operator")
		}
	}
	return s
}

// array reads the name of an array.
func (p *parser) array() *variable {
	if p.tok.kind != name {
		p.fail("syntax error: the name of an array is missing" + p.near())
		return &variable{}
	}
	v := p.variable(p.tok.text)
	p.advance()
	return v
}

func (p *parser) variable(name string) *variable {
	if i, ok := p.locals[name]; ok {
		return &variable{local: true, index: i, name: name}
	}
	i, ok := p.variables[name]
	if !ok {
		i = len(p.prog.names)
		p.variables[name] = i
		p.prog.names = append(p.prog.names, name)
	}
	return &variable{index: i, name: name}
}

// list reads expressions up to a closing bracket.
func (p *parser) list(end string) []expr {
	noIn, noGreater := p.noIn, p.noGreater
	p.noIn, p.noGreater = false, false
	defer func() { p.noIn, p.noGreater = noIn, noGreater }()
	var list []expr
	p.skipLinesIn(end)
	for p.err == nil && !p.is(end) {
		list = append(list, p.expression())
		if !p.is(end) {
			p.expect(",")
			p.skipLines()
		}
	}
	p.expect(end)
	return list
}

func (p *parser) skipLinesIn(end string) {
	if end == ")" {
		p.skipLines()
	}
}

// expression reads a whole expression. The methods below read the levels of
// precedence, from the lowest to the highest.
func (p *parser) expression() expr {
	p.deeper()
	defer func() { p.depth-- }()
	if p.err != nil {
		return &constant{}
	}
	return p.ternary()
}

func assignable(e expr) bool {
	switch e.(type) {
	case *variable, *field, *element:
		return true
	}
	return false
}

// assigned reads what comes after an assignment operator; nil if there is none.
func (p *parser) assigned(target expr) expr {
	if p.tok.kind != punctuator || p.err != nil {
		return nil
	}
	op := byte(0)
	switch p.tok.text {
	case "=":
	case "+=", "-=", "*=", "/=", "%=", "^=":
		op = p.tok.text[0]
	default:
		return nil
	}
	if !assignable(target) {
		return nil
	}
	p.advance()
	p.skipLines()
	return &assignment{op, target, p.expression()}
}

func (p *parser) ternary() expr {
	when := p.or()
	if !p.is("?") {
		return when
	}
	p.advance()
	p.skipLines()
	e := &conditional{when: when, yes: p.expression()}
	p.skipLines()
	p.expect(":")
	p.skipLines()
	e.no = p.expression()
	return e
}

func (p *parser) or() expr {
	left := p.and()
	for p.take("||") {
		p.skipLines()
		left = &logical{false, left, p.and()}
	}
	return left
}

func (p *parser) and() expr {
	left := p.in()
	for p.take("&&") {
		p.skipLines()
		left = &logical{true, left, p.in()}
	}
	return left
}

func (p *parser) in() expr {
	left := p.match()
	for !p.noIn && p.is("in") {
		p.notAfterNot(left, "in")
		p.advance()
		index := []expr{left}
		if t, ok := left.(*tuple); ok {
			index = t.list
		}
		left = &member{p.array(), index}
	}
	if _, ok := left.(*tuple); ok && !p.noGreater {
		p.fail("syntax error: a list in parentheses")
	}
	return left
}

// notAfterNot refuses ! x ~ y, which some take for !(x ~ y) and others don't.
func (p *parser) notAfterNot(left expr, op string) {
	if _, ok := left.(*not); ok {
		if p.err == nil {
			p.err = &command.Unsupported{Command: "awk", What: "! before an operand of " + op + " (which not every awk takes alike)", Fix: "parentheses"}
		}
	}
}

func (p *parser) match() expr {
	left := p.comparison()
	for p.is("~") || p.is("!~") {
		p.notAfterNot(left, p.tok.text)
		negated := p.tok.text == "!~"
		p.advance()
		left = &matching{negated, left, p.comparison()}
	}
	return left
}

func (p *parser) comparison() expr {
	left := p.concatenation()
	for p.tok.kind == punctuator {
		op := p.tok.text
		switch op {
		case "<", "<=", "==", "!=", ">=":
		case ">":
			if p.noGreater {
				return left
			}
		case "|":
			if !p.noGreater {
				p.refuse("input from a shell command")
			}
			return left
		default:
			return left
		}
		p.advance()
		right := p.concatenation()
		if b, ok := left.(*binary); ok && strings.ContainsAny(b.op, "<=>!") {
			p.refuse("a comparison of a comparison without parentheses")
		}
		left = &binary{op, left, right}
	}
	return left
}

// beginsOperand says whether the next token begins what may be concatenated.
func (p *parser) beginsOperand() bool {
	switch p.tok.kind {
	case number, text, name, called, builtin:
		return true
	case punctuator:
		switch p.tok.text {
		case "$", "!", "(", "-", "+", "++", "--":
			return true
		}
	}
	return false
}

func (p *parser) concatenation() expr {
	left := p.sum()
	for p.err == nil && p.beginsOperand() {
		if p.is("!") {
			return left // it would be !~ or != otherwise; nothing is concatenated to it
		}
		if _, ok := left.(*regex); ok && p.prog.busybox {
			p.refuse("a regular expression as the beginning of a string")
		}
		left = &binary{"", left, p.sum()}
	}
	return left
}

func (p *parser) sum() expr {
	left := p.product()
	for p.is("+") || p.is("-") {
		op := p.tok.text
		p.advance()
		left = &binary{op, left, p.product()}
	}
	return left
}

func (p *parser) product() expr {
	left := p.unary()
	for p.is("*") || p.is("/") || p.is("%") {
		op := p.tok.text
		p.advance()
		left = &binary{op, left, p.unary()}
	}
	return left
}

func (p *parser) unary() expr {
	p.deeper()
	defer func() { p.depth-- }()
	switch {
	case p.err != nil:
		return &constant{}
	case p.take("!"):
		return &not{p.unary()}
	case p.take("-"):
		return &sign{p.unary()}
	case p.take("+"):
		return &plus{p.unary()}
	}
	return p.power()
}

func (p *parser) power() expr {
	left := p.postfix()
	if e := p.assigned(left); e != nil {
		return e
	}
	if !p.is("^") {
		return left
	}
	p.advance()
	// What is on the right may have a sign, and binds to the right.
	p.deeper()
	defer func() { p.depth-- }()
	switch {
	case p.take("-"):
		return &binary{"^", left, &sign{p.power()}}
	case p.take("+"):
		return &binary{"^", left, &plus{p.power()}}
	case p.take("!"):
		return &binary{"^", left, &not{p.power()}}
	case p.err != nil:
		return left
	}
	return &binary{"^", left, p.power()}
}

func (p *parser) postfix() expr {
	e := p.primary()
	if assignable(e) {
		switch {
		case p.take("++"):
			return &increment{e, 1, false}
		case p.take("--"):
			return &increment{e, -1, false}
		}
	}
	return e
}

func (p *parser) primary() expr {
	p.deeper()
	defer func() { p.depth-- }()
	t := p.tok
	switch {
	case p.err != nil:
	case t.kind == number:
		p.advance()
		return &constant{numeric(t.value)}
	case t.kind == text:
		p.advance()
		return &constant{literal(t.text)}
	case t.kind == name:
		p.advance()
		v := p.variable(t.text)
		if p.take("[") {
			index := p.list("]")
			if len(index) == 0 {
				p.fail("syntax error: an index is missing")
			}
			return &element{v, index}
		}
		return v
	case t.kind == called:
		if _, local := p.locals[t.text]; local || slices.Contains(specials, t.text) {
			// A variable and then something in parentheses: concatenation.
			p.advance()
			return p.variable(t.text)
		}
		p.advance()
		p.expect("(")
		c := &callFunction{p.named(t.text), p.list(")")}
		p.calls = append(p.calls, c)
		return c
	case t.kind == builtin:
		return p.builtin()
	case p.is("/") || p.is("/="):
		p.lex.at -= len(t.text) - 1
		source, err := p.lex.regexp()
		var re *pattern.Regexp
		if err == nil {
			re, err = p.regexps.compile(source, true)
		}
		if err != nil {
			p.err = err
			break
		}
		p.advance()
		return &regex{re, source}
	case p.take("$"):
		switch {
		case p.take("++"):
			return &field{p.incremented(1)}
		case p.take("--"):
			return &field{p.incremented(-1)}
		case p.take("-"):
			return &field{&sign{p.primary()}}
		case p.take("+"):
			return &field{&plus{p.primary()}}
		case p.take("!"):
			return &field{&not{p.primary()}}
		}
		return &field{p.primary()}
	case p.take("++"):
		return p.incremented(1)
	case p.take("--"):
		return p.incremented(-1)
	case p.take("("):
		list := p.list(")")
		switch {
		case len(list) == 1:
			return &grouped{list[0]}
		case len(list) > 1 && (p.is("in") || p.noGreater && (p.tok.kind == newline || p.tok.kind == endToken || p.is(";") || p.is("}") || p.is(">") || p.is(">>") || p.is("|"))):
			return &tuple{list}
		}
		p.fail("syntax error: a list in parentheses")
	case p.take("getline"):
		g := &getLine{}
		if p.tok.kind == name || p.is("$") {
			// Neither a sign nor an operator belongs to it.
			g.target = p.primary()
			if !assignable(g.target) {
				p.fail("syntax error: getline needs a variable")
			}
		}
		if p.take("<") {
			g.from = p.postfix()
		}
		return g
	default:
		p.fail("syntax error" + p.near())
	}
	return &constant{}
}

func (p *parser) incremented(by float64) expr {
	target := p.primary()
	if !assignable(target) {
		p.fail("syntax error: ++ and -- need a variable")
	}
	return &increment{target, by, true}
}

// arities are how many arguments a function may have.
var arities = map[string][2]int{"length": {0, 1}, "substr": {2, 3}, "index": {2, 2}, "split": {2, 3}, "sub": {2, 3}, "gsub": {2, 3}, "match": {2, 2}, "sprintf": {1, 1 << 20}, "tolower": {1, 1}, "toupper": {1, 1},
	"int": {1, 1}, "sqrt": {1, 1}, "exp": {1, 1}, "log": {1, 1}, "sin": {1, 1}, "cos": {1, 1}, "atan2": {2, 2}, "close": {1, 1}, "fflush": {0, 1}}

func (p *parser) builtin() expr {
	b := &callBuiltin{name: p.tok.text}
	p.advance()
	if p.take("(") {
		b.args = p.list(")")
	} else if b.name != "length" {
		p.fail("syntax error: " + b.name + " needs its arguments in parentheses")
	}
	arity := arities[b.name]
	if len(b.args) < arity[0] || len(b.args) > arity[1] {
		p.fail("syntax error: " + b.name + " has another number of arguments")
		return b
	}
	switch b.name {
	case "split":
		if v, ok := b.args[1].(*variable); !ok {
			p.fail("syntax error: split needs an array")
		} else if slices.Contains(specials, v.name) && v.name != "ARGV" && v.name != "ENVIRON" {
			p.fail("syntax error: split needs an array")
		}
	case "sub", "gsub":
		if len(b.args) == 3 {
			if g, ok := b.args[2].(*grouped); ok {
				b.args[2] = g.inner
			}
			if !assignable(b.args[2]) {
				p.refuse("%s on something that isn't a variable", b.name)
			}
		}
	}
	return b
}
