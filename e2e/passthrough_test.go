//go:build linux

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// probe is a program for RUN lines that writes down what it sees around it: to the file
// of its first argument, of the things that the others name.
const probe = `package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

func main() {
	var report strings.Builder
	for _, what := range os.Args[2:] {
		kind, arg, _ := strings.Cut(what, ":")
		value := ""
		switch kind {
		case "file":
			data, err := os.ReadFile(arg)
			value = string(data)
			if err != nil {
				value = err.Error()
			}
		case "env":
			value = os.Getenv(arg)
		case "core":
			var l syscall.Rlimit
			syscall.Getrlimit(syscall.RLIMIT_CORE, &l)
			value = fmt.Sprint(l.Cur, ":", l.Max)
		case "shm":
			var s syscall.Statfs_t
			syscall.Statfs("/dev/shm", &s)
			value = fmt.Sprint(s.Blocks * uint64(s.Bsize))
		case "capabilities":
			data, _ := os.ReadFile("/proc/self/status")
			_, rest, _ := strings.Cut(string(data), "CapEff:\t")
			value, _, _ = strings.Cut(rest, "\n")
		case "interfaces":
			list, _ := net.Interfaces()
			value = fmt.Sprint(len(list))
		case "agent":
			value = keys(arg)
		}
		fmt.Fprintf(&report, "%s=%q\n", what, value)
	}
	if err := os.WriteFile(os.Args[1], []byte(report.String()), 0o644); err != nil {
		println(err.Error())
		os.Exit(1)
	}
}

// keys asks an agent for its keys (draft-miller-ssh-agent: a length, then 11), and gives
// their comments.
func keys(socket string) string {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err.Error()
	}
	conn.Write([]byte{0, 0, 0, 1, 11})
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err.Error()
	}
	answer := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err.Error()
	}
	next := func() string {
		n := binary.BigEndian.Uint32(answer)
		s := string(answer[4 : 4+n])
		answer = answer[4+n:]
		return s
	}
	n := binary.BigEndian.Uint32(answer[1:])
	answer = answer[5:]
	var comments []string
	for range n {
		next()
		comments = append(comments, next())
	}
	return fmt.Sprint(n, " ", strings.Join(comments, " "))
}
`

// newProbeKit is a kit whose context has the probe, for this machine's platform.
func newProbeKit(t *testing.T) *kit {
	t.Helper()
	buildkittest.Need(t)
	k := newKit(t)
	k.file(t, "probe.go", probe)
	check(t, goTool(filepath.Join(k.dir, "probe"), filepath.Join(k.dir, "probe.go"), "amd64"))
	return k
}

// report reads what the probe wrote down in the only image of a layout.
func (k *kit) report(t *testing.T, layout string) map[string]string {
	t.Helper()
	layout = filepath.Join(k.dir, layout)
	file := (&images{}).read(t, layout, imageOf(t, layout)).files["/report"]
	if file == nil {
		t.Fatal("the image has no report")
	}
	text, err := strconv.Unquote(file.content)
	check(t, err)
	seen := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		seen[name], err = strconv.Unquote(value)
		check(t, err)
	}
	return seen
}

// startAgent is an ssh agent of the test's own with one key, and gives its socket.
func startAgent(t *testing.T, comment string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	ring := agent.NewKeyring()
	check(t, ring.Add(agent.AddedKey{PrivateKey: key, Comment: comment}))
	dir, err := os.MkdirTemp("", "agent-") // the path of a socket has to be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	return socket
}

// TestPassThroughRun gives the flags that change what a RUN sees, and reads back what it
// saw: in the file of hosts, its limits, /dev/shm, secrets, agents and the network.
func TestPassThroughRun(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	daemon := buildkittest.Start(t)
	on := []string{"build", "--engine", "buildkit", "--platform", "linux/amd64", "--builder", daemon.Address, "--output", "oci:out", "."}
	k.file(t, "Dockerfile", `FROM scratch
COPY probe /bin/probe
RUN --mount=type=secret,id=a --mount=type=secret,id=b,target=/b --mount=type=secret,id=c,env=C \
    --mount=type=ssh --mount=type=ssh,id=other,target=/other --mount=type=ssh,id=key,target=/key \
    ["/bin/probe", "/report", "file:/etc/hosts", "core", "shm", "interfaces", "file:/run/secrets/a", "file:/b", "env:C", "agent:/run/buildkit/ssh_agent.0", "agent:/other", "agent:/key"]
`)
	k.file(t, "secret.txt", "from a file")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(k.dir, "id"), pem.EncodeToMemory(block), 0o600))
	t.Setenv("SSH_AUTH_SOCK", startAgent(t, "mine"))
	t.Setenv("TOKEN_B", "from the environment")
	t.Setenv("c", "by its name")
	_, log := k.run(t, true, append(on, "-f", "Dockerfile",
		"--add-host", "builder.example.com=192.0.2.7", "--add-host", "six.example.com:2001:db8::1", "--ulimit", "core=123:456", "--shm-size", "8m", "--network", "none",
		"--secret", "id=a,src=secret.txt", "--secret", "id=b,env=TOKEN_B", "--secret", "id=c",
		"--ssh", "default", "--ssh", "other="+startAgent(t, "yours"), "--ssh", "key=id")...)
	seen := k.report(t, "out")
	for what, want := range map[string]string{
		"core": "123:456", "shm": strconv.Itoa(8 << 20), "interfaces": "1", "file:/run/secrets/a": "from a file", "file:/b": "from the environment", "env:C": "by its name",
		"agent:/run/buildkit/ssh_agent.0": "1 mine", "agent:/other": "1 yours", "agent:/key": "1 ",
	} {
		if seen[what] != want {
			t.Errorf("%s is %q, not %q", what, seen[what], want)
		}
	}
	for _, want := range []string{"192.0.2.7\tbuilder.example.com", "2001:db8::1\tsix.example.com"} {
		if !strings.Contains(seen["file:/etc/hosts"], want) {
			t.Errorf("the hosts are\n%s", seen["file:/etc/hosts"])
		}
	}
	for _, secret := range []string{"from a file", "from the environment", "by its name"} {
		if strings.Contains(log, secret) {
			t.Errorf("the secret %q is on the screen", secret)
		}
	}

	// What can't be read is refused before anything is built, all at once.
	_, log = k.run(t, false, append(on, "-f", "Dockerfile", "--shm-size", "much", "--ulimit", "core", "--add-host", "here=host-gateway", "--add-host", "x=y")...)
	for _, want := range []string{"--shm-size much", "--ulimit core", "--add-host here=host-gateway", "--add-host x=y"} {
		if !strings.Contains(log, want) {
			t.Errorf("%s isn't refused:\n%s", want, log)
		}
	}

	// Without the agent and the secrets the same file is refused, each by its name.
	k.file(t, "Agent", "FROM scratch\nCOPY probe /bin/probe\nRUN --mount=type=ssh,required=true [\"/bin/probe\", \"/report\"]\n")
	if _, log := k.run(t, false, append(on, "-f", "Agent")...); !strings.Contains(log, "Agent:3") || !strings.Contains(log, "ssh") {
		t.Error(log)
	}
	if _, log := k.run(t, false, append(on, "-f", "Agent", "--ssh", "default=/no/such.sock")...); !strings.Contains(log, "PA502") || !strings.Contains(log, "/no/such.sock") {
		t.Error(log)
	}
}

// TestPassThroughEntitlements runs with what has to be allowed twice: by the command and
// by the daemon.
func TestPassThroughEntitlements(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	open, strict := buildkittest.Start(t), buildkittest.StartWith(t, buildkittest.Options{Strict: true})
	k.file(t, "Network", "FROM scratch\nCOPY probe /bin/probe\nRUN --network=host [\"/bin/probe\", \"/report\", \"interfaces\"]\n")
	k.file(t, "Insecure", "FROM scratch\nCOPY probe /bin/probe\nRUN [\"/bin/probe\", \"/before\", \"capabilities\"]\nRUN --security=insecure [\"/bin/probe\", \"/report\", \"capabilities\"]\n")
	for _, c := range []struct{ file, allow string }{{"Network", "network.host"}, {"Insecure", "security.insecure"}} {
		args := func(d *buildkittest.Daemon, more ...string) []string {
			return append([]string{"build", "--engine", "buildkit", "-f", c.file, "--platform", "linux/amd64", "--builder", d.Address, "--output", "oci:" + c.file + "-out", "."}, more...)
		}
		if _, log := k.run(t, false, args(open)...); !strings.Contains(log, "PA145") || !strings.Contains(log, "--allow "+c.allow) {
			t.Errorf("%s wasn't allowed by the command:\n%s", c.allow, log)
		}
		if _, log := k.run(t, false, args(strict, "--allow", c.allow)...); !strings.Contains(log, "PA145") || !strings.Contains(log, "insecure-entitlements = [") || !strings.Contains(log, c.allow) {
			t.Errorf("%s wasn't allowed by the daemon:\n%s", c.allow, log)
		}
		k.run(t, true, args(open, "--allow", c.allow)...)
	}
	// The network of the whole build, by a flag.
	k.file(t, "Any", "FROM scratch\nCOPY probe /bin/probe\nRUN [\"/bin/probe\", \"/report\", \"interfaces\"]\n")
	whole := []string{"build", "--engine", "buildkit", "-f", "Any", "--platform", "linux/amd64", "--builder", open.Address, "--output", "oci:Any-out", "--network", "host", "."}
	if _, log := k.run(t, false, whole...); !strings.Contains(log, "--allow network.host") {
		t.Errorf("--network host without leave:\n%s", log)
	}
	k.run(t, true, append(whole, "--allow", "network.host")...)
	if _, log := k.run(t, false, append(whole, "--allow", "everything")...); !strings.Contains(log, "PA502") || !strings.Contains(log, "--allow everything") {
		t.Errorf("an entitlement that there isn't:\n%s", log)
	}

	before, err := strconv.ParseUint("00000000a80425fb", 16, 64) // what every container has
	check(t, err)
	got, err := strconv.ParseUint(k.report(t, "Insecure-out")["capabilities"], 16, 64)
	check(t, err)
	if got&^before == 0 {
		t.Errorf("with security.insecure the capabilities are %x", got)
	}
	own, err := net.Interfaces()
	check(t, err)
	for _, out := range []string{"Network-out", "Any-out"} {
		if n := k.report(t, out)["interfaces"]; n != strconv.Itoa(len(own)) {
			t.Errorf("%s: there are %s interfaces, on this machine %d", out, n, len(own))
		}
	}
}

// TestPassThroughSources reads named contexts of all kinds, and follows a source policy.
func TestPassThroughSources(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	daemon := buildkittest.Start(t, k.registry)
	on := []string{"--engine", "buildkit", "--platform", "linux/amd64", "--builder", daemon.Address}
	for _, name := range []string{"one", "two"} {
		check(t, os.Mkdir(filepath.Join(k.dir, name), 0o755))
		k.file(t, filepath.Join(name, "name"), name)
		k.file(t, "Base", "FROM scratch\nCOPY "+name+"/name /name\n")
		k.run(t, true, append([]string{"publish", "-f", "Base", "-t", k.registry + "/kit/" + name + ":1", "."}, on...)...)
		k.run(t, true, append([]string{"build", "-f", "Base", "--output", "oci:layout-" + name, "."}, on...)...)
	}
	k.file(t, "Named", "FROM base\nCOPY probe /bin/probe\nCOPY --from=more name /more\nRUN [\"/bin/probe\", \"/report\", \"file:/name\", \"file:/more\"]\n")
	repository := filepath.Join(t.TempDir(), "more.git")
	check(t, os.CopyFS(filepath.Join(repository, "sub"), os.DirFS(filepath.Join(k.dir, "two"))))
	cases := []struct{ base, more string }{
		{"docker-image://" + k.registry + "/kit/one:1", "two"},
		{"oci-layout://layout-one", "docker-image://" + k.registry + "/kit/two:1"},
		{"oci-layout://" + filepath.Join(k.dir, "layout-one") + "@" + imageOf(t, filepath.Join(k.dir, "layout-one")).String(), "oci-layout://layout-two:latest"},
	}
	if program, err := exec.LookPath("git"); err == nil {
		for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "x"}} {
			cmd := exec.Command(program, args...)
			cmd.Dir = repository
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		cases = append(cases, struct{ base, more string }{"oci-layout://layout-one", "file://" + repository + "#main:sub"})
	}
	for _, c := range cases {
		k.run(t, true, append([]string{"build", "-f", "Named", "--output", "oci:named", "--build-context", "base=" + c.base, "--build-context", "more=" + c.more, "."}, on...)...)
		if seen := k.report(t, "named"); seen["file:/name"] != "one" || seen["file:/more"] != "two" {
			t.Errorf("%+v: %v", c, seen)
		}
	}
	if _, log := k.run(t, false, append([]string{"build", "-f", "Named", "--build-context", "base=oci-layout://layout-one:2", "--build-context", "more=two", "."}, on...)...); !strings.Contains(log, "no image of this name") {
		t.Error(log)
	}

	one, two := "docker-image://"+k.registry+"/kit/one:1", "docker-image://"+k.registry+"/kit/two:1"
	k.file(t, "Policed", "FROM "+k.registry+"/kit/one:1\nCOPY probe /bin/probe\nRUN [\"/bin/probe\", \"/report\", \"file:/name\"]\n")
	policed := append([]string{"build", "-f", "Policed", "--output", "oci:policed", "--source-policy", "policy.json", "."}, on...)
	k.file(t, "policy.json", `{"rules":[{"action":"DENY","selector":{"identifier":"`+one+`"}}]}`)
	if _, log := k.run(t, false, policed...); !strings.Contains(log, "PA145") || !strings.Contains(log, "denied") || !strings.Contains(log, "kit/one:1") {
		t.Errorf("a source that the policy denies:\n%s", log)
	}
	k.file(t, "policy.json", `{"rules":[{"action":"CONVERT","selector":{"identifier":"`+one+`"},"updates":{"identifier":"`+two+`"}}]}`)
	k.run(t, true, policed...)
	if seen := k.report(t, "policed"); seen["file:/name"] != "two" {
		t.Errorf("a source that the policy replaces: %v", seen)
	}
	k.file(t, "policy.json", `{"rules":[{"action":"SHOUT"}]}`)
	if _, log := k.run(t, false, policed...); !strings.Contains(log, "PA502") || !strings.Contains(log, "--source-policy") {
		t.Errorf("a policy that nobody understands:\n%s", log)
	}
}

// TestPassThroughTime builds by two daemons that share nothing: the digest is the same, and
// what a program made has the time that was asked for, or the beginning of all times.
func TestPassThroughTime(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	one, two := buildkittest.Start(t), buildkittest.Start(t)
	k.file(t, "Dockerfile", "FROM scratch\nCOPY probe /bin/probe\nRUN [\"/bin/probe\", \"/report\", \"env:SOURCE_DATE_EPOCH\"]\n")
	for _, epoch := range []string{"", "1700000000"} {
		t.Setenv("SOURCE_DATE_EPOCH", epoch)
		var digests []string
		for _, d := range []*buildkittest.Daemon{one, two} {
			out, _ := k.run(t, true, "build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64", "--builder", d.Address, "--output", "oci:timed", "--no-cache", ".")
			_, digest, _ := strings.Cut(out, "@")
			digests = append(digests, digest)
		}
		if digests[0] != digests[1] {
			t.Errorf("SOURCE_DATE_EPOCH=%s: the digests are %v", epoch, digests)
		}
		want := "1970-01-01T00:00:00Z"
		if epoch != "" {
			want = "2023-11-14T22:13:20Z"
		}
		if out, _ := k.run(t, true, "inspect", "timed"); !strings.Contains(out, want) {
			t.Errorf("SOURCE_DATE_EPOCH=%s:\n%s", epoch, out)
		}
	}
}

// manifests are the images and the attestations of the only tag of a layout.
func (k *kit) manifests(t *testing.T, layout string) (images []ocispec.Manifest, attestations []ocispec.Manifest) {
	t.Helper()
	dir := filepath.Join(k.dir, layout)
	read := func(file string, into any) {
		data, err := os.ReadFile(file)
		check(t, err)
		check(t, json.Unmarshal(data, into))
	}
	blob := func(d ocispec.Descriptor) string {
		return filepath.Join(dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
	}
	var index ocispec.Index
	read(filepath.Join(dir, "index.json"), &index)
	if len(index.Manifests) != 1 || index.Manifests[0].MediaType != ocispec.MediaTypeImageIndex {
		t.Fatalf("%s: %+v", layout, index.Manifests)
	}
	read(blob(index.Manifests[0]), &index)
	for _, d := range index.Manifests {
		var m ocispec.Manifest
		read(blob(d), &m)
		if d.Platform.OS == "unknown" {
			attestations = append(attestations, m)
		} else {
			images = append(images, m)
		}
	}
	return images, attestations
}

// TestPassThroughImage asks for other layers and for attestations, and finds those that
// were asked for, and no others.
func TestPassThroughImage(t *testing.T) {
	peers(t)
	k := newProbeKit(t)
	daemon := buildkittest.Start(t, k.registry)
	k.file(t, "Dockerfile", "FROM scratch\nCOPY probe /bin/probe\nRUN [\"/bin/probe\", \"/report\", \"env:HOME\"]\n")
	build := func(out string, more ...string) {
		t.Helper()
		k.run(t, true, append([]string{"build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64", "--builder", daemon.Address, "--output", "oci:" + out, "."}, more...)...)
		k.run(t, true, "verify", out)
	}
	size := map[string]int64{}
	for _, c := range []struct {
		name, media string
		flags       []string
	}{
		{"gzip", ocispec.MediaTypeImageLayerGzip, nil},
		{"gzip-1", ocispec.MediaTypeImageLayerGzip, []string{"--compression-level", "1"}},
		{"gzip-9", ocispec.MediaTypeImageLayerGzip, []string{"--compression-level", "9"}},
		{"zstd", ocispec.MediaTypeImageLayerZstd, []string{"--compression", "zstd"}},
		{"zstd-19", ocispec.MediaTypeImageLayerZstd, []string{"--compression", "zstd", "--compression-level", "19"}},
		{"estargz", ocispec.MediaTypeImageLayerGzip, []string{"--compression", "estargz"}},
		{"uncompressed", ocispec.MediaTypeImageLayer, []string{"--compression", "uncompressed"}},
	} {
		build(c.name, c.flags...)
		list, attestations := k.manifests(t, c.name)
		if len(list) != 1 || len(attestations) != 0 {
			t.Fatalf("%s: %d images and %d attestations", c.name, len(list), len(attestations))
		}
		for _, l := range list[0].Layers {
			if l.MediaType != c.media {
				t.Errorf("%s: a layer is %s", c.name, l.MediaType)
			}
			if _, is := l.Annotations["containerd.io/snapshot/stargz/toc.digest"]; is != (c.name == "estargz") {
				t.Errorf("%s: the layer's annotations are %v", c.name, l.Annotations)
			}
			size[c.name] += l.Size
		}
	}
	if size["gzip-9"] >= size["gzip-1"] || size["zstd-19"] >= size["zstd"] || size["uncompressed"] <= size["gzip-1"] {
		t.Errorf("the sizes are %v", size)
	}

	// A scanner by docs/attestations/sbom-protocol.md of BuildKit, since the usual one is
	// far away: it says that the scanned image has a package of a name of its own.
	k.file(t, "scan.go", scanner)
	check(t, goTool(filepath.Join(k.dir, "scan"), filepath.Join(k.dir, "scan.go"), "amd64"))
	k.file(t, "Scanner", "FROM scratch\nCOPY scan /scan\nENTRYPOINT [\"/scan\"]\n")
	for _, tag := range []string{"/kit/scanner:1", "/docker/buildkit-syft-scanner:stable-1"} { // BuildKit's own choice, which the registry stands for
		k.run(t, true, "publish", "--engine", "buildkit", "-f", "Scanner", "--platform", "linux/amd64", "--builder", daemon.Address, "-t", k.registry+tag, ".")
	}
	const provenance, sbom = "https://slsa.dev/provenance/", "https://spdx.dev/Document"
	for _, c := range []struct {
		name  string
		flags []string
		kinds []string
		has   []string
		not   []string
	}{
		{"none", []string{"--provenance", "false", "--sbom", "false"}, nil, nil, nil},
		{"no", []string{"--provenance", "0"}, nil, nil, nil},
		{"true", []string{"--provenance", "true"}, []string{provenance}, nil, nil},
		{"min", []string{"--provenance", "mode=min"}, []string{provenance}, nil, []string{"FROM scratch"}},
		{"max", []string{"--provenance", "mode=max"}, []string{provenance}, []string{"source"}, nil},
		{"attest", []string{"--attest", "type=provenance,mode=max,version=v1"}, []string{provenance}, nil, nil},
		{"sbom", []string{"--sbom", "generator=" + k.registry + "/kit/scanner:1"}, []string{sbom}, []string{"a package of the test's", "/bin/probe"}, nil},
		{"default sbom", []string{"--sbom", "true"}, []string{sbom}, []string{"a package of the test's"}, nil},
		{"both", []string{"--provenance", "mode=max", "--attest", "type=sbom,generator=" + k.registry + "/kit/scanner:1"}, []string{provenance, sbom}, nil, nil},
	} {
		c.name = strings.ReplaceAll(c.name, " ", "-")
		build("attest-"+c.name, c.flags...)
		list, attestations := k.manifests(t, "attest-"+c.name)
		if len(list) != 1 || len(attestations) != min(1, len(c.kinds)) {
			t.Fatalf("%s: %d images and %d attestations", c.name, len(list), len(attestations))
		}
		if list[0].Config.Digest == "" || k.layersOf(list[0]) != k.layersOf(first(k.manifests(t, "gzip"))) {
			t.Errorf("%s: the attested image is another one", c.name)
		}
		var kinds []string
		text := ""
		for _, a := range attestations {
			for _, l := range a.Layers {
				kinds = append(kinds, l.Annotations["in-toto.io/predicate-type"])
				data, err := os.ReadFile(filepath.Join(k.dir, "attest-"+c.name, "blobs", "sha256", l.Digest.Encoded()))
				check(t, err)
				text += string(data)
			}
		}
		for _, want := range c.kinds {
			if !slices.ContainsFunc(kinds, func(s string) bool { return strings.HasPrefix(s, want) }) || len(kinds) != len(c.kinds) {
				t.Errorf("%s: attested is %v", c.name, kinds)
			}
		}
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q isn't in\n%s", c.name, want, text)
			}
		}
		for _, no := range c.not {
			if strings.Contains(text, no) {
				t.Errorf("%s: %q is in\n%s", c.name, no, text)
			}
		}
	}
}

// layersOf names the layers of an image.
func (k *kit) layersOf(m ocispec.Manifest) string {
	var names []string
	for _, l := range m.Layers {
		names = append(names, l.Digest.String())
	}
	return strings.Join(names, " ")
}

func first(list, _ []ocispec.Manifest) ocispec.Manifest { return list[0] }

const scanner = `package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	source := os.Getenv("BUILDKIT_SCAN_SOURCE")
	type file struct {
		Name string ` + "`json:\"fileName\"`" + `
	}
	var files []file
	filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, file{strings.TrimPrefix(path, source)})
		}
		return nil
	})
	data, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "subject": []any{},
		"predicate": map[string]any{"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "a package of the test's", "files": files},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("BUILDKIT_SCAN_DESTINATION"), filepath.Base(source)+".spdx.json"), data, 0o644)
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
`
