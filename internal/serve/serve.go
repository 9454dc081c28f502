// Package serve is an OCI registry over a directory of OCI image layouts.
//
// Every repository is one layout on disk: what is pushed to team/app is at
// once readable as oci:ROOT/team/app, and a layout that any program has put
// there is at once pullable. There is no other state: index.json is read again
// whenever it has changed, and every change goes through [store.Store], so
// that other processes may write the same layouts at the same time and what
// was acknowledged survives the death of this one.
//
// All of distribution-spec v1.1.1 is there (pull, push, content discovery,
// content management, referrers), and what later drafts add: tag parameters,
// cancelling uploads, conditional pushes.
//
// A manifest exists in a repository if index.json lists it, under a tag or
// without one, or if an index that exists lists it. Pushing a manifest by its
// digest lists it without a tag until an index names it; a tag that moves
// leaves what it named listed; deleting an index lists its children again. So
// a manifest that was acknowledged stays until it is deleted by its digest,
// and the entries of index.json stay few. What a manifest needs can't be
// deleted before it.
package serve

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Options say what is served and within which limits. Only Root has to be set.
type Options struct {
	// Root is the directory of the layouts; it is made if it isn't there. If it
	// is a layout itself, it is served as the only repository, under its name.
	Root string
	// ReadOnly turns every change down and writes nothing to disk.
	ReadOnly bool
	// Sparse accepts manifests although what they name isn't there.
	Sparse bool
	// AllowRemote permits listening on addresses that other machines reach.
	// There is no authentication: everybody may then push.
	AllowRemote bool
	// MaxUploads bounds how many uploads are open at once; 0 means 256.
	MaxUploads int
	// UploadExpiry is how long an upload is kept that nothing is sent to; 0
	// means one hour.
	UploadExpiry time.Duration
	// IdleTimeout is how long a client may neither send nor take a byte within
	// a request; 0 means one minute.
	IdleTimeout time.Duration
	// Log is told what is pushed and deleted, and what goes wrong; nil means
	// nobody is.
	Log progress.Sink
}

// Server is a registry. It serves any number of requests at once.
type Server struct {
	options Options
	root    string // absolute
	single  string // the only repository, if root is a layout
	log     progress.Sink
	facts   facts
	uploads uploads

	mu    sync.Mutex // guards repos
	repos map[string]*repository
}

// New prepares a registry over the layouts in a directory. A directory that
// can't be made or read is a [refusal.Error] with code PA602.
func New(o Options) (*Server, error) {
	if o.MaxUploads <= 0 {
		o.MaxUploads = 256
	}
	if o.UploadExpiry <= 0 {
		o.UploadExpiry = time.Hour
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = time.Minute
	}
	if o.Log == nil {
		o.Log = progress.Discard
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, store.DiskError(o.Root, "read", err)
	}
	if !o.ReadOnly {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, store.DiskError(root, "write", err)
		}
	}
	if _, err := os.ReadDir(root); err != nil {
		return nil, &refusal.Error{
			Code: "PA602", Place: root, Summary: "can't read the directory of the layouts", Seen: []string{err.Error()}, Err: err,
		}
	}
	s := &Server{options: o, root: root, log: o.Log, repos: map[string]*repository{}}
	s.uploads.server = s
	if isLayout(root) {
		if _, err := store.Open(root); err != nil {
			return nil, err
		}
		s.single = nameOf(filepath.Base(root))
	}
	return s, nil
}

// Repository is the name of the only repository if the root is a layout
// itself, else empty: then there are as many as are pushed.
func (s *Server) Repository() string { return s.single }

// Close drops the uploads that are open, with their temporary files.
func (s *Server) Close() { s.uploads.close() }

// ServeHTTP answers one request (distribution-spec v1.1.1, "Endpoints").
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := s.outgoing(w)
	if r.ContentLength != 0 {
		// Of a body that nobody wants the server reads some, before it answers.
		out.control.SetReadDeadline(time.Now().Add(s.options.IdleTimeout)) //nolint:errcheck // see stream.go
	}
	header := out.Header()
	header.Set("Docker-Distribution-API-Version", "registry/2.0")
	header.Set("X-Content-Type-Options", "nosniff")
	if err := s.answer(out, r); err != nil {
		s.fail(out, r, err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	to, ok := parseRoute(r.URL.Path)
	if !ok {
		return &problem{status: http.StatusNotFound, code: codeUnsupported, message: "no such endpoint"}
	}
	serve, allowed := s.endpoint(to.kind, r.Method)
	if serve == nil {
		w.Header().Set("Allow", allowed)
		return &problem{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "the endpoint takes " + allowed}
	}
	if to.named() {
		if !s.validName(to.name) {
			return nameInvalid(to.name)
		}
		if s.single != "" && to.name != s.single {
			return nameUnknown(to.name)
		}
	}
	if s.options.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &problem{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "this registry is read-only"}
	}
	return serve(w, r, to)
}

type handler func(http.ResponseWriter, *http.Request, route) error

// endpoint finds what serves a method of an endpoint, or which methods it has.
func (s *Server) endpoint(k kind, method string) (serve handler, allowed string) {
	type entry struct {
		method string
		handler
	}
	var table []entry
	switch k {
	case toBase:
		table = []entry{{"GET", s.base}, {"HEAD", s.base}}
	case toCatalog:
		table = []entry{{"GET", s.catalog}, {"HEAD", s.catalog}}
	case toTags:
		table = []entry{{"GET", s.tags}, {"HEAD", s.tags}}
	case toReferrers:
		table = []entry{{"GET", s.referrers}, {"HEAD", s.referrers}}
	case toManifest:
		table = []entry{{"GET", s.getManifest}, {"HEAD", s.getManifest}, {"PUT", s.putManifest}, {"DELETE", s.deleteManifest}}
	case toBlob:
		table = []entry{{"GET", s.getBlob}, {"HEAD", s.getBlob}, {"DELETE", s.deleteBlob}}
	case toUploads:
		table = []entry{{"POST", s.startUpload}}
	case toUpload:
		table = []entry{{"GET", s.uploadStatus}, {"PATCH", s.patchUpload}, {"PUT", s.putUpload}, {"DELETE", s.cancelUpload}}
	}
	methods := make([]string, len(table))
	for i, e := range table {
		if e.method == method {
			return e.handler, ""
		}
		methods[i] = e.method
	}
	return nil, strings.Join(methods, ", ")
}

// base says that this is a registry.
func (s *Server) base(w http.ResponseWriter, _ *http.Request, _ route) error {
	return writeJSON(w, "application/json", struct{}{})
}

// gone reports whether a request failed because its client went away.
func gone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
