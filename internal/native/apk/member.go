package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the format's own checksum, inside a signed index
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// An index and a package are gzip members one after the other (apk-v2(5)): a
// signature, for packages the control data, and the data. Each member holds a part
// of one tar; only the last part has the blocks that end a tar.

// limits of what a hostile archive may make us hold in memory, in bytes.
const (
	maxSignature = 64 << 10
	maxControl   = 16 << 20
	maxIndex     = 512 << 20
)

// byteCounter counts what a gzip reader takes from below. It is a byte reader, so
// that nothing is read beyond the end of a member.
type byteCounter struct {
	r *bufio.Reader
	n int64
}

func (c *byteCounter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *byteCounter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// member reads the gzip member at the beginning of data, of at most limit bytes
// unpacked. It gives what was packed and what follows.
func member(data []byte, limit int64) (content, raw, rest []byte, err error) {
	below := &byteCounter{r: bufio.NewReader(bytes.NewReader(data))}
	z, err := gzip.NewReader(below)
	if err != nil {
		if bytes.HasPrefix(data, []byte("ADB")) {
			return nil, nil, nil, errADB
		}
		return nil, nil, nil, fmt.Errorf("not a gzip member: %w", err)
	}
	z.Multistream(false)
	content, err = io.ReadAll(io.LimitReader(z, limit+1))
	if err != nil {
		return nil, nil, nil, err
	}
	if int64(len(content)) > limit {
		return nil, nil, nil, fmt.Errorf("more than %d bytes in it", limit)
	}
	return content, data[:below.n], data[below.n:], nil
}

// errADB is what apk-tools 3 can make instead of indexes and packages of version 2.
var errADB = errors.New("it is in the format of apk-tools 3 (ADB), which isn't supported: use a repository with APKINDEX.tar.gz")

// eachEntry reads the files of a part of a tar, which may lack its end.
func eachEntry(r io.Reader, do func(h *tar.Header, r io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && h == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(h, t); err != nil {
			return err
		}
	}
}

// signature is what a signature member holds.
type signature struct {
	hash  crypto.Hash
	key   string // file name below /etc/apk/keys
	value []byte
}

// signatures reads a signature member: .SIGN.RSA.KEY is over SHA-1, RSA256 and
// RSA512 over SHA-256 and SHA-512 (apk-v2(5)). What else there is isn't known, and
// isn't an error as long as one is.
func signatures(content []byte) ([]signature, error) {
	var list []signature
	err := eachEntry(bytes.NewReader(content), func(h *tar.Header, r io.Reader) error {
		rest, ok := strings.CutPrefix(h.Name, ".SIGN.")
		if !ok {
			return fmt.Errorf("%q is no signature", h.Name)
		}
		kind, key, _ := strings.Cut(rest, ".")
		hash, ok := map[string]crypto.Hash{"RSA": crypto.SHA1, "RSA256": crypto.SHA256, "RSA512": crypto.SHA512}[kind]
		if !ok {
			return nil
		}
		if key == "" || key != path.Base(key) || strings.HasPrefix(key, ".") {
			return fmt.Errorf("%q names no key", h.Name)
		}
		value, err := io.ReadAll(io.LimitReader(r, maxSignature))
		if err != nil {
			return err
		}
		list = append(list, signature{hash, key, value})
		return nil
	})
	return list, err
}

// keyring gives the public keys of a stage by file name.
type keyring map[string]*rsa.PublicKey

// add reads a key as /etc/apk/keys has them: PEM, a public key (RFC 5280).
func (k keyring) add(name string, data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil {
		return errors.New("it is no PEM file")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("a key of type %T, not RSA", key)
	}
	k[name] = public
	return nil
}

// verify checks the signatures of signed against the keys: one that holds is enough.
func (k keyring) verify(list []signature, signed []byte) error {
	var unknown []string
	for _, s := range list {
		key := k[s.key]
		if key == nil {
			unknown = append(unknown, s.key)
			continue
		}
		var sum []byte
		switch s.hash {
		case crypto.SHA256:
			h := sha256.Sum256(signed)
			sum = h[:]
		case crypto.SHA512:
			h := sha512.Sum512(signed)
			sum = h[:]
		default:
			h := sha1.Sum(signed) //nolint:gosec // see above
			sum = h[:]
		}
		if err := rsa.VerifyPKCS1v15(key, s.hash, sum, s.value); err != nil {
			return fmt.Errorf("BAD signature: it isn't what %s signed", s.key)
		}
		return nil
	}
	if len(unknown) > 0 {
		return fmt.Errorf("UNTRUSTED signature: /etc/apk/keys of the stage has no %s", strings.Join(unknown, ", "))
	}
	return errors.New("UNTRUSTED: it isn't signed")
}
