package pattern

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

func TestRegexp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		syntax     Syntax
		expression string
		text       string
		want       string // the match in brackets, "none", or "refused"
	}{
		{Basic, `a*`, "aab", "[aa]b"}, {Basic, `*a`, "b*a", "b[*a]"}, {Basic, `^*a`, "*a", "[*a]"}, {Basic, `a\{2\}`, "caaa", "c[aa]a"}, {Basic, `(a)`, "x(a)", "x[(a)]"},
		{Basic, `\(*a\)`, "*a", "[*a]"}, {Basic, `a^b`, "a^b", "[a^b]"}, {Basic, `a$b`, "a$b", "[a$b]"}, {Basic, `a+`, "aa+", "a[a+]"}, {Basic, `a\+`, "baa", "b[aa]"},
		{Basic, `a\|b`, "cb", "c[b]"}, {Basic, `\<a`, "ba a", "ba [a]"}, {Basic, `a\>`, "ab a", "ab [a]"}, {Basic, `\(a\)\1`, "aa", "refused"}, {Basic, `\<.`, "", "refused"}, {Basic, `\`, "", "refused"},
		{Extended, `a|ab|abc`, "xabcd", "x[abc]d"}, {Extended, `(a|ab)(c|bcd)`, "abcd", "[abcd]"}, {Extended, `a**`, "aa", "[aa]"}, {Extended, `(a+)?b`, "aab", "[aab]"}, {Extended, `a{2,3}`, "aaaa", "[aaa]a"},
		{Extended, `a{`, "a{", "[a{]"}, {Extended, `{x`, "{x", "[{x]"}, {Extended, `*a`, "", "refused"}, {Extended, `a)`, "", "refused"}, {Extended, `(a`, "", "refused"}, {Extended, `[a`, "", "refused"},
		{Extended, `[]a]+`, "x]a", "x[]a]"}, {Extended, `[^]a]`, "]ab", "]a[b]"}, {Extended, `[a\]b`, `\b`, `[\b]`}, {Extended, `[[:digit:]_-]+`, "a1_-", "a[1_-]"}, {Extended, `[[=a=]]`, "a", "[a]"}, {Extended, `[[.-.]]`, "-", "[-]"},
		{Extended, `[z-a]`, "", "refused"}, {Extended, `[[:foo:]]`, "", "refused"}, {Extended, `a.b`, "a\nb", "[a\nb]"}, {Extended, `a$`, "a\n", "none"}, {Extended, `.`, "é", "[\xc3]\xa9"}, {Extended, `[^a]+$`, "aéa\xff", "aéa[\xff]"},
		{Extended, `é+`, "éé", "[é]é"}, {Extended, `\.`, "a.", "a[.]"}, {Extended, `\d`, "", "refused"}, {Extended, `\w+\W`, "ab-", "[ab-]"}, {Extended, `^$`, "", "[]"}, {Extended, `a{1001}`, "", "refused"},
		{Awk, `[\/\]]+`, "a/]", "a[/]]"}, {Awk, `\/\"`, `/"`, `[/"]`}, {Awk, `\t`, "a\t", "a[\t]"}, {Awk, `\056`, "a.", "a[.]"}, {Awk, `\y`, "", "refused"}, {Awk, `a|`, "b", "[]b"},
	} {
		t.Run(test.expression, func(t *testing.T) {
			t.Parallel()
			got := "none"
			re, err := Compile(test.expression, Options{Syntax: test.syntax})
			if err != nil {
				got = "refused"
			} else if from, to := re.Find(test.text); from >= 0 {
				got = test.text[:from] + "[" + test.text[from:to] + "]" + test.text[to:]
			}
			if got != test.want {
				t.Errorf("%s in %q: got %q (%v), want %q", test.expression, test.text, got, err, test.want)
			}
		})
	}
}

// TestPlaces: places in a text that isn't ASCII are those of its bytes.
func TestPlaces(t *testing.T) {
	t.Parallel()
	re, err := Compile("(é)(x*)", Options{Syntax: Extended})
	if err != nil {
		t.Fatal(err)
	}
	text := "aéxéb"
	if g := re.Groups(text); len(g) != 6 || text[g[2]:g[3]] != "é" || text[g[4]:g[5]] != "x" {
		t.Errorf("groups %v", g)
	}
	if all := re.All(text); len(all) != 2 || text[all[0][0]:all[0][1]] != "éx" || text[all[1][0]:all[1][1]] != "é" {
		t.Errorf("all %v", all)
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, name string
		flags         Flags
		want          bool
	}{
		{"*.go", "a.go", 0, true}, {"*.go", ".go", 0, true}, {"*", ".hidden", 0, true}, {"a?c", "abc", 0, true}, {"a?c", "ac", 0, false}, {"*a*b", "xaxxb", 0, true}, {"*a*b", "xaxxbc", 0, false},
		{"[a-c]x", "bx", 0, true}, {"[!a]x", "ax", 0, false}, {"[^a]x", "bx", 0, true}, {"[]]", "]", 0, true}, {"[", "[", 0, true}, {"a[b", "a[b", 0, true}, {`\*`, "*", 0, true}, {`\*`, "a", 0, false},
		{"*/b", "a/x/b", 0, true}, {"*/b", "a/x/b", Slash, false}, {"a/*", "a/b", Slash, true}, {"A*", "abc", Fold, true}, {"[[:upper:]]", "a", Fold, true}, {"", "", 0, true}, {"**", "x", 0, true}, {"??", "é", 0, true},
	} {
		g, err := ParseGlob(test.pattern, test.flags)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
		} else if g.Match(test.name) != test.want {
			t.Errorf("%s with %s: not %v", test.pattern, test.name, test.want)
		}
	}
	for _, pattern := range []string{`a\`, `[\a]`, "[[:foo:]]"} {
		if _, err := ParseGlob(pattern, 0); err == nil {
			t.Errorf("%s was accepted", pattern)
		}
	}
	if g, _ := ParseGlob("a/*", 0); !g.MatchLeading("a/b/c") || g.MatchLeading("b/a") {
		t.Error("directories above a name")
	}
}

// FuzzRegexp holds what is accepted against grep of the host, where it has one.
func FuzzRegexp(f *testing.F) {
	grep, err := exec.LookPath("grep")
	if err == nil {
		if out, _ := exec.CommandContext(f.Context(), grep, "--version").Output(); !bytes.Contains(out, []byte("GNU")) {
			grep = ""
		}
	}
	for _, seed := range []string{"a*b", `\(a\|b\)*c`, "[^]a-c]", "a{2}", "(a|b)+$", `\<x\>`, "^*", "x{,2}", "a|*b", `[\]`, "[[:alpha:]-]", "a**", "()", "a|", `\.{3}`, "[a-]", "^+"} {
		f.Add(seed, "abc")
		f.Add(seed, "a{2} x-")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		for syntax, option := range map[Syntax]string{Basic: "-G", Extended: "-E"} {
			re, err := Compile(expression, Options{Syntax: syntax})
			if err != nil {
				continue
			}
			got := ""
			if from, to := re.Find(text); from >= 0 && to > from {
				got = text[from:to]
			}
			if grep == "" || strings.ContainsAny(expression+text, "\n\x00\r") || expression == "" || text == "" {
				continue
			}
			cmd := exec.CommandContext(t.Context(), grep, option, "-a", "-o", "-m1", "--", expression)
			cmd.Env = []string{"LC_ALL=C"}
			cmd.Stdin = strings.NewReader(text + "\n")
			out, err := cmd.Output()
			if code := cmd.ProcessState.ExitCode(); code > 1 {
				continue // it doesn't know the expression: what we say doesn't matter
			}
			if err != nil && !re.Match(text) {
				continue
			}
			want, _, _ := strings.Cut(string(out), "\n")
			if got == "" {
				continue // an empty match, of which grep prints none
			}
			if got != want {
				t.Errorf("grep %s %q in %q: got %q, grep has %q", option, expression, text, got, want)
			}
		}
		_, _ = Compile(expression, Options{Syntax: Awk, StrictBraces: true, NoIntervals: true, Fold: true})
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("[!a-z]*?", "a.b")
	f.Fuzz(func(_ *testing.T, pattern, name string) {
		if g, err := ParseGlob(pattern, Slash); err == nil {
			g.MatchLeading(name)
		}
	})
}
