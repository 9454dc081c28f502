package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
)

// toolsFlags are those of docker buildx imagetools create.
type toolsFlags struct {
	tags, files, platforms []string
	annotations            []string
	appendTo, dryRun       bool
	preferIndex            bool
	metadataFile           string
}

func (a *app) dockerToolsCreate() *cobra.Command {
	var x toolsFlags
	cmd := &cobra.Command{
		Use: "create [OPTIONS] [SOURCE...]", Short: "Create a new image based on source images", Args: dockerArgs(0, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if len(list)+len(x.files) == 0 {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: "no sources specified", Fix: []string{cmd.UseLine()}}
			}
			if len(x.tags) == 0 && !x.dryRun {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: cmd.CommandPath(), Summary: "can't push without a tag", Fix: []string{"-t registry.example.com/app:1.0", "--dry-run"}}
			}
			return a.toolsCreate(cmd.Context(), &x, list)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&x.tags, "tag", "t", nil, "Set `REFERENCE` for new image")
	f.StringArrayVarP(&x.files, "file", "f", nil, "Read source descriptor from `FILE`")
	f.BoolVar(&x.appendTo, "append", false, "Append to existing manifest")
	f.BoolVar(&x.dryRun, "dry-run", false, "Show final image instead of pushing")
	f.BoolVar(&x.preferIndex, "prefer-index", true, "When only a single source is specified, prefer outputting an image index or manifest list instead of performing a carbon copy")
	f.StringArrayVarP(&x.platforms, "platform", "p", nil, "Filter specified `PLATFORMS` of target image")
	f.StringArrayVar(&x.annotations, "annotation", nil, "Add `[index:|manifest-descriptor:]KEY=VALUE` annotation to the image")
	f.StringVar(&x.metadataFile, "metadata-file", "", "Write create result metadata to a `FILE`")
	return cmd
}

func (a *app) toolsCreate(ctx context.Context, x *toolsFlags, sources []string) error {
	event, err := a.show(1)
	if err != nil {
		return err
	}
	begin := time.Now()
	p := a.newPlaces()
	defer p.close()
	p.dry = x.dryRun
	var targets []string
	var refused refusal.Collect
	for _, tag := range x.tags {
		name, err := tagTarget(tag)
		refused.Add(err)
		targets = append(targets, name)
	}
	index, entries, err := toolsAnnotations(x.annotations)
	refused.Add(err)
	o := assemble.Options{}
	if o.Platforms, err = platform.ParseList(x.platforms); err != nil {
		refused.Add(err)
	}
	if err := refused.Err(); err != nil {
		return err
	}
	destinations, err := p.destinations("-t", targets, nil)
	if err != nil {
		return err
	}
	reader := assemble.NewReader()
	items, err := a.toolsSources(ctx, p, reader, x, sources, destinations)
	if err != nil {
		return err
	}
	kept, err := a.openCache()
	if err != nil {
		return err
	}
	plain := len(items) == 1 && !x.appendTo && len(x.annotations) == 0 && len(x.platforms) == 0
	if plain && (items[0].Kind == assemble.KindIndex || !x.preferIndex) {
		return a.toolsCopy(ctx, x, items[0], destinations, kept.Memo(), begin)
	}
	req := assemble.Request{
		Edits: x.appendTo, Destinations: destinations, Latest: publish.LatestAlways, Reader: reader, Cache: kept.Memo(), DryRun: x.dryRun, Event: event, Guard: x.appendTo,
		Make: func(_ context.Context, base *assemble.Item) (*assemble.Draft, error) {
			d := &assemble.Draft{Name: strings.Join(x.tags, ", ")}
			if base != nil {
				var err error
				if d, err = assemble.Edit(base); err != nil {
					return nil, err
				}
			}
			if err := d.Add(o, items...); err != nil {
				return nil, err
			}
			if err := d.Annotate("", assemble.Change{Annotations: index}); err != nil {
				return nil, err
			}
			for i := range d.Entries {
				if d.Entries[i].Item.Kind == assemble.KindImage && len(entries) > 0 {
					d.Entries[i].Descriptor.Annotations = annotated(d.Entries[i].Descriptor.Annotations, entries)
				}
			}
			return d, nil
		},
	}
	outcome, err := assemble.Publish(ctx, req)
	if err != nil {
		return err
	}
	if err := a.showIndex(outcome, x.appendTo, x.dryRun, begin); err != nil {
		return err
	}
	if x.dryRun {
		return a.printReindented(outcome.Data, "  ")
	}
	return a.toolsMetadata(x, outcome.Descriptor, targets)
}

// toolsSources reads the sources: references, digests in the repository of the first
// tag, and files with a descriptor.
func (a *app) toolsSources(ctx context.Context, p *places, reader *assemble.Reader, x *toolsFlags, sources []string, destinations []assemble.Destination) ([]*assemble.Item, error) {
	own := func(place string) (assemble.Place, error) {
		if len(destinations) == 0 {
			return assemble.Place{}, &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: place, Summary: "in which repository? a digest alone is one of the repository of -t", Fix: []string{"-t registry.example.com/app:1.0"}}
		}
		return destinations[0].Place, nil
	}
	var wanted []assemble.Wanted
	overrides := map[int]ocispec.Descriptor{}
	var refused refusal.Collect
	for _, file := range x.files {
		data, err := os.ReadFile(a.absolute(file))
		var d ocispec.Descriptor
		if err == nil {
			err = json.Unmarshal(data, &d)
		}
		if err == nil {
			err = d.Digest.Validate()
		}
		if err != nil {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--file " + file, Summary: "not a descriptor", Seen: []string{err.Error()}, Fix: []string{`{"digest": "sha256:…", "platform": {"os": "linux", "architecture": "arm64"}}`}})
			continue
		}
		place, err := own("--file " + file)
		refused.Add(err)
		overrides[len(wanted)] = d
		wanted = append(wanted, assemble.Wanted{Place: place, Identifier: d.Digest.String()})
	}
	for _, text := range sources {
		if _, err := digest.Parse(text); err == nil {
			place, err := own(text)
			refused.Add(err)
			wanted = append(wanted, assemble.Wanted{Place: place, Identifier: text})
			continue
		}
		if strings.HasPrefix(text, "oci-layout://") {
			text = "oci:" + strings.TrimPrefix(text, "oci-layout://")
		} else if ref, err := imagestore.Canonical(text); err == nil {
			text = ref.String()
		}
		w, err := p.source(text)
		if err != nil && !refused.Add(err) {
			return nil, err
		}
		wanted = append(wanted, w)
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	items, err := reader.ReadAll(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for i, d := range overrides {
		item := *items[i]
		if d.Platform != nil {
			item.Descriptor.Platform = d.Platform
		}
		if d.Annotations != nil {
			item.Descriptor.Annotations = d.Annotations
		}
		items[i] = &item
	}
	return items, nil
}

// toolsCopy lets tags name one image or index as it is.
func (a *app) toolsCopy(ctx context.Context, x *toolsFlags, item *assemble.Item, destinations []assemble.Destination, cache prove.Cache, begin time.Time) error {
	if x.dryRun {
		return a.printReindented(item.Data, "  ")
	}
	event := a.screen.Sink()
	report, err := prove.Verify(ctx, assemble.NewSource(item), item.Descriptor, prove.Options{Depth: prove.DepthConfig, Progress: event, Cache: cache})
	if err != nil {
		return err
	}
	// A copy says what its source does; what is wrong with it is said too.
	o := &assemble.Outcome{Draft: &assemble.Draft{}, Descriptor: item.Descriptor, Data: item.Data, Report: report}
	var moves []*publish.Retag
	for _, d := range destinations {
		stats, err := assemble.Send(ctx, d.Repo, event, item)
		if err != nil {
			return err
		}
		plan, err := publish.PlanRetag(ctx, d.Repo, d.Tags, item.Descriptor, item.Data, publish.LatestAlways)
		if err != nil {
			return err
		}
		moves = append(moves, plan)
		o.Pushed = append(o.Pushed, assemble.Pushed{Repository: d.Repo.Name(), Moves: plan.Moves, Stats: stats})
	}
	if err := publish.MoveAll(ctx, event, moves...); err != nil {
		return err
	}
	if err := a.showIndex(o, false, false, begin); err != nil {
		return err
	}
	return a.toolsMetadata(x, item.Descriptor, nil)
}

func (a *app) toolsMetadata(x *toolsFlags, d ocispec.Descriptor, names []string) error {
	if x.metadataFile == "" {
		return nil
	}
	if names == nil {
		for _, tag := range x.tags {
			name, err := tagTarget(tag)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
	}
	data, err := json.MarshalIndent(map[string]any{
		"containerimage.descriptor": ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, "containerimage.digest": d.Digest, "image.name": strings.Join(names, ","),
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.absolute(x.metadataFile), append(data, '\n'), 0o644); err != nil {
		return &refusal.Error{Code: "PA602", Place: "--metadata-file " + x.metadataFile, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	return nil
}

// toolsAnnotations sorts annotations by what they are on: the index, or its entries.
func toolsAnnotations(list []string) (index, entries map[string]string, err error) {
	index, entries = map[string]string{}, map[string]string{}
	var refused refusal.Collect
	for _, text := range list {
		level, rest, found := strings.Cut(text, ":")
		if key, _, _ := strings.Cut(text, "="); len(level) > len(key) || strings.Contains(level, ".") {
			found = false
		}
		k, v, ok := strings.Cut(rest, "=")
		switch {
		case found && ok && level == "index":
			index[k] = v
		case found && ok && level == "manifest-descriptor":
			entries[k] = v
		default:
			refused.Add(&refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--annotation " + text, Summary: "an index that is put together has annotations of its own and of its entries; manifests stay as they are", Fix: []string{fmt.Sprintf("--annotation index:%s", text[strings.LastIndex(text[:max(0, strings.Index(text, "="))], ":")+1:]), "--annotation manifest-descriptor:KEY=VALUE"}})
		}
	}
	return index, entries, refused.Err()
}
