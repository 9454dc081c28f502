package certificates

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// TestNameHash compares with the links that this machine's own OpenSSL has made.
func TestNameHash(t *testing.T) {
	links, err := filepath.Glob("/etc/ssl/certs/????????.[0-9]")
	if err != nil || len(links) == 0 {
		t.Skip("this machine has no links named by hash in /etc/ssl/certs")
	}
	for _, link := range links {
		data, err := os.ReadFile(link)
		if err != nil {
			continue
		}
		block, _ := pem.Decode(data)
		if block == nil {
			continue
		}
		hash, err := NameHash(block.Bytes)
		if want, _, _ := strings.Cut(filepath.Base(link), "."); err != nil || hash != want {
			t.Errorf("%s: %s, %v", link, hash, err)
		}
	}
	t.Logf("%d links", len(links))
}

// TestAsHere makes the directory that this machine has from its own sources.
func TestAsHere(t *testing.T) {
	conf, err := os.ReadFile("/etc/ca-certificates.conf")
	if err != nil {
		t.Skip(err)
	}
	tree := filetree.New()
	put := func(name string, data []byte) {
		t.Helper()
		if err := tree.MkdirAll(filepath.Dir(name), filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := tree.WriteFile(name, filetree.Bytes(data).Content(), filetree.Attr{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	put(configured, conf)
	put("/usr/sbin/update-ca-certificates", nil)
	n := 0
	for line := range strings.Lines(string(conf)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.ContainsAny(name[:1], "#!") {
			continue
		}
		data, err := os.ReadFile(global + "/" + name)
		if err != nil {
			t.Skip(err)
		}
		put(global+"/"+name, data)
		n++
	}
	if own, _ := filepath.Glob(local + "/*.crt"); len(own) > 0 {
		for _, name := range own {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Skip(err)
			}
			put(name, data)
		}
	}
	var out bytes.Buffer
	c := Command()
	proc := &command.Proc{Tree: tree, Dir: "/", Args: []string{"update-ca-certificates"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Dialect: command.GNU}
	if exit, err := c.Run(context.Background(), proc); exit != 0 || err != nil {
		t.Fatal(exit, err, out.String())
	}
	links, err := os.ReadDir(trusted)
	if err != nil {
		t.Skip(err)
	}
	here := 0
	for _, e := range links {
		want, err := os.Readlink(filepath.Join(trusted, e.Name()))
		if err != nil {
			continue
		}
		if _, err := os.Readlink(filepath.Join(trusted, want)); err != nil && isHash(e.Name()) {
			continue // a file that is nobody's source
		}
		a, err := tree.Lstat(trusted + "/" + e.Name())
		if err != nil {
			t.Errorf("%s is missing", e.Name())
			continue
		}
		// Which of two names of one certificate a hash leads to is chance.
		if !isHash(e.Name()) && a.Link != want {
			t.Errorf("%s leads to %s, here to %s", e.Name(), a.Link, want)
		}
		here++
	}
	t.Logf("%d certificates, %d links compared", n, here)
	before := tree.Fork()
	if exit, err := c.Run(context.Background(), proc); exit != 0 || err != nil {
		t.Fatal(exit, err)
	}
	if changes := filetree.Diff(before, tree); len(changes) > 0 {
		t.Errorf("the second time it changed %d files", len(changes))
	}
}
