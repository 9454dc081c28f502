package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// Referrer is something that is said about an item: a signature, an SBOM. It has the
// item as its subject, or a tag that is made of the item's digest, as cosign does.
type Referrer struct {
	Item    *Item
	Subject digest.Digest
	Tag     string // empty unless that is all that connects it
}

// cosignSuffixes end the tags by which cosign connects signatures and others.
var cosignSuffixes = []string{".sig", ".att", ".sbom"}

// Referrers finds what is said about an item and everything below it, and what is
// said about that.
func (r *Reader) Referrers(ctx context.Context, root *Item) ([]Referrer, error) {
	var list []Referrer
	seen := map[digest.Digest]bool{}
	tags, err := root.Place.Tags(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	named := map[string]bool{}
	for _, t := range tags {
		named[t] = true
	}
	var about func(item *Item, level int) error
	about = func(item *Item, level int) error {
		if level > maxNesting || seen[item.Descriptor.Digest] || item.Data == nil {
			return nil
		}
		d := item.Descriptor.Digest
		seen[d] = true
		found, err := item.Place.Referrers(ctx, d)
		if err != nil {
			return err
		}
		for _, m := range found {
			other, err := r.ReadDescriptor(ctx, item.Place, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations})
			if err != nil {
				return err
			}
			if other.Missing != nil {
				return other.Missing
			}
			list = append(list, Referrer{Item: other, Subject: d})
			if err := about(other, level+1); err != nil {
				return err
			}
		}
		for _, suffix := range cosignSuffixes {
			tag := strings.Replace(d.String(), ":", "-", 1) + suffix
			if !named[tag] {
				continue
			}
			other, err := r.Read(ctx, item.Place, tag)
			if err != nil {
				return err
			}
			list = append(list, Referrer{Item: other, Subject: d, Tag: tag})
		}
		return nil
	}
	err = root.Walk(func(i *Item) error { return about(i, 1) })
	return list, err
}

// referrerPusher is a repository that knows what a subject is.
type referrerPusher interface {
	PushReferrer(ctx context.Context, d ocispec.Descriptor, data []byte) (listed bool, err error)
}

// SendReferrers lets a target have what is said about items that it has.
func SendReferrers(ctx context.Context, target publish.Repository, event progress.Sink, list []Referrer) (publish.Stats, error) {
	var total publish.Stats
	for _, r := range list {
		d := ocispec.Descriptor{MediaType: r.Item.Descriptor.MediaType, Digest: r.Item.Descriptor.Digest, Size: int64(len(r.Item.Data))}
		stats, err := Send(ctx, target, event, r.Item)
		total.Uploaded, total.Mounted, total.Present = total.Uploaded+stats.Uploaded, total.Mounted+stats.Mounted, total.Present+stats.Present
		if err != nil {
			return total, err
		}
		if r.Tag != "" {
			if err := target.PushManifest(ctx, r.Tag, d, r.Item.Data); err != nil {
				return total, err
			}
			continue
		}
		p, ok := target.(referrerPusher)
		if !ok {
			return total, fmt.Errorf("%s takes no referrers", target.Name())
		}
		listed, err := p.PushReferrer(ctx, d, r.Item.Data)
		if err == nil && !listed {
			err = listReferrer(ctx, target, event, r)
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// listReferrer adds a manifest to the index under the tag that lists the referrers of
// its subject, where the registry doesn't do that (distribution-spec v1.1.1,
// "Referrers Tag Schema"). Others may add theirs at the same time.
func listReferrer(ctx context.Context, target publish.Repository, event progress.Sink, r Referrer) error {
	tag := registry.ReferrersTag(r.Subject)
	for attempt := 1; ; attempt++ {
		was, data, err := publish.Read(ctx, target, tag)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		if err == nil {
			if !image.IsIndex(was.MediaType) || json.Unmarshal(data, &index) != nil {
				return &refusal.Error{Code: "PA406", Place: target.Name() + ":" + tag, Summary: "the list of referrers isn't an index"}
			}
		}
		for _, m := range index.Manifests {
			if m.Digest == r.Item.Descriptor.Digest {
				return nil
			}
		}
		entry := r.Item.Descriptor
		entry.Platform, entry.Annotations, entry.ArtifactType = nil, r.Item.Manifest.Annotations, r.Item.Manifest.ArtifactType
		if entry.ArtifactType == "" {
			entry.ArtifactType = r.Item.Manifest.Config.MediaType
		}
		index.Manifests = append(index.Manifests, entry)
		if data, err = json.Marshal(index); err != nil {
			return err
		}
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
		err = publish.MoveAll(ctx, event, &publish.Retag{
			Repo: target, Target: d, Data: data, Moves: []publish.Move{{Tag: tag, Old: was.Digest, New: d.Digest}},
			Expect: map[string]digest.Digest{tag: was.Digest},
		})
		changed, ok := errors.AsType[*publish.Changed](err)
		if !ok || attempt == maxAttempts {
			return err
		}
		if changed.Race {
			if err := pause(ctx, attempt); err != nil {
				return err
			}
		}
	}
}
