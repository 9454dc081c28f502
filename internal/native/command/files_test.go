package command

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
)

func process(t *testing.T, uid int) (*Proc, *bytes.Buffer) {
	t.Helper()
	x := filetree.New()
	var out bytes.Buffer
	err := errors.Join(x.Mkdir("/w", filetree.Attr{Mode: 0o755}), x.Mkdir("/open", filetree.Attr{Mode: fs.ModeSetgid | 0o777, GID: 7}), x.Mkdir("/etc", filetree.Attr{Mode: 0o755}),
		x.WriteFile("/etc/passwd", filetree.Bytes("web:x:33:33::/:/bin/sh\n").Content(), filetree.Attr{Mode: 0o644}), x.WriteFile("/etc/group", filetree.Bytes("web:x:33:\nstaff:x:50:root,web\n").Content(), filetree.Attr{Mode: 0o644}),
		x.WriteFile("/w/private", filetree.Bytes("p").Content(), filetree.Attr{Mode: 0o600}), x.WriteFile("/w/staff", filetree.Bytes("s").Content(), filetree.Attr{Mode: 0o060, GID: 50}), x.Symlink("/open/made", "/w/link", filetree.Attr{}))
	if err != nil {
		t.Fatal(err)
	}
	return &Proc{Tree: x, Dir: "/w", Args: []string{"test"}, Stdin: strings.NewReader("stdin"), Stdout: &out, Stderr: &out, UID: uid, GID: uid, Umask: 0o022}, &out
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		uid  int
		want string // the content, or the reason
	}{
		{"private", 0, "p"}, {"private", 33, "Permission denied"}, {"staff", 33, "s"}, {"nofile", 0, "No such file or directory"}, {"/etc", 0, "Is a directory"}, {"private/x", 0, "Not a directory"}, {"-", 0, "stdin"}, {"/dev/stdin", 33, "stdin"}, {"/dev/null", 0, ""}, {"/dev/urandom", 0, "refused"},
	} {
		p, _ := process(t, test.uid)
		r, err := p.Input(test.name)
		got := ""
		if err == nil {
			b, rerr := io.ReadAll(r)
			got, err = string(b), errors.Join(rerr, r.Close())
		}
		if err != nil {
			if got = Reason(err); Fatal(err) {
				got = "refused"
			}
		}
		if got != test.want {
			t.Errorf("%s: got %q (%v), want %q", test.name, got, err, test.want)
		}
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	scratch := t.TempDir()
	for _, test := range []struct {
		name      string
		uid       int
		appending bool
		at, want  string // where it is then, and what is in it, or the reason
	}{
		{"new", 0, false, "/w/new", "text"}, {"private", 0, false, "/w/private", "text"}, {"private", 0, true, "/w/private", "ptext"}, {"new", 33, false, "", "Permission denied"}, {"private", 33, true, "", "Permission denied"}, {"staff", 33, true, "/w/staff", "stext"},
		{"link", 33, false, "/open/made", "text"}, {"/etc", 0, false, "", "Is a directory"}, {"none/x", 0, false, "", "No such file or directory"}, {"", 0, false, "", "No such file or directory"}, {"x/", 0, false, "", "Is a directory"},
	} {
		p, _ := process(t, test.uid)
		w, err := p.Create(test.name, test.appending, scratch)
		if err == nil {
			_, err = io.WriteString(w, "text")
			err = errors.Join(err, w.Close())
		}
		got := ""
		if err != nil {
			got = Reason(err)
		} else if b, rerr := p.Tree.ReadFile(test.at); rerr == nil {
			got = string(b)
		}
		if got != test.want {
			t.Errorf("%s: got %q (%v), want %q", test.name, got, err, test.want)
		}
		if a, err := p.Tree.Stat("/open/made"); err == nil && (a.GID != 7 || a.Mode != 0o644 || a.UID != test.uid) {
			t.Errorf("%v %d:%d", a.Mode, a.UID, a.GID)
		}
	}
	p, out := process(t, 0)
	for _, name := range []string{"/dev/stdout", "/dev/stderr", "/dev/null"} {
		w, err := p.Create(name, false, "")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, name+" ")
		_ = w.Close()
	}
	if out.String() != "/dev/stdout /dev/stderr " {
		t.Error(out.String())
	}
}

func TestSpool(t *testing.T) {
	t.Parallel()
	for _, scratch := range []string{"", t.TempDir()} {
		s := &Spool{Scratch: scratch}
		want := strings.Repeat("0123456789", 300_000)
		for part := want; part != ""; {
			n := min(len(part), 70_001)
			if _, err := io.WriteString(s, part[:n]); err != nil {
				t.Fatal(err)
			}
			part = part[n:]
		}
		c, err := s.Content()
		if err != nil || c.Size() != int64(len(want)) || s.Size() != c.Size() {
			t.Fatal(c, err)
		}
		r, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || string(b) != want {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		_ = r.Close()
	}
	dir := t.TempDir()
	s := &Spool{Scratch: dir}
	_, _ = s.Write(make([]byte, 2<<20))
	s.Discard()
	if list, err := os.ReadDir(dir); len(list) != 0 || err != nil {
		t.Errorf("%d files stay (%v)", len(list), err)
	}
	empty := &Spool{}
	if c, err := empty.Content(); c != nil || err != nil {
		t.Error(c, err)
	}
}

// TestReason: errors that are several things at once are called by the right name.
func TestReason(t *testing.T) {
	t.Parallel()
	for err, want := range map[syscall.Errno]string{syscall.ENOTEMPTY: "Directory not empty", syscall.EEXIST: "File exists", syscall.EPERM: "Operation not permitted", syscall.EACCES: "Permission denied", syscall.ENOENT: "No such file or directory"} {
		if got := Reason(&fs.PathError{Op: "x", Path: "y", Err: err}); got != want {
			t.Errorf("%v: %s", err, got)
		}
	}
	if Fatal(nil) || Fatal(&fs.PathError{}) || !Fatal(errors.New("x")) || !Fatal(errors.Join(&fs.PathError{})) {
		t.Error("what ends the build")
	}
}
