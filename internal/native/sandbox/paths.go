package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// resolve finds where an absolute path of the stage is, following symbolic links
// as a process with root as its root directory would: absolute ones count from
// root, and ".." stops there. What doesn't exist is kept as it is written. The
// result is canonical and absolute in the root.
//
// The tree must not change meanwhile; that is the caller's promise about Root.
func resolve(root, name string) (string, error) {
	todo := strings.Split(strings.TrimLeft(name, "/"), "/")
	at, links := "/", 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		info, err := os.Lstat(inside(root, next))
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			at = next // a missing file makes the rest literal
			continue
		}
		if links++; links > 40 {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: syscall.ELOOP}
		}
		to, err := os.Readlink(inside(root, next))
		if err != nil {
			return "", err
		}
		to = filepath.ToSlash(to)
		if strings.HasPrefix(to, "/") {
			at = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return at, nil
}

// inside is where a canonical path of the stage is on the host.
func inside(root, name string) string {
	return filepath.Join(root, filepath.FromSlash(name))
}

// below gives the path of name relative to dir, both canonical.
func below(dir, name string) (string, bool) {
	if dir == "/" || dir == name {
		return strings.TrimPrefix(strings.TrimPrefix(name, dir), "/"), true
	}
	rest, ok := strings.CutPrefix(name, dir+"/")
	return rest, ok
}

// mountPoints makes the places that mounts need, and remembers how to leave no
// trace of them: what was made is removed, and directories get back the time of
// modification that making it changed.
type mountPoints struct {
	made  []madePoint
	times []touched
}

type madePoint struct {
	base, rel string
	dir       bool
}

type touched struct {
	name          string // of the host
	before, after time.Time
}

// make makes the mount points of mounts, which are in the order in which they will
// be mounted. A mount inside another mount needs its place in that one's directory.
func (p *mountPoints) make(root string, mounts []Mount) error {
	for i, m := range mounts {
		base, rel := root, strings.TrimPrefix(m.Target, "/")
		writable := true
		for _, outer := range slices.Backward(mounts[:i]) {
			if rest, ok := below(outer.Target, m.Target); ok {
				base, rel, writable = outer.Host, rest, !outer.ReadOnly
				if outer.Tmpfs {
					base = "" // made when it is mounted
				}
				break
			}
		}
		if base == "" || rel == "" {
			continue
		}
		if err := p.place(base, rel, m.File, writable); err != nil {
			return err
		}
	}
	return nil
}

// place makes one mount point with the directories above it.
func (p *mountPoints) place(base, rel string, file, writable bool) error {
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	parts := strings.Split(rel, "/")
	for i := range parts {
		name := filepath.FromSlash(strings.Join(parts[:i+1], "/"))
		wantDir := i < len(parts)-1 || !file
		info, err := root.Lstat(name)
		switch {
		case err == nil && info.IsDir() == wantDir && info.Mode()&fs.ModeSymlink == 0:
			continue
		case err == nil && wantDir:
			return &fs.PathError{Op: "mount", Path: "/" + filepath.ToSlash(name), Err: syscall.ENOTDIR}
		case err == nil && info.IsDir():
			return &fs.PathError{Op: "mount", Path: "/" + filepath.ToSlash(name), Err: syscall.EISDIR}
		case err == nil:
			continue // a device, or a link that the mount goes over
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case !writable:
			return &fs.PathError{Op: "mount", Path: "/" + filepath.ToSlash(name), Err: syscall.EROFS}
		}
		parent := filepath.Join(base, filepath.Dir(name))
		before, err := os.Lstat(parent)
		if err != nil {
			return err
		}
		if wantDir {
			err = root.Mkdir(name, 0o755)
		} else {
			var f *os.File
			if f, err = root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err != nil {
			return err
		}
		p.made = append(p.made, madePoint{base, name, wantDir})
		if after, err := os.Lstat(parent); err == nil {
			p.touch(parent, before.ModTime(), after.ModTime())
		}
	}
	return nil
}

func (p *mountPoints) touch(name string, before, after time.Time) {
	for i := range p.times {
		if p.times[i].name == name {
			p.times[i].after = after
			return
		}
	}
	p.times = append(p.times, touched{name, before, after})
}

// remove takes away what make made, as far as nothing was put there.
func (p *mountPoints) remove() error {
	var errs []error
	untouched := make([]bool, len(p.times))
	for i, t := range p.times {
		info, err := os.Lstat(t.name)
		untouched[i] = err == nil && info.ModTime().Equal(t.after)
	}
	for _, m := range slices.Backward(p.made) {
		root, err := os.OpenRoot(m.base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := root.Lstat(m.rel)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		case err != nil:
		case !m.dir && info.Mode().IsRegular() && info.Size() > 0, info.IsDir() != m.dir:
			// Something else is there now, and stays.
		default:
			if err = root.Remove(m.rel); m.dir && notEmpty(err) {
				err = nil
			}
		}
		errs = append(errs, err, root.Close())
	}
	for i, t := range p.times {
		if untouched[i] {
			if err := os.Chtimes(t.name, time.Time{}, t.before); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// notEmpty tells why a directory that was made for a mount can't be removed: the
// command has put something beside the mount. It is then the stage's.
func notEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist)
}

// certificates are where crypto/x509 of Linux looks (root_linux.go, root_unix.go).
var certificates = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// ownCertificates finds the certificate file and directory that the stage has
// itself, as canonical paths.
func ownCertificates(c *Command) (file, dir string) {
	look := func(name string, isDir bool) string {
		at, err := resolve(c.Root, name)
		if err != nil {
			return ""
		}
		info, err := os.Stat(inside(c.Root, at))
		if err != nil || info.IsDir() != isDir {
			return ""
		}
		return at
	}
	for _, name := range append([]string{lookup(c.Env, "SSL_CERT_FILE")}, certificates...) {
		if name != "" && file == "" {
			file = look(name, false)
		}
	}
	for _, name := range append(strings.Split(lookup(c.Env, "SSL_CERT_DIR"), ":"), "/etc/ssl/certs", "/etc/pki/tls/certs") {
		if name == "" || dir != "" {
			continue
		}
		if dir = look(name, true); dir != "" {
			if entries, err := os.ReadDir(inside(c.Root, dir)); err != nil || len(entries) == 0 {
				dir = ""
			}
		}
	}
	return file, dir
}
