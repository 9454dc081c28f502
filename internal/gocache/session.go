package gocache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/store"
)

// Repository is the part of a registry that a cache needs.
type Repository interface {
	// Manifest reads what a tag names; an absent one wraps store.ErrNotFound.
	Manifest(ctx context.Context, tag string) (ocispec.Descriptor, []byte, error)
	// Fetch opens a blob; its reader fails if the bytes aren't those of the digest.
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	PushBlob(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error), progress func(sent int64)) error
	PushManifest(ctx context.Context, tag string, d ocispec.Descriptor, data []byte) error
}

// Options say where a cache is.
type Options struct {
	Repository Repository
	Tag        string
	ReadOnly   bool
	Limit      int64  // of all packs in the registry, in bytes; 0 is no bound
	Dir        string // the go command's own build cache, GOCACHE
	Scratch    string // for packs on their way
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

	mu     sync.Mutex
	used   []entry // in the order in which they were first asked for or made
	seen   map[ID]bool
	came   map[ID]bool // from the registry
	stats  Stats
	warned bool
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
	used bool
}

// loadTimeout is how long a build waits for a cache that doesn't answer.
const loadTimeout = 20 * time.Second

// New makes a session, which has to be closed. Nothing is asked of the registry before
// a go command asks.
func New(ctx context.Context, o Options) *Session {
	s := &Session{o: o, disk: disk{o.Dir}, start: time.Now(), loaded: make(chan struct{}), at: map[ID]location{}, seen: map[ID]bool{}, came: map[ID]bool{}, fetching: make(chan struct{}, 3)}
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
	packs, err := load(ctx, o.Repository, o.Tag)
	if err != nil {
		if s.ctx.Err() == nil {
			s.warn(fmt.Sprintf("the build cache can't be read, so nothing is taken from it: %v", err))
		}
		return
	}
	for _, p := range packs {
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

// load reads the manifest and the index. There is nothing if there is no such tag.
func load(ctx context.Context, repo Repository, tag string) ([]*pack, error) {
	_, data, err := repo.Manifest(ctx, tag)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.ArtifactType != artifactType || len(m.Layers) == 0 || m.Layers[0].MediaType != indexType {
		return nil, errors.New("what is there is no build cache")
	}
	if m.Layers[0].Size > maxIndex {
		return nil, fmt.Errorf("its index has %d bytes", m.Layers[0].Size)
	}
	r, err := repo.Fetch(ctx, m.Layers[0])
	if err != nil {
		return nil, err
	}
	defer r.Close()
	index, err := io.ReadAll(io.LimitReader(r, maxIndex))
	if err != nil {
		return nil, err
	}
	packs, err := decodeIndex(index)
	if err != nil {
		return nil, err
	}
	for _, p := range packs {
		if !slices.ContainsFunc(m.Layers[1:], func(d ocispec.Descriptor) bool { return d.Digest == p.Digest && d.Size == p.Size }) {
			return nil, errors.New("its index names a pack that its manifest hasn't")
		}
	}
	return packs, nil
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
	at.pack.used = true
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

func (s *Session) fetchNow(p *remotePack) error {
	r, err := s.o.Repository.Fetch(s.ctx, p.descriptor())
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
	err = readPack(s.ctx, r, s.disk, p.entries, func(e entry) {
		p.mu.Lock()
		p.here[e.action] = true
		p.cond.Broadcast()
		p.mu.Unlock()
	})
	s.mu.Lock()
	s.stats.Fetched += p.Size
	s.mu.Unlock()
	return err
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
		p.mu.Lock()
		p.used = true
		for !p.over {
			p.cond.Wait()
		}
		p.mu.Unlock()
	}
}

// Collect notes what go commands that can't tell have used or made since the session
// began, to the hour.
func (s *Session) Collect() {
	for _, e := range s.disk.since(s.start.Add(-time.Hour)) {
		s.note(e, func(*Stats) {})
	}
}

// few is how many small packs may be there before they are put together.
const few = 8

// Save writes to the registry what this run has used and it hasn't, and keeps it within
// its bound: packs that no run has used for longest go. Nothing is written if nothing
// is new, or if the cache is read-only.
func (s *Session) Save(ctx context.Context) error {
	if s.o.ReadOnly {
		return nil
	}
	s.mu.Lock()
	used := slices.Clone(s.used)
	s.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	s.begin()
	select {
	case <-s.loaded:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Somebody else may have written meanwhile: what is there now is kept.
	packs, err := load(ctx, s.o.Repository, s.o.Tag)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	for _, p := range packs {
		if slices.ContainsFunc(s.packs, func(r *remotePack) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.Digest == p.Digest && r.used
		}) {
			p.Used = now
		}
	}
	there := map[ID]bool{}
	var small []*pack
	for _, p := range packs {
		for _, e := range p.entries {
			there[e.action] = true
		}
		if p.Size < packSize/16 {
			small = append(small, p)
		}
	}
	fresh := slices.DeleteFunc(used, func(e entry) bool { return there[e.action] })
	if len(fresh) == 0 {
		return nil
	}
	if len(small) >= few {
		for _, p := range small {
			for _, e := range p.entries {
				if got, _, ok := s.disk.get(e.action); ok && got == e {
					fresh = append(fresh, e)
				}
			}
		}
		packs = slices.DeleteFunc(packs, func(p *pack) bool { return slices.Contains(small, p) })
	}
	made, err := s.push(ctx, fresh)
	if err != nil {
		return err
	}
	for _, p := range made {
		p.Used = now
	}
	return write(ctx, s.o.Repository, s.o.Tag, bounded(append(packs, made...), s.o.Limit))
}

// bounded leaves out what was unused for longest, until the rest fits.
func bounded(packs []*pack, limit int64) []*pack {
	packs = slices.Clone(packs)
	var total int64
	for _, p := range packs {
		total += p.Size
	}
	byUse := slices.Clone(packs)
	slices.SortStableFunc(byUse, func(x, y *pack) int { return cmp.Compare(x.Used.Unix(), y.Used.Unix()) })
	for _, p := range byUse {
		if limit <= 0 || total <= limit {
			break
		}
		total -= p.Size
		packs = slices.DeleteFunc(packs, func(q *pack) bool { return q == p })
	}
	return packs
}

// push packs entries and uploads the packs.
func (s *Session) push(ctx context.Context, entries []entry) ([]*pack, error) {
	var groups [][]entry
	var size int64 = packSize
	for _, e := range entries {
		if size >= packSize {
			groups, size = append(groups, nil), 0
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], e)
		size += e.size
	}
	made := make([]*pack, len(groups))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, group := range groups {
		g.Go(func() error {
			file, err := os.CreateTemp(s.o.Scratch, "anyarch-pack-")
			if err != nil {
				return err
			}
			defer os.Remove(file.Name())
			p, err := writePack(gctx, s.disk, group, file)
			if cerr := file.Close(); err == nil {
				err = cerr
			}
			if err != nil || p.Count == 0 {
				return err
			}
			err = s.o.Repository.PushBlob(gctx, p.descriptor(), func() (io.ReadCloser, error) { return os.Open(file.Name()) }, nil)
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.stats.Pushed += p.Size
			s.mu.Unlock()
			made[i] = p
			return nil
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(made, func(p *pack) bool { return p == nil }), err
}

// write uploads the index and moves the tag.
func write(ctx context.Context, repo Repository, tag string, packs []*pack) error {
	index, err := encodeIndex(packs)
	if err != nil {
		return err
	}
	empty := ocispec.DescriptorEmptyJSON
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: ocispec.Descriptor{MediaType: empty.MediaType, Digest: empty.Digest, Size: empty.Size},
		Layers: []ocispec.Descriptor{{MediaType: indexType, Digest: digest.FromBytes(index), Size: int64(len(index))}},
	}
	for _, p := range packs {
		m.Layers = append(m.Layers, p.descriptor())
	}
	for _, blob := range []struct {
		d    ocispec.Descriptor
		data []byte
	}{{m.Config, empty.Data}, {m.Layers[0], index}} {
		open := func() (io.ReadCloser, error) { return readCloser{bytes.NewReader(blob.data)}, nil }
		if err := repo.PushBlob(ctx, blob.d, open, nil); err != nil {
			return err
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return repo.PushManifest(ctx, tag, ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data)
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// Prune keeps a cache within a bound; 0 empties it. It gives how many bytes of packs
// the tag names less, and how many are left. The registry removes them when it collects
// garbage.
func Prune(ctx context.Context, repo Repository, tag string, limit int64) (freed, left int64, err error) {
	packs, err := load(ctx, repo, tag)
	if err != nil || len(packs) == 0 {
		return 0, 0, err
	}
	for _, p := range packs {
		freed += p.Size
	}
	var kept []*pack
	if limit > 0 {
		kept = bounded(packs, limit)
	}
	for _, p := range kept {
		left += p.Size
	}
	if freed -= left; freed == 0 {
		return 0, left, nil
	}
	return freed, left, write(ctx, repo, tag, kept)
}

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
