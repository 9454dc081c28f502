package apk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/apk/apktest"
)

// TestPackagesOfNfpm installs packages that another tool has made.
func TestPackagesOfNfpm(t *testing.T) {
	nfpm, err := exec.LookPath("nfpm")
	if err != nil {
		t.Skip("nfpm isn't on PATH (go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0)")
	}
	s := newSystem(t)
	dir := t.TempDir()
	put(t, filepath.Join(dir, "key.pem"), s.key.Private())
	put(t, filepath.Join(dir, "program"), []byte("a program\n"))
	put(t, filepath.Join(dir, "post.sh"), []byte("#!/bin/sh\necho installed > /var/log/mine.log\n"))
	var index strings.Builder
	for name, more := range map[string]string{
		"mine":    "depends:\n  - library\nscripts:\n  postinstall: " + dir + "/post.sh\n",
		"library": "provides:\n  - so:liblibrary.so.1=1.0\n",
	} {
		config := filepath.Join(dir, name+".yaml")
		put(t, config, []byte(`name: `+name+`
arch: arm64
version: 1.2.3
version_schema: none
release: "4"
maintainer: nobody <nobody@example.com>
description: made by a test
`+more+`contents:
  - src: `+dir+`/program
    dst: /usr/bin/`+name+`
    file_info:
      mode: 0755
  - src: /usr/bin/`+name+`
    dst: /usr/bin/`+name+`-link
    type: symlink
  - src: `+dir+`/program
    dst: /etc/`+name+`/conf
    type: config
apk:
  signature:
    key_file: `+dir+`/key.pem
    key_name: `+s.key.Name+`
`))
		file := filepath.Join(dir, name+".apk")
		if out, err := exec.Command(nfpm, "package", "-f", config, "-p", "apk", "-t", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stanza, err := apktest.Stanza(data)
		if err != nil {
			t.Fatal(err)
		}
		index.WriteString(stanza + "\n")
		put(t, filepath.Join(s.mirror, "main/aarch64", name+"-"+between(stanza, "V:")+".apk"), data)
	}
	packed, err := apktest.Index(s.key, index.String())
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(s.mirror, "main/aarch64/APKINDEX.tar.gz"), packed)
	out := s.must("apk add --no-cache mine")
	if s.read("/usr/bin/mine-link") != "a program\n" || s.read("/etc/library/conf") != "a program\n" || s.read("/var/log/mine.log") != "installed\n" {
		t.Error(out)
	}
	s.must("apk del mine")
	if _, err := s.tree.Lstat("/usr/bin/library"); err == nil {
		t.Error("what nobody needs is still there")
	}
	for _, name := range []string{"mine", "library"} {
		// The file itself, with its own signature.
		data, err := os.ReadFile(filepath.Join(dir, name+".apk"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.tree.WriteFile("/tmp/"+name+".apk", contentOf(data), attr(0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s.must("apk add /tmp/library.apk /tmp/mine.apk")
}

func between(text, prefix string) string {
	_, text, _ = strings.Cut(text, "\n"+prefix)
	text, _, _ = strings.Cut(text, "\n")
	return text
}
