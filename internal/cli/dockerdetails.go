package cli

import (
	"context"
	"encoding/json"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// imageDetails is what docker inspect says of an image, as far as it is true without
// an engine. Of an index it is the image for this machine, else its first.
type imageDetails struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Created      string
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	OsVersion    string `json:",omitempty"`
	Size         int64
	Config       map[string]any
	RootFS       detailsRootFS
	Descriptor   ocispec.Descriptor
}

type detailsRootFS struct {
	Type   string
	Layers []string
}

// Id is what templates call the digest.
//
//nolint:revive // docker's name
func (d imageDetails) Id() string { return d.ID }

func (a *app) dockerInspectCommand() *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] IMAGE [IMAGE...]", Short: "Show what images of this machine are", Args: dockerArgs(1, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if kind != "" && kind != "image" {
				return &refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--type " + kind, Summary: "this is anyarch in docker's place: there are images and nothing else", Fix: []string{"--type image"}}
			}
			images, err := a.images()
			if err != nil {
				return err
			}
			var refused refusal.Collect
			all := []imageDetails{}
			for _, text := range list {
				img, err := images.Find(text)
				if err == nil {
					var d imageDetails
					if d, err = detailsOf(cmd.Context(), images, img); err == nil {
						all = append(all, d)
					}
				}
				if err != nil && !refused.Add(err) {
					return err
				}
			}
			if format == "" || format == "json" {
				if err := a.printIndented(all, "    "); err != nil {
					return err
				}
				return refused.Err()
			}
			t, err := dockerTemplate(format)
			if err != nil {
				return err
			}
			for _, d := range all {
				if err := executeLine(a.Stdout, t, d); err != nil {
					return err
				}
			}
			return refused.Err()
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go `TEMPLATE`")
	cmd.Flags().StringVar(&kind, "type", "", "image")
	return cmd
}

func detailsOf(ctx context.Context, images *imagestore.Store, img imagestore.Image) (imageDetails, error) {
	d := imageDetails{ID: img.Descriptor.Digest.String(), RepoTags: []string{}, RepoDigests: []string{}, Descriptor: img.Descriptor}
	for _, name := range img.Names {
		d.RepoTags = append(d.RepoTags, imagestore.Familiar(name))
	}
	if img.From != "" {
		d.RepoDigests = append(d.RepoDigests, imagestore.Familiar(img.From)+"@"+d.ID)
	}
	manifests, err := images.Manifests(ctx, img)
	if err != nil {
		return d, err
	}
	chosen := -1
	for i, m := range manifests {
		if m.Runnable() && (chosen < 0 || platform.FromOCI(m.Descriptor.Platform) == platform.Local()) {
			chosen = i
		}
	}
	if chosen < 0 {
		return d, nil
	}
	m := manifests[chosen]
	var raw struct {
		Config map[string]any `json:"config"`
	}
	data, err := image.FetchJSON(ctx, images.Source(img), m.Config, &raw)
	if err != nil {
		return d, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return d, err
	}
	d.Config, d.Architecture, d.Variant, d.Os, d.OsVersion = raw.Config, config.Architecture, config.Variant, config.OS, config.OSVersion
	if config.Created != nil {
		d.Created = config.Created.Format(time.RFC3339Nano)
	}
	d.RootFS.Type = config.RootFS.Type
	for _, id := range config.RootFS.DiffIDs {
		d.RootFS.Layers = append(d.RootFS.Layers, id.String())
	}
	for _, l := range append(m.Layers, m.Config) {
		d.Size += l.Size
	}
	return d, nil
}
