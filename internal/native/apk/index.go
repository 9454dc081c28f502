package apk

import (
	"archive/tar"
	"bytes"
	"crypto/sha1" //nolint:gosec // the format's own checksum
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/apk/solve"
)

// entry is one package of an index or of the database of what is installed: its
// lines as they are, and what the solver needs.
type entry struct {
	solve.Package
	fields     []field // in their order; of the installed, without files
	repository *repository
}

// field is one line of a stanza, such as P:curl.
type field struct {
	letter byte
	value  string
}

func (e *entry) value(letter byte) string {
	for _, f := range e.fields {
		if f.letter == letter {
			return f.value
		}
	}
	return ""
}

// set changes a field, or adds it at the end.
func (e *entry) set(letter byte, value string) {
	for i := range e.fields {
		if e.fields[i].letter == letter {
			e.fields[i].value = value
			return
		}
	}
	e.fields = append(e.fields, field{letter, value})
}

// parseFields understands the lines of a stanza (apk-index(5)). Letters that it
// doesn't know are kept and mean nothing to it.
func (e *entry) parseFields() error {
	for _, f := range e.fields {
		var err error
		switch f.letter {
		case 'C':
			e.Checksum = f.value
		case 'P':
			e.Name = f.value
		case 'V':
			e.Version = f.value
		case 'A':
			e.Arch = f.value
		case 'o':
			e.Origin = f.value
		case 'S':
			e.Size, err = number(f.value)
		case 'I':
			e.InstalledSize, err = number(f.value)
		case 't':
			e.BuildTime, err = number(f.value)
		case 'k':
			e.ProviderPriority, err = strconv.Atoi(f.value)
		case 'q':
			e.ReplacesPriority, err = strconv.Atoi(f.value)
		case 'D':
			e.Depends, err = dependencies(f.value)
		case 'i':
			e.InstallIf, err = dependencies(f.value)
		case 'r':
			e.Replaces, err = dependencies(f.value)
		case 'p':
			e.Provides, err = provides(f.value)
		}
		if err != nil {
			return fmt.Errorf("%s: line %c: %w", e.Name, f.letter, err)
		}
	}
	switch {
	case !plainName(e.Name):
		return fmt.Errorf("%q is no name of a package", e.Name)
	case !solve.ValidVersion(e.Version):
		return fmt.Errorf("%s: %q is no version", e.Name, e.Version)
	}
	return nil
}

// plainName reports whether a name can be part of a file name.
func plainName(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._+-", r))
	}) || strings.HasPrefix(s, ".") && len(s) > 1 && plainName(s[1:])
}

func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("it is negative")
	}
	return n, err
}

func dependencies(s string) ([]solve.Dependency, error) {
	var list []solve.Dependency
	for word := range strings.FieldsSeq(s) {
		d, err := solve.ParseDependency(word)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func provides(s string) ([]solve.Provide, error) {
	var list []solve.Provide
	for word := range strings.FieldsSeq(s) {
		p, err := solve.ParseProvide(word)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// checksum is a C: or Z: value, or a datahash: Q1 is SHA-1, Q2 SHA-256, in base64.
type checksum []byte

func parseChecksum(s string) (checksum, error) {
	kind, size := "", 0
	switch {
	case strings.HasPrefix(s, "Q1"):
		kind, size = s[:2], 20
	case strings.HasPrefix(s, "Q2"):
		kind, size = s[:2], 32
	default:
		return nil, fmt.Errorf("%q is no checksum", s)
	}
	sum, err := base64.StdEncoding.DecodeString(s[len(kind):])
	if err != nil || len(sum) != size {
		return nil, fmt.Errorf("%q is no checksum", s)
	}
	return sum, nil
}

func (c checksum) String() string {
	kind := "Q1"
	if len(c) == 32 {
		kind = "Q2"
	}
	return kind + base64.StdEncoding.EncodeToString(c)
}

func (c checksum) hex() string { return hex.EncodeToString(c) }

// parseIndex reads the stanzas of an APKINDEX file. One package that can't be read
// is left out, as apk does with what a newer version has written; broken says which.
func parseIndex(text []byte, repository *repository) (list []*entry, broken []string) {
	for stanza := range bytes.SplitSeq(text, []byte("\n\n")) {
		e := &entry{repository: repository}
		for line := range strings.SplitSeq(strings.Trim(string(stanza), "\n"), "\n") {
			if len(line) >= 2 && line[1] == ':' {
				e.fields = append(e.fields, field{line[0], line[2:]})
			}
		}
		if len(e.fields) == 0 {
			continue
		}
		err := e.parseFields()
		if err == nil {
			_, err = parseChecksum(e.Checksum)
		}
		if err != nil {
			broken = append(broken, err.Error())
			continue
		}
		list = append(list, e)
	}
	return list, broken
}

// openIndex checks the signature of an APKINDEX.tar.gz and gives the index in it.
func openIndex(data []byte, keys keyring, allowUntrusted bool) ([]byte, error) {
	content, _, rest, err := member(data, maxIndex)
	if err != nil {
		return nil, err
	}
	list, serr := signatures(content)
	if serr == nil && len(list) > 0 {
		if err := keys.verify(list, rest); err != nil && !allowUntrusted {
			return nil, err
		}
		if content, _, rest, err = member(rest, maxIndex); err != nil {
			return nil, err
		}
	} else if !allowUntrusted {
		return nil, errors.New("UNTRUSTED: it isn't signed")
	}
	if len(bytes.TrimRight(rest, "\x00")) > 0 {
		return nil, errors.New("there is something behind the index")
	}
	var index []byte
	found := false
	err = eachEntry(bytes.NewReader(content), func(h *tar.Header, r io.Reader) error {
		if h.Name != "APKINDEX" {
			return nil
		}
		found = true
		index, err = io.ReadAll(r)
		return err
	})
	if err == nil && !found {
		err = errors.New("there is no APKINDEX in it")
	}
	return index, err
}

// virtualChecksum identifies a virtual package.
func virtualChecksum(name, version string, depends []string) string {
	sum := sha1.Sum([]byte(name + "\n" + version + "\n" + strings.Join(depends, " "))) //nolint:gosec // the format's own
	return checksum(sum[:]).String()
}
