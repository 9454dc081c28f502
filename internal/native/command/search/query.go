package search

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// following says which symbolic links are followed.
type following int

const (
	followNothing   following = iota
	followArguments           // -H: those that find was called with
	followAll                 // -L
)

// query is what find was asked for.
type query struct {
	paths              []string
	follow             following
	depthFirst         bool
	minDepth, maxDepth int
	changes            bool // it has actions that may change the tree
	expression         func(*finder) (node, error)
}

// node is a part of the expression, made for one call.
type node interface {
	eval(ctx context.Context, v *visit) (bool, error)
}

type nodeFunc func(ctx context.Context, v *visit) (bool, error)

func (n nodeFunc) eval(ctx context.Context, v *visit) (bool, error) { return n(ctx, v) }

// maker makes a node for a call: it looks up what has to be looked up once, such as
// the number of a user.
type maker func(*finder) (node, error)

// usage is a mistake in the expression, which find itself would complain about.
type usage struct{ text string }

func (u *usage) Error() string { return u.text }

// parser reads the expression. An argument that is nil isn't known yet.
type parser struct {
	args    []*string
	at      int
	dialect command.Dialect
	q       *query
	unknown bool // nothing can be said about what follows
	acts    bool // it has an action, so that nothing is printed on its own
	delete  bool
	prune   bool
	depth   bool   // -depth itself
	regex   string // of -regextype
}

func parse(args []*string, dialect command.Dialect) (*query, error) {
	p := &parser{args: args, dialect: dialect, q: &query{maxDepth: math.MaxInt}}
	for ; p.at < len(args) && args[p.at] != nil; p.at++ {
		text := *args[p.at]
		if text == "--" {
			p.at++
			break
		}
		if len(text) < 2 || text[0] != '-' || strings.Trim(text[1:], "HLP") != "" {
			break
		}
		switch text[len(text)-1] {
		case 'H':
			p.q.follow = followArguments
		case 'L':
			p.q.follow = followAll
		case 'P':
			p.q.follow = followNothing
		}
	}
	for ; p.at < len(args); p.at++ {
		if args[p.at] == nil {
			continue // a path, or the expression in a variable
		}
		if text := *args[p.at]; strings.HasPrefix(text, "-") && text != "-" || text == "(" || text == "!" || text == ")" || text == "," {
			break
		}
		p.q.paths = append(p.q.paths, *args[p.at])
	}
	if len(p.q.paths) == 0 {
		p.q.paths = []string{"."}
	}
	expression := always
	if p.at < len(args) {
		var err error
		expression, err = p.list()
		if p.unknown {
			return p.q, nil
		}
		if err == nil && p.at < len(args) {
			err = p.mistake("invalid expression; you have too many ')'")
			if text := p.args[p.at]; text != nil && *text != ")" {
				err = &usage{"paths must precede expression: `" + *text + "'"}
			}
		}
		if err == nil && p.delete && p.prune && !p.depth && p.dialect == command.GNU {
			err = &usage{"The -delete action automatically turns on -depth, but -prune does nothing when -depth is in effect.  If you want to carry on anyway, just explicitly use the -depth option."}
		}
		if err != nil {
			return nil, err
		}
	}
	if !p.acts {
		expression = both(expression, printed("\n"), false)
	}
	p.q.expression = expression
	return p.q, nil
}

// always is what options are in an expression.
func always(*finder) (node, error) { return constant(true), nil }

func constant(result bool) node {
	return nodeFunc(func(context.Context, *visit) (bool, error) { return result, nil })
}

// simple makes a node that needs nothing looked up.
func simple(test func(v *visit) bool) maker {
	return func(*finder) (node, error) {
		return nodeFunc(func(_ context.Context, v *visit) (bool, error) { return test(v), nil }), nil
	}
}

// acting makes a node that uses the call.
func acting(do func(f *finder, v *visit) (bool, error)) maker {
	return func(f *finder) (node, error) {
		return nodeFunc(func(_ context.Context, v *visit) (bool, error) { return do(f, v) }), nil
	}
}

func printed(end string) maker {
	return acting(func(f *finder, v *visit) (bool, error) { return true, f.print(v.name + end) })
}

// both evaluates the second part unless the first has the result stop.
func both(a, b maker, stop bool) maker {
	return func(f *finder) (node, error) {
		left, err := a(f)
		if err != nil {
			return nil, err
		}
		right, err := b(f)
		if err != nil {
			return nil, err
		}
		return nodeFunc(func(ctx context.Context, v *visit) (bool, error) {
			if result, err := left.eval(ctx, v); err != nil || result == stop {
				return result, err
			}
			return right.eval(ctx, v)
		}), nil
	}
}

// peek gives the next argument; "" at the end, and for one that isn't known, after
// which nothing can be said.
func (p *parser) peek() string {
	if p.at >= len(p.args) || p.unknown {
		return ""
	}
	if p.args[p.at] == nil {
		p.unknown = true
		return ""
	}
	return *p.args[p.at]
}

func (p *parser) unsupported(what string) error {
	return &command.Unsupported{Command: "find", What: what}
}

// mistake is an expression that isn't one; busybox takes some of them.
func (p *parser) mistake(text string) error {
	if p.dialect == command.Busybox {
		return p.unsupported("the expression (" + text + ")")
	}
	return &usage{text}
}

// list reads parts with commas between them, of which GNU's evaluates all.
func (p *parser) list() (maker, error) {
	left, err := p.or()
	for err == nil && p.peek() == "," {
		if p.dialect == command.Busybox {
			return nil, p.unsupported("the operator ,")
		}
		p.at++
		var right maker
		if right, err = p.or(); err == nil {
			first := left
			left = func(f *finder) (node, error) {
				a, err := first(f)
				if err != nil {
					return nil, err
				}
				b, err := right(f)
				return nodeFunc(func(ctx context.Context, v *visit) (bool, error) {
					if _, err := a.eval(ctx, v); err != nil {
						return false, err
					}
					return b.eval(ctx, v)
				}), err
			}
		}
	}
	return left, err
}

func (p *parser) or() (maker, error) {
	left, err := p.and()
	for err == nil && (p.peek() == "-o" || p.peek() == "-or") {
		p.at++
		var right maker
		if right, err = p.and(); err == nil {
			left = both(left, right, true)
		}
	}
	return left, err
}

func (p *parser) and() (maker, error) {
	left, err := p.not()
	for err == nil && p.at < len(p.args) {
		switch p.peek() {
		case "-o", "-or", ")", ",":
			return left, nil
		case "-a", "-and":
			p.at++
		}
		if p.unknown {
			return left, nil
		}
		var right maker
		if right, err = p.not(); err == nil {
			left = both(left, right, false)
		}
	}
	return left, err
}

func (p *parser) not() (maker, error) {
	if text := p.peek(); text != "!" && text != "-not" {
		return p.primary()
	}
	p.at++
	inner, err := p.not()
	if err != nil || p.unknown {
		return always, err
	}
	return func(f *finder) (node, error) {
		n, err := inner(f)
		return nodeFunc(func(ctx context.Context, v *visit) (bool, error) {
			result, err := n.eval(ctx, v)
			return !result, err
		}), err
	}, nil
}

func (p *parser) primary() (maker, error) {
	text := p.peek()
	switch {
	case p.unknown:
		return always, nil
	case p.at >= len(p.args):
		return nil, p.mistake("invalid expression; an argument is missing")
	}
	p.at++
	switch text {
	case "(":
		if p.peek() == ")" {
			return nil, p.mistake("invalid expression; empty parentheses are not allowed.")
		}
		inner, err := p.list()
		if err != nil || p.unknown {
			return always, err
		}
		if p.peek() != ")" {
			if p.unknown {
				return always, nil
			}
			return nil, p.mistake("invalid expression; I was expecting to find a ')' somewhere but did not see one.")
		}
		p.at++
		return inner, nil
	case ")", "-a", "-and", "-o", "-or", ",":
		return nil, p.mistake("invalid expression; you have used a binary operator '" + text + "' with nothing before it.")
	case "-true", "-false":
		if p.dialect == command.Busybox {
			return nil, p.unsupported("the test " + text)
		}
		return simple(func(*visit) bool { return text == "-true" }), nil
	case "-depth", "-d":
		if text == "-d" && p.dialect == command.Busybox {
			return nil, p.unsupported("the option -d")
		}
		p.q.depthFirst, p.depth = true, true
		return always, nil
	case "-follow":
		p.q.follow = followAll
		return always, nil
	case "-noleaf", "-nowarn":
		if p.dialect == command.Busybox {
			return nil, p.unsupported("the option " + text)
		}
		return always, nil
	case "-print", "-print0":
		p.acts = true
		return printed(map[string]string{"-print": "\n", "-print0": "\x00"}[text]), nil
	case "-prune":
		p.prune = true
		return acting(func(f *finder, _ *visit) (bool, error) { f.pruned = true; return true, nil }), nil
	case "-quit":
		return acting(func(*finder, *visit) (bool, error) { return false, errQuit }), nil
	case "-delete":
		p.acts, p.delete, p.q.changes, p.q.depthFirst = true, true, true, true
		return acting((*finder).remove), nil
	case "-empty":
		return acting((*finder).isEmpty), nil
	case "-executable", "-readable", "-writable":
		if p.dialect == command.Busybox && text != "-executable" {
			return nil, p.unsupported("the test " + text)
		}
		return access(map[string]uint32{"-executable": 1, "-readable": 4, "-writable": 2}[text]), nil
	case "-nouser", "-nogroup":
		if p.dialect == command.Busybox {
			return nil, p.unsupported("the test " + text)
		}
		return unowned(text == "-nogroup"), nil
	case "-exec":
		return p.exec()
	}
	with := map[string]func(option, value string) (maker, error){
		"-name": p.name, "-iname": p.name, "-path": p.path, "-wholename": p.path, "-ipath": p.path, "-iwholename": p.path,
		"-regex": p.regexp, "-iregex": p.regexp, "-regextype": p.regexType, "-type": p.kind, "-maxdepth": p.depths, "-mindepth": p.depths,
		"-size": p.size, "-perm": p.perm, "-user": p.owner, "-group": p.owner, "-uid": p.owner, "-gid": p.owner, "-newer": p.newer, "-printf": p.printf,
	}[text]
	if with == nil || p.dialect == command.Busybox && slices.Contains([]string{"-iwholename", "-iregex", "-regextype", "-uid", "-gid", "-printf"}, text) {
		if !strings.HasPrefix(text, "-") {
			return nil, &usage{"paths must precede expression: `" + text + "'"}
		}
		what := "the test or action " + text
		if slices.Contains([]string{"-xdev", "-mount"}, text) {
			what = text + " (where a mount begins isn't known)"
		}
		return nil, p.unsupported(what)
	}
	if p.at >= len(p.args) {
		return nil, &usage{"missing argument to `" + text + "'"}
	}
	value := p.args[p.at]
	p.at++
	if value == nil {
		if text == "-regextype" {
			p.unknown = true
		}
		p.acts = p.acts || text == "-printf"
		return always, nil
	}
	return with(text, *value)
}

func (p *parser) glob(option, value string) (*pattern.Glob, error) {
	var flags pattern.Flags
	if strings.HasPrefix(option, "-i") {
		flags = pattern.Fold
	}
	g, err := pattern.ParseGlob(value, flags)
	if err != nil {
		return nil, p.unsupported(err.Error() + " in " + value)
	}
	return g, nil
}

func (p *parser) name(option, value string) (maker, error) {
	g, err := p.glob(option, value)
	return simple(func(v *visit) bool { return g.Match(base(v.name)) }), err
}

func (p *parser) path(option, value string) (maker, error) {
	g, err := p.glob(option, value)
	return simple(func(v *visit) bool { return g.Match(v.name) }), err
}

func (p *parser) regexType(_, value string) (maker, error) {
	switch value {
	case "posix-extended", "posix-egrep", "egrep", "posix-basic", "sed":
		p.regex = value
		return always, nil
	}
	return nil, p.unsupported("-regextype " + value)
}

func (p *parser) regexp(option, value string) (maker, error) {
	o := pattern.Options{Fold: option == "-iregex", Syntax: pattern.Extended}
	all := "^(" + value + ")$"
	switch {
	case p.dialect == command.Busybox, p.regex == "posix-basic", p.regex == "sed":
		o.Syntax, o.StrictBraces, all = pattern.Basic, p.dialect == command.Busybox, `^\(`+value+`\)$`
	case p.regex == "":
		return nil, &command.Unsupported{Command: "find", What: option + " with a regular expression of emacs", Fix: "find … -regextype posix-extended " + option + " …"}
	}
	re, err := pattern.Compile(all, o)
	if err != nil {
		return nil, p.unsupported(err.Error() + " in " + value)
	}
	return simple(func(v *visit) bool { return re.Match(v.name) }), nil
}

func (p *parser) kind(_, value string) (maker, error) {
	kinds := map[string]fs.FileMode{"f": 0, "d": fs.ModeDir, "l": fs.ModeSymlink, "b": fs.ModeDevice, "c": fs.ModeDevice | fs.ModeCharDevice, "p": fs.ModeNamedPipe, "s": fs.ModeSocket}
	var list []fs.FileMode
	for letter := range strings.SplitSeq(value, ",") {
		k, ok := kinds[letter]
		if !ok {
			return nil, &usage{"Unknown argument to -type: " + value}
		}
		list = append(list, k)
	}
	if len(list) > 1 && p.dialect == command.Busybox {
		return nil, p.unsupported("-type " + value)
	}
	return simple(func(v *visit) bool { return slices.Contains(list, v.Mode.Type()) }), nil
}

func (p *parser) depths(option, value string) (maker, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || value[0] == '+' {
		return nil, &usage{fmt.Sprintf("Expected a positive decimal integer argument to %s, but got '%s'", option, value)}
	}
	if option == "-maxdepth" {
		p.q.maxDepth = n
	} else {
		p.q.minDepth = n
	}
	return always, nil
}

// compared reads the sign of a number: + for more, - for less.
func compared(value string) (sign byte, rest string) {
	if value != "" && (value[0] == '+' || value[0] == '-') {
		return value[0], value[1:]
	}
	return '=', value
}

// size does -size: GNU's counts begun units, busybox compares bytes.
func (p *parser) size(_, value string) (maker, error) {
	sign, number := compared(value)
	digits := strings.TrimRight(number, "cwbkMG")
	n, err := strconv.ParseInt(digits, 10, 40)
	unit, ok := map[string]int64{"": 512, "b": 512, "c": 1, "w": 2, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[number[len(digits):]]
	if err != nil || !ok || digits == "" || digits[0] == '+' || digits[0] == '-' || p.dialect == command.Busybox && unit > 1<<10 {
		return nil, &usage{"invalid argument '" + value + "' to -size"}
	}
	return acting(func(_ *finder, v *visit) (bool, error) {
		size, known := sizeOf(v)
		if !known {
			return false, &command.Unsupported{Command: "find", What: "-size of a directory (which every file system has another one of)", Fix: "find … -type f -size " + value}
		}
		than := n
		if p.dialect == command.Busybox {
			than = n * unit
		} else {
			size = (size + unit - 1) / unit
		}
		switch sign {
		case '+':
			return size > than, nil
		case '-':
			return size < than, nil
		}
		return size == than, nil
	}), nil
}

// bits gives a mode as Unix has it.
func bits(m fs.FileMode) uint32 {
	b := uint32(m.Perm())
	for _, s := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&s.mode != 0 {
			b |= s.bit
		}
	}
	return b
}

func (p *parser) perm(_, value string) (maker, error) {
	sign, text := byte('='), value
	if value != "" && strings.IndexByte("-/+", value[0]) >= 0 {
		sign, text = value[0], value[1:]
	}
	if sign == '+' {
		if p.dialect == command.GNU {
			return nil, &command.Unsupported{Command: "find", What: "-perm " + value + " (which versions of find take differently)", Fix: "find … -perm /" + text}
		}
		sign = '/'
	}
	var want uint32
	if n, err := strconv.ParseUint(text, 8, 12); err == nil {
		want = uint32(n)
	} else {
		set, err := mode.ParseWithUmask(text, 0)
		if err != nil || text == "" || text[0] >= '0' && text[0] <= '9' {
			return nil, &usage{"invalid mode '" + value + "'"}
		}
		if strings.Contains(text, "X") {
			return nil, p.unsupported("-perm " + value)
		}
		want = bits(set.Apply(0))
	}
	if sign == '/' && want == 0 {
		return nil, p.unsupported("-perm " + value + " (which versions of find take differently)")
	}
	return simple(func(v *visit) bool {
		has := bits(v.Mode)
		switch sign {
		case '-':
			return has&want == want
		case '/':
			return has&want != 0
		}
		return has == want
	}), nil
}

func (p *parser) owner(option, value string) (maker, error) {
	ofGroup := option == "-group" || option == "-gid"
	test := func(sign byte, n int) node {
		return nodeFunc(func(_ context.Context, v *visit) (bool, error) {
			id := v.UID
			if ofGroup {
				id = v.GID
			}
			switch sign {
			case '+':
				return id > n, nil
			case '-':
				return id < n, nil
			}
			return id == n, nil
		})
	}
	if option == "-uid" || option == "-gid" {
		sign, number := compared(value)
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return nil, &usage{"invalid argument '" + value + "' to '" + option + "'"}
		}
		return func(*finder) (node, error) { return test(sign, n), nil }, nil
	}
	return func(f *finder) (node, error) {
		n, found, err := 0, false, error(nil)
		number, nerr := strconv.ParseUint(value, 10, 32)
		switch {
		case nerr == nil && p.dialect == command.Busybox:
		case ofGroup:
			n, found, err = command.LookupGroup(f.p.Tree, value)
		default:
			n, _, _, _, found, err = command.LookupUser(f.p.Tree, value)
		}
		kind := strings.TrimPrefix(option, "-")
		switch {
		case err != nil:
			return nil, err
		case found:
		case nerr == nil:
			n = int(number)
		case p.dialect == command.Busybox:
			return nil, &usage{"unknown " + kind + " " + value}
		case ofGroup:
			return nil, &usage{"'" + value + "' is not the name of an existing group"}
		default:
			return nil, &usage{"'" + value + "' is not the name of a known user"}
		}
		return test('=', n), nil
	}, nil
}

func unowned(ofGroup bool) maker {
	return acting(func(f *finder, v *visit) (bool, error) {
		var name string
		var err error
		if ofGroup {
			name, err = command.GroupName(f.p.Tree, v.GID)
		} else {
			name, err = command.UserName(f.p.Tree, v.UID)
		}
		return name == "", err
	})
}

// access does -executable and the like, which follow links.
func access(want uint32) maker {
	return acting(func(f *finder, v *visit) (bool, error) {
		a, err := f.p.Tree.Stat(v.at)
		if command.Fatal(err) {
			return false, err
		}
		if err != nil {
			return false, nil //nolint:nilerr // what leads nowhere isn't executable
		}
		return f.p.Permits(&a, want)
	})
}

func (p *parser) newer(_, value string) (maker, error) {
	return func(f *finder) (node, error) {
		a, err := f.stat(f.p.Path(value), f.query.follow != followNothing || p.dialect == command.Busybox)
		if command.Fatal(err) {
			return nil, err
		}
		if err != nil {
			if p.dialect == command.GNU {
				value = "'" + value + "'"
			}
			return nil, &usage{value + ": " + command.Reason(err)}
		}
		return nodeFunc(func(_ context.Context, v *visit) (bool, error) { return f.newer(v, a.ModTime) }), nil
	}, nil
}
