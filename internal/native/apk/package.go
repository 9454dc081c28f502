package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha1" //nolint:gosec // the format's own checksum, inside a signed index
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
)

// scriptNames are the scripts that a package may have.
var scriptNames = []string{"pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-deinstall", "post-deinstall", "trigger"}

// archive is a package that has been checked: its control data, and its files.
type archive struct {
	entry    *entry
	scripts  map[string][]byte // by name, such as post-install
	triggers []string          // patterns of directories
	files    []file            // in the order of the archive
}

// file is a file of a package.
type file struct {
	name string // without a leading slash
	filetree.Attr
	hardlink string // name of the file that it is a link to
	user     string // names of the owners, which count where the stage knows them
	group    string
	sum      checksum // of content or target; nil of directories
}

// openArchive checks a package file against the checksum that a signed index has
// for it, or, where that is nil, against its own signature; everything before
// anything of it is used. Its content is unpacked to a file below scratch.
//
// The chain is: checksum of the control member (index) → datahash (control) →
// checksum of each file (data), as in apk-v2(5).
func openArchive(name string, want checksum, keys keyring, allowUntrusted bool, scratch string) (*archive, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	head, err := controlMembers(in)
	if err != nil {
		return nil, err
	}
	switch {
	case want != nil && len(want) == sha1.Size:
		if sum := sha1.Sum(head.control); !bytes.Equal(sum[:], want) { //nolint:gosec // see above
			return nil, fmt.Errorf("BAD checksum: the package isn't the one that the index names (%s, not %s)", checksum(sum[:]), want)
		}
	case want != nil:
		if sum := sha256.Sum256(head.control); !bytes.Equal(sum[:], want) {
			return nil, fmt.Errorf("BAD checksum: the package isn't the one that the index names (%s, not %s)", checksum(sum[:]), want)
		}
	case !allowUntrusted:
		if err := keys.verify(head.signatures, head.control); err != nil {
			return nil, err
		}
	}
	a := &archive{scripts: map[string][]byte{}}
	datahash, err := a.readControl(head.content, info.Size())
	if err != nil {
		return nil, err
	}
	if a.entry.Checksum == "" {
		sum := sha1.Sum(head.control) //nolint:gosec // see above
		a.entry.Checksum = checksum(sum[:]).String()
	}
	if _, err := in.Seek(head.size, io.SeekStart); err != nil {
		return nil, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return nil, err
	}
	if datahash == "" && info.Size() > head.size {
		return nil, errors.New("its control data has no checksum (datahash) of its files")
	}
	if datahash != "" && hex.EncodeToString(sum.Sum(nil)) != datahash {
		return nil, errors.New("BAD checksum: its files aren't those that its control data names (datahash)")
	}
	if datahash == "" {
		return a, nil
	}
	if _, err := in.Seek(head.size, io.SeekStart); err != nil {
		return nil, err
	}
	return a, a.readData(in, scratch)
}

// head is what stands before the files of a package.
type packageHead struct {
	signatures []signature
	control    []byte // the member as it is packed
	content    []byte // unpacked
	size       int64  // of all of it
}

func controlMembers(in io.ReaderAt) (*packageHead, error) {
	// The members are small; data that follows is not read.
	limit := int64(maxControl + maxSignature)
	data, err := io.ReadAll(io.NewSectionReader(in, 0, limit))
	if err != nil {
		return nil, err
	}
	content, raw, rest, err := member(data, maxControl)
	if err != nil {
		return nil, err
	}
	h := &packageHead{size: int64(len(raw))}
	if list, err := signatures(content); err == nil && len(list) > 0 {
		h.signatures = list
		if content, raw, _, err = member(rest, maxControl); err != nil {
			return nil, fmt.Errorf("its control data: %w", err)
		}
		h.size += int64(len(raw))
	}
	h.control, h.content = raw, content
	return h, nil
}

// readControl reads .PKGINFO and the scripts.
func (a *archive) readControl(content []byte, size int64) (datahash string, err error) {
	var info []byte
	err = eachEntry(bytes.NewReader(content), func(h *tar.Header, r io.Reader) error {
		name := strings.TrimPrefix(h.Name, ".")
		if h.Name == ".PKGINFO" {
			info, err = io.ReadAll(r)
			return err
		}
		if h.Name == "."+name && slices.Contains(scriptNames, name) {
			a.scripts[name], err = io.ReadAll(r)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("its control data: %w", err)
	}
	if info == nil {
		return "", errors.New("there is no .PKGINFO in it")
	}
	values := map[string][]string{}
	for line := range strings.SplitSeq(string(info), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if k, v, ok := strings.Cut(line, " = "); ok {
			values[k] = append(values[k], v)
		}
	}
	one := func(key string) string {
		if len(values[key]) == 0 {
			return ""
		}
		return values[key][len(values[key])-1]
	}
	a.entry = &entry{}
	installed := one("size")
	if installed == "" {
		installed = "0"
	}
	// The order is that of apk's own database.
	for _, f := range []field{
		{'P', one("pkgname")}, {'V', one("pkgver")}, {'A', one("arch")}, {'S', strconv.FormatInt(size, 10)}, {'I', installed},
		{'T', one("pkgdesc")}, {'U', one("url")}, {'L', one("license")}, {'o', one("origin")}, {'m', one("maintainer")},
		{'t', one("builddate")}, {'c', one("commit")}, {'k', one("provider_priority")},
		{'D', strings.Join(values["depend"], " ")}, {'p', strings.Join(values["provides"], " ")}, {'i', strings.Join(values["install_if"], " ")},
		{'r', strings.Join(values["replaces"], " ")}, {'q', one("replaces_priority")},
	} {
		if f.value != "" {
			a.entry.fields = append(a.entry.fields, f)
		}
	}
	for _, list := range values["triggers"] {
		a.triggers = append(a.triggers, strings.Fields(list)...)
	}
	return one("datahash"), a.entry.parseFields()
}

// readData reads the files. Their content is kept in one unpacked file.
func (a *archive) readData(in io.Reader, scratch string) (err error) {
	z, err := gzip.NewReader(bufio.NewReaderSize(in, 256<<10))
	if err != nil {
		return fmt.Errorf("its files: %w", err)
	}
	out, err := os.CreateTemp(scratch, "apk-*")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	buffered := bufio.NewWriterSize(out, 256<<10)
	var at int64
	seen := map[string]bool{}
	err = eachEntry(z, func(h *tar.Header, r io.Reader) error {
		name := strings.TrimSuffix(h.Name, "/")
		if !cleanName(name) {
			return fmt.Errorf("the file name %q leads elsewhere", h.Name)
		}
		if seen[name] {
			return fmt.Errorf("%s is in it twice", name)
		}
		seen[name] = true
		f := file{name: name, user: h.Uname, group: h.Gname, Attr: filetree.Attr{
			Mode: h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky), UID: h.Uid, GID: h.Gid, ModTime: h.ModTime,
		}}
		for k, v := range h.PAXRecords {
			if key, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				if f.Xattrs == nil {
					f.Xattrs = map[string]string{}
				}
				f.Xattrs[key] = v
			}
		}
		var want []byte
		if text := h.PAXRecords["APK-TOOLS.checksum.SHA1"]; text != "" {
			if want, err = hex.DecodeString(text); err != nil || len(want) != sha1.Size {
				return fmt.Errorf("%s: %q is no checksum", name, text)
			}
		}
		switch h.Typeflag {
		case tar.TypeDir:
			f.Mode |= fs.ModeDir
		case tar.TypeReg:
			sum := sha1.New() //nolint:gosec // see above
			n, err := io.Copy(io.MultiWriter(buffered, sum), r)
			if err != nil {
				return err
			}
			if n > 0 {
				f.Content = filetree.SectionContent(out.Name(), at, n)
			}
			at += n
			f.sum = sum.Sum(nil)
		case tar.TypeSymlink:
			f.Mode |= fs.ModeSymlink
			f.Mode |= fs.ModePerm
			f.Link = h.Linkname
			sum := sha1.Sum([]byte(h.Linkname)) //nolint:gosec // see above
			f.sum = sum[:]
		case tar.TypeLink:
			f.hardlink = strings.TrimPrefix(h.Linkname, "/")
			if !seen[f.hardlink] || f.hardlink == name {
				return fmt.Errorf("%s is a hard link to %s, which isn't a file of the package before it", name, h.Linkname)
			}
		case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
			switch h.Typeflag {
			case tar.TypeChar:
				f.Mode |= fs.ModeDevice | fs.ModeCharDevice
			case tar.TypeBlock:
				f.Mode |= fs.ModeDevice
			default:
				f.Mode |= fs.ModeNamedPipe
			}
			f.DevMajor, f.DevMinor = h.Devmajor, h.Devminor
		default:
			return fmt.Errorf("%s is of the type %q", name, h.Typeflag)
		}
		switch {
		case want == nil || f.sum == nil:
		case f.Mode.IsRegular() && !bytes.Equal(want, f.sum):
			return fmt.Errorf("BAD checksum of %s", name)
		default:
			// Tools disagree on what the checksum of a link is of; apk records what
			// the package says.
			f.sum = want
		}
		a.files = append(a.files, f)
		return nil
	})
	if err != nil {
		return fmt.Errorf("its files: %w", err)
	}
	return buffered.Flush()
}

// cleanName reports whether a file name stays below the root and names one thing
// in one way.
func cleanName(name string) bool {
	return name != "" && name != "." && !strings.HasPrefix(name, "/") && path.Clean(name) == name && name != ".." && !strings.HasPrefix(name, "../") && !strings.ContainsAny(name, "\x00\n")
}

// buildTime is when a package was made.
func (e *entry) buildTime() time.Time { return time.Unix(e.BuildTime, 0).UTC() }
