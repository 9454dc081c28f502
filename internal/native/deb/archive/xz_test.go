package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/debtest"
)

func unxz(b []byte) ([]byte, error) {
	return io.ReadAll(newXZReader(bufio.NewReader(bytes.NewReader(b))))
}

// sample is text that compresses somewhat.
func sample(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnop"[random.IntN(16)]
		if i > 100 && random.IntN(3) > 0 {
			b[i] = b[i-100]
		}
	}
	return b
}

// TestXZ reads what xz writes with all that it can vary.
func TestXZ(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz isn't on this host")
	}
	for _, args := range []string{
		"-0", "-6", "-6e", "--check=none", "--check=crc32", "--check=crc64", "--check=sha256", "--block-size=10000", "-T2 --block-size=50000", "--lzma2=dict=4KiB",
	} {
		for _, size := range []int{0, 1, 300_000} {
			plain := sample(size)
			cmd := exec.Command("xz", append(strings.Fields(args), "-c")...)
			cmd.Stdin = bytes.NewReader(plain)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatalf("xz %s: %v", args, err)
			}
			got, err := unxz(packed)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("xz %s of %d bytes: %d bytes, %v", args, size, len(got), err)
			}
			// Two streams with padding between and after them are one file.
			two := append(append(append(bytes.Clone(packed), 0, 0, 0, 0), packed...), make([]byte, 8)...)
			got, err = unxz(two)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(append(bytes.Clone(plain), plain...)) {
				t.Errorf("xz %s of %d bytes, twice: %d bytes, %v", args, size, len(got), err)
			}
		}
	}
}

// TestXZDamage changes every byte of a file: none may change what is read without
// an error. That of a control byte of LZMA2 may change nothing.
func TestXZDamage(t *testing.T) {
	t.Parallel()
	plain := sample(3000)
	packed := debtest.XZ(t, plain)
	for i := range packed {
		bad := bytes.Clone(packed)
		bad[i] ^= 0x10
		if got, err := unxz(bad); err == nil && !bytes.Equal(got, plain) {
			t.Errorf("damage at %d of %d went unnoticed", i, len(packed))
		}
	}
	for i := range packed {
		if _, err := unxz(packed[:i]); err == nil {
			t.Errorf("an end after %d of %d bytes went unnoticed", i, len(packed))
		}
	}
	if _, err := unxz(append(bytes.Clone(packed), "garbage"...)); err == nil {
		t.Error("garbage after the end went unnoticed")
	}
}

// TestXZDictionary asks for 4 GiB of memory, which must not be given.
func TestXZDictionary(t *testing.T) {
	t.Parallel()
	packed := debtest.XZ(t, []byte("hello"))
	header := packed[12 : 12+(int(packed[12])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1})
	header[at+2] = 40
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
	if _, err := unxz(packed); err == nil || err.Error() != "xz: it takes 4096 MiB of memory to decompress it; at most 128 are given" {
		t.Errorf("error %v", err)
	}
}

func FuzzXZ(f *testing.F) {
	f.Add(debtest.XZ(f, []byte("hello")))
	f.Add(debtest.XZ(f, sample(1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := io.Copy(io.Discard, io.LimitReader(newXZReader(bufio.NewReader(bytes.NewReader(b))), 1<<24))
		if errors.Is(err, io.EOF) {
			t.Error("the end of the file as an error")
		}
	})
}
