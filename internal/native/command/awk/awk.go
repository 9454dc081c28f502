// Package awk interprets awk programs (POSIX.1-2017, awk). The awks that stages
// have, mawk on Debian and Ubuntu, gawk on others, and busybox's, take some things
// each in their own way; where they do, and nothing in the program says that it
// doesn't matter, the program is refused: when it is read if that shows it, else
// when it comes to such a thing. The order of for … in is busybox's in its stages;
// elsewhere, where no two versions have one order, that in which elements came.
//
// Texts are bytes, as in the POSIX locale. Nothing starts a process.
package awk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands gives the commands of this package. What they write is kept in memory.
func Commands() []*command.Command { return CommandsIn("") }

// CommandsIn gives the commands of this package. What large files they write is kept
// in the host's directory scratch, which has to outlive the trees.
func CommandsIn(scratch string) []*command.Command {
	return []*command.Command{{Name: "awk", Check: check, Run: func(ctx context.Context, p *command.Proc) (int, error) { return awk(ctx, p, scratch) }}}
}

var options = command.Options{Short: "F:v:f:", StopAtArgument: true}

// check reads the program, if it is there, as both dialects do: what neither takes
// is refused.
func check(args []*string) *command.Unsupported {
	if u := options.Check("awk")(args); u != nil {
		return u
	}
	i := 0
	for ; i < len(args); i++ {
		if args[i] == nil {
			return nil // an option, or the program
		}
		a := *args[i]
		switch {
		case a == "-F" || a == "-v":
			i++
			continue
		case strings.HasPrefix(a, "-f"):
			return nil
		case a == "--":
			i++
		case len(a) > 1 && a[0] == '-':
			continue
		}
		break
	}
	if i >= len(args) || args[i] == nil {
		return nil
	}
	_, err := parse(*args[i], false)
	if err == nil {
		return nil
	}
	if _, other := parse(*args[i], true); other == nil {
		return nil
	}
	if u := (*command.Unsupported)(nil); errors.As(err, &u) {
		return u
	}
	return refuse("a program with a mistake, %v,", err)
}

func awk(ctx context.Context, p *command.Proc, scratch string) (int, error) {
	opt, err := options.Parse("awk", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	failed := 2
	busybox := p.Dialect == command.Busybox
	if busybox {
		failed = 1
	}
	source, args, err := programOf(p, opt)
	if err != nil {
		if command.Fatal(err) {
			return failed, err
		}
		_, _ = p.Errorf("%s", command.Reason(err))
		return failed, nil
	}
	if source == nil {
		_, _ = p.Errorf("a program is missing")
		return failed, nil
	}
	prog, err := parse(*source, busybox)
	if s := (*syntax)(nil); errors.As(err, &s) {
		if busybox {
			return failed, refuse("a program with a mistake, %v,", s) // some of them it takes
		}
		_, _ = p.Errorf("%v", s)
		return failed, nil
	}
	if err != nil {
		return failed, err
	}
	in := newInterpreter(ctx, p, prog, scratch)
	err = in.protect(func() { in.start(opt, args) })
	if err == nil {
		err = in.run()
	}
	if ferr := in.out.Flush(); ferr != nil && err == nil {
		err = errNobodyReads
	}
	err = errors.Join(err, in.finish())
	var r *runtimeError
	switch {
	case errors.Is(err, errNobodyReads):
		return failed, nil
	case errors.As(err, &r):
		_, _ = fmt.Fprintf(p.Stderr, "%s: %s\n", base(p), r.what)
		return failed, nil
	}
	return in.exit, err
}

// programOf gives the text of the program, nil if there is none, and the arguments
// after it.
func programOf(p *command.Proc, opt *command.Parsed) (*string, []string, error) {
	if !opt.Has["f"] {
		if len(opt.Args) == 0 {
			return nil, nil, nil
		}
		return &opt.Args[0], opt.Args[1:], nil
	}
	var out strings.Builder
	for _, name := range opt.All["f"] {
		r, err := p.Input(name)
		if err != nil {
			return nil, nil, err
		}
		b, err := io.ReadAll(io.LimitReader(r, 16<<20))
		_ = r.Close()
		if err != nil {
			return nil, nil, err
		}
		out.Write(b)
		out.WriteByte('\n')
	}
	s := out.String()
	return &s, opt.Args, nil
}

func newInterpreter(ctx context.Context, p *command.Proc, prog *program, scratch string) *interpreter {
	return &interpreter{
		ctx: ctx, p: p, prog: prog, scratch: scratch, regexps: &regexps{busybox: prog.busybox},
		globals: make([]cell, prog.globals), ranges: make([]bool, len(prog.rules)), joined: true, split: true, recordClass: unset,
		fs: " ", ofs: " ", ors: "\n", rs: "\n", subsep: "\x1c", convfmt: "%.6g", ofmt: "%.6g", splitFS: splitter{blank: true},
		out: bufio.NewWriterSize(p.Stdout, 1<<14), outputs: map[string]*outputFile{}, inputs: map[string]*records{},
	}
}

// start gives the variables their first values.
func (in *interpreter) start(opt *command.Parsed, args []string) {
	for index, s := range map[int]string{varFS: " ", varOFS: " ", varORS: "\n", varRS: "\n", varSUBSEP: "\x1c", varCONVFMT: "%.6g", varOFMT: "%.6g", varFILENAME: ""} {
		in.globals[index].v = literal(s)
	}
	in.globals[varRSTART].v, in.globals[varRLENGTH].v = numeric(0), numeric(-1)
	env := newArray(in.prog.busybox)
	for _, name := range slices.Sorted(maps.Keys(in.p.Env)) {
		*env.at(name) = fromInput(in.p.Env[name])
	}
	in.globals[varENVIRON].arr = env
	argv := newArray(in.prog.busybox)
	*argv.at("0") = literal("awk")
	for i, a := range args {
		*argv.at(strconv.Itoa(i + 1)) = fromInput(a)
	}
	in.globals[varARGV].arr = argv
	in.globals[varARGC].v = numeric(float64(len(args) + 1))
	for _, o := range opt.Order {
		switch o.Name {
		case "F":
			in.setSpecial(varFS, literal(in.separator(o.Value)))
		case "v":
			if !in.assignArgument(o.Value) {
				in.runtime("-v %s is no assignment", o.Value)
			}
		}
	}
}

// separator reads the value of -F.
func (in *interpreter) separator(s string) string {
	if s == "t" && !in.prog.busybox {
		panic(failure{&command.Unsupported{Command: "awk", What: "-F t (which is a tab to some awks)", Fix: `-F '\t' or -F '[t]'`}})
	}
	if len(s) == 2 && s[0] == '\\' && strings.IndexByte(`|.*+?()[]{}^$`, s[1]) >= 0 {
		return s[1:] // whatever is made of the backslash, it is that character
	}
	text, err := escapes(s, in.prog.busybox)
	in.check(err)
	return text
}
