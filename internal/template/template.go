// Package template fills in {{.Version}} and its like where flags and
// configuration name what is only known when an image is built.
//
// The syntax is that of text/template, of which a part is enough: values,
// functions and if. The values are a closed list, [Fields], so that a wrong
// name is found when the text is read and not when the image is half done. A
// value that is unset or empty is an error and never nothing: app:{{.Version}}
// must not become app:. What a value costs is paid when it is used; a text
// that asks nothing of Git doesn't look for a repository. Nothing in a template
// can read a file or run a program.
package template

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/template/parse"

	"github.com/anyarch/anyarch/internal/refusal"
)

// code is that of every refusal of this package.
const code = "PA118"

// maxText bounds a template, in bytes.
const maxText = 64 << 10

// Template is a text with values to fill in. It is immutable and safe for
// concurrent use.
type Template struct {
	place string
	text  string
	words bool            // the result will be split into words
	root  *parse.ListNode // nil if there is nothing to fill in
	used  []string        // fields, such as Version or Platform.Arch
}

// Parse reads a template. The place is where its user wrote it, such as --tag
// or anyarch.yaml:12, and is named in errors: mistakes of syntax, unknown
// values and functions are a [refusal.Error] with code PA118.
func Parse(place, text string) (*Template, error) { return parseText(place, text, false) }

// ParseWords is [Parse] for a text that is split into words afterwards, as
// --ldflags is. A value that would end its word there, and so could bring flags
// of its own, is refused when it is filled in: by white space or quotes, or by
// the closing quote where the text puts it between quotes.
func ParseWords(place, text string) (*Template, error) { return parseText(place, text, true) }

func parseText(place, text string, words bool) (*Template, error) {
	t := &Template{place: place, text: text, words: words}
	if !strings.Contains(text, "{{") {
		return t, nil
	}
	if len(text) > maxText {
		return nil, t.refuse(&problem{summary: fmt.Sprintf("a template is at most %d bytes long", maxText)})
	}
	tree := parse.New("template")
	tree.Mode = parse.SkipFuncCheck // checked below, with a better answer
	others := map[string]*parse.Tree{}
	if _, err := tree.Parse(text, "", "", others); err != nil {
		return nil, t.refuse(&problem{summary: "not a template: " + syntaxError(err), seen: []string{"two braces that aren't one are written {{`{{`}}"}, fix: []string{"{{.Version}}"}, err: err})
	}
	c := checker{}
	var p *problem
	switch {
	case len(others) > 1 || others["template"] == nil && len(others) == 1:
		p = unsupported("define")
	case tree.Root == nil:
		return t, nil
	default:
		p = c.list(tree.Root)
	}
	if p != nil {
		return nil, t.refuse(p)
	}
	t.root, t.used = tree.Root, c.used
	return t, nil
}

// syntaxError is what text/template says, without its position in a text of
// one line.
func syntaxError(err error) string {
	text := strings.TrimPrefix(err.Error(), "template: template:")
	if line, rest, found := strings.Cut(text, ": "); found && strings.Trim(line, "0123456789:") == "" {
		return rest
	}
	return text
}

// NeedsPlatform reports whether the result depends on the platform, so that
// the text can't be filled in once for all of them.
func (t *Template) NeedsPlatform() bool {
	for _, name := range t.used {
		if f, ok := fields[name]; ok && f.platform {
			return true
		}
	}
	return false
}

// Execute fills in the values. What is unset, empty, or can't be found out is a
// [refusal.Error] with code PA118; for what went wrong below it, such as a
// damaged repository, it wraps the cause.
func (t *Template) Execute(ctx context.Context, data *Data) (string, error) {
	if t.root == nil {
		return t.text, nil
	}
	e := &execution{ctx: ctx, data: data, words: t.words}
	if p := e.list(t.root); p != nil {
		if ctx.Err() != nil && errors.Is(p.err, ctx.Err()) {
			return "", p.err
		}
		return "", t.refuse(p)
	}
	return e.out.String(), nil
}

// problem is what is wrong, before it is known where.
type problem struct {
	summary string
	seen    []string
	fix     []string
	unset   bool // nothing is broken: there is no value
	err     error
}

func (t *Template) refuse(p *problem) error {
	return &refusal.Error{
		Code: code, Kind: refusal.Usage, Place: t.place, Summary: p.summary,
		Seen: append([]string{excerpt(t.text)}, p.seen...), Fix: p.fix, Err: p.err,
	}
}

// excerpt is a text as far as it fits on a line or two.
func excerpt(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func unsupported(word string) *problem {
	return &problem{
		summary: fmt.Sprintf("templates here have no %q: only values, functions and if", word),
		fix:     []string{"{{if .Git.Tag}}{{.Git.Tag}}{{else}}dev{{end}}"},
	}
}
