package cli

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

var digestPattern = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// dropDamaged looks at the blobs that the refusals of a run name. Those that are in the
// cache and aren't what their names say are removed, so that the next run makes them
// again; the refusal says so.
func dropDamaged(blobs *store.Store, err error) error {
	for _, r := range refusal.All(err) {
		for _, name := range digestPattern.FindAllString(strings.Join(append([]string{r.Place, r.Summary}, r.Seen...), " "), -1) {
			d := digest.Digest(name)
			f, ferr := blobs.Blob(d)
			if ferr != nil {
				continue
			}
			verifier := d.Verifier()
			_, ferr = io.Copy(verifier, f)
			_ = f.Close()
			if ferr != nil || verifier.Verified() || blobs.Delete(d) != nil {
				continue
			}
			r.Seen = append(r.Seen, fmt.Sprintf("%s was damaged in the cache, and is removed from it", d))
			r.Fix = []string{"run the same command again", "anyarch cache verify"}
		}
	}
	return err
}
