package cli

import (
	"fmt"

	"github.com/anyarch/anyarch/internal/pipeline"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/ui"
)

// printEstimate writes what publishing would send, one line per image and repository,
// in bytes.
func (a *app) printEstimate(outcome *pipeline.Outcome) error {
	lines := 0
	for _, o := range outcome.Images {
		for _, p := range o.Pushed {
			e := p.Estimate
			lines++
			if err := a.printLine(fmt.Sprintf("%s@%s  upload %d bytes in %d blobs (%s), mount %d in %d, present %d in %d; manifests %d bytes", p.Repository, o.Index.Digest,
				e.Upload, e.UploadBlobs, ui.Bytes(e.Upload), e.Mount, e.MountBlobs, e.Present, e.PresentBlobs, e.Manifests)); err != nil {
				return err
			}
		}
	}
	if lines == 0 {
		return &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: "--estimate", Summary: "nothing would be published: there is no repository", Fix: []string{"-t registry.example.com/team/app:1.0"}}
	}
	return nil
}
