package ui

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                      "plain",
		"världen 世界":                 "världen 世界",
		"two\nlines\tand\r\nthree":   "two lines and three",
		"\x1b[31;1mred\x1b[0m":       "red",
		"\x1b]0;title\x07after":      "after",
		"\x1b]8;;http://x\x1b\\link": "link",
		"\x1b]0;never closed":        `\x1b]0;never closed`,
		"\x1b[12":                    `\x1b[12`,
		"over\rwritten":              `over\x0dwritten`,
		"back\b\x7f":                 `back\x08\x7f`,
		"c1 \u009b31m":               `c1 \x9b31m`,
		"bidi \u202ereverse \u2066x": `bidi \u202ereverse \u2066x`,
		"\xff\xfe bytes":             "\ufffd\ufffd bytes",
		"a\u2028b":                   "a b",
		"":                           "",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, text := range []string{"plain", "\x1b[31m", "\x1b]0;x\x07", "\u009b\u202e", "\xff\n\r"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Clean(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, hostileOrBreak) {
			t.Errorf("%q became %q", text, got)
		}
		if again := Clean(got); again != got {
			t.Errorf("%q, cleaned twice: %q", got, again)
		}
		for _, columns := range []int{0, 1, 5, 40} {
			cut := Style{}.truncate(got, columns)
			if width(cut) > columns {
				t.Errorf("%q is wider than %d", cut, columns)
			}
		}
	})
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		columns int
		style   Style
		want    string
	}{
		{"short", 5, Style{}, "short"},
		{"longer", 5, Style{}, "long…"},
		{"longer", 5, Style{ASCII: true}, "lo..."},
		{"世界世界", 5, Style{}, "世界…"},
		{"世界世界", 4, Style{}, "世…"},
		{"e\u0301e\u0301e\u0301e\u0301e\u0301", 4, Style{}, "e\u0301e\u0301e\u0301…"},
		{"long", 2, Style{}, "lo"},
		{"long", 0, Style{}, ""},
	} {
		if got := c.style.truncate(c.text, c.columns); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.text, c.columns, got, c.want)
		}
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 6186598: "5.9 MiB", -2048: "-2.0 KiB",
		1<<20 - 1: "1.0 MiB", 1 << 30: "1.0 GiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.0s", -time.Second: "0.0s", 1960 * time.Millisecond: "2.0s", 59949 * time.Millisecond: "59.9s",
		59960 * time.Millisecond: "1m00s", 123 * time.Second: "2m03s",
		time.Hour - 400*time.Millisecond: "1h00m", time.Hour - 600*time.Millisecond: "59m59s", 62 * time.Minute: "1h02m",
	} {
		if got := Seconds(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestShortDigest(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		"sha256:" + hex: "0123456789ab", "sha512:" + hex + hex: "0123456789ab",
		"1.4.0": "1.4.0", "sha256:xyz": "sha256:xyz", "": "", ":" + hex: ":" + hex,
	} {
		if got := ShortDigest(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestASCIIFollowsTheLocale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  []string
		utf8 bool
	}{
		{nil, true}, {[]string{"LANG=C"}, false}, {[]string{"LANG=en_US.UTF-8"}, true}, {[]string{"LANG=C.utf8"}, true},
		{[]string{"LC_ALL=POSIX", "LANG=en_US.UTF-8"}, false}, {[]string{"LC_CTYPE=UTF-8", "LANG=C"}, true},
		{[]string{"LC_ALL=", "LANG=de_DE.ISO-8859-1"}, false},
	} {
		if got := posixUTF8(env(c.env...)); got != c.utf8 {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := NewTable(Style{}, 2, "name", "empty column", "size")
	table.Row("世界", "", "1")
	table.Row("a\x1b[2J\nb", "", "22222", "beyond")
	table.Row("short")
	var b strings.Builder
	n, err := table.WriteTo(&b)
	if err != nil || int(n) != b.Len() {
		t.Error(n, err)
	}
	golden(t, "table", b.String())
}
