package ui

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Problem is one error for programs, in --output json and --progress rawjson.
type Problem struct {
	Code      string   `json:"code,omitempty"` // empty for what has no code of ours
	Platform  string   `json:"platform,omitempty"`
	Summary   string   `json:"summary"`
	Place     string   `json:"place,omitempty"` // as a user would look it up
	File      string   `json:"file,omitempty"`  // of Place, if it is one in a file
	Line      int      `json:"line,omitempty"`
	Seen      []string `json:"seen,omitempty"`
	Fix       []string `json:"fix,omitempty"`
	Retryable bool     `json:"retryable"` // trying again later may help
}

// Problems takes err apart, also where errors were joined. A cancelled context
// is one problem, interrupted, and counts only if nothing else went wrong: what
// else failed is why the rest was cancelled.
func Problems(err error, interrupted string) []Problem {
	var problems []Problem
	for _, e := range leaves(err) {
		if r, ok := e.(*refusal.Error); ok {
			p := Problem{
				Code: r.Code, Platform: r.Platform, Summary: r.Summary, Place: r.Place,
				Seen: r.Seen, Fix: r.Fix, Retryable: r.Kind == refusal.Unavailable,
			}
			p.File, p.Line, _ = fileLine(r.Place)
			problems = append(problems, p)
			continue
		}
		problems = append(problems, Problem{Summary: e.Error()})
	}
	if len(problems) == 0 && err != nil {
		problems = append(problems, Problem{Summary: "interrupted: " + interrupted, Retryable: true})
	}
	return problems
}

// leaves lists what went wrong in err, in order and each thing once: refusals,
// and errors that hold none; nothing that a cancelled context is the cause of.
func leaves(err error) []error {
	var found []error
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		if r, ok := err.(*refusal.Error); ok {
			if !errors.Is(r.Err, context.Canceled) && !slices.Contains(found, err) {
				found = append(found, r)
			}
			return
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			// fmt.Errorf with several %w has words of its own around its errors;
			// they are worth more than a list unless there is a refusal in it.
			if strings.Contains(err.Error(), "\n") || len(refusal.All(err)) > 0 {
				for _, e := range joined.Unwrap() {
					walk(e)
				}
				return
			}
		}
		if len(refusal.All(err)) > 0 {
			walk(errors.Unwrap(err))
			return
		}
		if !errors.Is(err, context.Canceled) {
			found = append(found, err)
		}
	}
	walk(err)
	return found
}

// Errors writes what went wrong, each with what to type instead; nothing if err
// is nil. interrupted is the text for a cancelled context, such as "nothing was
// tagged". In GitHub Actions, problems in files are annotated too.
func Errors(w io.Writer, err error, style Style, interrupted string) error {
	problems := Problems(err, interrupted)
	if len(problems) == 0 {
		return nil
	}
	var (
		b     strings.Builder
		notes []annotation
	)
	if len(leaves(err)) == 0 {
		style.println(&b, "", part{warn, "interrupted: "}, part{normal, Clean(interrupted)})
	} else {
		for i, p := range problems {
			if i > 0 {
				b.WriteByte('\n')
			}
			style.problem(&b, "error", p)
			if p.File != "" {
				notes = append(notes, annotation{"error", p.Place, p.Code, p.Platform, p.Summary, p.Fix})
			}
		}
		style.more(&b, problems)
	}
	style.annotate(&b, notes)
	_, werr := io.WriteString(w, b.String())
	return werr
}

// more names the page that explains the problem; of several kinds of problem
// it names none, or the last line would be longer than what it points to.
func (s Style) more(b *strings.Builder, problems []Problem) {
	code := problems[0].Code
	for _, p := range problems {
		if p.Code == "" {
			return
		}
		if p.Code != code {
			code = "CODE"
		}
	}
	s.println(b, "  ", part{dim, "more: anyarch explain " + code})
}

// problem writes one problem: what, where, what was seen, what to do.
func (s Style) problem(b *strings.Builder, severity string, p Problem) {
	word := severity
	if p.Code != "" {
		word += "[" + Clean(p.Code) + "]"
	} else {
		word += ":"
	}
	t := map[string]tone{"error": strong, "warning": warn}[severity]
	parts := []part{{t, word}, {normal, " "}}
	if p.Platform != "" {
		parts = append(parts, part{bold, Clean(p.Platform) + ":"}, part{normal, " "})
	}
	summary := cleanLines(p.Summary)
	if len(summary) == 0 {
		summary = []string{"unknown"}
	}
	s.println(b, "", append(parts, part{bold, summary[0]})...)
	for _, line := range summary[1:] {
		s.println(b, "  ", part{normal, line})
	}
	if p.Place != "" {
		s.println(b, "  ", part{normal, Clean(p.Place)})
	}
	for _, seen := range p.Seen {
		for _, line := range cleanLines(seen) {
			s.println(b, "  ", part{normal, line})
		}
	}
	label := "fix: "
	for _, fix := range p.Fix {
		for _, line := range cleanLines(fix) {
			s.println(b, "  ", part{good, label}, part{normal, line})
			label = "     "
		}
	}
}

// println writes one line of parts. Their text must be clean.
func (s Style) println(b *strings.Builder, indent string, parts ...part) {
	var line strings.Builder
	line.WriteString(indent)
	for i, p := range parts {
		text := s.fold(p.text)
		if i == len(parts)-1 {
			text = strings.TrimRight(text, " ")
		}
		line.WriteString(s.paint(p.tone, text))
	}
	b.WriteString(s.line(line.String()) + "\n")
}

// maxAnnotations of one kind are shown; GitHub itself stops at ten a step, and
// the tenth says how many more there are.
const maxAnnotations = 9

type annotation struct {
	kind                           string // error, warning or notice
	place, code, platform, summary string
	fix                            []string
}

// annotate writes GitHub's workflow commands:
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
func (s Style) annotate(b *strings.Builder, notes []annotation) {
	if !s.Annotate {
		return
	}
	count := map[string]int{}
	for _, n := range notes {
		count[n.kind]++
		if count[n.kind] > maxAnnotations {
			continue
		}
		file, line, column := fileLine(n.place)
		properties := []string{"file=" + escapeProperty(s.inWorkspace(file)), "line=" + strconv.Itoa(line)}
		if column > 0 {
			properties = append(properties, "col="+strconv.Itoa(column))
		}
		if n.code != "" {
			properties = append(properties, "title="+escapeProperty(n.code))
		}
		message := n.summary
		if n.platform != "" {
			message = n.platform + ": " + message
		}
		for _, fix := range n.fix {
			message += "\nfix: " + fix
		}
		var lines []string
		for _, l := range cleanLines(message) {
			lines = append(lines, escapeData(l))
		}
		command := "::" + n.kind + " " + strings.Join(properties, ",") + "::" + strings.Join(lines, "%0A")
		b.WriteString(strings.ReplaceAll(command, "##[", "## [") + "\n")
	}
	for _, kind := range []string{"error", "warning", "notice"} {
		if more := count[kind] - maxAnnotations; more > 0 {
			b.WriteString("::" + kind + " title=anyarch::and " + strconv.Itoa(more) + " more; the log has all of them\n")
		}
	}
}

func escapeData(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(text)
}

func escapeProperty(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(Clean(text))
}

// inWorkspace names a file as GitHub does: from the top of the checkout.
func (s Style) inWorkspace(file string) string {
	if s.Workspace == "" {
		return filepath.ToSlash(file)
	}
	full := file
	if !filepath.IsAbs(full) {
		if s.Dir == "" {
			return filepath.ToSlash(file)
		}
		full = filepath.Join(s.Dir, file)
	}
	relative, err := filepath.Rel(s.Workspace, full)
	if err != nil || !filepath.IsLocal(relative) {
		return filepath.ToSlash(file)
	}
	return filepath.ToSlash(relative)
}

// fileLine reads a place such as go.mod:3 or cmd/main.go:3:22. The file is empty
// if the place isn't in a file: references such as ghcr.io/acme/base:14,
// addresses such as example.com:443 and flags look much the same.
func fileLine(place string) (file string, line, column int) {
	if strings.HasPrefix(place, "-") || strings.Contains(place, "://") {
		return "", 0, 0
	}
	file, line = cutNumber(place)
	if rest, number := cutNumber(file); number > 0 {
		file, line, column = rest, number, line
	}
	if line == 0 || !isSource(file) {
		return "", 0, 0
	}
	return file, line, column
}

// cutNumber takes :NUMBER off the end of text; the number is 0 if there's none.
func cutNumber(text string) (before string, number int) {
	at := strings.LastIndexByte(text, ':')
	if at <= 0 {
		return text, 0
	}
	digits := text[at+1:]
	n, err := strconv.Atoi(digits)
	if err != nil || n <= 0 || digits[0] < '1' || digits[0] > '9' {
		return text, 0
	}
	return text[:at], n
}

func isSource(file string) bool {
	name := strings.ToLower(file[strings.LastIndexAny(file, `/\`)+1:])
	switch filepath.Ext(name) {
	case ".go", ".mod", ".work", ".sum", ".s", ".c", ".h", ".cc", ".cpp", ".sh", ".md",
		".yaml", ".yml", ".json", ".toml", ".txt", ".env", ".tpl", ".tmpl", ".dockerfile":
		return true
	}
	return strings.HasPrefix(name, "dockerfile") || strings.HasPrefix(name, "containerfile") || name == "makefile"
}
