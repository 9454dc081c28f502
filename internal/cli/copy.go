package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func (a *app) copyCommand() *cobra.Command {
	var only string
	var referrers bool
	cmd := &cobra.Command{
		Use:   "copy IMAGE DESTINATION…",
		Short: "Copy an image, with all platforms, between registries, layouts and archives",
		Long: `Copy brings an image, with all its platforms and what refers to it (signatures,
SBOMs), to other places, byte for byte: digests stay. Blobs are mounted between
repositories of one registry, and streamed otherwise. Tags move last.

DESTINATION is a reference, oci:DIR[:TAG], oci-archive:FILE or, for one platform,
docker-archive:FILE. Without a tag it is the one of IMAGE, else latest.`,
		Example: `  anyarch copy ghcr.io/team/app:1.5.0 registry.example.com/mirror/app
  anyarch copy ghcr.io/team/app:1.5.0 oci:dist
  anyarch copy oci-archive:app.tar ghcr.io/team/app:1.5.0
  anyarch copy ghcr.io/team/app:1.5.0 docker-archive:app.tar --platform linux/arm64`,
		GroupID: "ship", Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			p := a.newPlaces()
			defer p.close()
			return a.copy(cmd.Context(), p, list[0], list[1:], only, referrers)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&only, "platform", "p", "", "copy only the image of this `PLATFORM`, instead of the index")
	f.BoolVar(&referrers, "referrers", true, "copy what refers to the image too, such as signatures")
	return cmd
}

// archive is a destination of copy that is a file.
type archive struct {
	kind, file string
}

// copyTargets reads the destinations of copy.
func (p *places) copyTargets(texts []string, tag string) (list []assemble.Destination, files []archive, err error) {
	var refused refusal.Collect
	for _, text := range texts {
		kind, file, _ := strings.Cut(text, ":")
		if (kind == "oci-archive" || kind == "docker-archive") && file != "" {
			files = append(files, archive{kind, file})
			continue
		}
		d, own, err := p.destination("DESTINATION", text)
		if err != nil {
			if !refused.Add(err) {
				return nil, nil, err
			}
			continue
		}
		if _, given := splitPath(strings.TrimPrefix(text, "oci:")); given == "" {
			own = first(tag, own)
		}
		d.Tags = []string{own}
		list = append(list, d)
	}
	return list, files, refused.Err()
}

func (a *app) copy(ctx context.Context, p *places, from string, to []string, only string, referrers bool) error {
	w, err := p.source(from)
	if err != nil {
		return err
	}
	tag := w.Identifier
	switch {
	case strings.Contains(tag, ":"):
		tag = ""
	case tag == "":
		// The only image of a layout or archive; its name goes with it.
		if d, err := w.Resolve(ctx, ""); err == nil {
			tag = d.Annotations[ocispec.AnnotationRefName]
		}
	}
	targets, files, err := p.copyTargets(to, tag)
	if err != nil {
		return err
	}
	if w.Repository != "" { // which may be one of the targets
		if w, err = p.source(from); err != nil {
			return err
		}
	}
	event, err := a.show(1)
	if err != nil {
		return err
	}
	reader := assemble.NewReader()
	items, err := reader.ReadAll(ctx, []assemble.Wanted{w})
	if err != nil {
		return err
	}
	item := items[0]
	if only != "" {
		if item, err = platformItem(item, only); err != nil {
			return err
		}
	}
	var about []assemble.Referrer
	if referrers {
		if about, err = reader.Referrers(ctx, item); err != nil {
			if e, ok := errors.AsType[*refusal.Error](err); ok {
				e.Fix = append(e.Fix, "--referrers=false   (copies the image alone, without signatures)")
			}
			return fmt.Errorf("what refers to %s: %w", item.Name, err)
		}
	}
	root := ocispec.Descriptor{MediaType: item.Descriptor.MediaType, Digest: item.Descriptor.Digest, Size: int64(len(item.Data))}
	var plans []*publish.Retag
	for _, d := range targets {
		end := event.Start("", "", progress.Push, d.Repo.Name())
		_, err := assemble.Send(ctx, d.Repo, event, item)
		if err == nil {
			_, err = assemble.SendReferrers(ctx, d.Repo, event, about)
		}
		if err != nil {
			end(progress.Failed, d.Repo.Name())
			return err
		}
		end(progress.Done, d.Repo.Name())
		plan, err := publish.PlanRetag(ctx, d.Repo, d.Tags, root, item.Data, publish.LatestAlways)
		if err != nil {
			return err
		}
		plans = append(plans, plan)
	}
	for _, f := range files {
		if err := a.copyToArchive(ctx, p, f, first(tag, "latest"), w, item, about); err != nil {
			return err
		}
	}
	if err := publish.MoveAll(ctx, event, plans...); err != nil {
		return err
	}
	a.screen.Clear()
	for _, d := range targets {
		if err := a.printLine(d.Repo.Name() + "@" + root.Digest.String()); err != nil {
			return err
		}
	}
	for _, f := range files {
		line := f.kind + ":" + f.file
		if f.kind == "oci-archive" {
			line += "@" + root.Digest.String() // the other form has no manifests
		}
		if err := a.printLine(line); err != nil {
			return err
		}
	}
	return nil
}

// platformItem finds the image of one platform in an index.
func platformItem(item *assemble.Item, only string) (*assemble.Item, error) {
	want, err := platform.Parse(only)
	if err != nil {
		return nil, err
	}
	var have []platform.Platform
	for _, i := range item.Images() {
		p := i.Platform()
		have = append(have, p)
		if p == want || p.String() == want.String() && want.OSVersion == "" {
			return i, i.Missing
		}
	}
	return nil, &refusal.Error{Code: "PA204", Kind: refusal.Findings, Platform: want.String(), Place: item.Name, Summary: "the image isn't there for this platform", Seen: []string{"it is there for " + platform.Names(have)}}
}

// copyToArchive streams an image into a file.
func (a *app) copyToArchive(ctx context.Context, p *places, f archive, tag string, w assemble.Wanted, item *assemble.Item, about []assemble.Referrer) error {
	file := a.absolute(f.file)
	if f.kind == "docker-archive" {
		images := item.Images()
		if len(images) != 1 || item.Kind != assemble.KindImage && len(item.Children) != 1 {
			e := &refusal.Error{Code: "PA433", Kind: refusal.Usage, Place: f.kind + ":" + f.file, Summary: "a docker-archive has room for one platform"}
			for _, i := range images {
				e.Fix = append(e.Fix, "--platform "+i.Platform().String())
			}
			e.Fix = append(e.Fix, "oci-archive:"+f.file)
			return e
		}
		name := w.Repository
		if name == "" {
			name = "image"
		}
		return dockerArchive(ctx, p, file, images[0], name+":"+tag)
	}
	blobs, err := assemble.Blobs(item, about)
	if err != nil {
		return err
	}
	root := ocispec.Descriptor{MediaType: item.Descriptor.MediaType, Digest: item.Descriptor.Digest, Size: int64(len(item.Data)), Annotations: map[string]string{ocispec.AnnotationRefName: tag}}
	list := []ocispec.Descriptor{root}
	for _, r := range about {
		d := ocispec.Descriptor{MediaType: r.Item.Descriptor.MediaType, Digest: r.Item.Descriptor.Digest, Size: int64(len(r.Item.Data))}
		if r.Tag != "" {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: r.Tag}
		}
		if !slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	return image.WriteArchive(ctx, file, blobs, list)
}

// dockerArchive writes one image as docker save does.
func dockerArchive(ctx context.Context, p *places, file string, item *assemble.Item, name string) error {
	dir, err := os.MkdirTemp("", "anyarch-config-")
	if err != nil {
		return err
	}
	p.closes = append(p.closes, func() { os.RemoveAll(dir) })
	st, err := store.Create(dir)
	if err != nil {
		return err
	}
	if _, err := st.Write(item.Config); err != nil {
		return err
	}
	img := image.Image{Platform: item.Platform(), Manifest: item.Descriptor, Config: item.Manifest.Config}
	for _, l := range item.Manifest.Layers {
		img.Layers = append(img.Layers, image.Layer{Descriptor: l})
	}
	multi := image.Multi{Index: item.Descriptor, Images: []image.Image{img}, Store: st, Open: func(ctx context.Context, l image.Layer) (io.ReadCloser, error) {
		return item.Place.Fetch(ctx, l.Descriptor)
	}}
	return multi.WriteDockerArchive(ctx, file, []string{name})
}
