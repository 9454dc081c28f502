package vcs

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1" //nolint:gosec // as git does
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestPublicURL(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"":                                "",
		"https://github.com/org/repo.git": "https://github.com/org/repo",
		"https://github.com/org/repo":     "https://github.com/org/repo",
		"https://user:secret@github.com/org/repo.git":      "https://github.com/org/repo",
		"https://x-access-token:ghs_secret@github.com/o/r": "https://github.com/o/r",
		"https://github.com/org/repo.git?token=secret#x":   "https://github.com/org/repo",
		"https://github.com:443/org/repo/":                 "https://github.com/org/repo",
		"https://git.example.com:8443/org/repo":            "https://git.example.com:8443/org/repo",
		"http://github.com/org/repo":                       "https://github.com/org/repo",
		"http://gitea.local:3000/org/repo.git":             "http://gitea.local:3000/org/repo",
		"git@github.com:org/repo.git":                      "https://github.com/org/repo",
		"github.com:org/repo":                              "https://github.com/org/repo",
		"git@git.example.com:/srv/repo.git":                "https://git.example.com/srv/repo",
		"ssh://git@github.com/org/repo.git":                "https://github.com/org/repo",
		"ssh://git@git.example.com:2222/org/repo.git":      "https://git.example.com/org/repo",
		"git+ssh://git@github.com/org/repo":                "https://github.com/org/repo",
		"git://github.com/org/repo.git":                    "https://github.com/org/repo",
		"https://[2001:db8::1]:8443/org/repo":              "https://[2001:db8::1]:8443/org/repo",
		"https://GitHub.com/Org/Repo.git":                  "https://github.com/Org/Repo",
		"https://example.com/a b":                          "https://example.com/a%20b",
		"/srv/git/repo.git":                                "",
		"../repo.git":                                      "",
		"file:///srv/git/repo.git":                         "",
		`C:\git\repo`:                                      "",
		"C:/git/repo":                                      "",
		`\\server\share\repo`:                              "",
		"ext::sh -c touch% /tmp/x":                         "",
		"ext::sh -c [x]":                                   "",
		"codecommit::eu-west-1://repo":                     "",
		"https://github.com/":                              "",
		"https://exa\nmple.com/a":                          "",
		"https://-x/a":                                     "",
		"https://example.com/a%0ab":                        "",
	} {
		if got := publicURL(remote); got != want {
			t.Errorf("%q gives %q, want %q", remote, got, want)
		}
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	text := "\ufeff; comment\n[Core] fileMode = false # x\n\tautoCRLF\n\tbare=\n[remote \"Ori\\\"gin\"]\r\n\turl = \"a;b\" c\\\n d  \r\n url=second\\t\\\\\n" +
		"[old.Style]x = 1 2\t \n[a]\nb = \"  x  \" \nlast = 1"
	got, err := parseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		"core.filemode": {"false"}, "core.autocrlf": {"true"}, "core.bare": {""}, "remote.Ori\"gin.url": {"a;b c d", "second\t\\"},
		"old.style.x": {"1 2"}, "a.b": {"  x  "}, "a.last": {"1"},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"[", "[]", "[a", "[a b]", "[a \"b]", "[a \"b\" ]", "x=1", "[a]\n=1", "[a]\nb = \"x", "[a]\nb = \\x", "[a]\nb c", "[a]\n!"} {
		if got, err := parseConfig([]byte(bad)); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

func TestAttributePatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		glob, name string
		want       bool
	}{
		{"*.txt", "a.txt", true}, {"*.txt", "x/y/a.txt", true}, {"*.txt", "a.txt2", false}, {"/*.txt", "a.txt", true}, {"/*.txt", "x/a.txt", false},
		{"x/*.txt", "x/a.txt", true}, {"x/*.txt", "y/x/a.txt", false}, {"x/*", "x/y/z", false}, {"x/**", "x/y/z", true}, {"**/z", "x/y/z", true}, {"**/z", "z", true},
		{"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true}, {"a/**/b", "ab", false}, {"a?c", "abc", true}, {"a?c", "a/c", false}, {"[a-c]x", "bx", true}, {"[!a-c]x", "bx", false},
		{"[!a-c]x", "dx", true}, {"[[:digit:]]", "7", true}, {"[]]", "]", true}, {`\*`, "*", true}, {`\*`, "a", false}, {"a.c", "abc", false}, {"a**b", "axxb", true}, {"a**b", "ax/xb", false},
		{`[\d]`, "d", true}, {`[\d]`, "5", false}, {`[a\-c]`, "b", false}, {`[a\-c]`, "-", true}, {"ü*", "über", true}, {"[^a]", "/", false},
	} {
		p := globPattern(test.glob)
		if p == nil {
			t.Errorf("%q isn't a pattern", test.glob)
		} else if got := p.MatchString(test.name); got != test.want {
			t.Errorf("%q matches %q: %v", test.glob, test.name, got)
		}
	}
}

func sha1Format() hashFormat {
	f, _ := formatNamed("sha1")
	return f
}

func deflate(data []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// packOf is a pack in memory whose index names one object, at offset 12.
func packOf(objects []byte, id objectID) *pack {
	data := slices.Concat([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), objects, make([]byte, 20))
	index := []byte("\xfftOc\x00\x00\x00\x02")
	for i := range 256 {
		n := uint32(0)
		if i >= int(id[0]) {
			n = 1
		}
		index = binary.BigEndian.AppendUint32(index, n)
	}
	index = append(index, id...)
	index = append(index, 0, 0, 0, 0, 0, 0, 0, 12)
	index = append(index, make([]byte, 40)...)
	return &pack{
		path: "pack", format: sha1Format(),
		index: bytes.NewReader(index), indexSize: int64(len(index)), data: bytes.NewReader(data), dataSize: int64(len(data)),
	}
}

func TestHostilePacks(t *testing.T) {
	t.Parallel()
	id := objectID(strings.Repeat("a", 20))
	for name, test := range map[string]struct {
		objects []byte
		want    string
	}{
		"blob":              {objects: append([]byte{0x33}, deflate([]byte("abc"))...)},
		"longer than said":  {objects: append([]byte{0x32}, deflate([]byte("abc"))...), want: "its size isn't"},
		"shorter than said": {objects: append([]byte{0x35}, deflate([]byte("abc"))...), want: "its size isn't"},
		"larger than ever":  {objects: append([]byte{0xb5, 0xff, 0xff, 0xff, 0x7f}, deflate([]byte("abc"))...), want: "larger than"},
		"endless size":      {objects: bytes.Repeat([]byte{0xff}, 40), want: "no size"},
		"unknown type":      {objects: []byte{0x53, 0, 0}, want: "unknown type"},
		"delta on itself":   {objects: append(append([]byte{0x73}, id...), deflate([]byte("abc"))...), want: "more than 4096 deep"},
		"delta on nothing":  {objects: append([]byte{0x63, 0x00}, deflate([]byte("abc"))...), want: "lies outside"},
		"delta before":      {objects: append([]byte{0x63, 0x7f}, deflate([]byte("abc"))...), want: "lies outside"},
		"cut off":           {objects: nil, want: "unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := packOf(test.objects, id)
			offset, found, err := p.find(id)
			if err != nil || !found {
				t.Fatal(found, err)
			}
			kind, data, err := p.read(offset, &deltaCache{})
			if test.want == "" {
				if kind != "blob" || string(data) != "abc" || err != nil {
					t.Errorf("got %s %q, %v", kind, data, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func indexOf(version uint32, entries ...indexEntry) []byte {
	b := []byte("DIRC")
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	for _, e := range entries {
		start := len(b)
		b = append(b, make([]byte, 24)...)
		b = binary.BigEndian.AppendUint32(b, e.mode)
		b = append(b, make([]byte, 12)...)
		b = append(b, make([]byte, 20)...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.name)))
		if version == 4 {
			b = append(b, 0)
		}
		b = append(b, e.name...)
		b = append(b, 0)
		for version < 4 && (len(b)-start)%8 != 0 {
			b = append(b, 0)
		}
	}
	sum := sha1.Sum(b) //nolint:gosec // as git does
	return append(b, sum[:]...)
}

func TestHostileIndex(t *testing.T) {
	t.Parallel()
	file := func(name string) []byte { return indexOf(2, indexEntry{mode: modeFile, name: name}) }
	good := file("a/b")
	if x, err := parseIndex(sha1Format(), good); err != nil || len(x.entries) != 1 || x.entries[0].name != "a/b" {
		t.Fatal(x, err)
	}
	damaged := slices.Clone(good)
	damaged[30]++
	for name, data := range map[string][]byte{
		"empty":      nil,
		"damaged":    damaged,
		"leads out":  file("../../etc/passwd"),
		"absolute":   file("/etc/passwd"),
		"own files":  file("a/.GIT/config"),
		"dot":        file("a/./b"),
		"no name":    file(""),
		"unsorted":   indexOf(2, indexEntry{mode: modeFile, name: "b"}, indexEntry{mode: modeFile, name: "a"}),
		"directory":  file("a/"),
		"version 5":  indexOf(5),
		"many":       append([]byte("DIRC\x00\x00\x00\x02\xff\xff\xff\xff"), make([]byte, 100)...),
		"extension":  append(slices.Concat(good[:len(good)-20], []byte("evil\x00\x00\x00\x00")), make([]byte, 20)...),
		"long extra": append(slices.Concat(good[:len(good)-20], []byte("EVIL\xff\xff\xff\xff")), make([]byte, 20)...),
	} {
		if x, err := parseIndex(sha1Format(), data); err == nil {
			t.Errorf("%s: got %v", name, x)
		}
	}
}

// A tree of trees of trees, each naming the next twice, is small on disk and
// has more files than there are atoms. Comparing it must end at once.
func TestTreeBomb(t *testing.T) {
	t.Parallel()
	format := sha1Format()
	dir := t.TempDir()
	db := &objects{format: format, dir: dir, dirs: []string{dir}, listed: true}
	trees := map[objectID][]byte{}
	add := func(data []byte) objectID {
		id := format.sum("tree", data)
		trees[id] = data
		return id
	}
	id := add(nil)
	for range 100 {
		id = add(fmt.Appendf(nil, "40000 a\x00%s40000 b\x00%s", string(id), string(id)))
	}
	for id, data := range trees {
		writeLoose(t, dir, id, "tree", data)
	}
	name := strings.Repeat("a/", 100) + "f"
	if got, err := treeDiffers(context.Background(), db, id, []indexEntry{{name: name, mode: modeFile}}); got == "" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
