package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// directRepository opens a repository for writing.
func (a *app) directRepository(name string) (*registry.Repository, error) {
	client, err := a.registryClient()
	if err != nil {
		return nil, err
	}
	repo, err := client.Repository(name)
	if err != nil {
		return nil, err
	}
	return repo.Direct(), nil
}

func (a *app) dockerPushCommand() *cobra.Command {
	var all, quiet bool
	var only string
	cmd := &cobra.Command{
		Use: "push [OPTIONS] NAME[:TAG]", Short: "Push an image of this machine, with all its platforms", Args: dockerArgs(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if quiet {
				a.progress = "quiet"
			}
			event, err := a.show(1)
			if err != nil {
				return err
			}
			images, err := a.images()
			if err != nil {
				return err
			}
			ref, err := imagestore.Canonical(list[0])
			if err != nil {
				return err
			}
			switch {
			case ref.Digest != "":
				return &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: list[0], Summary: "an image is pushed by a tag", Fix: []string{"docker push " + imagestore.Familiar(ref.Repository) + ":1.0"}}
			case all && strings.HasSuffix(list[0], ":"+ref.Tag):
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "docker push --all-tags " + list[0], Summary: "a tag and --all-tags exclude each other", Fix: []string{"docker push --all-tags " + imagestore.Familiar(ref.Repository)}}
			}
			tags := []string{ref.Tag}
			if all {
				if tags, err = tagsHere(images, ref.Repository); err != nil {
					return err
				}
			}
			repo, err := a.directRepository(ref.Repository)
			if err != nil {
				return err
			}
			if !quiet {
				if err := a.printLine("The push refers to repository [" + ref.Repository + "]"); err != nil {
					return err
				}
			}
			var found []imagestore.Image
			for _, tag := range tags {
				name := ref.Repository + ":" + tag
				img, err := images.Find(name)
				if errors.Is(err, store.ErrNotFound) {
					return &refusal.Error{Code: "PA444", Kind: refusal.Usage, Place: name, Summary: "An image does not exist locally with the tag: " + imagestore.Familiar(ref.Repository), Err: store.ErrNotFound, Fix: []string{"docker build -t " + imagestore.Familiar(name) + " .", "docker tag IMAGE " + imagestore.Familiar(name)}}
				}
				if err != nil {
					return err
				}
				if only != "" {
					if img, err = a.onePlatform(cmd.Context(), images, img, only, name); err != nil {
						return err
					}
				}
				found = append(found, img)
			}
			if err := a.pushImages(cmd.Context(), images, repo, event, found, tags); err != nil {
				return err
			}
			a.screen.Clear()
			for i, tag := range tags {
				line := fmt.Sprintf("%s: digest: %s size: %d", tag, found[i].Descriptor.Digest, found[i].Descriptor.Size)
				if quiet {
					line = ref.Repository + ":" + tag
				}
				if err := a.printLine(line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all-tags", "a", false, "push all tags of the repository")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the reference and nothing else")
	cmd.Flags().StringVar(&only, "platform", "", "push this one `PLATFORM` alone")
	return cmd
}

// tagsHere lists the tags of a repository on this machine.
func tagsHere(images *imagestore.Store, repository string) ([]string, error) {
	list, err := images.List()
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, img := range list {
		for _, name := range img.Names {
			if tag, ok := strings.CutPrefix(name, repository+":"); ok {
				tags = append(tags, tag)
			}
		}
	}
	if slices.Sort(tags); len(tags) == 0 {
		return nil, &refusal.Error{Code: "PA444", Kind: refusal.Usage, Place: repository, Summary: "An image does not exist locally with the tag: " + imagestore.Familiar(repository), Err: store.ErrNotFound}
	}
	return tags, nil
}

// onePlatform is the image of one platform of an index.
func (a *app) onePlatform(ctx context.Context, images *imagestore.Store, img imagestore.Image, text, place string) (imagestore.Image, error) {
	wanted, err := platform.Parse(text)
	if err != nil {
		return img, err
	}
	manifests, err := images.Manifests(ctx, img)
	if err != nil {
		return img, err
	}
	var there []string
	for _, m := range manifests {
		if !m.Runnable() {
			continue
		}
		p := platform.FromOCI(m.Descriptor.Platform)
		if p == wanted {
			img.Descriptor = m.Descriptor
			return img, nil
		}
		there = append(there, p.String())
	}
	return img, &refusal.Error{Code: "PA109", Kind: refusal.Usage, Platform: text, Place: place, Summary: "the image doesn't have this platform", Seen: []string{"it has " + strings.Join(there, ", ")}}
}

// pushImages uploads images of this machine to one repository and then moves the
// tags, of all images or of none.
func (a *app) pushImages(ctx context.Context, images *imagestore.Store, repo *registry.Repository, event progress.Sink, list []imagestore.Image, tags []string) error {
	var moves []*publish.Retag
	reader := assemble.NewReader()
	for i, img := range list {
		// The repository may have lost what it once had, so that nothing is taken as
		// being there; but blobs may be mounted from where the image is known to be.
		place := assemble.Place{Source: images.Source(img), Name: imagestore.Familiar(repo.Name()), Repository: mountable(img.From, repo.Name())}
		item, err := reader.Read(ctx, place, img.Descriptor.Digest.String())
		if err != nil {
			return err
		}
		retag, err := publish.PlanRetag(ctx, repo, tags[i:i+1], item.Descriptor, item.Data, publish.LatestAlways)
		if err != nil {
			return err
		}
		if _, err := assemble.Send(ctx, repo, event, item); err != nil {
			return err
		}
		moves = append(moves, retag)
	}
	if err := publish.MoveAll(ctx, event, moves...); err != nil {
		return err
	}
	for _, img := range list {
		if err := images.Pushed(ctx, img.Descriptor.Digest, repo.Name()); err != nil {
			return err
		}
	}
	return nil
}

// mountable is from, if it is another repository of the same registry.
func mountable(from, to string) string {
	host, _, _ := strings.Cut(to, "/")
	if from == to || !strings.HasPrefix(from, host+"/") {
		return ""
	}
	return from
}

func platformName(d ocispec.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return platform.FromOCI(d.Platform).String()
}

func (a *app) dockerPullCommand() *cobra.Command {
	var all, quiet bool
	var only string
	cmd := &cobra.Command{
		Use: "pull [OPTIONS] NAME[:TAG|@DIGEST]", Short: "Take an image from a registry, with all its platforms", Args: dockerArgs(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			ctx := cmd.Context()
			if _, err := a.show(1); err != nil {
				return err
			}
			images, err := a.images()
			if err != nil {
				return err
			}
			given, err := registry.ParseReference(list[0])
			if err != nil {
				return err
			}
			client, err := a.registryClient()
			if err != nil {
				return err
			}
			repo, err := client.Repository(given.Repository)
			if err != nil {
				return err
			}
			say := func(text string) error {
				if quiet {
					return nil
				}
				return a.printLine(text)
			}
			wanted := []string{first(given.Identifier(), "latest")}
			switch {
			case all && given.Identifier() != "":
				return &refusal.Error{Code: "PA505", Kind: refusal.Usage, Place: "docker pull --all-tags " + list[0], Summary: "a tag and --all-tags exclude each other", Fix: []string{"docker pull --all-tags " + imagestore.Familiar(given.Repository)}}
			case all:
				if wanted, err = repo.Tags(ctx); err != nil {
					return err
				}
			case given.Identifier() == "":
				if err := say("Using default tag: latest"); err != nil {
					return err
				}
			}
			for _, tag := range wanted {
				ref := registry.Reference{Repository: given.Repository, Tag: tag}
				if given.Digest != "" {
					ref = registry.Reference{Repository: given.Repository, Digest: given.Digest}
				}
				if err := say(tag + ": Pulling from " + given.Repository[strings.Index(given.Repository, "/")+1:]); err != nil {
					return err
				}
				status, d, err := a.pull(ctx, images, repo, ref, only)
				if err != nil {
					return err
				}
				if err := say("Digest: " + d.Digest.String()); err != nil {
					return err
				}
				if err := say("Status: " + status + " " + imagestore.Familiar(ref.String())); err != nil {
					return err
				}
				if err := a.printLine(ref.String()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all-tags", "a", false, "pull all tags of the repository")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the reference and nothing else")
	cmd.Flags().StringVar(&only, "platform", "", "take this `PLATFORM` alone (default all of them)")
	hideDisabledTrust(cmd)
	return cmd
}

// hideDisabledTrust takes --disable-content-trust, which is docker's default.
func hideDisabledTrust(cmd *cobra.Command) {
	cmd.Flags().Bool("disable-content-trust", true, "")
	_ = cmd.Flags().MarkHidden("disable-content-trust")
}

// pull takes one image into the store and names it.
func (a *app) pull(ctx context.Context, images *imagestore.Store, repo image.Source, ref registry.Reference, only string) (status string, d ocispec.Descriptor, err error) {
	d, err = repo.Resolve(ctx, ref.Identifier())
	if errors.Is(err, store.ErrNotFound) {
		return "", d, a.notFound(ctx, &opened{source: repo, name: ref.String()}, ref.String(), ref.Identifier())
	}
	if err != nil {
		return "", d, err
	}
	if only != "" && image.IsIndex(d.MediaType) {
		wanted, err := platform.Parse(only)
		if err != nil {
			return "", d, err
		}
		var index ocispec.Index
		if _, err := image.FetchJSON(ctx, repo, d, &index); err != nil {
			return "", d, err
		}
		i := slices.IndexFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			return imagestore.Runnable(m) && platform.FromOCI(m.Platform) == wanted
		})
		if i < 0 {
			var there []string
			for _, m := range index.Manifests {
				if imagestore.Runnable(m) {
					there = append(there, platformName(m))
				}
			}
			return "", d, &refusal.Error{Code: "PA109", Kind: refusal.Usage, Platform: only, Place: ref.String(), Summary: "the image doesn't have this platform", Seen: []string{"it has " + strings.Join(there, ", ")}}
		}
		d = index.Manifests[i]
	}
	status = "Downloaded newer image for"
	if img, err := images.Find(ref.String()); err == nil && img.Descriptor.Digest == d.Digest {
		status = "Image is up to date for"
	}
	var names []string
	if ref.Digest == "" {
		names = []string{ref.String()}
	}
	absent, err := images.Add(ctx, names, repo, d, ref.Repository)
	if err == nil && len(absent) > 0 {
		err = &refusal.Error{Code: "PA206", Place: ref.String(), Summary: "the registry lacks a part of the image", Seen: []string{"missing: " + strings.Join(absent, ", ")}}
	}
	return status, d, err
}
