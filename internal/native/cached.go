package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/native/opcache"
	"github.com/anyarch/anyarch/internal/progress"
)

// What instructions did is kept from run to run, as BuildKit does it: under a key of
// everything that they depend on. That is their own text after expansion with its
// environment and mounts, the keys of their inputs, the content of contexts and of
// files that ADD downloads, the digests of bases, the platforms, and the options that
// change results. The content of cache mounts and the values of secrets are not in it,
// nor is the network: curl, git clone and go install of a version are taken over by
// their text, as in Docker. Indexes of packages are: a step that has read one is taken
// over only while its server still has the same one.
//
// Two things are kept. Layers, so that where nothing has changed nothing is executed
// and no base is read. And what each RUN did to its file system, for the steps after
// which something has changed. COPY, ADD and WORKDIR are cheaper made than kept.

// cacheCompat rises when results change that are made of the same.
const cacheCompat = 3

// results is what a build knows about earlier ones.
type results struct {
	once    sync.Once
	err     error
	keys    map[*dockerfile.Op]string // of everything that is kept; empty where nothing can be
	live    map[*dockerfile.Op]bool   // RUNs that are executed if anything is
	below   map[*dockerfile.Op]bool   // operations that are to be executed in any case, and all that come after them
	digests map[string]string         // of contexts, by operation key, as they were read

	mu      sync.Mutex
	records map[*state]kept   // of results
	pending map[string][]byte // what will be remembered if the contexts stay as they were
}

// kept is a record.
type kept struct {
	at  string // where it is
	did string // what it says that was done
}

// clockOf is what counts of the time in a graph: what its most curious RUN sees.
func graphClock(g *dockerfile.Graph) clock {
	sees := timeless
	for _, op := range g.Ops {
		if op.Exec != nil {
			sees = max(sees, clockOf(op.Exec))
		}
	}
	return sees
}

// cacheKeys computes the keys of all operations, once.
func (b *Build) cacheKeys(ctx context.Context) error {
	r := &b.results
	r.once.Do(func() {
		r.keys, r.live, r.below = map[*dockerfile.Op]string{}, map[*dockerfile.Op]bool{}, map[*dockerfile.Op]bool{}
		r.digests, r.records, r.pending = map[string]string{}, map[*state]kept{}, map[string][]byte{}
		if b.o.Memo == nil || b.o.Version == "" {
			return
		}
		for _, g := range b.graphs {
			if r.err = b.graphKeys(ctx, g); r.err != nil {
				return
			}
		}
	})
	return r.err
}

func (b *Build) graphKeys(ctx context.Context, g *dockerfile.Graph) error {
	r := &b.results
	sees := graphClock(g)
	options, err := json.Marshal([]any{
		"native", cacheCompat, layer.Compat, b.o.Version, g.Platform.String(), b.o.BuildPlatform.String(), b.o.Runner.Name(),
		b.o.GoVersion, b.o.OverrideArch, b.o.Offline, sees,
	})
	if err != nil {
		return err
	}
	mounts := map[string]int{}
	offline := b.o.Offline
	for _, op := range g.Ops {
		if op.Exec == nil {
			continue
		}
		for _, m := range op.Exec.Mounts {
			if m.Kind == dockerfile.MountCache && !isGoCache(m.Target) {
				mounts[m.ID]++
			}
		}
		offline = offline || op.Exec.Network == dockerfile.NetworkNone || slices.Contains(op.Exec.Env, "GOPROXY=off")
	}
	for _, op := range g.Ops {
		h := sha256.New()
		_, _ = fmt.Fprintf(h, "%s\n%s\n%v %v %v\n", options, op.Self, op.Platform, b.isHosted(op), b.final[op])
		switch sees {
		case byDay:
			_, _ = fmt.Fprintf(h, "%d\n", b.now().Unix()/86400)
		case byTime:
			_, _ = fmt.Fprintf(h, "%d\n", b.now().UnixNano())
		}
		usable := true
		r.below[op] = op.IgnoreCache
		for _, in := range op.Inputs {
			key := "scratch"
			if in.Op != nil {
				key = r.keys[in.Op]
				r.below[op] = r.below[op] || r.below[in.Op]
				usable = usable && key != ""
			}
			_, _ = fmt.Fprintf(h, "%s %d\n", key, in.Output)
		}
		if s := op.Source; s != nil {
			content, err := b.sourceKey(ctx, g, op, sees)
			if err != nil {
				return b.locate(op, err)
			}
			usable = usable && content != ""
			_, _ = io.WriteString(h, content)
		}
		if op.Exec != nil {
			for _, m := range op.Exec.Mounts {
				// What one step leaves in a cache mount the next one finds: all of them
				// run, or none.
				r.live[op] = r.live[op] || m.Kind == dockerfile.MountCache && mounts[m.ID] > 1
			}
			// Modules that one step downloads are found by the next one, which mustn't.
			r.live[op] = r.live[op] || offline && callsGo(op.Exec)
		}
		if usable {
			r.keys[op] = hex.EncodeToString(h.Sum(nil))
		}
	}
	return nil
}

// isGoCache reports whether a mount is one of the caches that the toolchain keeps for
// itself on this machine.
func isGoCache(target string) bool {
	return strings.HasSuffix(target, "/pkg/mod") || strings.HasSuffix(target, "/go-build")
}

// sourceKey says what a source has; empty if nobody can tell.
func (b *Build) sourceKey(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, sees clock) (string, error) {
	s := op.Source
	switch {
	case s.Image != "":
		if !strings.Contains(s.Image, "@") {
			return "", nil
		}
		return fmt.Sprintf("image %s %v", s.Image, b.pinned(g, op)), nil
	case s.Local != nil:
		key := fmt.Sprintf("%s %v", op.Self, sees == byTime)
		value, err := shared(ctx, &b.memo, "digest "+key, func() (any, error) {
			t, err := b.local(ctx, op)
			if err != nil {
				return "", err
			}
			return b.treeDigest(ctx, t, "/", sees == byTime)
		})
		if err != nil {
			return "", err
		}
		b.results.digests[key] = value.(string)
		return "local " + value.(string), nil
	case s.HTTP != nil:
		if s.HTTP.Checksum != "" {
			return "http " + s.HTTP.Checksum, nil
		}
		t, err := b.download(ctx, *s.HTTP)
		if err != nil {
			return "", err
		}
		d, err := b.treeDigest(ctx, t, "/", sees == byTime)
		return "http " + d, err
	}
	return "", nil
}

// local reads a part of a context, once.
func (b *Build) local(ctx context.Context, op *dockerfile.Op) (*filetree.Tree, error) {
	value, err := shared(ctx, &b.memo, "local "+op.Self, func() (any, error) { return b.o.Local(ctx, *op.Source.Local) })
	if err != nil {
		return nil, err
	}
	return value.(*filetree.Tree).Fork(), nil
}

// union merges lists of sources.
func union(lists ...[]opcache.Source) []opcache.Source {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(x, y opcache.Source) int {
		if c := strings.Compare(x.URL, y.URL); c != 0 {
			return c
		}
		return strings.Compare(x.SHA256, y.SHA256)
	})
	return slices.Compact(all)
}

// current reports whether what servers have is what it was.
func (b *Build) current(ctx context.Context, list []opcache.Source) bool {
	good := true
	for _, s := range list {
		value, err := shared(ctx, &b.memo, "current "+s.URL+" "+s.SHA256, func() (any, error) {
			return b.downloads.Unchanged(ctx, s.URL, s.SHA256, b.o.Offline), nil
		})
		good = good && err == nil && value.(bool)
	}
	return good
}

// restore gives what a RUN did in an earlier run; ok is false if that isn't known.
func (b *Build) restore(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, hosted bool) (outputs []*state, ok bool, err error) {
	r := &b.results
	if op.Exec == nil || b.o.NoCache || r.keys[op] == "" || r.live[op] || r.below[op] {
		return nil, false, nil
	}
	at, rec := b.record(b.recordKey(op, hosted))
	if rec == nil || !rec.Usable(b.o.Store) || !b.current(ctx, rec.Sources) {
		return nil, false, nil
	}
	base := dockerfile.Edge{}
	for _, m := range op.Exec.Mounts {
		if m.Target == "/" && m.Input >= 0 {
			base = op.Inputs[m.Input]
		}
	}
	var root *state
	if hosted && base.Op != nil && base.Output >= 0 {
		root, err = b.edgeIn(ctx, g, base, true)
	} else {
		root, err = b.edge(ctx, g, base)
	}
	if err != nil {
		return nil, false, err
	}
	s, err := b.restored(ctx, g, op, root, at, rec)
	if err != nil || s == nil {
		return nil, false, err
	}
	return []*state{s}, true, nil
}

// restored is the state that a record makes of root, once; nil if the record is damaged
// or doesn't fit.
func (b *Build) restored(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, root *state, at string, rec *opcache.Record) (*state, error) {
	key := "record " + at + " of " + root.key
	if rec.Bound {
		key += " for " + g.Platform.String()
	}
	value, err := shared(ctx, &b.memo, key, func() (any, error) {
		if rec.Bound && root.stage != nil && root.stage.neutral {
			root = b.bind(ctx, root, g.Platform)
		}
		s := &state{key: key + "/0", bound: rec.Bound, tree: root.tree.Fork(), stage: root.stage, deferred: root.deferred, loads: root.loads, sources: rec.Sources, own: rec.Own}
		did, err := rec.Did()
		if err != nil {
			return nil, err
		}
		s.identity = identify(func(ctx context.Context) (string, error) { return joined("did", root.identity.get(ctx), did), nil })
		if err := rec.Restore(b.o.Store, s.tree); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return (*state)(nil), nil //nolint:nilerr // it is damaged, or it doesn't fit: it is made again
		}
		b.o.Event.Start("", b.label(g, op, rec.Bound), progress.Build, op.Name)(progress.Cached, op.Name)
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*state), nil
}

// recordKey is where the name of an operation's record is kept. A stage may be made
// from the files of another platform than its own, so that its programs run here.
func (b *Build) recordKey(op *dockerfile.Op, hosted bool) string {
	return fmt.Sprintf("op %s %v", b.results.keys[op], hosted)
}

// keep notes what a RUN did, for the next run.
func (b *Build) keep(op *dockerfile.Op, inputs, outputs []*state, bound bool) error {
	if b.o.Memo == nil || b.o.Version == "" || len(outputs) != 1 || outputs[0] == nil {
		return nil
	}
	root, out := rootState(op, inputs), outputs[0]
	if root == nil || out.deferred.len() != root.deferred.len() {
		return nil // what it put off is known only while it runs
	}
	delta, exact, err := filetree.DeltaOf(root.tree, out.tree)
	if err != nil || !exact {
		return err
	}
	rec, err := opcache.Save(b.o.Store, delta)
	if err != nil {
		return err
	}
	rec.Bound, rec.Sources, rec.Own = bound, out.sources, out.own
	return b.note(out, rec)
}

// note says which record a state has.
func (b *Build) note(out *state, rec *opcache.Record) error {
	data, err := rec.Encode()
	if err != nil {
		return err
	}
	did, err := rec.Did()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	at := hex.EncodeToString(sum[:])
	r := &b.results
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending["record "+at] = data
	r.records[out] = kept{at, did}
	return nil
}

// did is what a state's record says that was done; empty if it has none.
func (r *results) did(out *state) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[out].did
}

// name says that the result of an operation is the one that is kept somewhere.
func (b *Build) name(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op, inputs, outputs []*state, hosted bool) {
	r := &b.results
	if op.Exec == nil || len(outputs) != 1 || outputs[0] == nil {
		return
	}
	r.mu.Lock()
	at := r.records[outputs[0]].at
	r.mu.Unlock()
	if at == "" {
		return
	}
	alike := b.alike(ctx, g, op, inputs, outputs[0].bound)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys[op] != "" {
		r.pending[b.recordKey(op, hosted)] = []byte(at)
	}
	if alike != "" {
		r.pending["alike "+alike] = []byte(at)
	}
}

// sourcesOf is what results depend on that were made of inputs while asked was noted.
func sourcesOf(inputs []*state, asked *download.Asked) []opcache.Source {
	var own []opcache.Source
	if asked != nil {
		asked.All(func(address, sum string) { own = append(own, opcache.Source{URL: address, SHA256: sum}) })
	}
	lists := [][]opcache.Source{own}
	for _, in := range inputs {
		lists = append(lists, in.sources)
	}
	return union(lists...)
}

// flush remembers what was made, unless a context has changed meanwhile: what was made
// would be remembered as that of other files.
func (b *Build) flush(ctx context.Context) {
	r := &b.results
	r.mu.Lock()
	pending := r.pending
	r.pending = map[string][]byte{}
	r.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	for _, g := range b.graphs {
		for _, op := range g.Ops {
			if op.Source == nil || op.Source.Local == nil {
				continue
			}
			for _, times := range []bool{false, true} {
				was, ok := r.digests[fmt.Sprintf("%s %v", op.Self, times)]
				if !ok {
					continue
				}
				now, err := shared(ctx, &b.memo, fmt.Sprintf("digest again %s %v", op.Self, times), func() (any, error) {
					t, err := b.o.Local(ctx, *op.Source.Local)
					if err != nil {
						return "", err
					}
					return (&Build{}).treeDigest(ctx, t, "/", times) // nothing of what was read before
				})
				if err != nil || now.(string) != was {
					return
				}
			}
		}
	}
	for key, data := range pending {
		b.o.Memo.Put(key, data)
	}
}

// keptLayer is a layer that was made before.
type keptLayer struct {
	Layer   *image.Layer     `json:"layer"` // nil if nothing had changed
	Sources []opcache.Source `json:"sources,omitempty"`
}

// layerKey identifies the layer of an operation; empty if it can't be kept.
func (b *Build) layerKey(op *dockerfile.Op) string {
	key := b.results.keys[op]
	if key == "" {
		return ""
	}
	return fmt.Sprintf("op layer %s %s %d", key, b.o.Compression, b.o.LayerTime.Unix())
}

// keepLayer notes the layer of an operation.
func (b *Build) keepLayer(s step, l *image.Layer) {
	key := b.layerKey(s.op)
	if key == "" {
		return
	}
	data, err := json.Marshal(keptLayer{l, s.after.sources})
	if err != nil {
		return
	}
	b.results.mu.Lock()
	defer b.results.mu.Unlock()
	b.results.pending[key] = data
}

// keptLayers gives the layers of a chain of operations, if all of them are there.
func (b *Build) keptLayers(ctx context.Context, chain []*dockerfile.Op) ([]*image.Layer, bool) {
	if b.o.NoCache {
		return nil, false
	}
	var (
		layers  []*image.Layer
		sources []opcache.Source
	)
	for _, op := range chain {
		key := b.layerKey(op)
		if key == "" || b.results.below[op] {
			return nil, false
		}
		data, ok := b.o.Memo.Get(key)
		var kept keptLayer
		if !ok || json.Unmarshal(data, &kept) != nil {
			return nil, false
		}
		if l := kept.Layer; l != nil {
			if size, err := b.o.Store.Size(l.Descriptor.Digest); err != nil || size != l.Descriptor.Size {
				return nil, false
			}
		}
		layers = append(layers, kept.Layer)
		sources = union(sources, kept.Sources)
	}
	return layers, b.current(ctx, sources)
}
