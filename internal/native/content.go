package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/native/opcache"
)

// An operation has two keys. The first, in cached.go, says how its inputs are made, and
// is known before anything is executed. The second says what its inputs are like, once
// they are there: a COPY from a stage that was made in another way, but of which the
// copied files are the same, changes nothing for what comes after it. BuildKit does the
// same with checksums of the files that are copied or mounted; here a COPY counts for
// what it did to the tree, which leaves even less to chance.

// identity is what can be seen of a state, as a hash; empty if that can't be said. It is
// worked out when somebody asks.
type identity struct {
	once sync.Once
	make func(ctx context.Context) (string, error)
	is   string
}

func identify(make func(ctx context.Context) (string, error)) *identity { return &identity{make: make} }

func (i *identity) get(ctx context.Context) string {
	if i == nil {
		return ""
	}
	i.once.Do(func() {
		if is, err := i.make(ctx); err == nil { // what can't be read makes its reader fail
			i.is = is
		}
	})
	return i.is
}

// joined is a hash of parts; empty if one of them is.
func joined(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		if p == "" {
			return ""
		}
		_, _ = fmt.Fprintf(h, "%q\n", p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// identityOf says how the output of an operation, which has just been made of inputs, is
// identified.
func (b *Build) identityOf(g *dockerfile.Graph, op *dockerfile.Op, inputs []*state, out *state, output int, bound bool) *identity {
	times := b.sees() == byTime
	switch {
	case op.Source != nil && op.Source.Image != "":
		p := ""
		if out.bound || out.loads != nil || b.pinned(g, op) {
			if p = g.Platform.String(); op.Platform != nil {
				p = op.Platform.String()
			}
		}
		if !strings.Contains(op.Source.Image, "@") {
			return nil // another image may have the name tomorrow
		}
		return identify(func(context.Context) (string, error) {
			return fmt.Sprintf("image %s %q %q", op.Self, op.Source.Image, p), nil
		})
	case op.Source != nil:
		return identify(func(ctx context.Context) (string, error) { return b.treeDigest(ctx, out.tree, "/", times) })
	case op.Exec != nil:
		root := rootState(op, inputs)
		did := b.results.did(out)
		return identify(func(ctx context.Context) (string, error) {
			if root != nil && did != "" {
				return joined("did", root.identity.get(ctx), did), nil
			}
			asked, err := json.Marshal(out.own)
			return joined("made", b.alike(ctx, g, op, inputs, bound), string(asked), fmt.Sprint(output)), err
		})
	case op.Merge:
		return identify(func(ctx context.Context) (string, error) {
			parts := []string{"merge"}
			for i, in := range inputs {
				if i == 0 {
					parts = append(parts, in.identity.get(ctx))
					continue
				}
				d, err := b.treeDigest(ctx, in.tree, "/", times)
				if err != nil {
					return "", err
				}
				parts = append(parts, d)
			}
			return joined(parts...), nil
		})
	}
	at := baseInput(op.File, output, len(inputs))
	return identify(func(ctx context.Context) (string, error) {
		if at < 0 {
			return b.treeDigest(ctx, out.tree, "/", times)
		}
		d, exact, err := filetree.DeltaOf(inputs[at].tree, out.tree)
		if err != nil || !exact {
			return "", err
		}
		did, err := b.deltaDigest(ctx, d, times)
		return joined("files", inputs[at].identity.get(ctx), did), err
	})
}

// alike is the key of an operation by what its inputs are like; empty if that can't be
// said.
func (b *Build) alike(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs []*state, bound bool) string {
	sees := b.sees()
	options, err := json.Marshal([]any{
		"alike", cacheCompat, layer.Compat, b.o.Version, b.o.BuildPlatform.String(), b.o.Runner.Name(), b.o.GoVersion, b.o.OverrideArch, b.o.Offline, sees,
	})
	if err != nil {
		return ""
	}
	p := "any"
	if root := rootState(op, inputs); op.Platform != nil && root != nil && root.stage != nil && root.stage.pinned {
		p = op.Platform.String()
	}
	if bound {
		p += " " + g.Platform.String()
	}
	now := "any"
	switch sees {
	case byDay:
		now = fmt.Sprint(b.now().Unix() / 86400)
	case byTime:
		now = fmt.Sprint(b.now().UnixNano())
	}
	parts := []string{string(options), op.Self, fmt.Sprint(b.isHosted(op), b.final[op]), p, now}
	for i, in := range inputs {
		parts = append(parts, b.inputIdentity(ctx, op, i, in, sees == byTime))
	}
	return joined(parts...)
}

// inputIdentity is what a RUN sees of one of its inputs: of a mount, the directory that
// is mounted.
func (b *Build) inputIdentity(ctx context.Context, op *dockerfile.Op, i int, in *state, times bool) string {
	e := op.Inputs[i]
	if e.Op == nil || e.Op.Source != nil && e.Op.Source.Image != "" || in.tree.Lazy() {
		return in.identity.get(ctx)
	}
	var selected []string
	for _, m := range op.Exec.Mounts {
		if m.Input != i {
			continue
		}
		if m.Target == "/" || m.Output >= 0 || path.Join("/", m.Selector) == "/" {
			return in.identity.get(ctx)
		}
		selected = append(selected, path.Join("/", m.Selector))
	}
	parts := []string{"mounted"}
	for _, name := range selected {
		at, err := in.tree.Resolve(name, true)
		if err != nil {
			return in.identity.get(ctx)
		}
		d, err := b.treeDigest(ctx, in.tree, at, times)
		if err != nil {
			return ""
		}
		parts = append(parts, name, d)
	}
	return joined(parts...)
}

// treeDigest is a hash of everything that can be seen of a part of a tree; of the times
// only if they count.
func (b *Build) treeDigest(ctx context.Context, t *filetree.Tree, at string, times bool) (string, error) {
	var s summer
	s.begin(ctx, b)
	err := t.Walk(at, func(name string, a filetree.Attr) error {
		s.add(name == at, times, name, a, "")
		return nil
	})
	return s.end(err)
}

// deltaDigest is a hash of what was done to a tree.
func (b *Build) deltaDigest(ctx context.Context, d filetree.Delta, times bool) (string, error) {
	var s summer
	s.begin(ctx, b)
	for _, f := range d.Files {
		s.add(false, times, f.Path, f.Attr, fmt.Sprintf(" %v %q %v %v %q", f.Removed, f.LinkTo, f.Incomplete, f.Assumed, f.Unread))
	}
	sum, err := s.end(nil)
	return joined(sum, fmt.Sprintf("%v %q", d.Forced, d.Gone)), err
}

// summer hashes files, their contents side by side.
type summer struct {
	b     *Build
	ctx   context.Context
	group *errgroup.Group
	heads []string
	sums  []*string
}

func (s *summer) begin(ctx context.Context, b *Build) {
	s.b = b
	s.group, s.ctx = errgroup.WithContext(ctx)
	s.group.SetLimit(4)
}

func (s *summer) add(root, times bool, name string, a filetree.Attr, more string) {
	head := fmt.Sprintf("%q %o %d %d %q %d %d %d", name, a.Mode, a.UID, a.GID, a.Link, a.DevMajor, a.DevMinor, a.Size())
	for _, k := range slices.Sorted(maps.Keys(a.Xattrs)) {
		head += fmt.Sprintf(" %q=%q", k, a.Xattrs[k])
	}
	if times && !root {
		head += fmt.Sprintf(" %d", a.ModTime.UnixNano())
	}
	sum := new(string)
	s.heads, s.sums = append(s.heads, head+more), append(s.sums, sum)
	if a.Size() == 0 || a.Content == nil {
		return
	}
	s.group.Go(func() (err error) {
		if err := s.ctx.Err(); err != nil {
			return context.Cause(s.ctx)
		}
		*sum, err = s.b.contentSum(a)
		return err
	})
}

func (s *summer) end(err error) (string, error) {
	if gerr := s.group.Wait(); err == nil {
		err = gerr
	}
	h := sha256.New()
	for i := range s.heads {
		_, _ = fmt.Fprintf(h, "%s %s\n", s.heads[i], *s.sums[i])
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// contentSum hashes a file, once for all the trees that have it.
func (b *Build) contentSum(a filetree.Attr) (string, error) {
	known := a.Content != nil && reflect.ValueOf(a.Content).Kind() == reflect.Pointer
	if known {
		if sum, ok := b.sums.Load(a.Content); ok {
			return sum.(string), nil
		}
	}
	in, err := a.Open()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, in)
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if err == nil && known {
		b.sums.Store(a.Content, sum)
	}
	return sum, err
}

// restoreAlike gives what a RUN did in an earlier run on inputs that were like these,
// however those were made; ok is false if that isn't known.
func (b *Build) restoreAlike(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs []*state, hosted, bound bool) (outputs []*state, ok bool, err error) {
	if op.Exec == nil || op.IgnoreCache || b.o.NoCache || b.o.Memo == nil || b.o.Version == "" || b.results.live[op] {
		return nil, false, nil
	}
	root := rootState(op, inputs)
	if root == nil {
		return nil, false, nil
	}
	for _, bound := range slices.Compact([]bool{bound, true}) {
		key := b.alike(ctx, g, op, inputs, bound)
		if key == "" {
			continue
		}
		at, rec := b.record("alike " + key)
		if rec == nil || !rec.Usable(b.o.Store) || !b.current(ctx, rec.Own) {
			continue
		}
		rec.Sources = union(rec.Own, sourcesOf(inputs, nil))
		s, err := b.restored(ctx, g, op, root, at, rec)
		if err != nil || s == nil {
			return nil, false, err
		}
		if err := b.note(s, rec); err != nil {
			return nil, false, err
		}
		outputs := []*state{s}
		b.name(ctx, g, op, inputs, outputs, hosted)
		return outputs, true, nil
	}
	return nil, false, nil
}

// record finds a record by the key of an operation.
func (b *Build) record(key string) (at string, rec *opcache.Record) {
	name, found := b.o.Memo.Get(key)
	if !found {
		return "", nil
	}
	data, found := b.o.Memo.Get("record " + string(name))
	if !found {
		return "", nil
	}
	return string(name), opcache.Decode(data)
}
