//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/basic"
)

// TestAccountTools runs the account tools of a real Debian in its root, and ours on the
// same files: both must leave the same ones, and end with the same exit code.
func TestAccountTools(t *testing.T) {
	peers(t)
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	kept, err := debianRoot("minimal", "ca-certificates")
	skipWithout(t, err)
	root := t.TempDir()
	if out, err := exec.Command("tar", "-xf", kept, "-C", root, "--exclude=./dev/*").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check(t, errors.Join(os.MkdirAll(filepath.Join(root, "dev"), 0o755), os.WriteFile(filepath.Join(root, "dev/null"), nil, 0o666)))
	files := []string{"passwd", "group", "shadow", "gshadow", "subuid", "subgid"}
	settings := []string{"login.defs", "default/useradd", "adduser.conf", "deluser.conf"}
	before := map[string][]byte{}
	for _, name := range append(append([]string{}, files...), settings...) {
		if data, err := os.ReadFile(filepath.Join(root, "etc", name)); err == nil {
			before[name] = data
		}
	}
	// shadow counts days of its own clock.
	now := time.Now().UTC()
	for _, script := range []string{
		"useradd -m app", "useradd -r -s /usr/sbin/nologin app", "useradd -m -u 1234 -U -s /bin/bash app", "useradd -M -g users app", "useradd -N app", "useradd -r -u 501 -g daemon app", "useradd root",
		"groupadd -r app\nuseradd -r -g app app", "groupadd -g 1500 app\nuseradd -u 1500 -g app -G users,daemon app", "groupadd -f users", "groupadd users", "groupadd -g 1 app", "groupadd -g 1 -o app",
		"useradd -m app\nusermod -aG users,daemon app", "useradd -G users app\nusermod -G daemon app", "useradd -m app\nusermod -u 1500 app", "useradd app\nusermod -s /bin/false -d /srv -c Comment app",
		"useradd app\nusermod -L app", "useradd app\nusermod -g daemon app", "usermod -aG none daemon", "usermod -u 1 root", "groupmod -g 1500 users", "useradd app\ngroupmod -g 1600 app", "groupadd one\ngroupmod -n two one",
		"groupmod -g 1 users", "groupmod -n daemon users", "groupmod -g 5 none", "useradd -m -G users app\nuserdel app", "useradd -m app\nuserdel -r app", "userdel none", "groupadd app\ngroupdel app", "groupdel daemon", "groupdel none",
		"adduser --system app", "adduser --system --group app", "adduser --system --gecos '' app", "adduser --disabled-login --gecos 'App' app", "adduser --system --no-create-home --home /srv --shell /bin/false app", "adduser --disabled-password --gecos '' app",
		"adduser --disabled-password --gecos '' --home /srv/app --uid 1700 app", "addgroup --system app", "addgroup app", "addgroup --gid 1800 app", "useradd app\nadduser app users", "useradd -G users app\ndeluser app users",
		"useradd app\ndeluser --quiet app", "groupadd app\ndelgroup app", "delgroup none", "deluser none", "passwd -l daemon", "passwd -d daemon\npasswd -l daemon", "passwd -u daemon", "passwd -l none",
	} {
		t.Run(strings.ReplaceAll(script, "\n", "; "), func(t *testing.T) {
			tree := filetree.New()
			for name, data := range before {
				check(t, os.WriteFile(filepath.Join(root, "etc", name), data, 0o644))
				check(t, tree.MkdirAll(filepath.ToSlash(filepath.Dir("/etc/"+name)), filetree.Attr{Mode: 0o755}))
				check(t, tree.WriteFile("/etc/"+name, filetree.Bytes(data).Content(), filetree.Attr{Mode: 0o644}))
			}
			check(t, os.RemoveAll(filepath.Join(root, "home")))
			check(t, os.RemoveAll(filepath.Join(root, "srv")))
			check(t, errors.Join(os.Mkdir(filepath.Join(root, "home"), 0o755), os.Mkdir(filepath.Join(root, "srv"), 0o755)))
			check(t, errors.Join(tree.Mkdir("/home", filetree.Attr{Mode: 0o755}), tree.Mkdir("/srv", filetree.Attr{Mode: 0o755})))
			for line := range strings.SplitSeq(script, "\n") {
				theirs, said := inRoot(t, root, line)
				ours, text := onTree(t, tree, now, line)
				if theirs != ours {
					t.Errorf("%s: exit code %d, theirs %d\n%s\n%s", line, ours, theirs, text, said)
				}
			}
			for _, name := range files {
				theirs, err := os.ReadFile(filepath.Join(root, "etc", name))
				check(t, err)
				ours, err := tree.ReadFile("/etc/" + name)
				check(t, err)
				if got, want := changed(before[name], ours), changed(before[name], theirs); got != want {
					t.Errorf("/etc/%s has\n%stheirs\n%s", name, got, want)
				}
			}
			for _, name := range []string{"/home/app", "/srv/app", "/srv"} {
				theirs, ours := "none", "none"
				if info, err := os.Lstat(filepath.Join(root, name)); err == nil {
					s := info.Sys().(*syscall.Stat_t)
					theirs = fmt.Sprint(info.Mode(), s.Uid, s.Gid)
				}
				if a, err := tree.Lstat(name); err == nil {
					ours = fmt.Sprint(a.Mode, a.UID, a.GID)
				}
				if ours != theirs {
					t.Errorf("%s is %s, theirs %s", name, ours, theirs)
				}
			}
		})
	}
}

// changed lists the lines of a file that weren't there before, and those that have gone.
func changed(before, after []byte) string {
	old := map[string]bool{}
	for line := range strings.Lines(string(before)) {
		old[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(string(after)) {
		if !old[line] {
			b.WriteString("  + " + line)
		}
		delete(old, line)
	}
	fmt.Fprintf(&b, "  and %d lines have gone\n", len(old))
	return b.String()
}

// inRoot runs a line in a root directory.
func inRoot(t *testing.T, root, line string) (int, string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// onTree runs a line of simple words on a tree.
func onTree(t *testing.T, tree *filetree.Tree, now time.Time, line string) (int, string) {
	t.Helper()
	args := strings.Fields(line)
	for i := range args {
		args[i] = strings.Trim(args[i], "'")
	}
	var out bytes.Buffer
	p := &command.Proc{Tree: tree, Dir: "/", Env: map[string]string{}, Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Umask: 0o022, Dialect: command.GNU, Now: now}
	for _, c := range basic.Commands() {
		if c.Name == args[0] {
			exit, err := c.Run(t.Context(), p)
			check(t, err)
			return exit, out.String()
		}
	}
	t.Fatalf("there is no %s", args[0])
	return 0, ""
}
