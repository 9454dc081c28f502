package serve

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// A connection that neither brings nor takes a byte for too long is given up
// (slowloris), but a slow one that goes on is not: deadlines move along with
// the bytes. They can't be set on recorders and the like, which is no problem.

// errInterrupted is what reading a body gives when another request has taken
// its upload over.
var errInterrupted = errors.New("another request goes on with this upload")

// incoming is the body of a request.
type incoming struct {
	body        io.Reader
	control     *http.ResponseController
	idle        time.Duration
	interrupted atomic.Bool
	err         error // of reading, other than the end; writing may fail too
}

func (s *Server) incoming(w http.ResponseWriter, r *http.Request) *incoming {
	return &incoming{body: r.Body, control: http.NewResponseController(w), idle: s.options.IdleTimeout}
}

// interrupt lets a Read that waits, and all that follow, fail.
func (in *incoming) interrupt() {
	in.interrupted.Store(true)
	in.control.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // see above
}

func (in *incoming) Read(p []byte) (int, error) {
	in.control.SetReadDeadline(time.Now().Add(in.idle)) //nolint:errcheck // see above
	// After setting the deadline, lest that undo an interruption.
	if in.interrupted.Load() {
		in.err = errInterrupted
		return 0, in.err
	}
	n, err := in.body.Read(p)
	switch {
	case err == io.EOF:
		// The server goes on reading, to notice when the client goes away, for
		// as long as the answer takes.
		in.control.SetReadDeadline(time.Time{}) //nolint:errcheck // see above
	case err != nil:
		in.err = err
	}
	return n, err
}

// outgoing is the answer to a request.
type outgoing struct {
	http.ResponseWriter
	control *http.ResponseController
	idle    time.Duration
}

func (s *Server) outgoing(w http.ResponseWriter) *outgoing {
	return &outgoing{w, http.NewResponseController(w), s.options.IdleTimeout}
}

func (out *outgoing) Unwrap() http.ResponseWriter { return out.ResponseWriter }

// extend moves the deadline. One is left in place at the end of the answer, for
// what the server still has to flush; the next answer moves it again.
func (out *outgoing) extend() {
	out.control.SetWriteDeadline(time.Now().Add(out.idle)) //nolint:errcheck // see above
}

func (out *outgoing) WriteHeader(status int) {
	out.extend()
	out.ResponseWriter.WriteHeader(status)
}

func (out *outgoing) Write(p []byte) (int, error) {
	total := 0
	for {
		out.extend()
		n, err := out.ResponseWriter.Write(p[:min(step, len(p))])
		total += n
		p = p[n:]
		if err != nil || len(p) == 0 {
			return total, err
		}
	}
}

// step is how much has to go out within one idle timeout. Larger steps would
// cut slow readers off, smaller ones cost system calls.
const step = 256 << 10

// ReadFrom hands a file to the connection in steps, so that the kernel still
// copies it (sendfile) and the deadline still moves.
func (out *outgoing) ReadFrom(src io.Reader) (int64, error) {
	target, ok := out.ResponseWriter.(io.ReaderFrom)
	limited, isLimited := src.(*io.LimitedReader)
	if !ok || !isLimited {
		return io.Copy(struct{ io.Writer }{out}, src)
	}
	var total int64
	for limited.N > 0 {
		out.extend()
		n, err := target.ReadFrom(&io.LimitedReader{R: limited.R, N: min(step, limited.N)})
		total += n
		limited.N -= n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}
