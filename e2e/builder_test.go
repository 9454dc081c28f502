package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// Bases of build stages whose programs run: real Debians that mmdebstrap makes, kept
// between runs.

// noBase says why a base can't be made here.
type noBase struct{ reason string }

func (e *noBase) Error() string { return e.reason }

// skipWithout skips a test whose base can't be made, and fails on other errors.
func skipWithout(t *testing.T, err error) {
	t.Helper()
	if no := (*noBase)(nil); errors.As(err, &no) {
		t.Skip(no.reason)
	}
	check(t, err)
}

// debianRoot is the tar of a bookworm of this machine's architecture with packages in it.
func debianRoot(name string, include ...string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", &noBase{err.Error()}
	}
	kept := filepath.Join(cache, "anyarch-e2e", name+"-12-"+runtime.GOARCH+".tar")
	if _, err := os.Stat(kept); err == nil {
		return kept, nil
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return "", &noBase{"mmdebstrap isn't on PATH (Debian's package mmdebstrap)"}
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return "", err
	}
	temporary := fmt.Sprintf("%s.%d", kept, os.Getpid())
	defer func() { _ = os.Remove(temporary) }()
	cmd := exec.Command(program, "--quiet", "--variant=minbase", "--format=tar", "--include="+strings.Join(include, ","), "bookworm", temporary, "http://deb.debian.org/debian")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1750000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &noBase{fmt.Sprintf("mmdebstrap can't make a Debian here: %v\n%s", err, out)}
	}
	return kept, os.Rename(temporary, kept)
}

// The packages that the official golang image of Debian has, as far as builds call them.
var builderPackages = []string{"ca-certificates", "make", "git", "gcc", "libc6-dev", "curl", "wget"}

// realBuilder puts a golang image of Debian into the registry that has programs, for this
// machine's platform; those of others are never pulled.
func realBuilder(t *testing.T, root, repository, tag, version, kept string) {
	t.Helper()
	st, err := store.Create(filepath.Join(root, filepath.FromSlash(repository)))
	check(t, err)
	l, err := tarLayer(st, kept)
	check(t, err)
	env := []string{"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if version != "" {
		env = append(env, "GOLANG_VERSION="+version, "GOTOOLCHAIN=local", "GOPATH=/go")
	}
	var images []image.Image
	for _, arch := range []string{"amd64", "arm64"} {
		layers := []image.Layer{l}
		if arch != runtime.GOARCH {
			empty, err := layer.Write(t.Context(), st, []layer.Entry{{Name: "etc", Type: layer.Dir, Mode: 0o755}}, layer.Options{})
			check(t, err)
			layers = []image.Layer{empty}
		}
		img, err := image.Assemble(st, image.Recipe{Platform: platform.Platform{OS: "linux", Architecture: arch}, Config: ocispec.Image{Config: ocispec.ImageConfig{Env: env}}, Layers: layers})
		check(t, err)
		images = append(images, img)
	}
	index, err := image.WriteIndex(st, images, nil, image.OCI)
	check(t, err)
	check(t, st.Tag(t.Context(), tag, index, true))
}

func tarLayer(st *store.Store, file string) (image.Layer, error) {
	blob, err := st.Ingest()
	if err != nil {
		return image.Layer{}, err
	}
	defer blob.Abort()
	f, err := os.Open(file)
	if err != nil {
		return image.Layer{}, err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(blob, f); err != nil {
		return image.Layer{}, err
	}
	size := blob.Size()
	d, err := blob.Commit("")
	return image.Layer{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size}, DiffID: d,
		History: ocispec.History{CreatedBy: "# debian.sh --arch 'amd64' out/ 'bookworm'"}}, err
}
