package native

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/anyarch/anyarch/internal/base"
	"github.com/anyarch/anyarch/internal/base/rootfs"
	"github.com/anyarch/anyarch/internal/dockerfile"
	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/opcache"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
)

// stage is what is known about the base of a stage.
type stage struct {
	image     base.Image
	ref       string
	goBuilder bool // its config says that it has a Go toolchain
	pinned    bool // it has a platform of its own
	hosted    bool // its base is that of this machine's platform, and programs of it run here
	neutral   bool // nothing about it depends on the platform, as long as nobody reads its files
	dialect   command.Dialect
}

// state is the result of an operation. It is immutable.
type state struct {
	key   string // identifies how it was made; with the platform if it depends on it
	bound bool   // key depends on the platform
	tree  *filetree.Tree
	stage *stage // nil if nothing of it is an image
	// deferred are commands that only matter to who reads the base of a Go
	// builder: package installations and accounts. They run when somebody does.
	deferred *deferrals
	// loads is the platform whose base a lazy tree reads, nil if none is decided on.
	loads *platform.Platform
	// sources are indexes of packages that it was made with; see cached.go.
	sources []opcache.Source
	own     []opcache.Source // those of sources that the operation itself has asked for
	// identity is what can be seen of it; see content.go.
	identity *identity
}

// errPlatform is what a step that was thought to be the same on every platform
// fails with when it reads a file of the base: it is run again for each platform.
var errPlatform = errors.New("the files of the base depend on the platform")

// goVersion is the version of the toolchain that an environment says is there.
func goVersion(env []string) string { return lookupEnv(env, "GOLANG_VERSION") }

// lookupEnv finds the last value of a variable.
func lookupEnv(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// repository of a reference, without tag and digest.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	return ref
}

// official reports whether an image is one of Docker's golang images, whose
// directories are known without reading them.
func official(ref string) bool {
	name := repository(ref)
	return name == "docker.io/library/golang" || strings.HasSuffix(name, "/library/golang")
}

// isAlpine reports whether an image says that it is made of Alpine.
func isAlpine(ref string, img base.Image) bool {
	if strings.Contains(ref, "alpine") {
		return true
	}
	for _, h := range img.Config.History {
		if strings.Contains(h.CreatedBy, "alpine-minirootfs") || strings.Contains(h.CreatedBy, "apk add") {
			return true
		}
	}
	return false
}

// golangDirs are the directories of the official golang images (Debian and
// Alpine): those in which a build makes new files are known completely, so that
// making one there doesn't pull the image.
func golangDirs(busybox bool) map[string]filetree.Known {
	dir := func(perm fs.FileMode, complete bool) filetree.Known {
		return filetree.Known{Attr: filetree.Attr{Mode: fs.ModeDir | perm}, Complete: complete}
	}
	dirs := map[string]filetree.Known{
		"/": dir(0o755, true), "/go": dir(0o777|fs.ModeSticky, true), "/go/bin": dir(0o777|fs.ModeSticky, true), "/go/src": dir(0o777|fs.ModeSticky, true),
		"/root": dir(0o700, busybox), "/tmp": dir(0o777|fs.ModeSticky, true), "/opt": dir(0o755, true), "/srv": dir(0o755, true), "/mnt": dir(0o755, true),
		"/media": dir(0o755, false), "/home": dir(0o755, false), "/proc": dir(0o555, true), "/sys": dir(0o555, true), "/dev": dir(0o755, true), "/run": dir(0o755, false),
		"/etc": dir(0o755, false), "/bin": dir(0o755, false), "/sbin": dir(0o755, false), "/lib": dir(0o755, false), "/lib64": dir(0o755, false),
		"/var": dir(0o755, false), "/usr": dir(0o755, false), "/usr/bin": dir(0o755, false), "/usr/local": dir(0o755, false),
		"/usr/local/bin": dir(0o755, true), "/usr/local/go": dir(0o755, false),
	}
	if !busybox {
		dirs["/boot"] = dir(0o755, true)
		root := dir(0o700, true)
		root.Unread = []string{".bashrc", ".profile", ".wget-hsts"}
		dirs["/root"] = root
	}
	return dirs
}

// source makes the first state of a stage.
func (b *Build) source(ctx context.Context, g *dockerfile.Graph, op *dockerfile.Op) (*state, error) {
	p := g.Platform
	if op.Platform != nil {
		p = *op.Platform
	}
	img, err := b.o.Image(ctx, op.Source.Image, p)
	if err != nil {
		return nil, err
	}
	st := &stage{image: img, ref: op.Source.Image, goBuilder: goVersion(img.Config.Config.Env) != "", pinned: b.pinned(g, op)}
	if st.goBuilder {
		st.dialect = command.GNU
		if isAlpine(op.Source.Image, img) {
			st.dialect = command.Busybox
		}
	}
	s := &state{stage: st, deferred: &deferrals{}}
	if st.goBuilder && official(op.Source.Image) {
		// Nothing of it is pulled until somebody reads one of its files, and until
		// then it is the same on every platform.
		s.tree = filetree.NewLazy(golangDirs(st.dialect == command.Busybox), b.platformBound)
		if st.pinned {
			s.key = op.Key
			return b.bind(ctx, s, p), nil
		}
		st.neutral = true
		s.key = "golang " + op.Self
		return s, nil
	}
	s.bound, s.key = !st.pinned, op.Key
	if s.tree, err = b.files(ctx, st.ref, img); err != nil {
		return nil, err
	}
	if st.dialect == "" {
		st.dialect = dialectOf(s.tree)
	}
	return s, nil
}

// platformBound is how a base is read by a step that runs for all platforms: it isn't.
func (b *Build) platformBound() (*filetree.Tree, error) { return nil, errPlatform }

// bind gives a state whose base, if it is read, is that of platform p.
func (b *Build) bind(ctx context.Context, s *state, p platform.Platform) *state {
	if !s.tree.Lazy() {
		return s
	}
	bound := *s
	bound.loads, bound.tree = &p, b.loading(ctx, s.tree, s.stage, s.deferred, p)
	return &bound
}

// loading is a lazy tree whose base, if it is read, is that of platform p, with what
// was deferred until then.
func (b *Build) loading(ctx context.Context, t *filetree.Tree, st *stage, d *deferrals, p platform.Platform) *filetree.Tree {
	// Whoever reads it may do so long after the step that made it has ended.
	ctx = lasting(ctx)
	// Forks of the tree read one and the same base.
	return t.WithLoader(sync.OnceValues(func() (*filetree.Tree, error) {
		img := st.image
		if st.neutral {
			var err error
			if img, err = b.o.Image(ctx, st.ref, p); err != nil {
				return nil, err
			}
		}
		tree, err := b.files(ctx, st.ref, img)
		if err != nil {
			return nil, err
		}
		tree = tree.Fork()
		return tree, d.replay(ctx, b, st, p, tree)
	}))
}

type lastingKey struct{}

// withLasting remembers a context that lasts as long as the evaluation of a graph.
func withLasting(ctx context.Context) context.Context {
	return context.WithValue(ctx, lastingKey{}, ctx)
}

// lasting is the context of the evaluation that ctx is a part of.
func lasting(ctx context.Context) context.Context {
	if long, ok := ctx.Value(lastingKey{}).(context.Context); ok {
		return long
	}
	return ctx
}

// files reads the layers of a base.
func (b *Build) files(ctx context.Context, ref string, img base.Image) (*filetree.Tree, error) {
	value, err := shared(ctx, &b.sources, img.Manifest.Digest.String()+" "+ref, func() (any, error) {
		var layers []rootfs.Layer
		for i, l := range img.Layers {
			layers = append(layers, rootfs.Layer{DiffID: l.DiffID, MediaType: l.Descriptor.MediaType, Open: b.layerOpener(img, i)})
		}
		return rootfs.Index(ctx, layers, rootfs.Options{Dir: b.o.LayerDir, Use: b.o.Use})
	})
	if err != nil {
		return nil, err
	}
	return value.(*filetree.Tree).Fork(), nil
}

// dialectOf tells from its files what tools a file system has.
func dialectOf(t *filetree.Tree) command.Dialect {
	for _, name := range []string{"/bin/busybox", "/etc/alpine-release"} {
		if _, err := t.Stat(name); err == nil {
			return command.Busybox
		}
	}
	return command.GNU
}

// shellDialect is what a shell of this name is in a stage.
func (st *stage) shellDialect(name string) shell.Dialect {
	switch path.Base(name) {
	case "bash":
		return shell.Bash
	case "ash":
		return shell.Ash
	case "dash":
		return shell.Dash
	}
	if st != nil && st.dialect == command.Busybox {
		return shell.Ash
	}
	return shell.Dash
}
