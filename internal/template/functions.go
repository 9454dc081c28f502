package template

import (
	"fmt"
	"regexp"
	"strings"
)

// function works on texts. The last argument is the one that a pipe gives.
type function struct {
	usage string
	least int // arguments
	most  int // the same, or 0 for any number
	// lenient functions see arguments without a value; for others such an
	// argument is the result.
	lenient bool
	do      func(args []operand) operand
}

func (f function) count() string {
	switch {
	case f.most == 0:
		return fmt.Sprintf("%d arguments or more", f.least)
	case f.least == 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", f.least)
}

func (f function) call(args []operand) operand {
	if !f.lenient {
		for _, arg := range args {
			if arg.problem != nil {
				return arg
			}
		}
	}
	return f.do(args)
}

// onText makes a function of one on strings.
func onText(do func(args []string) string) func([]operand) operand {
	return func(args []operand) operand {
		texts := make([]string, len(args))
		for i, arg := range args {
			texts[i] = arg.text
		}
		return operand{value: value{text: do(texts)}}
	}
}

// functions is the closed list. None reads a file, looks at a clock or runs a
// program.
var functions = map[string]function{
	"lower":      {usage: "{{lower .Git.Branch}}", least: 1, most: 1, do: onText(func(a []string) string { return strings.ToLower(a[0]) })},
	"upper":      {usage: "{{upper .Arch}}", least: 1, most: 1, do: onText(func(a []string) string { return strings.ToUpper(a[0]) })},
	"replace":    {usage: `{{replace "/" "-" .Git.Branch}}`, least: 3, most: 3, do: replace},
	"trimPrefix": {usage: `{{trimPrefix "v" .Git.Tag}}`, least: 2, most: 2, do: onText(func(a []string) string { return strings.TrimPrefix(a[1], a[0]) })},
	"trimSuffix": {usage: `{{trimSuffix "-dirty" .Version}}`, least: 2, most: 2, do: onText(func(a []string) string { return strings.TrimSuffix(a[1], a[0]) })},
	"join":       {usage: `{{join "-" .OS .Arch}}`, least: 2, do: onText(func(a []string) string { return strings.Join(a[1:], a[0]) })},
	"slug":       {usage: "{{slug .Git.Branch}}", least: 1, most: 1, do: onText(slug)},
	"default":    {usage: `{{default "dev" .Git.Tag}}`, least: 2, most: 2, lenient: true, do: fallback},
	"eq": {usage: `{{if eq .OS "windows"}}...{{end}}`, least: 2, do: func(args []operand) operand {
		for _, arg := range args[1:] {
			if arg.text == args[0].text {
				return operand{value: boolean(true)}
			}
		}
		return operand{value: boolean(false)}
	}},
	"ne": {usage: `{{if ne .OS "windows"}}...{{end}}`, least: 2, most: 2, do: func(args []operand) operand {
		return operand{value: boolean(args[0].text != args[1].text)}
	}},
	"not": {usage: "{{if not .Git.Tag}}...{{end}}", least: 1, most: 1, lenient: true, do: func(args []operand) operand {
		if p := args[0].problem; p != nil && !p.unset {
			return args[0]
		}
		return operand{value: boolean(args[0].problem != nil || !args[0].holds())}
	}},
	"or":  {usage: "{{or .Git.Tag .Git.Branch}}", least: 1, lenient: true, do: func(args []operand) operand { return choose(args, true) }},
	"and": {usage: "{{if and .Git.Tag .Git.IsClean}}...{{end}}", least: 1, lenient: true, do: func(args []operand) operand { return choose(args, false) }},
}

// maxValue bounds what replacing may make of a value, in bytes: replacements in
// replacements grow without end.
const maxValue = 1 << 20

func replace(args []operand) operand {
	from, to, text := args[0].text, args[1].text, args[2].text
	if len(text)+strings.Count(text, from)*len(to) > maxValue {
		return operand{problem: &problem{summary: fmt.Sprintf("replace makes more than %d bytes", maxValue)}}
	}
	return operand{value: value{text: strings.ReplaceAll(text, from, to)}}
}

// fallback gives the first argument if the second has no value. What can't be
// found out for another reason stays an error: a damaged repository isn't one
// without a tag.
func fallback(args []operand) operand {
	v := args[1]
	if v.problem != nil && !v.problem.unset {
		return v
	}
	if v.problem != nil || v.text == "" {
		return args[0]
	}
	return v
}

// choose gives the first argument that is (or isn't) true to an if; the last if
// there is none.
func choose(args []operand, holds bool) operand {
	for _, arg := range args {
		if arg.problem != nil && !arg.problem.unset {
			return arg
		}
		if (arg.problem == nil && arg.holds()) == holds {
			return arg
		}
	}
	return args[len(args)-1]
}

var notInTags = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// slug makes a text fit for a tag (distribution-spec v1.1.1, "Pulling
// manifests": [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}): anything else becomes a dash.
func slug(args []string) string {
	s := notInTags.ReplaceAllString(args[0], "-")
	s = strings.TrimLeft(s, ".-")
	return strings.TrimRight(s[:min(128, len(s))], ".-")
}
