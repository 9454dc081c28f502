// Package ui is what people see: events become live lines, log lines or JSON;
// refusals become text that says what to type; results become one screen.
//
// It writes only to the writer it's given, which is standard error. Standard
// output belongs to results that programs read, and the command line writes
// those itself. Everything that comes from outside (paths, messages, labels)
// passes [Clean] before it can reach a terminal.
package ui

import (
	"fmt"
	"runtime"
	"strings"
	"unicode"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Mode says how progress is shown. The words are those of docker buildx.
type Mode string

// The modes. Auto becomes TTY or Plain when a [Screen] is made.
const (
	Auto    Mode = "auto"
	TTY     Mode = "tty"     // live lines that are redrawn
	Plain   Mode = "plain"   // one line per event
	RawJSON Mode = "rawjson" // one JSON object per event and line
	Quiet   Mode = "quiet"   // only warnings and failures
	None    Mode = "none"    // nothing
)

// ParseMode reads the value of --progress; the empty string is Auto. Anything
// else that isn't a mode is a [refusal.Error] with code PA502.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case "":
		return Auto, nil
	case Auto, TTY, Plain, RawJSON, Quiet, None:
		return m, nil
	}
	return "", &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--progress " + text,
		Summary: fmt.Sprintf("%q is not a way to show progress", text),
		Seen:    []string{"known are auto, tty, plain, rawjson, quiet, none"},
		Fix:     []string{"--progress plain"},
	}
}

// resolve turns Auto into what suits the place that the program runs in. Like
// docker buildx, it lets BUILDKIT_PROGRESS decide first; a value there that
// isn't a mode is none of our business and is passed over.
func (m Mode) resolve(getenv func(string) string, terminal bool) Mode {
	if m == "" || m == Auto {
		if asked, err := ParseMode(getenv("BUILDKIT_PROGRESS")); err == nil && asked != Auto {
			return asked
		}
		if terminal && getenv("TERM") != "dumb" && !inCI(getenv) {
			return TTY
		}
		return Plain
	}
	return m
}

// inCI reports whether a log rather than a person reads along.
func inCI(getenv func(string) string) bool {
	return isSet(getenv("CI")) || isSet(getenv("GITHUB_ACTIONS")) || isSet(getenv("GITLAB_CI"))
}

func isSet(value string) bool { return value != "" && value != "0" && value != "false" }

// Color says whether text is coloured.
type Color string

// The choices of --color.
const (
	ColorAuto   Color = "auto"
	ColorAlways Color = "always"
	ColorNever  Color = "never"
)

// ParseColor reads the value of --color; the empty string is ColorAuto.
// Anything else is a [refusal.Error] with code PA502.
func ParseColor(text string) (Color, error) {
	switch c := Color(text); c {
	case "":
		return ColorAuto, nil
	case ColorAuto, ColorAlways, ColorNever:
		return c, nil
	}
	return "", &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--color " + text,
		Summary: fmt.Sprintf("%q doesn't say when to use colours", text),
		Seen:    []string{"known are auto, always, never"},
		Fix:     []string{"--color auto"},
	}
}

// on decides: the flag, then NO_COLOR (https://no-color.org), then
// CLICOLOR_FORCE and CLICOLOR (https://bixense.com/clicolors), then whether a
// capable terminal is there.
func (c Color) on(getenv func(string) string, terminal bool) bool {
	switch {
	case c == ColorAlways:
		return true
	case c == ColorNever, getenv("NO_COLOR") != "":
		return false
	case getenv("CLICOLOR_FORCE") != "" && getenv("CLICOLOR_FORCE") != "0":
		return true
	case getenv("CLICOLOR") == "0", getenv("TERM") == "dumb":
		return false
	}
	return terminal
}

// Style is how text may look at the place that it's written to. The zero value
// is plain UTF-8 without colours.
type Style struct {
	Color bool // ANSI colours
	ASCII bool // no characters beyond ASCII in our own text

	// Annotate adds GitHub's workflow commands, which put messages next to the
	// lines of source in a pull request, and defuses those in foreign text.
	Annotate  bool
	Workspace string // checkout that GitHub's file names are relative to; empty if unknown
	Dir       string // working directory that places are relative to; empty for Workspace
}

// NewStyle derives the style from the environment. terminal says whether the
// text goes to one; dir is the working directory, needed only for annotations.
func NewStyle(getenv func(string) string, color Color, terminal bool, dir string) Style {
	return Style{
		Color:     color.on(getenv, terminal),
		ASCII:     !speaksUTF8(getenv),
		Annotate:  isSet(getenv("GITHUB_ACTIONS")),
		Workspace: getenv("GITHUB_WORKSPACE"),
		Dir:       dir,
	}
}

// speaksUTF8 reports whether more than ASCII can be shown. Go writes UTF-16 to
// Windows consoles, so nothing can go wrong there.
func speaksUTF8(getenv func(string) string) bool {
	return runtime.GOOS == "windows" || posixUTF8(getenv)
}

// posixUTF8 looks at the locale as POSIX ranks its variables. No locale at all,
// usual in containers and CI, counts as UTF-8: what reads those logs is.
func posixUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(getenv(name)); locale != "" {
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return true
}

// tone is the part that a piece of text plays; it becomes a colour.
type tone string

const (
	normal tone = ""
	bold   tone = "1"
	dim    tone = "2"
	good   tone = "32"
	warn   tone = "33"
	bad    tone = "31"
	strong tone = "1;31" // the word error
)

func (s Style) paint(t tone, text string) string {
	if !s.Color || t == normal || text == "" {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

// fold replaces our own signs where only ASCII can be shown.
func (s Style) fold(text string) string {
	if !s.ASCII {
		return text
	}
	return strings.NewReplacer("✓", "ok", "✗", "x", "→", "->", "·", "-", "…", "...", "█", "=", "░", ".", "•", "*").Replace(text)
}

// mark is a sign in a column of signs, and a space.
func (s Style) mark(sign string) string {
	return pad(s.fold(sign), width(s.fold("✓"))) + " "
}

// line finishes one line of text: in GitHub's logs a line that starts with ::,
// or has ##[ anywhere, is a command to the runner, and foreign text must not be
// able to give one.
func (s Style) line(text string) string {
	if !s.Annotate {
		return text
	}
	text = strings.ReplaceAll(text, "##[", "## [")
	if trimmed := strings.TrimLeftFunc(text, unicode.IsSpace); strings.HasPrefix(trimmed, "::") {
		text = text[:len(text)-len(trimmed)] + ": :" + trimmed[2:]
	}
	return text
}
