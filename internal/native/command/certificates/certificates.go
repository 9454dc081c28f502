// Package certificates is update-ca-certificates, as Debian and Alpine have it:
// the bundle of trusted certificates, a link for each of them, and the links named
// by hash under which OpenSSL looks for one.
//
// Sources: update-ca-certificates(8) of Debian and Alpine, openssl-rehash(1), and
// X509_NAME_hash(3) for the hash.
package certificates

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the hash that OpenSSL names links by
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

const (
	configured = "/etc/ca-certificates.conf"
	global     = "/usr/share/ca-certificates"
	local      = "/usr/local/share/ca-certificates"
	trusted    = "/etc/ssl/certs"
	bundle     = trusted + "/ca-certificates.crt"
	hooks      = "/etc/ca-certificates/update.d"
)

// Command makes update-ca-certificates.
func Command() *command.Command {
	options := command.Options{Short: "vf", Long: []string{"verbose", "fresh"}, Same: map[string]string{"verbose": "v", "fresh": "f"}}
	return &command.Command{Name: "update-ca-certificates", Check: options.Check("update-ca-certificates"), Run: func(_ context.Context, p *command.Proc) (int, error) {
		o, err := options.Parse("update-ca-certificates", p.Args[1:])
		if err != nil {
			return p.Failed(err)
		}
		return update(p, o.Has["f"])
	}}
}

// source is a certificate file that is to be trusted.
type source struct {
	file, link string // link is its name in /etc/ssl/certs
	data       []byte
}

func update(p *command.Proc, fresh bool) (int, error) {
	if _, err := p.Tree.Stat("/usr/sbin/update-ca-certificates"); err != nil {
		_, _ = fmt.Fprintln(p.Stderr, "update-ca-certificates: not found")
		return 127, nil
	}
	if children, err := p.Tree.ReadDir(hooks); err == nil {
		for _, c := range children {
			return 1, &command.Unsupported{Command: "update-ca-certificates", What: "the hook " + hooks + "/" + c.Name}
		}
	}
	alpine := p.Dialect == command.Busybox
	list, disabled, err := sources(p, alpine)
	if err != nil {
		return p.Errorf("%v", err)
	}
	attr := filetree.Attr{Mode: 0o755, ModTime: p.Now}
	if err := p.Tree.MkdirAll(trusted, attr); err != nil {
		return 1, err
	}
	before, err := p.Tree.ReadDir(trusted)
	if err != nil {
		return 1, err
	}
	want := map[string]string{}
	var all bytes.Buffer
	for _, s := range list {
		want[s.link] = s.file
		all.Write(s.data)
		if len(s.data) > 0 && s.data[len(s.data)-1] != '\n' {
			all.WriteByte('\n')
		}
	}
	// Links that lead nowhere, or to what is no longer wanted, go.
	for _, c := range before {
		name := trusted + "/" + c.Name
		a, err := p.Tree.Lstat(name)
		if err != nil {
			return 1, err
		}
		if !a.IsSymlink() {
			continue
		}
		target := path.Join(trusted, a.Link)
		if strings.HasPrefix(a.Link, "/") {
			target = path.Clean(a.Link)
		}
		_, err = p.Tree.Stat(name)
		ours := strings.HasPrefix(target, global+"/") || strings.HasPrefix(target, local+"/")
		if err != nil || fresh || ours && (want[c.Name] != target || disabled[target]) {
			if err := p.Tree.Remove(name); err != nil {
				return 1, err
			}
		}
	}
	added := 0
	for _, s := range list {
		name := trusted + "/" + s.link
		if a, err := p.Tree.Lstat(name); err == nil {
			if a.IsSymlink() && a.Link == s.file {
				continue
			}
			if err := p.Tree.RemoveAll(name); err != nil {
				return 1, err
			}
		}
		added++
		if err := p.Tree.Symlink(s.file, name, filetree.Attr{ModTime: p.Now}); err != nil {
			return 1, err
		}
	}
	if old, err := p.Tree.ReadFile(bundle); err != nil || !bytes.Equal(old, all.Bytes()) {
		if err := p.Tree.WriteFile(bundle, filetree.Bytes(bytes.Clone(all.Bytes())).Content(), filetree.Attr{Mode: 0o644, ModTime: p.Now}); err != nil {
			return 1, err
		}
	}
	if err := rehash(p); err != nil {
		return 1, err
	}
	if !alpine {
		_, _ = fmt.Fprintf(p.Stdout, "Updating certificates in /etc/ssl/certs...\n%d added, 0 removed; done.\nRunning hooks in /etc/ca-certificates/update.d...\ndone.\n", added)
	}
	return 0, nil
}

// sources finds the certificates: those that the configuration lists, then those of
// the administrator.
func sources(p *command.Proc, alpine bool) (list []source, disabled map[string]bool, err error) {
	disabled = map[string]bool{}
	add := func(file string) error {
		data, err := p.Tree.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			_, _ = fmt.Fprintf(p.Stderr, "W: %s not found, but listed in %s.\n", file, configured)
			return nil
		}
		if err != nil {
			return err
		}
		if n := strings.Count(string(data), "-----BEGIN "); n != 1 && alpine {
			_, _ = fmt.Fprintf(p.Stderr, "WARNING: %s does not contain exactly one certificate or CRL: skipping\n", path.Base(file))
			return nil
		}
		base := strings.TrimSuffix(path.Base(file), ".crt")
		base = strings.NewReplacer(" ", "_", "(", "=", ")", "=", ",", "_").Replace(base)
		if alpine {
			base = "ca-cert-" + base
		}
		list = append(list, source{file, base + ".pem", data})
		return nil
	}
	data, err := p.Tree.ReadFile(configured)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '!':
			disabled[global+"/"+line[1:]] = true
		default:
			if err := add(global + "/" + line); err != nil {
				return nil, nil, err
			}
		}
	}
	var own []string
	err = p.Tree.Walk(local, func(name string, a filetree.Attr) error {
		if strings.HasSuffix(name, ".crt") {
			if b, err := p.Tree.Stat(name); err == nil && b.IsRegular() {
				own = append(own, name)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	slices.Sort(own)
	for _, name := range own {
		if alpine && path.Dir(name) != local {
			continue // Alpine's looks at the directory itself only
		}
		if err := add(name); err != nil {
			return nil, nil, err
		}
	}
	return list, disabled, nil
}

// rehash makes the links HASH.N to the files of the directory, as openssl rehash
// does.
func rehash(p *command.Proc) error {
	children, err := p.Tree.ReadDir(trusted)
	if err != nil {
		return err
	}
	wanted := map[string]string{}
	next := map[string]int{}
	seen := map[string]bool{}
	for _, c := range children {
		ext := path.Ext(c.Name)
		if ext != ".pem" && ext != ".crt" && ext != ".cer" && ext != ".crl" || c.Name == path.Base(bundle) {
			continue
		}
		data, err := p.Tree.ReadFile(trusted + "/" + c.Name)
		if err != nil {
			continue // a link that leads nowhere
		}
		block, rest := pem.Decode(data)
		if block == nil || !strings.HasSuffix(block.Type, "CERTIFICATE") {
			continue
		}
		if more, _ := pem.Decode(rest); more != nil {
			continue // openssl rehash skips files with several
		}
		hash, err := NameHash(block.Bytes)
		if err != nil {
			_, _ = fmt.Fprintf(p.Stderr, "rehash: warning: skipping %s, it can't be read: %v\n", c.Name, err)
			continue
		}
		if key := hash + string(block.Bytes); seen[key] {
			_, _ = fmt.Fprintf(p.Stderr, "rehash: warning: skipping duplicate certificate in %s\n", c.Name)
			continue
		} else {
			seen[key] = true
		}
		wanted[fmt.Sprintf("%s.%d", hash, next[hash])] = c.Name
		next[hash]++
	}
	for _, c := range children {
		if !isHash(c.Name) || wanted[c.Name] != "" {
			continue
		}
		if a, err := p.Tree.Lstat(trusted + "/" + c.Name); err == nil && a.IsSymlink() {
			if err := p.Tree.Remove(trusted + "/" + c.Name); err != nil {
				return err
			}
		}
	}
	for name, target := range wanted {
		full := trusted + "/" + name
		if a, err := p.Tree.Lstat(full); err == nil {
			if a.IsSymlink() && a.Link == target {
				continue
			}
			if err := p.Tree.Remove(full); err != nil {
				return err
			}
		}
		if err := p.Tree.Symlink(target, full, filetree.Attr{ModTime: p.Now}); err != nil {
			return err
		}
	}
	return nil
}

// isHash reports whether a name is one of the links: eight hexadecimal digits, a
// dot and a number.
func isHash(name string) bool {
	hash, n, ok := strings.Cut(name, ".")
	return ok && len(hash) == 8 && strings.Trim(hash, "0123456789abcdef") == "" && n != "" && strings.Trim(n, "0123456789") == ""
}

// NameHash is the hash of a certificate's subject by which OpenSSL finds it:
// X509_NAME_hash(3), the first four bytes, little-endian, of the SHA-1 of the name
// in its canonical form. der is the certificate.
func NameHash(der []byte) (string, error) {
	cert, err := x509.ParseCertificate(der)
	var subject []byte
	if err == nil {
		subject = cert.RawSubject
	} else if subject, err = rawSubject(der); err != nil {
		return "", err
	}
	canonical, err := canonicalName(subject)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(canonical) //nolint:gosec // see above
	return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(sum[:4])), nil
}

// rawSubject finds the subject of a certificate that crypto/x509 doesn't take (old
// ones with a negative serial number, for one).
func rawSubject(der []byte) ([]byte, error) {
	var certificate, tbs asn1.RawValue
	if _, err := asn1.Unmarshal(der, &certificate); err != nil {
		return nil, err
	}
	if _, err := asn1.Unmarshal(certificate.Bytes, &tbs); err != nil {
		return nil, err
	}
	// version (optional), serial, algorithm, issuer, validity, subject
	rest, field := tbs.Bytes, asn1.RawValue{}
	for i := 0; i < 6; i++ {
		var err error
		if rest, err = asn1.Unmarshal(rest, &field); err != nil {
			return nil, err
		}
		if i == 0 && field.Class != asn1.ClassContextSpecific {
			i++
		}
	}
	return field.FullBytes, nil
}

// canonicalName writes a name as x509_name_canon of OpenSSL does: every string in
// UTF-8, in lower case, with single spaces; the sets one after the other.
func canonicalName(der []byte) ([]byte, error) {
	var name asn1.RawValue
	if _, err := asn1.Unmarshal(der, &name); err != nil {
		return nil, err
	}
	var out []byte
	for rest := name.Bytes; len(rest) > 0; {
		var set asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &set); err != nil {
			return nil, err
		}
		var content []byte
		for inner := set.Bytes; len(inner) > 0; {
			var attribute struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			if inner, err = asn1.Unmarshal(inner, &attribute); err != nil {
				return nil, err
			}
			if text, ok := stringOf(attribute.Value); ok {
				attribute.Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(fold(text))}
			}
			one, err := asn1.Marshal(attribute)
			if err != nil {
				return nil, err
			}
			content = append(content, one...)
		}
		packed, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: content})
		if err != nil {
			return nil, err
		}
		out = append(out, packed...)
	}
	return out, nil
}

// stringOf converts the types of strings that OpenSSL canonicalises (ASN1_MASK_CANON).
func stringOf(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, 26: // VisibleString
		return string(v.Bytes), true
	case asn1.TagT61String:
		runes := make([]rune, len(v.Bytes))
		for i, b := range v.Bytes {
			runes[i] = rune(b)
		}
		return string(runes), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(v.Bytes[2*i:])
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// fold lowers ASCII letters and makes runs of white space one space.
func fold(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '\t' || r == '\n' || r == '\v' || r == '\f' || r == '\r':
			return ' '
		}
		return r
	}, s)
	s = strings.Trim(s, " ")
	for strings.Contains(s, "  ") {
		s = strings.ReplaceAll(s, "  ", " ")
	}
	return s
}
