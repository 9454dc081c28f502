package transfer

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

func TestTransfer(t *testing.T) {
	tries := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/file", http.StatusFound)
		case "/file":
			_, _ = w.Write([]byte("content " + r.Header.Get("X-Asked")))
		case "/flaky":
			if tries++; tries < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte("at last"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for _, c := range []struct {
		line    string
		exit    int
		out     string // words of what it prints
		file    string // name=content
		refused string
	}{
		{"curl -fsSL URL/moved", 0, "content", "", ""},
		{"curl -fsS URL/moved", 0, "Found", "", ""},
		{"curl -fsSL URL/file -o /tmp/x", 0, "", "/tmp/x=content ", ""},
		{"curl -fsSLO URL/file", 0, "", "/file=content ", ""},
		{"curl -sSf URL/none", 22, "curl: (22) The requested URL returned error: 404", "", ""},
		{"curl -s URL/none", 0, "404", "", ""},
		{"curl -fsS --retry 3 URL/flaky", 0, "at last", "", ""},
		{"curl -s -H X-Asked:yes URL/file --create-dirs -o /new/dir/f", 0, "", "/new/dir/f=content yes", ""},
		{"curl --proto =https -sSf URL/file", 7, "isn't allowed", "", ""},
		{"curl -k URL/file", 0, "", "", "option -k"},
		{"curl -X POST URL/file", 0, "", "", "option -X"},
		{"wget URL/file", 0, "", "/file=content ", ""},
		{"wget -q -O /tmp/y URL/moved", 0, "", "/tmp/y=content ", ""},
		{"wget -qO- URL/file", 0, "content", "", ""},
		{"wget -q URL/none", 8, "404 Not Found", "", ""},
		{"wget --no-check-certificate URL/file", 0, "", "", "option --no-check-certificate"},
	} {
		t.Run(c.line, func(t *testing.T) {
			tree := filetree.New()
			if err := tree.Mkdir("/tmp", filetree.Attr{Mode: 0o777}); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			args := strings.Fields(strings.ReplaceAll(c.line, "URL", server.URL))
			p := &command.Proc{Tree: tree, Dir: "/", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Umask: 0o022, Dialect: command.GNU}
			for _, cmd := range Commands(Options{Client: server.Client(), Scratch: t.TempDir()}) {
				if cmd.Name != args[0] {
					continue
				}
				exit, err := cmd.Run(context.Background(), p)
				if c.refused != "" {
					if err == nil || !strings.Contains(err.Error(), c.refused) {
						t.Fatalf("%v", err)
					}
					return
				}
				if err != nil || exit != c.exit || !strings.Contains(out.String(), c.out) {
					t.Fatalf("exit code %d, %v, %q", exit, err, out.String())
				}
			}
			if name, want, ok := strings.Cut(c.file, "="); ok {
				if data, err := tree.ReadFile(name); err != nil || string(data) != want {
					t.Errorf("%s is %q, %v", name, data, err)
				}
			}
		})
	}
}

func TestOffline(t *testing.T) {
	var out bytes.Buffer
	p := &command.Proc{Tree: filetree.New(), Dir: "/", Args: []string{"curl", "-sS", "http://127.0.0.1:1/x"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}
	if exit, err := Commands(Options{Client: http.DefaultClient, Offline: true})[0].Run(context.Background(), p); exit == 0 || err != nil || !strings.Contains(out.String(), "network is off") {
		t.Error(exit, err, out.String())
	}
}
