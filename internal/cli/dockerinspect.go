package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/manifestlist"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// verboseManifest is docker manifest inspect --verbose's, with docker's names.
type verboseManifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte            `json:",omitempty"`
	SchemaV2Manifest *ocispec.Manifest `json:",omitempty"`
	OCIManifest      *ocispec.Manifest `json:",omitempty"`
}

// localList is the document of a list under creation, in docker's order of fields.
type localList struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []localEntry `json:"manifests"`
}

type localEntry struct {
	MediaType string            `json:"mediaType"`
	Size      int64             `json:"size"`
	Digest    string            `json:"digest"`
	Platform  *ocispec.Platform `json:"platform,omitempty"`
}

func (a *app) dockerManifestInspect() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST", Short: "Display an image manifest, or manifest list", Args: dockerArgs(1, 2),
		RunE: func(cmd *cobra.Command, list []string) error {
			lists, err := a.lists()
			if err != nil {
				return err
			}
			ref, err := imagestore.Canonical(list[len(list)-1])
			if err != nil {
				return err
			}
			if len(list) == 2 {
				name, err := imagestore.Canonical(list[0])
				if err != nil {
					return err
				}
				return a.inspectEntry(lists, name, ref, verbose)
			}
			l, err := lists.Get(ref.String())
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			// A list that was pushed is what the registry has, or had.
			if l != nil && l.Pushed == "" {
				return a.inspectList(l, verbose)
			}
			return a.inspectRemote(cmd.Context(), ref, verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	a.insecureFlag(cmd)
	return cmd
}

func (a *app) inspectEntry(lists *manifestlist.Store, name, ref registry.Reference, verbose bool) error {
	absent := &refusal.Error{Code: "PA448", Kind: refusal.Usage, Place: ref.String(), Summary: "No such manifest: " + ref.String(), Err: store.ErrNotFound, Fix: []string{"docker manifest inspect " + imagestore.Familiar(ref.String())}}
	l, err := lists.Get(name.String())
	if errors.Is(err, store.ErrNotFound) {
		return absent
	}
	if err != nil {
		return err
	}
	i := l.Find(ref.String(), ref.Digest)
	if i < 0 {
		return absent
	}
	e := l.Entries[i]
	if verbose {
		v, err := verboseOf(e.Ref, e.Descriptor, e.Manifest)
		if err != nil {
			return err
		}
		return a.printIndented(v, "\t")
	}
	return a.printReindented(e.Manifest, "\t")
}

func verboseOf(ref string, d ocispec.Descriptor, data []byte) (verboseManifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return verboseManifest{}, err
	}
	v := verboseManifest{Ref: ref, Descriptor: d, Raw: data}
	if d.MediaType == image.DockerManifest {
		v.SchemaV2Manifest = &m
	} else {
		v.OCIManifest = &m
	}
	return v, nil
}

func (a *app) inspectList(l *manifestlist.List, verbose bool) error {
	if verbose {
		all := []verboseManifest{}
		for _, e := range l.Entries {
			v, err := verboseOf(e.Ref, e.Descriptor, e.Manifest)
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		return a.printIndented(all, "\t")
	}
	document := localList{SchemaVersion: 2, MediaType: image.DockerManifestList, Manifests: []localEntry{}}
	for _, e := range l.Entries {
		if e.Descriptor.MediaType != image.DockerManifest {
			document.MediaType = ocispec.MediaTypeImageIndex
		}
		document.Manifests = append(document.Manifests, localEntry{e.Descriptor.MediaType, e.Descriptor.Size, e.Descriptor.Digest.String(), e.Descriptor.Platform})
	}
	return a.printIndented(document, "   ")
}

// inspectRemote shows what a registry has. Unlike docker's it is what the registry has:
// annotations stay.
func (a *app) inspectRemote(ctx context.Context, ref registry.Reference, verbose bool) error {
	p := a.newPlaces()
	defer p.close()
	d, err := p.repository(ref.Repository)
	if err != nil {
		return err
	}
	items, err := assemble.NewReader().ReadAll(ctx, []assemble.Wanted{{Place: d.Place, Identifier: ref.Identifier()}})
	if err != nil {
		return a.noSuchManifest(err, []registry.Reference{ref})
	}
	item := items[0]
	switch {
	case !verbose && item.Kind == assemble.KindIndex:
		return a.printReindented(item.Data, "   ")
	case !verbose:
		return a.printReindented(item.Data, "\t")
	case item.Kind != assemble.KindIndex:
		v, err := verboseOf(ref.String(), item.Descriptor, item.Data)
		if err != nil {
			return err
		}
		return a.printIndented(v, "\t")
	}
	all := []verboseManifest{}
	for _, c := range item.Children {
		if c.Missing != nil || c.Data == nil || c.Kind == assemble.KindIndex {
			continue
		}
		v, err := verboseOf(ref.String()+"@"+c.Descriptor.Digest.String(), c.Descriptor, c.Data)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	return a.printIndented(all, "\t")
}

func (a *app) printIndented(v any, indent string) error {
	data, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		return err
	}
	return a.printLine(string(data))
}

func (a *app) printReindented(data []byte, indent string) error {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", indent); err != nil {
		return err
	}
	return a.printLine(strings.TrimSpace(b.String()))
}

// toolsImage is what buildx imagetools inspect's templates know of an image.
type toolsImage struct {
	Name     string
	Manifest toolsManifest
	Image    any // the config, or of an index the configs by platform
}

type toolsManifest struct {
	SchemaVersion int                  `json:"schemaVersion,omitempty"`
	MediaType     string               `json:"mediaType,omitempty"`
	Digest        string               `json:"digest"`
	Size          int64                `json:"size"`
	Manifests     []ocispec.Descriptor `json:"manifests,omitempty"`
	Annotations   map[string]string    `json:"annotations,omitempty"`
}

func (a *app) dockerToolsInspect() *cobra.Command {
	var raw bool
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME", Short: "Show details of an image in the registry", Args: dockerArgs(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if raw && format != "" {
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "docker buildx imagetools inspect", Summary: "--raw and --format exclude each other", Fix: []string{"--raw"}}
			}
			p := a.newPlaces()
			defer p.close()
			ref, err := imagestore.Canonical(list[0])
			if err != nil {
				return err
			}
			d, err := p.repository(ref.Repository)
			if err != nil {
				return err
			}
			items, err := assemble.NewReader().ReadAll(cmd.Context(), []assemble.Wanted{{Place: d.Place, Identifier: ref.Identifier()}})
			if err != nil {
				return err
			}
			item := items[0]
			switch {
			case raw:
				_, err := a.Stdout.Write(item.Data)
				return err
			case format != "":
				return a.formatTools(ref, item, format)
			}
			return a.printTools(ref, item)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "Show original, unformatted JSON manifest")
	cmd.Flags().StringVar(&format, "format", "", "Go `TEMPLATE` of .Name, .Manifest and .Image")
	return cmd
}

func (a *app) formatTools(ref registry.Reference, item *assemble.Item, format string) error {
	v := toolsImage{Name: ref.String(), Manifest: toolsManifest{
		SchemaVersion: 2, MediaType: item.Descriptor.MediaType, Digest: item.Descriptor.Digest.String(), Size: item.Descriptor.Size,
		Manifests: item.Index.Manifests, Annotations: item.Index.Annotations,
	}}
	if item.Kind == assemble.KindIndex {
		configs := map[string]json.RawMessage{}
		for _, i := range item.Images() {
			if i.Config != nil {
				configs[i.Platform().String()] = i.Config
			}
		}
		v.Image = configs
	} else {
		v.Manifest.Annotations = item.Manifest.Annotations
		v.Image = json.RawMessage(item.Config)
	}
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := dockerTemplate(format)
	if err != nil {
		return err
	}
	return executeLine(a.Stdout, t, v)
}

// printTools writes what buildx imagetools inspect does.
func (a *app) printTools(ref registry.Reference, item *assemble.Item) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Name:      %s\nMediaType: %s\nDigest:    %s\n", ref, item.Descriptor.MediaType, item.Descriptor.Digest)
	if item.Kind == assemble.KindIndex {
		b.WriteString("           \nManifests: \n")
		for i, m := range item.Index.Manifests {
			if i > 0 {
				b.WriteString("             \n")
			}
			fmt.Fprintf(&b, "  Name:        %s@%s\n  MediaType:   %s\n", ref, m.Digest, m.MediaType)
			if m.Platform != nil {
				fmt.Fprintf(&b, "  Platform:    %s\n", toolsPlatform(m.Platform))
			}
			for k, key := range sortedKeys(m.Annotations) {
				head := ""
				if k == 0 {
					head = "Annotations:"
				}
				fmt.Fprintf(&b, "  %-12s %s: %s\n", head, key, m.Annotations[key])
			}
		}
	}
	return a.printLine(strings.TrimSuffix(b.String(), "\n"))
}

func toolsPlatform(p *ocispec.Platform) string {
	if p.OS == "unknown" {
		return p.OS + "/" + p.Architecture
	}
	return platform.FromOCI(p).String()
}
