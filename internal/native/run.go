package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// invocation is one RUN while it runs.
type invocation struct {
	b        *Build
	op       *dockerfile.Op
	exec     *dockerfile.Exec
	platform platform.Platform // of the stage
	target   platform.Platform // of the image
	graph    *dockerfile.Graph
	bound    bool   // it runs once for each platform
	label    string // of the platform, empty if it runs for all
	stage    *stage
	tree     *filetree.Tree
	deferred *deferrals
	uid, gid int
	home     string
	mounted  []string // canonical paths of mounts in the tree
	script   shell.Script
	commands command.Set
	output   *tail

	heavyMu sync.Mutex
	heavy   int // processes that use all of the machine
}

// run executes a RUN.
func (b *Build) run(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs []*state) ([]*state, error) {
	root := rootState(op, inputs)
	if root == nil {
		return nil, errors.New("the instruction has no file system to run in")
	}
	in := &invocation{b: b, graph: g, op: op, exec: op.Exec, stage: root.stage, tree: root.tree.Fork(), deferred: root.deferred.clone(), target: g.Platform, platform: g.Platform}
	if root.loads != nil && in.tree.Lazy() {
		// With what this very step defers before it reads.
		in.tree = b.loading(ctx, root.tree, root.stage, in.deferred, *root.loads)
	}
	if op.Platform != nil {
		in.platform = *op.Platform
	}
	if root.stage != nil && root.stage.hosted {
		in.platform = b.o.BuildPlatform
	}
	in.bound = root.bound || !b.platformFree(op, inputs) && !(root.stage != nil && root.stage.pinned)
	in.label = b.label(g, op, in.bound)
	if err := in.user(); err != nil {
		return nil, err
	}
	unmount, err := in.mount(inputs)
	if err != nil {
		return nil, err
	}
	in.script = in.stage.script(op.Exec)
	in.commands = in.commandSet()
	in.output = &tail{limit: 64 << 10}
	exit, err := in.runShell(ctx)
	states, uerr := unmount()
	if serr := in.settle(context.WithoutCancel(ctx)); uerr == nil {
		uerr = serr
	}
	if err != nil {
		return nil, in.unsupported(err)
	}
	if exit != 0 {
		return nil, in.failed(exit)
	}
	if uerr != nil {
		return nil, uerr
	}
	outputs := make([]*state, 0, 1)
	for _, m := range op.Exec.Mounts {
		if m.Output < 0 {
			continue
		}
		for len(outputs) <= m.Output {
			outputs = append(outputs, nil)
		}
		if m.Target == "/" {
			outputs[m.Output] = &state{tree: in.tree, stage: root.stage, deferred: in.deferred, loads: root.loads}
		} else if t := states[m.Target]; t != nil {
			outputs[m.Output] = &state{tree: t, deferred: &deferrals{}}
		}
	}
	return outputs, nil
}

// failed is a RUN that ended with an exit code, with what it wrote last.
func (in *invocation) failed(exit int) error {
	seen := in.b.excerpt(in.op)
	seen = append(seen, in.output.lines(30)...)
	return &refusal.Error{Code: "PA107", Platform: in.label, Place: in.b.place(in.op),
		Summary: fmt.Sprintf("RUN ended with exit code %d", exit), Seen: seen}
}

// unsupported turns what a command can't do into a refusal with its line.
func (in *invocation) unsupported(err error) error {
	var u *command.Unsupported
	if errors.As(err, &u) {
		return in.b.refuseCommand(in.b.place(in.op), u)
	}
	return err
}

// script is what an instruction runs, and in which shell.
func (st *stage) script(e *dockerfile.Exec) shell.Script {
	if text, sh, ok := shellForm(e.Args); ok {
		return shell.Script{Text: text, Dialect: st.shellDialect(sh), Name: path.Base(sh), Options: shellOptions(e.Args)}
	}
	var words []string
	for _, a := range e.Args {
		words = append(words, quote(a))
	}
	return shell.Script{Text: strings.Join(words, " "), Dialect: shell.Bash, Name: "RUN"}
}

// shellForm recognises [SHELL, options…, -c, TEXT].
func shellForm(args []string) (text, sh string, ok bool) {
	if len(args) < 3 {
		return "", "", false
	}
	switch path.Base(args[0]) {
	case "sh", "ash", "dash", "bash":
	default:
		return "", "", false
	}
	last := args[len(args)-2]
	if !strings.HasPrefix(last, "-") || !strings.HasSuffix(last, "c") || strings.HasPrefix(last, "--") {
		return "", "", false
	}
	return args[len(args)-1], args[0], true
}

// shellOptions are the words between the shell and its -c TEXT, such as -e, -o
// and pipefail.
func shellOptions(args []string) []string {
	options := slices.Clone(args[1 : len(args)-2])
	if flags := strings.TrimSuffix(args[len(args)-2], "c"); flags != "-" {
		options = append(options, flags)
	}
	return options
}

// quote writes a word so that a shell reads it as it is.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// user finds who runs the command (USER), in the stage's own files.
func (in *invocation) user() error {
	in.home = "/root"
	text := in.exec.User
	if text == "" || text == "root" || text == "0" || text == "0:0" || text == "root:root" {
		return nil
	}
	name, group, hasGroup := strings.Cut(text, ":")
	uid, err := strconv.Atoi(name)
	known := false
	var gid int
	var home string
	if err != nil {
		uid, gid, home, _, known, err = command.LookupUser(in.tree, name)
		if err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
		}
	} else if entry, err := command.UserName(in.tree, uid); err == nil && entry != "" {
		_, gid, home, _, known, err = command.LookupUser(in.tree, entry)
		if err != nil {
			return err
		}
	}
	if known && home != "" {
		in.home = home
	} else {
		in.home = "/"
	}
	if hasGroup {
		if gid, err = strconv.Atoi(group); err != nil {
			var found bool
			if gid, found, err = command.LookupGroup(in.tree, group); err != nil {
				return err
			} else if !found {
				return fmt.Errorf("unable to find group %s: no matching entries in group file", group)
			}
		}
	}
	in.uid, in.gid = uid, gid
	return nil
}

// environment is what the command sees: that of the instruction, and what a
// container runtime adds.
func (in *invocation) environment() map[string]string {
	env := map[string]string{"HOME": in.home, "HOSTNAME": "buildkitsandbox"}
	for _, kv := range in.exec.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return env
}

// cacheMounts are the directories of RUN --mount=type=cache: what one instruction
// leaves there the next ones find, in this build.
type cacheMounts struct {
	mu    sync.Mutex
	trees map[string]*filetree.Tree
}

// mount puts the mounts of an instruction into its tree, and gives what takes them
// out again: the trees of mounts that are outputs, by target.
func (in *invocation) mount(inputs []*state) (func() (map[string]*filetree.Tree, error), error) {
	before := in.tree.Fork()
	type mounted struct {
		dockerfile.Mount
		at      string
		existed bool
	}
	var list []mounted
	var frozen []string // mounts that are read-only
	var made []string   // parents that were made for mounts
	for _, m := range in.exec.Mounts {
		if m.Target == "/" {
			continue
		}
		target := path.Join("/", m.Target)
		if !strings.HasPrefix(m.Target, "/") {
			target = path.Join("/", in.exec.Dir, m.Target)
		}
		if m.Kind == dockerfile.MountSSH {
			continue // refused before anything runs
		}
		if m.Kind == dockerfile.MountSecret && in.b.o.Secrets[m.ID] == nil {
			if m.Optional {
				continue
			}
			return nil, &refusal.Error{Code: "PA102", Place: in.b.place(in.op), Summary: fmt.Sprintf("the secret %s isn't given", m.ID),
				Fix: []string{fmt.Sprintf("--secret id=%s,src=FILE", m.ID), fmt.Sprintf("--secret id=%s,env=VARIABLE", m.ID)}}
		}
		parents, err := missingParents(in.tree, target)
		if err != nil {
			return nil, err
		}
		made = append(made, parents...)
		if err := in.tree.MkdirAll(path.Dir(target), filetree.Attr{Mode: 0o755, ModTime: in.b.now()}); err != nil {
			return nil, err
		}
		at, err := in.tree.Resolve(target, true)
		if err != nil {
			return nil, err
		}
		_, err = in.tree.Lstat(at)
		n := mounted{m, at, err == nil}
		if err := in.fill(n.Mount, at, inputs); err != nil {
			return nil, err
		}
		list = append(list, n)
		if m.Kind == dockerfile.MountBind && m.ReadOnly {
			frozen = append(frozen, at)
		}
		in.mounted = append(in.mounted, at)
	}
	in.tree.Freeze(frozen...)
	return func() (map[string]*filetree.Tree, error) {
		in.tree.Freeze()
		out := map[string]*filetree.Tree{}
		for _, m := range slices.Backward(list) {
			if m.Kind == dockerfile.MountCache || m.Kind == dockerfile.MountBind && m.Output >= 0 {
				t := filetree.New()
				if err := t.Attach("/mount", in.tree, m.at); err != nil {
					return nil, err
				}
				if m.Kind == dockerfile.MountCache {
					in.b.caches.mu.Lock()
					in.b.caches.trees[in.cacheKey(m.Mount)] = t
					in.b.caches.mu.Unlock()
				} else if m.Selector == "" || m.Selector == "/" {
					sub := filetree.New()
					if children, err := t.ReadDir("/mount"); err == nil {
						for _, c := range children {
							if err := sub.Attach("/"+c.Name, t, "/mount/"+c.Name); err != nil {
								return nil, err
							}
						}
					}
					out[m.Target] = sub
				}
			}
			if err := in.tree.Detach(m.at); err != nil {
				return nil, err
			}
			if m.existed {
				if err := in.tree.Attach(m.at, before, m.at); err != nil {
					return nil, err
				}
			}
		}
		for _, name := range slices.Backward(made) {
			if children, err := in.tree.ReadDir(name); err == nil && len(children) == 0 {
				if err := in.tree.Detach(name); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}, nil
}

// missingParents lists the directories above name that don't exist, outermost first.
func missingParents(t *filetree.Tree, name string) ([]string, error) {
	var list []string
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if _, err := t.Stat(dir); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		list = append(list, dir)
	}
	slices.Reverse(list)
	return list, nil
}

func (in *invocation) cacheKey(m dockerfile.Mount) string {
	return m.ID + " " + in.label
}

// fill puts the content of one mount at a canonical path.
func (in *invocation) fill(m dockerfile.Mount, at string, inputs []*state) error {
	now := in.b.now()
	empty := filetree.New()
	switch m.Kind {
	case dockerfile.MountSecret:
		value, err := in.b.o.Secrets[m.ID]()
		if err != nil {
			return err
		}
		mode := fs.FileMode(m.Mode)
		if mode == 0 {
			mode = 0o400
		}
		if err := in.tree.Detach(at); err != nil {
			return err
		}
		return in.tree.Put(at, filetree.Attr{Mode: mode.Perm(), UID: m.UID, GID: m.GID, ModTime: now, Content: filetree.Bytes(value).Content()})
	case dockerfile.MountBind:
		if m.Input >= 0 && m.Input < len(inputs) {
			sub := m.Selector
			if sub == "" {
				sub = "/"
			}
			return in.tree.Attach(at, inputs[m.Input].tree.Fork(), sub)
		}
	case dockerfile.MountCache:
		in.b.caches.mu.Lock()
		kept := in.b.caches.trees[in.cacheKey(m)]
		in.b.caches.mu.Unlock()
		if kept != nil {
			return in.tree.Attach(at, kept.Fork(), "/mount")
		}
		if m.Input >= 0 && m.Input < len(inputs) {
			sub := m.Selector
			if sub == "" {
				sub = "/"
			}
			return in.tree.Attach(at, inputs[m.Input].tree.Fork(), sub)
		}
	}
	if err := empty.Mkdir("/mount", filetree.Attr{Mode: 0o755, ModTime: now}); err != nil {
		return err
	}
	return in.tree.Attach(at, empty, "/mount")
}

// runShell runs the instruction's script.
func (in *invocation) runShell(ctx context.Context) (int, error) {
	env := in.environment()
	for _, s := range in.exec.SecretEnv {
		secret := in.b.o.Secrets[s.ID]
		if secret == nil {
			if s.Optional {
				continue
			}
			return 0, &refusal.Error{Code: "PA102", Place: in.b.place(in.op), Summary: fmt.Sprintf("the secret %s isn't given", s.ID),
				Fix: []string{fmt.Sprintf("--secret id=%s,env=%s", s.ID, s.Name)}}
		}
		value, err := secret()
		if err != nil {
			return 0, err
		}
		env[s.Name] = string(value)
	}
	dir := in.exec.Dir
	if dir == "" {
		dir = "/"
	}
	if a, err := in.tree.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		// As a container runtime does.
		if err := in.tree.MkdirAll(dir, filetree.Attr{Mode: 0o755, ModTime: in.b.now()}); err != nil {
			return 0, err
		}
	} else if err != nil {
		return 0, err
	} else if !a.IsDir() {
		return 0, fmt.Errorf("the working directory %s is not a directory", dir)
	}
	dir, err := in.tree.Resolve(dir, true)
	if err != nil {
		return 0, err
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	o := shell.Options{
		Tree: in.tree, Dir: dir, Env: list, UID: in.uid, GID: in.gid, Platform: in.platform,
		Commands: in.commands, Exec: in.program, Stdin: bytes.NewReader(nil), Stdout: in.output, Stderr: in.output,
		Now: in.b.now(), CommandDialect: in.dialect(), Scratch: in.b.o.Scratch,
	}
	switch {
	case in.hosted():
		if whole, _, _ := in.hostedProblems(in.script); whole {
			return in.runWhole(ctx, env, dir)
		}
		o.Commands, o.Programs = in.hostedCommands(in.commands), true
	case in.b.cantHost(in.graph, in.op) == nil:
		o.Absent = func(string) error { return errHost }
	}
	return shell.Run(ctx, in.script, o)
}

// runWhole runs the instruction with the shell of the stage, where the interpreter
// doesn't know something that the script says.
func (in *invocation) runWhole(ctx context.Context, env map[string]string, dir string) (int, error) {
	p := &command.Proc{
		Tree: in.tree, Dir: dir, Env: env, Args: in.exec.Args, Stdin: strings.NewReader(""), Stdout: in.output, Stderr: in.output,
		UID: in.uid, GID: in.gid, Umask: 0o022, Platform: in.platform, Dialect: in.dialect(), Now: in.b.now(),
	}
	at := in.lookPath(p)
	if at == "" {
		return 0, fmt.Errorf("the stage has no %s", p.Args[0])
	}
	exit, _, err := in.program(ctx, at, p)
	return exit, err
}

// hosted reports whether programs of the stage's base run on this machine.
func (in *invocation) hosted() bool { return in.stage != nil && in.stage.hosted }

func (in *invocation) dialect() command.Dialect {
	if in.stage == nil {
		return command.GNU
	}
	return in.stage.dialect
}

// tail keeps the end of what is written to it.
type tail struct {
	mu    sync.Mutex
	limit int
	data  []byte
	lost  bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
		t.lost = true
	}
	return len(p), nil
}

// lines gives the last lines.
func (t *tail) lines(most int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimRight(string(t.data), "\n")
	if text == "" {
		return nil
	}
	list := strings.Split(text, "\n")
	if len(list) > most {
		list = append([]string{fmt.Sprintf("… %d lines before", len(list)-most)}, list[len(list)-most:]...)
	}
	return list
}

var _ io.Writer = (*tail)(nil)
