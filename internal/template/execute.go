package template

import (
	"context"
	"fmt"
	"strings"
	"text/template/parse"
	"unicode"
	"unicode/utf8"
)

// value is what an expression gives: a text, or a truth value.
type value struct {
	text   string
	asked  bool // given by the template's author, who may mean it to be empty
	isBool bool
	truth  bool
}

func boolean(b bool) value { return value{text: fmt.Sprint(b), isBool: true, truth: b} }

// holds is what the value is to an if.
func (v value) holds() bool {
	if v.isBool {
		return v.truth
	}
	return v.text != ""
}

// operand is a value, or why there is none: default and if want to know.
type operand struct {
	value
	problem *problem
}

// execution is one run of a template.
type execution struct {
	ctx   context.Context
	data  *Data
	words bool
	out   strings.Builder
	quote byte // that the word being written stands in, if words counts
	mid   bool // within a word
}

func (e *execution) list(list *parse.ListNode) *problem {
	if list == nil {
		return nil
	}
	for _, node := range list.Nodes {
		var p *problem
		switch node := node.(type) {
		case *parse.TextNode:
			e.literal(string(node.Text))
		case *parse.ActionNode:
			p = e.action(node.Pipe)
		case *parse.IfNode:
			p = e.branch(node)
		}
		if p != nil {
			return p
		}
	}
	return nil
}

func (e *execution) branch(node *parse.IfNode) *problem {
	condition := e.pipe(node.Pipe)
	if condition.problem != nil && !condition.problem.unset {
		return condition.problem
	}
	if condition.problem == nil && condition.holds() {
		return e.list(node.List)
	}
	return e.list(node.ElseList)
}

// action writes one value.
func (e *execution) action(pipe *parse.PipeNode) *problem {
	v := e.pipe(pipe)
	if v.problem != nil {
		return v.problem
	}
	expression := "{{" + pipe.String() + "}}"
	if v.text == "" {
		if v.asked {
			return nil
		}
		return &problem{summary: expression + " is empty", fix: []string{"{{default \"none\" " + argument(pipe) + "}}"}}
	}
	if i := strings.IndexFunc(v.text, unprintable); i >= 0 || !utf8.ValidString(v.text) {
		what := "bytes that aren't UTF-8"
		if i >= 0 {
			r, _ := utf8.DecodeRuneInString(v.text[i:])
			what = fmt.Sprintf("the character %U", r)
			if r == '\n' || r == '\r' {
				what = "a line break"
			}
		}
		// The value isn't shown: of all values, keys and tokens have such things.
		return &problem{summary: fmt.Sprintf("%s has %s in it", expression, what), fix: []string{"{{slug " + argument(pipe) + "}}"}}
	}
	if p := e.staysOneWord(expression, v.text); p != nil {
		p.fix = []string{"{{slug " + argument(pipe) + "}}"}
		return p
	}
	e.literal(v.text)
	return nil
}

// argument writes an expression so that it can be given to a function.
func argument(pipe *parse.PipeNode) string {
	if len(pipe.Cmds) == 1 && len(pipe.Cmds[0].Args) == 1 {
		return pipe.String()
	}
	return "(" + pipe.String() + ")"
}

func unprintable(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

// staysOneWord refuses a value that would start another word.
func (e *execution) staysOneWord(expression, text string) *problem {
	if !e.words {
		return nil
	}
	what := ""
	switch {
	case e.quote != 0 && strings.IndexByte(text, e.quote) >= 0, e.quote == 0 && strings.ContainsAny(text, `"'`):
		what = "a quote"
	case e.quote == 0 && strings.ContainsFunc(text, unicode.IsSpace):
		what = "white space"
	default:
		return nil
	}
	p := &problem{summary: fmt.Sprintf("%s has %s in it, which would end the word", expression, what)}
	if e.quote == 0 {
		p.seen = []string{"between quotes white space is allowed: -X 'main.title=" + expression + "'"}
	}
	return p
}

// literal writes text as it is, and keeps track of where words start and end
// (as cmd/internal/quoted of Go has it: a quote counts at the start of a word,
// and nothing escapes).
func (e *execution) literal(text string) {
	e.out.WriteString(text)
	if !e.words {
		return
	}
	for i := range len(text) {
		switch c := text[i]; {
		case e.quote != 0:
			if c == e.quote {
				e.quote, e.mid = 0, false
			}
		case c == ' ', c == '\t', c == '\n', c == '\r':
			e.mid = false
		case !e.mid && (c == '"' || c == '\''):
			e.quote = c
		default:
			e.mid = true
		}
	}
}

// pipe evaluates {{a | b | c}}: each gives its value to the next as the last
// argument.
func (e *execution) pipe(pipe *parse.PipeNode) operand {
	var last operand
	for i, command := range pipe.Cmds {
		args := command.Args[1:]
		operands := make([]operand, 0, len(args)+1)
		name, isFunction := command.Args[0].(*parse.IdentifierNode)
		if !isFunction { // the checker has seen to it that this is alone
			last = e.operand(command.Args[0])
			continue
		}
		for _, arg := range args {
			operands = append(operands, e.operand(arg))
		}
		if i > 0 {
			operands = append(operands, last)
		}
		last = functions[name.Ident].call(operands)
	}
	return last
}

func (e *execution) operand(node parse.Node) operand {
	switch node := node.(type) {
	case *parse.StringNode:
		return operand{value: value{text: node.Text, asked: true}}
	case *parse.NumberNode:
		return operand{value: value{text: node.Text, asked: true}}
	case *parse.BoolNode:
		return operand{value: boolean(node.True)}
	case *parse.PipeNode:
		return e.pipe(node)
	case *parse.IdentifierNode:
		return functions[node.Ident].call(nil)
	case *parse.FieldNode:
		return e.field(node)
	}
	return operand{problem: unsupported(node.String())}
}

// field looks up a value. An empty one is none.
func (e *execution) field(node *parse.FieldNode) operand {
	if node.Ident[0] == "Env" {
		text, p := e.env(node.Ident[1])
		return operand{value{text: text}, withDefault(p, node)}
	}
	v, p := fields[strings.Join(node.Ident, ".")].get(e)
	if p == nil && v.text == "" {
		p = &problem{summary: node.String() + " is empty", unset: true}
	}
	return operand{v, withDefault(p, node)}
}

// withDefault adds the fix that every unset value has: to say that it may be.
func withDefault(p *problem, node *parse.FieldNode) *problem {
	if p != nil && p.unset {
		fallback := "none"
		if node.Ident[0] == "Version" {
			fallback = "0.0.0-dev"
		}
		p.fix = append(p.fix, fmt.Sprintf("{{default %q %s}}", fallback, node))
	}
	return p
}

// env looks up a variable of the caller's environment.
func (e *execution) env(name string) (string, *problem) {
	text, set := "", false
	if e.data.Env != nil {
		text, set = e.data.Env(name)
	}
	fix := []string{"export " + name + "=value"}
	switch {
	case !set:
		return "", &problem{summary: "the environment variable " + name + " isn't set", unset: true, fix: fix}
	case text == "":
		return "", &problem{summary: "the environment variable " + name + " is empty", unset: true, fix: fix}
	}
	return text, nil
}
