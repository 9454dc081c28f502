package serve

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/store"
)

// view is index.json at one moment, arranged for looking things up. It may be
// used concurrently.
type view struct {
	store  *store.Store
	facts  *facts
	tags   map[string]ocispec.Descriptor
	names  []string                             // the tags in lexical order
	listed map[digest.Digest]ocispec.Descriptor // what index.json lists
	// all is every manifest that exists: what is listed and what is below.
	all func() map[digest.Digest]ocispec.Descriptor
	// referrers are the manifests that exist, by their subject, sorted by
	// digest.
	referrers func() map[digest.Digest][]ocispec.Descriptor
}

func newView(st *store.Store, f *facts, index ocispec.Index) *view {
	v := &view{
		store: st, facts: f,
		tags:   make(map[string]ocispec.Descriptor, len(index.Manifests)),
		listed: make(map[digest.Digest]ocispec.Descriptor, len(index.Manifests)),
	}
	for _, m := range index.Manifests {
		if m.Digest.Validate() != nil {
			continue
		}
		d := plain(m)
		// Of several entries of one name the first counts, as in store.Find.
		if tag := m.Annotations[ocispec.AnnotationRefName]; validTag(tag) {
			if _, ok := v.tags[tag]; !ok {
				v.tags[tag] = d
			}
		}
		if _, ok := v.listed[d.Digest]; !ok {
			v.listed[d.Digest] = d
		}
	}
	v.names = slices.Sorted(maps.Keys(v.tags))
	v.all = sync.OnceValue(v.walk)
	v.referrers = sync.OnceValue(v.bySubject)
	return v
}

// plain is what identifies a manifest, without what its parent says about it.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// manifest finds a manifest that exists by its digest.
func (v *view) manifest(d digest.Digest) (ocispec.Descriptor, bool) {
	m, ok := v.listed[d]
	if !ok {
		m, ok = v.all()[d]
	}
	return m, ok
}

// resolve finds what a tag or a digest names.
func (v *view) resolve(reference string) (ocispec.Descriptor, bool) {
	if d, err := digest.Parse(reference); err == nil {
		return v.manifest(d)
	}
	d, ok := v.tags[reference]
	return d, ok
}

// walk visits every manifest once, however often and deeply it is listed.
func (v *view) walk() map[digest.Digest]ocispec.Descriptor {
	found := maps.Clone(v.listed)
	pending := slices.Collect(maps.Values(v.listed))
	for len(pending) > 0 {
		d := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		for _, child := range v.facts.of(v.store, d.Digest).children {
			if _, ok := found[child.Digest]; !ok {
				found[child.Digest] = child
				pending = append(pending, child)
			}
		}
	}
	return found
}

func (v *view) bySubject() map[digest.Digest][]ocispec.Descriptor {
	found := map[digest.Digest][]ocispec.Descriptor{}
	for d, m := range v.all() {
		if f := v.facts.of(v.store, d); f.subject != "" {
			m.ArtifactType = f.artifactType
			m.MediaType = cmp.Or(m.MediaType, f.mediaType)
			found[f.subject] = append(found[f.subject], m)
		}
	}
	for _, list := range found {
		slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	}
	return found
}

// holders finds a manifest, other than d itself, that lists d as its child,
// and one that has d as its config or layer; empty if there is none.
func (v *view) holders(d digest.Digest) (parent, user digest.Digest) {
	for other := range v.all() {
		if other == d {
			continue
		}
		f := v.facts.of(v.store, other)
		if slices.ContainsFunc(f.children, func(c ocispec.Descriptor) bool { return c.Digest == d }) {
			parent = other
		}
		if slices.Contains(f.blobs, d) {
			user = other
		}
	}
	return parent, user
}

// fact is what has to be known about a manifest all the time.
type fact struct {
	mediaType    string
	artifactType string
	subject      digest.Digest
	children     []ocispec.Descriptor // of an index
	blobs        []digest.Digest      // config and layers of an image
}

// size is about how many bytes of memory a fact takes.
func (f fact) size() int {
	n := 200 + len(f.mediaType) + len(f.artifactType)
	for _, c := range f.children {
		n += 300 + len(c.MediaType)
	}
	return n + 100*len(f.blobs)
}

// maxFacts bounds the memory for facts, in bytes.
const maxFacts = 16 << 20

// facts remembers manifests, which never change, by their digest. The zero
// value is ready to use.
type facts struct {
	mu    sync.Mutex
	known map[digest.Digest]fact
	size  int
}

// of gives the facts of a manifest. One that isn't there, or isn't a manifest,
// has none.
func (c *facts) of(st *store.Store, d digest.Digest) fact {
	c.mu.Lock()
	f, ok := c.known[d]
	c.mu.Unlock()
	if ok {
		return f
	}
	if size, err := st.Size(d); err != nil {
		return fact{}
	} else if size <= store.MaxManifestSize {
		data, err := st.ReadBlob(d)
		if err != nil {
			return fact{} // damaged, which may be repaired
		}
		var m document
		if json.Unmarshal(data, &m) == nil {
			f = m.fact()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || c.size+f.size() > maxFacts {
		c.known, c.size = map[digest.Digest]fact{}, 0
	}
	if _, ok := c.known[d]; !ok {
		c.known[d] = f
		c.size += f.size()
	}
	return f
}
