package prove

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// maxLibraries bounds how many libraries of one program are followed.
const maxLibraries = 1000

// triplets are the directories in which Debian's systems keep the libraries of
// an architecture.
var triplets = map[string][]string{
	"386": {"i386-linux-gnu"}, "amd64": {"x86_64-linux-gnu"}, "arm": {"arm-linux-gnueabihf", "arm-linux-gnueabi"},
	"arm64": {"aarch64-linux-gnu"}, "loong64": {"loongarch64-linux-gnu"}, "mips64le": {"mips64el-linux-gnuabi64"},
	"mipsle": {"mipsel-linux-gnu"}, "ppc64le": {"powerpc64le-linux-gnu"}, "riscv64": {"riscv64-linux-gnu"}, "s390x": {"s390x-linux-gnu"},
}

// loader looks for shared libraries as the dynamic loader of an image would
// (ld.so(8) of glibc, and musl's ldso/dynlink.c).
type loader struct {
	tree         *tree
	musl         bool
	architecture string
	dirs         []string // that are searched for every library
	path         []string // LD_LIBRARY_PATH
	more         bool     // something depends on a layer that isn't read
}

func (c *child) newLoader(b *Binary) *loader {
	l := &loader{tree: c.tree, architecture: b.Architecture, musl: strings.HasPrefix(path.Base(b.Interpreter), "ld-musl-")}
	if p, ok := c.env("LD_LIBRARY_PATH"); ok {
		l.path = strings.FieldsFunc(p, func(r rune) bool { return r == ':' || r == ';' })
	}
	if l.musl {
		name := strings.TrimSuffix(strings.TrimPrefix(path.Base(b.Interpreter), "ld-musl-"), ".so.1")
		l.dirs = []string{"/lib", "/usr/local/lib", "/usr/lib"}
		if text := l.text("/etc/ld-musl-" + name + ".path"); text != "" {
			l.dirs = strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '\n' })
		}
		return l
	}
	l.dirs = append(libraryDirs(c.tree, b.Architecture), l.settings()...)
	return l
}

// libraryDirs are the directories that glibc and musl search without being told.
func libraryDirs(t *tree, architecture string) []string {
	dirs := []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/lib32", "/usr/lib32", "/libx32", "/usr/libx32"}
	for _, triplet := range triplets[architecture] {
		dirs = append(dirs, "/lib/"+triplet, "/usr/lib/"+triplet, "/usr/local/lib/"+triplet)
	}
	return dirs
}

func (l *loader) text(name string) string {
	h, st := l.tree.resolve(name)
	l.more = l.more || st == unknown
	if st != found || h.isDir() {
		return ""
	}
	return h.node().Text
}

// settings reads the directories in ld.so.conf and what it usually includes.
// What the image's ld.so.cache says is made from the same files.
func (l *loader) settings() []string {
	texts := []string{l.text("/etc/ld.so.conf")}
	if h, st := l.tree.resolve("/etc/ld.so.conf.d"); st == found && h.isDir() {
		l.tree.walk(h, func(h hit) { texts = append(texts, h.node().Text) })
	}
	var dirs []string
	for _, text := range texts {
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
	}
	return dirs
}

// find looks for a library that is needed by the file at from.
func (l *loader) find(name string, from hit, program *Binary) (hit, state) {
	b := from.node().Binary
	if strings.Contains(name, "/") {
		return l.tree.resolve(l.expand(name, from)[0])
	}
	var dirs []string
	if len(b.RunPath) == 0 {
		dirs = append(dirs, b.RPath...)
		dirs = append(dirs, program.RPath...)
	}
	dirs = append(dirs, l.path...)
	dirs = append(dirs, b.RunPath...)
	if l.musl {
		dirs = append(dirs, b.RPath...)
	}
	var all []string
	for _, dir := range dirs {
		all = append(all, l.expand(dir, from)...)
	}
	for _, dir := range append(all, l.dirs...) {
		h, st := l.tree.resolve(dir + "/" + name)
		switch {
		case st == unknown:
			return hit{}, unknown
		case st == found && !h.isDir() && h.node().Binary != nil && h.node().Binary.Architecture == l.architecture:
			return h, found
		}
	}
	return hit{}, absent
}

// expand replaces what ld.so(8) calls dynamic string tokens.
func (l *loader) expand(dir string, from hit) []string {
	origin := path.Dir(from.path)
	dir = strings.NewReplacer("${ORIGIN}", origin, "$ORIGIN", origin).Replace(dir)
	if !strings.Contains(dir, "$LIB") && !strings.Contains(dir, "${LIB}") {
		return []string{dir}
	}
	var dirs []string
	libs := []string{"lib", "lib64"}
	for _, triplet := range triplets[l.architecture] {
		libs = append(libs, "lib/"+triplet)
	}
	for _, lib := range libs {
		dirs = append(dirs, strings.NewReplacer("${LIB}", lib, "$LIB", lib).Replace(dir))
	}
	return dirs
}

// isMuslItself names the libraries that musl's loader is.
func isMuslItself(name string) bool {
	base, _, _ := strings.Cut(name, ".so")
	return slices.Contains([]string{"libc", "libpthread", "librt", "libm", "libdl", "libutil", "libxnet"}, base) || strings.HasPrefix(name, "libc.musl-")
}

// missing lists the libraries that a program needs and that aren't there, those
// of its libraries included.
func (l *loader) missing(program hit) []string {
	var lost []string
	seen := map[string]bool{}
	queue := []hit{program}
	for len(queue) > 0 && len(seen) < maxLibraries {
		from := queue[0]
		queue = queue[1:]
		for _, name := range from.node().Binary.Needed {
			if seen[name] || l.musl && isMuslItself(name) {
				continue
			}
			seen[name] = true
			h, st := l.find(name, from, program.node().Binary)
			switch st {
			case unknown:
				l.more = true
				return nil
			case absent:
				lost = append(lost, fmt.Sprintf("%s, needed by %s", name, from.path))
			default:
				queue = append(queue, h)
			}
		}
	}
	return lost
}

var libraryFix = []string{
	"CGO_ENABLED=0 go build ./...",
	"or take a base with the C library: --base gcr.io/distroless/base-debian13",
}

// checkLoader looks for the interpreter and the libraries of a program that
// runs at the start.
func (s *start) checkLoader(h hit) {
	b := h.node().Binary
	if b.Format != ELF || b.Interpreter == "" {
		return
	}
	at, st := s.tree.resolve(s.absolute(b.Interpreter))
	if st == unknown {
		s.more = true
		return
	}
	f := s.finding(RuleLibraries, Error, fmt.Sprintf("%s needs %s, which isn't in the image", h.path, b.Interpreter), libraryFix...)
	f.Path, f.Layer = h.path, s.layerOf(h).digest
	if st == absent || at.isDir() || at.node().Binary == nil {
		f.Seen = []string{"it is dynamic, and fails with \"no such file or directory\" at its start"}
		s.add(f)
		return
	}
	l := s.newLoader(b)
	lost := l.missing(h)
	s.more = s.more || l.more
	if l.more || len(lost) == 0 {
		return
	}
	f.Severity = Warning
	f.Summary = fmt.Sprintf("%s needs %d libraries that aren't where its loader looks", h.path, len(lost))
	if len(lost) == 1 {
		f.Summary = fmt.Sprintf("%s needs a library that isn't where its loader looks", h.path)
	}
	f.Seen = shorten(lost)
	s.add(f)
}

// rootFiles and rootDirs are where Go looks for the certificates of CAs on
// Linux (crypto/x509, root_linux.go).
var (
	rootFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	rootDirs = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// checkRoots looks for CA roots if the program may open TLS connections. Below
// the depth all it only does so if that needs no more layers.
func (s *start) checkRoots(h hit) {
	b := h.node().Binary
	if !b.TLS || s.platform.OS != "linux" {
		return
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value, _ := s.env(name); value != "" {
			return // it may be mounted when the container starts
		}
	}
	for _, name := range rootFiles {
		if at, st := s.tree.resolve(name); st == unknown || st == found && !at.isDir() && at.node().Size > 0 {
			return
		}
	}
	for _, name := range rootDirs {
		at, st := s.tree.resolve(name)
		if st == unknown {
			return
		}
		if st == found && at.isDir() {
			some := false
			s.tree.walk(at, func(hit) { some = true })
			if some {
				return
			}
		}
	}
	f := s.finding(RuleRoots, Warning, h.path+" can open TLS connections, and the image has no CA roots",
		"anyarch build --base static", "in a Dockerfile: COPY --from=alpine /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/")
	f.Path, f.Layer = h.path, s.layerOf(h).digest
	f.Seen = []string{"Go looks for " + rootFiles[0] + " and five other files, none of which is there"}
	s.add(f)
}

// shorten keeps the first lines of a long list.
func shorten(lines []string) []string {
	if len(lines) <= maxShown {
		return lines
	}
	return append(slices.Clone(lines[:maxShown]), fmt.Sprintf("and %d more", len(lines)-maxShown))
}
