package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
)

// A build stage may call programs of its own base: make, npm, protoc, gcc. Such a
// stage is hosted: its base is that of this machine's platform, packages are
// installed for it, and its programs run in the sandbox. Go commands cross-compile
// as ever. What it makes is shared by all platforms, unless it reads a platform
// argument or compiles Go for the image.
//
// A stage is hosted because an instruction needs it. Most say so by the names of
// their commands, before anything runs; a script of the context says so when it
// is read, and then the evaluation begins again with what is known now. The same
// instruction may be part of a hosted stage and of one that isn't (a stage that two
// others begin FROM): these are two evaluations with keys of their own.

// errHost is what a step fails with that needs a hosted stage and isn't in one.
var errHost = errors.New("programs of the base have to run")

// needsHost is errHost with the operation that it is about.
type needsHost struct{ op *dockerfile.Op }

func (e *needsHost) Error() string { return errHost.Error() }
func (e *needsHost) Unwrap() error { return errHost }

// host notes that an operation calls programs of its stage's base.
func (b *Build) host(op *dockerfile.Op) {
	b.hostedMu.Lock()
	defer b.hostedMu.Unlock()
	b.hosted[op] = true
}

// isHosted reports whether an operation is in a hosted stage: it, or one before it in
// the stage, calls programs.
func (b *Build) isHosted(op *dockerfile.Op) bool {
	b.hostedMu.Lock()
	defer b.hostedMu.Unlock()
	for at := op; at != nil; at = baseOf(at) {
		if b.hosted[at] {
			return true
		}
	}
	return false
}

// cantHost says why programs of an operation's stage can't run here; nil if they can.
func (b *Build) cantHost(g *dockerfile.Graph, op *dockerfile.Op) *command.Unsupported {
	source := sourceOf(op)
	switch {
	case b.o.Runner.Name() != "sandbox":
		return &command.Unsupported{What: "a program of the stage's base, which needs the sandbox", Fix: "--sandbox require says why there is none here"}
	case source == nil || source.Source.Image == "":
		return &command.Unsupported{What: "a program in a stage without a base image", Fix: "a base image in FROM, and COPY --from of what the stage makes"}
	case b.final[op]:
		return &command.Unsupported{What: "a program of the image itself",
			Fix: "a stage of its own, FROM --platform=$BUILDPLATFORM, and COPY --from of what it makes"}
	case source.Platform != nil && *source.Platform != b.o.BuildPlatform && *source.Platform != g.Platform:
		return &command.Unsupported{What: "a program for " + source.Platform.String(),
			Fix: "FROM --platform=$BUILDPLATFORM for this stage"}
	}
	return nil
}

// refuseHost is the refusal of a program that can't run.
func (b *Build) refuseHost(op *dockerfile.Op, place, word string, u *command.Unsupported) *refusal.Error {
	return b.refuse("PA160", place, "", word+": "+u.What+" can't run here", u.Fix, otherEngine)
}

// sourceOf is the operation that the stage of op begins with; nil if it isn't known.
func sourceOf(op *dockerfile.Op) *dockerfile.Op {
	for at := op; at != nil; at = baseOf(at) {
		if at.Source != nil {
			return at
		}
	}
	return nil
}

// baseOf is the operation whose file system another one changes; nil for none.
func baseOf(op *dockerfile.Op) *dockerfile.Op {
	if at := baseIndex(op); at >= 0 && at < len(op.Inputs) {
		return op.Inputs[at].Op
	}
	return nil
}

// baseIndex is the input whose file system an operation changes; -1 for none.
func baseIndex(op *dockerfile.Op) int {
	switch {
	case op.Exec != nil:
		for _, m := range op.Exec.Mounts {
			if m.Target == "/" {
				return m.Input
			}
		}
	case len(op.File) > 0:
		return baseInput(op.File, op.File[len(op.File)-1].Output, len(op.Inputs))
	case op.Merge:
		return 0
	}
	return -1
}

// hostedBase is the first state of a hosted stage.
func (b *Build) hostedBase(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op) (*state, error) {
	pinned := b.pinned(g, op)
	key := fmt.Sprintf("hosted %v %s", pinned, op.Self)
	value, err := shared(ctx, &b.memo, key, func() (any, error) {
		img, err := b.o.Image(ctx, op.Source.Image, b.o.BuildPlatform)
		if err != nil {
			return nil, b.locate(op, err)
		}
		st := &stage{image: img, ref: op.Source.Image, goBuilder: goVersion(img.Config.Config.Env) != "", pinned: pinned, hosted: true, dialect: command.GNU}
		s := &state{stage: st, deferred: &deferrals{}, key: key}
		if strings.Contains(op.Source.Image, "@") {
			s.identity = identify(func(context.Context) (string, error) {
				return fmt.Sprintf("hosted %q %q %v", op.Source.Image, b.o.BuildPlatform.String(), pinned), nil
			})
		}
		if isAlpine(op.Source.Image, img) {
			st.dialect = command.Busybox
		}
		if s.tree, err = b.files(ctx, st.ref, img); err == nil && !st.goBuilder {
			st.dialect = dialectOf(s.tree)
		}
		return s, err
	})
	if err != nil {
		return nil, err
	}
	return value.(*state), nil
}

// saysHosted tells that a program of a base will run here.
func (b *Build) saysHosted(op *dockerfile.Op, place, name string) {
	text := fmt.Sprintf("%s: %s runs in the sandbox, from %s for %s", place, name, repository(sourceOf(op).Source.Image), b.o.BuildPlatform)
	if _, said := b.warned.LoadOrStore(text, true); !said {
		b.o.Event.Note("", "", progress.Build, text)
	}
}

// notOfTheBase are commands that work on the stage's files and databases as the owner
// of all of them, which no program in the sandbox is: ours do it, or nobody.
func notOfTheBase(name string) bool {
	return name == "go" || slices.Contains(packageManagers, name) || slices.Contains(accountCommands, name) || name == "dpkg" || name == "chown" || name == "chgrp" || name == "setcap"
}

// hostedCommands are the commands of a hosted stage: where one of ours can't do what
// it is asked for, the stage's own program does it.
func (in *invocation) hostedCommands(set command.Set) command.Set {
	all := command.Set{}
	for name, c := range set {
		if notOfTheBase(name) {
			all[name] = c
			continue
		}
		all[name] = &command.Command{Name: name, Run: func(ctx context.Context, p *command.Proc) (int, error) { return in.runEither(ctx, c, p) }}
	}
	return all
}

// runEither runs a command of ours, or the stage's program of that name.
func (in *invocation) runEither(ctx context.Context, c *command.Command, p *command.Proc) (int, error) {
	at := in.lookPath(p)
	if at == "" {
		return c.Run(ctx, p)
	}
	args := make([]*string, len(p.Args)-1)
	for i := range args {
		args[i] = &p.Args[i+1]
	}
	if c.Name != "git" && (c.Check == nil || c.Check(args) == nil) {
		if isShell[c.Name] {
			return c.Run(ctx, p) // what scripts say is asked for each of their commands
		}
		before, q, io := in.tree.Fork(), *p, &untouched{}
		q.Stdin, q.Stdout, q.Stderr = io.reader(p.Stdin), io.writer(p.Stdout), io.writer(p.Stderr)
		exit, err := c.Run(ctx, &q)
		var u *command.Unsupported
		if !errors.As(err, &u) || io.touched.Load() || len(filetree.Diff(before, in.tree)) > 0 {
			return exit, err
		}
	}
	exit, _, err := in.program(ctx, at, p)
	return exit, err
}

var isShell = map[string]bool{"sh": true, "ash": true, "dash": true, "bash": true}

// untouched notices that a command has read or written something.
type untouched struct{ touched atomic.Bool }

func (u *untouched) reader(r io.Reader) io.Reader { return &touchReader{u, r} }
func (u *untouched) writer(w io.Writer) io.Writer { return &touchWriter{u, w} }

type touchReader struct {
	u *untouched
	r io.Reader
}

func (t *touchReader) Read(b []byte) (int, error) {
	t.u.touched.Store(true)
	return t.r.Read(b)
}

type touchWriter struct {
	u *untouched
	w io.Writer
}

func (t *touchWriter) Write(b []byte) (int, error) {
	t.u.touched.Store(true)
	return t.w.Write(b)
}

// lookPath finds the file that a call means, by PATH; empty if there is none.
func (in *invocation) lookPath(p *command.Proc) string {
	name := p.Args[0]
	dirs := []string{""}
	if !strings.Contains(name, "/") {
		dirs = strings.Split(p.Env["PATH"], ":")
	}
	for _, dir := range dirs {
		at := path.Join(dir, name)
		if !path.IsAbs(at) {
			at = path.Join(p.Dir, at)
		}
		if a, err := in.tree.Stat(at); err == nil && a.IsRegular() && a.Mode.Perm()&0o111 != 0 {
			return at
		}
	}
	return ""
}

// hostedProblems checks a script as one of a hosted stage. whole says that the shell
// of the stage has to run it, since the interpreter can't; what is refused even then
// is in list.
func (in *invocation) hostedProblems(s shell.Script) (whole bool, programs, list []shell.Problem) {
	known := in.hostedCommands(in.commandSet())
	for _, p := range shell.Check(s, func(name string) (*command.Command, bool) {
		c, ok := known[name]
		return c, ok
	}) {
		switch {
		case p.Unsupported.What == notThere:
			programs = append(programs, p)
		case notOfTheBase(p.Unsupported.Command) || callsOwner(s.Text):
			list = append(list, p)
		default:
			whole = true
			programs = append(programs, p)
		}
	}
	return whole, programs, list
}

// notThere is what the shell says of a command that is no one's.
const notThere = "a command that isn't there"

// callsOwner reports whether a script calls one of the commands that only we can do.
func callsOwner(text string) bool {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return true
	}
	found := false
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			name := path.Base(literal(c.Args[0]))
			found = found || name != "go" && notOfTheBase(name)
		}
		return !found
	})
	return found
}

// neverGo are programs that never start Go: what they do is the same for every
// platform, though the stage is a Go builder.
var neverGo = []string{
	"npm", "npx", "yarn", "pnpm", "node", "corepack", "bun", "protoc", "buf", "cmake", "pip", "pip3", "python", "python3", "jq", "sqlc",
	"tailwindcss", "sass", "hugo", "tsc", "vite", "esbuild", "webpack", "upx", "strip", "file", "xz", "bzip2", "7z", "rsync", "ssh-keyscan", "openssl", "pwsh", "php", "ruby", "perl",
}

// hostedFree reports whether a RUN of a hosted stage does the same for every platform.
func (b *Build) hostedFree(st *stage, e *dockerfile.Exec) bool {
	return !st.goBuilder && goVersion(e.Env) == "" || !looksAt(e, func(words []string) bool {
		return len(words) > 0 && slices.Contains(neverGo, words[0]) || harmless(words)
	})
}
