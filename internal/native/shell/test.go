package shell

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// test does test and [. That of the interpreter asks the host about owners, and
// fails on what isn't a file of the host.
func (sh *session) test(hc interp.HandlerContext, p *command.Proc) (int, error) {
	return sh.testArguments(p, hc.Env)
}

func (sh *session) testArguments(p *command.Proc, env expand.Environ) (int, error) {
	args := p.Args[1:]
	if p.Args[0] == "[" || strings.HasSuffix(p.Args[0], "/[") {
		if len(args) == 0 || args[len(args)-1] != "]" {
			sh.complain(p.Stderr, 0, "[", "missing ]")
			return 2, nil
		}
		args = args[:len(args)-1]
	}
	t := &tester{sh: sh, p: p, env: env, args: args}
	result := t.evaluate(args)
	switch {
	case t.err != nil:
		return 0, t.err
	case sh.failed() != nil:
		return 0, sh.failed()
	case t.message != "":
		sh.complain(p.Stderr, 0, p.Args[0], t.message)
		return 2, nil
	case result:
		return 0, nil
	}
	return 1, nil
}

type tester struct {
	sh      *session
	p       *command.Proc
	env     expand.Environ // nil for the program
	args    []string
	at      int
	message string // what test itself complains about
	err     error
}

func (t *tester) fail(format string, a ...any) bool {
	if t.message == "" {
		t.message = fmt.Sprintf(format, a...)
	}
	return false
}

// evaluate goes by the number of arguments, as POSIX says, so that [ "$x" = y ]
// works whatever x is.
func (t *tester) evaluate(args []string) bool {
	switch len(args) {
	case 0:
		return false
	case 1:
		return args[0] != ""
	case 2:
		if args[0] == "!" {
			return args[1] == ""
		}
		if !unaryOperator(args[0]) {
			return t.fail("%s: unexpected operator", args[0])
		}
		return t.unary(args[0], args[1])
	case 3:
		switch {
		case t.binaryOperator(args[1]):
			return t.binary(args[0], args[1], args[2])
		case args[1] == "-a":
			return args[0] != "" && args[2] != ""
		case args[1] == "-o":
			return args[0] != "" || args[2] != ""
		case args[0] == "!":
			return !t.evaluate(args[1:])
		case args[0] == "(" && args[2] == ")":
			return args[1] != ""
		}
		return t.fail("%s: unexpected operator", args[1])
	case 4:
		if args[0] == "!" {
			return !t.evaluate(args[1:])
		}
		if args[0] == "(" && args[3] == ")" {
			return t.evaluate(args[1:3])
		}
	}
	t.args, t.at = args, 0
	result := t.or()
	if t.at < len(t.args) {
		return t.fail("%s: unexpected operator", t.args[t.at])
	}
	return result
}

func (t *tester) peek() string {
	if t.at < len(t.args) {
		return t.args[t.at]
	}
	return ""
}

func (t *tester) or() bool {
	result := t.and()
	for t.message == "" && t.at < len(t.args) && t.peek() == "-o" {
		t.at++
		right := t.and()
		result = result || right
	}
	return result
}

func (t *tester) and() bool {
	result := t.not()
	for t.message == "" && t.at < len(t.args) && t.peek() == "-a" {
		t.at++
		right := t.not()
		result = result && right
	}
	return result
}

func (t *tester) not() bool {
	negated := false
	for t.at+1 < len(t.args) && t.peek() == "!" {
		negated, t.at = !negated, t.at+1
	}
	return t.primary() != negated
}

func (t *tester) primary() bool {
	left := len(t.args) - t.at
	if left == 0 {
		return t.fail("argument expected")
	}
	a := t.args[t.at]
	switch {
	case left >= 3 && t.binaryOperator(t.args[t.at+1]):
		t.at += 3
		return t.binary(a, t.args[t.at-2], t.args[t.at-1])
	case a == "(" && left >= 2:
		t.at++
		result := t.or()
		if t.peek() != ")" {
			return t.fail("closing paren expected")
		}
		t.at++
		return result
	case left >= 2 && unaryOperator(a):
		t.at += 2
		return t.unary(a, t.args[t.at-1])
	}
	t.at++
	return a != ""
}

func unaryOperator(op string) bool {
	return len(op) == 2 && op[0] == '-' && strings.IndexByte("bcdefghknprstuwxzLSOGNvo", op[1]) >= 0
}

func (t *tester) binaryOperator(op string) bool {
	switch op {
	case "=", "!=", "-eq", "-ne", "-gt", "-ge", "-lt", "-le", "-nt", "-ot", "-ef", "<", ">":
		return true
	case "==":
		return t.sh.script.Dialect != Dash || t.env == nil
	}
	return false
}

func (t *tester) integer(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		switch t.sh.script.Dialect {
		case Dash:
			t.fail("Illegal number: %s", s)
		case Ash:
			t.fail("%s: bad number", s)
		default:
			t.fail("%s: integer expression expected", s)
		}
	}
	return n
}

func (t *tester) file(name string, follow bool) (fs.FileInfo, bool) {
	if name == "" {
		return nil, false
	}
	fi, err := t.sh.lookup(t.sh.abs(t.p.Dir, name), follow)
	return fi, err == nil
}

func (t *tester) binary(x, op, y string) bool {
	switch op {
	case "=", "==":
		return x == y
	case "!=":
		return x != y
	case "<":
		return x < y
	case ">":
		return x > y
	case "-nt", "-ot", "-ef":
		a, okA := t.file(x, true)
		b, okB := t.file(y, true)
		switch {
		case op == "-ef":
			return okA && okB && t.same(x, y, a, b)
		case !okA || !okB:
			// dash wants both; the others take a file that isn't there for an old one.
			if t.sh.script.Dialect == Bash {
				return op == "-nt" && okA && !okB || op == "-ot" && okB && !okA
			}
			return false
		case op == "-nt":
			return a.ModTime().After(b.ModTime())
		}
		return a.ModTime().Before(b.ModTime())
	}
	a, b := t.integer(x), t.integer(y)
	switch op {
	case "-eq":
		return a == b
	case "-ne":
		return a != b
	case "-gt":
		return a > b
	case "-ge":
		return a >= b
	case "-lt":
		return a < b
	}
	return a <= b
}

func (t *tester) same(x, y string, a, b fs.FileInfo) bool {
	p, errP := t.sh.o.Tree.Resolve(t.sh.abs(t.p.Dir, x), true)
	q, errQ := t.sh.o.Tree.Resolve(t.sh.abs(t.p.Dir, y), true)
	if errP == nil && errQ == nil && path.Clean(p) == path.Clean(q) {
		return true
	}
	left, right := a.(info).Attr, b.(info).Attr
	return left.SameFile(&right)
}

func (t *tester) unary(op, x string) bool {
	kind := func(mode fs.FileMode) bool {
		fi, ok := t.file(x, true)
		return ok && fi.Mode()&mode != 0
	}
	allowed := func(want uint32) bool {
		return x != "" && t.sh.allowed(t.sh.abs(t.p.Dir, x), want) == nil
	}
	attr := func() (filetree.Attr, bool) {
		fi, ok := t.file(x, true)
		if !ok {
			return filetree.Attr{}, false
		}
		return fi.(info).Attr, true
	}
	switch op {
	case "-z":
		return x == ""
	case "-n":
		return x != ""
	case "-e":
		_, ok := t.file(x, true)
		return ok
	case "-f":
		fi, ok := t.file(x, true)
		return ok && fi.Mode().IsRegular()
	case "-d":
		return kind(fs.ModeDir)
	case "-b":
		fi, ok := t.file(x, true)
		return ok && fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0
	case "-c":
		return kind(fs.ModeCharDevice)
	case "-p":
		return kind(fs.ModeNamedPipe)
	case "-S":
		return kind(fs.ModeSocket)
	case "-h", "-L":
		fi, ok := t.file(x, false)
		return ok && fi.Mode()&fs.ModeSymlink != 0
	case "-k":
		return kind(fs.ModeSticky)
	case "-u":
		return kind(fs.ModeSetuid)
	case "-g":
		return kind(fs.ModeSetgid)
	case "-s":
		fi, ok := t.file(x, true)
		return ok && fi.Size() > 0
	case "-r":
		return allowed(4)
	case "-w":
		return allowed(2)
	case "-x":
		return allowed(1)
	case "-O":
		a, ok := attr()
		return ok && a.UID == t.sh.o.UID
	case "-G":
		a, ok := attr()
		return ok && a.GID == t.sh.o.GID
	case "-t":
		t.integer(x)
		return false
	case "-v":
		if t.env != nil && t.sh.script.Dialect == Bash && x != "" && !strings.Contains(x, "[") {
			return t.env.Get(x).IsSet()
		}
	}
	t.err = &command.Unsupported{Command: "test", What: "the operator " + op}
	return false
}
