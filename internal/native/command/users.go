package command

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
)

// passwd and group are where a file system keeps its accounts (passwd(5), group(5)).
const (
	passwd = "/etc/passwd"
	group  = "/etc/group"
)

// database reads the lines of an account file with at least so many fields. A file
// that isn't there has none.
func database(t *filetree.Tree, name string, fields int) ([][]string, error) {
	data, err := t.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list [][]string
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if f := strings.Split(line, ":"); len(f) >= fields {
			list = append(list, f)
		}
	}
	return list, lines.Err()
}

// LookupUser finds a user by name in a file system.
func LookupUser(t *filetree.Tree, name string) (uid, gid int, home, shell string, found bool, err error) {
	list, err := database(t, passwd, 4)
	for _, f := range list {
		if f[0] != name {
			continue
		}
		u, uerr := strconv.Atoi(f[2])
		g, gerr := strconv.Atoi(f[3])
		if uerr != nil || gerr != nil {
			continue
		}
		if len(f) > 5 {
			home = f[5]
		}
		if len(f) > 6 {
			shell = f[6]
		}
		return u, g, home, shell, true, nil
	}
	return 0, 0, "", "", false, err
}

// LookupGroup finds a group by name in a file system.
func LookupGroup(t *filetree.Tree, name string) (gid int, found bool, err error) {
	list, err := database(t, group, 3)
	for _, f := range list {
		if f[0] == name {
			if g, gerr := strconv.Atoi(f[2]); gerr == nil {
				return g, true, nil
			}
		}
	}
	return 0, false, err
}

// UserName is the first name that a file system has for a user; empty if none.
func UserName(t *filetree.Tree, uid int) (string, error) {
	list, err := database(t, passwd, 3)
	for _, f := range list {
		if f[2] == strconv.Itoa(uid) {
			return f[0], nil
		}
	}
	return "", err
}

// GroupName is the first name that a file system has for a group; empty if none.
func GroupName(t *filetree.Tree, gid int) (string, error) {
	list, err := database(t, group, 3)
	for _, f := range list {
		if f[2] == strconv.Itoa(gid) {
			return f[0], nil
		}
	}
	return "", err
}
