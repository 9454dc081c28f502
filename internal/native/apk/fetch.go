package apk

import (
	"crypto/sha1" //nolint:gosec // names the file that apk caches an index in
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/download"
)

// Session is what the calls of one build share.
type Session struct {
	*download.Session
	scratch string
	mu      sync.Mutex
	index   map[string]*parsedIndex // by digest of the index file
}

type parsedIndex struct {
	entries []*entry
	broken  []string
}

// NewSession makes a session. scratch is a directory of this build.
func NewSession(d *download.Session, scratch string) *Session {
	return &Session{Session: d, scratch: scratch, index: map[string]*parsedIndex{}}
}

// repository is a line of /etc/apk/repositories.
type repository struct {
	url   string // without a slash at the end
	tag   string // @tag, without the sign
	local bool   // a directory of the stage
	place string // where it is said
}

// cacheName is the name that apk gives an index in /var/cache/apk.
func (r *repository) cacheName() string {
	sum := sha1.Sum([]byte(r.url)) //nolint:gosec // see above
	return "APKINDEX." + hex.EncodeToString(sum[:4]) + ".tar.gz"
}

// parseRepositories reads a list of repositories (apk-repositories(5)).
func parseRepositories(text, place string) ([]*repository, error) {
	var list []*repository
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		r := &repository{place: fmt.Sprintf("%s:%d", place, n)}
		if tag, ok := strings.CutPrefix(words[0], "@"); ok {
			r.tag, words = tag, words[1:]
		}
		components := []string(nil)
		if len(words) > 1 {
			if words[0] == "v2" {
				components, words = words[2:], words[1:2]
			} else {
				return nil, fmt.Errorf("%s: %q isn't supported", r.place, strings.TrimSpace(line))
			}
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("%s: there is no address", r.place)
		}
		r.url = strings.TrimRight(words[0], "/")
		switch u, err := url.Parse(r.url); {
		case strings.HasPrefix(r.url, "/"):
			r.local = true
		case err != nil:
			return nil, fmt.Errorf("%s: %w", r.place, err)
		case u.Scheme == "file":
			r.url, r.local = u.Path, true
		case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			return nil, fmt.Errorf("%s: %s is no http or https address", r.place, r.url)
		}
		if components == nil {
			list = append(list, r)
		}
		for _, c := range components {
			one := *r
			one.url += "/" + c
			list = append(list, &one)
		}
	}
	return list, nil
}

// parse reads an index once, however many stages want it. The entries are shared:
// who changes one copies it first.
func (s *Session) parse(text []byte, r *repository) *parsedIndex {
	sum := sha256.Sum256(append([]byte(r.url+"\x00"+r.tag+"\x00"), text...))
	key := hex.EncodeToString(sum[:])
	s.mu.Lock()
	p := s.index[key]
	s.mu.Unlock()
	if p == nil {
		p = &parsedIndex{}
		p.entries, p.broken = parseIndex(text, r)
		s.mu.Lock()
		s.index[key] = p
		s.mu.Unlock()
	}
	return p
}

// readLocal copies a file of the stage to the scratch directory.
func (s *Session) readLocal(t *filetree.Tree, name string) (string, error) {
	r, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	out, err := os.CreateTemp(s.scratch, "apk-"+strings.ReplaceAll(path.Base(name), "*", "")+"-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, r)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return out.Name(), err
}
