package basic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

var accountName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*\$?$`)

// accounts are the account files of a stage while they are changed.
type accounts struct {
	p                            *command.Proc
	passwd, shadow, group, gshad []string
	hasShadow, hasGshadow        bool
}

func readAccounts(p *command.Proc) (*accounts, error) {
	a := &accounts{p: p}
	for _, f := range []struct {
		name string
		to   *[]string
		has  *bool
	}{{"/etc/passwd", &a.passwd, nil}, {"/etc/group", &a.group, nil}, {"/etc/shadow", &a.shadow, &a.hasShadow}, {"/etc/gshadow", &a.gshad, &a.hasGshadow}} {
		data, err := p.Tree.ReadFile(f.name)
		if errors.Is(err, fs.ErrNotExist) && !fatal(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f.has != nil {
			*f.has = true
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
			if line != "" {
				*f.to = append(*f.to, line)
			}
		}
	}
	return a, nil
}

func (a *accounts) write() error {
	for _, f := range []struct {
		name  string
		lines []string
		mode  fs.FileMode
		skip  bool
	}{{"/etc/passwd", a.passwd, 0o644, false}, {"/etc/group", a.group, 0o644, false}, {"/etc/shadow", a.shadow, 0o640, !a.hasShadow}, {"/etc/gshadow", a.gshad, 0o640, !a.hasGshadow}} {
		if f.skip {
			continue
		}
		text := strings.Join(f.lines, "\n") + "\n"
		old, err := a.p.Tree.ReadFile(f.name)
		if err == nil && string(old) == text {
			continue
		}
		if err == nil {
			// All of these tools leave what was there before.
			attr, err := a.p.Tree.Stat(f.name)
			if err != nil {
				return err
			}
			backup := filetree.Attr{Mode: attr.Mode, UID: attr.UID, GID: attr.GID, ModTime: attr.ModTime, Content: filetree.Bytes(old).Content()}
			if err := a.p.Tree.Put(f.name+"-", backup); err != nil {
				return err
			}
		}
		if err := a.p.Tree.MkdirAll("/etc", filetree.Attr{Mode: 0o755, ModTime: a.p.Now}); err != nil {
			return err
		}
		if err := a.p.Tree.WriteFile(f.name, filetree.Bytes(text).Content(), filetree.Attr{Mode: f.mode, ModTime: a.p.Now}); err != nil {
			return err
		}
	}
	return nil
}

// find gives the line of a name, -1 if there is none.
func find(lines []string, name string) int {
	return slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+":") })
}

func fieldOf(line string, n int) string {
	f := strings.Split(line, ":")
	if n < len(f) {
		return f[n]
	}
	return ""
}

// taken reports whether an id is in the third field of a line.
func taken(lines []string, id int) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return fieldOf(l, 2) == strconv.Itoa(id) })
}

// free finds an id in a range that neither users nor groups have, from the first
// up, or from the last down as shadow's tools do for system accounts.
func (a *accounts) free(from, to int, down bool, lists ...[]string) (int, bool) {
	for n := from; n <= to; n++ {
		id := n
		if down {
			id = to - (n - from)
		}
		if !slices.ContainsFunc(lists, func(l []string) bool { return taken(l, id) }) {
			return id, true
		}
	}
	return 0, false
}

// above finds the id for a new user or group as shadow does: one above the highest
// of the range, or the first free one where that is its end.
func (a *accounts) above(from, to int, lists ...[]string) (int, bool) {
	id := from
	for _, list := range lists {
		for _, l := range list {
			if n, err := strconv.Atoi(fieldOf(l, 2)); err == nil && n >= id && n <= to {
				id = n + 1
			}
		}
	}
	if id > to {
		return a.free(from, to, false, lists...)
	}
	return id, true
}

func (a *accounts) addGroup(name string, gid int) {
	a.group = append(a.group, fmt.Sprintf("%s:x:%d:", name, gid))
	if a.hasGshadow {
		a.gshad = append(a.gshad, name+":!::")
	}
}

// join adds a user to a group.
func (a *accounts) join(user, group string) bool {
	i := find(a.group, group)
	if i < 0 {
		return false
	}
	add := func(line string) string {
		f := strings.Split(line, ":")
		members := strings.Split(f[len(f)-1], ",")
		if slices.Contains(members, user) {
			return line
		}
		if f[len(f)-1] == "" {
			f[len(f)-1] = user
		} else {
			f[len(f)-1] += "," + user
		}
		return strings.Join(f, ":")
	}
	a.group[i] = add(a.group[i])
	if i := find(a.gshad, group); i >= 0 {
		a.gshad[i] = add(a.gshad[i])
	}
	return true
}

// newUser is what the tools ask for in different words.
type newUser struct {
	name, comment, home, shell, password string
	uid, gid                             int
	makeHome                             bool
	homeMode                             fs.FileMode
	skeleton                             bool
	system                               bool // shadow gives it no days
}

func (a *accounts) addUser(u newUser) error {
	a.passwd = append(a.passwd, fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", u.name, u.uid, u.gid, u.comment, u.home, u.shell))
	if a.hasShadow {
		day := strconv.FormatInt(a.p.Now.Unix()/86400, 10)
		if day == "0" && a.p.Dialect == command.GNU {
			day = "" // 0 would ask for a new password; shadow leaves it out then
		}
		aging := "0:99999:7:::"
		if u.system {
			aging = ":::::"
		}
		a.shadow = append(a.shadow, fmt.Sprintf("%s:%s:%s:%s", u.name, u.password, day, aging))
	}
	if err := a.write(); err != nil {
		return err
	}
	if !u.makeHome || u.home == "" {
		return nil
	}
	if _, err := a.p.Tree.Stat(u.home); err == nil {
		return nil
	} else if fatal(err) {
		return err
	}
	if err := a.p.Tree.MkdirAll(path.Dir(u.home), filetree.Attr{Mode: 0o755, ModTime: a.p.Now}); err != nil {
		return err
	}
	attr := filetree.Attr{Mode: u.homeMode, UID: u.uid, GID: u.gid, ModTime: a.p.Now}
	if err := a.p.Tree.Mkdir(u.home, attr); err != nil {
		return err
	}
	if !u.skeleton {
		return nil
	}
	children, err := a.p.Tree.ReadDir("/etc/skel")
	if errors.Is(err, fs.ErrNotExist) && !fatal(err) {
		return nil
	}
	if err != nil {
		return err
	}
	q := *a.p
	c := copying{p: &q, recursive: true, keep: true, links: true}
	for _, child := range children {
		if err := c.one(path.Join("/etc/skel", child.Name), path.Join(u.home, child.Name), child.Attr); err != nil {
			return err
		}
	}
	return a.p.Tree.Walk(u.home, func(name string, _ filetree.Attr) error {
		return a.p.Tree.Update(name, false, func(b *filetree.Attr) { b.UID, b.GID = u.uid, u.gid })
	})
}

func accountCommands() []*command.Command {
	busybox := command.Options{Short: "h:g:s:G:SDHu:k:", Long: []string{"home=", "gecos=", "shell=", "ingroup=", "system", "disabled-password", "empty-password", "no-create-home", "uid=", "disabled-login", "group", "gid=", "quiet", "force-badname", "allow-bad-names"},
		Same: map[string]string{"home": "h", "gecos": "g", "shell": "s", "ingroup": "G", "system": "S", "disabled-password": "D", "no-create-home": "H", "uid": "u", "empty-password": "D"}}
	group := command.Options{Short: "g:S", Long: []string{"gid=", "system", "quiet"}, Same: map[string]string{"gid": "g", "system": "S"}}
	useraddOptions := command.Options{Short: "rmMNUlou:g:G:d:s:c:k:p:K:b:e:f:", Long: []string{"system", "create-home", "no-create-home", "no-user-group", "user-group", "no-log-init", "non-unique", "uid=", "gid=", "groups=", "home-dir=", "home=", "shell=", "comment="},
		Same: map[string]string{"system": "r", "create-home": "m", "no-create-home": "M", "no-user-group": "N", "user-group": "U", "no-log-init": "l", "non-unique": "o", "uid": "u", "gid": "g", "groups": "G", "home-dir": "d", "home": "d", "shell": "s", "comment": "c"}}
	return []*command.Command{
		tool("adduser", busybox, adduser),
		tool("addgroup", group, addgroup),
		tool("useradd", useraddOptions, useradd),
		tool("groupadd", command.Options{Short: "rg:fo", Long: []string{"system", "gid=", "force"}, Same: map[string]string{"system": "r", "gid": "g", "force": "f"}}, groupadd),
	}
}

// adduser is busybox's, and Debian's of the package adduser.
func adduser(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	debian := p.Dialect == command.GNU
	if len(opt.Args) == 2 {
		if !a.join(opt.Args[0], opt.Args[1]) {
			return p.Errorf("unknown group %s", opt.Args[1])
		}
		return 0, a.write()
	}
	if len(opt.Args) != 1 {
		return p.Errorf("needs one user name")
	}
	name := opt.Args[0]
	if !accountName.MatchString(name) {
		return p.Errorf("illegal characters in user name '%s'", name)
	}
	if find(a.passwd, name) >= 0 {
		if debian && opt.Has["S"] {
			return 0, nil
		}
		return p.Errorf("user '%s' in use", name)
	}
	system := opt.Has["S"]
	if !opt.Has["D"] && !opt.Has["disabled-login"] && !system {
		return 0, &command.Unsupported{Command: "adduser", What: "asking for a password", Fix: map[bool]string{true: "adduser --disabled-password --gecos '' " + name, false: "adduser -D " + name}[debian]}
	}
	if opt.Has["k"] {
		return 0, &command.Unsupported{Command: "adduser", What: "option -k"}
	}
	u := newUser{name: name, home: "/home/" + name, makeHome: !opt.Has["H"], homeMode: 0o755 | fs.ModeSetgid, password: "!", shell: "/bin/sh"}
	if !debian {
		u.comment = "Linux User,,,"
		u.shell = "/bin/sh"
		if data, err := p.Tree.ReadFile("/etc/passwd"); err == nil && strings.HasPrefix(string(data), "root:") {
			if s := fieldOf(strings.SplitN(string(data), "\n", 2)[0], 6); s != "" {
				u.shell = s
			}
		}
		if system {
			u.shell = "/bin/false"
		}
	} else {
		u.shell, u.homeMode, u.skeleton = "/bin/bash", 0o700, !system
		u.comment = ""
		if !system && !opt.Has["g"] {
			return 0, &command.Unsupported{Command: "adduser", What: "asking for the user's name", Fix: "adduser --disabled-password --gecos '' " + name}
		}
		if system {
			u.shell, u.homeMode, u.home = "/usr/sbin/nologin", 0o755, "/nonexistent"
			u.makeHome = opt.Has["h"] && !opt.Has["H"]
			u.system = true
		}
	}
	if opt.Has["disabled-login"] && debian && !system {
		if recent, err := recentAdduser(p); err != nil {
			return 0, err
		} else if recent {
			u.shell = "/usr/sbin/nologin"
		}
	}
	if opt.Has["h"] {
		u.home = opt.Values["h"]
	}
	if opt.Has["s"] {
		u.shell = opt.Values["s"]
	}
	if opt.Has["g"] {
		u.comment = opt.Values["g"]
		if debian {
			u.comment += strings.Repeat(",", max(0, 3-strings.Count(u.comment, ","))) // chfn's fields
		}
	}
	from, to := 1000, 59999
	if system {
		from, to = 100, 999
	}
	if opt.Has["u"] {
		if u.uid, err = strconv.Atoi(opt.Values["u"]); err != nil {
			return p.Errorf("invalid number '%s'", opt.Values["u"])
		}
		if taken(a.passwd, u.uid) {
			return p.Errorf("uid '%d' in use", u.uid)
		}
	} else {
		lists := [][]string{a.passwd}
		if !opt.Has["G"] && !system {
			lists = append(lists, a.group)
		}
		var ok bool
		if u.uid, ok = a.free(from, to, false, lists...); !ok {
			return p.Errorf("no more uids")
		}
	}
	own := false // it has a group of its own
	switch {
	case opt.Has["gid"]:
		if u.gid, err = strconv.Atoi(opt.Values["gid"]); err != nil {
			return p.Errorf("invalid number '%s'", opt.Values["gid"])
		}
	case opt.Has["G"]:
		i := find(a.group, opt.Values["G"])
		if i < 0 {
			return p.Errorf("unknown group %s", opt.Values["G"])
		}
		u.gid, _ = strconv.Atoi(fieldOf(a.group[i], 2))
	case system && !debian:
		u.gid = 65533 // busybox's nogroup
		if i := find(a.group, "nogroup"); i >= 0 {
			u.gid, _ = strconv.Atoi(fieldOf(a.group[i], 2))
		}
	case system && debian && !opt.Has["group"]:
		u.gid = 65534
	default:
		if find(a.group, name) >= 0 {
			return p.Errorf("group '%s' in use", name)
		}
		u.gid = u.uid
		own = true
		if debian && (system && !opt.Has["u"] || taken(a.group, u.gid)) {
			if u.gid, _ = a.free(from, to, false, a.group); u.gid == 0 {
				return p.Errorf("no more gids")
			}
		}
		a.addGroup(name, u.gid)
	}
	if debian {
		return 0, a.addDebian(u, system, opt.Has["g"])
	}
	if err := a.addUser(u); err != nil {
		return 0, err
	}
	if h, err := p.Tree.Stat(u.home); u.makeHome && err == nil && h.IsDir() {
		// One that was there is the user's from now on.
		if err := p.Tree.Update(u.home, true, func(d *filetree.Attr) { d.Mode, d.UID, d.GID = u.homeMode, u.uid, u.gid }); err != nil {
			return 0, err
		}
	}
	if i := slices.IndexFunc(a.group, func(l string) bool { return fieldOf(l, 2) == strconv.Itoa(u.gid) }); i >= 0 && !own {
		a.join(name, fieldOf(a.group[i], 0)) // a group that isn't its own lists it
	}
	return 0, a.write()
}

// addDebian does what Debian's adduser calls groupadd, useradd, chfn and usermod for,
// one after the other: each leaves its own copy of what was before.
func (a *accounts) addDebian(u newUser, system, comment bool) error {
	if err := a.write(); err != nil {
		return err
	}
	modern, err := recentAdduser(a.p)
	if err != nil {
		return err
	}
	if modern {
		if err := a.p.Tree.MkdirAll("/run", filetree.Attr{Mode: 0o755, ModTime: a.p.Now}); err != nil {
			return err
		}
		if err := a.p.Tree.WriteFile("/run/adduser", nil, a.p.Attr(0o666)); err != nil { // its lock
			return err
		}
	}
	text := u.comment
	u.comment = ""
	if !system {
		for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
			if err := subordinate(a.p, f, u.name); err != nil {
				return err
			}
		}
	}
	if err := a.addUser(u); err != nil {
		return err
	}
	if comment {
		if i := find(a.passwd, u.name); i >= 0 {
			f := strings.Split(a.passwd[i], ":")
			f[4] = text
			a.passwd[i] = strings.Join(f, ":")
		}
		if err := a.write(); err != nil {
			return err
		}
	}
	if !system {
		extra, err := extraGroups(a.p)
		if err != nil {
			return err
		}
		for _, g := range extra {
			a.join(u.name, g)
		}
	}
	return a.write()
}

// recentAdduser reports whether the stage's adduser is that of Debian 12 or later, which
// does more than earlier ones; where its version isn't known it is.
func recentAdduser(p *command.Proc) (bool, error) {
	status, err := p.Tree.ReadFile("/var/lib/dpkg/status")
	if fatal(err) {
		return false, err
	}
	_, rest, ok := strings.Cut(string(status), "Package: adduser\n")
	if !ok {
		return true, nil
	}
	_, rest, _ = strings.Cut(rest, "\nVersion: 3.")
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	minor, err := strconv.Atoi(rest[:n])
	return err != nil || minor >= 130, nil //nolint:nilerr // another version is a later one
}

// extraGroups are those that Debian's adduser puts new users into (adduser.conf(5)): users,
// since bookworm's.
func extraGroups(p *command.Proc) ([]string, error) {
	on, err := recentAdduser(p)
	if err != nil {
		return nil, err
	}
	groups := "users"
	conf, err := p.Tree.ReadFile("/etc/adduser.conf")
	if fatal(err) {
		return nil, err
	}
	for line := range strings.Lines(string(conf)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch v = strings.Trim(v, `"'`); k {
		case "ADD_EXTRA_GROUPS":
			on = v != "0"
		case "EXTRA_GROUPS":
			groups = v
		}
	}
	if !on {
		return nil, nil
	}
	return strings.Fields(groups), nil
}

func addgroup(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	if len(opt.Args) == 2 {
		if !a.join(opt.Args[0], opt.Args[1]) {
			return p.Errorf("unknown group %s", opt.Args[1])
		}
		return 0, a.write()
	}
	if len(opt.Args) != 1 {
		return p.Errorf("needs one group name")
	}
	name := opt.Args[0]
	if find(a.group, name) >= 0 {
		return p.Errorf("group '%s' in use", name)
	}
	gid, ok := 0, true
	if opt.Has["g"] {
		if gid, err = strconv.Atoi(opt.Values["g"]); err != nil {
			return p.Errorf("invalid number '%s'", opt.Values["g"])
		}
		if taken(a.group, gid) {
			return p.Errorf("gid '%d' in use", gid)
		}
	} else if opt.Has["S"] {
		gid, ok = a.free(100, 999, false, a.group)
	} else {
		gid, ok = a.free(1000, 59999, false, a.group)
	}
	if !ok {
		return p.Errorf("no more gids")
	}
	a.addGroup(name, gid)
	return 0, a.write()
}

// defs reads /etc/login.defs (login.defs(5)).
func defs(p *command.Proc, name string, otherwise int) (int, error) {
	data, err := p.Tree.ReadFile("/etc/login.defs")
	if errors.Is(err, fs.ErrNotExist) && !fatal(err) {
		return otherwise, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			if n, err := strconv.ParseInt(f[1], 0, 64); err == nil {
				return int(n), nil
			}
		}
	}
	return otherwise, nil
}

// useradd is shadow's.
func useradd(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	for _, o := range []string{"k", "p", "K", "b", "e", "f"} {
		if opt.Has[o] {
			return 0, &command.Unsupported{Command: "useradd", What: "option -" + o}
		}
	}
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	if len(opt.Args) != 1 || !accountName.MatchString(opt.Args[0]) {
		_, _ = fmt.Fprintf(p.Stderr, "useradd: invalid user name '%s'\n", strings.Join(opt.Args, " "))
		return 3, nil
	}
	name := opt.Args[0]
	if find(a.passwd, name) >= 0 {
		_, _ = fmt.Fprintf(p.Stderr, "useradd: user '%s' already exists\n", name)
		return 9, nil
	}
	u := newUser{name: name, home: "/home/" + name, shell: "/bin/sh", password: "!", makeHome: opt.Has["m"], skeleton: true, homeMode: 0o755, system: opt.Has["r"]}
	low, err := defs(p, "UID_MIN", 1000)
	if err != nil {
		return 0, err
	}
	high, _ := defs(p, "UID_MAX", 60000)
	if opt.Has["r"] {
		low, _ = defs(p, "SYS_UID_MIN", 101)
		high, _ = defs(p, "SYS_UID_MAX", 999)
	}
	if m, _ := defs(p, "HOME_MODE", 0o755); m != 0 {
		u.homeMode = fs.FileMode(m).Perm()
	}
	if data, err := p.Tree.ReadFile("/etc/default/useradd"); err == nil {
		for line := range strings.SplitSeq(string(data), "\n") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "SHELL="); ok {
				u.shell = v
			}
		}
	}
	if opt.Has["d"] {
		u.home = opt.Values["d"]
	}
	if opt.Has["s"] {
		u.shell = opt.Values["s"]
	}
	u.comment = opt.Values["c"]
	own := !opt.Has["g"] && !opt.Has["N"]
	if opt.Has["u"] {
		if u.uid, err = strconv.Atoi(opt.Values["u"]); err != nil {
			return p.Errorf("invalid user ID '%s'", opt.Values["u"])
		}
		if taken(a.passwd, u.uid) && !opt.Has["o"] {
			_, _ = fmt.Fprintf(p.Stderr, "useradd: UID %d is not unique\n", u.uid)
			return 4, nil
		}
	} else {
		lists := [][]string{a.passwd}
		if own {
			lists = append(lists, a.group)
		}
		var ok bool
		if opt.Has["r"] {
			u.uid, ok = a.free(low, high, true, lists...)
		} else {
			u.uid, ok = a.above(low, high, a.passwd)
		}
		if !ok {
			return p.Errorf("can't get unique UID")
		}
	}
	switch {
	case opt.Has["g"]:
		i := find(a.group, opt.Values["g"])
		if i < 0 {
			i = slices.IndexFunc(a.group, func(l string) bool { return fieldOf(l, 2) == opt.Values["g"] })
		}
		if i < 0 {
			_, _ = fmt.Fprintf(p.Stderr, "useradd: group '%s' does not exist\n", opt.Values["g"])
			return 6, nil
		}
		u.gid, _ = strconv.Atoi(fieldOf(a.group[i], 2))
	case opt.Has["N"]:
		u.gid = 100
	default:
		if find(a.group, name) >= 0 {
			_, _ = fmt.Fprintf(p.Stderr, "useradd: group %s exists - if you want to add this user to that group, use -g.\n", name)
			return 9, nil
		}
		u.gid = u.uid
		if taken(a.group, u.gid) {
			ok := false
			if opt.Has["r"] {
				u.gid, ok = a.free(low, high, true, a.group)
			} else {
				u.gid, ok = a.above(low, high, a.group)
			}
			if !ok {
				return p.Errorf("can't get unique GID")
			}
		}
		a.addGroup(name, u.gid)
	}
	if opt.Has["G"] {
		for g := range strings.SplitSeq(opt.Values["G"], ",") {
			if !a.join(name, g) {
				_, _ = fmt.Fprintf(p.Stderr, "useradd: group '%s' does not exist\n", g)
				return 6, nil
			}
		}
	}
	if !opt.Has["r"] {
		for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
			if err := subordinate(p, f, name); err != nil {
				return 0, err
			}
		}
	}
	return 0, a.addUser(u)
}

// subordinate gives a user the next range of subordinate ids, where the file is.
func subordinate(p *command.Proc, file, name string) error {
	data, err := p.Tree.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !fatal(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if a, err := p.Tree.Stat(file); err == nil {
		if err := p.Tree.Put(file+"-", filetree.Attr{Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: a.ModTime, Content: a.Content}); err != nil {
			return err
		}
	}
	next := 100000
	for line := range strings.SplitSeq(string(data), "\n") {
		start, serr := strconv.Atoi(fieldOf(line, 1))
		size, zerr := strconv.Atoi(fieldOf(line, 2))
		if serr == nil && zerr == nil && start+size > next {
			next = start + size
		}
	}
	text := string(data) + fmt.Sprintf("%s:%d:65536\n", name, next)
	return p.Tree.WriteFile(file, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644, ModTime: p.Now})
}

func groupadd(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	if len(opt.Args) != 1 {
		return p.Errorf("needs one group name")
	}
	name := opt.Args[0]
	if find(a.group, name) >= 0 {
		if opt.Has["f"] {
			return 0, nil
		}
		_, _ = fmt.Fprintf(p.Stderr, "groupadd: group '%s' already exists\n", name)
		return 9, nil
	}
	gid := 0
	if opt.Has["g"] {
		if gid, err = strconv.Atoi(opt.Values["g"]); err != nil {
			return p.Errorf("invalid group ID '%s'", opt.Values["g"])
		}
		if taken(a.group, gid) && !opt.Has["o"] {
			_, _ = fmt.Fprintf(p.Stderr, "groupadd: GID '%d' already exists\n", gid)
			return 4, nil
		}
	} else {
		low, err := defs(p, "GID_MIN", 1000)
		if err != nil {
			return 0, err
		}
		high, _ := defs(p, "GID_MAX", 60000)
		if opt.Has["r"] {
			low, _ = defs(p, "SYS_GID_MIN", 101)
			high, _ = defs(p, "SYS_GID_MAX", 999)
		}
		ok := false
		if opt.Has["r"] {
			gid, ok = a.free(low, high, true, a.group)
		} else {
			gid, ok = a.above(low, high, a.group)
		}
		if !ok {
			return p.Errorf("can't get unique GID")
		}
	}
	a.addGroup(name, gid)
	return 0, a.write()
}
