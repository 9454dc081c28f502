package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// LatestPolicy says when the tag latest moves along with a version.
type LatestPolicy string

// The policies for latest.
const (
	LatestNewest LatestPolicy = "newest" // only with the newest stable semantic version
	LatestAlways LatestPolicy = "always"
	LatestNever  LatestPolicy = "never"
)

// latest is the one tag that a policy applies to.
const latest = "latest"

// Move is what becomes of one tag.
type Move struct {
	Tag    string        `json:"tag"`
	Old    digest.Digest `json:"old,omitempty"` // what it named before, empty if it is new
	New    digest.Digest `json:"new"`
	Kept   bool          `json:"kept,omitempty"`   // left where it was
	Reason string        `json:"reason,omitempty"` // why it was left
	was    ocispec.Descriptor
	// OldVersion is the version tag that named the same image as Old, if that
	// is known.
	OldVersion string `json:"oldVersion,omitempty"`
}

// Unchanged reports whether the tag names the right index already.
func (m Move) Unchanged() bool { return !m.Kept && m.Old == m.New }

// version reads a tag as a full semantic version, with or without a leading v.
func version(tag string) *semver.Version {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
	if err != nil {
		return nil
	}
	return v
}

// newestOf is the newest version among the tags of moves; nil if there is none.
func newestOf(moves []Move) *semver.Version {
	var newest *semver.Version
	for _, m := range moves {
		if v := version(m.Tag); v != nil && (newest == nil || v.GreaterThan(newest)) {
			newest = v
		}
	}
	return newest
}

// IsVersion reports whether a tag is a full semantic version.
func IsVersion(tag string) bool { return version(tag) != nil }

// PlanTags asks what tags name now and decides, by policy, whether latest
// moves. It writes nothing. The order is that in which tags are to be moved:
// latest last.
func (s *Session) PlanTags(ctx context.Context, tags []string, index ocispec.Descriptor, policy LatestPolicy) ([]Move, error) {
	var (
		moves  []Move
		last   *Move
		newest *semver.Version
	)
	for _, tag := range tags {
		m := Move{Tag: tag, New: index.Digest}
		was, err := s.repo.Resolve(ctx, tag)
		switch {
		case err == nil:
			m.Old, m.was = was.Digest, was
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		}
		if v := version(tag); v != nil && (newest == nil || v.GreaterThan(newest)) {
			newest = v
		}
		if tag == latest {
			last = &m
			continue
		}
		moves = append(moves, m)
	}
	if last == nil {
		return moves, nil
	}
	if !last.Unchanged() {
		if err := s.applyPolicy(ctx, last, newest, policy); err != nil {
			return nil, err
		}
	}
	return append(moves, *last), nil
}

// applyPolicy decides whether latest moves to a version, nil if there is none.
func (s *Session) applyPolicy(ctx context.Context, m *Move, v *semver.Version, policy LatestPolicy) error {
	switch {
	case policy == LatestAlways:
		return nil
	case policy == LatestNever:
		m.Kept, m.Reason = true, "--latest never"
		return nil
	case v == nil:
		return nil // latest on its own, or beside names that have no order
	case v.Prerelease() != "":
		m.Kept, m.Reason = true, v.Original()+" is a pre-release"
		return nil
	case m.Old == "":
		// Even a new latest must not be born older than what is there.
	}
	tags, err := s.repo.Tags(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var newer *semver.Version
	for _, tag := range tags {
		if other := version(tag); other != nil && other.Prerelease() == "" && other.GreaterThan(v) && (newer == nil || other.GreaterThan(newer)) {
			newer = other
		}
	}
	if newer != nil {
		m.Kept, m.Reason = true, fmt.Sprintf("%s is older than %s", v.Original(), newer.Original())
	}
	return nil
}

// Name of a version that a digest is known by: among tags that sort as
// versions the one that resolves to it. It asks at most a few tags.
func (s *Session) nameOld(ctx context.Context, m *Move) {
	if m.Old == "" || m.Old == m.New || m.Tag != latest {
		return
	}
	tags, err := s.repo.Tags(ctx)
	if err != nil {
		return
	}
	var best []string
	for _, tag := range tags {
		if version(tag) != nil {
			best = append(best, tag)
		}
	}
	// The newest few: latest was most probably one of them.
	sortVersions(best)
	for _, tag := range best[max(0, len(best)-4):] {
		if d, err := s.repo.Resolve(ctx, tag); err == nil && d.Digest == m.Old {
			m.OldVersion = tag
		}
	}
}

func sortVersions(tags []string) {
	slices.SortFunc(tags, func(a, b string) int { return version(a).Compare(version(b)) })
}

// TagPlan is the moves of one session.
type TagPlan struct {
	Session *Session
	Index   ocispec.Descriptor
	Moves   []Move
}

// undoTime is how long putting tags back may take after an interrupt.
const undoTime = 20 * time.Second

// MoveTags moves the tags of all plans: versions first, latest last, over all
// repositories. If one can't be moved, or ctx ends, those that were moved are
// put back; what can't be put back is said in the error. The reported moves
// have OldVersion filled in.
func MoveTags(ctx context.Context, plans []TagPlan) error {
	type moved struct {
		plan TagPlan
		move Move
		old  []byte // manifest that the tag named
	}
	var (
		work []*moved
		done []*moved
	)
	for _, wantLatest := range []bool{false, true} {
		for _, plan := range plans {
			for i := range plan.Moves {
				m := &plan.Moves[i]
				if m.Kept || m.Unchanged() || (m.Tag == latest) != wantLatest {
					continue
				}
				work = append(work, &moved{plan: plan, move: *m})
			}
		}
	}
	for _, w := range work {
		if w.move.Old == "" {
			continue
		}
		for i := range w.plan.Moves {
			if w.plan.Moves[i].Tag == w.move.Tag {
				w.plan.Session.nameOld(ctx, &w.plan.Moves[i])
			}
		}
		old, err := w.plan.Session.readOld(ctx, w.move.was)
		if err != nil {
			return err
		}
		w.old = old
	}
	var failure error
	for _, w := range work {
		if failure = context.Cause(ctx); failure != nil {
			break
		}
		if failure = w.plan.Session.moveTag(ctx, w.move, w.plan.Index); failure != nil {
			// The answer may have been lost after the tag had moved.
			done = append(done, w)
			break
		}
		done = append(done, w)
	}
	if failure == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var left []string
	for i := len(done) - 1; i >= 0; i-- {
		w := done[i]
		if err := w.plan.Session.putBack(undo, w.move, w.old); err != nil {
			left = append(left, fmt.Sprintf("%s:%s names the new index and could not be put back: %v", w.plan.Session.repo.Name(), w.move.Tag, err))
		}
	}
	if len(left) > 0 {
		return errors.Join(failure, &refusal.Error{
			Code: "PA413", Kind: refusal.Failed, Place: done[0].plan.Session.repo.Name(), Summary: "a tag moved although publishing failed", Seen: left,
			Fix: []string{"run the same command again"},
		})
	}
	return failure
}

// readOld reads what a tag names, so that it can be put back.
func (s *Session) readOld(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	r, err := s.repo.Fetch(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read %s@%s before its tag moves: %w", s.repo.Name(), d.Digest, err)
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, store.MaxManifestSize))
}

func (s *Session) moveTag(ctx context.Context, m Move, index ocispec.Descriptor) error {
	data, err := s.store.ReadBlob(index.Digest)
	if err != nil {
		return err
	}
	end := s.event.Start(s.name, "", progress.Tag, m.Tag)
	if err := s.repo.PushManifest(ctx, m.Tag, index, data); err != nil {
		end(progress.Failed, m.Tag)
		return err
	}
	got, err := s.repo.Resolve(ctx, m.Tag)
	if err == nil && got.Digest != index.Digest {
		err = &refusal.Error{
			Code: "PA413", Place: s.repo.Name() + ":" + m.Tag, Summary: "the tag was moved by somebody else while it was published",
			Seen: []string{"it names " + got.Digest.String()}, Fix: []string{"run the same command again"},
		}
	}
	if err != nil {
		end(progress.Failed, m.Tag)
		return err
	}
	end(progress.Done, s.repo.Name()+":"+m.Tag)
	return nil
}

// putBack lets a tag name what it did before.
func (s *Session) putBack(ctx context.Context, m Move, old []byte) error {
	now, err := s.repo.Resolve(ctx, m.Tag)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if m.Old == "" {
			return nil
		}
	case err != nil:
		return err
	case now.Digest != m.New:
		return nil // it never moved, or belongs to somebody else by now
	}
	if m.Old == "" {
		return s.repo.DeleteTag(ctx, m.Tag)
	}
	return s.repo.PushManifest(ctx, m.Tag, m.was, old)
}
