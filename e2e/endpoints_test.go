//go:build linux

package e2e

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// freePort is an address of this machine that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestEndpointTLS builds by a daemon that knows its clients by their certificates. What
// is said where one of the two sides isn't who it has to be is tested beside the code;
// here it is a real buildkitd that refuses.
func TestEndpointTLS(t *testing.T) {
	peers(t)
	buildkittest.Need(t)
	k := newKit(t)
	k.file(t, "Dockerfile", kitDockerfile)
	ours, theirs := buildkittest.NewAuthority(t, k.dir, "ca"), buildkittest.NewAuthority(t, k.dir, "other-ca")
	tomorrow := time.Now().Add(24 * time.Hour)
	ours.Issue(t, "client", tomorrow)
	ours.Issue(t, "expired", time.Now().Add(-time.Minute))
	theirs.Issue(t, "stranger", tomorrow)
	cert, key := ours.Issue(t, "server", tomorrow)
	daemon := buildkittest.StartWith(t, buildkittest.Options{TCP: freePort(t), Cert: cert, Key: key, CA: filepath.Join(k.dir, "ca.pem")})
	for _, c := range []struct {
		name, query string
		wants       []string // of the refusal; none if it builds
	}{
		{"mutual", "?ca=ca.pem&cert=client.pem&key=client.key", nil},
		{"another name", "?ca=ca.pem&cert=client.pem&key=client.key&servername=builder.example.com", nil},
		{"wrong CA", "?ca=other-ca.pem&cert=client.pem&key=client.key", []string{"isn't signed by the CA that was given", "other-ca.pem"}},
		{"a stranger", "?ca=ca.pem&cert=stranger.pem&key=stranger.key", []string{"certificate", "stranger.pem", "signed by CN=other-ca"}},
		{"expired", "?ca=ca.pem&cert=expired.pem&key=expired.key", []string{"certificate", "expired.pem", "until 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, log := k.run(t, len(c.wants) == 0, "build", "--engine", "buildkit", "-f", "Dockerfile", "--platform", "linux/amd64", "--output", "oci:out", "--builder", daemon.TCP+c.query, ".")
			if len(c.wants) > 0 {
				c.wants = append(c.wants, "PA141")
			}
			for _, want := range c.wants {
				if !strings.Contains(log, want) {
					t.Errorf("not said: %s\n%s", want, log)
				}
			}
		})
	}
}
