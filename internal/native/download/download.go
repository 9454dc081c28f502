// Package download fetches what package managers need: indexes as they are now, and
// packages, which never change, once. What several stages and platforms of a build ask
// for at the same time travels once; transient failures are retried.
package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/trace"
)

// Options are what package managers of one build share.
type Options struct {
	Client  *http.Client
	Cache   string // directory of downloads, kept from build to build
	Scratch string // of this build
	// Mirror gives the address to ask instead of one that a repository has; nil
	// leaves them as they are. What comes is checked in the same way.
	Mirror func(url string) string
	// Use says what a file in the cache is like, and keeps others from removing it
	// during the build; nil where nobody removes anything.
	Use func(path string) (fs.FileInfo, error)
}

// Session downloads indexes and packages for one build: what several stages and
// platforms ask for is asked for once.
type Session struct {
	o    Options
	mu   sync.Mutex
	once map[string]*download
}

type download struct {
	done chan struct{}
	file string
	err  error
}

// New makes a session.
func New(o Options) *Session {
	return &Session{o: o, once: map[string]*download{}}
}

// share runs get once per key.
func (s *Session) share(ctx context.Context, key string, get func() (string, error)) (string, error) {
	s.mu.Lock()
	d := s.once[key]
	if d == nil {
		d = &download{done: make(chan struct{})}
		s.once[key] = d
		s.mu.Unlock()
		d.file, d.err = get()
		if d.err != nil {
			// The next one who asks may have more luck, or another context.
			s.mu.Lock()
			delete(s.once, key)
			s.mu.Unlock()
		}
		close(d.done)
		return d.file, d.err
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		if errors.Is(d.err, context.Canceled) && ctx.Err() == nil {
			return s.share(ctx, key, get)
		}
		return d.file, d.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ErrOffline is for steps that mustn't use the network.
var ErrOffline = errors.New("the network is off for this step (--network=none)")

// Latest gives a file as its server has it now. What was downloaded before is asked
// for with its validators, so that an index that didn't change doesn't travel twice.
// The file is this build's own: nothing changes it.
func (s *Session) Latest(ctx context.Context, address string, offline bool) (string, error) {
	file, err := s.latest(ctx, address, offline)
	if list, ok := ctx.Value(watching{}).(*Asked); ok && err == nil {
		sum, err := fileDigest(file)
		if err != nil {
			return "", err
		}
		list.add(address, sum)
	}
	return file, err
}

// Unchanged reports whether the latest file of an address has this SHA-256 still. What
// can't be had has changed.
func (s *Session) Unchanged(ctx context.Context, address, sha256 string, offline bool) bool {
	file, err := s.latest(ctx, address, offline)
	if err != nil {
		return false
	}
	sum, err := fileDigest(file)
	return err == nil && sum == sha256
}

func (s *Session) latest(ctx context.Context, address string, offline bool) (string, error) {
	if offline {
		return "", ErrOffline
	}
	return s.share(ctx, "index "+address, func() (string, error) {
		sum := sha256.Sum256([]byte(address))
		name := filepath.Join(s.o.Cache, "index", hex.EncodeToString(sum[:]))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return "", err
		}
		var known validators
		if data, err := os.ReadFile(name + ".json"); err == nil && json.Unmarshal(data, &known) == nil {
			if digest, err := fileDigest(name); err != nil || digest != known.SHA256 {
				known = validators{}
			}
		}
		file, now, err := s.get(ctx, address, known)
		if err != nil {
			return "", err
		}
		// This build keeps the bytes that it has checked, whatever others write.
		mine := filepath.Join(s.o.Scratch, "index-"+hex.EncodeToString(sum[:]))
		if file == "" {
			return mine, CopyFile(name, mine)
		}
		if now.SHA256, err = fileDigest(file); err != nil {
			return "", err
		}
		if err := CopyFile(file, mine); err != nil {
			return "", err
		}
		data, err := json.Marshal(now)
		if err == nil {
			// A file without its validators is asked for anew.
			_ = os.Remove(name + ".json")
			if err = os.Rename(file, name); err == nil {
				err = os.WriteFile(name+".json", data, 0o644)
			}
		}
		return mine, err
	})
}

type validators struct {
	ETag, Modified, SHA256 string
}

// Checked gives use a file that doesn't change, from the cache, where its name is that
// of its content, or from its server. use has to check it; what it refuses isn't kept.
func (s *Session) Checked(ctx context.Context, address, name string, offline bool, use func(file string) error) error {
	cached := filepath.Join(s.o.Cache, "packages", name)
	if s.o.Use != nil {
		_, _ = s.o.Use(cached) // use says whether it is there
	}
	if err := use(cached); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		_ = os.Remove(cached) // it is damaged; there is another one where it came from
	}
	if offline {
		return ErrOffline
	}
	file, err := s.share(ctx, "package "+name, func() (string, error) {
		file, _, err := s.get(ctx, address, validators{})
		return file, err
	})
	if err != nil {
		return err
	}
	if err := use(file); err != nil {
		s.mu.Lock()
		delete(s.once, "package "+name)
		s.mu.Unlock()
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cached), 0o755); err != nil {
		return err
	}
	temp := cached + "." + filepath.Base(file)
	if err := CopyFile(file, temp); err != nil {
		return err
	}
	return os.Rename(temp, cached)
}

// maxDownload bounds what a server can make us store, in bytes.
const maxDownload = 4 << 30

// get downloads a file to the scratch directory. It gives no file if the server
// says that it is still as known.
func (s *Session) get(ctx context.Context, address string, known validators) (string, validators, error) {
	asked := address
	if s.o.Mirror != nil {
		asked = s.o.Mirror(address)
	}
	var last error
	for try := range 3 {
		if try > 0 {
			select {
			case <-time.After(time.Duration(try) * 500 * time.Millisecond):
			case <-ctx.Done():
				return "", validators{}, context.Cause(ctx)
			}
		}
		file, now, again, err := s.getOnce(ctx, asked, known)
		if err == nil {
			return file, now, nil
		}
		if last = err; !again || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return "", validators{}, context.Cause(ctx)
	}
	return "", validators{}, fmt.Errorf("%s: %w", Clean(asked), last)
}

// Clean leaves credentials out of an address, for messages.
func Clean(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "the repository"
	}
	return u.Redacted()
}

// Fetching begins a span for a request; its end takes the answer, nil if there was none.
// The query isn't in it: it may hold what lets its bearer in.
func Fetching(req *http.Request) (end func(resp *http.Response)) {
	done := trace.Start(req.Context(), trace.Download, req.Method+" "+req.URL.Host+req.URL.Path)
	return func(resp *http.Response) {
		if resp == nil {
			done("error", "no answer")
			return
		}
		done("status", strconv.Itoa(resp.StatusCode))
	}
}

func (s *Session) getOnce(ctx context.Context, address string, known validators) (name string, now validators, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", now, false, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if known.ETag != "" {
		req.Header.Set("If-None-Match", known.ETag)
	}
	if known.Modified != "" {
		req.Header.Set("If-Modified-Since", known.Modified)
	}
	end := Fetching(req)
	resp, err := s.o.Client.Do(req)
	defer func() { end(resp) }() // the body has come then
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address is in the message already, without secrets
		}
		return "", now, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNotModified && known != (validators{}):
		return "", known, false, nil
	case resp.StatusCode != http.StatusOK:
		return "", now, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the server answered %s", resp.Status)
	}
	out, err := os.CreateTemp(s.o.Scratch, "get-*")
	if err != nil {
		return "", now, false, err
	}
	n, err := io.Copy(out, io.LimitReader(resp.Body, maxDownload+1))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return "", now, true, err
	case resp.ContentLength >= 0 && n != resp.ContentLength:
		return "", now, true, fmt.Errorf("%d of %d bytes came", n, resp.ContentLength)
	case n > maxDownload:
		return "", now, false, fmt.Errorf("it has more than %d bytes", int64(maxDownload))
	}
	return out.Name(), validators{ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified")}, false, nil
}

func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// CopyFile copies a file of the host.
func CopyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}
