// Package native executes the build graphs of a Dockerfile without a container
// engine: COPY and ADD change a file tree, RUN is read by a shell interpreter
// whose commands work on that tree, and the one program of the host that runs is
// the Go toolchain.
//
// Steps that don't depend on the platform run once for all platforms; the graph
// forks where they begin to. What can't be done exactly is refused before anything
// is downloaded, all of it at once.
package native

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/native/apk"
	"github.com/anyarch/anyarch/internal/native/download"
	"github.com/anyarch/anyarch/internal/native/sandbox"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/store"
)

// Options are what a build works with.
type Options struct {
	Dockerfile     string // its name, for messages
	DockerfileText []byte
	// Image gives the base that a reference of the graphs names, on a platform.
	Image func(ctx context.Context, ref string, p platform.Platform) (base.Image, error)
	// OpenLayer opens a layer of a base, compressed.
	OpenLayer func(ctx context.Context, img base.Image, index int) (io.ReadCloser, error)
	// Local gives the files of a context.
	Local func(ctx context.Context, l dockerfile.Local) (*filetree.Tree, error)
	// Toolchain gives the root directory of an exact Go version, such as 1.25.4.
	Toolchain func(ctx context.Context, version string) (goroot string, err error)
	// CheckToolchain says, without fetching it, that a version can't be had.
	CheckToolchain func(version string) error
	Runner         sandbox.Runner
	Client         *http.Client // for ADD and for curl and wget in RUN
	Store          *store.Store // layers go here
	Memo           *store.Memo
	Event          progress.Sink

	WorkDir    string // directories that the toolchain runs in, kept from run to run
	Scratch    string // an empty directory for this run alone, removed by the caller
	LayerDir   string // unpacked layers of bases
	PackageDir string // downloaded packages and their indexes
	// Use keeps others from removing a file of these directories during the build;
	// nil where nobody does.
	Use func(path string) (fs.FileInfo, error)
	// Mirror gives the address to ask instead of a package repository's own; nil
	// leaves addresses as they are.
	Mirror     func(url string) string
	ModCache   string // GOMODCACHE and GOCACHE of the user, shared with plain go build
	BuildCache string
	// BeforeGo, if not nil, is called before a go command uses BuildCache.
	BeforeGo func(ctx context.Context)
	// GoEnv are the user's settings of the network that the go command uses where
	// the Dockerfile says nothing: GOPROXY, GONOSUMDB and the like, as KEY=value.
	GoEnv []string
	Proxy []string // HTTP_PROXY and the like, KEY=value, for processes only

	BuildPlatform platform.Platform
	Secrets       map[string]Secret
	Compression   layer.Compression
	LayerTime     time.Time // of every file in the layers
	Now           time.Time // the clock of the build, for date and new accounts; LayerTime if zero
	GoVersion     string    // instead of that of the builder images; empty for theirs
	OverrideArch  bool      // replace a GOARCH or GOOS that contradicts the platform
	Offline       bool      // --network=none for everything
	// Version identifies this program: another one may make something else of the
	// same. Empty if nothing is to be kept for later runs.
	Version string
	NoCache bool // take over nothing of earlier runs
}

// Secret is the value of a --secret.
type Secret func() ([]byte, error)

// Build is one build: the graphs of all its platforms. It is used once.
type Build struct {
	o      Options
	graphs []*dockerfile.Graph

	graphsWith map[string]int          // how many graphs have an operation, by Op.Key
	selfWith   map[string]int          // and by Op.Self
	final      map[*dockerfile.Op]bool // operations whose file system is that of an image
	// sees is what the most curious RUN of all graphs sees of the time.
	sees func() clock

	hostedMu sync.Mutex
	hosted   map[*dockerfile.Op]bool // operations that call programs of their base; see hosted.go

	memo      sync.Map // string → *once
	sources   sync.Map // string → *once, of base images
	sums      sync.Map // filetree.Content → string, hashes
	warned    sync.Map // messages that were shown already
	caches    cacheMounts
	compiles  chan struct{}
	work      worktrees
	apk       *apk.Session
	downloads *download.Session
	results   results
}

// New prepares a build of graphs, one per platform.
func New(graphs []*dockerfile.Graph, o Options) *Build {
	b := &Build{o: o, graphs: graphs, compiles: make(chan struct{}, 2)}
	b.sees = sync.OnceValue(func() clock {
		sees := timeless
		for _, g := range graphs {
			sees = max(sees, graphClock(g))
		}
		return sees
	})
	b.downloads = download.New(download.Options{Client: o.Client, Cache: o.PackageDir, Scratch: o.Scratch, Mirror: o.Mirror, Use: o.Use})
	b.apk = apk.NewSession(b.downloads, o.Scratch)
	b.caches.trees = map[string]*filetree.Tree{}
	b.work.dir, b.work.scratch, b.work.open = o.WorkDir, o.Scratch, map[string]*worktreeSlot{}
	b.graphsWith, b.selfWith = map[string]int{}, map[string]int{}
	b.final, b.hosted = map[*dockerfile.Op]bool{}, map[*dockerfile.Op]bool{}
	for _, g := range graphs {
		for at := g.Root; at.Op != nil; at = below(at) {
			b.final[at.Op] = true
		}
		selves := map[string]bool{}
		for _, op := range g.Ops {
			b.graphsWith[op.Key]++
			if !selves[op.Self] {
				selves[op.Self] = true
				b.selfWith[op.Self]++
			}
		}
	}
	return b
}

// Close releases the directories of the build. They stay, for the next one, and what
// was made is remembered for it.
func (b *Build) Close() error {
	b.flush(context.Background())
	return b.work.close()
}

// place is where an operation stands in the Dockerfile.
func (b *Build) place(op *dockerfile.Op) string {
	if line := op.Line(); line > 0 {
		return fmt.Sprintf("%s:%d", b.o.Dockerfile, line)
	}
	return b.o.Dockerfile
}

// warn shows a message once per build, however many platforms have cause for it.
func (b *Build) warn(p platform.Platform, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if _, shown := b.warned.LoadOrStore(text, true); shown {
		return
	}
	name := ""
	if !p.IsZero() {
		name = p.String()
	}
	b.o.Event.Warn("", name, text)
}

// once is a result that is made once and wanted by several.
type once struct {
	done  chan struct{}
	value any
	err   error
}

// shared makes value for key, or waits for whoever is making it.
func shared(ctx context.Context, m *sync.Map, key string, make_ func() (any, error)) (any, error) {
	fresh := &once{done: make(chan struct{})}
	if other, taken := m.LoadOrStore(key, fresh); taken {
		o := other.(*once)
		select {
		case <-o.done:
			return o.value, o.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	fresh.value, fresh.err = make_()
	close(fresh.done)
	return fresh.value, fresh.err
}
