// Package vcs reads the revision of a Git repository without running git.
//
// A repository is foreign data: its .git/config can name programs (fsmonitor,
// hooks, filters, ssh commands) that git would start. Nothing is ever started
// here, nothing is written, and git needn't be installed: HEAD, refs, objects,
// packs and the index are parsed directly, within bounds. Only what the
// repository itself says counts; GIT_* variables, the user's and the system's
// configuration, includes and replace refs are ignored, so that two machines
// read the same revision from the same clone.
//
// The formats are those of git's Documentation: gitrepository-layout,
// gitformat-pack, gitformat-index, gitattributes.
package vcs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrNoRepository is what [Find] wraps where no repository holds the directory.
	ErrNoRepository = errors.New("not in a Git repository")
	// ErrNoCommit is wrapped when HEAD names a branch without a commit.
	ErrNoCommit = errors.New("the branch has no commit yet")
	// ErrNoTag is wrapped when no tag can be reached from HEAD.
	ErrNoTag = errors.New("no tag can be reached from HEAD")
)

// Unsupported is a form of repository that this package doesn't read.
type Unsupported struct {
	Place string // the file that says so
	What  string // what isn't read, one line
	Fix   string // a command that turns the repository into one that is; may be empty
}

func (e *Unsupported) Error() string { return e.Place + ": " + e.What }

// Bounds of what is believed of a repository. Real ones stay far below.
const (
	maxSmallFile = 1 << 20   // HEAD, refs, .git files, shallow
	maxConfig    = 4 << 20   // config, attributes
	maxRefs      = 512 << 20 // packed-refs, which is streamed
	maxIndex     = 256 << 20 // 2 million files
	maxObject    = 64 << 20  // a commit, tag or tree, inflated
)

// ShortLength is the number of hexadecimal digits of a short commit. It is
// fixed: git's own length grows with the number of objects in the clone, so a
// shallow and a full clone of one commit would name it, and the program that
// is stamped with it, differently.
const ShortLength = 7

// Repository is one working tree and the repository it belongs to. It is
// immutable, keeps no file open, and may be used by any number of goroutines.
type Repository struct {
	root   string // working tree
	gitDir string // of this working tree: HEAD and index
	common string // shared by all working trees: refs, objects, config
	config config
	format hashFormat
	depth  int // of nested submodules
}

// Commit is the commit that HEAD names.
type Commit struct {
	Hash       string    // in full: 40 hexadecimal digits, or 64 in a sha256 repository
	Branch     string    // that is checked out, such as main or feature/x; empty if HEAD is detached
	Time       time.Time // of the commit, UTC
	AuthorTime time.Time // when the change was first made, UTC
}

// Short is the commit in [ShortLength] digits.
func (c Commit) Short() string { return short(c.Hash) }

func short(hash string) string { return hash[:min(ShortLength, len(hash))] }

// Revision is all there is to say about a working tree.
type Revision struct {
	Commit
	Tag      string // newest tag at HEAD, by version; empty if there is none
	Describe string // as git describe --tags --abbrev=7 says it; empty without tags
	Dirty    bool   // tracked files differ from HEAD
	Remote   string // https URL of the origin; see [Repository.Remote]
	Root     string // of the working tree, absolute
}

// Find gives the repository whose working tree holds dir. It looks for .git in
// dir and its parents; that may be a directory or the .git file of a linked
// working tree or submodule. Without one the error wraps [ErrNoRepository]; a
// repository of a newer form is an [Unsupported].
func Find(dir string) (*Repository, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the repository of %s: %w", dir, err)
	}
	for at := abs; ; {
		r, err := openAt(at)
		if err == nil || !errors.Is(err, ErrNoRepository) {
			return r, err
		}
		parent := filepath.Dir(at)
		if parent == at {
			return nil, fmt.Errorf("%s: %w", abs, ErrNoRepository)
		}
		at = parent
	}
}

// openAt opens the repository whose working tree starts at root.
func openAt(root string) (*Repository, error) {
	r := &Repository{root: root, gitDir: filepath.Join(root, ".git")}
	info, err := os.Stat(r.gitDir)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, ErrNoRepository
	}
	if err != nil {
		return nil, fmt.Errorf("find a repository: %w", err)
	}
	if !info.IsDir() {
		text, err := readSmall(r.gitDir, maxSmallFile)
		if err != nil {
			return nil, err
		}
		target, found := strings.CutPrefix(trimLine(text), "gitdir: ")
		if !found {
			return nil, fmt.Errorf("%s: not a .git file", r.gitDir)
		}
		if r.gitDir, err = plainPath(root, target); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(root, ".git"), err)
		}
	}
	r.common = r.gitDir
	if text, err := readSmall(filepath.Join(r.gitDir, "commondir"), maxSmallFile); err == nil {
		if r.common, err = plainPath(r.gitDir, trimLine(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(r.gitDir, "commondir"), err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !isNotDir(err) {
		return nil, err
	}
	if !r.complete() {
		if info.IsDir() { // as git does: an empty .git directory hides nothing
			return nil, ErrNoRepository
		}
		return nil, fmt.Errorf("%s: points to %s, which isn't a repository", filepath.Join(root, ".git"), r.gitDir)
	}
	if err := r.configure(); err != nil {
		return nil, err
	}
	return r, nil
}

// complete reports whether this has the parts that make git call it a repository.
func (r *Repository) complete() bool {
	if _, err := os.Lstat(filepath.Join(r.gitDir, "HEAD")); err != nil {
		return false
	}
	for _, dir := range []string{"objects", "refs"} {
		if info, err := os.Stat(filepath.Join(r.common, dir)); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// configure reads the configuration and refuses what this package can't read.
func (r *Repository) configure() error {
	place := filepath.Join(r.common, "config")
	text, err := readSmall(place, maxConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if r.config, err = parseConfig(text); err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	if version := r.config.get("core.repositoryformatversion"); version != "" && version != "0" && version != "1" {
		return &Unsupported{Place: place, What: "repository format version " + version + " isn't supported"}
	}
	for _, key := range r.config.keys("extensions.") {
		switch key {
		case "noop", "noop-v1", "preciousobjects", "partialclone", "worktreeconfig", "objectformat", "compatobjectformat", "refstorage", "relativeworktrees":
		default:
			if r.config.get("core.repositoryformatversion") == "1" { // version 0 knows no extensions
				return &Unsupported{Place: place, What: "repository extension " + key + " isn't supported"}
			}
		}
	}
	if storage := r.config.get("extensions.refstorage"); storage != "" && storage != "files" {
		return &Unsupported{Place: place, What: "refs are kept as " + storage + ", which isn't supported", Fix: "git refs migrate --ref-format=files"}
	}
	name := r.config.get("extensions.objectformat")
	format, known := formatNamed(name)
	if !known {
		return &Unsupported{Place: place, What: "object format " + name + " isn't supported"}
	}
	r.format = format
	if r.config.isTrue("extensions.worktreeconfig", false) {
		place := filepath.Join(r.gitDir, "config.worktree")
		text, err := readSmall(place, maxConfig)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		more, err := parseConfig(text)
		if err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
		r.config = r.config.over(more)
	}
	return nil
}

// Root is the absolute path of the working tree.
func (r *Repository) Root() string { return r.root }

// Shallow reports whether the clone was made without all of the history, so
// that tags may be missing.
func (r *Repository) Shallow() bool {
	info, err := os.Stat(filepath.Join(r.common, "shallow"))
	return err == nil && info.Size() > 0
}

// Remote is where the sources can be found by others: the URL of the remote
// named origin, or of the only remote, as https://host/path without credentials
// and without .git, fit for org.opencontainers.image.source. A plain http URL
// with a port stays http. It is empty if there is none, or if it is a path or
// names a helper program.
func (r *Repository) Remote() string {
	url := r.config.first("remote.origin.url")
	if url == "" {
		var only []string
		for _, key := range r.config.keys("remote.") {
			if strings.HasSuffix(key, ".url") {
				only = append(only, key)
			}
		}
		if len(only) == 1 {
			url = r.config.first("remote." + only[0])
		}
	}
	return publicURL(url)
}

// Commit reads the commit at HEAD: a few small files, whatever the size of the
// repository. Before the first commit the error wraps [ErrNoCommit].
func (r *Repository) Commit(ctx context.Context) (Commit, error) {
	if err := ctx.Err(); err != nil {
		return Commit{}, err
	}
	db := r.objects()
	defer db.close()
	c, _, err := r.head(db)
	return c, err
}

// head reads the commit at HEAD, as it is and parsed.
func (r *Repository) head(db *objects) (Commit, commit, error) {
	id, branch, err := r.resolveHead()
	if err != nil {
		return Commit{}, commit{}, err
	}
	parsed, err := db.commit(id)
	if err != nil {
		return Commit{}, commit{}, fmt.Errorf("read HEAD: %w", err)
	}
	return Commit{
		Hash: id.String(), Branch: branch,
		Time: time.Unix(parsed.time, 0).UTC(), AuthorTime: time.Unix(parsed.authorTime, 0).UTC(),
	}, parsed, nil
}

// Head reads everything. What costs, the walk through history and the look at
// every tracked file, can be had apart: [Repository.Describe], [Repository.Dirty].
func (r *Repository) Head(ctx context.Context) (Revision, error) {
	var (
		revision = Revision{Root: r.root, Remote: r.Remote()}
		err      error
	)
	if revision.Commit, err = r.Commit(ctx); err != nil {
		return Revision{}, err
	}
	tags, err := r.Tags(ctx)
	if err != nil {
		return Revision{}, err
	}
	if len(tags) > 0 {
		revision.Tag = tags[0]
	}
	description, err := r.Describe(ctx, nil)
	if err != nil && !errors.Is(err, ErrNoTag) {
		return Revision{}, err
	}
	if err == nil {
		revision.Describe = description.String()
	}
	if revision.Dirty, err = r.Dirty(ctx); err != nil {
		return Revision{}, err
	}
	return revision, nil
}
