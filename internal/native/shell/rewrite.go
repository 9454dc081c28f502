package shell

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// rewrite changes the tree of a script where the interpreter would do something
// else than the dialect's shell. Every result can be printed and parsed again,
// which is how the texts of eval, . and trap get here.
//
//   - $$ is the number of a process of the host.
//   - The last command of a pipe runs in the script's own shell, so that what it
//     sets would stay.
//   - `! list` ends a script with set -e, and so does a subshell in a condition.
//   - {a,b} is expanded, which the sh dialects don't.
//   - `local x` keeps the outer value, which only dash and ash do.
//   - set -e holds in the $(…) of bash.
//   - >| isn't known.
//   - shift more than there is empties the list instead of failing.
//   - A failed redirection of : or exec ends dash and ash.
//   - time reports on standard output.
func (p *program) rewrite() {
	if p.file == nil {
		return
	}
	p.stmts(p.file.Stmts, false)
	syntax.Walk(p.file, func(n syntax.Node) bool {
		p.node(n)
		return true
	})
}

func lit(text string) *syntax.Word {
	return &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: text}}}
}

func stmtOf(words ...string) *syntax.Stmt {
	c := &syntax.CallExpr{}
	for _, w := range words {
		c.Args = append(c.Args, lit(w))
	}
	return &syntax.Stmt{Cmd: c}
}

// node does what needs no surroundings.
func (p *program) node(n syntax.Node) {
	switch n := n.(type) {
	case *syntax.CallExpr:
		if len(n.Args) > 0 {
			if name, _ := literal(n.Args[0]); name == "shift" {
				count := &syntax.Word{Parts: []syntax.WordPart{&syntax.DblQuoted{Parts: []syntax.WordPart{&syntax.ParamExp{Short: true, Param: &syntax.Lit{Value: "#"}}}}}}
				n.Args = append([]*syntax.Word{{Parts: []syntax.WordPart{&syntax.Lit{ValuePos: n.Args[0].Pos(), Value: shiftName}}}, count}, n.Args[1:]...)
			}
		}
		if p.dialect != Bash {
			for _, w := range n.Args {
				escapeBraces(w)
			}
		}
	case *syntax.WordIter:
		if p.dialect != Bash {
			for _, w := range n.Items {
				escapeBraces(w)
			}
		}
	case *syntax.Word:
		n.Parts = p.parts(n.Parts)
	case *syntax.DblQuoted:
		n.Parts = p.parts(n.Parts)
	case *syntax.Redirect:
		if n.Op == syntax.RdrClob {
			n.Op = syntax.RdrOut
			n.Word = &syntax.Word{Parts: append([]syntax.WordPart{&syntax.Lit{Value: clobberPrefix}}, n.Word.Parts...)}
		}
	}
}

// shiftName is shift with the number of parameters as its first argument.
const shiftName = hiddenPrefix + "shift"

// processID is what $$ gives: scripts use it for names of temporary files.
const processID = "7"

func (p *program) parts(parts []syntax.WordPart) []syntax.WordPart {
	for i, part := range parts {
		if e, ok := part.(*syntax.ParamExp); ok && e.Param != nil && e.Param.Value == "$" {
			parts[i] = &syntax.Lit{ValuePos: e.Pos(), Value: processID}
		}
	}
	return parts
}

// escapeBraces makes { in a word an ordinary character.
func escapeBraces(w *syntax.Word) {
	for _, part := range w.Parts {
		l, ok := part.(*syntax.Lit)
		if !ok || !strings.Contains(l.Value, "{") {
			continue
		}
		var b strings.Builder
		for i := 0; i < len(l.Value); i++ {
			switch c := l.Value[i]; {
			case c == '\\' && i+1 < len(l.Value):
				b.WriteString(l.Value[i : i+2])
				i++
			case c == '{':
				b.WriteString(`\{`)
			default:
				b.WriteByte(c)
			}
		}
		l.Value = b.String()
	}
}

// stmts does what depends on whether set -e is ignored where a command stands: in
// conditions, before && and ||, and behind !.
func (p *program) stmts(list []*syntax.Stmt, ignored bool) {
	for _, s := range list {
		p.stmt(s, ignored)
	}
}

func (p *program) stmt(s *syntax.Stmt, ignored bool) {
	if s.Negated {
		ignored = true
	}
	for _, r := range s.Redirs {
		p.substitutions(r, ignored)
	}
	switch c := s.Cmd.(type) {
	case nil:
	case *syntax.CallExpr, *syntax.DeclClause, *syntax.ArithmCmd, *syntax.LetClause, *syntax.TestClause:
		p.substitutions(c, ignored)
		if d, ok := c.(*syntax.DeclClause); ok {
			p.local(s, d)
		}
		if e, ok := c.(*syntax.CallExpr); ok && p.dialect != Bash && len(e.Args) == 1 && len(s.Redirs) > 0 && !s.Negated {
			if name, _ := literal(e.Args[0]); name == ":" || name == "exec" {
				inner := *s
				code := "2"
				if p.dialect == Ash {
					code = "1" // of a redirection only; busybox's other errors end with 2
				}
				*s = syntax.Stmt{Position: s.Position, Cmd: &syntax.Block{Stmts: []*syntax.Stmt{{Cmd: &syntax.BinaryCmd{Op: syntax.OrStmt, X: &inner, Y: stmtOf("exit", code)}}}}}
			}
		}
	case *syntax.Block:
		p.stmts(c.Stmts, ignored)
	case *syntax.Subshell:
		p.stmts(c.Stmts, ignored)
		if ignored && p.errexit {
			c.Stmts = append([]*syntax.Stmt{stmtOf("set", "+e")}, c.Stmts...)
		}
	case *syntax.IfClause:
		for i := c; i != nil; i = i.Else {
			p.stmts(i.Cond, true)
			p.stmts(i.Then, ignored)
		}
	case *syntax.WhileClause:
		p.stmts(c.Cond, true)
		p.stmts(c.Do, ignored)
	case *syntax.ForClause:
		if w, ok := c.Loop.(*syntax.WordIter); ok {
			for _, item := range w.Items {
				p.substitutions(item, ignored)
			}
		} else {
			p.substitutions(c.Loop, ignored)
		}
		p.stmts(c.Do, ignored)
	case *syntax.CaseClause:
		p.substitutions(c.Word, ignored)
		for _, item := range c.Items {
			for _, w := range item.Patterns {
				p.substitutions(w, ignored)
			}
			p.stmts(item.Stmts, ignored)
		}
	case *syntax.FuncDecl:
		p.stmt(c.Body, false)
	case *syntax.TimeClause:
		if c.Stmt == nil {
			s.Cmd = stmtOf(":").Cmd
			break
		}
		p.stmt(c.Stmt, ignored)
		s.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{c.Stmt}}
	case *syntax.BinaryCmd:
		if c.Op == syntax.AndStmt || c.Op == syntax.OrStmt {
			p.stmt(c.X, true)
			p.stmt(c.Y, ignored)
			break
		}
		p.stmt(c.X, ignored)
		p.stmt(c.Y, ignored)
		if ignored && p.errexit {
			c.X = &syntax.Stmt{Cmd: &syntax.Subshell{Stmts: []*syntax.Stmt{stmtOf("set", "+e"), c.X}}}
		}
		if _, ok := c.Y.Cmd.(*syntax.Subshell); !ok || len(c.Y.Redirs) > 0 {
			inner := []*syntax.Stmt{c.Y}
			if ignored && p.errexit {
				inner = []*syntax.Stmt{stmtOf("set", "+e"), c.Y}
			}
			c.Y = &syntax.Stmt{Cmd: &syntax.Subshell{Stmts: inner}}
		}
	}
	if s.Negated && p.errexit {
		switch s.Cmd.(type) {
		case *syntax.CallExpr, *syntax.TestClause, nil:
		default:
			s.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{{Cmd: &syntax.BinaryCmd{Op: syntax.AndStmt, X: &syntax.Stmt{Cmd: s.Cmd}, Y: stmtOf(":")}}}}
		}
	}
}

// substitutions looks for $(…) in the words of a command.
func (p *program) substitutions(n syntax.Node, ignored bool) {
	if n == nil {
		return
	}
	syntax.Walk(n, func(n syntax.Node) bool {
		c, ok := n.(*syntax.CmdSubst)
		if !ok {
			return true
		}
		bare := len(c.Stmts) == 1 && c.Stmts[0].Cmd == nil // $(<FILE)
		p.stmts(c.Stmts, ignored)
		// One simple command fails or not, with or without set -e.
		if len(c.Stmts) > 0 && !bare && p.errexit && (p.dialect == Bash || ignored) && !p.simple(c.Stmts) {
			c.Stmts = append([]*syntax.Stmt{stmtOf("set", "+e")}, c.Stmts...)
		}
		return false
	})
}

func (p *program) simple(list []*syntax.Stmt) bool {
	if len(list) != 1 {
		return false
	}
	c, ok := list[0].Cmd.(*syntax.CallExpr)
	if !ok || len(c.Args) == 0 {
		return false
	}
	// It could be a function, whose commands are many.
	name, known := literal(c.Args[0])
	return known && !p.functions[name] && name != "eval" && name != "." && name != "source"
}

// local makes `local x` of bash forget the value that x has outside.
func (p *program) local(s *syntax.Stmt, d *syntax.DeclClause) {
	if p.dialect != Bash || d.Variant.Value == "export" || d.Variant.Value == "readonly" {
		return
	}
	forget := &syntax.CallExpr{Args: []*syntax.Word{lit("unset"), lit("-v")}}
	for _, a := range d.Args {
		if a.Name == nil || !a.Naked {
			continue
		}
		if strings.HasPrefix(a.Name.Value, "-") {
			return // of a kind: it has no value yet
		}
		forget.Args = append(forget.Args, lit(a.Name.Value))
	}
	if d.Variant.Value != "local" || len(forget.Args) == 2 || s.Negated {
		return
	}
	s.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{{Cmd: d}, {Cmd: forget}}}
}

// text prints a rewritten script.
func (p *program) text() (string, error) {
	var b strings.Builder
	err := syntax.NewPrinter().Print(&b, p.file)
	return b.String(), err
}
