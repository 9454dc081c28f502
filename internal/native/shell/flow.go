package shell

import (
	"maps"

	"mvdan.cc/sh/v3/syntax"
)

// readonly finds assignments to a read-only variable: shells end there, the
// interpreter doesn't.
func (p *program) readonly() {
	fixed := map[string]syntax.Pos{}
	syntax.Walk(p.file, func(n syntax.Node) bool {
		if d, ok := n.(*syntax.DeclClause); ok && d.Variant.Value == "readonly" {
			for _, a := range d.Args {
				if a.Name != nil {
					fixed[a.Name.Value] = a.Pos()
				}
			}
		}
		return true
	})
	if len(fixed) == 0 {
		return
	}
	syntax.Walk(p.file, func(n syntax.Node) bool {
		if a, ok := n.(*syntax.Assign); ok && a.Name != nil && !a.Naked {
			if at, ok := fixed[a.Name.Value]; ok && a.Pos().After(at) {
				p.add(a.Pos(), a.Name.Value, "setting the read-only variable "+a.Name.Value, "")
			}
		}
		return true
	})
}

// conditions finds functions that are called where set -e is ignored and that have
// subshells of several commands: the interpreter would not ignore it in those.
func (p *program) conditions() {
	bodies := map[string]*syntax.Stmt{}
	used := map[string]syntax.Pos{}
	collect := func(n syntax.Node) {
		syntax.Walk(n, func(n syntax.Node) bool {
			if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
				if name, ok := literal(c.Args[0]); ok && p.functions[name] {
					if _, seen := used[name]; !seen {
						used[name] = c.Pos()
					}
				}
			}
			return true
		})
	}
	syntax.Walk(p.file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.FuncDecl:
			if n.Name != nil {
				bodies[n.Name.Value] = n.Body
			}
		case *syntax.Stmt:
			if n.Negated && n.Cmd != nil {
				collect(n.Cmd)
			}
		case *syntax.BinaryCmd:
			if n.Op == syntax.AndStmt || n.Op == syntax.OrStmt {
				collect(n.X)
			}
		case *syntax.IfClause:
			for _, s := range n.Cond {
				collect(s)
			}
		case *syntax.WhileClause:
			for _, s := range n.Cond {
				collect(s)
			}
		}
		return true
	})
	for before := -1; before != len(used); {
		before = len(used)
		for name := range maps.Clone(used) {
			if b := bodies[name]; b != nil {
				collect(b)
			}
		}
	}
	for name, at := range used {
		if b := bodies[name]; b != nil && p.several(b) {
			p.add(at, name, "the function "+name+", which has subshells, in a condition under set -e", "set -e in a script of its own")
		}
	}
}

// several reports whether there are subshells of more than one simple command.
func (p *program) several(body *syntax.Stmt) bool {
	found := false
	single := func(s *syntax.Stmt) bool {
		_, ok := s.Cmd.(*syntax.CallExpr)
		return ok && p.simple([]*syntax.Stmt{s})
	}
	syntax.Walk(body, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Subshell:
			found = found || !p.simple(n.Stmts)
		case *syntax.CmdSubst:
			bare := len(n.Stmts) == 1 && n.Stmts[0].Cmd == nil
			found = found || p.dialect != Bash && len(n.Stmts) > 0 && !bare && !p.simple(n.Stmts)
		case *syntax.BinaryCmd:
			if n.Op == syntax.Pipe || n.Op == syntax.PipeAll {
				found = found || !single(n.X) || !single(n.Y)
			}
		}
		return true
	})
	return found
}
