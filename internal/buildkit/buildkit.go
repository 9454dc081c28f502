// Package buildkit hands a Dockerfile to BuildKit daemons, one platform at a time,
// and takes back images by digest.
//
// Each platform goes to a daemon that runs its programs without an emulator. What
// programs of another platform do for it, such as cross compilers, is done by the first
// daemon that runs those: stages that are only copied from or mounted are made there, and
// what is read of them is handed over by digest. A platform for which nothing but cross
// compilers and COPY is at work stays on the first daemon. If a daemon is lost in the
// middle, another one that can serve the platform builds it; if there is none, the build
// fails.
//
// What comes back is what the daemon made, byte for byte: blobs go into the store
// under the digest that they have, and the rest of the program proves and publishes
// them as it does with its own.
package buildkit

import (
	"context"
	"errors"
	"io"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/sirupsen/logrus"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/prove"
	"github.com/anyarch/anyarch/internal/store"
)

// Options say what is built.
type Options struct {
	Nodes []*Node // in the order of preference: the first that can do something does it

	Dockerfile string // its name, for messages
	Text       func(p platform.Platform) []byte
	Ignore     []byte // of the context, nil for none
	Context    string // directory
	Scratch    string // an empty directory for this run alone
	// Contexts are the named ones: a directory, docker-image://REF, oci-layout://DIR@DIGEST,
	// or what else BuildKit knows.
	Contexts map[string]Context

	Target    string
	BuildArgs func(p platform.Platform) map[string]string
	Labels    map[string]string
	Network   string // default, none or host
	Hosts     []string
	NoCache   bool
	// IgnoreCache are stages of which nothing is taken over from earlier builds.
	IgnoreCache []string
	Pull        bool
	ShmSize     string
	Ulimits     []string

	Secrets map[string]func() ([]byte, error)
	SSH     []string // ID[=SOCKET|KEY,…]
	Allow   []string // entitlements
	// CacheTo and CacheFrom are lists of BuildKit's, such as type=registry,ref=REF.
	CacheTo, CacheFrom []string
	SourcePolicy       []byte // JSON, nil for none
	// Attest are attestations to make: provenance or sbom, with their parameters.
	Attest map[string]string

	Compression string // gzip, zstd, estargz or uncompressed
	Level       string // of the compression, empty for BuildKit's own
	Docker      bool   // Docker's media types
	Annotations map[string]string
	LayerTime   time.Time // SOURCE_DATE_EPOCH

	// Credentials are those of a registry, for pulls and caches: user and password,
	// or a token alone.
	Credentials func(ctx context.Context, host string) (user, password, token string)
	Getenv      func(string) string
	Store       *store.Store
	// Scans keeps what the proof finds in layers, which are looked into while they come;
	// nil leaves all of it to the proof.
	Scans prove.Cache
	Event progress.Sink
}

// Context is a named context.
type Context struct {
	Dir   string // of this machine; else
	Value string // as --build-context has it
}

// Result is the image of one platform.
type Result struct {
	Image image.Image
	// Attestations stand beside the image in an index: BuildKit's provenance and SBOM.
	Attestations []image.Image
	Base         int               // how many layers, from the first, are the base's
	Added        int64             // compressed bytes of the others
	Places       map[string]string // what brought a layer, such as Dockerfile:12, by its digest; what isn't certain is left out
	Node         string
}

// Build is one build of all platforms. Its methods may be called concurrently.
type Build struct {
	o         Options
	platforms []platform.Platform
	blobs     *blobs
	parts     *blobs // of what is handed over, which the proof has no need to see
	session   []session.Attachable
	frontend  map[string]string // what is the same on all platforms
	mounts    map[string]fsutil.FS
	layouts   map[string]content.Store // of named contexts
	policy    *spb.Policy
	to, from  []client.CacheOptionsEntry
	warnings  sync.Map // messages that were shown already
}

// New prepares the build of some platforms. Flags that can't be read are refusals.
func New(platforms []platform.Platform, o Options) (*Build, error) {
	silence()
	b := &Build{o: o, platforms: platforms, blobs: newBlobs(o.Store), parts: newBlobs(o.Store)}
	b.blobs.scans, b.blobs.temp = o.Scans, o.Scratch
	if err := b.prepare(); err != nil {
		return nil, err
	}
	return b, nil
}

// silence keeps what the client's libraries write about themselves off the screen, such
// as file systems without fs-verity and sessions that end. Errors are returned.
var silence = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	log.SetOutput(io.Discard)
})

// ConnectAll connects to all endpoints at once. Those that don't answer are given as
// errors; nodes keep the order of the endpoints.
func ConnectAll(ctx context.Context, list []Endpoint) ([]*Node, []error) {
	nodes := make([]*Node, len(list))
	errs := make([]error, len(list))
	var g errgroup.Group
	for i, e := range list {
		g.Go(func() error {
			nodes[i], errs[i] = Connect(ctx, e)
			return nil
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(nodes, func(n *Node) bool { return n == nil }), slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// Close ends the connections to all nodes.
func (b *Build) Close() error {
	var errs []error
	for _, n := range b.o.Nodes {
		if !n.dead.Load() {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}
