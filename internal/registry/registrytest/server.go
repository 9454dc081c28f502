// Package registrytest is a small OCI registry for tests, with faults on order.
//
// A [Server] runs in the process of the test, on the loopback interface, and
// does what distribution-spec v1.1.1 asks of a registry. [Server.Inject] lets it
// fail in chosen ways at chosen requests; [Server.Requests] tells what it was
// asked. It keeps everything in memory.
package registrytest

import (
	"maps"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config says what kind of registry it is. The zero value is open to everybody
// and has everything.
type Config struct {
	User, Password string // if set, clients have to log in
	Basic          bool   // with Basic instead of a token
	AnonymousPull  bool   // tokens for pulling are given to everybody
	TokenUses      int    // after so many requests a token has expired; 0 is never
	ExpiresIn      int    // seconds, as the token server says; 0 says nothing
	Realm          string // of the token server; empty is the server's own

	NoReferrers bool // has no referrers API
	NoRange     bool // sends blobs from the beginning, whatever is asked for
	NoResume    bool // forgets an upload whose request breaks
	MinChunk    int64
	PageSize    int  // of tag lists; 0 is without limit
	TLS         bool // with a certificate of its own making
}

// Request is one request as the server has seen it.
type Request struct {
	Time          time.Time
	Method        string
	Path          string
	Query         string
	Authorization string
	Range         string
	Status        int   // 0 if the connection was cut before
	Received      int64 // bytes of its body
	Sent          int64 // bytes of the answer's body
}

// Server is a registry. Its methods may be called concurrently.
type Server struct {
	Host string // host:port
	URL  string

	config Config
	server *httptest.Server
	closed chan struct{}

	mu      sync.Mutex // guards what follows
	repos   map[string]*repository
	uploads map[string]*upload
	tokens  map[string]*token
	faults  []*fault
	log     []*Request
	serial  int
}

type repository struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type manifest struct {
	mediaType string
	data      []byte
}

type upload struct {
	repo  string
	data  []byte
	owner int // the request that may append
}

// New starts a server that ends with the test.
func New(t testing.TB, config Config) *Server {
	t.Helper()
	s := &Server{
		config: config, closed: make(chan struct{}),
		repos: map[string]*repository{}, uploads: map[string]*upload{}, tokens: map[string]*token{},
	}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = discardLog()
	if config.TLS {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	s.URL = s.server.URL
	_, s.Host, _ = strings.Cut(s.URL, "://")
	t.Cleanup(func() {
		close(s.closed)
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// Requests are those so far, in the order of their arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Request, len(s.log))
	for i, r := range s.log {
		list[i] = *r
	}
	return list
}

// Count is how many requests had the method, which may be empty for any, and a
// path that matches the pattern.
func (s *Server) Count(method, pattern string) int {
	re := regexp.MustCompile(pattern)
	n := 0
	for _, r := range s.Requests() {
		if (method == "" || r.Method == method) && re.MatchString(r.Path) {
			n++
		}
	}
	return n
}

// ForgetRequests empties the list of requests.
func (s *Server) ForgetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// Tags are the tags of a repository and what they name.
func (s *Server) Tags(repo string) map[string]digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[repo]; r != nil {
		return maps.Clone(r.tags)
	}
	return nil
}

// Blob gives the bytes of a blob.
func (s *Server) Blob(repo string, d digest.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[repo]; r != nil {
		data, ok := r.blobs[d]
		return data, ok
	}
	return nil, false
}

// Manifest gives the bytes of a manifest or index.
func (s *Server) Manifest(repo string, d digest.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[repo]; r != nil {
		m, ok := r.manifests[d]
		return m.data, ok
	}
	return nil, false
}

// AddBlob puts a blob into a repository.
func (s *Server) AddBlob(repo string, data []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	s.repo(repo).blobs[d] = data
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

// AddManifest puts a manifest or index into a repository, under a tag unless
// that is empty. What it names isn't asked for.
func (s *Server) AddManifest(repo, tag, mediaType string, data []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	s.repo(repo).manifests[d] = manifest{mediaType, data}
	if tag != "" {
		s.repo(repo).tags[tag] = d
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// OpenUploads is how many uploads have neither been committed nor cancelled.
func (s *Server) OpenUploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

// ForgetUploads loses all open uploads, as a restart does.
func (s *Server) ForgetUploads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.uploads)
}

func (s *Server) repo(name string) *repository {
	r := s.repos[name]
	if r == nil {
		r = &repository{map[digest.Digest][]byte{}, map[digest.Digest]manifest{}, map[string]digest.Digest{}}
		s.repos[name] = r
	}
	return r
}
