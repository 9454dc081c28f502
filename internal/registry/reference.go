package registry

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
)

const (
	dockerHub     = "docker.io"
	dockerHubAddr = name.DefaultRegistry // what answers for docker.io
	maxName       = 255                  // of host and path, as every registry has it
)

// Reference names an image in a registry.
type Reference struct {
	Repository string        // canonical, such as docker.io/library/alpine
	Tag        string        // may be empty
	Digest     digest.Digest // may be empty
}

// String gives the reference as [ParseReference] reads it.
func (r Reference) String() string {
	s := r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Identifier is what the registry is asked for: the digest, else the tag, else
// nothing.
func (r Reference) Identifier() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

var (
	// distribution-spec v1.1.1, "Pulling manifests".
	pathPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostPattern = regexp.MustCompile(`^(([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(:[0-9]{1,5})?$`)
)

// ParseReference reads a reference by docker's conventions: a name without a
// host is one on docker.io, and one without a slash is in library there. No tag
// is added to a name that has none. What isn't a reference is a refusal with
// code PA503.
func ParseReference(s string) (Reference, error) {
	bad := func(summary string, fix ...string) (Reference, error) {
		return Reference{}, &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: s, Summary: summary, Fix: fix}
	}
	if s == "" {
		return bad("an image reference is empty", "name an image, such as alpine:3.20 or ghcr.io/owner/app")
	}
	for _, scheme := range []string{"https://", "http://", "docker://", "oci://"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return bad("an image reference has no "+scheme+" in front", rest)
		}
	}
	rest := s
	var r Reference
	if before, after, ok := strings.Cut(rest, "@"); ok {
		d, err := digest.Parse(after)
		if err != nil {
			return bad("what follows @ isn't a digest", before+"@sha256:… with 64 characters of 0-9 and a-f")
		}
		r.Digest, rest = d, before
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		r.Tag, rest = rest[i+1:], rest[:i]
		if !tagPattern.MatchString(r.Tag) {
			return bad(fmt.Sprintf("%q isn't a tag: at most 128 letters, digits, . _ and -, not beginning with . or -", r.Tag), rest+":"+fixTag(r.Tag))
		}
	}
	host, path := splitHost(rest)
	if !hostPattern.MatchString(host) {
		return bad(fmt.Sprintf("%q isn't the name of a host", host), "localhost:5000/"+path)
	}
	if _, err := name.NewRegistry(host); err != nil {
		return bad(fmt.Sprintf("%q isn't the name of a host", host))
	}
	if path == "" {
		return bad("an image reference needs a repository after the host", host+"/owner/name")
	}
	if path != strings.ToLower(path) {
		return bad("repository names are lower case", strings.Replace(s, path, strings.ToLower(path), 1))
	}
	if !pathPattern.MatchString(path) {
		return bad(fmt.Sprintf("%q isn't a repository name: parts of a-z and 0-9, joined by . _ __ or -, separated by /", path))
	}
	if len(host)+1+len(path) > maxName {
		return bad(fmt.Sprintf("a repository name has at most %d characters", maxName))
	}
	if host == dockerHub && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	r.Repository = host + "/" + path
	return r, nil
}

// ParseRepository reads the name of a repository and gives its canonical form.
// A tag or digest is refused, as is what [ParseReference] refuses.
func ParseRepository(s string) (string, error) {
	r, err := ParseReference(s)
	if err != nil {
		return "", err
	}
	if r.Tag != "" || r.Digest != "" {
		return "", &refusal.Error{
			Code: "PA503", Kind: refusal.Usage, Place: s, Summary: "a repository is named without tag and digest",
			Fix: []string{r.Repository},
		}
	}
	return r.Repository, nil
}

// splitHost tells host from path as docker does: the first part is a host if it
// has a dot or colon or is localhost. Hosts don't differ by case.
func splitHost(s string) (host, path string) {
	first, rest, ok := strings.Cut(s, "/")
	first = strings.ToLower(first)
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return dockerHub, s
	}
	if first == "index.docker.io" || first == "registry-1.docker.io" || first == "registry.hub.docker.com" {
		first = dockerHub
	}
	return first, rest
}

// fixTag makes a tag of a string that isn't one.
func fixTag(s string) string {
	fixed := strings.Map(func(r rune) rune {
		if r < 0x80 && tagPattern.MatchString("a"+string(r)) {
			return r
		}
		return '-'
	}, s)
	fixed = strings.TrimLeft(fixed, ".-")
	if len(fixed) > 128 {
		fixed = fixed[:128]
	}
	if fixed == "" {
		return "latest"
	}
	return fixed
}

// hostname is a host without its port.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.Trim(host, "[]")
}
