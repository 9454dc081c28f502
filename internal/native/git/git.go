// Package git is git as a command of build scripts: what Dockerfiles ask it for a
// version stamp, answered from the repository in the stage's file tree. No program
// of this machine runs, and nothing that a repository could name is started: no
// hooks, filters or helpers.
package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Options are what the command works with.
type Options struct {
	Scratch string // host directory for copies of repositories, removed with the build
}

// Command is git: describe, rev-parse, log -1, rev-list --count, branch
// --show-current, tag, config and version. Everything else is refused.
func Command(o Options) *command.Command {
	return &command.Command{Name: "git", Check: check, Run: func(ctx context.Context, p *command.Proc) (int, error) {
		return run(ctx, o, p)
	}}
}

var known = map[string]command.Options{
	"describe":  {Short: "", Long: []string{"tags", "always", "dirty=?", "long", "abbrev=", "match=", "exact-match", "first-parent", "broken"}},
	"rev-parse": {Long: []string{"short=?", "verify", "abbrev-ref", "show-toplevel", "is-inside-work-tree", "git-dir"}},
	"log":       {Short: "n:1", Long: []string{"format=", "pretty=", "max-count=", "date=", "no-show-signature"}, Same: map[string]string{"max-count": "n", "pretty": "format"}},
	"show":      {Short: "s", Long: []string{"format=", "pretty=", "no-patch", "date="}, Same: map[string]string{"pretty": "format", "no-patch": "s"}},
	"rev-list":  {Short: "n:", Long: []string{"count", "max-count="}, Same: map[string]string{"max-count": "n"}},
	"branch":    {Long: []string{"show-current"}},
	"tag":       {Short: "l", Long: []string{"list", "points-at="}, Same: map[string]string{"list": "l"}},
	"config":    {Long: []string{"global", "local", "system", "add", "get", "unset"}},
	"version":   {},
}

func unsupported(what string) *command.Unsupported {
	return &command.Unsupported{Command: "git", What: what, Fix: "--build-arg with the value, from outside of the build"}
}

// split takes git's own options off a command line: directory, and what is left.
func split(args []*string) (dir string, rest []*string, u *command.Unsupported) {
	for len(args) > 0 && args[0] != nil {
		switch a := *args[0]; {
		case a == "-C" && len(args) > 1:
			if args[1] != nil {
				dir = path.Join(dir, *args[1])
			}
			args = args[2:]
		case a == "-c" && len(args) > 1:
			if args[1] != nil && !strings.HasPrefix(*args[1], "log.") && !strings.HasPrefix(*args[1], "safe.") {
				return "", nil, unsupported("-c " + *args[1])
			}
			args = args[2:]
		case a == "--no-pager":
			args = args[1:]
		case a == "--version":
			v := "version"
			return dir, []*string{&v}, nil
		case strings.HasPrefix(a, "-"):
			return "", nil, unsupported("option " + a)
		default:
			return dir, args, nil
		}
	}
	return dir, args, nil
}

func check(args []*string) *command.Unsupported {
	_, rest, u := split(args)
	if u != nil || len(rest) == 0 || rest[0] == nil {
		return u
	}
	o, ok := known[*rest[0]]
	if !ok {
		return unsupported(*rest[0])
	}
	return o.Check("git " + *rest[0])(rest[1:])
}

func run(ctx context.Context, o Options, p *command.Proc) (int, error) {
	var args []*string
	for i := range p.Args[1:] {
		args = append(args, &p.Args[i+1])
	}
	dir, rest, u := split(args)
	if u != nil {
		return 0, u
	}
	if len(rest) == 0 {
		return p.Errorf("a command is missing")
	}
	name := *rest[0]
	options, ok := known[name]
	if !ok {
		return 0, unsupported(name)
	}
	var words []string
	for _, w := range rest[1:] {
		words = append(words, *w)
	}
	opt, err := options.Parse("git "+name, words)
	if err != nil {
		return p.Failed(err)
	}
	at := p.Dir
	if dir != "" {
		at = p.Path(dir)
	}
	switch name {
	case "version":
		_, _ = fmt.Fprintln(p.Stdout, "git version 2.47.0")
		return 0, nil
	case "config":
		return config(p, opt, at)
	}
	top, err := find(p.Tree, at)
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = fmt.Fprintln(p.Stderr, "fatal: not a git repository (or any of the parent directories): .git")
		return 128, nil
	}
	if err != nil {
		return 0, err
	}
	if name == "rev-parse" {
		switch {
		case opt.Has["show-toplevel"]:
			_, _ = fmt.Fprintln(p.Stdout, top)
			return 0, nil
		case opt.Has["is-inside-work-tree"]:
			_, _ = fmt.Fprintln(p.Stdout, "true")
			return 0, nil
		case opt.Has["git-dir"]:
			out := path.Join(top, ".git")
			if top == at {
				out = ".git"
			}
			_, _ = fmt.Fprintln(p.Stdout, out)
			return 0, nil
		}
	}
	copied, err := materialise(ctx, p.Tree, top, o.Scratch)
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(copied) }()
	repo, err := git.PlainOpen(copied)
	if err != nil {
		_, _ = fmt.Fprintf(p.Stderr, "fatal: %v\n", err)
		return 128, nil
	}
	r := repository{Repository: repo, p: p, top: top}
	out, err := r.answer(name, opt)
	var u2 *command.Unsupported
	switch {
	case errors.As(err, &u2):
		return 0, err
	case err != nil:
		_, _ = fmt.Fprintf(p.Stderr, "fatal: %v\n", err)
		return 128, nil
	}
	if out != "" {
		_, _ = fmt.Fprintln(p.Stdout, out)
	}
	return 0, nil
}

// find gives the directory at or above dir that has a repository.
func find(t *filetree.Tree, dir string) (string, error) {
	for {
		a, err := t.Stat(path.Join(dir, ".git"))
		switch {
		case err == nil && a.IsDir():
			return dir, nil
		case err == nil:
			return "", unsupported("a .git that is a file (worktrees and submodules)")
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		case dir == "/":
			return "", fs.ErrNotExist
		}
		dir = path.Dir(dir)
	}
}

// materialise copies a repository, without its files, to the host. Its config and
// hooks stay behind: nothing in them is to have an effect.
func materialise(ctx context.Context, t *filetree.Tree, top, scratch string) (string, error) {
	dir, err := os.MkdirTemp(scratch, "git-")
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	from := path.Join(top, ".git")
	err = t.Walk(from, func(name string, a filetree.Attr) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		rel := filepath.Join(".git", filepath.FromSlash(strings.TrimPrefix(name, from)))
		base := path.Base(name)
		switch {
		case a.IsDir() && (base == "hooks" || base == "modules" || base == "worktrees" || base == "lfs"):
			return fs.SkipDir
		case a.IsDir():
			return root.MkdirAll(rel, 0o700)
		case !a.IsRegular(), name == path.Join(from, "config"), base == "alternates":
			return nil
		}
		in, err := a.Open()
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		out, err := root.Create(rel)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
	if err == nil {
		err = root.WriteFile(filepath.Join(".git", "config"), []byte("[core]\n\trepositoryformatversion = 0\n\tbare = false\n"), 0o600)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

type repository struct {
	*git.Repository
	p   *command.Proc
	top string
}

func (r repository) answer(name string, opt *command.Parsed) (string, error) {
	revision := "HEAD"
	if len(opt.Args) > 0 {
		revision = opt.Args[len(opt.Args)-1]
	}
	if name == "tag" {
		return r.tagList(opt)
	}
	if name == "branch" {
		if !opt.Has["show-current"] {
			return "", unsupported("branch without --show-current")
		}
		return r.current("")
	}
	hash, err := r.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return "", fmt.Errorf("ambiguous argument '%s': unknown revision or path not in the working tree", revision)
	}
	switch name {
	case "rev-parse":
		switch {
		case opt.Has["abbrev-ref"]:
			return r.current("HEAD")
		case opt.Has["short"]:
			n, err := strconv.Atoi(opt.Values["short"])
			if err != nil {
				n = 0
			}
			return r.short(*hash, n)
		case len(opt.Args) == 0:
			return "", unsupported("rev-parse without a revision")
		}
		return hash.String(), nil
	case "rev-list":
		if !opt.Has["count"] {
			if opt.Values["n"] == "1" {
				return hash.String(), nil
			}
			return "", unsupported("rev-list without --count")
		}
		n := 0
		commits, err := r.Log(&git.LogOptions{From: *hash})
		if err != nil {
			return "", err
		}
		err = commits.ForEach(func(*object.Commit) error { n++; return nil })
		return strconv.Itoa(n), err
	case "describe":
		return r.describe(*hash, opt)
	}
	if name == "log" && opt.Values["n"] != "1" && !opt.Has["1"] || name == "show" && !opt.Has["s"] {
		return "", unsupported(name + " of more than one commit, or of changes")
	}
	c, err := r.CommitObject(*hash)
	if err != nil {
		return "", err
	}
	return r.format(c, opt)
}

// current is the branch; otherwise if HEAD is on none.
func (r repository) current(otherwise string) (string, error) {
	head, err := r.Reference(plumbing.HEAD, false)
	if err != nil {
		return "", err
	}
	if head.Type() == plumbing.SymbolicReference {
		return head.Target().Short(), nil
	}
	return otherwise, nil
}

// short abbreviates a commit as far as it stays unique, at least to the number of
// digits that git takes for a repository of this size.
func (r repository) short(hash plumbing.Hash, n int) (string, error) {
	var all []string
	objects, err := r.Storer.IterEncodedObjects(plumbing.AnyObject)
	if err != nil {
		return "", err
	}
	if err := objects.ForEach(func(o plumbing.EncodedObject) error { all = append(all, o.Hash().String()); return nil }); err != nil {
		return "", err
	}
	if n <= 0 {
		// git's find_unique_abbrev: half the bits of the number of objects, in hex digits.
		bits := 0
		for c := len(all); c > 0; c >>= 1 {
			bits++
		}
		n = max((bits+1)/2, 7)
	}
	text := hash.String()
	n = min(max(n, 4), len(text))
	for _, other := range all {
		for other != text && n < len(text) && strings.HasPrefix(other, text[:n]) {
			n++
		}
	}
	return text[:n], nil
}

// tagsOf gives the names of tags by the commit that they are on.
func (r repository) tagsOf(light bool) (map[plumbing.Hash][]string, error) {
	found := map[plumbing.Hash][]string{}
	type dated struct {
		name string
		at   time.Time
	}
	annotated := map[plumbing.Hash][]dated{}
	refs, err := r.Tags()
	if err != nil {
		return nil, err
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if tag, err := r.TagObject(ref.Hash()); err == nil {
			if c, err := tag.Commit(); err == nil {
				annotated[c.Hash] = append(annotated[c.Hash], dated{ref.Name().Short(), tag.Tagger.When})
			}
			return nil
		}
		if light {
			found[ref.Hash()] = append(found[ref.Hash()], ref.Name().Short())
		}
		return nil
	})
	for hash, list := range annotated {
		sort.SliceStable(list, func(i, j int) bool { return list[i].at.After(list[j].at) })
		var names []string
		for _, d := range list {
			names = append(names, d.name)
		}
		found[hash] = append(names, found[hash]...) // annotated ones come first
	}
	return found, err
}

func (r repository) tagList(opt *command.Parsed) (string, error) {
	if len(opt.Args) > 1 || len(opt.Args) == 1 && !opt.Has["l"] {
		return "", unsupported("making tags")
	}
	at := plumbing.ZeroHash
	if opt.Has["points-at"] {
		h, err := r.ResolveRevision(plumbing.Revision(opt.Values["points-at"]))
		if err != nil {
			return "", err
		}
		at = *h
	}
	tags, err := r.tagsOf(true)
	if err != nil {
		return "", err
	}
	var list []string
	for hash, names := range tags {
		if at.IsZero() || hash == at {
			for _, n := range names {
				if len(opt.Args) == 0 {
					list = append(list, n)
				} else if ok, _ := path.Match(opt.Args[0], n); ok {
					list = append(list, n)
				}
			}
		}
	}
	sort.Strings(list)
	return strings.Join(list, "\n"), nil
}

// describe is git-describe(1): the tag with the fewest commits above it.
func (r repository) describe(hash plumbing.Hash, opt *command.Parsed) (string, error) {
	if opt.Has["first-parent"] || opt.Has["broken"] {
		return "", unsupported("describe --first-parent and --broken")
	}
	tags, err := r.tagsOf(opt.Has["tags"])
	if err != nil {
		return "", err
	}
	pick := func(h plumbing.Hash) string {
		for _, n := range tags[h] {
			ok := !opt.Has["match"]
			for _, m := range opt.All["match"] {
				if hit, _ := path.Match(m, n); hit {
					ok = true
				}
			}
			if ok {
				return n
			}
		}
		return ""
	}
	abbrev := 0
	if v, ok := opt.Values["abbrev"]; ok {
		if abbrev, err = strconv.Atoi(v); err != nil {
			return "", unsupported("--abbrev=" + v)
		}
	}
	name, distance := "", 0
	if name = pick(hash); name == "" && !opt.Has["exact-match"] {
		name, distance, err = r.nearest(hash, pick)
		if err != nil {
			return "", err
		}
	}
	out := ""
	switch {
	case name == "" && opt.Has["always"]:
		if out, err = r.short(hash, abbrev); err != nil {
			return "", err
		}
	case name == "" && opt.Has["exact-match"]:
		return "", fmt.Errorf("no tag exactly matches '%s'", hash)
	case name == "":
		//lint:ignore ST1005 these are git's own words
		return "", errors.New("No names found, cannot describe anything.")
	case distance == 0 && !opt.Has["long"], opt.Has["abbrev"] && abbrev == 0:
		out = name
	default:
		s, err := r.short(hash, abbrev)
		if err != nil {
			return "", err
		}
		out = fmt.Sprintf("%s-%d-g%s", name, distance, s)
	}
	if opt.Has["dirty"] {
		dirty, err := r.dirty()
		if err != nil {
			return "", err
		}
		if dirty {
			mark := "-dirty"
			if m := opt.Values["dirty"]; m != "" {
				mark = m
			}
			out += mark
		}
	}
	return out, nil
}

// nearest finds the tagged ancestor with the fewest commits that hash has and it
// hasn't; among equals the one met first, newest commits first.
func (r repository) nearest(hash plumbing.Hash, pick func(plumbing.Hash) string) (string, int, error) {
	commits, err := r.Log(&git.LogOptions{From: hash, Order: git.LogOrderCommitterTime})
	if err != nil {
		return "", 0, err
	}
	above := map[plumbing.Hash]bool{}
	var all []*object.Commit
	if err := commits.ForEach(func(c *object.Commit) error { all = append(all, c); above[c.Hash] = true; return nil }); err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return "", 0, err // a shallow clone ends early
	}
	best, distance := "", -1
	candidates := 0
	for _, c := range all {
		name := pick(c.Hash)
		if name == "" {
			continue
		}
		below := map[plumbing.Hash]bool{}
		under, err := r.Log(&git.LogOptions{From: c.Hash})
		if err != nil {
			return "", 0, err
		}
		if err := under.ForEach(func(c *object.Commit) error { below[c.Hash] = true; return nil }); err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
			return "", 0, err
		}
		n := 0
		for h := range above {
			if !below[h] {
				n++
			}
		}
		if distance < 0 || n < distance {
			best, distance = name, n
		}
		if candidates++; candidates >= 10 {
			break // as git does
		}
	}
	return best, max(distance, 0), nil
}

// dirty reports whether a tracked file differs from the index, or the index from HEAD.
func (r repository) dirty() (bool, error) {
	index, err := r.Storer.Index()
	if err != nil {
		return false, err
	}
	head, err := r.Head()
	if err != nil {
		return false, err
	}
	c, err := r.CommitObject(head.Hash())
	if err != nil {
		return false, err
	}
	tree, err := c.Tree()
	if err != nil {
		return false, err
	}
	committed := map[string]plumbing.Hash{}
	err = tree.Files().ForEach(func(f *object.File) error { committed[f.Name] = f.Hash; return nil })
	if err != nil {
		return false, err
	}
	if len(committed) > len(index.Entries) {
		return true, nil
	}
	for _, e := range index.Entries {
		if e.Mode.IsRegular() || e.Mode == 0o120000 || e.Mode == 0o100755 {
			if committed[e.Name] != e.Hash {
				return true, nil
			}
		} else {
			continue // a submodule
		}
		a, err := r.p.Tree.Lstat(path.Join(r.top, e.Name))
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if a.IsRegular() && a.Size() != int64(e.Size) && e.Size != 0 {
			return true, nil
		}
		sum, err := blobHash(a)
		if err != nil {
			return false, err
		}
		if sum != e.Hash {
			return true, nil
		}
	}
	return false, nil
}

func blobHash(a filetree.Attr) (plumbing.Hash, error) {
	if a.IsSymlink() {
		return plumbing.ComputeHash(plumbing.BlobObject, []byte(a.Link)), nil
	}
	if !a.IsRegular() {
		return plumbing.ZeroHash, nil
	}
	h := plumbing.NewHasher(plumbing.BlobObject, a.Size())
	in, err := a.Open()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer func() { _ = in.Close() }()
	_, err = io.Copy(h, in)
	return h.Sum(), err
}

var placeholder = regexp.MustCompile(`%(%|n|H|h|T|s|b|an|ae|at|aI|aD|cn|ce|ct|cI|cs|as|cd|ad)|%.`)

func (r repository) format(c *object.Commit, opt *command.Parsed) (string, error) {
	text, ok := opt.Values["format"]
	if !ok {
		return "", unsupported("log without --format")
	}
	text = strings.TrimPrefix(strings.TrimPrefix(text, "format:"), "tformat:")
	switch text {
	case "oneline", "short", "medium", "full", "fuller", "raw", "reference":
		return "", unsupported("--format=" + text)
	}
	var failed error
	stamp := func(t time.Time) string {
		switch d := opt.Values["date"]; {
		case d == "short":
			return t.Format("2006-01-02")
		case d == "iso-strict" || d == "iso8601-strict":
			return r.isoStrict(t)
		case d == "iso" || d == "iso8601":
			return t.Format("2006-01-02 15:04:05 -0700")
		case d == "unix":
			return strconv.FormatInt(t.Unix(), 10)
		case d == "":
			return t.Format("Mon Jan 2 15:04:05 2006 -0700")
		default:
			failed = unsupported("--date=" + d)
			return ""
		}
	}
	subject, body, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n\n")
	out := placeholder.ReplaceAllStringFunc(text, func(m string) string {
		switch m[1:] {
		case "%":
			return "%"
		case "n":
			return "\n"
		case "H":
			return c.Hash.String()
		case "h":
			s, err := r.short(c.Hash, 0)
			if err != nil {
				failed = err
			}
			return s
		case "T":
			return c.TreeHash.String()
		case "s":
			return strings.ReplaceAll(strings.TrimSpace(subject), "\n", " ")
		case "b":
			return body
		case "an":
			return c.Author.Name
		case "ae":
			return c.Author.Email
		case "at":
			return strconv.FormatInt(c.Author.When.Unix(), 10)
		case "aI":
			return r.isoStrict(c.Author.When)
		case "as":
			return c.Author.When.Format("2006-01-02")
		case "ad":
			return stamp(c.Author.When)
		case "cn":
			return c.Committer.Name
		case "ce":
			return c.Committer.Email
		case "ct":
			return strconv.FormatInt(c.Committer.When.Unix(), 10)
		case "cI":
			return r.isoStrict(c.Committer.When)
		case "cs":
			return c.Committer.When.Format("2006-01-02")
		case "cd":
			return stamp(c.Committer.When)
		}
		failed = unsupported("the placeholder " + m)
		return ""
	})
	return out, failed
}

// isoStrict writes UTC as the git of the stage's distribution does: with Z from
// git 2.45 on, which Alpine has and Debian 12 hasn't.
func (r repository) isoStrict(t time.Time) string {
	if _, offset := t.Zone(); offset == 0 && r.p.Dialect == command.Busybox {
		return t.Format("2006-01-02T15:04:05") + "Z"
	}
	return t.Format("2006-01-02T15:04:05-07:00")
}

// config sets a value, in the home of the user who runs it or in the repository.
func config(p *command.Proc, opt *command.Parsed, at string) (int, error) {
	if opt.Has["get"] || opt.Has["unset"] || len(opt.Args) != 2 {
		return 0, unsupported("config that doesn't set a value")
	}
	file := path.Join(p.Env["HOME"], ".gitconfig")
	switch {
	case opt.Has["system"]:
		file = "/etc/gitconfig"
	case !opt.Has["global"]:
		top, err := find(p.Tree, at)
		if errors.Is(err, fs.ErrNotExist) {
			_, _ = fmt.Fprintln(p.Stderr, "fatal: not in a git directory")
			return 128, nil
		}
		if err != nil {
			return 0, err
		}
		file = path.Join(top, ".git", "config")
	}
	key, value := opt.Args[0], opt.Args[1]
	first, last := strings.Index(key, "."), strings.LastIndex(key, ".")
	if first < 0 {
		_, _ = fmt.Fprintf(p.Stderr, "error: key does not contain a section: %s\n", key)
		return 2, nil
	}
	section := "[" + key[:first] + "]"
	if last > first {
		section = "[" + key[:first] + ` "` + strings.ReplaceAll(strings.ReplaceAll(key[first+1:last], `\`, `\\`), `"`, `\"`) + `"]`
	}
	old, err := p.Tree.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	line := "\t" + key[last+1:] + " = " + value + "\n"
	if i := strings.Index(text, section+"\n"); i >= 0 {
		end := i + len(section) + 1
		if next := strings.Index(text[end:], "\n["); next >= 0 {
			end += next + 1
		} else {
			end = len(text)
		}
		inside := text[i:end]
		if !opt.Has["add"] {
			kept := ""
			for l := range strings.SplitAfterSeq(inside, "\n") {
				if k, _, ok := strings.Cut(l, "="); !ok || !strings.EqualFold(strings.TrimSpace(k), key[last+1:]) {
					kept += l
				}
			}
			inside = kept
		}
		text = text[:i] + inside + line + text[end:]
	} else {
		text += section + "\n" + line
	}
	return 0, p.Tree.WriteFile(file, filetree.Bytes(text).Content(), p.Attr(0o666))
}
