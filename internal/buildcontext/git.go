package buildcontext

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// commitHash is how a commit is written, whole.
var commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)

// isGit recognises the address of a git repository, as docker build does.
func isGit(where string) bool {
	address, _, _ := strings.Cut(where, "#")
	switch {
	case strings.HasPrefix(address, "git://"), strings.HasPrefix(address, "git@"), strings.HasPrefix(address, "ssh://"):
		return true
	case strings.HasPrefix(address, "github.com/"):
		return true
	case strings.HasPrefix(address, "http://"), strings.HasPrefix(address, "https://"), strings.HasPrefix(address, "file://"):
		return strings.HasSuffix(address, ".git")
	}
	return false
}

// clone fetches the repository that an address names, at its reference, and gives
// the directory of its subdirectory. It runs no program and no hook.
func clone(ctx context.Context, where, scratch string) (string, error) {
	address, fragment, _ := strings.Cut(where, "#")
	ref, sub, _ := strings.Cut(fragment, ":")
	if strings.HasPrefix(address, "github.com/") {
		address = "https://" + address
	}
	shown := address
	if u, err := url.Parse(address); err == nil && u.User != nil {
		u.User = nil
		shown = u.String()
	}
	if err := os.MkdirAll(filepath.Dir(scratch), 0o700); err != nil {
		return "", err
	}
	o := &git.CloneOptions{URL: address, Tags: git.NoTags, RecurseSubmodules: git.NoRecurseSubmodules}
	names := []plumbing.ReferenceName{""}
	switch {
	case ref == "":
		o.Depth = 1
	case commitHash.MatchString(ref):
		o.Tags = git.AllTags // any commit may be meant: the whole history is needed
	case strings.HasPrefix(ref, "refs/"):
		names, o.Depth, o.SingleBranch = []plumbing.ReferenceName{plumbing.ReferenceName(ref)}, 1, true
	default:
		names, o.Depth, o.SingleBranch = []plumbing.ReferenceName{plumbing.NewBranchReferenceName(ref), plumbing.NewTagReferenceName(ref)}, 1, true
	}
	var repo *git.Repository
	var err error
	for _, name := range names {
		o.ReferenceName = name
		_ = os.RemoveAll(scratch)
		if repo, err = git.PlainCloneContext(ctx, scratch, false, o); err == nil {
			break
		}
		var missing git.NoMatchingRefSpecError
		if !errors.As(err, &missing) && !errors.Is(err, plumbing.ErrReferenceNotFound) {
			break
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", refuse(shown, "the repository can't be fetched: "+strings.ReplaceAll(err.Error(), address, shown))
	}
	if commitHash.MatchString(ref) {
		tree, err := repo.Worktree()
		if err == nil {
			err = tree.Checkout(&git.CheckoutOptions{Hash: plumbing.NewHash(ref), Force: true})
		}
		if err != nil {
			return "", refuse(shown+"#"+ref, "the repository has no such commit: "+err.Error())
		}
	}
	// Docker leaves the repository itself out of the context.
	if err := os.RemoveAll(filepath.Join(scratch, ".git")); err != nil {
		return "", err
	}
	if sub == "" {
		return scratch, nil
	}
	root, err := os.OpenRoot(scratch)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	inner, err := root.OpenRoot(filepath.FromSlash(strings.TrimPrefix(path.Join("/", sub), "/")))
	if err != nil {
		return "", refuse(shown+"#"+fragment, "the repository has no such directory")
	}
	return inner.Name(), inner.Close()
}

// decompress goes by the first bytes of a stream.
func decompress(r *bufio.Reader) (io.Reader, error) {
	head, _ := r.Peek(6)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(r)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z, nil
	}
	return r, nil
}
