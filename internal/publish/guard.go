package publish

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/store"
)

// Registries have no compare-and-swap, so that of two merges which read a tag, add
// to it and write it back, one could replace what the other has just written.
// Guarded tags exclude each other by markers, which are tags too; all it takes is
// that reads see the last write.
//
// Where tags can be removed, each merge has a marker of its own. It (1) puts the
// marker, (2) lists all markers of the tag, and fails if another one is there, (3)
// reads the tag, which must name what is expected, (4) moves it, and removes the
// marker. Of two merges at least one lists after both have put their markers, so
// at most one comes to step 3 while the other is there. A marker names the second
// of its birth: one that a killed merge has left is in the way for staleMarker.
//
// Where tags can't be removed or listed there is one marker for all merges, which stays and
// names the last index: (1) the index is put under the marker, (2) the tag is read,
// (3) moved, and (4) marker and tag are read again. Of two merges that overlap the
// one that has put its index under the marker first finds the other's there: it
// fails, says that it may have replaced the other's index, and which one that is.

// MarkerSuffix follows the tag in the names of its markers.
const MarkerSuffix = "--anyarch-merge"

const (
	staleMarker = 10 * time.Minute
	// slowestMove is how old the own marker may be when the tag is moved: well below
	// staleMarker, so that clocks may differ.
	slowestMove = 5 * time.Minute
)

// markerOf is the beginning of the markers of a tag.
func markerOf(tag string) string {
	if len(tag)+len(MarkerSuffix)+32 > 128 { // distribution-spec v1.1.1, length of tags
		tag = digest.FromString(tag).Encoded()[:16]
	}
	return tag + MarkerSuffix
}

// moveGuarded moves a tag unless somebody else does. moved says whether the tag
// may name the target now and should be put back if the whole fails.
func (r *Retag) moveGuarded(ctx context.Context, m Move) (moved bool, err error) {
	marker := markerOf(m.Tag)
	if err := r.Repo.DeleteTag(ctx, marker+"-probe"); err != nil && !errors.Is(err, store.ErrNotFound) {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return r.moveMarked(ctx, m, marker)
	}
	return r.moveAlone(ctx, m, marker)
}

// moveAlone moves a tag while no other merge is there.
func (r *Retag) moveAlone(ctx context.Context, m Move, prefix string) (moved bool, err error) {
	nonce := make([]byte, 8)
	if _, err := rand.Read(nonce); err != nil {
		return false, err
	}
	born := time.Now()
	own := fmt.Sprintf("%s-%x-%s", prefix, born.Unix(), hex.EncodeToString(nonce))
	if err := r.Repo.PushManifest(ctx, own, r.Target, r.Data); err != nil {
		return false, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		_ = r.Repo.DeleteTag(clean, own) // if not, it is stale in a while
	}()
	tags, err := r.Repo.Tags(ctx)
	if err != nil && ctx.Err() == nil {
		return r.moveMarked(ctx, m, prefix) // not everybody may list tags
	}
	if err != nil {
		return false, err
	}
	for _, tag := range tags {
		if rest, ok := strings.CutPrefix(tag, prefix+"-"); ok && tag != own && lives(rest, born) {
			return false, &Changed{Repository: r.Repo.Name(), Tag: m.Tag, Race: true}
		}
	}
	if done, err := r.expected(ctx, m); done || err != nil {
		return done, err
	}
	if time.Since(born) > slowestMove {
		return false, &Changed{Repository: r.Repo.Name(), Tag: m.Tag, Race: true}
	}
	if err := r.move(ctx, m); err != nil {
		return true, err
	}
	return r.settled(ctx, m)
}

// lives reports whether a marker is young enough to be that of a running merge.
func lives(rest string, now time.Time) bool {
	seconds, _, _ := strings.Cut(rest, "-")
	born, err := strconv.ParseInt(seconds, 16, 64)
	return err == nil && now.Sub(time.Unix(born, 0)).Abs() < staleMarker
}

// moveMarked moves a tag and finds out afterwards whether another merge was there.
func (r *Retag) moveMarked(ctx context.Context, m Move, marker string) (moved bool, err error) {
	if err := r.Repo.PushManifest(ctx, marker, r.Target, r.Data); err != nil {
		return false, err
	}
	if done, err := r.expected(ctx, m); done || err != nil {
		return done, err
	}
	if err := r.move(ctx, m); err != nil {
		return true, err
	}
	other, _, err := Read(ctx, r.Repo, marker)
	if err != nil {
		return true, err
	}
	if other.Digest != r.Target.Digest {
		return false, &Changed{Repository: r.Repo.Name(), Tag: m.Tag, Race: true, Replaced: true, Other: other}
	}
	return r.settled(ctx, m)
}

// expected reads a tag. done says that it names the target already.
func (r *Retag) expected(ctx context.Context, m Move) (done bool, err error) {
	now, data, err := Read(ctx, r.Repo, m.Tag)
	switch {
	case errors.Is(err, store.ErrNotFound):
		now = ocispec.Descriptor{}
	case err != nil:
		return false, err
	}
	switch now.Digest {
	case r.Target.Digest:
		return true, nil
	case r.Expect[m.Tag]:
		if r.old == nil {
			r.old = map[string]document{}
		}
		r.old[m.Tag] = document{now, data}
		return false, nil
	}
	return false, &Changed{Repository: r.Repo.Name(), Tag: m.Tag, Was: r.Expect[m.Tag], Now: now.Digest}
}

// settled reads a tag back: those who don't know of markers may have moved it.
func (r *Retag) settled(ctx context.Context, m Move) (moved bool, err error) {
	err = r.check(ctx, m.Tag)
	var changed *Changed
	return !errors.As(err, &changed), err
}
