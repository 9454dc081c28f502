package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// Retag is the tags of one repository that are to name a manifest or index whose
// parts are all there: what commands end with that send no blobs of their own. A
// tag costs two requests: what it names is read, so that it can be put back, and
// it is moved.
type Retag struct {
	Repo   Repository
	Target ocispec.Descriptor
	Data   []byte // of Target
	Moves  []Move // latest last
	// Expect says what tags named when they were read; empty if they weren't there.
	// Such a tag is guarded: if anybody else moves it meanwhile, that is an error of
	// type *Changed. See [MoveAll].
	Expect map[string]digest.Digest

	old map[string]document
}

// document is a manifest as a tag named it.
type document struct {
	d    ocispec.Descriptor
	data []byte
}

// manifestReader reads what a tag names in one request.
type manifestReader interface {
	Manifest(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, []byte, error)
}

// confirmer tells whether the registry has confirmed what it has stored.
type confirmer interface {
	PutManifest(ctx context.Context, tagOrDigest string, d ocispec.Descriptor, data []byte) (bool, error)
}

// Read reads what a tag or digest names in one request where src can do that.
// Absent wraps store.ErrNotFound.
func Read(ctx context.Context, repo Repository, tagOrDigest string) (ocispec.Descriptor, []byte, error) {
	if m, ok := repo.(manifestReader); ok {
		return m.Manifest(ctx, tagOrDigest)
	}
	d, err := repo.Resolve(ctx, tagOrDigest)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	r, err := repo.Fetch(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, store.MaxManifestSize))
	return d, data, err
}

// PlanRetag reads what tags name now and decides, by policy, whether latest moves.
// It writes nothing.
func PlanRetag(ctx context.Context, repo Repository, tags []string, target ocispec.Descriptor, data []byte, policy LatestPolicy) (*Retag, error) {
	r := &Retag{Repo: repo, Target: target, Data: data, old: map[string]document{}}
	versions := &Session{repo: repo}
	var last *Move
	for _, tag := range tags {
		if slices.ContainsFunc(r.Moves, func(m Move) bool { return m.Tag == tag }) || last != nil && tag == latest {
			continue
		}
		m := Move{Tag: tag, New: target.Digest}
		d, old, err := Read(ctx, repo, tag)
		switch {
		case err == nil:
			m.Old, m.was = d.Digest, d
			r.old[tag] = document{d, old}
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		}
		if tag == latest {
			last = &m
			continue
		}
		r.Moves = append(r.Moves, m)
	}
	if last == nil {
		return r, nil
	}
	if !last.Unchanged() {
		if err := versions.applyPolicy(ctx, last, newestOf(r.Moves), policy); err != nil {
			return nil, err
		}
	}
	r.Moves = append(r.Moves, *last)
	return r, nil
}

// Old is what a tag named before, and its bytes; nil if it wasn't there.
func (r *Retag) Old(tag string) (ocispec.Descriptor, []byte) {
	old := r.old[tag]
	return old.d, old.data
}

// Changed says that a tag was moved by somebody else since it was read.
type Changed struct {
	Repository, Tag string
	Was             digest.Digest // when it was read, empty if it wasn't there
	Now             digest.Digest // empty if it isn't there any more
	// Race says that another one was under way at the same time. Nothing is lost
	// unless Replaced is set: then Other is the index that it was about to put there
	// and that may have been replaced.
	Race, Replaced bool
	Other          ocispec.Descriptor
}

// Error says which tag.
func (c *Changed) Error() string {
	return fmt.Sprintf("%s:%s was moved by somebody else", c.Repository, c.Tag)
}

// Unwrap gives the refusal, with code PA422.
func (c *Changed) Unwrap() error {
	name := func(d digest.Digest) string {
		if d == "" {
			return "nothing"
		}
		return d.String()
	}
	e := &refusal.Error{
		Code: "PA422", Place: c.Repository + ":" + c.Tag, Summary: "somebody else has moved the tag since it was read",
		Seen: []string{"it named " + name(c.Was) + " and names " + name(c.Now) + " now"},
		Fix:  []string{"run the same command again", "--retry, which reads it again and adds what is there by then"},
	}
	if c.Race {
		e.Summary = "somebody else was moving the tag at the same time"
		e.Seen = nil
		if c.Replaced {
			e.Seen = []string{"somebody else was about to let it name " + name(c.Other.Digest) + ", which may have been replaced"}
		}
	}
	return e
}

// MoveAll moves the tags of all repositories: versions first, latest last. If one
// can't be moved, or ctx ends, those that were moved are put back; what can't be
// put back is said in the error.
//
// A tag in Expect is moved as guard.go says: a merge that overlaps with another one
// fails, or sees what the other has made.
func MoveAll(ctx context.Context, event progress.Sink, all ...*Retag) error {
	type step struct {
		r *Retag
		m Move
	}
	var work, done []step
	for _, wantLatest := range []bool{false, true} {
		for _, r := range all {
			for _, m := range r.Moves {
				if !m.Kept && (m.Tag == latest) == wantLatest {
					work = append(work, step{r, m})
				}
			}
		}
	}
	var failure error
	for _, w := range work {
		if failure = context.Cause(ctx); failure != nil {
			break
		}
		_, guarded := w.r.Expect[w.m.Tag]
		if w.m.Unchanged() && !guarded {
			continue
		}
		name := w.r.Repo.Name() + ":" + w.m.Tag
		end := event.Start("", "", progress.Tag, w.m.Tag)
		moved := true
		if guarded {
			moved, failure = w.r.moveGuarded(ctx, w.m)
		} else {
			failure = w.r.move(ctx, w.m)
		}
		if moved {
			done = append(done, w) // also where the answer was lost
		}
		if failure != nil {
			end(progress.Failed, w.m.Tag)
			break
		}
		end(progress.Done, name)
	}
	if failure == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var left []string
	for _, w := range slices.Backward(done) {
		old := w.r.old[w.m.Tag]
		w.m.was = old.d
		if err := (&Session{repo: w.r.Repo}).putBack(undo, w.m, old.data); err != nil {
			left = append(left, fmt.Sprintf("%s:%s names the new image and could not be put back: %v", w.r.Repo.Name(), w.m.Tag, err))
		}
	}
	if len(left) > 0 {
		return errors.Join(failure, &refusal.Error{
			Code: "PA413", Place: done[0].r.Repo.Name(), Summary: "a tag moved although publishing failed", Seen: left,
			Fix: []string{"run the same command again"},
		})
	}
	return failure
}

// move puts the target under a tag. Where the registry doesn't confirm the digest
// it is read back.
func (r *Retag) move(ctx context.Context, m Move) error {
	if c, ok := r.Repo.(confirmer); ok {
		if confirmed, err := c.PutManifest(ctx, m.Tag, r.Target, r.Data); err != nil || confirmed {
			return err
		}
	} else if err := r.Repo.PushManifest(ctx, m.Tag, r.Target, r.Data); err != nil {
		return err
	}
	return r.check(ctx, m.Tag)
}

// check reads a tag back.
func (r *Retag) check(ctx context.Context, tag string) error {
	d, data, err := Read(ctx, r.Repo, tag)
	if errors.Is(err, store.ErrNotFound) {
		d, err = ocispec.Descriptor{}, nil
	}
	if err != nil {
		return err
	}
	if d.Digest != r.Target.Digest {
		return &Changed{Repository: r.Repo.Name(), Tag: tag, Was: r.Target.Digest, Now: d.Digest}
	}
	if !bytes.Equal(data, r.Data) {
		return &refusal.Error{Code: "PA412", Place: r.Repo.Name() + ":" + tag, Summary: "the registry gave back something else than was pushed"}
	}
	return nil
}

// Expected is what the tags of a plan named when they were read, to be guarded.
func (r *Retag) Expected() map[string]digest.Digest {
	expect := map[string]digest.Digest{}
	for _, m := range r.Moves {
		expect[m.Tag] = m.Old
	}
	return maps.Clone(expect)
}
