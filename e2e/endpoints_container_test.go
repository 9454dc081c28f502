//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// library is a file that ldd names.
var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// builderRoot is the tar of a root with buildkitd, buildctl and runc of this machine, and
// the libraries that they are linked to: what moby/buildkit is elsewhere.
func builderRoot(t *testing.T) string {
	t.Helper()
	_, runtime := buildkittest.Need(t)
	programs := map[string]string{"runc": runtime}
	for _, name := range []string{"buildkitd", "buildctl"} {
		program, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("%s isn't installed", name)
		}
		programs[name] = program
	}
	files := map[string]string{} // name in the root → file here
	for name, program := range programs {
		files["bin/"+name] = program
		out, _ := exec.Command("ldd", program).CombinedOutput() // it fails for static ones
		for _, m := range library.FindAllStringSubmatch(string(out), -1) {
			files[strings.TrimPrefix(m[1], "/")] = m[1]
		}
	}
	path := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	w := tar.NewWriter(f)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp", "var/lib"} {
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
	}
	for name, file := range files {
		data, err := os.ReadFile(file)
		check(t, err)
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}))
		_, err = w.Write(data)
		check(t, err)
	}
	check(t, w.Close())
	return path
}

// container runs a builder's root as container NAME by docker or podman: --privileged, or
// where this machine itself hasn't all of what that asks for, with what it can give.
func container(t *testing.T, root, name string, limits []string, command ...string) {
	t.Helper()
	run := func(in io.Reader, args ...string) error {
		cmd := exec.Command(command[0], append(command[1:], args...)...)
		cmd.Stdin = in
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	}
	f, err := os.Open(root)
	check(t, err)
	defer f.Close()
	check(t, run(f, "import", "--change", `ENTRYPOINT ["/bin/buildkitd"]`, "--change", "ENV PATH=/bin", "-", "localhost/builder:1"))
	t.Cleanup(func() { _ = run(nil, "rm", "-f", name) })
	confined := append([]string{"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "-v", "/sys/fs/cgroup:/sys/fs/cgroup"}, limits...)
	var errs error
	for _, rights := range [][]string{{"--privileged"}, confined} {
		args := append([]string{"run", "-d", "--name", name, "--network", "host"}, rights...)
		if err = run(nil, append(args, "localhost/builder:1", "--oci-worker-snapshotter", "native", "--oci-worker-net", "host")...); err == nil {
			break
		}
		errs = errors.Join(errs, err)
		_ = run(nil, "rm", "-f", name)
	}
	if err != nil {
		t.Skipf("no container with the rights of a builder runs here: %v", errs)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(command[0], append(command[1:], "exec", name, "buildctl", "debug", "workers")...).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log, _ := exec.Command(command[0], append(command[1:], "logs", name)...).CombinedOutput()
			t.Skipf("buildkitd doesn't start in a container here: %s\n%s", out, log)
		}
	}
}

// startEngine starts a Docker engine of the test's own that touches nothing outside its
// directory, and gives the path of its socket. store says whether it keeps images in
// containerd's store, if it can. ANYARCH_DOCKERD names another dockerd than that on PATH.
func startEngine(t *testing.T, store bool, flags ...string) string {
	t.Helper()
	program := os.Getenv("ANYARCH_DOCKERD")
	if program == "" {
		var err error
		if program, err = exec.LookPath("dockerd"); err != nil {
			t.Skip("dockerd isn't installed (Debian's docker.io)")
		}
	}
	for _, name := range []string{"docker", "containerd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s isn't installed (Debian's docker.io)", name)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("dockerd needs root here")
	}
	dir, err := os.MkdirTemp("", "dockerd-") // short enough for its sockets
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	var log bytes.Buffer
	cmd := exec.Command(program, append(flags, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", "unix://"+socket, "--config-file", filepath.Join(dir, "daemon.json"), "--iptables=false", "--ip6tables=false", "--bridge=none",
		"--containerd-namespace", filepath.Base(dir), "--containerd-plugins-namespace", filepath.Base(dir)+"-plugins")...) // the machine may run one containerd for all
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, os.WriteFile(filepath.Join(dir, "daemon.json"), fmt.Appendf(nil, `{"features": {"containerd-snapshotter": %t}}`, store), 0o600))
	check(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = syscall.Unmount(filepath.Join(dir, "exec", "netns", "default"), syscall.MNT_DETACH) // which it leaves
	})
	for deadline := time.Now().Add(time.Minute); exec.Command("docker", "--host", "unix://"+socket, "version").Run() != nil; time.Sleep(100 * time.Millisecond) {
		late := time.Now().After(deadline)
		select {
		case <-ended:
			late = true
		default:
		}
		if late {
			_ = cmd.Process.Kill()
			<-ended
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			t.Skipf("dockerd doesn't start here: %s", lines[len(lines)-1])
		}
	}
	return socket
}

// endpoint builds by an address, and says what has to be in the log where it can't.
func (k *kit) endpoint(t *testing.T, address string, wants ...string) {
	t.Helper()
	// An engine of a test has no network, and no program needs one.
	args := []string{"build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64,linux/386", "--network", "none", "--output", "oci:out", "."}
	if address != "" {
		args = append(args, "--builder", address)
	}
	_, log := k.run(t, len(wants) == 0, args...)
	for _, want := range wants {
		if !strings.Contains(log, want) {
			t.Errorf("%s: not said: %s\n%s", address, want, log)
		}
	}
}

// TestEndpointDocker builds by a BuildKit in a container of a real Docker engine, named
// by its container, by a context and by buildx's configuration; and asks the BuildKit
// that is inside the engine, which can't hand over images without containerd's store.
func TestEndpointDocker(t *testing.T) {
	peers(t)
	root := builderRoot(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	certs, far := t.TempDir(), freePort(t)
	tomorrow := time.Now().Add(24 * time.Hour)
	ca := buildkittest.NewAuthority(t, certs, "ca")
	serverCert, serverKey := ca.Issue(t, "server", tomorrow)
	clientCert, clientKey := ca.Issue(t, "cert", tomorrow)
	check(t, os.Rename(clientKey, filepath.Join(certs, "key.pem"))) // as docker names it
	socket := startEngine(t, false, "--host", "tcp://"+far, "--tlsverify", "--tlscacert", filepath.Join(certs, "ca.pem"), "--tlscert", serverCert, "--tlskey", serverKey)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	t.Setenv("DOCKER_CONTEXT", "")
	t.Setenv("DOCKER_CONFIG", filepath.Join(k.dir, "docker"))
	container(t, root, "buildx_buildkit_farm0", []string{"--security-opt", "systempaths=unconfined"}, "docker")
	const name = "buildx_buildkit_farm0"
	k.endpoint(t, "docker-container://"+name)
	k.endpoint(t, "docker-container://none", "PA141", "there is no such container", "docker run -d --name none")

	instances := filepath.Join(k.dir, "docker", "buildx", "instances")
	check(t, os.MkdirAll(instances, 0o755))
	check(t, os.WriteFile(filepath.Join(instances, "farm"), fmt.Appendf(nil, `{"Name":"farm","Driver":"docker-container","Nodes":[{"Name":"farm0","Endpoint":"unix://%s"}]}`, socket), 0o600))
	t.Setenv("BUILDX_BUILDER", "farm")
	k.endpoint(t, "")
	t.Setenv("BUILDX_BUILDER", "")

	inside := []string{"PA144", "containerd-snapshotter"}
	k.endpoint(t, "docker://", inside...)
	k.endpoint(t, "docker://"+socket, inside...)
	k.endpoint(t, "unix://"+socket, "PA141", "--builder docker://"+socket)

	if out, err := exec.Command("docker", "context", "create", "far", "--docker", "host=unix://"+socket).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The same engine, behind TLS.
	if out, err := exec.Command("docker", "context", "create", "tls", "--docker", "host=tcp://"+far+",ca="+filepath.Join(certs, "ca.pem")+",cert="+clientCert+",key="+filepath.Join(certs, "key.pem")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k.endpoint(t, "docker://?context=tls", inside...)
	k.endpoint(t, "docker://"+far, "PA141", "HTTPS server")
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", certs)
	k.endpoint(t, "docker://"+far, inside...)
	t.Setenv("DOCKER_TLS_VERIFY", "")
	t.Setenv("DOCKER_HOST", "")
	k.endpoint(t, "docker-container://"+name+"?context=far")
	k.endpoint(t, "docker-container://"+name+"?context=near", "PA141", "docker has no such context", "docker context ls")
	k.endpoint(t, "docker://?context=far", inside...)
	k.endpoint(t, "docker://?context=near", "PA141", "docker has no such context")
	t.Setenv("DOCKER_CONTEXT", "far")
	k.endpoint(t, "docker-container://"+name)
	k.endpoint(t, "docker://", inside...)
	if out, err := exec.Command("docker", "stop", "-t", "5", name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k.endpoint(t, "docker-container://"+name, "PA141", "the container doesn't run", "docker start "+name)
}

// TestEndpointEngine builds by the BuildKit inside a Docker engine that keeps its images
// in containerd's store, which takes version 24 or later.
func TestEndpointEngine(t *testing.T) {
	peers(t)
	socket := startEngine(t, true)
	driver, err := exec.Command("docker", "--host", "unix://"+socket, "info", "--format", "{{.DriverStatus}}").Output()
	check(t, err)
	if !strings.Contains(string(driver), "io.containerd.snapshotter") {
		t.Skip("this dockerd has no containerd store; ANYARCH_DOCKERD names a newer one")
	}
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	k.endpoint(t, "docker://=linux/amd64,linux/386")
	args := []string{"publish", "--engine", "buildkit", "-f", "Dockerfile", "--network", "none", "--builder", "docker://" + socket + "=linux/amd64,linux/386"}
	k.run(t, true, append(args, "--platform", "linux/amd64,linux/386", "-t", k.registry+"/kit/engine:1", ".")...)
	k.run(t, true, append(args, "--platform", "linux/amd64", "--provenance", "mode=max", "-t", k.registry+"/kit/engine:2", ".")...)
	for _, tag := range []string{"1", "2"} {
		k.run(t, true, "verify", k.registry+"/kit/engine:"+tag)
	}
}

// TestEndpointPodman builds by a BuildKit in a container of podman.
func TestEndpointPodman(t *testing.T) {
	peers(t)
	program, err := exec.LookPath("podman")
	if err != nil {
		t.Skip("podman isn't installed")
	}
	root := builderRoot(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	dir, err := os.MkdirTemp("", "podman-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// Podman takes where it keeps things from flags alone.
	wrapper := filepath.Join(dir, "bin", "podman")
	check(t, os.Mkdir(filepath.Dir(wrapper), 0o755))
	check(t, os.WriteFile(wrapper, fmt.Appendf(nil, "#!/bin/sh\nexec %s --root %s/root --runroot %s/run --tmpdir %s/tmp --cgroup-manager=cgroupfs \"$@\"\n", program, dir, dir, dir), 0o755))
	t.Setenv("PATH", filepath.Dir(wrapper)+":"+os.Getenv("PATH"))
	// The limits that podman sets by itself may be above what this machine allows.
	container(t, root, "buildkitd", []string{"--security-opt", "unmask=ALL", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}, "podman")
	k.endpoint(t, "podman-container://buildkitd")
	k.endpoint(t, "podman-container://none", "PA141", "there is no such container", "podman run -d --name none")
	t.Setenv("PATH", k.dir)
	k.endpoint(t, "podman-container://buildkitd", "PA141", "podman isn't installed on this machine")
}

// TestEndpointKubePod builds through a stand-in for kubectl, since there is no cluster: it
// writes down how it is called and connects to a daemon here, as kubectl exec would to one
// in a pod. That the arguments are those of a real kubectl is taken from its manual.
func TestEndpointKubePod(t *testing.T) {
	peers(t)
	control, err := exec.LookPath("buildctl")
	if err != nil {
		t.Skip("buildctl isn't installed")
	}
	daemon := buildkittest.Start(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	check(t, os.WriteFile(filepath.Join(bin, "kubectl"), fmt.Appendf(nil, `#!/bin/sh
echo "$*" >>%s
case "$*" in
*" buildkitd-0 -- buildctl dial-stdio") exec %s --addr %s dial-stdio ;;
*) echo 'Error from server (NotFound): pods "other" not found' >&2; exit 1 ;;
esac
`, calls, control, daemon.Address), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	k.endpoint(t, "kube-pod://buildkitd-0?namespace=build&context=farm&container=kit")
	k.endpoint(t, "kube-pod://other", "PA141", "there is no such container", "kubectl get pods")
	said, err := os.ReadFile(calls)
	check(t, err)
	first, _, _ := strings.Cut(string(said), "\n")
	if want := "--context=farm --namespace=build exec --container=kit -i buildkitd-0 -- buildctl dial-stdio"; first != want {
		t.Errorf("kubectl was called with\n%s, not\n%s", first, want)
	}
}
