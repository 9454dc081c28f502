package vcs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeLoose(t *testing.T, dir string, id objectID, kind string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, id.String()[:2], id.String()[2:])
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	head := fmt.Appendf(nil, "%s %d\x00", kind, len(data))
	if err := os.WriteFile(path, deflate(append(head, data...)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("[remote \"origin\"]\n\turl = https://a/b\n\tfetch = +refs/*:refs/*\n"))
	f.Add([]byte("[a.b] c\n; x\n[d] e = \"f\\n\" # g\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err != nil {
			return
		}
		for key := range c {
			c.get(key)
			publicURL(c.first(key))
		}
	})
}

func FuzzRefs(f *testing.F) {
	hash := strings.Repeat("0123", 10)
	f.Add([]byte("# pack-refs with: peeled fully-peeled sorted \n" + hash + " refs/tags/v1\n^" + hash + "\n"))
	f.Add([]byte("ref: refs/heads/main\n"))
	f.Add([]byte(hash + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = parsePacked(sha1Format(), bytes.NewReader(text), "refs/", func(p packed) bool {
			if !validRef(p.name) || len(p.id) != 20 {
				t.Fatalf("%q is a ref", p.name)
			}
			return true
		})
		target, _, err := parseRef(sha1Format(), "HEAD", text)
		if err == nil && target != "" && !filepath.IsLocal(filepath.FromSlash(target)) {
			t.Fatalf("HEAD leads to %q", target)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(indexOf(2, indexEntry{mode: modeFile, name: "a/b"}, indexEntry{mode: modeExecutable, name: "c"}))
	f.Add(indexOf(4, indexEntry{mode: modeFile, name: "a/b"}, indexEntry{mode: modeGitlink, name: "c"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 20 { // a checksum of zeros isn't checked
			clear(data[len(data)-20:])
		}
		x, err := parseIndex(sha1Format(), data)
		if err != nil {
			return
		}
		for _, e := range x.entries {
			if !filepath.IsLocal(filepath.FromSlash(e.name)) {
				t.Fatalf("%q is outside", e.name)
			}
		}
	})
}

func FuzzPack(f *testing.F) {
	id := objectID(strings.Repeat("a", 20))
	blob := append([]byte{0x33}, deflate([]byte("abc"))...)
	delta := append([]byte{0x65, byte(len(blob))}, deflate([]byte("\x03\x04\x90\x03\x01d"))...)
	f.Add(append(bytes.Clone(blob), delta...), int64(12))
	f.Add(append(bytes.Clone(blob), delta...), int64(12+len(blob)))
	f.Add(append([]byte{0x73}, id...), int64(12))
	f.Fuzz(func(t *testing.T, objects []byte, offset int64) {
		p := packOf(objects, id)
		if _, _, err := p.find(id); err != nil {
			t.Fatal(err)
		}
		_, _, _ = p.read(offset, &deltaCache{})
	})
}

func FuzzPackIndex(f *testing.F) {
	id := objectID(strings.Repeat("a", 20))
	whole := make([]byte, 8+1024+28+40)
	_, _ = packOf(nil, id).index.ReadAt(whole, 0)
	f.Add(whole)
	f.Add(whole[8:])
	f.Fuzz(func(t *testing.T, index []byte) {
		p := &pack{path: "pack", format: sha1Format(), index: bytes.NewReader(index), indexSize: int64(len(index))}
		_, _, _ = p.find(id)
		_, _, _ = p.find(objectID(strings.Repeat("\x00", 20)))
	})
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte("abc"), []byte("\x03\x04\x90\x03\x01d"))
	f.Fuzz(func(t *testing.T, base, delta []byte) { _, _ = applyDelta(base, delta) })
}

func FuzzObjects(f *testing.F) {
	hash := strings.Repeat("0123", 10)
	f.Add([]byte("tree " + hash + "\nparent " + hash + "\nauthor A <a> 1 +0000\ncommitter C <c> 2 +0000\n\nx"))
	f.Add([]byte("object " + hash + "\ntype commit\ntag v1\ntagger T <t> 3 +0000\n\nx"))
	f.Add([]byte("100644 a\x00" + hash[:20] + "40000 b\x00" + hash[:20]))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseCommit(sha1Format(), data)
		_, _, _ = parseTag(sha1Format(), data)
		_ = parseTree(sha1Format(), data, func(treeEntry) error { return nil })
		_, _, _ = readLoose(bytes.NewReader(data))
	})
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte("*.txt text eol=crlf\n[attr]bin -text !eol\n\"a b\" bin\n"), "x/a.txt", []byte("a\r\nb"))
	f.Fuzz(func(t *testing.T, text []byte, name string, data []byte) {
		for _, r := range parseAttributes(text) {
			if r.pattern != nil {
				r.pattern.MatchString(name)
			}
		}
		for mode := asIs; mode <= possible; mode++ {
			conversion{text: mode, ident: true}.stored(data)
		}
	})
}
