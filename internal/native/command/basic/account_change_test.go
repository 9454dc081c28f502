package basic

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/command"
)

// TestChangedAccounts is what shadow, Debian's adduser and busybox leave in the files of
// accounts; the differences between them are on purpose.
func TestChangedAccounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lines   string
		dialect command.Dialect
		want    string // lines of passwd and group with u or g in their names; or the exit code
	}{
		{"useradd -m u;usermod -u 1500 u", command.GNU, "u:x:1500:1000::/home/u:/bin/sh|u:x:1000:"},
		{"groupadd -g 77 g;useradd u;usermod -g g -s /bin/false -d /x u", command.GNU, "u:x:1000:77::/x:/bin/false|g:x:77: u:x:1000:"},
		{"groupadd g;groupadd gg;useradd -G g u;usermod -G gg u", command.GNU, "u:x:1000:1002::/home/u:/bin/sh|g:x:1000: gg:x:1001:u u:x:1002:"},
		{"groupadd g;groupadd gg;useradd -G g u;usermod -aG gg u", command.GNU, "u:x:1000:1002::/home/u:/bin/sh|g:x:1000:u gg:x:1001:u u:x:1002:"},
		{"useradd u;groupmod -g 1234 u", command.GNU, "u:x:1000:1234::/home/u:/bin/sh|u:x:1234:"},
		{"groupadd g;groupmod -n gg g", command.GNU, "|gg:x:1000:"},
		{"useradd u;userdel u", command.GNU, "|"},
		{"groupadd g;useradd -G g u;userdel -r u", command.GNU, "|g:x:1000:"},
		{"useradd u;groupdel u", command.GNU, "8"}, {"groupdel none", command.GNU, "6"}, {"userdel none", command.GNU, "6"}, {"usermod -u 5 none", command.GNU, "6"},
		{"groupadd g;useradd -G g u;deluser u g", command.GNU, "u:x:1000:1001::/home/u:/bin/sh|g:x:1000: u:x:1001:"},
		{"useradd u;delgroup u", command.GNU, "7"}, {"delgroup none", command.GNU, "3"}, {"deluser none", command.GNU, "2"},
		{"adduser -D u;deluser u", command.Busybox, "|"}, {"adduser -D u;delgroup u", command.Busybox, "1"}, {"deluser none", command.Busybox, "1"},
		{"addgroup g;adduser -D u;addgroup u g;deluser u g", command.Busybox, "u:x:1001:1001:Linux User,,,:/home/u:/bin/ash|g:x:1000: u:x:1001:"},
		{"passwd -l none", command.GNU, "1"},
	} {
		t.Run(test.lines, func(t *testing.T) {
			t.Parallel()
			x := stage(t)
			got := ""
			for line := range strings.SplitSeq(test.lines, ";") {
				out, exit, err := call(t, x, test.dialect, "", line)
				if err != nil {
					t.Fatal(err)
				}
				if exit != 0 {
					if got = fmt.Sprint(exit); out == "" {
						t.Error("it failed without a word")
					}
				}
			}
			if got == "" {
				var files []string
				for _, name := range []string{"/etc/passwd", "/etc/group"} {
					data, _ := x.ReadFile(name)
					var lines []string
					for line := range strings.FieldsFuncSeq(string(data), func(r rune) bool { return r == '\n' }) {
						if name, _, _ := strings.Cut(line, ":"); name == "u" || name == "g" || name == "gg" {
							lines = append(lines, line)
						}
					}
					files = append(files, strings.Join(lines, " "))
				}
				got = strings.Join(files, "|")
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestHomeFollows: what is in the home of a user whose id changes stays its own.
func TestHomeFollows(t *testing.T) {
	t.Parallel()
	x := stage(t)
	for _, line := range []string{"useradd -m u", "touch /home/u/f", "chown u:u /home/u/f", "touch /home/u/root", "usermod -u 1500 u"} {
		if out, exit, err := call(t, x, command.GNU, "", line); exit != 0 || err != nil {
			t.Fatal(line, out, err)
		}
	}
	for name, want := range map[string]int{"/home/u": 1500, "/home/u/f": 1500, "/home/u/root": 0} {
		if a, err := x.Stat(name); err != nil || a.UID != want {
			t.Errorf("%s: %d, %v", name, a.UID, err)
		}
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	x := stage(t)
	password := func() string {
		data, _ := x.ReadFile("/etc/shadow")
		for line := range strings.Lines(string(data)) {
			if f := strings.Split(line, ":"); f[0] == "u" {
				return f[1]
			}
		}
		return "none"
	}
	if _, exit, err := call(t, x, command.GNU, "", "useradd u"); exit != 0 || err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		line string
		exit int
		want string
	}{{"passwd -d u", 0, ""}, {"passwd -l u", 0, "!"}, {"passwd -l u", 0, "!"}, {"passwd -u u", 3, "!"}, {"usermod -L u", 0, "!"}} {
		if _, exit, err := call(t, x, command.GNU, "", test.line); err != nil || exit != test.exit || password() != test.want {
			t.Errorf("%s: exit code %d, password %q, %v", test.line, exit, password(), err)
		}
	}
	for _, line := range []string{"chpasswd", "passwd u"} {
		if _, _, err := call(t, x, command.GNU, "u:secret\n", line); err == nil {
			t.Errorf("%s isn't refused", line)
		}
	}
}

// The attributes are those of vfs_cap_data, revision 2 (linux/capability.h).
func TestCapabilities(t *testing.T) {
	t.Parallel()
	const bind = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, test := range []struct{ text, want, shown string }{
		{"cap_net_bind_service=+ep", bind, "cap_net_bind_service=ep"}, {"cap_net_bind_service+ep", bind, "cap_net_bind_service=ep"}, {"CAP_NET_BIND_SERVICE=ep", bind, "cap_net_bind_service=ep"},
		{"cap_net_raw,cap_net_admin+eip", "\x01\x00\x00\x02\x00\x30\x00\x00\x00\x30\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "cap_net_admin,cap_net_raw=eip"},
		{"cap_bpf=p", "\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00", "cap_bpf=p"},
		{"cap_chown=p cap_chown-p+i", "\x00\x00\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "cap_chown=i"},
		{"cap_none=ep", "", ""}, {"cap_chown", "", ""}, {"cap_chown=x", "", ""}, {"cap_chown=ep cap_kill=p", "", ""}, {"chown=ep", "", ""},
	} {
		t.Run(test.text, func(t *testing.T) {
			t.Parallel()
			x := stage(t)
			run := func(args ...string) (string, int) {
				var out strings.Builder
				p := &command.Proc{Tree: x, Dir: "/w", Args: args, Env: map[string]string{}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Dialect: command.GNU}
				for _, c := range Commands() {
					if c.Name == args[0] {
						exit, err := c.Run(t.Context(), p)
						if err != nil {
							t.Fatal(err)
						}
						return out.String(), exit
					}
				}
				t.Fatal("not there")
				return "", 0
			}
			out, exit := run("setcap", test.text, "a")
			a, err := x.Stat("/w/a")
			if err != nil || a.Xattrs["security.capability"] != test.want || (exit != 0) != (test.want == "") {
				t.Fatalf("exit code %d, attribute %q, %v: %s", exit, a.Xattrs["security.capability"], err, out)
			}
			if shown, _ := run("getcap", "a"); test.want != "" && shown != "a "+test.shown+"\n" {
				t.Errorf("getcap says %s", shown)
			}
			if _, exit := run("setcap", "-r", "a"); exit != 0 {
				t.Error("it isn't removed")
			}
		})
	}
}
