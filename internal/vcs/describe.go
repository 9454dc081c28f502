package vcs

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"
)

// Description says where HEAD is, seen from the nearest tag.
type Description struct {
	Tag      string
	Distance int    // commits at HEAD that the tag doesn't have; 0: the tag is on HEAD
	Commit   string // HEAD, in full
}

// String is the description as `git describe --tags --abbrev=7` prints it: the
// tag, or tag-distance-gcommit.
func (d Description) String() string {
	if d.Distance == 0 {
		return d.Tag
	}
	return fmt.Sprintf("%s-%d-g%s", d.Tag, d.Distance, short(d.Commit))
}

// maxCandidates is how many tags are weighed against one another, as in git.
const maxCandidates = 10

// Describe finds the nearest tag of those that match accepts (all of them if it
// is nil), and how far HEAD is from it. It chooses as git describe --tags does:
// of tags on one commit an annotated one, then the newest annotated one, then
// the first by name. In a shallow clone it knows what the clone knows. Without
// a tag the error wraps [ErrNoTag].
func (r *Repository) Describe(ctx context.Context, match func(tag string) bool) (Description, error) {
	db := r.objects()
	defer db.close()
	c, head, err := r.head(db)
	if err != nil {
		return Description{}, err
	}
	tags, err := r.tags(ctx, db)
	if err != nil {
		return Description{}, err
	}
	if match != nil {
		tags = slices.DeleteFunc(tags, func(t tag) bool { return !match(t.name) })
	}
	names, err := tagOf(db, tags)
	if err != nil {
		return Description{}, err
	}
	id := mustParse(r.format, c.Hash)
	if t, ok := names[id]; ok {
		return Description{Tag: t.name, Commit: c.Hash}, nil
	}
	if len(names) == 0 {
		return Description{}, ErrNoTag
	}
	best, distance, err := nearest(ctx, db, names, id, head)
	if err != nil {
		return Description{}, err
	}
	return Description{Tag: best.name, Distance: distance, Commit: c.Hash}, nil
}

// mustParse reads an ID that was written by objectID.String.
func mustParse(format hashFormat, hash string) objectID {
	id, _ := format.parse(hash)
	return id
}

// tagOf chooses the one tag that a commit is called by.
func tagOf(db *objects, tags []tag) (map[objectID]tag, error) {
	names := make(map[objectID]tag, len(tags))
	for _, t := range tags {
		held, taken := names[t.commit]
		switch {
		case !taken, t.annotated && !held.annotated:
			names[t.commit] = t
		case t.annotated && held.annotated:
			newer, err := db.newerTag(t, held)
			if err != nil {
				return nil, err
			}
			if newer {
				names[t.commit] = t
			}
		}
	}
	return names, nil
}

// newerTag reports whether an annotated tag was made after another.
func (o *objects) newerTag(a, b tag) (bool, error) {
	var times [2]int64
	for i, t := range []tag{a, b} {
		_, data, err := o.read(t.object)
		if err != nil {
			return false, fmt.Errorf("read tag %s: %w", t.name, err)
		}
		if _, times[i], err = parseTag(o.format, data); err != nil {
			return false, fmt.Errorf("read tag %s: %w", t.name, err)
		}
	}
	return times[0] > times[1], nil
}

// step is a commit on the walk through history.
type step struct {
	commit
	id    objectID
	order int    // that it was found in
	from  uint32 // bits of the candidates that have it in their history
}

// walk is a queue of commits, the latest first, then in the order of finding.
type walk []*step

func (w walk) Len() int { return len(w) }
func (w walk) Less(i, j int) bool {
	if w[i].time != w[j].time {
		return w[i].time > w[j].time
	}
	return w[i].order < w[j].order
}
func (w walk) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *walk) Push(s any)   { *w = append(*w, s.(*step)) }
func (w *walk) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

// candidate is a tag that HEAD may be described by.
type candidate struct {
	tag   tag
	depth int
	bit   uint32
}

// nearest walks back from HEAD to the tag that the fewest commits separate it
// from. It takes the same steps as git (builtin/describe.c), which stops early
// and may on odd histories miss the very nearest: the answers must agree.
func nearest(ctx context.Context, db *objects, names map[objectID]tag, id objectID, head commit) (tag, int, error) {
	var (
		start      = &step{commit: head, id: id}
		known      = map[objectID]*step{id: start}
		queue      = walk{start}
		candidates []*candidate
		annotated  bool
		seen       int
		leftOver   *step // a tag that came when there were candidates enough
	)
	enqueue := func(s *step) error {
		for _, parent := range s.parents {
			p, ok := known[parent]
			if !ok {
				c, err := db.commit(parent)
				if err != nil {
					return fmt.Errorf("read history: %w", err)
				}
				p = &step{commit: c, id: parent, order: len(known)}
				known[parent] = p
				heap.Push(&queue, p)
			}
			p.from |= s.from
		}
		return nil
	}
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return tag{}, 0, err
		}
		s := heap.Pop(&queue).(*step)
		seen++
		if t, ok := names[s.id]; ok {
			if len(candidates) == maxCandidates {
				leftOver = s
				break
			}
			c := &candidate{tag: t, depth: seen - 1, bit: 1 << len(candidates)}
			candidates = append(candidates, c)
			s.from |= c.bit
			annotated = annotated || t.annotated
		}
		for _, c := range candidates {
			if s.from&c.bit == 0 {
				c.depth++
			}
		}
		if annotated && len(queue) == 0 && s.from&bestBits(candidates) == bestBits(candidates) {
			break
		}
		if err := enqueue(s); err != nil {
			return tag{}, 0, err
		}
	}
	if len(candidates) == 0 {
		return tag{}, 0, ErrNoTag
	}
	slices.SortStableFunc(candidates, func(a, b *candidate) int { return cmp.Compare(a.depth, b.depth) })
	best := candidates[0]
	if leftOver != nil {
		heap.Push(&queue, leftOver)
	}
	// The rest of the history that the tag doesn't have still counts.
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return tag{}, 0, err
		}
		s := heap.Pop(&queue).(*step)
		if s.from&best.bit == 0 {
			best.depth++
		} else if !slices.ContainsFunc(queue, func(s *step) bool { return s.from&best.bit == 0 }) {
			break
		}
		if err := enqueue(s); err != nil {
			return tag{}, 0, err
		}
	}
	return best.tag, best.depth, nil
}

// bestBits are the bits of the candidates that are nearest so far.
func bestBits(candidates []*candidate) uint32 {
	least, bits := math.MaxInt, uint32(0)
	for _, c := range candidates {
		switch {
		case c.depth < least:
			least, bits = c.depth, c.bit
		case c.depth == least:
			bits |= c.bit
		}
	}
	return bits
}
