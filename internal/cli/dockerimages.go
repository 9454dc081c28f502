package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/imagestore"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// imageRow is one line of docker images, with the fields that its templates know.
type imageRow struct {
	Repository, Tag, Digest    string
	ID                         string
	CreatedSince, CreatedAt    string
	Size                       string
	Containers, SharedSize     string
	UniqueSize, VirtualSize    string
	repository, tag, reference string // canonical
}

func (a *app) dockerImagesCommand(use string) *cobra.Command {
	var quiet, noTrunc, digests, all bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use: use + " [OPTIONS] [REPOSITORY[:TAG]]", Short: "List the images of this machine", Args: dockerArgs(0, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			rows, err := a.imageRows(cmd.Context(), images, list, filters, noTrunc)
			if err != nil {
				return err
			}
			return a.printRows(rows, format, quiet, digests)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "show all images; there are no hidden ones")
	f.BoolVar(&digests, "digests", false, "show digests")
	f.StringArrayVarP(&filters, "filter", "f", nil, "`FILTER`: reference=PATTERN or dangling=BOOL")
	f.StringVar(&format, "format", "", "table, json, or a Go `TEMPLATE`")
	f.BoolVar(&noTrunc, "no-trunc", false, "don't shorten IDs")
	f.BoolVarP(&quiet, "quiet", "q", false, "only show IDs")
	return cmd
}

// imageRows lists images by name, the newest first.
func (a *app) imageRows(ctx context.Context, images *imagestore.Store, patterns, filters []string, noTrunc bool) ([]imageRow, error) {
	list, err := images.List()
	if err != nil {
		return nil, err
	}
	keep := func(imageRow) bool { return true }
	for _, filter := range filters {
		key, value, _ := strings.Cut(filter, "=")
		before := keep
		switch key {
		case "reference":
			keep = func(r imageRow) bool { return before(r) && r.matches(value) }
		case "dangling":
			keep = func(r imageRow) bool { return before(r) && (r.tag == "") == (value == "true" || value == "1") }
		default:
			return nil, &refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "--filter " + filter, Summary: "not a filter that anyarch has in docker's place", Fix: []string{"--filter reference='team/*'", "--filter dangling=true"}}
		}
	}
	var rows []imageRow
	for _, img := range list {
		size, created := a.sizeOf(ctx, images, img)
		row := imageRow{
			ID: img.Descriptor.Digest.String(), Digest: img.Descriptor.Digest.String(), Size: units.HumanSizeWithPrecision(float64(size), 3),
			CreatedAt: created.Local().Format("2006-01-02 15:04:05 -0700 MST"), CreatedSince: units.HumanDuration(time.Since(created)) + " ago",
			Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A", Repository: "<none>", Tag: "<none>",
		}
		row.VirtualSize = row.Size
		if !noTrunc {
			row.ID = img.Descriptor.Digest.Encoded()[:12]
		}
		if len(img.Names) == 0 {
			rows = append(rows, row)
		}
		for _, name := range img.Names {
			ref, err := imagestore.Canonical(name)
			if err != nil {
				return nil, err
			}
			row.repository, row.tag, row.reference = ref.Repository, ref.Tag, name
			row.Repository, row.Tag = imagestore.Familiar(ref.Repository), ref.Tag
			rows = append(rows, row)
		}
	}
	return slices.DeleteFunc(rows, func(r imageRow) bool {
		return !keep(r) || len(patterns) > 0 && !r.matches(patterns[0])
	}), nil
}

// matches reports whether a row is of a name, REPOSITORY or REPOSITORY:TAG, with *
// in it or not.
func (r imageRow) matches(pattern string) bool {
	if r.tag == "" {
		return false
	}
	for _, name := range []string{r.Repository, r.Repository + ":" + r.Tag, r.repository, r.reference} {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			return true
		}
	}
	return false
}

// sizeOf gives the bytes of all that an image needs, and when its first platform was
// made.
func (a *app) sizeOf(ctx context.Context, images *imagestore.Store, img imagestore.Image) (int64, time.Time) {
	created := time.Unix(0, 0)
	size := img.Descriptor.Size
	manifests, err := images.Manifests(ctx, img)
	if err != nil {
		return size, created
	}
	seen := map[string]bool{}
	for _, m := range manifests {
		for _, d := range append(m.Layers, m.Config) {
			if !seen[d.Digest.String()] {
				size += d.Size
				seen[d.Digest.String()] = true
			}
		}
		var config ocispec.Image
		if _, err := image.FetchJSON(ctx, images.Source(img), m.Config, &config); err == nil && config.Created != nil && m.Runnable() && created.Unix() == 0 {
			created = *config.Created
		}
	}
	return size, created
}

// printRows writes rows as docker images does.
func (a *app) printRows(rows []imageRow, format string, quiet, digests bool) error {
	switch {
	case quiet:
		for _, r := range rows { // once per name, as docker does
			if err := a.printLine(r.ID); err != nil {
				return err
			}
		}
		return nil
	case format == "json":
		format = "{{json .}}"
	case format == "" || format == "table":
		format = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
		if digests {
			format = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
		}
	}
	text, table := strings.CutPrefix(format, "table ")
	t, err := dockerTemplate(text)
	if err != nil {
		return err
	}
	var out io.Writer = a.Stdout
	if table {
		tw := tabwriter.NewWriter(a.Stdout, 10, 1, 3, ' ', 0)
		defer tw.Flush()
		out = tw
		heads := imageRow{Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST", ID: "IMAGE ID", CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE", Containers: "CONTAINERS", SharedSize: "SHARED SIZE", UniqueSize: "UNIQUE SIZE", VirtualSize: "VIRTUAL SIZE"}
		if err := executeLine(out, t, heads); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if err := executeLine(out, t, r); err != nil {
			return err
		}
	}
	return nil
}

// dockerTemplate reads a --format with the functions that docker's have.
func dockerTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			data, err := json.Marshal(v)
			return string(data), err
		},
		"split": strings.Split, "join": strings.Join, "upper": strings.ToUpper, "lower": strings.ToLower,
		"title":   func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
		"println": func(v ...any) string { return fmt.Sprintln(v...) },
		"pad": func(s string, prefix, suffix int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", prefix) + s + strings.Repeat(" ", suffix)
		},
		"truncate": func(s string, n int) string { return s[:min(len(s), max(0, n))] },
	}).Parse(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text))
	if err != nil {
		return nil, badTemplate(text, err)
	}
	return t, nil
}

func badTemplate(text string, err error) error {
	return &refusal.Error{Code: "PA455", Kind: refusal.Usage, Place: "--format " + text, Summary: "not a template that can be filled in", Seen: []string{strings.TrimPrefix(err.Error(), "template: ")}, Fix: []string{"--format '{{json .}}'"}}
}

func executeLine(w io.Writer, t *template.Template, data any) error {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return badTemplate(t.Root.String(), err)
	}
	_, err := io.WriteString(w, b.String()+"\n")
	return err
}

func (a *app) dockerTagCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Give an image of this machine another name", Args: dockerArgs(2, 2),
		RunE: func(cmd *cobra.Command, list []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			img, err := images.Find(list[0])
			if err != nil {
				return err
			}
			target, err := tagTarget(list[1])
			if err != nil {
				return err
			}
			return images.Tag(cmd.Context(), []string{target}, img)
		},
	}
}

// tagTarget reads the name that an image is to have.
func tagTarget(text string) (string, error) {
	ref, err := imagestore.Canonical(text)
	if err != nil {
		return "", err
	}
	if ref.Digest != "" {
		return "", &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: text, Summary: "a digest can't be given as a name; it follows from the content", Fix: []string{imagestore.Familiar(ref.Repository) + ":1.0"}}
	}
	return ref.String(), nil
}

func (a *app) dockerRemoveCommand(use string) *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use: use + " [OPTIONS] IMAGE [IMAGE...]", Short: "Remove names and images of this machine", Args: dockerArgs(1, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			var refused refusal.Collect
			for _, text := range list {
				removed, err := images.Remove(cmd.Context(), text, force)
				if err != nil {
					if force && errors.Is(err, store.ErrNotFound) {
						continue
					}
					if !refused.Add(err) {
						return err
					}
					continue
				}
				for _, name := range removed.Untagged {
					if err := a.printLine("Untagged: " + imagestore.Familiar(name)); err != nil {
						return err
					}
				}
				if removed.Deleted != "" {
					if err := a.printLine("Deleted: " + removed.Deleted.String()); err != nil {
						return err
					}
				}
			}
			return refused.Err()
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove an image with all its names, and don't mind absent ones")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "keep untagged parents; there are none")
	return cmd
}

func (a *app) dockerPruneCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove images of this machine that have no name", Args: dockerArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			list, err := images.List()
			if err != nil {
				return err
			}
			for _, img := range list {
				if len(img.Names) > 0 {
					continue
				}
				removed, err := images.Remove(cmd.Context(), img.Descriptor.Digest.String(), true)
				if err != nil {
					return err
				}
				if err := a.printLine("deleted: " + removed.Deleted.String()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "don't ask; it never does")
	return cmd
}

func (a *app) dockerSaveCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "save [OPTIONS] IMAGE [IMAGE...]", Short: "Write images of this machine to a tar", Args: dockerArgs(1, -1),
		RunE: func(cmd *cobra.Command, list []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			if output == "" && isTerminal(a.Stdout) {
				return &refusal.Error{Code: "PA441", Kind: refusal.Usage, Place: "docker save", Summary: "cowardly refusing to save to a terminal", Fix: []string{"docker save -o image.tar " + strings.Join(list, " ")}}
			}
			saved, err := chooseSaved(images, list)
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				return images.Save(cmd.Context(), a.Stdout, saved, platform.Local())
			}
			return writeWhole(a.absolute(output), func(w io.Writer) error { return images.Save(cmd.Context(), w, saved, platform.Local()) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this `FILE`, instead of standard output")
	return cmd
}

// chooseSaved finds the images of a docker save. A name without a tag means all tags of
// its repository, as docker has it.
func chooseSaved(images *imagestore.Store, list []string) ([]imagestore.Saved, error) {
	all, err := images.List()
	if err != nil {
		return nil, err
	}
	var saved []imagestore.Saved
	add := func(img imagestore.Image, names ...string) {
		i := slices.IndexFunc(saved, func(s imagestore.Saved) bool { return s.Image.Descriptor.Digest == img.Descriptor.Digest })
		if i < 0 {
			saved = append(saved, imagestore.Saved{Image: img})
			i = len(saved) - 1
		}
		for _, name := range names {
			if !slices.Contains(saved[i].Names, name) {
				saved[i].Names = append(saved[i].Names, name)
			}
		}
	}
	var refused refusal.Collect
	for _, text := range list {
		ref, err := imagestore.Canonical(text)
		bare := err == nil && !strings.Contains(text[strings.LastIndex(text, "/")+1:], ":") && ref.Digest == ""
		found := false
		for _, img := range slices.Backward(all) {
			for _, name := range img.Names {
				if bare && strings.HasPrefix(name, ref.Repository+":") {
					add(img, name)
					found = true
				}
			}
		}
		if found {
			continue
		}
		img, err := images.Find(text)
		if err != nil {
			if !refused.Add(err) {
				return nil, err
			}
			continue
		}
		if slices.Contains(img.Names, ref.String()) {
			add(img, ref.String())
		} else {
			add(img)
		}
	}
	return saved, refused.Err()
}

// writeWhole writes a file beside its place and renames it.
func writeWhole(file string, fill func(io.Writer) error) error {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() { // a pipe, /dev/stdout
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return store.DiskError(file, "write", err)
		}
		return errors.Join(fill(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return &refusal.Error{Code: "PA602", Place: file, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	defer os.Remove(f.Name()) // fails once renamed, as it should
	err = fill(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return store.DiskError(file, "write", err)
	}
	return nil
}

func (a *app) dockerLoadCommand() *cobra.Command {
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use: "load [OPTIONS]", Short: "Take images from a tar of docker save, or an OCI archive", Args: dockerArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			in, name := a.Stdin, "standard input"
			if input != "" && input != "-" {
				f, err := os.Open(a.absolute(input))
				if err != nil {
					return &refusal.Error{Code: "PA604", Kind: refusal.Usage, Place: input, Summary: "can't read the archive", Seen: []string{err.Error()}, Err: err}
				}
				defer f.Close()
				in, name = f, input
			}
			loaded, err := images.Load(cmd.Context(), in, name)
			if err != nil {
				return err
			}
			for _, l := range loaded {
				if len(l.Absent) > 0 {
					if _, err := fmt.Fprintf(a.Stderr, "anyarch: %s has no content for %s\n", name, strings.Join(l.Absent, ", ")); err != nil {
						return err
					}
				}
				for _, n := range l.Names {
					if err := a.printLine("Loaded image: " + imagestore.Familiar(n)); err != nil {
						return err
					}
				}
				if len(l.Names) == 0 {
					if err := a.printLine("Loaded image ID: " + l.Descriptor.Digest.String()); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "read from this `FILE`, instead of standard input")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress; there is none")
	return cmd
}
