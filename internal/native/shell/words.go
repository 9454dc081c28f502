package shell

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

func (p *program) assignment(n *syntax.Assign, lacks lacksFunc, sh bool, windowsNames map[string]string, stack []syntax.Node) {
	lacks(sh && n.Append, n, "+=", "+=", "x=$x…")
	lacks(sh && n.Index != nil, n, "[", "an array", "")
	if n.Name == nil {
		return
	}
	name := n.Name.Value
	switch {
	case n.Naked:
	case name == "PWD":
		p.add(n.Pos(), name, "setting PWD", "cd")
	case strings.HasPrefix(name, hiddenPrefix):
		p.add(n.Pos(), name, "the variable name "+name, "use another name")
	case name == "IFS":
		// The interpreter takes two separators in a row for one.
		text, known := "", true
		if n.Value != nil {
			text, known = literal(n.Value)
		}
		forRead := false
		if len(stack) > 1 {
			if c, ok := stack[len(stack)-2].(*syntax.CallExpr); ok && len(c.Args) > 0 {
				forRead = true
			}
		}
		if known && !forRead && strings.Trim(text, " \t\n") != "" && !(n.Value != nil && hasDollarQuote(n.Value)) {
			p.add(n.Pos(), "IFS", "splitting words at other characters than white space", "tr, cut, or IFS=… read")
		}
	default:
		if what, fix := reserved(name, p.dialect); what != "" && p.dialect != Dash {
			p.add(n.Pos(), name, what, fix)
		}
	}
	if windowsHost {
		if other, ok := windowsNames[strings.ToUpper(name)]; ok && other != name {
			p.add(n.Pos(), name, "the variables "+other+" and "+name+" together, on a Windows host", "")
		}
		windowsNames[strings.ToUpper(name)] = name
	}
}

func hasDollarQuote(w *syntax.Word) bool {
	for _, part := range w.Parts {
		if q, ok := part.(*syntax.SglQuoted); ok && q.Dollar {
			return true
		}
	}
	return false
}

func (p *program) arithmetic(n *syntax.BinaryArithm, lacks lacksFunc, dash bool) {
	op := n.Op.String()
	lacks(dash && (n.Op == syntax.Pow || n.Op == syntax.Comma || n.Op == syntax.PowAssgn), n, op, op+" in arithmetic", "")
	switch n.Op {
	case syntax.Quo, syntax.Rem, syntax.QuoAssgn, syntax.RemAssgn:
		// The interpreter goes on after a division by zero.
		if text, ok := number(n.Y); !ok || strings.Trim(text, "0") == "" {
			p.add(n.OpPos, op, "a division by what isn't a constant", "expr A / B, or awk")
		}
	case syntax.Shl, syntax.Shr, syntax.ShlAssgn, syntax.ShrAssgn, syntax.Pow, syntax.PowAssgn:
		if text, ok := number(n.Y); !ok || len(text) > 2 || text > "62" && len(text) == 2 {
			p.add(n.OpPos, op, op+" with what isn't a small constant", "")
		}
	}
}

func number(x syntax.ArithmExpr) (string, bool) {
	w, ok := x.(*syntax.Word)
	if !ok {
		return "", false
	}
	text, ok := literal(w)
	return text, ok && text != "" && strings.Trim(text, "0123456789") == ""
}

func (p *program) redirect(n *syntax.Redirect, lacks lacksFunc) {
	sh, dash := p.dialect != Bash, p.dialect == Dash
	op := n.Op.String()
	fd := ""
	if n.N != nil {
		fd = n.N.Value
	}
	text, known := "", false
	if n.Word != nil {
		text, known = literal(n.Word)
	}
	switch {
	case strings.HasPrefix(fd, "{"):
		p.add(n.Pos(), fd, "a redirection of "+fd, "use a file")
		return
	case fd != "" && fd != "0" && fd != "1" && fd != "2":
		p.add(n.Pos(), fd+op, "a redirection of file descriptor "+fd, "use a file")
		return
	}
	input := false
	switch n.Op {
	case syntax.RdrIn, syntax.Hdoc, syntax.DashHdoc:
		input = true
	case syntax.WordHdoc:
		input = true
		lacks(sh, n, op, "<<<", "echo … |")
	case syntax.DplIn:
		input = true
		if !known || text != "-" {
			p.add(n.Pos(), op, "the redirection <&"+text, "")
		}
	case syntax.DplOut:
		if !known || text != "1" && text != "2" && text != "-" {
			p.add(n.Pos(), op, "the redirection >&"+text, "> FILE 2>&1")
		}
	case syntax.RdrAll, syntax.AppAll:
		lacks(dash || p.dialect == Ash && n.Op == syntax.AppAll, n, op, op, "> FILE 2>&1")
	case syntax.RdrOut, syntax.AppOut:
	case syntax.RdrClob:
		if !known && n.Word != nil && strings.HasPrefix(firstLit(n.Word), "~") || strings.HasPrefix(text, "~") {
			p.add(n.Pos(), op, ">| with a ~", `>| "$HOME/…"`)
		}
	default:
		p.add(n.Pos(), op, "the redirection "+op, "")
	}
	if input && fd != "" && fd != "0" || !input && fd == "0" {
		p.add(n.Pos(), fd+op, "the redirection "+fd+op, "")
	}
	if !strings.HasPrefix(op, "<<") && known && strings.HasPrefix(text, "/dev/") {
		switch text {
		case "/dev/random", "/dev/urandom":
			p.add(n.Word.Pos(), text, text+" (a build has to give the same every time)", "")
		case "/dev/stdin":
			p.add(n.Word.Pos(), text, "a redirection from "+text, "leave the redirection out")
		}
		if strings.HasPrefix(text, "/dev/tcp/") || strings.HasPrefix(text, "/dev/udp/") {
			p.add(n.Word.Pos(), text, "a connection through "+text, "wget or curl")
		}
	}
}

func octalMistake(w *syntax.Word) bool {
	text := w.Lit()
	return len(text) > 1 && text[0] == '0' && strings.Trim(text, "0123456789") == "" && strings.ContainsAny(text, "89")
}

func firstLit(w *syntax.Word) string {
	if len(w.Parts) > 0 {
		if l, ok := w.Parts[0].(*syntax.Lit); ok {
			return l.Value
		}
	}
	return ""
}

// word finds patterns whose directory the interpreter would look up by its text,
// where a symbolic link leads elsewhere.
func (p *program) word(w *syntax.Word) {
	glob, text := false, ""
	for _, part := range w.Parts {
		if l, ok := part.(*syntax.Lit); ok {
			glob = glob || strings.ContainsAny(l.Value, "*?[")
			text += l.Value
		} else {
			text += "x"
		}
	}
	if glob && !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "~") && strings.Contains(strings.TrimPrefix(strings.TrimLeft(text, "./"), "/"), "/../") {
		p.add(w.Pos(), "..", "a pattern with .. behind a directory", "cd there first")
	}
}
