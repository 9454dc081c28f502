package awk

import (
	"strings"

	"github.com/anyarch/anyarch/internal/native/command/pattern"
)

// field gives a field, or the record.
func (in *interpreter) field(n int) value {
	if n == 0 {
		in.joinFields()
		return value{class: in.recordClass, s: in.record}
	}
	in.splitRecord()
	if n > len(in.fields) {
		return value{class: inputV} // compared as an empty string, unlike a variable without a value
	}
	return in.fields[n-1]
}

func (in *interpreter) setRecord(v value) {
	in.record, in.recordClass = in.text(v), v.class
	if v.class != textV {
		in.recordClass = inputV
	}
	in.split, in.joined, in.fields = false, true, in.fields[:0]
}

func (in *interpreter) setField(n int, v value) {
	if n == 0 {
		in.setRecord(v)
		return
	}
	in.splitRecord()
	for len(in.fields) < n {
		in.fields = append(in.fields, value{class: inputV})
	}
	in.fields[n-1] = v
	in.joined = false
}

func (in *interpreter) splitRecord() {
	if in.split {
		return
	}
	in.split = true
	in.fields = in.fields[:0]
	for _, s := range in.splitText(in.record, in.splitFS, true) {
		in.fields = append(in.fields, fromInput(s))
	}
}

func (in *interpreter) joinFields() {
	if in.joined {
		return
	}
	in.joined = true
	parts := make([]string, len(in.fields))
	for i, f := range in.fields {
		parts[i] = in.text(f)
	}
	in.record, in.recordClass = strings.Join(parts, in.ofs), inputV
}

// splitter is how a text is split: at white space, at a character, into characters,
// or at a regular expression.
type splitter struct {
	blank  bool
	single string
	re     *pattern.Regexp
	source string
}

func (in *interpreter) splitterFor(s string) splitter {
	switch {
	case s == " ":
		return splitter{blank: true}
	case len(s) <= 1:
		return splitter{single: s}
	}
	if in.prog.busybox && strings.Contains(strings.ReplaceAll(s, "[^", ""), "^") {
		panic(failure{refuse("the field separator %s, with an anchor", s)})
	}
	re, err := in.regexps.compile(s, false)
	in.check(err)
	return splitter{re: re, source: s}
}

// splitText splits a text; of a record, whether the end of a line separates fields
// too depends on RS.
func (in *interpreter) splitText(s string, by splitter, record bool) []string {
	if s == "" {
		return nil
	}
	lines := record && in.rs == "" && !by.blank && strings.Contains(s, "\n")
	if lines {
		panic(failure{refuse("records of several lines (RS=\"\") with another field separator than white space (which not every awk splits alike)")})
	}
	switch {
	case by.blank:
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
	case by.re == nil && by.single == "":
		list := make([]string, len(s))
		for i := range len(s) {
			list[i] = s[i : i+1]
		}
		return list
	case by.re == nil:
		return strings.Split(s, by.single)
	}
	var list []string
	from := 0
	for _, m := range by.re.All(s) {
		if m[0] == m[1] {
			continue
		}
		list = append(list, s[from:m[0]])
		from = m[1]
	}
	return append(list, s[from:])
}
