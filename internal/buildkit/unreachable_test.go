package buildkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
	"github.com/anyarch/anyarch/internal/refusal"
)

// TestUnreachableTLS connects BuildKit's client to listeners that don't let it in, or
// that it doesn't believe: each refusal names the cause, and a fix that fits it.
func TestUnreachableTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, theirs := buildkittest.NewAuthority(t, dir, "ca"), buildkittest.NewAuthority(t, dir, "other-ca")
	tomorrow, yesterday := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	ours.Issue(t, "client", tomorrow)
	ours.Issue(t, "expired", yesterday)
	theirs.Issue(t, "stranger", tomorrow)
	server := func(name string, until time.Time) string {
		cert, key := ours.Issue(t, name, until)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		return listen(t, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}})
	}
	good, old, plain := server("server", tomorrow), server("old", yesterday), listen(t, nil)
	const mutual = "?ca=ca.pem&cert=client.pem&key=client.key"
	for _, c := range []struct {
		name, address, code string
		why, fix            string
	}{
		{"wrong CA", good + "?ca=other-ca.pem&cert=client.pem&key=client.key", "PA141", "isn't signed by the CA that was given", "?ca=CA.pem&cert=" + filepath.Join(dir, "client.pem") + "&key=" + filepath.Join(dir, "client.key")},
		{"a stranger", good + "?ca=ca.pem&cert=stranger.pem&key=stranger.key", "PA141", "doesn't accept the client's certificate", "&cert=CERT.pem&key=KEY.pem"},
		{"expired client", good + "?ca=ca.pem&cert=expired.pem&key=expired.key", "PA141", "the client's certificate has expired", "&cert=CERT.pem&key=KEY.pem"},
		{"no client certificate", good + "?ca=ca.pem", "PA141", "wants a certificate of its clients", "&cert=CERT.pem&key=KEY.pem"},
		{"no TLS", good, "PA141", "a builder with TLS does that to clients without", "?ca=CA.pem&cert=CERT.pem&key=KEY.pem"},
		{"TLS for nothing", plain + mutual, "PA141", "speaks without TLS", "--builder " + plain},
		{"expired server", old + mutual, "PA141", "the builder's certificate isn't valid now", "buildkitd.toml"},
		{"another name", good + mutual + "&servername=wrong.example.com", "PA141", "is for another name", "servername=builder.example.com"},
		{"no such CA", good + "?ca=no.pem&cert=client.pem&key=client.key", "PA140", "can't read the CA", "ca=CA.pem"},
		{"a key as CA", good + "?ca=client.key&cert=client.pem&key=client.key", "PA140", "no certificate is in the CA's file", "ca=CA.pem"},
		{"another key", good + "?ca=ca.pem&cert=client.pem&key=server.key", "PA140", "can't use the client's certificate and key", "key=KEY.pem"},
		{"nobody", "tcp://127.0.0.1:1", "PA141", "nothing listens there", "anyarch builder start"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := ParseEndpoint(c.address, "--builder", dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Connect(t.Context(), e)
			var r *refusal.Error
			if !errors.As(err, &r) {
				t.Fatalf("no refusal: %v", err)
			}
			if lost := c.code == "PA141" && strings.Contains(r.Summary, "it ends the connection"); lost && c.name != "no TLS" {
				c.why = "doesn't accept the client's certificate" // its words were lost, since it closed so soon
			}
			if fix := strings.Join(r.Fix, "\n"); r.Code != c.code || !strings.Contains(r.Summary, c.why) || !strings.Contains(fix, c.fix) {
				t.Errorf("%s %s\nseen %s\nfix %s", r.Code, r.Summary, strings.Join(r.Seen, "\n"), fix)
			}
		})
	}
}

// listen takes connections, with TLS unless config is nil, and ends each.
func listen(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if config == nil {
					_, _ = conn.Read(make([]byte, 64))
					_, _ = conn.Write([]byte("hello, this is no TLS"))
					return
				}
				_ = tls.Server(conn, config).HandshakeContext(t.Context())
			}()
		}
	}()
	return "tcp://" + l.Addr().String()
}

// TestUnreachableProgram reads what ssh, docker, podman and kubectl say, as they said it
// behind real connections.
func TestUnreachableProgram(t *testing.T) {
	t.Parallel()
	behind := func(command, status, stderr string) string {
		return "command [" + command + "] has exited with " + status + ", make sure the URL is valid, and Docker 18.09 or later is installed on the remote host: stderr=" + stderr
	}
	const ssh = "ssh -l me -p 2222 -- arm buildctl dial-stdio"
	for _, c := range []struct{ address, text, why, fix string }{
		{"ssh://me@arm:2222", behind(ssh, "exit status 255", "Host key verification failed.\r\n"), "doesn't know the key", "ssh -p 2222 me@arm true"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 255", "@@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n@@@@@@\r\nHost key verification failed.\r\n"), "another key than it had", "ssh-keygen -R '[arm]:2222'"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 255", "me@arm: Permission denied (publickey).\r\n"), "doesn't let this user in", "ssh-copy-id -p 2222 me@arm"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 255", "ssh: Could not resolve hostname arm: Name or service not known\r\n"), "name of the host", "ssh -l me"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 255", "ssh: connect to host arm port 2222: Connection refused\r\n"), "no ssh server", "ssh -l me"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 127", "bash: line 1: buildctl: command not found\n"), "buildctl isn't there", "buildctl --version"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 1", "error: dial unix /run/buildkit/buildkitd.sock: connect: no such file or directory\n"), "finds no daemon", "systemctl status buildkit"},
		{"ssh://me@arm:2222", behind(ssh, "exit status 1", "error: dial unix /run/buildkit/buildkitd.sock: connect: permission denied\n"), "may not use the daemon's socket", "ssh -l me"},
		{"docker-container://b", behind("docker exec -i b buildctl dial-stdio", "exit status 1", "Error response from daemon: No such container: b\n"), "no such container", "docker run -d --name b"},
		{"docker-container://b", behind("docker exec -i b buildctl dial-stdio", "exit status 1", "Error response from daemon: Container 8bbb03883f7d is not running\n"), "doesn't run", "docker start b"},
		{"docker-container://b", behind("docker exec -i b buildctl dial-stdio", "exit status 1", "Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?\n"), "reaches no server", "docker version"},
		{"docker-container://b?context=c", behind("docker --context=c exec -i b buildctl dial-stdio", "exit status 1", `Failed to initialize: unable to resolve docker endpoint: context "c": context not found: open /m.json: no such file or directory`+"\n"), "", "docker"},
		{"docker-container://b", behind("docker exec -i b buildctl dial-stdio", "exit status 127", `OCI runtime exec failed: exec failed: unable to start container process: exec: "buildctl": executable file not found in $PATH: unknown`+"\n"), "buildctl isn't there", "docker exec -i b buildctl --version"},
		{"podman-container://b", behind("podman exec -i b buildctl dial-stdio", "exit status 125", `Error: no container with name or ID "b" found: no such container`+"\n"), "no such container", "podman run -d --name b"},
		{"kube-pod://b?namespace=n", behind("kubectl --context= --namespace=n exec --container= -i b -- buildctl dial-stdio", "exit status 1", `Error from server (NotFound): pods "b" not found`+"\n"), "no such container", "kubectl get pods"},
		{"ssh://me@arm", `exec: "ssh": executable file not found in $PATH`, "ssh isn't installed on this machine", "openssh-client"},
		{"kube-pod://b", `exec: "kubectl": executable file not found in $PATH`, "kubectl isn't installed", "kubernetes.io"},
		{"unix:///var/run/docker.sock", "http2: failed reading the frame payload: http2: frame too large, note that the frame header looked like an HTTP/1.1 header", "reached by docker://", "--builder docker:///var/run/docker.sock"},
		{"unix:///var/run/docker.sock", "write unix @->/var/run/docker.sock: write: broken pipe", "reached by docker://", "--builder docker:///var/run/docker.sock"},
		{"unix:///run/no.sock", "dial unix /run/no.sock: connect: no such file or directory", "no such socket", "anyarch builder start"},
		{"unix:///run/b.sock", "dial unix /run/b.sock: connect: permission denied", "isn't this user's", "anyarch builder start"},
	} {
		e, err := ParseEndpoint(c.address, "--builder", "/")
		if err != nil {
			t.Fatal(err)
		}
		var r *refusal.Error
		if err := unreachable(e, fmt.Errorf("rpc error: code = Unavailable desc = connection error: desc = %q", "error reading server preface: "+c.text)); !errors.As(err, &r) || !strings.Contains(r.Summary, c.why) || !strings.Contains(strings.Join(r.Fix, "\n"), c.fix) {
			t.Errorf("%s, %s:\n%+v", c.address, c.text, r)
		}
	}
}
