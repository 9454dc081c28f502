// Package fingerprint tells whether the files that a command has read are still
// the same, at the price of a stat per file.
//
// A [Snapshot] is what a set of [Input]s, directories and names in them, was like
// when a command ran. Later, [Snapshot.Compare] says whether the command would
// read the same again. It follows git's rule for its index ("racy git",
// git-scm.com/docs/racy-git): a file whose times, inode, size and mode are as they
// were is the same, unless the snapshot was taken so soon after the file's last
// change that another one could have left the same times. The content of such
// files is compared. The time of a status change counts as much as that of a
// modification, since nobody can set it back.
//
// Whether a snapshot describes what the command saw is the harder half: see [View]
// and [Take].
package fingerprint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Filter says which names of a directory count.
type Filter string

// The filters.
const (
	Sources    Filter = "sources"    // what the go command looks at in the directory of a package
	Packages   Filter = "packages"   // the same, and directories in which `...` looks for packages
	Everything Filter = "everything" // every name
	Toolchains Filter = "toolchains" // go1.26.8 and the like, beside a go command
	Named      Filter = "named"      // the names of the input, there or not
	Data       Filter = "data"       // the same, of files whose content says nothing about other files
)

// Input is a directory, of which something is read.
type Input struct {
	Dir    string   `json:"dir"`
	Filter Filter   `json:"filter"`
	Names  []string `json:"names,omitempty"` // for Named and Data
	// Sealed directories belong to a tool, such as the module cache: nobody edits
	// in them, so that one hash of all stats is kept, and no content.
	Sealed bool `json:"sealed,omitempty"`
}

// Kind is what an entry of a directory is.
type Kind string

// The kinds of entries.
const (
	Absent    Kind = "absent"
	File      Kind = "file"
	Directory Kind = "dir"
	Other     Kind = "other"
)

// Entry is one name in a directory. Of directories only their kind counts: what is
// in them has an input of its own.
type Entry struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	Link string `json:"link,omitempty"` // what a symbolic link says; the rest is of what it leads to
	Stat
	Sum string `json:"sum,omitempty"` // of the content
	// Shape is a hash of what decides which other files are read; empty if that is
	// all of the content, "-" if it is nothing.
	Shape string `json:"shape,omitempty"`
	// Recent entries had changed so shortly before that their stats say nothing.
	Recent bool `json:"recent,omitempty"`
}

// state is an input as it was.
type state struct {
	Input
	Missing   bool    `json:"missing,omitempty"`   // there is no such directory
	Signature string  `json:"signature,omitempty"` // of a sealed directory
	Entries   []Entry `json:"entries,omitempty"`
}

// Snapshot is what inputs were like at one time. It is immutable.
type Snapshot struct {
	states []state
	settle bool // it has recent entries
}

// MarshalJSON writes a snapshot.
func (s *Snapshot) MarshalJSON() ([]byte, error) { return json.Marshal(s.states) }

// UnmarshalJSON reads what MarshalJSON has written.
func (s *Snapshot) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &s.states); err != nil {
		return err
	}
	for _, st := range s.states {
		for _, e := range st.Entries {
			s.settle = s.settle || e.Recent
		}
	}
	return nil
}

// Inputs are those that the snapshot is of.
func (s *Snapshot) Inputs() []Input {
	list := make([]Input, len(s.states))
	for i, st := range s.states {
		list[i] = st.Input
	}
	return list
}

// Verdict is what a comparison comes to. Larger is worse.
type Verdict int

// The verdicts.
const (
	Same    Verdict = iota // a command would read the same files with the same content
	Renewed                // the same, but stats differ or say nothing: take a new snapshot
	Content                // the same files, some with another content
	Changed                // perhaps other files
)

// Compare says how the inputs differ from what they were. What it looks at stays
// in view; after Content and Changed that need not be all sealed directories. The error
// is only ever that ctx has ended.
func (s *Snapshot) Compare(ctx context.Context, view *View) (Verdict, error) {
	var worst atomic.Int64
	raise := func(v Verdict) {
		for {
			old := worst.Load()
			if old >= int64(v) || worst.CompareAndSwap(old, int64(v)) {
				return
			}
		}
	}
	// What is edited comes first. If that has changed, a command has to run, and the
	// rest, which is most of it, can wait for Take.
	var edited, sealed []*state
	for i := range s.states {
		if s.states[i].Sealed {
			sealed = append(sealed, &s.states[i])
		} else {
			edited = append(edited, &s.states[i])
		}
	}
	pass := func(states []*state) error {
		return each(ctx, len(states), func(i int) {
			if Verdict(worst.Load()) != Changed {
				raise(states[i].compare(view))
			}
		})
	}
	err := pass(edited)
	if err == nil && Verdict(worst.Load()) < Content {
		err = pass(sealed)
	}
	v := Verdict(worst.Load())
	if v == Same && s.settle {
		v = Renewed
	}
	return v, err
}

// Edit is a file with another content than in the snapshot.
type Edit struct {
	Path string
	Sum  string // SHA-256 of the content, hexadecimal
}

// Edits lists the files that made Compare with the same view say Content.
func (s *Snapshot) Edits(view *View) []Edit {
	var list []Edit
	seen := map[string]bool{}
	for i := range s.states {
		st := &s.states[i]
		if st.Sealed {
			continue
		}
		now, _, err := view.entries(st.Input)
		if err != nil || len(now) != len(st.Entries) {
			continue // Compare says Changed
		}
		for i, was := range st.Entries {
			is := now[i]
			path := filepath.Join(st.Dir, is.Name)
			if is.Kind != File || seen[path] || is.Stat == was.Stat && !was.Recent {
				continue
			}
			if sum, _, err := view.content(st.Input, is); err == nil && sum != was.Sum {
				seen[path] = true
				list = append(list, Edit{path, sum})
			}
		}
	}
	return list
}

// Sealed reports whether the sealed directories are as they were.
func (s *Snapshot) Sealed(ctx context.Context, view *View) bool {
	var differs atomic.Bool
	err := each(ctx, len(s.states), func(i int) {
		if s.states[i].Sealed && !differs.Load() && s.states[i].compare(view) != Same {
			differs.Store(true)
		}
	})
	return err == nil && !differs.Load()
}

// Still reports whether nothing that is edited has changed since view looked at it.
func (s *Snapshot) Still(ctx context.Context, view *View) bool {
	now := NewView()
	var moved atomic.Bool
	err := each(ctx, len(s.states), func(i int) {
		in := s.states[i].Input
		if in.Sealed || moved.Load() {
			return
		}
		list, missing, err := now.entries(in)
		old, oldMissing, seen := view.seen(in)
		if err != nil || !seen || missing != oldMissing || !slices.EqualFunc(list, old, Entry.unchanged) {
			moved.Store(true)
		}
	})
	return err == nil && !moved.Load()
}

// each calls do for 0 to n-1, on all cores.
func each(ctx context.Context, n int, do func(i int)) error {
	const batch = 32
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for begin := 0; begin < n && ctx.Err() == nil; begin += batch {
		g.Go(func() error {
			for i := begin; i < min(begin+batch, n) && ctx.Err() == nil; i++ {
				do(i)
			}
			return nil
		})
	}
	_ = g.Wait() // nothing fails
	return context.Cause(ctx)
}

func (s *state) compare(view *View) Verdict {
	if s.Sealed {
		if signature, _, ok := view.signature(s.Input); !ok || signature != s.Signature {
			return Changed
		}
		return Same
	}
	now, missing, err := view.entries(s.Input)
	if err != nil || missing != s.Missing || len(now) != len(s.Entries) {
		return Changed
	}
	verdict := Same
	for i, was := range s.Entries {
		is := now[i]
		if is.Name != was.Name || is.Kind != was.Kind || is.Link != was.Link {
			return Changed
		}
		if is.Kind != File || is.Stat == was.Stat && !was.Recent {
			continue
		}
		if is.Mode != was.Mode || was.Sum == "" {
			return Changed
		}
		sum, shape, err := view.content(s.Input, is)
		switch {
		case err != nil:
			return Changed
		case sum == was.Sum:
			verdict = max(verdict, Renewed)
		case was.Shape == "" || shape != was.Shape:
			return Changed
		default:
			verdict = Content
		}
	}
	return verdict
}

// ErrUnsettled is why no snapshot can be taken: something changed while the command
// ran, or may have.
var ErrUnsettled = errors.New("inputs changed while they were read")

// recent is how long before a snapshot a change must lie so that times tell it from
// a later one: longer than the coarsest clock of a file system, FAT's 2 s.
const recent = 2500 * time.Millisecond

// Take makes a snapshot of inputs that a command has read. before saw them, or at
// least those that are edited, before the command started, and has settled; started is
// when. An input that before hasn't seen must not have changed for a while before
// that. Content that earlier knows isn't read again; earlier may be nil.
// ErrUnsettled is no failure: there is just nothing to be remembered.
func Take(ctx context.Context, inputs []Input, before *View, started time.Time, earlier *Snapshot) (*Snapshot, error) {
	inputs = unique(inputs)
	known := map[string]*state{}
	if earlier != nil {
		known = earlier.byKey()
	}
	now := NewView()
	s := &Snapshot{states: make([]state, len(inputs))}
	var unsettled, recents atomic.Bool
	err := each(ctx, len(inputs), func(i int) {
		if unsettled.Load() {
			return
		}
		st, ok := take(inputs[i], now, before, started, known[inputs[i].key()])
		if !ok {
			unsettled.Store(true)
			return
		}
		s.states[i] = st
		if slices.ContainsFunc(st.Entries, func(e Entry) bool { return e.Recent }) {
			recents.Store(true)
		}
	})
	if err != nil {
		return nil, err
	}
	if unsettled.Load() {
		return nil, ErrUnsettled
	}
	s.settle = recents.Load()
	return s, nil
}

func take(in Input, now, before *View, started time.Time, earlier *state) (state, bool) {
	if in.Sealed {
		// What a tool unpacks and leaves alone needn't be older than the command,
		// which may have had it unpacked; only old enough for its times to tell.
		seen, newest, ok := before.signature(in)
		if earlier != nil && earlier.Sealed && seen == earlier.Signature {
			return *earlier, ok // the usual case
		}
		if ok && now.settled(newest) {
			return state{Input: in, Signature: seen}, true
		}
		in.Sealed = false
	}
	entries, missing, err := now.entries(in)
	if err != nil {
		return state{}, false
	}
	old, oldMissing, seen := before.seen(in)
	if seen && (oldMissing != missing || len(old) != len(entries)) {
		return state{}, false
	}
	for i := range entries {
		e := &entries[i]
		if seen && !e.unchanged(old[i]) {
			return state{}, false
		}
		if e.Kind != File {
			continue
		}
		if !seen && !e.touched().Before(started.Add(-recent)) {
			return state{}, false
		}
		e.Recent = !now.settled(e.changed())
		if was, ok := earlier.entry(e.Name); ok && !e.Recent && !was.Recent && was.Stat == e.Stat && was.Link == e.Link {
			e.Sum, e.Shape = was.Sum, was.Shape
			continue
		}
		if e.Sum, e.Shape, err = now.content(in, *e); err != nil {
			return state{}, false
		}
	}
	return state{Input: in, Missing: missing, Entries: entries}, true
}

// unchanged reports whether an entry is what it was a moment ago.
func (e Entry) unchanged(old Entry) bool {
	return e.Name == old.Name && e.Kind == old.Kind && e.Link == old.Link && (e.Kind != File || e.Stat == old.Stat)
}

// Renew is Take for a snapshot that Compare found to be Renewed in view: it is the
// same content, with stats that say so from now on.
func (s *Snapshot) Renew(ctx context.Context, view *View) (*Snapshot, error) {
	renewed, err := s.Retake(ctx, view)
	if err != nil {
		return nil, err
	}
	byKey := s.byKey()
	for _, st := range renewed.states {
		was := byKey[st.key()]
		for _, e := range st.Entries {
			if old, ok := was.entry(e.Name); e.Kind == File && (!ok || old.Sum != e.Sum) {
				return nil, ErrUnsettled
			}
		}
	}
	return renewed, nil
}

// Retake is Renew after Content, for a command whose result depends on which files there
// are, and not on what is in them.
func (s *Snapshot) Retake(ctx context.Context, view *View) (*Snapshot, error) {
	taken, err := Take(ctx, s.Inputs(), view, view.begin, s)
	if err != nil {
		return nil, err
	}
	if !taken.SealedAs(s) {
		return nil, ErrUnsettled
	}
	return taken, nil
}

func (s *Snapshot) byKey() map[string]*state {
	states := map[string]*state{}
	for i := range s.states {
		states[s.states[i].key()] = &s.states[i]
	}
	return states
}

// SealedAs reports whether the sealed directories are as they were in another snapshot
// of the same inputs. Compare needn't have looked at them.
func (s *Snapshot) SealedAs(other *Snapshot) bool {
	states := other.byKey()
	return !slices.ContainsFunc(s.states, func(st state) bool {
		was := states[st.key()]
		return was == nil || st.Signature != was.Signature
	})
}

func (s *state) entry(name string) (Entry, bool) {
	if s == nil {
		return Entry{}, false
	}
	i, found := slices.BinarySearchFunc(s.Entries, name, func(e Entry, name string) int { return cmp.Compare(e.Name, name) })
	if !found {
		return Entry{}, false
	}
	return s.Entries[i], true
}

// byName reports whether only some names of the directory count, whatever else is in it.
func (in Input) byName() bool { return in.Filter == Named || in.Filter == Data }

// key tells inputs apart. A sealed directory that had to be read in full has the key
// of one that isn't sealed.
func (in Input) key() string {
	return in.Dir + "\x00" + string(in.Filter) + "\x00" + strings.Join(in.Names, "\x00")
}

// unique sorts inputs and drops those that are there twice.
func unique(inputs []Input) []Input {
	list := make([]Input, 0, len(inputs))
	seen := map[string]bool{}
	for _, in := range inputs {
		in.Dir = filepath.Clean(in.Dir)
		in.Names = slices.Compact(slices.Sorted(slices.Values(in.Names)))
		if !seen[in.key()] {
			seen[in.key()] = true
			list = append(list, in)
		}
	}
	slices.SortFunc(list, func(a, b Input) int { return cmp.Compare(a.key(), b.key()) })
	return list
}
