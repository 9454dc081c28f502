package assemble

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Options say how items become entries. The zero value flattens indexes and takes
// attestations along.
type Options struct {
	// Keep lets an index among the items stay an index inside the new one, instead
	// of taking over its entries.
	Keep bool
	// DropAttestations leaves BuildKit's attestations out.
	DropAttestations bool
	// Platforms, if not empty, takes only these of every index, with their
	// attestations.
	Platforms []platform.Platform
	// Replace lets an item take the place of an entry for the same platform.
	Replace bool
	// AllowDuplicates lets two entries be for one platform, as docker manifest does.
	AllowDuplicates bool
}

// Entry is one entry of a draft.
type Entry struct {
	Descriptor ocispec.Descriptor
	Item       *Item
	// Asserted says that somebody has said the platform, rather than the image: then
	// its program is looked at too.
	Asserted bool
}

func (e Entry) platform() platform.Platform { return platform.FromOCI(e.Descriptor.Platform) }

// runs reports whether an entry is for a platform, rather than about another one.
func (e Entry) runs() bool {
	return e.Item.Kind == KindImage || e.Item.Kind == KindIndex && e.Descriptor.Platform != nil
}

// Draft is an index on its way. The zero value is an empty one. It isn't safe for
// concurrent use.
type Draft struct {
	Entries     []Entry
	Annotations map[string]string
	// MediaType of the index; if empty it is Docker's list where every entry is of
	// Docker's types, else OCI's.
	MediaType    string
	ArtifactType string
	Subject      *ocispec.Descriptor
	// Name is what the draft is called, for messages.
	Name string

	original []byte // of an index that is edited
}

// Edit makes a draft of an index, with its entries in their order. An index with
// fields that would be lost is a refusal with code PA429; a manifest becomes the
// only entry.
func Edit(item *Item) (*Draft, error) {
	d := &Draft{Name: item.Name}
	if item.Kind != KindIndex {
		return d, d.Add(Options{}, item)
	}
	if lost := unknownFields(item.Data); lost != "" {
		return nil, &refusal.Error{
			Code: "PA429", Place: item.Name, Summary: "the index has something that editing it would lose", Seen: []string{lost},
			Fix: []string{"anyarch index create " + item.Name + " -t NEW"},
		}
	}
	d.original = item.Data
	d.MediaType, d.ArtifactType, d.Subject = item.Descriptor.MediaType, item.Index.ArtifactType, item.Index.Subject
	d.Annotations = maps.Clone(item.Index.Annotations)
	for i, c := range item.Children {
		// The entry as it stands: a platform that only the config names stays there.
		d.Entries = append(d.Entries, Entry{Descriptor: item.Index.Manifests[i], Item: c})
	}
	return d, nil
}

// Add appends items. An index gives its entries, with their annotations, unless
// the options keep it. What is there already, by digest and platform, is left as
// it is; a platform that another entry is for is a refusal with code PA420, all of
// them at once.
func (d *Draft) Add(o Options, items ...*Item) error {
	var refused refusal.Collect
	for _, item := range items {
		entries, err := flatten(o, item)
		if err != nil {
			if !refused.Add(err) {
				return err
			}
			continue
		}
		for _, e := range entries {
			refused.Add(d.add(o, e))
		}
	}
	return refused.Err()
}

// AddEntry appends an entry that says something else of an item than the item does.
func (d *Draft) AddEntry(o Options, e Entry) error { return d.add(o, e) }

// flatten lists the entries that an item brings.
func flatten(o Options, item *Item) ([]Entry, error) {
	if item.Kind != KindIndex || o.Keep {
		return []Entry{{Descriptor: item.Descriptor, Item: item}}, nil
	}
	list := entriesOf(item)
	taken := map[string]bool{}
	var chosen []Entry
	for _, e := range list {
		if e.Item.Kind == KindAttestation {
			continue
		}
		if len(o.Platforms) > 0 && e.runs() && !slices.Contains(o.Platforms, e.platform()) {
			continue
		}
		chosen = append(chosen, e)
		taken[e.Descriptor.Digest.String()] = true
	}
	if len(o.Platforms) > 0 {
		if len(chosen) == 0 {
			var have []platform.Platform
			for _, e := range list {
				if e.runs() {
					have = append(have, e.platform())
				}
			}
			return nil, &refusal.Error{Code: "PA204", Kind: refusal.Findings, Place: item.Name, Summary: "the index isn't there for any of " + platform.Names(o.Platforms), Seen: []string{"it is there for " + platform.Names(have)}}
		}
	}
	for _, e := range list {
		if e.Item.Kind == KindAttestation && !o.DropAttestations && (taken[e.Item.Subject()] || e.Item.Subject() == "" && len(o.Platforms) == 0) {
			chosen = append(chosen, e)
		}
	}
	return chosen, nil
}

// entriesOf lists what an index leads to, indexes inside it resolved.
func entriesOf(item *Item) []Entry {
	if item.Kind != KindIndex || item.Missing != nil {
		return []Entry{{Descriptor: item.Descriptor, Item: item}}
	}
	var list []Entry
	for _, c := range item.Children {
		list = append(list, entriesOf(c)...)
	}
	return list
}

func (d *Draft) add(o Options, e Entry) error {
	for i, other := range d.Entries {
		same := other.Descriptor.Digest == e.Descriptor.Digest
		if !e.runs() || !other.runs() {
			if same && e.Item.Kind == other.Item.Kind {
				return nil
			}
			continue
		}
		if !samePlatform(e, other) {
			continue
		}
		switch {
		case same:
			return nil
		case o.Replace:
			d.drop(i)
			d.Entries = slices.Insert(d.Entries, min(i, len(d.Entries)), e)
			return nil
		case o.AllowDuplicates:
			continue
		}
		return &refusal.Error{
			Code: "PA420", Kind: refusal.Usage, Platform: e.platform().String(), Place: e.Item.Name, Summary: "the index would have this platform twice",
			Seen: []string{other.Descriptor.Digest.String() + " is " + other.Item.Name, e.Descriptor.Digest.String() + " is " + e.Item.Name},
			Fix:  []string{"leave one of them out, or, in anyarch index add, say --replace"},
		}
	}
	d.Entries = append(d.Entries, e)
	return nil
}

// samePlatform reports whether two entries are for the same machines.
func samePlatform(a, b Entry) bool {
	if a.platform() != b.platform() || a.Item.compression() != b.Item.compression() {
		return false
	}
	return slices.Equal(features(a), features(b))
}

func features(e Entry) []string {
	if e.Descriptor.Platform == nil {
		return nil
	}
	return e.Descriptor.Platform.OSFeatures
}

// drop removes an entry with the attestations about it.
func (d *Draft) drop(i int) {
	gone := d.Entries[i]
	d.Entries = slices.Delete(d.Entries, i, i+1)
	if slices.ContainsFunc(d.Entries, func(e Entry) bool { return e.Descriptor.Digest == gone.Descriptor.Digest }) {
		return
	}
	d.Entries = slices.DeleteFunc(d.Entries, func(e Entry) bool {
		return e.Item.Kind == KindAttestation && e.Descriptor.Annotations[AnnotationReferenceDigest] == gone.Descriptor.Digest.String()
	})
}

// find gives the entries that a user means: a platform, or a digest, which may be
// shortened to seven characters or more.
func (d *Draft) find(selector string) ([]int, error) {
	var found []int
	p, err := platform.Parse(selector)
	isPlatform := err == nil && strings.Contains(selector, "/")
	short := strings.TrimPrefix(selector, "sha256:")
	for i, e := range d.Entries {
		switch {
		case isPlatform:
			if e.runs() && e.platform().String() == p.String() && (p.OSVersion == "" || p.OSVersion == e.platform().OSVersion) {
				found = append(found, i)
			}
		case e.Descriptor.Digest.String() == selector, len(short) >= 7 && strings.HasPrefix(e.Descriptor.Digest.Encoded(), short):
			found = append(found, i)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	refused := &refusal.Error{Code: "PA424", Kind: refusal.Usage, Place: d.Name, Summary: fmt.Sprintf("the index has no entry %s", selector)}
	for _, e := range d.Entries {
		refused.Seen = append(refused.Seen, strings.TrimSpace(e.Descriptor.Digest.String()+" "+e.label()))
	}
	return nil, refused
}

func (e Entry) label() string {
	if e.runs() {
		return e.platform().String()
	}
	return string(e.Item.Kind)
}

// Remove drops the entries that selectors name, and attestations about them. An
// entry that isn't there is a refusal with code PA424; so is removing the last one.
func (d *Draft) Remove(selectors ...string) error {
	var refused refusal.Collect
	gone := map[digest.Digest]bool{}
	var marked []int
	for _, s := range selectors {
		found, err := d.find(s)
		refused.Add(err)
		marked = append(marked, found...)
	}
	if err := refused.Err(); err != nil {
		return err
	}
	var kept []Entry
	for i, e := range d.Entries {
		if slices.Contains(marked, i) {
			gone[e.Descriptor.Digest] = true
		} else {
			kept = append(kept, e)
		}
	}
	for _, e := range kept {
		delete(gone, e.Descriptor.Digest)
	}
	d.Entries = slices.DeleteFunc(kept, func(e Entry) bool {
		return e.Item.Kind == KindAttestation && gone[digest.Digest(e.Descriptor.Annotations[AnnotationReferenceDigest])]
	})
	if len(d.Entries) == 0 {
		return &refusal.Error{Code: "PA424", Kind: refusal.Usage, Place: d.Name, Summary: "nothing would be left in the index", Fix: []string{"anyarch delete " + d.Name}}
	}
	return nil
}

// Change is what becomes of one entry, or of the index itself. Empty fields leave
// things as they are.
type Change struct {
	OS, Architecture, Variant, OSVersion string
	OSFeatures                           []string // appended, each once
	Annotations                          map[string]string
	Remove                               []string // annotations
}

// changesPlatform reports whether a change touches the platform.
func (c Change) changesPlatform() bool {
	return c.OS != "" || c.Architecture != "" || c.Variant != "" || c.OSVersion != "" || len(c.OSFeatures) > 0
}

// Annotate changes the entries that a selector names; the empty selector is the
// index itself. Whether a platform is true isn't asked here: see [Draft.Prove].
func (d *Draft) Annotate(selector string, c Change) error {
	if selector == "" {
		if c.changesPlatform() {
			return &refusal.Error{Code: "PA424", Kind: refusal.Usage, Place: d.Name, Summary: "an index has no platform: name the entry", Fix: []string{"anyarch index annotate " + d.Name + " linux/arm64 --variant v8"}}
		}
		d.Annotations = annotate(d.Annotations, c)
		return nil
	}
	found, err := d.find(selector)
	if err != nil {
		return err
	}
	if len(found) > 1 {
		e := &refusal.Error{Code: "PA424", Kind: refusal.Usage, Place: d.Name, Summary: "several entries are meant by " + selector}
		for _, i := range found {
			e.Fix = append(e.Fix, d.Entries[i].Descriptor.Digest.String())
		}
		return e
	}
	return d.annotateAt(found[0], c)
}

func (d *Draft) annotateAt(i int, c Change) error {
	e := &d.Entries[i]
	e.Descriptor.Annotations = annotate(e.Descriptor.Annotations, c)
	if !c.changesPlatform() {
		return nil
	}
	p := ocispec.Platform{}
	if e.Descriptor.Platform != nil {
		p = *e.Descriptor.Platform
	}
	p.OSFeatures = slices.Clone(p.OSFeatures)
	if c.Architecture != "" && c.Architecture != p.Architecture {
		p.Variant = "" // it was one of the other architecture
	}
	for _, pair := range []struct {
		to   *string
		from string
	}{{&p.OS, c.OS}, {&p.Architecture, c.Architecture}, {&p.Variant, c.Variant}, {&p.OSVersion, c.OSVersion}} {
		if pair.from != "" {
			*pair.to = pair.from
		}
	}
	for _, f := range c.OSFeatures {
		if !slices.Contains(p.OSFeatures, f) {
			p.OSFeatures = append(p.OSFeatures, f)
		}
	}
	e.Descriptor.Platform, e.Asserted = &p, true
	for j, other := range d.Entries {
		if j != i && e.runs() && other.runs() && samePlatform(*e, other) && e.Descriptor.Digest != other.Descriptor.Digest {
			return &refusal.Error{
				Code: "PA420", Kind: refusal.Usage, Platform: e.platform().String(), Place: d.Name, Summary: "the index would have this platform twice",
				Seen: []string{other.Descriptor.Digest.String() + " is for it already", e.Descriptor.Digest.String() + " would be"},
			}
		}
	}
	return nil
}

func annotate(old map[string]string, c Change) map[string]string {
	next := maps.Clone(old)
	for _, key := range c.Remove {
		delete(next, key)
	}
	for key, value := range c.Annotations {
		if next == nil {
			next = map[string]string{}
		}
		next[key] = value
	}
	if len(next) == 0 {
		return nil
	}
	return next
}

// Sort puts entries into an order that doesn't depend on the one in which they
// were added: images by platform, then other entries, attestations last, in the
// order of what they are about.
func (d *Draft) Sort() {
	place := map[string]int{}
	rank := func(e Entry) int {
		switch {
		case e.runs():
			return 0
		case e.Item.Kind != KindAttestation:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(d.Entries, func(a, b Entry) int {
		p, q := a.platform(), b.platform()
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)), cmp.Compare(p.OS, q.OS), cmp.Compare(p.Architecture, q.Architecture), cmp.Compare(p.Variant, q.Variant),
			cmp.Compare(p.OSVersion, q.OSVersion), slices.Compare(features(a), features(b)), cmp.Compare(a.Item.compression(), b.Item.compression()),
			cmp.Compare(a.Descriptor.Digest, b.Descriptor.Digest))
	})
	for i, e := range d.Entries {
		place[e.Descriptor.Digest.String()] = i
	}
	slices.SortStableFunc(d.Entries, func(a, b Entry) int {
		if rank(a) != 2 || rank(b) != 2 {
			return cmp.Compare(rank(a), rank(b))
		}
		return cmp.Compare(place[a.Descriptor.Annotations[AnnotationReferenceDigest]], place[b.Descriptor.Annotations[AnnotationReferenceDigest]])
	})
}

// CommonAnnotations are those that the manifests of all images have alike, such
// as source and revision: what registries show of an index must stand on itself.
func (d *Draft) CommonAnnotations() map[string]string {
	var common map[string]string
	for _, e := range d.Entries {
		if e.Item.Kind != KindImage {
			continue
		}
		if common == nil {
			common = maps.Clone(e.Item.Manifest.Annotations)
			if common == nil {
				return nil
			}
			continue
		}
		maps.DeleteFunc(common, func(k, v string) bool {
			other, ok := e.Item.Manifest.Annotations[k]
			return !ok || other != v
		})
	}
	if len(common) == 0 {
		return nil
	}
	return common
}

// Encode gives the index: the same entries, annotations and media type give the
// same bytes, and an index that was edited without being changed gives its own.
// What the media type has no room for is a refusal with code PA432.
func (d *Draft) Encode() (ocispec.Descriptor, []byte, error) {
	mediaType := d.MediaType
	if mediaType == "" {
		mediaType = d.family()
	}
	if err := d.fits(mediaType); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, ArtifactType: d.ArtifactType,
		Manifests: []ocispec.Descriptor{}, Subject: d.Subject, Annotations: d.Annotations,
	}
	for _, e := range d.Entries {
		index.Manifests = append(index.Manifests, e.Descriptor)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if d.original != nil && sameIndex(d.original, data) {
		data = d.original
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data, nil
}

// sameIndex reports whether two indexes say the same, whatever their spelling.
func sameIndex(a, b []byte) bool {
	var x, y ocispec.Index
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	if x.MediaType == "" { // optional in OCI's
		x.MediaType = y.MediaType
	}
	p, errP := json.Marshal(x)
	q, errQ := json.Marshal(y)
	return errP == nil && errQ == nil && string(p) == string(q)
}

// family is Docker's list if there is nothing but Docker's manifests in it and
// nothing that only an OCI index can say.
func (d *Draft) family() string {
	if len(d.Entries) == 0 || d.fits(image.DockerManifestList) != nil {
		return ocispec.MediaTypeImageIndex
	}
	for _, e := range d.Entries {
		if e.Descriptor.MediaType != image.DockerManifest {
			return ocispec.MediaTypeImageIndex
		}
	}
	return image.DockerManifestList
}

// fits says what an index of this media type can't hold.
func (d *Draft) fits(mediaType string) error {
	if mediaType != image.DockerManifestList {
		return nil
	}
	var seen []string
	if len(d.Annotations) > 0 {
		seen = append(seen, "annotations of the index")
	}
	if d.Subject != nil || d.ArtifactType != "" {
		seen = append(seen, "a subject or an artifact type")
	}
	for _, e := range d.Entries {
		if len(e.Descriptor.Annotations) > 0 || e.Descriptor.ArtifactType != "" && !e.runs() {
			seen = append(seen, fmt.Sprintf("annotations of %s (%s)", e.Descriptor.Digest, e.label()))
		}
		if e.Item.Kind == KindIndex {
			seen = append(seen, fmt.Sprintf("another index, %s", e.Descriptor.Digest))
		}
	}
	if seen == nil {
		return nil
	}
	return &refusal.Error{
		Code: "PA432", Kind: refusal.Usage, Place: cmp.Or(d.Name, "--media-types docker"), Summary: "Docker's manifest list has no room for everything that is asked for",
		Seen: seen, Fix: []string{"--media-types oci", "--no-attestations"},
	}
}
