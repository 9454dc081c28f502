//go:build linux

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// node is a file of an image. Names that are hard links of each other share one.
type node struct {
	kind     string // file, dir, link, char, block, fifo
	mode     int64
	uid, gid int
	link     string
	device   string
	xattrs   map[string]string
	content  string // "text" in quotes if it is short, else its digest and size
}

// attributes are the words of allowed.txt and what a node says to each.
func (n *node) attributes() [][2]string {
	if n == nil {
		return nil
	}
	var xattrs []string
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, n.xattrs[k]))
	}
	return [][2]string{{"type", n.kind}, {"mode", fmt.Sprintf("%04o", n.mode)}, {"uid", fmt.Sprint(n.uid)}, {"gid", fmt.Sprint(n.gid)},
		{"link", n.link}, {"device", n.device}, {"xattrs", strings.Join(xattrs, ",")}, {"content", n.content}}
}

// listed is a node as a line of a golden listing has it.
func (n *node) listed(hardlink string) string {
	s := fmt.Sprintf("%s %04o %d:%d", n.kind, n.mode, n.uid, n.gid)
	for _, a := range n.attributes()[4:] {
		if a[1] != "" {
			s += " " + a[0] + " " + a[1]
		}
	}
	if hardlink != "" {
		s += " hardlink " + hardlink
	}
	return s
}

// result is what a builder has made: the files of an image, by absolute name, and
// its config.
type result struct {
	files  map[string]*node
	config config
	layers []digest.Digest // diff IDs
}

// hardlinks gives, for every name that has others, the first of them.
func (r *result) hardlinks() map[string]string {
	first, more := map[*node]string{}, map[*node]bool{}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		if n := r.files[name]; first[n] == "" {
			first[n] = name
		} else {
			more[n] = true
		}
	}
	links := map[string]string{}
	for name, n := range r.files {
		if more[n] {
			links[name] = first[n]
		}
	}
	return links
}

// config is what is compared of an image's config.
type config struct {
	Env, Entrypoint, Cmd  []string
	User, WorkingDir      string
	Labels                map[string]string
	ExposedPorts, Volumes map[string]struct{}
	StopSignal            string
	Healthcheck           map[string]any
	Shell, OnBuild        []string
}

// fields are the names of a config's fields and their values, those that are set.
func (c config) fields() map[string]string {
	fields := map[string]string{}
	c.Env = slices.Sorted(slices.Values(c.Env))
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String && f.Len() > 0 || f.Kind() != reflect.String && f.Len() > 0 {
			text, err := json.Marshal(f.Interface())
			if err != nil {
				panic(err)
			}
			fields[v.Type().Field(i).Name] = string(text)
		}
	}
	return fields
}

// entry is one entry of a layer, its content read.
type entry struct {
	name, target string // target: of a hard link
	node         *node
	bytes        []byte // of a file short enough to be shown
}

// images reads images. Layers that several have are read once.
type images struct {
	mu     sync.Mutex
	layers map[digest.Digest][]entry
}

// read gives the image of an OCI layout.
func (im *images) read(t *testing.T, dir string, manifest digest.Digest) *result {
	t.Helper()
	blob := func(d digest.Digest) string { return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()) }
	parse := func(d digest.Digest, into any) {
		data, err := os.ReadFile(blob(d))
		check(t, err)
		check(t, json.Unmarshal(data, into))
	}
	var m ocispec.Manifest
	parse(manifest, &m)
	var c struct {
		Config config
		RootFS ocispec.RootFS
	}
	parse(m.Config.Digest, &c)
	r := &result{files: map[string]*node{}, config: c.Config, layers: c.RootFS.DiffIDs}
	for i, l := range m.Layers {
		entries, err := im.layer(blob(l.Digest), r.layers[i])
		check(t, err)
		if err := r.apply(entries); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	return r
}

// layer reads the entries of a blob, compressed or not.
func (im *images) layer(file string, diffID digest.Digest) ([]entry, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if list, ok := im.layers[diffID]; ok {
		return list, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var in io.Reader = bufio.NewReaderSize(f, 1<<20)
	if magic, _ := in.(*bufio.Reader).Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if in, err = gzip.NewReader(in); err != nil {
			return nil, err
		}
	}
	hash := sha256.New()
	in = io.TeeReader(in, hash)
	list, err := readTar(in)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, err
	}
	if got := digest.NewDigest(digest.SHA256, hash); got != diffID {
		return nil, fmt.Errorf("its digest is %s, the config says %s", got, diffID)
	}
	if im.layers == nil {
		im.layers = map[digest.Digest][]entry{}
	}
	im.layers[diffID] = list
	return list, nil
}

func readTar(in io.Reader) ([]entry, error) {
	var list []entry
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		e := entry{name: path.Join("/", h.Name), node: &node{mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid}}
		for k, v := range h.PAXRecords {
			if k, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				if e.node.xattrs == nil {
					e.node.xattrs = map[string]string{}
				}
				e.node.xattrs[k] = v
			}
		}
		switch h.Typeflag {
		case tar.TypeReg:
			e.node.kind = "file"
			if e.node.content, e.bytes, err = contentOf(r, h.Size); err != nil {
				return nil, err
			}
		case tar.TypeDir:
			e.node.kind = "dir"
		case tar.TypeSymlink:
			e.node.kind, e.node.link, e.node.mode = "link", h.Linkname, 0o777
		case tar.TypeLink:
			e.target = path.Join("/", h.Linkname)
		case tar.TypeChar, tar.TypeBlock:
			e.node.kind = map[byte]string{tar.TypeChar: "char", tar.TypeBlock: "block"}[h.Typeflag]
			e.node.device = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		case tar.TypeFifo:
			e.node.kind = "fifo"
		default:
			return nil, fmt.Errorf("%s: type %c", h.Name, h.Typeflag)
		}
		list = append(list, e)
	}
}

// contentOf describes what a file has in it: short text as it is.
func contentOf(in io.Reader, size int64) (string, []byte, error) {
	hash := sha256.New()
	var head []byte
	if size <= 4<<10 {
		var err error
		if head, err = io.ReadAll(in); err != nil {
			return "", nil, err
		}
		if utf8.Valid(head) && !bytes.ContainsFunc(head, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\r", r) }) {
			return fmt.Sprintf("%q", head), head, nil
		}
		hash.Write(head)
	} else if _, err := io.Copy(hash, in); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("sha256:%s (%d bytes)", hex.EncodeToString(hash.Sum(nil)), size), head, nil
}

// apply puts a layer over what is there (image-spec v1.1.1, layer.md).
func (r *result) apply(entries []entry) error {
	under := func(dir string, keep map[string]bool) {
		for name := range r.files {
			if strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/") && name != "/" && !keep[name] {
				delete(r.files, name)
			}
		}
	}
	// Removals are of what the layers below have, wherever they stand in the tar.
	for _, e := range entries {
		switch dir, base := path.Split(e.name); {
		case base == ".wh..wh..opq":
			under(path.Clean(dir), nil)
		case strings.HasPrefix(base, ".wh."):
			gone := path.Join(dir, strings.TrimPrefix(base, ".wh."))
			delete(r.files, gone)
			under(gone, nil)
		}
	}
	for _, e := range entries {
		if strings.HasPrefix(path.Base(e.name), ".wh.") {
			continue
		}
		for dir := path.Dir(e.name); dir != "/"; dir = path.Dir(dir) {
			if n := r.files[dir]; n == nil {
				r.files[dir] = &node{kind: "dir", mode: 0o755}
			} else if n.kind != "dir" {
				return fmt.Errorf("%s goes through %s, which is a %s", e.name, dir, n.kind)
			}
		}
		n := e.node
		if e.target != "" {
			if n = r.files[e.target]; n == nil || n.kind == "dir" {
				return fmt.Errorf("%s is a hard link to %s, which isn't there", e.name, e.target)
			}
		}
		if old := r.files[e.name]; old != nil && (old.kind != "dir" || n.kind != "dir") {
			under(e.name, nil)
		}
		if e.name == "/etc/shadow" || e.name == "/etc/shadow-" {
			n.content = undated(n.content)
		}
		r.files[e.name] = n
	}
	return nil
}

// undated takes the day of the last change out of lines of /etc/shadow if it is today
// or the build's own, day 0: accounts that have been made say when.
func undated(text string) string {
	lines := strings.Split(text, `\n`)
	today := time.Now().Unix() / 86400
	for i, l := range lines {
		f := strings.Split(l, ":")
		if len(f) == 9 && (f[2] == "0" || f[2] == "" || f[2] == fmt.Sprint(today) || f[2] == fmt.Sprint(today-1)) {
			f[2] = "today"
			lines[i] = strings.Join(f, ":")
		}
	}
	return strings.Join(lines, `\n`)
}

// difference is one attribute that two results don't agree on.
type difference struct {
	path, attribute string // for the config: "config" and the field
	got, want       string
}

func (d difference) String() string {
	return fmt.Sprintf("%s %s: anyarch %s, expected %s", d.path, d.attribute, cmpOr(d.got, "has none"), cmpOr(d.want, "none"))
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// compare lists the differences, by path.
func compare(got, want *result) []difference {
	var list []difference
	names := map[string]bool{}
	for name := range got.files {
		names[name] = true
	}
	for name := range want.files {
		names[name] = true
	}
	gotLinks, wantLinks := got.hardlinks(), want.hardlinks()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		g, w := got.files[name], want.files[name]
		if g == nil || w == nil {
			d := difference{path: name, attribute: "exists"}
			if g != nil {
				d.got = g.listed(gotLinks[name])
			} else {
				d.want = w.listed(wantLinks[name])
			}
			list = append(list, d)
			continue
		}
		ga, wa := g.attributes(), w.attributes()
		for i := range ga {
			if ga[i][1] != wa[i][1] {
				list = append(list, difference{name, ga[i][0], ga[i][1], wa[i][1]})
			}
		}
		if gotLinks[name] != wantLinks[name] {
			list = append(list, difference{name, "hardlink", gotLinks[name], wantLinks[name]})
		}
	}
	g, w := got.config.fields(), want.config.fields()
	v := reflect.TypeFor[config]()
	for i := range v.NumField() {
		if f := v.Field(i).Name; g[f] != w[f] {
			list = append(list, difference{"config", f, g[f], w[f]})
		}
	}
	return list
}

// listing is what an image has that its base hasn't, in lines: what is new or
// changed, what is gone, and the config.
func listing(r, base *result) string {
	var b strings.Builder
	links := r.hardlinks()
	var baseLinks map[string]string
	if base == nil {
		base = &result{}
	}
	baseLinks = base.hardlinks()
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		line := r.files[name].listed(links[name])
		if old := base.files[name]; old == nil || old.listed(baseLinks[name]) != line {
			fmt.Fprintf(&b, "%q %s\n", name, line)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(base.files)) {
		if r.files[name] == nil {
			if parent := path.Dir(name); parent == "/" || r.files[parent] != nil {
				fmt.Fprintf(&b, "%q gone\n", name)
			}
		}
	}
	fields, inherited := r.config.fields(), base.config.fields()
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		if fields[f] != inherited[f] {
			fmt.Fprintf(&b, "config %s %s\n", f, fields[f])
		}
	}
	for _, f := range slices.Sorted(maps.Keys(inherited)) {
		if fields[f] == "" {
			fmt.Fprintf(&b, "config %s gone\n", f)
		}
	}
	return b.String()
}
