package ui

import (
	"strings"
	"testing"
)

func TestModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		terminal bool
		env      []string
		want     Mode
	}{
		{"a terminal", true, []string{"TERM=xterm"}, TTY},
		{"no terminal", false, []string{"TERM=xterm"}, Plain},
		{"dumb", true, []string{"TERM=dumb"}, Plain},
		{"CI", true, []string{"TERM=xterm", "CI=true"}, Plain},
		{"CI=false is no CI", true, []string{"TERM=xterm", "CI=false"}, TTY},
		{"GitHub", true, []string{"TERM=xterm", "GITHUB_ACTIONS=true"}, Plain},
		{"GitLab", true, []string{"TERM=xterm", "GITLAB_CI=true"}, Plain},
		{"BUILDKIT_PROGRESS", true, []string{"TERM=xterm", "BUILDKIT_PROGRESS=rawjson"}, RawJSON},
	} {
		if got := Auto.resolve(env(c.env...), c.terminal); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := Plain.resolve(env("BUILDKIT_PROGRESS=tty"), true); got != Plain {
		t.Errorf("a flag loses against the environment: %s", got)
	}
	for _, text := range []string{"", "auto", "tty", "plain", "rawjson", "quiet", "none"} {
		if _, err := ParseMode(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestColors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		color    Color
		terminal bool
		env      []string
		want     bool
	}{
		{"terminal", ColorAuto, true, nil, true},
		{"pipe", ColorAuto, false, nil, false},
		{"NO_COLOR", ColorAuto, true, []string{"NO_COLOR=1"}, false},
		{"empty NO_COLOR doesn't count", ColorAuto, true, []string{"NO_COLOR="}, true},
		{"CLICOLOR=0", ColorAuto, true, []string{"CLICOLOR=0"}, false},
		{"CLICOLOR_FORCE", ColorAuto, false, []string{"CLICOLOR_FORCE=1"}, true},
		{"CLICOLOR_FORCE=0", ColorAuto, false, []string{"CLICOLOR_FORCE=0"}, false},
		{"NO_COLOR beats CLICOLOR_FORCE", ColorAuto, true, []string{"NO_COLOR=1", "CLICOLOR_FORCE=1"}, false},
		{"dumb", ColorAuto, true, []string{"TERM=dumb"}, false},
		{"always beats NO_COLOR", ColorAlways, false, []string{"NO_COLOR=1"}, true},
		{"never beats CLICOLOR_FORCE", ColorNever, true, []string{"CLICOLOR_FORCE=1"}, false},
	} {
		if got := c.color.on(env(c.env...), c.terminal); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestWrongFlagValues(t *testing.T) {
	t.Parallel()
	_, modeErr := ParseMode("fancy\x1b[2J")
	_, colorErr := ParseColor("pink")
	var b strings.Builder
	for _, err := range []error{modeErr, colorErr} {
		if werr := Errors(&b, err, Style{}, ""); werr != nil {
			t.Fatal(werr)
		}
	}
	golden(t, "wrong-flags", b.String())
}
