package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/assemble"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/registry"
)

// result is what a build on another machine has written about one image: with
// --metadata-file of this program or of docker buildx.
type result struct {
	Name      string        `json:"image.name"`
	Digest    digest.Digest `json:"containerimage.digest"`
	Platforms map[string]struct {
		Digest     digest.Digest `json:"digest"`
		Config     digest.Digest `json:"config"`
		Entrypoint *prove.Binary `json:"entrypoint"`
	} `json:"anyarch.platforms"`

	file string
}

// readResults reads the images that metadata files of builds name. All must be of
// one revision.
func (a *app) readResults(ctx context.Context, p *places, reader *assemble.Reader, patterns []string, force bool) ([]*assemble.Item, error) {
	results, err := a.parseResults(patterns)
	if err != nil {
		return nil, err
	}
	type expected struct {
		result
		platform string // that the file claims; empty if it doesn't say
		config   digest.Digest
		program  *prove.Binary // that the build has found the image to start
	}
	var wanted []assemble.Wanted
	var claims []expected
	for _, r := range results {
		place, err := p.named(r.Name)
		if err != nil {
			return nil, err
		}
		if len(r.Platforms) == 0 {
			wanted = append(wanted, assemble.Wanted{Place: place, Identifier: r.Digest.String()})
			claims = append(claims, expected{result: r})
		}
		for _, name := range slices.Sorted(maps.Keys(r.Platforms)) {
			wanted = append(wanted, assemble.Wanted{Place: place, Identifier: r.Platforms[name].Digest.String()})
			claims = append(claims, expected{r, name, r.Platforms[name].Config, r.Platforms[name].Entrypoint})
		}
	}
	items, err := reader.ReadAll(ctx, wanted)
	if err != nil {
		return nil, err
	}
	var refused refusal.Collect
	revisions := map[string]string{} // revision → file
	for i, item := range items {
		c := claims[i]
		if c.platform != "" && (item.Kind != assemble.KindImage || item.Platform().String() != c.platform || item.Manifest.Config.Digest != c.config) {
			refused.Add(badResult(c.file, "the file and the image that it names disagree", fmt.Sprintf("it says %s for %s, and the image is %s", c.config, c.platform, item)))
		}
		if c.program != nil && !force {
			for _, f := range prove.CheckBinary(c.program, item.Platform(), c.program.Path) {
				refused.Add(&refusal.Error{Code: f.Rule, Kind: refusal.Findings, Platform: f.Platform, Place: c.file, Summary: f.Summary, Seen: f.Seen, Fix: f.Fix})
			}
		}
		for _, img := range item.Images() {
			if r := cmp.Or(img.Manifest.Annotations[ocispec.AnnotationRevision], img.Image.Config.Labels[ocispec.AnnotationRevision]); r != "" && revisions[r] == "" {
				revisions[r] = c.file
			}
		}
	}
	if len(revisions) > 1 && !force {
		var seen []string
		for _, r := range slices.Sorted(maps.Keys(revisions)) {
			seen = append(seen, revisions[r]+" is of revision "+r)
		}
		refused.Add(badResult(strings.Join(patterns, " "), "these builds are of different revisions", seen...))
	}
	return items, refused.Err()
}

func badResult(place, summary string, seen ...string) error {
	return &refusal.Error{
		Code: "PA425", Place: place, Summary: summary, Seen: seen,
		Fix: []string{"anyarch build --platform linux/arm64 --push-by-digest -t REPOSITORY --metadata-file d/arm64.json"},
	}
}

// parseResults reads metadata files; every mistake is reported.
func (a *app) parseResults(patterns []string) ([]result, error) {
	var list []result
	var refused refusal.Collect
	var files []string
	for _, pattern := range patterns {
		abs := pattern
		if !filepath.IsAbs(abs) {
			abs = filepath.Join(a.Dir, pattern)
		}
		found, err := filepath.Glob(abs)
		if err != nil || len(found) == 0 {
			refused.Add(badResult("--from "+pattern, "there is no such file"))
			continue
		}
		for _, f := range found {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	slices.Sort(files)
	for _, file := range files {
		near := a.nearPath(file)
		data, err := os.ReadFile(file)
		if err != nil {
			refused.Add(badResult(near, "the file can't be read", err.Error()))
			continue
		}
		r := result{file: near}
		if err := json.Unmarshal(data, &r); err != nil {
			refused.Add(badResult(near, "the file isn't what --metadata-file writes", "it isn't a JSON object with the keys of a build"))
			continue
		}
		switch {
		case r.Digest == "":
			refused.Add(badResult(near, "the file names no image, or several", "it has no containerimage.digest"))
		case r.Digest.Validate() != nil:
			refused.Add(badResult(near, "the file isn't what --metadata-file writes", fmt.Sprintf("containerimage.digest is %.100q", string(r.Digest))))
		case r.Name == "":
			refused.Add(badResult(near, "the image of this build was pushed nowhere", "it has no image.name"))
		default:
			list = append(list, r)
		}
	}
	return list, refused.Err()
}

// named finds the repository of image.name, which may be several references with
// tags, separated by commas.
func (p *places) named(name string) (assemble.Place, error) {
	name, _, _ = strings.Cut(name, ",")
	ref, err := registry.ParseReference(name)
	if err != nil {
		return assemble.Place{}, err
	}
	w, err := p.source(ref.Repository)
	return w.Place, err
}

// writeIndexMetadata writes what an index came to, with the keys of a build's.
func (a *app) writeIndexMetadata(file string, o *assemble.Outcome) error {
	m := metadata{
		Digest: o.Descriptor.Digest.String(), Descriptor: o.Descriptor, Schema: 1,
		Platforms: map[string]metadataPlatform{}, Findings: o.Report.Findings, Timings: map[string]metadataTiming{},
	}
	if m.Findings == nil {
		m.Findings = []prove.Finding{}
	}
	for _, p := range o.Report.Platforms {
		m.Platforms[p.Name] = metadataPlatform{Digest: p.Digest.String(), Config: p.ConfigDigest.String(), Compressed: p.Compressed, Entrypoint: p.EntrypointBinary}
	}
	var references []string
	for _, pushed := range o.Pushed {
		for _, move := range pushed.Moves {
			if !move.Kept {
				references = append(references, pushed.Repository+":"+move.Tag)
			}
			m.Tags = append(m.Tags, metadataTag{pushed.Repository, move})
		}
	}
	m.Name = strings.Join(references, ",")
	return a.writeJSON("--metadata-file", file, m)
}

// writeJSON writes a document to a file that a flag names.
func (a *app) writeJSON(flag, file string, document any) error {
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.absolute(file), append(data, '\n'), 0o644); err != nil {
		return &refusal.Error{Code: "PA602", Place: flag + " " + file, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
	}
	return nil
}
