package buildid

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The hash that the go command writes into programs is the one that is checked.
func TestIntact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/p\ngo 1.24\n", "main.go": "package main\n\nfunc main() { println(1) }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for goos, want := range map[string]bool{"linux": true, "darwin": false} {
		program := filepath.Join(dir, "program-"+goos)
		cmd := exec.Command("go", "build", "-trimpath", "-o", program, ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if intact, known := Intact(program); !intact || known != want {
			t.Errorf("%s: intact %v, known %v", goos, intact, known)
		}
		data, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if id := Read(bytes.NewReader(data)); id == "" {
			t.Errorf("%s: no build ID", goos)
		}
		for _, at := range []int{len(data) / 2, len(data) / 4} {
			data[at] ^= 1
			if err := os.WriteFile(program, data, 0o755); err != nil {
				t.Fatal(err)
			}
			if intact, _ := Intact(program); intact && want {
				t.Errorf("%s: a changed byte at %d isn't noticed", goos, at)
			}
			data[at] ^= 1
		}
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, filepath.Join(dir, "absent")} {
		if intact, known := Intact(path); !intact || known {
			t.Errorf("%s: intact %v, known %v", path, intact, known)
		}
	}
}
