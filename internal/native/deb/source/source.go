// Package source reads where apt gets packages from: /etc/apt/sources.list and the
// files of /etc/apt/sources.list.d, in both of their forms (sources.list(5)).
//
// apt leaves out what it doesn't know; here it is an error that names the place, for
// an option that isn't obeyed may be what keeps packages from being trusted.
package source

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
)

// Choice is a setting that may be left to the default.
type Choice int

// The choices.
const (
	Default Choice = iota
	Yes
	No
)

// Source is one suite of one archive.
type Source struct {
	// Sources says that it is of source packages: deb-src.
	Sources bool
	// URI is the archive, with a slash at its end.
	URI string
	// Suite is a name, such as bookworm or stable/updates, or, with a slash at its
	// end, the directory of an archive without suites; "/" is the archive itself.
	Suite string
	// Components are those of a suite; a directory has none.
	Components []string
	// Architectures are those to get packages of, "all" left aside; nil are those
	// of the system.
	Architectures []string
	// AddArchitectures and RemoveArchitectures change that list.
	AddArchitectures, RemoveArchitectures []string

	SignedBy SignedBy
	// Trusted says whether the archive needs no signature, or, with No, that its
	// signature isn't enough.
	Trusted Choice
	// CheckValidUntil and CheckDate say whether the dates of its Release file count.
	CheckValidUntil, CheckDate Choice
	// ValidUntilMin, ValidUntilMax and DateMaxFuture are numbers of seconds that
	// change how they count; 0 is the default.
	ValidUntilMin, ValidUntilMax, DateMaxFuture int64
	// AllowInsecure, AllowWeak and AllowDowngrade are the options allow-insecure,
	// allow-weak and allow-downgrade-to-insecure.
	AllowInsecure, AllowWeak, AllowDowngrade Choice

	// Place is the file and the line where it stands.
	Place string
}

// SignedBy is whose signature an archive needs; the zero value is any of the keys that
// apt trusts: /etc/apt/trusted.gpg and /etc/apt/trusted.gpg.d.
type SignedBy struct {
	Files        []string // absolute paths of keyrings
	Fingerprints []string // of keys, in hexadecimal; "!" at the end means no subkeys
	Key          string   // a key itself, armored
}

// IsZero reports whether nothing is said.
func (s SignedBy) IsZero() bool { return len(s.Files) == 0 && len(s.Fingerprints) == 0 && s.Key == "" }

func (s SignedBy) equal(o SignedBy) bool {
	return slices.Equal(s.Files, o.Files) && slices.Equal(s.Fingerprints, o.Fingerprints) && s.Key == o.Key
}

// Base is where the Release file is, with a slash at its end.
func (s *Source) Base() string {
	switch {
	case s.Suite == "/":
		return s.URI
	case strings.HasSuffix(s.Suite, "/"):
		return s.URI + strings.TrimPrefix(s.Suite, "/")
	}
	return s.URI + "dists/" + s.Suite + "/"
}

// For lists the architectures to get packages of where those are the architectures of
// the system.
func (s *Source) For(system []string) []string {
	list := slices.Clone(s.Architectures)
	if s.Architectures == nil {
		list = slices.Clone(system)
	}
	for _, a := range s.AddArchitectures {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return slices.DeleteFunc(list, func(a string) bool { return slices.Contains(s.RemoveArchitectures, a) })
}

// Indexes are the names of the indexes of binary packages for an architecture, as they
// stand in the Release file without the ending of a compression. That of "all" may
// be missing from an archive, whose other indexes have those packages then.
func (s *Source) Indexes(arch string) []string {
	if strings.HasSuffix(s.Suite, "/") {
		return []string{"Packages"}
	}
	var list []string
	for _, c := range s.Components {
		list = append(list, c+"/binary-"+arch+"/Packages")
	}
	return list
}

// Where the files are.
const (
	mainFile = "/etc/apt/sources.list"
	partsDir = "/etc/apt/sources.list.d"
)

// Read reads all sources of a tree, in the order in which apt has them. arch is the
// architecture of the system, which $(ARCH) stands for. A tree without files has
// none.
func Read(t *filetree.Tree, arch string) ([]Source, error) {
	files, err := files(t)
	if err != nil {
		return nil, err
	}
	var list []Source
	for _, file := range files {
		data, err := t.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parse := lines
		if path.Ext(file) == ".sources" {
			parse = stanzas
		}
		more, err := parse(file, string(data), arch)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, agree(list)
}

// files lists sources.list and those of the directory that have one of the two
// endings and no strange characters in their names (apt.conf(5)).
func files(t *filetree.Tree) ([]string, error) {
	var list []string
	a, err := t.Stat(mainFile)
	switch {
	case err == nil && a.IsRegular():
		list = append(list, mainFile)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	parts, err := t.ReadDir(partsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	for _, f := range parts {
		ext := path.Ext(f.Name)
		if ext != ".list" && ext != ".sources" || strings.HasPrefix(f.Name, ".") || strings.Trim(f.Name, nameChars) != "" {
			continue
		}
		name := partsDir + "/" + f.Name
		if a, err := t.Stat(name); err == nil && a.IsRegular() {
			list = append(list, name)
		}
	}
	return list, nil
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:"

// agree makes sure that what is said about one suite in several places is the same.
func agree(list []Source) error {
	first := map[string]*Source{}
	for i := range list {
		s := &list[i]
		f := first[s.Base()]
		if f == nil {
			first[s.Base()] = s
			continue
		}
		option := ""
		switch {
		case !f.SignedBy.equal(s.SignedBy):
			option = "Signed-By"
		case f.Trusted != s.Trusted:
			option = "Trusted"
		case f.CheckValidUntil != s.CheckValidUntil:
			option = "Check-Valid-Until"
		case f.CheckDate != s.CheckDate:
			option = "Check-Date"
		case f.AllowInsecure != s.AllowInsecure, f.AllowWeak != s.AllowWeak, f.AllowDowngrade != s.AllowDowngrade:
			option = "Allow-Insecure"
		}
		if option != "" {
			return fmt.Errorf("%s: conflicting values for the option %s of %s %s, which is at %s too", s.Place, option, s.URI, s.Suite, f.Place)
		}
	}
	return nil
}

// add makes a source for each of the suites of an archive.
func (s Source) add(list []Source, uri string, suites, components []string, arch string) ([]Source, error) {
	uri = strings.ReplaceAll(uri, "$(ARCH)", arch)
	if scheme, _, ok := strings.Cut(uri, ":"); !ok || scheme == "" {
		return nil, fmt.Errorf("%q is no URI", uri)
	}
	if strings.ContainsAny(uri, " \t\x00") {
		return nil, fmt.Errorf("the URI %q has a space in it", uri)
	}
	s.URI = strings.TrimRight(uri, "/") + "/"
	for _, suite := range suites {
		s.Suite, s.Components = strings.ReplaceAll(suite, "$(ARCH)", arch), components
		directory := strings.HasSuffix(s.Suite, "/")
		switch {
		case slices.Contains(strings.Split(s.Suite, "/"), ".."):
			return nil, fmt.Errorf("the suite %s leads out of the archive", suite)
		case directory && len(components) > 0:
			return nil, fmt.Errorf("the directory %s can't have components", suite)
		case !directory && len(components) == 0:
			return nil, fmt.Errorf("the suite %s has no component", suite)
		}
		list = append(list, s)
	}
	return list, nil
}
