package vcs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxSymbolic is how many refs may point to one another, as in git.
const maxSymbolic = 5

// errNoRef is a ref that isn't there.
var errNoRef = errors.New("no such ref")

// resolveHead gives the commit at HEAD, and the branch; "" if it is detached.
func (r *Repository) resolveHead() (id objectID, branch string, err error) {
	target, id, err := r.readRef("HEAD")
	if err != nil {
		return "", "", fmt.Errorf("read HEAD: %w", err)
	}
	if target == "" {
		return id, "", nil
	}
	branch, _ = strings.CutPrefix(target, "refs/heads/")
	id, err = r.resolve(target)
	if errors.Is(err, errNoRef) {
		return "", "", fmt.Errorf("%s: %w", branch, ErrNoCommit)
	}
	return id, branch, err
}

// resolve follows a ref to the object it names.
func (r *Repository) resolve(name string) (objectID, error) {
	for range maxSymbolic {
		target, id, err := r.readRef(name)
		if errors.Is(err, errNoRef) {
			id, err = r.packedRef(name)
		}
		if err != nil || target == "" {
			return id, err
		}
		name = target
	}
	return "", fmt.Errorf("%s: refs point to one another", name)
}

// readRef reads a ref that is a file: the name of another ref, or an object.
func (r *Repository) readRef(name string) (target string, id objectID, err error) {
	if !validRef(name) {
		return "", "", fmt.Errorf("%q isn't the name of a ref", name)
	}
	dir := r.common
	if perWorktree(name) {
		dir = r.gitDir
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	info, err := os.Lstat(path)
	if isAbsent(err) || err == nil && info.IsDir() {
		return "", "", fmt.Errorf("%s: %w", name, errNoRef)
	}
	if err != nil {
		return "", "", err
	}
	if info.Mode()&fs.ModeSymlink != 0 { // what git wrote before there was "ref: "
		if link, err := os.Readlink(path); err == nil && strings.HasPrefix(link, "refs/") && validRef(link) {
			return link, "", nil
		}
	}
	text, err := readSmall(path, maxSmallFile)
	if err != nil {
		return "", "", err
	}
	return parseRef(r.format, name, text)
}

// parseRef reads the contents of a ref.
func parseRef(format hashFormat, name string, text []byte) (target string, id objectID, err error) {
	if rest, found := bytes.CutPrefix(text, []byte("ref:")); found {
		target = strings.TrimSpace(string(rest))
		if !strings.HasPrefix(target, "refs/") || !validRef(target) {
			return "", "", fmt.Errorf("%s points to %q, which isn't the name of a ref", name, target)
		}
		return target, "", nil
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line, _, _ = bytes.Cut(bytes.TrimRight(line, "\r"), []byte(" "))
	if id, ok := format.parse(string(line)); ok {
		return "", id, nil
	}
	return "", "", fmt.Errorf("%s doesn't hold a commit", name)
}

// perWorktree reports whether every linked working tree has a ref of its own
// by that name (gitrepository-layout, "refs").
func perWorktree(name string) bool {
	for _, prefix := range []string{"refs/bisect/", "refs/worktree/", "refs/rewritten/"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return !strings.HasPrefix(name, "refs/")
}

// validRef keeps to the rules of git-check-ref-format, which also keep a name
// from leading out of the repository.
func validRef(name string) bool {
	if name == "HEAD" {
		return true
	}
	if !strings.HasPrefix(name, "refs/") || len(name) > 4096 || !filepath.IsLocal(filepath.FromSlash(name)) ||
		strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.HasSuffix(name, ".") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || c == 0x7f || strings.ContainsRune(`~^:?*[\`, c)
	})
}

// packed is one line of packed-refs.
type packed struct {
	name   string
	id     objectID
	peeled objectID // what an annotated tag is on; empty if unknown or no tag
	known  bool     // an empty peeled means that this is no annotated tag
}

// eachPacked calls each for the packed refs that start with prefix, until it
// returns false.
func (r *Repository) eachPacked(prefix string, each func(packed) bool) error {
	place := filepath.Join(r.common, "packed-refs")
	f, info, err := openRegular(place)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info.Size() > maxRefs {
		return fmt.Errorf("%s: larger than %d bytes", place, int64(maxRefs))
	}
	if err := parsePacked(r.format, f, prefix, each); err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	return nil
}

// parsePacked reads packed-refs (git-pack-refs; refs/packed-backend.c).
func parsePacked(format hashFormat, text io.Reader, prefix string, each func(packed) bool) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(make([]byte, 0, 4096), 64<<10)
	var (
		last          packed
		fully, tagged bool // what the header promises to be peeled
	)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimRight(lines.Text(), "\r")
		switch {
		case strings.HasPrefix(line, "#"):
			for trait := range strings.FieldsSeq(strings.TrimPrefix(line, "# pack-refs with:")) {
				fully = fully || trait == "fully-peeled"
				tagged = tagged || trait == "peeled"
			}
		case strings.HasPrefix(line, "^"):
			id, ok := format.parse(line[1:])
			if !ok {
				return fmt.Errorf("line %d isn't an object", number)
			}
			last.peeled = id
		default:
			if last.name != "" && !each(last) {
				return nil
			}
			last = packed{}
			hash, name, _ := strings.Cut(line, " ")
			id, ok := format.parse(hash)
			if !ok {
				return fmt.Errorf("line %d isn't a ref", number)
			}
			if strings.HasPrefix(name, prefix) && validRef(name) {
				last = packed{name: name, id: id, known: fully || tagged && strings.HasPrefix(name, "refs/tags/")}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if last.name != "" {
		each(last)
	}
	return nil
}

// packedRef finds one packed ref.
func (r *Repository) packedRef(name string) (objectID, error) {
	var id objectID
	err := r.eachPacked(name, func(p packed) bool {
		if p.name == name {
			id = p.id
		}
		return id == ""
	})
	if err == nil && id == "" {
		err = fmt.Errorf("%s: %w", name, errNoRef)
	}
	return id, err
}
