package apk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
)

func FuzzIndex(f *testing.F) {
	f.Add([]byte("C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:curl\nV:8.5-r0\nA:aarch64\nS:1\nI:2\nD:so:x !y>1 z=2\np:cmd:curl=8.5-r0\ni:a b\nk:5\n\nP:x\nV:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := parseIndex(data, nil)
		for _, e := range list {
			if !plainName(e.Name) || strings.ContainsAny(e.Name+e.Version, "/\x00\n") {
				t.Errorf("%q-%q can't be part of a file name", e.Name, e.Version)
			}
		}
	})
}

func FuzzDatabase(f *testing.F) {
	f.Add("C:Q1x\nP:musl\nV:1.2-r0\nF:lib\nM:0:0:1777\nR:ld\na:0:0:755\nZ:Q1y\nF:etc\nX:new\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		tree := filetree.New()
		if err := tree.MkdirAll("/lib/apk/db", filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := tree.WriteFile("/lib/apk/db/installed", filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		d, err := openDatabase(tree, time.Time{})
		if err != nil {
			return
		}
		// What is written is what was read, but for empty lines.
		squeeze := func(s string) string {
			for strings.Contains(s, "\n\n\n") {
				s = strings.ReplaceAll(s, "\n\n\n", "\n\n")
			}
			return strings.Trim(s, "\n")
		}
		if got := string(d.writeInstalled()); squeeze(got) != squeeze(text) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func FuzzPackage(f *testing.F) {
	for _, name := range []string{"testdata/small.apk", "testdata/signed.apk"} {
		if data, err := os.ReadFile(name); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("ADB.x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		name := filepath.Join(dir, "x.apk")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := openArchive(name, nil, keyring{}, true, dir)
		if err != nil {
			return
		}
		for _, file := range a.files {
			if !cleanName(file.name) {
				t.Errorf("%q leads elsewhere", file.name)
			}
		}
	})
}

func FuzzSignedIndex(f *testing.F) {
	if data, err := os.ReadFile("testdata/APKINDEX.tar.gz"); err == nil {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if text, err := openIndex(data, keyring{}, false); err == nil {
			t.Errorf("an index without a known key was taken: %q", text)
		}
		text, err := openIndex(data, keyring{}, true)
		if err == nil {
			parseIndex(text, nil)
		}
	})
}

func FuzzRepositories(f *testing.F) {
	f.Add("https://dl-cdn.alpinelinux.org/alpine/v3.22/main\n@edge http://x/edge\n# c\n/local\nv2 https://x main community\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseRepositories(text, "/etc/apk/repositories")
		if err != nil {
			return
		}
		for _, r := range list {
			if r.url == "" || !r.local && !bytes.HasPrefix([]byte(r.url), []byte("http")) {
				t.Errorf("%+v", r)
			}
		}
	})
}
