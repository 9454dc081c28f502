// Package apktest makes signed packages and repositories of Alpine's format, and
// bases that use them, for tests.
package apktest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the format's own checksum
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is a file of a package. Its type is that of Mode.
type File struct {
	Name       string // without a leading slash
	Mode       fs.FileMode
	Data, Link string
	HardLink   string
	User       string
	Raw        func(*tar.Header) // changes the header last, for hostile packages
}

// Package is one package.
type Package struct {
	Name, Version, Arch                    string
	Depends, Provides, Replaces, InstallIf []string
	Triggers                               []string
	ReplacesPriority, ProviderPriority     int
	Files                                  []File
	Scripts                                map[string]string
	Origin                                 string
	Tamper                                 func(control, data []byte) (newControl, newData []byte) // after everything was hashed
}

// Key signs repositories.
type Key struct {
	Name    string // file name below /etc/apk/keys
	private *rsa.PrivateKey
	Hash    crypto.Hash // SHA1 unless told otherwise
}

// NewKey makes a key.
func NewKey(name string) (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	return &Key{Name: name, private: private, Hash: crypto.SHA1}, err
}

// Public is the file for /etc/apk/keys.
func (k *Key) Public() []byte {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		panic(err) // an RSA key can always be written
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// sign makes a signature member over raw bytes.
func (k *Key) sign(raw []byte) ([]byte, error) {
	kind, sum := "RSA", []byte(nil)
	switch k.Hash {
	case crypto.SHA256:
		h := sha256.Sum256(raw)
		kind, sum = "RSA256", h[:]
	case crypto.SHA512:
		h := sha512.Sum512(raw)
		kind, sum = "RSA512", h[:]
	default:
		h := sha1.Sum(raw) //nolint:gosec // see above
		sum = h[:]
	}
	value, err := rsa.SignPKCS1v15(rand.Reader, k.private, k.Hash, sum)
	if err != nil {
		return nil, err
	}
	return pack(false, entry{&tar.Header{Name: ".SIGN." + kind + "." + k.Name, Mode: 0o644, Typeflag: tar.TypeReg}, value})
}

type entry struct {
	header *tar.Header
	data   []byte
}

// pack makes a gzip member with a part of a tar; end says that it is the last.
func pack(end bool, list ...entry) ([]byte, error) {
	var plain bytes.Buffer
	t := tar.NewWriter(&plain)
	for _, e := range list {
		e.header.Size = int64(len(e.data))
		if err := t.WriteHeader(e.header); err != nil {
			return nil, err
		}
		if _, err := t.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	if end {
		if err := t.Close(); err != nil {
			return nil, err
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		return nil, err
	}
	err := z.Close()
	return packed.Bytes(), err
}

// Built is a package as a file, with its lines of an index.
type Built struct {
	File  []byte
	Index string
}

// Build makes the file of a package, signed by key unless that is nil.
func (p *Package) Build(key *Key) (*Built, error) {
	var files []entry
	var size int
	for _, f := range p.Files {
		h := &tar.Header{Name: f.Name, Mode: int64(f.Mode.Perm()), ModTime: time.Unix(1700000000, 0), Format: tar.FormatPAX, Uname: "root", Gname: "root", PAXRecords: map[string]string{}}
		if f.User != "" {
			h.Uname, h.Gname = f.User, f.User
		}
		if f.Mode&fs.ModeSetuid != 0 {
			h.Mode |= 0o4000
		}
		if f.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		var data []byte
		switch {
		case f.Mode.IsDir():
			h.Typeflag = tar.TypeDir
			h.Name += "/"
		case f.Mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
			sum := sha1.Sum([]byte(f.Link)) //nolint:gosec // see above
			h.PAXRecords["APK-TOOLS.checksum.SHA1"] = hex.EncodeToString(sum[:])
		case f.HardLink != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.HardLink
		default:
			h.Typeflag = tar.TypeReg
			data = []byte(f.Data)
			sum := sha1.Sum(data) //nolint:gosec // see above
			h.PAXRecords["APK-TOOLS.checksum.SHA1"] = hex.EncodeToString(sum[:])
			size += len(data)
		}
		if f.Raw != nil {
			f.Raw(h)
		}
		files = append(files, entry{h, data})
	}
	data, err := pack(true, files...)
	if err != nil {
		return nil, err
	}
	datahash := sha256.Sum256(data)
	origin := p.Origin
	if origin == "" {
		origin = p.Name
	}
	var info strings.Builder
	fmt.Fprintf(&info, "# made by a test\npkgname = %s\npkgver = %s\npkgdesc = %s for tests\nurl = https://example.com\nbuilddate = 1700000000\nsize = %d\narch = %s\norigin = %s\nlicense = MIT\n",
		p.Name, p.Version, p.Name, size, p.Arch, origin)
	lines := func(name string, list []string) {
		for _, v := range list {
			fmt.Fprintf(&info, "%s = %s\n", name, v)
		}
	}
	lines("depend", p.Depends)
	lines("provides", p.Provides)
	lines("replaces", p.Replaces)
	lines("install_if", p.InstallIf)
	if len(p.Triggers) > 0 {
		fmt.Fprintf(&info, "triggers = %s\n", strings.Join(p.Triggers, " "))
	}
	if p.ReplacesPriority != 0 {
		fmt.Fprintf(&info, "replaces_priority = %d\n", p.ReplacesPriority)
	}
	if p.ProviderPriority != 0 {
		fmt.Fprintf(&info, "provider_priority = %d\n", p.ProviderPriority)
	}
	fmt.Fprintf(&info, "datahash = %s\n", hex.EncodeToString(datahash[:]))
	control := []entry{{&tar.Header{Name: ".PKGINFO", Mode: 0o644, Typeflag: tar.TypeReg}, []byte(info.String())}}
	for _, name := range []string{"pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-deinstall", "post-deinstall", "trigger"} {
		if text, ok := p.Scripts[name]; ok {
			control = append(control, entry{&tar.Header{Name: "." + name, Mode: 0o755, Typeflag: tar.TypeReg}, []byte(text)})
		}
	}
	controlMember, err := pack(false, control...)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(controlMember) //nolint:gosec // see above
	if p.Tamper != nil {
		controlMember, data = p.Tamper(controlMember, data)
	}
	var signature []byte
	if key != nil {
		if signature, err = key.sign(controlMember); err != nil {
			return nil, err
		}
	}
	b := &Built{File: slices.Concat(signature, controlMember, data)}
	var index strings.Builder
	fmt.Fprintf(&index, "C:Q1%s\nP:%s\nV:%s\nA:%s\nS:%d\nI:%d\nT:%s for tests\nU:https://example.com\nL:MIT\no:%s\nt:1700000000\n",
		base64.StdEncoding.EncodeToString(sum[:]), p.Name, p.Version, p.Arch, len(b.File), size, p.Name, origin)
	if p.ProviderPriority != 0 {
		fmt.Fprintf(&index, "k:%d\n", p.ProviderPriority)
	}
	for _, l := range []struct {
		letter string
		list   []string
	}{{"D", p.Depends}, {"p", p.Provides}, {"i", p.InstallIf}} {
		if len(l.list) > 0 {
			fmt.Fprintf(&index, "%s:%s\n", l.letter, strings.Join(l.list, " "))
		}
	}
	b.Index = index.String()
	return b, nil
}

// Index makes a signed APKINDEX.tar.gz; unsigned without a key.
func Index(key *Key, stanzas string) ([]byte, error) {
	content, err := pack(true, entry{&tar.Header{Name: "DESCRIPTION", Mode: 0o644, Typeflag: tar.TypeReg}, []byte("test")},
		entry{&tar.Header{Name: "APKINDEX", Mode: 0o644, Typeflag: tar.TypeReg}, []byte(stanzas)})
	if err != nil || key == nil {
		return content, err
	}
	signature, err := key.sign(content)
	return slices.Concat(signature, content), err
}

// WriteRepository writes packages and their index below dir/ARCH.
func WriteRepository(dir string, key *Key, packages ...Package) error {
	stanzas := map[string]*strings.Builder{}
	for _, p := range packages {
		b, err := p.Build(key)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, p.Arch), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.Arch, p.Name+"-"+p.Version+".apk"), b.File, 0o644); err != nil {
			return err
		}
		if stanzas[p.Arch] == nil {
			stanzas[p.Arch] = &strings.Builder{}
		}
		stanzas[p.Arch].WriteString(b.Index + "\n")
	}
	for arch, text := range stanzas {
		index, err := Index(key, text.String())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, arch, "APKINDEX.tar.gz"), index, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Dirs are the directories above files, as packages have them.
func Dirs(names ...string) []File {
	var list []File
	for _, name := range names {
		for at := name; at != "."; at = path.Dir(at) {
			if !slices.ContainsFunc(list, func(f File) bool { return f.Name == at }) {
				list = append(list, File{Name: at, Mode: fs.ModeDir | 0o755})
			}
		}
	}
	slices.SortFunc(list, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Private is the key for another tool, PEM (PKCS #1).
func (k *Key) Private() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.private)})
}

// Stanza makes the lines of an index for a package file that another tool has made.
func Stanza(file []byte) (string, error) {
	var members [][]byte
	for rest := file; len(rest) > 0; {
		r := bytes.NewReader(rest)
		z, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		z.Multistream(false)
		if _, err := io.Copy(io.Discard, z); err != nil {
			return "", err
		}
		n := len(rest) - r.Len()
		members, rest = append(members, rest[:n]), rest[n:]
	}
	if len(members) < 2 {
		return "", fmt.Errorf("%d members", len(members))
	}
	control := members[len(members)-2]
	z, err := gzip.NewReader(bytes.NewReader(control))
	if err != nil {
		return "", err
	}
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if err != nil {
			return "", err
		}
		if h.Name != ".PKGINFO" {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return "", err
		}
		values := map[string][]string{}
		for line := range strings.Lines(string(data)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
				values[k] = append(values[k], v)
			}
		}
		sum := sha1.Sum(control) //nolint:gosec // see above
		text := fmt.Sprintf("C:Q1%s\nP:%s\nV:%s\nA:%s\nS:%d\n", base64.StdEncoding.EncodeToString(sum[:]), values["pkgname"][0], values["pkgver"][0], values["arch"][0], len(file))
		if list := values["depend"]; len(list) > 0 {
			text += "D:" + strings.Join(list, " ") + "\n"
		}
		if list := values["provides"]; len(list) > 0 {
			text += "p:" + strings.Join(list, " ") + "\n"
		}
		return text, nil
	}
}
