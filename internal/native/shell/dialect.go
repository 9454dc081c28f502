package shell

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

// program is a script that was parsed.
type program struct {
	file      *syntax.File
	dialect   Dialect
	name      string
	functions map[string]bool // it defines
	errexit   bool            // it may have set -e
	loads     bool            // it has . or eval, so that it may define more
	extglob   bool            // it has shopt -s extglob
	problems  []Problem
}

// parse reads a script and finds what the dialect, or the interpreter, doesn't have.
// The text is always read as bash: the narrower languages of the parser turn
// export and local into something that the interpreter doesn't know.
func parse(text string, d Dialect, name string, options []string) (*program, []Problem, error) {
	p := &program{dialect: d, name: name, functions: map[string]bool{}}
	for _, o := range options {
		p.errexit = p.errexit || strings.HasPrefix(o, "-") && strings.Contains(o, "e") || o == "errexit"
	}
	if i := strings.Index(text, "\r\n"); i >= 0 {
		p.add(syntax.NewPos(uint(i), uint(1+strings.Count(text[:i], "\n")), 1), "", "Windows line ends in the script", "write the file with Unix line ends: dos2unix FILE") //nolint:gosec // small
		return p, p.problems, nil
	}
	if strings.Contains(text, "\x00") {
		return p, nil, errors.New("the script has a zero byte")
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), name)
	if err != nil {
		var pe syntax.ParseError
		if errors.As(err, &pe) {
			err = fmt.Errorf("line %d: %s", pe.Pos.Line(), pe.Text)
		}
		return p, nil, err
	}
	p.file = file
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.FuncDecl:
			if n.Name != nil {
				p.functions[n.Name.Value] = true
			}
		case *syntax.CallExpr:
			if len(n.Args) == 0 {
				break
			}
			all := make([]string, len(n.Args))
			for i, w := range n.Args {
				all[i], _ = literal(w)
			}
			switch strings.TrimPrefix(all[0], `\`) {
			case ".", "source", "eval":
				p.loads = true
			case "shopt":
				p.extglob = p.extglob || strings.Contains(strings.Join(all, " "), "extglob")
			case "set":
				for i, a := range all[1:] {
					_, known := literal(n.Args[i+1])
					p.errexit = p.errexit || !known || a == "errexit" || strings.HasPrefix(a, "-") && strings.Contains(a, "e")
				}
			}
		}
		return true
	})
	p.constructs()
	p.readonly()
	if p.errexit {
		p.conditions()
	}
	return p, p.problems, nil
}

func (p *program) add(pos syntax.Pos, word, what, fix string) {
	p.problems = append(p.problems, Problem{Line: int(pos.Line()), Col: int(pos.Col()), Word: word, //nolint:gosec // small
		Unsupported: &command.Unsupported{Command: p.name, What: what, Fix: fix}})
}

// constructs finds what can't be done exactly, and what the dialect doesn't have.
func (p *program) constructs() {
	sh := p.dialect != Bash
	dash := p.dialect == Dash
	shell := map[Dialect]string{Dash: "dash", Ash: "busybox ash", Bash: "bash"}[p.dialect]
	// lacks is what the shell of the stage itself would fail at.
	lacks := func(when bool, n syntax.Node, word, what, fix string) {
		if when {
			p.add(n.Pos(), word, what+" ("+shell+" doesn't have it)", fix)
		}
	}
	const useBash = `SHELL ["/bin/bash", "-c"]`
	windowsNames := map[string]string{}
	subshells := 0
	var stack []syntax.Node
	syntax.Walk(p.file, func(n syntax.Node) bool {
		if n == nil {
			switch stack[len(stack)-1].(type) {
			case *syntax.Subshell, *syntax.CmdSubst:
				subshells--
			}
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		switch n := n.(type) {
		case *syntax.Subshell, *syntax.CmdSubst:
			subshells++
			if c, ok := n.(*syntax.CmdSubst); ok && c.Backquotes && inBackquotes(stack[:len(stack)-1]) {
				// The parser splits the word there.
				p.add(n.Pos(), "`", "backquotes in backquotes", "$(…)")
			}
			if c, ok := n.(*syntax.CmdSubst); ok && (c.TempFile || c.ReplyVar) {
				p.add(n.Pos(), "${", "the substitution ${ …;}", "$(…)")
			}
			if c, ok := n.(*syntax.CmdSubst); ok && sh && len(c.Stmts) == 1 && c.Stmts[0].Cmd == nil && len(c.Stmts[0].Redirs) == 1 && c.Stmts[0].Redirs[0].Op == syntax.RdrIn {
				p.add(n.Pos(), "$(<", "$(<FILE), which is empty in sh", "$(cat FILE)")
			}
		case *syntax.Stmt:
			if n.Background || n.Disown {
				p.add(n.Semicolon, "&", "a job in the background (&)", "run it in the foreground")
			}
			if n.Coprocess {
				p.add(n.Semicolon, "|&", "a coprocess", "")
			}
		case *syntax.ProcSubst:
			p.add(n.Pos(), n.Op.String(), "process substitution ("+n.Op.String()+"…))", "write to a file first: … > /tmp/x")
		case *syntax.CoprocClause:
			p.add(n.Pos(), "coproc", "a coprocess", "")
		case *syntax.ForClause:
			if n.Select {
				p.add(n.Pos(), "select", "select (nobody answers)", "")
			}
			if _, ok := n.Loop.(*syntax.CStyleLoop); ok {
				lacks(sh, n, "for", "for ((…))", "while [ … ]; do … done")
			}
			lacks(n.Braces, n, "for", "for … { }", "for … do … done")
		case *syntax.FuncDecl:
			lacks(dash && n.RsrvWord, n, "function", "the word function", "NAME() { … }")
			if n.Name != nil && (interp.IsBuiltin(n.Name.Value) || strings.HasPrefix(n.Name.Value, hiddenPrefix)) {
				p.add(n.Pos(), n.Name.Value, "a function with the name of the builtin "+n.Name.Value, "give the function another name")
			}
			if n.Name != nil && sh && !syntax.ValidName(n.Name.Value) {
				lacks(dash, n, n.Name.Value, "the function name "+n.Name.Value, "a name of letters, digits and _")
			}
		case *syntax.TestClause:
			lacks(dash, n, "[[", "[[ … ]]", `[ … ], or `+useBash)
			p.tests(n.X)
		case *syntax.ArithmCmd:
			lacks(sh, n, "((", "((…))", "[ … ], or : $((…))")
		case *syntax.LetClause:
			lacks(dash, n, "let", "let", ": $((…))")
		case *syntax.TimeClause:
			lacks(dash, n, "time", "the word time", "leave it out")
		case *syntax.TestDecl:
			p.add(n.Pos(), "@test", "@test", "")
		case *syntax.BinaryCmd:
			lacks(sh && n.Op == syntax.PipeAll, n, "|&", "|&", "2>&1 |")
		case *syntax.CaseItem:
			lacks(sh && n.Op != syntax.Break, n, n.Op.String(), n.Op.String()+" in case", "")
		case *syntax.CaseClause:
			if n.Braces {
				p.add(n.Pos(), "case", "case … { }", "case … in … esac")
			}
		case *syntax.DeclClause:
			if n.Variant.Value == "local" && !inFunction(stack) {
				p.add(n.Pos(), "local", "local outside of a function", "")
			}
			p.declaration(n, lacks, sh)
		case *syntax.Assign:
			p.assignment(n, lacks, sh, windowsNames, stack)
		case *syntax.ArrayExpr:
			lacks(sh, n, "(", "an array", useBash)
		case *syntax.Redirect:
			p.redirect(n, lacks)
		case *syntax.ParamExp:
			p.parameter(n, lacks)
		case *syntax.SglQuoted:
			lacks(dash && n.Dollar, n, "$'", "$'…'", `"$(printf '…')"`)
		case *syntax.DblQuoted:
			lacks(sh && n.Dollar, n, `$"`, `$"…"`, `"…"`)
			if n.Dollar && !sh {
				p.add(n.Pos(), `$"`, `$"…" (a translation)`, `"…"`)
			}
		case *syntax.ExtGlob:
			if sh || !p.extglob && !inTest(stack) {
				p.add(n.Pos(), n.Op.String(), "the pattern "+n.Op.String()+"…)", "shopt -s extglob, in bash")
			}
		case *syntax.ArithmExp:
			if n.Bracket {
				lacks(sh, n, "$[", "$[…]", "$((…))")
			}
		case *syntax.UnaryArithm:
			lacks(dash && (n.Op == syntax.Inc || n.Op == syntax.Dec), n, n.Op.String(), n.Op.String()+" in arithmetic", "x=$((x + 1))")
		case *syntax.BinaryArithm:
			p.arithmetic(n, lacks, dash)
		case *syntax.Word:
			p.word(n)
			if len(stack) > 1 && octalMistake(n) {
				switch stack[len(stack)-2].(type) {
				case *syntax.ArithmExp, *syntax.ArithmCmd, *syntax.BinaryArithm, *syntax.UnaryArithm, *syntax.ParenArithm:
					p.add(n.Pos(), n.Lit(), "the number "+n.Lit()+" (octal, with a digit that isn't)", "")
				}
			}
		case *syntax.CallExpr:
			p.builtin(n, subshells > 0 || inPipe(stack))
		}
		return true
	})
}

func inBackquotes(stack []syntax.Node) bool {
	for _, n := range stack {
		if c, ok := n.(*syntax.CmdSubst); ok && c.Backquotes {
			return true
		}
	}
	return false
}

func inTest(stack []syntax.Node) bool {
	for _, n := range stack {
		switch n.(type) {
		case *syntax.TestClause, *syntax.CaseItem, *syntax.ParamExp:
			return true
		}
	}
	return false
}

func inFunction(stack []syntax.Node) bool {
	for _, n := range stack {
		if _, ok := n.(*syntax.FuncDecl); ok {
			return true
		}
	}
	return false
}

func inPipe(stack []syntax.Node) bool {
	for _, n := range stack {
		if b, ok := n.(*syntax.BinaryCmd); ok && (b.Op == syntax.Pipe || b.Op == syntax.PipeAll) {
			return true
		}
	}
	return false
}

type lacksFunc = func(when bool, n syntax.Node, word, what, fix string)

// tests looks at the inside of [[ ]], which the interpreter does by itself: it asks
// the host about owners and identity, and fails on names that aren't any.
func (p *program) tests(x syntax.TestExpr) {
	if x == nil {
		return
	}
	syntax.Walk(x, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst:
			return false
		case *syntax.BinaryTest:
			if n.Op == syntax.TsDevIno {
				p.add(n.OpPos, "-ef", "-ef in [[ ]]", "[ A -ef B ]")
			}
			if (n.Op == syntax.TsNewer || n.Op == syntax.TsOlder) && windowsHost {
				p.add(n.OpPos, n.Op.String(), n.Op.String()+" in [[ ]], on a Windows host", "[ … ]")
			}
			if n.Op == syntax.TsReMatch && p.dialect == Ash {
				p.add(n.OpPos, "=~", "=~ (busybox ash has other regular expressions)", "grep -E, or case")
			}
		case *syntax.UnaryTest:
			op := n.Op.String()
			text, known := "", false
			if w, ok := n.X.(*syntax.Word); ok {
				text, known = literal(w)
			}
			switch n.Op {
			case syntax.TsUsrOwn, syntax.TsGrpOwn:
				p.add(n.OpPos, op, op+" in [[ ]]", "[ "+op+" FILE ]")
			case syntax.TsModif:
				p.add(n.OpPos, op, op+" (there are no times of reading)", "")
			case syntax.TsVarSet, syntax.TsRefVar:
				if !known || !syntax.ValidName(text) || p.dialect != Bash {
					p.add(n.OpPos, op, op+" of a computed name", `[ -n "${NAME+x}" ]`)
				}
			case syntax.TsExists, syntax.TsRegFile, syntax.TsDirect, syntax.TsCharSp, syntax.TsBlckSp, syntax.TsNmPipe, syntax.TsSocket,
				syntax.TsSmbLink, syntax.TsSticky, syntax.TsUIDSet, syntax.TsGIDSet, syntax.TsRead, syntax.TsWrite, syntax.TsExec, syntax.TsNoEmpty:
				// The interpreter takes a/../b for b, which it isn't if a is a link.
				if windowsHost || strings.Contains(strings.TrimLeft(text, "./"), "/..") || strings.HasSuffix(text, "/") && n.Op == syntax.TsSmbLink {
					p.add(n.OpPos, op, op+" of such a path in [[ ]]", "[ "+op+" … ]")
				}
			}
		}
		return true
	})
}

func (p *program) declaration(n *syntax.DeclClause, lacks lacksFunc, sh bool) {
	v := n.Variant.Value
	switch v {
	case "declare", "typeset", "nameref":
		lacks(sh, n, v, v, "NAME=VALUE")
	}
	if v == "nameref" {
		p.add(n.Pos(), v, v, "")
	}
	if len(n.Args) == 0 {
		p.add(n.Pos(), v, v+" without a name (the list of variables)", "")
	}
	for _, a := range n.Args {
		text := ""
		if a.Name == nil {
			if a.Value == nil {
				continue
			}
			text, _ = literal(a.Value)
		} else if a.Naked {
			text = a.Name.Value
		}
		if !strings.HasPrefix(text, "-") && !strings.HasPrefix(text, "+") {
			continue
		}
		ok := (v == "declare" || v == "typeset") && strings.Trim(text[1:], "xraAg") == "" && text[0] == '-' && len(text) == 2 ||
			v == "local" && (text == "-a" || text == "-r" || text == "-A") && !sh
		if !ok {
			p.add(n.Pos(), v, "option "+text+" of "+v, "")
		}
	}
}

// reserved are variables that a shell computes and the interpreter doesn't, or from
// the host, or at random.
func reserved(name string, d Dialect) (what, fix string) {
	random := "the variable " + name + " (a build has to give the same every time)"
	switch name {
	case "RANDOM", "SRANDOM":
		return random, "mktemp for a name that is free"
	case "PPID", "LINENO":
		return "the variable " + name, ""
	case "_":
		return "the variable $_", ""
	}
	if d == Dash {
		return "", ""
	}
	switch name {
	case "SECONDS", "EPOCHSECONDS", "EPOCHREALTIME":
		return random, "date"
	}
	if d == Ash {
		return "", ""
	}
	switch name {
	case "PIPESTATUS", "FUNCNAME", "BASHPID", "SHLVL", "HOSTTYPE", "MACHTYPE", "OSTYPE", "GROUPS", "DIRSTACK", "SHELLOPTS", "BASHOPTS", "COLUMNS", "LINES", "MAPFILE", "PROMPT_COMMAND", "COPROC":
		return "the variable " + name, ""
	}
	if strings.HasPrefix(name, "BASH") && name != "BASH_REMATCH" && name != "BASH_ENV" {
		return "the variable " + name, ""
	}
	return "", ""
}

func (p *program) parameter(n *syntax.ParamExp, lacks lacksFunc) {
	if n.Param == nil {
		p.add(n.Pos(), "${", "this substitution", "")
		return
	}
	name := n.Param.Value
	if what, fix := reserved(name, p.dialect); what != "" {
		p.add(n.Pos(), name, what, fix)
	}
	if name == "!" && n.Short {
		p.add(n.Pos(), "$!", "$! (there are no jobs in the background)", "")
	}
	sh, dash := p.dialect != Bash, p.dialect == Dash
	lacks(sh && n.Excl, n, name, "${!…}", `eval "x=\$NAME"`)
	lacks(sh && n.Index != nil, n, name, "an array", "")
	lacks(dash && n.Slice != nil, n, name, "${"+name+":…:…}", "cut -c")
	lacks(dash && n.Repl != nil, n, name, "${"+name+"/…/…}", "sed s/…/…/")
	if n.Width || n.IsSet || n.Flags != nil || n.NestedParam != nil || len(n.Modifiers) > 0 || n.Split != 0 || n.GlobSubst != 0 || n.RcExpand != 0 {
		p.add(n.Pos(), name, "this substitution", "")
	}
	if n.Exp != nil {
		switch n.Exp.Op {
		case syntax.UpperFirst, syntax.UpperAll, syntax.LowerFirst, syntax.LowerAll, syntax.OtherParamOps:
			lacks(sh, n, name, "${"+name+n.Exp.Op.String()+"}", "tr a-z A-Z")
			if n.Exp.Op == syntax.OtherParamOps {
				p.add(n.Pos(), name, "${"+name+"@…}", "")
			}
		}
	}
}

// merge takes over what a text that is run later knows.
func (sh *session) merge(p *program) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	functions := maps.Clone(sh.functions)
	maps.Copy(functions, p.functions)
	sh.functions = functions
	sh.errexit = sh.errexit || p.errexit
}
