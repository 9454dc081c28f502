package native

import (
	"maps"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/dockerfile"
)

// sameEverywhere are commands that do the same whatever the platform is.
var sameEverywhere = strings.Fields(`: [ [[ test true false echo printf cd pwd export unset set shift read exit return
	cat cp mv rm mkdir rmdir ln chmod chown chgrp touch install mktemp ls basename dirname readlink realpath stat
	date sleep tee head tail wc sort uniq cut tr grep egrep fgrep sed find xargs tar gzip gunzip unzip sha256sum md5sum
	wget curl adduser addgroup useradd groupadd usermod groupmod passwd deluser delgroup apk apt-get apt
	update-ca-certificates userdel groupdel setcap getcap git id whoami env which command umask local eval seq expr diff cmp comm awk dpkg base64 od xxd nl tac paste fold rev sha1sum sha512sum busybox add-shell printenv`)

// sameGo are the go commands that do the same whatever GOOS and GOARCH are.
var sameGo = []string{"mod", "clean", "version", "fmt", "work", "help"}

// looksAtPlatform reports whether a RUN might do something else on another
// platform: it compiles, asks for the machine, or calls something unknown.
func looksAtPlatform(e *dockerfile.Exec) bool { return looksAt(e, harmless) }

func looksAt(e *dockerfile.Exec, harmless func(words []string) bool) bool {
	text, _, ok := shellForm(e.Args)
	if !ok {
		return !harmless(e.Args)
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return true
	}
	functions := map[string]bool{}
	syntax.Walk(file, func(n syntax.Node) bool {
		if f, ok := n.(*syntax.FuncDecl); ok {
			functions[f.Name.Value] = true
		}
		return true
	})
	looks := false
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		var words []string
		for _, w := range call.Args {
			words = append(words, w.Lit())
		}
		if !functions[words[0]] && !harmless(words) {
			looks = true
		}
		return !looks
	})
	return looks
}

// harmless reports whether a command line does the same on every platform. An
// empty word isn't known.
func harmless(words []string) bool {
	if len(words) == 0 || words[0] == "" {
		return false
	}
	name := path.Base(words[0])
	if strings.Contains(words[0], "/") && !strings.HasPrefix(words[0], "/bin/") && !strings.HasPrefix(words[0], "/usr/bin/") && !strings.HasPrefix(words[0], "/sbin/") {
		return false
	}
	switch name {
	case "go":
		sub := subcommand(words[1:])
		if sub == "env" {
			return slices.Contains(words, "-w") || slices.Contains(words, "-u")
		}
		return slices.Contains(sameGo, sub)
	case "command", "env", "xargs", "eval":
		return len(words) > 1 && harmless(words[1:])
	case "apk":
		return !slices.Contains(words, "--print-arch")
	}
	return slices.Contains(sameEverywhere, name)
}

// goBuilds lists the environments of the go commands in a RUN that compile for
// the image whatever happens, as far as they are written down. What a branch does
// isn't known before it runs.
func goBuilds(e *dockerfile.Exec) []map[string]string {
	base := map[string]string{} // what is known of variables; empty: nothing
	for _, kv := range e.Env {
		k, v, _ := strings.Cut(kv, "=")
		base[k] = v
	}
	text, _, ok := shellForm(e.Args)
	if !ok {
		if len(e.Args) > 1 && path.Base(e.Args[0]) == "go" && slices.Contains([]string{"build", "install"}, subcommand(e.Args[1:])) {
			return []map[string]string{base}
		}
		return nil
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil
	}
	var list []map[string]string
	take := func(env map[string]string, assigns []*syntax.Assign) {
		for _, a := range assigns {
			if a.Name == nil || a.Naked {
				continue
			}
			value := ""
			if a.Value != nil && !a.Append {
				value = expanded(a.Value, env)
			}
			env[a.Name.Value] = value
		}
	}
	var inside []bool // a branch, for each node that is being walked
	syntax.Walk(file, func(n syntax.Node) bool {
		if n == nil {
			inside = inside[:len(inside)-1]
			return true
		}
		branch := len(inside) > 0 && inside[len(inside)-1]
		inside = append(inside, branch || branches(n))
		if branch {
			for _, a := range assigned(n) {
				base[a] = ""
			}
			return true
		}
		switch x := n.(type) {
		case *syntax.DeclClause:
			take(base, x.Args)
		case *syntax.CallExpr:
			if len(x.Args) == 0 {
				take(base, x.Assigns)
				return true
			}
			words := make([]string, len(x.Args))
			for i, w := range x.Args {
				words[i] = literal(w)
			}
			env := maps.Clone(base)
			take(env, x.Assigns)
			if path.Base(words[0]) == "env" {
				for i := range words {
					words[i] = expanded(x.Args[i], base)
				}
				words = words[1:]
				for len(words) > 0 && strings.Contains(words[0], "=") {
					k, v, _ := strings.Cut(words[0], "=")
					env[k], words = v, words[1:]
				}
			}
			if len(words) == 0 || path.Base(words[0]) != "go" {
				return true
			}
			sub := subcommand(words[1:])
			tool := sub == "install" && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "@") })
			if sub == "build" || sub == "install" && !tool {
				list = append(list, env)
			}
		}
		return true
	})
	return list
}

// branches reports whether what is in a node may run or not.
func branches(n syntax.Node) bool {
	switch x := n.(type) {
	case *syntax.IfClause, *syntax.CaseClause, *syntax.WhileClause, *syntax.ForClause, *syntax.FuncDecl, *syntax.CmdSubst:
		return true
	case *syntax.BinaryCmd:
		if x.Op == syntax.AndStmt {
			switch c := x.X.Cmd.(type) {
			case *syntax.TestClause:
				return true
			case *syntax.CallExpr:
				return len(c.Args) > 0 && slices.Contains([]string{"[", "test", "grep"}, literal(c.Args[0]))
			}
		}
		return x.Op == syntax.OrStmt
	}
	return false
}

// assigned are the variables that a command of its own sets.
func assigned(n syntax.Node) []string {
	var assigns []*syntax.Assign
	switch x := n.(type) {
	case *syntax.DeclClause:
		assigns = x.Args
	case *syntax.CallExpr:
		if len(x.Args) == 0 {
			assigns = x.Assigns
		}
	}
	var names []string
	for _, a := range assigns {
		if a.Name != nil {
			names = append(names, a.Name.Value)
		}
	}
	return names
}

// callsGo reports whether a RUN calls the go command by name.
func callsGo(e *dockerfile.Exec) bool {
	text, _, ok := shellForm(e.Args)
	if !ok {
		return len(e.Args) > 0 && path.Base(e.Args[0]) == "go"
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return false
	}
	calls := false
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 && path.Base(literal(c.Args[0])) == "go" {
			calls = true
		}
		return !calls
	})
	return calls
}

// expanded is the value of a word of text and plain variables, of which all is known;
// else empty.
func expanded(w *syntax.Word, env map[string]string) string {
	var b strings.Builder
	var add func(parts []syntax.WordPart) bool
	add = func(parts []syntax.WordPart) bool {
		for _, part := range parts {
			switch x := part.(type) {
			case *syntax.Lit:
				b.WriteString(x.Value)
			case *syntax.SglQuoted:
				b.WriteString(x.Value)
			case *syntax.DblQuoted:
				if !add(x.Parts) {
					return false
				}
			case *syntax.ParamExp:
				plain := x.Param != nil && x.Exp == nil && x.Repl == nil && x.Slice == nil && x.Index == nil && !x.Excl && !x.Length && !x.Width
				if !plain || env[x.Param.Value] == "" {
					return false
				}
				b.WriteString(env[x.Param.Value])
			default:
				return false
			}
		}
		return true
	}
	if !add(w.Parts) {
		return ""
	}
	return b.String()
}

// literal is the value of a word that has nothing to expand, else empty.
func literal(w *syntax.Word) string {
	var b strings.Builder
	for _, part := range w.Parts {
		switch x := part.(type) {
		case *syntax.Lit:
			b.WriteString(x.Value)
		case *syntax.SglQuoted:
			b.WriteString(x.Value)
		case *syntax.DblQuoted:
			for _, inner := range x.Parts {
				l, ok := inner.(*syntax.Lit)
				if !ok {
					return ""
				}
				b.WriteString(l.Value)
			}
		default:
			return ""
		}
	}
	return b.String()
}
