package vcs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// conversion is what git does to a file between the working tree and the
// repository, as far as it can be done without running anything.
type conversion struct {
	text   textMode
	ident  bool   // $Id: ...$ is stored as $Id$
	filter string // name of the filter driver; none is ever run
}

// textMode says whether CR LF is stored as LF.
type textMode int

const (
	asIs     textMode = iota // never
	ifText                   // if the file looks like text
	always                   // text=set
	possible                 // the user's configuration decides, which isn't read
)

func (c conversion) plain() bool { return c == conversion{} }

// stored gives the forms that git may have stored a file in.
func (c conversion) stored(data []byte) [][]byte {
	ident := func(b []byte) []byte {
		if c.ident {
			return keyword.ReplaceAll(b, []byte("$$Id$$"))
		}
		return b
	}
	switch {
	case c.text == always:
		return [][]byte{ident(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")))}
	case c.text != asIs && looksLikeText(data):
		// Files that had CR LF in the repository already are left alone.
		return [][]byte{ident(data), ident(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")))}
	}
	return [][]byte{ident(data)}
}

var keyword = regexp.MustCompile(`\$Id(:[^$\n]*)?\$`)

// looksLikeText is git's own guess (convert.c, convert_is_binary).
func looksLikeText(data []byte) bool {
	printable, other := 0, 0
	for i, c := range data {
		switch {
		case c == '\r':
			if i+1 == len(data) || data[i+1] != '\n' {
				return false
			}
		case c == '\n':
		case c == 0:
			return false
		case c == 0x7f || c < ' ' && c != '\b' && c != '\t' && c != '\f' && c != 0x1b:
			if c != 0x1a || i+1 < len(data) { // an end of file of old is no sign
				other++
			}
		default:
			printable++
		}
	}
	return printable>>7 >= other
}

// hashLFS names the pointer that Git LFS stores in place of a file, so that a
// file under its filter can be compared without it (git-lfs, docs/spec.md).
func (r *Repository) hashLFS(name string, size int64) (objectID, error) {
	f, _, err := openRegular(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return r.format.sum("blob", fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", h.Sum(nil), size)), nil
}

// attributes answers from the .gitattributes files of a working tree and from
// info/attributes. Files are read when they are first needed. It isn't safe
// for concurrent use.
type attributes struct {
	repository *Repository
	read       map[string][]rule // by directory; "" is the root
	info       []rule
	infoRead   bool
}

// rule is one line of an attributes file.
type rule struct {
	pattern *regexp.Regexp // of the path below the file's directory; nil for a macro
	macro   string
	set     map[string]string // attribute to its value; "true", "false" or "" for unset, set, unspecified
}

// Values of an attribute that aren't given as one.
const (
	isSet       = "true"
	isUnset     = "false"
	unspecified = ""
)

// of gives what is to be done with a file.
func (a *attributes) of(name string) (conversion, error) {
	values := map[string]string{}
	macros := map[string]map[string]string{"binary": {"text": isUnset}}
	apply := func(rules []rule, below string) {
		for _, r := range rules {
			if r.pattern == nil {
				macros[r.macro] = r.set
				continue
			}
			if !r.pattern.MatchString(below) {
				continue
			}
			for key, value := range r.set {
				if macro := macros[key]; macro != nil && value == isSet {
					for key, value := range macro {
						values[key] = value
					}
				}
			}
			for key, value := range r.set {
				values[key] = value
			}
		}
	}
	for i := 0; ; { // from the root down: what is nearer counts more
		dir := ""
		if i > 0 {
			dir = name[:i-1]
		}
		rules, err := a.rules(dir)
		if err != nil {
			return conversion{}, err
		}
		apply(rules, name[i:])
		next := strings.IndexByte(name[i:], '/')
		if next < 0 {
			break
		}
		i += next + 1
	}
	if !a.infoRead {
		var err error
		if a.info, err = readRules(filepath.Join(a.repository.common, "info", "attributes")); err != nil {
			return conversion{}, err
		}
		a.infoRead = true
	}
	apply(a.info, name)
	return a.conversion(values), nil
}

// conversion turns attributes and configuration into what happens to a file
// (gitattributes, "Checking-out and checking-in").
func (a *attributes) conversion(values map[string]string) conversion {
	c := conversion{ident: values["ident"] == isSet}
	if filter := values["filter"]; filter != isSet && filter != isUnset {
		c.filter = filter
	}
	text, eol := values["text"], values["eol"]
	if text == unspecified { // the older name
		if text = values["crlf"]; text == "input" {
			text = isSet
		}
	}
	switch {
	case text == isUnset:
		c.text = asIs
	case text == isSet, text == unspecified && (eol == "lf" || eol == "crlf"):
		c.text = always
	case text == "auto":
		c.text = ifText
	default:
		switch config := a.repository.config; {
		case config.get("core.autocrlf") == "input", config.isTrue("core.autocrlf", false):
			c.text = ifText
		case len(config["core.autocrlf"]) == 0 && runtime.GOOS == "windows": // git is installed there with it on
			c.text = possible
		}
	}
	return c
}

// rules reads the .gitattributes of one directory.
func (a *attributes) rules(dir string) ([]rule, error) {
	if rules, ok := a.read[dir]; ok {
		return rules, nil
	}
	rules, err := readRules(filepath.Join(a.repository.root, filepath.FromSlash(path.Join(dir, ".gitattributes"))))
	if err != nil {
		return nil, err
	}
	if a.read == nil {
		a.read = map[string][]rule{}
	}
	a.read[dir] = rules
	return rules, nil
}

func readRules(place string) ([]rule, error) {
	text, err := readSmall(place, maxConfig)
	if isAbsent(err) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attributes: %w", err)
	}
	return parseAttributes(text), nil
}

// parseAttributes reads an attributes file. Lines that aren't understood are
// passed over, as git does.
func parseAttributes(text []byte) []rule {
	var rules []rule
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		line = strings.Trim(line, " \t\r\n")
		if line == "" || line[0] == '#' || len(line) > 2048 { // git's own limit
			continue
		}
		pattern, rest := line, ""
		if line[0] == '"' {
			end := 1
			for end < len(line) && line[end] != '"' {
				if line[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(line) {
				continue
			}
			pattern, rest = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\t`, "\t").Replace(line[1:end]), line[end+1:]
		} else if i := strings.IndexAny(line, " \t"); i >= 0 {
			pattern, rest = line[:i], line[i:]
		}
		r := rule{set: map[string]string{}}
		for word := range strings.FieldsSeq(rest) {
			key, value, valued := strings.Cut(word, "=")
			switch {
			case strings.HasPrefix(word, "-"):
				r.set[word[1:]] = isUnset
			case strings.HasPrefix(word, "!"):
				r.set[word[1:]] = unspecified
			case valued:
				r.set[key] = value
			default:
				r.set[word] = isSet
			}
		}
		if macro, found := strings.CutPrefix(pattern, "[attr]"); found {
			r.macro = macro
			rules = append(rules, r)
			continue
		}
		if strings.HasPrefix(pattern, "!") || strings.HasSuffix(pattern, "/") { // neither means a file
			continue
		}
		if r.pattern = globPattern(pattern); r.pattern != nil {
			rules = append(rules, r)
		}
	}
	return rules
}

// globPattern translates a pattern of gitignore into a regular expression,
// which, unlike a matcher that tries again, is done in linear time.
func globPattern(glob string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)^`)
	anchored := strings.HasPrefix(glob, "/")
	glob = strings.TrimPrefix(glob, "/")
	if !anchored && !strings.Contains(glob, "/") {
		b.WriteString(`(?:.*/)?`)
	}
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case strings.HasPrefix(glob[i:], "**/") && (i == 0 || glob[i-1] == '/'):
			b.WriteString(`(?:.*/)?`)
			i += 2
		case glob[i:] == "**" && i > 0 && glob[i-1] == '/':
			b.WriteString(`.+`)
			i++
		case c == '*':
			b.WriteString(`[^/]*`)
			for i+1 < len(glob) && glob[i+1] == '*' {
				i++
			}
		case c == '?':
			b.WriteString(`[^/]`)
		case c == '[':
			class, length := globClass(glob[i:])
			if length == 0 {
				return nil
			}
			b.WriteString(class)
			i += length - 1
		case c == '\\' && i+1 < len(glob):
			i++
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	b.WriteString(`$`)
	pattern, err := regexp.Compile(b.String())
	if err != nil {
		return nil
	}
	return pattern
}

// globClass translates [a-z], [!a-z] and [[:alpha:]]; length is 0 if it has no end.
func globClass(glob string) (class string, length int) {
	var b strings.Builder
	b.WriteByte('[')
	i := 1
	if i < len(glob) && (glob[i] == '!' || glob[i] == '^') {
		b.WriteString(`^/`)
		i++
	}
	for first := true; i < len(glob); first = false {
		switch c := glob[i]; {
		case c == ']' && !first:
			b.WriteByte(']')
			return b.String(), i + 1
		case strings.HasPrefix(glob[i:], "[:"):
			end := strings.Index(glob[i:], ":]")
			if end < 0 {
				return "", 0
			}
			b.WriteString(glob[i : i+end+2])
			i += end + 2
			continue
		case c == '\\' && i+1 < len(glob):
			i++
			if c = glob[i]; c < '0' || c > 'z' || c > '9' && c < 'A' || c > 'Z' && c < 'a' { // a letter with a backslash would be a class
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		case c == '-':
			b.WriteByte('-')
		case c < 0x80:
			b.WriteString(regexp.QuoteMeta(string(c)))
		default:
			b.WriteByte(c)
		}
		i++
	}
	return "", 0
}
