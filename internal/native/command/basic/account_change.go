package basic

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// Commands that change and remove accounts, in shadow's manner (usermod(8), groupmod(8),
// userdel(8), groupdel(8), passwd(1)), in Debian's (deluser(8)) and in busybox's.
func accountChanges() []*command.Command {
	usermodOptions := command.Options{Short: "aG:u:g:s:d:c:LUol:", Long: []string{"append", "groups=", "uid=", "gid=", "shell=", "home=", "comment=", "lock", "unlock", "non-unique", "login="},
		Same: map[string]string{"append": "a", "groups": "G", "uid": "u", "gid": "g", "shell": "s", "home": "d", "comment": "c", "lock": "L", "unlock": "U", "non-unique": "o", "login": "l"}}
	return []*command.Command{
		tool("usermod", usermodOptions, usermod),
		tool("groupmod", command.Options{Short: "g:n:o", Long: []string{"gid=", "new-name=", "non-unique"}, Same: map[string]string{"gid": "g", "new-name": "n", "non-unique": "o"}}, groupmod),
		tool("userdel", command.Options{Short: "rf", Long: []string{"remove", "force"}, Same: map[string]string{"remove": "r", "force": "f"}}, userdel),
		tool("groupdel", command.Options{Short: "f", Long: []string{"force"}, Same: map[string]string{"force": "f"}}, groupdel),
		tool("deluser", command.Options{Long: []string{"remove-home", "quiet", "system", "force"}}, deluser),
		tool("delgroup", command.Options{Long: []string{"quiet", "system", "only-if-empty"}}, delgroup),
		tool("passwd", command.Options{Short: "ludq", Long: []string{"lock", "unlock", "delete", "quiet"}, Same: map[string]string{"lock": "l", "unlock": "u", "delete": "d", "quiet": "q"}}, passwdTool),
		{Name: "chpasswd", Check: func([]*string) *command.Unsupported { return noPasswords("chpasswd") }, Run: func(context.Context, *command.Proc) (int, error) { return 0, noPasswords("chpasswd") }},
	}
}

// noPasswords says why no password is set.
func noPasswords(name string) *command.Unsupported {
	return &command.Unsupported{Command: name, What: "setting a password (it is salted, so the image would be another one every time, and everybody could read it)",
		Fix: "no password: adduser -D, or useradd, makes accounts that can't log in"}
}

// failed writes a message as shadow's tools do, with their exit code.
func failed(p *command.Proc, exit int, format string, args ...any) (int, error) {
	_, _ = fmt.Fprintf(p.Stderr, path.Base(p.Args[0])+": "+format+"\n", args...)
	return exit, nil
}

// theUser reads the accounts for a command whose only argument is a user, and finds its
// line. a is nil if the command ends here.
func theUser(p *command.Proc, opt *command.Parsed) (a *accounts, i, exit int, err error) {
	return theOne(p, opt, "user", func(a *accounts) []string { return a.passwd })
}

// theGroup is theUser for a group.
func theGroup(p *command.Proc, opt *command.Parsed) (a *accounts, i, exit int, err error) {
	return theOne(p, opt, "group", func(a *accounts) []string { return a.group })
}

func theOne(p *command.Proc, opt *command.Parsed, what string, lines func(*accounts) []string) (a *accounts, i, exit int, err error) {
	if a, err = readAccounts(p); err != nil {
		return nil, 0, 0, err
	}
	if len(opt.Args) != 1 {
		exit, err = failed(p, 2, "needs one %s name", what)
		return nil, 0, exit, err
	}
	if i = find(lines(a), opt.Args[0]); i < 0 {
		exit, err = failed(p, 6, "%s '%s' does not exist", what, opt.Args[0])
		return nil, 0, exit, err
	}
	return a, i, 0, nil
}

// setField changes a field of a line.
func setField(line string, n int, value string) string {
	f := strings.Split(line, ":")
	for len(f) <= n {
		f = append(f, "")
	}
	f[n] = value
	return strings.Join(f, ":")
}

// leave removes a user from the members of a group, and from its administrators.
func leave(line, user string, fields ...int) string {
	for _, n := range fields {
		members := slices.DeleteFunc(strings.Split(fieldOf(line, n), ","), func(m string) bool { return m == user })
		line = setField(line, n, strings.Join(members, ","))
	}
	return line
}

// leaveAll removes a user from every group but some.
func (a *accounts) leaveAll(user string, but ...string) {
	for i, line := range a.group {
		if !slices.Contains(but, fieldOf(line, 0)) {
			a.group[i] = leave(line, user, 3)
		}
	}
	for i, line := range a.gshad {
		if !slices.Contains(but, fieldOf(line, 0)) {
			a.gshad[i] = leave(line, user, 2, 3)
		}
	}
}

// groupID is the id of a group that is given by name or number.
func (a *accounts) groupID(text string) (int, bool) {
	i := find(a.group, text)
	if i < 0 {
		i = slices.IndexFunc(a.group, func(l string) bool { return fieldOf(l, 2) == text })
	}
	if i < 0 {
		return 0, false
	}
	id, err := strconv.Atoi(fieldOf(a.group[i], 2))
	return id, err == nil
}

func usermod(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if opt.Has["l"] {
		return 0, &command.Unsupported{Command: "usermod", What: "option -l"}
	}
	a, i, exit, err := theUser(p, opt)
	if a == nil {
		return exit, err
	}
	name := opt.Args[0]
	line := a.passwd[i]
	oldUID, _ := strconv.Atoi(fieldOf(line, 2))
	oldGID, _ := strconv.Atoi(fieldOf(line, 3))
	uid, gid, home := oldUID, oldGID, fieldOf(line, 5)
	if opt.Has["u"] {
		if uid, err = strconv.Atoi(opt.Values["u"]); err != nil || uid < 0 {
			return failed(p, 3, "invalid user ID '%s'", opt.Values["u"])
		}
		if uid != oldUID && taken(a.passwd, uid) && !opt.Has["o"] {
			return failed(p, 4, "UID '%d' already exists", uid)
		}
		line = setField(line, 2, strconv.Itoa(uid))
	}
	if opt.Has["g"] {
		var ok bool
		if gid, ok = a.groupID(opt.Values["g"]); !ok {
			return failed(p, 6, "group '%s' does not exist", opt.Values["g"])
		}
		line = setField(line, 3, strconv.Itoa(gid))
	}
	for field, option := range map[int]string{4: "c", 5: "d", 6: "s"} {
		if opt.Has[option] {
			line = setField(line, field, opt.Values[option])
		}
	}
	a.passwd[i] = line
	if opt.Has["G"] {
		groups := strings.Split(opt.Values["G"], ",")
		for _, g := range groups {
			if g != "" && find(a.group, g) < 0 {
				return failed(p, 6, "group '%s' does not exist", g)
			}
		}
		if !opt.Has["a"] {
			a.leaveAll(name, groups...)
		}
		for _, g := range groups {
			a.join(name, g)
		}
	}
	if opt.Has["L"] || opt.Has["U"] {
		if exit := a.lock(p, name, opt.Has["L"]); exit != 0 {
			return exit, nil
		}
	}
	if err := a.write(); err != nil || uid == oldUID && gid == oldGID {
		return 0, err
	}
	// What is in the user's home goes with the account.
	if s, err := p.Tree.Stat(home); err != nil || !s.IsDir() {
		return 0, nil //nolint:nilerr // there is no home
	}
	return 0, p.Tree.Walk(home, func(file string, f filetree.Attr) error {
		if f.UID != oldUID && f.GID != oldGID {
			return nil
		}
		return p.Tree.Update(file, false, func(b *filetree.Attr) {
			if b.UID == oldUID {
				b.UID = uid
			}
			if b.GID == oldGID {
				b.GID = gid
			}
		})
	})
}

// lock puts a ! before a password, or takes it away.
func (a *accounts) lock(p *command.Proc, name string, lock bool) int {
	list, at := a.shadow, find(a.shadow, name)
	if at < 0 {
		if list, at = a.passwd, find(a.passwd, name); at < 0 {
			return 0
		}
	}
	password := fieldOf(list[at], 1)
	switch rest, locked := strings.CutPrefix(password, "!"); {
	case lock && !locked:
		password = "!" + password
	case !lock && locked && rest == "":
		exit, _ := failed(p, 3, "unlocking the password of '%s' would make it empty", name)
		return exit
	case !lock && locked:
		password = rest
	}
	list[at] = setField(list[at], 1, password)
	return 0
}

func groupmod(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, i, exit, err := theGroup(p, opt)
	if a == nil {
		return exit, err
	}
	name := opt.Args[0]
	if opt.Has["g"] {
		gid, err := strconv.Atoi(opt.Values["g"])
		if err != nil || gid < 0 {
			return failed(p, 3, "invalid group ID '%s'", opt.Values["g"])
		}
		old := fieldOf(a.group[i], 2)
		if strconv.Itoa(gid) != old && taken(a.group, gid) && !opt.Has["o"] {
			return failed(p, 4, "GID '%d' already exists", gid)
		}
		a.group[i] = setField(a.group[i], 2, strconv.Itoa(gid))
		for k, line := range a.passwd {
			if fieldOf(line, 3) == old {
				a.passwd[k] = setField(line, 3, strconv.Itoa(gid))
			}
		}
	}
	if opt.Has["n"] {
		to := opt.Values["n"]
		switch {
		case !accountName.MatchString(to):
			return failed(p, 3, "invalid group name '%s'", to)
		case to != name && find(a.group, to) >= 0:
			return failed(p, 9, "group '%s' already exists", to)
		}
		a.group[i] = setField(a.group[i], 0, to)
		if k := find(a.gshad, name); k >= 0 {
			a.gshad[k] = setField(a.gshad[k], 0, to)
		}
	}
	return 0, a.write()
}

// without drops the line of a name.
func without(lines []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, name+":") })
}

// removeUser takes an account away as shadow does: with its memberships, its subordinate
// ids, and its own group if nobody else is in it.
func (a *accounts) removeUser(name string) error {
	gid := fieldOf(a.passwd[find(a.passwd, name)], 3)
	a.passwd, a.shadow = without(a.passwd, name), without(a.shadow, name)
	a.leaveAll(name)
	if i := find(a.group, name); i >= 0 && fieldOf(a.group[i], 2) == gid && fieldOf(a.group[i], 3) == "" &&
		!slices.ContainsFunc(a.passwd, func(l string) bool { return fieldOf(l, 3) == gid }) {
		a.group, a.gshad = without(a.group, name), without(a.gshad, name)
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := a.p.Tree.ReadFile(file)
		if err != nil {
			if fatal(err) {
				return err
			}
			continue
		}
		var kept strings.Builder
		for line := range strings.Lines(string(data)) {
			if !strings.HasPrefix(line, name+":") {
				kept.WriteString(line)
			}
		}
		if kept.Len() != len(data) {
			if err := a.p.Tree.WriteFile(file, filetree.Bytes(kept.String()).Content(), filetree.Attr{Mode: 0o644, ModTime: a.p.Now}); err != nil {
				return err
			}
		}
	}
	return a.write()
}

// removeHome takes the home of a removed account away, if it was its own.
func (a *accounts) removeHome(home string, uid int, name string) error {
	if s, err := a.p.Tree.Stat(home); err == nil && s.IsDir() && s.UID == uid && path.Clean(home) != "/" {
		if err := a.p.Tree.RemoveAll(home); err != nil {
			return err
		}
	}
	if _, err := a.p.Tree.Lstat("/var/mail/" + name); err == nil {
		return a.p.Tree.RemoveAll("/var/mail/" + name)
	}
	return nil
}

func userdel(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, i, exit, err := theUser(p, opt)
	if a == nil {
		return exit, err
	}
	name := opt.Args[0]
	uid, _ := strconv.Atoi(fieldOf(a.passwd[i], 2))
	home := fieldOf(a.passwd[i], 5)
	if err := a.removeUser(name); err != nil || !opt.Has["r"] {
		return 0, err
	}
	return 0, a.removeHome(home, uid, name)
}

func groupdel(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, i, exit, err := theGroup(p, opt)
	if a == nil {
		return exit, err
	}
	name := opt.Args[0]
	gid := fieldOf(a.group[i], 2)
	if k := slices.IndexFunc(a.passwd, func(l string) bool { return fieldOf(l, 3) == gid }); k >= 0 && !opt.Has["f"] {
		return failed(p, 8, "cannot remove the primary group of user '%s'", fieldOf(a.passwd[k], 0))
	}
	a.group, a.gshad = without(a.group, name), without(a.gshad, name)
	return 0, a.write()
}

// deluser is Debian's, and busybox's: deluser USER, deluser USER GROUP.
func deluser(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	debian := p.Dialect == command.GNU
	if len(opt.Args) < 1 || len(opt.Args) > 2 {
		return p.Errorf("needs one user name")
	}
	name := opt.Args[0]
	i := find(a.passwd, name)
	switch {
	case i < 0 && debian:
		return failed(p, 2, "The user `%s' does not exist.", name)
	case i < 0:
		return p.Errorf("unknown user %s", name)
	case len(opt.Args) == 2:
		return a.drop(p, name, opt.Args[1])
	}
	uid, _ := strconv.Atoi(fieldOf(a.passwd[i], 2))
	gid, home := fieldOf(a.passwd[i], 3), fieldOf(a.passwd[i], 5)
	if debian {
		err = a.removeUser(name)
	} else {
		// busybox removes the group of the same name, and leaves other groups alone.
		a.passwd, a.shadow = without(a.passwd, name), without(a.shadow, name)
		if k := find(a.group, name); k >= 0 && (fieldOf(a.group[k], 2) == gid || !slices.ContainsFunc(a.passwd, func(l string) bool { return fieldOf(l, 3) == fieldOf(a.group[k], 2) })) {
			a.group, a.gshad = without(a.group, name), without(a.gshad, name)
		}
		err = a.write()
	}
	if err != nil || !opt.Has["remove-home"] {
		return 0, err
	}
	return 0, a.removeHome(home, uid, name)
}

// drop removes a user from one group.
func (a *accounts) drop(p *command.Proc, user, group string) (int, error) {
	i := find(a.group, group)
	if i < 0 {
		if p.Dialect == command.GNU {
			return failed(p, 3, "The group `%s' does not exist.", group)
		}
		return p.Errorf("unknown group %s", group)
	}
	if !slices.Contains(strings.Split(fieldOf(a.group[i], 3), ","), user) {
		if p.Dialect == command.GNU {
			return failed(p, 6, "The user `%s' is not a member of group `%s'.", user, group)
		}
		return 0, nil
	}
	a.group[i] = leave(a.group[i], user, 3)
	if k := find(a.gshad, group); k >= 0 {
		a.gshad[k] = leave(a.gshad[k], user, 2, 3)
	}
	return 0, a.write()
}

// delgroup is Debian's, and busybox's: delgroup GROUP, delgroup USER GROUP.
func delgroup(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	debian := p.Dialect == command.GNU
	switch len(opt.Args) {
	case 1:
	case 2:
		if find(a.passwd, opt.Args[0]) < 0 {
			return p.Errorf("unknown user %s", opt.Args[0])
		}
		return a.drop(p, opt.Args[0], opt.Args[1])
	default:
		return p.Errorf("needs one group name")
	}
	name := opt.Args[0]
	i := find(a.group, name)
	switch {
	case i < 0 && debian:
		return failed(p, 3, "The group `%s' does not exist.", name)
	case i < 0:
		return p.Errorf("unknown group %s", name)
	case debian && opt.Has["only-if-empty"] && fieldOf(a.group[i], 3) != "":
		return failed(p, 5, "The group `%s' is not empty!", name)
	}
	gid := fieldOf(a.group[i], 2)
	if k := slices.IndexFunc(a.passwd, func(l string) bool { return fieldOf(l, 3) == gid }); k >= 0 {
		if user := fieldOf(a.passwd[k], 0); debian {
			return failed(p, 7, "`%s' still has `%s' as their primary group!", user, name)
		} else if user == name {
			return p.Errorf("'%s' still has '%s' as their primary group!", user, name)
		}
	}
	a.group, a.gshad = without(a.group, name), without(a.gshad, name)
	return 0, a.write()
}

// passwdTool is passwd -l, -u and -d; without one it would ask.
func passwdTool(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if !opt.Has["l"] && !opt.Has["u"] && !opt.Has["d"] {
		return 0, noPasswords("passwd")
	}
	a, err := readAccounts(p)
	if err != nil {
		return 0, err
	}
	name := "root"
	if len(opt.Args) > 0 {
		name = opt.Args[0]
	}
	debian := p.Dialect == command.GNU
	if find(a.passwd, name) < 0 {
		if debian {
			return failed(p, 1, "user '%s' does not exist", name)
		}
		return p.Errorf("unknown user %s", name)
	}
	if opt.Has["d"] {
		list, at := a.shadow, find(a.shadow, name)
		if at < 0 {
			list, at = a.passwd, find(a.passwd, name)
		}
		list[at] = setField(list[at], 1, "")
	} else {
		password := ""
		if at := find(a.shadow, name); at >= 0 {
			password = fieldOf(a.shadow[at], 1)
		}
		if locked := strings.HasPrefix(password, "!"); !debian && locked == opt.Has["l"] {
			return p.Errorf("password for %s is already %slocked", name, map[bool]string{true: "", false: "un"}[locked])
		}
		if exit := a.lock(p, name, opt.Has["l"]); exit != 0 {
			return exit, nil
		}
	}
	if err := a.write(); err != nil {
		return 0, err
	}
	switch {
	case opt.Has["q"]:
	case debian:
		_, _ = fmt.Fprintln(p.Stdout, "passwd: password changed.")
	default:
		_, _ = fmt.Fprintf(p.Stdout, "passwd: password for %s changed by root\n", name)
	}
	return 0, nil
}
