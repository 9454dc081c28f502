package buildkit

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Why a builder can't be reached: the libraries between here and there give a text, and
// what its user has to do depends on what it says.

// unreachable is the refusal of an endpoint that doesn't answer, with the cause and what
// helps against it.
func unreachable(e Endpoint, err error) error {
	if list := refusal.All(err); len(list) > 0 {
		return err // it says so itself
	}
	text := transport(err)
	c := e.cause(text)
	r := &refusal.Error{Code: "PA141", Kind: refusal.Unavailable, Place: e.Address, Summary: "no BuildKit answers here", Seen: c.seen, Fix: c.fix, Err: err}
	if c.why != "" {
		r.Summary += ": " + c.why
	}
	if e.Origin != "" {
		r.Summary += " (" + e.Origin + ")"
	}
	if len(r.Seen) == 0 {
		r.Seen = []string{text}
	}
	if len(r.Fix) == 0 && e.engine() {
		r.Fix = []string{"docker version", "anyarch builder start"} // buildctl doesn't know such addresses
	} else if len(r.Fix) == 0 {
		r.Fix = []string{"buildctl --addr '" + e.Address + "' debug workers", "anyarch builder start"}
	}
	return r
}

// cause is why an endpoint doesn't answer; each part may be empty.
type cause struct {
	why       string
	seen, fix []string
}

// transport is the text of an error without what gRPC writes around that of the
// connection.
func transport(err error) string {
	text := err.Error()
	if _, quoted, ok := strings.Cut(text, `connection error: desc = `); ok {
		if s, err := strconv.QuotedPrefix(quoted); err == nil {
			text, _ = strconv.Unquote(s)
			for _, prefix := range []string{"transport: ", "authentication handshake failed: ", "Error while dialing: ", "error reading server preface: ", "failed to write client preface: "} {
				text = strings.TrimPrefix(text, prefix)
			}
			return text
		}
	}
	return plain(err)
}

// ended is how the library tells that the program behind a connection has ended.
var ended = regexp.MustCompile(`(?s)^command \[(.*)\] has exited with (.*), make sure the URL .*: stderr=(.*)$`)

func (e Endpoint) cause(text string) cause {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	if m := ended.FindStringSubmatch(text); m != nil {
		return e.program(m[1], m[2], m[3])
	}
	u, err := url.Parse(e.Address)
	if err != nil {
		return cause{}
	}
	if u.Scheme == "tcp" {
		if c := e.network(text, u); c.why != "" {
			return c
		}
	}
	program := e.Program()
	switch {
	case program != "" && has("executable file not found"):
		return cause{why: program + " isn't installed on this machine, and " + u.Scheme + ":// runs through it", fix: []string{map[string]string{
			"ssh": "apt-get install openssh-client", "docker": "apt-get install docker-cli", "podman": "apt-get install podman", "kubectl": "https://kubernetes.io/docs/tasks/tools/#kubectl"}[program]}}
	case u.Scheme == "unix" && has("looked like an HTTP/1.1 header", "broken pipe", "connection reset by peer", "EOF"):
		return cause{why: "something else than BuildKit speaks here; the socket of a Docker engine is reached by docker://", fix: []string{"--builder docker://" + u.Path}}
	case has("looked like an HTTP/1.1 header"):
		return cause{why: "something else than BuildKit speaks here, in HTTP/1.1"}
	case has("no such file or directory"):
		return cause{why: "there is no such socket: the daemon doesn't run, or has another"}
	case has("permission denied"):
		return cause{why: "the socket isn't this user's: it can be given to a group by buildkitd --group, or a daemon of your own does as well", fix: []string{"anyarch builder start"}}
	case has("connection refused"):
		return cause{why: "nothing listens there"}
	case has("no such host"):
		return cause{why: "the name of the host isn't known"}
	case has("i/o timeout", "deadline exceeded", "no route to host", "network is unreachable"):
		return cause{why: "the machine doesn't answer in " + answerTime.String()}
	}
	return cause{}
}

// network is why a connection over TCP ends before BuildKit has said a word: mostly it
// is one of the two certificates.
func (e Endpoint) network(text string, u *url.URL) cause {
	host := u.Host
	flags := func(ca, cert, name string) string {
		address := "tcp://" + host
		var fields []string
		for _, f := range []struct{ key, value string }{{"ca", ca}, {"cert", cert}, {"key", strings.ReplaceAll(cert, "CERT", "KEY")}, {"servername", name}} {
			if f.key == "key" && cert == e.TLS.Cert {
				f.value = e.TLS.Key
			}
			if f.value != "" {
				fields = append(fields, f.key+"="+f.value)
			}
		}
		if len(fields) > 0 {
			address += "?" + strings.Join(fields, "&")
		}
		return "--builder '" + address + "'"
	}
	is := func(part string) bool { return strings.Contains(text, part) }
	const remote = "remote error: tls: "
	switch {
	case is("certificate signed by unknown authority"):
		return cause{why: "the builder's certificate isn't signed by the CA that was given", seen: []string{text, "the CA is " + orNone(describe(e.TLS.CA))},
			fix: []string{flags("CA.pem", e.TLS.Cert, e.TLS.ServerName), "openssl s_client -showcerts -connect " + host + " </dev/null   # says who signed it"}}
	case is("certificate has expired or is not yet valid"):
		return cause{why: "the builder's certificate isn't valid now", seen: []string{text}, fix: []string{"give the builder a new certificate ([grpc.tls] in its buildkitd.toml)", "date   # if this machine's clock is wrong"}}
	case is("certificate is valid for "), is("certificate is not valid for any names"), is("doesn't contain any IP SANs"):
		name := "NAME"
		if _, rest, ok := strings.Cut(text, "certificate is valid for "); ok {
			name, _, _ = strings.Cut(rest, ",")
		}
		return cause{why: "the builder's certificate is for another name", seen: []string{text}, fix: []string{flags(e.TLS.CA, e.TLS.Cert, name)}}
	case is("first record does not look like a TLS handshake"):
		return cause{why: "the builder speaks without TLS", seen: []string{text}, fix: []string{"--builder tcp://" + host}}
	case is(remote+"certificate required") && e.TLS.Cert == "":
		return cause{why: "the builder wants a certificate of its clients, and none was given", seen: []string{text}, fix: []string{flags(e.TLS.CA, "CERT.pem", e.TLS.ServerName)}}
	case is(remote + "expired certificate"):
		return cause{why: "the client's certificate has expired", seen: []string{text, "the certificate is " + orNone(describe(e.TLS.Cert))}, fix: []string{flags(e.TLS.CA, "CERT.pem", e.TLS.ServerName)}}
	case is(remote):
		return cause{why: "the builder doesn't accept the client's certificate", seen: []string{text, "the certificate is " + orNone(describe(e.TLS.Cert))}, fix: []string{flags(e.TLS.CA, "CERT.pem", e.TLS.ServerName)}}
	case text != "EOF" && !is("connection reset by peer") && !is("broken pipe"):
	case e.TLS != (TLS{}): // what it said against the certificate was lost on the way
		return cause{why: "it ends the connection, as a builder does that doesn't accept the client's certificate", seen: []string{text, "the certificate is " + orNone(describe(e.TLS.Cert))}, fix: []string{flags(e.TLS.CA, "CERT.pem", e.TLS.ServerName)}}
	default:
		return cause{why: "it ends the connection: a builder with TLS does that to clients without", seen: []string{text}, fix: []string{flags("CA.pem", "CERT.pem", "")}}
	}
	return cause{}
}

func orNone(text string) string {
	if text == "" {
		return "none of a file's"
	}
	return text
}

// describe says whose a certificate is, for how long, and who signed it.
func describe(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return file
	}
	c := firstCertificate(data)
	if c == nil {
		return file
	}
	return fmt.Sprintf("%s, of %s, signed by %s, until %s", file, c.Subject, c.Issuer, c.NotAfter.UTC().Format(time.RFC3339))
}

// firstCertificate is the first one of a PEM file, nil if there is none.
func firstCertificate(data []byte) *x509.Certificate {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return c
		}
	}
}

// program is why the program that a connection runs through has ended.
func (e Endpoint) program(command, status, stderr string) cause {
	c := cause{}
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line != "" && strings.Trim(line, "@ ") != "" {
			c.seen = append(c.seen, line)
		}
	}
	c.seen = append(c.seen[max(0, len(c.seen)-8):], command+" ended with "+status)
	name, _, _ := strings.Cut(command, " ")
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(stderr, w) })
	}
	u, err := url.Parse(e.Address)
	if err != nil {
		return c
	}
	login, port := u.Hostname(), ""
	if u.User != nil {
		login = u.User.Username() + "@" + login
	}
	if u.Port() != "" {
		port = "-p " + u.Port() + " "
	}
	container := u.Hostname()
	switch {
	case has("buildctl: command not found", "buildctl: not found", `"buildctl": executable file not found`, "unknown command buildctl") || name != "docker" && name != "podman" && strings.HasSuffix(status, " 127"):
		c.why = "buildctl isn't there, or not on the PATH of " + name + "'s sessions"
		c.fix = []string{strings.TrimSuffix(command, " dial-stdio") + " --version"}
	case has("dial unix") && has("no such file or directory", "connection refused"):
		c.why = "buildctl is there, and finds no daemon at its socket"
		if name == "ssh" {
			c.fix = []string{"ssh " + port + login + " systemctl status buildkit", "--builder ssh://" + hostOf(u) + "/run/user/1000/buildkit/buildkitd.sock   # another socket"}
		}
	case has("dial unix") && has("permission denied"):
		c.why = "buildctl is there, and its user may not use the daemon's socket"
	case name != "ssh" && has("Cannot connect to the Docker daemon", "connect: no such file or directory", "connection to the server"):
		c.why = name + " itself reaches no server"
		c.fix = []string{name + " version"}
	case name == "docker" && has("unable to resolve docker endpoint"):
		c.why, c.fix = "docker has no such context", []string{"docker context ls"}
	case has("No such container", "no container with name", "NotFound"):
		c.why = "there is no such container"
		switch name {
		case "kubectl":
			c.fix = []string{"kubectl get pods --all-namespaces"}
		default:
			c.fix = []string{name + " run -d --name " + container + " --privileged moby/buildkit", name + " ps -a"}
		}
	case has("is not running", "container state improper"):
		c.why, c.fix = "the container doesn't run", []string{name + " start " + container}
	case has("REMOTE HOST IDENTIFICATION HAS CHANGED"):
		c.why = "the host has another key than it had: somebody may be in between"
		c.fix = []string{"ssh-keygen -R '" + knownAs(u) + "'   # if its new key is known to be right"}
	case has("Host key verification failed"):
		c.why = "ssh doesn't know the key of this host"
		c.fix = []string{"ssh " + port + login + " true   # shows the key, and remembers it if you say that it is right"}
	case has("Permission denied ("):
		c.why = "the host doesn't let this user in"
		c.fix = []string{"ssh-add", "ssh-copy-id " + port + login, "--builder ssh://OTHER@" + u.Host}
	case has("Could not resolve hostname"):
		c.why = "the name of the host isn't known"
	case name == "ssh" && has("Connection refused"):
		c.why = "no ssh server listens there"
	default:
		c.why = name + " ended"
	}
	if len(c.fix) == 0 {
		c.fix = []string{command}
	}
	return c
}

func hostOf(u *url.URL) string {
	if u.User == nil {
		return u.Host
	}
	return u.User.Username() + "@" + u.Host
}

// knownAs is the name under which ssh keeps the key of a host.
func knownAs(u *url.URL) string {
	if p := u.Port(); p != "" && p != "22" {
		return "[" + u.Hostname() + "]:" + p
	}
	return u.Hostname()
}

// check reads the files of a TLS connection, so that what is wrong with them is said as
// such: a refusal.Error with code PA140.
func (e Endpoint) check() error {
	bad := func(file, why string, err error) error {
		r := &refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: file, Summary: why + " of the builder " + e.Address, Err: err}
		if err != nil {
			r.Seen = []string{err.Error()}
		}
		if host, _, err := net.SplitHostPort(strings.TrimPrefix(e.Address, "tcp://")); err == nil && host != "" {
			r.Fix = []string{"--builder '" + e.Address + "?ca=CA.pem&cert=CERT.pem&key=KEY.pem'"}
		}
		return r
	}
	if e.TLS.CA != "" {
		data, err := os.ReadFile(e.TLS.CA)
		if err != nil {
			return bad(e.TLS.CA, "can't read the CA", err)
		}
		if firstCertificate(data) == nil {
			return bad(e.TLS.CA, "no certificate is in the CA's file", nil)
		}
	}
	if e.TLS.Cert != "" {
		if _, err := tls.LoadX509KeyPair(e.TLS.Cert, e.TLS.Key); err != nil {
			return bad(e.TLS.Cert, "can't use the client's certificate and key", err)
		}
	}
	return nil
}
