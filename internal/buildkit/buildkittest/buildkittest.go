//go:build linux

package buildkittest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is a buildkitd of a test's own.
type Daemon struct {
	Address string // of its socket
	TCP     string // tcp://…, where it was asked for
	cmd     *exec.Cmd
	ended   chan struct{}
}

// Need skips a test, with the reason, where there can't be a daemon: it takes buildkitd
// and runc or crun on PATH, and root.
func Need(t testing.TB) (program, runtime string) {
	t.Helper()
	program, runtime, err := look()
	if err != nil {
		t.Skip(err)
	}
	return program, runtime
}

func look() (program, runtime string, err error) {
	if program, err = exec.LookPath("buildkitd"); err != nil {
		return "", "", errors.New("buildkitd isn't installed")
	}
	if os.Getuid() != 0 {
		return "", "", errors.New("buildkitd needs root here")
	}
	if runtime, err = exec.LookPath("runc"); err != nil {
		if runtime, err = exec.LookPath("crun"); err != nil {
			return "", "", errors.New("neither runc nor crun is installed")
		}
	}
	return program, runtime, nil
}

// Options say what a daemon of a test is; the zero value is one on a socket.
type Options struct {
	// Registries are addresses that it uses without TLS; the first one stands for
	// docker.io too.
	Registries []string
	// TCP is an address to answer at beside the socket, such as 127.0.0.1:1234, with
	// TLS if there are files for it: its own certificate, and the CA of its clients'.
	TCP           string
	Cert, Key, CA string
	// Strict grants no entitlement.
	Strict bool
	// Snapshotter is native if it is empty.
	Snapshotter string
	// Parent is the directory that the daemon gets one of its own in; that of temporary
	// files if it is empty. The path of a socket has room for 107 bytes.
	Parent string
}

// Start starts a daemon that may use the registries at the given addresses without TLS;
// the first one stands for docker.io too. The test is skipped where there can't be one;
// see [Need].
func Start(t testing.TB, registries ...string) *Daemon {
	t.Helper()
	return StartWith(t, Options{Registries: registries})
}

// StartWith starts a daemon, as [Start] does.
func StartWith(t testing.TB, o Options) *Daemon {
	t.Helper()
	d, err := Try(t, o)
	if err != nil {
		t.Skip(err)
	}
	return d
}

// Try starts a daemon until the end of a test. The error says why there can't be one.
func Try(t testing.TB, o Options) (*Daemon, error) {
	t.Helper()
	program, runtime, err := look()
	if err != nil {
		return nil, err
	}
	// Names of tests are too long for the path of a socket.
	dir, err := os.MkdirTemp(o.Parent, "buildkitd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(dir); _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sock")
	conf := o.config(dir, socket, runtime)
	file := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Address: "unix://" + socket, cmd: cmd, ended: make(chan struct{})}
	if o.TCP != "" {
		d.TCP = "tcp://" + o.TCP
	}
	go func() { _ = cmd.Wait(); _ = log.Close(); close(d.ended) }()
	t.Cleanup(d.stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return d, nil
		}
		select {
		case <-d.ended:
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("buildkitd doesn't start here: %s", lastLine(string(text)))
	}
}

// config is the buildkitd.toml of a daemon.
func (o Options) config(dir, socket, runtime string) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, "root = %q\n", filepath.Join(dir, "root"))
	if !o.Strict {
		conf.WriteString("insecure-entitlements = [\"network.host\", \"security.insecure\"]\n")
	}
	fmt.Fprintf(&conf, "[grpc]\n  address = [%q", "unix://"+socket)
	if o.TCP != "" {
		fmt.Fprintf(&conf, ", %q", "tcp://"+o.TCP)
	}
	conf.WriteString("]\n")
	if o.Cert != "" {
		fmt.Fprintf(&conf, "[grpc.tls]\n  cert = %q\n  key = %q\n  ca = %q\n", o.Cert, o.Key, o.CA)
	}
	fmt.Fprintf(&conf, "[worker.oci]\n  snapshotter = %q\n  networkMode = \"host\"\n  binary = %q\n[worker.containerd]\n  enabled = false\n", cmp.Or(o.Snapshotter, "native"), runtime)
	if len(o.Registries) > 0 {
		fmt.Fprintf(&conf, "[registry.\"docker.io\"]\n  mirrors = [%q]\n", o.Registries[0])
	}
	for _, r := range o.Registries {
		fmt.Fprintf(&conf, "[registry.%q]\n  http = true\n", r)
	}
	return conf.String()
}

// Kill ends the daemon at once, as if its machine were gone.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// unmount unmounts what a daemon that was killed has left below a directory.
func unmount(dir string) {
	data, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(data), "\n")
	for _, line := range slices.Backward(lines) { // the last one is on top
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
}

// Freeze stops the daemon without a word: connections to it stay open, and nothing is
// answered any more.
func (d *Daemon) Freeze() { _ = d.cmd.Process.Signal(syscall.SIGSTOP) }

func (d *Daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGCONT) // it may be frozen
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
		d.Kill()
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
