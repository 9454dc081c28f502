//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// sshHost is an sshd of a test's own on the loopback device, with the user that runs the
// test, and an ssh that knows it by a key and a file of known hosts of the test's.
type sshHost struct {
	address string // HOST:PORT
	user    string
	bin     string // a directory with ssh in it, for PATH
	known   string // its file of known hosts
	pid     int    // of the sshd
}

// startSSH starts the host, whose programs are found in path. The test is skipped, with
// the reason, where OpenSSH isn't installed.
func startSSH(t *testing.T, path string) *sshHost {
	t.Helper()
	daemon, err := exec.LookPath("sshd")
	if err != nil {
		daemon = "/usr/sbin/sshd"
	}
	client, err := exec.LookPath("ssh")
	if err == nil {
		_, err = os.Stat(daemon)
	}
	if err == nil {
		_, err = exec.LookPath("ssh-keygen")
	}
	if err != nil {
		t.Skipf("OpenSSH isn't installed (Debian's openssh-server): %v", err)
	}
	if os.Getuid() != 0 {
		t.Skip("sshd needs root here")
	}
	me, err := user.Current()
	check(t, err)
	check(t, os.MkdirAll("/run/sshd", 0o755)) // its chroot before anybody is known
	dir := t.TempDir()
	h := &sshHost{address: freePort(t), user: me.Username, bin: filepath.Join(dir, "bin"), known: filepath.Join(dir, "known_hosts")}
	for _, name := range []string{"host", "key", "other"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	address, port, err := net.SplitHostPort(h.address)
	check(t, err)
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	check(t, err)
	check(t, os.WriteFile(h.known, fmt.Appendf(nil, "[%s]:%s %s", address, port, public), 0o600))
	config := filepath.Join(dir, "sshd_config")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "ListenAddress %s\nPort %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSetEnv PATH=%s\n",
		address, port, filepath.Join(dir, "host"), filepath.Join(dir, "key.pub"), path), 0o600))
	// ssh takes the home directory from the list of users, whatever HOME says: a file of
	// its options is the way to keep this user's keys and hosts out.
	options := filepath.Join(dir, "ssh_config")
	check(t, os.WriteFile(options, fmt.Appendf(nil, "UserKnownHostsFile %s\nGlobalKnownHostsFile none\nIdentityFile %s\nIdentitiesOnly yes\nIdentityAgent none\n", h.known, filepath.Join(dir, "key")), 0o600))
	check(t, os.Mkdir(h.bin, 0o755))
	check(t, os.WriteFile(filepath.Join(h.bin, "ssh"), fmt.Appendf(nil, "#!/bin/sh\nexec %s -F %s \"$@\"\n", client, options), 0o755))
	var log bytes.Buffer
	cmd := exec.Command(daemon, "-D", "-e", "-f", config)
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, cmd.Start())
	h.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); <-ended })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", h.address); err == nil {
			_ = conn.Close()
			return h
		}
		select {
		case <-ended:
			t.Fatalf("sshd doesn't start: %s", log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("sshd doesn't answer")
		}
	}
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/stat")
	check(t, err)
	var found []int
	for _, file := range list {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may have spaces in it (proc_pid_stat(5)).
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			check(t, err)
			found = append(found, child)
		}
	}
	return found
}

// TestEndpointSSH builds through a real sshd, and says what stands in the way where ssh
// doesn't get through: nothing asks, since nobody may be there to answer.
func TestEndpointSSH(t *testing.T) {
	peers(t)
	control, err := exec.LookPath("buildctl")
	if err != nil {
		t.Skip("buildctl isn't installed, which answers at the other end of ssh")
	}
	buildkittest.Need(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	h := startSSH(t, filepath.Dir(control)+":/usr/bin:/bin")
	daemon := buildkittest.Start(t)
	there := h.user + "@" + h.address + strings.TrimPrefix(daemon.Address, "unix://")
	t.Setenv("PATH", h.bin+":"+os.Getenv("PATH"))
	build := func(address string, wants ...string) {
		t.Helper()
		_, log := k.run(t, len(wants) == 0, "build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64,linux/386", "--output", "oci:out", "--builder", address, ".")
		for _, want := range wants {
			if !strings.Contains(log, want) {
				t.Errorf("%s: not said: %s\n%s", address, want, log)
			}
		}
	}
	build("ssh://" + there)
	build("ssh://nobody@"+h.address, "PA141", "doesn't let this user in", "Permission denied (publickey)", "ssh-copy-id")
	build("ssh://"+h.user+"@"+h.address+"/no/such.sock", "PA141", "finds no daemon at its socket")
	build("ssh://"+h.user+"@127.0.0.1:1", "PA141", "no ssh server listens there")
	known, err := os.ReadFile(h.known)
	check(t, err)
	check(t, os.WriteFile(h.known, nil, 0o600))
	build("ssh://"+there, "PA141", "doesn't know the key of this host", "Host key verification failed", "true   # shows the key")
	if now, err := os.ReadFile(h.known); err != nil || len(now) > 0 {
		t.Errorf("an unknown key was remembered: %s, %v", now, err)
	}
	other, err := os.ReadFile(filepath.Join(filepath.Dir(h.known), "other.pub"))
	check(t, err)
	name, _, _ := strings.Cut(string(known), " ")
	check(t, os.WriteFile(h.known, []byte(name+" "+string(other)), 0o600))
	build("ssh://"+there, "PA141", "has another key than it had", "ssh-keygen -R '"+name+"'")
	check(t, os.WriteFile(h.known, known, 0o600))

	// The connection breaks in the middle, and the host is there: the build is done again.
	k.file(t, "Slow", strings.Replace(kitDockerfile, `"/made"`, `"/made", "3s"`, 1))
	cmd := k.command("build", "--engine", "buildkit", "-f", "Slow", "--platform", "linux/amd64", "--progress", "rawjson", "--output", "oci:slow", "--builder", "ssh://"+there, ".")
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	var log strings.Builder
	broken := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); log.WriteString(lines.Text() + "\n") {
		if !broken && strings.Contains(lines.Text(), `"started"`) && strings.Contains(lines.Text(), "RUN") {
			broken = true
			for _, pid := range children(t, h.pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), "PA143") {
		t.Errorf("a connection that broke: %v\n%s", err, log.String())
	}

	t.Setenv("PATH", k.dir)
	build("ssh://"+there, "PA141", "ssh isn't installed on this machine", "apt-get install openssh-client")
}
