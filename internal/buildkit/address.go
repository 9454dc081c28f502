package buildkit

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Endpoint is where a BuildKit daemon answers.
type Endpoint struct {
	// Address is unix://PATH, tcp://HOST:PORT, ssh://[USER@]HOST, docker-container://NAME,
	// podman-container://NAME, kube-pod://NAME or docker:// with what DOCKER_HOST would
	// say after it.
	Address string
	// Platforms are those that the machine runs by itself. Empty asks the daemon.
	Platforms []platform.Platform
	TLS       TLS
	// Origin is who named the endpoint, such as --builder or BUILDKIT_HOST.
	Origin string
}

// TLS names the files of a mutual TLS connection; the zero value is a plain one.
type TLS struct{ CA, Cert, Key, ServerName string }

// programs are what a scheme starts on this machine: nothing for those that aren't here.
var programs = map[string]string{
	"ssh": "ssh", "docker-container": "docker", "podman-container": "podman", "kube-pod": "kubectl",
}

var schemes = []string{"unix", "tcp", "ssh", "docker-container", "podman-container", "kube-pod", "docker"}

// Program is the program of this machine that a connection runs through, empty for
// none. Naming such an address is its user's leave to start it.
func (e Endpoint) Program() string {
	scheme, _, _ := strings.Cut(e.Address, "://")
	return programs[scheme]
}

// platformList is the end of an endpoint that says which platforms are native.
var platformList = regexp.MustCompile(`^(linux|windows|freebsd|darwin)/[a-z0-9]+(/[a-z0-9.]+)?(,(linux|windows|freebsd|darwin)/[a-z0-9]+(/[a-z0-9.]+)?)*$`)

// ParseEndpoint reads ADDRESS[=PLATFORM,…], as --builder has it. A tcp:// address takes
// the files of its TLS connection as ca, cert, key and servername after a question mark;
// they are relative to dir. What can't be read is a refusal.Error with code PA140.
func ParseEndpoint(text, origin, dir string) (Endpoint, error) {
	e := Endpoint{Address: text, Origin: origin}
	bad := func(why string, fix ...string) error {
		if len(fix) == 0 {
			fix = []string{"--builder unix:///run/buildkit/buildkitd.sock", "--builder 'tcp://arm.example.com:1234?ca=ca.pem&cert=cert.pem&key=key.pem=linux/arm64'"}
		}
		return &refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: origin + " " + text, Summary: why, Fix: fix}
	}
	if i := strings.LastIndex(text, "="); i > 0 && platformList.MatchString(text[i+1:]) {
		list, err := platform.ParseList([]string{text[i+1:]})
		switch {
		case err == nil:
			e.Address, e.Platforms = text[:i], list
		case !strings.Contains(text[:i], "?"): // else it is the path of a file
			return Endpoint{}, bad(err.Error())
		}
	}
	if filepath.IsAbs(e.Address) {
		e.Address = "unix://" + e.Address
	}
	u, err := url.Parse(e.Address)
	if err != nil {
		return Endpoint{}, bad("this is no address of a builder")
	}
	if !slices.Contains(schemes, u.Scheme) {
		return Endpoint{}, bad("a builder is reached by one of " + strings.Join(schemes, "://, ") + "://")
	}
	switch u.Scheme {
	case "unix":
		if u.Path == "" || u.Host != "" {
			return Endpoint{}, bad("the path of a socket begins with a slash, after unix://", "--builder unix:///run/buildkit/buildkitd.sock")
		}
	case "tcp":
		if u.Port() == "" {
			return Endpoint{}, bad("the port is missing", "--builder tcp://"+u.Hostname()+":1234")
		}
		for name, values := range u.Query() {
			value := values[len(values)-1]
			path := value
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			switch name {
			case "ca", "cacert":
				e.TLS.CA = path
			case "cert":
				e.TLS.Cert = path
			case "key":
				e.TLS.Key = path
			case "servername":
				e.TLS.ServerName = value
			default:
				return Endpoint{}, bad(name+" is none of ca, cert, key and servername", "--builder 'tcp://"+u.Host+"?ca=ca.pem&cert=cert.pem&key=key.pem'")
			}
		}
		if (e.TLS.Cert == "") != (e.TLS.Key == "") {
			return Endpoint{}, bad("cert and key go together", "--builder 'tcp://"+u.Host+"?ca=ca.pem&cert=cert.pem&key=key.pem'")
		}
		u.RawQuery = ""
		e.Address = u.String()
	case "ssh":
		if _, has := u.User.Password(); has {
			return Endpoint{}, bad("a password can't be given here: ssh asks its agent", "ssh-add")
		}
		if strings.HasPrefix(u.Hostname(), "-") || u.Hostname() == "" {
			return Endpoint{}, bad("this names no host", "--builder ssh://user@arm.example.com")
		}
	case "docker-container", "podman-container", "kube-pod":
		if u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") {
			return Endpoint{}, bad("this names no container", "--builder "+u.Scheme+"://buildkitd")
		}
	}
	return e, nil
}

// Endpoints reads a list of endpoints, separated by white space.
func Endpoints(list []string, origin, dir string) ([]Endpoint, error) {
	var out []Endpoint
	var refused refusal.Collect
	for _, text := range list {
		for _, field := range strings.Fields(text) {
			e, err := ParseEndpoint(field, origin, dir)
			if err != nil {
				refused.Add(err)
				continue
			}
			if !slices.ContainsFunc(out, func(o Endpoint) bool { return o.Address == e.Address }) {
				out = append(out, e)
			}
		}
	}
	return out, refused.Err()
}

// Plain reports a connection over the network that anybody on it can read.
func (e Endpoint) Plain() bool {
	u, err := url.Parse(e.Address)
	if err != nil || u.Scheme != "tcp" || e.TLS != (TLS{}) {
		return false
	}
	host := u.Hostname()
	return host != "localhost" && host != "::1" && !strings.HasPrefix(host, "127.")
}
