package template

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/anyarch/anyarch/internal/refusal"
)

// checker walks a template before it is ever used, so that a wrong name is
// found also in a branch that isn't taken today.
type checker struct{ used []string }

func (c *checker) list(list *parse.ListNode) *problem {
	if list == nil {
		return nil
	}
	for _, node := range list.Nodes {
		var p *problem
		switch node := node.(type) {
		case *parse.TextNode, *parse.CommentNode:
		case *parse.ActionNode:
			p = c.pipe(node.Pipe)
		case *parse.IfNode:
			for _, next := range []func() *problem{
				func() *problem { return c.pipe(node.Pipe) },
				func() *problem { return c.list(node.List) },
				func() *problem { return c.list(node.ElseList) },
			} {
				if p == nil {
					p = next()
				}
			}
		case *parse.RangeNode:
			p = unsupported("range")
		case *parse.WithNode:
			p = unsupported("with")
		case *parse.TemplateNode:
			p = unsupported("template")
		default:
			p = unsupported(node.String())
		}
		if p != nil {
			return p
		}
	}
	return nil
}

func (c *checker) pipe(pipe *parse.PipeNode) *problem {
	if len(pipe.Decl) > 0 {
		return unsupported(pipe.Decl[0].String())
	}
	for i, command := range pipe.Cmds {
		name, isFunction := command.Args[0].(*parse.IdentifierNode)
		args := command.Args[1:]
		switch {
		case isFunction:
			count := len(args)
			if i > 0 {
				count++
			}
			if p := c.function(name.Ident, count); p != nil {
				return p
			}
		case i > 0:
			return &problem{summary: fmt.Sprintf("%s isn't a function, and can't take a value from a pipe", command.Args[0]), fix: []string{"{{.Git.Branch | slug}}"}}
		case len(args) > 0:
			return &problem{summary: fmt.Sprintf("%s isn't a function, and can't take arguments", command.Args[0]), seen: []string{functionList()}, fix: []string{fmt.Sprintf("{{%s}}", command.Args[0])}}
		default:
			args = command.Args
		}
		for _, arg := range args {
			if p := c.operand(arg); p != nil {
				return p
			}
		}
	}
	return nil
}

func (c *checker) operand(node parse.Node) *problem {
	switch node := node.(type) {
	case *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
		return nil
	case *parse.PipeNode:
		return c.pipe(node)
	case *parse.IdentifierNode:
		return c.function(node.Ident, 0)
	case *parse.FieldNode:
		return c.field(node)
	}
	return unsupported(node.String())
}

func (c *checker) field(node *parse.FieldNode) *problem {
	name := strings.Join(node.Ident, ".")
	if node.Ident[0] == "Env" {
		if len(node.Ident) != 2 {
			return &problem{summary: fmt.Sprintf("%s names no environment variable", node), fix: []string{"{{.Env.VERSION}}"}}
		}
		return nil
	}
	if name == "Git" {
		return &problem{summary: ".Git has values, and is none itself", fix: []string{"{{.Git.Commit}}"}}
	}
	if _, known := fields[name]; !known {
		return unknownField(name)
	}
	if !slices.Contains(c.used, name) {
		c.used = append(c.used, name)
	}
	return nil
}

func (c *checker) function(name string, args int) *problem {
	f, known := functions[name]
	if !known {
		p := &problem{summary: "there is no function " + name, seen: []string{functionList()}}
		_, isField := fields[name]
		near := refusal.Nearest(name, slices.Sorted(maps.Keys(functions)))
		switch {
		case aliases[name] != "":
			p.fix = []string{"{{." + aliases[name] + "}}"}
		case isField: // the dot was forgotten
			p.fix = []string{"{{." + name + "}}"}
		case otherFunctions[name] != "":
			p.fix = []string{functions[otherFunctions[name]].usage}
		case name == "env":
			p.fix = []string{"{{.Env.VERSION}}"}
		case near != "":
			p.fix = []string{functions[near].usage}
		}
		return p
	}
	if args < f.least || f.most > 0 && args > f.most {
		return &problem{summary: fmt.Sprintf("%s takes %s, and is given %d", name, f.count(), args), fix: []string{f.usage}}
	}
	return nil
}

// otherFunctions are names that other tools have for a function.
var otherFunctions = map[string]string{
	"print": "join", "printf": "join", "println": "join", "tolower": "lower", "toupper": "upper", "trimprefix": "trimPrefix", "trimsuffix": "trimSuffix",
	"envOrDefault": "default", "coalesce": "or", "reReplaceAll": "replace",
}

func functionList() string {
	return "functions are " + strings.Join(slices.Sorted(maps.Keys(functions)), " ")
}
