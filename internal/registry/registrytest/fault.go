package registrytest

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"time"
)

// Cut is what happens to a connection.
type Cut int

// The ways in which connections end, or don't.
const (
	None  Cut = iota
	Reset     // RST
	Close     // FIN
	Stall     // nothing more comes or goes, until the client gives up
)

// Fault is one thing that goes wrong, and when. What it says nothing about goes
// as ever.
type Fault struct {
	// Which requests: those with the method and with a path that the regular
	// expression matches, either of which may be empty for any, and with a body
	// of at least MinBody bytes. Of these, Skip pass unharmed, and then Times
	// are hit: once if it is 0, always if it is negative.
	Method  string
	Path    string
	MinBody int64
	Skip    int
	Times   int

	Delay  time.Duration
	Before func() // called first

	// An answer instead of the real one, after the request was really served if
	// Served is set, and after its body was read if Drain is.
	Status int
	Header map[string]string
	Body   string
	Served bool
	Drain  bool

	// The connection is cut after At bytes of the request's body or, if it has
	// none or Served is set, of the answer's. At 0 there is no answer at all.
	Cut Cut
	At  int64

	// Flip inverts the byte at FlipAt of the answer's body.
	Flip   bool
	FlipAt int64

	// Serve, if set, answers instead of the registry.
	Serve http.HandlerFunc
}

type fault struct {
	Fault
	path *regexp.Regexp
	seen int
}

// Inject lets something go wrong. Of several faults that fit a request the one
// that was injected first and isn't used up applies.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{Fault: f, path: regexp.MustCompile(f.Path)})
}

// Heal ends all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// next gives the fault of a request, nil if nothing goes wrong. The caller
// holds the lock.
func (s *Server) next(r *http.Request) *fault {
	for _, f := range s.faults {
		if f.Method != "" && f.Method != r.Method || !f.path.MatchString(r.URL.Path) || r.ContentLength < f.MinBody {
			continue
		}
		f.seen++
		if f.seen <= f.Skip {
			continue
		}
		if f.Times >= 0 && f.seen > f.Skip+max(f.Times, 1) {
			continue
		}
		return f
	}
	return nil
}

// ServeHTTP serves one request, with its fault.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	entry := &Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
		Authorization: r.Header.Get("Authorization"), Range: r.Header.Get("Range"),
	}
	s.mu.Lock()
	s.log = append(s.log, entry)
	s.serial++
	id := s.serial
	f := s.next(r)
	s.mu.Unlock()

	out := &writer{ResponseWriter: w, limit: -1, flip: -1}
	in := &reader{ReadCloser: r.Body, limit: -1}
	r.Body = in
	defer func() {
		s.mu.Lock()
		entry.Received, entry.Sent, entry.Status = in.n, out.n, out.status
		s.mu.Unlock()
	}()
	if f == nil {
		s.serve(out, r, id)
		return
	}
	if f.Before != nil {
		f.Before()
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-s.closed:
		}
	}
	if f.Flip {
		out.flip = f.FlipAt
	}
	silent := false
	switch {
	case f.Cut == None:
	case r.ContentLength > 0 && !f.Served:
		in.limit = f.At
	default:
		out.limit, silent = f.At, f.At == 0
	}
	switch {
	case silent:
		if f.Served {
			s.serve(&writer{ResponseWriter: nowhere{}, limit: -1, flip: -1}, r, id)
		}
	case f.Serve != nil:
		f.Serve(out, r)
	case f.Status != 0:
		if f.Served {
			s.serve(&writer{ResponseWriter: nowhere{}, limit: -1, flip: -1}, r, id)
		}
		if f.Drain {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		for k, v := range f.Header {
			out.Header().Set(k, v)
		}
		out.WriteHeader(f.Status)
		_, _ = io.WriteString(out, f.Body)
	default:
		for k, v := range f.Header {
			out.Header().Set(k, v)
		}
		s.serve(out, r, id)
	}
	if in.hit || out.hit || silent {
		s.cut(out, r, f.Cut)
	}
}

// cut ends the connection of a request.
func (s *Server) cut(w *writer, r *http.Request, how Cut) {
	if w.status != 0 {
		if flusher, ok := w.ResponseWriter.(http.Flusher); ok {
			flusher.Flush()
		}
	}
	if how == Stall {
		select {
		case <-r.Context().Done():
		case <-s.closed:
		}
	}
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok && how == Reset {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

var errCut = errors.New("the connection is cut")

// reader counts the bytes of a request and stops after limit of them.
type reader struct {
	io.ReadCloser
	n, limit int64
	hit      bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.limit >= 0 {
		if r.n >= r.limit {
			r.hit = true
			return 0, errCut
		}
		p = p[:min(int64(len(p)), r.limit-r.n)]
	}
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	return n, err
}

// writer counts the bytes of an answer, inverts one and stops after limit.
type writer struct {
	http.ResponseWriter
	n, limit, flip int64
	status         int
	hit            bool
}

func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.hit {
		return 0, errCut
	}
	if w.limit >= 0 && w.n+int64(len(p)) > w.limit {
		p = p[:w.limit-w.n]
		w.hit = true
	}
	if i := w.flip - w.n; i >= 0 && i < int64(len(p)) {
		p = append([]byte(nil), p...)
		p[i] ^= 0xff
	}
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	if err == nil && w.hit {
		err = errCut
	}
	return n, err
}

// nowhere is an answer that nobody gets.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
