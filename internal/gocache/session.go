package gocache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Repository is where a cache is.
type Repository interface {
	publish.Repository
	// Manifest reads what a tag or digest names; an absent one wraps store.ErrNotFound.
	Manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error)
}

// Options say where a cache is.
type Options struct {
	Repository Repository
	Tag        string
	ReadOnly   bool
	// Limit bounds all packs in the registry, and what a run takes from there, in
	// bytes; 0 is no bound.
	Limit   int64
	Dir     string // the go command's own build cache, GOCACHE
	Scratch string // for packs on their way
	// Warn is told what doesn't work: a build goes on without what it can't have.
	Warn func(text string)
}

// Session is a cache during a run. Its methods may be called concurrently.
type Session struct {
	o      Options
	disk   disk
	start  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	began  sync.Once
	filled sync.Once
	loaded chan struct{} // closed when packs and at are known

	packs []*remotePack
	at    map[ID]location // by action

	fetching chan struct{} // how many packs are fetched at once
	wg       sync.WaitGroup
	stall    time.Duration // silence of the registry after which it isn't asked again

	mu     sync.Mutex
	used   []entry // in the order in which they were first asked for or made
	seen   map[ID]bool
	came   map[ID]bool // from the registry
	stats  Stats
	warned bool
	taken  int64 // bytes of packs that were asked for
	over   bool  // nothing more is taken from the registry
}

// Stats are what a session did.
type Stats struct {
	Local, Remote, Missed, Made int   // questions and results, in entries
	Fetched, Pushed             int64 // bytes of blobs
}

type location struct {
	pack  *remotePack
	entry entry
}

type remotePack struct {
	*pack
	next *remotePack
	once sync.Once

	mu   sync.Mutex
	cond *sync.Cond
	here map[ID]bool
	over bool // fetched, or failed
	bad  bool // it can't be had, or isn't what the index says
}

// loadTimeout is how long a build waits for a cache that doesn't answer, and
// stallTimeout for the next bytes of one that does.
const (
	loadTimeout  = 20 * time.Second
	stallTimeout = 20 * time.Second
)

// New makes a session, which has to be closed. Nothing is asked of the registry before
// a go command asks.
func New(ctx context.Context, o Options) *Session {
	s := &Session{o: o, disk: disk{o.Dir}, start: time.Now(), loaded: make(chan struct{}), at: map[ID]location{}, seen: map[ID]bool{}, came: map[ID]bool{}, fetching: make(chan struct{}, 3), stall: stallTimeout}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// begin starts to read the index, in the background, once.
func (s *Session) begin() {
	s.began.Do(func() { s.wg.Go(s.load) })
}

func (s *Session) load() {
	o := s.o
	defer close(s.loaded)
	ctx, cancel := context.WithTimeout(s.ctx, loadTimeout)
	defer cancel()
	there, err := load(ctx, o.Repository, o.Tag)
	if err != nil {
		if s.ctx.Err() == nil {
			s.warn(fmt.Sprintf("the build cache can't be read, so nothing is taken from it: %v", err))
		}
		return
	}
	for _, p := range there.packs {
		r := &remotePack{pack: p, here: map[ID]bool{}}
		r.cond = sync.NewCond(&r.mu)
		if len(s.packs) > 0 {
			s.packs[len(s.packs)-1].next = r
		}
		s.packs = append(s.packs, r)
		for _, e := range p.entries {
			s.at[e.action] = location{r, e}
		}
	}
}

func (s *Session) warn(text string) {
	s.mu.Lock()
	first := !s.warned
	s.warned = true
	s.mu.Unlock()
	if first && s.o.Warn != nil {
		s.o.Warn(text)
	}
}

// note remembers that this run needed an entry.
func (s *Session) note(e entry, count func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.stats)
	if !s.seen[e.action] {
		s.seen[e.action] = true
		s.used = append(s.used, e)
	}
}

// get answers a question of the go command.
func (s *Session) get(ctx context.Context, action ID) (entry, string, bool) {
	if e, file, ok := s.disk.get(action); ok {
		s.note(e, func(n *Stats) {
			if s.came[action] {
				n.Remote++
			} else {
				n.Local++
			}
		})
		return e, file, true
	}
	select {
	case <-s.loaded:
	case <-ctx.Done():
		return entry{}, "", false
	}
	if at, ok := s.at[action]; ok && s.want(at) {
		if e, file, ok := s.disk.get(action); ok {
			s.note(e, func(n *Stats) { n.Remote++ })
			return e, file, true
		}
	}
	s.mu.Lock()
	s.stats.Missed++
	s.mu.Unlock()
	return entry{}, "", false
}

// want waits for an entry of the registry to be on the disk.
func (s *Session) want(at location) bool {
	s.fetch(at.pack)
	// The next ones are wanted soon: packs are in the order of a build.
	for next, n := at.pack.next, 0; next != nil && n < 2; next, n = next.next, n+1 {
		s.fetch(next)
	}
	at.pack.mu.Lock()
	defer at.pack.mu.Unlock()
	for !at.pack.here[at.entry.action] && !at.pack.over {
		at.pack.cond.Wait()
	}
	return at.pack.here[at.entry.action]
}

// fetch begins to fetch a pack, once.
func (s *Session) fetch(p *remotePack) {
	p.once.Do(func() {
		s.wg.Go(func() {
			s.fetching <- struct{}{}
			defer func() { <-s.fetching }()
			if err := s.fetchNow(p); err != nil && s.ctx.Err() == nil {
				s.warn(fmt.Sprintf("a part of the build cache can't be had, so it is made again: %v", err))
			}
			p.mu.Lock()
			p.over = true
			p.cond.Broadcast()
			p.mu.Unlock()
		})
	})
}

// fetchNow puts the entries of a pack on the disk. One that isn't what the index says
// is marked; a registry that is away, and a disk that is full, aren't tried again.
func (s *Session) fetchNow(p *remotePack) error {
	s.mu.Lock()
	stop, much := s.over, s.o.Limit > 0 && s.taken+p.Size > s.o.Limit
	s.over = stop || much
	s.taken += p.Size
	s.mu.Unlock()
	switch {
	case stop:
		return nil
	case much:
		return fmt.Errorf("there is more than max-size, %d bytes", s.o.Limit)
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	err := s.unpack(ctx, p, cancel)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if blames(err) {
		p.mu.Lock()
		p.bad = s.ctx.Err() == nil
		p.mu.Unlock()
		return err
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	return err
}

// blames reports whether an error says that what is in the registry is wrong, rather
// than that the registry is away or that there is no room on the disk.
func blames(err error) bool {
	var refused *refusal.Error
	var file *fs.PathError
	var names *os.LinkError
	switch {
	case errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &file), errors.As(err, &names):
		return false
	case errors.Is(err, store.ErrNotFound):
		return true
	}
	return !errors.As(err, &refused) || refused.Kind != refusal.Unavailable && refused.Kind != refusal.Auth
}

var errStalled = errors.New("the registry has stopped in the middle of an answer")

// wait waits until a pack that is fetched is here, or can't be.
func (p *remotePack) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.over {
		p.cond.Wait()
	}
}

func (s *Session) unpack(ctx context.Context, p *remotePack, cancel context.CancelCauseFunc) error {
	timer := time.AfterFunc(s.stall, func() { cancel(errStalled) })
	defer timer.Stop()
	r, err := s.o.Repository.Fetch(ctx, p.descriptor())
	if err != nil {
		return err
	}
	defer r.Close()
	// Whoever finds an entry on the disk a moment after it was written finds it noted.
	for _, e := range p.entries {
		if _, _, here := s.disk.get(e.action); !here {
			s.mu.Lock()
			s.came[e.action] = true
			s.mu.Unlock()
		}
	}
	n, err := readPack(ctx, watched{r, timer, s.stall}, s.disk, p.entries, func(e entry) {
		p.mu.Lock()
		p.here[e.action] = true
		p.cond.Broadcast()
		p.mu.Unlock()
	})
	s.mu.Lock()
	s.stats.Fetched += n
	s.mu.Unlock()
	return err
}

// watched puts off a timer for as long as bytes come.
type watched struct {
	io.Reader
	timer *time.Timer
	stall time.Duration
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, err
}

// put keeps what the go command has made.
func (s *Session) put(e entry, body io.Reader) (string, error) {
	file, err := s.disk.put(e, body)
	if err == nil {
		s.note(e, func(n *Stats) { n.Made++ })
	}
	return file, err
}

// Fill puts everything that the registry has into the go command's build cache, for go
// commands that can't ask for it.
func (s *Session) Fill(ctx context.Context) { s.filled.Do(func() { s.fill(ctx) }) }

func (s *Session) fill(ctx context.Context) {
	s.begin()
	select {
	case <-s.loaded:
	case <-ctx.Done():
		return
	}
	for _, p := range s.packs {
		missing := slices.ContainsFunc(p.entries, func(e entry) bool {
			_, _, ok := s.disk.get(e.action)
			return !ok
		})
		if missing {
			s.fetch(p)
		}
	}
	for _, p := range s.packs {
		p.once.Do(func() { // it is all there
			p.mu.Lock()
			p.over = true
			p.mu.Unlock()
		})
		p.wait()
	}
}

// Collect notes what go commands that can't tell have made since the session began, or
// used for the first time in an hour. What others on this machine have used shortly before
// isn't this run's to share, and nothing says that this run has used it too.
func (s *Session) Collect() {
	for _, e := range s.disk.since(s.start) {
		s.note(e, func(*Stats) {})
	}
}

// ReadOnly reports whether Save does nothing.
func (s *Session) ReadOnly() bool { return s.o.ReadOnly }

// Stats gives what the session did up to now.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Close ends the session: what is on its way is given up.
func (s *Session) Close() {
	s.cancel()
	s.wg.Wait()
}

// String says what a session did, for people.
func (n Stats) String() string {
	return fmt.Sprintf("%d results from the registry, %d from this machine, %d made", n.Remote, n.Local, n.Made)
}
