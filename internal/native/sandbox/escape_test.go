package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// secret makes a file of the host that no stage may see.
func secret(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// A link of the build context that leads to a file of the host: it was compiled
// into the image by an engine that only maps paths.
func TestLinkToHost(t *testing.T) {
	t.Parallel()
	const source = "package main\n\nconst secret = `hunter2`\n\nfunc init() { println(secret) }\n"
	both(t, func(t *testing.T, r Runner) {
		outside := secret(t, "secret.go", source)
		for name, to := range map[string]string{
			"absolute": outside, "through proc": "/proc/self/root" + outside, "through process 1": "/proc/1/root" + outside,
			"relative": "../../../../../../../../../../.." + outside,
		} {
			s := newStage(t, module)
			s.link(to, "src/s.go")
			if got := run(t, r, s.command("go", "build", "-o", "/app", ".")); got.err == nil && got.exit == 0 {
				t.Errorf("%s: it was compiled", name)
			} else if strings.Contains(got.stdout+got.stderr, "hunter2") {
				t.Errorf("%s: shown: %s", name, got.stderr)
			}
		}
	})
}

func TestEmbedFromHost(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		outside := secret(t, "secret.txt", "hunter2")
		s := newStage(t, module)
		s.write("src/main.go", "package main\n\nimport _ \"embed\"\n\n//go:embed data/secret.txt\nvar secret string\n\nfunc main() { println(secret) }\n")
		s.link(filepath.Dir(outside), "src/data")
		if got := run(t, r, s.command("go", "build", "-o", "/app", ".")); got.err == nil && got.exit == 0 {
			t.Error("it was embedded")
		}
		if data, err := os.ReadFile(filepath.Join(s.root, "app")); err == nil && strings.Contains(string(data), "hunter2") {
			t.Error("it is in the program")
		}
	})
}

// Without Landlock, mapped has to find links out of the root itself.
func TestLinksOut(t *testing.T) {
	t.Parallel()
	for to, out := range map[string]bool{"/etc/passwd": true, "../../x": true, "../x": false, "main.go": false, "../src/../../x": true} {
		s := newStage(t, module)
		s.link(to, "src/l")
		if err := noLinksOut(s.root); (err != nil) != out {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// Mount targets that a link of the stage redirects must not be made on the host.
func TestRedirectedMount(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		victim := t.TempDir()
		for _, name := range []string{"go", "root/.cache", "etc", "usr/local", "proc", "dev"} {
			s := newStage(t, module)
			if err := os.RemoveAll(filepath.Join(s.root, name)); err != nil {
				t.Fatal(err)
			}
			s.link(victim, name)
			c := s.command("go", "build", "-o", "/tmp/app", ".")
			c.Network, c.CACerts = true, secret(t, "ca.pem", "")
			c.Mounts = []Mount{{Host: secret(t, "netrc", "x"), Target: "/etc/anyarch/secret", File: true, ReadOnly: true}}
			run(t, r, c) // it may work, inside, or not
			if left, err := os.ReadDir(victim); err != nil || len(left) > 0 {
				t.Errorf("%s: made on the host: %v", name, left)
			}
		}
	})
}

func TestWriteOutside(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		victim := t.TempDir()
		s := newStage(t, module)
		s.link(victim, "out")
		for _, to := range []string{"/out/app", "../../../../../../../../../../../.." + victim + "/app", victim + "/app"} {
			run(t, r, s.command("go", "build", "-o", to, "."))
			if left, err := os.ReadDir(victim); err != nil || len(left) > 0 {
				t.Fatalf("-o %s: on the host: %v", to, left)
			}
		}
	})
}

// go env -w belongs to the stage, from one command to the next.
func TestSavedSettings(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, r Runner) {
		s := newStage(t, module)
		run(t, r, s.command("go", "env", "-w", "GOPRIVATE=example.com/x", "GOAMD64=v2")).ok(t)
		if got := run(t, r, s.command("go", "env", "GOPRIVATE", "GOAMD64")).ok(t).stdout; got != "example.com/x\nv2\n" {
			t.Errorf("got %q", got)
		}
		if data, err := os.ReadFile(filepath.Join(s.root, "root/.config/go/env")); err != nil || !strings.Contains(string(data), "GOPRIVATE=example.com/x") {
			t.Errorf("not in the stage: %q %v", data, err)
		}
		if config, err := os.UserConfigDir(); err == nil {
			if data, err := os.ReadFile(filepath.Join(config, "go", "env")); err == nil && strings.Contains(string(data), "example.com/x") {
				t.Error("in the settings of the caller")
			}
		}
		run(t, r, s.command("go", "env", "-u", "GOPRIVATE")).ok(t)
		if got := run(t, r, s.command("go", "env", "GOPRIVATE")).ok(t).stdout; got != "\n" {
			t.Errorf("after -u: %q", got)
		}
	})
}

// Nothing of a run may stay in the tree: it would get into a layer.
func TestMountPointsGo(t *testing.T) {
	t.Parallel()
	r := sandboxed(t)
	s := newStage(t, module)
	s.write("go/kept", "")
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, dir := range []string{"etc", "root", "."} {
		if err := os.Chtimes(filepath.Join(s.root, dir), past, past); err != nil {
			t.Fatal(err)
		}
	}
	before := s.entries()
	cache := t.TempDir()
	c := s.command("go", "version")
	c.Env = append(c.Env, "HOME=/dev") // go keeps notes there
	c.Network, c.CACerts = true, secret(t, "ca.pem", "")
	c.Mounts = []Mount{
		{Host: secret(t, "netrc", "x"), Target: "/run/secrets/deep/netrc", File: true, ReadOnly: true},
		{Host: cache, Target: "/go/pkg"}, // around the module cache
		{Target: "/scratch", Tmpfs: true},
		{Host: cache, Target: "/scratch/inner"},
	}
	run(t, r, c).ok(t)
	if after := s.entries(); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	for _, dir := range []string{"etc", "root", "."} {
		if info, err := os.Stat(filepath.Join(s.root, dir)); err != nil || !info.ModTime().Equal(past) {
			t.Errorf("%s: time is %v, not %v", dir, info.ModTime(), past)
		}
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("in the cache: %v", left)
	}
}

// probe is a program of the stage that tries what a hostile one would.
const probe = `package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "read":
		for _, name := range os.Args[2:] {
			if data, err := os.ReadFile(name); err == nil {
				fmt.Println(name, string(data))
			}
		}
	case "processes":
		names, _ := filepath.Glob("/proc/[0-9]*")
		for _, name := range names {
			pid := filepath.Base(name)
			data, err := os.ReadFile(name + "/environ")
			entries, rootErr := os.ReadDir(name + "/root/")
			self, _ := os.Readlink("/proc/self")
			fmt.Println(pid, pid == self, err != nil, rootErr != nil, len(entries), string(data))
			for _, f := range []string{"mem", "exe"} {
				if h, err := os.OpenFile(name+"/"+f, os.O_RDWR, 0); err == nil && pid == "1" {
					fmt.Println("OPENED", h.Name())
				}
			}
		}
	case "status":
		data, _ := os.ReadFile("/proc/self/status")
		fmt.Print(string(data))
	case "write":
		for _, name := range os.Args[2:] {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
			fmt.Println(name, err == nil)
			if err == nil {
				f.Close()
			}
		}
	case "mount":
		fmt.Println(syscall.Unmount("/proc/sys", syscall.MNT_DETACH) == nil, syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, "") == nil,
			syscall.Mount("", "/usr/local/go", "", syscall.MS_REMOUNT|syscall.MS_BIND, "") == nil)
		cmd := exec.Command("/proc/self/exe", "mount-inner")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}}}
		out, err := cmd.CombinedOutput()
		fmt.Println("inner", err != nil, string(out))
	case "mount-inner":
		fmt.Println(syscall.Unmount("/proc/sys", syscall.MNT_DETACH) == nil, syscall.Mount("", "/usr/local/go", "", syscall.MS_REMOUNT|syscall.MS_BIND, "") == nil)
	case "dial":
		c, err := net.DialTimeout("tcp", os.Args[2], 3*time.Second)
		fmt.Println(err == nil)
		if err == nil {
			c.Close()
		}
	case "listen":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		fmt.Println(err == nil)
		_ = c
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "fds":
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			to, _ := os.Readlink("/proc/self/fd/" + e.Name())
			fmt.Println(e.Name(), to)
		}
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "die":
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
		time.Sleep(time.Minute)
	case "exit":
		os.Exit(7)
	case "orphan":
		// Leaves a child behind and ends.
		cmd := exec.Command("/proc/self/exe", "beat", os.Args[2])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Start()
	case "bomb":
		for range 8 {
			cmd := exec.Command("/proc/self/exe", "beat", os.Args[2])
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			cmd.Stdout = os.Stdout
			cmd.Start()
		}
		fmt.Println("started")
		time.Sleep(time.Hour)
	case "beat":
		for {
			f, _ := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			f.WriteString("x")
			f.Close()
			time.Sleep(time.Millisecond)
		}
	}
}
`

// newProbe gives a stage with the probe as /probe, and a runner for it.
func newProbe(t *testing.T) (*stage, Runner) {
	t.Helper()
	r := sandboxed(t)
	s := newStage(t, module)
	s.write("src/main.go", probe)
	run(t, r, s.command("go", "build", "-o", "/probe", ".")).ok(t)
	return s, r
}

func TestProgram(t *testing.T) {
	t.Parallel()
	s, r := newProbe(t)
	outside := secret(t, "secret", "hunter2")
	t.Run("files of the host", func(t *testing.T) {
		t.Parallel()
		got := run(t, r, s.command("/probe", "read", outside, "/proc/1/root"+outside, "/proc/self/root"+outside, "/proc/self/cwd/../../../.."+outside, "/proc/1/environ", "/proc/1/cmdline"))
		if got.ok(t); strings.Contains(got.stdout, "hunter2") {
			t.Errorf("seen: %s", got.stdout)
		}
	})
	t.Run("processes of the host", func(t *testing.T) {
		t.Parallel()
		got := run(t, r, s.command("/probe", "processes")).ok(t).stdout
		for line := range strings.Lines(got) {
			if f := strings.Fields(line); len(f) > 4 && f[1] == "false" && (f[2] == "false" || f[3] == "false") {
				t.Errorf("looked into another process: %s", line)
			}
		}
		if strings.Contains(got, canary) || strings.Contains(got, "OPENED") {
			t.Errorf("seen: %s", got)
		}
	})
	t.Run("environment", func(t *testing.T) {
		t.Parallel()
		c := s.command("/probe", "env")
		c.ProxyEnv = []string{"HTTPS_PROXY=http://proxy.example"}
		c.CACerts = outside
		want := strings.Join(append(slices.Clone(c.Env), c.ProxyEnv...), "\n") + "\n"
		if got := run(t, r, c).ok(t).stdout; got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
	t.Run("rights", func(t *testing.T) {
		t.Parallel()
		status := run(t, r, s.command("/probe", "status")).ok(t).stdout
		for _, want := range []string{
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
			"NoNewPrivs:\t1", "Uid:\t0\t0\t0\t0", "Umask:\t0022",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("%q is not in\n%s", want, status)
			}
		}
		got := run(t, r, s.command("/probe", "mount")).ok(t).stdout
		if !strings.HasPrefix(got, "false false false\n") || !strings.Contains(got, "inner true") && strings.Contains(got, "true\n") {
			t.Errorf("mounts: %s", got)
		}
		// An existing file and none that a mistake here would harm.
		got = run(t, r, s.command("/probe", "write", "/usr/local/go/VERSION", "/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/dev/null", "/new")).ok(t).stdout
		if want := "/usr/local/go/VERSION false\n/proc/sys/kernel/domainname false\n/proc/sysrq-trigger false\n/dev/null true\n/new true\n"; got != want {
			t.Errorf("writable: %s", got)
		}
	})
	t.Run("another user", func(t *testing.T) {
		t.Parallel()
		c := s.command("/probe", "status")
		c.UID, c.GID, c.Umask = 1234, 567, 0o077
		status := run(t, r, c).ok(t).stdout
		for _, want := range []string{
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
			"NoNewPrivs:\t1", "Uid:\t1234\t1234\t1234\t1234", "Gid:\t567\t567\t567\t567", "Umask:\t0077",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("%q is not in\n%s", want, status)
			}
		}
		c.Args = []string{"/probe", "mount"}
		if got := run(t, r, c).ok(t).stdout; !strings.HasPrefix(got, "false false false\n") || !strings.Contains(got, "inner true") && strings.Contains(got, "true\n") {
			t.Errorf("mounts: %s", got)
		}
		c.Args = []string{"/probe", "read", outside, "/proc/1/root" + outside, "/proc/self/root" + outside, "/proc/1/environ"}
		if got := run(t, r, c).ok(t).stdout; strings.Contains(got, "hunter2") {
			t.Errorf("seen: %s", got)
		}
	})
	t.Run("another name", func(t *testing.T) {
		t.Parallel()
		c := s.command("as-it-was-called", "env")
		c.Program = "/probe"
		if got := run(t, r, c).ok(t).stdout; !strings.Contains(got, "PATH=") && !strings.Contains(got, "HOME=") {
			t.Errorf("it didn't run: %s", got)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		t.Parallel()
		got := run(t, r, s.command("/probe", "fds")).ok(t).stdout
		for line := range strings.Lines(got) {
			if n, to, _ := strings.Cut(strings.TrimSpace(line), " "); n > "2" && !strings.HasPrefix(to, "/proc/") && !strings.HasPrefix(to, "anon_inode:") && to != "" {
				t.Errorf("open: %s", line)
			}
		}
	})
	t.Run("network", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Skip(err)
		}
		defer l.Close()
		c := s.command("/probe", "dial", l.Addr().String())
		if got := run(t, r, c).ok(t).stdout; got != "false\n" {
			t.Error("there is a network without one")
		}
		if got := run(t, r, s.command("/probe", "listen")).ok(t).stdout; got != "true\n" {
			t.Errorf("no loopback: %s", got)
		}
	})
	t.Run("exit", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, map[string]string{"bin/text": "not a program"})
		for name, want := range map[string]int{"/missing": 127, "/bin/text": 126} {
			if got := run(t, r, s.command(name)); got.exit != want || got.err != nil || !strings.HasPrefix(got.stderr, name+": ") {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
	for mode, want := range map[string]int{"exit": 7, "die": 128 + 15} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			if got := run(t, r, s.command("/probe", mode)); got.exit != want || got.err != nil {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	s, r := newProbe(t)
	c := s.command("/probe", "cat")
	c.Stdin = strings.NewReader("text")
	if got := run(t, r, c).ok(t).stdout; got != "text" {
		t.Errorf("got %q", got)
	}
	if got := run(t, r, s.command("/probe", "cat")).ok(t).stdout; got != "" {
		t.Errorf("without input: %q", got)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	c = s.command("/probe", "exit") // a reader that never ends must not keep it
	c.Stdin = read
	if got := run(t, r, c); got.exit != 7 {
		t.Errorf("%+v", got)
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	s, r := newProbe(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	c := s.command("/probe", "dial", l.Addr().String())
	c.Network = true
	if got := run(t, r, c).ok(t).stdout; got != "true\n" {
		t.Error("there is no network where one is wanted")
	}
}

// Whatever a command started dies with it, and with its context.
func TestNothingSurvives(t *testing.T) {
	t.Parallel()
	s, r := newProbe(t)
	size := func(name string) int64 {
		info, err := os.Stat(filepath.Join(s.root, name))
		if err != nil {
			return -1
		}
		return info.Size()
	}
	dead := func(name string) {
		t.Helper()
		before := size(name)
		time.Sleep(150 * time.Millisecond)
		if after := size(name); after != before {
			t.Errorf("%s: something still writes", name)
		}
	}
	run(t, r, s.command("/probe", "orphan", "/tmp/orphan")).ok(t)
	dead("tmp/orphan")

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	why := errors.New("enough")
	c := s.command("/probe", "bomb", "/tmp/bomb")
	c.Stdout = writerFunc(func(p []byte) (int, error) { cancel(why); return len(p), nil })
	if _, err := r.Run(ctx, c); !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
	dead("tmp/bomb")
	for _, name := range s.entries() {
		if name == "proc" || name == "dev" || name == "usr/local/go" {
			t.Errorf("%s is left", name)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCancelMapped(t *testing.T) {
	t.Parallel()
	s := newStage(t, module)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (mapped{}).Run(ctx, s.command("go", "version")); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// With -trimpath, which mapped adds, both make the same program.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	r := sandboxed(t)
	var programs []string
	for _, r := range []Runner{r, mapped{}} {
		s := newStage(t, module)
		c := s.command("go", "build", "-trimpath", "-o", "/app", ".")
		c.BuildCache = t.TempDir()
		run(t, r, c).ok(t)
		data, err := os.ReadFile(filepath.Join(s.root, "app"))
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, string(data))
	}
	if programs[0] != programs[1] {
		t.Errorf("%d and %d bytes differ", len(programs[0]), len(programs[1]))
	}
}

// What a sandbox costs: about 10 ms.
func BenchmarkSandbox(b *testing.B) {
	r, err := newSandbox()
	if err != nil {
		b.Skip(err)
	}
	root := b.TempDir()
	for b.Loop() {
		if exit, err := r.Run(context.Background(), Command{Root: root, Dir: "/", Args: []string{"/none"}}); exit != 127 || err != nil {
			b.Fatal(exit, err)
		}
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		if _, err := newSandbox(); !errors.Is(err, errSystem) {
			t.Errorf("error is %v", err)
		}
	}
	if len(unavailableFix()) == 0 {
		t.Error("nothing to do about it")
	}
}
