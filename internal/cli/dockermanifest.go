package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/manifestlist"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
	"github.com/anyarch/anyarch/internal/store"
)

// dockerManifestCommands are docker manifest's: a list is made on this machine, step by
// step, and pushed at last. What its users have asked of it since 2018 differs: create
// takes all sources or none, and reads them again with --amend; a list that was pushed
// is done; what annotate says is compared with the image; push proves before it tags,
// and copies where it can't mount.
func (a *app) dockerManifestCommands() []*cobra.Command {
	return []*cobra.Command{a.dockerManifestCreate(), a.dockerManifestAnnotate(), a.dockerManifestInspect(), a.dockerManifestPush(), a.dockerManifestRemove()}
}

// lists opens the lists under creation.
func (a *app) lists() (*manifestlist.Store, error) {
	dir, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	return manifestlist.Open(filepath.Join(dir, "manifests")), nil
}

// listName reads the name of a list. what is put before docker's words if it isn't one.
func listName(what, text string) (registry.Reference, error) {
	ref, err := imagestore.Canonical(text)
	if err != nil {
		var refused *refusal.Error
		if errors.As(err, &refused) {
			e := *refused
			e.Summary = what + ": " + e.Summary
			return ref, &e
		}
		return ref, err
	}
	return ref, nil
}

func (a *app) dockerManifestCreate() *cobra.Command {
	var amend bool
	cmd := &cobra.Command{
		Use: "create MANIFEST_LIST MANIFEST [MANIFEST...]", Short: "Create a local manifest list for annotating and pushing to a registry", Args: dockerArgs(2, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			ref, err := listName("error parsing name for manifest list "+list[0], list[0])
			if err != nil {
				return err
			}
			if ref.Digest != "" {
				return &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: list[0], Summary: "a list is named by a tag; its digest follows from its content", Fix: []string{"docker manifest create " + imagestore.Familiar(ref.Repository) + ":" + first(ref.Tag, "1.0") + " " + strings.Join(list[1:], " ")}}
			}
			lists, err := a.lists()
			if err != nil {
				return err
			}
			entries, err := a.readEntries(cmd.Context(), list[0], list[1:])
			if err != nil {
				return err
			}
			var refused error
			err = lists.Update(cmd.Context(), ref.String(), func(old *manifestlist.List) (*manifestlist.List, error) {
				if old == nil || old.Pushed != "" && !amend {
					return &manifestlist.List{Entries: entries}, nil
				}
				if !amend && !sameImages(old.Entries, entries) {
					refused = amendRefused(list[0])
					old.Stale = "docker manifest create was refused, with other images"
					return old, nil
				}
				old.Stale, old.Pushed = "", ""
				if amend {
					for _, e := range entries {
						if i := old.Find(e.Ref, ""); i >= 0 {
							if old.Entries[i].Descriptor.Digest != e.Descriptor.Digest {
								old.Entries[i] = e
							}
							continue
						}
						old.Entries = append(old.Entries, e)
					}
				}
				return old, nil
			})
			if err = errors.Join(err, refused); err != nil {
				return err
			}
			return a.printLine("Created manifest list " + ref.String())
		},
	}
	cmd.Flags().BoolVarP(&amend, "amend", "a", false, "Amend an existing manifest list")
	a.insecureFlag(cmd)
	return cmd
}

func amendRefused(list string) error {
	return &refusal.Error{
		Code: "PA447", Kind: refusal.Usage, Place: list, Summary: "refusing to amend an existing manifest list with no --amend flag",
		Seen: []string{"the list was created before, with other images, and hasn't been pushed; it can't be, until it is clear which of them is meant"},
		Fix:  []string{"docker manifest rm " + list, "docker manifest create --amend " + list + " …"},
	}
}

// sameImages reports whether two lists were made of the same images, whatever was
// annotated since.
func sameImages(a, b []manifestlist.Entry) bool {
	return slices.EqualFunc(a, b, func(x, y manifestlist.Entry) bool {
		return x.Ref == y.Ref && x.Descriptor.Digest == y.Descriptor.Digest
	})
}

// insecureFlag is --insecure of docker manifest: any certificate will do, or none.
func (a *app) insecureFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.insecure, "insecure", false, "Allow communication with an insecure registry")
}

// readEntries reads the images of a list, all of them or none.
func (a *app) readEntries(ctx context.Context, list string, sources []string) ([]manifestlist.Entry, error) {
	p := a.newPlaces()
	defer p.close()
	reader := assemble.NewReader()
	var refused refusal.Collect
	var wanted []assemble.Wanted
	var refs []registry.Reference
	for _, text := range sources {
		ref, err := imagestore.Canonical(text)
		if err != nil {
			refused.Add(err)
			continue
		}
		d, err := p.repository(ref.Repository)
		if err != nil {
			if !refused.Add(err) {
				return nil, err
			}
			continue
		}
		refs = append(refs, ref)
		wanted = append(wanted, assemble.Wanted{Place: d.Place, Identifier: ref.Identifier()})
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	var entries []manifestlist.Entry
	items, err := reader.ReadAll(ctx, wanted)
	if err != nil {
		return nil, a.noSuchManifest(err, refs)
	}
	for i, item := range items {
		e, note, err := entryOf(refs[i], item, list, sources[i])
		refused.Add(err)
		entries = append(entries, e)
		if note != "" && err == nil {
			if _, err := fmt.Fprintln(a.Stderr, note); err != nil {
				return nil, err
			}
		}
	}
	return entries, refused.Err()
}

// noSuchManifest says in docker's words which images aren't in their registry, and
// which of them are on this machine.
func (a *app) noSuchManifest(err error, refs []registry.Reference) error {
	var changed refusal.Collect
	for _, e := range refusal.All(err) {
		if e.Code == "PA407" && errors.Is(e, store.ErrNotFound) {
			copied := *e
			copied.Code, copied.Summary, copied.Fix = "PA448", "no such manifest: "+e.Place, []string{"docker build --push -t " + imagestore.Familiar(e.Place) + " ."}
			for _, ref := range refs {
				if at := ref.Repository + ":" + ref.Tag; at == e.Place {
					if images, err := a.images(); err == nil {
						if _, err := images.Find(at); err == nil {
							copied.Seen, copied.Fix = []string{"it is on this machine, and was never pushed"}, []string{"docker push " + imagestore.Familiar(at)}
						}
					}
				}
			}
			e = &copied
		}
		changed.Add(e)
	}
	if list := changed.Err(); list != nil {
		return list
	}
	return err
}

// entryOf makes an entry of what was read. An index over one image stands for it: that
// is what docker build --push has made since attestations are its default.
func entryOf(ref registry.Reference, item *assemble.Item, list, text string) (e manifestlist.Entry, note string, err error) {
	e = stored(ref.String(), item)
	switch item.Kind {
	case assemble.KindImage:
		return e, "", nil
	case assemble.KindIndex:
	default:
		return e, "", &refusal.Error{Code: "PA452", Kind: refusal.Usage, Place: text, Summary: ref.String() + " is not a manifest of an image", Seen: []string{"it is an " + string(item.Kind) + ", " + item.Descriptor.ArtifactType}}
	}
	images := item.Images()
	if len(images) != 1 {
		e := &refusal.Error{
			Code: "PA452", Kind: refusal.Usage, Place: text, Summary: ref.String() + " is a manifest list",
			Fix: []string{"docker buildx imagetools create -t " + list + " " + text + " …"},
		}
		for _, i := range images {
			e.Seen = append(e.Seen, i.Platform().String()+" "+i.Descriptor.Digest.String())
			e.Fix = append(e.Fix, "docker manifest create "+list+" "+imagestore.Familiar(ref.Repository)+"@"+i.Descriptor.Digest.String()+" …")
		}
		return manifestlist.Entry{}, "", e
	}
	e = stored(ref.String(), images[0])
	_ = item.Walk(func(i *assemble.Item) error {
		if i.Kind == assemble.KindAttestation && i.Subject() == images[0].Descriptor.Digest.String() && i.Missing == nil {
			e.With = append(e.With, stored("", i))
		}
		return nil
	})
	if images[0].Missing != nil {
		return e, "", images[0].Missing
	}
	return e, fmt.Sprintf("%s is an index over one image, %s; the list has that, with its attestations", text, images[0].Platform()), nil
}

func stored(ref string, item *assemble.Item) manifestlist.Entry {
	return manifestlist.Entry{Ref: ref, Repository: item.Place.Repository, Descriptor: item.Descriptor, Manifest: item.Data, Config: item.Config}
}

func (a *app) dockerManifestAnnotate() *cobra.Command {
	var c assemble.Change
	var force bool
	cmd := &cobra.Command{
		Use: "annotate [OPTIONS] MANIFEST_LIST MANIFEST", Short: "Add additional information to a local image manifest", Args: dockerArgs(2, 2),
		RunE: func(cmd *cobra.Command, list []string) error {
			ctx := cmd.Context()
			name, err := listName("annotate: error parsing name for manifest list "+list[0], list[0])
			if err != nil {
				return err
			}
			ref, err := listName("annotate: error parsing name for manifest "+list[1], list[1])
			if err != nil {
				return err
			}
			lists, err := a.lists()
			if err != nil {
				return err
			}
			absent := &refusal.Error{Code: "PA448", Kind: refusal.Usage, Place: list[0], Summary: "manifest for image " + list[1] + " does not exist in " + list[0], Err: store.ErrNotFound, Fix: []string{"docker manifest create --amend " + list[0] + " " + list[1]}}
			l, err := lists.Get(name.String())
			if errors.Is(err, store.ErrNotFound) {
				return absent
			}
			if err != nil {
				return err
			}
			i := l.Find(ref.String(), ref.Digest)
			if i < 0 {
				for _, e := range l.Entries {
					absent.Seen = append(absent.Seen, "it has "+imagestore.Familiar(e.Ref))
				}
				return absent
			}
			if l.Stale != "" {
				return staleList(list[0], l)
			}
			changed := annotateEntry(l.Entries[i], c)
			if p := changed.Descriptor.Platform; !dockerKnows(p.OS, p.Architecture) {
				return &refusal.Error{Code: "PA453", Kind: refusal.Usage, Place: list[1], Summary: "manifest entry for image has unsupported os/arch combination: " + p.OS + "/" + p.Architecture, Fix: []string{"docker manifest annotate --os linux --arch arm64 " + list[0] + " " + list[1]}}
			}
			if c.OS+c.Architecture+c.Variant != "" {
				if changed.Forced, err = a.contradictions(ctx, changed); err != nil {
					return err
				}
				if len(changed.Forced) > 0 && !force {
					return contradicted(changed, list)
				}
				for _, f := range changed.Forced {
					if _, err := fmt.Fprintln(a.Stderr, "warning: "+f+"; the list says so all the same: --force"); err != nil {
						return err
					}
				}
			}
			return lists.Update(ctx, name.String(), func(now *manifestlist.List) (*manifestlist.List, error) {
				if now == nil {
					return nil, absent
				}
				i := now.Find(ref.String(), ref.Digest)
				if i < 0 || now.Entries[i].Descriptor.Digest != changed.Descriptor.Digest {
					return nil, absent
				}
				forced := changed.Forced
				if c.OS+c.Architecture+c.Variant == "" {
					forced = now.Entries[i].Forced
				}
				now.Entries[i] = annotateEntry(now.Entries[i], c)
				now.Entries[i].Forced, now.Pushed = forced, ""
				return now, nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Architecture, "arch", "", "Set architecture")
	f.StringVar(&c.OS, "os", "", "Set operating system")
	f.StringVar(&c.OSVersion, "os-version", "", "Set operating system version")
	f.StringSliceVar(&c.OSFeatures, "os-features", nil, "Set operating system feature")
	f.StringVar(&c.Variant, "variant", "", "Set architecture variant")
	f.BoolVar(&force, "force", false, "(anyarch) let the list say what contradicts the image, and record it")
	return cmd
}

func annotateEntry(e manifestlist.Entry, c assemble.Change) manifestlist.Entry {
	p := ocispec.Platform{}
	if e.Descriptor.Platform != nil {
		p = *e.Descriptor.Platform
	}
	p.OSFeatures = slices.Clone(p.OSFeatures)
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
	e.Descriptor.Platform = &p
	return e
}

// dockerKnows reports whether Go knows a pair of system and architecture: those of
// `go tool dist list`, and what docker manifest has accepted for older ones.
func dockerKnows(system, architecture string) bool {
	known := map[string]string{
		"aix": "ppc64", "android": "386 amd64 arm arm64", "darwin": "386 amd64 arm arm64", "dragonfly": "amd64", "freebsd": "386 amd64 arm arm64 riscv64",
		"illumos": "amd64", "ios": "amd64 arm64", "js": "wasm", "linux": "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x",
		"netbsd": "386 amd64 arm arm64", "openbsd": "386 amd64 arm arm64 ppc64 riscv64", "plan9": "386 amd64 arm", "solaris": "amd64", "wasip1": "wasm", "wasi": "wasm", "windows": "386 amd64 arm arm64",
	}
	return architecture != "" && slices.Contains(strings.Fields(known[system]), architecture)
}

// contradictions compares the entry of an image with its config and with the program
// that it starts.
func (a *app) contradictions(ctx context.Context, e manifestlist.Entry) ([]string, error) {
	event, err := a.show(1)
	if err != nil {
		return nil, err
	}
	kept, err := a.openCache()
	if err != nil {
		return nil, err
	}
	p := a.newPlaces()
	defer p.close()
	item, err := p.itemOf(e)
	if err != nil {
		return nil, err
	}
	d := &assemble.Draft{Entries: []assemble.Entry{{Descriptor: e.Descriptor, Item: item}}, MediaType: ocispec.MediaTypeImageIndex}
	report, err := d.Prove(ctx, prove.Options{Depth: prove.DepthEntrypoint, Progress: event, Cache: kept.Memo()})
	a.screen.Clear()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, f := range report.Findings {
		if f.Severity == prove.Error && slices.Contains([]string{prove.RulePlatform, prove.RuleEntrypoint, prove.RulePrograms}, f.Rule) {
			found = append(found, f.Rule+" "+f.Summary)
		}
	}
	return found, nil
}

// itemOf makes of a kept entry what was read when it was created.
func (p *places) itemOf(e manifestlist.Entry) (*assemble.Item, error) {
	d, err := p.repository(e.Repository)
	if err != nil {
		return nil, err
	}
	return assemble.Kept(d.Place, e.Descriptor, e.Manifest, e.Config)
}

func contradicted(e manifestlist.Entry, list []string) error {
	return &refusal.Error{
		Code: "PA423", Kind: refusal.Findings, Platform: platformName(e.Descriptor), Place: list[1], Summary: "the annotation contradicts the image",
		Seen: e.Forced, Fix: []string{"docker build --platform " + platformName(e.Descriptor) + " --push -t " + list[1] + " .", "docker manifest annotate --force …, if you know better"},
	}
}

func staleList(name string, l *manifestlist.List) error {
	e := amendRefused(name).(*refusal.Error)
	e.Summary = "this isn't the list that was created last: " + l.Stale
	return e
}

func (a *app) dockerManifestPush() *cobra.Command {
	var purge, force, duplicates bool
	cmd := &cobra.Command{
		Use: "push [OPTIONS] MANIFEST_LIST", Short: "Push a manifest list to a repository", Args: dockerArgs(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			ctx := cmd.Context()
			ref, err := imagestore.Canonical(list[0])
			if err != nil {
				return err
			}
			lists, err := a.lists()
			if err != nil {
				return err
			}
			l, err := lists.Get(ref.String())
			if errors.Is(err, store.ErrNotFound) {
				return noSuchList(ref.String(), list[0])
			}
			if err != nil {
				return err
			}
			if l.Stale != "" {
				return staleList(list[0], l)
			}
			o, err := a.pushList(ctx, ref, l, force, duplicates)
			if err != nil {
				return err
			}
			for _, e := range l.Entries {
				if e.Repository != ref.Repository {
					at := e.Descriptor.Digest.String()
					if err := a.printLine("Pushed ref " + ref.Repository + "@" + at + " with digest: " + at); err != nil {
						return err
					}
				}
			}
			if err := a.printLine(o.Descriptor.Digest.String()); err != nil {
				return err
			}
			if purge {
				return lists.Remove(ctx, ref.String())
			}
			return lists.Update(ctx, ref.String(), func(now *manifestlist.List) (*manifestlist.List, error) {
				if now == nil || !sameImages(now.Entries, l.Entries) {
					return nil, nil // changed meanwhile: that is another list
				}
				now.Pushed = o.Descriptor.Digest
				return now, nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&purge, "purge", "p", false, "Remove the local manifest list after push")
	f.BoolVar(&force, "force", false, "(anyarch) push a list that contradicts an image")
	f.BoolVar(&duplicates, "allow-duplicate-platforms", false, "(anyarch) push a list with a platform twice")
	a.insecureFlag(cmd)
	return cmd
}

func noSuchList(canonical, text string) error {
	return &refusal.Error{Code: "PA448", Kind: refusal.Usage, Place: text, Summary: "No such manifest: " + canonical, Err: store.ErrNotFound, Fix: []string{"docker manifest create " + text + " IMAGE…"}}
}

// pushList proves a list, lets the repository have its images, and moves the tag.
func (a *app) pushList(ctx context.Context, ref registry.Reference, l *manifestlist.List, force, duplicates bool) (*assemble.Outcome, error) {
	begin := time.Now()
	event, err := a.show(1)
	if err != nil {
		return nil, err
	}
	kept, err := a.openCache()
	if err != nil {
		return nil, err
	}
	p := a.newPlaces()
	defer p.close()
	target, err := p.repository(ref.Repository)
	if err != nil {
		return nil, err
	}
	target.Tags = []string{ref.Tag}
	draft := &assemble.Draft{Name: ref.String()}
	forgiven := map[string]bool{} // digests whose contradiction annotate --force has recorded
	var refused refusal.Collect
	for _, e := range l.Entries {
		if e.Descriptor.Platform == nil || e.Descriptor.Platform.OS == "" || e.Descriptor.Platform.Architecture == "" {
			refused.Add(&refusal.Error{Code: "PA450", Kind: refusal.Usage, Place: imagestore.Familiar(e.Ref), Summary: "manifest " + e.Ref + " must have an OS and Architecture to be pushed to a registry", Fix: []string{"docker manifest annotate --os linux --arch ARCH " + imagestore.Familiar(l.Name) + " " + imagestore.Familiar(e.Ref)}})
			continue
		}
		forgiven[e.Descriptor.Digest.String()] = len(e.Forced) > 0
		for _, one := range append([]manifestlist.Entry{e}, e.With...) {
			item, err := p.itemOf(one)
			if err != nil {
				return nil, err
			}
			refused.Add(draft.AddEntry(assemble.Options{AllowDuplicates: duplicates}, assemble.Entry{Descriptor: one.Descriptor, Item: item}))
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	draft.Sort()
	o, err := assemble.Publish(ctx, assemble.Request{
		Make:         func(context.Context, *assemble.Item) (*assemble.Draft, error) { return draft, nil },
		Destinations: []assemble.Destination{target}, Latest: publish.LatestAlways, Reader: assemble.NewReader(),
		Depth: prove.DepthEntrypoint, Cache: kept.Memo(), Force: force, Event: event,
		Forgive: func(f prove.Finding) bool {
			switch f.Rule {
			case prove.RuleStart, prove.RuleLibraries: // not what a list says of its images
				return true
			case prove.RuleDuplicate:
				return duplicates
			}
			return forgiven[f.Digest.String()] && f.Rule != prove.RuleMissing
		},
	})
	if err != nil {
		return nil, err
	}
	return o, a.showIndex(o, false, false, begin)
}

func (a *app) dockerManifestRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm MANIFEST_LIST [MANIFEST_LIST...]", Short: "Delete one or more manifest lists from local storage", Args: dockerArgs(1, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			lists, err := a.lists()
			if err != nil {
				return err
			}
			var refused refusal.Collect
			for _, text := range list {
				ref, err := imagestore.Canonical(text)
				if err == nil {
					if err = lists.Remove(cmd.Context(), ref.String()); errors.Is(err, store.ErrNotFound) {
						err = &refusal.Error{Code: "PA448", Kind: refusal.Usage, Place: text, Summary: "No such manifest: " + ref.String(), Err: store.ErrNotFound, Fix: []string{"anyarch delete " + text + ", if the one in the registry is meant"}}
					}
				}
				if err != nil && !refused.Add(err) {
					return err
				}
			}
			return refused.Err()
		},
	}
}
