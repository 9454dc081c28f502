package control

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// readAll gives all paragraphs of a text.
func readAll(text string, comments bool) ([]*Paragraph, error) {
	r := NewReader(strings.NewReader(text))
	r.Comments = comments
	var list []*Paragraph
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, p)
	}
}

func write(list []*Paragraph) string {
	var b []byte
	for i, p := range list {
		if i > 0 {
			b = append(b, '\n')
		}
		b = p.Append(b)
	}
	return string(b)
}

func TestReaderFields(t *testing.T) {
	t.Parallel()
	const text = `

Package: hello
VERSION:   2.10-3  
X-Unknown:	tab
Conffiles:
 /etc/a 0123
 /etc/b 4567 obsolete
Description: short
 long line
 .
  indented
Empty:


Package:second
Tag : with space before the colon
Last: line without its end`
	list, err := readAll(text, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%d paragraphs", len(list))
	}
	for name, want := range map[string]string{
		"package":     "hello",
		"Version":     "2.10-3",
		"X-Unknown":   "tab",
		"Conffiles":   "\n /etc/a 0123\n /etc/b 4567 obsolete",
		"Description": "short\n long line\n .\n  indented",
		"Empty":       "",
		"Nothing":     "",
	} {
		if got := list[0].Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, ok := list[0].Lookup("empty"); !ok {
		t.Error("an empty field isn't there")
	}
	if _, ok := list[0].Lookup("nothing"); ok {
		t.Error("a missing field is there")
	}
	if list[0].Line != 3 || list[1].Line != 16 {
		t.Errorf("paragraphs start on lines %d and %d", list[0].Line, list[1].Line)
	}
	if list[1].Get("Package") != "second" || list[1].Get("tag") != "with space before the colon" || list[1].Get("last") != "line without its end" {
		t.Errorf("second paragraph: %q", list[1].Fields)
	}
	const want = `Package: hello
VERSION: 2.10-3
X-Unknown: tab
Conffiles:
 /etc/a 0123
 /etc/b 4567 obsolete
Description: short
 long line
 .
  indented
Empty:

Package: second
Tag: with space before the colon
Last: line without its end
`
	if got := write(list); got != want {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
}

func TestParagraphChanges(t *testing.T) {
	t.Parallel()
	list, err := readAll("A: 1\nB: 2\nC: 3\n", false)
	if err != nil {
		t.Fatal(err)
	}
	p := list[0]
	q := p.Clone()
	q.Set("b", "two")
	q.Set("D", "4")
	q.Remove("a")
	q.Remove("nothing")
	if got := q.String(); got != "B: two\nC: 3\nD: 4\n" {
		t.Errorf("changed: %q", got)
	}
	if got := p.String(); got != "A: 1\nB: 2\nC: 3\n" {
		t.Errorf("the clone's source is %q", got)
	}
}

func TestReaderComments(t *testing.T) {
	t.Parallel()
	const text = "# about\r\n\r\nTypes: deb\r\n# in between\r\nURIs: http://a\r\n# inside\r\n http://b\r\n\r\n# end"
	list, err := readAll(text, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || write(list) != "Types: deb\nURIs: http://a\n http://b\n" {
		t.Errorf("read: %q", write(list))
	}
	if _, err := readAll("# about\nTypes: deb\n", false); err == nil {
		t.Error("a comment was read where there are none")
	}
}

func TestReaderErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"no colon", "Package: a\nVersion 1\n", `line 2: "Version 1" has no colon after its name`},
		{"continuation first", " a\n", "line 1: the line continues a field, but there is none before it"},
		{"empty name", ": a\n", `line 1: "" is no name of a field`},
		{"name with space", "a b: c\n", `line 1: "a b" is no name of a field`},
		{"name with hyphen", "-a: c\n", `line 1: "-a" is no name of a field`},
		{"twice", "Package: a\npackage: b\n", "line 2: the field package is there twice"},
		{"binary", "\x00\x01\n", `line 1: "\x00\x01" has no colon after its name`},
		{"long", strings.Repeat("a", maxParagraph+2), "line 1: the paragraph is longer than 8388608 bytes"},
		{"long paragraph", "A:" + strings.Repeat("\n a", maxParagraph/3), "line 2796204: the paragraph is longer than 8388608 bytes"},
		{"many fields", many("F%d: 1\n", maxFields+1), "line 4097: the paragraph has more than 4096 fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := readAll(c.text, false)
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || err.Error() != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func many(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestReaderStopsAfterError(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader("bad\n\nPackage: a\n"))
	_, first := r.Next()
	if _, second := r.Next(); first == nil || second != first {
		t.Errorf("errors %v and %v", first, second)
	}
}

// TestStatusOfHost reads the database of the dpkg of the host, which must be the
// same when it is written.
func TestStatusOfHost(t *testing.T) {
	t.Parallel()
	const status = "/var/lib/dpkg/status"
	data, err := os.ReadFile(status)
	if err != nil {
		t.Skip("no dpkg on this host")
	}
	list, err := readAll(string(data), false)
	if err != nil {
		t.Fatal(err)
	}
	// dpkg writes an empty line after the last paragraph.
	if got := write(list) + "\n"; got != string(data) {
		t.Error("the database isn't the same when it is written")
	}
	for _, p := range list {
		for _, field := range []string{"Depends", "Pre-Depends", "Recommends", "Suggests", "Provides", "Breaks", "Conflicts", "Replaces", "Enhances"} {
			relations, err := ParseRelations(p.Get(field))
			if err != nil {
				t.Errorf("%s of %s: %v", field, p.Get("Package"), err)
			}
			if got := FormatRelations(relations); got != p.Get(field) {
				t.Errorf("%s of %s is %q, written %q", field, p.Get("Package"), p.Get(field), got)
			}
		}
		if v, err := ParseVersion(p.Get("Version")); err != nil || v.String() != p.Get("Version") {
			t.Errorf("version of %s is %q, written %q, error %v", p.Get("Package"), p.Get("Version"), v, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("Package: a\nVersion: 1\n b\n\n\nPackage: b\n", false)
	f.Add("# c\r\nTypes: deb\r\n\r\n", true)
	f.Add("A:\n b\n .\n", false)
	f.Fuzz(func(t *testing.T, text string, comments bool) {
		list, err := readAll(text, comments)
		if err != nil {
			return
		}
		written := write(list)
		again, err := readAll(written, false)
		if err != nil {
			// A continuation line may hold what is no comment any more; all else
			// must be read again.
			t.Fatalf("%q can't be read again: %v", written, err)
		}
		if got := write(again); got != written {
			t.Fatalf("%q is written %q the second time", written, got)
		}
	})
}

func TestLines(t *testing.T) {
	t.Parallel()
	got := Lines("\n /etc/a 1\n\n  /etc/b 2 ")
	if len(got) != 2 || got[0] != "/etc/a 1" || got[1] != "/etc/b 2" {
		t.Errorf("%q", got)
	}
}

// dpkg gives the answer of dpkg --compare-versions.
func dpkg(t *testing.T, a, operator, b string) bool {
	t.Helper()
	err := exec.Command("dpkg", "--compare-versions", a, operator, b).Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("dpkg --compare-versions %q %s %q: %v", a, operator, b, err)
	}
	return err == nil
}
