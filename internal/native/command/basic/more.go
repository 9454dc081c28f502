package basic

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

func moreFiles() []*command.Command {
	list := []*command.Command{
		tool("ls", command.Options{Short: "1aAdRlh", Long: []string{"all", "almost-all", "directory"}, Same: map[string]string{"all": "a", "almost-all": "A", "directory": "d"}}, ls),
		tool("readlink", command.Options{Short: "fenm"}, readlink),
		tool("realpath", command.Options{Short: "esm"}, realpath),
		tool("mktemp", command.Options{Short: "dutp:q", Long: []string{"directory"}, Same: map[string]string{"directory": "d"}}, mktemp),
		tool("install", command.Options{Short: "dDm:o:g:vpcTt:", Long: []string{"mode=", "owner=", "group=", "directory", "target-directory="}, Same: map[string]string{"mode": "m", "owner": "o", "group": "g", "directory": "d", "target-directory": "t"}}, install),
		tool("sync", command.Options{}, func(context.Context, *command.Proc, *command.Parsed) (int, error) { return 0, nil }),
		tool("truncate", command.Options{Short: "s:c"}, truncate),
	}
	for name, fresh := range map[string]func() hash.Hash{"md5sum": md5.New, "sha1sum": sha1.New, "sha256sum": sha256.New, "sha512sum": sha512.New} {
		list = append(list, tool(name, command.Options{Short: "csbw", Long: []string{"check", "status", "quiet"}, Same: map[string]string{"check": "c", "status": "s"}}, sums(fresh)))
	}
	return list
}

func ls(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	args := opt.Args
	if len(args) == 0 {
		args = []string{"."}
	}
	exit := 0
	line := func(name string, a filetree.Attr) error {
		if !opt.Has["l"] {
			_, err := fmt.Fprintln(p.Stdout, name)
			return err
		}
		user, err := command.UserName(p.Tree, a.UID)
		if err != nil {
			return err
		}
		group, err := command.GroupName(p.Tree, a.GID)
		if err != nil {
			return err
		}
		if user == "" {
			user = fmt.Sprint(a.UID)
		}
		if group == "" {
			group = fmt.Sprint(a.GID)
		}
		if a.IsSymlink() {
			name += " -> " + a.Link
		}
		_, err = fmt.Fprintf(p.Stdout, "%s %4d %-8s %-8s %9d %s %s\n", unixMode(a.Mode), 1, user, group, a.Size(), a.ModTime.UTC().Format("Jan _2 15:04"), name)
		return err
	}
	var dirs []string
	slices.Sort(args)
	unread, trouble := "cannot access", 2
	if p.Dialect == command.Busybox {
		unread, trouble = "", 1
	}
	for _, name := range args {
		a, err := p.Tree.Lstat(p.Path(name))
		if err == nil && a.IsSymlink() && !opt.Has["l"] {
			if b, serr := p.Tree.Stat(p.Path(name)); serr == nil {
				a = b
			}
		}
		if err != nil {
			if unread == "" {
				if command.Fatal(err) {
					return 0, err
				}
				_, _ = p.Errorf("%s: %s", name, command.Reason(err))
			} else if err := report(p, unread, name, err); err != nil {
				return 0, err
			}
			exit = trouble
			continue
		}
		if a.IsDir() && !opt.Has["d"] {
			dirs = append(dirs, name)
			continue
		}
		if err := line(name, a); err != nil {
			return 1, nil
		}
	}
	for i := 0; i < len(dirs); i++ {
		name := dirs[i]
		a, err := p.Tree.Stat(p.Path(name))
		if err == nil {
			err = p.MayRead(name, &a)
		}
		var children []filetree.Child
		if err == nil {
			children, err = p.Tree.ReadDir(p.Path(name))
		}
		if err != nil {
			what := "cannot open directory"
			if p.Dialect == command.Busybox {
				what = "can't open"
			}
			if err := report(p, what, name, err); err != nil {
				return 0, err
			}
			exit = trouble
			continue
		}
		if len(args) > 1 || opt.Has["R"] {
			if i == 0 && len(dirs) < len(args) {
				_, _ = fmt.Fprintln(p.Stdout) // after the files
			}
			_, _ = fmt.Fprintf(p.Stdout, "%s:\n", name)
		}
		if opt.Has["a"] {
			above := a
			if up, err := p.Tree.Stat(p.Path(name) + "/.."); err == nil {
				above = up
			}
			if line(".", a) != nil || line("..", above) != nil {
				return 1, nil
			}
		}
		var below []string
		for _, c := range children {
			if strings.HasPrefix(c.Name, ".") && !opt.Has["a"] && !opt.Has["A"] {
				continue
			}
			if err := line(c.Name, c.Attr); err != nil {
				return 1, nil
			}
			if c.IsDir() && opt.Has["R"] {
				below = append(below, path.Join(name, c.Name))
			}
		}
		dirs = append(dirs[:i+1], append(below, dirs[i+1:]...)...)
		if i+1 < len(dirs) {
			_, _ = fmt.Fprintln(p.Stdout)
		}
	}
	return exit, nil
}

// unixMode writes a mode as ls does.
func unixMode(m fs.FileMode) string {
	kind := byte('-')
	switch {
	case m.IsDir():
		kind = 'd'
	case m&fs.ModeSymlink != 0:
		kind = 'l'
	case m&fs.ModeCharDevice != 0:
		kind = 'c'
	case m&fs.ModeDevice != 0:
		kind = 'b'
	case m&fs.ModeNamedPipe != 0:
		kind = 'p'
	}
	b := []byte(string(kind) + m.Perm().String()[1:])
	for _, s := range []struct {
		bit      fs.FileMode
		at       int
		with, no byte
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		if m&s.bit != 0 {
			if b[s.at] == 'x' {
				b[s.at] = s.with
			} else {
				b[s.at] = s.no
			}
		}
	}
	return string(b)
}

func readlink(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	exit := 0
	for _, name := range opt.Args {
		var out string
		var err error
		if opt.Has["f"] || opt.Has["e"] || opt.Has["m"] {
			if out, err = p.Tree.Resolve(p.Path(name), true); err == nil && opt.Has["e"] {
				_, err = p.Tree.Stat(out)
			}
		} else {
			out, err = p.Tree.Readlink(p.Path(name))
		}
		if fatal(err) {
			return 0, err
		}
		if err != nil {
			exit = 1
			continue
		}
		end := "\n"
		if opt.Has["n"] {
			end = ""
		}
		_, _ = io.WriteString(p.Stdout, out+end)
	}
	return exit, nil
}

func realpath(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	exit := 0
	for _, name := range opt.Args {
		out, err := p.Tree.Resolve(p.Path(name), true)
		if err == nil && (opt.Has["e"] || p.Dialect == command.Busybox) {
			_, err = p.Tree.Stat(out)
		}
		if err != nil {
			if err := report(p, "cannot resolve", name, err); err != nil {
				return 0, err
			}
			exit = 1
			continue
		}
		_, _ = fmt.Fprintln(p.Stdout, out)
	}
	return exit, nil
}

// mktemp takes the first free name rather than a random one: the same build gives
// the same files.
func mktemp(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	template := "tmp.XXXXXXXXXX"
	dir := p.Env["TMPDIR"]
	if dir == "" {
		dir = "/tmp"
	}
	if opt.Has["p"] {
		dir = opt.Values["p"]
	}
	if len(opt.Args) > 0 {
		template = opt.Args[0]
		if !opt.Has["t"] && !opt.Has["p"] {
			dir = ""
		}
	}
	x := len(template) - len(strings.TrimRight(template, "X"))
	if x < 3 {
		return p.Errorf("too few X's in template '%s'", template)
	}
	for n := 0; ; n++ {
		name := template[:len(template)-x] + fmt.Sprintf("%0*d", x, n)
		if dir != "" {
			name = path.Join(dir, name)
		}
		at := p.Path(name)
		if _, err := p.Tree.Lstat(at); err == nil {
			continue
		} else if fatal(err) {
			return 0, err
		}
		var err error
		switch {
		case opt.Has["u"]:
		case opt.Has["d"]:
			err = p.Tree.Mkdir(at, filetree.Attr{Mode: 0o700, UID: p.UID, GID: p.GID, ModTime: p.Now, Made: true})
		default:
			err = p.Tree.WriteFile(at, nil, filetree.Attr{Mode: 0o600, UID: p.UID, GID: p.GID, ModTime: p.Now, Made: true})
		}
		if err != nil {
			if err := report(p, "failed to create", name, err); err != nil {
				return 0, err
			}
			return 1, nil
		}
		_, _ = fmt.Fprintln(p.Stdout, name)
		return 0, nil
	}
}

func install(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	text := "755"
	if opt.Has["m"] {
		text = opt.Values["m"]
	}
	set, err := mode.ParseWithUmask(text, 0)
	if err != nil {
		return p.Errorf("invalid mode '%s'", text)
	}
	uid, gid := p.UID, p.GID
	if opt.Has["o"] || opt.Has["g"] {
		u, g, err := owner(p, opt.Values["o"]+":"+opt.Values["g"])
		if err != nil {
			if m := message(""); errors.As(err, &m) {
				return p.Errorf("%s", m)
			}
			return 0, err
		}
		if opt.Has["o"] {
			uid = u
		}
		if opt.Has["g"] {
			gid = g
		}
	}
	attr := func(kind fs.FileMode) filetree.Attr {
		return filetree.Attr{Mode: set.Apply(kind), UID: uid, GID: gid, ModTime: p.Now}
	}
	if opt.Has["d"] {
		for _, name := range opt.Args {
			if err := p.Tree.MkdirAll(p.Path(name), p.Attr(0o755)); err != nil {
				return 1, report(p, "cannot create directory", name, err)
			}
			if err := p.Tree.Update(p.Path(name), true, func(a *filetree.Attr) { a.Mode, a.UID, a.GID = set.Apply(a.Mode), uid, gid }); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}
	sources, dest, into, err := destinations(p, opt)
	if err != nil {
		if m := message(""); errors.As(err, &m) {
			return p.Errorf("%s", m)
		}
		return 0, err
	}
	exit := 0
	for _, name := range sources {
		target := p.Path(dest)
		if into {
			target = path.Join(target, path.Base(name))
		}
		if opt.Has["D"] {
			dir := path.Dir(target)
			if err := p.Tree.MkdirAll(dir, p.Attr(0o755)); err != nil {
				return 1, report(p, "cannot create directory", dir, err)
			}
		}
		a, err := p.Tree.Stat(p.Path(name))
		if err == nil && !a.IsRegular() {
			err = &fs.PathError{Op: "install", Path: name, Err: errors.New("omitting directory")}
		}
		if err == nil {
			err = mayWrite(p, path.Dir(target))
		}
		if err == nil {
			fresh := attr(0)
			fresh.Content = a.Content
			err = p.Tree.Put(target, fresh)
		}
		if err != nil {
			if err := report(p, "cannot install", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

func truncate(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	size, err := strconv.ParseInt(opt.Values["s"], 10, 64)
	if err != nil || size < 0 || size > 64<<20 || opt.Values["s"][0] == '+' {
		return 0, &command.Unsupported{Command: "truncate", What: "the size " + opt.Values["s"]}
	}
	exit := 0
	for _, name := range opt.Args {
		at := p.Path(name)
		a, err := p.Tree.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !fatal(err) && opt.Has["c"]:
			continue
		case errors.Is(err, fs.ErrNotExist) && !fatal(err):
			err = p.MayChangeIn(path.Dir(path.Clean(at)))
		case err == nil:
			err = p.MayWrite(name, &a)
		}
		var data []byte
		if err == nil && size > 0 && a.Content != nil {
			if data, err = p.Tree.ReadFile(at); err != nil {
				return 0, err
			}
		}
		if err == nil {
			data = append(data[:min(int64(len(data)), size)], make([]byte, max(0, size-int64(len(data))))...)
			err = p.Tree.WriteFile(at, filetree.Bytes(data).Content(), p.Attr(0o666))
		}
		if err != nil {
			if err := report(p, "cannot open", name, err); err != nil {
				return 0, err
			}
			exit = 1
		}
	}
	return exit, nil
}

func sums(fresh func() hash.Hash) func(context.Context, *command.Proc, *command.Parsed) (int, error) {
	return func(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
		sum := func(name string) (string, error) {
			in, err := p.Input(name)
			if err != nil {
				return "", err
			}
			defer func() { _ = in.Close() }()
			h := fresh()
			_, err = io.Copy(h, in)
			return fmt.Sprintf("%x", h.Sum(nil)), err
		}
		args := opt.Args
		if len(args) == 0 {
			args = []string{"-"}
		}
		exit := 0
		for _, name := range args {
			if !opt.Has["c"] {
				got, err := sum(name)
				if err != nil {
					if err := report(p, "can't open", name, err); err != nil {
						return 0, err
					}
					exit = 1
					continue
				}
				_, _ = fmt.Fprintf(p.Stdout, "%s  %s\n", got, name)
				continue
			}
			lines, err := readLines(p, name)
			if err != nil {
				return 1, report(p, "can't open", name, err)
			}
			for _, line := range lines {
				want, file, ok := strings.Cut(line, " ")
				if file = strings.TrimLeft(file, " *"); !ok || file == "" {
					continue
				}
				got, err := sum(file)
				if fatal(err) {
					return 0, err
				}
				result := "OK"
				if err != nil || !strings.EqualFold(got, want) {
					result, exit = "FAILED", 1
				}
				if !opt.Has["s"] && !(opt.Has["quiet"] && result == "OK") {
					_, _ = fmt.Fprintf(p.Stdout, "%s: %s\n", file, result)
				}
			}
		}
		return exit, nil
	}
}

// readLines reads a small text.
func readLines(p *command.Proc, name string) ([]string, error) {
	in, err := p.Input(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(io.LimitReader(in, 64<<20))
	if err != nil {
		return nil, err
	}
	text := strings.TrimSuffix(string(data), "\n")
	if text == "" && len(data) == 0 {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}
