//go:build linux

package buildkittest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	program, err := exec.LookPath("buildkitd")
	if err != nil {
		t.Skip("buildkitd isn't installed")
	}
	if os.Getuid() != 0 {
		t.Skip("buildkitd needs root here")
	}
	if runtime, err = exec.LookPath("runc"); err != nil {
		if runtime, err = exec.LookPath("crun"); err != nil {
			t.Skip("neither runc nor crun is installed")
		}
	}
	return program, runtime
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
	program, runtime := Need(t)
	// The path of a socket has room for 107 bytes; names of tests are longer.
	dir, err := os.MkdirTemp("", "buildkitd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
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
	cmd.Env = append(os.Environ(), "HOME="+dir)
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
			return d
		}
		select {
		case <-d.ended:
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log.Name())
		t.Skipf("buildkitd doesn't start here: %s", lastLine(string(text)))
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
	fmt.Fprintf(&conf, "[worker.oci]\n  snapshotter = \"native\"\n  networkMode = \"host\"\n  binary = %q\n[worker.containerd]\n  enabled = false\n", runtime)
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
