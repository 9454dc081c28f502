package apt

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/deb/control"
	"github.com/anyarch/anyarch/internal/native/deb/solve"
	"github.com/anyarch/anyarch/internal/native/deb/source"
	"github.com/anyarch/anyarch/internal/native/download"
)

// lists is where apt keeps the indexes that update downloaded.
const lists = "/var/lib/apt/lists"

// maxRelease bounds a Release file, in bytes.
const maxRelease = 16 << 20

// release is a Release file that was checked.
type release struct {
	*control.Paragraph
	files map[string]releaseFile // by name, such as main/binary-arm64/Packages.gz
}

type releaseFile struct {
	sha256 string
	size   int64
}

// keyring reads the keys that may sign a source: those that it names, else all that
// apt trusts (apt-secure(8)).
func keyring(t *filetree.Tree, s source.SignedBy) (openpgp.EntityList, error) {
	var names []string
	var keys openpgp.EntityList
	add := func(data []byte, name string) error {
		list, err := readKeys(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, list...)
		return nil
	}
	switch {
	case s.Key != "":
		return keys, add([]byte(s.Key), "Signed-By")
	case len(s.Files) > 0:
		names = s.Files
	default:
		if _, err := t.Stat("/etc/apt/trusted.gpg"); err == nil {
			names = append(names, "/etc/apt/trusted.gpg")
		}
		children, err := t.ReadDir("/etc/apt/trusted.gpg.d")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, c := range children {
			if strings.HasSuffix(c.Name, ".gpg") || strings.HasSuffix(c.Name, ".asc") {
				names = append(names, "/etc/apt/trusted.gpg.d/"+c.Name)
			}
		}
	}
	for _, name := range names {
		data, err := t.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if len(data) == 0 {
			continue
		}
		if err := add(data, name); err != nil {
			return nil, err
		}
	}
	if len(s.Fingerprints) > 0 {
		keys = slices.DeleteFunc(keys, func(e *openpgp.Entity) bool {
			return !slices.ContainsFunc(s.Fingerprints, func(f string) bool {
				f = strings.TrimSuffix(f, "!")
				has := func(k *packet.PublicKey) bool { return strings.EqualFold(hex.EncodeToString(k.Fingerprint), f) }
				return has(e.PrimaryKey) || slices.ContainsFunc(e.Subkeys, func(s openpgp.Subkey) bool { return has(s.PublicKey) })
			})
		})
	}
	return keys, nil
}

func readKeys(data []byte) (openpgp.EntityList, error) {
	if bytes.Contains(data, []byte("-----BEGIN PGP")) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(data))
}

// fetchRelease gets the Release file of a source and checks who signed it.
func (r *runner) fetchRelease(ctx context.Context, s *source.Source) (*release, []byte, string, error) {
	inRelease := s.Base() + "InRelease"
	file, err := r.d.Latest(ctx, inRelease, r.offline)
	if err != nil && strings.Contains(err.Error(), "404") {
		rel, data, err := r.detached(ctx, s)
		return rel, data, s.Base() + "Release", err
	}
	if err != nil {
		return nil, nil, "", err
	}
	data, err := readBounded(file)
	if err != nil {
		return nil, nil, "", err
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, nil, "", errors.New("its InRelease file isn't signed")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, "", errors.New("there is something behind the signature of its InRelease file")
	}
	if s.Trusted != source.Yes {
		keys, err := keyring(r.call.Tree, s.SignedBy)
		if err != nil {
			return nil, nil, "", err
		}
		if _, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, pgp); err != nil {
			return nil, nil, "", fmt.Errorf("the signature of its InRelease file isn't one of the stage's keys: %w", err)
		}
	}
	rel, err := parseRelease(block.Plaintext, s)
	return rel, data, inRelease, err
}

// pgp is how signatures are checked: an archive key that has expired since still
// says who signed.
var pgp = &packet.Config{}

// detached is Release with its signature in Release.gpg.
func (r *runner) detached(ctx context.Context, s *source.Source) (*release, []byte, error) {
	file, err := r.d.Latest(ctx, s.Base()+"Release", r.offline)
	if err != nil {
		return nil, nil, err
	}
	data, err := readBounded(file)
	if err != nil {
		return nil, nil, err
	}
	if s.Trusted != source.Yes {
		if file, err = r.d.Latest(ctx, s.Base()+"Release.gpg", r.offline); err != nil {
			return nil, nil, fmt.Errorf("it isn't signed: %w", err)
		}
		signature, err := readBounded(file)
		if err != nil {
			return nil, nil, err
		}
		keys, err := keyring(r.call.Tree, s.SignedBy)
		if err != nil {
			return nil, nil, err
		}
		body := io.Reader(bytes.NewReader(signature))
		if block, err := armor.Decode(bytes.NewReader(signature)); err == nil {
			body = block.Body
		}
		if _, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(data), body, pgp); err != nil {
			return nil, nil, fmt.Errorf("the signature of its Release file isn't one of the stage's keys: %w", err)
		}
	}
	rel, err := parseRelease(data, s)
	return rel, data, err
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRelease+1))
	if err == nil && len(data) > maxRelease {
		err = fmt.Errorf("it has more than %d bytes", maxRelease)
	}
	return data, err
}

// parseRelease reads a Release file (DebianRepository/Format).
func parseRelease(data []byte, s *source.Source) (*release, error) {
	p, err := control.NewReader(bytes.NewReader(data)).Next()
	if err != nil {
		return nil, fmt.Errorf("its Release file: %w", err)
	}
	r := &release{Paragraph: p, files: map[string]releaseFile{}}
	if until := p.Get("Valid-Until"); until != "" && s.CheckValidUntil != source.No {
		if at, err := time.Parse(time.RFC1123, until); err == nil && time.Now().After(at) {
			return nil, fmt.Errorf("its Release file is expired (invalid since %s): an old copy", until)
		}
	}
	for _, line := range control.Lines(p.Get("SHA256")) {
		words := strings.Fields(line)
		if len(words) != 3 || len(words[0]) != 64 || strings.Trim(words[0], "0123456789abcdef") != "" {
			return nil, fmt.Errorf("its Release file has the line %q", line)
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("its Release file has the line %q", line)
		}
		r.files[words[2]] = releaseFile{words[0], size}
	}
	if len(r.files) == 0 {
		return nil, errors.New("its Release file has no SHA-256 checksums")
	}
	return r, nil
}

// separateAll reports whether packages for all architectures have an index of their own
// (DebianRepository/Format, No-Support-for-Architecture-all).
func (r *release) separateAll() bool {
	return slices.Contains(strings.Fields(r.Get("Architectures")), "all") && !slices.Contains(strings.Fields(r.Get("No-Support-for-Architecture-all")), "Packages")
}

// compressions are the forms of an index that can be read, the quickest first.
var compressions = []string{".gz", ".xz", ""}

// fetchIndex gets one index, checked by the Release file: as it travelled, and how it
// is compressed. Archives say which of their indexes they have; one that isn't there is
// empty.
func (r *runner) fetchIndex(ctx context.Context, s *source.Source, rel *release, name string) (file, form string, err error) {
	for _, form := range compressions {
		f, ok := rel.files[name+form]
		if !ok {
			continue
		}
		address := s.Base() + name + form
		if strings.EqualFold(rel.Get("Acquire-By-Hash"), "yes") {
			address = s.Base() + path.Dir(name) + "/by-hash/SHA256/" + f.sha256
		}
		var mine string
		err := r.d.Checked(ctx, address, filepath.Join("apt", "lists", f.sha256), r.offline, func(file string) error {
			return keep(file, f, r.scratch, &mine)
		})
		return mine, form, err
	}
	return "", "", nil
}

// keep checks a file and keeps this build's own copy of it.
func keep(file string, want releaseFile, scratch string, kept *string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(scratch, "apt-*")
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return err
	case want.size >= 0 && n != want.size:
		//lint:ignore ST1005 as apt says it
		return fmt.Errorf("Hash Sum mismatch: it has %d bytes, not %d", n, want.size)
	case hex.EncodeToString(sum.Sum(nil)) != want.sha256:
		//lint:ignore ST1005 as apt says it
		return fmt.Errorf("Hash Sum mismatch: SHA256:%x, not %s", sum.Sum(nil), want.sha256)
	}
	*kept = out.Name()
	return nil
}

// listName is what apt calls a downloaded list: its address without the scheme, with
// underscores for slashes.
func listName(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	rest = strings.ReplaceAll(rest, "_", "%5f")
	return strings.ReplaceAll(rest, "/", "_")
}

// update downloads the indexes of all sources into the stage's lists.
func (r *runner) update(ctx context.Context) error {
	sources, err := source.Read(r.call.Tree, r.arch)
	if err != nil {
		return err
	}
	var failures []error
	put := func(name string, c filetree.Content) error {
		if err := r.call.Tree.MkdirAll(lists, filetree.Attr{Mode: 0o755, ModTime: r.call.Now}); err != nil {
			return err
		}
		return r.call.Tree.WriteFile(lists+"/"+name, c, filetree.Attr{Mode: 0o644, ModTime: r.call.Now})
	}
	for n, s := range sources {
		if s.Sources {
			continue
		}
		err := func() error {
			rel, data, address, err := r.fetchRelease(ctx, &s)
			if err != nil {
				return err
			}
			r.say("Get:%d %s %s InRelease [%d B]", n+1, strings.TrimSuffix(download.Clean(s.URI), "/"), s.Suite, len(data))
			if err := put(listName(address), filetree.Bytes(data).Content()); err != nil {
				return err
			}
			for _, arch := range s.For([]string{r.arch}) {
				names := s.Indexes(arch)
				if rel.separateAll() {
					names = slices.Concat(names, s.Indexes("all"))
				}
				for _, name := range names {
					file, form, err := r.fetchIndex(ctx, &s, rel, name)
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					if file == "" {
						continue
					}
					info, err := os.Stat(file)
					if err != nil {
						return err
					}
					if err := put(listName(s.Base()+name)+form, filetree.FileContent(file, info.Size())); err != nil {
						return err
					}
				}
			}
			return nil
		}()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			//lint:ignore ST1005 as apt says it
			failures = append(failures, fmt.Errorf("The repository '%s %s' (%s) can't be used: %w", download.Clean(s.URI), s.Suite, s.Place, err))
		}
	}
	if len(failures) == 0 {
		for _, dir := range []string{"partial", "auxfiles"} {
			if err := r.call.Tree.MkdirAll(lists+"/"+dir, filetree.Attr{Mode: 0o755, ModTime: r.call.Now}); err != nil {
				return err
			}
		}
	}
	return errors.Join(failures...)
}

// origin is where a package comes from.
type origin struct{ source *source.Source }

// available reads the lists of the stage: what apt-get update has left there.
func (r *runner) available(ctx context.Context) ([]*solve.Package, error) {
	sources, err := source.Read(r.call.Tree, r.arch)
	if err != nil {
		return nil, err
	}
	var all []*solve.Package
	for i := range sources {
		s := &sources[i]
		if s.Sources {
			continue
		}
		seen := map[string]bool{}
		for _, arch := range s.For([]string{r.arch}) {
			for _, name := range slices.Concat(s.Indexes(arch), s.Indexes("all")) {
				if seen[name] {
					continue
				}
				seen[name] = true
				for _, form := range append(slices.Clone(compressions), ".lz4") {
					file := lists + "/" + listName(s.Base()+name) + form
					a, err := r.call.Tree.Stat(file)
					if errors.Is(err, fs.ErrNotExist) {
						continue
					}
					if err != nil {
						return nil, err
					}
					if form == ".lz4" {
						return nil, fmt.Errorf("%s was made by apt itself: run apt-get update in this stage", file)
					}
					list, err := r.read(ctx, &a, form, s)
					if err != nil {
						return nil, fmt.Errorf("%s: %w", file, err)
					}
					all = append(all, list...)
					break
				}
			}
		}
	}
	return all, nil
}

// read reads one index.
func (r *runner) read(ctx context.Context, a *filetree.Attr, form string, s *source.Source) ([]*solve.Package, error) {
	in, err := a.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	plain := io.Reader(in)
	switch form {
	case ".gz":
		if plain, err = gzip.NewReader(in); err != nil {
			return nil, err
		}
	case ".xz":
		if plain, err = xz.NewReader(in); err != nil {
			return nil, err
		}
	}
	paragraphs := control.NewReader(plain)
	from := origin{s}
	var list []*solve.Package
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c, err := paragraphs.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		p, err := solve.NewPackage(c)
		if err != nil {
			return nil, err
		}
		p.Origin = from
		list = append(list, p)
	}
}
