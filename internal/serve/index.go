package serve

import (
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// holds reports whether a push would change nothing.
func (v *view) holds(p push) bool {
	same := func(d ocispec.Descriptor, ok bool) bool {
		return ok && d.Digest == p.d.Digest && d.MediaType == p.d.MediaType
	}
	for _, tag := range p.tags {
		if d, ok := v.tags[tag]; !same(d, ok) {
			return false
		}
	}
	return len(p.tags) > 0 || same(v.manifest(p.d.Digest))
}

// lists reports whether index.json itself lists a manifest.
func (v *view) lists(d digest.Digest) bool {
	_, ok := v.listed[d]
	return ok
}

// enter lists a manifest that is being pushed. Its tags move to it at once,
// and what had them stays listed without; its own children needn't be listed
// any more, unless they have tags.
func (p push) enter(index *ocispec.Index) {
	child := make(map[digest.Digest]bool, len(p.document.Manifests))
	for _, m := range p.document.Manifests {
		child[m.Digest] = true
	}
	kept := make([]ocispec.Descriptor, 0, len(index.Manifests)+len(p.tags)+1)
	var untagged []ocispec.Descriptor
	for _, m := range index.Manifests {
		tag := m.Annotations[ocispec.AnnotationRefName]
		switch {
		case tag != "" && slices.Contains(p.tags, tag):
			untagged = append(untagged, plain(m))
		case len(m.Annotations) == 0 && (m.Digest == p.d.Digest || child[m.Digest]):
		default:
			if m.Digest == p.d.Digest {
				m.MediaType = p.d.MediaType
			}
			kept = append(kept, m)
		}
	}
	for _, tag := range p.tags {
		m := p.d
		m.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		kept = append(kept, m)
	}
	if len(p.tags) == 0 {
		untagged = append(untagged, p.d)
	}
	index.Manifests = appendUnlisted(kept, untagged, child)
}

// appendUnlisted adds those entries that aren't in the list or among others.
func appendUnlisted(list, entries []ocispec.Descriptor, others map[digest.Digest]bool) []ocispec.Descriptor {
	for _, m := range entries {
		if !others[m.Digest] && !slices.ContainsFunc(list, func(l ocispec.Descriptor) bool { return l.Digest == m.Digest }) {
			list = append(list, m)
		}
	}
	return list
}

// untag removes a tag, leaving what it names listed.
func untag(index *ocispec.Index, tag string) {
	kept := index.Manifests[:0:0]
	var untagged []ocispec.Descriptor
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] == tag {
			untagged = append(untagged, plain(m))
		} else {
			kept = append(kept, m)
		}
	}
	index.Manifests = appendUnlisted(kept, untagged, nil)
}

// unlist removes a manifest with its tags. Children that exist only because it
// listed them are listed themselves from now on.
func (r *repository) unlist(index *ocispec.Index, d digest.Digest) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d })
	rest := newView(r.store, r.facts, *index)
	for _, child := range r.facts.of(r.store, d).children {
		if _, ok := rest.manifest(child.Digest); !ok && r.has(child.Digest) {
			index.Manifests = append(index.Manifests, child)
		}
	}
}
