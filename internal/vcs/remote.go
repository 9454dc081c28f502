package vcs

import (
	"net"
	"net/url"
	"regexp"
	"strings"
)

var (
	// scpLike is the short form of an ssh URL: git@host:path.
	scpLike = regexp.MustCompile(`^(?:[^/:@\s]+@)?([A-Za-z0-9][A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):(.+)$`)
	// helper is a URL for a program: ext::sh -c ...
	helper = regexp.MustCompile(`^[A-Za-z0-9+.-]+::`)
	host   = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])$`)
)

// publicURL turns the URL of a remote into one that a browser can follow and
// that holds no secret; "" where there is none, as for paths.
func publicURL(remote string) string {
	if helper.MatchString(remote) {
		return ""
	}
	if !strings.Contains(remote, "://") {
		m := scpLike.FindStringSubmatch(remote)
		if m == nil || strings.HasPrefix(m[2], `\`) {
			return ""
		}
		remote = "ssh://" + m[1] + "/" + strings.TrimLeft(m[2], "/")
	}
	u, err := url.Parse(remote)
	if err != nil {
		return ""
	}
	scheme, port := "https", ""
	switch strings.ToLower(u.Scheme) {
	case "https":
		port = u.Port()
	case "http":
		if port = u.Port(); port != "" && port != "80" { // a server of one's own; https wouldn't answer there
			scheme = "http"
		}
	case "ssh", "git", "git+ssh", "ssh+git", "git+https", "git+http":
	default:
		return ""
	}
	name := strings.ToLower(u.Hostname())
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if !host.MatchString(name) {
		return ""
	}
	if port != "" && !(scheme == "https" && (port == "443" || port == "80")) {
		name = net.JoinHostPort(strings.Trim(name, "[]"), port)
	}
	path := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	if path == "" || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return ""
	}
	return (&url.URL{Scheme: scheme, Host: name, Path: "/" + path}).String()
}
