package template

import (
	"maps"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Field is a value that templates can use.
type Field struct {
	Name string // with its leading dot, such as .Git.Commit
	Doc  string // one line, without a final stop
}

// Fields lists the values, by name.
func Fields() []Field {
	list := []Field{{Name: ".Env.NAME", Doc: "variable NAME of the caller's environment"}}
	for name, f := range fields {
		list = append(list, Field{Name: "." + name, Doc: f.doc})
	}
	slices.SortFunc(list, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// field is how one value is found.
type field struct {
	doc      string
	platform bool // differs between platforms
	get      func(*execution) (value, *problem)
}

// text makes a field of a text; empty means unset.
func text(doc string, get func(*execution) (string, *problem)) field {
	return field{doc: doc, get: func(e *execution) (value, *problem) {
		s, p := get(e)
		return value{text: s}, p
	}}
}

func truth(doc string, get func(*execution) (bool, *problem)) field {
	return field{doc: doc, get: func(e *execution) (value, *problem) {
		b, p := get(e)
		return boolean(b), p
	}}
}

func ofPlatform(f field) field {
	f.platform = true
	return f
}

// fields is the closed list of values, without .Env.
var fields = map[string]field{
	"Version":    text("semantic version: 1.5.0 if the tag v1.5.0 is at HEAD, else 1.5.0-3-gabc1234; -dirty is added if tracked files are changed", (*execution).version),
	"Major":      text("first number of .Version", (*execution).major),
	"Minor":      text("second number of .Version", (*execution).minor),
	"Patch":      text("third number of .Version", (*execution).patch),
	"Prerelease": text("what follows the first dash of .Version; unset for a release", (*execution).prerelease),
	"Date":       text("SOURCE_DATE_EPOCH, or the time of the commit; RFC 3339, UTC", (*execution).date),
	"Timestamp":  text("the same in seconds since 1970", (*execution).timestamp),

	"Git.Commit":          text("commit at HEAD, in full", (*execution).commit),
	"Git.FullCommit":      text("the same, by the name that ko has for it", (*execution).commit),
	"Git.ShortCommit":     text("its first 7 digits", (*execution).shortCommit),
	"Git.CommitDate":      text("time of the commit; RFC 3339, UTC", (*execution).commitDate),
	"Git.CommitTimestamp": text("the same in seconds since 1970", (*execution).commitTimestamp),
	"Git.Branch":          text("branch that is checked out; unset if HEAD is detached, as it is in most CI jobs", (*execution).branchName),
	"Git.Tag":             text("newest tag at HEAD, as it is written; unset if there is none", (*execution).tag),
	"Git.Describe":        text("nearest tag, and the distance from it, as git describe --tags prints them", (*execution).describe),
	"Git.TreeState":       text("clean, or dirty if tracked files are changed", (*execution).treeState),
	"Git.IsDirty":         truth("true if tracked files are changed", (*execution).isDirty),
	"Git.IsClean":         truth("true if they aren't", (*execution).isClean),
	"Git.Remote":          text("https URL of the origin, without credentials", (*execution).remote),

	"Platform":         ofPlatform(text("platform, such as linux/arm64", (*execution).platform)),
	"Platform.OS":      ofPlatform(text("operating system, such as linux", (*execution).os)),
	"Platform.Arch":    ofPlatform(text("architecture, such as arm64", (*execution).arch)),
	"Platform.Variant": ofPlatform(text("variant, such as v7; unset for an architecture's default", (*execution).variant)),
	"OS":               ofPlatform(text("short for .Platform.OS", (*execution).os)),
	"Arch":             ofPlatform(text("short for .Platform.Arch", (*execution).arch)),
	"Variant":          ofPlatform(text("short for .Platform.Variant", (*execution).variant)),

	"Name":       text("name of the program or target", (*execution).name),
	"Package":    text("import path of the Go package", (*execution).importPath),
	"Repository": text("image repository, such as ghcr.io/acme/app", (*execution).repository),
}

// aliases are names that other tools have for a value; they are only used to
// say what ours is called.
var aliases = map[string]string{
	"Tag": "Git.Tag", "Branch": "Git.Branch", "Commit": "Git.Commit", "FullCommit": "Git.FullCommit", "ShortCommit": "Git.ShortCommit",
	"CommitDate": "Git.CommitDate", "CommitTimestamp": "Git.CommitTimestamp", "IsGitDirty": "Git.IsDirty", "IsGitClean": "Git.IsClean",
	"GitTreeState": "Git.TreeState", "GitURL": "Git.Remote", "Summary": "Git.Describe", "Os": "OS", "Target": "Platform", "ProjectName": "Name",
	"Platform.Architecture": "Platform.Arch", "Architecture": "Arch", "GOOS": "OS", "GOARCH": "Arch", "RawVersion": "Version", "Dirty": "Git.IsDirty",
	"Git.Dirty": "Git.IsDirty", "Git.SHA": "Git.Commit", "Git.Hash": "Git.Commit", "Git.Date": "Git.CommitDate", "Git.Version": "Version",
}

// unknownField answers a name that isn't a value.
func unknownField(name string) *problem {
	p := &problem{summary: "there is no value ." + name}
	if meant := meantField(name); meant != "" {
		p.fix = []string{"{{." + meant + "}}"}
		return p
	}
	names := slices.Sorted(maps.Keys(fields))
	p.seen = []string{"values are ." + strings.Join(append(names, "Env.NAME"), " .")}
	return p
}

// meantField is the value that was probably meant, or "".
func meantField(name string) string {
	if meant := aliases[name]; meant != "" {
		return meant
	}
	names := slices.Sorted(maps.Keys(fields))
	for _, known := range names { // .version, .git.tag, .ENV.X
		if strings.EqualFold(known, name) {
			return known
		}
	}
	if first, rest, found := strings.Cut(name, "."); found && strings.EqualFold(first, "env") {
		return "Env." + rest
	}
	return refusal.Nearest(name, names)
}
