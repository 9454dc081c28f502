// Package explain is the manual of everything that can be refused: one page per
// code, readable without a network, written for the person who just met it.
//
// The pages stand in pages/*.md, one file per family of codes. A page starts
// with a line "# CODE title" and ends where the next one starts.
package explain

import (
	"cmp"
	"embed"
	"io/fs"
	"slices"
	"strings"
)

//go:embed pages/*.md
var pages embed.FS

// Page explains one code, or one topic such as exit-codes.
type Page struct {
	Code  string // PA104, or the name of a topic
	Title string // what it means, one line
	Text  string // Markdown that reads well as it is; ends in a line break
}

// Lookup finds the page of a code or topic, in upper or lower case and with or
// without the letters PA.
func Lookup(code string) (Page, bool) {
	code = strings.TrimSpace(code)
	for _, page := range All() {
		if strings.EqualFold(page.Code, code) || strings.EqualFold(page.Code, "PA"+code) {
			return page, true
		}
	}
	return Page{}, false
}

// All lists the pages: topics by name first, then codes in order.
func All() []Page {
	files, err := fs.Glob(pages, "pages/*.md")
	if err != nil {
		panic(err) // only a bad pattern fails
	}
	var all []Page
	for _, name := range files {
		text, err := pages.ReadFile(name)
		if err != nil {
			panic(err) // the file is part of the program
		}
		all = append(all, parse(string(text))...)
	}
	slices.SortFunc(all, func(a, b Page) int {
		return cmp.Or(order(a.Code)-order(b.Code), cmp.Compare(a.Code, b.Code))
	})
	return all
}

func order(code string) int {
	if strings.HasPrefix(code, "PA") {
		return 1
	}
	return 0
}

func parse(text string) []Page {
	var found []Page
	for part := range strings.SplitSeq("\n"+strings.ReplaceAll(text, "\r\n", "\n"), "\n# ") {
		head, body, _ := strings.Cut(part, "\n")
		if code, title, ok := strings.Cut(head, " "); ok {
			found = append(found, Page{Code: code, Title: title, Text: strings.TrimSpace(body) + "\n"})
		}
	}
	return found
}
