package gocache

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The messages of the protocol (cmd/go/internal/cacheprog).
type request struct {
	ID       int64
	Command  string
	ActionID []byte `json:",omitempty"`
	OutputID []byte `json:",omitempty"`
	BodySize int64  `json:",omitempty"`
}

type response struct {
	ID            int64
	Err           string     `json:",omitempty"`
	KnownCommands []string   `json:",omitempty"`
	Miss          bool       `json:",omitempty"`
	OutputID      []byte     `json:",omitempty"`
	Size          int64      `json:",omitempty"`
	Time          *time.Time `json:",omitempty"`
	DiskPath      string     `json:",omitempty"`
}

// converse answers one go command until it closes.
func (s *Session) converse(ctx context.Context, in io.Reader, out io.Writer) error {
	var (
		mu      sync.Mutex
		encoder = json.NewEncoder(out)
		wg      sync.WaitGroup
	)
	defer wg.Wait()
	reply := func(r response) {
		mu.Lock()
		defer mu.Unlock()
		_ = encoder.Encode(r) // whoever doesn't listen any more has ended
	}
	s.begin()
	reply(response{KnownCommands: []string{"get", "put", "close"}})
	r := bufio.NewReaderSize(in, 256<<10)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(line))) == 0 {
			continue
		}
		var q request
		if err := json.Unmarshal(line, &q); err != nil {
			return err
		}
		switch q.Command {
		case "get":
			if len(q.ActionID) != len(ID{}) {
				return fmt.Errorf("an action ID has %d bytes", len(q.ActionID))
			}
			wg.Go(func() { reply(s.answerGet(ctx, q.ID, ID(q.ActionID))) })
		case "put":
			if len(q.ActionID) != len(ID{}) || len(q.OutputID) != len(ID{}) || q.BodySize < 0 {
				return errors.New("a result without its IDs came")
			}
			var body io.Reader = strings.NewReader("")
			var end func() error
			if q.BodySize > 0 {
				if body, end, err = readBody(r, q.BodySize); err != nil {
					return err
				}
			}
			file, err := s.put(entry{ID(q.ActionID), ID(q.OutputID), q.BodySize}, body)
			answer := response{ID: q.ID, DiskPath: file}
			if err != nil {
				answer = response{ID: q.ID, Err: err.Error()}
			}
			if end != nil {
				_, _ = io.Copy(io.Discard, body) // what wasn't wanted of it
				if err := end(); err != nil {
					return err
				}
			}
			reply(answer)
		case "close":
			wg.Wait()
			reply(response{ID: q.ID})
			return nil
		default:
			reply(response{ID: q.ID, Err: "unknown command " + q.Command})
		}
	}
}

func (s *Session) answerGet(ctx context.Context, id int64, action ID) response {
	e, file, ok := s.get(ctx, action)
	if !ok {
		return response{ID: id, Miss: true}
	}
	r := response{ID: id, OutputID: e.output[:], Size: e.size, DiskPath: file}
	if info, err := os.Stat(file); err == nil {
		t := info.ModTime()
		r.Time = &t
	}
	return r
}

// readBody reads a JSON string with n bytes in base64 and the end of its line. end has
// to be called when body has been read.
func readBody(r *bufio.Reader, n int64) (body io.Reader, end func() error, err error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return nil, nil, err
		}
		if b == '"' {
			break
		}
		if b != '\n' && b != ' ' {
			return nil, nil, errors.New("a result without its content came")
		}
	}
	encoded := int64(base64.StdEncoding.EncodedLen(int(n)))
	body = base64.NewDecoder(base64.StdEncoding, io.LimitReader(r, encoded))
	return body, func() error {
		if b, err := r.ReadByte(); err != nil || b != '"' {
			return errors.Join(errors.New("a result of another length than announced came"), err)
		}
		return nil
	}, nil
}

// helperWord is what the helper program is called with, followed by the socket.
const helperWord = "anyarch-gocacheprog"

// Main is the helper, if this process was started as one: it connects its standard
// input and output with the run that started the go command.
func Main() bool {
	if len(os.Args) != 3 || os.Args[1] != helperWord {
		return false
	}
	conn, err := net.Dial("unix", os.Args[2])
	if err != nil {
		fmt.Fprintf(os.Stderr, "anyarch: the build cache: %v\n", err)
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		if c, ok := conn.(*net.UnixConn); ok {
			_ = c.CloseWrite()
		}
	}()
	_, _ = io.Copy(os.Stdout, conn)
	return true
}

// Serve answers helpers in the background until the session is closed, and gives the
// GOCACHEPROG with which a go command starts one.
func (s *Session) Serve() (prog string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	// The path of a socket may not be long, and nobody else may use it.
	dir, err := os.MkdirTemp("", "anyarch-")
	if err != nil {
		return "", err
	}
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	s.wg.Go(func() {
		<-s.ctx.Done()
		_ = listener.Close()
		_ = os.RemoveAll(dir)
		mu.Lock()
		defer mu.Unlock()
		for conn := range open {
			_ = conn.Close()
		}
	})
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			s.wg.Go(func() {
				defer func() {
					_ = conn.Close()
					mu.Lock()
					defer mu.Unlock()
					delete(open, conn)
				}()
				if err := s.converse(s.ctx, conn, conn); err != nil && s.ctx.Err() == nil {
					s.warn(fmt.Sprintf("the go command and the build cache don't understand each other: %v", err))
				}
			})
		}
	})
	return quoted(self) + " " + helperWord + " " + quoted(socket), nil
}

// quoted writes a word so that the go command reads it as one (cmd/internal/quoted).
func quoted(word string) string {
	if !strings.ContainsAny(word, " \t\n'\"") {
		return word
	}
	if strings.Contains(word, "'") {
		return `"` + word + `"`
	}
	return "'" + word + "'"
}
